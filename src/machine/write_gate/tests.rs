//! The gate's decision as a table, and the gate as a whole on files and loop devices.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::*;
use crate::machine::device::scratch::{LoopDevice, ScratchDir, ran, skipped};
use crate::machine::device::{Usage, mounts};

const DISK: DeviceNumber = DeviceNumber { major: 8, minor: 0 };

fn facts() -> Facts {
    Facts {
        path: PathBuf::from("disk"),
        resolved_path: PathBuf::from("/dev/sda"),
        target: Target::Block(DISK),
        under_dev: true,
        naming: Naming::Same,
        uses: Vec::new(),
        probed: Probed::Found(Vec::new()),
    }
}

fn mounted() -> Vec<Use> {
    let usage = Usage::MountedOn(PathBuf::from("/"));
    vec![Use { object: String::from("/dev/sda1"), usage }]
}

fn ext4() -> Probed {
    let kind = String::from("ext4 file system");
    Probed::Found(vec![Signature { object: PathBuf::from("/dev/sda"), kind }])
}

/// The label of the rule that refuses, or `cleared`.
fn verdict(facts: Facts, force: ForceSignatures) -> &'static str {
    match decide(facts, force) {
        Ok(_) => "cleared",
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty() && !refusal.help().is_empty());
            match refusal {
                WriteRefusal::Missing { .. } => "missing",
                WriteRefusal::NotADisk { .. } => "not a disk",
                WriteRefusal::NotNamed { .. } => "not named",
                WriteRefusal::NamesAnother { .. } => "names another",
                WriteRefusal::InUse { .. } => "in use",
                WriteRefusal::HoldsData { .. } => "holds data",
                WriteRefusal::ProberMissing { .. } => "no prober",
                WriteRefusal::Unknown { .. } => "unknown",
            }
        }
    }
}

/// Every combination of the facts, against the rules written the other way round.
#[test]
fn every_combination_is_decided_by_the_first_rule_that_applies() {
    let mut seen = std::collections::BTreeMap::new();
    for target in [Target::Block(DISK), Target::File, Target::Other] {
        for under_dev in [false, true] {
            for naming in [Naming::Same, Naming::No, Naming::Different(PathBuf::from("/dev/sdb"))] {
                for uses in [Vec::new(), mounted()] {
                    for probed in [
                        Probed::Found(Vec::new()),
                        ext4(),
                        Probed::ProberMissing,
                        Probed::Failed(String::from("broken")),
                    ] {
                        for force in [ForceSignatures::No, ForceSignatures::Yes] {
                            let is_disk = match target {
                                Target::Block(_) => true,
                                Target::File => !under_dev,
                                Target::Other => false,
                            };
                            let wanted = match (is_disk, &naming, uses.is_empty(), &probed, force) {
                                (false, ..) => "not a disk",
                                (true, Naming::No, ..) => "not named",
                                (true, Naming::Different(_), ..) => "names another",
                                (true, Naming::Same, false, ..) => "in use",
                                (_, _, _, Probed::ProberMissing, _) => "no prober",
                                (_, _, _, Probed::Failed(_), _) => "unknown",
                                (_, _, _, Probed::Found(found), ForceSignatures::No)
                                    if !found.is_empty() =>
                                {
                                    "holds data"
                                }
                                _ => "cleared",
                            };
                            let naming = naming.clone();
                            let (uses, probed) = (uses.clone(), probed.clone());
                            let facts =
                                Facts { target, under_dev, naming, uses, probed, ..facts() };
                            assert_eq!(verdict(facts.clone(), force), wanted, "{facts:?}");
                            *seen.entry(wanted).or_insert(0) += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(seen.values().sum::<i32>(), 3 * 2 * 3 * 2 * 4 * 2);
    assert_eq!(seen["cleared"], 9, "three kinds of disk, each clean, clean forced, ext4 forced");
}

#[test]
fn a_forced_clearance_says_what_it_destroys() {
    let clearance = decide(Facts { probed: ext4(), ..facts() }, ForceSignatures::Yes).unwrap();
    assert_eq!(clearance.overridden().len(), 1);
    assert_eq!(clearance.number(), Some(DISK));
    assert_eq!(clearance.resolved_path(), Path::new("/dev/sda"));
}

fn has_blkid() -> bool {
    let found = Command::new("blkid").arg("-V").output().is_ok();
    if !found {
        skipped::<()>("blkid is not installed");
    }
    found
}

fn check(path: &Path, named: Option<&Path>) -> Result<WriteClearance, WriteRefusal> {
    WriteGate::check(path, named, ForceSignatures::No)
}

#[test]
fn a_file_must_be_named_and_may_be_named_through_a_link() {
    let dir = ScratchDir::new();
    let file = dir.file("image", 1 << 20);
    let other = dir.file("other", 1 << 20);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let refusal = check(&file, None).unwrap_err();
    assert!(refusal.help().contains("--destroy="), "{refusal}");
    let refusal = check(&file, Some(&other)).unwrap_err();
    assert!(matches!(refusal, WriteRefusal::NamesAnother { .. }), "{refusal}");
    let refusal = check(&dir.path().join("none"), None).unwrap_err();
    assert!(matches!(refusal, WriteRefusal::Missing { .. }), "{refusal}");
    let refusal = check(dir.path(), Some(dir.path())).unwrap_err();
    assert!(matches!(refusal, WriteRefusal::NotADisk { .. }), "{refusal}");
    if has_blkid() {
        assert_eq!(check(&link, Some(&file)).unwrap().resolved_path(), file);
        assert_eq!(check(&file, Some(&link)).unwrap().number(), None);
    }
    File::open(&file).unwrap().try_lock().unwrap();
    let held = File::open(&file).unwrap();
    held.try_lock().unwrap();
    let refusal = check(&file, Some(&file)).unwrap_err();
    assert!(matches!(refusal, WriteRefusal::InUse { .. }), "{refusal}");
}

#[test]
fn a_label_of_ours_at_any_place_is_seen_named_and_can_be_forced() {
    if !has_blkid() {
        return;
    }
    let dir = ScratchDir::new();
    let mut head = [7; 48];
    head[..LABEL_MAGIC.len()].copy_from_slice(&LABEL_MAGIC);
    for offset in [0, 1 << 20, 6 << 20, 7 << 20] {
        let path = dir.file("image", 8 << 20);
        File::options().write(true).open(&path).unwrap().write_at(&head, offset).unwrap();
        let refusal = check(&path, Some(&path)).unwrap_err().to_string();
        let named = "dynamicfs pool 07070707-0707-0707-0707-070707070707";
        assert!(refusal.contains(named), "{refusal}");
        let forced = WriteGate::check(&path, Some(&path), ForceSignatures::Yes).unwrap();
        assert_eq!(forced.overridden().len(), 1);
    }
}

#[test]
fn a_mistyped_device_is_refused() {
    let wrong = Path::new("/dev/shm").join(format!("dynamicfs-{}", std::process::id()));
    if fs::write(&wrong, [0u8; 512]).is_err() {
        return skipped::<()>("/dev/shm is not writable").unwrap_or(());
    }
    let refusal = check(&wrong, Some(&wrong));
    fs::remove_file(&wrong).unwrap();
    assert!(matches!(refusal, Err(WriteRefusal::NotADisk { under_dev: true, .. })), "{refusal:?}");
    let refusal = check(Path::new("/dev/null"), Some(Path::new("/dev/null"))).unwrap_err();
    assert!(matches!(refusal, WriteRefusal::NotADisk { .. }), "{refusal}");
}

#[test]
fn the_root_disk_is_refused_whoever_forces_it() {
    let mounts = mounts::mounts().unwrap();
    let root = mounts.iter().find(|mount| mount.mount_point == Path::new("/"));
    let Some(disk) = root.map(|root| root.source.clone()).filter(|source| source.exists()) else {
        return skipped::<()>("the root file system is not on a block device").unwrap_or(());
    };
    let refusal = WriteGate::check(&disk, Some(&disk), ForceSignatures::Yes).unwrap_err();
    assert!(refusal.to_string().contains("is mounted on /"), "{refusal}");
}

#[test]
fn loop_devices_are_free_then_held_then_hold_a_file_system() {
    if !has_blkid() {
        return;
    }
    let dir = ScratchDir::new();
    let file = dir.file("image", 16 << 20);
    let Some(looped) = LoopDevice::over(&file) else { return };
    let device = looped.path();
    check(device, Some(device)).unwrap();
    let refusal = check(&file, Some(&file)).unwrap_err();
    assert!(refusal.to_string().contains("is backing the loop device"), "{refusal}");
    let holder = fs::OpenOptions::new();
    let holder = std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut holder.clone().read(true).clone(),
        libc::O_EXCL,
    )
    .open(device)
    .unwrap();
    let refusal = check(device, Some(device)).unwrap_err();
    assert!(refusal.to_string().contains("open exclusively"), "{refusal}");
    drop(holder);
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(device).status();
    if !made.is_ok_and(|status| status.success()) {
        return skipped::<()>("mkfs.ext4 is not installed").unwrap_or(());
    }
    let refusal = check(device, Some(device)).unwrap_err();
    assert!(refusal.to_string().contains("ext4 file system"), "{refusal}");
    WriteGate::check(device, Some(device), ForceSignatures::Yes).unwrap();
}

/// Undoes a test's setup with a command, also when the test panics.
struct Undo<'a>(&'a str, &'a [&'a str]);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(self.1).output();
    }
}

#[test]
fn a_mounted_partition_protects_its_disk_but_not_its_sibling() {
    let dir = ScratchDir::new();
    let Some(looped) = LoopDevice::over(&dir.file("image", 64 << 20)) else { return };
    let disk = looped.path().to_str().unwrap();
    let (first, second) = (format!("{disk}p1"), format!("{disk}p2"));
    let point = dir.path().join("mounted");
    fs::create_dir(&point).unwrap();
    let point = point.to_str().unwrap();
    let ready = ran("addpart", &[disk, "1", "2048", "40960"])
        && ran("addpart", &[disk, "2", "65536", "40960"])
        && ran("mkfs.ext4", &["-q", "-F", &first])
        && ran("mount", &["-t", "ext4", &first, point]);
    if !ready {
        return;
    }
    let mounted = [point];
    let unmount = Undo("umount", &mounted);
    for path in [disk, &first] {
        let path = Path::new(path);
        let refusal = WriteGate::check(path, Some(path), ForceSignatures::Yes).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!("{} is in use: {first} is mounted on {point}", path.display())
        );
    }
    check(Path::new(&second), Some(Path::new(&second))).unwrap();
    drop(unmount);
    let refusal = check(looped.path(), Some(looped.path())).unwrap_err();
    let wanted = format!("{disk} holds data: ext4 file system on {first}");
    assert_eq!(refusal.to_string(), wanted, "an unmounted partition's content counts");
}

#[test]
fn swap_and_device_mapper_hold_their_disks() {
    let dir = ScratchDir::new();
    let Some(looped) = LoopDevice::over(&dir.file("image", 16 << 20)) else { return };
    let disk = looped.path().to_str().unwrap();
    let named = Some(looped.path());
    let name = format!("dynamicfs-test-{}", std::process::id());
    let table = format!("0 16384 linear {disk} 0");
    if ran("dmsetup", &["create", &name, "--table", &table]) {
        let removed = ["remove", "--retry", &name];
        let _remove = Undo("dmsetup", &removed);
        let refusal = WriteGate::check(looped.path(), named, ForceSignatures::Yes).unwrap_err();
        assert!(refusal.to_string().contains(&format!("{disk} is held by /dev/dm-")), "{refusal}");
    }
    if ran("mkswap", &[disk]) && ran("swapon", &[disk]) {
        let off = [disk];
        let _off = Undo("swapoff", &off);
        let refusal = WriteGate::check(looped.path(), named, ForceSignatures::Yes).unwrap_err();
        assert!(refusal.to_string().contains(&format!("{disk} is in use as swap")), "{refusal}");
    }
}
