//! Carries out a plan: opens the engine, runs the jobs, prints the report.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dynamicfs::engine::status::Status;
use dynamicfs::io::metrics::ClassSnapshot;
use dynamicfs::machine::mapping::Pages;
use dynamicfs::metrics::HistogramSnapshot;
use dynamicfs::{DiskId, IoScheduler, Metrics, Priority};

use crate::args::{self, Target};
use crate::environment::Environment;
use crate::eta::{Eta, Goal};
use crate::failure::Failure;
use crate::load::{CloneOrder, FAILURES_MAX, Window};
use crate::output::{check_place, deliver};
use crate::plan::{JobPlan, Plan, RunPlan, Spin};
use crate::report::disk::DiskCounters;
use crate::report::interval::IntervalSeries;
use crate::report::latency::Latency;
use crate::report::{
    DirectionReport, EngineReport, ErrorCount, IoPath, JobReport, LoadKind, ReactorReport,
    RunReport,
};
use crate::session::{self, Running};
use crate::stream::Stream;
use crate::{calibrate, compare, smoke};

/// From spawning the clones to the opening of their window without a ramp.
const LEAD_NS: u64 = 30_000_000;

/// Carries out `plan`.
///
/// # Errors
/// [`Failure`], by what went wrong; reports of runs with failed requests are printed first.
pub fn execute(plan: &Plan) -> Result<(), Failure> {
    match plan {
        Plan::Run(plan) => {
            check_place(plan.output.path.as_deref(), &plan.filenames)?;
            let report = measure(plan)?;
            let text = report.render(plan.output.format).map_err(|error| Failure::Runtime {
                message: format!("cannot write the report: {error}"),
                help: "this is a bug: report it with the command line".into(),
            })?;
            deliver(&text, plan.output.path.as_deref())?;
            failures(&report)
        }
        Plan::Calibrate(plan) => calibrate::execute(plan),
        Plan::Compare(plan) => compare::execute(plan),
        Plan::Smoke(plan) => smoke::execute(plan),
    }
}

fn failures(report: &RunReport) -> Result<(), Failure> {
    let failed = report.failed();
    if failed == 0 {
        return Ok(());
    }
    let done: u64 = report.jobs.iter().map(|job| job.read.total_ios + job.write.total_ios).sum();
    let first = report.first_failure.clone().unwrap_or_else(|| "unknown".into());
    Err(Failure::Io { failed, total: done + failed, first })
}

/// Opens the engine, runs the jobs of `plan`, closes the engine.
///
/// # Errors
/// As [`execute`], except for failed requests, which are in the report.
pub fn measure(plan: &RunPlan) -> Result<RunReport, Failure> {
    let writes = plan.writes();
    if writes && plan.target == Target::Raw {
        session::clear_for_writing(&plan.filenames, &plan.destroy, plan.force)?;
    }
    let disks = match plan.target {
        Target::Raw => plan.filenames.iter().map(|path| session::disk(path, writes)).collect(),
        Target::Nop => vec![session::nop_disk()],
    };
    let disk_count = disks.len() as u64;
    let bytes = plan.jobs.iter().map(|job| {
        let rounded = u64::from(job.block_bytes).next_power_of_two().max(4096);
        rounded * u64::from(job.depth) * u64::from(job.clones) * disk_count
    });
    let mut config = session::configuration(&plan.engine, disks, bytes.sum())?;
    let batch = plan.jobs.iter().map(|job| job.batch_complete_min.max(job.batch_submit)).max();
    if let Some(batch) = batch.filter(|batch| *batch > 1) {
        config.reactors.completion_batch = batch.min(64);
        config.reactors.settle_us = 1000;
    }
    let engine = Arc::new(session::open(&config)?);
    let outcome = Measurement::new(plan, &engine).run();
    match Arc::try_unwrap(engine) {
        Ok(engine) => session::close(engine).and(outcome),
        Err(_) => outcome,
    }
}

struct Measurement<'a> {
    plan: &'a RunPlan,
    engine: &'a Arc<IoScheduler>,
    window: Window,
}

/// The clones of one job, with their series.
struct JobRun<'a> {
    job: &'a JobPlan,
    clones: Vec<(Running, [IntervalSeries; 2])>,
}

impl<'a> Measurement<'a> {
    fn new(plan: &'a RunPlan, engine: &'a Arc<IoScheduler>) -> Self {
        let from_ns = engine.now_ns() + LEAD_NS + plan.ramp.as_nanos() as u64;
        let until_ns = plan
            .runtime
            .map_or(u64::MAX / 2, |runtime| from_ns.saturating_add(runtime.as_nanos() as u64));
        Self { plan, engine, window: Window { from_ns, until_ns, ios_max: u64::MAX } }
    }

    fn orders(&self, job: &JobPlan) -> Result<Vec<CloneOrder>, Failure> {
        let mut orders = Vec::new();
        for facts in self.engine.disks() {
            let range = job.range_on(&facts.path, facts.size_bytes, facts.logical_block_bytes)?;
            let blocks = (range.end - range.start) / u64::from(job.block_bytes);
            if blocks == 0 {
                return Err(Failure::usage(
                    "bs",
                    &job.block_bytes.to_string(),
                    &format!("{} has no room for one request there", facts.path),
                    "use a smaller --bs, or another --offset or --size",
                ));
            }
            for clone in 0..job.clones {
                let whole = self.plan.time_based;
                let ios_max = if whole { u64::MAX } else { blocks };
                orders.push(CloneOrder {
                    disk: facts.id,
                    stream: Stream::new(job, range.start, blocks, clone),
                    block_bytes: job.block_bytes,
                    depth: job.depth,
                    classes: [class(job.priority_read), class(job.priority_write)],
                    interval_ns: job.rate_iops.map(|rate| 1_000_000_000 / rate.max(1)),
                    window: Window { ios_max, ..self.window },
                });
            }
        }
        Ok(orders)
    }

    fn run(mut self) -> Result<RunReport, Failure> {
        let orders: Vec<(&JobPlan, Vec<CloneOrder>)> = self
            .plan
            .jobs
            .iter()
            .map(|job| Ok((job, self.orders(job)?)))
            .collect::<Result<_, Failure>>()?;
        // Preparing the offsets took time: the window opens from now on.
        let fresh = Self::new(self.plan, self.engine).window;
        self.window = fresh;
        let mut jobs = Vec::new();
        for (job, orders) in orders {
            let mut clones = Vec::new();
            for (number, order) in orders.into_iter().enumerate() {
                let window = Window { ios_max: order.window.ios_max, ..fresh };
                let order = CloneOrder { window, ..order };
                let running = session::start(self.engine, order, number, self.plan.engine.client)?;
                clones
                    .push((running, [IntervalSeries::per_second(), IntervalSeries::per_second()]));
            }
            jobs.push(JobRun { job, clones });
        }
        let names = disk_names(&self.engine.status());
        let disks_before: Vec<Option<DiskCounters>> =
            names.iter().map(|name| DiskCounters::read(name)).collect();
        let before = self.wait_for_window(&jobs);
        let started = Instant::now();
        let after = self.watch(&mut jobs)?;
        let elapsed = started.elapsed();
        let uses = names.iter().zip(disks_before).filter_map(|(name, before)| {
            let now = DiskCounters::read(name)?;
            Some(before?.until(now, name, elapsed.as_nanos() as u64))
        });
        let disks = uses.collect();
        Ok(RunReport { disks, ..self.report(&jobs, &before, &after, elapsed) })
    }

    /// Sleeps through the ramp; metrics are counted from its end.
    fn wait_for_window(&self, jobs: &[JobRun<'_>]) -> Metrics {
        let over = || jobs.iter().all(|job| job.clones.iter().all(|c| c.0.result.is_done()));
        let mut early = self.engine.metrics();
        while self.engine.now_ns() < self.window.from_ns && !over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !over() {
            early = self.engine.metrics();
        }
        early
    }

    /// Waits for the clones, feeding the series and the progress line.
    fn watch(&self, jobs: &mut [JobRun<'_>]) -> Result<Metrics, Failure> {
        let goal = match self.plan.runtime {
            Some(runtime) => Goal::Elapsed(runtime),
            None => Goal::Bytes(self.total_bytes(jobs)),
        };
        let mut eta = Eta::new(self.plan.output.eta, goal);
        let from_ns = self.window.from_ns;
        let mut closing: Option<Metrics> = None;
        let mut series: Vec<_> = Vec::new();
        let mut running: Vec<Running> = Vec::new();
        for job in jobs.iter_mut() {
            for (clone, pair) in job.clones.drain(..) {
                running.push(clone);
                series.push(pair);
            }
        }
        let results: Vec<_> = running.iter().map(|clone| Arc::clone(&clone.result)).collect();
        let until_ns = self.window.until_ns;
        let watched = session::wait(self.engine, &mut running, until_ns, |now_ns| {
            let elapsed_ns = now_ns.saturating_sub(from_ns);
            let (mut ios, mut bytes) = (0, 0);
            for (result, pair) in results.iter().zip(&mut series) {
                for (tally, series) in result.tallies.iter().zip(pair.iter_mut()) {
                    let done = tally.ios.get();
                    series.feed(elapsed_ns, done, done * result.block_bytes);
                    ios += done;
                    bytes += done * result.block_bytes;
                }
            }
            eta.tick(ios, bytes, Duration::from_nanos(elapsed_ns));
            if now_ns >= until_ns && closing.is_none() {
                closing = Some(self.engine.metrics());
            }
        });
        eta.finish();
        let end_ns = self.engine.now_ns().min(until_ns).saturating_sub(from_ns);
        let mut all = running.into_iter().zip(series);
        for job in jobs.iter_mut() {
            let count = job.job.clones as usize * self.engine.disks().len();
            for (clone, mut pair) in all.by_ref().take(count) {
                for (tally, series) in clone.result.tallies.iter().zip(&mut pair) {
                    let done = tally.ios.get();
                    series.finish(end_ns, done, done * clone.result.block_bytes);
                }
                job.clones.push((clone, pair));
            }
        }
        watched?;
        Ok(closing.unwrap_or_else(|| self.engine.metrics()))
    }

    fn total_bytes(&self, jobs: &[JobRun<'_>]) -> u64 {
        let per_disk = |job: &JobPlan| {
            let disks = self.engine.disks().iter();
            let ranges = disks.filter_map(|disk| {
                job.range_on(&disk.path, disk.size_bytes, disk.logical_block_bytes).ok()
            });
            ranges.map(|range| range.end - range.start).sum::<u64>() * u64::from(job.clones)
        };
        jobs.iter().map(|job| per_disk(job.job)).sum()
    }

    fn report(
        &self,
        jobs: &[JobRun<'_>],
        before: &Metrics,
        after: &Metrics,
        elapsed: Duration,
    ) -> RunReport {
        let status = self.engine.status();
        let mut reports = Vec::new();
        for (group, run) in jobs.iter().enumerate() {
            let clones = run.clones.iter().map(|(clone, series)| {
                self.job_report(run.job, group as u32, clone, series, before, after)
            });
            let mut clones: Vec<JobReport> = clones.collect();
            if self.plan.output.group_reporting && clones.len() > 1 {
                let rest = clones.split_off(1);
                rest.iter().for_each(|clone| clones[0].absorb(clone));
            }
            reports.extend(clones);
        }
        let all = jobs.iter().flat_map(|job| &job.clones);
        let first_failure = all.filter_map(|(clone, _)| clone.result.failure()).next();
        let environment = Environment::probe(&self.plan.filenames);
        let mut warnings = status.notes.clone();
        let failed = jobs.iter().flat_map(|job| &job.clones);
        if failed.map(|(clone, _)| clone.result.failed.get()).max() >= Some(FAILURES_MAX) {
            warnings.push(format!("a job was ended early, after {FAILURES_MAX} failed requests"));
        }
        let open_loop = self.plan.jobs.iter().any(|job| job.rate_iops.is_some());
        RunReport {
            finished: SystemTime::now(),
            elapsed_ns: elapsed.as_nanos() as u64,
            load: if open_loop { LoadKind::Open } else { LoadKind::Closed },
            target: self.plan.target,
            client: self.plan.engine.client,
            global_options: self.plan.global_options.clone(),
            jobs: reports,
            engine: self.engine_report(&status, jobs, before, after),
            disks: Vec::new(),
            environment,
            warnings,
            percentiles: self.plan.output.percentiles.clone(),
            first_failure: first_failure.map(|error| error.to_string()),
        }
    }

    fn job_report(
        &self,
        job: &JobPlan,
        group_id: u32,
        clone: &Running,
        series: &[IntervalSeries; 2],
        before: &Metrics,
        after: &Metrics,
    ) -> JobReport {
        let result = &clone.result;
        let (from, until) = match result.window() {
            Some([from, until]) => (from, until),
            None => Default::default(),
        };
        let runtime_ns = until.0.saturating_sub(from.0);
        let direction = |which: usize, class: Priority| {
            let tally = &result.tallies[which];
            let (wait, service) = class_latency(before, after, class);
            DirectionReport {
                io_bytes: tally.ios.get() * result.block_bytes,
                total_ios: tally.ios.get(),
                runtime_ns,
                total: latency(&tally.total.snapshot()),
                completion: latency(&tally.total.snapshot()),
                wait: latency(&wait),
                device: latency(&service),
                intervals: series[which].clone(),
                ..DirectionReport::new()
            }
        };
        let sizes = *result.sizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        JobReport {
            name: job.name.clone(),
            group_id,
            priority: job.priority_read,
            priority_write: job.priority_write,
            options: job.options.clone(),
            error: result.failure().and_then(|error| error.errno).unwrap_or(0),
            runtime_ns,
            read: direction(0, class(job.priority_read)),
            write: direction(1, class(job.priority_write)),
            user_ns: until.1.user_ns.saturating_sub(from.1.user_ns),
            system_ns: until.1.system_ns.saturating_sub(from.1.system_ns),
            context_switches: (until.1.voluntary_switches + until.1.involuntary_switches)
                .saturating_sub(from.1.voluntary_switches + from.1.involuntary_switches),
            major_faults: until.1.major_faults.saturating_sub(from.1.major_faults),
            minor_faults: until.1.minor_faults.saturating_sub(from.1.minor_faults),
            depth: job.depth,
            depth_seen: sizes.0,
            submit_sizes: sizes.1,
            reap_sizes: sizes.1,
        }
    }

    fn engine_report(
        &self,
        status: &Status,
        jobs: &[JobRun<'_>],
        before: &Metrics,
        after: &Metrics,
    ) -> EngineReport {
        let deltas = session::difference(before, after);
        let clones: Vec<&Running> =
            jobs.iter().flat_map(|j| j.clones.iter().map(|c| &c.0)).collect();
        let local = self.plan.engine.client == args::Client::Reactor;
        let reactors = deltas.iter().enumerate().map(|(number, delta)| {
            // A clone on the reactor reads its thread's clock exactly at the window's edges; the
            // published figures are up to 20 ms old.
            let edges = clones.iter().filter(|clone| local && clone.reactor == number);
            let exact = edges.filter_map(|clone| clone.result.window()).next();
            let (user_ns, system_ns) = match exact {
                Some([from, until]) => split_cpu(from.1, until.1),
                None => (delta.user_ns, delta.system_ns),
            };
            let place = &status.reactors[number];
            ReactorReport {
                cpu: place.cpu_found.unwrap_or(place.cpu_wanted),
                node: place.node.unwrap_or(0),
                user_ns,
                system_ns,
                ios: delta.reaped,
                enters: delta.enters,
                submits: delta.submits,
                reaps: delta.reaps,
                wakes: delta.wakes,
            }
        });
        let sum = |of: fn(&ClassSnapshot) -> u64| {
            let total = |metrics: &Metrics| -> u64 {
                metrics.disks.iter().flat_map(|disk| disk.classes.iter().map(of)).sum()
            };
            total(after) - total(before)
        };
        EngineReport {
            path: io_path(status, self.plan),
            reactors: reactors.collect(),
            aged: sum(|class| class.aged),
            shed: sum(|class| class.shed),
            stolen: sum(|class| class.stolen),
            split: sum(|class| class.split),
            errors: error_counts(&self.engine.metrics()),
        }
    }
}

/// User and system time over a window: the precise total, split as the kernel's ticks say.
fn split_cpu(
    from: dynamicfs::machine::affinity::ThreadUsage,
    until: dynamicfs::machine::affinity::ThreadUsage,
) -> (u64, u64) {
    let user = until.user_ns.saturating_sub(from.user_ns);
    let system = until.system_ns.saturating_sub(from.system_ns);
    let total = until.cpu_ns.saturating_sub(from.cpu_ns);
    let share = if user + system == 0 { 1.0 } else { user as f64 / (user + system) as f64 };
    let user = (total as f64 * share) as u64;
    (user, total - user)
}

fn error_counts(metrics: &Metrics) -> Vec<ErrorCount> {
    let each = metrics.disks.iter().flat_map(|disk| {
        disk.errors.iter().map(|(kind, count)| ErrorCount {
            kind: (*kind).to_owned(),
            device: disk.path.clone(),
            count: *count,
        })
    });
    each.collect()
}

/// Queue wait and device time of a class over the window, all disks.
fn class_latency(
    before: &Metrics,
    after: &Metrics,
    class: Priority,
) -> (HistogramSnapshot, HistogramSnapshot) {
    let (mut wait, mut service) = (HistogramSnapshot::default(), HistogramSnapshot::default());
    for (then, now) in before.disks.iter().zip(&after.disks) {
        wait.merge(&now.class(class).wait.since(&then.class(class).wait));
        service.merge(&now.class(class).service.since(&then.class(class).service));
    }
    (wait, service)
}

/// A histogram of the engine in the report's terms.
#[must_use]
pub fn latency(snapshot: &HistogramSnapshot) -> Latency {
    let mut latency = Latency::new();
    snapshot.buckets().for_each(|(ns, count)| latency.record_many(ns, count));
    latency
}

/// The engine's class for a word of the command line.
#[must_use]
pub fn class(priority: args::Priority) -> Priority {
    match priority {
        args::Priority::Critical => Priority::Critical,
        args::Priority::HighRead => Priority::HighRead,
        args::Priority::NormalRead => Priority::NormalRead,
        args::Priority::Write => Priority::Write,
        args::Priority::Background => Priority::Background,
    }
}

fn disk_names(status: &Status) -> Vec<String> {
    let devices = status.disks.iter().filter_map(|disk| disk.device.as_ref());
    devices.filter(|info| info.queue.is_some()).map(|info| info.name.clone()).collect()
}

fn io_path(status: &Status, plan: &RunPlan) -> IoPath {
    let Some(reactor) = status.reactors.first() else { return IoPath::default() };
    let ring = reactor.ring;
    let flags = [
        (ring.single_issuer, "SINGLE_ISSUER"),
        (ring.defer_taskrun, "DEFER_TASKRUN"),
        (ring.coop_taskrun, "COOP_TASKRUN"),
        (ring.no_sqarray, "NO_SQARRAY"),
        (ring.submit_all, "SUBMIT_ALL"),
        (ring.registered_ring, "registered ring"),
    ];
    let pages = match status.arenas.first().map(|arena| arena.pages) {
        Some(Pages::Gigantic) => "huge 1 GiB",
        Some(Pages::Huge) => "huge 2 MiB",
        Some(Pages::Transparent) => "transparent huge",
        _ => "normal 4 KiB",
    };
    let spin = match plan.engine.spin {
        Some(Spin::Forever) => "forever".to_owned(),
        Some(Spin::For(time)) => format!("{} us", time.as_micros()),
        None => "engine's default".to_owned(),
    };
    IoPath {
        ring_flags: flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).into()).collect(),
        ring_entries: ring.sq_entries,
        fixed_files: ring.fixed_files,
        fixed_buffers: ring.fixed_buffers,
        polled: status.disks.iter().any(|disk| disk.facts.polled),
        direct: plan.target == Target::Raw,
        pages: pages.into(),
        spin,
        fallbacks: status.reactors.iter().flat_map(|r| r.notes.iter().cloned()).collect(),
    }
}

/// Disk number 0, the only one of most measurements.
pub const FIRST_DISK: DiskId = DiskId(0);
