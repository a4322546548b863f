//! Anonymous memory in the largest pages to be had.
//!
//! The ladder is 1 GiB pages where asked, 2 MiB huge pages, transparent huge pages, normal pages.
//! It never fails for want of huge pages: which rung it became is in [`Mapping::pages`].
//! Memory is touched once by the thread that maps it, so that it lands on that thread's node.

use memmap2::{Advice, MmapMut, MmapOptions};
use serde::{Deserialize, Serialize};
use std::ptr::NonNull;

/// Size of a 2 MiB huge page, and the alignment that transparent huge pages want.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;
const GIGANTIC_PAGE_BYTES: usize = 1 << 30;
const NORMAL_PAGE_BYTES: usize = 4096;
/// Lengths are rounded up to this; a model that is run a million times pays for one page only.
const ROUND_BYTES: usize =
    if cfg!(any(loom, shuttle)) { NORMAL_PAGE_BYTES } else { HUGE_PAGE_BYTES };

/// The largest pages to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PagePolicy {
    /// 1 GiB pages, then as `Huge`.
    Gigantic,
    /// 2 MiB pages from `vm.nr_hugepages`, then transparent huge pages, then normal pages.
    #[default]
    Huge,
    /// Normal pages only.
    Normal,
}

/// What the memory became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pages {
    /// Explicit 1 GiB pages.
    Gigantic,
    /// Explicit 2 MiB pages.
    Huge,
    /// Normal mapping, advised to use transparent huge pages.
    Transparent,
    /// 4 KiB pages.
    Normal,
}

/// The machine refused even normal pages.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {bytes} bytes of memory: {source}; lower the arena size or free memory")]
pub struct MappingError {
    /// Bytes that were asked for.
    pub bytes: usize,
    /// The system's reason.
    pub source: std::io::Error,
}

/// A private, zeroed, aligned piece of memory. It is unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    map: MmapMut,
    start: usize,
    bytes: usize,
    pages: Pages,
}

impl Mapping {
    /// Maps `bytes` (rounded up to whole 2 MiB, or to 4 KiB where normal pages are wanted) and
    /// touches every page from this thread.
    pub fn new(bytes: usize, policy: PagePolicy) -> Result<Mapping, MappingError> {
        let round = if policy == PagePolicy::Normal { NORMAL_PAGE_BYTES } else { ROUND_BYTES };
        let bytes = bytes.max(1).next_multiple_of(round);
        if policy == PagePolicy::Gigantic
            && let Some(mapping) = Mapping::explicit(bytes, 30, Pages::Gigantic)
        {
            return Ok(mapping);
        }
        if policy != PagePolicy::Normal
            && let Some(mapping) = Mapping::explicit(bytes, 21, Pages::Huge)
        {
            return Ok(mapping);
        }
        let mut mapping = Mapping::advised(bytes, policy)?;
        mapping.touch(NORMAL_PAGE_BYTES);
        Ok(mapping)
    }

    /// Explicit huge pages are reserved by the kernel at this call, so touching them cannot fail.
    fn explicit(bytes: usize, page_bits: u8, pages: Pages) -> Option<Mapping> {
        let page_bytes = 1usize << page_bits;
        let rounded = bytes.next_multiple_of(page_bytes);
        let map = MmapOptions::new().len(rounded).huge(Some(page_bits)).map_anon().ok()?;
        let mut mapping = Mapping { map, start: 0, bytes, pages };
        mapping.touch(if pages == Pages::Gigantic { GIGANTIC_PAGE_BYTES } else { page_bytes });
        Some(mapping)
    }

    /// One huge page more than asked, so that an aligned start exists inside.
    fn advised(bytes: usize, policy: PagePolicy) -> Result<Mapping, MappingError> {
        let map = MmapOptions::new()
            .len(bytes + HUGE_PAGE_BYTES)
            .map_anon()
            .map_err(|source| MappingError { bytes, source })?;
        let start = map.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let advised = policy != PagePolicy::Normal && map.advise(Advice::HugePage).is_ok();
        let pages = if advised { Pages::Transparent } else { Pages::Normal };
        Ok(Mapping { map, start, bytes, pages })
    }

    fn touch(&mut self, step: usize) {
        let (start, bytes) = (self.start, self.bytes);
        for byte in self.map[start..start + bytes].iter_mut().step_by(step) {
            // A write, not a read: a read would map the shared zero page.
            std::hint::black_box(&mut *byte);
            *byte = 0;
        }
    }

    /// First byte; stays valid, and readable and writable for [`Mapping::bytes`], until drop.
    pub fn as_ptr(&self) -> NonNull<u8> {
        let first = self.map.as_ptr().cast_mut().wrapping_add(self.start);
        // SAFETY: `start` is inside the mapping (`advised` maps the padding that it skips), so the
        // address is not null. Of the whole mapping, not of a byte of it: tables read and write
        // through it.
        #[allow(unsafe_code)]
        unsafe {
            NonNull::new_unchecked(first)
        }
    }

    /// Usable length in bytes, a multiple of 2 MiB; of 4 KiB where normal pages were wanted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Which pages the memory is made of.
    pub fn pages(&self) -> Pages {
        self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_zeroed_whatever_the_pages() {
        for policy in [PagePolicy::Gigantic, PagePolicy::Huge, PagePolicy::Normal] {
            let mapping = Mapping::new(3 << 20, policy).unwrap();
            let rounded = if policy == PagePolicy::Normal { 3 << 20 } else { 4 << 20 };
            assert_eq!(mapping.bytes(), rounded);
            assert_eq!(mapping.as_ptr().as_ptr() as usize % NORMAL_PAGE_BYTES, 0);
            assert!(
                mapping.map[mapping.start..mapping.start + mapping.bytes].iter().all(|b| *b == 0)
            );
            if policy == PagePolicy::Normal {
                assert_eq!(mapping.pages(), Pages::Normal);
            }
        }
    }
}
