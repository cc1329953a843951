//! `docs/policy.md`, rule by rule: conversations that run unchanged against the native core and against the built module.
// A test says what is wrong by panicking, its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod brake;
mod certificates;
mod client_ids;
mod connections;
mod credentials;
mod grants;
mod holding;
mod limits;
mod matches;
mod order;
mod permissions;
mod rates;
mod resumed;
mod secrets;
mod tenants;
mod unauthorized;
mod vhost;
mod wills;

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, connection},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use leveret::{Config, config::ConfigError};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use support::{
    host::{Certificate, Connection, Facts},
    methods, module,
    packets::*,
    scripted_broker::ScriptedBroker,
    subject,
    talk::Talk,
};

// ---------------------------------------------------------------- who talks

/// Has a conversation with a local client of both subjects.
fn both(config: Value, talk: impl Fn(&mut Talk)) {
    both_of(&Facts::default(), config, talk);
}

/// Has a conversation with this client of both subjects.
fn both_of(client: &Facts, config: Value, talk: impl Fn(&mut Talk)) {
    for (name, subject) in subject::both(module::shipped(), &text_of(config)) {
        talk(&mut Talk::of(name, subject, client));
    }
}

/// Has a conversation with two clients, one at each of two workers of a proxy.
fn two_workers(config: Value, talk: impl Fn(&mut Talk, &mut Talk)) {
    for (name, workers) in subject::two_workers(module::shipped(), &text_of(config)) {
        let [mut one, mut two] = workers.map(|worker| Talk::of(name, worker, &Facts::default()));
        talk(&mut one, &mut two);
    }
}

/// Where nothing else is said, messages are not retained: that has conversations of its own.
fn text_of(mut config: Value) -> String {
    config.as_object_mut().unwrap().entry("retained").or_insert(false.into());
    config.to_string()
}

/// What is wrong with a configuration.
#[track_caller]
fn error_of(config: Value) -> ConfigError {
    match Config::from_json(config.to_string().as_bytes()) {
        Ok(_) => panic!("accepted: {config}"),
        Err(error) => error,
    }
}

/// Who of several clients of one subject does not talk at the moment.
struct Other(Connection, ScriptedBroker);

/// Another client connects, and talks from now on.
fn another(t: &mut Talk, client: &Facts) -> Other {
    let mut other = Other(t.subject.connect_as(client), ScriptedBroker::default());
    swap(t, &mut other);
    other
}

/// The other client talks from now on.
fn swap(t: &mut Talk, other: &mut Other) {
    std::mem::swap(&mut t.connection, &mut other.0);
    std::mem::swap(&mut t.broker, &mut other.1);
}

/// A client from this address.
fn from(address: &str) -> Facts {
    let address = match address.parse() {
        Ok(ip) => std::net::SocketAddr::new(ip, 40_000),
        Err(_) => address.parse().unwrap(),
    };
    Facts { address, ..Facts::default() }
}

/// A client with a certificate: subject, DNS name, URI; those that are empty are not there.
fn with_certificate([subject, dns, uri]: [&str; 3]) -> Facts {
    let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let certificate = Certificate { subject: subject.into(), dns: name(dns), uri: name(uri) };
    Facts { certificate: Some(certificate), ..Facts::default() }
}

// ---------------------------------------------------------------- what they say

/// CONNECT of `c` with a clean session and these credentials.
fn connect_as(username: &str, password: &str) -> Vec<u8> {
    connect_with(0xc2, 0, &["c", username, password])
}

/// CONNECT of `c` with a clean session and no credentials.
fn connect_anonymous() -> Vec<u8> {
    connect_with(0x02, 0, &["c"])
}

/// A user as RabbitMQ exports it.
fn user(name: &str, password: &str) -> Value {
    json!({ "name": name, "password_hash": sha256(password) })
}

fn sha256(password: &str) -> String {
    const SALT: [u8; 4] = [0x90, 0x8d, 0xc6, 0x0a];
    STANDARD.encode([&SALT[..], &Sha256::digest([&SALT[..], password.as_bytes()].concat())].concat())
}

fn sha512(password: &str) -> String {
    const SALT: [u8; 4] = [1, 2, 3, 4];
    STANDARD.encode([&SALT[..], &Sha512::digest([&SALT[..], password.as_bytes()].concat())].concat())
}

// ---------------------------------------------------------------- what comes of it

/// What a client that is let in is at the broker.
#[derive(Debug, PartialEq, Eq)]
struct Login {
    username: String,
    password: String,
    vhost: String,
    name: String,
}

/// The client sends a CONNECT, and is let in.
#[track_caller]
fn logs_in(t: &mut Talk, connect: impl AsRef<[u8]>) -> Login {
    t.client(connect);
    let told = t.agree();
    t.hears(connack(0));
    login(&told)
}

/// The client with these credentials is let in as this user with this password.
#[track_caller]
fn logs_in_as(t: &mut Talk, connect: impl AsRef<[u8]>, [username, password]: [&str; 2]) {
    let login = logs_in(t, connect);
    assert_eq!([&*login.username, &*login.password], [username, password], "{}", t.name);
}

fn login(told: &[AMQPFrame]) -> Login {
    use connection::AMQPMethod::{Open, StartOk};
    let mut login =
        Login { username: String::new(), password: String::new(), vhost: String::new(), name: String::new() };
    for frame in told {
        match frame {
            AMQPFrame::Method(0, AMQPClass::Connection(StartOk(it))) => {
                let response = String::from_utf8(it.response.as_bytes().to_vec()).unwrap();
                let mut parts = response.split('\0').skip(1).map(str::to_owned);
                login.username = parts.next().unwrap();
                login.password = parts.next().unwrap();
                assert_eq!(parts.next(), None);
                let name = it.client_properties.inner().get("connection_name").unwrap();
                login.name = name.as_long_string().unwrap().to_string();
            }
            AMQPFrame::Method(0, AMQPClass::Connection(Open(it))) => {
                login.vhost = it.virtual_host.to_string();
            }
            _ => {}
        }
    }
    login
}

/// The client sends a CONNECT, which policy refuses: nobody is asked, the client hears a coarse code, and log and counter say why.
#[track_caller]
fn is_refused(t: &mut Talk, connect: impl AsRef<[u8]>, code: u8, reason: &str) {
    let counter = format!("refused.by.{reason}");
    let before = t.counter(&counter);
    t.client(connect);
    assert_eq!(t.counter(&counter), before + 1, "{}: {reason}: {:?}", t.name, t.subject.logs());
    t.expect_protocol_header();
    t.expect_silence();
    let logged = t.subject.logs().last().unwrap().text.clone();
    let expected = format!("CONNACK {code}: refused: {}", refusal(reason));
    assert!(logged.ends_with(&expected), "{}: {logged}, not {expected}", t.name);
    t.broker_at_once(b"x");
    t.hears(connack(code));
    t.closes();
}

/// What the log says of a refusal, by its counter.
fn refusal(reason: &str) -> &'static str {
    match reason {
        "no_tenant" => "belongs to no tenant",
        "client_id_missing" => "no client id, but a session to keep, or MQTT 3.1",
        "client_id_foreign" => "client id is not the certificate's",
        "client_id_pattern" => "client id does not match client_id_pattern",
        "client_id_unfit" => "client id makes no name of a queue: too long, or with a line break",
        "credentials_missing" => "credentials are missing",
        "credentials_unfit" => {
            "user name and password are too long, by themselves or with the client id, or hold U+0000"
        }
        "guessing" => "too many wrong passwords from this address or for this user",
        "unknown_user" => "no such user",
        "wrong_password" => "wrong password",
        "unverifiable" => "credentials, but no users to verify them by",
        "not_loopback" => "loopback user from another address",
        "vhost_too_long" => "virtual host's name is too long",
        "vhost_foreign" => "a virtual host that the client may not choose",
        "vhost_access" => "user has no permissions in the virtual host",
        "connections" => "tenant has max_connections already",
        _ => panic!("{reason}"),
    }
}

/// Messages that the broker was told to publish: routing key and payload. Of the last, all has to be there.
fn publishes(told: &[AMQPFrame]) -> Vec<(String, Vec<u8>)> {
    let mut messages: Vec<(String, Vec<u8>)> = Vec::new();
    let mut left = 0;
    for frame in told {
        match frame {
            AMQPFrame::Method(methods::PUBLISH, AMQPClass::Basic(basic::AMQPMethod::Publish(it))) => {
                messages.push((it.routing_key.to_string(), Vec::new()))
            }
            AMQPFrame::Header(methods::PUBLISH, header) => left = header.body_size,
            AMQPFrame::Body(methods::PUBLISH, bytes) => {
                messages.last_mut().unwrap().1.extend(bytes);
                left -= bytes.len() as u64;
            }
            _ => {}
        }
    }
    if left > 0 {
        messages.pop();
    }
    messages
}

/// Whether a PUBLISH at QoS 0 gets to the broker; a client that may not is not disconnected.
#[track_caller]
fn may_publish(t: &mut Talk, topic: &str) -> bool {
    let before = t.counter("denied.publish");
    t.client(publish(0, 0, topic, b"x"));
    let messages = publishes(&t.agree());
    t.stays_open();
    assert_eq!(messages.len() as u64 + t.counter("denied.publish") - before, 1, "{}: {topic}", t.name);
    !messages.is_empty()
}

/// The return codes of a SUBSCRIBE at QoS 1 to these filters.
#[track_caller]
fn subscribes(t: &mut Talk, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().map(|filter| (*filter, 1)).collect();
    subscribes_at(t, &filters)
}

/// The return codes of a SUBSCRIBE.
#[track_caller]
fn subscribes_at(t: &mut Talk, filters: &[(&str, u8)]) -> Vec<u8> {
    t.client(subscribe(9, filters));
    t.agree();
    let heard = t.take_heard();
    assert_eq!(heard[..4], [0x90, filters.len() as u8 + 2, 0, 9], "{}: {heard:?}", t.name);
    t.stays_open();
    heard[4..].to_vec()
}

/// SUBACK's code of a filter that is refused.
const REFUSED: u8 = 0x80;

/// The log has a line that ends so.
#[track_caller]
fn logged(t: &Talk, ending: &str) {
    let logs = t.subject.logs();
    assert!(logs.iter().any(|line| line.text.ends_with(ending)), "{}: {ending}: {logs:?}", t.name);
}
