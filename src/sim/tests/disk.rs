//! What a simulated disk keeps and loses. Each of these fails if the model were kinder than a
//! device: that would hide bugs of everything built on it.

use std::collections::BTreeSet;

use crate::io::op::OpKind;
use crate::sim::disk::{Cache, Command, Outcome, SimDisk, SimDiskConfig};
use crate::sim::random::Random;

const SEEDS: u64 = 64;

fn disk(cache: Cache) -> SimDisk {
    SimDisk::new(SimDiskConfig { cache, ..SimDiskConfig::default() })
}

fn write(offset: u64, sectors: usize, byte: u8) -> Command {
    let data = vec![byte; sectors * 512];
    Command { kind: OpKind::Write, offset, len: data.len() as u64, data }
}

fn command(kind: OpKind, offset: u64, len: u64) -> Command {
    Command { kind, offset, len, data: Vec::new() }
}

fn run(disk: &mut SimDisk, command: Command, random: &mut Random) -> Vec<u8> {
    let ticket = disk.submit(command);
    disk.complete(ticket, Outcome::Done, random)
}

fn flush(disk: &mut SimDisk, random: &mut Random) {
    run(disk, command(OpKind::Flush, 0, 0), random);
}

/// First bytes of the sector at `offset` that are seen after crashes of copies of `disk`.
fn after_crashes(disk: &SimDisk, offset: u64) -> BTreeSet<u8> {
    let seen = (0..SEEDS).map(|seed| {
        let mut disk = disk.clone();
        disk.crash(&mut Random::new(seed));
        disk.read(offset, 512)[0]
    });
    seen.collect()
}

#[test]
fn a_completed_write_is_visible_and_not_durable() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(1);
    run(&mut disk, write(0, 1, 7), random);
    assert_eq!(run(&mut disk, command(OpKind::Read, 0, 512), random), vec![7; 512]);
    assert_eq!(after_crashes(&disk, 0), BTreeSet::from([0, 7]));
    flush(&mut disk, random);
    assert_eq!(after_crashes(&disk, 0), BTreeSet::from([7]));
    assert_eq!(disk.uncovered_sectors(), 0);
}

#[test]
fn a_flush_does_not_cover_what_completes_after_its_submission() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(2);
    run(&mut disk, write(0, 1, 1), random);
    let late = disk.submit(write(512, 1, 2));
    let flush = disk.submit(command(OpKind::Flush, 0, 0));
    disk.complete(late, Outcome::Done, random);
    disk.complete(flush, Outcome::Done, random);
    assert_eq!(after_crashes(&disk, 0), BTreeSet::from([1]));
    assert_eq!(after_crashes(&disk, 512), BTreeSet::from([0, 2]));
    assert_eq!(disk.candidates(512), vec![vec![0; 512], vec![2; 512]]);
}

#[test]
fn every_version_since_the_flush_may_survive_a_crash() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(3);
    run(&mut disk, write(0, 1, 1), random);
    flush(&mut disk, random);
    for byte in 2..5 {
        run(&mut disk, write(0, 1, byte), random);
    }
    assert_eq!(after_crashes(&disk, 0), BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn sectors_of_a_write_at_the_device_tear_one_by_one() {
    let mut disk = disk(Cache::WriteThrough);
    let random = &mut Random::new(4);
    run(&mut disk, write(0, 3, 1), random);
    disk.submit(write(0, 3, 2));
    let mut shapes = BTreeSet::new();
    for seed in 0..512 {
        let mut disk = disk.clone();
        disk.crash(&mut Random::new(seed));
        let bytes = disk.read(0, 3 * 512);
        let whole = |sector: &[u8], byte: u8| sector.iter().all(|b| *b == byte);
        let shape: String = bytes
            .chunks(512)
            .map(|sector| match sector {
                sector if whole(sector, 1) => 'o',
                sector if whole(sector, 2) => 'n',
                _ => 'g',
            })
            .collect();
        shapes.insert(shape);
    }
    assert_eq!(shapes.len(), 27, "old, new or garbage, sector by sector: {shapes:?}");
}

#[test]
fn a_failed_flush_drops_some_and_the_next_one_says_nothing_of_them() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(5);
    for sector in 0..64 {
        run(&mut disk, write(sector * 512, 1, 9), random);
    }
    let failing = disk.submit(command(OpKind::Flush, 0, 0));
    run(&mut disk, write(64 * 512, 1, 9), random);
    disk.complete(failing, Outcome::Failed, random);
    assert_eq!(disk.uncovered_sectors(), 1, "what came after it waits for the next");
    flush(&mut disk, random);
    let kept = (0..64).filter(|sector| disk.read(sector * 512, 1)[0] == 9).count();
    assert!((8..56).contains(&kept), "{kept} of 64 survived a failed flush");
    assert_eq!(after_crashes(&disk, 64 * 512), BTreeSet::from([9]));
}

#[test]
fn of_two_writes_at_the_device_together_either_is_the_newer() {
    let mut winners = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut disk = disk(Cache::Volatile);
        let random = &mut Random::new(seed);
        let first = disk.submit(write(0, 1, 1));
        let second = disk.submit(write(0, 1, 2));
        disk.complete(first, Outcome::Done, random);
        disk.complete(second, Outcome::Done, random);
        winners.insert(disk.read(0, 512)[0]);
        run(&mut disk, write(0, 1, 3), random);
        assert_eq!(disk.read(0, 512)[0], 3, "one that began after both had ended wins");
    }
    assert_eq!(winners, BTreeSet::from([1, 2]));
}

#[test]
fn a_disk_without_a_cache_keeps_what_completed() {
    let mut disk = disk(Cache::WriteThrough);
    run(&mut disk, write(0, 1, 7), &mut Random::new(6));
    assert_eq!(after_crashes(&disk, 0), BTreeSet::from([7]));
}

#[test]
fn a_failed_write_has_written_any_of_its_sectors() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(7);
    let failing = disk.submit(write(0, 64, 1));
    disk.complete(failing, Outcome::Failed, random);
    let written = (0..64).filter(|sector| disk.read(sector * 512, 512)[0] == 1).count();
    assert!((8..56).contains(&written), "{written} of 64");
}

#[test]
fn a_short_write_wrote_its_whole_sectors_and_a_short_read_ends_inside_one() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(8);
    let short = disk.submit(write(0, 4, 1));
    disk.complete(short, Outcome::Part(1300), random);
    assert_eq!(disk.read(0, 2048), [vec![1; 1024], vec![0; 1024]].concat());
    let read = disk.submit(command(OpKind::Read, 0, 2048));
    assert_eq!(disk.complete(read, Outcome::Part(1300), random).len(), 1300);
}

#[test]
fn a_discarded_sector_is_old_zero_or_garbage_and_a_zeroed_one_zero() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(9);
    run(&mut disk, write(0, 128, 1), random);
    run(&mut disk, command(OpKind::Discard, 0, 64 * 512), random);
    run(&mut disk, command(OpKind::WriteZeroes, 64 * 512, 64 * 512), random);
    let count = |byte: u8| {
        let sectors = (0..64).map(|sector| disk.read(sector * 512, 512));
        sectors.filter(|sector| sector.iter().all(|b| *b == byte)).count()
    };
    let (old, zero) = (count(1), count(0));
    assert!(old > 5 && zero > 5 && old + zero < 59, "{old} old, {zero} zero of 64");
    assert_eq!(disk.read(64 * 512, 64 * 512), vec![0; 64 * 512]);
    assert!(after_crashes(&disk, 64 * 512).contains(&1), "zeroing is not durable either");
}

#[test]
fn lost_and_misdirected_writes_are_told_as_done() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(10);
    let lost = disk.submit(write(0, 1, 1));
    disk.complete(lost, Outcome::Nothing, random);
    let astray = disk.submit(write(512, 1, 2));
    disk.complete(astray, Outcome::Elsewhere(8192), random);
    assert_eq!((disk.read(0, 1024), disk.read(8192, 512)), (vec![0; 1024], vec![2; 512]));
}

#[test]
fn rot_reaches_the_durable_content_and_all_versions() {
    let mut disk = disk(Cache::Volatile);
    run(&mut disk, write(0, 1, 1), &mut Random::new(11));
    disk.flip_bit(3, 7);
    assert_eq!((disk.read(0, 512)[3], disk.read(0, 512)[4]), (0x81, 1));
    assert_eq!(disk.candidates(0)[0][3], 0x80);
}

#[test]
fn a_killed_process_leaves_writes_that_land_later() {
    let mut disk = disk(Cache::WriteThrough);
    disk.submit(write(0, 1, 1));
    assert_eq!(disk.read(0, 512)[0], 0);
    disk.land_in_flight(&mut Random::new(12));
    assert_eq!((disk.read(0, 512)[0], disk.in_flight()), (1, 0));
}

#[test]
fn a_terabyte_costs_what_is_written_to_it() {
    let config = SimDiskConfig { size_bytes: 1 << 44, ..SimDiskConfig::default() };
    let mut disk = SimDisk::new(config);
    let random = &mut Random::new(13);
    run(&mut disk, write((1 << 44) - 512, 1, 1), random);
    flush(&mut disk, random);
    disk.crash(random);
    assert_eq!(disk.read((1 << 44) - 1024, 1024), [vec![0; 512], vec![1; 512]].concat());
    assert_eq!(disk.incarnation(), 1);
}

#[test]
fn a_durable_write_covers_its_own_sectors_and_drops_older_versions_of_them() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(14);
    run(&mut disk, write(0, 2, 1), random);
    run(&mut disk, Command { kind: OpKind::WriteDsync, ..write(0, 1, 2) }, random);
    assert_eq!(after_crashes(&disk, 0), BTreeSet::from([2]));
    assert_eq!(after_crashes(&disk, 512), BTreeSet::from([0, 1]), "its neighbour stays cached");
    run(&mut disk, write(0, 1, 3), random);
    assert_eq!(after_crashes(&disk, 0), BTreeSet::from([2, 3]), "a newer write is not covered");
}

#[test]
fn of_a_durable_write_and_a_write_at_the_device_together_either_is_newer() {
    for dsync_first in [true, false] {
        let mut newest = BTreeSet::new();
        for seed in 0..SEEDS {
            let (mut disk, random) = (disk(Cache::Volatile), &mut Random::new(seed));
            let forced = disk.submit(Command { kind: OpKind::WriteDsync, ..write(0, 1, 2) });
            let plain = disk.submit(write(0, 1, 1));
            let order = if dsync_first { [forced, plain] } else { [plain, forced] };
            for ticket in order {
                disk.complete(ticket, Outcome::Done, random);
            }
            newest.insert(disk.read(0, 1)[0]);
            assert!(!after_crashes(&disk, 0).contains(&0), "the durable one is there");
            // What is submitted afterwards is newer than both.
            run(&mut disk, write(0, 1, 3), random);
            assert_eq!(disk.read(0, 1)[0], 3);
        }
        assert_eq!(newest, BTreeSet::from([1, 2]), "durable first: {dsync_first}");
    }
}

#[test]
fn a_failed_durable_write_is_like_a_failed_write() {
    let mut kept = BTreeSet::new();
    for seed in 0..SEEDS {
        let (mut disk, random) = (disk(Cache::Volatile), &mut Random::new(seed));
        let failing = disk.submit(Command { kind: OpKind::WriteDsync, ..write(0, 1, 2) });
        disk.complete(failing, Outcome::Failed, random);
        disk.crash(random);
        kept.insert(disk.read(0, 1)[0]);
    }
    assert_eq!(kept, BTreeSet::from([0, 2]));
}

/// Every end of a crash, by trying each answer at each question.
fn all_crashes(disk: &SimDisk) -> Vec<(Vec<u64>, SimDisk)> {
    let mut ends = Vec::new();
    let mut answers: Vec<(usize, usize)> = Vec::new();
    loop {
        let (mut after, mut asked, mut offsets) = (disk.clone(), 0, Vec::new());
        after.crash_with(&mut |offset, count| {
            if asked == answers.len() {
                answers.push((0, count));
            }
            assert_eq!(answers[asked].1, count, "equal disks ask equal questions");
            asked += 1;
            offsets.push(offset);
            answers[asked - 1].0
        });
        ends.push((offsets, after));
        while answers.last().is_some_and(|(answer, count)| answer + 1 == *count) {
            answers.pop();
        }
        match answers.last_mut() {
            Some((answer, _)) => *answer += 1,
            None => return ends,
        }
    }
}

#[test]
fn a_chosen_crash_reaches_every_end_once() {
    let mut disk = disk(Cache::Volatile);
    let random = &mut Random::new(15);
    run(&mut disk, write(0, 1, 1), random);
    flush(&mut disk, random);
    run(&mut disk, write(0, 2, 2), random);
    run(&mut disk, write(0, 1, 3), random);
    run(&mut disk, write(1024, 1, 0), random);
    // Sector 0: 1, 2, 3. Sector 1: 0, 2, 9 and garbage. Sector 2: zeroes, however often. Sector 3:
    // 0, 9, garbage, because a write of two sectors is at the device, and a read beside it.
    disk.submit(command(OpKind::Read, 0, 4096));
    disk.submit(write(512, 1, 9));
    disk.submit(Command { kind: OpKind::WriteDsync, ..write(1536, 1, 9) });
    let ends = all_crashes(&disk);
    assert_eq!(ends.len(), 3 * 4 * 3);
    assert!(ends.iter().all(|(offsets, _)| *offsets == [0, 512, 1536]));
    let seen: BTreeSet<Vec<u8>> = ends.iter().map(|(_, end)| end.read(0, 2048)).collect();
    assert_eq!(seen.len(), ends.len());
    let hashes: BTreeSet<u64> = ends.iter().map(|(_, end)| end.image_hash()).collect();
    assert_eq!(hashes.len(), ends.len());
    let settled = |end: &SimDisk| end.in_flight() + end.uncovered_sectors() == 0;
    assert!(ends.iter().all(|(_, end)| settled(end) && end.incarnation() == 1));
    // A crash by chance ends in one of them, but for what the garbage is.
    for seed in 0..SEEDS {
        let mut by_chance = disk.clone();
        by_chance.crash(&mut Random::new(seed));
        assert!([1, 2, 3].contains(&by_chance.read(0, 1)[0]));
    }
    assert_eq!(disk.in_flight(), 3, "a copy's crash is its own");
}

#[test]
#[should_panic(expected = "has 2 possibilities, not 2")]
fn a_crash_with_an_impossible_choice_is_refused() {
    let mut disk = disk(Cache::Volatile);
    run(&mut disk, write(0, 1, 1), &mut Random::new(16));
    disk.crash_with(&mut |_, count| count);
}

#[test]
fn equal_bytes_have_equal_hashes_and_copies_change_alone() {
    let random = &mut Random::new(17);
    let (mut one, mut other) = (disk(Cache::WriteThrough), disk(Cache::WriteThrough));
    assert_eq!(one.image_hash(), 0);
    for sector in 0..300 {
        run(&mut one, write(sector * 512, 1, sector as u8), random);
    }
    run(&mut other, write(0, 300, 5), random);
    for sector in (0..300).rev() {
        run(&mut other, write(sector * 512, 1, sector as u8), random);
    }
    assert_eq!(one.image_hash(), other.image_hash());
    let (copy, before) = (one.clone(), one.image_hash());
    run(&mut one, write(299 * 512, 1, 1), random);
    assert_ne!(one.image_hash(), before);
    assert_eq!((copy.image_hash(), copy.read(299 * 512, 1)[0]), (before, 43));
    run(&mut one, write(299 * 512, 1, 43), random);
    assert_eq!(one.image_hash(), before);
    // The same bytes in another place are another image; so is a cached write no part of one.
    let mut moved = disk(Cache::WriteThrough);
    run(&mut moved, write(512, 1, 7), random);
    run(&mut other, command(OpKind::WriteZeroes, 0, 300 * 512), random);
    assert_eq!(other.image_hash(), 0, "zeroes are as if never written");
    run(&mut other, write(0, 1, 7), random);
    assert_ne!(moved.image_hash(), other.image_hash());
    let mut cached = disk(Cache::Volatile);
    run(&mut cached, write(0, 1, 7), random);
    assert_eq!(cached.image_hash(), 0);
}

/// What 100,000 recoveries cost: prints the time of each step. Run by name, in a release build.
#[test]
#[ignore = "it measures"]
fn the_cost_of_a_crash_and_a_copy() {
    let size_bytes = 64 << 20;
    for block in [512, 4096] {
        let config = SimDiskConfig { size_bytes, logical_block_bytes: block, ..Default::default() };
        let mut base = SimDisk::new(config);
        let random = &mut Random::new(1);
        for offset in (0..size_bytes).step_by(1 << 20) {
            run(&mut base, write(offset, 2048, (offset >> 20) as u8 | 1), random);
        }
        flush(&mut base, random);
        let rounds = 200;
        let mut spent = [std::time::Duration::ZERO; 5];
        for _ in 0..rounds {
            let mut at = std::time::Instant::now();
            let mut lap = |step: usize| {
                spent[step] += at.elapsed();
                at = std::time::Instant::now();
            };
            let mut disk = base.clone();
            lap(0);
            for n in 0..16 {
                run(&mut disk, write(random.below(size_bytes / 65_536) * 65_536, 128, n), random);
            }
            lap(1);
            flush(&mut disk, random);
            run(&mut disk, write(random.below(1000) * 65_536, 128, 1), random);
            lap(2);
            disk.crash(random);
            lap(3);
            drop(disk);
            lap(4);
        }
        let names = ["clone", "16 writes of 64 KiB", "flush and write", "crash", "drop"];
        for (name, spent) in names.iter().zip(spent) {
            eprintln!("{block}: {name}: {:?}", spent / rounds);
        }
    }
}
