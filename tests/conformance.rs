//! MQTT 3.1.1's normative statements about behaviour, each by its name, at both subjects. Those about the form of packets
//! are in `tests/codec`.
//!
//! Not claimed yet:
//!
//! | statements | why |
//! |---|---|
//! | 3.3.1-5 to 3.3.1-12, 3.8.4-3's replay | retained messages: a later issue |
//! | 4.1.0-1, 4.1.0-2 | how long a session and its messages are kept is the broker's and `subscription_ttl`'s |
//! | 4.6.0-5, 4.6.0-6, 4.5.0-1, 3.3.5-1 | ordering and matching are the broker's; we keep its order |
// A test says what is wrong by panicking, its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(non_snake_case, reason = "names of the standard's statements")]

use amq_protocol::frame::AMQPFrame;
use support::{
    methods::*,
    module,
    packets::*,
    talk::{Talk, with_both},
};

fn both(talk: impl Fn(&mut Talk)) {
    with_both(module::shipped(), r#"{"retained": false}"#, talk);
}

/// The client's connection ends, and it hears nothing of it.
#[track_caller]
fn is_thrown_out(t: &mut Talk) {
    t.agree();
    t.closes();
    t.hears_nothing();
}

#[test]
fn mqtt_2_3_1_6__acknowledgements_carry_the_packet_id() {
    both(|t| {
        t.log_in();
        t.client([publish(1, 0x1234, "a", b""), publish(2, 0xffff, "a", b"")].concat());
        t.agree();
        t.hears([puback(0x1234), pubrec(0xffff)].concat());
        t.client(pubrel(0xffff));
        t.agree();
        t.hears(pubcomp(0xffff));
    });
}

#[test]
fn mqtt_2_3_1_7__suback_and_unsuback_carry_the_packet_id() {
    both(|t| {
        t.log_in();
        t.client([subscribe(0x1234, &[("a", 0)]), unsubscribe(0xffff, &["a"])].concat());
        t.agree();
        t.hears([suback(0x1234, &[0]), unsuback(0xffff)].concat());
    });
}

#[test]
fn mqtt_3_1_0_1__the_first_packet_is_connect() {
    for packet in [publish(0, 0, "a", b""), PINGREQ.to_vec(), subscribe(1, &[("a", 0)]), DISCONNECT.to_vec()]
    {
        both(|t| {
            t.client([packet.clone(), connect("c")].concat());
            t.expect_silence();
            is_thrown_out(t);
        });
    }
}

#[test]
fn mqtt_3_1_0_2__a_second_connect_ends_the_connection() {
    both(|t| {
        t.log_in();
        t.client(connect("c"));
        t.expect_goodbye();
        t.reply(CONNECTION, close_ok());
        is_thrown_out(t);
    });
    both(|t| {
        t.client([connect("c"), connect("c")].concat());
        t.agree();
        t.hears(connack(0));
        is_thrown_out(t);
    });
}

#[test]
fn mqtt_3_1_2_2__an_unknown_protocol_level_is_connack_1() {
    for level in [0, 2, 5, 6, 255] {
        both(|t| {
            let mut connect = connect("c");
            connect[8] = level;
            t.client(connect);
            t.broker_at_once(b"x");
            t.hears(connack(1));
            t.closes();
        });
    }
}

#[test]
fn mqtt_3_1_2_3__the_reserved_connect_flag_is_checked() {
    both(|t| {
        t.client(connect_with(0xc3, 60, &["c", "u", "p"]));
        is_thrown_out(t);
    });
}

/// The queue outlives the connection; the next one finds it and is given what it holds.
#[test]
fn mqtt_3_1_2_4__a_session_that_is_kept_goes_on() {
    both(|t| {
        t.client(connect_kept("c"));
        t.agree();
        t.hears(connack(0));
        t.client(DISCONNECT);
        let told = t.agree();
        assert!(!told.contains(&AMQPFrame::Method(TOPOLOGY, delete(1))), "{told:?}");
    });
    both(|t| {
        t.broker.has_queue(KEPT[1]);
        t.client(connect_kept("c"));
        let told = t.agree();
        t.hears(PRESENT);
        assert!(told.contains(&AMQPFrame::Method(CONSUME, consume_kept(1))), "{told:?}");
    });
}

#[test]
fn mqtt_3_1_2_6__a_clean_session_discards_the_one_before() {
    both(|t| {
        t.broker.has_queue(KEPT[1]);
        t.client(connect("c"));
        let told = t.agree();
        for level in [0, 1] {
            assert!(told.contains(&AMQPFrame::Method(TOPOLOGY, delete(level))), "{told:?}");
        }
        t.hears(connack(0));
    });
}

/// Held where any end of the connection publishes it.
#[test]
fn mqtt_3_1_2_8__the_will_is_stored_before_connack() {
    both(|t| {
        t.client(connect_will(1, "w", "gone"));
        t.expect_connection();
        t.expect_session();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
        t.expect_will("w", b"gone");
        t.hears_nothing();
        t.grant_will();
        t.hears(connack(0));
    });
}

#[test]
fn mqtt_3_1_2_10_and_3_14_4_3__disconnect_discards_the_will() {
    both(|t| {
        t.client(connect_will(1, "w", "gone"));
        t.agree();
        t.hears(connack(0));
        t.client(DISCONNECT);
        t.expect_withdrawal();
    });
}

#[test]
fn mqtt_3_1_2_24__one_and_a_half_keep_alive_times() {
    both(|t| {
        t.client(connect_with(0x02, 4, &["c"]));
        t.agree();
        t.hears(connack(0));
        t.advance(5_900);
        assert!(!t.closed());
        t.advance(200);
        is_thrown_out(t);
    });
}

#[test]
fn mqtt_3_1_3_6__an_empty_client_id_is_given_one() {
    both(|t| {
        t.client(connect_with(0xc2, 60, &["", "u", "p"]));
        t.expect_protocol_header();
        let properties = t.expect_start_ok().client_properties;
        assert!(properties.inner().get("client_id").is_some());
        t.reply(CONNECTION, start("RabbitMQ", "4.1.0", "PLAIN"));
        t.reply(CONNECTION, tune(0, 0, 0));
        // No other connection can have this id: nobody's queues are in the way.
        t.reply(CONNECTION, open_ok());
        t.hears(connack(0));
    });
}

#[test]
fn mqtt_3_1_3_8__an_empty_client_id_for_a_session_is_connack_2() {
    both(|t| {
        t.client(connect_with(0xc0, 60, &["", "u", "p"]));
        t.broker_at_once(b"x");
        t.hears(connack(2));
        t.closes();
    });
}

#[test]
fn mqtt_3_1_4_1__an_invalid_connect_is_closed_without_connack() {
    both(|t| {
        t.client(packet(0x10, b"\0\x04MQTX\x04\x02\0\0\0\x01c"));
        t.expect_silence();
        is_thrown_out(t);
    });
}

#[test]
fn mqtt_3_1_4_2__another_connection_of_the_same_client_ends_this_one() {
    both(|t| {
        t.log_in();
        t.reply(CONSUME, cancel_consumer("lock", true));
        t.expect(CONNECTION, goodbye());
        t.reply(CONNECTION, close_ok());
        is_thrown_out(t);
    });
}

#[test]
fn mqtt_3_1_4_4__an_accepted_connect_is_connack_0() {
    both(Talk::log_in);
}

#[test]
fn mqtt_3_1_4_5__nothing_behind_a_refused_connect_is_processed() {
    both(|t| {
        t.client([connect_with(0xc0, 60, &["", "u", "p"]), publish(0, 0, "a", b"x")].concat());
        t.expect_protocol_header();
        t.expect_silence();
        t.broker_at_once(b"x");
        t.hears(connack(2));
        t.client(publish(0, 0, "a", b"x"));
        assert!(t.broker.heard().is_empty());
        t.closes();
    });
}

#[test]
fn mqtt_3_2_0_1__connack_is_the_first_packet() {
    both(|t| {
        t.client([&connect("c")[..], &pubrel(1), &PINGREQ, &subscribe(2, &[("a+", 0)])].concat());
        t.agree();
        t.hears([&connack(0)[..], &pubcomp(1), &suback(2, &[0x80]), &PINGRESP].concat());
    });
}

#[test]
fn mqtt_3_2_2_1__no_session_present_with_clean_session() {
    both(|t| {
        t.client(connect("c"));
        t.agree();
        t.hears([0x20, 2, 0, 0]);
    });
}

#[test]
fn mqtt_3_2_2_2_and_3_2_2_3__session_present_says_whether_there_was_one() {
    for (has_session, expected) in [(true, PRESENT.to_vec()), (false, connack(0))] {
        both(|t| {
            if has_session {
                t.broker.has_queue(KEPT[1]);
            }
            t.client(connect_kept("c"));
            t.agree();
            t.hears(&expected);
        });
    }
}

#[test]
fn mqtt_3_2_2_4__no_session_present_in_a_refusal() {
    both(|t| {
        t.client(connect("c"));
        t.reply(CONNECTION, start("RabbitMQ", "4.1.0", "PLAIN"));
        t.reply(CONNECTION, close(403, "ACCESS_REFUSED"));
        t.hears([0x20, 2, 0, 4]);
    });
}

#[test]
fn mqtt_3_2_2_5__a_refusal_closes_the_connection() {
    both(|t| {
        t.client(connect("c"));
        t.reply(CONNECTION, start("RabbitMQ", "4.1.0", "PLAIN"));
        t.reply(CONNECTION, close(530, "access to vhost '/' refused for user 'u'"));
        t.hears(connack(5));
        t.closes();
    });
}

#[test]
fn mqtt_3_3_1_1__a_redelivery_is_a_duplicate() {
    both(|t| {
        t.log_in();
        t.subscribe(1);
        t.deliver((1, 1, true), "a", mode(2), b"x");
        t.hears(publish_flags(0x0a, 1, "a", b"x"));
    });
}

#[test]
fn mqtt_3_3_1_3__dup_is_not_passed_on() {
    both(|t| {
        t.log_in();
        t.client(publish_flags(0x0a, 1, "a", b"x"));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        assert_eq!(t.expect_publish(PUBLISH, "a", b"x"), mode(2));
    });
}

#[test]
fn mqtt_3_3_2_3__the_topic_name_matches_the_filter() {
    both(|t| {
        t.log_in();
        t.subscribe(0);
        t.deliver((0, 1, false), "cities.london", mode(1), b"x");
        t.hears(publish(0, 0, "cities/london", b"x"));
    });
}

#[test]
fn mqtt_3_3_4_1__a_publish_is_answered_by_its_qos() {
    both(|t| {
        t.log_in();
        t.client([publish(0, 0, "a", b""), publish(1, 1, "a", b""), publish(2, 2, "a", b"")].concat());
        t.agree();
        t.hears([puback(1), pubrec(2)].concat());
    });
}

#[test]
fn mqtt_3_8_4_1__subscribe_is_answered() {
    both(|t| {
        t.log_in();
        t.subscribe(0);
    });
}

#[test]
fn mqtt_3_8_4_3__the_same_filter_replaces_the_subscription() {
    both(|t| {
        t.log_in();
        t.subscribe(0);
        t.client(subscribe(2, &[("#", 1)]));
        t.expect_all(TOPOLOGY, [declare(1), bind(1, "#"), unbind(0, "#")]);
    });
}

#[test]
fn mqtt_3_8_4_4__several_filters_are_as_several_packets() {
    both(|t| {
        t.log_in();
        t.client(subscribe(1, &[("a", 0), ("b", 0)]));
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a"), bind(0, "b")]);
    });
}

#[test]
fn mqtt_3_8_4_5__a_return_code_for_each_filter() {
    both(|t| {
        t.log_in();
        t.client(subscribe(1, &[("a", 0), ("b+", 1), ("c", 1)]));
        t.agree();
        t.hears(suback(1, &[0, 0x80, 1]));
    });
}

#[test]
fn mqtt_3_8_4_6__delivered_at_the_lower_qos() {
    both(|t| {
        t.log_in();
        t.subscribe(1);
        t.deliver((1, 1, false), "a", mode(1), b"x");
        t.hears(publish(0, 0, "a", b"x"));
    });
}

#[test]
fn mqtt_3_10_4_1__unsubscribe_takes_the_filter_character_by_character() {
    both(|t| {
        t.log_in();
        t.subscribe(0);
        t.client(unsubscribe(2, &["a/+"]));
        t.expect(TOPOLOGY, unbind(0, "a.*"));
        t.expect_silence();
    });
}

#[test]
fn mqtt_3_10_4_5__unsubscribe_is_answered_though_nothing_matches() {
    both(|t| {
        t.log_in();
        t.client(unsubscribe(2, &["never/seen"]));
        t.agree();
        t.hears(unsuback(2));
    });
}

#[test]
fn mqtt_3_12_4_1__pingreq_is_answered() {
    both(|t| {
        t.log_in();
        for count in [1, 5] {
            t.client(PINGREQ.repeat(count));
            t.agree();
            t.hears(PINGRESP.repeat(count));
        }
    });
}

#[test]
fn mqtt_3_14_4_2__nothing_counts_behind_disconnect() {
    both(|t| {
        t.log_in();
        t.client([&DISCONNECT[..], &publish(0, 0, "a", b"x")].concat());
        t.expect_goodbye();
        t.expect_silence();
        t.reply(CONNECTION, close_ok());
        assert!(t.closed());
    });
}

#[test]
fn mqtt_4_3_2_2__puback_when_the_message_is_taken_and_a_new_one_under_the_same_id() {
    both(|t| {
        t.log_in();
        for _ in 0..2 {
            t.client(publish(1, 7, "a", b"x"));
            t.hears_nothing();
            t.agree();
            t.hears(puback(7));
        }
    });
}

#[test]
fn mqtt_4_3_3_2__no_duplicate_reaches_the_broker_until_pubrel() {
    both(|t| {
        t.log_in();
        t.client(publish(2, 7, "a", b"x"));
        t.agree();
        t.hears(pubrec(7));
        t.client(publish_flags(0x0c, 7, "a", b"x"));
        t.expect(TOPOLOGY, flow(true));
        t.expect_silence();
        t.reply(TOPOLOGY, flow_ok(true));
        t.hears(pubrec(7));
        t.client(pubrel(7));
        t.agree();
        t.hears(pubcomp(7));
    });
}

#[test]
fn mqtt_4_6_0_2__pubacks_come_in_the_order_of_the_messages() {
    receipts_come_in_order(1, puback);
}

#[test]
fn mqtt_4_6_0_3__pubrecs_come_in_the_order_of_the_messages() {
    receipts_come_in_order(2, pubrec);
}

/// Whatever the order of the broker's confirms.
#[track_caller]
fn receipts_come_in_order(qos: u8, receipt: fn(u16) -> Vec<u8>) {
    for confirms in [[1, 2, 3, 4], [4, 3, 2, 1], [2, 4, 1, 3]] {
        both(|t| {
            t.log_in();
            let ids = [9, 3, 7, 1];
            t.client(ids.map(|id| publish(qos, id, "a", b"")).concat());
            while t.broker.next_frame().is_some() {}
            t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
            for number in confirms {
                t.reply(PUBLISH, ack(number, false));
            }
            t.hears(ids.map(receipt).concat());
        });
    }
}

#[test]
fn mqtt_4_7_2_1__a_wildcard_in_front_does_not_match_a_dollar() {
    both(|t| {
        t.log_in();
        t.subscribe(0);
        t.deliver((0, 1, false), "$SYS.a", mode(1), b"x");
        t.hears_nothing();
        t.deliver((0, 2, false), "a.$SYS", mode(1), b"x");
        t.hears(publish(0, 0, "a/$SYS", b"x"));
    });
}

#[test]
fn mqtt_4_8_0_1__a_protocol_violation_ends_the_connection() {
    for violation in
        [vec![0x00, 0], vec![0xf0, 0], publish(3, 1, "a", b""), subscribe(0, &[("a", 0)]), connack(0)]
    {
        both(|t| {
            t.log_in();
            t.client(violation.clone());
            t.expect_goodbye();
            t.reply(CONNECTION, close_ok());
            is_thrown_out(t);
        });
    }
}
