//! What VMs share.

use std::fs;

use serde_json::json;
use support::process::wait_until;

use crate::module;
use crate::rig::{Mode, PATIENCE, Rig, Talk, add_listener, discover, probe, reload_after_traps};
use crate::script::{TICK_MS, in_next_tick, ops};

/// A change that names a mark is refused if there has been another one; the mark 0 is any. There is one row of marks
/// for all keys. A key that nobody has set takes any mark.
#[test]
fn a_mark_guards_a_value() {
    let shared = || json!({ "shared": "k" });
    let steps = ops![
        shared(),
        { "share": ["k", "one", 77] }, shared(),
        { "share": ["k", "two", 77] },
        { "share": ["k", "two", 1] }, shared(),
        { "share": ["k", "three", 1] },
        { "share": ["k", "", 0] }, shared(),
        { "share": ["other", "", 0] }, { "shared": "other" },
    ];
    let rig = Rig::start(Mode::Eager, json!({ "connected": [steps] }));
    let _client = rig.client();
    rig.said("connected: shared other");
    let answers = [
        "shared k: NotFound",
        "share k Ok",
        "shared k = one, cas 1",
        "share k CasMismatch",
        "share k Ok",
        "shared k = two, cas 2",
        "share k CasMismatch",
        "share k Ok",
        "shared k = , cas 3",
        "share other Ok",
        "shared other = , cas 4",
    ];
    assert_eq!(rig.sayings("connected: ")[1..], answers);
}

/// Every callback can read and change it.
#[test]
fn every_callback_has_shared_data() {
    let count = || ops![{ "count": ["n", 1] }];
    let rig = Rig::start(
        Mode::Eager,
        json!({
            "tick_ms": TICK_MS,
            "connected": [count()],
            "client_data": [ops![count(), in_next_tick(count())]],
            "broker_data": [count()],
            "client_close": [count()],
            "configured": ops![{ "share": ["n", "", 0] }],
        }),
    );
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("x");
    rig.said("tick: count n = 3,");
    broker.say("y");
    client.hears("y");
    client.reset();
    rig.said("client_close: count n = 5,");
}

/// Workers have a VM each and one set of data: sums made with marks are right. The main thread has a VM as well, and
/// ticks in it.
#[test]
fn workers_share_data_with_each_other_and_the_main_thread() {
    const CLIENTS: usize = 40;
    const EACH: usize = 500;
    let script = json!({
        "tick_ms": TICK_MS,
        "client_data": [ops![{ "count": ["n", EACH] }]],
        "root_tick": ops![{ "property": "plugin_name" }],
    });
    let rig = Rig::with_workers(2, Mode::Eager, script, |_, _| ());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.say("x");
    }
    rig.said_times("client_data: count n = ", CLIENTS);
    let sums = rig.sayings("client_data: count n = ");
    let sum = sums.iter().filter_map(|line| line.split_once(',')?.0.parse().ok()).max();
    assert_eq!(sum, Some(CLIENTS * EACH));
    rig.said_times("root_tick: ", 10);
    assert_eq!(rig.sayings_by_thread("client_data: ").len(), 2);
    assert_eq!(rig.sayings_by_thread("root_tick: ").len(), 3);
}

/// The `vm_id` alone says who shares: not the code, nor the plugin's configuration. None is an id, too.
#[test]
fn each_vm_id_has_data_of_its_own() {
    let script = |name| json!({ "connected": [ops![{ "shared": "k" }, { "share": ["k", name, 0] }]] });
    let rig = Rig::with(Mode::Eager, json!({}), |bootstrap, folder| {
        let path = folder.join("other.wasm");
        fs::write(&path, other_code()).unwrap();
        for (name, vm_id) in [("a", "one"), ("b", "one"), ("c", "two"), ("d", ""), ("e", "")] {
            let vm = &mut add_listener(bootstrap, name, script(name))["vm_config"];
            vm["vm_id"] = json!(vm_id);
            if ["b", "e"].contains(&name) {
                vm["code"]["local"]["filename"] = json!(path);
            }
        }
    });
    for (nth, (name, found)) in [
        ("a", ": NotFound"),
        ("b", " = a, "),
        ("c", ": NotFound"),
        ("d", ": NotFound"),
        ("e", " = d, "),
        ("a", " = b, "),
    ]
    .into_iter()
    .enumerate()
    {
        let _client = rig.client_of(name);
        rig.said_times("connected: share k Ok", nth + 1);
        let answer = &rig.sayings("connected: shared k")[nth];
        assert!(answer.starts_with(found), "{name}: {answer}");
    }
}

/// The probe with another hash: with an empty custom section behind it.
fn other_code() -> Vec<u8> {
    let mut code = fs::read(module::probe()).unwrap();
    code.extend([0, 2, 1, b'x']);
    code
}

/// The VM that has registered a queue is called once for each entry, after the callback that made them.
#[test]
fn a_queue_calls_once_for_each_entry() {
    let soon = |key: &str| json!({ "soon": [{ "shared": key }] });
    let rig =
        Rig::start(Mode::Eager, json!({ "connected": [ops![soon("a"), soon("b"), { "shared": "c" }]] }));
    let _client = rig.client();
    rig.said("queue_ready: shared b");
    let after = [
        "connected: soon Ok(())",
        "connected: soon Ok(())",
        "connected: shared c: NotFound",
        "queue_ready: shared a: NotFound",
        "queue_ready: shared b: NotFound",
    ];
    assert!(rig.sayings("2 ").ends_with(&after.map(str::to_owned)));
}

/// Another module that is put in the place of the first finds what that has left.
#[test]
fn shared_data_outlives_a_module() {
    let script = json!({ "connected": [ops![{ "count": ["n", 1] }]] });
    let rig = Rig::with(Mode::Eager, json!({}), |bootstrap, folder| {
        discover(bootstrap, folder, &probe(script.clone()));
    });
    drop(rig.client());
    rig.said("connected: count n = 1,");
    let path = rig.folder.path().join("other.wasm");
    fs::write(&path, other_code()).unwrap();
    let mut other = probe(script);
    other["config"]["vm_config"]["code"]["local"]["filename"] = json!(path);
    rig.swap(&other);
    drop(rig.client());
    rig.said("connected: count n = 2,");
}

/// A trap does not take them along: what the VM had counted there remains, and nobody knows of whom it was.
#[test]
fn shared_data_outlives_a_trap() {
    let script = json!({ "connected": [ops![{ "count": ["n", 1] }]], "client_data": [ops!["trap"]] });
    let rig = Rig::with(Mode::Eager, script, |bootstrap, _| reload_after_traps(bootstrap));
    let mut client = rig.client();
    client.say("x");
    client.rest();
    let mut newcomers = Vec::new();
    let counted = wait_until("a fresh VM", PATIENCE, || {
        newcomers.push(rig.client());
        rig.sayings("connected: count n = ").into_iter().nth(1)
    });
    assert!(counted.unwrap().starts_with("2,"));
}
