//! The report as JSON: fio's names, types and units, and an object `dynamicfs` with the rest.
//!
//! A parser made for fio finds `jobs[].read.iops` and the like where fio has them. `fio version` is
//! absent, because this is not fio; `dynamicfs version` is in its place. The test
//! `bench/tests/fio_json.rs` holds the names against a recorded output of fio 3.33.
//!
//! | fio | unit |
//! | --- | --- |
//! | `bw`, `bw_min`, `bw_max`, `bw_mean`, `bw_dev` | KiB/s |
//! | `bw_bytes` | bytes/s |
//! | `bw_agg` | percent of all jobs' bandwidth |
//! | `runtime`, `job_runtime` | ms |
//! | `slat_ns`, `clat_ns`, `lat_ns` | ns |
//! | `elapsed` | s |
//! | `usr_cpu`, `sys_cpu` | percent of one processor |
//!
//! `disk_util` has fio's names and three more: `flush_ios`, `read_bytes`, `write_bytes`.
//! `dynamicfs.schema_version` rises when a name in that object changes its meaning or goes.

use serde_json::{Map, Value, json};

use super::latency::Latency;
use super::{Buckets, DirectionReport, JobReport, RunReport, ratio};

/// Version of the object `dynamicfs`.
pub const SCHEMA_VERSION: u32 = 1;

/// Bounds of fio's latency buckets in nanoseconds; the last has no end.
const LATENCY_BOUNDS: [u64; 10] = [2, 4, 10, 20, 50, 100, 250, 500, 750, 1000];

/// The report as indented JSON, ending in a line feed.
pub(super) fn render(report: &RunReport) -> Result<String, serde_json::Error> {
    let since_epoch = report.finished.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let jobs: Result<Vec<Value>, _> = report.jobs.iter().map(|one| job(report, one)).collect();
    let whole = json!({
        "dynamicfs version": format!("dynamicfs-{}", env!("CARGO_PKG_VERSION")),
        "timestamp": since_epoch.as_secs(),
        "timestamp_ms": u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        "time": super::table::utc(since_epoch.as_secs()),
        "global options": options(&report.global_options),
        "jobs": jobs?,
        "disk_util": serde_json::to_value(&report.disks)?,
        "dynamicfs": ours(report)?,
    });
    Ok(serde_json::to_string_pretty(&whole)? + "\n")
}

fn job(report: &RunReport, job: &JobReport) -> Result<Value, serde_json::Error> {
    let mut both = job.read.total.clone();
    both.absorb(&job.write.total);
    let shares = latency_shares(&both);
    let percent = |ns: u64| 100.0 * ratio(ns, job.runtime_ns);
    let all = |of: fn(&JobReport) -> &DirectionReport| -> f64 {
        report.jobs.iter().map(|job| of(job).bytes_per_second()).sum()
    };
    Ok(json!({
        "jobname": job.name,
        "groupid": job.group_id,
        "error": job.error,
        "eta": 0,
        "elapsed": report.elapsed_ns.div_ceil(1_000_000_000),
        "job options": options(&job.options),
        "read": direction(&job.read, &report.percentiles, all(|job| &job.read)),
        "write": direction(&job.write, &report.percentiles, all(|job| &job.write)),
        "trim": direction(&DirectionReport::new(), &[], 0.0),
        "sync": { "total_ios": 0, "lat_ns": latency(&Latency::new(), &[]) },
        "job_runtime": job.runtime_ns / 1_000_000,
        "usr_cpu": percent(job.user_ns),
        "sys_cpu": percent(job.system_ns),
        "ctx": job.context_switches,
        "majf": job.major_faults,
        "minf": job.minor_faults,
        "iodepth_level": depths(job.depth_seen),
        "iodepth_submit": batches(job.submit_sizes),
        "iodepth_complete": batches(job.reap_sizes),
        "latency_ns": labelled(&LATENCY_BOUNDS, &shares[..10]),
        "latency_us": labelled(&LATENCY_BOUNDS, &shares[10..20]),
        "latency_ms": milliseconds(&shares[20..]),
        "latency_depth": job.depth,
        "latency_target": 0,
        "latency_percentile": 100.0,
        "latency_window": 0,
    }))
}

fn direction(direction: &DirectionReport, percentiles: &[f64], all_bandwidth: f64) -> Value {
    let bandwidth = direction.intervals.bytes_per_second();
    let iops = direction.intervals.iops();
    let share = 100.0 * direction.bytes_per_second() / all_bandwidth.max(1e-9);
    json!({
        "io_bytes": direction.io_bytes,
        "io_kbytes": direction.io_bytes / 1024,
        "bw_bytes": direction.bytes_per_second() as u64,
        "bw": (direction.bytes_per_second() / 1024.0) as u64,
        "iops": direction.iops(),
        "runtime": direction.runtime_ns / 1_000_000,
        "total_ios": direction.total_ios,
        "short_ios": direction.short_ios,
        "drop_ios": direction.dropped_ios,
        "slat_ns": latency(&direction.submission, &[]),
        "clat_ns": latency(&direction.completion, percentiles),
        "lat_ns": latency(&direction.total, &[]),
        "bw_min": (bandwidth.min / 1024.0) as u64,
        "bw_max": (bandwidth.max / 1024.0) as u64,
        "bw_agg": share.min(100.0),
        "bw_mean": bandwidth.mean / 1024.0,
        "bw_dev": bandwidth.stddev / 1024.0,
        "bw_samples": bandwidth.samples,
        "iops_min": iops.min as u64,
        "iops_max": iops.max as u64,
        "iops_mean": iops.mean,
        "iops_stddev": iops.stddev,
        "iops_samples": iops.samples,
    })
}

/// fio's object of one latency; without percentiles when none are asked for or nothing was counted.
fn latency(latency: &Latency, percentiles: &[f64]) -> Value {
    let mut object = json!({
        "min": latency.min_ns(),
        "max": latency.max_ns(),
        "mean": latency.mean_ns(),
        "stddev": latency.stddev_ns(),
        "N": latency.count(),
    });
    if latency.count() > 0 && !percentiles.is_empty() {
        let entries = percentiles.iter().map(|percentile| {
            (format!("{percentile:.6}"), latency.percentile_ns(*percentile).into())
        });
        object["percentile"] = Value::Object(entries.collect());
    }
    object
}

/// What fio has no name for.
fn ours(report: &RunReport) -> Result<Value, serde_json::Error> {
    let side = |direction: &DirectionReport| {
        json!({
            "lat_ns": latency(&direction.total, &report.percentiles),
            "wait_ns": latency(&direction.wait, &report.percentiles),
            "device_ns": latency(&direction.device, &report.percentiles),
            "intervals": direction.intervals.samples(),
        })
    };
    let jobs: Vec<Value> = report
        .jobs
        .iter()
        .map(|job| {
            json!({
                "jobname": job.name,
                "priority": job.priority,
                "priority_write": job.priority_write,
                "read": side(&job.read),
                "write": side(&job.write),
            })
        })
        .collect();
    Ok(json!({
        "schema_version": SCHEMA_VERSION,
        "load": report.load,
        "target": report.target,
        "client": report.client,
        "elapsed_ns": report.elapsed_ns,
        "failed_ios": report.failed(),
        "cost": report.engine.cost(),
        "engine": serde_json::to_value(&report.engine)?,
        "store": serde_json::to_value(&report.store)?,
        "jobs": jobs,
        "environment": serde_json::to_value(&report.environment)?,
        "warnings": report.warnings,
    }))
}

fn options(options: &[(String, String)]) -> Value {
    let entries = options.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    Value::Object(entries.collect())
}

fn depths(buckets: Buckets) -> Value {
    let labels = ["1", "2", "4", "8", "16", "32", ">=64"];
    let pairs = labels.iter().zip(buckets.depth_percentages());
    Value::Object(pairs.map(|(label, share)| ((*label).to_owned(), share.into())).collect())
}

fn batches(buckets: Buckets) -> Value {
    let labels = ["0", "4", "8", "16", "32", "64", ">=64"];
    let pairs = labels.iter().zip(buckets.batch_percentages());
    Value::Object(pairs.map(|(label, share)| ((*label).to_owned(), share.into())).collect())
}

/// Shares of fio's 32 buckets: ten of nanoseconds, ten of microseconds, twelve of milliseconds.
fn latency_shares(latency: &Latency) -> Vec<f64> {
    let scaled = |unit: u64| LATENCY_BOUNDS.into_iter().map(move |bound| bound * unit);
    let bounds: Vec<u64> =
        scaled(1).chain(scaled(1_000)).chain(scaled(1_000_000)).chain([2_000_000_000]).collect();
    latency.shares(&bounds)
}

fn labelled(bounds: &[u64], shares: &[f64]) -> Value {
    let pairs = bounds.iter().zip(shares);
    Value::Object(pairs.map(|(bound, share)| (bound.to_string(), (*share).into())).collect())
}

fn milliseconds(shares: &[f64]) -> Value {
    let labels = LATENCY_BOUNDS.iter().map(u64::to_string);
    let labels = labels.chain(["2000".to_owned(), ">=2000".to_owned()]);
    let entries: Map<String, Value> =
        labels.zip(shares).map(|(label, share)| (label, (*share).into())).collect();
    Value::Object(entries)
}
