//! `lab load`: throughput of several MQTT endpoints, compared in one interleaved run. By default Envoy with Leveret
//! against Envoy as a plain TCP proxy in front of RabbitMQ's own MQTT plugin, on one and the same broker.
//!
//! The targets take turns round by round, forwards and backwards (A B, B A, ...), so that whatever else happens on the
//! machine happens to all of them. Each round is checked: every message once, in its publisher's order.
// A load program lives by the clock.
#![allow(clippy::disallowed_types)]

mod cpu;
#[cfg(test)]
mod faulty;
pub(crate) mod fleet;
mod report;
mod sequence;
mod targets;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqttbytes::QoS;

use cpu::{Usage, Watched};
use fleet::{Fleet, Shape};
use report::{Cell, Measured, Report, Turn};
use sequence::Stamp;
use targets::{Target, Targets};

use crate::client::Login;

/// Compares the throughput of MQTT endpoints.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// An endpoint that runs already. Two or more take turns; each is compared with the last one. Without any:
    /// Envoy + Leveret and Envoy + RabbitMQ's MQTT plugin, started for the occasion.
    #[arg(long = "target", value_name = "NAME=HOST:PORT")]
    targets: Vec<Target>,
    /// A process whose CPU time to show. What is started for the occasion is watched anyway.
    #[arg(long = "watch", value_name = "NAME=PID")]
    watched: Vec<Watched>,
    /// Rounds for each target, not counting one to warm up. A round has connections of its own.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Messages in a round, all publishers together.
    #[arg(long, default_value_t = 50_000)]
    messages: u64,
    /// Payload sizes in octets.
    #[arg(long, value_delimiter = ',', default_value = "64,1024")]
    sizes: Vec<usize>,
    /// Qualities of service: 0, 1 or both.
    #[arg(long, value_delimiter = ',', default_value = "0,1", value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: Vec<u8>,
    /// Publishers, each with a topic of its own.
    #[arg(long, default_value_t = 10)]
    publishers: usize,
    /// Subscribers.
    #[arg(long, default_value_t = 10)]
    subscribers: usize,
    /// Every subscriber takes every topic, instead of one each.
    #[arg(long)]
    fan_out: bool,
    /// QoS 1: messages a publisher sends ahead of their PUBACKs.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=65_535))]
    window: u64,
    /// QoS 0: messages a publisher sends ahead of their reception, so that nothing need be dropped.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    window_qos0: u64,
    /// Unacknowledged deliveries per subscriber, the same in Leveret and in the plugin. Several: one after the other.
    #[arg(long, value_delimiter = ',', default_value = "10")]
    prefetch: Vec<u16>,
    /// Envoy's worker threads. By default as many as there are processors, as Envoy itself does.
    #[arg(long)]
    concurrency: Option<u32>,
    /// Measures the last target against itself: how far from 1 chance alone can bring a ratio.
    #[arg(long)]
    null: bool,
    /// Seconds after which a round that has not ended is called lost.
    #[arg(long, default_value_t = 60)]
    deadline: u64,
    /// User name in CONNECT.
    #[arg(long, default_value = "guest")]
    username: String,
    /// Password in CONNECT.
    #[arg(long, default_value = "guest")]
    password: String,
    /// Writes all figures there too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `lab load`: prints a table while it goes; an error if any message was lost, repeated or out of order.
pub fn run(options: &Options) -> Result<()> {
    options.check()?;
    // One thread: cheap, and it leaves the other processors to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::default();
    let processors = std::thread::available_parallelism()?.get() as u32;
    let concurrency = options.concurrency.unwrap_or(processors);
    let given = !options.targets.is_empty();
    for prefetch in options.prefetch.iter().take(if given { 1 } else { usize::MAX }) {
        let mut targets = match given {
            true => Targets::given(options.targets.clone()),
            false => Targets::start(*prefetch, concurrency, !options.null)?,
        };
        if options.null {
            targets.repeat_last();
        }
        runtime.block_on(measure(options, &targets, &mut report))?;
    }
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

async fn measure(options: &Options, targets: &Targets, report: &mut Report) -> Result<()> {
    let ourselves = Watched { name: "load".to_owned(), pid: std::process::id() };
    let watched: Vec<_> =
        targets.watched.iter().chain(&options.watched).cloned().chain([ourselves]).collect();
    for qos in &options.qos {
        for size in &options.sizes {
            let title = options.title(*qos, *size, targets.prefetch);
            let measured = rounds(options, &options.shape(*qos, *size), &targets.targets, &watched).await?;
            let cell = Cell::new(title, *qos, *size, targets.prefetch, measured);
            println!("{cell}");
            report.cells.push(cell);
        }
    }
    Ok(())
}

/// All rounds of one kind of load.
async fn rounds(
    options: &Options,
    shape: &Shape,
    targets: &[Target],
    watched: &[Watched],
) -> Result<Vec<Measured>> {
    let mut measured: Vec<_> = targets.iter().map(|target| Measured::new(&target.name)).collect();
    let mut order: Vec<_> = (0..targets.len()).collect();
    for round in 0..=options.rounds {
        for index in &order {
            let target = &targets[*index];
            let turn = turn(options, shape, target, watched).await;
            let turn = turn.with_context(|| format!("{}, round {round}", target.name))?;
            // The first one warms up what comes to life only once: code, caches, heaps.
            if round > 0 {
                measured[*index].add(turn);
            }
        }
        order.reverse();
    }
    Ok(measured)
}

/// One round of one target. Everybody connects anew: which of Envoy's workers a connection falls to is luck, and luck
/// that lasted for all rounds would pass for a difference between the targets.
async fn turn(options: &Options, shape: &Shape, target: &Target, watched: &[Watched]) -> Result<Turn> {
    let each = options.messages / options.publishers as u64;
    let copies = if options.fan_out { options.subscribers as u64 } else { 1 };
    let mut fleet = Fleet::open(target.address, shape).await?;
    fleet.round(each.div_ceil(10)).await.context("warming up")?;
    let before = Usage::read(watched)?;
    let took = fleet.round(each).await?;
    let usage = Usage::read(watched)?.since(&before);
    let admissions = fleet.admissions();
    fleet.close().await?;
    Ok(Turn { delivered: each * options.publishers as u64 * copies, took, usage, admissions })
}

impl Options {
    fn check(&self) -> Result<()> {
        ensure!(
            self.fan_out || self.publishers == self.subscribers,
            "without --fan-out there must be as many subscribers as publishers"
        );
        ensure!(
            self.messages >= self.publishers as u64 && self.publishers > 0 && self.subscribers > 0,
            "a round needs a publisher, a subscriber, and a message from every publisher"
        );
        ensure!(self.sizes.iter().all(|size| *size >= Stamp::LEN), "a payload needs {} octets", Stamp::LEN);
        Ok(())
    }

    fn shape(&self, qos: u8, size: usize) -> Shape {
        Shape {
            login: Login { username: self.username.clone(), password: self.password.clone() },
            qos: if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce },
            size,
            publishers: self.publishers,
            subscribers: self.subscribers,
            fan_out: self.fan_out,
            window: if qos == 0 { self.window_qos0 } else { self.window },
            deadline: Duration::from_secs(self.deadline),
        }
    }

    fn title(&self, qos: u8, size: usize, prefetch: Option<u16>) -> String {
        let Self { publishers, subscribers, rounds, messages, .. } = self;
        let fan_out = if self.fan_out { ", fan-out" } else { "" };
        let window = self.shape(qos, size).window;
        let prefetch = prefetch.map_or(String::new(), |prefetch| format!(", prefetch {prefetch}"));
        format!(
            "QoS {qos}, {size} B, {publishers} -> {subscribers}{fan_out}, {rounds} rounds of {messages}, window {window}{prefetch}"
        )
    }
}
