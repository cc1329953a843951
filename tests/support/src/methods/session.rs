//! What a session and its lock consist of, and what a group shares. The client's id is `c`.

use super::{EXCHANGE, KEPT, table, tag};
use amq_protocol::{
    protocol::{AMQPClass, basic, queue},
    types::{AMQPValue, FieldTable},
};

/// The queue by which another connection of `c` takes over.
pub const LOCK: &str = "mqtt-subscription-clock";

/// Arguments of a queue of ours.
pub fn arguments(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    table([("x-queue-type", AMQPValue::LongString("classic".into()))].into_iter().chain(entries))
}

/// queue.declare of a queue that outlives the connection.
pub fn declare_queue(queue: &str, arguments: FieldTable) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: queue.into(),
        durable: true,
        arguments,
        ..queue::Declare::default()
    }))
}

/// queue.declare-ok of a queue with so many consumers.
pub fn declared(queue: &str, consumer_count: u32) -> AMQPClass {
    let queue = queue.into();
    AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
        queue,
        message_count: 0,
        consumer_count,
    }))
}

/// Passive queue.declare.
pub fn look_for(queue: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: queue.into(),
        passive: true,
        arguments: arguments([]),
        ..queue::Declare::default()
    }))
}

/// queue.delete.
pub fn delete_queue(queue: &str, if_unused: bool) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
        queue: queue.into(),
        if_unused,
        ..queue::Delete::default()
    }))
}

/// queue.bind.
pub fn bind_queue(queue: &str, routing_key: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: EXCHANGE.into(),
        routing_key: routing_key.into(),
        ..queue::Bind::default()
    }))
}

/// queue.unbind.
pub fn unbind_queue(queue: &str, routing_key: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
        queue: queue.into(),
        exchange: EXCHANGE.into(),
        routing_key: routing_key.into(),
        ..queue::Unbind::default()
    }))
}

/// basic.consume.
pub fn consume_queue(queue: &str, consumer_tag: &str, no_ack: bool, exclusive: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: consumer_tag.into(),
        no_ack,
        exclusive,
        arguments: table([("x-cancel-on-ha-failover", AMQPValue::Boolean(true))]),
        ..basic::Consume::default()
    }))
}

/// basic.consume-ok.
pub fn consumed(consumer_tag: &str) -> AMQPClass {
    let consume_ok = basic::ConsumeOk { consumer_tag: consumer_tag.into() };
    AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(consume_ok))
}

/// basic.cancel, by either side.
pub fn cancel_consumer(consumer_tag: &str, nowait: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: consumer_tag.into(), nowait }))
}

/// basic.cancel-ok.
pub fn cancelled(consumer_tag: &str) -> AMQPClass {
    let cancel_ok = basic::CancelOk { consumer_tag: consumer_tag.into() };
    AMQPClass::Basic(basic::AMQPMethod::CancelOk(cancel_ok))
}

/// How the lock is taken; a claim follows when others have it.
pub fn take_lock() -> [AMQPClass; 3] {
    let one_active = ("x-single-active-consumer", AMQPValue::Boolean(true));
    let expires = ("x-expires", AMQPValue::LongLongInt(10_000));
    [
        declare_queue(LOCK, arguments([expires, one_active])),
        consume_queue(LOCK, "lock", false, false),
        look_for(LOCK),
    ]
}

/// How it is taken from whoever has it, for the first time.
pub fn force_lock() -> [AMQPClass; 4] {
    let [declare, _, count] = take_lock();
    [delete_queue(LOCK, false), declare, consume_queue(LOCK, "lock1", false, false), count]
}

/// How it is given back.
pub fn release_lock() -> [AMQPClass; 2] {
    release_lock_as("lock")
}

/// The same by the consumer of this tag.
pub fn release_lock_as(consumer_tag: &str) -> [AMQPClass; 2] {
    [cancel_consumer(consumer_tag, false), delete_queue(LOCK, true)]
}

/// The answers to that, where nobody else has it.
pub fn lock_taken() -> [AMQPClass; 3] {
    lock_shared(1)
}

/// The same where it has so many consumers.
pub fn lock_shared(consumers: u32) -> [AMQPClass; 3] {
    [declared(LOCK, 0), consumed("lock"), declared(LOCK, consumers)]
}

/// queue.declare of a level's queue that outlives the connection by this many ms.
pub fn declare_kept(level: usize, expires: Option<i64>) -> AMQPClass {
    let expires = expires.map(|ms| ("x-expires", AMQPValue::LongLongInt(ms)));
    let one_active = ("x-single-active-consumer", AMQPValue::Boolean(true));
    let entries = expires.into_iter().chain([one_active]).chain(max_length(level));
    declare_queue(KEPT[level], arguments(entries))
}

/// queue.bind of such a queue.
pub fn bind_kept(level: usize, routing_key: &str) -> AMQPClass {
    bind_queue(KEPT[level], routing_key)
}

/// queue.unbind of such a queue.
pub fn unbind_kept(level: usize, routing_key: &str) -> AMQPClass {
    unbind_queue(KEPT[level], routing_key)
}

/// basic.consume of such a queue.
pub fn consume_kept(level: usize) -> AMQPClass {
    consume_queue(KEPT[level], tag(level), level == 0, false)
}

/// The bound on a level's queue.
pub(super) fn max_length(level: usize) -> impl Iterator<Item = (&'static str, AMQPValue)> {
    let bound = [
        ("x-max-length", AMQPValue::LongLongInt(10_000)),
        ("x-overflow", AMQPValue::LongString("drop-head".into())),
    ];
    bound.into_iter().filter(move |_| level == 0)
}

/// The queue of a group and binding key.
pub fn group_queue(group: &str, binding_key: &str) -> String {
    format!("mqtt-subscription-{group}/{binding_key}share")
}

/// queue.declare of it.
pub fn declare_group(queue: &str) -> AMQPClass {
    let expires = ("x-expires", AMQPValue::LongLongInt(86_400_000));
    declare_queue(queue, arguments([expires].into_iter().chain(max_length(0))))
}
