//! The slots of a pool: more may come while others use the list, none ever goes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::member::Member;

/// Slots that come at one opening, at most.
const COMING_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct SlotList {
    places: Box<[OnceLock<Box<Member>>]>,
    count: AtomicUsize,
}

impl SlotList {
    /// Of a pool that is opened.
    pub(crate) fn new(members: Vec<Member>) -> SlotList {
        let count = members.len();
        let mut places: Vec<OnceLock<Box<Member>>> =
            members.into_iter().map(|member| OnceLock::from(Box::new(member))).collect();
        places.resize_with(count + COMING_MAX, OnceLock::new);
        SlotList { places: places.into_boxed_slice(), count: AtomicUsize::new(count) }
    }

    /// Whether one more may come.
    pub(crate) fn has_room(&self) -> bool {
        self.len() < self.places.len()
    }

    /// Adds a slot. One thread at a time does this.
    ///
    /// # Panics
    /// When there is no room.
    pub(crate) fn push(&self, member: Member) {
        let count = self.len();
        if self.places[count].set(Box::new(member)).is_err() {
            unreachable!("a place behind the last is empty")
        }
        self.count.store(count + 1, Ordering::Release);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there is none, which is no pool.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A slot, if there is one of that number.
    pub fn get(&self, slot: usize) -> Option<&Member> {
        self.places[..self.len()].get(slot)?.get().map(|member| &**member)
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.places[..self.len()].iter().map(|place| {
            let Some(member) = place.get() else {
                unreachable!("a place before the last is filled")
            };
            &**member
        })
    }
}

impl std::ops::Index<usize> for SlotList {
    type Output = Member;

    fn index(&self, slot: usize) -> &Member {
        match self.get(slot) {
            Some(member) => member,
            None => panic!("the pool has {} slots, and no slot {slot}", self.len()),
        }
    }
}
