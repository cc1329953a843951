//! What is sent beside the client's publishes: copies of messages for their readers and to be kept, and last words.

use super::BrokerSide;
use crate::amqp::{self, Address, ClientMethod, Properties, ShortStr};
use crate::bridge::channel::Role;

/// RabbitMQ's `credit_flow_default_credit` is 400; a little more does no harm.
const BARRIER: usize = 450;

impl BrokerSide {
    /// Has the broker handle all that was sent on a channel before it notices that the connection has ended.
    ///
    /// The end of a client's bytes is passed on at once, and RabbitMQ then drops what its channels have not looked at yet. But it
    /// stops reading from a connection when a channel has 400 contents to handle: these are as many, for nobody.
    ///
    /// On a channel whose message was broken off there is nothing to be done: other frames would be an error there.
    pub(in crate::bridge) fn barrier(&mut self, role: Role) {
        if self.is_publishing(role) || self.channel(role).is_relaying {
            return;
        }
        for _ in 0..BARRIER {
            self.publish_whole(role, Address::queue(ShortStr::EMPTY), Properties::default(), &[]);
        }
    }

    /// Starts to publish a message of `body_size` bytes that is arriving, on a channel that is open.
    pub(in crate::bridge) fn relay(
        &mut self,
        role: Role,
        to: Address<'_>,
        properties: Properties<'_>,
        body_size: u64,
    ) {
        amqp::publish(self.behind_login(), role.channel(), to, properties, body_size);
        self.channel(role).is_relaying = body_size > 0;
    }

    /// Sends a piece of its body; when its channel was closed meanwhile it is dropped.
    pub(in crate::bridge) fn relay_body(&mut self, role: Role, bytes: &[u8], last: bool) {
        if self.channel(role).is_relaying {
            let frame_max = self.frame_max;
            amqp::body(self.behind_login(), role.channel(), frame_max, bytes);
            self.channel(role).is_relaying = !last;
            self.answer_flow(role);
        }
    }

    /// Puts a delivery back into its queue, or lets it die.
    pub(in crate::bridge) fn give_back(&mut self, role: Role, delivery_tag: u64, requeue: bool) {
        ClientMethod::BasicNack { delivery_tag, requeue }.encode(self.behind_login(), role.channel());
    }
}
