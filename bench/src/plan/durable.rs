//! `compare-durable`, checked.

use std::path::PathBuf;
use std::time::Duration;

use super::{job, measured, narrow};
use crate::args::CompareDurableArgs;
use crate::failure::Failure;
use crate::units::{count, size_bytes};

/// A checked `compare-durable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompareDurablePlan {
    /// Device or file.
    pub disk: PathBuf,
    /// What may be overwritten: the same path.
    pub destroy: Vec<PathBuf>,
    /// Write in spite of what is found on it.
    pub force: bool,
    /// Rounds of each side.
    pub rounds: u32,
    /// Time per round and row.
    pub runtime: Duration,
    /// Bytes per write.
    pub block_bytes: u32,
    /// Writers of the rows with many.
    pub writers: u32,
    /// Bytes that the writers overwrite; none: by the journals.
    pub size: Option<u64>,
    /// MiB of the journal, where `pool` does not say.
    pub journal_mib: u32,
    /// The engine's configuration.
    pub pool: Option<PathBuf>,
    /// JSON on standard output.
    pub json: bool,
}

impl TryFrom<CompareDurableArgs> for CompareDurablePlan {
    type Error = Failure;

    fn try_from(args: CompareDurableArgs) -> Result<Self, Failure> {
        let block_bytes = job::block_bytes(&args.bs)?;
        if !block_bytes.is_multiple_of(4096) {
            let help = "use a multiple of 4096";
            return Err(Failure::usage("bs", &args.bs, "the pool has blocks of 4096 bytes", help));
        }
        if !args.destroy.contains(&args.disk) {
            let disk = args.disk.display();
            let help = format!("if its content may be lost, add --destroy={disk}");
            let reason = format!("{disk} would be overwritten");
            return Err(Failure::usage("destroy", "", &reason, &help));
        }
        Ok(Self {
            disk: args.disk,
            destroy: args.destroy,
            force: args.force,
            rounds: narrow(count("rounds", &args.rounds, 1, 1000)?),
            runtime: measured("runtime", &args.runtime)?,
            block_bytes,
            writers: narrow(count("writers", &args.writers, 1, 1024)?),
            size: args.size.as_deref().map(|text| size_bytes("size", text)).transpose()?,
            journal_mib: narrow(count("journal", &args.journal, 1, 4096)?),
            pool: args.pool,
            json: args.json,
        })
    }
}
