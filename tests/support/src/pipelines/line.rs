//! One connection: writes a pipeline as it is cut, answers what asks for an answer, and remembers what it heard.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::BytesMut;
use mqttbytes::v4::{self, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use crate::packets;

/// A connection, until it is dropped.
pub(crate) struct Line {
    scripts: UnboundedSender<Script>,
    heard: Rc<RefCell<Heard>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What is to be written.
struct Script {
    packets: Vec<Vec<u8>>,
    cuts: Vec<(usize, u64)>,
    fin: bool,
    /// Nothing of the client's may follow, answers to what it hears included.
    is_last: bool,
}

/// All that came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// Answers, by what they are, in order: return codes of CONNACK, packet ids, granted QoS.
    pub(crate) answers: BTreeMap<&'static str, Vec<String>>,
    pub(crate) messages: Vec<Message>,
    pub(crate) end: End,
    pub(crate) scripts_written: usize,
    /// When the last of it came.
    pub(crate) last: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Fin,
    Reset,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: String,
    /// 2 is 1: RabbitMQ's queues have no more, and SUBACK says so.
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
}

impl Line {
    /// Connects, and says nothing yet.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (from, to) = stream.into_split();
        let heard = Rc::new(RefCell::new(Heard {
            answers: BTreeMap::new(),
            messages: Vec::new(),
            end: End::Open,
            scripts_written: 0,
            last: Instant::now(),
        }));
        let (answer, answers) = unbounded_channel();
        let (scripts, inbox) = unbounded_channel();
        let tasks = [
            spawn_local(read(from, heard.clone(), answer)),
            spawn_local(write(to, heard.clone(), inbox, answers)),
        ];
        Ok(Self { scripts, heard, tasks })
    }

    /// Writes these packets, cut like this, then FIN if so wanted.
    pub(crate) fn say(&self, packets: Vec<Vec<u8>>, cuts: &[(usize, u64)], fin: bool) {
        let is_last = fin || packets.last().is_some_and(|packet| packet[..] == packets::DISCONNECT);
        // Who has ended hears no more; that is looked at elsewhere.
        let _ = self.scripts.send(Script { packets, cuts: cuts.to_vec(), fin, is_last });
    }

    pub(crate) fn heard(&self) -> std::cell::Ref<'_, Heard> {
        self.heard.borrow()
    }
}

impl Heard {
    /// How many answers of a kind.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.answers.get(kind).map_or(0, Vec::len)
    }
}

async fn write(
    mut to: OwnedWriteHalf,
    heard: Rc<RefCell<Heard>>,
    mut scripts: UnboundedReceiver<Script>,
    mut answers: UnboundedReceiver<Vec<u8>>,
) {
    loop {
        tokio::select! {
            script = scripts.recv() => {
                let Some(script) = script else { return };
                let is_last = script.is_last;
                let written = play(&mut to, script, &mut answers).await;
                heard.borrow_mut().scripts_written += 1;
                // The other side may have ended; what it said before that counts.
                if written.is_err() || is_last {
                    // Kept open, since dropping it would say FIN.
                    return std::future::pending().await;
                }
            }
            Some(answer) = answers.recv() => {
                if to.write_all(&answer).await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// Answers go between two packets: at the first cut that is there, or where a segment ends a packet.
async fn play(
    to: &mut OwnedWriteHalf,
    script: Script,
    answers: &mut UnboundedReceiver<Vec<u8>>,
) -> std::io::Result<()> {
    let ends: Vec<usize> = script
        .packets
        .iter()
        .scan(0, |end, packet| {
            *end += packet.len();
            Some(*end)
        })
        .collect();
    let bytes = script.packets.concat();
    let mut written = 0;
    let mut cuts = script.cuts.iter().cycle();
    while written < bytes.len() {
        let (length, pause) = cuts.next().copied().unwrap_or((bytes.len(), 0));
        let end = bytes.len().min(written + length);
        let mut segment = Vec::new();
        if written == 0 || ends.contains(&written) {
            while let Ok(answer) = answers.try_recv() {
                segment.extend(answer);
            }
        }
        segment.extend(&bytes[written..end]);
        to.write_all(&segment).await?;
        written = end;
        if pause > 0 && written < bytes.len() {
            sleep(Duration::from_millis(pause)).await;
        }
    }
    if script.fin { to.shutdown().await } else { Ok(()) }
}

async fn read(mut from: OwnedReadHalf, heard: Rc<RefCell<Heard>>, answer: UnboundedSender<Vec<u8>>) {
    let mut inbox = BytesMut::with_capacity(4096);
    loop {
        loop {
            match v4::read(&mut inbox, usize::MAX) {
                Ok(packet) => hear(packet, &mut heard.borrow_mut(), &answer),
                Err(mqttbytes::Error::InsufficientBytes(_)) => break,
                Err(malformed) => {
                    heard.borrow_mut().answer("malformed", format!("{malformed:?}"));
                    return;
                }
            }
        }
        let end = match from.read_buf(&mut inbox).await {
            Ok(0) => End::Fin,
            Ok(_) => continue,
            Err(_) => End::Reset,
        };
        let mut heard = heard.borrow_mut();
        (heard.end, heard.last) = (end, Instant::now());
        return;
    }
}

fn hear(packet: Packet, heard: &mut Heard, answer: &UnboundedSender<Vec<u8>>) {
    heard.last = Instant::now();
    // It fails when the writer has said its last.
    let say = |bytes| drop(answer.send(bytes));
    match packet {
        Packet::ConnAck(it) => {
            heard
                .answer("CONNACK", format!("session present {}, code {}", it.session_present, it.code as u8));
        }
        Packet::SubAck(it) => {
            let granted = it.return_codes.iter().map(|code| match code {
                v4::SubscribeReasonCode::Success(qos) => (*qos as u8).min(1).to_string(),
                v4::SubscribeReasonCode::Failure => "refused".to_owned(),
            });
            heard.answer("SUBACK", format!("{} {:?}", it.pkid, granted.collect::<Vec<_>>()));
        }
        Packet::UnsubAck(it) => heard.answer("UNSUBACK", it.pkid.to_string()),
        Packet::PubAck(it) => heard.answer("PUBACK", it.pkid.to_string()),
        Packet::PubRec(it) => {
            heard.answer("PUBREC", it.pkid.to_string());
            say(packets::pubrel(it.pkid));
        }
        Packet::PubComp(it) => heard.answer("PUBCOMP", it.pkid.to_string()),
        // Of what is delivered at QoS 2, as only the judge does.
        Packet::PubRel(it) => say(packets::pubcomp(it.pkid)),
        Packet::PingResp => heard.answer("PINGRESP", String::new()),
        Packet::Publish(it) => {
            match it.qos as u8 {
                0 => {}
                1 => say(packets::puback(it.pkid)),
                _ => say(packets::pubrec(it.pkid)),
            }
            heard.messages.push(Message {
                topic: it.topic,
                payload: String::from_utf8_lossy(&it.payload).into_owned(),
                qos: (it.qos as u8).min(1),
                retain: it.retain,
                dup: it.dup,
            });
        }
        other => heard.answer("unexpected", format!("{other:?}")),
    }
}

impl Heard {
    fn answer(&mut self, kind: &'static str, text: String) {
        self.last = Instant::now();
        self.answers.entry(kind).or_default().push(text);
    }
}
