//! Queues: what they hold, who consumes, and where messages go that they do not keep.

use super::{Broker, ChannelId, ConnectionId, Message};
use crate::broker::channel::{Lost, Unacked};
use amq_protocol::{
    protocol::queue,
    types::{AMQPValue, FieldTable},
};
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

pub(super) struct Queue {
    /// Which of all queues it is: a name may be given again.
    pub(super) number: u64,
    durable: bool,
    auto_delete: bool,
    arguments: FieldTable,
    owner: Option<ConnectionId>,
    /// By their place: a message that comes back takes its old one.
    messages: BTreeMap<u64, Stored>,
    next_place: u64,
    /// Those to be served next come first. With a single active consumer, that is the first.
    consumers: VecDeque<Consumer>,
    /// Its last consumer has gone.
    is_left: bool,
    /// Since when `x-expires` counts, while nobody consumes.
    used: u64,
}

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) message: Rc<Message>,
    pub(super) redelivered: bool,
    /// When `x-message-ttl` has passed.
    dies: Option<u64>,
}

pub(super) struct Consumer {
    pub(super) at: ChannelId,
    pub(super) tag: String,
    pub(super) no_ack: bool,
    pub(super) exclusive: bool,
    /// 0 is no limit.
    pub(super) prefetch: usize,
    pub(super) unacked: usize,
    /// `x-cancel-on-ha-failover`.
    pub(super) stays_cancelled: bool,
}

/// Why a request on a queue is refused: the reply code and text.
pub(super) type Refusal = (u16, String);

impl Queue {
    pub(super) const fn owner(&self) -> Option<ConnectionId> {
        self.owner
    }

    pub(super) fn has_expired(&self, now: u64) -> bool {
        let expires = self.number_argument("x-expires");
        self.consumers.is_empty() && expires.is_some_and(|expires| now >= self.used + expires)
    }

    fn is_single_active(&self) -> bool {
        self.arguments.inner().get("x-single-active-consumer") == Some(&AMQPValue::Boolean(true))
    }

    fn number_argument(&self, key: &str) -> Option<u64> {
        match self.arguments.inner().get(key)? {
            AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
            AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
            other => panic!("{key}: {other:?}"),
        }
    }

    fn text_argument(&self, key: &str) -> Option<String> {
        match self.arguments.inner().get(key)? {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            other => panic!("{key}: {other:?}"),
        }
    }

    /// What a second declare differs in, in RabbitMQ's words.
    fn difference(&self, name: &str, declare: &queue::Declare) -> Option<String> {
        let flags = [
            ("durable", declare.durable, self.durable),
            ("auto_delete", declare.auto_delete, self.auto_delete),
        ];
        for (field, wanted, has) in flags {
            if wanted != has {
                return Some(format!(
                    "inequivalent arg '{field}' for queue '{name}' in vhost '/': received '{wanted}' but current is '{has}'"
                ));
            }
        }
        CHECKED_ARGUMENTS.into_iter().find_map(|key| {
            let is_said = |it: &&AMQPValue| **it != AMQPValue::LongString("classic".into());
            let value = |of: &FieldTable| of.inner().get(key).filter(is_said).cloned();
            let (wanted, has) = (value(&declare.arguments), value(&self.arguments));
            (wanted != has).then(|| {
                let (wanted, has) = match (wanted, has) {
                    (Some(AMQPValue::LongLongInt(wanted)), Some(AMQPValue::LongLongInt(has))) => {
                        (format!("'{wanted}'"), format!("'{has}'"))
                    }
                    (wanted, has) => (described(wanted.as_ref()), described(has.as_ref())),
                };
                format!("inequivalent arg '{key}' for queue '{name}' in vhost '/': received {wanted} but current is {has}")
            })
        })
    }

    /// The consumer to be served next.
    fn ready_consumer(&mut self) -> Option<&mut Consumer> {
        let is_ready = |it: &Consumer| it.no_ack || it.prefetch == 0 || it.unacked < it.prefetch;
        let candidates = if self.is_single_active() { 1 } else { self.consumers.len() };
        let chosen = self.consumers.iter().take(candidates).position(is_ready)?;
        if candidates == 1 {
            return self.consumers.get_mut(chosen);
        }
        let consumer = self.consumers.remove(chosen)?;
        self.consumers.push_back(consumer);
        self.consumers.back_mut()
    }
}

impl Broker {
    /// queue.declare that is not passive.
    pub(super) fn declare(&mut self, owner: ConnectionId, declare: &queue::Declare) -> Result<(), Refusal> {
        let name = declare.queue.to_string();
        let (now, number) = (self.now, self.declared + 1);
        if let Some(queue) = self.queues.get_mut(&name) {
            let is_ours = queue.owner.is_some_and(|it| it == owner);
            if queue.owner.is_some() && !(is_ours && declare.exclusive)
                || queue.owner.is_none() && declare.exclusive
            {
                return Err(locked(&name));
            }
            queue.used = now;
            return match queue.difference(&name, declare) {
                Some(text) => Err((406, format!("PRECONDITION_FAILED - {text}"))),
                None => Ok(()),
            };
        }
        self.declared = number;
        let queue = Queue {
            number,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            arguments: declare.arguments.clone(),
            owner: declare.exclusive.then_some(owner),
            messages: BTreeMap::new(),
            next_place: 0,
            consumers: VecDeque::new(),
            is_left: false,
            used: now,
        };
        self.queues.insert(name, queue);
        Ok(())
    }

    /// The queue, for a request of a connection that needs it to be there.
    pub(super) fn queue(&mut self, asking: ConnectionId, name: &str) -> Result<&mut Queue, Refusal> {
        let missing = (404, format!("NOT_FOUND - no queue '{name}' in vhost '/'"));
        let queue = self.queues.get_mut(name).ok_or(missing)?;
        if queue.owner.is_some_and(|owner| owner != asking) { Err(locked(name)) } else { Ok(queue) }
    }

    /// Messages that are ready, and consumers: what declare-ok tells. Asking counts as use.
    pub(super) fn counts(&mut self, name: &str) -> (u32, u32) {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(name) else { return (0, 0) };
        queue.used = now;
        (queue.messages.len() as u32, queue.consumers.len() as u32)
    }

    /// queue.delete; how many messages it had.
    pub(super) fn delete(&mut self, asking: ConnectionId, delete: &queue::Delete) -> Result<u32, Refusal> {
        let name = delete.queue.as_str();
        if !self.queues.contains_key(name) {
            return Ok(0);
        }
        let queue = self.queue(asking, name)?;
        let (messages, consumers) = (queue.messages.len(), queue.consumers.len());
        if delete.if_unused && consumers > 0 {
            return Err((406, format!("PRECONDITION_FAILED - queue '{name}' in vhost '/' in use")));
        }
        if delete.if_empty && messages > 0 {
            return Err((406, format!("PRECONDITION_FAILED - queue '{name}' in vhost '/' is not empty")));
        }
        self.delete_queue(name);
        Ok(messages as u32)
    }

    /// A queue goes, and with it what it holds. Its consumers are told.
    pub(super) fn delete_queue(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else { return };
        self.exchanges.forget_queue(name);
        for consumer in queue.consumers {
            self.lost_queue(Lost { queue: name.to_owned(), consumer });
        }
    }

    /// basic.consume, once its channel has answered.
    pub(super) fn add_consumer(&mut self, name: &str, consumer: Consumer) {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.consumers.push_back(consumer);
        }
        self.run(name);
    }

    /// Whether a consumer may join.
    pub(super) fn admit_consumer(
        &mut self,
        asking: ConnectionId,
        name: &str,
        exclusive: bool,
    ) -> Result<(), Refusal> {
        let queue = self.queue(asking, name)?;
        let is_taken = queue.consumers.iter().any(|it| it.exclusive);
        if is_taken || exclusive && (!queue.consumers.is_empty() || queue.is_single_active()) {
            return Err((403, format!("ACCESS_REFUSED - queue '{name}' in vhost '/' in exclusive use")));
        }
        Ok(())
    }

    /// A consumer goes; [`Self::serve_others`] is to follow.
    pub(super) fn remove_consumer(&mut self, name: &str, at: ChannelId, tag: &str) {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(name) else { return };
        let Some(index) = queue.consumers.iter().position(|it| it.at == at && it.tag == tag) else { return };
        queue.consumers.remove(index);
        queue.used = now;
        queue.is_left = queue.consumers.is_empty();
    }

    /// After a consumer has gone or a message has come back. An auto-delete queue goes with its last consumer.
    pub(super) fn serve_others(&mut self, name: &str) {
        if self.queues.get(name).is_some_and(|queue| queue.auto_delete && queue.is_left) {
            self.delete_queue(name);
            self.late_deletes.push(name.to_owned());
        }
        self.run(name);
    }

    /// RabbitMQ's queue process, when it ends by itself, deletes its record by name, and that can be a moment after somebody has
    /// deleted it and declared another: the new queue lives on, consumers and all, and nobody finds it any more.
    pub(super) fn forget_queue(&mut self, name: &str) {
        self.exchanges.forget_queue(name);
        self.queues.remove(name);
    }

    /// A message goes where its exchange sends it; whether that is anywhere.
    pub(super) fn route(&mut self, message: &Rc<Message>) -> bool {
        let routed = self.exchanges.route(&message.exchange, &message.routing_key);
        let queues: Vec<String> = routed.into_iter().filter(|name| self.queues.contains_key(name)).collect();
        for name in &queues {
            self.enqueue(name, message);
        }
        !queues.is_empty()
    }

    fn enqueue(&mut self, name: &str, message: &Rc<Message>) {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(name) else { return };
        let place = queue.next_place;
        queue.next_place += 1;
        let dies = queue.number_argument("x-message-ttl").map(|ttl| now + ttl);
        let is_first = queue.messages.is_empty();
        let stored = Stored { message: message.clone(), redelivered: false, dies };
        queue.messages.insert(place, stored);
        // A consumer that waits gets it before it can expire or be one too many.
        if is_first {
            self.serve_one(name);
        }
        self.shed(name);
        self.run(name);
    }

    /// A message that was delivered comes back to its place; [`Self::serve_others`] is to follow.
    pub(super) fn requeue(&mut self, unacked: Unacked) {
        let Unacked { queue: name, number, place, stored, .. } = unacked;
        if let Some(queue) = self.queues.get_mut(&name).filter(|queue| queue.number == number) {
            queue.messages.insert(place, Stored { redelivered: true, ..stored });
        }
    }

    /// A consumer has room again.
    pub(super) fn settle(&mut self, at: ChannelId, unacked: &Unacked) {
        let queue = self.queues.get_mut(&unacked.queue).filter(|queue| queue.number == unacked.number);
        let Some(queue) = queue else { return };
        let consumer =
            queue.consumers.iter_mut().find(|it| it.at == at && Some(&it.tag) == unacked.tag.as_ref());
        if let Some(consumer) = consumer {
            consumer.unacked -= 1;
        }
    }

    /// A message that its consumer does not want.
    pub(super) fn reject(&mut self, unacked: &Unacked) {
        if let Some(queue) = self.queues.get(&unacked.queue).filter(|queue| queue.number == unacked.number) {
            let letter = dead_letter(queue, &unacked.stored.message);
            self.route_letter(letter);
        }
    }

    /// basic.get, before it is said.
    pub(super) fn take_first(&mut self, name: &str) -> Option<(u64, u64, Stored, usize)> {
        let now = self.now;
        let queue = self.queues.get_mut(name)?;
        queue.used = now;
        let (place, stored) = queue.messages.pop_first()?;
        Some((queue.number, place, stored, queue.messages.len()))
    }

    /// Delivers while there is a message and somebody to take it.
    pub(super) fn run(&mut self, name: &str) {
        self.shed(name);
        while self.serve_one(name) {}
    }

    fn serve_one(&mut self, name: &str) -> bool {
        let Some(queue) = self.queues.get_mut(name).filter(|queue| !queue.messages.is_empty()) else {
            return false;
        };
        let number = queue.number;
        let Some(consumer) = queue.ready_consumer() else { return false };
        let (at, tag, no_ack) = (consumer.at, consumer.tag.clone(), consumer.no_ack);
        consumer.unacked += usize::from(!no_ack);
        let Some((place, stored)) = queue.messages.pop_first() else { return false };
        let unacked = Unacked { queue: name.to_owned(), number, place, stored, tag: Some(tag) };
        self.deliver(at, unacked, no_ack);
        true
    }

    /// Messages at the head go that are too old or too many.
    fn shed(&mut self, name: &str) {
        loop {
            let now = self.now;
            let Some(queue) = self.queues.get_mut(name) else { return };
            let Some(first) = queue.messages.first_entry() else { return };
            let too_old = first.get().dies.is_some_and(|dies| dies <= now);
            let too_many =
                queue.number_argument("x-max-length").is_some_and(|most| queue.messages.len() as u64 > most);
            if !too_old && !too_many {
                return;
            }
            let Some((_, stored)) = queue.messages.pop_first() else { return };
            let letter = dead_letter(queue, &stored.message);
            self.route_letter(letter);
        }
    }

    fn route_letter(&mut self, letter: Option<Message>) {
        if let Some(letter) = letter.filter(|letter| self.exchanges.exists(&letter.exchange)) {
            self.route(&Rc::new(letter));
        }
    }
}

/// What a message becomes that its queue does not keep. The header that tells its story is left out: nobody here reads it.
fn dead_letter(queue: &Queue, message: &Message) -> Option<Message> {
    let exchange = queue.text_argument("x-dead-letter-exchange")?;
    let routing_key = queue.text_argument("x-dead-letter-routing-key");
    Some(Message {
        exchange,
        routing_key: routing_key.unwrap_or_else(|| message.routing_key.clone()),
        properties: message.properties.clone(),
        body: message.body.clone(),
    })
}

fn locked(name: &str) -> Refusal {
    let text = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be originally declared on \
         another connection or the exclusive property value does not match that of the original declaration."
    );
    (405, text)
}

fn described(value: Option<&AMQPValue>) -> String {
    match value {
        None => "none".to_owned(),
        Some(AMQPValue::LongLongInt(n)) => format!("the value '{n}' of type 'long'"),
        Some(AMQPValue::Boolean(b)) => format!("the value '{b}' of type 'bool'"),
        Some(AMQPValue::LongString(text)) => {
            format!("the value '{}' of type 'longstr'", String::from_utf8_lossy(text.as_bytes()))
        }
        Some(other) => panic!("no queue has such an argument here: {other:?}"),
    }
}

/// In RabbitMQ's order.
const CHECKED_ARGUMENTS: [&str; 7] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-single-active-consumer",
    "x-queue-type",
];
