//! Plugin configurations in a file: the plugin's own, or those in a configuration of Envoy's.

mod chain;
mod envoy;
mod kubernetes;

use std::rc::Rc;

use serde_json::Value;

use crate::{Wrong, document};

pub(crate) use chain::{Chain, Doubt};

/// One of them.
pub(crate) struct Plugin {
    /// Where the filter stands in Envoy's configuration, or in a manifest; `None` when the file is the plugin's.
    pub(crate) at: Option<String>,
    /// Its JSON, or what is wrong with the way it is given.
    pub(crate) json: Result<String, String>,
    /// What is around it.
    pub(crate) chain: Chain,
    /// The names of Envoy's clusters, where all of them are in the file.
    pub(crate) clusters: Option<Rc<[String]>>,
}

/// All that there are in `text`, which is JSON or YAML: at least one.
pub(crate) fn configurations(text: &str) -> Result<Vec<Plugin>, Wrong> {
    let documents: Vec<_> = document::parse(text)?.into_iter().flat_map(kubernetes::items).collect();
    if !documents.iter().any(envoy::is_envoys) {
        return plugins_own(text, &documents);
    }
    let filters = |document| kubernetes::filters(document).unwrap_or_else(|| envoy::filters(document, ""));
    let plugins: Vec<_> = documents.iter().flat_map(filters).collect();
    if plugins.is_empty() {
        let is_discovered = ["config_discovery", "configDiscovery"].iter().any(|key| text.contains(key));
        let hint =
            if is_discovered { ". Where one is discovered, check the file that it comes from" } else { "" };
        return Err(Wrong(format!(
            "Envoy's configuration or a manifest, but no wasm filter of Leveret's in it{hint}"
        )));
    }
    Ok(plugins)
}

fn plugins_own(text: &str, documents: &[Value]) -> Result<Vec<Plugin>, Wrong> {
    let [plugin] = documents else {
        return Err(Wrong("expected one plugin configuration, or Envoy's configuration".to_owned()));
    };
    // Who begins with a brace means JSON, and is told what the filter says to the text as it stands: YAML would pass over a mark
    // of the byte order in front, a comma too many, and a key that is there twice.
    let is_json = text.strip_prefix('\u{feff}').unwrap_or(text).trim_start().starts_with('{');
    let json = if is_json { text.to_owned() } else { plugin.to_string() };
    Ok(vec![Plugin { at: None, json: Ok(json), chain: Chain::default(), clusters: None }])
}
