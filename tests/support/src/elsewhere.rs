//! A place that is not this machine to Envoy: a network namespace with a cable to this one. Needs root.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Process;

/// A network namespace. It goes, with the cable, when this is dropped or this process ends in any way.
pub struct Elsewhere {
    /// What keeps it alive. The kernel does the rest when it ends.
    keeper: Process,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

impl Elsewhere {
    /// Makes one; `folder` gets the log.
    pub fn new(folder: &Path) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sleep", "infinity"]);
        let keeper = Process::spawn("unshare", &command, &folder.join("elsewhere.log"))?;
        let [here, there] = addresses(keeper.id());
        let mut elsewhere = Self { keeper, here, there };
        elsewhere.wire().context("a network namespace needs root, and ip (iproute2)")?;
        Ok(elsewhere)
    }

    /// This machine's address as seen from there: what servers listen on.
    pub fn here(&self) -> Ipv4Addr {
        self.here
    }

    /// The address that clients from there have.
    pub fn there(&self) -> Ipv4Addr {
        self.there
    }

    /// Runs this there. The sockets that it makes stay there.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.namespace())?;
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                act()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn wire(&mut self) -> Result<()> {
        let (pid, namespace) = (self.keeper.id().to_string(), self.namespace());
        let own = std::fs::read_link("/proc/self/ns/net")?;
        self.keeper.wait_until("a namespace", PATIENCE, |_| {
            std::fs::read_link(&namespace).ok().filter(|it| *it != own)
        })?;
        // At most 15 bytes.
        let cable = format!("lv{pid}");
        let [here, there] = [self.here, self.there].map(|address| format!("{address}/30"));
        run("ip", &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        run("ip", &["address", "add", &here, "dev", &cable])?;
        run("ip", &["link", "set", &cable, "up"])?;
        let enter = format!("--net={}", namespace.display());
        run("nsenter", &[&enter, "ip", "address", "add", &there, "dev", "eth0"])?;
        run("nsenter", &[&enter, "ip", "link", "set", "eth0", "up"])
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.keeper.id()).into()
    }
}

/// Two neighbours in 198.18.0.0/15, which is set aside for tests of networks; others for each process.
fn addresses(pid: u32) -> [Ipv4Addr; 2] {
    let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (pid << 2) % (1 << 17);
    [network + 1, network + 2].map(Ipv4Addr::from)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), error.trim());
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(10);
