//! `leveret explain`: what the filter would decide about a client, and by which rule.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Says what the filter decides about a client that publishes or subscribes, and the rule that decides
///
/// The client is described by what Envoy and its CONNECT would tell: say what there is, and leave out what there is not. Without
/// --password a password is taken to be right.
#[derive(Args)]
#[command(after_help = "Examples:
  leveret explain leveret.json --client-id sensor-1 --username sensor-1 publish sensors/1/temperature
  leveret explain envoy.yaml --port 8883 --sni acme.example --cert-subject 'O=acme,CN=pump' --client-id pump subscribe 'pumps/#'")]
pub(crate) struct Explain {
    /// A plugin configuration, or a configuration of Envoy's with one filter of Leveret's
    pub(crate) file: PathBuf,
    /// CONNECT's client id
    #[arg(long, value_name = "ID", default_value = "")]
    pub(crate) client_id: String,
    /// CONNECT's user name; without one, and without a certificate, the client is anonymous
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,
    /// CONNECT's password, to see whether it is right
    #[arg(long, requires = "username")]
    pub(crate) password: Option<String>,
    /// The client certificate's subject, such as `O=acme,CN=pump`
    #[arg(long, value_name = "DN")]
    pub(crate) cert_subject: Option<String>,
    /// The certificate's first DNS name
    #[arg(long, value_name = "NAME")]
    pub(crate) cert_dns: Option<String>,
    /// The certificate's first URI
    #[arg(long, value_name = "URI")]
    pub(crate) cert_uri: Option<String>,
    /// Where the client comes from
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:50000")]
    pub(crate) address: SocketAddr,
    /// The listener's port
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// The server name that the client asks TLS for
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// The name of Envoy's filter chain
    #[arg(long, value_name = "NAME")]
    pub(crate) filter_chain: Option<String>,
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What the client does when it is in.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// A PUBLISH to a topic
    Publish {
        /// The topic
        topic: String,
    },
    /// A SUBSCRIBE to a filter
    Subscribe {
        /// The filter
        filter: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        explain: Explain,
    }

    #[test]
    fn a_client_is_described_by_what_there_is() {
        let line = "x leveret.json --client-id c --username u --port 8883 --address [::1]:7 publish a/b";
        let explain = Line::try_parse_from(line.split(' ')).unwrap().explain;
        assert_eq!((explain.client_id.as_str(), explain.username.as_deref()), ("c", Some("u")));
        assert!(explain.password.is_none() && explain.sni.is_none() && explain.filter_chain.is_none());
        assert!(explain.cert_subject.or(explain.cert_dns).or(explain.cert_uri).is_none());
        assert_eq!((explain.port, explain.address.is_ipv6()), (Some(8883), true));
        assert_eq!(explain.file.to_str(), Some("leveret.json"));
        assert!(matches!(explain.action, Action::Publish { topic } if topic == "a/b"));

        assert!(Line::try_parse_from("x f --password p publish a".split(' ')).is_err(), "whose?");
        let explain = Line::try_parse_from("x f subscribe #".split(' ')).unwrap().explain;
        assert!(matches!(explain.action, Action::Subscribe { filter } if filter == "#"));
    }
}
