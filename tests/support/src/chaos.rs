//! `lab chaos`: clients, Envoys and the broker are killed at random under QoS 1 and 2 traffic; then everything calms
//! down, and it is counted what has become of messages, wills, sessions and queues.
//!
//! Promised is: a message that was acknowledged (PUBACK, PUBCOMP) reaches every subscriber whose session was there; a
//! will is sent once if CONNACK 0 was received and DISCONNECT not sent, and never after a DISCONNECT (if something on
//! the way is killed while DISCONNECT travels, either is right; a broker that is killed just after it has sent a will
//! may send it again); a session is remembered; nothing is left at the broker when the sessions have been ended; and
//! no connection is refused or closed without a cause.

mod device;
mod house;
mod ledger;
mod report;
mod role;
mod watch;
mod wills;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use tokio::sync::watch as signal;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::sleep;

use crate::rabbitmq::Rabbitmq;
use device::{Device, Memory};
use house::{Proxy, Schedule};
use ledger::Ledger;
use report::Report;
use role::{Publisher, Role, Subscriber, Watched};
use watch::Sightings;
use world::{Phase, World};

/// Breaks everything at random and counts what has become of messages, wills, sessions and queues.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// How long things break; the end takes as long as it needs, half a minute at least.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Where the randomness comes from: the same seed breaks the same things in the same order. Any unless given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Subscribers, publishers (QoS 1 and 2 in turn), and devices without a session: so many of each.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub clients: u64,
    /// RabbitMQ's own MQTT plugin instead of the filter, behind the same two Envoys: to compare. It is not judged.
    #[arg(long)]
    pub plugin: bool,
    /// Writes down all that happened.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
}

/// Runs `lab chaos` with everything it starts in `folder`; an error if a promise was broken.
pub fn run(options: &Options, folder: &Path) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let subject = if options.plugin { "RabbitMQ's own MQTT plugin" } else { "Leveret" };
    println!(
        "chaos: seed {seed}, {subject} behind 2 Envoys, {0} subscribers, {0} publishers, {0} without a session, {1} s",
        options.clients, options.seconds
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, storm(options, Rng::with_seed(seed), folder))?;
    println!("{report}");
    ensure!(options.plugin || report.is_sound(), "promises were broken; the seed was {seed}");
    Ok(())
}

async fn storm(options: &Options, mut rng: Rng, folder: &Path) -> Result<Report> {
    let broker = house::start_broker(folder, options.plugin)?;
    let (proxies, addresses) = Proxy::start_all(folder, &broker, options.plugin)?;
    let amqp = broker.amqp_address();
    watch::declare(amqp).await?;
    let sightings = Rc::new(Sightings::default());
    let watcher = spawn_local({
        let sightings = sightings.clone();
        async move { sightings.watch(amqp).await }
    });
    let count = options.clients as usize;
    let world = Rc::new(World::new(addresses, Ledger::new(count, count)));
    let (phase, _) = signal::channel(Phase::Gather);

    let mut devices = JoinSet::new();
    for device in cast(&world, count, &mut rng, &phase) {
        devices.spawn_local(device.live());
    }
    until("everybody is there", || world.ready.get() == 3 * count).await?;

    let seconds = |share: f64| Duration::from_secs_f64(options.seconds as f64 * share);
    let broker = spawn_local(house::trouble_broker(
        broker,
        world.clone(),
        rng.fork(),
        Schedule { first: seconds(0.4), every: Duration::from_secs(6)..Duration::from_secs(18) },
        phase.subscribe(),
    ));
    let proxies: Vec<_> = proxies
        .into_iter()
        .zip([0.1, 0.3])
        .map(|(proxy, first)| {
            let every = Duration::from_secs(2)..Duration::from_secs(10);
            let schedule = Schedule { first: seconds(first), every };
            spawn_local(house::trouble_proxy(proxy, world.clone(), rng.fork(), schedule, phase.subscribe()))
        })
        .collect();
    phase.send_replace(Phase::Storm);
    sleep(Duration::from_secs(options.seconds)).await;

    phase.send_replace(Phase::Calm);
    let broker = broker.await??;
    let mut still_running = Vec::new();
    for proxy in proxies {
        still_running.push(proxy.await??);
    }
    settle(&world).await;
    phase.send_replace(Phase::Leave);
    while let Some(device) = devices.join_next().await {
        device??;
    }
    let (cleared_in, queues, connections_left) = clear(&broker).await?;
    watcher.abort();
    sightings.read(amqp).await?;

    let unwritten =
        |will: &[u8], within| sightings.first(will).is_some_and(|seen| world.killed_after(seen, within));
    let wills = world
        .wills
        .borrow()
        .compare(&sightings.sent(), |will| unwritten(will.to_string().as_bytes(), UNWRITTEN));
    for (will, wrong) in &wills.wrong {
        world.note(&world.wills.borrow().get(*will).device, format!("will {will}: {wrong:?}"));
    }
    let forgotten = sightings.forgotten();
    for will in forgotten.iter().filter(|will| !unwritten(will, UNWRITTEN_WHEN_BUSY)) {
        let will = String::from_utf8_lossy(will);
        world.broken(world::BROKER, "a will was not kept in a durable queue");
        world.note(world::BROKER, format!("that was will {will}"));
    }
    print!("{}", stories(&world, &wills));
    if let Some(path) = &options.journal {
        fs::write(path, world.journal()).with_context(|| path.display().to_string())?;
    }
    let report = Report::new(&world, wills, options.clients);
    Ok(Report { wills_forgotten: forgotten.len() as u64, cleared_in, queues, connections_left, ..report })
}

/// Everybody, each with randomness of its own.
fn cast(world: &Rc<World>, count: usize, rng: &mut Rng, phase: &signal::Sender<Phase>) -> Vec<Device> {
    let role = |kind, index| -> (&str, Box<dyn Role>) {
        match kind {
            0 => ("subscriber", Box::new(Subscriber::new(world.clone(), index))),
            1 => ("publisher", Box::new(Publisher::new(world.clone(), index))),
            _ => ("watched", Box::new(Watched::new(world.clone(), index))),
        }
    };
    let all = (0..3).flat_map(|kind| (0..count).map(move |index| (kind, index)));
    all.map(|(kind, index)| {
        let (name, role) = role(kind, index);
        Device {
            world: world.clone(),
            name: role::name(name, index),
            role,
            rng: rng.fork(),
            phase: phase.subscribe(),
            memory: Memory::default(),
        }
    })
    .collect()
}

/// Waits until everything is acknowledged and delivered, or nothing goes on any more.
async fn settle(world: &World) {
    let mut last = (world.ledger.borrow().sums(), Instant::now());
    while !world.ledger.borrow().settled() && last.1.elapsed() < STANDSTILL {
        sleep(POLL).await;
        let sums = world.ledger.borrow().sums();
        if sums != last.0 {
            last = (sums, Instant::now());
        }
    }
}

/// Waits until nothing is left at the broker, and tells how long that took and what is left nevertheless.
async fn clear(broker: &Rabbitmq) -> Result<(Duration, Vec<String>, Vec<String>)> {
    let start = Instant::now();
    loop {
        let (queues, connections) = left_over(broker)?;
        if queues.is_empty() && connections.is_empty() || start.elapsed() > LEFT_OVER {
            return Ok((start.elapsed(), queues, connections));
        }
        sleep(POLL).await;
    }
}

/// Names of the queues and connections that are there, apart from the watchers'.
fn left_over(broker: &Rabbitmq) -> Result<(Vec<String>, Vec<String>)> {
    let names = |path: &str| -> Result<Vec<String>> {
        let list = broker.api(&format!("{path}?columns=name,client_properties.connection_name"))?;
        let all = list.as_array().into_iter().flatten();
        let others = all.filter(|item| item["client_properties"]["connection_name"] != watch::NAME);
        Ok(others.filter_map(|item| Some(item["name"].as_str()?.to_owned())).collect())
    };
    let mut queues = names("queues")?;
    queues.retain(|name| !watch::is_ours(name));
    Ok((queues, names("connections")?))
}

/// How the first broken promises about messages and wills came about.
fn stories(world: &World, wills: &wills::Sums) -> String {
    let mut text = String::new();
    for (id, wrong) in wills.wrong.iter().take(STORIES) {
        let wills = world.wills.borrow();
        let will = wills.get(*id);
        let (from, to) = (will.began - AROUND, will.ended.unwrap_or_else(Instant::now) + AROUND);
        text += &format!("will {id} of {} {wrong:?}:\n{}", will.device, world.story(&will.device, from, to));
    }
    for loss in world.ledger.borrow().losses().iter().take(STORIES) {
        text += &format!("{loss:?}\n");
    }
    text
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + GATHER;
    while !reached() {
        ensure!(Instant::now() < deadline, "not within {GATHER:?}: {what}");
        sleep(POLL).await;
    }
    Ok(())
}

const POLL: Duration = Duration::from_millis(100);
/// For every device to connect and subscribe, on a busy machine.
const GATHER: Duration = Duration::from_secs(60);
/// Nothing goes on any more when nothing was acknowledged or delivered for so long.
const STANDSTILL: Duration = Duration::from_secs(20);
/// The queues of wills expire after 10 s, locks that were never held after 60 s.
const LEFT_OVER: Duration = Duration::from_secs(75);
/// RabbitMQ writes a queue to disk when it has been idle for 200 ms; some more for a busy machine.
const UNWRITTEN: Duration = Duration::from_secs(1);
/// The durable queue of all wills is seldom idle for so long.
const UNWRITTEN_WHEN_BUSY: Duration = Duration::from_secs(5);
/// Broken promises of which to tell the story.
const STORIES: usize = 5;
/// How much of the time before and after belongs to a story.
const AROUND: Duration = Duration::from_secs(3);
