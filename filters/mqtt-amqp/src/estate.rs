//! Metrics outlive the virtual machine that has counted them.
//!
//! The proxy forgets a metric, and its value, together with the last virtual machine that has defined it. After a swap that is the
//! replaced one, whose counters would go with its last connection. So each tells the others what it defines, and defines what they do.

use crate::host::{self, MetricKind};
use core::cell::Cell;

/// What has been defined by whomever.
#[derive(Default)]
pub(crate) struct Estate {
    /// Of what this virtual machine has read last.
    mark: Cell<u32>,
}

impl Estate {
    /// This metric has been defined here.
    pub(crate) fn tell(&self, kind: MetricKind, name: &str) {
        for _ in 0..TRIES {
            let Some((mut value, mark)) = host::shared_data(KEY) else {
                // From here on there is a mark to compare.
                if host::set_shared_data(KEY, &[], None).is_err() {
                    return;
                }
                continue;
            };
            if lines(&value).any(|known| known == (kind, name)) {
                return;
            }
            value.push(b'0' + kind as u8);
            value.extend_from_slice(name.as_bytes());
            value.push(b'\n');
            if host::set_shared_data(KEY, &value, Some(mark)).is_ok() {
                return;
            }
        }
    }

    /// Defines what others have, if there is anything new. Who has it already loses nothing.
    pub(crate) fn adopt(&self) {
        let Some((value, mark)) = host::shared_data(KEY) else { return };
        if self.mark.replace(mark) != mark {
            for (kind, name) in lines(&value) {
                // It is not counted here; that is the business of whoever does.
                let _ = host::define_metric(kind, name);
            }
        }
    }
}

/// Kind and name.
fn lines(value: &[u8]) -> impl Iterator<Item = (MetricKind, &str)> {
    value.split(|byte| *byte == b'\n').filter_map(|line| {
        let (digit, name) = line.split_first()?;
        let kind = KINDS.into_iter().find(|kind| b'0' + *kind as u8 == *digit)?;
        Some((kind, core::str::from_utf8(name).ok()?))
    })
}

const KEY: &str = "leveret.metrics";
const KINDS: [MetricKind; 3] = [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram];
/// How often a change is tried again that others got ahead of.
const TRIES: usize = 256;
