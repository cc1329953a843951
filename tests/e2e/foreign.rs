//! Clients that others wrote, unmodified, doing what they do in their own first examples and on their worst days.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use support::envoy::{Envoy, Mode, Options, Shipped};
use support::mosquitto::Mosquitto;
use support::{ports, process};

use crate::mqtt::{Client, Connect, puback, publish};
use crate::python;
use crate::world::{PATIENCE, broker, folder, has_broker, mqtt, own_envoy_with, to};

const MQTT_JS: [&str; 2] = ["4", "5"];

// ------------------------------------------------------------ MQTT.js

#[test]
fn mqtt_js_s_first_example_gets_its_message() -> Result<()> {
    for version in MQTT_JS {
        for round in 0..10 {
            let id = format!("js-first-{version}-{round}");
            let seen = mqtt_js(version, mqtt(Mode::Lazy), "first", &id)?;
            assert_eq!(seen, [format!("{id}/presence Hello mqtt"), "closed".to_owned()]);
        }
    }
    Ok(())
}

#[test]
fn mqtt_js_s_end_raises_no_error() -> Result<()> {
    for version in MQTT_JS {
        for round in 0..20 {
            let seen = mqtt_js(version, mqtt(Mode::Lazy), "end", &format!("js-end-{version}-{round}"))?;
            assert_eq!(seen, ["ended"], "version {version}, round {round}");
        }
    }
    Ok(())
}

#[test]
fn mqtt_js_comes_again_to_its_session() -> Result<()> {
    for version in MQTT_JS {
        let id = format!("js-again-{version}");
        let seen = mqtt_js(version, mqtt(Mode::Lazy), "again", &id)?;
        let meanwhile = format!("{id}/topic meanwhile");
        let first = "connected 1, session present false";
        assert_eq!(seen, [first, "connected 2, session present true", &meanwhile]);
    }
    Ok(())
}

/// What it prints, whatever its exit status is.
fn mqtt_js(version: &str, address: SocketAddr, what: &str, id: &str) -> Result<Vec<String>> {
    let port = address.port().to_string();
    let output = Command::new("node")
        .env("NODE_PATH", support::root().join(".tools/node/node_modules"))
        .arg(source("mqtt_js_client.js"))
        .args([version, &port, what, id])
        .output()
        .context("node")?;
    ensure!(output.stderr.is_empty(), "{id}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

// ------------------------------------------------------------ paho C

#[test]
fn paho_c_subscribes_and_publishes_without_waiting() -> Result<()> {
    for round in 0..10 {
        let id = format!("paho-c-{round}");
        let seen = paho_c(&PAHO_ASYNC, &id, &format!("{id}/topic"))?;
        assert_eq!(seen, format!("{id}/topic hello from C\n"));
    }
    Ok(())
}

#[test]
fn paho_c_leaves_something_unread_and_its_will_is_not_sent() -> Result<()> {
    let mut watcher = Client::login(mqtt(Mode::Lazy), "paho-c-watcher")?;
    watcher.subscribe("paho-c-leaves/+/will", 1)?;
    for round in 0..10 {
        let id = format!("paho-c-leaves-{round}");
        assert_eq!(paho_c(&PAHO_SYNC, &id, &format!("paho-c-leaves/{round}"))?, "left\n");
        // Who takes the client id over has waited for the old connection's will, if there is one.
        Client::login(mqtt(Mode::Lazy), &id)?.disconnect()?;
    }
    watcher.publish("paho-c-leaves/fence/will", b"")?;
    assert_eq!(watcher.receive()?.topic, "paho-c-leaves/fence/will", "a will was sent");
    Ok(())
}

fn paho_c(program: &LazyLock<PathBuf>, id: &str, topic: &str) -> Result<String> {
    let port = mqtt(Mode::Lazy).port().to_string();
    let output = Command::new(&**program).args([&port, id, topic]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{id}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

static PAHO_ASYNC: LazyLock<PathBuf> = LazyLock::new(|| compiled("paho_async", "paho-mqtt3a").unwrap());
static PAHO_SYNC: LazyLock<PathBuf> = LazyLock::new(|| compiled("paho_sync", "paho-mqtt3c").unwrap());

/// A program in C of this folder.
fn compiled(name: &str, library: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(folder("c"))?;
    let program = folder("c").join(name);
    let source = source(&format!("{name}.c"));
    let compiler =
        Command::new("cc").arg("-o").arg(&program).arg(source).arg(format!("-l{library}")).output();
    let output = compiler.context("cc")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}

// ------------------------------------------------------------ mosquitto as a bridge

/// It is a client with a persistent session, a retained will for its own state, and filters that it subscribes to at once.
#[test]
fn mosquitto_bridges_both_ways() -> Result<()> {
    // What was retained here before it comes, and what it has itself.
    let mut device = Client::login(mqtt(Mode::Lazy), "bridge-device")?;
    device.send(&publish(0x33, "bridge/here/early", 1, b"kept here"))?;
    device.hears(&puback(1))?;
    let state = "$SYS/broker/connection/leveret-bridge/state";
    let mut watcher = Client::login(mqtt(Mode::Lazy), "bridge-watcher")?;
    watcher.subscribe(state, 1)?;
    let conf = [
        "connection leveret-bridge".to_owned(),
        format!("address {}", mqtt(Mode::Lazy)),
        "remote_clientid bridge".to_owned(),
        "bridge_protocol_version mqttv311".to_owned(),
        format!("notification_topic {state}"),
        "cleansession false".to_owned(),
        "restart_timeout 1".to_owned(),
        // No loop: each side has topics of its own.
        "topic bridge/here/# in 1".to_owned(),
        "topic bridge/there/# out 1".to_owned(),
        "topic bridge/both/# both 1".to_owned(),
    ];
    let other = Mosquitto::start(&folder("bridge"), &conf)?;
    assert_eq!(watcher.receive()?.text(), "1", "{}", other.log());

    let mut there = Client::login(other.address(), "there")?;
    there.subscribe("bridge/here/#", 1)?;
    let early = there.receive()?;
    assert_eq!((&*early.topic, &*early.text()), ("bridge/here/early", "kept here"), "{}", other.log());

    let mut here = Client::login(mqtt(Mode::Lazy), "here")?;
    here.subscribe("bridge/there/#", 1)?;
    for n in 0..50 {
        let payload = format!("{n}");
        device.publish_safely("bridge/here/a", payload.as_bytes())?;
        assert_eq!(there.receive()?.text(), payload);
        there.publish_safely("bridge/there/a", payload.as_bytes())?;
        assert_eq!(here.receive()?.text(), payload);
    }
    // What it says with RETAIN is kept at the other side.
    there.send(&publish(0x33, "bridge/there/kept", 2, b"kept there"))?;
    there.hears(&puback(2))?;
    assert_eq!(here.receive()?.text(), "kept there");
    let mut late = Client::login(mqtt(Mode::Lazy), "bridge-late")?;
    late.subscribe("bridge/there/kept", 1)?;
    let kept = late.receive()?;
    assert_eq!((kept.retain, &*kept.text()), (true, "kept there"));

    // Both ways on one topic: what a bridge has brought it does not bring back.
    let mut both_here = Client::login(mqtt(Mode::Lazy), "bridge-both-here")?;
    let mut both_there = Client::login(other.address(), "bridge-both-there")?;
    both_here.subscribe("bridge/both/#", 1)?;
    both_there.subscribe("bridge/both/#", 1)?;
    both_here.send(&publish(0x32, "bridge/both/from-here", 9, b"x"))?;
    assert_eq!(both_there.receive()?.topic, "bridge/both/from-here");
    both_there.send(&publish(0x32, "bridge/both/from-there", 9, b"x"))?;
    let mut topics = BTreeSet::new();
    while topics.len() < 2 {
        let packet = both_here.packet()?;
        if packet[0] & 0xf0 == 0x30 {
            let message = crate::mqtt::Message::read(&packet)?;
            both_here.acknowledge(&message)?;
            topics.insert(message.topic);
        }
    }
    assert_eq!(topics, ["bridge/both/from-here", "bridge/both/from-there"].map(str::to_owned).into());

    // Its will tells that it is gone.
    drop(other);
    assert_eq!(watcher.receive()?.text(), "0");
    let mut late = Client::login(mqtt(Mode::Lazy), "bridge-late")?;
    late.subscribe(state, 1)?;
    assert_eq!(late.receive()?.text(), "0");
    // Its session is of no use to anybody.
    Client::login_as(mqtt(Mode::Lazy), &Connect { client_id: "bridge", ..Connect::default() })?.disconnect()
}

// ------------------------------------------------------------ paho Python, a fleet of it

/// Envoy dies under twenty clients, again and again; they all come back at once and read 300 retained topics.
#[test]
fn paho_clients_come_back_at_once_and_all_get_all() -> Result<()> {
    const TOPICS: usize = 300;
    let topic = |n: usize| format!("storm/sensor/{n}/config");
    let mut device = Client::login(mqtt(Mode::Lazy), "storm-device")?;
    for n in 0..TOPICS {
        device.send(&publish(0x33, &topic(n), n as u16 + 1, &[b'x'; 300]))?;
        device.hears(&puback(n as u16 + 1))?;
    }
    let [port] = ports::free()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let shipped = Shipped { mqtt: address, ..to(Mode::Lazy, broker().amqp_address()) };
    let start = || -> Result<Envoy> { own_envoy_with("storm", &shipped, &Options::default()) };
    let mut envoy = start()?;

    let arguments = [port.to_string(), "storm".to_owned(), "20".to_owned(), TOPICS.to_string()];
    let mut command = python::command("storm_client.py", &arguments.each_ref().map(String::as_str))?;
    let mut fleet = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut orders = fleet.stdin.take().context("stdin")?;
    let mut lines = BufReader::new(fleet.stdout.take().context("stdout")?).lines();
    let mut line = || lines.next().context("it has ended")?.map_err(anyhow::Error::from);
    let expected = format!("20 of 20 have had all of {TOPICS}");
    assert_eq!(line()?, expected, "the first time");
    for time in 0..3 {
        orders.write_all(b"again\n")?;
        assert_eq!(line()?, "told");
        envoy.process().kill()?;
        envoy = start()?;
        has_broker(&envoy)?;
        assert_eq!(line()?, expected, "after {} deaths of Envoy", time + 1);
    }
    drop(orders);
    process::wait_until("the fleet has ended", PATIENCE, || fleet.try_wait().ok()?)?;
    for n in 0..TOPICS {
        device.send(&publish(0x33, &topic(n), n as u16 + 1, b""))?;
        device.hears(&puback(n as u16 + 1))?;
    }
    Ok(())
}

fn source(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(name)
}
