//! How much a tenant and its clients may do.

use super::rate::Rate;
use crate::mqtt::QoS;

/// A tenant's limits; `None` is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Connections, over all workers.
    pub max_connections: Option<u32>,
    /// PUBLISH packets of all clients together.
    pub message_rate: Option<Rate>,
    /// Bytes of all packets of all clients together.
    pub byte_rate: Option<Rate>,
    /// PUBLISH packets of one client.
    pub client_message_rate: Option<Rate>,
    /// Bytes of all packets of one client.
    pub client_byte_rate: Option<Rate>,
    /// Publishes of one client that wait for the broker's confirm.
    pub max_inflight: Option<u16>,
    /// Payload of a PUBLISH or a will, in bytes.
    pub max_payload_size: Option<u32>,
    /// The highest QoS.
    pub max_qos: QoS,
    /// Whether a PUBLISH or a will may be retained.
    pub retain_allowed: bool,
    /// Levels of a topic or filter, 1 to 128.
    pub max_topic_levels: Option<u8>,
    /// Filters of one connection.
    pub max_subscriptions: Option<u32>,
    /// `$share` subscriptions of one connection, 1 to 65535: each may have a queue that outlives it.
    pub max_shared_subscriptions: u16,
}

impl Quota {
    /// No limits, but for what would outlive a connection at the broker.
    pub const NONE: Self = Self {
        max_connections: None,
        message_rate: None,
        byte_rate: None,
        client_message_rate: None,
        client_byte_rate: None,
        max_inflight: None,
        max_payload_size: None,
        max_qos: QoS::ExactlyOnce,
        retain_allowed: true,
        max_topic_levels: None,
        max_subscriptions: None,
        max_shared_subscriptions: 32,
    };

    /// Whether a topic or filter has more levels than it may.
    pub(super) fn is_too_deep(&self, topic: &str) -> bool {
        self.max_topic_levels.is_some_and(|most| topic.split('/').count() > most.into())
    }
}
