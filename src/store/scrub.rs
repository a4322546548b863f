//! Scrub: everything that is there is read, on every disk that has it, while it is used.
//!
//! A domain reads its extents' blocks, then its pages, then its journal, in the background and no
//! faster than it is told. What is wrong on one disk of a slot and right on another is written
//! again (`mend`); a page that is wrong, and a record, by the next checkpoint, because memory has
//! what they say. What no disk has right is lost, and named.
//!
//! Asked to, it also makes extents whole that lie in pieces, where there is room for them in a row.
//!
//! It can be paused and goes on where it was; also after an opening, because a
//! [note](crate::format::scrub_note) says how far it is: at each order, and then every ten seconds.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::format::extent::Extent;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::format::page::{CHILDREN_PER_PAGE, Page, PageAddress};
use crate::format::record::{RecordHead, decode_body, decode_head};
use crate::format::scrub_note::{self, SCRUB_NOTE_ID, ScrubNote};
use crate::io::op::{Priority, Request};
use crate::memory::DmaBuf;
use crate::store::batch::Change;
use crate::store::call::{Durability, Step};
use crate::store::change::change;
use crate::store::domain::{Domain, Health};
use crate::store::error::StoreError;
use crate::store::member::MirrorDisk;
use crate::store::read::{Part, good_block};
use crate::store::verify::verify_on;

/// Inodes, or extents of one, that are looked up at a time.
const LOOKED_UP: usize = 64;
/// Findings that are kept in words.
const FINDINGS_MAX: usize = 64;
/// How often an extent that is written all the time is looked at.
const LOOKS_MAX: usize = 4;
/// How long to wait after something failed that may be better later.
const TRY_AGAIN_NS: u64 = 1_000_000_000;
/// How often the disks are told how far it is.
const SAVE_EVERY_NS: u64 = 10_000_000_000;
/// Homes of a page that its note may make necessary.
const NOTE_PROMISE: u64 = 2;
/// How long it sleeps at most without looking whether it is to go on.
const LOOK_AGAIN_NS: u64 = 50_000_000;

/// What a scrub is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubOrder {
    /// Nothing: only its report is wanted.
    Look,
    /// Begin, if none runs; or go on, if one was paused. Each domain reads so many bytes a second
    /// at most; 0: as fast as the background goes.
    Start {
        /// Most bytes a second.
        bytes_per_second: u64,
        /// Extents that lie in pieces are written anew, where there is room for them in a row.
        coalesce: bool,
    },
    /// Stay where it is.
    Pause,
    /// End. The next one begins anew.
    Stop,
}

/// What a scrub is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// There was none, or it was stopped.
    #[default]
    Idle,
    /// It goes on.
    Running,
    /// It waits.
    Paused,
    /// It has read everything.
    Finished,
}

/// What a scrub has done, of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubReport {
    /// What it is doing.
    pub state: ScrubState,
    /// Extents that were looked at.
    pub extents: u64,
    /// Metadata pages that were read, on each disk.
    pub pages: u64,
    /// Records of the journal that were read, on each disk.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blocks, pages and records that were wrong on a disk.
    pub wrong: u64,
    /// Blocks that no disk has right.
    pub lost: u64,
    /// Extents that lay in pieces and were written anew.
    pub coalesced: u64,
    /// The last of those in words.
    pub findings: VecDeque<String>,
}

/// A domain's scrub.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    report: ScrubReport,
    bytes_per_second: u64,
    /// Extents that lie in pieces are made whole.
    coalesces: bool,
    /// The disks do not have it as it was ordered.
    is_unsaved: bool,
    /// When they were told last.
    saved_ns: u64,
    /// What is looked at next: inode and extent.
    next: (u64, u64),
    /// Since when it runs, and what it had read then.
    since: (u64, u64),
    /// Which one it is: what one has found out is not another's.
    number: u64,
}

impl Domain {
    /// Gives a scrub an order; says what it has done.
    pub(crate) fn scrub_order(&self, order: ScrubOrder) -> ScrubReport {
        let mut scrub = self.scrub.borrow_mut();
        match (order, scrub.report.state) {
            (ScrubOrder::Look, _) => {}
            (ScrubOrder::Start { bytes_per_second, coalesce }, state) => {
                if !matches!(state, ScrubState::Running | ScrubState::Paused) {
                    *scrub = Scrub { number: scrub.number + 1, ..Scrub::default() };
                }
                (scrub.bytes_per_second, scrub.coalesces) = (bytes_per_second, coalesce);
                scrub.since = (self.port.now_ns(), scrub.report.bytes);
                scrub.report.state = ScrubState::Running;
            }
            (ScrubOrder::Pause, ScrubState::Running) => scrub.report.state = ScrubState::Paused,
            (ScrubOrder::Pause, _) => {}
            (ScrubOrder::Stop, ScrubState::Running | ScrubState::Paused) => {
                scrub.report.state = ScrubState::Idle;
            }
            (ScrubOrder::Stop, _) => {}
        }
        scrub.is_unsaved |= order != ScrubOrder::Look;
        let report = scrub.report.clone();
        drop(scrub);
        self.changed.notify();
        report
    }

    /// It is as the disks say that it was.
    pub(crate) fn resume_scrub(&mut self) {
        let note = self.table.get_mut().scrub_note().map(scrub_note::decode);
        if let Some(Ok(note)) = note {
            *self.scrub.get_mut() = Scrub::resumed(&note, self.port.now_ns());
        }
    }

    /// The disks are told how far it is; nothing where there is nothing to tell.
    async fn save_scrub(&self) -> Result<(), StoreError> {
        self.check_writable()?;
        let (note, is_there) = {
            let mut scrub = self.scrub.borrow_mut();
            (scrub.is_unsaved, scrub.saved_ns) = (false, self.port.now_ns());
            (scrub.note(), self.table.borrow().scrub_note().is_some())
        };
        let inode = note.as_ref().map(scrub_note::encode);
        if inode.is_none() && !is_there {
            return Ok(());
        }
        let deletes = if inode.is_none() { vec![SCRUB_NOTE_ID] } else { Vec::new() };
        let promised = if is_there { 0 } else { NOTE_PROMISE };
        if self.available() < promised {
            return Ok(());
        }
        self.space.borrow_mut().promise(promised);
        let change = Change { inode, deletes, promised, ..Change::default() };
        self.join(change).decided().await.map(|_| ())
    }
}

impl Scrub {
    /// As it was when it was saved.
    fn resumed(note: &ScrubNote, now_ns: u64) -> Scrub {
        let report = ScrubReport {
            state: if note.is_paused { ScrubState::Paused } else { ScrubState::Running },
            extents: note.extents,
            bytes: note.bytes,
            wrong: note.wrong,
            lost: note.lost,
            coalesced: note.coalesced,
            ..ScrubReport::default()
        };
        Scrub {
            since: (now_ns, note.bytes),
            report,
            bytes_per_second: note.bytes_per_second,
            coalesces: note.coalesces,
            saved_ns: now_ns,
            next: note.next,
            ..Scrub::default()
        }
    }

    /// What is to be known of it at the next opening.
    fn note(&self) -> Option<ScrubNote> {
        let ScrubReport { state, extents, bytes, wrong, lost, coalesced, .. } = self.report;
        let is_paused = match state {
            ScrubState::Running => false,
            ScrubState::Paused => true,
            ScrubState::Idle | ScrubState::Finished => return None,
        };
        Some(ScrubNote {
            is_paused,
            coalesces: self.coalesces,
            next: self.next,
            bytes_per_second: self.bytes_per_second,
            extents,
            bytes,
            wrong,
            lost,
            coalesced,
        })
    }
}

/// Scrubs when it is told to, until the domain is closed.
pub(crate) async fn scrubs(domain: Rc<Domain>) {
    loop {
        let next = || {
            let scrub = domain.scrub.borrow();
            match &*domain.health.borrow() {
                Health::Closed | Health::Stopped(_) => Some(None),
                _ if domain.closing.get() => None,
                _ if scrub.is_unsaved => Some(Some(false)),
                _ => (scrub.report.state == ScrubState::Running).then_some(Some(true)),
            }
        };
        let Some(runs) = domain.changed.until(next).await else { return };
        if !runs {
            if domain.save_scrub().await.is_err() {
                domain.scrub.borrow_mut().is_unsaved = true;
                domain.port.sleep_until(domain.port.now_ns() + TRY_AGAIN_NS).await;
            }
            continue;
        }
        let number = domain.scrub.borrow().number;
        let scrubber = Scrubber { domain: &domain, number, writes_pages: Cell::new(false) };
        match scrubber.run().await {
            Ok(()) if scrubber.goes_on() => {
                let mut scrub = domain.scrub.borrow_mut();
                (scrub.report.state, scrub.is_unsaved) = (ScrubState::Finished, true);
            }
            // What was under way at a pause has been looked at as well.
            Ok(()) => {
                let mut scrub = domain.scrub.borrow_mut();
                scrub.is_unsaved |= scrub.report.state == ScrubState::Paused;
            }
            // No memory: it is tried again where it was.
            Err(_) => domain.port.sleep_until(domain.port.now_ns() + TRY_AGAIN_NS).await,
        }
    }
}

struct Scrubber<'a> {
    domain: &'a Rc<Domain>,
    number: u64,
    /// Something of the metadata was wrong: a checkpoint is to write it anew.
    writes_pages: Cell<bool>,
}

impl Scrubber<'_> {
    fn goes_on(&self) -> bool {
        let scrub = self.domain.scrub.borrow();
        let running = scrub.report.state == ScrubState::Running && scrub.number == self.number;
        running && !self.domain.closing.get()
    }

    /// Remembers what is looked at next, unless another one has begun.
    fn go_to(&self, next: (u64, u64)) {
        let mut scrub = self.domain.scrub.borrow_mut();
        if scrub.number == self.number {
            scrub.next = next;
        }
    }

    /// A crash costs what was looked at since.
    async fn save_now_and_then(&self) {
        let saved_ns = self.domain.scrub.borrow().saved_ns;
        if self.goes_on() && self.domain.port.now_ns() - saved_ns >= SAVE_EVERY_NS {
            // What fails is tried again as long after this.
            let _ = self.domain.save_scrub().await;
        }
    }

    fn note(&self, of: impl FnOnce(&mut ScrubReport)) {
        of(&mut self.domain.scrub.borrow_mut().report);
    }

    fn found(&self, what: String) {
        self.note(|report| {
            report.wrong += 1;
            report.findings.push_back(what);
            if report.findings.len() > FINDINGS_MAX {
                report.findings.pop_front();
            }
        });
    }

    /// Waits until as much may be read as was.
    async fn slow_down(&self) {
        let port = &self.domain.port;
        while self.goes_on() {
            let until = {
                let scrub = self.domain.scrub.borrow();
                let (since, before) = scrub.since;
                let read = u128::from(scrub.report.bytes - before);
                let took_ns = read * 1_000_000_000 / u128::from(scrub.bytes_per_second.max(1));
                if scrub.bytes_per_second == 0 { 0 } else { since.saturating_add(took_ns as u64) }
            };
            if port.now_ns() >= until {
                return;
            }
            // An order is followed soon.
            port.sleep_until(until.min(port.now_ns() + LOOK_AGAIN_NS)).await;
        }
    }

    async fn run(&self) -> Result<(), StoreError> {
        loop {
            let (from, _) = self.domain.scrub.borrow().next;
            let inodes = self.domain.table.borrow().inodes(from, LOOKED_UP);
            if inodes.is_empty() {
                break;
            }
            for inode in &inodes {
                self.inode(inode.id).await?;
                if !self.goes_on() {
                    return Ok(());
                }
                self.go_to((inode.id + 1, 0));
            }
        }
        self.pages().await?;
        if self.goes_on() {
            self.journal().await?;
        }
        if self.writes_pages.take() {
            self.domain.checkpoint_from_now(|| self.goes_on()).await;
        }
        // It has ended when what it found is mended.
        self.until_mended(true).await;
        Ok(())
    }

    /// Waits until there is room for more to be mended, or with `all` until nothing is left.
    async fn until_mended(&self, all: bool) {
        let fewer = || (!self.goes_on() || !self.domain.mends(all)).then_some(());
        self.domain.changed.until(fewer).await;
    }

    async fn inode(&self, inode: u64) -> Result<(), StoreError> {
        loop {
            let (at, from) = self.domain.scrub.borrow().next;
            let from = if at == inode { from } else { 0 };
            let extents = self.domain.table.borrow().extents_of(inode, from, u64::MAX, LOOKED_UP);
            if extents.is_empty() {
                return Ok(());
            }
            for (index, _) in extents {
                self.extent(inode, index).await?;
                self.note(|report| report.extents += 1);
                self.go_to((inode, index + 1));
                self.slow_down().await;
                self.save_now_and_then().await;
                if !self.goes_on() {
                    return Ok(());
                }
            }
        }
    }

    async fn extent(&self, inode: u64, index: u64) -> Result<(), StoreError> {
        let now = || self.domain.table.borrow().extent(inode, index).map(|found| found.extent);
        for _ in 0..LOOKS_MAX {
            let Some(extent) = now() else { return Ok(()) };
            let wrong = self.wrong_on_any(&extent).await?;
            // What was written meanwhile is elsewhere: its old place may be somebody else's.
            if wrong.is_empty() && now() == Some(extent) {
                self.name_homeless((inode, index), &extent).await?;
            }
            if wrong.is_empty() {
                return self.coalesce((inode, index), &extent).await;
            }
            if now() == Some(extent) {
                return self.settle((inode, index), &extent, wrong).await;
            }
        }
        Ok(())
    }

    /// Writes an extent anew that lies in pieces, if that is wanted and it has room in a row.
    async fn coalesce(
        &self,
        (inode, index): (u64, u64),
        extent: &Extent,
    ) -> Result<(), StoreError> {
        let blocks = extent.mask().count_ones();
        if !self.domain.scrub.borrow().coalesces
            || extent.fragment_count() <= 1
            || !self.domain.space.borrow().has_run(blocks)
        {
            return Ok(());
        }
        let steps = vec![Step::Rewrite { index }];
        match change(self.domain, inode, steps, Durability::Committed).await {
            Ok(_) => {
                let bytes = u64::from(blocks) * BLOCK_BYTES;
                self.note(|report| {
                    (report.coalesced, report.bytes) = (report.coalesced + 1, report.bytes + bytes);
                });
            }
            // It is gone, or there is no room after all: it stays as it is.
            Err(StoreError::NoSuchInode { .. } | StoreError::Full { .. }) => {}
            // What cannot be read has been named.
            Err(StoreError::TableFull { .. } | StoreError::Corrupt { .. }) => {}
            Err(StoreError::Unreadable { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The disks that have blocks wrong, and which.
    async fn wrong_on_any(
        &self,
        extent: &Extent,
    ) -> Result<Vec<(Arc<MirrorDisk>, u16)>, StoreError> {
        let (mut slots, mut wrong) = (Vec::new(), Vec::new());
        for place in extent.existing() {
            if !slots.contains(&place.slot()) {
                slots.push(place.slot());
            }
        }
        for slot in slots {
            let mirrors: Vec<_> = self.domain.members.at(slot).in_sync().map(Arc::clone).collect();
            for mirror in mirrors {
                let verified =
                    verify_on(self.domain, &mirror, extent, Priority::Background).await?;
                let bytes = u64::from(verified.read.count_ones()) * BLOCK_BYTES;
                self.note(|report| report.bytes += bytes);
                if verified.wrong != 0 {
                    wrong.push((mirror, verified.wrong));
                }
            }
        }
        Ok(wrong)
    }

    /// Names blocks of which every disk that is to have them is missing, or not in sync.
    async fn name_homeless(
        &self,
        (inode, index): (u64, u64),
        extent: &Extent,
    ) -> Result<(), StoreError> {
        for block in 0..EXTENT_BLOCKS {
            let (place, sum) = (extent.places[block], extent.checksums[block]);
            if place.is_nowhere() || place.mirrors().is_all() {
                continue;
            }
            let member = self.domain.members.at(place.slot());
            if member.of(place.mirrors()).any(|mirror| mirror.is_in_sync()) {
                continue;
            }
            let part = Part { inode, index, first: block, count: 1 };
            let good = good_block(self.domain, place, sum, Priority::Background).await?;
            let fate = match good {
                Some(_) => "right, and on no disk that is in sync",
                None => "lost, no disk has it right",
            };
            let (path, offset) = (self.domain.members.path_of(place), part.offset(0));
            self.found(format!("{path}: inode {inode}, byte {offset}: {fate}"));
            if good.is_none() {
                self.note(|report| report.lost += 1);
            }
        }
        Ok(())
    }

    /// Has mended what can be, and names what cannot.
    async fn settle(
        &self,
        (inode, index): (u64, u64),
        extent: &Extent,
        wrong: Vec<(Arc<MirrorDisk>, u16)>,
    ) -> Result<(), StoreError> {
        let any = wrong.iter().fold(0, |any, (_, blocks)| any | blocks);
        for block in (0..EXTENT_BLOCKS).filter(|block| any & 1 << block != 0) {
            let part = Part { inode, index, first: block, count: 1 };
            let (place, sum) = (extent.places[block], extent.checksums[block]);
            let good = good_block(self.domain, place, sum, Priority::Background).await?;
            let fate = match good {
                Some(_) => "wrong, and right on another disk",
                None => "lost, no disk has it right",
            };
            for (mirror, _) in wrong.iter().filter(|(_, blocks)| blocks & 1 << block != 0) {
                let (path, offset) = (&mirror.path, part.offset(0));
                self.found(format!("{path}: inode {inode}, byte {offset}: {fate}"));
            }
            if good.is_some() {
                self.until_mended(false).await;
                self.domain.wants_mending(&part);
            } else {
                self.note(|report| report.lost += 1);
            }
        }
        Ok(())
    }

    /// Reads bytes of a disk; none when that fails.
    async fn read(
        &self,
        mirror: &MirrorDisk,
        offset: u64,
        bytes: usize,
    ) -> Result<Option<DmaBuf>, StoreError> {
        let request = Request::read(mirror.disk, offset, self.domain.buffer(bytes)?);
        let request = request.with_priority(Priority::Background);
        self.note(|report| report.bytes += bytes as u64);
        let members = &self.domain.members;
        let (result, buffer) =
            members.submit_to(&self.domain.port, mirror, request).await.into_parts();
        Ok(buffer.filter(|_| result.is_ok()))
    }

    /// The pages of the durable tree.
    async fn pages(&self) -> Result<(), StoreError> {
        let levels = self.domain.table.borrow().pages.levels();
        for level in 0..levels {
            let mut number = 0;
            while number < self.domain.table.borrow().pages.count(level) {
                self.page((level, number)).await?;
                self.slow_down().await;
                if !self.goes_on() {
                    return Ok(());
                }
                number += 1;
            }
        }
        Ok(())
    }

    async fn page(&self, (level, number): (usize, u32)) -> Result<(), StoreError> {
        let durable = || self.domain.table.borrow().pages.durable((level, number));
        let child = durable();
        if child.is_none() {
            return Ok(());
        }
        let home = child.homes[0];
        let id = self.domain.journal.borrow().id;
        let (pool, own) = (id.pool, id.domain);
        let address = PageAddress { pool, domain: own, level: level as u32, number, home };
        let offset = home.start_block() * BLOCK_BYTES;
        let mirrors: Vec<_> =
            self.domain.members.at(home.slot()).in_sync().map(Arc::clone).collect();
        for mirror in mirrors {
            let read = self.read(&mirror, offset, BLOCK_BYTES as usize).await?;
            self.note(|report| report.pages += 1);
            let whole =
                read.is_some_and(|bytes| Page::open(&bytes, &address, child.checksum).is_ok());
            if whole || durable() != child {
                continue;
            }
            let path = &mirror.path;
            self.found(format!("{path}: page {number} of level {level}: wrong, written anew"));
            let below = (CHILDREN_PER_PAGE as u32).saturating_pow(level as u32);
            self.domain.table.borrow_mut().pages.touch(number.saturating_mul(below));
            self.writes_pages.set(true);
        }
        Ok(())
    }

    /// The records that an opening would need now.
    async fn journal(&self) -> Result<(), StoreError> {
        let home = self.domain.members.home();
        let mirrors: Vec<_> = home.in_sync().map(Arc::clone).collect();
        for mirror in mirrors {
            let (mut at, end) = {
                let journal = self.domain.journal.borrow();
                (journal.last.tail, journal.last.end())
            };
            while at < end && self.goes_on() {
                match self.record(&mirror, at, end).await? {
                    Some(head) => at = head.end(),
                    None if at < self.domain.journal.borrow().last.tail => break,
                    None => {
                        let path = &mirror.path;
                        self.found(format!(
                            "{path}: the journal's record at position {at}: wrong, needed no more \
                             after the next checkpoint"
                        ));
                        self.writes_pages.set(true);
                        break;
                    }
                }
                self.slow_down().await;
            }
        }
        Ok(())
    }

    /// The record that begins at a position, or where the ring begins again behind it.
    async fn record(
        &self,
        mirror: &MirrorDisk,
        at: u64,
        end: u64,
    ) -> Result<Option<RecordHead>, StoreError> {
        let id = self.domain.journal.borrow().id;
        let turned = (at / id.bytes + 1) * id.bytes;
        for position in [at, turned] {
            if position >= end {
                break;
            }
            let offset = id.offset(position);
            let Some(first) = self.read(mirror, offset, BLOCK_BYTES as usize).await? else {
                continue;
            };
            let Ok(head) = decode_head(&id, position % id.bytes, &first) else { continue };
            // What begins the ring anew says from where.
            if head.position != position || position - u64::from(head.skipped) > at {
                continue;
            }
            let whole = self.read(mirror, offset, head.length as usize).await?;
            self.note(|report| report.records += 1);
            let is_whole = whole.is_some_and(|bytes| decode_body(&id, &head, &bytes).is_ok());
            return Ok(is_whole.then_some(head));
        }
        Ok(None)
    }
}
