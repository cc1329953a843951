//! What the decoder refuses, clause by clause, each beside the nearest packet that is legal.

use std::collections::BTreeSet;

use leveret::mqtt::{DecodeError, MAX_COLLECTED, Version};

use crate::transcript::{Mqtt, listen};

/// A packet of these bytes behind its remaining length.
fn packet(first: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = vec![first];
    let mut length = body.len();
    while length >= 128 {
        bytes.push((length % 128) as u8 | 128);
        length /= 128;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(body);
    bytes
}

fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u16).to_be_bytes(), text].concat()
}

fn publish(topic: impl AsRef<[u8]>) -> Vec<u8> {
    packet(0x30, string(topic))
}

fn connect(name: &str, level: u8, flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().map(string).collect();
    packet(0x10, [&string(name)[..], &[level, flags, 0, 0], &fields.concat()].concat())
}

fn connect_311(flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    connect("MQTT", 4, flags, fields)
}

fn subscribe(rest: impl AsRef<[u8]>) -> Vec<u8> {
    packet(0x82, [b"\x00\x01", rest.as_ref()].concat())
}

fn unsubscribe(rest: impl AsRef<[u8]>) -> Vec<u8> {
    packet(0xa2, [b"\x00\x01", rest.as_ref()].concat())
}

/// A clause, a packet that breaks it and how that is called, its neighbour that does not.
type Clause = (&'static str, Vec<u8>, DecodeError, Vec<u8>);

fn clauses() -> Vec<Clause> {
    use DecodeError as E;
    let long = |n| "x".repeat(n);
    vec![
        // Framing.
        ("2.2.1 reserved", b"\x00\x00".into(), E::PacketType, b"\xc0\x00".into()),
        ("2.2.1 reserved", b"\xf0\x00".into(), E::PacketType, b"\xe0\x00".into()),
        ("2.2.1 CONNACK is a server's", b"\x20\x02\x00\x00".into(), E::PacketType, connect_311(2, &[b""])),
        ("2.2.1 SUBACK", b"\x90\x03\x00\x01\x00".into(), E::PacketType, subscribe(b"\x00\x01a\x00")),
        ("2.2.1 UNSUBACK", b"\xb0\x02\x00\x01".into(), E::PacketType, unsubscribe(b"\x00\x01a")),
        ("2.2.1 PINGRESP", b"\xd0\x00".into(), E::PacketType, b"\xc0\x00".into()),
        (
            "2.2.3 at most four bytes",
            b"\xc0\x80\x80\x80\x80".into(),
            E::RemainingLength,
            b"\xc0\x80\x80\x80\x00".into(),
        ),
        // Fields against the remaining length.
        ("3.12.1 PINGREQ", packet(0xc0, [0]), E::Length, packet(0xc0, [])),
        ("3.14.1 DISCONNECT", packet(0xe0, [0]), E::Length, packet(0xe0, [])),
        ("3.4.1 PUBACK, short", packet(0x40, [1]), E::Length, packet(0x40, [0, 1])),
        ("3.4.1 PUBACK, long", packet(0x40, [0, 1, 0]), E::Length, packet(0x40, [0, 1])),
        ("3.5.1 PUBREC", packet(0x50, [0, 1, 0]), E::Length, packet(0x50, [0, 1])),
        ("3.6.1 PUBREL", packet(0x62, []), E::Length, packet(0x62, [0, 1])),
        ("3.7.1 PUBCOMP", packet(0x70, [0, 1, 0]), E::Length, packet(0x70, [0, 1])),
        ("3.3 PUBLISH without a topic's length", packet(0x30, [0]), E::Length, publish("t")),
        ("3.3 PUBLISH, topic past the end", packet(0x30, b"\x00\x02t"), E::Length, publish("t")),
        (
            "3.3 PUBLISH, no room for the packet identifier",
            packet(0x32, b"\x00\x01t\x00"),
            E::Length,
            packet(0x32, b"\x00\x01t\x00\x01"),
        ),
        ("3.8.3 filter without QoS", subscribe(b"\x00\x01a"), E::Length, subscribe(b"\x00\x01a\x00")),
        ("3.8.3 filter cut off", subscribe(b"\x00\x02a"), E::Length, subscribe(b"\x00\x02ab\x00")),
        ("3.10.3 filter cut off", unsubscribe(b"\x00\x02a"), E::Length, unsubscribe(b"\x00\x02ab")),
        (
            "3.10.3 half a length",
            unsubscribe(b"\x00\x01a\x00"),
            E::Length,
            unsubscribe(b"\x00\x01a\x00\x01b"),
        ),
        ("MQTT-3.1.3-1 no client identifier", connect_311(2, &[]), E::Length, connect_311(2, &[b""])),
        ("MQTT-3.1.2-19 user name", connect_311(0x82, &[b""]), E::Length, connect_311(0x82, &[b"", b"u"])),
        ("MQTT-3.1.2-18 no user name", connect_311(2, &[b"", b"u"]), E::Length, connect_311(2, &[b""])),
        (
            "MQTT-3.1.2-21 password",
            connect_311(0xc2, &[b"", b"u"]),
            E::Length,
            connect_311(0xc2, &[b"", b"u", b"p"]),
        ),
        (
            "MQTT-3.1.2-20 no password",
            connect_311(0x82, &[b"", b"u", b"p"]),
            E::Length,
            connect_311(0x82, &[b"", b"u"]),
        ),
        (
            "MQTT-3.1.2-9 will without payload",
            connect_311(6, &[b"", b"w"]),
            E::Length,
            connect_311(6, &[b"", b"w", b""]),
        ),
        // Flags of a value.
        ("MQTT-3.3.1-4", packet(0x36, b"\x00\x01t\x00\x01"), E::QoS, packet(0x34, b"\x00\x01t\x00\x01")),
        ("MQTT-3.8.3-4 QoS 3", subscribe(b"\x00\x01a\x03"), E::QoS, subscribe(b"\x00\x01a\x02")),
        ("MQTT-3.8.3-4 reserved bits", subscribe(b"\x00\x01a\x04"), E::QoS, subscribe(b"\x00\x01a\x00")),
        (
            "MQTT-3.8.3-4 behind a legal one",
            subscribe(b"\x00\x01a\x00\x00\x01b\x80"),
            E::QoS,
            subscribe(b"\x00\x01a\x00\x00\x01b\x01"),
        ),
        ("MQTT-3.1.2-14", connect_311(0x1e, &[b"", b"w", b""]), E::QoS, connect_311(0x16, &[b"", b"w", b""])),
        ("MQTT-3.3.1-2", packet(0x38, b"\x00\x01t"), E::Dup, packet(0x3a, b"\x00\x01t\x00\x01")),
        // Packet identifiers.
        (
            "MQTT-2.3.1-1 PUBLISH",
            packet(0x32, b"\x00\x01t\0\0"),
            E::PacketId,
            packet(0x32, b"\x00\x01t\0\x01"),
        ),
        ("MQTT-2.3.1-1 SUBSCRIBE", packet(0x82, b"\0\0\0\x01a\0"), E::PacketId, subscribe(b"\0\x01a\0")),
        ("MQTT-2.3.1-1 UNSUBSCRIBE", packet(0xa2, b"\0\0\0\x01a"), E::PacketId, unsubscribe(b"\0\x01a")),
        ("2.3.1 PUBACK", packet(0x40, [0, 0]), E::PacketId, packet(0x40, [0, 1])),
        ("2.3.1 PUBREC", packet(0x50, [0, 0]), E::PacketId, packet(0x50, [1, 0])),
        ("2.3.1 PUBREL", packet(0x62, [0, 0]), E::PacketId, packet(0x62, [1, 0])),
        ("2.3.1 PUBCOMP", packet(0x70, [0, 0]), E::PacketId, packet(0x70, [1, 0])),
        // Strings.
        ("MQTT-1.5.3-1 surrogate", publish(b"\xed\xa0\x80"), E::Utf8, publish(b"\xed\x9f\xbf")),
        ("MQTT-1.5.3-1 overlong", publish(b"\xc0\xaf"), E::Utf8, publish(b"/")),
        ("MQTT-1.5.3-1 past U+10FFFF", publish(b"\xf4\x90\x80\x80"), E::Utf8, publish("\u{10fffd}")),
        ("MQTT-1.5.3-1 cut off", publish(b"\xc3"), E::Utf8, publish("é")),
        ("MQTT-1.5.3-2", publish("a\0"), E::Utf8, publish("a\u{1}")),
        ("MQTT-1.5.3-2 beside others", publish("é\0"), E::Utf8, publish("é\u{7f}")),
        ("1.5.3 MAY: non-character", publish("\u{ffff}"), E::Utf8, publish("\u{fffd}")),
        ("1.5.3 MAY: non-character", publish("\u{1fffe}"), E::Utf8, publish("\u{1fffd}")),
        ("1.5.3 MAY: non-character", publish("\u{fdd0}"), E::Utf8, publish("\u{fdcf}")),
        ("1.5.3 MAY: non-character", publish("\u{fdef}"), E::Utf8, publish("\u{fdf0}")),
        ("MQTT-1.5.3-3 U+FEFF is a character", publish("\0\u{feff}"), E::Utf8, publish("\u{feff}")),
        ("MQTT-3.1.3-4", connect_311(2, &[b"\xff"]), E::Utf8, connect_311(2, &["é".as_bytes()])),
        ("MQTT-3.1.3-10", connect_311(6, &[b"", b"\0", b"\0"]), E::Utf8, connect_311(6, &[b"", b"w", b"\0"])),
        ("MQTT-3.1.3-11", connect_311(0x82, &[b"", b"\0"]), E::Utf8, connect_311(0x82, &[b"", b"u"])),
        ("MQTT-3.8.3-1", subscribe(b"\x00\x01\xff\x00"), E::Utf8, subscribe(b"\x00\x01+\x00")),
        ("MQTT-3.10.3-1", unsubscribe(b"\x00\x01\xff"), E::Utf8, unsubscribe(b"\x00\x01#")),
        // Topics.
        ("MQTT-4.7.3-1", publish(""), E::TopicName, publish(" ")),
        ("MQTT-3.3.2-2", publish("a/+"), E::TopicName, publish("a/*")),
        ("MQTT-3.3.2-2", publish("a#"), E::TopicName, publish("a$")),
        (
            "MQTT-4.7.1-1 will",
            connect_311(6, &[b"", b"#", b""]),
            E::TopicName,
            connect_311(6, &[b"", b"w", b""]),
        ),
        (
            "MQTT-4.7.3-1 will",
            connect_311(6, &[b"", b"", b""]),
            E::TopicName,
            connect_311(6, &[b"", b"/", b""]),
        ),
        ("MAX_TOPIC", publish(long(256)), E::TopicTooLong, publish(long(255))),
        (
            "MAX_TOPIC, will",
            connect_311(6, &[b"", long(256).as_bytes(), b""]),
            E::TopicTooLong,
            connect_311(6, &[b"", long(255).as_bytes(), b""]),
        ),
        ("MQTT-3.8.3-3", subscribe(b""), E::NoFilter, subscribe(b"\x00\x01a\x00")),
        ("MQTT-3.10.3-2", unsubscribe(b""), E::NoFilter, unsubscribe(b"\x00\x01a")),
        ("MQTT-4.7.3-1", subscribe(b"\0\x01a\0\0\0\0"), E::NoFilter, subscribe(b"\0\x01a\0\0\x01b\0")),
        ("MQTT-4.7.3-1", unsubscribe(b"\0\x01a\0\0"), E::NoFilter, unsubscribe(b"\0\x01a\0\x01b")),
        ("MQTT-2.2.2-2 CONNECT", with_flags(4, connect_311(2, &[b"i"])), E::Flags, connect_311(2, &[b"i"])),
        // CONNECT's head.
        ("MQTT-3.1.2-1", connect("mqtt", 4, 2, &[b""]), E::ProtocolName, connect_311(2, &[b""])),
        ("MQTT-3.1.2-2 MQTT 5", connect("MQTT", 5, 2, &[b""]), E::ProtocolLevel, connect_311(2, &[b""])),
        ("MQTT-3.1.2-2", connect("MQTT", 3, 2, &[b""]), E::ProtocolLevel, connect("MQIsdp", 3, 2, &[b""])),
        ("MQTT-3.1.2-2", connect("MQIsdp", 4, 2, &[b""]), E::ProtocolLevel, connect("MQIsdp", 3, 2, &[b""])),
        ("MQTT-3.1.2-3", connect_311(3, &[b""]), E::ReservedFlag, connect_311(2, &[b""])),
        ("MQTT-3.1.2-11 QoS", connect_311(0x0a, &[b""]), E::WillFlags, connect_311(0x0e, &[b"", b"w", b""])),
        ("MQTT-3.1.2-13", connect_311(0x12, &[b""]), E::WillFlags, connect_311(0x16, &[b"", b"w", b""])),
        ("MQTT-3.1.2-15", connect_311(0x22, &[b""]), E::WillFlags, connect_311(0x26, &[b"", b"w", b""])),
        (
            "MQTT-3.1.2-22",
            connect_311(0x42, &[b"", b"p"]),
            E::PasswordWithoutUsername,
            connect_311(0xc2, &[b"", b"", b"p"]),
        ),
        // Size.
        (
            "MAX_COLLECTED",
            subscribe(filters(MAX_COLLECTED as usize - 1)),
            E::PacketTooLarge,
            subscribe(filters(MAX_COLLECTED as usize - 2)),
        ),
    ]
}

/// Entries of a SUBSCRIBE that make `len` bytes.
fn filters(len: usize) -> Vec<u8> {
    let mut entries = Vec::new();
    while entries.len() < len {
        // Never leaves less than an entry of one character would take.
        let filter = (len - entries.len() - 3).min(1000);
        let filter = if len - entries.len() - 3 - filter < 4 { len - entries.len() - 3 } else { filter };
        entries.extend([string("f".repeat(filter)), vec![0]].concat());
    }
    entries
}

#[test]
fn each_clause_and_its_legal_neighbour() {
    let mut variants = BTreeSet::new();
    for (clause, bad, error, good) in clauses() {
        assert_eq!(listen(Mqtt::new(), [&bad[..]]).end, Err(error), "{clause}");
        assert_eq!(listen(Mqtt::new(), bad.chunks(1)).end, Err(error), "{clause}, byte by byte");
        let heard = listen(Mqtt::new(), [&good[..]]);
        assert_eq!((heard.lines.len(), heard.end), (1, Ok(0)), "{clause}: the neighbour");
        variants.insert(format!("{error:?}"));
    }
    assert_eq!(variants.len(), 17, "{variants:?}");
}

/// What 3.1 says of flags that it has no use for.
const ANY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The same packet with these flags in its fixed header.
fn with_flags(flags: u8, mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] |= flags;
    packet
}

/// Table 2.2, all of it. [MQTT-2.2.2-1] [MQTT-2.2.2-2]
#[test]
fn flags_of_the_fixed_header() {
    for (packet_type, legal_311, legal_31) in [
        // Which version it is, the packet says.
        (0x10, &ANY[..], &ANY[..]),
        (0x40, &[0], &ANY),
        (0x50, &[0], &ANY),
        (0x60, &[2], &[2, 3, 10, 11]),
        (0x70, &[0], &ANY),
        (0x80, &[2], &[2, 3, 10, 11]),
        (0xa0, &[2], &[2, 3, 10, 11]),
        (0xc0, &[0], &ANY),
        (0xe0, &[0], &ANY),
    ] {
        for (version, legal) in [(Version::V311, legal_311), (Version::V31, legal_31)] {
            for flags in 0..16 {
                // Judged on the first byte alone.
                let expected = if legal.contains(&flags) { Ok(1) } else { Err(DecodeError::Flags) };
                let heard = listen(Mqtt::new().speaking(version), [&[packet_type | flags][..]]);
                assert_eq!(heard.end, expected, "{packet_type:#x} with {flags:#06b} in {version:?}");
            }
        }
    }
}

#[test]
fn what_mqtt_3_1_allows() {
    let old = |flags, fields: &[&[u8]]| connect("MQIsdp", 3, flags, fields);
    for (what, bytes, in_311) in [
        (
            "flags of CONNECT's fixed header",
            with_flags(4, old(2, &[b"i"])),
            with_flags(4, connect_311(2, &[b"i"])),
        ),
        ("an unused CONNECT flag", old(3, &[b"i"]), connect_311(3, &[b"i"])),
        ("a password alone, left to admission", old(0x42, &[b"i", b"p"]), connect_311(0x42, &[b"i", b"p"])),
    ] {
        assert_eq!(listen(Mqtt::new(), [&bytes[..]]).end, Ok(0), "{what}");
        assert!(listen(Mqtt::new(), [&in_311[..]]).end.is_err(), "{what}, in 3.1.1");
    }
    let repeated = [packet(0x6a, [0, 1]), packet(0x8a, b"\0\x01\0\x01a\0"), packet(0xaa, b"\0\x01\0\x01a")];
    for again in repeated {
        let session = [&old(2, &[b"i"])[..], &again].concat();
        let heard = listen(Mqtt::new(), [&session[..]]);
        assert_eq!((heard.lines.len(), heard.end), (2, Ok(0)), "CONNECT decides for what follows it");
        let session = [&connect_311(2, &[b"i"])[..], &again].concat();
        assert_eq!(listen(Mqtt::new(), [&session[..]]).end, Err(DecodeError::Flags));
    }
    // What 3.1.1 refuses besides, 3.1 refuses as well.
    let will_without_will = old(0x22, &[b"i"]);
    assert_eq!(listen(Mqtt::new(), [&will_without_will[..]]).end, Err(DecodeError::WillFlags));
}

#[test]
fn the_limit_counts_the_whole_packet_and_is_judged_on_its_head() {
    let legal = packet(0x30, b"\x00\x01t1234");
    let size = legal.len() as u32;
    assert_eq!(listen(Mqtt::limited(size), [&legal[..]]).end, Ok(0));
    for bytes in [&legal[..], &legal[..2]] {
        assert_eq!(listen(Mqtt::limited(size - 1), [bytes]).end, Err(DecodeError::PacketTooLarge));
    }
    let largest = b"\x30\xff\xff\xff\x7f\x00\x01t";
    assert_eq!(listen(Mqtt::limited(268_435_460), [&largest[..]]).end, Ok(0));
    assert_eq!(listen(Mqtt::limited(268_435_459), [&largest[..]]).end, Err(DecodeError::PacketTooLarge));
}

#[test]
fn an_error_stays() {
    let mut decoder = leveret::mqtt::Decoder::new(100);
    let bytes = b"\xc0\x00\xff\xc0\x00";
    let mut input = &bytes[..];
    assert!(matches!(decoder.next(&mut input), Ok(Some(_))));
    for _ in 0..2 {
        assert!(matches!(decoder.next(&mut input), Err(DecodeError::PacketType)));
        assert_eq!(input, &bytes[2..], "nothing is skipped");
    }
}
