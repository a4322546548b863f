//! The table of extent locks: found without a mutex, made and given to other extents under the
//! mutex of their shard.
//!
//! A slot is one cache line: a lock, the extent it belongs to, and two links. An extent's home is
//! the slot that its hash names. If another extent's lock is held there, the newcomer gets any idle
//! slot of the shard, and the home's chain leads to it. An idle lock stays findable until somebody
//! needs its slot, so that nothing has to be done when a lock is let go, and a billion touched
//! extents need no more memory than one.
//!
//! - Keys and links change under the shard's mutex alone, and a key only while its lock is
//!   `CHANGING`, with a new incarnation.
//! - So under the mutex a search is exact. Without it, a search may miss a lock, and then goes on
//!   under the mutex; but it cannot take a wrong one, because it compares and swaps the word, with
//!   the incarnation in it, from before it looked at the key.

use std::task::Waker;

use crossbeam_utils::CachePadded;
use uuid::Uuid;

use crate::concurrency::lock::acquire::{Found, LockRefusal};
use crate::concurrency::lock::metrics::LockCounters;
use crate::concurrency::lock::raw::{
    Attempt, LockRef, Parking, ParkingGuard, Parkings, RawLock, Take,
};
use crate::concurrency::lock::word::{LockMode, State};
use crate::concurrency::sync::{AtomicU32, AtomicU64, Ordering, fence, spin_loop};
use crate::machine::mapping::{MappingError, PagePolicy};
use crate::memory::arena::ArenaStatus;
use crate::memory::table::HugeTable;

/// A lock that lies at home, or nowhere yet.
const AT_HOME: u32 = u32::MAX;
/// The end of a chain.
const END: u32 = u32::MAX - 1;
/// A search without the mutex follows a chain no further than this.
const STEPS_MAX: usize = 16;

/// An extent as the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    words: [u64; 2],
    /// A slot; a whole word, so that a copy has no holes, which would go through memory.
    home: usize,
}

impl Key {
    pub(super) fn uuid(self) -> u128 {
        u128::from(self.words[0]) << 64 | u128::from(self.words[1])
    }
}

/// A lock's place: one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
struct Slot {
    lock: RawLock,
    key: [AtomicU64; 2],
    /// First lock that has its home here and lies elsewhere.
    chain: AtomicU32,
    /// If this lock lies away from its home: the next such one.
    link: AtomicU32,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Slot>() == 64, "a lock is one cache line");

impl Slot {
    fn new(shard: u32) -> Slot {
        Slot {
            lock: RawLock::new(shard),
            key: [AtomicU64::new(0), AtomicU64::new(0)],
            chain: AtomicU32::new(END),
            link: AtomicU32::new(AT_HOME),
        }
    }

    // Relaxed: the word that was loaded before, and is swapped after, orders these.
    #[inline(always)]
    fn is_of(&self, key: Key) -> bool {
        self.key[0].load(Ordering::Relaxed) == key.words[0]
            && self.key[1].load(Ordering::Relaxed) == key.words[1]
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct LockTable {
    slots: HugeTable<Slot>,
    /// A shard is its mutex with those who wait: all that threads in it contend for.
    shards: Parkings,
    /// From a hash to a slot, from a slot to its shard.
    home_shift: u32,
    shard_shift: u32,
    pub(super) counters: LockCounters,
}

/// Spreads a UUID of any version: one wide multiplication folded, as wyhash does, with constants
/// of its own. Whoever can choose UUIDs at will can make one shard full, and is told so.
#[inline(always)]
fn spread(words: [u64; 2]) -> u64 {
    let wide =
        u128::from(words[0] ^ 0xA076_1D64_78BD_642F) * u128::from(words[1] ^ 0xE703_7ED1_A0B4_28DB);
    (wide as u64 ^ (wide >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl LockTable {
    /// A table of `1 << slots_log2` locks in `1 << shards_log2` shards.
    pub(super) fn new(
        slots_log2: u32,
        shards_log2: u32,
        overtakes_max: u8,
        pages: PagePolicy,
    ) -> Result<LockTable, MappingError> {
        let shard = |_| CachePadded::new(Parking::new(overtakes_max));
        let shard_shift = slots_log2 - shards_log2;
        let slot = |index| Slot::new((index >> shard_shift) as u32);
        Ok(LockTable {
            slots: HugeTable::from_fn(1 << slots_log2, pages, slot)?,
            shards: HugeTable::from_fn(1 << shards_log2, pages, shard)?,
            // Two shifts of less than 64, since a table of one slot needs one of 64.
            home_shift: 63 - slots_log2,
            shard_shift,
            counters: LockCounters::default(),
        })
    }

    #[inline(always)]
    pub(super) fn key(&self, extent: &Uuid) -> Key {
        let (high, low) = extent.as_u64_pair();
        let home = spread([high, low]) >> 1 >> self.home_shift;
        Key { words: [high, low], home: home as usize }
    }

    pub(super) fn shard_of(&self, key: Key) -> u32 {
        (key.home >> self.shard_shift) as u32
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn status(&self) -> [ArenaStatus; 2] {
        [self.slots.status(), self.shards.status()]
    }

    #[inline(always)]
    fn slot(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    fn shard(&self, key: Key) -> &Parking {
        &self.shards[self.shard_of(key) as usize]
    }

    #[inline(always)]
    fn lock_ref(&self, slot: usize) -> LockRef<'_> {
        LockRef { lock: &self.slot(slot).lock, parkings: &self.shards }
    }

    /// Locks that are held or waited for.
    pub(super) fn live(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.lock.word.load().is_idle()).count()
    }

    /// Places of waiters that are in use.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.shards.iter().map(|shard| shard.enter().waiting()).sum()
    }

    // ---- without the mutex

    /// Takes a lock that lies at home and is free.
    #[inline(always)]
    pub(super) fn take_free(&self, key: Key, mode: LockMode) -> Option<LockRef<'_>> {
        let slot = self.slot(key.home);
        let seen = slot.lock.word.load();
        let lock = LockRef { lock: &slot.lock, parkings: &self.shards };
        (slot.is_of(key) && lock.take_free(seen, mode)).then_some(lock)
    }

    /// Takes a lock wherever it is found.
    pub(super) fn take_known(&self, key: Key, mode: LockMode) -> Found<'_> {
        let mut at = key.home;
        for _ in 0..STEPS_MAX {
            match self.take_at(at, key, mode) {
                Seen::Taken => return Found::Taken(self.lock_ref(at)),
                Seen::Held => return Found::Held,
                Seen::Changing => return Found::Unknown,
                Seen::Other => (),
            }
            let slot = self.slot(at);
            let next = if at == key.home { &slot.chain } else { &slot.link };
            // Relaxed: wherever a link leads, the word and the key found there decide.
            at = next.load(Ordering::Relaxed) as usize;
            if at >= self.slots.len() || at == key.home {
                return Found::Unknown;
            }
        }
        Found::Unknown
    }

    /// Takes the lock in a slot if it is the extent's.
    fn take_at(&self, at: usize, key: Key, mode: LockMode) -> Seen {
        let (slot, lock) = (self.slot(at), self.lock_ref(at));
        loop {
            let seen = slot.lock.word.load();
            if seen.is_changing() {
                return Seen::Changing;
            }
            if !slot.is_of(key) {
                return Seen::Other;
            }
            match lock.take(seen, mode) {
                Take::Taken => return Seen::Taken,
                Take::Held => {
                    // The key was this extent's when the lock was held, if the slot has not
                    // changed hands since. Acquire pairs with the Release fence of `seize`.
                    fence(Ordering::Acquire);
                    if seen.same_lock(slot.lock.word.load()) {
                        return Seen::Held;
                    }
                }
                Take::Raced => spin_loop(),
            }
        }
    }

    // ---- under the mutex of the shard

    /// Finds the extent's lock, or gives it an idle slot, held as `mode`.
    fn find_or_make(&self, key: Key, mode: LockMode) -> Result<Made, LockRefusal> {
        if let Some(at) = self.search(key) {
            return Ok(Made::Found(at));
        }
        let Some(at) = self.make(key, mode) else {
            let (shard, places) = (self.shard_of(key), 1 << self.shard_shift);
            return Err(LockRefusal::TableFull { shard, places });
        };
        self.counters.created();
        Ok(Made::Taken(at))
    }

    /// Under the mutex a search is exact: only whoever holds it changes keys and links.
    fn search(&self, key: Key) -> Option<usize> {
        if self.slot(key.home).is_of(key) {
            return Some(key.home);
        }
        let mut at = self.slot(key.home).chain.load(Ordering::Relaxed) as usize;
        while at != END as usize {
            if self.slot(at).is_of(key) {
                return Some(at);
            }
            at = self.slot(at).link.load(Ordering::Relaxed) as usize;
        }
        None
    }

    /// Gives an idle slot to the extent: one that nobody ever had, first of all its home, so that
    /// the locks of extents which come again stay; else its home, or one of its home's chain, so
    /// that chains do not grow beyond what is held at once; else the next idle one in the shard.
    fn make(&self, key: Key, mode: LockMode) -> Option<usize> {
        if self.slot(key.home).lock.word.load().is_unused() {
            return self.give(key.home, key, mode);
        }
        let places = 1usize << self.shard_shift;
        let first = key.home >> self.shard_shift << self.shard_shift;
        let hand = &self.shard(key).hand;
        // First the hand goes once over the shard and finds the slots that nobody ever had.
        let mut at = hand.load(Ordering::Relaxed) as usize;
        while at < places {
            let slot = first + at;
            at += 1;
            if self.slot(slot).lock.word.load().is_unused() {
                hand.store(at as u32, Ordering::Relaxed);
                return self.give(slot, key, mode);
            }
        }
        // From then on it counts on, and goes round and round.
        hand.store(at as u32, Ordering::Relaxed);
        if let Some(slot) = self.give(key.home, key, mode) {
            return Some(slot);
        }
        let mut chained = self.slot(key.home).chain.load(Ordering::Relaxed);
        while chained != END {
            let slot = chained as usize;
            chained = self.slot(slot).link.load(Ordering::Relaxed);
            if let Some(slot) = self.give(slot, key, mode) {
                return Some(slot);
            }
        }
        (0..places).find_map(|step| {
            let slot = self.give(first + ((at + step) & (places - 1)), key, mode)?;
            let next = places + ((at + step + 1) & (places - 1));
            hand.store(next as u32, Ordering::Relaxed);
            Some(slot)
        })
    }

    /// Gives a slot to the extent, held as `mode`, if it is idle.
    fn give(&self, at: usize, key: Key, mode: LockMode) -> Option<usize> {
        let changing = self.seize(at)?;
        self.install(at, key, changing, mode);
        Some(at)
    }

    /// Takes an idle lock away from its extent; nobody can take it until `install`.
    fn seize(&self, at: usize) -> Option<State> {
        let word = &self.slot(at).lock.word;
        let seen = word.load();
        let changing = seen.changing();
        if !seen.is_idle() || word.change(seen, changing).is_err() {
            return None;
        }
        // Release, before the key is written: pairs with the Acquire fence of `take_at`. Whoever
        // read any of the new key sees that the lock changes hands. The swap alone does not say
        // so: its Release orders what came before it, not what comes after.
        fence(Ordering::Release);
        Some(changing)
    }

    fn install(&self, at: usize, key: Key, changing: State, mode: LockMode) {
        let slot = self.slot(at);
        self.unchain(at);
        for (word, value) in slot.key.iter().zip(key.words) {
            word.store(value, Ordering::Relaxed);
        }
        if at != key.home {
            let home = &self.slot(key.home).chain;
            slot.link.store(home.load(Ordering::Relaxed), Ordering::Relaxed);
            home.store(at as u32, Ordering::Relaxed);
        }
        slot.lock.word.end_change(changing.changed(mode));
    }

    /// Takes a slot out of the chain of its old extent's home, if it lies away from it.
    fn unchain(&self, at: usize) {
        let slot = self.slot(at);
        let after = slot.link.load(Ordering::Relaxed);
        if after == AT_HOME {
            return;
        }
        let old = [slot.key[0].load(Ordering::Relaxed), slot.key[1].load(Ordering::Relaxed)];
        let mut before = &self.slot(self.key(&Uuid::from_u64_pair(old[0], old[1])).home).chain;
        loop {
            let next = before.load(Ordering::Relaxed);
            assert_ne!(next, END, "a lock away from home is in its home's chain");
            if next as usize == at {
                break;
            }
            before = &self.slot(next as usize).link;
        }
        before.store(after, Ordering::Relaxed);
        slot.link.store(AT_HOME, Ordering::Relaxed);
    }

    pub(super) fn take_or_queue(
        &self,
        key: Key,
        mode: LockMode,
        waker: Waker,
    ) -> Result<(LockRef<'_>, Attempt), LockRefusal> {
        // Declared before the mutex is taken: what is left of it is dropped after.
        let mut waker = Some(waker);
        let mut parking: ParkingGuard<'_> = self.shard(key).enter();
        match self.find_or_make(key, mode)? {
            Made::Taken(at) => Ok((self.lock_ref(at), Attempt::Taken)),
            Made::Found(at) => {
                let lock = self.lock_ref(at);
                let attempt = parking.take_or_queue(lock.lock, mode, &mut waker);
                Ok((lock, attempt))
            }
        }
    }

    pub(super) fn take_or_refuse(
        &self,
        key: Key,
        mode: LockMode,
    ) -> Result<LockRef<'_>, LockRefusal> {
        let _parking = self.shard(key).enter();
        match self.find_or_make(key, mode)? {
            Made::Taken(at) => Ok(self.lock_ref(at)),
            Made::Found(at) => match self.take_at(at, key, mode) {
                Seen::Taken => Ok(self.lock_ref(at)),
                Seen::Held | Seen::Changing | Seen::Other => Err(LockRefusal::Held),
            },
        }
    }
}

/// What a look at one slot found.
enum Seen {
    Taken,
    Held,
    Changing,
    Other,
}

/// A lock under the mutex: it was there, or it was made and is held.
enum Made {
    Found(usize),
    Taken(usize),
}
