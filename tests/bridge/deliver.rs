//! Messages to the client.

use crate::both;
use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic::AMQPProperties, channel},
    types::AMQPValue,
};
use support::{methods::*, module, packets::*, scripted_broker, talk::Talk};

/// Properties of a message that says at what QoS it was published.
fn published_at(delivery_mode: u8, qos: i8) -> AMQPProperties {
    mode(delivery_mode).with_headers(table([("x-mqtt-publish-qos", AMQPValue::ShortShortInt(qos))]))
}

/// Logged in and subscribed to everything at a QoS.
fn subscribed(t: &mut Talk, qos: u8) {
    t.log_in();
    t.subscribe(qos);
}

#[test]
fn at_qos_0() {
    both("{}", |t| {
        subscribed(t, 0);
        t.deliver((0, 1, false), "a.b", mode(2), b"hi");
        t.hears(publish(0, 0, "a/b", b"hi"));
        t.deliver((0, 2, false), "a", mode(1), b"");
        t.hears(publish(0, 0, "a", b""));
        t.expect_silence();
    });
}

#[test]
fn at_qos_1_the_client_s_puback_is_the_broker_s_ack() {
    both("{}", |t| {
        subscribed(t, 1);
        t.deliver((1, 1, false), "a.b", mode(2), b"hi");
        t.deliver((1, 2, false), "c", mode(2), b"");
        t.hears([publish(1, 1, "a/b", b"hi"), publish(1, 2, "c", b"")].concat());
        t.expect_silence();
        t.client(puback(2));
        t.expect(CONSUME, ack(2, false));
        t.client([puback(2), puback(77)].concat());
        t.expect_silence();
        t.client(puback(1));
        t.expect(CONSUME, ack(1, false));
    });
}

#[test]
fn at_the_lower_of_granted_and_published() {
    for (properties, qos) in [
        (mode(2), 1),
        (mode(1), 0),
        (AMQPProperties::default(), 0),
        (published_at(2, 0), 0),
        (published_at(1, 1), 1),
        (published_at(2, 2), 1),
        (published_at(2, -1), 0),
    ] {
        both("{}", |t| {
            subscribed(t, 1);
            t.deliver((1, 1, false), "a", properties.clone(), b"x");
            t.hears(publish(qos, 1, "a", b"x"));
            match qos {
                0 => t.expect(CONSUME, ack(1, false)),
                _ => t.expect_silence(),
            }
        });
    }
}

#[test]
fn a_redelivery_is_a_duplicate_at_qos_1_and_nothing_at_qos_0() {
    both("{}", |t| {
        t.log_in();
        t.client(subscribe(1, &[("a", 0), ("b", 1)]));
        t.agree();
        t.hears(suback(1, &[0, 1]));
        t.deliver((1, 1, true), "b", mode(2), b"x");
        t.hears(publish_flags(0x0a, 1, "b", b"x"));
        t.expect_silence();
        t.deliver((1, 2, true), "b", mode(1), b"x");
        t.hears_nothing();
        t.expect(CONSUME, ack(2, false));
        t.deliver((0, 3, true), "a", mode(2), b"x");
        t.hears_nothing();
        t.expect_silence();
    });
}

#[test]
fn what_mqtt_cannot_say_is_passed_over() {
    both("{}", |t| {
        subscribed(t, 1);
        for (i, key) in ["", "a.+", "#", "a\0b"].into_iter().enumerate() {
            let tag = i as u64 + 1;
            t.deliver((1, tag, false), key, mode(2), b"whatever");
            t.expect(CONSUME, ack(tag, false));
        }
        t.hears_nothing();
        assert_eq!(t.counter("undeliverable"), 4);
        t.deliver((1, 5, false), "a", mode(2), b"next");
        t.hears(publish(1, 1, "a", b"next"));
    });
}

/// Dead letters collect a header for each queue that they died in. A session that holds such a message goes on behind it.
#[test]
fn a_message_whose_header_is_too_large_is_passed_over() {
    both("{}", |t| {
        subscribed(t, 1);
        t.pieces_of(5000);
        let death = AMQPValue::LongString("x".repeat(200_000).into());
        t.deliver((1, 1, false), "a", mode(2).with_headers(table([("x-death", death)])), b"whatever");
        t.expect(CONSUME, ack(1, false));
        t.hears_nothing();
        t.deliver((1, 2, false), "a", mode(2), b"next");
        t.hears(publish(1, 1, "a", b"next"));
        assert_eq!(t.counter("undeliverable"), 1);
    });
}

/// No packet holds it, and nobody wants to see it pass.
#[test]
fn a_message_of_300_mb_is_passed_over() {
    both("{}", |t| {
        subscribed(t, 1);
        t.reply(CONSUME, deliver(1, 1, false, "a"));
        t.broker(scripted_broker::header(CONSUME, 300_000_000, mode(2)));
        t.expect(CONSUME, ack(1, false));
        t.broker(scripted_broker::body(CONSUME, b"the beginning"));
        t.hears_nothing();
        assert_eq!(t.counter("undeliverable"), 1);
    });
}

#[test]
fn the_payload_passes_while_it_comes() {
    both("{}", |t| {
        subscribed(t, 0);
        t.pieces_of(1);
        t.reply(CONSUME, deliver(0, 1, false, "a"));
        t.broker(scripted_broker::header(CONSUME, 7, mode(1)));
        let packet = publish(0, 0, "a", b"payload");
        t.hears(&packet[..packet.len() - 7]);
        // In two frames, of which only the payload shows.
        for part in [&b"pay"[..], b"load"] {
            let frame = scripted_broker::body(CONSUME, part);
            for (i, byte) in frame.iter().enumerate() {
                t.broker([*byte]);
                let is_payload = (7..frame.len() - 1).contains(&i);
                t.hears(if is_payload { std::slice::from_ref(byte) } else { &[] });
            }
        }
        t.expect_silence();
    });
}

#[test]
fn other_packets_wait_for_the_end_of_a_delivery() {
    both("{}", |t| {
        subscribed(t, 0);
        t.client(publish(1, 7, "x", b""));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "x", b"");
        t.reply(CONSUME, deliver(0, 1, false, "a"));
        t.broker(scripted_broker::header(CONSUME, 6, mode(1)));
        t.broker(scripted_broker::body(CONSUME, b"abc"));
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, false)]);
        t.client(pubrel(9));
        t.agree();
        let packet = publish(0, 0, "a", b"abcdef");
        t.hears(&packet[..packet.len() - 3]);
        t.broker(scripted_broker::body(CONSUME, b"def"));
        t.hears([&packet[packet.len() - 3..], &puback(7), &pubcomp(9)].concat());
    });
}

#[test]
fn packet_ids_in_use_are_passed_over() {
    both(r#"{"prefetch": 65535}"#, |t| {
        subscribed(t, 1);
        t.pieces_of(1 << 20);
        t.deliver((1, 1, false), "a", mode(2), b"held");
        t.hears(publish(1, 1, "a", b"held"));
        for tags in (2..=65_535_u64).collect::<Vec<_>>().chunks(4_096) {
            let message = |&tag: &u64| {
                let method = scripted_broker::method(CONSUME, deliver(1, tag, false, "a"));
                [method, scripted_broker::header(CONSUME, 0, mode(2))].concat()
            };
            t.broker_at_once(tags.iter().flat_map(message).collect::<Vec<_>>());
            let heard = tags.iter().flat_map(|&tag| publish(1, tag as u16, "a", b""));
            t.hears(heard.collect::<Vec<_>>());
            t.client_at_once(tags.iter().flat_map(|&tag| puback(tag as u16)).collect::<Vec<_>>());
            tags.iter().for_each(|&tag| t.expect(CONSUME, ack(tag, false)));
        }
        t.deliver((1, 65_536, false), "a", mode(2), b"next");
        t.hears(publish(1, 2, "a", b"next"));
    });
}

#[test]
fn content_out_of_place_ends_the_connection() {
    let table: [fn(&mut Talk); 7] = [
        |t| t.broker(scripted_broker::header(CONSUME, 1, mode(1))),
        |t| t.broker(scripted_broker::body(CONSUME, b"x")),
        |t| t.reply(TOPOLOGY, deliver(0, 1, false, "a")),
        |t| t.replies(CONSUME, [deliver(0, 1, false, "a"), deliver(0, 2, false, "a")]),
        |t| {
            t.reply(CONSUME, deliver(0, 1, false, "a"));
            t.broker(scripted_broker::header(TOPOLOGY, 1, mode(1)));
        },
        |t| {
            t.reply(CONSUME, deliver(0, 1, false, "a"));
            t.broker(scripted_broker::header(CONSUME, 2, mode(1)));
            t.broker(scripted_broker::body(CONSUME, b"xyz"));
        },
        |t| {
            t.reply(CONSUME, deliver(0, 1, false, "a"));
            t.broker(scripted_broker::header(CONSUME, 2, mode(1)));
            t.broker(scripted_broker::body(TOPOLOGY, b"x"));
        },
    ];
    for (i, misbehave) in table.into_iter().enumerate() {
        both("{}", |t| {
            subscribed(t, 0);
            misbehave(t);
            t.closes();
            assert_eq!(t.counter("closed.broker_misbehaved"), 1, "{i}");
        });
    }
}

/// Who may publish to the default exchange may send to a client's queue, and say of a message that it is a retained one.
#[test]
fn a_retained_topic_that_is_longer_than_any() {
    for (length, is_given) in [(255, true), (256, false), (65_535, false), (65_536, false), (70_000, false)] {
        support::talk::with_both(module::shipped(), "{}", |t| {
            t.pieces_of(1 << 17);
            t.log_in();
            t.client(subscribe(1, &[("#", 1)]));
            t.agree();
            t.hears(suback(1, &[1]));
            let topic = "t".repeat(length);
            let properties = mode(2)
                .with_headers(table([("x-leveret-retained", AMQPValue::LongString(topic.clone().into()))]));
            t.broker(scripted_broker::method(CONSUME, deliver_from_queue("q", "qos1", 1)));
            t.broker(scripted_broker::header(CONSUME, 2, properties));
            t.broker(scripted_broker::body(CONSUME, b"hi"));
            match is_given {
                true => t.hears(publish_flags(3, 1, &topic, b"hi")),
                false => {
                    t.hears_nothing();
                    t.expect(CONSUME, ack(1, false));
                    assert_eq!(t.counter("undeliverable"), 1);
                }
            }
            t.stays_open();
        });
    }
}

/// [MQTT-4.3.2-2]
#[test]
fn pubrec_and_pubcomp_are_no_answer_to_a_delivery_at_qos_1() {
    for wrong in [pubrec(1), pubcomp(1)] {
        both("{}", |t| {
            subscribed(t, 1);
            t.client(&wrong);
            t.expect_silence();
            t.deliver((1, 1, false), "a", mode(2), b"x");
            t.hears(publish(1, 1, "a", b"x"));
            t.client(&wrong);
            t.agree();
            t.closes();
            assert_eq!(t.counter("closed.misbehaved"), 1);
        });
    }
}

/// CONNACK is first, whatever a broker does. [MQTT-3.2.0-1]
#[test]
fn a_broker_that_delivers_before_connack() {
    both("{}", |t| {
        t.client([connect("c"), subscribe(1, &[("#", 0)])].concat());
        t.greet("RabbitMQ", "4.1.0");
        t.reply(CONNECTION, open_ok());
        t.deliver((0, 1, false), "a", mode(1), b"early");
        t.hears(connack(3));
        t.closes();
        assert_eq!(t.counter("connack.server_unavailable"), 1);
    });
}

/// It would be an error in the middle of a content. AMQP 0-9-1 §4.2.6
#[test]
fn channel_flow_is_answered_behind_the_message_that_is_under_way() {
    let flow = |active| AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }));
    both("{}", |t| {
        t.log_in();
        let packet = publish(0, 0, "a", b"payload");
        t.client(&packet[..packet.len() - 3]);
        t.reply(PUBLISH, channel_open_ok());
        t.reply(PUBLISH, flow(true));
        t.expect(PUBLISH, channel_open());
        t.expect(PUBLISH, basic_publish("a"));
        let mut came = 0;
        while let Some(frame) = t.broker.next_frame() {
            match frame {
                AMQPFrame::Header(PUBLISH, header) => assert_eq!(header.body_size, 7),
                AMQPFrame::Body(PUBLISH, bytes) => came += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(came, 4);
        t.client(&packet[packet.len() - 3..]);
        while came < 7 {
            match t.broker.next_frame() {
                Some(AMQPFrame::Body(PUBLISH, bytes)) => came += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
        t.expect(PUBLISH, flow_ok(true));
        t.reply(PUBLISH, flow(true));
        t.expect(PUBLISH, flow_ok(true));
        t.expect_silence();
    });
}
