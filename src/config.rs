//! The plugin configuration: what Envoy hands over as JSON, and the validated [`Config`] it becomes.
//!
//! Keys have RabbitMQ's names where RabbitMQ has them, and its defaults. `keys` reads them out of JSON and is the only place that knows
//! serde; the other modules say what each means, and what is wrong with it.

mod keys;
mod lists;
mod read;
mod release;
mod tenants;

use core::fmt;
use std::rc::Rc;

use crate::policy::Policy;
use crate::time::Duration;
use crate::topic::TopicMapping;
use keys::Keys;

pub use release::Release;

type Result<T> = core::result::Result<T, ConfigError>;

/// A validated configuration. No `Debug`: it holds passwords.
pub struct Config {
    /// When Envoy connects to the broker.
    pub connect_mode: ConnectMode,
    /// An Envoy cluster that sends back what it is sent: refusals go there and never reach the broker. Lazy mode only.
    pub local_reply_cluster: Option<Rc<str>>,
    /// How the AMQP login is written.
    pub login: Login,
    /// Who may connect, as whom, and what they may do.
    pub policy: Rc<Policy>,
    /// Topics to keys.
    pub topic_mapping: TopicMapping,
    /// How long a persistent session outlives its connection; `None` is for ever.
    pub subscription_ttl: Option<Duration>,
    /// The most messages that wait for a client at QoS 0; then the oldest goes.
    pub qos0_max_length: u32,
    /// Messages that wait for the members of a shared subscription; then the oldest goes.
    pub shared_max_length: u32,
    /// How often a will at the broker is renewed: well within the broker's `consumer_timeout`.
    pub will_refresh: Duration,
    /// Budgets and deadlines.
    pub limits: Limits,
    /// Seconds between AMQP heartbeats; 0 is off. A broker notices that our host is dead, and sends the wills it holds for us,
    /// after about two.
    pub heartbeat: u16,
}

/// Budgets and deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest CONNECT, in bytes.
    pub max_packet_size_unauthenticated: u32,
    /// Largest packet behind it, in bytes.
    pub max_packet_size_authenticated: u32,
    /// Largest AMQP frame we propose, in bytes.
    pub frame_max: u32,
    /// Largest payload that is retained, in bytes.
    pub retained_max_size: u32,
    /// From the first byte of a packet to its last, for packets that have to be whole before they can be read.
    pub packet_timeout: Duration,
    /// From the connection's start to CONNACK.
    pub login_timeout: Duration,
}

/// When Envoy connects to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectMode {
    /// When the filter has something to say, so that with a `local_reply_cluster` a refused client never reaches the broker.
    /// Needs `tcp_proxy`'s `upstream_connect_mode: ON_DOWNSTREAM_DATA`.
    #[default]
    Lazy,
    /// When the client connects.
    Eager,
}

/// How the AMQP login is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// All at once: one round trip from CONNECT to CONNACK.
    #[default]
    Pipelined,
    /// Each step after the broker's answer to the one before.
    Sequential,
}

/// What is wrong with a configuration: the key's path, and what was expected there. Holds no value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    problem: String,
}

impl Config {
    /// Parses and validates the JSON of a plugin configuration; no bytes at all are `{}`.
    ///
    /// # Errors
    /// Names the first key that is unknown or has a wrong value.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        read::config(Keys::top(json)?)
    }
}

impl ConfigError {
    fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }

    /// The key, such as `tenants[0].vhost`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What was expected there.
    pub fn problem(&self) -> &str {
        &self.problem
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
            assert_eq!(config.policy.no_tenant.exchange.as_str(), "amq.topic");
            assert_eq!(config.policy.no_tenant.prefetch, 10);
        }
    }

    #[test]
    fn a_struct_s_numbers_are_floating_point() {
        let prefetch = |json: &[u8]| Config::from_json(json).unwrap().policy.no_tenant.prefetch;
        assert_eq!(prefetch(br#"{"prefetch": 1e+02}"#), 100);
        assert_eq!(prefetch(br#"{"prefetch": 25.0}"#), 25);
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
                .starts_with("configuration key `loopback_users[1]`: expected a string")
        );
        assert!(
            error(r#"{"login": "slow"}"#)
                .starts_with("configuration key `login`: expected one of pipelined, sequential")
        );
        assert!(error("[]").contains("expected"));
        assert!(error("{} {}").contains("trailing"));
    }

    #[test]
    fn an_error_holds_no_secret() {
        for secret in ["12345", "1.25", "true", r#"["hunter2"]"#] {
            for key in ["default_pass", "broker_pass"] {
                assert_eq!(
                    error(&format!(r#"{{"{key}": {secret}}}"#)),
                    format!("configuration key `{key}`: expected a string")
                );
                assert_eq!(
                    error(&format!(r#"{{"tenants": [{{"name": "t", "{key}": {secret}}}]}}"#)),
                    format!("configuration key `tenants[0].{key}`: expected a string")
                );
            }
            assert_eq!(
                error(&format!(r#"{{"users": [{{"name": "u", "password_hash": {secret}}}]}}"#)),
                "configuration key `users[0].password_hash`: expected a string"
            );
        }
        let error = error(r#"{"users": [{"name": "u", "password_hash": "aHVudGVyMg=="}]}"#);
        assert_eq!(
            error,
            "configuration key `users[0].password_hash`: expected base64 of a 4-byte salt and its hash"
        );
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_named() {
        for (json, expected) in [
            (r#"{"tenants": [{}]}"#, "`tenants[0].name`: expected letters, digits"),
            (r#"{"tenants": [{"name": "a b"}]}"#, "`tenants[0].name`: expected letters, digits"),
            (r#"{"tenants": [{"name": "a"}, {"name": "a"}]}"#, "`tenants[1].name`: is there already"),
            (r#"{"tenants": [{"name": "a", "match": {"color": 1}}]}"#, "`tenants[0].match.color`: is no key"),
            (
                r#"{"tenants": [{"name": "a", "match": {"port": 70000}}]}"#,
                "`tenants[0].match.port`: expected",
            ),
            (r#"{"tenants": [{"name": "a", "match": {"address": "x"}}]}"#, "`tenants[0].match.address`: exp"),
            (r#"{"tenants": [{"name": "a", "vhost_from": []}]}"#, "`tenants[0].vhost_from`: is no key"),
            (
                r#"{"connect_mode": "eager", "tenants": [{"name": "a", "cluster": "b"}]}"#,
                "`tenants[0].cluster`",
            ),
            (r#"{"publish": {"allow": ["a", "b+"]}}"#, "`publish.allow[1]`: filter has a wildcard"),
            (r#"{"subscribe": {"deny": ["{user}"]}}"#, "`subscribe.deny[0]`: braces are for variables"),
            (
                r#"{"users": [{"name": "u", "hashing_algorithm": "rabbit_password_hashing_md5"}]}"#,
                "`users[0].ha",
            ),
            (r#"{"users": [{"name": "u"}, {"name": "u"}]}"#, "`users[1].name`: is there already"),
            (
                r#"{"permissions": [{"user": "u", "vhost": "/", "write": "(", "read": "", "configure": ""}]}"#,
                "`permissions[0].write`: ",
            ),
            (
                r#"{"topic_permissions": [{"user": "u", "vhost": "/", "exchange": "", "write": "", "read": "(?!a)"}]}"#,
                "`topic_permissions[0].read`: ",
            ),
            (r#"{"client_id_pattern": "("}"#, "`client_id_pattern`: "),
            (r#"{"broker_user": "u"}"#, "`broker_pass`: expected a string, since there is broker_user"),
            (
                r#"{"ssl_cert_login": true}"#,
                "`broker_user`: expected a user name, since ssl_cert_login is true",
            ),
            (r#"{"ssl_cert_login_san_index": 1}"#, "`ssl_cert_login_san_index`: expected 0"),
            (r#"{"vhost_from": ["color"]}"#, "`vhost_from[0]`: expected one of certificate, "),
            (
                r#"{"mqtt_port_to_vhost_mapping": {"x": "/"}}"#,
                "`mqtt_port_to_vhost_mapping.x`: expected a port",
            ),
            (r#"{"message_rate": 0}"#, "`message_rate`: expected a whole number from 1"),
            (r#"{"max_qos": 3}"#, "`max_qos`: expected a whole number from 0 to 2"),
        ] {
            let error = error(json);
            assert!(error.starts_with(&format!("configuration key {expected}")), "{json}: {error}");
        }
    }
}
