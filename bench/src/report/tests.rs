//! Ratios, buckets, and both forms of a small run.

use super::*;
use std::time::{Duration, UNIX_EPOCH};

/// A run of one second with two jobs, reads beside background reads.
fn sample() -> RunReport {
    let job = |name: &str, priority, ios: u64, latency_ns: u64| {
        let mut read = DirectionReport::new();
        read.io_bytes = ios * 4096;
        read.total_ios = ios;
        read.runtime_ns = 1_000_000_000;
        read.total.record_many(latency_ns, ios);
        read.wait.record_many(latency_ns / 10, ios);
        read.device.record_many(latency_ns * 9 / 10, ios);
        read.intervals.feed(1_000_000_000, ios, ios * 4096);
        JobReport {
            name: name.into(),
            group_id: 0,
            priority,
            priority_write: Priority::Write,
            options: vec![("bs".into(), "4k".into())],
            error: 0,
            runtime_ns: 1_000_000_000,
            read,
            write: DirectionReport::new(),
            user_ns: 0,
            system_ns: 0,
            context_switches: 3,
            major_faults: 0,
            minor_faults: 1,
            depth: 32,
            depth_seen: Buckets::default(),
            submit_sizes: Buckets::default(),
            reap_sizes: Buckets::default(),
        }
    };
    RunReport {
        finished: UNIX_EPOCH + Duration::from_secs(1_795_376_477),
        elapsed_ns: 1_000_000_000,
        load: LoadKind::Closed,
        target: Target::Raw,
        client: Client::Reactor,
        global_options: vec![("filename".into(), "/dev/x".into())],
        jobs: vec![
            job("hot", Priority::HighRead, 30_000, 61_230),
            job("scan", Priority::Background, 10_000, 1_500_000),
        ],
        engine: EngineReport {
            path: IoPath {
                ring_flags: vec!["SINGLE_ISSUER".into()],
                pages: "huge 2 MiB".into(),
                spin: "20 us".into(),
                ..IoPath::default()
            },
            reactors: vec![ReactorReport {
                cpu: 1,
                user_ns: 2_000_000,
                system_ns: 8_000_000,
                ios: 40_000,
                enters: 1_250,
                submits: 1_250,
                reaps: 2_000,
                ..ReactorReport::default()
            }],
            errors: vec![ErrorCount { kind: "EIO".into(), device: "/dev/x".into(), count: 2 }],
            ..EngineReport::default()
        },
        store: None,
        disks: vec![DiskUse { name: "vdb".into(), flush_ios: 7, ..DiskUse::default() }],
        environment: Environment::default(),
        warnings: vec!["only a test".into()],
        percentiles: vec![50.0, 99.0],
        first_failure: None,
    }
}

#[test]
fn cost_is_per_request_and_never_nan() {
    let cost = sample().engine.cost();
    assert_eq!(
        (cost.cpu_ns_per_io, cost.user_ns_per_io, cost.system_ns_per_io),
        (250.0, 50.0, 200.0)
    );
    assert_eq!(
        (cost.syscalls_per_io, cost.ios_per_submit, cost.ios_per_reap),
        (0.03125, 32.0, 20.0)
    );
    assert_eq!(EngineReport::default().cost(), EngineCost::default());
    assert_eq!(DirectionReport::new().iops(), 0.0);
}

#[test]
fn buckets_fall_as_in_fio() {
    let mut buckets = Buckets::default();
    for depth in [1, 2, 3, 4, 7, 8, 16, 32, 63, 64, 4096] {
        buckets.count(depth);
    }
    let part = 100.0 / 11.0;
    let close = |seen: [f64; 7], counts: [f64; 7]| {
        seen.iter().zip(counts).all(|(share, count)| (share - part * count).abs() < 1e-9)
    };
    assert!(close(buckets.depth_percentages(), [1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]));
    assert!(close(buckets.batch_percentages(), [0.0, 4.0, 2.0, 1.0, 1.0, 2.0, 1.0]));
    buckets.count(0);
    assert!(buckets.batch_percentages()[0] > 0.0);
    assert_eq!(Buckets::default().depth_percentages(), [0.0; 7]);
}

#[test]
fn a_group_is_the_sum_of_its_clones() {
    let jobs = sample().jobs;
    let mut group = jobs[0].clone();
    group.absorb(&jobs[1]);
    assert_eq!((group.read.total_ios, group.read.total.count()), (40_000, 40_000));
    assert_eq!((group.runtime_ns, group.context_switches), (1_000_000_000, 6));
    assert_eq!(group.read.intervals.iops().mean, 40_000.0);
}

#[test]
fn the_table_says_what_a_reader_looks_for() {
    let text = sample().render(OutputFormat::Normal).unwrap();
    for sign in [
        "Sun Nov 22 19:41:17 2026",
        "closed loop",
        "hot ",
        "high_read",
        "30.0k",
        "61.2us",
        "scan",
        "background",
        "1.50ms",
        "queue",
        "device",
        "CPU 250 ns/IO",
        "0.031 syscalls/IO",
        "32.0 IOs/submit",
        "SINGLE_ISSUER",
        "NOT O_DIRECT",
        "only a test",
        "vdb: 0 reads, 0 writes, 7 flushes",
        "2 requests failed with EIO on /dev/x",
    ] {
        assert!(text.contains(sign), "{sign} in\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end() == line), "no trailing blanks in\n{text}");
}

#[test]
fn the_json_has_fios_places_and_ours() {
    let text = sample().render(OutputFormat::Json).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json.get("fio version").is_none(), "this is not fio");
    assert_eq!(json["jobs"][0]["read"]["iops"], 30_000.0);
    assert_eq!(json["jobs"][0]["read"]["bw"], 120_000);
    assert_eq!(json["jobs"][0]["read"]["bw_agg"], 75.0);
    assert_eq!(json["jobs"][0]["latency_us"]["100"], 100.0);
    assert_eq!(json["jobs"][1]["latency_ms"]["2"], 100.0);
    assert_eq!(json["dynamicfs"]["schema_version"], json::SCHEMA_VERSION);
    assert_eq!(json["dynamicfs"]["cost"]["cpu_ns_per_io"], 250.0);
    assert_eq!(json["dynamicfs"]["jobs"][0]["priority"], "high_read");
    assert_eq!(json["dynamicfs"]["jobs"][0]["read"]["wait_ns"]["max"], 6_123);
    assert_eq!(json["dynamicfs"]["failed_ios"], 2);
    assert_eq!(json["disk_util"][0]["flush_ios"], 7);
}
