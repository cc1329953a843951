//! The broker in memory beside a real RabbitMQ: the same bytes to both, and the same answers from both. So what the model finds with
//! the one is true of the other.

mod methods;
mod scenarios;
mod sides;

use crate::broker::{Broker, ConnectionId};
use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, connection},
};
use sides::{Frames, Real};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use support::rabbitmq::{Options, Rabbitmq};
use support::{methods as say, scripted_broker as write};

/// A scenario under way, on both sides.
pub(crate) struct Both {
    name: &'static str,
    memory: Broker,
    connections: Vec<Pair>,
}

/// A connection to each side.
struct Pair {
    memory: ConnectionId,
    memory_heard: Frames,
    real: Option<Real>,
}

/// Does a scenario with both.
fn both(name: &'static str, scenario: impl Fn(&mut Both)) {
    let mut it = Both { name, memory: Broker::prompt(), connections: Vec::new() };
    scenario(&mut it);
    for connection in 0..it.connections.len() {
        if it.connections[connection].real.is_some() {
            it.says(connection, 0, [say::goodbye()]);
        }
    }
}

impl Both {
    /// Somebody connects and opens channels 1 to 3.
    fn connect(&mut self) -> usize {
        self.connect_with_heartbeat(0)
    }

    fn connect_with_heartbeat(&mut self, seconds: u16) -> usize {
        let memory = self.memory.connect();
        let real = Some(Real::connect(broker().amqp_address()));
        self.connections.push(Pair { memory, memory_heard: Frames::default(), real });
        let id = self.connections.len() - 1;
        self.sends(id, b"AMQP\0\0\x09\x01");
        self.says(id, 0, [start_ok()]);
        self.says(id, 0, [say::tune_ok(131_072, seconds), say::open("/")]);
        for channel in 1..=3 {
            self.says(id, channel, [say::channel_open()]);
        }
        id
    }

    /// Says methods on a channel and waits until both sides have answered.
    fn says(&mut self, connection: usize, channel: u16, methods: impl IntoIterator<Item = AMQPClass>) {
        let bytes: Vec<u8> = methods.into_iter().flat_map(|method| write::method(channel, method)).collect();
        self.sends(connection, &bytes);
    }

    /// Opens a channel again that the broker has closed.
    fn reopens(&mut self, connection: usize, channel: u16) {
        self.says(connection, channel, [say::channel_close_ok(), say::channel_open()]);
    }

    /// Publishes, and waits for what comes of it.
    fn publishes(&mut self, connection: usize, channel: u16, publish: basic::Publish, body: &[u8]) {
        let method = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
        let mut bytes = write::method(channel, method);
        bytes.extend(write::header(channel, body.len() as u64, say::mode(2)));
        if !body.is_empty() {
            bytes.extend(write::body(channel, body));
        }
        self.sends(connection, &bytes);
    }

    /// The socket is gone.
    fn loses(&mut self, connection: usize) {
        let pair = &mut self.connections[connection];
        self.memory.lose(pair.memory);
        pair.real.take().expect("it was there").reset();
        self.compare();
    }

    /// Time passes, really on the one side.
    fn waits(&mut self, millis: u64) {
        self.memory.advance(millis);
        // A timer's own time, and not a wait for somebody: what is tested is that it has passed.
        std::thread::sleep(std::time::Duration::from_millis(millis));
        self.compare();
    }

    fn sends(&mut self, connection: usize, bytes: &[u8]) {
        let pair = &mut self.connections[connection];
        self.memory.receive(pair.memory, bytes);
        pair.real.as_mut().expect("it is there").send(bytes);
        self.compare();
    }

    /// Both sides have said the same on each channel: as much as the broker in memory, and the same.
    fn compare(&mut self) {
        while self.memory.step() {}
        for (id, pair) in self.connections.iter_mut().enumerate() {
            pair.memory_heard.hear(&self.memory.take_output(pair.memory));
            let Some(real) = &mut pair.real else { continue };
            let said = pair.memory_heard.take();
            let has_closed = self.memory.has_closed(pair.memory);
            let answered = real.hear(said.len(), has_closed);
            assert_eq!(
                by_channel(answered),
                by_channel(said),
                "{}: connection {id}: RabbitMQ's, ours",
                self.name
            );
            if has_closed {
                pair.real = None;
            }
        }
    }
}

/// What was said on each channel, without what is free to differ: how many confirms are told at once, the broker's own properties,
/// and the story of a dead letter.
fn by_channel(frames: Vec<AMQPFrame>) -> BTreeMap<u16, Vec<String>> {
    let mut channels: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for frame in frames {
        let said = match &frame {
            AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(_))) => {
                "start".to_owned()
            }
            AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(_))) => "tune".to_owned(),
            AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                format!("confirm {}", ack.delivery_tag)
            }
            AMQPFrame::Header(_, header) => {
                let mode = header.properties.delivery_mode();
                format!("header: {} bytes, delivery mode {mode:?}", header.body_size)
            }
            other => format!("{other:?}"),
        };
        channels.entry(frame.channel_id()).or_default().push(said);
    }
    channels
}

/// The real one, without plugins. It ends with the test program.
fn broker() -> &'static Rabbitmq {
    static BROKER: LazyLock<Rabbitmq> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model-broker");
        let _ = std::fs::remove_dir_all(&folder);
        Rabbitmq::start(&folder, &Options::default()).unwrap()
    });
    &BROKER
}

fn start_ok() -> AMQPClass {
    use amq_protocol::types::AMQPValue;
    let on = [("consumer_cancel_notify", true), ("publisher_confirms", true), ("basic.nack", true)];
    let capabilities = say::table(on.map(|(key, value)| (key, AMQPValue::Boolean(value))));
    AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties: say::table([("capabilities", AMQPValue::FieldTable(capabilities))]),
        mechanism: "PLAIN".into(),
        response: "\0guest\0guest".into(),
        locale: "en_US".into(),
    }))
}
