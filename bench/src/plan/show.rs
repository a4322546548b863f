//! Plans as text: the job file that `--parse-only` prints, and the options that the report repeats.

use std::fmt::{self, Display, Formatter};

use clap::ValueEnum;

use super::{
    CalibratePlan, CompareDurablePlan, ComparePlan, JobPlan, Plan, RunPlan, SmokePlan, Spin,
};
use crate::args::{JobWords, RunArgs};
use crate::units::Span;

/// The command line's spelling of a value.
pub(crate) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|named| named.get_name().to_owned()).unwrap_or_default()
}

/// The command line's spelling of a span.
pub(super) fn span(span: Span) -> String {
    match span {
        Span::All => "0".into(),
        Span::Bytes(bytes) => bytes.to_string(),
        Span::Percent(percent) => format!("{percent}%"),
    }
}

/// The words of a job that the user gave, as spelled.
pub(super) fn job_options(words: &JobWords) -> Vec<(String, String)> {
    let given = [
        ("name", words.name.clone()),
        ("rw", words.rw.map(word)),
        ("rwmixread", words.rwmixread.clone()),
        ("bs", words.bs.clone()),
        ("iodepth", words.iodepth.clone()),
        ("numjobs", words.numjobs.clone()),
        ("size", words.size.clone()),
        ("offset", words.offset.clone()),
        ("iodepth_batch_submit", words.iodepth_batch_submit.clone()),
        ("iodepth_batch_complete_min", words.iodepth_batch_complete_min.clone()),
        ("rate_iops", words.rate_iops.clone()),
        ("randseed", words.randseed.clone()),
        ("priority", words.priority.map(word)),
    ];
    kept(given)
}

/// The words of a run that the user gave or that a reader of the report needs, as spelled.
pub(super) fn global_options(args: &RunArgs) -> Vec<(String, String)> {
    let list = |values: &[String]| (!values.is_empty()).then(|| values.join(":"));
    let one = |given: Option<bool>| given.filter(|on| *on).map(|_| "1".to_owned());
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
    kept([
        ("filename", list(&args.filename)),
        ("destroy", list(&args.destroy)),
        ("force", one(Some(args.force))),
        ("readonly", one(Some(args.readonly))),
        ("runtime", args.runtime.clone()),
        ("time_based", one(args.time_based)),
        ("ramp_time", args.ramp_time.clone()),
        ("target", Some(word(args.target))),
        ("priorities", Some(word(args.priorities))),
        ("reactors", args.reactors.clone()),
        ("cpus", args.cpus.clone()),
        ("lanes", args.lanes.clone()),
        ("polled", Some(word(args.polled))),
        ("spin", args.spin.clone()),
        ("client", Some(word(args.client))),
        ("depth", args.depth.clone()),
        ("buffers", Some(word(args.buffers))),
        ("config", path(&args.config)),
        ("group_reporting", one(args.group_reporting)),
        ("percentile_list", args.percentile_list.clone()),
        ("pool", path(&args.store.pool)),
        ("format", args.store.format.map(word)),
        ("inodes", args.store.inodes.clone()),
        ("durability", args.store.durability.map(word)),
        ("clients", args.store.clients.map(word)),
        ("drivers", args.store.drivers.clone()),
    ])
}

fn kept<const N: usize>(given: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    let named = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    named.collect()
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(plan) => plan.fmt(f),
            Self::Calibrate(plan) => plan.fmt(f),
            Self::Compare(plan) => plan.fmt(f),
            Self::CompareDurable(plan) => plan.fmt(f),
            Self::Smoke(plan) => plan.fmt(f),
        }
    }
}

impl Display for RunPlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "[global]")?;
        for (key, value) in &self.global_options {
            writeln!(f, "{key}={value}")?;
        }
        match self.engine.spin {
            Some(Spin::Forever) => writeln!(f, "; reactors never sleep")?,
            Some(Spin::For(time)) => {
                writeln!(f, "; reactors spin {} us before they sleep", time.as_micros())?;
            }
            None => {}
        }
        for job in &self.jobs {
            writeln!(f)?;
            job.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for JobPlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "[{}]", self.name)?;
        writeln!(f, "rw={}", word(self.pattern))?;
        if self.writes() && self.read_percent > 0 {
            writeln!(f, "rwmixread={}", self.read_percent)?;
        }
        writeln!(f, "bs={}", self.block_bytes)?;
        writeln!(f, "iodepth={}", self.depth)?;
        writeln!(f, "numjobs={}", self.clones)?;
        writeln!(f, "offset={}", span(self.offset))?;
        writeln!(f, "size={}", span(self.span))?;
        writeln!(f, "iodepth_batch_submit={}", self.batch_submit)?;
        writeln!(f, "iodepth_batch_complete_min={}", self.batch_complete_min)?;
        if let Some(rate) = self.rate_iops {
            writeln!(f, "rate_iops={rate}")?;
        }
        writeln!(f, "randseed={}", self.seed)?;
        if self.read_percent > 0 {
            writeln!(f, "; reads are {}", word(self.priority_read))?;
        }
        if self.writes() {
            writeln!(f, "; writes are {}", word(self.priority_write))?;
        }
        Ok(())
    }
}

impl Display for CalibratePlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (device, bs) = (self.device.display(), self.block_bytes);
        writeln!(f, "calibrate {device}: bs={bs}, {:?} per depth", self.runtime)
    }
}

impl Display for ComparePlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let device = self.device.as_ref().map_or("nop".into(), |path| path.display().to_string());
        write!(f, "compare {device}: {} rounds of {:?}, ", self.rounds, self.runtime)?;
        writeln!(f, "bs={}, iodepth={}, batch={}", self.block_bytes, self.depth, self.batch_submit)
    }
}

impl Display for CompareDurablePlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let disk = self.disk.display();
        write!(f, "compare-durable {disk}: {} rounds of {:?}, ", self.rounds, self.runtime)?;
        writeln!(f, "bs={}, 1 and {} writers", self.block_bytes, self.writers)
    }
}

impl Display for SmokePlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let devices: Vec<_> = self.devices.iter().map(|path| path.display().to_string()).collect();
        let on = if devices.is_empty() { "a temporary file".into() } else { devices.join(" ") };
        writeln!(f, "smoke {on}: {:?} per step", self.runtime)
    }
}
