//! Who a client with a certificate is.

use crate::*;

const NAMES: [&str; 3] = ["CN=b,O=acme,CN=a", "s.acme.example", "urn:acme:s"];

/// A configuration in which certificates log in, as this name.
fn by(from: &str, san_type: &str) -> Value {
    json!({
        "ssl_cert_login": true, "ssl_cert_login_from": from, "ssl_cert_login_san_type": san_type,
        "allow_anonymous": false, "broker_user": "edge", "broker_pass": "e",
        // What a certificate calls its client may have colons: without this it would be split, as RabbitMQ does.
        "ignore_colons_in_username": true,
    })
}

/// With a list on which is only this user.
fn knowing(mut config: Value, name: &str) -> Value {
    config["users"] = json!([user(name, "its own")]);
    config
}

#[test]
fn each_kind_of_name_can_be_the_user() {
    for (from, san_type, name) in [
        ("distinguished_name", "dns", "CN=b,O=acme,CN=a"),
        ("common_name", "dns", "a,b"),
        ("subject_alternative_name", "dns", "s.acme.example"),
        ("subject_alternative_name", "uri", "urn:acme:s"),
    ] {
        let client = with_certificate(NAMES);
        both_of(&client, by(from, san_type), |t| logs_in_as(t, connect_anonymous(), ["edge", "e"]));
        both_of(&client, knowing(by(from, san_type), name), |t| {
            logs_in_as(t, connect_anonymous(), ["edge", "e"]);
        });
        both_of(&client, knowing(by(from, san_type), "another"), |t| {
            is_refused(t, connect_anonymous(), 4, "unknown_user");
        });
    }
}

/// The distinguished name, and of alternative names the DNS name.
#[test]
fn the_defaults() {
    for (mut config, name) in
        [(json!({}), NAMES[0]), (json!({ "ssl_cert_login_from": "subject_alternative_name" }), NAMES[1])]
    {
        config["ssl_cert_login"] = true.into();
        config["broker_user"] = "edge".into();
        config["broker_pass"] = "e".into();
        both_of(&with_certificate(NAMES), knowing(config, name), |t| {
            logs_in_as(t, connect_anonymous(), ["edge", "e"]);
        });
    }
}

#[test]
fn without_ssl_cert_login_a_certificate_is_no_credentials() {
    let mut config = by("common_name", "dns");
    config["ssl_cert_login"] = false.into();
    both_of(&with_certificate(NAMES), config, |t| {
        is_refused(t, connect_anonymous(), 4, "credentials_missing");
    });
    both_of(&with_certificate(NAMES), json!({}), |t| logs_in_as(t, connect_anonymous(), ["guest", "guest"]));
}

#[test]
fn without_such_a_name_a_client_is_anonymous() {
    let nameless = with_certificate(["O=acme", "", ""]);
    for client in [nameless, Facts::default()] {
        let mut config = by("common_name", "dns");
        both_of(&client, config.clone(), |t| is_refused(t, connect_anonymous(), 4, "credentials_missing"));
        config["allow_anonymous"] = true.into();
        both_of(&client, config, |t| logs_in_as(t, connect_anonymous(), ["guest", "guest"]));
    }
}

/// Its own credentials are those that count.
#[test]
fn credentials_come_before_a_certificate() {
    let config = knowing(by("common_name", "dns"), "u");
    both_of(&with_certificate(NAMES), config.clone(), |t| {
        is_refused(t, connect_as("u", "x"), 4, "wrong_password");
    });
    both_of(&with_certificate(NAMES), config.clone(), |t| {
        logs_in_as(t, connect_as("u", "its own"), ["edge", "e"]);
    });
    // There is nobody to verify them, certificate or not.
    both_of(&with_certificate(NAMES), by("common_name", "dns"), |t| {
        is_refused(t, connect_as("u", "p"), 4, "unverifiable");
    });
}

#[test]
fn a_certificate_s_user_may_be_a_loopback_user() {
    let mut config = by("common_name", "dns");
    config["loopback_users"] = json!(["a,b"]);
    let mut client = with_certificate(NAMES);
    both_of(&client, config.clone(), |t| drop(logs_in(t, connect_anonymous())));
    client.address = "192.0.2.7:9".parse().unwrap();
    both_of(&client, config, |t| is_refused(t, connect_anonymous(), 5, "not_loopback"));
}

/// There is no password that the broker could be given.
#[test]
fn such_a_client_needs_a_broker_user() {
    assert_eq!(error_of(json!({ "ssl_cert_login": true })).path(), "broker_user");
    let tenant = |tenant: Value| json!({ "tenants": [tenant] });
    assert_eq!(
        error_of(tenant(json!({ "name": "t", "ssl_cert_login": true }))).path(),
        "tenants[0].broker_user"
    );
    let own = json!({ "name": "t", "ssl_cert_login": true, "broker_user": "e", "broker_pass": "e" });
    assert!(Config::from_json(tenant(own).to_string().as_bytes()).is_ok());
    // The top level holds for nobody.
    let all = json!({
        "ssl_cert_login": true, "require_tenant": true,
        "tenants": [{ "name": "t", "broker_user": "e", "broker_pass": "e" }],
    });
    assert!(Config::from_json(all.to_string().as_bytes()).is_ok());
}

/// Envoy tells of no others.
#[test]
fn only_the_first_dns_or_uri_name() {
    for key in ["ssl_cert_login_san_index", "ssl_cert_client_id_san_index"] {
        assert!(Config::from_json(json!({ key: 0 }).to_string().as_bytes()).is_ok());
        assert_eq!(error_of(json!({ key: 1 })).path(), key);
    }
    for key in ["ssl_cert_login_san_type", "ssl_cert_client_id_san_type"] {
        for kind in ["email", "ip", "other_name"] {
            assert_eq!(error_of(json!({ key: kind })).path(), key);
        }
    }
    assert_eq!(error_of(json!({ "ssl_cert_login_from": "email" })).path(), "ssl_cert_login_from");
    assert_eq!(
        error_of(json!({ "ssl_cert_client_id_from": "common_name" })).path(),
        "ssl_cert_client_id_from"
    );
}
