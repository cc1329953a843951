//! Every error of the broker's, at every place: what the client sees is in `docs/broker-errors.md`, which is read here.

use crate::both;
use amq_protocol::protocol::{AMQPClass, basic, queue};
use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _, fs, path::Path};
use support::{methods::*, packets::*, scripted_broker, talk::Talk};

/// In the order of the document's columns.
const CODES: [u16; 9] = [320, 403, 404, 405, 406, 501, 504, 530, 541];

const DROP: &str = r#"{"on_unauthorized": "drop"}"#;
const HOUR: &str = r#"{"heartbeat": 0, "will_refresh": 3600000}"#;

/// Where the broker's error comes: what the document calls it, the configuration, and how to get there and be told it.
type Place = (&'static str, &'static str, fn(&mut Talk, u16));

const CONNECTION_CLOSED: [Place; 9] = [
    ("CONNECT, before connection.start", "{}", |t, code| {
        t.client(connect("c"));
        closes(t, code);
    }),
    ("CONNECT, before connection.open-ok", "{}", |t, code| {
        t.client(connect("c"));
        t.greet("RabbitMQ", "4.1.0");
        closes(t, code);
    }),
    ("CONNECT, before CONNACK", "{}", |t, code| {
        t.client(connect_will(1, "w", "gone"));
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
        t.replies(WILL, [channel_open_ok(), tx_select_ok()]);
        closes(t, code);
    }),
    ("nothing under way", "{}", |t, code| {
        logged_in(t, &connect("c"));
        closes(t, code);
    }),
    ("SUBSCRIBE", "{}", |t, code| {
        logged_in(t, &connect("c"));
        t.client(subscribe(1, &[("a", 1)]));
        t.reply(TOPOLOGY, declare_ok(1));
        closes(t, code);
    }),
    ("PUBLISH, its payload half sent", "{}", |t, code| {
        logged_in(t, &connect("c"));
        t.client(&publish(1, 2, "a", b"0123456789")[..12]);
        closes(t, code);
    }),
    ("a message for the client, its payload half sent", "{}", |t, code| {
        half_delivered(t);
        closes(t, code);
    }),
    ("the will's renewal", HOUR, |t, code| {
        logged_in(t, &connect_will(1, "w", "gone"));
        t.advance(3_600_000);
        closes(t, code);
    }),
    ("DISCONNECT", "{}", |t, code| {
        logged_in(t, &connect("c"));
        t.client(DISCONNECT);
        closes(t, code);
    }),
];

const CHANNEL_CLOSED: [Place; 55] = [
    // ------------------------------------------------------------ login, clean session
    ("CONNECT, clean: basic.qos", "{}", |t, code| login(t, connect("c"), 1, code, |_, it| *it == qos(10))),
    ("CONNECT, clean: channel.open for queues", "{}", |t, code| {
        login(t, connect("c"), 1, code, |channel, it| channel == TOPOLOGY && *it == channel_open());
    }),
    ("CONNECT, clean: the lock's queue.declare", "{}", |t, code| {
        login(t, connect("c"), 1, code, is_declare(LOCK))
    }),
    ("CONNECT, clean: the lock's basic.consume", "{}", |t, code| {
        login(t, connect("c"), 1, code, is_consume(LOCK))
    }),
    ("CONNECT, clean: the lock's queue.declare, each time", "{}", |t, code| {
        login(t, connect("c"), 6, code, is_declare(LOCK));
    }),
    ("CONNECT, clean: the lock's basic.consume, each time", "{}", |t, code| {
        login(t, connect("c"), 6, code, is_consume(LOCK));
    }),
    ("CONNECT, clean: the lock's basic.publish", "{}", |t, code| {
        t.broker.has_another_holder();
        login(t, connect("c"), 1, code, is_publish(CONSUME));
    }),
    ("CONNECT, clean: the lock's basic.publish, each time", "{}", |t, code| {
        t.broker.has_another_holder();
        login(t, connect("c"), 6, code, is_publish(CONSUME));
    }),
    ("CONNECT, clean: the lock's queue.delete, by force", "{}", |t, code| {
        t.broker.refuse(1, (406, "REFUSED"), is_declare(LOCK));
        login(t, connect("c"), 1, code, is_delete(LOCK));
    }),
    ("CONNECT, the lock waited for", "{}", |t, code| {
        t.client(connect("c"));
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.replies(TOPOLOGY, [channel_open_ok(), delete_ok(), delete_ok()]);
        t.replies(
            CONSUME,
            [channel_open_ok(), qos_ok(), declared(LOCK, 0), consumed("lock"), declared(LOCK, 2)],
        );
        while t.broker.next_frame().is_some() {}
        refuses(t, CONSUME, code);
    }),
    ("CONNECT, clean: queue.delete of a kept queue", "{}", |t, code| {
        login(t, connect("c"), 1, code, is_delete(KEPT[1]));
    }),
    // ------------------------------------------------------------ login, session to be kept
    ("CONNECT, kept: the lock's basic.publish", "{}", |t, code| {
        t.broker.has_another_holder();
        login(t, connect_kept("c"), 1, code, is_publish(CONSUME));
    }),
    ("CONNECT, kept: the lock's queue.delete, by force", "{}", |t, code| {
        t.broker.refuse(1, (406, "REFUSED"), is_declare(LOCK));
        login(t, connect_kept("c"), 1, code, is_delete(LOCK));
    }),
    ("CONNECT, kept: the lock's queue.declare, each time", "{}", |t, code| {
        login(t, connect_kept("c"), 6, code, is_declare(LOCK));
    }),
    ("CONNECT, kept: the lock's basic.consume, each time", "{}", |t, code| {
        login(t, connect_kept("c"), 6, code, is_consume(LOCK));
    }),
    ("CONNECT, kept: passive queue.declare of qos1", "{}", |t, code| {
        t.broker.has_queue(KEPT[1]);
        login(t, connect_kept("c"), 1, code, is_look_for(KEPT[1]));
    }),
    ("CONNECT, kept: queue.declare of qos1, a new session", "{}", |t, code| {
        login(t, connect_kept("c"), 1, code, is_declare(KEPT[1]));
    }),
    ("CONNECT, kept: queue.declare of qos1, a session that is there", "{}", |t, code| {
        t.broker.has_queue(KEPT[1]);
        login(t, connect_kept("c"), 1, code, is_declare(KEPT[1]));
    }),
    ("CONNECT, kept: passive queue.declare of qos0", "{}", |t, code| {
        t.broker.has_queue(KEPT[1]);
        t.broker.has_queue(KEPT[0]);
        login(t, connect_kept("c"), 1, code, is_look_for(KEPT[0]));
    }),
    ("CONNECT, kept: queue.delete of qos0, a new session", "{}", |t, code| {
        login(t, connect_kept("c"), 1, code, is_delete(KEPT[0]));
    }),
    // ------------------------------------------------------------ login, will
    ("CONNECT, will: tx.select", "{}", |t, code| login(t, will(), 1, code, |_, it| *it == tx_select())),
    ("CONNECT, will: queue.declare", "{}", |t, code| login(t, will(), 1, code, is_declare(WILL_QUEUE))),
    ("CONNECT, will: basic.consume", "{}", |t, code| login(t, will(), 1, code, is_consume(WILL_QUEUE))),
    ("CONNECT, will: basic.publish", "{}", |t, code| login(t, will(), 1, code, is_publish(WILL))),
    ("CONNECT, will: tx.commit", "{}", |t, code| login(t, will(), 1, code, |_, it| *it == commit())),
    // ------------------------------------------------------------ subscriptions
    ("SUBSCRIBE, clean: queue.declare", "{}", |t, code| {
        request(t, connect("c"), &one(1), code, is_declare(OWN[1]))
    }),
    ("SUBSCRIBE, kept: queue.declare of qos0", "{}", |t, code| {
        request(t, connect_kept("c"), &one(0), code, is_declare(KEPT[0]));
    }),
    ("SUBSCRIBE: queue.bind", "{}", |t, code| request(t, connect("c"), &one(1), code, is_bind)),
    ("SUBSCRIBE: queue.unbind from the other level", "{}", |t, code| {
        logged_in(t, &connect("c"));
        t.client(subscribe(9, &[("b", 0)]));
        t.agree();
        t.take_heard();
        refused(t, &one(1), code, is_unbind);
    }),
    ("SUBSCRIBE: basic.consume", "{}", |t, code| request(t, connect("c"), &one(1), code, is_consume(OWN[1]))),
    ("SUBSCRIBE, no client id: basic.consume", "{}", |t, code| {
        request(t, connect(""), &one(1), code, |_, it| {
            matches!(it, AMQPClass::Basic(basic::AMQPMethod::Consume(_)))
        });
    }),
    ("CONNACK, kept: basic.consume of what was kept", "{}", |t, code| {
        t.broker.has_queue(KEPT[1]);
        login(t, connect_kept("c"), 1, code, is_consume(KEPT[1]));
    }),
    ("UNSUBSCRIBE: queue.unbind", "{}", |t, code| {
        logged_in(t, &connect("c"));
        t.subscribe(1);
        refused(t, &unsubscribe(2, &["#"]), code, is_unbind);
    }),
    // ------------------------------------------------------------ shared subscriptions
    ("SUBSCRIBE, $share: queue.declare", "{}", |t, code| {
        request(t, connect("c"), &shared(), code, is_declare("mqtt-subscription-g/ashare"));
    }),
    ("SUBSCRIBE, $share: queue.bind", "{}", |t, code| request(t, connect("c"), &shared(), code, is_bind)),
    ("SUBSCRIBE, $share: basic.consume", "{}", |t, code| {
        request(t, connect("c"), &shared(), code, is_consume("mqtt-subscription-g/ashare"));
    }),
    ("UNSUBSCRIBE, $share: basic.cancel", "{}", |t, code| {
        leave_group(t, code, |_, it| matches!(it, AMQPClass::Basic(basic::AMQPMethod::Cancel(_))))
    }),
    ("UNSUBSCRIBE, $share: passive queue.declare", "{}", |t, code| {
        leave_group(t, code, is_look_for("mqtt-subscription-g/ashare"));
    }),
    ("UNSUBSCRIBE, $share: queue.delete", "{}", |t, code| {
        leave_group(t, code, is_delete("mqtt-subscription-g/ashare"));
    }),
    // ------------------------------------------------------------ messages of the client
    ("PUBLISH at QoS 0", "{}", |t, code| {
        request(t, connect("c"), &publish(0, 0, "a", b"x"), code, is_publish(PUBLISH))
    }),
    ("PUBLISH at QoS 1 or 2", "{}", |t, code| {
        request(t, connect("c"), &publish(1, 2, "a", b"x"), code, is_publish(PUBLISH));
    }),
    ("PUBLISH at QoS 1 or 2: confirm.select", "{}", |t, code| {
        request(t, connect("c"), &publish(1, 2, "a", b"x"), code, |_, it| *it == confirm_select());
    }),
    ("PUBLISH, its payload half sent", "{}", |t, code| half_published(t, code)),
    ("PUBLISH at QoS 0, `on_unauthorized: drop`", DROP, |t, code| {
        request(t, connect("c"), &publish(0, 0, "a", b"x"), code, is_publish(PUBLISH));
    }),
    ("PUBLISH at QoS 1, the only one, `on_unauthorized: drop`", DROP, |t, code| {
        request(t, connect("c"), &publish(1, 2, "a", b"x"), code, is_publish(PUBLISH));
    }),
    ("PUBLISH at QoS 1, one of several, `on_unauthorized: drop`", DROP, |t, code| {
        let both = [publish(1, 2, "a", b"x"), publish(1, 3, "a", b"x")].concat();
        logged_in(t, &connect("c"));
        t.client(both);
        while t.broker.next_frame().is_some() {}
        refuses_publish(t, PUBLISH, code);
    }),
    ("PUBLISH, its payload half sent, `on_unauthorized: drop`", DROP, |t, code| half_published(t, code)),
    // ------------------------------------------------------------ no request of the client's
    ("nothing under way, channel of queues", "{}", |t, code| {
        logged_in(t, &connect("c"));
        refuses(t, TOPOLOGY, code);
    }),
    ("nothing under way, channel of consumers", "{}", |t, code| {
        logged_in(t, &connect("c"));
        refuses(t, CONSUME, code);
    }),
    ("nothing under way, a channel that is not open", "{}", |t, code| {
        logged_in(t, &connect("c"));
        refuses(t, PUBLISH, code);
    }),
    ("nothing under way, channel of the will", "{}", |t, code| {
        logged_in(t, &will());
        refuses(t, WILL, code);
    }),
    ("a message for the client, its payload half sent", "{}", |t, code| {
        half_delivered(t);
        refuses(t, CONSUME, code);
    }),
    ("a message for the client, its payload half sent; channel of queues", "{}", |t, code| {
        half_delivered(t);
        refuses(t, TOPOLOGY, code);
        t.broker(scripted_broker::body(CONSUME, b"56789"));
        t.hears(b"56789");
    }),
    ("PUBLISH at QoS 1, its payload half sent; channel of queues", "{}", |t, code| {
        logged_in(t, &connect("c"));
        let packet = publish(1, 2, "a", b"0123456789");
        let (head, tail) = packet.split_at(packet.len() - 5);
        t.client(head);
        t.agree();
        refuses(t, TOPOLOGY, code);
        t.client(tail);
    }),
    ("PINGREQ: channel.flow", "{}", |t, code| {
        request(t, connect("c"), &PINGREQ, code, |_, it| *it == flow(true));
    }),
];

// ---------------------------------------------------------------- how to get there

fn logged_in(t: &mut Talk, connect: &[u8]) {
    t.client(connect);
    t.agree();
    t.hears(connack(0));
}

fn will() -> Vec<u8> {
    connect_will(1, "w", "gone")
}

fn one(qos: u8) -> Vec<u8> {
    subscribe(1, &[("a", qos)])
}

fn shared() -> Vec<u8> {
    subscribe(1, &[("$share/g/a", 1)])
}

/// A login during which the broker refuses a request so many times.
fn login(
    t: &mut Talk,
    connect: Vec<u8>,
    times: u32,
    code: u16,
    is_meant: impl Fn(u16, &AMQPClass) -> bool + 'static,
) {
    t.broker.refuse(times, (code, "REFUSED"), is_meant);
    t.client(connect);
    t.agree();
}

/// A packet of a client that is logged in, of which the broker refuses something.
fn request(
    t: &mut Talk,
    connect: Vec<u8>,
    packet: &[u8],
    code: u16,
    is_meant: impl Fn(u16, &AMQPClass) -> bool + 'static,
) {
    logged_in(t, &connect);
    refused(t, packet, code, is_meant);
}

fn refused(t: &mut Talk, packet: &[u8], code: u16, is_meant: impl Fn(u16, &AMQPClass) -> bool + 'static) {
    t.broker.refuse(1, (code, "REFUSED"), is_meant);
    t.client_at_once(packet);
    t.agree();
}

fn leave_group(t: &mut Talk, code: u16, is_meant: impl Fn(u16, &AMQPClass) -> bool + 'static) {
    logged_in(t, &connect("c"));
    t.client(shared());
    t.agree();
    t.hears(suback(1, &[1]));
    refused(t, &unsubscribe(2, &["$share/g/a"]), code, is_meant);
}

fn half_delivered(t: &mut Talk) {
    logged_in(t, &connect("c"));
    t.subscribe(1);
    t.reply(CONSUME, deliver(1, 1, false, "a"));
    t.broker(scripted_broker::header(CONSUME, 10, mode(2)));
    t.broker(scripted_broker::body(CONSUME, b"01234"));
    t.take_heard();
}

/// The broker refuses it, then the rest comes.
fn half_published(t: &mut Talk, code: u16) {
    logged_in(t, &connect("c"));
    let packet = publish(0, 0, "a", b"0123456789");
    let (head, tail) = packet.split_at(packet.len() - 5);
    t.client(head);
    while t.broker.next_frame().is_some() {}
    refuses_publish(t, PUBLISH, code);
    t.client(tail);
}

/// connection.close.
fn closes(t: &mut Talk, code: u16) {
    while t.broker.next_frame().is_some() {}
    t.reply(CONNECTION, close(code, "CLOSED"));
}

/// channel.close out of the blue.
fn refuses(t: &mut Talk, channel: u16, code: u16) {
    let bytes = t.broker.close_channel(channel, code, "CLOSED");
    t.broker(bytes);
}

fn refuses_publish(t: &mut Talk, channel: u16, code: u16) {
    t.reply(channel, channel_close(code, "REFUSED", (60, 40)));
}

fn is_declare(queue: &'static str) -> impl Fn(u16, &AMQPClass) -> bool {
    move |_, it| matches!(it, AMQPClass::Queue(queue::AMQPMethod::Declare(it)) if it.queue.as_str() == queue && !it.passive)
}

fn is_look_for(queue: &'static str) -> impl Fn(u16, &AMQPClass) -> bool {
    move |_, it| matches!(it, AMQPClass::Queue(queue::AMQPMethod::Declare(it)) if it.queue.as_str() == queue && it.passive)
}

fn is_delete(queue: &'static str) -> impl Fn(u16, &AMQPClass) -> bool {
    move |_, it| matches!(it, AMQPClass::Queue(queue::AMQPMethod::Delete(it)) if it.queue.as_str() == queue)
}

fn is_consume(queue: &'static str) -> impl Fn(u16, &AMQPClass) -> bool {
    move |_, it| matches!(it, AMQPClass::Basic(basic::AMQPMethod::Consume(it)) if it.queue.as_str() == queue)
}

fn is_bind(_: u16, it: &AMQPClass) -> bool {
    matches!(it, AMQPClass::Queue(queue::AMQPMethod::Bind(_)))
}

fn is_unbind(_: u16, it: &AMQPClass) -> bool {
    matches!(it, AMQPClass::Queue(queue::AMQPMethod::Unbind(_)))
}

fn is_publish(on: u16) -> impl Fn(u16, &AMQPClass) -> bool {
    move |channel, it| channel == on && matches!(it, AMQPClass::Basic(basic::AMQPMethod::Publish(_)))
}

// ---------------------------------------------------------------- what is seen

/// In the document's words. Never silence: a client whose connection is still open is answered a PINGREQ.
fn seen(t: &mut Talk) -> String {
    t.agree();
    t.advance(100);
    let mut words = Vec::new();
    let heard = t.take_heard();
    let mut rest = &heard[..];
    while let [first, length, ..] = *rest {
        let (packet, behind) = rest.split_at(2 + usize::from(length));
        rest = behind;
        words.push(match first {
            0x20 => format!("CONNACK {}{}", packet[3], if packet[2] == 1 { " present" } else { "" }),
            0x40 => "PUBACK".into(),
            0x90 => format!("SUBACK {}", packet[4]),
            0xb0 => "UNSUBACK".into(),
            0xd0 => "PINGRESP".into(),
            other => panic!("{other:x}"),
        });
    }
    let is_refused =
        matches!(words.first().map(String::as_str), Some("CONNACK 3" | "CONNACK 4" | "CONNACK 5"));
    if t.closed() {
        if !is_refused {
            words.push("closed".into());
        }
    } else {
        t.client(PINGREQ);
        t.agree();
        t.hears(PINGRESP);
        if words.is_empty() {
            words.push("goes on".into());
        }
        assert!(!is_refused, "a refused client is let go");
    }
    words.join(", ")
}

/// The rows of the document's tables whose head starts with this word, by their first column.
fn documented(kind: &str) -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/broker-errors.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(kind)).expect("a section");
    let mut rows = section.lines().filter_map(|line| line.strip_prefix("| ")).map(|line| {
        let mut cells = line.trim_end_matches(" |").split(" | ").map(str::to_owned);
        (cells.next().unwrap_or_default(), cells.collect::<Vec<_>>())
    });
    let head = rows.next().expect("a head").1;
    assert_eq!(head, CODES.map(|code| code.to_string()));
    rows.collect()
}

fn agrees(kind: &str, places: &[Place]) {
    let mut documented = documented(kind);
    let mut table = String::new();
    let mut wrong = Vec::new();
    for (place, config, go) in places {
        let row = CODES.map(|code| {
            let outcomes = RefCell::new(Vec::new());
            both(config, |t| {
                go(t, code);
                outcomes.borrow_mut().push(seen(t));
            });
            let outcomes = outcomes.into_inner();
            assert_eq!(outcomes[0], outcomes[1], "{place} {code}: natively and in the module");
            outcomes[0].clone()
        });
        writeln!(table, "| {place} | {} |", row.join(" | ")).unwrap();
        if documented.remove(*place).is_none_or(|cells| cells != row) {
            wrong.push(place);
        }
    }
    assert!(wrong.is_empty() && documented.is_empty(), "{wrong:?} {documented:?}, it is:\n{table}");
}

#[test]
fn connection_close() {
    agrees("connection.close", &CONNECTION_CLOSED);
}

#[test]
fn channel_close_at_each_step() {
    agrees("channel.close", &CHANNEL_CLOSED);
}
