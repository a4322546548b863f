//! The engine beside the bare ring: same disk, same depth, same batch, in alternation.
//!
//! The figure that counts is CPU time of the submitting thread per request. Rates are given too,
//! but where the device is the bottleneck they hide what the software costs.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use dynamicfs::machine::device::{Access, Device, OpenOptions};
use dynamicfs::scheduler::limits::{DEPTH_MAX, NR_REQUESTS_SLACK};
use dynamicfs::{DiskConfig, IoConfig};
use serde_json::json;

use crate::args::{Client, Pattern, Priority};
use crate::bare_ring::{self, BareOrder};
use crate::failure::Failure;
use crate::load::{CloneOrder, Window};
use crate::output::deliver;
use crate::plan::{ComparePlan, JobPlan};
use crate::run::FIRST_DISK;
use crate::run::parts::class;
use crate::session;
use crate::stream::Stream;
use crate::units::Span;

/// Time for the engine's loop to warm up before its window opens.
const WARM_NS: u64 = 50_000_000;

/// One side of one round.
#[derive(Debug, Clone, Copy, Default)]
pub struct Side {
    /// Requests per second.
    pub iops: f64,
    /// CPU time of the submitting thread per request, nanoseconds.
    pub cpu_ns: f64,
    /// `io_uring_enter` calls per request.
    pub enters: f64,
}

/// Where and how to compare.
#[derive(Debug)]
pub struct Contest {
    disk: DiskConfig,
    file: Option<OwnedFd>,
    disk_bytes: u64,
    /// Most requests that the block layer takes without blocking.
    device_depth_max: u32,
    job: JobPlan,
    batch: u32,
    runtime: Duration,
    cpu: u32,
}

/// Carries out `compare`.
///
/// # Errors
/// [`Failure`], by what went wrong.
pub fn execute(plan: &ComparePlan) -> Result<(), Failure> {
    let contest = Contest::new(plan)?;
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        rounds.push((contest.bare()?, contest.engine()?));
    }
    let text = if plan.json { json_text(plan, &rounds) } else { table(plan, &rounds) };
    deliver(&text, None)
}

impl Contest {
    /// Opens the device for the bare side and prepares the job.
    ///
    /// # Errors
    /// [`Failure::Device`] when it cannot be opened.
    pub fn new(plan: &ComparePlan) -> Result<Self, Failure> {
        let (disk, file, disk_bytes, requests) = match &plan.device {
            None => (session::nop_disk(), None, session::NOP_BYTES, None),
            Some(path) => {
                let device = Device::open(path, &OpenOptions::new(Access::ReadOnly))
                    .map_err(|error| session::device_failure(&error))?;
                let file = device.as_fd().try_clone_to_owned().map_err(|error| {
                    let message = format!("{}: {error}", path.display());
                    Failure::Device { message, help: "see `dmesg`".into() }
                })?;
                let bytes = device.info().size_bytes;
                if bytes < u64::from(plan.block_bytes) {
                    let reason = format!("{} is smaller than one request", path.display());
                    let help = "use a larger device or a smaller --bs";
                    let block = plan.block_bytes.to_string();
                    return Err(Failure::usage("bs", &block, &reason, help));
                }
                let requests = device.info().queue.as_ref().and_then(|queue| queue.nr_requests);
                (session::disk(path, false), Some(file), bytes, requests)
            }
        };
        Ok(Self {
            disk,
            file,
            disk_bytes,
            device_depth_max: requests
                .map_or(DEPTH_MAX, |requests| requests.saturating_sub(NR_REQUESTS_SLACK).max(1)),
            job: random_reads(plan.block_bytes, plan.depth),
            batch: plan.batch_submit,
            runtime: plan.runtime,
            cpu: last_cpu(),
        })
    }

    fn stream(&self) -> Stream {
        Stream::new(&self.job, 0, self.disk_bytes / u64::from(self.job.block_bytes), 0)
    }

    /// One round of the bare ring.
    ///
    /// # Errors
    /// [`Failure`], by what went wrong.
    pub fn bare(&self) -> Result<Side, Failure> {
        let order = BareOrder {
            file: self.file.as_ref(),
            block_bytes: self.job.block_bytes,
            depth: self.job.depth,
            batch: self.batch,
            runtime: self.runtime,
            ios_max: u64::MAX,
            cpu: self.cpu,
        };
        let result = bare_ring::run(&order, self.stream())?;
        let ios = result.ios.max(1) as f64;
        Ok(Side {
            iops: ios * 1e9 / result.wall_ns.max(1) as f64,
            cpu_ns: result.cpu_ns as f64 / ios,
            enters: result.enters as f64 / ios,
        })
    }

    fn config(&self) -> IoConfig {
        let mut disk = self.disk.clone();
        // Two descriptors of one device in one process: the bare side holds the exclusive one.
        if disk.nop_bytes.is_none() {
            disk.access = dynamicfs::engine::config::DiskAccess::ReadOnlyShared;
        }
        let mut config = IoConfig { disks: vec![disk], ..IoConfig::default() };
        // The same depth at the device as on the bare side: reads may fill 14 of 16 slots.
        let wanted = (self.job.depth * 16).div_ceil(14).min(DEPTH_MAX);
        config.scheduler.depth = Some(wanted.min(self.device_depth_max));
        config.reactors.cpus = Some(vec![self.cpu]);
        config.reactors.spin_us = 0;
        config.reactors.completion_batch = self.batch.clamp(1, 64);
        config.reactors.settle_us = 10_000;
        let bytes = u64::from(self.job.depth) * u64::from(self.job.block_bytes.max(4096));
        config.memory.arena_mib_per_node = (2 * bytes).div_ceil(1 << 20).max(16) as u32;
        config
    }

    /// One round of the engine: the load runs on the reactor.
    ///
    /// # Errors
    /// [`Failure`], by what went wrong.
    pub fn engine(&self) -> Result<Side, Failure> {
        let engine = Arc::new(session::open(&self.config())?);
        let stream = self.stream();
        let from_ns = engine.now_ns() + WARM_NS;
        let until_ns = from_ns + self.runtime.as_nanos() as u64;
        let order = CloneOrder {
            disk: FIRST_DISK,
            stream,
            block_bytes: self.job.block_bytes,
            depth: self.job.depth,
            classes: [class(self.job.priority_read), class(self.job.priority_write)],
            interval_ns: None,
            window: Window { from_ns, until_ns, ios_max: u64::MAX },
        };
        let mut running = vec![session::start(&engine, order, 0, Client::Reactor)?];
        std::thread::sleep(Duration::from_nanos(WARM_NS));
        let before = engine.metrics();
        std::thread::sleep(self.runtime);
        let after = engine.metrics();
        session::wait(&engine, &mut running, until_ns, |_| {})?;
        let result = Arc::clone(&running[0].result);
        drop(running);
        if let Ok(engine) = Arc::try_unwrap(engine) {
            session::close(engine)?;
        }
        let ios = result.tallies[0].ios.get().max(1) as f64;
        let Some([from, until]) = result.window() else { return Ok(Side::default()) };
        let delta = session::difference(&before, &after);
        let reaped = delta[0].reaped.max(1) as f64;
        Ok(Side {
            iops: ios * 1e9 / (until.0 - from.0).max(1) as f64,
            cpu_ns: (until.1.cpu_ns - from.1.cpu_ns) as f64 / ios,
            enters: delta[0].enters as f64 / reaped,
        })
    }
}

/// Uniform random reads in the class that reads have by default.
#[must_use]
pub fn random_reads(block_bytes: u32, depth: u32) -> JobPlan {
    JobPlan {
        name: "randread".into(),
        pattern: Pattern::RandRead,
        read_percent: 100,
        block_bytes,
        depth,
        clones: 1,
        span: Span::All,
        offset: Span::All,
        batch_submit: 1,
        batch_complete_min: 1,
        rate_iops: None,
        seed: 0x89,
        priority_read: Priority::NormalRead,
        priority_write: Priority::Write,
        options: Vec::new(),
    }
}

/// The highest CPU that this process may use: the lowest takes most interrupts.
#[must_use]
pub fn last_cpu() -> u32 {
    let topology = dynamicfs::machine::topology::Topology::detect();
    topology.ok().and_then(|topology| topology.cpus().last().copied()).unwrap_or(0)
}

/// The middle of several values.
#[must_use]
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn table(plan: &ComparePlan, rounds: &[(Side, Side)]) -> String {
    let mut text = String::new();
    let target = plan.device.as_ref().map_or("nop".into(), |path| path.display().to_string());
    let _ = writeln!(
        text,
        "{target}: random reads of {} bytes, depth {}, batch {}, {} rounds of {:.1} s each",
        plan.block_bytes,
        plan.depth,
        plan.batch_submit,
        plan.rounds,
        plan.runtime.as_secs_f64()
    );
    let _ =
        writeln!(text, "round       bare IOPS  CPU ns/IO    engine IOPS  CPU ns/IO   ratio  over");
    for (number, (bare, engine)) in rounds.iter().enumerate() {
        line(&mut text, &(number + 1).to_string(), bare, engine);
    }
    let (bare, engine) = medians(rounds);
    line(&mut text, "median", &bare, &engine);
    let ratio = median(rounds.iter().map(|(b, e)| e.iops / b.iops));
    let over = median(rounds.iter().map(|(b, e)| e.cpu_ns - b.cpu_ns));
    let _ = writeln!(
        text,
        "engine / bare: {ratio:.3} of its IOPS, {over:+.0} ns of CPU per request \
         (medians of the rounds' own differences)"
    );
    text
}

fn line(text: &mut String, name: &str, bare: &Side, engine: &Side) {
    let _ = writeln!(
        text,
        "{name:<7} {:>13.0} {:>10.1} {:>14.0} {:>10.1} {:>7.3} {:>+5.0}",
        bare.iops,
        bare.cpu_ns,
        engine.iops,
        engine.cpu_ns,
        engine.iops / bare.iops,
        engine.cpu_ns - bare.cpu_ns
    );
}

fn medians(rounds: &[(Side, Side)]) -> (Side, Side) {
    let of = |pick: fn(&(Side, Side)) -> Side| Side {
        iops: median(rounds.iter().map(|round| pick(round).iops)),
        cpu_ns: median(rounds.iter().map(|round| pick(round).cpu_ns)),
        enters: median(rounds.iter().map(|round| pick(round).enters)),
    };
    (of(|round| round.0), of(|round| round.1))
}

fn json_text(plan: &ComparePlan, rounds: &[(Side, Side)]) -> String {
    let side = |side: &Side| {
        let (iops, cpu_ns, enters) = (side.iops, side.cpu_ns, side.enters);
        json!({"iops": iops, "cpu_ns_per_io": cpu_ns, "enters_per_io": enters})
    };
    let whole = json!({
        "schema_version": 1,
        "device": plan.device,
        "block_bytes": plan.block_bytes,
        "depth": plan.depth,
        "batch": plan.batch_submit,
        "rounds": rounds
            .iter()
            .map(|(bare, engine)| json!({"bare": side(bare), "engine": side(engine)}))
            .collect::<Vec<_>>(),
        "iops_ratio": median(rounds.iter().map(|(b, e)| e.iops / b.iops)),
        "cpu_ns_over": median(rounds.iter().map(|(b, e)| e.cpu_ns - b.cpu_ns)),
    });
    format!("{whole:#}\n")
}
