//! The life of a device: it connects, plays its role for a while, ends the connection in one of many ways, and comes
//! back through the same Envoy or the other one.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;
use mqttbytes::QoS;
use mqttbytes::v4::{Connect, ConnectReturnCode, Disconnect, LastWill, PingReq};
use tokio::sync::{oneshot, watch};
use tokio::task::{self, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::role::Role;
use super::wills::{Due, WillId};
use super::world::{PATHS, Phase, Section, World};
use crate::client::{Client, unencodable};

/// A client id, and what it is there for.
pub(crate) struct Device {
    pub(crate) world: Rc<World>,
    pub(crate) name: String,
    pub(crate) role: Box<dyn Role>,
    pub(crate) rng: Rng,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) memory: Memory,
}

/// What a device knows from its earlier connections.
#[derive(Default)]
pub(crate) struct Memory {
    /// The Envoy to use next.
    path: usize,
    /// Whether the server has a session of ours that it must not forget.
    established: bool,
    ready: bool,
    /// Told when the one who takes over is in.
    newcomer: Option<oneshot::Sender<()>>,
    taken_over: Vec<JoinHandle<()>>,
}

/// A connection that was accepted.
struct Link {
    client: Client,
    will: WillId,
    path: usize,
    began: Instant,
}

/// Why a device stopped playing its role.
enum Parting {
    /// Its time is over.
    Planned,
    /// The connection has ended by itself.
    Lost(anyhow::Error),
    /// Nothing was heard for too long.
    Hung,
    /// The run is over.
    Leave,
}

impl Device {
    /// From the first CONNECT to the last DISCONNECT.
    pub(crate) async fn live(mut self) -> Result<()> {
        loop {
            let (mut link, session_present) = self.connect(self.role.clean_session()).await?;
            self.role.connected(session_present, &mut link.client.outbox)?;
            match self.play(&mut link).await? {
                Parting::Planned => self.part(link).await?,
                Parting::Lost(error) => self.lost(link, &error),
                Parting::Hung => self.reset(link, "hung: RST").await?,
                Parting::Leave => break self.disconnect(link).await?,
            }
            if self.rng.bool() {
                self.turn();
            }
        }
        if !self.role.clean_session() {
            // Nothing shall be left of the session.
            let (last, _) = self.connect(true).await?;
            self.disconnect(last).await?;
        }
        for connection in self.memory.taken_over {
            connection.await?;
        }
        Ok(())
    }

    // ---------------------------------------------------------------- coming

    /// Tries until it is accepted; tells whether there was a session.
    async fn connect(&mut self, clean_session: bool) -> Result<(Link, bool)> {
        loop {
            let (path, began) = (self.memory.path, Instant::now());
            let will = self.world.wills.borrow_mut().begin(&self.name);
            let connect = self.connect_packet(clean_session, will);
            let answer = timeout(PATIENCE, Client::open(self.world.addresses[path], &connect)).await;
            let outcome = match answer {
                Ok(Ok((client, connack))) if connack.code == ConnectReturnCode::Success => {
                    self.world.wills.borrow_mut().promise(will, Due::Once);
                    let present = if connack.session_present { ", session present" } else { "" };
                    self.note(format!("connected by envoy {path}, will {will}{present}"));
                    self.accepted(clean_session, connack.session_present);
                    return Ok((Link { client, will, path, began }, connack.session_present));
                }
                Ok(Ok((_, connack))) => format!("refused ({:?})", connack.code),
                Ok(Err(_)) => "not reached".to_owned(),
                Err(_) => "no answer to CONNECT".to_owned(),
            };
            self.world.wills.borrow_mut().end(will);
            self.note(format!("envoy {path}, will {will}: {outcome}"));
            match self.world.disturbed(path, began, AFTERMATH) {
                true => self.world.count(Section::Connection, outcome),
                false => self.world.broken(&self.name, &format!("{outcome}, without a cause")),
            }
            sleep(Duration::from_millis(self.rng.u64(100..500))).await;
            if self.rng.bool() {
                self.turn();
            }
        }
    }

    fn connect_packet(&mut self, clean_session: bool, will: WillId) -> Connect {
        let mut connect = Connect::new(&self.name);
        connect.keep_alive = KEEP_ALIVE.as_secs() as u16;
        connect.clean_session = clean_session;
        connect.set_login("guest", "guest");
        let qos = if self.rng.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let topic = format!("{WILLS}/{}", self.name);
        connect.last_will = Some(LastWill::new(topic, will.to_string(), qos, false));
        connect
    }

    fn accepted(&mut self, clean_session: bool, session_present: bool) {
        self.world.count(Section::Connection, "accepted");
        match (clean_session, session_present) {
            (true, true) => self.world.broken(&self.name, "clean session, but Session Present"),
            (false, false) if self.memory.established => self.world.broken(&self.name, "session forgotten"),
            _ => {}
        }
        self.memory.established = !clean_session;
        // Whoever has been taken over may have ended long ago.
        let _ = self.memory.newcomer.take().map(|predecessor| predecessor.send(()));
    }

    // ---------------------------------------------------------------- being there

    async fn play(&mut self, link: &mut Link) -> Result<Parting> {
        let until = Instant::now() + Duration::from_millis(self.rng.u64(LIFE_MS));
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut pinged, mut heard) = (Instant::now(), Instant::now());
        loop {
            match self.read(link) {
                Ok(0) => {}
                Ok(_) => heard = Instant::now(),
                Err(error) => {
                    self.world.broken(&self.name, &format!("{error:#}"));
                    return Ok(Parting::Planned);
                }
            }
            tokio::select! {
                moved = link.client.exchange() => if let Err(error) = moved {
                    return Ok(Parting::Lost(error));
                },
                _ = beat.tick() => {
                    let phase = *self.phase.borrow();
                    self.role.beat(phase == Phase::Storm, &mut self.rng, &mut link.client.outbox)?;
                    if pinged.elapsed() > PING {
                        PingReq.write(&mut link.client.outbox).map_err(unencodable)?;
                        pinged = Instant::now();
                    }
                    match phase {
                        Phase::Leave => return Ok(Parting::Leave),
                        Phase::Storm if Instant::now() > until => return Ok(Parting::Planned),
                        _ if heard.elapsed() > HUNG => return Ok(Parting::Hung),
                        _ => {}
                    }
                },
            }
        }
    }

    /// Lets the role see what has come; gives the number of packets.
    fn read(&mut self, link: &mut Link) -> Result<usize> {
        let mut packets = 0;
        while let Some(packet) = link.client.parse()? {
            self.role.packet(packet, &mut link.client.outbox)?;
            packets += 1;
        }
        if !self.memory.ready && self.role.ready() {
            self.memory.ready = true;
            self.world.ready.set(self.world.ready.get() + 1);
        }
        Ok(packets)
    }

    // ---------------------------------------------------------------- going

    async fn part(&mut self, mut link: Link) -> Result<()> {
        match self.rng.u8(0..12) {
            0..3 => {
                self.stammer(&mut link).await?;
                self.reset(link, "RST").await
            }
            3..6 => {
                self.stammer(&mut link).await?;
                self.finish(link).await
            }
            6 => self.fall_silent(link).await,
            7..10 => self.be_taken_over(link),
            _ => self.disconnect(link).await,
        }
    }

    /// Sends a part of what would come next: the end may fall into the middle of a packet.
    async fn stammer(&mut self, link: &mut Link) -> Result<()> {
        let outbox = &mut link.client.outbox;
        for _ in 0..self.rng.u8(..4) {
            self.role.beat(true, &mut self.rng, outbox)?;
        }
        outbox.truncate(self.rng.usize(..=outbox.len()));
        // Whether it gets that far is the question.
        let _ = timeout(MOMENT, link.client.flush()).await;
        Ok(())
    }

    async fn reset(&mut self, link: Link, how: &str) -> Result<()> {
        self.fault(&link, how);
        self.world.wills.borrow_mut().end(link.will);
        link.client.reset()
    }

    async fn finish(&mut self, mut link: Link) -> Result<()> {
        self.fault(&link, "FIN");
        // The connection may be gone already.
        let _ = link.client.finish().await;
        self.expect_close(link, PATIENCE, "not closed after FIN").await;
        Ok(())
    }

    async fn fall_silent(&mut self, link: Link) -> Result<()> {
        self.fault(&link, "silence");
        self.expect_close(link, KEEP_ALIVE * 3 / 2 + PATIENCE, "not closed after silence").await;
        Ok(())
    }

    /// The connection stays open, and alive, while the device connects through the other Envoy.
    fn be_taken_over(&mut self, mut link: Link) -> Result<()> {
        self.fault(&link, "taken over");
        self.memory.path = link.path;
        self.turn();
        let (tell, newcomer) = oneshot::channel();
        self.memory.newcomer = Some(tell);
        let (world, name) = (self.world.clone(), self.name.clone());
        self.memory.taken_over.push(task::spawn_local(async move {
            let closed = tokio::select! {
                () = stay_alive(&mut link.client) => true,
                () = async {
                    // Not told means that there is nobody left to tell.
                    let _ = newcomer.await;
                    sleep(PATIENCE).await;
                } => false,
            };
            world.wills.borrow_mut().end(link.will);
            if closed {
                world.note(&name, format!("will {}: closed, taken over", link.will));
            } else if !world.disturbed(link.path, link.began, AFTERMATH) {
                world.broken(&name, "not closed after being taken over");
            }
        }));
        Ok(())
    }

    async fn disconnect(&mut self, mut link: Link) -> Result<()> {
        self.fault(&link, "DISCONNECT");
        let sent = Instant::now();
        // While this is on its way either is right.
        self.world.wills.borrow_mut().promise(link.will, Due::Perhaps);
        Disconnect.write(&mut link.client.outbox).map_err(unencodable)?;
        let gone = timeout(PATIENCE, link.client.flush()).await;
        let (will, path) = (link.will, link.path);
        self.expect_close(link, PATIENCE, "not closed after DISCONNECT").await;
        if matches!(gone, Ok(Ok(()))) && !self.world.disturbed(path, sent, Duration::ZERO) {
            self.world.wills.borrow_mut().promise(will, Due::Never);
        }
        Ok(())
    }

    fn lost(&self, link: Link, error: &anyhow::Error) {
        self.note(format!("will {}: lost ({error:#})", link.will));
        match self.world.disturbed(link.path, link.began, AFTERMATH) {
            true => self.world.count(Section::Connection, "lost"),
            false => self.world.broken(&self.name, "closed by the server without a cause"),
        }
        self.world.wills.borrow_mut().end(link.will);
    }

    /// Reads and answers nothing, until the server ends the connection.
    async fn expect_close(&self, mut link: Link, within: Duration, otherwise: &str) {
        let since = Instant::now();
        let end = async { while link.client.receive().await.is_ok() {} };
        let closed = timeout(within, end).await.is_ok();
        self.world.wills.borrow_mut().end(link.will);
        self.note(format!("will {}: closed after {:?}", link.will, since.elapsed()));
        if !closed && !self.world.disturbed(link.path, since, AFTERMATH) {
            self.world.broken(&self.name, otherwise);
        }
    }

    fn fault(&self, link: &Link, how: &str) {
        self.note(format!("will {}: {how}", link.will));
        self.world.count(Section::Fault, how);
    }

    fn note(&self, what: String) {
        self.world.note(&self.name, what);
    }

    fn turn(&mut self) {
        self.memory.path = (self.memory.path + 1) % PATHS;
    }
}

/// Keeps the connection alive, and does nothing else, until it ends.
async fn stay_alive(client: &mut Client) {
    let mut beat = interval(PING);
    loop {
        tokio::select! {
            moved = client.exchange() => match moved {
                Ok(()) => while let Ok(Some(_ignored)) = client.parse() {},
                Err(_) => return,
            },
            _ = beat.tick() => drop(PingReq.write(&mut client.outbox)),
        }
    }
}

/// The topic under which all wills are published.
pub(crate) const WILLS: &str = "chaos/will";
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const PING: Duration = Duration::from_millis(500);
/// A device that has heard nothing for so long gives up.
const HUNG: Duration = Duration::from_secs(3);
/// How long a device waits for an answer, and a connection may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(50);
/// Until a program that was started again is known by its neighbours to be back: a health check and more.
const AFTERMATH: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_millis(10);
/// How long a connection lasts unless something happens to it.
const LIFE_MS: std::ops::Range<u64> = 100..3000;
