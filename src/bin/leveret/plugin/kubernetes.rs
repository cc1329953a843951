//! Manifests in which a filter does not stand as in Envoy's own configuration: a ConfigMap has files of Envoy's, and Istio's
//! WasmPlugin has the plugin's configuration and makes Envoy's of it.

use serde_json::{Map, Value};

use super::{Plugin, envoy};
use crate::document;

/// All of Leveret's filters in a manifest; `None` when it is neither of the two.
pub(super) fn filters(manifest: &Value) -> Option<Vec<Plugin>> {
    match manifest.get("kind")?.as_str()? {
        "ConfigMap" => Some(manifest.get("data")?.as_object()?.iter().flat_map(in_file).collect()),
        "WasmPlugin" => Some(wasm_plugin(manifest.get("spec")?.as_object()?).into_iter().collect()),
        _ => None,
    }
}

fn in_file((name, text): (&String, &Value)) -> Vec<Plugin> {
    let at = format!("data[{name}]");
    match document::parse(text.as_str().unwrap_or_default()) {
        Ok(documents) => documents.iter().flat_map(|it| envoy::filters(it, &at)).collect(),
        // There are files of all kinds, and only these are meant to be read here.
        Err(error) if [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) => {
            vec![Plugin { at: Some(at), json: Err(error.to_string()), doubt: None }]
        }
        Err(_) => Vec::new(),
    }
}

/// Its filter chain is made by Istio, so nothing is known of certificates.
fn wasm_plugin(spec: &Map<String, Value>) -> Option<Plugin> {
    let is_ours = ["url", "pluginName"]
        .iter()
        .any(|key| spec.get(*key).and_then(Value::as_str).is_some_and(|it| it.contains("leveret")));
    let json = spec.get("pluginConfig").map_or_else(String::new, Value::to_string);
    is_ours.then_some(Plugin { at: Some("spec.pluginConfig".to_owned()), json: Ok(json), doubt: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_are_found_in_the_files_of_a_config_map() {
        let wasm = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
            "config": { "name": "leveret" } });
        let envoy = json!({ "listeners": [{ "name": "mqtt", "filters": [wasm] }] }).to_string();
        let files = json!({ "envoy.yaml": envoy, "other.yaml": "a: [", "start.sh": "a: [" });
        let found = filters(&json!({ "kind": "ConfigMap", "data": files })).unwrap();
        let [ours, other] = &found[..] else { panic!("{} filters", found.len()) };
        assert_eq!(ours.at.as_deref(), Some("data[envoy.yaml].listeners[mqtt].filters[0]"));
        assert_eq!(ours.json.as_deref(), Ok(""));
        assert_eq!(other.at.as_deref(), Some("data[other.yaml]"));
        assert!(other.json.as_ref().is_err_and(|error| error.starts_with("not YAML or JSON at line 1")));
    }

    #[test]
    fn a_wasm_plugin_of_ours_has_the_plugin_s_configuration() {
        let manifest = |url: &str| json!({ "kind": "WasmPlugin", "spec": { "url": url, "pluginConfig": { "vhost": "a" } } });
        let found = filters(&manifest("oci://registry.example.com/leveret:0.1.0")).unwrap();
        assert_eq!(found[0].json.as_deref(), Ok(r#"{"vhost":"a"}"#));
        assert!(filters(&manifest("oci://registry.example.com/other:1")).unwrap().is_empty());
        assert!(filters(&json!({ "kind": "Deployment", "data": {} })).is_none());
    }
}
