//! The control socket of a running engine: what it tells, what it does, and what it endures.
#![cfg(feature = "control")]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dynamicfs::control::protocol::{REQUEST_BYTES_MAX, read_answer, read_request, write_request};
use dynamicfs::control::verdict::Outcome;
use dynamicfs::control::{
    Answer, ControlClient, ControlError, RefusalKind, Request, ScrubRequest, ScrubVerb, Snapshot,
    SyncRequest,
};
use dynamicfs::engine::engine_config::ControlSocket;
use dynamicfs::{EngineError, InodeOptions, Priority, ScrubState, StorageEngine};
use proptest::prelude::*;

use crate::pool::{Pool, close};
use crate::rig::{Scratch, alongside};

/// An engine whose socket is in a folder of its own.
struct Served {
    engine: StorageEngine,
    path: PathBuf,
    pool: Pool,
    _scratch: Scratch,
}

impl Served {
    fn new() -> Served {
        let scratch = Scratch::new();
        let path = scratch.path().join("socket");
        let pool = Pool::on_file(64, |config| {
            config.pool.domains = Some(2);
            config.control.socket = ControlSocket::At(path.clone());
        });
        let engine = StorageEngine::open(pool.config.clone()).unwrap();
        assert_eq!(engine.control_socket().as_ref(), Some(&path));
        Served { engine, path, pool, _scratch: scratch }
    }

    fn client(&self) -> ControlClient {
        ControlClient::connect(&self.path).unwrap()
    }

    fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// What is answered to these bytes before the engine hangs up, or to the first line of them.
    fn answered(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.stream();
        // An engine that has heard enough hangs up before all is written.
        let _ = stream.write_all(bytes);
        let mut line = Vec::new();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            if byte[0] == b'\n' {
                break;
            }
            line.push(byte[0]);
        }
        line
    }

    /// The engine works, and so does its socket.
    fn is_well(&self) {
        assert_eq!(status(&mut self.client()).inodes, 0);
    }
}

fn status(client: &mut ControlClient) -> Snapshot {
    match client.ask(&Request::Status).unwrap() {
        Answer::Status(snapshot) => *snapshot,
        other => panic!("{other:?}"),
    }
}

fn scrub(client: &mut ControlClient, order: ScrubVerb) -> Vec<ScrubState> {
    match client.ask(&Request::Scrub(ScrubRequest::plain(order))).unwrap() {
        Answer::Scrub(reports) => reports.iter().map(|report| report.state).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_running_engine_is_asked_and_told() {
    let _guard = alongside();
    let served = Served::new();
    let mode = std::fs::metadata(&served.path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let mut client = served.client();
    let first = status(&mut client);
    assert_eq!((first.engine.pid, first.inodes), (std::process::id(), 0));
    assert_eq!((first.reactors.len(), first.domains.len(), first.disks.len()), (1, 2, 1));
    assert_eq!(first.reactors[0].domains, [0, 1]);
    assert!(first.free_bytes <= first.capacity_bytes && first.capacity_bytes > 32 << 20);
    let inodes: Vec<_> = (0..2)
        .map(|_| served.engine.create_inode(InodeOptions::default()).wait().unwrap())
        .collect();
    for n in 0..200_u64 {
        served.engine.write(inodes[n as usize % 2], n * 4096, &[7; 4096]).wait().unwrap();
    }
    let later = status(&mut client);
    assert!(later.engine.uptime_ns > first.engine.uptime_ns);
    assert_eq!((later.inodes, later.metrics.group_commit_ops), (2, 202));
    assert!(later.free_bytes < first.free_bytes);
    let metrics = served.engine.metrics().unwrap();
    assert_eq!(later.metrics.avg_group_commit_ops, metrics.avg_group_commit_ops());
    assert_eq!(later.metrics.lock_contention_ratio, metrics.lock_contention_ratio());
    let critical = &later.disks[0].classes[Priority::Critical.name()];
    assert!(critical.io_ops_completed > 0 && critical.service.quantile_ns(0.5) > 0);
    let verdict = |name: &str| {
        let found = later.verdicts.iter().find(|verdict| verdict.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).outcome
    };
    // One writer that waits shares its commits with nobody: that is no fault.
    assert_eq!(verdict("avg_group_commit_ops"), Outcome::NoLoad);
    for met in ["flushes_per_commit", "domains_serving", "disks_in_sync", "corrupt_blocks"] {
        assert_eq!(verdict(met), Outcome::Met, "{met}: {:?}", later.verdicts);
    }
    // A scrub, slow enough to be met.
    let slow = ScrubRequest { mib_per_second: Some(1), ..ScrubRequest::plain(ScrubVerb::Start) };
    client.ask(&Request::Scrub(slow)).unwrap();
    assert!(scrub(&mut client, ScrubVerb::Status).contains(&ScrubState::Running));
    assert!(scrub(&mut client, ScrubVerb::Pause).contains(&ScrubState::Paused));
    let now = status(&mut client).domains;
    assert!(now.iter().any(|d| d.scrub.as_ref().unwrap().state == ScrubState::Paused));
    assert!(!scrub(&mut client, ScrubVerb::Stop).contains(&ScrubState::Paused));
    scrub(&mut client, ScrubVerb::Start);
    let begun = Instant::now();
    while scrub(&mut client, ScrubVerb::Status) != [ScrubState::Finished; 2] {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    let order = SyncRequest { paused: Some(true), mib_per_second: Some(8) };
    assert!(matches!(client.ask(&Request::Sync(order)).unwrap(), Answer::Done));
    let sync = status(&mut client).sync;
    assert_eq!((sync.paused, sync.bytes_per_second_of_domain), (true, 4 << 20));
    // Who is connected and silent does not hold up the close, and the socket goes with the engine.
    let begun = Instant::now();
    close(&served.engine);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!served.path.exists());
    assert!(matches!(client.ask(&Request::Status), Err(ControlError::Broken { .. })));
    let gone = ControlClient::connect(&served.path).unwrap_err().to_string();
    assert!(gone.contains("no engine answers at"), "{gone}");
}

#[test]
fn nonsense_is_refused_and_harms_nobody() {
    let _guard = alongside();
    let served = Served::new();
    let refused = |bytes: &[u8]| read_answer(&served.answered(bytes)).unwrap_err();
    for (bytes, kind, words) in [
        (&b"\n"[..], RefusalKind::BadRequest, "EOF"),
        (b"hello\n", RefusalKind::BadRequest, "expected"),
        (b"\xff\xfe\x00\n", RefusalKind::BadRequest, "expected"),
        (b"{}\n", RefusalKind::BadRequest, "version"),
        (b"{\"version\":1}\n", RefusalKind::BadRequest, "request"),
        (b"{\"version\":2,\"ask\":7}\n", RefusalKind::UnsupportedVersion, "only 1"),
        (b"{\"version\":1,\"request\":\"stop\"}\n", RefusalKind::BadRequest, "stop"),
        (
            b"{\"version\":1,\"request\":\"status\",\"x\":1}\n",
            RefusalKind::BadRequest,
            "unknown field",
        ),
        (
            b"{\"version\":1,\"request\":{\"scrub\":{\"order\":\"pause\",\"mib_per_second\":1}}}\n",
            RefusalKind::BadRequest,
            "for `start` alone",
        ),
        (
            b"{\"version\":1,\"request\":{\"scrub\":{\"order\":\"start\",\"mib_per_second\":0}}}\n",
            RefusalKind::BadRequest,
            "no rate is 0",
        ),
    ] {
        let refusal = refused(bytes);
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(refusal.kind, kind, "{text}: {refusal:?}");
        assert!(refusal.message.contains(words), "{text}: {refusal:?}");
    }
    let long = refused(&vec![b'x'; REQUEST_BYTES_MAX + 1]);
    assert!(long.message.contains("longer than 65536"), "{long:?}");
    let deep = refused(&[vec![b'['; 60_000], vec![b'\n']].concat());
    assert_eq!(deep.kind, RefusalKind::BadRequest);
    // Half a request, and gone.
    drop(served.stream().write_all(b"{\"version\":1,"));
    served.is_well();
    // Two requests in one piece, the second after an error: each is answered.
    let mut stream = served.stream();
    stream.write_all(b"nonsense\n{\"version\":1,\"request\":\"status\"}\n").unwrap();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < 2 {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
    }
    let mut lines = text.split(|byte| *byte == b'\n');
    assert!(read_answer(lines.next().unwrap()).is_err());
    assert!(matches!(read_answer(lines.next().unwrap()), Ok(Answer::Status(_))));
    close(&served.engine);
}

#[test]
fn who_is_silent_or_slow_takes_a_place_and_no_more() {
    let _guard = alongside();
    let served = Served::new();
    let silent: Vec<UnixStream> = (0..8).map(|_| served.stream()).collect();
    // The places are taken when the engine has accepted them.
    let begun = Instant::now();
    let refusal = loop {
        match served.client().ask(&Request::Status) {
            Err(ControlError::Refused(refusal)) => break refusal,
            other => assert!(begun.elapsed() < Duration::from_secs(10), "{other:?}"),
        }
    };
    assert_eq!(refusal.kind, RefusalKind::Busy, "{refusal:?}");
    drop(silent);
    let begun = Instant::now();
    while served.client().ask(&Request::Status).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no place became free");
    }
    // One that never ends its request is told so, and sent away.
    let late = read_answer(&served.answered(b"{\"version\":1")).unwrap_err();
    assert!(late.message.contains("did not come within 5s"), "{late:?}");
    served.is_well();
    close(&served.engine);
}

#[test]
fn one_engine_serves_a_socket() {
    let _guard = alongside();
    let served = Served::new();
    let other = Pool::on_file(64, |config| {
        config.control.socket = ControlSocket::At(served.path.clone());
    });
    let refused = StorageEngine::open(other.config.clone()).unwrap_err();
    assert!(matches!(refused, EngineError::Control(_)), "{refused}");
    assert!(refused.to_string().contains("is served by another engine"), "{refused}");
    // The one that nobody named is done without.
    let mut silent = other.config.clone();
    silent.control.socket = ControlSocket::Off;
    let engine = StorageEngine::open(silent).unwrap();
    assert_eq!(engine.control_socket(), None);
    close(&engine);
    served.is_well();
    // What a killed process leaves behind is in nobody's way.
    close(&served.engine);
    drop(std::os::unix::net::UnixListener::bind(&served.path).unwrap());
    close(&StorageEngine::open(served.pool.config.clone()).unwrap());
}

/// Requests, and what is near them.
fn near_requests() -> impl Strategy<Value = Vec<u8>> {
    let request = prop_oneof![
        Just(Request::Status),
        (0usize..4, proptest::option::of(any::<u32>()), any::<bool>()).prop_map(
            |(verb, rate, coalesce)| {
                let verbs =
                    [ScrubVerb::Status, ScrubVerb::Start, ScrubVerb::Pause, ScrubVerb::Stop];
                Request::Scrub(ScrubRequest { order: verbs[verb], mib_per_second: rate, coalesce })
            }
        ),
        (proptest::option::of(any::<bool>()), proptest::option::of(any::<u32>())).prop_map(
            |(paused, mib_per_second)| Request::Sync(SyncRequest { paused, mib_per_second })
        ),
    ];
    let cuts = proptest::collection::vec((any::<usize>(), any::<u8>(), 0usize..3), 0..4);
    (request, cuts).prop_map(|(request, cuts)| {
        let mut line = write_request(&request).unwrap();
        for (at, byte, what) in cuts {
            let at = at % line.len();
            match what {
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                _ => line.truncate(at.max(1)),
            }
        }
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn any_bytes_are_a_request_or_refused(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), near_requests()]
    ) {
        if let Ok(request) = read_request(&bytes) {
            // What is understood is written again and understood alike.
            prop_assert_eq!(read_request(&write_request(&request).unwrap()).unwrap(), request);
        }
        let _ = read_answer(&bytes);
    }
}

/// Nothing that anybody says ends the engine, holds it up, or is taken for something else.
#[test]
fn a_running_engine_endures_whatever_is_said_to_it() {
    let _guard = alongside();
    let served = Served::new();
    let inode = served.engine.create_inode(InodeOptions::default()).wait().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..Default::default()
    });
    let said = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..200),
        near_requests(),
        proptest::collection::vec(near_requests(), 1..6).prop_map(|lines| lines.concat()),
    ];
    let outcome = runner.run(&said, |mut bytes| {
        bytes.push(b'\n');
        let answer = served.answered(&bytes);
        // A scrub that was begun, or not, or an error: always a line of the protocol.
        let line = String::from_utf8_lossy(&answer).into_owned();
        match read_answer(&answer) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                prop_assert!(!refusal.message.is_empty());
                prop_assert!(line.contains("\"error\""), "{} to {:?}", line, bytes);
                Ok(())
            }
        }
    });
    outcome.unwrap();
    served.engine.write(inode, 0, b"still here").wait().unwrap();
    assert_eq!(&served.engine.read(inode, 0..10).wait().unwrap()[..], b"still here");
    assert_eq!(status(&mut served.client()).inodes, 1);
    close(&served.engine);
}
