//! A disk that stops answering: the engine reports it, waits for nothing, and loses nothing that
//! was acknowledged. The disk is a file on a file system that is frozen for a while.
//!
//! Closing used to join the thread of a reactor that had said its disk is stuck. That thread ends
//! only when the kernel's workers for its rings are back, and one of them was in the hanging write:
//! the close hung with it. Such a thread is left behind.

use std::time::{Duration, Instant};

use dynamicfs::{EngineError, FormatOptions, StorageEngine, StoreError};

use crate::mounted::Mounted;
use crate::pool::{close, create, read, settle, small};
use crate::rig::{alongside, skipped};

#[test]
fn a_hung_disk_is_reported_and_not_waited_for() {
    let _alongside = alongside();
    let Some(mounted) = Mounted::new(160) else { return };
    let config = small(&mounted.join("pool"));
    let options = FormatOptions { create_bytes: Some(48 << 20), ..FormatOptions::default() };
    StorageEngine::format(&config, options).unwrap();
    let engine = StorageEngine::open(config.clone()).unwrap();
    let inode = create(&engine);
    settle(engine.write(inode, 0, b"acknowledged"));
    let watchdog = mounted.thaw_after(Duration::from_secs(10));
    if !mounted.freeze() {
        return skipped("the file system cannot be frozen");
    }
    let hanging = engine.write(inode, 65_536, b"on its way");
    let start = Instant::now();
    let hanging = hanging.wait_until(start + Duration::from_millis(300)).unwrap_err();
    let outcome = engine.close(Duration::from_millis(500));
    let took = start.elapsed();
    mounted.thaw();
    drop(watchdog);
    let Err(EngineError::NotClosed(report)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(report.silent, [0], "{report}");
    assert!(report.to_string().contains("has not answered"), "{report}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Whoever waits is told. Whether its own record hangs or that of a seal before it is a race.
    let error = hanging.wait().unwrap_err();
    assert!(matches!(error, StoreError::CommitFailed { .. }), "{error}");
    drop(engine);
    // What was given up may still be written, so the disk is held until this process ends: a copy.
    let busy = StorageEngine::open(config.clone()).unwrap_err();
    assert!(busy.to_string().contains("in use"), "{busy}");
    let copy = mounted.join("copy");
    std::fs::copy(mounted.join("pool"), &copy).unwrap();
    let engine = StorageEngine::open(small(&copy)).unwrap();
    assert_eq!(read(&engine, inode, 0, 12), b"acknowledged");
    close(&engine);
}
