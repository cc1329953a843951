//! `$share/group/filter`: one queue for all members, whoever they are.

use crate::both;
use amq_protocol::protocol::{AMQPClass, basic, queue};
use support::{methods::*, packets::*, scripted_broker, talk::Talk};

/// The queue of group `g` and filter `a/#`.
fn group() -> String {
    group_queue("g", "a.#")
}

fn filter() -> &'static str {
    "$share/g/a/#"
}

/// The client is a member at a QoS; its consumer has this tag.
fn joined(t: &mut Talk, qos: u8, tag: &str) {
    t.client(subscribe(1, &[(filter(), qos)]));
    t.expect_all(TOPOLOGY, [declare_group(&group()), bind_queue(&group(), "a.#")]);
    t.expect_silence();
    t.reply(TOPOLOGY, declared(&group(), 3));
    t.expect_silence();
    t.reply(TOPOLOGY, bind_ok());
    t.expect(CONSUME, consume_queue(&group(), tag, qos == 0, false));
    t.hears_nothing();
    t.reply(CONSUME, consumed(tag));
    t.hears(suback(1, &[qos.min(1)]));
    t.expect_silence();
}

/// A message from the group's queue.
fn deliver_shared(t: &mut Talk, tag: &str, delivery_tag: u64, routing_key: &str, payload: &[u8]) {
    let method = AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
        consumer_tag: tag.into(),
        delivery_tag,
        redelivered: false,
        exchange: "amq.topic".into(),
        routing_key: routing_key.into(),
    }));
    let content = scripted_broker::header(CONSUME, payload.len() as u64, mode(2));
    let body = scripted_broker::body(CONSUME, payload);
    t.broker([scripted_broker::method(CONSUME, method), content, body].concat());
}

/// Whether a method is about the group's queue.
fn is_about_group(method: &AMQPClass) -> bool {
    use queue::AMQPMethod as Q;
    let queue = match method {
        AMQPClass::Queue(Q::Declare(it)) => &it.queue,
        AMQPClass::Queue(Q::Bind(it)) => &it.queue,
        AMQPClass::Queue(Q::Delete(it)) => &it.queue,
        AMQPClass::Basic(basic::AMQPMethod::Consume(it)) => &it.queue,
        _ => return false,
    };
    queue.as_str() == group()
}

#[test]
fn a_member_consumes_the_group_s_queue_beside_the_others() {
    for (qos, packet) in
        [(0, publish(0, 0, "a/b", b"x")), (1, publish(1, 1, "a/b", b"x")), (2, publish(1, 1, "a/b", b"x"))]
    {
        both("{}", |t| {
            t.log_in();
            joined(t, qos, "share0");
            deliver_shared(t, "share0", 1, "a.b", b"x");
            t.hears(&packet);
            t.expect_silence();
            if qos > 0 {
                t.client(puback(1));
                t.expect(CONSUME, ack(1, false));
            }
        });
    }
}

#[test]
fn groups_and_filters_have_a_queue_each() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(1, &[("$share/g/a", 1), ("$share/h/a", 1), ("$share/g/+", 1)]));
        for (group, key) in [("g", "a"), ("h", "a"), ("g", "*")] {
            let queue = group_queue(group, key);
            t.expect_all(TOPOLOGY, [declare_group(&queue), bind_queue(&queue, key)]);
        }
        t.expect_silence();
    });
}

#[test]
fn a_member_that_subscribes_again_consumes_once() {
    both("{}", |t| {
        t.log_in();
        joined(t, 1, "share0");
        t.client(subscribe(2, &[(filter(), 1)]));
        t.expect(TOPOLOGY, bind_queue(&group(), "a.#"));
        t.expect_silence();
        t.reply(TOPOLOGY, bind_ok());
        t.hears(suback(2, &[1]));
        t.expect_silence();
    });
}

#[test]
fn the_last_member_to_leave_deletes_the_queue() {
    for others in [0, 1] {
        both("{}", |t| {
            t.log_in();
            joined(t, 1, "share0");
            t.client(unsubscribe(2, &[filter()]));
            t.expect(CONSUME, cancel_consumer("share0", false));
            t.expect_silence();
            t.hears_nothing();
            t.reply(CONSUME, cancelled("share0"));
            t.hears(unsuback(2));
            t.expect(TOPOLOGY, look_for(&group()));
            t.reply(TOPOLOGY, declared(&group(), others));
            if others == 0 {
                // Should one come between, it stays.
                t.expect(TOPOLOGY, delete_queue(&group(), true));
                t.reply(TOPOLOGY, channel_close(406, "PRECONDITION_FAILED - queue in use", (50, 40)));
                t.expect(TOPOLOGY, channel_close_ok());
            }
            t.expect_silence();
            t.stays_open();
        });
    }
}

/// The queue answers basic.cancel, not the channel, and another queue may be faster.
#[test]
fn cancel_ok_comes_behind_what_was_asked_later() {
    both("{}", |t| {
        t.log_in();
        joined(t, 1, "share0");
        t.client_at_once([unsubscribe(2, &[filter()]), subscribe(3, &[("b", 0)])].concat());
        t.expect(CONSUME, cancel_consumer("share0", false));
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.reply(CONSUME, consume_ok(0));
        t.stays_open();
        t.hears_nothing();
        t.reply(CONSUME, cancelled("share0"));
        t.hears([unsuback(2), suback(3, &[0])].concat());
    });
}

#[test]
fn a_queue_that_is_gone_when_the_last_member_looks_for_it() {
    both("{}", |t| {
        t.log_in();
        joined(t, 1, "share0");
        t.client(unsubscribe(2, &[filter()]));
        t.reply(CONSUME, cancelled("share0"));
        t.reply(TOPOLOGY, channel_close(404, "NOT_FOUND", (50, 10)));
        t.hears(unsuback(2));
        t.expect(CONSUME, cancel_consumer("share0", false));
        t.expect_all(TOPOLOGY, [look_for(&group()), channel_close_ok()]);
        t.expect_silence();
        t.stays_open();
    });
}

/// Deliveries that are on their way are still the old consumer's, and acknowledged as such.
#[test]
fn another_qos_is_another_consumer() {
    both("{}", |t| {
        t.log_in();
        joined(t, 0, "share0");
        t.client(subscribe(2, &[(filter(), 1)]));
        t.expect(CONSUME, cancel_consumer("share0", false));
        t.expect_all(TOPOLOGY, [declare_group(&group()), bind_queue(&group(), "a.#")]);
        t.expect_silence();
        deliver_shared(t, "share0", 1, "a.b", b"late");
        t.hears(publish(0, 0, "a/b", b"late"));
        t.expect_silence();
        t.replies(TOPOLOGY, [declared(&group(), 1), bind_ok()]);
        t.expect(CONSUME, consume_queue(&group(), "share1", false, false));
        t.reply(CONSUME, cancelled("share0"));
        // It is not left: nobody looks whether it is still used.
        t.expect_silence();
        t.hears_nothing();
        t.reply(CONSUME, consumed("share1"));
        t.hears(suback(2, &[1]));
        deliver_shared(t, "share1", 2, "a.b", b"x");
        t.hears(publish(1, 1, "a/b", b"x"));
        // And back.
        t.client(subscribe(3, &[(filter(), 0)]));
        t.expect(CONSUME, cancel_consumer("share1", false));
        deliver_shared(t, "share1", 3, "a.b", b"y");
        t.hears(publish(1, 2, "a/b", b"y"));
        t.reply(CONSUME, cancelled("share1"));
        t.agree();
        t.hears(suback(3, &[0]));
        t.client([puback(1), puback(2)].concat());
        t.expect_all(CONSUME, [ack(2, false), ack(3, false)]);
        deliver_shared(t, "share0", 4, "a.b", b"z");
        t.hears(publish(0, 0, "a/b", b"z"));
        t.client(unsubscribe(4, &[filter()]));
        t.expect(CONSUME, cancel_consumer("share0", false));
        t.expect_silence();
        t.reply(CONSUME, cancelled("share0"));
        t.hears(unsuback(4));
    });
}

#[test]
fn leaving_and_joining_again_while_nothing_is_answered() {
    // Each is answered, in order, and what was asked last holds.
    for (packets, member) in [
        (vec![subscribe(1, &[(filter(), 1)]), unsubscribe(2, &[filter()])], false),
        (
            vec![subscribe(1, &[(filter(), 1)]), unsubscribe(2, &[filter()]), subscribe(3, &[(filter(), 1)])],
            true,
        ),
        (
            vec![subscribe(1, &[(filter(), 0)]), subscribe(2, &[(filter(), 1)]), unsubscribe(3, &[filter()])],
            false,
        ),
        (
            vec![
                subscribe(1, &[(filter(), 0)]),
                subscribe(2, &[(filter(), 1)]),
                subscribe(3, &[(filter(), 0)]),
            ],
            true,
        ),
    ] {
        for connect in [connect("c"), connect(""), connect_kept("c")] {
            both("{}", |t| {
                t.client_at_once([connect.clone(), packets.concat()].concat());
                let consumed = t.agree();
                let answers = packets.iter().map(|packet| match packet[0] {
                    0x82 => suback(u16::from_be_bytes([packet[2], packet[3]]), &[packet[packet.len() - 1]]),
                    _ => unsuback(u16::from_be_bytes([packet[2], packet[3]])),
                });
                t.hears([connack(0)].into_iter().chain(answers).collect::<Vec<_>>().concat());
                assert_eq!(t.broker.consumers_of(&group()), usize::from(member), "{consumed:?}");
                t.stays_open();
            });
        }
    }
}

/// With more steps than are asked at once, so that a cancellation waits while the queue is there already.
#[test]
fn joining_again_behind_many_other_requests() {
    both("{}", |t| {
        t.log_in();
        let others: Vec<(String, u8)> = (0..40).map(|n| (format!("other/{n}"), 0)).collect();
        let others: Vec<(&str, u8)> = others.iter().map(|(filter, qos)| (filter.as_str(), *qos)).collect();
        let mut packets = vec![subscribe(1, &[(filter(), 1)]), subscribe(2, &others)];
        packets.extend([unsubscribe(3, &[filter()]), subscribe(4, &[(filter(), 1)])]);
        t.client_at_once(packets.concat());
        t.agree();
        t.hears([suback(1, &[1]), suback(2, &[0; 40]), unsuback(3), suback(4, &[1])].concat());
        assert_eq!(t.broker.consumers_of(&group()), 1);
        t.stays_open();
    });
}

/// Other members may have bound it to what this client may not read.
#[test]
fn a_refused_binding_is_no_membership() {
    both("{}", |t| {
        t.log_in();
        t.broker.refuse(1, (403, "ACCESS_REFUSED"), |_, method| {
            is_about_group(method) && matches!(method, AMQPClass::Queue(queue::AMQPMethod::Bind(_)))
        });
        t.client_at_once([subscribe(1, &[(filter(), 1), ("b", 0)]), subscribe(2, &[(filter(), 1)])].concat());
        let told = t.agree();
        t.hears([suback(1, &[0x80, 0]), suback(2, &[0x80])].concat());
        assert_eq!(t.broker.consumers_of(&group()), 0, "{told:?}");
        // It is not left behind either.
        let delete = amq_protocol::frame::AMQPFrame::Method(TOPOLOGY, delete_queue(&group(), true));
        assert!(told.contains(&delete), "{told:?}");
        t.stays_open();
    });
}

/// One that is a member already stays it.
#[test]
fn a_binding_refused_later_is_one_return_code() {
    both("{}", |t| {
        t.log_in();
        joined(t, 1, "share0");
        t.client(subscribe(2, &[(filter(), 1)]));
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 20)));
        t.hears(suback(2, &[0x80]));
        t.expect(TOPOLOGY, bind_queue(&group(), "a.#"));
        t.expect(TOPOLOGY, channel_close_ok());
        t.expect_silence();
        deliver_shared(t, "share0", 1, "a.b", b"x");
        t.hears(publish(1, 1, "a/b", b"x"));
    });
}

#[test]
fn a_refused_queue_is_the_refusal_of_its_members() {
    both("{}", |t| {
        t.log_in();
        t.broker.refuse(1, (403, "ACCESS_REFUSED"), |_, method| is_about_group(method));
        t.client(subscribe(1, &[(filter(), 1), ("b", 0)]));
        t.agree();
        t.hears(suback(1, &[0x80, 0]));
        t.client(subscribe(2, &[(filter(), 1)]));
        t.agree();
        t.hears(suback(2, &[1]));
    });
}

/// Of a member with another `subscription_ttl`.
#[test]
fn a_queue_of_another_shape_is_taken_as_it_is() {
    for connect in [connect("c"), connect_kept("c")] {
        both("{}", |t| {
            t.broker.refuse(1, (406, "PRECONDITION_FAILED - inequivalent arg 'x-expires'"), |_, method| {
                is_about_group(method)
            });
            t.client([connect.clone(), subscribe(1, &[(filter(), 1)])].concat());
            t.agree();
            t.hears([connack(0), suback(1, &[1])].concat());
            assert_eq!(t.broker.consumers_of(&group()), 1);
        });
    }
}

#[test]
fn a_group_needs_a_name_and_a_filter() {
    for wrong in ["$share/", "$share/g", "$share/g/", "$share//a", "$share/g+/a", "$share/#/a", "$share/g/a+"]
    {
        both("{}", |t| {
            t.log_in();
            t.client(subscribe(1, &[(wrong, 0)]));
            t.expect(TOPOLOGY, flow(true));
            t.expect_silence();
            t.reply(TOPOLOGY, flow_ok(true));
            t.hears(suback(1, &[0x80]));
        });
    }
}

#[test]
fn a_queue_s_name_has_its_limit() {
    both("{}", |t| {
        t.log_in();
        let group = "g".repeat(255 - "mqtt-subscription-/ashare".len());
        t.client(subscribe(1, &[(&format!("$share/{group}/a"), 0), (&format!("$share/{group}g/a"), 0)]));
        t.agree();
        t.hears(suback(1, &[0, 0x80]));
    });
}

#[test]
fn so_many_groups_and_no_more() {
    both("{}", |t| {
        t.log_in();
        t.pieces_of(1 << 16);
        let filters: Vec<String> = (0..33).map(|n| format!("$share/g{n}/a")).collect();
        let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
        t.client(subscribe(1, &filters));
        t.agree();
        let mut codes = vec![0; 32];
        codes.push(0x80);
        t.hears(suback(1, &codes));
    });
}

/// To leave what one has not joined is nothing.
#[test]
fn leaving_without_having_joined() {
    both("{}", |t| {
        t.log_in();
        t.client(unsubscribe(1, &[filter()]));
        t.expect(TOPOLOGY, flow(true));
        t.reply(TOPOLOGY, flow_ok(true));
        t.hears(unsuback(1));
    });
}

/// The session may be kept, a membership is not: AMQP cannot tell which groups the client was in.
#[test]
fn a_session_that_was_kept_joins_again() {
    both("{}", |t| {
        t.broker.has_queue(KEPT[1]);
        t.client(connect_kept("c"));
        t.agree();
        t.hears(PRESENT);
        assert_eq!(t.broker.consumers_of(&group()), 0);
        t.client(subscribe(1, &[(filter(), 1)]));
        t.agree();
        t.hears(suback(1, &[1]));
        assert_eq!(t.broker.consumers_of(&group()), 1);
    });
}
