//! What is written is read, on a file and on a block device; what cannot be done comes back.

use std::path::Path;

use dynamicfs::engine::config::DiskAccess;
use dynamicfs::io::op::InvalidRequest;
use dynamicfs::{
    BufferList, Buffers, DiskConfig, DiskId, IoScheduler, OpKind, Priority, Request, SubmitError,
};

use crate::rig::{
    LoopDevice, Scratch, alongside, assert_buffers_are_back, config, disk, filled, nop_disk, open,
    settle,
};

const DISK: DiskId = DiskId(0);
const MIB: u64 = 1 << 20;

fn write(engine: &IoScheduler, offset: u64, bytes: usize, byte: u8) {
    let completion =
        settle(engine.write(DISK, Priority::Write, offset, filled(engine, bytes, byte)).unwrap());
    let (result, buffer) = completion.into_parts();
    assert_eq!(result.unwrap(), bytes as u64);
    assert_eq!(buffer.unwrap().len(), bytes, "the buffer comes back");
}

fn assert_reads(engine: &IoScheduler, offset: u64, bytes: usize, byte: u8) {
    let buffer = filled(engine, bytes, !byte);
    let completion = settle(engine.read(DISK, Priority::NormalRead, offset, buffer).unwrap());
    let (result, buffer) = completion.into_parts();
    assert_eq!(result.unwrap(), bytes as u64);
    let wrong = buffer.unwrap().iter().position(|found| *found != byte);
    assert_eq!(wrong, None, "at offset {offset}: expected {byte}");
}

/// Buffers of these lengths, each filled with its position.
fn list(engine: &IoScheduler, lengths: &[usize], mark: impl Fn(usize) -> u8) -> Box<BufferList> {
    let buffers = lengths.iter().enumerate().map(|(n, bytes)| filled(engine, *bytes, mark(n)));
    Box::new(BufferList::new(buffers.collect()))
}

fn vectored_round_trip(engine: &IoScheduler, offset: u64, lengths: &[usize]) {
    let total: usize = lengths.iter().sum();
    let mark = |n: usize| n as u8;
    let wrote = settle(engine.write_vectored(DISK, offset, list(engine, lengths, mark)).unwrap());
    assert_eq!(wrote.result.unwrap(), total as u64);
    let read = settle(engine.read_vectored(DISK, offset, list(engine, lengths, |_| 0)).unwrap());
    assert_eq!(read.result.unwrap(), total as u64);
    let Buffers::Many(list) = read.buffers else { panic!("the list comes back") };
    for (n, buffer) in list.buffers().iter().enumerate() {
        assert!(buffer.iter().all(|byte| *byte == mark(n)), "buffer {n} of {lengths:?}");
    }
}

fn everything_round_trips(path: &Path) {
    let engine = open(&config(vec![disk(path)]));
    // Below, at and above what is split into pieces.
    for (n, bytes) in [4096, 64 << 10, 128 << 10, 132 << 10, 3 << 20].into_iter().enumerate() {
        let (offset, byte) = (n as u64 * 4 * MIB, 0x11 * (n as u8 + 1));
        write(&engine, offset, bytes, byte);
        assert_reads(&engine, offset, bytes, byte);
    }
    vectored_round_trip(&engine, 24 * MIB, &[4096, 8192, 64 << 10, 4096]);
    vectored_round_trip(&engine, 24 * MIB, &[256 << 10, 4096, 128 << 10, 1 << 20]);
    vectored_round_trip(&engine, 24 * MIB, &[4096; 300]);
    assert_eq!(settle(engine.flush(DISK).unwrap()).result.unwrap(), 0);
    write(&engine, 28 * MIB, 1 << 20, 0x77);
    let zeroed = settle(engine.write_zeroes(DISK, 28 * MIB + 4096, 256 << 10).unwrap());
    assert_eq!(zeroed.result.unwrap(), 256 << 10);
    assert_reads(&engine, 28 * MIB, 4096, 0x77);
    assert_reads(&engine, 28 * MIB + 4096, 256 << 10, 0);
    assert_reads(&engine, 28 * MIB + 4096 + (256 << 10), 4096, 0x77);
    let discarded = settle(engine.discard(DISK, 28 * MIB + (512 << 10), 256 << 10).unwrap());
    assert_eq!(discarded.result.unwrap(), 256 << 10);
    assert_reads(&engine, 28 * MIB + (768 << 10), 256 << 10, 0x77);
    assert_buffers_are_back(&engine);
    engine.close(crate::rig::HANG).unwrap();
}

#[test]
fn everything_round_trips_on_a_file() {
    let _process = alongside();
    let scratch = Scratch::new();
    let file = scratch.file("disk", 32 * MIB);
    everything_round_trips(&file);
    // The bytes are in the file, not only in the engine.
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes[..4096].iter().all(|byte| *byte == 0x11));
    assert!(bytes[16 << 20..19 << 20].iter().all(|byte| *byte == 0x55));
}

#[test]
fn everything_round_trips_on_a_block_device() {
    let _process = alongside();
    let scratch = Scratch::new();
    let Some(device) = LoopDevice::over(&scratch.file("disk", 32 * MIB)) else { return };
    everything_round_trips(device.path());
}

#[test]
fn a_nop_disk_takes_every_kind_of_request() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    write(&engine, 0, 1 << 20, 1);
    let read = engine.read(DISK, Priority::Critical, 4096, filled(&engine, 8192, 3));
    assert_eq!(settle(read.unwrap()).result.unwrap(), 8192);
    let durable = [
        Request::write_flush(DISK, 0, filled(&engine, 8192, 1)),
        Request::write_dsync(DISK, 0, filled(&engine, 8192, 1)),
    ];
    for request in durable {
        assert_eq!(settle(engine.submit(request).unwrap()).result.unwrap(), 8192);
    }
    for ticket in [engine.flush(DISK), engine.discard(DISK, 0, 4096)] {
        settle(ticket.unwrap()).result.unwrap();
    }
    settle(engine.write_zeroes(DISK, 0, MIB).unwrap()).result.unwrap();
    assert_buffers_are_back(&engine);
}

#[test]
fn a_batch_goes_to_every_disk_and_stops_at_the_first_refusal() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk(), nop_disk(), nop_disk()]));
    let request = |n: u64| {
        let offset = if n == 40 { 1 } else { n * 4096 };
        Request::read(DiskId(n as u16 % 3), offset, engine.buffer(4096).unwrap())
    };
    let (mut requests, mut tickets) = ((0..64).map(request), Vec::new());
    let refused = engine.submit_many(&mut requests, &mut tickets).unwrap_err();
    assert!(matches!(&refused, SubmitError::Invalid(back, _) if back.offset == 1), "{refused}");
    assert_eq!((tickets.len(), requests.count()), (40, 23), "those behind it were not taken");
    tickets.into_iter().for_each(|ticket| assert_eq!(settle(ticket).result.unwrap(), 4096));
    drop(refused);
    assert_buffers_are_back(&engine);
}

#[test]
fn malformed_requests_are_refused_with_their_buffers() {
    let _process = alongside();
    let scratch = Scratch::new();
    let engine = open(&config(vec![disk(&scratch.file("disk", MIB))]));
    let bytes = |bytes| engine.buffer(bytes).unwrap();
    let unaligned = |why: &InvalidRequest| matches!(why, InvalidRequest::Unaligned { .. });
    let outside = |why: &InvalidRequest| matches!(why, InvalidRequest::OutOfRange { .. });
    let misfit = |why: &InvalidRequest| matches!(why, InvalidRequest::Buffers { .. });
    let nowhere = |why: &InvalidRequest| matches!(why, InvalidRequest::NoSuchDisk { .. });
    type Check<'a> = &'a dyn Fn(&InvalidRequest) -> bool;
    let longer = Request { len: 8192, ..Request::read(DISK, 0, bytes(4096)) };
    let with_buffer = Request { buffers: Buffers::One(bytes(4096)), ..Request::flush(DISK) };
    let without = Request { buffers: Buffers::None, ..Request::read(DISK, 0, bytes(4096)) };
    let no_memory = |kind| Request {
        buffers: Buffers::None,
        ..Request { kind, ..Request::discard(DISK, 0, 4096) }
    };
    let empty_list = Box::new(BufferList::new(Vec::new()));
    let rows: Vec<(&str, Request, Check<'_>)> = vec![
        ("odd offset", Request::read(DISK, 100, bytes(4096)), &unaligned),
        ("odd length", Request::write(DISK, 0, bytes(4095)), &unaligned),
        ("behind the end", Request::read(DISK, MIB, bytes(4096)), &outside),
        ("across the end", Request::read(DISK, MIB - 4096, bytes(8192)), &outside),
        ("end overflows", Request::read(DISK, u64::MAX - 4095, bytes(4096)), &outside),
        ("discard behind the end", Request::discard(DISK, 0, 2 * MIB), &outside),
        ("no disk", Request::read(DiskId(7), 0, bytes(4096)), &nowhere),
        ("longer than its buffer", longer, &misfit),
        ("flush with a buffer", with_buffer, &misfit),
        ("read without a buffer", without, &misfit),
        ("durable without", no_memory(OpKind::WriteFlush), &misfit),
        ("forced without", no_memory(OpKind::WriteDsync), &misfit),
        ("odd durable length", Request::write_flush(DISK, 0, bytes(4095)), &unaligned),
        ("empty durable write", Request::write_dsync(DISK, 0, bytes(0)), &misfit),
        ("empty buffer", Request::read(DISK, 0, bytes(0)), &misfit),
        ("empty list", Request::read_vectored(DISK, 0, empty_list), &misfit),
        ("discard of nothing", Request::discard(DISK, 0, 0), &misfit),
    ];
    for (name, request, expected) in rows {
        let (kind, offset, has_buffer) =
            (request.kind, request.offset, matches!(request.buffers, Buffers::One(_)));
        match engine.submit(request) {
            Err(SubmitError::Invalid(back, why)) => {
                assert!(expected(&why), "{name}: {why}");
                assert_eq!((back.kind, back.offset), (kind, offset), "{name}");
                assert_eq!(matches!(back.buffers, Buffers::One(_)), has_buffer, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_buffers_are_back(&engine);
}

#[test]
fn a_disk_opened_for_reading_refuses_changes() {
    let _process = alongside();
    let scratch = Scratch::new();
    let path = scratch.file("disk", MIB);
    let disk = DiskConfig { access: DiskAccess::ReadOnly, ..disk(&path) };
    let engine = open(&config(vec![disk]));
    assert_reads(&engine, 0, 8192, 0);
    let changes = [
        Request::write(DISK, 0, engine.buffer(4096).unwrap()),
        Request::write_flush(DISK, 0, engine.buffer(4096).unwrap()),
        Request::write_dsync(DISK, 0, engine.buffer(4096).unwrap()),
        Request::discard(DISK, 0, 4096),
        Request::write_zeroes(DISK, 0, 4096),
    ];
    for request in changes {
        let kind = request.kind;
        match engine.submit(request) {
            Err(SubmitError::Invalid(back, InvalidRequest::ReadOnly { .. })) => {
                assert_eq!(matches!(back.buffers, Buffers::One(_)), kind.moves_data());
            }
            other => panic!("{kind:?}: {other:?}"),
        }
    }
    assert_buffers_are_back(&engine);
}
