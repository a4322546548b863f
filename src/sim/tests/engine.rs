//! Whole engines under random loads and faults.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::engine::error::SubmitError;
use crate::engine::ticket::Ticket;
use crate::io::op::{DiskId, OpKind, Request};
use crate::scheduler::limits::SchedulerConfig;
use crate::sim::disk::{Cache, SimDiskConfig};
use crate::sim::fault::{Fault, FaultRates, FaultRule};
use crate::sim::tests::actor::{Actor, LocalActor, Score};
use crate::sim::trace::Event;
use crate::sim::{Random, SimConfig, Simulation, for_each_seed};

/// A simulation with its actors.
pub(super) struct Play {
    pub(super) sim: Simulation,
    pub(super) random: Random,
    pub(super) foreign: Actor,
    pub(super) tickets: Vec<(u64, Ticket)>,
    pub(super) local: Vec<Arc<Mutex<Actor>>>,
}

/// Which faults a play meets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Fair,
    Mixed,
    Hanging,
}

pub(super) fn random_config(random: &mut Random) -> SimConfig {
    let reactors = 1 + random.below(4) as usize;
    let count = 1 + random.below(3);
    let disks: Vec<SimDiskConfig> = (0..count)
        .map(|_| SimDiskConfig {
            logical_block_bytes: if random.coin() { 512 } else { 4096 },
            cache: if random.coin() { Cache::Volatile } else { Cache::WriteThrough },
            raw_device: random.coin(),
            ..SimDiskConfig::default()
        })
        .collect();
    let lanes = disks.iter().map(|_| {
        let first = random.below(reactors as u64) as usize;
        let lanes = 1 + random.below(reactors as u64) as usize;
        (0..lanes).map(|lane| (first + lane) % reactors).collect()
    });
    let lanes = lanes.collect();
    let scheduler = SchedulerConfig {
        depth: Some(1 + random.below(24) as u32),
        queue_max: Some(4 + random.below(60) as u32),
        slot_bytes: Some(4096 << random.below(6)),
        split_bytes: Some(4096 << random.below(6)),
        aged_every: Some(1 + random.below(9) as u32),
        max_wait_us: Some([50, 100, 200, 400, 800]),
        background_busy_max: Some(1),
        ..SchedulerConfig::default()
    };
    let batch = 1 + random.below(3) as u32 * 3;
    SimConfig {
        disks,
        reactors,
        lanes,
        scheduler,
        calls_max: if random.coin() { 8 + random.below(40) as u32 } else { 4096 },
        completion_batch: batch,
        settle_us: 20 + random.below(100) as u32,
        spin_ns: if random.coin() { 0 } else { random.below(50_000) },
        sq_entries: 1 + random.below(64) as u32,
        enter_refusals: if random.coin() { 0 } else { 50_000 },
        chains: random.coin(),
        ..SimConfig::default()
    }
}

impl Play {
    pub(super) fn new(seed: u64, weather: Weather) -> Play {
        let mut random = Random::new(seed);
        let config = random_config(&mut random);
        let mut sim = Simulation::new(random.next_u64(), &config);
        for disk in 0..config.disks.len() {
            let mut chance = |max: u64| random.below(max) as u32;
            let mut rates = FaultRates::default();
            if weather != Weather::Fair {
                (rates.errno, rates.short, rates.zero) =
                    (chance(60_000), chance(200_000), chance(9_000));
            }
            if weather == Weather::Hanging {
                rates.hang = chance(150_000);
            }
            let volatile = config.disks[disk].cache == Cache::Volatile;
            sim.with_faults(DiskId(disk as u16), |faults| {
                faults.rates = rates;
                if volatile {
                    // A failed flush takes completed writes with it, of all actors: the content
                    // would not be known any more.
                    faults.rules = vec![FaultRule::every(OpKind::Flush, Fault::Slow(1000))];
                }
            });
        }
        let foreign = Actor::new(random.fork(), &sim.arena(), sim.disks(), 0);
        let mut play = Play { sim, random, foreign, tickets: Vec::new(), local: Vec::new() };
        play.start_locals(config.reactors);
        play
    }

    fn start_locals(&mut self, reactors: usize) {
        for reactor in 0..reactors {
            let here = self.sim.disks_of(reactor);
            if here.is_empty() || self.random.coin() {
                continue;
            }
            let number = 1 + reactor as u64;
            let actor = Actor::new(self.random.fork(), &self.sim.arena(), &here, number);
            let actor = Arc::new(Mutex::new(actor));
            self.local.push(Arc::clone(&actor));
            let requests_left = 100 + self.random.below(100);
            self.sim.spawn_local(reactor, Box::new(LocalActor { actor, requests_left }));
        }
    }

    /// Something that a foreign thread may do at any time.
    pub(super) fn act(&mut self) {
        match self.random.below(8) {
            0..3 => {
                for _ in 0..1 + self.random.below(12) {
                    self.submit();
                }
            }
            3 => self.submit_batch(),
            4 if !self.tickets.is_empty() => {
                // Nobody waits for this one any more.
                let index = self.random.below(self.tickets.len() as u64) as usize;
                if self.random.below(6) == 0 {
                    let (id, ticket) = self.tickets.swap_remove(index);
                    drop(ticket);
                    self.foreign.detached(id);
                }
            }
            _ => self.collect(),
        }
    }

    fn submit(&mut self) {
        let Some((id, request)) = self.foreign.make() else { return };
        match self.sim.submit(request) {
            Ok(ticket) => self.tickets.push((id, ticket)),
            Err(SubmitError::QueueFull(request) | SubmitError::ShuttingDown(request)) => {
                self.foreign.refused(id, request);
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn submit_batch(&mut self) {
        let wanted = 1 + self.random.below(8);
        let made: Vec<_> = (0..wanted).filter_map(|_| self.foreign.make()).collect();
        let (ids, requests): (Vec<u64>, Vec<_>) = made.into_iter().unzip();
        let mut requests = requests.into_iter();
        let mut tickets = Vec::new();
        let end = self.sim.submit_many(&mut requests, &mut tickets);
        let taken = tickets.len();
        self.tickets.extend(ids.iter().copied().zip(tickets));
        let mut left = ids[taken..].iter();
        if let Err(refusal) = end {
            let refused =
                matches!(refusal, SubmitError::QueueFull(_) | SubmitError::ShuttingDown(_));
            assert!(refused, "{refusal}");
            self.foreign.refused(*left.next().unwrap(), refusal.into_request());
        }
        for (id, request) in left.zip(requests) {
            self.foreign.refused(*id, request);
        }
        assert!(self.foreign.outstanding() >= self.tickets.len());
    }

    /// Takes the completions that are there.
    pub(super) fn collect(&mut self) {
        collect(&mut self.foreign, &mut self.tickets);
    }

    pub(super) fn play(&mut self, rounds: u64) {
        for _ in 0..rounds {
            self.act();
            for _ in 0..self.random.below(12) {
                self.sim.step();
            }
        }
    }

    /// Runs until every local task is done and nothing is on its way.
    pub(super) fn settle(&mut self) {
        let until = self.sim.now_ns() + 20_000_000_000;
        let local = self.local.clone();
        self.sim.run_until(until, |sim| {
            sim.pending() == 0 && sim.is_quiet() && local.iter().all(|a| Arc::strong_count(a) == 2)
        });
        self.collect();
    }

    pub(super) fn score(&self) -> Score {
        let mut sum = self.foreign.score;
        for local in &self.local {
            let score = local.lock().unwrap().score;
            sum.succeeded += score.succeeded;
            sum.failed += score.failed;
            sum.refused += score.refused;
            sum.shut += score.shut;
            sum.abandoned += score.abandoned;
            sum.unreturned += score.unreturned;
            sum.sectors_compared += score.sectors_compared;
        }
        sum
    }

    pub(super) fn outstanding(&self) -> usize {
        let local = self.local.iter().map(|actor| actor.lock().unwrap().outstanding());
        self.foreign.outstanding() + local.sum::<usize>()
    }

    /// The disks hold what the actors know.
    pub(super) fn verify_disks(&mut self) {
        for disk in 0..self.sim.disks().len() as u16 {
            let (foreign, local) = (&self.foreign, &self.local);
            self.sim.with_disk(DiskId(disk), |found| {
                foreign.verify(disk, found);
                local.iter().for_each(|actor| actor.lock().unwrap().verify(disk, found));
            });
        }
    }

    pub(super) fn assert_nothing_waits(&self) {
        for route in self.sim.gate.routes.iter().flatten() {
            assert_eq!(route.lane.waiting.load(Ordering::Relaxed), 0, "a place in a queue is lost");
        }
        let alive = (0..self.sim.gate.reactors.len()).filter_map(|n| self.sim.reactor(n));
        for lane in alive.flat_map(|state| &state.lanes) {
            let counts = (lane.scheduler.queued(), lane.scheduler.active_slots());
            assert_eq!(counts, (0, 0), "waiting and active at rest");
        }
    }
}

#[test]
fn every_request_completes_once_with_its_buffers_and_its_data() {
    let name = "every_request_completes_once_with_its_buffers_and_its_data";
    for_each_seed(name, 60, |seed| {
        let weather = if seed % 3 == 0 { Weather::Fair } else { Weather::Mixed };
        let mut play = Play::new(seed, weather);
        play.play(150);
        play.settle();
        assert_eq!(play.outstanding(), 0, "a request was lost");
        play.assert_nothing_waits();
        let score = play.score();
        assert!(score.succeeded > 15 && score.sectors_compared > 0, "{score:?}");
        assert!(weather == Weather::Mixed || score.failed == 0, "{score:?}");
        assert_eq!(play.sim.lent_bytes(), 0, "a buffer is missing");
        play.verify_disks();
        play.sim.close(1_000_000_000).unwrap();
    });
}

#[test]
fn equal_seeds_give_equal_traces() {
    let run = |seed: u64| {
        let mut play = Play::new(seed, Weather::Mixed);
        play.play(60);
        play.settle();
        (play.sim.trace_hash(), play.sim.now_ns())
    };
    for_each_seed("equal_seeds_give_equal_traces", 12, |seed| {
        assert_eq!(run(seed), run(seed), "seed {seed} runs in two ways");
        assert_ne!(run(seed).0, run(seed + 1).0, "a trace that does not know its seed");
    });
}

#[test]
fn the_seed_alone_changes_the_order_of_completions() {
    let run = |seed: u64| {
        let mut sim = Simulation::new(seed, &SimConfig::default());
        for sector in 0..16 {
            let request = Request::write(DiskId(0), sector * 512, sim.buffer(512).unwrap());
            drop(sim.submit(request).unwrap());
        }
        sim.run();
        sim.trace_hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_way_in_spreads_requests_over_the_lanes_of_a_disk() {
    let config = SimConfig { reactors: 4, lanes: vec![vec![3, 1, 0]], ..SimConfig::default() };
    let mut sim = Simulation::new(1, &config);
    for _ in 0..30 {
        drop(sim.submit(Request::flush(DiskId(0))).unwrap());
    }
    let routes = sim.gate.routes[0].iter();
    let waiting: Vec<u32> =
        routes.map(|route| route.lane.waiting.load(Ordering::Relaxed)).collect();
    assert_eq!(waiting, [10, 10, 10]);
}

#[test]
fn a_queue_is_full_exactly_at_its_watermark() {
    for_each_seed("a_queue_is_full_exactly_at_its_watermark", 25, |seed| {
        let mut random = Random::new(seed);
        let config = SimConfig {
            disks: vec![SimDiskConfig::default(); 2],
            reactors: 1 + random.below(2) as usize,
            scheduler: SchedulerConfig {
                depth: Some(1 + random.below(4) as u32),
                queue_max: Some(1 + random.below(24) as u32),
                ..SchedulerConfig::default()
            },
            ..SimConfig::default()
        };
        let mut sim = Simulation::new(random.next_u64(), &config);
        sim.keep_trace();
        let mut actor = Actor::new(random.fork(), &sim.arena(), sim.disks(), 0);
        (actor.large, actor.write_flushes) = (false, false);
        let (mut accepted, mut dispatched, mut seen, mut full) = ([0u64; 2], [0u64; 2], 0, 0);
        let mut tickets: Vec<(u64, Ticket)> = Vec::new();
        for _ in 0..1500 {
            let Some((id, request)) = actor.make() else {
                sim.step();
                collect(&mut actor, &mut tickets);
                continue;
            };
            for (_, event) in sim.trace_events(seen) {
                seen += 1;
                if let Event::Dispatch { disk, .. } = event {
                    dispatched[usize::from(disk)] += 1;
                }
            }
            let disk = usize::from(request.disk.0);
            let watermark = sim.gate.limits[disk].watermark(request.priority);
            let room = accepted[disk] - dispatched[disk] < u64::from(watermark);
            match sim.submit(request) {
                Ok(ticket) => {
                    assert!(room, "taken above the watermark {watermark}");
                    accepted[disk] += 1;
                    tickets.push((id, ticket));
                }
                Err(SubmitError::QueueFull(request)) => {
                    assert!(!room, "refused below the watermark {watermark}");
                    full += 1;
                    actor.refused(id, request);
                }
                Err(other) => panic!("{other}"),
            }
            if random.below(4) == 0 {
                for _ in 0..random.below(8) {
                    sim.step();
                }
            }
        }
        sim.run();
        collect(&mut actor, &mut tickets);
        assert_eq!((actor.outstanding(), sim.lent_bytes()), (0, 0));
        assert!(full > 10, "the queues were full {full} times only");
    });
}

fn collect(actor: &mut Actor, tickets: &mut Vec<(u64, Ticket)>) {
    for (id, ticket) in std::mem::take(tickets) {
        match ticket.try_take() {
            Ok(completion) => actor.completed(id, completion),
            Err(ticket) => tickets.push((id, ticket)),
        }
    }
}
