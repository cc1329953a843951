//! Where `lab run` writes down what other commands have to know of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use support::swap::Discovered;

/// A run under way, the one that `swap` goes to. The modules that have served are beside the file of the filter.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    /// The process of `lab run`.
    pub(crate) pid: u32,
    /// Envoy's admin interface.
    pub(crate) admin: String,
    /// The file of the filter.
    pub(crate) ecds: PathBuf,
    /// Envoy's log.
    pub(crate) log: PathBuf,
}

impl State {
    /// Of that run, which must not have ended.
    pub(crate) fn read() -> Result<Self> {
        const NONE: &str = "./build.sh run is not running (for another Envoy: --ecds and --admin)";
        let state: Self = serde_json::from_slice(&fs::read(path()).ok().context(NONE)?)?;
        // One that was killed has left its file.
        ensure!(state.ecds.is_file() && fs::exists(format!("/proc/{}", state.pid))?, NONE);
        Ok(state)
    }

    pub(crate) fn write(self) -> Result<Written> {
        let path = path();
        fs::write(&path, serde_json::to_vec_pretty(&self)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Written(self))
    }

    pub(crate) fn filter(self) -> Discovered {
        Discovered { file: self.ecds, admin: self.admin, log: Some(self.log) }
    }
}

/// The state file, gone when dropped, unless it is another run's by then.
pub(crate) struct Written(State);

impl Drop for Written {
    fn drop(&mut self) {
        if State::read().is_ok_and(|state| state.pid == self.0.pid) {
            let _ = fs::remove_file(path());
        }
    }
}

fn path() -> PathBuf {
    support::root().join("target/run.json")
}
