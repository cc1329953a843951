//! When the broker answers with an error: what the client gets to know of it. By code, on RabbitMQ itself as far as it can be
//! brought to say it, and by a broker that says it on purpose.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, connection, queue};
use anyhow::{Context, Result};
use lapin::types::FieldTable;
use serde_json::json;
use support::envoy::{Mode, Options};
use support::{methods as say, scripted_broker};

use crate::amqp::Amqp;
use crate::fake_broker::{self, Reply};
use crate::mqtt::{Client, Connect, connack, publish, subscribe};
use crate::world::{broker, mqtt, own_envoy, own_envoy_with, queue, to};

#[test]
fn broker_error_404_for_a_missing_exchange() -> Result<()> {
    let envoy = own_envoy("no-exchange", json!({ "exchange": "nobody-declared-it" }))?;
    let mut client = Client::login(envoy.address("mqtt")?, "no-exchange")?;
    client.send(&subscribe(&[("a", 0), ("b", 1)]))?;
    client.hears(&[0x90, 4, 0, 1, 0x80, 0x80])?;
    client.ping()?;
    client.send(&publish(0x32, "a", 1, b""))?;
    assert_eq!(client.rest()?, b"", "no PUBACK");
    let mut client = Client::login(envoy.address("mqtt")?, "no-exchange")?;
    client.publish("a", b"")?;
    assert_eq!(client.rest()?, b"");
    Ok(())
}

#[test]
fn broker_error_405_for_a_queue_that_is_another_s() -> Result<()> {
    let amqp = Amqp::connect()?;
    amqp.hold_queue("mqtt-subscription-not-oursqos1")?;
    let mut client = Client::connect(mqtt(Mode::Lazy))?;
    client.send(&Connect { client_id: "not-ours", clean: false, ..Connect::default() }.bytes())?;
    assert_eq!(client.rest()?, connack(3));
    // A clean session's queues are its own in any case.
    let mut client = Client::login(mqtt(Mode::Lazy), "not-ours")?;
    client.subscribe("not-ours", 1)
}

#[test]
fn broker_error_406_for_a_session_s_queue_with_other_arguments_takes_it_as_it_is() -> Result<()> {
    let amqp = Amqp::connect()?;
    // As RabbitMQ's own MQTT plugin makes it, 3.10's and later ones', with another lifetime.
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), lapin::types::AMQPValue::LongLongInt(3_600_000));
    amqp.keep_queue("mqtt-subscription-plugin-s-sessionqos1", arguments, "plugin-s-session")?;
    amqp.publish("plugin-s-session", b"queued for the plugin's client", crate::amqp::persistent())?;
    let (mut client, present) = Client::resume(mqtt(Mode::Lazy), "plugin-s-session")?;
    assert!(present);
    assert_eq!(client.receive()?.text(), "queued for the plugin's client");
    client.subscribe("plugin-s-session/more", 1)?;
    client.publish("plugin-s-session/more", b"more")?;
    assert_eq!(client.receive()?.text(), "more");
    assert_eq!(queue("plugin-s-session", 1)?.context("its queue")?["arguments"]["x-expires"], 3_600_000);
    Ok(())
}

#[test]
fn broker_error_of_a_queue_deleted_under_its_client_closes_the_connection() -> Result<()> {
    for qos in [0, 1] {
        let id = format!("deleted-under-{qos}");
        let (mut client, _) = Client::resume(mqtt(Mode::Lazy), &id)?;
        client.subscribe(&id, qos)?;
        let queue = queue(&id, qos)?.context("its queue")?;
        broker().api_delete(&format!("queues/%2F/{}", queue["name"].as_str().context("its name")?))?;
        assert_eq!(client.rest()?, b"", "QoS {qos}");
    }
    Ok(())
}

/// 501 to 506, 530, 540 and 541 are connection errors of AMQP, and 320 is an operator's; RabbitMQ says most of them only to a
/// client that is wrong.
#[test]
fn broker_error_that_closes_the_connection_at_any_request() -> Result<()> {
    let address = fake_broker::listen(|_, frame| {
        let code = code_asked_for(frame, "close.");
        code.map_or(Reply::Obvious, |code| {
            Reply::Bytes(scripted_broker::method(0, say::close(code, "on purpose")))
        })
    })?;
    let envoy = own_envoy_with("closes", &to(Mode::Lazy, address), &Options::default())?;
    let codes = [320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541];
    for code in codes {
        let topic = format!("close/{code}");
        let requests = [
            subscribe(&[("fine", 1), (&topic, 1)]),
            publish(0x32, &topic, 1, b""),
            publish(0x30, &topic, 1, b""),
        ];
        for request in requests {
            let mut client = Client::login(envoy.address("mqtt")?, "closed-on")?;
            client.send(&request)?;
            assert_eq!(client.rest()?, b"", "{code}");
        }
        let line = format!("closed: broker closed with {code}");
        assert!(envoy.log().contains(&line), "{line}");
    }
    let closed = envoy.stat("wasmcustom.leveret.none.closed.broker_closed")?;
    assert_eq!(closed, 3 * codes.len() as u64);
    Ok(())
}

#[test]
fn broker_error_that_closes_a_channel() -> Result<()> {
    let address = fake_broker::listen(|broker, frame| {
        let AMQPFrame::Method(channel, _) = frame else { return Reply::Obvious };
        let code = code_asked_for(frame, "channel.");
        code.map_or(Reply::Obvious, |code| Reply::Bytes(broker.close_channel(*channel, code, "on purpose")))
    })?;
    let envoy = own_envoy_with("closes-channel", &to(Mode::Lazy, address), &Options::default())?;
    for code in [311, 313, 403, 404, 405, 406, 504] {
        let topic = format!("channel/{code}");
        let mut client = Client::login(envoy.address("mqtt")?, "channel-closed-on")?;
        client.send(&subscribe(&[("fine", 0), (&topic, 0), ("fine/too", 0)]))?;
        client.hears(&[0x90, 5, 0, 1, 0, 0x80, 0]).with_context(|| format!("SUBSCRIBE, {code}"))?;
        client.publish_safely("fine", b"")?;
        client.send(&publish(0x32, &topic, 2, b""))?;
        assert_eq!(client.rest()?, b"", "{code}");
    }
    Ok(())
}

#[test]
fn broker_error_at_login_is_a_connack() -> Result<()> {
    let answers = [
        (320, "CONNECTION_FORCED - broker forced connection closure", 3),
        (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", 4),
        (504, "CHANNEL_ERROR", 3),
        (530, "NOT_ALLOWED - vhost nowhere not found", 4),
        (530, "NOT_ALLOWED - access to vhost '/' refused for user 'guest'", 5),
        (
            530,
            "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (1) is reached",
            5,
        ),
        (541, "INTERNAL_ERROR - vhost '/' is down", 3),
    ];
    for (number, (code, text, connack_code)) in answers.into_iter().enumerate() {
        let address = fake_broker::listen(move |_, frame| match frame {
            AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Open(_))) => {
                Reply::Bytes(scripted_broker::method(0, say::close(code, text)))
            }
            _ => Reply::Obvious,
        })?;
        let envoy =
            own_envoy_with(&format!("refuses-{number}"), &to(Mode::Lazy, address), &Options::default())?;
        let mut client = Client::connect(envoy.address("mqtt")?)?;
        client.send(&Connect { client_id: "refused", ..Connect::default() }.bytes())?;
        assert_eq!(client.rest()?, connack(connack_code), "{code} {text}");
    }
    Ok(())
}

/// The code behind this prefix in the routing key of a binding or message.
fn code_asked_for(frame: &AMQPFrame, prefix: &str) -> Option<u16> {
    let AMQPFrame::Method(_, request) = frame else { return None };
    let routing_key = match request {
        AMQPClass::Queue(queue::AMQPMethod::Bind(bind)) => &bind.routing_key,
        AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) => &publish.routing_key,
        _ => return None,
    };
    routing_key.as_str().strip_prefix(prefix)?.parse().ok()
}
