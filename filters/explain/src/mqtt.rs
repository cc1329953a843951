//! A device's bytes.

use leveret::amqp::ShortStr;
use leveret::error::Misbehaved;
use leveret::mqtt::{Connect, Decoder, Item, Packet, Publish, QoS, Version};
use leveret::topic::{self, TopicMapping};
use leveret::{Config, Error};
use serde_json::{Value, json};

use crate::{MOST, error, incomplete, item, lossy, more, payload};

/// The packets in `bytes`, up to what is none.
pub(crate) fn packets(bytes: &[u8], config: &Config) -> Vec<Value> {
    if bytes.starts_with(TLS) {
        return vec![json!({ "at": 0, "error": "TLS, of which nothing can be read" })];
    }
    let limits = &config.limits;
    let mut decoder = Decoder::new(limits.max_packet_size_unauthenticated);
    let mut packets = Vec::new();
    if bytes.first().is_some_and(|first| first >> 4 != CONNECT) {
        // MQTT 3.1 allows all that 3.1.1 does.
        decoder.set_version(Version::V31, limits.max_packet_size_authenticated);
        packets.push(json!({ "at": 0, "note": "no CONNECT: as from the middle of a connection" }));
    }
    let mut input = bytes;
    let mut payload_left = 0;
    loop {
        let at = bytes.len() - input.len();
        if packets.len() >= MOST && payload_left == 0 && !input.is_empty() {
            packets.push(more(at, input));
            return packets;
        }
        match decoder.next(&mut input) {
            Ok(Some(Item::Packet(Packet::Connect(_)))) if at > 0 => {
                packets.push(error(at, Error::Misbehaved(Misbehaved::SecondConnect)));
                return packets;
            }
            Ok(Some(Item::Packet(packet))) => {
                match &packet {
                    Packet::Connect(it) => {
                        decoder.set_version(it.version, limits.max_packet_size_authenticated);
                    }
                    Packet::Publish(it) => payload_left = it.payload_len as usize,
                    // Behind it nothing counts. [MQTT-3.14.4-2]
                    Packet::Disconnect if !input.is_empty() => {
                        packets
                            .push(json!({ "at": at, "packet": "DISCONNECT", "bytes_ignored": input.len() }));
                        return packets;
                    }
                    _ => {}
                }
                packets.push(item(at, fields(packet, config.topic_mapping)));
            }
            // Whatever there is of the payload is one piece.
            Ok(Some(Item::Payload { bytes, .. })) => {
                payload_left -= bytes.len();
                if let Some(Value::Object(publish)) = packets.last_mut() {
                    publish.insert("payload".to_owned(), payload(bytes));
                }
            }
            Ok(None) => {
                if payload_left > 0 {
                    packets.push(json!({ "at": at, "payload_missing": payload_left }));
                } else if !input.is_empty() {
                    packets.push(incomplete(at, input));
                }
                return packets;
            }
            Err(malformed) => {
                packets.push(error(at, Error::Malformed(malformed)));
                return packets;
            }
        }
    }
}

fn fields(packet: Packet<'_>, topics: TopicMapping) -> Value {
    let acknowledgement = |packet: &str, id| json!({ "packet": packet, "packet_id": id });
    match packet {
        Packet::Connect(it) => connect(&it, topics),
        Packet::Publish(it) => publish(&it, topics),
        Packet::Puback(id) => acknowledgement("PUBACK", id),
        Packet::Pubrec(id) => acknowledgement("PUBREC", id),
        Packet::Pubrel(id) => acknowledgement("PUBREL", id),
        Packet::Pubcomp(id) => acknowledgement("PUBCOMP", id),
        Packet::Subscribe(it) => json!({
            "packet": "SUBSCRIBE",
            "packet_id": it.packet_id,
            "filters": it.entries.map(|(it, qos)| filter(it, Some(qos), topics)).collect::<Vec<_>>(),
        }),
        Packet::Unsubscribe(it) => json!({
            "packet": "UNSUBSCRIBE",
            "packet_id": it.packet_id,
            "filters": it.filters.map(|it| filter(it, None, topics)).collect::<Vec<_>>(),
        }),
        Packet::Pingreq => json!({ "packet": "PINGREQ" }),
        Packet::Disconnect => json!({ "packet": "DISCONNECT" }),
    }
}

/// All but the password, of which there is the length.
fn connect(connect: &Connect<'_>, topics: TopicMapping) -> Value {
    let will = connect.will.as_ref().map(|will| {
        json!({
            "topic": will.topic,
            "routing_key": routing_key(will.topic, topics),
            "qos": will.qos as u8,
            "retain": will.retain,
            "payload": payload(will.payload),
        })
    });
    json!({
        "packet": "CONNECT",
        "version": connect.version.label(),
        "client_id": connect.client_id,
        "clean_session": connect.clean_session,
        "keep_alive": connect.keep_alive,
        "username": connect.username,
        "password_length": connect.password.map(<[u8]>::len),
        "will": will,
    })
}

fn publish(publish: &Publish<'_>, topics: TopicMapping) -> Value {
    json!({
        "packet": "PUBLISH",
        "topic": publish.topic,
        "routing_key": routing_key(publish.topic, topics),
        "qos": publish.qos as u8,
        "dup": publish.dup,
        "retain": publish.retain,
        "packet_id": publish.packet_id,
        "payload_length": publish.payload_len,
    })
}

/// A filter with the key that a queue is bound with; with `error`, a SUBSCRIBE of it is answered with 0x80.
fn filter(filter: &str, qos: Option<QoS>, topics: TopicMapping) -> Value {
    let (group, own) = match topic::shared(filter) {
        Some(Ok((group, own))) => (Some(group), Ok(own)),
        Some(Err(error)) => (None, Err(error)),
        None => (None, Ok(filter)),
    };
    let mut key = Vec::new();
    let bound = own.and_then(|own| topics.binding_key(own, &mut key)).map_err(|error| error.to_string());
    // A group is in the name of its queue.
    let bound = bound.and_then(|()| short(group.unwrap_or_default().as_bytes())).and_then(|_| short(&key));
    json!({
        "filter": filter,
        "qos": qos.map(|qos| qos as u8),
        "share_group": group,
        "binding_key": bound.as_ref().ok(),
        "error": bound.as_ref().err(),
    })
}

/// With an error in its place, the client is closed.
fn routing_key(topic: &str, topics: TopicMapping) -> Value {
    let mut key = Vec::new();
    topics.routing_key(topic, &mut key);
    short(&key).unwrap_or_else(|error| json!({ "error": error }))
}

fn short(key: &[u8]) -> Result<Value, String> {
    let key = ShortStr::new(key).ok_or("longer than the 255 bytes of a key")?;
    Ok(lossy(key.as_bytes()))
}

/// A packet type, section 2.2.1.
const CONNECT: u8 = 1;
/// How a TLS connection begins: a handshake record, RFC 8446 section 5.1.
const TLS: &[u8] = &[22, 3];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], configuration: &str) -> Vec<Value> {
        packets(bytes, &Config::from_json(configuration.as_bytes()).unwrap())
    }

    #[test]
    fn a_connection_s_packets_are_told_with_their_keys() {
        let bytes = [
            &b"\x10\x27\0\x04MQTT\x04\xee\0\x3c\0\x02c1\0\x06will/t\0\x04gone\0\x01u\0\x06secret"[..],
            b"\x82\x1c\0\x01\0\x03a/+\x01\0\x0c$share/g/b/#\0\0\x02x+\0",
            b"\x3b\x08\0\x03a/b\0\x02\xff",
            b"\xc0\0",
        ];
        let seen = read(&bytes.concat(), "");
        let text = Value::from(seen.clone()).to_string();
        assert!(!text.contains("secret"), "{text}");
        let [connect, subscribe, publish, ping] = &seen[..] else { panic!("{text}") };
        assert_eq!(
            *connect,
            json!({ "at": 0, "packet": "CONNECT", "version": "MQTT 3.1.1", "client_id": "c1", "clean_session": true,
                "keep_alive": 60, "username": "u", "password_length": 6,
                "will": { "topic": "will/t", "routing_key": "will.t", "qos": 1, "retain": true,
                    "payload": { "length": 4, "text": "gone" } } })
        );
        assert_eq!(subscribe["filters"][0]["binding_key"], "a.*");
        assert_eq!(
            (&subscribe["filters"][1]["share_group"], &subscribe["filters"][1]["binding_key"]),
            (&json!("g"), &json!("b.#"))
        );
        assert_eq!(subscribe["filters"][2]["error"], "filter has a wildcard that is not a level of its own");
        assert_eq!(
            (&publish["dup"], &publish["qos"], &publish["packet_id"]),
            (&json!(true), &json!(1), &json!(2))
        );
        assert_eq!(publish["payload"], json!({ "length": 1, "hex": "ff" }));
        assert_eq!(ping["packet"], "PINGREQ");
    }

    #[test]
    fn the_configuration_s_topics_and_limits_hold() {
        let publish = b"\x30\x05\0\x03a.b";
        assert_eq!(read(publish, "")[1]["routing_key"], "a.b");
        assert_eq!(read(publish, r#"{ "topic_mapping": "reversible" }"#)[1]["routing_key"], "a+2Eb");
        let small = r#"{ "max_packet_size_unauthenticated": 128 }"#;
        let seen = read(&[b"\x30\x80\x01\0\x01a", &[0; 125][..]].concat(), small);
        assert!(seen.iter().all(|entry| entry["error"].is_null()), "in the middle of a connection: {seen:?}");
        let mut connect = b"\x10\x80\x01\0\x04MQTT\x04\x02\0\0\0\x74".to_vec();
        connect.resize(131, b'c');
        assert_eq!(read(&connect, "")[0]["packet"], "CONNECT");
        assert_eq!(
            read(&connect, small),
            [json!({ "at": 0, "error": "client: malformed packet: packet is larger than the limit" })]
        );
    }

    #[test]
    fn what_is_no_packet_ends_the_list() {
        let connect = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0";
        let after_connect = |bytes: &[u8]| read(&[connect, bytes].concat(), "").split_off(1);
        assert_eq!(after_connect(b""), [Value::Null; 0]);
        assert_eq!(
            after_connect(b"\x20\x02\0\0"),
            [json!({ "at": 14, "error": "client: malformed packet: packet type is reserved or a server's" })]
        );
        assert_eq!(after_connect(connect), [json!({ "at": 14, "error": "client: second CONNECT" })]);
        assert_eq!(after_connect(b"\x82\x05\0"), [json!({ "at": 14, "incomplete": 3 })]);
        assert_eq!(
            after_connect(b"\xe0\0\xff"),
            [json!({ "at": 14, "packet": "DISCONNECT", "bytes_ignored": 1 })]
        );
        let [publish, missing] = &after_connect(b"\x30\x05\0\x01ab")[..] else { panic!("two entries") };
        assert_eq!(publish["payload"], json!({ "length": 1, "text": "b" }));
        assert_eq!(*missing, json!({ "at": 20, "payload_missing": 1 }));
        assert_eq!(
            read(b"\x16\x03\x01", ""),
            [json!({ "at": 0, "error": "TLS, of which nothing can be read" })]
        );
    }

    #[test]
    fn a_list_has_an_end() {
        let seen = read(&[0xc0, 0].repeat(MOST + 1), "");
        assert_eq!(seen.len(), MOST + 1);
        assert_eq!(seen[MOST]["note"], "10000 are told; 4 bytes are left");
    }

    #[test]
    fn the_middle_of_a_connection_is_said_to_be_that() {
        let [note, pubrel] = &read(b"\x6a\x02\0\x05", "")[..] else { panic!("two entries") };
        assert!(note["note"].is_string());
        assert_eq!((&pubrel["packet"], &pubrel["packet_id"]), (&json!("PUBREL"), &json!(5)));
    }

    #[test]
    fn keys_that_grow_too_long_are_told() {
        let reversible = r#"{ "topic_mapping": "reversible" }"#;
        let dots = ".".repeat(100);
        let publish = [&b"\x30\x66\0\x64"[..], dots.as_bytes()].concat();
        let subscribe = [&b"\x82\x69\0\x01\0\x64"[..], dots.as_bytes(), b"\0"].concat();
        assert_eq!(
            read(&publish, reversible)[1]["routing_key"]["error"],
            "longer than the 255 bytes of a key"
        );
        let seen = read(&subscribe, reversible);
        assert_eq!(seen[1]["filters"][0]["error"], "longer than the 255 bytes of a key");
        assert_eq!(read(&subscribe, "")[1]["filters"][0]["binding_key"], *dots);
    }
}
