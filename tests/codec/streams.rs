//! How a stream is cut never changes what comes out of it.

use core::fmt::Debug;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, basic};

use crate::amqp_oracle::{broker_methods, written};
use crate::mqtt_vectors::FROM_CLIENT;
use crate::transcript::{Amqp, Line, Mqtt, Side, Transcript, listen};

/// Sessions of clients: packets in a row, payloads none, short and long.
pub(crate) fn mqtt() -> Vec<Vec<u8>> {
    let every_packet: Vec<u8> = FROM_CLIENT.iter().flat_map(|(_, bytes, _)| *bytes).copied().collect();
    // A payload that looks like packets, and one whose length takes three bytes.
    let publishes = [
        &b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c"[..],
        b"\x30\x05\x00\x01t\xc0\x00",
        b"\x32\x07\x00\x01t\x00\x01\xe0\x00",
        b"\x30\x03\x00\x01t",
        b"\x30\x03\x00\x01t",
        b"\x34\x86\x80\x01\x00\x02\xc3\xa9\x00\x07",
        &[0x30; 16_384],
        b"\xc0\x00\xe0\x00",
    ]
    .concat();
    let old =
        b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00\x8a\x06\x00\x01\x00\x01#\x01\x6a\x02\x00\x01\xe0\x00";
    // Packets, then nonsense.
    let broken = b"\xc0\x00\x30\x04\x00\x01tx\x40\x02\x00\x01\x30\x03\x00\x01+\xc0\x00";
    vec![every_packet, publishes, old.into(), broken.into()]
}

fn delivery(bodies: &[&[u8]]) -> Vec<AMQPFrame> {
    let deliver = basic::Deliver {
        consumer_tag: "qos1".into(),
        delivery_tag: 1,
        routing_key: "a.b".into(),
        ..basic::Deliver::default()
    };
    let body_size = bodies.iter().map(|body| body.len() as u64).sum();
    let properties = basic::AMQPProperties::default().with_delivery_mode(2);
    let mut frames = vec![
        AMQPFrame::Method(2, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))),
        AMQPFrame::Header(2, AMQPContentHeader { class_id: 60, body_size, properties }),
    ];
    frames.extend(bodies.iter().map(|body| AMQPFrame::Body(2, body.to_vec())));
    frames
}

/// What brokers send: every method, bodies in one frame, in many, in empty ones and none at all, heartbeats anywhere.
pub(crate) fn amqp() -> Vec<Vec<u8>> {
    let methods = broker_methods().into_iter().map(|(method, _)| AMQPFrame::Method(1, method));
    let mut deliveries = [
        delivery(&[]),
        delivery(&[b""]),
        delivery(&[b"whole"]),
        delivery(&[b"in", b"", b"", b"several", b"\xce", b""]),
        delivery(&[&[0xce; 5000], &[8; 3000]]),
    ]
    .concat();
    for at in (0..deliveries.len()).step_by(3) {
        deliveries.insert(at, AMQPFrame::Heartbeat);
    }
    let mut broken = delivery(&[b"fine"]).iter().flat_map(written).collect::<Vec<_>>();
    broken.extend_from_slice(b"\x03\x00\x02\x00\x00\x00\x01x\xcf\x08");
    [methods.collect(), deliveries]
        .iter()
        .map(|frames: &Vec<AMQPFrame>| frames.iter().flat_map(written).collect())
        .chain([broken])
        .collect()
}

/// Whether `part` is what has been heard of `whole` at some moment.
fn is_start<E: Debug>(part: &Transcript<E>, whole: &Transcript<E>) -> bool {
    let Some((last, earlier)) = part.lines.split_last() else { return true };
    let same_last = match (last, whole.lines.get(earlier.len())) {
        (Line::Bytes(a, part), Some(Line::Bytes(b, whole))) => a == b && whole.starts_with(part),
        (last, other) => other == Some(last),
    };
    same_last && whole.lines.starts_with(earlier)
}

fn cut_everywhere<S: Side>(side: impl Fn() -> S, stream: &[u8]) {
    let whole = listen(side(), [stream]);
    assert_eq!(listen(side(), stream.chunks(1)), whole, "byte by byte");
    for size in [2, 3, 5, 7, 64, 1000] {
        assert_eq!(listen(side(), stream.chunks(size)), whole, "{size} bytes at a time");
    }
    for at in 0..stream.len() {
        let (head, tail) = stream.split_at(at);
        assert_eq!(listen(side(), [head, tail]), whole, "cut at {at}");
        let part = listen(side(), [head]);
        assert!(is_start(&part, &whole), "of the first {at} bytes: {part:?}");
        // The start of what is legal is never refused.
        assert!(part.end.is_ok() || whole.end.is_err(), "of the first {at} bytes: {:?}", part.end);
    }
}

#[test]
fn clients_streams_may_be_cut_anywhere() {
    for stream in mqtt() {
        cut_everywhere(Mqtt::new, &stream);
    }
}

#[test]
fn brokers_streams_may_be_cut_anywhere() {
    for stream in amqp() {
        cut_everywhere(Amqp::default, &stream);
    }
}

/// That the corpus is what it says, so that the tests above cannot pass on nothing.
#[test]
fn the_corpus_is_legal_to_its_end() {
    let heard: Vec<_> = mqtt().iter().map(|stream| listen(Mqtt::new(), [&stream[..]])).collect();
    let summary: Vec<_> = heard.iter().map(|t| (t.lines.len(), t.end)).collect();
    let broken = Err(leveret::mqtt::DecodeError::TopicName);
    assert_eq!(summary, [(FROM_CLIENT.len(), Ok(0)), (11, Ok(0)), (4, Ok(0)), (4, broken)]);
    let heard: Vec<_> = amqp().iter().map(|stream| listen(Amqp::default(), [&stream[..]])).collect();
    let summary: Vec<_> = heard.iter().map(|t| (t.lines.len(), t.end)).collect();
    let broken = Err(leveret::amqp::DecodeError::FrameEnd);
    assert_eq!(summary[0], (broker_methods().len(), Ok(0)));
    assert_eq!((summary[1].1, summary[2].1), (Ok(0), broken));
}
