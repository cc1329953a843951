//! What `leveret import` makes of a RabbitMQ with its MQTT plugin lets the same users do the same things.
//!
//! Users with all kinds of rights come with all kinds of credentials to both listeners of the plugin, and what they are told and
//! what arrives where is noted. Then the same again at an Envoy with what the command has made, in front of the same broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::envoy::{self, Envoy};
use support::ports;
use support::rabbitmq::{Options, Rabbitmq};

use crate::mqtt::{Client, Connect, Message, PUBACK, publish, subscribe};
use crate::world::{PATIENCE, can_be_lazy, folder};

/// What became of each thing that was tried.
type Outcomes = BTreeMap<String, String>;

/// What is not the same.
struct Exception {
    /// In what was tried.
    tried: &'static str,
    plugin: &'static str,
    edge: &'static str,
    /// The command's remark that says so. Without one it is documented.
    remark: Option<&'static str>,
}

#[test]
fn the_same_users_do_the_same_things_behind_what_import_makes() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let house = House::open()?;
    let plugin = house.try_everything(Ipv4Addr::LOCALHOST, SILENCE)?;

    let imported = house.import("import", &[])?;
    imported.has_named(&[
        "rabbitmq_mqtt",
        "retained messages",
        "mqtt.retained_message_store",
        "mqtt.retained_message_store_dets_sync_interval",
        "limits of user `strong`",
        "permissions of `exact` in `lab`",
        "topic_permissions of `byid` in `lab` on `amq.topic`",
    ])?;
    assert_eq!(imported.plugin["mqtt_default_vhosts"], json!({ "O=client,CN=device-7": "factory" }));
    let edge = house.try_everything(EDGE, PATIENCE)?;
    compare(&plugin, &edge, &imported, &OWN_ACCOUNTS)?;
    drop(imported);

    // What the broker would refuse of their own accounts, it permits to the one that stands in for them.
    let account = house.folder.join("edge-pass");
    fs::write(&account, "edge\n")?;
    let account = account.display().to_string();
    let imported =
        house.import("import-account", &["--broker-user", "edge", "--broker-pass-file", &account])?;
    let edge = house.try_everything(EDGE, PATIENCE)?;
    compare(&plugin, &edge, &imported, &[])
}

/// Fails for each difference that is no exception, and for each exception that is none any more.
fn compare(plugin: &Outcomes, edge: &Outcomes, imported: &Imported, own: &[Exception]) -> Result<()> {
    let exceptions: Vec<_> = ALWAYS.iter().chain(own).collect();
    let mut different = Vec::new();
    let mut met = BTreeSet::new();
    for (tried, of_plugin) in plugin {
        let of_edge = edge.get(tried).context("tried once")?;
        if of_plugin == of_edge {
            continue;
        }
        let exception = exceptions.iter().position(|it| {
            tried.contains(it.tried) && of_plugin.starts_with(it.plugin) && of_edge.starts_with(it.edge)
        });
        match exception {
            Some(number) => drop(met.insert(number)),
            None => different.push(format!("{tried}: {of_plugin}, at the edge {of_edge}")),
        }
    }
    ensure!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    for (number, exception) in exceptions.iter().enumerate() {
        ensure!(met.contains(&number), "`{}` is no exception any more", exception.tried);
        imported.has_named(exception.remark.as_slice())?;
    }
    eprintln!("{} things tried, {} exceptions", plugin.len(), exceptions.len());
    Ok(())
}

/// A RabbitMQ with its plugin, as somebody has had it for years.
struct House {
    broker: Rabbitmq,
    folder: std::path::PathBuf,
    /// The plugin's listeners.
    ports: [u16; 2],
}

impl House {
    fn open() -> Result<Self> {
        let [factory] = ports::free()?;
        let conf = [
            format!("mqtt.listeners.tcp.factory = 127.0.0.1:{factory}"),
            "mqtt.vhost = lab".to_owned(),
            "mqtt.allow_anonymous = true".to_owned(),
            "mqtt.default_user = visitor".to_owned(),
            "mqtt.default_pass = visitor".to_owned(),
            "mqtt.prefetch = 20".to_owned(),
            "mqtt.subscription_ttl = 3600000".to_owned(),
            "mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_ets".to_owned(),
            "mqtt.retained_message_store_dets_sync_interval = 2000".to_owned(),
            "mqtt.tcp_listen_options.backlog = 256".to_owned(),
            "mqtt.tcp_listen_options.nodelay = true".to_owned(),
            "loopback_users.guest = true".to_owned(),
        ];
        let plugins = vec!["rabbitmq_management", "rabbitmq_mqtt"];
        let folder = folder("import-broker");
        let broker = Rabbitmq::start(&folder, &Options { plugins, conf: conf.into() })?;
        let house = Self { ports: [broker.ports.mqtt, factory], broker, folder };
        house.furnish()?;
        Ok(house)
    }

    /// Users, and where each may do what.
    fn furnish(&self) -> Result<()> {
        let broker = &self.broker;
        for vhost in VHOSTS.iter().filter(|vhost| **vhost != "/") {
            broker.api_put(&format!("vhosts/{vhost}"), &json!({}))?;
        }
        let user =
            |name: &str| broker.api_put(&format!("users/{name}"), &json!({ "password": name, "tags": "" }));
        let may = |name: &str, vhost: &str, [configure, write, read]: [&str; 3]| {
            let permissions = json!({ "configure": configure, "write": write, "read": read });
            broker.api_put(&format!("permissions/{}/{name}", vhost.replace('/', "%2F")), &permissions)
        };
        let topics = |name: &str, [write, read]: [&str; 2]| {
            let topics = json!({ "exchange": "amq.topic", "write": write, "read": read });
            broker.api_put(&format!("topic-permissions/lab/{name}"), &topics)
        };
        for name in ["sensor", "mute", "nobody", "exact", "byid", "visitor", "edge"] {
            user(name)?;
        }
        let hashing =
            |module: &str| format!("application:set_env(rabbit, password_hashing_module, {module}).");
        broker.ctl(&["eval", &hashing("rabbit_password_hashing_sha512")])?;
        user("strong")?;
        broker.ctl(&["eval", &hashing("rabbit_password_hashing_sha256")])?;
        for vhost in VHOSTS {
            may("guest", vhost, [".*"; 3])?;
            may("edge", vhost, [".*"; 3])?;
        }
        for vhost in ["lab", "factory"] {
            may("sensor", vhost, [".*"; 3])?;
        }
        topics("sensor", [r"^devices\.{username}\.", r"^(devices\.{username}|news)\."])?;
        may("strong", "factory", [".*"; 3])?;
        may("mute", "lab", ["^mqtt-", "^mqtt-", ".*"])?;
        let exact = r"^(mqtt-subscription-exact[0-9]+qos[01]|amq\.topic)$";
        may("exact", "lab", [exact; 3])?;
        may("byid", "lab", [".*"; 3])?;
        topics("byid", [r"^own\.{client_id}\."; 2])?;
        may("visitor", "lab", [".*"; 3])?;
        broker.api_put("user-limits/strong/max-channels", &json!({ "value": 50 }))?;

        let by_port = json!({ self.ports[1].to_string(): "factory" }).to_string();
        broker.ctl(&["set_global_parameter", "mqtt_port_to_vhost_mapping", &by_port])?;
        let by_certificate = json!({ "O=client,CN=device-7": "factory" }).to_string();
        broker.ctl(&["set_global_parameter", "mqtt_default_vhosts", &by_certificate])?;
        Ok(())
    }

    /// An Envoy with what the command makes of all this. Its listeners have the plugin's ports, which are in a mapping, at another
    /// address.
    fn import(&self, name: &str, options: &[&str]) -> Result<Imported> {
        let definitions = self.folder.join("definitions.json");
        self.broker.ctl(&["export_definitions".as_ref(), definitions.as_os_str()])?;
        let made = folder(name);
        let output = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .args(["import", "--json", "--conf"])
            .arg(self.folder.join("rabbitmq.conf"))
            .arg("--definitions")
            .arg(&definitions)
            .arg("--output")
            .arg(&made)
            .arg("--module")
            .arg(envoy::module())
            .args(["--broker", &self.broker.amqp_address().to_string()])
            .args(options)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let mut answer: Value = serde_json::from_slice(&output.stdout)?;
        let plugin = serde_json::from_str(&fs::read_to_string(made.join("leveret.json"))?)?;
        let envoy = Envoy::start(&made, &self.moved(&made.join("envoy.yaml"))?, &envoy::Options::default())?;
        Ok(Imported { _envoy: envoy, plugin, remarks: answer["remarks"].take() })
    }

    fn moved(&self, file: &Path) -> Result<Value> {
        let mut config = envoy::parse_yaml(&fs::read_to_string(file)?)?;
        config["admin"]["address"]["socket_address"]["port_value"] = json!(0);
        let mut ports = Vec::new();
        for listener in config["static_resources"]["listeners"].as_array_mut().into_iter().flatten() {
            if let Some(address) = listener.pointer_mut("/address/socket_address") {
                ensure!(address["address"] == "127.0.0.1", "{address}");
                address["address"] = json!(EDGE);
                ports.extend(address["port_value"].as_u64());
            }
        }
        ports.sort_unstable();
        let mut expected = self.ports.map(u64::from);
        expected.sort_unstable();
        ensure!(ports == expected, "listeners of {ports:?} for {expected:?}");
        Ok(config)
    }

    /// All users with all credentials, at both listeners of whoever serves at `ip`.
    fn try_everything(&self, ip: Ipv4Addr, silence: Duration) -> Result<Outcomes> {
        let mut outcomes = Outcomes::new();
        let mut witnesses =
            VHOSTS.map(|vhost| self.witness(vhost)).into_iter().collect::<Result<Vec<_>>>()?;
        let mut trial = Trial { witnesses: &mut witnesses, silence, count: 0 };
        for (place, port) in ["lab's port", "factory's port"].into_iter().zip(self.ports) {
            let address = SocketAddr::from((ip, port));
            for user in USERS {
                for prefix in ["", "lab:", "factory:", "/:", "nowhere:"] {
                    let name = format!("{prefix}{user}");
                    let right = Credentials { user, username: Some(&name), password: Some(user) };
                    let tried = format!("{name} at {place}");
                    trial.everything(&tried, address, &right, &mut outcomes)?;
                }
                for (what, password) in
                    [("a wrong password", Some("wrong")), ("none", None), ("an empty one", Some(""))]
                {
                    let credentials = Credentials { user, username: Some(user), password };
                    let answer = trial.connect(address, &credentials)?.1;
                    outcomes.insert(format!("{user} with {what} at {place}"), answer);
                }
            }
            let anonymous = Credentials { user: "visitor", username: None, password: None };
            trial.everything(
                &format!("without credentials at {place}"),
                address,
                &anonymous,
                &mut outcomes,
            )?;
            let headless = Credentials { user: "visitor", username: None, password: Some("visitor") };
            outcomes.insert(format!("a password alone at {place}"), trial.connect(address, &headless)?.1);
        }
        Ok(outcomes)
    }

    /// Sees all that is published in a virtual host, by way of the plugin.
    fn witness(&self, vhost: &'static str) -> Result<Witness> {
        let user = format!("{vhost}:guest");
        let id = format!("witness-{}", vhost.replace('/', "root"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]));
        let connect = Connect {
            client_id: &id,
            username: Some(&user),
            password: Some("guest"),
            keep_alive: 0,
            ..Connect::default()
        };
        let mut client = Client::login_as(address, &connect)?;
        client.subscribe("#", 0)?;
        Ok(Witness { vhost, client })
    }
}

struct Imported {
    _envoy: Envoy,
    plugin: Value,
    remarks: Value,
}

impl Imported {
    fn has_named(&self, keys: &[&str]) -> Result<()> {
        for key in keys {
            let mut remarks = self.remarks.as_array().into_iter().flatten();
            ensure!(remarks.any(|remark| remark["key"] == *key), "{key} is not in {:#}", self.remarks);
        }
        Ok(())
    }
}

struct Witness {
    vhost: &'static str,
    client: Client,
}

impl Witness {
    /// What has come, up to a message of its own, behind everything that was confirmed before.
    fn seen(&mut self) -> Result<Vec<Message>> {
        self.client.publish("marker", b"")?;
        let mut seen = Vec::new();
        loop {
            match self.client.receive()? {
                marker if marker.topic == "marker" => return Ok(seen),
                message => seen.push(message),
            }
        }
    }
}

struct Credentials<'a> {
    /// Whose they are.
    user: &'a str,
    username: Option<&'a str>,
    password: Option<&'a str>,
}

struct Trial<'a> {
    witnesses: &'a mut [Witness],
    /// How long to wait for an answer to a PUBLISH.
    silence: Duration,
    /// Client ids so far: none comes twice, since a queue of the plugin's ends a moment after its client.
    count: u32,
}

impl Trial<'_> {
    /// Connects, and if that works, publishes and subscribes each topic on a connection of its own.
    fn everything(
        &mut self,
        tried: &str,
        address: SocketAddr,
        credentials: &Credentials<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<()> {
        let (client, answer, _) = self.connect(address, credentials)?;
        outcomes.insert(tried.to_owned(), answer);
        let Some(client) = client else { return Ok(()) };
        client.disconnect()?;
        for topic in ["devices/sensor/t", "devices/other/t", "own/ID/t", "plain"] {
            let outcome = self.publish(address, credentials, topic)?;
            outcomes.insert(format!("{tried}, PUBLISH {topic}"), outcome);
        }
        for (filter, qos) in
            [("devices/sensor/+", 1), ("devices/#", 1), ("own/ID/+", 0), ("news/a", 0), ("plain", 1)]
        {
            let outcome = self.subscribe(address, credentials, filter, qos)?;
            outcomes.insert(format!("{tried}, SUBSCRIBE {filter}"), outcome);
        }
        Ok(())
    }

    /// The client if it gets in, what it hears, and its id.
    fn connect(
        &mut self,
        address: SocketAddr,
        credentials: &Credentials<'_>,
    ) -> Result<(Option<Client>, String, String)> {
        self.count += 1;
        let id = format!("{}{}", credentials.user, self.count);
        let Credentials { username, password, .. } = *credentials;
        let mut client = Client::connect(address)?;
        client.send(&Connect { client_id: &id, username, password, ..Connect::default() }.bytes())?;
        Ok(match client.packet() {
            Ok(packet) if packet == [0x20, 2, 0, 0] => (Some(client), "in".to_owned(), id),
            Ok(packet) => (None, format!("CONNACK {}", packet.last().context("a code")?), id),
            Err(_) => (None, "closed".to_owned(), id),
        })
    }

    fn login(&mut self, address: SocketAddr, credentials: &Credentials<'_>) -> Result<(Client, String)> {
        let (client, answer, id) = self.connect(address, credentials)?;
        Ok((client.context(answer)?, id))
    }

    fn publish(&mut self, address: SocketAddr, credentials: &Credentials<'_>, topic: &str) -> Result<String> {
        let (mut client, id) = self.login(address, credentials)?;
        client.send(&publish(0x32, &topic.replace("ID", &id), 1, id.as_bytes()))?;
        client.0.set_read_timeout(Some(self.silence))?;
        let mut answer = client.packet();
        let mut arrived = Vec::new();
        for witness in self.witnesses.iter_mut() {
            let seen = witness.seen()?;
            arrived.extend(seen.iter().filter(|it| it.payload == id.as_bytes()).map(|_| witness.vhost));
        }
        if is_silence(&answer) && !arrived.is_empty() {
            // On its way.
            client.0.set_read_timeout(Some(PATIENCE))?;
            answer = client.packet();
        }
        let answer = match &answer {
            Ok(packet) if packet == PUBACK => "published",
            Ok(_) => "something else",
            Err(_) if is_silence(&answer) => "nothing said",
            Err(_) => "closed",
        };
        Ok(format!("{answer}, arrived in {arrived:?}"))
    }

    fn subscribe(
        &mut self,
        address: SocketAddr,
        credentials: &Credentials<'_>,
        filter: &str,
        qos: u8,
    ) -> Result<String> {
        let (mut client, id) = self.login(address, credentials)?;
        let filter = filter.replace("ID", &id);
        client.send(&subscribe(&[(&filter, qos)]))?;
        let code = match client.packet() {
            Ok(packet) if packet[0] == 0x90 => *packet.last().context("a code")?,
            Ok(packet) => return Ok(format!("something else: {packet:02x?}")),
            Err(_) => return Ok("closed".to_owned()),
        };
        if code == 0x80 {
            client.ping()?;
            return Ok("0x80, and kept".to_owned());
        }
        for witness in self.witnesses.iter_mut() {
            witness.client.publish(&filter.replace(['+', '#'], "t"), witness.vhost.as_bytes())?;
            witness.seen()?;
        }
        let message = client.receive()?;
        Ok(format!("granted {code}, gets QoS {} from {}", message.qos, message.text()))
    }
}

/// Whether the other side neither answers nor closes.
fn is_silence<T>(answer: &Result<T>) -> bool {
    let kind = answer.as_ref().err().and_then(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind);
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

const VHOSTS: [&str; 3] = ["/", "lab", "factory"];
const USERS: [&str; 8] = ["guest", "sensor", "strong", "mute", "nobody", "exact", "byid", "stranger"];

/// The plugin, when it has said nothing for so long and has passed nothing on, is not going to.
const SILENCE: Duration = Duration::from_millis(300);

/// Where Envoy listens, at the plugin's ports.
const EDGE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What is documented in docs/policy.md, or in docs/rules.md for the last.
const ALWAYS: [Exception; 4] = [
    // RabbitMQ 3.10 closes the connection of a client that may not subscribe.
    Exception { tried: ", SUBSCRIBE", plugin: "closed", edge: "0x80, and kept", remark: None },
    // It leaves one that lacks `write` on the exchange without an answer.
    Exception {
        tried: ", PUBLISH",
        plugin: "nothing said, arrived in []",
        edge: "closed, arrived in []",
        remark: None,
    },
    // It tells who has the right password that there is no such virtual host.
    Exception { tried: "nowhere:", plugin: "CONNACK 4", edge: "CONNACK 5", remark: None },
    // [MQTT-3.1.2-22]: a password without a user name is no CONNECT.
    Exception { tried: "a password alone", plugin: "CONNACK 4", edge: "closed", remark: None },
];

/// With each user's own account at the broker, which knows no client ids and permits only RabbitMQ's names of queues.
const OWN_ACCOUNTS: [Exception; 3] = [
    Exception {
        tried: "exact",
        plugin: "granted",
        edge: "0x80, and kept",
        remark: Some("permissions of `exact` in `lab`"),
    },
    Exception {
        tried: "byid",
        plugin: "granted",
        edge: "0x80, and kept",
        remark: Some("topic_permissions of `byid` in `lab` on `amq.topic`"),
    },
    Exception {
        tried: "byid",
        plugin: "published",
        edge: "closed, arrived in []",
        remark: Some("topic_permissions of `byid` in `lab` on `amq.topic`"),
    },
];
