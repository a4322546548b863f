//! A run on the storage engine: a pool, inodes of its own, jobs that write and read them.
//!
//! Every byte that a job touches was written before, so a random write is an overwrite and a random
//! read finds data. What is measured begins after the ramp; a pool that was just filled has a
//! journal and blocks in memory that settle in that time.

mod inodes;
pub mod pool;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use dynamicfs::{
    Durability, EngineMetrics, EngineStatus, InodeId, PoolReport, Priority, StorageEngine,
};

use crate::args::{Clients, DurabilityWord};
use crate::environment::Environment;
use crate::eta::{Eta, Goal};
use crate::failure::Failure;
use crate::load::store::{Clock, StoreClone, StoreOrder};
use crate::load::{CloneResult, FAILURES_MAX, Window, tasks};
use crate::plan::{JobPlan, RunPlan, StorePlan};
use crate::report::disk::{DiskCounters, DiskUse};
use crate::report::interval::IntervalSeries;
use crate::report::store::{RecordTimes, StoreCounts, StoreRates, StoreReport, journal_laps};
use crate::report::{ErrorCount, JobReport, LoadKind, RunReport};
use crate::run::parts::{class_latency, disk_names, engine_report, job_report};
use crate::session;
use crate::store::pool::{Consent, request_failure};
use crate::stream::Stream;
use crate::units::Span;
use crate::watch::Watcher;

pub(crate) use inodes::{make as make_inodes, remove as remove_inodes};

/// From starting the clones to the opening of their window without a ramp.
const LEAD_NS: u64 = 30_000_000;
/// Blocks of a pool.
const BLOCK_BYTES: u64 = 4096;
/// How long requests may take after the end of a run.
const GRACE: Duration = Duration::from_secs(60);
/// Below this many laps of the journal, and below this many times its size, a run of writes says
/// little of a pool that is written for long.
const LAPS_MIN: f64 = 5.0;
const JOURNALS_MIN: u64 = 10;

/// The disks of a plan, also where a file of `--pool` names them.
///
/// # Errors
/// [`Failure::Usage`] when that file cannot be used.
pub fn disks(plan: &RunPlan) -> Result<Vec<PathBuf>, Failure> {
    match &plan.store {
        None => Ok(plan.filenames.clone()),
        Some(store) => {
            let config = pool::configuration(store.pool.as_deref(), &plan.filenames)?;
            Ok(pool::disks(&config))
        }
    }
}

fn disks_of(pool: &PoolReport) -> Vec<PathBuf> {
    pool.disks.iter().map(|disk| disk.path.clone()).collect()
}

fn paths(pool: &PoolReport) -> String {
    let paths: Vec<String> = disks_of(pool).iter().map(|path| path.display().to_string()).collect();
    paths.join(":")
}

/// Opens the pool, runs the job, closes the pool.
///
/// # Errors
/// [`Failure`], but for failed requests, which are in the report.
pub fn measure(plan: &RunPlan, store: &StorePlan) -> Result<RunReport, Failure> {
    let mut config = pool::configuration(store.pool.as_deref(), &plan.filenames)?;
    let consent = Consent { destroy: &plan.destroy, force: plan.force };
    consent.covers(&config)?;
    let job = &plan.jobs[0];
    let each = u64::from(job.block_bytes).next_power_of_two().max(BLOCK_BYTES);
    let room = each * u64::from(job.clones) + (16 << 20);
    session::apply(&plan.engine, &mut config.io, room);
    if let Some(fill) = store.format {
        pool::format(&config, fill, consent)?;
    }
    let engine = Arc::new(pool::open(config)?);
    let outcome = StoreRun { plan, store, job, engine: &engine }.run();
    // The run's failure says more than the close that follows it.
    outcome.and_then(|report| pool::close(&engine).map(|()| report))
}

struct StoreRun<'a> {
    plan: &'a RunPlan,
    store: &'a StorePlan,
    job: &'a JobPlan,
    engine: &'a Arc<StorageEngine>,
}

/// What was seen of a window.
struct Seen {
    metrics: [EngineMetrics; 2],
    series: Vec<[IntervalSeries; 2]>,
    disks: Vec<DiskUse>,
    elapsed_ns: u64,
}

/// Clones that run.
pub(crate) struct Going {
    pub(crate) results: Vec<Arc<CloneResult>>,
    threads: Vec<JoinHandle<()>>,
}

impl StoreRun<'_> {
    fn run(&self) -> Result<RunReport, Failure> {
        let status = self.status()?;
        let count = self.store.inodes.unwrap_or(self.job.clones).min(self.job.clones);
        let bytes = self.inode_bytes(&status, count)?;
        let inodes = make_inodes(self.engine, count, bytes)?;
        let seen = self.measure(&inodes, bytes);
        let removed = remove_inodes(self.engine, &inodes);
        let (results, seen) = seen?;
        removed?;
        Ok(self.report(&status, &results, &seen, (count, bytes)))
    }

    fn status(&self) -> Result<EngineStatus, Failure> {
        self.engine.status().map_err(|error| request_failure("the pool does not answer", &error))
    }

    fn metrics(&self) -> Result<EngineMetrics, Failure> {
        self.engine.metrics().map_err(|error| request_failure("the pool does not answer", &error))
    }

    /// Bytes of each inode: those of `--size`, or its percentage of what is free, shared by all.
    fn inode_bytes(&self, status: &EngineStatus, count: u32) -> Result<u64, Failure> {
        let block = u64::from(self.job.block_bytes);
        let share =
            |percent: u32| status.free_bytes() / 100 * u64::from(percent) / u64::from(count);
        let bytes = match self.job.span {
            Span::Bytes(bytes) => bytes,
            Span::Percent(percent) => share(u32::from(percent)),
            Span::All => share(50),
        };
        match bytes / block * block {
            0 => Err(Failure::usage(
                "size",
                &bytes.to_string(),
                &format!("an inode has no room for one block of {block} bytes"),
                "use a larger size, a smaller bs, or fewer inodes",
            )),
            bytes => Ok(bytes),
        }
    }

    fn measure(
        &self,
        inodes: &[InodeId],
        inode_bytes: u64,
    ) -> Result<(Vec<Arc<CloneResult>>, Seen), Failure> {
        let names = disk_names(&self.status()?.io);
        let clock = Clock::start();
        let clones: Vec<StoreOrder> = (0..self.job.clones)
            .map(|clone| self.order(clone, inodes, inode_bytes, clock))
            .collect();
        let from_ns = clock.now_ns() + LEAD_NS + self.plan.ramp.as_nanos() as u64;
        let until_ns =
            self.plan.runtime.map_or(u64::MAX / 2, |runtime| from_ns + runtime.as_nanos() as u64);
        let orders = clones.into_iter().map(|order| {
            let window = Window { from_ns, until_ns, ..order.window };
            StoreOrder { window, ..order }
        });
        let going = start(self.engine, orders.collect(), self.store.clients, self.store.drivers)?;
        let over = || going.results.iter().all(|result| result.is_done());
        while clock.now_ns() < from_ns && !over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let disks: Vec<_> = names.iter().map(|name| DiskCounters::read(name)).collect();
        let (before, opened) = (self.metrics()?, Instant::now());
        let (after, elapsed_ns, series) = self.watch(&going, clock, (from_ns, until_ns), opened)?;
        let disks = names.iter().zip(disks).filter_map(|(name, before)| {
            let now = DiskCounters::read(name)?;
            Some(before?.until(now, name, elapsed_ns))
        });
        let seen = Seen { metrics: [before, after], series, disks: disks.collect(), elapsed_ns };
        Ok((going.finish()?, seen))
    }

    fn order(&self, clone: u32, inodes: &[InodeId], bytes: u64, clock: Clock) -> StoreOrder {
        let blocks = bytes / u64::from(self.job.block_bytes);
        let ios_max = if self.plan.time_based { u64::MAX } else { blocks };
        StoreOrder {
            inode: inodes[clone as usize % inodes.len()],
            stream: Stream::new(self.job, 0, blocks, clone),
            block_bytes: self.job.block_bytes,
            durability: match self.store.durability {
                DurabilityWord::Committed => Durability::Committed,
                DurabilityWord::Buffered => Durability::Buffered,
            },
            window: Window { from_ns: 0, until_ns: 0, ios_max },
            clock,
            seed: self.job.seed ^ u64::from(clone) << 40,
        }
    }

    /// Waits for the clones. The counters are those at the window's end.
    fn watch(
        &self,
        going: &Going,
        clock: Clock,
        (from_ns, until_ns): (u64, u64),
        opened: Instant,
    ) -> Result<(EngineMetrics, u64, Vec<[IntervalSeries; 2]>), Failure> {
        let bytes = |result: &Arc<CloneResult>| result.block_bytes;
        let goal = match self.plan.runtime {
            Some(runtime) => Goal::Elapsed(runtime),
            None => Goal::Bytes(going.results.iter().map(bytes).sum()),
        };
        let mut watcher = Watcher::new(going.results.clone(), Eta::new(self.plan.output.eta, goal));
        let mut closing = None;
        while !going.results.iter().all(|result| result.is_done()) {
            let now = clock.now_ns();
            let left = Duration::from_nanos(until_ns.saturating_sub(now));
            std::thread::sleep(left.clamp(Duration::from_millis(1), Duration::from_millis(100)));
            let now = clock.now_ns();
            watcher.tick(now.saturating_sub(from_ns));
            if now >= until_ns && closing.is_none() {
                closing = Some((self.metrics()?, opened.elapsed()));
            }
            if now > until_ns.saturating_add(GRACE.as_nanos() as u64) {
                return Err(Failure::Runtime {
                    message: "requests that were sent never came back".into(),
                    help: "the device hangs: see `dmesg`".into(),
                });
            }
        }
        let end_ns = clock.now_ns().min(until_ns).saturating_sub(from_ns);
        let (after, elapsed) = match closing {
            Some(closing) => closing,
            None => (self.metrics()?, opened.elapsed()),
        };
        Ok((after, elapsed.as_nanos() as u64, watcher.finish(end_ns)))
    }

    fn report(
        &self,
        status: &EngineStatus,
        results: &[Arc<CloneResult>],
        seen: &Seen,
        (inodes, inode_bytes): (u32, u64),
    ) -> RunReport {
        let [before, after] = &seen.metrics;
        let counts = StoreCounts::between(before, after, seen.elapsed_ns);
        let rates = StoreRates::of(&counts, journal_laps(before, after));
        let (queue, device) = class_latency(&before.io, &after.io, Priority::Critical);
        let store = StoreReport {
            path: paths(&status.pool),
            domains: status.pool.domains,
            journal_bytes: status.pool.journal_bytes,
            inodes,
            inode_bytes,
            durability: self.store.durability,
            clients: self.store.clients,
            counts,
            rates,
            records: RecordTimes {
                queue_ns_p50: queue.quantile_ns(0.5),
                device_ns_p50: device.quantile_ns(0.5),
                device_ns_p99: device.quantile_ns(0.99),
            },
        };
        let mut engine = engine_report(self.plan, &status.io, [&before.io, &after.io], |_| None);
        let failed: u64 = results.iter().map(|result| result.failed.get()).sum();
        let first_failure = results.iter().find_map(|result| result.failure());
        if let Some(first) = &first_failure {
            let (kind, device) = (first.message.clone(), store.path.clone());
            engine.errors = vec![ErrorCount { kind, device, count: failed }];
        }
        let mut warnings = status.io.notes.clone();
        warnings.extend(self.doubts(&store, results));
        RunReport {
            finished: SystemTime::now(),
            elapsed_ns: seen.elapsed_ns,
            load: LoadKind::Closed,
            target: self.plan.target,
            client: self.plan.engine.client,
            global_options: self.plan.global_options.clone(),
            jobs: self.job_reports(results, seen),
            engine,
            store: Some(store),
            disks: seen.disks.clone(),
            environment: Environment::probe(&disks_of(&status.pool)),
            warnings,
            percentiles: self.plan.output.percentiles.clone(),
            first_failure: first_failure.map(|first| first.message),
        }
    }

    /// What makes the numbers doubtful.
    fn doubts(&self, store: &StoreReport, results: &[Arc<CloneResult>]) -> Vec<String> {
        let mut doubts = Vec::new();
        if results.iter().any(|result| result.failed.get() >= FAILURES_MAX) {
            doubts.push(format!("a job was ended early, after {FAILURES_MAX} failed requests"));
        }
        let journals = store.journal_bytes * u64::from(store.domains);
        let written = store.inode_bytes * u64::from(store.inodes);
        if self.job.writes() && store.rates.journal_laps < LAPS_MIN {
            doubts.push(format!(
                "the journal went round {:.1} times in the window: fewer than {LAPS_MIN} leave \
                 checkpoints and write-back out; run longer, or make the pool with a smaller \
                 journal.mib_per_domain",
                store.rates.journal_laps
            ));
        }
        if self.job.writes() && written < JOURNALS_MIN * journals {
            doubts.push(format!(
                "the inodes have {:.1} times the bytes of the journals: fewer than {JOURNALS_MIN} \
                 are overwritten before they go home",
                written as f64 / journals as f64
            ));
        }
        doubts
    }

    fn job_reports(&self, results: &[Arc<CloneResult>], seen: &Seen) -> Vec<JobReport> {
        let [before, after] = &seen.metrics;
        let pollers = match self.store.clients {
            Clients::Threads => results.len(),
            Clients::Tasks => self.store.drivers as usize,
            Clients::Reactor => 0,
        };
        let clones = results.iter().zip(&seen.series).enumerate();
        let mut reports: Vec<JobReport> = clones
            .map(|(number, (result, series))| {
                let report = job_report(self.job, 0, (result, series), [&before.io, &after.io]);
                // Tasks of one thread have all read its clock; it counts once.
                if number < pollers { report } else { report.without_thread() }
            })
            .collect();
        if self.plan.output.group_reporting && reports.len() > 1 {
            let rest = reports.split_off(1);
            rest.iter().for_each(|clone| reports[0].absorb(clone));
        }
        reports
    }
}

/// Starts clones of one kind.
///
/// # Errors
/// [`Failure::Runtime`] when threads cannot be had, or a reactor has no bell left.
pub(crate) fn start(
    engine: &Arc<StorageEngine>,
    orders: Vec<StoreOrder>,
    kind: Clients,
    drivers: u32,
) -> Result<Going, Failure> {
    let mut results = Vec::new();
    let mut clones = Vec::new();
    for order in orders {
        let block_bytes = u64::from(order.block_bytes);
        let result = Arc::new(CloneResult { block_bytes, ..CloneResult::default() });
        let inode = order.inode;
        clones.push((inode, StoreClone::new(Arc::clone(engine), order, Arc::clone(&result))));
        results.push(result);
    }
    let threads = match kind {
        Clients::Threads => {
            clones.into_iter().map(|(_, clone)| spawn(move || clone.run())).collect()
        }
        Clients::Tasks => deal(clones, drivers as usize, |number, _| number)
            .into_iter()
            .map(|(_, clones)| spawn(move || tasks::drive(clones)))
            .collect(),
        Clients::Reactor => {
            let domains = deal(clones, usize::MAX, |_, inode| engine.domain_number(inode).into());
            for (inode, clones) in domains {
                let make = move |bell| tasks::on_reactor(clones, bell);
                if !engine.spawn_near(inode, make) {
                    return Err(thread_failure("a reactor has no bell left"));
                }
            }
            Ok(Vec::new())
        }
    };
    Ok(Going { results, threads: threads? })
}

/// Deals clones out to `places` at most, by what `place` says of each; with the first's inode.
fn deal(
    clones: Vec<(InodeId, StoreClone)>,
    places: usize,
    place: impl Fn(usize, InodeId) -> usize,
) -> Vec<(InodeId, Vec<StoreClone>)> {
    let mut dealt: std::collections::BTreeMap<usize, (InodeId, Vec<StoreClone>)> =
        std::collections::BTreeMap::new();
    for (number, (inode, clone)) in clones.into_iter().enumerate() {
        let key = place(number, inode) % places;
        dealt.entry(key).or_insert_with(|| (inode, Vec::new())).1.push(clone);
    }
    dealt.into_values().collect()
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    let made = std::thread::Builder::new().spawn(work);
    made.map_err(|error| thread_failure(&error.to_string()))
}

fn thread_failure(why: &str) -> Failure {
    Failure::Runtime {
        message: format!("the clients could not be started: {why}"),
        help: "use a smaller --numjobs".into(),
    }
}

impl Going {
    /// Waits for the threads; the clones are over.
    pub(crate) fn finish(self) -> Result<Vec<Arc<CloneResult>>, Failure> {
        for thread in self.threads {
            if thread.join().is_err() {
                return Err(thread_failure("a client's thread panicked"));
            }
        }
        Ok(self.results)
    }
}
