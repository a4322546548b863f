//! The scheduler against a naive model, and its starvation bound as a number.
//!
//! The model keeps everything in vectors and looks at all of it for every decision; it was written
//! from the text of the module head, not from the code.

mod naive;
mod starvation;

use std::collections::BTreeMap;

use crate::io::op::{Buffers, CLASSES, DiskId, OpKind, Priority, Request};
use crate::io::op_table::{OpTable, Origin, State};
use crate::machine::mapping::PagePolicy;
use crate::memory::{Arena, BufferList};
use crate::scheduler::limits::{Limits, SchedulerConfig};
use crate::scheduler::tests::naive::{Naive, Waiting};
use crate::scheduler::{Choice, LaneScheduler};
use crate::sim::{Random, for_each_seed};

/// What one started operation or piece counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Started {
    id: u64,
    class: Priority,
    kind: OpKind,
    bytes: u64,
    aged: bool,
}

/// The scheduler with its table, carried as the reactor carries it.
struct Lane {
    scheduler: LaneScheduler,
    ops: OpTable,
}

impl Lane {
    fn new(limits: Limits) -> Lane {
        Lane { scheduler: LaneScheduler::new(limits), ops: OpTable::new(4096) }
    }

    fn enqueue(&mut self, id: u64, request: Request, now: u64) {
        let origin = Origin::Local { task: 0, tag: id };
        let slot = self.ops.insert(request, origin, 0, now).unwrap();
        self.scheduler.enqueue(&mut self.ops, slot);
    }

    fn id_of(&self, slot: u32) -> u64 {
        match self.ops.op(slot).origin {
            Some(Origin::Local { tag, .. }) => tag,
            _ => panic!("only whole operations are queued"),
        }
    }

    /// Starts the next one; a piece is carved off as the reactor does it.
    fn next(&mut self, now: u64) -> Option<Started> {
        let choice = self.scheduler.next(&mut self.ops, now)?;
        Some(self.carry_out(choice))
    }

    fn carry_out(&mut self, choice: Choice) -> Started {
        let Choice { slot, aged, piece } = choice;
        let id = self.id_of(slot);
        let first = self.ops.op(slot).vectors.0;
        let lengths: Option<Vec<u64>> = self.ops.vector_lengths(slot, first).map(Iterator::collect);
        let op = self.ops.op_mut(slot);
        let (class, kind) = (op.class, op.kind);
        let bytes = piece.unwrap_or(if kind.moves_data() { op.len } else { 0 });
        if piece.is_some() {
            op.issued += bytes;
            let mut left = bytes;
            for length in lengths.into_iter().flatten() {
                if left == 0 {
                    break;
                }
                left = left.checked_sub(length).expect("pieces are whole vectors");
                op.vectors.0 += 1;
            }
            let last = op.issued == op.len;
            assert!(op.issued <= op.len, "more was issued than asked for");
            if last {
                op.state = State::Split;
            }
        }
        if piece.is_none() || self.ops.op(slot).state == State::Split {
            self.ops.remove(slot);
        }
        Started { id, class, kind, bytes, aged }
    }

    fn ended(&mut self, started: Started, now: u64) {
        self.scheduler.ended(started.class, started.kind, started.bytes, now);
    }
}

fn random_limits(random: &mut Random) -> Limits {
    let depth = 1 + random.below(48) as u32;
    let config = SchedulerConfig {
        depth: Some(depth),
        queue_max: Some(1000),
        slot_bytes: Some(4096 << random.below(3)),
        split_bytes: Some(4096 * (1 + random.below(8))),
        active_bytes_max: Some((64 << 10) << random.below(4)),
        max_wait_us: Some([(); CLASSES].map(|()| random.below(3000))),
        aged_every: Some(1 + random.below(9) as u32),
        background_busy_bytes: Some(4096 << random.below(9)),
        background_busy_max: Some(1 + random.below(u64::from(depth)) as u32),
        background_idle_us: Some(random.below(500)),
    };
    let mut limits = Limits::resolve(&config, 0, 1).unwrap();
    limits.commands_active_max = 1 + random.below(4) as u32;
    if random.coin() {
        limits.caps = [(); CLASSES].map(|()| 1 + random.below(u64::from(depth)) as u32);
    }
    limits
}

fn random_request(random: &mut Random, arena: &std::sync::Arc<Arena>) -> Request {
    let class = *random.pick(&Priority::ALL);
    let (disk, offset) = (DiskId(0), 0);
    let blocks = if random.below(4) == 0 { 1 + random.below(64) } else { 1 + random.below(4) };
    let kinds = [
        OpKind::Read,
        OpKind::Write,
        OpKind::Write,
        OpKind::WriteDsync,
        OpKind::WriteFlush,
        OpKind::Flush,
        OpKind::Discard,
    ];
    match *random.pick(&kinds) {
        OpKind::Flush => Request::flush(disk).with_priority(class),
        OpKind::Discard => Request::discard(disk, 0, 4096 * blocks).with_priority(class),
        OpKind::Write if random.below(4) == 0 => {
            let count = 1 + random.below(6);
            let buffers = (0..count).map(|_| arena.take(4096 << random.below(4)).unwrap());
            let list = Box::new(BufferList::new(buffers.collect()));
            Request::write_vectored(disk, offset, list).with_priority(class)
        }
        kind => {
            let (len, buffers) = (4096 * blocks, Buffers::None);
            Request { disk, priority: class, kind, offset, len, buffers }
        }
    }
}

fn waiting(id: u64, request: &Request, now: u64) -> Waiting {
    let vectors = match &request.buffers {
        Buffers::Many(list) => list.buffers().iter().map(|buffer| buffer.len() as u64).collect(),
        _ => Vec::new(),
    };
    let (class, kind, left) = (request.priority, request.kind, request.len);
    Waiting { id, class, kind, arrived: now, left, vectors, begun: false }
}

/// A random life of one lane, beside the model.
struct Match {
    random: Random,
    lane: Lane,
    naive: Naive,
    arena: std::sync::Arc<Arena>,
    now: u64,
    ids: u64,
    active: Vec<Started>,
    /// Bytes that each request asked for and that were started.
    asked: BTreeMap<u64, u64>,
    got: BTreeMap<u64, u64>,
    recent_aged: Vec<bool>,
    first_of_class: [u64; CLASSES],
}

impl Match {
    fn new(seed: u64) -> Match {
        let mut random = Random::new(seed);
        let limits = random_limits(&mut random);
        Match {
            random,
            lane: Lane::new(limits.clone()),
            naive: Naive::new(limits),
            arena: Arena::new(8 << 20, PagePolicy::Normal, None, 0).unwrap(),
            now: 1_000_000,
            ids: 0,
            active: Vec::new(),
            asked: BTreeMap::new(),
            got: BTreeMap::new(),
            recent_aged: Vec::new(),
            first_of_class: [0; CLASSES],
        }
    }

    fn enqueue(&mut self) {
        if self.naive.waiting.len() > 200 {
            return;
        }
        self.ids += 1;
        let request = random_request(&mut self.random, &self.arena);
        let bytes = if request.kind.moves_data() { request.len } else { 0 };
        self.asked.insert(self.ids, bytes);
        self.naive.arrive(waiting(self.ids, &request, self.now), self.now);
        self.lane.enqueue(self.ids, request, self.now);
    }

    fn start_one(&mut self) -> bool {
        let expected = self.naive.next(self.now);
        let started = self.lane.next(self.now);
        assert_eq!(started, expected, "the scheduler and the model choose differently");
        let Some(started) = started else { return false };
        let limits = self.lane.scheduler.limits();
        let ceiling =
            if started.aged { limits.depth } else { limits.ceilings[started.class.index()] };
        let alone = self.active.is_empty();
        assert!(alone || self.lane.scheduler.active_slots() <= ceiling, "past the ceiling");
        *self.got.entry(started.id).or_default() += started.bytes;
        self.active.push(started);
        self.recent_aged.push(started.aged);
        let every = limits.aged_every as usize;
        let window = &self.recent_aged[self.recent_aged.len().saturating_sub(every + 1)..];
        assert!(window.iter().filter(|aged| **aged).count() <= 1, "aged too often: {window:?}");
        let first = &mut self.first_of_class[started.class.index()];
        assert!(*first <= started.id, "not in the order of arrival");
        *first = started.id;
        true
    }

    fn end_one(&mut self) {
        if self.active.is_empty() {
            return;
        }
        let index = self.random.below(self.active.len() as u64) as usize;
        let started = self.active.swap_remove(index);
        self.lane.ended(started, self.now);
        self.naive.ended(started, self.now);
    }

    /// The table had no room for a piece: the choice is undone, and comes again.
    fn start_and_undo(&mut self) {
        let mut undone = self.naive.clone();
        let (ops, now) = (&mut self.lane.ops, self.now);
        let Some(choice) = self.lane.scheduler.next(ops, now) else {
            assert_eq!(undone.next(now), None);
            return;
        };
        self.lane.scheduler.put_back(ops, choice);
        assert!(undone.next(now).is_some());
    }

    fn check_counts(&self) {
        let scheduler = &self.lane.scheduler;
        assert_eq!(scheduler.queued() as usize, self.naive.waiting.len());
        assert_eq!(scheduler.has_queued(), !self.naive.waiting.is_empty());
        assert_eq!(scheduler.active_slots(), self.naive.active_slots());
        for class in Priority::ALL {
            let waiting = self.naive.waiting.iter().filter(|request| request.class == class);
            assert_eq!(scheduler.queued_in(class) as usize, waiting.count());
            assert_eq!(scheduler.active_in(class), self.naive.active_slots_of(class));
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..35 => self.enqueue(),
            35..65 => {
                self.start_one();
            }
            65..70 => while self.start_one() {},
            70..90 => self.end_one(),
            90..93 => self.start_and_undo(),
            93..99 => self.now += self.random.below(300_000),
            _ => self.now += self.random.below(5_000_000),
        }
        self.check_counts();
    }

    /// Everything that waits is started once, whole.
    fn finish(&mut self) {
        loop {
            while self.start_one() {}
            if self.active.is_empty() {
                break;
            }
            self.end_one();
            self.now += self.random.below(10_000);
        }
        self.check_counts();
        assert!(self.naive.waiting.is_empty(), "something waits although nothing is active");
        assert_eq!(self.asked, self.got, "pieces cover each request exactly once");
        assert_eq!(self.lane.ops.used(), 0);
    }
}

#[test]
fn decisions_are_those_of_the_model() {
    for_each_seed("decisions_are_those_of_the_model", 400, |seed| {
        let mut game = Match::new(seed);
        (0..600).for_each(|_| game.step());
        game.finish();
    });
}

#[test]
fn what_is_given_away_leaves_its_queue_and_the_order_stays() {
    for_each_seed("what_is_given_away_leaves_its_queue_and_the_order_stays", 100, |seed| {
        let mut game = Match::new(seed);
        for _ in 0..300 {
            game.step();
            if game.random.below(5) > 0 {
                continue;
            }
            let even = |ops: &OpTable, slot: u32| match ops.op(slot).origin {
                Some(Origin::Local { tag, .. }) => tag % 2 == 0,
                _ => false,
            };
            let given = game.lane.scheduler.give_away(&mut game.lane.ops, even);
            let given = given.map(|slot| {
                let id = game.lane.id_of(slot);
                game.lane.ops.remove(slot);
                id
            });
            assert_eq!(given, game.naive.give_away(|id| id % 2 == 0));
            if let Some(id) = given {
                game.asked.remove(&id);
            }
        }
        game.finish();
    });
}

#[test]
fn all_that_waits_can_be_taken_out() {
    for_each_seed("all_that_waits_can_be_taken_out", 50, |seed| {
        let mut game = Match::new(seed);
        (0..200).for_each(|_| game.step());
        let taken = game.lane.scheduler.take_all(&mut game.lane.ops);
        let mut ids: Vec<u64> = taken.iter().map(|slot| game.lane.id_of(*slot)).collect();
        ids.sort_unstable();
        let mut expected: Vec<u64> = game.naive.waiting.iter().map(|waiting| waiting.id).collect();
        expected.sort_unstable();
        assert_eq!(ids, expected);
        assert_eq!((game.lane.scheduler.queued(), game.lane.next(game.now)), (0, None));
    });
}

fn plain(class: Priority, len: u64) -> Request {
    let kind = if class >= Priority::Write { OpKind::Write } else { OpKind::Read };
    let (disk, offset, buffers) = (DiskId(0), 0, Buffers::None);
    Request { disk, priority: class, kind, offset, len, buffers }
}

/// Cause: only the arrival and start of a higher class were remembered. Harm: Background ran at
/// full depth beside a read that took longer than `background_idle_us`. Fix: what is active counts.
#[test]
fn background_is_held_back_as_long_as_a_read_is_at_the_device() {
    let config = SchedulerConfig {
        depth: Some(32),
        background_busy_max: Some(1),
        background_idle_us: Some(100),
        ..SchedulerConfig::default()
    };
    let limits = Limits::resolve(&config, 0, 1).unwrap();
    let mut lane = Lane::new(limits);
    lane.enqueue(0, plain(Priority::NormalRead, 4096), 0);
    let read = lane.next(0).unwrap();
    (1..9).for_each(|id| lane.enqueue(id, plain(Priority::Background, 4096), 0));
    let starts = |lane: &mut Lane, now| std::iter::from_fn(|| lane.next(now)).count();
    assert_eq!(starts(&mut lane, 50_000_000), 1, "the read is 50 ms old and still there");
    lane.ended(read, 60_000_000);
    assert_eq!(starts(&mut lane, 60_050_000), 0, "it was there a moment ago");
    assert_eq!(starts(&mut lane, 60_100_001), 7);
}

/// Cause: undoing a choice did not undo its count. Harm: a due request whose piece found the table
/// full waited for another whole round. Fix: `put_back` restores the count.
#[test]
fn a_due_request_keeps_its_turn_when_its_start_is_undone() {
    let config = SchedulerConfig { aged_every: Some(4), ..SchedulerConfig::default() };
    let mut lane = Lane::new(Limits::resolve(&config, 0, 1).unwrap());
    lane.enqueue(0, plain(Priority::Write, 1 << 20), 0);
    (1..20).for_each(|id| lane.enqueue(id, plain(Priority::Critical, 4096), 0));
    let late = 60_000_000_000;
    (0..4).for_each(|_| assert!(!lane.next(1).unwrap().aged));
    // Critical's own deadline is the earliest: it is due before the write, too.
    let choice = lane.scheduler.next(&mut lane.ops, late).unwrap();
    assert!(choice.aged);
    lane.scheduler.put_back(&mut lane.ops, choice);
    assert!(lane.next(late).unwrap().aged);
    assert!(!lane.next(late).unwrap().aged);
}
