//! The command line: fio's words for a run, our own for what fio has no word for.
//!
//! Sizes, times and counts stay text here and are read by [`crate::plan`], so that `--bs=4x` and
//! `--beside=bs=4x` are refused with the same words. Options with a fixed set of values are
//! parsed here, so that clap can list them. Unknown options and values are never ignored.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// The whole command line.
///
/// Not an example to run: it is parsed from the process's arguments.
#[derive(Debug, Parser)]
#[command(
    name = "dynamicfs-bench",
    version,
    long_about = None,
    about = "Load generator for dynamicfs: fio's words, fio's JSON, on NVMe devices, disks \
             and files",
    args_conflicts_with_subcommands = true,
    after_help = "Without a subcommand this is a run:\n  \
        dynamicfs-bench --filename=/dev/nvme0n1 --rw=randread --bs=4k --iodepth=32 \
        --runtime=10 --time_based\n\n\
        Exit codes: 0 ok, 1 run failed, 2 usage, 3 device missing or unfit, \
        4 device busy or refused, 5 I/O errors during the run."
)]
pub struct Cli {
    /// What to do instead of a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What else the harness does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find the depth at which a device stops getting faster; read-only
    Calibrate(CalibrateArgs),
    /// Alternate rounds of the engine and of a bare io_uring loop, and print the ratio; read-only
    Compare(CompareArgs),
    /// Alternate rounds of durable writes through the storage engine and by bare system calls
    #[command(name = "compare-durable")]
    CompareDurable(CompareDurableArgs),
    /// A short standard run that shows the engine works here; read-only on devices
    Smoke(SmokeArgs),
}

/// Options of a run that are not a job's.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case")]
pub struct RunArgs {
    /// The main job.
    #[command(flatten)]
    pub job: JobWords,
    /// Devices or files, colon-separated (`\:` for a colon); repeatable
    #[arg(long, value_name = "PATHS", help_heading = "Disks")]
    pub filename: Vec<String>,
    /// Allow writing to this device or file; repeatable, one for each that is written
    #[arg(long, value_name = "DEV", help_heading = "Disks")]
    pub destroy: Vec<String>,
    /// Write even where a file system, partition table or pool was found (with --destroy)
    #[arg(long, help_heading = "Disks")]
    pub force: bool,
    /// Refuse every job that writes
    #[arg(long, help_heading = "Disks")]
    pub readonly: bool,
    /// Stop after this time: seconds, or with us ms s m h d
    #[arg(long, value_name = "TIME", help_heading = "Time")]
    pub runtime: Option<String>,
    /// Run for the whole --runtime, starting over at the end of --size
    #[arg(long, value_name = "0|1", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", value_parser = zero_or_one, help_heading = "Time")]
    pub time_based: Option<bool>,
    /// Run this long before measuring: seconds, or with a suffix
    #[arg(long, value_name = "TIME", alias = "ramp", help_heading = "Time")]
    pub ramp_time: Option<String>,
    /// Requests go to a disk, to the kernel's no-op, or through the storage engine to a pool
    #[arg(long, value_enum, default_value_t, help_heading = "Engine")]
    pub target: Target,
    /// A second job at the same time on the same disks, such as
    /// `rw=read,bs=128k,iodepth=32,priority=background` (`\,` for a comma); repeatable
    #[arg(long, value_name = "JOBSPEC", help_heading = "Engine")]
    pub beside: Vec<String>,
    /// off: submit every request in one class, to see what priorities are worth
    #[arg(long, value_enum, default_value_t, help_heading = "Engine")]
    pub priorities: Switch,
    /// Reactor threads; default: chosen by the engine from the topology
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub reactors: Option<String>,
    /// CPUs for the reactors: 0-3,8
    #[arg(long, value_name = "LIST", help_heading = "Engine")]
    pub cpus: Option<String>,
    /// Lanes per disk, each on its own reactor
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub lanes: Option<String>,
    /// Complete by polling (needs poll queues in the driver) or by interrupt
    #[arg(long, value_enum, default_value_t, help_heading = "Engine")]
    pub polled: Polled,
    /// A reactor's spin before it sleeps: microseconds, a time with suffix, or `forever`
    #[arg(long, value_name = "TIME", help_heading = "Engine")]
    pub spin: Option<String>,
    /// Where requests come from: the reactor itself, or other threads through tickets
    #[arg(long, value_enum, default_value_t, help_heading = "Engine")]
    pub client: Client,
    /// The scheduler's target of requests in flight per lane
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub depth: Option<String>,
    /// Pages of the I/O buffers
    #[arg(long, value_enum, default_value_t, help_heading = "Engine")]
    pub buffers: Buffers,
    /// Engine configuration or calibration file (TOML)
    #[arg(long, value_name = "FILE", help_heading = "Engine")]
    pub config: Option<PathBuf>,
    /// Accepted for fio's sake: dynamicfs or io_uring
    #[arg(long, value_name = "NAME", value_parser = our_engine, help_heading = "Engine")]
    pub ioengine: Option<String>,
    /// Accepted for fio's sake: 1 only
    #[arg(long, value_name = "1", value_parser = direct_only, help_heading = "Engine")]
    pub direct: Option<String>,
    /// Write the report to this file instead of standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Table, or JSON with fio's names
    #[arg(
        long = "output-format",
        alias = "output_format",
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    pub output_format: OutputFormat,
    /// Report the clones of a job (--numjobs) as one
    #[arg(long, value_name = "0|1", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", value_parser = zero_or_one, help_heading = "Output")]
    pub group_reporting: Option<bool>,
    /// Percentiles to report, colon-separated: 50:99:99.9
    #[arg(long, value_name = "LIST", help_heading = "Output")]
    pub percentile_list: Option<String>,
    /// Progress line on standard error; auto: on a terminal only
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub eta: EtaWhen,
    /// Print the plan as a job file and exit without opening anything
    #[arg(long = "parse-only", alias = "parse_only", help_heading = "Output")]
    pub parse_only: bool,
    /// What only --target=engine has.
    #[command(flatten)]
    pub store: StoreWords,
}

/// The words of a run on the storage engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Storage engine (--target=engine)")]
pub struct StoreWords {
    /// The engine's configuration (TOML); --filename, where given, is its disk
    #[arg(long, value_name = "FILE")]
    pub pool: Option<PathBuf>,
    /// Make a new pool first (with --destroy); quick: of a file that was written before
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true,
        default_missing_value = "fill")]
    pub format: Option<FormatFill>,
    /// Inodes that the jobs share; 1: all the same one [default: one for each job]
    #[arg(long, value_name = "N")]
    pub inodes: Option<String>,
    /// When a write is answered [default: committed]
    #[arg(long, value_enum)]
    pub durability: Option<DurabilityWord>,
    /// What a job is [default: threads]
    #[arg(long, value_enum)]
    pub clients: Option<Clients>,
    /// Threads that poll the tasks of --clients=tasks [default: 1]
    #[arg(long, value_name = "N")]
    pub drivers: Option<String>,
}

/// The words of one job, on the command line and in a `--beside` specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Job")]
pub struct JobWords {
    /// Name in the report
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Direction and order
    #[arg(long, value_enum, alias = "readwrite")]
    pub rw: Option<Pattern>,
    /// Percentage of reads in a mixed job
    #[arg(long, value_name = "PERCENT")]
    pub rwmixread: Option<String>,
    /// Bytes per request, a multiple of 512 up to 16m
    #[arg(long, value_name = "SIZE", alias = "blocksize")]
    pub bs: Option<String>,
    /// Requests in flight per job
    #[arg(long, value_name = "N")]
    pub iodepth: Option<String>,
    /// Clones of this job
    #[arg(long, value_name = "N")]
    pub numjobs: Option<String>,
    /// Bytes or percentage of each disk that the job covers
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,
    /// Where on each disk the job starts, bytes or percentage
    #[arg(long, value_name = "SIZE")]
    pub offset: Option<String>,
    /// Requests per submission
    #[arg(long, value_name = "N", alias = "iodepth_batch")]
    pub iodepth_batch_submit: Option<String>,
    /// Wait for at least this many completions
    #[arg(long, value_name = "N")]
    pub iodepth_batch_complete_min: Option<String>,
    /// At most this many requests per second, job clone and direction
    #[arg(long, value_name = "N")]
    pub rate_iops: Option<String>,
    /// Seed of the offsets; equal seeds give equal runs
    #[arg(long, value_name = "N")]
    pub randseed: Option<String>,
    /// Class of the job's requests; default: normal_read for reads, write for writes
    #[arg(long, value_enum)]
    pub priority: Option<Priority>,
}

/// Options of `calibrate`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub struct CalibrateArgs {
    /// Device or file
    #[arg(value_name = "DEV")]
    pub device: PathBuf,
    /// Write the calibration to this file (TOML, for --config)
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Time per depth: seconds, or with a suffix
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub runtime: String,
    /// Bytes per request
    #[arg(long, value_name = "SIZE", default_value = "4k")]
    pub bs: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `compare`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub struct CompareArgs {
    /// Device or file; not with --target=nop
    #[arg(value_name = "DEV")]
    pub device: Option<PathBuf>,
    /// A disk, or the kernel's no-op request
    #[arg(long, value_enum, default_value_t)]
    pub target: Target,
    /// Rounds of each side
    #[arg(long, value_name = "N", default_value = "7")]
    pub rounds: String,
    /// Time per round and side: seconds, or with a suffix
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub runtime: String,
    /// Bytes per request
    #[arg(long, value_name = "SIZE", default_value = "4k")]
    pub bs: String,
    /// Requests in flight
    #[arg(long, value_name = "N", default_value = "128")]
    pub iodepth: String,
    /// Requests per submission [default: 32, or --iodepth if that is less]
    #[arg(long, value_name = "N", alias = "iodepth_batch")]
    pub iodepth_batch_submit: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `compare-durable`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub struct CompareDurableArgs {
    /// Device or fully written file: all of it is overwritten, many times
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
    /// Allow it: the same path again
    #[arg(long, value_name = "DISK")]
    pub destroy: Vec<PathBuf>,
    /// Write even where a file system, partition table or pool was found (with --destroy)
    #[arg(long)]
    pub force: bool,
    /// Rounds of each side
    #[arg(long, value_name = "N", default_value = "5")]
    pub rounds: String,
    /// Time per round and row: seconds, or with a suffix
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub runtime: String,
    /// Bytes per write
    #[arg(long, value_name = "SIZE", default_value = "4k")]
    pub bs: String,
    /// Writers of the rows with many
    #[arg(long, value_name = "N", default_value = "64")]
    pub writers: String,
    /// Bytes that the writers overwrite [default: 16 times the journals of the pool]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,
    /// MiB of the pool's one journal, unless --pool says something else
    #[arg(long, value_name = "MIB", default_value = "4")]
    pub journal: String,
    /// The engine's configuration (TOML), for the disk DISK
    #[arg(long, value_name = "FILE")]
    pub pool: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `smoke`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub struct SmokeArgs {
    /// Devices to read; none: a temporary file, which is written, read and removed
    #[arg(value_name = "DEV")]
    pub devices: Vec<PathBuf>,
    /// Directory of the temporary file; on a disk, not tmpfs [default: $TMPDIR, else /var/tmp]
    #[arg(long, value_name = "DIR", conflicts_with = "devices")]
    pub dir: Option<PathBuf>,
    /// Time per step: seconds, or with a suffix
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub runtime: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// fio's `rw`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[value(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Reads in ascending order
    #[default]
    Read,
    /// Writes in ascending order
    Write,
    /// Reads at random
    RandRead,
    /// Writes at random
    RandWrite,
    /// Reads and writes in ascending order
    #[value(alias = "readwrite")]
    Rw,
    /// Reads and writes at random
    RandRw,
}

/// Scheduling class, highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Metadata
    Critical,
    /// Hot data
    HighRead,
    /// Ordinary reads
    NormalRead,
    /// Writes
    Write,
    /// Scrub, garbage collection, checkpoint
    Background,
}

/// Where requests end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The disks of --filename
    #[default]
    Raw,
    /// The kernel's no-op: what the engine itself costs
    Nop,
    /// Inodes of a pool, through the storage engine
    Engine,
}

/// How a pool is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatFill {
    /// A file is written over with zeroes first
    #[default]
    Fill,
    /// It was written before
    Quick,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityWord {
    /// When it is durable
    #[default]
    Committed,
    /// When it is visible
    Buffered,
}

/// What makes the requests of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clients {
    /// A thread for each, which blocks
    #[default]
    Threads,
    /// A task for each, polled by a few threads
    Tasks,
    /// A task for each, on the reactor of its inode
    Reactor,
}

/// On or off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// As usual
    #[default]
    On,
    /// For comparison
    Off,
}

/// How completions are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Polled {
    /// Polled where the device has poll queues
    #[default]
    Auto,
    /// Polled, or the run is refused
    On,
    /// By interrupt
    Off,
}

/// Where the load is generated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// On the reactor's own thread
    #[default]
    Reactor,
    /// On other threads, through tickets
    Thread,
}

/// Pages of the I/O buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Buffers {
    /// Huge pages, normal ones where there are none
    #[default]
    Huge,
    /// Normal pages
    Normal,
}

/// Form of the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// A table
    #[default]
    Normal,
    /// JSON with fio's names
    Json,
}

/// When the progress line is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EtaWhen {
    /// When standard error is a terminal
    #[default]
    Auto,
    /// Always; one line per second when it is not a terminal
    Always,
    /// Never
    Never,
}

fn zero_or_one(value: &str) -> Result<bool, String> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err("expected 0 or 1".into()),
    }
}

fn our_engine(value: &str) -> Result<String, String> {
    match value {
        "dynamicfs" | "io_uring" => Ok(value.into()),
        _ => Err("this harness measures dynamicfs, which drives disks through io_uring only; \
                  write --ioengine=io_uring, or measure other engines with fio"
            .into()),
    }
}

fn direct_only(value: &str) -> Result<String, String> {
    match value {
        "1" => Ok(value.into()),
        "0" => Err("the engine opens disks with O_DIRECT only; a buffered run would measure the \
                    page cache. Leave --direct out, or write --direct=1"
            .into()),
        _ => Err("expected 1".into()),
    }
}
