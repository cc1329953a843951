//! A client's connection: what its kernel has to send, Envoy's buffer, the filter on it, and `tcp_proxy` behind that.

use std::collections::BTreeMap;

use super::facts::Facts;

/// One connection with both of its sides.
pub(crate) struct TcpConnection {
    pub(crate) facts: Facts,
    /// Sent by the client, not yet read by Envoy.
    unread: Vec<u8>,
    /// The FIN behind that.
    end: End,
    /// A RST behind that.
    is_reset: bool,
    /// Read from the client, not yet passed on.
    pub(crate) downstream: Vec<u8>,
    /// Whether the filter may touch `downstream`: inside its callback, and on from there if it paused.
    pub(crate) downstream_reachable: bool,
    /// `downstream` has gone beyond the limit, and Envoy does not read.
    is_stopped: bool,
    /// Something has been read, so a TLS handshake is over.
    has_read: bool,
    /// On its way to the client, inside `on_upstream_data`.
    pub(crate) upstream_data: Option<Vec<u8>>,
    /// The filter state `envoy.tcp_proxy.cluster`.
    pub(crate) chosen_cluster: Option<String>,
    /// The cluster `tcp_proxy` has connected to.
    pub(crate) upstream: Option<String>,
    pub(crate) to_broker: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    pub(crate) closed: bool,
    pub(crate) lost: usize,
    /// The filter state `envoy.hashable_string`.
    pub(crate) hash_key: Option<String>,
    /// What the module has said of it.
    pub(crate) told: BTreeMap<String, String>,
    end_passed_on: bool,
    /// Its context still exists in the module.
    pub(super) in_vm: bool,
}

/// How far the client's FIN has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotSent,
    Sent,
    Read,
}

/// What Envoy finds when it reads.
#[derive(Clone, Copy)]
pub(super) enum Read {
    /// That much is in the buffer now, and whether it is the end.
    Data(u32, bool),
    Reset,
}

impl TcpConnection {
    pub(super) fn new(facts: Facts, in_vm: bool) -> Self {
        Self {
            facts,
            unread: Vec::new(),
            end: End::NotSent,
            is_reset: false,
            downstream: Vec::new(),
            downstream_reachable: false,
            is_stopped: false,
            has_read: false,
            upstream_data: None,
            chosen_cluster: None,
            upstream: None,
            to_broker: Vec::new(),
            to_client: Vec::new(),
            closed: false,
            lost: 0,
            hash_key: None,
            told: BTreeMap::new(),
            end_passed_on: false,
            in_vm,
        }
    }

    pub(super) fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.facts.property(path, self.has_read)
    }

    // The client

    pub(super) fn client_sends(&mut self, bytes: &[u8]) {
        assert!(self.end == End::NotSent || self.closed, "a client says nothing after its FIN");
        self.unread.extend_from_slice(bytes);
    }

    pub(super) fn client_ends(&mut self) {
        assert!(self.end == End::NotSent || self.closed, "a client says nothing after its FIN");
        self.end = End::Sent;
    }

    pub(super) fn client_vanishes(&mut self) {
        self.is_reset = true;
    }

    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    // Envoy's buffer

    /// One event of the socket: Envoy reads until there is nothing left or the limit is reached.
    pub(super) fn read(&mut self, limit: usize) -> Option<Read> {
        if self.closed || self.is_stopped {
            return None;
        }
        let is_all_read = self.unread.is_empty();
        if is_all_read && self.is_reset {
            return Some(Read::Reset);
        }
        if is_all_read && self.end != End::Sent {
            return None;
        }
        // At the limit it still reads once: only beyond it it stops.
        let room = limit.saturating_sub(self.downstream.len()).next_multiple_of(READ).max(READ);
        self.downstream.extend(self.unread.drain(..room.min(self.unread.len())));
        let reads_on = is_all_read || self.downstream.len() < limit;
        if reads_on && self.unread.is_empty() && self.end == End::Sent && !self.is_reset {
            self.end = End::Read;
        }
        self.has_read = true;
        self.downstream_reachable = true;
        self.is_stopped = self.downstream.len() > limit;
        Some(Read::Data(self.downstream.len() as u32, self.end == End::Read))
    }

    /// The filter puts bytes in place of a part of the buffer; `false` outside of the buffer's window.
    pub(super) fn replace(&mut self, start: usize, max: usize, bytes: Vec<u8>, limit: usize) -> bool {
        let end = start.saturating_add(max).min(self.downstream.len());
        if !self.downstream_reachable || start > end {
            return false;
        }
        let kept = self.downstream.len() - (end - start);
        self.downstream.splice(start..end, bytes);
        // Taking out comes first, and below half of the limit Envoy reads again; then what is put in may stop it.
        self.is_stopped = (self.is_stopped && kept > limit / 2) || self.downstream.len() > limit;
        true
    }

    // `tcp_proxy`

    /// It takes what the filter left in the buffer; the first time makes it connect.
    pub(super) fn continue_reading(&mut self) {
        let end = self.end == End::Read;
        if self.closed || (self.downstream.is_empty() && !end) {
            return;
        }
        self.connect_upstream();
        self.is_stopped = false;
        let mut bytes = std::mem::take(&mut self.downstream);
        if self.end_passed_on {
            self.lost += bytes.len();
        } else {
            self.to_broker.append(&mut bytes);
        }
        self.end_passed_on = end;
    }

    pub(super) fn connect_upstream(&mut self) {
        self.upstream.get_or_insert_with(|| self.chosen_cluster.clone().unwrap_or_default());
    }

    /// Whether the client has gone away unnoticed: that shows when it is written to.
    pub(super) fn is_gone(&self) -> bool {
        self.is_reset
    }
}

/// What Envoy reads at least.
const READ: usize = 16 << 10;
