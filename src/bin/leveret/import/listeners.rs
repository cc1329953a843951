//! Where clients connect, and the options of those sockets.

use std::net::{IpAddr, Ipv6Addr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::Translation;
use super::conf::Setting;
use crate::Wrong;

/// All listeners of the plugin's, and what they have in common.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) tcp: Vec<Listener>,
    pub(super) ssl: Vec<Listener>,
    /// `mqtt.listeners.tcp = none`, and the same for `ssl`.
    none: [Option<Setting>; 2],
    pub(super) proxy_protocol: bool,
    pub(super) backlog: Option<u64>,
    /// Envoy's `socket_options`, with Linux's numbers.
    pub(super) options: Vec<Value>,
    linger: (Option<Setting>, bool, u64),
    send_timeout: Option<(Setting, u64)>,
    keeps_after_send_timeout: bool,
}

/// One of them.
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

pub(super) fn translate(to: &mut Translation, name: &[&str], setting: &Setting) -> Result<(), Wrong> {
    let listeners = &mut to.listeners;
    match name {
        ["proxy_protocol"] => listeners.proxy_protocol = setting.boolean()?,
        ["listeners", "tcp"] => listeners.none[0] = Some(none(setting)?),
        ["listeners", "ssl"] => listeners.none[1] = Some(none(setting)?),
        ["listeners", "tcp", name] => listeners.tcp.push(Listener::new("tcp", name, setting)?),
        ["listeners", "ssl", name] => listeners.ssl.push(Listener::new("ssl", name, setting)?),
        ["tcp_listen_options"] => {
            none(setting)?;
            to.remarks.note(setting, "no options are Envoy's defaults, but for TCP_NODELAY");
        }
        ["tcp_listen_options", option @ ..] => socket_option(to, option, setting)?,
        _ => to.remarks.attend(
            setting,
            "not a key that RabbitMQ's MQTT plugin has in 3.10 to 4.3",
            "see whether it is misspelt",
        ),
    }
    Ok(())
}

fn none(setting: &Setting) -> Result<Setting, Wrong> {
    setting.one_of(&["none"])?;
    Ok(setting.clone())
}

fn socket_option(to: &mut Translation, option: &[&str], setting: &Setting) -> Result<(), Wrong> {
    let listeners = &mut to.listeners;
    let mut set = |description, level, name, value: u64| {
        listeners.options.push(socket(description, level, name, json!({ "int_value": value })));
    };
    match option {
        ["backlog"] => listeners.backlog = Some(setting.number()?),
        ["nodelay"] => set("TCP_NODELAY", TCP, 1, setting.boolean()?.into()),
        ["keepalive"] => set("SO_KEEPALIVE", SOCKET, 9, setting.boolean()?.into()),
        ["recbuf"] => set("SO_RCVBUF", SOCKET, 8, setting.number()?),
        ["sndbuf"] => set("SO_SNDBUF", SOCKET, 7, setting.number()?),
        ["dontroute"] => set("SO_DONTROUTE", SOCKET, 5, setting.boolean()?.into()),
        // Tried: a connection does not get these from the socket it came in by.
        ["priority" | "tos"] => to.remarks.attend(
            setting,
            "Envoy sets options on listening sockets, and Linux does not hand this one on to connections",
            "mark the packets by a firewall rule, if the network goes by it",
        ),
        ["linger", "on"] => {
            listeners.linger.1 = setting.boolean()?;
            listeners.linger.0 = Some(setting.clone());
        }
        ["linger", "timeout"] => {
            listeners.linger.2 = setting.number()?;
            listeners.linger.0.get_or_insert_with(|| setting.clone());
        }
        ["send_timeout"] => listeners.send_timeout = Some((setting.clone(), setting.number()?)),
        ["send_timeout_close"] => {
            listeners.keeps_after_send_timeout = !setting.boolean()?;
            if listeners.keeps_after_send_timeout {
                to.remarks.attend(
                    setting,
                    "Envoy has no timeout for sending that leaves the connection open, so `send_timeout` is not set",
                    "nothing: a client that takes nothing is closed when its keepalive ends",
                );
            } else {
                to.remarks.note(setting, "the connection is closed either way");
            }
        }
        ["buffer" | "high_watermark" | "low_watermark" | "high_msgq_watermark" | "low_msgq_watermark"] => {
            to.remarks.note(
                setting,
                "Erlang's buffers; what Envoy buffers is `per_connection_buffer_limit_bytes` of the listener",
            )
        }
        ["delay_send" | "exit_on_close"] => to.remarks.note(setting, "has to do with Erlang's sockets only"),
        ["fd" | "port"] => to.remarks.attend(
            setting,
            "Envoy opens its own sockets, on the listeners' ports",
            "see whether the listeners are the ones that are meant",
        ),
        _ => to.remarks.attend(
            setting,
            "not a socket option that RabbitMQ has in 3.10 to 4.3",
            "see whether it is misspelt",
        ),
    }
    Ok(())
}

pub(super) fn finish(to: &mut Translation) -> Result<(), Wrong> {
    let Listeners { tcp, ssl, none, linger, send_timeout, keeps_after_send_timeout, options, .. } =
        &mut to.listeners;
    let is_default = tcp.is_empty() && none[0].is_none();
    for (setting, listeners) in none.iter().zip([&mut *tcp, ssl]) {
        let Some(setting) = setting else { continue };
        if listeners.is_empty() {
            to.remarks.note(setting, "has no listeners");
        } else {
            listeners.clear();
            to.remarks.attend(
                setting,
                "is said beside listeners, and RabbitMQ then has none",
                "leave one of them out",
            );
        }
    }
    if is_default {
        tcp.push(Listener { name: "mqtt_tcp".to_owned(), address: ANY, port: 1883 });
        to.remarks.note_of("mqtt.listeners.tcp", "not said: 1883 on all interfaces, as RabbitMQ does");
    }

    if let (Some(setting), on, seconds) = linger {
        // struct linger of two ints.
        let int = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).min(i32::MAX as u32).to_le_bytes();
        let bytes = [int((*on).into()), int(*seconds)].concat();
        options.push(socket("SO_LINGER", SOCKET, 13, json!({ "buf_value": BASE64_STANDARD.encode(bytes) })));
        if *on && *seconds == 0 {
            to.remarks.attend(
                setting,
                "closes by reset, so a client may miss the last thing it was sent, such as a CONNACK that says why",
                "take SO_LINGER out of the listeners' `socket_options`, unless it is needed",
            );
        }
    }
    if let Some((setting, ms)) = send_timeout {
        if *keeps_after_send_timeout {
            to.remarks.note(setting, "is not set: see `send_timeout_close`");
        } else {
            options.push(socket("TCP_USER_TIMEOUT", TCP, 18, json!({ "int_value": *ms })));
            to.remarks.note(
                setting,
                "became TCP_USER_TIMEOUT: how long a client may take nothing of what it is sent",
            );
        }
    }
    Ok(())
}

impl Listener {
    /// RabbitMQ takes a port, or an IP and a port.
    fn new(kind: &str, name: &str, setting: &Setting) -> Result<Self, Wrong> {
        let (address, port) = match setting.text().rsplit_once(':') {
            None => (ANY, setting.text()),
            Some((address, port)) => {
                let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
                (address.parse().map_err(|_| setting.wrong("expected PORT or IP:PORT"))?, port)
            }
        };
        let port = port.parse().map_err(|_| setting.wrong("expected a port from 0 to 65535"))?;
        Ok(Self { name: format!("mqtt_{kind}_{name}"), address, port })
    }
}

fn socket(description: &str, level: u32, name: u32, value: Value) -> Value {
    let mut option = json!({ "description": description, "level": level, "name": name });
    if let (Some(option), Value::Object(value)) = (option.as_object_mut(), value) {
        option.extend(value);
        // The kernel takes the size of its buffers into account when it listens.
        let state =
            if matches!(name, 7 | 8) && level == SOCKET { "STATE_PREBIND" } else { "STATE_LISTENING" };
        option.insert("state".to_owned(), state.into());
    }
    option
}

/// All interfaces, IPv4's too.
const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

// Levels of setsockopt(2).
const SOCKET: u32 = 1;
const TCP: u32 = 6;
