//! Tests of opening real files and, as root, loop devices.

use super::scratch::{LoopDevice, ScratchDir, ran, skipped};
use super::*;

const READ: Access = Access::ReadOnly;
const WRITE: Access = Access::ReadWrite;

fn open(path: &Path, access: Access) -> Result<Device, DeviceError> {
    Device::open(path, &OpenOptions::new(access))
}

/// A file that direct I/O works on; `None` on a machine whose temporary directory cannot.
fn disk_file(dir: &ScratchDir) -> Option<std::path::PathBuf> {
    let path = dir.path().join("disk");
    match create_file(&path, 1 << 20, &mut |_| ()) {
        Ok(()) => Some(path),
        Err(error @ DeviceError::NoDirectIo { .. }) => skipped(&error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_file_opens_and_reports_its_size_and_alignment() {
    let dir = ScratchDir::new();
    let Some(path) = disk_file(&dir) else { return };
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let device = open(&link, WRITE).unwrap();
    let info = device.info();
    assert_eq!((info.kind, info.size_bytes), (DeviceKind::File, 1 << 20));
    assert_eq!((&info.path, &info.resolved_path), (&link, &path));
    assert!(info.logical_block_bytes >= 512 && info.logical_block_bytes.is_power_of_two());
    assert!(info.physical_block_bytes >= info.logical_block_bytes);
    assert_eq!(device.current_size().unwrap(), 1 << 20);
    let flags = nix::fcntl::fcntl(&device, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_ne!(flags & libc::O_DIRECT, 0);
}

#[test]
fn a_writer_excludes_all_and_readers_share() {
    let dir = ScratchDir::new();
    let Some(path) = disk_file(&dir) else { return };
    let writer = open(&path, WRITE).unwrap();
    for access in [READ, WRITE] {
        let error = open(&path, access).unwrap_err();
        assert_eq!(error.class(), DeviceErrorClass::Busy, "{error}");
    }
    let peek = OpenOptions { exclusive: Exclusive::No, ..OpenOptions::new(READ) };
    drop(Device::open(&path, &peek).unwrap());
    drop(writer);
    let first = open(&path, READ).unwrap();
    let second = open(&path, READ).unwrap();
    assert_eq!(open(&path, WRITE).unwrap_err().class(), DeviceErrorClass::Busy);
    drop((first, second));
    open(&path, WRITE).unwrap();
}

#[test]
fn a_busy_file_is_waited_for() {
    let dir = ScratchDir::new();
    let Some(path) = disk_file(&dir) else { return };
    let holder = open(&path, WRITE).unwrap();
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_millis(60));
        drop(holder);
    });
    let patient = OpenOptions { busy_wait: Duration::from_secs(20), ..OpenOptions::new(WRITE) };
    Device::open(&path, &patient).unwrap();
    release.join().unwrap();
}

#[test]
fn what_is_not_a_disk_is_refused_with_help() {
    let dir = ScratchDir::new();
    let tiny = dir.file("tiny", 100);
    let missing = dir.path().join("missing");
    for (path, wanted) in [
        (dir.path(), "is a directory"),
        (Path::new("/dev/null"), "is a character device"),
        (&missing, "no such device"),
        (&tiny, "less than one block"),
    ] {
        let error = open(path, READ).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(error.class(), DeviceErrorClass::Unfit);
        assert!(error.help().is_some());
    }
    let shared = OpenOptions { exclusive: Exclusive::No, ..OpenOptions::new(WRITE) };
    let error = Device::open(&tiny, &shared).unwrap_err();
    assert!(matches!(error, DeviceError::SharedWrite { .. }), "{error}");
}

#[test]
fn a_loop_device_is_exclusive_and_described() {
    let dir = ScratchDir::new();
    let file = dir.file("image", 1 << 20);
    let Some(looped) = LoopDevice::over(&file) else { return };
    let device = open(looped.path(), WRITE).unwrap();
    let info = device.info();
    assert_eq!((info.kind, info.size_bytes), (DeviceKind::Block, 1 << 20));
    assert_eq!(info.queue_owner, QueueOwner::Itself);
    assert!(info.queue.is_some());
    let error = open(looped.path(), READ).unwrap_err();
    assert!(error.to_string().contains("another process has it open exclusively"), "{error}");
    let peek = OpenOptions { exclusive: Exclusive::No, ..OpenOptions::new(READ) };
    assert_eq!(Device::open(looped.path(), &peek).unwrap().current_size().unwrap(), 1 << 20);
}

#[test]
fn a_mounted_disk_is_busy_and_says_where() {
    let mounts = mounts::mounts().unwrap();
    let root = mounts
        .iter()
        .find(|mount| mount.mount_point == Path::new("/") && mount.source.starts_with("/dev"));
    let Some(root) = root.filter(|root| root.source.exists()) else {
        return skipped::<()>("the root file system is not on a block device").unwrap_or(());
    };
    match open(&root.source, READ) {
        Err(DeviceError::PermissionDenied { .. }) => {
            skipped::<()>("may not open the root disk; run as root");
        }
        Err(error) => assert!(error.to_string().contains("is mounted on /"), "{error}"),
        Ok(_) => panic!("a mounted disk was opened exclusively"),
    }
}

#[test]
fn a_disk_and_its_partitions_exclude_each_other() {
    let dir = ScratchDir::new();
    let Some(looped) = LoopDevice::over(&dir.file("image", 64 << 20)) else { return };
    let disk = looped.path();
    let name = disk.to_str().unwrap();
    let (first, second) = (format!("{name}p1"), format!("{name}p2"));
    let (first, second) = (Path::new(&first), Path::new(&second));
    if !ran("addpart", &[name, "1", "2048", "2048"])
        || !ran("addpart", &[name, "2", "8192", "2048"])
    {
        return;
    }
    let partition = open(first, WRITE).unwrap();
    assert_eq!(partition.info().size_bytes, 1 << 20);
    let whole = Sysfs::system().parent_disk(partition.info().number).unwrap();
    assert_eq!(partition.info().queue_owner, {
        let name = Sysfs::system().block_node(whole).unwrap().name;
        QueueOwner::ParentDisk(name)
    });
    for access in [READ, WRITE] {
        assert_eq!(open(disk, access).unwrap_err().class(), DeviceErrorClass::Busy);
    }
    drop(open(second, WRITE).unwrap());
    drop(partition);
    let disk = open(disk, WRITE).unwrap();
    assert_eq!(open(first, READ).unwrap_err().class(), DeviceErrorClass::Busy);
    drop(disk);
    open(first, READ).unwrap();
}
