//! What the keys mean, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::shape::{self, Number, OneOrMore, Terms, Top};
use super::{Config, ConfigError, ConnectMode, Limits};
use crate::amqp::{self, ShortText};
use crate::mqtt::{self, QoS};
use crate::policy::grants::{Entries, Grants};
use crate::policy::pattern::{AddressRange, Glob};
use crate::policy::permissions::{Expression, Permission, Permissions, TopicPermission, TopicPermissions};
use crate::policy::users::{Algorithm, PasswordHash, Users};
use crate::policy::{
    BrakeLimits, ClientIdPattern, Credentials, Match, NameFrom, OnUnauthorized, Policy, Quota, Rate, Tenant,
    VhostRules, VhostSource,
};
use crate::secret::Secret;
use crate::time::Duration;
use crate::topic::TopicMapping;

type Result<T> = core::result::Result<T, ConfigError>;

/// The longest name of a tenant: it is a part of the names of what workers share.
const MAX_TENANT_NAME: usize = 64;

/// The most that a rate may be, a second.
const MAX_RATE: u64 = 1_000_000_000;

pub(super) fn config(mut top: Top) -> Result<Config> {
    let local_reply_cluster = cluster(top.local_reply_cluster.take(), "local_reply_cluster")?;
    let topic_mapping = match (top.topic_mapping, top.sparkplug) {
        (shape::TopicMapping::Rabbitmq, false) => TopicMapping::Rabbitmq,
        (shape::TopicMapping::Rabbitmq, true) => TopicMapping::Sparkplug,
        (shape::TopicMapping::Reversible, false) => TopicMapping::Reversible,
        (shape::TopicMapping::Reversible, true) => {
            return Err(ConfigError::new("sparkplug", "expected topic_mapping rabbitmq with it"));
        }
    };
    Ok(Config {
        connect_mode: top.connect_mode,
        local_reply_cluster,
        login: top.login,
        topic_mapping,
        subscription_ttl: match top.subscription_ttl {
            // What RabbitMQ takes for x-expires: above it is its largest timer.
            shape::Ttl::Milliseconds(ms) => {
                Some(Duration::from_millis(ms.within("subscription_ttl", 1, u64::from(u32::MAX))?))
            }
            shape::Ttl::Word(shape::Undefined::Undefined) => None,
        },
        qos0_max_length: top.qos0_max_length.within("qos0_max_length", 1, u64::from(u32::MAX))? as u32,
        will_refresh: Duration::from_millis(top.will_refresh.within("will_refresh", 100, 86_400_000)?),
        limits: limits(&top)?,
        heartbeat: top.heartbeat.within("heartbeat", 0, 3600)? as u16,
        policy: Rc::new(policy(top, topic_mapping)?),
    })
}

fn limits(top: &Top) -> Result<Limits> {
    let size = |number: Number, key, most: u64| Ok(number.within(key, 128, most)? as u32);
    Ok(Limits {
        max_packet_size_unauthenticated: size(
            top.max_packet_size_unauthenticated,
            "max_packet_size_unauthenticated",
            mqtt::MAX_COLLECTED.into(),
        )?,
        max_packet_size_authenticated: size(
            top.max_packet_size_authenticated,
            "max_packet_size_authenticated",
            u64::from(mqtt::MAX_REMAINING_LENGTH) + 5,
        )?,
        retained_max_size: top.retained_max_size.within("retained_max_size", 0, 1 << 20)? as u32,
        frame_max: top.frame_max.within("frame_max", amqp::FRAME_MIN_SIZE.into(), 1 << 24)? as u32,
        login_timeout: Duration::from_millis(top.login_timeout.within("login_timeout", 100, 3_600_000)?),
    })
}

fn policy(mut top: Top, topic_mapping: TopicMapping) -> Result<Policy> {
    let mut terms = Terms::from(&mut top);
    let vhost = short(terms.vhost.take().unwrap_or_else(|| "/".into()), "vhost")?;
    let mut tenants = core::mem::take(&mut top.tenants);
    let checker = Checker { topic_mapping, connect_mode: top.connect_mode };
    let no_tenant = checker.no_tenant(terms, tenants.len())?;
    let mut names = BTreeSet::new();
    let mut checked = Vec::new();
    for (index, tenant) in tenants.iter_mut().enumerate() {
        let path = format!("tenants[{index}].");
        let name = core::mem::take(&mut tenant.name);
        if !is_tenant_name(&name) {
            let expected = "expected letters, digits, _ and -, at most 64";
            return Err(ConfigError::new(format!("{path}name"), expected));
        }
        if !names.insert(name.clone()) {
            return Err(ConfigError::new(format!("{path}name"), "is there already"));
        }
        let matching = matching(&tenant.r#match, &format!("{path}match."))?;
        let named = Tenant { name: name.into(), index, ..no_tenant.clone() };
        let tenant = checker.tenant(Terms::from(tenant), named, &path)?;
        checker.check(&tenant, &path)?;
        checked.push((matching, Rc::new(tenant)));
    }
    if !top.require_tenant {
        checker.check(&no_tenant, "")?;
    }
    let login_san =
        san(top.ssl_cert_login_san_type, top.ssl_cert_login_san_index, "ssl_cert_login_san_index")?;
    let client_id_san = san(
        top.ssl_cert_client_id_san_type,
        top.ssl_cert_client_id_san_index,
        "ssl_cert_client_id_san_index",
    )?;
    Ok(Policy {
        tenants: checked.into(),
        no_tenant: Rc::new(no_tenant),
        require_tenant: top.require_tenant,
        login_from: match top.ssl_cert_login_from {
            shape::NameFrom::DistinguishedName => NameFrom::DistinguishedName,
            shape::NameFrom::CommonName => NameFrom::CommonName,
            shape::NameFrom::SubjectAlternativeName => login_san,
        },
        client_id_from: top.ssl_cert_client_id_from.map(|from| match from {
            shape::ClientIdFrom::DistinguishedName => NameFrom::DistinguishedName,
            shape::ClientIdFrom::SubjectAlternativeName => client_id_san,
        }),
        vhost,
        brake: BrakeLimits {
            per_address: failures(top.max_login_failures_per_address, "max_login_failures_per_address")?,
            per_user: failures(top.max_login_failures_per_user, "max_login_failures_per_user")?,
            window: Duration::from_millis(top.login_failure_window.within(
                "login_failure_window",
                1,
                86_400_000,
            )?),
        },
        max_credentials_size: top.max_credentials_size.within("max_credentials_size", 1, 65_535)? as usize,
        topic_mapping,
        vhosts: vhost_rules(top)?,
    })
}

fn failures(number: Number, key: &str) -> Result<u32> {
    Ok(number.within(key, 0, u64::from(u32::MAX))? as u32)
}

fn san(kind: shape::SanType, index: Number, key: &str) -> Result<NameFrom> {
    if index.within(key, 0, u64::from(u32::MAX))? > 0 {
        return Err(ConfigError::new(key, "expected 0: of each kind of name Envoy tells only the first"));
    }
    Ok(match kind {
        shape::SanType::Dns => NameFrom::Dns,
        shape::SanType::Uri => NameFrom::Uri,
    })
}

fn vhost_rules(top: Top) -> Result<VhostRules> {
    let mut by_port = BTreeMap::new();
    for (port, vhost) in top.mqtt_port_to_vhost_mapping {
        let number = port.parse().map_err(|_| {
            ConfigError::new(format!("mqtt_port_to_vhost_mapping.{port}"), "expected a port as the key")
        })?;
        by_port.insert(number, vhost);
    }
    Ok(VhostRules {
        order: top.vhost_from.map(|sources| sources.into_iter().map(vhost_source).collect()),
        ignore_colons_in_username: top.ignore_colons_in_username,
        by_certificate: top.mqtt_default_vhosts,
        by_port,
        by_san: top.san_to_vhost_mapping,
        by_sni: top.sni_to_vhost_mapping,
        by_filter_chain: top.filter_chain_to_vhost_mapping,
    })
}

const fn vhost_source(source: shape::VhostSource) -> VhostSource {
    match source {
        shape::VhostSource::Certificate => VhostSource::Certificate,
        shape::VhostSource::Username => VhostSource::Username,
        shape::VhostSource::Port => VhostSource::Port,
        shape::VhostSource::San => VhostSource::San,
        shape::VhostSource::Sni => VhostSource::Sni,
        shape::VhostSource::FilterChain => VhostSource::FilterChain,
    }
}

fn is_tenant_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !name.is_empty() && name.len() <= MAX_TENANT_NAME && name.bytes().all(is_letter)
}

fn matching(shape: &shape::Match, path: &str) -> Result<Match> {
    let globs = |texts: &Option<OneOrMore<String>>| {
        texts.as_ref().map(|texts| texts.as_slice().iter().map(|text| Glob::new(text)).collect())
    };
    let ports = |numbers: &OneOrMore<Number>| {
        let port = |number: &Number| Ok(number.within(&format!("{path}port"), 1, 65_535)? as u16);
        numbers.as_slice().iter().map(port).collect()
    };
    let ranges = |texts: &OneOrMore<String>| {
        let range = |text: &String| {
            let expected = "expected an IP address or a range as 192.0.2.0/24";
            AddressRange::parse(text).ok_or_else(|| ConfigError::new(format!("{path}address"), expected))
        };
        texts.as_slice().iter().map(range).collect()
    };
    Ok(Match {
        port: shape.port.as_ref().map(ports).transpose()?,
        address: shape.address.as_ref().map(ranges).transpose()?,
        sni: globs(&shape.sni),
        filter_chain: globs(&shape.filter_chain),
        vhost: globs(&shape.vhost),
        username: globs(&shape.username),
        client_id: globs(&shape.client_id),
        cert_cn: globs(&shape.cert_cn),
        cert_dn: globs(&shape.cert_dn),
        cert_san: globs(&shape.cert_san),
    })
}

/// What the terms are checked with.
struct Checker {
    topic_mapping: TopicMapping,
    connect_mode: ConnectMode,
}

impl Checker {
    /// The top level's terms, over the defaults.
    fn no_tenant(&self, terms: Terms, index: usize) -> Result<Tenant> {
        let guest = Credentials { username: "guest".into(), password: Secret::new(b"guest") };
        let default = Tenant {
            name: Box::default(),
            index,
            vhost: None,
            exchange: short("amq.topic".into(), "exchange")?,
            queue_prefix: Box::default(),
            cluster: None,
            anonymous: Some(Rc::new(guest)),
            loopback_users: Rc::new(BTreeSet::from(["guest".into()])),
            ssl_cert_login: false,
            users: None,
            account: None,
            permissions: None,
            topic_permissions: Rc::default(),
            client_id_pattern: None,
            publish: Rc::default(),
            subscribe: Rc::default(),
            quota: Quota::NONE,
            on_unauthorized: OnUnauthorized::default(),
            retained: true,
            prefetch: 10,
        };
        self.tenant(terms, default, "")
    }

    /// Terms, over those they inherit.
    fn tenant(&self, terms: Terms, base: Tenant, path: &str) -> Result<Tenant> {
        let key = |key: &str| format!("{path}{key}");
        Ok(Tenant {
            vhost: terms.vhost.map(|vhost| short(vhost, &key("vhost"))).transpose()?,
            exchange: terms
                .exchange
                .map_or(Ok(base.exchange), |exchange| short(exchange, &key("exchange")))?,
            queue_prefix: terms.queue_prefix.map_or(base.queue_prefix, Box::from),
            cluster: cluster(terms.cluster, &key("cluster"))?.or(base.cluster),
            anonymous: anonymous(
                terms.allow_anonymous,
                terms.default_user,
                terms.default_pass,
                base.anonymous,
                &key("default_user"),
            )?,
            loopback_users: terms.loopback_users.map_or(base.loopback_users, |users| {
                Rc::new(users.into_iter().map(String::into_boxed_str).collect())
            }),
            ssl_cert_login: terms.ssl_cert_login.unwrap_or(base.ssl_cert_login),
            users: match terms.users {
                Some(list) => Some(Rc::new(users(list, &key("users"))?)),
                None => base.users,
            },
            account: match (terms.broker_user, terms.broker_pass) {
                (Some(username), Some(password)) if !username.is_empty() => Some(Rc::new(Credentials {
                    username: username.into(),
                    password: Secret::new(password.as_bytes()),
                })),
                (Some(username), _) if username.is_empty() => {
                    return Err(ConfigError::new(key("broker_user"), "expected a user name"));
                }
                (Some(_), None) => {
                    let expected = "expected a string, since there is broker_user";
                    return Err(ConfigError::new(key("broker_pass"), expected));
                }
                (None, Some(_)) => {
                    let expected = "expected a user name, since there is broker_pass";
                    return Err(ConfigError::new(key("broker_user"), expected));
                }
                (Some(_), Some(_)) | (None, None) => base.account,
            },
            permissions: match terms.permissions {
                Some(list) => Some(Rc::new(permissions(list, &key("permissions"))?)),
                None => base.permissions,
            },
            topic_permissions: match terms.topic_permissions {
                Some(list) => Rc::new(topic_permissions(list, &key("topic_permissions"))?),
                None => base.topic_permissions,
            },
            client_id_pattern: match terms.client_id_pattern {
                Some(text) => Some(client_id_pattern(&text, &key("client_id_pattern"))?),
                None => base.client_id_pattern,
            },
            publish: match terms.publish {
                Some(grants) => Rc::new(self.grants(&grants, &key("publish"))?),
                None => base.publish,
            },
            subscribe: match terms.subscribe {
                Some(grants) => Rc::new(self.grants(&grants, &key("subscribe"))?),
                None => base.subscribe,
            },
            quota: Quota {
                max_connections: limit(terms.max_connections, &key("max_connections"), u32::MAX)?
                    .or(base.quota.max_connections),
                message_rate: rate(terms.message_rate, &key("message_rate"))?.or(base.quota.message_rate),
                byte_rate: rate(terms.byte_rate, &key("byte_rate"))?.or(base.quota.byte_rate),
                client_message_rate: rate(terms.client_message_rate, &key("client_message_rate"))?
                    .or(base.quota.client_message_rate),
                client_byte_rate: rate(terms.client_byte_rate, &key("client_byte_rate"))?
                    .or(base.quota.client_byte_rate),
                max_inflight: limit(terms.max_inflight, &key("max_inflight"), u16::MAX.into())?
                    .map(|most| most as u16)
                    .or(base.quota.max_inflight),
                max_payload_size: match terms.max_payload_size {
                    Some(number) => {
                        let most = mqtt::MAX_REMAINING_LENGTH.into();
                        Some(number.within(&key("max_payload_size"), 0, most)? as u32)
                    }
                    None => base.quota.max_payload_size,
                },
                max_qos: match terms.max_qos {
                    Some(number) => QoS::from_bits(number.within(&key("max_qos"), 0, 2)? as u8)
                        .unwrap_or(QoS::ExactlyOnce),
                    None => base.quota.max_qos,
                },
                retain_allowed: terms.retain_allowed.unwrap_or(base.quota.retain_allowed),
                max_topic_levels: limit(terms.max_topic_levels, &key("max_topic_levels"), 128)?
                    .map(|most| most as u8)
                    .or(base.quota.max_topic_levels),
                max_subscriptions: limit(terms.max_subscriptions, &key("max_subscriptions"), u32::MAX)?
                    .or(base.quota.max_subscriptions),
            },
            on_unauthorized: match terms.on_unauthorized {
                Some(shape::OnUnauthorized::Disconnect) => OnUnauthorized::Disconnect,
                Some(shape::OnUnauthorized::Drop) => OnUnauthorized::Drop,
                None => base.on_unauthorized,
            },
            retained: terms.retained.unwrap_or(base.retained),
            prefetch: limit(terms.prefetch, &key("prefetch"), u16::MAX.into())?
                .map_or(base.prefetch, |most| most as u16),
            name: base.name,
            index: base.index,
        })
    }

    /// What must not be together.
    fn check(&self, tenant: &Tenant, path: &str) -> Result<()> {
        let key = |key: &str| format!("{path}{key}");
        if tenant.ssl_cert_login && tenant.account.is_none() {
            let expected = "expected a user name, since ssl_cert_login is true: a certificate is no password for the broker";
            return Err(ConfigError::new(key("broker_user"), expected));
        }
        if tenant.cluster.is_some() && self.connect_mode == ConnectMode::Eager {
            let expected = "expected connect_mode lazy with it: eager connects before a tenant is known";
            return Err(ConfigError::new(key("cluster"), expected));
        }
        Ok(())
    }

    fn grants(&self, shape: &shape::Grants, path: &str) -> Result<Grants> {
        let entries = |texts: &[String], list: &str| {
            let mut entries = Entries::default();
            for (number, text) in texts.iter().enumerate() {
                entries.add(number, text, self.topic_mapping).map_err(|error| {
                    ConfigError::new(format!("{path}.{list}[{number}]"), error.to_string())
                })?;
            }
            Ok(entries)
        };
        let allow = shape.allow.as_deref().map(|texts| entries(texts, "allow")).transpose()?;
        Ok(Grants { allow, deny: entries(&shape.deny, "deny")? })
    }
}

fn anonymous(
    allow: Option<bool>,
    user: Option<String>,
    pass: Option<String>,
    base: Option<Rc<Credentials>>,
    path: &str,
) -> Result<Option<Rc<Credentials>>> {
    if !allow.unwrap_or(base.is_some()) {
        return Ok(None);
    }
    let guest = || Credentials { username: "guest".into(), password: Secret::new(b"guest") };
    let base = base.unwrap_or_else(|| Rc::new(guest()));
    if user.is_none() && pass.is_none() {
        return Ok(Some(base));
    }
    let username: Box<str> = user.map_or_else(|| base.username.clone(), Box::from);
    if username.is_empty() {
        return Err(ConfigError::new(path, "expected a user name, since allow_anonymous is true"));
    }
    let password = pass.map_or_else(|| base.password.clone(), |pass| Secret::new(pass.as_bytes()));
    Ok(Some(Rc::new(Credentials { username, password })))
}

fn users(list: Vec<shape::User>, path: &str) -> Result<Users> {
    let mut users = Users::default();
    for (number, user) in list.into_iter().enumerate() {
        let algorithm = match user.hashing_algorithm.as_deref() {
            None => Algorithm::default(),
            Some(name) => Algorithm::parse(name).ok_or_else(|| {
                let expected = "expected rabbit_password_hashing_sha256 or rabbit_password_hashing_sha512";
                ConfigError::new(format!("{path}[{number}].hashing_algorithm"), expected)
            })?,
        };
        let hash = match user.password_hash.as_str() {
            "" => None,
            base64 => Some(PasswordHash::parse(base64, algorithm).ok_or_else(|| {
                let expected = "expected base64 of a 4-byte salt and its hash";
                ConfigError::new(format!("{path}[{number}].password_hash"), expected)
            })?),
        };
        if !users.add(&user.name, hash) {
            return Err(ConfigError::new(format!("{path}[{number}].name"), "is there already"));
        }
    }
    Ok(users)
}

fn permissions(list: Vec<shape::Permission>, path: &str) -> Result<Permissions> {
    let mut known = BTreeMap::new();
    let mut permissions = Permissions::new();
    for (number, entry) in list.into_iter().enumerate() {
        let mut expression =
            |text: &str, key| expression(text, &mut known, &format!("{path}[{number}].{key}"));
        let permission = Permission {
            configure: expression(&entry.configure, "configure")?,
            write: expression(&entry.write, "write")?,
            read: expression(&entry.read, "read")?,
        };
        permissions.insert((entry.user.into(), entry.vhost.into()), permission);
    }
    Ok(permissions)
}

fn topic_permissions(list: Vec<shape::TopicPermission>, path: &str) -> Result<TopicPermissions> {
    let mut known = BTreeMap::new();
    let mut permissions = TopicPermissions::new();
    for (number, entry) in list.into_iter().enumerate() {
        let mut expression =
            |text: &str, key| expression(text, &mut known, &format!("{path}[{number}].{key}"));
        let permission = TopicPermission {
            write: expression(&entry.write, "write")?,
            read: expression(&entry.read, "read")?,
        };
        permissions.insert([entry.user, entry.vhost, entry.exchange].map(Box::from), permission);
    }
    Ok(permissions)
}

fn expression(text: &str, known: &mut BTreeMap<Box<str>, Expression>, path: &str) -> Result<Expression> {
    Expression::parse(text, known).map_err(|problem| ConfigError::new(path, problem))
}

fn client_id_pattern(text: &str, path: &str) -> Result<ClientIdPattern> {
    // Checked as it is written: the whole could be one where this is none.
    expression(text, &mut BTreeMap::new(), path)?;
    let whole = format!("^(?:{text})$");
    expression(&whole, &mut BTreeMap::new(), path).map(ClientIdPattern)
}

fn limit(number: Option<Number>, path: &str, most: u32) -> Result<Option<u32>> {
    number.map(|number| Ok(number.within(path, 1, most.into())? as u32)).transpose()
}

fn rate(number: Option<Number>, path: &str) -> Result<Option<Rate>> {
    Ok(number.map(|number| number.within(path, 1, MAX_RATE)).transpose()?.and_then(|n| Rate::new(n as u32)))
}

fn cluster(name: Option<String>, path: &str) -> Result<Option<Rc<str>>> {
    match name {
        Some(name) if name.is_empty() => Err(ConfigError::new(path, "expected the name of a cluster")),
        name => Ok(name.map(Rc::from)),
    }
}

fn short(text: String, path: &str) -> Result<ShortText> {
    ShortText::new(&text).ok_or_else(|| ConfigError::new(path, "expected at most 255 bytes"))
}
