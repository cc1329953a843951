//! How much Envoy takes in.

use serde_json::json;

use crate::rig::{Mode, Rig, Talk};

/// A callback's data is bounded by the buffer limit of its side, rounded up to Envoy's next read of 16 KiB.
#[test]
fn pieces_are_bounded_by_the_buffer_limit() {
    const LIMIT: usize = 32 << 10;
    const READ: usize = 16 << 10;
    let much = vec![b'm'; 1 << 20];
    let mut rig = Rig::with(Mode::Eager, json!({}), |bootstrap, _| {
        bootstrap["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = json!(LIMIT);
        bootstrap["static_resources"]["clusters"][0]["per_connection_buffer_limit_bytes"] = json!(LIMIT);
    });
    let (mut client, mut broker) = (rig.client(), rig.broker());
    rig.while_frozen(|| {
        client.say(&much);
        broker.say(&much);
    });
    client.hears(&much);
    broker.hears(&much);
    for callback in ["client_data: ", "broker_data: "] {
        let sizes =
            rig.sayings(callback).into_iter().filter_map(|line| line.split_once(" bytes")?.0.parse().ok());
        let largest: usize = sizes.max().unwrap();
        assert!((LIMIT..=LIMIT + READ).contains(&largest), "{callback}{largest}");
    }
}
