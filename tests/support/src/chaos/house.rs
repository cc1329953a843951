//! The programs, a broker and two Envoys, and how they suffer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::world::{BROKER, ENVOY, PATHS, Part, Phase, Section, World};
use crate::envoy::{self, Envoy, Mode, Shipped};
use crate::ports;
use crate::rabbitmq::{self, Rabbitmq};

/// A broker with its management API, and with its own MQTT adapter if that is what is tried.
pub(crate) fn start_broker(folder: &Path, plugin: bool) -> Result<Rabbitmq> {
    let mut plugins = vec!["rabbitmq_management"];
    plugins.extend(plugin.then_some("rabbitmq_mqtt"));
    Rabbitmq::start(&folder.join("broker"), &rabbitmq::Options { plugins, ..Default::default() })
}

/// An Envoy that listens on the same port whenever it runs.
pub(crate) struct Proxy {
    index: usize,
    folder: PathBuf,
    config: Value,
    envoy: Envoy,
}

impl Proxy {
    /// One for each path, and where they listen.
    pub(crate) fn start_all(
        folder: &Path,
        broker: &Rabbitmq,
        plugin: bool,
    ) -> Result<([Self; PATHS], [SocketAddr; PATHS])> {
        let mut upstream = broker.amqp_address();
        if plugin {
            upstream.set_port(broker.ports.mqtt);
        }
        let addresses = ports::free::<PATHS>()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let mut proxies = Vec::new();
        // One of each shipped file.
        let modes = [Mode::Lazy, Mode::Eager];
        for (index, (mqtt, mode)) in addresses.into_iter().zip(modes).enumerate() {
            let shipped = Shipped { mqtt, ..Shipped::with_broker(mode, upstream) };
            let mut config = shipped.render()?;
            if plugin {
                config = envoy::without_filter(config)?;
            }
            let folder = folder.join(format!("{ENVOY}-{index}"));
            let envoy = Envoy::start(&folder, &config, &envoy::Options::default())?;
            proxies.push(Self { index, folder, config, envoy });
        }
        Ok((proxies.try_into().ok().context("one Envoy for each path")?, addresses))
    }

    fn kill_and_start(&mut self, down: Duration) -> Result<()> {
        self.envoy.process().kill()?;
        thread::sleep(down);
        self.envoy = Envoy::start(&self.folder, &self.config, &envoy::Options::default())?;
        Ok(())
    }

    fn freeze(&mut self, frozen: Duration) -> Result<()> {
        self.envoy.process().signal(Signal::STOP)?;
        thread::sleep(frozen);
        self.envoy.process().signal(Signal::CONT)
    }
}

/// When things break: at first after `first`, then again and again after some of `every`, until the storm is over.
pub(crate) struct Schedule {
    pub(crate) first: Duration,
    pub(crate) every: std::ops::Range<Duration>,
}

/// Lets an Envoy suffer, and gives it back when it runs again.
pub(crate) async fn trouble_proxy(
    mut proxy: Proxy,
    world: Rc<World>,
    mut rng: Rng,
    schedule: Schedule,
    mut phase: watch::Receiver<Phase>,
) -> Result<Proxy> {
    let mut pause = schedule.first;
    // However short the storm, one is killed and one is frozen.
    let mut frozen = proxy.index == 0;
    while storm_for(pause, &mut phase).await? {
        let index = proxy.index;
        let length = Duration::from_millis(if frozen { rng.u64(500..4000) } else { rng.u64(..1500) });
        let (what, part) = match frozen {
            true => ("Envoy frozen", Part::Frozen(index)),
            false => ("Envoy killed", Part::Envoy(index)),
        };
        let trouble = world.trouble(part);
        world.note(&format!("{ENVOY} {index}"), format!("{what} for {length:?}"));
        world.count(Section::Fault, what);
        proxy = spawn_blocking(move || {
            if frozen { proxy.freeze(length) } else { proxy.kill_and_start(length) }.map(|()| proxy)
        })
        .await??;
        world.note(&format!("{ENVOY} {index}"), "is back");
        world.mend(trouble);
        (pause, frozen) = (schedule.pause(&mut rng), rng.u8(..4) == 0);
    }
    Ok(proxy)
}

/// Lets the broker suffer, and gives it back when it runs again.
pub(crate) async fn trouble_broker(
    mut broker: Rabbitmq,
    world: Rc<World>,
    mut rng: Rng,
    schedule: Schedule,
    mut phase: watch::Receiver<Phase>,
) -> Result<Rabbitmq> {
    let (mut pause, mut orderly) = (schedule.first, false);
    while storm_for(pause, &mut phase).await? {
        let down = Duration::from_millis(rng.u64(..1000));
        let what = if orderly { "broker stopped" } else { "broker killed" };
        let trouble = world.trouble(Part::Broker);
        world.note(BROKER, format!("{what} for {down:?} and a start"));
        world.count(Section::Fault, what);
        let at;
        (broker, at) = spawn_blocking(move || -> Result<_> {
            let now = Instant::now();
            if orderly { broker.stop() } else { broker.kill() }?;
            thread::sleep(down);
            broker.restart()?;
            Ok((broker, now))
        })
        .await??;
        if !orderly {
            world.killed(at);
        }
        world.note(BROKER, "is back");
        world.mend(trouble);
        (pause, orderly) = (schedule.pause(&mut rng), rng.u8(..4) == 0);
    }
    Ok(broker)
}

/// Waits; `false` if the storm is over before.
async fn storm_for(pause: Duration, phase: &mut watch::Receiver<Phase>) -> Result<bool> {
    phase.wait_for(|phase| *phase >= Phase::Storm).await?;
    tokio::select! {
        () = sleep(pause) => Ok(true),
        over = phase.wait_for(|phase| *phase > Phase::Storm) => Ok(over.map(|_| false)?),
    }
}

impl Schedule {
    fn pause(&self, rng: &mut Rng) -> Duration {
        self.every.start + (self.every.end - self.every.start).mul_f64(rng.f64())
    }
}
