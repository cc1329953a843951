//! Topics that start with `$` are not for filters that start with a wildcard. The broker matches, and does not know that.
//! [MQTT-4.7.2-1]

use crate::both;
use support::{methods::*, packets::*, talk::Talk};

/// The client is given the message, or it is acknowledged in its place.
#[track_caller]
fn is_given(t: &mut Talk, level: usize, delivery_tag: u64, routing_key: &str, expected: bool) {
    t.deliver((level, delivery_tag, false), routing_key, mode(2), b"x");
    let topic = routing_key.replace('.', "/");
    match (expected, level) {
        (true, 0) => t.hears(publish(0, 0, &topic, b"x")),
        (true, _) => t.hears(publish(1, delivery_tag as u16, &topic, b"x")),
        (false, _) => t.hears_nothing(),
    }
    if level == 1 && !expected {
        t.expect(CONSUME, ack(delivery_tag, false));
    }
    t.expect_silence();
}

/// Subscribed to these filters.
fn subscribed(t: &mut Talk, filters: &[(&str, u8)]) {
    t.client(subscribe(9, filters));
    t.agree();
    t.hears(suback(9, &filters.iter().map(|(_, qos)| *qos).collect::<Vec<_>>()));
}

#[test]
fn a_wildcard_does_not_match_them() {
    for filter in ["#", "+/b", "+/+", "a"] {
        for (level, qos) in [(0, 0), (1, 1)] {
            both("{}", |t| {
                t.log_in();
                subscribed(t, &[(filter, qos)]);
                is_given(t, level, 1, "$SYS.b", false);
                assert_eq!(t.counter("undeliverable"), 0, "it is no failure");
                t.deliver((level, 2, false), "a.$SYS", mode(2), b"");
                t.hears(publish(qos, 1, "a/$SYS", b""));
            });
        }
    }
}

#[test]
fn a_filter_that_starts_like_them_does() {
    for (filter, others) in
        [("$SYS/#", "$other.b"), ("$SYS/+", "$SYS.b.c"), ("$SYS/b", "$SYS.c"), ("$SYS/b/#", "$SYS")]
    {
        both("{}", |t| {
            t.log_in();
            subscribed(t, &[("#", 1), (filter, 1)]);
            is_given(t, 1, 1, "$SYS.b", true);
            is_given(t, 1, 2, others, false);
        });
    }
}

/// What comes from the other queue comes of a wildcard.
#[test]
fn at_the_qos_it_was_subscribed_at() {
    both("{}", |t| {
        t.log_in();
        subscribed(t, &[("#", 0), ("$SYS/b", 1)]);
        is_given(t, 0, 1, "$SYS.b", false);
        is_given(t, 1, 1, "$SYS.b", true);
        subscribed(t, &[("$SYS/b", 0)]);
        is_given(t, 0, 2, "$SYS.b", true);
        is_given(t, 1, 2, "$SYS.b", false);
    });
}

#[test]
fn until_it_is_unsubscribed() {
    both("{}", |t| {
        t.log_in();
        subscribed(t, &[("#", 0), ("$SYS/b", 0), ("$SYS/c", 0)]);
        t.client(unsubscribe(1, &["$SYS/b", "$SYS/never"]));
        t.agree();
        t.hears(unsuback(1));
        is_given(t, 0, 1, "$SYS.b", false);
        is_given(t, 0, 2, "$SYS.c", true);
    });
}

/// Which filters a session has that was kept, AMQP cannot tell.
#[test]
fn a_session_that_was_kept_is_given_what_its_queues_hold() {
    both("{}", |t| {
        t.broker.has_queue(KEPT[1]);
        t.client(connect_kept("c"));
        t.agree();
        t.hears(PRESENT);
        is_given(t, 1, 1, "$SYS.b", true);
        subscribed(t, &[("a", 1)]);
        is_given(t, 1, 2, "$SYS.b", true);
    });
    both("{}", |t| {
        t.client(connect_kept("c"));
        t.agree();
        t.hears(connack(0));
        subscribed(t, &[("#", 1)]);
        is_given(t, 1, 1, "$SYS.b", false);
    });
}

/// With more filters than are remembered, too much is better than too little.
#[test]
fn more_filters_than_are_remembered() {
    for (count, expected) in [(255, false), (256, true)] {
        both("{}", |t| {
            t.log_in();
            t.pieces_of(1 << 16);
            let filters: Vec<String> = (0..count).map(|n| format!("$x/{n}")).collect();
            let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
            subscribed(t, &filters);
            is_given(t, 0, 1, "$SYS.b", expected);
        });
    }
}

/// Each message is compared with all of them, so there are not to be many long ones either.
#[test]
fn longer_filters_than_are_remembered() {
    for (count, expected) in [(4, false), (5, true)] {
        both("{}", |t| {
            t.log_in();
            t.pieces_of(1 << 16);
            let filters: Vec<String> = (0..count).map(|n| format!("$x{}{n}", "/".repeat(126))).collect();
            let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
            subscribed(t, &filters);
            is_given(t, 0, 1, "$SYS.b", expected);
            // It is not known any more which of them are left.
            t.client(unsubscribe(1, &[filters[0].0]));
            t.agree();
            t.hears(unsuback(1));
            is_given(t, 0, 2, "$SYS.b", expected);
        });
    }
}

/// In a group the filter is known.
#[test]
fn a_group_s_filter_counts_alone() {
    for (filter, expected) in [("$share/g/#", false), ("$share/g/$SYS/#", true)] {
        both("{}", |t| {
            t.log_in();
            subscribed(t, &[(filter, 0)]);
            let method = amq_protocol::protocol::basic::Deliver {
                consumer_tag: "share0".into(),
                delivery_tag: 1,
                redelivered: false,
                exchange: "amq.topic".into(),
                routing_key: "$SYS.b".into(),
            };
            let deliver = amq_protocol::protocol::AMQPClass::Basic(
                amq_protocol::protocol::basic::AMQPMethod::Deliver(method),
            );
            t.reply(CONSUME, deliver);
            t.broker(support::scripted_broker::header(CONSUME, 0, mode(1)));
            t.hears(if expected { publish(0, 0, "$SYS/b", b"") } else { Vec::new() });
        });
    }
}
