//! What an operator sees of it all: metrics with their labels, and a line of the access log for each connection.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use support::envoy::Envoy;
use support::process::wait_until;

use crate::mqtt::{Client, Connect, PUBACK, Will, connack, puback, publish};
use crate::world::{PATIENCE, own_envoy};

fn policy() -> Value {
    json!({
        "tenants": [{ "name": "metered", "match": { "client_id": "metered-*" },
                      "publish": { "deny": ["metered/secret"] }, "on_unauthorized": "drop" }],
    })
}

/// The value of a metric at `/stats/prometheus`, by its name and all its labels; 0 while nobody has counted it.
fn metric(envoy: &Envoy, name_and_labels: &str) -> Result<f64> {
    let page = envoy.admin("/stats/prometheus")?;
    let (name, labels) = name_and_labels.split_once('{').context("labels")?;
    let mut wanted: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    wanted.sort_unstable();
    let value = page.lines().find_map(|line| {
        let (this, rest) = line.split_once('{')?;
        let (labels, value) = rest.split_once("} ")?;
        let mut labels: Vec<&str> = labels.split(',').collect();
        labels.sort_unstable();
        (this == name && labels == wanted).then_some(value)
    });
    Ok(value.unwrap_or("0").parse()?)
}

#[test]
fn metrics_have_labels_for_tenant_and_reason() -> Result<()> {
    let envoy = own_envoy("metrics", policy())?;
    let address = envoy.address("mqtt")?;
    let will = Some(Will { topic: "metered/will", payload: b"", qos: 0, retain: false });
    let mut client =
        Client::login_as(address, &Connect { client_id: "metered-1", will, ..Connect::default() })?;
    client.subscribe("metered/#", 1)?;
    client.send(&publish(0x32, "metered/a", 1, b"12345"))?;
    // Its PUBACK and the message, whichever is first.
    let packets = [client.packet()?, client.packet()?];
    let message = packets.iter().find(|packet| packet[0] == 0x32).context("the message")?;
    assert!(packets.iter().any(|packet| packet == PUBACK) && message.ends_with(b"12345"));
    client.send(&puback(u16::from_be_bytes([message[13], message[14]])))?;
    client.send(&publish(0x32, "metered/secret", 1, b""))?;
    client.hears(&[0x40, 2, 0, 1])?;
    let mut refused = Client::connect(address)?;
    refused.send(&Connect { client_id: "", clean: false, ..Connect::default() }.bytes())?;
    assert_eq!(refused.rest()?, connack(2));
    for (name, value) in [
        (r#"leveret_connack{tenant="metered",code="accepted"}"#, 1.0),
        (r#"leveret_connack{tenant="none",code="identifier_rejected"}"#, 1.0),
        (r#"leveret_refused_by{tenant="none",rule="client_id_missing"}"#, 1.0),
        (r#"leveret_connections{tenant="metered"}"#, 1.0),
        (r#"leveret_messages{tenant="metered",direction="published",qos="1"}"#, 1.0),
        (r#"leveret_bytes{tenant="metered",direction="published",qos="1"}"#, 5.0),
        (r#"leveret_messages{tenant="metered",direction="delivered",qos="1"}"#, 1.0),
        (r#"leveret_denied{tenant="metered",packet="publish"}"#, 1.0),
        (r#"leveret_denied_by{tenant="metered",rule="grant"}"#, 1.0),
        (r#"leveret_wills{tenant="metered",what="held"}"#, 1.0),
        (r#"leveret_inflight{tenant="metered"}"#, 0.0),
    ] {
        wait_until(name, PATIENCE, || (metric(&envoy, name).ok()? == value).then_some(()))?;
    }
    let samples = r#"leveret_confirm_time_us_count{tenant="metered"}"#;
    wait_until(samples, PATIENCE, || (metric(&envoy, samples).ok()? == 1.0).then_some(()))?;
    client.finish()?;
    for (name, value) in [
        (r#"leveret_connections{tenant="metered"}"#, 0.0),
        (r#"leveret_closed{tenant="metered",reason="client_gone"}"#, 1.0),
        (r#"leveret_wills{tenant="metered",what="left"}"#, 1.0),
    ] {
        wait_until(name, PATIENCE, || (metric(&envoy, name).ok()? == value).then_some(()))?;
    }
    Ok(())
}

#[test]
fn access_log_tells_who_it_was_and_why_it_ended() -> Result<()> {
    let envoy = own_envoy("access-log", policy())?;
    let address = envoy.address("mqtt")?;
    let started = Instant::now();
    let client = Client::login(address, "metered-2")?;
    thread::sleep(Duration::from_millis(200));
    client.disconnect()?;
    let mut refused = Client::connect(address)?;
    let half = Connect { client_id: "half\n{\"forged\": 1}", username: Some("u"), ..Connect::default() };
    refused.send(&half.bytes())?;
    assert_eq!(refused.rest()?, connack(4));
    let lines = wait_until("two lines", PATIENCE, || {
        let log = envoy.log();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= 2).then_some(lines)
    })?;
    let line = |client_id: &str| lines.iter().find(|line| line["client_id"] == client_id).context("a line");
    let parted = line("metered-2")?;
    let duration = Duration::from_millis(parted["duration_ms"].as_u64().context("no duration_ms")?);
    assert!(duration >= Duration::from_millis(200) && duration <= started.elapsed(), "{duration:?}");
    assert_eq!(
        [&parted["user"], &parted["tenant"], &parted["vhost"], &parted["end"]],
        ["guest", "metered", "/", "disconnected"]
    );
    let refused = line(r#"half\n{"forged": 1}"#).or_else(|_| line(r#"half\n{\"forged\": 1}"#))?;
    assert_eq!(refused["end"], "CONNACK 4: refused: credentials are missing");
    assert_eq!(refused["user"], "u");
    Ok(())
}
