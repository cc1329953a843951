//! An AMQP 0-9-1 client (lapin) at the broker itself.

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
    _connection: Connection,
    channel: Channel,
    runtime: Runtime,
}

/// A queue of this connection's own.
pub(crate) struct Queue<'a>(&'a Amqp, String);

impl Amqp {
    /// As guest.
    pub(crate) fn connect() -> Result<Self> {
        let uri = format!("amqp://guest:guest@{}/%2f", broker().amqp_address());
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            anyhow::Ok((connection, channel))
        })?;
        Ok(Self { _connection: connection, channel, runtime })
    }

    /// Publishes to `amq.topic`, and returns when the broker has the message.
    pub(crate) fn publish(&self, key: &str, payload: &[u8], properties: BasicProperties) -> Result<()> {
        let options = BasicPublishOptions::default();
        let publish = self.channel.basic_publish(EXCHANGE.into(), key.into(), options, payload, properties);
        self.runtime.block_on(async { publish.await?.await })?;
        Ok(())
    }

    /// A queue that gets what is published with such keys from now on.
    pub(crate) fn queue(&self, binding_key: &str) -> Result<Queue<'_>> {
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        self.runtime.block_on(async {
            let queue = self.channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
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
