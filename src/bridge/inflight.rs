//! Messages on their way: from the client until the broker confirms them, and to the client until it acknowledges them.

use core::ops::RangeInclusive;
use std::collections::{BTreeMap, VecDeque};

use super::again::Draft;
use crate::mqtt::{PacketId, QoS};
use crate::time::Instant;

/// Publishes of the client at QoS 1 and 2, and of messages to be retained, that are not finished.
///
/// Receipts go out in the order of the PUBLISHes that they are for [MQTT-4.6.0-2, MQTT-4.6.0-3], and become ready in another one: the
/// broker confirms in the order that it likes, what is to be retained waits until it is kept, and what was refused is published again.
/// So they stand in line, and one that is ready waits for those before it.
///
/// Bounded by the packet identifiers there are, since one that is in use is not taken twice, as long as the broker does not leave
/// the oldest unconfirmed for ever.
#[derive(Default)]
pub(super) struct Publications {
    by_id: BTreeMap<PacketId, Stage>,
    /// In the order of the broker's confirm numbers; `None` once confirmed out of order.
    unconfirmed: VecDeque<Option<Unconfirmed>>,
    /// Confirm number of the front of `unconfirmed`, less one.
    confirmed: u64,
    /// Bytes of the copies of all that may be published again.
    drafted: usize,
    /// In the order of PUBLISHes: one for each identifier with a stage but [`Stage::Received`], and some that are left out.
    line: VecDeque<Due>,
    /// Of the front of `line`.
    first: PlaceInLine,
    /// How many are at [`Stage::Released`].
    released: usize,
}

/// A receipt's place in line, by which it is known for ever.
pub(super) type PlaceInLine = u64;

/// A receipt in line.
struct Due {
    /// `None` when there will be none.
    id: Option<PacketId>,
    /// What it waits for besides those before it: to be confirmed, to be kept.
    awaits: u8,
}

struct Unconfirmed {
    /// None at QoS 0.
    place: Option<PlaceInLine>,
    /// A hash of its routing key, where that may come to matter.
    topic: u64,
    sent: Instant,
    /// By which it can be published again.
    draft: Option<Draft>,
}

impl Unconfirmed {
    fn drafted(&self) -> usize {
        self.draft.as_ref().map_or(0, Draft::len)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// QoS 1: PUBACK is due.
    Puback,
    /// QoS 2: PUBREC is due.
    Pubrec,
    /// QoS 2: PUBREL has come, PUBCOMP is due; in the place of PUBREC, if that was.
    Released,
    /// QoS 2: PUBREC was sent, PUBREL is awaited. A PUBLISH with this id is the same message again. [MQTT-4.3.3-2]
    Received,
}

/// What to do with a PUBLISH at QoS 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Publish it.
    New,
    /// It is on its way already; its answer will come.
    Pending,
    /// It is stored: say so again with PUBREC.
    Stored,
}

/// What the client is owed for a message that the broker has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receipt {
    Puback(PacketId),
    Pubrec(PacketId),
    Pubcomp(PacketId),
}

impl Publications {
    /// A PUBLISH arrives; `Arrival::New` takes the next confirm number.
    pub(super) fn arrive(&mut self, id: PacketId, qos: QoS, topic: u64, now: Instant) -> Arrival {
        let arrival = self.enter(id, qos, 1);
        if arrival == Arrival::New {
            self.push(Some(self.last_place()), topic, now);
        }
        arrival
    }

    /// A PUBLISH arrives that the broker does not hear of, and that is counted as taken.
    pub(super) fn arrive_dropped(&mut self, id: PacketId, qos: QoS) -> Arrival {
        self.enter(id, qos, 0)
    }

    fn enter(&mut self, id: PacketId, qos: QoS, awaits: u8) -> Arrival {
        match self.by_id.get(&id) {
            Some(Stage::Puback | Stage::Pubrec | Stage::Released) => Arrival::Pending,
            Some(Stage::Received) if qos == QoS::ExactlyOnce => Arrival::Stored,
            // A client that gives up a QoS 2 exchange for a new message: let it.
            Some(Stage::Received) | None => {
                self.by_id.insert(id, if qos == QoS::ExactlyOnce { Stage::Pubrec } else { Stage::Puback });
                self.line.push_back(Due { id: Some(id), awaits });
                Arrival::New
            }
        }
    }

    /// A PUBLISH at QoS 0 that is confirmed to us alone takes the next confirm number.
    pub(super) fn arrive_unacknowledged(&mut self, topic: u64, now: Instant) {
        self.push(None, topic, now);
    }

    /// A message that has not been confirmed takes another confirm number.
    pub(super) fn arrive_again(&mut self, nacked: Nacked, topic: u64, sent: Instant) {
        let Nacked { place, draft } = nacked;
        self.unconfirmed.push_back(Some(Unconfirmed { place: Some(place), topic, sent, draft: Some(draft) }));
    }

    fn push(&mut self, place: Option<PlaceInLine>, topic: u64, sent: Instant) {
        self.unconfirmed.push_back(Some(Unconfirmed { place, topic, sent, draft: None }));
    }

    /// Of the PUBLISH that came last.
    pub(super) fn last_place(&self) -> PlaceInLine {
        (self.first + self.line.len() as PlaceInLine).saturating_sub(1)
    }

    /// A copy of the message that came last is held.
    pub(super) fn hold(&mut self, draft: Draft) {
        if let Some(Some(last)) = self.unconfirmed.back_mut() {
            self.drafted += draft.len();
            last.draft = Some(draft);
        }
    }

    /// Bytes of the copies that are held.
    pub(super) const fn drafted(&self) -> usize {
        self.drafted
    }

    /// Whether a PUBLISH that arrives would be [`Arrival::New`].
    pub(super) fn is_new(&self, id: PacketId, qos: QoS) -> bool {
        match self.by_id.get(&id) {
            Some(Stage::Puback | Stage::Pubrec | Stage::Released) => false,
            Some(Stage::Received) => qos != QoS::ExactlyOnce,
            None => true,
        }
    }

    /// How many wait for the broker's confirm, those that were overtaken included.
    pub(super) fn unconfirmed(&self) -> usize {
        self.unconfirmed.len()
    }

    /// How many there are of which something is held.
    pub(super) fn under_way(&self) -> usize {
        self.unconfirmed.len().max(self.line.len())
    }

    /// A PUBLISH is kept, too, without which the client does not hear that it is taken.
    pub(super) fn await_keeping(&mut self, place: PlaceInLine) {
        if let Some(due) = self.due(place) {
            due.awaits += 1;
        }
    }

    /// A message is kept, or will not be.
    pub(super) fn kept(&mut self, place: PlaceInLine) {
        if let Some(due) = self.due(place) {
            due.awaits = due.awaits.saturating_sub(1);
        }
    }

    fn due(&mut self, place: PlaceInLine) -> Option<&mut Due> {
        self.line.get_mut(usize::try_from(place.checked_sub(self.first)?).ok()?)
    }

    /// Nobody will confirm what is not confirmed.
    pub(super) fn forget_unconfirmed(&mut self) {
        for place in core::mem::take(&mut self.unconfirmed).into_iter().flatten().filter_map(|it| it.place) {
            self.leave_out(place);
        }
        self.drafted = 0;
    }

    /// There will be no receipt, and the identifier is free.
    fn leave_out(&mut self, place: PlaceInLine) {
        let Some(due) = self.due(place) else { return };
        due.awaits = 0;
        if let Some(id) = due.id.take()
            && self.by_id.remove(&id) == Some(Stage::Released)
        {
            self.released -= 1;
        }
    }

    /// PUBREL arrives: whether PUBCOMP is due now, as it is when nobody waits for the PUBREL. PUBCOMPs come in the order of PUBRELs.
    pub(super) fn release(&mut self, id: PacketId) -> bool {
        match self.by_id.get_mut(&id) {
            Some(Stage::Received) if self.released == 0 => drop(self.by_id.remove(&id)),
            Some(stage @ (Stage::Received | Stage::Pubrec)) => {
                if core::mem::replace(stage, Stage::Released) == Stage::Received {
                    self.line.push_back(Due { id: Some(id), awaits: 0 });
                }
                self.released += 1;
                return false;
            }
            Some(Stage::Released) => return false,
            Some(Stage::Puback) | None => {}
        }
        true
    }

    /// The broker confirms publish `number`, or all up to it; for each that the client waits for it is told when it was sent. `None` when
    /// there never was such a one.
    pub(super) fn confirm(
        &mut self,
        number: u64,
        multiple: bool,
        mut confirmed: impl FnMut(Instant),
    ) -> Option<()> {
        for index in self.numbered(number, multiple)? {
            let Some(publish) = self.unconfirmed.get_mut(index).and_then(Option::take) else { continue };
            self.drafted -= publish.drafted();
            if let Some(place) = publish.place {
                confirmed(publish.sent);
                if let Some(due) = self.due(place) {
                    due.awaits = due.awaits.saturating_sub(1);
                }
            }
        }
        self.forget_confirmed();
        Some(())
    }

    /// The broker could not take publish `number`, or all up to it. `again` has each of which there is a copy, and tells whether it will
    /// be published again; of the others the identifier is free. How many those are; `None` when there never was such a one.
    pub(super) fn nack(
        &mut self,
        number: u64,
        multiple: bool,
        mut again: impl FnMut(Nacked) -> bool,
    ) -> Option<usize> {
        let mut given_up = 0;
        for index in self.numbered(number, multiple)? {
            let Some(publish) = self.unconfirmed.get_mut(index).and_then(Option::take) else { continue };
            let drafted = publish.drafted();
            let Some(place) = publish.place else { continue };
            if !publish.draft.is_some_and(|draft| again(Nacked { place, draft })) {
                self.drafted -= drafted;
                self.leave_out(place);
                given_up += 1;
            }
        }
        self.forget_confirmed();
        Some(given_up)
    }

    /// Where a confirm number stands, or all up to it.
    fn numbered(&self, number: u64, multiple: bool) -> Option<RangeInclusive<usize>> {
        let index = usize::try_from(number.checked_sub(self.confirmed)?.checked_sub(1)?).ok()?;
        (index < self.unconfirmed.len()).then_some(if multiple { 0 } else { index }..=index)
    }

    fn forget_confirmed(&mut self) {
        while self.unconfirmed.front().is_some_and(Option::is_none) {
            self.unconfirmed.pop_front();
            self.confirmed += 1;
        }
        give_back(&mut self.unconfirmed);
    }

    /// The broker refused a publish and closed the channel, and the next one counts from 1 again. Counts the first of the topic that
    /// it names as taken; or the only one, if it names none. Whether that is certain: otherwise the client waits to hear of others, of
    /// which nobody knows whether the broker took them.
    pub(super) fn drop_refused(&mut self, topic: Option<u64>) -> bool {
        self.confirmed = 0;
        let mut lost: Vec<_> = core::mem::take(&mut self.unconfirmed).into_iter().flatten().collect();
        self.drafted -= lost.iter().map(Unconfirmed::drafted).sum::<usize>();
        let is_only = lost.len() == 1;
        let refused = lost.iter().position(|publish| is_only || Some(publish.topic) == topic);
        if let Some(place) = refused.map(|at| lost.swap_remove(at)).and_then(|publish| publish.place)
            && let Some(due) = self.due(place)
        {
            due.awaits = 0;
        }
        let mut is_certain = true;
        // At QoS 0 nobody asks.
        for place in lost.iter().filter_map(|publish| publish.place) {
            is_certain = false;
            self.leave_out(place);
        }
        is_certain
    }

    /// The next in line, if it is ready.
    pub(super) fn next_receipt(&mut self) -> Option<Receipt> {
        while let Some(due) = self.line.pop_front_if(|due| due.awaits == 0) {
            self.first += 1;
            if let Some(receipt) = due.id.and_then(|id| self.finish(id)) {
                return Some(receipt);
            }
        }
        give_back(&mut self.line);
        None
    }

    fn finish(&mut self, id: PacketId) -> Option<Receipt> {
        match self.by_id.get_mut(&id) {
            Some(stage @ Stage::Pubrec) => {
                *stage = Stage::Received;
                Some(Receipt::Pubrec(id))
            }
            Some(Stage::Puback) => {
                self.by_id.remove(&id);
                Some(Receipt::Puback(id))
            }
            Some(Stage::Released) => {
                self.by_id.remove(&id);
                self.released -= 1;
                Some(Receipt::Pubcomp(id))
            }
            Some(Stage::Received) | None => None,
        }
    }
}

/// What a burst has taken goes to the other connections, since the module's memory never shrinks; also of a client that always has
/// something on its way.
fn give_back<T>(burst: &mut VecDeque<T>) {
    let (few, capacity) = (burst.len().max(16), burst.capacity());
    if capacity > 4 * few {
        burst.shrink_to(2 * few);
    }
}

/// A publish that the broker could not take, and by which it can be published again.
pub(super) struct Nacked {
    place: PlaceInLine,
    pub(super) draft: Draft,
}

/// Deliveries at QoS 1 that the client has not acknowledged: bounded by `prefetch`, which the broker keeps.
#[derive(Default)]
pub(super) struct Deliveries {
    tags: BTreeMap<PacketId, u64>,
    last_id: u16,
}

impl Deliveries {
    /// Gives a delivery a packet id that is not in use; `None` when all are.
    pub(super) fn send(&mut self, delivery_tag: u64) -> Option<PacketId> {
        for _ in 0..u16::MAX {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if let Some(id) = PacketId::new(self.last_id)
                && !self.tags.contains_key(&id)
            {
                self.tags.insert(id, delivery_tag);
                return Some(id);
            }
        }
        None
    }

    /// Whether the client is to acknowledge a delivery with this packet id.
    pub(super) fn is_in_flight(&self, id: PacketId) -> bool {
        self.tags.contains_key(&id)
    }

    /// PUBACK arrives: the delivery to acknowledge, if there is one.
    pub(super) fn acknowledge(&mut self, id: PacketId) -> Option<u64> {
        self.tags.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> PacketId {
        PacketId::new(n).unwrap()
    }

    fn receipts(p: &mut Publications) -> Vec<Receipt> {
        core::iter::from_fn(|| p.next_receipt()).collect()
    }

    fn confirm(p: &mut Publications, number: u64, multiple: bool) -> Option<Vec<Receipt>> {
        p.confirm(number, multiple, |_| ())?;
        Some(receipts(p))
    }

    /// Nothing is published again.
    fn nack(p: &mut Publications, number: u64) -> Option<Vec<Receipt>> {
        p.nack(number, false, |_| false)?;
        Some(receipts(p))
    }

    fn arrive(p: &mut Publications, ids: impl IntoIterator<Item = u16>, qos: QoS) {
        for n in ids {
            assert_eq!(p.arrive(id(n), qos, 0, Instant::ZERO), Arrival::New);
        }
    }

    fn pubacks<const N: usize>(ids: [u16; N]) -> Option<Vec<Receipt>> {
        Some(ids.map(|n| Receipt::Puback(id(n))).into())
    }

    #[test]
    fn receipts_come_in_order_though_confirms_come_in_any_and_in_bulk() {
        let mut p = Publications::default();
        arrive(&mut p, [10, 20, 30, 40, 50], QoS::AtLeastOnce);
        assert_eq!(confirm(&mut p, 2, false), pubacks([]), "the first is to come first");
        assert_eq!(confirm(&mut p, 3, true), pubacks([10, 20, 30]));
        assert_eq!(confirm(&mut p, 5, false), pubacks([]));
        assert_eq!(confirm(&mut p, 4, false), pubacks([40, 50]));
        assert_eq!(confirm(&mut p, 6, false), None, "never published");
        assert_eq!(confirm(&mut p, 0, true), None, "numbers start at 1");
    }

    #[test]
    fn what_is_to_be_kept_is_waited_for_also_by_those_behind() {
        let mut p = Publications::default();
        arrive(&mut p, [1], QoS::AtLeastOnce);
        let place = p.last_place();
        p.await_keeping(place);
        arrive(&mut p, [2], QoS::AtLeastOnce);
        assert_eq!(confirm(&mut p, 2, true), pubacks([]));
        assert_eq!(p.under_way(), 2);
        p.kept(place);
        assert_eq!(receipts(&mut p), [Receipt::Puback(id(1)), Receipt::Puback(id(2))]);
        assert_eq!(p.under_way(), 0);
        p.kept(place);
        arrive(&mut p, [3], QoS::AtLeastOnce);
        p.kept(place);
        assert_eq!(receipts(&mut p), [], "who is no more in line is nobody else");
    }

    #[test]
    fn what_is_given_up_holds_up_nobody() {
        let mut p = Publications::default();
        arrive(&mut p, [1, 2, 3], QoS::AtLeastOnce);
        assert_eq!(confirm(&mut p, 2, false), pubacks([]));
        assert_eq!(nack(&mut p, 1), pubacks([2]));
        arrive(&mut p, [1], QoS::AtLeastOnce);
        assert_eq!(confirm(&mut p, 4, true), pubacks([3, 1]));
        arrive(&mut p, [4], QoS::AtLeastOnce);
        p.forget_unconfirmed();
        arrive(&mut p, [5], QoS::AtLeastOnce);
        assert_eq!(p.arrive_dropped(id(6), QoS::AtLeastOnce), Arrival::New);
        assert_eq!(receipts(&mut p), []);
        assert!(p.drop_refused(None), "there is but one");
        assert_eq!(receipts(&mut p), [Receipt::Puback(id(5)), Receipt::Puback(id(6))]);
    }

    #[test]
    fn what_a_burst_takes_is_given_back_while_some_are_on_their_way() {
        let mut p = Publications::default();
        arrive(&mut p, 1..=10_000, QoS::AtLeastOnce);
        confirm(&mut p, 9_999, true);
        assert!(p.unconfirmed.capacity() <= 64, "{}", p.unconfirmed.capacity());
        assert!(p.line.capacity() <= 64, "{}", p.line.capacity());
        assert_eq!(confirm(&mut p, 10_000, false), pubacks([10_000]));
    }

    #[test]
    fn a_qos_2_message_is_published_once_until_it_is_released() {
        let mut p = Publications::default();
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::New);
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::Pending);
        assert_eq!(confirm(&mut p, 1, false), Some(vec![Receipt::Pubrec(id(7))]));
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::Stored);
        assert!(p.release(id(7)));
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::New);
    }

    #[test]
    fn a_release_ahead_of_the_confirm_puts_pubcomp_in_pubrec_s_place() {
        let mut p = Publications::default();
        arrive(&mut p, [6], QoS::ExactlyOnce);
        assert_eq!(confirm(&mut p, 1, false), Some(vec![Receipt::Pubrec(id(6))]));
        arrive(&mut p, [7], QoS::ExactlyOnce);
        assert!(!p.release(id(7)));
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::Pending);
        assert!(!p.release(id(6)), "behind the other's");
        assert_eq!(confirm(&mut p, 2, false), Some(vec![Receipt::Pubcomp(id(7)), Receipt::Pubcomp(id(6))]));
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::New);
        assert_eq!(confirm(&mut p, 3, false), Some(vec![Receipt::Pubrec(id(7))]));
        assert!(p.release(id(7)), "nobody is before it");
    }

    #[test]
    fn packet_ids_in_use_are_passed_over() {
        let mut d = Deliveries { last_id: u16::MAX - 1, ..Deliveries::default() };
        assert_eq!(d.send(1), PacketId::new(u16::MAX));
        assert_eq!(d.send(2), PacketId::new(1));
        d.last_id = u16::MAX;
        assert_eq!(d.send(3), PacketId::new(2));
        assert_eq!(d.acknowledge(id(1)), Some(2));
        assert_eq!(d.acknowledge(id(1)), None);
    }
}
