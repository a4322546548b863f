//! The standard smoke: a few short cells that show in a minute whether everything works.
//!
//! Without devices it makes a file of its own, which it also writes, and removes it again; given
//! devices are only read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use dynamicfs::machine::device::create_file;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::deliver;
use crate::plan::{Plan, RunPlan, SmokePlan};
use crate::report::{JobReport, RunReport};
use crate::run::measure;

mod temporary;

use temporary::TemporaryDirectory;

/// Size of the file, bytes.
const FILE_BYTES: u64 = 512 << 20;

/// Name and words of each cell.
const READ_CELLS: [(&str, &[&str]); 5] = [
    ("random read 4 KiB, depth 1", &["--rw=randread", "--bs=4k", "--iodepth=1"]),
    ("the same, reactor spins", &["--rw=randread", "--bs=4k", "--iodepth=1", "--spin=forever"]),
    ("random read 4 KiB, depth 32", &["--rw=randread", "--bs=4k", "--iodepth=32"]),
    ("the same, from a thread", &["--rw=randread", "--bs=4k", "--iodepth=32", "--client=thread"]),
    ("sequential read 128 KiB, depth 8", &["--rw=read", "--bs=128k", "--iodepth=8"]),
];

const WRITE_CELLS: [(&str, &[&str]); 3] = [
    ("random write 4 KiB, depth 32", &["--rw=randwrite", "--bs=4k", "--iodepth=32"]),
    (
        "70 % read 30 % write, depth 32",
        &["--rw=randrw", "--rwmixread=70", "--bs=4k", "--iodepth=32"],
    ),
    ("sequential write 128 KiB, depth 8", &["--rw=write", "--bs=128k", "--iodepth=8"]),
];

/// The software alone: needs no disk.
const NOP_CELL: (&str, &[&str]) = (
    "NOP ring, depth 128 (software alone)",
    &[
        "--target=nop",
        "--rw=randread",
        "--bs=4k",
        "--iodepth=128",
        "--iodepth_batch_complete_min=32",
    ],
);

/// Carries out `smoke`.
///
/// # Errors
/// [`Failure`] of the first cell that fails.
pub fn execute(plan: &SmokePlan) -> Result<(), Failure> {
    let mut rows = Vec::new();
    if plan.devices.is_empty() {
        let home = temporary_file(plan.dir.as_deref())?;
        let file = home.file();
        for (name, words) in READ_CELLS.iter().chain(&WRITE_CELLS) {
            rows.push(cell(plan, name, words, Some(&file))?);
        }
    } else {
        for device in &plan.devices {
            for (name, words) in &READ_CELLS {
                rows.push(cell(plan, name, words, Some(device))?);
            }
        }
    }
    rows.push(cell(plan, NOP_CELL.0, NOP_CELL.1, None)?);
    let text = if plan.json { json_text(&rows)? } else { table(&rows) };
    deliver(&text, None)?;
    let failed: u64 = rows.iter().map(|row| row.report.failed()).sum();
    let first = rows.iter().find_map(|row| row.report.first_failure.clone());
    match first {
        None => Ok(()),
        Some(first) => {
            let done = rows.iter().flat_map(|row| &row.report.jobs);
            let done: u64 = done.map(|job| job.read.total_ios + job.write.total_ios).sum();
            Err(Failure::Io { failed, total: done + failed, first })
        }
    }
}

struct Row {
    name: String,
    target: String,
    report: RunReport,
}

fn cell(plan: &SmokePlan, name: &str, words: &[&str], path: Option<&Path>) -> Result<Row, Failure> {
    let mut line: Vec<String> = vec!["dynamicfs-bench".into()];
    line.extend(words.iter().map(|word| (*word).to_owned()));
    line.push("--time_based".into());
    line.push(format!("--runtime={}ms", plan.runtime.as_millis()));
    line.push("--ramp_time=200ms".into());
    if let Some(path) = path {
        let escaped = path.display().to_string().replace(':', "\\:");
        line.push(format!("--filename={escaped}"));
        if words.iter().any(|word| word.contains("write") || word.contains("randrw")) {
            line.push(format!("--destroy={escaped}"));
        }
    }
    let cli = Cli::try_parse_from(&line).map_err(|error| Failure::Runtime {
        message: format!("the smoke's own command line is wrong: {error}"),
        help: "this is a bug: report it".into(),
    })?;
    let Plan::Run(run) = Plan::try_from(cli)? else {
        unreachable!("a line without a subcommand is a run")
    };
    let run: RunPlan = *run;
    let target = path.map_or_else(|| "nop".to_owned(), |path| path.display().to_string());
    Ok(Row { name: name.to_owned(), target, report: measure(&run)? })
}

fn temporary_file(dir: Option<&Path>) -> Result<TemporaryDirectory, Failure> {
    let fallback = || std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let dir = dir.map_or_else(fallback, Path::to_owned);
    let help = "name a directory on a disk with 512 MiB free that you may write to: --dir=DIR";
    let failure = |message: String| Failure::Device { message, help: help.into() };
    let home = TemporaryDirectory::new(&dir).map_err(|error| {
        failure(format!("cannot make a directory in {}: {error}", dir.display()))
    })?;
    create_file(&home.file(), FILE_BYTES, &mut |_| {})
        .map_err(|error| failure(error.to_string()))?;
    Ok(home)
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut target = "";
    for row in rows {
        if row.target != target {
            target = &row.target;
            let _ = writeln!(text, "\n{target}");
            let _ = writeln!(
                text,
                "  {:<36} {:>9} {:>8} {:>9} {:>9} {:>9} {:>7} {:>9}",
                "", "IOPS", "MiB/s", "p50", "p99", "p99.9", "CPU ns", "syscalls"
            );
        }
        let _ = writeln!(text, "{}", line(row));
    }
    if let Some(row) = rows.first() {
        let machine = &row.report.environment;
        let model = machine.cpu_model.as_deref().unwrap_or("unknown CPU");
        let kernel = machine.kernel.as_deref().unwrap_or("?");
        let _ = writeln!(text, "\n{} x {model}, Linux {kernel}", machine.cpus);
        let _ = writeln!(text, "path: {}", row.report.engine.path.ring_flags.join(" "));
        for warning in &row.report.warnings {
            let _ = writeln!(text, "note: {warning}");
        }
    }
    let _ = writeln!(text, "CPU ns: processor time of the reactor for each request; see --help");
    text.trim_start().to_owned()
}

fn line(row: &Row) -> String {
    let jobs = &row.report.jobs;
    let sum = |of: fn(&JobReport) -> f64| jobs.iter().map(of).sum::<f64>();
    let iops = sum(|job| job.read.iops() + job.write.iops());
    let bandwidth = sum(|job| job.read.bytes_per_second() + job.write.bytes_per_second());
    let mut total = crate::report::latency::Latency::new();
    for job in jobs {
        total.absorb(&job.read.total);
        total.absorb(&job.write.total);
    }
    let cost = row.report.engine.cost();
    format!(
        "  {:<36} {:>9} {:>8.0} {:>9} {:>9} {:>9} {:>7.0} {:>9.3}",
        row.name,
        rate(iops),
        bandwidth / 1048576.0,
        time(total.percentile_ns(50.0)),
        time(total.percentile_ns(99.0)),
        time(total.percentile_ns(99.9)),
        cost.cpu_ns_per_io,
        cost.syscalls_per_io
    )
}

fn rate(iops: f64) -> String {
    match iops {
        iops if iops >= 1e6 => format!("{:.2} M", iops / 1e6),
        iops if iops >= 1e4 => format!("{:.0} k", iops / 1e3),
        iops => format!("{iops:.0}"),
    }
}

fn time(ns: u64) -> String {
    match Duration::from_nanos(ns) {
        time if ns < 100_000 => format!("{:.1} us", time.as_nanos() as f64 / 1e3),
        time if ns < 1_000_000 => format!("{:.0} us", time.as_nanos() as f64 / 1e3),
        time => format!("{:.2} ms", time.as_nanos() as f64 / 1e6),
    }
}

fn json_text(rows: &[Row]) -> Result<String, Failure> {
    let mut cells = Vec::new();
    for row in rows {
        let text = row.report.render(crate::args::OutputFormat::Json);
        let value = text.and_then(|text| serde_json::from_str::<serde_json::Value>(&text));
        let report = value.map_err(|error| Failure::Runtime {
            message: format!("cannot write the report: {error}"),
            help: "this is a bug: report it".into(),
        })?;
        let cell = serde_json::json!({"name": row.name, "target": row.target, "report": report});
        cells.push(cell);
    }
    Ok(format!("{:#}\n", serde_json::json!({"schema_version": 1, "cells": cells})))
}
