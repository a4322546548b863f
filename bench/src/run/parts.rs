//! The parts of a report that every kind of run has: what the engine's counters and a clone's
//! tallies say, in the report's terms.

use dynamicfs::engine::status::Status;
use dynamicfs::io::metrics::ClassSnapshot;
use dynamicfs::machine::affinity::ThreadUsage;
use dynamicfs::machine::mapping::Pages;
use dynamicfs::metrics::HistogramSnapshot;
use dynamicfs::{Metrics, Priority};

use crate::args::{self, Target};
use crate::load::CloneResult;
use crate::plan::{JobPlan, RunPlan, Spin};
use crate::report::interval::IntervalSeries;
use crate::report::latency::Latency;
use crate::report::{DirectionReport, EngineReport, ErrorCount, IoPath, JobReport, ReactorReport};
use crate::session;

/// A clone's side of a report. Waiting and device time are those of its classes, of all clones.
pub(crate) fn job_report(
    job: &JobPlan,
    group_id: u32,
    (result, series): (&CloneResult, &[IntervalSeries; 2]),
    [before, after]: [&Metrics; 2],
) -> JobReport {
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
        error: result.failure().map_or(0, |error| error.errno),
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

/// The engine's side of a report. `exact`: the usage of a reactor's thread at both edges of the
/// window, where somebody has read it there. Errors are left to the caller.
pub(crate) fn engine_report(
    plan: &RunPlan,
    status: &Status,
    [before, after]: [&Metrics; 2],
    exact: impl Fn(usize) -> Option<[(u64, ThreadUsage); 2]>,
) -> EngineReport {
    let deltas = session::difference(before, after);
    let reactors = deltas.iter().enumerate().map(|(number, delta)| {
        let (user_ns, system_ns) = match exact(number) {
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
        path: io_path(status, plan),
        reactors: reactors.collect(),
        aged: sum(|class| class.aged),
        shed: sum(|class| class.shed),
        stolen: sum(|class| class.stolen),
        split: sum(|class| class.split),
        errors: Vec::new(),
    }
}

/// User and system time over a window: the precise total, split as the kernel's ticks say.
fn split_cpu(from: ThreadUsage, until: ThreadUsage) -> (u64, u64) {
    let user = until.user_ns.saturating_sub(from.user_ns);
    let system = until.system_ns.saturating_sub(from.system_ns);
    let total = until.cpu_ns.saturating_sub(from.cpu_ns);
    let share = if user + system == 0 { 1.0 } else { user as f64 / (user + system) as f64 };
    let user = (total as f64 * share) as u64;
    (user, total - user)
}

/// Requests to the disks that failed since the engine was opened.
pub(crate) fn error_counts(metrics: &Metrics) -> Vec<ErrorCount> {
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
pub(crate) fn class_latency(
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

/// Names of the disks that have counters of their own.
pub(crate) fn disk_names(status: &Status) -> Vec<String> {
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
        direct: plan.target != Target::Nop,
        pages: pages.into(),
        spin,
        fallbacks: status.reactors.iter().flat_map(|r| r.notes.iter().cloned()).collect(),
    }
}
