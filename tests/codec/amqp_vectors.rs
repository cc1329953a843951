//! Every AMQP frame, byte by byte, and what a decoder must not take.

use leveret::amqp::{
    self, Address, ClientMethod, DeadLetter, DecodeError, FRAME_OVERHEAD, MAX_COLLECTED, MqttHeaders,
    Properties, QueueArguments, QueueFlags, ShortStr,
};

use crate::transcript::{Amqp, Line, Transcript, listen, said};

/// A frame around `payload`, section 2.3.5.
pub(crate) fn frame(frame_type: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = payload.len() as u32;
    [&[frame_type][..], &channel.to_be_bytes(), &size.to_be_bytes(), payload, b"\xce"].concat()
}

/// A method's payload, from a broker, and what it says; how many bytes of it we ask for.
pub(crate) const FROM_BROKER: &[(&[u8], &str, usize)] = &[
    (
        b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x1b\x07productS\x00\x00\x00\x01R\x07versionS\x00\x00\x00\x00\
          \x00\x00\x00\x0eAMQPLAIN PLAIN\x00\x00\x00\x05en_US",
        "connection.start R  [AMQPLAIN PLAIN]",
        55,
    ),
    (b"\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c", "connection.tune 2047 131072", 10),
    (b"\x00\x0a\x00\x29\x00", "connection.open-ok", 4),
    (b"\x00\x0a\x00\x32\x01\x40\x06FORCED\x00\x00\x00\x00", "connection.close 320 FORCED (0, 0)", 17),
    (b"\x00\x0a\x00\x33", "connection.close-ok", 4),
    (b"\x00\x0a\x00\x3c\x06memory", "connection.blocked", 4),
    (b"\x00\x0a\x00\x3d", "connection.unblocked", 4),
    (b"\x00\x14\x00\x0b\x00\x00\x00\x00", "channel.open-ok", 4),
    (b"\x00\x14\x00\x14\x00", "channel.flow false", 5),
    (b"\x00\x14\x00\x15\x01", "channel.flow-ok", 4),
    (b"\x00\x14\x00\x28\x01\x94\x00\x00\x3c\x00\x28", "channel.close 404  (60, 40)", 11),
    (b"\x00\x32\x00\x0b\x01q\x00\x00\x00\x01\x00\x00\x00\x02", "queue.declare-ok messages=1 consumers=2", 14),
    (b"\x00\x32\x00\x15", "queue.bind-ok", 4),
    (b"\x00\x32\x00\x29\x00\x00\x00\x07", "queue.delete-ok", 4),
    (b"\x00\x32\x00\x33", "queue.unbind-ok", 4),
    (b"\x00\x3c\x00\x0b", "basic.qos-ok", 4),
    (b"\x00\x3c\x00\x15\x01c", "basic.consume-ok", 4),
    (b"\x00\x3c\x00\x1e\x04qos1\x01", "basic.cancel qos1", 9),
    (
        b"\x00\x3c\x00\x3c\x04qos1\x00\x00\x00\x01\x00\x00\x00\x02\x01\x09amq.topic\x03a.b",
        "basic.deliver qos1 4294967298 redelivered=true \"amq.topic\" a.b",
        32,
    ),
    (
        b"\x00\x3c\x00\x50\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        "basic.ack 18446744073709551615 multiple=true",
        13,
    ),
    (b"\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x01\x00", "basic.nack 1 multiple=false", 13),
    (b"\x00\x55\x00\x0b", "confirm.select-ok", 4),
    (b"\x00\x3c\x00\x1f\x05share", "basic.cancel-ok", 4),
    (b"\x00\x5a\x00\x0b", "tx.select-ok", 4),
    (b"\x00\x5a\x00\x15", "tx.commit-ok", 4),
    (b"\x00\x5a\x00\x1f", "tx.rollback-ok", 4),
    (b"\x00\x28\x00\x0b", "exchange.declare-ok", 4),
    (b"\x00\x3c\x00\x32\x01\x38\x08NO_ROUTE\x01x\x01q", "basic.return q", 19),
    (
        b"\x00\x3c\x00\x47\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x01q\x00\x00\x00\x00",
        "basic.get-ok 4294967298",
        12,
    ),
    (b"\x00\x3c\x00\x48\x00", "basic.get-empty", 4),
];

fn end_of(bytes: &[u8]) -> Result<usize, DecodeError> {
    listen(Amqp::default(), [bytes]).end
}

#[test]
fn methods_from_a_broker() {
    for &(payload, text, wanted) in FROM_BROKER {
        let bytes = frame(1, 0x0102, payload);
        let expected = Transcript { lines: vec![Line::Said(format!("258 {text}"))], end: Ok(0) };
        assert_eq!(listen(Amqp::default(), [&bytes[..]]), expected);
        for end in 0..bytes.len() {
            let nothing = Transcript { lines: vec![], end: Ok(end) };
            assert_eq!(listen(Amqp::default(), [&bytes[..end]]), nothing, "{text}: the first {end} bytes");
        }
        // A frame that is whole, but whose arguments are not.
        for size in 0..payload.len() {
            let expected = if size < wanted { Err(DecodeError::Arguments) } else { Ok(0) };
            assert_eq!(end_of(&frame(1, 1, &payload[..size])), expected, "{text} cut to {size} bytes");
        }
    }
}

#[test]
fn content_and_heartbeats() {
    let stream = [
        &b"\x02\x00\x02\x00\x00\x00\x0f\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x10\x00\x02\xce"[..],
        b"\x03\x00\x02\x00\x00\x00\x02he\xce",
        b"\x08\x00\x00\x00\x00\x00\x00\xce",
        b"\x03\x00\x02\x00\x00\x00\x00\xce",
        b"\x03\x00\x02\x00\x00\x00\x03llo\xce",
        b"AMQP\x00\x00\x09\x01",
    ];
    let lines = [
        said("2 content +5 persistent=true qos=None"),
        Line::Bytes(2, b"he".into()),
        said("heartbeat"),
        Line::Bytes(2, b"llo".into()),
        said("protocol header"),
    ];
    let heard = listen(Amqp::default(), [&stream.concat()[..]]);
    assert_eq!(heard, Transcript { lines: lines.into(), end: Ok(0) });
}

#[test]
fn bodies_are_not_collected() {
    let mut decoder = amqp::Decoder::default();
    let mut input = &b"\x03\x00\x01\xff\xff\xff\xffab"[..];
    let Ok(Some(amqp::Item::Body { channel: 1, bytes: b"ab" })) = decoder.next(&mut input) else {
        panic!("a piece of four gigabytes")
    };
    assert!(input.is_empty() && matches!(decoder.next(&mut input), Ok(None)));
}

#[test]
fn frames_that_are_refused() {
    for frame_type in (0..=255).filter(|t| !matches!(t, 1 | 2 | 3 | 8 | b'A')) {
        assert_eq!(end_of(&[frame_type]), Err(DecodeError::FrameType), "{frame_type}");
    }
    for frame_type in [1_u8, 2, 8] {
        let head = |size: u32| [&[frame_type, 0, 0][..], &size.to_be_bytes()].concat();
        assert_eq!(end_of(&head(MAX_COLLECTED - FRAME_OVERHEAD)), Ok(7));
        // A header's properties are the publisher's, so that such a message is passed over.
        let expected = if frame_type == 2 { Ok(7) } else { Err(DecodeError::FrameTooLarge) };
        assert_eq!(end_of(&head(MAX_COLLECTED - FRAME_OVERHEAD + 1)), expected);
        assert_eq!(end_of(&head(u32::MAX)), expected);
    }
    let ok = [
        frame(1, 0, b"\x00\x0a\x00\x33"),
        frame(2, 1, b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        frame(3, 1, b"x"),
        frame(3, 1, b""),
        frame(8, 0, b""),
    ];
    for mut bytes in ok {
        assert_eq!(end_of(&bytes), Ok(0));
        *bytes.last_mut().unwrap() = 0xcd;
        assert_eq!(end_of(&bytes), Err(DecodeError::FrameEnd), "{bytes:x?}");
    }
}

#[test]
fn methods_that_are_refused() {
    // Ours, secure, get, recover-ok, exchange.delete-ok, and no method at all.
    for id in
        [b"\0\x0a\0\x0b", b"\0\x0a\0\x14", b"\0\x3c\0\x46", b"\0\x3c\0\x6f", b"\0\x28\0\x15", b"\0\0\0\0"]
    {
        assert_eq!(end_of(&frame(1, 1, id)), Err(DecodeError::UnknownMethod), "{id:?}");
    }
}

#[test]
fn content_headers() {
    let header = |class: u8, weight: u8, flags: u16, properties: &[u8]| {
        let fixed = [0, class, 0, weight, 0, 0, 0, 0, 0, 0, 0, 9];
        let payload = [&fixed[..], &flags.to_be_bytes(), properties].concat();
        let Transcript { lines, end } = listen(Amqp::default(), [&frame(2, 1, &payload)[..]]);
        end.map(|_| lines)
    };
    let content = |rest: &str| Ok(vec![Line::Said(format!("1 content +9 {rest}"))]);
    assert_eq!(header(60, 0, 0, b""), content("persistent=false qos=None"));
    assert_eq!(header(60, 0, 1 << 12, b"\x02"), content("persistent=true qos=None"));
    assert_eq!(header(60, 0, 1 << 12, b"\x01"), content("persistent=false qos=None"));
    let all = b"\x02ct\x02ce\x00\x00\x00\x15\x12x-mqtt-publish-qosb\x01\x02\x09\x01c";
    assert_eq!(header(60, 0, 0xffe0, all), content("persistent=true qos=Some(1)"));
    // A publisher can set the bit that announces more flags, and RabbitMQ 3.10 passes it on without them.
    assert_eq!(header(60, 0, 1 << 12 | 1, b"\x02"), content("persistent=true qos=None"));
    // A publisher's table, malformed: its message has no QoS.
    assert_eq!(header(60, 0, 3 << 12, b"\x00\x00\x00\x01\x05\x02"), content("persistent=true qos=None"));
    for (class, weight, flags, properties, error) in
        [(50, 0, 0, &b""[..], DecodeError::ContentHeader), (60, 1, 0, b"", DecodeError::ContentHeader)]
    {
        assert_eq!(header(class, weight, flags, properties), Err(error), "{class} {weight} {flags:#x}");
    }
    // Properties that are not what their flags say cost the subscriber nothing but the message.
    for (flags, properties) in
        [(1 << 15, &b"\x01"[..]), (1 << 14, b""), (1 << 13, b"\x00\x00\x00\x01"), (1 << 12, b"")]
    {
        assert_eq!(header(60, 0, flags, properties), content("unreadable"), "{flags:#x}");
    }
}

/// `x-death` grows with each queue that a message has died in.
#[test]
fn a_header_that_is_too_large_is_passed_over_in_whatever_pieces_it_comes() {
    let fixed = b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x30\x00";
    let bytes =
        [frame(2, 1, &[&fixed[..], &vec![0xce; 200_000][..]].concat()), frame(3, 1, b"xy"), frame(8, 0, b"")]
            .concat();
    let whole = listen(Amqp::default(), [&bytes[..]]);
    assert_eq!(whole.end, Ok(0));
    assert_eq!(whole.lines.first(), Some(&Line::Said("1 content +2 unreadable".into())));
    for piece in [1, 7, 4096] {
        assert_eq!(listen(Amqp::default(), bytes.chunks(piece)).lines, whole.lines, "{piece}");
    }
}

#[test]
fn frames_to_a_broker() {
    let short = |text: &'static str| ShortStr::new(text.as_bytes()).unwrap();
    let (queue, exchange, routing_key) = (short("q"), short("x"), short("a.b"));
    let flags = QueueFlags { durable: true, exclusive: true, ..QueueFlags::default() };
    let arguments = QueueArguments {
        expires: Some(60_000),
        message_ttl: Some(0),
        max_length: Some(1),
        single_active_consumer: true,
        dead_letter: Some(DeadLetter { exchange, routing_key: Some(routing_key) }),
        max_priority: Some(2),
    };
    for (method, arguments) in [
        (
            ClientMethod::TuneOk { channel_max: 4, frame_max: 131_072, heartbeat: 60 },
            &b"\x00\x0a\x00\x1f\x00\x04\x00\x02\x00\x00\x00\x3c"[..],
        ),
        (ClientMethod::Open { vhost: short("/") }, b"\x00\x0a\x00\x28\x01/\x00\x00"),
        (
            ClientMethod::Close { reply_code: 200, reply_text: short("bye") },
            b"\x00\x0a\x00\x32\x00\xc8\x03bye\x00\x00\x00\x00",
        ),
        (ClientMethod::CloseOk, b"\x00\x0a\x00\x33"),
        (ClientMethod::ChannelOpen, b"\x00\x14\x00\x0a\x00"),
        (ClientMethod::ChannelFlow, b"\x00\x14\x00\x14\x01"),
        (ClientMethod::ChannelFlowOk { active: false }, b"\x00\x14\x00\x15\x00"),
        (ClientMethod::ChannelCloseOk, b"\x00\x14\x00\x29"),
        (
            ClientMethod::QueueDeclare { queue, flags, arguments },
            b"\x00\x32\x00\x0a\x00\x00\x01q\x06\x00\x00\x00\xe4\
              \x0cx-queue-typeS\x00\x00\x00\x07classic\
              \x09x-expiresl\x00\x00\x00\x00\x00\x00\xea\x60\
              \x0dx-message-ttll\x00\x00\x00\x00\x00\x00\x00\x00\
              \x0cx-max-lengthl\x00\x00\x00\x00\x00\x00\x00\x01\
              \x0ax-overflowS\x00\x00\x00\x09drop-head\
              \x0ex-max-priorityl\x00\x00\x00\x00\x00\x00\x00\x02\
              \x18x-single-active-consumert\x01\
              \x16x-dead-letter-exchangeS\x00\x00\x00\x01x\
              \x19x-dead-letter-routing-keyS\x00\x00\x00\x03a.b",
        ),
        (
            ClientMethod::QueueBind { queue, exchange, routing_key },
            b"\x00\x32\x00\x14\x00\x00\x01q\x01x\x03a.b\x00\x00\x00\x00\x00",
        ),
        (
            ClientMethod::QueueUnbind { queue, exchange, routing_key },
            b"\x00\x32\x00\x32\x00\x00\x01q\x01x\x03a.b\x00\x00\x00\x00",
        ),
        (
            ClientMethod::QueueDelete { queue, if_unused: false, if_empty: false },
            b"\x00\x32\x00\x28\x00\x00\x01q\x00",
        ),
        (
            ClientMethod::QueueDelete { queue, if_unused: true, if_empty: false },
            b"\x00\x32\x00\x28\x00\x00\x01q\x01",
        ),
        (
            ClientMethod::QueueDelete { queue, if_unused: false, if_empty: true },
            b"\x00\x32\x00\x28\x00\x00\x01q\x02",
        ),
        (
            ClientMethod::ExchangeDeclare { exchange },
            b"\x00\x28\x00\x0a\x00\x00\x01x\x06direct\x02\x00\x00\x00\x00",
        ),
        (ClientMethod::BasicGet { queue, no_ack: false }, b"\x00\x3c\x00\x46\x00\x00\x01q\x00"),
        (ClientMethod::BasicGet { queue, no_ack: true }, b"\x00\x3c\x00\x46\x00\x00\x01q\x01"),
        (
            ClientMethod::BasicNack { delivery_tag: 1 << 40, requeue: true },
            b"\x00\x3c\x00\x78\x00\x00\x01\x00\x00\x00\x00\x00\x02",
        ),
        (
            ClientMethod::BasicNack { delivery_tag: 1 << 40, requeue: false },
            b"\x00\x3c\x00\x78\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        ),
        (ClientMethod::TxRollback, b"\x00\x5a\x00\x1e"),
        (
            ClientMethod::BasicPublish { exchange, routing_key, mandatory: true },
            b"\x00\x3c\x00\x28\x00\x00\x01x\x03a.b\x01",
        ),
        (ClientMethod::BasicQos { prefetch_count: 10 }, b"\x00\x3c\x00\x0a\x00\x00\x00\x00\x00\x0a\x00"),
        (
            ClientMethod::BasicConsume { queue, consumer_tag: short("c"), no_ack: true, exclusive: true },
            b"\x00\x3c\x00\x14\x00\x00\x01q\x01c\x06\x00\x00\x00\x1a\x17x-cancel-on-ha-failovert\x01",
        ),
        (ClientMethod::BasicCancel { consumer_tag: short("c") }, b"\x00\x3c\x00\x1e\x01c\x00"),
        (
            ClientMethod::BasicPublish { exchange, routing_key, mandatory: false },
            b"\x00\x3c\x00\x28\x00\x00\x01x\x03a.b\x00",
        ),
        (
            ClientMethod::BasicAck { delivery_tag: 1 << 40 },
            b"\x00\x3c\x00\x50\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        ),
        (ClientMethod::ConfirmSelect, b"\x00\x55\x00\x0a\x00"),
        (ClientMethod::TxSelect, b"\x00\x5a\x00\x0a"),
        (ClientMethod::TxCommit, b"\x00\x5a\x00\x14"),
    ] {
        let mut out = Vec::new();
        method.encode(&mut out, 0x0203);
        assert_eq!(out, frame(1, 0x0203, arguments), "{:?}", method.id());
    }
    let mut out = Vec::new();
    let properties = Properties { persistent: true, ..Properties::default() };
    amqp::publish(&mut out, 1, Address { exchange, routing_key, mandatory: false }, properties, 3);
    amqp::body(&mut out, 1, 4096, b"abc");
    amqp::heartbeat(&mut out);
    let expected = [
        frame(1, 1, b"\x00\x3c\x00\x28\x00\x00\x01x\x03a.b\x00"),
        frame(2, 1, b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x10\x00\x02"),
        frame(3, 1, b"abc"),
        frame(8, 0, b""),
    ];
    assert_eq!(out, expected.concat());
    let mut out = Vec::new();
    let mqtt_headers = Some(MqttHeaders { publish_qos: 1, dup: true });
    Properties { mqtt_headers, ..Properties::default() }.encode(&mut out, 1, 0);
    let table = b"\x00\x00\x00\x22\x12x-mqtt-publish-qosb\x01\x0ax-mqtt-dupt\x01";
    let fixed = b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x30\x00";
    assert_eq!(out, frame(2, 1, &[&fixed[..], table, b"\x01"].concat()));
}

#[test]
fn bodies_are_cut_to_frame_max() {
    let frames = |size: usize| {
        let mut out = Vec::new();
        amqp::body(&mut out, 1, 4096, &vec![7; size]);
        out
    };
    assert_eq!(frames(0), b"", "no bytes, no frame");
    let full = frame(3, 1, &[7; 4088]);
    assert_eq!(frames(4088), full);
    assert_eq!(full.len(), 4096);
    assert_eq!(frames(4089), [&full[..], &frame(3, 1, &[7])].concat());
    assert_eq!(amqp::body_capacity(u32::MAX), u32::MAX as usize - 8);
}

#[test]
fn a_short_string_has_at_most_255_bytes() {
    assert_eq!(ShortStr::new(&[b'x'; 256]), None);
    let longest = [b'x'; 255];
    let key = ShortStr::new(&longest).unwrap();
    let mut out = Vec::new();
    ClientMethod::BasicPublish { exchange: ShortStr::EMPTY, routing_key: key, mandatory: false }
        .encode(&mut out, 1);
    assert_eq!(out, frame(1, 1, &[b"\x00\x3c\x00\x28\x00\x00\x00\xff", &longest[..], b"\x00"].concat()));
}
