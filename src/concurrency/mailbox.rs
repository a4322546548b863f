//! A reactor's mailbox: many producers, one consumer that drains it whole, and the wake word.
//!
//! The mailbox is one 32-bit word. It is `EMPTY`, or the newest slot of a list that runs through
//! the call table's links, or `ASLEEP`: empty, and the reactor sleeps (or is about to) until its
//! event is signalled. Because "a message is here" and "somebody must be woken" are the same
//! word, a push that does not find `ASLEEP` needs no wake-up and no fence, and exactly one push
//! after the reactor went to sleep signals.
//!
//! A push never waits and fails only on a closed mailbox: the slot that carries the message is
//! its room.

use crossbeam_utils::CachePadded;

use crate::concurrency::call_table::{CallTable, NIL, ServerKey};
use crate::concurrency::sync::{AtomicU32, Ordering};

const EMPTY: u32 = NIL;
const ASLEEP: u32 = NIL - 1;
const CLOSED: u32 = NIL - 2;

/// Whether the producer must signal the reactor's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sleeping reactor that nobody signals never sees the message"]
pub enum Wake {
    /// The reactor is awake, or somebody else signals it.
    NotNeeded,
    /// The reactor slept on an empty mailbox: signal its event now.
    Needed,
}

/// The mailbox takes nothing any more.
struct Closed;

/// A mailbox. It holds slots of one [`CallTable`].
#[derive(Debug)]
pub struct Mailbox {
    /// Alone on its cache lines: every producer writes it, and the consumer looks at it each turn.
    newest: CachePadded<AtomicU32>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Mailbox { newest: CachePadded::new(AtomicU32::new(EMPTY)) }
    }
}

impl Mailbox {
    /// Puts one call in, or gives it back when the mailbox is closed.
    pub fn push<Q, R>(&self, table: &CallTable<Q, R>, key: ServerKey) -> Result<Wake, ServerKey> {
        self.push_chain(table, key.0, key.0).map_err(|Closed| key)
    }

    /// Puts many calls in, in their order, with one exchange and at most one wake; gives all back
    /// when the mailbox is closed.
    pub fn push_many<'a, Q, R>(
        &self,
        table: &'a CallTable<Q, R>,
        keys: impl Iterator<Item = ServerKey>,
    ) -> Result<Wake, Drain<'a, Q, R>> {
        let mut chain: Option<(u32, u32)> = None;
        for ServerKey(index) in keys {
            chain = Some(match chain {
                None => (index, index),
                Some((oldest, newest)) => {
                    table.link(index).store(newest, Ordering::Relaxed);
                    (oldest, index)
                }
            });
        }
        let Some((oldest, newest)) = chain else { return Ok(Wake::NotNeeded) };
        self.push_chain(table, oldest, newest).map_err(|Closed| {
            table.link(oldest).store(EMPTY, Ordering::Relaxed);
            Drain::oldest_first(table, newest)
        })
    }

    fn push_chain<Q, R>(
        &self,
        table: &CallTable<Q, R>,
        oldest: u32,
        newest: u32,
    ) -> Result<Wake, Closed> {
        let mut seen = self.newest.load(Ordering::Relaxed);
        loop {
            if seen == CLOSED {
                return Err(Closed);
            }
            let next = if seen == ASLEEP { EMPTY } else { seen };
            table.link(oldest).store(next, Ordering::Relaxed);
            // Release pairs with the Acquire in `drain`: requests are whole before they are seen.
            match self.newest.compare_exchange_weak(
                seen,
                newest,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(ASLEEP) => return Ok(Wake::Needed),
                Ok(_) => return Ok(Wake::NotNeeded),
                Err(now) => seen = now,
            }
        }
    }

    /// Whether a message is waiting. Consumer only.
    #[inline]
    pub fn has_mail(&self) -> bool {
        !matches!(self.newest.load(Ordering::Relaxed), EMPTY | ASLEEP | CLOSED)
    }

    /// Takes everything, oldest first. Consumer only, and not while asleep.
    #[inline]
    pub fn drain<'a, Q, R>(&self, table: &'a CallTable<Q, R>) -> Drain<'a, Q, R> {
        let newest = if self.has_mail() {
            // Acquire pairs with the Release of every push in the list: each push's exchange
            // continues the release sequence of the one before it.
            self.newest.swap(EMPTY, Ordering::Acquire)
        } else {
            EMPTY
        };
        Drain::oldest_first(table, newest)
    }

    /// Closes the mailbox for ever: what is in it is taken, later pushes are refused.
    pub fn close<'a, Q, R>(&self, table: &'a CallTable<Q, R>) -> Drain<'a, Q, R> {
        match self.newest.swap(CLOSED, Ordering::Acquire) {
            EMPTY | ASLEEP | CLOSED => Drain::oldest_first(table, EMPTY),
            newest => Drain::oldest_first(table, newest),
        }
    }

    /// Announces that the consumer is going to sleep. False when mail is there: do not sleep.
    pub fn prepare_sleep(&self) -> bool {
        // The exchange is the re-check: a push before it makes it fail, one after it sees ASLEEP.
        self.newest.compare_exchange(EMPTY, ASLEEP, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The consumer is awake again, whatever woke it.
    pub fn awake(&self) {
        let _ = self.newest.compare_exchange(ASLEEP, EMPTY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// For news that do not travel in a slot (stop, a new local task): ends a sleep. Write the
    /// news first; the consumer reads them after [`Mailbox::prepare_sleep`] succeeded.
    pub fn nudge(&self) -> Wake {
        // A read-modify-write, not a load: when it comes before the consumer's exchange to ASLEEP,
        // that exchange reads from it (AcqRel on both), so the consumer sees the news.
        if self.newest.fetch_or(0, Ordering::AcqRel) != ASLEEP {
            return Wake::NotNeeded;
        }
        match self.newest.compare_exchange(ASLEEP, EMPTY, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Wake::Needed,
            Err(_) => Wake::NotNeeded,
        }
    }
}

/// The calls taken by one [`Mailbox::drain`], oldest first.
#[derive(Debug)]
pub struct Drain<'a, Q, R> {
    table: &'a CallTable<Q, R>,
    next: u32,
}

impl<'a, Q, R> Drain<'a, Q, R> {
    /// Turns a list that runs from newest to oldest round. Its links are the consumer's by now.
    fn oldest_first(table: &'a CallTable<Q, R>, mut newest: u32) -> Drain<'a, Q, R> {
        let mut oldest = EMPTY;
        while newest != EMPTY {
            let next = table.link(newest).load(Ordering::Relaxed);
            table.link(newest).store(oldest, Ordering::Relaxed);
            oldest = newest;
            newest = next;
        }
        Drain { table, next: oldest }
    }
}

impl<Q, R> Iterator for Drain<'_, Q, R> {
    type Item = ServerKey;

    fn next(&mut self) -> Option<ServerKey> {
        if self.next == EMPTY {
            return None;
        }
        let index = self.next;
        self.next = self.table.link(index).load(Ordering::Relaxed);
        Some(ServerKey(index))
    }
}
