//! Another connection comes with the same client id. [MQTT-3.1.4-2]

use crate::both;
use support::{host::Facts, methods::*, module, packets::*, subject, talk::Talk};

/// The broker says that the lock is gone.
fn lock_is_taken(t: &mut Talk) {
    t.reply(CONSUME, cancel_consumer("lock", true));
}

#[test]
fn the_older_connection_is_closed() {
    for connect in [connect("c"), connect_kept("c")] {
        both("{}", |t| {
            t.client(connect.clone());
            t.agree();
            t.hears(connack(0));
            lock_is_taken(t);
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
            t.reply(CONNECTION, close_ok());
            t.closes();
            t.hears_nothing();
            assert_eq!(t.counter("closed.taken_over"), 1);
        });
    }
}

/// Its will is sent: that the client has come again is no DISCONNECT.
#[test]
fn the_older_connection_s_will_is_not_withdrawn() {
    both("{}", |t| {
        t.client(connect_will(1, "w", "gone"));
        t.agree();
        t.hears(connack(0));
        lock_is_taken(t);
        t.expect(CONNECTION, goodbye());
        t.expect_silence();
    });
}

/// What the broker takes back of the other queues may be heard first.
#[test]
fn any_queue_taken_ends_the_older_connection() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(1);
        t.reply(CONSUME, cancel(1));
        lock_is_taken(t);
        t.expect_goodbye();
        t.expect_silence();
        t.reply(CONNECTION, close_ok());
        t.closes();
    });
}

#[test]
fn what_is_in_flight_does_not_matter() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(1);
        t.deliver((1, 1, false), "a", mode(2), b"x");
        t.hears(publish(1, 1, "a", b"x"));
        t.client(&publish(1, 2, "a", b"0123456789")[..12]);
        t.expect_all(PUBLISH, [channel_open(), confirm_select(), basic_publish("a")]);
        while t.broker.next_frame().is_some() {}
        lock_is_taken(t);
        t.expect(CONNECTION, goodbye());
        t.client(puback(1));
        t.expect_silence();
        t.reply(CONNECTION, close_ok());
        t.closes();
        t.hears_nothing();
    });
}

/// Somebody came between two steps of this login: the one who deleted the lock last stays.
#[test]
fn a_login_that_is_overtaken_is_closed_without_connack() {
    let taken: [fn(&mut Talk); 3] = [
        lock_is_taken,
        |t| t.reply(CONSUME, declared(LOCK, 0)),
        |t| {
            t.reply(
                CONSUME,
                channel_close(406, "PRECONDITION_FAILED - inequivalent arg 'x-expires'", (50, 10)),
            )
        },
    ];
    for connect in [connect("c"), connect_kept("c"), connect_will(1, "w", "gone")] {
        for is_taken in taken {
            both("{}", |t| {
                t.client(connect.clone());
                t.greet("RabbitMQ", "4.1.0");
                t.reply(CONNECTION, open_ok());
                t.replies(
                    CONSUME,
                    [channel_open_ok(), qos_ok(), delete_ok(), declared(LOCK, 0), consumed("lock")],
                );
                while t.broker.next_frame().is_some() {}
                is_taken(t);
                let told = t.agree();
                assert!(told.iter().any(|frame| {
                    *frame == amq_protocol::frame::AMQPFrame::Method(CONNECTION, goodbye())
                }));
                t.closes();
                t.hears_nothing();
                assert_eq!(t.counter("closed.taken_over"), 1);
            });
        }
    }
}

/// Only the lock's consumer is one.
#[test]
fn other_queues_deleted_are_no_takeover() {
    for (channel, tag) in [(CONSUME, "qos1"), (CONSUME, "share0"), (CONSUME, "unknown"), (TOPOLOGY, "lock")] {
        both("{}", |t| {
            t.log_in();
            t.reply(channel, cancel_consumer(tag, true));
            t.expect_goodbye();
            assert_eq!((t.counter("closed.taken_over"), t.counter("closed.broker_closed")), (0, 1));
        });
    }
}

/// By these a connection knows what is its own; conversations leave them out.
#[test]
fn no_two_connections_have_the_same_marks() {
    let behind = |bytes: &[u8], words: &[u8], length: usize| {
        let at = bytes.windows(words.len()).position(|window| window == words).unwrap() + words.len();
        bytes[at..at + length].to_vec()
    };
    for (name, mut subject) in subject::both(module::shipped(), "{}") {
        let [first, second] = [0, 1].map(|_| {
            let connection = subject.connect_as(&Facts::default());
            subject.client_sends(connection, &connect_will(1, "w", "gone"));
            let bytes = subject.take_to_broker(connection);
            // The lock's expiry, and the ending of names.
            (behind(&bytes, b"x-expiresl", 8), behind(&bytes, b"cwill.", 11))
        });
        assert_ne!(first.0, second.0, "{name}");
        assert_ne!(first.1, second.1, "{name}");
    }
}
