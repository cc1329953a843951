//! Clients written in Python.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a script to its end; what it prints, line by line.
pub(crate) fn run(script: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let output = command(script, arguments)?.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text.lines().map(str::to_owned).collect())
}

/// A script of this folder, to be started.
pub(crate) fn command(script: &str, arguments: &[&str]) -> Result<Command> {
    let python = std::env::var_os("LEVERET_PYTHON").context(
        "LEVERET_PYTHON names no Python with the packages that build.sh lists; ./build.sh test sets it up",
    )?;
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script)).args(arguments);
    Ok(command)
}
