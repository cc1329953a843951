//! User name and password: whose they are, who verifies them, and what the broker gets to see.

use crate::*;

#[test]
fn half_credentials_an_empty_password_and_a_nul_in_one() {
    for config in [
        json!({}),
        json!({ "users": [user("u", "p")] }),
        json!({ "users": [user("u", "p"), { "name": "nobody", "password_hash": sha256("") }] }),
        json!({ "users": [user("u", "p")], "broker_user": "edge", "broker_pass": "e" }),
    ] {
        for (connect, reason) in [
            (connect_with(0x82, 0, &["c", "u"]), "credentials_missing"),
            (connect_as("u", ""), "credentials_missing"),
            (connect_as("nobody", ""), "credentials_missing"),
            (connect_as("u", "p\0"), "credentials_unfit"),
            (connect_as("u", "\0p"), "credentials_unfit"),
        ] {
            both(config.clone(), |t| is_refused(t, &connect, 4, reason));
        }
    }
}

/// A user name that nobody vouches for may be passed over: the client is as one that gives none.
#[test]
fn a_user_name_without_a_password_may_be_passed_over() {
    let alone = [connect_with(0x82, 0, &["c", "?SDK=Python"]), connect_as("u", ""), connect_as("", "")];
    for connect in alone {
        let with = |rest: Value| {
            let mut config = json!({ "username_without_password": "pass_over" });
            config.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            config
        };
        both(with(json!({})), |t| logs_in_as(t, &connect, ["guest", "guest"]));
        both(with(json!({ "users": [user("u", "p")] })), |t| logs_in_as(t, &connect, ["guest", "guest"]));
        both(with(json!({ "allow_anonymous": false })), |t| {
            is_refused(t, &connect, 4, "credentials_missing")
        });
        both(json!({ "username_without_password": "refuse" }), |t| {
            is_refused(t, &connect, 4, "credentials_missing");
        });
        let certificate = with_certificate(["CN=device", "", ""]);
        let by_certificate = json!({
            "ssl_cert_login": true, "allow_anonymous": false, "broker_user": "edge", "broker_pass": "e",
            "users": [user("CN=device", "its own")],
        });
        both_of(&certificate, with(by_certificate.clone()), |t| logs_in_as(t, &connect, ["edge", "e"]));
        both_of(&certificate, by_certificate, |t| is_refused(t, &connect, 4, "credentials_missing"));
        // A tenant has its own way.
        let tenant = json!({ "tenants": [{ "name": "t", "username_without_password": "refuse" }] });
        both(with(tenant), |t| is_refused(t, &connect, 4, "credentials_missing"));
    }
    // Whoever gives a password is judged by it.
    let config = json!({ "username_without_password": "pass_over", "users": [user("u", "p")] });
    both(config, |t| is_refused(t, connect_as("u", "q"), 4, "wrong_password"));
    let error = error_of(json!({ "username_without_password": true }));
    assert_eq!(
        (error.path(), error.problem()),
        ("username_without_password", "expected one of refuse, pass_over")
    );
}

/// MQTT itself has no words for these.
#[test]
fn a_nul_in_a_user_name_and_a_password_without_one_are_malformed() {
    for connect in [connect_as("u\0", "p"), connect_with(0x42, 0, &["c", "p"])] {
        both(json!({}), |t| {
            t.client(&connect);
            t.expect_silence();
            t.closes();
            t.hears_nothing();
        });
    }
}

#[test]
fn credentials_may_be_so_long() {
    both(json!({ "max_credentials_size": 128 }), |t| {
        is_refused(t, connect_as("u", &"p".repeat(128)), 4, "credentials_unfit");
    });
    both(json!({ "max_credentials_size": 128 }), |t| drop(logs_in(t, connect_as("u", &"p".repeat(127)))));
}

#[test]
fn without_credentials_a_client_is_the_default_user_if_it_may() {
    both(json!({}), |t| logs_in_as(t, connect_anonymous(), ["guest", "guest"]));
    let someone = json!({ "default_user": "someone", "default_pass": "s3cret" });
    both(someone, |t| logs_in_as(t, connect_anonymous(), ["someone", "s3cret"]));
    both(json!({ "allow_anonymous": false }), |t| {
        is_refused(t, connect_anonymous(), 4, "credentials_missing");
    });
}

/// Nobody verifies it, and no account stands in for it.
#[test]
fn the_default_user_is_so_beside_users_and_a_broker_user() {
    let edge = json!({ "users": [], "broker_user": "edge", "broker_pass": "e" });
    both(edge, |t| logs_in_as(t, connect_anonymous(), ["guest", "guest"]));
}

#[test]
fn without_users_the_broker_verifies() {
    both(json!({}), |t| logs_in_as(t, connect_as("u", "anything"), ["u", "anything"]));
}

/// A hash of which the last bit is another.
fn changed(hash: &str) -> String {
    let mut bytes = STANDARD.decode(hash).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    STANDARD.encode(bytes)
}

fn users() -> Value {
    json!([
        { "name": "a", "password_hash": sha256("pa"), "tags": ["administrator"], "limits": {} },
        { "name": "b", "password_hash": sha256("pb"),
          "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "" },
        { "name": "c", "password_hash": sha512("pc"), "hashing_algorithm": "rabbit_password_hashing_sha512" },
        { "name": "none", "password_hash": "" },
        { "name": "close", "password_hash": changed(&sha256("pd")) },
    ])
}

#[test]
fn with_users_passwords_are_verified_here_and_passed_on() {
    for [username, password] in [["a", "pa"], ["b", "pb"], ["c", "pc"]] {
        both(json!({ "users": users() }), |t| {
            logs_in_as(t, connect_as(username, password), [username, password]);
        });
    }
    for (username, password, reason) in [
        ("a", "pb", "wrong_password"),
        ("a", "pa ", "wrong_password"),
        ("b", "pc", "wrong_password"),
        ("c", "pa", "wrong_password"),
        ("none", "x", "wrong_password"),
        ("close", "pd", "wrong_password"),
        ("A", "pa", "unknown_user"),
        ("d", "pa", "unknown_user"),
        ("", "pa", "unknown_user"),
    ] {
        both(json!({ "users": users() }), |t| is_refused(t, connect_as(username, password), 4, reason));
    }
}

#[test]
fn on_an_empty_list_is_nobody() {
    both(json!({ "users": [] }), |t| is_refused(t, connect_as("guest", "guest"), 4, "unknown_user"));
}

/// So that devices hold no broker password, and the broker never sees theirs.
#[test]
fn a_broker_user_stands_in_for_who_was_verified_here() {
    let config = json!({ "users": users(), "broker_user": "edge", "broker_pass": "e-secret" });
    for [username, password] in [["a", "pa"], ["c", "pc"]] {
        both(config.clone(), |t| logs_in_as(t, connect_as(username, password), ["edge", "e-secret"]));
    }
    both(config, |t| is_refused(t, connect_as("a", "e-secret"), 4, "wrong_password"));
}

#[test]
fn nothing_of_a_device_s_password_goes_to_the_broker() {
    let config = json!({
        "users": [user("device", "device-password")], "broker_user": "edge", "broker_pass": "e-secret",
    });
    both(config, |t| {
        t.subject.client_sends(t.connection, &connect_as("device", "device-password"));
        let flight = t.subject.take_to_broker(t.connection);
        let has = |text: &str| flight.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has("e-secret") && !has("device-password"), "{}", t.name);
    });
}

#[test]
fn where_nobody_can_verify_a_password_it_is_refused() {
    let config = json!({ "broker_user": "edge", "broker_pass": "e" });
    both(config.clone(), |t| is_refused(t, connect_as("u", "p"), 4, "unverifiable"));
    both(config.clone(), |t| is_refused(t, connect_as("edge", "e"), 4, "unverifiable"));
    both(config, |t| logs_in_as(t, connect_anonymous(), ["guest", "guest"]));
}

#[test]
fn a_broker_user_and_its_password_go_together() {
    assert_eq!(error_of(json!({ "broker_user": "edge" })).path(), "broker_pass");
    assert_eq!(error_of(json!({ "broker_pass": "e" })).path(), "broker_user");
    assert_eq!(error_of(json!({ "broker_user": "", "broker_pass": "e" })).path(), "broker_user");
}

#[test]
fn what_is_no_list_of_users() {
    let error = |user: Value| error_of(json!({ "users": [user] })).path().to_owned();
    assert_eq!(error(json!({ "name": "a", "password_hash": "x" })), "users[0].password_hash");
    assert_eq!(error(json!({ "name": "a", "password_hash": sha512("x") })), "users[0].password_hash");
    let md5 = json!({ "name": "a", "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_md5" });
    assert_eq!(error(md5), "users[0].hashing_algorithm");
    assert_eq!(error_of(json!({ "users": [user("a", "x"), user("a", "y")] })).path(), "users[1].name");
}

const REMOTE: &str = "192.0.2.7";

#[test]
fn loopback_users_come_from_a_loopback_address() {
    for address in ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"] {
        both_of(&from(address), json!({}), |t| drop(logs_in(t, connect_as("guest", "guest"))));
    }
    for address in [REMOTE, "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.7", "::"] {
        for connect in [connect_as("guest", "guest"), connect_as("/:guest", "guest"), connect_anonymous()] {
            both_of(&from(address), json!({}), |t| is_refused(t, &connect, 5, "not_loopback"));
        }
        both_of(&from(address), json!({}), |t| drop(logs_in(t, connect_as("u", "p"))));
    }
}

#[test]
fn who_is_a_loopback_user_can_be_told() {
    let config = json!({ "loopback_users": ["u", "v"] });
    both_of(&from(REMOTE), config.clone(), |t| drop(logs_in(t, connect_as("guest", "guest"))));
    both_of(&from(REMOTE), config, |t| is_refused(t, connect_as("v", "p"), 5, "not_loopback"));
    both_of(&from(REMOTE), json!({ "loopback_users": [] }), |t| drop(logs_in(t, connect_anonymous())));
}

/// It is the client's own name that counts, whatever it goes as at the broker.
#[test]
fn a_loopback_user_is_one_behind_a_broker_user() {
    let config = json!({
        "users": [user("guest", "g"), user("u", "p")],
        "broker_user": "edge", "broker_pass": "e", "loopback_users": ["guest", "edge"],
    });
    both_of(&from(REMOTE), config.clone(), |t| is_refused(t, connect_as("guest", "g"), 5, "not_loopback"));
    both_of(&from(REMOTE), config, |t| logs_in_as(t, connect_as("u", "p"), ["edge", "e"]));
}

/// Wrong credentials are wrong from anywhere.
#[test]
fn the_password_comes_before_the_address() {
    let config = json!({ "users": [user("guest", "g")] });
    both_of(&from(REMOTE), config, |t| is_refused(t, connect_as("guest", "x"), 4, "wrong_password"));
}
