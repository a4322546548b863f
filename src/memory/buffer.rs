//! Owned buffers: they go from the caller into a request, to the device, and come back.
//!
//! A buffer belongs to one owner at a time, so nobody can read it while the device writes it. It
//! keeps its arena alive: an operation that never completes keeps its memory mapped for ever.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::arena::{Arena, BLOCK_BYTES};

/// An aligned piece of an arena. `Deref` gives its first [`DmaBuf::len`] bytes.
pub struct DmaBuf {
    start: NonNull<u8>,
    len: u32,
    /// Registered piece that this buffer lies in.
    piece: u16,
    order: u8,
    keeps: Keeps,
}

/// Whose memory a buffer is.
enum Keeps {
    /// Its own, of this arena.
    Own(Arc<Arena>),
    /// That of another buffer, which nobody changes while it is viewed.
    View(Arc<DmaBuf>),
}

// SAFETY: a buffer is the only owner of its bytes (Buddy lends a run once), or a view of one that
// is shared and gives its bytes for reading alone; the arena it keeps is itself Send and Sync.
#[allow(unsafe_code)]
unsafe impl Send for DmaBuf {}
// SAFETY: a shared buffer gives only shared slices.
#[allow(unsafe_code)]
unsafe impl Sync for DmaBuf {}

impl DmaBuf {
    pub(super) fn carve(arena: Arc<Arena>, offset: usize, order: u8, len: usize) -> DmaBuf {
        let piece = arena.piece_of(offset);
        let base = arena.mapping().as_ptr();
        assert!(offset + (BLOCK_BYTES << order) <= arena.mapping().bytes());
        // SAFETY: the assertion above keeps the sum inside the mapping.
        #[allow(unsafe_code)]
        let start = unsafe { base.add(offset) };
        DmaBuf { start, len: len as u32, piece, order, keeps: Keeps::Own(arena) }
    }

    /// A buffer of the same bytes, to be written to a device: the copies of a mirror are written
    /// from one memory. Its memory goes back when the last view and the shared buffer are gone.
    pub(crate) fn view(shared: &Arc<DmaBuf>) -> DmaBuf {
        let DmaBuf { start, len, piece, order, .. } = **shared;
        DmaBuf { start, len, piece, order, keeps: Keeps::View(Arc::clone(shared)) }
    }

    /// The arena that its memory is of.
    pub(crate) fn arena(&self) -> &Arc<Arena> {
        match &self.keeps {
            Keeps::Own(arena) => arena,
            Keeps::View(shared) => shared.arena(),
        }
    }

    /// Whether it is a view, which is for reading alone.
    pub(crate) fn is_view(&self) -> bool {
        matches!(self.keeps, Keeps::View(_))
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no bytes are in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can be in use.
    pub fn capacity(&self) -> usize {
        BLOCK_BYTES << self.order
    }

    /// Changes how many bytes are in use; they are always initialised memory.
    ///
    /// # Panics
    /// When `len` is more than [`DmaBuf::capacity`].
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length {len} exceeds capacity {}", self.capacity());
        self.len = len as u32;
    }

    /// Address of the first byte, for a device.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Registered piece of memory that the buffer lies in.
    pub(crate) fn piece(&self) -> u16 {
        self.piece
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` has `capacity() >= len` bytes inside the mapping that the arena keeps;
        // they were zeroed at creation, and this value is their only owner, or a view of one that
        // is shared and so not changed (`deref_mut` needs it alone, and refuses views).
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize)
        }
    }
}

impl DerefMut for DmaBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        assert!(!self.is_view(), "a view is for reading");
        // SAFETY: as in `deref`; it is no view, so `&mut self` makes the slice the only one.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize)
        }
    }
}

impl std::fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBuf({} of {} bytes)", self.len, self.capacity())
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        if let Keeps::Own(arena) = &self.keeps {
            let base = arena.mapping().as_ptr().as_ptr() as usize;
            arena.give(self.start.as_ptr() as usize - base, self.order);
        }
    }
}

/// Buffers of a vectored operation, with the room that the system call needs.
///
/// It is made once by the caller and comes back with the completion, so it can be used again
/// without an allocation.
pub struct BufferList {
    buffers: Vec<DmaBuf>,
    vectors: Vec<libc::iovec>,
    bytes: u64,
}

// SAFETY: the vectors point only into the buffers that the list owns.
#[allow(unsafe_code)]
unsafe impl Send for BufferList {}
// SAFETY: a shared list gives nothing mutable.
#[allow(unsafe_code)]
unsafe impl Sync for BufferList {}

impl BufferList {
    /// Most buffers in one list (`UIO_MAXIOV`).
    pub const BUFFERS_MAX: usize = 1024;

    /// A list of these buffers, in order.
    pub fn new(buffers: Vec<DmaBuf>) -> BufferList {
        let vectors = Vec::with_capacity(buffers.len());
        let mut list = BufferList { buffers, vectors, bytes: 0 };
        list.reset();
        list
    }

    /// The buffers.
    pub fn buffers(&self) -> &[DmaBuf] {
        &self.buffers
    }

    /// The buffers, to fill or read.
    pub fn buffers_mut(&mut self) -> &mut [DmaBuf] {
        &mut self.buffers
    }

    /// Gives the buffers back.
    pub fn into_buffers(self) -> Vec<DmaBuf> {
        self.buffers
    }

    /// Bytes in use, all buffers together, when the list was last submitted or made.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the vectors whole again; called at each submission.
    pub(crate) fn reset(&mut self) {
        self.vectors.clear();
        self.vectors.extend(
            self.buffers.iter().map(|buffer| libc::iovec {
                iov_base: buffer.start().cast(),
                iov_len: buffer.len(),
            }),
        );
        self.bytes = self.buffers.iter().map(|buffer| buffer.len() as u64).sum();
    }

    pub(crate) fn vectors(&mut self) -> &mut [libc::iovec] {
        &mut self.vectors
    }
}

impl std::fmt::Debug for BufferList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufferList({} buffers, {} bytes)", self.buffers.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mapping::PagePolicy;
    use crate::memory::arena::BufferUnavailable;

    #[test]
    fn a_buffer_is_aligned_and_goes_back() {
        let arena = Arena::new(4 << 20, PagePolicy::Normal, None, 0).unwrap();
        let mut buffer = arena.take(5000).unwrap();
        assert_eq!((buffer.len(), buffer.capacity()), (5000, 8192));
        assert_eq!(buffer.start() as usize % BLOCK_BYTES, 0);
        buffer[4999] = 7;
        assert_eq!(arena.status().free_bytes, (4 << 20) - 8192);
        drop(buffer);
        assert_eq!(arena.status().free_bytes, 4 << 20);
    }

    #[test]
    fn views_keep_the_memory_and_change_nothing() {
        let arena = Arena::new(4 << 20, PagePolicy::Normal, None, 0).unwrap();
        let mut buffer = arena.take(4096).unwrap();
        buffer[7] = 9;
        let shared = Arc::new(buffer);
        let mut view = DmaBuf::view(&shared);
        drop(shared);
        assert_eq!((view.len(), view[7], view.is_view()), (4096, 9, true));
        assert!(arena.status().free_bytes < 4 << 20, "the view keeps it");
        let change = std::panic::AssertUnwindSafe(|| view[7] = 1);
        assert!(std::panic::catch_unwind(change).is_err());
        drop(view);
        assert_eq!(arena.status().free_bytes, 4 << 20);
    }

    #[test]
    fn an_empty_arena_says_what_is_missing() {
        let arena = Arena::new(2 << 20, PagePolicy::Normal, None, 0).unwrap();
        let held = arena.take(2 << 20).unwrap();
        let error = arena.take(4096).unwrap_err();
        assert_eq!(error, BufferUnavailable { bytes: 4096, free_bytes: 0, arena_bytes: 2 << 20 });
        drop(held);
        assert!(arena.take(32 << 20).is_err());
    }
}
