//! This module among the builds of its filter: gauges of which one serves and how the others empty, and the end of a replaced one.

use crate::{
    BUILD,
    host::{self, Buffer, Level, MetricKind, Status},
    root::Proxy,
};
use core::time::Duration;
use leveret::{
    config::Release,
    release::{Drain, Releases, Standing},
    time::Instant,
};
use std::rc::Rc;

/// What a worker knows of them.
pub(crate) struct Builds {
    /// As it was told; a module does not know its own hash.
    pub(crate) module: Box<str>,
    releases: Releases,
    /// Metric numbers by label: whether it serves, and its connections.
    gauges: Vec<(String, u32, u32)>,
    drain: Option<Drain>,
}

impl Builds {
    /// Reads the VM configuration of this size; only to be called in `on_vm_start`.
    pub(crate) fn read(size: usize, machine: u64) -> Result<Self, String> {
        let json = if size == 0 { Ok(Vec::new()) } else { host::read(Buffer::VmConfiguration) };
        let json = json.map_err(|_| "the VM configuration cannot be read")?;
        let release = Release::from_json(&json).map_err(|error| format!("VM {error}"))?;
        let filter = host::property("plugin_name").unwrap_or_default();
        let filter = String::from_utf8_lossy(&filter);
        let module = release.module.clone();
        let releases = Releases::new(&filter, BUILD, release, Rc::new(Proxy), machine);
        Ok(Self { module, releases, gauges: Vec::new(), drain: None })
    }

    /// The plugin configuration was taken.
    pub(crate) fn announce(&self) {
        self.releases.announce();
    }

    /// Tells the others of these connections, shows what there is to be shown, and notices when a later build serves.
    pub(crate) fn handle_tick(
        &mut self,
        now: Instant,
        connections: impl ExactSizeIterator<Item = u32>,
    ) -> Result<(), Status> {
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let Some(standings) = self.releases.handle_tick(now, count) else { return Ok(()) };
        if let (None, Some(over)) = (&self.drain, self.releases.drain()) {
            log_drain(count, over);
            self.drain = Some(Drain::new(now, over, connections));
        }
        standings.iter().try_for_each(|standing| self.show(standing))
    }

    /// The next connection that is to end now.
    pub(crate) fn poll_end(&mut self, now: Instant) -> Option<u32> {
        self.drain.as_mut()?.poll(now)
    }

    /// A connection has come.
    pub(crate) fn admit(&mut self, now: Instant, connection: u32) {
        if let Some(drain) = &mut self.drain {
            drain.add(now, connection);
        }
    }

    fn show(&mut self, standing: &Standing) -> Result<(), Status> {
        let (serves, connections) = self.gauges_of(&standing.label)?;
        host::record(serves, standing.serves.into())?;
        host::record(connections, standing.connections)
    }

    fn gauges_of(&mut self, label: &str) -> Result<(u32, u32), Status> {
        if let Some(&(_, serves, connections)) = self.gauges.iter().find(|(known, ..)| known == label) {
            return Ok((serves, connections));
        }
        let gauge =
            |what| host::define_metric(MetricKind::Gauge, &["leveret_release.", label, what].concat());
        let (serves, connections) = (gauge(".serves")?, gauge(".connections")?);
        self.gauges.push((label.to_owned(), serves, connections));
        Ok((serves, connections))
    }
}

fn log_drain(count: u32, over: Duration) {
    let seconds = over.as_secs();
    host::log(Level::Info, &format!("a later build serves: {count} connections end within {seconds} s"));
}
