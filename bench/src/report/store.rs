//! The storage engine's side of a run: commits, flushes, bytes, from its counters at both edges of
//! the window.

use dynamicfs::EngineMetrics;
use dynamicfs::store::domain::{DomainCounters, DomainStatus};
use serde::Serialize;

use super::ratio;
use super::table::duration;
use crate::args::{Clients, DurabilityWord};

/// What a run asked of a pool, and what the pool did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoreReport {
    /// The pool's disk.
    pub path: String,
    /// Commit domains.
    pub domains: u16,
    /// Bytes of each domain's journal.
    pub journal_bytes: u64,
    /// Inodes of the run.
    pub inodes: u32,
    /// Bytes of each, all written before the run.
    pub inode_bytes: u64,
    /// When a write was answered.
    pub durability: DurabilityWord,
    /// What a job was.
    pub clients: Clients,
    /// In the window, all domains together.
    pub counts: StoreCounts,
    /// What follows from them.
    pub rates: StoreRates,
    /// Where the records were.
    pub records: RecordTimes,
}

/// Times of what the engine gives class `Critical`: records with their flushes, and in a journal
/// that is nearly full also the writes that make room. A commit takes no less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RecordTimes {
    /// In the engine's queue.
    pub queue_ns_p50: u64,
    /// From there to the completion of the flush.
    pub device_ns_p50: u64,
    /// The same.
    pub device_ns_p99: u64,
}

/// Counters of all domains over a window. The names are those of [`DomainCounters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StoreCounts {
    /// Nanoseconds between the two looks.
    pub elapsed_ns: u64,
    /// Commits that became durable.
    pub group_commits: u64,
    /// Requests of those.
    pub group_commit_ops: u64,
    /// Flushes linked to records of all kinds.
    pub record_flushes: u64,
    /// Of these, flushes of batches: without those of seals and checkpoints.
    pub batch_flushes: u64,
    /// Batches whose records were durable by themselves, without a flush.
    pub batch_dsyncs: u64,
    /// Flushes of checkpoints and write-back.
    pub other_flushes: u64,
    /// Bytes of records.
    pub journal_bytes: u64,
    /// Bytes of data written directly.
    pub data_bytes: u64,
    /// Bytes written home from records.
    pub write_back_bytes: u64,
    /// Bytes of metadata pages.
    pub page_bytes: u64,
    /// Bytes that callers wrote.
    pub caller_bytes: u64,
    /// Writes of data that the batcher made.
    pub gathered_writes: u64,
    /// Checkpoints that became durable.
    pub checkpoints: u64,
    /// Seals.
    pub seals: u64,
    /// Aborts.
    pub aborts: u64,
    /// Batches closed because they were full.
    pub closed_full: u64,
    /// Batches closed because their time was over.
    pub closed_late: u64,
    /// Batches closed because nothing was under way.
    pub closed_idle: u64,
    /// Reads that were done again because the extent changed meanwhile.
    pub reads_again: u64,
    /// Reads that took the lock in the end.
    pub reads_locked: u64,
    /// Blocks that failed their checksum.
    pub corrupt_blocks: u64,
    /// Acquisitions of extent locks.
    pub lock_acquisitions: u64,
    /// Of these, those that had to wait.
    pub lock_contentions: u64,
    /// Bytes in memory that were not at home, at the window's end.
    pub deferred_bytes: u64,
}

/// Ratios of [`StoreCounts`]; zero where there was nothing to divide by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StoreRates {
    /// Commits per second.
    pub commits_per_second: f64,
    /// Requests per commit.
    pub ops_per_commit: f64,
    /// Flushes of batches per commit.
    pub flushes_per_commit: f64,
    /// Flushes of seals, checkpoints and write-back per commit.
    pub other_flushes_per_commit: f64,
    /// Bytes on the disk for each byte of callers.
    pub write_amplification: f64,
    /// How often the domain that wrote least went round its journal.
    pub journal_laps: f64,
}

impl StoreCounts {
    /// What was counted from `before` to `after`, which lie `elapsed_ns` apart.
    #[must_use]
    pub fn between(before: &EngineMetrics, after: &EngineMetrics, elapsed_ns: u64) -> Self {
        let mut all = Self { elapsed_ns, ..Self::default() };
        for (then, now) in before.domains.iter().zip(&after.domains) {
            all.add(then, now);
        }
        all
    }

    fn add(&mut self, then: &DomainStatus, now: &DomainStatus) {
        let counted =
            |of: fn(&DomainCounters) -> u64| of(&now.counters).saturating_sub(of(&then.counters));
        let (seals, checkpoints) = (counted(|c| c.seals), counted(|c| c.checkpoints));
        let record_flushes = counted(|c| c.commit_flushes);
        self.group_commits += counted(|c| c.group_commits);
        self.group_commit_ops += counted(|c| c.group_commit_ops);
        self.record_flushes += record_flushes;
        self.batch_flushes += record_flushes.saturating_sub(seals + checkpoints);
        self.batch_dsyncs += counted(|c| c.commit_dsyncs);
        self.other_flushes += counted(|c| c.other_flushes);
        self.journal_bytes += counted(|c| c.journal_bytes);
        self.data_bytes += counted(|c| c.data_bytes);
        self.write_back_bytes += counted(|c| c.write_back_bytes);
        self.page_bytes += counted(|c| c.page_bytes);
        self.caller_bytes += counted(|c| c.caller_bytes);
        self.gathered_writes += counted(|c| c.gathered_writes);
        self.checkpoints += checkpoints;
        self.seals += seals;
        self.aborts += counted(|c| c.aborts);
        self.closed_full += counted(|c| c.closed_full);
        self.closed_late += counted(|c| c.closed_late);
        self.closed_idle += counted(|c| c.closed_idle);
        self.reads_again += counted(|c| c.reads_again);
        self.reads_locked += counted(|c| c.reads_locked);
        self.corrupt_blocks += counted(|c| c.corrupt_blocks);
        self.lock_acquisitions += now.locks.lock_acquisitions - then.locks.lock_acquisitions;
        self.lock_contentions += now.locks.lock_contentions - then.locks.lock_contentions;
        self.deferred_bytes += now.deferred_blocks * 4096;
    }

    /// Bytes that went to the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.journal_bytes + self.data_bytes + self.write_back_bytes + self.page_bytes
    }
}

impl StoreRates {
    /// Of these counts; `journal_laps` as [`journal_laps`] found them.
    #[must_use]
    pub fn of(counts: &StoreCounts, journal_laps: f64) -> Self {
        let (commits, seals) = (counts.group_commits, counts.record_flushes - counts.batch_flushes);
        Self {
            commits_per_second: super::per_second(commits, counts.elapsed_ns),
            ops_per_commit: ratio(counts.group_commit_ops, commits),
            flushes_per_commit: ratio(counts.batch_flushes, commits),
            other_flushes_per_commit: ratio(counts.other_flushes + seals, commits),
            write_amplification: ratio(counts.disk_bytes(), counts.caller_bytes),
            journal_laps,
        }
    }
}

/// How often the domain that wrote least went round its journal.
#[must_use]
pub fn journal_laps(before: &EngineMetrics, after: &EngineMetrics) -> f64 {
    let pairs = before.domains.iter().zip(&after.domains);
    let laps = pairs.map(|(then, now)| {
        ratio(now.counters.journal_bytes - then.counters.journal_bytes, now.journal_bytes)
    });
    laps.min_by(f64::total_cmp).unwrap_or(0.0)
}

/// The report's lines of the table.
pub(super) fn lines(store: &StoreReport) -> Vec<String> {
    let (counts, rates) = (&store.counts, &store.rates);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut lines = vec![format!(
        "{}: {} domains with journals of {:.0} MiB; {} inodes of {:.0} MiB, {} writes",
        store.path,
        store.domains,
        mib(store.journal_bytes),
        store.inodes,
        mib(store.inode_bytes),
        match store.durability {
            DurabilityWord::Committed => "committed",
            DurabilityWord::Buffered => "buffered",
        },
    )];
    if counts.group_commits > 0 {
        lines.push(format!(
            "{:.0} commits/s   {:.2} ops/commit   {:.3} flushes/commit, {:.3} others   closed \
             idle {} full {} late {}",
            rates.commits_per_second,
            rates.ops_per_commit,
            rates.flushes_per_commit,
            rates.other_flushes_per_commit,
            counts.closed_idle,
            counts.closed_full,
            counts.closed_late,
        ));
        lines.push(format!(
            "MiB: journal {:.1} data {:.1} write-back {:.1} pages {:.1}, callers {:.1}: write \
             amplification {:.2}",
            mib(counts.journal_bytes),
            mib(counts.data_bytes),
            mib(counts.write_back_bytes),
            mib(counts.page_bytes),
            mib(counts.caller_bytes),
            rates.write_amplification,
        ));
        lines.push(format!(
            "records with their flushes: p50 {} p99 {} at the device, p50 {} in the queue",
            duration(store.records.device_ns_p50),
            duration(store.records.device_ns_p99),
            duration(store.records.queue_ns_p50),
        ));
        lines.push(format!(
            "{} checkpoints, {} seals, {:.1} laps of the journal, {:.1} MiB in memory alone at \
             the end",
            counts.checkpoints,
            counts.seals,
            rates.journal_laps,
            mib(counts.deferred_bytes),
        ));
    }
    let odd = [
        ("reads made again", counts.reads_again),
        ("reads under the lock", counts.reads_locked),
        ("blocks with a wrong checksum", counts.corrupt_blocks),
        ("aborts", counts.aborts),
        ("commits by DSYNC", counts.batch_dsyncs),
    ];
    let odd: Vec<String> = odd
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    if !odd.is_empty() {
        lines.push(odd.join(", "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicfs::Metrics;

    fn metrics(domains: &[DomainCounters]) -> EngineMetrics {
        let status = |counters: &DomainCounters| DomainStatus {
            counters: counters.clone(),
            journal_bytes: 1 << 20,
            deferred_blocks: 2,
            ..DomainStatus::default()
        };
        let io = Metrics { disks: Vec::new(), reactors: Vec::new() };
        EngineMetrics { domains: domains.iter().map(status).collect(), io }
    }

    #[test]
    fn a_window_is_the_difference_of_all_domains() {
        let early =
            DomainCounters { group_commits: 10, commit_flushes: 20, ..DomainCounters::default() };
        let late = DomainCounters {
            group_commits: 110,
            group_commit_ops: 800,
            commit_flushes: 125,
            seals: 2,
            checkpoints: 3,
            other_flushes: 5,
            journal_bytes: 3 << 20,
            data_bytes: 1 << 20,
            write_back_bytes: 2 << 20,
            page_bytes: 1 << 19,
            caller_bytes: 4 << 20,
            ..early.clone()
        };
        let idle = DomainCounters::default();
        let before = metrics(&[early.clone(), idle.clone()]);
        let after = metrics(&[late.clone(), idle]);
        let counts = StoreCounts::between(&before, &after, 500_000_000);
        assert_eq!(
            (counts.group_commits, counts.record_flushes, counts.batch_flushes),
            (100, 105, 100)
        );
        assert_eq!((counts.disk_bytes(), counts.deferred_bytes), ((6 << 20) + (1 << 19), 16 << 10));
        let rates = StoreRates::of(&counts, journal_laps(&before, &after));
        let expected = StoreRates {
            commits_per_second: 200.0,
            ops_per_commit: 8.0,
            flushes_per_commit: 1.0,
            other_flushes_per_commit: 0.1,
            write_amplification: 1.625,
            journal_laps: 0.0,
        };
        assert_eq!(rates, expected, "the idle domain has not gone round");
        assert_eq!(journal_laps(&metrics(&[early]), &metrics(&[late])), 3.0);
    }

    #[test]
    fn nothing_done_is_no_nan() {
        let idle = metrics(&[DomainCounters::default()]);
        let counts = StoreCounts::between(&idle, &idle, 0);
        assert_eq!(StoreRates::of(&counts, journal_laps(&idle, &idle)), StoreRates::default());
    }
}
