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
//! which it arrives. While one reader holds a message the others find its queue empty, and try again.

use std::collections::VecDeque;
use std::rc::Rc;

use super::{Names, QUESTION_PRIORITY, question_key};
use crate::amqp::reply_code::NOT_FOUND;
use crate::amqp::{
    Address, ClientMethod, ContentHeader, MqttHeaders, Properties, QueueArguments, QueueFlags, ShortStr,
};
use crate::bridge::broker::BrokerSide;
use crate::bridge::channel::{Awaited, Role};
use crate::bridge::queues::Level;
use crate::config::ShortText;
use crate::mqtt::QoS;
use crate::time::{Duration, Instant};
use crate::topic;

/// How many answers are taken at once.
const ANSWERS: usize = 32;

/// How many messages are held at once, out of reach for other readers.
const MESSAGES: usize = 8;

/// How often an empty queue is asked again at once, and how often after a while, each time twice as long: a reader whose host died
/// holds its message for as long as the broker takes to notice. A queue may also be empty because it waits for a will.
const ATTEMPTS_AT_ONCE: u8 = 3;
const ATTEMPTS: u8 = 13;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// With more filters than this waiting, no SUBSCRIBE may come.
const MAX_FILTERS: usize = 4096;

/// The most empty queues that are asked again after a while.
const MAX_PARKED: usize = 1024;

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
    jobs: VecDeque<Job>,
    phase: Phase,
    /// Topics whose messages are to be fetched, and those that are asked for, in order.
    found: VecDeque<Found>,
    fetching: VecDeque<Found>,
    /// The delivery that basic.get has announced, and the one whose body is on its way.
    announced: u64,
    holding: Option<u64>,
    /// Those whose messages were not there, and when they are to be asked again.
    parked: Vec<(Instant, Found)>,
    /// Publishes since the channel was opened.
    published: u64,
}

enum Job {
    Filter(Filter),
    Again(Vec<Found>),
}

struct Filter {
    binding_key: Box<str>,
    level: Level,
}

/// A topic that may have a retained message.
struct Found {
    queue: ShortText,
    key: Box<str>,
    level: Level,
    attempts: u8,
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
            jobs: VecDeque::new(),
            phase: Phase::Idle,
            found: VecDeque::new(),
            fetching: VecDeque::new(),
            announced: 0,
            holding: None,
            parked: Vec::new(),
            published: 0,
        }
    }

    /// Whether another SUBSCRIBE may come.
    pub(in crate::bridge) fn has_room(&self) -> bool {
        self.jobs.len() <= MAX_FILTERS
    }

    /// The client has subscribed to a filter.
    pub(in crate::bridge) fn replay(&mut self, binding_key: &[u8], level: Level, broker: &mut BrokerSide) {
        let Ok(binding_key) = core::str::from_utf8(binding_key) else { return };
        if !self.is_off {
            self.jobs.push_back(Job::Filter(Filter { binding_key: binding_key.into(), level }));
            self.start(broker);
        }
    }

    /// When an empty queue is to be asked again.
    pub(in crate::bridge) fn wakes_at(&self) -> Option<Instant> {
        self.parked.iter().map(|&(at, _)| at).min()
    }

    /// The time has come.
    pub(in crate::bridge) fn wake(&mut self, now: Instant, broker: &mut BrokerSide) {
        let (due, later) = core::mem::take(&mut self.parked).into_iter().partition(|&(at, _)| at <= now);
        self.parked = later;
        let due: Vec<_> = due;
        self.jobs.push_back(Job::Again(due.into_iter().map(|(_, found)| found).collect()));
        self.start(broker);
    }

    /// Starts the next job when none is under way.
    fn start(&mut self, broker: &mut BrokerSide) {
        while matches!(self.phase, Phase::Idle) {
            match self.jobs.pop_front() {
                None => return,
                Some(Job::Filter(filter)) => {
                    let Some(question) = question_key(&filter.binding_key) else { continue };
                    self.open(broker);
                    let confirm = self.ask(&question, None, broker);
                    self.phase = Phase::Asking { filter, question, confirm, returned: false };
                }
                Some(Job::Again(found)) => {
                    self.found.extend(found);
                    self.phase = Phase::Fetching { filter: None };
                    self.fetch(broker);
                }
            }
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
        if let Phase::Asking { returned, .. } = &mut self.phase {
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
            Phase::Questioning { filter, confirm } if is_it(confirm) => self.listen(filter, broker),
            other => self.phase = other,
        }
    }

    fn found_something(&mut self, filter: Filter, question: &ShortText, broker: &mut BrokerSide) {
        let is_one_topic = !filter.binding_key.split('.').any(|word| matches!(word, "*" | "#"));
        if is_one_topic {
            self.find(filter.binding_key.as_bytes(), filter.level);
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
        let answers = self.answers.clone();
        self.ask(question, Some(answers.as_short().as_bytes()), broker);
        // Each queue has answered the first question before it takes note of the second.
        let confirm = self.ask(question, None, broker);
        self.phase = Phase::Questioning { filter, confirm };
    }

    fn listen(&mut self, filter: Filter, broker: &mut BrokerSide) {
        let queue = self.answers.as_short();
        for _ in 0..ANSWERS {
            let get = ClientMethod::BasicGet { queue, no_ack: true };
            broker.request(Role::Replay, get, Awaited::Replay(Step::Get));
        }
        self.phase = Phase::Listening { filter, asked: ANSWERS, drained: false };
    }

    fn find(&mut self, key: &[u8], level: Level) {
        if let Some(place) = self.names.place(key) {
            self.found.push_back(Found { queue: place.queue, key: place.key, level, attempts: 0 });
        }
    }

    /// Asks for as many messages as may be held; when there are none left, goes on with what is next.
    fn fetch(&mut self, broker: &mut BrokerSide) {
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
    pub(in crate::bridge) fn done(&mut self, now: Instant, step: Step, broker: &mut BrokerSide) {
        match (step, &mut self.phase) {
            (Step::Get, Phase::Listening { drained, .. }) => {
                *drained = true;
                self.heard(broker);
            }
            (Step::Get, _) => {
                if let Some(found) = self.fetching.pop_front() {
                    self.try_again(now, found);
                }
                self.fetch(broker);
            }
            (Step::Exchange | Step::Declare, _) => {}
        }
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

    fn try_again(&mut self, now: Instant, mut found: Found) {
        found.attempts += 1;
        match found.attempts.checked_sub(ATTEMPTS_AT_ONCE) {
            None => self.found.push_back(found),
            Some(pauses) if found.attempts < ATTEMPTS && self.parked.len() < MAX_PARKED => {
                self.parked.push((now + FIRST_PAUSE * (1 << pauses), found));
            }
            Some(_) => {}
        }
    }

    /// basic.get has a message.
    pub(in crate::bridge) const fn announced(&mut self, delivery_tag: u64) {
        self.announced = delivery_tag;
    }

    /// Its header: of an answer, or of a retained message, which is copied to `queues`, the client's at each level.
    pub(in crate::bridge) fn got(
        &mut self,
        header: &ContentHeader<'_>,
        queues: [ShortStr<'_>; 2],
        published: QoS,
        broker: &mut BrokerSide,
    ) {
        if let Phase::Listening { filter, .. } = &self.phase {
            let key = header.text(b"x-first-death-queue").and_then(|queue| self.names.topic_of(queue));
            if let Some(key) = key.filter(|key| topic::subscribes(filter.binding_key.as_bytes(), key)) {
                let level = filter.level;
                self.find(key, level);
            }
            return self.heard(broker);
        }
        let Some(found) = self.fetching.pop_front() else { return };
        // Without a payload there is none: a will's, perhaps, that was to clear it.
        if header.body_size > 0 {
            let mqtt_headers = MqttHeaders { publish_qos: published as i8, dup: false };
            let properties = Properties {
                persistent: found.level == Level::One && published > QoS::AtMostOnce,
                mqtt_headers: Some(mqtt_headers),
                retained: Some(found.key.as_bytes()),
                ..Properties::default()
            };
            let to = Address::queue(*found.level.of(&queues));
            broker.relay(to, properties, header.body_size);
            self.published += 1;
            self.holding = Some(self.announced);
        } else {
            broker.give_back(Role::Replay, self.announced);
            self.fetch(broker);
        }
    }

    /// A piece of its body.
    pub(in crate::bridge) fn body(&mut self, bytes: &[u8], last: bool, broker: &mut BrokerSide) {
        let Some(delivery_tag) = self.holding else { return };
        broker.relay_body(bytes, last);
        if last {
            self.holding = None;
            broker.give_back(Role::Replay, delivery_tag);
            self.fetch(broker);
        }
    }

    /// The broker refused what was asked, and closed the channel.
    pub(in crate::bridge) fn refused(&mut self, code: u16, broker: &mut BrokerSide) {
        self.holding = None;
        if code == NOT_FOUND && matches!(self.phase, Phase::Fetching { .. }) {
            // The message has been cleared meanwhile. Those behind it were not looked at.
            self.fetching.pop_front();
            while let Some(found) = self.fetching.pop_back() {
                self.found.push_front(found);
            }
            return self.fetch(broker);
        }
        self.is_off = true;
        self.jobs.clear();
        self.found.clear();
        self.fetching.clear();
        self.parked.clear();
        self.phase = Phase::Idle;
    }
}
