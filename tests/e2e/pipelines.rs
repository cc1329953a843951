//! Random conversations that a mosquitto judges. `./build.sh pipelines` has more of them.

use anyhow::{Context, Result};
use support::envoy::{Mode, Options};
use support::mosquitto::Mosquitto;
use support::pipelines::{self, compare};

use crate::world::{broker, folder, own_envoy_with, to};

/// $LEVERET_PIPELINES has another number of them, $LEVERET_SEED the first one's seed.
#[ignore = "a client that half-closes right behind a retained PUBLISH, or while much is under way, may be reset"]
#[test]
fn random_pipelines_come_out_as_at_mosquitto() -> Result<()> {
    let judge = Mosquitto::start(&folder("judge"), &[])?;
    let workers = Options { concurrency: 2, ..Options::default() };
    let envoy = own_envoy_with("pipelines", &to(Mode::Lazy, broker().amqp_address()), &workers)?;
    let count = number("LEVERET_PIPELINES")?.unwrap_or(CONVERSATIONS);
    let options = pipelines::Options { seed: number("LEVERET_SEED")?, ..pipelines::Options::of(count) };
    compare(&options, envoy.address("mqtt")?, judge.address())
}

/// Else it would be no judge.
#[test]
fn random_pipelines_come_out_at_mosquitto_as_at_mosquitto() -> Result<()> {
    let judge = Mosquitto::start(&folder("judge-of-judges"), &[])?;
    let other = Mosquitto::start(&folder("other-judge"), &[])?;
    let options = pipelines::Options { wait: true, ..pipelines::Options::of(CONVERSATIONS) };
    compare(&options, other.address(), judge.address())
}

fn number(variable: &str) -> Result<Option<u64>> {
    let value = std::env::var(variable).ok();
    value.map(|value| value.parse().with_context(|| format!("{variable}={value}"))).transpose()
}

const CONVERSATIONS: u64 = 40;
