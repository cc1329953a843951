//! Shared subscriptions: `$share/group/filter` has one queue for all its members, at whichever Envoy they are.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;
use support::envoy::Mode;
use support::process::wait_until;

use crate::amqp::{Amqp, persistent};
use crate::mqtt::{Client, subscribe};
use crate::world::{PATIENCE, broker, mqtt};

#[test]
fn shared_subscription_gives_each_message_to_one_member() -> Result<()> {
    let mut members = [Mode::Lazy, Mode::Eager]
        .map(|mode| Client::login(mqtt(mode), &format!("share-once-{}", mode.name())).unwrap());
    for member in &mut members {
        member.subscribe("$share/group/share-once/#", 1)?;
    }
    let mut other_group = Client::login(mqtt(Mode::Lazy), "share-once-other")?;
    other_group.subscribe("$share/other/share-once/#", 1)?;
    let mut alone = Client::login(mqtt(Mode::Lazy), "share-once-alone")?;
    alone.subscribe("share-once/#", 1)?;
    let amqp = Amqp::connect()?;
    for number in 0..20 {
        amqp.publish("share-once.topic", &[number], persistent())?;
    }
    for number in 0..20 {
        assert_eq!(alone.receive()?.payload, [number]);
        assert_eq!(other_group.receive()?.payload, [number]);
    }
    // The broker gives them turns.
    let mut received = BTreeSet::new();
    for _ in 0..10 {
        for member in &mut members {
            let message = member.receive()?;
            assert_eq!((message.topic.as_str(), message.qos), ("share-once/topic", 1));
            assert!(received.insert(message.payload[0]), "{} came twice", message.payload[0]);
        }
    }
    assert_eq!(received.len(), 20);
    Ok(())
}

#[test]
fn shared_subscription_has_a_durable_queue_named_after_group_and_filter() -> Result<()> {
    let mut member = Client::login(mqtt(Mode::Lazy), "share-queue")?;
    member.subscribe("$share/workers/share-queue/+/x", 1)?;
    let queue = broker().api("queues/%2F/mqtt-subscription-workers%2Fshare-queue.*.xshare")?;
    assert_eq!((&queue["durable"], &queue["auto_delete"]), (&json!(true), &json!(false)));
    assert_eq!(queue["arguments"]["x-expires"], 86_400_000);
    Ok(())
}

#[test]
fn shared_subscription_delivers_at_the_lower_of_granted_and_published() -> Result<()> {
    let amqp = Amqp::connect()?;
    for (granted, published, qos) in [(0, 2, 0), (1, 1, 0), (1, 2, 1), (0, 1, 0)] {
        let id = format!("share-qos-{granted}-{published}");
        let mut member = Client::login(mqtt(Mode::Lazy), &id)?;
        member.subscribe(&format!("$share/group/{id}"), granted)?;
        let properties = lapin::BasicProperties::default().with_delivery_mode(published);
        amqp.publish(&id, b"", properties)?;
        assert_eq!(member.receive()?.qos, qos, "{id}");
    }
    let mut member = Client::login(mqtt(Mode::Lazy), "share-qos-2")?;
    member.send(&subscribe(&[("$share/group/share-qos-2", 2)]))?;
    member.hears(&[0x90, 3, 0, 1, 1])
}

#[test]
fn shared_subscription_ends_with_unsubscribe() -> Result<()> {
    let amqp = Amqp::connect()?;
    let queue = "queues/%2F/mqtt-subscription-group%2Fshare-leaveshare";
    let [mut stays, mut leaves] =
        ["share-stays", "share-leaves"].map(|id| Client::login(mqtt(Mode::Lazy), id).unwrap());
    for member in [&mut stays, &mut leaves] {
        member.subscribe("$share/group/share-leave", 1)?;
    }
    leaves.unsubscribe("$share/group/share-leave")?;
    for number in 0..10 {
        amqp.publish("share-leave", &[number], persistent())?;
        assert_eq!(stays.receive()?.payload, [number]);
    }
    leaves.ping()?;
    broker().api(queue)?;
    stays.unsubscribe("$share/group/share-leave")?;
    wait_until("its queue is gone with the last member", PATIENCE, || {
        broker().api(queue).is_err().then_some(())
    })?;
    stays.ping()
}

#[test]
fn shared_subscription_hands_on_what_a_member_leaves_unacknowledged() -> Result<()> {
    let mut fails = Client::login(mqtt(Mode::Lazy), "share-fails")?;
    fails.subscribe("$share/group/share-hand-on", 1)?;
    let amqp = Amqp::connect()?;
    for number in 0..5 {
        amqp.publish("share-hand-on", &[number], persistent())?;
    }
    for number in 0..5 {
        assert_eq!(fails.message()?.payload, [number]);
    }
    let mut takes_over = Client::login(mqtt(Mode::Eager), "share-takes-over")?;
    takes_over.subscribe("$share/group/share-hand-on", 1)?;
    fails.reset()?;
    for number in 0..5 {
        let message = takes_over.receive()?;
        assert_eq!((&message.payload[..], message.dup), (&[number][..], true));
    }
    Ok(())
}

#[test]
fn shared_subscription_waits_for_its_members() -> Result<()> {
    let (mut member, _) = Client::resume(mqtt(Mode::Lazy), "share-waits")?;
    member.subscribe("$share/group/share-waits", 1)?;
    member.disconnect()?;
    Amqp::connect()?.publish("share-waits", b"meanwhile", persistent())?;
    let (mut member, _) = Client::resume(mqtt(Mode::Lazy), "share-waits")?;
    member.subscribe("$share/group/share-waits", 1)?;
    assert_eq!(member.receive()?.text(), "meanwhile");
    Ok(())
}

#[test]
fn shared_subscription_that_is_none_is_refused() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "share-none")?;
    let filters = ["$share/", "$share/group", "$share/group/", "$share//x", "$share/a+/x", "$share/#/x"];
    client.send(&subscribe(&filters.map(|filter| (filter, 1))))?;
    client.hears(&[&[0x90, 8, 0, 1][..], &[0x80; 6]].concat())
}
