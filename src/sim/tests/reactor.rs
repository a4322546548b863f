//! What a reactor makes of short transfers, passing errors, and its sleeps.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::io::error::{ATTEMPTS_MAX, ErrorKind, Verdict, classify, known_errnos};
use crate::io::op::{Completion, DiskId, OpKind, Priority, Request};
use crate::memory::BufferList;
use crate::reactor::local::{LocalIo, LocalRefusal, LocalTask, TaskState};
use crate::scheduler::limits::SchedulerConfig;
use crate::sim::disk::SimDiskConfig;
use crate::sim::fault::{Fault, FaultRule};
use crate::sim::trace::Event;
use crate::sim::world::passing;
use crate::sim::{Random, SimConfig, Simulation};

const DISK: DiskId = DiskId(0);

fn with_rules(rules: Vec<FaultRule>) -> Simulation {
    let mut sim = Simulation::new(1, &SimConfig::default());
    sim.keep_trace();
    sim.with_faults(DISK, |faults| faults.rules = rules);
    sim
}

fn run(sim: &mut Simulation, request: Request) -> Completion {
    let ticket = sim.submit(request).unwrap();
    sim.run();
    ticket.try_take().expect("it has completed")
}

fn fails(sim: &mut Simulation, request: Request) -> (ErrorKind, Option<i32>) {
    let error = run(sim, request).result.unwrap_err();
    (error.kind, error.errno)
}

fn read(sim: &Simulation) -> Request {
    Request::read(DISK, 0, sim.buffer(8192).unwrap())
}

/// Offset and length of every attempt.
fn attempts(sim: &Simulation) -> Vec<(u64, u64)> {
    let dispatches = sim.trace_events(0).into_iter().filter_map(|(_, event)| match event {
        Event::Dispatch { offset, len, .. } => Some((offset, len)),
        _ => None,
    });
    dispatches.collect()
}

#[test]
fn a_short_transfer_goes_on_to_its_full_length() {
    for bytes in [512, 700, 1024, 5000, 8191] {
        let mut sim = with_rules(vec![FaultRule::every(OpKind::Read, Fault::Short(bytes))]);
        let image: Vec<u8> = (0..8192u32).map(|n| (n / 8) as u8).collect();
        sim.with_disk(DISK, |disk| disk.overwrite(0, &image));
        let request = read(&sim);
        let Completion { result, buffers, .. } = run(&mut sim, request);
        let step = bytes / 512 * 512;
        assert_eq!(result.unwrap(), 8192);
        assert_eq!(&buffers.into_one().unwrap()[..], &image[..]);
        let expected: Vec<(u64, u64)> =
            (0..8192).step_by(step as usize).map(|at| (at, 8192 - at)).collect();
        let seen = attempts(&sim);
        // The last attempt may be shorter than the fault, and ends by itself.
        assert_eq!(seen, expected, "short by {bytes}");
    }
}

#[test]
fn a_short_vectored_write_goes_on_inside_a_buffer() {
    for bytes in [512, 4608, 6000, 12_288] {
        let mut sim = with_rules(vec![FaultRule::every(OpKind::Write, Fault::Short(bytes))]);
        let buffers = (1..=4u8).map(|n| {
            let mut buffer = sim.buffer(4096 * usize::from(n)).unwrap();
            buffer.fill(n);
            buffer
        });
        let list = Box::new(BufferList::new(buffers.collect()));
        let expected: Vec<u8> =
            list.buffers().iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let completion = run(&mut sim, Request::write_vectored(DISK, 4096, list));
        assert_eq!(completion.result.unwrap(), 40_960);
        let written = sim.with_disk(DISK, |disk| disk.read(4096, 40_960));
        assert_eq!(written, expected);
    }
}

#[test]
fn a_transfer_of_less_than_a_block_is_no_progress() {
    for bytes in [0, 1, 511] {
        let fault = if bytes == 0 { Fault::Zero } else { Fault::Short(bytes) };
        let mut sim = with_rules(vec![FaultRule::every(OpKind::Read, fault)]);
        let request = read(&sim);
        assert_eq!(fails(&mut sim, request), (ErrorKind::DeviceGone, None));
        assert_eq!(attempts(&sim).len(), 1);
    }
}

#[test]
fn a_passing_error_is_tried_again_a_bounded_number_of_times() {
    for errno in known_errnos().filter(|errno| passing(*errno)) {
        let fault = Fault::Errno(errno);
        let thrice = FaultRule { times: 3, ..FaultRule::every(OpKind::Read, fault) };
        let mut sim = with_rules(vec![thrice]);
        let request = read(&sim);
        assert_eq!(run(&mut sim, request).result.unwrap(), 8192);
        assert_eq!(attempts(&sim).len(), 4);

        let mut sim = with_rules(vec![FaultRule::every(OpKind::Read, fault)]);
        let request = read(&sim);
        assert_eq!(fails(&mut sim, request), (ErrorKind::Busy, Some(errno)));
        assert_eq!(attempts(&sim).len(), usize::from(ATTEMPTS_MAX) + 1);

        // A flush that failed is never tried again into success.
        let mut sim = with_rules(vec![FaultRule::nth(OpKind::Flush, 0, fault)]);
        assert_eq!(fails(&mut sim, Request::flush(DISK)), (ErrorKind::Busy, Some(errno)));
        assert_eq!(attempts(&sim).len(), 1);
    }
}

/// Cause: a short transfer counted as a failed attempt. Harm: one EAGAIN after eight short
/// transfers that all made progress failed the request as Busy. Fix: progress starts the count
/// again.
#[test]
fn short_transfers_do_not_use_up_the_attempts() {
    let short = FaultRule { times: 12, ..FaultRule::every(OpKind::Read, Fault::Short(512)) };
    let again = FaultRule::nth(OpKind::Read, 0, Fault::Errno(libc::EAGAIN));
    let mut sim = with_rules(vec![short, again]);
    let request = read(&sim);
    assert_eq!(run(&mut sim, request).result.unwrap(), 8192);
}

#[test]
fn a_device_that_is_gone_says_so_for_every_kind() {
    let mut sim = with_rules(Vec::new());
    sim.with_disk(DISK, |disk| disk.unplug());
    let request = read(&sim);
    assert_eq!(fails(&mut sim, request), (ErrorKind::DeviceGone, None));
    let write = Request::write(DISK, 0, sim.buffer(512).unwrap());
    assert_eq!(fails(&mut sim, write), (ErrorKind::DeviceGone, Some(libc::ENOSPC)));
    let flush = Request::flush(DISK);
    assert_eq!(fails(&mut sim, flush), (ErrorKind::Media, Some(libc::EIO)));
}

#[test]
fn every_errno_of_the_table_becomes_its_kind() {
    for (errno, raw_device) in known_errnos().flat_map(|errno| [(errno, true), (errno, false)]) {
        let disks = vec![SimDiskConfig { raw_device, ..SimDiskConfig::default() }];
        let mut sim = Simulation::new(2, &SimConfig { disks, ..SimConfig::default() });
        let medium = sim.disks()[0].medium();
        let expected = match classify(errno, medium) {
            Verdict::Fail(kind) => kind,
            Verdict::Retry => ErrorKind::Busy,
        };
        sim.with_faults(DISK, |faults| {
            let kinds = [OpKind::Read, OpKind::Write, OpKind::Flush, OpKind::Discard];
            let rules = kinds.map(|kind| FaultRule::every(kind, Fault::Errno(errno)));
            faults.rules = rules.to_vec();
        });
        let write = Request::write(DISK, 0, sim.buffer(512).unwrap());
        let discard = Request::discard(DISK, 0, 512);
        for request in [read(&sim), write, Request::flush(DISK), discard] {
            assert_eq!(fails(&mut sim, request), (expected, Some(errno)), "{medium:?}");
        }
        assert_eq!(sim.lent_bytes(), 0);
    }
}

#[test]
fn lost_and_misdirected_writes_look_like_success() {
    let lost = FaultRule::nth(OpKind::Write, 0, Fault::Lost);
    let astray = FaultRule::nth(OpKind::Write, 0, Fault::Misdirect(65_536));
    let mut sim = with_rules(vec![lost, astray]);
    for _ in 0..2 {
        let mut buffer = sim.buffer(512).unwrap();
        buffer.fill(7);
        assert_eq!(run(&mut sim, Request::write(DISK, 0, buffer)).result.unwrap(), 512);
    }
    let at = |sim: &mut Simulation, offset| sim.with_disk(DISK, |disk| disk.read(offset, 1)[0]);
    assert_eq!((at(&mut sim, 0), at(&mut sim, 65_536)), (0, 7));
}

#[test]
fn a_device_that_comes_back_may_have_lost_its_cache() {
    let outcomes = (0..32u64).map(|seed| {
        let mut sim = with_rules(Vec::new());
        let mut buffer = sim.buffer(512).unwrap();
        buffer.fill(7);
        run(&mut sim, Request::write(DISK, 0, buffer)).result.unwrap();
        sim.with_disk(DISK, |disk| {
            disk.unplug();
            disk.plug(&mut Random::new(seed));
        });
        let Completion { result, buffers, .. } = {
            let request = read_one(&sim);
            run(&mut sim, request)
        };
        assert_eq!(result.unwrap(), 512);
        buffers.into_one().unwrap()[0]
    });
    assert_eq!(outcomes.collect::<BTreeSet<u8>>(), BTreeSet::from([0, 7]));
}

fn read_one(sim: &Simulation) -> Request {
    Request::read(DISK, 0, sim.buffer(512).unwrap())
}

#[test]
fn a_split_write_fails_whole_and_sends_no_more_of_it() {
    let medium = FaultRule::nth(OpKind::Write, 1, Fault::Errno(libc::ENODATA));
    let mut sim = with_rules(vec![medium]);
    let request = Request::write(DISK, 0, sim.buffer(16 << 20).unwrap());
    let Completion { result, buffers, .. } = run(&mut sim, request);
    let error = result.unwrap_err();
    assert_eq!((error.kind, error.errno), (ErrorKind::Media, Some(libc::ENODATA)));
    assert_eq!(buffers.into_one().unwrap().len(), 16 << 20);
    let sent = attempts(&sim).len();
    assert!((2..128).contains(&sent), "{sent} of 128 pieces were sent");
}

#[test]
fn a_sleeping_reactor_is_woken_once_by_the_first_of_many() {
    let mut sim = with_rules(Vec::new());
    sim.run();
    let tickets: Vec<_> = (0..10).map(|_| sim.submit(Request::flush(DISK)).unwrap()).collect();
    assert_eq!(sim.metrics().reactors[0].wakes, 1);
    sim.run();
    assert!(tickets.iter().all(|ticket| ticket.is_done()));
}

#[test]
fn a_patient_sleep_waits_for_its_batch_or_until_it_has_settled() {
    for (settle_us, batch) in [(60_000, 4), (1, 4)] {
        let slow = SimDiskConfig { write_ns: 5_000_000..=50_000_000, ..SimDiskConfig::default() };
        let config = SimConfig {
            disks: vec![slow],
            completion_batch: batch,
            settle_us,
            ..SimConfig::default()
        };
        let mut sim = Simulation::new(4, &config);
        for n in 0..16 {
            let request = Request::write(DISK, n * 4096, sim.buffer(4096).unwrap());
            drop(sim.submit(request).unwrap());
        }
        sim.keep_trace();
        sim.run();
        // Completions before the first sleep that ends with one.
        let mut arrived = 0;
        for (_, event) in sim.trace_events(0) {
            match event {
                Event::Complete { .. } => arrived += 1,
                Event::Turn { slept: true, .. } if arrived > 0 => break,
                _ => {}
            }
        }
        let expected = if settle_us == 1 { 1 } else { batch };
        assert_eq!(arrived, expected, "settling after {settle_us} us");
    }
}

/// Wants to run at a certain time, and notes when it did.
struct Clock {
    at: u64,
    ran: Arc<Mutex<Vec<u64>>>,
}

impl LocalTask for Clock {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        self.ran.lock().unwrap().push(io.now_ns());
        if io.now_ns() >= self.at { TaskState::Done } else { TaskState::At(self.at) }
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

#[test]
fn a_timed_task_runs_at_its_time() {
    let mut sim = with_rules(Vec::new());
    let ran = Arc::new(Mutex::new(Vec::new()));
    let at = 7_000_000_000;
    sim.spawn_local(0, Box::new(Clock { at, ran: Arc::clone(&ran) }));
    sim.run_until(2 * at, |_| false);
    let ran = ran.lock().unwrap();
    assert_eq!(ran.len(), 2, "{ran:?}");
    assert!((at..at + 10_000).contains(&ran[1]), "{ran:?}");
}

#[test]
fn urgent_requests_are_not_waited_for_in_batches() {
    let config = SimConfig { completion_batch: 8, settle_us: 0, ..SimConfig::default() };
    let mut sim = Simulation::new(6, &config);
    let tickets: Vec<_> = (0..32)
        .map(|n| {
            let request = Request::read(DISK, n * 512, sim.buffer(512).unwrap());
            sim.submit(request.with_priority(Priority::HighRead)).unwrap()
        })
        .collect();
    sim.keep_trace();
    sim.run();
    assert!(tickets.iter().all(|ticket| ticket.is_done()));
    let slept = |(_, event): &&(u64, Event)| matches!(event, Event::Turn { slept: true, .. });
    let sleeps = sim.trace_events(0).iter().filter(slept).count();
    // In batches of 8 there would be 18: two batches, then 16 by themselves.
    assert!(sleeps > 22, "{sleeps} sleeps for 32 urgent completions");
}

/// Submits until it is refused, again and again, and notes how many were taken each time.
struct Greedy {
    rounds: Arc<Mutex<Vec<u64>>>,
    outstanding: u64,
}

impl LocalTask for Greedy {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        let mut taken = 0;
        loop {
            let discard = Request::discard(DISK, taken * 4096, 4096);
            match io.submit(taken, discard.with_priority(Priority::Critical)) {
                Ok(()) => taken += 1,
                Err(LocalRefusal::QueueFull(_)) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        let mut rounds = self.rounds.lock().unwrap();
        rounds.push(taken);
        self.outstanding = taken;
        if rounds.len() < 6 { TaskState::Idle } else { TaskState::Done }
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        self.outstanding -= 1;
        let done = self.rounds.lock().unwrap().len() == 6;
        (self.outstanding == 0 && !done).then_some(TaskState::RunAgain)
    }
}

#[test]
fn a_local_task_is_refused_exactly_at_its_watermark() {
    let (depth, queue_max) = (Some(2), Some(5));
    let scheduler = SchedulerConfig { depth, queue_max, ..SchedulerConfig::default() };
    let mut sim = Simulation::new(9, &SimConfig { scheduler, ..SimConfig::default() });
    sim.with_faults(DISK, |faults| faults.rates.errno = 300_000);
    let rounds = Arc::new(Mutex::new(Vec::new()));
    sim.spawn_local(0, Box::new(Greedy { rounds: Arc::clone(&rounds), outstanding: 0 }));
    sim.run();
    assert_eq!(*rounds.lock().unwrap(), [5; 6], "places are given back, neither lost nor invented");
}
