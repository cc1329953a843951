//! Messages on their way: from the client until the broker confirms them, and to the client until it acknowledges them.

use core::ops::RangeInclusive;
use std::collections::{BTreeMap, VecDeque};

use super::again::Draft;
use crate::mqtt::{PacketId, QoS};
use crate::time::Instant;

/// Publishes of the client at QoS 1 and 2, and of messages to be retained, that are not finished.
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
    /// Bytes of their copies.
    drafted: usize,
}

struct Unconfirmed {
    /// None at QoS 0.
    id: Option<PacketId>,
    /// A hash of its routing key, where that may come to matter.
    topic: u64,
    sent: Instant,
    /// Its number among those that are kept, without which the client does not hear that it is taken.
    kept_as: Option<u64>,
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
    /// QoS 1: PUBACK is due on the broker's confirm.
    Puback,
    /// QoS 2: PUBREC is due on the broker's confirm.
    Pubrec,
    /// QoS 2: PUBREL came before the confirm, on which PUBCOMP is due.
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

/// What is to be done for a message that the broker has taken.
pub(super) enum Confirmed {
    Owed(Receipt),
    /// Unless it is kept already, nothing is owed until then; [`Publications::kept`] tells what.
    Kept(u64, PacketId),
}

impl Publications {
    /// A PUBLISH arrives; `Arrival::New` takes the next confirm number.
    pub(super) fn arrive(&mut self, id: PacketId, qos: QoS, topic: u64, now: Instant) -> Arrival {
        match self.by_id.get(&id) {
            Some(Stage::Puback | Stage::Pubrec | Stage::Released) => Arrival::Pending,
            Some(Stage::Received) if qos == QoS::ExactlyOnce => Arrival::Stored,
            // A client that gives up a QoS 2 exchange for a new message: let it.
            Some(Stage::Received) | None => {
                self.by_id.insert(id, if qos == QoS::ExactlyOnce { Stage::Pubrec } else { Stage::Puback });
                self.push(Some(id), topic, now);
                Arrival::New
            }
        }
    }

    /// A PUBLISH at QoS 0 that is confirmed to us alone takes the next confirm number.
    pub(super) fn arrive_unacknowledged(&mut self, topic: u64, now: Instant) {
        self.push(None, topic, now);
    }

    /// A message that has not been confirmed takes another confirm number.
    pub(super) fn arrive_again(&mut self, nacked: Nacked, topic: u64, now: Instant) {
        let Nacked { id, kept_as, draft } = nacked;
        self.push(Some(id), topic, now);
        if let Some(serial) = kept_as {
            self.kept_as(serial);
        }
        if let Some(draft) = draft {
            self.hold(draft);
        }
    }

    fn push(&mut self, id: Option<PacketId>, topic: u64, sent: Instant) {
        self.unconfirmed.push_back(Some(Unconfirmed { id, topic, sent, kept_as: None, draft: None }));
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

    /// The PUBLISH that came last is kept, too.
    pub(super) fn kept_as(&mut self, serial: u64) {
        if let Some(Some(last)) = self.unconfirmed.back_mut() {
            last.kept_as = Some(serial);
        }
    }

    /// Nobody will confirm what is not confirmed.
    pub(super) fn forget_unconfirmed(&mut self) {
        self.unconfirmed = VecDeque::new();
        self.drafted = 0;
    }

    /// A message is kept, or will not be.
    pub(super) fn kept(&mut self, id: PacketId) -> Option<Receipt> {
        confirm_one(&mut self.by_id, id)
    }

    /// PUBREL arrives: whether PUBCOMP is due now, as it is when nobody waits for the PUBREL.
    pub(super) fn release(&mut self, id: PacketId) -> bool {
        match self.by_id.get_mut(&id) {
            Some(Stage::Received) => drop(self.by_id.remove(&id)),
            Some(stage @ (Stage::Pubrec | Stage::Released)) => {
                *stage = Stage::Released;
                return false;
            }
            Some(Stage::Puback) | None => {}
        }
        true
    }

    /// The broker confirms publish `number`, or all up to it; each is told with the time when it came. `None` when there never was
    /// such a one.
    pub(super) fn confirm(
        &mut self,
        number: u64,
        multiple: bool,
        mut confirmed: impl FnMut(Confirmed, Instant),
    ) -> Option<()> {
        for slot in self.unconfirmed.range_mut(self.numbered(number, multiple)?) {
            let publish = slot.take();
            self.drafted -= publish.as_ref().map_or(0, Unconfirmed::drafted);
            match publish {
                Some(Unconfirmed { id: Some(id), sent, kept_as: Some(serial), .. }) => {
                    confirmed(Confirmed::Kept(serial, id), sent);
                }
                Some(Unconfirmed { id: Some(id), sent, .. }) => {
                    if let Some(receipt) = confirm_one(&mut self.by_id, id) {
                        confirmed(Confirmed::Owed(receipt), sent);
                    }
                }
                Some(Unconfirmed { id: None, .. }) | None => {}
            }
        }
        self.forget_confirmed();
        Some(())
    }

    /// The broker could not take publish `number`, or all up to it. `again` is told of each with an identifier, and keeps what will be
    /// published again; of the others the identifier is free. `None` when there never was such a one.
    pub(super) fn nack(
        &mut self,
        number: u64,
        multiple: bool,
        mut again: impl FnMut(Nacked) -> bool,
    ) -> Option<()> {
        for slot in self.unconfirmed.range_mut(self.numbered(number, multiple)?) {
            let publish = slot.take();
            self.drafted -= publish.as_ref().map_or(0, Unconfirmed::drafted);
            if let Some(Unconfirmed { id: Some(id), kept_as, draft, .. }) = publish
                && !again(Nacked { id, kept_as, draft })
            {
                self.by_id.remove(&id);
            }
        }
        self.forget_confirmed();
        Some(())
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
        // What a burst has taken is given back to the other connections, since the module's memory never shrinks; also to a client that
        // always has something on its way.
        let (few, capacity) = (self.unconfirmed.len().max(16), self.unconfirmed.capacity());
        if capacity > 4 * few {
            self.unconfirmed.shrink_to(2 * few);
        }
    }

    /// The broker refused a publish and closed the channel, and the next one counts from 1 again. Counts the first of the topic that
    /// it names as taken; or the only one, if it names none.
    pub(super) fn drop_refused(&mut self, topic: Option<u64>) -> Dropped {
        self.confirmed = 0;
        self.drafted = 0;
        let mut lost: Vec<_> = core::mem::take(&mut self.unconfirmed).into_iter().flatten().collect();
        let kept_as = lost.iter().filter_map(|publish| publish.kept_as).collect();
        let is_only = lost.len() == 1;
        let refused = lost.iter().position(|publish| is_only || Some(publish.topic) == topic);
        let id = refused.map(|at| lost.swap_remove(at)).and_then(|publish| publish.id);
        // At QoS 0 nobody asks.
        let is_certain = lost.iter().all(|publish| publish.id.is_none());
        Dropped { receipt: id.and_then(|id| confirm_one(&mut self.by_id, id)), kept_as, is_certain }
    }
}

/// A publish that the broker could not take.
pub(super) struct Nacked {
    pub(super) id: PacketId,
    /// Its number among those that are kept.
    pub(super) kept_as: Option<u64>,
    /// By which it can be published again.
    pub(super) draft: Option<Draft>,
}

/// A publish that is counted as taken although it was refused.
pub(super) struct Dropped {
    pub(super) receipt: Option<Receipt>,
    /// The numbers, among those that are kept, of it and of those that are lost with it.
    pub(super) kept_as: Vec<u64>,
    /// Otherwise the client waits to hear of others, of which nobody knows whether the broker took them.
    pub(super) is_certain: bool,
}

fn confirm_one(by_id: &mut BTreeMap<PacketId, Stage>, id: PacketId) -> Option<Receipt> {
    match by_id.get_mut(&id) {
        Some(stage @ Stage::Pubrec) => {
            *stage = Stage::Received;
            Some(Receipt::Pubrec(id))
        }
        Some(Stage::Puback) => {
            by_id.remove(&id);
            Some(Receipt::Puback(id))
        }
        Some(Stage::Released) => {
            by_id.remove(&id);
            Some(Receipt::Pubcomp(id))
        }
        Some(Stage::Received) | None => None,
    }
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

    fn confirm(p: &mut Publications, number: u64, multiple: bool) -> Option<Vec<Receipt>> {
        let mut receipts = Vec::new();
        p.confirm(number, multiple, |confirmed, _| match confirmed {
            Confirmed::Owed(receipt) => receipts.push(receipt),
            Confirmed::Kept(..) => panic!("nothing was to be kept"),
        })
        .map(|()| receipts)
    }

    #[test]
    fn confirms_come_one_by_one_in_any_order_and_in_bulk() {
        let mut p = Publications::default();
        for n in 1..=5 {
            assert_eq!(p.arrive(id(n * 10), QoS::AtLeastOnce, 0, Instant::ZERO), Arrival::New);
        }
        assert_eq!(confirm(&mut p, 2, false), Some(vec![Receipt::Puback(id(20))]));
        assert_eq!(confirm(&mut p, 3, true), Some(vec![Receipt::Puback(id(10)), Receipt::Puback(id(30))]));
        assert_eq!(confirm(&mut p, 5, true), Some(vec![Receipt::Puback(id(40)), Receipt::Puback(id(50))]));
        assert_eq!(confirm(&mut p, 6, false), None, "never published");
        assert_eq!(confirm(&mut p, 0, true), None, "numbers start at 1");
    }

    #[test]
    fn what_a_burst_takes_is_given_back_while_some_are_on_their_way() {
        let mut p = Publications::default();
        for n in 1..=10_000 {
            p.arrive(id(n), QoS::AtLeastOnce, 0, Instant::ZERO);
        }
        confirm(&mut p, 9_999, true);
        assert!(p.unconfirmed.capacity() <= 64, "{}", p.unconfirmed.capacity());
        assert_eq!(confirm(&mut p, 10_000, false), Some(vec![Receipt::Puback(id(10_000))]));
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
        p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO);
        assert!(!p.release(id(7)));
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::Pending);
        assert_eq!(confirm(&mut p, 1, false), Some(vec![Receipt::Pubcomp(id(7))]));
        assert_eq!(p.arrive(id(7), QoS::ExactlyOnce, 0, Instant::ZERO), Arrival::New);
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
