//! The filter's module: where it is, and what it shows without being run.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The shipped module, compiled once in a process.
///
/// `LEVERET_WASM` names a module file to use as it is. Without it cargo builds one, every time, so that no
/// test ever passes on the code of yesterday; into a target folder of its own, because the cargo that runs the
/// tests may hold the lock of the usual one.
pub fn shipped() -> &'static Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| match std::env::var_os("LEVERET_WASM") {
        Some(path) => Module::load(Path::new(&path)),
        None => Module::load(&build(&[])),
    })
}

/// The module with the `trap` feature, for the tests of what a trap costs.
pub fn trapping() -> &'static Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| Module::load(&build(&["--features", "trap"])))
}

/// A module's bytes and its machine code.
pub struct Module {
    bytes: Vec<u8>,
    pub(crate) compiled: wasmtime::Module,
}

impl Module {
    /// Reads and compiles a module file.
    pub fn load(path: &Path) -> Self {
        let bytes =
            std::fs::read(path).unwrap_or_else(|error| panic!("no module at {}: {error}", path.display()));
        let mut config = wasmtime::Config::new();
        config.consume_fuel(true);
        let engine = wasmtime::Engine::new(&config).expect("a usable wasmtime");
        let compiled = wasmtime::Module::new(&engine, &bytes).expect("a valid module");
        Self { bytes, compiled }
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the module wants from the proxy, as `module.name`.
    pub fn imports(&self) -> Vec<String> {
        self.compiled.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect()
    }

    /// What the proxy finds in the module.
    pub fn exports(&self) -> Vec<String> {
        self.compiled.exports().map(|export| export.name().to_owned()).collect()
    }

    /// Whether the file contains these bytes.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.bytes.windows(bytes.len()).any(|window| window == bytes)
    }
}

fn build(arguments: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("target/module").join(arguments.concat().replace('-', ""));
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&root)
        .args(["build", "--quiet", "--release", "--package", "leveret-mqtt-amqp"])
        .args(["--target", "wasm32-unknown-unknown", "--target-dir"])
        .arg(&target)
        .args(arguments)
        .status()
        .expect("cargo, to build the module");
    assert!(status.success(), "the module does not build");
    target.join("wasm32-unknown-unknown/release/leveret_mqtt_amqp.wasm")
}
