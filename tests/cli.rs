//! The command as an operator runs it: the built binary, over files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail anywhere, in its own helpers too"
)]

#[path = "cli/check.rs"]
mod check;
#[path = "cli/explain.rs"]
mod explain;
#[path = "cli/import.rs"]
mod import;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// What a run of the command gave.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }
}

fn leveret(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    // build.sh says with it where its module is.
    let output = command.args(arguments).env_remove("LEVERET_WASM").output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!err.contains("panicked"), "{arguments:?}: {err}");
    Ran { code: output.status.code(), out, err }
}

/// A file in tests/cli/.
fn fixture(name: &str) -> String {
    root("tests/cli").join(name).to_str().unwrap().to_owned()
}

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file of a test's own.
fn file(folder: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn help_teaches_and_usage_is_exit_code_2() {
    for (arguments, says) in [
        (&["--help"][..], "Exit codes"),
        (&["check", "--help"], "leveret check envoy.yaml"),
        (&["check", "--help"], "Exit codes: 0 the filter takes all of them"),
        (&["import", "--help"], "Exit codes: 0 it is made"),
        (&["explain", "--help"], "Exit codes: 0 permitted, 3 denied or refused"),
        (&["import", "--help"], "rabbitmqctl export_definitions"),
    ] {
        let ran = leveret(arguments);
        assert!(ran.code == Some(0) && ran.out.contains(says), "{arguments:?}: {}", ran.out);
    }
    for arguments in [
        &[][..],
        &["check"],
        &["explain"],
        &["explain", "a", "--password-file", "whose"],
        &["explain", "a", "--username", "b", "--password", "seen-by-all"],
        &["explain", "a", "--address", "nowhere"],
        &["explain", "a", "--clean-session", "--persistent"],
        &["explain", "a", "publish", "a/+"],
        &["explain", "a", "subscribe", "a", "--qos", "3"],
        &["import"],
        &["import", "--conf", "a", "--broker", "b"],
        &["no-such"],
    ] {
        assert_eq!(leveret(arguments).code, Some(2), "{arguments:?}");
    }
}
