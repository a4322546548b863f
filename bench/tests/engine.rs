//! Runs on the storage engine: what the command line refuses, and a short run of each kind of
//! client on a file.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, process};

use dynamicfs::{EngineConfig, InodeId, InodeOptions, StorageEngine};
use serde_json::Value;

/// A directory on a disk, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new("/var/tmp").join(format!("dynamicfs-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: usize) -> String {
        let path = self.0.join(name);
        fs::write(&path, vec![7; bytes]).unwrap();
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn bench(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dynamicfs-bench")).args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn refused(words: &[&str], wanted_code: i32, wanted: &str) {
    let (code, out, error) = bench(words);
    assert_eq!((code, out.as_str()), (wanted_code, ""), "{words:?}: {error}");
    assert!(error.contains(wanted) && error.contains("\nhelp: "), "{words:?}: {error}");
}

const DISK: [&str; 3] = ["--target=engine", "--filename=/nonexistent", "--destroy=/nonexistent"];

#[test]
fn what_a_pool_has_no_use_for_is_refused() {
    let with = |word: &'static str| [&DISK[..], &[word]].concat();
    for (word, wanted) in [
        ("--iodepth=2", "--iodepth=2: is not for --target=engine\nhelp: one request"),
        ("--iodepth_batch_submit=1", "--numjobs"),
        ("--beside=rw=read", "has one job"),
        ("--rate_iops=5", "closed loop"),
        ("--offset=1m", "from 0 on"),
        ("--priority=critical", "chooses the classes"),
        ("--client=thread", "--clients=threads, tasks or reactor"),
        ("--config=x.toml", "--pool=FILE"),
        ("--inodes=0", "from 1 to 256"),
        ("--drivers=2", "add --clients=tasks"),
        ("--filename=/dev/other", "does not name /dev/other, a disk of the pool"),
        ("--destroy=/dev/other", "is not a disk of the pool"),
        ("--readonly", "--readonly: a run on the engine makes inodes"),
        ("--clients=fibres", "possible values: threads, tasks, reactor"),
        ("--durability=maybe", "possible values: committed, buffered"),
        ("--format=maybe", "possible values: fill, quick"),
    ] {
        refused(&with(word), 2, wanted);
    }
    refused(&["--target=engine"], 2, "needs a pool");
    refused(&["--target=engine", "--filename=/x"], 2, "add --destroy=/x");
    refused(
        &["--target=nop", "--size=1m", "--durability=buffered"],
        2,
        "a word of --target=engine",
    );
    refused(&["--filename=/x", "--format"], 2, "a word of --target=engine");
    refused(&["compare-durable", "/x"], 2, "add --destroy=/x");
    refused(&["compare-durable", "/x", "--destroy=/x", "--bs=512"], 2, "blocks of 4096");
    refused(&["compare", "/x", "--target=engine"], 2, "compares raw reads");
    refused(&DISK, 3, "no such device");
    refused(&["compare-durable", DISK[1].split_at(11).1, DISK[2]], 3, "no such device");
}

#[test]
fn a_nop_disk_is_no_pool() {
    let scratch = Scratch::new("bench-nop");
    let config = scratch.0.join("nop.toml");
    fs::write(&config, "[[disks]]\nnop_bytes = 1073741824\naccess = \"read_write\"\n").unwrap();
    let pool = format!("--pool={}", config.display());
    refused(&["--target=engine", &pool, "--destroy=/x", "--rw=randread"], 2, "nop_bytes");
}

/// Neither without the right consent, nor over something that was found there.
#[test]
fn nothing_is_formatted_without_consent() {
    let scratch = Scratch::new("bench-consent");
    let (file, other) = (scratch.file("disk", 64 << 20), scratch.file("other", 4096));
    let config = scratch.0.join("pool.toml");
    let text = format!("[[disks]]\npath = \"{file}\"\naccess = \"read_write\"\n");
    fs::write(&config, text).unwrap();
    let pool = format!("--pool={}", config.display());
    let destroy = format!("--destroy={other}");
    let words = ["--target=engine", &pool, &destroy, "--format", "--rw=write"];
    refused(&words, 2, "is not a disk of the pool");
    let destroy = format!("--destroy={file}");
    let words = ["--target=engine", &pool, &destroy, "--rw=write"];
    refused(&words, 3, "make a pool with --format");
    assert_eq!(fs::read(&file).unwrap(), vec![7; 64 << 20], "not a byte was written");
    let words = ["--target=engine", &pool, &destroy, "--format", "--rw=write", "--size=64k"];
    let (code, _, error) = bench(&words);
    assert_eq!(code, 0, "{error}");
    refused(&words, 4, "a label of the dynamicfs pool");
    refused(&["compare-durable", &file, &destroy, "--runtime=10ms"], 4, "a label of");
    let output = format!("--output={file}");
    refused(&["--target=engine", &pool, &destroy, &output], 2, "is a disk");
}

fn json(words: &[&str]) -> Value {
    let (code, out, error) = bench(words);
    assert_eq!(code, 0, "{words:?}: {error}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn every_client_writes_and_reads_a_pool() {
    let scratch = Scratch::new("bench-engine");
    let file = scratch.file("disk", 96 << 20);
    let (name, destroy) = (format!("--filename={file}"), format!("--destroy={file}"));
    let pool = ["--target=engine", &name, &destroy, "--output-format=json", "--group_reporting"];
    let time = ["--runtime=300ms", "--time_based", "--ramp=50ms", "--bs=4k", "--size=1m"];
    let load = ["--numjobs=4", "--rw=randrw", "--rwmixread=30"];
    let mut first = vec!["--format=quick"];
    for clients in ["threads", "tasks", "reactor"] {
        let own = [format!("--clients={clients}"), "--inodes=2".into()];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let report = json(&[&pool[..], &time, &load, &own, &std::mem::take(&mut first)].concat());
        let (job, ours) = (&report["jobs"][0], &report["dynamicfs"]);
        let reads = job["read"]["total_ios"].as_u64().unwrap();
        let writes = job["write"]["total_ios"].as_u64().unwrap();
        assert!(reads > 0 && writes > reads, "{clients}: {reads} {writes}");
        assert_eq!((&ours["failed_ios"], &ours["target"]), (&0.into(), &"engine".into()));
        let store = &ours["store"];
        assert_eq!((&store["clients"], &store["inodes"]), (&clients.into(), &2.into()));
        let counts = |name: &str| store["counts"][name].as_u64().unwrap();
        assert!(counts("group_commits") > 0, "{store}");
        // A request or commit at an edge of the window may be on one side of it alone.
        let asked = counts("caller_bytes") / 4096;
        assert!(asked.abs_diff(counts("group_commit_ops")) <= 4, "{store}");
        let durable = counts("batch_flushes") + counts("batch_dsyncs");
        assert!(durable.abs_diff(counts("group_commits")) <= 4, "{store}");
        let closed = counts("closed_idle") + counts("closed_full") + counts("closed_late");
        assert!(closed.abs_diff(counts("group_commits")) <= 4, "{store}");
        assert!(store["rates"]["write_amplification"].as_f64().unwrap() > 1.0, "{store}");
        assert!(ours["warnings"].to_string().contains("the journal went round"), "{ours}");
    }
    // The pool has nothing left of them, and what somebody else has in it stays.
    let engine = StorageEngine::open(EngineConfig::on_disk(&file)).unwrap();
    assert_eq!(engine.list(InodeId(0), 10).wait().unwrap(), vec![]);
    let kept = engine.create_inode(InodeOptions::default()).wait().unwrap();
    engine.write(kept, 0, b"kept").wait().unwrap();
    engine.close(std::time::Duration::from_secs(10)).unwrap();
    let buffered = ["--durability=buffered", "--rw=write", "--numjobs=2"];
    let (code, table, error) = bench(&[&pool[..3], &time, &buffered].concat());
    assert_eq!(code, 0, "{error}");
    assert!(table.contains("buffered writes") && table.contains("write amplification"), "{table}");
    let engine = StorageEngine::open(EngineConfig::on_disk(&file)).unwrap();
    assert_eq!(&engine.read(kept, 0..4).wait().unwrap()[..], b"kept");
    // Too much is refused, and leaves nothing behind.
    engine.close(std::time::Duration::from_secs(10)).unwrap();
    let (code, _, error) = bench(&[&pool[..], &["--size=1g", "--rw=read"]].concat());
    assert_eq!((code, error.contains("the pool is full")), (1, true), "{error}");
    let engine = StorageEngine::open(EngineConfig::on_disk(&file)).unwrap();
    assert_eq!(engine.list(InodeId(0), 10).wait().unwrap().len(), 1);
    engine.close(std::time::Duration::from_secs(10)).unwrap();
}

#[test]
fn durable_writes_are_compared_with_the_bare_mechanism() {
    let scratch = Scratch::new("bench-durable");
    let file = scratch.file("disk", 96 << 20);
    let destroy = format!("--destroy={file}");
    let words = ["compare-durable", &file, &destroy, "--rounds=2", "--runtime=100ms"];
    let own = ["--writers=4", "--journal=1", "--json"];
    let report = json(&[&words[..], &own].concat());
    assert_eq!(report["span_bytes"], 16 << 20);
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for row in rounds.iter().flat_map(|round| round.as_array().unwrap()) {
        assert!(row["writes_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["p50_ns"].as_u64().unwrap() > 0, "{row}");
        let of_engine = row["row"].as_str().unwrap().starts_with("engine");
        assert_eq!(row["counts"]["group_commits"].as_u64().unwrap() > 0, of_engine, "{row}");
    }
    let ratios = report["ratios"].as_array().unwrap();
    assert_eq!(ratios.len(), 10);
    assert!(ratios.iter().all(|ratio| ratio["ratio"].as_f64().unwrap() > 0.0));
    let table = bench(&[&words[..], &["--writers=2", "--journal=1", "--force"]].concat());
    assert_eq!(table.0, 0, "{}", table.2);
    assert!(table.1.contains("p50 of 1: engine, threads that block over ring"), "{}", table.1);
    refused(&[&words[..], &["--force", "--size=90m"]].concat(), 2, "has room for");
}
