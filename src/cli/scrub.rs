//! `dynamicfs scrub`: reads everything that a pool has, and mends what can be mended.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use dynamicfs::engine::storage_engine::StorageEngine;
use dynamicfs::store::scrub::{ScrubOrder, ScrubReport, ScrubState};
use serde_json::json;

use super::pool::{PoolArguments, stopped};
use super::table::{size, table};
use super::{Exit, Failure, Report};

/// How often the progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct ScrubArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// Read no more than this in a second, all domains together; without it as much as goes.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    mib_per_second: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &ScrubArguments) -> Result<Report, Failure> {
    let reports = arguments.pool.with_engine(|engine| scrub(engine, arguments.mib_per_second))?;
    let text = match arguments.json {
        true => super::json(&json!({ "domains": reports }))?,
        false => describe(&reports),
    };
    let lost: u64 = reports.iter().map(|report| report.lost).sum();
    let failures = match lost {
        0 => Vec::new(),
        _ => {
            vec![Failure::new(Exit::Io, format!("{lost} blocks are lost: no disk has them right"))]
        }
    };
    Ok(Report { text, failures })
}

fn scrub(engine: &StorageEngine, mib_per_second: Option<u64>) -> Result<Vec<ScrubReport>, Failure> {
    let status = engine.status()?;
    let (domains, extents) = (status.domains.len() as u64, status.domains.iter());
    let extents: u64 = extents.map(|domain| domain.now.extents).sum();
    let bytes_per_second = mib_per_second.map_or(0, |mib| ((mib << 20) / domains).max(1));
    let mut reports = engine.scrub(ScrubOrder::Start { bytes_per_second })?;
    let shown = io::stderr().is_terminal();
    while reports.iter().any(|report| report.state == ScrubState::Running) {
        stopped(&engine.status()?)?;
        std::thread::sleep(LOOK_EVERY);
        reports = engine.scrub(ScrubOrder::Look)?;
        if shown {
            let done: u64 = reports.iter().map(|report| report.extents).sum();
            // The line is for a reader who may be gone.
            let _ = write!(io::stderr(), "\r{done} of {extents} extents");
        }
    }
    if shown {
        let _ = writeln!(io::stderr());
    }
    Ok(reports)
}

pub(crate) fn describe(reports: &[ScrubReport]) -> String {
    let row = |(domain, report): (usize, &ScrubReport)| {
        let state = match report.state {
            ScrubState::Idle => "idle",
            ScrubState::Running => "running",
            ScrubState::Paused => "paused",
            ScrubState::Finished => "finished",
        };
        vec![
            domain.to_string(),
            state.to_owned(),
            report.extents.to_string(),
            report.pages.to_string(),
            report.records.to_string(),
            size(report.bytes),
            report.wrong.to_string(),
            report.lost.to_string(),
        ]
    };
    let heading = ["DOMAIN", "STATE", "EXTENTS", "PAGES", "RECORDS", "READ", "WRONG", "LOST"];
    let mut text = table(&heading, &reports.iter().enumerate().map(row).collect::<Vec<_>>());
    for finding in reports.iter().flat_map(|report| &report.findings) {
        text.push_str(&format!("{finding}\n"));
    }
    text
}
