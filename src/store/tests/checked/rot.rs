//! Bit rot, everywhere: the checker names it, or it is where nothing is kept; and what the checker
//! finds no fault with the store opens and reads.

use crate::check::domain::DomainView;
use crate::check::report::Findings;
use crate::check::tests::golden::check_bytes;
use crate::check::{Depth, Finding, Image, Report, Severity};
use crate::format::extent::Place;
use crate::format::label::Label;
use crate::format::layout::{BLOCK_BYTES, Zone, label_offsets};
use crate::sim::{Random, SimDisk, for_each_seed};
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::{Model, read_all};
use crate::store::tests::world::{DISK_BYTES, Setup, World};

/// Bits of a label that mean something.
const LABEL_BITS: usize = 120 * 8;

/// How a pool is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Closed,
    Crashed,
}

fn disk_after_work(seed: u64, left: Left) -> SimDisk {
    let mut random = Random::new(seed ^ 0x0b17);
    let mut model = Model::default();
    let setup = Setup::default();
    let mut world = World::new(&setup, seed);
    run_workload(&mut world, &mut model, &mut random, 40);
    if left == Left::Closed {
        let disks = world.sim.crash(random.next_u64());
        world = World::open(&setup, random.next_u64(), disks).unwrap();
        world.close();
    }
    world.sim.crash(random.next_u64()).remove(0)
}

/// The bytes of a pool, and what is on them.
struct Sound {
    disk: SimDisk,
    bytes: Vec<u8>,
    view: DomainView,
}

impl Sound {
    fn new(seed: u64, left: Left) -> Sound {
        let disk = disk_after_work(seed, left);
        let bytes = disk.read(0, DISK_BYTES);
        let mut read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        };
        let label = Label::decode(0, DISK_BYTES, &bytes).unwrap();
        let mut image = Image::new(DISK_BYTES, &mut read);
        let view = DomainView::read(&mut image, &label.into(), 0, &mut Findings::default());
        Sound { disk, bytes, view }
    }

    /// Closed and crashed ones take turns.
    fn of_seed(seed: u64) -> Sound {
        Sound::new(seed, if seed.is_multiple_of(2) { Left::Closed } else { Left::Crashed })
    }

    /// The report with one bit flipped.
    fn rotten(&mut self, offset: u64, bit: u8, depth: Depth) -> Report {
        self.bytes[offset as usize] ^= 1 << bit;
        let report = check_bytes(&self.bytes, depth);
        self.bytes[offset as usize] ^= 1 << bit;
        report
    }
}

/// The finding about what begins at a byte.
fn about(report: &Report, offset: u64) -> Option<&Finding> {
    report.inconsistencies.iter().find(|finding| finding.site.offset == Some(offset))
}

#[test]
fn every_rotten_bit_of_a_label_copy_is_named() {
    let mut sound = Sound::new(1, Left::Closed);
    for (copy, offset) in label_offsets(DISK_BYTES).into_iter().enumerate() {
        for bit in (copy..LABEL_BITS).step_by(7) {
            let at = offset + bit as u64 / 8;
            let report = sound.rotten(at, bit as u8 % 8, Depth::Metadata);
            let what = format!("label copy {copy}");
            let named = about(&report, offset).is_some_and(|finding| {
                finding.severity == Severity::Error && finding.site.what == what
            });
            assert!(named, "bit {bit} of {what}: {:?}", report.inconsistencies);
        }
    }
}

#[test]
fn rot_in_a_needed_record_is_named() {
    for_each_seed("rot_in_a_needed_record_is_named", 4, |seed| {
        let mut sound = Sound::of_seed(seed);
        let mut random = Random::new(seed);
        let last = sound.view.journal.last.unwrap();
        for record in sound.view.journal.needed.clone() {
            let head = record.head;
            let start = sound.view.journal.id.offset(head.position);
            let somewhere: Vec<u64> =
                (0..20).map(|_| random.below(u64::from(head.length))).collect();
            for at in somewhere.into_iter().chain([0, 20, 35, 250]) {
                let report = sound.rotten(start + at, 3, Depth::Metadata);
                // Nothing tells a last record that rotted from one that was never whole.
                let enough = match head.sequence == last.sequence {
                    true => report.errors + report.notes > 0,
                    false => report.errors > 0,
                };
                let what = format!("seed {seed}: byte {at} of record {}", head.sequence);
                assert!(enough, "{what}: {:?}", report.inconsistencies);
            }
        }
    });
}

#[test]
fn rot_in_a_page_is_named_and_its_other_home_is_unused() {
    for_each_seed("rot_in_a_page_is_named", 4, |seed| {
        let mut sound = Sound::of_seed(seed);
        let mut random = Random::new(seed);
        let before = check_bytes(&sound.bytes, Depth::Data);
        for page in sound.view.tree.pages.clone() {
            let [home, other] = page.child.homes.map(|home| home.start_block() * BLOCK_BYTES);
            let somewhere: Vec<u64> = (0..10).map(|_| random.below(4096)).collect();
            for at in somewhere.into_iter().chain([0, 25, 4095]) {
                let report = sound.rotten(home + at, 1, Depth::Metadata);
                let finding = about(&report, home).expect("the page is named");
                let what = format!("page {} of level {}", page.number, page.level);
                assert_eq!((finding.severity, &finding.site.what), (Severity::Error, &what));
            }
            assert_eq!(sound.rotten(other + 25, 1, Depth::Data), before);
        }
    });
}

#[test]
fn rot_in_data_is_named() {
    for_each_seed("rot_in_data_is_named", 4, |seed| {
        let mut sound = Sound::of_seed(seed);
        let mut random = Random::new(seed);
        let copies = sound.view.journal.inline_copies();
        let last = sound.view.journal.last.unwrap().sequence;
        for held in sound.view.state.extents.clone().values() {
            let places: Vec<Place> = held.extent.existing().collect();
            let place = *random.pick(&places);
            let offset = place.block() * BLOCK_BYTES;
            let bit = random.below(8) as u8;
            let report = sound.rotten(offset + random.below(4096), bit, Depth::Data);
            if copies.contains_key(&place) {
                assert!(report.is_consistent(), "the journal holds the block");
                continue;
            }
            let named = about(&report, offset).is_some_and(|one| one.severity == Severity::Error);
            // Without its data the last record was never whole.
            let dropped = report.domains[0].dropped == Some(last);
            assert!(named || dropped, "{:?}", report.inconsistencies);
        }
    });
}

/// Anywhere: it is named, or nothing is different. What is consistent opens and reads the same.
#[test]
fn a_rotten_bit_anywhere_is_named_or_harmless() {
    for_each_seed("a_rotten_bit_anywhere", 4, |seed| {
        let mut sound = Sound::of_seed(seed);
        let mut random = Random::new(seed ^ 0xa11);
        let before = check_bytes(&sound.bytes, Depth::Data);
        for round in 0..100 {
            let (offset, bit) = (somewhere(&mut random), random.below(8) as u8);
            let report = sound.rotten(offset, bit, Depth::Data);
            let mut same = report.clone();
            for (ours, theirs) in same.domains.iter_mut().zip(&before.domains) {
                // A head that nobody needs, and a home that the journal stands in for.
                (ours.heads, ours.inline_only) = (theirs.heads, theirs.inline_only);
            }
            let found = !report.inconsistencies.is_empty();
            assert!(found || same == before, "byte {offset}: {report:?}");
            if report.is_consistent() && round % 8 == 0 {
                opens(&sound.disk, (offset, bit), seed);
            }
        }
    });
}

/// A byte of the disk; near the beginning of a zone there is more to hit.
fn somewhere(random: &mut Random) -> u64 {
    let zones = [Zone::HeadLabels, Zone::TailLabels, Zone::Journal(0), Zone::Data];
    let range = Setup::default().layout().zone(*random.pick(&zones));
    let bytes = range.end - range.start;
    let span = if random.coin() { bytes } else { bytes.min(512 << 10) };
    range.start + random.below(span)
}

fn opens(disk: &SimDisk, (offset, bit): (u64, u8), seed: u64) {
    let mut rotten = disk.clone();
    rotten.flip_bit(offset, bit);
    let mut world = World::open(&Setup::default(), seed, vec![rotten])
        .unwrap_or_else(|error| panic!("byte {offset} is nothing to the checker: {error:?}"));
    for inode in world.inodes() {
        read_all(&mut world, inode);
    }
}
