//! `lab swap`: another module, or another configuration, for the new connections of an Envoy that runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use support::envoy;
use support::rabbitmq::{self, Rabbitmq};
use support::swap::{Change, Discovered, storm};

use crate::state::State;

/// Gives new connections another build, or another configuration. Old ones go on as they are until they end.
///
/// When Envoy refuses it, nothing changes for anybody, and the reason is told. To go back, swap to the older module, which is kept.
#[derive(Args)]
#[command(max_term_width = 100)]
pub(crate) struct Arguments {
    /// The module; a fresh build unless given.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// The filter's configuration: YAML or JSON with its own keys. Stays as it is unless given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End the connections of earlier builds, evenly over this time, so that their clients come to the new one.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800))]
    drain: Option<u32>,
    /// Change nothing; show the modules that are kept, which one serves, and how many connections each has.
    #[arg(long)]
    list: bool,
    /// The file of another Envoy's than that of `build.sh run`, laid out as envoy/ecds.yaml.
    #[arg(long, value_name = "FILE", requires = "admin")]
    ecds: Option<PathBuf>,
    /// Its admin interface.
    #[arg(long, value_name = "HOST:PORT", requires = "ecds")]
    admin: Option<String>,
    /// Its log, where it says why it refuses something.
    #[arg(long, value_name = "FILE", requires = "ecds")]
    log: Option<PathBuf>,
}

pub(crate) fn swap(arguments: &Arguments) -> Result<()> {
    let filter = match (&arguments.ecds, &arguments.admin) {
        (Some(file), Some(admin)) => {
            Discovered { file: file.clone(), admin: admin.clone(), log: arguments.log.clone() }
        }
        _ => State::read()?.filter(),
    };
    if !arguments.list {
        let plugin = arguments.config.as_deref().map(envoy::read_plugin_configuration).transpose()?;
        let module = arguments.module.clone().unwrap_or_else(envoy::module);
        ensure!(module.is_file(), "{} is missing", module.display());
        let change = Change { module: Some(module), plugin, drain: arguments.drain };
        let serving = filter.swap(&change).context("nothing has changed")?;
        let with = arguments.config.as_ref().map(|file| format!(" with {}", file.display()));
        println!("{} serves new connections{}", serving.hash, with.unwrap_or_default());
    }
    for kept in filter.kept()? {
        println!("{kept}");
    }
    Ok(())
}

pub(crate) fn test(options: &storm::Options) -> Result<()> {
    let folder = crate::folder("swaptest")?;
    let broker = Rabbitmq::start(&folder.path().join("broker"), &rabbitmq::Options::default())?;
    println!("{}", storm::run(options, folder.path(), broker.amqp_address())?);
    Ok(())
}
