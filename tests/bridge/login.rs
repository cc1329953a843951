//! From CONNECT to CONNACK.

use crate::both;
use amq_protocol::{frame::AMQPFrame, types::AMQPValue};
use std::net::SocketAddr;
use support::{
    methods::*,
    module,
    packets::*,
    subject,
    talk::{Talk, peer},
};

const REMOTE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 999);

/// What is behind CONNECT is not, and goes one by one behind CONNACK.
#[test]
fn one_flight_all_written_before_the_broker_has_said_a_word() {
    both("{}", |t| {
        t.client([connect("c"), subscribe(5, &[("a/b", 0)]), publish(1, 7, "x/y", b"hi")].concat());
        t.expect_protocol_header();
        let start_ok = t.expect_start_ok();
        assert_eq!(start_ok.mechanism.as_str(), "PLAIN");
        assert_eq!(start_ok.response.as_bytes(), b"\0u\0p");
        let name = start_ok.client_properties.inner().get("connection_name").unwrap();
        assert_eq!(*name, AMQPValue::LongString("c".into()));
        t.expect_all(CONNECTION, [tune_ok(131_072, 30), open("/")]);
        t.expect_session();
        t.expect_silence();
        t.hears_nothing();
        t.greet("RabbitMQ", "4.1.0");
        t.hears_nothing();
        t.reply(CONNECTION, open_ok());
        t.hears_nothing();
        t.grant_session();
        t.hears(connack(0));
        t.expect_all(TOPOLOGY, [declare(0), bind(0, "a.b")]);
        t.expect_silence();
        t.replies(TOPOLOGY, [declare_ok(0), bind_ok()]);
        t.expect(CONSUME, consume(0));
        t.expect_silence();
        t.reply(CONSUME, consume_ok(0));
        t.hears(suback(5, &[0]));
        t.expect_all(PUBLISH, [channel_open(), confirm_select()]);
        t.expect_publish(PUBLISH, "x.y", b"hi");
        t.expect_silence();
        assert_eq!(t.counter("connack.accepted"), 1);
    });
}

#[test]
fn a_sequential_login_goes_step_by_step() {
    both(r#"{"login": "sequential", "frame_max": 20000, "heartbeat": 30}"#, |t| {
        t.client([connect("c"), publish(0, 0, "x", &[7; 9000])].concat());
        t.expect_protocol_header();
        t.expect_silence();
        t.reply(CONNECTION, start("LavinMQ", "2.0", "AMQPLAIN PLAIN"));
        t.expect_start_ok();
        t.expect_silence();
        t.reply(CONNECTION, tune(2047, 8192, 0));
        t.expect_all(CONNECTION, [tune_ok(8192, 30), open("/")]);
        t.expect_silence();
        t.reply(CONNECTION, open_ok());
        t.expect_session();
        t.expect_silence();
        t.grant_session();
        t.hears(connack(0));
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "x", &[7; 9000]);
        t.expect_silence();
    });
}

/// It is not read from, so that it costs nothing.
#[test]
fn a_client_may_be_far_ahead_of_its_login() {
    for login in ["pipelined", "sequential"] {
        both(&format!(r#"{{"login": "{login}", "max_packet_size_unauthenticated": 5000}}"#), |t| {
            t.client_at_once(connect("c"));
            for _ in 0..3 {
                t.client_at_once(publish(0, 0, "x", &[7; 9_000]));
            }
            while let Some(frame) = t.broker.next_frame() {
                assert!(!matches!(frame, AMQPFrame::Method(PUBLISH, _)), "{login}");
                let answer = t.broker.obvious_answer(&frame);
                t.hears_nothing();
                t.broker(answer);
                if t.counter("connack.accepted") > 0 {
                    break;
                }
            }
            t.hears(connack(0));
            while t.broker.heard().front() != Some(&AMQPFrame::Method(PUBLISH, channel_open())) {
                t.broker.next_frame().expect("what was behind CONNECT");
            }
            t.expect(PUBLISH, channel_open());
            for _ in 0..3 {
                t.expect_publish(PUBLISH, "x", &[7; 9_000]);
            }
            t.stays_open();
        });
    }
}

#[test]
fn each_refusal_of_the_broker_has_its_connack() {
    let table: [(&str, u16, &str, u8); 8] = [
        ("credentials", 403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", 4),
        ("LavinMQ credentials", 403, "", 4),
        ("vhost", 530, "NOT_ALLOWED - vhost / not found", 4),
        ("access", 530, "NOT_ALLOWED - access to vhost '/' refused for user 'u'", 5),
        ("LavinMQ access", 530, "NOT_ALLOWED - 'u' doesn't have access to '/'", 5),
        ("limit", 530, "NOT_ALLOWED - access to vhost '/' refused: connection limit (1) is reached", 5),
        ("down", 541, "INTERNAL_ERROR - vhost '/' is down", 3),
        ("shutdown", 320, "CONNECTION_FORCED - broker forced connection closure", 3),
    ];
    for login in ["pipelined", "sequential"] {
        for (what, code, text, expected) in table {
            both(&format!(r#"{{"login": "{login}"}}"#), |t| {
                t.client([&connect("c")[..], &PINGREQ].concat());
                t.reply(CONNECTION, start("RabbitMQ", "3.10.8", "PLAIN"));
                if code != 403 {
                    t.reply(CONNECTION, tune(2047, 131_072, 60));
                }
                t.hears_nothing();
                t.reply(CONNECTION, close(code, text));
                t.hears(connack(expected));
                assert!(!t.closed(), "{what}: in the callback that wrote it, a close would lose it");
                t.closes();
                t.hears_nothing();
            });
        }
    }
}

#[test]
fn a_broker_that_cannot_serve_is_connack_3() {
    type Answer = fn(&mut Talk);
    let table: [Answer; 6] = [
        |t| t.reply(CONNECTION, start("Old", "1", "AMQPLAIN")),
        |t| t.broker(b"AMQP\0\0\x09\x01"),
        |t| t.broker(b"HTTP/1.1 400 Bad Request\r\n"),
        |t| t.reply(CONNECTION, tune(1, 2, 3)),
        |t| t.reply(TOPOLOGY, channel_open_ok()),
        |t| t.broker_ends(),
    ];
    for answer in table {
        both("{}", |t| {
            t.client(connect("c"));
            answer(t);
            t.hears(connack(3));
            t.closes();
            assert_eq!(t.counter("connack.server_unavailable"), 1);
        });
    }
}

/// Refusals that need no broker: a peer, a CONNECT and its CONNACK, with anonymous clients not allowed.
fn refused_at_the_edge() -> [(&'static str, SocketAddr, Vec<u8>, u8); 7] {
    let mut unknown_level = connect("c");
    unknown_level[8] = 9;
    [
        ("protocol level", peer(), unknown_level, 1),
        ("no client id for a session", peer(), connect_with(0xc0, 0, &["", "u", "p"]), 2),
        ("no client id in MQTT 3.1", peer(), connect_31(""), 2),
        ("client id makes a long queue name", peer(), connect(&"x".repeat(234)), 2),
        ("no credentials", peer(), connect_with(0x02, 0, &["c"]), 4),
        ("half the credentials", peer(), connect_with(0x82, 0, &["c", "u"]), 4),
        ("guest from afar", REMOTE, connect_with(0xc2, 0, &["c", "guest", "guest"]), 5),
    ]
}

/// CONNECT of MQTT 3.1, with flags in its fixed header that have no use there.
fn connect_31(client_id: &str) -> Vec<u8> {
    let fields = [text("MQIsdp"), vec![3, 0xc2, 0, 0], text(client_id), text("u"), text("p")];
    packet(0x14, &fields.concat())
}

#[test]
fn mqtt_3_1_is_served_with_a_client_id() {
    both("{}", |t| {
        t.client(connect_31("c"));
        t.agree();
        t.hears(connack(0));
    });
}

/// The longest name is that of the queue for answers about retained messages.
#[test]
fn how_long_a_client_id_may_be() {
    for (length, code) in [(218, 0), (219, 2)] {
        both("{}", |t| {
            t.client(connect(&"x".repeat(length)));
            if code == 2 {
                t.broker_at_once(b"x");
            }
            t.agree();
            t.hears(connack(code));
        });
    }
}

#[test]
fn a_refusal_at_the_edge_goes_to_the_local_reply_cluster() {
    const CONFIG: &str = r#"{"local_reply_cluster": "refusals", "allow_anonymous": false}"#;
    for (what, peer, bytes, code) in refused_at_the_edge() {
        for (name, subject) in subject::both(module::shipped(), CONFIG) {
            let mut t = Talk::new(name, subject, peer);
            t.client(bytes.clone());
            t.expect_protocol_header();
            t.expect_silence();
            assert_eq!(t.subject.upstream(t.connection), Some("refusals"), "{what}");
            t.client(PINGREQ);
            t.hears_nothing();
            t.broker_at_once(b"AMQP\0\0\x09\x01");
            t.hears(connack(code));
            assert!(!t.closed());
            // One byte more, whose echo closes.
            assert_eq!(t.broker.unread(), [0]);
            t.broker([0]);
            assert!(t.closed(), "{what}");
        }
    }
}

#[test]
fn a_refusal_in_eager_mode_rides_on_whatever_the_broker_says() {
    const CONFIG: &str = r#"{"connect_mode": "eager", "allow_anonymous": false}"#;
    for (what, peer, bytes, code) in refused_at_the_edge() {
        for (name, subject) in subject::both(module::shipped(), CONFIG) {
            let mut t = Talk::new(name, subject, peer);
            t.client(bytes.clone());
            t.expect_protocol_header();
            assert_eq!(t.subject.upstream(t.connection), Some(""));
            t.reply(CONNECTION, start("RabbitMQ", "4.1.0", "PLAIN"));
            t.hears(connack(code));
            t.closes();
            assert_eq!(t.counter("connack.accepted"), 0, "{what}");
        }
    }
}

#[test]
fn a_client_whose_refusal_finds_nobody_is_closed_at_the_login_timeout() {
    both(r#"{"allow_anonymous": false}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.advance(9_900);
        assert!(!t.closed());
        t.advance(100);
        t.closes();
        t.hears_nothing();
    });
}

#[test]
fn without_credentials_a_client_is_the_default_user() {
    both(r#"{"default_user": "someone", "default_pass": "secret"}"#, |t| {
        t.client(connect_with(0x02, 0, &["c"]));
        t.expect_protocol_header();
        assert_eq!(t.expect_start_ok().response.as_bytes(), b"\0someone\0secret");
    });
}

#[test]
fn the_user_name_may_name_the_virtual_host() {
    for (config, user, vhost, sasl) in [
        ("{}", "a:b:user", "a:b", "\0user\0p"),
        ("{}", ":user", "", "\0user\0p"),
        (r#"{"vhost": "v"}"#, "user", "v", "\0user\0p"),
        (r#"{"ignore_colons_in_username": true}"#, "a:user", "/", "\0a:user\0p"),
    ] {
        both(config, |t| {
            t.client(connect_with(0xc2, 0, &["c", user, "p"]));
            t.expect_protocol_header();
            assert_eq!(t.expect_start_ok().response.as_bytes(), sasl.as_bytes());
            t.expect_all(CONNECTION, [tune_ok(131_072, 30), open(vhost)]);
        });
    }
}

/// CONNACK is first, and what came before it is honoured.
#[test]
fn packets_ahead_of_connack_are_answered_behind_it() {
    for login in ["pipelined", "sequential"] {
        both(&format!(r#"{{"login": "{login}"}}"#), |t| {
            let early = [
                connect("c"),
                pubrel(9),
                subscribe(3, &[("a+", 0)]),
                PINGREQ.to_vec(),
                unsubscribe(4, &["a"]),
            ];
            t.client(early.concat());
            t.hears_nothing();
            t.agree();
            let heard = [connack(0), pubcomp(9), suback(3, &[0x80]), unsuback(4), PINGRESP.to_vec()];
            t.hears(heard.concat());
            t.stays_open();
        });
    }
}

/// The broker's first frame holds the credentials, the client id and what is shown of the client: the last is what can be spared.
#[test]
fn the_first_frame_is_one_that_the_broker_takes() {
    for (config, first_frame) in [
        ("{}", 4096),
        (r#"{"max_credentials_size": 7000}"#, 7512),
        (r#"{"max_credentials_size": 3000}"#, 4096),
    ] {
        let largest = if first_frame == 7512 {
            7000
        } else if config == "{}" {
            3584
        } else {
            3000
        };
        for id in [1, 23, 99, 140, 218] {
            for size in [1000, 3000, 3200, 3300, 3400, 3450, 3500, 3584, 6500, 7000] {
                let (id, password) = ("i".repeat(id), "p".repeat(size - 1));
                both(config, |t| {
                    t.pieces_of(1 << 16);
                    t.client(connect_with(0xc2, 0, &[&id, "u", &password]));
                    if t.broker.heard().len() == 1 {
                        t.broker_at_once(b"x");
                        t.hears(connack(4));
                        assert!(size > largest || size + id.len() > first_frame - 600, "{size} {}", id.len());
                        assert_eq!(t.counter("refused.by.credentials_unfit"), 1);
                        return;
                    }
                    assert!(size <= largest);
                    t.expect_protocol_header();
                    let start_ok = t.expect_start_ok();
                    assert_eq!(start_ok.response.as_bytes().len(), size + 2);
                    let properties = start_ok.client_properties.inner();
                    assert_eq!(
                        properties.get("connection_name"),
                        Some(&AMQPValue::LongString(id.clone().into()))
                    );
                    let frame = support::scripted_broker::method(0, say_start_ok(start_ok.clone()));
                    assert!(frame.len() <= first_frame, "{} {size} {}", id.len(), frame.len());
                });
            }
        }
    }
}

fn say_start_ok(start_ok: amq_protocol::protocol::connection::StartOk) -> amq_protocol::protocol::AMQPClass {
    use amq_protocol::protocol::{AMQPClass, connection::AMQPMethod};
    AMQPClass::Connection(AMQPMethod::StartOk(start_ok))
}

/// It closes a connection that asks for more than it offers.
#[test]
fn a_broker_that_allows_too_little_is_connack_3_and_a_line_with_its_setting() {
    for (login, config, offered, line) in [
        ("pipelined", "", (3, 131_072), "channel_max is 3"),
        ("sequential", "", (3, 131_072), "channel_max is 3"),
        ("pipelined", "", (2047, 8192), "frame_max is 8192"),
        ("sequential", "", (2047, 8192), ""),
        ("pipelined", r#", "frame_max": 8192"#, (2047, 8192), ""),
        ("pipelined", "", (0, 0), ""),
        ("sequential", "", (0, 0), ""),
    ] {
        both(&format!(r#"{{"login": "{login}"{config}}}"#), |t| {
            t.client(connect("c"));
            t.replies(CONNECTION, [start("RabbitMQ", "4.1.0", "PLAIN"), tune(offered.0, offered.1, 60)]);
            if line.is_empty() {
                t.hears_nothing();
                return t.stays_open();
            }
            t.hears(connack(3));
            t.closes();
            assert!(t.subject.logs().iter().any(|it| it.text.contains(line)), "{:?}", t.subject.logs());
        });
    }
}
