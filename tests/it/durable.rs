//! Durable writes on the real kernel: what a chain of a write and an fdatasync answers when it is
//! done, when its write fails, and when its write ends short.

use std::path::Path;

use dynamicfs::{
    BufferList, Completion, DiskId, DmaBuf, ErrorKind, IoError, IoScheduler, OpKind, Priority,
    Request,
};

use crate::rig::{
    HANG, LoopDevice, Scratch, alongside, assert_buffers_are_back, config, disk, filled, open,
    settle, skipped,
};

const DISK: DiskId = DiskId(0);
const MIB: u64 = 1 << 20;

fn run(engine: &IoScheduler, request: Request) -> Completion {
    settle(engine.submit_wait(request, None).unwrap())
}

/// Its error; its buffer came back.
fn failure(engine: &IoScheduler, request: Request) -> IoError {
    let len = request.len as usize;
    let (result, buffer) = run(engine, request).into_parts();
    assert_eq!(buffer.expect("a failed write gives its buffer back").len(), len);
    *result.expect_err("it goes past the end")
}

fn bytes_at(engine: &IoScheduler, offset: u64, bytes: usize) -> DmaBuf {
    let read = Request::read(DISK, offset, filled(engine, bytes, 0xee));
    let (result, buffer) = run(engine, read).into_parts();
    result.unwrap();
    buffer.unwrap()
}

fn flushes(engine: &IoScheduler) -> u64 {
    engine.metrics().disks[0].flushes
}

fn late(engine: &IoScheduler) -> u64 {
    engine.metrics().reactors.iter().map(|reactor| reactor.late).sum()
}

fn durable_writes_round_trip(path: &Path, chains: bool) {
    let engine = open(&config(vec![disk(path)]));
    let first = Request::write_flush(DISK, 0, filled(&engine, 4096, 1));
    assert_eq!(first.priority, Priority::Critical);
    assert_eq!(run(&engine, first).result.unwrap(), 4096);
    let large = Request::write_flush(DISK, MIB, filled(&engine, 3 << 20, 2));
    assert_eq!(run(&engine, large).result.unwrap(), 3 << 20);
    let buffers = [4096, 64 << 10, 8192].map(|bytes| filled(&engine, bytes, 3));
    let list = Box::new(BufferList::new(buffers.into()));
    let vectored = Request::write_flush_vectored(DISK, 5 * MIB, list);
    assert_eq!(run(&engine, vectored).result.unwrap(), (64 << 10) + 12_288);
    assert_eq!(flushes(&engine), 3);
    let forced = Request::write_dsync(DISK, 6 * MIB, filled(&engine, 8192, 4));
    assert_eq!(run(&engine, forced).result.unwrap(), 8192);
    let buffers = [4096, 4096].map(|bytes| filled(&engine, bytes, 5));
    let list = Box::new(BufferList::new(buffers.into()));
    let forced = Request::write_dsync_vectored(DISK, 7 * MIB, list);
    assert_eq!(run(&engine, forced).result.unwrap(), 8192);
    run(&engine, Request::flush(DISK)).result.unwrap();
    let metrics = engine.metrics();
    assert_eq!((metrics.disks[0].flushes, metrics.disks[0].dsync_writes), (4, 2));
    for (offset, byte) in [(0, 1), (4 * MIB - 4096, 2), (5 * MIB + 4096, 3), (6 * MIB, 4)] {
        assert!(bytes_at(&engine, offset, 4096).iter().all(|found| *found == byte));
    }
    // A chain is two entries of one hand-over and one completion.
    let before = engine.metrics().reactors[0];
    let tickets: Vec<_> = (0..64)
        .map(|n| Request::write_flush(DISK, n * 4096, filled(&engine, 4096, 9)))
        .map(|request| engine.submit_wait(request, None).unwrap())
        .collect();
    tickets.into_iter().for_each(|ticket| assert_eq!(settle(ticket).result.unwrap(), 4096));
    let after = engine.metrics().reactors[0];
    if chains {
        assert_eq!(after.submitted - before.submitted, 64);
    }
    assert_eq!((flushes(&engine), late(&engine)), (4 + 64, 0));
    assert_buffers_are_back(&engine);
    engine.close(HANG).unwrap();
}

/// Whether this kernel's rings do chains.
fn chains(path: &Path) -> bool {
    let engine = open(&config(vec![disk(path)]));
    let chains = engine.status().reactors[0].ring.chains;
    if !chains {
        skipped("this kernel chains nothing: only the way without is tested");
    }
    chains
}

#[test]
fn durable_writes_round_trip_on_a_file() {
    let _process = alongside();
    let scratch = Scratch::new();
    let file = scratch.file("disk", 8 * MIB);
    durable_writes_round_trip(&file, chains(&file));
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes[5 << 20..(5 << 20) + 4096].iter().all(|byte| *byte == 3));
}

#[test]
fn durable_writes_round_trip_on_a_block_device() {
    let _process = alongside();
    let scratch = Scratch::new();
    let Some(device) = LoopDevice::over(&scratch.file("disk", 8 * MIB)) else { return };
    durable_writes_round_trip(device.path(), chains(device.path()));
}

/// The kernel ends a write that crosses the end of a device there, and refuses one behind it.
#[test]
fn a_chain_whose_write_is_short_or_refused_breaks_and_says_so() {
    let _process = alongside();
    let scratch = Scratch::new();
    let path = scratch.file("disk", 8 * MIB);
    let Some(device) = LoopDevice::over(&path) else { return };
    let engine = open(&config(vec![disk(device.path())]));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(MIB).unwrap();
    if !device.take_size_of_file() {
        return skipped("losetup cannot change a capacity");
    }
    for round in 1..=32 {
        let refused =
            failure(&engine, Request::write_flush(DISK, 2 * MIB, filled(&engine, 4096, 1)));
        assert_eq!((refused.kind, refused.op), (ErrorKind::DeviceGone, OpKind::Write));
        assert_eq!((refused.found, refused.errno), (0, Some(libc_enospc())));
        let short = failure(
            &engine,
            Request::write_flush(DISK, MIB - 8192, filled(&engine, 65_536, round)),
        );
        assert_eq!((short.kind, short.op), (ErrorKind::DeviceGone, OpKind::Write));
        assert_eq!((short.found, short.errno), (8192, Some(libc_enospc())));
        assert_eq!(flushes(&engine), 0, "no flush runs after a write that is not whole");
        let written = bytes_at(&engine, MIB - 8192, 8192);
        assert!(written.iter().all(|byte| *byte == round), "the part that fits is written");
        let forced =
            failure(&engine, Request::write_dsync(DISK, 2 * MIB, filled(&engine, 4096, 1)));
        assert_eq!((forced.kind, forced.op), (ErrorKind::DeviceGone, OpKind::WriteDsync));
    }
    // What is inside still works.
    let inside = Request::write_flush(DISK, 0, filled(&engine, 4096, 1));
    assert_eq!(run(&engine, inside).result.unwrap(), 4096);
    assert_eq!((flushes(&engine), late(&engine)), (1, 0));
    assert_buffers_are_back(&engine);
    engine.close(HANG).unwrap();
}

fn libc_enospc() -> i32 {
    nix::libc::ENOSPC
}
