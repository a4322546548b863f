//! What a run on the storage engine has of its own: its pool, its inodes, its clients.

use std::path::PathBuf;

use super::{RunPlan, narrow};
use crate::args::{Client, Clients, DurabilityWord, FormatFill, RunArgs, StoreWords, Target};
use crate::failure::Failure;
use crate::plan::show;
use crate::units::count;

/// Most inodes and most driver threads.
const INODES_MAX: u64 = 256;
const DRIVERS_MAX: u64 = 64;

/// The pool of a run and what uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorePlan {
    /// The engine's configuration.
    pub pool: Option<PathBuf>,
    /// How a new pool is made; none: the one that is there is used.
    pub format: Option<FormatFill>,
    /// Inodes that the jobs share; none: one for each.
    pub inodes: Option<u32>,
    /// When a write is answered.
    pub durability: DurabilityWord,
    /// What a job is.
    pub clients: Clients,
    /// Threads that poll the tasks.
    pub drivers: u32,
}

impl StorePlan {
    /// The words of `--target=engine`; none for another target.
    pub(super) fn read(args: &RunArgs) -> Result<Option<Self>, Failure> {
        let words = &args.store;
        if args.target != Target::Engine {
            return match first_given(words) {
                None => Ok(None),
                Some((field, value)) => {
                    let help = "add --target=engine, or leave it out";
                    Err(Failure::usage(field, &value, "is a word of --target=engine", help))
                }
            };
        }
        refuse_foreign(args)?;
        let number = |field, text: &Option<String>, max| match text {
            Some(text) => count(field, text, 1, max).map(|number| Some(narrow(number))),
            None => Ok(None),
        };
        let plan = Self {
            pool: words.pool.clone(),
            format: words.format,
            inodes: number("inodes", &words.inodes, INODES_MAX)?,
            durability: words.durability.unwrap_or_default(),
            clients: words.clients.unwrap_or_default(),
            drivers: number("drivers", &words.drivers, DRIVERS_MAX)?.unwrap_or(1),
        };
        if words.drivers.is_some() && plan.clients != Clients::Tasks {
            let value = plan.drivers.to_string();
            let help = "add --clients=tasks";
            return Err(Failure::usage("drivers", &value, "only tasks have drivers", help));
        }
        Ok(Some(plan))
    }
}

fn first_given(words: &StoreWords) -> Option<(&'static str, String)> {
    let path = words.pool.as_ref().map(|path| path.display().to_string());
    let given = [
        ("pool", path),
        ("format", words.format.map(show::word)),
        ("inodes", words.inodes.clone()),
        ("durability", words.durability.map(show::word)),
        ("clients", words.clients.map(show::word)),
        ("drivers", words.drivers.clone()),
    ];
    given.into_iter().find_map(|(field, value)| Some((field, value?)))
}

/// What means something for raw requests only.
fn refuse_foreign(args: &RunArgs) -> Result<(), Failure> {
    let job = &args.job;
    let config = args.config.as_ref().map(|path| path.display().to_string());
    let client = (args.client == Client::Thread).then(|| show::word(args.client));
    let more = "one request at a time is under way for each job: use --numjobs";
    let rows = [
        ("iodepth", job.iodepth.clone().filter(|depth| depth != "1"), more),
        ("iodepth_batch_submit", job.iodepth_batch_submit.clone(), more),
        ("iodepth_batch_complete_min", job.iodepth_batch_complete_min.clone(), more),
        ("beside", args.beside.first().cloned(), "a run on the engine has one job"),
        ("rate_iops", job.rate_iops.clone(), "a run on the engine is a closed loop"),
        ("offset", job.offset.clone(), "the inodes are the run's own, and used from 0 on"),
        ("priority", job.priority.map(show::word), "the engine chooses the classes"),
        ("config", config, "the engine's configuration is --pool=FILE"),
        ("client", client, "say --clients=threads, tasks or reactor"),
    ];
    for (field, value, help) in rows {
        if let Some(value) = value {
            let reason = "is not for --target=engine";
            return Err(Failure::usage(field, &value, reason, help));
        }
    }
    match args.filename.as_slice() {
        [] if args.store.pool.is_none() => Err(Failure::usage(
            "target",
            "engine",
            "needs a pool",
            "add --filename=/dev/nvme0n1 or --pool=engine.toml",
        )),
        _ => Ok(()),
    }
}

/// A run on a pool writes, whatever its job does: it makes and fills inodes of its own.
pub(super) fn check_writes(plan: &RunPlan, readonly: bool) -> Result<(), Failure> {
    if readonly {
        let reason = "a run on the engine makes inodes and fills them, also to read them";
        return Err(Failure::usage("readonly", "", reason, "leave out --readonly"));
    }
    let disks = &plan.filenames;
    let other = |named: &&PathBuf| !disks.is_empty() && !disks.contains(named);
    if let Some(other) = plan.destroy.iter().find(other) {
        let named = other.display().to_string();
        let help = "spell the path as in --filename";
        return Err(Failure::usage("destroy", &named, "is not a disk of the pool", help));
    }
    if plan.destroy.is_empty() {
        let disk = disks.first().map_or_else(|| "DISK".into(), |disk| disk.display().to_string());
        let reason = "a run on the engine writes to its pool";
        let help = format!("if that is meant, add --destroy={disk}");
        return Err(Failure::usage("target", "engine", reason, &help));
    }
    Ok(())
}
