//! Keeping and clearing, ahead of the message itself, so that who subscribes because of it finds it.
//!
//! ```text
//!            on the channel for topology                             on a channel with confirms
//!  first of its topic ── may it be published? declare, bind ──┐
//!                                                             v
//!  any other ────────────────────────────────────────────> publish, mandatory ──> kept
//!                                                             └─ returned: cleared meanwhile; declare, bind, publish
//!  nothing ── may it be published? delete, tell those with a will ──> cleared
//! ```
//!
//! Whether it may be published is found out by a transaction that is rolled back: the broker checks the topic of what is published
//! even when nothing comes of it. The client is not read from meanwhile, so that no payload is held here: it passes through to the
//! topic's queue and to all in the same pieces.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use super::{Names, Place, kept_at};
use crate::amqp::reply_code::{ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED};
use crate::amqp::{Address, ClientMethod, Properties, ShortStr};
use crate::bridge::broker::BrokerSide;
use crate::bridge::channel::{Awaited, Role};
use crate::bridge::inflight::PlaceInLine;
use crate::bridge::topic_hash;
use crate::event::{Event, Unkept};
use crate::mqtt::{Publish, QoS};

/// The most messages of a client that are on their way to be kept; each has its topic's key here, of at most 255 bytes.
const MAX_UNDER_WAY: usize = 64;

/// The most bytes of keys of topics that need not be seen to again.
const MAX_KNOWN: usize = 64 * 1024;

/// The most topics of a connection that log lines tell of.
const MAX_TOLD: usize = 16;

/// How often a topic's queue is made, and a message sent to it: somebody else may delete it meanwhile.
const ATTEMPTS: u8 = 5;

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Step {
    Select,
    /// The end of the transaction that says whether the message may be published.
    Trial,
    Exchange,
    /// The same, whether it may be kept.
    KeepTrial,
    Declare,
    Bind,
    Delete,
    /// Those whose wills are to be kept there have been told.
    Notice,
    /// For a message that was returned.
    Redeclare,
    Rebind,
}

/// What is to be done with a PUBLISH that is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Admission {
    /// Its topic has a queue.
    Keep,
    /// What was kept is gone, and there is nothing to keep.
    Cleared,
    /// It is to be asked again when [`Keeper::is_ready`].
    Wait,
    /// The client may not publish it.
    Refused,
    /// It is not to be kept.
    Not(Unkept),
}

/// What has become of a message, and who waits for it.
#[derive(Default)]
pub(in crate::bridge) struct Outcome {
    pub(in crate::bridge) events: Vec<Event>,
    pub(in crate::bridge) awaited: Vec<PlaceInLine>,
}

/// The messages of one client that are on their way to be kept.
pub(in crate::bridge) struct Keeper {
    pub(in crate::bridge) names: Rc<Names>,
    /// The client's user may not.
    is_off: bool,
    /// The channel for topology has transactions.
    is_selected: bool,
    /// The exchange is there, and the client may publish to it.
    has_exchange: bool,
    /// Keys of topics whose queue was there when this connection looked.
    known: BTreeSet<Box<str>>,
    known_bytes: usize,
    preparation: Option<Preparation>,
    /// What became of the preparation for the PUBLISH that waits for it.
    verdict: Option<(Box<str>, Admission)>,
    /// The PUBLISH that waits is to be the only one.
    waits_for_all: bool,
    under_way: VecDeque<UnderWay>,
    serial: u64,
    /// Publishes since the channel was opened.
    published: u64,
    /// The payload that is arriving from the client is kept, too.
    is_passing: bool,
    /// What becomes of the message that is arriving from the broker, which was returned.
    returning: Option<Returning>,
    told: Told,
}

/// Of which topics it was told that a message is not kept.
#[derive(Default)]
struct Told(BTreeSet<u64>);

impl Told {
    fn note(&mut self, key: &[u8], why: Unkept) -> Event {
        let is_first = self.0.len() < MAX_TOLD && self.0.insert(topic_hash(key));
        Event::Unkept { why, is_first }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Returning {
    PassedOver,
    /// It is sent again, by serial.
    Again(u64),
}

struct Preparation {
    place: Place,
    clears: bool,
    /// The message may be published.
    is_permitted: bool,
    /// There is a queue of other arguments, made by a build before.
    is_of_other_shape: bool,
    binds_left: usize,
    attempts: u8,
}

/// A message that is not known to be kept.
struct UnderWay {
    serial: u64,
    /// Of its confirm.
    number: u64,
    key: Box<str>,
    /// Of the receipt that waits for it, at QoS 1 and 2.
    awaited: Option<PlaceInLine>,
    attempts: u8,
    /// It was returned, and is not sent again yet.
    is_returned: bool,
    /// Nor will it be.
    is_lost: bool,
}

impl Keeper {
    pub(in crate::bridge) const fn new(names: Rc<Names>) -> Self {
        Self {
            names,
            is_off: false,
            is_selected: false,
            has_exchange: false,
            known: BTreeSet::new(),
            known_bytes: 0,
            preparation: None,
            verdict: None,
            waits_for_all: false,
            under_way: VecDeque::new(),
            serial: 0,
            published: 0,
            is_passing: false,
            returning: None,
            told: Told(BTreeSet::new()),
        }
    }

    /// Whether the broker has been asked for something without which the next retained PUBLISH cannot go on.
    pub(in crate::bridge) const fn is_preparing(&self) -> bool {
        self.preparation.is_some() || self.returning.is_some()
    }

    /// Whether all that was to be kept is.
    pub(in crate::bridge) fn is_settled(&self) -> bool {
        !self.is_preparing() && !self.is_passing && self.under_way.is_empty()
    }

    /// Whether the PUBLISH that waits may be looked at again.
    pub(in crate::bridge) fn is_ready(&self) -> bool {
        let has_room =
            if self.waits_for_all { self.under_way.is_empty() } else { self.under_way.len() < MAX_UNDER_WAY };
        !self.is_preparing() && has_room
    }

    /// Whether nothing needs to be asked for the next PUBLISH.
    pub(in crate::bridge) fn is_ready_for(&self, key: &[u8], clears: bool) -> bool {
        let is_known = core::str::from_utf8(key).is_ok_and(|key| self.known.contains(key));
        let is_judged = self.verdict.as_ref().is_some_and(|(of, _)| of.as_bytes() == key);
        self.is_off || is_judged || is_known && !clears
    }

    /// A PUBLISH arrives that `exchange` is to route; `clears` when nothing is to be kept, `is_whole` when all of its payload is there.
    pub(in crate::bridge) fn admit(
        &mut self,
        key: &[u8],
        (clears, is_whole): (bool, bool),
        exchange: ShortStr<'_>,
        broker: &mut BrokerSide,
    ) -> Admission {
        if self.is_off {
            return Admission::Not(Unkept::Refused);
        }
        let Some(place) = self.names.place(key) else { return Admission::Not(Unkept::Name) };
        if self.is_preparing() {
            return Admission::Wait;
        }
        if let Some((_, verdict)) = self.verdict.take().filter(|(of, _)| *of == place.key) {
            return verdict;
        }
        let is_known = !clears && self.known.contains(&place.key);
        // What is returned is sent again on the channel of a payload that is arriving, so that there can be but one of them. And nothing
        // that is on its way may come behind a clear.
        self.waits_for_all = clears || !is_whole;
        if self.under_way.len() >= MAX_UNDER_WAY || self.waits_for_all && !self.under_way.is_empty() {
            return Admission::Wait;
        }
        if is_known {
            return Admission::Keep;
        }
        self.preparation = Some(Preparation {
            place,
            clears,
            is_permitted: false,
            is_of_other_shape: false,
            binds_left: 0,
            attempts: ATTEMPTS,
        });
        self.prepare(exchange, broker);
        Admission::Wait
    }

    /// Asks for what the topic needs, in one flight.
    pub(in crate::bridge) fn prepare(&mut self, exchange: ShortStr<'_>, broker: &mut BrokerSide) {
        let Some(preparation) = &mut self.preparation else { return };
        let place = &preparation.place;
        let ask = |broker: &mut BrokerSide, method: ClientMethod<'_>, step| {
            broker.request(Role::Topology, method, Awaited::Keep(step));
        };
        if !core::mem::replace(&mut self.is_selected, true) {
            ask(broker, ClientMethod::TxSelect, Step::Select);
        }
        let mut try_to_publish = |exchange, routing_key, step| {
            let to = Address { exchange, routing_key, mandatory: false };
            broker.publish_whole(Role::Topology, to, Properties::default(), &[]);
            ask(broker, ClientMethod::TxRollback, step);
        };
        if let Some(routing_key) = ShortStr::new(place.key.as_bytes()) {
            try_to_publish(exchange, routing_key, Step::Trial);
        }
        if !self.has_exchange {
            ask(broker, self.names.declare(), Step::Exchange);
            let Address { exchange, routing_key, .. } = self.names.address(&place.own_key);
            let to = Address { exchange, routing_key, mandatory: false };
            broker.publish_whole(Role::Topology, to, Properties::default(), &[]);
            ask(broker, ClientMethod::TxRollback, Step::KeepTrial);
        }
        if preparation.clears {
            ask(broker, place.clear(), Step::Delete);
            // A will may be waiting to be kept there.
            self.names.tell(place, Role::Topology, broker);
            return ask(broker, ClientMethod::TxCommit, Step::Notice);
        }
        if !preparation.is_of_other_shape {
            ask(broker, place.declare(), Step::Declare);
        }
        preparation.binds_left = 0;
        for binding in self.names.bindings(place) {
            ask(broker, self.names.bind(place, &binding), Step::Bind);
            preparation.binds_left += 1;
        }
    }

    /// A step is done.
    pub(in crate::bridge) fn done(&mut self, step: Step) -> Option<Event> {
        let preparation = self.preparation.as_mut()?;
        match step {
            Step::Trial => preparation.is_permitted = true,
            Step::KeepTrial => self.has_exchange = true,
            Step::Bind => {
                preparation.binds_left = preparation.binds_left.saturating_sub(1);
                if preparation.binds_left == 0 {
                    let key = self.preparation.take()?.place.key;
                    self.learn(key);
                }
            }
            Step::Notice => {
                let key = self.preparation.take()?.place.key;
                if self.known.remove(&key) {
                    self.known_bytes = self.known_bytes.saturating_sub(key.len());
                }
                self.verdict = Some((key, Admission::Cleared));
                return Some(Event::Cleared);
            }
            Step::Select | Step::Exchange | Step::Declare | Step::Delete | Step::Redeclare | Step::Rebind => {
            }
        }
        None
    }

    fn learn(&mut self, key: Box<str>) {
        self.known_bytes += key.len();
        self.known.insert(key);
        while self.known_bytes > MAX_KNOWN
            && let Some(other) = self.known.pop_first()
        {
            self.known_bytes = self.known_bytes.saturating_sub(other.len());
        }
    }

    /// The channel for topology was closed; `is_blamed` when for what was asked here. Whether what is under way on it is to be asked
    /// again by [`Keeper::prepare`].
    ///
    /// # Errors
    /// When the PUBLISH that waits is refused.
    pub(in crate::bridge) fn topology_closed(&mut self, code: u16, is_blamed: bool) -> Result<bool, ()> {
        self.is_selected = false;
        let Some(preparation) = &mut self.preparation else { return Ok(false) };
        if !is_blamed {
            return Ok(true);
        }
        if !preparation.is_permitted {
            self.verdict = self.preparation.take().map(|it| (it.place.key, Admission::Refused));
            return Err(());
        }
        preparation.is_permitted = false;
        preparation.attempts = preparation.attempts.saturating_sub(1);
        match code {
            NOT_FOUND if preparation.attempts > 0 => return Ok(true),
            PRECONDITION_FAILED if self.has_exchange && !preparation.is_of_other_shape => {
                preparation.is_of_other_shape = true;
                return Ok(true);
            }
            // Another time, perhaps.
            NOT_FOUND => {
                let why = Admission::Not(Unkept::Cleared);
                self.verdict = self.preparation.take().map(|it| (it.place.key, why));
            }
            _ => {
                self.is_off = true;
                self.preparation = None;
            }
        }
        Ok(false)
    }

    /// Starts to keep a PUBLISH that was admitted, for which a receipt waits; whether it does.
    pub(in crate::bridge) fn keep(
        &mut self,
        key: &[u8],
        publish: &Publish<'_>,
        awaited: Option<PlaceInLine>,
        broker: &mut BrokerSide,
    ) -> bool {
        let Some(place) = self.names.place(key) else { return false };
        if broker.open(Role::Keep) {
            self.published = 0;
        }
        let to = self.names.address(&place.own_key);
        broker.relay(Role::Keep, to, kept_at(publish.qos), publish.payload_len.into());
        self.published += 1;
        self.serial += 1;
        self.is_passing = true;
        self.under_way.push_back(UnderWay {
            serial: self.serial,
            number: self.published,
            key: place.key,
            awaited,
            attempts: ATTEMPTS,
            is_returned: false,
            is_lost: false,
        });
        true
    }

    /// A piece of a PUBLISH's payload.
    pub(in crate::bridge) fn payload(&mut self, bytes: &[u8], last: bool, broker: &mut BrokerSide) {
        if self.is_passing {
            broker.relay_body(Role::Keep, bytes, last);
            self.is_passing = !last;
        }
    }

    /// A message is not kept.
    pub(in crate::bridge) fn unkept(&mut self, key: &[u8], why: Unkept) -> Event {
        self.told.note(key, why)
    }

    /// No queue took a message; its content follows.
    pub(in crate::bridge) fn returned(&mut self, routing_key: &[u8]) {
        let is_passing = self.is_passing;
        let key = self.names.key_of(routing_key).unwrap_or_default();
        if let Some(gone) = core::str::from_utf8(key).ok().and_then(|key| self.known.take(key)) {
            self.known_bytes = self.known_bytes.saturating_sub(gone.len());
        }
        let is_it = |it: &&mut UnderWay| !it.is_returned && it.key.as_bytes() == key;
        let mut same = self.under_way.iter_mut().filter(is_it);
        let first = same.next();
        let is_superseded = same.next().is_some();
        self.returning = Some(Returning::PassedOver);
        if let Some(it) = first {
            it.is_returned = true;
            match it.attempts.checked_sub(1) {
                Some(left) if !is_superseded && !is_passing => {
                    it.attempts = left;
                    self.returning = Some(Returning::Again(it.serial));
                }
                // What is newer is kept, or was returned itself.
                _ => it.is_lost = !is_superseded,
            }
        }
    }

    /// Its header.
    pub(in crate::bridge) fn returned_content(&mut self, published: QoS, size: u64, broker: &mut BrokerSide) {
        self.returning = self.returning.filter(|_| size > 0);
        let Some(Returning::Again(serial)) = self.returning else { return };
        let Some(it) = self.under_way.iter_mut().find(|it| it.serial == serial) else { return };
        let Some(place) = self.names.place(it.key.as_bytes()) else { return };
        broker.request(Role::Keep, place.declare(), Awaited::Keep(Step::Redeclare));
        for binding in self.names.bindings(&place) {
            broker.request(Role::Keep, self.names.bind(&place, &binding), Awaited::Keep(Step::Rebind));
        }
        broker.relay(Role::Keep, self.names.address(&place.own_key), kept_at(published), size);
        self.published += 1;
        (it.number, it.is_returned) = (self.published, false);
    }

    /// A piece of its body.
    pub(in crate::bridge) fn returned_body(&mut self, bytes: &[u8], last: bool, broker: &mut BrokerSide) {
        if matches!(self.returning, Some(Returning::Again(_))) {
            broker.relay_body(Role::Keep, bytes, last);
        }
        if last {
            self.returning = None;
        }
    }

    /// The broker has handled a message, or all up to it, and has taken it if it `is_taken`.
    pub(in crate::bridge) fn confirmed(&mut self, number: u64, multiple: bool, is_taken: bool) -> Outcome {
        self.finish(|it| {
            let is_meant = it.number == number || multiple && it.number < number;
            let unkept = match (is_taken, it.is_lost) {
                (true, false) => None,
                (true, true) => Some(Unkept::Cleared),
                (false, _) => Some(Unkept::Nack),
            };
            is_meant.then_some(unkept)
        })
    }

    /// Those that are done, and why they are not kept.
    fn finish(&mut self, done: impl Fn(&UnderWay) -> Option<Option<Unkept>>) -> Outcome {
        let mut outcome = Outcome::default();
        let told = &mut self.told;
        self.under_way.retain(|it| {
            let Some(unkept) = done(it) else { return true };
            outcome.events.push(unkept.map_or(Event::Kept, |why| told.note(it.key.as_bytes(), why)));
            outcome.awaited.extend(it.awaited);
            false
        });
        outcome
    }

    /// The broker closed the channel on which messages are kept: what is under way is lost.
    pub(in crate::bridge) fn refused(&mut self, code: u16) -> Outcome {
        self.is_off |= code == ACCESS_REFUSED;
        self.is_passing = false;
        self.returning = None;
        self.known.clear();
        self.known_bytes = 0;
        let why = if code == ACCESS_REFUSED { Unkept::Refused } else { Unkept::Cleared };
        self.finish(|_| Some(Some(why)))
    }
}
