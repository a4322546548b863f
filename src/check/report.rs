//! What a check found: facts to compare, and everything that is not as it should be.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::format::label::Label;

/// Most findings that are kept; more are counted.
pub const FINDINGS_MAX: usize = 1000;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Labels, journals, pages, and the data of each journal's last record.
    Metadata,
    /// Every block that something refers to.
    Data,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As a crash leaves it, or where nothing is kept.
    Note,
    /// Data or metadata is wrong, or cannot be read.
    Error,
}

/// Where something was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Site {
    /// The domain that it belongs to.
    pub domain: Option<u16>,
    /// Slot of the disk; of a pool of one disk, and where it is the first, it is left out.
    #[serde(skip_serializing_if = "is_first")]
    pub disk: u16,
    /// Which disk of the slot; where it is the first, it is left out.
    #[serde(skip_serializing_if = "is_first")]
    pub mirror: u16,
    /// Byte of the disk.
    pub offset: Option<u64>,
    /// What is, or should be, there.
    pub what: String,
}

fn is_first(number: &u16) -> bool {
    *number == 0
}

fn is_one(count: &u16) -> bool {
    *count == 1
}

impl Site {
    /// Something of the whole disk.
    pub fn of_disk(offset: u64, what: impl Into<String>) -> Site {
        Site { offset: Some(offset), what: what.into(), ..Site::default() }
    }

    /// Something of a domain, at a place.
    pub fn at(domain: u16, offset: u64, what: impl Into<String>) -> Site {
        Site { domain: Some(domain), ..Site::of_disk(offset, what) }
    }

    /// Something of a domain that has no one place.
    pub fn of_domain(domain: u16, what: impl Into<String>) -> Site {
        Site { domain: Some(domain), what: what.into(), ..Site::default() }
    }

    /// The same, on another disk than the first.
    pub fn on(self, disk: u16) -> Site {
        Site { disk, ..self }
    }

    /// The same, on another disk of its slot than the first.
    pub fn mirror(self, mirror: u16) -> Site {
        Site { mirror, ..self }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(domain) = self.domain {
            write!(f, "domain {domain}, ")?;
        }
        if self.disk > 0 {
            write!(f, "disk {}, ", self.disk)?;
        }
        if self.mirror > 0 {
            write!(f, "mirror {}, ", self.mirror)?;
        }
        if let Some(offset) = self.offset {
            write!(f, "byte {offset}, ")?;
        }
        f.write_str(&self.what)
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub site: Site,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: expected {}, found {}", self.site, self.expected, self.found)
    }
}

/// What the label says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LabelFacts {
    /// Id of the pool.
    pub pool: String,
    /// Id of the disk.
    pub disk: String,
    /// Slot of the disk in the pool.
    pub slot: u16,
    /// Disks of the pool.
    pub members: u16,
    /// Disks of each slot that hold the same; left out when it is 1.
    #[serde(skip_serializing_if = "is_one")]
    pub mirrors: u16,
    /// Of the membership.
    pub epoch: u64,
    /// Bytes of the disk that the pool was made on.
    pub disk_bytes: u64,
    /// Commit domains.
    pub domains: u16,
    /// Bytes of each journal.
    pub journal_bytes: u64,
    /// Blocks of an allocation group.
    pub group_blocks: u64,
}

impl LabelFacts {
    /// Those of a label.
    pub fn of(label: &Label) -> LabelFacts {
        let hex = |id: &[u8; 16]| id.iter().map(|byte| format!("{byte:02x}")).collect();
        let layout = &label.layout;
        LabelFacts {
            pool: hex(&label.pool),
            disk: hex(&label.disk),
            slot: label.slot,
            members: label.disks() as u16,
            mirrors: label.mirror.count,
            epoch: label.epoch,
            disk_bytes: layout.disk_bytes(),
            domains: layout.domains(),
            journal_bytes: layout.journal_bytes(),
            group_blocks: layout.group_blocks(),
        }
    }
}

/// What a domain holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DomainFacts {
    /// Its number.
    pub domain: u16,
    /// Heads in the journal, needed or not.
    pub heads: u64,
    /// Records that an opening needs.
    pub records: u64,
    /// Sequence of the last record that counts.
    pub last_sequence: u64,
    /// Sequence of the checkpoint that is read.
    pub checkpoint_sequence: u64,
    /// Records up to this one are in its pages.
    pub through: u64,
    /// Batches that are applied after it.
    pub replayed: u64,
    /// Sequence of a last record that does not count, because it is torn.
    pub dropped: Option<u64>,
    /// Whether there is nothing that an opening would have to apply or to write home.
    pub closed: bool,
    /// Pages of the tree.
    pub pages: u64,
    /// Inodes.
    pub inodes: u64,
    /// Extents with a block.
    pub extents: u64,
    /// All blocks of the space.
    pub blocks: u64,
    /// Blocks of extents.
    pub data_blocks: u64,
    /// Homes of pages.
    pub page_blocks: u64,
    /// Blocks without an owner.
    pub free_blocks: u64,
    /// Blocks of extents that a needed record holds, too.
    pub inline_blocks: u64,
    /// Of those, how many are right nowhere else; known when data was read.
    pub inline_only: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What the disk is; none when it is no disk of a pool.
    pub label: Option<LabelFacts>,
    /// Of each domain.
    pub domains: Vec<DomainFacts>,
    /// Inodes of all domains.
    pub inodes: u64,
    /// Extents of all domains.
    pub extents: u64,
    /// Equal for equal inodes, sizes and contents: see [`digest`](crate::check::digest).
    #[serde(serialize_with = "as_hex")]
    pub digest: u64,
    /// Findings with [`Severity::Error`], kept or not.
    pub errors: u64,
    /// Findings with [`Severity::Note`], kept or not.
    pub notes: u64,
    /// The first [`FINDINGS_MAX`] findings.
    pub inconsistencies: Vec<Finding>,
}

/// Not every reader of JSON keeps 64 bits of a number.
fn as_hex<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{number:016x}"))
}

impl Report {
    /// Whether nothing is wrong; notes are not.
    pub fn is_consistent(&self) -> bool {
        self.errors == 0
    }
}

/// Where findings are gathered.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    errors: u64,
    notes: u64,
    /// Of each slot, which of its disks is looked at; empty while all are.
    mirrors: Vec<u16>,
}

impl Findings {
    /// Something is wrong.
    pub fn error(&mut self, site: Site, expected: impl Into<String>, found: impl Into<String>) {
        self.errors += 1;
        self.keep(Severity::Error, site, expected.into(), found.into());
    }

    /// Something is as a crash leaves it.
    pub fn note(&mut self, site: Site, expected: impl Into<String>, found: impl Into<String>) {
        self.notes += 1;
        self.keep(Severity::Note, site, expected.into(), found.into());
    }

    /// From now on what is found in a slot is on this disk of it.
    pub(super) fn on_mirrors(&mut self, by_slot: Vec<u16>) {
        self.mirrors = by_slot;
    }

    fn keep(&mut self, severity: Severity, mut site: Site, expected: String, found: String) {
        if let Some(mirror) = self.mirrors.get(usize::from(site.disk)) {
            site.mirror = *mirror;
        }
        if self.list.len() < FINDINGS_MAX {
            self.list.push(Finding { severity, site, expected, found });
        }
    }

    /// What was found so far.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// A report with these findings, errors first.
    pub fn into_report(mut self, report: Report) -> Report {
        self.list.sort_by_key(|finding| finding.severity == Severity::Note);
        let (errors, notes) = (self.errors, self.notes);
        Report { errors, notes, inconsistencies: self.list, ..report }
    }
}
