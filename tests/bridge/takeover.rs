//! Another connection comes with the same client id. [MQTT-3.1.4-2]

use crate::both;
use support::{
    host::Facts,
    methods::*,
    module,
    packets::*,
    scripted_broker::{self, ScriptedBroker},
    subject,
    talk::Talk,
};

/// The broker says that the lock is gone: a newcomer has deleted it.
fn lock_is_taken(t: &mut Talk) {
    t.reply(CONSUME, cancel_consumer("lock", true));
}

/// Another connection's claim comes.
fn claim_comes(t: &mut Talk) {
    let claim = t.broker.another_claim();
    t.broker(claim);
}

/// A newcomer's claim comes to the connection that has the lock, which asks whether there is one.
fn lock_is_claimed(t: &mut Talk) {
    claim_comes(t);
    t.expect(CONSUME, look_for(LOCK));
    t.reply(CONSUME, declared(LOCK, 2));
}

const TAKEN: [fn(&mut Talk); 2] = [lock_is_taken, lock_is_claimed];

/// The claim is not acknowledged, so that it goes to the newcomer, and the lock is left to that one.
#[test]
fn the_older_connection_is_closed() {
    for is_taken in TAKEN {
        for connect in [connect("c"), connect_kept("c")] {
            both("{}", |t| {
                t.client(connect.clone());
                t.agree();
                t.hears(connack(0));
                is_taken(t);
                t.expect(CONNECTION, goodbye());
                t.expect_silence();
                t.reply(CONNECTION, close_ok());
                t.closes();
                t.hears_nothing();
                assert_eq!(t.counter("closed.taken_over"), 1);
            });
        }
    }
}

/// That the client has come again is no DISCONNECT: its will is sent, before the newcomer can have the lock.
#[test]
fn the_older_connection_s_will_is_sent_first() {
    for is_taken in TAKEN {
        both("{}", |t| {
            t.client(connect_will(1, "w", "gone"));
            t.agree();
            t.hears(connack(0));
            is_taken(t);
            t.expect_last_will(1);
            t.expect_silence();
            t.send_will();
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
        });
    }
}

/// What the client has said takes effect before the newcomer's client says anything, and what it says then does not.
#[test]
fn what_the_older_client_has_said_is_routed_first() {
    for is_taken in TAKEN {
        both("{}", |t| {
            t.log_in();
            t.client(publish(1, 7, "a", b"x"));
            while t.broker.next_frame().is_some() {}
            is_taken(t);
            t.client(publish(1, 8, "a", b"late"));
            t.expect_silence();
            t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
            t.hears(puback(7));
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
        });
        // Nobody confirms it.
        both("{}", |t| {
            t.log_in();
            t.client(publish(0, 0, "a", b"x"));
            while t.broker.next_frame().is_some() {}
            t.reply(PUBLISH, channel_open_ok());
            is_taken(t);
            t.routes();
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
        });
    }
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

/// Within a message that is broken off nothing can be asked, and whatever is confirmed of those before does not matter.
#[test]
fn what_is_in_flight_does_not_matter() {
    for is_taken in TAKEN {
        both("{}", |t| {
            t.client(connect_will(1, "w", "gone"));
            t.agree();
            t.hears(connack(0));
            t.subscribe(1);
            t.deliver((1, 1, false), "a", mode(2), b"x");
            t.hears(publish(1, 1, "a", b"x"));
            t.client([&publish(1, 3, "a", b"")[..], &publish(1, 2, "a", b"0123456789")[..12]].concat());
            t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
            while t.broker.next_frame().is_some() {}
            is_taken(t);
            t.expect_last_will(1);
            t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
            t.client(puback(1));
            t.expect_silence();
            t.stays_open();
            t.send_will();
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
            t.reply(CONNECTION, close_ok());
            t.closes();
            t.hears_nothing();
        });
    }
}

/// CONNECT is sent, and granted but for the lock, which another connection has.
fn all_but_the_lock(t: &mut Talk, connect: &[u8]) {
    t.client(connect);
    t.expect_connection();
    t.expect_session();
    t.expect_silence();
    t.greet("RabbitMQ", "4.1.0");
    t.reply(CONNECTION, open_ok());
    t.replies(TOPOLOGY, [channel_open_ok(), delete_ok(), delete_ok()]);
    t.replies(CONSUME, [channel_open_ok(), qos_ok()]);
    t.replies(CONSUME, lock_shared(2));
    t.expect_claim();
    t.expect_silence();
    t.hears_nothing();
}

/// Those that came before, and waited in vain or went meanwhile, are passed over.
#[test]
fn claims_ahead_of_one_s_own_are_acknowledged() {
    both("{}", |t| {
        all_but_the_lock(t, &connect("c"));
        for _ in 0..3 {
            claim_comes(t);
            t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
            t.expect_silence();
            t.hears_nothing();
        }
        let claim = t.broker.claim();
        t.broker(claim);
        t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
        t.hears(connack(0));
        lock_is_claimed(t);
        t.expect(CONNECTION, goodbye());
        assert_eq!(t.counter("closed.taken_over"), 1);
    });
}

/// Its connection has gone meanwhile, or has lost its place when somebody else took the lock by force: there is nobody to go for.
#[test]
fn a_claim_without_anybody_in_line_is_passed_over() {
    both("{}", |t| {
        t.log_in();
        for _ in 0..3 {
            claim_comes(t);
            t.expect(CONSUME, look_for(LOCK));
            t.expect_silence();
            t.reply(CONSUME, declared(LOCK, 1));
            t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
            t.expect_silence();
        }
        // Those that come while it is counted are counted for by themselves.
        claim_comes(t);
        t.expect(CONSUME, look_for(LOCK));
        claim_comes(t);
        claim_comes(t);
        t.expect_silence();
        t.reply(CONSUME, declared(LOCK, 1));
        t.expect_all(CONSUME, [look_for(LOCK), ack(scripted_broker::CLAIM_TAG, false)]);
        t.expect_silence();
        t.stays_open();
        t.reply(CONSUME, declared(LOCK, 2));
        t.expect(CONNECTION, goodbye());
        t.expect_silence();
        assert_eq!(t.counter("closed.taken_over"), 1);
    });
}

/// Another connection that may publish into queues cannot have them pile up here.
#[test]
fn claims_without_number_are_a_takeover() {
    both("{}", |t| {
        t.log_in();
        claim_comes(t);
        t.expect(CONSUME, look_for(LOCK));
        for _ in 0..64 {
            claim_comes(t);
        }
        t.expect_silence();
        claim_comes(t);
        t.expect(CONNECTION, goodbye());
        assert_eq!(t.counter("closed.taken_over"), 1);
    });
}

/// A queue that was deleted in the moment in which it was consumed is not announced.
#[test]
fn a_lock_that_is_not_there_when_it_is_counted_is_somebody_else_s() {
    both("{}", |t| {
        t.log_in();
        claim_comes(t);
        t.expect(CONSUME, look_for(LOCK));
        t.reply(CONSUME, channel_close(404, "NOT_FOUND - no queue", (50, 10)));
        t.expect(CONSUME, channel_close_ok());
        t.expect(CONNECTION, goodbye());
        t.expect_silence();
        assert_eq!(t.counter("closed.taken_over"), 1);
    });
}

/// Who is to be heard to the end first may find that out meanwhile. It is not to ask for the lock again, which is somebody else's.
#[test]
fn a_lock_that_is_lost_is_not_asked_for_again() {
    both(r#"{"max_inflight": 1}"#, |t| {
        t.log_in();
        t.client_at_once([publish(1, 1, "a", b"x"), publish(1, 2, "a", b"y")].concat());
        while t.broker.next_frame().is_some() {}
        claim_comes(t);
        t.expect(CONSUME, look_for(LOCK));
        lock_is_taken(t);
        t.expect_silence();
        t.stays_open();
        t.reply(CONSUME, channel_close(404, "NOT_FOUND - no queue", (50, 10)));
        t.expect(CONSUME, channel_close_ok());
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.hears(puback(1));
        t.expect(CONNECTION, goodbye());
        t.expect_silence();
    });
}

/// Who is the only one has the lock. Where there were others before, the one that is counted may be theirs: of another queue of that name.
#[test]
fn the_lock_is_claimed_where_there_are_others_or_were() {
    for (before, after, is_claimed) in [(0, 1, false), (1, 2, true), (0, 2, true), (1, 1, true)] {
        both("{}", |t| {
            t.client(connect("c"));
            t.expect_connection();
            t.expect_session();
            t.greet("RabbitMQ", "4.1.0");
            t.reply(CONNECTION, open_ok());
            t.replies(TOPOLOGY, [channel_open_ok(), delete_ok(), delete_ok()]);
            t.replies(CONSUME, [channel_open_ok(), qos_ok(), declared(LOCK, before), consumed("lock")]);
            t.expect_silence();
            t.reply(CONSUME, declared(LOCK, after));
            if is_claimed {
                t.expect_claim();
                t.hears_nothing();
                let claim = t.broker.claim();
                t.broker(claim);
                t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
            }
            t.hears(connack(0));
            t.expect_silence();
        });
    }
}

/// The newcomer has no will yet, while the older connection may be sending its own, and is given time for that.
#[test]
fn a_newcomer_waits_2_s_and_takes_the_lock_by_force() {
    both("{}", |t| {
        all_but_the_lock(t, &connect_will(1, "w", "gone"));
        t.advance(1_900);
        t.expect_silence();
        t.advance(100);
        t.expect_all(CONSUME, force_lock());
        t.expect_silence();
        // With the queue its consumers go, our own of before among them; a claim that came by that one tells nothing.
        t.reply(CONSUME, delete_ok());
        lock_is_taken(t);
        t.reply(CONSUME, declared(LOCK, 0));
        let claim = t.broker.claim_of_before();
        t.broker(claim);
        t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
        t.reply(CONSUME, consumed("lock1"));
        t.hears_nothing();
        t.expect_silence();
        // Somebody else may do the same at the same time, and it may be that one's consumer that is counted.
        t.reply(CONSUME, declared(LOCK, 1));
        t.expect_claim();
        t.hears_nothing();
        let claim = t.broker.claim();
        t.broker(claim);
        t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
        t.expect_will("w", b"gone");
        t.grant_will();
        t.hears(connack(0));
        // This one counts.
        t.reply(CONSUME, cancel_consumer("lock1", true));
        t.expect_last_will(1);
        t.send_will();
        t.expect(CONNECTION, goodbye());
        assert_eq!(t.counter("closed.taken_over"), 1);
    });
}

/// A queue that is deleted in the moment in which it is consumed is not announced; the consumer's tag is still in use.
#[test]
fn a_lock_without_consumers_is_asked_for_again() {
    both("{}", |t| {
        t.client(connect("c"));
        t.expect_connection();
        t.expect_session();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.replies(TOPOLOGY, [channel_open_ok(), delete_ok(), delete_ok()]);
        t.replies(CONSUME, [channel_open_ok(), qos_ok()]);
        t.replies(CONSUME, lock_shared(0));
        let [declare, _, count] = take_lock();
        for n in 1..=5 {
            let consume = consume_queue(LOCK, &format!("lock{n}"), false, false);
            t.expect_all(CONSUME, [declare.clone(), consume, count.clone()]);
            t.expect_silence();
            t.hears_nothing();
            t.replies(CONSUME, [declared(LOCK, 0), consumed(&format!("lock{n}")), declared(LOCK, 0)]);
        }
        t.expect(CONNECTION, goodbye());
        t.hears_nothing();
        assert_eq!(t.counter("closed.taken_over"), 1);
    });
}

/// Somebody came before the login was over.
#[test]
fn a_login_that_is_overtaken_is_closed_without_connack() {
    // By force, while the claim is awaited.
    for connect in [connect("c"), connect_will(1, "w", "gone")] {
        both("{}", |t| {
            all_but_the_lock(t, &connect);
            lock_is_taken(t);
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
            t.reply(CONNECTION, close_ok());
            t.closes();
            t.hears_nothing();
            assert_eq!(t.counter("closed.taken_over"), 1);
        });
    }
    // While the session is awaited.
    for is_taken in TAKEN {
        both("{}", |t| {
            t.client(connect("c"));
            t.expect_connection();
            t.expect_session();
            t.greet("RabbitMQ", "4.1.0");
            t.reply(CONNECTION, open_ok());
            t.replies(CONSUME, [channel_open_ok(), qos_ok()]);
            t.grant_lock();
            t.expect_silence();
            is_taken(t);
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
            t.hears_nothing();
        });
        // While the will is: it is taken back, and the newcomer waits for that.
        both("{}", |t| {
            all_but_the_lock(t, &connect_will(1, "w", "gone"));
            let claim = t.broker.claim();
            t.broker(claim);
            t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
            t.expect_will("w", b"gone");
            is_taken(t);
            t.expect_withdrawal();
            t.expect_silence();
            t.grant_will();
            t.reply(WILL, delete_ok());
            t.expect(CONNECTION, goodbye());
            t.expect_silence();
            t.hears_nothing();
            assert_eq!(t.counter("closed.taken_over"), 1);
        });
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
            let (mut broker, mut said) = (ScriptedBroker::default(), Vec::new());
            // So that it is claimed.
            broker.has_another_holder();
            loop {
                let bytes = subject.take_to_broker(connection);
                broker.hear(&bytes);
                said.extend(bytes);
                let Some(frame) = broker.next_frame() else { break };
                subject.broker_sends(connection, &broker.obvious_answer(&frame));
            }
            // A long string, and the ending of names.
            (behind(&said, b"x-leveret-claimS\0\0\0\x0b", 11), behind(&said, b"cwill.", 11))
        });
        assert_ne!(first.0, second.0, "{name}");
        assert_ne!(first.1, second.1, "{name}");
    }
}
