//! Retained messages: kept by the broker, the same for all, given to new subscriptions with and without wildcards.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;
use support::envoy::{Mode, Options};
use support::process::wait_until;

use crate::mqtt::{Client, Connect, DISCONNECT, Message, Will, packet, puback, publish, subscribe, text};
use crate::world::{PATIENCE, broker, mqtt, own_envoy, own_envoy_with, rough_broker, to};

#[test]
fn retained_messages_are_given_to_new_subscriptions_with_and_without_wildcards() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        let root = format!("retained-filters-{}", mode.name());
        let topic = |rest: &str| format!("{root}/{rest}");
        let mut device = Client::login(mqtt(mode), &root)?;
        for rest in ["a", "a/b", "a/b/c/d/e", "a/x/c", "z"] {
            retain(&mut device, &topic(rest), rest.as_bytes())?;
        }
        for (filter, expected) in [
            ("a", &["a"][..]),
            ("a/b", &["a/b"]),
            ("a/b/c/d/e", &["a/b/c/d/e"]),
            ("a/+", &["a/b"]),
            ("a/#", &["a", "a/b", "a/b/c/d/e", "a/x/c"]),
            ("+", &["a", "z"]),
            ("+/+/c", &["a/x/c"]),
            ("#/c/#", &["a/b/c/d/e", "a/x/c"]),
            ("a/b/c/d/+", &["a/b/c/d/e"]),
            ("#", &["a", "a/b", "a/b/c/d/e", "a/x/c", "z"]),
            ("a/b/c", &[]),
            ("+/nothing", &[]),
        ] {
            let replay = replay(mqtt(mode), &root, &topic(filter), 1)?;
            let topics: Vec<_> = replay.iter().map(|message| message.topic.clone()).collect();
            let expected: Vec<_> = expected.iter().map(|rest| topic(rest)).collect();
            assert_eq!(topics, expected, "{filter}");
            assert!(replay.iter().all(|it| it.retain && it.topic == topic(&it.text())), "{replay:?}");
        }
    }
    Ok(())
}

#[test]
fn retain_is_1_on_the_replay_only() -> Result<()> {
    let topic = "retained-bit/a";
    let mut subscriber = Client::login(mqtt(Mode::Lazy), "retained-bit")?;
    subscriber.subscribe("retained-bit/#", 1)?;
    let mut device = Client::login(mqtt(Mode::Lazy), "retained-bit-device")?;
    retain(&mut device, topic, b"x")?;
    assert!(!subscriber.receive()?.retain);
    // The same filter again is a new subscription. [MQTT-3.8.4-3]
    subscriber.subscribe("retained-bit/#", 1)?;
    let again = subscriber.receive()?;
    assert_eq!((again.retain, &*again.text()), (true, "x"));
    Ok(())
}

#[test]
fn retained_messages_come_at_the_lower_of_granted_and_published_qos() -> Result<()> {
    let mut device = Client::login(mqtt(Mode::Lazy), "retained-qos")?;
    for published in 0..3 {
        let topic = format!("retained-qos/{published}");
        match published {
            0 => device.send(&retain_at_qos_0(&topic, b"x"))?,
            1 => retain(&mut device, &topic, b"x")?,
            _ => {
                device.send(&publish(0x35, &topic, 1, b"x"))?;
                device.hears(&[0x50, 2, 0, 1])?;
                device.send(&[0x62, 2, 0, 1])?;
                device.hears(&[0x70, 2, 0, 1])?;
            }
        }
        wait_for_queue(&topic, true)?;
        for granted in 0..2 {
            let replay = replay(mqtt(Mode::Lazy), "retained-qos-reader", &topic, granted)?;
            let qos: Vec<_> = replay.iter().map(|message| message.qos).collect();
            assert_eq!(qos, [published.min(granted)], "published at {published}, granted {granted}");
        }
    }
    Ok(())
}

#[test]
fn an_empty_payload_clears_a_retained_message_and_is_routed_like_any_other() -> Result<()> {
    let topic = "retained-clear/a/b";
    let mut device = Client::login(mqtt(Mode::Lazy), "retained-clear")?;
    retain(&mut device, topic, b"x")?;
    let mut subscriber = Client::login(mqtt(Mode::Lazy), "retained-clear-reader")?;
    subscriber.subscribe(topic, 1)?;
    assert!(subscriber.receive()?.retain);
    retain(&mut device, topic, b"")?;
    let empty = subscriber.receive()?;
    assert_eq!((empty.retain, empty.payload.len()), (false, 0));
    for filter in [topic, "retained-clear/#"] {
        assert_eq!(replay(mqtt(Mode::Lazy), "retained-clear-late", filter, 1)?, []);
    }
    assert_eq!(kept("retained-clear")?, BTreeSet::new());
    // Once more is no error, and a new one is kept again.
    retain(&mut device, topic, b"")?;
    retain(&mut device, topic, b"y")?;
    assert_eq!(replay(mqtt(Mode::Lazy), "retained-clear-late", topic, 1)?[0].text(), "y");
    Ok(())
}

#[test]
fn a_topic_that_is_updated_a_thousand_times_leaves_one_message() -> Result<()> {
    let topic = "retained-updates/a";
    let mut device = Client::login(mqtt(Mode::Lazy), "retained-updates")?;
    for n in 0..1000 {
        retain(&mut device, topic, n.to_string().as_bytes())?;
    }
    assert_eq!(kept("retained-updates")?, [topic.replace('/', ".")].into());
    let queue = broker().ctl(&["list_queues", "name", "messages", "--silent"])?;
    assert!(queue.lines().any(|line| line == "mqtt-retained-retained-updates.a\t1"), "{queue}");
    assert_eq!(replay(mqtt(Mode::Lazy), "retained-updates-reader", topic, 0)?[0].text(), "999");
    Ok(())
}

/// Each reader ends with the last value: live, or, if it came too late for that, from the replay. None hears an older one behind it.
#[test]
fn many_readers_and_a_writer_at_once() -> Result<()> {
    const READERS: usize = 40;
    const LAST: usize = 300;
    let topic = "retained-crowd/a";
    let mut device = Client::login(mqtt(Mode::Lazy), "retained-crowd")?;
    retain(&mut device, topic, b"0")?;
    let writer = std::thread::spawn(move || -> Result<()> {
        (1..=LAST).try_for_each(|n| retain(&mut device, topic, n.to_string().as_bytes()))
    });
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            std::thread::spawn(move || -> Result<Vec<(usize, bool)>> {
                let mut reader = Client::login(mqtt(Mode::Lazy), &format!("retained-crowd-{n}"))?;
                reader.send(&subscribe(&[(if n % 2 == 0 { topic } else { "retained-crowd/#" }, 1)]))?;
                let mut heard = Vec::new();
                while heard.last().is_none_or(|&(value, _)| value != LAST) {
                    let packet = reader.packet()?;
                    // The first message may come ahead of SUBACK.
                    if packet[0] != 0x90 {
                        let (id, value) = packet[4 + topic.len()..].split_at(2);
                        reader.send(&puback(u16::from_be_bytes([id[0], id[1]])))?;
                        heard.push((std::str::from_utf8(value)?.parse()?, packet[0] & 1 == 1));
                    }
                }
                reader.ping()?;
                Ok(heard)
            })
        })
        .collect();
    writer.join().expect("the writer")?;
    for reader in readers {
        let heard = reader.join().expect("a reader")?;
        assert!(heard.is_sorted_by_key(|&(value, _)| value), "{heard:?}");
        assert!(heard.iter().filter(|&&(_, retain)| retain).count() <= 1, "{heard:?}");
    }
    Ok(())
}

#[test]
fn a_hundred_readers_of_one_message_wait_in_line() -> Result<()> {
    let topic = "retained-line/a";
    retain(&mut Client::login(mqtt(Mode::Lazy), "retained-line")?, topic, &[b'x'; 20_000])?;
    let mut readers = (0..100)
        .map(|n| Client::login(mqtt(Mode::Lazy), &format!("retained-line-{n}")))
        .collect::<Result<Vec<_>>>()?;
    readers.iter_mut().try_for_each(|reader| reader.send(&subscribe(&[(topic, 1)])))?;
    for reader in &mut readers {
        reader.hears(&[0x90, 3, 0, 1, 1])?;
        let message = reader.receive()?;
        assert_eq!((message.retain, message.payload.len()), (true, 20_000));
    }
    Ok(())
}

#[test]
fn two_hundred_topics_come_with_one_filter() -> Result<()> {
    let mut device = Client::login(mqtt(Mode::Lazy), "retained-many")?;
    let topics: BTreeSet<_> = (0..200).map(|n| format!("retained-many/{}/{n}", n % 7)).collect();
    topics.iter().try_for_each(|topic| retain(&mut device, topic, topic.as_bytes()))?;
    let replay = replay(mqtt(Mode::Lazy), "retained-many-reader", "retained-many/+/+", 1)?;
    assert_eq!(replay.len(), 200);
    assert_eq!(replay.iter().map(Message::text).collect::<BTreeSet<_>>(), topics);
    topics.iter().try_for_each(|topic| retain(&mut device, topic, b""))?;
    assert_eq!(kept("retained-many")?, BTreeSet::new());
    Ok(())
}

#[test]
fn retained_messages_are_the_same_at_two_envoys() -> Result<()> {
    let envoys = [own_envoy("retained-one", json!({}))?, own_envoy("retained-other", json!({}))?];
    let [one, other] = [envoys[0].address("mqtt")?, envoys[1].address("mqtt")?];
    let mut device = Client::login(one, "retained-envoys")?;
    retain(&mut device, "retained-envoys/a", b"x")?;
    assert_eq!(replay(other, "retained-envoys-reader", "retained-envoys/+", 1)?[0].text(), "x");
    retain(&mut device, "retained-envoys/a", b"")?;
    assert_eq!(replay(other, "retained-envoys-reader", "retained-envoys/+", 1)?, []);
    Ok(())
}

#[test]
fn retained_messages_survive_the_broker_s_death() -> Result<()> {
    let mut broker = rough_broker();
    let envoy =
        own_envoy_with("retained-death", &to(Mode::Lazy, broker.amqp_address()), &Options::default())?;
    let address = envoy.address("mqtt")?;
    let mut device = Client::login(address, "retained-death")?;
    // At QoS 0, too: what is kept does not depend on it.
    device.send(&retain_at_qos_0("retained-death/0", b"zero"))?;
    retain(&mut device, "retained-death/1", b"one")?;
    assert_eq!(replay(address, "retained-death-before", "retained-death/+", 1)?.len(), 2);
    broker.kill()?;
    broker.restart()?;
    let replay = wait_until("the broker is back", PATIENCE, || {
        replay(address, "retained-death-after", "retained-death/+", 1).ok()
    })?;
    let seen: Vec<_> = replay.iter().map(|message| (message.text(), message.qos)).collect();
    assert_eq!(seen, [("zero".to_owned(), 0), ("one".to_owned(), 1)]);
    Ok(())
}

#[test]
fn a_will_can_be_retained() -> Result<()> {
    let topic = "retained-will/a";
    let will = |retain| Some(Will { topic, payload: b"gone", qos: 1, retain });
    let mut watcher = Client::login(mqtt(Mode::Lazy), "retained-will-watcher")?;
    watcher.subscribe(topic, 1)?;
    for retain in [true, false] {
        let connect = Connect { client_id: "retained-will", will: will(retain), ..Connect::default() };
        Client::login_as(mqtt(Mode::Lazy), &connect)?.reset()?;
        let live = watcher.receive()?;
        assert_eq!((live.text(), live.retain), ("gone".to_owned(), false));
        if retain {
            wait_until("the will is kept", PATIENCE, || {
                let replay = replay(mqtt(Mode::Lazy), "retained-will-late", "retained-will/#", 1).ok()?;
                (replay.len() == 1 && replay[0].text() == "gone" && replay[0].qos == 1).then_some(())
            })?;
            self::retain(&mut Client::login(mqtt(Mode::Lazy), "retained-will-clear")?, topic, b"")?;
            assert_eq!(watcher.receive()?.payload, b"");
        }
    }
    assert_eq!(kept("retained-will")?, BTreeSet::new());
    Ok(())
}

#[test]
fn a_retained_will_that_is_not_sent_leaves_what_was_there() -> Result<()> {
    let will = |topic| Some(Will { topic, payload: b"gone", qos: 1, retain: true });
    let (empty, taken) = ("retained-no-will/empty", "retained-no-will/taken");
    let connect = |topic| Connect { client_id: "retained-no-will", will: will(topic), ..Connect::default() };
    Client::login_as(mqtt(Mode::Lazy), &connect(empty))?.disconnect()?;
    wait_for_queue(empty, false)?;
    let mut device = Client::login_as(mqtt(Mode::Lazy), &connect(taken))?;
    retain(&mut device, taken, b"online")?;
    device.disconnect()?;
    let replay = replay(mqtt(Mode::Lazy), "retained-no-will-late", "retained-no-will/#", 1)?;
    assert_eq!(replay.iter().map(Message::text).collect::<Vec<_>>(), ["online"]);
    Ok(())
}

/// As `mosquitto_pub -r` does it. Nothing can be asked of the broker any more when that is heard.
#[test]
fn what_a_client_publishes_with_its_last_bytes_is_retained() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        for n in 0..20 {
            let topic = format!("retained-last-{}/{n}", mode.name());
            let mut device = Client::login(mqtt(mode), &format!("retained-last-{n}"))?;
            device.send(&[&retain_at_qos_0(&topic, b"bye")[..], DISCONNECT].concat())?;
            device.finish()?;
            wait_for_queue(&topic, true)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_too_large_is_routed_and_clears_what_was_kept() -> Result<()> {
    let envoy = own_envoy("retained-size", json!({ "retained_max_size": 100 }))?;
    let address = envoy.address("mqtt")?;
    let topic = "retained-size/a";
    let mut device = Client::login(address, "retained-size")?;
    retain(&mut device, topic, &[b'x'; 100])?;
    assert_eq!(replay(address, "retained-size-reader", topic, 1)?.len(), 1);
    let mut subscriber = Client::login(address, "retained-size-subscriber")?;
    subscriber.subscribe("retained-size/+", 1)?;
    assert_eq!(subscriber.receive()?.payload.len(), 100);
    retain(&mut device, topic, &[b'x'; 101])?;
    assert_eq!(subscriber.receive()?.payload.len(), 101);
    assert_eq!(replay(address, "retained-size-reader", topic, 1)?, []);
    assert_eq!(envoy.stat("wasmcustom.leveret.none.retained.unkept")?, 1);
    Ok(())
}

#[test]
fn where_nothing_is_retained_the_bit_is_passed_over() -> Result<()> {
    let envoy = own_envoy("retained-off", json!({ "retained": false }))?;
    let address = envoy.address("mqtt")?;
    let mut device = Client::login(address, "retained-off")?;
    retain(&mut device, "retained-off/a", b"x")?;
    let mut reader = Client::login(address, "retained-off-reader")?;
    reader.subscribe("retained-off/a", 1)?;
    retain(&mut device, "retained-off/a", b"y")?;
    let message = reader.receive()?;
    assert_eq!((message.text(), message.retain), ("y".to_owned(), false));
    assert_eq!(kept("retained-off")?, BTreeSet::new());
    Ok(())
}

#[test]
fn shared_subscriptions_and_wildcards_over_dollar_topics_get_no_replay() -> Result<()> {
    let mut device = Client::login(mqtt(Mode::Lazy), "retained-dollar")?;
    retain(&mut device, "retained-dollar/a", b"x")?;
    retain(&mut device, "$retained-dollar/a", b"y")?;
    let shared = replay(mqtt(Mode::Lazy), "retained-dollar-shared", "$share/g/retained-dollar/#", 1)?;
    assert_eq!(shared, []);
    assert_eq!(
        replay(mqtt(Mode::Lazy), "retained-dollar-wild", "+/a", 1)?
            .iter()
            .filter(|it| it.text() == "y")
            .count(),
        0
    );
    assert_eq!(replay(mqtt(Mode::Lazy), "retained-dollar-own", "$retained-dollar/#", 1)?[0].text(), "y");
    retain(&mut device, "$retained-dollar/a", b"")?;
    Ok(())
}

/// Publishes at QoS 1 with RETAIN; PUBACK says that it is done.
fn retain(device: &mut Client, topic: &str, payload: &[u8]) -> Result<()> {
    device.send(&publish(0x33, topic, 1, payload))?;
    device.hears(&[0x40, 2, 0, 1])
}

fn retain_at_qos_0(topic: &str, payload: &[u8]) -> Vec<u8> {
    packet(0x31, &[&text(topic), payload].concat())
}

/// What a new client is given for a filter, by topic. What comes last is the replay for a second filter, which waits for its turn.
fn replay(address: SocketAddr, client_id: &str, filter: &str, qos: u8) -> Result<Vec<Message>> {
    let end = format!("retained-end/{client_id}");
    retain(&mut Client::login(address, &format!("{client_id}-end"))?, &end, b"end")?;
    let mut reader = Client::login(address, client_id)?;
    reader.send(&subscribe(&[(filter, qos), (&end, qos)]))?;
    reader.hears(&[0x90, 4, 0, 1, qos, qos])?;
    let mut heard = Vec::new();
    loop {
        let message = reader.receive()?;
        if message.topic == end {
            break;
        }
        heard.push(message);
    }
    reader.disconnect()?;
    heard.sort_by(|a, b| a.topic.cmp(&b.topic));
    Ok(heard)
}

/// Keys of the topics below `root` that the broker keeps a message for.
fn kept(root: &str) -> Result<BTreeSet<String>> {
    let queues = broker().api("queues/%2F?columns=name")?;
    let names = queues.as_array().into_iter().flatten().filter_map(|queue| queue["name"].as_str());
    let keys = names.filter_map(|name| name.strip_prefix("mqtt-retained-"));
    Ok(keys.filter(|key| key.starts_with(&format!("{root}."))).map(str::to_owned).collect())
}

/// Returns when the broker has a queue for a topic's message, or has none.
fn wait_for_queue(topic: &str, there: bool) -> Result<()> {
    let key = topic.replace('/', ".");
    let root = key.split('.').next().unwrap_or_default().to_owned();
    wait_until(topic, PATIENCE, || (kept(&root).ok()?.contains(&key) == there).then_some(()))
}
