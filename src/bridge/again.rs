//! Messages that the broker could not take are published again.
//!
//! basic.nack says that a queue did not take a message which the others may have: RabbitMQ 4.3 says so of all that is on its way to a
//! subscriber's queue when that goes with its connection, and every broker of a full queue that is told to reject. Neither is the
//! publisher's fault, and most of the time there is no such queue any more. So a copy of what the client waits for is held until it is
//! confirmed, as far as [`MAX_BYTES`] go, and published once or twice more. Subscribers that had the message get it again then, which
//! QoS 1 permits. What still is not taken is left unacknowledged, and its packet identifier is free.

use std::collections::VecDeque;

use super::Bridge;
use super::channel::Role;
use super::retained::Retained;
use crate::amqp::{Address, MqttHeaders, Properties, ShortStr};
use crate::event::Event;
use crate::mqtt::{PacketId, Publish, QoS};
use crate::time::Instant;

/// The most payload and keys that copies hold, in bytes. What goes beyond is not published again.
const MAX_BYTES: usize = 128 * 1024;

/// How often a message is published again.
const ATTEMPTS: u8 = 2;

/// A copy of a message that is not confirmed. No `Debug`: it is the client's payload.
pub(super) struct Draft {
    routing_key: Box<[u8]>,
    qos: QoS,
    is_retained: bool,
    payload: Vec<u8>,
    attempts_left: u8,
    /// What is to be kept of it, while it waits.
    retained: Option<Retained>,
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
    waiting: VecDeque<(PacketId, Draft)>,
}

impl Drafts {
    /// Whether none waits to be published again.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is to be kept of those that are not published again.
    pub(super) fn into_retained(self) -> impl Iterator<Item = Retained> {
        self.waiting.into_iter().filter_map(|(_, draft)| draft.retained)
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
            attempts_left: ATTEMPTS,
            retained: None,
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
    pub(super) fn nacked(&mut self, number: u64, multiple: bool) -> Option<()> {
        let (drafts, events, keeper) = (&mut self.drafts.waiting, &mut self.events, &mut self.keeper);
        self.publications.nack(number, multiple, |id, draft, retained| match (id, draft) {
            (Some(id), Some(mut draft)) if draft.attempts_left > 0 => {
                draft.attempts_left -= 1;
                draft.retained = retained;
                drafts.push_back((id, draft));
                true
            }
            (id, _) => {
                match (id, retained, keeper.as_mut()) {
                    // Nobody waits for it, and its topic is permitted.
                    (None, Some(message), Some(keeper)) => keeper.keep(message, None),
                    (Some(_), Some(message), Some(keeper)) => keeper.forget(message.payload_len),
                    _ => {}
                }
                if id.is_some() {
                    events.push_back(Event::Unacknowledged);
                }
                false
            }
        })?;
        self.keep_on(None);
        Some(())
    }

    /// Publishes what waits for that, between the client's messages.
    pub(super) fn publish_again(&mut self, now: Instant) {
        while !self.drafts.is_empty() && !self.broker.is_publishing(Role::Publish) {
            let Some((id, mut draft)) = self.drafts.waiting.pop_front() else { return };
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
            self.publications.arrive_again(id, super::topic_hash(&draft.routing_key), now);
            if let Some(message) = draft.retained.take() {
                self.publications.retain(message);
            }
            self.publications.hold(draft);
        }
    }
}
