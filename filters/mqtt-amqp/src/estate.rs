//! Metrics outlive the virtual machine that has counted them.
//!
//! The proxy forgets a metric, and its value, together with the last virtual machine that has defined it. After a swap that is the
//! replaced one, whose counters would go with its last connection. So each tells the others what it defines, and defines what they do.

use crate::host::{self, MetricKind};
use core::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// What has been defined by whomever, as far as one virtual machine knows.
#[derive(Default)]
pub(crate) struct Estate {
    /// Of what it has read last.
    mark: Cell<u32>,
    known: RefCell<BTreeSet<String>>,
}

impl Estate {
    /// This metric has been defined here.
    pub(crate) fn tell(&self, kind: MetricKind, name: &str) {
        let line = format!("{} {name}", kind as u32);
        for _ in 0..TRIES {
            let Some((mut value, mark)) = host::shared_data(KEY) else {
                // From here on there is a mark to compare.
                if host::set_shared_data(KEY, &[], None).is_err() {
                    return;
                }
                continue;
            };
            if lines(&value).any(|known| known == line) {
                break;
            }
            value.extend_from_slice(line.as_bytes());
            value.push(b'\n');
            if host::set_shared_data(KEY, &value, Some(mark)).is_ok() {
                break;
            }
        }
        self.known.borrow_mut().insert(line);
    }

    /// Defines what others have.
    pub(crate) fn adopt(&self) {
        let Some((value, mark)) = host::shared_data(KEY) else { return };
        if self.mark.replace(mark) == mark {
            return;
        }
        let mut known = self.known.borrow_mut();
        for line in lines(&value) {
            if let Some((kind, name)) = line.split_once(' ')
                && let Some(kind) = KINDS.into_iter().find(|it| kind == (*it as u32).to_string())
                && known.insert(line.to_owned())
            {
                // It is not counted here; that is the business of whoever does.
                let _ = host::define_metric(kind, name);
            }
        }
    }
}

fn lines(value: &[u8]) -> impl Iterator<Item = &str> {
    core::str::from_utf8(value).unwrap_or_default().lines()
}

const KEY: &str = "leveret.metrics";
const KINDS: [MetricKind; 3] = [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram];
/// How often a change is tried again that others got ahead of.
const TRIES: usize = 256;
