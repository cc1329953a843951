//! Publishers and subscribers of one target, and one round of messages through them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{self, Packet};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::sequence::{FILLER, Sequence, Stamp};
use crate::client::{Client, Login, unencodable};

/// What a fleet is made of and how it behaves; the same for all targets of a comparison.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) login: Login,
    pub(crate) qos: QoS,
    /// Octets of a payload.
    pub(crate) size: usize,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Every subscriber takes every topic; otherwise subscriber i takes publisher i's.
    pub(crate) fan_out: bool,
    /// Messages a publisher may have out: unacknowledged at QoS 1, not yet with every subscriber of its at QoS 0.
    pub(crate) window: u64,
    /// When a round that has not ended is called lost.
    pub(crate) deadline: Duration,
}

/// Connected publishers and subscribers. The sequence numbers run on from round to round, so what comes late or
/// twice is seen even when its round is over.
pub(crate) struct Fleet {
    members: Vec<Member>,
    /// Messages each publisher has sent.
    sent: u64,
    deadline: Duration,
}

impl Fleet {
    /// Connects everybody and subscribes.
    pub(crate) async fn open(address: SocketAddr, shape: &Shape) -> Result<Self> {
        let run = now() ^ u64::from(std::process::id()).rotate_left(32);
        let hearers = if shape.fan_out { shape.subscribers } else { 1 };
        let audiences: Vec<_> = (0..shape.publishers).map(|_| Arc::new(Audience::new(hearers))).collect();

        let mut members = Vec::new();
        for index in 0..shape.subscribers {
            let streams = match shape.fan_out {
                true => {
                    audiences.iter().enumerate().map(|(from, all)| Stream::new(from, index, all)).collect()
                }
                false => vec![Stream::new(index, 0, &audiences[index])],
            };
            let id = format!("load-{run:x}-sub-{index}");
            let filter =
                if shape.fan_out { format!("load/{run:x}/+") } else { format!("load/{run:x}/{index}") };
            let mut client = Client::connect(address, &id, &shape.login).await?;
            client.subscribe(&filter, shape.qos).await?;
            members.push(Member::Subscriber(Subscriber {
                client,
                run,
                qos: shape.qos,
                size: shape.size,
                streams,
            }));
        }
        for (index, audience) in audiences.into_iter().enumerate() {
            let id = format!("load-{run:x}-pub-{index}");
            let client = Client::connect(address, &id, &shape.login).await?;
            let topic = format!("load/{run:x}/{index}");
            members.push(Member::Publisher(Publisher::new(client, run, index, &topic, shape, audience)?));
        }
        Ok(Self { members, sent: 0, deadline: shape.deadline })
    }

    /// Sends `messages` from every publisher and returns the time from the first sending to the last reception, or to
    /// the last PUBACK if that comes later. Loss, repetition and disorder are errors.
    pub(crate) async fn round(&mut self, messages: u64) -> Result<Duration> {
        self.sent += messages;
        let (start, end, mut last) = (Instant::now(), self.sent, Instant::now());
        let deadline = tokio::time::Instant::from_std(start + self.deadline);
        let mut working = JoinSet::new();
        for mut member in self.members.drain(..) {
            working.spawn(async move {
                let done = tokio::time::timeout_at(deadline, member.work(end)).await;
                // Out of time: judged by what it left undone.
                let done = done.unwrap_or(Ok(()));
                (member, done, Instant::now())
            });
        }
        let mut wrong = Vec::new();
        while let Some(joined) = working.join_next().await {
            let (member, done, at) = joined?;
            done?;
            last = last.max(at);
            wrong.extend(member.faults(end));
            self.members.push(member);
        }
        ensure!(wrong.is_empty(), "the messages did not arrive as they were sent:\n  {}", wrong.join("\n  "));
        Ok(last - start)
    }

    /// How long each member waited for its CONNACK.
    pub(crate) fn admissions(&self) -> Vec<Duration> {
        self.members.iter().map(|member| member.client().admitted_in).collect()
    }

    /// Takes whatever the broker still has to say, checks it, and leaves.
    pub(crate) async fn close(self) -> Result<()> {
        for mut member in self.members {
            if let Member::Subscriber(subscriber) = &mut member {
                subscriber.hear_out().await?;
            }
            let wrong = member.faults(self.sent);
            ensure!(wrong.is_empty(), "after the last round:\n  {}", wrong.join("\n  "));
            let (Member::Publisher(Publisher { client, .. }) | Member::Subscriber(Subscriber { client, .. })) =
                member;
            client.disconnect().await?;
        }
        Ok(())
    }
}

enum Member {
    Publisher(Publisher),
    Subscriber(Subscriber),
}

impl Member {
    async fn work(&mut self, end: u64) -> Result<()> {
        match self {
            Self::Publisher(publisher) => {
                publisher.publish(end).await.with_context(|| format!("publisher {} failed", publisher.index))
            }
            Self::Subscriber(subscriber) => subscriber.receive(end).await.context("a subscriber failed"),
        }
    }

    fn client(&self) -> &Client {
        let (Self::Publisher(Publisher { client, .. }) | Self::Subscriber(Subscriber { client, .. })) = self;
        client
    }

    fn faults(&self, end: u64) -> Vec<String> {
        match self {
            Self::Publisher(publisher) => publisher.faults(end).into_iter().collect(),
            Self::Subscriber(subscriber) => subscriber.faults(end).collect(),
        }
    }
}

struct Publisher {
    client: Client,
    run: u64,
    index: usize,
    qos: QoS,
    size: usize,
    window: u64,
    /// The packet with its topic, without its id and its stamp.
    template: BytesMut,
    sent: u64,
    /// PUBACKs at QoS 1; at QoS 0 what the slowest subscriber has got. `acknowledged <= sent <= acknowledged + window`.
    acknowledged: u64,
    /// By packet id: whether its PUBACK is due.
    unacknowledged: Vec<bool>,
    audience: Arc<Audience>,
}

impl Publisher {
    fn new(
        client: Client,
        run: u64,
        index: usize,
        topic: &str,
        shape: &Shape,
        audience: Arc<Audience>,
    ) -> Result<Self> {
        let payload: Vec<_> = FILLER.iter().copied().cycle().take(shape.size).collect();
        let mut publish = v4::Publish::new(topic, shape.qos, payload);
        publish.pkid = u16::from(shape.qos != QoS::AtMostOnce);
        let mut template = BytesMut::new();
        publish.write(&mut template).map_err(unencodable)?;
        let unacknowledged = vec![false; usize::from(u16::MAX) + 1];
        let (qos, size, window) = (shape.qos, shape.size, shape.window);
        let (sent, acknowledged) = (0, 0);
        Ok(Self {
            client,
            run,
            index,
            qos,
            size,
            window,
            template,
            sent,
            acknowledged,
            unacknowledged,
            audience,
        })
    }

    async fn publish(&mut self, end: u64) -> Result<()> {
        loop {
            self.fill(end);
            if self.acknowledged == end {
                return Ok(());
            }
            if self.qos == QoS::AtMostOnce {
                tokio::select! {
                    moved = self.client.exchange() => moved?,
                    () = self.audience.moved.notified() => {}
                }
                self.acknowledged = self.audience.least();
            } else {
                self.client.exchange().await?;
            }
            while let Some(packet) = self.client.parse()? {
                self.acknowledge(&packet)?;
            }
        }
    }

    /// Encodes what the window allows, as much as one write takes.
    fn fill(&mut self, end: u64) {
        let end = end.min(self.acknowledged + self.window);
        let sent = now();
        while self.sent < end && self.client.outbox.len() < OUTBOX {
            let packet = self.client.outbox.len();
            self.client.outbox.extend_from_slice(&self.template);
            let packet = &mut self.client.outbox[packet..];
            let payload = packet.len() - self.size;
            if self.qos == QoS::AtLeastOnce {
                let id = (self.sent % u64::from(u16::MAX)) as u16 + 1;
                if std::mem::replace(&mut self.unacknowledged[usize::from(id)], true) {
                    // The ids have come round to one that still waits.
                    let length = self.client.outbox.len() - self.template.len();
                    return self.client.outbox.truncate(length);
                }
                packet[payload - 2..payload].copy_from_slice(&id.to_be_bytes());
            }
            let publisher = self.index as u32;
            Stamp { run: self.run, publisher, sequence: self.sent, sent }.write(&mut packet[payload..]);
            self.sent += 1;
        }
    }

    fn acknowledge(&mut self, packet: &Packet) -> Result<()> {
        let Packet::PubAck(puback) = packet else { bail!("a publisher was sent {packet:?}") };
        let due = std::mem::take(&mut self.unacknowledged[usize::from(puback.pkid)]);
        ensure!(due, "PUBACK {} acknowledges nothing", puback.pkid);
        self.acknowledged += 1;
        Ok(())
    }

    fn faults(&self, end: u64) -> Option<String> {
        let Self { index, sent, acknowledged, .. } = self;
        let incomplete = *acknowledged < end && self.qos != QoS::AtMostOnce;
        incomplete
            .then(|| format!("publisher {index}: of {end} messages {sent} sent, {acknowledged} acknowledged"))
    }
}

struct Subscriber {
    client: Client,
    run: u64,
    qos: QoS,
    size: usize,
    streams: Vec<Stream>,
}

impl Subscriber {
    async fn receive(&mut self, end: u64) -> Result<()> {
        while self.streams.iter().any(|stream| stream.sequence.next() < end) {
            self.client.receive().await?;
            self.take()?;
            self.client.flush().await?;
        }
        Ok(())
    }

    /// Everything that comes before the answer to a PINGREQ.
    async fn hear_out(&mut self) -> Result<()> {
        v4::PingReq.write(&mut self.client.outbox).map_err(unencodable)?;
        self.client.flush().await?;
        while !self.take()? {
            self.client.receive().await?;
        }
        Ok(())
    }

    /// Takes the packets that are here, and leaves their acknowledgements in the outbox. True if there was a PINGRESP.
    fn take(&mut self) -> Result<bool> {
        let mut answered = false;
        while let Some(packet) = self.client.parse()? {
            match packet {
                Packet::Publish(publish) => self.observe(&publish)?,
                Packet::PingResp => answered = true,
                other => bail!("a subscriber was sent {other:?}"),
            }
        }
        self.streams.iter_mut().for_each(Stream::tell);
        Ok(answered)
    }

    fn observe(&mut self, publish: &v4::Publish) -> Result<()> {
        ensure!(publish.qos == self.qos, "published at {:?}, delivered at {:?}", self.qos, publish.qos);
        let stamp = Stamp::read(&publish.payload, self.size).filter(|stamp| stamp.run == self.run);
        let Some(stamp) = stamp else {
            bail!("{} octets that were never sent came on {}", publish.payload.len(), publish.topic)
        };
        let stream = self.streams.iter_mut().find(|stream| stream.publisher == stamp.publisher as usize);
        let stream = stream
            .with_context(|| format!("publisher {}'s message came to a wrong place", stamp.publisher))?;
        stream.sequence.observe(stamp.sequence);
        if publish.qos == QoS::AtLeastOnce {
            v4::PubAck::new(publish.pkid).write(&mut self.client.outbox).map_err(unencodable)?;
        }
        Ok(())
    }

    fn faults(&self, end: u64) -> impl Iterator<Item = String> {
        self.streams.iter().filter_map(move |stream| {
            let faults = stream.sequence.faults(end);
            let Stream { publisher, hearer, .. } = stream;
            (!faults.is_clean())
                .then(|| format!("publisher {publisher} to its subscriber {hearer}: {faults}"))
        })
    }
}

/// One publisher's messages on their way to one subscriber.
struct Stream {
    publisher: usize,
    /// The subscriber's place in the audience.
    hearer: usize,
    sequence: Sequence,
    audience: Arc<Audience>,
}

impl Stream {
    fn new(publisher: usize, hearer: usize, audience: &Arc<Audience>) -> Self {
        Self { publisher, hearer, sequence: Sequence::default(), audience: audience.clone() }
    }

    /// Tells the publisher how far its messages have come.
    fn tell(&mut self) {
        let (seat, next) = (&self.audience.got[self.hearer], self.sequence.next());
        if seat.swap(next, Ordering::Relaxed) != next {
            self.audience.moved.notify_one();
        }
    }
}

/// How far each subscriber of a publisher has come: what bounds QoS 0, where the protocol has no acknowledgement.
struct Audience {
    got: Vec<AtomicU64>,
    moved: Notify,
}

impl Audience {
    fn new(hearers: usize) -> Self {
        Self { got: (0..hearers).map(|_| AtomicU64::new(0)).collect(), moved: Notify::new() }
    }

    fn least(&self) -> u64 {
        self.got.iter().map(|next| next.load(Ordering::Relaxed)).min().unwrap_or_default()
    }
}

/// Nanoseconds since the first call.
fn now() -> u64 {
    use std::sync::LazyLock;
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    EPOCH.elapsed().as_nanos() as u64
}

/// How much is encoded before it is written.
const OUTBOX: usize = 32 * 1024;
