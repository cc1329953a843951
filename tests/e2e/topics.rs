//! Topics and filters here, routing and binding keys at the broker.

use anyhow::Result;
use serde_json::json;
use support::envoy::Mode;

use crate::amqp::{Amqp, persistent};
use crate::mqtt::{Client, head, packet, publish, subscribe, text};
use crate::world::{binding_keys, mqtt, own_envoy};

#[test]
fn slashes_and_dots_are_translated_both_ways() -> Result<()> {
    let pairs = [
        ("cities/london", "cities.london"),
        ("/leading", ".leading"),
        ("trailing/", "trailing."),
        ("a//b", "a..b"),
        ("/", "."),
        ("one", "one"),
        ("Köln/°C/🌡", "Köln.°C.🌡"),
        ("with space/and-dash_1", "with space.and-dash_1"),
        ("$device/x", "$device.x"),
    ];
    let amqp = Amqp::connect()?;
    let queue = amqp.queue("slashes.#")?;
    let mut device = Client::login(mqtt(Mode::Lazy), "slashes")?;
    device.subscribe("from-amqp/slashes/#", 1)?;
    for (topic, key) in pairs {
        device.publish(&format!("slashes/{topic}"), b"")?;
        assert_eq!(queue.next()?.delivery.routing_key.as_str(), format!("slashes.{key}"));
        amqp.publish(&format!("from-amqp.slashes.{key}"), b"", persistent())?;
        assert_eq!(device.receive()?.topic, format!("from-amqp/slashes/{topic}"));
    }
    Ok(())
}

#[test]
fn slashes_and_dots_of_filters_are_binding_keys() -> Result<()> {
    let mut device = Client::login(mqtt(Mode::Lazy), "binding-keys")?;
    let pairs =
        [("a/+/b", "a.*.b"), ("a/#", "a.#"), ("+", "*"), ("#", "#"), ("/+", ".*"), ("a//b/", "a..b.")];
    for (filter, _) in pairs {
        device.subscribe(&format!("binding-keys/{filter}"), 1)?;
    }
    let bound = binding_keys("binding-keys", 1)?;
    for (_, key) in pairs {
        assert!(bound.contains(&format!("binding-keys.{key}")), "{key} in {bound:?}");
    }
    Ok(())
}

#[test]
fn hash_at_any_level_and_plus_are_the_broker_s_wildcards() -> Result<()> {
    let cases = [
        ("one/+/level", ["one.a.level", "one..level"].as_slice(), ["one.a.b.level", "one.level"].as_slice()),
        ("mid/#/end", &["mid.end", "mid.a.end", "mid.a.b.end"], &["mid.a", "mid.end.a"]),
        ("tail/#", &["tail", "tail.a", "tail.a.b"], &["tails", "a.tail"]),
    ];
    let amqp = Amqp::connect()?;
    for (number, (filter, matching, others)) in cases.into_iter().enumerate() {
        let mut device = Client::login(mqtt(Mode::Lazy), &format!("wildcards-{number}"))?;
        device.subscribe(&format!("wildcards/{filter}"), 1)?;
        // All go through one queue, in order: what is not heard before the next was not delivered.
        for key in others.iter().chain(matching) {
            amqp.publish(&format!("wildcards.{key}"), b"", persistent())?;
        }
        for key in matching {
            assert_eq!(device.receive()?.topic, format!("wildcards/{}", key.replace('.', "/")), "{filter}");
        }
    }
    Ok(())
}

#[test]
fn literal_dot_or_star_in_a_topic_arrives_as_rabbitmq_has_it() -> Result<()> {
    let mut device = Client::login(mqtt(Mode::Lazy), "literal-default")?;
    device.subscribe("literal-default/#", 1)?;
    for (sent, heard) in [("10.0.0.1", "10/0/0/1"), ("v1.*", "v1/*"), ("*", "*"), ("plain", "plain")] {
        device.publish(&format!("literal-default/{sent}"), b"")?;
        assert_eq!(device.receive()?.topic, format!("literal-default/{heard}"));
    }
    Ok(())
}

#[test]
fn literal_dot_or_star_in_a_topic_survives_the_reversible_mapping() -> Result<()> {
    let envoy = own_envoy("reversible", json!({ "topic_mapping": "reversible" }))?;
    let mut device = Client::login(envoy.address("mqtt")?, "reversible")?;
    device.subscribe("reversible/#", 1)?;
    let topics = ["10.0.0.1", "v1.*", "*", "a*b", ".", "..", "/", "plain/text", "%2E", "2E", "Köln.de/*"];
    for topic in topics {
        let topic = format!("reversible/{topic}");
        device.publish(&topic, b"")?;
        assert_eq!(device.receive()?.topic, topic);
    }
    // A level that is a star is that star and no wildcard.
    device.subscribe("starred/*/x", 1)?;
    device.publish("starred/a/x", b"")?;
    device.publish("starred/*/x", b"")?;
    assert_eq!(device.receive()?.topic, "starred/*/x");
    // Where there is neither, the keys are RabbitMQ's.
    let amqp = Amqp::connect()?;
    let queue = amqp.queue("reversible.same.#")?;
    device.publish("reversible/same/as//ever", b"")?;
    assert_eq!(queue.next()?.delivery.routing_key.as_str(), "reversible.same.as..ever");
    Ok(())
}

#[test]
fn sparkplug_mapping_is_off_by_default() -> Result<()> {
    let mut device = Client::login(mqtt(Mode::Lazy), "sparkplug")?;
    device.subscribe("spBv1.0/sparkplug-group/#", 1)?;
    device.publish("spBv1.0/sparkplug-group/NBIRTH/node", b"")?;
    assert_eq!(device.receive()?.topic, "spBv1/0/sparkplug-group/NBIRTH/node");
    Ok(())
}

#[test]
fn sparkplug_mapping_keeps_the_version_s_dot() -> Result<()> {
    let envoy = own_envoy("sparkplug", json!({ "sparkplug": true }))?;
    let mut device = Client::login(envoy.address("mqtt")?, "sparkplug-on")?;
    device.subscribe("spBv1.0/sparkplug-on/#", 1)?;
    device.publish("spBv1.0/sparkplug-on/NBIRTH/node", b"")?;
    assert_eq!(device.receive()?.topic, "spBv1.0/sparkplug-on/NBIRTH/node");
    Amqp::connect()?.publish("spBv1___0.sparkplug-on.NDATA.node", b"", persistent())?;
    assert_eq!(device.receive()?.topic, "spBv1.0/sparkplug-on/NDATA/node");
    Ok(())
}

#[test]
fn dollar_topics_are_not_matched_by_a_wildcard_at_the_start() -> Result<()> {
    let amqp = Amqp::connect()?;
    for (number, filter) in ["+/dollar/state", "#/dollar/state", "+/+/state"].into_iter().enumerate() {
        for qos in [0, 1] {
            let mut device = Client::login(mqtt(Mode::Lazy), &format!("dollar-{number}-{qos}"))?;
            device.subscribe(filter, qos)?;
            amqp.publish("$internal.dollar.state", b"hidden", persistent())?;
            amqp.publish("plain.dollar.state", b"seen", persistent())?;
            assert_eq!(device.receive()?.text(), "seen", "{filter} at QoS {qos}");
        }
    }
    Ok(())
}

#[test]
fn dollar_topics_are_matched_by_a_filter_that_names_them() -> Result<()> {
    let amqp = Amqp::connect()?;
    let mut device = Client::login(mqtt(Mode::Lazy), "dollar-named")?;
    device.subscribe("$internal/dollar-named/#", 1)?;
    device.subscribe("+/dollar-named/#", 1)?;
    for (key, payload) in [
        ("$internal.dollar-named.a", "named"),
        ("$other.dollar-named.a", "not named"),
        ("plain.dollar-named.a", "by the wildcard"),
    ] {
        amqp.publish(key, payload.as_bytes(), persistent())?;
    }
    assert_eq!(device.receive()?.text(), "named");
    assert_eq!(device.receive()?.text(), "by the wildcard");
    Ok(())
}

#[test]
fn illegal_topic_names_close_the_connection() -> Result<()> {
    let topics: [&[u8]; 9] =
        [b"a/+", b"+", b"a/#", b"#", b"a+b", b"", b"nul\0", b"\xff\xfe", b"surrogate \xed\xa0\x80"];
    for topic in topics {
        let mut device = Client::login(mqtt(Mode::Lazy), "illegal-topic")?;
        let length = (topic.len() as u16).to_be_bytes();
        device.send(&packet(0x30, &[&length, topic].concat()))?;
        assert_eq!(device.rest()?, b"", "{topic:02x?}");
    }
    Ok(())
}

#[test]
fn illegal_filters_are_refused_one_by_one() -> Result<()> {
    let mut device = Client::login(mqtt(Mode::Lazy), "illegal-filter")?;
    let filters = ["illegal-filter/a+", "a#", "+a/x", "x/#b", "illegal-filter/fine", "##", "++"];
    device.send(&subscribe(&filters.map(|filter| (filter, 1))))?;
    device.hears(&[0x90, 9, 0, 1, 0x80, 0x80, 0x80, 0x80, 1, 0x80, 0x80])?;
    device.publish("illegal-filter/fine", b"kept")?;
    assert_eq!(device.receive()?.text(), "kept");
    Ok(())
}

/// AMQP's short strings end at 255 bytes. One byte less works, and none is cut off.
#[test]
fn too_long_topics_are_refused_and_never_cut() -> Result<()> {
    let (fits, exceeds) = (format!("too-long/{}", "é".repeat(123)), format!("too-long/{}x", "é".repeat(123)));
    assert_eq!((fits.len(), exceeds.len()), (255, 256));
    let mut device = Client::login(mqtt(Mode::Lazy), "too-long-topic")?;
    device.send(&subscribe(&[(&exceeds, 1), (&fits, 1)]))?;
    device.hears(&[0x90, 4, 0, 1, 0x80, 1])?;
    device.publish(&fits, b"fits")?;
    assert_eq!(device.receive()?.topic, fits);
    device.send(&publish(0x32, &exceeds, 1, b"exceeds"))?;
    assert_eq!(device.rest()?, b"");
    Ok(())
}

#[test]
fn too_long_topics_are_refused_by_the_length_of_their_key() -> Result<()> {
    let envoy = own_envoy("too-long-reversible", json!({ "topic_mapping": "reversible" }))?;
    // 200 bytes, each of which takes three in the key.
    let dots = ".".repeat(200);
    let mut device = Client::login(envoy.address("mqtt")?, "too-long-key")?;
    device.send(&subscribe(&[(&dots, 1)]))?;
    device.hears(&[0x90, 3, 0, 1, 0x80])?;
    device.send(&[head(0x30, 202), text(&dots)].concat())?;
    assert_eq!(device.rest()?, b"");
    Ok(())
}
