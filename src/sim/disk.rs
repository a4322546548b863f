//! A disk in memory, with a volatile cache that loses what a real one may lose.
//!
//! Each sector has its durable content and the versions written since, in the order in which the
//! device took them. The rules:
//!
//! - A write becomes a version when it completes. Reads see the newest version. Of two writes that
//!   were at the device together, either may be the newer, whichever completed first.
//! - **Completed is not durable.** Only a flush makes versions durable, and only those that had
//!   *completed* before the flush was *submitted*.
//! - A durable write (`WriteDsync`) makes its own sectors durable when it completes, and no others.
//!   Versions that it is newer than are gone with it; one that failed is like a failed write.
//! - A failed flush makes some of them durable and drops the others; the next flush succeeds and
//!   says nothing of them.
//! - A failed write has written any of its sectors.
//! - A crash leaves each sector, independently of the others, durable or in any later version;
//!   sectors of writes that were at the device are old, new, or garbage.
//! - A discarded sector is old, zero or garbage afterwards.
//!
//! Storage is sparse: sectors that were never written cost nothing and read as zeroes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::io::op::OpKind;
use crate::sim::random::Random;
use crate::sim::sectors::{Content, Sectors};

/// Whether a disk has a volatile write cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// A write is durable after a flush.
    Volatile,
    /// A completed write is durable: power-loss protection, or no cache.
    WriteThrough,
}

/// What a simulated disk is.
#[derive(Clone, Debug)]
pub struct SimDiskConfig {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical block, the unit of every guarantee, bytes.
    pub logical_block_bytes: u32,
    /// See [`Cache`].
    pub cache: Cache,
    /// A raw device rather than a file; it decides what `ENOSPC` means.
    pub raw_device: bool,
    /// As of the block layer; 0 when unknown.
    pub nr_requests: u32,
    /// Bounds of a read's time at the device, nanoseconds.
    pub read_ns: RangeInclusive<u64>,
    /// Bounds of a write's.
    pub write_ns: RangeInclusive<u64>,
    /// Bounds of a flush's, discard's or write-zeroes'.
    pub command_ns: RangeInclusive<u64>,
}

impl Default for SimDiskConfig {
    fn default() -> Self {
        SimDiskConfig {
            size_bytes: 1 << 30,
            logical_block_bytes: 512,
            cache: Cache::Volatile,
            raw_device: true,
            nr_requests: 1023,
            read_ns: 50_000..=400_000,
            write_ns: 10_000..=900_000,
            command_ns: 100_000..=3_000_000,
        }
    }
}

#[derive(Clone, Debug)]
struct Version {
    /// How many changes had completed when this one did, itself included.
    completed: u64,
    content: Content,
}

/// A command at the device.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) kind: OpKind,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// What a write writes.
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug)]
struct InFlight {
    command: Command,
    /// How many changes had completed when it was submitted.
    submitted: u64,
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The first bytes only.
    Part(u64),
    /// Any of its sectors; of a flush: any of what it covers, and the rest is dropped.
    Failed,
    /// Nothing happened, whatever is reported.
    Nothing,
    /// It happened there.
    Elsewhere(u64),
}

/// See the module. A clone is a snapshot of all of it, what is at the device included; it shares
/// what it holds with the original until one of them changes it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    config: SimDiskConfig,
    durable: Sectors,
    /// Versions since the last covering flush, oldest first.
    cached: BTreeMap<u64, Vec<Version>>,
    in_flight: BTreeMap<u64, InFlight>,
    /// Sectors that a durable write wrote while other commands were at the device, and how many
    /// changes had completed with it: a write submitted before that may be the older one.
    forced: BTreeMap<u64, u64>,
    next_ticket: u64,
    completed: u64,
    incarnation: u64,
    gone: bool,
}

impl SimDisk {
    /// Has more sectors from now on, which nobody has written. A simulation learns of it when it is
    /// made of the disk.
    pub fn grow(&mut self, size_bytes: u64) {
        assert!(size_bytes >= self.config.size_bytes, "a disk does not shrink");
        self.config.size_bytes = size_bytes;
    }

    /// A disk of zeroes.
    ///
    /// # Panics
    /// When the size is not whole logical blocks.
    pub fn new(config: SimDiskConfig) -> SimDisk {
        assert!(config.size_bytes.is_multiple_of(u64::from(config.logical_block_bytes)));
        SimDisk {
            config,
            durable: Sectors::default(),
            cached: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            forced: BTreeMap::new(),
            next_ticket: 0,
            completed: 0,
            incarnation: 0,
            gone: false,
        }
    }

    /// What it is.
    pub fn config(&self) -> &SimDiskConfig {
        &self.config
    }

    /// How often its power has failed.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What a read would give now; the range need not be whole sectors.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let (first, end) = (offset / self.block(), (offset + len).div_ceil(self.block()));
        let mut bytes = Vec::with_capacity(((end - first) * self.block()) as usize);
        for sector in first..end {
            self.append(&mut bytes, self.newest(sector));
        }
        bytes.drain(..(offset % self.block()) as usize);
        bytes.truncate(len as usize);
        bytes
    }

    /// Every content that one sector may have after a crash now, the durable one first; writes at
    /// the device are not among them.
    pub fn candidates(&self, offset: u64) -> Vec<Vec<u8>> {
        let sector = offset / self.block();
        let versions = self.cached.get(&sector).into_iter().flatten();
        let contents = std::iter::once(self.durable.get(sector))
            .chain(versions.map(|version| version.content.clone()));
        let bytes = contents.map(|content| {
            let mut bytes = Vec::new();
            self.append(&mut bytes, content);
            bytes
        });
        bytes.collect()
    }

    /// Sectors with a version that no flush has covered.
    pub fn uncovered_sectors(&self) -> usize {
        self.cached.len()
    }

    /// Commands at the device.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The power fails: see the module. The disk can be used again afterwards.
    pub fn crash(&mut self, random: &mut Random) {
        for (sector, versions) in std::mem::take(&mut self.cached) {
            let survivor = random.below(versions.len() as u64 + 1) as usize;
            if survivor > 0 {
                self.store(sector, versions[survivor - 1].content.clone());
            }
        }
        let mut in_flight: Vec<InFlight> =
            std::mem::take(&mut self.in_flight).into_values().collect();
        self.forced.clear();
        while !in_flight.is_empty() {
            let next = random.below(in_flight.len() as u64) as usize;
            let InFlight { command, .. } = in_flight.swap_remove(next);
            self.tear(&command, random);
        }
        self.incarnation += 1;
    }

    /// The power fails, and `choose` says what each sector is left with, so that a test can go
    /// through all that is possible. It is asked once for each sector with more than one
    /// possibility, in ascending order, with the sector's offset in bytes and how many
    /// possibilities there are, and answers with the number of one: 0 the durable content, then the
    /// versions that no flush covered, oldest first, then what commands at the device would leave
    /// there, and last garbage, if there is such a command. What is equal is one possibility.
    ///
    /// # Panics
    /// When the answer is not less than the number of possibilities.
    pub fn crash_with(&mut self, choose: &mut dyn FnMut(u64, usize) -> usize) {
        for (sector, contents) in self.possibilities() {
            let count = contents.len();
            let chosen = if count > 1 { choose(sector * self.block(), count) } else { 0 };
            assert!(chosen < count, "sector {sector} has {count} possibilities, not {chosen}");
            if chosen > 0 {
                self.store(sector, contents[chosen].clone());
            }
        }
        self.cached.clear();
        self.in_flight.clear();
        self.forced.clear();
        self.incarnation += 1;
    }

    /// What each sector that is not settled may hold after a crash; the durable content first.
    fn possibilities(&self) -> BTreeMap<u64, Vec<Content>> {
        let mut open: BTreeMap<u64, Vec<Content>> = BTreeMap::new();
        for (sector, versions) in &self.cached {
            let contents = versions.iter().map(|version| version.content.clone());
            open.entry(*sector).or_default().extend(contents);
        }
        let mut torn = BTreeSet::new();
        for InFlight { command, .. } in self.in_flight.values() {
            if matches!(command.kind, OpKind::Read | OpKind::Flush) {
                continue;
            }
            for (index, sector) in self.sectors(command.offset, command.len).enumerate() {
                open.entry(sector).or_default().push(self.piece(command, index));
                torn.insert(sector);
            }
        }
        for (sector, contents) in &mut open {
            contents.insert(0, self.durable.get(*sector));
            if torn.contains(sector) {
                contents.push(self.garbage(&mut Random::new(*sector ^ self.incarnation << 48)));
            }
            let all = std::mem::take(contents);
            for content in all {
                if !contents.iter().any(|other| same(other, &content)) {
                    contents.push(content);
                }
            }
        }
        open
    }

    /// One number for the durable content: equal for equal bytes.
    pub fn image_hash(&self) -> u64 {
        self.durable.hash()
    }

    fn tear(&mut self, command: &Command, random: &mut Random) {
        if matches!(command.kind, OpKind::Read | OpKind::Flush) {
            return;
        }
        for (index, sector) in self.sectors(command.offset, command.len).enumerate() {
            match random.below(3) {
                0 => {}
                1 => self.store(sector, self.piece(command, index)),
                _ => {
                    let garbage = self.garbage(random);
                    self.store(sector, garbage);
                }
            }
        }
    }

    /// Writes that were at the device when their process died land now, in any order, as they do
    /// seconds after a kill.
    pub fn land_in_flight(&mut self, random: &mut Random) {
        while !self.in_flight.is_empty() {
            let tickets: Vec<u64> = self.in_flight.keys().copied().collect();
            self.complete(*random.pick(&tickets), Outcome::Done, random);
        }
    }

    /// Flips one bit of what is stored, in every version: the medium rots.
    pub fn flip_bit(&mut self, offset: u64, bit: u8) {
        let (sector, at) = (offset / self.block(), (offset % self.block()) as usize);
        let block = self.block() as usize;
        let flip = |content: &Content| {
            let mut bytes = content.as_ref().map_or_else(|| vec![0; block], |bytes| bytes.to_vec());
            bytes[at] ^= 1 << (bit % 8);
            bytes.into()
        };
        if let Some(versions) = self.cached.get_mut(&sector) {
            versions.iter_mut().for_each(|version| version.content = Some(flip(&version.content)));
        }
        let durable = flip(&self.durable.get(sector));
        self.store(sector, Some(durable));
    }

    /// Writes behind the engine's back, durably: another program, or a fault of the medium.
    ///
    /// # Panics
    /// When `offset` or the length is not whole logical blocks.
    pub fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        assert!((offset | bytes.len() as u64).is_multiple_of(self.block()), "whole sectors only");
        let sectors = self.sectors(offset, bytes.len() as u64);
        for (sector, bytes) in sectors.zip(bytes.chunks(self.config.logical_block_bytes as usize)) {
            self.cached.remove(&sector);
            self.store(sector, Some(bytes.into()));
        }
    }

    /// The device disappears: writes say `ENOSPC`, reads zero bytes, everything else `EIO`.
    pub fn unplug(&mut self) {
        self.gone = true;
    }

    /// It comes back. What its cache held and no flush covered, it may have lost.
    pub fn plug(&mut self, random: &mut Random) {
        self.gone = false;
        self.crash(random);
    }

    /// Whether it is unplugged.
    pub fn is_gone(&self) -> bool {
        self.gone
    }
}

impl SimDisk {
    fn block(&self) -> u64 {
        u64::from(self.config.logical_block_bytes)
    }

    fn sectors(&self, offset: u64, len: u64) -> std::ops::Range<u64> {
        offset / self.block()..(offset + len) / self.block()
    }

    fn newest(&self, sector: u64) -> Content {
        match self.cached.get(&sector).and_then(|versions| versions.last()) {
            Some(version) => version.content.clone(),
            None => self.durable.get(sector),
        }
    }

    fn append(&self, bytes: &mut Vec<u8>, content: Content) {
        match content {
            Some(content) => bytes.extend_from_slice(&content),
            None => bytes.resize(bytes.len() + self.config.logical_block_bytes as usize, 0),
        }
    }

    fn store(&mut self, sector: u64, content: Content) {
        self.durable.set(sector, content);
    }

    fn garbage(&self, random: &mut Random) -> Content {
        let mut bytes = vec![0; self.config.logical_block_bytes as usize];
        random.fill(&mut bytes);
        Some(bytes.into())
    }

    /// What a command leaves in its `index`th sector.
    fn piece(&self, command: &Command, index: usize) -> Content {
        let block = self.config.logical_block_bytes as usize;
        match command.kind {
            OpKind::Write | OpKind::WriteDsync => {
                let bytes = &command.data[index * block..(index + 1) * block];
                // Zeroes are what a sector holds that nobody wrote, and cost nothing.
                bytes.iter().any(|byte| *byte != 0).then(|| bytes.into())
            }
            _ => None,
        }
    }

    /// A command reaches the device.
    pub(crate) fn submit(&mut self, command: Command) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.in_flight.insert(ticket, InFlight { command, submitted: self.completed });
        ticket
    }

    /// A command ends; what a read has read comes back.
    ///
    /// # Panics
    /// When no command of that number is at the device.
    pub(crate) fn complete(
        &mut self,
        ticket: u64,
        outcome: Outcome,
        random: &mut Random,
    ) -> Vec<u8> {
        let InFlight { mut command, submitted } =
            self.in_flight.remove(&ticket).expect("a command completes once");
        let bytes = match outcome {
            Outcome::Part(bytes) => bytes.min(command.len),
            Outcome::Nothing => return Vec::new(),
            _ => command.len,
        };
        if let Outcome::Elsewhere(target) = outcome {
            let last = self.config.size_bytes.saturating_sub(command.len);
            command.offset = target % (last + 1) / self.block() * self.block();
        }
        match command.kind {
            OpKind::Read if outcome == Outcome::Failed => return Vec::new(),
            OpKind::Read => return self.read(command.offset, bytes),
            OpKind::Flush => self.flush(submitted, outcome, random),
            _ => self.change(&command, submitted, (bytes, outcome), random),
        }
        Vec::new()
    }

    fn change(
        &mut self,
        command: &Command,
        submitted: u64,
        (bytes, outcome): (u64, Outcome),
        random: &mut Random,
    ) {
        self.completed += 1;
        for (index, sector) in self.sectors(command.offset, bytes).enumerate() {
            if outcome == Outcome::Failed && random.coin() {
                continue;
            }
            let content = if command.kind == OpKind::Discard {
                match random.below(3) {
                    0 => continue,
                    1 => None,
                    _ => self.garbage(random),
                }
            } else {
                self.piece(command, index)
            };
            if self.config.cache == Cache::WriteThrough {
                self.store(sector, content);
                continue;
            }
            let versions = self.cached.entry(sector).or_default();
            // Not before what had completed when this was submitted; among the rest anywhere.
            let known = versions.iter().rposition(|version| version.completed <= submitted);
            let first = known.map_or(0, |position| position + 1) as u64;
            let unordered = self.forced.get(&sector).is_some_and(|forced| *forced > submitted);
            if first == 0 && unordered && random.below(versions.len() as u64 + 2) == 0 {
                // It is older than a durable write that was at the device with it.
                self.forget_if_clean(sector);
                continue;
            }
            let at = random.within(&(first..=versions.len() as u64)) as usize;
            if command.kind == OpKind::WriteDsync && outcome != Outcome::Failed {
                versions.drain(..at);
                self.forced.insert(sector, self.completed);
                self.forget_if_clean(sector);
                self.store(sector, content);
                continue;
            }
            versions.insert(at, Version { completed: self.completed, content });
        }
        if self.in_flight.is_empty() {
            self.forced.clear();
        }
    }

    fn forget_if_clean(&mut self, sector: u64) {
        if self.cached.get(&sector).is_some_and(Vec::is_empty) {
            self.cached.remove(&sector);
        }
    }

    /// `submitted` changes had completed when the flush was submitted: those it covers.
    fn flush(&mut self, submitted: u64, outcome: Outcome, random: &mut Random) {
        let mut kept = BTreeMap::new();
        for (sector, mut versions) in std::mem::take(&mut self.cached) {
            let covered = versions.iter().rposition(|version| version.completed <= submitted);
            if let Some(newest) = covered {
                if outcome != Outcome::Failed || random.coin() {
                    self.store(sector, versions[newest].content.clone());
                }
                versions.drain(..=newest);
            }
            if !versions.is_empty() {
                kept.insert(sector, versions);
            }
        }
        self.cached = kept;
    }
}

/// Whether two contents are the same bytes; none are zeroes.
fn same(one: &Content, other: &Content) -> bool {
    let zeroes = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        (Some(bytes), None) | (None, Some(bytes)) => zeroes(bytes),
        (None, None) => true,
    }
}
