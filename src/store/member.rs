//! The disks of a pool, as its commit domains see them: by slot.
//!
//! A slot has blocks of its own, and one or more [`MirrorDisk`]s that hold the same. A domain's
//! journal is in one slot, its **home**; metadata pages and data are in any. Everything above names
//! a slot alone: `store/mirror.rs` takes a request to all disks of it, or to one that answers.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::format::extent::Place;
use crate::format::label::Label;
use crate::format::layout::{BLOCK_BYTES, Layout};
use crate::format::mirror_set::MirrorSet;
use crate::format::removals::SlotFate;
use crate::io::error::IoError;
use crate::io::op::{DiskId, Priority, Request};
use crate::memory::DmaBuf;
use crate::store::assembly::Assembly;
use crate::store::disk_flushes::DiskFlushes;
use crate::store::membership::Membership;
use crate::store::mirror::ReadTimes;
use crate::store::mirror_list::MirrorList;
use crate::store::pool::LabelCopies;
use crate::store::port::Port;
use crate::store::slot_list::SlotList;
use crate::store::transfers::Board;

/// How long to wait before looking again whether another domain's flush has ended.
const LOOK_AGAIN_NS: u64 = 20_000;

/// What a disk of a slot is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum MirrorState {
    /// It has everything: it is read and written.
    InSync,
    /// It gets everything that is written, and not all is there yet: it is not read.
    Syncing,
    /// It failed, and no label calls it in sync any more: nothing goes there.
    Out,
}

/// A disk of a slot.
#[derive(Debug)]
pub struct MirrorDisk {
    /// As the engine numbers it.
    pub disk: DiskId,
    /// For messages.
    pub path: Arc<str>,
    /// Its label when the pool was opened; epoch and disks in sync have changed since.
    pub label: Label,
    /// What lay at the places of its copies.
    pub(crate) label_copies: LabelCopies,
    /// Bytes of its logical sectors.
    pub sector: usize,
    state: AtomicU8,
    /// Bytes of the disk that its label is made for: more than when the pool was opened, if it has
    /// grown.
    pub(crate) made_for: AtomicU64,
    /// How fast it reads.
    pub(crate) times: ReadTimes,
    /// Writes that were given up on, and that it has not answered yet.
    pub(crate) given_up: Arc<AtomicU32>,
    /// Domains that have brought it all that they have.
    pub(crate) synced_domains: AtomicU64,
    /// Extents that were looked at to bring it into sync, of all domains.
    pub(crate) sync_looked_at: AtomicU64,
    /// Blocks that were copied to it.
    pub(crate) sync_copied: AtomicU64,
    /// Blocks that no disk of the slot has right.
    pub(crate) sync_lost: AtomicU64,
    /// Its slot is gone, and it was let go.
    pub(crate) is_let_go: AtomicBool,
    /// It came with nothing of the pool, so there is nothing to look at before it is copied there.
    pub is_blank: bool,
    /// Memory for its label: there may be none left when it is needed.
    pub(crate) label_buffer: Mutex<Option<DmaBuf>>,
}

impl MirrorDisk {
    /// A disk, and memory of a sector for its label.
    pub fn new(
        (disk, path): (DiskId, Arc<str>),
        (label, label_copies): (Label, LabelCopies),
        state: MirrorState,
        label_buffer: DmaBuf,
    ) -> MirrorDisk {
        MirrorDisk {
            disk,
            path,
            label,
            label_copies,
            sector: label_buffer.len(),
            state: AtomicU8::new(state as u8),
            made_for: AtomicU64::new(label.layout.disk_bytes()),
            times: ReadTimes::default(),
            given_up: Arc::default(),
            synced_domains: AtomicU64::new(0),
            sync_looked_at: AtomicU64::new(0),
            sync_copied: AtomicU64::new(0),
            sync_lost: AtomicU64::new(0),
            is_let_go: AtomicBool::new(false),
            is_blank: false,
            label_buffer: Mutex::new(Some(label_buffer)),
        }
    }

    /// Zones of it.
    pub(crate) fn layout(&self) -> Layout {
        let layout = self.label.layout;
        // It was made for as many bytes before, or is judged before it is.
        layout.for_disk(self.made_for.load(Ordering::Acquire)).unwrap_or(layout)
    }

    /// Its number in the pool.
    pub(crate) fn number(&self) -> usize {
        self.label.number()
    }

    /// What it is good for.
    pub fn state(&self) -> MirrorState {
        match self.state.load(Ordering::Acquire) {
            0 => MirrorState::InSync,
            1 => MirrorState::Syncing,
            _ => MirrorState::Out,
        }
    }

    pub(crate) fn set_state(&self, state: MirrorState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Whether a block is to be on it.
    pub(crate) fn has(&self, place: Place) -> bool {
        place.slot() == self.label.slot && place.mirrors().includes(self.label.mirror.number)
    }

    /// Whether it may be read.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.state() == MirrorState::InSync
    }
}

/// A slot of a pool.
#[derive(Debug)]
pub struct Member {
    /// Its disks that are there, at least one of them in sync.
    pub mirrors: MirrorList,
    /// What the domains tell each other of its flushes.
    pub flushes: Arc<DiskFlushes>,
    /// In parts of how many bytes it is told of what became free; 0: never.
    pub discard_part_bytes: u64,
    fate: AtomicU8,
    /// Sets of mirrors that have blocks which the others have not: bit `n` is the set with bits
    /// `n`.
    sets: AtomicU16,
    /// It is gone, and nothing is written to its disks any more.
    pub(crate) is_released: AtomicBool,
    /// Domains that have nothing there any more and will not have, a bit each: only a domain
    /// changes its own.
    pub(crate) left_domains: AtomicU64,
}

impl Member {
    /// Without disks, and with this fate.
    pub(crate) fn new(discard_part_bytes: u64, fate: SlotFate) -> Member {
        Member {
            mirrors: MirrorList::default(),
            flushes: Arc::default(),
            discard_part_bytes,
            fate: AtomicU8::new(fate as u8),
            sets: AtomicU16::new(0),
            is_released: AtomicBool::new(fate == SlotFate::Gone),
            left_domains: AtomicU64::new(0),
        }
    }

    /// What becomes of it, as its pool's labels say.
    pub fn fate(&self) -> SlotFate {
        match self.fate.load(Ordering::Acquire) {
            0 => SlotFate::Stays,
            1 => SlotFate::Leaving,
            _ => SlotFate::Gone,
        }
    }

    pub(crate) fn set_fate(&self, fate: SlotFate) {
        self.fate.store(fate as u8, Ordering::Release);
    }

    /// Whether anything of the pool is there.
    pub(crate) fn is_there(&self) -> bool {
        self.fate() != SlotFate::Gone
    }

    /// Its disks of a set of mirrors.
    pub(crate) fn of(&self, set: MirrorSet) -> impl Iterator<Item = &Arc<MirrorDisk>> + Clone {
        self.mirrors.iter().filter(move |mirror| set.includes(mirror.label.mirror.number))
    }

    /// Some of its blocks are on these mirrors alone.
    pub(crate) fn note_set(&self, set: MirrorSet) {
        self.sets.fetch_or(1 << set.bits(), Ordering::AcqRel);
    }

    /// Whether some blocks would be on no disk in sync, were this one not.
    pub(crate) fn needs(&self, mirror: &MirrorDisk) -> bool {
        let sets = self.sets.load(Ordering::Acquire);
        let sets = (0..16).filter(|bits| sets & 1 << bits != 0).map(MirrorSet::of_bits);
        let is_last = |set: MirrorSet| {
            let others = self.of(set).filter(|other| other.number() != mirror.number());
            set.includes(mirror.label.mirror.number)
                && !others.into_iter().any(|other| other.is_in_sync())
        };
        sets.into_iter().any(is_last)
    }

    /// Its disks that may be read.
    pub(crate) fn in_sync(&self) -> impl Iterator<Item = &Arc<MirrorDisk>> + Clone {
        self.mirrors.iter().filter(|mirror| mirror.is_in_sync())
    }

    fn first(&self) -> &Arc<MirrorDisk> {
        self.mirrors.first().unwrap_or_else(|| unreachable!("a slot has a disk"))
    }

    /// What all labels of the slot say, as its first one does.
    pub(crate) fn label(&self) -> Label {
        Label { layout: self.layout(), ..self.first().label }
    }

    /// Zones of each of its disks.
    pub(crate) fn layout(&self) -> Layout {
        self.first().layout()
    }

    /// The first of its disks, by number.
    pub(crate) fn first_disk(&self) -> DiskId {
        self.first().disk
    }

    /// For messages: the path of its disk, or of the first that may be read.
    pub(crate) fn path(&self) -> Arc<str> {
        let first = self.in_sync().next().or(self.mirrors.first());
        first.map_or_else(|| "?".into(), |mirror| Arc::clone(&mirror.path))
    }
}

/// How disks are brought into sync, as long as somebody may say otherwise.
#[derive(Debug, Default)]
pub struct SyncOrders {
    /// It waits.
    pub(crate) paused: AtomicBool,
    /// Bytes that each domain reads in a second at most, of each disk; 0: no bound.
    pub(crate) bytes_per_second: AtomicU64,
}

impl SyncOrders {
    /// Changes what is given; the rate is in MiB a second, of so many domains together.
    pub fn set(&self, paused: Option<bool>, mib_per_second: Option<u32>, domains: u64) {
        if let Some(paused) = paused {
            self.paused.store(paused, Ordering::Relaxed);
        }
        if let Some(mib) = mib_per_second {
            let share = (u64::from(mib) << 20).div_ceil(domains.max(1));
            self.bytes_per_second.store(share, Ordering::Relaxed);
        }
    }

    /// Whether it waits, and the bytes that each domain reads in a second at most; 0: no bound.
    #[must_use]
    pub fn now(&self) -> (bool, u64) {
        (self.paused.load(Ordering::Relaxed), self.bytes_per_second.load(Ordering::Relaxed))
    }
}

/// All of a pool, as its domains share it.
#[derive(Debug)]
pub struct Disks {
    /// By slot.
    pub members: SlotList,
    /// Which of them are in sync.
    pub membership: Membership,
    /// How long a disk may take to answer a write, when another of its slot has answered.
    pub hung_after_ns: u64,
    /// How disks are brought into sync.
    pub sync: SyncOrders,
    /// What the domains tell each other of their space.
    pub(crate) board: Board,
    /// Whether a read that is slow is sent to another disk too.
    pub hedged_reads: bool,
}

/// Longer than a disk takes that finds bad sectors and gives up.
pub const HUNG_AFTER_NS: u64 = 15_000_000_000;

impl Disks {
    /// The slot with a domain's journal, as the labels say.
    pub fn home_of(&self, domain: u16) -> u16 {
        Label { removals: self.membership.removals(), ..*self.label() }.home(domain)
    }

    /// A disk that is driven by all reactors: of the first slot that is there.
    pub(crate) fn any_disk(&self) -> DiskId {
        let there = self.members.iter().find(|member| member.is_there());
        there.unwrap_or_else(|| unreachable!("a pool has a slot")).first_disk()
    }

    /// What all labels of the pool say, as the first one does; but for epoch, disks in sync, and
    /// slots that leave.
    pub fn label(&self) -> &Label {
        let mut all = self.members.iter().flat_map(|member| member.mirrors.iter());
        &all.next().unwrap_or_else(|| unreachable!("a pool has a disk")).label
    }

    /// The disks of a pool that was judged. `disk` makes each of them, and says in parts of how
    /// many bytes it is told of what became free.
    ///
    /// # Errors
    /// Those of `disk`.
    pub fn new<E>(
        assembly: &Assembly,
        mut disk: impl FnMut(usize, MirrorState) -> Result<(MirrorDisk, u64), E>,
    ) -> Result<Disks, E> {
        let removals = assembly.label.removals;
        let mut members: Vec<Member> =
            (0..assembly.label.slots).map(|slot| Member::new(0, removals.fate(slot))).collect();
        for (index, state) in &assembly.disks {
            let (mirror, part_bytes) = disk(*index, *state)?;
            let member = &mut members[usize::from(mirror.label.slot)];
            member.discard_part_bytes = member.discard_part_bytes.max(part_bytes);
            if member.mirrors.push(Arc::new(mirror)).is_err() {
                unreachable!("a slot has at most four disks")
            }
        }
        for member in &members {
            // One that was cut short while the slot grew has the label from before.
            let in_sync = member.in_sync().max_by_key(|mirror| mirror.label.epoch);
            let bytes = in_sync.map_or(0, |mirror| mirror.label.layout.disk_bytes());
            let all = member.mirrors.iter().filter(|_| bytes > 0);
            all.for_each(|mirror| mirror.made_for.store(bytes, Ordering::Release));
        }
        let (epoch, in_sync) = (assembly.label.epoch, assembly.label.mirror.in_sync);
        let members = SlotList::new(members);
        let membership = Membership::new(epoch, in_sync, removals);
        let (sync, board) = (SyncOrders::default(), Board::new(assembly.label.layout.domains()));
        let hung_after_ns = HUNG_AFTER_NS;
        Ok(Disks { members, membership, hung_after_ns, sync, board, hedged_reads: true })
    }

    /// Why a disk cannot come to a place, if so.
    pub(crate) fn refusal(&self, slot: u16, number: u16) -> Option<String> {
        let label = self.label();
        let (slots, count) = (self.members.len() as u16, label.mirror.count);
        if count == 1 {
            let reason = "nothing else has what the other disk had: the pool has no mirrors";
            return Some(reason.to_owned());
        }
        if slot >= slots || number >= count {
            return Some(format!("the pool has {slots} slots with {count} mirrors each"));
        }
        if !self.members[usize::from(slot)].is_there() {
            return Some(format!("slot {slot} was removed from the pool"));
        }
        if self.members[usize::from(slot)].fate() == SlotFate::Leaving {
            return Some(format!("slot {slot} is leaving the pool"));
        }
        let mut there = self.members[usize::from(slot)].mirrors.iter();
        let used = there.find(|mirror| {
            mirror.label.mirror.number == number && mirror.state() != MirrorState::Out
        });
        let path = &used?.path;
        Some(format!("{path} is there, and in use: it is mirror {number} of slot {slot}"))
    }
}

/// How well a set of mirrors takes data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fitness {
    /// None of its disks has everything.
    Unfit,
    /// Some have: the others get it later.
    Degraded,
    /// All have.
    Whole,
}

/// The disks of a pool, by slot, and which slot is home.
#[derive(Clone, Debug)]
pub struct Members {
    disks: Arc<Disks>,
    /// It changes when the slot leaves.
    home: Cell<u16>,
}

impl Members {
    /// Of the domain whose journal is in slot `home`.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn new(disks: Arc<Disks>, home: u16) -> Members {
        assert!(usize::from(home) < disks.members.len(), "a journal is in a slot of the pool");
        Members { disks, home: Cell::new(home) }
    }

    /// All that domains share.
    pub(crate) fn disks(&self) -> &Arc<Disks> {
        &self.disks
    }

    /// All of them, by slot.
    pub(crate) fn all(&self) -> &SlotList {
        &self.disks.members
    }

    /// Every slot where anything of the pool is.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u16> + '_ {
        (0..).zip(self.all().iter()).filter(|(_, member)| member.is_there()).map(|(slot, _)| slot)
    }

    /// The journal's slot.
    pub(crate) fn home_slot(&self) -> u16 {
        self.home.get()
    }

    /// The journal is in this slot from now on.
    pub(crate) fn move_home(&self, slot: u16) {
        self.home.set(slot);
    }

    /// What is in it.
    pub(crate) fn home(&self) -> &Member {
        self.at(self.home.get())
    }

    /// What is in a slot, if there is one of that number.
    pub(crate) fn get(&self, slot: u16) -> Option<&Member> {
        self.all().get(usize::from(slot))
    }

    /// What is in a slot of this pool.
    pub(crate) fn at(&self, slot: u16) -> &Member {
        &self.all()[usize::from(slot)]
    }

    /// Where a block that somebody owns is: slot and mirrors as [`Members::submit`] takes it, and
    /// the offset in bytes.
    pub(crate) fn address(place: Place) -> (DiskId, u64) {
        (DiskId(place.target()), place.block() * BLOCK_BYTES)
    }

    /// How well a set of mirrors in a slot takes data.
    pub(crate) fn fitness(&self, slot: u16, set: MirrorSet) -> Fitness {
        let there = self.at(slot).of(set).filter(|mirror| mirror.is_in_sync()).count() as u16;
        match there {
            0 => Fitness::Unfit,
            all if all == set.copies(self.disks.label().mirror.count) => Fitness::Whole,
            _ => Fitness::Degraded,
        }
    }

    /// For messages: of a block, the path of a disk that has it.
    pub(crate) fn path_of(&self, place: Place) -> Arc<str> {
        let member = self.at(place.slot());
        let mirror = member.of(place.mirrors()).next();
        mirror.map_or_else(|| member.path(), |mirror| Arc::clone(&mirror.path))
    }

    /// Commit domains of the pool.
    pub(crate) fn domains(&self) -> u16 {
        self.home().layout().domains()
    }

    /// Flushes a slot for a domain, and counts it if it fails: what has completed and no flush has
    /// covered may be lost then.
    pub(crate) async fn flush(
        &self,
        port: &Port,
        domain: u16,
        slot: u16,
    ) -> Result<(), Box<IoError>> {
        let member = self.at(slot);
        member.flushes.turn(domain);
        let request = Request::flush(DiskId(slot)).with_priority(Priority::Critical);
        let result = self.submit(port, request).await.result;
        let judged = match result {
            Ok(_) => Ok(()),
            // Nobody has anything there any more.
            Err(_) if !member.is_there() => Ok(()),
            Err(error) => {
                member.flushes.count_failure();
                Err(error)
            }
        };
        member.flushes.turn(domain);
        judged
    }

    /// Waits until the flushes of other domains on a slot have ended that are under way now.
    pub(crate) async fn others_have_flushed(&self, port: &Port, domain: u16, slot: u16) {
        let mut others = self.at(slot).flushes.others(domain);
        while !others.ended() {
            port.sleep_until(port.now_ns() + LOOK_AGAIN_NS).await;
        }
    }

    /// Flushes that failed, of all slots together.
    pub(crate) fn flush_failures(&self) -> u64 {
        self.all().iter().map(|member| member.flushes.failures()).sum()
    }
}
