//! The processes that tests share, and those that a test starts for itself.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use support::envoy::{Envoy, Mode, Options, Shipped};
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
    Envoy::start(&folder(name), &shipped.render()?, options)
}

/// A shipped file in front of this broker.
pub(crate) fn to(mode: Mode, broker: SocketAddr) -> Shipped {
    Shipped::with_broker(mode, broker)
}

fn shipped(mode: Mode) -> Result<Envoy> {
    own_envoy_with(mode.name(), &to(mode, broker().amqp_address()), &Options::default())
}

/// A folder for a process. It stays after the tests, for its logs, and the next run begins anew.
fn folder(name: &str) -> PathBuf {
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

/// For everything that takes an instant on an idle machine; the deadline is for a busy one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
