//! `amq-protocol`, an independent implementation of AMQP 0-9-1, reads what we write, and we read what it writes.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString};
use leveret::amqp::{
    self, Address, ClientMethod, DeadLetter, MethodId, MqttHeaders, Properties, QueueArguments, QueueFlags,
    ShortStr, Table, Value,
};

use crate::transcript::{Amqp, Line, listen};

/// What `amq-protocol` makes of a stream.
fn read(mut bytes: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).expect("a frame");
        frames.push(frame);
        bytes = rest;
    }
    frames
}

/// What `amq-protocol` writes.
pub(crate) fn written(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new())).expect("a frame").into_inner().0
}

pub(crate) fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn short(text: &'static str) -> ShortStr<'static> {
    ShortStr::new(text.as_bytes()).unwrap()
}

fn start_ok() -> AMQPClass {
    let capabilities = [
        "authentication_failure_close",
        "consumer_cancel_notify",
        "publisher_confirms",
        "basic.nack",
        "connection.blocked",
    ];
    AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties: table([
            ("product", text("Leveret")),
            ("version", text(env!("CARGO_PKG_VERSION"))),
            ("platform", text("Envoy proxy-wasm")),
            ("connection_name", text("device-7")),
            ("capabilities", table(capabilities.map(|key| (key, AMQPValue::Boolean(true)))).into()),
            ("client_id", text("device-7")),
        ]),
        mechanism: "PLAIN".into(),
        response: LongString::from(&b"\0user\0p\xffss"[..]),
        locale: "en_US".into(),
    }))
}

/// Each method we send, beside what it is to be.
fn client_methods() -> Vec<(ClientMethod<'static>, AMQPClass)> {
    use amq_protocol::protocol::AMQPClass as C;
    let (queue, exchange, routing_key) = (short("q"), short("amq.topic"), short("a.*.#"));
    let flags = |n: u8| QueueFlags {
        passive: n & 1 != 0,
        durable: n & 2 != 0,
        exclusive: n & 4 != 0,
        auto_delete: n & 8 != 0,
    };
    let mut methods = vec![
        (
            ClientMethod::StartOk {
                connection_name: b"device-7",
                properties: &[("client_id", b"device-7")],
                username: b"user",
                password: b"p\xffss",
            },
            start_ok(),
        ),
        (
            ClientMethod::TuneOk { channel_max: 4, frame_max: 4096, heartbeat: 60 },
            C::Connection(connection::AMQPMethod::TuneOk(connection::TuneOk {
                channel_max: 4,
                frame_max: 4096,
                heartbeat: 60,
            })),
        ),
        (
            ClientMethod::Open { vhost: short("/") },
            C::Connection(connection::AMQPMethod::Open(connection::Open { virtual_host: "/".into() })),
        ),
        (
            ClientMethod::Close { reply_code: 200, reply_text: short("bye") },
            C::Connection(connection::AMQPMethod::Close(connection::Close {
                reply_code: 200,
                reply_text: "bye".into(),
                class_id: 0,
                method_id: 0,
            })),
        ),
        (ClientMethod::CloseOk, C::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))),
        (ClientMethod::ChannelOpen, C::Channel(channel::AMQPMethod::Open(channel::Open {}))),
        (ClientMethod::ChannelFlow, C::Channel(channel::AMQPMethod::Flow(channel::Flow { active: true }))),
        (ClientMethod::ChannelCloseOk, C::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))),
        (
            ClientMethod::QueueBind { queue, exchange, routing_key },
            C::Queue(queue::AMQPMethod::Bind(queue::Bind {
                queue: "q".into(),
                exchange: "amq.topic".into(),
                routing_key: "a.*.#".into(),
                nowait: false,
                arguments: FieldTable::default(),
            })),
        ),
        (
            ClientMethod::QueueUnbind { queue, exchange, routing_key },
            C::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
                queue: "q".into(),
                exchange: "amq.topic".into(),
                routing_key: "a.*.#".into(),
                arguments: FieldTable::default(),
            })),
        ),
        (
            ClientMethod::BasicQos { prefetch_count: 65535 },
            C::Basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 65535, global: false })),
        ),
        (
            ClientMethod::BasicCancel { consumer_tag: short("qos1") },
            C::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "qos1".into(), nowait: false })),
        ),
        (
            ClientMethod::ExchangeDeclare { exchange },
            C::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: "amq.topic".into(),
                kind: "direct".into(),
                durable: true,
                ..exchange::Declare::default()
            })),
        ),
        (ClientMethod::TxRollback, C::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}))),
        (ClientMethod::TxSelect, C::Tx(tx::AMQPMethod::Select(tx::Select {}))),
        (ClientMethod::TxCommit, C::Tx(tx::AMQPMethod::Commit(tx::Commit {}))),
        (
            ClientMethod::BasicAck { delivery_tag: u64::MAX },
            C::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: u64::MAX, multiple: false })),
        ),
        (
            ClientMethod::ConfirmSelect,
            C::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false })),
        ),
    ];
    for active in [false, true] {
        methods.push((
            ClientMethod::ChannelFlowOk { active },
            C::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active })),
        ));
    }
    for requeue in [false, true] {
        methods.push((
            ClientMethod::BasicNack { delivery_tag: 7, requeue },
            C::Basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag: 7, multiple: false, requeue })),
        ));
    }
    for mandatory in [false, true] {
        methods.push((
            ClientMethod::BasicPublish { exchange, routing_key, mandatory },
            C::Basic(basic::AMQPMethod::Publish(basic::Publish {
                exchange: "amq.topic".into(),
                routing_key: "a.*.#".into(),
                mandatory,
                immediate: false,
            })),
        ));
    }
    for no_ack in [false, true] {
        methods.push((
            ClientMethod::BasicGet { queue, no_ack },
            C::Basic(basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack })),
        ));
    }
    for (if_unused, if_empty) in [(false, false), (false, true), (true, false), (true, true)] {
        methods.push((
            ClientMethod::QueueDelete { queue, if_unused, if_empty },
            C::Queue(queue::AMQPMethod::Delete(queue::Delete {
                queue: "q".into(),
                if_unused,
                if_empty,
                nowait: false,
            })),
        ));
    }
    for (no_ack, exclusive) in [(false, false), (false, true), (true, false), (true, true)] {
        methods.push((
            ClientMethod::BasicConsume { queue, consumer_tag: short("qos1"), no_ack, exclusive },
            C::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue: "q".into(),
                consumer_tag: "qos1".into(),
                no_local: false,
                no_ack,
                exclusive,
                nowait: false,
                arguments: table([("x-cancel-on-ha-failover", AMQPValue::Boolean(true))]),
            })),
        ));
    }
    for (n, (arguments, entries)) in (0..16).flat_map(|n| queue_arguments().map(|it| (n, it))) {
        let QueueFlags { passive, durable, exclusive, auto_delete } = flags(n);
        methods.push((
            ClientMethod::QueueDeclare { queue, flags: flags(n), arguments },
            C::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: "q".into(),
                passive,
                durable,
                exclusive,
                auto_delete,
                nowait: false,
                arguments: entries,
            })),
        ));
    }
    methods
}

/// Arguments of a queue, each alone and all together, beside what they are to be.
fn queue_arguments() -> [(QueueArguments<'static>, FieldTable); 9] {
    let none = QueueArguments::default();
    let dead_letter = Some(DeadLetter { exchange: short("amq.topic"), routing_key: Some(short("a.b")) });
    let keeps_key = Some(DeadLetter { exchange: short("amq.topic"), routing_key: None });
    let kind = ("x-queue-type", text("classic"));
    let expires = ("x-expires", AMQPValue::LongLongInt(60_000));
    let message_ttl = ("x-message-ttl", AMQPValue::LongLongInt(0));
    let max_length = ("x-max-length", AMQPValue::LongLongInt(10_000));
    let overflow = ("x-overflow", text("drop-head"));
    let max_priority = ("x-max-priority", AMQPValue::LongLongInt(1));
    let one_active = ("x-single-active-consumer", AMQPValue::Boolean(true));
    let dead = [("x-dead-letter-exchange", text("amq.topic")), ("x-dead-letter-routing-key", text("a.b"))];
    let all = QueueArguments {
        expires: Some(60_000),
        message_ttl: Some(0),
        max_length: Some(10_000),
        max_priority: Some(1),
        single_active_consumer: true,
        dead_letter,
    };
    [
        (none, table([kind.clone()])),
        (QueueArguments { expires: all.expires, ..none }, table([kind.clone(), expires.clone()])),
        (QueueArguments { message_ttl: all.message_ttl, ..none }, table([kind.clone(), message_ttl.clone()])),
        (
            QueueArguments { max_length: all.max_length, ..none },
            table([kind.clone(), max_length.clone(), overflow.clone()]),
        ),
        (QueueArguments { single_active_consumer: true, ..none }, table([kind.clone(), one_active.clone()])),
        (
            QueueArguments { max_priority: all.max_priority, ..none },
            table([kind.clone(), max_priority.clone()]),
        ),
        (QueueArguments { dead_letter, ..none }, table([kind.clone()].into_iter().chain(dead.clone()))),
        (QueueArguments { dead_letter: keeps_key, ..none }, table([kind.clone(), dead[0].clone()])),
        (
            all,
            table(
                [kind, expires, message_ttl, max_length, overflow, max_priority, one_active]
                    .into_iter()
                    .chain(dead),
            ),
        ),
    ]
}

#[test]
fn it_reads_each_method() {
    for (ours, theirs) in client_methods() {
        let theirs_id = MethodId(theirs.get_amqp_class_id(), theirs.get_amqp_method_id());
        assert_eq!(ours.id(), theirs_id);
        let mut out = Vec::new();
        ours.encode(&mut out, 3);
        assert_eq!(read(&out), [AMQPFrame::Method(3, theirs)]);
    }
}

#[test]
fn it_reads_a_publish() {
    let mut out = amqp::PROTOCOL_HEADER.to_vec();
    let mqtt_headers = Some(MqttHeaders { publish_qos: 1, dup: false });
    let all = Properties {
        persistent: true,
        mqtt_headers,
        retained: Some(b"a.b"),
        moment: Some(1 << 40),
        cc: Some(b"q"),
        claim: Some(b"x"),
        priority: Some(1),
        expires_at_once: true,
    };
    let to = Address { exchange: short("amq.topic"), routing_key: short("a.b"), mandatory: false };
    for properties in [Properties::default(), Properties { mqtt_headers, ..Properties::default() }, all] {
        amqp::publish(&mut out, 2, to, properties, 5000);
    }
    amqp::body(&mut out, 2, 4096, &[1; 5000]);
    amqp::heartbeat(&mut out);
    let publish = AMQPFrame::Method(
        2,
        AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
            exchange: "amq.topic".into(),
            routing_key: "a.b".into(),
            ..basic::Publish::default()
        })),
    );
    let header =
        |properties| AMQPFrame::Header(2, AMQPContentHeader { class_id: 60, body_size: 5000, properties });
    let none = basic::AMQPProperties::default();
    let mqtt =
        [("x-mqtt-publish-qos", AMQPValue::ShortShortInt(1)), ("x-mqtt-dup", AMQPValue::Boolean(false))];
    let cc = AMQPValue::FieldArray(FieldArray::from(vec![text("q")]));
    let moment = AMQPValue::LongLongInt(1 << 40);
    let ours = [
        ("x-leveret-retained", text("a.b")),
        ("x-leveret-moment", moment),
        ("CC", cc),
        ("x-leveret-claim", text("x")),
    ];
    let every = mqtt.clone().into_iter().chain(ours);
    assert_eq!(
        read(&out),
        [
            AMQPFrame::ProtocolHeader(amq_protocol::frame::ProtocolVersion::amqp_0_9_1()),
            publish.clone(),
            header(none.clone().with_delivery_mode(1)),
            publish.clone(),
            header(none.clone().with_headers(table(mqtt)).with_delivery_mode(1)),
            publish,
            header(
                none.with_headers(table(every))
                    .with_delivery_mode(2)
                    .with_priority(1)
                    .with_expiration("0".into())
            ),
            AMQPFrame::Body(2, vec![1; 4088]),
            AMQPFrame::Body(2, vec![1; 912]),
            AMQPFrame::Heartbeat,
        ]
    );
}

/// Each method we take from a broker, and what we are to make of it.
pub(crate) fn broker_methods() -> Vec<(AMQPClass, &'static str)> {
    use amq_protocol::protocol::AMQPClass as C;
    let server_properties = table([
        ("capabilities", table([("exchange_exchange_bindings", AMQPValue::Boolean(true))]).into()),
        ("product", text("RabbitMQ")),
        ("version", text("3.10.8")),
    ]);
    vec![
        (
            C::Connection(connection::AMQPMethod::Start(connection::Start {
                version_major: 0,
                version_minor: 9,
                server_properties,
                mechanisms: "PLAIN AMQPLAIN".into(),
                locales: "en_US".into(),
            })),
            "connection.start RabbitMQ 3.10.8 [PLAIN AMQPLAIN]",
        ),
        (
            C::Connection(connection::AMQPMethod::Tune(connection::Tune {
                channel_max: 2047,
                frame_max: 131_072,
                heartbeat: 60,
            })),
            "connection.tune 2047 131072",
        ),
        (C::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {})), "connection.open-ok"),
        (
            C::Connection(connection::AMQPMethod::Close(connection::Close {
                reply_code: 530,
                reply_text: "NOT_ALLOWED".into(),
                class_id: 10,
                method_id: 40,
            })),
            "connection.close 530 NOT_ALLOWED (10, 40)",
        ),
        (C::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})), "connection.close-ok"),
        (
            C::Connection(connection::AMQPMethod::Blocked(connection::Blocked { reason: "memory".into() })),
            "connection.blocked",
        ),
        (C::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {})), "connection.unblocked"),
        (C::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})), "channel.open-ok"),
        (C::Channel(channel::AMQPMethod::Flow(channel::Flow { active: true })), "channel.flow true"),
        (C::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active: true })), "channel.flow-ok"),
        (
            C::Channel(channel::AMQPMethod::Close(channel::Close {
                reply_code: 404,
                reply_text: "NOT_FOUND".into(),
                class_id: 50,
                method_id: 10,
            })),
            "channel.close 404 NOT_FOUND (50, 10)",
        ),
        (
            C::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                queue: "q".into(),
                message_count: 1,
                consumer_count: 2,
            })),
            "queue.declare-ok messages=1 consumers=2",
        ),
        (C::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})), "queue.bind-ok"),
        (C::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {})), "queue.unbind-ok"),
        (C::Queue(queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count: 7 })), "queue.delete-ok"),
        (C::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})), "basic.qos-ok"),
        (
            C::Basic(basic::AMQPMethod::ConsumeOk(basic::ConsumeOk { consumer_tag: "qos0".into() })),
            "basic.consume-ok",
        ),
        (
            C::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "qos0".into(), nowait: true })),
            "basic.cancel qos0",
        ),
        (
            C::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
                consumer_tag: "qos1".into(),
                delivery_tag: 1 << 33,
                redelivered: true,
                exchange: "amq.topic".into(),
                routing_key: "a.b".into(),
            })),
            "basic.deliver qos1 8589934592 redelivered=true \"amq.topic\" a.b",
        ),
        (
            C::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
                consumer_tag: "c".into(),
                delivery_tag: 1,
                ..basic::Deliver::default()
            })),
            "basic.deliver c 1 redelivered=false \"\" ",
        ),
        (
            C::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 7, multiple: true })),
            "basic.ack 7 multiple=true",
        ),
        (
            C::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 8, multiple: false })),
            "basic.ack 8 multiple=false",
        ),
        (
            C::Basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag: 7, ..Default::default() })),
            "basic.nack 7 multiple=false",
        ),
        (C::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {})), "confirm.select-ok"),
        (
            C::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: "c".into() })),
            "basic.cancel-ok",
        ),
        (C::Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {})), "tx.select-ok"),
        (C::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})), "tx.commit-ok"),
        (C::Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {})), "tx.rollback-ok"),
        (C::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})), "exchange.declare-ok"),
        (C::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})), "basic.get-empty"),
        (
            C::Basic(basic::AMQPMethod::GetOk(basic::GetOk {
                delivery_tag: 1 << 33,
                redelivered: true,
                exchange: "x".into(),
                routing_key: "a.b".into(),
                message_count: 1,
            })),
            "basic.get-ok 8589934592",
        ),
        (
            C::Basic(basic::AMQPMethod::Return(basic::Return {
                reply_code: 312,
                reply_text: "NO_ROUTE".into(),
                exchange: "x".into(),
                routing_key: "a.b".into(),
            })),
            "basic.return a.b",
        ),
    ]
}

fn heard(frame: &AMQPFrame) -> Vec<Line> {
    let heard = listen(Amqp::default(), [&written(frame)[..]]);
    assert_eq!(heard.end, Ok(0), "{frame:?}");
    heard.lines
}

#[test]
fn we_read_each_method() {
    for (method, expected) in broker_methods() {
        assert_eq!(heard(&AMQPFrame::Method(4, method)), [Line::Said(format!("4 {expected}"))]);
    }
}

#[test]
fn we_read_content() {
    let kind: ShortString = "k".into();
    let headers = table([("a", text("b")), ("x-mqtt-publish-qos", AMQPValue::ShortShortInt(1))]);
    let none = basic::AMQPProperties::default();
    let all = none
        .clone()
        .with_content_type("ct".into())
        .with_content_encoding("ce".into())
        .with_headers(headers.clone())
        .with_delivery_mode(2)
        .with_priority(1)
        .with_correlation_id("id".into())
        .with_reply_to("r".into())
        .with_expiration("1".into())
        .with_message_id("m".into())
        .with_timestamp(1)
        .with_type(kind)
        .with_user_id("u".into())
        .with_app_id("a".into())
        .with_cluster_id("c".into());
    for (properties, expected) in [
        (none.clone(), "persistent=false qos=None"),
        (none.clone().with_delivery_mode(2), "persistent=true qos=None"),
        (none.clone().with_delivery_mode(1).with_content_type("t".into()), "persistent=false qos=None"),
        (none.with_headers(headers).with_priority(2), "persistent=false qos=Some(1)"),
        (all, "persistent=true qos=Some(1)"),
    ] {
        let header = AMQPContentHeader { class_id: 60, body_size: u64::MAX, properties };
        let expected = format!("1 content +{} {expected}", u64::MAX);
        assert_eq!(heard(&AMQPFrame::Header(1, header)), [Line::Said(expected)]);
    }
    assert_eq!(heard(&AMQPFrame::Body(1, b"x".into())), [Line::Bytes(1, b"x".into())]);
    assert_eq!(heard(&AMQPFrame::Body(1, vec![])), []);
    assert_eq!(heard(&AMQPFrame::Heartbeat), [Line::Said("heartbeat".into())]);
}

#[test]
fn we_find_each_type_of_value() {
    let nested = table([("deep", AMQPValue::Void)]);
    let entries = [
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-1)),
        ("u8", AMQPValue::ShortShortUInt(255)),
        ("i16", AMQPValue::ShortInt(i16::MIN)),
        ("u16", AMQPValue::ShortUInt(u16::MAX)),
        ("i32", AMQPValue::LongInt(i32::MIN)),
        ("u32", AMQPValue::LongUInt(u32::MAX)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(1.5)),
        ("f64", AMQPValue::Double(1.5)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("string", text("s")),
        ("empty", text("")),
        ("array", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Void, text("x")]))),
        ("time", AMQPValue::Timestamp(u64::MAX)),
        ("table", AMQPValue::FieldTable(nested)),
        ("bytes", AMQPValue::ByteArray(vec![0, 1].into())),
        ("void", AMQPValue::Void),
    ];
    let declare = queue::Declare { arguments: table(entries), ..Default::default() };
    let bytes = written(&AMQPFrame::Method(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare))));
    // Behind the frame's head, the method, the ticket, an empty name, the bits and the table's length; ahead of the end.
    let table = Table::new(&bytes[7 + 4 + 2 + 1 + 1 + 4..bytes.len() - 1]);
    for (key, expected) in [
        ("bool", Value::Bool(true)),
        ("i8", Value::Int(-1)),
        ("u8", Value::Int(255)),
        ("i16", Value::Int(i16::MIN.into())),
        ("u16", Value::Int(u16::MAX.into())),
        ("i32", Value::Int(i32::MIN.into())),
        ("u32", Value::Int(u32::MAX.into())),
        ("i64", Value::Int(i64::MIN)),
        ("f32", Value::Other),
        ("f64", Value::Other),
        ("decimal", Value::Other),
        ("string", Value::Bytes(b"s")),
        ("empty", Value::Bytes(b"")),
        ("array", Value::Other),
        ("time", Value::Other),
        ("table", Value::Table(b"\x04deepV")),
        ("bytes", Value::Bytes(&[0, 1])),
        ("void", Value::Other),
    ] {
        assert_eq!(table.find(key.as_bytes()), Ok(Some(expected)), "{key}");
    }
    assert_eq!(table.find(b"deep"), Ok(None));
}
