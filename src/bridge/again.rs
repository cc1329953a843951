//! Messages that the broker could not take are published again.
//!
//! basic.nack says that a queue did not take a message which the others may have: RabbitMQ 4.3 says so of all that is on its way to a
//! subscriber's queue when that goes with its connection, and every broker of a full queue that is told to reject. Neither is the
//! publisher's fault, and most of the time there is no such queue any more. So a copy of what the client waits for is held until it is
//! confirmed, as far as [`MAX_BYTES`] go, and published again after each of [`PAUSES`]. Subscribers that had the message get it again then, which
//! QoS 1 permits. What still is not taken is left unacknowledged, and its packet identifier is free.

use std::collections::VecDeque;

use super::Bridge;
use super::channel::Role;
use super::inflight::Nacked;
use crate::amqp::{Address, MqttHeaders, Properties, ShortStr};
use crate::event::Event;
use crate::mqtt::{Publish, QoS};
use crate::time::{Duration, Instant};

/// The most payload and keys that copies hold, in bytes. What goes beyond is not published again.
const MAX_BYTES: usize = 128 * 1024;

/// After what pauses a message is published again: RabbitMQ goes on to refuse for a moment when many subscribers leave at once.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1)];

/// A copy of a message that is not confirmed. No `Debug`: it is the client's payload.
pub(super) struct Draft {
    routing_key: Box<[u8]>,
    qos: QoS,
    is_retained: bool,
    payload: Vec<u8>,
    /// How often it was published again.
    attempts: usize,
}

impl Draft {
    /// Bytes of it that count.
    pub(super) const fn len(&self) -> usize {
        self.routing_key.len() + self.payload.capacity()
    }

    /// A message at this QoS as we publish it.
    pub(super) fn properties(
        qos: QoS,
        dup: bool,
        is_retained: bool,
        wants_mqtt_headers: bool,
    ) -> Properties<'static> {
        let mqtt_headers = MqttHeaders { publish_qos: qos as i8, dup };
        Properties {
            persistent: qos > QoS::AtMostOnce,
            mqtt_headers: wants_mqtt_headers.then_some(mqtt_headers),
            retained: is_retained.then_some(b""),
            ..Properties::default()
        }
    }
}

/// Those that are to be published again, and the one that is arriving.
#[derive(Default)]
pub(super) struct Drafts {
    arriving: Option<Draft>,
    /// Each with the time when it is due, which is earlier for none behind it by more than a pause.
    waiting: VecDeque<(Instant, Nacked)>,
}

impl Drafts {
    /// When the next is to be published again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|&(at, _)| at)
    }

    /// Whether none waits to be published again.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Bridge {
    /// A PUBLISH at QoS 1 or 2 goes to the broker, its payload behind it.
    pub(super) fn draft(&mut self, publish: &Publish<'_>, is_retained: bool) {
        let len = self.key.len() + publish.payload_len as usize;
        if self.publications.drafted() + len > MAX_BYTES {
            return;
        }
        self.drafts.arriving = Some(Draft {
            routing_key: self.key.as_slice().into(),
            qos: publish.qos,
            is_retained,
            payload: Vec::with_capacity(publish.payload_len as usize),
            attempts: 0,
        });
        if publish.payload_len == 0 {
            self.draft_payload(&[], true);
        }
    }

    /// A piece of its payload.
    pub(super) fn draft_payload(&mut self, bytes: &[u8], last: bool) {
        if let Some(draft) = &mut self.drafts.arriving {
            draft.payload.extend_from_slice(bytes);
        }
        if last && let Some(draft) = self.drafts.arriving.take() {
            self.publications.hold(draft);
        }
    }

    /// The broker could not take a publish, or all up to it; `None` when there never was such a one.
    pub(super) fn nacked(&mut self, now: Instant, number: u64, multiple: bool) -> Option<()> {
        let waiting = &mut self.drafts.waiting;
        let given_up = self.publications.nack(number, multiple, |mut nacked| {
            let Some(&pause) = PAUSES.get(nacked.draft.attempts) else { return false };
            nacked.draft.attempts += 1;
            waiting.push_back((now + pause, nacked));
            true
        })?;
        self.events.extend(core::iter::repeat_n(Event::Unacknowledged, given_up));
        self.give_receipts();
        Some(())
    }

    /// Publishes what waits for that, between the client's messages.
    pub(super) fn publish_again(&mut self, now: Instant) {
        while !self.broker.is_publishing(Role::Publish)
            && let Some((_, nacked)) = self.drafts.waiting.pop_front_if(|(at, _)| *at <= now)
        {
            let draft = &nacked.draft;
            let properties =
                Draft::properties(draft.qos, false, draft.is_retained, self.broker.wants_mqtt_headers());
            let to = Address {
                exchange: self.tenant.exchange.as_short(),
                routing_key: ShortStr::new(&draft.routing_key).unwrap_or(ShortStr::EMPTY),
                mandatory: false,
            };
            // Should the channel have been lost meanwhile.
            self.broker.confirm(Role::Publish);
            self.broker.publish_whole(Role::Publish, to, properties, &draft.payload);
            self.events.push_back(Event::PublishedAgain);
            let topic = super::topic_hash(&draft.routing_key);
            self.publications.arrive_again(nacked, topic, now);
        }
    }
}
