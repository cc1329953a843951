//! Definitions as `rabbitmqctl export_definitions` and the management page write them: of a node, or of one virtual host.

mod users;
mod vhosts;

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Translation;
use super::access;
use crate::{Wrong, document};

/// What of it has to do with MQTT; the rest stays with the broker.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Definitions {
    users: Vec<User>,
    vhosts: Vec<Vhost>,
    permissions: Vec<Permission>,
    topic_permissions: Vec<TopicPermission>,
    parameters: Vec<Parameter>,
    global_parameters: Vec<Parameter>,
    policies: Vec<Policy>,
    exchanges: Vec<Exchange>,
}

/// In RabbitMQ's order, which is how the plugin takes it.
#[derive(Serialize, Deserialize)]
struct User {
    name: String,
    #[serde(default)]
    password_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hashing_algorithm: Option<String>,
    #[serde(default, skip_serializing)]
    limits: Map<String, Value>,
}

#[derive(Deserialize)]
struct Vhost {
    name: String,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
    #[serde(default)]
    default_queue_type: Option<String>,
}

/// In RabbitMQ's order, which is how the plugin takes it.
#[derive(Serialize, Deserialize)]
pub(super) struct Permission {
    pub(super) user: String,
    pub(super) vhost: String,
    pub(super) configure: String,
    pub(super) write: String,
    pub(super) read: String,
}

#[derive(Serialize, Deserialize)]
struct TopicPermission {
    user: String,
    vhost: String,
    exchange: String,
    write: String,
    read: String,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    #[serde(default)]
    component: String,
    #[serde(default)]
    vhost: String,
    value: Value,
}

#[derive(Deserialize)]
struct Policy {
    name: String,
    #[serde(default)]
    vhost: String,
    pattern: String,
    #[serde(default)]
    definition: Map<String, Value>,
}

#[derive(Deserialize)]
struct Exchange {
    name: String,
    #[serde(default)]
    vhost: String,
    #[serde(default, rename = "type")]
    kind: String,
}

impl Definitions {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = document::read(path)?;
        Ok(Self::parse(&text).map_err(|problem| Wrong(format!("{}:{problem}", path.display())))?)
    }

    /// The message says where, and quotes nothing: it may be a password's hash.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if !text.trim_start().starts_with('{') {
            return Err("1: expected a JSON object".to_owned());
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let definitions: Self = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            let problem = match e.inner().classify() {
                serde_json::error::Category::Data => "not what RabbitMQ exports",
                _ => "not JSON",
            };
            format!("{}: {}: {problem}", e.inner().line(), e.path())
        })?;
        json.end().map_err(|e| format!("{}: not JSON", e.line()))?;
        Ok(definitions)
    }

    pub(super) fn translate(self, to: &mut Translation) {
        if self.users.is_empty() {
            to.remarks.note_of(
                "users",
                "there are none in the definitions, as in those of a single virtual host: the broker goes on verifying and authorising",
            );
        } else {
            users::translate(&self, to);
            users::permissions(&self, to);
            if to.rabbit.authorises {
                access::report(&self.permissions, to);
            }
        }
        vhosts::mappings(&self, to);
        vhosts::names(&self, to);
        vhosts::exchange(&self, to);
        vhosts::queues(&self, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_and_quotes_nothing() {
        for (text, start) in [
            ("", "1: "),
            ("[]", "1: "),
            (
                "{\"users\": [\n{\"name\": \"a\", \"password_hash\": [\"geheim\"]}]}",
                "2: users[0].password_hash: ",
            ),
            ("{\"users\":\n[{\"password_hash\": \"geheim\"}]}", "2: users[0]: "),
            ("{\"users\": \"geheim\"}", "1: users: "),
            ("{\"users\": []}\ngeheim", "2: "),
            ("{\"users\": [geheim", "1: "),
        ] {
            let error = Definitions::parse(text).err().unwrap_or_default();
            assert!(error.starts_with(start) && !error.contains("geheim"), "{text}: {error}");
        }
    }
}
