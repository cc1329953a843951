//! Envoy, started with one of the files that users copy or with a test's own configuration.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::process::{Process, wait_until};

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
    /// The MQTT listener's address; port 0 for any free one, see [`Envoy::address`].
    pub mqtt: SocketAddr,
    /// The admin interface's.
    pub admin: SocketAddr,
    /// The broker: a name or an IP, and a port.
    pub broker: (String, u16),
    /// Keys of the filter's own configuration, put over those of the file.
    pub plugin: Value,
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
        }
    }
}

impl Shipped {
    /// With this broker, everything else as shipped and on free ports.
    pub fn with_broker(mode: Mode, broker: SocketAddr) -> Self {
        Self { mode, broker: (broker.ip().to_string(), broker.port()), ..Self::default() }
    }

    /// The whole configuration, to be changed further or given to [`Envoy::start`].
    pub fn render(&self) -> Result<Value> {
        let path = crate::root().join("envoy").join(self.mode.name()).with_extension("yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config = parse_yaml(&text).with_context(|| path.display().to_string())?;
        self.fill(&mut config).with_context(|| format!("{} lacks a well-known name", path.display()))?;
        Ok(config)
    }

    /// Goes to what it changes by name, so a file may grow around it.
    fn fill(&self, config: &mut Value) -> Option<()> {
        *config.pointer_mut("/admin/address/socket_address")? =
            socket_address(self.admin.ip(), self.admin.port());
        let mqtt = named(config.pointer_mut("/static_resources/listeners")?, "mqtt")?;
        *mqtt.pointer_mut("/address/socket_address")? = socket_address(self.mqtt.ip(), self.mqtt.port());
        let filter = named(mqtt.pointer_mut("/filter_chains/0/filters")?, "leveret")?;
        *filter.pointer_mut("/typed_config/config/vm_config/code/local/filename")? = json!(self.module);
        let settings = filter.pointer_mut("/typed_config/config/configuration/value")?;
        let mut keys: Map<String, Value> = serde_json::from_str(settings.as_str()?).ok()?;
        keys.extend(self.plugin.as_object()?.clone());
        *settings = Value::String(Value::Object(keys).to_string());
        let broker = named(config.pointer_mut("/static_resources/clusters")?, "broker")?;
        *broker
            .pointer_mut("/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address")? =
            socket_address(&self.broker.0, self.broker.1);
        Some(())
    }
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

/// YAML (so also JSON) as a value.
pub fn parse_yaml(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

/// The release module: `$LEVERET_WASM`, or where `build.sh build` puts it.
pub fn module() -> PathBuf {
    std::env::var_os("LEVERET_WASM").map_or_else(|| crate::root().join("target/leveret.wasm"), PathBuf::from)
}

/// How it is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program; by default what [`find`] finds.
    pub program: Option<PathBuf>,
    /// Worker threads.
    pub concurrency: u32,
    /// As in `--component-log-level`, such as `wasm:debug,connection:trace`; the rest logs from `info` on.
    pub component_log_level: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { program: None, concurrency: 1, component_log_level: "wasm:debug".to_owned() }
    }
}

/// A running Envoy; stopped when dropped.
pub struct Envoy {
    process: Process,
    admin: String,
}

impl Envoy {
    /// Starts Envoy in `folder` and returns when its listeners serve. The configuration must have an `admin`
    /// address; its port may be 0.
    pub fn start(folder: &Path, config: &Value, options: &Options) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let (config_file, admin_file) = (folder.join("envoy.json"), folder.join("admin-address"));
        fs::write(&config_file, serde_json::to_vec_pretty(config)?)?;
        let mut command = Command::new(options.program.clone().map_or_else(find, Ok)?);
        command
            .arg("--config-path")
            .arg(&config_file)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .arg("--use-dynamic-base-id")
            .args(["--concurrency", &options.concurrency.to_string()])
            .args(["--component-log-level", &options.component_log_level]);
        // A file of an earlier start in this folder would name a port that nobody listens on.
        let _ = fs::remove_file(&admin_file);
        let mut process = Process::spawn("envoy", &command, &folder.join("envoy.log"))?;
        let ready = process.wait_until("ready", START, |_| {
            let admin = fs::read_to_string(&admin_file).ok()?;
            (get(&admin, "/ready").ok()?.trim() == "LIVE").then_some(admin)
        });
        match (ready, complaint(&process.log())) {
            (Ok(admin), _) => Ok(Self { process, admin }),
            (Err(error), None) => Err(error),
            (Err(_), Some(complaint)) => bail!("envoy refuses the configuration: {complaint}"),
        }
    }

    /// The address a listener is bound to, by the listener's name.
    pub fn address(&self, listener: &str) -> Result<SocketAddr> {
        let listeners: Value = serde_json::from_str(&self.admin("/listeners?format=json")?)?;
        let bound = listeners["listener_statuses"].as_array().into_iter().flatten();
        let bound = bound.filter(|status| status["name"] == listener);
        let address = bound.map(|status| &status["local_address"]["socket_address"]).next();
        let address = address.with_context(|| format!("no listener {listener:?} in {listeners}"))?;
        let text =
            |key: &str| address[key].as_str().map(str::to_owned).unwrap_or_else(|| address[key].to_string());
        let (ip, port) = (text("address"), text("port_value"));
        Ok(SocketAddr::new(ip.parse()?, port.parse()?))
    }

    /// GET on the admin interface, such as `/stats`.
    pub fn admin(&self, path: &str) -> Result<String> {
        get(&self.admin, path)
    }

    /// Where the admin interface listens.
    pub fn admin_address(&self) -> &str {
        &self.admin
    }

    /// A counter or gauge by its full name; 0 while nothing has counted it.
    pub fn stat(&self, name: &str) -> Result<u64> {
        let stats = self.admin("/stats")?;
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map_or(Ok(0), |value| value.parse().with_context(|| format!("{name}: {value}")))
    }

    /// Waits until a counter or gauge is what `reached` wants, and gives its value.
    pub fn stat_until(&self, name: &str, within: Duration, reached: impl Fn(u64) -> bool) -> Result<u64> {
        wait_until(&format!("{name} as wanted"), within, || {
            self.stat(name).ok().filter(|value| reached(*value))
        })
    }

    /// The allocator's figures: `allocated`, `heap_size`, ... in bytes.
    pub fn memory(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.admin("/memory")?)?)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process, for its memory, signals and `kill -9`.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Whether Envoy takes this configuration; the error says why not.
pub fn validate(folder: &Path, config: &Value) -> Result<()> {
    let file = folder.join("validate.json");
    fs::write(&file, serde_json::to_vec_pretty(config)?)?;
    let output = Command::new(find()?)
        .args(["--mode", "validate", "--use-dynamic-base-id", "-c"])
        .arg(&file)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// `$ENVOY`, `envoy` on PATH, or the one that `build.sh` has installed.
pub fn find() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("ENVOY").filter(|path| !path.is_empty()) {
        return Ok(given.into());
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&on_path)
        .map(|folder| folder.join("envoy"))
        .chain([crate::root().join(".tools/venv/bin/envoy")])
        .find(|candidate| candidate.is_file())
        .context("envoy not found: ./build.sh installs it, or set ENVOY to its path")
}

/// The first thing the log says at `error` or above: what follows from it comes later.
fn complaint(log: &str) -> Option<&str> {
    let serious = log.lines().find(|line| line.contains("][error][") || line.contains("][critical]["))?;
    let (_time_and_level, rest) = serious.split_once("] [")?;
    let (_source, text) = rest.split_once("] ")?;
    Some(text.trim_start_matches("wasm log leveret: "))
}

fn get(admin: &str, path: &str) -> Result<String> {
    let url = format!("http://{admin}{path}");
    let answer = ureq::get(&url).config().timeout_global(Some(ANSWER)).build().call();
    let mut answer = answer.with_context(|| url.clone())?;
    Ok(answer.body_mut().with_config().limit(64 << 20).read_to_string()?)
}

fn socket_address(host: impl ToString, port: u16) -> Value {
    json!({ "address": host.to_string(), "port_value": port })
}

const ANSWER: Duration = Duration::from_secs(10);
/// A second on an idle machine, compiling the module included; the deadline is for a busy one.
const START: Duration = Duration::from_secs(60);
