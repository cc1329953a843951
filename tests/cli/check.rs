//! `leveret check`.

use std::fs;

use serde_json::json;

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
    for entry in fs::read_dir(root("envoy")).unwrap() {
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
