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

/// The broker opens the connection and grants the session; what the will needs is still to come.
fn all_but_the_will(t: &mut Talk) {
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
    t.expect_will("w.x", b"gone");
    all_but_the_will(t);
    t.grant_will();
    t.hears(connack(0));
    t.expect_silence();
}

#[test]
fn it_is_deposited_in_the_flight_of_the_login() {
    for (qos, delivery_mode) in [(0, 1), (1, 2), (2, 2)] {
        both("{}", |t| {
            t.client(
                connect_will(qos, "w/+x", "x")
                    .iter()
                    .map(|&b| if b == b'+' { b'-' } else { b })
                    .collect::<Vec<_>>(),
            );
            t.expect_connection();
            t.expect_session();
            let properties = t.expect_will("w.-x", b"x");
            assert_eq!(properties, mode(delivery_mode));
            t.expect_silence();
        });
    }
}

#[test]
fn connack_waits_for_the_commit_and_for_the_delivery() {
    for delivery_first in [false, true] {
        both("{}", |t| {
            t.client(connect_will(1, "w", "gone"));
            t.expect_connection();
            t.expect_session();
            t.expect_will("w", b"gone");
            all_but_the_will(t);
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
        t.client(connect_will(1, "w", "gone"));
        t.expect_connection();
        t.expect_session();
        t.expect_will("w", b"gone");
        all_but_the_will(t);
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

#[test]
fn the_session_is_waited_for_too() {
    both("{}", |t| {
        t.client(connect_will(1, "w", "gone"));
        t.expect_connection();
        t.expect_session();
        t.expect_will("w", b"gone");
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.grant_will();
        t.hears_nothing();
        t.grant_session();
        t.hears(connack(0));
    });
}

/// Of any size, in frames of at most `frame_max`, also ahead of a login that goes step by step.
#[test]
fn a_will_of_any_size() {
    let payload = "x".repeat(60_000);
    for config in [r#"{"frame_max": 4096}"#, r#"{"login": "sequential"}"#] {
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
            assert!(sizes.iter().all(|&size| size <= 4096 - 8), "{sizes:?}");
        });
    }
    both("{}", |t| {
        t.client(connect_will(1, "w", ""));
        t.agree();
        t.hears(connack(0));
    });
}

#[test]
fn disconnect_deletes_it_first() {
    both("{}", |t| {
        with_will(t);
        t.client(DISCONNECT);
        t.expect_withdrawal();
        t.expect_goodbye();
        t.expect_silence();
        t.reply(WILL, delete_ok());
        t.reply(CONNECTION, close_ok());
        t.closes();
    });
}

type Ending = (&'static str, fn(&mut Talk));

#[test]
fn every_other_end_leaves_it_to_the_broker() {
    let endings: [Ending; 10] = [
        ("client ends", Talk::client_ends),
        ("client is malformed", |t| t.client([0, 0])),
        ("client misbehaves", |t| t.client(connect("c"))),
        ("keep-alive", |t| t.advance(100_000)),
        ("taken over", |t| t.reply(CONSUME, cancel_consumer("lock", true))),
        ("queue deleted", |t| t.reply(CONSUME, cancel_consumer("qos1", true))),
        ("nack", |t| {
            t.client(publish(1, 1, "a", b""));
            t.replies(CONFIRM, [channel_open_ok(), confirm_select_ok(), nack(1)]);
        }),
        ("publish refused", |t| {
            t.client(publish(0, 0, "a", b""));
            t.reply(PUBLISH, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        }),
        ("consumers refused", |t| t.reply(CONSUME, channel_close(406, "PRECONDITION_FAILED", (60, 80)))),
        ("broker closes", |t| t.reply(CONNECTION, close(320, "CONNECTION_FORCED"))),
    ];
    for (ending, end) in endings {
        both(r#"{"heartbeat": 0}"#, |t| {
            t.client(connect_with(0xce, 60, &["c", "w", "gone", "u", "p"]));
            t.agree();
            t.hears(connack(0));
            end(t);
            let told = t.agree();
            let said_goodbye = told.iter().any(|frame| {
                [goodbye(), close_ok()].iter().any(|it| *frame == AMQPFrame::Method(CONNECTION, it.clone()))
            });
            assert!(said_goodbye, "{ending}: {told:?}");
            let on_its_channel = told.iter().filter(|frame| matches!(frame, AMQPFrame::Method(WILL, _)));
            assert_eq!(on_its_channel.count(), 0, "{ending}: {told:?}");
            t.closes();
        });
    }
}

/// Nobody has been told that there was a client, so it has no last will.
#[test]
fn a_login_that_fails_withdraws_it() {
    let failures: [Ending; 5] = [
        ("client ends", Talk::client_ends),
        ("disconnect", |t| t.client(DISCONNECT)),
        ("client is malformed", |t| t.client([0, 0])),
        ("taken over", |t| t.reply(CONSUME, cancel_consumer("lock", true))),
        ("session refused", |t| t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 10)))),
    ];
    for (failure, fail) in failures {
        both("{}", |t| {
            t.client(connect_with(0xcc, 0, &["c", "w", "gone", "u", "p"]));
            t.expect_connection();
            t.expect_lock();
            t.expect_all(TOPOLOGY, [channel_open(), look_for(KEPT[1])]);
            while t
                .broker
                .heard()
                .front()
                .is_some_and(|frame| matches!(frame, AMQPFrame::Method(TOPOLOGY, _)))
            {
                t.broker.next_frame();
            }
            t.expect_will("w", b"gone");
            t.greet("RabbitMQ", "4.1.0");
            t.reply(CONNECTION, open_ok());
            t.replies(CONSUME, [channel_open_ok(), qos_ok()].into_iter().chain(lock_taken()));
            t.reply(TOPOLOGY, channel_open_ok());
            t.grant_will();
            while t.broker.next_frame().is_some() {}
            fail(t);
            let told = t.agree();
            let withdrawn = AMQPFrame::Method(WILL, delete_queue(WILL_QUEUE, false));
            assert_eq!(told.iter().filter(|&frame| *frame == withdrawn).count(), 1, "{failure}: {told:?}");
            t.closes();
        });
    }
}

/// It may only be slow.
#[test]
fn a_broker_that_is_too_slow_is_told_to_forget_it() {
    both("{}", |t| {
        t.client(connect_will(1, "w", "gone"));
        t.expect_connection();
        t.expect_session();
        t.expect_will("w", b"gone");
        t.advance(10_000);
        t.expect_withdrawal();
        t.expect_barrier(WILL);
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
        t.expect_goodbye();
        t.expect_silence();
        t.deliver_will(2);
        t.reply(CONNECTION, close_ok());
        t.closes();
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
                t.reply(WILL, cancel_consumer(WILL_TAG, true));
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
fn the_headers_of_the_old_mqtt_plugin_come_with_the_renewal() {
    both(r#"{"will_refresh": 60000, "heartbeat": 0}"#, |t| {
        t.client(connect_will(1, "w", "gone"));
        t.expect_protocol_header();
        t.expect_start_ok();
        t.expect_all(CONNECTION, [tune_ok(131_072, 0), open("/")]);
        t.expect_session();
        let properties = t.expect_will("w", b"gone");
        // It is written before the broker has told who it is.
        assert_eq!(properties, mode(2));
        while t.broker.next_frame().is_some() {}
        t.greet("RabbitMQ", "3.10.8");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
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
    t.client(connect_with(0xee, 0, &["c", "w", "any", "u", "p"]));
    all_but_the_will(t);
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
