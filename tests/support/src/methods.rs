//! AMQP 0-9-1 methods for conversations, built by `amq-protocol`, with what never varies filled in.

mod session;
mod will;

pub use session::*;
pub use will::*;

use amq_protocol::{
    protocol::{AMQPClass, basic, channel, confirm, connection, queue},
    types::{AMQPValue, FieldTable},
};

/// The connection itself.
pub const CONNECTION: u16 = 0;
/// Where queues are declared and bound. No messages ever pass there, so round trips are made there.
pub const TOPOLOGY: u16 = 1;
/// Where the lock is taken and messages are delivered.
pub const CONSUME: u16 = 2;
/// Where messages are published.
pub const PUBLISH: u16 = 3;

/// Where the will is.
pub const WILL: u16 = 4;

/// Where retained messages are kept.
pub const KEEP: u16 = 5;
/// Where retained messages are asked for.
pub const REPLAY: u16 = 6;

/// Queues of a session of the client `c` that is kept, by level.
pub const KEPT: [&str; 2] = ["mqtt-subscription-cqos0", "mqtt-subscription-cqos1"];
/// Queues of `c` that go with its connection, by level. They have another ending in each connection; conversations have this one.
pub const OWN: [&str; 2] = ["mqtt-subscription-cqos0.own", "mqtt-subscription-cqos1.own"];

const EXCHANGE: &str = "amq.topic";

/// A table.
pub fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

/// connection.start of a broker with this product and version.
pub fn start(product: &str, version: &str, mechanisms: &str) -> AMQPClass {
    let text = |text: &str| AMQPValue::LongString(text.into());
    AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: table([("product", text(product)), ("version", text(version))]),
        mechanisms: mechanisms.into(),
        locales: "en_US".into(),
    }))
}

/// connection.tune.
pub fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> AMQPClass {
    let tune = connection::Tune { channel_max, frame_max, heartbeat };
    AMQPClass::Connection(connection::AMQPMethod::Tune(tune))
}

/// connection.tune-ok, for our six channels.
pub fn tune_ok(frame_max: u32, heartbeat: u16) -> AMQPClass {
    let tune_ok = connection::TuneOk { channel_max: 6, frame_max, heartbeat };
    AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok))
}

/// connection.open.
pub fn open(vhost: &str) -> AMQPClass {
    let open = connection::Open { virtual_host: vhost.into() };
    AMQPClass::Connection(connection::AMQPMethod::Open(open))
}

/// connection.open-ok.
pub fn open_ok() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))
}

/// connection.close of a broker.
pub fn close(code: u16, text: &str) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
        reply_code: code,
        reply_text: text.into(),
        class_id: 0,
        method_id: 0,
    }))
}

/// connection.close as we say it.
pub fn goodbye() -> AMQPClass {
    close(200, "Goodbye")
}

/// connection.close-ok.
pub fn close_ok() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
}

/// connection.blocked.
pub fn blocked() -> AMQPClass {
    let blocked = connection::Blocked { reason: "low on memory".into() };
    AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked))
}

/// connection.unblocked.
pub fn unblocked() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {}))
}

/// channel.open.
pub fn channel_open() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

/// channel.open-ok.
pub fn channel_open_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
}

/// channel.flow.
pub fn flow(active: bool) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }))
}

/// channel.flow-ok.
pub fn flow_ok(active: bool) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active }))
}

/// channel.close.
pub fn channel_close(code: u16, text: &str, (class_id, method_id): (u16, u16)) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: code,
        reply_text: text.into(),
        class_id,
        method_id,
    }))
}

/// channel.close-ok.
pub fn channel_close_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

/// queue.delete of what a session that was kept has left of a level.
pub fn delete(level: usize) -> AMQPClass {
    delete_queue(KEPT[level], false)
}

/// queue.delete-ok.
pub fn delete_ok() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count: 0 }))
}

/// queue.declare of a level's queue that goes with the connection.
pub fn declare(level: usize) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: OWN[level].into(),
        durable: level == 1,
        exclusive: true,
        arguments: arguments(session::max_length(level)),
        ..queue::Declare::default()
    }))
}

/// queue.declare-ok.
pub fn declare_ok(level: usize) -> AMQPClass {
    declared(OWN[level], 0)
}

/// queue.bind of a level's queue.
pub fn bind(level: usize, routing_key: &str) -> AMQPClass {
    bind_queue(OWN[level], routing_key)
}

/// queue.bind-ok.
pub fn bind_ok() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {}))
}

/// queue.unbind of a level's queue.
pub fn unbind(level: usize, routing_key: &str) -> AMQPClass {
    unbind_queue(OWN[level], routing_key)
}

/// queue.unbind-ok.
pub fn unbind_ok() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {}))
}

/// basic.qos.
pub fn qos(prefetch_count: u16) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count, global: false }))
}

/// basic.qos-ok.
pub fn qos_ok() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {}))
}

/// basic.consume of a level's queue that goes with the connection.
pub fn consume(level: usize) -> AMQPClass {
    consume_queue(OWN[level], tag(level), level == 0, false)
}

/// basic.consume-ok.
pub fn consume_ok(level: usize) -> AMQPClass {
    consumed(tag(level))
}

/// basic.cancel by the broker: the level's queue is gone.
pub fn cancel(level: usize) -> AMQPClass {
    cancel_consumer(tag(level), true)
}

/// basic.publish.
pub fn basic_publish(routing_key: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: EXCHANGE.into(),
        routing_key: routing_key.into(),
        ..basic::Publish::default()
    }))
}

/// basic.return of a message that no queue took.
pub fn returned(routing_key: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Return(basic::Return {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        routing_key: routing_key.into(),
        ..basic::Return::default()
    }))
}

/// basic.deliver to a level's consumer.
pub fn deliver(level: usize, delivery_tag: u64, redelivered: bool, routing_key: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
        consumer_tag: tag(level).into(),
        delivery_tag,
        redelivered,
        exchange: EXCHANGE.into(),
        routing_key: routing_key.into(),
    }))
}

/// basic.ack, either way.
pub fn ack(delivery_tag: u64, multiple: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple }))
}

/// basic.nack of a publish.
pub fn nack(delivery_tag: u64) -> AMQPClass {
    nack_to(delivery_tag, false)
}

/// basic.nack of a publish, or of all up to it.
pub fn nack_to(delivery_tag: u64, multiple: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple, requeue: false }))
}

/// basic.nack of a delivery, which is dead then.
pub fn refuse_delivery(delivery_tag: u64) -> AMQPClass {
    nack(delivery_tag)
}

/// confirm.select.
pub fn confirm_select() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }))
}

/// confirm.select-ok.
pub fn confirm_select_ok() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
}

/// Properties of a message of this delivery mode.
pub fn mode(delivery_mode: u8) -> basic::AMQPProperties {
    basic::AMQPProperties::default().with_delivery_mode(delivery_mode)
}

/// The same with the headers of RabbitMQ's MQTT plugin before 3.13.
pub fn mqtt_headers(delivery_mode: u8, qos: i8, dup: bool) -> basic::AMQPProperties {
    mode(delivery_mode).with_headers(table([
        ("x-mqtt-publish-qos", AMQPValue::ShortShortInt(qos)),
        ("x-mqtt-dup", AMQPValue::Boolean(dup)),
    ]))
}

fn tag(level: usize) -> &'static str {
    ["qos0", "qos1"][level]
}
