//! `packaging`: makes a release of the module that `build.sh` has built. `build.sh package` is the door to it.
#![allow(clippy::disallowed_types, reason = "a native program")]

mod digest;
mod image;
mod sbom;
mod verify;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use digest::Digest;

/// Makes a release: the module, and what those need who check, distribute and deploy it.
///
/// The same source gives the same bytes, in whatever folder, on whatever day and by whomever it is packaged.
#[derive(Parser)]
#[command(
    name = "package",
    override_usage = "./build.sh package [OPTIONS]",
    max_term_width = 100,
    after_help = ARTIFACTS
)]
struct Arguments {
    /// Where to; target/package of the source unless given. What a former run has left there is replaced
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Whose paths the arguments are
    #[arg(long, hide = true, env = "CALLED_FROM", default_value = "")]
    called_from: PathBuf,
    /// Makes another from a copy of the source, in another folder with another home, umask and time zone, and compares
    #[arg(long)]
    verify: bool,
    /// The module
    #[arg(long, hide = true, default_value = "target/leveret.wasm")]
    module: PathBuf,
    /// What Cargo said while it built the module
    #[arg(long, hide = true, default_value = "target/leveret.json")]
    messages: PathBuf,
    /// Which build it is; the module logs it when it starts
    #[arg(long, hide = true, env = "LEVERET_BUILD")]
    build: String,
    /// The only date there is, in all artifacts: seconds since 1970
    #[arg(long, hide = true, env = "SOURCE_DATE_EPOCH")]
    date: u64,
}

const ARTIFACTS: &str = "\
Artifacts:
  leveret.wasm         the module
  leveret.wasm.sha256  its checksum, for sha256sum --check and Envoy's code.remote.sha256
  leveret.cdx.json     its bill of materials, CycloneDX 1.6: each crate that is linked into it,
                       with licence and checksum, and Rust's standard library
  leveret-oci/         an OCI image layout: the module as /plugin.wasm in the only layer, as
                       Istio, Envoy Gateway and Kubernetes' image volumes take it; for nodes
                       of amd64 and arm64
  leveret-oci.tar      the same in one file

To a registry:
  skopeo copy --all oci-archive:target/package/leveret-oci.tar docker://HOST/leveret:VERSION

Environment:
  SOURCE_DATE_EPOCH    the date in the artifacts; the last commit's unless set
  LEVERET_BUILD        the name of the build; that commit, or without git the version, unless set";

/// What the artifacts say about the release.
struct Release {
    module: Vec<u8>,
    version: String,
    build: String,
    date: u64,
}

impl Release {
    /// The date as RFC 3339 has it.
    fn date(&self) -> String {
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(self.date);
        humantime::format_rfc3339_seconds(date).to_string()
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let release = Release {
        module: read(&arguments.module)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: arguments.build.clone(),
        date: arguments.date,
    };
    ensure_nothing_of_this_machine(&release.module)?;
    let given = arguments.output.as_ref().map(|output| arguments.called_from.join(output));
    let output = &given.unwrap_or_else(|| "target/package".into());
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;

    let digest = Digest::of(&release.module);
    write(&output.join("leveret.wasm"), &release.module)?;
    write(&output.join("leveret.wasm.sha256"), format!("{}  leveret.wasm\n", digest.hex()).as_bytes())?;
    let sbom = sbom::of(&release, &read(&arguments.messages)?)?;
    write(&output.join("leveret.cdx.json"), format!("{sbom:#}\n").as_bytes())?;
    let image = image::of(&release)?;
    image.write_layout(&output.join("leveret-oci"))?;
    write(&output.join("leveret-oci.tar"), &image.archive(release.date)?)?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: build {}, sha256 {}", output.display(), release.build, digest.hex())?;
    if arguments.verify {
        verify::again(&release, output)?;
        writeln!(out, "verified: the same bytes from another folder with another home")?;
    }
    Ok(())
}

/// Paths of the machine that built it would make the module differ from one built elsewhere, and tell on its builder.
fn ensure_nothing_of_this_machine(module: &[u8]) -> Result<()> {
    let home = std::env::var("HOME").unwrap_or_default();
    let here = std::env::current_dir()?.display().to_string();
    for path in [home.as_str(), &here, "/.cargo/", "/registry/src/"] {
        let path = format!("{}/", path.trim_end_matches('/'));
        let found = path.len() > 1 && module.windows(path.len()).any(|window| window == path.as_bytes());
        ensure!(!found, "the module contains {path}, a path of this machine");
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
