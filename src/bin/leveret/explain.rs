//! `leveret explain`: what the filter would decide about a client, and by which rule.

mod client;
mod story;
mod topics;
mod written;

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use leveret::mqtt::{Connect, MAX_REMAINING_LENGTH, MAX_TOPIC, QoS, Version};
use leveret::policy::{Certificate, Verification};
use leveret::time::Instant;
use leveret::{Config, Gate, Peer};

use crate::{DENIED, Wrong, document, plugin, print_json};
use client::Case;
use story::Story;
use topics::Publish;
use written::Written;

/// Says what the filter decides about a client that connects, publishes or subscribes, and the rule that decides
///
/// The client is described by what Envoy and its CONNECT would tell: say what there is, and leave out what there is not. Without
/// --password-file a password is taken to be right; without --address the client counts as one from elsewhere, and is told so
/// where it matters. What the broker decides, such as whether it knows the user, is not asked.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 permitted, 3 denied or refused, 1 the configuration is wrong, 2 the command line is or a file cannot be read.

Examples:
  leveret explain leveret.json --client-id sensor-1 --username sensor-1 publish sensors/1/temperature
  leveret explain envoy.yaml --port 8883 --sni acme.example --cert-subject 'O=acme,CN=pump' --client-id pump subscribe 'pumps/#'
  leveret explain leveret.json --address 192.0.2.7 --username acme:pump --password-file -
      whether it gets in with the password on standard input, and if not, why"
)]
pub(crate) struct Explain {
    /// A plugin configuration, or a configuration of Envoy's
    file: PathBuf,
    /// Of several filters that are configured in different ways, the one whose place, as `check` prints it, holds this
    #[arg(long, value_name = "PLACE")]
    filter: Option<String>,
    /// CONNECT's client id
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    /// CONNECT's user name; without one, and without a certificate, the client is anonymous
    #[arg(long, value_name = "USER")]
    username: Option<String>,
    /// A file with CONNECT's password, to see whether it is right; `-` is standard input. A line break at its end is none of it
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// The client certificate's subject, such as `O=acme,CN=pump`
    #[arg(long, value_name = "DN")]
    cert_subject: Option<String>,
    /// The certificate's first DNS name
    #[arg(long, value_name = "NAME")]
    cert_dns: Option<String>,
    /// The certificate's first URI
    #[arg(long, value_name = "URI")]
    cert_uri: Option<String>,
    /// Where the client comes from; without one it is in no range, and no loopback address
    #[arg(long, value_name = "IP[:PORT]", value_parser = address)]
    address: Option<SocketAddr>,
    /// The listener's port
    #[arg(long)]
    port: Option<u16>,
    /// The server name that the client asks TLS for
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The name of Envoy's filter chain
    #[arg(long, value_name = "NAME")]
    filter_chain: Option<String>,
    /// A session that ends with its connection, which is what is taken without either of these
    #[arg(long, conflicts_with = "persistent")]
    clean_session: bool,
    /// A session that is kept
    #[arg(long)]
    persistent: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What the client does when it is in.
#[derive(Subcommand)]
enum Action {
    /// A PUBLISH to a topic
    Publish {
        #[arg(value_parser = topic)]
        topic: String,
        #[arg(long, default_value = "0", value_parser = qos)]
        qos: QoS,
        /// To be retained
        #[arg(long)]
        retain: bool,
        /// Bytes of payload
        #[arg(long, value_name = "BYTES", default_value = "0", value_parser = RangedU64ValueParser::<u32>::new().range(..=u64::from(MAX_REMAINING_LENGTH)))]
        size: u32,
    },
    /// A SUBSCRIBE to a filter
    Subscribe {
        #[arg(value_parser = filter)]
        filter: String,
        #[arg(long, default_value = "0", value_parser = qos)]
        qos: QoS,
    },
}

impl Explain {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode> {
        let file = self.file.display().to_string();
        let configuration = configuration(&document::read(&self.file)?, self.filter.as_deref())
            .with_context(|| file.clone())?;
        let config = Config::from_json(configuration.as_bytes())
            .map_err(|error| Wrong(error.to_string()))
            .with_context(|| file.clone())?;
        let password = self.password_file.as_deref().map(password).transpose()?;
        let story = self.story(&config, Written::new(&configuration)?, password.as_deref());
        if json {
            print_json(&story.json())?;
        } else {
            story.write(&mut io::stdout().lock())?;
        }
        Ok(if story.is_permitted() { ExitCode::SUCCESS } else { DENIED.into() })
    }

    fn story(&self, config: &Config, written: Written, password: Option<&[u8]>) -> Story {
        let gate = Rc::new(Gate::alone(Rc::clone(&config.policy)));
        let (peer, connect) = (self.peer(), self.connect(password));
        let is_assumed = password.is_none();
        let case = Case::new(config, &gate, written, &peer, &connect, is_assumed);
        let verification = if is_assumed { Verification::Assumed } else { Verification::Password };
        let admission = match gate
            .tenant(&peer, &connect)
            .cloned()
            .and_then(|tenant| gate.admit(Instant::ZERO, &peer, &connect, &tenant, verification))
        {
            Ok(admission) => admission,
            Err(refusal) => return case.refused(refusal),
        };
        let steps = case.admitted(&admission);
        match &self.action {
            None => steps.permitted("it gets in, as far as the edge decides".to_owned()),
            Some(Action::Publish { topic, qos, retain, size }) => {
                let publish = Publish { qos: *qos, retain: *retain, size: *size };
                topics::publish(&case, &admission, steps, topic, &publish)
            }
            Some(Action::Subscribe { filter, qos }) => {
                topics::subscribe(&case, &admission, steps, filter, *qos)
            }
        }
    }

    fn peer(&self) -> Peer {
        let text = |text: &Option<String>| Box::from(text.as_deref().unwrap_or_default());
        let names = [&self.cert_subject, &self.cert_dns, &self.cert_uri];
        let [subject, dns, uri] = names.map(text);
        Peer {
            address: self.address,
            port: self.port,
            filter_chain: text(&self.filter_chain),
            server_name: text(&self.sni),
            certificate: names.iter().any(|it| it.is_some()).then_some(Certificate { subject, dns, uri }),
            nonce: 0,
        }
    }

    fn connect<'a>(&'a self, password: Option<&'a [u8]>) -> Connect<'a> {
        Connect {
            version: Version::V311,
            clean_session: !self.persistent,
            keep_alive: 0,
            client_id: &self.client_id,
            will: None,
            username: self.username.as_deref(),
            password: self.username.is_some().then_some(password.unwrap_or(UNKNOWN)),
        }
    }
}

/// The only one in `text`, or that which all filters in it have whose place holds `filter`.
fn configuration(text: &str, filter: Option<&str>) -> Result<String, Wrong> {
    let mut plugins = plugin::configurations(text)?;
    plugins.retain(|it| filter.is_none_or(|filter| it.at.as_ref().is_some_and(|at| at.contains(filter))));
    let mut plugins = plugins.into_iter();
    let at = |at: Option<String>| at.unwrap_or_default();
    let Some(first) = plugins.next() else {
        return Err(Wrong(format!("no filter of Leveret's at {}", filter.unwrap_or_default())));
    };
    let json = first.json.map_err(Wrong)?;
    match plugins.find(|other| other.json.as_deref() != Ok(&json)) {
        Some(other) => Err(Wrong(format!(
            "{} and {} are configured in different ways: say with --filter which is meant",
            at(first.at),
            at(other.at)
        ))),
        None => Ok(json),
    }
}

/// The bytes of a file, or of standard input, less a line break at their end.
fn password(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_PASSWORD).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_PASSWORD).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read the password from {}", path.display()))?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(bytes)
}

/// With or without the port, which nothing goes by.
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0)));
    address.map_err(|_| "expected an IP, or IP:PORT")
}

/// What a PUBLISH can carry.
fn topic(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("a topic is not empty"),
        _ if text.contains(['+', '#', '\0']) => Err("a topic has no wildcards"),
        _ => filter(text),
    }
}

/// What a SUBSCRIBE can carry; whether it is a good one is for the filter to say.
fn filter(text: &str) -> Result<String, &'static str> {
    if text.len() > MAX_TOPIC { Err("at most 255 bytes") } else { Ok(text.to_owned()) }
}

fn qos(text: &str) -> Result<QoS, &'static str> {
    text.parse().ok().and_then(QoS::from_bits).ok_or("0, 1 or 2")
}

/// Stands for a password that is not given.
const UNKNOWN: &[u8] = b"?";
/// What is read of a password, in bytes: more than MQTT can carry, so that a longer one is refused and not shortened.
const MAX_PASSWORD: u64 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_are_configured_alike_are_one() {
        let filter = |json: &str| {
            serde_json::json!({ "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
                "config": { "name": "leveret", "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue", "value": json } } })
        };
        let text = |filters: [&str; 2]| serde_json::json!({ "resources": filters.map(filter) }).to_string();
        assert_eq!(configuration(&text(["{}", "{}"]), None).unwrap(), "{}");
        let different = text(["{}", "{\"prefetch\": 1}"]);
        let error = configuration(&different, None).unwrap_err().to_string();
        assert!(error.starts_with("resources[0] and resources[1] are configured"), "{error}");
        assert_eq!(configuration(&different, Some("[1]")).unwrap(), "{\"prefetch\": 1}");
        let error = configuration(&different, Some("[2]")).unwrap_err().to_string();
        assert_eq!(error, "no filter of Leveret's at [2]");
    }
}
