//! `dynamicfs scrub`: reads everything that a pool has, and mends what can be mended.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use dynamicfs::engine::control::{Request, ScrubRequest, ScrubVerb};
use dynamicfs::engine::storage_engine::StorageEngine;
use dynamicfs::store::scrub::{ScrubReport, ScrubState};
use serde_json::json;

use super::live::{Live, LiveArguments};
use super::pool::{PoolArguments, stopped};
use super::status::taken;
use super::table::{size, table};
use super::{Exit, Failure, Report};

/// How often the progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum ScrubCommand {
    /// Read everything, on every disk; go on with it, if it is paused. One that was cut short by
    /// the end of its engine goes on by itself when the pool is next opened.
    ///
    /// An engine that has the pool open does it beside its work, and this command does not wait
    /// for the end. Where none has, it opens the pool itself, and waits.
    Start(StartArguments),
    /// Show how far the scrub of a running engine is, and what it has found.
    Status(TellArguments),
    /// Have the scrub of a running engine stay where it is; `start` goes on.
    Pause(TellArguments),
    /// End the scrub of a running engine; the next one begins anew.
    Stop(TellArguments),
}

#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    #[command(flatten)]
    tell: TellArguments,
    /// Read no more than this in a second, all domains together; without it as much as goes.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    mib_per_second: Option<u32>,
    /// Write extents anew that lie in pieces, where there is room for them in a row.
    #[arg(long)]
    coalesce: bool,
    /// Wait for the end, also of a running engine's.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TellArguments {
    #[command(flatten)]
    pool: PoolArguments,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &ScrubCommand) -> Result<Report, Failure> {
    match command {
        ScrubCommand::Start(arguments) => start(arguments),
        ScrubCommand::Status(tell) => told(tell, ScrubVerb::Status),
        ScrubCommand::Pause(tell) => told(tell, ScrubVerb::Pause),
        ScrubCommand::Stop(tell) => told(tell, ScrubVerb::Stop),
    }
}

/// What follows the scrub: a running engine, or one of our own.
type Follow<'a> = &'a mut dyn FnMut(ScrubRequest) -> Result<Vec<ScrubReport>, Failure>;

fn start(arguments: &StartArguments) -> Result<Report, Failure> {
    let tell = &arguments.tell;
    let begin = ScrubRequest {
        order: ScrubVerb::Start,
        mib_per_second: arguments.mib_per_second,
        coalesce: arguments.coalesce,
    };
    let reports = match tell.live.connect(&tell.pool)? {
        Some(mut live) if !arguments.wait => live.scrub(&Request::Scrub(begin))?,
        Some(mut live) => {
            let extents = extents_of(&mut live)?;
            follow(begin, extents, &mut |request| live.scrub(&Request::Scrub(request)))?
        }
        None => tell.pool.with_engine(|engine| own(engine, begin))?,
    };
    shown(&reports, tell.json)
}

fn extents_of(live: &mut Live) -> Result<u64, Failure> {
    let snapshot = live.status()?;
    Ok(snapshot
        .domains
        .iter()
        .filter_map(|domain| domain.now.as_ref())
        .map(|now| now.extents)
        .sum())
}

/// Of a pool that this command has opened.
fn own(engine: &StorageEngine, begin: ScrubRequest) -> Result<Vec<ScrubReport>, Failure> {
    let snapshot = taken(engine)?;
    let domains = snapshot.domains.len() as u64;
    let extents = snapshot.domains.iter().filter_map(|domain| domain.now.as_ref());
    let extents = extents.map(|now| now.extents).sum();
    follow(begin, extents, &mut |request| {
        stopped(&taken(engine)?)?;
        let Some(order) = request.order(domains) else {
            unreachable!("clap lets no rate of 0 through")
        };
        Ok(engine.scrub(order)?)
    })
}

/// Waits for the end, and shows how far it is.
fn follow(begin: ScrubRequest, extents: u64, ask: Follow<'_>) -> Result<Vec<ScrubReport>, Failure> {
    let mut reports = ask(begin)?;
    let shown = io::stderr().is_terminal();
    while reports.iter().any(|report| report.state == ScrubState::Running) {
        std::thread::sleep(LOOK_EVERY);
        reports = ask(ScrubRequest::plain(ScrubVerb::Status))?;
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

fn told(tell: &TellArguments, order: ScrubVerb) -> Result<Report, Failure> {
    let mut live = tell.live.required(&tell.pool)?;
    let reports = live.scrub(&Request::Scrub(ScrubRequest::plain(order)))?;
    shown(&reports, tell.json)
}

fn shown(reports: &[ScrubReport], as_json: bool) -> Result<Report, Failure> {
    let text = match as_json {
        true => super::json(&json!({ "domains": reports }))?,
        false => describe(reports),
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

fn describe(reports: &[ScrubReport]) -> String {
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
            report.coalesced.to_string(),
        ]
    };
    let heading =
        ["DOMAIN", "STATE", "EXTENTS", "PAGES", "RECORDS", "READ", "WRONG", "LOST", "COALESCED"];
    let mut text = table(&heading, &reports.iter().enumerate().map(row).collect::<Vec<_>>());
    for finding in reports.iter().flat_map(|report| &report.findings) {
        text.push_str(&format!("{finding}\n"));
    }
    text
}
