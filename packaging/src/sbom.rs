//! The bill of materials, in CycloneDX's JSON.
//!
//! What is linked into the module is what Cargo says it compiled for the module's target: no resolution of
//! features that would have to be the same as the build's, nothing of build scripts, macros, tests and the command.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cargo_lock::Lockfile;
use cargo_metadata::{CargoOpt, Message, MetadataCommand, Package, PackageId};
use serde_json::{Value, json};

use crate::Release;
use crate::digest::Digest;

const TARGET: &str = "wasm32-unknown-unknown";
/// The package whose library is the module.
const MODULE: &str = "leveret-mqtt-amqp";

/// The bill of a module, from the messages of Cargo's that accompanied its build.
pub(crate) fn of(release: &Release, messages: &[u8]) -> Result<Value> {
    let linked = linked(messages)?;
    // Only to know more of packages that are linked: it resolves for the whole workspace.
    let metadata = MetadataCommand::new()
        .features(CargoOpt::SomeFeatures(Vec::new()))
        .other_options(["--locked", "--filter-platform", TARGET].map(str::to_owned))
        .exec()?;
    let lock = Lockfile::load(metadata.workspace_root.join("Cargo.lock"))?;
    let packages: BTreeMap<&PackageId, &Package> =
        metadata.packages.iter().filter(|it| linked.contains(&it.id)).map(|it| (&it.id, it)).collect();
    ensure!(packages.len() == linked.len(), "cargo metadata does not know all packages that were built");

    let resolve = metadata.resolve.context("cargo metadata resolved nothing")?;
    let toolchain = Toolchain::in_use()?;
    let mut dependencies = BTreeMap::new();
    for node in resolve.nodes.iter().filter(|node| linked.contains(&node.id)) {
        let needs = node.deps.iter().filter_map(|it| packages.get(&it.pkg));
        let needs: BTreeSet<String> =
            needs.map(|it| reference(it)).chain([toolchain.reference.clone()]).collect();
        let package = packages.get(&node.id).context("a node without a package")?;
        dependencies.insert(reference(package), needs);
    }
    dependencies.insert(toolchain.reference.clone(), BTreeSet::new());
    let (modules, libraries): (Vec<&Package>, Vec<_>) =
        packages.into_values().partition(|it| it.name.as_str() == MODULE);
    let module = modules.first().context("the module is not among what was built")?;
    let mut components: Vec<Value> = libraries.into_iter().map(|it| component(it, &lock)).collect();
    components.push(toolchain.component());
    components.sort_by_key(|it| it["bom-ref"].to_string());

    let mut described = component(module, &lock);
    described["name"] = json!("leveret");
    described["hashes"] = json!([{ "alg": "SHA-256", "content": Digest::of(&release.module).hex() }]);
    described["properties"] = json!([{ "name": "leveret:build", "value": release.build }]);
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": release.date(),
            "lifecycles": [{ "phase": "build" }],
            "component": described,
        },
        "components": components,
        "dependencies": dependencies
            .iter()
            .map(|(reference, needs)| json!({ "ref": reference, "dependsOn": needs }))
            .collect::<Vec<_>>(),
    }))
}

/// Cargo keeps what it builds for a target in a folder of that name, and what runs during the build beside it.
fn linked(messages: &[u8]) -> Result<BTreeSet<PackageId>> {
    let mut linked = BTreeSet::new();
    for message in Message::parse_stream(messages) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.filenames.iter().any(|path| path.components().any(|it| it.as_str() == TARGET))
        {
            linked.insert(artifact.package_id);
        }
    }
    Ok(linked)
}

fn component(package: &Package, lock: &Lockfile) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name.as_str(),
        "version": package.version.to_string(),
        "scope": "required",
        "purl": reference(package),
    });
    if let Some(text) = &package.description {
        component["description"] = json!(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if let Some(license) = &package.license {
        // Cargo's older way to say OR.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(url) = &package.repository {
        component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
    }
    let locked = lock.packages.iter().find(|it| {
        it.name.as_str() == package.name.as_str() && it.version.to_string() == package.version.to_string()
    });
    if let Some(checksum) = locked.and_then(|it| it.checksum.as_ref()) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum.to_string() }]);
    }
    component
}

/// A package URL; nothing is linked in the same version from two places.
fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// The compiler, whose standard library is in the module, too.
struct Toolchain {
    reference: String,
    version: String,
    commit: String,
}

impl Toolchain {
    fn in_use() -> Result<Self> {
        let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
        let text = String::from_utf8(output.stdout)?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("rustc -vV does not say {name}"))
        };
        let version = field("release")?;
        let reference = format!("pkg:generic/rust-std@{version}");
        Ok(Self { reference, version, commit: field("commit-hash")? })
    }

    fn component(&self) -> Value {
        json!({
            "type": "library",
            "bom-ref": self.reference,
            "name": "rust-std",
            "version": self.version,
            "description": "Rust's standard library (std, alloc, core and what they link), as it comes with the compiler",
            "scope": "required",
            "purl": self.reference,
            "licenses": [{ "expression": "MIT OR Apache-2.0" }],
            "externalReferences": [{ "type": "vcs", "url": "https://github.com/rust-lang/rust", "comment": self.commit }],
        })
    }
}
