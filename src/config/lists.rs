//! Lists of users, permissions and topics, as RabbitMQ exports them or as an operator writes them.

use std::collections::BTreeMap;

use super::keys::{At, Keys};
use super::{ConfigError, Result};
use crate::policy::ClientIdPattern;
use crate::policy::grants::{Entries, Grants};
use crate::policy::permissions::{Expression, Permission, Permissions, TopicPermission, TopicPermissions};
use crate::policy::users::{Algorithm, PasswordHash, Users};
use crate::topic::TopicMapping;

pub(super) fn users(list: Vec<At<'_>>) -> Result<Users> {
    let mut users = Users::default();
    for user in list {
        let mut user = user.object()?;
        let name = required(&mut user, "name")?;
        let algorithm = match user.text("hashing_algorithm")? {
            None => Algorithm::default(),
            Some(algorithm) => Algorithm::parse(&algorithm).ok_or_else(|| {
                let expected = "expected rabbit_password_hashing_sha256 or rabbit_password_hashing_sha512";
                ConfigError::new(user.path("hashing_algorithm"), expected)
            })?,
        };
        let hash = match user.text("password_hash")?.as_deref() {
            None | Some("") => None,
            Some(base64) => Some(PasswordHash::parse(base64, algorithm).ok_or_else(|| {
                let expected = "expected base64 of a 4-byte salt and its hash";
                ConfigError::new(user.path("password_hash"), expected)
            })?),
        };
        // What a user may do in the management interface, and how much at the broker, which sees to that itself.
        for passed_over in ["tags", "limits"] {
            user.take(passed_over);
        }
        if !users.add(&name, hash) {
            return Err(ConfigError::new(user.path("name"), "is there already"));
        }
        user.finish()?;
    }
    Ok(users)
}

pub(super) fn permissions(list: Vec<At<'_>>) -> Result<Permissions> {
    let mut known = BTreeMap::new();
    let mut permissions = Permissions::new();
    for entry in list {
        let mut entry = entry.object()?;
        let place = (required(&mut entry, "user")?.into(), required(&mut entry, "vhost")?.into());
        let permission = Permission {
            configure: expression(&mut entry, "configure", Expression::parse_plain, &mut known)?,
            write: expression(&mut entry, "write", Expression::parse_plain, &mut known)?,
            read: expression(&mut entry, "read", Expression::parse_plain, &mut known)?,
        };
        if permissions.insert(place, permission).is_some() {
            return Err(ConfigError::new(entry.path("vhost"), "is there already for this user"));
        }
        entry.finish()?;
    }
    Ok(permissions)
}

pub(super) fn topic_permissions(list: Vec<At<'_>>) -> Result<TopicPermissions> {
    let mut known = BTreeMap::new();
    let mut permissions = TopicPermissions::new();
    for entry in list {
        let mut entry = entry.object()?;
        let mut name = |key| required(&mut entry, key).map(String::into_boxed_str);
        let place = [name("user")?, name("vhost")?, name("exchange")?];
        let permission = TopicPermission {
            write: expression(&mut entry, "write", Expression::parse, &mut known)?,
            read: expression(&mut entry, "read", Expression::parse, &mut known)?,
        };
        if permissions.insert(place, permission).is_some() {
            return Err(ConfigError::new(
                entry.path("exchange"),
                "is there already for this user and virtual host",
            ));
        }
        entry.finish()?;
    }
    Ok(permissions)
}

/// `allow` and `deny`.
pub(super) fn grants(mut keys: Keys<'_>, mapping: TopicMapping) -> Result<Grants> {
    let entries = |list: Vec<At<'_>>| {
        let mut entries = Entries::default();
        for (number, value) in list.into_iter().enumerate() {
            let path = value.path.clone();
            let text = value.text()?;
            entries.add(number, &text, mapping).map_err(|error| ConfigError::new(path, error.to_string()))?;
        }
        Ok(entries)
    };
    let grants = Grants {
        allow: keys.list("allow")?.map(entries).transpose()?,
        deny: keys.list("deny")?.map(entries).transpose()?.unwrap_or_default(),
    };
    keys.finish()?;
    Ok(grants)
}

/// The expression of a whole client id.
pub(super) fn client_id_pattern(value: At<'_>) -> Result<ClientIdPattern> {
    let path = value.path.clone();
    let text = value.text()?;
    let parse =
        |text: &str| Expression::parse(text).map_err(|problem| ConfigError::new(path.as_str(), problem));
    // As it is written, too: the whole could be one where this is none.
    parse(&text)?;
    parse(&format!("^(?:{text})$")).map(ClientIdPattern)
}

/// Most users have the same few expressions, so each is kept once.
fn expression(
    keys: &mut Keys<'_>,
    key: &str,
    parse: fn(&str) -> core::result::Result<Expression, String>,
    known: &mut BTreeMap<String, Expression>,
) -> Result<Expression> {
    let text = required(keys, key)?;
    if let Some(expression) = known.get(&text) {
        return Ok(expression.clone());
    }
    let expression = parse(&text).map_err(|problem| ConfigError::new(keys.path(key), problem))?;
    known.insert(text, expression.clone());
    Ok(expression)
}

fn required(keys: &mut Keys<'_>, key: &str) -> Result<String> {
    let text = keys.text(key)?;
    text.ok_or_else(|| ConfigError::new(keys.path(key), "expected a string"))
}
