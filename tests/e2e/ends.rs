//! How connections end: with FIN, with a DISCONNECT that was read, with everybody else at the same time.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::Shutdown;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::envoy::Mode;

use crate::mqtt::{Client, Connect, DISCONNECT, Message, Will, packet, puback, publish, text};
use crate::world::mqtt;

/// MQTT.js's `end()`, and whoever reads to the end, takes a reset for an error.
#[test]
fn orderly_end_is_answered_by_fin() -> Result<()> {
    for (name, disconnects, fin) in [("disconnect", true, false), ("both", true, true), ("fin", false, true)]
    {
        for (subscribed, has_will) in [(false, false), (true, false), (true, true)] {
            for round in 0..ROUNDS {
                let id = format!("end-{name}-{subscribed}-{has_will}-{round}");
                let will =
                    has_will.then_some(Will { topic: "end-will", payload: b"gone", qos: 0, retain: false });
                let connect = Connect { client_id: &id, will, ..Connect::default() };
                let mut client = Client::login_as(mqtt(Mode::Lazy), &connect)?;
                if subscribed {
                    client.subscribe(&id, 1)?;
                }
                if disconnects {
                    client.send(DISCONNECT)?;
                }
                if fin {
                    client.0.shutdown(Shutdown::Write)?;
                }
                let mut rest = Vec::new();
                client.0.read_to_end(&mut rest).with_context(|| format!("{id}: no FIN"))?;
                ensure!(rest.is_empty(), "{id}: {rest:02x?}");
            }
        }
    }
    Ok(())
}

/// paho's `loop_stop(); disconnect()`, and every client in C that closes a socket from which it has not read all. [MQTT-3.14.4-3]
#[test]
fn disconnect_withdraws_the_will_though_a_reset_follows() -> Result<()> {
    let mut watcher = Client::login(mqtt(Mode::Lazy), "end-watcher")?;
    watcher.subscribe("end-reset/#", 1)?;
    for (name, reset, unread, pause) in [
        ("close", false, false, 0),
        ("close-unread", false, true, 0),
        ("reset", true, false, 0),
        ("reset-later", true, false, 20),
        ("reset-unread", true, true, 0),
    ] {
        for round in 0..ROUNDS {
            let id = format!("end-reset-{name}-{round}");
            let topic = format!("end-reset/{name}/{round}");
            let will = Will { topic: &topic, payload: b"gone", qos: 1, retain: false };
            let connect = Connect { client_id: &id, will: Some(will), ..Connect::default() };
            let mut client = Client::login_as(mqtt(Mode::Lazy), &connect)?;
            if unread {
                client.send(&[0xc0, 0])?;
                // Until PINGRESP is here: then the kernel resets what is closed.
                client.0.peek(&mut [0])?;
            }
            client.send(DISCONNECT)?;
            thread::sleep(Duration::from_millis(pause));
            if reset {
                client.reset()?;
            } else {
                drop(client);
            }
        }
    }
    // A will is sent within the time that the broker takes to notice: whoever comes with these client ids takes them over, and is told.
    for name in ["close", "close-unread", "reset", "reset-later", "reset-unread"] {
        for round in 0..ROUNDS {
            Client::login(mqtt(Mode::Lazy), &format!("end-reset-{name}-{round}"))?.disconnect()?;
        }
    }
    watcher.publish("end-reset/fence", b"")?;
    let mut sent = Vec::new();
    loop {
        let message = watcher.receive()?;
        if message.topic == "end-reset/fence" {
            break;
        }
        sent.push(message.topic);
    }
    assert_eq!(sent, Vec::<String>::new(), "wills of clients that said DISCONNECT");
    Ok(())
}

/// As home automation does at its start, without waiting.
#[test]
fn many_filters_in_one_flight_are_all_granted() -> Result<()> {
    const FILTERS: usize = 5000;
    const IN_ONE: usize = 500;
    let mut client = Client::login(mqtt(Mode::Lazy), "many-filters")?;
    for first in (0..FILTERS).step_by(IN_ONE) {
        let filters = (first..first + IN_ONE)
            .flat_map(|n| [text(&format!("many-filters/{n}/state")), vec![0]].concat());
        let id = (first / IN_ONE + 1) as u16;
        client.send(&packet(0x82, &[&id.to_be_bytes()[..], &filters.collect::<Vec<_>>()].concat()))?;
    }
    for id in 1..=(FILTERS / IN_ONE) as u16 {
        let suback = client.packet().with_context(|| format!("SUBACK {id}"))?;
        let (head, granted) = suback.split_at(5);
        assert_eq!((head[0], &head[3..]), (0x90, &id.to_be_bytes()[..]));
        ensure!(granted == [0; IN_ONE], "{id}: {granted:02x?}");
    }
    client.publish(&format!("many-filters/{}/state", FILTERS - 1), b"on")?;
    assert_eq!(client.receive()?.text(), "on");
    client.disconnect()
}

/// As a fleet does when Envoy or the broker has come back.
#[test]
fn retained_readers_at_once_all_get_all() -> Result<()> {
    const TOPICS: usize = 500;
    const READERS: usize = 20;
    let topic = |n: usize| format!("end-readers/sensor/{n}/config");
    let mut device = Client::login(mqtt(Mode::Lazy), "end-readers")?;
    let payload = [b'x'; 500];
    // A hundred are under way.
    for n in 0..TOPICS + 100 {
        if n < TOPICS {
            device.send(&publish(0x33, &topic(n), n as u16 + 1, &payload))?;
        }
        if let Some(n) = n.checked_sub(100) {
            device.hears(&puback(n as u16 + 1))?;
        }
    }
    let gate = Arc::new(Barrier::new(READERS));
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let gate = gate.clone();
            let expected: BTreeSet<_> = (0..TOPICS).map(topic).collect();
            thread::spawn(move || -> Result<()> {
                let id = format!("end-readers-{n}");
                let qos = (n % 2) as u8;
                let connect = Connect { client_id: &id, ..Connect::default() }.bytes();
                let filter = [&[0, 1][..], &text("end-readers/#"), &[qos]].concat();
                gate.wait();
                let mut reader = Client::connect(mqtt(Mode::Lazy))?;
                reader.send(&[connect, packet(0x82, &filter)].concat())?;
                let mut seen = BTreeSet::new();
                while seen != expected {
                    let had = || format!("{id} had {} of {TOPICS}", seen.len());
                    let packet = reader.packet().with_context(had)?;
                    if packet[0] & 0xf0 == 0x30 {
                        let message = Message::read(&packet)?;
                        reader.acknowledge(&message)?;
                        ensure!(message.retain, "{id}: {message:?}");
                        ensure!(seen.insert(message.topic.clone()), "{id}: twice: {message:?}");
                    }
                }
                reader.ping()
            })
        })
        .collect();
    for reader in readers {
        reader.join().expect("a reader")?;
    }
    for n in 0..TOPICS {
        device.send(&publish(0x33, &topic(n), n as u16 + 1, b""))?;
    }
    (0..TOPICS).try_for_each(|n| device.hears(&puback(n as u16 + 1)))
}

const ROUNDS: u64 = 8;
