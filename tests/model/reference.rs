//! What MQTT 3.1.1 and the documented choices say that clients see: sessions, subscriptions, queued messages, wills. No word of AMQP.
//!
//! The reference is told what clients do, in batches; what those of one batch do happens in any order. Behind each batch comes
//! quiet, and the reference judges what every client has heard: everything it must have, and nothing that it may not.

mod filter;
mod group;
mod session;

use crate::world::{Heard, LinkId};
use filter::{Filter, Topic};
use group::{Groups, Leaving, shared};
use session::{Copy, Session, Subscriptions};
use std::collections::BTreeMap;

/// Everything that is known of the clients.
pub(crate) struct Reference {
    limits: Limits,
    /// Milliseconds.
    now: u64,
    /// The number of the batch.
    batch: u32,
    clients: Vec<Client>,
    groups: Groups,
    messages: Vec<Message>,
    /// Published in this batch.
    fresh: Vec<Fresh>,
    /// Links that were cut in this batch: what was sent on them last may be lost.
    cut: Vec<LinkId>,
}

struct Fresh {
    message: usize,
    /// By whom it was sent, with what packet id; nobody where it is known to be there.
    sent: Option<(LinkId, u16)>,
    is_certain: bool,
    /// What its publisher was subscribed to when it said so, on the same connection: the one takes effect behind the other.
    own: Option<Subscriptions>,
}

/// What is configured.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Deliveries at QoS 1 that wait for their acknowledgement.
    pub(crate) prefetch: usize,
    /// Messages kept for a client that is away, at QoS 0.
    pub(crate) qos0_max_length: usize,
    /// How long sessions are kept, in milliseconds.
    pub(crate) session_expiry: u64,
    /// After how long it is known for certain that a host is gone.
    pub(crate) host_timeout: u64,
}

/// Which client.
pub(crate) type Id = usize;

/// A message as a client means it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) publisher: Id,
    pub(crate) is_will: bool,
    /// The connection it is sent on, or whose will it is; nobody's where it may come at any time.
    pub(crate) way: Option<LinkId>,
    /// Whether it waits for what was said on the connections of its client before.
    pub(crate) is_in_turn: bool,
}

#[derive(Default)]
struct Client {
    session: Option<Session>,
    connection: Option<Connection>,
    /// Earlier connections whose host is gone, which nobody has noticed.
    ghosts: Vec<Ghost>,
    /// Connections that end in this batch.
    ended: Vec<Ended>,
    /// Connections that are opened at once in this batch: one of them is to stay.
    racing: Vec<(LinkId, Connect)>,
}

struct Ended {
    link: LinkId,
    holds_acks: bool,
}

struct Connection {
    link: LinkId,
    will: Option<Message>,
    holds_acks: bool,
    keep_alive: u64,
    /// The client is not there any more.
    unplugged: bool,
    /// Replies that are due.
    due: Vec<Heard>,
}

struct Ghost {
    noticed: u64,
    will: Option<Message>,
}

impl Reference {
    pub(crate) fn new(limits: Limits, clients: usize) -> Self {
        Self {
            limits,
            now: 0,
            batch: 0,
            clients: (0..clients).map(|_| Client::default()).collect(),
            groups: Groups::default(),
            messages: Vec::new(),
            fresh: Vec::new(),
            cut: Vec::new(),
        }
    }

    // ------------------------------------------------------------ what clients do

    /// The client's connection, while it has one.
    pub(crate) fn link(&self, client: Id) -> Option<LinkId> {
        self.clients[client].connection.as_ref().filter(|it| !it.unplugged).map(|it| it.link)
    }

    /// CONNECT, which is granted.
    pub(crate) fn connect(&mut self, client: Id, link: LinkId, connect: Connect) {
        if let Some(old) = self.clients[client].connection.take() {
            // Taken over. [MQTT-3.1.4-2]
            self.cut.push(old.link);
            self.clients[client].ended.push(old.ended());
            self.ends(client, old.will, self.now);
        }
        let it = &mut self.clients[client];
        let resumes = connect.is_kept && it.session.as_ref().is_some_and(|session| session.is_kept);
        if !resumes {
            it.session = Some(Session { is_kept: connect.is_kept, ..Session::default() });
        }
        let session = it.session.get_or_insert_default();
        session.away = None;
        session.is_unsettled = true;
        let connack = Heard::Connack { session_present: resumes, code: 0 };
        it.connection = Some(Connection {
            link,
            will: connect.will,
            holds_acks: connect.holds_acks,
            keep_alive: connect.keep_alive * 1000,
            unplugged: false,
            due: vec![connack],
        });
    }

    /// Several CONNECTs at once, all alike in what session they ask for.
    pub(crate) fn race(&mut self, client: Id, newcomers: Vec<(LinkId, Connect)>) {
        self.clients[client].racing = newcomers;
    }

    /// SUBSCRIBE with these filters and QoS.
    pub(crate) fn subscribe(&mut self, client: Id, packet: u16, filters: &[(String, u8)]) {
        let Some((connection, session)) = self.clients[client].online() else { return };
        let mut codes = Vec::new();
        for (filter, qos) in filters {
            if let Some(shared) = shared(filter) {
                codes.push(self.groups.join(client, shared, *qos).unwrap_or(0x80));
                continue;
            }
            codes.push(match Filter::new(filter) {
                Some(filter) => {
                    session.earlier.push(session.subscriptions.clone());
                    let qos = (*qos).min(1);
                    if session.subscriptions.insert(filter.clone(), qos).is_some_and(|before| before != qos) {
                        session.may_forget(&filter, &self.messages);
                    }
                    qos
                }
                None => 0x80,
            });
        }
        connection.due.push(Heard::Suback(packet, codes));
    }

    /// UNSUBSCRIBE of these filters.
    pub(crate) fn unsubscribe(&mut self, client: Id, packet: u16, filters: &[String]) {
        let Some((connection, session)) = self.clients[client].online() else { return };
        filters
            .iter()
            .filter_map(|filter| shared(filter))
            .for_each(|shared| self.groups.leave(client, shared));
        let own = filters.iter().filter(|filter| shared(filter).is_none());
        for filter in own.filter_map(|filter| Filter::new(filter)) {
            session.earlier.push(session.subscriptions.clone());
            session.subscriptions.remove(&filter);
            session.may_forget(&filter, &self.messages);
        }
        connection.due.push(Heard::Unsuback(packet));
    }

    /// PUBLISH; at QoS 1 and 2 with this packet id.
    pub(crate) fn publish(&mut self, packet: u16, message: Message) {
        let Some((connection, session)) = self.clients[message.publisher].online() else { return };
        match message.qos {
            0 => {}
            1 => connection.due.push(Heard::Puback(packet)),
            _ => connection.due.extend([Heard::Pubrec(packet), Heard::Pubcomp(packet)]),
        }
        let sent = Some((connection.link, packet));
        let own = Some(session.subscriptions.clone());
        self.fresh.push(Fresh { message: self.messages.len(), sent, is_certain: true, own });
        self.messages.push(message);
    }

    /// A message of a client of another protocol.
    pub(crate) fn publish_from_elsewhere(&mut self, message: Message) {
        self.publishes(message, None, true);
    }

    /// PUBACK of a delivery.
    pub(crate) fn acknowledge(&mut self, client: Id, packet: u16) {
        if let Some((_, session)) = self.clients[client].online() {
            session.queues[1].retain(|copy| copy.sent != Some(packet));
            self.groups.acknowledge(client, packet);
        }
    }

    /// From now on it acknowledges at once, or not.
    pub(crate) fn hold_acks(&mut self, client: Id, hold: bool) {
        if let Some((connection, session)) = self.clients[client].online() {
            connection.holds_acks = hold;
            if !hold {
                session.queues[1].retain(|copy| copy.sent.is_none());
                self.groups.acknowledge_all(client);
            }
        }
    }

    /// DISCONNECT. Its will is forgotten [MQTT-3.14.4-3], unless the client `returns` at the same time, and is quicker.
    pub(crate) fn disconnect(&mut self, client: Id, returns: bool) {
        if let Some((connection, session)) = self.clients[client].online() {
            let (link, will) = (connection.link, connection.will.take());
            if !session.is_kept {
                self.groups.leave_for_good(client, self.now);
            }
            self.goes(client, false, self.now);
            if returns {
                self.cut.push(link);
                will.into_iter().for_each(|will| self.publishes(will, None, false));
            }
        }
    }

    /// The connection ends without DISCONNECT, which is seen at once; whether what it sent last may be lost.
    pub(crate) fn breaks(&mut self, client: Id, is_cut: bool) {
        if is_cut {
            self.cut.extend(self.clients[client].connection.as_ref().map(|it| it.link));
        }
        self.goes(client, true, self.now);
    }

    /// The client is silent from now on and hears nothing.
    pub(crate) fn is_unplugged(&mut self, client: Id) {
        if let Some((connection, _)) = self.clients[client].online() {
            connection.unplugged = true;
            self.groups.is_unplugged(client);
        }
    }

    /// The host of its connection is gone.
    pub(crate) fn loses_host(&mut self, client: Id) {
        let noticed = self.now + self.limits.host_timeout;
        let it = &mut self.clients[client];
        let Some(connection) = it.connection.take() else { return };
        self.cut.push(connection.link);
        self.groups.leave_all(client, Leaving::Unnoticed { until: noticed }, self.now);
        let will = connection.will.map(|will| Message { way: None, ..will });
        it.ghosts.push(Ghost { noticed, will });
        it.session = it.session.take().filter(|session| session.is_kept);
        if let Some(session) = &mut it.session {
            session.away = Some(noticed);
            session.haunted = Some(noticed);
            session.come_back();
        }
    }

    /// Time passes.
    pub(crate) fn elapse(&mut self, millis: u64) {
        self.now += millis;
        for client in 0..self.clients.len() {
            let silent =
                self.clients[client].connection.as_ref().filter(|it| it.unplugged && it.keep_alive > 0);
            if let Some(silence) = silent.map(|it| it.keep_alive * 3 / 2).filter(|&silence| silence <= millis)
            {
                self.goes(client, true, self.now - millis + silence);
            }
            let now = self.now;
            let it = &mut self.clients[client];
            let noticed = it.ghosts.extract_if(.., |ghost| ghost.noticed <= now);
            let wills: Vec<Message> = noticed.filter_map(|ghost| ghost.will).collect();
            if let Some(session) = &mut it.session
                && session.haunted.take_if(|until| *until <= now).is_some()
            {
                session.is_unsettled = true;
            }
            for will in wills {
                self.publishes(will, None, true);
            }
            let expiry = self.limits.session_expiry;
            let it = &mut self.clients[client];
            it.session =
                it.session.take().filter(|session| session.away.is_none_or(|since| now < since + expiry));
        }
        self.groups.elapse(self.now, self.limits.session_expiry);
    }

    /// The end of a connection that is noticed.
    fn goes(&mut self, client: Id, with_will: bool, at: u64) {
        let Some(connection) = self.clients[client].connection.take() else { return };
        self.clients[client].ended.push(connection.ended());
        self.ends(client, connection.will.filter(|_| with_will), at);
    }

    fn ends(&mut self, client: Id, will: Option<Message>, at: u64) {
        self.groups.leave_all(client, Leaving::Noticed, at);
        let it = &mut self.clients[client];
        it.session = it.session.take().filter(|session| session.is_kept);
        if let Some(session) = &mut it.session {
            session.away = session.haunted.max(Some(at));
            session.is_unsettled = true;
            session.come_back();
        }
        if let Some(will) = will {
            self.publishes(will, None, true);
        }
    }

    fn publishes(&mut self, message: Message, sent: Option<(LinkId, u16)>, is_certain: bool) {
        self.fresh.push(Fresh { message: self.messages.len(), sent, is_certain, own: None });
        self.messages.push(message);
    }

    // ------------------------------------------------------------ what clients see

    /// The batch is over and all is quiet: every client has heard this, on each of its connections.
    pub(crate) fn judge(
        &mut self,
        heard: &BTreeMap<LinkId, Vec<Heard>>,
        closed: &[LinkId],
    ) -> Result<(), String> {
        for client in 0..self.clients.len() {
            self.judge_race(client, heard, closed).map_err(|wrong| format!("client {client}: {wrong}"))?;
        }
        self.hand_out(heard);
        for client in 0..self.clients.len() {
            self.judge_client(client, heard, closed).map_err(|wrong| format!("client {client}: {wrong}"))?;
        }
        self.groups.judge_rest(self.limits.prefetch, &self.messages)?;
        self.batch += 1;
        self.cut.clear();
        Ok(())
    }

    /// Of several connections that were opened at once one stays, and the others end as if it had been the last.
    fn judge_race(
        &mut self,
        id: Id,
        heard: &BTreeMap<LinkId, Vec<Heard>>,
        closed: &[LinkId],
    ) -> Result<(), String> {
        let (mut open, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut self.clients[id].racing)
            .into_iter()
            .partition(|(link, _)| !closed.contains(link));
        let Some((link, winner)) = open.pop() else {
            return if ended.is_empty() {
                Ok(())
            } else {
                Err("nobody is left of those that came at once".to_owned())
            };
        };
        if !open.is_empty() {
            return Err(format!("{link:?} and {} more came at once, and stay", open.len()));
        }
        let connack = |link: LinkId| heard.get(&link).and_then(|heard| heard.first()).cloned();
        let is_kept = winner.is_kept;
        self.connect(id, link, winner);
        // The first of them made the session, and nobody knows which that was.
        let present = Heard::Connack { session_present: true, code: 0 };
        if let Some(connection) = self.clients[id].connection.as_mut().filter(|_| is_kept)
            && connack(link) == Some(present.clone())
        {
            connection.due = vec![present];
        }
        if let Some(session) = self.clients[id].session.as_mut().filter(|_| !ended.is_empty()) {
            session.lose_track(&self.messages);
        }
        for (link, loser) in ended {
            let was_accepted = matches!(connack(link), Some(Heard::Connack { code: 0, .. }));
            self.clients[id].ended.push(Ended { link, holds_acks: loser.holds_acks });
            if let Some(will) = loser.will {
                self.publishes(will, None, was_accepted);
            }
        }
        Ok(())
    }

    /// Each session that is subscribed gets its copies of what was published in this batch.
    fn hand_out(&mut self, heard: &BTreeMap<LinkId, Vec<Heard>>) {
        for Fresh { message, sent, is_certain, own } in std::mem::take(&mut self.fresh) {
            let is_cut = sent.is_some_and(|(link, _)| self.cut.contains(&link));
            let is_received = sent.is_some_and(|(link, packet)| {
                let receipts = [Heard::Puback(packet), Heard::Pubrec(packet)];
                heard.get(&link).is_some_and(|heard| heard.iter().any(|it| receipts.contains(it)))
            });
            let is_published = is_certain && (!is_cut || is_received);
            self.groups.publish(message, &Topic::new(&self.messages[message].topic), is_published);
            let &Message { ref topic, qos: published_qos, publisher, is_will, .. } = &self.messages[message];
            let topic = Topic::new(topic);
            for (id, client) in self.clients.iter_mut().enumerate() {
                let Some(session) = &mut client.session else { continue };
                let is_unplugged = client.connection.as_ref().is_some_and(|it| it.unplugged);
                // Its own will may be sent to the connection that ends.
                let is_own_will = is_will && publisher == id;
                let is_lost =
                    session.haunted.is_some() || session.is_unsettled || is_unplugged || is_own_will;
                let holds_acks = client.connection.as_ref().is_some_and(|it| it.holds_acks);
                // Unless its client has come again meanwhile, and begun a new session perhaps.
                let is_same = client
                    .connection
                    .as_ref()
                    .is_some_and(|it| sent.is_some_and(|(link, _)| link == it.link));
                let own = own.as_ref().filter(|_| id == publisher && is_same);
                let subscribed = [(0, false), (1, holds_acks)]
                    .map(|(qos, may_wait)| session.is_subscribed(own, &topic, qos, may_wait));
                let is_twin = published_qos == 0 && subscribed.iter().all(|&(possible, _)| possible);
                for (qos, (possible, certain)) in (0_u8..).zip(subscribed) {
                    if !possible {
                        continue;
                    }
                    // Until somebody notices that the client is not there, its messages are sent to nowhere.
                    let is_possible = !is_published || !certain || is_lost && qos.min(published_qos) == 0;
                    let dup = if is_lost { None } else { Some(false) };
                    let copy = Copy { message, batch: self.batch, is_possible, dup, sent: None, is_twin };
                    session.queues[usize::from(qos)].push(copy);
                }
                let is_away = client.connection.is_none();
                if is_away || session.is_unsettled {
                    session.forget_oldest(is_away, self.limits.qos0_max_length, &self.messages);
                }
            }
        }
        for session in self.clients.iter_mut().filter_map(|client| client.session.as_mut()) {
            session.earlier.clear();
            session.is_unsettled = false;
        }
    }

    fn judge_client(
        &mut self,
        id: Id,
        heard: &BTreeMap<LinkId, Vec<Heard>>,
        closed: &[LinkId],
    ) -> Result<(), String> {
        for ended in std::mem::take(&mut self.clients[id].ended) {
            if !closed.contains(&ended.link) {
                return Err(format!("{:?} is open", ended.link));
            }
            if let Some(session) = &mut self.clients[id].session {
                let deliveries = heard.get(&ended.link).into_iter().flatten();
                deliveries.for_each(|it| session.heard_before_the_end(it, ended.holds_acks, &self.messages));
            }
            for it in heard.get(&ended.link).into_iter().flatten() {
                self.groups.heard_before_the_end(it, &self.messages);
            }
        }
        let (messages, prefetch) = (&self.messages, self.limits.prefetch);
        let Client { session, connection, .. } = &mut self.clients[id];
        let (Some(session), Some(connection)) = (session, connection) else { return Ok(()) };
        if connection.unplugged {
            // What is sent to it is on its way for ever.
            return Ok(());
        }
        if closed.contains(&connection.link) {
            return Err(format!("{:?} is closed", connection.link));
        }
        let heard = heard.get(&connection.link).map_or(&[][..], Vec::as_slice);
        judge_replies(&mut connection.due, heard)?;
        for delivery in
            heard.iter().filter_map(|it| if let Heard::Publish(it) = it { Some(it) } else { None })
        {
            let as_member =
                |groups: &mut Groups| groups.judge_delivery(id, delivery, connection.holds_acks, messages);
            match session.judge_delivery(delivery, connection.holds_acks, messages) {
                Err(wrong) if !as_member(&mut self.groups) => return Err(wrong),
                Ok(()) | Err(_) => {}
            }
        }
        if session.haunted.is_some() {
            // The one before has it all until it is known to be gone.
            return Ok(());
        }
        session.judge_rest(prefetch, messages)
    }
}

/// What a CONNECT asks for.
pub(crate) struct Connect {
    pub(crate) is_kept: bool,
    pub(crate) will: Option<Message>,
    pub(crate) holds_acks: bool,
    /// Seconds.
    pub(crate) keep_alive: u64,
}

/// Replies are due in the order of what they answer, except that the broker's receipt of a message takes its own time. PUBREC for
/// a PUBLISH that came twice may come twice, and so PUBCOMP.
fn judge_replies(due: &mut Vec<Heard>, heard: &[Heard]) -> Result<(), String> {
    let due = std::mem::take(due);
    let is_receipt = |it: &&Heard| matches!(it, Heard::Puback(_) | Heard::Pubrec(_) | Heard::Pubcomp(_));
    let parts = |of: &[Heard]| {
        let of: Vec<&Heard> = of.iter().filter(|it| !matches!(it, Heard::Publish(_))).collect();
        let (mut receipts, others): (Vec<&Heard>, Vec<&Heard>) = of.into_iter().partition(is_receipt);
        receipts.sort();
        receipts.dedup();
        (receipts.into_iter().cloned().collect::<Vec<_>>(), others.into_iter().cloned().collect::<Vec<_>>())
    };
    let is_first = heard.first().is_none_or(|first| matches!(first, Heard::Connack { .. }));
    if matches!(due.first(), Some(Heard::Connack { .. })) && !is_first {
        return Err(format!("CONNACK does not come first: {heard:?}"));
    }
    if parts(&due) == parts(heard) { Ok(()) } else { Err(format!("due: {due:?}, heard: {heard:?}")) }
}

impl Connection {
    const fn ended(&self) -> Ended {
        Ended { link: self.link, holds_acks: self.holds_acks }
    }
}

impl Client {
    fn online(&mut self) -> Option<(&mut Connection, &mut Session)> {
        Some((self.connection.as_mut()?, self.session.as_mut()?))
    }
}
