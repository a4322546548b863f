//! Planted faults: small copies of the protocols with one rule broken, which the models catch.

// They share cells between threads by hand, as the code they copy does.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::task::Waker;

use dynamicfs::concurrency::waiters::Waiters;
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use loom::thread;

use crate::{Event, World, explore_bounded, explore_with};

/// A wake word that counts messages, without the list; `EMPTY` is 0.
struct WakeWord {
    word: AtomicU32,
    event: Event,
}

const WORD_EMPTY: u32 = 0;
const WORD_ASLEEP: u32 = u32::MAX;

impl WakeWord {
    fn new() -> Arc<WakeWord> {
        Arc::new(WakeWord { word: AtomicU32::new(WORD_EMPTY), event: Event::default() })
    }

    fn push(&self) {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let next = if seen == WORD_ASLEEP { 1 } else { seen + 1 };
            match self.word.compare_exchange(seen, next, Ordering::Release, Ordering::Relaxed) {
                Ok(WORD_ASLEEP) => return self.event.signal(),
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    fn take(&self) -> u32 {
        match self.word.swap(WORD_EMPTY, Ordering::Acquire) {
            WORD_ASLEEP => 0,
            count => count,
        }
    }

    /// As `Mailbox::prepare_sleep`.
    fn prepare_sleep(&self) -> bool {
        let (old, new) = (WORD_EMPTY, WORD_ASLEEP);
        self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_sleep_without_the_second_look_is_caught() {
    explore_with(None, || {
        let word = WakeWord::new();
        let producer = thread::spawn({
            let word = Arc::clone(&word);
            move || word.push()
        });
        while word.take() == 0 {
            // The fault: look, then announce, as two steps; a push in between is overwritten.
            if word.word.load(Ordering::Acquire) == WORD_EMPTY {
                word.word.store(WORD_ASLEEP, Ordering::Release);
                word.event.wait();
            }
        }
        producer.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "signals for")]
fn planted_a_push_that_always_signals_is_caught() {
    explore_with(None, || {
        let world = World::new(2);
        let producer = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                for request in [1, 2] {
                    let (_, server) = world.open(request);
                    let _ = world.mailbox.push(&world.table, server);
                    // The fault: the answer of the push is not looked at.
                    world.event.signal();
                }
            }
        });
        world.serve_until(2);
        producer.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_nudge_that_only_loads_is_caught() {
    explore_with(None, || {
        let word = WakeWord::new();
        let news = Arc::new(AtomicBool::new(false));
        let engine = thread::spawn({
            let (word, news) = (Arc::clone(&word), Arc::clone(&news));
            move || {
                news.store(true, Ordering::Release);
                // The fault: a load instead of a read-modify-write orders nothing, so it may see
                // the word of before the sleep while the sleeper sees the news of before.
                if word.word.load(Ordering::Acquire) == WORD_ASLEEP {
                    word.event.signal();
                }
            }
        });
        if word.prepare_sleep() && !news.load(Ordering::Acquire) {
            word.event.wait();
        }
        engine.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_news_that_are_not_read_again_are_caught() {
    explore_with(None, || {
        let world = World::new(1);
        let news = Arc::new(AtomicBool::new(false));
        let engine = thread::spawn({
            let (world, news) = (Arc::clone(&world), Arc::clone(&news));
            move || {
                news.store(true, Ordering::Release);
                let wake = world.mailbox.nudge();
                world.wake(wake);
            }
        });
        // The fault: the news are looked at before the announcement only.
        if !news.load(Ordering::Acquire) && world.mailbox.prepare_sleep() {
            world.event.wait();
        }
        engine.join().unwrap();
    });
}

/// A reply and its state word, without wakers.
struct ReplyCell {
    done: AtomicBool,
    reply: UnsafeCell<u32>,
}

// SAFETY: the flag says whose the cell is; that it does is what the models below put to the test.
unsafe impl Sync for ReplyCell {}
// SAFETY: plain data.
unsafe impl Send for ReplyCell {}

/// The server completes as `complete` says; the caller polls and reads the reply.
fn explore_reply(complete: fn(&ReplyCell)) {
    explore_with(None, move || {
        let cell = Arc::new(ReplyCell { done: AtomicBool::new(false), reply: UnsafeCell::new(0) });
        let server = thread::spawn({
            let cell = Arc::clone(&cell);
            move || complete(&cell)
        });
        while !cell.done.load(Ordering::Acquire) {
            thread::yield_now();
        }
        // SAFETY: the flag was seen; `loom` says if the write is not ordered before this read.
        assert_eq!(cell.reply.with(|reply| unsafe { *reply }), 70);
        server.join().unwrap();
    });
}

fn write_reply(cell: &ReplyCell) {
    // SAFETY: the server owns the cell until it is done.
    cell.reply.with_mut(|reply| unsafe { *reply = 70 });
}

#[test]
fn the_reply_protocol_itself_holds() {
    explore_reply(|cell| {
        write_reply(cell);
        cell.done.store(true, Ordering::Release);
    });
}

#[test]
#[should_panic]
fn planted_a_completion_published_with_relaxed_is_caught() {
    explore_reply(|cell| {
        write_reply(cell);
        cell.done.store(true, Ordering::Relaxed);
    });
}

#[test]
#[should_panic]
fn planted_a_completion_published_before_its_reply_is_caught() {
    explore_reply(|cell| {
        cell.done.store(true, Ordering::Release);
        write_reply(cell);
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_waker_stored_without_a_second_look_is_caught() {
    explore_with(None, || {
        let done = Arc::new(AtomicBool::new(false));
        let parked: Arc<Mutex<Option<Waker>>> = Arc::new(Mutex::new(None));
        let server = thread::spawn({
            let (done, parked) = (Arc::clone(&done), Arc::clone(&parked));
            move || {
                done.store(true, Ordering::Release);
                let waker = parked.lock().unwrap().take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        });
        let event = Arc::new(Event::default());
        // The fault: done is looked at before the waker is there, and not again.
        if !done.load(Ordering::Acquire) {
            *parked.lock().unwrap() = Some(Waker::from(Arc::clone(&event)));
            event.wait();
        }
        server.join().unwrap();
    });
}

/// A free list as the call table's, but without the counter beside the head.
struct UntaggedList {
    head: AtomicUsize,
    next: [AtomicUsize; 3],
    owners: [AtomicU32; 3],
}

const LIST_END: usize = usize::MAX;

impl UntaggedList {
    fn pop(&self) -> Option<usize> {
        let mut head = self.head.load(Ordering::Acquire);
        while head != LIST_END {
            let next = self.next[head].load(Ordering::Relaxed);
            match self.head.compare_exchange(head, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    let others = self.owners[head].fetch_add(1, Ordering::AcqRel);
                    assert_eq!(others, 0, "slot {head} has two owners");
                    return Some(head);
                }
                Err(seen) => head = seen,
            }
        }
        None
    }

    fn push(&self, slot: usize) {
        self.owners[slot].fetch_sub(1, Ordering::AcqRel);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            self.next[slot].store(head, Ordering::Relaxed);
            match self.head.compare_exchange(head, slot, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }
}

#[test]
#[should_panic(expected = "two owners")]
fn planted_a_free_list_without_a_counter_is_caught() {
    explore_bounded(|| {
        let list = Arc::new(UntaggedList {
            head: AtomicUsize::new(0),
            next: [1, 2, LIST_END].map(AtomicUsize::new),
            owners: [0, 0, 0].map(AtomicU32::new),
        });
        let other = thread::spawn({
            let list = Arc::clone(&list);
            move || {
                let (first, _second) = (list.pop(), list.pop());
                if let Some(first) = first {
                    list.push(first);
                }
            }
        });
        let taken = [list.pop(), list.pop()];
        taken.into_iter().flatten().for_each(|slot| list.push(slot));
        other.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_failed_reservation_that_wakes_nobody_is_caught() {
    explore_bounded(|| {
        let waiting = Arc::new(AtomicU32::new(1));
        let waiters = Arc::new(Waiters::default());
        let reserve = |waiting: &AtomicU32| {
            let reserved = waiting.fetch_add(1, Ordering::AcqRel) < 1;
            if !reserved {
                // The fault: for a moment the queue looked fuller than it was, and nobody is told.
                waiting.fetch_sub(1, Ordering::AcqRel);
            }
            reserved
        };
        let reactor = thread::spawn({
            let (waiting, waiters) = (Arc::clone(&waiting), Arc::clone(&waiters));
            move || {
                waiting.fetch_sub(1, Ordering::AcqRel);
                waiters.wake_all();
            }
        });
        let other = thread::spawn({
            let waiting = Arc::clone(&waiting);
            move || {
                reserve(&waiting);
            }
        });
        let event = Arc::new(Event::default());
        waiters.register(&Waker::from(Arc::clone(&event)));
        if !reserve(&waiting) {
            event.wait();
        }
        reactor.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_second_look_that_only_loads_is_caught() {
    explore_with(None, || {
        let full = Arc::new(AtomicU32::new(1));
        let waiters = Arc::new(Waiters::default());
        let owner = thread::spawn({
            let (full, waiters) = (Arc::clone(&full), Arc::clone(&waiters));
            move || {
                full.fetch_sub(1, Ordering::AcqRel);
                waiters.wake_all();
            }
        });
        let event = Arc::new(Event::default());
        waiters.register(&Waker::from(Arc::clone(&event)));
        // The fault: a load instead of a read-modify-write, see `Waiters`.
        if full.load(Ordering::Acquire) == 1 {
            event.wait();
        }
        owner.join().unwrap();
    });
}
