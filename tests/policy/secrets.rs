//! Passwords and their hashes are shown nowhere: not in log lines, not in what is wrong with a configuration, not by `Debug`.

use crate::*;
use leveret::{
    Bridge, Error, Gate, Secret,
    amqp::ClientMethod,
    mqtt,
    policy::{Admission, Attempt, Credentials, Policy, Tenant, users},
};
use support::methods::*;

const PASSWORDS: [&str; 5] =
    ["device-pa55word", "wr0ng-guess", "edge-pa55word", "default-pa55word", "471147.25"];

#[track_caller]
fn shows_none(text: &str) {
    for secret in
        PASSWORDS.into_iter().map(str::to_owned).chain(PASSWORDS.map(sha256)).chain(PASSWORDS.map(sha512))
    {
        assert!(!text.contains(&secret), "{secret} in {text}");
    }
}

fn config() -> Value {
    json!({
        "default_user": "nobody", "default_pass": PASSWORDS[3],
        "users": [user("u", PASSWORDS[0])], "broker_user": "edge", "broker_pass": PASSWORDS[2],
        "ssl_cert_login": true,
        "publish": { "allow": ["a"] }, "on_unauthorized": "drop",
        "tenants": [{
            "name": "t", "match": { "port": 1 },
            "users": [{ "name": "v", "password_hash": sha512(PASSWORDS[0]), "hashing_algorithm": "rabbit_password_hashing_sha512" }],
            "broker_user": "own", "broker_pass": PASSWORDS[2],
        }],
    })
}

#[test]
fn log_lines() {
    both(config(), |t| {
        for (port, username, password) in [
            (1883, "u", PASSWORDS[0]),
            (1883, "u", PASSWORDS[1]),
            (1883, "x", PASSWORDS[1]),
            (1883, "u", "device-pa55word\0"),
            (1883, "v:u", PASSWORDS[0]),
            (1, "v", PASSWORDS[0]),
            (1, "v", PASSWORDS[1]),
        ] {
            another(t, &Facts { port, ..Facts::default() });
            t.client([connect_as(username, password), publish(0, 0, "b", PASSWORDS[4].as_bytes())].concat());
            t.agree();
            t.broker_at_once(b"");
            t.client(DISCONNECT);
            t.agree();
            t.advance(200);
        }
        another(t, &Facts::default());
        t.client(connect_anonymous());
        t.reply(CONNECTION, start("RabbitMQ", "4.1.0", "PLAIN"));
        t.reply(CONNECTION, close(403, "ACCESS_REFUSED - edge-pa55word"));
        t.advance(200);
        assert!(t.subject.logs().len() > 10, "{:?}", t.subject.logs());
        t.subject.logs().iter().for_each(|line| shows_none(&line.text));
    });
}

/// Every key, at the top and in a tenant, with a value of every wrong kind; and the passwords beside it.
#[test]
fn what_is_wrong_with_a_configuration() {
    let keys = "connect_mode local_reply_cluster login ignore_colons_in_username topic_mapping sparkplug \
        subscription_ttl qos0_max_length shared_max_length will_refresh retained_max_size login_timeout packet_timeout max_memory \
        max_credentials_size \
        max_packet_size_unauthenticated max_packet_size_authenticated frame_max heartbeat ssl_cert_login_from \
        ssl_cert_login_san_type ssl_cert_login_san_index ssl_cert_client_id_from ssl_cert_client_id_san_type \
        ssl_cert_client_id_san_index max_login_failures_per_address max_login_failures_per_user \
        login_failure_window vhost_from mqtt_default_vhosts mqtt_port_to_vhost_mapping san_to_vhost_mapping \
        sni_to_vhost_mapping filter_chain_to_vhost_mapping require_tenant tenants name match vhost exchange \
        queue_prefix cluster allow_anonymous default_user default_pass loopback_users ssl_cert_login users \
        broker_user broker_pass permissions topic_permissions client_id_pattern publish subscribe on_unauthorized \
        retained prefetch message_rate byte_rate client_message_rate client_byte_rate max_connections max_inflight \
        max_payload_size max_qos retain_allowed max_topic_levels max_subscriptions max_shared_subscriptions nonsense";
    let mut errors = 0;
    for key in keys.split_whitespace() {
        for wrong in [json!(true), json!(-1.5), json!(["x", 7]), json!({ "x": 7 }), json!("?"), json!([[]])] {
            let mut at_top = config();
            at_top[key] = wrong.clone();
            let mut in_tenant = config();
            in_tenant["tenants"][0][key] = wrong;
            for config in [at_top, in_tenant] {
                if let Err(error) = Config::from_json(config.to_string().as_bytes()) {
                    errors += 1;
                    assert!(!error.path().is_empty() && !error.problem().is_empty());
                    shows_none(&format!("{error} {error:?} {} {}", error.path(), error.problem()));
                }
            }
        }
    }
    assert!(errors > 500, "{errors}");
}

/// Where a password stands that is no text, or a hash that is none.
#[test]
fn a_secret_that_is_wrong_itself() {
    let number: Value = serde_json::from_str(PASSWORDS[4]).unwrap();
    for wrong in [number, json!([PASSWORDS[0]]), json!({ PASSWORDS[0]: PASSWORDS[1] }), json!(true)] {
        for (path, config) in [
            ("default_pass", json!({ "default_pass": wrong })),
            ("broker_pass", json!({ "broker_user": "u", "broker_pass": wrong })),
            ("users[0].password_hash", json!({ "users": [{ "name": "u", "password_hash": wrong }] })),
            ("tenants[0].default_pass", json!({ "tenants": [{ "name": "t", "default_pass": wrong }] })),
            ("tenants[0].broker_pass", json!({ "tenants": [{ "name": "t", "broker_pass": wrong }] })),
        ] {
            let error = error_of(config);
            assert!(error.path().starts_with(path), "{error}");
            shows_none(&format!("{error} {error:?}"));
        }
    }
    // Where they stand in the wrong place.
    for wrong in [
        json!([PASSWORDS[0]]),
        json!(PASSWORDS[0]),
        json!([["u", sha256(PASSWORDS[0])]]),
        json!([[PASSWORDS[0], 7]]),
    ] {
        for key in ["users", "permissions", "topic_permissions", "tenants", "publish", "match", "vhost_from"]
        {
            shows_none(&error_of(json!({ key: wrong })).to_string());
        }
    }
    let hash = sha256(PASSWORDS[0]);
    for wrong in [&hash[1..], PASSWORDS[0]] {
        let error = error_of(json!({ "users": [{ "name": "u", "password_hash": wrong }] }));
        assert!(!format!("{error} {error:?}").contains(wrong));
    }
}

/// Resolves to one implementation for a type that has none of these traits; with one of them there are two, and this does not compile.
macro_rules! cannot_be_shown {
    ($($type:ty),* $(,)?) => {
        $(const _: () = {
            trait Shown<Which> {
                const ANY: () = ();
            }
            struct ByDebug;
            struct ByDisplay;
            impl<T: ?Sized> Shown<()> for T {}
            impl<T: ?Sized + core::fmt::Debug> Shown<ByDebug> for T {}
            impl<T: ?Sized + core::fmt::Display> Shown<ByDisplay> for T {}
            <$type as Shown<_>>::ANY
        };)*
    };
}

cannot_be_shown! {
    Secret,
    Config,
    Policy,
    Tenant,
    Credentials,
    users::Users,
    users::PasswordHash,
    Admission,
    Attempt,
    Gate,
    Bridge,
    mqtt::Connect<'_>,
    mqtt::Packet<'_>,
    ClientMethod<'_>,
}

/// What can be shown is closed: no text of a client's or an operator's gets into it.
#[test]
fn errors_hold_no_text() {
    const fn is_plain<T: Copy + 'static>() {}
    is_plain::<Error>();
    is_plain::<leveret::Event>();
    is_plain::<leveret::policy::Refusal>();
    is_plain::<leveret::policy::Denial>();
}
