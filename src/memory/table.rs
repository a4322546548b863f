//! A table: a fixed number of values of one type in huge-page memory of their own.
//!
//! For what is read at random by every thread (locks, generations): a table of 1 GiB takes 512
//! entries of the processor's address cache instead of 262,144.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::machine::affinity::node_of;
use crate::machine::mapping::{Mapping, MappingError, PagePolicy};
use crate::memory::arena::ArenaStatus;

/// Values of one type, one after another, from an address that is a multiple of 4096.
///
/// The memory lands on the NUMA node of the thread that makes the table, and stays mapped and of
/// that type until the table is dropped.
#[derive(Debug)]
pub struct HugeTable<T> {
    /// The first value, in `mapping`: kept, because every access asks for it.
    first: NonNull<T>,
    count: usize,
    mapping: Mapping,
    values: PhantomData<T>,
}

// SAFETY: the table owns its values, as a boxed slice would; the pointer is to its own memory.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for HugeTable<T> {}
// SAFETY: a shared table gives out shared references to its values alone.
#[allow(unsafe_code)]
unsafe impl<T: Sync> Sync for HugeTable<T> {}

#[allow(unsafe_code)]
impl<T> HugeTable<T> {
    /// A table of `count` values, each made by `value` from its index.
    ///
    /// # Errors
    /// When the machine has not even normal pages for it.
    pub fn from_fn(
        count: usize,
        policy: PagePolicy,
        mut value: impl FnMut(usize) -> T,
    ) -> Result<HugeTable<T>, MappingError> {
        const { assert!(align_of::<T>() <= 4096, "a mapping is aligned to normal pages") };
        let bytes = count.saturating_mul(size_of::<T>());
        if bytes > isize::MAX as usize {
            return Err(MappingError { bytes, source: std::io::ErrorKind::OutOfMemory.into() });
        }
        // The count grows with the values, so that a panic in `value` drops those that exist.
        let mapping = Mapping::new(bytes, policy)?;
        let first = mapping.as_ptr().cast();
        let mut table: HugeTable<T> = HugeTable { first, count: 0, mapping, values: PhantomData };
        for index in 0..count {
            let value = value(index);
            // SAFETY: the mapping has room for `count` values, and `index` is below it.
            let place = unsafe { table.first.as_ptr().add(index) };
            // SAFETY: the place is inside the mapping, aligned by the assertion above and by the
            // size of T, and nobody else has it before `from_fn` returns.
            unsafe { place.write(value) };
            table.count = index + 1;
        }
        Ok(table)
    }

    /// What became of its memory.
    pub fn status(&self) -> ArenaStatus {
        ArenaStatus {
            node_wanted: None,
            node_found: node_of(self.mapping.as_ptr()),
            bytes: self.mapping.bytes(),
            free_bytes: self.mapping.bytes() - self.count * size_of::<T>(),
            pages: self.mapping.pages(),
        }
    }
}

#[allow(unsafe_code)]
impl<T> Deref for HugeTable<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `from_fn` wrote the first `count` values; the mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

#[allow(unsafe_code)]
impl<T> Drop for HugeTable<T> {
    fn drop(&mut self) {
        let values = std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.count);
        // SAFETY: the values were written by `from_fn`, nobody borrows them any more, and the
        // mapping, a field, is unmapped after this.
        unsafe { values.drop_in_place() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    struct Counted<'a>(&'a Cell<i32>);

    impl<'a> Counted<'a> {
        fn new(alive: &'a Cell<i32>) -> Counted<'a> {
            alive.set(alive.get() + 1);
            Counted(alive)
        }
    }

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[test]
    fn holds_its_values_and_drops_each_once() {
        let alive = Cell::new(0);
        let table =
            HugeTable::from_fn(1000, PagePolicy::Huge, |i| (i, Counted::new(&alive))).unwrap();
        assert_eq!(table.len(), 1000);
        assert!(table.iter().enumerate().all(|(index, (value, _))| index == *value));
        assert_eq!(alive.get(), 1000);
        drop(table);
        assert_eq!(alive.get(), 0);
    }

    #[test]
    fn a_panic_half_way_drops_what_was_made() {
        let alive = Cell::new(0);
        let made = catch_unwind(AssertUnwindSafe(|| {
            HugeTable::from_fn(10, PagePolicy::Normal, |index| {
                assert!(index < 5, "planted");
                Counted::new(&alive)
            })
        }));
        assert!(made.is_err());
        assert_eq!(alive.get(), 0);
    }

    #[test]
    fn a_table_that_cannot_be_is_an_error() {
        assert!(HugeTable::from_fn(usize::MAX, PagePolicy::Normal, |_| 0u64).is_err());
        assert!(HugeTable::from_fn(1 << 60, PagePolicy::Normal, |_| 0u8).is_err());
    }

    #[test]
    fn an_empty_table_is_an_empty_slice() {
        let table = HugeTable::from_fn(0, PagePolicy::Normal, |_| 1u64).unwrap();
        assert!(table.is_empty());
    }
}
