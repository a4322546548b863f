//! Fingerprints of recorded machines, and of one that shows nothing.

use super::*;

/// A directory that is removed when the test ends.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("dynamicfs-{name}-{}", std::process::id()));
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Self(root)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_machine_that_shows_nothing_is_no_error() {
    let machine = Environment::probe_machine(Path::new("/nonexistent"));
    assert_eq!((machine.kernel.clone(), machine.cpus, machine.nodes), (None, 0, 0));
    assert!(machine.doubts().is_empty());
    let missing = Device::probe(Path::new("/nonexistent"), Path::new("/nonexistent/disk"));
    assert_eq!((missing.path.as_str(), missing.name), ("/nonexistent/disk", None));
}

/// Files of a two-processor server that is set up badly for measuring.
const SERVER: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.12.48-amd64\n"),
    (
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: EPYC 9554\nflags\t\t: fpu vme\n\nprocessor\t: 1\n\
             model name\t: EPYC 9554\n",
    ),
    (
        "proc/meminfo",
        "MemTotal:  1024 kB\nHugePages_Total: 8\nHugePages_Free: 3\nHugepagesize: 2048 kB\n",
    ),
    ("proc/stat", "cpu  50 0 40 0 0 0 0 10 0 0\ncpu0 1 1 1 1\n"),
    ("proc/loadavg", "1.50 0.7 0.2 1/100 7\n"),
    (
        "proc/self/limits",
        "Limit Soft Hard Units\nMax locked memory         8388608              unlimited           \
         \x20bytes\n",
    ),
    ("proc/sys/kernel/io_uring_disabled", "1\n"),
    ("sys/module/nvme/parameters/poll_queues", "0\n"),
    ("sys/devices/system/node/node0/cpulist", "0"),
    ("sys/devices/system/node/node1/cpulist", "1"),
    ("sys/devices/system/node/online", "0-1"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"),
    ("sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n"),
    ("sys/devices/system/cpu/vulnerabilities/retbleed", "Mitigation: untrained return thunk\n"),
    ("sys/devices/system/cpu/vulnerabilities/tsa", "Vulnerable: no microcode\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/block/nvme0n1/queue/scheduler", "none [mq-deadline] kyber\n"),
    ("sys/block/nvme0n1/queue/nr_requests", "1023\n"),
    ("sys/block/nvme0n1/queue/write_cache", "write back\n"),
    ("sys/block/nvme0n1/queue/wbt_lat_usec", "2000\n"),
    ("sys/block/nvme0n1/queue/rotational", "0\n"),
    ("sys/block/nvme0n1/size", "2048\n"),
    ("sys/block/nvme0n1/device/model", "Fast One       \n"),
    ("sys/block/nvme0n1/device/firmware_rev", "1.2\n"),
];

#[test]
fn a_recorded_server_is_read_in_full() {
    let tree = Tree::new("server", SERVER);
    let mut machine = Environment::probe_machine(&tree.0);
    machine.devices = vec![Device::read(&tree.0.join("sys/block/nvme0n1"))];
    assert_eq!(machine.kernel.as_deref(), Some("6.12.48-amd64"));
    assert_eq!((machine.cpus, machine.nodes, machine.virtual_machine), (2, 2, false));
    assert_eq!(
        (machine.memory_bytes, machine.huge_pages.page_bytes),
        (Some(1 << 20), Some(2 << 20))
    );
    assert_eq!((machine.huge_pages.total, machine.huge_pages.free), (Some(8), Some(3)));
    assert_eq!(machine.huge_pages.transparent.as_deref(), Some("madvise"));
    assert_eq!((machine.steal_percent, machine.load), (Some(10.0), Some(1.5)));
    assert_eq!(machine.memlock_limit.as_deref(), Some("8388608"));
    assert_eq!(
        (machine.mitigated.clone(), machine.vulnerable.clone()),
        (vec!["retbleed".to_owned()], vec!["tsa".to_owned()])
    );
    let disk = &machine.devices[0];
    assert_eq!((disk.scheduler.as_deref(), disk.nr_requests), (Some("mq-deadline"), Some(1023)));
    assert_eq!((disk.model.as_deref(), disk.bytes), (Some("Fast One"), Some(1 << 20)));
    let doubts = machine.doubts().join("\n");
    for sign in [
        "10.0 %",
        "load average 1.50",
        "powersave",
        "io_uring_disabled=0",
        "poll_queues=N",
        "mq-deadline: `echo none > /sys/block/nvme0n1/queue/scheduler`",
        "throttled to 2000 us",
    ] {
        assert!(doubts.contains(sign), "{sign} in {doubts}");
    }
}

#[test]
fn this_machine_has_a_kernel_and_processors() {
    let machine = Environment::probe(&[std::env::current_exe().unwrap()]);
    assert!(machine.kernel.is_some() && machine.cpus > 0);
    assert!(machine.devices[0].is_file);
}
