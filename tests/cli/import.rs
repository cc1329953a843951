//! `leveret import`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::envoy::{self, Envoy};

use crate::{file, fixture, leveret};

/// Of each key that is in neither place it would be unknown what became of it.
#[test]
fn every_key_ends_up_in_the_result_or_on_the_list() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["rabbitmq-3.10.conf", "rabbitmq-4.3.conf"] {
        let text = fs::read_to_string(fixture(name)).unwrap();
        let all = import(&["--conf", &fixture(name)]);
        for (n, line) in text.lines().enumerate() {
            let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
            let key = key.trim();
            if all["remarks"].as_array().unwrap().iter().any(|remark| remark["key"] == key)
                || is_rabbit_s(key)
            {
                continue;
            }
            let without: Vec<_> =
                text.lines().enumerate().filter(|(m, _)| *m != n).map(|(_, line)| line).collect();
            let without = import(&["--conf", &file(&folder, "without.conf", without.join("\n"))]);
            assert!(
                all["plugin"] != without["plugin"] || all["envoy"] != without["envoy"],
                "{name}: {key} is lost"
            );
        }
    }
}

/// What the core refuses in what is made has a remark of its own, which is for what is not thought of.
#[test]
fn the_core_takes_what_becomes_of_every_fixture() {
    let confs = [None, Some("rabbitmq-3.10.conf"), Some("rabbitmq-4.3.conf")];
    let definitions =
        [None, Some("definitions.json"), Some("definitions-vhost.json"), Some("definitions-awkward.json")];
    for (conf, definitions) in confs.iter().flat_map(|conf| definitions.map(|it| (*conf, it))) {
        let option = |name: &str, of: Option<&str>| of.map(|of| [name.to_owned(), fixture(of)]);
        let files = [option("--conf", conf), option("--definitions", definitions)];
        let arguments: Vec<_> = files.into_iter().flatten().flatten().collect();
        if arguments.is_empty() {
            continue;
        }
        let json = import(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!needs_attention(&json, "the result"), "{arguments:?}: {:#}", json["remarks"]);
    }
}

/// What says only what is so anyway.
fn is_rabbit_s(key: &str) -> bool {
    ["listeners.tcp.default", "auth_backends.1"].contains(&key)
}

/// The fixtures have every key that the installed RabbitMQ knows, and those of 4.3.6 that were written down from its schema.
#[test]
fn the_fixtures_are_complete() {
    let Some(schema) = installed_schema() else {
        eprintln!("SKIPPED: no RabbitMQ here");
        return;
    };
    let confs = ["rabbitmq-3.10.conf", "rabbitmq-4.3.conf"]
        .map(|name| fs::read_to_string(fixture(name)).unwrap())
        .concat();
    let keys: Vec<_> =
        schema.split("{mapping, \"").skip(1).filter_map(|mapping| mapping.split(['"', '$']).next()).collect();
    assert!(keys.len() > 30, "{keys:?}");
    let missing: Vec<_> = keys.iter().filter(|key| !confs.contains(**key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn installed_schema() -> Option<String> {
    let plugins = |folder: PathBuf, start: &str| {
        let mut entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
        entries.find(|entry| entry.file_name().to_string_lossy().starts_with(start)).map(|entry| entry.path())
    };
    let server = plugins("/usr/lib/rabbitmq/lib".into(), "rabbitmq_server-")?;
    let plugin = plugins(server.join("plugins"), "rabbitmq_mqtt-")?;
    fs::read_to_string(plugin.join("priv/schema/rabbitmq_mqtt.schema")).ok()
}

#[test]
fn settings_of_3_10() {
    let json = import(&["--conf", &fixture("rabbitmq-3.10.conf")]);
    let expected = json!({
        "connect_mode": "lazy", "local_reply_cluster": "local_reply",
        "allow_anonymous": true, "default_user": "visitor", "default_pass": "geheim-visitor", "loopback_users": ["guest"],
        "ssl_cert_login_from": "common_name",
        "vhost": "/", "exchange": "amq.topic", "subscription_ttl": 3_600_000, "prefetch": 20, "sparkplug": false,
        "login_timeout": 5000,
    });
    assert_eq!(json["plugin"], expected);

    let listeners = json["envoy"]["static_resources"]["listeners"].as_array().unwrap();
    let names: Vec<_> = listeners.iter().map(|listener| listener["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["mqtt_tcp_default", "mqtt_tcp_local", "mqtt_ssl_default", "local_reply"]);
    let addresses: Vec<_> =
        listeners[..3].iter().map(|listener| &listener["address"]["socket_address"]).collect();
    assert_eq!(*addresses[0], json!({ "address": "::", "port_value": 1883, "ipv4_compat": true }));
    assert_eq!(*addresses[1], json!({ "address": "::1", "port_value": 1884 }));

    let [tcp, _, tls, _] = listeners.as_slice() else { panic!("{names:?}") };
    assert_eq!(tcp["tcp_backlog_size"], 4096);
    assert_eq!(tcp["listener_filters"][0]["name"], "proxy_protocol");
    let options: Vec<_> = tcp["socket_options"].as_array().unwrap().iter().map(option).collect();
    assert_eq!(
        options,
        [
            "SO_DONTROUTE 1/5 = 0",
            "SO_KEEPALIVE 1/9 = 1",
            "TCP_NODELAY 6/1 = 0",
            "SO_RCVBUF 1/8 = 131072",
            "SO_SNDBUF 1/7 = 131072",
            "SO_LINGER 1/13 = \"AQAAAAUAAAA=\"",
            "TCP_USER_TIMEOUT 6/18 = 15000",
        ]
    );

    assert!(tcp["filter_chains"][0].get("transport_socket").is_none());
    let chain = &tls["filter_chains"][0];
    assert_eq!(chain["transport_socket_connect_timeout"], "2.500s");
    let context = &chain["transport_socket"]["typed_config"];
    assert_eq!(context["require_client_certificate"], true);
    assert_eq!(
        context["common_tls_context"],
        json!({
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3",
                "cipher_suites": ["ECDHE-RSA-AES128-GCM-SHA256"] },
            "tls_certificates": [{ "certificate_chain": { "filename": "/etc/rabbitmq/server.pem" },
                "private_key": { "filename": "/etc/rabbitmq/server.key" }, "password": { "inline_string": "geheim-key" } }],
            "validation_context": { "trusted_ca": { "filename": "/etc/rabbitmq/ca.pem" }, "max_verify_depth": 3 },
        })
    );
    for key in [
        "ssl_options.versions.3",
        "ssl_options.ciphers.2",
        "mqtt.ssl_cert_login",
        "mqtt.tcp_listen_options.fd",
    ] {
        assert!(needs_attention(&json, key), "{key}");
    }
}

fn option(option: &Value) -> String {
    let value = option.get("int_value").unwrap_or(&option["buf_value"]);
    format!("{} {}/{} = {value}", option["description"].as_str().unwrap(), option["level"], option["name"])
}

#[test]
fn settings_of_4_3() {
    let json = import(&["--conf", &fixture("rabbitmq-4.3.conf")]);
    let expected = json!({
        "connect_mode": "lazy", "local_reply_cluster": "local_reply",
        "allow_anonymous": true, "default_user": "visitor", "default_pass": "geheim #1", "loopback_users": [],
        "on_unauthorized": "drop", "ssl_cert_client_id_from": "subject_alternative_name",
        "ssl_cert_client_id_san_type": "uri", "ssl_cert_client_id_san_index": 0,
        "subscription_ttl": 7_200_000, "qos0_max_length": 500, "retained": false, "max_connections": 20_000,
        "max_packet_size_unauthenticated": 4096, "max_packet_size_authenticated": 1_048_576,
        "will_refresh": 300_000, "frame_max": 65_536,
    });
    assert_eq!(json["plugin"], expected);
    let listeners = json["envoy"]["static_resources"]["listeners"].as_array().unwrap();
    assert_eq!(listeners.len(), 2, "one, and the one for refusals");
    let context = &listeners[0]["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"];
    assert_eq!(context["tls_params"]["tls_maximum_protocol_version"], "TLSv1_3");
    for key in ["web_mqtt.tcp.port", "mqtt.durable_queue_type", "mqtt.retained_message_store.max_messages"] {
        assert!(needs_attention(&json, key), "{key}");
    }
    assert!(!needs_attention(&json, "mqtt.retained_message_store.max_size_bytes"));
}

#[test]
fn nothing_said_is_rabbitmq_s_defaults() {
    let json = import(&["--definitions", &fixture("definitions-vhost.json")]);
    assert_eq!(json["plugin"], json!({ "connect_mode": "lazy", "local_reply_cluster": "local_reply" }));
    let address = &json["envoy"]["static_resources"]["listeners"][0]["address"]["socket_address"];
    assert_eq!(*address, json!({ "address": "::", "port_value": 1883, "ipv4_compat": true }));
    let broker = json["envoy"]
        .pointer("/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address");
    assert_eq!(broker.unwrap()["socket_address"], json!({ "address": "127.0.0.1", "port_value": 5672 }));
}

#[test]
fn wrong_values_are_named_with_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    for (line, problem) in [
        ("mqtt.prefetch = geheim", "mqtt.prefetch: expected a whole number"),
        ("mqtt.prefetch = -1", "mqtt.prefetch: expected a whole number"),
        ("mqtt.allow_anonymous = yes", "mqtt.allow_anonymous: expected true or false"),
        ("mqtt.listeners.tcp.a = localhost:1883", "mqtt.listeners.tcp.a: expected PORT or IP:PORT"),
        ("mqtt.listeners.tcp.a = 127.0.0.1:99999", "mqtt.listeners.tcp.a: expected a port"),
        ("mqtt.listeners.ssl = some", "mqtt.listeners.ssl: expected none"),
        ("mqtt.durable_queue_type = stream", "mqtt.durable_queue_type: expected classic, quorum"),
        ("ssl_options.versions.1 = tlsv9", "ssl_options.versions.1: expected tlsv1.3"),
        ("loopback_users.guest = 1", "loopback_users.guest: expected true or false"),
        ("nonsense", "expected `key = value`"),
    ] {
        let conf = file(&folder, "rabbitmq.conf", format!("# first\n{line}\n"));
        let ran = leveret(&["import", "--conf", &conf]);
        assert_eq!(ran.code, Some(1), "{line}");
        assert!(ran.err.contains(&format!("{conf}:2: {problem}")), "{line}: {}", ran.err);
        assert!(ran.out.is_empty() && !ran.err.contains("geheim"), "{}", ran.err);
    }
}

#[test]
fn what_is_unknown_or_cannot_be_is_named() {
    for (text, key) in [
        ("mqtt.no_such = 1", "mqtt.no_such"),
        ("mqtt.listeners.quic.a = 1", "mqtt.listeners.quic.a"),
        ("mqtt.tcp_listen_options.no = 1", "mqtt.tcp_listen_options.no"),
        ("mqtt = 1", "mqtt"),
        ("ssl_options.no_such = 1", "ssl_options.no_such"),
        ("ssl_options.ciphers.1 = RC4-SHA", "ssl_options.ciphers.1"),
        ("ssl_options.crl_check = peer", "ssl_options.crl_check"),
        ("mqtt.listeners.ssl.a = 8883", "ssl_options.certfile"),
        ("mqtt.listeners.tcp = none\nmqtt.listeners.tcp.a = 1", "mqtt.listeners.tcp"),
        ("mqtt.max_connections = 0", "mqtt.max_connections"),
        ("mqtt.subscription_ttl = 9999999999", "mqtt.subscription_ttl"),
        ("mqtt.subscription_ttl = 1\nmqtt.max_session_expiry_interval_seconds = 1", "mqtt.subscription_ttl"),
        ("mqtt.default_user = a\nanonymous_login_user = b", "mqtt.default_user"),
        ("anonymous_login_pass = encrypted:abc", "anonymous_login_pass"),
        (
            "mqtt.ssl_cert_login = true\nssl_cert_login_from = subject_alternative_name\nssl_cert_login_san_type = email",
            "mqtt.ssl_cert_login",
        ),
        (
            "mqtt.ssl_cert_client_id_from = subject_alternative_name\nmqtt.ssl_cert_login_san_index = 1",
            "mqtt.ssl_cert_client_id_from",
        ),
        ("auth_mechanisms.1 = EXTERNAL", "auth_mechanisms.1"),
        ("auth_backends.1 = ldap", "auth_backends.1"),
        ("listeners.tcp.default = 5673", "listeners.tcp.default"),
        ("proxy_protocol = true", "proxy_protocol"),
        ("channel_max = 4", "channel_max"),
        ("load_definitions = /etc/rabbitmq/definitions.json", "load_definitions"),
        ("mqtt.tcp_listen_options.linger.on = true", "mqtt.tcp_listen_options.linger.on"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let json = import(&["--conf", &file(&folder, "rabbitmq.conf", text)]);
        assert!(needs_attention(&json, key), "{text}: {:#}", json["remarks"]);
    }
}

#[test]
fn certificate_logins_that_cannot_be_the_same_are_off() {
    let folder = tempfile::tempdir().unwrap();
    let text = "mqtt.ssl_cert_login = true\nssl_cert_login_from = subject_alternative_name\nssl_cert_login_san_index = 1";
    let conf = file(&folder, "rabbitmq.conf", text);
    let json = import(&["--conf", &conf, "--definitions", &fixture("definitions.json")]);
    let plugin = json["plugin"].as_object().unwrap();
    assert!(
        plugin.keys().all(|key| !key.starts_with("ssl_cert") && key != "mqtt_default_vhosts"),
        "{plugin:?}"
    );
    assert!(needs_attention(&json, "mqtt_default_vhosts"));
}

#[test]
fn nothing_goes_by_certificates_that_nobody_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let pass = file(&folder, "pass", "geheim-edge");
    let text = "mqtt.listeners.ssl.1 = 8883\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
        mqtt.ssl_cert_login = true\nssl_cert_login_from = common_name\nmqtt.ssl_cert_client_id_from = distinguished_name\n";
    let imported = |text: String| {
        let conf = file(&folder, "rabbitmq.conf", text);
        let definitions = fixture("definitions.json");
        let account = ["--broker-user", "edge", "--broker-pass-file", &pass];
        import(&[&["--conf", &conf, "--definitions", &definitions][..], &account].concat())
    };
    let all = ["ssl_cert_login", "ssl_cert_login_from", "ssl_cert_client_id_from", "mqtt_default_vhosts"];
    let json = imported(text.to_owned());
    for key in all {
        assert!(json["plugin"].get(key).is_none(), "{key}");
    }
    for key in
        ["mqtt.ssl_cert_login", "ssl_cert_login_from", "mqtt.ssl_cert_client_id_from", "mqtt_default_vhosts"]
    {
        let remarks = json["remarks"].as_array().unwrap();
        let remark = remarks.iter().find(|it| it["key"] == key && it["attention"] == true).unwrap();
        for (part, says) in
            [("why", "anybody's certificate"), ("action", "Set `ssl_options.cacertfile`, and import again")]
        {
            assert!(remark[part].as_str().unwrap().contains(says), "{remark}");
        }
    }
    let json = imported(format!("{text}ssl_options.cacertfile = /etc/rabbitmq/ca.pem\n"));
    for key in all {
        assert!(json["plugin"].get(key).is_some(), "{key}");
    }
}

/// With many stars, and a name that all of them but the last fit, each has a choice.
#[test]
fn a_pattern_of_included_files_takes_no_time() {
    let folder = tempfile::tempdir().unwrap();
    file(&folder, &"a".repeat(200), "mqtt.vhost = other\n");
    file(&folder, "a-b.conf", "mqtt.vhost = included\n");
    let conf = file(&folder, "rabbitmq.conf", format!("include {}.conf\ninclude a*b.c*f\n", "*a".repeat(20)));
    let mut child = Command::new(env!("CARGO_BIN_EXE_leveret"))
        .args(["import", "--json", "--conf", &conf])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let is_done = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(20));
        child.try_wait().unwrap().is_some()
    });
    if !is_done {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(is_done, "still at it after 20 s");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["plugin"]["vhost"], "included");
}

#[test]
fn an_account_for_verified_clients() {
    let folder = tempfile::tempdir().unwrap();
    let pass = file(&folder, "pass", "geheim-edge\nnot this\n");
    let account = ["--broker-user", "edge", "--broker-pass-file", &pass];
    let conf = fixture("rabbitmq-3.10.conf");
    let definitions = fixture("definitions.json");
    let json = import(&[&["--conf", &conf, "--definitions", &definitions][..], &account].concat());
    let plugin = &json["plugin"];
    assert_eq!((&plugin["broker_user"], &plugin["broker_pass"]), (&json!("edge"), &json!("geheim-edge")));
    assert_eq!(plugin["ssl_cert_login"], true);
    assert!(!needs_attention(&json, "broker_user") && !needs_attention(&json, "user `CN=device-7`"));

    // Nobody to verify, and nothing to permit.
    let json = import(&[&["--conf", &conf][..], &account].concat());
    assert!(needs_attention(&json, "broker_user"));
    assert_eq!(leveret(&["import", "--conf", &conf, "--broker-user", "edge"]).code, Some(2));
}

#[test]
fn definitions_become_users_permissions_and_mappings() {
    let json = import(&["--definitions", &fixture("definitions.json")]);
    let plugin = &json["plugin"];
    let users: Vec<_> = plugin["users"].as_array().unwrap().iter().map(|user| &user["name"]).collect();
    assert_eq!(users, ["sensor-1", "strong", "publisher", "worker", "CN=device-7", "guest"]);
    let exported: Value =
        serde_json::from_str(&fs::read_to_string(fixture("definitions.json")).unwrap()).unwrap();
    for (ours, theirs) in
        plugin["users"].as_array().unwrap().iter().zip(exported["users"].as_array().unwrap())
    {
        assert_eq!(ours["password_hash"], theirs["password_hash"]);
        assert_eq!(ours["hashing_algorithm"], theirs["hashing_algorithm"]);
    }
    for list in ["permissions", "topic_permissions"] {
        assert_eq!(plugin[list], exported[list]);
    }
    assert_eq!(plugin["mqtt_default_vhosts"], json!({ "O=client,CN=device-7": "factory" }));
    assert_eq!(plugin["mqtt_port_to_vhost_mapping"], json!({ "1884": "factory", "8884": "factory" }));
    for key in [
        "user `CN=device-7`",
        "limits of user `worker`",
        "limits of virtual host `factory`",
        "policy `short-sessions` in `factory`",
        "topic_permissions of `worker` in `factory` on `amq.topic`",
        "permissions of `sensor-1` in `/`",
        "permissions of `publisher` in `/`",
    ] {
        assert!(needs_attention(&json, key), "{key}: {:#}", json["remarks"]);
    }
    // Their expressions reach Leveret's queues too.
    for key in [
        "permissions of `strong` in `factory`",
        "permissions of `worker` in `factory`",
        "policy `audit` in `factory`",
    ] {
        assert!(!needs_attention(&json, key), "{key}");
    }
}

#[test]
fn what_the_edge_cannot_verify_or_evaluate_is_left_to_the_broker() {
    let json = import(&["--definitions", &fixture("definitions-awkward.json")]);
    for key in ["users", "permissions", "topic_permissions"] {
        assert!(json["plugin"].get(key).is_none(), "{key}");
    }
    for key in [
        "user `legacy`",
        "permissions of `worker` in `lab`: configure",
        "topic_permissions of `worker` in `lab` on `amq.topic`: write",
    ] {
        assert!(needs_attention(&json, key), "{key}: {:#}", json["remarks"]);
    }
}

#[test]
fn other_backends_keep_their_half() {
    let folder = tempfile::tempdir().unwrap();
    for (text, users, permissions) in [
        ("auth_backends.1 = rabbit_auth_backend_internal", true, true),
        ("auth_backends.1 = internal\nauth_backends.2 = http", false, false),
        ("auth_backends.1.authn = ldap\nauth_backends.1.authz = internal", false, true),
        ("auth_backends.1.authn = internal\nauth_backends.1.authz = http", true, false),
        ("auth_backends.1.authz = http", false, false),
    ] {
        let conf = file(&folder, "rabbitmq.conf", text);
        let json = import(&["--conf", &conf, "--definitions", &fixture("definitions.json")]);
        let has = |key: &str| json["plugin"].get(key).is_some();
        assert_eq!(
            (has("users"), has("permissions"), has("topic_permissions")),
            (users, permissions, permissions),
            "{text}"
        );
    }
}

#[test]
fn hostile_names_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let name = "a: \"{}\"\n'#\u{85}\u{2028}\u{feff}\u{7f}\u{1f407} - |";
    let definitions = json!({ "users": [{ "name": name, "password_hash": "", "hashing_algorithm": "x" }],
        "permissions": [{ "user": name, "vhost": name, "configure": "", "write": "", "read": "" }] });
    let definitions = file(&folder, "definitions.json", definitions.to_string());
    let conf =
        file(&folder, "rabbitmq.conf", "mqtt.vhost = {a: [*b, &c]} | 'd' !e\nmqtt.exchange = '''x\n  y '''");
    let arguments = ["--conf", &conf, "--definitions", &definitions];
    let json = import(&arguments);
    let ran = leveret(&[&["import"][..], &arguments].concat());
    let printed: Value = serde_saphyr::from_str(&ran.out).unwrap();
    assert_eq!(printed, json["envoy"]);
    let inner = printed.pointer(
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/config/configuration/value",
    );
    let plugin: Value = serde_json::from_str(inner.unwrap().as_str().unwrap()).unwrap();
    assert_eq!(plugin, json["plugin"]);
    assert_eq!(plugin["permissions"][0]["user"], name);
}

#[test]
fn broken_definitions_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (text, says) in [("[]", ":1: "), ("{\n\"users\": 1}", ":2: users: "), ("", ":1: ")] {
        let path = file(&folder, "definitions.json", text);
        let ran = leveret(&["import", "--definitions", &path]);
        assert!(ran.code == Some(1) && ran.err.contains(&format!("{path}{says}")), "{text}: {}", ran.err);
    }
    assert_eq!(leveret(&["import", "--definitions", "/no/such"]).code, Some(2));
    assert_eq!(leveret(&["import", "--conf", "/no/such"]).code, Some(2));
}

#[test]
fn output_is_private_overwrites_nothing_and_passes_check() {
    let folder = tempfile::tempdir().unwrap();
    let edge = folder.path().join("edge").display().to_string();
    let conf =
        file(&folder, "rabbitmq.conf", "mqtt.default_pass = geheim\nmqtt.durable_queue_type = quorum\n");
    let arguments = [
        "import",
        "--conf",
        &conf,
        "--output",
        &edge,
        "--broker",
        "[::1]:5673",
        "--module",
        "/etc/leveret.wasm",
    ];
    let ran = leveret(&arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("mqtt.durable_queue_type") && ran.err.contains(":2)"), "{}", ran.err);
    let files: Vec<_> = ran.out.lines().collect();
    assert_eq!(files, [format!("{edge}/envoy.yaml"), format!("{edge}/leveret.json")]);
    for file in &files {
        assert_eq!(Path::new(file).metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(leveret(&["check", file]).code == Some(0), "{file}");
    }
    let yaml = fs::read_to_string(files[0]).unwrap();
    assert!(yaml.contains("filename: /etc/leveret.wasm") && yaml.contains("port_value: 5673"), "{yaml}");
    // Neither list nor errors have it.
    assert!(!ran.err.contains("geheim"));

    assert_eq!(leveret(&arguments).code, Some(2));
    let ran = leveret(&[&arguments[..], &["--force", "--json"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.json()["files"], json!(files));
    assert!(!ran.out.contains("geheim"));
}

/// What a client hears tells whether address, options and PROXY protocol have arrived where they belong.
#[test]
fn envoy_serves_what_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let conf = fs::read_to_string(fixture("rabbitmq-3.10.conf")).unwrap();
    let is_served = |line: &&str| {
        line.starts_with("mqtt.tcp_listen_options")
            || line.starts_with("mqtt.proxy_protocol")
            || line.starts_with("loopback")
    };
    let conf = conf.lines().filter(is_served).collect::<Vec<_>>().join("\n")
        + "\nmqtt.listeners.tcp.any = 127.0.0.1:0\n";
    let conf = file(&folder, "rabbitmq.conf", conf);
    let module = envoy::module().display().to_string();
    let ran = leveret(&["import", "--conf", &conf, "--module", &module, "--broker", "127.0.0.1:1"]);
    let mut config = envoy::parse_yaml(&ran.out).unwrap();
    config["admin"]["address"]["socket_address"]["port_value"] = json!(0);
    let envoy = Envoy::start(&folder.path().join("envoy"), &config, &envoy::Options::default()).unwrap();
    let address = envoy.address("mqtt_tcp_any").unwrap();
    for (from, code) in [("192.0.2.1", 5), ("127.0.0.1", 3)] {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(client, "PROXY TCP4 {from} 127.0.0.1 50000 1883\r\n").unwrap();
        client.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").unwrap();
        let mut connack = [0; 4];
        client.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, code], "guest from {from}, and no broker");
    }
}

fn import(arguments: &[&str]) -> Value {
    let ran = leveret(&[&["import", "--json"][..], arguments].concat());
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.out);
    ran.json()
}

fn needs_attention(json: &Value, key: &str) -> bool {
    let remarks = json["remarks"].as_array().unwrap();
    remarks.iter().any(|remark| remark["key"] == key && remark["attention"] == true)
}
