//! Durable writes through the storage engine beside the bare mechanism: same disk, same bytes,
//! same span, in alternation, every other round the other way round.
//!
//! Both sides overwrite the same disk, so each round makes a new pool on it, fills its inode, and
//! runs the engine's rows; the bare rows then overwrite the span that comes first on the disk, pool
//! or not. A file must have been written before: a first write makes the file system write too.

mod bare;
mod show;

use std::sync::Arc;
use std::time::Duration;

use dynamicfs::{Durability, EngineConfig, InodeId, Overwrite, StorageEngine};

use crate::args::{Clients, FormatFill, Pattern};
use crate::compare::random_reads;
use crate::failure::Failure;
use crate::load::Window;
use crate::load::store::{Clock, StoreOrder};
use crate::output::deliver;
use crate::plan::{CompareDurablePlan, JobPlan};
use crate::report::latency::Latency;
use crate::report::store::{StoreCounts, StoreRates, journal_laps};
use crate::run::parts::latency;
use crate::session;
use crate::store::pool::{self, request_failure};
use crate::store::{make_inodes, remove_inodes, start};
use crate::stream::Stream;

/// From the start of the clients to the opening of their window.
const RAMP: Duration = Duration::from_millis(200);
/// The working set, where nobody said: this many times the journals.
const JOURNALS_DEFAULT: u64 = 16;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// A write and an fdatasync, linked, on a ring; one writer.
    Ring,
    /// The two system calls, O_DIRECT.
    Calls(Writers),
    /// The two system calls through the page cache.
    Cached(Writers),
    /// The storage engine.
    Engine(Clients, Writers),
}

/// How many write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// One.
    One,
    /// As many as the plan says.
    Many,
}

/// The rows, bare ones first.
const ROWS: [Row; 9] = [
    Row::Ring,
    Row::Calls(Writers::One),
    Row::Calls(Writers::Many),
    Row::Cached(Writers::Many),
    Row::Engine(Clients::Threads, Writers::One),
    Row::Engine(Clients::Reactor, Writers::One),
    Row::Engine(Clients::Threads, Writers::Many),
    Row::Engine(Clients::Tasks, Writers::Many),
    Row::Engine(Clients::Reactor, Writers::Many),
];

/// One row of one round.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// Writes per second.
    pub rate: f64,
    /// Of one write, by a writer that does one at a time.
    pub latency: Latency,
    /// Processor time of the whole process for each write, nanoseconds: the one figure that a
    /// machine with other work on it leaves comparable.
    pub cpu_ns: f64,
    /// What the pool did; zeroes on the bare side.
    pub counts: StoreCounts,
    /// What follows from that.
    pub rates: StoreRates,
}

/// What all rounds share.
struct Contest<'a> {
    plan: &'a CompareDurablePlan,
    config: EngineConfig,
    /// Bytes that are overwritten.
    span: u64,
}

/// Carries out `compare-durable`.
///
/// # Errors
/// [`Failure`], by what went wrong.
pub fn execute(plan: &CompareDurablePlan) -> Result<(), Failure> {
    let contest = Contest::new(plan)?;
    let mut rounds = Vec::new();
    for number in 0..plan.rounds {
        let mut round: Vec<(Row, Side)> = Vec::new();
        if number % 2 == 0 {
            contest.bare(&mut round)?;
            contest.engine(&mut round)?;
        } else {
            contest.engine(&mut round)?;
            contest.bare(&mut round)?;
        }
        rounds.push(round);
    }
    let text = match plan.json {
        true => show::json_text(plan, contest.span, &rounds),
        false => show::table(plan, contest.span, &rounds),
    };
    deliver(&text, None)
}

impl<'a> Contest<'a> {
    /// Asks the write gate, once for all rounds, and makes a first pool to learn its size.
    fn new(plan: &'a CompareDurablePlan) -> Result<Self, Failure> {
        let mut config =
            pool::configuration(plan.pool.as_deref(), std::slice::from_ref(&plan.disk))?;
        config.pool.domains.get_or_insert(1);
        config.journal.mib_per_domain.get_or_insert(plan.journal_mib);
        let room = u64::from(plan.block_bytes.max(4096)) * u64::from(plan.writers) + (16 << 20);
        let arena = room.div_ceil(1 << 20) as u32;
        config.io.memory.arena_mib_per_node = config.io.memory.arena_mib_per_node.max(arena);
        let consent = pool::Consent { destroy: &plan.destroy, force: plan.force };
        let disks = std::slice::from_ref(&plan.disk);
        session::clear_for_writing(disks, consent.destroy, consent.force)?;
        let mut contest = Self { plan, config, span: 0 };
        let engine = contest.open()?;
        let status = engine.status();
        pool::close(&engine)?;
        let status = status.map_err(|error| request_failure("the pool does not answer", &error))?;
        let journals = u64::from(status.pool.domains) * status.pool.journal_bytes;
        let block = u64::from(plan.block_bytes);
        let wanted = plan.size.unwrap_or(JOURNALS_DEFAULT * journals) / block * block;
        // What a commit replaces is free only when it is durable.
        let most = status.free_bytes() / 4 * 3;
        if wanted < block || wanted > most {
            let reason = format!("the pool has room for {most} bytes of working set");
            let help = "use a larger disk, a smaller --journal, or another --size";
            return Err(Failure::usage("size", &wanted.to_string(), &reason, help));
        }
        contest.span = wanted;
        Ok(contest)
    }

    /// A new pool. What is on the disk was given up at the start.
    fn open(&self) -> Result<Arc<StorageEngine>, Failure> {
        pool::make(&self.config, FormatFill::Quick, Overwrite::Yes)?;
        Ok(Arc::new(pool::open(self.config.clone())?))
    }

    fn writers(&self, writers: Writers) -> u32 {
        match writers {
            Writers::One => 1,
            Writers::Many => self.plan.writers,
        }
    }

    fn stream(&self, writer: u32) -> Stream {
        let block = u64::from(self.plan.block_bytes);
        Stream::new(&self.job(), 0, self.span / block, writer)
    }

    fn job(&self) -> JobPlan {
        let reads = random_reads(self.plan.block_bytes, 1);
        JobPlan { name: "randwrite".into(), pattern: Pattern::RandWrite, read_percent: 0, ..reads }
    }

    fn bare(&self, round: &mut Vec<(Row, Side)>) -> Result<(), Failure> {
        for row in ROWS {
            let side = match row {
                Row::Engine(..) => continue,
                Row::Ring => bare::ring(self)?,
                Row::Calls(writers) => bare::calls(self, writers, bare::Cache::Bypassed)?,
                Row::Cached(writers) => bare::calls(self, writers, bare::Cache::Used)?,
            };
            round.push((row, side));
        }
        Ok(())
    }

    fn engine(&self, round: &mut Vec<(Row, Side)>) -> Result<(), Failure> {
        let engine = self.open()?;
        let inodes = make_inodes(&engine, 1, self.span)?;
        for row in ROWS {
            if let Row::Engine(clients, writers) = row {
                round.push((row, self.engine_row(&engine, inodes[0], clients, writers)?));
            }
        }
        remove_inodes(&engine, &inodes)?;
        pool::close(&engine)
    }

    fn engine_row(
        &self,
        engine: &Arc<StorageEngine>,
        inode: InodeId,
        clients: Clients,
        writers: Writers,
    ) -> Result<Side, Failure> {
        let metrics = || {
            engine.metrics().map_err(|error| request_failure("the pool does not answer", &error))
        };
        let clock = Clock::start();
        let streams: Vec<Stream> = (0..self.writers(writers)).map(|n| self.stream(n)).collect();
        let from_ns = clock.now_ns() + RAMP.as_nanos() as u64;
        let until_ns = from_ns + self.plan.runtime.as_nanos() as u64;
        let orders = streams.into_iter().zip(0..).map(|(stream, seed)| StoreOrder {
            inode,
            stream,
            block_bytes: self.plan.block_bytes,
            durability: Durability::Committed,
            window: Window { from_ns, until_ns, ios_max: u64::MAX },
            clock,
            seed,
        });
        let going = start(engine, orders.collect(), clients, 1)?;
        std::thread::sleep(Duration::from_nanos(from_ns.saturating_sub(clock.now_ns())));
        let (before, cpu_before) = (metrics()?, process_cpu_ns());
        std::thread::sleep(Duration::from_nanos(until_ns.saturating_sub(clock.now_ns())));
        let (after, cpu_after) = (metrics()?, process_cpu_ns());
        while going.results.iter().any(|result| !result.is_done()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut side = Side::default();
        for result in going.finish()? {
            if let Some(first) = result.failure() {
                let (failed, done) = (result.failed.get(), result.tallies[1].ios.get());
                return Err(Failure::Io { failed, total: failed + done, first: first.message });
            }
            side.latency.absorb(&latency(&result.tallies[1].total.snapshot()));
        }
        let writes = side.latency.count().max(1) as f64;
        side.rate = side.latency.count() as f64 / self.plan.runtime.as_secs_f64();
        side.cpu_ns = cpu_after.saturating_sub(cpu_before) as f64 / writes;
        side.counts = StoreCounts::between(&before, &after, until_ns - from_ns);
        side.rates = StoreRates::of(&side.counts, journal_laps(&before, &after));
        Ok(side)
    }
}

/// Processor time of all threads of this process so far, the kernel's workers for it included.
fn process_cpu_ns() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let time = |time: nix::sys::time::TimeVal| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_usec() as u64 * 1_000
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |used| time(used.user_time()) + time(used.system_time()))
}
