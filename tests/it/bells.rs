//! Bells between real threads: no ring is lost, whether the reactor sleeps, spins or works.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dynamicfs::Completion;
use dynamicfs::reactor::local::{LocalIo, LocalTask, TaskState};

use crate::rig::{HANG, alongside, config, nop_disk, open};

/// Answers with the newest word it finds. It is not `Send`.
struct Echo {
    asked: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    polls: Rc<Cell<u64>>,
}

impl LocalTask for Echo {
    fn poll(&mut self, _: &mut LocalIo<'_>) -> TaskState {
        self.polls.set(self.polls.get() + 1);
        self.answered.store(self.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        TaskState::Idle
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

fn every_ring_is_answered(spin_us: u64) {
    let _process = alongside();
    let mut config = config(vec![nop_disk()]);
    config.reactors.spin_us = spin_us;
    let engine = open(&config);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (asked, answered): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
            let bell = engine.bell(0).unwrap();
            let words = (Arc::clone(&asked), Arc::clone(&answered));
            engine.spawn_seed_with_bell(
                &bell,
                Box::new(move || {
                    Box::new(Echo { asked: words.0, answered: words.1, polls: Rc::default() })
                }),
            );
            scope.spawn(move || {
                for word in 1..=3000 {
                    asked.store(word, Ordering::Relaxed);
                    bell.ring();
                    let start = Instant::now();
                    while answered.load(Ordering::Relaxed) != word {
                        assert!(start.elapsed() < HANG, "ring {word} was lost");
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    engine.close(HANG).unwrap();
}

#[test]
fn no_ring_is_lost_on_a_reactor_that_sleeps() {
    every_ring_is_answered(0);
}

#[test]
fn no_ring_is_lost_on_a_reactor_that_spins() {
    every_ring_is_answered(50);
}
