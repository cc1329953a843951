//! What the bridge relies on, and what could go wrong with it.

use super::methods::*;
use super::{Both, both};
use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::AMQPValue;
use support::methods as say;
use support::scripted_broker as write;

#[test]
fn a_refused_method_closes_its_channel_and_nothing_more_is_looked_at() {
    both("refused", |b| {
        let c = b.connect();
        b.says(
            c,
            1,
            [passive("none"), declare("truth-ignored", DURABLE, &[]), bind("none", "amq.topic", "#")],
        );
        b.says(c, 1, [declare("truth-ignored", DURABLE, &[])]);
        b.says(c, 2, [passive("truth-ignored")]);
        b.reopens(c, 1);
        b.says(c, 1, [bind("none", "amq.topic", "#")]);
        b.reopens(c, 1);
        b.says(c, 1, [declare("truth-q", AUTO, &[])]);
        b.says(c, 1, [bind("truth-q", "none", "#")]);
        b.reopens(c, 1);
        b.says(c, 1, [bind("truth-q", "", "#")]);
        b.reopens(c, 1);
        b.says(c, 1, [consume("none", "t", false, false)]);
        b.reopens(c, 1);
        b.says(c, 1, [get("none")]);
        b.reopens(c, 1);
        b.says(c, 1, [ack(77, false)]);
        b.reopens(c, 1);
        b.says(c, 1, [delete("truth-q")]);
    });
}

#[test]
fn what_is_not_there_can_be_deleted_and_unbound() {
    both("not there", |b| {
        let c = b.connect();
        b.says(c, 1, [delete("none"), unbind("none", "amq.topic", "x"), delete_if_unused("none")]);
        b.says(c, 1, [declare("truth-unbind", EXCLUSIVE, &[]), unbind("truth-unbind", "amq.topic", "x")]);
        b.says(c, 1, [declare("truth-unbind", EXCLUSIVE, &[]), passive("truth-unbind")]);
    });
}

#[test]
fn a_declare_that_differs() {
    both("differs", |b| {
        let c = b.connect();
        let expires = |ms| ("x-expires", AMQPValue::LongLongInt(ms));
        let active = ("x-single-active-consumer", AMQPValue::Boolean(true));
        let [a, z] = ["truth-a", "truth-z"];
        b.says(c, 1, [declare(a, AUTO, &[expires(60_000)]), declare(a, AUTO, &[expires(60_000)])]);
        for other in [
            declare(a, DURABLE, &[expires(60_000)]),
            declare(a, DURABLE, &[expires(70_000), active.clone()]),
            declare(a, AUTO, &[expires(70_000)]),
            declare(a, AUTO, &[]),
            declare(a, AUTO, &[expires(60_000), active]),
            declare(a, TRANSIENT, &[expires(60_000)]),
            declare(a, EXCLUSIVE, &[expires(60_000)]),
        ] {
            b.says(c, 1, [other]);
            b.reopens(c, 1);
        }
        b.says(c, 1, [declare(z, DURABLE, &[]), declare(z, DURABLE, &[("x-queue-type", text("classic"))])]);
        b.says(c, 1, [declare(z, DURABLE, &[("x-max-length", AMQPValue::LongLongInt(1))])]);
        b.reopens(c, 1);
        b.says(c, 1, [delete(a), delete(z)]);
    });
}

#[test]
fn an_exclusive_queue_is_its_owner_s() {
    both("exclusive queue", |b| {
        let (owner, other) = (b.connect(), b.connect());
        b.says(owner, 1, [declare("truth-own", EXCLUSIVE, &[])]);
        for attempt in [
            passive("truth-own"),
            declare("truth-own", EXCLUSIVE, &[]),
            declare("truth-own", DURABLE, &[]),
            delete("truth-own"),
            bind("truth-own", "amq.topic", "x"),
            consume("truth-own", "t", false, false),
            get("truth-own"),
        ] {
            b.says(other, 1, [attempt]);
            b.reopens(other, 1);
        }
        b.says(owner, 0, [say::goodbye()]);
        b.says(other, 1, [passive("truth-own")]);
    });
}

#[test]
fn one_consumer_alone() {
    both("exclusive consumer", |b| {
        let (first, second) = (b.connect(), b.connect());
        b.says(first, 1, [declare("truth-one", AUTO, &[])]);
        b.says(first, 2, [consume("truth-one", "t", true, true)]);
        b.says(second, 1, [consume("truth-one", "t", true, true)]);
        b.says(second, 2, [consume("truth-one", "t", true, false)]);
        b.says(first, 3, [consume("truth-one", "again", true, false)]);
        b.says(second, 3, [delete_if_unused("truth-one")]);
        b.reopens(second, 3);
        b.says(second, 3, [passive("truth-one")]);
        b.says(first, 2, [cancel("t")]);
        b.says(second, 3, [passive("truth-one")]);
        b.says(first, 1, [declare("truth-two", DURABLE, &[SINGLE_ACTIVE])]);
        b.says(first, 2, [consume("truth-two", "t", false, true)]);
        b.says(first, 1, [delete("truth-two")]);
    });
}

/// A claim goes to the connection that has the lock, and comes back when that has gone.
#[test]
fn a_newcomer_waits_for_the_lock() {
    for politely in [true, false] {
        both("lock", |b| {
            let (old, new) = (b.connect(), b.connect());
            takes_lock(b, old, "truth-lock", "lock");
            b.says(old, 1, [ack(1, false)]);
            takes_lock(b, new, "truth-lock", "lock");
            b.says(new, 2, [passive("truth-lock")]);
            if politely {
                b.says(old, 1, [cancel("lock")]);
                // Another one waits, so it stays.
                b.says(old, 1, [delete_if_unused("truth-lock")]);
                b.says(old, 0, [say::goodbye()]);
            } else {
                b.loses(old);
            }
            b.says(new, 1, [ack(1, false)]);
            b.says(new, 1, [cancel("lock")]);
            b.says(new, 1, [delete_if_unused("truth-lock")]);
            b.says(new, 2, [passive("truth-lock")]);
        });
    }
}

/// Whoever has it is told, and so is who takes it, of the place in line that goes with the queue.
#[test]
fn a_newcomer_takes_the_lock_by_force() {
    both("lock by force", |b| {
        let (old, new, lock) = (b.connect(), b.connect(), "truth-force");
        takes_lock(b, old, lock, "lock");
        b.says(old, 1, [ack(1, false)]);
        takes_lock(b, new, lock, "lock");
        b.says(new, 1, [delete(lock)]);
        takes_lock(b, new, lock, "lock1");
        b.says(old, 1, [ack(2, false)]);
        b.says(new, 1, [ack(1, false), passive(lock)]);
        b.says(new, 1, [delete(lock)]);
    });
}

/// In one flight, with a claim behind it.
fn takes_lock(b: &mut Both, connection: usize, lock: &str, tag: &str) {
    let expires = ("x-expires", AMQPValue::LongLongInt(10_000));
    let steps = [declare(lock, DURABLE, &[expires, SINGLE_ACTIVE]), consume_in_line(lock, tag)];
    let mut bytes: Vec<u8> = steps.into_iter().flat_map(|step| write::method(1, step)).collect();
    bytes.extend(write::method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(to("", lock)))));
    bytes.extend(write::header(1, 0, say::mode(1)));
    b.sends(connection, &bytes);
}

#[test]
fn a_session_goes_to_who_waits_in_line_with_what_was_not_acknowledged_first() {
    for politely in [true, false] {
        both("single active consumer", |b| {
            let (publisher, old, new) = (b.connect(), b.connect(), b.connect());
            b.says(publisher, 1, [declare("truth-line", DURABLE, &[SINGLE_ACTIVE]), confirm_select()]);
            b.says(old, 1, [say::qos(3), consume("truth-line", "qos1", false, false)]);
            for n in 0..6_u8 {
                b.publishes(publisher, 1, to("", "truth-line"), &[n]);
            }
            b.says(new, 1, [say::qos(2), consume("truth-line", "qos1", false, false)]);
            b.says(old, 1, [ack(2, false)]);
            match politely {
                true => b.says(old, 0, [say::goodbye()]),
                false => b.loses(old),
            }
            b.says(new, 1, [ack(2, true)]);
            b.says(new, 1, [ack(0, true)]);
            b.says(new, 1, [ack(0, true), passive("truth-line")]);
            b.says(new, 1, [nack(9, true)]);
            b.reopens(new, 1);
            b.says(new, 1, [delete("truth-line")]);
        });
    }
}

#[test]
fn what_comes_back_takes_its_old_place() {
    both("requeue", |b| {
        let c = b.connect();
        b.says(c, 1, [declare("truth-place", EXCLUSIVE, &[]), confirm_select()]);
        for n in 0..5_u8 {
            b.publishes(c, 1, to("", "truth-place"), &[n]);
        }
        b.says(c, 2, [get("truth-place"), get("truth-place"), get("truth-place")]);
        b.says(c, 2, [nack(2, true), get("truth-place"), nack(1, true), get("truth-place")]);
        b.says(c, 2, [nack(3, false), ack(4, false), passive("truth-place")]);
        b.says(c, 2, [say::channel_close(200, "done", (0, 0))]);
        b.says(c, 2, [say::channel_open(), get("truth-place")]);
        b.says(c, 3, [say::qos(1), consume("truth-place", "t", false, false)]);
        b.says(c, 3, [cancel("t"), ack(1, false)]);
        b.says(c, 3, [passive("truth-place"), get("truth-place"), get("truth-place")]);
    });
}

#[test]
fn a_will_is_sent_when_its_holder_ends_and_not_when_its_queue_is_deleted() {
    let ends: [fn(&mut Both, usize); 7] = [
        |b, holder| b.loses(holder),
        |b, holder| b.says(holder, 0, [say::goodbye()]),
        |b, holder| b.says(holder, 1, [say::channel_close(200, "done", (0, 0))]),
        |b, holder| {
            b.says(holder, 1, [delete("truth-will")]);
            b.loses(holder);
        },
        |b, holder| {
            // Another in its place: the old one counts until it is committed.
            let publish = to("", "truth-will");
            b.says(holder, 1, [ack(1, false)]);
            b.publishes(holder, 1, publish, b"another");
            b.loses(holder);
        },
        |b, holder| {
            // Sent by its holder, which knows so when the queue is gone.
            b.says(holder, 1, [nack(1, false), tx_commit()]);
            b.says(holder, 1, [delete("truth-will")]);
            b.loses(holder);
        },
        |b, holder| {
            b.says(holder, 1, [nack(1, false), tx_rollback()]);
            b.says(holder, 1, [delete("truth-will")]);
            b.loses(holder);
        },
    ];
    for end in ends {
        both("will", |b| {
            let (holder, subscriber) = (b.connect(), b.connect());
            b.says(
                subscriber,
                1,
                [declare("truth-sub", EXCLUSIVE, &[]), bind("truth-sub", "amq.topic", "truth.will")],
            );
            b.says(subscriber, 1, [consume("truth-sub", "t", true, false)]);
            let arguments = [
                ("x-message-ttl", AMQPValue::LongLongInt(0)),
                ("x-dead-letter-exchange", text("amq.topic")),
                ("x-dead-letter-routing-key", text("truth.will")),
            ];
            b.says(holder, 1, [tx_select(), declare("truth-will", DURABLE, &arguments)]);
            b.says(holder, 1, [consume("truth-will", "will", false, true)]);
            b.publishes(holder, 1, to("", "truth-will"), b"last words");
            b.says(holder, 1, [tx_commit()]);
            end(b, holder);
            b.says(subscriber, 2, [delete("truth-will")]);
        });
    }
}

#[test]
fn a_will_that_is_renewed_is_sent_once() {
    both("renewed will", |b| {
        let (holder, subscriber) = (b.connect(), b.connect());
        b.says(
            subscriber,
            1,
            [declare("truth-sub2", EXCLUSIVE, &[]), bind("truth-sub2", "amq.topic", "truth.will2")],
        );
        b.says(subscriber, 1, [consume("truth-sub2", "t", true, false)]);
        let arguments = [
            ("x-message-ttl", AMQPValue::LongLongInt(0)),
            ("x-dead-letter-exchange", text("amq.topic")),
            ("x-dead-letter-routing-key", text("truth.will2")),
        ];
        b.says(holder, 1, [tx_select(), declare("truth-will2", DURABLE, &arguments)]);
        b.says(holder, 1, [consume("truth-will2", "will", false, true)]);
        b.publishes(holder, 1, to("", "truth-will2"), b"old");
        b.says(holder, 1, [tx_commit()]);
        b.says(holder, 1, [ack(1, false)]);
        b.publishes(holder, 1, to("", "truth-will2"), b"new");
        b.says(holder, 1, [tx_commit()]);
        b.says(holder, 0, [say::goodbye()]);
        b.says(subscriber, 2, [delete("truth-will2")]);
        // Without anybody to take it, it is dead on arrival.
        b.says(subscriber, 2, [declare("truth-will2", DURABLE, &arguments)]);
        b.publishes(subscriber, 2, to("", "truth-will2"), b"nobody");
        b.says(subscriber, 2, [delete("truth-will2")]);
    });
}

#[test]
fn a_transaction_that_is_rolled_back_has_not_been() {
    both("rollback", |b| {
        let c = b.connect();
        b.says(c, 2, [declare("truth-tx", EXCLUSIVE, &[]), confirm_select()]);
        b.publishes(c, 2, to("", "truth-tx"), b"before");
        b.says(c, 1, [tx_select(), get("truth-tx")]);
        b.says(c, 1, [ack(1, false)]);
        b.publishes(c, 1, to("", "truth-tx"), b"undone");
        b.says(c, 1, [tx_rollback(), tx_commit()]);
        b.says(c, 2, [passive("truth-tx"), get("truth-tx")]);
        b.says(c, 1, [ack(1, false)]);
        b.says(c, 1, [tx_commit(), ack(1, false)]);
    });
}

#[test]
fn what_goes_nowhere_comes_back_and_is_confirmed() {
    both("mandatory", |b| {
        let c = b.connect();
        b.says(c, 1, [confirm_select()]);
        b.publishes(c, 1, mandatory("", "none"), b"nowhere");
        b.publishes(c, 1, to("", "none"), b"nowhere");
        b.publishes(c, 1, mandatory("amq.topic", "truth.nowhere"), b"nowhere");
        b.says(
            c,
            2,
            [
                declare("truth-sink", EXCLUSIVE, &[MAX_LENGTH_0]),
                bind("truth-sink", "amq.direct", "truth.key"),
            ],
        );
        b.publishes(c, 1, mandatory("amq.direct", "truth.key"), b"somewhere");
        b.publishes(c, 1, mandatory("amq.direct", "truth.key2"), b"nowhere");
        b.says(c, 2, [passive("truth-sink"), consume("truth-sink", "t", true, false)]);
        b.publishes(c, 1, mandatory("", "truth-sink"), b"taken");
        b.publishes(c, 1, to("none", "x"), b"refused");
    });
}

#[test]
fn topics_match() {
    both("topics", |b| {
        let c = b.connect();
        let keys = ["a", "a.b", "a.b.c", "a..c", ".", "", "b", ".a", "a.", "$x.a", "a.c"];
        for binding in [
            "#", "*", "a", "a.b", "a.*", "a.#", "#.c", "a.#.c", "#.#", "*.#", "*.b.#", "", ".", "*.*",
            "$x.#", "#.a.#",
        ] {
            b.says(
                c,
                1,
                [declare("truth-topics", EXCLUSIVE, &[]), bind("truth-topics", "amq.topic", binding)],
            );
            b.says(c, 1, [consume("truth-topics", "t", true, false)]);
            for key in keys {
                // Returned, or delivered.
                b.publishes(c, 2, mandatory("amq.topic", key), binding.as_bytes());
            }
            b.says(c, 1, [unbind("truth-topics", "amq.topic", binding)]);
            b.publishes(c, 2, mandatory("amq.topic", "a"), b"unbound");
            b.says(c, 1, [delete("truth-topics")]);
        }
    });
}

#[test]
fn a_queue_that_is_full_forgets_the_oldest() {
    both("max length", |b| {
        let c = b.connect();
        b.says(
            c,
            1,
            [
                declare("truth-full", EXCLUSIVE, &[("x-max-length", AMQPValue::LongLongInt(2))]),
                confirm_select(),
            ],
        );
        for n in 0..4_u8 {
            b.publishes(c, 1, to("", "truth-full"), &[n]);
        }
        b.says(c, 2, [get("truth-full"), get("truth-full"), get("truth-full")]);
        // What is not acknowledged does not count, until it comes back.
        for n in 4..6_u8 {
            b.publishes(c, 1, to("", "truth-full"), &[n]);
        }
        b.says(c, 2, [nack(2, true), get("truth-full"), get("truth-full"), get("truth-full")]);
    });
}

#[test]
fn a_consumer_gets_no_more_than_it_may_hold() {
    both("prefetch", |b| {
        let c = b.connect();
        b.says(c, 1, [declare("truth-pre", EXCLUSIVE, &[]), confirm_select()]);
        b.says(c, 2, [say::qos(2), consume("truth-pre", "t", false, false)]);
        for n in 0..5_u8 {
            b.publishes(c, 1, to("", "truth-pre"), &[n]);
        }
        b.says(c, 2, [ack(2, false)]);
        b.says(c, 2, [ack(1, false)]);
        b.says(c, 2, [ack(4, true)]);
        b.says(c, 1, [delete("truth-pre")]);
        b.says(c, 2, [ack(5, false), say::flow(true)]);
    });
}

#[test]
fn members_of_a_group_take_turns() {
    both("group", |b| {
        let (one, two) = (b.connect(), b.connect());
        b.says(one, 1, [declare("truth-group", DURABLE, &[]), confirm_select()]);
        b.says(one, 2, [consume("truth-group", "t", true, false)]);
        b.says(two, 2, [say::qos(1), consume("truth-group", "t", false, false)]);
        for n in 0..6_u8 {
            b.publishes(one, 1, to("", "truth-group"), &[n]);
        }
        b.says(one, 2, [cancel("t")]);
        b.publishes(one, 1, to("", "truth-group"), b"waits");
        b.says(two, 2, [ack(1, false)]);
        b.says(one, 1, [delete("truth-group")]);
    });
}

#[test]
fn what_was_said_before_close_is_done() {
    both("close", |b| {
        let (c, other) = (b.connect(), b.connect());
        b.says(other, 1, [declare("truth-late", EXCLUSIVE, &[]), consume("truth-late", "t", true, false)]);
        let mut bytes = Vec::new();
        for n in 0..3_u8 {
            let method = AMQPClass::Basic(basic::AMQPMethod::Publish(to("", "truth-late")));
            bytes.extend(support::scripted_broker::method(1, method));
            bytes.extend(support::scripted_broker::header(1, 1, say::mode(1)));
            bytes.extend(support::scripted_broker::body(1, &[n]));
        }
        bytes.extend(support::scripted_broker::method(0, say::goodbye()));
        b.sends(c, &bytes);
    });
}

#[test]
fn what_ends_a_connection() {
    for (channel, method) in
        [(2, say::channel_open()), (9, passive("none")), (1, consume("truth-530", "t", true, false))]
    {
        both("connection error", |b| {
            let c = b.connect();
            b.says(c, 1, [declare("truth-530", EXCLUSIVE, &[]), consume("truth-530", "t", true, false)]);
            b.says(c, channel, [method.clone()]);
        });
    }
}

#[test]
fn queues_expire_when_nobody_uses_them() {
    both("expiry", |b| {
        let c = b.connect();
        let expires = ("x-expires", AMQPValue::LongLongInt(1_000));
        b.says(
            c,
            1,
            [
                declare("truth-old", DURABLE, std::slice::from_ref(&expires)),
                declare("truth-used", DURABLE, std::slice::from_ref(&expires)),
            ],
        );
        b.says(c, 2, [consume("truth-used", "t", true, false)]);
        b.waits(600);
        // Asking is use.
        b.says(c, 1, [passive("truth-old")]);
        b.waits(600);
        b.says(c, 1, [passive("truth-old")]);
        b.waits(1_600);
        b.says(c, 1, [passive("truth-used"), passive("truth-old")]);
        b.says(c, 2, [cancel("t")]);
        b.waits(1_600);
        b.says(c, 3, [passive("truth-used")]);
    });
}

#[test]
fn a_silent_connection_is_gone_after_two_to_three_heartbeats() {
    both("heartbeat", |b| {
        let (silent, other) = (b.connect_with_heartbeat(1), b.connect());
        b.says(silent, 1, [declare("truth-silent", AUTO, &[])]);
        b.says(silent, 2, [consume("truth-silent", "t", true, true)]);
        b.waits(1_500);
        b.says(other, 1, [passive("truth-silent")]);
        b.waits(3_000);
        b.says(other, 1, [passive("truth-silent")]);
    });
}
