//! Tenants: who is one's, and the terms that hold for its clients.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::keys::{At, Keys};
use super::lists;
use super::{ConfigError, ConnectMode, Result};
use crate::amqp::ShortText;
use crate::mqtt::{self, QoS};
use crate::names::is_nameable;
use crate::policy::pattern::{AddressRange, Glob};
use crate::policy::{Credentials, Match, OnUnauthorized, Quota, Rate, Tenant, Tenants, WithoutPassword};
use crate::secret::Secret;
use crate::topic::TopicMapping;

/// The longest name of a tenant: it is a part of the names of what workers share.
const MAX_NAME: usize = 64;

/// The most that a rate may be, a second.
const MAX_RATE: u64 = 1_000_000_000;

/// What terms are read with.
pub(super) struct Terms {
    pub(super) topic_mapping: TopicMapping,
    pub(super) connect_mode: ConnectMode,
}

impl Terms {
    /// All tenants in their order, over the terms of clients without one.
    pub(super) fn tenants(&self, list: Vec<At<'_>>, base: &Tenant) -> Result<Tenants> {
        let mut names = BTreeSet::new();
        let mut tenants = Vec::new();
        for (index, tenant) in list.into_iter().enumerate() {
            let mut keys = tenant.object()?;
            let name = keys.text("name")?.unwrap_or_default();
            if !is_name(&name) {
                let expected = "expected letters, digits, _ and -, at most 64";
                return Err(ConfigError::new(keys.path("name"), expected));
            }
            if !names.insert(name.clone()) {
                return Err(ConfigError::new(keys.path("name"), "is there already"));
            }
            let matching = keys.object("match")?.map(matching).transpose()?.unwrap_or_default();
            let vhost = short(&mut keys, "vhost")?;
            let inherited = Tenant { name: name.into(), index, vhost, ..base.clone() };
            let tenant = self.read(&mut keys, inherited)?;
            // The top level's password is not for a tenant's broker.
            let is_inherited = |account: &Rc<Credentials>| {
                base.account.as_ref().is_some_and(|base| Rc::ptr_eq(base, account))
            };
            if tenant.cluster != base.cluster && tenant.account.as_ref().is_some_and(is_inherited) {
                let expected = "expected an account of its own, since there is a cluster of its own";
                return Err(ConfigError::new(keys.path("broker_user"), expected));
            }
            self.check(&tenant, &keys)?;
            keys.finish()?;
            tenants.push((matching, Rc::new(tenant)));
        }
        Ok(tenants.into())
    }

    /// Takes the terms out of an object; what it does not say is as it was.
    pub(super) fn read(&self, keys: &mut Keys<'_>, base: Tenant) -> Result<Tenant> {
        let grants = |keys: Option<Keys<'_>>, base| match keys {
            Some(keys) => lists::grants(keys, self.topic_mapping).map(Rc::new),
            None => Ok(base),
        };
        let (allow_anonymous, anonymous) = anonymous(keys, &base)?;
        Ok(Tenant {
            exchange: exchange(keys)?.unwrap_or(base.exchange),
            queue_prefix: queue_prefix(keys)?.unwrap_or(base.queue_prefix),
            cluster: cluster(keys, "cluster")?.or(base.cluster),
            allow_anonymous,
            anonymous,
            without_password: keys
                .word(
                    "username_without_password",
                    &[("refuse", WithoutPassword::Refuse), ("pass_over", WithoutPassword::PassOver)],
                )?
                .unwrap_or(base.without_password),
            loopback_users: match keys.list("loopback_users")? {
                Some(list) => {
                    let users = list.into_iter().map(|user| user.text().map(String::into_boxed_str));
                    Rc::new(users.collect::<Result<_>>()?)
                }
                None => base.loopback_users,
            },
            ssl_cert_login: keys.flag("ssl_cert_login")?.unwrap_or(base.ssl_cert_login),
            users: match keys.list("users")? {
                Some(list) => Some(Rc::new(lists::users(list)?)),
                None => base.users,
            },
            account: account(keys)?.or(base.account),
            permissions: match keys.list("permissions")? {
                Some(list) => Some(Rc::new(lists::permissions(list)?)),
                None => base.permissions,
            },
            topic_permissions: match keys.list("topic_permissions")? {
                Some(list) => Rc::new(lists::topic_permissions(list)?),
                None => base.topic_permissions,
            },
            client_id_pattern: match keys.take("client_id_pattern") {
                Some(value) => Some(lists::client_id_pattern(value)?),
                None => base.client_id_pattern,
            },
            publish: grants(keys.object("publish")?, base.publish)?,
            subscribe: grants(keys.object("subscribe")?, base.subscribe)?,
            quota: quota(keys, base.quota)?,
            on_unauthorized: keys
                .word(
                    "on_unauthorized",
                    &[("disconnect", OnUnauthorized::Disconnect), ("drop", OnUnauthorized::Drop)],
                )?
                .unwrap_or(base.on_unauthorized),
            retained: keys.flag("retained")?.unwrap_or(base.retained),
            prefetch: keys.number("prefetch", 1, u16::MAX.into())?.map_or(base.prefetch, |most| most as u16),
            ..base
        })
    }

    /// What must not be together.
    pub(super) fn check(&self, tenant: &Tenant, keys: &Keys<'_>) -> Result<()> {
        if tenant.ssl_cert_login && tenant.account.is_none() {
            let expected = "expected a user name, since ssl_cert_login is true: a certificate is no password for the broker";
            return Err(ConfigError::new(keys.path("broker_user"), expected));
        }
        if tenant.cluster.is_some() && self.connect_mode == ConnectMode::Eager {
            let expected = "expected connect_mode lazy with it: eager connects before a tenant is known";
            return Err(ConfigError::new(keys.path("cluster"), expected));
        }
        Ok(())
    }
}

/// The terms when nothing is said.
pub(super) fn default_terms(index: usize) -> Tenant {
    Tenant {
        name: Box::default(),
        index,
        vhost: None,
        exchange: ShortText::literal("amq.topic"),
        queue_prefix: Box::default(),
        cluster: None,
        allow_anonymous: true,
        anonymous: Rc::new(Credentials { username: "guest".into(), password: Secret::new(b"guest") }),
        without_password: WithoutPassword::default(),
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
    }
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    // `none` is where metrics of clients without a tenant are.
    !name.is_empty() && name != "none" && name.len() <= MAX_NAME && name.bytes().all(is_letter)
}

fn matching(mut keys: Keys<'_>) -> Result<Match> {
    let mut globs = |key| {
        // Server names come in lower case.
        let glob = |value: At<'_>| {
            value
                .text()
                .map(|text| if key == "sni" { Glob::new(&text.to_lowercase()) } else { Glob::new(&text) })
        };
        keys.one_or_more(key)?.map(|values| values.into_iter().map(glob).collect()).transpose()
    };
    let mut matching = Match {
        sni: globs("sni")?,
        filter_chain: globs("filter_chain")?,
        vhost: globs("vhost")?,
        username: globs("username")?,
        client_id: globs("client_id")?,
        cert_cn: globs("cert_cn")?,
        cert_dn: globs("cert_dn")?,
        cert_san: globs("cert_san")?,
        ..Match::default()
    };
    if let Some(ports) = keys.one_or_more("port")? {
        let port = |value: At<'_>| value.number(1, 65_535).map(|port| port as u16);
        matching.port = Some(ports.into_iter().map(port).collect::<Result<_>>()?);
    }
    if let Some(ranges) = keys.one_or_more("address")? {
        let range = |value: At<'_>| {
            let path = value.path.clone();
            let expected = "expected an IP address or a range as 192.0.2.0/24";
            AddressRange::parse(&value.text()?).ok_or_else(|| ConfigError::new(path, expected))
        };
        matching.address = Some(ranges.into_iter().map(range).collect::<Result<_>>()?);
    }
    keys.finish()?;
    Ok(matching)
}

/// Whether there may be clients without credentials, and who they are.
fn anonymous(keys: &mut Keys<'_>, base: &Tenant) -> Result<(bool, Rc<Credentials>)> {
    let is_allowed = keys.flag("allow_anonymous")?.unwrap_or(base.allow_anonymous);
    let (user, pass) = (keys.text("default_user")?, keys.text("default_pass")?);
    let who = match (user, pass) {
        (None, None) => Rc::clone(&base.anonymous),
        (user, pass) => Rc::new(Credentials {
            username: user.map_or_else(|| base.anonymous.username.clone(), Box::from),
            password: pass
                .map_or_else(|| base.anonymous.password.clone(), |pass| Secret::new(pass.as_bytes())),
        }),
    };
    if is_allowed && who.username.is_empty() {
        let expected = "expected a user name, since allow_anonymous is true";
        return Err(ConfigError::new(keys.path("default_user"), expected));
    }
    Ok((is_allowed, who))
}

fn account(keys: &mut Keys<'_>) -> Result<Option<Rc<Credentials>>> {
    let (user, pass) = (keys.text("broker_user")?, keys.text("broker_pass")?);
    let error = |key, expected| Err(ConfigError::new(keys.path(key), expected));
    match (user, pass) {
        (None, None) => Ok(None),
        (None, Some(_)) => error("broker_user", "expected a user name, since there is broker_pass"),
        (Some(user), _) if user.is_empty() => error("broker_user", "expected a user name"),
        (Some(_), None) => error("broker_pass", "expected a string, since there is broker_user"),
        (Some(user), Some(pass)) => {
            let password = Secret::new(pass.as_bytes());
            Ok(Some(Rc::new(Credentials { username: user.into(), password })))
        }
    }
}

fn quota(keys: &mut Keys<'_>, base: Quota) -> Result<Quota> {
    let mut limit = |key, most: u32| Ok(keys.number(key, 1, most.into())?.map(|most| most as u32));
    let mut rate = |key| Ok(limit(key, MAX_RATE as u32)?.and_then(Rate::new));
    Ok(Quota {
        message_rate: rate("message_rate")?.or(base.message_rate),
        byte_rate: rate("byte_rate")?.or(base.byte_rate),
        client_message_rate: rate("client_message_rate")?.or(base.client_message_rate),
        client_byte_rate: rate("client_byte_rate")?.or(base.client_byte_rate),
        max_connections: limit("max_connections", u32::MAX)?.or(base.max_connections),
        max_inflight: limit("max_inflight", u16::MAX.into())?.map(|most| most as u16).or(base.max_inflight),
        max_topic_levels: limit("max_topic_levels", 128)?.map(|most| most as u8).or(base.max_topic_levels),
        max_subscriptions: limit("max_subscriptions", u32::MAX)?.or(base.max_subscriptions),
        max_shared_subscriptions: limit("max_shared_subscriptions", 65_535)?
            .map(|most| most as u16)
            .unwrap_or(base.max_shared_subscriptions),
        max_payload_size: keys
            .number("max_payload_size", 0, mqtt::MAX_REMAINING_LENGTH.into())?
            .map(|most| most as u32)
            .or(base.max_payload_size),
        max_qos: keys
            .number("max_qos", 0, 2)?
            .and_then(|qos| QoS::from_bits(qos as u8))
            .unwrap_or(base.max_qos),
        retain_allowed: keys.flag("retain_allowed")?.unwrap_or(base.retain_allowed),
    })
}

pub(super) fn cluster(keys: &mut Keys<'_>, key: &str) -> Result<Option<Rc<str>>> {
    match keys.text(key)? {
        Some(name) if name.is_empty() => {
            Err(ConfigError::new(keys.path(key), "expected the name of a cluster"))
        }
        name => Ok(name.map(Rc::from)),
    }
}

/// What is left for a client id has to be worth something.
fn queue_prefix(keys: &mut Keys<'_>) -> Result<Option<Box<str>>> {
    const MOST: usize = 64;
    let prefix = keys.text("queue_prefix")?;
    if prefix.as_ref().is_some_and(|prefix| prefix.len() > MOST || !is_nameable(prefix)) {
        let expected = format!("expected at most {MOST} bytes without line breaks");
        return Err(ConfigError::new(keys.path("queue_prefix"), expected));
    }
    Ok(prefix.map(Box::from))
}

/// The default exchange would put a message into any queue that its topic names.
fn exchange(keys: &mut Keys<'_>) -> Result<Option<ShortText>> {
    let exchange = short(keys, "exchange")?;
    if exchange.as_ref().is_some_and(|name| name.as_str().is_empty()) {
        return Err(ConfigError::new(keys.path("exchange"), "expected the name of a topic exchange"));
    }
    Ok(exchange)
}

pub(super) fn short(keys: &mut Keys<'_>, key: &str) -> Result<Option<ShortText>> {
    let Some(text) = keys.text(key)? else { return Ok(None) };
    let short = ShortText::new(&text);
    short.map(Some).ok_or_else(|| ConfigError::new(keys.path(key), "expected at most 255 bytes"))
}
