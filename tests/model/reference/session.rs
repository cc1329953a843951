//! A session: what its client is subscribed to, and what it is to hear.

use super::Message;
use super::filter::{Filter, Topic};
use crate::world::{Delivery, Heard};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Session {
    pub(super) is_kept: bool,
    pub(super) subscriptions: Subscriptions,
    /// Subscriptions as they were in this batch, before each change.
    pub(super) earlier: Vec<Subscriptions>,
    /// Its client came or went in this batch: nobody can tell to which connection a message went.
    pub(super) is_unsettled: bool,
    /// Since when its client is away.
    pub(super) away: Option<u64>,
    /// Until when it may be an earlier connection, whose host is gone, that is sent the messages.
    pub(super) haunted: Option<u64>,
    /// Messages at QoS 0 and 1.
    pub(super) queues: [Vec<Copy>; 2],
}

/// Filters with the QoS that was granted.
pub(super) type Subscriptions = BTreeMap<Filter, u8>;

pub(super) struct Copy {
    pub(super) message: usize,
    pub(super) batch: u32,
    /// It may not be there: allowed, not required.
    pub(super) is_possible: bool,
    /// Whether it was sent before; `None` when nobody can know.
    pub(super) dup: Option<bool>,
    /// Its packet id, once it is sent at QoS 1.
    pub(super) sent: Option<u16>,
    /// It comes at both levels, at QoS 0, and nobody can tell one copy from the other.
    pub(super) is_twin: bool,
}

impl Session {
    /// Whether a message of this batch may have, and must have, come in at this QoS: by any of the subscriptions of this batch, or where
    /// it is its client's `own`, by those that came before it.
    ///
    /// Nobody can list what a kept session is subscribed to, so it may get what starts with `$` by a wildcard; and so may a client
    /// that subscribes to it while the message waits.
    pub(super) fn is_subscribed(
        &self,
        own: Option<&Subscriptions>,
        topic: &Topic,
        qos: u8,
        may_wait: bool,
    ) -> (bool, bool) {
        let all = || self.earlier.iter().chain([&self.subscriptions]).filter(|_| own.is_none());
        let states = || all().chain(own);
        let matches = |subscriptions: &Subscriptions, by_wildcard: bool| {
            subscriptions.iter().any(|(filter, &granted)| {
                let is_kept_from = topic.is_special() && filter.starts_with_wildcard() && !by_wildcard;
                granted == qos && filter.matches(topic) && !is_kept_from
            })
        };
        (states().any(|it| matches(it, self.is_kept || may_wait)), states().all(|it| matches(it, false)))
    }

    /// What was sent and not acknowledged is to be sent again.
    pub(super) fn come_back(&mut self) {
        for copy in self.queues[1].iter_mut().filter(|copy| copy.sent.is_some()) {
            copy.sent = None;
            copy.dup = Some(true);
        }
    }

    /// What waits when its filter goes may still be sent, and what does not start with `$` is.
    pub(super) fn may_forget(&mut self, filter: &Filter, messages: &[Message]) {
        for copy in self.queues.iter_mut().flatten() {
            let topic = Topic::new(&messages[copy.message].topic);
            copy.is_possible |= topic.is_special() && filter.matches(&topic);
        }
    }

    /// What waits may be sent on a connection that does not last.
    pub(super) fn lose_track(&mut self, messages: &[Message]) {
        for (qos, copy) in
            (0..).zip(&mut self.queues).flat_map(|(qos, queue)| queue.iter_mut().map(move |it| (qos, it)))
        {
            copy.is_possible |= messages[copy.message].qos.min(qos) == 0;
            copy.dup = copy.dup.filter(|&dup| dup);
        }
    }

    /// Only so many messages at QoS 0 wait for a client that is away, or perhaps was when they came.
    pub(super) fn forget_oldest(&mut self, is_away: bool, most: usize, messages: &[Message]) {
        let kept = std::mem::take(&mut self.queues[0]);
        let count = |is_counted: &dyn Fn(&Copy) -> bool| kept.iter().filter(|it| is_counted(it)).count();
        let fates: Vec<(bool, bool)> = kept
            .iter()
            .map(|copy| {
                let is_pushed_out = count(&|it| !it.is_possible && precedes(copy, it, messages)) >= most;
                let may_be_pushed_out =
                    count(&|it| it.message != copy.message && !precedes(it, copy, messages)) >= most;
                (is_pushed_out, may_be_pushed_out)
            })
            .collect();
        for (mut copy, (is_pushed_out, may_be_pushed_out)) in kept.into_iter().zip(fates) {
            copy.is_possible |= may_be_pushed_out;
            if !is_pushed_out || !is_away {
                self.queues[0].push(copy);
            }
        }
    }

    /// What came on a connection that has ended need not come again, if it was acknowledged.
    pub(super) fn heard_before_the_end(&mut self, it: &Heard, holds_acks: bool, messages: &[Message]) {
        let Heard::Publish(it) = it else { return };
        for copy in
            self.queues.iter_mut().flatten().filter(|copy| messages[copy.message].payload == it.payload)
        {
            copy.is_possible |= !holds_acks || it.qos == 0;
            copy.dup = None;
        }
    }

    pub(super) fn judge_delivery(
        &mut self,
        it: &Delivery,
        holds_acks: bool,
        messages: &[Message],
    ) -> Result<(), String> {
        let in_queue = |queue: usize| {
            let at = self.queues[queue].iter().position(|copy| {
                let message = &messages[copy.message];
                copy.sent.is_none()
                    && message.payload == it.payload
                    && message.qos.min(queue as u8) == it.qos
                    && copy.dup.is_none_or(|dup| dup == it.dup)
                    && Topic::new(&message.topic).arrives_as() == it.topic
            })?;
            Some((queue, at))
        };
        let found = [in_queue(0), in_queue(1)];
        let Some((queue, at)) = found[0].or(found[1]).filter(|_| !it.retain) else {
            return Err(format!("hears what it is not to hear: {}", told(it)));
        };
        if let [Some((_, zero)), Some((_, one))] = found
            && self.queues[0][zero].is_possible
        {
            // They look the same: if there is but one, it may be this.
            self.queues[1][one].is_possible = true;
        }
        let copy = self.queues[queue].remove(at);
        let is_overtaken = |other: &Copy| {
            !copy.is_twin && !other.is_twin && other.sent.is_none() && precedes(other, &copy, messages)
        };
        if let Some(first) = self.queues[queue].iter().find(|other| !other.is_possible && is_overtaken(other))
        {
            return Err(format!("hears out of order: {}, before {:?}", told(it), messages[first.message]));
        }
        self.queues[queue].retain(|other| !is_overtaken(other));
        if it.qos == 1 && holds_acks {
            self.queues[queue].push(Copy { sent: Some(it.id), ..copy });
            self.queues[queue].sort_by_key(|copy| copy.message);
        }
        Ok(())
    }

    pub(super) fn judge_rest(&mut self, prefetch: usize, messages: &[Message]) -> Result<(), String> {
        let sent = self.queues[1].iter().filter(|copy| copy.sent.is_some()).count();
        if sent > prefetch {
            return Err(format!("{sent} unacknowledged deliveries at once"));
        }
        let [zero, one] = &mut self.queues;
        let room = sent < prefetch;
        let mut missing = zero.iter().chain(one.iter().filter(|copy| room && copy.sent.is_none()));
        if let Some(copy) = missing.find(|copy| !copy.is_possible) {
            return Err(format!("does not hear {:?}", messages[copy.message]));
        }
        zero.clear();
        if room {
            one.retain(|copy| copy.sent.is_some());
        }
        Ok(())
    }
}

/// Whether one copy is to be delivered before the other: it was published earlier, or on the same way, or on an earlier one of the same
/// client. (MQTT wants less: the order of one topic at one QoS. [MQTT-4.6.0-5] [MQTT-4.6.0-6])
fn precedes(first: &Copy, second: &Copy, messages: &[Message]) -> bool {
    let (a, b) = (&messages[first.message], &messages[second.message]);
    let is_said_first = match (a.way, b.way) {
        (Some(one), Some(other)) if one == other => first.message < second.message,
        (Some(one), Some(other)) => a.publisher == b.publisher && b.is_in_turn && one < other,
        _ => false,
    };
    first.batch < second.batch || first.batch == second.batch && is_said_first
}

fn told(it: &Delivery) -> String {
    let payload = String::from_utf8_lossy(&it.payload[..it.payload.len().min(12)]).into_owned();
    format!("{} {payload:?} at QoS {}{}", it.topic, it.qos, if it.dup { ", DUP" } else { "" })
}
