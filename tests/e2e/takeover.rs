//! Two connections with one client id, through proxies that know nothing of each other: the newer one stays.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use support::envoy::{Mode, Options, Shipped};
use support::process::wait_until;

use crate::amqp::{Amqp, persistent};
use crate::link::Link;
use crate::mqtt::{ACCEPTED, Client, Connect, Will};
use crate::world::{PATIENCE, broker, connections, mqtt, own_envoy_with, to};

/// Both ways between the two Envoys, and on one.
const WAYS: [(Mode, Mode); 3] =
    [(Mode::Lazy, Mode::Eager), (Mode::Eager, Mode::Lazy), (Mode::Lazy, Mode::Lazy)];

#[test]
fn duplicate_client_id_closes_the_old_connection_and_sends_its_will() -> Result<()> {
    for (number, (old_way, new_way)) in WAYS.into_iter().enumerate() {
        for (old_clean, new_clean) in [(true, true), (true, false), (false, true), (false, false)] {
            let id = format!("takeover-{number}-{old_clean}-{new_clean}");
            let mut watcher = Client::login(mqtt(Mode::Lazy), &format!("{id}-watcher"))?;
            watcher.subscribe(&id, 1)?;
            let will = Some(Will { topic: &id, payload: b"taken over", qos: 1, retain: false });
            let old = Connect { client_id: &id, clean: old_clean, will, ..Connect::default() };
            let mut old = Client::login_as(mqtt(old_way), &old)?;
            let mut new = Client::connect(mqtt(new_way))?;
            new.send(&Connect { client_id: &id, clean: new_clean, ..Connect::default() }.bytes())?;
            let present = u8::from(!old_clean && !new_clean);
            new.hears(&[0x20, 2, present, 0])?;
            assert_eq!(old.rest()?, b"", "{id}");
            assert_eq!(watcher.receive()?.text(), "taken over", "{id}");
            new.ping()?;
            Amqp::connect()?.publish(&id, b"nothing else", persistent())?;
            assert_eq!(watcher.receive()?.text(), "nothing else", "{id}");
        }
    }
    Ok(())
}

#[test]
fn duplicate_client_id_hands_the_session_over_with_its_queue() -> Result<()> {
    for (number, (old_way, new_way)) in WAYS.into_iter().enumerate() {
        let id = format!("takeover-session-{number}");
        let (mut old, _) = Client::resume(mqtt(old_way), &id)?;
        old.subscribe(&id, 1)?;
        old.subscribe(&format!("{id}/0"), 0)?;
        let amqp = Amqp::connect()?;
        for number in 0..15 {
            amqp.publish(&id, &[number], persistent())?;
        }
        for number in 0..10 {
            assert_eq!(old.message()?.payload, [number]);
        }
        let (mut new, present) = Client::resume(mqtt(new_way), &id)?;
        assert!(present);
        assert_eq!(old.rest()?, b"");
        for number in 0..15 {
            let message = new.receive()?;
            assert_eq!((&message.payload[..], message.dup), (&[number][..], number < 10), "{message:?}");
        }
        amqp.publish(&format!("{id}.0"), b"at QoS 0", persistent())?;
        assert_eq!(new.receive()?.text(), "at QoS 0");
    }
    Ok(())
}

#[test]
fn duplicate_client_id_again_and_again_leaves_the_last() -> Result<()> {
    let id = "takeover-chain";
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(Client::login(mqtt([Mode::Lazy, Mode::Eager][number % 2]), id)?);
    }
    let mut last = clients.pop().expect("twenty");
    for mut client in clients {
        assert_eq!(client.rest()?, b"");
    }
    last.subscribe(id, 1)?;
    last.publish(id, b"served")?;
    assert_eq!(last.receive()?.text(), "served");
    Ok(())
}

#[test]
fn duplicate_client_id_in_another_virtual_host_is_another_client() -> Result<()> {
    broker().api_put("vhosts/takeover-other", &json!({}))?;
    let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    broker().api_put("permissions/takeover-other/guest", &all)?;
    let id = "takeover-vhosts";
    let mut here = Client::login(mqtt(Mode::Lazy), id)?;
    let user = (Some("takeover-other:guest"), Some("guest"));
    let there = Connect { client_id: id, username: user.0, password: user.1, ..Connect::default() };
    let mut there = Client::login_as(mqtt(Mode::Lazy), &there)?;
    // Both have come through a login's round trips by now, and neither is told to go.
    for client in [&mut here, &mut there] {
        client.subscribe("takeover-vhosts/topic", 1)?;
        client.ping()?;
    }
    Ok(())
}

/// The line between the old client's Envoy and the broker passes nothing on, as if the host were unplugged.
#[test]
fn duplicate_client_id_when_the_old_one_s_host_is_dead() -> Result<()> {
    let id = "takeover-dead-host";
    let link = Link::open((Ipv4Addr::LOCALHOST, 0).into(), broker().amqp_address(), Duration::ZERO)?;
    let shipped = Shipped { plugin: json!({ "heartbeat": 1 }), ..to(Mode::Lazy, link.address) };
    let envoy = own_envoy_with(id, &shipped, &Options::default())?;
    let mut watcher = Client::login(mqtt(Mode::Lazy), "takeover-dead-host-watcher")?;
    watcher.subscribe("takeover-dead-host/will", 1)?;
    let will =
        Some(Will { topic: "takeover-dead-host/will", payload: b"host is dead", qos: 1, retain: false });
    let old = Connect { client_id: id, clean: false, will, ..Connect::default() };
    let mut old = Client::login_as(envoy.address("mqtt")?, &old)?;
    old.subscribe("takeover-dead-host/0", 0)?;
    old.subscribe("takeover-dead-host/1", 1)?;
    link.hold();
    let (mut new, present) = Client::resume(mqtt(Mode::Lazy), id)?;
    assert!(present);
    // It is served while the broker still waits for the dead host.
    new.subscribe("takeover-dead-host/new", 1)?;
    new.publish_safely("takeover-dead-host/1", b"for the session")?;
    new.ping()?;
    // What the session is subscribed to comes as soon as the broker has given the old connection up.
    assert_eq!(watcher.receive()?.text(), "host is dead");
    assert_eq!(new.receive()?.text(), "for the session");
    for (topic, qos) in [("0", 0), ("1", 1), ("new", 1)] {
        let topic = format!("takeover-dead-host/{topic}");
        watcher.publish_safely(&topic, b"")?;
        let message = new.receive()?;
        assert_eq!((message.topic, message.qos), (topic, qos.min(1)));
    }
    link.release();
    assert_eq!(old.rest()?, b"");
    Ok(())
}

#[test]
fn duplicate_client_id_of_several_newcomers_at_once_leaves_one() -> Result<()> {
    for round in 0..10 {
        let id = format!("takeover-race-{round}");
        let connect = Connect { client_id: &id, clean: round % 2 == 0, ..Connect::default() }.bytes();
        let newcomers = thread::scope(|scope| {
            let logins = [0, 1, 2, 3].map(|number| {
                let connect = &connect;
                scope.spawn(move || {
                    let mut client = Client::connect(mqtt([Mode::Lazy, Mode::Eager][number % 2]))?;
                    client.send(connect)?;
                    anyhow::Ok(client)
                })
            });
            logins.map(|login| login.join().expect("no panic"))
        });
        let mut newcomers =
            newcomers.into_iter().map(|it| Ok((it?, Vec::new()))).collect::<Result<Vec<_>>>()?;
        wait_until("one of them stays", PATIENCE, || {
            newcomers.retain_mut(|(client, heard)| !client.has_ended(heard).is_ok_and(|ended| ended));
            let told = newcomers.iter().all(|(_, connack)| !connack.is_empty());
            (told && newcomers.len() <= 1 && connections(&id).ok()?.len() <= 1).then_some(())
        })?;
        let (mut winner, connack) = newcomers.pop().context("none stays")?;
        ensure!(connack == ACCEPTED || connack == [0x20, 2, 1, 0], "{connack:02x?}");
        winner.subscribe(&id, 1)?;
        winner.publish(&id, b"served")?;
        assert_eq!(winner.receive()?.text(), "served");
    }
    Ok(())
}
