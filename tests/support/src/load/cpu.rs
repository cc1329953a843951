//! Where the processor time goes: seconds used by each process, and by the whole machine.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// A process whose processor time is of interest.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What the report calls it.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// Processor seconds by name, as of one moment or between two. `ELSEWHERE` is what nobody watched used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage(BTreeMap<String, f64>);

/// All that the machine did outside the watched processes: the kernel's own work, and other programs disturbing us.
pub(crate) const ELSEWHERE: &str = "elsewhere";

impl Usage {
    /// Reads the counters of `/proc` now.
    pub(crate) fn read(watched: &[Watched]) -> Result<Self> {
        let mut seconds = BTreeMap::new();
        for Watched { name, pid } in watched {
            *seconds.entry(name.clone()).or_default() += process(*pid)?;
        }
        let known: f64 = seconds.values().sum();
        seconds.insert(ELSEWHERE.to_owned(), machine()? - known);
        Ok(Self(seconds))
    }

    /// What was used since `earlier`.
    pub(crate) fn since(mut self, earlier: &Self) -> Self {
        for (name, seconds) in &mut self.0 {
            *seconds -= earlier.0.get(name).copied().unwrap_or_default();
        }
        self
    }

    /// Adds another stretch of time.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, seconds) in &other.0 {
            *self.0.entry(name.clone()).or_default() += seconds;
        }
    }

    /// Seconds by name.
    pub(crate) fn seconds(&self) -> &BTreeMap<String, f64> {
        &self.0
    }
}

fn process(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: has the process ended?"))?;
    // The second field is a name in parentheses that may hold anything; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    Ok(sum(fields.split_whitespace().skip(11).take(2))? / TICKS_PER_SECOND)
}

fn machine() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("/proc/stat is empty")?;
    let mut fields = all.split_whitespace().skip(1);
    let user_nice_system: Vec<_> = fields.by_ref().take(3).collect();
    let irq_softirq_steal = fields.skip(2).take(3);
    Ok(sum(user_nice_system.into_iter().chain(irq_softirq_steal))? / TICKS_PER_SECOND)
}

fn sum<'a>(ticks: impl Iterator<Item = &'a str>) -> Result<f64> {
    ticks.map(|field| field.parse::<f64>().context("not a number in /proc")).sum()
}

/// `USER_HZ`, which is 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
