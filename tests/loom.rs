//! Models of what crosses threads, explored by `loom` over the code that production runs.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --test loom`. Each model states what
//! must hold in every interleaving that the memory model allows. Their twins in `loom/planted*.rs`,
//! marked `should_panic`, are small copies of the protocols with one rule broken, and prove that
//! the models would see the fault. Larger mixes, with less care for each, are in `shuttle.rs`.
//!
//! No model is a proof. Those of three threads bound the preemptions, as [`explore_bounded`] says,
//! and so do some of two. Those without a bound go as far as loom's reduction of interleavings, and
//! that leaves some out: [`explore_parts`] says which. And a load never sees a store that `loom`
//! runs later, as real processors allow.
#![cfg(loom)]
// Only the test functions themselves are exempt by clippy.toml, not what they call.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::task::{Context, Poll, Wake as WakeTask, Waker};

use dynamicfs::concurrency::call_table::{CallTable, CallerKey, ServerKey};
use dynamicfs::concurrency::mailbox::{Mailbox, Wake};
use dynamicfs::concurrency::waiters::Waiters;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

#[path = "loom/bells.rs"]
mod bells;
#[path = "loom/extent_locks.rs"]
mod extent_locks;
#[path = "loom/generation.rs"]
mod generation;
#[path = "loom/planted.rs"]
mod planted;
#[path = "loom/planted_locks.rs"]
mod planted_locks;

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

/// Explores what threads do beside each other, each one part, and then looks at the end of it.
///
/// `loom` begins with the threads one after another, and goes on from where two of them met. Of
/// each atomic it remembers the last access alone, so when a thread loads an atomic and then
/// exchanges it, its own load hides that of another thread before it, and a thread that looks first
/// is never let run after it. So the parts are begun in either order.
fn explore_parts<S: Send + Sync + 'static>(
    preemptions: Option<usize>,
    start: impl Fn() -> S + Copy + Send + Sync + 'static,
    parts: &[fn(&S)],
    end: fn(&S),
) {
    let orders: [Vec<fn(&S)>; 2] = [parts.to_vec(), parts.iter().copied().rev().collect()];
    for parts in orders {
        explore_with(preemptions, move || {
            let shared = Arc::new(start());
            let threads: Vec<_> = parts
                .iter()
                .map(|part| {
                    let (part, shared) = (*part, Arc::clone(&shared));
                    thread::spawn(move || part(&shared))
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            end(&shared);
        });
    }
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
        let (table, mailbox, event) = (CallTable::new(slots), Mailbox::default(), Event::default());
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
            told |= news.load(Ordering::Acquire);
            if told && !seen.is_empty() {
                break;
            }
            if world.mailbox.prepare_sleep() {
                announced += 1;
                if told || !news.load(Ordering::Acquire) {
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

#[test]
fn who_waits_for_a_slot_is_woken_by_whoever_frees_one() {
    for taken in [true, false] {
        explore_with(None, move || {
            let world = World::new(1);
            let (caller, server) = world.open(1);
            assert!(world.table.complete(server, 10).is_none());
            let owner = thread::spawn({
                let world = Arc::clone(&world);
                move || {
                    if taken {
                        take(&world, caller);
                    } else {
                        world.table.detach(caller);
                    }
                }
            });
            let event = Arc::new(Event::default());
            let waker = Waker::from(Arc::clone(&event));
            let (caller, server) = loop {
                world.table.wait_for_slot(&waker);
                match world.table.open(2) {
                    Ok(keys) => break keys,
                    Err(_) => event.wait(),
                }
            };
            world.table.cancel(caller, server);
            owner.join().unwrap();
        });
    }
}

// ---- room in a lane's queue: the protocol of `LaneShared`, which is not public

struct Room {
    waiting: AtomicU32,
    waiters: Waiters,
}

impl Room {
    fn holding(count: u32) -> Arc<Room> {
        Arc::new(Room { waiting: AtomicU32::new(count), waiters: Waiters::default() })
    }

    fn reserve(&self, watermark: u32) -> bool {
        if self.waiting.fetch_add(1, Ordering::AcqRel) < watermark {
            return true;
        }
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waiters.wake_all();
        }
        false
    }

    fn release(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.waiters.wake_all();
    }

    /// Until there is room: register, look again, sleep.
    fn reserve_waiting(&self) {
        let event = Arc::new(Event::default());
        let waker = Waker::from(Arc::clone(&event));
        loop {
            self.waiters.register(&waker);
            if self.reserve(1) {
                return;
            }
            event.wait();
        }
    }
}

#[test]
fn who_waits_for_room_is_woken_when_it_is_made() {
    explore_with(None, || {
        let room = Room::holding(1);
        let reactor = thread::spawn({
            let room = Arc::clone(&room);
            move || room.release()
        });
        room.reserve_waiting();
        reactor.join().unwrap();
    });
}

#[test]
fn a_failed_reservation_of_another_keeps_nobody_asleep() {
    explore_bounded(|| {
        let room = Room::holding(1);
        let reactor = thread::spawn({
            let room = Arc::clone(&room);
            move || room.release()
        });
        let other = thread::spawn({
            let room = Arc::clone(&room);
            move || {
                if room.reserve(1) {
                    room.release();
                }
            }
        });
        room.reserve_waiting();
        reactor.join().unwrap();
        other.join().unwrap();
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
