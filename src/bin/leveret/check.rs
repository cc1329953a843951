//! `leveret check`: are the configurations in a file what the filter takes, and can it rely on what it goes by?

mod certificates;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use leveret::Config;
use leveret::config::ConnectMode;
use serde::Serialize;
use serde_json::json;

use crate::plugin::{self, Plugin};
use crate::{WRONG, Wrong, document, print_json};

/// Validates a configuration, and points at the key that is wrong
///
/// FILE is a plugin configuration (JSON, or the same in YAML), or a configuration of Envoy's, YAML or JSON. In the latter each
/// wasm filter of Leveret's is found wherever it stands, in listeners, in files of resources, in those of a Kubernetes ConfigMap
/// or Secret and in Istio's manifests, and its configuration is read as the filter does.
///
/// A filter that goes by client certificates is warned of where its filter chain has no TLS, or does not verify them: no trusted_ca,
/// or ACCEPT_UNTRUSTED; a filter whose `connect_mode` is lazy, where the tcp_proxy connects at once; and one that names a cluster which
/// is not there. What SDS brings is not seen, nor is the chain of a filter that ECDS brings. Warnings leave the exit code as it is.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 the filter takes all of them, 1 it does not, or there is none, 2 the command line is wrong or a file cannot be read.

Examples:
  leveret check envoy.yaml
  leveret check leveret.json && mv leveret.json /etc/envoy/
  leveret check --json envoy.yaml | jq '.configurations[] | select((.ok | not) or .warnings != [])'"
)]
pub(crate) struct Check {
    /// What to validate
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What there is to say about one configuration.
#[derive(Serialize)]
struct Finding {
    file: String,
    /// Where the filter stands in Envoy's configuration; `None` when the file is the plugin's.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What the filter takes, and the operator may not mean.
    warnings: Vec<String>,
}

impl Check {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode> {
        let found: Vec<_> = self.files.iter().map(|path| findings(path)).collect();
        if !json {
            // Those of the other files are told, too, when one cannot be read.
            found.iter().flatten().try_for_each(|findings| print(findings))?;
        }
        let findings: Vec<_> = found.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        if json {
            print_json(&json!({ "configurations": findings }))?;
        }
        Ok(if findings.iter().all(|finding| finding.ok) { ExitCode::SUCCESS } else { WRONG.into() })
    }
}

fn findings(path: &Path) -> Result<Vec<Finding>> {
    let file = path.display().to_string();
    let found = configurations(&document::read(path)?).with_context(|| file.clone())?;
    let finding = |Judged { filter, error, warnings }| Finding {
        file: file.clone(),
        filter,
        ok: error.is_none(),
        error,
        warnings,
    };
    Ok(found.into_iter().map(finding).collect())
}

fn print(findings: &[Finding]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for finding in findings {
        let place = match &finding.filter {
            Some(filter) => format!("{}: {filter}", finding.file),
            None => finding.file.clone(),
        };
        writeln!(out, "{place}: {}", finding.error.as_deref().unwrap_or("OK"))?;
        for warning in &finding.warnings {
            writeln!(out, "{place}: warning: {warning}")?;
        }
    }
    Ok(())
}

/// A configuration, and what there is to say about it.
struct Judged {
    filter: Option<String>,
    error: Option<String>,
    warnings: Vec<String>,
}

/// Where each configuration in `text` stands, and what is wrong with it.
fn configurations(text: &str) -> Result<Vec<Judged>, Wrong> {
    let plugins = plugin::configurations(text)?;
    Ok(plugins.into_iter().map(judge).collect())
}

fn judge(Plugin { at, json, chain, clusters }: Plugin) -> Judged {
    let taken = json.and_then(|json| match Config::from_json(json.as_bytes()) {
        Ok(config) => {
            let certificates = chain.doubt.and_then(|doubt| certificates::warning(&json, doubt));
            let hangs = chain.connects_at_once && config.connect_mode == ConnectMode::Lazy;
            let missing = clusters.and_then(|clusters| missing_cluster(&config, &clusters));
            Ok([certificates, hangs.then(|| HANGS.to_owned()), missing].into_iter().flatten().collect())
        }
        Err(e) => Err(e.to_string()),
    });
    let (error, warnings) = match taken {
        Ok(warnings) => (None, warnings),
        Err(error) => (Some(error), Vec::new()),
    };
    Judged { filter: at, error, warnings }
}

/// The first that the configuration names and the file has not: who is sent there is closed without a word.
fn missing_cluster(config: &Config, clusters: &[String]) -> Option<String> {
    let tenants = config.policy.tenants.iter().enumerate();
    let named = tenants.map(|(n, (_, tenant))| (format!("tenants[{n}].cluster"), tenant.cluster.as_deref()));
    let local = ("local_reply_cluster".to_owned(), config.local_reply_cluster.as_deref());
    let mut named = [local].into_iter().chain(named).filter_map(|(key, name)| Some((key, name?)));
    let (key, name) = named.find(|(_, name)| !clusters.iter().any(|it| it == name))?;
    Some(format!("there is no cluster {name:?}, which {key} names, in static_resources"))
}

const HANGS: &str = "no client gets in, since the tcp_proxy connects before it reads and `connect_mode` is lazy. \
    Give the tcp_proxy `upstream_connect_mode: ON_DOWNSTREAM_DATA`, or set `connect_mode` to eager";

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(text: &str) -> Vec<String> {
        match configurations(text) {
            Ok(all) => all
                .into_iter()
                .map(|Judged { filter, error, .. }| {
                    format!("{}: {}", filter.unwrap_or_default(), error.unwrap_or_else(|| "OK".into()))
                })
                .collect(),
            Err(e) => vec![e.to_string()],
        }
    }

    #[test]
    fn a_plugin_configuration_is_json_or_yaml() {
        for text in ["{}", "{\"prefetch\": 20}", "prefetch: 20\nvhost: a\n", "# nothing\n{}\n"] {
            assert_eq!(verdicts(text), [": OK"], "{text:?}");
        }
        for text in ["{\"prefetch\": 0}", "prefetch: 0\n"] {
            let expected = ": configuration key `prefetch`: expected a whole number from 1 to 65535";
            assert_eq!(verdicts(text), [expected]);
        }
        assert!(verdicts("{\"vhost\": \"a\", \"vhost\": \"b\"}").concat().contains("is there twice"));
        assert!(verdicts("[]").concat().contains("expected a JSON object"));
        assert!(verdicts("").concat().contains("expected"));
        assert!(verdicts("a: 1\n---\nb: 1\n").concat().contains("expected one plugin configuration"));
    }
}
