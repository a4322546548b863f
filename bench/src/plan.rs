//! From the command line's words to a plan that needs no further checking of its own.
//!
//! Nothing here opens a file: what depends on the disk (its size, its logical block) is checked by
//! [`JobPlan::range_on`] once the disk is open. Every refusal is a [`Failure::Usage`] that names
//! the option, its value and what is accepted; nothing is repaired in silence.

mod durable;
mod job;
pub(crate) mod show;
mod store;

use std::path::PathBuf;
use std::time::Duration;

use crate::args::{
    Buffers, CalibrateArgs, Cli, Client, Command, CompareArgs, EtaWhen, OutputFormat, Polled,
    RunArgs, SmokeArgs, Switch, Target,
};
use crate::failure::Failure;
use crate::units::{PlainTime, Span, count, cpu_list, percentiles, split_escaped, time};

pub use durable::CompareDurablePlan;
pub use job::{BLOCK_BYTES_MAX, DEPTH_MAX, JobPlan, SECTOR_BYTES};
pub use store::StorePlan;

/// fio's percentiles when none are asked for.
pub const PERCENTILES_DEFAULT: [f64; 17] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95,
    99.99,
];

/// What the process was asked to do.
///
/// Not an example to run: it is made from the process's arguments.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Run jobs and report.
    Run(Box<RunPlan>),
    /// Find a device's depth.
    Calibrate(CalibratePlan),
    /// Engine against bare ring.
    Compare(ComparePlan),
    /// Storage engine against bare durable writes.
    CompareDurable(CompareDurablePlan),
    /// The standard short run.
    Smoke(SmokePlan),
}

/// A checked run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    /// The main job, then those of `--beside`; clones are not expanded.
    pub jobs: Vec<JobPlan>,
    /// Disks, in the order given; empty for the NOP target.
    pub filenames: Vec<PathBuf>,
    /// The disks of `filenames` that may be written.
    pub destroy: Vec<PathBuf>,
    /// Write in spite of what is found on a disk of `destroy`.
    pub force: bool,
    /// Disks or no-ops.
    pub target: Target,
    /// Stop after this time, not counting `ramp`.
    pub runtime: Option<Duration>,
    /// Go on until `runtime` even after all of the span was covered.
    pub time_based: bool,
    /// Time before measuring starts.
    pub ramp: Duration,
    /// How the engine is set up.
    pub engine: EngineWishes,
    /// The pool; present with [`Target::Engine`] alone.
    pub store: Option<StorePlan>,
    /// Where the report goes.
    pub output: OutputPlan,
    /// Options that are not a job's, as the user spelled them, for the report.
    pub global_options: Vec<(String, String)>,
}

/// What the user asked of the engine; `None` leaves it to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineWishes {
    /// Off: every request in one class.
    pub priorities: Switch,
    /// Reactor threads.
    pub reactors: Option<usize>,
    /// CPUs for the reactors, ascending.
    pub cpus: Option<Vec<usize>>,
    /// Lanes per disk.
    pub lanes: Option<usize>,
    /// Completion by polling.
    pub polled: Polled,
    /// Spin before sleeping.
    pub spin: Option<Spin>,
    /// Where requests are made.
    pub client: Client,
    /// The scheduler's depth target.
    pub depth: Option<u32>,
    /// Pages of the buffers.
    pub buffers: Buffers,
    /// Engine configuration or calibration.
    pub config: Option<PathBuf>,
}

/// How long a reactor with nothing to do looks for work before it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spin {
    /// This long.
    For(Duration),
    /// It never sleeps.
    Forever,
}

/// Where and how results appear.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputPlan {
    /// File; standard output if absent.
    pub path: Option<PathBuf>,
    /// Table or JSON.
    pub format: OutputFormat,
    /// Clones of a job as one.
    pub group_reporting: bool,
    /// Ascending.
    pub percentiles: Vec<f64>,
    /// Progress line.
    pub eta: EtaWhen,
}

/// A checked `calibrate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalibratePlan {
    /// Device or file.
    pub device: PathBuf,
    /// File for the result.
    pub output: Option<PathBuf>,
    /// Time per depth.
    pub runtime: Duration,
    /// Bytes per request.
    pub block_bytes: u32,
    /// JSON on standard output.
    pub json: bool,
}

/// A checked `compare`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparePlan {
    /// The device; `None` is the NOP target.
    pub device: Option<PathBuf>,
    /// Rounds of each side.
    pub rounds: u32,
    /// Time per round and side.
    pub runtime: Duration,
    /// Bytes per request.
    pub block_bytes: u32,
    /// Requests in flight.
    pub depth: u32,
    /// Requests per submission, at most `depth`.
    pub batch_submit: u32,
    /// JSON on standard output.
    pub json: bool,
}

/// A checked `smoke`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmokePlan {
    /// Devices to read; empty: a temporary file in `dir`.
    pub devices: Vec<PathBuf>,
    /// Directory for the temporary file, if the user named one.
    pub dir: Option<PathBuf>,
    /// Time per step.
    pub runtime: Duration,
    /// JSON on standard output.
    pub json: bool,
}

impl TryFrom<Cli> for Plan {
    type Error = Failure;

    fn try_from(cli: Cli) -> Result<Self, Failure> {
        Ok(match cli.command {
            None => Self::Run(Box::new(cli.run.try_into()?)),
            Some(Command::Calibrate(args)) => Self::Calibrate(args.try_into()?),
            Some(Command::Compare(args)) => Self::Compare(args.try_into()?),
            Some(Command::CompareDurable(args)) => Self::CompareDurable(args.try_into()?),
            Some(Command::Smoke(args)) => Self::Smoke(args.try_into()?),
        })
    }
}

impl TryFrom<RunArgs> for RunPlan {
    type Error = Failure;

    fn try_from(args: RunArgs) -> Result<Self, Failure> {
        let mut jobs = vec![JobPlan::main(&args.job)?];
        for (index, specification) in args.beside.iter().enumerate() {
            jobs.push(JobPlan::beside(specification, index + 1)?);
        }
        let list = args.percentile_list.as_deref();
        let plan = Self {
            jobs,
            filenames: paths(&args.filename),
            destroy: paths(&args.destroy),
            force: args.force,
            target: args.target,
            runtime: optional(args.runtime.as_deref(), seconds("runtime"))?,
            time_based: args.time_based.unwrap_or(false),
            ramp: optional(args.ramp_time.as_deref(), seconds("ramp_time"))?.unwrap_or_default(),
            engine: EngineWishes::read(&args)?,
            store: StorePlan::read(&args)?,
            output: OutputPlan {
                path: args.output.clone(),
                format: args.output_format,
                group_reporting: args.group_reporting.unwrap_or(false),
                percentiles: optional(list, |text| Ok(percentiles("percentile_list", text)?))?
                    .unwrap_or_else(|| PERCENTILES_DEFAULT.to_vec()),
                eta: args.eta,
            },
            global_options: show::global_options(&args),
        };
        plan.check_target()?;
        plan.check_time()?;
        plan.check_writes(args.readonly)?;
        Ok(plan)
    }
}

impl RunPlan {
    /// Whether any job writes.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.jobs.iter().any(JobPlan::writes)
    }

    fn check_target(&self) -> Result<(), Failure> {
        match (self.target, self.filenames.is_empty()) {
            // Its refusals are with its words: see StorePlan::read.
            (Target::Engine, _) => Ok(()),
            (Target::Raw, true) => Err(Failure::usage(
                "filename",
                "",
                "a run needs at least one device or file",
                "add --filename=/dev/nvme0n1, or --target=nop to measure the engine alone",
            )),
            (Target::Nop, false) => Err(Failure::usage(
                "filename",
                &self.filenames[0].display().to_string(),
                "not used with --target=nop, which touches no disk",
                "leave out --filename or --target=nop",
            )),
            (Target::Nop, true) => {
                match self.jobs.iter().find(|job| matches!(job.span, Span::Percent(_))) {
                    Some(job) => Err(Failure::usage(
                        "size",
                        &format!("{} of job {}", show::span(job.span), job.name),
                        "--target=nop has no disk to take a percentage of",
                        "give --size in bytes, or --runtime",
                    )),
                    None => Ok(()),
                }
            }
            (Target::Raw, false) => Ok(()),
        }
    }

    fn check_time(&self) -> Result<(), Failure> {
        let timed = self.runtime.is_some_and(|runtime| !runtime.is_zero());
        let endless = self.target == Target::Nop && self.jobs.iter().any(|j| j.span == Span::All);
        if self.time_based && !timed {
            let help = "add --runtime=10 (seconds)";
            return Err(Failure::usage("time_based", "", "needs a --runtime above 0", help));
        }
        if endless && !timed {
            let help = "add --runtime=10, or --size=1g";
            return Err(Failure::usage("target", "nop", "would never end without a limit", help));
        }
        Ok(())
    }

    fn check_writes(&self, readonly: bool) -> Result<(), Failure> {
        if self.target == Target::Engine {
            return store::check_writes(self, readonly);
        }
        for path in &self.destroy {
            if !self.filenames.contains(path) {
                return Err(Failure::usage(
                    "destroy",
                    &path.display().to_string(),
                    "is not one of the disks of --filename",
                    "spell the path as in --filename",
                ));
            }
        }
        let Some(writer) = self.jobs.iter().find(|job| job.writes()) else {
            return Ok(());
        };
        if readonly {
            return Err(Failure::usage(
                "readonly",
                "",
                &format!("job '{}' writes (rw={})", writer.name, show::word(writer.pattern)),
                "leave out --readonly, or use rw=read or rw=randread",
            ));
        }
        match self.filenames.iter().find(|path| !self.destroy.contains(path)) {
            Some(path) => Err(Failure::usage(
                "rw",
                &show::word(writer.pattern),
                &format!("job '{}' would overwrite {}", writer.name, path.display()),
                &format!("if its content may be lost, add --destroy={}", path.display()),
            )),
            None => Ok(()),
        }
    }
}

impl EngineWishes {
    fn read(args: &RunArgs) -> Result<Self, Failure> {
        let number = |field: &'static str, text: &Option<String>, max: u64| {
            optional(text.as_deref(), |text| Ok(count(field, text, 1, max)?))
        };
        let wishes = Self {
            priorities: args.priorities,
            reactors: number("reactors", &args.reactors, 1024)?.map(narrow),
            cpus: optional(args.cpus.as_deref(), |text| Ok(cpu_list("cpus", text)?))?,
            lanes: number("lanes", &args.lanes, 64)?.map(narrow),
            polled: args.polled,
            spin: optional(args.spin.as_deref(), spin)?,
            client: args.client,
            depth: number("depth", &args.depth, u64::from(DEPTH_MAX))?.map(narrow),
            buffers: args.buffers,
            config: args.config.clone(),
        };
        if let (Some(reactors), Some(cpus)) = (wishes.reactors, &wishes.cpus)
            && reactors > cpus.len()
        {
            return Err(Failure::usage(
                "reactors",
                &reactors.to_string(),
                &format!("--cpus names {} CPUs, and a reactor has one of its own", cpus.len()),
                "name more CPUs or ask for fewer reactors",
            ));
        }
        Ok(wishes)
    }
}

impl TryFrom<CalibrateArgs> for CalibratePlan {
    type Error = Failure;

    fn try_from(args: CalibrateArgs) -> Result<Self, Failure> {
        Ok(Self {
            device: args.device,
            output: args.output,
            runtime: measured("runtime", &args.runtime)?,
            block_bytes: job::block_bytes(&args.bs)?,
            json: args.json,
        })
    }
}

impl TryFrom<CompareArgs> for ComparePlan {
    type Error = Failure;

    fn try_from(args: CompareArgs) -> Result<Self, Failure> {
        match (&args.device, args.target) {
            (None, Target::Raw) => {
                let help = "name a device, or add --target=nop";
                return Err(Failure::usage("target", "raw", "needs a device", help));
            }
            (Some(_), Target::Nop) => {
                let help = "leave out the device or --target=nop";
                return Err(Failure::usage("target", "nop", "touches no device", help));
            }
            (_, Target::Engine) => {
                let help = "`compare-durable` measures the storage engine";
                return Err(Failure::usage("target", "engine", "compares raw reads", help));
            }
            _ => {}
        }
        let depth = count("iodepth", &args.iodepth, 1, u64::from(DEPTH_MAX))?;
        Ok(Self {
            device: args.device,
            rounds: narrow(count("rounds", &args.rounds, 1, 1000)?),
            runtime: measured("runtime", &args.runtime)?,
            block_bytes: job::block_bytes(&args.bs)?,
            depth: narrow(depth),
            batch_submit: narrow(match &args.iodepth_batch_submit {
                Some(text) => count("iodepth_batch_submit", text, 1, depth)?,
                None => depth.min(32),
            }),
            json: args.json,
        })
    }
}

impl TryFrom<SmokeArgs> for SmokePlan {
    type Error = Failure;

    fn try_from(args: SmokeArgs) -> Result<Self, Failure> {
        Ok(Self {
            devices: args.devices,
            dir: args.dir,
            runtime: measured("runtime", &args.runtime)?,
            json: args.json,
        })
    }
}

/// fio's colon-separated lists, without repetitions.
fn paths(lists: &[String]) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in lists.iter().flat_map(|list| split_escaped(list, ':')).map(PathBuf::from) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

fn optional<T>(
    text: Option<&str>,
    read: impl FnOnce(&str) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    text.map(read).transpose()
}

fn seconds(field: &'static str) -> impl Fn(&str) -> Result<Duration, Failure> {
    move |text| Ok(time(field, text, PlainTime::Seconds)?)
}

/// A time in which something is measured, so not nothing.
fn measured(field: &'static str, text: &str) -> Result<Duration, Failure> {
    let read = seconds(field)(text)?;
    if read < Duration::from_millis(10) {
        let help = "write 1s or more for a result that repeats";
        return Err(Failure::usage(field, text, "must be at least 10ms", help));
    }
    Ok(read)
}

fn spin(text: &str) -> Result<Spin, Failure> {
    match text {
        "forever" => Ok(Spin::Forever),
        _ => Ok(Spin::For(time("spin", text, PlainTime::Microseconds)?)),
    }
}

/// Narrows a number whose range was checked; one that does not fit is our own bug.
fn narrow<T: TryFrom<u64>>(number: u64) -> T {
    match T::try_from(number) {
        Ok(narrowed) => narrowed,
        Err(_) => unreachable!("{number} was checked against a range that fits"),
    }
}

#[cfg(test)]
mod tests;
