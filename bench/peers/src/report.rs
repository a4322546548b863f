//! The table, and the same figures as JSON.

use serde::Serialize;

use crate::args::Plan;
use crate::contest::{Contest, Entry};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::units::{show_count, show_size};

/// The first row of the table of contestants: the others are compared with it.
const REFERENCE: &str = "dynamicfs-threads";
const NS_PER_US: f64 = 1e3;
const NS_PER_S: f64 = 1e9;

/// What is told of one contestant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Who.
    pub(crate) name: &'static str,
    /// Writes per second: median of the rounds; none where no round was measured.
    pub(crate) rate: Option<f64>,
    /// The slowest and the fastest round.
    pub(crate) rate_min: Option<f64>,
    /// See above.
    pub(crate) rate_max: Option<f64>,
    /// Writes per second of each round.
    pub(crate) rates: Vec<f64>,
    /// The median beside that of dynamicfs by threads, where that took part.
    pub(crate) ratio: Option<f64>,
    /// Of one write that began in a window, all rounds together, microseconds.
    pub(crate) latency_us_p50: Option<f64>,
    /// See above.
    pub(crate) latency_us_p99: Option<f64>,
    /// See above.
    pub(crate) latency_us_max: Option<f64>,
    /// Bytes that reached the disk for each byte of the writes that ended.
    pub(crate) bytes_per_byte: Option<f64>,
    /// Bytes that the process gave to the kernel for each such byte.
    pub(crate) process_bytes_per_byte: Option<f64>,
    /// Flushes of the disk for 1,000 writes.
    pub(crate) flushes_per_1000: Option<f64>,
    /// Processor seconds of the process for 1,000 writes.
    pub(crate) cpu_s_per_1000: Option<f64>,
    /// Rounds that began while somebody still worked in the background.
    pub(crate) disturbed_rounds: u32,
    /// Why it took no further part; then its figures are those of the rounds before.
    pub(crate) failure: Option<String>,
}

/// What is told of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Where.
    pub(crate) machine: Machine,
    /// Writers beside each other.
    pub(crate) writers: u32,
    /// Bytes of one write.
    pub(crate) block_bytes: usize,
    /// Bytes that were overwritten.
    pub(crate) working_set_bytes: u64,
    /// Seconds of each window.
    pub(crate) runtime_s: f64,
    /// Seconds before each.
    pub(crate) warmup_s: f64,
    /// How often.
    pub(crate) rounds: u32,
    /// One for each contestant.
    pub(crate) rows: Vec<Row>,
    /// Why the run ended early.
    pub(crate) failure: Option<String>,
}

impl Report {
    /// Of a run that has ended, also early.
    pub(crate) fn new(plan: &Plan, machine: Machine, contest: &Contest) -> Self {
        let row = |entry: &Entry| Row::new(entry, plan.shape.block_bytes);
        let mut rows: Vec<Row> = contest.entries.iter().map(row).collect();
        compare(&mut rows);
        Self {
            machine,
            writers: plan.shape.writers,
            block_bytes: plan.shape.block_bytes,
            working_set_bytes: plan.shape.set_bytes,
            runtime_s: plan.runtime.as_secs_f64(),
            warmup_s: plan.warmup.as_secs_f64(),
            rounds: plan.rounds,
            rows,
            failure: contest.failure.as_ref().map(Failure::line),
        }
    }

    /// As text.
    pub(crate) fn table(&self) -> String {
        let (block, set) = (show_size(self.block_bytes as u64), show_size(self.working_set_bytes));
        let mut text = self.machine.lines();
        text += &format!(
            "durable overwrites of {block} at random in {set} by {} writers: {} of {} s, each \
             after {} s of warm-up\n{}\n\n",
            self.writers,
            if self.rounds == 1 { "1 window".into() } else { format!("{} windows", self.rounds) },
            self.runtime_s,
            self.warmup_s,
            self.machine.counted
        );
        let mut lines = vec![HEADS.map(String::from)];
        lines.extend(self.rows.iter().map(Row::cells));
        text += &aligned(&lines);
        for row in &self.rows {
            text += &row.notes(self.rounds);
        }
        text
    }
}

/// Behind the name of a row whose windows may have somebody else's work in them.
const DISTURBED: &str = "*";
/// Behind the name of a row that failed.
const FAILED: &str = "!";

const HEADS: [&str; 10] = [
    "",
    "writes/s",
    "min..max",
    "ratio",
    "p50 us",
    "p99 us",
    "max us",
    "bytes/byte",
    "flushes/1000",
    "cpu s/1000",
];

impl Row {
    fn new(entry: &Entry, block_bytes: usize) -> Self {
        let latency = &entry.latency;
        let us = |ns: u64| (!latency.is_empty()).then_some(ns as f64 / NS_PER_US);
        let writes = entry.ended as f64;
        let for_each = |cost: u64, of: f64| (entry.ended > 0).then_some(cost as f64 / of);
        let (bytes, thousands) = (writes * block_bytes as f64, writes / 1_000.0);
        Self {
            name: entry.contestant.name,
            rate: median(&entry.rates),
            rate_min: entry.rates.iter().copied().reduce(f64::min),
            rate_max: entry.rates.iter().copied().reduce(f64::max),
            rates: entry.rates.clone(),
            ratio: None,
            latency_us_p50: us(latency.value_at_quantile(0.5)),
            latency_us_p99: us(latency.value_at_quantile(0.99)),
            latency_us_max: us(latency.max()),
            bytes_per_byte: for_each(entry.cost.written_bytes, bytes),
            process_bytes_per_byte: for_each(entry.cost.process_bytes, bytes),
            flushes_per_1000: entry.cost.flushes.and_then(|count| for_each(count, thousands)),
            cpu_s_per_1000: for_each(entry.cost.cpu_ns, thousands * NS_PER_S),
            disturbed_rounds: entry.disturbed,
            failure: entry.failure.as_ref().map(Failure::line),
        }
    }

    /// The name, with a mark for each note.
    fn marked_name(&self) -> String {
        let disturbed = if self.disturbed_rounds > 0 { DISTURBED } else { "" };
        let failed = if self.failure.is_some() { FAILED } else { "" };
        format!("{}{disturbed}{failed}", self.name)
    }

    /// The lines below the table that explain the marks.
    fn notes(&self, rounds: u32) -> String {
        let (name, mut text) = (self.name, String::new());
        if self.disturbed_rounds > 0 {
            text += &format!(
                "{DISTURBED} {name}: somebody still worked in the background before {} of {rounds} \
                 windows\n",
                self.disturbed_rounds
            );
        }
        if self.failure.is_some() {
            let measured = self.rates.len();
            text += &format!("{FAILED} {name}: failed, after {measured} of {rounds} windows\n");
        }
        text
    }

    fn cells(&self) -> [String; 10] {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let range = self.rate_min.zip(self.rate_max);
        [
            self.marked_name(),
            or_dash(self.rate.map(show_count)),
            or_dash(range.map(|(min, max)| format!("{}..{}", show_count(min), show_count(max)))),
            or_dash(self.ratio.map(|ratio| format!("{ratio:.2}"))),
            or_dash(self.latency_us_p50.map(show_count)),
            or_dash(self.latency_us_p99.map(show_count)),
            or_dash(self.latency_us_max.map(show_count)),
            or_dash(self.bytes_per_byte.map(|bytes| format!("{bytes:.2}"))),
            or_dash(self.flushes_per_1000.map(|count| format!("{count:.1}"))),
            or_dash(self.cpu_s_per_1000.map(|seconds| format!("{seconds:.4}"))),
        ]
    }
}

/// Fills in the ratios.
fn compare(rows: &mut [Row]) {
    let reference = rows.iter().find(|row| row.name == REFERENCE).and_then(|row| row.rate);
    let Some(reference) = reference.filter(|rate| *rate > 0.0) else { return };
    rows.iter_mut().for_each(|row| row.ratio = row.rate.map(|rate| rate / reference));
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => None,
        odd if odd.len() % 2 == 1 => Some(odd[odd.len() / 2]),
        even => Some(f64::midpoint(even[even.len() / 2 - 1], even[even.len() / 2])),
    }
}

/// Columns of equal width: the first to the left, the others to the right.
fn aligned<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let (name, numbers) = (&line[0], line.iter().zip(widths).skip(1));
        let numbers: Vec<String> = numbers.map(|(cell, width)| format!("{cell:>width$}")).collect();
        text += &format!("{name:<0$}  {1}\n", widths[0], numbers.join("  "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, rate: f64) -> Row {
        Row {
            name,
            rate: Some(rate),
            rate_min: Some(rate),
            rate_max: Some(rate),
            rates: vec![rate],
            ratio: None,
            latency_us_p50: Some(1.0),
            latency_us_p99: Some(2.0),
            latency_us_max: None,
            bytes_per_byte: Some(1.5),
            process_bytes_per_byte: Some(1.0),
            flushes_per_1000: None,
            cpu_s_per_1000: Some(0.01),
            disturbed_rounds: 0,
            failure: None,
        }
    }

    #[test]
    fn a_median_is_in_the_middle() {
        for (values, middle) in [
            (&[][..], None),
            (&[3.0], Some(3.0)),
            (&[5.0, 1.0], Some(3.0)),
            (&[9.0, 1.0, 2.0], Some(2.0)),
            (&[1.0, 100.0, 3.0, 2.0], Some(2.5)),
        ] {
            assert_eq!(median(values), middle, "{values:?}");
        }
    }

    #[test]
    fn ratios_are_those_to_dynamicfs_by_threads() {
        let mut rows = [row("redb", 50.0), row(REFERENCE, 200.0)];
        compare(&mut rows);
        assert_eq!(rows.map(|row| row.ratio), [Some(0.25), Some(1.0)]);
        let mut rows = [row("redb", 50.0)];
        compare(&mut rows);
        assert_eq!(rows[0].ratio, None);
    }

    #[test]
    fn columns_are_aligned() {
        let lines = [["", "writes"], ["dynamicfs", "12"]].map(|line| line.map(String::from));
        assert_eq!(aligned(&lines), "           writes\ndynamicfs      12\n");
        let cells = row("redb", 1234.0).cells();
        assert_eq!([&cells[1], &cells[3], &cells[4], &cells[6]], ["1,234", "-", "1", "-"]);
    }

    #[test]
    fn marks_are_explained() {
        let clean = row("redb", 1.0);
        assert_eq!((clean.marked_name(), clean.notes(3)), ("redb".into(), String::new()));
        let failure = Some("redb: a write: disk full".into());
        let marked = Row { disturbed_rounds: 1, failure, ..clean };
        assert_eq!(marked.marked_name(), "redb*!");
        let notes = "* redb: somebody still worked in the background before 1 of 3 windows\n\
                     ! redb: failed, after 1 of 3 windows\n";
        assert_eq!(marked.notes(3), notes);
    }
}
