//! What the shipped files do when the broker comes and goes, without the filter: whether the broker or the echo
//! answers. The filter makes CONNACK 3 of the echo.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use support::envoy::{Envoy, Mode, Options, Shipped, named};
use support::{ports, process};

#[test]
fn without_a_broker_the_echo_answers_and_with_one_the_broker() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        let [port] = ports::free()?;
        let envoy = start(mode, &[port])?;
        assert_eq!(ask(&envoy.proxy)?, HELLO, "{mode:?}, broker never there");

        let broker = Broker::start(port)?;
        process::wait_until("the broker is used", PATIENCE, || {
            (ask(&envoy.proxy).ok()? == BROKER).then_some(())
        })?;

        broker.stop();
        // Whoever comes now waits until Envoy has seen that the broker is gone, and is answered then.
        assert_eq!(ask(&envoy.proxy)?, HELLO, "{mode:?}, broker gone");
    }
    Ok(())
}

#[test]
fn one_broker_of_two_is_enough_for_everybody() -> Result<()> {
    let [there, absent] = ports::free()?;
    let _broker = Broker::start(there)?;
    let envoy = start(Mode::Lazy, &[there, absent])?;
    for _ in 0..20 {
        assert_eq!(ask(&envoy.proxy)?, BROKER);
    }
    Ok(())
}

struct Proxy {
    _folder: tempfile::TempDir,
    _envoy: Envoy,
    proxy: SocketAddr,
}

fn start(mode: Mode, brokers: &[u16]) -> Result<Proxy> {
    let folder = tempfile::tempdir()?;
    let mut config = Shipped { mode, ..Shipped::default() }.render()?;
    let lists = &mut config["static_resources"];
    let mqtt = named(&mut lists["listeners"], "mqtt").map(|mqtt| &mut mqtt["filter_chains"][0]["filters"]);
    let filters = mqtt.and_then(Value::as_array_mut).expect("the listener's filters");
    filters.retain(|filter| filter["name"] != "leveret");
    let endpoints: Vec<Value> = brokers
        .iter()
        .map(
            |port| json!({ "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } } }),
        )
        .map(|address| json!({ "endpoint": address }))
        .collect();
    let broker = named(&mut lists["clusters"], "broker").expect("the cluster");
    broker["load_assignment"]["endpoints"][0]["lb_endpoints"] = json!(endpoints);
    let envoy = Envoy::start(folder.path(), &config, &Options::default())?;
    let proxy = envoy.address("mqtt")?;
    Ok(Proxy { _folder: folder, _envoy: envoy, proxy })
}

/// Says hello through Envoy and gives what comes back.
fn ask(proxy: &SocketAddr) -> Result<[u8; 8]> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&HELLO)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Answers everybody with [`BROKER`].
struct Broker {
    address: SocketAddr,
    thread: thread::JoinHandle<()>,
}

impl Broker {
    fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                // A health check is gone before it is answered; `stop` says so with a byte of its own.
                let (Ok(mut stream), mut hello) = (stream, [0; 8]) else { continue };
                match stream.read(&mut hello) {
                    Ok(1) if hello.starts_with(&STOP) => return,
                    _ => drop(stream.write_all(&BROKER)),
                }
            }
        });
        Ok(Self { address, thread })
    }

    fn stop(self) {
        let told = TcpStream::connect(self.address).and_then(|mut stream| stream.write_all(&STOP));
        told.expect("the broker listens");
        self.thread.join().expect("the broker has ended well");
    }
}

/// The AMQP 0-9-1 protocol header: what the filter says first.
const HELLO: [u8; 8] = *b"AMQP\0\0\x09\x01";
const BROKER: [u8; 8] = *b"a broker";
const STOP: [u8; 1] = [0xff];
/// Twice what connecting to a broker that does not answer may take, and then some.
const PATIENCE: Duration = Duration::from_secs(20);
