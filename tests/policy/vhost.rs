//! Which virtual host a client is in.

use crate::*;

/// Everything that can say one says one.
fn all() -> Value {
    json!({
        "vhost": "default",
        "mqtt_default_vhosts": { "CN=s,O=acme": "certificate" },
        "mqtt_port_to_vhost_mapping": { "8883": "port", "8884": "another" },
        "san_to_vhost_mapping": { "s.acme.example": "dns", "urn:acme:s": "uri" },
        "sni_to_vhost_mapping": { "acme.example": "sni" },
        "filter_chain_to_vhost_mapping": { "tls": "chain" },
    })
}

/// A client of whom all of it is known.
fn known() -> Facts {
    Facts {
        port: 8883,
        filter_chain: "tls".into(),
        server_name: Some("acme.example".into()),
        ..with_certificate(["CN=s,O=acme", "s.acme.example", "urn:acme:s"])
    }
}

fn elsewhere() -> Facts {
    Facts { port: 1, ..known() }
}

#[track_caller]
fn is_in(client: &Facts, config: Value, username: &str, [vhost, at_the_broker]: [&str; 2]) {
    both_of(client, config, |t| {
        let login = logs_in(t, connect_as(username, "p"));
        assert_eq!([&*login.vhost, &*login.username], [vhost, at_the_broker], "{}", t.name);
    });
}

#[test]
fn with_a_certificate_name() {
    let without = |key: &str| {
        let mut config = all();
        config.as_object_mut().unwrap().remove(key);
        config
    };
    is_in(&known(), all(), "named:u", ["certificate", "named:u"]);
    is_in(&known(), without("mqtt_default_vhosts"), "named:u", ["port", "named:u"]);
    let config = without("mqtt_default_vhosts");
    is_in(&elsewhere(), config.clone(), "named:u", ["named", "u"]);
    is_in(&elsewhere(), config.clone(), "u", ["dns", "u"]);
    let mut client = elsewhere();
    let certificate = client.certificate.as_mut().unwrap();
    certificate.dns = Some("unknown.example".into());
    is_in(&client, config.clone(), "u", ["uri", "u"]);
    client.certificate.as_mut().unwrap().uri = None;
    is_in(&client, config.clone(), "u", ["sni", "u"]);
    client.server_name = Some("unknown.example".into());
    is_in(&client, config.clone(), "u", ["chain", "u"]);
    client.filter_chain = "other".into();
    is_in(&client, config, "u", ["default", "u"]);
}

#[test]
fn without_a_certificate_name() {
    // A certificate without the name that is asked for is none.
    let mut config = all();
    config["ssl_cert_login_from"] = "common_name".into();
    let nameless = |port| {
        let mut client = Facts { port, ..known() };
        client.certificate.as_mut().unwrap().subject = "O=acme".into();
        client
    };
    for client in [Facts { certificate: None, ..known() }, nameless(8883)] {
        is_in(&client, config.clone(), "named:u", ["named", "u"]);
        is_in(&client, config.clone(), "u", ["port", "u"]);
    }
    is_in(&nameless(1), config.clone(), "u", ["dns", "u"]);
    let client = Facts { certificate: None, ..elsewhere() };
    is_in(&client, config.clone(), "u", ["sni", "u"]);
    is_in(&Facts { server_name: None, ..client.clone() }, config.clone(), "u", ["chain", "u"]);
    let plain = Facts { server_name: None, filter_chain: String::new(), ..client };
    is_in(&plain, config, "u", ["default", "u"]);
    is_in(&plain, json!({}), "u", ["/", "u"]);
}

/// The name is taken as for logins, although nobody logs in by it.
#[test]
fn a_certificate_s_name_is_what_ssl_cert_login_from_says() {
    for (from, san_type, name) in [
        ("distinguished_name", "dns", "CN=s,O=acme"),
        ("common_name", "dns", "s"),
        ("subject_alternative_name", "dns", "s.acme.example"),
        ("subject_alternative_name", "uri", "urn:acme:s"),
    ] {
        let config = json!({
            "ssl_cert_login_from": from, "ssl_cert_login_san_type": san_type,
            "mqtt_default_vhosts": { name: "its" },
        });
        is_in(&known(), config, "u", ["its", "u"]);
    }
}

#[test]
fn a_user_name_is_split_at_the_last_colon() {
    for (username, login) in
        [("a:b:u", ["a:b", "u"]), (":u", ["", "u"]), ("/:u", ["/", "u"]), ("u", ["/", "u"])]
    {
        is_in(&Facts::default(), json!({}), username, login);
    }
    let config = json!({ "ignore_colons_in_username": true });
    is_in(&Facts::default(), config, "a:u", ["/", "a:u"]);
}

/// A user name keeps what its virtual host did not come from, and is verified with it.
#[test]
fn only_what_is_used_is_taken_from_a_user_name() {
    let mut config = all();
    config["users"] = json!([user("u", "p"), user("named:u", "p")]);
    is_in(&known(), config.clone(), "named:u", ["certificate", "named:u"]);
    is_in(&Facts::default(), config.clone(), "named:u", ["named", "u"]);
    both(config, |t| is_refused(t, connect_as("named:named:u", "x"), 4, "wrong_password"));
}

#[test]
fn vhost_from_is_one_order_for_all() {
    let by = |order: &[&str]| {
        let mut config = all();
        config["vhost_from"] = json!(order);
        config
    };
    let words = [
        ("certificate", "certificate"),
        ("username", "named"),
        ("port", "port"),
        ("san", "dns"),
        ("sni", "sni"),
        ("filter_chain", "chain"),
    ];
    for (word, vhost) in words {
        let login = if word == "username" { "u" } else { "named:u" };
        is_in(&known(), by(&[word]), "named:u", [vhost, login]);
        // What is not in it is not asked.
        is_in(&Facts::default(), by(&[word]), "u", ["default", "u"]);
    }
    is_in(&known(), by(&["filter_chain", "certificate"]), "u", ["chain", "u"]);
    is_in(&known(), by(&["sni", "filter_chain"]), "u", ["sni", "u"]);
    is_in(&Facts { certificate: None, ..known() }, by(&["port", "username"]), "named:u", ["port", "named:u"]);
    is_in(&known(), by(&[]), "named:u", ["default", "named:u"]);
    assert_eq!(error_of(json!({ "vhost_from": ["color"] })).path(), "vhost_from[0]");
    for port in ["x", "65536", "-1"] {
        let config = json!({ "mqtt_port_to_vhost_mapping": { port: "v" } });
        assert!(error_of(config).path().starts_with("mqtt_port_to_vhost_mapping"), "{port}");
    }
}

#[test]
fn its_name_has_at_most_255_bytes() {
    let name = |length| format!("{}:u", "v".repeat(length));
    both(json!({}), |t| drop(logs_in(t, connect_as(&name(255), "p"))));
    both(json!({}), |t| is_refused(t, connect_as(&name(256), "p"), 4, "vhost_too_long"));
    assert_eq!(error_of(json!({ "vhost": "v".repeat(256) })).path(), "vhost");
}

/// What the rules find does not lead out of a tenant's virtual host, and what the client says is refused.
#[test]
fn the_virtual_host_of_a_tenant_is_a_wall() {
    let mut config = all();
    config["tenants"] = json!([{ "name": "t", "vhost": "own" }]);
    for client in [known(), elsewhere(), Facts::default()] {
        is_in(&client, config.clone(), "u", ["own", "u"]);
    }
    is_in(&known(), config.clone(), "named:u", ["own", "named:u"]);
    is_in(&Facts::default(), config.clone(), "own:u", ["own", "u"]);
    for username in ["named:u", ":u", "own2:u", "/:u"] {
        both(config.clone(), |t| is_refused(t, connect_as(username, "p"), 5, "vhost_foreign"));
    }
}

/// A tenant without one has what the rules find.
#[test]
fn a_tenant_may_have_no_wall() {
    let mut config = all();
    config["tenants"] = json!([{ "name": "t" }]);
    is_in(&known(), config.clone(), "u", ["certificate", "u"]);
    is_in(&Facts::default(), config.clone(), "named:u", ["named", "u"]);
    is_in(&Facts::default(), config, "u", ["default", "u"]);
}

/// Else a client would get where only the account that stands in for it may go.
#[test]
fn whoever_is_stood_in_for_chooses_by_permission_only() {
    let account = || {
        let mut config = all();
        config["users"] = json!([user("u", "p")]);
        config["broker_user"] = "edge".into();
        config["broker_pass"] = "e".into();
        config
    };
    for username in ["named:u", "default:u", ":u"] {
        both(account(), |t| is_refused(t, connect_as(username, "p"), 5, "vhost_foreign"));
    }
    // The operator's rules are another matter.
    is_in(&Facts { certificate: None, ..known() }, account(), "u", ["port", "edge"]);
    is_in(&Facts::default(), account(), "u", ["default", "edge"]);
    let mut config = account();
    config["permissions"] =
        json!([{ "user": "u", "vhost": "named", "configure": ".*", "write": ".*", "read": ".*" }]);
    is_in(&Facts::default(), config.clone(), "named:u", ["named", "edge"]);
    both(config, |t| is_refused(t, connect_as("default:u", "p"), 5, "vhost_access"));
}
