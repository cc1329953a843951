//! Channels: each method and what it is answered.

use super::exchange::{Binding, Kind};
use super::publish::{Confirms, Incoming, Transaction, Verdict};
use super::queue::{Consumer, Refusal, Stored};
use super::{Broker, ChannelId, Message};
use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, channel, confirm, exchange, queue, tx},
    types::AMQPValue,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};
use support::methods as say;

#[derive(Default)]
pub(super) struct Channel {
    /// channel.close is sent: until close-ok nothing that comes is looked at.
    pub(super) is_closing: bool,
    pub(super) incoming: Option<Incoming>,
    pub(super) prefetch: u16,
    /// Tag to queue.
    pub(super) consumers: BTreeMap<String, String>,
    /// The consumer that has just come: RabbitMQ watches its queue only from a moment later on.
    unwatched: Option<String>,
    pub(super) last_tag: u64,
    pub(super) unacked: BTreeMap<u64, Unacked>,
    pub(super) confirms: Option<Confirms>,
    pub(super) transaction: Option<Transaction>,
    /// What it says in its own time, in order: what queues and the message store have told it. The answers to what it is asked
    /// may overtake that.
    pub(super) late: VecDeque<Late>,
    /// channel.close came, and close-ok is due.
    pub(super) is_leaving: bool,
}

pub(super) enum Late {
    ConsumeOk {
        tag: String,
    },
    CancelOk {
        tag: String,
    },
    Deliver {
        method: basic::Deliver,
        message: Rc<Message>,
    },
    CommitOk,
    /// The queue of a consumer is gone.
    Cancel(Lost),
}

/// A consumer that has lost its queue.
pub(super) struct Lost {
    pub(super) queue: String,
    pub(super) consumer: Consumer,
}

/// A delivery that waits for its acknowledgement.
pub(super) struct Unacked {
    pub(super) queue: String,
    /// The queue's.
    pub(super) number: u64,
    pub(super) place: u64,
    pub(super) stored: Stored,
    /// The consumer; none for basic.get.
    pub(super) tag: Option<String>,
}

impl Channel {
    /// Whether something is due that it says in its own time.
    pub(super) fn has_late(&self) -> bool {
        self.is_leaving
            || !self.late.is_empty()
            || self.confirms.as_ref().is_some_and(|confirms| !confirms.due.is_empty())
    }
}

impl Broker {
    pub(super) fn channel_frame(&mut self, at: ChannelId, frame: AMQPFrame) {
        if let Some(channel) = self.channel(at) {
            channel.unwatched = None;
        }
        let is_open_method =
            matches!(frame, AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Open(_))));
        match self.channel(at) {
            None if is_open_method => {
                self.connection(at.0).channels.insert(at.1, Channel::default());
                return self.say(at.0, at.1, say::channel_open_ok());
            }
            None => {
                return self.close_connection(
                    at.0,
                    504,
                    "CHANNEL_ERROR - expected 'channel.open'",
                    id_of(&frame),
                );
            }
            Some(_) if is_open_method => {
                return self.close_connection(
                    at.0,
                    504,
                    "CHANNEL_ERROR - second 'channel.open' seen",
                    (20, 10),
                );
            }
            Some(it) if it.is_closing => {
                if matches!(frame, AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))))
                {
                    self.release_channel(at);
                }
                return;
            }
            Some(_) => {}
        }
        let id = id_of(&frame);
        let (result, id) = match frame {
            AMQPFrame::Method(_, method) => (self.method(at, method), id),
            AMQPFrame::Header(_, header) => {
                (self.content(at, Some((header.body_size, header.properties)), &[]), (60, 40))
            }
            AMQPFrame::Body(_, bytes) => (self.content(at, None, &bytes), (60, 40)),
            other => panic!("a client does not send {other:?}"),
        };
        if let Err((code, text)) = result {
            self.release_consumed(at);
            let channel = self.channel(at).expect("it was looked at");
            let unacked = std::mem::take(&mut channel.unacked);
            *channel = Channel { is_closing: true, unacked, ..Channel::default() };
            self.say(at.0, at.1, say::channel_close(code, &text, id));
        }
    }

    fn method(&mut self, at: ChannelId, method: AMQPClass) -> Result<(), Refusal> {
        let answer = match method {
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => say::flow_ok(flow.active),
            AMQPClass::Channel(channel::AMQPMethod::FlowOk(_)) => return Ok(()),
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                self.release_held(at);
                *self.open_channel(at) = Channel { is_leaving: true, ..Channel::default() };
                return Ok(());
            }
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) => {
                self.declare_exchange(&declare)?;
                AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
            }
            AMQPClass::Queue(method) => AMQPClass::Queue(self.queue_method(at, method)?),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => {
                self.open_channel(at).confirms.get_or_insert_default();
                say::confirm_select_ok()
            }
            AMQPClass::Tx(method) => match self.transaction_method(at, method)? {
                Some(answer) => AMQPClass::Tx(answer),
                None => return Ok(()),
            },
            AMQPClass::Basic(method) => match self.basic_method(at, method)? {
                Some(answer) => AMQPClass::Basic(answer),
                None => return Ok(()),
            },
            other => panic!("not in this broker: {other:?}"),
        };
        self.say(at.0, at.1, answer);
        Ok(())
    }

    fn declare_exchange(&mut self, declare: &exchange::Declare) -> Result<(), Refusal> {
        let name = declare.exchange.as_str();
        match declare.kind.as_str() {
            _ if declare.passive && !self.exchanges.exists(name) => return Err(no_exchange(name)),
            _ if declare.passive => {}
            "topic" => self.exchanges.declare(name, Kind::Topic),
            "direct" => self.exchanges.declare(name, Kind::Direct),
            "fanout" => self.exchanges.declare(name, Kind::Fanout),
            other => panic!("not in this broker: a {other} exchange"),
        }
        Ok(())
    }

    fn queue_method(
        &mut self,
        at: ChannelId,
        method: queue::AMQPMethod,
    ) -> Result<queue::AMQPMethod, Refusal> {
        use queue::AMQPMethod as M;
        Ok(match method {
            M::Declare(declare) => {
                if declare.passive {
                    self.queue(at.0, declare.queue.as_str())?;
                } else {
                    self.declare(at.0, &declare)?;
                }
                let (message_count, consumer_count) = self.counts(declare.queue.as_str());
                M::DeclareOk(queue::DeclareOk { queue: declare.queue, message_count, consumer_count })
            }
            M::Delete(delete) => {
                let message_count = self.delete(at.0, &delete)?;
                M::DeleteOk(queue::DeleteOk { message_count })
            }
            M::Bind(bind) => {
                let (exchange, queue) = (bind.exchange.to_string(), bind.queue.to_string());
                if exchange.is_empty() {
                    let text = "ACCESS_REFUSED - operation not permitted on the default exchange";
                    return Err((403, text.to_owned()));
                }
                self.queue(at.0, &queue)?;
                if !self.exchanges.exists(&exchange) {
                    return Err(no_exchange(&exchange));
                }
                self.exchanges.bind(Binding { exchange, queue, key: bind.routing_key.to_string() });
                M::BindOk(queue::BindOk {})
            }
            M::Unbind(unbind) => {
                let (exchange, queue) = (unbind.exchange.to_string(), unbind.queue.to_string());
                if self.queues.contains_key(&queue) {
                    self.queue(at.0, &queue)?;
                }
                self.exchanges.unbind(&Binding { exchange, queue, key: unbind.routing_key.to_string() });
                M::UnbindOk(queue::UnbindOk {})
            }
            other => panic!("not in this broker: {other:?}"),
        })
    }

    fn basic_method(
        &mut self,
        at: ChannelId,
        method: basic::AMQPMethod,
    ) -> Result<Option<basic::AMQPMethod>, Refusal> {
        use basic::AMQPMethod as M;
        match method {
            M::Qos(qos) => {
                assert!(!qos.global, "not in this broker");
                self.open_channel(at).prefetch = qos.prefetch_count;
                Ok(Some(M::QosOk(basic::QosOk {})))
            }
            M::Consume(consume) => self.consume(at, &consume).map(|()| None),
            M::Cancel(cancel) => {
                let tag = cancel.consumer_tag.to_string();
                let Some(queue) = self.open_channel(at).consumers.remove(&tag) else {
                    let cancel_ok = basic::CancelOk { consumer_tag: cancel.consumer_tag };
                    return Ok(Some(M::CancelOk(cancel_ok)));
                };
                // The queue says so, behind its last delivery.
                self.open_channel(at).late.push_back(Late::CancelOk { tag: tag.clone() });
                self.remove_consumer(&queue, at, &tag);
                self.serve_others(&queue);
                Ok(None)
            }
            M::Publish(method) => {
                self.open_channel(at).incoming = Some(Incoming { method, header: None, body: Vec::new() });
                Ok(None)
            }
            M::Get(get) => self.get(at, &get).map(|()| None),
            M::Ack(ack) => {
                self.judge(at, (ack.delivery_tag, ack.multiple), Verdict::Acknowledged).map(|()| None)
            }
            M::Nack(nack) => {
                let verdict = Verdict::Rejected { requeue: nack.requeue };
                self.judge(at, (nack.delivery_tag, nack.multiple), verdict).map(|()| None)
            }
            M::Reject(reject) => {
                let verdict = Verdict::Rejected { requeue: reject.requeue };
                self.judge(at, (reject.delivery_tag, false), verdict).map(|()| None)
            }
            other => panic!("not in this broker: {other:?}"),
        }
    }

    fn consume(&mut self, at: ChannelId, consume: &basic::Consume) -> Result<(), Refusal> {
        let (name, tag) = (consume.queue.to_string(), consume.consumer_tag.to_string());
        assert!(!tag.is_empty(), "not in this broker: consumer tags that it makes");
        if self.open_channel(at).consumers.contains_key(&tag) {
            let text = format!("NOT_ALLOWED - attempt to reuse consumer tag '{tag}'");
            self.close_connection(at.0, 530, &text, (60, 20));
            return Ok(());
        }
        self.admit_consumer(at.0, &name, consume.exclusive)?;
        let channel = self.open_channel(at);
        channel.late.push_back(Late::ConsumeOk { tag: tag.clone() });
        channel.consumers.insert(tag.clone(), name.clone());
        channel.unwatched = Some(tag.clone());
        let prefetch = channel.prefetch.into();
        let stays_cancelled =
            consume.arguments.inner().get("x-cancel-on-ha-failover") == Some(&AMQPValue::Boolean(true));
        let (no_ack, exclusive) = (consume.no_ack, consume.exclusive);
        let consumer = Consumer { at, tag, no_ack, exclusive, prefetch, unacked: 0, stays_cancelled };
        self.add_consumer(&name, consumer);
        Ok(())
    }

    fn get(&mut self, at: ChannelId, get: &basic::Get) -> Result<(), Refusal> {
        let name = get.queue.to_string();
        self.queue(at.0, &name)?;
        let Some((number, place, stored, left)) = self.take_first(&name) else {
            self.say(at.0, at.1, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})));
            return Ok(());
        };
        let channel = self.open_channel(at);
        channel.last_tag += 1;
        let get_ok = basic::GetOk {
            delivery_tag: channel.last_tag,
            redelivered: stored.redelivered,
            exchange: stored.message.exchange.as_str().into(),
            routing_key: stored.message.routing_key.as_str().into(),
            message_count: left as u32,
        };
        let message = stored.message.clone();
        if !get.no_ack {
            channel
                .unacked
                .insert(channel.last_tag, Unacked { queue: name, number, place, stored, tag: None });
        }
        self.say_content(at, AMQPClass::Basic(basic::AMQPMethod::GetOk(get_ok)), &message);
        Ok(())
    }

    /// A queue gives a message to a consumer.
    pub(super) fn deliver(&mut self, at: ChannelId, unacked: Unacked, no_ack: bool) {
        let channel = self.open_channel(at);
        channel.last_tag += 1;
        let message = unacked.stored.message.clone();
        let deliver = basic::Deliver {
            consumer_tag: unacked.tag.as_deref().unwrap_or_default().into(),
            delivery_tag: channel.last_tag,
            redelivered: unacked.stored.redelivered,
            exchange: message.exchange.as_str().into(),
            routing_key: message.routing_key.as_str().into(),
        };
        if !no_ack {
            channel.unacked.insert(channel.last_tag, unacked);
        }
        channel.late.push_back(Late::Deliver { method: deliver, message });
    }

    /// Deliveries are acknowledged or given back: at once, or when the transaction is committed.
    fn judge(
        &mut self,
        at: ChannelId,
        (delivery_tag, multiple): (u64, bool),
        verdict: Verdict,
    ) -> Result<(), Refusal> {
        for (tag, unacked) in self.acknowledged(at, delivery_tag, multiple)? {
            match &mut self.open_channel(at).transaction {
                Some(transaction) => transaction.settled.push((tag, unacked, verdict)),
                None => self.settle_now(at, unacked, verdict),
            }
        }
        Ok(())
    }

    pub(super) fn settle_now(&mut self, at: ChannelId, unacked: Unacked, verdict: Verdict) {
        let name = unacked.queue.clone();
        self.settle(at, &unacked);
        match verdict {
            Verdict::Acknowledged => return self.run(&name),
            Verdict::Rejected { requeue: true } => self.requeue(unacked),
            Verdict::Rejected { requeue: false } => self.reject(&unacked),
        }
        self.serve_others(&name);
    }

    /// Deliveries that an acknowledgement is about. 0 with `multiple` is all there are.
    fn acknowledged(
        &mut self,
        at: ChannelId,
        delivery_tag: u64,
        multiple: bool,
    ) -> Result<Vec<(u64, Unacked)>, Refusal> {
        let unacked = &mut self.open_channel(at).unacked;
        let tags: Vec<u64> = match (multiple, delivery_tag) {
            (true, 0) => unacked.keys().copied().collect(),
            (true, last) => unacked.range(..=last).map(|(&tag, _)| tag).collect(),
            (false, tag) => unacked.contains_key(&tag).then_some(tag).into_iter().collect(),
        };
        if tags.is_empty() && (delivery_tag > 0 || !multiple) {
            return Err((406, format!("PRECONDITION_FAILED - unknown delivery tag {delivery_tag}")));
        }
        Ok(tags.iter().filter_map(|tag| unacked.remove_entry(tag)).collect())
    }

    /// Says something that a channel says in its own time.
    pub(super) fn say_late(&mut self, at: ChannelId) {
        let Some(channel) = self.connections.get_mut(&at.0).and_then(|it| it.channels.get_mut(&at.1)) else {
            return;
        };
        channel.unwatched = None;
        if let Some(late) = channel.late.pop_front() {
            return match late {
                Late::ConsumeOk { tag } => {
                    let consume_ok = basic::ConsumeOk { consumer_tag: tag.into() };
                    self.say(at.0, at.1, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(consume_ok)));
                }
                Late::CancelOk { tag } => {
                    let cancel_ok = basic::CancelOk { consumer_tag: tag.into() };
                    self.say(at.0, at.1, AMQPClass::Basic(basic::AMQPMethod::CancelOk(cancel_ok)));
                }
                Late::Deliver { method, message } => {
                    self.say_content(at, AMQPClass::Basic(basic::AMQPMethod::Deliver(method)), &message);
                }
                Late::CommitOk => {
                    self.say(at.0, at.1, AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})))
                }
                Late::Cancel(lost) => self.cancel(lost),
            };
        }
        if channel.is_leaving {
            self.connection(at.0).channels.remove(&at.1);
            return self.say(at.0, at.1, say::channel_close_ok());
        }
        let Some(confirms) = &mut channel.confirms else { return };
        let due: Vec<u64> = confirms.due.iter().copied().collect();
        let Some(&number) = self.random.choice(&due) else { return };
        // All up to one number, unless one of them is not due. Those that were said before do no harm.
        let multiple = self.random.bool();
        if multiple {
            confirms.due = confirms.due.split_off(&(number + 1));
        } else {
            confirms.due.remove(&number);
        }
        self.say(at.0, at.1, say::ack(number, multiple));
    }

    /// A consumer has lost its queue. RabbitMQ before 4.0 gives it the next one of that name, if there is one by now, unless the
    /// consumer wants to be told.
    pub(super) fn lost_queue(&mut self, lost: Lost) {
        let is_slow = !self.is_prompt && self.random.bool();
        let Some(channel) = self.channel(lost.consumer.at) else { return };
        if is_slow && channel.unwatched.as_ref() == Some(&lost.consumer.tag) {
            return;
        }
        channel.late.push_back(Late::Cancel(lost));
    }

    fn cancel(&mut self, Lost { queue, consumer }: Lost) {
        let at = consumer.at;
        if !self.open_channel(at).consumers.contains_key(&consumer.tag) {
            return;
        }
        if !consumer.stays_cancelled && self.admit_consumer(at.0, &queue, consumer.exclusive).is_ok() {
            return self.add_consumer(&queue, Consumer { unacked: 0, ..consumer });
        }
        self.open_channel(at).consumers.remove(&consumer.tag);
        if self.connection(at.0).wants_cancel_notify {
            let cancel = basic::Cancel { consumer_tag: consumer.tag.into(), nowait: true };
            self.say(at.0, at.1, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
        }
    }

    /// A channel goes, and what it held goes back.
    pub(super) fn release_channel(&mut self, at: ChannelId) {
        self.release_held(at);
        self.connection(at.0).channels.remove(&at.1);
    }

    /// What it holds of queues that it consumes goes back; of others, once it has gone.
    fn release_consumed(&mut self, at: ChannelId) {
        let Some(channel) = self.channel(at) else { return };
        let consumed: BTreeSet<String> = channel.consumers.values().cloned().collect();
        let others = channel.unacked.extract_if(.., |_, it| !consumed.contains(&it.queue)).collect();
        self.release_held(at);
        self.open_channel(at).unacked = others;
    }

    /// Each queue has its messages again before somebody else is served from it.
    fn release_held(&mut self, at: ChannelId) {
        let Some(channel) = self.channel(at) else { return };
        let consumers = std::mem::take(&mut channel.consumers);
        let transaction = channel.transaction.take().unwrap_or_default();
        let unacked = std::mem::take(&mut channel.unacked)
            .into_values()
            .chain(transaction.settled.into_iter().map(|(_, unacked, _)| unacked));
        let mut queues: BTreeMap<String, Vec<Unacked>> = BTreeMap::new();
        for it in unacked {
            queues.entry(it.queue.clone()).or_default().push(it);
        }
        for (tag, queue) in consumers {
            queues.entry(queue.clone()).or_default();
            self.remove_consumer(&queue, at, &tag);
        }
        for (name, unacked) in queues {
            for it in unacked {
                self.requeue(it);
            }
            self.serve_others(&name);
        }
    }

    pub(super) fn open_channel(&mut self, at: ChannelId) -> &mut Channel {
        self.channel(at).expect("its method is being done")
    }
}

pub(super) fn no_exchange(name: &str) -> Refusal {
    (404, format!("NOT_FOUND - no exchange '{name}' in vhost '/'"))
}

fn id_of(frame: &AMQPFrame) -> (u16, u16) {
    match frame {
        AMQPFrame::Method(_, method) => (method.get_amqp_class_id(), method.get_amqp_method_id()),
        _ => (0, 0),
    }
}
