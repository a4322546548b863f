//! The progress line of a run, on standard error.
//!
//! On a terminal one line that is redrawn; elsewhere, with `--eta=always`, a line each second, for
//! logs. It is fed about once per 100 ms from outside the measured threads.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::EtaWhen;

/// What a run is on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// A time.
    Elapsed(Duration),
    /// A number of bytes.
    Bytes(u64),
}

/// The progress line.
///
/// ```
/// use std::time::Duration;
/// use dynamicfs_bench::{args::EtaWhen, eta::{Eta, Goal}};
/// let mut eta = Eta::new(EtaWhen::Never, Goal::Elapsed(Duration::from_secs(10)));
/// eta.tick(1000, 4_096_000, Duration::from_secs(1));
/// eta.finish();
/// ```
#[derive(Debug)]
pub struct Eta {
    goal: Goal,
    place: Place,
    last: Point,
}

/// Where the line goes.
#[derive(Debug)]
enum Place {
    Nowhere,
    Terminal(ProgressBar),
    Log,
}

#[derive(Debug, Clone, Copy, Default)]
struct Point {
    ios: u64,
    bytes: u64,
    elapsed: Duration,
}

/// What the line says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Progress {
    percent: f64,
    iops: f64,
    mib_per_second: f64,
    left: Option<Duration>,
}

impl Eta {
    /// A line towards `goal`, shown or not as `when` and standard error ask for.
    #[must_use]
    pub fn new(when: EtaWhen, goal: Goal) -> Self {
        let place = match (when, io::stderr().is_terminal()) {
            (EtaWhen::Never, _) | (EtaWhen::Auto, false) => Place::Nowhere,
            (_, true) => Place::Terminal(terminal_line()),
            (EtaWhen::Always, false) => Place::Log,
        };
        Self { goal, place, last: Point::default() }
    }

    /// Takes the totals so far; rates are over the time since the last line.
    pub fn tick(&mut self, done_ios: u64, done_bytes: u64, elapsed: Duration) {
        let now = Point { ios: done_ios, bytes: done_bytes, elapsed };
        let due = match self.place {
            Place::Nowhere => return,
            Place::Terminal(_) => Duration::from_millis(250),
            Place::Log => Duration::from_secs(1),
        };
        if elapsed.saturating_sub(self.last.elapsed) < due {
            return;
        }
        let progress = progress(self.goal, self.last, now);
        self.last = now;
        match &self.place {
            Place::Nowhere => {}
            Place::Terminal(bar) => {
                bar.set_position(progress.percent as u64);
                bar.set_message(progress.line());
            }
            // A log that cannot be written is no reason to stop a run.
            Place::Log => {
                drop(writeln!(io::stderr(), "{:5.1} % {}", progress.percent, progress.line()))
            }
        }
    }

    /// Removes the line, so that the report starts on a clean one.
    pub fn finish(&mut self) {
        if let Place::Terminal(bar) = &self.place {
            bar.finish_and_clear();
        }
        self.place = Place::Nowhere;
    }
}

impl Drop for Eta {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Progress {
    fn line(&self) -> String {
        let left = match self.left {
            Some(left) => {
                let seconds = left.as_secs();
                format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
            }
            None => "unknown".into(),
        };
        format!("{:.0} IOPS  {:.1} MiB/s  eta {left}", self.iops, self.mib_per_second)
    }
}

fn terminal_line() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("[{bar:24}] {percent:>3} %  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn progress(goal: Goal, last: Point, now: Point) -> Progress {
    let share = match goal {
        Goal::Elapsed(goal) if goal.is_zero() => 1.0,
        Goal::Elapsed(goal) => now.elapsed.as_secs_f64() / goal.as_secs_f64(),
        Goal::Bytes(0) => 1.0,
        Goal::Bytes(goal) => now.bytes as f64 / goal as f64,
    };
    let share = share.clamp(0.0, 1.0);
    let seconds = now.elapsed.saturating_sub(last.elapsed).as_secs_f64().max(1e-9);
    let rate = |now: u64, last: u64| now.saturating_sub(last) as f64 / seconds;
    let left = now.elapsed.as_secs_f64() * (1.0 - share) / share;
    Progress {
        percent: 100.0 * share,
        iops: rate(now.ios, last.ios),
        mib_per_second: rate(now.bytes, last.bytes) / f64::from(1 << 20),
        left: Duration::try_from_secs_f64(left.round()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, ios: u64) -> Point {
        Point { ios, bytes: ios * 1_048_576, elapsed: Duration::from_secs(seconds) }
    }

    #[test]
    fn progress_towards_a_time_and_towards_bytes() {
        let timed = progress(Goal::Elapsed(Duration::from_secs(10)), at(1, 100), at(2, 300));
        assert_eq!((timed.percent, timed.iops, timed.mib_per_second), (20.0, 200.0, 200.0));
        assert_eq!(timed.left, Some(Duration::from_secs(8)));
        assert_eq!(timed.line(), "200 IOPS  200.0 MiB/s  eta 00:00:08");
        let bytes = progress(Goal::Bytes(400 << 20), at(0, 0), at(10, 100));
        assert_eq!((bytes.percent, bytes.left), (25.0, Some(Duration::from_secs(30))));
    }

    #[test]
    fn ends_do_not_divide_by_zero() {
        let start = progress(Goal::Bytes(100), at(0, 0), at(0, 0));
        assert_eq!((start.percent, start.left), (0.0, None));
        assert_eq!(start.line(), "0 IOPS  0.0 MiB/s  eta unknown");
        let over = progress(Goal::Elapsed(Duration::from_secs(1)), at(0, 0), at(5, 1));
        assert_eq!((over.percent, over.left), (100.0, Some(Duration::ZERO)));
        assert_eq!(progress(Goal::Elapsed(Duration::ZERO), at(0, 0), at(0, 0)).percent, 100.0);
    }
}
