//! The admin tool `dynamicfs`: arguments in, text or JSON out, an exit code that scripts can use.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::run()
}
