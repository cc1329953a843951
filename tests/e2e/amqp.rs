//! An AMQP 0-9-1 client (lapin) at the broker itself.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use support::process::wait_until;
use tokio::runtime::{self, Runtime};

use crate::world::{PATIENCE, broker};

/// A connection with a channel.
pub(crate) struct Amqp {
    connection: Connection,
    channel: Channel,
    runtime: Runtime,
}

/// A queue of this connection's own.
pub(crate) struct Queue<'a>(&'a Amqp, String);

impl Amqp {
    /// As guest, at the broker of all tests.
    pub(crate) fn connect() -> Result<Self> {
        Self::connect_to(broker().amqp_address())
    }

    /// As guest.
    pub(crate) fn connect_to(broker: SocketAddr) -> Result<Self> {
        let uri = format!("amqp://guest:guest@{broker}/%2f");
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            anyhow::Ok((connection, channel))
        })?;
        Ok(Self { connection, channel, runtime })
    }

    /// Publishes to `amq.topic`, and returns when the broker has the message.
    pub(crate) fn publish(&self, key: &str, payload: &[u8], properties: BasicProperties) -> Result<()> {
        let options = BasicPublishOptions::default();
        let publish = self.channel.basic_publish(EXCHANGE.into(), key.into(), options, payload, properties);
        self.runtime.block_on(async { publish.await?.await })?;
        Ok(())
    }

    /// Declares a queue that is this connection's alone.
    pub(crate) fn hold_queue(&self, queue: &str) -> Result<()> {
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let declare = self.channel.queue_declare(queue.into(), exclusive, FieldTable::default());
        self.runtime.block_on(declare)?;
        Ok(())
    }

    /// Declares a queue that stays, and binds it.
    pub(crate) fn keep_queue(&self, queue: &str, arguments: FieldTable, binding_key: &str) -> Result<()> {
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        self.runtime.block_on(async {
            self.channel.queue_declare(queue.into(), durable, arguments).await?;
            self.channel.queue_bind(queue.into(), EXCHANGE.into(), binding_key.into(), bind, none).await?;
            Ok(())
        })
    }

    /// Whether a queue that is there has neither a message waiting nor a consumer. Exact at this moment, unlike the
    /// figures of the management API.
    pub(crate) fn is_idle(&self, queue: &str) -> Result<bool> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        self.runtime.block_on(async {
            // One of its own: should the queue be gone by now, the answer closes it.
            let channel = self.connection.create_channel().await?;
            let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
            channel.close(200, "".into()).await?;
            Ok(queue.message_count() == 0 && queue.consumer_count() == 0)
        })
    }

    /// A queue that gets what is published with such keys from now on.
    pub(crate) fn queue(&self, binding_key: &str) -> Result<Queue<'_>> {
        self.queue_with(binding_key, FieldTable::default())
    }

    /// The same with arguments to be chosen.
    pub(crate) fn queue_with(&self, binding_key: &str, arguments: FieldTable) -> Result<Queue<'_>> {
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        self.runtime.block_on(async {
            let queue = self.channel.queue_declare("".into(), exclusive, arguments).await?;
            let (name, bind) = (queue.name().clone(), QueueBindOptions::default());
            let bound = self.channel.queue_bind(
                name.clone(),
                EXCHANGE.into(),
                binding_key.into(),
                bind,
                FieldTable::default(),
            );
            bound.await?;
            Ok(Queue(self, name.to_string()))
        })
    }
}

impl Queue<'_> {
    /// The next message.
    pub(crate) fn next(&self) -> Result<BasicGetMessage> {
        wait_until("a message", PATIENCE, || self.now().transpose())?
    }

    /// The next message, if there is one.
    pub(crate) fn now(&self) -> Result<Option<BasicGetMessage>> {
        let no_ack = BasicGetOptions { no_ack: true };
        let get = self.0.channel.basic_get(self.1.as_str().into(), no_ack);
        self.0.runtime.block_on(get).context("basic.get")
    }
}

/// A message to be kept on disk: MQTT's QoS 1.
pub(crate) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// Where MQTT's topics live.
const EXCHANGE: &str = "amq.topic";
