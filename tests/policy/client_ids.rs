//! Client ids: a certificate's, the client's own, or one that is made for it; and what they have to look like.

use crate::*;

const NAMES: [&str; 3] = ["CN=sensor,O=acme", "s.acme.example", "urn:acme:s"];

/// CONNECT with this id and a clean session.
fn clean(client_id: &str) -> Vec<u8> {
    connect_with(0xc2, 0, &[client_id, "u", "p"])
}

/// CONNECT with this id and a session to keep.
fn kept(client_id: &str) -> Vec<u8> {
    connect_with(0xc0, 0, &[client_id, "u", "p"])
}

#[test]
fn a_certificate_may_say_what_it_is() {
    for (config, name) in [
        (json!({ "ssl_cert_client_id_from": "distinguished_name" }), NAMES[0]),
        (json!({ "ssl_cert_client_id_from": "subject_alternative_name" }), NAMES[1]),
        (
            json!({
                "ssl_cert_client_id_from": "subject_alternative_name", "ssl_cert_client_id_san_type": "uri",
            }),
            NAMES[2],
        ),
    ] {
        let client = with_certificate(NAMES);
        for connect in [clean(name), clean(""), kept(""), kept(name)] {
            both_of(&client, config.clone(), |t| assert_eq!(logs_in(t, &connect).name, name, "{}", t.name));
        }
        for id in ["c", "sensor", &name[1..]] {
            both_of(&client, config.clone(), |t| is_refused(t, clean(id), 2, "client_id_foreign"));
        }
    }
}

#[test]
fn without_such_a_name_it_is_the_client_s_own() {
    let config = json!({ "ssl_cert_client_id_from": "subject_alternative_name" });
    for client in [Facts::default(), with_certificate([NAMES[0], "", NAMES[2]])] {
        both_of(&client, config.clone(), |t| assert_eq!(logs_in(t, clean("mine")).name, "mine"));
        both_of(&client, config.clone(), |t| is_refused(t, kept(""), 2, "client_id_missing"));
    }
    // Nor does a certificate say so unless it is asked.
    both_of(&with_certificate(NAMES), json!({}), |t| assert_eq!(logs_in(t, clean("mine")).name, "mine"));
}

#[test]
fn one_that_is_made_is_no_other_s() {
    both(json!({}), |t| {
        let one = logs_in(t, clean("")).name;
        another(t, &Facts::default());
        let two = logs_in(t, clean("")).name;
        assert!(one.len() > 10 && two.len() > 10 && one != two, "{}: {one} {two}", t.name);
    });
}

#[test]
fn the_whole_id_has_to_match_the_pattern() {
    let config = json!({ "client_id_pattern": "dev-[0-9]+|x" });
    for id in ["dev-1", "dev-123", "x"] {
        both(config.clone(), |t| assert_eq!(logs_in(t, clean(id)).name, id));
    }
    for id in ["dev-", "dev-1a", "adev-1", "xx", "DEV-1"] {
        both(config.clone(), |t| is_refused(t, clean(id), 2, "client_id_pattern"));
    }
}

#[test]
fn it_may_have_to_be_the_user_s() {
    let config = json!({ "client_id_pattern": "{username}(/[a-z]+)?" });
    for (username, id) in [("u", "u"), ("u", "u/phone"), ("a.b", "a.b"), ("v:u", "u"), (".*", ".*")] {
        both(config.clone(), |t| drop(logs_in(t, connect_with(0xc2, 0, &[id, username, "p"]))));
    }
    for (username, id) in [("u", "v"), ("a.b", "axb"), (".*", "anyone"), ("v:u", "v:u"), ("u|v", "v")] {
        both(config.clone(), |t| {
            is_refused(t, connect_with(0xc2, 0, &[id, username, "p"]), 2, "client_id_pattern");
        });
    }
}

/// A certificate's and one that is made are looked at as well.
#[test]
fn whoever_it_comes_from() {
    let config = json!({ "client_id_pattern": "s.*", "ssl_cert_client_id_from": "distinguished_name" });
    both_of(&with_certificate(NAMES), config, |t| is_refused(t, clean(""), 2, "client_id_pattern"));
    both(json!({ "client_id_pattern": "dev-.*" }), |t| is_refused(t, clean(""), 2, "client_id_pattern"));
}

#[test]
fn what_is_no_pattern() {
    for pattern in ["(", "a)(b", "(?=a)"] {
        assert_eq!(error_of(json!({ "client_id_pattern": pattern })).path(), "client_id_pattern");
    }
}

/// RabbitMQ takes line breaks out of names, and what is left may be another's.
#[test]
fn a_line_break_is_none_s() {
    for id in ["vic\ntim", "victim\r"] {
        both(json!({}), |t| is_refused(t, clean(id), 2, "client_id_unfit"));
    }
    let error = error_of(json!({ "queue_prefix": "a\n" }));
    assert_eq!(error.path(), "queue_prefix");
}
