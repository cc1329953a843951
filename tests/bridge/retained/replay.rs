//! A new subscription: how what is kept under its filter is found, and copied to the client.

use super::*;

#[test]
fn a_filter_that_nothing_is_kept_for_costs_one_question() {
    for (filter, asked) in [
        ("a/b", "mqtt-retained=a.b"),
        ("a/+/c", "mqtt-retained>a"),
        ("#", "mqtt-retained>"),
        ("a/b/c/d/#", "mqtt-retained>a.b.c"),
    ] {
        both("{}", |t| {
            t.log_in();
            subscribed(t, filter, 1);
            t.expect_all(REPLAY, [channel_open(), confirm_select(), qos(1), declare_exchange()]);
            expect_question(t, asked, None);
            t.expect_silence();
            t.replies(REPLAY, [channel_open_ok(), confirm_select_ok(), qos_ok(), exchange_declared()]);
            returned_and_confirmed(t, REPLAY, 1);
            t.expect_silence();
            t.hears_nothing();
        });
    }
}

#[test]
fn a_topic_s_message_is_copied_into_the_client_s_queue_and_given_back() {
    for (granted, published, retain_byte) in [(1, 1, 0x33), (0, 1, 0x31), (1, 0, 0x31)] {
        both("{}", |t| {
            asking(t, "a/b", granted, "mqtt-retained=a.b");
            t.reply(REPLAY, ack(1, false));
            t.expect(REPLAY, get("a.b"));
            got(t, 9, published, b"kept");
            t.expect(REPLAY, publish_to_queue(OWN[usize::from(granted)]));
            let copy = t.expect_content(REPLAY, b"kept");
            t.expect_all(REPLAY, [give_back(9, true)]);
            t.expect_silence();
            assert_eq!(header(&copy, "x-leveret-retained"), Some(long("a.b")));
            t.hears_nothing();
            copy_arrives(t, granted, 1, copy, b"kept");
            t.hears(publish_flags(retain_byte & 0xf, 1, "a/b", b"kept"));
            assert_eq!(t.counter("retained.replayed"), 1);
        });
    }
}

#[test]
fn a_wildcard_s_topics_answer_and_those_that_match_are_fetched() {
    both("{}", |t| {
        asking(t, "a/+", 1, "mqtt-retained>a");
        t.reply(REPLAY, ack(1, false));
        let answers = expect_answers_queue(t);
        expect_question(t, "mqtt-retained>a", Some(&answers));
        expect_question(t, "mqtt-retained>a", None);
        t.expect_silence();
        t.reply(REPLAY, declared(&answers, 0));
        t.reply(REPLAY, ack(2, false));
        t.expect_silence();
        t.reply(REPLAY, ack(3, false));
        for _ in 0..32 {
            t.expect(REPLAY, get_from(&answers, true));
        }
        for topic in ["a.x", "a", "a.x.y", "a.y", "b"] {
            answered(t, &queue_of(topic));
        }
        answered(t, "somebody-else-s");
        t.replies(REPLAY, (0..26).map(|_| get_empty()));
        // All that were asked for have come, and there are no more.
        t.expect_all(REPLAY, [get("a.x"), get("a.y")]);
        got(t, 1, 1, b"x");
        expect_copy(t, 1, b"x");
        got(t, 2, 1, b"y");
        expect_copy(t, 2, b"y");
        t.expect_silence();
    });
}

#[test]
fn answers_are_asked_for_until_there_are_no_more() {
    both("{}", |t| {
        asking(t, "#", 1, "mqtt-retained>");
        t.reply(REPLAY, ack(1, false));
        let answers = expect_answers_queue(t);
        t.reply(REPLAY, declared(&answers, 0));
        t.reply(REPLAY, ack(3, true));
        while t.broker.next_frame().is_some() {}
        for n in 0..32 {
            answered(t, &queue_of(&n.to_string()));
        }
        // So many are held at once, and no more.
        for n in 0..8 {
            t.expect(REPLAY, get(&n.to_string()));
        }
        t.expect_silence();
        for n in 0..32_u64 {
            got(t, n + 1, 0, b"x");
            expect_copy(t, n + 1, b"x");
            if n + 8 < 32 {
                t.expect(REPLAY, get(&(n + 8).to_string()));
            }
        }
        for _ in 0..32 {
            t.expect(REPLAY, get_from(&answers, true));
        }
        t.replies(REPLAY, (0..32).map(|_| get_empty()));
        t.expect_silence();
    });
}

#[test]
fn while_another_reader_has_the_message_this_one_waits_in_line() {
    both("{}", |t| {
        asking(t, "a", 1, "mqtt-retained=a");
        t.reply(REPLAY, ack(1, false));
        t.expect(REPLAY, get("a"));
        t.reply(REPLAY, get_empty());
        t.expect(REPLAY, consume_queue(&queue_of("a"), "retained1", false, false));
        t.reply(REPLAY, consumed("retained1"));
        t.expect_silence();
        // Somebody's question meets the consumer. Its death is the answer.
        delivered(t, 1, None, b"");
        t.expect(REPLAY, give_back(1, false));
        t.expect_silence();
        delivered(t, 2, Some(1), b"kept");
        t.expect(REPLAY, cancel_consumer("retained1", false));
        expect_copy(t, 2, b"kept");
        t.reply(REPLAY, cancelled("retained1"));
        t.expect_silence();
    });
}

#[test]
fn a_message_that_never_comes_is_given_up() {
    both("{}", |t| {
        asking(t, "a", 1, "mqtt-retained=a");
        t.reply(REPLAY, ack(1, false));
        t.expect(REPLAY, get("a"));
        t.reply(REPLAY, get_empty());
        t.expect(REPLAY, consume_queue(&queue_of("a"), "retained1", false, false));
        t.reply(REPLAY, consumed("retained1"));
        for _ in 0..13 {
            t.client(PINGREQ);
            t.broker(scripted_broker::heartbeat());
            t.advance(10_000);
        }
        let told: Vec<_> = std::iter::from_fn(|| t.broker.next_frame()).collect();
        assert!(told.contains(&AMQPFrame::Method(REPLAY, cancel_consumer("retained1", false))), "{told:?}");
        // What was on its way goes back.
        delivered(t, 1, Some(1), b"late");
        t.expect(REPLAY, give_back(1, true));
    });
}

#[test]
fn a_message_that_is_cleared_meanwhile_costs_the_others_nothing() {
    both("{}", |t| {
        asking(t, "+", 1, "mqtt-retained>");
        t.reply(REPLAY, ack(1, false));
        let answers = expect_answers_queue(t);
        t.reply(REPLAY, declared(&answers, 0));
        t.reply(REPLAY, ack(3, true));
        while t.broker.next_frame().is_some() {}
        for topic in ["a", "b", "c"] {
            answered(t, &queue_of(topic));
        }
        t.replies(REPLAY, (0..29).map(|_| get_empty()));
        t.expect_all(REPLAY, [get("a"), get("b"), get("c")]);
        got(t, 4, 1, b"a");
        expect_copy(t, 4, b"a");
        t.reply(REPLAY, channel_close(404, "NOT_FOUND - no queue 'mqtt-retained-b' in vhost '/'", (60, 70)));
        t.expect_all(
            REPLAY,
            [channel_close_ok(), channel_open(), confirm_select(), qos(1), declare_exchange()],
        );
        t.expect(REPLAY, get("c"));
        t.expect_silence();
    });
}

#[test]
fn a_user_who_may_not_read_what_is_kept_subscribes_all_the_same() {
    both("{}", |t| {
        asking(t, "a", 1, "mqtt-retained=a");
        t.reply(REPLAY, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        t.expect(REPLAY, channel_close_ok());
        t.stays_open();
        t.client(subscribe(2, &[("b", 1)]));
        t.agree();
        t.hears(suback(2, &[1]));
        t.expect_silence();
    });
}

/// A message is routed before it is kept, so an older one may be given to a subscriber who has it already.
#[test]
fn a_copy_that_a_newer_message_has_overtaken_is_not_given() {
    both("{}", |t| {
        asking(t, "+", 1, "mqtt-retained>");
        t.deliver((1, 1, false), "a", retained_too(), b"new");
        t.hears(publish(1, 1, "a", b"new"));
        copy_arrives(t, 1, 2, copy_of("a"), b"old");
        t.hears_nothing();
        t.expect(CONSUME, ack(2, false));
        copy_arrives(t, 1, 3, copy_of("b"), b"other");
        t.hears(publish_flags(3, 2, "b", b"other"));
        // Whoever subscribes anew gets it again.
        t.client(subscribe(2, &[("a", 1)]));
        t.reply(TOPOLOGY, bind_ok());
        t.hears(suback(2, &[1]));
        copy_arrives(t, 1, 4, copy_of("a"), b"new");
        t.hears(publish_flags(3, 3, "a", b"new"));
    });
}

/// Only the default exchange is ours alone.
#[test]
fn a_publisher_cannot_make_a_message_a_retained_one() {
    both("{}", |t| {
        t.log_in();
        subscribed(t, "#", 1);
        t.deliver((1, 1, false), "a", copy_of("b"), b"x");
        t.hears(publish(1, 1, "a", b"x"));
    });
}

#[test]
fn nothing_cuts_into_a_copy() {
    for has_waited in [false, true] {
        both("{}", |t| {
            asking(t, "a", 1, "mqtt-retained=a");
            t.reply(REPLAY, ack(1, false));
            t.expect(REPLAY, get("a"));
            if has_waited {
                t.reply(REPLAY, get_empty());
                t.expect(REPLAY, consume_queue(&queue_of("a"), "retained1", false, false));
                t.reply(REPLAY, consumed("retained1"));
                t.reply(REPLAY, deliver_from_queue("mqtt-retained=a", "retained1", 5));
            } else {
                t.reply(REPLAY, get_ok(5));
            }
            t.broker(scripted_broker::header(REPLAY, 8, published_at(1)));
            if has_waited {
                t.expect(REPLAY, cancel_consumer("retained1", false));
            }
            t.expect(REPLAY, publish_to_queue(OWN[1]));
            t.broker(scripted_broker::body(REPLAY, b"half"));
            t.client(subscribe(2, &[("b", 1)]));
            t.replies(TOPOLOGY, [bind_ok()]);
            t.hears(suback(2, &[1]));
            t.client(PINGREQ);
            t.broker(scripted_broker::body(REPLAY, b"half"));
            let told: Vec<_> = std::iter::from_fn(|| t.broker.next_frame()).collect();
            let on_replay = told.iter().filter(|frame| channel(frame) == REPLAY);
            let mut on_replay =
                on_replay.skip_while(|frame| matches!(frame, AMQPFrame::Header(..) | AMQPFrame::Body(..)));
            assert_eq!(on_replay.next(), Some(&AMQPFrame::Method(REPLAY, give_back(5, true))), "{told:?}");
            let Some(AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Publish(question)))) =
                on_replay.next()
            else {
                panic!("{told:?}")
            };
            assert_eq!(question.routing_key.as_str(), "mqtt-retained=b");
        });
    }
}

#[test]
fn a_group_s_subscription_gets_nothing_that_was_kept() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(1, &[("$share/g/a", 1)]));
        let told = t.agree();
        t.hears(suback(1, &[1]));
        assert!(told.iter().all(|frame| channel(frame) != REPLAY), "{told:?}");
    });
}
