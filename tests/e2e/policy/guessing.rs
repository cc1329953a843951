//! Wrong passwords: they cost the broker nothing, and who guesses is not looked at any more.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use support::envoy::{Chain, Listener, Mode, Options, Shipped};
use support::process::wait_until;
use support::rabbitmq::Rabbitmq;

use super::{PASSWORD, code, count, counted, make_account, user, users, with};
use crate::mqtt::{ACCEPTED, Client};
use crate::world::{PATIENCE, broker, can_be_lazy, has_broker, own_envoy, own_envoy_with, rough_broker, to};

/// Whether the brake holds them or each is looked at, the broker hears nothing of wrong passwords, and others are served.
#[test]
fn flood_of_wrong_passwords_never_reaches_the_broker() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    const THREADS: usize = 2;
    const LASTS: Duration = Duration::from_secs(2);
    let broker = rough_broker();
    let loose = json!({ "max_login_failures_per_address": 0, "max_login_failures_per_user": 0 });
    let chain = Chain { plugin: serde_json::from_value(loose)?, ..Chain::default() };
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let shipped = Shipped {
        plugin: json!({ "users": [user("guest", "guest"), user("victim", PASSWORD)], "retained": false }),
        listeners: vec![Listener { name: "no-brake".to_owned(), address, chains: vec![chain] }],
        ..to(Mode::Lazy, broker.amqp_address())
    };
    let envoy = own_envoy_with("flood", &shipped, &Options { concurrency: 1, ..Options::default() })?;
    has_broker(&envoy)?;
    for (entry, what) in [("no-brake", "each is looked at"), ("mqtt", "the brake is on")] {
        let address = envoy.address(entry)?;
        let mut good = Client::login_as(address, &with("good", "guest", "guest"))?;
        good.subscribe("flood/good", 1)?;
        let before = logins(&broker)?;
        let start = Instant::now();
        let (guesses, served) = thread::scope(|scope| {
            let guesses = [0; THREADS].map(|_| {
                scope.spawn(move || -> Result<u32> {
                    let mut guesses = 0;
                    while start.elapsed() < LASTS {
                        let guess = format!("{:?}-{guesses}", thread::current().id());
                        let answer = code(Client::connect(address)?, &with("bad", "victim", &guess))?;
                        ensure!(answer == 4, "CONNACK {answer}");
                        guesses += 1;
                    }
                    Ok(guesses)
                })
            });
            let mut served = 0;
            while start.elapsed() < LASTS {
                good.publish("flood/good", &[served as u8])?;
                ensure!(good.receive()?.payload == [served as u8]);
                good.ping()?;
                served += 1;
            }
            let guesses = guesses.into_iter().map(|thread| thread.join().expect("no panic"));
            anyhow::Ok((guesses.sum::<Result<u32>>()?, served))
        })?;
        assert_eq!(logins(&broker)?, before, "the broker has heard of it");
        let rate = f64::from(guesses) / start.elapsed().as_secs_f64();
        println!(
            "wrong passwords, {what}: {rate:.0} a second; meanwhile {served} messages and pings of a client"
        );
        ensure!(guesses > 100 && served > 20, "{guesses} guesses, {served} messages");
        // That is what the broker counts.
        let again = Client::login_as(address, &with("good-again", "guest", "guest"))?;
        ensure!(logins(&broker)? != before, "it does not count logins");
        again.disconnect()?;
    }
    let held = count(&envoy, "refused.by.guessing")?;
    let looked_at = count(&envoy, "refused.by.wrong_password")?;
    ensure!(held > 100 && looked_at > 100, "{held} held, {looked_at} looked at");
    Ok(())
}

/// What the broker has counted: connections since it started, and attempts to log in.
fn logins(broker: &Rabbitmq) -> Result<String> {
    let connections = "ets:tab2list(connection_churn_metrics)";
    broker.ctl(&[
        "eval",
        &format!("{{[element(2, It) || It <- {connections}], ets:tab2list(auth_attempt_metrics)}}."),
    ])
}

/// From the address that has guessed, nobody gets in who has not been in from there; from elsewhere all do; and it passes.
#[test]
fn brake_on_an_address_that_guesses() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let envoy = own_envoy(
        "brake",
        json!({
            "users": users(["known", "other", "guessed-at"]),
            "broker_user": make_account("brake-edge", super::DEFAULT_VHOST)?, "broker_pass": PASSWORD,
            "max_login_failures_per_address": 5, "login_failure_window": 5000,
        }),
    )?;
    let address = envoy.address("mqtt")?;
    let answer = |from: u8, username: &str, password: &str| {
        code(connect_from(from, address)?, &with("brake", username, password))
    };
    assert_eq!(answer(2, "known", PASSWORD)?, 0);
    let start = Instant::now();
    // A device with an old password, again and again: that is no guess, but it is looked at three times only.
    for _ in 0..10 {
        assert_eq!(answer(2, "guessed-at", "old")?, 4);
    }
    assert_eq!(answer(2, "guessed-at", PASSWORD)?, 0);
    for number in 1..5 {
        assert_eq!(answer(2, "nobody", &format!("guess-{number}"))?, 4);
    }
    let at_broker = || envoy.stat("cluster.broker.upstream_cx_total");
    let before = at_broker()?;
    assert_eq!(answer(2, "other", PASSWORD)?, 4, "the right password, from there");
    counted(&envoy, "refused.by.guessing", 7 + 1)?;
    ensure!(at_broker()? == before, "is not looked at");
    assert_eq!(answer(2, "known", PASSWORD)?, 0, "has been in from there");
    assert_eq!(answer(2, "guessed-at", PASSWORD)?, 0, "has been in from there");
    assert_eq!(answer(3, "other", PASSWORD)?, 0, "from another address");
    wait_until("the brake to be off", PATIENCE, || (answer(2, "other", PASSWORD).ok()? == 0).then_some(()))?;
    let passed = start.elapsed();
    ensure!(passed >= Duration::from_millis(4900), "{passed:?}");
    Ok(())
}

/// Wherever they come from. What the broker refuses counts as well as what is refused here.
#[test]
fn brake_on_guesses_at_one_user() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    broker().api_put("users/brake-victim", &json!({ "password": PASSWORD, "tags": "" }))?;
    let envoy = own_envoy("brake-user", json!({ "max_login_failures_per_user": 3 }))?;
    let address = envoy.address("mqtt")?;
    for from in 2..5 {
        let guess = format!("guess-{from}");
        assert_eq!(code(connect_from(from, address)?, &with("brake-user", "brake-victim", &guess))?, 4);
    }
    let reached = envoy.stat_until("cluster.broker.upstream_cx_total", PATIENCE, |count| count >= 3)?;
    assert_eq!(code(connect_from(9, address)?, &with("brake-user", "brake-victim", PASSWORD))?, 4);
    assert_eq!(envoy.stat("cluster.broker.upstream_cx_total")?, reached, "is not looked at");
    // Who it is to others.
    let mut other = connect_from(9, address)?;
    other.send(&with("brake-user", "guest", "guest").bytes())?;
    other.hears(ACCEPTED)
}

/// A client at 127.0.0.`last`.
fn connect_from(last: u8, address: SocketAddr) -> Result<Client> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Client(stream))
}
