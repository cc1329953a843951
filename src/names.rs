//! Names of queues at the broker. Those of sessions that are kept are RabbitMQ's own: `mqtt-subscription-<client id>qos1`.
//!
//! What goes with its connection has an ending that no other connection's has: RabbitMQ deletes a queue by name a moment after it
//! stopped, and a new one of that name would go with it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::amqp::ShortText;
use crate::mqtt::QoS;

const STEM: &str = "mqtt-subscription-";

/// 2^64 over the golden ratio: a product's upper bits depend on all of its factor's.
const FIBONACCI: u64 = 0x9e37_79b9_7f4a_7c15;

/// The queues of one client.
pub struct QueueNames {
    /// `queue_prefix` and [`STEM`].
    stem: Box<str>,
    /// Of subscriptions at QoS 0 and 1, of a session that is kept.
    pub kept: [ShortText; 2],
    /// Of subscriptions at QoS 0 and 1, of a session that goes with its connection.
    pub own: [ShortText; 2],
    /// By which one connection tells another that it has taken the client id over.
    pub lock: ShortText,
    /// By which a connection knows its own claim from another's.
    pub lock_mark: Box<str>,
    /// Where the will waits.
    pub will: ShortText,
    /// The same for a will that is to be retained.
    pub retained_will: ShortText,
    /// Where topics answer which of them have a retained message.
    pub answers: ShortText,
}

/// What RabbitMQ's own plugin calls a client's queue, which is what its permissions are about, whatever `queue_prefix` is.
pub fn of_plugin(client_id: &str, qos: QoS) -> String {
    format!("{STEM}{client_id}qos{}", qos as u8)
}

/// Whether RabbitMQ leaves a name as it is. It takes line breaks out, and what is then named is somebody else's.
pub(crate) fn is_nameable(text: &str) -> bool {
    !text.contains(['\r', '\n'])
}

impl QueueNames {
    /// `None` when the client id makes a name of more than 255 bytes, or has a line break.
    pub fn new(prefix: &str, client_id: &str, nonce: u128) -> Option<Self> {
        if !is_nameable(client_id) {
            return None;
        }
        let stem = format!("{prefix}{STEM}");
        let folded = (nonce as u64 ^ (nonce >> 64) as u64).wrapping_mul(FIBONACCI);
        let own = URL_SAFE_NO_PAD.encode(folded.to_be_bytes());
        let name = |ending: &str| ShortText::new(&format!("{stem}{client_id}{ending}"));
        Some(Self {
            kept: [name("qos0")?, name("qos1")?],
            own: [name(&format!("qos0.{own}"))?, name(&format!("qos1.{own}"))?],
            lock: name("lock")?,
            lock_mark: own.as_str().into(),
            will: name(&format!("will.{own}"))?,
            retained_will: name(&format!("kept.{own}"))?,
            answers: name(&format!("answers.{own}"))?,
            stem: stem.into(),
        })
    }

    /// The one queue of a `$share` group and filter; `None` when the name is longer than 255 bytes, or has a line break.
    ///
    /// A group has no `/` in its name, so the two cannot run into each other.
    pub fn shared(&self, group: &str, binding_key: &str) -> Option<ShortText> {
        let name = format!("{}{group}/{binding_key}share", self.stem);
        is_nameable(&name).then(|| ShortText::new(&name))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rabbitmq_would_name_otherwise_has_no_name() {
        assert!(QueueNames::new("", "vic\ntim", 0).is_none() && QueueNames::new("", "victim\r", 0).is_none());
        let names = QueueNames::new("", "c", 0).unwrap();
        assert!(names.shared("g", "se\ncret.#").is_none() && names.shared("g\r", "a").is_none());
        assert!(names.shared("g", "secret.#").is_some());
    }
}
