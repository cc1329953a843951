//! The plugin configuration: what Envoy hands over as JSON, and the validated [`Config`] it becomes.
//!
//! The only place that knows serde. Keys have RabbitMQ's names where RabbitMQ has them, and its defaults.

use core::fmt;
use std::rc::Rc;

use serde::Deserialize;

use crate::secret::Secret;
use crate::time::Duration;
use crate::topic::TopicMapping;
use crate::{amqp, mqtt};

/// A validated configuration. No `Debug`: it holds passwords.
pub struct Config {
    /// When Envoy connects to the broker.
    pub connect_mode: ConnectMode,
    /// An Envoy cluster that sends back what it is sent: refusals go there and never reach the broker. Lazy mode only.
    pub local_reply_cluster: Option<Rc<str>>,
    /// How the AMQP login is written.
    pub login: Login,
    /// Who a client without credentials is; `None` when there is no such client.
    pub anonymous: Option<Credentials>,
    /// Users who may only come from a loopback address.
    pub loopback_users: Box<[Box<str>]>,
    /// The virtual host of a client that names none.
    pub vhost: ShortText,
    /// Whether `vhost:user` in a user name is taken as it stands.
    pub ignore_colons_in_username: bool,
    /// The topic exchange.
    pub exchange: ShortText,
    /// Topics to keys.
    pub topic_mapping: TopicMapping,
    /// What all names of queues start with, so that RabbitMQ's own plugin can serve beside us.
    pub queue_prefix: Box<str>,
    /// How long a persistent session outlives its connection; `None` is for ever.
    pub subscription_ttl: Option<Duration>,
    /// The most messages that wait for a client at QoS 0; then the oldest goes.
    pub qos0_max_length: u32,
    /// How often a will at the broker is renewed: well within the broker's `consumer_timeout`.
    pub will_refresh: Duration,
    /// What becomes of a client whose PUBLISH the broker does not permit.
    pub on_unauthorized: OnUnauthorized,
    /// Whether messages are retained; else clients' RETAIN bits are passed over.
    pub retained: bool,
    /// Unacknowledged QoS 1 deliveries per client, 1 to 65535.
    pub prefetch: u16,
    /// Budgets and deadlines.
    pub limits: Limits,
    /// Seconds between AMQP heartbeats; 0 is off. A broker notices that our host is dead, and sends the wills it holds for us,
    /// after about two.
    pub heartbeat: u16,
}

/// Budgets and deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// User name and password together, in bytes.
    pub max_credentials_size: usize,
    /// Largest CONNECT, in bytes.
    pub max_packet_size_unauthenticated: u32,
    /// Largest packet behind it, in bytes.
    pub max_packet_size_authenticated: u32,
    /// Largest AMQP frame we propose, in bytes.
    pub frame_max: u32,
    /// Largest payload that is retained, in bytes.
    pub retained_max_size: u32,
    /// From the connection's start to CONNACK.
    pub login_timeout: Duration,
}

/// When Envoy connects to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectMode {
    /// When the filter has something to say, so that with a `local_reply_cluster` a refused client never reaches the broker.
    /// Needs `tcp_proxy`'s `upstream_connect_mode: ON_DOWNSTREAM_DATA`.
    #[default]
    Lazy,
    /// When the client connects.
    Eager,
}

/// How the AMQP login is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// All at once: one round trip from CONNECT to CONNACK.
    #[default]
    Pipelined,
    /// Each step after the broker's answer to the one before.
    Sequential,
}

/// What becomes of a client whose PUBLISH is not permitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnauthorized {
    /// Its connection is closed.
    #[default]
    Disconnect,
    /// The message is dropped, and acknowledged as if it were not.
    Drop,
}

/// A user name and its password.
pub struct Credentials {
    /// The user.
    pub username: Box<str>,
    /// The password.
    pub password: Secret,
}

/// Text of at most 255 bytes: an AMQP short string.
#[derive(Clone)]
pub struct ShortText(Box<str>);

impl ShortText {
    /// `None` when `text` is longer.
    pub fn new(text: &str) -> Option<Self> {
        amqp::ShortStr::new(text.as_bytes()).map(|_| Self(text.into()))
    }

    /// As the AMQP codec takes it.
    pub fn as_short(&self) -> amqp::ShortStr<'_> {
        amqp::ShortStr::new(self.0.as_bytes()).unwrap_or(amqp::ShortStr::EMPTY)
    }

    /// As text.
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is wrong with a configuration: the key's path, and what was expected there. Holds no value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    problem: String,
}

/// The keys as they are written.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    connect_mode: ConnectMode,
    local_reply_cluster: Option<String>,
    login: Login,
    allow_anonymous: bool,
    default_user: String,
    default_pass: String,
    loopback_users: Vec<String>,
    vhost: String,
    ignore_colons_in_username: bool,
    exchange: String,
    topic_mapping: RawTopicMapping,
    sparkplug: bool,
    queue_prefix: String,
    subscription_ttl: Ttl,
    qos0_max_length: Number,
    will_refresh: Number,
    on_unauthorized: OnUnauthorized,
    retained: bool,
    retained_max_size: Number,
    prefetch: Number,
    login_timeout: Number,
    max_credentials_size: Number,
    max_packet_size_unauthenticated: Number,
    max_packet_size_authenticated: Number,
    frame_max: Number,
    heartbeat: Number,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawTopicMapping {
    #[default]
    Rabbitmq,
    Reversible,
}

/// An integer. A protobuf `Struct` knows only floating point, so Envoy writes 10 as 10.0 or 1e+01 when it likes.
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
struct Number(f64);

/// RabbitMQ's `subscription_ttl`: milliseconds or `undefined`.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected a number of milliseconds or \"undefined\"")]
enum Ttl {
    Milliseconds(Number),
    Word(Undefined),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Undefined {
    Undefined,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            connect_mode: ConnectMode::default(),
            local_reply_cluster: None,
            login: Login::default(),
            allow_anonymous: true,
            default_user: "guest".into(),
            default_pass: "guest".into(),
            loopback_users: vec!["guest".into()],
            vhost: "/".into(),
            ignore_colons_in_username: false,
            exchange: "amq.topic".into(),
            topic_mapping: RawTopicMapping::default(),
            sparkplug: false,
            queue_prefix: String::new(),
            subscription_ttl: Ttl::Milliseconds(Number(86_400_000.0)),
            qos0_max_length: Number(10_000.0),
            will_refresh: Number(900_000.0),
            on_unauthorized: OnUnauthorized::default(),
            retained: true,
            retained_max_size: Number(65_536.0),
            prefetch: Number(10.0),
            login_timeout: Number(10_000.0),
            max_credentials_size: Number(3_584.0),
            max_packet_size_unauthenticated: Number(65_536.0),
            max_packet_size_authenticated: Number(16_777_216.0),
            frame_max: Number(131_072.0),
            heartbeat: Number(30.0),
        }
    }
}

impl Config {
    /// Parses and validates the JSON of a plugin configuration; no bytes at all are `{}`.
    ///
    /// # Errors
    /// Names the first key that is unknown or has a wrong value.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        // serde would take a sequence for a struct, too.
        let json = match json.trim_ascii() {
            b"" => b"{}",
            object @ [b'{', ..] => object,
            _ => {
                return Err(ConfigError::new(
                    ".",
                    "expected a JSON object in a StringValue (a Struct arrives as protobuf)",
                ));
            }
        };
        let mut json = serde_json::Deserializer::from_slice(json);
        let raw: RawConfig = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            let path = e.path().to_string();
            let problem =
                if path == "default_pass" { "expected a string".into() } else { shape_problem(e.inner()) };
            ConfigError::new(&path, problem)
        })?;
        json.end().map_err(|e| ConfigError::new(".", e.to_string()))?;
        Self::try_from(raw)
    }
}

/// serde_json says where in the text; the text is Envoy's own, so the position helps nobody.
fn shape_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let local_reply_cluster = match raw.local_reply_cluster {
            Some(name) if name.is_empty() => {
                return Err(ConfigError::new("local_reply_cluster", "expected the name of a cluster"));
            }
            name => name.map(Rc::from),
        };
        if raw.allow_anonymous && raw.default_user.is_empty() {
            return Err(ConfigError::new(
                "default_user",
                "expected a user name, since allow_anonymous is true",
            ));
        }
        Ok(Self {
            connect_mode: raw.connect_mode,
            local_reply_cluster,
            login: raw.login,
            anonymous: raw.allow_anonymous.then(|| Credentials {
                username: raw.default_user.into(),
                password: Secret::new(raw.default_pass.as_bytes()),
            }),
            loopback_users: raw.loopback_users.into_iter().map(Box::from).collect(),
            vhost: short("vhost", &raw.vhost)?,
            ignore_colons_in_username: raw.ignore_colons_in_username,
            exchange: short("exchange", &raw.exchange)?,
            topic_mapping: match (raw.topic_mapping, raw.sparkplug) {
                (RawTopicMapping::Rabbitmq, false) => TopicMapping::Rabbitmq,
                (RawTopicMapping::Rabbitmq, true) => TopicMapping::Sparkplug,
                (RawTopicMapping::Reversible, false) => TopicMapping::Reversible,
                (RawTopicMapping::Reversible, true) => {
                    return Err(ConfigError::new(
                        "sparkplug",
                        "expected false with a reversible topic_mapping, which keeps Sparkplug's topics as they are",
                    ));
                }
            },
            queue_prefix: match raw.queue_prefix {
                prefix if prefix.len() <= 64 => prefix.into(),
                _ => return Err(ConfigError::new("queue_prefix", "expected at most 64 bytes")),
            },
            subscription_ttl: match raw.subscription_ttl {
                // What RabbitMQ takes for x-expires: above it is its largest timer.
                Ttl::Milliseconds(ms) => {
                    Some(Duration::from_millis(ms.within("subscription_ttl", 1, u64::from(u32::MAX))?))
                }
                Ttl::Word(Undefined::Undefined) => None,
            },
            qos0_max_length: raw.qos0_max_length.within("qos0_max_length", 1, u64::from(u32::MAX))? as u32,
            will_refresh: Duration::from_millis(raw.will_refresh.within("will_refresh", 100, 86_400_000)?),
            on_unauthorized: raw.on_unauthorized,
            retained: raw.retained,
            prefetch: raw.prefetch.within("prefetch", 1, u64::from(u16::MAX))? as u16,
            limits: Limits {
                max_credentials_size: raw.max_credentials_size.within("max_credentials_size", 1, 65_535)?
                    as usize,
                max_packet_size_unauthenticated: raw.max_packet_size_unauthenticated.within(
                    "max_packet_size_unauthenticated",
                    128,
                    u64::from(mqtt::MAX_COLLECTED),
                )? as u32,
                max_packet_size_authenticated: raw.max_packet_size_authenticated.within(
                    "max_packet_size_authenticated",
                    128,
                    u64::from(mqtt::MAX_REMAINING_LENGTH) + 5,
                )? as u32,
                retained_max_size: raw.retained_max_size.within("retained_max_size", 0, 1 << 20)? as u32,
                frame_max: raw.frame_max.within("frame_max", u64::from(amqp::FRAME_MIN_SIZE), 1 << 24)?
                    as u32,
                login_timeout: Duration::from_millis(raw.login_timeout.within(
                    "login_timeout",
                    100,
                    3_600_000,
                )?),
            },
            heartbeat: raw.heartbeat.within("heartbeat", 0, 3600)? as u16,
        })
    }
}

impl Number {
    fn within(self, path: &str, least: u64, most: u64) -> Result<u64, ConfigError> {
        let n = self.0;
        if n.fract() == 0.0 && n >= least as f64 && n <= most as f64 {
            Ok(n as u64)
        } else {
            Err(ConfigError::new(path, format!("expected a whole number from {least} to {most}")))
        }
    }
}

fn short(path: &str, text: &str) -> Result<ShortText, ConfigError> {
    ShortText::new(text).ok_or_else(|| ConfigError::new(path, "expected at most 255 bytes"))
}

impl ConfigError {
    fn new(path: &str, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration key `{}`: {}", self.path, self.problem)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        Config::from_json(json.as_bytes()).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn nothing_is_the_default() {
        for json in ["", "{}", " \n"] {
            let config = Config::from_json(json.as_bytes()).unwrap();
            assert_eq!(config.exchange.as_str(), "amq.topic");
            assert_eq!(config.prefetch, 10);
        }
    }

    #[test]
    fn a_struct_s_numbers_are_floating_point() {
        assert_eq!(Config::from_json(br#"{"prefetch": 1e+02}"#).unwrap().prefetch, 100);
        assert_eq!(Config::from_json(br#"{"prefetch": 25.0}"#).unwrap().prefetch, 25);
    }

    #[test]
    fn an_error_names_the_key_and_what_was_expected() {
        assert_eq!(
            error(r#"{"prefetch": 0}"#),
            "configuration key `prefetch`: expected a whole number from 1 to 65535"
        );
        assert_eq!(
            error(r#"{"prefetch": 1.5}"#),
            "configuration key `prefetch`: expected a whole number from 1 to 65535"
        );
        assert!(error(r#"{"prefetc": 1}"#).contains("prefetc"));
        assert!(
            error(r#"{"loopback_users": ["a", 7]}"#)
                .starts_with("configuration key `loopback_users[1]`: invalid type")
        );
        assert!(
            error(r#"{"login": "slow"}"#)
                .starts_with("configuration key `login`: unknown variant `slow`, expected")
        );
        assert!(error("[]").contains("expected"));
        assert!(error("{} {}").contains("trailing"));
    }

    #[test]
    fn an_error_holds_no_secret() {
        for secret in ["12345", "1.25", "true", r#"["hunter2"]"#] {
            let error = error(&format!(r#"{{"default_pass": {secret}}}"#));
            assert_eq!(error, "configuration key `default_pass`: expected a string");
        }
    }
}
