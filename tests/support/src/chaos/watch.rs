//! A durable queue at the broker for all wills: filled while everything breaks, read when it is over. So a message is
//! in it as often as it was sent, however often connections to the broker have been lost meanwhile.

use anyhow::{Context, Result};
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};

use super::device::WILLS;
use crate::rabbitmq::Rabbitmq;

/// Has every will put into the queue from now on.
pub(crate) async fn declare(broker: &Rabbitmq) -> Result<()> {
    let (connection, channel) = connect(broker).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
    let key = format!("{}.#", WILLS.replace('/', "."));
    let (exchange, options) = ("amq.topic".into(), QueueBindOptions::default());
    channel.queue_bind(QUEUE.into(), exchange, key.into(), options, FieldTable::default()).await?;
    Ok(connection.close(200, "done".into()).await?)
}

/// The payloads of all wills that were sent.
pub(crate) async fn read(broker: &Rabbitmq) -> Result<Vec<Vec<u8>>> {
    let (connection, channel) = connect(broker).await?;
    let mut payloads = Vec::new();
    while let Some(message) = channel.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await? {
        payloads.push(message.delivery.data);
    }
    connection.close(200, "done".into()).await?;
    Ok(payloads)
}

async fn connect(broker: &Rabbitmq) -> Result<(Connection, Channel)> {
    let uri = format!("amqp://guest:guest@{}/%2f", broker.amqp_address());
    let connection = Connection::connect(&uri, ConnectionProperties::default()).await;
    let connection = connection.context("connecting with AMQP")?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// The queue's name.
pub(crate) const QUEUE: &str = "chaos-wills";
