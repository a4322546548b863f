//! The five files, and every field with every mistake that a file can make with it.
//!
//! `EXPECTED` is written by hand from the documentation and not made from the table of fields: a
//! wrong range in the code is a difference between the two.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::fields::{FIELDS, Field, Kind, UNLIMITED};
use super::{
    CommitDurability, CommitMode, EngineConfig, JournalConfig, PoolConfig, ReadOnly, file,
};
use crate::engine::config::{ConfigError, DiskConfig, IoConfig};
use crate::scheduler::limits::Limits;

/// What a field may hold.
#[derive(Clone, Copy)]
enum Holds {
    /// Low, high, and the range as an error gives it.
    Number(u64, u64, &'static str),
    /// The same, one of a list; and a whole list around it.
    Numbers(u64, u64, &'static str),
    Fraction,
    Switch,
    Words(&'static [&'static str]),
    Text,
    Texts,
}

const MAX: u64 = 9_223_372_036_854_775_807;
const ANY_US: &str = "from 0 to 9,223,372,036,854,775,807 us";
const ANY_MS: &str = "from 0 to 9,223,372,036,854,775,807 ms";

#[rustfmt::skip]
const EXPECTED: &[(&str, Holds)] = &[
    ("include", Holds::Texts),
    ("priorities_off", Holds::Switch),
    ("calls_max", Holds::Number(1, 16_777_216, "from 1 to 16,777,216 requests")),
    ("disks.path", Holds::Text),
    ("disks.access", Holds::Words(&["read_only", "read_only_shared", "read_write"])),
    ("disks.lanes", Holds::Number(1, 64, "from 1 to 64 reactors")),
    ("disks.failure_domain", Holds::Text),
    ("disks.busy_wait_ms", Holds::Number(0, MAX, ANY_MS)),
    ("disks.polled", Holds::Words(&["auto", "on", "off"])),
    ("disks.nop_bytes", Holds::Number(4096, MAX, "from 4,096 to 9,223,372,036,854,775,807 bytes")),
    ("disks.in_memory", Holds::Switch),
    ("reactors.count", Holds::Number(1, 4096, "from 1 to 4,096 reactors")),
    ("reactors.cpus", Holds::Numbers(0, 65_535, "from 0 to 65,535")),
    ("reactors.all_hardware_threads", Holds::Switch),
    ("reactors.spin_us", Holds::Number(0, MAX, ANY_US)),
    ("reactors.completion_batch", Holds::Number(1, 64, "from 1 to 64 completions")),
    ("reactors.settle_us", Holds::Number(1, 10_000, "from 1 to 10,000 us")),
    ("memory.pages", Holds::Words(&["gigantic", "huge", "normal"])),
    ("memory.arena_mib_per_node", Holds::Number(2, 1_048_576, "from 2 to 1,048,576 MiB")),
    ("memory.register", Holds::Switch),
    ("calibration.path", Holds::Text),
    ("calibration.serial", Holds::Text),
    ("calibration.depth", Holds::Number(1, 4096, "from 1 to 4,096 requests")),
    ("calibration.read_iops", Holds::Fraction),
    ("calibration.read_bytes_per_second", Holds::Fraction),
    ("pool.domains", Holds::Number(1, 64, "from 1 to 64 domains")),
    ("pool.mirrors", Holds::Number(1, 4, "from 1 to 4 disks")),
    ("pool.hung_after_ms", Holds::Number(100, 600_000, "from 100 to 600,000 milliseconds")),
    ("pool.hedged_reads", Holds::Switch),
    ("pool.read_only", Holds::Switch),
    ("pool.vacant_places", Holds::Number(0, 64, "from 0 to 64 disks")),
    ("pool.sync_mib_per_second", Holds::Number(0, 1_048_576, "from 0 to 1,048,576 MiB")),
    ("journal.mib_per_domain", Holds::Number(1, 4096, "from 1 to 4,096 MiB")),
    ("journal.inline_kib_per_batch", Holds::Number(0, 1024, "from 0 to 1,024 KiB")),
    ("pool.discard", Holds::Words(&["auto", "always", "never"])),
    ("journal.inline_when", Holds::Words(&["idle", "always"])),
    ("journal.inline_kib_per_write", Holds::Number(0, 64, "from 0 to 64 KiB")),
    ("journal.writeback_mib", Holds::Number(1, 4096, "from 1 to 4,096 MiB")),
    ("commit.mode", Holds::Words(&["adaptive", "linger"])),
    ("commit.max_batch_ops", Holds::Number(1, 1024, "from 1 to 1,024 operations")),
    ("commit.max_batch_kib", Holds::Number(4, 16_384, "from 4 to 16,384 KiB")),
    ("commit.max_batch_delay_ms", Holds::Number(0, 10_000, "from 0 to 10,000 ms")),
    ("commit.durability", Holds::Words(&["auto", "flush", "dsync"])),
    ("commit.seal_idle_ms", Holds::Number(0, 60_000, "from 0 to 60,000 ms")),
    ("batcher.max_extents", Holds::Number(1, 1024, "from 1 to 1,024 extents")),
    ("batcher.max_kib", Holds::Number(4, 16_384, "from 4 to 16,384 KiB")),
    ("checkpoint.start_fill_percent", Holds::Number(10, 90, "from 10 to 90 percent")),
    ("checkpoint.urgent_fill_percent", Holds::Number(11, 95, "from 11 to 95 percent")),
    ("checkpoint.pages_in_flight", Holds::Number(1, 4096, "from 1 to 4,096 pages")),
    ("table.mib", Holds::Number(1, 1_048_576, "from 1 to 1,048,576 MiB")),
    ("operations.in_flight_max", Holds::Number(1, 65_536, "from 1 to 65,536 operations")),
    ("control.socket", Holds::Text),
];

/// In `[scheduler]` and in `[disks.scheduler]`.
#[rustfmt::skip]
const EXPECTED_SCHEDULER: &[(&str, Holds)] = &[
    ("depth", Holds::Number(1, 4096, "from 1 to 4,096 requests")),
    ("queue_max", Holds::Number(1, 1_048_576, "from 1 to 1,048,576 requests")),
    ("slot_bytes", Holds::Number(4096, 16_777_216, "from 4,096 to 16,777,216 bytes")),
    ("split_bytes", Holds::Number(4096, 1 << 30,
        "from 4,096 to 1,073,741,824 bytes in steps of 4,096")),
    ("active_bytes_max", Holds::Number(65_536, MAX,
        "from 65,536 to 9,223,372,036,854,775,807 bytes")),
    ("max_wait_us", Holds::Numbers(0, MAX, ANY_US)),
    ("aged_every", Holds::Number(1, 1000, "from 1 to 1,000 dispatches")),
    ("background_busy_max", Holds::Number(1, 4096, "from 1 to 4,096 requests")),
    ("background_busy_bytes", Holds::Number(4096, MAX,
        "from 4,096 to 9,223,372,036,854,775,807 bytes")),
    ("background_idle_us", Holds::Number(0, MAX, ANY_US)),
];

fn expected() -> Vec<(String, Holds)> {
    let all = EXPECTED.iter().map(|(name, holds)| ((*name).to_owned(), *holds));
    let scheduler = ["scheduler", "disks.scheduler"].into_iter().flat_map(|section| {
        EXPECTED_SCHEDULER.iter().map(move |(name, holds)| (format!("{section}.{name}"), *holds))
    });
    all.chain(scheduler).collect()
}

/// All dotted names of the table in the code.
fn names(section: &str, fields: &'static [Field], found: &mut BTreeSet<String>) {
    for field in fields {
        let name = super::fields::join(section, field.name);
        match field.kind {
            Kind::Section(below) | Kind::Sections(below) => names(&name, below, found),
            _ => assert!(found.insert(name.clone()), "{name} is twice in the table"),
        }
    }
}

/// A file that gives one field, and the line on which it does.
fn file_with(dotted: &str, name: &str, value: &str) -> (String, usize) {
    let mut text = "# One field.\n\n".to_owned();
    match dotted.rsplit_once('.') {
        Some((section @ ("disks" | "calibration"), _)) => text += &format!("[[{section}]]\n"),
        Some(("disks.scheduler", _)) => text += "[[disks]]\n\n[disks.scheduler]\n",
        Some((section, _)) => text += &format!("[{section}]\n"),
        None => {}
    }
    let line = text.lines().count() + 1;
    text += &format!("{name} = {value}\n");
    (text, line)
}

/// The name as errors give it.
fn shown(dotted: &str) -> String {
    dotted.replace("disks.", "disks[0].").replace("calibration.", "calibration[0].")
}

fn last(dotted: &str) -> &str {
    dotted.rsplit('.').next().unwrap()
}

/// A list that `cpus` and `max_wait_us` both would take, if the number is in range.
fn list(dotted: &str, number: &str) -> String {
    let count = if last(dotted) == "max_wait_us" { 5 } else { 2 };
    format!("[{}{number}]", "0, ".repeat(count - 1))
}

/// Values as they are written, and the ends of what the error must say of them.
fn wrong_values(dotted: &str, holds: Holds) -> Vec<(String, String)> {
    let wrong = |value: &str, expected: &str| {
        (value.to_owned(), format!("{value} has the wrong type: it is {expected}"))
    };
    let range = |value: String, range: &str| {
        let text = format!("{value} is out of range: {range}");
        (value, text)
    };
    match holds {
        Holds::Number(low, high, text) => {
            let mut all = vec![
                wrong("\"7\"", &format!("a whole number {text}")),
                wrong("7.5", "a whole number "),
                wrong("true", "a whole number "),
                wrong("[7]", "a whole number "),
                range("-1".to_owned(), text),
                range((high + 1).to_string(), text),
                range("99999999999999999999".to_owned(), text),
            ];
            all.extend((low > 0).then(|| range((low - 1).to_string(), text)));
            all
        }
        Holds::Numbers(_, high, text) => {
            let inside = |number: String| {
                (list(dotted, &number), format!("{number} is out of range: {text}"))
            };
            vec![
                wrong("7", "a list of "),
                wrong(&list(dotted, "\"7\""), "a list of "),
                inside("-1".to_owned()),
                inside((high + 1).to_string()),
            ]
        }
        Holds::Fraction => vec![
            wrong("\"7\"", "a number, 0 or above"),
            range("-1".to_owned(), "a number, 0 or above"),
            range("-0.5".to_owned(), "a number, 0 or above"),
            range("nan".to_owned(), "a number, 0 or above"),
        ],
        Holds::Switch => vec![wrong("1", "true or false"), wrong("\"yes\"", "true or false")],
        Holds::Words(words) => {
            let all: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            let all = all.join(" or ");
            let mut rows = vec![wrong("true", &all), wrong("7", &all)];
            for word in words {
                let near = format!("{all}; the nearest is \"{word}\"");
                rows.push(range(format!("\"{word}x\""), &near));
            }
            rows
        }
        Holds::Text => vec![wrong("7", "a text in quotes"), wrong("[]", "a text in quotes")],
        Holds::Texts => vec![
            wrong("\"a.toml\"", "a list of texts in quotes"),
            wrong("[7]", "a list of texts in quotes"),
        ],
    }
}

fn right_values(dotted: &str, holds: Holds) -> Vec<String> {
    match holds {
        Holds::Number(low, high, _) => vec![low.to_string(), high.to_string()],
        Holds::Numbers(low, high, _) => {
            vec![list(dotted, &low.to_string()), list(dotted, &high.to_string())]
        }
        Holds::Fraction => vec!["0".into(), "0.0".into(), "3.5e9".into()],
        Holds::Switch => vec!["true".into(), "false".into()],
        Holds::Words(words) => words.iter().map(|word| format!("\"{word}\"")).collect(),
        Holds::Text => vec!["\"/dev/x\"".into()],
        Holds::Texts => vec!["[]".into()],
    }
}

/// Every name that differs by one letter: left out, doubled, replaced, exchanged with the next.
fn misspelt(name: &str) -> Vec<String> {
    let letters: Vec<char> = name.chars().collect();
    let mut all = BTreeSet::new();
    for at in 0..letters.len() {
        let mut left_out = letters.clone();
        left_out.remove(at);
        let mut doubled = letters.clone();
        doubled.insert(at, letters[at]);
        let mut replaced = letters.clone();
        replaced[at] = 'q';
        let mut exchanged = letters.clone();
        exchanged.swap(at, (at + 1).min(letters.len() - 1));
        all.extend([left_out, doubled, replaced, exchanged].map(String::from_iter));
    }
    all.remove(name);
    all.into_iter().collect()
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

/// The default file with the fields that have no default, too.
fn whole_default_file() -> String {
    let text = std::fs::read_to_string(configs().join("default.toml")).unwrap();
    let is_field = |line: &str| line.starts_with('[') || line.contains(" = ");
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_field(rest) => rest,
        _ => line,
    });
    lines.map(|line| format!("{line}\n")).collect()
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("dynamicfs-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn refused(text: &str) -> String {
    EngineConfig::from_toml(text).expect_err(text).to_string()
}

#[test]
fn the_default_file_is_the_defaults() {
    let default = EngineConfig::from_file(configs().join("default.toml")).unwrap();
    assert_eq!(default, EngineConfig::default());
    assert_eq!(default.commit.batch_ops_max(), 1024);
    assert_eq!(default.commit.batch_bytes_max(), 4 << 20);
    assert_eq!(default.commit.batch_delay_max(), Duration::from_millis(100));
    assert_eq!(default.commit.seal_idle(), Duration::from_millis(50));
    assert_eq!(default.commit.durability, CommitDurability::Auto);
    assert_eq!(default.journal.inline_bytes_per_batch(), 64 << 10);
    assert_eq!(default.journal.inline_bytes_per_write(), 16 << 10);
    assert_eq!(default.journal.writeback_bytes_max(), 64 << 20);
    assert_eq!(default.batcher.bytes_max(), 1 << 20);
    assert_eq!(default.checkpoint.start_fill_bytes(64 << 20), 32 << 20);
    assert_eq!(default.checkpoint.urgent_fill_bytes(u64::MAX), u64::MAX / 5 * 4);
    assert_eq!((default.table.bytes_max(), default.pool.read_only), (None, ReadOnly::No));
}

#[test]
fn the_five_files_load_and_raw_tools_read_them_too() {
    for name in ["default", "file", "nvme", "low-latency", "high-throughput"] {
        let path = configs().join(name).with_extension("toml");
        let config = EngineConfig::from_file(&path).unwrap();
        assert_eq!(IoConfig::from_file(&path).unwrap(), config.io, "{name}");
        assert_eq!(config.check().is_ok(), name != "default", "{name} has disks");
        let batch = (config.commit.mode, config.commit.batch_ops_max());
        let delay_ms = config.commit.max_batch_delay_ms;
        match name {
            "low-latency" => assert_eq!((batch, delay_ms), ((CommitMode::Linger, 5), 50)),
            "high-throughput" => assert_eq!((batch, delay_ms), ((CommitMode::Linger, 20), 500)),
            _ => assert_eq!(config.commit, EngineConfig::default().commit),
        }
    }
}

/// The table of fields, this file's, `default.toml` and the structs have the same fields.
#[test]
fn everything_that_lists_fields_lists_the_same() {
    let mut known = BTreeSet::new();
    names("", FIELDS, &mut known);
    let here: BTreeSet<String> = expected().into_iter().map(|(name, _)| name).collect();
    assert_eq!(known, here);

    // `null` stands for an absent field, so this has every field that the structs have.
    let config = EngineConfig::from_toml(&whole_default_file()).unwrap();
    let mut fields = BTreeSet::new();
    json_names("", &serde_json::to_value(&config).unwrap(), &mut fields);
    assert_eq!(known, fields);

    // A field that the file left out would be absent or have its default; so it is looked for.
    let table: toml::Table = toml::from_str(&whole_default_file()).unwrap();
    let mut written = BTreeSet::new();
    json_names("", &serde_json::to_value(table).unwrap(), &mut written);
    let overridden = |name: &&String| name.starts_with("disks.scheduler.");
    written.extend(known.iter().filter(overridden).cloned());
    assert_eq!(known, written);
}

fn json_names(section: &str, value: &Value, found: &mut BTreeSet<String>) {
    let Value::Object(entries) = value else { panic!("{section} is no section") };
    for (name, value) in entries {
        let name = super::fields::join(section, name);
        let sections = || value.as_array().and_then(|list| list.first()).filter(|v| v.is_object());
        match (value, sections()) {
            (Value::Object(_), _) => json_names(&name, value, found),
            (_, Some(first)) => json_names(&name, first, found),
            _ => drop(found.insert(name)),
        }
    }
}

#[test]
fn every_field_takes_both_ends_of_its_range() {
    for (dotted, holds) in expected() {
        for value in right_values(&dotted, holds) {
            let (mut text, _) = file_with(&dotted, last(&dotted), &value);
            // The start lies below the other's default already; this lies above the start's.
            if dotted == "checkpoint.urgent_fill_percent" {
                text += "start_fill_percent = 10\n";
            } else if dotted == "checkpoint.start_fill_percent" {
                text += "urgent_fill_percent = 95\n";
            }
            EngineConfig::from_toml(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}

#[test]
fn every_field_refuses_what_it_cannot_hold() {
    let folder = Folder::new("wrong-values");
    for (dotted, holds) in expected() {
        for (value, end) in wrong_values(&dotted, holds) {
            let (text, line) = file_with(&dotted, last(&dotted), &value);
            let path = folder.write("bad.toml", &text);
            let begin = format!("{}:{line}: {}", path.display(), shown(&dotted));
            for error in [
                EngineConfig::from_file(&path).expect_err(&text).to_string(),
                IoConfig::from_file(&path).expect_err(&text).to_string(),
            ] {
                assert!(error.starts_with(&begin), "{text}: {error}, not {begin}");
                assert!(error.contains(&end), "{text}: {error}, not {end}");
            }
        }
    }
}

#[test]
fn every_misspelt_field_is_answered_with_the_right_one() {
    let all: BTreeSet<String> = expected().into_iter().map(|(name, _)| name).collect();
    let folder = Folder::new("misspelt");
    for dotted in &all {
        for name in misspelt(last(dotted)) {
            let sibling = match dotted.rsplit_once('.') {
                Some((section, _)) => format!("{section}.{name}"),
                None => name.clone(),
            };
            assert!(!all.contains(&sibling), "{sibling} is one letter from {dotted}");
            let name = if name.is_empty() { "\"\"" } else { &name };
            let (text, line) = file_with(dotted, name, "1");
            let path = folder.write("bad.toml", &text);
            let error = EngineConfig::from_file(&path).expect_err(&text).to_string();
            let begin = format!("{}:{line}: unknown field {}; ", path.display(), shown(&sibling));
            let nearest = error.strip_prefix(&format!("{begin}the nearest is "));
            let nearest = nearest.unwrap_or_else(|| panic!("{text}: {error}, not {begin}"));
            // `slit_bytes` is one letter from two fields.
            assert!(nearest.split(" or ").any(|name| name == shown(dotted)), "{text}: {error}");
            assert!(nearest.split(" or ").count() <= 2, "{text}: {error}");
        }
    }
}

#[test]
fn misspelt_sections_and_fields_of_other_sections_are_named() {
    let rows = [
        ("[jurnal]\n", "line 1: unknown field jurnal; the nearest is journal"),
        ("\n[[disk]]\n", "line 2: unknown field disk; the nearest is disks"),
        (
            "[journal]\nmax_batch_ops = 1\n",
            "line 2: unknown field journal.max_batch_ops; the nearest is commit.max_batch_ops",
        ),
        ("journal.mib = 1\n", "line 1: unknown field journal.mib; the nearest is table.mib"),
        ("journal = 3\n", "line 1: journal = 3 has the wrong type: it is a section in [brackets]"),
        (
            "[disks]\npath = \"x\"\n",
            "line 1: disks = [disks] has the wrong type: it is sections in [[double brackets]]",
        ),
        (
            "[[table]]\nmib = 1\n",
            "line 1: table = [[table]] has the wrong type: it is a section in [brackets]",
        ),
        (
            "disks = [{ path = \"x\" },\n  { path = \"y\", lanes = 65 }]\n",
            "line 2: disks[1].lanes = 65 is out of range: from 1 to 64 reactors",
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn the_first_mistake_in_the_file_is_reported() {
    let text = "[table]\nmib = 0\n[batcher]\nmax_kib = 1\nmax_extents = 0\n";
    assert!(refused(text).starts_with("line 2: table.mib = 0 "));
    let text = "[batcher]\nmax_kib = 1\nmax_extents = 0\n[table]\nmib = 0\n";
    assert!(refused(text).starts_with("line 2: batcher.max_kib = 1 "));
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    for (text, line) in [
        ("[pool\n", "line 1: "),
        ("[pool]\ndomains = \n", "line 2: "),
        ("[pool]\ndomains = 1\ndomains = 2\n", "line 3: "),
        ("[pool]\n\n[pool]\n", "line 3: "),
    ] {
        let error = EngineConfig::from_toml(text).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { .. }), "{error:?}");
        assert!(error.to_string().starts_with(line), "{text}: {error}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused_with_a_line() {
    let both = "[checkpoint]\nurgent_fill_percent = 60\nstart_fill_percent = 60\n";
    assert_eq!(
        refused(both),
        "line 2: checkpoint.urgent_fill_percent = 60 is out of range: above \
         checkpoint.start_fill_percent, which is 60"
    );
    // The other is the default and stands nowhere: the line of the section.
    assert!(refused("\n[checkpoint]\nstart_fill_percent = 85\n").starts_with("line 2: "));
}

#[test]
fn an_included_file_gives_disks_and_nothing_that_would_be_passed_over() {
    let folder = Folder::new("include");
    let main = folder.write("main.toml", "include = [\"disk.toml\"]\n[pool]\ndomains = 2\n");
    folder.write("disk.toml", "[[disks]]\npath = \"/dev/x\"\n");
    let config = EngineConfig::from_file(&main).unwrap();
    assert_eq!((config.io.disks.len(), config.pool.domains), (1, Some(2)));
    assert!(config.io.include.is_empty());
    for (text, field) in [("[pool]\n", "pool"), ("[reactors]\n", "reactors")] {
        let path = folder.write("disk.toml", &format!("\n{text}"));
        let error = EngineConfig::from_file(&main).unwrap_err().to_string();
        let begin = format!("{}:2: {field} cannot stand here: ", path.display());
        assert!(error.starts_with(&begin), "{error}");
    }
    folder.write("disk.toml", "[[disks]]\nlanse = 3\n");
    let error = EngineConfig::from_file(&main).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "disk.toml:2: unknown field disks[0].lanse; the nearest is \
         disks[0].lanes"
        ),
        "{error}"
    );
    assert!(refused("include = [\"a.toml\"]\n").contains("include cannot stand here"));
}

/// `check` meets every number that has a limit, with the same range as a file's.
#[test]
fn check_refuses_in_code_what_a_file_refuses() {
    let mut rows = 0;
    for (dotted, holds) in expected() {
        let Holds::Number(low, high, range) = holds else { continue };
        let above = (high != UNLIMITED).then(|| high + 1);
        for value in [low.checked_sub(1), above].into_iter().flatten() {
            let (text, _) = file_with(&dotted, last(&dotted), &value.to_string());
            // Past the reader's own check, as a program would set it.
            let table = toml::de::DeTable::parse(&text).unwrap();
            let mut config = file::build(table).unwrap();
            if config.io.disks.is_empty() {
                config.io.disks.push(DiskConfig::default());
            }
            let error = config.check().expect_err(&text).to_string();
            let name = shown(&dotted);
            assert_eq!(error, format!("{name} = {value} is out of range: {range}"), "{text}");
            rows += 1;
        }
    }
    assert!(rows > 50, "only {rows} rows");
    let error = EngineConfig::default().check().unwrap_err().to_string();
    assert_eq!(error, "disks = 0 is out of range: from 1 to 1,024 disks");
}

/// The scheduler itself, asked without a device, has the ranges that a file has.
#[test]
fn the_scheduler_has_the_ranges_of_the_file() {
    for (name, holds) in EXPECTED_SCHEDULER {
        // Its own bound is the depth, which by default is smaller.
        let deep = if *name == "background_busy_max" { "depth = 4096\n" } else { "" };
        let Holds::Number(low, high, _) = *holds else { continue };
        let resolve = |value: u64| {
            let config = toml::from_str(&format!("{deep}{name} = {value}\n")).unwrap();
            Limits::resolve(&config, 0, 1)
        };
        assert!(resolve(low).is_ok(), "{name} = {low}");
        assert!(high == UNLIMITED || resolve(high).is_ok(), "{name} = {high}");
        let below = low.checked_sub(1).map(resolve);
        assert!(below.is_none_or(|resolved| resolved.is_err()), "{name} below {low}");
        assert!(high == UNLIMITED || resolve(high + 1).is_err(), "{name} above {high}");
    }
}

#[test]
fn what_is_absent_is_derived() {
    let cores = |domains, cores| PoolConfig { domains, ..PoolConfig::default() }.domains_for(cores);
    assert_eq!((cores(None, 8), cores(None, 0), cores(None, 200)), (8, 1, 64));
    assert_eq!(cores(Some(3), 8), 3);
    let absent = JournalConfig::default();
    assert_eq!(absent.bytes_per_domain(1 << 20, 64), 1 << 20);
    assert_eq!(absent.bytes_per_domain(1 << 30, 4), 16 << 20);
    assert_eq!(absent.bytes_per_domain(4 << 40, 4), 64 << 20);
    let given = JournalConfig { mib_per_domain: Some(4096), ..JournalConfig::default() };
    assert_eq!(given.bytes_per_domain(1 << 30, 1), 4 << 30);
    let narrow = JournalConfig { inline_kib_per_batch: 4, ..JournalConfig::default() };
    assert_eq!(narrow.inline_bytes_per_write(), 4 << 10);
    let linger = EngineConfig::from_toml("[commit]\nmode = \"linger\"\n").unwrap().commit;
    assert_eq!(linger.batch_ops_max(), 10);
    let read_only = EngineConfig::from_toml("pool.read_only = true\n").unwrap();
    assert_eq!(read_only.pool.read_only, ReadOnly::Yes);
}
