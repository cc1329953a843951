//! The `mqtt.` keys of RabbitMQ 3.10 to 4.3.

use leveret::mqtt::{MAX_COLLECTED, MAX_REMAINING_LENGTH};

use super::conf::Setting;
use super::{Translation, listeners};
use crate::Wrong;

/// Who a client without credentials is. RabbitMQ 3 says it in `mqtt.default_user`, RabbitMQ 4 in `anonymous_login_user`.
#[derive(Default)]
pub(super) struct Anonymous {
    pub(super) allowed: Option<bool>,
    pub(super) user: Option<Setting>,
    pub(super) password: Option<Setting>,
    pub(super) login_user: Option<Setting>,
    pub(super) login_password: Option<Setting>,
}

pub(super) fn translate(to: &mut Translation, name: &[&str], setting: &Setting) -> Result<(), Wrong> {
    match name {
        ["allow_anonymous"] => to.anonymous.allowed = Some(setting.boolean()?),
        ["default_user"] => to.anonymous.user = Some(setting.clone()),
        ["default_pass"] => to.anonymous.password = Some(setting.clone()),
        ["vhost"] => to.set("vhost", setting.text()),
        ["exchange"] => to.set("exchange", setting.text()),
        ["sparkplug"] => to.set("sparkplug", setting.boolean()?),
        ["prefetch"] => match setting.number()? {
            0 => {
                to.set("prefetch", u16::MAX);
                to.remarks.note(setting, "0 is no limit; the largest that Leveret has is 65535");
            }
            n => to.set_within("prefetch", setting, n, 1, u16::MAX.into()),
        },
        ["subscription_ttl"] => ttl(to, setting, setting.number_or(&["undefined", "infinity"])?),
        ["max_session_expiry_interval_seconds"] => {
            let seconds = setting.number_or(&["infinity"])?;
            ttl(to, setting, seconds.map(|n| n.saturating_mul(1000)));
        }
        ["login_timeout"] => to.set_within("login_timeout", setting, setting.number()?, 100, 3_600_000),
        [key @ "max_packet_size_unauthenticated"] => {
            to.set_within(key, setting, setting.number()?, 128, MAX_COLLECTED.into());
        }
        [key @ "max_packet_size_authenticated"] => {
            to.set_within(key, setting, setting.number()?, 128, u64::from(MAX_REMAINING_LENGTH) + 5);
        }
        ["disconnect_on_unauthorized"] => {
            to.set("on_unauthorized", if setting.boolean()? { "disconnect" } else { "drop" });
        }
        ["mailbox_soft_limit"] => {
            // 0 has RabbitMQ drop nothing.
            let n = setting.number()?;
            to.set_within("qos0_max_length", setting, if n == 0 { u32::MAX.into() } else { n }, 1, u32::MAX.into());
            to.remarks.note(
                setting,
                "became `qos0_max_length`: messages wait in the client's queue at the broker, and the oldest goes first",
            );
        }
        ["max_connections"] => match setting.number_or(&["infinity"])? {
            None => to.remarks.note(setting, "infinity is no `max_connections`"),
            Some(0) => to.remarks.attend(
                setting,
                "0 lets nobody in, and Leveret has no such limit",
                "leave the listeners out of Envoy's configuration",
            ),
            Some(n) => {
                to.set_within("max_connections", setting, n, 1, u32::MAX.into());
                to.remarks.note(setting, "counts for one Envoy, where RabbitMQ counts for one node");
            }
        },
        ["durable_queue_type"] => match setting.one_of(&["classic", "quorum"])? {
            "classic" => to.remarks.note(setting, "Leveret's queues are classic ones"),
            _ => to.remarks.attend(
                setting,
                "Leveret's queues are classic ones. Sessions that are there in quorum queues are used as they are",
                "where a message must outlive its node, have the applications' own queues be quorum queues",
            ),
        },
        ["retained_message_store"] => match setting.text().trim_start_matches("rabbit_mqtt_retained_msg_store_") {
            "noop" => to.set("retained", false),
            _ => to.remarks.note(setting, "Leveret keeps retained messages in queues at the broker, not in a store of its own"),
        },
        ["retained_message_store_dets_sync_interval"] => {
            to.remarks.note(setting, "retained messages are in durable queues at the broker; there is no file of ours to sync");
        }
        ["retained_message_store", "max_messages" | "max_size_bytes"] => {
            if setting.number_or(&["infinity"])?.is_some() {
                to.remarks.attend(
                    setting,
                    "Leveret does not bound how many topics have a retained message",
                    "bound it with topic permissions, or with a limit of queues for the virtual host; `retained_max_size` bounds each",
                );
            } else {
                to.remarks.note(setting, "there is no limit either way");
            }
        }
        ["topic_alias_maximum"] => to.remarks.note(setting, "topic aliases are MQTT 5's, which Leveret does not speak"),
        ["message_interceptors", ..] => {
            if setting.boolean()? {
                to.remarks.attend(
                    setting,
                    "messages do not get their publisher's client id as an annotation",
                    "have consumers take it from the topic or the payload",
                );
            } else {
                to.remarks.note(setting, "off either way");
            }
        }
        ["num_acceptors", "tcp" | "ssl"] => {
            to.remarks.note(setting, "Envoy accepts in each of its workers: see its --concurrency");
        }
        ["ssl_cert_login"] => to.certificates.login = Some((setting.clone(), setting.boolean()?)),
        ["ssl_cert_client_id_from"] => to.certificates.client_id.from = Some(setting.clone()),
        // In spite of their names these two are the client id's; the login's are without `mqtt.`.
        ["ssl_cert_login_san_type"] => to.certificates.client_id.san_type = Some(setting.clone()),
        ["ssl_cert_login_san_index"] => to.certificates.client_id.san_index = Some(setting.clone()),
        ["listeners" | "tcp_listen_options" | "proxy_protocol", ..] => {
            listeners::translate(to, name, setting)?;
        }
        _ => to.remarks.attend(
            setting,
            "not a key that RabbitMQ's MQTT plugin has in 3.10 to 4.3",
            "see whether it is misspelt",
        ),
    }
    Ok(())
}

/// How long a session outlives its connection, in milliseconds.
fn ttl(to: &mut Translation, setting: &Setting, ms: Option<u64>) {
    if to.plugin.contains_key("subscription_ttl") {
        to.remarks.attend(
            setting,
            "`mqtt.max_session_expiry_interval_seconds` is there as well, and no RabbitMQ takes both. This one counts",
            "leave one of them out",
        );
    }
    match ms {
        None => to.set("subscription_ttl", "undefined"),
        Some(0) => {
            to.set("subscription_ttl", 1);
            to.remarks.note(
                setting,
                "0 ends sessions with their connections; a millisecond later is the closest there is",
            );
        }
        Some(ms) => to.set_within("subscription_ttl", setting, ms, 1, u32::MAX.into()),
    }
}

pub(super) fn finish(to: &mut Translation) {
    if to.plugin.get("retained").is_none() {
        to.remarks.attend_to(
            "retained messages",
            "those that RabbitMQ's plugin has stored are not carried over",
            "have their publishers send them again",
        );
    }
    to.remarks.attend_to(
        "rabbitmq_mqtt",
        "RabbitMQ's plugin and Leveret cannot have the same ports on one machine, nor the same names of queues",
        "disable the plugin when Envoy takes over; to have both, give Envoy other ports and set `queue_prefix`",
    );
    anonymous(to);
}

fn anonymous(to: &mut Translation) {
    let Anonymous { allowed, user, password, login_user, login_password } = std::mem::take(&mut to.anonymous);
    let nobody = login_user.as_ref().is_some_and(|setting| setting.text() == "none");
    if allowed.is_some() || nobody {
        to.set("allow_anonymous", allowed.unwrap_or(true) && !nobody);
    }
    let login_user = login_user.filter(|_| !nobody);
    for (key, of_3, of_4) in [("default_user", user, login_user), ("default_pass", password, login_password)]
    {
        if let (Some(of_3), Some(of_4)) = (&of_3, &of_4) {
            to.remarks.attend(
                of_3,
                format!("`{of_4}` is there as well, and is what counts"),
                "leave one of them out",
            );
        }
        let Some(setting) = of_4.or(of_3) else { continue };
        if setting.text().starts_with("encrypted:") {
            to.remarks.attend(
                &setting,
                "RabbitMQ alone can decrypt it",
                format!("put the password itself into `{key}`, or set `allow_anonymous` to false"),
            );
        } else {
            to.set(key, setting.text());
        }
    }
}
