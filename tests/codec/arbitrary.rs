//! What holds for bytes of any kind.

use leveret::amqp::{self, MqttHeaders, PUBLISH_QOS, Properties, ShortStr, Table, Value};
use leveret::mqtt::encode::{self, Delivery, PublishHead};
use leveret::mqtt::{self, MAX_REMAINING_LENGTH, PacketId, QoS, Version};
use leveret::topic::TopicMapping;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::streams;
use crate::transcript::{Amqp, Line, Mqtt, Side, listen};

// Neither decoder nor anything that it gives out owns memory, so none can be made to hold more than its input.
const _: () = assert!(!core::mem::needs_drop::<mqtt::Decoder>() && !core::mem::needs_drop::<amqp::Decoder>());
const _: () =
    assert!(!core::mem::needs_drop::<mqtt::Item<'_>>() && !core::mem::needs_drop::<amqp::Item<'_>>());

/// Legal streams in which some bytes are changed, and plain noise.
fn spoilt(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let corpus: Vec<_> = corpus.into_iter().map(|stream| stream[..stream.len().min(600)].to_vec()).collect();
    let spoilt = (select(corpus), vec((any::<Index>(), any::<u8>()), 0..4), any::<Index>()).prop_map(
        |(mut stream, changes, start)| {
            for (at, byte) in changes {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            stream.rotate_left(start.index(8));
            stream
        },
    );
    prop_oneof![3 => spoilt, 1 => vec(any::<u8>(), 0..200)]
}

/// Places at which to cut, as parts of the length.
fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..12)
}

fn pieces<'a>(stream: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    at.windows(2).map(|w| &stream[w[0]..w[1]]).collect()
}

/// [`listen`] itself refuses items made of nothing and empty pieces.
fn cutting_changes_nothing<S: Side>(
    side: impl Fn() -> S,
    stream: &[u8],
    cuts: &[Index],
) -> Result<(), TestCaseError> {
    let whole = listen(side(), [stream]);
    let pieces = pieces(stream, cuts);
    prop_assert_eq!(pieces.concat(), stream);
    prop_assert_eq!(listen(side(), pieces), whole);
    Ok(())
}

/// A legal topic name, in which what the mappings treat differently is common.
fn topic() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => select(vec!['/', '.', '*', '2', 'E', 'A', '%', '$', ' ']),
        2 => proptest::char::range('a', 'z'),
        1 => any::<char>(),
    ];
    let legal =
        |c: &char| !matches!(c, '+' | '#' | '\0' | '\u{fdd0}'..='\u{fdef}') && *c as u32 & 0xfffe != 0xfffe;
    vec(character.prop_filter("a topic name's", legal), 1..60).prop_map(String::from_iter)
}

fn delivery() -> impl Strategy<Value = Delivery> {
    (any::<Option<PacketId>>(), any::<bool>()).prop_map(|(id, dup)| match id {
        Some(packet_id) => Delivery::AtLeastOnce { packet_id, dup },
        None => Delivery::AtMostOnce,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn clients_bytes(stream in spoilt(streams::mqtt()), cuts in cuts(), max in 2..700_u32) {
        cutting_changes_nothing(Mqtt::new, &stream, &cuts)?;
        cutting_changes_nothing(|| Mqtt::new().speaking(Version::V31), &stream, &cuts)?;
        cutting_changes_nothing(|| Mqtt::limited(max), &stream, &cuts)?;
    }

    #[test]
    fn brokers_bytes(stream in spoilt(streams::amqp()), cuts in cuts()) {
        cutting_changes_nothing(Amqp::default, &stream, &cuts)?;
    }

    #[test]
    fn a_publish_comes_back(
        delivery in delivery(), retain: bool, topic in topic(), payload_len in 0..=MAX_REMAINING_LENGTH,
    ) {
        let topic = topic.as_str();
        let (qos, dup, packet_id) = match delivery {
            Delivery::AtMostOnce => (QoS::AtMostOnce, false, None),
            Delivery::AtLeastOnce { packet_id, dup } => (QoS::AtLeastOnce, dup, Some(packet_id)),
        };
        let fits = 2 + topic.len() as u64 + packet_id.map_or(0, |_| 2) + u64::from(payload_len) <= 268_435_455;
        prop_assert_eq!(encode::publish_fits(topic, packet_id.is_some(), payload_len.into()), fits);
        prop_assume!(fits);
        let mut bytes = Vec::new();
        encode::publish(&mut bytes, PublishHead { delivery, retain, topic, payload_len });
        let mut input = &bytes[..];
        let Ok(Some(mqtt::Item::Packet(mqtt::Packet::Publish(read)))) = mqtt::Decoder::new(u32::MAX).next(&mut input)
        else {
            return Err(TestCaseError::fail("not a PUBLISH"));
        };
        prop_assert_eq!(read, mqtt::Publish { dup, qos, packet_id, retain, topic, payload_len });
        prop_assert!(input.is_empty());
    }

    #[test]
    fn properties_come_back(
        persistent: bool, headers in proptest::option::of((any::<i8>(), any::<bool>())), body_size: u64, channel: u16,
    ) {
        let mqtt_headers = headers.map(|(publish_qos, dup)| MqttHeaders { publish_qos, dup });
        let mut bytes = Vec::new();
        Properties { persistent, mqtt_headers, ..Properties::default() }.encode(&mut bytes, channel, body_size);
        let mut input = &bytes[..];
        let Ok(Some(amqp::Item::Header { channel: on, header })) = amqp::Decoder::default().next(&mut input) else {
            return Err(TestCaseError::fail("not a header"));
        };
        prop_assert_eq!((on, header.body_size, header.persistent), (channel, body_size, persistent));
        prop_assert_eq!(header.integer(PUBLISH_QOS.as_bytes()), headers.map(|(qos, _)| i64::from(qos)));
        prop_assert!(input.is_empty());
    }

    #[test]
    fn a_body_comes_back(bytes in vec(any::<u8>(), 0..300), frame_max in 9..100_u32, channel: u16) {
        let mut out = Vec::new();
        amqp::body(&mut out, channel, frame_max, &bytes);
        let frames = bytes.len().div_ceil(frame_max as usize - 8);
        prop_assert_eq!(out.len(), bytes.len() + 8 * frames, "as few frames as it takes");
        let heard = listen(Amqp::default(), [&out[..]]);
        let expected: Vec<_> = (!bytes.is_empty()).then_some(Line::Bytes(channel, bytes)).into_iter().collect();
        prop_assert_eq!((heard.lines, heard.end), (expected, Ok(0)));
    }

    #[test]
    fn any_table_can_be_searched(bytes in table_bytes(), key in vec(any::<u8>(), 0..3)) {
        let within = |part: &[u8]| {
            part.is_empty() || bytes.as_ptr_range().contains(&part.as_ptr()) && part.len() <= bytes.len()
        };
        match Table::new(&bytes).find(&key) {
            Ok(Some(Value::Bytes(part) | Value::Table(part))) => prop_assert!(within(part)),
            Ok(_) | Err(amqp::DecodeError::Arguments) => {}
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn short_strings(bytes in vec(any::<u8>(), 0..300)) {
        let short = ShortStr::new(&bytes);
        prop_assert_eq!(short.is_some(), bytes.len() <= 255);
        prop_assert!(short.is_none_or(|short| short.as_bytes() == bytes));
    }

    #[test]
    fn topics_come_back(topic in topic()) {
        let there_and_back = |mapping: TopicMapping| {
            let (mut key, mut back) = (b"left over".to_vec(), String::from("left over"));
            mapping.routing_key(&topic, &mut key);
            mapping.topic_name(&key, &mut back).map(|()| (key, back))
        };
        let (key, back) = there_and_back(TopicMapping::Reversible).unwrap();
        prop_assert_eq!(&back, &topic);
        prop_assert!(!key.contains(&b'*'), "nothing that an AMQP matcher would take for a wildcard");
        prop_assert_eq!(key.iter().filter(|&&b| b == b'.').count(), topic.matches('/').count(), "levels stay levels");
        let (key, back) = there_and_back(TopicMapping::Rabbitmq).unwrap();
        prop_assert_eq!(back, topic.replace('.', "/"));
        prop_assert_eq!(key.len(), topic.len());
    }

    #[test]
    fn a_filter_without_wildcards_is_its_topic(topic in topic()) {
        for mapping in [TopicMapping::Rabbitmq, TopicMapping::Reversible] {
            let (mut routing, mut binding) = (Vec::new(), Vec::new());
            mapping.routing_key(&topic, &mut routing);
            prop_assert_eq!(mapping.binding_key(&topic, &mut binding), Ok(()));
            prop_assert_eq!(routing, binding);
        }
    }

    #[test]
    fn a_key_makes_a_legal_topic_or_none(key in vec(prop_oneof![any::<u8>(), select(b".+2EA#*".to_vec())], 0..20)) {
        for mapping in [TopicMapping::Rabbitmq, TopicMapping::Reversible] {
            let mut topic = String::new();
            if mapping.topic_name(&key, &mut topic).is_ok() {
                prop_assert!(!topic.is_empty() && !topic.contains(['+', '#', '\0']));
            }
        }
    }
}

/// Bytes that often are a table, or nearly one.
fn table_bytes() -> impl Strategy<Value = Vec<u8>> {
    let entry = (vec(any::<u8>(), 0..3), select(b"tbBsuIilSxFAfdTDVZ".to_vec()), vec(0..4_u8, 0..10));
    let entries = vec(entry, 0..6).prop_map(|entries| {
        let mut bytes = Vec::new();
        for (key, tag, value) in entries {
            bytes.push(key.len() as u8);
            bytes.extend_from_slice(&key);
            bytes.push(tag);
            bytes.extend_from_slice(&value);
        }
        bytes
    });
    prop_oneof![entries, vec(any::<u8>(), 0..100)]
}
