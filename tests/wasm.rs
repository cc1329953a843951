//! The built module in a proxy-wasm host that behaves like Envoy: what it asks for and shows, the rules on what
//! may be written when, time, refused host calls, and that it does what the core does.
//!
//! Packets are written out in bytes: the core's own encoder is under test here too.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail anywhere, in its own helpers too")]

#[path = "wasm/worker.rs"]
mod worker;

use std::{fs, net::SocketAddr, path::Path};
use support::{
    agreeable::Broker,
    host::{Connection, Facts, Host, Level, Refused},
    module::{self, Module},
    subject::{self, Subject},
};

#[test]
fn imports_are_the_proxy_s() {
    for import in module::shipped().imports() {
        assert!(import.starts_with("env.proxy_"), "Envoy does not have {import}");
    }
}

#[test]
fn exports_are_what_envoy_calls() {
    let exports = module::shipped().exports();
    for export in ["memory", "malloc", "_initialize", "proxy_abi_version_0_2_1"] {
        assert!(exports.iter().any(|name| name == export), "{export} is missing");
    }
    let known = ["memory", "malloc", "_initialize", "__data_end", "__heap_base"];
    for export in exports {
        assert!(export.starts_with("proxy_") || known.contains(&export.as_str()), "{export} is new");
    }
}

/// Every Envoy worker compiles the module and keeps the machine code. 830 KiB when this was written: the SDK and the standard
/// library are 120 of them; regular expressions, hashes and the reading of the configuration 250.
#[test]
fn the_module_is_small() {
    const BUDGET: usize = 864 * 1024;
    let size = module::shipped().bytes().len();
    println!("leveret.wasm: {size} bytes of {BUDGET}");
    assert!(size <= BUDGET, "{size} bytes");
}

#[test]
fn only_the_trapping_module_knows_how_to_trap() {
    assert!(!module::shipped().contains(b"leveret/trap"));
    assert!(module::trapping().contains(b"leveret/trap"));
}

/// What is in the glue cannot be tested natively, so no decision about a protocol may be there.
#[test]
fn the_glue_speaks_no_protocol() {
    const WORDS: [&str; 19] = [
        "mqtt",
        "amqp",
        "connack",
        "connect(",
        "publish",
        "puback",
        "subscribe",
        "pingreq",
        "disconnect",
        "qos",
        "topic",
        "payload",
        "packet",
        "will",
        "retain",
        "vhost",
        "queue",
        "exchange",
        "frame",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filters/mqtt-amqp/src");
    let mut files = 0;
    for file in fs::read_dir(folder).unwrap() {
        files += 1;
        let path = file.unwrap().path();
        // The proxy has queues of its own.
        let text = fs::read_to_string(&path).unwrap().to_lowercase();
        let text = ["shared_queue", "on_queue_ready", "enqueue", "dequeue", "a queue,", "the queue of"]
            .iter()
            .fold(text, |text, own| text.replace(own, ""));
        for word in WORDS {
            let found = text.lines().find(|line| line.split("//").next().unwrap_or_default().contains(word));
            assert_eq!(found, None, "{word} in {}", path.display());
        }
    }
    assert_eq!(files, 8);
}

#[test]
fn a_bad_configuration_is_refused_by_key() {
    let Err(Refused(logs)) = Host::new(module::shipped(), r#"{"prefetch": 0}"#) else { panic!("accepted") };
    let line = logs.iter().find(|line| line.level == Level::Error).unwrap();
    assert!(line.text.contains("`prefetch`: expected"), "{}", line.text);
}

#[test]
fn an_empty_configuration_is_the_default() {
    let host = host("");
    let stamps: Vec<_> = host.logs().iter().filter(|line| line.text.contains("build")).collect();
    assert_eq!(stamps.len(), 1, "{:?}", host.logs());
    assert_eq!(stamps[0].level, Level::Info);
}

#[test]
fn lazy_mode_connects_upstream_when_there_is_something_to_say() {
    let mut host = host("{}");
    let client = host.connect(peer());
    let (head, tail) = CONNECT.split_at(CONNECT.len() - 1);
    host.client_sends(client, head);
    assert_eq!(host.upstream(client), None);
    host.client_sends(client, tail);
    assert_eq!(host.upstream(client), Some(""));
    assert!(host.take_to_broker(client).starts_with(b"AMQP"));
}

#[test]
fn eager_mode_connects_upstream_with_the_client() {
    let mut host = host(r#"{"connect_mode": "eager"}"#);
    let client = host.connect(peer());
    assert_eq!(host.upstream(client), Some(""));
}

#[test]
fn a_client_that_leaves_before_it_said_anything_connects_to_nothing() {
    for mode in ["lazy", "eager"] {
        let mut host = host(&format!(r#"{{"connect_mode": "{mode}"}}"#));
        let client = host.connect(peer());
        host.client_sends(client, &CONNECT[..4]);
        host.client_ends(client);
        assert!(host.closed(client), "{mode}");
        assert_eq!(host.upstream(client).is_some(), mode == "eager");
    }
}

/// In the callback that writes them, bytes for the client are overtaken by a close.
#[test]
fn a_refusal_arrives_before_the_close() {
    let mut host = host(r#"{"local_reply_cluster": "refusals"}"#);
    let client = host.connect(peer());
    host.client_sends(client, UNSUPPORTED_CONNECT);
    assert_eq!(host.upstream(client), Some("refusals"));
    let echo = host.take_to_broker(client);
    host.broker_sends(client, &echo);
    assert_eq!(host.take_to_client(client), [0x20, 2, 0, 1]);
    assert!(!host.closed(client));
    let echo = host.take_to_broker(client);
    host.broker_sends(client, &echo);
    assert!(host.closed(client));
    assert_eq!(host.lost(client), 0);
    assert_eq!(host.counters()["leveret.none.connack.unacceptable_protocol_version"], 1);
}

/// As above, but whoever is upstream says no more.
#[test]
fn the_proxy_is_told_who_a_client_is() {
    let mut host = host(r#"{"tenants": [{"name": "t", "match": {"client_id": "c*"}}]}"#);
    let client = host.connect(peer());
    host.client_sends(client, &support::packets::connect_with(0xc2, 0, &["c\t1", "v:u", "p"]));
    assert_eq!(host.hash_key(client), Some("c\t1"));
    let told = host.told(client);
    for (name, text) in [("client_id", r"c\t1"), ("user", "u"), ("vhost", "v"), ("tenant", "t")] {
        assert_eq!(told[&format!("leveret.{name}")], text);
    }
    host.broker_ends(client);
    assert_eq!(host.told(client)["leveret.end"], "CONNACK 3: broker is gone");
    // Whoever it is may say what it likes, but not at any length, nor what looks like another line or another client's.
    let liar = host.connect(peer());
    let id = format!("x\"), tenant t): accepted{}", "y".repeat(60_000));
    host.client_sends(liar, &support::packets::connect_with(0xc2, 0, &[&id, "u", "p"]));
    assert_eq!(host.told(liar)["leveret.client_id"].len(), 256 + 1 + "…".len());
    assert!(host.logs().iter().all(|line| line.text.len() < 1_000 && !line.text.contains("x\"),")));
}

#[test]
fn a_tick_closes_what_no_further_byte_closes() {
    let mut host = host(r#"{"connect_mode": "eager"}"#);
    let client = host.connect(peer());
    host.client_sends(client, UNSUPPORTED_CONNECT);
    host.broker_sends(client, b"\x01\0\0");
    assert_eq!(host.take_to_client(client), [0x20, 2, 0, 1]);
    assert!(!host.closed(client));
    host.advance(100);
    assert!(host.closed(client));
    assert_eq!(host.lost(client), 0);
}

/// Envoy tells of the broker's FIN before it has written the last bytes.
#[test]
fn the_last_bytes_before_the_broker_s_fin_arrive() {
    let mut host = host("{}");
    let client = host.connect(peer());
    host.client_sends(client, CONNECT);
    host.broker_ends(client);
    assert_eq!(host.take_to_client(client), [0x20, 2, 0, 3]);
    assert_eq!(host.lost(client), 0);
    host.advance(100);
    assert!(host.closed(client));
}

#[test]
fn a_deadline_is_kept_to_the_tick() {
    let mut host = host(r#"{"login_timeout": 1000}"#);
    let early = host.connect(peer());
    host.advance(550);
    let late = host.connect(peer());
    host.advance(440);
    assert!(!host.closed(early));
    host.advance(10);
    assert!(host.closed(early));
    host.advance(549);
    assert!(!host.closed(late));
    host.advance(51);
    assert!(host.closed(late));
}

#[test]
fn a_tick_costs_what_is_due_and_not_what_exists() {
    let mut host = host("{}");
    host.advance(100);
    let alone = cost_of_a_tick(&mut host);
    for _ in 0..1000 {
        host.connect(peer());
    }
    assert_eq!(cost_of_a_tick(&mut host), alone);
}

/// The alarm for the login still rings at 10 s, and must neither end the connection nor be the last.
#[test]
fn a_deadline_that_moves_out_is_kept_too() {
    let mut host = host(r#"{"heartbeat": 0}"#);
    let client = host.connect(peer());
    let mut broker = Broker::default();
    converse(&mut host, client, &mut broker, CONNECT);
    host.advance(5_000);
    converse(&mut host, client, &mut broker, PINGREQ);
    host.advance(89_900);
    assert_eq!(host.take_to_broker(client), b"");
    host.advance(200);
    assert_eq!(host.counters()["leveret.none.closed.timed_out"], 1);
    let farewell = broker.answer(&host.take_to_broker(client));
    host.broker_sends(client, &farewell);
    assert!(host.closed(client));
}

#[test]
fn a_stepped_wall_clock_ends_no_connection() {
    let mut host = host("{}");
    let client = host.connect(peer());
    let mut broker = Broker::default();
    converse(&mut host, client, &mut broker, CONNECT);
    for seconds in [86_400, -86_400, 3_600, -3_600] {
        host.step_wall_clock(seconds);
        host.advance(1_000);
        assert!(!host.closed(client), "{seconds}");
    }
}

#[test]
fn a_stepped_wall_clock_freezes_no_deadline() {
    let mut host = host(r#"{"login_timeout": 1000}"#);
    let client = host.connect(peer());
    host.step_wall_clock(-86_400);
    host.advance(1_200);
    assert!(host.closed(client));
}

#[test]
fn no_status_makes_the_module_trap() {
    const STATUSES: [u32; 8] = [1, 2, 3, 7, 10, 11, 12, 4711];
    const CALLS: [&str; 13] = [
        "proxy_get_log_level",
        "proxy_get_current_time_nanoseconds",
        "proxy_set_tick_period_milliseconds",
        "proxy_get_buffer_bytes",
        "proxy_set_buffer_bytes",
        "proxy_continue_stream",
        "proxy_close_stream",
        "proxy_set_effective_context",
        "proxy_get_property",
        "proxy_call_foreign_function",
        "proxy_define_metric",
        "proxy_increment_metric",
        "proxy_record_metric",
    ];
    for call in CALLS {
        for status in STATUSES {
            let mut host = host(r#"{"local_reply_cluster": "refusals"}"#);
            let before = host.connect(peer());
            let mut broker = Broker::default();
            converse(&mut host, before, &mut broker, CONNECT);
            host.fail_call(call, Some(status));
            let after = host.connect(peer());
            host.client_sends(after, UNSUPPORTED_CONNECT);
            converse(&mut host, before, &mut broker, PINGREQ);
            host.advance(20_000);
            host.client_vanishes(before);
            let warnings = host.logs().iter().filter(|line| line.text.contains("refused a call")).count();
            assert!(warnings <= 1, "{call} {status}: {warnings} warnings");
            host.fail_call(call, None);
            let later = host.connect(peer());
            assert_eq!(log_in(&mut host, later), ACCEPTED, "{call} {status}");
        }
    }
}

/// A connection whose bytes are lost is closed: what would follow could mean anything.
#[test]
fn a_connection_that_cannot_be_written_to_is_closed() {
    for call in ["proxy_get_buffer_bytes", "proxy_set_buffer_bytes", "proxy_continue_stream"] {
        let mut host = host("{}");
        let client = host.connect(peer());
        host.fail_call(call, Some(1));
        host.client_sends(client, CONNECT);
        assert!(host.closed(client), "{call}");
    }
}

/// A refused choice of cluster must not send a client to the default one.
#[test]
fn a_connection_that_cannot_be_routed_is_closed() {
    let mut host = host(r#"{"local_reply_cluster": "refusals"}"#);
    let client = host.connect(peer());
    host.fail_call("proxy_call_foreign_function", Some(1));
    host.client_sends(client, UNSUPPORTED_CONNECT);
    assert!(host.closed(client));
    assert_eq!(host.upstream(client), None);
}

#[test]
fn a_trap_is_told_and_ends_every_connection() {
    let mut host = Host::new(module::trapping(), "{}").unwrap();
    host.allow_trap();
    let bystander = host.connect(peer());
    let client = host.connect(peer());
    host.client_sends(client, b"leveret/trap");
    assert!(host.trapped().unwrap().contains("unreachable"));
    assert!(host.closed(bystander));
}

#[test]
fn log_lines_below_the_proxy_s_level_are_not_written() {
    for (level, expected) in [(Level::Debug, true), (Level::Warn, false)] {
        let mut host = host("{}");
        host.set_log_level(level);
        host.advance(100);
        let before = host.logs().len();
        let client = host.connect(peer());
        log_in(&mut host, client);
        assert_eq!(host.logs().len() > before, expected);
        assert_eq!(host.counters()["leveret.none.connack.accepted"], 1);
    }
}

#[test]
fn the_module_does_what_the_core_does() {
    let [native, module] = subject::both(module::shipped(), "{}").map(|(_, mut subject)| {
        let client = subject.connect_as(&Facts::default());
        let mut broker = Broker::default();
        let mut transcript = Vec::new();
        for bytes in [CONNECT, SUBSCRIBE, PUBLISH_QOS_0, PUBLISH_QOS_1, PINGREQ] {
            transcript.push(converse(&mut *subject, client, &mut broker, bytes));
        }
        let delivery = [broker.deliver("a.b", 2).unwrap(), broker.body(b"hi")].concat();
        subject.broker_sends(client, &delivery);
        transcript.push(subject.take_to_client(client));
        transcript.push(converse(&mut *subject, client, &mut broker, DISCONNECT));
        subject.advance(1_000);
        assert!(subject.closed(client));
        (transcript, broker.seen().to_vec(), subject.counters())
    });
    assert_eq!(native, module);
    let (transcript, ..) = module;
    assert_eq!(transcript[0], ACCEPTED);
    assert_eq!(transcript[1], [0x90, 3, 0, 1, 0]);
    assert_eq!(transcript[3], [0x40, 2, 0, 2]);
    assert_eq!(transcript[4], [0xd0, 0]);
    assert_eq!(transcript[5], b"\x30\x07\0\x03a/bhi");
}

#[test]
fn how_bytes_are_split_does_not_matter() {
    for (name, mut subject) in subject::both(module::shipped(), "{}") {
        let client = subject.connect_as(&Facts::default());
        let mut broker = Broker::default();
        let mut heard = Vec::new();
        for byte in [CONNECT, SUBSCRIBE, PUBLISH_QOS_1, PINGREQ].concat() {
            heard.extend(converse(&mut *subject, client, &mut broker, &[byte]));
        }
        let expected = [ACCEPTED, &[0x90, 3, 0, 1, 0, 0x40, 2, 0, 2, 0xd0, 0]].concat();
        assert_eq!(heard, expected, "{name}");
    }
}

/// A PUBLISH passes while it comes: the module's memory depends on the pieces and not on the message.
#[test]
fn a_100_mb_publish_passes_in_constant_memory() {
    let mut host = host(LARGE);
    let client = host.connect(peer());
    let mut broker = Broker::default();
    converse(&mut host, client, &mut broker, CONNECT);
    converse(&mut host, client, &mut broker, PUBLISH_QOS_1);
    let before = host.memory_bytes();
    let head = large_publish_head();
    converse(&mut host, client, &mut broker, &head);
    let sent_before = broker.body_bytes();
    let mut heard = Vec::new();
    for _ in 0..LARGE_BYTES / PIECE {
        heard.extend(converse(&mut host, client, &mut broker, &[7; PIECE]));
    }
    assert_eq!(broker.body_bytes() - sent_before, LARGE_BYTES as u64);
    assert_eq!(heard, [0x40, 2, 0, 3]);
    let grown = host.memory_bytes() - before;
    println!("100 MB to the broker in pieces of {PIECE}: memory {before} + {grown} bytes");
    assert!(grown < 1024 * 1024, "{grown}");
}

#[test]
fn a_100_mb_delivery_passes_in_constant_memory() {
    let mut host = host(LARGE);
    let client = host.connect(peer());
    let mut broker = Broker::default();
    converse(&mut host, client, &mut broker, CONNECT);
    converse(&mut host, client, &mut broker, SUBSCRIBE);
    let before = host.memory_bytes();
    host.broker_sends(client, &broker.deliver("a.b", LARGE_BYTES as u64).unwrap());
    let mut received = host.take_to_client(client).len();
    for _ in 0..LARGE_BYTES / PIECE {
        host.broker_sends(client, &broker.body(&[7; PIECE]));
        received += host.take_to_client(client).len();
    }
    // Five bytes of fixed header, the topic with its length.
    assert_eq!(received, LARGE_BYTES + 5 + 5);
    let grown = host.memory_bytes() - before;
    println!("100 MB to the client in pieces of {PIECE}: memory {before} + {grown} bytes");
    assert!(grown < 1024 * 1024, "{grown}");
}

fn host(config_json: &str) -> Host {
    let module: &Module = module::shipped();
    Host::new(module, config_json).unwrap_or_else(|Refused(logs)| panic!("{logs:?}"))
}

fn peer() -> SocketAddr {
    "127.0.0.1:40000".parse().unwrap()
}

/// The client speaks, broker and filter answer each other until they are done; what the client heard.
fn converse(
    subject: &mut (impl Subject + ?Sized),
    client: Connection,
    broker: &mut Broker,
    bytes: &[u8],
) -> Vec<u8> {
    subject.client_sends(client, bytes);
    let mut heard = Vec::new();
    loop {
        let answer = broker.answer(&subject.take_to_broker(client));
        if answer.is_empty() {
            return heard;
        }
        subject.broker_sends(client, &answer);
        heard.extend(subject.take_to_client(client));
    }
}

fn log_in(host: &mut Host, client: Connection) -> Vec<u8> {
    converse(host, client, &mut Broker::default(), CONNECT)
}

/// In host calls.
fn cost_of_a_tick(host: &mut Host) -> u64 {
    let before = host.host_calls();
    host.advance(100);
    host.host_calls() - before
}

/// QoS 1, topic `a/b`, packet id 3.
fn large_publish_head() -> Vec<u8> {
    let mut head = vec![0x32];
    let mut rest = LARGE_BYTES + 7;
    while rest > 0 {
        head.push((rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 });
        rest >>= 7;
    }
    head.extend(b"\0\x03a/b\0\x03");
    head
}

const PIECE: usize = 64 * 1024;
const LARGE_BYTES: usize = 1600 * PIECE;
const LARGE: &str = r#"{"max_packet_size_authenticated": 200000000}"#;

/// MQTT 3.1.1, clean session, keep-alive 60 s, client id `c`, user `u`, password `p`.
const CONNECT: &[u8] = b"\x10\x13\0\x04MQTT\x04\xc2\0\x3c\0\x01c\0\x01u\0\x01p";
/// The same of protocol level 9.
const UNSUPPORTED_CONNECT: &[u8] = b"\x10\x13\0\x04MQTT\x09\xc2\0\x3c\0\x01c\0\x01u\0\x01p";
const ACCEPTED: &[u8] = &[0x20, 2, 0, 0];
/// Topic filter `a/b` at QoS 0, packet id 1.
const SUBSCRIBE: &[u8] = b"\x82\x08\0\x01\0\x03a/b\0";
/// Topic `a/b`, payload `x`.
const PUBLISH_QOS_0: &[u8] = b"\x30\x06\0\x03a/bx";
/// The same with packet id 2.
const PUBLISH_QOS_1: &[u8] = b"\x32\x08\0\x03a/b\0\x02x";
const PINGREQ: &[u8] = &[0xc0, 0];
const DISCONNECT: &[u8] = &[0xe0, 0];
