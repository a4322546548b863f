//! The command line: parsing, dispatch, and how errors and exit codes come out.
//!
//! This and its parts are the only place that prints. Output is built in full before it is written,
//! so that a reader who goes away (`| head`) is noticed in one place and is no error.

mod check;
mod devices;
mod disk;
mod failure;
mod inodes;
mod inspect;
mod live;
mod plan;
mod pool;
mod scrub;
mod status;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use self::failure::{Exit, Failure};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  runtime error
  2  wrong usage
  3  a device is missing, not accessible, or not fit for the purpose
  4  a device is busy, or the run was refused to protect its data
  5  I/O error";

/// Manage disks and pools of the dynamicfs storage engine.
#[derive(Debug, Parser)]
#[command(name = "dynamicfs", version, after_help = EXIT_CODES, after_long_help = EXIT_CODES,
    subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List block devices, or tell everything about the named ones.
    #[command(after_help = EXIT_CODES)]
    Devices(devices::DevicesArguments),
    /// Show which core would run which reactor, and which reactor would drive which disk.
    ///
    /// Nothing is opened or written.
    #[command(after_help = EXIT_CODES)]
    Plan(plan::PlanArguments),
    /// Make a pool on a device or file. All that it holds is lost.
    ///
    /// It says what it will do and asks. A device that is mounted or held is always refused, one
    /// that carries a file system, partition table or pool unless --overwrite is given.
    #[command(after_help = EXIT_CODES)]
    Format(pool::FormatArguments),
    /// Show what a pool is, by its labels; with --metrics, what it is doing.
    #[command(after_help = EXIT_CODES)]
    Status(status::StatusArguments),
    /// Open a pool, make durable what its last use left, show what was found, and close it.
    ///
    /// Every command that writes does that first; this one does no more, and can be forced.
    #[command(after_help = EXIT_CODES)]
    Recover(status::RecoverArguments),
    /// The disks of a pool: which is what, replace one, wait until all have everything.
    #[command(subcommand, after_help = EXIT_CODES)]
    Disk(disk::DiskCommand),
    /// Read everything that a pool has, on every disk, and mend what can be mended.
    ///
    /// Exits with 5 when something is lost.
    #[command(subcommand, after_help = EXIT_CODES)]
    Scrub(scrub::ScrubCommand),
    /// Write a file into an inode.
    #[command(after_help = EXIT_CODES)]
    Put(inodes::PutArguments),
    /// Write an inode's content to standard output or a file.
    #[command(after_help = EXIT_CODES)]
    Get(inodes::GetArguments),
    /// List the inodes of a pool.
    #[command(after_help = EXIT_CODES)]
    Ls(inodes::ListArguments),
    /// Remove an inode.
    #[command(after_help = EXIT_CODES)]
    Rm(inodes::RemoveArguments),
    /// Check whether a pool that nobody has open is consistent. Nothing is written.
    ///
    /// Exits with 0 when it is, and with 1 when it is not.
    #[command(after_help = EXIT_CODES)]
    Check(check::CheckArguments),
    /// Show what lies on a disk of a pool, decoded. Nothing is written.
    #[command(after_help = EXIT_CODES)]
    Inspect(inspect::InspectArguments),
}

/// Runs the tool with the process's arguments.
pub(crate) fn run() -> ExitCode {
    // Usage errors leave here, with clap's message and exit code 2.
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // The message is for a reader who may be gone.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
        }
    };
    let outcome = match &arguments.command {
        Command::Devices(arguments) => devices::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Format(arguments) => pool::format(arguments),
        Command::Status(arguments) => status::status(arguments),
        Command::Recover(arguments) => status::recover(arguments),
        Command::Disk(command) => disk::run(command),
        Command::Scrub(command) => scrub::run(command),
        Command::Put(arguments) => inodes::put(arguments),
        Command::Get(arguments) => inodes::get(arguments),
        Command::Ls(arguments) => inodes::list(arguments),
        Command::Rm(arguments) => inodes::remove(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
    };
    match outcome {
        Ok(report) => finish(&report),
        Err(failure) => complain(&failure),
    }
}

/// What a command has to say: its output, and failures that did not stop it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For standard output.
    pub(crate) text: String,
    /// For standard error; the first decides the exit code.
    pub(crate) failures: Vec<Failure>,
}

impl From<String> for Report {
    fn from(text: String) -> Self {
        Report { text, failures: Vec::new() }
    }
}

fn finish(report: &Report) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = out.write_all(report.text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return complain(&Failure::new(Exit::Runtime, format!("cannot write output: {error}")));
    }
    let mut code = ExitCode::SUCCESS;
    for failure in report.failures.iter().rev() {
        code = failure.exit.into();
    }
    for failure in &report.failures {
        complain(failure);
    }
    code
}

fn complain(failure: &Failure) -> ExitCode {
    let mut text = format!("dynamicfs: error: {}\n", failure.message);
    if let Some(help) = &failure.help {
        text.push_str(&format!("help: {help}\n"));
    }
    // Without standard error there is nobody left to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    failure.exit.into()
}

/// Anything serialisable, as indented JSON with a final newline.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Runtime, format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}
