//! A message that is to be retained: how it comes into its topic's queue, in place of the one before, or clears it.

use super::*;

#[test]
fn a_message_is_kept_once_it_is_taken_and_acknowledged_once_it_is_kept() {
    for (qos, receipt) in [(0, vec![]), (1, puback(7)), (2, pubrec(7))] {
        both("{}", |t| {
            t.log_in();
            t.client(publish_flags(qos << 1 | 1, 7, "a/b", b"hi"));
            t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
            let properties = t.expect_publish(PUBLISH, "a.b", b"hi");
            assert_eq!(
                header(&properties, "x-leveret-retained"),
                Some(long("")),
                "it says that it is kept, too"
            );
            t.expect_silence();
            t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
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
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a.b", b"");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
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
            t.expect_publish(PUBLISH, "a", &[n]);
            t.reply(PUBLISH, ack(1 + u64::from(n), false));
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
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "secret", b"x");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
        t.reply(PUBLISH, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        t.expect(PUBLISH, channel_close_ok());
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
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a", b"long");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
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
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "se\ncret", b"x");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.hears(puback(7));
        t.expect_silence();
    });
}

/// DISCONNECT waits until it is.
#[test]
fn what_a_client_publishes_ahead_of_disconnect_is_kept_first() {
    both("{}", |t| {
        t.log_in();
        t.client([publish_flags(1, 0, "a/b", b"bye"), DISCONNECT.to_vec()].concat());
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a.b", b"bye");
        t.expect_silence();
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.expect_all(KEEP, [channel_open(), confirm_select(), declare_exchange()]);
        expect_kept(t, KEEP, "a.b", b"bye");
        t.expect_silence();
        t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), exchange_declared(), ack(1, false)]);
        t.expect_goodbye();
        t.expect_silence();
        assert_eq!(t.counter("retained.kept"), 1);
    });
}

/// What follows the end of the client's bytes cannot be waited for.
#[test]
fn what_a_client_publishes_with_its_last_bytes_is_sent_to_be_kept_at_once() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(1, 0, "a/b", b"bye"));
        t.client_ends();
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a.b", b"bye");
        // On the same channel: when that is refused, the broker does not look at this.
        t.expect(PUBLISH, declare_exchange());
        expect_made(t, PUBLISH, "a.b", &["", "a", "a.b"]);
        expect_kept(t, PUBLISH, "a.b", b"bye");
        t.expect_barrier(PUBLISH);
        t.expect_goodbye();
        t.expect_silence();
    });
}

/// It is published again, and kept then.
#[test]
fn what_a_queue_could_not_take_is_kept_when_it_is_taken() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "a", b"x"));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a", b"x");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), nack(1)]);
        t.expect_publish(PUBLISH, "a", b"x");
        t.expect_silence();
        t.reply(PUBLISH, ack(2, false));
        t.hears_nothing();
        t.expect_all(KEEP, [channel_open(), confirm_select(), declare_exchange()]);
        expect_kept(t, KEEP, "a", b"x");
        t.replies(KEEP, [channel_open_ok(), confirm_select_ok(), exchange_declared(), ack(1, false)]);
        t.hears(puback(7));
    });
}

/// And a SUBSCRIBE, which waits until all is kept, does not wait for ever.
#[test]
fn what_no_queue_takes_is_not_kept() {
    both("{}", |t| {
        t.log_in();
        t.client([publish_flags(3, 7, "a", b"x"), subscribe(1, &[("b", 0)])].concat());
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
        for number in 1..=3 {
            t.expect_publish(PUBLISH, "a", b"x");
            t.expect_silence();
            t.reply(PUBLISH, nack(number));
        }
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "b")]);
        t.expect_silence();
        t.hears_nothing();
        assert_eq!((t.counter("unacknowledged"), t.counter("retained.kept")), (1, 0));
    });
}

/// At QoS 0 it is not published again; its topic is permitted, so it is kept all the same.
#[test]
fn at_qos_0_it_is_kept_whether_a_queue_took_it_or_not() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(1, 0, "a", b"x"));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "a", b"x");
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), nack(1)]);
        t.expect_all(KEEP, [channel_open(), confirm_select(), declare_exchange()]);
        expect_kept(t, KEEP, "a", b"x");
        t.expect_silence();
    });
}

/// It is not waited for when its channel is gone with it.
#[test]
fn a_refused_message_that_was_to_be_kept_ends_the_connection_at_once() {
    both("{}", |t| {
        t.log_in();
        t.client(publish_flags(3, 7, "secret", b"x"));
        while t.broker.next_frame().is_some() {}
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok()]);
        t.reply(PUBLISH, channel_close(403, "ACCESS_REFUSED", (60, 40)));
        t.expect(PUBLISH, channel_close_ok());
        t.expect_goodbye();
        t.expect_silence();
    });
}
