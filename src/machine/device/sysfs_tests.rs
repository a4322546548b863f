//! Tests of [`super::Sysfs`] on trees built in a temporary directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::machine::device::scratch::ScratchDir;

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Adds a disk at `dir` (below `devices/`) with its links in `block/` and `dev/block/`.
fn put_disk(root: &Path, dir: &str, number: &str) {
    put(root, &format!("{dir}/dev"), number);
    put(root, &format!("{dir}/size"), "2048\n");
    put(root, &format!("{dir}/queue/logical_block_size"), "4096\n");
    let name = dir.rsplit('/').next().unwrap();
    fs::create_dir_all(root.join("block")).unwrap();
    fs::create_dir_all(root.join("dev/block")).unwrap();
    symlink(root.join(dir), root.join("block").join(name)).unwrap();
    symlink(root.join(dir), root.join("dev/block").join(number)).unwrap();
}

const NVME: &str = "devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1";

fn nvme_tree() -> ScratchDir {
    let tree = ScratchDir::new();
    let root = tree.path();
    put_disk(root, NVME, "259:0");
    put(root, "devices/pci0000:00/0000:00:04.0/numa_node", "1\n");
    put(root, "devices/pci0000:00/0000:00:04.0/nvme/nvme0/model", "Fast One   \n");
    put(root, "devices/pci0000:00/0000:00:04.0/nvme/nvme0/serial", "S123\n");
    symlink(root.join(NVME).parent().unwrap(), root.join(NVME).join("device")).unwrap();
    for (name, text) in [
        ("nr_requests", "1023\n"),
        ("scheduler", "mq-deadline [none] kyber\n"),
        ("write_cache", "write back\n"),
        ("fua", "1\n"),
        ("rotational", "0\n"),
        ("io_poll", "1\n"),
        ("physical_block_size", "16384\n"),
        ("max_sectors_kb", "128\n"),
        ("atomic_write_unit_max_bytes", "8192\n"),
        ("discard_max_bytes", "2199023255040\n"),
    ] {
        put(root, &format!("{NVME}/queue/{name}"), text);
    }
    let partition = format!("{NVME}/nvme0n1p2");
    put(root, &format!("{partition}/partition"), "2\n");
    put(root, &format!("{partition}/dev"), "259:2\n");
    put(root, &format!("{partition}/size"), "1000\n");
    symlink(root.join(&partition), root.join("dev/block/259:2")).unwrap();
    fs::create_dir_all(root.join("class/block")).unwrap();
    symlink(root.join(&partition), root.join("class/block/nvme0n1p2")).unwrap();
    tree
}

const DISK: DeviceNumber = DeviceNumber { major: 259, minor: 0 };
const PARTITION: DeviceNumber = DeviceNumber { major: 259, minor: 2 };

#[test]
fn a_disk_has_its_queue_node_model_and_serial() {
    let tree = nvme_tree();
    let node = Sysfs::at(tree.path()).block_node(DISK).unwrap();
    assert_eq!(node.name, "nvme0n1");
    assert_eq!(node.parent_disk, None);
    assert_eq!(node.size_bytes, 2048 * 512);
    assert_eq!(node.numa_node, Some(1));
    assert_eq!(node.model.as_deref(), Some("Fast One"));
    assert_eq!(node.serial.as_deref(), Some("S123"));
    let queue = node.queue;
    assert_eq!((queue.logical_block_bytes, queue.physical_block_bytes), (4096, 16384));
    assert_eq!((queue.nr_requests, queue.max_sectors_kb), (Some(1023), Some(128)));
    assert_eq!(queue.scheduler.as_deref(), Some("none"));
    assert_eq!(queue.write_cache, WriteCache::WriteBack);
    assert_eq!((queue.fua, queue.rotational, queue.io_poll), (Some(true), Some(false), true));
    assert_eq!(queue.atomic_write_unit_max_bytes, 8192);
    assert_eq!(queue.discard_max_bytes, 2_199_023_255_040);
    assert_eq!((queue.discard_granularity_bytes, queue.write_zeroes_max_bytes), (0, 0));
}

#[test]
fn a_partition_has_its_own_size_and_its_disks_queue() {
    let tree = nvme_tree();
    let sysfs = Sysfs::at(tree.path());
    let node = sysfs.block_node(PARTITION).unwrap();
    assert_eq!(node.name, "nvme0n1p2");
    assert_eq!(node.parent_disk.as_deref(), Some("nvme0n1"));
    assert_eq!(node.size_bytes, 512_000);
    assert_eq!(node.queue.nr_requests, Some(1023));
    assert_eq!(node.numa_node, Some(1));
    assert_eq!(sysfs.partitions(DISK), [PARTITION]);
    assert_eq!(sysfs.partitions(PARTITION), []);
    assert_eq!(sysfs.parent_disk(PARTITION), Some(DISK));
    assert_eq!(sysfs.parent_disk(DISK), None);
}

#[test]
fn an_old_kernels_tree_gives_defaults_and_node_minus_one_is_none() {
    let tree = ScratchDir::new();
    let root = tree.path();
    put_disk(root, "devices/pci0/ata1/sda", "8:0");
    put(root, "devices/pci0/numa_node", "-1\n");
    put(root, "devices/pci0/ata1/sda/queue/nr_requests", "garbage\n");
    let node = Sysfs::at(root).block_node(DeviceNumber { major: 8, minor: 0 }).unwrap();
    assert_eq!(node.numa_node, None);
    assert_eq!(node.queue.nr_requests, None);
    assert_eq!(node.queue.write_cache, WriteCache::Unknown);
    assert!(!node.queue.io_poll);
    assert_eq!(node.queue.physical_block_bytes, 4096);
}

#[test]
fn a_stacked_device_takes_the_node_its_disks_agree_on() {
    let tree = nvme_tree();
    let root = tree.path();
    put_disk(root, "devices/virtual/block/dm-0", "253:0");
    for (from, to) in
        [("devices/virtual/block/dm-0/slaves", NVME), (&format!("{NVME}/holders"), "block/dm-0")]
    {
        fs::create_dir_all(root.join(from)).unwrap();
        let name = to.rsplit('/').next().unwrap();
        symlink(root.join(to), root.join(from).join(name)).unwrap();
    }
    let sysfs = Sysfs::at(root);
    let dm = DeviceNumber { major: 253, minor: 0 };
    assert_eq!(sysfs.block_node(dm).unwrap().numa_node, Some(1));
    assert_eq!(sysfs.holders(DISK), [dm]);
    assert_eq!(sysfs.slaves(dm), [DISK]);
}

#[test]
fn a_multipath_nvme_head_takes_the_node_of_its_controllers() {
    let tree = ScratchDir::new();
    let root = tree.path();
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
    put_disk(root, &format!("{subsystem}/nvme0n1"), "259:0");
    put(root, "devices/pci0/0000:81:00.0/nvme/nvme0/state", "live\n");
    put(root, "devices/pci0/0000:81:00.0/numa_node", "3\n");
    symlink(root.join("devices/pci0/0000:81:00.0/nvme/nvme0"), root.join(subsystem).join("nvme0"))
        .unwrap();
    assert_eq!(Sysfs::at(root).block_node(DISK).unwrap().numa_node, Some(3));
}

#[test]
fn an_unknown_device_is_not_found() {
    let tree = nvme_tree();
    let error = Sysfs::at(tree.path()).block_node(DeviceNumber { major: 1, minor: 1 }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_active_scheduler_is_the_bracketed_one() {
    assert_eq!(active_scheduler("[none] mq-deadline").as_deref(), Some("none"));
    assert_eq!(active_scheduler("none").as_deref(), Some("none"));
    assert_eq!(active_scheduler("a b"), None);
}

#[test]
fn loops_name_their_backing_file() {
    let tree = ScratchDir::new();
    put_disk(tree.path(), "devices/virtual/block/loop0", "7:0");
    put_disk(tree.path(), "devices/virtual/block/loop1", "7:1");
    put(tree.path(), "devices/virtual/block/loop1/loop/backing_file", "/var/image one\n");
    let bindings = Sysfs::at(tree.path()).loop_bindings();
    assert_eq!(bindings.len(), 1);
    assert_eq!(bindings[0].name, "loop1");
    assert_eq!(bindings[0].backing, Path::new("/var/image one"));
}

#[test]
fn the_cpus_of_queues_interrupts_are_found_where_they_are_not_all() {
    let tree = nvme_tree();
    let root = tree.path();
    let node = || Sysfs::at(root).block_node(DeviceNumber { major: 259, minor: 0 }).unwrap();
    assert_eq!(node().interrupt_cpus, [] as [u32; 0], "nothing is known of its interrupts");
    put(root, "devices/system/cpu/online", "0-3\n");
    for (number, action, cpus) in [(40, "nvme0q0", "3"), (41, "nvme0q1", "2"), (42, "nvme0q2", "1")]
    {
        put(root, &format!("devices/pci0000:00/0000:00:04.0/msi_irqs/{number}"), "msix\n");
        put(root, &format!("kernel/irq/{number}/actions"), &format!("{action}\n"));
        put(root, &format!("proc/irq/{number}/effective_affinity_list"), &format!("{cpus}\n"));
    }
    // Another device's.
    put(root, "kernel/irq/43/actions", "nvme1q1\n");
    put(root, "proc/irq/43/effective_affinity_list", "0\n");
    assert_eq!(node().interrupt_cpus, [1, 2]);
    put(root, "devices/system/cpu/online", "1-2\n");
    assert_eq!(node().interrupt_cpus, [] as [u32; 0], "every CPU has a queue: none is better");
    put(root, "proc/irq/42/effective_affinity_list", "none\n");
    assert_eq!(node().interrupt_cpus, [2]);
}

#[test]
fn queues_are_told_from_other_interrupts() {
    let queues = ["virtio1-req.0", "nvme0q1", "ahci,nvme12q34"];
    let others = ["virtio1-config", "nvme0q0", "nvme", "eth0-rx-0", ""];
    assert!(queues.iter().all(|name| is_queue(name)));
    assert!(!others.iter().any(|name| is_queue(name)));
    assert_eq!(cpu_list("0-2,7"), Some(vec![0, 1, 2, 7]));
    assert_eq!((cpu_list(""), cpu_list("3-x")), (None, None));
}
