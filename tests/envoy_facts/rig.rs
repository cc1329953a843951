//! One Envoy with the probe between a client and a broker, both played by the test.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use support::envoy::{Envoy, Options};
use support::process::wait_until;
use tempfile::TempDir;

use crate::module;

/// Everything here takes milliseconds; this only turns a hang into a failure, on a machine busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// When `tcp_proxy` connects to the broker.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// When bytes of the client have come through the probe.
    Lazy,
    /// At once.
    Eager,
}

/// What every lazy test gives `tcp_proxy` as `max_early_data_bytes`.
pub(crate) const EARLY_DATA: usize = 1000;

pub(crate) struct Rig {
    pub(crate) envoy: Envoy,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    broker: TcpListener,
    /// Where files of the test can go; removed after Envoy has ended.
    pub(crate) folder: TempDir,
}

impl Rig {
    /// Envoy with a probe that does what `script` says (`tests/probe/src/script.rs` has the words).
    pub(crate) fn start(mode: Mode, script: Value) -> Rig {
        Rig::with(mode, script, |_, _| ())
    }

    /// The same, with changes to the bootstrap before Envoy sees it; they may put files into the folder.
    pub(crate) fn with(mode: Mode, script: Value, change: impl FnOnce(&mut Value, &Path)) -> Rig {
        Rig::with_workers(1, mode, script, change)
    }

    /// The same with several worker threads, each of which has a VM of its own.
    pub(crate) fn with_workers(
        concurrency: u32,
        mode: Mode,
        script: Value,
        change: impl FnOnce(&mut Value, &Path),
    ) -> Rig {
        let folder = TempDir::new().unwrap();
        let broker = listen();
        let mut bootstrap = bootstrap(mode, script, broker.local_addr().unwrap());
        change(&mut bootstrap, folder.path());
        let options = Options { concurrency, ..Options::default() };
        let envoy = Envoy::start(folder.path(), &bootstrap, &options).unwrap();
        let address = envoy.address("facts").unwrap();
        Rig { envoy, address, broker, folder }
    }

    /// A new client.
    pub(crate) fn client(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    /// A new client of another listener.
    pub(crate) fn client_of(&self, listener: &str) -> TcpStream {
        patient(TcpStream::connect(self.envoy.address(listener).unwrap()).unwrap())
    }

    /// The next connection that Envoy made to the broker.
    pub(crate) fn broker(&self) -> TcpStream {
        accept(&self.broker)
    }

    /// Whether Envoy has made no connection to the broker (that was not accepted yet).
    pub(crate) fn broker_is_untouched(&self) -> bool {
        self.broker.set_nonblocking(true).unwrap();
        let result = self.broker.accept();
        self.broker.set_nonblocking(false).unwrap();
        matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Does this while Envoy stands still, so that it finds all of it at once.
    pub(crate) fn while_frozen<T>(&mut self, act: impl FnOnce() -> T) -> T {
        self.envoy.process().signal(Signal::STOP).unwrap();
        let result = act();
        self.envoy.process().signal(Signal::CONT).unwrap();
        result
    }

    /// Waits for the probe to say this; the rest of that line.
    pub(crate) fn said(&self, text: &str) -> String {
        self.said_times(text, 1)
    }

    /// Waits for the probe to say this `times` times; the rest of the last of these lines.
    pub(crate) fn said_times(&self, text: &str, times: usize) -> String {
        wait_until(&format!("{text:?}, {times} times"), PATIENCE, || {
            self.sayings(text).into_iter().nth(times - 1)
        })
        .unwrap_or_else(|error| panic!("{error}; it said:\n{}", self.sayings("").join("\n")))
    }

    /// Puts another probe in the place of the one that was [`discover`]ed.
    pub(crate) fn swap(&self, probe: &Value) {
        provide(self.folder.path(), probe);
        let reloads = "extension_config_discovery.network_filter.probe.config_reload";
        self.envoy.stat_until(reloads, PATIENCE, |reloads| reloads == 2).unwrap();
    }

    /// What the probe has said after this text so far.
    pub(crate) fn sayings(&self, text: &str) -> Vec<String> {
        let log = self.envoy.log();
        let said = log.lines().filter_map(|line| line.split_once(": probe #")?.1.split_once(text));
        said.map(|(_, rest)| rest.to_owned()).collect()
    }

    /// The same by the thread on which it was said, as Envoy's log has it.
    pub(crate) fn sayings_by_thread(&self, text: &str) -> BTreeMap<String, Vec<String>> {
        let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in self.envoy.log().lines() {
            if let Some((head, what)) = line.split_once(": probe #")
                && let Some((_, rest)) = what.split_once(text)
                && let Some(thread) = head.split("][").nth(1)
            {
                said.entry(thread.to_owned()).or_default().push(rest.to_owned());
            }
        }
        said
    }
}

/// A server of the test's own.
pub(crate) fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // On Linux this is also how long `accept` waits.
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
    listener
}

/// The next connection to it.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

/// Puts another broker in the place of the rig's own.
pub(crate) fn replace_broker(bootstrap: &mut Value, broker: &TcpListener) {
    let address = address(broker.local_addr().unwrap());
    bootstrap["static_resources"]["clusters"][0] = cluster("broker", address);
}

/// A broker that lets Envoy's connection hang (its backlog is full) until it is told to accept.
pub(crate) struct Deaf {
    pub(crate) listener: TcpListener,
    in_the_way: Vec<TcpStream>,
}

impl Deaf {
    pub(crate) fn new() -> Deaf {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        // A connection that is not there at once on loopback waits for room in the backlog.
        let full = Duration::from_millis(100);
        let in_the_way = std::iter::from_fn(|| TcpStream::connect_timeout(&address, full).ok()).collect();
        Deaf { listener, in_the_way }
    }

    /// Makes room and takes the connection of Envoy, whose kernel tries again within seconds.
    pub(crate) fn accept(mut self) -> TcpStream {
        for _ in self.in_the_way.drain(..) {
            drop(self.listener.accept().unwrap());
        }
        accept(&self.listener)
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What the tests do with a socket, the client's or the broker's.
pub(crate) trait Talk {
    fn say(&mut self, bytes: impl AsRef<[u8]>);
    /// The next bytes that come are these.
    fn hears(&mut self, bytes: impl AsRef<[u8]>);
    /// Everything that still comes, as text, and how it ends.
    fn rest(&mut self) -> (String, End);
    /// FIN: nothing more to say, still listening.
    fn finish(&self);
    /// RST.
    fn reset(self);
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Rst,
}

impl Talk for TcpStream {
    fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.write_all(bytes.as_ref()).unwrap();
    }

    fn hears(&mut self, bytes: impl AsRef<[u8]>) {
        let mut got = vec![0; bytes.as_ref().len()];
        self.read_exact(&mut got).unwrap();
        assert_eq!(got.escape_ascii().to_string(), bytes.as_ref().escape_ascii().to_string());
    }

    fn rest(&mut self) -> (String, End) {
        let (mut all, mut piece) = (Vec::new(), [0; 65536]);
        let end = loop {
            match self.read(&mut piece) {
                Ok(0) => break End::Fin,
                Ok(size) => all.extend_from_slice(&piece[..size]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break End::Rst,
                Err(error) => panic!("{error}, after {}", all.escape_ascii()),
            }
        };
        (all.escape_ascii().to_string(), end)
    }

    fn finish(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }

    fn reset(self) {
        SockRef::from(&self).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// One listener, the probe, `tcp_proxy`, one cluster.
fn bootstrap(mode: Mode, script: Value, broker: SocketAddr) -> Value {
    let mut tcp_proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "broker",
        "cluster": "broker",
    });
    if let Mode::Lazy = mode {
        tcp_proxy["upstream_connect_mode"] = json!("ON_DOWNSTREAM_DATA");
        tcp_proxy["max_early_data_bytes"] = json!(EARLY_DATA);
    }
    let filters = json!([
        { "name": "probe", "typed_config": probe(script) },
        { "name": "tcp_proxy", "typed_config": tcp_proxy },
    ]);
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    json!({
        "admin": { "address": address(any_port) },
        "static_resources": {
            "listeners": [{
                "name": "facts",
                "address": address(any_port),
                "filter_chains": [{ "name": "the chain", "filters": filters }],
            }],
            "clusters": [cluster("broker", address(broker))],
        },
    })
}

/// The probe as a network filter's `typed_config`.
pub(crate) fn probe(script: Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
        "config": {
            "name": "the plugin",
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": script.to_string(),
            },
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": { "local": { "filename": module::probe() } },
            },
        },
    })
}

/// A cluster with one endpoint.
pub(crate) fn cluster(name: &str, address: Value) -> Value {
    json!({
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

/// A TCP address as Envoy writes it.
pub(crate) fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// Puts another cluster beside the broker's.
pub(crate) fn add_cluster(bootstrap: &mut Value, cluster: Value) {
    bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
}

/// Puts another listener with a probe of its own in front of the broker; gives that plugin.
pub(crate) fn add_listener<'a>(bootstrap: &'a mut Value, name: &str, script: Value) -> &'a mut Value {
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
    let mut listener = listeners[0].clone();
    listener["name"] = json!(name);
    let filter = &mut listener["filter_chains"][0]["filters"][0];
    filter["typed_config"] = probe(script);
    listeners.push(listener);
    &mut listeners.last_mut().unwrap()["filter_chains"][0]["filters"][0]["typed_config"]["config"]
}

/// Lets the filter come from a file, the way our own files have it. Moves it there.
pub(crate) fn discover(bootstrap: &mut Value, folder: &Path, probe: &Value) {
    bootstrap["node"] = json!({ "id": "facts", "cluster": "facts" });
    *filter(bootstrap) = json!({
        "name": "probe",
        "config_discovery": {
            "type_urls": ["type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm"],
            "config_source": {
                "resource_api_version": "V3",
                "path_config_source": { "path": provide(folder, probe) },
            },
        },
    });
}

/// Moves a file with the probe in place, the way Envoy notices.
fn provide(folder: &Path, probe: &Value) -> PathBuf {
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "probe",
        "typed_config": probe,
    });
    let (file, path) = (folder.join("written.json"), folder.join("probe.json"));
    fs::write(&file, json!({ "resources": [resource] }).to_string()).unwrap();
    fs::rename(&file, &path).unwrap();
    path
}

/// As our own files have it: a trap is not the end of the filter, and the next VM comes soon.
pub(crate) fn reload_after_traps(bootstrap: &mut Value) {
    let plugin = &mut filter(bootstrap)["typed_config"]["config"];
    plugin["failure_policy"] = json!("FAIL_RELOAD");
    plugin["reload_config"] = json!({ "backoff": { "base_interval": "0.02s" } });
}

/// The probe in the bootstrap.
pub(crate) fn filter(bootstrap: &mut Value) -> &mut Value {
    &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
}
