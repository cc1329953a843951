//! Every MQTT packet, byte by byte. Where the standard has an example, it is that one.

use leveret::mqtt::encode::{self, Delivery, PublishHead};
use leveret::mqtt::{ConnectReturnCode, PacketId, SUBACK_FAILURE};

use crate::transcript::{Line, Mqtt, Transcript, listen, said};

/// A packet from a client, its section, and what it says.
pub(crate) const FROM_CLIENT: &[(&str, &[u8], &str)] = &[
    (
        "3.1.2.10, figure 3.6: user name, password, will QoS 1, clean session, keep alive 10",
        b"\x10\x1e\x00\x04MQTT\x04\xce\x00\x0a\x00\x02id\x00\x03w/t\x00\x02\xff\x00\x00\x01u\x00\x02p\x00",
        "CONNECT V311 clean=true keep_alive=10 id=\"id\" will=Some((AtLeastOnce, false, \"w/t\", [255, 0])) \
         username=Some(\"u\") password=Some([112, 0])",
    ),
    (
        "3.1.3.1: the least there is, no client identifier",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
        "CONNECT V311 clean=true keep_alive=0 id=\"\" will=None username=None password=None",
    ),
    (
        "3.1.2.6, 3.1.2.7: will QoS 0, retained, no payload; a user name alone",
        b"\x10\x14\x00\x04MQTT\x04\xa4\xff\xff\x00\x01i\x00\x01w\x00\x00\x00\x00",
        "CONNECT V311 clean=false keep_alive=65535 id=\"i\" will=Some((AtMostOnce, true, \"w\", [])) \
         username=Some(\"\") password=None",
    ),
    (
        "MQTT 3.1, section 3.1",
        b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01i",
        "CONNECT V31 clean=true keep_alive=60 id=\"i\" will=None username=None password=None",
    ),
    (
        "3.3.2.3, figure 3.11: a packet identifier, no payload",
        b"\x32\x07\x00\x03a/b\x00\x0a",
        "PUBLISH dup=false AtLeastOnce id=Some(10) retain=false \"a/b\" +0",
    ),
    ("3.3.1.3: retained", b"\x31\x03\x00\x01/", "PUBLISH dup=false AtMostOnce id=None retain=true \"/\" +0"),
    (
        "3.3.1.1: DUP",
        b"\x3c\x05\x00\x01t\xff\xff",
        "PUBLISH dup=true ExactlyOnce id=Some(65535) retain=false \"t\" +0",
    ),
    ("3.4", b"\x40\x02\x00\x01", "PUBACK 1"),
    ("3.5", b"\x50\x02\xff\xff", "PUBREC 65535"),
    ("3.6", b"\x62\x02\x01\x00", "PUBREL 256"),
    ("3.7", b"\x70\x02\x00\xff", "PUBCOMP 255"),
    (
        "3.8.3.1, figure 3.23",
        b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02",
        "SUBSCRIBE 10 [(\"a/b\", AtLeastOnce), (\"c/d\", ExactlyOnce)]",
    ),
    ("3.10.3.1, figure 3.32", b"\xa2\x0c\x00\x0a\x00\x03a/b\x00\x03c/d", "UNSUBSCRIBE 10 [\"a/b\", \"c/d\"]"),
    ("3.12", b"\xc0\x00", "PINGREQ"),
    ("3.14", b"\xe0\x00", "DISCONNECT"),
    ("2.2.3 asks for no shortest form", b"\xc0\x80\x80\x80\x00", "PINGREQ"),
];

#[test]
fn packets_from_a_client() {
    for &(section, bytes, text) in FROM_CLIENT {
        let expected = Transcript { lines: vec![said(text)], end: Ok(0) };
        assert_eq!(listen(Mqtt::new(), [bytes]), expected, "{section}");
        for end in 0..bytes.len() {
            let nothing = Transcript { lines: vec![], end: Ok(end) };
            assert_eq!(listen(Mqtt::new(), [&bytes[..end]]), nothing, "{section}: the first {end} bytes");
        }
    }
}

#[test]
fn a_payload_follows_its_head() {
    let heard = listen(Mqtt::new(), [&b"\x30\x05\x00\x01thi\xc0\x00"[..]]);
    let head = said("PUBLISH dup=false AtMostOnce id=None retain=false \"t\" +2");
    assert_eq!(heard.lines, [head, Line::Bytes(0, b"hi".to_vec()), said("PINGREQ")]);
}

#[test]
fn packets_to_a_client() {
    let id = |n| PacketId::new(n).unwrap();
    let head = PublishHead { delivery: Delivery::AtMostOnce, retain: false, topic: "a/b", payload_len: 3 };
    let delivery = Delivery::AtLeastOnce { packet_id: id(10), dup: true };
    let second = PublishHead { delivery, retain: true, ..head };
    type Write<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: &[(&str, Write<'_>, &[u8])] = &[
        ("3.2", &|out| encode::connack(out, false, ConnectReturnCode::Accepted), b"\x20\x02\x00\x00"),
        ("3.2.2.2", &|out| encode::connack(out, true, ConnectReturnCode::Accepted), b"\x20\x02\x01\x00"),
        (
            "table 3.1",
            &|out| encode::connack(out, false, ConnectReturnCode::NotAuthorized),
            b"\x20\x02\x00\x05",
        ),
        ("3.3, QoS 0", &|out| encode::publish(out, head), b"\x30\x08\x00\x03a/b"),
        ("3.3, QoS 1", &|out| encode::publish(out, second), b"\x3b\x0a\x00\x03a/b\x00\x0a"),
        (
            "2.2.3: 128 is two bytes",
            &|out| encode::publish(out, PublishHead { payload_len: 123, ..head }),
            b"\x30\x80\x01\x00\x03a/b",
        ),
        ("3.4", &|out| encode::puback(out, id(1)), b"\x40\x02\x00\x01"),
        ("3.5", &|out| encode::pubrec(out, id(0x1234)), b"\x50\x02\x12\x34"),
        ("3.7", &|out| encode::pubcomp(out, id(65535)), b"\x70\x02\xff\xff"),
        (
            "3.9.3, figure 3.26",
            &|out| encode::suback(out, id(10), [0, 2, SUBACK_FAILURE].into_iter()),
            b"\x90\x05\x00\x0a\x00\x02\x80",
        ),
        ("3.11", &|out| encode::unsuback(out, id(10)), b"\xb0\x02\x00\x0a"),
        ("3.13", &|out| encode::pingresp(out), b"\xd0\x00"),
    ];
    for (section, write, bytes) in cases {
        let mut out = b"before".to_vec();
        write(&mut out);
        assert_eq!(out.strip_prefix(b"before"), Some(*bytes), "{section}");
    }
}
