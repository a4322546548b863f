//! What a caller asks of a domain, and what it is told.

use std::sync::Arc;

use crate::format::page::InodeRecord;
use crate::io::op::Priority;
use crate::memory::DmaBuf;
use crate::store::batch::Committed;
use crate::store::domain::DomainStatus;
use crate::store::error::StoreError;
use crate::store::member::MirrorDisk;
use crate::store::scrub::{ScrubOrder, ScrubReport};

/// When a change is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is durable.
    #[default]
    Committed,
    /// When it is ordered and visible; the next sync makes it durable.
    Buffered,
}

/// Bytes for an inode. The buffer begins on a block of the inode: the byte for `offset` is at
/// `offset % 4096` of it, and it is long enough for whole blocks.
#[derive(Debug)]
pub struct Payload {
    /// First byte of the inode.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
    /// Memory.
    pub buffer: DmaBuf,
}

/// One step of a transaction.
#[derive(Debug)]
pub enum Step {
    /// Bytes are written; the inode grows if they go past its end.
    Write(Payload),
    /// A range reads as zeroes from then on, and takes no space where it covers whole blocks. The
    /// inode does not grow.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The blocks of an extent as they are, at new places: what is wrong on a disk is right there.
    Rewrite {
        /// The extent's index.
        index: u64,
    },
    /// The inode ends there.
    Truncate {
        /// Bytes.
        size: u64,
    },
}

/// A request.
#[derive(Debug)]
pub enum Call {
    /// Makes an inode.
    Create {
        /// What the creator writes into it.
        tag: [u8; 64],
        /// How many copies its data has; none: as many as its pool has mirrors.
        copies: Option<u16>,
    },
    /// Removes one, with its content.
    Delete {
        /// Which.
        inode: u64,
    },
    /// What is known of one.
    Stat {
        /// Which.
        inode: u64,
    },
    /// Inodes by id.
    List {
        /// The first id to look at.
        from: u64,
        /// Most to return.
        max: usize,
    },
    /// Bytes of one.
    Read {
        /// Which.
        inode: u64,
        /// First byte.
        offset: u64,
        /// Memory: whole blocks for `len` bytes from `offset % 4096` on.
        buffer: DmaBuf,
        /// Bytes.
        len: usize,
        /// Class of the reads.
        priority: Priority,
    },
    /// Changes one: all steps or none.
    Change {
        /// Which.
        inode: u64,
        /// In this order.
        steps: Vec<Step>,
        /// When to answer.
        durability: Durability,
    },
    /// Everything that was answered before is durable when this is.
    Sync,
    /// What the domain is doing.
    Status,
    /// Who owns its blocks, counted from what refers to them.
    Audit,
    /// Begins a scrub, or pauses or ends it, or asks how far it is.
    Scrub(ScrubOrder),
    /// A disk has come, and is to get what the domain has.
    Bring(Arc<MirrorDisk>),
    /// The pool has one more slot, and the domain its groups of it.
    Widen(u16),
    /// The disks of a slot have grown, and the domain has its groups of that.
    Grow(u16),
    /// Slots are leaving, or stay after all.
    Fates,
    /// Everything is made durable, a checkpoint written; the domain takes no more.
    Close,
}

/// What was read: `len` bytes from `start` of the buffer.
#[derive(Debug)]
pub struct ReadBytes {
    pub(crate) buffer: DmaBuf,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl std::ops::Deref for ReadBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }
}

/// Every block of a domain, by owner. Without changes under way their sum is all there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// All blocks.
    pub blocks: u64,
    /// Blocks without an owner.
    pub free: u64,
    /// Blocks that extents refer to.
    pub data: u64,
    /// Homes of metadata pages.
    pub pages: u64,
    /// Blocks that changes on their way have taken, or free when they are durable.
    pub on_the_way: u64,
    /// Blocks promised to changes on their way.
    pub promised: u64,
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// To a creation.
    Created {
        /// The new inode.
        inode: u64,
        /// How it became durable.
        committed: Committed,
    },
    /// To a change or deletion; none when it was only ordered.
    Changed(Option<Committed>),
    /// To a stat.
    Stat(InodeRecord),
    /// To a list.
    List(Vec<InodeRecord>),
    /// To a read; shorter than asked for where the inode ends.
    Read(ReadBytes),
    /// To a sync or close, and when a disk or slot has come.
    Done,
    /// To an audit.
    Audit(Audit),
    /// To an order for a scrub.
    Scrub(Box<ScrubReport>),
    /// To a status.
    Status(Box<DomainStatus>),
    /// To whatever failed.
    Failed(StoreError),
}
