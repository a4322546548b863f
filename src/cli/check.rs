//! `dynamicfs check`: whether a pool that nobody has open is consistent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::Args;
use dynamicfs::check::image::ReadAt;
use dynamicfs::check::label::{CopyContent, LabelView};
use dynamicfs::check::report::DomainFacts;
use dynamicfs::check::{Depth, Image, Report as CheckReport, check};
use dynamicfs::format::label::LabelError;
use dynamicfs::format::layout::LABEL_ZONE_BYTES;
use dynamicfs::machine::device::{Access, Device, Exclusive, OpenOptions, probe};

use super::table::table;
use super::{Exit, Failure, Report, json};

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The disks or files of the pool, all of them, in any order.
    #[arg(value_name = "DEV|FILE", required = true)]
    devices: Vec<PathBuf>,
    /// Read every block and verify its checksum, too.
    #[arg(long)]
    data: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &CheckArguments) -> Result<Report, Failure> {
    let disks = Disks::open(&arguments.devices, Exclusive::Yes)?;
    let depth = if arguments.data { Depth::Data } else { Depth::Metadata };
    let found =
        disks.look(|image| match (0..image.disks()).find(|disk| has_no_label(image, *disk)) {
            Some(disk) => Err(disk),
            None => Ok(check(image, depth)),
        });
    let found = found.map_err(|disk| {
        let path = arguments.devices[usize::from(disk)].display();
        Failure::new(Exit::Device, format!("{path} is no disk of a pool"))
    })?;
    let paths: Vec<String> =
        arguments.devices.iter().map(|path| path.display().to_string()).collect();
    let path = paths.join(", ");
    let mut report = Report::default();
    if !found.is_consistent() {
        let what = if found.errors == 1 { "inconsistency" } else { "inconsistencies" };
        let message = format!("{path}: {} {what}", found.errors);
        report.failures.push(Failure::new(Exit::Runtime, message));
    }
    report.text = if arguments.json { json(&found)? } else { describe(&found) };
    Ok(report)
}

/// Whether a disk carries nothing like a label.
fn has_no_label(image: &mut Image<'_>, disk: u16) -> bool {
    let labels = LabelView::read(image, disk);
    let is_small = image.bytes(disk) < 2 * LABEL_ZONE_BYTES;
    labels.copies.iter().all(|copy| match copy.content {
        CopyContent::Zeroes | CopyContent::Refused(LabelError::Absent) => true,
        CopyContent::Unreadable(_) => is_small,
        _ => false,
    })
}

/// Disks that are only read.
pub(crate) struct Disks(Vec<Disk>);

impl Disks {
    /// Opens disks or files; exclusively, so that nobody changes them, or to look at some in use.
    pub(crate) fn open(paths: &[PathBuf], exclusive: Exclusive) -> Result<Disks, Failure> {
        let disks = paths.iter().map(|path| Disk::open(path, exclusive));
        Ok(Disks(disks.collect::<Result<_, Failure>>()?))
    }

    /// Has them read as an image.
    pub(crate) fn look<T>(&self, with: impl FnOnce(&mut Image<'_>) -> T) -> T {
        type Read<'a> = Box<dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a>;
        let mut reads: Vec<(u64, Read<'_>)> = Vec::new();
        for disk in &self.0 {
            let read = |offset: u64, buffer: &mut [u8]| disk.file.read_exact_at(buffer, offset);
            reads.push((disk.bytes, Box::new(read)));
        }
        let disks = reads.iter_mut().map(|(bytes, read)| (*bytes, &mut **read as ReadAt<'_>));
        with(&mut Image::of_disks(disks))
    }
}

struct Disk {
    file: File,
    bytes: u64,
    /// Keeps others from writing to it meanwhile.
    _claim: Option<Device>,
}

impl Disk {
    fn open(path: &Path, exclusive: Exclusive) -> Result<Disk, Failure> {
        let info = probe(path)?;
        let options = OpenOptions { exclusive, ..OpenOptions::new(Access::ReadOnly) };
        let claim = match exclusive {
            Exclusive::Yes => Some(Device::open(path, &options)?),
            Exclusive::No => None,
        };
        let file = File::open(&info.resolved_path).map_err(|error| {
            Failure::new(Exit::Device, format!("cannot open {}: {error}", path.display()))
        })?;
        Ok(Disk { file, bytes: info.size_bytes, _claim: claim })
    }
}

fn describe(report: &CheckReport) -> String {
    let mut text = String::new();
    if let Some(label) = &report.label {
        text.push_str(&format!(
            "pool {}, disk {}, slot {} of {}, epoch {}\n\n",
            label.pool,
            label.disk,
            label.slot,
            label.members / label.mirrors.max(1),
            label.epoch
        ));
        let rows: Vec<Vec<String>> = report.domains.iter().map(row).collect();
        text.push_str(&table(&HEADING, &rows));
        text.push_str(&format!(
            "\n{} inodes, {} extents, digest {:016x}\n",
            report.inodes, report.extents, report.digest
        ));
    }
    for finding in &report.inconsistencies {
        text.push_str(&format!("{finding}\n"));
    }
    let kept = report.inconsistencies.len() as u64;
    if report.errors + report.notes > kept {
        text.push_str(&format!("and {} more\n", report.errors + report.notes - kept));
    }
    let verdict = if report.is_consistent() { "consistent" } else { "inconsistent" };
    text + &format!("{verdict}: {} errors, {} notes\n", report.errors, report.notes)
}

const HEADING: [&str; 11] = [
    "DOMAIN", "LAST", "THROUGH", "REPLAYED", "PAGES", "INODES", "EXTENTS", "DATA", "HOMES", "FREE",
    "STATE",
];

fn row(facts: &DomainFacts) -> Vec<String> {
    let state = match (facts.closed, facts.dropped) {
        (true, _) => "closed".to_owned(),
        (_, Some(sequence)) => format!("crashed, record {sequence} torn"),
        _ => "crashed".to_owned(),
    };
    let numbers = [
        u64::from(facts.domain),
        facts.last_sequence,
        facts.through,
        facts.replayed,
        facts.pages,
        facts.inodes,
        facts.extents,
        facts.data_blocks,
        facts.page_blocks,
        facts.free_blocks,
    ];
    numbers.iter().map(u64::to_string).chain([state]).collect()
}
