//! Hostile inputs: what the binary says and returns, and that it leaves everything as it was.
//!
//! Tests with loop devices need root and say loudly when they prove nothing.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, process};

const READ: [&str; 3] = ["--rw=randread", "--runtime=300ms", "--time_based"];

fn bench(words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dynamicfs-bench")).args(words).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn expect(words: &[&str], code: i32, message: &str) {
    let (found, error) = bench(words);
    assert_eq!(found, code, "{words:?}: {error}");
    assert!(error.contains(message), "{words:?}: {error}");
    assert!(!error.contains("error: :") && !error.contains("panicked"), "{words:?}: {error}");
}

/// A directory on a disk, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new("/var/tmp").join(format!("dynamicfs-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: u64) -> String {
        let path = self.0.join(name);
        fs::write(&path, vec![7; bytes as usize]).unwrap();
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A loop device of our own, detached at the end.
struct Loop(String);

impl Loop {
    fn over(file: &str) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show", file]).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
            }
            _ => {
                eprintln!("SKIPPED: no loop device (root is needed)");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["--detach", &self.0]).status());
    }
}

fn ran(program: &str, words: &[&str]) -> bool {
    let status = Command::new(program).args(words).stdout(Stdio::null()).status();
    let done = status.is_ok_and(|status| status.success());
    if !done {
        eprintln!("SKIPPED: {program} {words:?} failed");
    }
    done
}

#[test]
fn a_mistyped_device_is_unfit_and_nothing_is_created() {
    let device = "/dev/dynamicfs9n1";
    let destroy = format!("--destroy={device}");
    let name = format!("--filename={device}");
    let missing = "error: /dev/dynamicfs9n1: no such device";
    expect(&[&name, READ[0], READ[1], READ[2]], 3, missing);
    expect(&[&name, &destroy, "--rw=randwrite", READ[1], READ[2]], 3, missing);
    expect(&["calibrate", device], 3, missing);
    expect(&["compare", device], 3, missing);
    expect(&["smoke", device], 3, missing);
    assert!(!Path::new(device).exists());
}

#[test]
fn what_holds_no_block_is_unfit() {
    let scratch = Scratch::new("unfit");
    let (empty, block) = (scratch.file("empty", 0), scratch.file("block", 4096));
    for (path, message) in [
        (empty.as_str(), "holds 0 bytes"),
        ("/", "is a directory"),
        ("/dev/null", "is a character"),
    ] {
        expect(&[&format!("--filename={path}"), READ[0], READ[1]], 3, message);
        expect(&["calibrate", path], 3, message);
        expect(&["compare", path], 3, message);
    }
    expect(&["compare", &block, "--bs=8k"], 2, "smaller than one request");
    let name = format!("--filename={block}");
    expect(&[&name, "--offset=1m", READ[0], READ[1]], 2, "--offset=1048576: ");
    expect(&[&name, "--beside=", READ[0], READ[1]], 2, "--beside: has no job");
}

/// Cause: the report was written wherever --output led. Harm: it overwrote the start of a disk
/// without --destroy, or the measured file. Fix: a disk is refused before the run.
#[test]
fn a_report_never_overwrites_a_disk() {
    let scratch = Scratch::new("report");
    let file = scratch.file("disk", 1 << 20);
    let (name, output) = (format!("--filename={file}"), format!("--output={file}"));
    expect(&[&name, &output, READ[0], READ[1], READ[2]], 2, "is a disk");
    expect(&["calibrate", &file, &output, "--runtime=10ms"], 2, "is a disk");
    assert_eq!(fs::read(&file).unwrap(), vec![7; 1 << 20]);
    let start = Instant::now();
    let words = [&name, "--output=/nonexistent/report", READ[0], "--runtime=20", READ[2]];
    expect(&words, 1, "/nonexistent/report");
    assert!(start.elapsed() < Duration::from_secs(10), "found out after the run");
    let other = scratch.file("other", 1 << 20);
    let Some(disk) = Loop::over(&other) else { return };
    let link = scratch.0.join("link");
    std::os::unix::fs::symlink(&disk.0, &link).unwrap();
    for place in [disk.0.as_str(), link.to_str().unwrap()] {
        let output = format!("--output={place}");
        expect(&[&name, &output, READ[0], READ[1], READ[2]], 2, "is a disk");
    }
    assert_eq!(fs::read(&other).unwrap(), vec![7; 1 << 20]);
}

#[test]
fn a_disk_with_a_mounted_partition_is_refused_by_every_name() {
    let scratch = Scratch::new("mounted");
    let Some(disk) = Loop::over(&scratch.file("disk", 32 << 20)) else { return };
    let part = format!("{}p1", disk.0);
    if !ran("addpart", &[&disk.0, "1", "2048", "32768"]) || !ran("mkfs.ext4", &["-q", &part]) {
        return;
    }
    let (link, mount) = (scratch.0.join("link"), scratch.0.join("mnt"));
    std::os::unix::fs::symlink(&disk.0, &link).unwrap();
    fs::create_dir(&mount).unwrap();
    let write = |path: &str, code, message: &str| {
        let (name, destroy) = (format!("--filename={path}"), format!("--destroy={path}"));
        expect(&[&name, &destroy, "--rw=randwrite", "--force", READ[1], READ[2]], code, message);
    };
    if ran("mount", &[&part, mount.to_str().unwrap()]) {
        let result = std::panic::catch_unwind(|| {
            for path in [disk.0.as_str(), link.to_str().unwrap(), &part] {
                write(path, 4, "is mounted on");
            }
            expect(&[&format!("--filename={part}"), READ[0], READ[1]], 4, "is mounted on");
        });
        ran("umount", &[mount.to_str().unwrap()]);
        assert!(result.is_ok(), "see above");
    }
    let (name, destroy) = (format!("--filename={}", disk.0), format!("--destroy={}", disk.0));
    expect(&[&name, &destroy, "--rw=randwrite", READ[1], READ[2]], 4, "ext4");
    ran("delpart", &[&disk.0, "1"]);
}

#[test]
fn a_file_cut_short_during_a_run_is_counted() {
    let scratch = Scratch::new("cut");
    let file = scratch.file("disk", 16 << 20);
    for client in ["--client=reactor", "--client=thread"] {
        fs::write(&file, vec![7; 16 << 20]).unwrap();
        let path = file.clone();
        let cutter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
        });
        let name = format!("--filename={file}");
        let words = [&name, client, "--rw=randread", "--runtime=2", "--time_based"];
        expect(&words, 5, "the file or device ends before that");
        cutter.join().unwrap();
    }
}

/// Cause: signals ended the process without a destructor. Harm: 512 MiB left in /var/tmp.
/// Fix: `smoke/temporary.rs`.
#[test]
fn an_interrupted_smoke_leaves_nothing() {
    let scratch = Scratch::new("interrupted");
    for (signal, number, after_ms) in [("-INT", 2, 150), ("-TERM", 15, 2500), ("-HUP", 1, 1500)] {
        // What runs the tests may ignore signals, and a program inherits that.
        let mut child = Command::new("env")
            .args(["--default-signal", env!("CARGO_BIN_EXE_dynamicfs-bench")])
            .args(["smoke", "--runtime=3", "--dir", scratch.0.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        assert!(ran("kill", &[signal, &child.id().to_string()]));
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(number));
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn a_smoke_without_a_place_says_how_to_name_one() {
    for dir in ["/nonexistent", "/dev/shm", "/proc"] {
        let (code, error) = bench(&["smoke", "--dir", dir, "--runtime=50ms"]);
        assert_eq!(code, 3, "{error}");
        assert!(error.contains("--dir=DIR") && error.contains(dir), "{error}");
    }
}
