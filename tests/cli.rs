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
