//! `dynamicfs disk`: the disks of a pool.

mod remove;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use dynamicfs::engine::control::{
    AddRequest, Answer, AttachRequest, Request, Snapshot, SyncRequest,
};
use dynamicfs::engine::storage_engine::{
    DiskPlace, GrownSlot, MemberReport, MirrorReport, Overwrite, PoolReport, StorageEngine,
};
use dynamicfs::format::layout::BLOCK_BYTES;
use dynamicfs::store::member::MirrorState;
use serde_json::json;

use super::live::{LiveArguments, unexpected};
use super::pool::{DestroyArguments, PoolArguments, stopped};
use super::status::taken;
use super::table::{size, table};
use super::{Exit, Failure, Report};

/// How often the progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Show which disk is what in a pool, and which of them have everything. Nothing is written.
    List(ListArguments),
    /// Add new disks to a pool: as many as each of its slots has. All that they hold is lost.
    ///
    /// Their space is the pool's at once, while it is used, and new data goes there the more, the
    /// emptier they are; what is on the others stays there. Where no engine has the pool open, it
    /// is opened for this. From then on name them with the others.
    Add(AddArguments),
    /// Use what the disks of a pool have grown by, while it is used. Where no engine has the pool
    /// open, it is opened for this.
    Grow(GrowArguments),
    /// Take a slot out of a pool: what is there goes to the others, while the pool is used. Its
    /// disks are needed until nothing is left there; then they lose their labels.
    ///
    /// Waits until that is done, unless told otherwise; it goes on at the next opening, and
    /// `--keep` ends it. Where no engine has the pool open, it is opened for this. `disk sync` with
    /// `--mib-per-second` or `--pause` slows it down.
    Remove(RemoveArguments),
    /// Put a new disk in the place of one that is missing or has failed. All that it holds is lost.
    ///
    /// An engine that has the pool open takes it while it works. Where none has, name the disks
    /// that are left. The new one gets what it lacks while the pool is used; `disk sync` waits for
    /// that.
    Replace(ReplaceArguments),
    /// Have a running engine take a disk back that was away. Only what it lacks is copied.
    Attach(AttachArguments),
    /// Wait until every disk of a pool has everything: of a running engine; where none has the pool
    /// open, it is opened.
    Sync(SyncArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// A new disk; once for each disk that a slot has.
    #[arg(long, value_name = "DEV|FILE", required = true)]
    with: Vec<PathBuf>,
    #[command(flatten)]
    destroys: DestroyArguments,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GrowArguments {
    #[command(flatten)]
    pool: PoolArguments,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// The slot: `disk list` shows which disks are in it.
    #[arg(long, value_name = "N")]
    slot: u16,
    /// The slot stays after all. What has left it is elsewhere.
    #[arg(long)]
    keep: bool,
    /// Have a running engine begin with it, and do not wait for the end.
    #[arg(long, conflicts_with = "keep")]
    no_wait: bool,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// The new disk.
    #[arg(long, value_name = "DEV|FILE")]
    with: PathBuf,
    /// The slot that it goes to.
    #[arg(long, value_name = "N")]
    slot: u16,
    /// Its number among the disks of the slot.
    #[arg(long, value_name = "N")]
    mirror: u16,
    #[command(flatten)]
    destroys: DestroyArguments,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// The disk that comes back.
    #[arg(long, value_name = "DEV|FILE")]
    with: PathBuf,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SyncArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// Read no more than this of each disk in a second; 0: as much as goes.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    mib_per_second: Option<u32>,
    /// Have a running engine wait with it, and do not wait for that.
    #[arg(long)]
    pause: bool,
    /// Have a running engine go on.
    #[arg(long, conflicts_with = "pause")]
    resume: bool,
    #[command(flatten)]
    live: LiveArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &DiskCommand) -> Result<Report, Failure> {
    match command {
        DiskCommand::List(arguments) => list(arguments),
        DiskCommand::Add(arguments) => add(arguments),
        DiskCommand::Grow(arguments) => grow(arguments),
        DiskCommand::Remove(arguments) => remove::remove(arguments),
        DiskCommand::Replace(arguments) => replace(arguments),
        DiskCommand::Attach(arguments) => attach(arguments),
        DiskCommand::Sync(arguments) => sync(arguments),
    }
}

fn shown(pool: &PoolReport, as_json: bool) -> Result<Report, Failure> {
    match as_json {
        true => super::json(&json!({ "pool": pool })).map(Report::from),
        false => Ok(describe(pool).into()),
    }
}

fn describe(pool: &PoolReport) -> String {
    let row = |disk: &MemberReport| {
        vec![
            disk.slot.to_string(),
            disk.mirror.to_string(),
            if disk.in_sync { "in sync" } else { "behind" }.to_owned(),
            size(disk.disk_bytes),
            disk.disk.to_string(),
            disk.path.display().to_string(),
        ]
    };
    let heading = ["SLOT", "MIRROR", "STATE", "SIZE", "DISK", "PATH"];
    let mut text = format!("pool {}, epoch {}\n", pool.pool, pool.epoch);
    text.push_str(&table(&heading, &pool.disks.iter().map(row).collect::<Vec<_>>()));
    pool.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    text
}

fn list(arguments: &ListArguments) -> Result<Report, Failure> {
    let paths = arguments.pool.paths()?;
    shown(&StorageEngine::inspect_disks(&paths)?, arguments.json)
}

fn replace(arguments: &ReplaceArguments) -> Result<Report, Failure> {
    let name = arguments.with.display().to_string();
    if !arguments.destroys.yes {
        super::pool::ask(&name, "it holds")?;
    }
    let overwrite = arguments.destroys.overwrite();
    let place = DiskPlace { slot: arguments.slot, mirror: arguments.mirror };
    if let Some(mut live) = arguments.live.connect(&arguments.pool)? {
        let overwrite = overwrite == Overwrite::Yes;
        let request =
            AttachRequest { path: whole(&arguments.with)?, place: Some(place), overwrite };
        return attached(live.ask(&Request::Attach(request))?, arguments.json);
    }
    let config = arguments.pool.engine_config()?;
    let pool = StorageEngine::replace_disk(&config, place, &arguments.with, overwrite)?;
    shown(&pool, arguments.json)
}

fn add(arguments: &AddArguments) -> Result<Report, Failure> {
    if !arguments.destroys.yes {
        for disk in &arguments.with {
            super::pool::ask(&disk.display().to_string(), "it holds")?;
        }
    }
    let overwrite = arguments.destroys.overwrite();
    let paths: Vec<PathBuf> =
        arguments.with.iter().map(|path| whole(path)).collect::<Result<_, _>>()?;
    let disks = match arguments.live.connect(&arguments.pool)? {
        Some(mut live) => {
            let (paths, overwrite) = (paths.clone(), overwrite == Overwrite::Yes);
            let request = AddRequest { paths, overwrite };
            let answer = live.ask(&Request::Add(request))?;
            let Answer::Added(disks) = answer else { return Err(unexpected(&answer)) };
            disks
        }
        None => arguments.pool.with_engine(|engine| Ok(engine.add_disks(&paths, overwrite)?))?,
    };
    if arguments.json {
        return super::json(&json!({ "disks": disks })).map(Report::from);
    }
    let mut text = describe_disks(&disks);
    text.push_str("from now on the pool is opened with these too:");
    paths.iter().for_each(|path| text.push_str(&format!(" --disk {}", path.display())));
    text.push('\n');
    Ok(text.into())
}

fn grow(arguments: &GrowArguments) -> Result<Report, Failure> {
    let grown = match arguments.live.connect(&arguments.pool)? {
        Some(mut live) => {
            let answer = live.ask(&Request::Grow)?;
            let Answer::Grown(grown) = answer else { return Err(unexpected(&answer)) };
            grown
        }
        None => arguments.pool.with_engine(|engine| Ok(engine.grow()?))?,
    };
    if arguments.json {
        return super::json(&json!({ "slots": grown })).map(Report::from);
    }
    let row = |slot: &GrownSlot| {
        vec![slot.slot.to_string(), size(slot.data_bytes_before), size(slot.data_bytes)]
    };
    match grown.as_slice() {
        [] => Ok("no disk has grown by a round of allocation groups\n".to_owned().into()),
        some => {
            let rows: Vec<_> = some.iter().map(row).collect();
            Ok(table(&["SLOT", "DATA BEFORE", "DATA NOW"], &rows).into())
        }
    }
}

/// A path as a process with another folder understands it.
fn whole(path: &Path) -> Result<PathBuf, Failure> {
    let fail = |error: io::Error| {
        Failure::new(Exit::Device, format!("cannot find {}: {error}", path.display()))
    };
    std::path::absolute(path).map_err(fail)
}

fn attach(arguments: &AttachArguments) -> Result<Report, Failure> {
    let mut live = arguments.live.required(&arguments.pool)?;
    let request = AttachRequest { path: whole(&arguments.with)?, place: None, overwrite: false };
    attached(live.ask(&Request::Attach(request))?, arguments.json)
}

fn attached(answer: Answer, as_json: bool) -> Result<Report, Failure> {
    let Answer::Attached(disk) = answer else { return Err(unexpected(&answer)) };
    match as_json {
        true => super::json(&json!({ "disk": disk })).map(Report::from),
        false => Ok(describe_disks(&[disk]).into()),
    }
}

fn sync(arguments: &SyncArguments) -> Result<Report, Failure> {
    let paused = match (arguments.pause, arguments.resume) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let order = SyncRequest { paused, mib_per_second: arguments.mib_per_second };
    let live = match arguments.pause {
        true => Some(arguments.live.required(&arguments.pool)?),
        false => arguments.live.connect(&arguments.pool)?,
    };
    let disks = match live {
        Some(mut live) => {
            live.ask(&Request::Sync(order))?;
            match arguments.pause {
                true => members_of(&live.status()?),
                false => wait_until_in_sync(&mut || live.status())?,
            }
        }
        None => arguments.pool.with_engine(|engine| {
            engine.sync_order(paused, arguments.mib_per_second);
            wait_until_in_sync(&mut || taken(engine))
        })?,
    };
    let text = match arguments.json {
        true => super::json(&json!({ "disks": disks }))?,
        false => describe_disks(&disks),
    };
    if arguments.pause {
        return Ok(text.into());
    }
    // One that was taken out may have another in its place.
    let is_there = |place: (u16, u16)| {
        let in_sync = |disk: &MirrorReport| disk.state == MirrorState::InSync;
        disks.iter().any(|disk| (disk.slot, disk.mirror) == place && in_sync(disk))
    };
    let out = disks.iter().filter(|disk| !is_there((disk.slot, disk.mirror)));
    let failed = |disk: &MirrorReport| {
        let path = disk.path.display();
        Failure::new(Exit::Io, format!("{path} failed, and is not in sync"))
    };
    Ok(Report { text, failures: out.map(failed).collect() })
}

fn members_of(snapshot: &Snapshot) -> Vec<MirrorReport> {
    snapshot.disks.iter().filter_map(|disk| disk.member.clone()).collect()
}

fn wait_until_in_sync(
    look: &mut dyn FnMut() -> Result<Snapshot, Failure>,
) -> Result<Vec<MirrorReport>, Failure> {
    let shown = io::stderr().is_terminal();
    loop {
        let snapshot = look()?;
        let disks = members_of(&snapshot);
        let mut syncing = disks.iter().filter(|disk| disk.state == MirrorState::Syncing);
        let Some(first) = syncing.next() else {
            if shown {
                eprintln!();
            }
            return Ok(disks);
        };
        stopped(&snapshot)?;
        if snapshot.sync.paused {
            let message = "bringing disks into sync is paused; --resume goes on".to_owned();
            return Err(Failure::new(Exit::Runtime, message));
        }
        if shown {
            let now = snapshot.domains.iter().filter_map(|domain| domain.now.as_ref());
            let extents: u64 = now.map(|now| now.extents).sum();
            let percent = first.sync_looked_at * 100 / extents.max(1);
            let copied = size(first.sync_copied * BLOCK_BYTES);
            // The line is for a reader who may be gone.
            let _ = write!(
                io::stderr(),
                "\r{}: {:>3} % of {extents} extents looked at, {copied} copied",
                first.path.display(),
                percent.min(100)
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Disks as they are in a pool that is open.
fn describe_disks(disks: &[MirrorReport]) -> String {
    let row = |disk: &MirrorReport| {
        let state = match disk.state {
            MirrorState::InSync if disk.leaving => "leaving",
            MirrorState::InSync => "in sync",
            MirrorState::Syncing => "behind",
            MirrorState::Out => "failed",
        };
        vec![
            disk.slot.to_string(),
            disk.mirror.to_string(),
            state.to_owned(),
            disk.read_failures.to_string(),
            size(disk.sync_copied * BLOCK_BYTES),
            disk.sync_lost.to_string(),
            disk.path.display().to_string(),
        ]
    };
    let heading = ["SLOT", "MIRROR", "STATE", "READ ERRORS", "COPIED", "LOST", "PATH"];
    table(&heading, &disks.iter().map(row).collect::<Vec<_>>())
}
