//! Bytes are hostile, of both sides, in every state: no panic, output in proportion to input, an end to everything, and
//! never a timer that gets nowhere.

use leveret::{
    Bridge, Config, Gate, Peer, Timer,
    time::{Duration, Instant},
};
use std::rc::Rc;
use support::{methods::*, packets::*, scripted_broker, talk::peer};

/// How much may come of nothing: a login, a goodbye with what holds the client's end back, heartbeats.
const ALLOWANCE: usize = 80_000;
/// How much may come of a byte. A step of SUBSCRIBE is the most: four bytes of it make a bind and an unbind with names,
/// and a refused channel asks for all that were behind it again.
const PER_BYTE: usize = 256;

const CONFIGS: [&str; 5] = [
    r#"{"will_refresh": 1000, "on_unauthorized": "drop"}"#,
    "{}",
    r#"{"login": "sequential", "heartbeat": 2}"#,
    r#"{"connect_mode": "eager", "allow_anonymous": false, "frame_max": 4096}"#,
    r#"{"local_reply_cluster": "refusals", "max_packet_size_authenticated": 300, "prefetch": 1}"#,
];

struct Rig {
    bridge: Bridge,
    now: Instant,
    taken: usize,
    given: usize,
    random: fastrand::Rng,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = Config::from_json(CONFIGS[random.usize(..CONFIGS.len())].as_bytes()).unwrap();
        let gate = Rc::new(Gate::alone(config.policy.clone()));
        let mut bridge = Bridge::new(Rc::new(config), gate, Instant::ZERO);
        bridge.handle_peer(Peer { address: Some(peer()), nonce: 1, ..Peer::default() });
        Self { bridge, now: Instant::ZERO, taken: 0, given: 0, random }
    }

    fn client(&mut self, bytes: &[u8]) {
        self.taken += bytes.len();
        self.bridge.handle_client(self.now, bytes.to_vec(), false);
        self.drain();
    }

    fn broker(&mut self, bytes: &[u8]) {
        self.taken += bytes.len();
        self.bridge.handle_broker(self.now, bytes.to_vec(), false);
        self.given += self.bridge.take_client_output().len();
        self.drain();
    }

    fn drain(&mut self) {
        self.given += self.bridge.take_broker_output().len();
        while self.bridge.poll_event().is_some() {}
        let most = ALLOWANCE + PER_BYTE * self.taken;
        assert!(self.given <= most, "{} bytes came of {}", self.given, self.taken);
    }

    /// The timer that is due next, and what became of it.
    fn wait(&mut self) {
        let Some((at, timer)) = self.bridge.poll_timeout() else { return };
        self.now = self.now.max(at);
        self.bridge.handle_timeout(self.now);
        self.drain();
        // Another may be due as well; closing is the host's to do.
        let next = self.bridge.poll_timeout();
        let moved = next.is_none_or(|(next, again)| next > self.now || again != timer);
        assert!(moved || matches!(next, Some((_, Timer::Close))), "{timer:?} at {at:?} gets nowhere");
    }

    /// Left alone, a connection ends after at most the login's and the linger's time; or when a broker has missed its heartbeats, if
    /// it does not say what is waited for.
    fn ends(&mut self) {
        self.bridge.handle_client(self.now, Vec::new(), true);
        self.drain();
        let most = self.now + Duration::from_secs(20 + 2 * 30);
        for _ in 0..8 {
            if !self.bridge.close_due() {
                self.wait();
            }
        }
        self.given += self.bridge.take_client_output().len();
        assert!(self.bridge.close_due(), "still waiting for {:?}", self.bridge.poll_timeout());
        assert!(self.now <= most);
    }
}

/// Each kind of client.
fn login(random: &mut fastrand::Rng) -> Vec<u8> {
    match random.u8(..4) {
        0 => connect(""),
        1 => connect_kept("c"),
        2 => connect_will(random.u8(..3), "a/will", "gone"),
        _ => connect("c"),
    }
}

/// Whole items of a client: the more of them make sense, the deeper they get.
fn client_item(random: &mut fastrand::Rng) -> Vec<u8> {
    let id = random.u16(0..4);
    match random.u8(..18) {
        0 | 1 => connect("c"),
        14 => subscribe(id, &[("$share/g/a", random.u8(..3)), ("$SYS/#", 0)]),
        15 => unsubscribe(id, &["$share/g/a", "$SYS/#"]),
        16 => publish_flags(random.u8(..3) << 1 | 1, id, "kept", &vec![7; random.usize(..3)]),
        17 => connect_kept("c"),
        2 => publish_flags(random.u8(..16), id, "a/b", &vec![7; random.usize(..400)]),
        3 => publish(1, id, "a", b"x"),
        4 => publish(2, id, "a", b""),
        5 => subscribe(id, &[("a", random.u8(..4)), ("b/+", 1), ("c#", 0)]),
        6 => unsubscribe(id, &["a", "b"]),
        7 => puback(id),
        8 => pubrel(id),
        9 => pubrec(id),
        10 => PINGREQ.to_vec(),
        11 if random.u8(..8) == 0 => DISCONNECT.to_vec(),
        12 if random.u8(..8) == 0 => (0..random.usize(..40)).map(|_| random.u8(..)).collect(),
        _ => publish(0, 0, "q", b"zero"),
    }
}

/// Whole frames of a broker.
fn broker_item(random: &mut fastrand::Rng) -> Vec<u8> {
    let (level, number, channel) = (random.usize(..2), random.u64(..4), random.u16(..9));
    let code = [320, 403, 404, 405, 406, 541][random.usize(..6)];
    let method = match random.u8(..40) {
        24 => (CONSUME, consumed("lock")),
        25 => (CONSUME, declared(LOCK, random.u32(..2))),
        26 => ([TOPOLOGY, CONSUME, WILL][random.usize(..3)], delete_ok()),
        27 => (WILL, [tx_select_ok(), rollback_ok(), commit_ok()][random.usize(..3)].clone()),
        28 => (WILL, declared(WILL_QUEUE, 0)),
        29 => (WILL, consumed(WILL_TAG)),
        30 => (WILL, deliver_from_queue(WILL_QUEUE, WILL_TAG, number)),
        31 => (CONSUME, cancelled("share0")),
        32 if random.u8(..4) == 0 => (CONSUME, cancel_consumer("lock", true)),
        33 => (CONSUME, consumed("share0")),
        34 => ([TOPOLOGY, CONSUME, WILL][random.usize(..3)], channel_close(code, "", (50, 10))),
        35 => ([PUBLISH, PUBLISH][random.usize(..2)], channel_close(code, "", (60, 40))),
        36 => ([KEEP, REPLAY][random.usize(..2)], channel_close(code, "", (50, 10))),
        37 => ([KEEP, REPLAY][random.usize(..2)], returned("mqtt-retained=a")),
        38 => ([KEEP, REPLAY][random.usize(..2)], ack(number, random.bool())),
        39 => return scripted_broker::header(channel, random.u64(..20), mode(random.u8(..4))),
        0 => (0, start("RabbitMQ", "3.10.8", "PLAIN")),
        1 => (0, tune(random.u16(..), random.u32(..), random.u16(..))),
        2 => (0, open_ok()),
        3 if random.u8(..8) == 0 => (0, close(random.u16(..), "not found")),
        4 => (channel, channel_open_ok()),
        5 => (channel, flow(random.bool())),
        6 => (channel, flow_ok(true)),
        7 => (channel, channel_close(403, "", (50, 20))),
        8 => (TOPOLOGY, declare_ok(level)),
        9 => (TOPOLOGY, bind_ok()),
        10 => (TOPOLOGY, unbind_ok()),
        11 => (CONSUME, qos_ok()),
        12 => (CONSUME, consume_ok(level)),
        13 => (CONSUME, deliver(level, number, random.bool(), ["a.b", "", "#"][random.usize(..3)])),
        14 => (PUBLISH, confirm_select_ok()),
        15 => (PUBLISH, ack(number, random.bool())),
        16 if random.u8(..4) == 0 => (PUBLISH, nack(number)),
        17 if random.u8(..4) == 0 => (CONSUME, cancel(level)),
        18 => return scripted_broker::header(CONSUME, random.u64(..20), mode(random.u8(..4))),
        19 => return scripted_broker::body(CONSUME, &vec![7; random.usize(..20)]),
        20 => (0, if random.bool() { blocked() } else { unblocked() }),
        21 if random.u8(..8) == 0 => return (0..random.usize(..40)).map(|_| random.u8(..)).collect(),
        22 if random.u8(..8) == 0 => (0, close_ok()),
        _ => return scripted_broker::heartbeat(),
    };
    scripted_broker::method(method.0, method.1)
}

/// Flips, drops or repeats a byte now and then.
fn mutate(random: &mut fastrand::Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    if random.u8(..16) == 0 && !bytes.is_empty() {
        let at = random.usize(..bytes.len());
        match random.u8(..3) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, bytes[at]),
        }
    }
    bytes
}

/// The broker's obvious answers, so that a conversation gets far before anybody misbehaves.
fn hostile_conversation(seed: u64) -> Vec<&'static str> {
    let mut rig = Rig::new(seed);
    let mut broker = scripted_broker::ScriptedBroker::default();
    let mut reached = Vec::new();
    let agrees_up_to = rig.random.usize(..60);
    for step in 0..80 {
        if rig.bridge.close_due() {
            reached.push("over");
            break;
        }
        match rig.random.u8(..8) {
            0..4 => {
                let item = if step == 0 { login(&mut rig.random) } else { client_item(&mut rig.random) };
                let item = mutate(&mut rig.random, item);
                rig.taken += item.len();
                rig.bridge.handle_client(rig.now, item, false);
                agree(&mut rig, &mut broker, step < agrees_up_to);
            }
            4..6 if step >= agrees_up_to => {
                let item = broker_item(&mut rig.random);
                let item = mutate(&mut rig.random, item);
                rig.broker(&item);
            }
            6 => rig.wait(),
            _ => rig.now = rig.now + Duration::from_millis(rig.random.u64(..3_000)),
        }
        if matches!(rig.bridge.poll_timeout(), Some((_, Timer::Linger))) {
            reached.push("leaving");
        }
        if matches!(rig.bridge.poll_timeout(), Some((_, Timer::KeepAlive | Timer::Heartbeat | Timer::Will))) {
            reached.push("connected");
        }
    }
    match rig.random.u8(..3) {
        0 => rig.bridge.handle_broker_closed(rig.now),
        1 => rig.bridge.handle_client_closed(rig.now),
        _ => {}
    }
    rig.ends();
    reached
}

/// Lets the broker answer what it has been told, if it is willing and can read it.
fn agree(rig: &mut Rig, broker: &mut scripted_broker::ScriptedBroker, willing: bool) {
    loop {
        let output = rig.bridge.take_broker_output();
        rig.given += output.len();
        rig.drain();
        if !willing || output.is_empty() {
            return;
        }
        broker.hear(&output);
        while let Some(frame) = broker.next_frame() {
            let bytes = broker.obvious_answer(&frame);
            rig.taken += bytes.len();
            rig.bridge.handle_broker(rig.now, bytes, false);
            rig.given += rig.bridge.take_client_output().len();
        }
    }
}

#[test]
fn hostile_conversations() {
    let first = std::env::var("LEVERET_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let (mut connected, mut leaving, mut over) = (0_u64, 0_u64, 0_u64);
    let (start, count) = first.map_or_else(|| (fastrand::u64(..u64::MAX / 2), 20_000), |seed| (seed, 1));
    for seed in start..start + count {
        let outcome = std::panic::catch_unwind(|| hostile_conversation(seed));
        let reached = outcome.unwrap_or_else(|_| panic!("LEVERET_SEED={seed} repeats this"));
        connected += u64::from(reached.contains(&"connected"));
        leaving += u64::from(reached.contains(&"leaving"));
        over += u64::from(reached.contains(&"over"));
    }
    println!("of {count}: {connected} connected, {leaving} leaving, {over} over");
    // A sweep that reaches nothing finds nothing.
    assert!(first.is_some() || connected * 10 > count && leaving * 100 > count && over * 10 > count);
}

#[test]
fn noise() {
    let start = fastrand::u64(..u64::MAX / 2);
    for seed in start..start + 5_000 {
        let mut rig = Rig::new(seed);
        println!("seed {seed}");
        if rig.random.bool() {
            rig.client(&connect("c"));
        }
        for _ in 0..10 {
            let noise: Vec<u8> = (0..rig.random.usize(..64)).map(|_| rig.random.u8(..)).collect();
            if rig.random.bool() { rig.client(&noise) } else { rig.broker(&noise) }
        }
        rig.ends();
    }
}
