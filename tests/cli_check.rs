//! `dynamicfs check` and `dynamicfs inspect` from outside, on golden images and damaged ones.
#![cfg(feature = "cli")]
// clippy.toml allows this in tests, but does not see the functions beside them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn image(name: &str) -> Vec<u8> {
    let text = golden(name);
    let mut lines = text.lines();
    let bytes = lines.next().unwrap().strip_prefix("bytes ").unwrap();
    let mut image = vec![0; bytes.parse().unwrap()];
    for line in lines {
        let (offset, digits) = line.split_once(' ').unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (n, digit) in digits.chars().enumerate() {
            image[offset + n / 2] |= (digit.to_digit(16).unwrap() as u8) << (4 * (1 - n % 2));
        }
    }
    image
}

/// A file that is gone when the test is over.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, bytes: &[u8]) -> Temporary {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{name}"));
        fs::write(&path, bytes).unwrap();
        Temporary(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may be gone already; nobody misses it.
        let _ = fs::remove_file(&self.0);
    }
}

/// The image with a bit of an inode's block flipped.
fn rotten() -> Vec<u8> {
    let mut bytes = image("v1-closed.txt");
    let last = bytes[..8 << 20].chunks(4096).rposition(|block| block[4095] == 0xee).unwrap();
    bytes[last * 4096 + 4095] ^= 1;
    bytes
}

#[test]
fn a_consistent_pool_is_0_and_its_report_is_the_golden_one() {
    for name in ["v1-closed", "v1-crashed"] {
        let before = image(&format!("{name}.txt"));
        let file = Temporary::new(&format!("golden-{name}"), &before);
        let output = dynamicfs(&["check", "--data", "--json", file.path()]);
        assert_eq!((output.status.code(), err(&output)), (Some(0), ""));
        assert_eq!(out(&output), golden(&format!("{name}.json")));
        let output = dynamicfs(&["check", file.path()]);
        assert_eq!(output.status.code(), Some(0));
        assert!(out(&output).ends_with("consistent: 0 errors, 0 notes\n"), "{}", out(&output));
        assert!(fs::read(&file.0).unwrap() == before, "looking changes nothing");
    }
}

#[test]
fn an_inconsistent_pool_is_1_and_says_where() {
    let file = Temporary::new("rotten", &rotten());
    assert_eq!(dynamicfs(&["check", file.path()]).status.code(), Some(0), "data was not asked for");
    let output = dynamicfs(&["check", "--data", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("dynamicfs: error: {}: 1 inconsistency\n", file.path());
    assert_eq!(err(&output), wanted);
    assert!(out(&output).contains("error: domain "), "{}", out(&output));
    assert!(out(&output).contains("expected checksum 0x"), "{}", out(&output));
    let output = dynamicfs(&["check", "--data", "--json", file.path()]);
    let report: Value = serde_json::from_str(out(&output)).unwrap();
    assert_eq!((output.status.code(), &report["errors"]), (Some(1), &Value::from(1)));
    assert!(report["inconsistencies"][0]["site"]["offset"].is_u64());
}

#[test]
fn what_is_no_pool_is_not_checked() {
    let zeroes = Temporary::new("zeroes", &vec![0; 1 << 20]);
    let text = Temporary::new("text", "hello\n".repeat(4096).as_bytes());
    for (arguments, code, message) in [
        (&["check", zeroes.path()][..], 3, "is no disk of a pool"),
        (&["check", text.path()], 3, "is no disk of a pool"),
        (&["check", "/dev/nonexistent"], 3, "no such device"),
        (&["check"], 2, "Usage"),
        (&["check", "--nonsense", "a"], 2, "--nonsense"),
        (&["inspect", "journal", zeroes.path()], 3, "no label"),
        (&["inspect", "nonsense", zeroes.path()], 2, "nonsense"),
        (&["inspect", "record", "x", zeroes.path()], 2, "invalid value"),
    ] {
        let output = dynamicfs(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(message), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn a_pool_in_use_is_not_checked_and_can_be_looked_at() {
    let file = Temporary::new("busy", &image("v1-closed.txt"));
    let holder = fs::File::open(&file.0).unwrap();
    holder.lock().unwrap();
    let output = dynamicfs(&["check", file.path()]);
    assert_eq!(output.status.code(), Some(4), "{}", err(&output));
    assert_eq!(dynamicfs(&["inspect", "labels", file.path()]).status.code(), Some(0));
}

#[test]
fn every_structure_can_be_inspected() {
    let file = Temporary::new("inspect", &image("v1-crashed.txt"));
    let value = |arguments: &[&str]| -> Value {
        let all: Vec<&str> =
            ["inspect"].iter().chain(arguments).copied().chain(["--json", file.path()]).collect();
        let output = dynamicfs(&all);
        assert_eq!((output.status.code(), err(&output)), (Some(0), ""), "{all:?}");
        let plain: Vec<&str> = all.iter().copied().filter(|word| *word != "--json").collect();
        assert_eq!(dynamicfs(&plain).status.code(), Some(0), "{plain:?}");
        serde_json::from_str(out(&output)).unwrap()
    };
    let labels = value(&["labels"]);
    assert_eq!((&labels["domains"], &labels["copies_that_agree"]), (&2.into(), &4.into()));
    let journal = value(&["journal", "--domain", "1"]);
    assert_eq!(journal["last"], 57);
    assert_eq!(journal["records"].as_array().map(Vec::len), Some(57));
    assert_eq!(value(&["record", "53"])["kind"], "checkpoint");
    let batch = value(&["record", "57", "--domain", "1"]);
    assert_eq!((&batch["kind"], &batch["state"]), (&"batch".into(), &"needed".into()));
    let pages = value(&["pages"]);
    assert_eq!(
        (&pages["pages"][0]["level"], &pages["pages"][0]["kind"]),
        (&1.into(), &"parent".into())
    );
    let page = value(&["page", "0"]);
    assert_eq!(page["inodes"][0]["tag"], "file-a");
    let inode = value(&["inode", "2"]);
    assert!(inode["extents"].as_array().is_some_and(|extents| extents.len() > 10));
    let extent = value(&["extent", "2", "0"]);
    assert!(extent["blocks"].as_array().is_some_and(|blocks| blocks.len() > 8));
}

#[test]
fn what_is_damaged_is_shown_as_far_as_it_can_be() {
    let mut bytes = image("v1-closed.txt");
    bytes[0] ^= 1;
    let last = 2 << 20;
    bytes[last..last + (2 << 20)].fill(0x5a);
    let file = Temporary::new("damaged", &bytes);
    let labels = dynamicfs(&["inspect", "labels", file.path()]);
    assert_eq!(labels.status.code(), Some(0));
    assert!(out(&labels).contains("something that is no label"), "{}", out(&labels));
    assert_eq!(dynamicfs(&["inspect", "journal", file.path()]).status.code(), Some(0));
    for what in [&["record", "3"][..], &["page", "0"], &["inode", "2"], &["extent", "2", "0"]] {
        let arguments: Vec<&str> =
            ["inspect"].iter().chain(what).copied().chain([file.path()]).collect();
        let output = dynamicfs(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(err(&output).contains("help: the pool is damaged"), "{}", err(&output));
    }
    let elsewhere = dynamicfs(&["inspect", "journal", "--domain", "2", file.path()]);
    assert_eq!(elsewhere.status.code(), Some(2));
}
