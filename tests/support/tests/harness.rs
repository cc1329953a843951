//! The harnesses themselves, on real processes.

use serde_json::json;
use support::{envoy, rabbitmq};

#[test]
fn a_broker_keeps_what_is_durable_over_kill_and_restart() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = rabbitmq::Options { plugins: vec!["rabbitmq_management"], ..Default::default() };
    let mut broker = rabbitmq::Rabbitmq::start(folder.path(), &options)?;
    broker.ctl(&["add_vhost", "kept"])?;
    broker.kill()?;
    assert!(broker.api("vhosts").is_err(), "a killed broker answers");
    broker.restart()?;
    let vhosts = broker.api("vhosts/kept")?;
    assert_eq!(vhosts["name"], "kept");
    Ok(())
}

#[test]
fn envoy_starts_on_free_ports_and_says_why_it_does_not() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let any = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
    let echo = json!({ "name": "echo", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" } });
    let mut config = json!({
        "admin": { "address": any },
        "static_resources": { "listeners": [
            { "name": "echo", "address": any, "filter_chains": [{ "filters": [echo] }] }] }
    });
    let envoy = envoy::Envoy::start(folder.path(), &config, &envoy::Options::default())?;
    std::net::TcpStream::connect(envoy.address("echo")?)?;
    envoy.stat_until("listener.127.0.0.1_0.downstream_cx_total", std::time::Duration::from_secs(5), |n| {
        n == 1
    })?;
    config["static_resources"]["listeners"][0]["nonsense"] = json!(1);
    let error = envoy::Envoy::start(folder.path(), &config, &envoy::Options::default()).err();
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("nonsense"), "{error}");
    Ok(())
}
