//! Names of queues at the broker. Those of subscriptions are RabbitMQ's own, so that people and permissions know them:
//! `mqtt-subscription-<client id>qos1`. No two queues get one name, since each kind has an ending of its own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::ShortText;

const STEM: &str = "mqtt-subscription-";

/// 2^64 over the golden ratio: a product's upper bits depend on all of its factor's.
const FIBONACCI: u64 = 0x9e37_79b9_7f4a_7c15;

/// The queues of one client.
pub struct QueueNames {
    /// `queue_prefix` and [`STEM`].
    stem: Box<str>,
    /// Of subscriptions at QoS 0 and 1.
    pub qos: [ShortText; 2],
    /// By which one connection tells another that it has taken the client id over.
    pub lock: ShortText,
    /// A number of 20 bits by which a connection knows its own lock from another's.
    pub lock_mark: u32,
    /// Where the will waits; another one for each connection. `None` when the client id is too long for it.
    pub will: Option<ShortText>,
}

impl QueueNames {
    /// `None` when the client id makes a name of more than 255 bytes.
    pub fn new(prefix: &str, client_id: &str, nonce: u128) -> Option<Self> {
        let stem = format!("{prefix}{STEM}");
        let name = |ending: &str| ShortText::new(&format!("{stem}{client_id}{ending}"));
        let will = format!("will{}", URL_SAFE_NO_PAD.encode(nonce.to_be_bytes()));
        let folded = (nonce as u64 ^ (nonce >> 64) as u64).wrapping_mul(FIBONACCI);
        Some(Self {
            qos: [name("qos0")?, name("qos1")?],
            lock: name("lock")?,
            lock_mark: (folded >> 44) as u32,
            will: name(&will),
            stem: stem.into(),
        })
    }

    /// The one queue of a `$share` group and filter; `None` when the name is longer than 255 bytes.
    ///
    /// A group has no `/` in its name, so the two cannot run into each other.
    pub fn shared(&self, group: &str, binding_key: &str) -> Option<ShortText> {
        ShortText::new(&format!("{}{group}/{binding_key}share", self.stem))
    }
}
