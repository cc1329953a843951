//! How a connection ends, and what makes a round trip on the way.

use crate::both;
use support::{methods::*, packets::*, scripted_broker, talk::Talk};

#[test]
fn disconnect_is_connection_close_and_the_end_at_close_ok() {
    both("{}", |t| {
        t.log_in();
        t.client([publish(0, 0, "a", b"last"), DISCONNECT.to_vec(), publish(0, 0, "a", b"void")].concat());
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"last");
        t.expect_goodbye();
        t.expect_silence();
        t.reply(PUBLISH, channel_open_ok());
        t.stays_open();
        t.reply(CONNECTION, close_ok());
        assert!(t.closed());
        t.hears_nothing();
        assert_eq!(t.counter("closed.disconnect"), 1);
        assert_eq!(t.counter("closed.client_gone"), 0);
    });
}

#[test]
fn what_the_broker_says_behind_disconnect_does_not_matter() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(1);
        t.client(DISCONNECT);
        t.expect_goodbye();
        t.deliver((1, 1, false), "a", mode(2), b"late");
        t.reply(CONSUME, cancel(1));
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

#[test]
fn the_client_s_fin_is_an_end_without_disconnect() {
    both("{}", |t| {
        t.log_in();
        t.client_ends();
        t.expect_goodbye();
        t.reply(CONNECTION, close_ok());
        assert!(t.closed());
        assert_eq!(t.counter("closed.client_gone"), 1);
        assert_eq!(t.counter("closed.disconnect"), 0);
    });
}

/// Behind whatever the client has said, it has gone once it says FIN: nothing that was read is lost.
#[test]
fn a_fin_during_the_login_parts_from_the_broker_in_good_order() {
    both("{}", |t| {
        t.client([connect("c"), publish(0, 0, "a", b"x")].concat());
        t.client_ends();
        t.expect_protocol_header();
        t.expect_start_ok();
        t.expect_all(CONNECTION, [tune_ok(131_072, 30), open("/")]);
        t.expect_session();
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_barrier(PUBLISH);
        t.expect_goodbye();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.hears_nothing();
        t.reply(CONNECTION, close_ok());
        assert!(t.closed());
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
    // After ten seconds the broker has looked at it, and what is confirmed or acknowledged is not lost in silence.
    for (qos, pause) in [(0, 10_000), (1, 0)] {
        both(r#"{"heartbeat": 0}"#, |t| {
            t.log_in();
            t.client(publish(qos, 1, "a", b"x"));
            while t.broker.next_frame().is_some() {}
            t.advance(pause);
            t.client_ends();
            t.expect_goodbye();
            t.expect_silence();
        });
    }
    // Nor is there an end to be passed on behind DISCONNECT alone.
    both("{}", |t| {
        t.log_in();
        t.client([publish(0, 0, "a", b"x"), DISCONNECT.to_vec()].concat());
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_goodbye();
        t.expect_silence();
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
        t.client(subscribe(2, &[("secret", 0)]));
        t.client_at_once(PINGREQ);
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
            while t.broker.next_frame().is_some() {}
            t.client([0x00, 0]);
            t.expect_goodbye();
            t.expect_silence();
            assert_eq!(t.counter("closed.malformed"), 1);
        });
    }
}
