//! What came of a conversation at two servers, compared.

use std::collections::{BTreeMap, BTreeSet};

use super::conversation::{self, EVERYBODY, Packet, Round, WILLS};
use super::line::{End, Message};

/// What came, between two moments when all was quiet.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// By client, its connections in order.
    pub(crate) clients: [Vec<Part>; EVERYBODY],
    pub(crate) observer: Part,
}

/// What came over one connection.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) answers: BTreeMap<&'static str, Vec<String>>,
    pub(crate) messages: Vec<Message>,
    pub(crate) end: End,
    /// The client has ended it.
    pub(crate) ended: bool,
    /// Another of its client id's has taken its place.
    pub(crate) replaced: bool,
}

/// What has to be known of the phases before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Who has had what, at the judge and at the subject: DUP of something that was heard is no other message.
    heard: [BTreeSet<(usize, Message)>; 2],
    /// The order in which each topic's messages were passed on.
    order: Vec<Message>,
    /// What somebody may still be given in a phase to come, or must.
    owed: Vec<Owed>,
    /// Whose session is kept.
    is_kept: [bool; EVERYBODY],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owed {
    client: usize,
    message: Message,
    must: bool,
}

/// What a phase leaves open.
struct Openness {
    /// A retained message was said or cleared, or a will that is retained may have been.
    changed: BTreeSet<&'static str>,
    /// Subscribed and unsubscribed.
    passing: BTreeSet<&'static str>,
    /// A connection was replaced while it was busy: nobody knows how far it has heard.
    is_cut: bool,
}

impl Memory {
    /// Looks at the next phase of both; how they differ.
    pub(crate) fn compare(&mut self, judged: &Phase, seen: &Phase, rounds: &[Round]) -> Vec<String> {
        self.look_at_connects(rounds);
        self.order.extend(judged.observer.messages.iter().cloned());
        let mut wrong = Vec::new();
        for (messages, what) in [(&judged.observer.messages, "judged"), (&seen.observer.messages, "seen")] {
            if let Some(message) = messages.iter().find(|message| message.retain) {
                wrong.push(format!("{what} by the observer with RETAIN: {message:?}"));
            }
        }
        let all = |phase: &Phase| Live::of(&phase.observer.messages);
        wrong.extend(
            all(judged).differences(&all(seen), true).into_iter().map(|it| format!("observer: {it}")),
        );
        for client in 0..EVERYBODY {
            let of_client = self.compare_client(client, judged, seen, rounds);
            wrong.extend(of_client.into_iter().map(|it| format!("client {client}: {it}")));
        }
        wrong
    }

    /// What somebody should have been given by now.
    pub(crate) fn unpaid(&self) -> Vec<String> {
        let unpaid = self.owed.iter().filter(|owed| owed.must);
        unpaid.map(|owed| format!("client {}: never came: {:?}", owed.client, owed.message)).collect()
    }

    fn look_at_connects(&mut self, rounds: &[Round]) {
        for pipeline in rounds.iter().flat_map(|round| &round.pipelines) {
            if let Some(connect) = pipeline.connect {
                self.is_kept[pipeline.client] = !connect.clean;
                if connect.clean {
                    self.owed.retain(|owed| owed.client != pipeline.client);
                }
            }
        }
    }

    fn compare_client(
        &mut self,
        client: usize,
        judged: &Phase,
        seen: &Phase,
        rounds: &[Round],
    ) -> Vec<String> {
        let (judged, seen) = (&judged.clients[client], &seen.clients[client]);
        let mut wrong = Vec::new();
        for (number, (judged, seen)) in judged.iter().zip(seen).enumerate() {
            wrong.extend(judged.answers_differ(seen).map(|it| format!("connection {number}: {it}")));
        }
        let open = Openness::of(client, judged, rounds);
        let ends = judged.iter().any(|part| part.ended || part.replaced);
        let judged = new_messages(&mut self.heard[0], client, judged);
        let seen = new_messages(&mut self.heard[1], client, seen);
        let seen = self.pay(client, seen, &judged);

        let (judged_live, seen_live) = (Live::of(&judged), Live::of(&seen));
        let may_wait = open.is_cut || (ends && self.is_kept[client]);
        wrong.extend(judged_live.differences(&seen_live, !may_wait));
        if may_wait {
            // QoS 0 may be lost with the connection that it was written to.
            let missing = judged_live.missing(&seen_live);
            let must = |message: &Message| self.is_kept[client] && message.qos > 0;
            let owed = missing.into_iter().map(|message| Owed { client, must: must(&message), message });
            self.owed.extend(owed.collect::<Vec<_>>());
        }
        for topic in conversation::topics() {
            wrong.extend(self.compare_replay(client, topic, &judged, &seen, &open, ends));
        }
        wrong
    }

    /// A retained message comes if one was there, as it was; but
    /// - a newer one in its place, or live behind the SUBSCRIBE, is right where the topic changes meanwhile: what is kept is read
    ///   when the subscription is there, and nobody is the worse for not hearing what is out of date;
    /// - none need come to who leaves or unsubscribes right behind the SUBSCRIBE.
    fn compare_replay(
        &mut self,
        client: usize,
        topic: &str,
        judged: &[Message],
        seen: &[Message],
        open: &Openness,
        ends: bool,
    ) -> Option<String> {
        let replay = |all: &[Message]| -> Vec<Message> {
            let mut replay: Vec<_> =
                all.iter().filter(|it| it.retain && it.topic == topic).cloned().collect();
            replay.sort();
            replay
        };
        let (expected, heard) = (replay(judged), replay(seen));
        if expected == heard {
            return None;
        }
        let wrong = || Some(format!("{topic}: retained {}, not {}", Few(&heard), Few(&expected)));
        let may_be_missing =
            ends || open.is_cut || open.passing.iter().any(|filter| conversation::matches(filter, topic));
        if may_be_missing && heard.iter().all(|message| expected.contains(message)) {
            let missing = expected.into_iter().filter(|message| !heard.contains(message));
            self.owed.extend(missing.map(|message| Owed { client, message, must: false }));
            return None;
        }
        if !open.changed.contains(topic) || heard.len() > expected.len() {
            return wrong();
        }
        let age = |message: &Message| {
            let said = |it: &Message| it.topic == topic && it.payload == message.payload;
            self.order.iter().position(said).unwrap_or(0)
        };
        let oldest = expected.iter().map(&age).min().unwrap_or(usize::MAX);
        let newest = expected.iter().map(&age).max();
        let live = seen.iter().filter(|it| it.topic == topic && !it.payload.is_empty());
        let newest_heard = live.chain(&heard).map(&age).max();
        let is_right = heard.iter().all(|it| age(it) >= oldest) && (may_be_missing || newest_heard >= newest);
        if is_right { None } else { wrong() }
    }

    /// Takes away what was owed from before.
    fn pay(&mut self, client: usize, mut seen: Vec<Message>, judged: &[Message]) -> Vec<Message> {
        seen.retain(|message| {
            let expected_now =
                judged.iter().any(|it| it.payload == message.payload && it.topic == message.topic);
            let is_paid = |owed: &Owed| {
                owed.client == client
                    && owed.message.payload == message.payload
                    && owed.message.topic == message.topic
                    && owed.message.retain == message.retain
            };
            let paid = if expected_now { None } else { self.owed.iter().position(is_paid) };
            paid.map(|paid| self.owed.remove(paid)).is_none()
        });
        seen
    }
}

/// All messages of a client in this phase but repetitions.
fn new_messages(heard: &mut BTreeSet<(usize, Message)>, client: usize, parts: &[Part]) -> Vec<Message> {
    let mut new = Vec::new();
    for message in parts.iter().flat_map(|part| &part.messages) {
        let plain = Message { dup: false, ..message.clone() };
        let is_first = heard.insert((client, plain.clone()));
        if is_first || !message.dup {
            new.push(plain);
        }
    }
    new
}

impl Openness {
    fn of(client: usize, judged: &[Part], rounds: &[Round]) -> Self {
        let pipelines = || rounds.iter().flat_map(|round| &round.pipelines);
        let mut changed: BTreeSet<_> = pipelines()
            .flat_map(|pipeline| &pipeline.packets)
            .filter_map(|packet| match packet {
                Packet::Publish { topic, retain: true, .. } => Some(*topic),
                _ => None,
            })
            .collect();
        if pipelines().any(|pipeline| pipeline.end.is_some() || pipeline.connect.is_some()) {
            changed.extend(WILLS);
        }
        let own =
            pipelines().filter(|pipeline| pipeline.client == client).flat_map(|pipeline| &pipeline.packets);
        let passing = own.filter_map(|packet| match packet {
            Packet::Unsubscribe(_, filter) => Some(*filter),
            _ => None,
        });
        // In a phase of one round all was quiet before.
        let is_cut = rounds.len() > 1 && judged.iter().any(|part| part.replaced);
        Self { changed, passing: passing.collect(), is_cut }
    }
}

impl Part {
    fn answers_differ(&self, seen: &Self) -> impl Iterator<Item = String> {
        let kinds: BTreeSet<_> = self.answers.keys().chain(seen.answers.keys()).copied().collect();
        let nothing = Vec::new();
        let mut wrong = Vec::new();
        // How far the answers got before the takeover is nobody's promise.
        if !self.replaced {
            for kind in kinds {
                let [expected, heard] = [self, seen].map(|part| part.answers.get(kind).unwrap_or(&nothing));
                if expected != heard {
                    wrong.push(format!("{kind} {heard:?}, not {expected:?}"));
                }
            }
        }
        let is_right = if self.replaced { seen.end != End::Open } else { self.end == seen.end };
        if !is_right {
            wrong.push(format!("its end is {:?}, not {:?}", seen.end, self.end));
        }
        wrong.into_iter()
    }
}

/// Messages that are no replay, by what has an order: topic, who said it, its QoS and that of the delivery.
#[derive(Default)]
struct Live(BTreeMap<(String, String, u8), Vec<Message>>);

impl Live {
    fn of(messages: &[Message]) -> Self {
        let mut live = Self::default();
        for message in messages.iter().filter(|message| !message.retain) {
            // client 0 message 7 qos 1; of the empty ones nobody can say which is which
            let (who, qos) = match message.payload.split_once(" message ") {
                Some((who, rest)) => (who, rest.rsplit_once(' ').map_or("", |(_, qos)| qos)),
                None => ("", ""),
            };
            let key = (message.topic.clone(), format!("{who} qos {qos}"), message.qos);
            live.0.entry(key).or_default().push(message.clone());
        }
        live
    }

    fn differences(&self, seen: &Self, all: bool) -> Vec<String> {
        let keys: BTreeSet<_> = self.0.keys().chain(seen.0.keys()).collect();
        let nothing = Vec::new();
        let mut wrong = Vec::new();
        for key in keys {
            let [expected, heard] = [self, seen].map(|live| live.0.get(key).unwrap_or(&nothing));
            let is_right = match (all, key.1 == " qos ") {
                (_, true) => expected.is_empty() <= heard.is_empty() || !all,
                (true, _) => expected == heard,
                (false, _) => is_part(heard, expected),
            };
            if !is_right {
                wrong.push(format!("{} of {}: {}, not {}", key.0, key.1, Few(heard), Few(expected)));
            }
        }
        wrong
    }

    fn missing(&self, seen: &Self) -> Vec<Message> {
        let heard: BTreeSet<_> = seen.0.values().flatten().collect();
        let missing = self.0.values().flatten().filter(|it| !heard.contains(it) && !it.payload.is_empty());
        missing.cloned().collect()
    }
}

/// Whether these come in this order among those.
fn is_part(these: &[Message], those: &[Message]) -> bool {
    let mut those = those.iter();
    these.iter().all(|this| those.any(|that| that == this))
}

/// Messages for a reader.
struct Few<'a>(&'a [Message]);

impl std::fmt::Display for Few<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.0.iter().map(|message| format!("{:?} at {}", message.payload, message.qos));
        write!(f, "[{}]", all.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::conversation::{Connect, Pipeline};
    use super::*;

    /// One client that subscribes to `x/a`, publishes with RETAIN twice, and subscribes again.
    fn rounds() -> Vec<Round> {
        let publish =
            |number| Packet::Publish { id: 1, topic: "x/a", qos: 1, retain: true, number: Some(number) };
        let subscribe = || Packet::Subscribe(1, vec![("x/a", 1)]);
        let packets = vec![subscribe(), publish(1), subscribe(), publish(2)];
        let connect = Some(Connect { clean: true, will: None });
        let pipeline = Pipeline { client: 0, connect, packets, end: None, cuts: Vec::new() };
        vec![Round { at_once: false, pipelines: vec![pipeline] }]
    }

    fn message(number: u32, retain: bool) -> Message {
        let payload = conversation::payload(0, number, 1);
        Message { topic: "x/a".to_owned(), payload, qos: 1, retain, dup: false }
    }

    fn part(messages: &[Message]) -> Part {
        let answers = BTreeMap::from([("PUBACK", vec!["1".to_owned(), "2".to_owned()])]);
        Part { answers, messages: messages.to_vec(), end: End::Open, ended: false, replaced: false }
    }

    fn phase(messages: &[Message]) -> Phase {
        let observer = part(&[message(1, false), message(2, false)]);
        Phase { clients: [vec![part(messages)], Vec::new(), Vec::new(), Vec::new()], observer }
    }

    fn differences(seen: &Phase) -> usize {
        let judged = phase(&[message(1, false), message(1, true), message(2, false)]);
        let mut memory = Memory::default();
        memory.compare(&judged, seen, &rounds()).len() + memory.unpaid().len()
    }

    #[test]
    fn what_is_the_same_does_not_differ() {
        assert_eq!(differences(&phase(&[message(1, false), message(1, true), message(2, false)])), 0);
        // A replay has no order among what is live.
        assert_eq!(differences(&phase(&[message(1, true), message(1, false), message(2, false)])), 0);
    }

    #[test]
    fn what_is_missing_too_much_or_in_another_order_differs() {
        let [live_1, live_2] = [message(1, false), message(2, false)];
        assert_eq!(differences(&phase(&[live_1.clone(), message(1, true)])), 1, "missing");
        assert_eq!(differences(&phase(&[live_2.clone(), live_1.clone(), message(1, true)])), 1, "order");
        let too_much = [live_1.clone(), live_1, message(1, true), live_2];
        assert_eq!(differences(&phase(&too_much)), 1, "too much");
    }

    #[test]
    fn a_replay_of_a_topic_that_changes_may_be_newer_or_overtaken_but_not_more() {
        let live = [message(1, false), message(2, false)];
        let with = |replay: &[Message]| differences(&phase(&[&live, replay].concat()));
        assert_eq!(with(&[message(2, true)]), 0, "newer");
        assert_eq!(with(&[]), 0, "the newer one came live");
        assert_eq!(with(&[message(1, true), message(2, true)]), 1, "twice");
    }

    #[test]
    fn answers_and_ends_differ() {
        let mut seen = phase(&[message(1, false), message(1, true), message(2, false)]);
        seen.clients[0][0].answers.get_mut("PUBACK").expect("PUBACK").reverse();
        assert_eq!(differences(&seen), 1);
        seen.clients[0][0].end = End::Reset;
        assert_eq!(differences(&seen), 2);
    }
}
