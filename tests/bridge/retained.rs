//! Retained messages: how they are kept, cleared, found and given to a new subscription.

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, exchange, queue},
    types::AMQPValue,
};
use support::{methods::*, module, packets::*, scripted_broker, talk::Talk};

/// Has a conversation with both subjects, in which messages are retained.
fn both(config_json: &str, talk: impl Fn(&mut Talk)) {
    support::talk::with_both(module::shipped(), config_json, talk);
}

// ---------------------------------------------------------------- keeping

#[test]
fn a_message_is_kept_once_it_is_taken_and_acknowledged_once_it_is_kept() {
    for (qos, receipt) in [(0, vec![]), (1, puback(7)), (2, pubrec(7))] {
        both("{}", |t| {
            t.log_in();
            t.client(publish_flags(qos << 1 | 1, 7, "a/b", b"hi"));
            t.expect_all(CONFIRM, [channel_open(), confirm_select()]);
            let properties = t.expect_publish(CONFIRM, "a.b", b"hi");
            assert_eq!(
                header(&properties, "x-leveret-retained"),
                Some(long("")),
                "it says that it is kept, too"
            );
            t.expect_silence();
            t.replies(CONFIRM, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
            t.hears_nothing();
            t.expect_all(KEEP, [channel_open(), confirm_select(), declare_exchange()]);
            let kept = expect_kept(t, KEEP, "a.b", b"hi");
            assert_eq!(kept.delivery_mode(), &Some(2), "whatever its QoS");
            assert_eq!(header(&kept, "x-mqtt-publish-qos"), Some(AMQPValue::ShortShortInt(qos as i8)));
            t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), exchange_declared()]);
            t.hears_nothing();
            t.reply(KEEP, ack(1, false));
            t.hears(&receipt);
            t.expect_silence();
            assert_eq!(t.counter("retained.kept"), 1);
        });
    }
}

#[test]
fn the_first_message_of_a_topic_makes_its_queue() {
    both("{}", |t| {
        keeping(t, "a/b/c/d", b"x", "a.b.c.d");
        returned_and_confirmed(t, KEEP, 1);
        expect_made(t, KEEP, "a.b.c.d", &["", "a", "a.b", "a.b.c"]);
        expect_kept(t, KEEP, "a.b.c.d", b"x");
        t.reply(KEEP, declared(&queue_of("a.b.c.d"), 0));
        t.replies(KEEP, [(); 5].map(|()| bind_ok()));
        t.hears_nothing();
        t.reply(KEEP, ack(2, false));
        t.hears(puback(7));
    });
}

#[test]
fn no_payload_clears() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "a/b", b""));
        t.expect_all(CONFIRM, [channel_open(), confirm_select()]);
        t.expect_publish(CONFIRM, "a.b", b"");
        t.replies(CONFIRM, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.expect_all(KEEP, [channel_open(), confirm_select(), declare_exchange()]);
        t.expect(KEEP, delete_queue(&queue_of("a.b"), false));
        t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), exchange_declared()]);
        t.hears_nothing();
        t.reply(KEEP, delete_ok());
        t.hears(puback(7));
        assert_eq!(t.counter("retained.cleared"), 1);
    });
}

#[test]
fn a_newer_message_takes_the_place_of_one_that_waits() {
    both("{}", |t| {
        keeping(t, "a", b"0", "a");
        for n in 1..4_u8 {
            t.client(publish_flags(3, 7 + u16::from(n), "a", &[n]));
            t.expect_publish(CONFIRM, "a", &[n]);
            t.reply(CONFIRM, ack(1 + u64::from(n), false));
        }
        t.expect_silence();
        t.reply(KEEP, ack(1, false));
        t.hears(puback(7));
        expect_kept(t, KEEP, "a", &[3]);
        t.hears_nothing();
        t.reply(KEEP, ack(2, false));
        t.hears([puback(8), puback(9), puback(10)].concat());
        t.expect_silence();
    });
}

#[test]
fn what_the_broker_does_not_take_is_not_kept() {
    both(r#"{"on_unauthorized": "drop"}"#, |t| {
        t.log_in();
        t.client(publish_flags(1, 0, "secret", b"x"));
        t.expect_all(CONFIRM, [channel_open(), confirm_select()]);
        t.expect_publish(CONFIRM, "secret", b"x");
        t.replies(CONFIRM, [channel_open_ok(), confirm_select_ok()]);
        t.reply(CONFIRM, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        t.expect(CONFIRM, channel_close_ok());
        t.expect_silence();
        t.stays_open();
        assert_eq!((t.counter("unauthorized"), t.counter("retained.kept")), (1, 0));
    });
}

#[test]
fn a_user_who_may_keep_nothing_publishes_all_the_same() {
    both("{}", |t| {
        keeping(t, "a", b"x", "a");
        t.reply(KEEP, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        t.expect(KEEP, channel_close_ok());
        t.hears(puback(7));
        // It is not tried again.
        t.client(publish_flags(3, 8, "b", b"x"));
        t.expect_publish(CONFIRM, "b", b"x");
        t.reply(CONFIRM, ack(2, false));
        t.hears(puback(8));
        t.expect_silence();
        assert_eq!(t.counter("retained.unkept"), 2);
    });
}

#[test]
fn a_queue_that_is_deleted_while_it_is_made_is_made_again() {
    both("{}", |t| {
        keeping(t, "a", b"x", "a");
        returned_and_confirmed(t, KEEP, 1);
        while t.broker.next_frame().is_some() {}
        t.reply(KEEP, declared(&queue_of("a"), 0));
        t.reply(KEEP, channel_close(404, "NOT_FOUND", (50, 20)));
        t.expect_all(KEEP, [channel_close_ok(), channel_open(), confirm_select(), declare_exchange()]);
        expect_kept(t, KEEP, "a", b"x");
        t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), exchange_declared()]);
        t.reply(KEEP, ack(1, false));
        t.hears(puback(7));
    });
}

#[test]
fn a_message_that_is_too_large_is_routed_and_clears() {
    both(r#"{"retained_max_size": 3}"#, |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "a", b"long"));
        t.expect_all(CONFIRM, [channel_open(), confirm_select()]);
        t.expect_publish(CONFIRM, "a", b"long");
        t.replies(CONFIRM, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.expect_all(KEEP, [channel_open(), confirm_select(), declare_exchange()]);
        t.expect(KEEP, delete_queue(&queue_of("a"), false));
        assert_eq!(t.counter("retained.unkept"), 1);
    });
}

/// RabbitMQ takes line breaks out of names: it would be kept, or cleared, for another topic.
#[test]
fn a_topic_with_a_line_break_is_routed_and_keeps_nothing() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "se\ncret", b"x"));
        t.expect_all(CONFIRM, [channel_open(), confirm_select()]);
        t.expect_publish(CONFIRM, "se\ncret", b"x");
        t.replies(CONFIRM, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.hears(puback(7));
        t.expect_silence();
    });
}

/// What follows the end of the client's bytes cannot be waited for.
#[test]
fn what_a_client_publishes_with_its_last_bytes_is_sent_to_be_kept_at_once() {
    both("{}", |t| {
        t.log_in();
        t.client([publish_flags(1, 0, "a/b", b"bye"), DISCONNECT.to_vec()].concat());
        t.expect_all(CONFIRM, [channel_open(), confirm_select()]);
        t.expect_publish(CONFIRM, "a.b", b"bye");
        // On the same channel: when that is refused, the broker does not look at this.
        t.expect(CONFIRM, declare_exchange());
        expect_made(t, CONFIRM, "a.b", &["", "a", "a.b"]);
        expect_kept(t, CONFIRM, "a.b", b"bye");
        t.expect_goodbye();
        t.expect_silence();
    });
}

// ---------------------------------------------------------------- replay

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

// ---------------------------------------------------------------- what is said

fn queue_of(key: &str) -> String {
    format!("mqtt-retained-{key}")
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn header(properties: &basic::AMQPProperties, key: &str) -> Option<AMQPValue> {
    properties.headers().as_ref()?.inner().get(key).cloned()
}

fn channel(frame: &AMQPFrame) -> u16 {
    match frame {
        AMQPFrame::Method(channel, _) | AMQPFrame::Header(channel, _) | AMQPFrame::Body(channel, _) => {
            *channel
        }
        _ => 0,
    }
}

fn published_at(qos: i8) -> basic::AMQPProperties {
    mode(2).with_headers(table([("x-mqtt-publish-qos", AMQPValue::ShortShortInt(qos))]))
}

/// Properties of a message that is sent to all and also kept.
fn retained_too() -> basic::AMQPProperties {
    mode(2).with_headers(table([("x-leveret-retained", long(""))]))
}

fn copy_of(key: &str) -> basic::AMQPProperties {
    mode(2).with_headers(table([("x-leveret-retained", long(key))]))
}

fn declare_exchange() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: "mqtt-retained".into(),
        kind: "direct".into(),
        durable: true,
        ..exchange::Declare::default()
    }))
}

fn exchange_declared() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
}

fn publish_to_exchange(routing_key: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: "mqtt-retained".into(),
        routing_key: routing_key.into(),
        mandatory: true,
        ..basic::Publish::default()
    }))
}

fn get(key: &str) -> AMQPClass {
    get_from(&queue_of(key), false)
}

fn get_from(queue: &str, no_ack: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get { queue: queue.into(), no_ack }))
}

fn get_ok(delivery_tag: u64) -> AMQPClass {
    let exchange = "mqtt-retained".into();
    AMQPClass::Basic(basic::AMQPMethod::GetOk(basic::GetOk {
        delivery_tag,
        exchange,
        ..basic::GetOk::default()
    }))
}

fn get_empty() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {}))
}

fn give_back(delivery_tag: u64, requeue: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple: false, requeue }))
}

// ---------------------------------------------------------------- how it goes

/// A message has been taken, packet id 7, and is on its way to its queue.
fn keeping(t: &mut Talk, topic: &str, payload: &[u8], key: &str) {
    t.log_in();
    t.client(publish_flags(3, 7, topic, payload));
    t.expect_all(CONFIRM, [channel_open(), confirm_select()]);
    t.expect_publish(CONFIRM, key, payload);
    t.replies(CONFIRM, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
    t.expect_all(KEEP, [channel_open(), confirm_select(), declare_exchange()]);
    expect_kept(t, KEEP, key, payload);
    t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), exchange_declared()]);
    t.hears_nothing();
}

/// Subscribed; nothing was answered about retained messages yet.
fn subscribed(t: &mut Talk, filter: &str, granted: u8) {
    t.client(subscribe(1, &[(filter, granted)]));
    let level = usize::from(granted);
    t.replies(TOPOLOGY, [declare_ok(level), bind_ok()]);
    t.reply(CONSUME, consume_ok(level));
    t.hears(suback(1, &[granted]));
    // How a subscription comes about is told elsewhere; the last four or five frames are ours.
    while t.broker.heard().front().is_some_and(|frame| channel(frame) != REPLAY) {
        t.broker.next_frame();
    }
}

/// Subscribed, and the question has been heard.
fn asking(t: &mut Talk, filter: &str, granted: u8, asked: &str) {
    t.log_in();
    subscribed(t, filter, granted);
    t.expect_all(REPLAY, [channel_open(), confirm_select(), qos(1), declare_exchange()]);
    expect_question(t, asked, None);
    t.replies(REPLAY, [channel_open_ok(), confirm_select_ok(), qos_ok(), exchange_declared()]);
    t.expect_silence();
}

#[track_caller]
fn expect_kept(t: &mut Talk, channel: u16, key: &str, payload: &[u8]) -> basic::AMQPProperties {
    t.expect(channel, publish_to_exchange(&format!("mqtt-retained={key}")));
    t.expect_content(channel, payload)
}

#[track_caller]
fn expect_made(t: &mut Talk, channel: u16, key: &str, first_words: &[&str]) {
    let entries = [
        ("x-max-length", AMQPValue::LongLongInt(1)),
        ("x-max-priority", AMQPValue::LongLongInt(1)),
        ("x-dead-letter-exchange", long("")),
    ];
    t.expect(channel, declare_queue(&queue_of(key), arguments(entries)));
    let bindings = first_words.iter().map(|words| format!("mqtt-retained>{words}"));
    for routing_key in std::iter::once(format!("mqtt-retained={key}")).chain(bindings) {
        let bind = queue::Bind {
            queue: queue_of(key).into(),
            exchange: "mqtt-retained".into(),
            routing_key: routing_key.into(),
            ..queue::Bind::default()
        };
        t.expect(channel, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
    }
}

#[track_caller]
fn expect_question(t: &mut Talk, asked: &str, asker: Option<&str>) {
    t.expect(REPLAY, publish_to_exchange(asked));
    let properties = t.expect_content(REPLAY, b"");
    assert_eq!(
        (properties.priority(), properties.expiration().as_ref().map(|it| it.as_str())),
        (&Some(1), Some("0"))
    );
    let cc = asker.map(|queue| AMQPValue::FieldArray(vec![long(queue)].into()));
    assert_eq!(header(&properties, "CC"), cc);
}

/// The queue in which topics answer: this connection's own.
#[track_caller]
fn expect_answers_queue(t: &mut Talk) -> String {
    let Some(AMQPFrame::Method(REPLAY, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))) =
        t.broker.next_frame()
    else {
        panic!("no queue for answers")
    };
    assert!(declare.exclusive && declare.durable, "{declare:?}");
    declare.queue.to_string()
}

#[track_caller]
fn expect_copy(t: &mut Talk, delivery_tag: u64, payload: &[u8]) {
    t.expect(REPLAY, publish_to_queue(OWN[1]));
    t.expect_content(REPLAY, payload);
    t.expect(REPLAY, give_back(delivery_tag, true));
}

/// No queue took message `number` of a channel.
fn returned_and_confirmed(t: &mut Talk, channel: u16, number: u64) {
    t.reply(channel, returned());
    t.broker(scripted_broker::header(channel, 0, mode(1)));
    t.reply(channel, ack(number, false));
}

/// basic.get has this message.
fn got(t: &mut Talk, delivery_tag: u64, published: i8, payload: &[u8]) {
    t.reply(REPLAY, get_ok(delivery_tag));
    content(t, published_at(published), payload);
}

/// A consumer gets a message; without a QoS, somebody's question.
fn delivered(t: &mut Talk, delivery_tag: u64, published: Option<i8>, payload: &[u8]) {
    t.reply(REPLAY, deliver_from_queue("mqtt-retained=a", "retained1", delivery_tag));
    content(t, published.map_or_else(|| mode(1), published_at), payload);
}

/// A topic's queue has answered.
fn answered(t: &mut Talk, queue: &str) {
    t.reply(REPLAY, get_ok(1));
    content(t, mode(1).with_headers(table([("x-first-death-queue", long(queue))])), b"");
}

fn content(t: &mut Talk, properties: basic::AMQPProperties, payload: &[u8]) {
    t.broker(scripted_broker::header(REPLAY, payload.len() as u64, properties));
    if !payload.is_empty() {
        t.broker(scripted_broker::body(REPLAY, payload));
    }
}

/// A copy comes out of the client's own queue.
fn copy_arrives(
    t: &mut Talk,
    level: u8,
    delivery_tag: u64,
    properties: basic::AMQPProperties,
    payload: &[u8],
) {
    let tag = ["qos0", "qos1"][usize::from(level)];
    t.reply(CONSUME, deliver_from_queue("its own", tag, delivery_tag));
    t.broker(scripted_broker::header(CONSUME, payload.len() as u64, properties));
    t.broker(scripted_broker::body(CONSUME, payload));
}
