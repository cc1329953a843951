//! What a virtual machine is told about the module in it: the VM configuration, which a swap writes anew each time.

use super::keys::Keys;
use super::{ConfigError, Result};
use crate::time::Duration;

/// Which module this is, and since when it is the one for new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// A name for the module's bytes, such as the beginning of their hash: a module cannot know its own.
    pub module: Box<str>,
    /// Milliseconds since 1970: of two releases of a filter the later one serves.
    pub since: u64,
    /// Over which time the connections of earlier releases end; `None` leaves them alone.
    pub drain: Option<Duration>,
}

impl Release {
    /// Reads a VM configuration. None is a module that nobody swaps.
    ///
    /// # Errors
    /// When it is not JSON, or a key is unknown or has a wrong value.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let mut keys = Keys::top(json)?;
        let module = keys.text("module")?.unwrap_or_else(|| "unnamed".to_owned());
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=64).contains(&module.len()) || !module.bytes().all(is_name) {
            return Err(ConfigError::new("module", "expected 1 to 64 letters, digits, - and _"));
        }
        let release = Self {
            module: module.into(),
            since: keys.number("since", 0, LATEST)?.unwrap_or_default(),
            drain: keys.number("drain", 1, LONGEST_DRAIN)?.map(Duration::from_secs),
        };
        keys.finish()?;
        Ok(release)
    }
}

/// What a JSON number holds exactly.
const LATEST: u64 = 1 << 53;
/// A week, in seconds.
const LONGEST_DRAIN: u64 = 7 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> String {
        Release::from_json(json.as_bytes()).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn what_is_not_said_is_a_module_that_nobody_swaps() {
        let unnamed = Release { module: "unnamed".into(), since: 0, drain: None };
        assert_eq!(Release::from_json(b""), Ok(unnamed));
    }

    #[test]
    fn all_is_said() {
        let json = br#"{"module": "3f9c1a2b44d0", "since": 1764134400123, "drain": 60}"#;
        let drain = Some(Duration::from_secs(60));
        assert_eq!(
            Release::from_json(json),
            Ok(Release { module: "3f9c1a2b44d0".into(), since: 1_764_134_400_123, drain })
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        assert_eq!(
            problem(r#"{"module": "a.b"}"#),
            "configuration key `module`: expected 1 to 64 letters, digits, - and _"
        );
        assert_eq!(
            problem(r#"{"drain": 0}"#),
            "configuration key `drain`: expected a whole number from 1 to 604800"
        );
        assert_eq!(problem(r#"{"speed": 1}"#), "configuration key `speed`: is no key");
    }
}
