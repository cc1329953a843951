//! `lab run`: Envoy with the filter in the foreground.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use support::envoy::{self, Envoy, Shipped};
use support::rabbitmq::{self, Rabbitmq};
use support::swap::Discovered;

use crate::state::State;

/// Serves MQTT on 127.0.0.1 until Ctrl-C or SIGTERM, which end everything it has started. Prints
/// `ready: mqtt 127.0.0.1:N` when clients can come.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where MQTT clients connect.
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Envoy's admin interface (statistics); any free port unless given.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    admin_port: u16,
    /// An AMQP 0-9-1 broker that runs already; without it a private RabbitMQ is started, with its management page,
    /// and everything in it is gone at the end.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    amqp: Option<(String, u16)>,
    /// The filter's configuration: YAML or JSON with its own keys.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Envoy's worker threads.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// The Envoy to start; otherwise $ENVOY, `envoy` on PATH, or the one that build.sh has installed.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Connect to the broker after the client's CONNECT (lazy: envoy/lazy.yaml) or before it (eager, for Envoy
    /// 1.36: envoy/eager.yaml). The configuration's `connect_mode` unless given, otherwise lazy.
    #[arg(long)]
    mode: Option<Mode>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Lazy,
    Eager,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let plugin =
        arguments.config.as_deref().map_or_else(|| Ok(json!({})), envoy::read_plugin_configuration)?;
    let (mode, plugin) = agree_on_mode(arguments.mode, plugin);
    for port in [arguments.port, arguments.admin_port] {
        ensure_free(port)?;
    }
    let program = arguments.envoy.clone().map_or_else(envoy::find, Ok)?;
    let folder = crate::folder("run")?;
    let mut private = match arguments.amqp {
        Some(_) => None,
        None => Some(start_private_broker(&folder.path().join("broker"))?),
    };
    let broker = match (&arguments.amqp, &private) {
        (Some(given), _) => given.clone(),
        (None, Some(broker)) => (Ipv4Addr::LOCALHOST.to_string(), broker.ports.amqp),
        (None, None) => bail!("no broker"),
    };
    let shipped = Shipped {
        mode,
        mqtt: loopback(arguments.port),
        admin: loopback(arguments.admin_port),
        broker,
        plugin,
        ..Shipped::default()
    };
    ensure!(shipped.module.is_file(), "{} is missing: ./build.sh build", shipped.module.display());
    let options = envoy::Options {
        program: Some(program),
        concurrency: arguments.concurrency,
        ..envoy::Options::default()
    };
    let (mut envoy, filter) = Discovered::start(&folder.path().join("envoy"), &shipped, &options)?;
    let state = State {
        pid: std::process::id(),
        admin: filter.admin,
        ecds: filter.file,
        log: envoy.log_file().to_owned(),
    };
    let _written = match State::read() {
        Err(_) => Some(state.write()?),
        Ok(other) => {
            println!(
                "`swap` goes to the run of process {}; to this one with --ecds {} --admin {} --log {}",
                other.pid,
                state.ecds.display(),
                state.admin,
                state.log.display()
            );
            None
        }
    };
    println!(
        "envoy: admin http://{}, log {}, broker {}:{}",
        envoy.admin_address(),
        envoy.log_file().display(),
        shipped.broker.0,
        shipped.broker.1
    );
    if TcpStream::connect((shipped.broker.0.as_str(), shipped.broker.1)).is_err() {
        println!("no broker answers there yet: until one does, clients hear CONNACK 3");
    }
    println!("ready: mqtt {}", envoy.address("mqtt")?);
    wait_for_the_end(&mut envoy, private.as_mut())
}

/// Until a signal asks for the end, or a program that we need has ended by itself.
fn wait_for_the_end(envoy: &mut Envoy, mut broker: Option<&mut Rabbitmq>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
    loop {
        // Looked at before the first signal too: a child may have ended before we listened.
        if let Some(status) = envoy.process().exited()? {
            bail!("envoy has ended: {status}\n{}", envoy.log());
        }
        if let Some(broker) = broker.as_mut()
            && let Some(status) = broker.process().exited()?
        {
            bail!("the private broker has ended: {status}\n{}", broker.log());
        }
        if signals.wait().any(|signal| signal != SIGCHLD) {
            return Ok(());
        }
    }
}

fn start_private_broker(folder: &Path) -> Result<Rabbitmq> {
    println!("starting a private RabbitMQ ...");
    let options = rabbitmq::Options { plugins: vec!["rabbitmq_management"], ..rabbitmq::Options::default() };
    let broker = Rabbitmq::start(folder, &options)?;
    println!(
        "broker: amqp {}, management {} (guest / guest)",
        broker.amqp_address(),
        broker.management_url()
    );
    Ok(broker)
}

/// Envoy's file and the filter's `connect_mode` must be of one mode: `--mode` decides, else the filter's key.
fn agree_on_mode(given: Option<Mode>, mut plugin: Value) -> (envoy::Mode, Value) {
    let mode = match given {
        Some(Mode::Lazy) => envoy::Mode::Lazy,
        Some(Mode::Eager) => envoy::Mode::Eager,
        None if plugin["connect_mode"] == envoy::Mode::Eager.name() => envoy::Mode::Eager,
        None => envoy::Mode::Lazy,
    };
    if let (Some(_), Some(keys)) = (given, plugin.as_object_mut()) {
        keys.remove("connect_mode");
    }
    (mode, plugin)
}

/// Envoy would share a taken port with another Envoy (SO_REUSEPORT), each getting some of the clients.
fn ensure_free(port: u16) -> Result<()> {
    TcpListener::bind(loopback(port))
        .map(drop)
        .with_context(|| format!("cannot listen on {}", loopback(port)))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("HOST:PORT expected, such as 127.0.0.1:5672")?;
    let port = port.parse().map_err(|_| format!("not a port: {port:?}"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err("the host is missing".to_owned()) } else { Ok((host.to_owned(), port)) }
}
