//! What a script can say: the plugin configuration of the probe.

use serde::Deserialize;

/// What to do in each callback. The n-th call of a connection runs the n-th list, and the last list repeats;
/// no list is a plain `Continue`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Script {
    /// Root tick period in milliseconds; 0 is no tick.
    pub(crate) tick_ms: u32,
    /// The root's `on_configure`
    pub(crate) configured: Vec<Op>,
    /// `on_new_connection`
    pub(crate) connected: Vec<Vec<Op>>,
    /// `on_downstream_data`
    pub(crate) client_data: Vec<Vec<Op>>,
    /// `on_upstream_data`
    pub(crate) broker_data: Vec<Vec<Op>>,
    /// `on_downstream_close`
    pub(crate) client_close: Vec<Vec<Op>>,
    /// `on_upstream_close`
    pub(crate) broker_close: Vec<Vec<Op>>,
    /// The root's `on_tick`, once for all.
    pub(crate) root_tick: Vec<Op>,
    /// The same, for each connection, with that connection as the effective context.
    pub(crate) tick: Vec<Vec<Op>>,
}

/// One step; each logs the status Envoy answered it with.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    /// Return `Pause` from this callback.
    Pause,
    /// Replace what came from the client.
    SetDownstream(String),
    /// Put this before what came from the client.
    PrependDownstream(String),
    /// Replace what came from the broker.
    SetUpstream(String),
    ResumeDownstream,
    ResumeUpstream,
    CloseDownstream,
    CloseUpstream,
    /// Log what came from the client and is here.
    GetDownstream,
    /// Log a property, by its dotted path.
    Property(String),
    /// Filter state that lives as long as the client's connection: key, value.
    FilterState(String, String),
    /// Log a shared value with its CAS mark.
    Shared(String),
    /// Set a shared value: key, value, CAS mark (0 for none).
    Share(String, String, u32),
    /// Add to a shared number with CAS, one by one: key, how often. Logs the last sum.
    Count(String, u32),
    /// Run these in the next root tick, with this connection as the effective context.
    NextTick(Vec<Op>),
    /// The same in `on_queue_ready`: put something into a shared queue of this VM's own, which makes Envoy call.
    Soon(Vec<Op>),
    /// `unreachable`: what a panic is in a module.
    Trap,
}
