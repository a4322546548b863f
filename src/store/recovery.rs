//! Opening a domain: what the journal proves, made so again.
//!
//! 1. Flush the disks, so that nothing read from here on can be taken back by a power cut.
//!    Where slots have several mirrors, every step below reads those in sync until one has what is
//!    right, and what the newest record needs is copied to those that lack it (`mirrors`).
//! 2. Look at every block of the journal for heads of records, and judge the newest
//!    (`scan`): everything before the last record was
//!    acknowledged, so it must be there, in one chain; the last may be torn, which its checksums
//!    and those of its data show.
//! 3. Read the tree of the newest durable checkpoint, and apply the records after it. What pages
//!    say that cannot be so is a doubt until a record says it again; when the last one was applied
//!    none may be left (`table/loading`), and everything must fit (`judge`).
//! 4. Count the blocks: each has at most one owner, in an allocation group that the domain has.
//! 5. Write home what is in records only and still referred to, and flush.
//! 6. Write an `Open` and flush it: the verdict is durable, and stays what it is whatever happens
//!    next.
//!
//! What verifies and cannot be true is corruption, whatever made it: recovery names it and opens
//! nothing (`rules`). It never chooses what to believe.
//!
//! Nothing but homes, missing copies of the newest record and the `Open` is written, so that all
//! this may be interrupted anywhere and begun again.
//!
//! Opened **for reading only**, nothing is written at all: what is in records alone stays in
//! memory. Then a page that cannot be read, or does not verify, costs what was on it: whatever the
//! table does not have may have been there, and who asks for it is told so (`Domain::missing`). A
//! last record that cannot be judged is left out, and said.

mod judge;
mod mirrors;
mod rules;
pub(crate) mod scan;
mod tree;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::concurrency::extent_locks::{ExtentLockManager, LockConfig};
use crate::concurrency::metadata_locks::InodeLocks;
use crate::format::checksum::block_checksum;
use crate::format::extent::Place;
use crate::format::layout::{BLOCK_BYTES, Zone};
use crate::format::mirror_set::MirrorSet;
use crate::format::record::{
    Body, Changes, CheckpointBody, JournalId, Lifetime, RecordHead, RecordKind, SEQUENCE_MAX,
    encode, inline_start, newest_checkpoint,
};
use crate::io::error::{ErrorKind, IoError};
use crate::io::op::{DiskId, Priority, Request};
use crate::memory::{Arena, BufferUnavailable, DmaBuf};
use crate::store::batch::Pipe;
use crate::store::domain::{
    Access, Domain, DomainConfig, DomainCounters, Health, Undecidable, record_bytes_max,
};
use crate::store::evacuation::Rewrites;
use crate::store::journal::{Journal, spot_after};
use crate::store::mechanism::MechanismChooser;
use crate::store::member::{Member, Members, MirrorDisk};
use crate::store::phases::Phases;
use crate::store::port::{Changed, Port, join_all};
use crate::store::ram::{RamBlock, RamBlocks};
use crate::store::recovery::scan::Scan;
use crate::store::reserve::{Reserve, Reserves};
use crate::store::space::{Share, Space};
use crate::store::table::{Table, TableError, Written};
use crate::store::write_back::{RUN_BLOCKS, RUNS};

/// What a domain is opened from.
#[derive(Clone, Debug)]
pub struct DomainSeed {
    /// The disks of the pool, one of them its journal's.
    pub members: Members,
    /// Id of the pool.
    pub pool: [u8; 16],
    /// Number of the domain.
    pub domain: u16,
    /// A number drawn for this opening.
    pub incarnation: u64,
    /// Its settings.
    pub config: DomainConfig,
    /// Memory.
    pub arena: Arc<Arena>,
}

/// What an opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecoveryReport {
    /// Records that the journal held and recovery needed.
    pub records: u64,
    /// Batches that were applied again.
    pub replayed: u64,
    /// The last record, if it was left out: its sequence and why. Either it was torn, and nobody
    /// can have been told of it, or it cannot be read, and the text says that this is not decided.
    pub dropped: Option<(u64, String)>,
    /// Blocks that were written home; opened for reading only, kept in memory.
    pub written_home: u64,
    /// Metadata that is lost, each with its place and why. Only an opening for reading goes on
    /// then.
    pub lost: Vec<String>,
    /// Pages that were read.
    pub pages: u64,
    /// Extents and inodes that there are.
    pub extents: u64,
    /// See `extents`.
    pub inodes: u64,
    /// Everything up to this sequence was accepted.
    pub accepted: u64,
    /// Pieces of metadata that one disk of a slot did not have right, and another had.
    pub mended: u64,
}

/// Why a domain cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The disk failed.
    #[error("domain {domain}: {source}")]
    Io {
        /// Which.
        domain: u16,
        /// How.
        source: Arc<IoError>,
    },
    /// What was acknowledged is not all there.
    #[error("domain {domain} of {path}, byte {offset}: {what}")]
    Corrupt {
        /// Which.
        domain: u16,
        /// The disk.
        path: Arc<str>,
        /// Where.
        offset: u64,
        /// What was expected, and what found.
        what: String,
    },
    /// The last record may have been acknowledged, and cannot be read.
    #[error(
        "domain {domain} of {path}: whether record {sequence} was acknowledged cannot be decided, \
         because byte {offset} cannot be read: {what}"
    )]
    Undecidable {
        /// Which.
        domain: u16,
        /// The disk.
        path: Arc<str>,
        /// The record.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Why.
        what: String,
    },
    /// A flush of another domain failed meanwhile.
    #[error(
        "domain {domain}: a flush of another commit domain failed on a disk, which may have \
         dropped what this one had written; open the pool again"
    )]
    OthersFailed {
        /// Which.
        domain: u16,
    },
    /// Memory is short.
    #[error("domain {domain}: {what}")]
    NoMemory {
        /// Which.
        domain: u16,
        /// What is short.
        what: String,
    },
}

/// Blocks that are written home at a time.
const HOMES_AT_A_TIME: usize = 64;

/// What recovery works with.
pub(crate) struct Recovery<'a> {
    pub(crate) port: &'a Port,
    pub(crate) seed: &'a DomainSeed,
    pub(crate) id: JournalId,
    /// See [`RecoveryReport::lost`].
    lost: RefCell<Vec<String>>,
    /// Flushes of the pool's disks that had failed before.
    failures: u64,
    /// What one disk of a slot did not have right, and another had.
    mended: Cell<u64>,
    /// Pages among that: of each one of level 0 that it is above, or is.
    mended_pages: RefCell<Vec<u32>>,
    /// Sequence of the newest record that the journal holds.
    newest: Cell<u64>,
    /// Disks that did not answer in time, by their number in the pool.
    pub(crate) silent: RefCell<Vec<usize>>,
}

/// Where the content of a block is in the journal.
#[derive(Clone, Copy, Debug)]
struct Inline {
    position: u64,
    /// From the beginning of the record.
    start: u64,
    inode: u64,
    index: u64,
    block: usize,
    checksum: u32,
}

/// Opens a domain.
pub(crate) async fn recover(
    port: Rc<Port>,
    seed: &DomainSeed,
) -> Result<(Rc<Domain>, RecoveryReport), RecoveryError> {
    let id = journal_id(seed);
    let recovery = Recovery::new(&port, seed, id);
    let reading = recovery.reading();
    if !reading {
        recovery.flush().await?;
        recovery.clear_behind().await?;
    }
    let scan = recovery.scan().await?;
    if !reading {
        recovery.mirror_last(&scan).await?;
    }
    let mut report = RecoveryReport { dropped: scan.dropped.clone(), ..RecoveryReport::default() };
    report.accepted = scan.last.sequence;
    let (written_by, checkpoint) = recovery.checkpoint(&scan).await?;
    let mut table = Table::new(seed.config.pages, seed.config.table_pages_per_chunk);
    let CheckpointBody { through, next_inode, .. } = checkpoint;
    table.begin_loading(Written { through, sequence: written_by.sequence, next_inode });
    report.pages = recovery.load_tree(&checkpoint, &mut table).await?;
    let inline = recovery.replay(&scan, &checkpoint, &mut table, &mut report).await?;
    let left = table.finish_replay();
    // What explained it may be on a page that is lost; it was taken out of the table.
    let left = if recovery.lost.borrow().is_empty() { left } else { Ok(()) };
    left.map_err(|doubted| recovery.unsettled(&table, &doubted))?;
    recovery.judge_table(&table, scan.last.sequence)?;
    table.next_inode = table.next_inode.max(checkpoint.next_inode).max(1);
    let mut space = space(seed);
    recovery.obey_deeds(&table, &mut space)?;
    recovery.claim(&table, &mut space)?;
    let mut ram = RamBlocks::default();
    report.written_home = recovery.write_home(&inline, &table, &mut ram).await?;
    let last = match reading {
        true => scan.last,
        false => {
            recovery.give_up(&scan).await?;
            recovery.flush().await?;
            recovery.open_record(&scan, &checkpoint).await?
        }
    };
    report.lost = recovery.lost.take();
    report.mended = recovery.mended.get();
    let mended_pages = recovery.mended_pages.take();
    (report.extents, report.inodes) = (table.extents(), table.inode_count());
    let journal = Journal {
        id,
        incarnation: seed.incarnation,
        last,
        checkpoint: last.checkpoint,
        replay_from: checkpoint.replay_from,
    };
    let mut domain = assemble(port, seed, (table, space, journal))
        .map_err(|what| RecoveryError::NoMemory { domain: seed.domain, what })?;
    domain.ram = RefCell::new(ram);
    domain.lifetime_before = checkpoint.lifetime;
    if !reading {
        domain.resume_scrub();
    }
    if report.mended > 0 {
        // What is wrong on a disk is written again, elsewhere.
        let pages = &mut domain.table.get_mut().pages;
        mended_pages.into_iter().for_each(|number| pages.touch(number));
        domain.checkpoint_wanted.set(true);
    }
    domain.incomplete = report.lost.first().map(|first| first.as_str().into());
    if reading {
        let reason = "the pool was opened for reading only".into();
        domain.health = RefCell::new(Health::Stopped(reason));
    }
    Ok((Rc::new(domain), report))
}

/// Whose journal a seed opens.
pub(crate) fn journal_id(seed: &DomainSeed) -> JournalId {
    let zone = seed.members.home().layout().zone(Zone::Journal(seed.domain));
    JournalId {
        pool: seed.pool,
        disk: seed.members.home_slot(),
        domain: seed.domain,
        start: zone.start,
        bytes: zone.end - zone.start,
    }
}

/// The space of a domain, all of it free.
fn space(seed: &DomainSeed) -> Space {
    let members = &seed.members;
    // Of a slot that is gone nobody has anything.
    let shares = members.all().iter().map(|member| match member.is_there() {
        true => share(member),
        false => share(members.home()),
    });
    let mut space = Space::new(seed.domain, &shares.collect::<Vec<Share>>());
    for (slot, member) in (0..).zip(members.all().iter()) {
        space.set_fate(slot, member.fate());
    }
    space
}

/// What a domain has of a slot.
pub(crate) fn share(member: &Member) -> Share {
    let (layout, mirrors) = (member.layout(), member.label().mirror.count);
    Share { layout, part_blocks: member.discard_part_bytes / BLOCK_BYTES, mirrors }
}

fn assemble(
    port: Rc<Port>,
    seed: &DomainSeed,
    (table, space, journal): (Table, Space, Journal),
) -> Result<Domain, String> {
    let pages = seed.config.pages;
    let locks_max = seed.config.locks_max;
    let lock_config = LockConfig { locks_max, shards: 16, pages, ..LockConfig::default() };
    let locks = ExtentLockManager::with_config(lock_config).map_err(|error| error.to_string())?;
    let inode_locks = InodeLocks::beside(&locks, pages).map_err(|error| error.to_string())?;
    let next_inode = Cell::new(table.next_inode);
    let reserves = reserves(seed, &journal).map_err(|error| error.to_string())?;
    Ok(Domain {
        last_commit_ns: Cell::new(port.now_ns()),
        port,
        arena: Arc::clone(&seed.arena),
        reserves,
        batchers: Default::default(),
        late_writes: Default::default(),
        members: seed.members.clone(),
        config: seed.config.clone(),
        table: RefCell::new(table),
        space: RefCell::new(space),
        pipe: RefCell::new(Pipe::new()),
        ram: RefCell::new(RamBlocks::default()),
        journal: RefCell::new(journal),
        locks,
        inode_locks,
        health: RefCell::new(Health::Serving),
        counters: RefCell::new(DomainCounters::default()),
        changed: Changed::default(),
        next_inode,
        committing: Cell::new(false),
        journal_busy: Cell::new(false),
        room_wanted: Cell::new(false),
        flush_failures: Cell::new(seed.members.flush_failures()),
        setbacks: Cell::new(0),
        hurry: Cell::new(false),
        checkpoint_wanted: Cell::new(false),
        drains: Cell::new(0),
        new_home: Cell::new(None),
        bad_home: Cell::new(None),
        has_slots_to_leave: Cell::new(false),
        rewrites: Rewrites::default(),
        evacuation_waits: RefCell::default(),
        holding: Cell::new(false),
        closing: Cell::new(false),
        lost: RefCell::new(None),
        lifetime_before: Lifetime::default(),
        incomplete: None,
        to_mend: RefCell::default(),
        mending: Cell::new(false),
        scrub: RefCell::default(),
        phases: Phases::default(),
        transfers: RefCell::default(),
        to_bring: RefCell::default(),
        mechanisms: MechanismChooser::new(seed.config.mechanism),
    })
}

/// Buffers for what makes room.
fn reserves(seed: &DomainSeed, journal: &Journal) -> Result<Reserves, BufferUnavailable> {
    let record = record_bytes_max(&seed.config, journal) as usize;
    let pages = seed.config.checkpoint_pages.max(1);
    let block = BLOCK_BYTES as usize;
    Ok(Reserves {
        records: Reserve::new(&seed.arena, "records", 1, record)?,
        marks: Reserve::new(&seed.arena, "marks", 3, block)?,
        pages: Reserve::new(&seed.arena, "pages", pages, block)?,
        runs: Reserve::new(&seed.arena, "home writes", RUNS, RUN_BLOCKS * block)?,
    })
}

impl<'a> Recovery<'a> {
    fn new(port: &'a Port, seed: &'a DomainSeed, id: JournalId) -> Recovery<'a> {
        Recovery {
            port,
            seed,
            id,
            lost: RefCell::default(),
            failures: seed.members.flush_failures(),
            mended: Cell::new(0),
            mended_pages: RefCell::default(),
            newest: Cell::new(0),
            silent: RefCell::default(),
        }
    }
}

impl Recovery<'_> {
    /// Whether nothing is written.
    pub(crate) fn reading(&self) -> bool {
        self.seed.config.access == Access::ReadOnly
    }

    /// Whether a last record that cannot be judged is left out.
    pub(crate) fn leaves_out(&self) -> bool {
        self.reading() || self.seed.config.undecidable == Undecidable::GiveUp
    }

    /// Goes on without a page when that is allowed.
    pub(crate) fn lose(&self, page: &str, error: RecoveryError) -> Result<(), RecoveryError> {
        match error {
            RecoveryError::Io { .. } | RecoveryError::Corrupt { .. } if self.reading() => {
                self.lost.borrow_mut().push(format!("{page} is lost: {error}"));
                Ok(())
            }
            error => Err(error),
        }
    }

    pub(crate) fn io_error(&self, error: Box<IoError>) -> RecoveryError {
        RecoveryError::Io { domain: self.seed.domain, source: Arc::from(error) }
    }

    pub(crate) fn corrupt(&self, offset: u64, what: impl Into<String>) -> RecoveryError {
        self.corrupt_at(self.seed.members.home_slot(), offset, what)
    }

    /// The same, of another disk than the journal's.
    pub(crate) fn corrupt_at(
        &self,
        slot: u16,
        offset: u64,
        what: impl Into<String>,
    ) -> RecoveryError {
        let (domain, path) = (self.seed.domain, self.path(slot));
        RecoveryError::Corrupt { domain, path, offset, what: what.into() }
    }

    /// The disk in a slot, or that there is none.
    pub(crate) fn path(&self, target: u16) -> Arc<str> {
        let (slot, _) = MirrorSet::of_target(target);
        let member = self.seed.members.get(slot);
        member.map_or_else(|| format!("slot {slot}").into(), Member::path)
    }

    pub(crate) fn buffer(&self, bytes: usize) -> Result<DmaBuf, RecoveryError> {
        self.seed.arena.take(bytes).map_err(|error| RecoveryError::NoMemory {
            domain: self.seed.domain,
            what: error.to_string(),
        })
    }

    async fn flush(&self) -> Result<(), RecoveryError> {
        let (members, domain) = (&self.seed.members, self.seed.domain);
        let mut flushes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for slot in members.slots() {
            flushes.push(Box::pin(members.flush(self.port, domain, slot)));
        }
        let ended: Result<(), Box<IoError>> = join_all(flushes).await.into_iter().collect();
        ended.map_err(|error| self.io_error(error))?;
        for slot in members.slots() {
            members.others_have_flushed(self.port, domain, slot).await;
        }
        self.check_flushes()
    }

    /// Believes no flush beside which another domain's has failed: the disk may have dropped what
    /// this one had written.
    fn check_flushes(&self) -> Result<(), RecoveryError> {
        match self.seed.members.flush_failures() == self.failures {
            true => Ok(()),
            false => Err(RecoveryError::OthersFailed { domain: self.seed.domain }),
        }
    }

    /// Reads bytes in a slot, from the first disk whose bytes `judge` takes; says whether it was
    /// the first of all. When there is none, says what was wrong with the first.
    pub(crate) async fn read_whole<T>(
        &self,
        (slot, offset, bytes): (u16, u64, usize),
        mut judge: impl FnMut(DmaBuf) -> Result<T, RecoveryError>,
    ) -> Result<(T, bool), RecoveryError> {
        let mut first = None;
        for mirror in self.mirrors(slot, offset)? {
            let read = self.read_mirror(mirror, offset, bytes).await;
            match read.and_then(&mut judge) {
                Ok(judged) => {
                    self.mended.set(self.mended.get() + u64::from(first.is_some()));
                    return Ok((judged, first.is_none()));
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| self.gone(slot, offset)))
    }

    /// What to say when every disk of a slot was taken out.
    pub(crate) fn gone(&self, slot: u16, offset: u64) -> RecoveryError {
        self.corrupt_at(slot, offset, "no disk of the slot is left to be read")
    }

    /// The disks that may be read of those that have what is in a slot, and have answered so far.
    pub(crate) fn mirrors(
        &self,
        target: u16,
        offset: u64,
    ) -> Result<impl Iterator<Item = &Arc<MirrorDisk>>, RecoveryError> {
        let (slot, set) = MirrorSet::of_target(target);
        let answers = move |mirror: &&Arc<MirrorDisk>| {
            let silent = self.silent.borrow();
            let others = self.seed.members.at(slot).of(set).filter(|other| other.is_in_sync());
            let all_are = others.clone().all(|other| silent.contains(&other.number()));
            all_are || !silent.contains(&mirror.number())
        };
        match self.seed.members.get(slot) {
            Some(member) => {
                let of_set = member.of(set).filter(|mirror| mirror.is_in_sync());
                Ok(of_set.filter(answers))
            }
            None => {
                let count = self.seed.members.all().len();
                let what = format!("the pool has {count} slots, and no slot {slot}");
                Err(self.corrupt_at(slot, offset, what))
            }
        }
    }

    /// Reads bytes of a disk.
    pub(crate) async fn read_mirror(
        &self,
        mirror: &MirrorDisk,
        offset: u64,
        bytes: usize,
    ) -> Result<DmaBuf, RecoveryError> {
        let request = Request::read(mirror.disk, offset, self.buffer(bytes)?);
        let request = request.with_priority(Priority::Critical);
        let completion = self.seed.members.submit_to(self.port, mirror, request).await;
        let (result, buffer) = completion.into_parts();
        if let Err(error) = &result
            && error.kind == ErrorKind::Timeout
            && buffer.is_none()
        {
            // It would take as long again for every block.
            self.silent.borrow_mut().push(mirror.number());
            if !self.reading() {
                self.seed.members.fence(self.port, mirror).await;
            }
        }
        result.map_err(|error| self.io_error(error))?;
        buffer.ok_or_else(|| RecoveryError::NoMemory {
            domain: self.seed.domain,
            what: "a device that never answered keeps a buffer".into(),
        })
    }

    /// Writes in a slot, to all its disks.
    async fn write(&self, slot: u16, offset: u64, buffer: DmaBuf) -> Result<(), RecoveryError> {
        let request = Request::write(DiskId(slot), offset, buffer);
        let (result, _) = self.seed.members.submit(self.port, request).await.into_parts();
        result.map(|_| ()).map_err(|error| self.io_error(error))
    }

    /// The newest durable checkpoint.
    async fn checkpoint(&self, scan: &Scan) -> Result<(RecordHead, CheckpointBody), RecoveryError> {
        let position = newest_checkpoint(&scan.last);
        let head = scan.needed.iter().find(|head| head.position == position);
        let Some(head) = head.filter(|head| head.kind == RecordKind::Checkpoint) else {
            let offset = self.id.offset(position);
            return Err(self.corrupt(offset, "the newest checkpoint's record is not there"));
        };
        match self.body(head).await? {
            Body::Checkpoint(body) => {
                let judged = rules::judge_replay(&body, &scan.needed);
                judged.map_err(|what| self.broken(head, &what))?;
                Ok((*head, body))
            }
            _ => unreachable!("a checkpoint's record holds a checkpoint"),
        }
    }

    /// A record that verifies and breaks a rule.
    pub(crate) fn broken(&self, head: &RecordHead, what: &str) -> RecoveryError {
        let offset = self.id.offset(head.position);
        self.corrupt(offset, format!("record {} cannot be so: {what}", head.sequence))
    }

    /// Reads every needed record, and applies the batches that are not in the pages.
    async fn replay(
        &self,
        scan: &Scan,
        checkpoint: &CheckpointBody,
        table: &mut Table,
        report: &mut RecoveryReport,
    ) -> Result<BTreeMap<Place, Inline>, RecoveryError> {
        let mut inline = BTreeMap::new();
        let mut before: Option<CheckpointBody> = None;
        for head in &scan.needed {
            report.records += 1;
            let changes = match self.body(head).await? {
                Body::Changes(changes) => changes,
                Body::Checkpoint(body) => {
                    let judged = rules::judge_checkpoint(head, &body, before.as_ref());
                    judged.map_err(|what| self.broken(head, &what))?;
                    before = Some(body);
                    continue;
                }
                Body::Nothing => continue,
            };
            let mut judged = rules::judge_changes(head, &changes);
            if let Some(place) = self.elsewhere(&changes) {
                judged = Err(format!("{place:?} is in no allocation group"));
            }
            judged.map_err(|what| self.broken(head, &what))?;
            note_inline(head, &changes, &mut inline);
            if head.sequence > checkpoint.through {
                report.replayed += 1;
                table.tolerates_missing = !self.lost.borrow().is_empty();
                let applied = table.apply(head.sequence, &changes);
                applied.map_err(|error| self.table_error(head.position, &error))?;
            }
        }
        Ok(inline)
    }

    /// A block of a batch that is in no allocation group. Whose the group was then nobody knows
    /// any more; what is left in the end is looked at when it is claimed.
    fn elsewhere(&self, changes: &Changes) -> Option<Place> {
        let is_data = |place: &Place| {
            let member = self.seed.members.get(place.slot());
            // What was in a slot that is gone has gone elsewhere since.
            member.is_some_and(|member| {
                !member.is_there() || member.layout().group_of(place.block()).is_some()
            })
        };
        let mut places = changes.extents.iter().flat_map(|put| put.extent.existing());
        places.find(|place| !is_data(place))
    }

    fn table_error(&self, position: u64, error: &TableError) -> RecoveryError {
        match error {
            TableError::Memory(error) => {
                RecoveryError::NoMemory { domain: self.seed.domain, what: error.to_string() }
            }
            other => self.corrupt(self.id.offset(position), other.to_string()),
        }
    }

    /// Writes home the blocks of records that something still refers to, or keeps them in memory.
    async fn write_home(
        &self,
        inline: &BTreeMap<Place, Inline>,
        table: &Table,
        ram: &mut RamBlocks,
    ) -> Result<u64, RecoveryError> {
        let wanted: Vec<(Place, Inline)> = inline
            .iter()
            .filter(|(place, source)| {
                let extent = table.extent(source.inode, source.index).map(|found| found.extent);
                extent.is_some_and(|extent| {
                    extent.places[source.block] == **place
                        && extent.checksums[source.block] == source.checksum
                })
            })
            .map(|(place, source)| (*place, *source))
            .collect();
        if self.reading() {
            for (place, source) in &wanted {
                let block = RamBlock::new(Rc::new(self.inline_block(source).await?), 0);
                ram.insert(*place, block);
            }
            return Ok(wanted.len() as u64);
        }
        for some in wanted.chunks(HOMES_AT_A_TIME) {
            let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
            for (place, source) in some {
                writes.push(Box::pin(self.write_one_home(*place, source)));
            }
            join_all(writes).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(wanted.len() as u64)
    }

    async fn inline_block(&self, source: &Inline) -> Result<DmaBuf, RecoveryError> {
        let offset = self.id.offset(source.position) + source.start;
        let place = (self.seed.members.home_slot(), offset, BLOCK_BYTES as usize);
        let judge = |buffer: DmaBuf| match block_checksum(&buffer) == source.checksum {
            true => Ok(buffer),
            false => Err(self.corrupt(offset, "an inline block is not what its record says")),
        };
        self.read_whole(place, judge).await.map(|(buffer, _)| buffer)
    }

    async fn write_one_home(&self, place: Place, source: &Inline) -> Result<(), RecoveryError> {
        let buffer = self.inline_block(source).await?;
        // It is in the table, which was judged.
        let (DiskId(slot), offset) = Members::address(place);
        self.write(slot, offset, buffer).await
    }

    /// Writes over blocks where the record that was given up may begin: a disk that can read them
    /// again later must not bring it back.
    async fn give_up(&self, scan: &Scan) -> Result<(), RecoveryError> {
        for offset in &scan.given_up {
            let mut block = self.buffer(BLOCK_BYTES as usize)?;
            block.fill(0);
            self.write(self.seed.members.home_slot(), *offset, block).await?;
        }
        Ok(())
    }

    /// Makes the verdict durable.
    async fn open_record(
        &self,
        scan: &Scan,
        checkpoint: &CheckpointBody,
    ) -> Result<RecordHead, RecoveryError> {
        let last = &scan.last;
        let checkpoint_position = newest_checkpoint(last);
        // An open that nothing followed gives its place to the next: else opening again and again
        // would fill the journal. What was dropped gives its place too, and is gone with that.
        let (sequence, position, skipped, previous) = match (last.kind, scan.dropped_at) {
            (RecordKind::Open, None) => (last.sequence, last.position, last.skipped, last.previous),
            (_, Some((position, skipped))) => (last.sequence + 1, position, skipped, last.checksum),
            _ => {
                let spot = spot_after(&self.id, last.end(), BLOCK_BYTES);
                (last.sequence + 1, spot.position, spot.skipped, last.checksum)
            }
        };
        if sequence > SEQUENCE_MAX {
            return Err(self.broken(last, "no sequence is left behind it"));
        }
        let mut head = RecordHead {
            kind: RecordKind::Open,
            sequence,
            incarnation: self.seed.incarnation,
            previous,
            position,
            skipped,
            length: BLOCK_BYTES as u32,
            tail: checkpoint.replay_from.max(last.tail),
            checkpoint: checkpoint_position,
            accepted: last.sequence,
            checksum: 0,
        };
        let mut buffer = self.buffer(BLOCK_BYTES as usize)?;
        head.checksum = encode(&self.id, &head, &Body::Nothing, &mut buffer);
        let offset = self.id.offset(position);
        let (members, domain) = (&self.seed.members, self.seed.domain);
        let home = members.home();
        home.flushes.turn(domain);
        let request = Request::write_flush(DiskId(members.home_slot()), offset, buffer);
        let (result, _) = members.submit(self.port, request).await.into_parts();
        if result.is_err() {
            home.flushes.count_failure();
        }
        home.flushes.turn(domain);
        result.map_err(|error| self.io_error(error))?;
        members.others_have_flushed(self.port, domain, members.home_slot()).await;
        self.check_flushes()?;
        Ok(head)
    }
}

fn note_inline(head: &RecordHead, changes: &Changes, inline: &mut BTreeMap<Place, Inline>) {
    let mut start = inline_start(changes) as u64;
    for put in &changes.extents {
        for block in 0..put.extent.places.len() {
            let (bit, place) = (1 << block, put.extent.places[block]);
            if put.fresh & bit != 0 {
                // Written directly: whatever an older record has for the place is not its content.
                inline.remove(&place);
            }
            if put.inline & bit == 0 {
                continue;
            }
            let (inode, index, checksum) = (put.inode, put.index, put.extent.checksums[block]);
            let position = head.position;
            inline.insert(place, Inline { position, start, inode, index, block, checksum });
            start += BLOCK_BYTES;
        }
    }
}
