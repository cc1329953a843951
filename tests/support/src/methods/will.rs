//! What a will at the broker consists of.

use super::session::{arguments, declare_queue};
use amq_protocol::{
    protocol::{AMQPClass, basic, tx},
    types::AMQPValue,
};

/// The queue of the will of `c`. It has another ending in each connection; conversations have this one.
pub const WILL_QUEUE: &str = "mqtt-subscription-cwill.own";

/// The tag of the will's consumer.
pub const WILL_TAG: &str = "will";

/// tx.select.
pub fn tx_select() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))
}

/// tx.select-ok.
pub fn tx_select_ok() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {}))
}

/// tx.rollback.
pub fn rollback() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}))
}

/// tx.rollback-ok.
pub fn rollback_ok() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {}))
}

/// tx.commit.
pub fn commit() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}))
}

/// tx.commit-ok.
pub fn commit_ok() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {}))
}

/// queue.declare of the will's queue, from which it dies to this routing key.
pub fn declare_will(routing_key: &str) -> AMQPClass {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let entries = [
        ("x-expires", AMQPValue::LongLongInt(10_000)),
        ("x-message-ttl", AMQPValue::LongLongInt(0)),
        ("x-dead-letter-exchange", text(super::EXCHANGE)),
        ("x-dead-letter-routing-key", text(routing_key)),
    ];
    declare_queue(WILL_QUEUE, arguments(entries))
}

/// basic.publish into a queue.
pub fn publish_to_queue(queue: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        routing_key: queue.into(),
        ..basic::Publish::default()
    }))
}

/// basic.deliver of what was published into a queue.
pub fn deliver_from_queue(queue: &str, consumer_tag: &str, delivery_tag: u64) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
        consumer_tag: consumer_tag.into(),
        delivery_tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: queue.into(),
    }))
}
