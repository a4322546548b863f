//! Models of what crosses threads, explored by `loom` over the code that production runs.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --test loom`. Each model states what
//! must hold in every interleaving that the memory model allows; each has a twin marked
//! `should_panic`, a small copy of the protocol with one rule broken, which proves that the model
//! would see the fault. Models of three threads bound the preemptions (see [`explore_bounded`]);
//! those of two are exhaustive.
#![cfg(loom)]
// The broken twins share cells between threads by hand, as the code they copy does.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::task::{Context, Poll, Wake as WakeTask, Waker};

use dynamicfs::concurrency::call_table::{CallTable, CallerKey, ServerKey};
use dynamicfs::concurrency::mailbox::{Mailbox, Wake};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

/// Explores every interleaving of at most three preemptions. An exhaustive run of these models
/// takes hours; nearly all known faults of lock-free code need two preemptions or fewer.
fn explore_bounded(model: impl Fn() + Sync + Send + 'static) {
    explore_with(Some(3), model);
}

fn explore_with(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// What a reactor sleeps on: like an eventfd, it remembers a signal until it is waited for.
#[derive(Default)]
struct Event {
    /// Signals not yet waited for, and all signals ever.
    signals: Mutex<(u32, u32)>,
    signalled: Condvar,
}

impl Event {
    fn signal(&self) {
        let mut signals = self.signals.lock().unwrap();
        *signals = (signals.0 + 1, signals.1 + 1);
        self.signalled.notify_one();
    }

    /// Nobody signals: `loom` reports a deadlock, which is how a lost wake-up shows.
    fn wait(&self) {
        let mut signals = self.signals.lock().unwrap();
        while signals.0 == 0 {
            signals = self.signalled.wait(signals).unwrap();
        }
        signals.0 = 0;
    }

    fn signals_ever(&self) -> u32 {
        self.signals.lock().unwrap().1
    }
}

impl WakeTask for Event {
    fn wake(self: Arc<Self>) {
        self.signal();
    }
}

/// One reactor's mailbox, its event, and the calls.
struct World {
    table: CallTable<u32, u32>,
    mailbox: Mailbox,
    event: Event,
}

impl World {
    fn new(slots: u32) -> Arc<World> {
        let (table, mailbox, event) =
            (CallTable::new(slots), Mailbox::default(), Event::default());
        Arc::new(World { table, mailbox, event })
    }

    fn open(&self, request: u32) -> (CallerKey, ServerKey) {
        self.table.open(request).expect("the model opens no more calls than there are slots")
    }

    fn wake(&self, wake: Wake) {
        if wake == Wake::Needed {
            self.event.signal();
        }
    }

    fn push(&self, key: ServerKey) {
        match self.mailbox.push(&self.table, key) {
            Ok(wake) => self.wake(wake),
            Err(_) => panic!("an open mailbox refused a call"),
        }
    }

    /// Takes what is there and answers each call with ten times its request.
    fn serve(&self, seen: &mut Vec<u32>) {
        for key in self.mailbox.drain(&self.table) {
            self.answer(key, seen);
        }
    }

    fn answer(&self, key: ServerKey, seen: &mut Vec<u32>) {
        let request = self.table.take_request(&key);
        seen.push(request);
        if let Some(waker) = self.table.complete(key, request * 10) {
            waker.wake();
        }
    }

    /// A reactor that sleeps whenever it may, until it has served `count` calls.
    fn serve_until(&self, count: usize) -> Vec<u32> {
        let mut seen = Vec::new();
        let mut sleeps = 0;
        loop {
            self.serve(&mut seen);
            if seen.len() == count {
                break;
            }
            if self.mailbox.prepare_sleep() {
                sleeps += 1;
                self.event.wait();
                self.mailbox.awake();
            }
        }
        let signals = self.event.signals_ever();
        assert!(signals <= sleeps, "{signals} signals for {sleeps} sleeps");
        seen
    }
}

/// Takes a reply that is known to be there.
fn take(world: &World, caller: CallerKey) -> u32 {
    world.table.take_reply(caller).expect("the call was served")
}

// ---- the wake word

#[test]
fn one_producer_and_a_sleeper_lose_no_wake() {
    explore_with(None, || {
        let world = World::new(2);
        let producer = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let callers = [1, 2].map(|request| {
                    let (caller, server) = world.open(request);
                    world.push(server);
                    caller
                });
                callers
            }
        });
        let seen = world.serve_until(2);
        assert_eq!(seen, [1, 2], "one producer's calls come in its order");
        let replies = producer.join().unwrap().map(|caller| take(&world, caller));
        assert_eq!(replies, [10, 20]);
    });
}

#[test]
fn two_producers_and_a_sleeper_lose_no_wake() {
    explore_bounded(|| {
        let world = World::new(2);
        let producers = [1, 2].map(|request| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let (caller, server) = world.open(request);
                world.push(server);
                caller
            })
        });
        let mut seen = world.serve_until(2);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        let replies = producers.map(|producer| take(&world, producer.join().unwrap()));
        assert_eq!(replies, [10, 20]);
    });
}

#[test]
fn a_batch_and_a_single_push_lose_no_wake_and_keep_their_order() {
    explore_bounded(|| {
        let world = World::new(3);
        let batch = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let (callers, servers): (Vec<_>, Vec<_>) =
                    [1, 2].map(|request| world.open(request)).into_iter().unzip();
                match world.mailbox.push_many(&world.table, servers.into_iter()) {
                    Ok(wake) => world.wake(wake),
                    Err(_) => panic!("an open mailbox refused a batch"),
                }
                callers
            }
        });
        let single = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let (caller, server) = world.open(3);
                world.push(server);
                caller
            }
        });
        let seen = world.serve_until(3);
        let position = |request| seen.iter().position(|other| *other == request).unwrap();
        assert!(position(1) < position(2), "a batch keeps its order: {seen:?}");
        position(3);
        for caller in batch.join().unwrap() {
            take(&world, caller);
        }
        take(&world, single.join().unwrap());
    });
}

#[test]
fn a_sleep_that_ends_by_itself_loses_no_later_wake() {
    explore_with(None, || {
        let world = World::new(1);
        let producer = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let (caller, server) = world.open(1);
                world.push(server);
                caller
            }
        });
        // A completion or a timeout ends the first sleep; a signal of it may come late.
        if world.mailbox.prepare_sleep() {
            world.mailbox.awake();
        }
        let mut seen = Vec::new();
        loop {
            world.serve(&mut seen);
            if !seen.is_empty() {
                break;
            }
            if world.mailbox.prepare_sleep() {
                world.event.wait();
                world.mailbox.awake();
            }
        }
        take(&world, producer.join().unwrap());
    });
}

#[test]
fn news_before_a_nudge_are_seen_or_end_the_sleep() {
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
        while !news.load(Ordering::Acquire) {
            if !world.mailbox.prepare_sleep() {
                continue;
            }
            if !news.load(Ordering::Acquire) {
                world.event.wait();
            }
            world.mailbox.awake();
        }
        engine.join().unwrap();
    });
}

#[test]
fn a_nudge_and_a_push_together_end_one_sleep_once() {
    explore_bounded(|| {
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
        let producer = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let (caller, server) = world.open(1);
                world.push(server);
                caller
            }
        });
        let (mut seen, mut told, mut announced) = (Vec::new(), false, 0);
        loop {
            world.serve(&mut seen);
            told |= news.swap(false, Ordering::AcqRel);
            if told && !seen.is_empty() {
                break;
            }
            if world.mailbox.prepare_sleep() {
                announced += 1;
                if !news.load(Ordering::Acquire) {
                    world.event.wait();
                }
                world.mailbox.awake();
            }
        }
        engine.join().unwrap();
        take(&world, producer.join().unwrap());
        let signals = world.event.signals_ever();
        assert!(signals <= announced, "{signals} signals for {announced} announced sleeps");
    });
}

// ---- closing

#[test]
fn a_call_pushed_during_a_close_is_delivered_or_given_back_once() {
    explore_bounded(|| {
        let world = World::new(2);
        let producers = [1, 2].map(|request| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let (caller, server) = world.open(request);
                match world.mailbox.push(&world.table, server) {
                    Ok(wake) => {
                        assert_eq!(wake, Wake::NotNeeded, "nobody sleeps in this model");
                        (Some(caller), false)
                    }
                    Err(server) => {
                        let request_back = world.table.take_request(&server);
                        assert_eq!(request_back, request);
                        world.table.cancel(caller, server);
                        (None, true)
                    }
                }
            })
        });
        let mut seen = Vec::new();
        world.serve(&mut seen);
        for key in world.mailbox.close(&world.table) {
            world.answer(key, &mut seen);
        }
        let mut refused = 0;
        for producer in producers {
            let (caller, given_back) = producer.join().unwrap();
            refused += usize::from(given_back);
            if let Some(caller) = caller {
                take(&world, caller);
            }
        }
        assert_eq!(seen.len() + refused, 2);
        assert_all_slots_free(&world);
    });
}

#[test]
fn a_batch_pushed_during_a_close_is_given_back_whole_and_in_order() {
    explore_with(None, || {
        let world = World::new(2);
        let producer = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let (callers, servers): (Vec<_>, Vec<_>) =
                    [1, 2].map(|request| world.open(request)).into_iter().unzip();
                let refused = match world.mailbox.push_many(&world.table, servers.into_iter()) {
                    Ok(_) => Vec::new(),
                    Err(back) => back
                        .map(|key| {
                            let request = world.table.take_request(&key);
                            assert!(world.table.complete(key, 0).is_none());
                            request
                        })
                        .collect(),
                };
                (callers, refused)
            }
        });
        let mut seen = Vec::new();
        for key in world.mailbox.close(&world.table) {
            world.answer(key, &mut seen);
        }
        let (callers, refused) = producer.join().unwrap();
        assert!(seen == [1, 2] && refused.is_empty() || seen.is_empty() && refused == [1, 2]);
        for caller in callers {
            take(&world, caller);
        }
        assert_all_slots_free(&world);
    });
}

/// Every slot can be opened again, and no more than there are.
fn assert_all_slots_free(world: &World) {
    let capacity = world.table.capacity();
    let open: Vec<_> = (0..capacity).map(|n| world.open(n)).collect();
    assert_eq!(world.table.open(99).unwrap_err(), 99, "a slot was freed twice");
    for (caller, server) in open {
        world.table.take_request(&server);
        world.table.cancel(caller, server);
    }
}

// ---- the call table

/// A call of which the server half was handed to another thread, which completes it.
fn served_by_a_thread(world: &Arc<World>) -> (CallerKey, thread::JoinHandle<()>) {
    let (caller, server) = world.open(7);
    let server_side = Arc::clone(world);
    let thread = thread::spawn(move || {
        let request = server_side.table.take_request(&server);
        if let Some(waker) = server_side.table.complete(server, request * 10) {
            waker.wake();
        }
    });
    (caller, thread)
}

#[test]
fn a_registered_waker_is_woken_and_the_reply_is_whole() {
    explore_with(None, || {
        let world = World::new(1);
        let (caller, server) = served_by_a_thread(&world);
        let event = Arc::new(Event::default());
        let waker = Waker::from(Arc::clone(&event));
        if world.table.register(&caller, &Context::from_waker(&waker)) == Poll::Pending {
            event.wait();
        }
        assert_eq!(take(&world, caller), 70);
        server.join().unwrap();
        assert_all_slots_free(&world);
    });
}

#[test]
fn a_second_waker_replaces_the_first() {
    explore_with(None, || {
        let world = World::new(1);
        let (caller, server) = served_by_a_thread(&world);
        let events = [Arc::new(Event::default()), Arc::new(Event::default())];
        let mut pending = Poll::Pending;
        for event in &events {
            let waker = Waker::from(Arc::clone(event));
            pending = world.table.register(&caller, &Context::from_waker(&waker));
        }
        if pending == Poll::Pending {
            events[1].wait();
        }
        assert_eq!(take(&world, caller), 70);
        server.join().unwrap();
        let signals = events.map(|event| event.signals_ever());
        assert!(signals.iter().sum::<u32>() <= 1, "one completion woke {signals:?}");
        assert_all_slots_free(&world);
    });
}

#[test]
fn a_call_that_is_detached_frees_its_slot_once() {
    for registered in [false, true] {
        explore_with(None, move || {
            let world = World::new(1);
            let (caller, server) = served_by_a_thread(&world);
            let event = Arc::new(Event::default());
            if registered {
                let waker = Waker::from(Arc::clone(&event));
                let _ = world.table.register(&caller, &Context::from_waker(&waker));
            }
            world.table.detach(caller);
            server.join().unwrap();
            assert_eq!(Arc::strong_count(&event), 1, "the slot kept the waker");
            assert_all_slots_free(&world);
        });
    }
}

#[test]
fn a_reply_can_be_taken_by_polling_alone() {
    explore_with(None, || {
        let world = World::new(1);
        let (mut caller, server) = served_by_a_thread(&world);
        let reply = loop {
            match world.table.take_reply(caller) {
                Ok(reply) => break reply,
                Err(back) => caller = back,
            }
            thread::yield_now();
        };
        assert_eq!(reply, 70);
        server.join().unwrap();
        assert_all_slots_free(&world);
    });
}

#[test]
fn a_detached_slot_is_used_again_while_its_server_lets_go() {
    explore_with(None, || {
        let world = World::new(1);
        let (caller, server) = served_by_a_thread(&world);
        world.table.detach(caller);
        // As soon as the slot can be had again, nothing of the old call may be in it.
        let (caller, key) = loop {
            match world.table.open(8) {
                Ok(keys) => break keys,
                Err(_) => thread::yield_now(),
            }
        };
        assert!(!world.table.is_done(&caller));
        assert_eq!(world.table.take_request(&key), 8);
        assert!(world.table.complete(key, 80).is_none());
        assert_eq!(take(&world, caller), 80);
        server.join().unwrap();
        assert_all_slots_free(&world);
    });
}

// ---- the free list

#[test]
fn two_threads_that_open_and_end_calls_never_share_a_slot() {
    explore_bounded(|| {
        let world = World::new(3);
        let other = thread::spawn({
            let world = Arc::clone(&world);
            move || open_and_end(&world, 10)
        });
        open_and_end(&world, 20);
        other.join().unwrap();
        assert_all_slots_free(&world);
    });
}

/// Holds two slots at once and gives them back in the order that makes a head come back with
/// another successor.
fn open_and_end(world: &World, request: u32) {
    // The other thread holds at most two of the three slots.
    let first = world.table.open(request);
    let second = world.table.open(request + 1);
    for (keys, expected) in [(first, request), (second, request + 1)] {
        let Ok((caller, server)) = keys else { continue };
        // `loom` watches the request's cell: two owners of one slot are seen here.
        assert_eq!(world.table.take_request(&server), expected);
        assert!(world.table.complete(server, expected * 10).is_none());
        assert_eq!(take(world, caller), expected * 10);
    }
}

// ---- planted faults: each breaks one rule of a protocol above

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
        let cell =
            Arc::new(ReplyCell { done: AtomicBool::new(false), reply: UnsafeCell::new(0) });
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
