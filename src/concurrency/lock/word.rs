//! The lock word: who holds a lock, whether anyone waits, and which lock it is.
//!
//! | bits | what |
//! | --- | --- |
//! | 0..16 | shared holders; from bit 15 on no more are let in |
//! | 16 | `EXCLUSIVE`: one exclusive holder |
//! | 17 | `QUEUED`: the queue is not empty, so the lock may not be reclaimed |
//! | 18 | `NOTIFIED`: the head of the queue was woken and has not looked yet |
//! | 19 | `CHANGING`: the lock is being given to another extent; nobody may take it |
//! | 20..26 | how often the head of the queue was overtaken since the last one left it |
//! | 26..64 | incarnation: rises each time the lock is given to another extent |
//!
//! All changes are read-modify-writes, but for the end of `CHANGING`, when nobody else changes it.
//! A taker compares the whole word, so it cannot take a lock that has become another extent's.

use crate::concurrency::sync::{AtomicU64, Ordering};

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

const READER: u64 = 1;
const READERS: u64 = (1 << 16) - 1;
/// Most shared holders of one lock at once; further ones wait.
pub const READERS_MAX: u64 = 1 << 15;
const EXCLUSIVE: u64 = 1 << 16;
const QUEUED: u64 = 1 << 17;
const NOTIFIED: u64 = 1 << 18;
const CHANGING: u64 = 1 << 19;
const OVERTAKE: u64 = 1 << 20;
const OVERTAKES: u64 = OVERTAKES_MAX as u64 * OVERTAKE;
/// Largest bound of overtaking that fits the word.
pub const OVERTAKES_MAX: u8 = 63;
const INCARNATION: u64 = 1 << 26;

impl LockMode {
    /// What one holder of this mode adds to the word.
    #[inline(always)]
    const fn unit(self) -> u64 {
        match self {
            LockMode::Shared => READER,
            LockMode::Exclusive => EXCLUSIVE,
        }
    }

    /// What keeps this mode out.
    #[inline(always)]
    const fn blockers(self) -> u64 {
        match self {
            LockMode::Shared => EXCLUSIVE | CHANGING | READERS_MAX,
            LockMode::Exclusive => EXCLUSIVE | CHANGING | READERS,
        }
    }
}

/// A value of the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u64);

impl State {
    /// Whether nobody stands in the way of `mode`, those who wait aside.
    #[inline(always)]
    pub(crate) fn admits(self, mode: LockMode) -> bool {
        self.0 & mode.blockers() == 0
    }

    /// Whether nobody holds it or waits for it.
    #[inline(always)]
    pub(crate) fn is_idle(self) -> bool {
        self.0 & (READERS | EXCLUSIVE | QUEUED | CHANGING) == 0
    }

    /// Whether it has been free since the table was made, or once in 2^38 times looks like it.
    pub(crate) fn is_unused(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub(crate) fn is_changing(self) -> bool {
        self.0 & CHANGING != 0
    }

    #[inline(always)]
    pub(crate) fn is_queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    pub(crate) fn is_notified(self) -> bool {
        self.0 & NOTIFIED != 0
    }

    pub(crate) fn same_lock(self, other: State) -> bool {
        (self.0 ^ other.0) / INCARNATION == 0 && !other.is_changing()
    }

    /// After one more holder, when nobody is in the way and nobody waits.
    #[inline(always)]
    pub(crate) fn taken_free(self, mode: LockMode) -> Option<State> {
        (self.0 & (mode.blockers() | QUEUED) == 0).then(|| State(self.0 + mode.unit()))
    }

    /// After one more holder who waits for nobody; none if it has to wait. Those who arrive while
    /// others wait overtake the head of the queue, and are counted, until the bound.
    pub(crate) fn taken(self, mode: LockMode, overtakes_max: u8) -> Option<State> {
        if let Some(next) = self.taken_free(mode) {
            return Some(next);
        }
        let may_overtake = self.0 & OVERTAKES < u64::from(overtakes_max) * OVERTAKE;
        (self.admits(mode) && may_overtake).then(|| State(self.0 + mode.unit() + OVERTAKE))
    }

    /// After the head of the queue has taken it; `queue` is what is left of the queue.
    pub(crate) fn taken_by_head(self, mode: LockMode, queue: Queue) -> Option<State> {
        let rest = match queue {
            Queue::Empty => self.0 & !(QUEUED | NOTIFIED | OVERTAKES),
            Queue::Waiting => self.0 & !(NOTIFIED | OVERTAKES),
        };
        self.admits(mode).then(|| State(rest + mode.unit()))
    }

    /// After somebody has begun to wait.
    pub(crate) fn queued(self) -> State {
        State(self.0 | QUEUED)
    }

    /// After the head of the queue was woken.
    pub(crate) fn notified(self) -> State {
        State(self.0 | NOTIFIED)
    }

    /// After the woken head has looked, in vain.
    pub(crate) fn unnotified(self) -> State {
        State(self.0 & !NOTIFIED)
    }

    /// After the last one who waited has gone.
    pub(crate) fn unqueued(self) -> State {
        State(self.0 & !(QUEUED | NOTIFIED | OVERTAKES))
    }

    /// The next incarnation, while its key is written.
    pub(crate) fn changing(self) -> State {
        State((self.0 & !(INCARNATION - 1)).wrapping_add(INCARNATION) | CHANGING)
    }

    /// The end of that: held by the one who made it.
    pub(crate) fn changed(self, mode: LockMode) -> State {
        State((self.0 & !CHANGING) + mode.unit())
    }

    /// Whether whoever leaves this behind has to wake the head of the queue.
    #[inline(always)]
    fn wants_notice(self) -> bool {
        self.0 & (QUEUED | NOTIFIED) == QUEUED && self.0 & EXCLUSIVE == 0
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("shared", &(self.0 & READERS))
            .field("exclusive", &(self.0 & EXCLUSIVE != 0))
            .field("queued", &self.is_queued())
            .field("notified", &self.is_notified())
            .field("changing", &self.is_changing())
            .field("overtakes", &((self.0 & OVERTAKES) / OVERTAKE))
            .field("incarnation", &(self.0 / INCARNATION))
            .finish()
    }
}

/// What is left of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Empty,
    Waiting,
}

/// Whether the head of the queue has to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Notice {
    Needed,
    NotNeeded,
}

/// The word itself.
#[derive(Debug)]
pub(crate) struct LockWord(AtomicU64);

impl LockWord {
    pub(crate) fn new() -> LockWord {
        LockWord(AtomicU64::new(0))
    }

    /// Acquire pairs with the Release of whoever left this value: the lock's key, and what the
    /// last holder wrote, are seen.
    #[inline(always)]
    pub(crate) fn load(&self) -> State {
        State(self.0.load(Ordering::Acquire))
    }

    /// AcqRel: Acquire for what the last holder wrote; Release so that the taker's earlier look at
    /// the key comes before any later change of the key, which begins with an Acquire of this.
    #[inline(always)]
    pub(crate) fn change(&self, from: State, to: State) -> Result<(), State> {
        let changed = self.0.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire);
        changed.map(|_| ()).map_err(State)
    }

    /// Ends `CHANGING`. Release: the key is whole before the lock can be taken by it.
    pub(crate) fn end_change(&self, to: State) {
        self.0.store(to.0, Ordering::Release);
    }

    /// One holder less. Release pairs with the Acquire of the next holder.
    #[inline(always)]
    pub(crate) fn release(&self, mode: LockMode) -> Notice {
        let left = State(self.0.fetch_sub(mode.unit(), Ordering::Release) - mode.unit());
        // Of several shared holders the last one gives notice: while one is left only another
        // shared one could come in, and that one waits at the head only if there were too many.
        let readers = left.0 & READERS;
        if left.wants_notice() && (readers == 0 || readers == READERS_MAX - 1) {
            Notice::Needed
        } else {
            Notice::NotNeeded
        }
    }

    /// From exclusive to shared.
    pub(crate) fn downgrade(&self) -> Notice {
        let change = EXCLUSIVE - READER;
        let left = State(self.0.fetch_sub(change, Ordering::Release) - change);
        if left.wants_notice() { Notice::Needed } else { Notice::NotNeeded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(state: State, mode: LockMode) -> State {
        state.taken(mode, 2).expect("nobody stands in the way")
    }

    #[test]
    fn shared_ones_share_and_an_exclusive_one_is_alone() {
        let free = LockWord::new().load();
        let one = taken(free, LockMode::Shared);
        let two = taken(one, LockMode::Shared);
        assert!(!two.admits(LockMode::Exclusive) && two.admits(LockMode::Shared));
        let alone = taken(free, LockMode::Exclusive);
        assert!(!alone.admits(LockMode::Exclusive) && !alone.admits(LockMode::Shared));
    }

    #[test]
    fn at_most_the_bound_may_overtake() {
        let mut state = LockWord::new().load().queued();
        for _ in 0..2 {
            state = taken(state, LockMode::Shared);
        }
        assert_eq!(state.taken(LockMode::Shared, 2), None);
        assert!(state.admits(LockMode::Shared), "the head itself may still come in");
        let head = state.taken_by_head(LockMode::Shared, Queue::Waiting).unwrap();
        assert!(head.taken(LockMode::Shared, 2).is_some(), "the count begins anew with each head");
    }

    #[test]
    fn no_more_shared_holders_than_fit() {
        let mut state = LockWord::new().load();
        for _ in 0..READERS_MAX {
            state = taken(state, LockMode::Shared);
        }
        assert_eq!(state.taken(LockMode::Shared, OVERTAKES_MAX), None);
        assert!(!state.is_queued() && !state.is_changing(), "{state:?}");
    }

    #[test]
    fn a_lock_that_changes_hands_is_another() {
        let free = LockWord::new().load();
        let changing = free.changing();
        assert!(!changing.admits(LockMode::Shared) && !changing.is_idle());
        let changed = changing.changed(LockMode::Exclusive);
        assert!(!free.same_lock(changed) && !free.same_lock(changing));
        assert!(changed.same_lock(changed.queued().notified()));
    }

    #[test]
    fn the_last_incarnation_is_followed_by_the_first() {
        let last = State(!(INCARNATION - 1));
        assert_eq!(last.changing().changed(LockMode::Shared), State(READER));
    }

    #[test]
    fn notice_is_given_by_the_last_who_leaves() {
        let word = LockWord::new();
        let word_is = |state: State| word.end_change(state);
        let free = word.load();
        let two = taken(taken(free, LockMode::Shared), LockMode::Shared).queued();
        word_is(two);
        assert_eq!(word.release(LockMode::Shared), Notice::NotNeeded);
        assert_eq!(word.release(LockMode::Shared), Notice::Needed);
        word_is(taken(free, LockMode::Exclusive).queued().notified());
        assert_eq!(word.release(LockMode::Exclusive), Notice::NotNeeded, "it was woken already");
        word_is(taken(free, LockMode::Exclusive).queued());
        assert_eq!(word.downgrade(), Notice::Needed);
        assert_eq!(word.release(LockMode::Shared), Notice::Needed);
    }
}
