//! What a client that is in may publish and subscribe.

use leveret::error::Error;
use leveret::mqtt::{DecodeError, QoS, SUBACK_FAILURE};
use leveret::policy::grants::{Budget, Decision};
use leveret::policy::permissions::Expression;
use leveret::policy::variables::Variable;
use leveret::policy::{Admission, Denial, Message, OnUnauthorized};
use leveret::{Event, names, topic};

use super::client::Case;
use super::story::{Aftermath, Steps, Story};
use super::written::Quote;

/// A PUBLISH, less its topic.
pub(super) struct Publish {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) size: u32,
}

/// What a variable may stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// In an expression.
    Anything,
    /// In a grant.
    Level,
}

/// What is asked of the rules.
struct Question<'a> {
    case: &'a Case<'a>,
    admission: &'a Admission,
    /// `publish` or `subscribe`, which is also what grants are called.
    grants: &'static str,
    /// `write` or `read`.
    access: &'static str,
    key: &'a str,
    qos: QoS,
}

pub(super) fn publish(
    case: &Case<'_>,
    admission: &Admission,
    mut steps: Steps,
    topic: &str,
    publish: &Publish,
) -> Story {
    let mut key = Vec::new();
    case.config.topic_mapping.routing_key(topic, &mut key);
    let text = String::from_utf8_lossy(&key);
    steps.add(
        "exchange",
        admission.tenant.exchange.as_str(),
        case.written.term("exchange").map(|it| it.to_string()),
    );
    steps.add("routing key", &*text, case.written.top("topic_mapping").map(|it| it.to_string()));
    if key.len() > KEY {
        let event = Event::Failed(Error::Malformed(DecodeError::TopicTooLong));
        return steps.denied(format!("routing keys have at most {KEY} bytes"), ended(event));
    }
    let message = Message {
        topic,
        routing_key: &key,
        qos: publish.qos,
        retain: publish.retain,
        payload_len: publish.size,
    };
    let question =
        Question { case, admission, grants: "publish", access: "write", key: &text, qos: publish.qos };
    match admission.rights.publish(message, &mut Budget::default()) {
        Ok(decision) => steps.permitted(question.permitted(decision)),
        Err(denial) => {
            let by = question.denied(denial);
            let aftermath = match admission.tenant.on_unauthorized {
                OnUnauthorized::Disconnect => ended(Event::Failed(Error::Denied(denial))),
                OnUnauthorized::Drop => Aftermath {
                    client_hears: match publish.qos {
                        QoS::AtMostOnce => "nothing",
                        QoS::AtLeastOnce => "PUBACK, as if it had been published",
                        QoS::ExactlyOnce => "PUBREC and PUBCOMP, as if it had been published",
                    }
                    .to_owned(),
                    log_says: Some(Event::PublishDenied { denial, is_first: true }.to_string()),
                },
            };
            steps.add(
                "on_unauthorized",
                if admission.tenant.on_unauthorized == OnUnauthorized::Drop { "drop" } else { "disconnect" },
                case.written.term("on_unauthorized").map(|it| it.to_string()),
            );
            steps.denied(format!("{}: {by}", denial.text()), aftermath)
        }
    }
}

fn ended(event: Event) -> Aftermath {
    Aftermath { client_hears: "the connection's end".to_owned(), log_says: Some(event.to_string()) }
}

pub(super) fn subscribe(
    case: &Case<'_>,
    admission: &Admission,
    mut steps: Steps,
    filter: &str,
    qos: QoS,
) -> Story {
    let granted = qos.min(admission.tenant.quota.max_qos).min(QoS::AtLeastOnce);
    let (group, filter) = match topic::shared(filter) {
        None => (None, filter),
        Some(Ok((group, filter))) => (Some(group), filter),
        Some(Err(error)) => return steps.denied(error.to_string(), refused(None)),
    };
    let mut key = Vec::new();
    if let Err(error) = case.config.topic_mapping.binding_key(filter, &mut key) {
        return steps.denied(error.to_string(), refused(None));
    }
    let text = String::from_utf8_lossy(&key);
    steps.add(
        "exchange",
        admission.tenant.exchange.as_str(),
        case.written.term("exchange").map(|it| it.to_string()),
    );
    steps.add("binding key", &*text, case.written.top("topic_mapping").map(|it| it.to_string()));
    if key.len() > KEY {
        return steps.denied(format!("binding keys have at most {KEY} bytes"), refused(None));
    }
    if let Some(group) = group {
        steps.add("group", group, ["$share, so its members divide the messages".to_owned()]);
    }
    let question =
        Question { case, admission, grants: "subscribe", access: "read", key: &text, qos: granted };
    let decision = match admission.rights.subscribe(filter, &key, granted, &mut Budget::default()) {
        Ok(decision) => decision,
        Err(denial) => {
            let rule = format!("{}: {}", denial.text(), question.denied(denial));
            return steps.denied(rule, refused(Some(Event::SubscribeDenied { denial, is_first: true })));
        }
    };
    let queue = match group {
        Some(group) => admission.queues.shared(group, &text).map(|name| name.as_str().to_owned()),
        None => Some(question.queue().to_owned()),
    };
    let Some(queue) = queue else {
        return steps.denied("names of queues have at most 255 bytes".to_owned(), refused(None));
    };
    let (queue, lifetime) = match (group, case.connect.clean_session) {
        (None, true) => {
            (format!("{queue}.<own>"), "a clean session: the connection's, with an ending of its own")
        }
        (None, false) => (queue, "a persistent session: subscription_ttl longer than the connection"),
        (Some(_), _) => (queue, "a shared subscription: subscription_ttl longer than its last member"),
    };
    let by = [Some(lifetime.to_owned()), case.written.term("queue_prefix").map(|it| it.to_string())];
    steps.add("queue", queue, by.into_iter().flatten());
    let lowered = (granted < qos).then(|| {
        let limit = case.written.term("max_qos").filter(|_| granted == admission.tenant.quota.max_qos);
        limit.map_or_else(|| "QoS 2 is lowered to 1, as RabbitMQ does".to_owned(), |it| it.to_string())
    });
    steps.add("granted QoS", (granted as u8).to_string(), lowered);
    if let Some(quote) = case.written.term("max_subscriptions") {
        steps.add("max_subscriptions", "how many there are is known in Envoy only", [quote.to_string()]);
    }
    steps.permitted(question.permitted(decision))
}

fn refused(event: Option<Event>) -> Aftermath {
    Aftermath {
        client_hears: format!("SUBACK {SUBACK_FAILURE:#x} for this filter, and the connection is kept"),
        log_says: event.map(|event| event.to_string()),
    }
}

impl Question<'_> {
    /// What permits it: the most particular rule that there is.
    fn permitted(&self, decision: Decision) -> String {
        if let Decision::Allowed(number) = decision {
            return self.grant("allow", number);
        }
        let Self { case, admission, access, .. } = self;
        let topics = case.topic_permission(&admission.username, admission.vhost.as_str());
        let permission = self.permission();
        let rule = [topics, permission].into_iter().flatten().find_map(|entry| entry.get(access));
        rule.map_or_else(
            || {
                format!(
                    "nothing forbids it: no `{0}.allow`, no `{0}.deny` that matches, no permissions",
                    self.grants
                )
            },
            |quote| format!("{quote}{}", self.values(&quote.text(), Takes::Anything)),
        )
    }

    /// What forbids it.
    fn denied(&self, denial: Denial) -> String {
        let Self { case, admission, access, .. } = self;
        let limit = |key| case.written.term_or(key, "none");
        match denial {
            Denial::Filter => String::new(),
            Denial::Grant(Decision::Denied(number)) => self.grant("deny", number),
            Denial::Grant(Decision::TooComplex) => "a filter with fewer # could be compared".to_owned(),
            Denial::Grant(_) => self.no_grant(),
            Denial::Permission => self
                .permission()
                .and_then(|entry| entry.get(access))
                .map(|quote| format!("{quote} does not match {}", admission.tenant.exchange.as_str()))
                .unwrap_or_default(),
            Denial::QueuePermission => self.lacking().unwrap_or_default(),
            Denial::TopicPermission => case
                .topic_permission(&admission.username, admission.vhost.as_str())
                .and_then(|entry| entry.get(access))
                .map(|quote| {
                    let values = self.values(&quote.text(), Takes::Anything);
                    let comma = if values.is_empty() { "" } else { "," };
                    format!("{quote}{values}{comma} does not match {}", self.key)
                })
                .unwrap_or_default(),
            Denial::PayloadSize => limit("max_payload_size"),
            Denial::QoS => limit("max_qos"),
            Denial::Retain => limit("retain_allowed"),
            Denial::TopicLevels => limit("max_topic_levels"),
            Denial::Subscriptions => limit("max_subscriptions"),
        }
    }

    fn permission(&self) -> Option<Quote<'_>> {
        let of = [("user", &*self.admission.username), ("vhost", self.admission.vhost.as_str())];
        self.case.written.entry("permissions", &of)
    }

    /// The queue, as RabbitMQ names it.
    fn queue(&self) -> String {
        names::of_plugin(&self.admission.client_id, self.qos.min(QoS::AtLeastOnce))
    }

    /// The first of the three permissions on the queue that is not there.
    fn lacking(&self) -> Option<String> {
        let (entry, queue) = (self.permission()?, self.queue());
        let lacks = |quote: &Quote<'_>| {
            let expression = Expression::parse_plain(&quote.text());
            !expression.is_ok_and(|expression| expression.matches(queue.as_bytes()))
        };
        let quote =
            ["configure", "write", "read"].into_iter().filter_map(|key| entry.get(key)).find(lacks)?;
        Some(format!("{quote} does not match {queue}"))
    }

    /// An entry of a grant, and what stands for its variables.
    fn grant(&self, list: &str, number: usize) -> String {
        let grants = self.case.written.term(self.grants);
        let entry = grants.and_then(|grants| grants.get(list)?.at(number));
        entry.map(|entry| format!("{entry}{}", self.values(&entry.text(), Takes::Level))).unwrap_or_default()
    }

    fn no_grant(&self) -> String {
        let Some(allow) = self.case.written.term(self.grants).and_then(|grants| grants.get("allow")) else {
            return String::new();
        };
        let entries: Vec<_> = allow.each().iter().map(Quote::text).collect();
        match entries.as_slice() {
            [only] => format!("{}[0]: {only}{}", allow.path, self.values(only, Takes::Level)),
            [] => format!("{} is empty", allow.path),
            all => format!(
                "none of the {} in {}{}",
                all.len(),
                allow.path,
                self.values(&all.concat(), Takes::Level)
            ),
        }
    }

    /// The values of the variables in a text.
    fn values(&self, text: &str, takes: Takes) -> String {
        let values = self.admission.rights.values();
        let mut told = Vec::new();
        for variable in Variable::ALL.into_iter().filter(|variable| text.contains(variable.text())) {
            let (name, value) = (variable.text(), values.text(variable));
            told.push(match (value, values.word(variable)) {
                ("", _) => format!("{name} is not known"),
                (value, None) if takes == Takes::Level => {
                    format!("{name} is {value}, which is not one level")
                }
                (value, _) => format!("{name} is {value}"),
            });
        }
        if told.is_empty() { String::new() } else { format!(", where {}", told.join(" and ")) }
    }
}

/// The longest key, in bytes.
const KEY: usize = 255;
