//! The Grafana dashboard asks for metrics and labels that there are, and leaves none out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail anywhere")]

use std::collections::{BTreeMap, BTreeSet};

use leveret::Metric;
use leveret::metrics::Kind;
use serde_json::Value;

/// Metrics as Prometheus has them, with their labels, as the shipped `stats_tags` make them of the filter's names.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for metric in Metric::ALL {
        let (name, labels): (String, &[&str]) = match metric.name().split('.').collect::<Vec<_>>()[..] {
            ["connack", _] => ("connack".into(), &["code"]),
            ["closed", _] => ("closed".into(), &["reason"]),
            ["malformed", _] => ("malformed".into(), &["kind"]),
            [what @ ("refused" | "denied"), "by", _] => (format!("{what}_by"), &["rule"]),
            ["denied", _] => ("denied".into(), &["packet"]),
            [what @ ("messages" | "bytes"), _, _] => (what.into(), &["direction", "qos"]),
            [what @ ("retained" | "wills"), _] => (what.into(), &["what"]),
            [name] => (name.into(), &[]),
            _ => panic!("{metric:?} is of no known shape"),
        };
        let names = match metric.kind() {
            Kind::Histogram => vec![format!("leveret_{name}_bucket")],
            Kind::Counter | Kind::Gauge => vec![format!("leveret_{name}")],
        };
        let labels = labels.iter().chain(&["tenant", "le"]).map(|label| (*label).to_owned());
        for name in names {
            metrics.entry(name).or_default().extend(labels.clone());
        }
    }
    metrics
}

fn targets(dashboard: &Value) -> Vec<(&str, &str)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|it| (it["expr"].as_str().unwrap(), it["legendFormat"].as_str().unwrap())).collect()
}

/// Words of an expression.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[test]
fn the_dashboard_shows_all_metrics_and_no_others() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let metrics = metrics();
    let mut shown = BTreeSet::new();
    for (expression, legend) in targets(&dashboard) {
        let Some(name) = words(expression).find(|word| word.starts_with("leveret_")) else {
            assert!(expression.starts_with("envoy_"), "{expression}");
            continue;
        };
        let labels = metrics.get(name).unwrap_or_else(|| panic!("there is no {name}: {expression}"));
        let grouped = expression.split_once(" by (").and_then(|(_, rest)| rest.split_once(')'));
        let by: Vec<&str> = grouped.map(|(by, _)| by.split(", ").collect()).unwrap_or_default();
        for label in &by {
            assert!(labels.contains(*label), "{name} has no label {label}");
        }
        for label in legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(it, _)| it) {
            assert!(by.contains(&label), "{legend} of {expression}");
        }
        shown.insert(name.to_owned());
    }
    assert_eq!(shown, metrics.into_keys().collect(), "all that there is");
}
