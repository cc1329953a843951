//! What clients say, made from a seed, so that what is right is certain.
//!
//! Whatever two servers may both do rightly and differently is not said here:
//!
//! - No two filters of these match the same topic: RabbitMQ delivers once for each QoS of overlapping filters, mosquitto once for each filter.
//! - No `#` in the middle, which is a wildcard to RabbitMQ only.
//! - A QoS 2 message may be passed on when it comes or when it is released (method A and B of MQTT 3.1.1, figure 4.3): no
//!   change of a subscription that matches, no further retained message and no end of the connection comes behind one.
//! - Two clients at once speak about different topics, and neither connects or leaves: nobody could say who was first.

use std::fmt;

use fastrand::Rng;

use crate::packets;

/// The clients of a conversation.
pub(crate) const CLIENTS: usize = 2;
/// Publishes to every topic in the end, so that one sees who is subscribed to what.
const PUBLISHER: usize = 2;
/// Reads in the end what is retained.
const READER: usize = 3;
/// All of them.
pub(crate) const EVERYBODY: usize = 4;

/// Rounds, one behind the other. In each, one client or both at once say something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) rounds: Vec<Round>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// Whether it begins as soon as the bytes of the one before are written, instead of when all has come of them that will.
    pub(crate) at_once: bool,
    pub(crate) pipelines: Vec<Pipeline>,
}

/// What one client writes without waiting for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pipeline {
    pub(crate) client: usize,
    /// Begins a connection; without it, the one of an earlier round goes on.
    pub(crate) connect: Option<Connect>,
    pub(crate) packets: Vec<Packet>,
    pub(crate) end: Option<End>,
    /// Where it is cut: octets of a segment, and milliseconds to wait behind it, again and again. The rest is in one segment.
    pub(crate) cuts: Vec<(usize, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) clean: bool,
    pub(crate) will: Option<Will>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) number: u32,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Subscribe(u16, Vec<(&'static str, u8)>),
    Unsubscribe(u16, &'static str),
    Publish { id: u16, topic: &'static str, qos: u8, retain: bool, number: Option<u32> },
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// And the client waits for the server to close.
    Disconnect,
    /// With FIN right behind.
    DisconnectAndFin,
    /// Without DISCONNECT: the will is due.
    Fin,
}

// ------------------------------------------------------------ what is talked about

/// A client speaks about its own half where both speak at once.
const HALVES: [[&str; 7]; CLIENTS] = [
    ["x/a", "x/b", "x/c/1", "x/c/2", "x/d", "x/d/1", "x/d/1/2"],
    ["y/a", "y/b", "y/c/1", "y/c/2", "y/d", "y/d/1", "y/d/1/2"],
];
const FILTERS: [[&str; 4]; CLIENTS] = [["x/a", "x/b", "x/c/+", "x/d/#"], ["y/a", "y/b", "y/c/+", "y/d/#"]];
/// Where only one speaks.
const SHARED_TOPICS: [&str; 4] = ["x/e", "y/e", "w/0", "w/1"];
const SHARED_FILTERS: [&str; 2] = ["+/e", "w/+"];
/// Where a client's will goes.
pub(crate) const WILLS: [&str; CLIENTS] = ["w/0", "w/1"];

/// All topics.
pub(crate) fn topics() -> impl Iterator<Item = &'static str> {
    HALVES.as_flattened().iter().chain(&SHARED_TOPICS).copied()
}

/// Whether one of the filters above matches one of the topics above.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    match filter.split_once('+') {
        Some((before, after)) => topic
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|level| !level.is_empty() && !level.contains('/')),
        None => match filter.strip_suffix("/#") {
            Some(above) => {
                topic.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            None => filter == topic,
        },
    }
}

/// What tells one message from all others, and who said it at which QoS.
pub(crate) fn payload(client: usize, number: u32, qos: u8) -> String {
    format!("client {client} message {number} qos {qos}")
}

// ------------------------------------------------------------ how one is made

impl Conversation {
    /// The one of this seed, with QoS up to `max_qos`.
    pub(crate) fn new(seed: u64, max_qos: u8) -> Self {
        let mut maker = Maker {
            rng: Rng::with_seed(seed),
            connected: [false; CLIENTS],
            is_kept: [false; CLIENTS],
            max_qos,
            next_id: 1,
            next_number: 1,
        };
        let count = maker.rng.usize(2..=5);
        let mut rounds = Vec::new();
        while rounds.len() < count {
            let round = maker.round(rounds.last());
            rounds.push(round);
        }
        rounds.extend(maker.look_at_what_is_left());
        Self { rounds }
    }

    /// The same with every packet in a round of its own, and a question behind it, whose answer shows that it was read.
    pub(crate) fn one_by_one(&self) -> Self {
        let mut rounds = Vec::new();
        for pipeline in self.rounds.iter().flat_map(|round| &round.pipelines) {
            let nothing =
                Pipeline { connect: None, packets: Vec::new(), end: None, cuts: Vec::new(), ..*pipeline };
            let connect = pipeline.connect.map(|it| Pipeline { connect: Some(it), ..nothing.clone() });
            let packets = pipeline.packets.iter().filter(|it| **it != Packet::Ping);
            let packets =
                packets.map(|it| Pipeline { packets: vec![it.clone(), Packet::Ping], ..nothing.clone() });
            let end = pipeline.end.map(|it| Pipeline { end: Some(it), ..nothing.clone() });
            let all = connect.into_iter().chain(packets).chain(end);
            rounds.extend(all.map(|pipeline| Round { at_once: false, pipelines: vec![pipeline] }));
        }
        Self { rounds }
    }

    /// The rounds that follow each other at once, together.
    pub(crate) fn phases(&self) -> impl Iterator<Item = &[Round]> {
        self.rounds.chunk_by(|_, next| next.at_once)
    }

    /// The same without some of it, the largest pieces first.
    pub(crate) fn smaller(&self) -> impl Iterator<Item = Self> + '_ {
        let rounds =
            (0..self.rounds.len()).rev().map(|round| self.changed(|it| drop(it.rounds.remove(round))));
        let packets = self.places().rev().flat_map(move |(round, pipeline, packets)| {
            (0..packets).rev().map(move |packet| {
                self.changed(|it| drop(it.rounds[round].pipelines[pipeline].packets.remove(packet)))
            })
        });
        let cuts = self.places().map(move |(round, pipeline, _)| {
            self.changed(|it| it.rounds[round].pipelines[pipeline].cuts.clear())
        });
        rounds.chain(packets).chain(cuts).filter(move |it| it.is_sound() && it != self)
    }

    fn changed(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    /// Round, pipeline, and how many packets it has.
    fn places(&self) -> impl DoubleEndedIterator<Item = (usize, usize, usize)> + '_ {
        self.rounds.iter().enumerate().flat_map(|(round, it)| {
            it.pipelines.iter().enumerate().map(move |(pipeline, it)| (round, pipeline, it.packets.len()))
        })
    }

    /// Whether who speaks is connected, and what comes at once comes behind something.
    fn is_sound(&self) -> bool {
        let mut connected = [false; EVERYBODY];
        let mut before: Option<&Round> = None;
        self.rounds.iter().all(|round| {
            let follows = !round.at_once
                || before.is_some_and(|it| {
                    it.pipelines.len() == 1 && it.pipelines[0].client == round.pipelines[0].client
                });
            before = Some(round);
            follows
                && round.pipelines.iter().all(|pipeline| {
                    let is_connected = &mut connected[pipeline.client];
                    let may_speak = *is_connected || pipeline.connect.is_some();
                    *is_connected = pipeline.end.is_none();
                    may_speak
                })
        }) && !self.rounds.is_empty()
    }
}

struct Maker {
    rng: Rng,
    connected: [bool; CLIENTS],
    /// Whether there is a session that outlives its connection.
    is_kept: [bool; CLIENTS],
    max_qos: u8,
    next_id: u16,
    next_number: u32,
}

impl Maker {
    fn round(&mut self, before: Option<&Round>) -> Round {
        if self.connected == [true; CLIENTS] && self.rng.u8(..3) > 0 {
            let pipelines = (0..CLIENTS).map(|client| self.pipeline(client, true, false)).collect();
            return Round { at_once: false, pipelines };
        }
        let last = before.filter(|round| round.pipelines.len() == 1).map(|round| round.pipelines[0].client);
        let client = self.rng.usize(..CLIENTS);
        // A second connection of a client id, while the first one has only just said what it has to say.
        let at_once = last == Some(client) && self.rng.bool() && before.is_some_and(has_no_qos_2);
        let pipeline = self.pipeline(client, false, at_once);
        Round { at_once, pipelines: vec![pipeline] }
    }

    /// Who left a session finds in it what matches its subscriptions, and a stranger finds what is retained.
    fn look_at_what_is_left(&mut self) -> Vec<Round> {
        let alone = |client, connect, packets, end| Round {
            at_once: false,
            pipelines: vec![Pipeline { client, connect, packets, end, cuts: Vec::new() }],
        };
        let connect = |clean| Some(Connect { clean, will: None });
        let kept: Vec<usize> = (0..CLIENTS).filter(|&client| self.is_kept[client]).collect();
        let there = kept.iter().filter(|&&client| self.connected[client]);
        let mut rounds: Vec<_> =
            there.map(|&client| alone(client, None, Vec::new(), Some(End::Disconnect))).collect();
        let publish = |topic| Packet::Publish {
            id: self.id(),
            topic,
            qos: 1,
            retain: false,
            number: Some(self.number()),
        };
        let publishes = topics().map(publish).collect();
        rounds.push(alone(PUBLISHER, connect(true), publishes, Some(End::Disconnect)));
        rounds.extend(kept.iter().map(|&client| alone(client, connect(false), vec![Packet::Ping], None)));
        let read = vec![Packet::Subscribe(self.id(), vec![("#", 1)]), Packet::Ping];
        rounds.push(alone(READER, connect(true), read, None));
        rounds
    }

    fn pipeline(&mut self, client: usize, both_speak: bool, at_once: bool) -> Pipeline {
        let is_new = !self.connected[client] || at_once || (!both_speak && self.rng.u8(..6) == 0);
        let connect = is_new.then(|| self.connect());
        if let Some(connect) = connect {
            (self.connected[client], self.is_kept[client]) = (true, !connect.clean);
        }
        let ends = !both_speak && self.rng.u8(..3) == 0;
        let mut packets = Vec::new();
        for _ in 0..self.rng.usize(1..=8) {
            let packet = self.packet(client, both_speak, ends, &packets);
            packets.extend(packet);
        }
        let end = ends.then(|| self.one_of(&[&[End::Disconnect, End::DisconnectAndFin, End::Fin]]));
        match end {
            Some(_) => self.connected[client] = false,
            // Its answer is heard behind all others.
            None => packets.push(Packet::Ping),
        }
        Pipeline { client, connect, packets, end, cuts: self.cuts() }
    }

    fn connect(&mut self) -> Connect {
        let will = Will { number: self.number(), qos: self.qos(2), retain: self.rng.bool() };
        Connect { clean: self.rng.bool(), will: self.rng.bool().then_some(will) }
    }

    /// Something that may be said behind this, if what is drawn may be.
    fn packet(&mut self, client: usize, both_speak: bool, ends: bool, before: &[Packet]) -> Option<Packet> {
        let released_later = |matches: &dyn Fn(&str) -> bool| {
            before.iter().any(|it| matches!(it, Packet::Publish { qos: 2, topic, .. } if matches(topic)))
        };
        match self.rng.u8(..10) {
            0..=2 => {
                let mut filters = Vec::new();
                for _ in 0..self.rng.usize(1..=3) {
                    let (filter, qos) = (self.filter(client, both_speak), self.rng.u8(..3));
                    // The same filter twice in one packet is told of elsewhere.
                    if !filters.iter().any(|(other, _)| *other == filter) {
                        filters.push((filter, qos));
                    }
                }
                let too_late =
                    filters.iter().any(|(filter, _)| released_later(&|topic| matches(filter, topic)));
                (!too_late).then(|| Packet::Subscribe(self.id(), filters))
            }
            3 => {
                let filter = self.filter(client, both_speak);
                let too_late = released_later(&|topic| matches(filter, topic));
                (!too_late).then(|| Packet::Unsubscribe(self.id(), filter))
            }
            4 => Some(Packet::Ping),
            _ => {
                let (topic, retain) = (self.topic(client, both_speak), self.rng.u8(..5) < 2);
                let qos = self.qos(if ends { 1 } else { 2 });
                if retain && qos < 2 && released_later(&|other| other == topic) {
                    return None;
                }
                let clears = retain && self.rng.u8(..4) == 0;
                let number = (!clears).then(|| self.number());
                Some(Packet::Publish { id: self.id(), topic, qos, retain, number })
            }
        }
    }

    fn filter(&mut self, client: usize, both_speak: bool) -> &'static str {
        let half = if both_speak { client } else { self.rng.usize(..CLIENTS) };
        if both_speak {
            self.one_of(&[&FILTERS[half]])
        } else {
            self.one_of(&[&FILTERS[half], &SHARED_FILTERS])
        }
    }

    fn topic(&mut self, client: usize, both_speak: bool) -> &'static str {
        let half = if both_speak { client } else { self.rng.usize(..CLIENTS) };
        if both_speak { self.one_of(&[&HALVES[half]]) } else { self.one_of(&[&HALVES[half], &SHARED_TOPICS]) }
    }

    fn one_of<T: Copy>(&mut self, all: &[&[T]]) -> T {
        let all = all.concat();
        all[self.rng.usize(..all.len())]
    }

    fn cuts(&mut self) -> Vec<(usize, u64)> {
        let largest = match self.rng.u8(..4) {
            0 => return Vec::new(),
            1 => 6,
            2 => 30,
            _ => 120,
        };
        (0..self.rng.usize(1..=30))
            .map(|_| {
                (self.rng.usize(1..=largest), if self.rng.u8(..3) == 0 { self.rng.u64(..=30) } else { 0 })
            })
            .collect()
    }

    fn qos(&mut self, most: u8) -> u8 {
        self.rng.u8(..=most).min(self.max_qos)
    }

    fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

fn has_no_qos_2(round: &Round) -> bool {
    let packets = round.pipelines.iter().flat_map(|pipeline| &pipeline.packets);
    !packets.into_iter().any(|packet| matches!(packet, Packet::Publish { qos: 2, .. }))
}

// ------------------------------------------------------------ how it looks on the wire, and to a reader

impl Pipeline {
    /// What is written, packet by packet. Topics are under this root, and so are the client ids.
    pub(crate) fn bytes(&self, root: &str) -> Vec<Vec<u8>> {
        let connect = self.connect.map(|connect| connect.bytes(root, self.client));
        let packets = self.packets.iter().map(|packet| packet.bytes(root, self.client));
        let disconnect = matches!(self.end, Some(End::Disconnect | End::DisconnectAndFin));
        connect.into_iter().chain(packets).chain(disconnect.then(|| packets::DISCONNECT.to_vec())).collect()
    }
}

/// A client's id.
pub(crate) fn client_id(root: &str, client: usize) -> String {
    format!("{root}-{client}")
}

impl Connect {
    fn bytes(self, root: &str, client: usize) -> Vec<u8> {
        let id = client_id(root, client);
        let clean = u8::from(self.clean) << 1;
        match self.will {
            None => packets::connect_with(clean, 60, &[&id]),
            Some(Will { number, qos, retain }) => {
                let flags = clean | 4 | qos << 3 | u8::from(retain) << 5;
                let topic = format!("{root}/{}", WILLS[client]);
                packets::connect_with(flags, 60, &[&id, &topic, &payload(client, number, qos)])
            }
        }
    }
}

impl Packet {
    fn bytes(&self, root: &str, client: usize) -> Vec<u8> {
        let under = |topic: &str| format!("{root}/{topic}");
        match self {
            Self::Subscribe(id, filters) => {
                let filters: Vec<_> = filters.iter().map(|(filter, qos)| (under(filter), *qos)).collect();
                let filters: Vec<_> = filters.iter().map(|(filter, qos)| (filter.as_str(), *qos)).collect();
                packets::subscribe(*id, &filters)
            }
            Self::Unsubscribe(id, filter) => packets::unsubscribe(*id, &[&under(filter)]),
            Self::Publish { id, topic, qos, retain, number } => {
                let payload = number.map(|number| payload(client, number, *qos)).unwrap_or_default();
                packets::publish_flags(qos << 1 | u8::from(*retain), *id, &under(topic), payload.as_bytes())
            }
            Self::Ping => packets::PINGREQ.to_vec(),
        }
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, round) in self.rounds.iter().enumerate() {
            let start = if round.at_once { "at once behind it" } else { "when all is quiet" };
            writeln!(f, "round {number}, {start}:")?;
            for pipeline in &round.pipelines {
                writeln!(f, "  client {} writes:", pipeline.client)?;
                if let Some(connect) = pipeline.connect {
                    writeln!(f, "    {connect}")?;
                }
                for packet in &pipeline.packets {
                    writeln!(f, "    {packet}")?;
                }
                if let Some(end) = pipeline.end {
                    writeln!(f, "    {end:?}")?;
                }
                if !pipeline.cuts.is_empty() {
                    writeln!(f, "    in segments of (octets, then wait ms) {:?}", pipeline.cuts)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CONNECT clean {}", u8::from(self.clean))?;
        match self.will {
            Some(Will { number, qos, retain }) => {
                write!(f, ", will {number} qos {qos} retain {}", u8::from(retain))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscribe(id, filters) => write!(f, "SUBSCRIBE {id} {filters:?}"),
            Self::Unsubscribe(id, filter) => write!(f, "UNSUBSCRIBE {id} {filter:?}"),
            Self::Publish { id, topic, qos, retain, number } => {
                let retain = u8::from(*retain);
                write!(f, "PUBLISH {id} {topic:?} qos {qos} retain {retain} ")?;
                match number {
                    Some(number) => write!(f, "message {number}"),
                    None => write!(f, "empty"),
                }
            }
            Self::Ping => write!(f, "PINGREQ"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_conversation_and_a_smaller_one_is_smaller() {
        for seed in 0..300 {
            let conversation = Conversation::new(seed, 2);
            assert_eq!(conversation, Conversation::new(seed, 2));
            assert!(conversation.is_sound(), "{conversation}");
            let size = |it: &Conversation| it.to_string().len();
            assert!(conversation.smaller().all(|it| size(&it) < size(&conversation)), "{conversation}");
        }
    }
}
