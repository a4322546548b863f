//! Group commit for stores that have none: writers that wait beside each other are written in one
//! transaction, by one of them. What an application does when it has many writers and such a store.
//!
//! The first writer to come leads: it takes all that wait, commits them, and tells each. Whoever
//! came meanwhile waits, and the first of those leads next. Nobody waits for others to come. A
//! commit that panics is a failure of all in it, so that nobody waits for a leader that is gone.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use crate::failure::Failure;

/// A key and its new value.
pub(super) type Pair = (u64, Vec<u8>);

/// What a writer that waits is told.
enum Told {
    Nothing,
    Lead,
    Written(Result<(), Failure>),
}

struct Waiting {
    thread: Thread,
    told: Mutex<Told>,
}

impl Waiting {
    fn tell(&self, what: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.thread.unpark();
    }

    fn wait(&self) -> Told {
        loop {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *told, Told::Nothing) {
                Told::Nothing => drop(told),
                news => return news,
            }
            std::thread::park();
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Arc<Waiting>, Pair)>,
    is_led: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Gather(Mutex<Queue>);

impl Gather {
    /// Writes a pair with whatever else waits. `commit` makes pairs durable, all or none.
    pub(super) fn write(
        &self,
        pair: Pair,
        commit: &dyn Fn(&[Pair]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let own =
            Arc::new(Waiting { thread: std::thread::current(), told: Mutex::new(Told::Nothing) });
        let leads = {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queue.waiting.push_back((Arc::clone(&own), pair));
            !std::mem::replace(&mut queue.is_led, true)
        };
        if !leads {
            match own.wait() {
                Told::Written(outcome) => return outcome,
                Told::Lead | Told::Nothing => {}
            }
        }
        self.lead(&own, commit)
    }

    /// Writes all that wait, the leader's own among them.
    fn lead(
        &self,
        own: &Arc<Waiting>,
        commit: &dyn Fn(&[Pair]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let taken = {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut queue.waiting)
        };
        let (group, pairs): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
        // The store may be broken after a panic; whoever writes next is told so by the store.
        let outcome = catch_unwind(AssertUnwindSafe(|| commit(&pairs)));
        let outcome = outcome.unwrap_or_else(|_| Err(Failure::store("a commit", "it panicked")));
        {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match queue.waiting.front() {
                Some((next, _)) => next.tell(Told::Lead),
                None => queue.is_led = false,
            }
        }
        for other in group.iter().filter(|other| !Arc::ptr_eq(other, own)) {
            other.tell(Told::Written(outcome.clone()));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// A key whose commit panics.
    const BAD: u64 = 1 << 40;

    #[test]
    fn every_pair_is_committed_once_and_some_together() {
        let (gather, commits) = (Gather::default(), AtomicU64::new(0));
        let written: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        let commit = |pairs: &[Pair]| {
            commits.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(200));
            written.lock().unwrap().extend(pairs.iter().map(|(key, _)| *key));
            Ok(())
        };
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (gather, commit, written) = (&gather, &commit, &written);
                scope.spawn(move || {
                    for key in writer * 100..writer * 100 + 50 {
                        gather.write((key, Vec::new()), commit).unwrap();
                        assert!(written.lock().unwrap().contains(&key), "told too early");
                    }
                });
            }
        });
        let mut written = written.into_inner().unwrap();
        written.sort_unstable();
        let all: Vec<u64> = (0..8).flat_map(|writer| writer * 100..writer * 100 + 50).collect();
        assert_eq!(written, all);
        assert!(commits.into_inner() < 400, "nothing was gathered");
    }

    #[test]
    fn a_failure_is_told_to_the_writer_and_the_next_may_lead() {
        let gather = Gather::default();
        let broken = |_: &[Pair]| Err(Failure::store("a commit", "no disk"));
        assert!(gather.write((1, Vec::new()), &broken).is_err());
        assert!(gather.write((1, Vec::new()), &|_| Ok(())).is_ok());
    }

    /// A leader that panicked left its group parked for ever, and nobody led again. It is caught
    /// now: one commit of many panics here, and everybody comes back.
    #[test]
    fn a_panic_in_a_commit_is_a_failure_of_its_group_alone() {
        let gather = Gather::default();
        let commit = |pairs: &[Pair]| {
            std::thread::sleep(Duration::from_micros(200));
            assert!(pairs.iter().all(|(key, _)| *key != BAD), "planted");
            Ok(())
        };
        let failed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (gather, commit, failed) = (&gather, &commit, &failed);
                scope.spawn(move || {
                    for write in 0..20 {
                        let key = if (writer, write) == (3, 10) { BAD } else { writer };
                        let outcome = gather.write((key, Vec::new()), commit);
                        assert!(key != BAD || outcome.is_err());
                        failed.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert!((1..=8).contains(&failed.into_inner()), "one group has one write of each writer");
        assert!(gather.write((1, Vec::new()), &|_| Ok(())).is_ok());
    }
}
