//! A session keeps what it was allowed to subscribe to; its grants of today decide what is delivered.

use crate::*;
use support::{methods::*, scripted_broker};

/// The session of `c` is resumed, in which these queues have outlived its connection.
fn resumes(t: &mut Talk) {
    KEPT.iter().for_each(|queue| t.broker.has_queue(queue));
    t.client(connect_kept("c"));
    t.agree();
    t.hears(PRESENT);
}

#[test]
fn what_is_not_allowed_any_more_is_not_delivered() {
    both(json!({ "subscribe": { "allow": ["own/{client_id}/#"], "deny": ["own/c/secret"] } }), |t| {
        resumes(t);
        for (number, key) in ["own.d.x", "own.c.secret", "else"].into_iter().enumerate() {
            t.deliver((1, number as u64 + 1, false), key, mode(2), b"no");
            t.hears_nothing();
            t.expect(CONSUME, ack(number as u64 + 1, false));
            t.deliver((0, number as u64 + 1, false), key, mode(1), b"no");
            t.hears_nothing();
            t.expect_silence();
        }
        t.deliver((1, 4, false), "own.c.x", mode(2), b"yes");
        t.hears(publish(1, 1, "own/c/x", b"yes"));
        t.deliver((0, 4, false), "own.c.x", mode(1), b"yes");
        t.hears(publish(0, 0, "own/c/x", b"yes"));
        t.client(puback(1));
        t.expect(CONSUME, ack(4, false));
        t.stays_open();
    });
}

#[test]
fn without_grants_all_is_delivered() {
    both(json!({}), |t| {
        resumes(t);
        t.deliver((1, 1, false), "anything", mode(2), b"yes");
        t.hears(publish(1, 1, "anything", b"yes"));
    });
}

/// A retained message that was given to the session, and had not reached its client, is one of its messages.
#[test]
fn nor_is_a_retained_message_of_yesterday() {
    let config = json!({ "retained": true, "subscribe": { "allow": ["own/#"] } });
    both(config, |t| {
        resumes(t);
        for (number, topic) in [(1, "else"), (2, "own.x")] {
            let announced = deliver_from_queue(KEPT[1], "qos1", number);
            let headers =
                table([("x-leveret-retained", amq_protocol::types::AMQPValue::LongString(topic.into()))]);
            let mut bytes = scripted_broker::method(CONSUME, announced);
            bytes.extend(scripted_broker::header(CONSUME, 1, mode(2).with_headers(headers)));
            bytes.extend(scripted_broker::body(CONSUME, b"r"));
            t.broker(bytes);
        }
        t.hears(publish_flags(3, 1, "own/x", b"r"));
    });
}
