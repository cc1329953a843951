//! Sessions: what is kept of a client while it is away, and what is not.

use anyhow::{Context, Result};
use serde_json::json;
use support::envoy::Mode;
use support::process::wait_until;

use crate::amqp::{Amqp, persistent};
use crate::mqtt::{Client, Connect, subscribe};
use crate::world::{EXPIRY, PATIENCE, binding_keys, broker, mqtt, own_envoy, queue, queues_of};

#[test]
fn persistent_session_is_present_once_it_was_made() -> Result<()> {
    let id = "session-present";
    let (mut client, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(!present, "the first time");
    client.subscribe("session-present/topic", 1)?;
    client.disconnect()?;
    let (client, present) = Client::resume(mqtt(Mode::Eager), id)?;
    assert!(present, "after DISCONNECT");
    client.reset()?;
    let (client, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(present, "after RST");
    client.finish()?;
    let (client, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(present, "after FIN");
    client.disconnect()?;
    Client::login(mqtt(Mode::Lazy), id)?.disconnect()?;
    let (client, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(!present, "after a clean one");
    client.disconnect()
}

#[test]
fn persistent_session_survives_envoy() -> Result<()> {
    let mut envoy = own_envoy("session-and-envoy", json!({}))?;
    let (mut client, _) = Client::resume(envoy.address("mqtt")?, "session-and-envoy")?;
    client.subscribe("session-and-envoy/topic", 1)?;
    envoy.process().kill()?;
    Amqp::connect()?.publish("session-and-envoy.topic", b"meanwhile", persistent())?;
    let (mut client, present) = Client::resume(mqtt(Mode::Lazy), "session-and-envoy")?;
    assert!(present);
    assert_eq!(client.receive()?.text(), "meanwhile");
    Ok(())
}

#[test]
fn persistent_session_without_any_subscription_is_kept_too() -> Result<()> {
    let id = "session-without-subscription";
    let (client, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(!present);
    client.disconnect()?;
    let (client, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(present);
    client.disconnect()
}

#[test]
fn persistent_session_with_qos_0_subscriptions_only_is_kept_too() -> Result<()> {
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), "session-qos-0")?;
    client.subscribe("session-qos-0/topic", 0)?;
    client.disconnect()?;
    let (mut client, present) = Client::resume(mqtt(Mode::Lazy), "session-qos-0")?;
    assert!(present);
    Amqp::connect()?.publish("session-qos-0.topic", b"still subscribed", persistent())?;
    assert_eq!(client.receive()?.text(), "still subscribed");
    Ok(())
}

#[test]
fn persistent_session_resumes_subscriptions_of_both_qos() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        let id = format!("session-both-{}", mode.name());
        let (mut client, _) = Client::resume(mqtt(mode), &id)?;
        for qos in [0, 1] {
            client.subscribe(&format!("{id}/{qos}"), qos)?;
        }
        client.disconnect()?;
        let (mut client, _) = Client::resume(mqtt(mode), &id)?;
        let amqp = Amqp::connect()?;
        for qos in [0, 1] {
            amqp.publish(&format!("{id}.{qos}"), b"", persistent())?;
            let message = client.receive()?;
            assert_eq!((message.topic, message.qos), (format!("{id}/{qos}"), qos));
        }
    }
    Ok(())
}

#[test]
fn persistent_session_queues_for_a_client_that_is_away() -> Result<()> {
    let id = "session-queued";
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    client.subscribe("session-queued/#", 1)?;
    client.disconnect()?;
    let amqp = Amqp::connect()?;
    for number in 0..100 {
        amqp.publish(&format!("session-queued.{}", number % 3), &[number], persistent())?;
    }
    let (mut client, _) = Client::resume(mqtt(Mode::Eager), id)?;
    for number in 0..100 {
        let message = client.receive()?;
        assert_eq!((message.payload, message.qos, message.dup), (vec![number], 1, false));
        assert_eq!(message.topic, format!("session-queued/{}", number % 3));
    }
    Ok(())
}

#[test]
fn persistent_session_delivers_again_what_was_not_acknowledged() -> Result<()> {
    let id = "session-again";
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    client.subscribe("session-again/topic", 1)?;
    let amqp = Amqp::connect()?;
    for number in 0..20 {
        amqp.publish("session-again.topic", &[number], persistent())?;
    }
    // The first three are dealt with; of the others ten are under way, and the rest waits at the broker.
    for number in 0..13 {
        let message = client.message()?;
        assert_eq!((&message.payload[..], message.dup), (&[number][..], false));
        if number < 3 {
            client.acknowledge(&message)?;
        }
    }
    wait_until("3 are acknowledged", PATIENCE, || {
        let listed = broker().ctl(&["--quiet", "list_queues", "name", "messages"]).ok()?;
        listed.contains("mqtt-subscription-session-againqos1\t17").then_some(())
    })?;
    client.reset()?;
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    for number in 3..20 {
        let message = client.receive()?;
        assert_eq!((&message.payload[..], message.dup), (&[number][..], number < 13), "{message:?}");
    }
    Ok(())
}

#[test]
fn persistent_session_expires_after_subscription_ttl() -> Result<()> {
    let id = "session-expires";
    let envoy = own_envoy(id, json!({ "subscription_ttl": 500 }))?;
    let (mut client, _) = Client::resume(envoy.address("mqtt")?, id)?;
    client.subscribe("session-expires/0", 0)?;
    client.subscribe("session-expires/1", 1)?;
    client.disconnect()?;
    wait_until("its queues are gone", PATIENCE, || queues_of(id).ok()?.is_empty().then_some(()))?;
    let (client, present) = Client::resume(envoy.address("mqtt")?, id)?;
    assert!(!present);
    client.disconnect()
}

#[test]
fn persistent_session_is_in_use_however_long_it_lasts() -> Result<()> {
    let id = "session-in-use";
    let envoy = own_envoy(id, json!({ "subscription_ttl": 200 }))?;
    let (mut client, _) = Client::resume(envoy.address("mqtt")?, id)?;
    client.subscribe("session-in-use/0", 0)?;
    client.subscribe("session-in-use/1", 1)?;
    // Five times as long as it would take to expire.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let amqp = Amqp::connect()?;
    for qos in [0, 1] {
        amqp.publish(&format!("session-in-use.{qos}"), b"", persistent())?;
        assert_eq!(client.receive()?.topic, format!("session-in-use/{qos}"));
    }
    Ok(())
}

#[test]
fn changed_subscription_ttl_locks_nobody_out() -> Result<()> {
    let id = "session-other-ttl";
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    client.subscribe("session-other-ttl/0", 0)?;
    client.subscribe("session-other-ttl/1", 1)?;
    client.disconnect()?;
    for (name, ttl) in [("ttl-1", json!(5_000)), ("ttl-2", json!("undefined"))] {
        let envoy = own_envoy(name, json!({ "subscription_ttl": ttl }))?;
        let (mut client, present) = Client::resume(envoy.address("mqtt")?, id)?;
        assert!(present, "{name}");
        for qos in [0, 1] {
            // Subscribing again uses the queue from before, too.
            client.subscribe(&format!("session-other-ttl/{qos}"), qos)?;
            client.subscribe(&format!("session-other-ttl/more/{qos}"), qos)?;
            client.publish(&format!("session-other-ttl/{qos}"), b"")?;
            assert_eq!(client.receive()?.qos, 0, "{name}");
            assert_eq!(queue(id, qos)?.context("its queue")?["arguments"]["x-expires"], 86_400_000, "{name}");
        }
        client.disconnect()?;
    }
    Ok(())
}

#[test]
fn clean_session_leaves_nothing_at_the_broker() -> Result<()> {
    let id = "clean-leaves-nothing";
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    client.subscribe("clean-leaves-nothing/0", 0)?;
    client.subscribe("clean-leaves-nothing/1", 1)?;
    client.disconnect()?;
    // The one before is thrown away at once, not when the clean one ends.
    let mut client = Client::login(mqtt(Mode::Lazy), id)?;
    assert!(queue(id, 0)?.is_none() && queue(id, 1)?.is_none());
    client.subscribe("clean-leaves-nothing/0", 0)?;
    client.subscribe("clean-leaves-nothing/1", 1)?;
    client.disconnect()?;
    wait_until("nothing is left", PATIENCE, || queues_of(id).ok()?.is_empty().then_some(()))?;
    // However it ends.
    let mut client = Client::login(mqtt(Mode::Lazy), id)?;
    client.subscribe("clean-leaves-nothing/1", 1)?;
    client.reset()?;
    wait_until("nothing is left after RST", EXPIRY, || queues_of(id).ok()?.is_empty().then_some(()))?;
    // And without ever having subscribed.
    Client::login(mqtt(Mode::Lazy), id)?.disconnect()?;
    wait_until("nothing is left without subscriptions", PATIENCE, || {
        queues_of(id).ok()?.is_empty().then_some(())
    })
}

#[test]
fn clean_session_forgets_what_was_queued() -> Result<()> {
    let id = "clean-forgets";
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    client.subscribe("clean-forgets/topic", 1)?;
    client.disconnect()?;
    let amqp = Amqp::connect()?;
    amqp.publish("clean-forgets.topic", b"old", persistent())?;
    let mut client = Client::login(mqtt(Mode::Lazy), id)?;
    client.subscribe("clean-forgets/topic", 1)?;
    amqp.publish("clean-forgets.topic", b"new", persistent())?;
    assert_eq!(client.receive()?.text(), "new");
    client.disconnect()?;
    let (mut client, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(!present);
    amqp.publish("clean-forgets.topic", b"to nobody", persistent())?;
    client.subscribe("clean-forgets/topic", 1)?;
    amqp.publish("clean-forgets.topic", b"newest", persistent())?;
    assert_eq!(client.receive()?.text(), "newest");
    Ok(())
}

#[test]
fn queues_have_the_documented_names_and_lifetimes() -> Result<()> {
    let (mut persistent, _) = Client::resume(mqtt(Mode::Lazy), "queues-persistent")?;
    let mut clean = Client::login(mqtt(Mode::Lazy), "queues-clean")?;
    for qos in [0, 1] {
        persistent.subscribe("queues/topic", qos)?;
        clean.subscribe("queues/topic", qos)?;
        let kept = queue("queues-persistent", qos)?.context("its queue")?;
        assert_eq!((&kept["durable"], &kept["auto_delete"]), (&json!(true), &json!(false)), "QoS {qos}");
        assert_eq!(kept["arguments"]["x-expires"], 86_400_000, "QoS {qos}");
        let with_the_client = queue("queues-clean", qos)?.context("its queue")?;
        // To RabbitMQ nothing exclusive is durable, whatever was asked.
        assert_eq!(with_the_client["exclusive"], true, "QoS {qos}");
    }
    persistent.disconnect()?;
    clean.disconnect()?;
    wait_until("the clean one's are gone", PATIENCE, || {
        queues_of("queues-clean").ok()?.is_empty().then_some(())
    })?;
    let mut left = queues_of("queues-persistent")?;
    left.retain(|name| name.contains("qos"));
    let expected = [0, 1].map(|qos| format!("mqtt-subscription-queues-persistentqos{qos}"));
    assert_eq!(left, expected, "the persistent one's");
    Ok(())
}

#[test]
fn queues_of_one_qos_are_made_when_they_are_needed() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "queues-lazily")?;
    assert!(queue("queues-lazily", 0)?.is_none() && queue("queues-lazily", 1)?.is_none());
    client.subscribe("queues-lazily/topic", 0)?;
    assert!(queue("queues-lazily", 0)?.is_some() && queue("queues-lazily", 1)?.is_none());
    Ok(())
}

#[test]
fn queues_without_end_when_subscription_ttl_is_undefined() -> Result<()> {
    let id = "queues-for-ever";
    let envoy = own_envoy(id, json!({ "subscription_ttl": "undefined" }))?;
    let (mut client, _) = Client::resume(envoy.address("mqtt")?, id)?;
    for qos in [0, 1] {
        client.subscribe("queues-for-ever/topic", qos)?;
        let queue = queue(id, qos)?.context("its queue")?;
        assert!(queue["arguments"].get("x-expires").is_none(), "{queue}");
        assert_eq!((&queue["durable"], &queue["auto_delete"]), (&json!(true), &json!(false)));
    }
    Ok(())
}

#[test]
fn unsubscribe_after_a_reconnect_really_unbinds() -> Result<()> {
    let id = "unsubscribe-later";
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    for (topic, qos) in [("go", 0), ("stay", 0), ("go-too", 1), ("stay-too", 1)] {
        client.subscribe(&format!("unsubscribe-later/{topic}"), qos)?;
    }
    client.disconnect()?;
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), id)?;
    client.unsubscribe("unsubscribe-later/go")?;
    client.unsubscribe("unsubscribe-later/go-too")?;
    let amqp = Amqp::connect()?;
    for topics in [["go", "stay"], ["go-too", "stay-too"]] {
        for topic in topics {
            amqp.publish(&format!("unsubscribe-later.{topic}"), b"", persistent())?;
        }
        assert_eq!(client.receive()?.topic, format!("unsubscribe-later/{}", topics[1]));
    }
    Ok(())
}

#[test]
fn unsubscribe_from_what_was_never_subscribed_is_answered() -> Result<()> {
    let (mut client, _) = Client::resume(mqtt(Mode::Lazy), "unsubscribe-nothing")?;
    client.unsubscribe("unsubscribe-nothing/topic")?;
    client.subscribe("unsubscribe-nothing/other", 1)?;
    client.unsubscribe("unsubscribe-nothing/topic")?;
    client.ping()
}

#[test]
fn same_filter_again_with_another_qos_replaces() -> Result<()> {
    for (first, second) in [(0, 1), (1, 0)] {
        for across_a_reconnect in [false, true] {
            let id = format!("same-filter-{first}-{across_a_reconnect}");
            let (mut client, _) = Client::resume(mqtt(Mode::Lazy), &id)?;
            client.subscribe(&id, first)?;
            if across_a_reconnect {
                client.disconnect()?;
                client = Client::resume(mqtt(Mode::Lazy), &id)?.0;
            }
            client.subscribe(&id, second)?;
            let amqp = Amqp::connect()?;
            // A second delivery of the first message could come before or behind the second message.
            for number in [1, 2, 3] {
                amqp.publish(&id, &[number], persistent())?;
                let message = client.receive()?;
                assert_eq!((message.payload, message.qos), (vec![number], second), "{id}");
            }
            assert_eq!(binding_keys(&id, first)?, [""; 0], "{id}: bound at QoS {first}");
        }
    }
    Ok(())
}

#[test]
fn same_filter_twice_in_one_subscribe_counts_as_the_last() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "same-filter-twice")?;
    client.send(&subscribe(&[("same-filter-twice", 0), ("same-filter-twice", 1)]))?;
    client.hears(&[0x90, 4, 0, 1, 0, 1])?;
    Amqp::connect()?.publish("same-filter-twice", b"", persistent())?;
    assert_eq!(client.receive()?.qos, 1);
    assert_eq!(binding_keys("same-filter-twice", 0)?, [""; 0]);
    Ok(())
}

#[test]
fn overlapping_filters_at_one_qos_deliver_once() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "overlapping")?;
    client.send(&subscribe(&[("overlapping/#", 1), ("overlapping/+", 1), ("overlapping/a", 1)]))?;
    client.hears(&[0x90, 5, 0, 1, 1, 1, 1])?;
    let amqp = Amqp::connect()?;
    for number in [1, 2] {
        amqp.publish("overlapping.a", &[number], persistent())?;
        assert_eq!(client.receive()?.payload, [number]);
    }
    Ok(())
}

#[test]
fn overlapping_filters_of_different_qos_deliver_at_each() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "overlapping-qos")?;
    client.send(&subscribe(&[("overlapping-qos/#", 0), ("overlapping-qos/a", 1)]))?;
    client.hears(&[0x90, 4, 0, 1, 0, 1])?;
    Amqp::connect()?.publish("overlapping-qos.a", b"", persistent())?;
    let mut heard = [client.receive()?.qos, client.receive()?.qos];
    heard.sort_unstable();
    assert_eq!(heard, [0, 1]);
    Ok(())
}

#[test]
fn client_id_that_is_made_for_a_client_holds_no_session() -> Result<()> {
    let mut client = Client::connect(mqtt(Mode::Lazy))?;
    client.send(&Connect { clean: false, ..Connect::default() }.bytes())?;
    assert_eq!(client.rest()?, [0x20, 2, 0, 2]);
    Ok(())
}
