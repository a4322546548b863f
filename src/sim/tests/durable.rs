//! Durable writes: what a `WriteFlush` and a `WriteDsync` promise, and what they say when they
//! cannot. Each rule is held with the flush chained to its write and without.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::io::error::{ATTEMPTS_MAX, ErrorKind, IoError, known_errnos};
use crate::io::op::{Completion, DiskId, OpKind, Priority, Request};
use crate::memory::BufferList;
use crate::reactor::local::{LocalIo, LocalTask, TaskState};
use crate::sim::disk::SimDisk;
use crate::sim::fault::{Fault, FaultRule};
use crate::sim::trace::Event;
use crate::sim::world::passing;
use crate::sim::{Random, SimConfig, Simulation};

const DISK: DiskId = DiskId(0);
const OFFSET: u64 = 4096;
const LEN: u64 = 8192;

/// A world of each kind of ring, with these faults.
fn worlds(seed: u64, rules: &[FaultRule]) -> [Simulation; 2] {
    [true, false].map(|chains| {
        let mut sim = Simulation::new(seed, &SimConfig { chains, ..SimConfig::default() });
        sim.keep_trace();
        sim.with_faults(DISK, |faults| faults.rules = rules.to_vec());
        sim
    })
}

fn filled(sim: &Simulation, bytes: u64, byte: u8) -> crate::memory::DmaBuf {
    let mut buffer = sim.buffer(bytes as usize).unwrap();
    buffer.fill(byte);
    buffer
}

fn write_flush(sim: &Simulation) -> Request {
    Request::write_flush(DISK, OFFSET, filled(sim, LEN, 7))
}

fn run(sim: &mut Simulation, request: Request) -> Completion {
    let ticket = sim.submit(request).unwrap();
    sim.run();
    ticket.try_take().expect("it has completed")
}

/// A local task that makes one request.
struct Once {
    request: Option<Request>,
    completion: Arc<Mutex<Option<Completion>>>,
}

impl LocalTask for Once {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        if let Some(request) = self.request.take() {
            io.submit(0, request).unwrap();
        }
        TaskState::Done
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, done: Completion) -> Option<TaskState> {
        *self.completion.lock().unwrap() = Some(done);
        None
    }
}

fn run_locally(sim: &mut Simulation, request: Request) -> Option<Completion> {
    let completion = Arc::default();
    let task = Once { request: Some(request), completion: Arc::clone(&completion) };
    sim.spawn_local(0, Box::new(task));
    sim.run();
    completion.lock().unwrap().take()
}

/// Its error; its buffer came back.
fn failure(sim: &mut Simulation, request: Request) -> IoError {
    let (result, buffer) = run(sim, request).into_parts();
    assert_eq!(buffer.expect("a failed request gives its buffer back").len() as u64, LEN);
    *result.expect_err("it fails")
}

/// Kind, offset and length of every attempt.
fn attempts(sim: &Simulation) -> Vec<(OpKind, u64, u64)> {
    let dispatches = sim.trace_events(0).into_iter().filter_map(|(_, event)| match event {
        Event::Dispatch { kind, offset, len, .. } => Some((kind, offset, len)),
        _ => None,
    });
    dispatches.collect()
}

fn kinds(sim: &Simulation) -> Vec<OpKind> {
    attempts(sim).into_iter().map(|(kind, ..)| kind).collect()
}

/// First bytes of a sector after crashes of copies of the disk.
fn after_crashes(disk: &SimDisk, offset: u64) -> BTreeSet<u8> {
    let seen = (0..64).map(|seed| {
        let mut disk = disk.clone();
        disk.crash(&mut Random::new(seed));
        disk.read(offset, 512)[0]
    });
    seen.collect()
}

fn disk_of(sim: &mut Simulation) -> SimDisk {
    sim.with_disk(DISK, |disk| disk.clone())
}

#[test]
fn a_write_and_flush_is_durable_and_covers_what_was_completed_before() {
    for mut sim in worlds(1, &[]) {
        let before = Request::write(DISK, 0, filled(&sim, 512, 3));
        run(&mut sim, before).result.unwrap();
        let request = write_flush(&sim);
        assert_eq!(request.priority, Priority::Critical);
        let Completion { result, buffers, .. } = run(&mut sim, request);
        assert_eq!((result.unwrap(), buffers.into_one().unwrap().len() as u64), (LEN, LEN));
        let disk = disk_of(&mut sim);
        assert_eq!(disk.uncovered_sectors(), 0);
        let durable = disk.candidates(OFFSET + LEN - 512);
        assert_eq!((durable.len(), durable[0][0]), (1, 7));
        assert_eq!(after_crashes(&disk, 0), BTreeSet::from([3]));
        let halves = [(OpKind::Write, OFFSET, LEN), (OpKind::Flush, 0, 0)];
        assert_eq!(attempts(&sim)[1..], halves);
        let metrics = sim.metrics();
        assert_eq!((metrics.disks[0].flushes, metrics.disks[0].dsync_writes), (1, 0));
        assert_eq!(metrics.disks[0].class(Priority::Critical).bytes, LEN);
        assert_eq!(metrics.reactors[0].late, 0);
    }
}

/// The short way of local tasks' completions must not take a write half for the whole.
#[test]
fn a_local_task_is_told_after_both_halves() {
    for class in Priority::ALL {
        for mut sim in worlds(1, &[]) {
            let request = write_flush(&sim).with_priority(class);
            assert_eq!(run_locally(&mut sim, request).unwrap().result.unwrap(), LEN);
            assert_eq!(disk_of(&mut sim).uncovered_sectors(), 0);
            assert_eq!(kinds(&sim), [OpKind::Write, OpKind::Flush]);
            let request = Request::write_dsync(DISK, 0, filled(&sim, LEN, 7)).with_priority(class);
            assert_eq!(run_locally(&mut sim, request).unwrap().result.unwrap(), LEN);
            assert_eq!(sim.metrics().disks[0].dsync_writes, 1);
        }
    }
    for mut sim in worlds(1, &[FaultRule::every(OpKind::Flush, Fault::Hang)]) {
        let request = write_flush(&sim);
        assert!(run_locally(&mut sim, request).is_none());
    }
    for mut sim in worlds(1, &[FaultRule::every(OpKind::Flush, Fault::Errno(libc::EIO))]) {
        let request = write_flush(&sim);
        let error = run_locally(&mut sim, request).unwrap().result.unwrap_err();
        assert_eq!((error.kind, error.op), (ErrorKind::Media, OpKind::Flush));
    }
}

#[test]
fn the_flush_is_submitted_when_the_write_has_completed_and_not_before() {
    for seed in 0..32 {
        for mut sim in worlds(seed, &[]) {
            let request = write_flush(&sim);
            run(&mut sim, request).result.unwrap();
            let at = |wanted: &dyn Fn(&Event) -> bool| {
                let mut events = sim.trace_events(0).into_iter();
                events.position(|(_, event)| wanted(&event)).unwrap()
            };
            let written = at(&|event| matches!(event, Event::Complete { kind: OpKind::Write, .. }));
            let flushing =
                at(&|event| matches!(event, Event::Dispatch { kind: OpKind::Flush, .. }));
            assert!(written < flushing, "seed {seed}");
        }
    }
}

#[test]
fn a_crash_between_the_halves_leaves_old_or_new() {
    for mut sim in worlds(2, &[FaultRule::every(OpKind::Flush, Fault::Hang)]) {
        let request = write_flush(&sim);
        let ticket = sim.submit(request).unwrap();
        sim.run();
        assert_eq!(kinds(&sim), [OpKind::Write, OpKind::Flush]);
        assert!(ticket.try_take().is_err(), "it is not done while its flush is not");
        let disk = disk_of(&mut sim);
        for offset in [OFFSET, OFFSET + LEN - 512] {
            assert_eq!(after_crashes(&disk, offset), BTreeSet::from([0, 7]));
        }
    }
}

#[test]
fn a_write_completed_after_the_write_half_is_not_covered() {
    // The flush takes long; the other write completes while it is at the device.
    for mut sim in worlds(3, &[FaultRule::every(OpKind::Flush, Fault::Slow(50_000_000))]) {
        let request = write_flush(&sim);
        let ticket = sim.submit(request).unwrap();
        let flushing = |sim: &mut Simulation| kinds(sim).contains(&OpKind::Flush);
        sim.run_until(u64::MAX, flushing);
        let late = Request::write(DISK, 0, filled(&sim, 512, 9));
        run(&mut sim, late).result.unwrap();
        ticket.try_take().expect("it has completed").result.unwrap();
        let disk = disk_of(&mut sim);
        assert_eq!(after_crashes(&disk, OFFSET), BTreeSet::from([7]));
        assert_eq!(after_crashes(&disk, 0), BTreeSet::from([0, 9]));
    }
}

#[test]
fn a_failed_flush_half_is_told_as_such_once_and_keeps_some_sectors() {
    let mut kept = BTreeSet::new();
    for seed in 0..32 {
        for mut sim in worlds(seed, &[FaultRule::nth(OpKind::Flush, 0, Fault::Errno(libc::EIO))]) {
            let request = write_flush(&sim);
            let error = failure(&mut sim, request);
            let told = (error.kind, error.op, error.errno, error.found);
            assert_eq!(told, (ErrorKind::Media, OpKind::Flush, Some(libc::EIO), LEN));
            assert_eq!(kinds(&sim), [OpKind::Write, OpKind::Flush], "it is not tried again");
            assert_eq!(sim.metrics().disks[0].flushes, 1);
            let disk = disk_of(&mut sim);
            assert_eq!(disk.uncovered_sectors(), 0, "what was dropped is gone from the cache");
            kept.insert(disk.read(OFFSET, LEN).chunks(512).filter(|s| s[0] == 7).count());
        }
    }
    assert!(kept.len() > 3, "a failed flush drops any of them: {kept:?}");
}

#[test]
fn a_failed_write_half_is_told_as_such_and_nothing_is_flushed() {
    let faults = [
        (Fault::Errno(libc::EIO), ErrorKind::Media, Some(libc::EIO)),
        (Fault::Errno(libc::ENOSPC), ErrorKind::DeviceGone, Some(libc::ENOSPC)),
        // A result of 0 is a success of a flush, not of a write.
        (Fault::Zero, ErrorKind::DeviceGone, None),
        (Fault::Short(100), ErrorKind::DeviceGone, None),
    ];
    for (fault, kind, errno) in faults {
        for mut sim in worlds(4, &[FaultRule::every(OpKind::Write, fault)]) {
            let request = write_flush(&sim);
            let error = failure(&mut sim, request);
            assert_eq!((error.kind, error.op, error.errno), (kind, OpKind::Write, errno));
            assert_eq!((error.offset, error.expected), (OFFSET, LEN));
            assert_eq!(kinds(&sim), [OpKind::Write], "{fault:?}");
            assert_eq!(sim.metrics().disks[0].flushes, 0);
        }
    }
}

#[test]
fn a_short_write_half_goes_on_to_its_end_before_the_flush() {
    for bytes in [512, 700, 4608, LEN - 1] {
        for mut sim in worlds(5, &[FaultRule::every(OpKind::Write, Fault::Short(bytes))]) {
            let request = write_flush(&sim);
            assert_eq!(run(&mut sim, request).result.unwrap(), LEN);
            let step = bytes / 512 * 512;
            let writes = (0..LEN).step_by(step as usize);
            let mut expected: Vec<(OpKind, u64, u64)> =
                writes.map(|at| (OpKind::Write, OFFSET + at, LEN - at)).collect();
            expected.push((OpKind::Flush, 0, 0));
            assert_eq!(attempts(&sim), expected, "short by {bytes}");
            let disk = disk_of(&mut sim);
            assert_eq!((disk.uncovered_sectors(), disk.read(OFFSET, LEN)), (0, vec![7; 8192]));
        }
    }
}

#[test]
fn a_short_vectored_write_half_goes_on_inside_a_buffer() {
    for mut sim in worlds(6, &[FaultRule::every(OpKind::Write, Fault::Short(6000))]) {
        let buffers: Vec<_> = (1..=4u8).map(|n| filled(&sim, 4096 * u64::from(n), n)).collect();
        let list = Box::new(BufferList::new(buffers));
        let expected: Vec<u8> =
            list.buffers().iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let done = run(&mut sim, Request::write_flush_vectored(DISK, OFFSET, list));
        assert_eq!(done.result.unwrap(), 40_960);
        let disk = disk_of(&mut sim);
        assert_eq!((disk.uncovered_sectors(), disk.read(OFFSET, 40_960)), (0, expected));
    }
}

#[test]
fn a_passing_error_is_tried_again_for_the_write_and_never_for_the_flush() {
    for errno in known_errnos().filter(|errno| passing(*errno)) {
        let fault = Fault::Errno(errno);
        let thrice = FaultRule { times: 3, ..FaultRule::every(OpKind::Write, fault) };
        for mut sim in worlds(7, std::slice::from_ref(&thrice)) {
            let request = write_flush(&sim);
            assert_eq!(run(&mut sim, request).result.unwrap(), LEN);
            let four = [OpKind::Write; 4];
            assert_eq!(kinds(&sim), [&four[..], &[OpKind::Flush]].concat());
        }
        for mut sim in worlds(7, &[FaultRule::every(OpKind::Write, fault)]) {
            let request = write_flush(&sim);
            let error = failure(&mut sim, request);
            assert_eq!((error.kind, error.op), (ErrorKind::Busy, OpKind::Write));
            assert_eq!(kinds(&sim), vec![OpKind::Write; usize::from(ATTEMPTS_MAX) + 1]);
        }
        for mut sim in worlds(7, &[FaultRule::nth(OpKind::Flush, 0, fault)]) {
            let request = write_flush(&sim);
            let error = failure(&mut sim, request);
            assert_eq!((error.kind, error.op), (ErrorKind::Busy, OpKind::Flush));
            assert_eq!(kinds(&sim), [OpKind::Write, OpKind::Flush]);
        }
    }
}

#[test]
fn a_durable_write_is_never_split() {
    for class in Priority::ALL {
        for mut sim in worlds(8, &[]) {
            let chained = Request::write_flush(DISK, 0, filled(&sim, 2 << 20, 1));
            assert_eq!(run(&mut sim, chained.with_priority(class)).result.unwrap(), 2 << 20);
            let forced = Request::write_dsync(DISK, 0, filled(&sim, 2 << 20, 1));
            assert_eq!(run(&mut sim, forced.with_priority(class)).result.unwrap(), 2 << 20);
            assert_eq!(kinds(&sim), [OpKind::Write, OpKind::Flush, OpKind::WriteDsync]);
        }
    }
}

#[test]
fn a_hand_over_without_room_for_a_chain_does_without() {
    for sq_entries in [1, 2, 3, 5] {
        let config = SimConfig { sq_entries, enter_refusals: 200_000, ..SimConfig::default() };
        let mut sim = Simulation::new(9, &config);
        let tickets: Vec<_> = (0..24u64)
            .map(|n| {
                let buffer = filled(&sim, 512, n as u8 + 1);
                sim.submit(Request::write_flush(DISK, n * 512, buffer)).unwrap()
            })
            .collect();
        sim.run();
        for ticket in tickets {
            assert_eq!(ticket.try_take().expect("it has completed").result.unwrap(), 512);
        }
        assert_eq!(disk_of(&mut sim).uncovered_sectors(), 0);
        assert_eq!(sim.metrics().disks[0].flushes, 24);
    }
}

#[test]
fn a_dsync_write_is_durable_and_covers_itself_alone() {
    for mut sim in worlds(10, &[]) {
        let before = Request::write(DISK, 0, filled(&sim, LEN, 3));
        run(&mut sim, before).result.unwrap();
        let request = Request::write_dsync(DISK, OFFSET, filled(&sim, LEN, 7));
        assert_eq!(run(&mut sim, request).result.unwrap(), LEN);
        let disk = disk_of(&mut sim);
        assert_eq!(after_crashes(&disk, 0), BTreeSet::from([0, 3]));
        assert_eq!(after_crashes(&disk, OFFSET), BTreeSet::from([7]), "older versions are gone");
        assert_eq!(disk.candidates(OFFSET).len(), 1);
        assert_eq!(disk.uncovered_sectors(), 8);
        let metrics = sim.metrics();
        assert_eq!((metrics.disks[0].flushes, metrics.disks[0].dsync_writes), (0, 1));
    }
}

#[test]
fn a_dsync_write_meets_the_faults_of_writes() {
    for mut sim in worlds(11, &[FaultRule::every(OpKind::Write, Fault::Short(512))]) {
        let request = Request::write_dsync(DISK, OFFSET, filled(&sim, LEN, 7));
        assert_eq!(run(&mut sim, request).result.unwrap(), LEN);
        assert_eq!(kinds(&sim), [OpKind::WriteDsync; 16]);
        assert_eq!(disk_of(&mut sim).uncovered_sectors(), 0, "each part is durable by itself");
    }
    for mut sim in worlds(11, &[FaultRule::every(OpKind::Write, Fault::Errno(libc::EIO))]) {
        let request = Request::write_dsync(DISK, OFFSET, filled(&sim, LEN, 7));
        let error = failure(&mut sim, request);
        assert_eq!((error.kind, error.op), (ErrorKind::Media, OpKind::WriteDsync));
    }
}

#[test]
fn what_is_given_up_on_names_the_whole() {
    for kind in [OpKind::Write, OpKind::Flush] {
        for mut sim in worlds(12, &[FaultRule::every(kind, Fault::Hang)]) {
            let request = write_flush(&sim);
            let ticket = sim.submit(request).unwrap();
            sim.run();
            let report = sim.close(1_000_000).unwrap_err();
            assert_eq!(report.stuck[0].operations, 1);
            let error = ticket.try_take().expect("it was told").result.unwrap_err();
            assert_eq!((error.kind, error.op), (ErrorKind::Abandoned, OpKind::WriteFlush));
        }
    }
}

#[test]
fn a_close_waits_for_both_halves() {
    for mut sim in worlds(13, &[]) {
        let request = write_flush(&sim);
        let ticket = sim.submit(request).unwrap();
        sim.run_until(u64::MAX, |sim| kinds(sim).contains(&OpKind::Write));
        sim.close(1_000_000_000).unwrap();
        assert_eq!(ticket.try_take().expect("it has completed").result.unwrap(), LEN);
        assert_eq!(disk_of(&mut sim).uncovered_sectors(), 0);
    }
}
