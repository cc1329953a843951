//! The will: at the broker before CONNACK, renewed in time, withdrawn by DISCONNECT and by nothing else.

use crate::both;
use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, exchange},
};
use support::{
    methods::*,
    module,
    packets::*,
    scripted_broker,
    talk::{Talk, with_both},
};

/// CONNECT is sent, and the broker opens the connection and grants the session; then the will comes.
fn all_but_the_will(t: &mut Talk, connect: &[u8]) {
    t.client(connect);
    t.expect_connection();
    t.expect_session();
    t.expect_silence();
    t.greet("RabbitMQ", "4.1.0");
    t.reply(CONNECTION, open_ok());
    t.grant_session();
    t.hears_nothing();
}

/// Logged in with a will at QoS 1, topic `w/x`, payload `gone`.
fn with_will(t: &mut Talk) {
    t.client(connect_will(1, "w/x", "gone"));
    t.expect_protocol_header();
    t.expect_start_ok();
    // connection.tune-ok tells the heartbeat.
    t.broker.next_frame();
    t.expect(CONNECTION, open("/"));
    t.expect_session();
    t.greet("RabbitMQ", "4.1.0");
    t.reply(CONNECTION, open_ok());
    t.grant_session();
    t.expect_will("w.x", b"gone");
    t.grant_will();
    t.hears(connack(0));
    t.expect_silence();
}

/// Not before: the will of the connection before is sent first, and a login that comes to nothing has none.
#[test]
fn it_is_deposited_once_session_and_lock_are_there() {
    for (qos, delivery_mode) in [(0, 1), (1, 2), (2, 2)] {
        both("{}", |t| {
            all_but_the_will(t, &connect_will(qos, "w/-x", "x"));
            let properties = t.expect_will("w.-x", b"x");
            // What the broker is, it has not said yet.
            assert_eq!(properties, mode(delivery_mode));
            t.expect_silence();
        });
    }
}

#[test]
fn connack_waits_for_the_commit_and_for_the_delivery() {
    for delivery_first in [false, true] {
        both("{}", |t| {
            all_but_the_will(t, &connect_will(1, "w", "gone"));
            t.expect_will("w", b"gone");
            t.replies(
                WILL,
                [
                    channel_open_ok(),
                    tx_select_ok(),
                    rollback_ok(),
                    declared(WILL_QUEUE, 0),
                    consumed(WILL_TAG),
                ],
            );
            t.hears_nothing();
            for step in [delivery_first, !delivery_first] {
                t.hears_nothing();
                if step { t.deliver_will(1) } else { t.reply(WILL, commit_ok()) }
            }
            t.hears(connack(0));
            t.expect_silence();
        });
    }
}

/// RabbitMQ's queue answers basic.consume, its channel what stands behind it.
#[test]
fn its_consumer_may_be_answered_last() {
    both("{}", |t| {
        all_but_the_will(t, &connect_will(1, "w", "gone"));
        t.expect_will("w", b"gone");
        t.replies(
            WILL,
            [
                channel_open_ok(),
                tx_select_ok(),
                rollback_ok(),
                declared(WILL_QUEUE, 0),
                commit_ok(),
                consumed(WILL_TAG),
            ],
        );
        t.hears_nothing();
        t.deliver_will(1);
        t.hears(connack(0));
    });
}

/// Whichever of them comes last.
#[test]
fn the_will_waits_for_the_session_too() {
    both("{}", |t| {
        t.client(connect_will(1, "w", "gone"));
        t.expect_connection();
        t.expect_session();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.replies(CONSUME, [channel_open_ok(), qos_ok()]);
        t.grant_lock();
        t.expect_silence();
        t.replies(TOPOLOGY, [channel_open_ok(), delete_ok()]);
        t.expect_silence();
        t.reply(TOPOLOGY, delete_ok());
        t.expect_will("w", b"gone");
        t.hears_nothing();
        t.grant_will();
        t.hears(connack(0));
    });
}

/// Of any size, in frames of at most `frame_max`, also where that is told by the broker.
#[test]
fn a_will_of_any_size() {
    let payload = "x".repeat(60_000);
    for (config, frame_max) in [(r#"{"frame_max": 4096}"#, 4_096), (r#"{"login": "sequential"}"#, 131_072)] {
        both(config, |t| {
            t.pieces_of(1 << 16);
            t.client(connect_will(1, "w", &payload));
            let told = t.agree();
            t.hears(connack(0));
            let sizes: Vec<_> = told
                .iter()
                .filter_map(|frame| match frame {
                    AMQPFrame::Body(WILL, bytes) => Some(bytes.len()),
                    _ => None,
                })
                .collect();
            assert_eq!(sizes.iter().sum::<usize>(), payload.len());
            assert!(sizes.iter().all(|&size| size <= frame_max - 8), "{sizes:?}");
        });
    }
    both("{}", |t| {
        t.client(connect_will(1, "w", ""));
        t.agree();
        t.hears(connack(0));
    });
}

#[test]
fn disconnect_deletes_it_before_the_lock_goes() {
    both("{}", |t| {
        with_will(t);
        t.client(DISCONNECT);
        t.expect_withdrawal();
        t.expect_silence();
        t.stays_open();
        t.reply(WILL, delete_ok());
        t.expect_goodbye();
        t.expect_silence();
        t.reply(CONNECTION, close_ok());
        t.closes();
    });
}

type Ending = (&'static str, fn(&mut Talk));

/// Before the lock goes, so that a newcomer's client sees it ahead of all that it says itself.
#[test]
fn every_other_end_of_ours_sends_it_first() {
    let endings: [Ending; 7] = [
        ("client is malformed", |t| t.client([0, 0])),
        ("client misbehaves", |t| t.client(connect("c"))),
        ("keep-alive", |t| t.advance(90_000)),
        ("queue deleted", |t| t.reply(CONSUME, cancel_consumer("qos1", true))),
        ("taken over", |t| t.reply(CONSUME, cancel_consumer("lock", true))),
        ("publish refused", |t| {
            t.client(publish(1, 1, "a", b""));
            while t.broker.next_frame().is_some() {}
            t.reply(PUBLISH, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        }),
        ("consumers refused", |t| t.reply(CONSUME, channel_close(406, "PRECONDITION_FAILED", (60, 80)))),
    ];
    for (ending, end) in endings {
        both(r#"{"heartbeat": 0}"#, |t| {
            t.client(connect_with(0xce, 60, &["c", "w", "gone", "u", "p"]));
            t.agree();
            t.hears(connack(0));
            end(t);
            while t.broker.heard().front().is_some_and(|frame| !matches!(frame, AMQPFrame::Method(WILL, _))) {
                let frame = t.broker.next_frame();
                assert_ne!(frame, Some(AMQPFrame::Method(CONNECTION, goodbye())), "{ending}");
            }
            t.expect_last_will(1);
            t.expect_silence();
            t.stays_open();
            t.send_will();
            let told = t.agree();
            assert!(told.contains(&AMQPFrame::Method(CONNECTION, goodbye())), "{ending}: {told:?}");
            t.closes();
            assert_eq!(t.counter("wills.withdrawn"), 0);
        });
    }
}

/// The end of the connection is the will's, too, where nobody is left to be asked.
#[test]
fn an_end_of_either_side_s_leaves_it_to_the_broker() {
    let endings: [Ending; 2] = [
        ("client ends", Talk::client_ends),
        ("broker closes", |t| t.reply(CONNECTION, close(320, "CONNECTION_FORCED"))),
    ];
    for (ending, end) in endings {
        both("{}", |t| {
            with_will(t);
            end(t);
            let told = t.agree();
            let on_its_channel = told.iter().filter(|frame| matches!(frame, AMQPFrame::Method(WILL, _)));
            assert_eq!(on_its_channel.count(), 0, "{ending}: {told:?}");
            t.closes();
        });
    }
}

/// What its client has published comes first, then the will, then the lock goes.
#[test]
fn it_is_sent_behind_what_the_client_has_said() {
    both("{}", |t| {
        with_will(t);
        t.client([publish(1, 1, "a", b"x"), vec![0, 0]].concat());
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_silence();
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), nack(1)]);
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_silence();
        t.reply(PUBLISH, ack(2, false));
        t.expect_last_will(1);
        t.expect_silence();
        t.reply(WILL, commit_ok());
        t.expect_silence();
        t.reply(WILL, delete_ok());
        t.expect_goodbye();
        t.expect_silence();
    });
}

/// One that does not answer is not waited for longer than 10 s; its will is sent when it comes to it.
#[test]
fn a_broker_that_does_not_answer_is_not_waited_for() {
    both(r#"{"heartbeat": 0}"#, |t| {
        with_will(t);
        t.client([0, 0]);
        t.expect_last_will(1);
        t.advance(9_900);
        assert!(!t.closed());
        t.expect_silence();
        t.advance(100);
        t.closes();
    });
}

/// Nobody has been told that there was a client, so it has no last will. What comes of it is heard when it is taken back.
#[test]
fn a_login_that_fails_withdraws_it() {
    let failures: [(Ending, u8); 2] = [
        (("will refused", |t| t.reply(WILL, channel_close(403, "ACCESS_REFUSED", (60, 40)))), 5),
        (("consumers refused", |t| t.reply(CONSUME, channel_close(541, "INTERNAL_ERROR", (0, 0)))), 3),
    ];
    for ((failure, fail), code) in failures {
        for is_held in [false, true] {
            both("{}", |t| {
                all_but_the_will(t, &connect_will(1, "w", "gone"));
                t.expect_will("w", b"gone");
                if is_held {
                    // But for the commit's answer.
                    t.replies(WILL, [channel_open_ok(), tx_select_ok(), rollback_ok()]);
                    t.replies(WILL, [declared(WILL_QUEUE, 0), consumed(WILL_TAG)]);
                    t.deliver_will(1);
                }
                fail(t);
                t.hears_nothing();
                while t
                    .broker
                    .heard()
                    .front()
                    .is_some_and(|frame| *frame != AMQPFrame::Method(WILL, delete_queue(WILL_QUEUE, false)))
                {
                    t.broker.next_frame();
                }
                t.expect_withdrawal();
                t.expect_silence();
                t.stays_open();
                match failure {
                    "will refused" => t.replies(WILL, [channel_open_ok(), delete_ok()]),
                    _ if is_held => t.replies(WILL, [commit_ok(), delete_ok()]),
                    _ => {
                        t.replies(WILL, [channel_open_ok(), tx_select_ok(), rollback_ok()]);
                        t.replies(
                            WILL,
                            [declared(WILL_QUEUE, 0), consumed(WILL_TAG), commit_ok(), delete_ok()],
                        );
                    }
                }
                t.hears(connack(code));
                t.closes();
                assert_eq!((t.counter("connack.accepted"), t.counter("wills.left")), (0, 0), "{failure}");
            });
        }
    }
}

/// A client that goes while its login is under way has not been heard to go yet: it is logged in first, and its will is sent.
#[test]
fn what_a_client_says_meanwhile_is_heard_behind_connack() {
    both("{}", |t| {
        all_but_the_will(t, &connect_will(1, "w", "gone"));
        t.client(DISCONNECT);
        t.expect_will("w", b"gone");
        t.expect_silence();
        t.grant_will();
        t.hears(connack(0));
        t.expect_withdrawal();
        t.reply(WILL, delete_ok());
        t.expect_goodbye();
    });
}

/// It may only be slow.
#[test]
fn a_broker_that_is_too_slow_is_told_to_forget_it() {
    both("{}", |t| {
        all_but_the_will(t, &connect_will(1, "w", "gone"));
        t.expect_will("w", b"gone");
        t.advance(9_900);
        t.expect_silence();
        t.advance(100);
        t.expect_withdrawal();
        t.expect_silence();
        t.stays_open();
        t.grant_will();
        t.reply(WILL, delete_ok());
        t.expect_goodbye();
        t.reply(CONNECTION, close_ok());
        t.closes();
        t.hears_nothing();
    });
    // And not waited for for ever.
    both("{}", |t| {
        all_but_the_will(t, &connect_will(1, "w", "gone"));
        t.advance(10_000);
        t.advance(9_800);
        assert!(!t.closed());
        t.advance(300);
        t.closes();
        t.hears_nothing();
    });
}

/// The broker's `consumer_timeout` is for deliveries that are not acknowledged.
#[test]
fn it_is_renewed_in_one_transaction() {
    both(r#"{"will_refresh": 60000, "heartbeat": 0}"#, |t| {
        with_will(t);
        for tag in 1..=3 {
            t.advance(59_900);
            t.expect_silence();
            t.advance(100);
            t.expect(WILL, ack(tag, false));
            assert_eq!(t.expect_deposit(b"gone"), mode(2));
            t.expect_silence();
            t.reply(WILL, commit_ok());
            t.deliver_will(tag + 1);
            t.hears_nothing();
        }
        t.client(DISCONNECT);
        t.expect_withdrawal();
        t.reply(WILL, delete_ok());
        t.expect_goodbye();
    });
}

#[test]
fn a_renewal_waits_for_the_one_before() {
    both(r#"{"will_refresh": 60000, "heartbeat": 0}"#, |t| {
        with_will(t);
        t.advance(60_000);
        t.expect(WILL, ack(1, false));
        t.expect_deposit(b"gone");
        // A slow broker: neither committed nor delivered, then only the one or the other.
        t.advance(60_000);
        t.expect_silence();
        t.reply(WILL, commit_ok());
        t.advance(60_000);
        t.expect_silence();
        t.deliver_will(2);
        t.advance(60_000);
        t.expect(WILL, ack(2, false));
        t.expect_deposit(b"gone");
        t.deliver_will(3);
        t.advance(60_000);
        t.expect_silence();
        t.reply(WILL, commit_ok());
        t.advance(60_000);
        t.expect(WILL, ack(3, false));
        t.expect_deposit(b"gone");
    });
}

#[test]
fn disconnect_in_the_middle_of_a_renewal() {
    both(r#"{"will_refresh": 60000, "heartbeat": 0}"#, |t| {
        with_will(t);
        t.advance(60_000);
        t.expect(WILL, ack(1, false));
        t.expect_deposit(b"gone");
        t.client(DISCONNECT);
        t.expect_withdrawal();
        t.expect_silence();
        t.deliver_will(2);
        t.replies(WILL, [commit_ok(), delete_ok()]);
        t.expect_goodbye();
        t.reply(CONNECTION, close_ok());
        t.closes();
    });
}

/// Which of the two the broker holds is not known, so it is left to it: its end takes back whatever there is.
#[test]
fn another_end_in_the_middle_of_a_renewal() {
    both(r#"{"will_refresh": 60000, "heartbeat": 0}"#, |t| {
        with_will(t);
        t.advance(60_000);
        t.expect(WILL, ack(1, false));
        t.expect_deposit(b"gone");
        t.client([0, 0]);
        t.expect_goodbye();
        t.expect_silence();
    });
}

/// Whatever of it is refused.
#[test]
fn a_will_that_the_broker_refuses_is_a_login_refused() {
    let steps: [fn(&AMQPClass) -> bool; 5] = [
        |it| *it == tx_select(),
        |it| matches!(it, AMQPClass::Queue(_)),
        |it| matches!(it, AMQPClass::Basic(amq_protocol::protocol::basic::AMQPMethod::Consume(_))),
        |it| matches!(it, AMQPClass::Basic(amq_protocol::protocol::basic::AMQPMethod::Publish(_))),
        |it| *it == commit(),
    ];
    for (code, expected) in [(403, 5), (404, 3), (406, 3), (541, 3)] {
        for (number, is_step) in steps.into_iter().enumerate() {
            both("{}", |t| {
                t.broker.refuse(1, (code, "REFUSED"), move |channel, it| channel == WILL && is_step(it));
                t.client(connect_will(1, "w", "gone"));
                t.agree();
                t.hears(connack(expected));
                t.closes();
                assert_eq!(t.counter("connack.accepted"), 0, "{number}");
            });
        }
    }
}

/// The broker has sent it by then.
#[test]
fn a_will_that_is_lost_later_ends_the_connection() {
    for is_refused in [true, false] {
        both("{}", |t| {
            with_will(t);
            if is_refused {
                t.reply(
                    WILL,
                    channel_close(406, "PRECONDITION_FAILED - delivery acknowledgement timed out", (0, 0)),
                );
                t.expect(WILL, channel_close_ok());
            } else {
                // It may be there still.
                t.reply(WILL, cancel_consumer(WILL_TAG, true));
                t.expect_last_will(1);
                t.send_will();
            }
            t.expect_goodbye();
            t.expect_silence();
            t.reply(CONNECTION, close_ok());
            t.closes();
            t.hears_nothing();
            assert_eq!(t.counter("closed.broker_closed"), 1);
        });
    }
}

#[test]
fn a_topic_that_is_too_long_for_a_key_is_no_will() {
    both("{}", |t| {
        t.client(connect_will(1, &"w".repeat(255), "gone"));
        t.agree();
        t.hears(connack(0));
    });
    both("{}", |t| {
        t.client(connect_will(1, &"w".repeat(256), "gone"));
        let told = t.agree();
        let on_its_channel = told.iter().filter(|frame| matches!(frame, AMQPFrame::Method(WILL, _)));
        assert_eq!(on_its_channel.count(), 0, "{told:?}");
        t.closes();
        t.hears_nothing();
        assert_eq!(t.counter("closed.malformed"), 1);
    });
}

#[test]
fn the_headers_of_the_old_mqtt_plugin_come_with_it_and_its_renewal() {
    both(r#"{"will_refresh": 60000, "heartbeat": 0}"#, |t| {
        t.client(connect_will(1, "w", "gone"));
        t.expect_protocol_header();
        t.expect_start_ok();
        t.expect_all(CONNECTION, [tune_ok(131_072, 0), open("/")]);
        t.expect_session();
        t.greet("RabbitMQ", "3.10.8");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
        // By then the broker has told who it is.
        assert_eq!(t.expect_will("w", b"gone"), mqtt_headers(2, 1, false));
        t.grant_will();
        t.hears(connack(0));
        t.advance(60_000);
        t.expect(WILL, ack(1, false));
        assert_eq!(t.expect_deposit(b"gone"), mqtt_headers(2, 1, false));
    });
}

/// Logged in with a will that is to be retained.
fn with_retained_will(t: &mut Talk, is_deleted_at_first: bool) {
    let flight = |t: &mut Talk, is_deleted: bool| {
        while t.broker.next_frame().is_some() {}
        t.replies(WILL, [channel_open_ok(), tx_select_ok(), rollback_ok()]);
        t.replies(WILL, [declared(WILL_QUEUE, 0), consumed(WILL_TAG)]);
        t.reply(WILL, AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})));
        t.replies(WILL, [declared("kept", 0), consumed("retained-will"), bind_ok(), declared("place", 0)]);
        if is_deleted {
            t.reply(WILL, channel_close(404, "NOT_FOUND - no queue 'mqtt-retained-w'", (50, 20)));
            // RabbitMQ's channel goes on until close-ok reaches it.
            told_of_a_clear(t, 1);
            return;
        }
        t.replies(WILL, [bind_ok(), bind_ok(), bind_ok(), commit_ok()]);
    };
    all_but_the_will(t, &connect_with(0xee, 0, &["c", "w", "any", "u", "p"]));
    if is_deleted_at_first {
        flight(t, true);
        t.expect(WILL, channel_close_ok());
        t.hears_nothing();
    }
    flight(t, false);
    t.deliver_will(1);
    t.hears_nothing();
    let method = deliver_from_queue("kept", "retained-will", 2);
    let content = scripted_broker::header(WILL, 3, mode(2));
    t.broker([scripted_broker::method(WILL, method), content, scripted_broker::body(WILL, b"any")].concat());
    t.hears(connack(0));
    t.expect_silence();
}

/// Somebody has deleted the queue in which the will is to be kept.
fn told_of_a_clear(t: &mut Talk, delivery_tag: u64) {
    let told = basic::Deliver {
        consumer_tag: "retained-will".into(),
        delivery_tag,
        exchange: "mqtt-retained".into(),
        routing_key: "mqtt-retained!w".into(),
        ..basic::Deliver::default()
    };
    let method = scripted_broker::method(WILL, AMQPClass::Basic(basic::AMQPMethod::Deliver(told)));
    t.broker([method, scripted_broker::header(WILL, 0, mode(1))].concat());
}

#[test]
fn a_place_that_is_deleted_while_the_will_is_held_is_made_again() {
    with_both(module::shipped(), "{}", |t| {
        with_retained_will(t, false);
        told_of_a_clear(t, 3);
        let told: Vec<_> = std::iter::from_fn(|| t.broker.next_frame()).collect();
        // On the channel where a refusal costs nothing.
        let place = told.iter().filter(|frame| matches!(frame, AMQPFrame::Method(TOPOLOGY, _))).count();
        assert_eq!(place, 4, "{told:?}");
        // And what has told of it does not outlive the connection.
        let [.., AMQPFrame::Method(WILL, acknowledged), AMQPFrame::Method(WILL, committed)] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((acknowledged, committed), (&ack(3, false), &commit()));
        t.reply(TOPOLOGY, declared("place", 0));
        t.reply(TOPOLOGY, channel_close(404, "NOT_FOUND - no queue", (50, 20)));
        t.reply(WILL, commit_ok());
        told_of_a_clear(t, 4);
        t.stays_open();
    });
}

#[test]
fn a_place_that_is_deleted_while_it_is_made_is_no_refusal() {
    with_both(module::shipped(), "{}", |t| with_retained_will(t, true));
}

/// Others may have a will for the same topic.
#[test]
fn who_takes_a_retained_will_back_tells_that_its_place_is_gone() {
    with_both(module::shipped(), "{}", |t| {
        with_retained_will(t, false);
        t.client(DISCONNECT);
        let told: Vec<_> = std::iter::from_fn(|| t.broker.next_frame()).collect();
        let on_will: Vec<_> =
            told.iter().filter(|frame| matches!(frame, AMQPFrame::Method(WILL, _))).collect();
        let [.., AMQPFrame::Method(_, deleted), AMQPFrame::Method(_, said), AMQPFrame::Method(_, committed)] =
            on_will[..]
        else {
            panic!("{told:?}")
        };
        let AMQPClass::Basic(basic::AMQPMethod::Publish(said)) = said else { panic!("{told:?}") };
        assert!(matches!(deleted, AMQPClass::Queue(_)), "{told:?}");
        assert_eq!((said.routing_key.as_str(), committed), ("mqtt-retained!w", &commit()));
    });
}
