//! A PUBLISH that the broker does not permit: `on_unauthorized`.

use crate::both;
use amq_protocol::protocol::AMQPClass;
use support::{methods::*, packets::*, talk::Talk};

const DROP: &str = r#"{"on_unauthorized": "drop"}"#;
const PUBLISHED: (u16, u16) = (60, 40);

fn refused() -> AMQPClass {
    channel_close(403, "ACCESS_REFUSED - write access to topic 'secret' refused", PUBLISHED)
}

/// Logged in, with the channels for messages open and used.
fn ready(t: &mut Talk) {
    t.log_in();
    t.client([publish(0, 0, "a", b"x"), publish(1, 1, "a", b"x")].concat());
    t.agree();
    t.hears(puback(1));
}

#[track_caller]
fn is_closed(t: &mut Talk, channel: u16) {
    t.expect(channel, channel_close_ok());
    t.expect_goodbye();
    t.expect_silence();
    t.reply(CONNECTION, close_ok());
    t.closes();
    t.hears_nothing();
    assert_eq!((t.counter("closed.broker_closed"), t.counter("unauthorized")), (1, 0));
}

#[test]
fn disconnect_is_the_default() {
    for (config, channel, qos) in [
        ("{}", PUBLISH, 0),
        ("{}", PUBLISH, 1),
        (r#"{"on_unauthorized": "disconnect"}"#, PUBLISH, 0),
        (r#"{"on_unauthorized": "disconnect"}"#, PUBLISH, 2),
    ] {
        both(config, |t| {
            ready(t);
            t.client(publish(qos, 2, "secret", b"x"));
            t.expect_publish(channel, "secret", b"x");
            t.reply(channel, refused());
            is_closed(t, channel);
        });
    }
}

#[test]
fn at_qos_0_it_is_dropped_and_counted() {
    both(DROP, |t| {
        ready(t);
        // Nobody waits for either, confirmed though they are.
        t.client([publish(0, 0, "secret", b"x"), publish(0, 0, "a", b"y")].concat());
        t.expect_publish(PUBLISH, "secret", b"x");
        t.expect_publish(PUBLISH, "a", b"y");
        t.reply(PUBLISH, refused());
        t.expect(PUBLISH, channel_close_ok());
        t.expect_silence();
        t.hears_nothing();
        assert_eq!(t.counter("unauthorized"), 1);
        t.client(publish(0, 0, "a", b"z"));
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"z");
        t.stays_open();
    });
}

/// Its end has nowhere to go, and the next one is whole again.
#[test]
fn in_the_middle_of_its_payload() {
    for (channel, qos) in [(PUBLISH, 0), (PUBLISH, 1)] {
        both(DROP, |t| {
            ready(t);
            let packet = publish(qos, 2, "secret", b"0123456789");
            let (head, tail) = packet.split_at(packet.len() - 5);
            t.client(head);
            while t.broker.next_frame().is_some() {}
            t.reply(channel, refused());
            t.expect(channel, channel_close_ok());
            t.client(tail);
            t.expect_silence();
            t.hears(if qos == 1 { puback(2) } else { Vec::new() });
            t.client(publish(qos, 3, "a", b"x"));
            t.expect(channel, channel_open());
            if qos == 1 {
                t.expect(channel, confirm_select());
            }
            t.expect_publish(channel, "a", b"x");
            t.expect_silence();
        });
    }
}

#[test]
fn the_only_one_unconfirmed_is_dropped_and_acknowledged() {
    both(DROP, |t| {
        ready(t);
        for (qos, id, receipt) in [(1, 2, puback(2)), (2, 3, pubrec(3))] {
            t.client(publish(qos, id, "secret", b"x"));
            t.expect_publish(PUBLISH, "secret", b"x");
            t.reply(PUBLISH, refused());
            t.expect(PUBLISH, channel_close_ok());
            t.hears(receipt);
            // The broker counts from 1 again.
            t.client(publish(1, 9, "a", b"x"));
            t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
            t.expect_publish(PUBLISH, "a", b"x");
            t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
            t.hears(puback(9));
        }
        assert_eq!(t.counter("unauthorized"), 2);
        t.client(pubrel(3));
        t.agree();
        t.hears(pubcomp(3));
        t.stays_open();
    });
}

/// PUBREL came first: what is owed is PUBCOMP.
#[test]
fn the_only_one_unconfirmed_may_be_released() {
    both(DROP, |t| {
        ready(t);
        t.client([publish(2, 2, "secret", b"x"), pubrel(2)].concat());
        t.expect_publish(PUBLISH, "secret", b"x");
        t.reply(PUBLISH, refused());
        t.hears(pubcomp(2));
    });
}

/// Which of them was refused, and which were taken, nobody knows: the client sends them again.
#[test]
fn one_of_several_unconfirmed_closes() {
    both(DROP, |t| {
        ready(t);
        t.client([publish(1, 2, "a", b"x"), publish(1, 3, "secret", b"x")].concat());
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_publish(PUBLISH, "secret", b"x");
        t.reply(PUBLISH, refused());
        t.expect(PUBLISH, channel_close_ok());
        t.expect_goodbye();
        t.hears_nothing();
        assert_eq!((t.counter("closed.broker_closed"), t.counter("unauthorized")), (1, 1));
    });
    // Once the other is confirmed, in whatever order, it is the only one.
    both(DROP, |t| {
        ready(t);
        t.client([publish(1, 2, "secret", b"x"), publish(1, 3, "a", b"x")].concat());
        while t.broker.next_frame().is_some() {}
        t.reply(PUBLISH, ack(3, false));
        t.hears_nothing();
        t.reply(PUBLISH, refused());
        t.hears([puback(2), puback(3)].concat());
        t.stays_open();
    });
}

/// RabbitMQ names the topic. The first that went there is acknowledged, or a client that sends several would never get on.
#[test]
fn of_several_the_one_whose_topic_is_named_is_acknowledged() {
    let named = "ACCESS_REFUSED - access to topic 'not.this' in exchange 'amq.topic' in vhost '/' refused for user 'u'";
    for (packet, receipt) in [
        (publish(1, 3, "not/this", b"x"), puback(3)),
        (publish(2, 3, "not/this", b"x"), pubrec(3)),
        ([publish(1, 3, "not/this", b"x"), publish(1, 4, "not/this", b"x")].concat(), puback(3)),
        (publish(1, 3, "other", b"x"), Vec::new()),
    ] {
        both(DROP, |t| {
            ready(t);
            t.client([publish(1, 2, "a", b"x"), packet.clone()].concat());
            while t.broker.next_frame().is_some() {}
            t.reply(PUBLISH, channel_close(403, named, PUBLISHED));
            t.hears(&receipt);
            t.expect(PUBLISH, channel_close_ok());
            t.expect_goodbye();
            t.reply(CONNECTION, close_ok());
            t.closes();
            t.hears_nothing();
        });
    }
}

/// A refusal of something else, or for another reason, is no matter of permission.
#[test]
fn other_refusals_close() {
    for (channel, qos) in [(PUBLISH, 0), (PUBLISH, 1)] {
        for why in [
            channel_close(404, "NOT_FOUND - no exchange 'amq.topic'", PUBLISHED),
            channel_close(403, "ACCESS_REFUSED", (20, 20)),
            channel_close(406, "PRECONDITION_FAILED - message size", PUBLISHED),
        ] {
            both(DROP, |t| {
                ready(t);
                t.client(publish(qos, 2, "secret", b"x"));
                t.expect_publish(channel, "secret", b"x");
                t.reply(channel, why.clone());
                is_closed(t, channel);
            });
        }
    }
}

/// What is behind CONNECT is published behind CONNACK, so no refusal of it is one of the login.
#[test]
fn behind_connect() {
    both(DROP, |t| {
        t.client([connect("c"), publish(1, 2, "secret", b"x"), publish(0, 0, "secret", b"x")].concat());
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
        t.hears(connack(0));
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(2, false), refused()]);
        t.hears(puback(2));
        assert_eq!(t.counter("unauthorized"), 1);
        t.stays_open();
    });
    both("{}", |t| {
        t.client([connect("c"), publish(1, 2, "secret", b"x")].concat());
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
        t.hears(connack(0));
        while t.broker.next_frame().is_some() {}
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), refused()]);
        is_closed(t, PUBLISH);
    });
}
