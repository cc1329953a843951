//! What is counted, by tenant. The names are part of what operators rely on: `docs/operations.md` and the dashboard have them.

/// What becomes of a metric's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They add up.
    Counter,
    /// They add up, and go down, too.
    Gauge,
    /// Each is kept for the distribution; of very many at once, some.
    Histogram,
}

macro_rules! metrics {
    ($($metric:ident: $kind:ident $name:literal,)*) => {
        /// A metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the names say it")]
        pub enum Metric {
            $($metric,)*
        }

        impl Metric {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$metric,)*];

            /// Its name: what is counted, and behind dots which part of it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$metric => $name,)*
                }
            }

            /// What becomes of its values.
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$metric => Kind::$kind,)*
                }
            }
        }
    };
}

metrics! {
    // CONNACK, by return code.
    ConnackAccepted: Counter "connack.accepted",
    ConnackUnacceptableProtocolVersion: Counter "connack.unacceptable_protocol_version",
    ConnackIdentifierRejected: Counter "connack.identifier_rejected",
    ConnackServerUnavailable: Counter "connack.server_unavailable",
    ConnackBadUserNameOrPassword: Counter "connack.bad_user_name_or_password",
    ConnackNotAuthorized: Counter "connack.not_authorized",
    // Why a CONNECT was refused: a rule of policy's, the broker, or the protocol.
    RefusedByProtocol: Counter "refused.by.protocol",
    RefusedByBroker: Counter "refused.by.broker",
    RefusedByNoTenant: Counter "refused.by.no_tenant",
    RefusedByClientIdMissing: Counter "refused.by.client_id_missing",
    RefusedByClientIdForeign: Counter "refused.by.client_id_foreign",
    RefusedByClientIdPattern: Counter "refused.by.client_id_pattern",
    RefusedByClientIdUnfit: Counter "refused.by.client_id_unfit",
    RefusedByCredentialsMissing: Counter "refused.by.credentials_missing",
    RefusedByCredentialsUnfit: Counter "refused.by.credentials_unfit",
    RefusedByGuessing: Counter "refused.by.guessing",
    RefusedByUnknownUser: Counter "refused.by.unknown_user",
    RefusedByWrongPassword: Counter "refused.by.wrong_password",
    RefusedByUnverifiable: Counter "refused.by.unverifiable",
    RefusedByNotLoopback: Counter "refused.by.not_loopback",
    RefusedByVhostTooLong: Counter "refused.by.vhost_too_long",
    RefusedByVhostForeign: Counter "refused.by.vhost_foreign",
    RefusedByVhostAccess: Counter "refused.by.vhost_access",
    RefusedByWill: Counter "refused.by.will",
    RefusedByConnections: Counter "refused.by.connections",
    RefusedByMemory: Counter "refused.by.memory",
    // Why a connection ended.
    ClosedDisconnect: Counter "closed.disconnect",
    ClosedClientGone: Counter "closed.client_gone",
    ClosedMalformed: Counter "closed.malformed",
    ClosedMisbehaved: Counter "closed.misbehaved",
    ClosedTimedOut: Counter "closed.timed_out",
    ClosedUnfinished: Counter "closed.unfinished",
    ClosedLimit: Counter "closed.limit",
    ClosedBrokerClosed: Counter "closed.broker_closed",
    ClosedBrokerMalformed: Counter "closed.broker_malformed",
    ClosedBrokerMisbehaved: Counter "closed.broker_misbehaved",
    ClosedBrokerGone: Counter "closed.broker_gone",
    ClosedTakenOver: Counter "closed.taken_over",
    ClosedReplaced: Counter "closed.replaced",
    ClosedDenied: Counter "closed.denied",
    // What was wrong with a client's bytes.
    MalformedPacketType: Counter "malformed.packet_type",
    MalformedFlags: Counter "malformed.flags",
    MalformedRemainingLength: Counter "malformed.remaining_length",
    MalformedLength: Counter "malformed.length",
    MalformedQos: Counter "malformed.qos",
    MalformedDup: Counter "malformed.dup",
    MalformedPacketId: Counter "malformed.packet_id",
    MalformedUtf8: Counter "malformed.utf8",
    MalformedTopicName: Counter "malformed.topic_name",
    MalformedTopicTooLong: Counter "malformed.topic_too_long",
    MalformedNoFilter: Counter "malformed.no_filter",
    MalformedProtocolName: Counter "malformed.protocol_name",
    MalformedProtocolLevel: Counter "malformed.protocol_level",
    MalformedReservedFlag: Counter "malformed.reserved_flag",
    MalformedWillFlags: Counter "malformed.will_flags",
    MalformedPasswordWithoutUsername: Counter "malformed.password_without_username",
    MalformedPacketTooLarge: Counter "malformed.packet_too_large",
    // What policy did not permit, and by which rule.
    DeniedPublish: Counter "denied.publish",
    DeniedSubscribe: Counter "denied.subscribe",
    DeniedByFilter: Counter "denied.by.filter",
    DeniedByGrant: Counter "denied.by.grant",
    DeniedByPermission: Counter "denied.by.permission",
    DeniedByTopicPermission: Counter "denied.by.topic_permission",
    DeniedByQueuePermission: Counter "denied.by.queue_permission",
    DeniedByMaxPayloadSize: Counter "denied.by.max_payload_size",
    DeniedByMaxQos: Counter "denied.by.max_qos",
    DeniedByRetainAllowed: Counter "denied.by.retain_allowed",
    DeniedByMaxTopicLevels: Counter "denied.by.max_topic_levels",
    DeniedByMaxSubscriptions: Counter "denied.by.max_subscriptions",
    // A PUBLISH that the broker did not permit, dropped; a message from the broker that MQTT cannot carry.
    Unauthorized: Counter "unauthorized",
    // Publishes that the broker could not take (basic.nack), and those of them that were not acknowledged in the end.
    PublishedAgain: Counter "published_again",
    Unacknowledged: Counter "unacknowledged",
    Undeliverable: Counter "undeliverable",
    // Messages from clients and to them, and bytes of their payload, by QoS.
    MessagesPublishedQos0: Counter "messages.published.qos0",
    MessagesPublishedQos1: Counter "messages.published.qos1",
    MessagesPublishedQos2: Counter "messages.published.qos2",
    MessagesDeliveredQos0: Counter "messages.delivered.qos0",
    MessagesDeliveredQos1: Counter "messages.delivered.qos1",
    BytesPublishedQos0: Counter "bytes.published.qos0",
    BytesPublishedQos1: Counter "bytes.published.qos1",
    BytesPublishedQos2: Counter "bytes.published.qos2",
    BytesDeliveredQos0: Counter "bytes.delivered.qos0",
    BytesDeliveredQos1: Counter "bytes.delivered.qos1",
    // Retained messages.
    RetainedKept: Counter "retained.kept",
    RetainedCleared: Counter "retained.cleared",
    RetainedReplayed: Counter "retained.replayed",
    RetainedUnkept: Counter "retained.unkept",
    RetainedUnanswered: Counter "retained.unanswered",
    // Wills given to the broker, taken back by DISCONNECT, and left for it to send.
    WillsHeld: Counter "wills.held",
    WillsWithdrawn: Counter "wills.withdrawn",
    WillsLeft: Counter "wills.left",
    // Clients that have had CONNACK 0 and not left; publishes that wait for the broker's confirm.
    Connections: Gauge "connections",
    Inflight: Gauge "inflight",
    // From a client's connecting to CONNACK 0, and from PUBLISH to the broker's confirm, in microseconds.
    ConnectTimeUs: Histogram "connect_time_us",
    ConfirmTimeUs: Histogram "confirm_time_us",
}

/// Values that wait to be taken: one sum for each counter and gauge, and values for histograms.
#[derive(Default)]
pub(crate) struct Measures {
    sums: Vec<(Metric, i64)>,
    samples: Vec<(Metric, i64)>,
    /// Of so many values, one is a sample: 0 and 1 are all.
    stride: u32,
    /// Values since the last one that is.
    passed: u32,
}

/// The most samples of one input: a broker may confirm 65,535 messages by one frame.
const MAX_SAMPLES: usize = 256;

impl Measures {
    /// Takes the same time for each value, however many there are.
    pub(crate) fn add(&mut self, metric: Metric, value: i64) {
        if metric.kind() == Kind::Histogram {
            return self.sample(metric, value);
        }
        // Some hosts take an addition of nothing for a mistake.
        if value == 0 {
            return;
        }
        // There are no more of them than metrics.
        match self.sums.iter_mut().find(|(known, _)| *known == metric) {
            Some((_, sum)) => *sum = sum.saturating_add(value),
            None => self.sums.push((metric, value)),
        }
    }

    /// When there are too many, every other one goes, of those that are there and of those that come.
    fn sample(&mut self, metric: Metric, value: i64) {
        self.passed += 1;
        if self.passed < self.stride {
            return;
        }
        self.passed = 0;
        if self.samples.len() == MAX_SAMPLES {
            let mut is_odd = false;
            self.samples.retain(|_| {
                is_odd = !is_odd;
                is_odd
            });
            self.stride = self.stride.max(1).saturating_mul(2);
        }
        self.samples.push((metric, value));
    }

    /// Once there is nothing to take, what a burst has taken is given back.
    pub(crate) fn take(&mut self) -> Option<(Metric, i64)> {
        let taken = self.sums.pop().or_else(|| self.samples.pop());
        if taken.is_none() {
            (self.stride, self.passed) = (0, 0);
            if self.samples.capacity() > FEW {
                self.samples = Vec::new();
            }
        }
        taken
    }
}

/// So many samples are no burst.
const FEW: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_have_no_odd_characters() {
        let names: BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte);
        assert!(names.iter().all(|name| name.bytes().all(is_plain)));
    }

    #[test]
    fn sums_are_one_and_samples_are_many() {
        let mut measures = Measures::default();
        for value in [1, 2] {
            measures.add(Metric::Inflight, value);
            measures.add(Metric::ConfirmTimeUs, value);
        }
        measures.add(Metric::BytesPublishedQos0, 0);
        measures.add(Metric::Inflight, -4);
        let mut taken: Vec<_> = core::iter::from_fn(|| measures.take()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [(Metric::Inflight, -1), (Metric::ConfirmTimeUs, 1), (Metric::ConfirmTimeUs, 2)]);
    }

    #[test]
    fn of_a_burst_some_samples_are_taken_from_all_along_it() {
        let mut measures = Measures::default();
        let mut burst = |count: i64| {
            (0..count).for_each(|value| measures.add(Metric::ConfirmTimeUs, value));
            let mut values: Vec<_> =
                core::iter::from_fn(|| measures.take()).map(|(_, value)| value).collect();
            values.sort_unstable();
            assert!(measures.samples.capacity() <= FEW, "given back");
            values
        };
        assert_eq!(burst(256).len(), 256);
        for count in [257, 1_000, 65_535] {
            let values = burst(count);
            assert!((128..=256).contains(&values.len()), "{count}: {}", values.len());
            // A quarter of them from each quarter of the burst.
            let middle = values[values.len() / 2];
            assert!((middle - count / 2).abs() <= count / 64 + 2, "{count}: {middle}");
        }
        assert_eq!(burst(256).len(), 256, "a burst is not held against the next");
    }
}
