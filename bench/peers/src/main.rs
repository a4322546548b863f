//! `dynamicfs-peers`: durable random overwrites by many writers, by dynamicfs, by other storage
//! engines and by bare system calls, in alternation on one directory.
//!
//! The table goes to standard output, what is being done to standard error. Exit code 1 is a
//! failure, told in one line after the table of what was measured; the files are removed all the
//! same, also before a signal ends it.

mod args;
mod contest;
mod contestants;
mod counters;
mod directory;
mod failure;
mod machine;
mod report;
mod units;
mod writer;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Plan};
use crate::counters::Counters;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::report::Report;

fn main() -> ExitCode {
    let failures = match Cli::try_parse() {
        Ok(cli) => Plan::try_from(cli).map_or_else(|failure| vec![failure], |plan| execute(&plan)),
        Err(answer) if !answer.use_stderr() => {
            deliver(&answer.render().to_string()).err().into_iter().collect()
        }
        Err(error) => vec![usage(&error)],
    };
    for failure in &failures {
        say(&format!("error: {}", failure.line()));
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs it, tells what was measured, and returns what failed.
fn execute(plan: &Plan) -> Vec<Failure> {
    let available = machine::memory_available_bytes().unwrap_or(u64::MAX);
    if let Err(failure) = plan.check_memory(available) {
        return vec![failure];
    }
    // Made before hours of work, which would be lost if it could not be.
    let json = match plan.json.as_deref().map(Json::create).transpose() {
        Ok(json) => json,
        Err(failure) => return vec![failure],
    };
    let counters = Counters::of(&plan.directory);
    let contest = contest::run(plan, &counters, &mut say);
    directory::await_signal();
    let machine = Machine::read(&plan.directory, &counters, &plan.contestants);
    let report = Report::new(plan, machine, &contest);
    let mut failures: Vec<Failure> =
        contest.entries.into_iter().filter_map(|entry| entry.failure).collect();
    failures.extend(contest.failure);
    if report.rows.iter().any(|row| row.rate.is_some()) {
        failures.extend(deliver(&report.table()).err());
    }
    failures.extend(json.and_then(|json| json.write(&report).err()));
    failures
}

/// The file of `--json`.
struct Json<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Json<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| unwritable(path, &error))?;
        Ok(Self { path, file })
    }

    fn write(mut self, report: &Report) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(report);
        let text =
            text.map_err(|error| Failure::new(format!("JSON: {error}"), "leave out --json"))?;
        let written = self.file.write_all((text + "\n").as_bytes());
        written.map_err(|error| unwritable(self.path, &error))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("--json {}: {error}", path.display());
    Failure::new(message, "name a file that can be written")
}

/// clap's message without its frame.
fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let said = text.split("\n\n").next().unwrap_or(&text);
    Failure::new(said.trim_start_matches("error:").trim(), "see --help")
}

/// To standard output. A reader that goes away (`| head`) is no failure.
fn deliver(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("standard output: {error}"), "name a place that takes it"))
        }
        _ => Ok(()),
    }
}

/// To standard error. Nobody is left to tell when that is gone.
fn say(what: &str) {
    drop(io::stderr().write_all(format!("dynamicfs-peers: {what}\n").as_bytes()));
}
