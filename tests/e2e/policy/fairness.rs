//! One tenant at its limits is not felt by another on the same worker.

use core::fmt;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use support::envoy::{Mode, Options, Shipped};

use super::{anonymous, code};
use crate::amqp::Amqp;
use crate::mqtt::{Client, packet, text};
use crate::world::{broker, can_be_lazy, own_envoy_with, to};

#[test]
fn one_tenant_at_its_limits_is_not_felt_by_another() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    const RATE: u32 = 100;
    const CLIENTS: usize = 16;
    let shipped = Shipped {
        plugin: json!({
            "retained": false,
            "tenants": [{
                "name": "greedy", "match": { "client_id": "greedy-*" },
                "message_rate": RATE, "max_connections": CLIENTS,
            }],
        }),
        ..to(Mode::Lazy, broker().amqp_address())
    };
    let envoy = own_envoy_with("fairness", &shipped, &Options { concurrency: 1, ..Options::default() })?;
    let address = envoy.address("mqtt")?;
    let amqp = Amqp::connect()?;
    let taken = amqp.queue("fairness.greedy")?;
    let mut modest = Modest::log_in(address)?;
    modest.measure()?;
    let alone = modest.measure()?;

    let mut greedy = (0..CLIENTS)
        .map(|number| Client::login(address, &format!("greedy-{number}")))
        .collect::<Result<Vec<_>>>()?;
    let (refused, beside_knocking) =
        while_it_goes_on(|is_over| knock(address, is_over), || modest.measure())?;
    let start = Instant::now();
    let (sent, beside_flood) =
        while_it_goes_on(|is_over| flood("fairness/greedy", &mut greedy, is_over), || modest.measure())?;
    let mut messages = 0;
    while taken.now()?.is_some() {
        messages += 1;
    }
    let permitted = RATE * (start.elapsed().as_secs() as u32 + 2);
    drop(greedy);

    // The same from clients that no limit holds: what the limits spare the modest one.
    let mut free = (0..CLIENTS)
        .map(|number| Client::login(address, &format!("free-{number}")))
        .collect::<Result<Vec<_>>>()?;
    let (_, beside_free) =
        while_it_goes_on(|is_over| flood("fairness/free", &mut free, is_over), || modest.measure())?;

    println!(
        "milliseconds from a publish to oneself to its arrival, median and 95th percentile, one worker:"
    );
    println!("  alone                                  {alone}");
    println!("  beside a tenant at its max_connections {beside_knocking} {}", beside_knocking.times(&alone));
    println!("  beside a tenant ahead of its rate      {beside_flood} {}", beside_flood.times(&alone));
    println!("  beside the same without limits         {beside_free} {}", beside_free.times(&alone));
    println!("  {refused} connections refused; {sent} messages sent and {messages} taken");
    // The modest one has lost nothing, or `measure` would have failed.
    ensure!(refused > 50, "{refused} connections refused");
    ensure!(beside_flood.median < beside_free.median, "the limits make no difference");
    ensure!((RATE..permitted).contains(&messages) && sent > 100 * messages, "{messages} of {sent} messages");
    Ok(())
}

/// Does one thing for as long as another takes.
fn while_it_goes_on<T: Send, U>(
    meanwhile: impl FnOnce(&AtomicBool) -> Result<T> + Send,
    act: impl FnOnce() -> Result<U>,
) -> Result<(T, U)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let meanwhile = scope.spawn(|| meanwhile(&is_over));
        let result = act();
        is_over.store(true, Ordering::Relaxed);
        Ok((meanwhile.join().expect("no panic")?, result?))
    })
}

/// All clients say as much as TCP takes. Gives the number of messages.
fn flood(topic: &str, clients: &mut [Client], is_over: &AtomicBool) -> Result<u32> {
    let message = packet(0x30, &[&text(topic)[..], b"more"].concat());
    let messages = message.repeat(1000);
    let mut sent = vec![0; clients.len()];
    while !is_over.load(Ordering::Relaxed) {
        let mut is_held = true;
        for (client, sent) in clients.iter_mut().zip(&mut sent) {
            client.0.set_nonblocking(true)?;
            match client.0.write(&messages[*sent % messages.len()..]) {
                Ok(bytes) => {
                    *sent += bytes;
                    is_held = false;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        if is_held {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(sent.into_iter().map(|bytes| bytes / message.len()).sum::<usize>() as u32)
}

/// A client more, again and again. Gives their number.
fn knock(address: SocketAddr, is_over: &AtomicBool) -> Result<u32> {
    let mut refused = 0;
    while !is_over.load(Ordering::Relaxed) {
        ensure!(code(Client::connect(address)?, &anonymous("greedy-too-many"))? == 5);
        refused += 1;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(refused)
}

/// A client that publishes to itself.
struct Modest {
    client: Client,
    next: u32,
}

impl Modest {
    fn log_in(address: SocketAddr) -> Result<Self> {
        let mut client = Client::login(address, "modest")?;
        client.subscribe("fairness/modest", 0)?;
        Ok(Self { client, next: 0 })
    }

    fn measure(&mut self) -> Result<Latency> {
        let mut times = Vec::new();
        for _ in 0..300 {
            let start = Instant::now();
            self.client.publish("fairness/modest", &self.next.to_be_bytes())?;
            ensure!(self.client.message()?.payload == self.next.to_be_bytes(), "lost or out of order");
            times.push(start.elapsed());
            self.next += 1;
            thread::sleep(Duration::from_millis(3));
        }
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
        Ok(Latency { median: at(50), percentile_95: at(95) })
    }
}

/// In milliseconds.
struct Latency {
    median: f64,
    percentile_95: f64,
}

impl Latency {
    fn times(&self, other: &Self) -> String {
        let (median, percentile_95) = (self.median / other.median, self.percentile_95 / other.percentile_95);
        format!("x{median:.2} x{percentile_95:.2}")
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.2} {:6.2}", self.median, self.percentile_95)
    }
}
