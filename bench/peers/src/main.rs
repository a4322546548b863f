//! `dynamicfs-peers`: durable random overwrites by many writers, by dynamicfs, by other storage
//! engines and by bare system calls, in alternation on one directory.
//!
//! The table goes to standard output, what is being done to standard error. Exit code 1 is a
//! failure, told in one line; the files are removed all the same.

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

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Plan};
use crate::counters::Counters;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::report::Report;

fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => Plan::try_from(cli).and_then(|plan| execute(&plan)),
        Err(answer) if !answer.use_stderr() => deliver(&answer.render().to_string()),
        Err(error) => Err(usage(&error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("error: {}", failure.line()));
            ExitCode::FAILURE
        }
    }
}

fn execute(plan: &Plan) -> Result<(), Failure> {
    let counters = Counters::of(&plan.directory);
    let entries = contest::run(plan, &counters, &mut say)?;
    let machine = Machine::read(&plan.directory, &counters, &plan.contestants);
    let report = Report::new(plan, machine, &entries)?;
    deliver(&report.table())?;
    if let Some(path) = &plan.json {
        let text = serde_json::to_string_pretty(&report);
        let text =
            text.map_err(|error| Failure::new(format!("JSON: {error}"), "leave out --json"))?;
        std::fs::write(path, text + "\n").map_err(|error| {
            let message = format!("--json {}: {error}", path.display());
            Failure::new(message, "name a file that can be written")
        })?;
    }
    Ok(())
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
