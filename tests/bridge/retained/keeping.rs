//! A message that is to be retained: how it comes into its topic's queue, in place of the one before, or clears it.

use super::*;
use support::host::{Level, LogLine};

#[test]
fn a_message_is_kept_ahead_of_its_routing_and_acknowledged_once_it_is_both() {
    for (qos, receipt) in [(1, puback(7)), (2, pubrec(7))] {
        for is_kept_first in [true, false] {
            both("{}", |t| {
                t.log_in();
                t.client(publish_flags(qos << 1 | 1, 7, "a/b", b"hi"));
                expect_prepared(t, "a.b", &["", "a", "a.b"], true);
                prepared(t, "a.b", 4, true);
                let [kept, routed] = expect_both(t, PUBLISH, "a.b", b"hi", Some(qos));
                assert_eq!(kept.delivery_mode(), &Some(2), "whatever its QoS");
                assert_eq!(header(&kept, "x-mqtt-publish-qos"), Some(AMQPValue::ShortShortInt(qos as i8)));
                let says = header(&routed, "x-leveret-retained");
                assert_eq!(says, Some(long("")), "it says that it is kept, too");
                t.replies(KEEP, [channel_open_ok(), confirm_select_ok()]);
                t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
                let order = if is_kept_first { [KEEP, PUBLISH] } else { [PUBLISH, KEEP] };
                t.reply(order[0], ack(1, false));
                t.hears_nothing();
                t.reply(order[1], ack(1, false));
                t.hears(&receipt);
                t.expect_silence();
                assert_eq!(t.counter("retained.kept"), 1);
            });
        }
    }
}

#[test]
fn a_topic_is_seen_to_once_and_then_its_messages_wait_for_nothing() {
    both("{}", |t| {
        keeping(t, "a", b"0");
        for n in 1..4_u8 {
            t.client_at_once(publish_flags(3, 7 + u16::from(n), "a", &[n]));
            expect_both(t, PUBLISH, "a", &[n], None);
        }
        t.expect_silence();
        t.reply(PUBLISH, ack(4, true));
        t.hears_nothing();
        t.reply(KEEP, ack(3, true));
        t.hears([puback(7), puback(8), puback(9)].concat());
        t.reply(KEEP, ack(4, false));
        t.hears(puback(10));
        // Another topic.
        t.client(publish_flags(3, 11, "b/c/d/e", b"x"));
        expect_prepared(t, "b.c.d.e", &["", "b", "b.c", "b.c.d"], false);
        prepared(t, "b.c.d.e", 5, false);
        expect_both(t, PUBLISH, "b.c.d.e", b"x", None);
        t.expect_silence();
    });
}

/// A receipt that is ready waits for the one of a message that is not kept yet. [MQTT-4.6.0-2] [MQTT-4.6.0-3]
#[test]
fn receipts_do_not_overtake_that_of_a_message_that_is_to_be_kept() {
    both("{}", |t| {
        keeping(t, "a", b"0");
        t.client_at_once([publish(1, 8, "b", b"x"), publish(2, 9, "b", b"y")].concat());
        t.expect_publish(PUBLISH, "b", b"x");
        t.expect_publish(PUBLISH, "b", b"y");
        t.expect_silence();
        t.reply(PUBLISH, ack(3, true));
        t.hears_nothing();
        t.reply(KEEP, ack(1, false));
        t.hears([puback(7), puback(8), pubrec(9)].concat());
        t.expect_silence();
    });
}

#[test]
fn what_comes_behind_a_topic_s_first_message_waits_for_it() {
    both("{}", |t| {
        t.log_in();
        t.client([publish_flags(1, 0, "a", b"x"), publish_flags(0, 0, "b", b"y"), PINGREQ.to_vec()].concat());
        expect_prepared(t, "a", &["", "a"], true);
        prepared(t, "a", 3, true);
        expect_both(t, PUBLISH, "a", b"x", Some(0));
        t.expect_publish(PUBLISH, "b", b"y");
        t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.agree();
        t.hears(PINGRESP);
        assert_eq!(t.counter("retained.kept"), 1);
    });
}

/// However large it is, nothing of it is held.
#[test]
fn a_payload_passes_through_to_both_in_the_pieces_in_which_it_comes() {
    both("{}", |t| {
        keeping(t, "a", b"0");
        t.replies(PUBLISH, [ack(1, false)]);
        t.reply(KEEP, ack(1, false));
        t.hears(puback(7));
        let payload = vec![7; 150_000];
        let packet = publish_flags(3, 8, "a", &payload);
        let (head, body) = packet.split_at(packet.len() - payload.len());
        t.client(head);
        t.expect(KEEP, publish_to_exchange("mqtt-retained=a"));
        assert!(matches!(t.broker.next_frame(), Some(AMQPFrame::Header(KEEP, _))));
        t.expect(PUBLISH, basic_publish("a"));
        assert!(matches!(t.broker.next_frame(), Some(AMQPFrame::Header(PUBLISH, _))));
        for piece in body.chunks(10_000) {
            t.client_at_once(piece);
            for on in [KEEP, PUBLISH] {
                assert_eq!(t.broker.next_frame(), Some(AMQPFrame::Body(on, piece.to_vec())));
            }
            t.expect_silence();
        }
        t.reply(KEEP, ack(2, false));
        t.reply(PUBLISH, ack(2, false));
        t.hears(puback(8));
    });
}

#[test]
fn no_payload_clears_before_it_is_routed() {
    both("{}", |t| {
        keeping(t, "a", b"x");
        // Nothing that is on its way comes behind the clear.
        t.client(publish_flags(3, 8, "a", b""));
        t.expect_silence();
        t.reply(PUBLISH, ack(1, false));
        t.expect_silence();
        t.reply(KEEP, ack(1, false));
        t.hears(puback(7));
        t.expect_publish(TOPOLOGY, "a", b"");
        t.expect_all(TOPOLOGY, [rollback(), delete_queue(&queue_of("a"), false)]);
        expect_told(t, TOPOLOGY, "a");
        t.expect_silence();
        t.replies(TOPOLOGY, [rollback_ok(), delete_ok()]);
        t.expect_silence();
        t.reply(TOPOLOGY, commit_ok());
        t.expect_publish(PUBLISH, "a", b"");
        t.expect_silence();
        t.reply(PUBLISH, ack(2, false));
        t.hears(puback(8));
        assert_eq!(t.counter("retained.cleared"), 1);
        // And its queue is to be made again.
        t.client(publish_flags(3, 9, "a", b"y"));
        expect_prepared(t, "a", &["", "a"], false);
    });
}

#[test]
fn what_the_client_may_not_publish_is_neither_kept_nor_routed() {
    for (config, is_dropped) in [(r#"{"on_unauthorized": "drop"}"#, true), ("{}", false)] {
        both(config, |t| {
            t.log_in();
            t.client_at_once(publish_flags(3, 7, "secret", b"x"));
            expect_prepared(t, "secret", &["", "secret"], true);
            t.reply(TOPOLOGY, tx_select_ok());
            t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (60, 40)));
            t.expect(TOPOLOGY, channel_close_ok());
            if is_dropped {
                t.agree();
                t.hears(puback(7));
                t.stays_open();
                assert_eq!(t.counter("unauthorized"), 1);
                // Also if it is said again; and what may be is.
                t.client(publish_flags(3, 8, "open", b"x"));
                t.expect(TOPOLOGY, channel_open());
                expect_prepared(t, "open", &["", "open"], true);
            } else {
                t.expect_goodbye();
                t.hears_nothing();
            }
            assert_eq!(t.counter("retained.kept"), 0);
        });
    }
}

#[test]
fn a_user_who_may_keep_nothing_publishes_all_the_same() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "a", b"x"));
        expect_prepared(t, "a", &["", "a"], true);
        t.replies(TOPOLOGY, [tx_select_ok(), rollback_ok(), exchange_declared()]);
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        t.expect(TOPOLOGY, channel_close_ok());
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a", b"x");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.hears(puback(7));
        // It is not tried again.
        t.client(publish_flags(3, 8, "b", b"x"));
        t.expect_publish(PUBLISH, "b", b"x");
        t.reply(PUBLISH, ack(2, false));
        t.hears(puback(8));
        t.expect_silence();
        assert_eq!(t.counter("retained.unkept"), 2);
    });
}

#[test]
fn a_queue_that_is_deleted_while_it_is_made_is_made_again() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "a", b"x"));
        expect_prepared(t, "a", &["", "a"], true);
        t.replies(TOPOLOGY, [tx_select_ok(), rollback_ok(), exchange_declared(), rollback_ok()]);
        t.reply(TOPOLOGY, declared(&queue_of("a"), 0));
        t.reply(TOPOLOGY, channel_close(404, "NOT_FOUND", (50, 20)));
        t.expect_all(TOPOLOGY, [channel_close_ok(), channel_open(), tx_select()]);
        t.expect_publish(TOPOLOGY, "a", b"");
        t.expect(TOPOLOGY, rollback());
        expect_made(t, TOPOLOGY, "a", &["", "a"]);
        t.replies(TOPOLOGY, [channel_open_ok(), tx_select_ok()]);
        prepared(t, "a", 3, false);
        expect_both(t, PUBLISH, "a", b"x", Some(1));
    });
}

/// A build before this one declared it without `x-overflow`.
#[test]
fn a_queue_of_other_arguments_is_used_as_it_is() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(1, 0, "a", b"x"));
        expect_prepared(t, "a", &["", "a"], true);
        t.replies(TOPOLOGY, [tx_select_ok(), rollback_ok(), exchange_declared(), rollback_ok()]);
        t.reply(TOPOLOGY, channel_close(406, "PRECONDITION_FAILED", (50, 10)));
        t.expect_all(TOPOLOGY, [channel_close_ok(), channel_open(), tx_select()]);
        t.expect_publish(TOPOLOGY, "a", b"");
        t.expect(TOPOLOGY, rollback());
        expect_bound(t, TOPOLOGY, "a", &["", "a"]);
        t.replies(
            TOPOLOGY,
            [channel_open_ok(), tx_select_ok(), rollback_ok(), bind_ok(), bind_ok(), bind_ok()],
        );
        expect_both(t, PUBLISH, "a", b"x", Some(0));
    });
}

/// The payload is not here any more: what the broker gives back passes through once more.
#[test]
fn a_message_whose_topic_was_cleared_meanwhile_is_kept_all_the_same() {
    both("{}", |t| {
        keeping(t, "a", b"old");
        t.reply(PUBLISH, ack(1, false));
        t.reply(KEEP, ack(1, false));
        t.hears(puback(7));
        t.client(publish_flags(3, 8, "a", b"a new one"));
        expect_both(t, PUBLISH, "a", b"a new one", None);
        t.reply(PUBLISH, ack(2, false));
        kept_returned(t, "a", b"a new one", 2);
        t.hears_nothing();
        expect_made(t, KEEP, "a", &["", "a"]);
        expect_kept(t, KEEP, "a", b"a new one");
        t.expect_silence();
        t.reply(KEEP, declared(&queue_of("a"), 0));
        t.replies(KEEP, [bind_ok(), bind_ok(), bind_ok()]);
        t.hears_nothing();
        t.reply(KEEP, ack(3, false));
        t.hears(puback(8));
        assert_eq!((t.counter("retained.kept"), t.counter("retained.unkept")), (2, 0));
    });
}

#[test]
fn of_two_that_come_back_the_newer_is_kept() {
    both("{}", |t| {
        keeping(t, "a", b"0");
        t.reply(KEEP, ack(1, false));
        t.client_at_once([publish_flags(1, 0, "a", b"3"), publish_flags(1, 0, "a", b"4")].concat());
        while t.broker.next_frame().is_some() {}
        t.reply(KEEP, returned("mqtt-retained=a"));
        t.broker(
            [scripted_broker::header(KEEP, 1, published_at(0)), scripted_broker::body(KEEP, b"3")].concat(),
        );
        t.reply(KEEP, returned("mqtt-retained=a"));
        t.broker(scripted_broker::header(KEEP, 1, published_at(0)));
        expect_made(t, KEEP, "a", &["", "a"]);
        t.expect(KEEP, publish_to_exchange("mqtt-retained=a"));
        t.broker(scripted_broker::body(KEEP, b"4"));
        t.expect_content(KEEP, b"4");
        t.expect_silence();
    });
}

#[test]
fn a_message_that_its_queue_does_not_take_is_no_end() {
    both("{}", |t| {
        keeping(t, "a", b"x");
        t.reply(PUBLISH, ack(1, false));
        t.reply(KEEP, nack(1));
        t.hears(puback(7));
        t.stays_open();
        assert_eq!((t.counter("retained.kept"), t.counter("retained.unkept")), (0, 1));
    });
}

#[test]
fn a_message_that_is_too_large_is_routed_and_clears() {
    both(r#"{"retained_max_size": 3}"#, |t| {
        t.log_in();
        t.client(publish_flags(1, 7, "a", b"long"));
        t.expect(TOPOLOGY, tx_select());
        t.expect_publish(TOPOLOGY, "a", b"");
        t.expect_all(TOPOLOGY, [rollback(), declare_exchange(), try_to_keep("a")]);
        t.expect_content(TOPOLOGY, b"");
        t.expect_all(TOPOLOGY, [rollback(), delete_queue(&queue_of("a"), false)]);
        expect_told(t, TOPOLOGY, "a");
        t.replies(TOPOLOGY, [tx_select_ok(), rollback_ok(), exchange_declared(), rollback_ok()]);
        t.replies(TOPOLOGY, [delete_ok(), commit_ok()]);
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"long");
        assert_eq!(t.counter("retained.unkept"), 1);
    });
}

/// RabbitMQ takes line breaks out of names: it would be kept, or cleared, for another topic.
#[test]
fn a_topic_with_a_line_break_is_routed_and_keeps_nothing() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "se\ncret", b"x"));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "se\ncret", b"x");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.hears(puback(7));
        t.expect_silence();
        assert_eq!(t.counter("retained.unkept"), 1);
    });
}

/// Whatever a client sends, the lines that tell of it are few.
#[test]
fn that_a_message_is_not_kept_is_told_once_a_topic_and_counted_always() {
    both("{}", |t| {
        t.log_in();
        for _ in 0..3 {
            t.client(publish_flags(1, 0, "a\nb", b"x"));
        }
        for n in 0..50 {
            t.client(publish_flags(1, 0, &format!("{n}\n"), b"x"));
        }
        let is_it = |line: &&LogLine| line.text.contains("did not retain") && line.level != Level::Debug;
        let told = t.subject.logs().iter().filter(is_it).count();
        assert_eq!((told, t.counter("retained.unkept")), (16, 53));
    });
}

/// DISCONNECT waits until it is.
#[test]
fn what_a_client_publishes_ahead_of_disconnect_is_kept_first() {
    both("{}", |t| {
        t.log_in();
        t.client([publish_flags(1, 0, "a/b", b"bye"), DISCONNECT.to_vec()].concat());
        // All but the confirm.
        let mut told = Vec::new();
        while let Some(frame) = t.broker.next_frame() {
            let answer = t.broker.obvious_answer(&frame);
            if answer != scripted_broker::method(KEEP, ack(1, false)) {
                t.broker(answer);
            }
            told.push(frame);
        }
        assert!(told.iter().any(|frame| matches!(frame, AMQPFrame::Body(KEEP, _))), "{told:?}");
        assert!(!told.contains(&AMQPFrame::Method(CONNECTION, goodbye())), "{told:?}");
        t.reply(KEEP, ack(1, false));
        t.expect_goodbye();
        t.expect_silence();
        assert_eq!(t.counter("retained.kept"), 1);
    });
}

/// It is not read before what came ahead of it has been kept.
#[test]
fn a_fin_does_not_hurry_what_is_to_be_kept() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(1, 0, "a/b", b"bye"));
        expect_prepared(t, "a.b", &["", "a", "a.b"], true);
        t.client([publish_flags(1, 0, "c", b"bye"), DISCONNECT.to_vec()].concat());
        t.client_ends();
        t.expect_silence();
        prepared(t, "a.b", 4, true);
        expect_both(t, PUBLISH, "a.b", b"bye", Some(0));
        t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        expect_prepared(t, "c", &["", "c"], false);
        t.expect_silence();
        prepared(t, "c", 3, false);
        expect_both(t, PUBLISH, "c", b"bye", None);
        t.reply(KEEP, ack(2, false));
        t.reply(PUBLISH, channel_open_ok());
        t.routes();
        t.expect_goodbye();
        t.expect_silence();
        assert_eq!((t.counter("retained.kept"), t.counter("closed.disconnect")), (2, 1));
    });
}
