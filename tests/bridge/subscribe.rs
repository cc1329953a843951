//! SUBSCRIBE and UNSUBSCRIBE.

use crate::both;
use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, queue},
};
use support::{methods::*, packets::*};

#[test]
fn declared_and_bound_then_consumed_then_suback() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(5, &[("a/+/b", 0), ("x/#", 1)]));
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a.*.b"), declare(1), bind(1, "x.#")]);
        // Should the filter be among those of the other queue.
        t.expect(TOPOLOGY, unbind(0, "x.#"));
        t.expect_silence();
        t.reply(TOPOLOGY, declare_ok(0));
        t.expect(CONSUME, consume(0));
        t.replies(TOPOLOGY, [bind_ok(), declare_ok(1), bind_ok(), unbind_ok()]);
        t.expect(CONSUME, consume(1));
        t.expect_silence();
        t.reply(CONSUME, consume_ok(0));
        t.hears_nothing();
        t.reply(CONSUME, consume_ok(1));
        t.hears(suback(5, &[0, 1]));
        // What is there is not asked for again.
        t.client(subscribe(6, &[("y", 2)]));
        t.expect_all(TOPOLOGY, [bind(1, "y"), unbind(0, "y")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [bind_ok(), unbind_ok()]);
        t.hears(suback(6, &[1]));
    });
}

#[test]
fn suback_waits_for_the_bindings_too() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(5, &[("a", 0)]));
        t.reply(TOPOLOGY, declare_ok(0));
        t.reply(CONSUME, consume_ok(0));
        t.hears_nothing();
        t.reply(TOPOLOGY, bind_ok());
        t.hears(suback(5, &[0]));
    });
}

#[test]
fn answers_come_in_the_order_of_the_packets() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(5, &[("a", 0)]));
        t.client([unsubscribe(6, &["b"]), subscribe(7, &[("a+", 0)])].concat());
        t.hears_nothing();
        t.agree();
        t.hears([suback(5, &[0]), unsuback(6), suback(7, &[0x80])].concat());
    });
}

#[test]
fn one_filter_refused_by_the_broker_and_the_others_asked_again() {
    both("{}", |t| {
        t.log_in();
        t.client_at_once(
            [subscribe(5, &[("a", 0), ("secret", 0), ("b", 0)]), unsubscribe(6, &["z"])].concat(),
        );
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a"), bind(0, "secret"), bind(0, "b"), unbind(0, "z")]);
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.expect(CONSUME, consume(0));
        t.reply(CONSUME, consume_ok(0));
        t.hears_nothing();
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 20)));
        t.expect_all(TOPOLOGY, [channel_close_ok(), channel_open(), bind(0, "b"), unbind(0, "z")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [channel_open_ok(), bind_ok()]);
        t.hears(suback(5, &[0, 0x80, 0]));
        t.reply(TOPOLOGY, unbind_ok());
        t.hears(unsuback(6));
        t.stays_open();
    });
}

#[test]
fn each_filter_may_be_refused() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(5, &[("a", 0), ("b", 0)]));
        t.reply(TOPOLOGY, declare_ok(0));
        t.reply(CONSUME, consume_ok(0));
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 20)));
        t.reply(TOPOLOGY, channel_open_ok());
        t.hears_nothing();
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 20)));
        t.hears(suback(5, &[0x80, 0x80]));
        t.stays_open();
    });
}

#[test]
fn a_refused_queue_is_the_refusal_of_all_its_filters_and_asked_for_again() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(5, &[("a", 0), ("b", 1), ("c", 1)]));
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.reply(CONSUME, consume_ok(0));
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 10)));
        t.hears(suback(5, &[0, 0x80, 0x80]));
        while t.broker.next_frame().is_some() {}
        t.client(subscribe(6, &[("b", 1)]));
        // A channel again, since nothing was left to ask on the closed one.
        t.expect_all(TOPOLOGY, [channel_open(), declare(1), bind(1, "b"), unbind(0, "b")]);
        t.replies(TOPOLOGY, [channel_open_ok(), declare_ok(1), bind_ok(), unbind_ok()]);
        t.expect(CONSUME, consume(1));
        t.reply(CONSUME, consume_ok(1));
        t.hears(suback(6, &[1]));
        t.stays_open();
    });
}

#[test]
fn a_refused_consumer_is_the_refusal_of_its_filters() {
    both("{}", |t| {
        // Without an id of its own: there is no lock to be lost.
        t.client(connect(""));
        t.agree();
        t.hears(connack(0));
        t.client(subscribe(5, &[("a", 0)]));
        t.replies(TOPOLOGY, [channel_open_ok(), declare_ok(0), bind_ok()]);
        t.replies(CONSUME, [channel_open_ok(), qos_ok()]);
        t.reply(CONSUME, channel_close(403, "ACCESS_REFUSED", (60, 20)));
        t.hears(suback(5, &[0x80]));
        t.stays_open();
    });
}

#[test]
fn a_refused_consumer_that_takes_the_lock_with_it_ends_the_connection() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(5, &[("a", 0)]));
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.reply(CONSUME, channel_close(403, "ACCESS_REFUSED", (60, 20)));
        t.hears_nothing();
        while t.broker.next_frame().is_some_and(|frame| frame != AMQPFrame::Method(CONNECTION, goodbye())) {}
        t.reply(CONNECTION, close_ok());
        t.closes();
        assert_eq!(t.counter("closed.broker_closed"), 1);
    });
}

#[test]
fn the_consumers_channel_closed_ends_the_connection() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(1);
        t.reply(CONSUME, channel_close(406, "PRECONDITION_FAILED - unknown delivery tag 3", (60, 80)));
        t.expect_all(CONSUME, [channel_close_ok(), channel_open(), qos(10)]);
        t.expect_goodbye();
        assert_eq!(t.counter("closed.broker_closed"), 1);
    });
}

#[test]
fn another_qos_replaces_first_bound_then_unbound() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(1, &[("a", 0), ("b", 1)]));
        t.agree();
        t.hears(suback(1, &[0, 1]));
        for (id, level) in [(2, 1), (3, 0)] {
            t.client(subscribe(id, &[("a", level as u8)]));
            t.expect_all(TOPOLOGY, [bind(level, "a"), unbind(1 - level, "a")]);
            t.expect_silence();
            t.reply(TOPOLOGY, bind_ok());
            t.hears_nothing();
            t.reply(TOPOLOGY, unbind_ok());
            t.hears(suback(id, &[level as u8]));
        }
    });
}

#[test]
fn a_filter_that_cannot_be_is_refused_without_asking() {
    let long = "x".repeat(256);
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(5, &[("a+", 0), ("#b", 1), ("a/b#", 2), (&long, 0)]));
        // A round trip to ride on, and nothing else.
        t.expect(TOPOLOGY, flow(true));
        t.expect_silence();
        t.hears_nothing();
        t.reply(TOPOLOGY, flow_ok(true));
        t.hears(suback(5, &[0x80; 4]));
    });
}

#[test]
fn unsubscribe_unbinds_every_queue_there_is() {
    both("{}", |t| {
        t.log_in();
        t.client(unsubscribe(1, &["a"]));
        t.expect(TOPOLOGY, flow(true));
        t.reply(TOPOLOGY, flow_ok(true));
        t.hears(unsuback(1));
        t.client(subscribe(2, &[("a", 0), ("b", 1)]));
        t.agree();
        t.hears(suback(2, &[0, 1]));
        t.client(unsubscribe(3, &["a", "b/+", "a+"]));
        t.expect_all(TOPOLOGY, [unbind(0, "a"), unbind(1, "a"), unbind(0, "b.*"), unbind(1, "b.*")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [unbind_ok(), unbind_ok(), unbind_ok()]);
        t.hears_nothing();
        t.reply(TOPOLOGY, unbind_ok());
        t.hears(unsuback(3));
    });
}

#[test]
fn prefetch_is_basic_qos() {
    both(r#"{"prefetch": 3}"#, |t| {
        t.client(connect("c"));
        t.expect_protocol_header();
        t.expect_start_ok();
        t.expect_all(CONNECTION, [tune_ok(131_072, 30), open("/")]);
        t.expect_all(CONSUME, [channel_open(), qos(3)]);
    });
}

#[test]
fn a_queue_that_is_deleted_ends_the_connection() {
    both("{}", |t| {
        t.log_in();
        t.subscribe(1);
        t.reply(CONSUME, cancel(1));
        t.expect_goodbye();
        t.reply(CONNECTION, close_ok());
        t.closes();
        t.hears_nothing();
        assert_eq!(t.counter("closed.broker_closed"), 1);
    });
}

/// Filters of one packet, named by their number.
fn many(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("f/{n}")).collect()
}

/// Everything that is awaited takes memory: so many filters wait for the broker, and the rest of the packet for them.
#[test]
fn of_a_packet_of_5000_filters_a_few_wait_at_a_time() {
    let names = many(5_000);
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 0)).collect();
    both("{}", |t| {
        t.log_in();
        t.pieces_of(1 << 20);
        t.client(subscribe(1, &filters));
        let mut bound = 0;
        let (mut most, mut packets) = (0, 0);
        loop {
            most = most.max(t.broker.heard().len());
            let Some(frame) = t.broker.next_frame() else { break };
            bound += usize::from(matches!(
                frame,
                AMQPFrame::Method(TOPOLOGY, AMQPClass::Queue(queue::AMQPMethod::Bind(_)))
            ));
            let answer = t.broker.obvious_answer(&frame);
            t.broker_at_once(answer);
            packets += 1;
        }
        assert_eq!(bound, 5_000, "of {packets}");
        assert!(most <= 40, "asked at once: {most}");
        t.hears(suback(1, &[0; 5_000]));
        t.stays_open();
        assert_eq!(t.counter("closed.limit"), 0);
    });
}

/// Nothing is asked but for a round trip, in which others have their turn.
#[test]
fn of_5000_filters_none_may_be_permitted() {
    let names = many(5_000);
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 0)).collect();
    both(r#"{"subscribe": {"allow": ["other/#"]}}"#, |t| {
        t.log_in();
        t.pieces_of(1 << 20);
        t.client_at_once([&subscribe(1, &filters)[..], &PINGREQ].concat());
        let told = t.agree();
        let others =
            told.iter().filter(|frame| !matches!(frame, AMQPFrame::Method(_, it) if *it == flow(true)));
        assert_eq!(others.count(), 0, "{told:?}");
        let mut heard = t.take_heard();
        assert!(heard.len() > 5_000, "{}", heard.len());
        // PINGRESP has a turn of its own.
        let at = heard.windows(2).position(|it| *it == PINGRESP).expect("PINGRESP");
        heard.drain(at..at + 2);
        assert_eq!(heard, suback(1, &[0x80; 5_000]));
        t.stays_open();
    });
}

/// A second SUBSCRIBE of that kind waits for the first: nothing is closed for too many.
#[test]
fn a_packet_of_many_filters_waits_for_the_one_before() {
    let names = many(1_000);
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    both("{}", |t| {
        t.log_in();
        t.pieces_of(1 << 20);
        t.client_at_once([subscribe(1, &filters), unsubscribe(2, &texts), subscribe(3, &filters)].concat());
        t.agree();
        t.hears([suback(1, &[1; 1_000]), unsuback(2), suback(3, &[1; 1_000])].concat());
        t.stays_open();
    });
}

/// What is published behind SUBSCRIBE finds the subscription.
#[test]
fn a_publish_waits_for_suback() {
    for (request, is_done) in
        [(subscribe(1, &[("a", 0)]), suback(1, &[0])), (unsubscribe(1, &["#"]), unsuback(1))]
    {
        for qos in 0..3 {
            both("{}", |t| {
                t.log_in();
                t.client(subscribe(9, &[("b", 0)]));
                t.agree();
                t.take_heard();
                t.client([request.clone(), publish(qos, 7, "a", b"x")].concat());
                let next = t.broker.next_frame();
                assert!(matches!(next, Some(AMQPFrame::Method(TOPOLOGY, _))), "{next:?}");
                t.expect_silence();
                t.replies(TOPOLOGY, [if request[0] == 0x82 { bind_ok() } else { unbind_ok() }]);
                t.hears(&is_done);
                t.expect(PUBLISH, channel_open());
                if qos > 0 {
                    t.expect(PUBLISH, confirm_select());
                }
                t.expect_publish(PUBLISH, "a", b"x");
                t.expect_silence();
            });
        }
    }
}

/// A message that was published ahead of SUBSCRIBE does not come by it, nor does one ahead of UNSUBSCRIBE miss it.
#[test]
fn subscribe_and_unsubscribe_wait_until_what_was_published_is_routed() {
    for (request, is_subscribe) in [(subscribe(1, &[("a", 0)]), true), (unsubscribe(1, &["a"]), false)] {
        // Confirmed.
        both("{}", |t| {
            t.log_in();
            t.client(subscribe(9, &[("b", 0)]));
            t.agree();
            t.take_heard();
            t.client([publish(1, 7, "a", b"x"), publish(0, 0, "a", b"y"), request.clone()].concat());
            t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
            t.expect_publish(PUBLISH, "a", b"x");
            t.expect_publish(PUBLISH, "a", b"y");
            t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
            t.hears(puback(7));
            t.expect_silence();
            t.reply(PUBLISH, ack(2, false));
            t.expect(TOPOLOGY, if is_subscribe { bind(0, "a") } else { unbind(0, "a") });
        });
        // Nobody confirms it: the broker is asked.
        both("{}", |t| {
            t.log_in();
            t.client(subscribe(9, &[("b", 0)]));
            t.agree();
            t.take_heard();
            t.client([publish(0, 0, "a", b"y"), request.clone()].concat());
            t.expect(PUBLISH, channel_open());
            t.expect_publish(PUBLISH, "a", b"y");
            t.reply(PUBLISH, channel_open_ok());
            t.routes();
            t.expect(TOPOLOGY, if is_subscribe { bind(0, "a") } else { unbind(0, "a") });
        });
    }
}

/// And DISCONNECT for both.
#[test]
fn disconnect_waits_for_suback_and_for_what_was_published() {
    both("{}", |t| {
        t.log_in();
        t.client([subscribe(1, &[("a", 0)]), publish(1, 7, "a", b"x"), DISCONNECT.to_vec()].concat());
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a")]);
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.expect(CONSUME, consume(0));
        t.expect_silence();
        t.reply(CONSUME, consume_ok(0));
        t.hears(suback(1, &[0]));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_silence();
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
        assert_eq!(t.counter("closed.disconnect"), 0);
        t.reply(PUBLISH, ack(1, false));
        t.hears(puback(7));
        // It gets what it has sent to itself: an answer on the channel of its consumers comes behind that.
        t.expect(CONSUME, flow(true));
        t.expect_silence();
        t.deliver((0, 1, false), "a", mode(2), b"x");
        t.hears(publish(0, 0, "a", b"x"));
        t.reply(CONSUME, flow_ok(true));
        t.expect_goodbye();
        t.expect_silence();
        t.reply(CONNECTION, close_ok());
        t.closes();
        assert_eq!(t.counter("closed.disconnect"), 1);
    });
    // A second later it has it, or it never comes.
    both("{}", |t| {
        t.log_in();
        t.subscribe(0);
        t.client(publish(1, 7, "a", b"x"));
        t.agree();
        t.hears(puback(7));
        t.advance(1_000);
        t.client(DISCONNECT);
        t.expect_goodbye();
    });
    // There is nothing left that a DISCONNECT alone has to wait for.
    both("{}", |t| {
        t.log_in();
        t.client([subscribe(1, &[("a", 0)]), DISCONNECT.to_vec()].concat());
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.reply(CONSUME, consume_ok(0));
        t.hears(suback(1, &[0]));
        t.expect(CONSUME, consume(0));
        t.expect_goodbye();
    });
}
