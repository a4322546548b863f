//! Carries out a plan: opens the engine, runs the jobs, prints the report.

pub mod parts;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dynamicfs::engine::status::Status;
use dynamicfs::{DiskId, IoScheduler, Metrics};

use crate::args::{self, Target};
use crate::environment::Environment;
use crate::eta::{Eta, Goal};
use crate::failure::Failure;
use crate::load::{CloneOrder, FAILURES_MAX, Window};
use crate::output::{check_place, deliver};
use crate::plan::{JobPlan, Plan, RunPlan};
use crate::report::disk::DiskCounters;
use crate::report::interval::IntervalSeries;
use crate::report::{EngineReport, JobReport, LoadKind, RunReport};
use crate::run::parts::{class, disk_names, error_counts};
use crate::session::{self, Running};
use crate::stream::Stream;
use crate::watch::Watcher;
use crate::{calibrate, compare, compare_durable, smoke, store};

/// From spawning the clones to the opening of their window without a ramp.
const LEAD_NS: u64 = 30_000_000;

/// Carries out `plan`.
///
/// # Errors
/// [`Failure`], by what went wrong; reports of runs with failed requests are printed first.
pub fn execute(plan: &Plan) -> Result<(), Failure> {
    match plan {
        Plan::Run(plan) => {
            check_place(plan.output.path.as_deref(), &store::disks(plan)?)?;
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
        Plan::CompareDurable(plan) => compare_durable::execute(plan),
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
    if let Some(store) = &plan.store {
        return store::measure(plan, store);
    }
    let writes = plan.writes();
    if writes && plan.target == Target::Raw {
        session::clear_for_writing(&plan.filenames, &plan.destroy, plan.force)?;
    }
    let disks = match plan.target {
        Target::Raw => plan.filenames.iter().map(|path| session::disk(path, writes)).collect(),
        Target::Nop | Target::Engine => vec![session::nop_disk()],
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
        let from_ns = self.window.from_ns;
        let mut closing: Option<Metrics> = None;
        let mut running: Vec<Running> = Vec::new();
        for job in jobs.iter_mut() {
            running.extend(job.clones.drain(..).map(|(clone, _)| clone));
        }
        let results = running.iter().map(|clone| Arc::clone(&clone.result)).collect();
        let mut watcher = Watcher::new(results, Eta::new(self.plan.output.eta, goal));
        let until_ns = self.window.until_ns;
        let watched = session::wait(self.engine, &mut running, until_ns, |now_ns| {
            watcher.tick(now_ns.saturating_sub(from_ns));
            if now_ns >= until_ns && closing.is_none() {
                closing = Some(self.engine.metrics());
            }
        });
        let end_ns = self.engine.now_ns().min(until_ns).saturating_sub(from_ns);
        let mut all = running.into_iter().zip(watcher.finish(end_ns));
        for job in jobs.iter_mut() {
            let count = job.job.clones as usize * self.engine.disks().len();
            job.clones.extend(all.by_ref().take(count));
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
                parts::job_report(run.job, group as u32, (&clone.result, series), [before, after])
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
            store: None,
            engine: self.engine_report(&status, jobs, [before, after]),
            disks: Vec::new(),
            environment,
            warnings,
            percentiles: self.plan.output.percentiles.clone(),
            first_failure: first_failure.map(|error| error.to_string()),
        }
    }

    fn engine_report(
        &self,
        status: &Status,
        jobs: &[JobRun<'_>],
        metrics: [&Metrics; 2],
    ) -> EngineReport {
        let exact = |number| {
            // A clone on the reactor reads its thread's clock exactly at the window's edges; the
            // published figures are up to 20 ms old.
            let local = self.plan.engine.client == args::Client::Reactor;
            let clones = jobs.iter().flat_map(|job| &job.clones).map(|(clone, _)| clone);
            let own = clones.filter(|clone| local && clone.reactor == number);
            own.filter_map(|clone| clone.result.window()).next()
        };
        let report = parts::engine_report(self.plan, status, metrics, exact);
        EngineReport { errors: error_counts(&self.engine.metrics()), ..report }
    }
}

/// Disk number 0, the only one of most measurements.
pub const FIRST_DISK: DiskId = DiskId(0);
