//! `dynamicfs disk remove`.

use std::io::{self, IsTerminal, Write};

use dynamicfs::engine::control::{Answer, RemoveRequest, Request, Snapshot};
use dynamicfs::engine::storage_engine::SlotRemoval;
use serde_json::json;

use super::{LOOK_EVERY, RemoveArguments};
use crate::cli::live::unexpected;
use crate::cli::pool::stopped;
use crate::cli::status::taken;
use crate::cli::table::size;
use crate::cli::{Exit, Failure, Report};

/// Looks without progress, five seconds of them, after which what is in the way will stay there.
const STUCK_LOOKS: u32 = 25;

pub(super) fn remove(arguments: &RemoveArguments) -> Result<Report, Failure> {
    let slot = arguments.slot;
    let live = match arguments.no_wait {
        true => Some(arguments.live.required(&arguments.pool)?),
        false => arguments.live.connect(&arguments.pool)?,
    };
    let removal = match live {
        Some(mut live) => {
            let request = RemoveRequest { slot, keep: arguments.keep };
            match live.ask(&Request::Remove(request))? {
                Answer::Done => None,
                Answer::Removed(removal) if arguments.no_wait => Some(removal),
                Answer::Removed(_) => Some(wait(slot, &mut || live.status())?),
                other => return Err(unexpected(&other)),
            }
        }
        None => arguments.pool.with_engine(|engine| match arguments.keep {
            true => Ok(engine.keep_slot(slot).map(|()| None)?),
            false => {
                engine.remove_slot(slot)?;
                wait(slot, &mut || taken(engine)).map(Some)
            }
        })?,
    };
    if arguments.json {
        return crate::cli::json(&json!({ "removal": removal })).map(Report::from);
    }
    Ok(match removal {
        None => format!("slot {slot} stays\n"),
        Some(removal) if removal.is_gone => format!(
            "slot {slot} is gone: its disks are free, and the pool is opened without them from \
             now on\n"
        ),
        Some(removal) => format!(
            "slot {slot} is leaving: {} are still there; `status --metrics` tells how far it is\n",
            size(removal.left_bytes)
        ),
    }
    .into())
}

/// Waits until the slot is gone, and shows how far it is where somebody looks.
fn wait(
    slot: u16,
    look: &mut dyn FnMut() -> Result<Snapshot, Failure>,
) -> Result<SlotRemoval, Failure> {
    let shown = io::stderr().is_terminal();
    let (mut before, mut stuck) = (u64::MAX, 0);
    loop {
        let snapshot = look()?;
        let removal = snapshot.removals.iter().find(|removal| removal.slot == slot).cloned();
        let Some(removal) = removal else {
            let message = format!("somebody else has decided that slot {slot} stays");
            return Err(Failure::new(Exit::Runtime, message));
        };
        if removal.is_gone {
            if shown {
                eprintln!();
            }
            return Ok(removal);
        }
        stopped(&snapshot)?;
        if snapshot.sync.paused {
            let message = "moving data is paused; `disk sync --resume` goes on".to_owned();
            return Err(Failure::new(Exit::Runtime, message));
        }
        let moves = removal.left_bytes != before;
        (before, stuck) = (removal.left_bytes, if moves { 0 } else { stuck + 1 });
        if let Some(why) = &removal.waits
            && stuck >= STUCK_LOOKS
        {
            let message = format!(
                "slot {slot} cannot be left: {why}. It goes on when that has changed; --keep \
                 ends it"
            );
            return Err(Failure::new(Exit::Runtime, message));
        }
        if shown {
            // The line is for a reader who may be gone.
            let _ = write!(io::stderr(), "\rslot {slot}: {:>12} left", size(removal.left_bytes));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
