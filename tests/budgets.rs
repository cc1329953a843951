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
fn the_dearest_inputs_cost_what_the_document_says() {
    let mut documented = documented();
    let mut wrong = Vec::new();
    for (name, cost) in inputs() {
        let start = Instant::now();
        let cost = cost();
        println!("{name}: {cost:?} fuel, all of it in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        let Some(most) = documented.remove(name) else {
            wrong.push(format!("{name}: {cost:?}, and docs/budgets.md has no such row"));
            continue;
        };
        for (is, most) in [(cost.at_once, most.at_once), (cost.in_all, most.in_all)] {
            if !(most / SLACK..=most).contains(&is) {
                wrong.push(format!("{name}: {is}, and docs/budgets.md has {most}"));
            }
        }
    }
    wrong.extend(documented.into_keys().map(|name| format!("{name}: is not measured")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Rows `| name | … | fuel | fuel |` of the table whose last columns are fuel.
fn documented() -> BTreeMap<String, Cost> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, _, at_once, in_all] = cells.try_into().ok()?;
        let fuel = |cell: &str| cell.replace(',', "").parse().ok();
        Some((name.to_owned(), Cost { at_once: fuel(at_once)?, in_all: fuel(in_all)? }))
    };
    include_str!("../docs/budgets.md").lines().filter_map(row).collect()
}

/// Fuel.
#[derive(Debug)]
struct Cost {
    /// Of the dearest call, during which everybody else waits.
    at_once: u64,
    /// Of all calls, between which others are served.
    in_all: u64,
}

type Measure = fn() -> Cost;

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
            let delivery = talk.broker.deliver(&format!("${}", ".a".repeat(126)), 0).unwrap();
            talk.broker(&delivery)
        }),
        ("150 PUBLISHes under `max_inflight: 1`", || {
            let mut talk = Talk::logged_in(&json!({ "max_inflight": 1 }));
            let one = |id| packets::publish(1, id, "a/b", &[7; 100]);
            let cost = talk.client(&(1..=150).flat_map(one).collect::<Vec<_>>());
            assert_eq!(talk.host.take_to_client(talk.client).len(), 4 * 150, "PUBACKs");
            cost
        }),
        ("basic.ack of many", || acknowledged(&json!({}), 1024)),
        ("basic.ack of most", || acknowledged(&json!({ "max_inflight": u16::MAX }), u16::MAX)),
    ]
}

/// So many PUBLISHes, of which the first is confirmed by itself, since it makes the channel confirm.
fn acknowledged(config: &Value, count: u16) -> Cost {
    let mut talk = Talk::logged_in(config);
    talk.client(&packets::publish(1, 1, "a", b""));
    for id in 2..=count {
        talk.host.client_sends(talk.client, &packets::publish(1, id, "a", b""));
    }
    talk.host.take_to_broker(talk.client);
    talk.host.take_to_client(talk.client);
    let cost = talk.broker(&scripted_broker::method(methods::PUBLISH, methods::ack(count.into(), true)));
    let heard = talk.host.take_to_client(talk.client);
    assert_eq!(heard.len(), 4 * (usize::from(count) - 1), "PUBACKs");
    cost
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

    /// What it costs when the client says this, with all that the broker answers.
    fn client(&mut self, bytes: &[u8]) -> Cost {
        self.cost(|talk| talk.host.client_sends(talk.client, bytes))
    }

    fn broker(&mut self, bytes: &[u8]) -> Cost {
        self.cost(|talk| talk.host.broker_sends(talk.client, bytes))
    }

    fn cost(&mut self, act: impl FnOnce(&mut Self)) -> Cost {
        let before = self.host.fuel_used();
        self.host.forget_costliest_call();
        act(self);
        self.agree();
        assert!(!self.host.closed(self.client), "{:?}", self.host.logs().last());
        Cost { at_once: self.host.costliest_call(), in_all: self.host.fuel_used() - before }
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
