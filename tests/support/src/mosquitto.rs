//! A private mosquitto on loopback: the judge of what an MQTT client may expect, and a neighbour to be bridged with.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::ports;
use crate::process::Process;

/// A running mosquitto; it ends when dropped.
pub struct Mosquitto {
    address: SocketAddr,
    process: Process,
}

impl Mosquitto {
    /// Starts one that keeps nothing on disk, bounds nothing and lets everybody in, with these further lines in its configuration;
    /// returns when it listens.
    pub fn start(folder: &Path, conf: &[String]) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let [port] = ports::free()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut text = format!("listener {port} 127.0.0.1\n{FREELY}");
        for line in conf {
            writeln!(text, "{line}")?;
        }
        let file = folder.join("mosquitto.conf");
        fs::write(&file, text)?;
        let mut command = Command::new(find());
        command.arg("-v").arg("-c").arg(&file);
        let mut process = Process::spawn("mosquitto", &command, &folder.join("mosquitto.log"))?;
        process.wait_until("listening", START, |_| TcpStream::connect(address).ok())?;
        Ok(Self { address, process })
    }

    /// Where MQTT clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged: every packet.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Debian has it where only root's PATH leads.
fn find() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mosquitto");
    if debian.is_file() { debian } else { "mosquitto".into() }
}

/// QoS 0 messages wait for a client that is away, as they do at RabbitMQ.
const FREELY: &str = "\
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
queue_qos0_messages true
log_dest stderr
";
const START: Duration = Duration::from_secs(30);
