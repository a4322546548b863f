//! A commit domain: everything that its tasks share, on one reactor.
//!
//! A write travels so: [`change`](crate::store::change) reads what it must, allocates, writes
//! data or leaves it for the record, and joins the open [batch](crate::store::batch); the
//! coordinator (`commit`) writes the record and its flush, applies the batch to the
//! table (`table`) and answers. Behind it, checkpoints (`checkpoint`)
//! copy the table to its pages, and blocks that lie in records only are written
//! home (`ram`). A read (`read`) looks into the table and nothing else.
//!
//! Parts are in cells that are borrowed for a few instructions and never across an `await`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::concurrency::extent_locks::ExtentLockManager;
use crate::concurrency::lock::metrics::LockMetrics;
use crate::concurrency::metadata_locks::InodeLocks;
use crate::format::extent::{Extent, Place};
use crate::format::fragment::Fragment;
use crate::format::layout::EXTENT_BYTES;
use crate::format::page::InodeRecord;
use crate::format::record::{Lifetime, is_inode_id};
use crate::machine::mapping::PagePolicy;
use crate::memory::{Arena, DmaBuf};
use crate::store::batch::{BatchFate, BatchLimits, Change, Pending, Pipe};
use crate::store::error::StoreError;
use crate::store::evacuation::Rewrites;
use crate::store::journal::{self, Journal};
use crate::store::late_writes::LateWrites;
use crate::store::mechanism::{Mechanism, MechanismChoice, MechanismChooser};
use crate::store::member::{Members, MirrorDisk};
use crate::store::phases::Phases;
use crate::store::port::{Changed, Port};
use crate::store::ram::RamBlocks;
use crate::store::reserve::Reserves;
use crate::store::scrub::Scrub;
use crate::store::space::{Copies, DiskRun, Space};
use crate::store::table::Table;
use crate::store::transfers::Transfers;
use crate::store::write_batcher::WriteBatcher;

/// Most bytes of an inode: 2^32 extents in groups of four.
pub const INODE_BYTES_MAX: u64 = (1 << 34) * EXTENT_BYTES;

/// When a batch closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// At once when no commit is under way, else when that ends.
    Adaptive,
    /// When it is full, or so old.
    Linger {
        /// Nanoseconds from its first request on.
        delay_ns: u64,
    },
}

/// When small data goes into the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline {
    /// While no commit is on its way: else the batch waits for that one anyway, and the data's own
    /// write ends meanwhile and is the only one.
    Idle,
    /// Whenever there is room.
    Always,
}

/// What a domain is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Reading and changing. Opening refuses a pool of which anything is lost.
    #[default]
    ReadWrite,
    /// Reading alone: nothing is written, and what is lost costs what was on it and no more.
    ReadOnly,
}

/// What to do about the end of a journal of which nobody can say whether it was acknowledged,
/// because it cannot be read. Opened for reading only it is left out, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undecidable {
    /// Nothing is opened.
    #[default]
    Refuse,
    /// It is given up for good: what was in it may have been acknowledged and is gone.
    GiveUp,
}

/// What can be set of a domain.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// What it is opened for.
    pub access: Access,
    /// What to do about a last record that cannot be judged.
    pub undecidable: Undecidable,
    /// Requests that are served at a time.
    pub requests_max: usize,
    /// When a batch closes.
    pub closing: Closing,
    /// Most requests of a batch.
    pub batch_ops_max: u32,
    /// Most bytes of a batch's record.
    pub batch_bytes_max: u64,
    /// Most bytes of one request that go into the record.
    pub inline_bytes_per_write: u64,
    /// Most bytes of a batch that do.
    pub inline_bytes_per_batch: u64,
    /// Bytes that wait in memory for their home write before it is begun.
    pub write_back_bytes: u64,
    /// When data goes into the record.
    pub inline_when: Inline,
    /// How commits become durable that may be so either way.
    pub mechanism: MechanismChoice,
    /// Nanoseconds without a commit before a seal is written.
    pub seal_idle_ns: u64,
    /// Percent of the journal in use at which a checkpoint begins.
    pub checkpoint_percent: u64,
    /// Percent at which its writes are urgent.
    pub urgent_percent: u64,
    /// Pages of a checkpoint on their way at a time, 1 at least.
    pub checkpoint_pages: usize,
    /// Most extents that the write batcher gathers.
    pub gather_extents: usize,
    /// Most bytes that it gathers.
    pub gather_bytes: usize,
    /// Memory of the table.
    pub pages: PagePolicy,
    /// Metadata pages, 4 KiB each, by which the table's memory grows.
    pub table_pages_per_chunk: u32,
    /// Most of them in memory.
    pub table_pages_max: u32,
    /// Extents that can be locked at a time, a power of two.
    pub locks_max: usize,
}

impl Default for DomainConfig {
    fn default() -> Self {
        DomainConfig {
            access: Access::ReadWrite,
            undecidable: Undecidable::Refuse,
            requests_max: 1024,
            closing: Closing::Adaptive,
            batch_ops_max: 1024,
            batch_bytes_max: 4 << 20,
            inline_bytes_per_write: 16 << 10,
            inline_bytes_per_batch: 64 << 10,
            write_back_bytes: 32 << 20,
            inline_when: Inline::Idle,
            mechanism: MechanismChoice::Fixed(Mechanism::Flush),
            seal_idle_ns: 50_000_000,
            checkpoint_percent: 50,
            urgent_percent: 80,
            checkpoint_pages: 64,
            gather_extents: 10,
            gather_bytes: 1 << 20,
            pages: PagePolicy::Huge,
            table_pages_per_chunk: 512,
            table_pages_max: u32::MAX,
            locks_max: 1 << 17,
        }
    }
}

/// Whether a domain takes changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Yes.
    Serving,
    /// A commit failed and is being taken back; no.
    Aborting,
    /// Not before it is opened again.
    Stopped(Arc<str>),
    /// It was closed.
    Closed,
}

/// Counters of a domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainCounters {
    /// Commits that are durable.
    pub group_commits: u64,
    /// Requests of those.
    pub group_commit_ops: u64,
    /// Flushes linked to records.
    pub commit_flushes: u64,
    /// Records that were durable by themselves.
    pub commit_dsyncs: u64,
    /// Flushes of checkpoints and write-back.
    pub other_flushes: u64,
    /// Bytes of records.
    pub journal_bytes: u64,
    /// Writes of data that the batcher made.
    pub gathered_writes: u64,
    /// Bytes of data written directly.
    pub data_bytes: u64,
    /// Bytes written home from records.
    pub write_back_bytes: u64,
    /// Bytes of metadata pages.
    pub page_bytes: u64,
    /// Bytes of freed space that the disk was told of.
    pub discarded_bytes: u64,
    /// Times that it did not want to know.
    pub discards_refused: u64,
    /// Nanoseconds by which commits were put off because the journal filled up.
    pub throttled_ns: u64,
    /// Bytes that callers wrote.
    pub caller_bytes: u64,
    /// Checkpoints that are durable.
    pub checkpoints: u64,
    /// Seals.
    pub seals: u64,
    /// Aborts.
    pub aborts: u64,
    /// Batches closed because they were full.
    pub closed_full: u64,
    /// Batches closed because their time was over.
    pub closed_late: u64,
    /// Batches closed because nothing was under way.
    pub closed_idle: u64,
    /// Allocation groups that came from other domains.
    pub groups_gained: u64,
    /// Reads that were done again because the extent changed meanwhile.
    pub reads_again: u64,
    /// Reads that took the lock in the end.
    pub reads_locked: u64,
    /// Blocks that failed their checksum on every disk that has them.
    pub corrupt_blocks: u64,
    /// Extents that were read from another disk of a slot because one had them wrong.
    pub copies_wrong: u64,
    /// Of these, those that were written again.
    pub extents_mended: u64,
    /// And those that could not be, and are found again.
    pub extents_not_mended: u64,
}

/// What a domain has of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotUse {
    /// Which.
    pub slot: u16,
    /// Blocks of 4 KiB.
    pub blocks: u64,
    /// Of these, blocks with an owner.
    pub used_blocks: u64,
}

/// What a domain is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainStatus {
    /// Its number.
    pub domain: u16,
    /// Counters since it was opened.
    pub counters: DomainCounters,
    /// Counters since it was made, but for what a crash came before a checkpoint of.
    pub lifetime: Lifetime,
    /// Blocks of 4 KiB.
    pub blocks: u64,
    /// Of these, blocks without an owner.
    pub free_blocks: u64,
    /// Inodes.
    pub inodes: u64,
    /// Extents that have a block.
    pub extents: u64,
    /// Sequence of the newest record.
    pub sequence: u64,
    /// Blocks with an owner in slots that are leaving.
    pub leaving_blocks: u64,
    /// Why those are still there, if something is in the way.
    pub leaving_waits: Option<String>,
    /// Blocks by slot.
    pub slots: Vec<SlotUse>,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Of these, in use.
    pub journal_used_bytes: u64,
    /// Requests that wait for a commit.
    pub pending: u64,
    /// Blocks in memory that are not at home.
    pub deferred_blocks: u64,
    /// Blocks that a disk may still write to that does not answer; they are nobody's until then.
    pub late_blocks: u64,
    /// Why it takes no changes, if so.
    pub stopped: Option<String>,
    /// Locks of its extents.
    pub locks: LockMetrics,
}

/// The blocks of a fragment.
pub(crate) fn places(fragment: Fragment) -> impl Iterator<Item = Place> {
    let blocks = 0..u64::from(fragment.blocks());
    blocks.map(move |n| Place::new(fragment.target(), fragment.start_block() + n))
}

/// A record may be as long as a batch, and as long as one large request needs in any case.
pub(crate) fn record_bytes_max(config: &DomainConfig, journal: &Journal) -> u64 {
    config.batch_bytes_max.max(journal::REQUEST_BYTES_MIN).min(journal.record_bytes_max())
}

/// Runs as fragments.
pub(crate) fn fragments(runs: &[DiskRun]) -> Vec<Fragment> {
    let most = u64::from(Fragment::BLOCKS_MAX);
    let cut = runs.iter().flat_map(|run| {
        let (disk, end) = (run.disk, run.start + u64::from(run.blocks));
        (run.start..end)
            .step_by(most as usize)
            .filter_map(move |start| Fragment::new(disk, start, (end - start).min(most) as u32))
    });
    cut.collect()
}

/// See the module.
pub(crate) struct Domain {
    pub(crate) port: Rc<Port>,
    pub(crate) arena: Arc<Arena>,
    pub(crate) reserves: Reserves,
    /// By the number of copies that data has.
    pub(crate) batchers: [WriteBatcher; Copies::KINDS],
    pub(crate) late_writes: LateWrites,
    pub(crate) members: Members,
    pub(crate) config: DomainConfig,
    pub(crate) table: RefCell<Table>,
    pub(crate) space: RefCell<Space>,
    pub(crate) pipe: RefCell<Pipe>,
    pub(crate) ram: RefCell<RamBlocks>,
    pub(crate) journal: RefCell<Journal>,
    pub(crate) locks: ExtentLockManager,
    pub(crate) inode_locks: InodeLocks,
    pub(crate) health: RefCell<Health>,
    pub(crate) counters: RefCell<DomainCounters>,
    /// Something joined, ended, became free, or went home.
    pub(crate) changed: Changed,
    pub(crate) next_inode: Cell<u64>,
    /// The first batch is on its way to the journal.
    pub(crate) committing: Cell<bool>,
    /// A record is on its way.
    pub(crate) journal_busy: Cell<bool>,
    /// A batch waits for room in the journal.
    pub(crate) room_wanted: Cell<bool>,
    /// Flushes of the disks that failed, this domain's and others', as far as it has seen them.
    pub(crate) flush_failures: Cell<u64>,
    /// Flushes and batches that failed: who began before one and has not joined must not join
    /// after it. Its data may be lost, and what it built on may have been taken back.
    pub(crate) setbacks: Cell<u64>,
    /// Somebody waits for what has joined: a lingering batch closes at once.
    pub(crate) hurry: Cell<bool>,
    /// A checkpoint is wanted whatever the journal's fill.
    pub(crate) checkpoint_wanted: Cell<bool>,
    /// How many want everything home that is in memory alone.
    pub(crate) drains: Cell<u32>,
    /// The journal is to begin anew in this slot.
    pub(crate) new_home: Cell<Option<u16>>,
    /// Where it could not, last.
    pub(crate) bad_home: Cell<Option<u16>>,
    /// Some slot is leaving where it may have something.
    pub(crate) has_slots_to_leave: Cell<bool>,
    /// What is to be written anew for that.
    pub(crate) rewrites: Rewrites,
    /// Why a slot that is leaving is not left yet, if something is in the way.
    pub(crate) evacuation_waits: RefCell<Option<String>>,
    /// No record is sent: the journal is about to begin anew.
    pub(crate) holding: Cell<bool>,
    pub(crate) closing: Cell<bool>,
    /// A buffered change was lost: every sync says so.
    pub(crate) lost: RefCell<Option<StoreError>>,
    /// What it had done before it was opened.
    pub(crate) lifetime_before: Lifetime,
    /// Why something of its table is missing, if so: what is not there may have been.
    pub(crate) incomplete: Option<Arc<str>>,
    /// Extents, by inode and index, that are wrong on a disk and right on another.
    pub(crate) to_mend: RefCell<BTreeSet<(u64, u64)>>,
    /// One is being mended.
    pub(crate) mending: Cell<bool>,
    pub(crate) scrub: RefCell<Scrub>,
    /// Changes that are under way.
    pub(crate) phases: Phases,
    /// How far it is with asking other domains for space.
    pub(crate) transfers: RefCell<Transfers>,
    /// Disks that have come, and are to get what there is.
    pub(crate) to_bring: RefCell<VecDeque<Arc<MirrorDisk>>>,
    pub(crate) mechanisms: MechanismChooser,
    pub(crate) last_commit_ns: Cell<u64>,
}

/// While this lives everything that is in memory alone goes home.
pub(crate) struct Draining<'a>(&'a Domain);

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        self.0.drains.set(self.0.drains.get() - 1);
    }
}

impl Domain {
    /// Has everything go home that is in memory alone.
    pub(crate) fn drain(&self) -> Draining<'_> {
        self.drains.set(self.drains.get() + 1);
        self.changed.notify();
        Draining(self)
    }

    /// An extent as the next change will find it.
    pub(crate) fn newest_extent(&self, inode: u64, index: u64) -> Extent {
        match self.pipe.borrow().extent(inode, index) {
            Pending::Is(extent) => extent,
            Pending::Gone => Extent::HOLE,
            Pending::No => {
                let found = self.table.borrow().extent(inode, index);
                found.map_or(Extent::HOLE, |snapshot| snapshot.extent)
            }
        }
    }

    /// An inode as the next change will find it.
    pub(crate) fn newest_inode(&self, id: u64) -> Result<InodeRecord, StoreError> {
        if !is_inode_id(id) {
            return Err(StoreError::NoSuchInode { inode: id });
        }
        let found = match self.pipe.borrow().inode(id) {
            Pending::Is(record) => Some(record),
            Pending::Gone => None,
            Pending::No => self.table.borrow().inode(id).copied(),
        };
        found.ok_or(StoreError::NoSuchInode { inode: id })
    }

    /// What to say of an inode, or of a byte of it, that the table does not have.
    pub(crate) fn missing(&self, inode: u64, offset: Option<u64>) -> Option<StoreError> {
        let reason = Arc::clone(self.incomplete.as_ref()?);
        Some(StoreError::MetadataLost { inode, offset, reason })
    }

    /// Refuses when the domain takes no changes.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        match &*self.health.borrow() {
            Health::Serving if !self.closing.get() => Ok(()),
            Health::Serving | Health::Closed => Err(StoreError::Closing),
            Health::Aborting => {
                let reason = "a commit before it failed and is being taken back".into();
                Err(StoreError::CommitFailed {
                    reason,
                    certainty: crate::store::error::Certainty::Out,
                })
            }
            Health::Stopped(reason) => Err(StoreError::ReadOnly { reason: Arc::clone(reason) }),
        }
    }

    /// What to say to a change that was begun after so many setbacks, if there was one since.
    pub(crate) fn set_back_since(&self, setbacks: u64) -> Option<StoreError> {
        self.notice_failures();
        let reason = "a commit or a flush failed while it was being prepared";
        let certainty = crate::store::error::Certainty::Out;
        (self.setbacks.get() != setbacks)
            .then(|| StoreError::CommitFailed { reason: reason.into(), certainty })
    }

    /// A buffer, when there is one.
    pub(crate) fn buffer(&self, bytes: usize) -> Result<DmaBuf, StoreError> {
        self.arena
            .take(bytes)
            .map_err(|error| StoreError::NoMemory { reason: error.to_string().into() })
    }

    /// Most bytes of a record: what one request may need, and what a batch is given memory for.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        record_bytes_max(&self.config, &self.journal.borrow())
    }

    /// Limits of the open batch.
    pub(crate) fn batch_limits(&self) -> BatchLimits {
        BatchLimits {
            ops: self.config.batch_ops_max,
            bytes: self.config.batch_bytes_max.min(self.record_bytes_max()),
            first_is_closed: self.committing.get(),
        }
    }

    /// Gives blocks back that nobody refers to any more.
    pub(crate) fn give(&self, fragments: &[Fragment]) {
        let (mut ram, mut space) = (self.ram.borrow_mut(), self.space.borrow_mut());
        for fragment in fragments {
            for place in places(*fragment) {
                if ram.forget(place) {
                    space.give(place);
                }
            }
        }
    }

    /// As [`Domain::give`].
    pub(crate) fn give_runs(&self, runs: &[DiskRun]) {
        self.give(&fragments(runs));
    }

    /// A change joins the open batch.
    pub(crate) fn join(&self, change: Change) -> Rc<BatchFate> {
        let limits = self.batch_limits();
        let mut pipe = self.pipe.borrow_mut();
        let now = (self.port.now_ns(), self.setbacks.get());
        pipe.open(change.encoded_bytes_max(), now, &limits);
        let fate = pipe.join(change);
        drop(pipe);
        self.changed.notify();
        fate
    }

    /// An id that no inode of the pool ever had: domains take turns.
    pub(crate) fn new_inode_id(&self) -> u64 {
        let domains = u64::from(self.members.domains());
        let own = u64::from(self.journal.borrow().id.domain);
        let from = self.next_inode.get().max(1);
        let id = from + (own + domains - from % domains) % domains;
        self.next_inode.set(id + 1);
        id
    }

    /// What it has done since it was made.
    pub(crate) fn lifetime(&self) -> Lifetime {
        let (before, counters) = (self.lifetime_before, self.counters.borrow());
        Lifetime {
            group_commits: before.group_commits.saturating_add(counters.group_commits),
            group_commit_ops: before.group_commit_ops.saturating_add(counters.group_commit_ops),
            commit_flushes: before.commit_flushes.saturating_add(counters.commit_flushes),
            commit_dsyncs: before.commit_dsyncs.saturating_add(counters.commit_dsyncs),
            other_flushes: before.other_flushes.saturating_add(counters.other_flushes),
            checkpoints: before.checkpoints.saturating_add(counters.checkpoints),
            seals: before.seals.saturating_add(counters.seals),
            aborts: before.aborts.saturating_add(counters.aborts),
            caller_bytes: before.caller_bytes.saturating_add(counters.caller_bytes),
            journal_bytes: before.journal_bytes.saturating_add(counters.journal_bytes),
            data_bytes: before.data_bytes.saturating_add(counters.data_bytes),
            write_back_bytes: before.write_back_bytes.saturating_add(counters.write_back_bytes),
            page_bytes: before.page_bytes.saturating_add(counters.page_bytes),
            corrupt_blocks: before.corrupt_blocks.saturating_add(counters.corrupt_blocks),
        }
    }

    /// What it is doing.
    pub(crate) fn status(&self) -> DomainStatus {
        self.give_what_was_answered();
        let journal = self.journal.borrow();
        let (space, table) = (self.space.borrow(), self.table.borrow());
        let stopped = match &*self.health.borrow() {
            Health::Stopped(reason) => Some(reason.to_string()),
            _ => None,
        };
        DomainStatus {
            domain: journal.id.domain,
            counters: self.counters.borrow().clone(),
            lifetime: self.lifetime(),
            blocks: space.blocks(),
            free_blocks: space.free_blocks(),
            inodes: table.inode_count(),
            extents: table.extents(),
            sequence: journal.last.sequence,
            leaving_blocks: self.blocks_to_leave(),
            leaving_waits: self.evacuation_waits.borrow().clone(),
            slots: space.slots(),
            journal_bytes: journal.id.bytes,
            journal_used_bytes: journal.used_bytes(),
            pending: self.pipe.borrow().ops(),
            deferred_blocks: self.ram.borrow().len() as u64,
            late_blocks: self.all_late_blocks(),
            stopped,
            locks: self.locks.metrics(),
        }
    }
}
