//! Manifests in which a filter does not stand as in Envoy's own configuration: a ConfigMap or Secret has files of Envoy's, and
//! Istio's WasmPlugin has the plugin's configuration, of which Istio makes Envoy's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Chain, Plugin, envoy};
use crate::document;

/// What is in a list, as kubectl prints it; of anything else, itself.
pub(super) fn items(document: Value) -> Vec<Value> {
    match document {
        Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
            match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        document => vec![document],
    }
}

/// All of Leveret's filters in a manifest; `None` when it is none of these.
pub(super) fn filters(manifest: &Value) -> Option<Vec<Plugin>> {
    let kind = manifest.get("kind")?.as_str()?;
    let name = text(manifest, "/metadata/name").unwrap_or_default();
    let at = format!("{kind}[{name}]");
    Some(match kind {
        "ConfigMap" => texts(manifest, "data").flat_map(|(name, text)| in_file(&at, name, text)).collect(),
        "Secret" => {
            let plain = texts(manifest, "stringData").flat_map(|(name, text)| in_file(&at, name, text));
            let encoded = texts(manifest, "data").filter_map(|(name, text)| {
                Some((name, String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?))
            });
            plain.chain(encoded.flat_map(|(name, text)| in_file(&at, name, &text))).collect()
        }
        "WasmPlugin" => wasm_plugin(&at, name, manifest).into_iter().collect(),
        _ => return None,
    })
}

fn text<'a>(manifest: &'a Value, pointer: &str) -> Option<&'a str> {
    manifest.pointer(pointer)?.as_str()
}

fn texts<'a>(manifest: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let files = manifest.get(key).and_then(Value::as_object);
    files.into_iter().flatten().filter_map(|(name, text)| Some((name.as_str(), text.as_str()?)))
}

fn in_file(manifest: &str, name: &str, text: &str) -> Vec<Plugin> {
    let at = format!("{manifest}.{name}");
    match document::parse(text) {
        Ok(documents) => documents.iter().flat_map(|it| envoy::filters(it, &at)).collect(),
        // There are files of all kinds.
        Err(error)
            if text.contains("leveret") && [".yaml", ".yml", ".json"].iter().any(|it| name.ends_with(it)) =>
        {
            vec![Plugin {
                at: Some(at),
                json: Err(error.to_string()),
                chain: Chain::default(),
                clusters: None,
            }]
        }
        Err(_) => Vec::new(),
    }
}

/// The filter chain is Istio's: nothing is known of certificates, and its tcp_proxy connects at once.
fn wasm_plugin(at: &str, name: &str, manifest: &Value) -> Option<Plugin> {
    let names = [Some(name), text(manifest, "/spec/url"), text(manifest, "/spec/pluginName")];
    let is_ours = names.into_iter().flatten().any(|it| it.contains("leveret"));
    let json = match manifest.pointer("/spec/pluginConfig") {
        None | Some(Value::Null) => String::new(),
        Some(given) => given.to_string(),
    };
    let chain = Chain { connects_at_once: true, ..Chain::default() };
    let at = Some(format!("{at}.spec.pluginConfig"));
    is_ours.then_some(Plugin { at, json: Ok(json), chain, clusters: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn envoys() -> String {
        let wasm = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
            "config": { "name": "leveret" } });
        json!({ "listeners": [{ "name": "mqtt", "filters": [wasm] }] }).to_string()
    }

    #[test]
    fn filters_are_found_in_the_files_of_a_config_map() {
        let files = json!({ "envoy.yaml": envoys(), "leveret.yaml": "leveret: [", "helm.yaml": "a: {{ b }}", "start.sh": "leveret: [" });
        let manifest = json!({ "kind": "ConfigMap", "metadata": { "name": "edge" }, "data": files });
        let found = filters(&manifest).unwrap();
        let [ours, broken] = &found[..] else { panic!("{} filters", found.len()) };
        assert_eq!(ours.at.as_deref(), Some("ConfigMap[edge].envoy.yaml.listeners[mqtt].filters[0]"));
        assert_eq!(ours.json.as_deref(), Ok(""));
        assert_eq!(broken.at.as_deref(), Some("ConfigMap[edge].leveret.yaml"));
        assert!(broken.json.as_ref().is_err_and(|error| error.starts_with("not YAML or JSON at line 1")));
    }

    #[test]
    fn filters_are_found_in_a_secret_however_it_is_written() {
        for (key, text) in [("stringData", envoys()), ("data", STANDARD.encode(envoys()))] {
            let secret =
                json!({ "kind": "Secret", key: { "envoy.yaml": text, "tls.key": "AAAA", "no": "base64!" } });
            let found = items(json!({ "kind": "List", "items": [secret] }))
                .iter()
                .filter_map(filters)
                .flatten()
                .count();
            assert_eq!(found, 1, "{key}");
        }
    }

    #[test]
    fn a_wasm_plugin_of_ours_has_the_plugin_s_configuration() {
        let found = |name: &str, url: &str, configuration: Value| {
            let spec = json!({ "url": url, "pluginConfig": configuration });
            let manifest = json!({ "kind": "WasmPlugin", "metadata": { "name": name }, "spec": spec });
            filters(&manifest).unwrap().into_iter().map(|it| it.json.unwrap()).collect::<Vec<_>>()
        };
        let vhost = json!({ "vhost": "a" });
        assert_eq!(
            found("edge", "oci://registry.example.com/leveret:0.1.0", vhost.clone()),
            [r#"{"vhost":"a"}"#]
        );
        assert_eq!(found("leveret", "oci://registry.example.com/edge:1", Value::Null), [""]);
        assert_eq!(found("edge", "oci://registry.example.com/other:1", vhost), [""; 0]);
        assert!(filters(&json!({ "kind": "Deployment", "data": {} })).is_none());
    }
}
