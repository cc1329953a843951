//! `lab pipelines`: conversations of one or two clients that write without waiting, cut anywhere, held with the filter and with a
//! mosquitto, which judges: the same messages to the same clients, the same answers in the same order, the same retained messages,
//! sessions and wills.
//!
//! A conversation is made from a seed. One that fails is made smaller while it fails, and printed.
#![allow(clippy::disallowed_types, reason = "a native program")]

mod conversation;
mod line;
mod outcome;
mod run;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::envoy::{self, Envoy, Mode, Shipped};
use crate::mosquitto::Mosquitto;
use crate::rabbitmq::{self, Rabbitmq};
use conversation::Conversation;
use run::{Outcome, Until};

/// Has random conversations with the filter and with mosquitto, and compares.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// For how long.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// The first conversation's; the ones that follow have the numbers that follow. Any unless given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// So many conversations and no more.
    #[arg(long)]
    pub count: Option<u64>,
    /// An endpoint that runs already, instead of Envoy with the filter.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: Option<SocketAddr>,
    /// Let a second connection of a client id wait until all that the first has said is done, for a target that promises no order there.
    #[arg(long)]
    pub wait: bool,
    /// Wait after every packet: what fails even so does not fail for haste.
    #[arg(long)]
    pub one_by_one: bool,
    /// The highest QoS that is said: RabbitMQ's own plugin, as the target, makes 1 of 2.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub max_qos: u8,
    /// How many at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub at_once: u64,
}

impl Options {
    /// So many conversations, however long they take.
    pub fn of(count: u64) -> Self {
        Self {
            seconds: u64::from(u32::MAX),
            seed: None,
            count: Some(count),
            target: None,
            wait: false,
            one_by_one: false,
            max_qos: 2,
            at_once: 4,
        }
    }
}

/// Runs `lab pipelines` with everything it starts in `folder`; an error if any outcome is not as judged.
pub fn run(options: &Options, folder: &Path) -> Result<()> {
    let judge = Mosquitto::start(&folder.join("mosquitto"), &[])?;
    match options.target {
        Some(target) => compare(options, target, judge.address()),
        None => {
            let broker = Rabbitmq::start(&folder.join("broker"), &rabbitmq::Options::default())?;
            let shipped = Shipped {
                mqtt: (Ipv4Addr::LOCALHOST, 0).into(),
                ..Shipped::with_broker(Mode::Lazy, broker.amqp_address())
            };
            let options_of_envoy = envoy::Options { concurrency: 2, ..envoy::Options::default() };
            let envoy = Envoy::start(&folder.join("envoy"), &shipped.render()?, &options_of_envoy)?;
            envoy.stat_until("cluster.broker.membership_healthy", PATIENCE, |brokers| brokers > 0)?;
            compare(options, envoy.address("mqtt")?, judge.address())
        }
    }
}

/// Has the conversations with both endpoints; an error if any outcome is not as judged.
pub fn compare(options: &Options, subject: SocketAddr, judge: SocketAddr) -> Result<()> {
    let first = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    println!("pipelines: seed {first}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let court = Rc::new(Court {
        subject,
        judge,
        waits: options.wait,
        one_by_one: options.one_by_one,
        max_qos: options.max_qos,
        tag: Rng::new().u32(..),
    });
    LocalSet::new().block_on(&runtime, court.hear(options, first))
}

/// Both, and a name for what is said to them in this run.
struct Court {
    subject: SocketAddr,
    judge: SocketAddr,
    waits: bool,
    one_by_one: bool,
    max_qos: u8,
    tag: u32,
}

impl Court {
    async fn hear(self: Rc<Self>, options: &Options, first: u64) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(options.seconds);
        let mut seeds = (0..options.count.unwrap_or(u64::MAX)).map(|n| first.wrapping_add(n));
        let mut under_way = JoinSet::new();
        let (mut failed, mut count) = (BTreeMap::new(), 0_u64);
        loop {
            while under_way.len() < options.at_once as usize
                && failed.len() < FAILURES
                && Instant::now() < end
            {
                let Some(seed) = seeds.next() else { break };
                let court = self.clone();
                under_way.spawn_local(async move { (seed, court.try_seed(seed).await) });
            }
            let Some(tried) = under_way.join_next().await else { break };
            let (seed, wrong) = tried?;
            count += 1;
            if let Some(wrong) = wrong.with_context(|| format!("seed {seed}"))? {
                println!("seed {seed}: {}", wrong.join("\n    "));
                failed.insert(seed, wrong);
            }
        }
        println!("pipelines: {} of {count} conversations are not as mosquitto has them", failed.len());
        let Some((&seed, wrong)) = failed.first_key_value() else { return Ok(()) };
        let (smallest, wrong) = self.shrink(self.conversation(seed), wrong.clone()).await;
        bail!(
            "{} of {count} conversations are not as mosquitto has them; of seed {seed} there is left\n{smallest}and then\n    {}\n\
             ./build.sh pipelines --count 1 --seed {seed} has it again",
            failed.len(),
            wrong.join("\n    ")
        )
    }

    fn conversation(&self, seed: u64) -> Conversation {
        let conversation = Conversation::new(seed, self.max_qos);
        if self.one_by_one { conversation.one_by_one() } else { conversation }
    }

    async fn try_seed(&self, seed: u64) -> Result<Option<Vec<String>>> {
        let conversation = self.conversation(seed);
        let root = format!("pipelines-{:x}-{seed}", self.tag);
        self.judge(&conversation, &root, PATIENCE).await
    }

    /// What is wrong with the subject, if anything is.
    async fn judge(
        &self,
        conversation: &Conversation,
        root: &str,
        patience: Duration,
    ) -> Result<Option<Vec<String>>> {
        let judged = run::run(self.judge, conversation, root, &Until::Answered).await.context("the judge")?;
        let until = Until::Same { as_judged: &judged.phases, patience, waits: self.waits };
        let Outcome { wrong, .. } = run::run(self.subject, conversation, root, &until).await?;
        if wrong.is_empty() {
            return Ok(None);
        }
        // What the judge itself has now like this and now like that, judges nobody.
        let until = Until::Same { as_judged: &judged.phases, patience, waits: true };
        let again =
            run::run(self.judge, conversation, root, &until).await.context("the judge, asked again")?;
        ensure!(again.wrong.is_empty(), "the judge contradicts itself in\n{conversation}{:?}", again.wrong);
        Ok(Some(wrong))
    }

    /// Takes away what the failure does not need, as far as a minute leads.
    async fn shrink(&self, mut failing: Conversation, mut wrong: Vec<String>) -> (Conversation, Vec<String>) {
        let end = Instant::now() + SHRINKING;
        let mut number = 0;
        'smaller: loop {
            for smaller in failing.smaller().collect::<Vec<_>>() {
                // Once is not enough to say that it does not fail.
                for _ in 0..2 {
                    if Instant::now() > end {
                        return (failing, wrong);
                    }
                    number += 1;
                    let root = format!("pipelines-{:x}-smaller-{number}", self.tag);
                    if let Ok(Some(still_wrong)) = self.judge(&smaller, &root, HASTE).await {
                        (failing, wrong) = (smaller, still_wrong);
                        continue 'smaller;
                    }
                }
            }
            return (failing, wrong);
        }
    }
}

/// Nothing comes any more when nothing has come for so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same for one that is known to fail.
const HASTE: Duration = Duration::from_millis(1500);
const SHRINKING: Duration = Duration::from_secs(60);
/// After so many there is nothing more to learn.
const FAILURES: usize = 5;
