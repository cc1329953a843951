//! How much one worker writes into the log: nobody on the other side decides how fast it grows.

use crate::event::Level;
use crate::time::{Duration, Instant};

/// The most lines a second of each level from info on, in one worker.
pub const MAX_LINES: u32 = 100;

/// A ceiling on the lines a second. Debug has none: who turns it on wants all of them.
#[derive(Default)]
pub struct Ceiling {
    /// When the current second is over.
    ends: Option<Instant>,
    info: u32,
    warn: u32,
    left_out: u64,
}

impl Ceiling {
    /// Whether a line of this level may be written now. One that may not is counted.
    pub fn admits(&mut self, now: Instant, level: Level) -> bool {
        if self.ends.is_none_or(|ends| ends <= now) {
            self.ends = Some(now + SECOND);
            (self.info, self.warn) = (0, 0);
        }
        let lines = match level {
            Level::Debug => return true,
            Level::Info => &mut self.info,
            Level::Warn => &mut self.warn,
        };
        let admits = *lines < MAX_LINES;
        if admits {
            *lines += 1;
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
        admits
    }

    /// How many lines were left out in a second that is over.
    pub fn poll_left_out(&mut self, now: Instant) -> Option<u64> {
        let is_over = self.left_out > 0 && self.ends.is_none_or(|ends| ends <= now);
        is_over.then(|| core::mem::take(&mut self.left_out))
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_has_its_lines_each_second_and_what_is_left_out_is_told() {
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let mut ceiling = Ceiling::default();
        let written = |ceiling: &mut Ceiling, millis, level| {
            (0..1000).filter(|_| ceiling.admits(at(millis), level)).count() as u32
        };
        assert_eq!(written(&mut ceiling, 0, Level::Info), MAX_LINES);
        assert_eq!(written(&mut ceiling, 500, Level::Info), 0);
        assert_eq!(written(&mut ceiling, 600, Level::Warn), MAX_LINES, "refusals hide no broker's end");
        assert_eq!(written(&mut ceiling, 700, Level::Debug), 1000);
        assert_eq!(ceiling.poll_left_out(at(900)), None);
        assert_eq!(ceiling.poll_left_out(at(1000)), Some(900 + 1000 + 900));
        assert_eq!(ceiling.poll_left_out(at(1000)), None);
        assert_eq!(written(&mut ceiling, 1000, Level::Info), MAX_LINES);
    }
}
