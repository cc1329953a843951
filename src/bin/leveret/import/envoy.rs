//! The Envoy configuration: `envoy/lazy.yaml` with a listener for each of RabbitMQ's.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::Import;
use super::listeners::{Listener, Listeners};
use super::tls::Tls;
use crate::document;

/// What `import` makes.
pub(super) struct Envoy {
    /// The plugin configuration by itself.
    pub(super) plugin: Map<String, Value>,
    /// All of it.
    pub(super) tree: Value,
}

pub(super) fn configuration(
    listeners: &Listeners,
    tls: &Tls,
    settings: Map<String, Value>,
    import: &Import,
) -> Result<Envoy> {
    let mut tree = document::parse(MODEL)?.into_iter().next().context("envoy/lazy.yaml is empty")?;
    let plugin_at = format!("{LISTENER}{WASM}/configuration/value");
    let modelled = at(&mut tree, &plugin_at)?.as_str().unwrap_or_default();
    let mut plugin: Map<String, Value> =
        serde_json::from_str(modelled).context("envoy/lazy.yaml: configuration")?;
    plugin.extend(settings);
    *at(&mut tree, &plugin_at)? = pretty(&plugin)?.into();
    *at(&mut tree, &format!("{LISTENER}{WASM}/vm_config/code/local/filename"))? =
        import.module.clone().into();
    *at(&mut tree, BROKER)? = json!({ "address": import.broker.host, "port_value": import.broker.port });

    let model = at(&mut tree, LISTENER)?.take();
    let made = (listeners.tcp.iter().map(|listener| (listener, None)))
        .chain(listeners.ssl.iter().map(|listener| (listener, Some(tls))))
        .map(|(listener, tls)| self::listener(model.clone(), listener, listeners, tls))
        .collect::<Result<Vec<_>>>()?;
    let all = at(&mut tree, "/static_resources/listeners")?.as_array_mut().context("listeners")?;
    all.splice(..1, made);
    Ok(Envoy { plugin, tree })
}

impl Envoy {
    pub(super) fn yaml(&self) -> Result<String> {
        Ok(format!("{HEAD}{}", serde_saphyr::to_string(&self.tree)?))
    }

    pub(super) fn json(&self) -> Result<String> {
        Ok(pretty(&self.plugin)?)
    }
}

fn listener(mut model: Value, listener: &Listener, common: &Listeners, tls: Option<&Tls>) -> Result<Value> {
    *at(&mut model, "/name")? = listener.name.clone().into();
    let address = at(&mut model, "/address/socket_address")?;
    *address = json!({ "address": listener.address, "port_value": listener.port });
    if listener.address.is_ipv6() && listener.address.is_unspecified() {
        put(address, "ipv4_compat", true);
    }
    if let Some(backlog) = common.backlog {
        put(&mut model, "tcp_backlog_size", backlog);
    }
    if common.proxy_protocol {
        put(
            &mut model,
            "listener_filters",
            json!([{ "name": "proxy_protocol", "typed_config": { "@type": PROXY_PROTOCOL } }]),
        );
    }
    let options = at(&mut model, "/socket_options")?.as_array_mut().context("socket_options")?;
    for option in &common.options {
        options.retain(|other| other["description"] != option["description"]);
        options.push(option.clone());
    }
    *at(&mut model, "/filter_chains/0/filters/1/typed_config/stat_prefix")? = listener.name.clone().into();
    if let Some(tls) = tls {
        let chain = at(&mut model, "/filter_chains/0")?;
        put(chain, "transport_socket", tls.transport_socket());
        if let Some(timeout) = tls.handshake_timeout() {
            put(chain, "transport_socket_connect_timeout", timeout);
        }
    }
    Ok(model)
}

/// Sets a key of an object.
pub(super) fn put(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value.into());
    }
}

fn at<'a>(tree: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    tree.pointer_mut(pointer).with_context(|| format!("envoy/lazy.yaml has no {pointer}"))
}

/// JSON that is readable, and in a YAML block whatever is in it: JSON may write every character as an escape.
fn pretty(plugin: &Map<String, Value>) -> serde_json::Result<String> {
    let mut text = String::new();
    for c in serde_json::to_string_pretty(plugin)?.chars() {
        match c {
            '\n' => text.push(c),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                text += &format!("\\u{:04x}", u32::from(c))
            }
            c if c.is_control() => text += &format!("\\u{:04x}", u32::from(c)),
            c => text.push(c),
        }
    }
    text.push('\n');
    Ok(text)
}

const HEAD: &str = "# Made by `leveret import`. What is in it is explained in envoy/lazy.yaml, its model.
# It may hold password hashes and passwords: keep it private.
";
const MODEL: &str = include_str!("../../../../envoy/lazy.yaml");
const LISTENER: &str = "/static_resources/listeners/0";
const WASM: &str = "/filter_chains/0/filters/0/typed_config/config";
const BROKER: &str =
    "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
const PROXY_PROTOCOL: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
