//! The report as a table for people: the numbers, the way they took, and what makes them doubtful.

use std::fmt::Write;

use super::latency::Latency;
use super::{DirectionReport, JobReport, LoadKind, ReactorReport, RunReport, per_second, ratio};
use crate::args::{Client, Clients, Target};
use crate::environment::{Device, Environment};
use crate::plan::show;

/// Columns when the user asked for none, or for more than a line holds.
const COLUMNS: [f64; 4] = [50.0, 99.0, 99.9, 99.99];
/// Most percentiles in a line.
const COLUMNS_MAX: usize = 6;

/// The whole table, ending in a line feed.
pub(super) fn render(report: &RunReport) -> String {
    let mut text = heading(report);
    text += &jobs(report);
    text += &engine(report);
    if let Some(store) = &report.store {
        text +=
            &super::store::lines(store).iter().map(|one| line("store", one)).collect::<String>();
    }
    text += &machine(&report.environment);
    for disk in &report.disks {
        text += &line(
            "counted",
            &format!(
                "{}: {} reads, {} writes, {} flushes, {} merges, busy {:.0} %",
                disk.name,
                disk.read_ios,
                disk.write_ios,
                disk.flush_ios,
                disk.read_merges + disk.write_merges,
                disk.util,
            ),
        );
    }
    for warning in &report.warnings {
        text += &line("warning", warning);
    }
    for error in &report.engine.errors {
        let said =
            format!("{} requests failed with {} on {}", error.count, error.kind, error.device);
        text += &line("error", &said);
    }
    text
}

fn heading(report: &RunReport) -> String {
    let since_epoch = report.finished.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let load = match report.load {
        LoadKind::Closed => "closed loop: a stall also stops the requests that would have met it",
        LoadKind::Open => "open loop: latency counts from the scheduled start",
    };
    let client = match report.client {
        Client::Reactor => "made on the reactor",
        Client::Thread => "made on other threads, through tickets",
    };
    let client = match report.store.as_ref().map(|store| store.clients) {
        None => client,
        Some(Clients::Threads) => "made by threads that block",
        Some(Clients::Tasks) => "made by tasks",
        Some(Clients::Reactor) => "made by tasks on the reactor",
    };
    let target = match report.target {
        Target::Raw | Target::Engine => "",
        Target::Nop => "target nop: no disk was touched\n",
    };
    format!(
        "dynamicfs-bench {}   {} UTC   measured {}\n{load}; requests {client}\n{target}\n",
        report.environment.version,
        utc(since_epoch.as_secs()),
        duration(report.elapsed_ns),
    )
}

fn jobs(report: &RunReport) -> String {
    let asked = &report.percentiles;
    let columns: Vec<f64> =
        if asked.len() <= COLUMNS_MAX { asked.clone() } else { COLUMNS.to_vec() };
    let wide = report.jobs.iter().map(|job| job.name.chars().count()).max().unwrap_or(0).max(3);
    let mut text = format!(
        "{:wide$}  {:11}  {:5}  {:>8}  {:>9}  {:>8}",
        "job", "class", "", "IOPS", "MiB/s", "mean"
    );
    for column in &columns {
        text += &format!("  {:>8}", format!("p{column}"));
    }
    text += &format!("  {:>8}\n", "max");
    for job in &report.jobs {
        for (name, direction) in [("read", &job.read), ("write", &job.write)] {
            if direction.total_ios > 0 {
                text += &direction_lines(job, name, direction, &columns, wide);
            }
        }
        text += &job_line(job);
    }
    text + "\n"
}

fn direction_lines(
    job: &JobReport,
    name: &str,
    direction: &DirectionReport,
    columns: &[f64],
    wide: usize,
) -> String {
    let mib = direction.bytes_per_second() / f64::from(1 << 20);
    let mut text = format!(
        "{:wide$}  {:11}  {name:5}  {:>8}  {mib:>9.1}{}\n",
        job.name,
        show::word(if name == "write" { job.priority_write } else { job.priority }),
        scaled(direction.iops()),
        latencies(&direction.total, columns),
    );
    let parts = [("queue", &direction.wait), ("device", &direction.device)];
    for (part, latency) in parts.iter().filter(|(_, latency)| latency.count() > 0) {
        let cells = latencies(latency, columns);
        text += &format!("{:wide$}  {:11}  {:5}  {:>8}  {part:>9}{cells}\n", "", "", "", "");
    }
    let spread = direction.intervals.iops();
    if spread.samples > 1 {
        let _ = writeln!(
            text,
            "{:wide$}  per second: {} to {} IOPS, deviation {:.1} % over {} s",
            "",
            scaled(spread.min),
            scaled(spread.max),
            100.0 * spread.stddev / spread.mean.max(1e-9),
            spread.samples,
        );
    }
    text
}

fn latencies(latency: &Latency, columns: &[f64]) -> String {
    let mut cells = format!("  {:>8}", duration(latency.mean_ns() as u64));
    for column in columns {
        cells += &format!("  {:>8}", duration(latency.percentile_ns(*column)));
    }
    cells + &format!("  {:>8}", duration(latency.max_ns()))
}

/// What went wrong in a job, and what making its load cost.
fn job_line(job: &JobReport) -> String {
    let ios = job.read.total_ios + job.write.total_ios;
    let odd = |of: fn(&DirectionReport) -> u64| of(&job.read) + of(&job.write);
    let mut said = Vec::new();
    if ios == 0 {
        said.push(format!("{}: no request completed", job.name));
    }
    for (count, what) in [(odd(|side| side.short_ios), "short"), (odd(|d| d.dropped_ios), "shed")] {
        if count > 0 {
            said.push(format!("{}: {count} requests were {what}", job.name));
        }
    }
    if job.user_ns + job.system_ns > 0 && ios > 0 {
        let cost = ratio(job.user_ns + job.system_ns, ios);
        said.push(format!("{}: its threads took {cost:.0} ns of processor per request", job.name));
    }
    said.iter().map(|one| line("", one)).collect()
}

fn engine(report: &RunReport) -> String {
    let cost = report.engine.cost();
    let ios: u64 = report.engine.reactors.iter().map(|reactor| reactor.ios).sum();
    let mut text = line(
        "engine",
        &format!(
            "{} IOPS   CPU {:.0} ns/IO (user {:.0}, system {:.0})   {:.3} syscalls/IO   \
         {:.1} IOs/submit   {:.1} IOs/reap   {:.3} wakes/IO",
            scaled(per_second(ios, report.elapsed_ns)),
            cost.cpu_ns_per_io,
            cost.user_ns_per_io,
            cost.system_ns_per_io,
            cost.syscalls_per_io,
            cost.ios_per_submit,
            cost.ios_per_reap,
            cost.wakes_per_io,
        ),
    );
    for reactor in &report.engine.reactors {
        text += &line("reactor", &reactor_line(reactor, report.elapsed_ns));
    }
    let engine = &report.engine;
    text += &line(
        "scheduler",
        &format!(
            "{} aged, {} shed, {} stolen, {} split",
            engine.aged, engine.shed, engine.stolen, engine.split
        ),
    );
    text += &line("path", &path(report));
    text + &engine.path.fallbacks.iter().map(|one| line("fallback", one)).collect::<String>()
}

/// The way a request took, in one line.
fn path(report: &RunReport) -> String {
    let path = &report.engine.path;
    let either = |yes: bool, one: &'static str, other: &'static str| if yes { one } else { other };
    let mut parts = vec![
        format!("io_uring of {} entries [{}]", path.ring_entries, path.ring_flags.join(" ")),
        either(path.fixed_files, "fixed files", "plain files").into(),
        either(path.fixed_buffers, "fixed buffers", "plain buffers").into(),
        either(path.polled, "polled", "by interrupt").into(),
    ];
    if report.target != Target::Nop {
        parts.push(either(path.direct, "O_DIRECT", "NOT O_DIRECT").into());
    }
    let said = |text: &str| if text.is_empty() { "unknown".into() } else { text.to_owned() };
    parts.push(format!("buffers on {} pages", said(&path.pages)));
    parts.push(format!("spin {}", said(&path.spin)));
    parts.join(", ")
}

fn reactor_line(reactor: &ReactorReport, elapsed_ns: u64) -> String {
    let percent = |time_ns: u64| 100.0 * ratio(time_ns, elapsed_ns);
    format!(
        "CPU {} (node {}): {} IOPS, user {:.0} %, system {:.0} %, {} wakes",
        reactor.cpu,
        reactor.node,
        scaled(per_second(reactor.ios, elapsed_ns)),
        percent(reactor.user_ns),
        percent(reactor.system_ns),
        reactor.wakes,
    )
}

fn machine(machine: &Environment) -> String {
    let unknown = || "unknown".to_owned();
    let cpu = machine.cpu_model.clone().unwrap_or_else(unknown);
    let mut text = line(
        "machine",
        &format!(
            "{} x {cpu}{}, {} node{}, Linux {}, {} mitigations, {} huge pages free, memlock {}",
            machine.cpus,
            if machine.virtual_machine { " (virtual)" } else { "" },
            machine.nodes.max(1),
            if machine.nodes > 1 { "s" } else { "" },
            machine.kernel.clone().unwrap_or_else(unknown),
            machine.mitigated.len(),
            machine.huge_pages.free.map_or_else(unknown, |count| count.to_string()),
            machine.memlock_limit.clone().unwrap_or_else(unknown),
        ),
    );
    if let Some(git) = &machine.git {
        text += &line("build", git);
    }
    text + &machine.devices.iter().map(|one| line("disk", &device(one))).collect::<String>()
}

fn device(device: &Device) -> String {
    let mut parts = vec![device.path.clone()];
    let on = device.name.as_ref().filter(|_| device.is_file);
    parts.extend(on.map(|name| format!("file on {name}")));
    parts.extend(device.model.clone());
    parts.extend(device.firmware.as_ref().map(|version| format!("firmware {version}")));
    parts.extend(device.scheduler.as_ref().map(|name| format!("scheduler {name}")));
    parts.extend(device.nr_requests.map(|count| format!("nr_requests {count}")));
    parts.extend(device.nomerges.map(|level| format!("nomerges {level}")));
    parts.extend(device.wbt_lat_usec.map(|target| format!("wbt {target} us")));
    parts.extend(device.write_cache.clone());
    parts.join(", ")
}

fn line(label: &str, said: &str) -> String {
    format!("{label:9}  {said}\n")
}

/// Three significant digits and a unit: `812ns`, `61.2us`, `1.23ms`, `2.10s`.
pub(super) fn duration(time_ns: u64) -> String {
    let time = time_ns as f64;
    match time_ns {
        0..1_000 => format!("{time_ns}ns"),
        1_000..1_000_000 => digits(time / 1e3, "us"),
        1_000_000..1_000_000_000 => digits(time / 1e6, "ms"),
        _ => digits(time / 1e9, "s"),
    }
}

/// A rate in three to four digits: `873`, `41.2k`, `1.05M`.
fn scaled(rate: f64) -> String {
    match rate {
        rate if rate < 9_999.5 => format!("{rate:.0}"),
        rate if rate < 999_500.0 => digits(rate / 1e3, "k"),
        rate => digits(rate / 1e6, "M"),
    }
}

fn digits(value: f64, unit: &str) -> String {
    let places = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.places$}{unit}")
}

/// A time of the epoch as fio prints times, in UTC: `Sun Nov 22 19:41:17 2026`.
pub(super) fn utc(seconds: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's "civil from days": years begin in March, so that the leap day is the last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    format!(
        "{} {} {day:02} {:02}:{:02}:{:02} {year}",
        WEEKDAYS[(days % 7) as usize],
        MONTHS[month as usize],
        second / 3_600,
        second / 60 % 60,
        second % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_fit_eight_columns() {
        let rows = [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (61_230, "61.2us"),
            (999_960, "1000us"),
            (1_234_567, "1.23ms"),
            (123_456_789, "123ms"),
            (17_000_000_000, "17.0s"),
        ];
        for (time_ns, text) in rows {
            assert_eq!(duration(time_ns), text);
        }
        for (rate, text) in [(0.0, "0"), (9_999.0, "9999"), (41_234.0, "41.2k"), (1e7, "10.0M")] {
            assert_eq!(scaled(rate), text);
        }
    }

    #[test]
    fn dates_are_those_of_date_u() {
        let rows = [
            (0, "Thu Jan 01 00:00:00 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (1_795_376_477, "Sun Nov 22 19:41:17 2026"),
            (4_107_542_399, "Sun Feb 28 23:59:59 2100"),
        ];
        for (seconds, text) in rows {
            assert_eq!(utc(seconds), text);
        }
    }
}
