//! The bench harness `dynamicfs-bench`: arguments in, messages and exit codes out.
//!
//! The only place that decides what the user sees of a failure. Exit codes are documented at
//! [`dynamicfs_bench::failure`]. A reader that closes our pipe (`| head`) ends the process quietly.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use dynamicfs_bench::args::Cli;
use dynamicfs_bench::failure::{Failure, USAGE_CODE};
use dynamicfs_bench::output::deliver;
use dynamicfs_bench::plan::Plan;
use dynamicfs_bench::run;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return clap_outcome(&error),
    };
    match serve(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string(), failure.help());
            failure.exit_code()
        }
    }
}

fn serve(cli: Cli) -> Result<(), Failure> {
    let parse_only = cli.run.parse_only;
    let plan = Plan::try_from(cli)?;
    if parse_only { deliver(&plan.to_string(), None) } else { run::execute(&plan) }
}

/// Help and version are answers; everything else is a usage error in this program's form.
fn clap_outcome(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return match deliver(&text, None) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.exit_code(),
        };
    }
    let said = text.split("\n\nUsage:").next().unwrap_or(&text);
    let said = said.split("\n\nFor more information").next().unwrap_or(said);
    let (message, tip) = said.split_once("tip:").unwrap_or((said, "see `dynamicfs-bench --help`"));
    complain(message.trim_start_matches("error:").trim(), tip.trim());
    ExitCode::from(USAGE_CODE)
}

fn complain(message: &str, help: &str) {
    let text = format!("dynamicfs-bench: error: {message}\nhelp: {help}\n");
    // Nobody is left to tell when standard error is gone.
    drop(io::stderr().write_all(text.as_bytes()));
}
