//! stub
/// The validated plugin configuration.
pub struct Config { pub(crate) mode: ConnectMode }
/// When the upstream connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectMode { Lazy, Eager }
impl Config {
    /// Parses and validates the JSON Envoy hands over; the error names the key's path and what was expected.
    pub fn from_json(_json: &[u8]) -> Result<Self, ConfigError> { Ok(Self { mode: ConnectMode::Lazy }) }
    /// See [`ConnectMode`].
    pub fn connect_mode(&self) -> ConnectMode { self.mode }
}
/// What is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigError(String);
impl core::fmt::Display for ConfigError { fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.write_str(&self.0) } }
