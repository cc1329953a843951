//! The top level of a configuration.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::keys::Keys;
use super::tenants::{self, Terms};
use super::{Config, ConfigError, ConnectMode, Limits, Login, Result};
use crate::amqp::{self, ShortText};
use crate::mqtt;
use crate::policy::{BrakeLimits, NameFrom, Policy, VhostRules, VhostSource};
use crate::time::Duration;
use crate::topic::TopicMapping;

pub(super) fn config(mut keys: Keys<'_>) -> Result<Config> {
    let keys = &mut keys;
    let topic_mapping = topic_mapping(keys)?;
    let connect_mode = keys
        .word("connect_mode", &[("lazy", ConnectMode::Lazy), ("eager", ConnectMode::Eager)])?
        .unwrap_or_default();
    let config = Config {
        connect_mode,
        local_reply_cluster: tenants::cluster(keys, "local_reply_cluster")?,
        login: keys
            .word("login", &[("pipelined", Login::Pipelined), ("sequential", Login::Sequential)])?
            .unwrap_or_default(),
        topic_mapping,
        subscription_ttl: subscription_ttl(keys)?,
        qos0_max_length: keys.number("qos0_max_length", 1, u32::MAX.into())?.unwrap_or(10_000) as u32,
        shared_max_length: keys.number("shared_max_length", 1, u32::MAX.into())?.unwrap_or(10_000) as u32,
        will_refresh: millis(keys, "will_refresh", 100, 86_400_000, 900_000)?,
        limits: limits(keys)?,
        heartbeat: keys.number("heartbeat", 0, 3600)?.unwrap_or(30) as u16,
        policy: Rc::new(policy(keys, &Terms { topic_mapping, connect_mode })?),
    };
    core::mem::take(keys).finish()?;
    Ok(config)
}

fn topic_mapping(keys: &mut Keys<'_>) -> Result<TopicMapping> {
    let mapping = keys.word(
        "topic_mapping",
        &[("rabbitmq", TopicMapping::Rabbitmq), ("reversible", TopicMapping::Reversible)],
    )?;
    match (mapping.unwrap_or_default(), keys.flag("sparkplug")?.unwrap_or_default()) {
        (TopicMapping::Reversible, true) => {
            Err(ConfigError::new("sparkplug", "expected topic_mapping rabbitmq with it"))
        }
        (_, true) => Ok(TopicMapping::Sparkplug),
        (mapping, false) => Ok(mapping),
    }
}

/// RabbitMQ's: milliseconds, or `undefined`.
fn subscription_ttl(keys: &mut Keys<'_>) -> Result<Option<Duration>> {
    const KEY: &str = "subscription_ttl";
    const DEFAULT: u64 = 86_400_000;
    let Some(value) = keys.take(KEY) else { return Ok(Some(Duration::from_millis(DEFAULT))) };
    // What RabbitMQ takes for x-expires: above it is its largest timer.
    let most = u32::MAX;
    if value.is_text() {
        let expected = format!("expected a whole number from 1 to {most}, or \"undefined\"");
        return if value.text()? == "undefined" { Ok(None) } else { Err(ConfigError::new(KEY, expected)) };
    }
    Ok(Some(Duration::from_millis(value.number(1, most.into())?)))
}

fn limits(keys: &mut Keys<'_>) -> Result<Limits> {
    let mut size =
        |key, least, most, default: u64| Ok(keys.number(key, least, most)?.unwrap_or(default) as u32);
    let largest = u64::from(mqtt::MAX_REMAINING_LENGTH) + 5;
    Ok(Limits {
        max_packet_size_unauthenticated: size(
            "max_packet_size_unauthenticated",
            128,
            mqtt::MAX_COLLECTED.into(),
            65_536,
        )?,
        max_packet_size_authenticated: size("max_packet_size_authenticated", 128, largest, 16_777_216)?,
        retained_max_size: size("retained_max_size", 0, 268_435_455, 1 << 20)?,
        frame_max: size("frame_max", amqp::FRAME_MIN_SIZE.into(), 1 << 24, 131_072)?,
        packet_timeout: millis(keys, "packet_timeout", 1000, 86_400_000, 60_000)?,
        login_timeout: millis(keys, "login_timeout", 100, 3_600_000, 10_000)?,
    })
}

fn policy(keys: &mut Keys<'_>, terms: &Terms) -> Result<Policy> {
    let list = keys.list("tenants")?.unwrap_or_default();
    let no_tenant = terms.read(keys, tenants::default_terms(list.len()))?;
    let require_tenant = keys.flag("require_tenant")?.unwrap_or_default();
    let tenants = terms.tenants(list, &no_tenant)?;
    if !require_tenant {
        terms.check(&no_tenant, keys)?;
    }
    Ok(Policy {
        max_memory: keys.number("max_memory", 1 << 22, 1 << 30)?.unwrap_or(768 << 20) as usize,
        tenants,
        no_tenant: Rc::new(no_tenant),
        require_tenant,
        login_from: name_from(keys, "ssl_cert_login")?.unwrap_or(NameFrom::DistinguishedName),
        client_id_from: name_from(keys, "ssl_cert_client_id")?,
        vhost: tenants::short(keys, "vhost")?.unwrap_or_else(|| ShortText::literal("/")),
        vhosts: vhost_rules(keys)?,
        brake: BrakeLimits {
            per_address: keys.number("max_login_failures_per_address", 0, u32::MAX.into())?.unwrap_or(30)
                as u32,
            per_user: keys.number("max_login_failures_per_user", 0, u32::MAX.into())?.unwrap_or(100) as u32,
            window: millis(keys, "login_failure_window", 1, 86_400_000, 60_000)?,
        },
        max_credentials_size: keys.number("max_credentials_size", 1, 65_535)?.unwrap_or(3_584) as usize,
        topic_mapping: terms.topic_mapping,
    })
}

/// Which name of a certificate: `…_from`, and of an alternative name `…_san_type` and `…_san_index`.
fn name_from(keys: &mut Keys<'_>, what: &str) -> Result<Option<NameFrom>> {
    let san = keys.word(&format!("{what}_san_type"), &[("dns", NameFrom::Dns), ("uri", NameFrom::Uri)])?;
    let index = format!("{what}_san_index");
    if keys.number(&index, 0, u32::MAX.into())?.is_some_and(|index| index > 0) {
        let expected = "expected 0: of each kind of name Envoy tells only the first";
        return Err(ConfigError::new(index, expected));
    }
    let names = [
        ("distinguished_name", NameFrom::DistinguishedName),
        ("subject_alternative_name", san.unwrap_or(NameFrom::Dns)),
        ("common_name", NameFrom::CommonName),
    ];
    // As RabbitMQ has it, a client id is no common name.
    let known = if what == "ssl_cert_login" { names.as_slice() } else { names.get(..2).unwrap_or_default() };
    keys.word(&format!("{what}_from"), known)
}

fn vhost_rules(keys: &mut Keys<'_>) -> Result<VhostRules> {
    let order = match keys.list("vhost_from")? {
        Some(list) => {
            let sources = VhostSource::CONFIGURABLE.map(|source| (source.name(), source));
            Some(list.into_iter().map(|value| value.word(&sources)).collect::<Result<_>>()?)
        }
        None => None,
    };
    let mut by_port = BTreeMap::new();
    for (port, vhost) in mapping(keys, "mqtt_port_to_vhost_mapping")? {
        let number = port.parse().map_err(|_| {
            ConfigError::new(format!("mqtt_port_to_vhost_mapping.{port}"), "expected a port as the key")
        })?;
        by_port.insert(number, vhost);
    }
    Ok(VhostRules {
        order,
        ignore_colons_in_username: keys.flag("ignore_colons_in_username")?.unwrap_or_default(),
        by_certificate: mapping(keys, "mqtt_default_vhosts")?,
        by_port,
        by_san: mapping(keys, "san_to_vhost_mapping")?,
        // Server names come in lower case.
        by_sni: mapping(keys, "sni_to_vhost_mapping")?
            .into_iter()
            .map(|(name, vhost)| (name.to_lowercase().into(), vhost))
            .collect(),
        by_filter_chain: mapping(keys, "filter_chain_to_vhost_mapping")?,
    })
}

fn mapping(keys: &mut Keys<'_>, key: &str) -> Result<BTreeMap<Box<str>, Box<str>>> {
    let pairs = keys.object(key)?.map(Keys::texts).transpose()?.unwrap_or_default();
    Ok(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

fn millis(keys: &mut Keys<'_>, key: &str, least: u64, most: u64, default: u64) -> Result<Duration> {
    Ok(Duration::from_millis(keys.number(key, least, most)?.unwrap_or(default)))
}
