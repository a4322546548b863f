//! `dynamicfs status` and `dynamicfs recover`: what a pool is, and what it is doing.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use dynamicfs::engine::control::Snapshot;
use dynamicfs::engine::storage_engine::{Force, StorageEngine};
use dynamicfs::store::assembly::Missing;
use dynamicfs::store::domain::Undecidable;
use serde_json::json;

use super::live::{Live, LiveArguments};
use super::pool::{PoolArguments, describe_pool};
use super::{Exit, Failure, Report};

mod show;

/// From this pause on an engine is connected to anew each time: it does not keep who is silent.
const ANEW_EVERY: Duration = Duration::from_secs(20);
/// How long the domains of a pool that this command opens may take to say what they do.
const LOOK_TIME: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// Show counters, targets and verdicts: of the engine that has the pool open, over its control
    /// socket; where none has, of what opening it for reading finds. Nothing is written.
    #[arg(long)]
    metrics: bool,
    /// Show a running engine again and again, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", requires = "metrics",
        value_parser = clap::value_parser!(u32).range(1..=3600))]
    watch: Option<u32>,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON; with --watch a line each time.
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(arguments: &StatusArguments) -> Result<Report, Failure> {
    if !arguments.metrics {
        let pool = match arguments.pool.paths()?.as_slice() {
            [only] => StorageEngine::inspect(only)?,
            all => StorageEngine::inspect_disks(all)?,
        };
        return match arguments.json {
            true => super::json(&json!({ "pool": pool })).map(Report::from),
            false => Ok(describe_pool(&pool).into()),
        };
    }
    if let Some(seconds) = arguments.watch {
        let live = arguments.live.required(&arguments.pool)?;
        return watch(live, Duration::from_secs(seconds.into()), arguments.json);
    }
    if let Some(mut live) = arguments.live.connect(&arguments.pool)? {
        let snapshot = live.status()?;
        return shown(&snapshot, true, arguments.json).map(Report::from);
    }
    let snapshot = arguments.pool.with_reader(taken)?;
    let text = shown(&snapshot, false, arguments.json)?;
    Ok(Report { text, failures: losses(&snapshot) })
}

/// What an engine says of itself.
pub(super) fn taken(engine: &StorageEngine) -> Result<Snapshot, Failure> {
    Ok(Snapshot::take(engine, Instant::now() + LOOK_TIME)?)
}

/// Metadata that the opening found lost.
pub(super) fn losses(snapshot: &Snapshot) -> Vec<Failure> {
    let lost = snapshot.domains.iter().flat_map(|domain| &domain.recovery.lost);
    lost.map(|what| Failure::new(Exit::Io, what.clone())).collect()
}

fn shown(snapshot: &Snapshot, is_live: bool, as_json: bool) -> Result<String, Failure> {
    match (as_json, is_live) {
        (true, _) => super::json(snapshot),
        (false, true) => Ok(show::running(snapshot, None)),
        (false, false) => Ok(show::opened(snapshot)),
    }
}

/// Shows an engine until it ends, or nobody looks any more.
fn watch(mut live: Live, every: Duration, as_json: bool) -> Result<Report, Failure> {
    let mut before: Option<Snapshot> = None;
    let on_terminal = io::stdout().is_terminal();
    loop {
        let asked = Instant::now();
        let snapshot = live.status()?;
        let text = match (as_json, &before) {
            (true, _) => {
                let line = serde_json::to_string(&snapshot);
                let line = line.map_err(|e| Failure::new(Exit::Runtime, e.to_string()))?;
                line + "\n"
            }
            (false, before) => {
                let text = show::running(&snapshot, before.as_ref());
                // Home, and what is left of the page before is cleared.
                if on_terminal { format!("\x1b[H\x1b[2J{text}") } else { text + "\n" }
            }
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Report::default()),
            Err(error) => {
                let message = format!("cannot write output: {error}");
                return Err(Failure::new(Exit::Runtime, message));
            }
        }
        before = Some(snapshot);
        std::thread::sleep(every.saturating_sub(asked.elapsed()));
        if every >= ANEW_EVERY {
            live = live.again()?;
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// Drop a last record that cannot be read, though it may have been acknowledged: what was in
    /// it is gone for good.
    #[arg(long)]
    give_up_undecidable: bool,
    /// Open a pool of mirrors with half of its disks or fewer. Be sure that the others are not in
    /// use elsewhere: what was written to them since these were away is lost.
    #[arg(long)]
    accept_missing: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn recover(arguments: &RecoverArguments) -> Result<Report, Failure> {
    let undecidable = match arguments.give_up_undecidable {
        true => Undecidable::GiveUp,
        false => Undecidable::Refuse,
    };
    let missing = match arguments.accept_missing {
        true => Missing::Accept,
        false => Missing::Refuse,
    };
    let snapshot = arguments.pool.with_forced(Force { undecidable, missing }, taken)?;
    shown(&snapshot, false, arguments.json).map(Report::from)
}
