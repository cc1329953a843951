//! Giving a new subscription the retained messages that match it.
//!
//! ```text
//!  filter ── is anything there? ──> returned: no, done
//!                │ yes
//!                ├─ no wildcard ─────────────────────────────────────────┐
//!                └─ wildcard: ask with `CC`, then once more without: when │
//!                   that is confirmed, all have answered                 v
//!                   ── basic.get answers ── those that match ──> basic.get, copy, basic.nack
//!                             ^                                       │
//!                             └───────── until none is left ──────────┘
//! ```
//!
//! The copy goes into the client's own queue, since two messages cannot be interleaved in MQTT, and passes through in the pieces in
//! which it arrives. While one reader holds a message the others find its queue empty: they go on with the next topic and come back.
//! Nobody consumes these queues. A question that met a consumer instead of a queue would be answered by a client, some time, and no
//! asker could know when all have answered; of queues it knows, since each handles the first question before it takes the second.

use std::collections::VecDeque;
use std::rc::Rc;

use super::overtaken::Overtaken;
use super::{Names, Place, QUESTION_PRIORITY, question_key};
use crate::amqp::ShortText;
use crate::amqp::reply_code::NOT_FOUND;
use crate::amqp::{
    Address, ClientMethod, ContentHeader, MethodId, MqttHeaders, Properties, QueueArguments, QueueFlags,
    ShortStr,
};
use crate::bridge::broker::BrokerSide;
use crate::bridge::channel::{Awaited, Role};
use crate::bridge::queues::Level;
use crate::bridge::session::Refused;
use crate::event::Event;
use crate::mqtt::QoS;
use crate::time::{Duration, Instant};
use crate::topic;

/// How many answers are taken at once.
const ANSWERS: usize = 32;

/// How many messages are held at once, out of reach for other readers.
const MESSAGES: usize = 8;

/// How often a queue that is found empty is asked again at once. A reader holds a message for a round trip, so that many of them get it
/// one after the other.
const EAGER: u32 = 64;

/// How long is waited from then on, each time twice as long as before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// How long an empty queue is waited for: a reader whose host died holds its message for as long as the broker takes to notice. A
/// queue may also be empty because it is there for a will.
const PATIENCE: Duration = Duration::from_secs(120);

/// With so many filters waiting, no further one is looked at.
const MAX_FILTERS: usize = 512;

/// The most queues that are waited for.
const MAX_WAITING: usize = 1024;

/// How often the broker may say that what we ask for is not there any more.
const MAX_MISSING: u16 = 1000;

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Step {
    Exchange,
    Declare,
    Get,
}

/// The retained messages that a client is still to be given.
pub(in crate::bridge) struct Replayer {
    names: Rc<Names>,
    /// Where topics answer.
    answers: ShortText,
    has_answers: bool,
    /// The client's user may not.
    is_off: bool,
    missing_left: u16,
    jobs: VecDeque<Filter>,
    phase: Phase,
    /// Topics whose messages are to be fetched, and those that are asked for, in order.
    found: VecDeque<Found>,
    fetching: VecDeque<Found>,
    /// Those whose messages were not there, and when they are asked for again.
    waiting: VecDeque<(Found, Instant)>,
    /// The delivery that is announced, and the one whose body is on its way.
    announced: u64,
    holding: Option<u64>,
    /// Publishes since the channel was opened.
    published: u64,
    pub(in crate::bridge) overtaken: Overtaken,
}

struct Filter {
    binding_key: Box<str>,
    level: Level,
    /// Whether any topic has answered.
    is_answered: bool,
    /// The moment when it was subscribed to, see [`Overtaken`].
    moment: i64,
}

/// A topic that may have a retained message.
struct Found {
    queue: ShortText,
    key: Box<str>,
    level: Level,
    /// How often its queue was empty, and until when that is no reason to give up.
    misses: u32,
    until: Option<Instant>,
    /// Of the filter that it was found for.
    moment: i64,
}

enum Phase {
    Idle,
    /// Is anything there? Answered by confirm number `confirm`.
    Asking {
        filter: Filter,
        question: ShortText,
        confirm: u64,
        returned: bool,
    },
    /// Everything there has answered when `confirm` comes.
    Questioning {
        filter: Filter,
        confirm: u64,
        returned: bool,
    },
    /// So many answers are asked for; `drained` once there are no more.
    Listening {
        filter: Filter,
        asked: usize,
        drained: bool,
    },
    /// Then there may be more answers to a filter.
    Fetching {
        filter: Option<Filter>,
    },
}

impl Replayer {
    pub(in crate::bridge) fn new(names: Rc<Names>, answers: ShortText) -> Self {
        Self {
            names,
            answers,
            has_answers: false,
            is_off: false,
            missing_left: MAX_MISSING,
            jobs: VecDeque::new(),
            phase: Phase::Idle,
            found: VecDeque::new(),
            fetching: VecDeque::new(),
            waiting: VecDeque::new(),
            announced: 0,
            holding: None,
            published: 0,
            overtaken: Overtaken::default(),
        }
    }

    /// Whether further filters may come.
    pub(in crate::bridge) fn has_room(&self) -> bool {
        self.jobs.len() < MAX_FILTERS
    }

    /// Whether messages are still looked for. Those that another reader holds are waited for besides.
    pub(in crate::bridge) fn is_searching(&self) -> bool {
        !matches!(self.phase, Phase::Idle) || !self.jobs.is_empty()
    }

    /// The client has subscribed to a filter.
    pub(in crate::bridge) fn replay(&mut self, binding_key: &[u8], level: Level, broker: &mut BrokerSide) {
        let Ok(binding_key) = core::str::from_utf8(binding_key) else { return };
        if !self.is_off {
            self.jobs.push_back(Filter {
                binding_key: binding_key.into(),
                level,
                is_answered: false,
                moment: self.overtaken.moment(),
            });
            self.start(broker);
        }
    }

    /// When the first of the queues that are waited for is to be asked again.
    pub(in crate::bridge) fn wakes_at(&self) -> Option<Instant> {
        self.waiting.iter().map(|&(_, at)| at).min()
    }

    /// The time has come.
    pub(in crate::bridge) fn wake(&mut self, now: Instant, broker: &mut BrokerSide) {
        for _ in 0..self.waiting.len() {
            match self.waiting.pop_front() {
                Some((found, at)) if at <= now => self.found.push_back(found),
                still => self.waiting.extend(still),
            }
        }
        // Nothing may cut into a body.
        if self.holding.is_none() {
            self.fetch(broker);
        }
    }

    /// Starts the next job when none is under way.
    fn start(&mut self, broker: &mut BrokerSide) {
        if matches!(self.phase, Phase::Idle) && !self.found.is_empty() {
            self.phase = Phase::Fetching { filter: None };
            return self.fetch(broker);
        }
        while matches!(self.phase, Phase::Idle)
            && self.holding.is_none()
            && let Some(filter) = self.jobs.pop_front()
        {
            let Some(question) = question_key(&filter.binding_key) else { continue };
            self.open(broker);
            let confirm = self.ask(&question, None, broker);
            self.phase = Phase::Asking { filter, question, confirm, returned: false };
        }
    }

    fn open(&mut self, broker: &mut BrokerSide) {
        if broker.open(Role::Replay) {
            self.published = 0;
            broker.request(Role::Replay, self.names.declare(), Awaited::Replay(Step::Exchange));
        }
    }

    /// Asks a question, and tells the number of its confirm.
    fn ask(&mut self, question: &ShortText, asker: Option<&[u8]>, broker: &mut BrokerSide) -> u64 {
        let properties = Properties {
            cc: asker,
            priority: Some(QUESTION_PRIORITY),
            // A queue whose message is held would keep it otherwise.
            expires_at_once: true,
            ..Properties::default()
        };
        broker.publish_whole(Role::Replay, self.names.address(question), properties, &[]);
        self.published += 1;
        self.published
    }

    /// Nothing is there.
    pub(in crate::bridge) const fn returned(&mut self) {
        if let Phase::Asking { returned, .. } | Phase::Questioning { returned, .. } = &mut self.phase {
            *returned = true;
        }
    }

    /// The broker has handled a publish, or all up to it.
    pub(in crate::bridge) fn confirmed(&mut self, number: u64, multiple: bool, broker: &mut BrokerSide) {
        let is_it = |confirm: u64| number == confirm || multiple && number > confirm;
        match core::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Asking { confirm, returned: true, .. } if is_it(confirm) => self.start(broker),
            Phase::Asking { filter, question, confirm, .. } if is_it(confirm) => {
                self.found_something(filter, &question, broker);
            }
            Phase::Questioning { mut filter, confirm, returned } if is_it(confirm) => {
                // Cleared meanwhile, so that nobody is to answer.
                filter.is_answered = returned;
                self.listen(filter, broker);
            }
            other => self.phase = other,
        }
    }

    fn found_something(&mut self, filter: Filter, question: &ShortText, broker: &mut BrokerSide) {
        let is_one_topic = !filter.binding_key.split('.').any(|word| matches!(word, "*" | "#"));
        if is_one_topic {
            self.find(filter.binding_key.as_bytes(), filter.level, filter.moment);
            self.phase = Phase::Fetching { filter: None };
            return self.fetch(broker);
        }
        if !self.has_answers {
            let flags = QueueFlags { durable: true, exclusive: true, ..QueueFlags::default() };
            let (queue, arguments) = (self.answers.as_short(), QueueArguments::default());
            let declare = ClientMethod::QueueDeclare { queue, flags, arguments };
            broker.request(Role::Replay, declare, Awaited::Replay(Step::Declare));
            self.has_answers = true;
        }
        let asker = self.answers.clone();
        self.ask(question, Some(asker.as_short().as_bytes()), broker);
        // Each queue has answered the first question before it takes note of the second.
        let confirm = self.ask(question, None, broker);
        self.phase = Phase::Questioning { filter, confirm, returned: false };
    }

    fn listen(&mut self, filter: Filter, broker: &mut BrokerSide) {
        let queue = self.answers.as_short();
        for _ in 0..ANSWERS {
            let get = ClientMethod::BasicGet { queue, no_ack: true };
            broker.request(Role::Replay, get, Awaited::Replay(Step::Get));
        }
        self.phase = Phase::Listening { filter, asked: ANSWERS, drained: false };
    }

    fn find(&mut self, key: &[u8], level: Level, moment: i64) {
        if let Some(place) = self.names.place(key) {
            let Place { queue, key, .. } = place;
            self.found.push_back(Found { queue, key, level, misses: 0, until: None, moment });
        }
    }

    /// Asks for as many messages as may be held; when there are none left, goes on with what is next.
    fn fetch(&mut self, broker: &mut BrokerSide) {
        if !matches!(self.phase, Phase::Fetching { .. }) {
            return self.start(broker);
        }
        while self.fetching.len() < MESSAGES
            && let Some(found) = self.found.pop_front()
        {
            self.open(broker);
            let get = ClientMethod::BasicGet { queue: found.queue.as_short(), no_ack: false };
            broker.request(Role::Replay, get, Awaited::Replay(Step::Get));
            self.fetching.push_back(found);
        }
        if self.fetching.is_empty() && self.holding.is_none() {
            match core::mem::replace(&mut self.phase, Phase::Idle) {
                Phase::Fetching { filter: Some(filter) } => self.listen(filter, broker),
                _ => self.start(broker),
            }
        }
    }

    /// A step is done; of a basic.get, in vain.
    pub(in crate::bridge) fn done(
        &mut self,
        now: Instant,
        step: Step,
        broker: &mut BrokerSide,
    ) -> Option<Event> {
        let mut event = None;
        match (step, &mut self.phase) {
            (Step::Get, Phase::Listening { filter, drained, .. }) => {
                *drained = true;
                if !core::mem::replace(&mut filter.is_answered, true) {
                    event = Some(Event::Unanswered);
                }
                self.heard(broker);
            }
            (Step::Get, _) => {
                if let Some(found) = self.fetching.pop_front() {
                    self.wait_for(now, found);
                }
                self.fetch(broker);
            }
            (Step::Exchange | Step::Declare, _) => {}
        }
        event
    }

    /// One answer less to wait for.
    fn heard(&mut self, broker: &mut BrokerSide) {
        let Phase::Listening { asked, .. } = &mut self.phase else { return };
        *asked = asked.saturating_sub(1);
        if *asked > 0 {
            return;
        }
        if let Phase::Listening { filter, drained, .. } = core::mem::replace(&mut self.phase, Phase::Idle) {
            self.phase = Phase::Fetching { filter: (!drained).then_some(filter) };
            self.fetch(broker);
        }
    }

    /// Another reader has the message, or there is none.
    fn wait_for(&mut self, now: Instant, mut found: Found) {
        found.misses += 1;
        let Some(pauses) = found.misses.checked_sub(EAGER) else { return self.found.push_back(found) };
        let pause = (FIRST_PAUSE * (1 << pauses.min(16))).min(LONGEST_PAUSE);
        let until = *found.until.get_or_insert(now + PATIENCE);
        if until > now && self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((found, now + pause));
        }
    }

    /// There is a message.
    pub(in crate::bridge) const fn announced(&mut self, delivery_tag: u64) {
        self.announced = delivery_tag;
    }

    /// Its header: of an answer, or of a retained message that was published at this QoS and is copied to `queues`, the client's at each
    /// level.
    pub(in crate::bridge) fn got(
        &mut self,
        header: &ContentHeader<'_>,
        queues: [ShortStr<'_>; 2],
        published: QoS,
        broker: &mut BrokerSide,
    ) {
        match &mut self.phase {
            Phase::Listening { filter, .. } => {
                filter.is_answered = true;
                let key = header.text(b"x-first-death-queue").and_then(|queue| self.names.topic_of(queue));
                if let Some(key) = key.filter(|key| topic::subscribes(filter.binding_key.as_bytes(), key)) {
                    let (level, moment) = (filter.level, filter.moment);
                    self.find(key, level, moment);
                }
                self.heard(broker);
            }
            _ => {
                if let Some(found) = self.fetching.pop_front() {
                    self.copy(&found, header, queues, published, broker);
                }
            }
        }
    }

    fn copy(
        &mut self,
        found: &Found,
        header: &ContentHeader<'_>,
        queues: [ShortStr<'_>; 2],
        published: QoS,
        broker: &mut BrokerSide,
    ) {
        // Without a payload there is none: a will's, perhaps, that was to clear it.
        if header.body_size == 0 {
            broker.give_back(Role::Replay, self.announced, true);
            return self.fetch(broker);
        }
        let mqtt_headers = MqttHeaders { publish_qos: published as i8, dup: false };
        let properties = Properties {
            persistent: found.level == Level::One && published > QoS::AtMostOnce,
            mqtt_headers: Some(mqtt_headers),
            retained: Some(found.key.as_bytes()),
            moment: Some(found.moment),
            ..Properties::default()
        };
        let to = Address::queue(*found.level.of(&queues));
        self.overtaken.copied();
        broker.relay(Role::Replay, to, properties, header.body_size);
        self.published += 1;
        self.holding = Some(self.announced);
    }

    /// A piece of its body.
    pub(in crate::bridge) fn body(&mut self, bytes: &[u8], last: bool, broker: &mut BrokerSide) {
        let Some(delivery_tag) = self.holding else { return };
        broker.relay_body(Role::Replay, bytes, last);
        if last {
            self.holding = None;
            broker.give_back(Role::Replay, delivery_tag, true);
            self.fetch(broker);
        }
    }

    /// A message that was to be kept, too, reaches the client.
    pub(in crate::bridge) fn overtakes(&mut self) {
        let is_idle = matches!(self.phase, Phase::Idle) && self.jobs.is_empty() && self.waiting.is_empty();
        self.overtaken.overtakes(is_idle);
    }

    /// The broker refused what was asked, and closed the channel.
    pub(in crate::bridge) fn refused(&mut self, why: Refused<'_>, broker: &mut BrokerSide) {
        self.holding = None;
        let missing_left = self.missing_left.checked_sub(1).filter(|_| why.code == NOT_FOUND);
        let Some(missing_left) = missing_left else { return self.stop() };
        self.missing_left = missing_left;
        // Those behind the one that is missing were not looked at.
        let is_blamed = |at: usize| at == 0 && why.method == MethodId::BASIC_GET;
        let fetched = core::mem::take(&mut self.fetching).into_iter().enumerate();
        self.found.extend(fetched.filter(|&(at, _)| !is_blamed(at)).map(|(_, found)| found));
        let filter = match core::mem::replace(&mut self.phase, Phase::Fetching { filter: None }) {
            Phase::Asking { filter, .. }
            | Phase::Questioning { filter, .. }
            | Phase::Listening { filter, .. } => {
                self.has_answers = false;
                self.jobs.push_front(filter);
                None
            }
            Phase::Fetching { filter } => filter,
            Phase::Idle => None,
        };
        self.phase = Phase::Fetching { filter };
        self.fetch(broker);
    }

    /// The client's user may not read what is kept.
    fn stop(&mut self) {
        self.is_off = true;
        self.jobs.clear();
        self.found.clear();
        self.fetching.clear();
        self.waiting.clear();
        self.phase = Phase::Idle;
    }
}
