//! Where the probe's module is, and how it gets there when nobody has built it before.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// `$LEVERET_PROBE`, or what `build.sh test` has built, or built now.
pub(crate) fn probe() -> PathBuf {
    static PROBE: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(given) = std::env::var_os("LEVERET_PROBE").filter(|path| !path.is_empty()) {
            return given.into();
        }
        let ready = support::root().join("target/probe.wasm");
        if ready.is_file() { ready } else { build() }
    });
    PROBE.clone()
}

/// Into a target folder of its own: whoever runs this test may hold the lock of the usual one.
fn build() -> PathBuf {
    let target = support::root().join("target/probe");
    let status = Command::new(env!("CARGO"))
        .current_dir(support::root())
        .args([
            "build",
            "--package",
            "probe",
            "--release",
            "--target",
            "wasm32-unknown-unknown",
            "--target-dir",
        ])
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success(), "the probe does not build");
    target.join("wasm32-unknown-unknown/release/probe.wasm")
}
