//! Plugin configurations in a file: the plugin's own, or those in a configuration of Envoy's.

mod envoy;

use serde_json::Value;

use crate::{Wrong, document};

/// One of them.
pub(crate) struct Plugin {
    /// Where the filter stands in Envoy's configuration; `None` when the file is the plugin's.
    pub(crate) at: Option<String>,
    /// Its JSON, or what is wrong with the way it is given.
    pub(crate) json: Result<String, String>,
}

/// All that there are in `text`, which is JSON or YAML: at least one.
pub(crate) fn configurations(text: &str) -> Result<Vec<Plugin>, Wrong> {
    let documents = document::parse(text)?;
    if !documents.iter().any(envoy::is_envoys) {
        return plugins_own(text, &documents);
    }
    let plugins: Vec<_> = documents.iter().flat_map(envoy::filters).collect();
    if plugins.is_empty() {
        return Err(Wrong("Envoy's configuration, but no wasm filter of Leveret's in it".to_owned()));
    }
    Ok(plugins)
}

fn plugins_own(text: &str, documents: &[Value]) -> Result<Vec<Plugin>, Wrong> {
    let [plugin] = documents else {
        return Err(Wrong("expected one plugin configuration, or Envoy's configuration".to_owned()));
    };
    // As it stands where it is JSON, for a key that is there twice.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let json = if is_json { text.to_owned() } else { plugin.to_string() };
    Ok(vec![Plugin { at: None, json: Ok(json) }])
}
