//! The words of which tests make the probe's script (`tests/probe/src/script.rs` says what they do).

use serde_json::{Value, json};

/// The steps of one callback, as JSON; lists among them (what the helpers below give) are taken apart.
macro_rules! ops {
    ($($json:tt)*) => { $crate::script::flat(&::serde_json::json!([$($json)*])) };
}
pub(crate) use ops;

pub(crate) fn flat(ops: &Value) -> Value {
    fn steps(ops: &Value) -> Vec<Value> {
        match ops.as_array() {
            Some(parts) => parts.iter().flat_map(steps).collect(),
            None => vec![ops.clone()],
        }
    }
    steps(ops).into()
}

/// Sends bytes to the broker.
pub(crate) fn inject(bytes: &str) -> Value {
    json!([{ "set_downstream": bytes }, "resume_downstream"])
}

/// Does this in the root's next tick.
pub(crate) fn in_next_tick(ops: Value) -> Value {
    json!({ "next_tick": ops })
}

/// The shortest period with which a tick is still later than what happens at once.
pub(crate) const TICK_MS: u32 = 20;

/// Picks the cluster that `tcp_proxy` connects to.
pub(crate) fn choose(cluster: &str) -> Value {
    json!({ "filter_state": ["envoy.tcp_proxy.cluster", cluster] })
}
