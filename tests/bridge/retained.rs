//! Retained messages. The tests are in the two modules; here is what they have in common.

mod keeping;
mod replay;

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, exchange, queue},
    types::AMQPValue,
};
use support::{methods::*, module, packets::*, scripted_broker, talk::Talk};

/// Has a conversation with both subjects, in which messages are retained.
fn both(config_json: &str, talk: impl Fn(&mut Talk)) {
    support::talk::with_both(module::shipped(), config_json, talk);
}

// ---------------------------------------------------------------- what is said

fn queue_of(key: &str) -> String {
    format!("mqtt-retained-{key}")
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn header(properties: &basic::AMQPProperties, key: &str) -> Option<AMQPValue> {
    properties.headers().as_ref()?.inner().get(key).cloned()
}

fn channel(frame: &AMQPFrame) -> u16 {
    match frame {
        AMQPFrame::Method(channel, _) | AMQPFrame::Header(channel, _) | AMQPFrame::Body(channel, _) => {
            *channel
        }
        _ => 0,
    }
}

fn published_at(qos: i8) -> basic::AMQPProperties {
    mode(2).with_headers(table([("x-mqtt-publish-qos", AMQPValue::ShortShortInt(qos))]))
}

/// Properties of a message that is sent to all and also kept.
fn retained_too() -> basic::AMQPProperties {
    mode(2).with_headers(table([("x-leveret-retained", long(""))]))
}

/// A copy that was read when so many retained messages had reached the client.
fn copy_of(key: &str, moment: i64) -> basic::AMQPProperties {
    let moment = AMQPValue::LongLongInt(moment);
    mode(2).with_headers(table([("x-leveret-retained", long(key)), ("x-leveret-moment", moment)]))
}

fn declare_exchange() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: "mqtt-retained".into(),
        kind: "direct".into(),
        durable: true,
        ..exchange::Declare::default()
    }))
}

fn exchange_declared() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
}

fn publish_to_exchange(routing_key: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: "mqtt-retained".into(),
        routing_key: routing_key.into(),
        mandatory: true,
        ..basic::Publish::default()
    }))
}

/// Whether a message may be kept.
fn try_to_keep(key: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: "mqtt-retained".into(),
        routing_key: format!("mqtt-retained={key}").into(),
        ..basic::Publish::default()
    }))
}

/// Those who have a will for a topic hear that its queue is gone.
#[track_caller]
fn expect_told(t: &mut Talk, channel: u16, key: &str) {
    let publish = basic::Publish {
        exchange: "mqtt-retained".into(),
        routing_key: format!("mqtt-retained!{key}").into(),
        ..basic::Publish::default()
    };
    t.expect(channel, AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
    t.expect_content(channel, b"");
    t.expect(channel, commit());
}

fn get(key: &str) -> AMQPClass {
    get_from(&queue_of(key), false)
}

fn get_from(queue: &str, no_ack: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get { queue: queue.into(), no_ack }))
}

fn get_ok(delivery_tag: u64) -> AMQPClass {
    let exchange = "mqtt-retained".into();
    AMQPClass::Basic(basic::AMQPMethod::GetOk(basic::GetOk {
        delivery_tag,
        exchange,
        ..basic::GetOk::default()
    }))
}

fn get_empty() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {}))
}

fn give_back(delivery_tag: u64, requeue: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple: false, requeue }))
}

// ---------------------------------------------------------------- how it goes

/// What a topic's first message makes the broker be told, before the message itself.
#[track_caller]
fn expect_prepared(t: &mut Talk, key: &str, first_words: &[&str], is_first: bool) {
    if is_first {
        t.expect(TOPOLOGY, tx_select());
    }
    t.expect_publish(TOPOLOGY, key, b"");
    t.expect(TOPOLOGY, rollback());
    if is_first {
        t.expect(TOPOLOGY, declare_exchange());
        t.expect(TOPOLOGY, try_to_keep(key));
        t.expect_content(TOPOLOGY, b"");
        t.expect(TOPOLOGY, rollback());
    }
    expect_made(t, TOPOLOGY, key, first_words);
    t.expect_silence();
}

/// The broker does all that.
fn prepared(t: &mut Talk, key: &str, bindings: usize, is_first: bool) {
    if is_first {
        t.replies(TOPOLOGY, [tx_select_ok(), rollback_ok(), exchange_declared(), rollback_ok()]);
    } else {
        t.reply(TOPOLOGY, rollback_ok());
    }
    t.reply(TOPOLOGY, declared(&queue_of(key), 0));
    t.replies(TOPOLOGY, (0..bindings).map(|_| bind_ok()));
}

/// A message of one level's topic, packet id 7, is on its way to its queue and to all.
fn keeping(t: &mut Talk, topic: &str, payload: &[u8]) {
    t.log_in();
    t.client(publish_flags(3, 7, topic, payload));
    expect_prepared(t, topic, &["", topic], true);
    prepared(t, topic, 3, true);
    expect_both(t, PUBLISH, topic, payload, Some(1));
    t.replies(KEEP, [channel_open_ok(), confirm_select_ok()]);
    t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
    t.expect_silence();
    t.hears_nothing();
}

/// Subscribed; nothing was answered about retained messages yet.
fn subscribed(t: &mut Talk, filter: &str, granted: u8) {
    t.client(subscribe(1, &[(filter, granted)]));
    let level = usize::from(granted);
    t.replies(TOPOLOGY, [declare_ok(level), bind_ok()]);
    t.reply(CONSUME, consume_ok(level));
    t.hears(suback(1, &[granted]));
    // How a subscription comes about is told elsewhere; the last four or five frames are ours.
    while t.broker.heard().front().is_some_and(|frame| channel(frame) != REPLAY) {
        t.broker.next_frame();
    }
}

/// Subscribed, and the question has been heard.
fn asking(t: &mut Talk, filter: &str, granted: u8, asked: &str) {
    t.log_in();
    subscribed(t, filter, granted);
    t.expect_all(REPLAY, [channel_open(), confirm_select(), declare_exchange()]);
    expect_question(t, asked, None);
    t.replies(REPLAY, [channel_open_ok(), confirm_select_ok(), exchange_declared()]);
    t.expect_silence();
}

#[track_caller]
fn expect_kept(t: &mut Talk, channel: u16, key: &str, payload: &[u8]) -> basic::AMQPProperties {
    t.expect(channel, publish_to_exchange(&format!("mqtt-retained={key}")));
    t.expect_content(channel, payload)
}

/// The next that the broker was told is a message to its topic's queue and, behind that, to all, in the same pieces. It opens their channels
/// when it is the first, at this QoS. Returns the properties of both.
#[track_caller]
fn expect_both(
    t: &mut Talk,
    to_all: u16,
    key: &str,
    payload: &[u8],
    first_at: Option<u8>,
) -> [basic::AMQPProperties; 2] {
    if first_at.is_some_and(|qos| qos > 0) {
        t.expect_all(to_all, [channel_open(), confirm_select()]);
    }
    if first_at.is_some() {
        t.expect_all(KEEP, [channel_open(), confirm_select()]);
    }
    let mut head = |channel: u16, publish: AMQPClass, is_opened: bool| {
        if is_opened {
            t.expect(channel, channel_open());
        }
        t.expect(channel, publish);
        match t.broker.next_frame() {
            Some(AMQPFrame::Header(on, header))
                if (on, header.body_size) == (channel, payload.len() as u64) =>
            {
                header.properties
            }
            other => panic!("{}: {other:?}", t.name),
        }
    };
    let kept = head(KEEP, publish_to_exchange(&format!("mqtt-retained={key}")), false);
    let routed = head(to_all, basic_publish(key), first_at == Some(0));
    let mut heard: [Vec<u8>; 2] = Default::default();
    while heard[1].len() < payload.len() {
        for (heard, channel) in heard.iter_mut().zip([KEEP, to_all]) {
            match t.broker.next_frame() {
                Some(AMQPFrame::Body(on, bytes)) if on == channel => heard.extend(bytes),
                other => panic!("{}: {other:?}", t.name),
            }
        }
        assert_eq!(heard[0], heard[1], "{}", t.name);
    }
    assert_eq!(heard[0], payload, "{}", t.name);
    [kept, routed]
}

#[track_caller]
fn expect_made(t: &mut Talk, channel: u16, key: &str, first_words: &[&str]) {
    let entries = [
        ("x-max-length", AMQPValue::LongLongInt(1)),
        ("x-overflow", long("drop-head")),
        ("x-max-priority", AMQPValue::LongLongInt(1)),
        ("x-dead-letter-exchange", long("")),
    ];
    t.expect(channel, declare_queue(&queue_of(key), arguments(entries)));
    expect_bound(t, channel, key, first_words);
}

#[track_caller]
fn expect_bound(t: &mut Talk, channel: u16, key: &str, first_words: &[&str]) {
    let bindings = first_words.iter().map(|words| format!("mqtt-retained>{words}"));
    for routing_key in std::iter::once(format!("mqtt-retained={key}")).chain(bindings) {
        let bind = queue::Bind {
            queue: queue_of(key).into(),
            exchange: "mqtt-retained".into(),
            routing_key: routing_key.into(),
            ..queue::Bind::default()
        };
        t.expect(channel, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
    }
}

#[track_caller]
fn expect_question(t: &mut Talk, asked: &str, asker: Option<&str>) {
    t.expect(REPLAY, publish_to_exchange(asked));
    let properties = t.expect_content(REPLAY, b"");
    assert_eq!(
        (properties.priority(), properties.expiration().as_ref().map(|it| it.as_str())),
        (&Some(1), Some("0"))
    );
    let cc = asker.map(|queue| AMQPValue::FieldArray(vec![long(queue)].into()));
    assert_eq!(header(&properties, "CC"), cc);
}

/// The queue in which topics answer: this connection's own.
#[track_caller]
fn expect_answers_queue(t: &mut Talk) -> String {
    let Some(AMQPFrame::Method(REPLAY, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))) =
        t.broker.next_frame()
    else {
        panic!("no queue for answers")
    };
    assert!(declare.exclusive && declare.durable, "{declare:?}");
    declare.queue.to_string()
}

#[track_caller]
fn expect_copy(t: &mut Talk, delivery_tag: u64, payload: &[u8]) {
    t.expect(REPLAY, publish_to_queue(OWN[1]));
    t.expect_content(REPLAY, payload);
    t.expect(REPLAY, give_back(delivery_tag, true));
}

/// No queue took message `number` of the channel for questions.
fn returned_and_confirmed(t: &mut Talk, number: u64) {
    t.reply(REPLAY, returned(""));
    t.broker(scripted_broker::header(REPLAY, 0, mode(1)));
    t.reply(REPLAY, ack(number, false));
}

/// No queue took a message that was to be kept.
fn kept_returned(t: &mut Talk, key: &str, payload: &[u8], number: u64) {
    t.reply(KEEP, returned(&format!("mqtt-retained={key}")));
    t.broker(scripted_broker::header(KEEP, payload.len() as u64, published_at(1)));
    for piece in payload.chunks(3) {
        t.broker(scripted_broker::body(KEEP, piece));
    }
    t.reply(KEEP, ack(number, false));
}

/// basic.get has this message.
fn got(t: &mut Talk, delivery_tag: u64, published: i8, payload: &[u8]) {
    t.reply(REPLAY, get_ok(delivery_tag));
    content(t, published_at(published), payload);
}

/// A topic's queue has answered.
fn answered(t: &mut Talk, queue: &str) {
    t.reply(REPLAY, get_ok(1));
    content(t, mode(1).with_headers(table([("x-first-death-queue", long(queue))])), b"");
}

fn content(t: &mut Talk, properties: basic::AMQPProperties, payload: &[u8]) {
    t.broker(scripted_broker::header(REPLAY, payload.len() as u64, properties));
    if !payload.is_empty() {
        t.broker(scripted_broker::body(REPLAY, payload));
    }
}

/// A copy comes out of the client's own queue.
fn copy_arrives(
    t: &mut Talk,
    level: u8,
    delivery_tag: u64,
    properties: basic::AMQPProperties,
    payload: &[u8],
) {
    let tag = ["qos0", "qos1"][usize::from(level)];
    t.reply(CONSUME, deliver_from_queue("its own", tag, delivery_tag));
    t.broker(scripted_broker::header(CONSUME, payload.len() as u64, properties));
    t.broker(scripted_broker::body(CONSUME, payload));
}
