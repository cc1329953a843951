//! `match`: whose client a client is.

use crate::*;

/// One tenant, `t`, whose clients are known by their virtual host.
fn tenant(matching: Value) -> Value {
    json!({ "tenants": [{ "name": "t", "match": matching, "vhost": "own" }] })
}

/// Whether a client is the tenant's.
#[track_caller]
fn is_ones(client: &Facts, config: &Value, connect: &[u8]) -> bool {
    let answers = std::cell::RefCell::new(Vec::new());
    both_of(client, config.clone(), |t| answers.borrow_mut().push(logs_in(t, connect).vhost == "own"));
    let answers = answers.into_inner();
    assert!(answers.windows(2).all(|both| both[0] == both[1]), "{config}: {answers:?}");
    answers[0]
}

fn known() -> Facts {
    Facts {
        address: "192.0.2.7:9".parse().unwrap(),
        port: 8883,
        filter_chain: "tls-chain".into(),
        server_name: Some("eu.acme.example".into()),
        ..with_certificate(["O=acme,CN=sensor-1", "s.acme.example", "urn:acme:s"])
    }
}

#[test]
fn each_fact_can_decide() {
    let connect = connect_with(0xc2, 0, &["c-1", "u-1", "p"]);
    for (fact, fits, others) in [
        ("port", json!(8883), json!(8884)),
        ("address", json!("192.0.2.7"), json!("192.0.2.8")),
        ("address", json!("192.0.2.0/24"), json!("192.0.3.0/24")),
        ("sni", json!("*.acme.example"), json!("acme.example")),
        ("filter_chain", json!("tls-chain"), json!("tls")),
        ("vhost", json!("d*t"), json!("own")),
        ("username", json!("u-*"), json!("u")),
        ("client_id", json!("c-?"), json!("d-*")),
        ("client_id", json!("*-1"), json!("-1")),
        ("cert_cn", json!("sensor-*"), json!("CN=sensor-1")),
        ("cert_dn", json!("O=acme,*"), json!("CN=*")),
        ("cert_san", json!("s.acme.example"), json!("*.com")),
        ("cert_san", json!("urn:*"), json!("urn")),
    ] {
        let config = |value: Value| {
            let mut config = tenant(json!({ fact: value }));
            config["vhost"] = "default".into();
            config
        };
        // `?` is a character like any other.
        let expected = fits != json!("c-?");
        assert_eq!(is_ones(&known(), &config(fits.clone()), &connect), expected, "{fact} {fits}");
        assert!(!is_ones(&known(), &config(others.clone()), &connect), "{fact} {others}");
        assert!(!is_ones(&known(), &config(json!([])), &connect), "{fact}: one of none");
        assert_eq!(is_ones(&known(), &config(json!([others, fits])), &connect), expected, "{fact}: a list");
    }
}

#[test]
fn what_is_not_known_does_not_fit() {
    for fact in ["cert_cn", "cert_dn", "cert_san"] {
        assert!(!is_ones(&Facts::default(), &tenant(json!({ fact: "*" })), &connect("c")), "{fact}");
    }
    for fact in ["sni", "filter_chain"] {
        assert!(is_ones(&Facts::default(), &tenant(json!({ fact: "" })), &connect("c")), "{fact}");
    }
}

#[test]
fn all_that_is_given_has_to_fit() {
    let config = tenant(json!({ "port": [8883, 8884], "sni": "*.acme.example", "username": "u" }));
    assert!(is_ones(&known(), &config, &connect("c")));
    assert!(is_ones(&Facts { port: 8884, ..known() }, &config, &connect("c")));
    assert!(!is_ones(&Facts { port: 1883, ..known() }, &config, &connect("c")));
    assert!(!is_ones(
        &Facts { server_name: Some("other.example".into()), ..known() },
        &config,
        &connect("c")
    ));
    assert!(!is_ones(&known(), &config, &connect_as("v", "p")));
    assert!(is_ones(&Facts::default(), &tenant(json!({})), &connect("c")), "nothing is given");
}

/// Name and id are the client's word, as it says them.
#[test]
fn what_the_client_says() {
    let config = tenant(json!({ "username": "v:u" }));
    both(config.clone(), |t| is_refused(t, connect_as("v:u", "p"), 5, "vhost_foreign"));
    assert!(!is_ones(&Facts::default(), &config, &connect_as("u", "p")));
    assert!(is_ones(&Facts::default(), &tenant(json!({ "username": "" })), &connect_anonymous()));
    let made = connect_with(0x02, 0, &[""]);
    assert!(is_ones(&Facts::default(), &tenant(json!({ "client_id": "" })), &made));
}

/// Without the tenant's own, which is a wall.
#[test]
fn the_virtual_host_is_that_of_the_rules() {
    let mut config = json!({
        "vhost": "default",
        "mqtt_port_to_vhost_mapping": { "8883": "by-port" },
        "tenants": [{ "name": "t", "match": { "vhost": ["by-port", "own"] }, "vhost": "own" }],
    });
    assert!(is_ones(&known(), &config, &connect("c")));
    assert!(is_ones(&Facts::default(), &config, &connect_as("own:u", "p")));
    assert!(!is_ones(&Facts::default(), &config, &connect("c")));
    config["vhost"] = "own".into();
    assert!(is_ones(&Facts::default(), &config, &connect("c")));
}

#[test]
fn the_first_that_fits() {
    let config = json!({
        "tenants": [
            { "name": "a", "match": { "port": 1 }, "vhost": "a" },
            { "name": "b", "match": { "port": [1, 2] }, "vhost": "b" },
            { "name": "c", "vhost": "c" },
        ],
    });
    for (port, vhost) in [(1, "a"), (2, "b"), (3, "c")] {
        let client = Facts { port, ..Facts::default() };
        both_of(&client, config.clone(), |t| assert_eq!(logs_in(t, connect("c")).vhost, vhost));
    }
}

#[test]
fn a_client_may_have_to_be_one_s() {
    let mut config = tenant(json!({ "port": 1 }));
    both(config.clone(), |t| assert_eq!(logs_in(t, connect("c")).vhost, "/"));
    config["require_tenant"] = true.into();
    both(config.clone(), |t| is_refused(t, connect("c"), 5, "no_tenant"));
    // Whatever its credentials are: that is the first step.
    both(config.clone(), |t| is_refused(t, connect_as("u", ""), 5, "no_tenant"));
    assert!(is_ones(&Facts { port: 1, ..Facts::default() }, &config, &connect("c")));
}

#[test]
fn names() {
    let named = |name: &str| json!({ "tenants": [{ "name": name }] });
    let long = "a".repeat(64);
    for name in ["a", "A-1_b", &long] {
        assert!(Config::from_json(named(name).to_string().as_bytes()).is_ok(), "{name}");
    }
    // There the metrics of clients without a tenant are.
    for name in ["none", "", "a b", "ä", "a.b", &"a".repeat(65)] {
        assert_eq!(error_of(named(name)).path(), "tenants[0].name", "{name}");
    }
    assert_eq!(error_of(json!({ "tenants": [{ "name": "a" }, { "name": "a" }] })).path(), "tenants[1].name");
}

#[test]
fn what_is_no_match() {
    for (matching, path) in [
        (json!({ "port": "x" }), "port"),
        (json!({ "port": 0 }), "port"),
        (json!({ "port": [1, 65536] }), "port[1]"),
        (json!({ "address": "192.0.2.0/33" }), "address"),
        (json!({ "address": "example.com" }), "address"),
        (json!({ "color": "red" }), "color"),
    ] {
        assert_eq!(error_of(tenant(matching)).path(), format!("tenants[0].match.{path}"));
    }
}
