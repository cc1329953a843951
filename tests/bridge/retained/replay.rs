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
            t.expect_all(REPLAY, [channel_open(), confirm_select(), declare_exchange()]);
            expect_question(t, asked, None);
            t.expect_silence();
            t.replies(REPLAY, [channel_open_ok(), confirm_select_ok(), exchange_declared()]);
            returned_and_confirmed(t, 1);
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

/// No reader consumes a queue, so that each question is answered by the queue and not by somebody, some time.
#[test]
fn while_another_reader_has_a_message_the_others_are_fetched() {
    both("{}", |t| {
        asking(t, "+", 1, "mqtt-retained>");
        t.reply(REPLAY, ack(1, false));
        let answers = expect_answers_queue(t);
        t.reply(REPLAY, declared(&answers, 0));
        t.reply(REPLAY, ack(3, true));
        while t.broker.next_frame().is_some() {}
        for topic in ["a", "b"] {
            answered(t, &queue_of(topic));
        }
        t.replies(REPLAY, (0..30).map(|_| get_empty()));
        t.expect_all(REPLAY, [get("a"), get("b")]);
        t.reply(REPLAY, get_empty());
        t.expect(REPLAY, get("a"));
        got(t, 1, 1, b"b");
        expect_copy(t, 1, b"b");
        t.reply(REPLAY, get_empty());
        t.expect(REPLAY, get("a"));
        got(t, 2, 1, b"a");
        expect_copy(t, 2, b"a");
        t.expect_silence();
    });
}

#[test]
fn a_message_that_stays_away_is_asked_for_now_and_then_and_given_up() {
    both("{}", |t| {
        asking(t, "a", 1, "mqtt-retained=a");
        t.reply(REPLAY, ack(1, false));
        for _ in 0..64 {
            t.expect(REPLAY, get("a"));
            t.reply(REPLAY, get_empty());
        }
        t.expect_silence();
        let mut asked = Vec::new();
        for second in 0..300 {
            t.advance(1000);
            t.client(PINGREQ);
            t.broker(scripted_broker::heartbeat());
            while let Some(frame) = t.broker.next_frame() {
                if frame == AMQPFrame::Method(REPLAY, get("a")) {
                    asked.push(second);
                    t.reply(REPLAY, get_empty());
                }
            }
        }
        assert!((100..140).contains(&asked.len()), "{asked:?}");
        assert!(asked.iter().all(|second| (0..=135).contains(second)), "{asked:?}");
        t.stays_open();
    });
}

/// A policy's `dead-letter-routing-key` has them answer somebody else.
#[test]
fn topics_that_do_not_answer_are_told_of() {
    both("{}", |t| {
        asking(t, "+", 1, "mqtt-retained>");
        t.reply(REPLAY, ack(1, false));
        let answers = expect_answers_queue(t);
        t.reply(REPLAY, declared(&answers, 0));
        t.reply(REPLAY, ack(3, true));
        t.replies(REPLAY, (0..32).map(|_| get_empty()));
        t.stays_open();
        assert_eq!(t.counter("retained.unanswered"), 1);
    });
}

#[test]
fn a_question_that_is_not_taken_is_no_end() {
    both("{}", |t| {
        asking(t, "a", 1, "mqtt-retained=a");
        t.reply(REPLAY, nack(1));
        t.expect(REPLAY, get("a"));
        t.stays_open();
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
        t.expect_all(REPLAY, [channel_close_ok(), channel_open(), confirm_select(), declare_exchange()]);
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

#[test]
fn a_copy_that_a_newer_message_has_overtaken_is_not_given() {
    both("{}", |t| {
        asking(t, "+", 1, "mqtt-retained>");
        t.deliver((1, 1, false), "a", retained_too(), b"new");
        t.hears(publish(1, 1, "a", b"new"));
        copy_arrives(t, 1, 2, copy_of("a", 0), b"old");
        t.hears_nothing();
        t.expect(CONSUME, ack(2, false));
        copy_arrives(t, 1, 3, copy_of("b", 0), b"other");
        t.hears(publish_flags(3, 2, "b", b"other"));
        // What is read from then on is given, to whoever subscribes anew.
        t.client(subscribe(2, &[("a", 1)]));
        t.reply(TOPOLOGY, bind_ok());
        t.hears(suback(2, &[1]));
        copy_arrives(t, 1, 4, copy_of("a", 1), b"new");
        t.hears(publish_flags(3, 3, "a", b"new"));
    });
}

/// So that it costs a copy nothing that others were overtaken, nor a SUBSCRIBE.
#[test]
fn a_copy_says_when_its_filter_was_subscribed_to() {
    both("{}", |t| {
        asking(t, "a", 1, "mqtt-retained=a");
        for n in 1..=3 {
            t.deliver((1, n, false), "z", retained_too(), b"live");
        }
        t.reply(REPLAY, ack(1, false));
        t.expect(REPLAY, get("a"));
        got(t, 9, 1, b"kept");
        t.expect(REPLAY, publish_to_queue(OWN[1]));
        let copy = t.expect_content(REPLAY, b"kept");
        assert_eq!(header(&copy, "x-leveret-moment"), Some(AMQPValue::LongLongInt(0)));
    });
}

/// Only the default exchange is ours alone.
#[test]
fn a_publisher_cannot_make_a_message_a_retained_one() {
    both("{}", |t| {
        t.log_in();
        subscribed(t, "#", 1);
        t.deliver((1, 1, false), "a", copy_of("b", 0), b"x");
        t.hears(publish(1, 1, "a", b"x"));
    });
}

#[test]
fn nothing_cuts_into_a_copy() {
    both("{}", |t| {
        asking(t, "a", 1, "mqtt-retained=a");
        t.reply(REPLAY, ack(1, false));
        t.expect(REPLAY, get("a"));
        t.reply(REPLAY, get_ok(5));
        t.broker(scripted_broker::header(REPLAY, 8, published_at(1)));
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
