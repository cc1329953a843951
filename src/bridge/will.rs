//! The will, held by the broker while the client is there, so that nothing needs to be alive on our side to send it.
//!
//! It lies in a queue of its own, delivered to us and never acknowledged. Whatever ends the connection makes the broker take it
//! back, and since its time to live is 0 it is dead at once and published where dead messages of this queue go: to the topic
//! exchange, with the will's routing key. DISCONNECT deletes the queue, which publishes nothing. When we end the connection, we
//! refuse the delivery, which is its death as well, and delete the queue behind it: when that is answered, the will has been sent.
//!
//! A will that is to be retained lies in a second queue as well, whose dead messages go to where its topic's message is kept. That
//! queue has to be there beforehand, so it may be empty. Whoever deletes it says so to the second queues of its topic, and each that
//! holds such a will makes it again.

use std::rc::Rc;

use super::broker::BrokerSide;
use super::channel::{Awaited, Role};
use super::retained::{Names, Place, kept_at};
use crate::amqp::ShortText;
use crate::amqp::{
    Address, ClientMethod, DeadLetter, MqttHeaders, Properties, QueueArguments, QueueFlags, ShortStr,
};
use crate::mqtt::QoS;

/// How long the queue outlives its connection: the will is gone from it at once.
const EXPIRES_MS: i64 = 10_000;

/// How often a will is deposited again because the place of its kept copy was deleted at that moment.
const ATTEMPTS: u8 = 10;

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Select,
    Rollback,
    Exchange,
    Declare,
    /// The queue in which the will is to be kept.
    Place,
    Bind,
    Consume,
    Commit,
    Delete,
}

/// The will of a client. No `Debug`: it is the client's payload.
pub(super) struct Will {
    queue: ShortText,
    routing_key: Box<[u8]>,
    qos: QoS,
    payload: Box<[u8]>,
    /// The delivery that is not acknowledged.
    delivery: Option<u64>,
    keeping: Option<Keeping>,
    /// It was given to the broker.
    is_deposited: bool,
    /// tx.commit is not answered.
    committing: bool,
    /// How often it may be deposited again.
    attempts: u8,
    end: End,
}

/// How a will ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It does not.
    Not,
    /// Its queues are to be deleted, so many; whether it was sent before.
    Deleting { left: u8, is_sent: bool },
}

/// What makes it a retained one.
struct Keeping {
    queue: ShortText,
    names: Rc<Names>,
    place: Place,
    /// The topic has a retained message.
    is_taken: bool,
    delivery: Option<u64>,
    /// Notices that the queue is gone, not acknowledged yet.
    notices: Vec<u64>,
}

impl Will {
    pub(super) fn new(queue: ShortText, routing_key: &[u8], qos: QoS, payload: &[u8]) -> Self {
        Self {
            queue,
            routing_key: routing_key.into(),
            qos,
            payload: payload.into(),
            delivery: None,
            keeping: None,
            is_deposited: false,
            committing: false,
            attempts: ATTEMPTS,
            end: End::Not,
        }
    }

    /// It is to be retained, and lies in `queue` for that.
    pub(super) fn retain(&mut self, queue: ShortText, names: &Rc<Names>) {
        let place = names.place(&self.routing_key);
        self.keeping = place.map(|place| Keeping {
            queue,
            names: Rc::clone(names),
            place,
            is_taken: false,
            delivery: None,
            notices: Vec::new(),
        });
    }

    /// Gives it to the broker, in one flight, unless it has it.
    pub(super) fn deposit(&mut self, broker: &mut BrokerSide, exchange: ShortStr<'_>) {
        if self.end != End::Not || core::mem::replace(&mut self.is_deposited, true) {
            return;
        }
        broker.request(Role::Will, ClientMethod::TxSelect, Awaited::Will(Step::Select));
        let routing_key = ShortStr::new(&self.routing_key);
        // The broker does not ask whether a dead letter's topic is permitted to whoever made it, but of what is published it does,
        // even when nothing comes of it.
        let trial =
            Address { exchange, routing_key: routing_key.unwrap_or(ShortStr::EMPTY), mandatory: false };
        broker.publish_whole(Role::Will, trial, Properties::default(), &[]);
        broker.request(Role::Will, ClientMethod::TxRollback, Awaited::Will(Step::Rollback));
        declare(broker, &self.queue, DeadLetter { exchange, routing_key });
        // Before the messages: with nobody to take them, they would be dead on arrival.
        consume(broker, &self.queue, CONSUMER_TAG);
        if let Some(keeping) = &self.keeping {
            let Keeping { queue, names, place, .. } = keeping;
            broker.request(Role::Will, names.declare(), Awaited::Will(Step::Exchange));
            declare(broker, queue, names.dead_letter(place));
            consume(broker, queue, KEEPING_TAG);
            // Before the place is there, so that nobody can delete it unheard.
            broker.request(Role::Will, names.listen(queue, place), Awaited::Will(Step::Bind));
            keeping.make_place(Role::Will, broker);
        }
        self.publish(broker);
    }

    /// The broker closed the channel because somebody deleted the place of a will that is not held yet: whether it can be deposited again.
    pub(super) fn try_again(&mut self) -> bool {
        if self.delivery.is_some() || self.attempts == 0 {
            return false;
        }
        self.attempts -= 1;
        self.is_deposited = false;
        self.committing = false;
        if let Some(keeping) = &mut self.keeping {
            keeping.notices.clear();
            keeping.delivery = None;
        }
        true
    }

    /// Puts a new one in place of the one that is held, in one transaction: the broker closes the channel of a consumer that
    /// acknowledges nothing for half an hour, and the will would be sent.
    pub(super) fn renew(&mut self, broker: &mut BrokerSide) {
        if !self.is_held() || self.end != End::Not {
            return;
        }
        let kept = self.keeping.as_mut().and_then(|keeping| keeping.delivery.take());
        for delivery_tag in self.delivery.take().into_iter().chain(kept) {
            broker.acknowledge(Role::Will, delivery_tag);
        }
        self.publish(broker);
    }

    fn publish(&mut self, broker: &mut BrokerSide) {
        let mqtt_headers = MqttHeaders { publish_qos: self.qos as i8, dup: false };
        let properties = Properties {
            persistent: self.qos > QoS::AtMostOnce,
            mqtt_headers: broker.wants_mqtt_headers().then_some(mqtt_headers),
            retained: self.keeping.is_some().then_some(b""),
            ..Properties::default()
        };
        broker.publish_whole(Role::Will, Address::queue(self.queue.as_short()), properties, &self.payload);
        if let Some(keeping) = &self.keeping {
            let to = Address::queue(keeping.queue.as_short());
            broker.publish_whole(Role::Will, to, kept_at(self.qos), &self.payload);
        }
        broker.request(Role::Will, ClientMethod::TxCommit, Awaited::Will(Step::Commit));
        self.committing = true;
    }

    /// The broker delivered it back to us, or, unless it `is_direct`, a notice that its place is gone.
    pub(super) fn delivered(
        &mut self,
        consumer_tag: &[u8],
        delivery_tag: u64,
        is_direct: bool,
        broker: &mut BrokerSide,
    ) {
        match &mut self.keeping {
            Some(keeping) if consumer_tag == KEEPING_TAG.as_bytes() && is_direct => {
                keeping.delivery = Some(delivery_tag);
            }
            Some(keeping) if consumer_tag == KEEPING_TAG.as_bytes() => {
                // On another channel: if it is refused, because it is deleted again, the will is to stay.
                keeping.make_place(Role::Topology, broker);
                keeping.notices.push(delivery_tag);
                self.answer_notices(broker);
            }
            Some(_) | None => self.delivery = Some(delivery_tag),
        }
    }

    /// One that is left would be dead, too, and take the will's place.
    fn answer_notices(&mut self, broker: &mut BrokerSide) {
        let Some(keeping) = self.keeping.as_mut().filter(|it| !self.committing && !it.notices.is_empty())
        else {
            return;
        };
        for delivery_tag in core::mem::take(&mut keeping.notices) {
            broker.acknowledge(Role::Will, delivery_tag);
        }
        broker.request(Role::Will, ClientMethod::TxCommit, Awaited::Will(Step::Commit));
        self.committing = true;
    }

    /// A step is done; a queue that was declared has so many messages.
    pub(super) fn done(&mut self, step: Step, messages: u32, broker: &mut BrokerSide) {
        match (step, &mut self.keeping) {
            (Step::Commit, _) => {
                self.committing = false;
                self.answer_notices(broker);
            }
            (Step::Place, Some(keeping)) => keeping.is_taken = messages > 0,
            (Step::Delete, _) => {
                if let End::Deleting { left, .. } = &mut self.end {
                    *left = left.saturating_sub(1);
                }
            }
            _ => {}
        }
    }

    /// Whether the broker has it.
    pub(super) fn is_held(&self) -> bool {
        let is_kept = self.keeping.as_ref().is_none_or(|keeping| keeping.delivery.is_some());
        self.delivery.is_some() && is_kept && !self.committing
    }

    /// Takes it back. [MQTT-3.14.4-3]
    ///
    /// When the end of the connection comes with it, the broker must not notice that first.
    pub(super) fn withdraw(&mut self, broker: &mut BrokerSide, ends_at_once: bool) {
        if self.end != End::Not {
            return;
        }
        self.end = End::Deleting { left: 0, is_sent: false };
        if !self.is_deposited {
            return;
        }
        self.delete_queues(broker, false);
        if let Some(Keeping { place, names, is_taken: false, .. }) = &self.keeping {
            // Refused if somebody has kept a message there meanwhile; then nothing behind it is looked at.
            let delete = ClientMethod::QueueDelete { queue: place.queue(), if_unused: false, if_empty: true };
            broker.request(Role::Will, delete, Awaited::Will(Step::Delete));
            names.tell(place, Role::Will, broker);
            broker.request(Role::Will, ClientMethod::TxCommit, Awaited::Will(Step::Commit));
            self.expect_deletes(1, false);
        }
        if ends_at_once {
            broker.barrier(Role::Will);
        }
    }

    /// Has the broker send it now, if it is there to be sent.
    pub(super) fn send(&mut self, broker: &mut BrokerSide) {
        if self.end != End::Not {
            return;
        }
        self.end = End::Deleting { left: 0, is_sent: true };
        if !self.is_held() {
            return;
        }
        let kept = self.keeping.as_mut().and_then(|keeping| keeping.delivery.take());
        for delivery_tag in self.delivery.take().into_iter().chain(kept) {
            broker.give_back(Role::Will, delivery_tag, false);
        }
        broker.request(Role::Will, ClientMethod::TxCommit, Awaited::Will(Step::Commit));
        self.delete_queues(broker, true);
    }

    fn delete_queues(&mut self, broker: &mut BrokerSide, is_sent: bool) {
        let queues = core::iter::once(&self.queue).chain(self.keeping.as_ref().map(|keeping| &keeping.queue));
        let mut count = 0;
        for queue in queues {
            let delete =
                ClientMethod::QueueDelete { queue: queue.as_short(), if_unused: false, if_empty: false };
            broker.request(Role::Will, delete, Awaited::Will(Step::Delete));
            count += 1;
        }
        self.expect_deletes(count, is_sent);
    }

    const fn expect_deletes(&mut self, count: u8, is_sent: bool) {
        let before = if let End::Deleting { left, .. } = self.end { left } else { 0 };
        self.end = End::Deleting { left: before + count, is_sent };
    }

    /// Its channel is gone, and with it what was delivered there: there is nothing to be refused any more.
    pub(super) const fn lost(&mut self) {
        self.delivery = None;
        self.committing = false;
        if let Some(keeping) = &mut self.keeping {
            keeping.delivery = None;
        }
        if let End::Deleting { left, .. } = &mut self.end {
            *left = 0;
        }
    }

    /// Whether nothing of it is left to be done.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.end, End::Deleting { left: 0, .. })
    }

    /// Whether it was taken back.
    pub(super) const fn is_withdrawn(&self) -> bool {
        matches!(self.end, End::Deleting { is_sent: false, .. })
    }

    /// Whether it was given to the broker.
    pub(super) const fn is_deposited(&self) -> bool {
        self.is_deposited
    }
}

impl Keeping {
    /// Makes the queue in which the will is to be kept.
    fn make_place(&self, role: Role, broker: &mut BrokerSide) {
        broker.request(role, self.place.declare(), Awaited::Will(Step::Place));
        for binding in self.names.bindings(&self.place) {
            broker.request(role, self.names.bind(&self.place, &binding), Awaited::Will(Step::Bind));
        }
    }
}

fn declare(broker: &mut BrokerSide, queue: &ShortText, dead_letter: DeadLetter<'_>) {
    let arguments = QueueArguments {
        expires: Some(EXPIRES_MS),
        message_ttl: Some(0),
        dead_letter: Some(dead_letter),
        ..QueueArguments::default()
    };
    let flags = QueueFlags { durable: true, ..QueueFlags::default() };
    let declare = ClientMethod::QueueDeclare { queue: queue.as_short(), flags, arguments };
    broker.request(Role::Will, declare, Awaited::Will(Step::Declare));
}

fn consume(broker: &mut BrokerSide, queue: &ShortText, consumer_tag: ShortStr<'_>) {
    let consume =
        ClientMethod::BasicConsume { queue: queue.as_short(), consumer_tag, no_ack: false, exclusive: true };
    broker.request(Role::Will, consume, Awaited::Will(Step::Consume));
}

const CONSUMER_TAG: ShortStr<'static> = ShortStr::literal("will");
const KEEPING_TAG: ShortStr<'static> = ShortStr::literal("retained-will");
