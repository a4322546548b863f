//! The command line, and the run that it asks for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dynamicfs::reactor::bell::Bell;

use crate::contestants::{CONTESTANTS, Contestant};
use crate::failure::Failure;
use crate::units;
use crate::writer::Writer;

/// Writes that O_DIRECT takes on every disk.
const BLOCK_UNIT: u64 = 4096;
const BLOCK_MAX: u64 = 1 << 20;
/// Far beyond what memory holds, and what is computed with it has room in 64 bits.
const SET_BYTES_MAX: u64 = 1 << 40;
/// Each round of `dynamicfs-reactor` takes one of its reactor's bells, the engine some more.
const ROUNDS_MAX: u32 = 60;
const _: () = assert!(ROUNDS_MAX < Bell::PER_REACTOR);

/// Durable random overwrites by many writers: dynamicfs, other engines and bare system calls, in
/// alternation on one directory. What the rows are and how they are set: README.md beside.
#[derive(Debug, Parser)]
#[command(name = "dynamicfs-peers", version)]
pub(crate) struct Cli {
    /// Directory on the disk to measure. Files are made in a new one below it, and removed.
    #[arg(long)]
    dir: PathBuf,
    /// Writers beside each other, each with one write under way.
    #[arg(long, default_value_t = 64)]
    writers: u32,
    /// Bytes of one write: a multiple of 4k.
    #[arg(long, default_value = "4k", value_parser = units::size)]
    block: u64,
    /// Bytes that are overwritten, in blocks at random.
    #[arg(long, default_value = "256m", value_parser = units::size)]
    working_set: u64,
    /// How long a contestant is measured in each round.
    #[arg(long, default_value = "5s", value_parser = units::duration)]
    runtime: Duration,
    /// How long it writes before that.
    #[arg(long, default_value = "1s", value_parser = units::duration)]
    warmup: Duration,
    /// How often each contestant is measured, 60 times at most.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Names of contestants; without it all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Writes the figures to this file as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What every contestant is given to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Writers beside each other.
    pub(crate) writers: u32,
    /// Bytes of one write.
    pub(crate) block_bytes: usize,
    /// Bytes that are overwritten: whole blocks.
    pub(crate) set_bytes: u64,
}

impl Shape {
    /// Blocks that are overwritten.
    pub(crate) fn keys(self) -> u64 {
        self.set_bytes / self.block_bytes as u64
    }

    /// Where a block lies in a file that holds the working set and nothing else.
    pub(crate) fn offset(self, key: u64) -> u64 {
        key * self.block_bytes as u64
    }
}

/// A run, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The directory.
    pub(crate) directory: PathBuf,
    /// What to do.
    pub(crate) shape: Shape,
    /// For how long.
    pub(crate) runtime: Duration,
    /// Not measured, before that.
    pub(crate) warmup: Duration,
    /// How often.
    pub(crate) rounds: u32,
    /// By whom.
    pub(crate) contestants: Vec<Contestant>,
    /// Where the figures go.
    pub(crate) json: Option<PathBuf>,
}

impl Plan {
    /// Whether what all contestants keep, as they stay open to the end, has room in memory.
    ///
    /// # Errors
    /// When it has not: the engines would swap, or be killed.
    pub(crate) fn check_memory(&self, available_bytes: u64) -> Result<(), Failure> {
        let each =
            |one: &Contestant| (one.memory_bytes)(self.shape) + Writer::memory_bytes(self.shape);
        let kept: u64 = self.contestants.iter().map(each).sum();
        let needed = kept + Writer::turn_bytes(self.shape);
        if needed <= available_bytes {
            return Ok(());
        }
        let mib = |bytes: u64| units::show_count((bytes >> 20) as f64);
        let (set, needed, available) = (self.shape.set_bytes, mib(needed), mib(available_bytes));
        let message = format!(
            "--working-set {set}: the contestants keep {needed} MiB in memory, {available} MiB are \
             available"
        );
        let help = "use a smaller one or fewer --writers, or name some contestants by --only";
        Err(Failure::new(message, help))
    }
}

impl TryFrom<Cli> for Plan {
    type Error = Failure;

    fn try_from(cli: Cli) -> Result<Self, Failure> {
        if cli.writers == 0 || cli.writers > 4096 {
            return Err(Failure::option("writers", cli.writers, "is not in 1 to 4,096"));
        }
        if !cli.block.is_multiple_of(BLOCK_UNIT) || cli.block > BLOCK_MAX {
            let reason = "is no multiple of 4k up to 1m, which all contestants take";
            return Err(Failure::option("block", cli.block, reason));
        }
        let set_bytes = cli.working_set / cli.block * cli.block;
        if set_bytes / cli.block < u64::from(cli.writers) {
            let reason = "has fewer blocks than there are --writers";
            return Err(Failure::option("working-set", cli.working_set, reason));
        }
        if set_bytes > SET_BYTES_MAX {
            return Err(Failure::option("working-set", cli.working_set, "is over 1 TiB"));
        }
        if cli.runtime.is_zero() {
            return Err(Failure::option("runtime", "0", "measures nothing"));
        }
        if cli.rounds == 0 {
            return Err(Failure::option("rounds", cli.rounds, "measures nothing"));
        }
        if cli.rounds > ROUNDS_MAX {
            let reason = "is over 60, as an engine gives its reactor's tasks a limited number of \
                          bells, one for each round; use a longer --runtime";
            return Err(Failure::option("rounds", cli.rounds, reason));
        }
        Ok(Self {
            directory: cli.dir,
            shape: Shape { writers: cli.writers, block_bytes: cli.block as usize, set_bytes },
            runtime: cli.runtime,
            warmup: cli.warmup,
            rounds: cli.rounds,
            contestants: chosen(&cli.only)?,
            json: cli.json,
        })
    }
}

/// The contestants of these names, in the table's order.
fn chosen(only: &[String]) -> Result<Vec<Contestant>, Failure> {
    let known = |name: &String| CONTESTANTS.iter().any(|contestant| contestant.name == name);
    if let Some(name) = only.iter().find(|name| !known(name)) {
        if name == "rocksdb" {
            let help = "build without --no-default-features";
            return Err(Failure::new("--only rocksdb: it was left out of this build", help));
        }
        let names: Vec<&str> = CONTESTANTS.iter().map(|contestant| contestant.name).collect();
        let help = format!("write some of {}", names.join(","));
        return Err(Failure::new(format!("--only {name}: there is no such contestant"), help));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    Ok(CONTESTANTS.iter().filter(|contestant| wanted(contestant.name)).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: &[&str]) -> Result<Plan, Failure> {
        let all = ["peers", "--dir", "x"].iter().chain(options);
        Plan::try_from(Cli::try_parse_from(all).unwrap())
    }

    #[test]
    fn defaults_are_those_of_the_documents() {
        let plan = plan(&[]).unwrap();
        let shape = Shape { writers: 64, block_bytes: 4096, set_bytes: 256 << 20 };
        assert_eq!(plan.shape, shape);
        assert_eq!((plan.shape.keys(), plan.shape.offset(3)), (65_536, 12_288));
        let times = (plan.runtime, plan.warmup, plan.rounds);
        assert_eq!(times, (Duration::from_secs(5), Duration::from_secs(1), 3));
        assert_eq!(plan.contestants.len(), CONTESTANTS.len());
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (options, said) in [
            (["--writers", "0"], "--writers 0"),
            (["--block", "6k"], "--block 6144"),
            (["--block", "2m"], "--block 2097152"),
            (["--working-set", "128k"], "--working-set 131072"),
            (["--working-set", "1025g"], "--working-set 1100585369600: is over 1 TiB"),
            (["--runtime", "0"], "--runtime 0"),
            (["--rounds", "0"], "--rounds 0"),
            (["--rounds", "61"], "--rounds 61: is over 60"),
            (["--only", "sled"], "--only sled"),
        ] {
            let line = plan(&options).unwrap_err().line();
            assert!(line.starts_with(said), "{line}");
        }
    }

    #[test]
    fn a_set_that_memory_cannot_hold_is_refused() {
        let plan = plan(&["--only", "redb", "--working-set", "1g"]).unwrap();
        assert!(plan.check_memory(8 << 30).is_ok());
        let line = plan.check_memory(4 << 30).unwrap_err().line();
        let said = "--working-set 1073741824: the contestants keep 4,3";
        assert!(line.starts_with(said) && line.contains("4,096 MiB are available"), "{line}");
    }

    #[test]
    fn names_choose_contestants_in_the_order_of_the_table() {
        let plan = plan(&["--only", "bare-direct,dynamicfs-threads"]).unwrap();
        let names: Vec<&str> = plan.contestants.iter().map(|one| one.name).collect();
        assert_eq!(names, ["dynamicfs-threads", "bare-direct"]);
    }
}
