//! Two watchers of the wills. A durable queue at the broker, read when everything is over, holds a will as often as it
//! was sent, whatever connections are lost meanwhile. And a subscriber that is always there sees those that the broker
//! can forget: a queue without a consumer is not written to disk before it has been idle for 200 ms, and nobody waits
//! for the confirmation of a dead letter; should the broker be killed just then, a will that it has sent is gone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_lite::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::{sleep, timeout};

use super::device::WILLS;

/// How often a payload was sent at a moment: by payload, then by the time (in seconds) that the broker has noted.
type Times = BTreeMap<Vec<u8>, BTreeMap<u64, u64>>;

/// What both watchers have seen.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    live: RefCell<Times>,
    kept: RefCell<Times>,
    /// When the subscriber saw a payload first.
    first: RefCell<BTreeMap<Vec<u8>, Instant>>,
}

impl Sightings {
    /// Every will's payload, as often as it was sent. Seen by both watchers with the same time is sent once.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        let mut all = self.kept.borrow().clone();
        for (payload, times) in self.live.borrow().iter() {
            for (time, count) in times {
                let known = all.entry(payload.clone()).or_default().entry(*time).or_default();
                *known = count.max(known).to_owned();
            }
        }
        let counted = all.into_iter().map(|(payload, times)| (payload, times.values().sum::<u64>()));
        counted.flat_map(|(payload, count)| (0..count).map(move |_| payload.clone())).collect()
    }

    /// When the subscriber saw this payload first.
    pub(crate) fn first(&self, payload: &[u8]) -> Option<Instant> {
        self.first.borrow().get(payload).copied()
    }

    /// Those that were seen when they were sent, and were not in the durable queue at the end.
    pub(crate) fn forgotten(&self) -> Vec<Vec<u8>> {
        let kept = self.kept.borrow();
        self.live.borrow().keys().filter(|payload| !kept.contains_key(*payload)).cloned().collect()
    }

    /// Reads the durable queue.
    pub(crate) async fn read(&self, broker: SocketAddr) -> Result<()> {
        let (connection, channel) = connect(broker).await?;
        while let Some(message) = channel.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await? {
            see(&self.kept, &message.delivery);
        }
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Is always there: whenever the broker is.
    pub(crate) async fn watch(&self, broker: SocketAddr) {
        loop {
            // It ends with the broker, and there is nothing to be done but to try again.
            let _ = self.watch_once(broker).await;
            sleep(AGAIN).await;
        }
    }

    async fn watch_once(&self, broker: SocketAddr) -> Result<()> {
        let (_connection, channel) = timeout(PATIENCE, connect(broker)).await??;
        let (options, none) =
            (QueueDeclareOptions { exclusive: true, ..Default::default() }, FieldTable::default());
        channel.queue_declare(LIVE.into(), options, none.clone()).await?;
        bind(&channel, LIVE).await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut wills = channel.basic_consume(LIVE.into(), "".into(), options, none).await?;
        while let Some(will) = wills.next().await {
            let will = will?;
            see(&self.live, &will);
            self.first.borrow_mut().entry(will.data).or_insert_with(Instant::now);
        }
        Ok(())
    }
}

/// Has every will put into the durable queue from now on.
pub(crate) async fn declare(broker: SocketAddr) -> Result<()> {
    let (connection, channel) = connect(broker).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
    bind(&channel, QUEUE).await?;
    Ok(connection.close(200, "done".into()).await?)
}

async fn bind(channel: &Channel, queue: &str) -> Result<()> {
    let key = format!("{}.#", WILLS.replace('/', "."));
    let (exchange, options) = ("amq.topic".into(), QueueBindOptions::default());
    Ok(channel.queue_bind(queue.into(), exchange, key.into(), options, FieldTable::default()).await?)
}

async fn connect(broker: SocketAddr) -> Result<(Connection, Channel)> {
    let uri = format!("amqp://guest:guest@{broker}/%2f");
    let connection =
        Connection::connect(&uri, ConnectionProperties::default().with_connection_name(NAME.into())).await;
    let connection = connection.context("connecting with AMQP")?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

fn see(times: &RefCell<Times>, will: &Delivery) {
    let mut times = times.borrow_mut();
    *times.entry(will.data.clone()).or_default().entry(died_at(will)).or_default() += 1;
}

/// When the broker made a dead letter of it; 0 if it was published in the ordinary way.
fn died_at(will: &Delivery) -> u64 {
    let headers = will.properties.headers().as_ref();
    let deaths = headers.and_then(|headers| headers.inner().get("x-death"));
    let last = match deaths {
        Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().first(),
        _ => None,
    };
    match last {
        Some(AMQPValue::FieldTable(death)) => match death.inner().get("time") {
            Some(AMQPValue::Timestamp(time)) => *time,
            _ => 0,
        },
        _ => 0,
    }
}

/// Whether this queue is one of the watchers'.
pub(crate) fn is_ours(queue: &str) -> bool {
    [QUEUE, LIVE].contains(&queue)
}

/// What the watchers' connections are called at the broker.
pub(crate) const NAME: &str = "chaos";
const QUEUE: &str = "chaos-wills";
const LIVE: &str = "chaos-wills-live";
const AGAIN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sending_is_seen_by_both_and_two_sendings_are_two() {
        let sightings = Sightings::default();
        let see = |times: &RefCell<Times>, payload: &str, time: u64| {
            *times.borrow_mut().entry(payload.into()).or_default().entry(time).or_default() += 1;
        };
        // Seen by both; by the subscriber alone; by both at different times; twice in the queue within a second.
        for (payload, time) in [("both", 1), ("live", 1), ("again", 1), ("twice", 1)] {
            see(&sightings.live, payload, time);
        }
        for (payload, time) in [("both", 1), ("again", 7), ("twice", 1), ("twice", 1)] {
            see(&sightings.kept, payload, time);
        }
        let sent = ["again", "again", "both", "live", "twice", "twice"].map(|name| name.as_bytes().to_vec());
        assert_eq!(sightings.sent(), sent);
        assert_eq!(sightings.forgotten(), [b"live"]);
    }
}
