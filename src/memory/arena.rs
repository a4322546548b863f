//! An arena: one mapping on one NUMA node, cut into aligned buffers.
//!
//! Buffers are powers of two from 4 KiB to 16 MiB, so each lies inside one registered piece
//! (1 GiB at most). Taking and giving back is a short lock and no allocation.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::machine::affinity::node_of;
use crate::machine::mapping::{Mapping, MappingError, PagePolicy, Pages};
use crate::memory::buddy::Buddy;
use crate::memory::buffer::DmaBuf;

/// Smallest buffer and alignment of every buffer, bytes.
pub const BLOCK_BYTES: usize = 4096;
const ORDER_MAX: u8 = 12;
/// Largest single buffer, bytes.
pub const BUFFER_BYTES_MAX: usize = BLOCK_BYTES << ORDER_MAX;
/// Largest piece of memory that one registered buffer may cover, bytes.
pub const REGISTERED_BYTES_MAX: usize = 1 << 30;

/// No buffer of that length can be had now (or ever, if it is too large).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no buffer of {bytes} bytes: {free_bytes} of {arena_bytes} arena bytes are free and a buffer \
     is at most {BUFFER_BYTES_MAX} bytes; drop buffers or raise `arena_mib_per_node`"
)]
pub struct BufferUnavailable {
    /// Bytes that were asked for.
    pub bytes: usize,
    /// Bytes free in the arena, perhaps not contiguous.
    pub free_bytes: usize,
    /// Size of the arena.
    pub arena_bytes: usize,
}

/// What became of an arena, for status.
#[derive(Clone, Debug, Serialize)]
pub struct ArenaStatus {
    /// Node that the arena was made for; none on machines without nodes.
    pub node_wanted: Option<u32>,
    /// Node where its first page really is.
    pub node_found: Option<u32>,
    /// Size in bytes.
    pub bytes: usize,
    /// Bytes not lent out.
    pub free_bytes: usize,
    /// Pages it is made of.
    pub pages: Pages,
}

/// Memory for buffers.
#[derive(Debug)]
pub struct Arena {
    mapping: Mapping,
    buddy: Mutex<Buddy>,
    node_wanted: Option<u32>,
    /// Index of this arena's first piece among the registered buffers of every ring.
    first_piece: u16,
}

impl Arena {
    /// Maps an arena on the calling thread's node.
    pub fn new(
        bytes: usize,
        policy: PagePolicy,
        node_wanted: Option<u32>,
        first_piece: u16,
    ) -> Result<Arc<Arena>, MappingError> {
        let mapping = Mapping::new(bytes, policy)?;
        let blocks = (mapping.bytes() / BLOCK_BYTES) as u32;
        Ok(Arc::new(Arena {
            buddy: Mutex::new(Buddy::new(blocks, ORDER_MAX)),
            mapping,
            node_wanted,
            first_piece,
        }))
    }

    /// Takes a buffer of length `bytes`; its capacity is the next power of two.
    pub fn take(self: &Arc<Arena>, bytes: usize) -> Result<DmaBuf, BufferUnavailable> {
        let blocks = bytes.max(1).div_ceil(BLOCK_BYTES).next_power_of_two();
        let order = blocks.ilog2() as u8;
        if order > ORDER_MAX {
            return Err(self.unavailable(bytes));
        }
        let taken = self.buddy.lock().unwrap_or_else(PoisonError::into_inner).take(order);
        let Some(block) = taken else { return Err(self.unavailable(bytes)) };
        Ok(DmaBuf::carve(Arc::clone(self), block as usize * BLOCK_BYTES, order, bytes))
    }

    fn unavailable(&self, bytes: usize) -> BufferUnavailable {
        let free_bytes = self.free_bytes();
        BufferUnavailable { bytes, free_bytes, arena_bytes: self.mapping.bytes() }
    }

    fn free_bytes(&self) -> usize {
        let buddy = self.buddy.lock().unwrap_or_else(PoisonError::into_inner);
        buddy.free_blocks() as usize * BLOCK_BYTES
    }

    pub(super) fn give(&self, offset: usize, order: u8) {
        let block = (offset / BLOCK_BYTES) as u32;
        self.buddy.lock().unwrap_or_else(PoisonError::into_inner).give(block, order);
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(super) fn piece_of(&self, offset: usize) -> u16 {
        self.first_piece + (offset / REGISTERED_BYTES_MAX) as u16
    }

    /// The pieces to register with a ring, in order.
    pub fn pieces(&self) -> Vec<libc::iovec> {
        let bytes = self.mapping.bytes();
        let base = self.mapping.as_ptr().as_ptr();
        (0..bytes)
            .step_by(REGISTERED_BYTES_MAX)
            .map(|start| libc::iovec {
                iov_base: base.wrapping_add(start).cast(),
                iov_len: REGISTERED_BYTES_MAX.min(bytes - start),
            })
            .collect()
    }

    /// What became of it.
    pub fn status(&self) -> ArenaStatus {
        ArenaStatus {
            node_wanted: self.node_wanted,
            node_found: node_of(self.mapping.as_ptr()),
            bytes: self.mapping.bytes(),
            free_bytes: self.free_bytes(),
            pages: self.mapping.pages(),
        }
    }
}
