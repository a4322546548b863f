//! What has a target, held against it.

use serde::{Deserialize, Serialize};

use crate::engine::control::snapshot::{Health, Snapshot};
use crate::io::op::Priority;

/// Lock acquisitions, commits and bytes below which a share says nothing.
const LOCKS_MIN: u64 = 1_000;
const COMMITS_MIN: u64 = 100;
const BYTES_MIN: u64 = 16 << 20;
/// Writers from which batches are expected.
const WRITERS: u64 = 8;

/// A value and what it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What.
    pub name: String,
    /// How much.
    pub value: f64,
    /// What it should be, in words.
    pub target: String,
    /// Whether it is.
    pub outcome: Outcome,
    /// If not, what that may come from.
    pub advice: Option<String>,
}

/// How a value stands to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Met,
    /// Not as it should be.
    Missed,
    /// Too little was done for it to say anything.
    NoLoad,
}

struct Rule {
    name: &'static str,
    value: f64,
    target: String,
    met: bool,
    /// Whether enough was done.
    told: bool,
    advice: &'static str,
}

impl Rule {
    fn judge(self) -> Verdict {
        let outcome = match (self.told, self.met) {
            (false, _) => Outcome::NoLoad,
            (true, true) => Outcome::Met,
            (true, false) => Outcome::Missed,
        };
        let advice = (outcome == Outcome::Missed).then(|| self.advice.to_owned());
        let Rule { name, value, target, .. } = self;
        Verdict { name: name.to_owned(), value, target, outcome, advice }
    }
}

pub(super) fn of(snapshot: &Snapshot) -> Vec<Verdict> {
    let rules = commits(snapshot).into_iter().chain(queues(snapshot)).chain(states(snapshot));
    rules.map(Rule::judge).collect()
}

fn commits(snapshot: &Snapshot) -> [Rule; 4] {
    let metrics = &snapshot.metrics;
    let slots = f64::from(snapshot.pool.members / snapshot.pool.mirrors.max(1));
    // A writer that is alone shares its commits with nobody.
    let many = metrics.avg_group_commit_ops > 5.0 || metrics.pending >= WRITERS;
    let commits = metrics.group_commits >= COMMITS_MIN;
    [
        Rule {
            name: "lock_contention_ratio",
            value: metrics.lock_contention_ratio,
            target: "< 0.05".to_owned(),
            met: metrics.lock_contention_ratio < 0.05,
            told: metrics.lock_acquisitions >= LOCKS_MIN,
            advice: "callers write the same extents at once",
        },
        Rule {
            name: "avg_group_commit_ops",
            value: metrics.avg_group_commit_ops,
            target: format!("> 5 with {WRITERS} writers or more"),
            met: metrics.avg_group_commit_ops > 5.0,
            told: commits && many,
            advice: "commits are faster than requests come; commit.mode = \"linger\" makes larger \
                     ones",
        },
        Rule {
            name: "flushes_per_commit",
            value: metrics.flushes_per_commit,
            target: format!("<= {slots}, one a slot"),
            // Counted when its flush ends, and as a commit a moment later.
            met: metrics.flushes_per_commit <= slots * 1.01,
            told: commits,
            advice: "commits failed and were taken back",
        },
        Rule {
            name: "write_amplification",
            value: metrics.write_amplification,
            target: "<= 2.5".to_owned(),
            met: metrics.write_amplification <= 2.5,
            told: metrics.caller_bytes >= BYTES_MIN && many,
            advice: "writes smaller than 4 KiB, or a journal so short that pages are written often",
        },
    ]
}

fn queues(snapshot: &Snapshot) -> [Rule; 3] {
    let metrics = &snapshot.metrics;
    let disks = &snapshot.disks;
    let room: u64 =
        disks.iter().map(|disk| u64::from(disk.lanes) * u64::from(disk.queue_max)).sum();
    let class = Priority::Critical.name();
    let waits = disks.iter().filter_map(|disk| Some((disk.classes.get(class)?, disk)));
    let p99 = |wait: &crate::io::metrics::ClassSnapshot| wait.wait.quantile_ns(0.99);
    let counted = waits.clone().any(|(critical, _)| critical.io_ops_completed >= COMMITS_MIN);
    let within = |(critical, disk): (&_, &crate::engine::control::snapshot::DiskView)| {
        p99(critical) <= disk.max_wait_ns.get(class).copied().unwrap_or(u64::MAX)
    };
    let longest = waits.clone().map(|(critical, _)| p99(critical)).max().unwrap_or(0);
    [
        Rule {
            name: "io_queue_length",
            value: metrics.io_queue_length as f64,
            target: format!("< {}, half of what may wait", room / 2),
            met: metrics.io_queue_length < room / 2,
            told: true,
            advice: "the disks cannot keep up with what is asked of them",
        },
        Rule {
            name: "shed",
            value: metrics.shed as f64,
            target: "0 requests refused".to_owned(),
            met: metrics.shed == 0,
            told: true,
            advice: "queues were full; callers were told so",
        },
        Rule {
            name: "critical_wait_p99_us",
            value: longest as f64 / 1e3,
            target: "below the class's longest wait".to_owned(),
            met: waits.clone().all(within),
            told: counted,
            advice: "scheduler.depth is higher than the device needs; calibrate it",
        },
    ]
}

fn states(snapshot: &Snapshot) -> [Rule; 4] {
    let members = f64::from(snapshot.pool.members);
    let whole = |health: Health| !matches!(health, Health::Behind | Health::Out);
    let in_sync = snapshot.disks.iter().filter(|disk| whole(disk.health)).count() as f64;
    let ill = |health: Health| matches!(health, Health::Slow | Health::Failing);
    let ill = snapshot.disks.iter().filter(|disk| ill(disk.health)).count() as f64;
    let corrupt = snapshot.metrics.corrupt_blocks as f64;
    let serving = snapshot
        .domains
        .iter()
        .filter(|domain| domain.now.as_ref().is_some_and(|now| now.stopped.is_none()));
    let serving = serving.count();
    [
        Rule {
            name: "domains_serving",
            value: serving as f64,
            target: format!("{} domains", snapshot.domains.len()),
            met: serving == snapshot.domains.len() && snapshot.labels_failed.is_none(),
            told: true,
            advice: "a disk failed; see what stands with the domains. Close the engine, and open \
                     it again",
        },
        Rule {
            name: "disks_in_sync",
            value: in_sync,
            target: format!("{members} disks"),
            met: in_sync >= members,
            told: true,
            advice: "`dynamicfs disk list` names them, `disk replace` puts a new one in a place",
        },
        Rule {
            name: "disks_slow_or_failing",
            value: ill,
            target: "0 disks".to_owned(),
            met: ill == 0.0,
            told: true,
            advice: "look at the disk's health and cables; replace it",
        },
        Rule {
            name: "corrupt_blocks",
            value: corrupt,
            target: "0 blocks".to_owned(),
            met: corrupt == 0.0,
            told: true,
            advice: "no disk has them right; `dynamicfs scrub` names all of them",
        },
    ]
}
