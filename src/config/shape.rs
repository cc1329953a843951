//! The keys as they are written.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::{ConfigError, ConnectMode, Login};

/// Parses the JSON of a configuration.
pub(super) fn parse(json: &[u8]) -> Result<Top, ConfigError> {
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
    let top = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let key = path.rsplit('.').next().unwrap_or_default();
        let is_secret = ["default_pass", "broker_pass", "password_hash"].contains(&key);
        let problem = if is_secret { "expected a string".into() } else { problem(error.inner()) };
        ConfigError::new(path, problem)
    })?;
    json.end().map_err(|error| ConfigError::new(".", error.to_string()))?;
    Ok(top)
}

/// serde_json says where in the text; the text is Envoy's own, so the position helps nobody.
fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// A struct with keys of its own and with the terms: keys that hold for the clients of a tenant, and at the top level for those
/// without one, and in place of what a tenant does not say.
macro_rules! with_terms {
    ($(#[$meta:meta])* $name:ident $own:tt) => {
        with_terms! { @ $(#[$meta])* $name $own {
            vhost: String,
            exchange: String,
            queue_prefix: String,
            cluster: String,
            allow_anonymous: bool,
            default_user: String,
            default_pass: String,
            loopback_users: Vec<String>,
            ssl_cert_login: bool,
            users: Vec<User>,
            broker_user: String,
            broker_pass: String,
            permissions: Vec<Permission>,
            topic_permissions: Vec<TopicPermission>,
            client_id_pattern: String,
            publish: Grants,
            subscribe: Grants,
            on_unauthorized: OnUnauthorized,
            retained: bool,
            prefetch: Number,
            message_rate: Number,
            byte_rate: Number,
            client_message_rate: Number,
            client_byte_rate: Number,
            max_connections: Number,
            max_inflight: Number,
            max_payload_size: Number,
            max_qos: Number,
            retain_allowed: bool,
            max_topic_levels: Number,
            max_subscriptions: Number,
        } }
    };
    (@ $(#[$meta:meta])* $name:ident
        { $($own:ident: $own_type:ty = $default:expr,)* } { $($term:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub(super) struct $name {
            $(pub(super) $own: $own_type,)*
            $(pub(super) $term: Option<$type>,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($own: $default,)* $($term: None,)* }
            }
        }

        impl From<&mut $name> for Terms {
            /// Takes them out.
            fn from(from: &mut $name) -> Self {
                Self { $($term: from.$term.take(),)* }
            }
        }
    };
}

with_terms! {
    Terms {}
}

with_terms! {
    #[derive(Deserialize)]
    #[serde(default, deny_unknown_fields)]
    Top {
        connect_mode: ConnectMode = ConnectMode::default(),
        local_reply_cluster: Option<String> = None,
        login: Login = Login::default(),
        ignore_colons_in_username: bool = false,
        topic_mapping: TopicMapping = TopicMapping::default(),
        sparkplug: bool = false,
        subscription_ttl: Ttl = Ttl::Milliseconds(Number(86_400_000.0)),
        qos0_max_length: Number = Number(10_000.0),
        will_refresh: Number = Number(900_000.0),
        retained_max_size: Number = Number(65_536.0),
        login_timeout: Number = Number(10_000.0),
        max_credentials_size: Number = Number(3_584.0),
        max_packet_size_unauthenticated: Number = Number(65_536.0),
        max_packet_size_authenticated: Number = Number(16_777_216.0),
        frame_max: Number = Number(131_072.0),
        heartbeat: Number = Number(30.0),
        ssl_cert_login_from: NameFrom = NameFrom::DistinguishedName,
        ssl_cert_login_san_type: SanType = SanType::Dns,
        ssl_cert_login_san_index: Number = Number(0.0),
        ssl_cert_client_id_from: Option<ClientIdFrom> = None,
        ssl_cert_client_id_san_type: SanType = SanType::Dns,
        ssl_cert_client_id_san_index: Number = Number(0.0),
        max_login_failures_per_address: Number = Number(30.0),
        max_login_failures_per_user: Number = Number(100.0),
        login_failure_window: Number = Number(60_000.0),
        vhost_from: Option<Vec<VhostSource>> = None,
        mqtt_default_vhosts: BTreeMap<Box<str>, Box<str>> = BTreeMap::new(),
        mqtt_port_to_vhost_mapping: BTreeMap<Box<str>, Box<str>> = BTreeMap::new(),
        san_to_vhost_mapping: BTreeMap<Box<str>, Box<str>> = BTreeMap::new(),
        sni_to_vhost_mapping: BTreeMap<Box<str>, Box<str>> = BTreeMap::new(),
        filter_chain_to_vhost_mapping: BTreeMap<Box<str>, Box<str>> = BTreeMap::new(),
        require_tenant: bool = false,
        tenants: Vec<Tenant> = Vec::new(),
    }
}

with_terms! {
    #[derive(Deserialize)]
    #[serde(default, deny_unknown_fields)]
    Tenant {
        name: String = String::new(),
        r#match: Match = Match::default(),
    }
}

/// A user, as RabbitMQ exports it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) name: String,
    #[serde(default)]
    pub(super) password_hash: String,
    #[serde(default)]
    pub(super) hashing_algorithm: Option<String>,
    /// What a user may do in the management interface.
    #[serde(default, rename = "tags")]
    _tags: serde::de::IgnoredAny,
    /// The broker's to keep.
    #[serde(default, rename = "limits")]
    _limits: serde::de::IgnoredAny,
}

/// Permissions, as RabbitMQ exports them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Permission {
    pub(super) user: String,
    pub(super) vhost: String,
    pub(super) configure: String,
    pub(super) write: String,
    pub(super) read: String,
}

/// Topic permissions, as RabbitMQ exports them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicPermission {
    pub(super) user: String,
    pub(super) vhost: String,
    pub(super) exchange: String,
    pub(super) write: String,
    pub(super) read: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Grants {
    pub(super) allow: Option<Vec<String>>,
    pub(super) deny: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Match {
    pub(super) port: Option<OneOrMore<Number>>,
    pub(super) address: Option<OneOrMore<String>>,
    pub(super) sni: Option<OneOrMore<String>>,
    pub(super) filter_chain: Option<OneOrMore<String>>,
    pub(super) vhost: Option<OneOrMore<String>>,
    pub(super) username: Option<OneOrMore<String>>,
    pub(super) client_id: Option<OneOrMore<String>>,
    pub(super) cert_cn: Option<OneOrMore<String>>,
    pub(super) cert_dn: Option<OneOrMore<String>>,
    pub(super) cert_san: Option<OneOrMore<String>>,
}

/// A value, or a list of such.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a value or a list of values")]
pub(super) enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => core::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TopicMapping {
    #[default]
    Rabbitmq,
    Reversible,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnUnauthorized {
    #[default]
    Disconnect,
    Drop,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NameFrom {
    DistinguishedName,
    CommonName,
    SubjectAlternativeName,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientIdFrom {
    DistinguishedName,
    SubjectAlternativeName,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SanType {
    Dns,
    Uri,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum VhostSource {
    Certificate,
    Username,
    Port,
    San,
    Sni,
    FilterChain,
}

/// An integer. Envoy may have had it as floating point, and writes 10 as 10.0 or 1e+01 when it likes.
#[derive(Clone, Copy)]
pub(super) struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(Self)
    }
}

impl Number {
    /// The number, when it is a whole one of these.
    pub(super) fn within(self, path: &str, least: u64, most: u64) -> Result<u64, ConfigError> {
        let n = self.0;
        if n.fract() == 0.0 && n >= least as f64 && n <= most as f64 {
            Ok(n as u64)
        } else {
            Err(ConfigError::new(path, format!("expected a whole number from {least} to {most}")))
        }
    }
}

/// RabbitMQ's `subscription_ttl`: milliseconds or `undefined`.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected a number of milliseconds or \"undefined\"")]
pub(super) enum Ttl {
    Milliseconds(Number),
    Word(Undefined),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Undefined {
    Undefined,
}
