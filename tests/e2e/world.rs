//! The processes that tests share, and those that a test starts for itself.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use support::envoy::{self, Envoy, Mode, Options, Shipped};
use support::rabbitmq::{self, Rabbitmq};

/// The broker of all tests. It ends with the test program.
pub(crate) fn broker() -> &'static Rabbitmq {
    static BROKER: LazyLock<Rabbitmq> = LazyLock::new(|| {
        let plugins = vec!["rabbitmq_management", "rabbitmq_amqp1_0", "rabbitmq_stomp"];
        let options = rabbitmq::Options { plugins, ..Default::default() };
        Rabbitmq::start(&folder("broker"), &options).unwrap()
    });
    &BROKER
}

/// The Envoy of all tests that are content with a file as it is shipped. It ends with the test program.
pub(crate) fn envoy(mode: Mode) -> &'static Envoy {
    static LAZY: LazyLock<Envoy> = LazyLock::new(|| shipped(Mode::Lazy).unwrap());
    static EAGER: LazyLock<Envoy> = LazyLock::new(|| shipped(Mode::Eager).unwrap());
    match mode {
        Mode::Lazy => &LAZY,
        Mode::Eager => &EAGER,
    }
}

/// Where MQTT clients connect to [`envoy`].
pub(crate) fn mqtt(mode: Mode) -> SocketAddr {
    envoy(mode).address("mqtt").unwrap()
}

/// An Envoy of a test's own, with these keys in the filter's configuration.
pub(crate) fn own_envoy(name: &str, plugin: Value) -> Result<Envoy> {
    own_envoy_with(name, &Shipped { plugin, ..to(Mode::Lazy, broker().amqp_address()) }, &Options::default())
}

/// The same with everything to be chosen.
pub(crate) fn own_envoy_with(name: &str, shipped: &Shipped, options: &Options) -> Result<Envoy> {
    let envoy = Envoy::start(&folder(name), &shipped.render()?, options)?;
    if shipped.broker.1 == broker().ports.amqp {
        has_broker(&envoy)?;
    }
    Ok(envoy)
}

/// Waits until an Envoy has found its broker: on a busy machine compiling the module takes longer than the first health check may.
pub(crate) fn has_broker(envoy: &Envoy) -> Result<u64> {
    envoy.stat_until("cluster.broker.membership_healthy", PATIENCE, |brokers| brokers > 0)
}

/// A shipped file in front of this broker; the eager one where Envoy has no lazy connects.
pub(crate) fn to(mode: Mode, broker: SocketAddr) -> Shipped {
    let mode = if envoy::has_lazy_connects() { mode } else { Mode::Eager };
    Shipped::with_broker(mode, broker)
}

/// Whether a test that needs lazy connects can do anything on this Envoy; it says so if not.
pub(crate) fn can_be_lazy() -> bool {
    let can = envoy::has_lazy_connects();
    if !can {
        eprintln!("SKIPPED: this Envoy has no lazy connects");
    }
    can
}

fn shipped(mode: Mode) -> Result<Envoy> {
    own_envoy_with(mode.name(), &to(mode, broker().amqp_address()), &Options::default())
}

/// A folder for a process. It stays after the tests, for its logs, and the next run begins anew.
pub(crate) fn folder(name: &str) -> PathBuf {
    static ROOT: LazyLock<(PathBuf, File)> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e");
        let lock = File::create(root.with_extension("lock")).unwrap();
        // Another run in this source tree goes first.
        lock.lock().unwrap();
        let _ = fs::remove_dir_all(&root);
        (root, lock)
    });
    ROOT.0.join(name)
}

/// The module that traps when a client says `leveret/trap`.
pub(crate) fn trapping_module() -> PathBuf {
    let built = || support::root().join("target/leveret-trap.wasm");
    std::env::var_os("LEVERET_TRAP_WASM").map_or_else(built, PathBuf::from)
}

/// A broker of a test's own.
pub(crate) fn broker_with_plugins(name: &str, plugins: &[&'static str]) -> Result<Rabbitmq> {
    Rabbitmq::start(&folder(name), &rabbitmq::Options { plugins: plugins.to_vec(), ..Default::default() })
}

/// A broker that may be killed and alarmed, by one test after the other.
pub(crate) fn rough_broker() -> MutexGuard<'static, Rabbitmq> {
    static BROKER: LazyLock<Mutex<Rabbitmq>> = LazyLock::new(|| {
        let options = rabbitmq::Options::default();
        Mutex::new(Rabbitmq::start(&folder("rough-broker"), &options).unwrap())
    });
    // A test that failed has left it to be started again.
    let mut broker = BROKER.lock().unwrap_or_else(|failed| {
        BROKER.clear_poison();
        failed.into_inner()
    });
    if TcpStream::connect(broker.amqp_address()).is_err() {
        broker.restart().unwrap();
    }
    broker
}

/// A user of the broker, whose password is the name, and who may use topics that start with the name and no others.
pub(crate) fn restricted_user(name: &str) -> Result<&str> {
    let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    let own = format!(r"^{name}(\..*)?$");
    let topics = json!({ "exchange": "amq.topic", "write": own, "read": own });
    broker().api_put(&format!("users/{name}"), &json!({ "password": name, "tags": "" }))?;
    broker().api_put(&format!("permissions/%2F/{name}"), &all)?;
    broker().api_put(&format!("topic-permissions/%2F/{name}"), &topics)?;
    Ok(name)
}

/// What the broker has for a client: names of queues, in order.
pub(crate) fn queues_of(client_id: &str) -> Result<Vec<String>> {
    let queues = broker().api("queues/%2F?columns=name")?;
    let names = queues.as_array().into_iter().flatten().filter_map(|queue| queue["name"].as_str());
    let its_own =
        |name: &&str| name.strip_prefix("mqtt-subscription-").is_some_and(|it| it.starts_with(client_id));
    let mut names: Vec<String> = names.filter(its_own).map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// The queue of a client's subscriptions at a QoS, if there is one. A clean session's has a name that is never used again.
pub(crate) fn queue(client_id: &str, qos: u8) -> Result<Option<Value>> {
    let name = format!("mqtt-subscription-{client_id}qos{qos}");
    let queues: Vec<Value> = serde_json::from_value(broker().api("queues/%2F")?)?;
    Ok(queues.into_iter().find(|queue| {
        let rest = queue["name"].as_str().and_then(|it| it.strip_prefix(&name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }))
}

/// What the exchange brings to that queue.
pub(crate) fn binding_keys(client_id: &str, qos: u8) -> Result<Vec<String>> {
    let Some(queue) = queue(client_id, qos)? else { return Ok(Vec::new()) };
    let name = queue["name"].as_str().unwrap_or_default();
    let bindings: Vec<Value> = serde_json::from_value(broker().api(&format!("queues/%2F/{name}/bindings"))?)?;
    let of_exchange = bindings.into_iter().filter(|binding| binding["source"] == "amq.topic");
    Ok(of_exchange.filter_map(|binding| Some(binding["routing_key"].as_str()?.to_owned())).collect())
}

/// The broker's connection of a client.
pub(crate) fn connection(client_id: &str) -> Option<Value> {
    connections(client_id).ok()?.pop()
}

/// The broker's connections of a client.
pub(crate) fn connections(client_id: &str) -> Result<Vec<Value>> {
    let mut all: Vec<Value> = serde_json::from_value(broker().api("connections")?)?;
    all.retain(|connection| connection["user_provided_name"] == client_id);
    Ok(all)
}

/// For everything that takes an instant on an idle machine; the deadline is for a busy one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For what the broker forgets by itself: within 27 s, the lock of a connection that broke.
pub(crate) const EXPIRY: Duration = Duration::from_secs(60);
