//! Who gets in, as whom, and what the others are told.

use anyhow::Result;
use serde_json::json;
use support::envoy::{Mode, Options};
use support::process::wait_until;

use crate::mqtt::{ACCEPTED, Client, Connect, Will, connack};
use crate::world::{
    PATIENCE, broker, connection, mqtt, own_envoy, own_envoy_with, restricted_user, rough_broker, to,
};

#[test]
fn anonymous_clients_log_in_as_the_default_user() -> Result<()> {
    let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    broker().api_put("users/anonymous-device", &json!({ "password": "its-password", "tags": "" }))?;
    broker().api_put("permissions/%2F/anonymous-device", &everything)?;
    let user = json!({ "default_user": "anonymous-device", "default_pass": "its-password" });
    let envoy = own_envoy("anonymous-user", user)?;
    let ways = [(mqtt(Mode::Lazy), "guest"), (envoy.address("mqtt")?, "anonymous-device")];
    for (number, (address, user)) in ways.into_iter().enumerate() {
        for protocol in [("MQTT", 4), ("MQIsdp", 3)] {
            let id = format!("anonymous-{number}-{}", protocol.1);
            let mut client =
                Client::login_as(address, &Connect { protocol, client_id: &id, ..Connect::default() })?;
            client.subscribe(&id, 1)?;
            client.publish(&id, b"served")?;
            assert_eq!(client.receive()?.text(), "served");
            let connection = wait_until("its connection", PATIENCE, || connection(&id))?;
            assert_eq!(connection["user"], user);
        }
    }
    Ok(())
}

#[test]
fn anonymous_clients_are_refused_where_credentials_are_required() -> Result<()> {
    let envoy = own_envoy("anonymous-refused", json!({ "allow_anonymous": false }))?;
    let mut client = Client::connect(envoy.address("mqtt")?)?;
    client.send(&Connect { client_id: "anonymous-refused", ..Connect::default() }.bytes())?;
    assert_eq!(client.rest()?, connack(4));
    let guest = Connect {
        client_id: "not-anonymous",
        username: Some("guest"),
        password: Some("guest"),
        ..Connect::default()
    };
    Client::login_as(envoy.address("mqtt")?, &guest)?.disconnect()
}

#[test]
fn unknown_protocol_level_is_answered_and_closed() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        for protocol in [("MQTT", 0), ("MQTT", 3), ("MQTT", 5), ("MQTT", 6), ("MQTT", 255), ("MQIsdp", 4)] {
            let mut client = Client::connect(mqtt(mode))?;
            client.send(&Connect { protocol, client_id: "unknown-level", ..Connect::default() }.bytes())?;
            assert_eq!(client.rest()?, connack(1), "{protocol:?}");
        }
    }
    Ok(())
}

#[test]
fn too_long_client_id_is_refused_and_never_cut() -> Result<()> {
    let id =
        |length: usize| "too-long-".chars().chain(std::iter::repeat('x')).take(length).collect::<String>();
    // 255 bytes of a queue's name, less "mqtt-subscription-" and what is behind the id in the longest of them, the will's.
    let fits = id(255 - 18 - 26);
    let will = Some(Will { topic: "too-long-client-id", payload: b"", qos: 0, retain: false });
    for clean in [true, false] {
        let connect = Connect { client_id: &fits, clean, will, ..Connect::default() };
        let mut client = Client::login_as(mqtt(Mode::Lazy), &connect)?;
        client.subscribe("too-long-client-id", 1)?;
        client.disconnect()?;
    }
    for length in [255 - 18 + 1, 300, 65_000] {
        let mut client = Client::connect(mqtt(Mode::Lazy))?;
        client.send(&Connect { client_id: &id(length), ..Connect::default() }.bytes())?;
        assert_eq!(client.rest()?, connack(2), "{length}");
    }
    Ok(())
}

#[test]
fn connection_limit_of_the_broker_is_connack_5() -> Result<()> {
    broker().api_put("vhosts/limited", &json!({}))?;
    broker()
        .api_put("permissions/limited/guest", &json!({ "configure": ".*", "write": ".*", "read": ".*" }))?;
    broker().api_put("vhost-limits/limited/max-connections", &json!({ "value": 1 }))?;
    let limited = |id| Connect {
        client_id: id,
        username: Some("limited:guest"),
        password: Some("guest"),
        ..Connect::default()
    };
    let first = Client::login_as(mqtt(Mode::Lazy), &limited("limited-1"))?;
    let mut second = Client::connect(mqtt(Mode::Lazy))?;
    second.send(&limited("limited-2").bytes())?;
    assert_eq!(second.rest()?, connack(5));
    first.disconnect()
}

#[test]
fn virtual_host_without_permission_is_connack_5() -> Result<()> {
    broker().api_put("vhosts/forbidden", &json!({}))?;
    let user = restricted_user("stranger")?;
    let connect = Connect {
        client_id: "stranger",
        username: Some("forbidden:stranger"),
        password: Some(user),
        ..Connect::default()
    };
    let mut client = Client::connect(mqtt(Mode::Lazy))?;
    client.send(&connect.bytes())?;
    assert_eq!(client.rest()?, connack(5));
    Ok(())
}

#[test]
fn broker_down_or_draining_is_connack_3() -> Result<()> {
    let mut broker = rough_broker();
    let envoy = own_envoy_with("draining", &to(Mode::Lazy, broker.amqp_address()), &Options::default())?;
    let address = envoy.address("mqtt")?;
    let connect = Connect { client_id: "draining", ..Connect::default() }.bytes();
    let answer = || {
        let mut client = Client::connect(address).ok()?;
        client.send(&connect).ok()?;
        client.packet().ok()
    };
    let mut client = Client::login(address, "drained")?;
    broker.ctl(&["eval", "rabbit_maintenance:drain()."])?;
    assert_eq!(client.rest()?, b"");
    wait_until("CONNACK 3 while it drains", PATIENCE, || (answer()? == connack(3)).then_some(()))?;
    broker.ctl(&["eval", "rabbit_maintenance:revive()."])?;
    wait_until("service again", PATIENCE, || (answer()? == ACCEPTED).then_some(()))?;
    broker.stop()?;
    wait_until("CONNACK 3 when it is down", PATIENCE, || (answer()? == connack(3)).then_some(()))
}
