//! The disks of a slot: any may come while others use the list, none ever goes.
//!
//! A disk that was taken out stays, and nothing goes there; the one that comes in its place is
//! another entry. So whoever holds a disk of the list never finds it to be another one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::store::member::MirrorDisk;

/// Disks of a slot at one opening: those that it has, and those that come.
pub(crate) const MIRRORS_MAX: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct MirrorList {
    places: [OnceLock<Arc<MirrorDisk>>; MIRRORS_MAX],
    count: AtomicUsize,
}

impl MirrorList {
    /// Adds a disk; gives it back when there is no room. One thread at a time does this.
    pub(crate) fn push(&self, disk: Arc<MirrorDisk>) -> Result<(), Arc<MirrorDisk>> {
        let count = self.len();
        match self.places.get(count) {
            Some(place) => {
                place.set(disk)?;
                self.count.store(count + 1, Ordering::Release);
                Ok(())
            }
            None => Err(disk),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// In the order in which they came.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<MirrorDisk>> + Clone {
        self.places[..self.len()].iter().filter_map(OnceLock::get)
    }

    /// The first one.
    pub(crate) fn first(&self) -> Option<&Arc<MirrorDisk>> {
        self.iter().next()
    }

    /// It, if it is the only one.
    #[inline]
    pub(crate) fn only(&self) -> Option<&Arc<MirrorDisk>> {
        if self.len() == 1 { self.first() } else { None }
    }
}
