//! How a connection ends, and what makes a round trip on the way.

use crate::both;
use amq_protocol::frame::AMQPFrame;
use support::{methods::*, packets::*, scripted_broker, talk::Talk};

#[test]
fn disconnect_is_connection_close_and_the_end_at_close_ok() {
    both("{}", |t| {
        t.log_in();
        t.client([publish(0, 0, "a", b"last"), DISCONNECT.to_vec(), publish(0, 0, "a", b"void")].concat());
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"last");
        // Nobody confirms it, so the broker is asked.
        t.reply(PUBLISH, channel_open_ok());
        t.routes();
        t.expect_goodbye();
        t.expect_silence();
        t.stays_open();
        t.reply(CONNECTION, close_ok());
        assert!(t.closed());
        t.hears_nothing();
        assert_eq!(t.counter("closed.disconnect"), 1);
        assert_eq!(t.counter("closed.client_gone"), 0);
    });
}

/// But for messages: what the client has published itself may be on its way to it.
#[test]
fn messages_still_come_behind_disconnect_and_nothing_else_matters() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(1);
        t.client(DISCONNECT);
        t.expect_goodbye();
        t.deliver((1, 1, false), "a", mode(2), b"late");
        t.hears(publish(1, 1, "a", b"late"));
        t.reply(CONSUME, cancel(1));
        t.expect_silence();
        t.hears_nothing();
        t.stays_open();
        t.reply(CONNECTION, close_ok());
        assert!(t.closed());
    });
}

#[test]
fn both_say_close_at_once() {
    both("{}", |t| {
        t.log_in();
        t.client(DISCONNECT);
        t.expect_goodbye();
        t.reply(CONNECTION, close(320, "CONNECTION_FORCED"));
        t.expect(CONNECTION, close_ok());
        assert!(t.closed());
    });
}

#[test]
fn a_broker_that_does_not_answer_close_is_waited_for_10_s() {
    both("{}", |t| {
        t.log_in();
        t.client(DISCONNECT);
        t.advance(9_900);
        assert!(!t.closed());
        t.advance(100);
        t.closes();
    });
}

/// Nothing is left to be told: the broker notices the end of the client's bytes, which is passed on.
#[test]
fn the_client_s_fin_is_an_end_without_disconnect_or_goodbye() {
    both("{}", |t| {
        t.log_in();
        t.client_ends();
        t.expect_silence();
        t.hears_nothing();
        t.closes();
        assert_eq!(t.counter("closed.client_gone"), 1);
        assert_eq!(t.counter("closed.disconnect"), 0);
    });
}

/// What the client has said behind CONNECT is read behind CONNACK, its FIN last: nothing is lost.
#[test]
fn a_fin_during_the_login_is_read_behind_connack() {
    both("{}", |t| {
        t.client([connect("c"), publish(0, 0, "a", b"x")].concat());
        t.client_ends();
        t.expect_protocol_header();
        t.expect_start_ok();
        t.expect_all(CONNECTION, [tune_ok(131_072, 30), open("/")]);
        t.expect_session();
        t.expect_silence();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.hears_nothing();
        t.grant_session();
        t.hears(connack(0));
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_barrier(PUBLISH);
        t.expect_goodbye();
        t.expect_silence();
        t.reply(CONNECTION, close_ok());
        t.closes();
        assert_eq!((t.counter("connack.accepted"), t.counter("closed.client_gone")), (1, 1));
    });
}

/// The end of the client's bytes is passed on at once, and a broker drops what it has not looked at by then.
#[test]
fn a_fin_behind_a_message_at_qos_0_waits_for_it() {
    both(r#"{"heartbeat": 0}"#, |t| {
        t.log_in();
        t.client(publish(0, 0, "a", b"x"));
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"x");
        t.advance(9_900);
        t.client_ends();
        t.expect_barrier(PUBLISH);
        t.expect_goodbye();
        t.expect_silence();
    });
    // After ten seconds the broker has looked at it.
    both(r#"{"heartbeat": 0}"#, |t| {
        t.log_in();
        t.client(publish(0, 0, "a", b"x"));
        while t.broker.next_frame().is_some() {}
        t.advance(10_000);
        t.client_ends();
        t.expect_goodbye();
        t.expect_silence();
    });
    // Nor is there an end to be passed on behind DISCONNECT alone.
    both("{}", |t| {
        t.log_in();
        t.client([publish(0, 0, "a", b"x"), DISCONNECT.to_vec()].concat());
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"x");
        t.reply(PUBLISH, channel_open_ok());
        t.routes();
        t.expect_goodbye();
        t.expect_silence();
    });
}

/// The end goes to the broker with our next bytes, so there are none until the client has all that it waits for.
#[test]
fn a_fin_with_answers_owed_waits_for_them() {
    both("{}", |t| {
        t.log_in();
        t.client([publish(1, 1, "a", b"x"), publish(2, 2, "a", b"x"), PINGREQ.to_vec()].concat());
        while t.broker.next_frame().is_some() {}
        t.client_ends();
        t.expect_silence();
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.hears(puback(1));
        t.stays_open();
        t.reply(TOPOLOGY, flow_ok(true));
        t.hears(PINGRESP);
        t.stays_open();
        t.reply(PUBLISH, ack(2, false));
        t.hears(pubrec(2));
        t.expect_silence();
        t.closes();
        assert_eq!(t.counter("closed.client_gone"), 1);
    });
    // Not for ever.
    both("{}", |t| {
        t.log_in();
        t.client(publish(1, 1, "a", b"x"));
        while t.broker.next_frame().is_some() {}
        t.client_ends();
        t.advance(9_900);
        assert!(!t.closed());
        t.advance(100);
        t.closes();
        t.expect_silence();
        t.hears_nothing();
    });
}

/// Its subscription is made, which the session keeps, and SUBACK given, before the end is read.
#[test]
fn a_fin_behind_a_subscribe_is_read_behind_suback() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(1, &[("a", 0)]));
        t.client_ends();
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.expect(CONSUME, consume(0));
        t.stays_open();
        t.reply(CONSUME, consume_ok(0));
        t.hears(suback(1, &[0]));
        t.expect_silence();
        t.closes();
        assert_eq!(t.counter("closed.client_gone"), 1);
    });
}

/// The DISCONNECT has been heard, and is not overtaken by the end behind it.
#[test]
fn a_fin_behind_disconnect_is_not_passed_on_before_the_goodbye() {
    both("{}", |t| {
        t.log_in();
        t.client([publish(0, 0, "a", b"x"), DISCONNECT.to_vec()].concat());
        t.client_ends();
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"x");
        t.reply(PUBLISH, channel_open_ok());
        t.routes();
        t.expect_goodbye();
        t.expect_silence();
        t.reply(CONNECTION, close_ok());
        t.closes();
        assert_eq!((t.counter("closed.disconnect"), t.counter("closed.client_gone")), (1, 0));
    });
}

type Moment = (&'static str, fn(&mut Talk));

/// Moments in a client's life; the broker is connected to in each.
const MOMENTS: [Moment; 7] = [
    ("login", |t| t.client(connect("c"))),
    ("half a login", |t| {
        t.client(connect("c"));
        t.greet("RabbitMQ", "4.1.0");
    }),
    ("idle", Talk::log_in),
    ("requests under way", |t| {
        t.log_in();
        t.client([subscribe(1, &[("a", 0)]), publish(1, 2, "a", b"x"), PINGREQ.to_vec()].concat());
    }),
    ("publish under way", |t| {
        t.log_in();
        t.client(&publish(1, 2, "a", b"0123456789")[..12]);
    }),
    ("delivery under way", |t| {
        t.log_in();
        t.subscribe(1);
        t.reply(CONSUME, deliver(1, 1, false, "a"));
        t.broker(scripted_broker::header(CONSUME, 10, mode(2)));
        t.broker(scripted_broker::body(CONSUME, b"01234"));
    }),
    ("leaving", |t| {
        t.log_in();
        t.client(DISCONNECT);
    }),
];

#[test]
fn the_broker_closes_or_goes_at_any_moment() {
    for (moment, live) in MOMENTS {
        both("{}", |t| {
            live(t);
            while t.broker.next_frame().is_some() {}
            t.reply(CONNECTION, close(320, "CONNECTION_FORCED"));
            if !moment.contains("login") {
                t.expect(CONNECTION, close_ok());
            }
            t.closes();
        });
        both("{}", |t| {
            live(t);
            t.broker_ends();
            t.closes();
        });
    }
}

#[test]
fn malformed_frames_at_any_moment() {
    let malformed: [&[u8]; 6] = [
        b"\x09\0\0\0\0\0\0\xce",                   // frame type
        b"\x01\0\0\0\0\0\x04\0\x0a\0\x29\0",       // frame end
        b"\x01\0\0\xff\xff\xff\xff",               // size
        b"\x01\0\0\0\0\0\x04\0\x0a\0\x63\xce",     // method
        b"\x01\0\0\0\0\0\x05\0\x0a\0\x32\x01\xce", // arguments
        b"\x02\0\x02\0\0\0\x04\0\x0a\0\0\xce",     // content header
    ];
    for (moment, live) in MOMENTS {
        for bytes in malformed {
            both("{}", |t| {
                live(t);
                while t.broker.next_frame().is_some() {}
                t.broker(bytes);
                t.closes();
                // Nothing more is said to somebody who does not speak AMQP, but for the byte that makes an echo answer.
                assert!(t.broker.heard().is_empty(), "{moment}: {:?}", t.broker.heard());
                if moment.contains("login") {
                    assert_eq!(t.counter("connack.server_unavailable"), 1);
                } else if moment != "leaving" {
                    assert_eq!(t.counter("closed.broker_malformed"), 1, "{moment}: {bytes:x?}");
                }
            });
        }
    }
}

#[test]
fn answers_to_what_was_not_asked_end_the_connection() {
    for (channel, method) in [
        (CONNECTION, open_ok()),
        (CONNECTION, tune(1, 2, 3)),
        (CONNECTION, close_ok()),
        (TOPOLOGY, bind_ok()),
        (TOPOLOGY, channel_open_ok()),
        (TOPOLOGY, ack(1, false)),
        (CONSUME, consume_ok(0)),
        (CONSUME, declare_ok(0)),
        (PUBLISH, channel_open_ok()),
        (PUBLISH, confirm_select_ok()),
        (WILL, channel_open_ok()),
        (KEEP, channel_open_ok()),
    ] {
        both("{}", |t| {
            t.log_in();
            t.subscribe(0);
            t.reply(channel, method.clone());
            t.expect_silence();
            t.closes();
            assert_eq!(t.counter("closed.broker_misbehaved"), 1, "{channel} {method:?}");
        });
    }
}

/// They are held up, and the client is not closed for them.
#[test]
fn pingreqs_are_not_read_on_and_on() {
    both("{}", |t| {
        t.log_in();
        t.client(PINGREQ.repeat(3000));
        let mut heard = 0;
        while heard < 3000 {
            t.expect(TOPOLOGY, flow(true));
            t.expect_silence();
            t.reply(TOPOLOGY, flow_ok(true));
            let answers = t.take_heard();
            assert!(answers.len() <= 1024 * PINGRESP.len(), "{}", answers.len());
            heard += answers.len() / PINGRESP.len();
        }
        assert_eq!(heard, 3000);
    });
}

#[test]
fn pingreq_is_a_round_trip_at_the_broker() {
    both("{}", |t| {
        t.log_in();
        t.client_at_once([PINGREQ; 3].concat());
        t.expect(TOPOLOGY, flow(true));
        t.expect_silence();
        t.hears_nothing();
        // These came behind the question, so its answer is not theirs.
        t.client_at_once([PINGREQ; 2].concat());
        t.expect_silence();
        t.hears_nothing();
        t.reply(TOPOLOGY, flow_ok(true));
        t.hears([PINGRESP; 3].concat());
        t.expect(TOPOLOGY, flow(true));
        t.reply(TOPOLOGY, flow_ok(true));
        t.hears([PINGRESP; 2].concat());
        t.expect_silence();
    });
}

#[test]
fn a_round_trip_that_is_lost_with_its_channel_is_made_again() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(0);
        t.client_at_once([&subscribe(2, &[("secret", 0)])[..], &PINGREQ].concat());
        t.expect_all(TOPOLOGY, [bind(0, "secret"), flow(true)]);
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 20)));
        t.hears(suback(2, &[0x80]));
        t.expect(TOPOLOGY, channel_close_ok());
        t.expect(CONSUME, flow(true));
        t.reply(CONSUME, flow_ok(true));
        t.hears(PINGRESP);
    });
}

#[test]
fn nothing_cuts_into_a_message_that_the_client_s_end_breaks_off() {
    both("{}", |t| {
        t.log_in();
        t.client(&publish(0, 0, "a", b"0123456789")[..8]);
        while t.broker.next_frame().is_some() {}
        t.client_ends();
        t.expect_goodbye();
        t.expect_silence();
    });
}

#[test]
fn the_broker_s_own_flow_is_answered_but_not_kept() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(0);
        t.reply(CONSUME, flow(true));
        t.expect(CONSUME, flow_ok(true));
        t.stays_open();
        t.reply(CONSUME, flow(false));
        t.closes();
        assert_eq!(t.counter("closed.broker_misbehaved"), 1);
    });
}

#[test]
fn malformed_packets_end_the_connection_at_any_moment() {
    for (moment, live) in MOMENTS {
        if ["publish under way", "leaving"].contains(&moment) {
            continue; // these bytes would be its payload, or nobody's
        }
        both("{}", |t| {
            live(t);
            t.client([0x00, 0]);
            // What came before takes effect first: CONNACK, SUBACK, and the confirm of what was published behind that.
            assert_eq!(
                t.counter("closed.malformed"),
                u64::from(["idle", "delivery under way"].contains(&moment))
            );
            if moment == "half a login" {
                while t.broker.heard().front() != Some(&AMQPFrame::Method(CONNECTION, open("/"))) {
                    t.broker.next_frame();
                }
            }
            let told = t.agree();
            assert!(told.contains(&AMQPFrame::Method(CONNECTION, goodbye())), "{moment}: {told:?}");
            assert_eq!(t.counter("closed.malformed"), 1, "{moment}");
            t.closes();
        });
    }
}
