//! Bells: a ring at any time leads to a poll after it, which sees what was written before it.

use dynamicfs::concurrency::bells::Bells;
use dynamicfs::concurrency::mailbox::{Mailbox, Wake};
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::{Event, explore_parts};

/// A reactor's bells, and what the ringers have to say: one bit each, all relaxed.
struct Tower {
    bells: Bells,
    mailbox: Mailbox,
    event: Event,
    news: AtomicU32,
}

impl Tower {
    fn new() -> Tower {
        let (bells, mailbox) = (Bells::default(), Mailbox::default());
        Tower { bells, mailbox, event: Event::default(), news: AtomicU32::new(0) }
    }

    fn tell(&self, news: u32, bell: u32) {
        self.news.fetch_or(news, Ordering::Relaxed);
        if self.bells.ring(bell, &self.mailbox) == Wake::Needed {
            self.event.signal();
        }
    }

    /// Polls after rings alone, sleeps whenever it may, and ends when it has seen all news. A lost
    /// ring is a sleep for ever, which `loom` reports.
    fn serve(&self, news: u32) {
        let (mut seen, mut sleeps) = (0, 0);
        loop {
            if self.bells.any() && self.bells.take() != 0 {
                seen |= self.news.load(Ordering::Relaxed);
            }
            if seen == news {
                break;
            }
            if self.mailbox.prepare_sleep() {
                sleeps += 1;
                if !self.bells.any() {
                    self.event.wait();
                }
                self.mailbox.awake();
            }
        }
        let signals = self.event.signals_ever();
        assert!(signals <= sleeps, "{signals} signals for {sleeps} sleeps");
    }
}

#[test]
fn rings_of_one_thread_are_all_answered() {
    let rings = |tower: &Tower| (0..2).for_each(|n| tower.tell(1 << n, 5));
    explore_parts(Some(3), Tower::new, &[rings, |tower| tower.serve(3)], |_| {});
}

#[test]
fn one_bell_rung_by_two_threads_is_answered_after_each() {
    let parts: [fn(&Tower); 3] =
        [|tower| tower.tell(1, 5), |tower| tower.tell(2, 5), |tower| tower.serve(3)];
    explore_parts(Some(3), Tower::new, &parts, |_| {});
}

#[test]
fn two_bells_are_both_answered() {
    let parts: [fn(&Tower); 3] =
        [|tower| tower.tell(1, 0), |tower| tower.tell(2, 63), |tower| tower.serve(3)];
    explore_parts(Some(3), Tower::new, &parts, |_| {});
}

#[test]
fn two_threads_never_get_one_bell() {
    fn take(tower: &Tower) {
        let number = tower.bells.give().expect("there are more");
        assert_eq!(tower.news.fetch_or(1 << number, Ordering::Relaxed) >> number & 1, 0);
    }
    explore_parts(None, Tower::new, &[take, take], |tower| {
        assert_eq!(tower.news.load(Ordering::Relaxed), 3);
    });
}

/// A copy of the protocol with one rule broken.
struct Cracked {
    rung: AtomicU64,
    mailbox: Mailbox,
    event: Event,
    news: AtomicU32,
}

impl Cracked {
    fn new() -> Cracked {
        let (rung, news) = (AtomicU64::new(0), AtomicU32::new(0));
        Cracked { rung, mailbox: Mailbox::default(), event: Event::default(), news }
    }

    fn ring(&self, looks_first: bool, order: Ordering) {
        if looks_first && self.rung.load(Ordering::Acquire) != 0 {
            return;
        }
        if self.rung.fetch_or(1, order) == 0 && self.mailbox.nudge() == Wake::Needed {
            self.event.signal();
        }
    }

    fn serve(&self, news: u32, second_look: bool) {
        let mut seen = 0;
        loop {
            if self.rung.swap(0, Ordering::Acquire) != 0 {
                seen |= self.news.load(Ordering::Relaxed);
            }
            if seen == news {
                return;
            }
            if self.mailbox.prepare_sleep() {
                if !second_look || self.rung.load(Ordering::Relaxed) == 0 {
                    self.event.wait();
                }
                self.mailbox.awake();
            }
        }
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_sleep_that_does_not_look_at_the_bells_again_is_caught() {
    let ring = |tower: &Cracked| {
        tower.news.fetch_or(1, Ordering::Relaxed);
        tower.ring(false, Ordering::AcqRel);
    };
    explore_parts(None, Cracked::new, &[ring, |tower| tower.serve(1, false)], |_| {});
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_ring_that_looks_first_is_caught() {
    let rings = |tower: &Cracked| {
        for news in [1, 2] {
            tower.news.fetch_or(news, Ordering::Relaxed);
            // The fault: a bit that it sees may have been taken by now.
            tower.ring(true, Ordering::AcqRel);
        }
    };
    explore_parts(None, Cracked::new, &[rings, |tower| tower.serve(3, true)], |_| {});
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_ring_that_releases_nothing_is_caught() {
    // The fault is seen when the second ring finds the bit of the first, and so nudges nobody.
    let parts: [fn(&Cracked); 3] = [
        |tower| tower.ring(false, Ordering::AcqRel),
        |tower| {
            tower.news.store(1, Ordering::Relaxed);
            tower.ring(false, Ordering::Relaxed);
        },
        |tower| tower.serve(1, true),
    ];
    explore_parts(Some(3), Cracked::new, &parts, |_| {});
}
