//! The command line of the micro-benchmarks.
//!
//! A refused value ends the process with clap's message and code 2.

use std::time::Duration;

use clap::Parser;

use crate::units::{self, PlainTime};

/// Rounds of a `--quick` run.
const QUICK_ROUNDS: usize = 2;
/// Window of a `--quick` run: long enough that threads start, too short to mean anything.
const QUICK_WINDOW: Duration = Duration::from_millis(5);

/// How long to measure, and what.
#[derive(Debug, Clone, Parser)]
#[command(about = "Compares subjects in alternation; see the head of the bench's source")]
pub struct Options {
    /// Times that every subject has its turn.
    #[arg(long, default_value_t = 7, value_parser = positive)]
    pub rounds: usize,
    /// How long a turn lasts (200ms, 2s); with 256 threads, 2s lets every thread run.
    #[arg(long, default_value = "200ms", value_parser = window)]
    pub window: Duration,
    /// Measures only cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Two rounds of 5 ms: shows that everything runs, measures nothing.
    #[arg(long)]
    pub quick: bool,
    /// Prints one JSON object a line for each case instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Said by `cargo bench` to every bench.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    /// Reads the command line of this process. Ends the process when it is refused.
    #[must_use]
    pub fn of_this_process() -> Options {
        Options::parse().settled()
    }

    /// Whether a case of this name was asked for.
    #[must_use]
    pub fn wants(&self, case: &str) -> bool {
        self.only.as_ref().is_none_or(|text| case.contains(text.as_str()))
    }

    fn settled(mut self) -> Options {
        if self.quick {
            self.rounds = QUICK_ROUNDS;
            self.window = QUICK_WINDOW;
        }
        self
    }
}

fn positive(value: &str) -> Result<usize, String> {
    let count = units::count("rounds", value, 1, 1_000).map_err(|error| error.to_string())?;
    usize::try_from(count).map_err(|error| error.to_string())
}

fn window(value: &str) -> Result<Duration, String> {
    let window = units::time("window", value, PlainTime::Seconds).map_err(|e| e.to_string())?;
    if window.is_zero() { Err("a window lasts more than nothing".to_owned()) } else { Ok(window) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_overrides_rounds_and_window() {
        let said = ["bench", "--bench", "--rounds=9", "--window=3s", "--quick"];
        let options = Options::try_parse_from(said).unwrap().settled();
        assert_eq!((options.rounds, options.window), (QUICK_ROUNDS, QUICK_WINDOW));
    }

    #[test]
    fn nothing_cannot_be_measured() {
        assert!(Options::try_parse_from(["bench", "--rounds=0"]).is_err());
        assert!(Options::try_parse_from(["bench", "--window=0s"]).is_err());
    }

    #[test]
    fn only_selects_by_a_part_of_the_name() {
        let options = Options::try_parse_from(["bench", "--only=hot"]).unwrap();
        assert!(options.wants("many/hot/2") && !options.wants("many/few/2"));
    }
}
