//! The files that users copy, with what they would change in them, and more ways in and out for tests.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The files in `envoy/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `envoy/lazy.yaml`: the broker is connected to after CONNECT has been read.
    #[default]
    Lazy,
    /// `envoy/eager.yaml`: at once.
    Eager,
}

impl Mode {
    /// The file's stem, and the value of the filter's `connect_mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Eager => "eager",
        }
    }
}

/// A shipped file with what a user would change in it.
#[derive(Clone, Debug)]
pub struct Shipped {
    /// Which file.
    pub mode: Mode,
    /// The module.
    pub module: PathBuf,
    /// The MQTT listener's address; port 0 for any free one, see [`Envoy::address`](super::Envoy::address).
    pub mqtt: SocketAddr,
    /// The admin interface's.
    pub admin: SocketAddr,
    /// The broker: a name or an IP, and a port.
    pub broker: (String, u16),
    /// Keys of the filter's own configuration, put over those of the file.
    pub plugin: Value,
    /// More listeners, for which all of this holds, too.
    pub listeners: Vec<Listener>,
    /// More brokers: the names of their clusters, and where they are.
    pub brokers: Vec<(String, SocketAddr)>,
}

/// Another way in.
#[derive(Clone, Debug)]
pub struct Listener {
    /// By which [`Envoy::address`](super::Envoy::address) knows it.
    pub name: String,
    /// Its address; port 0 for any free one.
    pub address: SocketAddr,
    /// Of which the client gets the one that fits best.
    pub chains: Vec<Chain>,
}

/// A filter chain of a listener: the filters are always the same, what is around them is not, and what they are told need not be.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Its name, for `match.filter_chain`.
    pub name: String,
    /// The server names (SNI) it is for, such as `*.acme.example`; none is for all.
    pub server_names: Vec<String>,
    /// `support::tls::transport_socket`; without one it is plain TCP.
    pub transport_socket: Option<Value>,
    /// More keys of the filter's own configuration, put over [`Shipped::plugin`].
    pub plugin: Map<String, Value>,
}

impl Default for Shipped {
    fn default() -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            mode: Mode::default(),
            module: module(),
            mqtt: any_port,
            admin: any_port,
            broker: ("127.0.0.1".to_owned(), 5672),
            plugin: json!({}),
            listeners: Vec::new(),
            brokers: Vec::new(),
        }
    }
}

impl Shipped {
    /// With this broker, everything else as shipped and on free ports.
    pub fn with_broker(mode: Mode, broker: SocketAddr) -> Self {
        Self { mode, broker: (broker.ip().to_string(), broker.port()), ..Self::default() }
    }

    /// The whole configuration, to be changed further or given to [`Envoy::start`](super::Envoy::start).
    pub fn render(&self) -> Result<Value> {
        let mut config = read(self.mode.name())?;
        self.fill(&mut config).with_context(|| format!("{}.yaml {LACKING}", self.mode.name()))?;
        Ok(config)
    }

    /// The same as `envoy/ecds.yaml` has it, with the filter in a file of its own: the configuration, and what belongs in that `file`.
    pub fn render_discovered(&self, file: &Path) -> Result<(Value, Value)> {
        let (discovering, mut resources) = (read("ecds")?, read("leveret-ecds")?);
        // There is no such file for eager connects: the filter's place is the same.
        let config = if self.mode == Mode::Lazy { discovering.clone() } else { read(self.mode.name())? };
        let config = self.discover(config, discovering, &mut resources, file);
        Ok((config.with_context(|| format!("ecds.yaml {LACKING}"))?, resources))
    }

    fn discover(
        &self,
        mut config: Value,
        mut discovering: Value,
        resources: &mut Value,
        file: &Path,
    ) -> Option<Value> {
        let filter = "/static_resources/listeners/0/filter_chains/0/filters";
        let discovered = named(discovering.pointer_mut(filter)?, "leveret")?;
        *discovered.pointer_mut("/config_discovery/config_source/path_config_source/path")? = json!(file);
        let resource = named(resources.pointer_mut("/resources")?, "leveret")?;
        // It is filled in its usual place, and then taken out.
        let usual = json!({ "name": "leveret", "typed_config": resource["typed_config"] });
        *named(config.pointer_mut(filter)?, "leveret")? = usual;
        self.fill(&mut config)?;
        for listener in config.pointer_mut("/static_resources/listeners")?.as_array_mut()? {
            for chain in listener["filter_chains"].as_array_mut()? {
                if let Some(filter) = named(&mut chain["filters"], "leveret") {
                    resource["typed_config"] = filter["typed_config"].take();
                    *filter = discovered.clone();
                }
            }
        }
        config["node"] = discovering["node"].take();
        Some(config)
    }

    /// Goes to what it changes by name, so a file may grow around it.
    fn fill(&self, config: &mut Value) -> Option<()> {
        *config.pointer_mut("/admin/address/socket_address")? =
            socket_address(self.admin.ip(), self.admin.port());
        let mqtt = named(config.pointer_mut("/static_resources/listeners")?, "mqtt")?;
        *mqtt.pointer_mut("/address/socket_address")? = socket_address(self.mqtt.ip(), self.mqtt.port());
        let filter = named(mqtt.pointer_mut("/filter_chains/0/filters")?, "leveret")?;
        *filter.pointer_mut("/typed_config/config/vm_config/code/local/filename")? = json!(self.module);
        configure(filter, self.plugin.as_object()?)?;
        let broker = named(config.pointer_mut("/static_resources/clusters")?, "broker")?;
        *broker
            .pointer_mut("/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address")? =
            socket_address(&self.broker.0, self.broker.1);
        self.add_brokers(config)?;
        self.add_listeners(config)
    }

    fn add_brokers(&self, config: &mut Value) -> Option<()> {
        let clusters = config.pointer_mut("/static_resources/clusters")?;
        for (name, address) in &self.brokers {
            let mut cluster = named(clusters, "broker")?.clone();
            cluster["name"] = json!(name);
            let assignment = cluster.pointer_mut("/load_assignment")?;
            assignment["cluster_name"] = json!(name);
            *assignment.pointer_mut("/endpoints/0/lb_endpoints/0/endpoint/address/socket_address")? =
                socket_address(address.ip(), address.port());
            clusters.as_array_mut()?.push(cluster);
        }
        Some(())
    }

    fn add_listeners(&self, config: &mut Value) -> Option<()> {
        let listeners = config.pointer_mut("/static_resources/listeners")?;
        let mqtt = named(listeners, "mqtt")?.clone();
        for Listener { name, address, chains } in &self.listeners {
            let mut listener = mqtt.clone();
            listener["name"] = json!(name);
            *listener.pointer_mut("/address/socket_address")? = socket_address(address.ip(), address.port());
            let filters = mqtt.pointer("/filter_chains/0/filters")?;
            listener["filter_chains"] =
                chains.iter().map(|chain| chain.render(filters)).collect::<Option<_>>()?;
            if chains.iter().any(|chain| chain.transport_socket.is_some()) {
                listener["listener_filters"] = json!([tls_inspector()]);
            }
            listeners.as_array_mut()?.push(listener);
        }
        Some(())
    }
}

impl Chain {
    fn render(&self, filters: &Value) -> Option<Value> {
        let mut chain = json!({ "name": self.name, "filters": filters });
        configure(named(&mut chain["filters"], "leveret")?, &self.plugin)?;
        if !self.server_names.is_empty() {
            chain["filter_chain_match"] = json!({ "server_names": self.server_names });
        }
        if let Some(socket) = &self.transport_socket {
            chain["transport_socket"] = socket.clone();
        }
        Some(chain)
    }
}

/// Puts keys over those of the filter's own configuration.
fn configure(filter: &mut Value, keys: &Map<String, Value>) -> Option<()> {
    let settings = filter.pointer_mut("/typed_config/config/configuration/value")?;
    let mut all: Map<String, Value> = serde_json::from_str(settings.as_str()?).ok()?;
    all.extend(keys.clone());
    *settings = Value::String(Value::Object(all).to_string());
    Some(())
}

/// The listener filter without which no server name (SNI) is known.
pub fn tls_inspector() -> Value {
    json!({
        "name": "tls_inspector",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        },
    })
}

/// A shipped configuration as a plain TCP proxy: to compare with, in front of a broker that speaks MQTT itself.
pub fn without_filter(mut config: Value) -> Result<Value> {
    let strip = |config: &mut Value| {
        let listener = named(config.pointer_mut("/static_resources/listeners")?, "mqtt")?;
        let filters = listener.pointer_mut("/filter_chains/0/filters")?;
        filters.as_array_mut()?.retain(|filter| filter["name"] != "leveret");
        let proxy = named(filters, "tcp_proxy")?["typed_config"].as_object_mut()?;
        // It has nothing to read before it connects, and nobody to fall back on.
        proxy.retain(|key, _| !["upstream_connect_mode", "max_early_data_bytes"].contains(&key.as_str()));
        proxy.insert("cluster".to_owned(), json!("broker"));
        Some(())
    };
    strip(&mut config).context("the shipped configuration lacks a well-known name")?;
    Ok(config)
}

/// The element of a list of Envoy's that has this `name`.
pub fn named<'a>(list: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    list.as_array_mut()?.iter_mut().find(|item| item["name"] == name)
}

/// A file in `envoy/`.
fn read(stem: &str) -> Result<Value> {
    let path = crate::root().join("envoy").join(stem).with_extension("yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_yaml(&text).with_context(|| path.display().to_string())
}

/// YAML (so also JSON) as a value.
pub fn parse_yaml(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

/// The release module: `$LEVERET_WASM`, or where `build.sh build` puts it.
pub fn module() -> PathBuf {
    std::env::var_os("LEVERET_WASM").map_or_else(|| crate::root().join("target/leveret.wasm"), PathBuf::from)
}

const LACKING: &str = "lacks a well-known name";

fn socket_address(host: impl ToString, port: u16) -> Value {
    json!({ "address": host.to_string(), "port_value": port })
}
