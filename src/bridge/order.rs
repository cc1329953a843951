//! Order: what one client says takes effect in the order in which it says it.
//!
//! AMQP channels have no order among each other, and a method that the broker refuses takes its channel with it. So messages are
//! published on one channel, and queues are declared and bound on another, and a packet waits for those before it that went the
//! other way. Meanwhile the client is not read from.
//!
//! | the next packet | waits until |
//! |---|---|
//! | any | CONNACK is given |
//! | PUBLISH | each SUBSCRIBE and UNSUBSCRIBE is answered |
//! | PUBLISH with RETAIN | and what was retained before has been found for each SUBSCRIBE |
//! | SUBSCRIBE | each message has been routed, and kept if it is to be |
//! | UNSUBSCRIBE | and what was retained before has been found for each SUBSCRIBE |
//! | DISCONNECT | all is answered, routed and kept |
//!
//! That a message has been routed is known from its confirm, or, where there are none, from the answer to what was asked behind it
//! on its channel.

use super::again::Drafts;
use super::retained::keep::Keeper;
use super::retained::replay::Replayer;
use super::{Bridge, State};
use crate::mqtt::PacketType;

/// How far the messages that are not confirmed have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Unconfirmed {
    /// The broker has routed them all.
    #[default]
    Routed,
    /// Some may not be.
    Sent,
    /// The broker is asked, on their channel.
    Asked,
}

impl Bridge {
    /// Whether the packet of which `input` has the first byte is to wait, and what it waits for is asked for.
    pub(super) fn must_wait_for_order(&mut self, input: &[u8]) -> bool {
        // What a client that has ended still says goes to the broker in one piece with its end: there is nothing to wait for.
        if self.client_ended {
            return false;
        }
        let Some(next) = self.decoder.next_type(input) else { return false };
        let waits_for_request = match next {
            PacketType::Publish { retain } => self.has_requests() || retain && self.is_replaying(),
            PacketType::Subscribe => self.has_many_requests(),
            PacketType::Unsubscribe => self.has_many_requests() || self.is_replaying(),
            PacketType::Disconnect => self.has_requests() || self.pings.is_owed(),
            PacketType::Other => false,
        };
        let needs_routing =
            matches!(next, PacketType::Subscribe | PacketType::Unsubscribe | PacketType::Disconnect);
        let waits = self.state == State::LoggingIn
            || self.is_owed_much()
            || self.pings.are_many()
            || waits_for_request
            || needs_routing && !self.is_all_routed();
        if waits && needs_routing {
            self.ask_whether_routed();
        }
        waits
    }

    /// Asks whether what nobody confirms has been routed, unless that is known or asked already.
    pub(super) fn ask_whether_routed(&mut self) {
        if self.unconfirmed == Unconfirmed::Sent {
            self.unconfirmed = Unconfirmed::Asked;
            self.broker.ask_whether_routed();
        }
    }

    /// Whether the packet that waits for its turn may go on now.
    pub(super) fn may_go_on_in_order(&mut self) -> bool {
        let buffer = core::mem::take(&mut self.from_client);
        let waits = self.must_wait_for_order(buffer.unparsed());
        self.from_client = buffer;
        !waits
    }

    /// What was asked by [`BrokerSide::ask_whether_routed`](super::broker::BrokerSide) is answered.
    pub(super) fn routed(&mut self) {
        if self.unconfirmed == Unconfirmed::Asked {
            self.unconfirmed = Unconfirmed::Routed;
            self.published_at = None;
        }
    }

    /// The channel is gone with what was on it: there is nobody to be asked.
    pub(super) const fn lost_with_channel(&mut self) {
        self.unconfirmed = Unconfirmed::Routed;
        self.published_at = None;
    }

    /// Nobody can tell any more what has become of the client's messages.
    pub(super) fn forget_publishes(&mut self) {
        self.lost_with_channel();
        self.publications.forget_unconfirmed();
        self.drafts = Drafts::default();
    }

    /// Whether a SUBSCRIBE or UNSUBSCRIBE waits for the broker's answers.
    pub(super) fn has_requests(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.subscriptions.is_empty())
    }

    fn is_replaying(&self) -> bool {
        self.replayer.as_ref().is_some_and(Replayer::is_searching)
    }

    fn has_many_requests(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.subscriptions.has_room())
            || self.replayer.as_ref().is_some_and(|replayer| !replayer.has_room())
    }

    /// Whether each message of the client has been routed, and kept if it is to be.
    pub(super) fn is_all_routed(&self) -> bool {
        self.unconfirmed == Unconfirmed::Routed
            && self.publications.unconfirmed() == 0
            && self.drafts.is_empty()
            && self.keeper.as_ref().is_none_or(Keeper::is_settled)
    }
}
