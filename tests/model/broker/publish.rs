//! What clients publish: content in pieces, transactions, returns and confirms.

use super::channel::{Late, Unacked, no_exchange};
use super::queue::Refusal;
use super::{Broker, ChannelId, Message};
use amq_protocol::protocol::{AMQPClass, basic, tx};
use std::collections::BTreeSet;
use std::rc::Rc;

/// A publish whose content is not whole.
pub(super) struct Incoming {
    pub(super) method: basic::Publish,
    pub(super) header: Option<(u64, basic::AMQPProperties)>,
    pub(super) body: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Confirms {
    pub(super) published: u64,
    pub(super) due: BTreeSet<u64>,
}

#[derive(Default)]
pub(super) struct Transaction {
    pub(super) publishes: Vec<(bool, Rc<Message>)>,
    /// Deliveries that were acknowledged or given back, in order.
    pub(super) settled: Vec<(u64, Unacked, Verdict)>,
}

/// What becomes of a delivery.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Acknowledged,
    Rejected { requeue: bool },
}

impl Broker {
    /// A part of a publish.
    pub(super) fn content(
        &mut self,
        at: ChannelId,
        header: Option<(u64, basic::AMQPProperties)>,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let channel = self.open_channel(at);
        let incoming = channel.incoming.as_mut().expect("basic.publish comes first");
        incoming.body.extend(body);
        if header.is_some() {
            incoming.header = header;
        }
        let is_whole = incoming.header.as_ref().is_some_and(|(size, _)| incoming.body.len() as u64 == *size);
        let Some(Incoming { method, header: Some((_, properties)), body }) =
            channel.incoming.take_if(|_| is_whole)
        else {
            return Ok(());
        };
        let exchange = method.exchange.to_string();
        if !self.exchanges.exists(&exchange) {
            return Err(no_exchange(&exchange));
        }
        let routing_key = method.routing_key.to_string();
        let message = Rc::new(Message { exchange, routing_key, properties, body });
        if let Some(transaction) = &mut self.open_channel(at).transaction {
            transaction.publishes.push((method.mandatory, message));
            return Ok(());
        }
        self.publish_now(at, method.mandatory, &message);
        if let Some(confirms) = self.channel(at).and_then(|channel| channel.confirms.as_mut()) {
            confirms.published += 1;
            confirms.due.insert(confirms.published);
        }
        Ok(())
    }

    pub(super) fn publish_now(&mut self, at: ChannelId, mandatory: bool, message: &Rc<Message>) {
        if !self.route(message) && mandatory {
            let returned = basic::Return {
                reply_code: 312,
                reply_text: "NO_ROUTE".into(),
                exchange: message.exchange.as_str().into(),
                routing_key: message.routing_key.as_str().into(),
            };
            self.say_content(at, AMQPClass::Basic(basic::AMQPMethod::Return(returned)), message);
        }
    }

    pub(super) fn transaction_method(
        &mut self,
        at: ChannelId,
        method: tx::AMQPMethod,
    ) -> Result<Option<tx::AMQPMethod>, Refusal> {
        match method {
            tx::AMQPMethod::Select(_) => {
                self.open_channel(at).transaction.get_or_insert_default();
                Ok(Some(tx::AMQPMethod::SelectOk(tx::SelectOk {})))
            }
            tx::AMQPMethod::Commit(_) => {
                let transaction = self.open_channel(at).transaction.as_mut().ok_or_else(not_transactional)?;
                let Transaction { publishes, settled } = std::mem::take(transaction);
                for (mandatory, message) in publishes {
                    self.publish_now(at, mandatory, &message);
                }
                for (_, unacked, verdict) in settled {
                    self.settle_now(at, unacked, verdict);
                }
                self.open_channel(at).late.push_back(Late::CommitOk);
                Ok(None)
            }
            tx::AMQPMethod::Rollback(_) => {
                let channel = self.open_channel(at);
                let transaction = channel.transaction.as_mut().ok_or_else(not_transactional)?;
                // What was acknowledged or given back in it is not.
                for (tag, unacked, _) in std::mem::take(transaction).settled {
                    channel.unacked.insert(tag, unacked);
                }
                Ok(Some(tx::AMQPMethod::RollbackOk(tx::RollbackOk {})))
            }
            other => panic!("not in this broker: {other:?}"),
        }
    }
}

fn not_transactional() -> Refusal {
    (406, "PRECONDITION_FAILED - channel is not transactional".to_owned())
}
