//! What a login asks of the broker for the client's session, method for method, and what it makes of the answers.

use crate::both;
use amq_protocol::protocol::{AMQPClass, basic, queue};
use support::{methods::*, packets::*, scripted_broker, talk::Talk};

const DAY: Option<i64> = Some(86_400_000);

/// Gives the answers about queues, and those about the lock, each channel's in its order, either channel first: CONNACK comes with
/// the last.
#[track_caller]
fn connack_waits_for_all(connect: &[u8], asked: fn(&mut Talk), about_queues: &[AMQPClass], connack: &[u8]) {
    for lock_first in [false, true] {
        both("{}", |t| {
            t.client(connect);
            asked(t);
            t.expect_silence();
            t.greet("RabbitMQ", "4.1.0");
            t.reply(CONNECTION, open_ok());
            let about_lock = consumers_ready()
                .into_iter()
                .map(|method| scripted_broker::method(CONSUME, method))
                .collect();
            let about_queues =
                about_queues.iter().map(|method| scripted_broker::method(TOPOLOGY, method.clone())).collect();
            let mut order: [Vec<Vec<u8>>; 2] = [about_queues, about_lock];
            order.rotate_left(usize::from(lock_first));
            for answer in order.concat() {
                t.hears_nothing();
                t.broker(answer);
            }
            t.hears(connack);
            t.stays_open();
        });
    }
}

/// The answers on the consumers' channel until the lock's consumer is there.
fn consumers_ready() -> Vec<AMQPClass> {
    [channel_open_ok(), qos_ok()].into_iter().chain(lock_taken()).collect()
}

/// The lock is had.
fn lock_granted(t: &mut Talk) {
    t.replies(CONSUME, [channel_open_ok(), qos_ok()]);
    t.grant_lock();
}

/// The next that the broker was told is what the login of `c` with a session to be kept asks.
#[track_caller]
fn expect_kept_session(t: &mut Talk) {
    t.expect_lock();
    t.expect_all(TOPOLOGY, [channel_open(), look_for(KEPT[1]), declare_kept(1, DAY), look_for(KEPT[0])]);
}

fn kept_login(t: &mut Talk) {
    t.expect_connection();
    expect_kept_session(t);
}

/// Up to the answers on the channel of queues; the lock is taken.
fn kept_until_queues(t: &mut Talk) {
    t.client(connect_kept("c"));
    kept_login(t);
    t.expect_silence();
    t.greet("RabbitMQ", "4.1.0");
    t.reply(CONNECTION, open_ok());
    lock_granted(t);
    t.reply(TOPOLOGY, channel_open_ok());
    t.hears_nothing();
}

fn missing() -> AMQPClass {
    channel_close(404, "NOT_FOUND - no queue 'mqtt-subscription-cqos1' in vhost '/'", (50, 10))
}

/// The broker has kept a session of `c` with these queues.
fn resumed(t: &mut Talk, levels: &[usize]) {
    levels.iter().for_each(|&level| t.broker.has_queue(KEPT[level]));
    t.client(connect_kept("c"));
    t.agree();
    t.hears(PRESENT);
}

fn is_lock(wanted: &'static str) -> impl Fn(u16, &AMQPClass) -> bool {
    use {basic::AMQPMethod as B, queue::AMQPMethod as Q};
    move |_, method| match method {
        AMQPClass::Queue(Q::Declare(it)) => wanted == "declare" && it.queue.as_str() == LOCK,
        AMQPClass::Basic(B::Consume(it)) => wanted == "consume" && it.queue.as_str() == LOCK,
        _ => false,
    }
}

#[test]
fn clean_takes_the_lock_and_deletes_what_was_before() {
    let asked = |t: &mut Talk| {
        t.expect_connection();
        t.expect_session();
    };
    let deleted = [channel_open_ok(), delete_ok(), delete_ok()];
    connack_waits_for_all(&connect("c"), asked, &deleted, &connack(0));
}

#[test]
fn without_an_id_of_its_own_a_client_has_nothing_to_take_over() {
    both("{}", |t| {
        t.client(connect(""));
        t.expect_connection();
        t.expect_silence();
        t.greet("RabbitMQ", "4.1.0");
        t.hears_nothing();
        t.reply(CONNECTION, open_ok());
        t.hears(connack(0));
        t.expect_silence();
    });
}

#[test]
fn a_session_that_is_new() {
    both("{}", |t| {
        kept_until_queues(t);
        t.reply(TOPOLOGY, missing());
        // What was behind was not looked at. Should the other queue have outlived the first, it is not the new session's.
        t.expect_all(TOPOLOGY, [channel_close_ok(), channel_open(), declare_kept(1, DAY), delete(0)]);
        t.expect_silence();
        t.replies(TOPOLOGY, [channel_open_ok(), declare_ok(1)]);
        t.hears_nothing();
        t.reply(TOPOLOGY, delete_ok());
        t.hears(connack(0));
        t.expect(CONSUME, consume_kept(1));
        t.expect_silence();
    });
}

#[test]
fn a_session_that_was_kept() {
    let found = [channel_open_ok(), declare_ok(1), declare_ok(1), declare_ok(0)];
    connack_waits_for_all(&connect_kept("c"), kept_login, &found, &PRESENT);
}

/// Nothing is asked for that could be delivered before CONNACK.
#[test]
fn what_was_kept_is_consumed_behind_connack() {
    for has_zero in [false, true] {
        both("{}", |t| {
            kept_until_queues(t);
            t.replies(TOPOLOGY, [declare_ok(1), declare_ok(1)]);
            t.expect_silence();
            t.hears_nothing();
            if has_zero {
                t.reply(TOPOLOGY, declare_ok(0));
            } else {
                t.reply(TOPOLOGY, missing());
                t.expect(TOPOLOGY, channel_close_ok());
            }
            t.hears(PRESENT);
            t.expect(CONSUME, consume_kept(1));
            if has_zero {
                t.expect(CONSUME, consume_kept(0));
            }
            t.expect_silence();
            t.reply(CONSUME, consume_ok(1));
            t.deliver((1, 1, true), "a", mode(2), b"kept");
            t.hears(publish_flags(0x0a, 1, "a", b"kept"));
            t.stays_open();
        });
    }
}

/// From before `subscription_ttl` was changed, or RabbitMQ's plugin's.
#[test]
fn a_session_of_another_shape_is_taken_as_it_is() {
    both("{}", |t| {
        kept_until_queues(t);
        t.reply(TOPOLOGY, declare_ok(1));
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'mqtt-subscription-cqos1' in vhost '/'";
        t.reply(TOPOLOGY, channel_close(406, text, (50, 10)));
        t.expect_all(TOPOLOGY, [channel_close_ok(), channel_open(), look_for(KEPT[0])]);
        t.expect_silence();
        t.replies(TOPOLOGY, [channel_open_ok(), declare_ok(0)]);
        t.hears(PRESENT);
        t.expect_all(CONSUME, [consume_kept(1), consume_kept(0)]);
    });
}

#[test]
fn how_long_it_is_kept_is_configured() {
    for (config, expires) in
        [(r#"{"subscription_ttl": 1000}"#, Some(1_000)), (r#"{"subscription_ttl": "undefined"}"#, None)]
    {
        both(config, |t| {
            t.client(connect_kept("c"));
            t.expect_connection();
            t.expect_lock();
            t.expect_all(TOPOLOGY, [channel_open(), look_for(KEPT[1]), declare_kept(1, expires)]);
        });
    }
}

#[test]
fn all_names_have_the_configured_prefix() {
    both(r#"{"queue_prefix": "edge."}"#, |t| {
        t.client([connect_will(1, "w", "gone"), subscribe(1, &[("$share/g/a", 0), ("b", 1)])].concat());
        let mut named = 0;
        for frame in t.agree() {
            let amq_protocol::frame::AMQPFrame::Method(_, AMQPClass::Queue(method)) = frame else { continue };
            let queue = match method {
                queue::AMQPMethod::Declare(it) => it.queue,
                queue::AMQPMethod::Delete(it) => it.queue,
                queue::AMQPMethod::Bind(it) => it.queue,
                queue::AMQPMethod::Unbind(it) => it.queue,
                _ => continue,
            };
            assert!(queue.as_str().starts_with("edge.mqtt-subscription-"), "{queue}");
            named += 1;
        }
        assert!(named >= 8, "{named}");
    });
}

#[test]
fn the_lock_is_asked_for_again() {
    for (step, code) in
        [("consume", 404), ("consume", 406), ("declare", 404), ("declare", 406), ("declare", 405)]
    {
        for connect in [connect("c"), connect_kept("c")] {
            for times in [1, 5] {
                both("{}", |t| {
                    t.broker.refuse(times, (code, "REFUSED"), is_lock(step));
                    t.client(connect.clone());
                    t.agree();
                    t.hears(connack(0));
                    t.stays_open();
                });
            }
        }
    }
}

/// All of it again, from the beginning, on a new channel.
#[test]
fn the_lock_refused_once_step_by_step() {
    both("{}", |t| {
        t.client(connect("c"));
        t.expect_connection();
        t.expect_session();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.replies(TOPOLOGY, [channel_open_ok(), delete_ok(), delete_ok()]);
        t.replies(CONSUME, [channel_open_ok(), qos_ok(), declared(LOCK, 0)]);
        t.reply(CONSUME, channel_close(404, "NOT_FOUND - no queue", (60, 20)));
        t.expect(CONSUME, channel_close_ok());
        t.expect_lock();
        t.expect_silence();
        t.hears_nothing();
        lock_granted(t);
        t.hears(connack(0));
        t.expect_silence();
    });
}

/// One that is of another shape is deleted. So is each that others have and whose user may not publish into it: it is had without a
/// claim then, whoever else consumes it.
#[test]
fn the_lock_is_taken_by_force_where_it_cannot_be_claimed() {
    let refusals = [
        (channel_close(406, "PRECONDITION_FAILED - inequivalent arg", (50, 10)), false),
        (channel_close(403, "ACCESS_REFUSED - write access to exchange ''", (60, 40)), true),
    ];
    for (refusal, is_claimed) in refusals {
        both("{}", |t| {
            t.client(connect("c"));
            t.expect_connection();
            t.expect_session();
            t.greet("RabbitMQ", "4.1.0");
            t.reply(CONNECTION, open_ok());
            t.replies(TOPOLOGY, [channel_open_ok(), delete_ok(), delete_ok()]);
            t.replies(CONSUME, [channel_open_ok(), qos_ok()]);
            if is_claimed {
                t.replies(CONSUME, lock_shared(2));
                t.expect_claim();
            }
            t.reply(CONSUME, refusal.clone());
            t.expect_all(CONSUME, [channel_close_ok(), channel_open(), qos(10)]);
            t.expect_all(CONSUME, force_lock());
            t.expect_silence();
            t.replies(
                CONSUME,
                [channel_open_ok(), qos_ok(), delete_ok(), declared(LOCK, 0), consumed("lock1")],
            );
            t.hears_nothing();
            t.reply(CONSUME, declared(LOCK, 1 + u32::from(is_claimed)));
            if !is_claimed {
                t.expect_claim();
                let claim = t.broker.claim();
                t.broker(claim);
                t.expect(CONSUME, ack(scripted_broker::CLAIM_TAG, false));
            }
            t.hears(connack(0));
            t.expect_silence();
            t.client(DISCONNECT);
            t.expect_all(CONSUME, release_lock_as("lock1"));
            t.expect(CONNECTION, goodbye());
        });
    }
}

#[test]
fn a_lock_that_cannot_be_had_is_the_end_of_a_login() {
    for (step, code, connack_kept) in [("consume", 403, 5), ("consume", 404, 3), ("declare", 406, 3)] {
        both("{}", |t| {
            t.broker.refuse(6, (code, "REFUSED"), is_lock(step));
            t.client(connect_kept("c"));
            t.agree();
            t.hears(connack(connack_kept));
            t.closes();
        });
    }
    // Without the permission to consume a clean session goes on all the same.
    for (code, clean) in [(403, 0), (404, 3)] {
        both("{}", |t| {
            t.broker.refuse(6, (code, "REFUSED"), is_lock("consume"));
            t.client(connect("c"));
            t.agree();
            t.hears(connack(clean));
        });
    }
}

/// As with RabbitMQ's plugin, a user who may have no queues can publish.
#[test]
fn a_user_without_queues_has_a_clean_session_and_no_other() {
    for step in ["declare", "consume"] {
        both("{}", |t| {
            t.broker.refuse(1, (403, "ACCESS_REFUSED"), is_lock(step));
            t.client([connect("c"), publish(1, 7, "a", b"x")].concat());
            t.agree();
            t.hears([connack(0), puback(7)].concat());
            t.stays_open();
        });
        both("{}", |t| {
            t.broker.refuse(1, (403, "ACCESS_REFUSED"), is_lock(step));
            t.client(connect_kept("c"));
            t.agree();
            t.hears(connack(5));
            t.closes();
        });
    }
}

/// And its subscriptions are refused one by one, the lock's absence notwithstanding.
#[test]
fn a_user_without_queues_is_refused_its_subscriptions() {
    both("{}", |t| {
        t.broker.refuse(99, (403, "ACCESS_REFUSED"), |_, method| matches!(method, AMQPClass::Queue(_)));
        t.client([connect("c"), subscribe(1, &[("a", 0), ("b", 1), ("$share/g/c", 1)])].concat());
        t.agree();
        t.hears([connack(0), suback(1, &[0x80; 3])].concat());
        t.client([&subscribe(2, &[("a", 0)])[..], &PINGREQ].concat());
        t.agree();
        t.hears([suback(2, &[0x80]), PINGRESP.to_vec()].concat());
    });
}

/// RabbitMQ's queue answers basic.consume, its channel what stands behind it.
#[test]
fn the_lock_s_consumer_may_be_answered_last() {
    both("{}", |t| {
        t.client(connect("c"));
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.replies(TOPOLOGY, [channel_open_ok(), delete_ok(), delete_ok()]);
        t.replies(CONSUME, [channel_open_ok(), qos_ok(), declared(LOCK, 0)]);
        t.hears_nothing();
        t.reply(CONSUME, declared(LOCK, 1));
        t.hears(connack(0));
        t.reply(CONSUME, consumed("lock"));
        t.stays_open();
    });
}

/// It is read behind CONNACK, by when it is known which queues there are.
#[test]
fn a_subscribe_behind_connect() {
    both("{}", |t| {
        t.client([connect("c"), subscribe(1, &[("a", 1)])].concat());
        t.expect_connection();
        t.expect_session();
        t.expect_silence();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
        t.hears(connack(0));
        t.expect_all(TOPOLOGY, [declare(1), bind(1, "a")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [declare_ok(1), bind_ok()]);
        t.expect(CONSUME, consume(1));
        t.reply(CONSUME, consume_ok(1));
        t.hears(suback(1, &[1]));
    });
    both("{}", |t| {
        t.client([connect_kept("c"), subscribe(1, &[("a", 0)])].concat());
        t.expect_connection();
        expect_kept_session(t);
        t.expect_silence();
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.replies(TOPOLOGY, [channel_open_ok(), missing(), channel_open_ok(), declare_ok(1)]);
        t.expect_all(TOPOLOGY, [channel_close_ok(), channel_open(), declare_kept(1, DAY), delete(0)]);
        t.reply(TOPOLOGY, delete_ok());
        t.expect_silence();
        t.hears_nothing();
        lock_granted(t);
        t.hears(connack(0));
        t.expect(CONSUME, consume_kept(1));
        t.expect_all(TOPOLOGY, [declare_kept(0, DAY), bind_kept(0, "a"), unbind_kept(1, "a")]);
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok(), unbind_ok()]);
        t.expect(CONSUME, consume_kept(0));
        t.hears_nothing();
        t.replies(CONSUME, [consume_ok(1), consume_ok(0)]);
        t.hears(suback(1, &[0]));
    });
    // Without an id of its own.
    both("{}", |t| {
        t.client([connect(""), subscribe(1, &[("a", 0)])].concat());
        t.agree();
        t.hears([connack(0), suback(1, &[0])].concat());
    });
}

#[test]
fn subscriptions_of_a_session_that_was_kept() {
    // There is a queue for QoS 1 only: nothing to unbind from the other.
    both("{}", |t| {
        resumed(t, &[1]);
        t.client_at_once([unsubscribe(1, &["a"]), subscribe(2, &[("b", 1)])].concat());
        t.expect_all(TOPOLOGY, [channel_open(), unbind_kept(1, "a"), bind_kept(1, "b")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [channel_open_ok(), unbind_ok(), bind_ok()]);
        t.hears([unsuback(1), suback(2, &[1])].concat());
    });
    // With both, a subscription at another QoS replaces the one from before. First bound, then unbound.
    both("{}", |t| {
        resumed(t, &[0, 1]);
        t.client_at_once(
            [unsubscribe(1, &["a"]), subscribe(2, &[("b", 0)]), subscribe(3, &[("c", 1)])].concat(),
        );
        t.expect_all(
            TOPOLOGY,
            [unbind_kept(0, "a"), unbind_kept(1, "a"), bind_kept(0, "b"), unbind_kept(1, "b")],
        );
        t.expect_all(TOPOLOGY, [bind_kept(1, "c"), unbind_kept(0, "c")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [unbind_ok(), unbind_ok(), bind_ok(), unbind_ok(), bind_ok(), unbind_ok()]);
        t.hears([unsuback(1), suback(2, &[0]), suback(3, &[1])].concat());
    });
}

/// The first SUBSCRIBE at QoS 0 makes the queue that the session did not have.
#[test]
fn the_queue_for_qos_0_comes_when_it_is_needed() {
    both("{}", |t| {
        resumed(t, &[1]);
        t.client(subscribe(1, &[("a", 0)]));
        t.expect_all(
            TOPOLOGY,
            [channel_open(), declare_kept(0, DAY), bind_kept(0, "a"), unbind_kept(1, "a")],
        );
        t.replies(TOPOLOGY, [channel_open_ok(), declare_ok(0)]);
        t.expect(CONSUME, consume_kept(0));
        t.reply(CONSUME, consume_ok(0));
        t.replies(TOPOLOGY, [bind_ok(), unbind_ok()]);
        t.hears(suback(1, &[0]));
    });
}

#[test]
fn disconnect_leaves_a_session_that_is_kept_alone() {
    for connect in [connect("c"), connect_kept("c")] {
        both("{}", |t| {
            t.client(connect.clone());
            t.agree();
            t.hears(connack(0));
            t.subscribe(0);
            t.client(DISCONNECT);
            t.expect_goodbye();
            t.expect_silence();
        });
    }
}
