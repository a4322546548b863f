//! Our JSON against a recorded output of fio 3.33 (`tests/fio-3.33-null.json`): every name that
//! both have carries the same type, and the units agree, so that a parser made for fio reads ours.
//!
//! Recorded with: `fio --name=x --ioengine=null --rw=randrw --bs=4k --size=4m --iodepth=8
//! --runtime=1 --rate_iops=1000 --output-format=json`.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::time::{Duration, UNIX_EPOCH};

use dynamicfs_bench::args::{Client, OutputFormat, Priority, Target};
use dynamicfs_bench::environment::Environment;
use dynamicfs_bench::plan::PERCENTILES_DEFAULT;
use dynamicfs_bench::report::{
    Buckets, DirectionReport, EngineReport, JobReport, LoadKind, RunReport,
};
use serde_json::Value;

fn recorded() -> Value {
    serde_json::from_str(include_str!("fio-3.33-null.json")).unwrap()
}

/// The recorded run as our load generator would have seen it: 512 reads and 512 writes of 4 KiB in
/// 512 ms each.
fn ours() -> Value {
    let direction = || {
        let mut direction = DirectionReport::new();
        (direction.io_bytes, direction.total_ios) = (2_097_152, 512);
        direction.runtime_ns = 512_000_000;
        for latency in [&mut direction.submission, &mut direction.completion, &mut direction.total]
        {
            latency.record_many(1_500, 512);
        }
        direction.intervals.finish(512_000_000, 512, 2_097_152);
        direction
    };
    let report = RunReport {
        finished: UNIX_EPOCH + Duration::from_millis(1_795_376_477_255),
        elapsed_ns: 512_000_000,
        load: LoadKind::Closed,
        target: Target::Nop,
        client: Client::Reactor,
        global_options: vec![],
        jobs: vec![JobReport {
            name: "x".into(),
            group_id: 0,
            priority: Priority::NormalRead,
            priority_write: Priority::Write,
            options: vec![("bs".into(), "4k".into())],
            error: 0,
            runtime_ns: 511_000_000,
            read: direction(),
            write: direction(),
            user_ns: 23_999_999,
            system_ns: 0,
            context_switches: 488,
            major_faults: 0,
            minor_faults: 10,
            depth: 8,
            depth_seen: Buckets::default(),
            submit_sizes: Buckets::default(),
            reap_sizes: Buckets::default(),
        }],
        engine: EngineReport::default(),
        store: None,
        disks: vec![],
        environment: Environment::default(),
        warnings: vec![],
        percentiles: PERCENTILES_DEFAULT.to_vec(),
        first_failure: None,
    };
    serde_json::from_str(&report.render(OutputFormat::Json).unwrap()).unwrap()
}

/// fio prints counts without and measures with a decimal point, and parsers rely on it.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    }
}

/// Names of `fio` that `ours` lacks, and names of both that differ in type.
fn compare(place: &str, fio: &Value, ours: &Value, wrong: &mut Vec<String>) {
    if kind(fio) != kind(ours) {
        wrong.push(format!("{place}: fio has {}, ours {}", kind(fio), kind(ours)));
        return;
    }
    match (fio, ours) {
        (Value::Object(fio), Value::Object(ours)) if !place.ends_with("job options") => {
            for (name, value) in fio {
                match ours.get(name) {
                    Some(found) => compare(&format!("{place}.{name}"), value, found, wrong),
                    None => wrong.push(format!("{place}.{name}: missing")),
                }
            }
        }
        (Value::Array(fio), Value::Array(ours)) => {
            for (index, (one, other)) in fio.iter().zip(ours).enumerate() {
                compare(&format!("{place}[{index}]"), one, other, wrong);
            }
        }
        _ => {}
    }
}

#[test]
fn every_name_of_fio_is_here_with_its_type() {
    let mut wrong = Vec::new();
    compare("", &recorded(), &ours(), &mut wrong);
    assert_eq!(wrong, [".fio version: missing"], "we are not fio, and say so");
}

#[test]
fn units_are_those_of_fio() {
    let (fio, ours) = (recorded(), ours());
    assert_eq!(fio["timestamp"], ours["timestamp"]);
    assert_eq!(fio["timestamp_ms"], ours["timestamp_ms"]);
    assert_eq!(fio["time"], ours["time"]);
    for name in ["job_runtime", "ctx", "minf", "latency_depth", "elapsed"] {
        assert_eq!(fio["jobs"][0][name], ours["jobs"][0][name], "{name}");
    }
    let cpu = |json: &Value| json["jobs"][0]["usr_cpu"].as_f64().unwrap();
    assert!((cpu(&fio) - cpu(&ours)).abs() < 1e-3, "percent of one processor");
    for side in ["read", "write"] {
        let (fio, ours) = (&fio["jobs"][0][side], &ours["jobs"][0][side]);
        for name in ["io_bytes", "io_kbytes", "bw_bytes", "bw", "iops", "runtime", "total_ios"] {
            assert_eq!(fio[name], ours[name], "{side}.{name}");
        }
        for name in ["bw_min", "bw_mean", "iops_max", "iops_mean"] {
            let value = |json: &Value| json[name].as_f64().unwrap();
            let apart = (value(fio) - value(ours)).abs() / value(fio);
            assert!(apart < 0.01, "{side}.{name}: {} and {}", value(fio), value(ours));
        }
        let names = |json: &Value| -> Vec<String> {
            json["clat_ns"]["percentile"].as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(names(fio), names(ours), "percentiles, in fio's spelling and order");
    }
}

#[test]
fn what_is_named_twice_means_the_same() {
    let ours = ours();
    let job = &ours["jobs"][0];
    assert_eq!(job["trim"]["total_ios"], 0);
    assert_eq!(job["trim"]["clat_ns"].get("percentile"), None, "as fio, none without requests");
    assert_eq!(ours["dynamicfs"]["jobs"][0]["read"]["lat_ns"]["N"], job["read"]["lat_ns"]["N"]);
    let shares: f64 = ["latency_ns", "latency_us", "latency_ms"]
        .iter()
        .flat_map(|unit| job[*unit].as_object().unwrap().values())
        .map(|share| share.as_f64().unwrap())
        .sum();
    assert!((shares - 100.0).abs() < 1e-6, "latencies are in one bucket each: {shares}");
}
