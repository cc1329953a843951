//! Who a client is by its certificate.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use support::process::wait_until;
use support::tls::{Attribute, Name};

use super::entry::{Entries, Entry};
use super::{DEFAULT_VHOST, PASSWORD, anonymous, code, make_account, user, user_without_password, with};
use crate::mqtt::{Connect, subscribe};
use crate::world::{PATIENCE, broker, connection};

/// Each of its names lets a device in where it is asked for, as `broker_user`. Another device with a certificate of the same
/// authority is not on the list.
#[test]
fn certificate_login_by_each_of_its_names() -> Result<()> {
    let account = make_account("certificate-edge", DEFAULT_VHOST)?;
    let entry = |users: Value, from: &str, san_type: &str| {
        json!({
            "ssl_cert_login": true, "ssl_cert_login_from": from, "ssl_cert_login_san_type": san_type,
            "ignore_colons_in_username": true, "allow_anonymous": false, "broker_user": account, "broker_pass": PASSWORD,
            "users": [users, user("by-password", PASSWORD)],
            "subscribe": { "allow": ["of/{username}/#"] },
        })
    };
    const DN: &str = "CN=device-1,OU=Plant 7,O=Acme";
    let names = [
        ("dn", "distinguished_name", "dns", DN),
        ("cn", "common_name", "dns", "device-1"),
        ("dns", "subject_alternative_name", "dns", "Device-1"),
        ("uri", "subject_alternative_name", "uri", "spiffe:device-1"),
    ];
    let plugins = names.map(|(_, from, san_type, name)| {
        move |_port: u16| entry(user_without_password(name), from, san_type)
    });
    let server_names = names.map(|(entry, ..)| format!("{entry}.example"));
    let server_names = server_names.each_ref().map(|name| [name.as_str()]);
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for ((server_name, plugin), (entry, ..)) in server_names.iter().zip(&plugins).zip(names) {
        entries.push((entry, server_name, plugin));
    }
    let entries = Entries::open("certificate-login", &entries)?;
    let subject = |number| {
        [
            (Attribute::OrganizationName, "Acme"),
            (Attribute::OrganizationalUnitName, "Plant 7"),
            (Attribute::CommonName, number),
        ]
    };
    let authority = &entries.authority;
    let device = authority.client(
        &subject("device-1"),
        &[Name::Uri("spiffe:device-1"), Name::Dns("Device-1"), Name::Dns("other.example")],
    )?;
    let stranger = authority.client(
        &subject("device-2"),
        &[Name::Uri("spiffe:device-2"), Name::Dns("device-2.example"), Name::Dns("Device-1")],
    )?;

    let mut clients = Vec::new();
    for ((entry, _, _, username), [server_name]) in names.iter().zip(server_names) {
        let client_id = format!("certificate-{entry}");
        let mut client = entries.client(server_name, Some(&device))?.admitted(&anonymous(&client_id))?;
        client.send(&subscribe(&[(&format!("of/{username}/x"), 0), ("of/somebody/x", 0)]))?;
        client.hears(&[0x90, 4, 0, 1, 0, 0x80]).context(*entry)?;
        client.ping()?;
        clients.push((client_id, client));

        assert_eq!(code(entries.client(server_name, Some(&stranger))?, &anonymous("x"))?, 4, "{entry}");
        assert_eq!(code(entries.client(server_name, None)?, &anonymous("x"))?, 4, "{entry}");
        // Credentials come before the certificate.
        let by_password = with("certificate-by-password", "by-password", PASSWORD);
        entries.client(server_name, Some(&device))?.admitted(&by_password)?.disconnect()?;
        let wrong = with("x", username, PASSWORD);
        assert_eq!(code(entries.client(server_name, Some(&device))?, &wrong)?, 4, "{entry}");
    }
    for (client_id, _client) in &clients {
        let at_broker = wait_until("its connection", PATIENCE, || connection(client_id))?;
        assert_eq!(at_broker["user"], account);
        // The broker is told its client id, and nothing else of who it is.
        assert!(!at_broker.to_string().to_lowercase().contains("device-1"), "{at_broker}");
    }
    Ok(())
}

#[test]
fn client_id_of_the_certificate() -> Result<()> {
    let by_dns = |_| json!({ "ssl_cert_client_id_from": "subject_alternative_name" });
    let by_dn = |_| json!({ "ssl_cert_client_id_from": "distinguished_name" });
    let entries: [Entry<'_>; 2] = [("dns", &["dns.example"], &by_dns), ("dn", &["dn.example"], &by_dn)];
    let entries = Entries::open("certificate-client-id", &entries)?;
    let device = entries.authority.client(
        &[(Attribute::OrganizationName, "Acme, Inc."), (Attribute::CommonName, "named")],
        &[Name::Dns("certificate-named")],
    )?;
    let names = [("dns.example", "certificate-named"), ("dn.example", r"CN=named,O=Acme\, Inc.")];
    let without_id =
        |(server_name, _)| entries.client(server_name, Some(&device))?.admitted(&Connect::default());
    for (client, (server_name, its_own)) in names.map(without_id).into_iter().zip(names) {
        let mut client = client?;
        wait_until("its connection", PATIENCE, || connection(its_own))?;
        // The same client once more takes the place of the first.
        entries.client(server_name, Some(&device))?.admitted(&anonymous(its_own))?.disconnect()?;
        assert_eq!(client.rest()?, b"");
        assert_eq!(code(entries.client(server_name, Some(&device))?, &anonymous("another"))?, 2);
        // Without a certificate it is the client's own.
        entries.client(server_name, None)?.admitted(&anonymous("another"))?.disconnect()?;
    }
    Ok(())
}

/// Nothing that a client or an operator must keep to himself is in Envoy's log, whatever becomes of the login.
#[test]
fn secrets_are_never_in_the_log() -> Result<()> {
    const SECRETS: [&str; 4] =
        ["xyzzy-wrong-password", "xyzzy-broker-password", "xyzzy-default-password", "xyzzy-user-password"];
    let [wrong, of_broker, of_default, of_user] = SECRETS;
    broker().api_put("users/secretive", &json!({ "password": of_broker, "tags": "" }))?;
    let listed = user("listed", of_user);
    let verified = |_| {
        json!({
            "users": [listed], "broker_user": "secretive", "broker_pass": of_broker,
            "tenants": [{ "name": "t", "match": { "client_id": "t" }, "broker_user": "secretive", "broker_pass": of_broker }],
        })
    };
    let by_broker = |_| json!({ "default_user": "nobody", "default_pass": of_default });
    let entries: [Entry<'_>; 2] =
        [("verified", &["verified.example"], &verified), ("by-broker", &["by-broker.example"], &by_broker)];
    let entries = Entries::open("secrets", &entries)?;
    let answers = [
        ("verified.example", with("secrets", "listed", wrong), 4),
        ("verified.example", with("secrets", "unlisted", wrong), 4),
        // The broker does not let this account into the virtual host.
        ("verified.example", with("secrets", "listed", of_user), 5),
        ("verified.example", with("t", "listed", of_user), 5),
        ("by-broker.example", with("secrets", "guest", wrong), 4),
        ("by-broker.example", with("secrets", "secretive", of_broker), 5),
        ("by-broker.example", with("secrets", "guest", "guest"), 0),
        ("by-broker.example", anonymous("secrets"), 4),
        ("by-broker.example", Connect { password: None, ..with("secrets", wrong, "") }, 4),
    ];
    for (server_name, connect, expected) in &answers {
        let client = entries.client(server_name, None)?;
        assert_eq!(code(client, connect)?, *expected, "{server_name} {:?}", connect.username);
    }
    let log = wait_until("all answers in the log", PATIENCE, || {
        let log = entries.envoy.log();
        (log.matches(": CONNACK ").count() >= answers.len() - 1).then_some(log)
    })?;
    let hash = listed["password_hash"].as_str().context("a hash")?;
    for secret in SECRETS.into_iter().chain([hash]) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    Ok(())
}
