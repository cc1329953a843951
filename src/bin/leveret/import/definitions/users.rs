//! Who may log in, and do what.

use std::collections::BTreeMap;

use leveret::policy::permissions::Expression;
use leveret::policy::users::{Algorithm, PasswordHash};
use serde_json::{Value, json};

use super::{Definitions, Permission, TopicPermission, User};
use crate::import::Translation;

/// `users`, if the edge can verify all of them: with a list, whoever is not on it is refused.
pub(super) fn translate(definitions: &Definitions, to: &mut Translation) {
    for user in &definitions.users {
        limits(user, to);
    }
    if !to.rabbit.verifies {
        return;
    }
    let mut all = true;
    for user in &definitions.users {
        let key = format!("user `{}`", user.name);
        if user.has_no_password() {
            if to.plugin.get("ssl_cert_login") != Some(&Value::Bool(true)) {
                to.remarks.attend_to(
                    key,
                    "has no password, as one that logs in by certificate, and `ssl_cert_login` is off",
                    "see `mqtt.ssl_cert_login`, if this user is for MQTT clients",
                );
            }
        } else if let Some(problem) = user.unverifiable() {
            all = false;
            to.remarks.attend_to(
                key,
                problem,
                "no `users` are written, so the broker verifies all passwords. Change this one with `rabbitmqctl change_password`, \
                 export and import again",
            );
        }
    }
    if all {
        to.set("users", json!(definitions.users));
        to.remarks.note_of(
            "users",
            "a copy: users and passwords that change later have to be imported again. Take the list out to have the broker verify",
        );
    }
}

/// `permissions` and `topic_permissions`, if the edge can evaluate all of them.
pub(super) fn permissions(definitions: &Definitions, to: &mut Translation) {
    if !to.rabbit.authorises {
        return;
    }
    let permissions = definitions.permissions.iter().all(|p| p.is_evaluable(to));
    let topic_permissions = definitions.topic_permissions.iter().all(|p| p.is_evaluable(to));
    if permissions {
        to.set("permissions", json!(definitions.permissions));
    }
    if topic_permissions && !definitions.topic_permissions.is_empty() {
        to.set("topic_permissions", json!(definitions.topic_permissions));
    }
    if to.plugin.contains_key("broker_user") {
        return;
    }
    for permission in &definitions.topic_permissions {
        if permission.write.contains(CLIENT_ID) || permission.read.contains(CLIENT_ID) {
            to.remarks.attend_to(
                permission.key(),
                "an AMQP client has no client id, so the broker takes `{client_id}` for itself and refuses every topic",
                "it is enforced at the edge: clear it at the broker (`rabbitmqctl clear_topic_permissions`), or set a `broker_user`",
            );
        }
    }
}

impl User {
    fn has_no_password(&self) -> bool {
        self.password_hash.as_deref().unwrap_or_default().is_empty()
    }

    /// Why the edge cannot verify the password.
    fn unverifiable(&self) -> Option<&'static str> {
        let algorithm = match self.hashing_algorithm.as_deref() {
            None => Algorithm::default(),
            Some("rabbit_password_hashing_md5") => {
                return Some("its password is hashed by MD5, which is broken");
            }
            Some(name) => match Algorithm::parse(name) {
                Some(algorithm) => algorithm,
                None => return Some("its password is hashed by an algorithm that the edge does not have"),
            },
        };
        let hash = PasswordHash::parse(self.password_hash.as_deref().unwrap_or_default(), algorithm);
        hash.is_none().then_some("its password hash is not one of its algorithm")
    }
}

impl Permission {
    pub(in crate::import) fn key(&self) -> String {
        format!("permissions of `{}` in `{}`", self.user, self.vhost)
    }

    fn is_evaluable(&self, to: &mut Translation) -> bool {
        let expressions = [("configure", &self.configure), ("write", &self.write), ("read", &self.read)];
        evaluable(&self.key(), &expressions, "permissions", to)
    }
}

impl TopicPermission {
    fn key(&self) -> String {
        format!("topic_permissions of `{}` in `{}` on `{}`", self.user, self.vhost, self.exchange)
    }

    fn is_evaluable(&self, to: &mut Translation) -> bool {
        evaluable(&self.key(), &[("write", &self.write), ("read", &self.read)], "topic_permissions", to)
    }
}

fn evaluable(key: &str, expressions: &[(&str, &String)], list: &str, to: &mut Translation) -> bool {
    let mut all = true;
    for (name, expression) in expressions {
        if let Err(error) = Expression::parse(expression, &mut BTreeMap::new()) {
            all = false;
            to.remarks.attend_to(
                format_args!("{key}: {name}"),
                format!("the expression has something that the edge's have not, such as look-around or back-references ({error})"),
                format!("no `{list}` are written, so the broker alone goes by them. Write it otherwise, and import again"),
            );
        }
    }
    all
}

fn limits(user: &User, to: &mut Translation) {
    let key = format!("limits of user `{}`", user.name);
    let limit = |name| user.limits.get(name).and_then(Value::as_i64).filter(|&n| n >= 0);
    if limit("max-connections").is_some() {
        to.remarks.note_of(
            &key,
            "max-connections: the broker goes on counting, one AMQP connection for each client",
        );
    }
    if limit("max-channels").is_some() {
        to.remarks.attend_to(
            &key,
            "max-channels: a client of Leveret's has up to 7 channels, where one of the plugin's has none",
            "let it be 7 for each of the user's clients",
        );
    }
}

const CLIENT_ID: &str = "{client_id}";
