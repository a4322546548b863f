//! Finds a device's depth, its limits, and what the engine adds to the bare ring.
//!
//! The result is a file that the engine's configuration can include; see
//! [`dynamicfs::engine::config::Calibration`].

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dynamicfs::engine::config::Calibration;
use dynamicfs::machine::device::probe;
use dynamicfs::scheduler::limits::NR_REQUESTS_SLACK;
use serde::Serialize;
use serde_json::json;

use crate::args::{Client, Pattern};
use crate::compare::{Contest, last_cpu, median, random_reads};
use crate::failure::Failure;
use crate::load::{CloneOrder, Window};
use crate::output::{check_place, deliver};
use crate::plan::{CalibratePlan, ComparePlan, JobPlan};
use crate::run::FIRST_DISK;
use crate::run::parts::class;
use crate::session;
use crate::stream::Stream;

/// The depth must give this share of the peak rate.
const SHARE: f64 = 0.95;
/// Time for a loop to warm up before its window opens.
const WARM_NS: u64 = 50_000_000;
/// Bytes of a request when bandwidth is measured.
const LARGE_BYTES: u32 = 128 << 10;
/// Rounds of the comparison with the bare ring.
const ROUNDS: u32 = 3;

/// One depth.
#[derive(Debug, Clone, Copy, Serialize)]
struct Step {
    depth: u32,
    iops: f64,
    p50_ns: u64,
    p99_ns: u64,
}

/// What was found out.
#[derive(Debug, Serialize)]
struct Findings {
    steps: Vec<Step>,
    chosen: Step,
    bytes_per_second: f64,
    bare_iops: f64,
    bare_cpu_ns: f64,
    engine_cpu_ns: f64,
    over_cpu_ns: f64,
}

/// A file with one entry, as the configuration includes it.
#[derive(Serialize)]
struct CalibrationFile<'a> {
    calibration: [&'a Calibration; 1],
}

/// Carries out `calibrate`. The device is only read.
///
/// # Errors
/// [`Failure`], by what went wrong.
pub fn execute(plan: &CalibratePlan) -> Result<(), Failure> {
    check_place(plan.output.as_deref(), std::slice::from_ref(&plan.device))?;
    let info = probe(&plan.device).map_err(|error| session::device_failure(&error))?;
    let nr_requests = info.queue.as_ref().and_then(|queue| queue.nr_requests).unwrap_or(0);
    let depth_max = match nr_requests {
        0 => 1024,
        requests => requests.saturating_sub(NR_REQUESTS_SLACK).clamp(1, 1024),
    };
    let steps = depths(plan, depth_max)?;
    let peak = steps.iter().map(|step| step.iops).fold(0.0, f64::max);
    let Some(chosen) = steps.iter().find(|step| step.iops >= SHARE * peak).copied() else {
        return Err(Failure::Runtime {
            message: format!("{}: no request completed in time", plan.device.display()),
            help: "give a longer --runtime, or see `dmesg`".into(),
        });
    };
    let bytes_per_second = bandwidth(plan)?;
    let contest = Contest::new(&ComparePlan {
        device: Some(plan.device.clone()),
        rounds: ROUNDS,
        runtime: plan.runtime,
        block_bytes: plan.block_bytes,
        depth: chosen.depth,
        batch_submit: (chosen.depth / 4).clamp(1, 32),
        json: false,
    })?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((contest.bare()?, contest.engine()?));
    }
    let findings = Findings {
        chosen,
        steps,
        bytes_per_second,
        bare_iops: median(rounds.iter().map(|(bare, _)| bare.iops)),
        bare_cpu_ns: median(rounds.iter().map(|(bare, _)| bare.cpu_ns)),
        engine_cpu_ns: median(rounds.iter().map(|(_, engine)| engine.cpu_ns)),
        over_cpu_ns: median(rounds.iter().map(|(bare, engine)| engine.cpu_ns - bare.cpu_ns)),
    };
    let calibration = Calibration {
        path: plan.device.clone(),
        serial: info
            .serial
            .clone()
            .filter(|_| info.queue_owner == dynamicfs::machine::device::QueueOwner::Itself),
        depth: chosen.depth,
        read_iops: chosen.iops,
        read_bytes_per_second: bytes_per_second,
    };
    if let Some(path) = &plan.output {
        save(&calibration, path)?;
    }
    let text = if plan.json {
        format!("{:#}\n", json!({"schema_version": 1, "findings": findings}))
    } else {
        table(plan, &findings)
    };
    deliver(&text, None)
}

fn save(calibration: &Calibration, path: &Path) -> Result<(), Failure> {
    let file = CalibrationFile { calibration: [calibration] };
    let text = toml::to_string(&file).map_err(|error| Failure::Runtime {
        message: format!("cannot write the calibration: {error}"),
        help: "this is a bug: report it with the command line".into(),
    })?;
    let head =
        "# Written by `dynamicfs-bench calibrate`. Name it in `include` of a configuration.\n";
    deliver(&format!("{head}{text}"), Some(path))
}

/// Rates at doubling depths, until the rate has stopped rising for two steps.
fn depths(plan: &CalibratePlan, depth_max: u32) -> Result<Vec<Step>, Failure> {
    let mut steps: Vec<Step> = Vec::new();
    let doubled = (0..11).map(|exponent| 1u32 << exponent).take_while(|depth| *depth < depth_max);
    for depth in doubled.chain(std::iter::once(depth_max)) {
        let job = random_reads(plan.block_bytes, depth);
        let (iops, p50_ns, p99_ns) = rate(plan, &job)?;
        steps.push(Step { depth, iops, p50_ns, p99_ns });
        let best_before = steps.iter().rev().skip(2).map(|step| step.iops).fold(0.0, f64::max);
        let flat = steps.iter().rev().take(2).all(|step| step.iops < best_before * 1.02);
        if steps.len() > 4 && flat {
            break;
        }
    }
    Ok(steps)
}

/// Bytes per second of large sequential reads.
fn bandwidth(plan: &CalibratePlan) -> Result<f64, Failure> {
    let job = JobPlan { pattern: Pattern::Read, ..random_reads(LARGE_BYTES, 16) };
    let (iops, _, _) = rate(plan, &job)?;
    Ok(iops * f64::from(LARGE_BYTES))
}

/// Requests per second of one job on the engine, and p50 and p99 of its latency.
fn rate(plan: &CalibratePlan, job: &JobPlan) -> Result<(f64, u64, u64), Failure> {
    let mut config = dynamicfs::IoConfig {
        disks: vec![session::disk(&plan.device, false)],
        ..dynamicfs::IoConfig::default()
    };
    // Room above every ceiling, so that the device and not the scheduler sets the limit.
    config.priorities_off = true;
    config.scheduler.depth = Some(job.depth);
    config.reactors.cpus = Some(vec![last_cpu()]);
    let bytes = u64::from(job.depth) * u64::from(job.block_bytes).next_power_of_two();
    config.memory.arena_mib_per_node = (2 * bytes).div_ceil(1 << 20).max(16) as u32;
    let engine = Arc::new(session::open(&config)?);
    let blocks = engine.disks()[0].size_bytes / u64::from(job.block_bytes);
    if blocks == 0 {
        return Err(Failure::usage(
            "bs",
            &job.block_bytes.to_string(),
            &format!("{} is smaller than one request", plan.device.display()),
            "use a larger device or a smaller --bs",
        ));
    }
    let stream = Stream::new(job, 0, blocks, 0);
    let from_ns = engine.now_ns() + WARM_NS;
    let until_ns = from_ns + plan.runtime.as_nanos() as u64;
    let order = CloneOrder {
        disk: FIRST_DISK,
        stream,
        block_bytes: job.block_bytes,
        depth: job.depth,
        classes: [class(job.priority_read), class(job.priority_write)],
        interval_ns: None,
        window: Window { from_ns, until_ns, ios_max: u64::MAX },
    };
    let mut running = vec![session::start(&engine, order, 0, Client::Reactor)?];
    session::wait(&engine, &mut running, until_ns, |_| {})?;
    let result = Arc::clone(&running[0].result);
    drop(running);
    if let Ok(engine) = Arc::try_unwrap(engine) {
        session::close(engine)?;
    }
    if let Some(error) = result.failure() {
        let failed = result.failed.get();
        let total = failed + result.tallies[0].ios.get();
        return Err(Failure::Io { failed, total, first: error.to_string() });
    }
    let total = result.tallies[0].total.snapshot();
    let window = result.window().map_or(1, |[from, until]| (until.0 - from.0).max(1));
    let iops = result.tallies[0].ios.get() as f64 * 1e9 / window as f64;
    Ok((iops, total.quantile_ns(0.5), total.quantile_ns(0.99)))
}

fn table(plan: &CalibratePlan, findings: &Findings) -> String {
    let mut text = String::new();
    let seconds = Duration::as_secs_f64(&plan.runtime);
    let (device, bytes) = (plan.device.display(), plan.block_bytes);
    let _ =
        writeln!(text, "{device}: random reads of {bytes} bytes, {seconds:.1} s for each depth");
    let _ = writeln!(text, "depth         IOPS        p50        p99");
    for step in &findings.steps {
        let mark = if step.depth == findings.chosen.depth { " <-" } else { "" };
        let _ = writeln!(
            text,
            "{:>5} {:>12.0} {:>7.1} us {:>7.1} us{mark}",
            step.depth,
            step.iops,
            step.p50_ns as f64 / 1e3,
            step.p99_ns as f64 / 1e3
        );
    }
    let _ = writeln!(
        text,
        "depth {} gives {:.0} % of the peak or more; sequential reads: {:.0} MiB/s",
        findings.chosen.depth,
        SHARE * 100.0,
        findings.bytes_per_second / 1048576.0
    );
    let _ = writeln!(
        text,
        "bare ring at that depth: {:.0} IOPS, {:.0} ns of CPU each; the engine takes {:+.0} ns",
        findings.bare_iops, findings.bare_cpu_ns, findings.over_cpu_ns
    );
    match &plan.output {
        Some(path) => {
            let _ = writeln!(text, "written to {}", path.display());
        }
        None => {
            let _ = writeln!(text, "nothing was written: give --output=FILE to keep it");
        }
    }
    text
}
