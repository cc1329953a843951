//! A private RabbitMQ: Debian's package, run as the current user, on loopback, with everything it writes in one
//! folder. It shares no port, cookie, node name or epmd with an installed service or with another one of these.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::ports;
use crate::process::{Process, wait_until};

/// What differs between one broker and the next.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Plugins to enable, such as `rabbitmq_management` or `rabbitmq_mqtt`. Each one costs start time.
    pub plugins: Vec<&'static str>,
    /// Further lines of `rabbitmq.conf`.
    pub conf: Vec<String>,
}

/// Where it listens, on 127.0.0.1. The last three only with the plugin.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// AMQP 0-9-1, and AMQP 1.0 with `rabbitmq_amqp1_0`.
    pub amqp: u16,
    /// `rabbitmq_management`: the web page and its HTTP API.
    pub management: u16,
    /// `rabbitmq_mqtt`: the broker's own MQTT adapter.
    pub mqtt: u16,
    /// `rabbitmq_stomp`.
    pub stomp: u16,
    distribution: u16,
    epmd: u16,
}

/// A running broker (unless stopped or killed); everything ends when dropped.
pub struct Rabbitmq {
    /// Its ports: the same ones after a restart.
    pub ports: Ports,
    folder: PathBuf,
    // Dropped in this order: the node first, then what it registers with.
    node: Process,
    _epmd: Process,
}

impl Rabbitmq {
    /// Starts a fresh broker in `folder` and returns when its listeners are open.
    pub fn start(folder: &Path, options: &Options) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let [amqp, management, mqtt, stomp, distribution, epmd] = ports::free()?;
        let ports = Ports { amqp, management, mqtt, stomp, distribution, epmd };
        fs::write(folder.join("rabbitmq.conf"), configuration(ports, options))?;
        fs::write(folder.join("enabled_plugins"), format!("[{}].\n", options.plugins.join(",")))?;
        let epmd = start_epmd(&folder, ports)?;
        let node = start_node(&folder, ports)?;
        Ok(Self { ports, folder, node, _epmd: epmd })
    }

    /// Where AMQP clients connect.
    pub fn amqp_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.amqp).into()
    }

    /// Runs `rabbitmqctl` and gives its output. A third of a second of CPU each time: use [`Self::api`] to look often.
    pub fn ctl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let mut command = self::command(&self.folder, self.ports, "rabbitmqctl")?;
        let output = command.args(arguments).output().context("rabbitmqctl: cannot start")?;
        ensure!(
            output.status.success(),
            "rabbitmqctl {:?}: {}\n{}{}",
            command.get_args().collect::<Vec<_>>(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// GET of the management HTTP API as guest, such as `api("queues")`. Needs `rabbitmq_management`. The figures
    /// in it are a few seconds old, what exists is exact.
    pub fn api(&self, path: &str) -> Result<Value> {
        let url = self.api_url(path);
        let answer = ureq::get(&url).header("Authorization", guest()).call();
        Ok(answer.with_context(|| url.clone())?.body_mut().read_json()?)
    }

    /// PUT to it: users, permissions, limits, queues, ...
    pub fn api_put(&self, path: &str, body: &Value) -> Result<()> {
        let url = self.api_url(path);
        let answer = ureq::put(&url).header("Authorization", guest()).send_json(body);
        answer.with_context(|| url.clone())?;
        Ok(())
    }

    /// DELETE: what an administrator's click on the page does.
    pub fn api_delete(&self, path: &str) -> Result<()> {
        let url = self.api_url(path);
        ureq::delete(&url).header("Authorization", guest()).call().with_context(|| url.clone())?;
        Ok(())
    }

    fn api_url(&self, path: &str) -> String {
        format!("{}/api/{path}", self.management_url())
    }

    /// The management page. Needs `rabbitmq_management`.
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.management)
    }

    /// What the node has written since its last start.
    pub fn log(&self) -> String {
        self.node.log()
    }

    /// The node's process, for its id, its memory and signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.node
    }

    /// An orderly stop.
    pub fn stop(&mut self) -> Result<()> {
        self.node.stop()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.node.kill()
    }

    /// Starts the node again (stopping it first if it runs) on the same data and ports.
    pub fn restart(&mut self) -> Result<()> {
        self.node.stop()?;
        self.node = start_node(&self.folder, self.ports)?;
        Ok(())
    }
}

impl Drop for Rabbitmq {
    /// At once: an orderly stop takes seconds, and whoever wants it has called [`Self::stop`].
    fn drop(&mut self) {
        // Should this fail, the node is stopped when its own turn to be dropped comes.
        let _ = self.node.kill();
    }
}

fn guest() -> String {
    format!("Basic {}", BASE64_STANDARD.encode("guest:guest"))
}

fn start_epmd(folder: &Path, ports: Ports) -> Result<Process> {
    let mut command = Command::new("epmd");
    command.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()]);
    let mut epmd = Process::spawn("epmd", &command, &folder.join("epmd.log"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.epmd));
    epmd.wait_until("listening", START, |_| TcpStream::connect(address).ok())?;
    Ok(epmd)
}

fn start_node(folder: &Path, ports: Ports) -> Result<Process> {
    // After a kill -9, epmd still has the old name for a moment, and the new node would take it for a live one.
    wait_until("epmd has forgotten the node that was killed", START, || {
        let names = Command::new("epmd").args(["-port", &ports.epmd.to_string(), "-names"]).output().ok()?;
        (!String::from_utf8_lossy(&names.stdout).contains("name ")).then_some(())
    })?;
    let command = command(folder, ports, "rabbitmq-server")?;
    let mut node = Process::spawn("rabbitmq-server", &command, &folder.join("rabbitmq.log"))?;
    node.wait_until("startup complete", START, |node| {
        node.log().contains("Server startup complete").then_some(())
    })?;
    Ok(node)
}

/// One of RabbitMQ's programs, told to use this folder and these ports and nothing of the system's.
fn command(folder: &Path, ports: Ports, program: &str) -> Result<Command> {
    let mut command = Command::new(find(program)?);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("RABBITMQ_") {
            command.env_remove(key);
        }
    }
    command
        .current_dir(folder)
        .env("HOME", folder) // the cookie
        .env("RABBITMQ_CONF_ENV_FILE", folder.join("no-rabbitmq-env.conf")) // or /etc/rabbitmq/ is read
        .env("RABBITMQ_NODENAME", format!("leveret{}@localhost", ports.amqp))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_PLUGINS_EXPAND_DIR", folder.join("plugins"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", folder.join("config"))
        .env("RABBITMQ_SCHEMA_DIR", folder.join("schema"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", ports.epmd.to_string())
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
        )
        // The start script then becomes the Erlang machine instead of staying in front of it: signals and
        // kill -9 reach the node itself.
        .env("RUNNING_UNDER_SYSTEMD", "true");
    Ok(command)
}

/// `/usr/lib/rabbitmq/bin` holds RabbitMQ's own scripts; those in `/usr/sbin` are Debian's, which change to the user
/// `rabbitmq`.
fn find(program: &str) -> Result<PathBuf> {
    let debian = Path::new("/usr/lib/rabbitmq/bin").join(program);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(debian)
        .chain(std::env::split_paths(&on_path).map(|folder| folder.join(program)))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} not found: install the package rabbitmq-server"))
}

fn configuration(ports: Ports, options: &Options) -> String {
    let Ports { amqp, management, mqtt, stomp, .. } = ports;
    let mut lines = vec![
        format!("listeners.tcp.local = 127.0.0.1:{amqp}"),
        // A full disk of the developer's is no reason to block publishers.
        "disk_free_limit.absolute = 1MB".to_owned(),
    ];
    for plugin in &options.plugins {
        match *plugin {
            "rabbitmq_management" => {
                lines.push("management.tcp.ip = 127.0.0.1".to_owned());
                lines.push(format!("management.tcp.port = {management}"));
            }
            "rabbitmq_mqtt" => lines.push(format!("mqtt.listeners.tcp.local = 127.0.0.1:{mqtt}")),
            "rabbitmq_stomp" => lines.push(format!("stomp.listeners.tcp.local = 127.0.0.1:{stomp}")),
            _ => {}
        }
    }
    lines.extend_from_slice(&options.conf);
    lines.join("\n") + "\n"
}

/// Five seconds on an idle machine; the deadline is for a busy one.
const START: Duration = Duration::from_secs(90);
