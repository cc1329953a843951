//! Metrics outlive the virtual machine that has counted them.
//!
//! The proxy forgets a metric, and its value, together with the last virtual machine that has defined it. After a swap that is the
//! replaced one, whose counters would go with its last connection. So each tells the others what it defines, and defines what they do.
//!
//! What is told stands in pages, and a page that is full does not change any more. So a further metric costs one page and not all that
//! there are: of very many tenants each has its own.

use crate::{
    host::{self, MetricKind},
    root::Proxy,
};
use core::cell::{Cell, RefCell};
use leveret::policy::shared;
use std::collections::BTreeSet;

/// What has been defined by whomever.
#[derive(Default)]
pub(crate) struct Estate {
    /// All pages before this one are full and have been read.
    page: Cell<u32>,
    /// The mark of this page when it was read last; 0, which none has, before.
    mark: Cell<u32>,
    /// The lines that have been read.
    told: RefCell<BTreeSet<Box<[u8]>>>,
}

impl Estate {
    /// This metric has been defined here. Told at once, since this virtual machine may end with what it was defined for.
    pub(crate) fn tell(&self, kind: MetricKind, name: &str) {
        let line = [&[b'0' + kind as u8], name.as_bytes(), b"\n"].concat();
        self.adopt();
        while !self.told.borrow().contains(&*line) {
            let key = self.page_key();
            shared::create(&Proxy, &key);
            let written = shared::update(&Proxy, &key, |page| {
                if page.len() < PAGE_BYTES {
                    page.extend_from_slice(&line);
                }
            });
            if written.is_none() {
                return;
            }
            // Reads it back, or goes on to the next page when others have filled this one.
            self.adopt();
        }
    }

    /// Defines what others have, if there is anything new. Who has it already loses nothing.
    pub(crate) fn adopt(&self) {
        while let Some((page, mark)) = host::shared_data(&self.page_key())
            && self.mark.replace(mark) != mark
        {
            for line in page.split_inclusive(|byte| *byte == b'\n') {
                if self.told.borrow_mut().insert(line.into())
                    && let Some((kind, name)) = metric(line)
                {
                    // It is not counted here; that is the business of whoever does.
                    let _ = host::define_metric(kind, name);
                }
            }
            if page.len() < PAGE_BYTES {
                return;
            }
            self.page.set(self.page.get().saturating_add(1));
            self.mark.set(0);
        }
    }

    fn page_key(&self) -> String {
        format!("leveret.metrics.{}", self.page.get())
    }
}

/// Kind and name.
fn metric(line: &[u8]) -> Option<(MetricKind, &str)> {
    let (digit, name) = line.strip_suffix(b"\n")?.split_first()?;
    let kind = KINDS.into_iter().find(|kind| b'0' + *kind as u8 == *digit)?;
    Some((kind, core::str::from_utf8(name).ok()?))
}

const KINDS: [MetricKind; 3] = [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram];
/// A page with so many bytes is full; the last line may go beyond.
const PAGE_BYTES: usize = 4096;
