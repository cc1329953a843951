//! Shared subscriptions: `$share/group/filter`. A message goes to one member of each group; what there is nobody for waits.

use super::filter::{Filter, Topic};
use super::{Id, Message};
use crate::world::{Delivery, Heard};
use std::collections::BTreeMap;

/// All groups, by name and filter.
#[derive(Default)]
pub(super) struct Groups(BTreeMap<(String, Filter), Group>);

#[derive(Default)]
struct Group {
    members: BTreeMap<Id, Member>,
    messages: Vec<Waiting>,
    /// Since when nobody is there.
    left: Option<u64>,
    /// Until when a host that is gone may be sent messages.
    haunted: Option<u64>,
    /// Its members have changed in this batch.
    is_unsettled: bool,
}

struct Member {
    /// That was granted in this batch; the last is the one that stays.
    granted: Vec<u8>,
    is_unplugged: bool,
}

struct Waiting {
    message: usize,
    is_possible: bool,
    /// Whether it was sent before; `None` when nobody can know.
    dup: Option<bool>,
    /// To whom it was sent, with what packet id.
    sent: Option<(Id, u16)>,
}

/// How a member's connection ends.
#[derive(Clone, Copy)]
pub(super) enum Leaving {
    Noticed,
    Unnoticed { until: u64 },
}

/// The group and the filter in a shared subscription's filter; `None` for another one. Without either, nobody can join.
pub(super) fn shared(filter: &str) -> Option<(&str, &str)> {
    let rest = filter.strip_prefix("$share/")?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

impl Groups {
    /// A client joins; the QoS that it is granted.
    pub(super) fn join(&mut self, client: Id, (group, filter): (&str, &str), qos: u8) -> Option<u8> {
        if group.is_empty() || group.contains(['+', '#']) {
            return None;
        }
        let qos = qos.min(1);
        let group = self.0.entry((group.to_owned(), Filter::new(filter)?)).or_default();
        let member =
            group.members.entry(client).or_insert(Member { granted: Vec::new(), is_unplugged: false });
        member.granted.push(qos);
        (group.left, group.is_unsettled) = (None, true);
        Some(qos)
    }

    /// A client leaves one. The last takes with it what waits.
    pub(super) fn leave(&mut self, client: Id, (name, filter): (&str, &str)) {
        let Some(filter) = Filter::new(filter) else { return };
        let key = (name.to_owned(), filter);
        let Some(group) = self.0.get_mut(&key) else { return };
        group.is_unsettled = true;
        if group.members.remove(&client).is_some() && group.members.is_empty() && group.haunted.is_none() {
            self.0.remove(&key);
        }
    }

    /// A client's connection ends, and it is a member no more.
    pub(super) fn leave_all(&mut self, client: Id, leaving: Leaving, now: u64) {
        for group in self.0.values_mut() {
            // Who has left it may still hold messages.
            let holds = |it: &&mut Waiting| it.sent.is_some_and(|(to, _)| to == client);
            let mut was_there = false;
            for waiting in group.messages.iter_mut().filter(holds) {
                (waiting.sent, waiting.dup) = (None, Some(true));
                was_there = true;
            }
            let was_member = group.members.remove(&client).is_some();
            group.is_unsettled |= was_there || was_member;
            match leaving {
                Leaving::Noticed if was_member => group.left = Some(now),
                Leaving::Unnoticed { until } if was_there || was_member => {
                    (group.left, group.haunted) = (Some(until), Some(until));
                }
                Leaving::Noticed | Leaving::Unnoticed { .. } => {}
            }
        }
    }

    /// A client that keeps nothing says that it goes: a group without members goes, too, and with it what waits.
    pub(super) fn leave_for_good(&mut self, client: Id, now: u64) {
        let joined = |group: &Group| group.members.contains_key(&client);
        let keys: Vec<_> = self.0.iter().filter(|(_, it)| joined(it)).map(|(key, _)| key.clone()).collect();
        self.leave_all(client, Leaving::Noticed, now);
        let is_left = |group: &Group| group.members.is_empty() && group.haunted.is_none();
        for key in keys {
            if self.0.get(&key).is_some_and(is_left) {
                self.0.remove(&key);
            }
        }
    }

    /// A member hears nothing any more.
    pub(super) fn is_unplugged(&mut self, client: Id) {
        for member in self.0.values_mut().filter_map(|group| group.members.get_mut(&client)) {
            member.is_unplugged = true;
        }
    }

    /// Time passes.
    pub(super) fn elapse(&mut self, now: u64, expiry: u64) {
        for group in self.0.values_mut() {
            group.is_unsettled |= group.haunted.take_if(|until| *until <= now).is_some();
        }
        self.0.retain(|_, group| {
            !group.members.is_empty() || group.left.is_none_or(|left| now < left + expiry)
        });
    }

    /// A message is published.
    pub(super) fn publish(&mut self, message: usize, topic: &Topic, is_certain: bool) {
        let matches =
            |filter: &Filter| filter.matches(topic) && !(topic.is_special() && filter.starts_with_wildcard());
        for (_, group) in self.0.iter_mut().filter(|((_, filter), _)| matches(filter)) {
            let is_unclear = group.is_unsettled || group.is_lost();
            let dup = if is_unclear { None } else { Some(false) };
            let is_possible = !is_certain || is_unclear;
            group.messages.push(Waiting { message, is_possible, dup, sent: None });
        }
    }

    /// A client is sent a message: whether it may be as a member of a group.
    pub(super) fn judge_delivery(
        &mut self,
        client: Id,
        it: &Delivery,
        holds_acks: bool,
        messages: &[Message],
    ) -> bool {
        for group in self.0.values_mut() {
            let Some(member) = group.members.get(&client) else { continue };
            let found = group.messages.iter_mut().find(|waiting| {
                let message = &messages[waiting.message];
                waiting.sent.is_none()
                    && message.payload == it.payload
                    && member.granted.iter().any(|&qos| message.qos.min(qos) == it.qos)
                    && waiting.dup.is_none_or(|dup| dup == it.dup)
                    && Topic::new(&message.topic).arrives_as() == it.topic
            });
            if let Some(waiting) = found {
                waiting.sent = Some((client, it.id));
                let is_done = it.qos == 0 || !holds_acks;
                group.messages.retain(|waiting| waiting.sent != Some((client, it.id)) || !is_done);
                return true;
            }
        }
        false
    }

    /// What came to a member on a connection that has ended need not come again.
    pub(super) fn heard_before_the_end(&mut self, it: &Heard, messages: &[Message]) {
        let Heard::Publish(it) = it else { return };
        for waiting in self.0.values_mut().flat_map(|group| &mut group.messages) {
            if messages[waiting.message].payload == it.payload {
                (waiting.is_possible, waiting.dup) = (true, None);
            }
        }
    }

    /// PUBACK.
    pub(super) fn acknowledge(&mut self, client: Id, packet: u16) {
        for group in self.0.values_mut() {
            group.messages.retain(|waiting| waiting.sent != Some((client, packet)));
        }
    }

    /// All that a client holds is acknowledged.
    pub(super) fn acknowledge_all(&mut self, client: Id) {
        for group in self.0.values_mut() {
            group.messages.retain(|waiting| waiting.sent.is_none_or(|(to, _)| to != client));
        }
    }

    /// All is quiet: whoever can take a message has it.
    pub(super) fn judge_rest(&mut self, prefetch: usize, messages: &[Message]) -> Result<(), String> {
        for ((name, _), group) in &mut self.0 {
            for Member { granted, .. } in group.members.values_mut() {
                granted.drain(..granted.len() - 1);
            }
            // Who takes at most once is not told what comes again.
            let may_drop = group.has_qos(0) || group.is_unsettled;
            for waiting in group.messages.iter_mut().filter(|it| it.sent.is_none() && it.dup != Some(false)) {
                waiting.is_possible |= may_drop;
            }
            let has_room = |(&client, member): (&Id, &Member)| {
                let holds = |waiting: &&Waiting| waiting.sent.is_some_and(|(to, _)| to == client);
                member.granted == [0] || group.messages.iter().filter(holds).count() < prefetch
            };
            group.is_unsettled = false;
            if group.is_lost() || !group.members.iter().any(has_room) {
                continue;
            }
            let is_due = |it: &&Waiting| it.sent.is_none() && !it.is_possible;
            if let Some(waiting) = group.messages.iter().find(is_due) {
                return Err(format!("group {name}: nobody hears {:?}", messages[waiting.message]));
            }
            group.messages.retain(|waiting| waiting.sent.is_some());
        }
        Ok(())
    }
}

impl Group {
    /// Somebody may be sent messages who is not there.
    fn is_lost(&self) -> bool {
        self.haunted.is_some() || self.members.values().any(|member| member.is_unplugged)
    }

    fn has_qos(&self, qos: u8) -> bool {
        self.members.values().any(|member| member.granted.contains(&qos))
    }
}
