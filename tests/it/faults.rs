//! A disk that shrinks or goes away under the engine: errors with buffers, and no hang.

use dynamicfs::{DiskId, ErrorKind, IoScheduler, Priority, Ticket};

use crate::rig::{
    HANG, LoopDevice, Scratch, alongside, assert_buffers_are_back, config, disk, filled, open,
    settle,
};

const DISK: DiskId = DiskId(0);
const MIB: u64 = 1 << 20;

/// The error of a read, which gives its buffer back.
fn read_error(engine: &IoScheduler, offset: u64, bytes: usize) -> dynamicfs::IoError {
    let ticket = engine.read(DISK, Priority::NormalRead, offset, filled(engine, bytes, 9)).unwrap();
    let (result, buffer) = settle(ticket).into_parts();
    assert_eq!(buffer.expect("a failed read gives its buffer back").len(), bytes);
    *result.expect_err("a read behind the end succeeded")
}

#[test]
fn reading_behind_the_end_of_a_shrunk_file_is_an_unexpected_end() {
    let _process = alongside();
    let scratch = Scratch::new();
    let path = scratch.file("disk", 8 * MIB);
    let engine = open(&config(vec![disk(&path)]));
    std::fs::File::options().write(true).open(&path).unwrap().set_len(MIB).unwrap();
    let wholly = read_error(&engine, 2 * MIB, 4096);
    assert_eq!((wholly.kind, wholly.found, wholly.expected), (ErrorKind::UnexpectedEnd, 0, 4096));
    let partly = read_error(&engine, MIB - 8192, 64 << 10);
    assert_eq!((partly.kind, partly.found), (ErrorKind::UnexpectedEnd, 8192));
    assert!(partly.to_string().contains("ended after 8192 bytes"), "{partly}");
    // What is left of it still works.
    let read = engine.read(DISK, Priority::NormalRead, 0, filled(&engine, 4096, 1)).unwrap();
    assert_eq!(settle(read).result.unwrap(), 4096);
    assert_buffers_are_back(&engine);
}

#[test]
fn a_device_that_shrinks_during_a_run_gives_errors_and_no_hang() {
    let _process = alongside();
    let scratch = Scratch::new();
    let path = scratch.file("disk", 8 * MIB);
    let Some(device) = LoopDevice::over(&path) else { return };
    let engine = open(&config(vec![disk(device.path())]));
    let submit = |n: u64| -> Ticket {
        let (offset, bytes) = (n % 7 * MIB + 512 * 1024, 128 << 10);
        let request = if n.is_multiple_of(2) {
            dynamicfs::Request::read(DISK, offset, filled(&engine, bytes, 0))
        } else {
            dynamicfs::Request::write(DISK, offset, filled(&engine, bytes, 1))
        };
        engine.submit_wait(request, None).unwrap()
    };
    let (mut failed, mut done) = (0, 0);
    for round in 0..40 {
        let tickets: Vec<Ticket> = (0..32).map(submit).collect();
        if round == 20 {
            // Cut while a write in flight had made the file longer again, the device stayed as it
            // was: the test then failed for want of errors.
            if !device.cut(&path, MIB) {
                return crate::rig::skipped("losetup cannot change a capacity");
            }
        }
        for ticket in tickets {
            let (result, buffer) = settle(ticket).into_parts();
            assert!(buffer.is_some(), "an error took a buffer: {result:?}");
            match result {
                Ok(_) => done += 1,
                Err(error) => {
                    failed += 1;
                    let expected = [ErrorKind::DeviceGone, ErrorKind::Media];
                    assert!(expected.contains(&error.kind), "{error} ({error:?})");
                }
            }
        }
    }
    assert!(failed > 100 && done > 600, "{failed} failed, {done} done");
    assert_buffers_are_back(&engine);
    engine.close(HANG).unwrap();
}
