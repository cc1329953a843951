//! Who published what, who acknowledged it, who received it.

use bytes::Bytes;

/// Every message of every publisher, and what has become of it. Publishers and subscribers are indexes.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// By publisher, then by message: acknowledged to the publisher?
    acknowledged: Vec<Vec<bool>>,
    /// By subscriber, then by publisher.
    received: Vec<Vec<Stream>>,
    /// Payloads or topics that nobody has published.
    pub(crate) corrupted: u64,
}

/// One publisher's messages as one subscriber gets them.
#[derive(Clone, Debug, Default)]
struct Stream {
    received: Vec<bool>,
    duplicates: u64,
    /// First receptions behind a later message's.
    overtaken: u64,
}

/// A message: the publisher, and its place among that publisher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) publisher: usize,
    pub(crate) number: usize,
}

/// The ledger's figures.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    /// Different messages, each counted once for every subscriber.
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) overtaken: u64,
}

/// An acknowledged message that a subscriber never got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) subscriber: usize,
    pub(crate) message: Message,
}

impl Ledger {
    pub(crate) fn new(publishers: usize, subscribers: usize) -> Self {
        Self {
            acknowledged: vec![Vec::new(); publishers],
            received: vec![vec![Stream::default(); publishers]; subscribers],
            corrupted: 0,
        }
    }

    /// A new message of this publisher.
    pub(crate) fn publish(&mut self, publisher: usize) -> Message {
        let messages = &mut self.acknowledged[publisher];
        messages.push(false);
        Message { publisher, number: messages.len() - 1 }
    }

    /// The server has taken responsibility for it.
    pub(crate) fn acknowledge(&mut self, message: Message) {
        self.acknowledged[message.publisher][message.number] = true;
    }

    /// How many messages of this publisher are acknowledged.
    pub(crate) fn acknowledged(&self, publisher: usize) -> u64 {
        count(&self.acknowledged[publisher])
    }

    /// A subscriber has got this; `false` if nobody has published it.
    pub(crate) fn receive(&mut self, subscriber: usize, topic: &str, payload: &[u8]) -> bool {
        let known = Message::read(payload).filter(|message| {
            let published = self.acknowledged.get(message.publisher).map_or(0, Vec::len);
            message.number < published && topic == message.topic()
        });
        match known {
            Some(message) => self.received[subscriber][message.publisher].receive(message.number),
            None => self.corrupted += 1,
        }
        known.is_some()
    }

    /// Whether every message is acknowledged and has reached every subscriber.
    pub(crate) fn settled(&self) -> bool {
        let Sums { published, acknowledged, delivered, .. } = self.sums();
        published == acknowledged && delivered == published * self.received.len() as u64
    }

    pub(crate) fn sums(&self) -> Sums {
        let streams = || self.received.iter().flatten();
        Sums {
            published: self.acknowledged.iter().map(|messages| messages.len() as u64).sum(),
            acknowledged: self.acknowledged.iter().map(|messages| count(messages)).sum(),
            delivered: streams().map(|stream| count(&stream.received)).sum(),
            duplicates: streams().map(|stream| stream.duplicates).sum(),
            overtaken: streams().map(|stream| stream.overtaken).sum(),
        }
    }

    /// Every broken promise.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let mut losses = Vec::new();
        for (subscriber, streams) in self.received.iter().enumerate() {
            for (publisher, (acknowledged, stream)) in self.acknowledged.iter().zip(streams).enumerate() {
                let lost = acknowledged.iter().enumerate().filter(|(number, acknowledged)| {
                    **acknowledged && !stream.received.get(*number).copied().unwrap_or_default()
                });
                losses.extend(
                    lost.map(|(number, _)| Loss { subscriber, message: Message { publisher, number } }),
                );
            }
        }
        losses
    }
}

impl Stream {
    fn receive(&mut self, number: usize) {
        let overtaken = self.received.len() > number;
        if !overtaken {
            self.received.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.received[number], true) {
            self.duplicates += 1;
        } else if overtaken {
            self.overtaken += 1;
        }
    }
}

impl Message {
    pub(crate) fn topic(self) -> String {
        format!("chaos/data/{}", self.publisher)
    }

    /// Its payload says which message it is, and is filled up to a size of its own: some need several AMQP frames.
    pub(crate) fn payload(self) -> Bytes {
        let mut payload = format!("{} {} ", self.publisher, self.number).into_bytes();
        let size = if self.number % 50 == 49 { 20_000 } else { 20 + self.number * 37 % 1000 };
        payload.resize(size.max(payload.len()), self.filler());
        payload.into()
    }

    /// The message with exactly this payload.
    fn read(payload: &[u8]) -> Option<Self> {
        let head = payload.get(..payload.len().min(40))?;
        let mut words = head.split(|octet| *octet == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
        let message = Self { publisher: number()?, number: number()? };
        (message.payload() == payload).then_some(message)
    }

    fn filler(self) -> u8 {
        b'a' + (self.number % 26) as u8
    }
}

fn count(flags: &[bool]) -> u64 {
    flags.iter().filter(|flag| **flag).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_and_not_received_is_lost() {
        let mut ledger = Ledger::new(1, 2);
        let [first, second, third] = [(); 3].map(|()| ledger.publish(0));
        ledger.acknowledge(first);
        ledger.acknowledge(second);
        for (subscriber, message) in [(0, first), (0, second), (1, first), (1, third)] {
            assert!(ledger.receive(subscriber, &message.topic(), &message.payload()));
        }
        assert_eq!(ledger.losses(), [Loss { subscriber: 1, message: second }]);
        assert!(!ledger.settled());
        let expected = Sums { published: 3, acknowledged: 2, delivered: 4, duplicates: 0, overtaken: 0 };
        assert_eq!(ledger.sums(), expected);
    }

    #[test]
    fn a_second_reception_is_a_duplicate_and_a_late_first_one_was_overtaken() {
        let mut ledger = Ledger::new(1, 1);
        let messages = [(); 4].map(|()| ledger.publish(0));
        for number in [0, 2, 0, 2, 3, 1] {
            let message = messages[number];
            ledger.acknowledge(message);
            ledger.receive(0, &message.topic(), &message.payload());
        }
        let Sums { duplicates, overtaken, .. } = ledger.sums();
        assert_eq!((duplicates, overtaken), (2, 1));
        assert!(ledger.settled());
    }

    #[test]
    fn what_nobody_has_published_is_corrupted() {
        let mut ledger = Ledger::new(2, 1);
        let message = ledger.publish(0);
        let mut damaged = message.payload().to_vec();
        damaged.pop();
        assert!(!ledger.receive(0, &message.topic(), &damaged));
        assert!(!ledger.receive(0, "chaos/data/1", &message.payload()));
        let never = Message { publisher: 0, number: 1 };
        assert!(!ledger.receive(0, &never.topic(), &never.payload()));
        assert_eq!(ledger.corrupted, 3);
    }
}
