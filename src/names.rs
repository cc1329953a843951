//! Names of queues at the broker. Those of subscriptions are RabbitMQ's own, so that people and permissions know them:
//! `mqtt-subscription-<client id>qos1`. No two queues get one name, since each kind has an ending of its own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::ShortText;

const STEM: &str = "mqtt-subscription-";

/// The queues of one client.
pub struct QueueNames {
    /// `queue_prefix` and [`STEM`].
    stem: Box<str>,
    /// Of subscriptions at QoS 0 and 1.
    pub qos: [ShortText; 2],
    /// By which one connection tells another that it has taken the client id over.
    pub lock: ShortText,
    /// Where the will waits; another one for each connection. `None` when the client id is too long for it.
    pub will: Option<ShortText>,
    /// The same for a will that is to be retained.
    pub retained_will: Option<ShortText>,
    /// Where topics answer which of them have a retained message, in the same way.
    pub answers: Option<ShortText>,
}

impl QueueNames {
    /// `None` when the client id makes a name of more than 255 bytes.
    pub fn new(prefix: &str, client_id: &str, nonce: u128) -> Option<Self> {
        let stem = format!("{prefix}{STEM}");
        let name = |ending: &str| ShortText::new(&format!("{stem}{client_id}{ending}"));
        let nonce = URL_SAFE_NO_PAD.encode(nonce.to_be_bytes());
        let of_connection = |ending: &str| name(&format!("{ending}{nonce}"));
        Some(Self {
            qos: [name("qos0")?, name("qos1")?],
            lock: name("lock")?,
            will: of_connection("will"),
            retained_will: of_connection("rwill"),
            answers: of_connection("answers"),
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
