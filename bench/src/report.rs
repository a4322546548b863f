//! What a run found out, and its two forms: a table for people, fio's JSON for programs.
//!
//! The structs here are filled by the load generator and know nothing of how they are printed:
//! [`table`] and [`json`] do that. Times are nanoseconds, sizes bytes, unless a name says
//! otherwise. A ratio whose divisor is zero is zero, so that no report carries a NaN.

pub mod disk;
pub mod interval;
pub mod json;
pub mod latency;
pub mod store;
pub mod table;

use std::time::SystemTime;

use serde::Serialize;

use crate::args::{Client, OutputFormat, Priority, Target};
use crate::environment::Environment;
use crate::report::disk::DiskUse;
use crate::report::interval::IntervalSeries;
use crate::report::latency::Latency;
use crate::report::store::StoreReport;

/// Everything that is known of one run.
///
/// Not an example to run: [`RunReport::render`] needs a finished run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// When measuring ended.
    pub finished: SystemTime,
    /// Measured time, without ramp.
    pub elapsed_ns: u64,
    /// Closed or open loop.
    pub load: LoadKind,
    /// Where requests ended.
    pub target: Target,
    /// Where requests were made.
    pub client: Client,
    /// Options that are not a job's, as spelled.
    pub global_options: Vec<(String, String)>,
    /// One per job, or per clone of it.
    pub jobs: Vec<JobReport>,
    /// The engine's side.
    pub engine: EngineReport,
    /// The storage engine's side, where requests went through it.
    pub store: Option<StoreReport>,
    /// What the kernel counted at each disk.
    pub disks: Vec<DiskUse>,
    /// The machine.
    pub environment: Environment,
    /// What makes the numbers doubtful, the environment's own warnings among them.
    pub warnings: Vec<String>,
    /// Percentiles to print, ascending.
    pub percentiles: Vec<f64>,
    /// The first failed request, in words.
    pub first_failure: Option<String>,
}

/// Whether a slow device slows the load down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadKind {
    /// A request is made when another ends; waiting for a stall is not counted.
    Closed,
    /// Requests are made on a schedule and their latency counts from the scheduled start.
    Open,
}

/// One job's side of a run.
#[derive(Debug, Clone)]
pub struct JobReport {
    /// The job's name.
    pub name: String,
    /// Jobs of one group are reported together by fio; here the job's place in the plan.
    pub group_id: u32,
    /// Class of its reads, or of its writes if it only writes.
    pub priority: Priority,
    /// Class of its writes.
    pub priority_write: Priority,
    /// The job's options, as spelled.
    pub options: Vec<(String, String)>,
    /// The first error's errno, 0 if none.
    pub error: i32,
    /// Measured time of this job.
    pub runtime_ns: u64,
    /// Reads.
    pub read: DirectionReport,
    /// Writes.
    pub write: DirectionReport,
    /// Processor time of the threads that made the load, user side.
    pub user_ns: u64,
    /// The same, kernel side.
    pub system_ns: u64,
    /// Context switches of those threads.
    pub context_switches: u64,
    /// Major page faults of those threads.
    pub major_faults: u64,
    /// Minor page faults of those threads.
    pub minor_faults: u64,
    /// The job's depth.
    pub depth: u32,
    /// Requests in flight, seen at each submission.
    pub depth_seen: Buckets,
    /// Requests per submission.
    pub submit_sizes: Buckets,
    /// Completions per reap.
    pub reap_sizes: Buckets,
}

/// One direction of a job.
#[derive(Debug, Clone)]
pub struct DirectionReport {
    /// Bytes of completed requests.
    pub io_bytes: u64,
    /// Completed requests.
    pub total_ios: u64,
    /// Requests that moved less than they asked for.
    pub short_ios: u64,
    /// Requests given up, for example shed.
    pub dropped_ios: u64,
    /// Time from the first request to the last completion.
    pub runtime_ns: u64,
    /// From request to completion; in an open loop from the scheduled start.
    pub total: Latency,
    /// Request to hand-over to the engine (fio's slat).
    pub submission: Latency,
    /// Hand-over to completion (fio's clat): `wait` and `device` together.
    pub completion: Latency,
    /// In the engine's queues, before it went to the kernel.
    pub wait: Latency,
    /// From the kernel to the reaped completion.
    pub device: Latency,
    /// Bandwidth and rate of each second.
    pub intervals: IntervalSeries,
}

/// Counts of depths or batch sizes, fine enough for both of fio's sets of buckets.
///
/// Powers of two have a bucket of their own, because fio's depths begin at them and fio's batch
/// sizes end at them: 0, 1, 2, 3, 4, 5-7, 8, 9-15, 16, 17-31, 32, 33-63, 64, 65 and up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buckets([u64; 14]);

/// The engine's side of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EngineReport {
    /// The way a request really took.
    pub path: IoPath,
    /// One per reactor.
    pub reactors: Vec<ReactorReport>,
    /// Dispatched early because they waited past their class's limit.
    pub aged: u64,
    /// Refused to protect higher classes.
    pub shed: u64,
    /// Taken over by another lane of the same disk.
    pub stolen: u64,
    /// Cut into pieces.
    pub split: u64,
    /// Failed requests by kind.
    pub errors: Vec<ErrorCount>,
}

/// The way a request really took, as found out after opening, not as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IoPath {
    /// Ring flags the kernel granted: `SINGLE_ISSUER`, ...
    pub ring_flags: Vec<String>,
    /// Submission queue entries.
    pub ring_entries: u32,
    /// Files registered with the ring.
    pub fixed_files: bool,
    /// Buffers registered with the ring.
    pub fixed_buffers: bool,
    /// Completions found by polling the device.
    pub polled: bool,
    /// Files opened with O_DIRECT.
    pub direct: bool,
    /// Pages under the buffers: `huge 2 MiB`, `normal 4 KiB`.
    pub pages: String,
    /// A reactor's spin before it sleeps: `20 us`, `forever`.
    pub spin: String,
    /// What was asked for and not obtained, each with its cause.
    pub fallbacks: Vec<String>,
}

/// One reactor's side of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReactorReport {
    /// CPU it is pinned to.
    pub cpu: u32,
    /// That CPU's memory node.
    pub node: u32,
    /// Processor time, user side.
    pub user_ns: u64,
    /// Processor time, kernel side.
    pub system_ns: u64,
    /// Requests completed.
    pub ios: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Submissions that carried at least one request.
    pub submits: u64,
    /// Reaps that found at least one completion.
    pub reaps: u64,
    /// Times it slept and was woken.
    pub wakes: u64,
}

/// How many requests failed in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// `EIO`, `ENODATA`, `short read`, ...
    pub kind: String,
    /// The disk.
    pub device: String,
    /// Requests.
    pub count: u64,
}

/// Ratios over all reactors; what the engine costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct EngineCost {
    /// Processor time per request, user and kernel.
    pub cpu_ns_per_io: f64,
    /// The user side of it.
    pub user_ns_per_io: f64,
    /// The kernel side of it.
    pub system_ns_per_io: f64,
    /// `io_uring_enter` calls per request.
    pub syscalls_per_io: f64,
    /// Requests per submission.
    pub ios_per_submit: f64,
    /// Requests per reap.
    pub ios_per_reap: f64,
    /// Wake-ups per request.
    pub wakes_per_io: f64,
}

impl RunReport {
    /// The report as text, ending in a line feed.
    ///
    /// # Errors
    /// When the JSON encoder fails, which no value in here makes it do.
    pub fn render(&self, format: OutputFormat) -> Result<String, serde_json::Error> {
        match format {
            OutputFormat::Normal => Ok(table::render(self)),
            OutputFormat::Json => json::render(self),
        }
    }

    /// Failed requests over all kinds.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.engine.errors.iter().map(|error| error.count).sum()
    }
}

impl JobReport {
    /// Without what its thread cost: another clone of the same thread has it.
    #[must_use]
    pub fn without_thread(self) -> Self {
        let (context_switches, major_faults, minor_faults) = (0, 0, 0);
        let (user_ns, system_ns) = (0, 0);
        Self { user_ns, system_ns, context_switches, major_faults, minor_faults, ..self }
    }

    /// Takes over another clone's numbers: fio's `group_reporting`.
    pub fn absorb(&mut self, clone: &Self) {
        self.error = if self.error == 0 { clone.error } else { self.error };
        self.runtime_ns = self.runtime_ns.max(clone.runtime_ns);
        self.read.absorb(&clone.read);
        self.write.absorb(&clone.write);
        self.user_ns += clone.user_ns;
        self.system_ns += clone.system_ns;
        self.context_switches += clone.context_switches;
        self.major_faults += clone.major_faults;
        self.minor_faults += clone.minor_faults;
        self.depth_seen.absorb(clone.depth_seen);
        self.submit_sizes.absorb(clone.submit_sizes);
        self.reap_sizes.absorb(clone.reap_sizes);
    }
}

impl DirectionReport {
    /// Nothing done yet; intervals of one second.
    #[must_use]
    pub fn new() -> Self {
        Self {
            io_bytes: 0,
            total_ios: 0,
            short_ios: 0,
            dropped_ios: 0,
            runtime_ns: 0,
            total: Latency::new(),
            submission: Latency::new(),
            completion: Latency::new(),
            wait: Latency::new(),
            device: Latency::new(),
            intervals: IntervalSeries::per_second(),
        }
    }

    /// Completed requests per second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        per_second(self.total_ios, self.runtime_ns)
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        per_second(self.io_bytes, self.runtime_ns)
    }

    fn absorb(&mut self, clone: &Self) {
        self.io_bytes += clone.io_bytes;
        self.total_ios += clone.total_ios;
        self.short_ios += clone.short_ios;
        self.dropped_ios += clone.dropped_ios;
        self.runtime_ns = self.runtime_ns.max(clone.runtime_ns);
        self.total.absorb(&clone.total);
        self.submission.absorb(&clone.submission);
        self.completion.absorb(&clone.completion);
        self.wait.absorb(&clone.wait);
        self.device.absorb(&clone.device);
        self.intervals.absorb(&clone.intervals);
    }
}

impl Default for DirectionReport {
    fn default() -> Self {
        Self::new()
    }
}

impl Buckets {
    /// Counts one value.
    pub fn count(&mut self, value: u32) {
        let bucket = match value.checked_ilog2() {
            None => 0,
            Some(0) => 1,
            Some(log) => 2 * log as usize + usize::from(!value.is_power_of_two()),
        };
        self.0[bucket.min(13)] += 1;
    }

    /// Percentages of depths, as fio's `iodepth_level`: 1, 2-3, 4-7, 8-15, 16-31, 32-63, 64 and up.
    #[must_use]
    pub fn depth_percentages(&self) -> [f64; 7] {
        self.percentages([0, 2, 4, 6, 8, 10, 12])
    }

    /// Percentages of batches, as fio's `iodepth_submit`: 0, 1-4, 5-8, 9-16, 17-32, 33-64, above.
    #[must_use]
    pub fn batch_percentages(&self) -> [f64; 7] {
        self.percentages([0, 1, 5, 7, 9, 11, 13])
    }

    /// Percentages of the buckets from each start to the next; all zero if nothing was counted.
    fn percentages(&self, starts: [usize; 7]) -> [f64; 7] {
        let all: u64 = self.0.iter().sum();
        let mut shares = [0.0; 7];
        for (index, share) in shares.iter_mut().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(self.0.len());
            *share = 100.0 * ratio(self.0[starts[index]..end].iter().sum(), all);
        }
        shares
    }

    fn absorb(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl EngineReport {
    /// What a request cost, over all reactors.
    #[must_use]
    pub fn cost(&self) -> EngineCost {
        let sum = |of: fn(&ReactorReport) -> u64| self.reactors.iter().map(of).sum::<u64>();
        let ios = sum(|r| r.ios);
        let (user, system) = (sum(|r| r.user_ns), sum(|r| r.system_ns));
        EngineCost {
            cpu_ns_per_io: ratio(user + system, ios),
            user_ns_per_io: ratio(user, ios),
            system_ns_per_io: ratio(system, ios),
            syscalls_per_io: ratio(sum(|r| r.enters), ios),
            ios_per_submit: ratio(ios, sum(|r| r.submits)),
            ios_per_reap: ratio(ios, sum(|r| r.reaps)),
            wakes_per_io: ratio(sum(|r| r.wakes), ios),
        }
    }
}

/// `part / whole`, zero for a `whole` of zero.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn per_second(amount: u64, time_ns: u64) -> f64 {
    ratio(amount, time_ns) * 1e9
}

#[cfg(test)]
mod tests;
