//! A snapshot for people.

use std::time::Duration;

use dynamicfs::engine::control::Snapshot;
use dynamicfs::engine::control::snapshot::{DiskView, DomainView, Health, ReactorView};
use dynamicfs::engine::control::verdict::{Outcome, Verdict};
use dynamicfs::format::layout::BLOCK_BYTES;
use dynamicfs::io::Priority;
use dynamicfs::io::metrics::ClassSnapshot;
use dynamicfs::metrics::histogram::HistogramSnapshot;
use dynamicfs::store::scrub::{ScrubReport, ScrubState};

use crate::cli::pool::{describe_pool, lines};
use crate::cli::table::{or_dash, size, table};

/// What was counted before, and how long ago.
#[derive(Clone, Copy)]
struct Since<'a> {
    before: Option<&'a Snapshot>,
    seconds: f64,
}

impl<'a> Since<'a> {
    /// Since another snapshot of the same engine, or since it was opened.
    fn new(now: &Snapshot, before: Option<&'a Snapshot>) -> Since<'a> {
        let same = |before: &&Snapshot| {
            let is_later = before.engine.uptime_ns < now.engine.uptime_ns;
            before.engine.pid == now.engine.pid && is_later
        };
        let before = before.filter(same);
        let from_ns = before.map_or(0, |before| before.engine.uptime_ns);
        let took = Duration::from_nanos(now.engine.uptime_ns - from_ns);
        Since { before, seconds: took.as_secs_f64().max(1e-9) }
    }

    /// How much of a counter came in a second.
    fn rate(&self, now: u64, before: Option<u64>) -> f64 {
        now.saturating_sub(before.unwrap_or(0)) as f64 / self.seconds
    }
}

/// A rate, with as many digits as say something.
fn rate(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

fn micros(ns: u64) -> String {
    let us = ns as f64 / 1e3;
    if us >= 10_000.0 { format!("{:.0} ms", us / 1e3) } else { format!("{us:.0} us") }
}

/// An engine that runs.
pub(super) fn running(snapshot: &Snapshot, before: Option<&Snapshot>) -> String {
    let since = Since::new(snapshot, before);
    let up = Duration::from_secs(snapshot.engine.uptime_ns / 1_000_000_000);
    let over = match since.before {
        Some(_) => format!("the last {:.1} s", since.seconds),
        None => "all the time since it was opened".to_owned(),
    };
    let engine = &snapshot.engine;
    let process = format!("{}, version {}, open for {up:?}", engine.pid, engine.version);
    let used = snapshot.capacity_bytes - snapshot.free_bytes.min(snapshot.capacity_bytes);
    let facts = [
        ("process", process),
        ("epoch", snapshot.epoch.to_string()),
        ("used", format!("{} of {}", size(used), size(snapshot.capacity_bytes))),
        ("inodes", snapshot.inodes.to_string()),
        ("a second of", over),
    ];
    let mut text = lines(&format!("pool {}, open", snapshot.pool.pool), &facts);
    text.push('\n');
    text.push_str(&reactors(snapshot, since));
    text.push('\n');
    text.push_str(&disks(snapshot, since));
    text.push('\n');
    text.push_str(&classes(snapshot, since));
    text.push('\n');
    text.push_str(&domains(snapshot, since));
    text.push('\n');
    text.push_str(&verdicts(&snapshot.verdicts));
    text.push_str(&complaints(snapshot));
    text
}

/// A pool that was opened to be looked at.
pub(super) fn opened(snapshot: &Snapshot) -> String {
    let mut text = describe_pool(&snapshot.pool);
    let facts = [
        ("capacity", size(snapshot.capacity_bytes)),
        ("free", size(snapshot.free_bytes)),
        ("inodes", snapshot.inodes.to_string()),
        ("I/O requests", snapshot.metrics.io_ops_completed.to_string()),
    ];
    text.push_str(&lines("opened for this command", &facts));
    text.push('\n');
    text.push_str(&recovered(snapshot));
    text.push_str("\nsince the pool was made:\n");
    text.push_str(&lifetimes(snapshot));
    text.push_str(&complaints(snapshot));
    text
}

fn complaints(snapshot: &Snapshot) -> String {
    let silent = snapshot.domains.iter().filter_map(|domain| {
        let why = domain.silent.as_ref()?;
        Some(format!("domain {}: {why}", domain.domain))
    });
    let stopped = snapshot.domains.iter().filter_map(|domain| {
        let why = domain.now.as_ref()?.stopped.as_ref()?;
        Some(format!("domain {} takes no changes: {why}", domain.domain))
    });
    let labels = snapshot.labels_failed.iter().map(|why| format!("no label can be written: {why}"));
    let waits = snapshot.sync.paused.then(|| "bringing disks into sync is paused".to_owned());
    let all = silent.chain(stopped).chain(labels).chain(waits);
    let notes = all.chain(snapshot.notes.iter().cloned());
    notes.map(|note| format!("note: {note}\n")).collect()
}

fn numbers(of: &[u16]) -> String {
    match of {
        [] => "-".to_owned(),
        of => of.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
    }
}

fn reactors(snapshot: &Snapshot, since: Since<'_>) -> String {
    let row = |(number, reactor): (usize, &ReactorView)| {
        let before = since.before.and_then(|before| before.reactors.get(number));
        let before = before.map(|before| before.counters);
        let now = &reactor.counters;
        let busy = since.rate(now.cpu_ns, before.map(|b| b.cpu_ns)) / 1e7;
        vec![
            number.to_string(),
            match (reactor.cpu_found, reactor.pinned) {
                (Some(cpu), true) => cpu.to_string(),
                (found, _) => format!("{} (not pinned)", or_dash(found.as_ref())),
            },
            or_dash(reactor.node.as_ref()),
            format!("{:.0} %", busy.min(100.0)),
            rate(since.rate(now.submitted, before.map(|b| b.submitted))),
            rate(since.rate(now.enters, before.map(|b| b.enters))),
            rate(since.rate(now.mail, before.map(|b| b.mail))),
            rate(since.rate(now.sleeps, before.map(|b| b.sleeps))),
            if reactor.polled_ring { "yes" } else { "no" }.to_owned(),
            numbers(&reactor.disks),
            numbers(&reactor.domains),
        ]
    };
    let heading = [
        "REACTOR",
        "CPU",
        "NODE",
        "BUSY",
        "I/O /S",
        "SYSCALLS/S",
        "MAIL/S",
        "SLEEPS/S",
        "POLLED",
        "DISKS",
        "DOMAINS",
    ];
    table(&heading, &snapshot.reactors.iter().enumerate().map(row).collect::<Vec<_>>())
}

fn disks(snapshot: &Snapshot, since: Since<'_>) -> String {
    let row = |(number, disk): (usize, &DiskView)| {
        let health = match disk.health {
            Health::Good => "good",
            Health::Behind => "behind",
            Health::Slow => "SLOW",
            Health::Failing => "FAILING",
            Health::Out => "OUT",
        };
        let before = since.before.and_then(|before| before.disks.get(number));
        let member = disk.member.as_ref();
        let queued: u64 = disk.classes.values().map(|class| class.io_queue_length).sum();
        let flushes = |disk: &DiskView| disk.flushes + disk.dsync_writes;
        vec![
            number.to_string(),
            member.map_or("-".to_owned(), |m| format!("{}.{}", m.slot, m.mirror)),
            health.to_owned(),
            size(disk.size_bytes),
            or_dash(disk.node.as_ref()),
            format!("{} x {}", disk.lanes, disk.depth),
            queued.to_string(),
            match member {
                Some(member) if member.read_average_ns > 0 => micros(member.read_average_ns),
                _ => "-".to_owned(),
            },
            rate(since.rate(flushes(disk), before.map(flushes))),
            disk.errors.values().sum::<u64>().to_string(),
            member.map_or("-".to_owned(), |m| m.reads_hedged.to_string()),
            member.map_or("-".to_owned(), |m| size(m.sync_copied * BLOCK_BYTES)),
            disk.path.clone(),
        ]
    };
    let heading = [
        "DISK",
        "PLACE",
        "HEALTH",
        "SIZE",
        "NODE",
        "LANES",
        "QUEUED",
        "READ",
        "FLUSHES/S",
        "ERRORS",
        "HEDGED",
        "COPIED",
        "PATH",
    ];
    table(&heading, &snapshot.disks.iter().enumerate().map(row).collect::<Vec<_>>())
}

/// What came after an earlier histogram; all of it where that is not an earlier one of the same.
fn later(now: &HistogramSnapshot, before: Option<&HistogramSnapshot>) -> HistogramSnapshot {
    match before {
        Some(before) if before.count() <= now.count() => now.since(before),
        _ => now.clone(),
    }
}

fn classes(snapshot: &Snapshot, since: Since<'_>) -> String {
    let mut rows = Vec::new();
    for (number, disk) in snapshot.disks.iter().enumerate() {
        for class in Priority::ALL {
            let Some(now) = disk.classes.get(class.name()) else { continue };
            let before = since.before.and_then(|before| before.disks.get(number));
            let before = before.and_then(|disk| disk.classes.get(class.name()));
            if now.io_ops_completed + now.io_queue_length > 0 {
                rows.push(class_row(number, class, (now, before), since));
            }
        }
    }
    let heading = [
        "DISK",
        "CLASS",
        "QUEUED",
        "OPS/S",
        "BYTES/S",
        "WAIT P50",
        "P99",
        "SERVICE P50",
        "P99",
        "AGED",
        "SPLIT",
        "STOLEN",
        "SHED",
    ];
    table(&heading, &rows)
}

fn class_row(
    disk: usize,
    class: Priority,
    (now, before): (&ClassSnapshot, Option<&ClassSnapshot>),
    since: Since<'_>,
) -> Vec<String> {
    let wait = later(&now.wait, before.map(|before| &before.wait));
    let service = later(&now.service, before.map(|before| &before.service));
    let bytes = since.rate(now.bytes, before.map(|before| before.bytes));
    vec![
        disk.to_string(),
        class.name().to_owned(),
        now.io_queue_length.to_string(),
        rate(since.rate(now.io_ops_completed, before.map(|before| before.io_ops_completed))),
        size(bytes as u64),
        micros(wait.quantile_ns(0.5)),
        micros(wait.quantile_ns(0.99)),
        micros(service.quantile_ns(0.5)),
        micros(service.quantile_ns(0.99)),
        now.aged.to_string(),
        now.split.to_string(),
        now.stolen.to_string(),
        now.shed.to_string(),
    ]
}

fn scrub_of(report: Option<&ScrubReport>, extents: u64) -> String {
    let Some(report) = report else { return "-".to_owned() };
    let percent = (report.extents * 100).checked_div(extents).unwrap_or(100).min(100);
    match report.state {
        ScrubState::Idle => "-".to_owned(),
        ScrubState::Running => format!("{percent} %"),
        ScrubState::Paused => format!("paused at {percent} %"),
        ScrubState::Finished if report.wrong > 0 => format!("{} wrong", report.wrong),
        ScrubState::Finished => "good".to_owned(),
    }
}

fn domains(snapshot: &Snapshot, since: Since<'_>) -> String {
    let row = |(number, domain): (usize, &DomainView)| {
        let Some(now) = &domain.now else {
            let dashes = std::iter::repeat_n("-".to_owned(), 9);
            return [domain.domain.to_string(), domain.reactor.to_string()]
                .into_iter()
                .chain(dashes)
                .collect();
        };
        let before = since.before.and_then(|before| before.domains.get(number)?.now.as_ref());
        let before = before.map(|before| &before.counters);
        let commits = since.rate(now.counters.group_commits, before.map(|b| b.group_commits));
        let ops = since.rate(now.counters.group_commit_ops, before.map(|b| b.group_commit_ops));
        let fill = (now.journal_used_bytes * 100).checked_div(now.journal_bytes).unwrap_or(0);
        vec![
            domain.domain.to_string(),
            domain.reactor.to_string(),
            size(now.free_blocks * BLOCK_BYTES),
            now.extents.to_string(),
            rate(ops),
            rate(commits),
            if commits > 0.0 { format!("{:.1}", ops / commits) } else { "-".to_owned() },
            now.pending.to_string(),
            format!("{fill} %"),
            now.counters.checkpoints.to_string(),
            scrub_of(domain.scrub.as_ref(), now.extents),
        ]
    };
    let heading = [
        "DOMAIN",
        "REACTOR",
        "FREE",
        "EXTENTS",
        "OPS/S",
        "COMMITS/S",
        "OPS EACH",
        "PENDING",
        "JOURNAL",
        "CHECKPOINTS",
        "SCRUB",
    ];
    table(&heading, &snapshot.domains.iter().enumerate().map(row).collect::<Vec<_>>())
}

fn verdicts(of: &[Verdict]) -> String {
    let row = |verdict: &Verdict| {
        let outcome = match verdict.outcome {
            Outcome::Met => "met",
            Outcome::Missed => "MISSED",
            Outcome::NoLoad => "too little load",
        };
        let value = match verdict.value {
            value if value.fract() == 0.0 => format!("{value:.0}"),
            value => format!("{value:.3}"),
        };
        vec![verdict.name.clone(), value, verdict.target.clone(), outcome.to_owned()]
    };
    let heading = ["METRIC", "VALUE", "TARGET", "VERDICT"];
    let mut text = table(&heading, &of.iter().map(row).collect::<Vec<_>>());
    for verdict in of {
        if let Some(advice) = &verdict.advice {
            text.push_str(&format!("{}: {advice}\n", verdict.name));
        }
    }
    text
}

fn recovered(snapshot: &Snapshot) -> String {
    let heading = [
        "DOMAIN", "REACTOR", "FREE", "INODES", "EXTENTS", "SEQUENCE", "RECORDS", "REPLAYED",
        "NOT HOME", "DROPPED",
    ];
    let row = |domain: &DomainView| {
        let (now, recovery) = (domain.now.clone().unwrap_or_default(), &domain.recovery);
        let dropped = recovery.dropped.as_ref();
        vec![
            domain.domain.to_string(),
            domain.reactor.to_string(),
            size(now.free_blocks * BLOCK_BYTES),
            now.inodes.to_string(),
            now.extents.to_string(),
            now.sequence.to_string(),
            recovery.records.to_string(),
            recovery.replayed.to_string(),
            recovery.written_home.to_string(),
            dropped.map_or("-".into(), |(record, why)| format!("{record}: {why}")),
        ]
    };
    table(&heading, &snapshot.domains.iter().map(row).collect::<Vec<_>>())
}

fn lifetimes(snapshot: &Snapshot) -> String {
    let heading =
        ["DOMAIN", "COMMITS", "OPERATIONS", "FLUSHES", "DSYNCS", "CHECKPOINTS", "WRITTEN", "BAD"];
    let row = |domain: &DomainView| {
        let counters = domain.now.as_ref().map(|now| now.lifetime).unwrap_or_default();
        vec![
            domain.domain.to_string(),
            counters.group_commits.to_string(),
            counters.group_commit_ops.to_string(),
            (counters.commit_flushes + counters.other_flushes).to_string(),
            counters.commit_dsyncs.to_string(),
            counters.checkpoints.to_string(),
            size(counters.caller_bytes),
            counters.corrupt_blocks.to_string(),
        ]
    };
    table(&heading, &snapshot.domains.iter().map(row).collect::<Vec<_>>())
}
