//! When somebody is slow or full: who waits, and that nothing is lost of what was acknowledged.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use socket2::SockRef;
use support::envoy::{Mode, Options, Shipped};
use support::process::wait_until;
use support::rabbitmq::Rabbitmq;

use crate::amqp::{Amqp, persistent};
use crate::mqtt::{ACCEPTED, Client, Connect, packet, publish, text};
use crate::world::{PATIENCE, broker, mqtt, own_envoy, own_envoy_with, queue, rough_broker, to};

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
        let queues = broker()
            .ctl(&["--quiet", "list_queues", "name", "messages_unacknowledged", "messages_ready"])
            .ok()?;
        let its_own = queues.lines().find(|line| line.starts_with("mqtt-subscription-prefetchqos1"))?;
        its_own.ends_with("\t3\t7").then_some(())
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
fn prefetch_is_10_by_default() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "prefetch-default")?;
    client.subscribe("prefetch-default", 1)?;
    let amqp = Amqp::connect()?;
    for number in 0..12 {
        amqp.publish("prefetch-default", &[number], persistent())?;
    }
    let first = client.message()?;
    for number in 1..10 {
        assert_eq!(client.message()?.payload, [number]);
    }
    // Nothing more comes while they are all unacknowledged.
    client.ping()?;
    client.acknowledge(&first)?;
    assert_eq!(client.message()?.payload, [10]);
    client.ping()
}

/// Its queue is short, and what does not fit falls out at its front.
#[test]
fn slow_qos_0_subscriber_loses_the_oldest_and_slows_nobody() -> Result<()> {
    const MESSAGES: u32 = 600;
    let envoy = own_envoy("slow-subscriber", json!({ "qos0_max_length": 20 }))?;
    let mut slow = Client::login(envoy.address("mqtt")?, "slow-subscriber")?;
    SockRef::from(&slow.0).set_recv_buffer_size(64 * 1024)?;
    slow.subscribe("slow-subscriber", 0)?;
    assert_eq!(queue("slow-subscriber", 0)?.context("its queue")?["arguments"]["x-max-length"], 20);
    let mut fast = Client::login(envoy.address("mqtt")?, "fast-subscriber")?;
    fast.subscribe("slow-subscriber", 1)?;
    let amqp = Amqp::connect()?;
    let mut payload = vec![0; 100_000];
    for number in 0..MESSAGES {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        amqp.publish("slow-subscriber", &payload, persistent())?;
        assert_eq!(fast.receive()?.payload[..4], number.to_be_bytes());
    }
    let mut heard = Vec::new();
    while heard.last() != Some(&(MESSAGES - 1)) {
        let message = slow.message()?;
        heard.push(u32::from_be_bytes(*message.payload.first_chunk().context("a number")?));
    }
    assert!(heard.is_sorted(), "out of order: {heard:?}");
    assert!(heard.len() < MESSAGES as usize, "nothing fell out: the test sends too little");
    slow.ping()
}

#[test]
fn slow_qos_1_subscriber_loses_nothing_and_slows_nobody() -> Result<()> {
    let mut slow = Client::login(mqtt(Mode::Lazy), "slow-at-1")?;
    let mut fast = Client::login(mqtt(Mode::Lazy), "fast-at-1")?;
    slow.subscribe("slow-at-1", 1)?;
    fast.subscribe("slow-at-1", 1)?;
    let mut publisher = Client::login(mqtt(Mode::Lazy), "publisher-at-1")?;
    for number in 0..100 {
        publisher.publish_safely("slow-at-1", &[number])?;
        assert_eq!(fast.receive()?.payload, [number]);
    }
    for number in 0..100 {
        assert_eq!(slow.receive()?.payload, [number]);
    }
    Ok(())
}

#[test]
fn memory_alarm_stops_publishers_and_nothing_is_lost() -> Result<()> {
    const QOS_0: u32 = 2_000;
    let broker = rough_broker();
    // A subscriber asks for retained messages by publishing: to the broker it is no mere listener then.
    let shipped = Shipped { plugin: json!({ "retained": false }), ..to(Mode::Lazy, broker.amqp_address()) };
    let envoy = own_envoy_with("alarm", &shipped, &Options::default())?;
    let address = envoy.address("mqtt")?;
    let amqp = Amqp::connect_to(broker.amqp_address())?;
    let queue = amqp.queue("alarm.#")?;
    let alarm = Alarm::raise(&broker)?;
    let keep_alive = Connect { client_id: "alarm-1", keep_alive: 1, ..Connect::default() };
    let mut at_1 = Client::login_as(address, &keep_alive)?;
    let mut at_0 = Client::login(address, "alarm-0")?;
    for number in 0..10 {
        at_1.send(&publish(0x32, "alarm/1", number + 1, &number.to_be_bytes()))?;
    }
    let payload = |number: u32| [&number.to_be_bytes()[..], &[0; 10_000]].concat();
    let mut writer = at_0.0.try_clone()?;
    let writing = thread::spawn(move || -> std::io::Result<()> {
        for number in 0..QOS_0 {
            writer.write_all(&packet(0x30, &[&text("alarm/0")[..], &payload(number)].concat()))?;
        }
        Ok(())
    });
    // Twice as long as the keep-alive allows: it is suspended, for the client could not make itself heard.
    at_1.0.set_read_timeout(Some(Duration::from_secs(3)))?;
    let silence = at_1.packet().err().context("PUBACK in spite of the alarm")?;
    let kind = silence.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    ensure!(kind == Some(ErrorKind::WouldBlock), "{silence:#}");
    ensure!(!writing.is_finished(), "20 MB are taken in spite of the alarm");
    // Who only listens is served.
    let mut listens = Client::login(address, "alarm-listens")?;
    listens.subscribe("alarm-listens", 1)?;
    listens.ping()?;

    drop(alarm);
    at_1.0.set_read_timeout(Some(PATIENCE))?;
    for number in 0..10 {
        at_1.hears(&[0x40, 2, 0, number + 1])?;
    }
    writing.join().expect("no panic")?;
    at_0.ping()?;
    let (mut heard_0, mut heard_1) = (0, 0);
    while (heard_0, heard_1) != (QOS_0, 10) {
        let message = queue.next()?.delivery;
        if message.routing_key.as_str() == "alarm.0" {
            ensure!(message.data[..4] == heard_0.to_be_bytes(), "lost or out of order: {heard_0} at QoS 0");
            heard_0 += 1;
        } else {
            ensure!(message.data == u16::to_be_bytes(heard_1), "lost or out of order: {heard_1} at QoS 1");
            heard_1 += 1;
        }
    }
    Ok(())
}

#[test]
fn memory_alarm_lets_clients_log_in() -> Result<()> {
    let broker = rough_broker();
    let envoy = own_envoy_with("alarm-login", &to(Mode::Lazy, broker.amqp_address()), &Options::default())?;
    let _alarm = Alarm::raise(&broker)?;
    let mut client = Client::connect(envoy.address("mqtt")?)?;
    client.send(&Connect { client_id: "alarm-login", ..Connect::default() }.bytes())?;
    client.hears(ACCEPTED)
}

/// The broker's memory alarm, until dropped.
struct Alarm<'a>(&'a Rabbitmq);

impl<'a> Alarm<'a> {
    fn raise(broker: &'a Rabbitmq) -> Result<Self> {
        broker.ctl(&["set_vm_memory_high_watermark", "0"])?;
        Ok(Self(broker))
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.0.ctl(&["set_vm_memory_high_watermark", "0.4"]).unwrap();
    }
}
