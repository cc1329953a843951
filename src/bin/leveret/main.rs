//! `leveret`: the operator's command. It runs the core that runs in Envoy, on files.

mod check;
mod document;
mod explain;
mod import;
mod plugin;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// MQTT at the edge for AMQP 0-9-1 brokers: what an operator does with Leveret's configuration before Envoy loads it.
#[derive(Parser)]
#[command(
    name = "leveret",
    version,
    after_help = "Exit codes: 0 fine, 1 what a file says is wrong, \
     2 the command line is wrong or a file cannot be read or written, \
     3 `explain` says that the client may not.\n`leveret help COMMAND` has examples."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Prints JSON on standard output, errors in files included
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Check),
    Explain(explain::Explain),
    Import(import::Import),
}

/// What a file says is wrong: exit code 1, where all other errors are 2. Holds no value of a secret.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Check(check) => check.run(arguments.json),
        Command::Explain(explain) => explain.run(arguments.json),
        Command::Import(import) => import.run(arguments.json),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // The chain of causes in one line. Should this not be heard either, the exit code still is.
            let _ = if arguments.json {
                print_json(&serde_json::json!({ "error": format!("{error:#}") }))
            } else {
                writeln!(io::stderr(), "leveret: {error:#}").map_err(Into::into)
            };
            ExitCode::from(if error.is::<Wrong>() { WRONG } else { UNUSABLE })
        }
    }
}

fn print_json(value: &serde_json::Value) -> Result<()> {
    Ok(writeln!(io::stdout(), "{value:#}")?)
}

/// What a file says is wrong.
const WRONG: u8 = 1;
/// The command line is wrong, or a file cannot be read or written.
const UNUSABLE: u8 = 2;
/// The client may not.
const DENIED: u8 = 3;
