//! The rounds as a table and as JSON. A ratio is the median of the rounds' own ratios.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::args::Clients;
use crate::compare::median;
use crate::compare_durable::{ROWS, Row, Side, Writers};
use crate::plan::CompareDurablePlan;

type Round = Vec<(Row, Side)>;

const BARE_ONE: [Row; 2] = [Row::Ring, Row::Calls(Writers::One)];
const BARE_MANY: [Row; 2] = [Row::Calls(Writers::Many), Row::Cached(Writers::Many)];

fn name(row: Row) -> (&'static str, Writers) {
    match row {
        Row::Ring => ("ring: write and fdatasync, linked", Writers::One),
        Row::Calls(writers) => ("pwrite, fdatasync; O_DIRECT", writers),
        Row::Cached(writers) => ("pwrite, fdatasync; page cache", writers),
        Row::Engine(Clients::Threads, writers) => ("engine, threads that block", writers),
        Row::Engine(Clients::Tasks, writers) => ("engine, tasks on one thread", writers),
        Row::Engine(Clients::Reactor, writers) => ("engine, tasks on the reactor", writers),
    }
}

fn side(round: &Round, row: Row) -> &Side {
    let found = round.iter().find(|(named, _)| *named == row);
    found.map_or_else(|| unreachable!("a round has every row"), |(_, side)| side)
}

/// The figure that counts: the p50 of one writer, nanoseconds; of many their rate.
fn figure(row: Row, side: &Side) -> f64 {
    match name(row).1 {
        Writers::One => side.latency.percentile_ns(50.0) as f64,
        Writers::Many => side.rate,
    }
}

fn of_rounds(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    median(rounds.iter().map(of))
}

fn ratio(rounds: &[Round], (row, bare): (Row, Row)) -> f64 {
    of_rounds(rounds, |round| figure(row, side(round, row)) / figure(bare, side(round, bare)))
}

/// Each row of the engine with what it is held against.
fn ratios() -> impl Iterator<Item = (Row, Row)> {
    let engine = ROWS.into_iter().filter(|row| matches!(row, Row::Engine(..)));
    engine.flat_map(|row| {
        let bare = match name(row).1 {
            Writers::One => BARE_ONE,
            Writers::Many => BARE_MANY,
        };
        bare.into_iter().map(move |bare| (row, bare))
    })
}

fn writers(plan: &CompareDurablePlan, row: Row) -> u32 {
    if name(row).1 == Writers::One { 1 } else { plan.writers }
}

pub(super) fn table(plan: &CompareDurablePlan, span: u64, rounds: &[Round]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}: durable random writes of {} bytes over {} MiB, {} rounds of {:.1} s for each row; \
         medians of the rounds",
        plan.disk.display(),
        plan.block_bytes,
        span >> 20,
        plan.rounds,
        plan.runtime.as_secs_f64(),
    );
    let _ = writeln!(
        text,
        "{:<34} {:>7} {:>9} {:>9} {:>9} {:>9}  {:>10} {:>10} {:>6} {:>6}",
        "",
        "writers",
        "/s",
        "p50 us",
        "p99 us",
        "CPU us",
        "ops/commit",
        "flushes/c.",
        "amp.",
        "laps"
    );
    for row in ROWS {
        text += &row_line(plan, row, rounds);
    }
    for (row, bare) in ratios() {
        let _ = writeln!(
            text,
            "{} of {}: {} over {}: {:.3}",
            match name(row).1 {
                Writers::One => "p50",
                Writers::Many => "rate",
            },
            writers(plan, row),
            name(row).0,
            name(bare).0,
            ratio(rounds, (row, bare)),
        );
    }
    let laps = ROWS.into_iter().filter(|row| matches!(row, Row::Engine(_, Writers::Many)));
    let laps = laps.map(|row| of_rounds(rounds, |round| side(round, row).rates.journal_laps));
    let least = laps.fold(f64::INFINITY, f64::min);
    if least < 5.0 {
        let _ = writeln!(
            text,
            "note: the journal went round {least:.1} times only in a window; longer --runtime or \
             a smaller --journal makes it 5"
        );
    }
    text
}

fn row_line(plan: &CompareDurablePlan, row: Row, rounds: &[Round]) -> String {
    let mut text = String::new();
    let of = |pick: fn(&Side) -> f64| of_rounds(rounds, |round| pick(side(round, row)));
    let _ = write!(
        text,
        "{:<34} {:>7} {:>9.0} {:>9.1} {:>9.1} {:>9.1}",
        name(row).0,
        writers(plan, row),
        of(|side| side.rate),
        of(|side| side.latency.percentile_ns(50.0) as f64) / 1e3,
        of(|side| side.latency.percentile_ns(99.0) as f64) / 1e3,
        of(|side| side.cpu_ns) / 1e3,
    );
    if matches!(row, Row::Engine(..)) {
        let _ = write!(
            text,
            "  {:>10.2} {:>10.3} {:>6.2} {:>6.1}",
            of(|side| side.rates.ops_per_commit),
            of(|side| side.rates.flushes_per_commit),
            of(|side| side.rates.write_amplification),
            of(|side| side.rates.journal_laps),
        );
    }
    text + "\n"
}

pub(super) fn json_text(plan: &CompareDurablePlan, span: u64, rounds: &[Round]) -> String {
    let row_value = |row: Row, side: &Side| {
        json!({
            "row": name(row).0,
            "writers": writers(plan, row),
            "writes_per_second": side.rate,
            "p50_ns": side.latency.percentile_ns(50.0),
            "p99_ns": side.latency.percentile_ns(99.0),
            "cpu_ns_per_write": side.cpu_ns,
            "counts": side.counts,
            "rates": side.rates,
        })
    };
    let rounds_value: Vec<Vec<Value>> = rounds
        .iter()
        .map(|round| ROWS.into_iter().map(|row| row_value(row, side(round, row))).collect())
        .collect();
    let ratios: Vec<Value> = ratios()
        .map(|(row, bare)| {
            json!({
                "engine": name(row).0,
                "bare": name(bare).0,
                "writers": writers(plan, row),
                "of": if name(row).1 == Writers::One { "p50" } else { "rate" },
                "ratio": ratio(rounds, (row, bare)),
            })
        })
        .collect();
    let whole = json!({
        "schema_version": 1,
        "disk": plan.disk,
        "block_bytes": plan.block_bytes,
        "span_bytes": span,
        "ratios": ratios,
        "rounds": rounds_value,
    });
    format!("{whole:#}\n")
}
