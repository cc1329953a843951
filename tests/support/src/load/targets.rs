//! What is measured: endpoints that run already, or the pair started for the occasion.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;

use super::cpu::Watched;
use crate::envoy::{self, Envoy, Mode, Shipped};
use crate::rabbitmq::{self, Rabbitmq};

/// An MQTT endpoint.
#[derive(Clone, Debug)]
pub struct Target {
    /// What the report calls it.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, address) = text.split_once('=').context("expected NAME=HOST:PORT")?;
        let address = address.to_socket_addrs()?.next().context("a host without an address")?;
        Ok(Self { name: name.to_owned(), address })
    }
}

impl FromStr for Watched {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, pid) = text.split_once('=').context("expected NAME=PID")?;
        Ok(Self { name: name.to_owned(), pid: pid.parse()? })
    }
}

/// Endpoints to compare, with whatever has been started for them; all of that ends when this is dropped.
pub(crate) struct Targets {
    pub(crate) targets: Vec<Target>,
    pub(crate) watched: Vec<Watched>,
    /// Unacknowledged deliveries a subscriber may have, where we have set it.
    pub(crate) prefetch: Option<u16>,
    /// Dropped in this order: the proxies, their broker, the folder of all.
    _started: Option<(Vec<Envoy>, Rabbitmq, TempDir)>,
}

impl Targets {
    /// Endpoints that run already.
    pub(crate) fn given(targets: Vec<Target>) -> Self {
        Self { targets, watched: Vec::new(), prefetch: None, _started: None }
    }

    /// One broker with its MQTT plugin, and one Envoy for each way into it: `leveret` (unless it is left out) and
    /// `plugin`. The two configurations differ in the filter alone.
    pub(crate) fn start(prefetch: u16, concurrency: u32, with_leveret: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let plugins = vec!["rabbitmq_mqtt"];
        let options = rabbitmq::Options { plugins, conf: vec![format!("mqtt.prefetch = {prefetch}")] };
        let mut broker = Rabbitmq::start(&folder.path().join("broker"), &options)?;
        let plugin = SocketAddr::new(broker.amqp_address().ip(), broker.ports.mqtt);

        let mut configs = Vec::new();
        if with_leveret {
            let mut shipped = Shipped::with_broker(Mode::Lazy, broker.amqp_address());
            shipped.plugin = json!({ "prefetch": prefetch });
            configs.push(("leveret", shipped.render()?));
        }
        configs.push(("plugin", envoy::without_filter(Shipped::with_broker(Mode::Lazy, plugin).render()?)?));

        let options =
            envoy::Options { concurrency, component_log_level: "wasm:info".to_owned(), ..Default::default() };
        let (mut targets, mut proxies) = (Vec::new(), Vec::new());
        let mut watched = vec![Watched { name: "broker".to_owned(), pid: broker.process().id() }];
        for (name, config) in configs {
            let mut proxy = Envoy::start(&folder.path().join(name), &config, &options)?;
            targets.push(Target { name: name.to_owned(), address: proxy.address("mqtt")? });
            watched.push(Watched { name: "envoy".to_owned(), pid: proxy.process().id() });
            proxies.push(proxy);
        }
        Ok(Self { targets, watched, prefetch: Some(prefetch), _started: Some((proxies, broker, folder)) })
    }

    /// Leaves the last target alone, to be compared with itself.
    pub(crate) fn repeat_last(&mut self) {
        self.targets.drain(..self.targets.len().saturating_sub(1));
        let again = self.targets.iter().map(|Target { name, address }| (format!("{name} again"), *address));
        let again: Vec<_> = again.map(|(name, address)| Target { name, address }).collect();
        self.targets.extend(again);
    }
}
