//! The binary as a user meets it: messages, exit codes, closed pipes.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::io::Read;
use std::process::{Command, Stdio};

fn bench(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dynamicfs-bench")).args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn refused(words: &[&str]) -> String {
    let (code, out, error) = bench(words);
    assert_eq!((code, out.as_str()), (2, ""), "{words:?}: {error}");
    assert!(error.starts_with("dynamicfs-bench: error: "), "{error}");
    assert!(error.contains("\nhelp: "), "{error}");
    error
}

#[test]
fn a_misspelled_option_is_answered_with_the_nearest() {
    let error = refused(&["--iodeph=1"]);
    assert!(error.contains("'--iodeph'") && error.contains("'--iodepth'"), "{error}");
    let error = refused(&["calibrat", "x"]);
    assert!(error.contains("calibrate"), "{error}");
}

#[test]
fn a_wrong_value_is_answered_with_the_right_ones() {
    let rows = [
        ("--rw=trim", "possible values: read, write, randread"),
        ("--priority=low", "possible values: critical, high_read"),
        ("--target=disk", "possible values: raw, nop"),
        ("--direct=0", "O_DIRECT only"),
        ("--ioengine=libaio", "measure other engines with fio"),
        ("--output-format=terse", "possible values: normal, json"),
        ("--beside=iodeph=1", "did you mean 'iodepth'?"),
        ("--time_based=2", "0 or 1"),
    ];
    for (word, expected) in rows {
        let error = refused(&["--filename=/dev/x", word]);
        assert!(error.contains(expected), "{word}: {error}");
    }
}

#[test]
fn a_plan_that_makes_no_sense_is_usage_too() {
    let error = refused(&["--filename=/dev/x", "--rw=randwrite"]);
    assert!(error.contains("help: if its content may be lost, add --destroy=/dev/x"), "{error}");
    refused(&["--rw=read", "smoke"]);
    refused(&["compare"]);
}

#[test]
fn parse_only_prints_the_plan_and_opens_nothing() {
    let words = ["--filename=/nonexistent", "--rw=randread", "--bs=8k", "--parse-only"];
    let (code, out, error) = bench(&words);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("filename=/nonexistent\n") && out.contains("bs=8192\n"), "{out}");
}

#[test]
fn help_and_version_are_answers() {
    for (word, expected) in
        [("--help", "--iodepth_batch_submit"), ("--version", "dynamicfs-bench ")]
    {
        let (code, out, error) = bench(&[word]);
        assert_eq!((code, error.as_str()), (0, ""));
        assert!(out.contains(expected), "{out}");
    }
    let (_, help, _) = bench(&["--help"]);
    assert!(help.contains("Exit codes: 0 ok, 1 run failed, 2 usage"), "{help}");
}

/// The harness takes the raw sections of a storage engine's file, and passes over none of it.
#[test]
fn an_engine_file_configures_the_harness() {
    let load = ["--target=nop", "--rw=randread", "--bs=4k", "--size=1g", "--runtime=20ms"];
    for name in ["default", "file", "low-latency"] {
        let config = format!("--config={}/../configs/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let (code, _, error) = bench(&[&load[..], &[&config]].concat());
        assert_eq!(code, 0, "{name}: {error}");
    }
    let path = std::env::temp_dir().join(format!("dynamicfs-misspelt-{}.toml", std::process::id()));
    std::fs::write(&path, "[commit]\nmod = \"linger\"\n").unwrap();
    let error = refused(&[&load[..], &[&format!("--config={}", path.display())]].concat());
    std::fs::remove_file(&path).unwrap();
    assert!(error.contains(":2: unknown field commit.mod; the nearest is commit.mode"), "{error}");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dynamicfs-bench"))
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(said, "");
}
