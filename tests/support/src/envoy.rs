//! Envoy, started with one of the files that users copy or with a test's own configuration.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::process::{Process, wait_until};

mod shipped;

pub use shipped::{Chain, Listener, Mode, Shipped, module, named, parse_yaml, tls_inspector, without_filter};

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

    /// Where it logs.
    pub fn log_file(&self) -> &Path {
        self.process.log_file()
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

/// The filter's own configuration from a file of a user's: YAML or JSON with its keys.
pub fn read_plugin_configuration(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let plugin = parse_yaml(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    // An empty file is somebody's accident, and would be no policy at all.
    ensure!(plugin.is_object(), "{}: not a map of the filter's keys; all defaults are {{}}", path.display());
    Ok(plugin)
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

/// 40 of Envoy 1.40.0.
pub fn minor_version() -> u32 {
    static MINOR: LazyLock<u32> = LazyLock::new(|| {
        let output = find().ok().and_then(|program| Command::new(program).arg("--version").output().ok());
        let output =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        // envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL
        let minor = output.split_once("/1.").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
        // One that says something else is its builder's own: it is taken for a new one.
        minor.unwrap_or(u32::MAX)
    });
    *MINOR
}

/// Whether this Envoy can wait for CONNECT before it connects upstream; else everything is eager.
pub fn has_lazy_connects() -> bool {
    minor_version() >= 37
}

/// The first thing the log says at `error` or above: what follows from it comes later.
pub(crate) fn complaint(log: &str) -> Option<&str> {
    let serious = log.lines().find(|line| line.contains("][error][") || line.contains("][critical]["))?;
    let (_time_and_level, rest) = serious.split_once("] [")?;
    let (_source, text) = rest.split_once("] ")?;
    Some(text.trim_start_matches("wasm log leveret: "))
}

pub(crate) fn get(admin: &str, path: &str) -> Result<String> {
    let url = format!("http://{admin}{path}");
    let answer = ureq::get(&url).config().timeout_global(Some(ANSWER)).build().call();
    let mut answer = answer.with_context(|| url.clone())?;
    Ok(answer.body_mut().with_config().limit(64 << 20).read_to_string()?)
}

const ANSWER: Duration = Duration::from_secs(10);
/// A second on an idle machine, compiling the module included; the deadline is for a busy one.
const START: Duration = Duration::from_secs(60);
