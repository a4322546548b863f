//! What the domains of a pool tell each other of their space: a letter box for each, shared by the
//! reactors.
//!
//! Letters are rare, so their box is a mutex; that there are any is a flag beside it. Who has ended
//! is answered for: a letter to it that wants an answer gets one that says no.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;

use crate::format::deed::{Deed, GroupId};
use crate::reactor::bell::Bell;

/// What one domain tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Letter {
    /// A group is wanted.
    Want {
        /// By whom.
        from: u16,
        /// Blocks that are free there.
        free: u64,
        /// A request waits for it.
        urgent: bool,
    },
    /// There is none to give.
    Nothing {
        /// Says who.
        from: u16,
    },
    /// A group is given, durably.
    Given(GroupId),
    /// Whoever had a group of the reader's has let go of it, durably; it is for somebody else, or
    /// for the reader.
    Returned {
        /// Which.
        group: GroupId,
        /// Who wanted it.
        to: u16,
        /// Who had it.
        from: u16,
    },
}

/// The deeds that a domain was opened with.
pub(crate) type Deeds = Vec<(GroupId, Deed)>;

#[derive(Debug, Default)]
enum Stage {
    /// It recovers.
    #[default]
    Opening,
    /// It is open, or will be with the others.
    Open(Deeds),
    /// It could not be opened, or has ended.
    Gone,
}

#[derive(Debug, Default)]
struct Seat {
    bell: Option<Bell>,
    stage: Stage,
    letters: VecDeque<Letter>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Board {
    seats: Vec<Mutex<Seat>>,
    signs: Vec<CachePadded<Sign>>,
}

/// What is seen of a domain without its box being opened. One domain writes it often, and one
/// reads it often: itself.
#[derive(Debug, Default)]
struct Sign {
    has_mail: AtomicBool,
    /// Blocks that are free, as it said last.
    free: AtomicU64,
}

impl Board {
    /// For so many domains.
    pub(crate) fn new(domains: u16) -> Board {
        let each = || 0..domains;
        Board {
            seats: each().map(|_| Mutex::default()).collect(),
            signs: each().map(|_| CachePadded::default()).collect(),
        }
    }

    fn sign(&self, domain: u16) -> &Sign {
        &self.signs[usize::from(domain)]
    }

    fn seat(&self, domain: u16) -> MutexGuard<'_, Seat> {
        self.seats[usize::from(domain)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes the domain's task run.
    pub(crate) fn register(&self, domain: u16, bell: Bell) {
        self.seat(domain).bell = Some(bell);
    }

    /// A domain has recovered, and has these deeds.
    pub(crate) fn has_recovered(&self, domain: u16, deeds: Deeds) {
        self.seat(domain).stage = Stage::Open(deeds);
    }

    /// The deeds of all domains; none as long as one has not recovered. A domain that could not be
    /// opened is an error.
    pub(crate) fn all_deeds(&self) -> Option<Result<Vec<Deeds>, u16>> {
        let mut all = Vec::new();
        for domain in 0..self.seats.len() as u16 {
            match &self.seat(domain).stage {
                Stage::Opening => return None,
                Stage::Open(deeds) => all.push(deeds.clone()),
                Stage::Gone => return Some(Err(domain)),
            }
        }
        Some(Ok(all))
    }

    /// The domain answers no more.
    pub(crate) fn leave(&self, domain: u16) {
        let letters = {
            let mut seat = self.seat(domain);
            seat.stage = Stage::Gone;
            std::mem::take(&mut seat.letters)
        };
        for letter in letters {
            self.answer_for(domain, letter);
        }
    }

    /// What a domain that is gone would have said.
    fn answer_for(&self, gone: u16, letter: Letter) {
        match letter {
            Letter::Want { from, .. } => self.send(from, Letter::Nothing { from: gone }),
            // Who asked for it asked `from`, and waits for that one's answer.
            Letter::Returned { to, from, .. } if to != gone => {
                self.send(to, Letter::Nothing { from });
            }
            Letter::Returned { .. } | Letter::Given(_) | Letter::Nothing { .. } => {}
        }
    }

    /// Leaves a letter, and rings.
    pub(crate) fn send(&self, to: u16, letter: Letter) {
        let mut seat = self.seat(to);
        if matches!(seat.stage, Stage::Gone) {
            drop(seat);
            return self.answer_for(to, letter);
        }
        seat.letters.push_back(letter);
        self.sign(to).has_mail.store(true, Ordering::Release);
        let bell = seat.bell.clone();
        drop(seat);
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// Whether there are letters for a domain.
    pub(crate) fn has_mail(&self, domain: u16) -> bool {
        self.sign(domain).has_mail.load(Ordering::Acquire)
    }

    /// The next letter for a domain.
    pub(crate) fn take(&self, domain: u16) -> Option<Letter> {
        if !self.has_mail(domain) {
            return None;
        }
        let mut seat = self.seat(domain);
        let letter = seat.letters.pop_front();
        let is_empty = seat.letters.is_empty();
        self.sign(domain).has_mail.store(!is_empty, Ordering::Release);
        letter
    }

    /// So many blocks of a domain are free.
    pub(crate) fn say_free(&self, domain: u16, blocks: u64) {
        self.sign(domain).free.store(blocks, Ordering::Relaxed);
    }

    /// The domain that said to have most free blocks, of those that pass.
    pub(crate) fn freest(&self, passes: impl Fn(u16) -> bool) -> Option<u16> {
        let free = |domain: &u16| self.sign(*domain).free.load(Ordering::Relaxed);
        let all = (0..self.seats.len() as u16).filter(|domain| passes(*domain));
        all.max_by_key(|domain| (free(domain), std::cmp::Reverse(*domain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_is_answered_for() {
        let board = Board::new(3);
        let want = |from| Letter::Want { from, free: 5, urgent: true };
        board.send(1, want(0));
        let group = GroupId { slot: 0, group: 1 };
        board.send(1, Letter::Returned { group, to: 2, from: 0 });
        assert!(board.has_mail(1) && !board.has_mail(0));
        board.leave(1);
        assert_eq!(board.take(0), Some(Letter::Nothing { from: 1 }));
        assert_eq!(board.take(2), Some(Letter::Nothing { from: 0 }));
        board.send(1, want(2));
        assert_eq!(board.take(2), Some(Letter::Nothing { from: 1 }));
        assert_eq!([0, 1, 2].map(|domain| board.take(domain)), [None; 3]);
        assert_eq!(board.all_deeds(), None, "two have not recovered");
        board.has_recovered(0, Vec::new());
        assert_eq!(board.all_deeds(), Some(Err(1)));
    }

    #[test]
    fn the_freest_is_the_first_of_several() {
        let board = Board::new(4);
        board.say_free(1, 7);
        board.say_free(3, 7);
        assert_eq!(board.freest(|_| true), Some(1));
        assert_eq!(board.freest(|domain| domain != 1), Some(3));
        assert_eq!(board.freest(|_| false), None);
    }
}
