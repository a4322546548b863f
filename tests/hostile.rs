//! Machines that do not give what the engine wants: limits, switches, missing rights.
//!
//! Each test changes something for the whole process or machine, so they take turns, and put back
//! what they changed also when they fail. Those that need another user or a limit run a test of
//! this binary again as a child process. A test that lacks root says `SKIPPED: <why>`.

// Only the test functions themselves are exempt by clippy.toml, not what they call.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynamicfs::engine::config::{DiskAccess, MemoryConfig};
use dynamicfs::machine::mapping::Pages;
use dynamicfs::{DiskConfig, DiskId, IoConfig, IoScheduler, Priority};
use nix::sys::resource::{Resource, setrlimit};

static TURN: Mutex<()> = Mutex::new(());
const MEMLOCK_BYTES: u64 = 64 << 10;
const NOBODY: &str = "65534";

fn my_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn skipped(why: &str) {
    // Not eprintln, which the harness hides when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {}", why.trim());
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn config(disk: DiskConfig) -> IoConfig {
    let memory = MemoryConfig { arena_mib_per_node: 16, ..MemoryConfig::default() };
    let mut config = IoConfig { disks: vec![disk], memory, ..IoConfig::default() };
    config.reactors.count = Some(1);
    config
}

fn nop_disk() -> DiskConfig {
    DiskConfig { nop_bytes: Some(1 << 30), ..DiskConfig::default() }
}

fn reactor_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.starts_with("dynamicfs-")).count()
}

/// Whether no reactor's thread is left, soon: the kernel lists one that was joined a moment longer.
fn reactors_are_gone() -> bool {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while reactor_threads() > 0 && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    reactor_threads() == 0
}

/// A switch of the kernel, put back on drop.
struct Sysctl {
    path: PathBuf,
    before: String,
}

impl Sysctl {
    fn set(name: &str, value: &str) -> Option<Sysctl> {
        let path = Path::new("/proc/sys").join(name);
        let Ok(before) = std::fs::read_to_string(&path) else {
            skipped(&format!("this kernel has no {name}"));
            return None;
        };
        let sysctl = Sysctl { path, before };
        if let Err(error) = std::fs::write(&sysctl.path, value) {
            skipped(&format!("{name} cannot be set: {error}"));
            return None;
        }
        Some(sysctl)
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.path, &self.before);
    }
}

#[test]
fn a_machine_without_io_uring_is_told_which_switch_it_was() {
    let _turn = my_turn();
    if !is_root() {
        return skipped("only root can turn io_uring off");
    }
    // As short as can be: others on this machine may be opening rings.
    let Some(switch) = Sysctl::set("kernel/io_uring_disabled", "2") else { return };
    let opened = IoScheduler::open(&config(nop_disk()));
    drop(switch);
    let text = opened.expect_err("io_uring was off").to_string();
    assert!(text.contains("kernel.io_uring_disabled = 2"), "{text}");
    assert!(text.contains("sysctl kernel.io_uring_disabled=0"), "{text}");
    assert!(reactors_are_gone(), "a failed opening joins its threads");
    IoScheduler::open(&config(nop_disk())).unwrap();
}

#[test]
fn a_machine_without_huge_pages_gets_others_and_says_so() {
    let _turn = my_turn();
    let free = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    let none = if free.trim() == "0" {
        None
    } else {
        match Sysctl::set("vm/nr_hugepages", "0") {
            Some(switch) => Some(switch),
            None => return,
        }
    };
    let engine = IoScheduler::open(&config(nop_disk())).unwrap();
    drop(none);
    let status = engine.status();
    let pages = status.arenas[0].pages;
    assert!(matches!(pages, Pages::Transparent | Pages::Normal), "{pages:?}");
    let said = status.notes.iter().any(|note| note.contains("huge pages"));
    assert!(said, "no note on huge pages: {:?}", status.notes);
}

// ---- as another user, with little memory to lock

#[test]
fn an_ordinary_user_with_little_locked_memory_gets_a_note_that_names_the_limit() {
    let _turn = my_turn();
    if !is_root() {
        return skipped("only root can become another user");
    }
    // The user may not be able to reach this binary where it was built.
    let folder = std::env::temp_dir().join(format!("dynamicfs-hostile-{}", std::process::id()));
    let copy = Copied::of_this_binary(folder);
    let output = Command::new("setpriv")
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"])
        .arg(copy.0.join("tests"))
        .args(["--ignored", "--exact", "child_as_an_ordinary_user", "--nocapture"])
        .output();
    let Ok(output) = output else { return skipped("there is no setpriv") };
    assert_child_ran(&output);
}

struct Copied(PathBuf);

impl Copied {
    fn of_this_binary(folder: PathBuf) -> Copied {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), folder.join("tests")).unwrap();
        Copied(folder)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn assert_child_ran(output: &std::process::Output) {
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("1 passed"), "the child ran no test: {said}\n{complained}");
}

#[test]
#[ignore = "a child process of another test"]
fn child_as_an_ordinary_user() {
    assert!(!is_root(), "this is for an ordinary user");
    setrlimit(Resource::RLIMIT_MEMLOCK, MEMLOCK_BYTES, MEMLOCK_BYTES).unwrap();
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let path = folder.join("disk");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let access = DiskAccess::ReadWrite;
    let engine =
        match IoScheduler::open(&config(DiskConfig { path, access, ..DiskConfig::default() })) {
            Ok(engine) => engine,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("RLIMIT_MEMLOCK is 65536 bytes"), "{text}");
                return;
            }
        };
    let notes = engine.status().notes;
    let named = notes.iter().any(|note| note.contains("RLIMIT_MEMLOCK is 65536 bytes"));
    assert!(named, "no note names the limit: {notes:?}");
    // Slower, but it works.
    let mut buffer = engine.buffer(4096).unwrap();
    buffer.fill(7);
    let wrote = engine.write(DiskId(0), Priority::Write, 0, buffer).unwrap().wait().unwrap();
    let (result, buffer) = wrote.into_parts();
    assert_eq!(result.unwrap(), 4096);
    let mut buffer = buffer.unwrap();
    buffer.fill(0);
    let read = engine.read(DiskId(0), Priority::NormalRead, 0, buffer).unwrap().wait().unwrap();
    let (result, buffer) = read.into_parts();
    assert_eq!(result.unwrap(), 4096);
    assert!(buffer.unwrap().iter().all(|byte| *byte == 7));
}

// ---- without memory for the arenas

/// Cause: when an arena could not be mapped the opening returned without its threads.
/// Harm: they went on for a moment, with the disks open, while the caller tried again.
/// Fix: join them.
#[test]
fn an_opening_without_memory_leaves_no_thread() {
    let _turn = my_turn();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_without_memory", "--nocapture"])
        .output()
        .unwrap();
    assert_child_ran(&output);
}

#[test]
#[ignore = "a child process of another test"]
fn child_without_memory() {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let limit = pages * 4096 + (512 << 20);
    setrlimit(Resource::RLIMIT_AS, limit, limit).unwrap();
    let path = std::env::temp_dir().join(format!("dynamicfs-no-memory-{}", std::process::id()));
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let access = DiskAccess::ReadWrite;
    let disk = DiskConfig { path: path.clone(), access, ..DiskConfig::default() };
    let mut config = config(disk);
    config.disks.push(nop_disk());
    config.reactors.count = Some(2);
    config.memory.arena_mib_per_node = 1024;
    // A thread that was left would hold the disk against one of the next openings.
    let texts: Vec<String> = (0..200)
        .map(|_| IoScheduler::open(&config).expect_err("there is no memory").to_string())
        .collect();
    std::fs::remove_file(&path).unwrap();
    let other = texts.iter().find(|text| !text.contains("1073741824 bytes"));
    assert_eq!(other, None);
}
