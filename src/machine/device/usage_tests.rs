//! Tests of [`super::uses_of`]: a disk with two partitions, a volume on one of them, loops.

use std::os::unix::fs::symlink;

use super::*;
use crate::machine::device::scratch::ScratchDir;

const SDA: DeviceNumber = DeviceNumber { major: 8, minor: 0 };
const SDA1: DeviceNumber = DeviceNumber { major: 8, minor: 1 };
const SDA2: DeviceNumber = DeviceNumber { major: 8, minor: 2 };
const DM0: DeviceNumber = DeviceNumber { major: 253, minor: 0 };
const LOOP0: DeviceNumber = DeviceNumber { major: 7, minor: 0 };
const LOOP1: DeviceNumber = DeviceNumber { major: 7, minor: 1 };

/// sda with sda1 and sda2; dm-0 on sda2; loop0 and loop1.
fn tree() -> ScratchDir {
    let tree = ScratchDir::new();
    let root = tree.path();
    for (name, dir, number) in [
        ("sda", "devices/sda", SDA),
        ("sda1", "devices/sda/sda1", SDA1),
        ("sda2", "devices/sda/sda2", SDA2),
        ("dm-0", "devices/dm-0", DM0),
        ("loop0", "devices/loop0", LOOP0),
        ("loop1", "devices/loop1", LOOP1),
    ] {
        let dir = root.join(dir);
        for sub in ["holders", "slaves"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        fs::write(dir.join("dev"), number.to_string()).unwrap();
        if name.starts_with("sda") && name.len() > 3 {
            fs::write(dir.join("partition"), &name[3..]).unwrap();
        }
        for links in ["block", "class/block", "dev/block"] {
            fs::create_dir_all(root.join(links)).unwrap();
        }
        symlink(&dir, root.join("class/block").join(name)).unwrap();
        symlink(&dir, root.join("dev/block").join(number.to_string())).unwrap();
        if !dir.join("partition").exists() {
            symlink(&dir, root.join("block").join(name)).unwrap();
        }
    }
    symlink(root.join("devices/dm-0"), root.join("devices/sda/sda2/holders/dm-0")).unwrap();
    tree
}

fn mounted(number: DeviceNumber, point: &str) -> Mounted {
    Mounted { number, source: None, mount_point: PathBuf::from(point) }
}

fn phrases(around: &Surroundings, target: Identity) -> Vec<String> {
    let tree = tree();
    let uses = uses_of(&Sysfs::at(tree.path()), around, target, Path::new("image"));
    uses.iter().map(ToString::to_string).collect()
}

#[test]
fn a_whole_disk_is_used_through_its_partitions_and_their_holders() {
    let around = Surroundings {
        mounts: vec![mounted(SDA1, "/boot"), mounted(DM0, "/")],
        ..Surroundings::default()
    };
    assert_eq!(
        phrases(&around, Identity::Block(SDA)),
        [
            "/dev/sda1 is mounted on /boot",
            "/dev/sda2 is held by /dev/dm-0",
            "/dev/dm-0 is mounted on /",
        ]
    );
}

#[test]
fn a_partition_is_not_used_through_its_sibling_but_through_its_disk() {
    let around = Surroundings {
        mounts: vec![mounted(SDA2, "/data"), mounted(SDA, "/odd")],
        ..Surroundings::default()
    };
    assert_eq!(phrases(&around, Identity::Block(SDA1)), ["/dev/sda is mounted on /odd"]);
}

#[test]
fn a_volume_mounted_under_an_anonymous_number_is_found_by_its_source() {
    let around = Surroundings {
        mounts: vec![Mounted {
            number: DeviceNumber { major: 0, minor: 44 },
            source: Some(Identity::Block(SDA1)),
            mount_point: PathBuf::from("/pool"),
        }],
        ..Surroundings::default()
    };
    assert_eq!(phrases(&around, Identity::Block(SDA1)), ["/dev/sda1 is mounted on /pool"]);
}

#[test]
fn swap_and_loop_devices_count_for_devices_and_files() {
    let file = Identity::File { dev: 1, ino: 2 };
    let around = Surroundings {
        mounts: vec![mounted(LOOP0, "/mnt"), mounted(LOOP1, "/mnt2")],
        swaps: vec![Identity::Block(SDA1), file],
        loops: vec![
            BoundLoop { name: "loop0".into(), number: LOOP0, backing: Some(file) },
            BoundLoop { name: "loop1".into(), number: LOOP1, backing: Some(Identity::Block(SDA1)) },
        ],
    };
    assert_eq!(
        phrases(&around, file),
        [
            "image is in use as swap",
            "image is backing the loop device /dev/loop0",
            "/dev/loop0 is mounted on /mnt",
        ]
    );
    assert_eq!(
        phrases(&around, Identity::Block(SDA1)),
        [
            "/dev/sda1 is in use as swap",
            "/dev/sda1 is backing the loop device /dev/loop1",
            "/dev/loop1 is mounted on /mnt2",
        ]
    );
}

#[test]
fn two_loop_devices_over_one_file_are_told() {
    let file = Some(Identity::File { dev: 1, ino: 2 });
    let around = Surroundings {
        loops: vec![
            BoundLoop { name: "loop0".into(), number: LOOP0, backing: file },
            BoundLoop { name: "loop1".into(), number: LOOP1, backing: file },
        ],
        ..Surroundings::default()
    };
    assert_eq!(
        phrases(&around, Identity::Block(LOOP0)),
        ["/dev/loop0 has the same backing file as /dev/loop1"]
    );
}

#[test]
fn an_unused_disk_has_no_uses() {
    assert_eq!(phrases(&Surroundings::default(), Identity::Block(SDA1)), [] as [&str; 0]);
}
