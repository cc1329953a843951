//! Leveret's filters in a configuration of Envoy's.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::{Chain, Plugin};

/// Whether `document` is Envoy's, or something around it such as Istio's, rather than the plugin's own.
pub(super) fn is_envoys(document: &Value) -> bool {
    const KEYS: [&str; 13] = [
        "static_resources",
        "staticResources",
        "dynamic_resources",
        "dynamicResources",
        "resources",
        "admin",
        "node",
        "@type",
        "filter_chains",
        "filterChains",
        "typed_config",
        "typedConfig",
        "apiVersion",
    ];
    document.as_object().is_some_and(|object| KEYS.iter().any(|key| object.contains_key(*key)))
}

/// All of Leveret's filters in `document`, in its order; the document stands `at` this place, if it is not the whole file.
pub(super) fn filters(document: &Value, at: &str) -> Vec<Plugin> {
    let mut found = Vec::new();
    walk(document, at.to_owned(), None, &mut found);
    let clusters = clusters(document);
    found.iter_mut().for_each(|plugin| plugin.clusters = clusters.clone());
    found
}

/// `None` where the document is not all there is: no bootstrap, or one whose clusters are discovered.
fn clusters(document: &Value) -> Option<Rc<[String]>> {
    let resources = document.get("static_resources").or_else(|| document.get("staticResources"))?;
    let discovered = document.get("dynamic_resources").or_else(|| document.get("dynamicResources"));
    if discovered.is_some_and(|it| it.get("cds_config").or_else(|| it.get("cdsConfig")).is_some()) {
        return None;
    }
    let clusters = resources.get("clusters").and_then(Value::as_array).into_iter().flatten();
    Some(clusters.filter_map(|it| it.get("name")?.as_str().map(str::to_owned)).collect())
}

/// `chain` is the filter chain that `value` stands in. The parser has bounded the depth.
fn walk(value: &Value, at: String, chain: Option<&Map<String, Value>>, found: &mut Vec<Plugin>) {
    match value {
        Value::Object(object) => {
            if let Some(config) = wasm_config(object) {
                if is_leverets(config) {
                    let chain = chain.map(Chain::of).unwrap_or_default();
                    found.push(Plugin { at: Some(at), json: configuration(config), chain, clusters: None });
                }
                return;
            }
            for (key, value) in object {
                let dot = if at.is_empty() { "" } else { "." };
                let chain = if key == "filters" { Some(object) } else { chain };
                walk(value, format!("{at}{dot}{key}"), chain, found);
            }
        }
        Value::Array(array) => {
            for (n, value) in array.iter().enumerate() {
                let name = value.get("name").and_then(Value::as_str);
                walk(
                    value,
                    format!("{at}[{}]", name.map_or_else(|| n.to_string(), str::to_owned)),
                    chain,
                    found,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The `config` of a wasm network filter: as it is, or in a `TypedStruct`, as control planes write it.
fn wasm_config(object: &Map<String, Value>) -> Option<&Value> {
    let is_wasm = |key: &[&str]| {
        key.iter().find_map(|key| object.get(*key)?.as_str()).is_some_and(|name| name.ends_with(WASM))
    };
    if is_wasm(&["@type"]) {
        object.get("config")
    } else if is_wasm(&["type_url", "typeUrl"]) {
        object.get("value")?.get("config")
    } else {
        None
    }
}

/// A filter is ours when anything about it but its configuration says so: its name, its VM, or the module's file.
fn is_leverets(config: &Value) -> bool {
    let mut config = config.clone();
    if let Some(object) = config.as_object_mut() {
        object.remove("configuration");
    }
    config.to_string().contains("leveret")
}

fn configuration(config: &Value) -> Result<String, String> {
    let Some(given) = config.get("configuration").filter(|given| !given.is_null()) else {
        return Ok(String::new());
    };
    let is_text = given
        .get("@type")
        .and_then(Value::as_str)
        .is_some_and(|name| name.ends_with("google.protobuf.StringValue"));
    let unknown =
        given.as_object().and_then(|it| it.keys().find(|key| !["@type", "value"].contains(&key.as_str())));
    match given.get("value") {
        _ if is_text && unknown.is_some() => {
            Err(format!("`configuration` has the key `{}`, which is none of StringValue's", unknown.map_or("", |it| it)))
        }
        Some(Value::String(text)) if is_text => Ok(text.clone()),
        None if is_text => Ok(String::new()),
        _ => Err("`configuration` has to be a google.protobuf.StringValue that holds JSON: Envoy passes on nothing else as it is"
            .to_owned()),
    }
}

const WASM: &str = "envoy.extensions.filters.network.wasm.v3.Wasm";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wasm(name: &str, configuration: Value) -> Value {
        let config = json!({ "name": name, "configuration": configuration });
        json!({ "@type": format!("type.googleapis.com/{WASM}"), "config": config })
    }

    fn text(json: &str) -> Value {
        json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": json })
    }

    #[test]
    fn filters_are_found_wherever_they_stand() {
        let ecds = json!({ "resources": [{ "name": "edge", "typed_config": wasm("leveret", text("{}")) }] });
        let typed_struct = json!({ "apiVersion": "x", "patch": { "value": { "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": format!("type.googleapis.com/{WASM}"),
            "value": wasm("leveret", text("{}")) } } } });
        for (document, at) in
            [(ecds, "resources[edge].typed_config"), (typed_struct, "patch.value.typed_config")]
        {
            assert!(is_envoys(&document));
            let found = filters(&document, "");
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].at.as_deref(), Some(at));
            assert_eq!(found[0].json.as_deref(), Ok("{}"));
        }
    }

    #[test]
    fn other_people_s_filters_are_not_ours() {
        assert!(filters(&json!({ "a": wasm("rate-limit", text("leveret")) }), "").is_empty());
    }

    #[test]
    fn a_struct_and_a_misspelt_key_are_refused() {
        let misspelt = json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "vaule": "{}" });
        let error = filters(&wasm("leveret", misspelt), "")[0].json.clone().unwrap_err();
        assert!(error.contains("`vaule`"), "{error}");
        let given =
            json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": { "vhost": "a" } });
        assert!(filters(&wasm("leveret", given), "")[0].json.is_err());
        assert_eq!(filters(&json!([wasm("leveret", Value::Null)]), "")[0].at.as_deref(), Some("[0]"));
    }
}
