//! What is on its way to the journal: batches, the newest of them open.
//!
//! A request that joins the open batch changes what later requests build on, and nothing that a
//! reader sees: `Pipe::extent` and `Pipe::inode` look from the newest batch to the oldest
//! before they leave it to the table. Batches are committed in their order, one at a time.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::format::extent::Extent;
use crate::format::fragment::Fragment;
use crate::format::page::InodeRecord;
use crate::format::record::{Changes, Cut, ExtentPut};
use crate::store::error::StoreError;
use crate::store::mechanism::Mechanism;
use crate::store::port::Fate;

/// What became of a batch.
pub(crate) type Outcome = Result<Committed, StoreError>;

/// A commit that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its number in its domain. Commits of one domain are durable in this order.
    pub sequence: u64,
    /// How it became durable.
    pub mechanism: Mechanism,
}

/// Where the requests of a batch wait for its end.
pub(crate) type BatchFate = Fate<Outcome>;

/// An extent that a batch puts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put {
    pub(crate) extent: Extent,
    /// Blocks written for this batch.
    pub(crate) fresh: u16,
    /// Those whose content goes into the record.
    pub(crate) inline: u16,
}

/// What one request changes: all of it or nothing.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) cuts: Vec<Cut>,
    pub(crate) deletes: Vec<u64>,
    pub(crate) inode: Option<InodeRecord>,
    pub(crate) extents: Vec<(u64, u64, Put)>,
    /// Blocks that were taken for it.
    pub(crate) taken: Vec<Fragment>,
    /// What it replaces.
    pub(crate) freed: Vec<Fragment>,
    /// Promised to it for pages; given back when its batch ends.
    pub(crate) promised: u64,
    /// Its request was answered when it joined.
    pub(crate) buffered: bool,
}

impl Change {
    /// Most bytes that it adds to a record.
    pub(crate) fn encoded_bytes_max(&self) -> usize {
        let inline: u32 = self.extents.iter().map(|(_, _, put)| put.inline.count_ones()).sum();
        self.cuts.len() * 24
            + self.deletes.len() * 8
            + size_of::<InodeRecord>()
            + self.extents.len() * ExtentPut::ENCODED_BYTES_MAX
            + inline as usize * 4096
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    cuts: Vec<Cut>,
    deletes: BTreeSet<u64>,
    inodes: BTreeMap<u64, InodeRecord>,
    extents: BTreeMap<(u64, u64), Put>,
    /// Free when it is durable: what its changes replaced.
    pub(crate) freed: Vec<Fragment>,
    /// Free when it is certainly out: what was written for it.
    pub(crate) taken: Vec<Fragment>,
    pub(crate) promised: u64,
    /// Requests that joined.
    pub(crate) ops: u32,
    bytes: usize,
    inline_bytes: u64,
    /// Inodes with a request that was answered when it joined.
    pub(crate) buffered: BTreeSet<u64>,
    pub(crate) opened_ns: u64,
    /// Setbacks of the domain before it was opened: after another one its data may be lost.
    pub(crate) setbacks: u64,
    pub(crate) fate: Rc<BatchFate>,
}

impl Batch {
    /// Most bytes of its record.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        (self.bytes + 2 * 4096) as u64
    }

    /// What goes into the record, but for its sequence: see [`number`].
    pub(crate) fn changes(&self) -> Changes {
        let extents = self.extents.iter().map(|((inode, index), put)| ExtentPut {
            inode: *inode,
            index: *index,
            extent: put.extent,
            fresh: put.fresh,
            inline: put.inline,
        });
        Changes {
            cuts: self.cuts.clone(),
            deletes: self.deletes.iter().copied().collect(),
            inodes: self.inodes.values().copied().collect(),
            extents: extents.collect(),
        }
    }
}

/// The inodes of a record get its sequence, new ones as that of their making too.
pub(crate) fn number(changes: &mut Changes, sequence: u64) {
    for record in &mut changes.inodes {
        record.generation = sequence;
        if record.created == 0 {
            record.created = sequence;
        }
    }
}

/// Whether something is pending, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pending<T> {
    /// No batch says anything of it.
    No,
    /// It will be this.
    Is(T),
    /// It will not be.
    Gone,
}

/// All batches that were not acknowledged, the open one last.
#[derive(Debug)]
pub(crate) struct Pipe {
    batches: VecDeque<Batch>,
    /// Ops that joined and wait.
    ops: Cell<u64>,
}

impl Pipe {
    pub(crate) fn new() -> Pipe {
        Pipe { batches: VecDeque::new(), ops: Cell::new(0) }
    }

    /// Requests that joined and were not answered.
    pub(crate) fn ops(&self) -> u64 {
        self.ops.get()
    }

    /// Batches, the oldest first.
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    /// The oldest batch.
    pub(crate) fn first(&self) -> Option<&Batch> {
        self.batches.front()
    }

    /// Whether the oldest batch is the one with this end.
    pub(crate) fn is_first(&self, fate: &Rc<BatchFate>) -> bool {
        self.first().is_some_and(|batch| Rc::ptr_eq(&batch.fate, fate))
    }

    /// Where to wait for what was answered before it was durable, of one inode.
    pub(crate) fn buffered_fate(&self, inode: u64) -> Option<Rc<BatchFate>> {
        let batch = self.batches.iter().rev().find(|batch| batch.buffered.contains(&inode));
        batch.map(|batch| Rc::clone(&batch.fate))
    }

    /// Where to wait for everything that has joined.
    pub(crate) fn newest_fate(&self) -> Option<Rc<BatchFate>> {
        self.batches.back().map(|batch| Rc::clone(&batch.fate))
    }

    /// What an extent will be.
    pub(crate) fn extent(&self, inode: u64, index: u64) -> Pending<Extent> {
        for batch in self.batches.iter().rev() {
            if let Some(put) = batch.extents.get(&(inode, index)) {
                return Pending::Is(put.extent);
            }
            let cut = |cut: &Cut| cut.inode == inode && (cut.from..cut.to).contains(&index);
            if batch.deletes.contains(&inode) || batch.cuts.iter().any(cut) {
                return Pending::Gone;
            }
        }
        Pending::No
    }

    /// What an inode will be.
    pub(crate) fn inode(&self, id: u64) -> Pending<InodeRecord> {
        for batch in self.batches.iter().rev() {
            if let Some(record) = batch.inodes.get(&id) {
                return Pending::Is(*record);
            }
            if batch.deletes.contains(&id) {
                return Pending::Gone;
            }
        }
        Pending::No
    }

    /// Extents of an inode with indexes `from..to` that batches put.
    pub(crate) fn extents_of(&self, inode: u64, from: u64, to: u64) -> BTreeSet<u64> {
        let range = (inode, from)..(inode, to);
        let puts = self.batches.iter().flat_map(|batch| batch.extents.range(range.clone()));
        puts.map(|((_, index), _)| *index).collect()
    }

    /// Inline bytes of the batch that the next change will join.
    pub(crate) fn open_inline_bytes(&self, limits: &BatchLimits) -> u64 {
        if self.batches.len() == 1 && limits.first_is_closed {
            return 0;
        }
        self.batches.back().map_or(0, |batch| batch.inline_bytes)
    }

    /// Opens a batch if the newest cannot take a change of so many bytes any more.
    pub(crate) fn open(
        &mut self,
        bytes: usize,
        (now_ns, setbacks): (u64, u64),
        limits: &BatchLimits,
    ) {
        // The first batch may be on its way to the journal: nobody joins it then.
        let room = self.batches.back().is_some_and(|batch| {
            let fits = batch.record_bytes_max() + bytes as u64 <= limits.bytes;
            batch.ops == 0 || batch.ops < limits.ops && fits
        });
        let sealed = self.batches.len() == 1 && limits.first_is_closed;
        if !room || sealed {
            self.batches.push_back(Batch { opened_ns: now_ns, setbacks, ..Batch::default() });
        }
    }

    /// A change joins the open batch.
    pub(crate) fn join(&mut self, change: Change) -> Rc<BatchFate> {
        let bytes = change.encoded_bytes_max();
        let Some(batch) = self.batches.back_mut() else { unreachable!("a batch is open") };
        for cut in &change.cuts {
            batch.forget_range(cut);
        }
        batch.cuts.extend(change.cuts);
        for id in change.deletes {
            batch.forget_range(&Cut { inode: id, from: 0, to: u64::MAX });
            batch.inodes.remove(&id);
            batch.deletes.insert(id);
        }
        if let Some(inode) = change.inode {
            batch.inodes.insert(inode.id, inode);
            if change.buffered {
                batch.buffered.insert(inode.id);
            }
        }
        for (inode, index, put) in change.extents {
            batch.inline_bytes += u64::from(put.inline.count_ones()) * 4096;
            batch.put(inode, index, put);
        }
        batch.freed.extend(change.freed);
        batch.taken.extend(change.taken);
        batch.promised += change.promised;
        batch.ops += 1;
        batch.bytes += bytes;
        self.ops.set(self.ops.get() + 1);
        Rc::clone(&batch.fate)
    }

    /// The oldest batch has ended.
    pub(crate) fn end_first(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.ops.set(self.ops.get() - u64::from(batch.ops));
        Some(batch)
    }
}

/// When a batch takes no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub(crate) ops: u32,
    pub(crate) bytes: u64,
    /// The first batch is on its way.
    pub(crate) first_is_closed: bool,
}

impl Batch {
    fn forget_range(&mut self, cut: &Cut) {
        let range = (cut.inode, cut.from)..(cut.inode, cut.to);
        let gone: Vec<(u64, u64)> = self.extents.range(range).map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| {
            self.extents.remove(key);
        });
    }

    fn put(&mut self, inode: u64, index: u64, mut put: Put) {
        if let Some(before) = self.extents.get(&(inode, index)) {
            // What the earlier request of this batch wrote, as far as it is still there.
            for block in 0..put.extent.places.len() {
                let same = before.extent.places[block] == put.extent.places[block];
                if same && put.fresh & 1 << block == 0 {
                    put.fresh |= before.fresh & 1 << block;
                    put.inline |= before.inline & 1 << block;
                }
            }
        }
        self.extents.insert((inode, index), put);
    }
}
