//! A device's bytes.

use leveret::Config;
use leveret::mqtt::{Connect, Decoder, Item, Packet, Publish, QoS};
use leveret::topic::{self, TopicMapping};
use serde_json::{Value, json};

use crate::{item, last, lossy, payload};

/// The packets in `bytes`, up to what is none.
pub(crate) fn packets(bytes: &[u8], config: &Config) -> Vec<Value> {
    let mut decoder = Decoder::new(config.limits.max_packet_size_unauthenticated);
    let (mut packets, mut input) = (Vec::new(), bytes);
    loop {
        let at = bytes.len() - input.len();
        match decoder.next(&mut input) {
            Ok(Some(Item::Packet(packet))) => {
                if let Packet::Connect(connect) = &packet {
                    decoder.set_version(connect.version, config.limits.max_packet_size_authenticated);
                }
                packets.push(item(at, fields(packet, config.topic_mapping)));
            }
            // Whatever there is of the payload is one piece.
            Ok(Some(Item::Payload { bytes, .. })) => {
                if let Some(Value::Object(publish)) = packets.last_mut() {
                    publish.insert("payload".to_owned(), payload(bytes));
                }
            }
            Ok(None) if input.is_empty() && !decoder.is_in_payload() => return packets,
            ended => {
                packets.push(last(at, input, ended.err().map(|error| error.to_string())));
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

/// A filter with the key that its queue is bound with, or what is wrong with it: that makes SUBACK's code 0x80.
fn filter(filter: &str, qos: Option<QoS>, topics: TopicMapping) -> Value {
    let mut key = Vec::new();
    let (group, own) = match topic::shared(filter) {
        Some(Ok((group, own))) => (Some(group), Ok(own)),
        Some(Err(error)) => (None, Err(error)),
        None => (None, Ok(filter)),
    };
    let bound = own.and_then(|own| topics.binding_key(own, &mut key));
    json!({
        "filter": filter,
        "qos": qos.map(|qos| qos as u8),
        "share_group": group,
        "binding_key": bound.is_ok().then(|| lossy(&key)),
        "error": bound.err().map(|error| error.to_string()),
    })
}

fn routing_key(topic: &str, topics: TopicMapping) -> Value {
    let mut key = Vec::new();
    topics.routing_key(topic, &mut key);
    lossy(&key)
}

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
        assert_eq!(read(publish, "")[0]["routing_key"], "a.b");
        assert_eq!(read(publish, r#"{ "topic_mapping": "reversible" }"#)[0]["routing_key"], "a+2Eb");
        let small = r#"{ "max_packet_size_unauthenticated": 128 }"#;
        let seen = read(&[b"\x30\x80\x01\0\x01a", &[0; 200][..]].concat(), small);
        assert_eq!(seen, [json!({ "at": 0, "error": "packet is larger than the limit" })]);
    }

    #[test]
    fn what_is_no_packet_ends_the_list() {
        let ping = json!({ "at": 0, "packet": "PINGREQ" });
        let after_ping = |bytes: &[u8]| read(&[b"\xc0\0", bytes].concat(), "").split_off(1);
        assert_eq!(read(b"\xc0\0", ""), [ping]);
        assert_eq!(
            after_ping(b"\x20\x02\0\0"),
            [json!({ "at": 2, "error": "packet type is reserved or a server's" })]
        );
        assert_eq!(after_ping(b"\x82\x05\0"), [json!({ "at": 2, "incomplete": 3 })]);
        let [publish, missing] = &after_ping(b"\x30\x05\0\x01ab")[..] else { panic!("two entries") };
        assert_eq!(publish["payload"], json!({ "length": 1, "text": "b" }));
        assert_eq!(*missing, json!({ "at": 8, "incomplete": 0 }));
    }
}
