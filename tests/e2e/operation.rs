//! What an operator relies on: round trips, deadlines, windows, names in the broker, and what a trap costs.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::envoy::{Envoy, Mode, Options, Shipped};
use support::process::wait_until;
use support::{methods as say, scripted_broker};

use crate::amqp::{Amqp, persistent};
use crate::link::Link;
use crate::mqtt::{ACCEPTED, Client, Connect, DISCONNECT};
use crate::world::{PATIENCE, broker, mqtt, own_envoy, own_envoy_with, to};

/// The line to the broker is so slow that nothing else counts.
#[test]
fn a_login_takes_one_round_trip() -> Result<()> {
    const ONE_WAY: Duration = Duration::from_millis(250);
    const ROUND_TRIP: Duration = Duration::from_millis(500);
    let link = Link::open((Ipv4Addr::LOCALHOST, 0).into(), broker().amqp_address(), ONE_WAY)?;
    let login_takes = |login: &str| -> Result<Duration> {
        let shipped = Shipped { plugin: json!({ "login": login }), ..to(Mode::Lazy, link.address) };
        let envoy = own_envoy_with(login, &shipped, &Options::default())?;
        let mut client = Client::connect(envoy.address("mqtt")?)?;
        let start = Instant::now();
        client.send(&Connect { client_id: login, ..Connect::default() }.bytes())?;
        client.hears(ACCEPTED)?;
        Ok(start.elapsed())
    };
    let (pipelined, sequential) = (login_takes("pipelined")?, login_takes("sequential")?);
    println!("CONNECT to CONNACK, {ROUND_TRIP:?} from the broker: {pipelined:?}, sequential {sequential:?}");
    assert!(pipelined >= ROUND_TRIP, "the line is slow");
    assert!(pipelined < 2 * ROUND_TRIP);
    assert!(sequential >= 3 * ROUND_TRIP);
    Ok(())
}

#[test]
fn a_keep_alive_is_kept_by_pings_and_missed_by_silence() -> Result<()> {
    let mut client = Client::connect(mqtt(Mode::Lazy))?;
    client.send(&Connect { keep_alive: 1, client_id: "keep-alive", ..Connect::default() }.bytes())?;
    client.hears(ACCEPTED)?;
    let last = (0..3).try_fold(Instant::now(), |_, _| {
        let start = Instant::now();
        client.ping()?;
        anyhow::Ok(start)
    })?;
    assert_eq!(client.rest()?, b"");
    assert!(last.elapsed() >= Duration::from_millis(1500), "{:?}", last.elapsed());
    Ok(())
}

#[test]
fn a_client_that_does_not_log_in_is_closed_in_time() -> Result<()> {
    let envoy = own_envoy("login-timeout", json!({ "login_timeout": 500 }))?;
    for said in [&b""[..], b"\x10\x20\0\x04MQ"] {
        let start = Instant::now();
        let mut client = Client::connect(envoy.address("mqtt")?)?;
        client.send(said)?;
        assert_eq!(client.rest()?, b"");
        assert!(start.elapsed() >= Duration::from_millis(500));
    }
    envoy.stat_until("wasmcustom.leveret.closed.timed_out", PATIENCE, |closed| closed == 2)?;
    Ok(())
}

#[test]
fn prefetch_bounds_what_is_unacknowledged() -> Result<()> {
    let envoy = own_envoy("prefetch", json!({ "prefetch": 3 }))?;
    let mut client = Client::login(envoy.address("mqtt")?, "prefetch")?;
    client.subscribe("prefetch/topic", 1)?;
    let amqp = Amqp::connect()?;
    for number in 0..10 {
        amqp.publish("prefetch.topic", &[number], persistent())?;
    }
    wait_until("3 are with the client and 7 wait", PATIENCE, || {
        let queues =
            broker().ctl(&["--quiet", "list_queues", "name", "messages_unacknowledged", "messages_ready"]);
        queues.ok()?.contains("mqtt-subscription-prefetchqos1\t3\t7").then_some(())
    })?;
    let mut unacknowledged = VecDeque::new();
    for number in 0..10 {
        if unacknowledged.len() == 3 {
            client.ping()?;
            let [high, low] = unacknowledged.pop_front().context("a packet id")?;
            client.send(&[0x40, 2, high, low])?;
        }
        let publish = client.packet()?;
        let (head, payload) = publish.split_at(publish.len() - 1);
        assert_eq!((head[0], payload), (0x32, &[number][..]));
        unacknowledged.push_back(*head.last_chunk::<2>().context("a packet id")?);
    }
    Ok(())
}

#[test]
fn the_broker_shows_the_client_by_name_and_forgets_it() -> Result<()> {
    let id = "seen-in-management";
    let mut client = Client::login(mqtt(Mode::Lazy), id)?;
    client.subscribe("seen/0", 0)?;
    client.subscribe("seen/1", 1)?;
    wait_until("a connection of that name", PATIENCE, || connection(id))?;
    for qos in [0, 1] {
        ensure!(queue(id, qos), "no queue for QoS {qos}");
    }
    client.send(DISCONNECT)?;
    assert_eq!(client.rest()?, b"");
    wait_until("the connection is gone", PATIENCE, || connection(id).is_none().then_some(()))?;
    wait_until("its queues are gone", PATIENCE, || (!queue(id, 0) && !queue(id, 1)).then_some(()))
}

fn connection(name: &str) -> Option<Value> {
    let connections = broker().api("connections").ok()?;
    connections.as_array()?.iter().find(|connection| connection["user_provided_name"] == name).cloned()
}

fn queue(client_id: &str, qos: u8) -> bool {
    broker().api(&format!("queues/%2F/mqtt-subscription-{client_id}qos{qos}")).is_ok()
}

#[test]
fn a_trap_ends_the_connections_of_its_worker_and_no_others() -> Result<()> {
    let shipped = Shipped { module: trapping_module(), ..to(Mode::Lazy, broker().amqp_address()) };
    let envoy = own_envoy_with("trap", &shipped, &Options { concurrency: 2, ..Options::default() })?;
    let address = envoy.address("mqtt")?;
    // The kernel chooses the worker.
    let mut clients: [Vec<Client>; 2] = Default::default();
    for number in 0.. {
        if clients.iter().all(|clients| clients.len() >= 2) {
            break;
        }
        ensure!(number < 100, "one worker gets all connections");
        let client = Client::login(address, &format!("trap-{number}"))?;
        let of_first = active(&envoy, 0)?;
        clients[usize::from(of_first == clients[0].len() as u64)].push(client);
    }
    let [mut of_trapped, mut of_other] = clients;
    of_trapped[0].send(b"leveret/trap")?;
    assert_eq!(of_trapped[0].rest()?, b"");
    // Envoy ends the others when they next have something to say or to hear.
    for client in &mut of_trapped[1..] {
        client.send(PINGREQ)?;
        assert_eq!(client.rest()?, b"");
    }
    for client in &mut of_other {
        client.ping()?;
    }
    // Whichever worker they come to.
    for number in 0..8 {
        serve(address, &format!("trap-later-{number}"))?;
    }
    Ok(())
}

/// A fresh VM takes a moment, and meanwhile its worker's clients are turned away.
#[test]
fn a_broker_that_hangs_up_ends_its_connection_and_no_others() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let shipped = to(Mode::Lazy, listener.local_addr()?);
    let (hang_up, wait) = mpsc::channel::<()>();
    thread::spawn(move || {
        // Health checks say nothing and are told nothing.
        let mut connections = listener.incoming().flatten().filter_map(|mut it| {
            it.read_exact(&mut [0; 8]).ok()?;
            let login = [say::start("Fake", "1", "PLAIN"), say::tune(0, 0, 0), say::open_ok()];
            it.write_all(&login.map(|method| scripted_broker::method(0, method)).concat()).ok().map(|()| it)
        });
        let (first, mut second) = (connections.next()?, connections.next()?);
        wait.recv().ok()?;
        first.shutdown(Shutdown::Write).ok()?;
        // The other's login, then its ping.
        let mut heard = Vec::new();
        while !heard.ends_with(&scripted_broker::method(1, say::flow(true))) {
            let mut byte = [0];
            second.read_exact(&mut byte).ok()?;
            heard.extend(byte);
        }
        let answer = [say::channel_open_ok(), say::flow_ok(true)];
        second.write_all(&answer.map(|method| scripted_broker::method(1, method)).concat()).ok()?;
        second.read_to_end(&mut Vec::new()).ok()
    });
    let envoy = own_envoy_with("hangs-up", &shipped, &Options { concurrency: 1, ..Options::default() })?;
    let mut first = Client::login(envoy.address("mqtt")?, "hung-up-on")?;
    let mut second = Client::login(envoy.address("mqtt")?, "goes-on")?;
    hang_up.send(())?;
    assert_eq!(first.rest()?, b"");
    second.ping()?;
    ensure!(!envoy.log().contains("panicked"), "{}", envoy.log());
    Ok(())
}

fn serve(address: SocketAddr, client_id: &str) -> Result<()> {
    wait_until("service", PATIENCE, || Client::login(address, client_id).ok()?.ping().ok())
}

/// How many clients a worker has.
fn active(envoy: &Envoy, worker: u8) -> Result<u64> {
    envoy.stat(&format!("listener.127.0.0.1_0.worker_{worker}.downstream_cx_active"))
}

fn trapping_module() -> PathBuf {
    let built = || support::root().join("target/leveret-trap.wasm");
    std::env::var_os("LEVERET_TRAP_WASM").map_or_else(built, PathBuf::from)
}

const PINGREQ: &[u8] = &[0xc0, 0];
