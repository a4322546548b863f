//! The admin tool from outside: exit codes, messages, JSON, and readers who go away.
#![cfg(feature = "cli")]
// clippy.toml allows this in tests, but does not see the functions beside them.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn dynamicfs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dynamicfs")).args(arguments).output().unwrap()
}

fn out(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

fn recorded(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/topologies");
    folder.join(name).display().to_string()
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let help = dynamicfs(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for line in ["0  success", "1  runtime", "2  wrong", "3  a device", "4  a device", "5  I/O"] {
        assert!(out(&help).contains(line), "{line}");
    }
    let qemu = recorded("qemu-2s4c-4nvme.xml");
    for (arguments, code, message) in [
        (&["devices"][..], 0, ""),
        (&["plan", "--topology", &qemu], 0, ""),
        (&[], 2, "Usage"),
        (&["nonsense"], 2, "unrecognized"),
        (&["plan"], 2, "name at least one device"),
        (&["plan", "--topology", &qemu, "--cpus", "7"], 2, "usable are 0-3"),
        (&["plan", "--topology", &qemu, "--cpus", "1-x"], 2, "not a CPU number"),
        (&["plan", "--topology", &qemu, "--lanes", "5"], 2, "5 lanes"),
        (&["plan", "--topology", "/nonexistent.xml"], 2, "cannot read the topology"),
        (&["plan", "--topology", "/proc/self/status"], 2, "not a topology"),
        (&["plan", "--topology", &qemu, "sda"], 3, "has no disk sda"),
        (&["devices", "/dev/nonexistent"], 3, "no such device"),
        (&["devices", "/dev/null"], 3, "character device"),
        (&["plan", "/proc"], 3, "is a directory"),
    ] {
        let output = dynamicfs(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(message), "{arguments:?}: {}", err(&output));
        assert_eq!(err(&output).is_empty(), code == 0, "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn errors_have_the_programs_name_and_help() {
    let output = dynamicfs(&["devices", "/dev/nonexistent"]);
    let mut lines = err(&output).lines();
    let first = lines.next().unwrap();
    assert_eq!(first, "dynamicfs: error: /dev/nonexistent: no such device or file");
    assert!(lines.next().unwrap().starts_with("help: "));
    assert_eq!(lines.next(), None);
}

#[test]
fn one_bad_path_does_not_hide_the_good_ones() {
    let file = recorded("README.md");
    let output = dynamicfs(&["devices", "--json", "/dev/nonexistent", &file]);
    assert_eq!(output.status.code(), Some(3));
    let devices: Value = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(devices.as_array().map(Vec::len), Some(1));
    assert_eq!(devices[0]["kind"], "file");
}

#[test]
fn json_is_valid_and_complete() {
    let devices = dynamicfs(&["devices", "--json"]);
    let devices: Value = serde_json::from_str(out(&devices)).unwrap();
    assert!(devices.is_array());
    let qemu = recorded("qemu-2s4c-4nvme.xml");
    let plan = dynamicfs(&["plan", "--json", "--topology", &qemu, "nvme3n1", "/dev/nvme0n1"]);
    let plan: Value = serde_json::from_str(out(&plan)).unwrap();
    assert_eq!(plan["topology"]["nodes"].as_array().map(Vec::len), Some(2));
    let placement = &plan["placement"];
    assert_eq!(placement["disks"], serde_json::json!(["nvme3n1", "nvme0n1"]));
    assert_eq!(placement["reactors"][1]["cpu"], 2);
    assert_eq!(placement["lanes"][0]["local"], "local");
}

#[test]
fn a_plan_is_a_table() {
    let qemu = recorded("qemu-2s4c-4nvme.xml");
    let output = dynamicfs(&["plan", "--topology", &qemu, "--cpus", "3", "nvme0n1", "nvme2n1"]);
    assert!(out(&output).contains("      0     3     1        1  nvme0n1 nvme2n1(remote)"));
    assert!(out(&output).contains("note: nvme2n1 is on node 0, where there is no reactor"));
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dynamicfs"))
        .args(["plan", "--json", "--topology", &recorded("qemu-2s128c-24nvme.xml")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output)), (Some(0), ""));
}

/// A path for one test's files, removed with all that begins with it.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let folder = format!("dynamicfs-cli-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn good(arguments: &[&str]) -> Output {
    let output = dynamicfs(arguments);
    assert_eq!((output.status.code(), err(&output)), (Some(0), ""), "{arguments:?}");
    output
}

fn bad(arguments: &[&str], code: i32, message: &str) {
    let output = dynamicfs(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
    assert!(err(&output).contains(message), "{arguments:?}: {}", err(&output));
    assert_eq!(out(&output), "", "{arguments:?}");
}

#[test]
fn a_pool_is_made_filled_shown_and_emptied() {
    let scratch = Scratch::new("pool");
    let (pool, input, copy) = (scratch.path("pool"), scratch.path("in"), scratch.path("out"));
    let made = good(&["format", &pool, "--size=64M", "--domains=2", "--yes"]);
    assert!(out(&made).contains("a pool on the new file") && out(&made).contains("4 of 4 copies"));
    let content: Vec<u8> = (0..9_000_000_u32).map(|n| (n / 3) as u8).collect();
    std::fs::write(&input, &content).unwrap();
    let put = good(&["put", &pool, &input, "--inode=new", "--tag=a big one"]);
    let inode = out(&put).strip_prefix("inode ").unwrap().split(':').next().unwrap().to_owned();
    good(&["get", &pool, &inode, "--out", &copy]);
    assert!(std::fs::read(&copy).unwrap() == content);
    bad(&["get", &pool, &inode, "--out", &copy], 4, "exists");
    // What is shorter replaces all of it.
    std::fs::write(&input, b"short").unwrap();
    good(&["put", &pool, &input, "--inode", &inode]);
    assert_eq!(good(&["get", &pool, &inode]).stdout, b"short");
    let listed: Value = serde_json::from_str(out(&good(&["ls", "--json", &pool]))).unwrap();
    assert_eq!(listed[0]["tag"], "a big one");
    assert_eq!(listed[0]["size_bytes"], 5);
    assert!(out(&good(&["ls", &pool])).contains("5 B"));
    let status: Value =
        serde_json::from_str(out(&good(&["status", "--metrics", "--json", &pool]))).unwrap();
    assert_eq!(status["inodes"], 1);
    assert_eq!(status["domains"].as_array().map(Vec::len), Some(2));
    assert!(status["free_bytes"].as_u64() < status["capacity_bytes"].as_u64());
    assert!(out(&good(&["status", "--metrics", &pool])).contains("DOMAIN"));
    // Looking changes nothing.
    let before = std::fs::read(&pool).unwrap();
    good(&["get", &pool, &inode, "--out", &scratch.path("again")]);
    good(&["ls", &pool]);
    good(&["status", "--metrics", &pool]);
    assert!(std::fs::read(&pool).unwrap() == before);
    // Recovering writes that it was opened, and changes nothing that there is.
    let recovered = good(&["recover", "--json", "--give-up-undecidable", &pool]);
    let recovered: Value = serde_json::from_str(out(&recovered)).unwrap();
    assert_eq!(recovered["domains"][0]["recovery"]["dropped"], Value::Null);
    assert!(std::fs::read(&pool).unwrap() != before);
    assert!(out(&good(&["recover", &pool])).contains("DOMAIN"));
    assert_eq!(good(&["get", &pool, &inode]).stdout, b"short");
    good(&["rm", &pool, &inode]);
    assert_eq!(out(&good(&["ls", &pool])), "INODE  SIZE  GENERATION  TAG\n");
    bad(&["rm", &pool, &inode], 1, "there is no inode");
    bad(&["get", &pool, "77"], 1, "there is no inode 77");
    bad(&["put", &pool, "/nonexistent", "--inode=new"], 3, "cannot open /nonexistent");
    bad(&["put", &pool, &input, "--inode=x"], 2, "neither an inode's number");
}

#[test]
fn a_format_destroys_nothing_unasked() {
    let scratch = Scratch::new("format");
    let pool = scratch.path("pool");
    bad(&["format", &pool], 3, "no such device or file");
    bad(&["format", &pool, "--size=1x"], 2, "is not a size");
    bad(&["format", &pool, "--size=1M", "--yes"], 3, "are too few");
    assert!(!Path::new(&pool).exists());
    let unasked = Command::new(env!("CARGO_BIN_EXE_dynamicfs"))
        .args(["format", &pool, "--size=32M"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(unasked.status.code(), Some(4), "{}", err(&unasked));
    assert!(err(&unasked).contains("nobody is there to be asked"), "{}", err(&unasked));
    assert!(err(&unasked).contains("32.0 MiB"), "it says what it would do");
    assert!(!Path::new(&pool).exists());
    let made = good(&["format", &pool, "--size=32M", "--yes", "--json"]);
    let made: Value = serde_json::from_str(out(&made)).unwrap();
    let id = made["pool"]["pool"].as_str().unwrap();
    let status: Value = serde_json::from_str(out(&good(&["status", "--json", &pool]))).unwrap();
    assert_eq!(status["pool"]["pool"], id);
    assert!(out(&good(&["status", &pool])).contains(id));
    bad(&["format", &pool, "--yes"], 4, id);
    bad(&["format", &pool, "--size=32M", "--yes"], 2, "is there already");
    good(&["format", &pool, "--yes", "--overwrite"]);
    let again: Value = serde_json::from_str(out(&good(&["status", "--json", &pool]))).unwrap();
    assert_ne!(again["pool"]["pool"], id);
    let other = scratch.path("other");
    std::fs::write(&other, vec![0; 8 << 20]).unwrap();
    bad(&["status", &other], 3, "is not a disk of a pool");
    bad(&["ls", &other], 3, "is not a disk of a pool");
    bad(&["status", "/nonexistent"], 3, "no such device");
    let config = scratch.path("config");
    std::fs::write(&config, "[table]\nmib = 0\n").unwrap();
    bad(&["ls", &pool, "--config", &config], 2, "table.mib = 0");
    std::fs::write(&config, "[tabel]\nmib = 1\n").unwrap();
    bad(&["ls", &pool, "--config", &config], 2, "nearest is table");
}

#[test]
fn disks_that_fail_together_never_hold_the_same() {
    let scratch = Scratch::new("domains");
    let paths = ["a", "b", "c", "d"].map(|name| scratch.path(name));
    let [a, b, c, d] = paths.each_ref().map(String::as_str);
    let of = |name: &str, path: &str| format!("--failure-domain={name}={path}");
    let four = ["format", a, "--disk", b, "--disk", c, "--disk", d, "--mirrors=2"];
    let format = |domains: &[String]| -> Vec<String> {
        let rest = ["--size=64M", "--yes", "--json"].map(str::to_owned);
        four.map(str::to_owned).into_iter().chain(domains.iter().cloned()).chain(rest).collect()
    };
    let many = format(&[of("one", a), of("one", b), of("one", c), of("two", d)]);
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    bad(&many, 2, "\"one\" for 3 of 4 disks");
    let half = format(&[of("one", a)]);
    bad(&half.iter().map(String::as_str).collect::<Vec<_>>(), 2, "of all or of none");
    let strange = format(&[of("one", "elsewhere")]);
    bad(&strange.iter().map(String::as_str).collect::<Vec<_>>(), 2, "no disk of the pool");
    let two = format(&[of("one", a), of("one", b), of("two", c), of("two", d)]);
    let done = good(&two.iter().map(String::as_str).collect::<Vec<_>>());
    let done: serde_json::Value = serde_json::from_str(out(&done)).unwrap();
    let disks = done["pool"]["disks"].as_array().unwrap();
    let slots: Vec<(u64, &str)> = disks
        .iter()
        .map(|disk| (disk["slot"].as_u64().unwrap(), disk["path"].as_str().unwrap()))
        .collect();
    assert_eq!(slots, [(0, a), (0, c), (1, b), (1, d)]);
}
