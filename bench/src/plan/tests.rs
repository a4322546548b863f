//! From words to plans, and the refusals in between.

use std::path::Path;

use clap::Parser;

use super::*;
use crate::args::{Clients, DurabilityWord, FormatFill, Pattern, Priority};

fn parse(words: &[&str]) -> Result<RunPlan, Failure> {
    let all = std::iter::once("dynamicfs-bench").chain(words.iter().copied());
    let cli = Cli::try_parse_from(all).expect("clap accepts the words");
    RunPlan::try_from(cli.run)
}

fn refusal(words: &[&str]) -> String {
    let failure = parse(words).expect_err("must be refused");
    assert_eq!(failure.code(), 2, "{failure}");
    format!("{failure} / {}", failure.help())
}

const DISK: &str = "--filename=/dev/x";

#[test]
fn clap_accepts_its_own_definition() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_those_of_fio() {
    let plan = parse(&[DISK]).expect("a plan");
    let job = &plan.jobs[0];
    assert_eq!(
        (job.name.as_str(), job.pattern, job.read_percent, job.block_bytes),
        ("job", Pattern::Read, 100, 4096)
    );
    assert_eq!((job.depth, job.clones, job.batch_submit, job.batch_complete_min), (1, 1, 1, 1));
    assert_eq!((job.span, job.offset, job.rate_iops), (Span::All, Span::All, None));
    assert_eq!((job.priority_read, job.priority_write), (Priority::NormalRead, Priority::Write));
    assert_eq!(plan.output.percentiles, PERCENTILES_DEFAULT);
    assert!(!plan.writes() && plan.runtime.is_none() && plan.ramp.is_zero());
}

#[test]
fn every_word_of_a_run_lands_in_its_field() {
    let plan = parse(&[
        "--name=hot",
        r"--filename=/dev/a\:1:/dev/b",
        "--filename=/dev/c:/dev/b",
        "--rw=randrw",
        "--rwmixread=70",
        "--bs=8k",
        "--iodepth=64",
        "--numjobs=2",
        "--size=20%",
        "--offset=1m",
        "--runtime=1m",
        "--time_based",
        "--ramp_time=500ms",
        "--iodepth_batch=16",
        "--iodepth_batch_complete_min=8",
        "--rate_iops=10k",
        "--randseed=7",
        "--priority=critical",
        r"--destroy=/dev/a\:1:/dev/b",
        "--destroy=/dev/c",
        "--reactors=2",
        "--cpus=0-1",
        "--lanes=2",
        "--spin=forever",
        "--depth=48",
        "--direct=1",
        "--ioengine=io_uring",
        "--group_reporting",
        "--percentile_list=99:50",
    ])
    .expect("a plan");
    let job = &plan.jobs[0];
    assert_eq!((job.read_percent, job.block_bytes, job.depth, job.clones), (70, 8192, 64, 2));
    assert_eq!((job.span, job.offset), (Span::Percent(20), Span::Bytes(1 << 20)));
    assert_eq!((job.batch_submit, job.batch_complete_min, job.seed), (16, 8, 7));
    assert_eq!(job.rate_iops, Some(10_240), "fio's k is 1024 for rates too");
    assert_eq!((job.priority_read, job.priority_write), (Priority::Critical, Priority::Critical));
    assert_eq!(plan.filenames, ["/dev/a:1", "/dev/b", "/dev/c"].map(PathBuf::from));
    assert_eq!(plan.destroy.len(), 3);
    assert_eq!(plan.runtime, Some(Duration::from_secs(60)));
    assert_eq!(plan.ramp, Duration::from_millis(500));
    assert_eq!(plan.engine.spin, Some(Spin::Forever));
    assert_eq!(plan.engine.cpus, Some(vec![0, 1]));
    assert_eq!(
        (plan.engine.reactors, plan.engine.lanes, plan.engine.depth),
        (Some(2), Some(2), Some(48))
    );
    assert!(plan.time_based && plan.output.group_reporting);
    assert_eq!(plan.output.percentiles, [50.0, 99.0]);
    assert!(job.options.contains(&("bs".into(), "8k".into())), "as the user spelled it");
}

#[test]
fn wrong_values_are_refused_with_field_value_and_range() {
    let rows: [(&str, &str); 17] = [
        ("--bs=1000", "--bs=1000: is 1000 bytes, and must be a multiple of 512 from 512 to"),
        ("--bs=4kib", "--bs=4kib: is 4000 bytes"),
        ("--bs=17m", "--bs=17m: is 17825792 bytes"),
        ("--bs=0", "--bs=0"),
        ("--bs=4x", "--bs=4x: expected whole bytes"),
        ("--iodepth=0", "--iodepth=0: expected a whole number from 1 to 4096"),
        ("--iodepth=4097", "from 1 to 4096"),
        ("--numjobs=257", "--numjobs=257: expected a whole number from 1 to 256"),
        ("--rwmixread=101", "--rwmixread=101: expected a whole number from 0 to 100"),
        ("--offset=100", "--offset=100: is 100 bytes, and must be a multiple of 512"),
        ("--size=512", "--size=512: is 512 bytes, less than one bs of 4096"),
        (
            "--iodepth_batch_submit=2",
            "--iodepth_batch_submit=2: expected a whole number from 1 to 1",
        ),
        ("--runtime=1sec", "--runtime=1sec: expected a whole number"),
        ("--spin=often", "--spin=often"),
        ("--percentile_list=50:200", "--percentile_list=50:200"),
        ("--cpus=3-1", "--cpus=3-1"),
        ("--rate_iops=0", "--rate_iops=0"),
    ];
    for (word, expected) in rows {
        let refusal = refusal(&[DISK, word]);
        assert!(refusal.contains(expected), "{word}: {refusal}");
    }
}

#[test]
fn options_that_need_or_forbid_each_other() {
    let rows: [(&[&str], &str); 9] = [
        (&["--rw=read"], "--filename=/dev/nvme0n1"),
        (&[DISK, "--time_based"], "--runtime=10"),
        (&[DISK, "--time_based", "--runtime=0"], "above 0"),
        (&[DISK, "--target=nop"], "touches no disk"),
        (&["--target=nop"], "--runtime=10, or --size=1g"),
        (&["--target=nop", "--size=10%", "--runtime=1"], "percentage"),
        (&[DISK, "--rw=randwrite", "--destroy=/dev/x", "--readonly"], "--readonly"),
        (&[DISK, "--destroy=/dev/y"], "--destroy=/dev/y: is not one of the disks"),
        (&[DISK, "--reactors=3", "--cpus=0,1"], "--reactors=3"),
    ];
    for (words, expected) in rows {
        let refusal = refusal(words);
        assert!(refusal.contains(expected), "{words:?}: {refusal}");
    }
    assert!(parse(&["--target=nop", "--runtime=1"]).is_ok());
    assert!(parse(&["--target=nop", "--rw=randwrite", "--size=1g"]).is_ok(), "destroys nothing");
    assert!(parse(&[DISK, "--destroy=/dev/x"]).is_ok(), "allowing more than is used is harmless");
}

#[test]
fn writing_needs_the_name_of_each_disk_that_is_written() {
    let two = "--filename=/dev/x:/dev/y";
    for word in ["--rw=write", "--rw=randwrite", "--rw=rw", "--rw=readwrite", "--rw=randrw"] {
        let refusal = refusal(&[two, word, "--destroy=/dev/x"]);
        assert!(refusal.contains("would overwrite /dev/y"), "{refusal}");
        assert!(refusal.contains("--destroy=/dev/y"), "{refusal}");
        assert!(parse(&[two, word, "--destroy=/dev/x:/dev/y"]).is_ok());
    }
    let refusal = refusal(&[DISK, "--beside=rw=write,bs=128k"]);
    assert!(refusal.contains("'beside1' would overwrite /dev/x"), "{refusal}");
    assert!(parse(&[DISK, "--rw=randrw", "--rwmixread=100"]).is_ok(), "writes nothing");
}

#[test]
fn a_second_job_has_the_same_words() {
    let beside = "--beside=rw=read,bs=128k,iodepth=32,priority=background";
    let plan = parse(&[DISK, beside, "--beside=name=scan, rate_iops=100"]).expect("a plan");
    let job = &plan.jobs[1];
    assert_eq!((job.name.as_str(), job.block_bytes, job.depth), ("beside1", 131_072, 32));
    assert_eq!(job.priority_read, Priority::Background);
    assert_eq!((plan.jobs[2].name.as_str(), plan.jobs[2].rate_iops), ("scan", Some(100)));
    let rows = [
        ("--beside=iodeph=1", "unknown key 'iodeph' / did you mean 'iodepth'?"),
        ("--beside=filename=/dev/y", "unknown key 'filename'"),
        ("--beside=rw=raed", "invalid value 'raed' for 'rw' / possible values: read, write"),
        ("--beside=priority=low", "possible values: critical, high_read"),
        ("--beside=bs", "key 'bs' needs a value"),
        ("--beside=bs=4k,bs=8k", "'bs' is given twice"),
        ("--beside=bs=4x", "--beside=bs=4x: bs=4x: expected whole bytes"),
        ("--beside=iodepth=9999", "iodepth=9999: expected a whole number from 1 to 4096"),
    ];
    for (word, expected) in rows {
        let refusal = refusal(&[DISK, word]);
        assert!(refusal.contains(expected), "{word}: {refusal}");
    }
}

#[test]
fn a_job_takes_whole_blocks_inside_the_disk() {
    let job = |words: &[&str]| {
        let words: Vec<&str> = std::iter::once(DISK).chain(words.iter().copied()).collect();
        parse(&words).expect("a plan").jobs.remove(0)
    };
    let mib = 1_u64 << 20;
    assert_eq!(job(&[]).range_on("d", mib + 100, 512), Ok(0..mib));
    assert_eq!(job(&["--size=50%", "--offset=50%"]).range_on("d", mib, 512), Ok(mib / 2..mib));
    assert_eq!(job(&["--offset=4k", "--size=9k"]).range_on("d", mib, 512), Ok(4096..12_288));
    for (words, logical) in [
        (&["--bs=512"][..], 4096),
        (&["--offset=512"], 4096),
        (&["--size=2m"], 512),
        (&["--offset=1m"], 512),
    ] {
        let failure = job(words).range_on("/dev/d", mib, logical).expect_err("does not fit");
        assert!(failure.to_string().contains("/dev/d"), "{failure}");
    }
}

#[test]
fn a_run_on_the_engine_has_words_of_its_own() {
    let engine = ["--target=engine", "--pool=p.toml", "--destroy=/d"];
    let plan = parse(&engine).expect("a plan");
    assert_eq!(plan.store, Some(StorePlan { pool: Some("p.toml".into()), ..one_driver() }));
    let own = ["--format=quick", "--inodes=3", "--durability=buffered", "--clients=tasks"];
    let plan = parse(&[&engine[..], &own, &["--drivers=2", "--ramp=1"]].concat()).expect("a plan");
    let store = plan.store.clone().expect("a pool");
    assert_eq!((store.format, store.inodes), (Some(FormatFill::Quick), Some(3)));
    assert_eq!((store.clients, store.drivers), (Clients::Tasks, 2));
    assert_eq!((store.durability, plan.ramp.as_secs()), (DurabilityWord::Buffered, 1));
    let text = plan.to_string();
    for line in ["pool=p.toml", "format=quick", "clients=tasks", "target=engine"] {
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
    assert_eq!(parse(&[DISK]).expect("a plan").store, None);
}

fn one_driver() -> StorePlan {
    StorePlan { drivers: 1, ..StorePlan::default() }
}

#[test]
fn a_shown_plan_reads_as_a_job_file() {
    let plan = parse(&[DISK, "--bs=8k", "--beside=rw=randread", "--spin=20"]).expect("a plan");
    let text = plan.to_string();
    for line in ["[global]", "filename=/dev/x", "[job]", "bs=8192", "[beside1]", "rw=randread"] {
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
}

#[test]
fn subcommands_are_checked_too() {
    let parse = |words: &[&str]| Plan::try_from(Cli::try_parse_from(words).expect("parses"));
    let plan = parse(&["b", "compare", "--target=nop"]).expect("a plan");
    let Plan::Compare(plan) = plan else { panic!("a comparison") };
    assert_eq!((plan.device, plan.depth, plan.batch_submit, plan.rounds), (None, 128, 32, 7));
    assert!(parse(&["b", "compare"]).is_err() && parse(&["b", "compare", "d"]).is_ok());
    assert!(parse(&["b", "compare", "d", "--target=nop"]).is_err());
    let Ok(Plan::Compare(shallow)) = parse(&["b", "compare", "d", "--iodepth=8"]) else {
        panic!("a comparison")
    };
    assert_eq!(shallow.batch_submit, 8, "the default does not exceed the depth");
    let deep = parse(&["b", "compare", "d", "--iodepth=8", "--iodepth_batch_submit=9"]);
    assert!(deep.is_err(), "a batch that was asked for does");
    assert!(parse(&["b", "calibrate", "d", "--runtime=0"]).is_err());
    let Ok(Plan::Smoke(smoke)) = parse(&["b", "smoke", "/dev/x"]) else { panic!("a smoke") };
    assert_eq!(smoke.devices, [Path::new("/dev/x")]);
    let words = ["b", "compare-durable", "/d", "--destroy=/d", "--writers=8", "--size=1g"];
    let Ok(Plan::CompareDurable(durable)) = parse(&words) else { panic!("a comparison") };
    assert_eq!((durable.writers, durable.rounds, durable.journal_mib), (8, 5, 4));
    assert_eq!((durable.block_bytes, durable.size, durable.force), (4096, Some(1 << 30), false));
    assert!(parse(&["b", "compare-durable", "/d", "--destroy=/e"]).is_err());
    let mixed = Cli::try_parse_from(["b", "--rw=read", "smoke"]);
    assert!(mixed.is_err(), "a run's words and a subcommand do not mix");
}
