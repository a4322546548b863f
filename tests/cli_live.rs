//! The admin tool beside an engine that runs, reached by its control socket.
#![cfg(feature = "cli")]
// clippy.toml allows this in tests, but does not see the functions beside them.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use dynamicfs::engine::engine_config::ControlSocket;
use dynamicfs::{EngineConfig, Force, FormatOptions, InodeOptions, Missing, StorageEngine};
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamicfs"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn good(arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}{errors}");
    text
}

fn bad(arguments: &[&str], code: i32, words: &str) {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(errors.contains(words), "{arguments:?}: {errors}");
}

/// A pool of two files that hold the same, in a folder of its own.
struct Pool {
    folder: PathBuf,
    config: EngineConfig,
}

impl Pool {
    fn new(name: &str) -> Pool {
        let name = format!("dynamicfs-live-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut config = EngineConfig::on_disks([folder.join("a"), folder.join("b")]);
        config.io.reactors.count = Some(1);
        config.io.memory.arena_mib_per_node = 48;
        config.journal.writeback_mib = 4;
        config.pool.domains = Some(1);
        config.pool.mirrors = Some(2);
        config.control.socket = ControlSocket::At(folder.join("socket"));
        let options = FormatOptions { create_bytes: Some(64 << 20), ..FormatOptions::default() };
        StorageEngine::format(&config, options).unwrap();
        Pool { folder, config }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_running_engine_is_shown_scrubbed_and_told() {
    let pool = Pool::new("shown");
    let (disk, socket) = (pool.path("a"), format!("--socket={}", pool.path("socket")));
    let engine = StorageEngine::open(pool.config.clone()).unwrap();
    let inode = engine.create_inode(InodeOptions::default()).wait().unwrap();
    for n in 0..64 {
        engine.write(inode, n << 16, &[9; 1 << 16]).wait().unwrap();
    }
    let text = good(&["status", "--metrics", &socket, &disk]);
    for words in [
        "REACTOR  CPU",
        "DISK  PLACE  HEALTH",
        "0     0.0    good",
        "1     0.1    good",
        "critical",
        "lock_contention_ratio",
        "avg_group_commit_ops",
        "io_queue_length",
        "OPS EACH",
        "< 0.05",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let json: Value =
        serde_json::from_str(&good(&["status", "--metrics", "--json", &socket, &disk])).unwrap();
    assert_eq!(json["engine"]["pid"], std::process::id());
    assert_eq!(json["metrics"]["caller_bytes"], 64 << 16);
    assert_eq!(json["disks"][1]["member"]["state"], "in_sync");
    // The engine's own configuration names the socket too.
    let config = pool.path("config");
    std::fs::write(&config, format!("[control]\nsocket = \"{}\"\n", pool.path("socket"))).unwrap();
    assert!(good(&["status", "--metrics", "--config", &config, &disk]).contains("process"));

    // Another pool's disks are not this engine's.
    let other = Pool::new("other");
    bad(&["status", "--metrics", &socket, &other.path("a")], 4, "does not have");
    bad(&["scrub", "start", &socket, &other.path("a")], 4, "does not have");

    let started = good(&["scrub", "start", "--mib-per-second=1", &socket, &disk]);
    assert!(started.contains("running"), "{started}");
    assert!(good(&["scrub", "pause", &socket, &disk]).contains("paused"));
    assert!(good(&["status", "--metrics", &socket, &disk]).contains("paused at"));
    assert!(good(&["scrub", "status", &socket, &disk]).contains("paused"));
    assert!(good(&["scrub", "stop", &socket, &disk]).contains("idle"));
    let done: Value =
        serde_json::from_str(&good(&["scrub", "start", "--wait", "--json", &socket, &disk]))
            .unwrap();
    assert_eq!(done["domains"][0]["state"], "finished");
    assert_eq!(done["domains"][0]["lost"], 0);
    bad(&["scrub", "start", "--mib-per-second=0", &socket, &disk], 2, "0 is not in");

    good(&["disk", "sync", "--pause", &socket, &disk]);
    assert!(good(&["status", "--metrics", &socket, &disk]).contains("paused"));
    let disks = good(&["disk", "sync", "--resume", "--mib-per-second=0", &socket, &disk]);
    assert_eq!(disks.matches("in sync").count(), 2, "{disks}");
    engine.close(Duration::from_secs(30)).unwrap();

    // Nobody has it open: what needs that says so, all else opens it.
    bad(&["status", "--metrics", &socket, &disk], 1, "no engine answers at");
    bad(&["scrub", "pause", "--config", &config, &disk], 1, "no running engine");
    bad(&["status", "--metrics", "--watch", "--config", &config, &disk], 1, "no running engine");
    bad(&["status", "--watch", &disk], 2, "--metrics");
    let other = format!("--disk={}", pool.path("b"));
    assert!(good(&["status", "--metrics", &disk, &other]).contains("since the pool was made"));
    let scrubbed = good(&["scrub", "start", &disk, &other]);
    assert!(scrubbed.contains("finished"), "{scrubbed}");
    let whole = good(&["scrub", "start", "--wait", "--coalesce", &disk, &other]);
    assert!(whole.contains("COALESCED"), "{whole}");
}

/// A disk that is gone is replaced, and one that was away comes back, without closing the pool.
#[test]
fn disks_come_to_a_running_engine() {
    let pool = Pool::new("disks");
    let (disk, socket) = (pool.path("a"), format!("--socket={}", pool.path("socket")));
    std::fs::rename(pool.path("b"), pool.path("away")).unwrap();
    let force = Force { missing: Missing::Accept, ..Force::default() };
    let engine = StorageEngine::open_forced(pool.config.clone(), force).unwrap();
    let inode = engine.create_inode(InodeOptions::default()).wait().unwrap();
    engine.write(inode, 0, &[9; 1 << 20]).wait().unwrap();
    let text = good(&["status", "--metrics", &socket, &disk]);
    assert!(text.contains("disks_in_sync") && text.contains("MISSED"), "{text}");

    let new = pool.path("new");
    std::fs::File::create(&new).unwrap().set_len(64 << 20).unwrap();
    let replace = |with: &str, mirror: &str, code: i32, words: &str| {
        let with = format!("--with={with}");
        let place = ["--slot=0", mirror, "--yes"];
        bad(&[&["disk", "replace", &disk, &socket, &with], &place[..]].concat(), code, words);
    };
    replace(&new, "--mirror=0", 1, "is there, and in use");
    replace(&new, "--mirror=2", 1, "1 slots with 2 mirrors each");
    replace("/nonexistent", "--mirror=1", 1, "no such device");
    replace(&disk, "--mirror=1", 1, "");
    bad(&["disk", "attach", &disk, &socket, "--with", &new], 1, "name the place");
    let with = format!("--with={new}");
    let text = good(&["disk", "replace", &disk, &socket, &with, "--slot=0", "--mirror=1", "--yes"]);
    assert!(text.contains("behind"), "{text}");
    let text = good(&["disk", "sync", &disk, &socket]);
    assert_eq!(text.matches("in sync").count(), 2, "{text}");
    let away = pool.path("away");
    bad(&["disk", "attach", &disk, &socket, "--with", &away], 1, "is there, and in use");
    engine.close(Duration::from_secs(30)).unwrap();

    // What the new one lacks is brought back by itself.
    let mut alone = pool.config.clone();
    alone.io.disks.truncate(1);
    let engine = StorageEngine::open_forced(alone, force).unwrap();
    engine.write(inode, 0, &[7; 1 << 16]).wait().unwrap();
    let text = good(&["disk", "attach", &disk, &socket, "--with", &new]);
    assert!(text.contains("behind"), "{text}");
    let text = good(&["disk", "sync", &disk, &socket]);
    assert_eq!(text.matches("in sync").count(), 2, "{text}");
    engine.close(Duration::from_secs(30)).unwrap();
    good(&["check", "--data", &disk, &new]);
}

/// Space comes to a pool that is full, while it is open and while it is not.
#[test]
fn slots_come_to_a_running_engine_and_to_a_pool_at_rest() {
    let pool = Pool::new("slots");
    let (disk, socket) = (pool.path("a"), format!("--socket={}", pool.path("socket")));
    let new: Vec<String> = ["c", "d", "e", "f"].map(|name| pool.path(name)).into();
    for path in &new {
        std::fs::write(path, vec![0; 64 << 20]).unwrap();
    }
    let with: Vec<String> = new.iter().map(|path| format!("--with={path}")).collect();
    let engine = StorageEngine::open(pool.config.clone()).unwrap();
    let inode = engine.create_inode(InodeOptions::default()).wait().unwrap();
    let fill = |from: u64| {
        let mut size = from;
        while engine.write(inode, size, &[size as u8 >> 4; 1 << 20]).wait().is_ok() {
            size += 1 << 20;
        }
        size
    };
    let full = fill(0);
    let add = |more: &[&str], code: i32, words: &str| {
        bad(&[&["disk", "add", &disk, &socket, "--yes"], more].concat(), code, words);
    };
    add(&[&with[0]], 1, "each slot of this pool has 2");
    add(&[&with[0], &with[0]], 1, "named twice");
    add(&[&with[0], "--with=/nonexistent"], 1, "no such device");
    add(&[&with[0], &format!("--with={disk}")], 1, "");
    let text = good(&["disk", "add", &disk, &socket, "--yes", &with[0], &with[1]]);
    assert!(text.contains(&format!("--disk {} --disk {}", new[0], new[1])), "{text}");
    assert_eq!(text.matches("in sync").count(), 2, "{text}");
    let wider = fill(full);
    assert!(wider - full > 40 << 20, "{full} bytes, then {wider}");
    let json: Value =
        serde_json::from_str(&good(&["status", "--metrics", "--json", &socket, &disk])).unwrap();
    assert_eq!(
        (json["pool"]["members"].as_u64(), json["disks"].as_array().map(Vec::len)),
        (Some(4), Some(4))
    );
    engine.close(Duration::from_secs(30)).unwrap();

    let others = [&pool.path("b"), &new[0], &new[1]].map(|path| format!("--disk={path}"));
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    bad(&["ls", &disk, others[0]], 3, "slot 1");
    let rest = [&["disk", "add", &disk, "--yes", &with[2], &with[3]], &others[..]].concat();
    let text = good(&rest);
    assert!(text.contains("2     1       in sync"), "{text}");
    let all = [&disk, &pool.path("b"), &new[0], &new[1], &new[2], &new[3]];
    let all: Vec<&str> = all.iter().map(|path| path.as_str()).collect();
    good(&[&["check", "--data"], &all[..]].concat());
    let mut config = EngineConfig::on_disks(&all);
    config.io.reactors.count = Some(1);
    config.control.socket = ControlSocket::Off;
    let engine = StorageEngine::open(config).unwrap();
    for offset in (0..wider).step_by(1 << 20) {
        let bytes = engine.read(inode, offset..offset + (1 << 20)).wait().unwrap();
        assert!(bytes.iter().all(|byte| *byte == offset as u8 >> 4), "at {offset}");
    }
    engine.close(Duration::from_secs(30)).unwrap();
}

#[test]
fn disks_grow_under_a_running_engine_and_at_rest() {
    let pool = Pool::new("grown");
    let (disk, socket) = (pool.path("a"), format!("--socket={}", pool.path("socket")));
    let enlarge = |name: &str, mib: u64| {
        let mut file = std::fs::File::options().append(true).open(pool.path(name)).unwrap();
        let more = (mib << 20) - file.metadata().unwrap().len();
        std::io::Write::write_all(&mut file, &vec![0; more as usize]).unwrap();
    };
    let engine = StorageEngine::open(pool.config.clone()).unwrap();
    let inode = engine.create_inode(InodeOptions::default()).wait().unwrap();
    let mut size = 0;
    let mut fill = |engine: &StorageEngine| {
        while engine.write(inode, size, &[size as u8 >> 4; 1 << 20]).wait().is_ok() {
            size += 1 << 20;
        }
        size
    };
    let full = fill(&engine);
    enlarge("a", 96);
    assert!(good(&["disk", "grow", &disk, &socket]).contains("no disk has grown"), "b has not");
    enlarge("b", 100);
    let grown: Value =
        serde_json::from_str(&good(&["disk", "grow", &disk, &socket, "--json"])).unwrap();
    let more = |field: &str| grown["slots"][0][field].as_u64().unwrap();
    let came = more("data_bytes") - more("data_bytes_before");
    assert!((24 << 20..=32 << 20).contains(&came), "{grown}");
    let larger = fill(&engine);
    assert!(larger - full > came / 10 * 8, "{full} bytes, then {larger}");
    engine.close(Duration::from_secs(30)).unwrap();

    enlarge("a", 128);
    enlarge("b", 128);
    let other = format!("--disk={}", pool.path("b"));
    assert!(good(&["disk", "grow", &disk, &other]).contains("DATA NOW"));
    good(&["check", "--data", &disk, &pool.path("b")]);
    let engine = StorageEngine::open(pool.config.clone()).unwrap();
    let last = fill(&engine);
    assert!(last - larger > 20 << 20, "{larger} bytes, then {last}");
    for offset in (0..last).step_by(1 << 20) {
        let bytes = engine.read(inode, offset..offset + (1 << 20)).wait().unwrap();
        assert!(bytes.iter().all(|byte| *byte == offset as u8 >> 4), "at {offset}");
    }
    engine.close(Duration::from_secs(30)).unwrap();
    good(&["check", "--data", &disk, &pool.path("b")]);
}

#[test]
fn it_is_watched_as_long_as_it_runs() {
    let pool = Pool::new("watched");
    let (disk, socket) = (pool.path("a"), format!("--socket={}", pool.path("socket")));
    let engine = StorageEngine::open(pool.config.clone()).unwrap();
    let inode = engine.create_inode(InodeOptions::default()).wait().unwrap();
    let mut watching = command(&["status", "--metrics", "--watch", "--json", &socket, &disk])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    engine.write(inode, 0, &[1; 8192]).wait().unwrap();
    let second = next();
    let written = |of: &Value| of["metrics"]["caller_bytes"].as_u64().unwrap();
    assert!(written(&second) == 8192 || written(&next()) == 8192, "{first}");
    engine.close(Duration::from_secs(30)).unwrap();
    let ended = watching.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "an engine that is gone is said to be");
    let words = String::from_utf8_lossy(&ended.stderr);
    assert!(words.contains("stopped answering"), "{words}");

    // A reader who goes away ends it without a word.
    let engine = StorageEngine::open(pool.config.clone()).unwrap();
    let mut watching = command(&["status", "--metrics", "--watch=1", &socket, &disk])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(watching.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.starts_with("pool "), "{line}");
    drop(out);
    let ended = watching.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
    engine.close(Duration::from_secs(30)).unwrap();
}

/// Without a path in any configuration the pool's id leads to the socket.
#[test]
fn an_engine_is_found_by_its_pool() {
    let pool = Pool::new("found");
    let mut config = pool.config.clone();
    config.control.socket = ControlSocket::Auto;
    let engine = StorageEngine::open(config).unwrap();
    let Some(socket) = engine.control_socket() else {
        let notes = engine.status().unwrap().io.notes;
        eprintln!("SKIPPED: this machine has no folder for control sockets: {notes:?}");
        return;
    };
    assert!(socket.exists());
    let shown = good(&["status", "--metrics", &pool.path("a")]);
    assert!(shown.contains(&format!("{}, version", std::process::id())), "{shown}");
    engine.close(Duration::from_secs(30)).unwrap();
    assert!(!socket.exists());
}
