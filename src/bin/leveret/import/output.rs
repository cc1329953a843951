//! Files that hold secrets: for their owner only, and never over somebody's work.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

use super::envoy::Envoy;

/// Writes both files, and gives their names.
pub(super) fn write(folder: &Path, force: bool, envoy: &Envoy) -> Result<Vec<String>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut names = Vec::new();
    for (name, text) in [("envoy.yaml", envoy.yaml()?), ("leveret.json", envoy.json()?)] {
        let path = folder.join(name);
        write_file(&path, force, &text).with_context(|| format!("cannot write {}", path.display()))?;
        names.push(path.display().to_string());
    }
    Ok(names)
}

fn write_file(path: &Path, force: bool, text: &str) -> Result<()> {
    if force && path.exists() {
        // Not truncated in place: its permissions may be wider than ours.
        fs::remove_file(path)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow!("it is there already; --force overwrites it"),
        _ => error.into(),
    })?;
    Ok(file.write_all(text.as_bytes())?)
}
