//! What an operator sees of the devices on the broker's own management page, here through its API.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use support::envoy::Mode;
use support::process::wait_until;

use crate::mqtt::Client;
use crate::world::{PATIENCE, binding_keys, broker, connection, mqtt, queue, queues_of};

#[test]
fn management_page_shows_a_device_by_its_client_id_until_it_leaves() -> Result<()> {
    let id = "seen-in-management";
    let mut client = Client::login(mqtt(Mode::Lazy), id)?;
    client.subscribe("seen/0", 0)?;
    client.subscribe("seen/1/+", 1)?;
    let seen = wait_until("a connection of that name", PATIENCE, || connection(id))?;
    assert_eq!((&seen["user"], &seen["vhost"]), (&json!("guest"), &json!("/")));
    assert_eq!(binding_keys(id, 0)?, ["seen.0"]);
    assert_eq!(binding_keys(id, 1)?, ["seen.1.*"]);
    client.disconnect()?;
    wait_until("the connection is gone", PATIENCE, || connection(id).is_none().then_some(()))?;
    wait_until("its queues are gone", PATIENCE, || queues_of(id).ok()?.is_empty().then_some(()))
}

#[test]
fn management_page_shows_channels_consumers_and_rates() -> Result<()> {
    let id = "rates-in-management";
    let mut client = Client::login(mqtt(Mode::Lazy), id)?;
    client.subscribe("rates", 1)?;
    let name =
        wait_until("its connection", PATIENCE, || connection(id)?["name"].as_str().map(str::to_owned))?;
    let channels = format!("connections/{}/channels", name.replace(' ', "%20").replace('>', "%3E"));
    // The figures are gathered every five seconds, of what was said meanwhile.
    wait_until("what it publishes and gets is counted", PATIENCE, || {
        if let Err(error) = client.publish("rates", b"").and_then(|()| client.receive()) {
            return Some(Err(error));
        }
        let channels = broker().api(&channels).ok()?;
        let sum = |figure: &str| {
            let each = channels.as_array().into_iter().flatten();
            each.filter_map(|channel| channel["message_stats"][figure].as_u64()).sum::<u64>()
        };
        let rates =
            channels.as_array()?.iter().any(|it| it["message_stats"]["publish_details"]["rate"].is_number());
        (rates && sum("publish") > 0 && sum("deliver") > 0 && sum("ack") > 0).then_some(Ok(()))
    })??;
    let queue = queue(id, 1)?.context("its queue")?;
    // Consumers are gathered on a clock of their own.
    let consumer = wait_until("its consumer is listed", PATIENCE, || {
        let consumers: Vec<Value> = serde_json::from_value(broker().api("consumers/%2F").ok()?).ok()?;
        consumers.into_iter().find(|it| it["queue"]["name"] == queue["name"])
    })?;
    assert_eq!((&consumer["ack_required"], &consumer["prefetch_count"]), (&json!(true), &json!(10)));
    Ok(())
}
