//! `leveret check`.

use std::fs;

use serde_json::{Value, json};

use crate::{file, leveret, root};

#[test]
fn the_shipped_configurations_are_fine() {
    let [lazy, eager] = ["envoy/lazy.yaml", "envoy/eager.yaml"].map(|path| root(path).display().to_string());
    let ran = leveret(&["check", &lazy, &eager]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let at = "static_resources.listeners[mqtt].filter_chains[0].filters[leveret].typed_config";
    assert_eq!(ran.out, format!("{lazy}: {at}: OK\n{eager}: {at}: OK\n"));
}

#[test]
fn every_file_to_copy_is_fine() {
    let folders = ["envoy", "envoy/kubernetes"].map(|folder| fs::read_dir(root(folder)).unwrap());
    for entry in folders.into_iter().flatten() {
        let path = entry.unwrap().path().display().to_string();
        // The filter of ecds.yaml is in leveret-ecds.yaml.
        if !path.ends_with(".yaml") || path.ends_with("/ecds.yaml") {
            continue;
        }
        let ran = leveret(&["check", &path]);
        assert!(ran.code == Some(0) && ran.out.ends_with(": OK\n"), "{path}: {}{}", ran.out, ran.err);
    }
}

#[test]
fn the_wrong_key_is_named_with_its_file_and_filter() {
    let folder = tempfile::tempdir().unwrap();
    let lazy = fs::read_to_string(root("envoy/lazy.yaml")).unwrap();
    let envoy = file(&folder, "envoy.yaml", lazy.replace("\"connect_mode\": \"lazy\"", "\"prefetch\": 0"));
    let plugin = file(&folder, "leveret.yaml", "default_pass: [geheim]\n");
    let ran = leveret(&["check", &envoy, &plugin]);
    assert_eq!(ran.code, Some(1));
    let lines: Vec<_> = ran.out.lines().collect();
    assert!(
        lines[0].starts_with(&envoy) && lines[0].contains("[leveret]") && lines[0].contains("`prefetch`")
    );
    assert!(lines[1].starts_with(&plugin) && lines[1].contains("`default_pass`"));
    assert!(!ran.out.contains("geheim"), "{}", ran.out);

    let ran = leveret(&["check", "--json", &envoy]);
    assert_eq!(ran.code, Some(1));
    let finding = &ran.json()["configurations"][0];
    assert_eq!((&finding["file"], &finding["ok"]), (&json!(envoy), &json!(false)));
    assert!(finding["error"].as_str().unwrap().contains("`prefetch`"));
}

#[test]
fn the_wrong_key_is_found_in_manifests() {
    let folder = tempfile::tempdir().unwrap();
    for (name, at) in [
        ("gateway.yaml", "ConfigMap[leveret].envoy.yaml.static_resources.listeners[mqtts]"),
        ("sidecar.yaml", "ConfigMap[leveret-sidecar].envoy.yaml.static_resources.listeners[mqtt]"),
        ("istio-gateway.yaml", "WasmPlugin[leveret].spec.pluginConfig"),
        ("istio-sidecar.yaml", "spec.configPatches[0]"),
    ] {
        let text = fs::read_to_string(root("envoy/kubernetes").join(name)).unwrap();
        let wrong = text.replace("allow_anonymous", "allow_anonymus");
        assert_ne!(text, wrong, "{name}");
        let ran = leveret(&["check", &file(&folder, name, wrong)]);
        assert_eq!(ran.code, Some(1), "{name}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains(at) && ran.out.contains("`allow_anonymus`"), "{}", ran.out);
    }
}

#[test]
fn a_file_that_has_nothing_to_check_is_not_fine() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, code) in [
        ("none.yaml", &b"static_resources: { listeners: [] }\n"[..], 1),
        ("broken.yaml", b"a: [geheim\n", 1),
        ("broken.json", b"{\"a\": geheim", 1),
        ("binary.yaml", b"a: 1\n\xff\n", 1),
        ("empty.yaml", b"", 1),
    ] {
        let path = file(&folder, name, text);
        let ran = leveret(&["check", &path]);
        assert_eq!(ran.code, Some(code), "{name}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(&path) && !ran.err.contains("geheim"), "{name}: {}", ran.err);
        let json = leveret(&["check", "--json", &path]);
        assert_eq!((json.code, json.json()["error"].is_string()), (Some(code), true));
    }
    assert_eq!(leveret(&["check", "/no/such/file"]).code, Some(2));
}

/// A filter of this configuration in a filter chain with this `transport_socket`.
fn envoy(plugin: &Value, socket: &Value) -> String {
    let config = json!({ "name": "leveret", "configuration":
        { "@type": "type.googleapis.com/google.protobuf.StringValue", "value": plugin.to_string() } });
    let wasm = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm", "config": config });
    let mut chain = json!({ "filters": [{ "name": "leveret", "typed_config": wasm }] });
    if !socket.is_null() {
        chain["transport_socket"] = socket.clone();
    }
    json!({ "static_resources": { "listeners": [{ "name": "mqtt", "filter_chains": [chain] }] } }).to_string()
}

fn tls(common: &Value) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true, "common_tls_context": common } })
}

fn warnings(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "envoy.yaml", text);
    let (ran, json) = (leveret(&["check", &path]), leveret(&["check", "--json", &path]));
    assert_eq!((ran.code, json.code), (Some(0), Some(0)), "{}{}", ran.out, ran.err);
    let finding = &json.json()["configurations"][0];
    let place = format!("{path}: {}: ", finding["filter"].as_str().unwrap());
    let warnings: Vec<_> =
        finding["warnings"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect();
    let lines: Vec<_> = warnings.iter().map(|it| format!("{place}warning: {it}\n")).collect();
    assert_eq!(ran.out, format!("{place}OK\n{}", lines.concat()), "text and JSON say the same");
    warnings
}

#[test]
fn a_lazy_filter_before_a_proxy_that_connects_at_once_is_warned_of() {
    let lazy = fs::read_to_string(root("envoy/lazy.yaml")).unwrap();
    let eager = fs::read_to_string(root("envoy/eager.yaml")).unwrap();
    let [handshake, number] =
        ["upstream_connect_mode: ON_DOWNSTREAM_TLS_HANDSHAKE", "upstream_connect_mode: 1"]
            .map(|mode| lazy.replace("upstream_connect_mode: ON_DOWNSTREAM_DATA", mode));
    let default = eager.replace("\"connect_mode\": \"eager\"", "");
    for (text, hangs) in
        [(&lazy, false), (&eager, false), (&number, false), (&handshake, true), (&default, true)]
    {
        let warnings = warnings(text);
        assert_eq!(warnings.len(), usize::from(hangs), "{warnings:?}");
        assert!(warnings.iter().all(|it| it.starts_with("no client gets in")), "{warnings:?}");
    }
    let istio = fs::read_to_string(root("envoy/kubernetes/istio-gateway.yaml")).unwrap();
    assert!(warnings(&istio.replace("connect_mode: eager", "")).concat().contains("`connect_mode` to eager"));
}

#[test]
fn a_cluster_that_is_not_there_is_warned_of() {
    let lazy = fs::read_to_string(root("envoy/lazy.yaml")).unwrap();
    let wrong =
        lazy.replace("\"local_reply_cluster\": \"local_reply\"", "\"local_reply_cluster\": \"nowhere\"");
    assert_eq!(
        warnings(&wrong),
        ["there is no cluster \"nowhere\", which local_reply_cluster names, in static_resources"]
    );
    let discovered = format!(
        "{wrong}\ndynamic_resources: {{ cds_config: {{ path_config_source: {{ path: cds.yaml }} }} }}\n"
    );
    assert_eq!(warnings(&discovered), [""; 0]);
    let of_tenant = r#"{ "tenants": [{ "name": "a", "match": { "port": 1883 }, "cluster": "b" }], "#;
    let wrong =
        lazy.replace("{\n                        \"connect_mode\"", &format!("{of_tenant}\"connect_mode\""));
    assert!(warnings(&wrong).concat().contains("tenants[0].cluster"), "{wrong}");
}

#[test]
fn what_can_be_read_is_told_beside_what_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let [good, wrong] =
        [("a.json", "{}"), ("b.json", "{\"prefetch\": 0}")].map(|(name, text)| file(&folder, name, text));
    let ran = leveret(&["check", "/no/such/file", &good, &wrong]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.out.starts_with(&format!("{good}: OK\n{wrong}: configuration key `prefetch`")),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("/no/such/file"), "{}", ran.err);
}

#[test]
fn certificates_that_nobody_verifies_are_warned_of() {
    let plugin = json!({ "ssl_cert_login": true, "broker_user": "edge", "broker_pass": "geheim" });
    let ca = json!({ "filename": "ca.pem" });
    let sds = json!({ "name": "validation", "sds_config": { "ads": {} } });
    let none = "has no trusted_ca";
    let untrusted = "ACCEPT_UNTRUSTED";
    for (common, says) in [
        (json!({}), Some(none)),
        (json!({ "validation_context": {} }), Some(none)),
        (json!({ "validation_context": { "trusted_ca": null } }), Some(none)),
        (json!({ "validation_context": { "trusted_ca": { "inline_string": "" } } }), Some(none)),
        (json!({ "combined_validation_context": { "default_validation_context": {} } }), Some(none)),
        (
            json!({ "validation_context": { "trusted_ca": ca, "trust_chain_verification": "ACCEPT_UNTRUSTED" } }),
            Some(untrusted),
        ),
        (json!({ "validationContext": { "trustedCa": ca, "trustChainVerification": 1 } }), Some(untrusted)),
        (
            json!({ "combined_validation_context": { "validation_context_sds_secret_config": sds,
                "default_validation_context": { "trust_chain_verification": "ACCEPT_UNTRUSTED" } } }),
            Some(untrusted),
        ),
        (json!({ "validation_context": { "trusted_ca": ca } }), None),
        (json!({ "validationContext": { "trustedCa": ca } }), None),
        (json!({ "validation_context": { "verify_certificate_spki": ["AAAA"] } }), None),
        (
            json!({ "combined_validation_context": { "default_validation_context": { "trusted_ca": ca } } }),
            None,
        ),
        // Not to be seen.
        (json!({ "validation_context_sds_secret_config": sds }), None),
        (json!({ "combined_validation_context": { "validation_context_sds_secret_config": sds } }), None),
    ] {
        let found = warnings(&envoy(&plugin, &tls(&common)));
        match says {
            None => assert!(found.is_empty(), "{common}: {found:?}"),
            Some(says) => assert!(
                matches!(&found[..], [one] if one.contains(says) && one.contains("ssl_cert_login") && !one.contains("geheim")),
                "{common}: {found:?}"
            ),
        }
    }
    let raw = json!({ "name": "raw", "typed_config":
        { "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" } });
    for socket in [Value::Null, raw] {
        let found = warnings(&envoy(&plugin, &socket));
        assert!(matches!(&found[..], [one] if one.contains("has no TLS")), "{found:?}");
    }
    // No chain to be seen.
    let resource = envoy(&plugin, &Value::Null).replace("\"filters\"", "\"others\"");
    assert!(warnings(&resource).is_empty());
}

#[test]
fn what_goes_by_certificates_is_named() {
    let account = |mut plugin: Value| {
        plugin["broker_user"] = json!("edge");
        plugin["broker_pass"] = json!("x");
        plugin
    };
    for (plugin, keys) in [
        (account(json!({ "ssl_cert_login": true })), "ssl_cert_login"),
        (json!({ "ssl_cert_client_id_from": "distinguished_name" }), "ssl_cert_client_id_from"),
        (json!({ "mqtt_default_vhosts": { "CN=a": "b" } }), "mqtt_default_vhosts"),
        (json!({ "san_to_vhost_mapping": { "a": "b" } }), "san_to_vhost_mapping"),
        (json!({ "publish": { "allow": ["{cert_cn}/#"] } }), "publish"),
        (
            account(json!({ "tenants": [{ "name": "a", "ssl_cert_login": true,
                "match": { "cert_cn": "*", "cert_dn": null, "cert_san": ["b"] } }] })),
            "tenants[0].match.cert_cn, tenants[0].match.cert_san, tenants[0].ssl_cert_login",
        ),
    ] {
        let found = warnings(&envoy(&plugin, &Value::Null));
        let says = format!("these go by one: {keys}. ");
        assert!(matches!(&found[..], [one] if one.contains(&says)), "{plugin}: {found:?}");
    }
    for plugin in [
        json!({}),
        json!({ "ssl_cert_login": false, "ssl_cert_login_from": "common_name" }),
        json!({ "ssl_cert_client_id_from": null, "mqtt_default_vhosts": {} }),
        json!({ "mqtt_default_vhosts": { "CN=a": "b" }, "vhost_from": ["port"] }),
    ] {
        assert_eq!(warnings(&envoy(&plugin, &Value::Null)), [""; 0], "{plugin}");
    }
}

#[test]
fn json_is_what_the_filter_takes_for_it() {
    let folder = tempfile::tempdir().unwrap();
    for (text, is_fine) in [
        ("{\"prefetch\": 20}", true),
        ("\u{feff}{\"prefetch\": 20}", false),
        ("\u{feff}{\"prefetch\": 20,}", false),
        ("{\"prefetch\": 20,}", false),
        ("{prefetch: 20}", false),
        ("prefetch: 20", true),
        // A configuration that is YAML, where the mark is allowed, becomes JSON without it.
        ("\u{feff}prefetch: 20", true),
    ] {
        assert_eq!(leveret::Config::from_json(text.as_bytes()).is_ok(), is_fine && text.starts_with('{'));
        for command in ["check", "explain"] {
            let address = ["--address", "[::1]:1"];
            let arguments = [command, &file(&folder, "leveret.json", text)];
            let arguments = [&arguments[..], if command == "explain" { &address } else { &[] }].concat();
            let code = Some(if is_fine { 0 } else { 1 });
            assert_eq!(leveret(&arguments).code, code, "{command} {text:?}");
        }
        let text = envoy(&Value::Null, &Value::Null).replace("\"null\"", &json!(text).to_string());
        let ran = leveret(&["check", &file(&folder, "envoy.json", &text)]);
        let code = Some(if is_fine && text.contains("{\\\"") { 0 } else { 1 });
        assert_eq!(ran.code, code, "{text}: {}{}", ran.out, ran.err);
    }
    let none = envoy(&Value::Null, &Value::Null).replace("\"null\"", "\"\"");
    assert!(warnings(&none).is_empty());
}
