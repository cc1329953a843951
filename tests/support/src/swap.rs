//! A filter that a running Envoy has from a file (ECDS), replaced without touching a connection.
//!
//! ```text
//!  FOLDER/leveret-ecds.yaml     what Envoy watches: a file moved in its place is for new connections
//!  FOLDER/modules/HASH.wasm     every module that has served here, so that going back is a swap as any other
//! ```

pub mod storm;

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::envoy::{self, Envoy, Options, Shipped};
use crate::process::wait_until;

/// Where a filter is discovered from, and by whom.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// The file that Envoy watches.
    pub file: PathBuf,
    /// Envoy's admin interface, `HOST:PORT`.
    pub admin: String,
    /// Where Envoy writes its log: the only place where it says why it refuses something.
    pub log: Option<PathBuf>,
}

/// What is to be another way from now on.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The module.
    pub module: Option<PathBuf>,
    /// The filter's own configuration, all of it except what belongs together with Envoy's.
    pub plugin: Option<Value>,
    /// Seconds over which connections of earlier modules end; otherwise they go on until they end by themselves.
    pub drain: Option<u32>,
}

/// A module that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The beginning of its hash.
    pub hash: String,
    /// Its file.
    pub path: PathBuf,
    /// The stamp of its build, if it has served since Envoy started.
    pub stamp: Option<String>,
    /// New connections are this one's.
    pub serves: bool,
    /// Those it has.
    pub connections: u64,
}

impl Discovered {
    /// Starts an Envoy in `folder` that discovers its filter, with this one to begin with. Fails with the reason if Envoy refuses it: then
    /// it would close all clients.
    pub fn start(folder: &Path, shipped: &Shipped, options: &Options) -> Result<(Envoy, Self)> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut filter =
            Self { file: folder.canonicalize()?.join("leveret-ecds.yaml"), admin: String::new(), log: None };
        let (config, mut resources) = shipped.render_discovered(&filter.file)?;
        let (module, _) = filter.keep(&shipped.module)?;
        set_module(plugin(&mut resources)?, &module, None)?;
        filter.move_in_place(&serde_json::to_vec_pretty(&resources)?)?;
        let envoy = Envoy::start(folder, &config, options)?;
        filter.admin = envoy.admin_address().to_owned();
        filter.log = Some(envoy.log_file().to_owned());
        let name = name(&resources)?;
        let looked = || filter.updates(name).ok().filter(|updates| updates.taken + updates.refused > 0);
        let updates = wait_until("Envoy has looked at the filter", PATIENCE, looked)?;
        ensure!(updates.taken > 0, filter.refusal(0));
        Ok((envoy, filter))
    }

    /// Has Envoy take the change; gives what serves then. On an error nothing has changed for anybody, and it says why.
    pub fn swap(&self, change: &Change) -> Result<Kept> {
        // Before anything is made: whether that Envoy is there and discovers it.
        self.updates(name(&self.resources()?)?)?;
        // Two at once would each take the other's outcome for its own.
        let lock = File::create(self.folder()?.join("swap.lock"))?;
        lock.try_lock().context("another swap is under way")?;
        let before = fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let mut resources = envoy::parse_yaml(std::str::from_utf8(&before)?)?;
        let name = name(&resources)?.to_owned();
        let plugin = plugin(&mut resources)?;
        let serving = plugin["vm_config"]["code"]["local"]["filename"].as_str().map(PathBuf::from);
        // So that there is a way back, also to one that was put here by hand.
        if let Some(serving) = serving.as_ref().filter(|module| module.is_file()) {
            self.keep(serving)?;
        }
        let module = change.module.clone().or(serving).context("no module")?;
        let (kept, is_new) = self.keep(&module)?;
        set_module(plugin, &kept, change.drain)?;
        if let Some(keys) = &change.plugin {
            set_keys(plugin, keys)?;
        }
        match self.offer(&name, &serde_json::to_vec_pretty(&resources)?) {
            Ok(()) => Ok(kept),
            Err(refusal) => {
                // Envoy knows it by its hash and does nothing; but it counts it, which the next swap must not take for its own.
                self.exchange(&name, &before)?;
                if is_new {
                    fs::remove_file(&kept.path)?;
                }
                Err(refusal)
            }
        }
    }

    /// The modules that are kept, the one that serves first, then the newest first.
    pub fn kept(&self) -> Result<Vec<Kept>> {
        let mut resources = self.resources()?;
        let serving = plugin(&mut resources)?["vm_config"]["code"]["local"]["filename"].clone();
        let gauges = self.gauges();
        let mut all = Vec::new();
        for entry in fs::read_dir(self.folder()?.join(MODULES))? {
            let path = entry?.path();
            let Some(hash) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else {
                continue;
            };
            let (stamp, connections) = gauges
                .iter()
                .find(|(_, module, _)| *module == hash)
                .map_or((None, 0), |(stamp, _, connections)| (Some(stamp.clone()), *connections));
            let modified = fs::metadata(&path)?.modified()?;
            let serves = serving == json!(path);
            all.push((modified, Kept { hash, path, stamp, serves, connections }));
        }
        all.sort_by_key(|(modified, kept)| (!kept.serves, std::cmp::Reverse(*modified)));
        Ok(all.into_iter().map(|(_, kept)| kept).collect())
    }

    /// Stamp, module and connections, as the module's gauges say.
    fn gauges(&self) -> Vec<(String, String, u64)> {
        let stats = envoy::get(&self.admin, "/stats?filter=leveret_release").unwrap_or_default();
        let gauge = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            let mut parts = name.strip_suffix(".connections")?.rsplit('.');
            let (module, stamp) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            Some((stamp, module, value.parse().ok()?))
        };
        stats.lines().filter_map(gauge).collect()
    }

    /// Moves a file in place; returns when Envoy has taken it on, or says why it has not.
    fn offer(&self, name: &str, file: &[u8]) -> Result<()> {
        let log_start = self.log_length();
        if self.exchange(name, file)? {
            return Ok(());
        }
        bail!(self.refusal(log_start))
    }

    fn refusal(&self, log_start: usize) -> String {
        match self.log_since(log_start).as_deref().and_then(reason) {
            Some(reason) => format!("Envoy refuses it: {reason}"),
            None => "Envoy refuses it; its log says why".to_owned(),
        }
    }

    fn resources(&self) -> Result<Value> {
        let text =
            fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        envoy::parse_yaml(&text)
    }

    /// Moves a file in place; whether Envoy has taken it on.
    fn exchange(&self, name: &str, file: &[u8]) -> Result<bool> {
        let before = self.updates(name)?;
        self.move_in_place(file)?;
        let after = wait_until("Envoy has looked at the new file", PATIENCE, || {
            self.updates(name).ok().filter(|after| *after != before)
        })?;
        Ok(after.taken > before.taken)
    }

    fn updates(&self, name: &str) -> Result<Updates> {
        let prefix = format!("extension_config_discovery.network_filter.{name}.");
        let stats = envoy::get(&self.admin, "/stats?filter=extension_config_discovery")?;
        ensure!(stats.contains(&prefix), "the Envoy at {} has no discovered filter {name:?}", self.admin);
        let count = |what: &str| -> u64 {
            let value = stats
                .lines()
                .find_map(|line| line.strip_prefix(&prefix)?.strip_prefix(what)?.strip_prefix(": "));
            value.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        Ok(Updates {
            taken: count("update_success"),
            refused: count("update_rejected") + count("update_failure"),
        })
    }

    fn log_length(&self) -> usize {
        self.log.as_ref().and_then(|log| fs::metadata(log).ok()).map_or(0, |log| log.len() as usize)
    }

    fn log_since(&self, start: usize) -> Option<String> {
        let log = fs::read(self.log.as_ref()?).ok()?;
        Some(String::from_utf8_lossy(log.get(start..)?).into_owned())
    }

    /// A copy of a module under its hash, and whether there was none before.
    fn keep(&self, module: &Path) -> Result<(Kept, bool)> {
        let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
        let digest = Sha256::digest(&bytes);
        let hash: String = digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let folder = self.folder()?.join(MODULES);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(&hash).with_extension("wasm");
        let is_new = !path.exists();
        if is_new {
            let written = path.with_extension("new");
            fs::write(&written, bytes)?;
            fs::rename(&written, &path)?;
        }
        Ok((Kept { hash, path, stamp: None, serves: true, connections: 0 }, is_new))
    }

    /// A new file is its owner's alone, since there can be passwords in it; another version has the mode and the owner of the
    /// one before, since Envoy may be somebody else.
    fn move_in_place(&self, bytes: &[u8]) -> Result<()> {
        let put = || -> Result<()> {
            let mut written = NamedTempFile::new_in(self.folder()?)?;
            written.write_all(bytes)?;
            match fs::metadata(&self.file) {
                Ok(before) => {
                    chown(written.path(), Some(before.uid()), Some(before.gid()))?;
                    written.as_file().set_permissions(before.permissions())?;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            written.persist(&self.file)?;
            Ok(())
        };
        put().with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// With links resolved: Envoy is told where the modules are.
    fn folder(&self) -> Result<PathBuf> {
        let folder = self.file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))
    }
}

/// What Envoy has done with the files it was given so far.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Updates {
    taken: u64,
    refused: u64,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hash, path, stamp, serves, connections } = self;
        let stamp = stamp.as_deref().unwrap_or("-");
        let serves = if *serves { "serves" } else { "kept  " };
        write!(f, "{serves}  {hash}  {stamp:24}  {connections:6} connections  {}", path.display())
    }
}

fn name(resources: &Value) -> Result<&str> {
    resources["resources"][0]["name"].as_str().context("the file names no filter")
}

fn plugin(resources: &mut Value) -> Result<&mut Value> {
    let all = resources["resources"].as_array().map_or(0, Vec::len);
    ensure!(all == 1, "one filter expected in the file, not {all}");
    resources.pointer_mut("/resources/0/typed_config/config").context("the file's filter is no wasm filter")
}

fn set_module(plugin: &mut Value, module: &Kept, drain: Option<u32>) -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let mut told = json!({ "module": module.hash, "since": since });
    if let Some(seconds) = drain {
        told["drain"] = json!(seconds);
    }
    let vm = plugin.get_mut("vm_config").context("the filter has no vm_config")?;
    vm["code"] = json!({ "local": { "filename": module.path } });
    vm["configuration"] = string_value(&told);
    Ok(())
}

fn set_keys(plugin: &mut Value, keys: &Value) -> Result<()> {
    let serving = plugin["configuration"]["value"].as_str().unwrap_or("{}");
    let serving: Value = serde_json::from_str(serving).context("the filter's configuration is not JSON")?;
    let mut keys = keys.as_object().ok_or_else(|| anyhow!("not a map of the filter's keys"))?.clone();
    for key in OF_ENVOY {
        let Some(is) = serving.get(key) else { continue };
        let wanted = keys.entry(key).or_insert_with(|| is.clone());
        ensure!(wanted == is, "{key} goes with Envoy's own configuration: {is} here, not {wanted}");
    }
    plugin["configuration"] = string_value(&Value::Object(keys));
    Ok(())
}

fn string_value(json: &Value) -> Value {
    json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": json.to_string() })
}

/// Envoy's first complaint, in its own words.
fn reason(log: &str) -> Option<String> {
    let told = |line: &str| line.split_once("update rejected: ").map(|(_, reason)| reason.to_owned());
    envoy::complaint(log).map(str::to_owned).or_else(|| log.lines().find_map(told))
}

/// Keys that a swap cannot change: the rest of Envoy's configuration is made for them.
const OF_ENVOY: [&str; 2] = ["connect_mode", "local_reply_cluster"];
const MODULES: &str = "modules";
/// Of SHA-256: enough to tell the modules of one folder apart.
const HASH_BYTES: usize = 6;
/// Compiling a module takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
