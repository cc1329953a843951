//! A broker in memory that can be told to mistreat one message, to show that the checks see it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use mqttbytes::QoS;
use mqttbytes::v4::{self, ConnAck, ConnectReturnCode, Packet, PubAck, SubAck, SubscribeReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as AsyncMutex;

use super::fleet::{Fleet, Shape};
use crate::client::Login;

/// What happens to message number `VICTIM`.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Lose,
    LoseLast,
    Repeat,
    Swap,
    Damage,
    KeepPuback,
    LowerQos,
}

#[test]
fn a_sound_broker_passes() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        assert_eq!(verdict(Fault::None, qos), "");
    }
}

#[test]
fn every_fault_fails_the_round_and_is_named() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        assert_seen(Fault::Lose, qos, "1 lost (first: 7), 0 out of order, 0 twice, 0 never sent");
        assert_seen(Fault::Repeat, qos, "0 lost, 0 out of order, 1 twice, 0 never sent");
        assert_seen(Fault::Swap, qos, "0 lost, 1 out of order, 0 twice, 0 never sent");
        assert_seen(Fault::Damage, qos, "64 octets that were never sent came on load/");
    }
    assert_seen(Fault::LowerQos, QoS::AtLeastOnce, "delivered at AtMostOnce");
}

#[test]
fn what_never_comes_is_called_lost_at_the_deadline() {
    assert_seen(
        Fault::LoseLast,
        QoS::AtMostOnce,
        "1 lost (first: 99), 0 out of order, 0 twice, 0 never sent",
    );
    assert_seen(
        Fault::LoseLast,
        QoS::AtLeastOnce,
        "1 lost (first: 99), 0 out of order, 0 twice, 0 never sent",
    );
    assert_seen(Fault::KeepPuback, QoS::AtLeastOnce, "100 sent, 99 acknowledged");
}

fn assert_seen(fault: Fault, qos: QoS, what: &str) {
    let verdict = verdict(fault, qos);
    assert!(verdict.contains(what), "{what:?} is not in {verdict:?}");
}

/// What one round of 100 messages through a faulty broker ends with; empty if it passes.
fn verdict(fault: Fault, qos: QoS) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, fault));
        round(address, qos).await.err().map_or(String::new(), |error| format!("{error:#}"))
    })
}

async fn round(address: SocketAddr, qos: QoS) -> Result<()> {
    let login = Login { username: "guest".to_owned(), password: "guest".to_owned() };
    let (publishers, subscribers, size) = (2, 2, 64);
    // Only a round that loses its end or a PUBACK waits so long; a sound one takes milliseconds.
    let deadline = Duration::from_secs(2);
    let shape = Shape { login, qos, size, publishers, subscribers, fan_out: false, window: 10, deadline };
    let mut fleet = Fleet::open(address, &shape).await?;
    fleet.round(100).await?;
    fleet.close().await
}

type Subscribers = Arc<Mutex<BTreeMap<String, Arc<AsyncMutex<OwnedWriteHalf>>>>>;

async fn serve(listener: TcpListener, fault: Fault) {
    let subscribers = Subscribers::default();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, fault, subscribers.clone()));
    }
}

async fn converse(stream: TcpStream, fault: Fault, subscribers: Subscribers) -> Result<()> {
    let (mut from, to) = stream.into_split();
    let (to, mut inbox, mut held, mut count) = (Arc::new(AsyncMutex::new(to)), BytesMut::new(), None, 0);
    loop {
        let Ok(packet) = v4::read(&mut inbox, usize::MAX) else {
            ensure!(from.read_buf(&mut inbox).await? > 0, "gone");
            continue;
        };
        let mut answer = BytesMut::new();
        let written = match packet {
            Packet::Connect(_) => ConnAck::new(ConnectReturnCode::Success, false).write(&mut answer),
            Packet::Subscribe(subscribe) => {
                let filter = subscribe.filters[0].clone();
                subscribers.lock().unwrap().insert(filter.path, to.clone());
                SubAck::new(subscribe.pkid, vec![SubscribeReasonCode::Success(filter.qos)]).write(&mut answer)
            }
            Packet::Publish(publish) => {
                let subscriber = subscribers.lock().unwrap().get(&publish.topic).cloned();
                let (acknowledge, pkid) = (publish.qos == QoS::AtLeastOnce, publish.pkid);
                if let Some(subscriber) = subscriber {
                    let copies = mistreat(fault, count, publish, &mut held);
                    subscriber.lock().await.write_all(&copies).await?;
                }
                count += 1;
                match acknowledge && !(fault == Fault::KeepPuback && count == VICTIM) {
                    true => PubAck::new(pkid).write(&mut answer),
                    false => Ok(0),
                }
            }
            Packet::PingReq => v4::PingResp.write(&mut answer),
            _ => Ok(0),
        };
        written.unwrap();
        to.lock().await.write_all(&answer).await?;
    }
}

/// What the subscriber gets in place of the publisher's message number `count`.
fn mistreat(fault: Fault, count: u64, mut publish: v4::Publish, held: &mut Option<v4::Publish>) -> BytesMut {
    let mut copies = vec![];
    match fault {
        Fault::Lose if count == VICTIM => {}
        Fault::LoseLast if count == 99 => {}
        Fault::Repeat if count == VICTIM => copies = vec![publish.clone(), publish],
        Fault::Swap if count == VICTIM => *held = Some(publish),
        Fault::Damage if count == VICTIM => {
            publish.payload = Bytes::from_static(&[0; 64]);
            copies.push(publish);
        }
        Fault::LowerQos if count == VICTIM => {
            publish.qos = QoS::AtMostOnce;
            copies.push(publish);
        }
        _ => copies = std::iter::once(publish).chain(held.take()).collect(),
    }
    let mut bytes = BytesMut::new();
    for copy in copies {
        copy.write(&mut bytes).unwrap();
    }
    bytes
}

const VICTIM: u64 = 7;
