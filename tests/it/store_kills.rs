//! A process that is killed while it writes loses nothing that it was told is durable.
//!
//! The child is this test program again, told so by the environment. It writes from several
//! threads, and says on its standard output what it begins and what was acknowledged; the parent
//! kills it, opens the pool and holds it to that. `DYNAMICFS_KILLS=N` kills N times, not a few.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dynamicfs::{InodeId, StorageEngine};

use crate::pool::{Pool, close, create, pattern, read, settle, side_by_side, small};
use crate::rig::{Numbers, alongside};

const POOL_VARIABLE: &str = "DYNAMICFS_TEST_POOL";
const KILLS_VARIABLE: &str = "DYNAMICFS_KILLS";
const THREADS: u64 = 4;
/// Places of each thread, and their bytes: so that they share blocks and extents.
const SLOTS: u64 = 24;
const SLOT_BYTES: u64 = 5000;

/// Content of a slot after its `version`th write; the first bytes are the version.
fn content(thread: u64, slot: u64, version: u64) -> Vec<u8> {
    let mut bytes = pattern(thread << 40 | slot << 32 | version, SLOT_BYTES as usize);
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn say(line: &str) {
    // Written at once and whole: the line has to be in the pipe before the next step.
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// No test: what the child does, until it is killed.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var(POOL_VARIABLE) else { return };
    let engine = StorageEngine::open(small(&PathBuf::from(path))).unwrap();
    let inodes: Vec<InodeId> =
        settle(engine.list(InodeId(0), 100)).iter().map(|inode| inode.id).collect();
    say("ready");
    side_by_side(THREADS, |thread| {
        let inode = inodes[thread as usize];
        let mut numbers = Numbers(std::process::id().into());
        loop {
            let slot = numbers.below(SLOTS);
            let before = read(&engine, inode, slot * SLOT_BYTES, 8);
            let before = before.try_into().map_or(0, u64::from_le_bytes);
            let version = before + 1;
            say(&format!("begin {thread} {slot} {version}"));
            let data = content(thread, slot, version);
            if numbers.below(4) == 0 {
                // In two parts that come together or not at all.
                let mut both = engine.transaction(inode);
                both.write(slot * SLOT_BYTES, &data[..100]);
                both.write(slot * SLOT_BYTES + 100, &data[100..]);
                settle(both.commit());
            } else {
                settle(engine.write(inode, slot * SLOT_BYTES, &data));
            }
            say(&format!("done {thread} {slot} {version}"));
        }
    });
}

fn start(pool: &Pool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store_kills::child_that_writes_until_it_is_killed", "--nocapture"])
        .env(POOL_VARIABLE, pool.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// For each place: the newest version that was acknowledged, and the newest that was begun.
type Known = BTreeMap<(u64, u64), (u64, u64)>;

fn note(known: &mut Known, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let [what, numbers @ ..] = words.as_slice() else { return };
    let numbers: Vec<u64> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
    let [thread, slot, version] = numbers[..] else { return };
    let entry = known.entry((thread, slot)).or_default();
    match *what {
        "begin" => entry.1 = version,
        "done" => entry.0 = version,
        _ => {}
    }
}

/// Lets a child write for a while and kills it. Returns how many writes were acknowledged.
fn write_and_kill(pool: &Pool, known: &mut Known, after: Duration) -> usize {
    let mut child = start(pool);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended before it was ready");
    }
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let mut said = String::new();
    lines.read_to_string(&mut said).unwrap();
    killer.join().unwrap();
    // A kill in the middle of a line leaves a part of it.
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    whole.lines().for_each(|line| note(known, line));
    whole.lines().filter(|line| line.starts_with("done")).count()
}

/// Metadata is never ahead of its data: what an inode says is there can be read and is one write.
fn check(engine: &StorageEngine, inodes: &[InodeId], known: &mut Known) {
    for (thread, inode) in (0..).zip(inodes) {
        let size = settle(engine.stat(*inode)).size_bytes;
        for slot in 0..SLOTS {
            let (acknowledged, begun) = known.get(&(thread, slot)).copied().unwrap_or_default();
            if slot * SLOT_BYTES >= size {
                assert_eq!(acknowledged, 0, "thread {thread} slot {slot} is not there");
                continue;
            }
            let found = read(engine, *inode, slot * SLOT_BYTES, SLOT_BYTES);
            let version = u64::from_le_bytes(found[..8].try_into().unwrap());
            let possible = acknowledged..=begun;
            assert!(
                possible.contains(&version),
                "thread {thread} slot {slot}: version {version}, possible {possible:?}"
            );
            if version > 0 {
                let torn = found != content(thread, slot, version);
                assert!(!torn, "thread {thread} slot {slot}: version {version} is torn");
            }
            // Recovery has decided: what was unknown is known now.
            known.insert((thread, slot), (version, version));
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let _alongside = alongside();
    let kills = std::env::var(KILLS_VARIABLE).ok().and_then(|kills| kills.parse().ok());
    let kills: u64 = kills.unwrap_or(4);
    let pool = Pool::on_file(32, |config| config.journal.mib_per_domain = Some(1));
    let engine = pool.open();
    let inodes: Vec<InodeId> = (0..THREADS).map(|_| create(&engine)).collect();
    close(&engine);
    drop(engine);
    let (mut known, mut numbers) = (Known::new(), Numbers(kills));
    let mut acknowledged = 0;
    for _ in 0..kills {
        let after = Duration::from_millis(20 + numbers.below(400));
        acknowledged += write_and_kill(&pool, &mut known, after);
        let engine = pool.open();
        check(&engine, &inodes, &mut known);
        // Every other opening is itself not closed.
        if numbers.below(2) == 0 {
            close(&engine);
        }
    }
    assert!(acknowledged > 0, "the children were killed before they had written anything");
}
