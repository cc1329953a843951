//! Keys of RabbitMQ itself that MQTT clients, or an AMQP client such as Leveret, notice.

use std::collections::BTreeMap;

use serde_json::Value;

use super::conf::Setting;
use super::{Import, Translation};
use crate::Wrong;

/// What they say together.
#[derive(Default)]
pub(super) struct Rabbit {
    /// `loopback_users`: the users, `None` when nothing is said.
    loopback_users: Option<Vec<String>>,
    no_loopback_users: bool,
    mechanisms: Vec<Setting>,
    backends: BTreeMap<String, [Option<Setting>; 2]>,
    /// AMQP listeners.
    listeners: Vec<Setting>,
    definitions: Option<Setting>,
    /// Whether RabbitMQ's own list of users is what passwords are verified by.
    pub(super) verifies: bool,
    /// Whether its own permissions are what counts.
    pub(super) authorises: bool,
}

/// `false` for a key that is none of our business.
pub(super) fn translate(to: &mut Translation, name: &[&str], setting: &Setting) -> Result<bool, Wrong> {
    match name {
        ["loopback_users"] => {
            setting.one_of(&["none"])?;
            to.rabbit.no_loopback_users = true;
        }
        ["loopback_users", user] => {
            let users = to.rabbit.loopback_users.get_or_insert_default();
            users.extend(setting.boolean()?.then(|| (*user).to_owned()));
        }
        ["auth_backends", n] => {
            to.rabbit.backends.entry((*n).to_owned()).or_default().fill(Some(setting.clone()))
        }
        ["auth_backends", n, "authn"] => {
            let [authn, _] = to.rabbit.backends.entry((*n).to_owned()).or_default();
            *authn = Some(setting.clone());
        }
        ["auth_backends", n, "authz"] => {
            let [_, authz] = to.rabbit.backends.entry((*n).to_owned()).or_default();
            *authz = Some(setting.clone());
        }
        ["auth_mechanisms", _] => to.rabbit.mechanisms.push(setting.clone()),
        ["ssl_cert_login_from"] => to.certificates.name.from = Some(setting.clone()),
        ["ssl_cert_login_san_type"] => to.certificates.name.san_type = Some(setting.clone()),
        ["ssl_cert_login_san_index"] => to.certificates.name.san_index = Some(setting.clone()),
        ["anonymous_login_user"] => to.anonymous.login_user = Some(setting.clone()),
        ["anonymous_login_pass"] => to.anonymous.login_password = Some(setting.clone()),
        ["default_user" | "default_pass"] => to.remarks.note(
            setting,
            "the account that RabbitMQ makes at its first start; it is no default for MQTT clients",
        ),
        ["default_vhost"] => {
            to.remarks.note(setting, "where RabbitMQ's first account is; it is no default for MQTT clients");
        }
        ["listeners", "tcp"] | ["listeners", "tcp", _] => to.rabbit.listeners.push(setting.clone()),
        ["proxy_protocol"] => {
            if setting.boolean()? {
                to.remarks.attend(
                    setting,
                    "the broker's AMQP listeners expect the PROXY protocol, which this Envoy configuration does not speak to them",
                    "give the cluster `broker` Envoy's upstream proxy protocol transport socket, or have a listener without",
                );
            }
        }
        ["frame_max"] => match setting.text().parse() {
            Ok(n) if n < FRAME_MAX => to.set_within("frame_max", setting, n, 4096, FRAME_MAX),
            Ok(_) => {}
            Err(_) => to.remarks.attend(
                setting,
                "a size with a unit, which is not read here",
                "if it is less than 131072, set `frame_max` to it",
            ),
        },
        ["channel_max" | "max_channels_per_connection"] => {
            if (1..CHANNELS).contains(&setting.number()?) {
                to.remarks.attend(
                    setting,
                    "Leveret opens up to 7 channels for a client",
                    "let it be 7 or more",
                );
            }
        }
        ["consumer_timeout"] => {
            // A will is a message that is never acknowledged, so it has to be renewed in time.
            if let Some(ms) = setting.number_or(&["undefined", "infinity"])?
                && ms / 2 < WILL_REFRESH
            {
                to.set_within("will_refresh", setting, ms / 2, 100, WILL_REFRESH);
            }
        }
        ["load_definitions"] | ["management", "load_definitions"] | ["definitions", "local", "path"] => {
            to.rabbit.definitions = Some(setting.clone());
        }
        _ => return Ok(false),
    }
    Ok(true)
}

pub(super) fn finish(to: &mut Translation, import: &Import) -> Result<(), Wrong> {
    let rabbit = std::mem::take(&mut to.rabbit);
    if rabbit.no_loopback_users {
        to.set("loopback_users", Value::Array(Vec::new()));
    } else if let Some(users) = rabbit.loopback_users {
        to.set("loopback_users", users);
    }

    if !rabbit.mechanisms.is_empty() && rabbit.mechanisms.iter().all(|setting| setting.text() != "PLAIN") {
        for setting in &rabbit.mechanisms {
            to.remarks.attend(setting, "Leveret logs in by PLAIN", "add `PLAIN` to the mechanisms");
        }
    }

    (to.rabbit.verifies, to.rabbit.authorises) = (true, true);
    for halves in rabbit.backends.into_values() {
        let is_internal = |half: &Option<Setting>| {
            half.as_ref()
                .is_none_or(|half| matches!(half.text(), "internal" | "rabbit_auth_backend_internal"))
        };
        // One half stands for the other, if that is not given.
        let [authn, authz] = &halves;
        to.rabbit.verifies &= is_internal(authn) && (authn.is_some() || is_internal(authz));
        to.rabbit.authorises &= is_internal(authz) && (authz.is_some() || is_internal(authn));
        let mut foreign: Vec<_> = halves.iter().filter(|half| !is_internal(half)).flatten().collect();
        foreign.dedup_by_key(|setting| &setting.key);
        for setting in foreign {
            to.remarks.attend(
                setting,
                "what another backend decides cannot be decided at the edge",
                "nothing: the broker goes on verifying (no `users` are written) or authorising (no `permissions`) by it",
            );
        }
    }

    for setting in &rabbit.listeners {
        let port = setting.text().rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        if port != Some(import.broker.port) {
            let broker = format!("{}:{}", import.broker.host, import.broker.port);
            to.remarks.attend(
                setting,
                format!("not where this Envoy looks for the broker: {broker}"),
                "see --broker",
            );
        }
    }
    if let (Some(setting), None) = (rabbit.definitions, &import.definitions) {
        to.remarks.attend(&setting, "definitions were not given", "see --definitions");
    }
    Ok(())
}

/// Leveret's default, and RabbitMQ's.
const FRAME_MAX: u64 = 131_072;
/// See docs/broker.md.
const CHANNELS: u64 = 7;
/// Leveret's default, in milliseconds.
const WILL_REFRESH: u64 = 900_000;
