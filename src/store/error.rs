//! What can go wrong with a request to the store, and what is certain then.

use std::sync::Arc;

use crate::io::error::IoError;

/// Whether what failed may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It has not happened and will not.
    Out,
    /// It may have: the next opening decides, once and for all.
    Unknown,
}

/// Why a request failed. It says what is certain: see [`StoreError::certainty`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such inode.
    #[error("there is no inode {inode}")]
    NoSuchInode {
        /// Its id.
        inode: u64,
    },
    /// The range goes past what an inode can hold.
    #[error("{len} bytes at offset {offset} go past the largest inode of {max} bytes")]
    TooFar {
        /// Offset asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Most bytes of an inode.
        max: u64,
    },
    /// An inode cannot have so many copies.
    #[error("an inode of this pool has 1 to {mirrors} copies, and {copies} are wanted")]
    Copies {
        /// Copies that are wanted.
        copies: u16,
        /// Mirrors of each slot.
        mirrors: u16,
    },
    /// A request or transaction is larger than a commit can be.
    #[error("the request needs {bytes} bytes of one commit, which holds {max}; cut it into parts")]
    TooLarge {
        /// What it needs.
        bytes: u64,
        /// What there is.
        max: u64,
    },
    /// A transaction has more steps than a commit can have.
    #[error("the transaction has {steps} steps, and a commit holds {max}; cut it into parts")]
    TooManySteps {
        /// What it has.
        steps: usize,
        /// What there may be.
        max: usize,
    },
    /// The pool is full.
    #[error(
        "the pool is full: {wanted_bytes} bytes are wanted and {free_bytes} are free; delete \
         something or add space"
    )]
    Full {
        /// Bytes that the request needs.
        wanted_bytes: u64,
        /// Bytes that data may have.
        free_bytes: u64,
    },
    /// The table of metadata has no memory for new extents that its configuration allows.
    #[error(
        "the metadata in memory has reached its {bytes_max} bytes: raise `table.mib`, or delete \
         something; writing over what is there goes on"
    )]
    TableFull {
        /// What it may have.
        bytes_max: u64,
    },
    /// A block is not what was written.
    #[error(
        "inode {inode}, byte {offset}: block {block} of {path} has checksum {found:#010x}, written \
         was {expected:#010x}; the data there is lost unless the device returns it again"
    )]
    Corrupt {
        /// Whose.
        inode: u64,
        /// First byte of the block in the inode.
        offset: u64,
        /// The disk.
        path: Arc<str>,
        /// The block's number on the disk, in units of 4 KiB.
        block: u64,
        /// Checksum of what was written.
        expected: u32,
        /// Checksum of what was read.
        found: u32,
    },
    /// A block could not be read.
    #[error("inode {inode}, byte {offset}: {source}")]
    Unreadable {
        /// Whose.
        inode: u64,
        /// First byte of the block in the inode.
        offset: u64,
        /// Why.
        source: Arc<IoError>,
    },
    /// Metadata is lost, and with it whether this was ever there.
    #[error(
        "inode {inode}{}: what was there cannot be told, because {reason}",
        offset.map(|offset| format!(", byte {offset}")).unwrap_or_default()
    )]
    MetadataLost {
        /// Which.
        inode: u64,
        /// First byte in question; none when it is the inode itself.
        offset: Option<u64>,
        /// What is lost.
        reason: Arc<str>,
    },
    /// Data could not be written. Nothing of the request happened.
    #[error("the data could not be written: {source}")]
    Write {
        /// Why.
        source: Arc<IoError>,
    },
    /// The commit failed after its record was sent.
    #[error("the commit failed, and {}: {reason}", certainty_text(*.certainty))]
    CommitFailed {
        /// What happened.
        reason: Arc<str>,
        /// Whether it may have happened all the same.
        certainty: Certainty,
    },
    /// The domain takes no changes any more.
    #[error("the store takes no changes as it was opened: {reason}")]
    ReadOnly {
        /// Since when and why.
        reason: Arc<str>,
    },
    /// There is no memory for it.
    #[error("no memory: {reason}")]
    NoMemory {
        /// What is short.
        reason: Arc<str>,
    },
    /// The store is closing.
    #[error("the store is closing")]
    Closing,
    /// Waiting on a reactor's own thread would never end. The request goes on without its ticket.
    #[error("a reactor's own thread cannot wait for the store: it would never end; await it")]
    WaitOnReactor,
}

fn certainty_text(certainty: Certainty) -> &'static str {
    match certainty {
        Certainty::Out => "certainly nothing of it happened",
        Certainty::Unknown => "it is unknown whether it happened; the next opening decides",
    }
}

impl StoreError {
    /// Whether the request may have happened.
    pub fn certainty(&self) -> Certainty {
        match self {
            StoreError::CommitFailed { certainty, .. } => *certainty,
            StoreError::WaitOnReactor => Certainty::Unknown,
            _ => Certainty::Out,
        }
    }
}
