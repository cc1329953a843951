//! What becomes of the bytes of a client that is held up: they are never lost, never reordered, and are not in our memory.

use crate::*;
use support::methods::*;

fn number(n: u32) -> Vec<u8> {
    format!("{n}").into_bytes()
}

/// PUBLISHes at QoS 0 with their number as payload.
fn numbered(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers.flat_map(|n| publish(0, 0, "t", &number(n))).collect()
}

fn numbers(told: &[AMQPFrame]) -> Vec<u32> {
    publishes(told).iter().map(|(_, payload)| String::from_utf8_lossy(payload).parse().unwrap()).collect()
}

/// A second's worth is there for the asking.
fn ready(t: &mut Talk) {
    logs_in(t, connect_as("u", "p"));
    t.advance(2_000);
    t.agree();
}

#[test]
fn nothing_is_lost_nor_reordered_however_it_is_cut() {
    for config in [
        json!({ "client_byte_rate": 40_000 }),
        json!({ "byte_rate": 40_000 }),
        json!({ "client_message_rate": 40, "message_rate": 50 }),
        json!({ "max_inflight": 1 }),
        json!({ "max_inflight": 3, "client_byte_rate": 40_000, "message_rate": 60 }),
    ] {
        for largest_piece in [7, 300, 5_000] {
            both(config.clone(), |t| {
                ready(t);
                t.pieces_of(largest_piece);
                let sent: Vec<_> =
                    (0..120_usize).map(|n| (format!("t/{n}"), vec![n as u8; n * 7919 % 1500])).collect();
                for (n, (topic, payload)) in sent.iter().enumerate() {
                    t.client(publish(n as u8 % 3, n as u16 + 1, topic, payload));
                }
                let mut told = t.agree();
                for _ in 0..50 {
                    t.advance(100);
                    told.extend(t.agree());
                }
                let keys = sent.into_iter().map(|(topic, payload)| (topic.replace('/', "."), payload));
                assert!(publishes(&told) == keys.collect::<Vec<_>>(), "{}", t.name);
                assert_eq!(t.take_heard().len(), 80 * 4, "{}: each receipt", t.name);
                t.client(PINGREQ);
                t.agree();
                t.hears(PINGRESP);
            });
        }
    }
}

/// Nor where the proxy's queues, by which bytes are put back into its buffer, do not call.
#[test]
fn without_the_proxy_s_queues() {
    both(json!({ "client_message_rate": 10 }), |t| {
        ready(t);
        if let Some(host) = t.subject.host() {
            host.fail_call("proxy_dequeue_shared_queue", Some(7));
        }
        let mut told = Vec::new();
        for n in 0..60 {
            t.client(numbered(n..n + 1));
            told.extend(t.agree());
        }
        for _ in 0..12 {
            t.advance(500);
            told.extend(t.agree());
        }
        assert_eq!(numbers(&told), (0..60).collect::<Vec<_>>(), "{}", t.name);
    });
}

/// Ahead of CONNACK, too.
#[test]
fn behind_connect() {
    for login in ["pipelined", "sequential"] {
        for key in ["client_message_rate", "message_rate"] {
            both(json!({ key: 10, "login": login }), |t| {
                t.advance(2_000);
                t.client([connect("c"), numbered(0..40)].concat());
                let mut told = t.agree();
                t.hears(connack(0));
                assert!((10..=11).contains(&numbers(&told).len()), "{} {login}", t.name);
                t.advance(3_500);
                told.extend(t.agree());
                assert_eq!(numbers(&told), (0..40).collect::<Vec<_>>(), "{} {login}", t.name);
                t.stays_open();
            });
        }
    }
}

/// It cannot make itself heard.
#[test]
fn the_keep_alive_of_who_is_held_up_stands_still() {
    for key in ["client_message_rate", "message_rate"] {
        both(json!({ key: 1, "heartbeat": 0 }), |t| {
            logs_in(t, connect_with(0xc2, 4, &["c", "u", "p"]));
            t.client(numbered(0..40));
            for _ in 0..36 {
                t.advance(1_000);
                t.agree();
                assert!(!t.closed(), "{} {key}", t.name);
            }
            // From then on it has its time again, and no more.
            t.advance(8_000);
            t.agree();
            assert!(!t.closed(), "{} {key}", t.name);
            t.advance(4_000);
            assert_eq!(t.counter("closed.timed_out"), 1, "{} {key}", t.name);
        });
    }
    both(json!({ "max_inflight": 1, "heartbeat": 0 }), |t| {
        logs_in(t, connect_with(0xc2, 4, &["c", "u", "p"]));
        t.client([publish(1, 1, "a", b"x"), PINGREQ.to_vec()].concat());
        t.advance(60_000);
        assert!(!t.closed(), "{}", t.name);
        t.agree();
        t.hears([puback(1), PINGRESP.to_vec()].concat());
        // Also of who has said nothing meanwhile.
        t.client(publish(1, 2, "a", b"x"));
        t.advance(60_000);
        t.agree();
        t.hears(puback(2));
        t.advance(5_900);
        assert!(!t.closed(), "{}", t.name);
        t.advance(200);
        assert_eq!(t.counter("closed.timed_out"), 1, "{}", t.name);
    });
}

/// All is published first, then the goodbye, then the broker hears the client's end.
#[test]
fn a_fin_behind_held_bytes() {
    for key in ["client_message_rate", "message_rate"] {
        both(json!({ key: 10 }), |t| {
            ready(t);
            t.client(numbered(0..40));
            t.client_ends();
            let mut told = t.agree();
            assert!(!told.contains(&AMQPFrame::Method(CONNECTION, goodbye())), "{}", t.name);
            for _ in 0..35 {
                t.advance(100);
                told.extend(t.agree());
            }
            assert_eq!(numbers_of(&told, "t"), (0..40).collect::<Vec<_>>(), "{} {key}", t.name);
            assert_eq!(told.last(), Some(&AMQPFrame::Method(CONNECTION, goodbye())), "{} {key}", t.name);
            t.closes();
            assert_eq!(t.counter("closed.client_gone"), 1);
            lost_nothing(t);
        });
    }
}

/// The broker hears nothing of a client that has ended before all of it is said: it would take that for the end of a connection that
/// is silent, and all would be lost.
#[test]
fn a_fin_behind_what_would_take_too_long() {
    for key in ["client_message_rate", "message_rate"] {
        for (heartbeat, patience) in [(30, 5_000), (0, 5_000), (2, 2_000)] {
            both(json!({ key: 1, "heartbeat": heartbeat }), |t| {
                // With the least buffer the end is not read while the client is ahead.
                let Some(host) = t.subject.host() else { return };
                host.set_buffer_limit(1 << 20);
                t.advance(2_000);
                t.client_at_once([connect("c"), numbered(0..500)].concat());
                t.client_ends();
                let mut told = t.agree();
                t.advance(patience - 200);
                told.extend(t.agree());
                assert!(numbers_of(&told, "t").len() < 20, "{} {key}", t.name);
                t.advance(400);
                told.extend(t.agree());
                // The rest is nobody's: otherwise, whoever hangs up is ahead of any rate.
                assert!(numbers_of(&told, "t").len() < 20, "{} {key}", t.name);
                assert_eq!(t.counter("closed.limit"), 1);
                assert_eq!(told.last(), Some(&AMQPFrame::Method(CONNECTION, goodbye())), "{} {key}", t.name);
                t.closes();
                lost_nothing(t);
            });
        }
    }
}

/// The numbers that went to this key; the rest is for nobody.
fn numbers_of(told: &[AMQPFrame], key: &str) -> Vec<u32> {
    let messages = publishes(told).into_iter().filter(|(its, _)| its == key);
    messages.map(|(_, payload)| String::from_utf8_lossy(&payload).parse().unwrap()).collect()
}

fn lost_nothing(t: &mut Talk) {
    let connection = t.connection;
    if let Some(host) = t.subject.host() {
        assert_eq!(host.lost(connection), 0, "overtaken by the end");
    }
}

/// It is not said until it is read: then it takes the will back.
#[test]
fn a_disconnect_behind_held_bytes() {
    for (key, ends) in [
        ("client_message_rate", false),
        ("client_message_rate", true),
        ("message_rate", false),
        ("message_rate", true),
    ] {
        both(json!({ key: 10 }), |t| {
            t.client(connect_will(1, "w", "gone"));
            t.agree();
            t.hears(connack(0));
            t.advance(2_000);
            t.agree();
            t.client([numbered(0..40), DISCONNECT.to_vec()].concat());
            if ends {
                t.client_ends();
            }
            let mut told = t.agree();
            let withdrawn = AMQPFrame::Method(WILL, delete_queue(WILL_QUEUE, false));
            assert!(!told.contains(&withdrawn), "{}", t.name);
            assert_eq!(t.counter("closed.disconnect"), 0);
            for _ in 0..35 {
                t.advance(100);
                told.extend(t.agree());
            }
            assert_eq!(numbers_of(&told, "t"), (0..40).collect::<Vec<_>>(), "{} {key}", t.name);
            assert!(told.contains(&withdrawn), "{} {key}: the will", t.name);
            assert!(told.contains(&AMQPFrame::Method(CONNECTION, goodbye())), "{} {key}", t.name);
            t.closes();
            assert_eq!((t.counter("closed.disconnect"), t.counter("closed.client_gone")), (1, 0));
            lost_nothing(t);
        });
    }
}

/// Publishes at QoS 1 and 2 that are not confirmed are so many at most.
#[test]
fn max_inflight() {
    both(json!({ "max_inflight": 2 }), |t| {
        logs_in(t, connect("c"));
        let packets: Vec<_> = (1..=6).map(|n| publish(1 + (n % 2) as u8, n, "t", &[n as u8; 300])).collect();
        t.client([packets.concat(), publish(0, 0, "t", b"last")].concat());
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
        for n in 1..=2 {
            t.expect_publish(PUBLISH, "t", &[n; 300]);
        }
        t.expect_silence();
        t.hears_nothing();
        for n in 1..=4_u8 {
            t.reply(PUBLISH, ack(n.into(), false));
            t.hears(if n % 2 == 0 { puback(n.into()) } else { pubrec(n.into()) });
            t.expect_publish(PUBLISH, "t", &[n + 2; 300]);
            t.expect_silence();
        }
        // One of two is enough for what is behind.
        t.reply(PUBLISH, ack(6, true));
        t.expect_publish(PUBLISH, "t", b"last");
    });
}

/// PUBREL and PUBCOMP need no place.
#[test]
fn a_qos_2_exchange_goes_through_one_place() {
    both(json!({ "max_inflight": 1 }), |t| {
        logs_in(t, connect("c"));
        for n in 1..=5 {
            t.client(publish(2, n, "t", &[7; 100]));
            t.agree();
            t.hears(pubrec(n));
        }
        t.client([publish(2, 6, "t", b"x"), pubrel(6), publish(2, 7, "t", b"x"), pubrel(1)].concat());
        for _ in 0..4 {
            t.agree();
        }
        let mut heard = t.take_heard();
        heard.sort_unstable();
        let mut expected = [pubrec(6), pubcomp(6), pubrec(7), pubcomp(1)].concat();
        expected.sort_unstable();
        assert_eq!(heard, expected, "{}", t.name);
    });
}

/// A payload that has begun goes on, or neither it nor anything else would ever end.
#[test]
fn a_message_in_pieces_fills_the_last_place() {
    both(json!({ "max_inflight": 1 }), |t| {
        logs_in(t, connect("c"));
        let packet = publish(1, 1, "t", &[7; 5_000]);
        for piece in packet.chunks(1_000) {
            t.client(piece);
            t.advance(100);
        }
        t.client(publish(1, 2, "t", b"x"));
        assert_eq!(
            publishes(&t.agree()),
            [("t".to_owned(), vec![7; 5_000]), ("t".to_owned(), b"x".to_vec())]
        );
        t.hears([puback(1), puback(2)].concat());
    });
}

#[test]
fn the_end_behind_max_inflight() {
    // DISCONNECT waits for the confirm, and the messages ahead of it are all published.
    both(json!({ "max_inflight": 1 }), |t| {
        logs_in(t, connect("c"));
        t.client([publish(1, 1, "t", b"1"), publish(1, 2, "t", b"2"), DISCONNECT.to_vec()].concat());
        t.advance(100);
        assert_eq!(t.counter("closed.disconnect"), 0, "{}", t.name);
        let told = t.agree();
        assert_eq!(numbers(&told), [1, 2], "{}", t.name);
        t.closes();
        assert_eq!(t.counter("closed.disconnect"), 1, "{}", t.name);
    });
    // After a FIN there is nobody to hold up.
    both(json!({ "max_inflight": 1 }), |t| {
        logs_in(t, connect("c"));
        t.client((1..=5).flat_map(|n| publish(1, n, "t", &number(n.into()))).collect::<Vec<_>>());
        t.client_ends();
        let told = t.agree();
        assert_eq!(numbers_of(&told, "t"), [1, 2, 3, 4, 5], "{}", t.name);
        t.closes();
        lost_nothing(t);
    });
}

/// A client that sends megabytes ahead of its rate costs what one costs that does not, also while the broker has much to tell.
#[test]
fn memory_stays_as_it_is() {
    const MESSAGES: u32 = 4_000;
    const PAYLOAD: usize = 1_000;
    both(json!({ "client_byte_rate": 50_000, "heartbeat": 2 }), |t| {
        ready(t);
        t.subscribe(1);
        let payload = |n: u32| format!("{n:0width$}", width = PAYLOAD).into_bytes();
        let sent: Vec<u8> = (0..MESSAGES).flat_map(|n| publish(0, 0, "t", &payload(n))).collect();
        let Some(before) = t.subject.host().map(|host| host.memory_bytes()) else { return };
        for piece in sent.chunks(50_000) {
            t.client_at_once(piece);
        }
        let (connection, mut next, mut told) = (t.connection, 0, Vec::new());
        for round in 1..=100 {
            t.advance(100);
            // What it is told at QoS 0 from a QoS 1 subscription is acknowledged by us: bytes for the broker while it is held up.
            t.deliver((1, round, false), "x", mode(1), b"news");
            t.hears(publish(0, 0, "x", b"news"));
            told.extend(t.agree());
            for (_, message) in publishes(&told).iter().skip(next as usize) {
                assert!(*message == payload(next), "{}: {next}", t.name);
                next += 1;
            }
            let host = t.subject.host().unwrap();
            let passed = next as usize * (PAYLOAD + 6);
            let held = sent.len() - host.unread(connection) - passed;
            assert!(held < 65_536 + 3 * 16_384, "{}: {held} bytes are with the proxy", t.name);
            assert!(host.memory_bytes() < before + (2 << 20), "{}: {}", t.name, host.memory_bytes());
        }
        assert!((450..=650).contains(&next), "{}: ten seconds' worth and one: {next}", t.name);
        assert!(!t.closed());
    });
}

/// What goes the other way is not held up.
#[test]
fn who_is_held_up_is_told_what_there_is() {
    both(json!({ "client_message_rate": 1 }), |t| {
        ready(t);
        t.subscribe(1);
        t.client(numbered(0..30));
        t.agree();
        for tag in 1..=5 {
            t.deliver((1, tag, false), "x", mode(2), b"news");
            t.hears(publish(1, tag as u16, "x", b"news"));
        }
    });
}
