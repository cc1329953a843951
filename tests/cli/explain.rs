//! `leveret explain`.

use std::fs::File;
use std::process::Command;

use serde_json::{Value, json};

use crate::{file, leveret, root};

/// The example of docs/policy.md and what else can decide, with passwords that nobody may see.
fn configuration() -> Value {
    let hash = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"; // RabbitMQ's documented one, of test12
    json!({
        "tenants": [
            { "name": "elsewhere", "match": { "port": 1883 }, "username_without_password": "pass_over" },
            {
                "name": "acme",
                "match": { "sni": ["acme.example", "*.acme.example"], "port": [8883, 8884] },
                "vhost": "acme", "users": [{ "name": "sensor-1", "password_hash": hash }],
                "broker_user": "acme-edge", "broker_pass": "geheim",
                "publish": { "allow": ["alarms", "devices/{client_id}/#"] },
                "subscribe": { "allow": ["devices/{client_id}/#", "news/+"], "deny": ["news/internal"] },
                "client_id_pattern": "{username}-[a-z/]+", "max_payload_size": 10, "max_qos": 1,
                "retain_allowed": false, "on_unauthorized": "drop",
            },
            { "name": "certified", "match": { "cert_cn": "*" }, "ssl_cert_login": true,
              "broker_user": "edge", "broker_pass": "geheim", "users": [{ "name": "CN=pump" }] },
        ],
        "default_pass": "geheim", "vhost": "lab",
        "mqtt_port_to_vhost_mapping": { "1885": "factory" }, "sni_to_vhost_mapping": { "hall": "hall" },
        "permissions": [
            { "user": "sensor-1", "vhost": "acme", "configure": ".*", "write": ".*", "read": ".*" },
            { "user": "CN=pump", "vhost": "lab", "configure": ".*", "write": ".*", "read": ".*" },
            { "user": "reader", "vhost": "factory", "configure": "^mqtt-", "write": "^mqtt-subscription-r", "read": ".*" },
        ],
        "topic_permissions": [
            { "user": "reader", "vhost": "factory", "exchange": "amq.topic", "write": ".*", "read": "^of\\.{username}\\." },
        ],
    })
}

struct Explained {
    code: Option<i32>,
    text: String,
    json: Value,
}

/// The same client twice, for people and for programs; arguments are divided by spaces.
fn explain(arguments: &str) -> Explained {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "leveret.json", configuration().to_string());
    let arguments: Vec<_> = ["explain", &path].into_iter().chain(arguments.split_whitespace()).collect();
    let text = leveret(&arguments);
    let json = leveret(&[&arguments[..], &["--json"]].concat());
    assert_eq!(text.code, json.code);
    assert!(!text.out.contains("geheim") && !json.out.contains("geheim"), "{}", text.out);
    Explained { code: text.code, text: text.out, json: json.json() }
}

impl Explained {
    fn is(&self, step: &str) -> &str {
        self.json["steps"][step]["is"].as_str().unwrap_or_default()
    }

    fn by(&self, step: &str) -> Vec<&str> {
        let by = self.json["steps"][step]["by"].as_array().into_iter().flatten();
        by.filter_map(Value::as_str).collect()
    }
}

const SENSOR: &str = "--port 8883 --sni eu.acme.example --client-id sensor-1-a --username sensor-1";

#[test]
fn each_step_names_what_it_went_by() {
    let explained = explain(&format!("{SENSOR} publish devices/sensor-1-a/t"));
    assert_eq!(explained.code, Some(0), "{}", explained.text);
    let expected =
        "permitted: tenants[1].publish.allow[1]: devices/{client_id}/#, where {client_id} is sensor-1-a\n";
    assert!(explained.text.starts_with(expected), "{}", explained.text);
    let tenant = [
        "tenants[0].match.port: 1883, but the client's is 8883",
        "tenants[1].match.sni[1]: *.acme.example",
        "tenants[1].match.port[0]: 8883",
    ];
    assert_eq!((explained.is("tenant"), explained.by("tenant")), ("acme", tenant.to_vec()));
    assert_eq!(explained.by("user"), ["tenants[1].users[0], with a password that is taken to be right"]);
    assert_eq!(
        (explained.is("at_the_broker"), explained.by("at_the_broker")[0]),
        ("acme-edge", "tenants[1].broker_user: acme-edge")
    );
    assert_eq!((explained.is("vhost"), explained.by("vhost")[0]), ("acme", "tenants[1].vhost: acme"));
    assert_eq!(explained.by("permissions")[1], "permissions[0].write: .*");
    assert_eq!(explained.by("client_id_pattern")[0], "tenants[1].client_id_pattern: {username}-[a-z/]+");
    assert_eq!(
        (explained.is("exchange"), explained.is("routing_key")),
        ("amq.topic", "devices.sensor-1-a.t")
    );
    let names: Vec<_> = explained.json["steps"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "tenant",
            "client_id",
            "user",
            "at_the_broker",
            "vhost",
            "permissions",
            "client_id_pattern",
            "exchange",
            "routing_key"
        ],
        "the order of docs/policy.md"
    );
}

#[test]
fn a_publish_is_denied_by_the_rule_that_forbids_it() {
    let taken = "PUBACK, as if it had been published";
    for (client, action, rule, hears) in [
        (
            SENSOR,
            "devices/sensor-2-a/t --qos 1",
            "no allow entry matches: none of the 2 in tenants[1].publish.allow, where {client_id} is sensor-1-a",
            taken,
        ),
        (
            "--port 8883 --sni acme.example --client-id sensor-1-a/b --username sensor-1",
            "devices/sensor-1-a/b/t",
            "no allow entry matches: none of the 2 in tenants[1].publish.allow, where {client_id} is sensor-1-a/b, which is not one level",
            "nothing",
        ),
        (
            SENSOR,
            "alarms --size 11",
            "payload is larger than max_payload_size: tenants[1].max_payload_size: 10",
            "nothing",
        ),
        (
            SENSOR,
            "alarms --qos 2",
            "QoS is above max_qos: tenants[1].max_qos: 1",
            "PUBREC and PUBCOMP, as if it had been published",
        ),
        (SENSOR, "alarms --retain", "retain_allowed is off: tenants[1].retain_allowed: false", "nothing"),
        (
            "--port 1885 --username reader",
            "a",
            "the user's permissions lack the exchange: permissions[2].write: ^mqtt-subscription-r does not match amq.topic",
            "the connection's end",
        ),
    ] {
        let explained = explain(&format!("{client} publish {action}"));
        assert_eq!(explained.code, Some(3), "{}", explained.text);
        assert_eq!((&explained.json["decision"], &explained.json["rule"]), (&json!("denied"), &json!(rule)));
        assert_eq!(explained.json["client_hears"], hears, "{action}");
        assert!(explained.json["log_says"].as_str().unwrap().contains(rule.split(':').next().unwrap()));
    }
}

#[test]
fn a_subscription_has_its_queue_and_what_is_granted() {
    let explained = explain(&format!("{SENSOR} subscribe news/+x"));
    assert_eq!((explained.code, &explained.json["log_says"]), (Some(3), &Value::Null), "{}", explained.text);
    let explained = explain(&format!("{SENSOR} subscribe news/#"));
    assert_eq!(explained.json["rule"], "a deny entry matches: tenants[1].subscribe.deny[0]: news/internal");
    assert_eq!(explained.json["client_hears"], "SUBACK 0x80 for this filter, and the connection is kept");
    assert_eq!(explained.json["log_says"], "refused a filter: a deny entry matches");

    let mine = "devices/sensor-1-a/#";
    for (action, queue, qos) in [
        (format!("subscribe {mine}"), "mqtt-subscription-sensor-1-aqos0.<own>", "0"),
        (format!("--persistent subscribe {mine} --qos 2"), "mqtt-subscription-sensor-1-aqos1", "1"),
        (format!("subscribe $share/g/{mine} --qos 1"), "mqtt-subscription-g/devices.sensor-1-a.#share", "1"),
    ] {
        let explained = explain(&format!("{SENSOR} {action}"));
        assert_eq!(explained.code, Some(0), "{}", explained.text);
        assert_eq!(explained.is("binding_key"), "devices.sensor-1-a.#");
        assert_eq!((explained.is("queue"), explained.is("granted_QoS")), (queue, qos));
    }

    let reader = "--port 1885 --username reader --client-id r";
    let explained = explain(&format!("{reader} subscribe of/reader/+"));
    assert_eq!(
        explained.json["rule"],
        "topic_permissions[0].read: ^of\\.{username}\\., where {username} is reader"
    );
    assert_eq!(
        (explained.is("vhost"), explained.by("vhost")[0]),
        ("factory", "mqtt_port_to_vhost_mapping.1885: factory")
    );
    for (client, filter, rule) in [
        (
            reader,
            "of/writer",
            "topic_permissions[0].read: ^of\\.{username}\\., where {username} is reader, does not match of.writer",
        ),
        (
            "--port 1885 --username reader --client-id s",
            "of/reader/a",
            "permissions[2].write: ^mqtt-subscription-r does not match mqtt-subscription-sqos0",
        ),
    ] {
        let explained = explain(&format!("{client} subscribe {filter}"));
        let said = explained.json["rule"].as_str().unwrap();
        assert!(explained.code == Some(3) && said.ends_with(rule), "{said}");
    }
}

#[test]
fn a_user_name_without_a_password_is_refused_or_passed_over() {
    let alone = "--port 1999 --username someone --password-file /dev/null --address 127.0.0.1";
    let explained = explain(alone);
    assert_eq!(
        explained.json["rule"],
        "credentials are missing: username_without_password, by default: refuse, and an empty password is none"
    );
    let explained = explain(&alone.replace("1999", "1883"));
    assert_eq!(
        explained.json["rule"],
        "user has no permissions in the virtual host: permissions has nothing of `guest` in `lab`"
    );
}

#[test]
fn who_does_not_get_in_is_told_little_and_the_operator_all() {
    for (client, code, says, rule) in [
        (
            "",
            5,
            "loopback user from another address",
            "loopback_users, by default: guest, and no --address is given",
        ),
        (
            "--port 8883 --sni acme.example --username nobody",
            4,
            "no such user",
            "tenants[1].users has no `nobody`",
        ),
        (
            "--port 8884 --sni acme.example --username other:sensor-1",
            5,
            "a virtual host that the client may not choose",
            "tenants[1].vhost: acme",
        ),
        (
            "--port 8884 --sni acme.example --username sensor-1 --client-id x",
            2,
            "client id does not match client_id_pattern",
            "tenants[1].client_id_pattern: {username}-[a-z/]+",
        ),
        (
            "--username a:b",
            5,
            "user has no permissions in the virtual host",
            "permissions has nothing of `b` in `a`",
        ),
        (
            "--address 192.0.2.1:7",
            5,
            "loopback user from another address",
            "loopback_users, by default: guest",
        ),
        ("--persistent", 2, "no client id, but a session to keep, or MQTT 3.1", "MQTT 3.1.1 section 3.1.3.1"),
        ("--cert-subject O=x,CN=y", 4, "no such user", "tenants[2].users has no `O=x,CN=y`"),
    ] {
        let explained = explain(client);
        assert_eq!(explained.code, Some(3), "{client}: {}", explained.text);
        assert_eq!(explained.json["decision"], "refused");
        assert_eq!(explained.json["rule"], format!("{says}: {rule}"));
        let hears = explained.json["client_hears"].as_str().unwrap();
        assert!(hears.starts_with(&format!("CONNACK {code} (")) && !hears.contains(says), "{hears}");
        assert_eq!(explained.json["log_says"], format!("CONNACK {code}: refused: {says}"));
    }
}

#[test]
fn certificates_anonymous_clients_and_right_passwords_get_in() {
    let explained = explain("--cert-subject CN=pump");
    assert_eq!(explained.code, Some(0), "{}", explained.text);
    assert_eq!((explained.is("tenant"), explained.is("user")), ("certified", "CN=pump"));
    assert_eq!(explained.by("user"), ["tenants[2].ssl_cert_login: true"]);
    assert_eq!((explained.is("vhost"), explained.by("vhost")[0]), ("lab", "vhost: lab"));
}

#[test]
fn a_password_comes_from_a_file_or_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "leveret.json", configuration().to_string());
    for (password, rule) in [
        (&b"test12"[..], None),
        (b"test12\n", None),
        (b"test12\r\n", None),
        (b"test12\n\n", Some("wrong password: tenants[1].users[0] has another")),
        (b"test13", Some("wrong password: tenants[1].users[0] has another")),
        (b"\xff", Some("wrong password: tenants[1].users[0] has another")),
        (
            b"\n",
            Some(
                "credentials are missing: username_without_password, by default: refuse, and an empty password is none",
            ),
        ),
        (
            &[b'x'; 200_000],
            Some(
                "user name and password are too long, by themselves or with the client id, or hold U+0000: max_credentials_size is 3584, and U+0000 is never taken",
            ),
        ),
    ] {
        let from = file(&folder, "password", password);
        for (name, input) in [(&*from, "/dev/null"), ("-", &*from)] {
            let output = Command::new(env!("CARGO_BIN_EXE_leveret"))
                .args(["explain", "--json", &path, "--password-file", name])
                .args(SENSOR.split(' '))
                .stdin(File::open(input).unwrap())
                .output()
                .unwrap();
            let json: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(if rule.is_some() { 3 } else { 0 }), "{json}");
            match rule {
                Some(rule) => assert_eq!(json["rule"], rule),
                None => assert_eq!(
                    json["steps"]["user"]["by"],
                    json!(["tenants[1].users[0], whose password it is"])
                ),
            }
        }
    }
    let ran = leveret(&["explain", &path, "--username", "a", "--password-file", "/no/such/file"]);
    assert!(ran.code == Some(2) && ran.err.contains("/no/such/file"), "{}", ran.err);
}

#[test]
fn an_address_that_is_not_given_is_none_and_is_told_where_it_matters() {
    let told = ["judged as no loopback address, and as in no range of match.address: give it with --address"];
    let explained = explain("publish a");
    assert_eq!((explained.code, explained.is("address")), (Some(3), "not given"), "{}", explained.text);
    assert_eq!(explained.by("address"), told);
    for address in ["::1", "127.0.0.1:9"] {
        let explained = explain(&format!("--address {address}"));
        assert_eq!(explained.is("address"), "");
        assert_eq!(
            explained.by("user")[1],
            "loopback_users, by default: guest, and it comes from such an address"
        );
    }
    assert_eq!(explain(SENSOR).is("address"), "", "nothing goes by it");

    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "leveret.json",
        json!({ "tenants": [
            { "name": "first", "match": { "client_id": "f" } },
            { "name": "here", "match": { "address": "127.0.0.0/8" } },
        ] })
        .to_string(),
    );
    let explain = |arguments: &[&str]| {
        leveret(&[&["explain", "--json", &path, "--username", "u"], arguments].concat()).json()
    };
    let json = explain(&[]);
    assert_eq!(
        (&json["steps"]["tenant"]["is"], &json["steps"]["address"]["by"]),
        (&json!("none"), &json!(told))
    );
    assert_eq!(explain(&["--address", "127.0.0.1"])["steps"]["tenant"]["is"], "here");
    assert!(
        explain(&["--client-id", "f"])["steps"].get("address").is_none(),
        "nobody looks behind the first"
    );
}

/// Of `null` the filter makes the default, or what the top level says.
#[test]
fn null_is_a_key_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "leveret.json",
        json!({
            "vhost": "lab", "max_payload_size": 3, "loopback_users": null, "permissions": null, "users": null,
            "publish": null, "max_connections": null, "broker_user": null, "mqtt_port_to_vhost_mapping": null,
            "tenants": [
                { "name": "other", "match": { "port": null, "client_id": "x" } },
                { "name": "all", "match": { "port": null }, "vhost": null, "max_payload_size": null, "users": null },
            ],
        })
        .to_string(),
    );
    let ran = leveret(&["explain", "--json", &path, "--username", "u", "publish", "a", "--size", "4"]);
    let json = ran.json();
    assert_eq!(json["rule"], "payload is larger than max_payload_size: max_payload_size: 3");
    assert_eq!(
        json["steps"]["tenant"]["by"],
        json!([
            "tenants[0].match.client_id: x, but the client's is unknown",
            "tenants[1].match: none, so everybody is this tenant's"
        ])
    );
    assert_eq!(json["steps"]["vhost"]["by"], json!(["vhost: lab"]));
    assert_eq!(json["steps"]["permissions"]["is"], "none here: the broker's alone count");
    assert_eq!(json["steps"]["at_the_broker"]["by"][0], "its own user name and password");
    assert!(!ran.out.contains("null"), "{}", ran.out);
}

#[test]
fn envoys_file_does_as_well_and_a_wrong_one_is_exit_code_1() {
    let ran = leveret(&[
        "explain",
        &root("envoy/lazy.yaml").display().to_string(),
        "--address",
        "127.0.0.1",
        "publish",
        "a",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.starts_with("permitted: nothing forbids it"), "{}", ran.out);
    assert!(ran.out.contains("default_user, by default: guest"), "{}", ran.out);
    let folder = tempfile::tempdir().unwrap();
    for text in ["{\"prefetch\": 0}", "default_pass: [geheim]", "a: [geheim"] {
        let path = file(&folder, "leveret.yaml", text);
        let ran = leveret(&["explain", &path]);
        assert!(ran.code == Some(1) && ran.err.contains(&path) && !ran.err.contains("geheim"), "{}", ran.err);
    }
    assert_eq!(leveret(&["explain", "/no/such/file"]).code, Some(2));
}
