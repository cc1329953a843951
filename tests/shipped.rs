//! What all configurations in `envoy/` have in common, whichever of them a user starts from.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail anywhere")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::envoy::parse_yaml;

/// The documents of each file, those inside of ConfigMaps as well.
fn files() -> BTreeMap<String, Vec<Value>> {
    let envoy = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy");
    let mut files = BTreeMap::new();
    for entry in [&envoy, &envoy.join("kubernetes")].into_iter().flat_map(|it| fs::read_dir(it).unwrap()) {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut documents: Vec<_> = text.split("\n---\n").map(|it| parse_yaml(it).unwrap()).collect();
        let data: Vec<_> = documents.iter().filter_map(|it| it["data"].as_object()).flatten().collect();
        let embedded: Vec<_> =
            data.iter().map(|(_, text)| parse_yaml(text.as_str().unwrap()).unwrap()).collect();
        documents.extend(embedded);
        files.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), documents);
    }
    files
}

/// All objects in a value that are wanted.
fn find<'a>(value: &'a Value, is_wanted: &impl Fn(&Value) -> bool, found: &mut Vec<&'a Value>) {
    if value.is_object() && is_wanted(value) {
        found.push(value);
    }
    match value {
        Value::Object(object) => object.values().for_each(|it| find(it, is_wanted, found)),
        Value::Array(array) => array.iter().for_each(|it| find(it, is_wanted, found)),
        _ => {}
    }
}

fn all(documents: &[Value], is_wanted: impl Fn(&Value) -> bool) -> Vec<&Value> {
    let mut found = Vec::new();
    documents.iter().for_each(|it| find(it, &is_wanted, &mut found));
    found
}

/// Which of the files have something, each time the same as `lazy.yaml`.
fn with_the_same(is_wanted: impl Fn(&Value) -> bool, part: &str) -> Vec<String> {
    let files = files();
    let lazy = all(&files["lazy"], &is_wanted)[0][part].clone();
    assert!(!lazy.is_null(), "{part}");
    let mut with = Vec::new();
    for (file, documents) in &files {
        let found = all(documents, &is_wanted);
        for it in &found {
            assert_eq!(it[part], lazy, "{file}.yaml");
        }
        with.extend((!found.is_empty()).then(|| file.clone()));
    }
    with
}

const OF_ENVOY: [&str; 8] =
    ["brokers", "eager", "ecds", "gateway", "istio-sidecar", "lazy", "sidecar", "tenants"];

#[test]
fn each_has_the_labels_that_the_dashboard_asks_for() {
    let mut expected = [&OF_ENVOY[..], &["istio-gateway", "tls"]].concat();
    expected.sort_unstable();
    assert_eq!(with_the_same(|it| it.get("stats_tags").is_some(), "stats_tags"), expected);
}

#[test]
fn each_writes_the_same_access_log() {
    let is_proxy = |it: &Value| it["@type"].as_str().is_some_and(|it| it.ends_with(".TcpProxy"));
    assert_eq!(with_the_same(is_proxy, "access_log"), [&OF_ENVOY[..], &["tls"]].concat());
}

/// Envoy's own limit is 1024 connections.
#[test]
fn no_cluster_turns_the_1025th_device_away() {
    let is_for_devices = |it: &Value| it.get("connect_timeout").is_some() && it["name"] != "admin";
    assert_eq!(with_the_same(is_for_devices, "circuit_breakers"), [&OF_ENVOY[..], &["tls"]].concat());
}
