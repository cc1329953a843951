//! Whether a package is reproducible: by making it again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::Release;
use crate::digest::Digest;

/// Packages a copy of the source in another folder, with another home and other habits; it has to be the same as `first`.
pub(crate) fn again(release: &Release, first: &Path) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("leveret-elsewhere-").tempdir()?;
    let [source, output, home] = ["source", "output", "home"].map(|name| folder.path().join(name));
    fs::create_dir(&source)?;
    copy(&std::env::current_dir()?, &source, &["target", ".tools", ".git"])?;

    // Another home of Cargo, so that its path differs. What is in it is the same: it need not be downloaded again.
    let cargo_home = home.join("cargo");
    fs::create_dir_all(&cargo_home)?;
    let own_home = PathBuf::from(std::env::var_os("HOME").context("no $HOME")?);
    let own = |variable: &str, folder: &str| {
        std::env::var_os(variable).map_or_else(|| own_home.join(folder), PathBuf::from)
    };
    for entry in fs::read_dir(own("CARGO_HOME", ".cargo"))? {
        let entry = entry?;
        symlink(entry.path(), cargo_home.join(entry.file_name()))?;
    }

    let elsewhere = |command: &mut Command| -> Result<()> {
        command
            .current_dir(&source)
            .envs([("HOME", home.as_os_str()), ("CARGO_HOME", cargo_home.as_os_str())])
            .env("RUSTUP_HOME", own("RUSTUP_HOME", ".rustup"))
            .envs([("USER", "somebody"), ("LOGNAME", "somebody"), ("TZ", "Asia/Kathmandu"), ("LC_ALL", "C")])
            .env("LEVERET_BUILD", &release.build)
            .env("SOURCE_DATE_EPOCH", release.date.to_string())
            .stdout(std::io::stderr());
        let status = command.status()?;
        ensure!(status.success(), "the second package was not made ({status})");
        Ok(())
    };
    elsewhere(Command::new("sh").args(["-c", "umask 077; ./build.sh build"]))?;
    // This program need not be built again: what it writes is pinned by Cargo.lock.
    elsewhere(Command::new(std::env::current_exe()?).arg("--output").arg(&output))?;

    let [first, second] = [first, &output].map(files);
    let (first, second) = (first?, second?);
    let differ = |path: &&String| first.get(*path).map(Digest::hex) != second.get(*path).map(Digest::hex);
    let different: Vec<_> =
        first.keys().chain(second.keys().filter(|path| !first.contains_key(*path))).filter(differ).collect();
    ensure!(different.is_empty(), "not reproducible, these differ: {different:?}");
    Ok(())
}

fn copy(from: &Path, to: &Path, except: &[&str]) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let to = to.join(&name);
        if except.iter().any(|it| name == *it) {
        } else if kind.is_dir() {
            fs::create_dir(&to)?;
            copy(&entry.path(), &to, &[])?;
        } else {
            fs::copy(entry.path(), &to).with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// The digests of all files of a package, by their paths in it.
fn files(package: &Path) -> Result<BTreeMap<String, Digest>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![package.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(package)?.display().to_string();
                files.insert(name, Digest::of(&crate::read(&path)?));
            }
        }
    }
    Ok(files)
}
