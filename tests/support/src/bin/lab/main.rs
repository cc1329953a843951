//! `lab`: Envoy with the filter and a RabbitMQ, started together to be used (`run`, and `swap` meanwhile) or shown (`demo`).
//! `build.sh` is the door to it.
#![allow(clippy::disallowed_types, reason = "a native program")]

mod demo;
mod run;
mod state;
mod swap;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tempfile::TempDir;

/// Leveret between real programs: MQTT clients, Envoy with the filter, RabbitMQ.
#[derive(Parser)]
#[command(name = "lab", bin_name = "./build.sh", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve MQTT on 127.0.0.1 until Ctrl-C, in front of a broker of yours or a private one.
    Run(run::Arguments),
    /// Give new connections of a running `run` another build or configuration.
    Swap(swap::Arguments),
    /// Send messages both ways between MQTT and AMQP clients, print what went over which protocol.
    Demo,
    /// Swap modules and configurations under load, good ones and bad ones; then count connections and messages.
    Swaptest(support::swap::storm::Options),
    /// Compare the throughput of MQTT endpoints: Leveret's and RabbitMQ's own, unless others are given.
    Load(support::load::Options),
    /// Kill clients, Envoys and the broker at random; then count messages, wills, sessions and queues.
    Chaos(support::chaos::Options),
    /// Have random conversations with the filter and with mosquitto; the outcome has to be the same.
    Pipelines(support::pipelines::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Swap(arguments) => swap::swap(&arguments),
        Command::Demo => demo::run(),
        Command::Swaptest(options) => swap::test(&options),
        Command::Load(options) => support::load::run(&options),
        Command::Chaos(options) => {
            folder("chaos").and_then(|folder| support::chaos::run(&options, folder.path()))
        }
        Command::Pipelines(options) => {
            folder("pipelines").and_then(|folder| support::pipelines::run(&options, folder.path()))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A folder under `target/` for what the programs write, gone when they are.
fn folder(purpose: &str) -> Result<TempDir> {
    let target: PathBuf = support::root().join("target");
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    tempfile::Builder::new()
        .prefix(&format!("{purpose}-"))
        .tempdir_in(&target)
        .with_context(|| format!("cannot make a folder in {}", target.display()))
}
