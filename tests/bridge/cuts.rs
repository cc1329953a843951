//! Whole conversations, broken off behind every byte: by the client or by the broker, politely or not.

use crate::{both, without_retained};
use support::{
    methods::*,
    module,
    packets::*,
    scripted_broker, subject,
    talk::{Input, Talk, peer},
};

/// A configuration and what is said.
type Conversation = (&'static str, fn(&mut Talk));

/// Each of these ends with both sides gone.
const CONVERSATIONS: [Conversation; 4] = [
    (r#"{"heartbeat": 20}"#, |t| {
        t.log_in();
        t.client(subscribe(1, &[("a/#", 0), ("b+", 1), ("b", 2)]));
        t.agree();
        t.deliver((1, 1, false), "b", mode(2), b"hi");
        t.client([publish(2, 3, "a/b", b"hello"), puback(1), pubrel(3), PINGREQ.to_vec()].concat());
        t.agree();
        t.advance(1_000);
        t.client([publish(0, 0, "a/b", b""), unsubscribe(4, &["b"]), DISCONNECT.to_vec()].concat());
        t.agree();
    }),
    (r#"{"login": "sequential"}"#, |t| {
        t.client([connect("c"), publish(1, 1, "x", b"early"), subscribe(2, &[("a", 1), ("b", 1)])].concat());
        t.greet("RabbitMQ", "3.10.8");
        t.reply(CONNECTION, open_ok());
        t.grant_session();
        t.replies(PUBLISH, [channel_open_ok(), confirm_select_ok(), ack(1, true)]);
        t.reply(TOPOLOGY, declare_ok(1));
        t.reply(TOPOLOGY, channel_close(403, "ACCESS_REFUSED", (50, 20)));
        t.client(PINGREQ);
        t.broker(scripted_broker::heartbeat());
        t.reply(CONNECTION, close(320, "CONNECTION_FORCED"));
    }),
    (r#"{"will_refresh": 1000, "heartbeat": 20}"#, |t| {
        // A session to be kept, with a will at QoS 1.
        t.client(connect_with(0xcc, 0, &["c", "w", "gone", "u", "p"]));
        t.agree();
        t.client(subscribe(1, &[("$share/g/a", 1), ("b", 0)]));
        t.agree();
        t.advance(1_000);
        t.agree();
        t.client([unsubscribe(2, &["$share/g/a"]), DISCONNECT.to_vec()].concat());
        t.agree();
    }),
    (r#"{"local_reply_cluster": "refusals"}"#, |t| {
        t.client(connect_with(0xc0, 0, &["", "u", "p"]));
        t.broker(b"AMQP\0\0\x09\x01");
        t.broker([0]);
    }),
];

type Break = (&'static str, fn(&mut Talk));

const BREAKS: [Break; 3] = [
    ("client ends", Talk::client_ends),
    ("client vanishes", |t| t.subject.client_vanishes(t.connection)),
    ("broker ends", |t| {
        if t.subject.upstream(t.connection).is_some() {
            t.broker_ends();
        }
    }),
];

/// A recorded conversation, byte by byte.
fn bytewise(inputs: Vec<Input>) -> Vec<Input> {
    inputs
        .into_iter()
        .flat_map(|input| match input {
            Input::Client(bytes) => bytes.into_iter().map(|byte| Input::Client(vec![byte])).collect(),
            Input::Broker(bytes) => bytes.into_iter().map(|byte| Input::Broker(vec![byte])).collect(),
            other => vec![other],
        })
        .collect()
}

/// Nobody but the one who is left may end a conversation: at last a timer does.
#[test]
fn broken_off_behind_every_byte() {
    for (config, converse) in CONVERSATIONS {
        let [inputs, _] = both(config, converse);
        let inputs = bytewise(inputs);
        for (how, break_off) in BREAKS {
            for (name, replayed) in [("native", 1), ("module", 7)] {
                // Every cut natively; every seventh in the module, which is the same code.
                for cut in (0..=inputs.len()).step_by(replayed) {
                    let subject = subject::both(module::shipped(), &without_retained(config))
                        .into_iter()
                        .find_map(|(it, subject)| (it == name).then_some(subject))
                        .unwrap();
                    let mut t = Talk::new(name, subject, peer());
                    inputs[..cut].iter().for_each(|input| t.input(input.clone()));
                    if !t.closed() {
                        break_off(&mut t);
                    }
                    // The login's deadline, then the linger's, then a silent broker's: until it has answered, the end of a
                    // client that waits for it is not read.
                    for _ in 0..7 {
                        if !t.closed() {
                            t.advance(10_000);
                        }
                    }
                    assert!(t.closed(), "{how} behind {cut} of {inputs:?}", inputs = inputs.len());
                    let counters = t.subject.counters();
                    let ends: u64 = counters
                        .iter()
                        .filter(|(key, _)| key.contains(".closed.") || key.contains(".connack."))
                        .filter(|(key, _)| !key.ends_with("accepted"))
                        .map(|(_, count)| count)
                        .sum();
                    assert_eq!(ends, 1, "{how} behind {cut}: a connection ends once: {counters:?}");
                }
            }
        }
    }
}
