//! Methods with what never varies filled in.

use amq_protocol::protocol::{AMQPClass, basic, confirm, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use support::methods as say;

/// Durable, exclusive, auto-delete.
pub(super) type Shape = (bool, bool, bool);

pub(super) const DURABLE: Shape = (true, false, false);
pub(super) const AUTO: Shape = (true, false, true);
pub(super) const EXCLUSIVE: Shape = (true, true, false);
pub(super) const TRANSIENT: Shape = (false, false, true);

pub(super) const SINGLE_ACTIVE: (&str, AMQPValue) = ("x-single-active-consumer", AMQPValue::Boolean(true));
pub(super) const MAX_LENGTH_0: (&str, AMQPValue) = ("x-max-length", AMQPValue::LongLongInt(0));

pub(super) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub(super) fn declare(name: &str, shape: Shape, arguments: &[(&'static str, AMQPValue)]) -> AMQPClass {
    let (durable, exclusive, auto_delete) = shape;
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: name.into(),
        durable,
        exclusive,
        auto_delete,
        arguments: say::table(arguments.iter().cloned()),
        ..queue::Declare::default()
    }))
}

pub(super) fn passive(name: &str) -> AMQPClass {
    let declare = queue::Declare { queue: name.into(), passive: true, ..queue::Declare::default() };
    AMQPClass::Queue(queue::AMQPMethod::Declare(declare))
}

pub(super) fn delete(name: &str) -> AMQPClass {
    let delete = queue::Delete { queue: name.into(), ..queue::Delete::default() };
    AMQPClass::Queue(queue::AMQPMethod::Delete(delete))
}

pub(super) fn delete_if_unused(name: &str) -> AMQPClass {
    let delete = queue::Delete { queue: name.into(), if_unused: true, ..queue::Delete::default() };
    AMQPClass::Queue(queue::AMQPMethod::Delete(delete))
}

pub(super) fn bind(queue: &str, exchange: &str, key: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: key.into(),
        ..queue::Bind::default()
    }))
}

pub(super) fn unbind(queue: &str, exchange: &str, key: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: key.into(),
        arguments: FieldTable::default(),
    }))
}

pub(super) fn consume(queue: &str, tag: &str, no_ack: bool, exclusive: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        no_ack,
        exclusive,
        ..basic::Consume::default()
    }))
}

/// As [`consume`], but once its queue is gone, it does not want another one of the same name.
pub(super) fn consume_in_line(queue: &str, tag: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        arguments: say::table([("x-cancel-on-ha-failover", AMQPValue::Boolean(true))]),
        ..basic::Consume::default()
    }))
}

pub(super) fn cancel(tag: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: tag.into(), nowait: false }))
}

pub(super) fn get(queue: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get { queue: queue.into(), no_ack: false }))
}

pub(super) fn ack(delivery_tag: u64, multiple: bool) -> AMQPClass {
    say::ack(delivery_tag, multiple)
}

pub(super) fn nack(delivery_tag: u64, requeue: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple: false, requeue }))
}

pub(super) fn confirm_select() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }))
}

pub(super) fn tx_select() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))
}

pub(super) fn tx_commit() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}))
}

pub(super) fn tx_rollback() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}))
}

pub(super) fn to(exchange: &str, routing_key: &str) -> basic::Publish {
    basic::Publish { exchange: exchange.into(), routing_key: routing_key.into(), ..basic::Publish::default() }
}

pub(super) fn mandatory(exchange: &str, routing_key: &str) -> basic::Publish {
    basic::Publish { mandatory: true, ..to(exchange, routing_key) }
}
