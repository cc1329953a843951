//! The steps of a CONNECT, of which the first that says no is the answer.

use crate::*;

fn client(port: u16, address: &str) -> Facts {
    Facts { port, address: from(address).address, ..with_certificate(["CN=s", "", ""]) }
}

/// A CONNECT with everything wrong, and one thing put right after the other.
#[test]
fn one_after_the_other() {
    let mut config = json!({
        "require_tenant": true, "ssl_cert_client_id_from": "distinguished_name", "loopback_users": ["u"],
        "tenants": [{
            "name": "t", "match": { "port": 1 }, "vhost": "v", "users": [user("u", "p")],
            "permissions": [
                { "user": "x", "vhost": "v", "configure": ".*", "write": ".*", "read": ".*" },
            ],
            "client_id_pattern": "other",
            "publish": { "allow": [] },
            "max_connections": 1,
        }],
    });
    let connect = |id: &str, username: &str, password: &str| {
        connect_with(0xc6, 0, &[id, "w", "gone", username, password])
    };
    let far = "192.0.2.7";
    let refused = |config: &Value, steps: &[(u16, &str, Vec<u8>, u8, &str)]| {
        both(config.clone(), |t| {
            for (port, address, connect, code, reason) in steps {
                another(t, &client(*port, address));
                is_refused(t, connect, *code, reason);
            }
        });
    };
    let steps = [
        (9, far, connect("c", "w:u", ""), 5, "no_tenant"),
        (1, far, connect("c", "w:u", ""), 2, "client_id_foreign"),
        (1, far, connect("", "w:u", ""), 4, "credentials_missing"),
        (1, far, connect("", "w:u", "x"), 4, "wrong_password"),
        (1, far, connect("", "w:u", "p"), 5, "not_loopback"),
        (1, "127.0.0.1", connect("", "w:u", "p"), 5, "vhost_foreign"),
        (1, "127.0.0.1", connect("", "v:u", "p"), 5, "vhost_access"),
    ];
    refused(&config, &steps);
    config["tenants"][0]["permissions"][0]["user"] = "u".into();
    refused(&config, &[(1, "127.0.0.1", connect("", "v:u", "p"), 2, "client_id_pattern")]);
    config["tenants"][0]["client_id_pattern"] = "CN=s".into();
    both(config, |t| {
        another(t, &client(1, "127.0.0.1"));
        logs_in(t, connect_with(0xc2, 0, &["", "u", "p"]));
        another(t, &client(1, "127.0.0.1"));
        t.client(connect("", "v:u", "p"));
        assert_eq!(t.counter("refused.by.will"), 1, "{}", t.name);
        another(t, &client(1, "127.0.0.1"));
        is_refused(t, connect_with(0xc2, 0, &["", "u", "p"]), 5, "connections");
    });
}
