//! A client's messages.

use crate::both;
use support::{methods::*, packets::*, scripted_broker, talk::Talk};

/// The broker confirms.
fn confirm(t: &mut Talk, number: u64, multiple: bool) {
    t.reply(PUBLISH, ack(number, multiple));
}

/// The client's message at QoS 1 or 2 reaches the broker.
fn arrives(t: &mut Talk, qos: u8, id: u16) {
    t.client(publish(qos, id, "a/b", b"hi"));
    t.expect_publish(PUBLISH, "a.b", b"hi");
}

/// Logged in, with the confirm channel open.
fn ready(t: &mut Talk) {
    t.log_in();
    t.client(publish(1, 999, "warm", b""));
    t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
    t.expect_publish(PUBLISH, "warm", b"");
    t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
    t.hears(puback(999));
}

/// What is owed without the broker's doing rides on a round trip.
#[track_caller]
fn hears_by_round_trip(t: &mut Talk, bytes: impl AsRef<[u8]>) {
    t.hears_nothing();
    t.expect(TOPOLOGY, flow(true));
    t.reply(TOPOLOGY, flow_ok(true));
    t.hears(bytes);
    t.expect_silence();
}

#[test]
fn qos_0_is_published_without_confirms() {
    both("{}", |t| {
        t.log_in();
        t.client([publish(0, 0, "a/b", b"hi"), publish(0, 0, "a/b", b"")].concat());
        t.expect(PUBLISH, channel_open());
        assert_eq!(t.expect_publish(PUBLISH, "a.b", b"hi"), mode(1));
        assert_eq!(t.expect_publish(PUBLISH, "a.b", b""), mode(1));
        t.reply(PUBLISH, channel_open_ok());
        t.expect_silence();
        t.hears_nothing();
    });
}

#[test]
fn qos_1_is_acknowledged_when_the_broker_confirms() {
    both("{}", |t| {
        t.log_in();
        t.client(publish(1, 7, "a/b", b"hi"));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        assert_eq!(t.expect_publish(PUBLISH, "a.b", b"hi"), mode(2));
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
        t.hears_nothing();
        confirm(t, 1, false);
        t.hears(puback(7));
        t.expect_silence();
    });
}

#[test]
fn qos_1_again_before_its_confirm_is_the_same_message_and_after_it_another() {
    both("{}", |t| {
        ready(t);
        arrives(t, 1, 7);
        t.client(publish_flags(0x0a, 7, "a/b", b"hi"));
        t.expect_silence();
        confirm(t, 2, false);
        t.hears(puback(7));
        arrives(t, 1, 7);
        confirm(t, 3, false);
        t.hears(puback(7));
    });
}

#[test]
fn qos_2_is_published_once() {
    both("{}", |t| {
        ready(t);
        arrives(t, 2, 7);
        t.client(publish_flags(0x0c, 7, "a/b", b"hi"));
        t.expect_silence();
        t.hears_nothing();
        confirm(t, 2, false);
        t.hears(pubrec(7));
        // PUBREC was lost: the client sends again.
        t.client(publish_flags(0x0c, 7, "a/b", b"hi"));
        hears_by_round_trip(t, pubrec(7));
        t.client(pubrel(7));
        hears_by_round_trip(t, pubcomp(7));
        t.client(pubrel(7));
        hears_by_round_trip(t, pubcomp(7));
        arrives(t, 2, 7);
        confirm(t, 3, false);
        t.hears(pubrec(7));
    });
}

#[test]
fn pubrel_ahead_of_the_confirm() {
    both("{}", |t| {
        ready(t);
        arrives(t, 2, 7);
        t.client(pubrel(7));
        t.client(publish_flags(0x0c, 7, "a/b", b"hi"));
        t.expect_silence();
        t.hears_nothing();
        confirm(t, 2, false);
        t.hears(pubcomp(7));
        arrives(t, 2, 7);
    });
}

#[test]
fn a_pubrel_nobody_waits_for_is_answered() {
    both("{}", |t| {
        ready(t);
        t.client([pubrel(5), pubrel(6)].concat());
        t.agree();
        t.hears([pubcomp(5), pubcomp(6)].concat());
        t.client([puback(5), pubrec(5), pubcomp(5)].concat());
        t.expect_silence();
        t.stays_open();
    });
}

#[test]
fn confirms_of_several_and_out_of_order_are_receipts_in_order() {
    both("{}", |t| {
        ready(t);
        for (qos, id) in [(1, 11), (2, 12), (1, 13), (1, 14), (2, 15), (2, 16)] {
            arrives(t, qos, id);
        }
        confirm(t, 4, false);
        t.hears_nothing();
        confirm(t, 2, false);
        t.hears(puback(11));
        confirm(t, 5, true);
        t.hears([pubrec(12), puback(13), puback(14)].concat());
        confirm(t, 7, false);
        t.hears_nothing();
        confirm(t, 6, false);
        t.hears([pubrec(15), pubrec(16)].concat());
        t.stays_open();
    });
}

/// Where the client releases a message before it has heard of it, the next one's PUBCOMP is not the first.
#[test]
fn pubcomps_come_in_the_order_of_pubrels() {
    both("{}", |t| {
        ready(t);
        arrives(t, 2, 7);
        confirm(t, 2, false);
        t.hears(pubrec(7));
        arrives(t, 2, 8);
        t.client([pubrel(8), pubrel(7)].concat());
        t.expect_silence();
        t.hears_nothing();
        confirm(t, 3, false);
        t.hears([pubcomp(8), pubcomp(7)].concat());
        t.client(pubrel(7));
        hears_by_round_trip(t, pubcomp(7));
    });
}

#[test]
fn a_confirm_of_nothing_ends_the_connection() {
    for (number, multiple) in [(0, true), (1, false), (3, false), (3, true), (u64::MAX, true)] {
        both("{}", |t| {
            ready(t);
            arrives(t, 1, 7);
            confirm(t, number, multiple);
            t.hears_nothing();
            t.closes();
            assert_eq!(t.counter("closed.broker_misbehaved"), 1);
        });
    }
}

/// A queue could not take it, which may be gone by then.
#[test]
fn what_the_broker_could_not_take_is_published_again() {
    for (qos, receipt) in [(1, puback(7)), (2, pubrec(7))] {
        both("{}", |t| {
            ready(t);
            arrives(t, qos, 7);
            t.reply(PUBLISH, nack(2));
            assert_eq!(t.expect_publish(PUBLISH, "a.b", b"hi"), mode(2));
            t.expect_silence();
            t.hears_nothing();
            confirm(t, 3, false);
            t.hears(&receipt);
            t.stays_open();
            assert_eq!((t.counter("published_again"), t.counter("unacknowledged")), (1, 0));
        });
    }
}

/// Its identifier is free then, and nothing else is the worse for it.
#[test]
fn what_the_broker_cannot_take_is_left_unacknowledged_the_fourth_time() {
    both("{}", |t| {
        ready(t);
        arrives(t, 1, 7);
        for (number, pause) in [(2, 0), (3, 100), (4, 1_000)] {
            t.reply(PUBLISH, nack(number));
            if pause > 0 {
                t.advance(pause - 100);
                t.expect_silence();
                t.advance(100);
            }
            t.expect_publish(PUBLISH, "a.b", b"hi");
            t.expect_silence();
        }
        // What is behind it is taken, and waits for it no longer than that.
        arrives(t, 1, 8);
        confirm(t, 6, false);
        t.hears_nothing();
        t.reply(PUBLISH, nack(5));
        t.expect_silence();
        t.hears(puback(8));
        assert_eq!((t.counter("published_again"), t.counter("unacknowledged")), (3, 1));
        // The client sends it again.
        t.client(publish_flags(0x0a, 7, "a/b", b"hi"));
        t.expect_publish(PUBLISH, "a.b", b"hi");
        confirm(t, 7, false);
        t.hears(puback(7));
        // Nobody waits for it, so a SUBSCRIBE need not.
        t.client(subscribe(1, &[("a", 0)]));
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a")]);
        t.stays_open();
    });
}

#[test]
fn several_are_published_again_in_their_order() {
    both("{}", |t| {
        ready(t);
        for id in 11..15 {
            t.client(publish(1, id, "a", &id.to_be_bytes()));
            t.expect_publish(PUBLISH, "a", &id.to_be_bytes());
        }
        confirm(t, 3, false);
        t.hears_nothing();
        t.reply(PUBLISH, nack_to(4, true));
        for id in [11_u16, 13] {
            t.expect_publish(PUBLISH, "a", &id.to_be_bytes());
        }
        t.expect_silence();
        confirm(t, 7, true);
        t.hears([puback(11), puback(12), puback(13), puback(14)].concat());
        assert_eq!(t.counter("published_again"), 2);
    });
}

/// At QoS 0 nobody waits: it is published once.
#[test]
fn what_nobody_waits_for_is_not_published_again() {
    both("{}", |t| {
        ready(t);
        t.client(publish(0, 0, "a", b"x"));
        t.expect_publish(PUBLISH, "a", b"x");
        t.reply(PUBLISH, nack(2));
        t.expect_silence();
        t.stays_open();
        assert_eq!((t.counter("published_again"), t.counter("unacknowledged")), (0, 0));
        t.client(subscribe(1, &[("a", 0)]));
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a")]);
    });
}

/// It is between the client's messages that one is published again.
#[test]
fn a_message_under_way_is_not_cut_into_by_one_that_is_published_again() {
    both("{}", |t| {
        ready(t);
        arrives(t, 1, 7);
        let packet = publish(1, 8, "c", b"0123456789");
        let (head, tail) = packet.split_at(packet.len() - 5);
        t.pieces_of(100);
        t.client_at_once(head);
        t.reply(PUBLISH, nack(2));
        t.client_at_once(tail);
        t.expect_publish(PUBLISH, "c", b"0123456789");
        t.expect_publish(PUBLISH, "a.b", b"hi");
        t.expect_silence();
        confirm(t, 4, true);
        t.hears([puback(7), puback(8)].concat());
    });
}

/// Copies of so many bytes are held: what goes beyond is left unacknowledged at once, and what is confirmed makes room.
#[test]
fn copies_of_128_kib_are_held() {
    both("{}", |t| {
        ready(t);
        t.pieces_of(1 << 20);
        let large = vec![7; 100_000];
        for id in [7, 8] {
            t.client_at_once(publish(1, id, "a", &large));
            t.expect_publish(PUBLISH, "a", &large);
        }
        t.reply(PUBLISH, nack(3));
        t.expect_silence();
        assert_eq!((t.counter("published_again"), t.counter("unacknowledged")), (0, 1));
        t.reply(PUBLISH, nack(2));
        t.expect_publish(PUBLISH, "a", &large);
        confirm(t, 4, false);
        t.hears(puback(7));
        t.client_at_once(publish(1, 8, "a", &large));
        t.expect_publish(PUBLISH, "a", &large);
        t.reply(PUBLISH, nack(5));
        t.expect_publish(PUBLISH, "a", &large);
        assert_eq!((t.counter("published_again"), t.counter("unacknowledged")), (2, 1));
    });
}

/// DISCONNECT waits for what is published again, too.
#[test]
fn disconnect_waits_for_what_is_published_again() {
    both("{}", |t| {
        ready(t);
        t.client([publish(1, 7, "a", b"x"), DISCONNECT.to_vec()].concat());
        t.expect_publish(PUBLISH, "a", b"x");
        t.reply(PUBLISH, nack(2));
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_silence();
        confirm(t, 3, false);
        t.hears(puback(7));
        t.expect_goodbye();
    });
}

/// What was published before confirm.select is not confirmed, and what comes behind is, whoever waits for it.
#[test]
fn confirms_begin_with_the_first_message_that_needs_one() {
    both("{}", |t| {
        t.log_in();
        t.client([publish(0, 0, "a", b"0"), publish(1, 7, "a", b"1"), publish(0, 0, "a", b"2")].concat());
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"0");
        t.expect(PUBLISH, confirm_select());
        t.expect_publish(PUBLISH, "a", b"1");
        t.expect_publish(PUBLISH, "a", b"2");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.hears(puback(7));
        t.reply(PUBLISH, ack(2, false));
        t.hears_nothing();
        t.stays_open();
        // There is no third.
        t.reply(PUBLISH, ack(3, false));
        t.closes();
    });
}

#[test]
fn a_refused_publish_closes_without_puback() {
    for (channel, qos) in [(PUBLISH, 0), (PUBLISH, 1)] {
        both("{}", |t| {
            t.log_in();
            t.client(publish(qos, 7, "a", b"hi"));
            while t.broker.next_frame().is_some() {}
            t.reply(channel, channel_close(403, "ACCESS_REFUSED", (60, 40)));
            t.expect(channel, channel_close_ok());
            t.expect_goodbye();
            t.reply(CONNECTION, close_ok());
            t.closes();
            t.hears_nothing();
            assert_eq!(t.counter("closed.broker_closed"), 1);
        });
    }
}

#[test]
fn the_payload_passes_while_it_comes() {
    both("{}", |t| {
        t.log_in();
        t.pieces_of(1);
        let packet = publish(0, 0, "a", b"payload");
        let (head, payload) = packet.split_at(packet.len() - 7);
        t.client(head);
        t.expect_all(PUBLISH, [channel_open(), basic_publish("a")]);
        t.broker.next_frame().expect("the header");
        for byte in payload {
            t.client([*byte]);
            let sent = scripted_broker::body(PUBLISH, &[*byte]);
            let next = t.broker.next_frame().expect("a body frame");
            assert_eq!(next, amq_protocol::frame::parse_frame(&sent[..]).unwrap().1);
        }
        t.expect_silence();
    });
}

#[test]
fn bodies_are_cut_to_frame_max() {
    both(r#"{"frame_max": 4096}"#, |t| {
        t.log_in();
        t.client_at_once(publish(0, 0, "a", &[1; 10_000]));
        t.expect_all(PUBLISH, [channel_open(), basic_publish("a")]);
        t.broker.next_frame().expect("the header");
        let sizes: Vec<usize> = std::iter::from_fn(|| t.broker.next_frame())
            .map(|frame| match frame {
                amq_protocol::frame::AMQPFrame::Body(_, bytes) => bytes.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [4088, 4088, 1824]);
    });
}

/// A round trip must not cut into a message.
#[test]
fn pingreq_is_answered_between_messages() {
    both("{}", |t| {
        // Without an id of its own a client needs no lock, and no channel for one.
        t.client(connect(""));
        t.agree();
        t.hears(connack(0));
        t.client(publish(0, 0, "a", b""));
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"");
        t.reply(PUBLISH, channel_open_ok());
        t.client_at_once(PINGREQ);
        t.expect(PUBLISH, flow(true));
        let packet = publish(0, 0, "a", b"0123456789");
        t.client_at_once([&PINGREQ, &packet[..8]].concat());
        t.reply(PUBLISH, flow_ok(true));
        t.hears(PINGRESP);
        // The channel is in the middle of a message, so it is another.
        t.replies(TOPOLOGY, [channel_open_ok(), flow_ok(true)]);
        t.hears(PINGRESP);
        t.client(&packet[8..]);
        t.agree();
    });
}

#[test]
fn headers_of_the_old_mqtt_plugin_for_rabbitmq_before_3_13_only() {
    for (product, version, is_old) in [
        ("RabbitMQ", "3.10.8", true),
        ("RabbitMQ", "3.12.14", true),
        ("RabbitMQ", "3.9.0", true),
        ("RabbitMQ", "2.8.7", true),
        ("RabbitMQ", "3.13.0", false),
        ("RabbitMQ", "4.1.0", false),
        ("RabbitMQ", "unknown", false),
        ("LavinMQ", "2.0.0", false),
    ] {
        both("{}", |t| {
            t.client(connect("c"));
            t.greet(product, version);
            t.reply(CONNECTION, open_ok());
            t.grant_session();
            t.hears(connack(0));
            while t.broker.next_frame().is_some() {}
            t.client([publish(0, 0, "a", b""), publish_flags(0x0c, 1, "a", b"")].concat());
            t.expect(PUBLISH, channel_open());
            let expected = if is_old { mqtt_headers(1, 0, false) } else { mode(1) };
            assert_eq!(t.expect_publish(PUBLISH, "a", b""), expected, "{product} {version}");
            t.expect(PUBLISH, confirm_select());
            let expected = if is_old { mqtt_headers(2, 2, true) } else { mode(2) };
            assert_eq!(t.expect_publish(PUBLISH, "a", b""), expected);
        });
    }
}

#[test]
fn a_topic_that_is_too_long_for_a_key_ends_the_connection() {
    both(r#"{"topic_mapping": "reversible"}"#, |t| {
        t.log_in();
        t.client(publish(0, 0, &".".repeat(85), b""));
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, &"+2E".repeat(85), b"");
        t.client(publish(0, 0, &".".repeat(86), b""));
        // What came before is routed first.
        t.reply(PUBLISH, channel_open_ok());
        t.routes();
        t.expect_goodbye();
        assert_eq!(t.counter("closed.malformed"), 1);
    });
}
