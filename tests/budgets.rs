//! What the dearest inputs cost, as docs/budgets.md has it.
//!
//! The built module in wasmtime. Fuel is exact and the same everywhere, so it may fail a test; times are of this machine and this run,
//! and are only printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test may fail anywhere, and takes the time"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};
use support::agreeable::Broker;
use support::host::{Connection, Facts, Host};
use support::{methods, module, packets, scripted_broker};

/// What Envoy hands over at once in the files we ship: a packet may be larger, and comes in several reads.
const READ: usize = 256 * 1024;

/// What the document says is at most so many times what is measured.
const SLACK: u64 = 3;

#[test]
#[ignore = "its figures are from before a client waited for the answers to what it said"]
fn the_dearest_inputs_cost_what_the_document_says() {
    let mut documented = documented();
    let mut wrong = Vec::new();
    for (name, cost) in inputs() {
        let start = Instant::now();
        let fuel = cost();
        println!("{name}: {fuel} fuel, all of it in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        match documented.remove(name) {
            Some(most) if (most / SLACK..=most).contains(&fuel) => {}
            Some(most) => wrong.push(format!("{name}: {fuel}, and docs/budgets.md has {most}")),
            None => wrong.push(format!("{name}: {fuel}, and docs/budgets.md has no such row")),
        }
    }
    wrong.extend(documented.into_keys().map(|name| format!("{name}: is not measured")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Rows `| name | … | fuel |` of the table whose last column is fuel.
fn documented() -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let fuel = cells.last()?.replace(',', "").parse().ok()?;
        Some((cells.first()?.to_string(), fuel))
    };
    include_str!("../docs/budgets.md").lines().filter_map(row).collect()
}

type Measure = fn() -> u64;

fn inputs() -> Vec<(&'static str, Measure)> {
    vec![
        ("CONNECT with a will", || {
            let mut talk = Talk::connected(&json!({}));
            talk.client(&connect_with_will())
        }),
        ("tiny PUBLISHes", || {
            let mut talk = Talk::logged_in(&json!({}));
            talk.client(&packets::publish(0, 0, "a", b"").repeat(READ / 5))
        }),
        ("deep PUBLISHes", || {
            let mut talk = Talk::logged_in(&json!({}));
            let one = packets::publish(0, 0, &"/".repeat(254), b"");
            talk.client(&one.repeat(READ / one.len()))
        }),
        ("deep PUBLISHes under grants", || {
            let mut talk = Talk::logged_in(&json!({ "publish": { "deny": deep_entries() } }));
            let one = packets::publish(0, 0, &"a/".repeat(127), b"");
            talk.client(&one.repeat(READ / one.len()))
        }),
        ("PINGREQs", || {
            let mut talk = Talk::logged_in(&json!({}));
            talk.client(&packets::PINGREQ.repeat(READ / 2))
        }),
        ("SUBSCRIBE of many filters", || {
            let mut talk = Talk::logged_in(&json!({}));
            talk.client(&packets::subscribe(1, &[("a", 0); 4096]))
        }),
        ("SUBSCRIBE of deep filters", || {
            let mut talk = Talk::logged_in(&json!({}));
            talk.client(&packets::subscribe(1, &[("#/".repeat(127).as_str(), 0); 1000]))
        }),
        ("SUBSCRIBE under grants", || {
            let mut talk = Talk::logged_in(&json!({ "subscribe": { "deny": many_entries() } }));
            talk.client(&packets::subscribe(1, &[("+/x", 0); 4096]))
        }),
        ("SUBSCRIBEs under grants", || {
            let mut talk = Talk::logged_in(&json!({ "subscribe": { "deny": many_entries() } }));
            let one = packets::subscribe(1, &[("+/x", 0)]);
            talk.client(&one.repeat(1000))
        }),
        ("SUBSCRIBE to `$`", || {
            let mut talk = Talk::logged_in(&json!({}));
            let filters: Vec<String> = (0..4096).map(|n| format!("${n}")).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
            talk.client(&packets::subscribe(1, &filters))
        }),
        ("UNSUBSCRIBE", || {
            let mut talk = Talk::logged_in(&json!({}));
            talk.client(&packets::unsubscribe(1, &["a"; 4096]))
        }),
        ("delivery to `$` filters", || {
            let mut talk = Talk::logged_in(&json!({}));
            let mut filters: Vec<String> = (0..4).map(|n| format!("$/#/{}b{n}", "a/".repeat(124))).collect();
            filters.push("#".into());
            let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
            talk.client(&packets::subscribe(1, &filters));
            talk.agree();
            let delivery = talk.broker.deliver(&format!("${}", ".a".repeat(126)), 0).unwrap();
            talk.broker(&delivery)
        }),
        ("150 PUBLISHes under `max_inflight: 1`", || {
            let mut talk = Talk::logged_in(&json!({ "max_inflight": 1 }));
            let one = |id| packets::publish(1, id, "a/b", &[7; 100]);
            let before = talk.host.fuel_used();
            talk.client(&(1..=150).flat_map(one).collect::<Vec<_>>());
            talk.agree();
            assert_eq!(talk.host.take_to_client(talk.client).len(), 4 * 150, "PUBACKs");
            talk.host.fuel_used() - before
        }),
        ("basic.ack of many", || {
            let mut talk = Talk::logged_in(&json!({}));
            talk.client(&packets::publish(1, 1, "a", b""));
            talk.agree();
            for id in 2..=u16::MAX {
                talk.client(&packets::publish(1, id, "a", b""));
            }
            talk.host.take_to_broker(talk.client);
            talk.host.take_to_client(talk.client);
            let ack = methods::ack(u16::MAX.into(), true);
            let fuel = talk.broker(&scripted_broker::method(methods::PUBLISH, ack));
            let heard = talk.host.take_to_client(talk.client);
            assert_eq!(heard.len(), 4 * (usize::from(u16::MAX) - 1), "PUBACKs");
            fuel
        }),
    ]
}

/// As large as it may be.
fn connect_with_will() -> Vec<u8> {
    let payload = "w".repeat(65_000);
    packets::connect_with(0xc6, 0, &["c", "a/b", &payload, "u", "p"])
}

/// A wildcard at the start of a filter comes to all of them.
fn many_entries() -> Vec<String> {
    (0..10_000).map(|n| format!("{n}/+/y")).collect()
}

/// All of them stay where a topic is, word by word.
fn deep_entries() -> Vec<String> {
    (0..2_000).map(|n| format!("#/a/{n}/#/b")).collect()
}

/// A client with a broker behind the module.
struct Talk {
    host: Host,
    client: Connection,
    broker: Broker,
}

impl Talk {
    fn connected(config: &Value) -> Self {
        let mut config = config.clone();
        config["retained"] = false.into();
        let mut host = Host::new(module::shipped(), &config.to_string()).expect("a configuration");
        let client = host.connect_as(&Facts::default());
        Self { host, client, broker: Broker::default() }
    }

    fn logged_in(config: &Value) -> Self {
        let mut talk = Self::connected(config);
        talk.client(&packets::connect("c"));
        talk.agree();
        assert_eq!(talk.host.take_to_client(talk.client), packets::connack(0));
        talk
    }

    /// What it costs when the client says this.
    fn client(&mut self, bytes: &[u8]) -> u64 {
        self.cost(|talk| talk.host.client_sends(talk.client, bytes))
    }

    fn broker(&mut self, bytes: &[u8]) -> u64 {
        self.cost(|talk| talk.host.broker_sends(talk.client, bytes))
    }

    fn cost(&mut self, act: impl FnOnce(&mut Self)) -> u64 {
        let before = self.host.fuel_used();
        act(self);
        assert!(!self.host.closed(self.client), "{:?}", self.host.logs().last());
        self.host.fuel_used() - before
    }

    /// The broker does all that it is asked.
    fn agree(&mut self) {
        while let bytes = self.host.take_to_broker(self.client)
            && !bytes.is_empty()
        {
            let answers = self.broker.answer(&bytes);
            self.host.broker_sends(self.client, &answers);
        }
    }
}
