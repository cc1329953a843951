//! A short `lab chaos`: everything is broken at least once, and every promise is kept.

use support::chaos::{self, Options};

#[test]
fn nothing_acknowledged_is_lost_and_every_will_is_sent_once() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = Options { seconds: 6, seed: Some(2), clients: 3, plugin: false, journal: None };
    chaos::run(&options, folder.path())
}
