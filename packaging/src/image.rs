//! The module as an OCI image.
//!
//! Of the two shapes that loaders of wasm modules know we make the one called "compat": an ordinary image whose only
//! layer holds `plugin.wasm`. Istio and Envoy Gateway fetch it, and unlike the other (an artifact with media types of
//! its own) every registry, every tool, and the image volumes of Kubernetes take it as well.
//!
//! A node refuses an image for another architecture than its own, so there is one for each, of the same layer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::Release;
use crate::digest::Digest;

/// An OCI image layout: the contents of its files by their paths.
pub(crate) struct Image(BTreeMap<String, Vec<u8>>);

const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The image of a release's module.
pub(crate) fn of(release: &Release) -> Result<Image> {
    let mut image = Image(BTreeMap::new());
    let files = tar(release.date, [("plugin.wasm", release.module.as_slice())])?;
    let layer = image.add(LAYER, gzip(&files)?);

    let mut manifests = Vec::new();
    for architecture in ARCHITECTURES {
        let config = json!({
            "created": release.date(),
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&files).oci()] },
            "history": [{ "created": release.date(), "created_by": "leveret" }],
        });
        let config = image.add(CONFIG, config.to_string().into_bytes());
        let mut annotations = annotations(release);
        annotations["module.wasm.image/variant"] = json!("compat");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": annotations,
        });
        let mut manifest = image.add(MANIFEST, manifest.to_string().into_bytes());
        manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
        manifests.push(manifest);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
        "annotations": annotations(release),
    });
    let mut index = image.add(INDEX, index.to_string().into_bytes());
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": release.version });
    let entrance = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [index] });
    image.0.insert("index.json".to_owned(), entrance.to_string().into_bytes());
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    image.0.insert("oci-layout".to_owned(), version.to_string().into_bytes());
    Ok(image)
}

impl Image {
    /// Adds a blob; what names it from another.
    fn add(&mut self, media_type: &str, blob: Vec<u8>) -> Value {
        let digest = Digest::of(&blob);
        let descriptor = json!({ "mediaType": media_type, "digest": digest.oci(), "size": blob.len() });
        self.0.insert(format!("blobs/sha256/{}", digest.hex()), blob);
        descriptor
    }

    /// Writes it as a folder.
    pub(crate) fn write_layout(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            // Blobs of another build would stay, and nothing would name them.
            fs::remove_dir_all(folder).with_context(|| format!("cannot replace {}", folder.display()))?;
        }
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
        self.0.iter().try_for_each(|(path, bytes)| crate::write(&folder.join(path), bytes))
    }

    /// All of it in one file.
    pub(crate) fn archive(&self, date: u64) -> Result<Vec<u8>> {
        tar(date, self.0.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())))
    }
}

fn annotations(release: &Release) -> Value {
    json!({
        "org.opencontainers.image.title": "leveret",
        "org.opencontainers.image.description": "MQTT at the edge for any AMQP 0-9-1 broker: a filter for Envoy",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.revision": release.build,
        "org.opencontainers.image.created": release.date(),
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
    })
}

/// An archive in which nothing depends on who makes it, nor when: everything is root's, of one date, in this order.
fn tar<'a>(date: u64, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(date);
        header.set_size(bytes.len().try_into()?);
        archive.append_data(&mut header, path, bytes)?;
    }
    Ok(archive.into_inner()?)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // 255 is "unknown": by default the header names the operating system.
    let builder = GzBuilder::new().mtime(0).operating_system(255);
    let mut encoder = builder.write(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut encoder, bytes)?;
    Ok(encoder.finish()?)
}
