//! `lab swaptest`: swaps under load, good ones and bad ones, with every connection and every message counted.
//!
//! Before the first swap there are so many connections, half of them publishers and half subscribers, all of them at work all the time;
//! each build that serves gets a tenth more. Meanwhile clients come and go. Nobody may lose a connection or a message, or be refused.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mqttbytes::QoS;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet, spawn_blocking, spawn_local};
use tokio::time::{MissedTickBehavior, sleep};

use super::{Change, Discovered, Kept};
use crate::client::{Client, Login};
use crate::envoy::{self, Envoy, Shipped};
use crate::load::fleet::{Fleet, Shape};

/// Swaps under load, good ones and bad ones, and counts connections and messages.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Connections before the first swap; each build that serves later gets a tenth of that.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(20..))]
    pub connections: u64,
    /// Seconds between two swaps.
    #[arg(long, default_value_t = 5)]
    pub pause: u64,
    /// Messages a second from each publisher, if the machine can: a broker with more to do than it can do refuses clients by itself.
    #[arg(long, default_value_t = 2.0)]
    pub rate: f64,
}

/// What has been counted.
#[derive(Debug)]
pub struct Report {
    connections: u64,
    came_and_went: usize,
    slowest_connect: Duration,
    messages: u64,
    took: Duration,
    swaps: Vec<(String, Duration)>,
    builds: Vec<Kept>,
    resident: [u64; 2],
}

/// Runs it with everything it starts in `folder`, in front of this broker; an error if anybody has lost anything.
pub fn run(options: &Options, folder: &Path, broker: SocketAddr) -> Result<Report> {
    let folder = folder.join("swaptest");
    let shipped = Shipped { broker: (broker.ip().to_string(), broker.port()), ..Shipped::default() };
    let workers = envoy::Options { concurrency: 2, ..envoy::Options::default() };
    let (mut envoy, filter) = Discovered::start(&folder, &shipped, &workers)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, storm(options, &mut envoy, filter, &steps(&folder)?))
}

/// A swap, and what Envoy is to say of it.
struct Step {
    title: &'static str,
    change: Change,
    /// A part of the reason why it is refused.
    refusal: Option<&'static str>,
}

fn steps(folder: &Path) -> Result<Vec<Step>> {
    let original = fs::read(envoy::module())?;
    let module = |name: &str, bytes: &[u8]| -> Result<Option<PathBuf>> {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        Ok(Some(path))
    };
    let good = |title, module, plugin: Option<Value>| Step {
        title,
        change: Change { module, plugin, drain: None },
        refusal: None,
    };
    let (broken, second) = (
        module("broken.wasm", &original[..original.len() / 2])?,
        module("second.wasm", &another(&original, 2))?,
    );
    Ok(vec![
        good("another module", second, None),
        Step { refusal: Some("module"), ..good("half a module", broken, None) },
        good("another configuration", None, Some(json!({ "prefetch": 5 }))),
        Step {
            refusal: Some("configuration key `prefetch`"),
            ..good("a wrong configuration", None, Some(json!({ "prefetch": "many" })))
        },
        good("both", module("third.wasm", &another(&original, 3))?, Some(json!({ "prefetch": 20 }))),
        good("back to the first module", Some(envoy::module()), Some(json!({}))),
    ])
}

/// The same module with another hash: with a custom section behind it.
pub fn another(module: &[u8], number: u8) -> Vec<u8> {
    [module, &[0, 2, 1, b'0' + number]].concat()
}

async fn storm(options: &Options, envoy: &mut Envoy, filter: Discovered, steps: &[Step]) -> Result<Report> {
    let address = envoy.address("mqtt")?;
    let (is_over, is_closed) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let mut fleets = vec![traffic(address, options, options.connections, is_over.clone()).await?];
    let before = envoy.process().resident_bytes()?;
    let guests = Rc::new(RefCell::new(Vec::new()));
    let door = spawn_local(come_and_go(address, guests.clone(), is_closed.clone()));
    let mut swaps = Vec::new();
    let mut connections = options.connections;
    let start = Instant::now();
    for Step { title, change, refusal } in steps {
        sleep(Duration::from_secs(options.pause)).await;
        let (filter, change) = (filter.clone(), change.clone());
        let begun = Instant::now();
        let outcome = spawn_blocking(move || filter.swap(&change)).await?;
        let took = begun.elapsed();
        match (outcome, refusal) {
            (Ok(_), None) => {
                swaps.push(((*title).to_owned(), took));
                let more = options.connections / 10;
                fleets.push(traffic(address, options, more, is_over.clone()).await.context(*title)?);
                connections += more;
            }
            (Err(error), Some(reason)) if format!("{error:#}").contains(reason) => {
                swaps.push((format!("{title}: {error:#}"), took));
            }
            (Ok(_), Some(_)) => bail!("{title}: was to be refused"),
            (Err(error), _) => return Err(error.context(*title)),
        }
    }
    is_closed.set(true);
    door.await??;
    // What the gauges show is a second old, and up to another one.
    sleep(Duration::from_secs(3)).await;
    let builds = filter.kept()?;
    let after = envoy.process().resident_bytes()?;
    is_over.set(true);
    let mut messages = 0;
    for fleet in fleets {
        messages += fleet.await??;
    }
    let took = start.elapsed();
    let alive: u64 = builds.iter().map(|kept| kept.connections).sum();
    ensure!(alive == connections, "{alive} connections are counted, not {connections}:\n{builds:?}");
    let guests = guests.take();
    Ok(Report {
        connections,
        came_and_went: guests.len(),
        slowest_connect: guests.into_iter().max().unwrap_or_default(),
        messages,
        took,
        swaps,
        builds,
        resident: [before, after],
    })
}

/// Half of so many publish to the other half until it is over; gives the number of messages, all of which have arrived once and in order.
async fn traffic(
    address: SocketAddr,
    options: &Options,
    connections: u64,
    is_over: Rc<Cell<bool>>,
) -> Result<JoinHandle<Result<u64>>> {
    let half = (connections / 2) as usize;
    let shape = Shape {
        login: guest(),
        qos: QoS::AtLeastOnce,
        size: 64,
        publishers: half,
        subscribers: half,
        fan_out: false,
        window: 1,
        deadline: Duration::from_secs(60),
    };
    let mut fleet = Fleet::open(address, &shape).await?;
    let mut beat = tokio::time::interval(Duration::from_secs_f64(1.0 / options.rate));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(spawn_local(async move {
        let mut messages = 0;
        while !is_over.get() {
            fleet.round(1).await?;
            messages += half as u64;
            beat.tick().await;
        }
        fleet.close().await?;
        Ok(messages)
    }))
}

/// One client after the other, and how long each waited for its CONNACK.
async fn come_and_go(
    address: SocketAddr,
    waits: Rc<RefCell<Vec<Duration>>>,
    is_over: Rc<Cell<bool>>,
) -> Result<()> {
    while !is_over.get() {
        let number = waits.borrow().len();
        let client = Client::connect(address, &format!("guest-{number}"), &guest()).await;
        let client = client.with_context(|| format!("guest {number}"))?;
        waits.borrow_mut().push(client.admitted_in);
        client.disconnect().await?;
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn guest() -> Login {
    Login { username: "guest".to_owned(), password: "guest".to_owned() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, came_and_went, slowest_connect, messages, took, swaps, builds, resident } =
            self;
        for (title, took) in swaps {
            writeln!(f, "  {:5.0} ms  {title}", took.as_secs_f64() * 1e3)?;
        }
        writeln!(f, "{connections} connections at work, none lost:")?;
        for Kept { hash, connections, serves, .. } in builds {
            let serves = if *serves { ", serves" } else { "" };
            writeln!(f, "  {connections:5} {hash}{serves}")?;
        }
        writeln!(
            f,
            "{messages} messages at QoS 1 in {:.1} s, none lost, doubled or out of order",
            took.as_secs_f64()
        )?;
        writeln!(
            f,
            "{came_and_went} clients came and went, none refused; the slowest CONNACK took {slowest_connect:.1?}"
        )?;
        let [before, after] = resident.map(|bytes| bytes >> 20);
        write!(f, "Envoy: {before} MiB before the swaps, {after} MiB after them")
    }
}
