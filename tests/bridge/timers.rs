//! Deadlines.

use crate::both;
use amq_protocol::frame::AMQPFrame;
use support::{methods::*, packets::*, scripted_broker};

const NO_HEARTBEAT: &str = r#"{"heartbeat": 0}"#;

#[test]
fn a_client_that_says_nothing_has_the_login_timeout() {
    both(r#"{"login_timeout": 2000}"#, |t| {
        t.client(&connect("c")[..5]);
        t.advance(1_900);
        assert!(!t.closed());
        t.advance(100);
        t.closes();
        t.expect_silence();
        t.hears_nothing();
        assert_eq!(t.counter("closed.timed_out"), 1);
    });
}

#[test]
fn a_broker_that_says_nothing_has_it_too() {
    both("{}", |t| {
        t.client(connect("c"));
        while t.broker.next_frame().is_some() {}
        t.advance(9_900);
        t.expect_silence();
        t.advance(100);
        t.closes();
        assert_eq!(t.counter("closed.broker_gone"), 1);
    });
}

#[test]
fn keep_alive_is_one_and_a_half_times() {
    both(NO_HEARTBEAT, |t| {
        t.client(connect_with(0x02, 10, &["c"]));
        t.agree();
        t.hears(connack(0));
        t.advance(14_900);
        // Any byte counts.
        t.client(&PINGREQ[..1]);
        t.advance(14_900);
        t.expect_silence();
        t.advance(200);
        t.expect_goodbye();
        t.reply(CONNECTION, close_ok());
        t.closes();
        assert_eq!(t.counter("closed.timed_out"), 1);
    });
}

/// What the broker sends does not keep a client alive.
#[test]
fn deliveries_do_not_count_for_keep_alive() {
    both(NO_HEARTBEAT, |t| {
        t.client(connect_with(0x02, 10, &["c"]));
        t.agree();
        t.client(subscribe(1, &[("#", 0)]));
        t.agree();
        for tag in 1..=15 {
            t.advance(1_000);
            t.deliver((0, tag, false), "a", mode(1), b"x");
        }
        t.advance(100);
        t.expect_goodbye();
    });
}

#[test]
fn no_keep_alive_is_for_ever() {
    both(NO_HEARTBEAT, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.agree();
        t.advance(200_000);
        t.stays_open();
        t.expect_silence();
    });
}

#[test]
fn a_blocked_broker_suspends_keep_alive() {
    both(NO_HEARTBEAT, |t| {
        t.client(connect_with(0x02, 10, &["c"]));
        t.agree();
        t.hears(connack(0));
        t.reply(CONNECTION, blocked());
        t.advance(100_000);
        t.stays_open();
        t.reply(CONNECTION, unblocked());
        t.advance(14_900);
        t.expect_silence();
        t.advance(200);
        t.expect_goodbye();
    });
}

#[test]
fn heartbeats_are_sent_each_half_interval() {
    both(r#"{"heartbeat": 10}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.agree();
        for _ in 0..6 {
            t.advance(5_000);
            t.broker(scripted_broker::heartbeat());
        }
        let heartbeats = t.broker.heard().iter().filter(|&frame| *frame == AMQPFrame::Heartbeat).count();
        assert_eq!((heartbeats, t.broker.heard().len()), (6, 6), "{}", t.name);
        t.stays_open();
    });
}

#[test]
fn two_missing_heartbeats_are_the_end_of_the_broker() {
    both(r#"{"heartbeat": 10}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.agree();
        t.advance(19_900);
        assert!(!t.closed());
        t.advance(100);
        t.closes();
        assert_eq!(t.counter("closed.broker_gone"), 1);
        assert!(t.broker.heard().iter().all(|frame| *frame == AMQPFrame::Heartbeat));
    });
}

/// However long the login took of it.
#[test]
fn keep_alive_starts_with_connack() {
    both("{}", |t| {
        t.client(connect_with(0x02, 4, &["c"]));
        t.advance(5_000);
        t.agree();
        t.hears(connack(0));
        t.advance(5_800);
        t.stays_open();
        t.expect_silence();
    });
}

/// They are missed when they are due, between two of ours.
#[test]
fn missing_heartbeats_count_from_the_broker_s_last_byte() {
    both(r#"{"heartbeat": 10}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.agree();
        t.advance(1_000);
        t.broker(scripted_broker::heartbeat());
        t.advance(19_900);
        assert!(!t.closed());
        t.advance(100);
        t.closes();
    });
}

/// An unfinished packet is in our memory for as long as it takes, so that is not for ever, keep-alive or not.
#[test]
fn an_unfinished_packet_has_a_deadline() {
    both(r#"{"heartbeat": 0, "packet_timeout": 20000}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.agree();
        t.hears(connack(0));
        let subscribe = subscribe(1, &[("t/1", 0), ("t/2", 0)]);
        let (head, tail) = subscribe.split_at(9);
        t.client(head);
        t.advance(19_900);
        t.client(&tail[..1]);
        t.expect_silence();
        t.advance(200);
        t.expect_goodbye();
        t.reply(CONNECTION, close_ok());
        t.closes();
        assert_eq!(t.counter("closed.unfinished"), 1);
        assert_eq!(t.counter("closed.timed_out"), 0);
    });
}

/// Each packet has its own, and a payload, which is passed on as it comes, none.
#[test]
fn a_slow_client_that_gets_on_is_not_cut_off() {
    both(r#"{"heartbeat": 0, "packet_timeout": 20000}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.agree();
        t.hears(connack(0));
        for _ in 0..4 {
            t.client(&PINGREQ[..1]);
            t.advance(15_000);
            t.client(&PINGREQ[1..]);
            t.agree();
            t.hears(PINGRESP);
        }
        let publish = publish(0, 0, "t", &[7; 10]);
        t.client(&publish[..publish.len() - 10]);
        for byte in &publish[publish.len() - 10..] {
            t.advance(15_000);
            t.client([*byte]);
        }
        t.agree();
        assert!(!t.closed());
        assert_eq!(t.counter("bytes.published.qos0"), 10);
    });
}

/// What it does not send because nobody reads it is not its fault.
#[test]
fn a_blocked_broker_suspends_the_deadline_of_a_packet() {
    both(r#"{"heartbeat": 0, "packet_timeout": 20000}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.agree();
        t.hears(connack(0));
        t.client(&PINGREQ[..1]);
        t.advance(15_000);
        t.reply(CONNECTION, blocked());
        t.advance(100_000);
        t.reply(CONNECTION, unblocked());
        t.advance(4_900);
        assert!(!t.closed());
        t.expect_silence();
        t.advance(200);
        t.expect_goodbye();
    });
}
