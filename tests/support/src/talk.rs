//! A conversation between a client, a subject and a scripted broker, told line by line.
//!
//! What either side says reaches the subject in random pieces. A failure prints the seed; `LEVERET_SEED` repeats it.

use crate::{
    host::{Connection, Facts},
    methods as say,
    module::Module,
    packets,
    scripted_broker::{self, ScriptedBroker},
    subject::{Subject, both},
};
use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic},
};
use std::net::SocketAddr;

/// One thing that was done to a subject: what is needed to do it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The client sent a piece.
    Client(Vec<u8>),
    /// The client sent its FIN.
    ClientEnds,
    /// The broker sent a piece.
    Broker(Vec<u8>),
    /// The broker sent its FIN.
    BrokerEnds,
    /// Milliseconds passed.
    Advance(u64),
}

/// A client's connection through a subject.
pub struct Talk {
    /// Which subject this is.
    pub name: &'static str,
    /// It.
    pub subject: Box<dyn Subject>,
    /// The client's connection.
    pub connection: Connection,
    /// The broker's ears.
    pub broker: ScriptedBroker,
    client_heard: Vec<u8>,
    inputs: Vec<Input>,
    random: fastrand::Rng,
    seed: u64,
    largest_piece: usize,
}

/// Has a conversation with the native core, then with the module. Returns what was done to each.
pub fn with_both(module: &Module, config_json: &str, talk: impl Fn(&mut Talk)) -> [Vec<Input>; 2] {
    both(module, config_json).map(|(name, subject)| {
        let mut conversation = Talk::new(name, subject, peer());
        talk(&mut conversation);
        std::mem::take(&mut conversation.inputs)
    })
}

/// A client on this host.
pub fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 40_000))
}

impl Talk {
    /// A client connects.
    pub fn new(name: &'static str, subject: Box<dyn Subject>, peer: SocketAddr) -> Self {
        Self::of(name, subject, &Facts { address: peer, ..Facts::default() })
    }

    /// A client connects of whom more is known.
    pub fn of(name: &'static str, mut subject: Box<dyn Subject>, client: &Facts) -> Self {
        let seed = std::env::var("LEVERET_SEED")
            .ok()
            .map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("LEVERET_SEED is a number"));
        let connection = subject.connect_as(client);
        Self {
            name,
            subject,
            connection,
            broker: ScriptedBroker::default(),
            client_heard: Vec::new(),
            inputs: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
            seed,
            largest_piece: 40,
        }
    }

    /// From now on pieces have at most so many bytes.
    pub fn pieces_of(&mut self, largest: usize) {
        self.largest_piece = largest;
    }

    // ------------------------------------------------------------ what is done

    /// The client sends bytes.
    pub fn client(&mut self, bytes: impl AsRef<[u8]>) {
        for piece in self.pieces(bytes.as_ref()) {
            self.input(Input::Client(piece));
        }
    }

    /// The client sends bytes that arrive at once.
    pub fn client_at_once(&mut self, bytes: impl AsRef<[u8]>) {
        self.input(Input::Client(bytes.as_ref().to_vec()));
    }

    /// The client sends its FIN.
    pub fn client_ends(&mut self) {
        self.input(Input::ClientEnds);
    }

    /// The broker sends bytes.
    pub fn broker(&mut self, bytes: impl AsRef<[u8]>) {
        for piece in self.pieces(bytes.as_ref()) {
            self.input(Input::Broker(piece));
        }
    }

    /// The broker sends bytes that arrive at once.
    pub fn broker_at_once(&mut self, bytes: impl AsRef<[u8]>) {
        self.input(Input::Broker(bytes.as_ref().to_vec()));
    }

    /// The broker sends its FIN.
    pub fn broker_ends(&mut self) {
        self.input(Input::BrokerEnds);
    }

    /// The broker says a method.
    pub fn reply(&mut self, channel: u16, method: AMQPClass) {
        self.broker(scripted_broker::method(channel, method));
    }

    /// The broker says several methods on a channel.
    pub fn replies(&mut self, channel: u16, methods: impl IntoIterator<Item = AMQPClass>) {
        let bytes: Vec<u8> =
            methods.into_iter().flat_map(|method| scripted_broker::method(channel, method)).collect();
        self.broker(bytes);
    }

    /// The broker greets and tunes.
    pub fn greet(&mut self, product: &str, version: &str) {
        self.replies(0, [say::start(product, version, "PLAIN"), say::tune(2047, 131_072, 60)]);
    }

    /// A message for a level's consumer, in one body frame.
    pub fn deliver(
        &mut self,
        (level, delivery_tag, redelivered): (usize, u64, bool),
        routing_key: &str,
        properties: basic::AMQPProperties,
        payload: &[u8],
    ) {
        let mut bytes = scripted_broker::method(
            say::CONSUME,
            say::deliver(level, delivery_tag, redelivered, routing_key),
        );
        bytes.extend(scripted_broker::header(say::CONSUME, payload.len() as u64, properties));
        if !payload.is_empty() {
            bytes.extend(scripted_broker::body(say::CONSUME, payload));
        }
        self.broker(bytes);
    }

    /// Time passes.
    pub fn advance(&mut self, millis: u64) {
        self.input(Input::Advance(millis));
    }

    /// The broker gives the obvious answer to everything until nobody has anything to say. Returns what it was told.
    pub fn agree(&mut self) -> Vec<AMQPFrame> {
        let mut told = Vec::new();
        while let Some(frame) = self.broker.next_frame() {
            let answer = self.broker.obvious_answer(&frame);
            self.broker(answer);
            told.push(frame);
        }
        told
    }

    /// The broker does all that the login of the client `c` with a clean session asks beside the connection.
    pub fn grant_session(&mut self) {
        self.replies(say::CONSUME, [say::channel_open_ok(), say::qos_ok()]);
        self.grant_lock();
        self.replies(say::TOPOLOGY, [say::channel_open_ok(), say::delete_ok(), say::delete_ok()]);
    }

    /// The lock is the client's, since nobody else has it.
    pub fn grant_lock(&mut self) {
        self.replies(say::CONSUME, say::lock_taken());
    }

    /// The broker holds the will.
    pub fn grant_will(&mut self) {
        self.replies(say::WILL, [say::channel_open_ok(), say::tx_select_ok(), say::rollback_ok()]);
        self.replies(say::WILL, [say::declared(say::WILL_QUEUE, 0), say::consumed(say::WILL_TAG)]);
        self.reply(say::WILL, say::commit_ok());
        self.deliver_will(1);
    }

    /// The will goes back to the one who published it.
    pub fn deliver_will(&mut self, delivery_tag: u64) {
        let method = say::deliver_from_queue(say::WILL_QUEUE, say::WILL_TAG, delivery_tag);
        let content = scripted_broker::header(say::WILL, 3, say::mode(2));
        let body = scripted_broker::body(say::WILL, b"any");
        self.broker([scripted_broker::method(say::WILL, method), content, body].concat());
    }

    /// The client `c` logs in.
    pub fn log_in(&mut self) {
        self.client(packets::connect("c"));
        self.agree();
        self.hears(packets::connack(0));
    }

    /// The client subscribes to `#` at a QoS; packet id 1.
    pub fn subscribe(&mut self, qos: u8) {
        self.client(packets::subscribe(1, &[("#", qos)]));
        self.agree();
        self.hears(packets::suback(1, &[qos]));
    }

    /// Does a recorded input.
    pub fn input(&mut self, input: Input) {
        match &input {
            Input::Client(bytes) => self.subject.client_sends(self.connection, bytes),
            Input::ClientEnds => self.subject.client_ends(self.connection),
            Input::Broker(bytes) => self.subject.broker_sends(self.connection, bytes),
            Input::BrokerEnds => self.subject.broker_ends(self.connection),
            Input::Advance(millis) => self.subject.advance(*millis),
        }
        self.inputs.push(input);
        let bytes = self.subject.take_to_broker(self.connection);
        self.broker.hear(&bytes);
        self.client_heard.extend(self.subject.take_to_client(self.connection));
    }

    // ------------------------------------------------------------ what comes of it

    /// The next that the broker was told is this method.
    #[track_caller]
    pub fn expect(&mut self, channel: u16, method: AMQPClass) {
        assert_eq!(self.broker.next_frame(), Some(AMQPFrame::Method(channel, method)), "{}", self.name);
    }

    /// The next that the broker was told are these methods.
    #[track_caller]
    pub fn expect_all(&mut self, channel: u16, methods: impl IntoIterator<Item = AMQPClass>) {
        for method in methods {
            self.expect(channel, method);
        }
    }

    /// The next that the broker was told is the protocol header.
    #[track_caller]
    pub fn expect_protocol_header(&mut self) {
        let next = self.broker.next_frame();
        assert!(matches!(next, Some(AMQPFrame::ProtocolHeader(_))), "{}: {next:?}", self.name);
    }

    /// The next that the broker was told is connection.start-ok.
    #[track_caller]
    pub fn expect_start_ok(&mut self) -> amq_protocol::protocol::connection::StartOk {
        use amq_protocol::protocol::connection::AMQPMethod::StartOk;
        match self.broker.next_frame() {
            Some(AMQPFrame::Method(0, AMQPClass::Connection(StartOk(it)))) => it,
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// The next that the broker was told is how a connection to it is opened.
    #[track_caller]
    pub fn expect_connection(&mut self) {
        self.expect_protocol_header();
        self.expect_start_ok();
        self.expect_all(say::CONNECTION, [say::tune_ok(131_072, 30), say::open("/")]);
    }

    /// The next that the broker was told is the will, which dies to this routing key. Returns its properties.
    #[track_caller]
    pub fn expect_will(&mut self, routing_key: &str, payload: &[u8]) -> basic::AMQPProperties {
        self.expect_all(say::WILL, [say::channel_open(), say::tx_select()]);
        // Whether its topic is permitted.
        self.expect_publish(say::WILL, routing_key, b"");
        let consume = say::consume_queue(say::WILL_QUEUE, say::WILL_TAG, false, true);
        self.expect_all(say::WILL, [say::rollback(), say::declare_will(routing_key), consume]);
        self.expect_deposit(payload)
    }

    /// The next that the broker was told is a will to be put into its queue. Returns its properties.
    #[track_caller]
    pub fn expect_deposit(&mut self, payload: &[u8]) -> basic::AMQPProperties {
        self.expect(say::WILL, say::publish_to_queue(say::WILL_QUEUE));
        let properties = self.expect_content(say::WILL, payload);
        self.expect(say::WILL, say::commit());
        properties
    }

    /// The next that the broker was told is that the client `c` takes its lock.
    #[track_caller]
    pub fn expect_lock(&mut self) {
        self.expect_all(say::CONSUME, [say::channel_open(), say::qos(10)]);
        self.expect_all(say::CONSUME, say::take_lock());
    }

    /// The next that the broker was told is that the client `c` waits for its lock.
    #[track_caller]
    pub fn expect_claim(&mut self) {
        self.expect(say::CONSUME, say::publish_to_queue(say::LOCK));
        self.expect_content(say::CONSUME, b"");
    }

    /// The next that the broker was told are contents for nobody: it does not notice an end before it has looked at what was ahead of
    /// them.
    #[track_caller]
    pub fn expect_barrier(&mut self, channel: u16) {
        for _ in 0..450 {
            self.expect(channel, say::publish_to_queue(""));
            self.expect_content(channel, b"");
        }
    }

    /// The next that the broker was told is that the will is taken back.
    #[track_caller]
    pub fn expect_withdrawal(&mut self) {
        self.expect(say::WILL, say::delete_queue(say::WILL_QUEUE, false));
    }

    /// The next that the broker was told is to send the will, delivered under this tag, and to forget its queue.
    #[track_caller]
    pub fn expect_last_will(&mut self, delivery_tag: u64) {
        self.expect_all(say::WILL, [say::refuse_delivery(delivery_tag), say::commit()]);
        self.expect_withdrawal();
    }

    /// The broker has sent the will.
    pub fn send_will(&mut self) {
        self.replies(say::WILL, [say::commit_ok(), say::delete_ok()]);
    }

    /// The broker is asked, on their channel, whether messages have been routed, and says so.
    #[track_caller]
    pub fn routes(&mut self) {
        self.expect(say::PUBLISH, say::flow(true));
        self.expect_silence();
        self.reply(say::PUBLISH, say::flow_ok(true));
    }

    /// The next that the broker was told is that the client `c` gives its lock back and parts.
    #[track_caller]
    pub fn expect_goodbye(&mut self) {
        self.expect_all(say::CONSUME, say::release_lock());
        self.expect(say::CONNECTION, say::goodbye());
    }

    /// The next that the broker was told is all that the login of `c` with a clean session asks beside the connection.
    #[track_caller]
    pub fn expect_session(&mut self) {
        self.expect_lock();
        self.expect_all(say::TOPOLOGY, [say::channel_open(), say::delete(0), say::delete(1)]);
    }

    /// The next that the broker was told is a whole message to this routing key. Returns its properties.
    #[track_caller]
    pub fn expect_publish(
        &mut self,
        channel: u16,
        routing_key: &str,
        payload: &[u8],
    ) -> basic::AMQPProperties {
        self.expect(channel, say::basic_publish(routing_key));
        self.expect_content(channel, payload)
    }

    /// The next that the broker was told is a message's content. Returns its properties.
    #[track_caller]
    pub fn expect_content(&mut self, channel: u16, payload: &[u8]) -> basic::AMQPProperties {
        let Some(AMQPFrame::Header(on, header)) = self.broker.next_frame() else { panic!("{}", self.name) };
        assert_eq!((on, header.class_id, header.body_size), (channel, 60, payload.len() as u64));
        let mut body = Vec::new();
        while body.len() < payload.len() {
            match self.broker.next_frame() {
                Some(AMQPFrame::Body(on, bytes)) if on == channel => body.extend(bytes),
                other => panic!("{}: {other:?}", self.name),
            }
        }
        assert_eq!(body, payload, "{}", self.name);
        header.properties
    }

    /// The broker was told nothing more.
    #[track_caller]
    pub fn expect_silence(&self) {
        assert!(self.broker.heard().is_empty(), "{}: {:?}", self.name, self.broker.heard());
        assert!(self.broker.unread().is_empty(), "{}: {:?}", self.name, self.broker.unread());
    }

    /// What the client has heard since it was looked at last.
    pub fn take_heard(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.client_heard)
    }

    /// The client has heard these bytes and no more.
    #[track_caller]
    pub fn hears(&mut self, bytes: impl AsRef<[u8]>) {
        assert_eq!(self.take_heard(), bytes.as_ref(), "{}", self.name);
    }

    /// The client has heard nothing more.
    #[track_caller]
    pub fn hears_nothing(&mut self) {
        self.hears([]);
    }

    /// Whether the client's connection is closed.
    pub fn closed(&self) -> bool {
        self.subject.closed(self.connection)
    }

    /// The connection is closed, no later than with the next tick.
    #[track_caller]
    pub fn closes(&mut self) {
        self.advance(100);
        assert!(self.closed(), "{}: still open: {:?}", self.name, self.subject.logs());
    }

    /// The connection is open, the next tick included.
    #[track_caller]
    pub fn stays_open(&mut self) {
        self.advance(100);
        assert!(!self.closed(), "{}: closed: {:?}", self.name, self.subject.logs());
    }

    /// A counter, of all tenants together.
    pub fn counter(&self, name: &str) -> u64 {
        let is_meant = |key: &str| {
            key.strip_prefix("leveret.").and_then(|key| key.split_once('.')).is_some_and(|(_, it)| it == name)
        };
        self.subject.counters().iter().filter(|(key, _)| is_meant(key)).map(|(_, count)| count).sum()
    }

    fn pieces(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.random.usize(1..=self.largest_piece).min(bytes.len()));
            pieces.push(piece.to_vec());
            bytes = rest;
        }
        pieces
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: LEVERET_SEED={} repeats this", self.name, self.seed);
        }
    }
}
