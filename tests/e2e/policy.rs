//! Who may do what: `docs/policy.md` on a real Envoy, and what a client and the broker see of it.

use std::io::{Read, Write};

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::mqtt::{Client, Connect};
use crate::world::broker;

mod entry;
mod fairness;
mod grants;
mod guessing;
mod identity;
mod limits;
mod loopback;
mod tenants;

/// An entry of `users` with this password, as RabbitMQ exports it.
fn user(name: &str, password: &str) -> Value {
    const SALT: &[u8] = b"salt";
    let hash = Sha256::digest([SALT, password.as_bytes()].concat());
    json!({
        "name": name,
        "password_hash": BASE64_STANDARD.encode([SALT, &hash].concat()),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
    })
}

/// `users` with [`PASSWORD`].
fn users<const N: usize>(names: [&str; N]) -> Value {
    names.map(|name| user(name, PASSWORD)).into_iter().collect()
}

/// An entry of `users` whom no password lets in, but a certificate.
fn user_without_password(name: &str) -> Value {
    json!({ "name": name, "password_hash": "" })
}

/// A user of the broker who may do everything in a virtual host, with [`PASSWORD`]: for `broker_user`.
fn make_account<'a>(name: &'a str, vhost: &str) -> Result<&'a str> {
    let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    broker().api_put(&format!("users/{name}"), &json!({ "password": PASSWORD, "tags": "" }))?;
    broker().api_put(&format!("permissions/{vhost}/{name}"), &everything)?;
    Ok(name)
}

/// A virtual host that `guest` may use.
fn make_vhost(name: &str) -> Result<()> {
    let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    broker().api_put(&format!("vhosts/{name}"), &json!({}))?;
    broker().api_put(&format!("permissions/{name}/guest"), &everything)
}

/// The default virtual host in a path of the management API.
const DEFAULT_VHOST: &str = "%2F";
/// Of accounts and users that tests make; easy to find in a log.
const PASSWORD: &str = "xyzzy-right-password";

/// A client with this id, user and password.
fn with<'a>(client_id: &'a str, username: &'a str, password: &'a str) -> Connect<'a> {
    Connect { client_id, username: Some(username), password: Some(password), ..Connect::default() }
}

/// An anonymous client with this id.
fn anonymous(client_id: &str) -> Connect<'_> {
    Connect { client_id, ..Connect::default() }
}

/// The code of the CONNACK that comes of this CONNECT. Where it is not 0 the connection is closed behind it.
fn code<S: Read + Write>(mut client: Client<S>, connect: &Connect<'_>) -> Result<u8> {
    client.send(&connect.bytes())?;
    let connack = client.packet()?;
    ensure!(connack.len() == 4 && connack[..3] == [0x20, 2, 0], "no CONNACK: {connack:02x?}");
    if connack[3] != 0 {
        let rest = client.rest()?;
        ensure!(rest.is_empty(), "heard {rest:02x?} behind CONNACK {}", connack[3]);
    }
    Ok(connack[3])
}
