//! Every field that a configuration file can have: its name, its type, its range.
//!
//! The one table of them. The reader of files refuses what is not in it, `check` takes its ranges
//! from it, and a test holds it to the structs and to `configs/default.toml`. That a name given
//! by our own code is in it is asserted.

use std::fmt;

use crate::engine::config::ConfigError;
use crate::io::op::CLASSES;
use crate::scheduler::limits::DEPTH_MAX;

/// What a file can write, where the field itself has no limit.
pub(crate) const UNLIMITED: u64 = i64::MAX as u64;
/// What an included file is read for.
pub(crate) const INCLUDED: &[&str] = &["include", "disks", "calibration"];

/// One field.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// What a field holds.
pub(crate) enum Kind {
    Number(Bounds),
    /// Exactly so many numbers, or any count.
    Numbers(Option<usize>, Bounds),
    /// A measured quantity, 0 or above.
    Fraction,
    Switch,
    Words(&'static [&'static str]),
    Text,
    Texts,
    /// `[name]`
    Section(&'static [Field]),
    /// `[[name]]`
    Sections(&'static [Field]),
}

/// The range of a whole number, both ends included.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) low: u64,
    pub(crate) high: u64,
    /// It is a multiple of this.
    step: u64,
    unit: &'static str,
}

impl Bounds {
    const fn new(low: u64, high: u64, unit: &'static str) -> Bounds {
        Bounds { low, high, step: 1, unit }
    }

    const fn multiple_of(self, step: u64) -> Bounds {
        Bounds { step, ..self }
    }

    pub(crate) fn holds(&self, value: u64) -> bool {
        let is_below = value <= self.high || self.high == UNLIMITED;
        value >= self.low && is_below && value.is_multiple_of(self.step)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {} {}", grouped(self.low), grouped(self.high), self.unit)?;
        if self.step > 1 {
            write!(f, " in steps of {}", grouped(self.step))?;
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Number(bounds) => write!(f, "a whole number {bounds}"),
            Kind::Numbers(Some(count), bounds) => {
                write!(f, "a list of {count} whole numbers, each {bounds}")
            }
            Kind::Numbers(None, bounds) => write!(f, "a list of whole numbers, each {bounds}"),
            Kind::Fraction => f.write_str("a number, 0 or above"),
            Kind::Switch => f.write_str("true or false"),
            Kind::Words(words) => f.write_str(&quoted(words)),
            Kind::Text => f.write_str("a text in quotes"),
            Kind::Texts => f.write_str("a list of texts in quotes"),
            Kind::Section(_) => f.write_str("a section in [brackets]"),
            Kind::Sections(_) => f.write_str("sections in [[double brackets]]"),
        }
    }
}

/// Thousands apart: `1,048,576`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn quoted(words: &[&str]) -> String {
    let each: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    each.join(" or ")
}

const fn number(name: &'static str, low: u64, high: u64, unit: &'static str) -> Field {
    Field { name, kind: Kind::Number(Bounds::new(low, high, unit)) }
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind }
}

/// A file.
pub(crate) const FIELDS: &[Field] = &[
    field("include", Kind::Texts),
    field("disks", Kind::Sections(DISK)),
    field("reactors", Kind::Section(REACTORS)),
    field("scheduler", Kind::Section(SCHEDULER)),
    field("priorities_off", Kind::Switch),
    field("memory", Kind::Section(MEMORY)),
    number("calls_max", 1, 1 << 24, "requests"),
    field("calibration", Kind::Sections(CALIBRATION)),
    field("pool", Kind::Section(POOL)),
    field("journal", Kind::Section(JOURNAL)),
    field("commit", Kind::Section(COMMIT)),
    field("batcher", Kind::Section(BATCHER)),
    field("checkpoint", Kind::Section(CHECKPOINT)),
    field("table", Kind::Section(TABLE)),
    field("operations", Kind::Section(OPERATIONS)),
    field("control", Kind::Section(CONTROL)),
];

const DISK: &[Field] = &[
    field("path", Kind::Text),
    field("access", Kind::Words(&["read_only", "read_only_shared", "read_write"])),
    number("lanes", 1, 64, "reactors"),
    field("failure_domain", Kind::Text),
    number("busy_wait_ms", 0, UNLIMITED, "ms"),
    field("polled", Kind::Words(&["auto", "on", "off"])),
    number("nop_bytes", 4096, UNLIMITED, "bytes"),
    field("in_memory", Kind::Switch),
    field("scheduler", Kind::Section(SCHEDULER)),
];

const REACTORS: &[Field] = &[
    number("count", 1, 4096, "reactors"),
    field("cpus", Kind::Numbers(None, Bounds::new(0, 65_535, "(a CPU's number)"))),
    field("all_hardware_threads", Kind::Switch),
    number("spin_us", 0, UNLIMITED, "us"),
    number("completion_batch", 1, 64, "completions"),
    number("settle_us", 1, 10_000, "us"),
];

/// `Limits::resolve` has the same ranges, with what the device allows; a test compares them.
const SCHEDULER: &[Field] = &[
    number("depth", 1, DEPTH_MAX as u64, "requests"),
    number("queue_max", 1, 1 << 20, "requests"),
    number("slot_bytes", 4096, 16 << 20, "bytes"),
    field("split_bytes", Kind::Number(Bounds::new(4096, 1 << 30, "bytes").multiple_of(4096))),
    number("active_bytes_max", 64 << 10, UNLIMITED, "bytes"),
    field("max_wait_us", Kind::Numbers(Some(CLASSES), Bounds::new(0, UNLIMITED, "us"))),
    number("aged_every", 1, 1000, "dispatches"),
    number("background_busy_max", 1, DEPTH_MAX as u64, "requests"),
    number("background_busy_bytes", 4096, UNLIMITED, "bytes"),
    number("background_idle_us", 0, UNLIMITED, "us"),
];

const MEMORY: &[Field] = &[
    field("pages", Kind::Words(&["gigantic", "huge", "normal"])),
    number("arena_mib_per_node", 2, 1 << 20, "MiB"),
    field("register", Kind::Switch),
];

const CALIBRATION: &[Field] = &[
    field("path", Kind::Text),
    field("serial", Kind::Text),
    number("depth", 1, DEPTH_MAX as u64, "requests"),
    field("read_iops", Kind::Fraction),
    field("read_bytes_per_second", Kind::Fraction),
];

const POOL: &[Field] = &[
    number("domains", 1, 64, "domains"),
    number("mirrors", 1, 4, "disks"),
    number("hung_after_ms", 100, 600_000, "milliseconds"),
    field("hedged_reads", Kind::Switch),
    field("read_only", Kind::Switch),
    field("discard", Kind::Words(&["auto", "always", "never"])),
    number("sync_mib_per_second", 0, 1 << 20, "MiB"),
    number("vacant_places", 0, 64, "disks"),
];

const CONTROL: &[Field] = &[field("socket", Kind::Text)];

const JOURNAL: &[Field] = &[
    number("mib_per_domain", 1, 4096, "MiB"),
    number("inline_kib_per_batch", 0, 1024, "KiB"),
    field("inline_when", Kind::Words(&["idle", "always"])),
    number("inline_kib_per_write", 0, 64, "KiB"),
    number("writeback_mib", 1, 4096, "MiB"),
];

const COMMIT: &[Field] = &[
    field("mode", Kind::Words(&["adaptive", "linger"])),
    number("max_batch_ops", 1, 1024, "operations"),
    number("max_batch_kib", 4, 16_384, "KiB"),
    number("max_batch_delay_ms", 0, 10_000, "ms"),
    field("durability", Kind::Words(&["auto", "flush", "dsync"])),
    number("seal_idle_ms", 0, 60_000, "ms"),
];

const BATCHER: &[Field] =
    &[number("max_extents", 1, 1024, "extents"), number("max_kib", 4, 16_384, "KiB")];

const CHECKPOINT: &[Field] = &[
    number("start_fill_percent", 10, 90, "percent"),
    number("urgent_fill_percent", 11, 95, "percent"),
    number("pages_in_flight", 1, 4096, "pages"),
];

const TABLE: &[Field] = &[number("mib", 1, 1 << 20, "MiB")];

const OPERATIONS: &[Field] = &[number("in_flight_max", 1, 65_536, "operations")];

/// The row of a dotted name; a section in double brackets may have its `[index]`.
fn find(dotted: &str) -> Option<&'static Field> {
    let mut fields = FIELDS;
    let mut found = None;
    for name in dotted.split('.') {
        let name = name.split('[').next().unwrap_or(name);
        let field = fields.iter().find(|field| field.name == name)?;
        fields = below(field);
        found = Some(field);
    }
    found
}

fn below(field: &Field) -> &'static [Field] {
    match field.kind {
        Kind::Section(fields) | Kind::Sections(fields) => fields,
        _ => &[],
    }
}

/// A name in a section; at the top of a file the section is empty.
pub(crate) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// Checks the numbers of one section that are there.
pub(crate) fn check_numbers(
    section: &str,
    numbers: &[(&str, Option<u64>)],
) -> Result<(), ConfigError> {
    for (name, value) in numbers {
        let name = join(section, name);
        let row = find(&name);
        assert!(row.is_some(), "{name} has no row in the table of fields");
        if let (Some(Field { kind: Kind::Number(bounds), .. }), Some(value)) = (row, *value)
            && !bounds.holds(value)
        {
            let (value, range) = (value.to_string(), bounds.to_string());
            return Err(ConfigError::Range { at: None, field: name, value, range });
        }
    }
    Ok(())
}

/// What may have been meant by an unknown name: the field of that name in another section, else
/// what differs least in its own. Several that differ alike are all named.
pub(crate) fn nearest(section: &str, fields: &'static [Field], unknown: &str) -> String {
    let elsewhere = FIELDS.iter().find(|field| below(field).iter().any(|f| f.name == unknown));
    if let Some(other) = elsewhere {
        return join(other.name, unknown);
    }
    let distance = |field: &Field| strsim::osa_distance(field.name, unknown);
    let least = fields.iter().map(distance).min().unwrap_or_default();
    let alike = fields.iter().filter(|field| distance(field) == least);
    let alike: Vec<String> = alike.map(|field| join(section, field.name)).collect();
    alike.join(" or ")
}

/// The word that an unknown one is most like.
pub(crate) fn nearest_word(words: &'static [&'static str], unknown: &str) -> &'static str {
    words.iter().min_by_key(|word| strsim::osa_distance(word, unknown)).copied().unwrap_or_default()
}
