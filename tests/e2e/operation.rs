//! What an operator relies on: round trips, deadlines, windows, names in the broker, and what a trap costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic};
use anyhow::{Result, ensure};
use serde_json::json;
use support::envoy::{Envoy, Mode, Options, Shipped};
use support::process::wait_until;

use crate::fake_broker::{self, Reply};
use crate::link::Link;
use crate::mqtt::{ACCEPTED, Client, Connect};
use crate::world::{PATIENCE, broker, mqtt, own_envoy, own_envoy_with, rough_broker, to, trapping_module};

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
fn keep_alive_is_kept_by_pings_and_missed_by_silence() -> Result<()> {
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
    envoy.stat_until("wasmcustom.leveret.none.closed.timed_out", PATIENCE, |closed| closed == 2)?;
    Ok(())
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

#[test]
fn a_broker_that_hangs_up_ends_its_connection_and_no_others() -> Result<()> {
    let address = fake_broker::listen(|_, frame| match frame {
        AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Publish(_))) => Reply::HangUp,
        _ => Reply::Obvious,
    })?;
    let options = Options { concurrency: 1, ..Options::default() };
    let envoy = own_envoy_with("hangs-up", &to(Mode::Lazy, address), &options)?;
    let mut first = Client::login(envoy.address("mqtt")?, "hung-up-on")?;
    let mut second = Client::login(envoy.address("mqtt")?, "goes-on")?;
    first.publish("topic", b"")?;
    assert_eq!(first.rest()?, b"");
    second.ping()?;
    ensure!(!envoy.log().contains("panicked"), "{}", envoy.log());
    Ok(())
}

/// A fresh VM takes a moment, and meanwhile its worker's clients are turned away.
fn serve(address: SocketAddr, client_id: &str) -> Result<()> {
    wait_until("service", PATIENCE, || Client::login(address, client_id).ok()?.ping().ok())
}

/// How many clients a worker has.
fn active(envoy: &Envoy, worker: u8) -> Result<u64> {
    envoy.stat(&format!("listener.127.0.0.1_0.worker_{worker}.downstream_cx_active"))
}

const PINGREQ: &[u8] = &[0xc0, 0];

/// Also where it resets connections, which is all that is left of a broker that is killed.
#[test]
fn death_of_the_broker_is_not_the_client_s_end() -> Result<()> {
    let mut broker = rough_broker();
    for mode in [Mode::Lazy, Mode::Eager] {
        let name = format!("broker-dies-{mode:?}").to_lowercase();
        let envoy = own_envoy_with(&name, &to(mode, broker.amqp_address()), &Options::default())?;
        let address = envoy.address("mqtt")?;
        let mut clients = Vec::new();
        for number in 0..5 {
            clients.push(Client::login(address, &format!("{name}-{number}"))?);
        }
        broker.kill()?;
        for client in &mut clients {
            client.rest()?;
        }
        let closed = |reason: &str| envoy.stat(&format!("wasmcustom.leveret.none.closed.{reason}"));
        envoy.stat_until("wasmcustom.leveret.none.closed.broker_gone", PATIENCE, |count| count == 5)?;
        ensure!(closed("client_gone")? == 0, "{}", envoy.log());
        ensure!(envoy.log().contains("closed: broker is gone"), "{}", envoy.log());
        broker.restart()?;
        // And the client's end is the client's.
        let later = || Client::login(address, &format!("{name}-later")).ok();
        drop(wait_until("the broker is back", PATIENCE, later)?);
        envoy.stat_until("wasmcustom.leveret.none.closed.client_gone", PATIENCE, |count| count == 1)?;
    }
    Ok(())
}

/// Each close that a callback asks for runs inside the one before, and V8's stack has room for some thousand.
#[test]
fn thousands_of_silent_connections_time_out_at_once_and_nobody_notices() -> Result<()> {
    let envoy = own_envoy("silent", json!({ "login_timeout": 5_000 }))?;
    let address = envoy.address("mqtt")?;
    let mut bystander = Client::login(address, "silent-bystander")?;
    let silent: Vec<_> =
        (0..4_000).map(|_| std::net::TcpStream::connect(address)).collect::<std::io::Result<_>>()?;
    envoy.stat_until("wasmcustom.leveret.none.closed.timed_out", PATIENCE, |count| count == 4_000)?;
    bystander.ping()?;
    drop(silent);
    ensure!(!envoy.log().contains("Maximum call stack size exceeded"), "{}", envoy.log());
    bystander.finish()
}
