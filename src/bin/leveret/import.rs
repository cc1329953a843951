//! `leveret import`: a RabbitMQ with its MQTT plugin becomes an Envoy with Leveret.

mod access;
mod certificates;
mod conf;
mod definitions;
mod envoy;
mod listeners;
mod mqtt;
mod output;
mod rabbit;
mod remark;
mod tls;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{Wrong, document, print_json};
use conf::{Conf, Setting};
use definitions::Definitions;
use remark::Remarks;

/// Turns a RabbitMQ's MQTT set-up into Leveret's: a plugin configuration and the Envoy configuration around it
///
/// What has no counterpart, or needs somebody to act, is listed on standard error, each with the key, why, and what to do. Nothing
/// is left out silently: every `mqtt.` key is in the result or on the list.
///
/// Without --output the Envoy configuration, which holds the plugin's, is printed. It holds password hashes and the passwords of
/// rabbitmq.conf: keep it as private as that.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 it is made, whatever is listed, 1 what a file says is wrong, 2 the command line is wrong, or a file cannot be \
read or written.

Examples:
  rabbitmqctl export_definitions definitions.json
  leveret import --conf /etc/rabbitmq/rabbitmq.conf --definitions definitions.json --output edge
      writes edge/envoy.yaml and edge/leveret.json, and lists what to look at

  leveret import --conf rabbitmq.conf --conf conf.d/10-mqtt.conf --broker rabbit.example.com:5672 > envoy.yaml
      later files override earlier ones, as RabbitMQ's do

  leveret import --definitions definitions.json --json | jq '.remarks[] | select(.attention)'
      what needs attention, as JSON

Then:
  leveret check edge/envoy.yaml
  envoy --mode validate -c edge/envoy.yaml"
)]
pub(crate) struct Import {
    /// RabbitMQ's configuration file, sysctl format; may be repeated
    #[arg(long, value_name = "FILE", required_unless_present = "definitions")]
    conf: Vec<PathBuf>,
    /// What `rabbitmqctl export_definitions` or the management page has written
    #[arg(long, value_name = "FILE")]
    definitions: Option<PathBuf>,
    /// Writes envoy.yaml and leveret.json into this folder, which is made if need be
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Overwrites files in the output folder
    #[arg(long, requires = "output")]
    force: bool,
    /// Where Envoy reaches the broker: its AMQP 0-9-1 listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5672")]
    broker: Broker,
    /// The account at the broker that clients have there once the edge has verified them, by `users` or by certificate: `broker_user`
    #[arg(long, value_name = "USER", requires = "broker_pass_file")]
    broker_user: Option<String>,
    /// A file with that account's password in its first line
    #[arg(long, value_name = "FILE", requires = "broker_user")]
    broker_pass_file: Option<PathBuf>,
    /// Where Envoy finds the module
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/leveret.wasm",
        env = "LEVERET_WASM",
        hide_env = true
    )]
    module: String,
}

/// A name or an IP, and a port.
#[derive(Clone)]
struct Broker {
    host: String,
    port: u16,
}

/// What the files become, piece by piece.
#[derive(Default)]
struct Translation {
    plugin: Map<String, Value>,
    anonymous: mqtt::Anonymous,
    certificates: certificates::Certificates,
    rabbit: rabbit::Rabbit,
    listeners: listeners::Listeners,
    tls: tls::Tls,
    remarks: Remarks,
}

impl Import {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode> {
        let mut translation = Translation::default();
        if let (Some(user), Some(file)) = (&self.broker_user, &self.broker_pass_file) {
            translation.set("broker_user", user.clone());
            translation.set("broker_pass", document::read(file)?.lines().next().unwrap_or_default());
        }
        let conf = Conf::read(&self.conf)?;
        translation.settings(&conf)?;
        translation.finish_settings(self)?;
        if let Some(path) = &self.definitions {
            Definitions::read(path)?.translate(&mut translation);
        }
        translation.finish();
        let Translation { plugin, listeners, tls, mut remarks, .. } = translation;
        let envoy = envoy::configuration(&listeners, &tls, plugin, self)?;
        if let Err(error) = leveret::Config::from_json(envoy.json()?.as_bytes()) {
            remarks.attend_to(
                "the result",
                format!("the filter does not take it: {error}"),
                "correct it by hand",
            );
        }

        let files = match &self.output {
            Some(folder) => output::write(folder, self.force, &envoy)?,
            None => Vec::new(),
        };
        if json {
            let remarks = remarks.as_slice();
            print_json(&match &self.output {
                Some(_) => json!({ "files": files, "remarks": remarks }),
                None => json!({ "plugin": envoy.plugin, "envoy": envoy.tree, "remarks": remarks }),
            })?;
        } else {
            remarks.write(&mut io::stderr().lock())?;
            let mut out = io::stdout().lock();
            if self.output.is_none() {
                out.write_all(envoy.yaml()?.as_bytes())?;
            }
            for file in files {
                writeln!(out, "{file}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Translation {
    fn settings(&mut self, conf: &Conf) -> Result<(), Wrong> {
        for setting in &conf.overridden {
            self.remarks.note(setting, "said again further on; the last counts");
        }
        let mut others = 0;
        for setting in &conf.settings {
            if setting.quoted {
                self.remarks.note(
                    setting,
                    "taken without its quotes, as RabbitMQ does; 3.10 takes them as part of the value",
                );
            }
            match setting.path().as_slice() {
                ["mqtt", name @ ..] => mqtt::translate(self, name, setting)?,
                ["web_mqtt", ..] => self.remarks.attend(
                    setting,
                    "Leveret does not serve MQTT over WebSockets",
                    "leave RabbitMQ's web_mqtt plugin on for these clients",
                ),
                ["ssl_options", ..] | ["ssl_handshake_timeout" | "ssl_allow_poodle_attack"] => {
                    tls::translate(self, setting)?;
                }
                name => others += usize::from(!rabbit::translate(self, name, setting)?),
            }
        }
        if others > 0 {
            self.remarks.note_of(
                format!("{others} other keys"),
                "not MQTT's; they stay as they are, with the broker",
            );
        }
        Ok(())
    }

    /// What depends on several settings.
    fn finish_settings(&mut self, import: &Import) -> Result<(), Wrong> {
        mqtt::finish(self);
        certificates::finish(self)?;
        rabbit::finish(self, import)?;
        listeners::finish(self)?;
        tls::finish(self)
    }

    /// What depends on settings and definitions.
    fn finish(&mut self) {
        if self.plugin.contains_key("broker_user") {
            for (list, lack) in [
                (
                    "users",
                    "the edge cannot verify passwords, so only clients with certificates and anonymous ones get in",
                ),
                ("permissions", "whoever is verified may do all that this account may"),
            ] {
                if !self.plugin.contains_key(list) {
                    let why = format!("there are no `{list}`, and {lack}");
                    self.remarks.attend_to(
                        "broker_user",
                        why,
                        "give definitions that have them, or do without this account",
                    );
                }
            }
        }
    }

    /// A key of the plugin's.
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.plugin.insert(key.to_owned(), value.into());
    }

    /// A number, of which the plugin takes only some.
    fn set_within(&mut self, key: &str, setting: &Setting, n: u64, least: u64, most: u64) {
        let taken = n.clamp(least, most);
        if taken != n {
            let why = format!("`{key}` takes {least} to {most}");
            self.remarks.attend(setting, why, format!("see whether {taken} will do"));
        }
        self.set(key, taken);
    }
}

impl FromStr for Broker {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("expected HOST:PORT")?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|&port| port != 0).ok_or("expected a port from 1 to 65535")?;
        if host.is_empty() {
            return Err("expected a name or an IP in front of the port");
        }
        Ok(Self { host: host.to_owned(), port })
    }
}
