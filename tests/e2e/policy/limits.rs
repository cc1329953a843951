//! How much: of a tenant over both workers of an Envoy, and of one client.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use support::envoy::{Envoy, Mode, Options, Shipped};
use support::process::wait_until;

use super::{anonymous, code};
use crate::amqp::Amqp;
use crate::mqtt::{Client, Connect, packet, publish, subscribe, text};
use crate::world::{PATIENCE, broker, own_envoy, own_envoy_with, to, trapping_module};

/// One more than the limit is refused wherever it comes to; a place is free when its client has gone, and some seconds after a
/// worker has ended with all of its clients.
#[test]
fn max_connections_over_all_workers() -> Result<()> {
    const LIMIT: usize = 24;
    let shipped = Shipped {
        module: trapping_module(),
        plugin: json!({ "max_connections": LIMIT, "retained": false }),
        ..to(Mode::Lazy, broker().amqp_address())
    };
    let envoy =
        own_envoy_with("max-connections", &shipped, &Options { concurrency: 2, ..Options::default() })?;
    let address = envoy.address("mqtt")?;
    let (mut clients, mut refused) = (Vec::new(), 0);
    // Several at once, for the workers to meet.
    thread::scope(|scope| {
        let come = |number: usize| {
            scope
                .spawn(move || (0..10).map(|turn| enter(address, &format!("seat-{number}-{turn}"))).collect())
        };
        for results in [0, 1, 2, 3].map(come) {
            let results: Vec<Result<Option<Client>>> = results.join().expect("no panic");
            for result in results {
                match result? {
                    Some(client) => clients.push(client),
                    None => refused += 1,
                }
            }
        }
        anyhow::Ok(())
    })?;
    ensure!((clients.len(), refused) == (LIMIT, 40 - LIMIT), "{} in, {refused} refused", clients.len());
    let shares = [active(&envoy, 0)?, active(&envoy, 1)?];
    ensure!(shares.iter().all(|share| *share > 0), "one worker has all connections");
    for client in &mut clients {
        client.ping()?;
    }

    // Whatever way they leave.
    clients.pop().context("a client")?.disconnect()?;
    clients.pop().context("a client")?.reset()?;
    for number in 0..2 {
        clients.push(wait_until("a free place", PATIENCE, || {
            enter(address, &format!("seat-again-{number}")).ok().flatten()
        })?);
    }
    ensure!(enter(address, "seat-too-many")?.is_none());

    clients[0].send(b"leveret/trap")?;
    ensure!(clients[0].rest()?.is_empty());
    let trapped = Instant::now();
    let mut left = Vec::new();
    for mut client in clients.drain(1..) {
        if client.ping().is_ok() {
            left.push(client);
        }
    }
    ensure!(!left.is_empty() && left.len() < LIMIT - 1, "{} are left", left.len());
    // A fresh VM takes a moment, and until the dead one's places are free it may serve nobody.
    let mut free = Vec::new();
    wait_until("the places of the dead", PATIENCE, || {
        let client = enter(address, &format!("seat-later-{}", free.len())).ok().flatten();
        free.extend(client);
        (left.len() + free.len() == LIMIT).then_some(())
    })?;
    println!("{} places of a worker that has trapped are free after {:?}", free.len(), trapped.elapsed());
    ensure!(enter(address, "seat-too-many")?.is_none());
    left.iter_mut().chain(&mut free).try_for_each(Client::ping)
}

/// `None` when there is no place.
fn enter(address: SocketAddr, client_id: &str) -> Result<Option<Client>> {
    let mut client = Client::connect(address)?;
    client.send(&anonymous(client_id).bytes())?;
    match *client.packet()? {
        [0x20, 2, 0, 0] => Ok(Some(client)),
        [0x20, 2, 0, 5] => Ok(None),
        ref other => anyhow::bail!("{other:02x?}"),
    }
}

/// Each worker reads what its clients may send, and both together no more than the tenant may. Nothing is lost, and all is in order.
#[test]
fn message_rate_over_all_workers() -> Result<()> {
    const RATE: u32 = 400;
    const SECONDS: u32 = 3;
    const CLIENTS: usize = 8;
    let envoy = own_envoy_with(
        "message-rate",
        &Shipped {
            plugin: json!({
                "retained": false,
                "tenants": [{ "name": "limited", "match": { "client_id": "rate-*" }, "message_rate": RATE }],
            }),
            ..to(Mode::Lazy, broker().amqp_address())
        },
        &Options { concurrency: 2, ..Options::default() },
    )?;
    let address = envoy.address("mqtt")?;
    let mut writers = Vec::new();
    // Until each worker has its share.
    while writers.len() < CLIENTS || [active(&envoy, 0)?, active(&envoy, 1)?].contains(&0) {
        ensure!(writers.len() < 100, "one worker gets all connections");
        writers.push(Client::login(address, &format!("rate-{}", writers.len()))?);
    }
    let mut reader = Client::login(address, "reads-at-any-rate")?;
    reader.subscribe("rate/+", 1)?;
    // More than the rate lets through, from each.
    let each = RATE * (SECONDS + 2) / writers.len() as u32;
    for (number, writer) in writers.iter_mut().enumerate() {
        let topic = format!("rate/{number}");
        let flight = (0..each).flat_map(|id| publish(0x32, &topic, id as u16 + 1, &id.to_be_bytes()));
        writer.send(&flight.collect::<Vec<u8>>())?;
    }
    let (start, all) = (Instant::now(), each * writers.len() as u32);
    let (mut heard, mut next) = (0, vec![0; writers.len()]);
    let (mut after_burst, mut at_end) = (None, None);
    while heard < all {
        let message = reader.receive()?;
        let writer: usize = message.topic.strip_prefix("rate/").context("a number")?.parse()?;
        ensure!(message.payload == u32::to_be_bytes(next[writer]), "lost or out of order");
        next[writer] += 1;
        heard += 1;
        let passed = start.elapsed();
        if passed >= Duration::from_secs(1) {
            after_burst.get_or_insert((passed, heard));
        }
        if passed >= Duration::from_secs(SECONDS.into()) {
            at_end.get_or_insert((passed, heard));
        }
    }
    let ((from, first), (to, last)) = (after_burst.context("too fast")?, at_end.context("too fast")?);
    let rate = f64::from(last - first) / (to - from).as_secs_f64();
    let whole = f64::from(all) / start.elapsed().as_secs_f64();
    println!(
        "{} clients of 2 workers: {rate:.0} messages/s at a rate of {RATE}; {whole:.0} with the burst",
        writers.len()
    );
    // Twice the rate would be each worker's own.
    ensure!((0.8..1.25).contains(&(rate / f64::from(RATE))), "{rate} messages/s");
    for mut writer in writers {
        for id in 0..each {
            writer.hears(&packet(0x40, &(id as u16 + 1).to_be_bytes()))?;
        }
        writer.ping()?;
    }
    Ok(())
}

/// A client that is held is held by TCP: its socket takes no more, and Envoy keeps no more than the listener's limit.
#[test]
fn client_message_rate_is_felt_at_the_client_and_not_in_memory() -> Result<()> {
    const LARGEST: usize = 60_000;
    let shipped = Shipped {
        plugin: json!({ "client_message_rate": 5, "retained": false }),
        ..to(Mode::Lazy, broker().amqp_address())
    };
    let envoy = own_envoy_with("held", &shipped, &Options::default())?;
    let address = envoy.address("mqtt")?;
    let mut clients: Vec<Client> =
        (0..8).map(|number| Client::login(address, &format!("held-{number}"))).collect::<Result<_>>()?;
    let allocated = || anyhow::Ok(envoy.memory()?["allocated"].as_str().context("bytes")?.parse::<f64>()?);
    let before = allocated()?;
    let message = packet(0x30, &[&text("held")[..], &[0; LARGEST]].concat());
    let mut sent = 0;
    for client in &mut clients {
        client.0.set_write_timeout(Some(Duration::from_millis(250)))?;
        // More than the kernel keeps for a connection.
        let stopped = loop {
            match client.0.write(&message) {
                Ok(bytes) => sent += bytes,
                Err(error) => break error.kind(),
            }
            ensure!(sent < 1 << 30, "a client is never held");
        };
        ensure!(stopped == ErrorKind::WouldBlock, "{stopped}");
    }
    let grown = (allocated()? - before) / (1 << 20) as f64;
    println!("{} clients are held after {} MiB; Envoy keeps {grown:.1} MiB", clients.len(), sent >> 20);
    // 256 KiB and one read more for each, twice where it is copied; they have sent many times that.
    ensure!(sent >> 20 > 16 && grown < 8., "{} MiB sent, {grown} MiB kept", sent >> 20);
    // Who is on the same worker feels nothing.
    Client::login(address, "not-held")?.ping()
}

#[test]
fn max_inflight_and_client_message_rate_lose_nothing() -> Result<()> {
    let envoy = own_envoy(
        "client-limits",
        json!({
            "retained": false,
            "tenants": [
                { "name": "rate", "match": { "client_id": "limited-rate" }, "client_message_rate": 200 },
                { "name": "inflight", "match": { "client_id": "limited-inflight" }, "max_inflight": 1 },
            ],
        }),
    )?;
    let address = envoy.address("mqtt")?;
    let amqp = Amqp::connect()?;
    for (client_id, messages) in [("limited-rate", 400), ("limited-inflight", 400)] {
        let queue = amqp.queue(client_id)?;
        let mut client = Client::login(address, client_id)?;
        let start = Instant::now();
        let flight = (1..=messages).flat_map(|id: u16| publish(0x32, client_id, id, &id.to_be_bytes()));
        client.send(&flight.collect::<Vec<u8>>())?;
        for id in 1..=messages {
            client.hears(&packet(0x40, &id.to_be_bytes()))?;
        }
        let took = start.elapsed();
        println!("{client_id}: {messages} messages in {took:?}");
        // 200 at once, and 200 a second.
        ensure!(client_id != "limited-rate" || took >= Duration::from_millis(950), "{took:?}");
        client.ping()?;
        for id in 1..=messages {
            ensure!(queue.next()?.delivery.data == id.to_be_bytes(), "lost or out of order");
        }
    }
    Ok(())
}

#[test]
fn limits_of_a_message_and_of_a_connection() -> Result<()> {
    let envoy = own_envoy(
        "message-limits",
        json!({
            "max_payload_size": 10, "max_qos": 1, "retain_allowed": false, "max_topic_levels": 3,
            "max_subscriptions": 2,
        }),
    )?;
    let address = envoy.address("mqtt")?;
    let connect = || Client::login(address, "message-limits");
    let mut client = connect()?;
    client.send(&subscribe(&[("limits/a", 2), ("limits/a/b/c", 0), ("limits/b", 0), ("limits/c", 0)]))?;
    client.hears(&[0x90, 6, 0, 1, 1, 0x80, 0, 0x80])?;
    client.unsubscribe("limits/b")?;
    client.subscribe("limits/c", 0)?;
    client.publish("limits/a", &[b'x'; 10])?;
    assert_eq!(client.receive()?.payload, [b'x'; 10]);
    for (reason, refused) in [
        ("max_payload_size", publish(0x32, "limits/a", 1, &[b'x'; 11])),
        ("max_qos", publish(0x34, "limits/a", 1, b"")),
        ("retain_allowed", publish(0x33, "limits/a", 1, b"")),
        ("max_topic_levels", publish(0x32, "limits/a/b/c", 1, b"")),
    ] {
        let mut client = connect()?;
        client.send(&refused)?;
        assert_eq!(client.rest()?, b"", "{reason}");
        let counter = format!("wasmcustom.leveret.denied.by.{reason}");
        envoy.stat_until(&counter, PATIENCE, |count| count == 1 + u64::from(reason == "max_topic_levels"))?;
    }
    let will = crate::mqtt::Will { topic: "limits/a", payload: &[0; 11], qos: 0, retain: false };
    let connect = Connect { will: Some(will), ..anonymous("message-limits-will") };
    assert_eq!(code(Client::connect(address)?, &connect)?, 5);
    Ok(())
}

/// How many clients a worker has.
fn active(envoy: &Envoy, worker: u8) -> Result<u64> {
    envoy.stat(&format!("listener.127.0.0.1_0.worker_{worker}.downstream_cx_active"))
}
