//! Users whose permissions were made for the queues of RabbitMQ's plugin, and do not reach those of Leveret's.

use std::collections::BTreeMap;

use leveret::policy::permissions::Expression;
use serde_json::Value;

use super::Translation;
use super::definitions::Permission;

/// The expressions of one user in one virtual host.
struct Access<'a> {
    configure: Expression,
    write: Expression,
    read: Expression,
    exchange: &'a str,
}

/// Names each user that could do with RabbitMQ's plugin what it cannot do with Leveret, and what it lacks: with a `broker_user`, that
/// one, since the broker sees no other.
pub(super) fn report(permissions: &[Permission], to: &mut Translation) {
    let exchange = to.plugin.get("exchange").and_then(Value::as_str).unwrap_or("amq.topic").to_owned();
    let account = to.plugin.get("broker_user").and_then(Value::as_str).map(str::to_owned);
    let is_seen =
        |permission: &&Permission| account.as_ref().is_none_or(|account| *account == permission.user);
    for permission in permissions.iter().filter(is_seen) {
        // Expressions that cannot be read have been named already.
        let Some(access) = Access::new(permission, &exchange) else { continue };
        let lacks = access.lacks(&client_ids(permission));
        if lacks.is_empty() {
            continue;
        }
        to.remarks.attend_to(
            permission.key(),
            format!("enough for RabbitMQ's plugin. With Leveret this user lacks what it takes to {}", lacks.join(", to ")),
            "let configure, write and read have `^mqtt-(subscription|retained)` as well, and write `^amq\\.default$`; docs/broker.md \
             has which is for what. Or set a `broker_user` that has them: `permissions` still hold for each user",
        );
    }
}

impl<'a> Access<'a> {
    fn new(permission: &Permission, exchange: &'a str) -> Option<Self> {
        let of = |text: &str| Expression::parse(text, &mut BTreeMap::new()).ok();
        Some(Self {
            configure: of(&permission.configure)?,
            write: of(&permission.write)?,
            read: of(&permission.read)?,
            exchange,
        })
    }

    /// The table of docs/broker.md, for what RabbitMQ's plugin would let the user do.
    fn lacks(&self, client_ids: &[String]) -> Vec<&'static str> {
        let own = |id: &str, kind: &str| format!("mqtt-subscription-{id}{kind}");
        let publishes = self.write.matches(self.exchange.as_bytes());
        let subscriber = client_ids.iter().find(|id| {
            self.read.matches(self.exchange.as_bytes())
                && ["qos0", "qos1"].iter().any(|kind| self.has_queue(&own(id, kind)))
        });
        let mut lacks = Vec::new();
        if let Some(id) = subscriber {
            // The eleven characters behind the dot are a connection's own.
            if !self.has_queue(&own(id, "qos0.AAAAAAAAAAA")) || !self.has_queue(&own(id, "qos1.AAAAAAAAAAA"))
            {
                lacks.push("subscribe in a clean session");
            }
            let lock = own(id, "lock");
            if !self.configure.matches(lock.as_bytes()) || !self.read.matches(lock.as_bytes()) {
                lacks.push("take over from another connection of its client id");
            }
        }
        let id = subscriber.or(client_ids.first()).map_or("client", String::as_str);
        let will = own(id, "will.AAAAAAAAAAA");
        if publishes
            && !(self.configure.matches(will.as_bytes())
                && self.read.matches(will.as_bytes())
                && self.write.matches(DEFAULT_EXCHANGE.as_bytes()))
        {
            lacks.push("have a will");
        }
        if (publishes || subscriber.is_some())
            && !(self.has_queue("mqtt-retained-a.b")
                && self.has_queue("mqtt-retained")
                && self.write.matches(DEFAULT_EXCHANGE.as_bytes()))
        {
            lacks.push("have messages retained or be given retained ones");
        }
        lacks
    }

    fn has_queue(&self, name: &str) -> bool {
        self.configure.matches(name.as_bytes())
            && self.write.matches(name.as_bytes())
            && self.read.matches(name.as_bytes())
    }
}

/// Client ids that the expressions may have been written for: any, the user's name, or one that they spell out.
fn client_ids(permission: &Permission) -> Vec<String> {
    let mut ids = vec!["client".to_owned(), permission.user.clone()];
    for expression in [&permission.configure, &permission.write, &permission.read] {
        for after in expression.split("mqtt-subscription-").skip(1) {
            let id: String = after
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ':' | '\\' | '.'))
                .collect();
            let id = id.replace('\\', "");
            ids.push(id.rsplit_once("qos").map_or(id.as_str(), |(id, _)| id).to_owned());
        }
    }
    ids
}

/// The nameless exchange, as permissions call it.
const DEFAULT_EXCHANGE: &str = "amq.default";
