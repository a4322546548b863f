//! Records come back as they were written, and nothing else is taken for one.

use super::*;
use crate::format::extent::Place;

const JOURNAL: JournalId =
    JournalId { pool: [3; 16], disk: 0, domain: 2, start: 2 << 20, bytes: 1 << 20 };

fn head(kind: RecordKind) -> RecordHead {
    RecordHead {
        kind,
        sequence: 41,
        incarnation: 0xfeed,
        previous: 99,
        position: (5 << 20) + 8192,
        skipped: 4096,
        length: 0,
        tail: 4 << 20,
        checkpoint: (4 << 20) + 4096,
        accepted: 40,
        checksum: 0,
    }
}

fn changes() -> Changes {
    let mut extent = Extent::HOLE;
    for (index, block) in [(0, 600), (1, 601), (9, 700)] {
        extent.places[index] = Place::new(0, block);
        extent.checksums[index] = 1000 + block as u32;
    }
    let put = ExtentPut { inode: 5, index: 7, extent, fresh: 0b11, inline: 0b10 };
    Changes {
        cuts: vec![Cut { inode: 4, from: 1, to: u64::MAX }],
        deletes: vec![8, 9],
        inodes: vec![InodeRecord { id: 5, size_bytes: 77, ..InodeRecord::zeroed() }],
        extents: vec![put, ExtentPut { index: 8, fresh: 0, inline: 0, ..put }],
    }
}

fn written(kind: RecordKind, body: &Body) -> Vec<u8> {
    let mut bytes = vec![0xaa; record_bytes(body)];
    encode(&JOURNAL, &head(kind), body, &mut bytes);
    bytes
}

fn read_back(bytes: &[u8]) -> Result<(RecordHead, Body), RecordError> {
    let head = decode_head(&JOURNAL, 8192, bytes)?;
    let body = decode_body(&JOURNAL, &head, bytes)?;
    Ok((head, body))
}

#[test]
fn every_kind_comes_back() {
    let checkpoint = CheckpointBody {
        through: 39,
        replay_from: 77 << 12,
        next_inode: 12,
        pages: 3,
        levels: 1,
        root: Child::NONE,
        lifetime: Lifetime { group_commits: 3, corrupt_blocks: 9, ..Lifetime::default() },
    };
    for (kind, body) in [
        (RecordKind::Batch, Body::Changes(changes())),
        (RecordKind::Batch, Body::Changes(Changes::default())),
        (RecordKind::Checkpoint, Body::Checkpoint(checkpoint)),
        (RecordKind::Open, Body::Nothing),
        (RecordKind::Seal, Body::Nothing),
        (RecordKind::Abort, Body::Nothing),
    ] {
        let bytes = written(kind, &body);
        let (found, content) = read_back(&bytes).unwrap();
        let (length, checksum) = (bytes.len() as u32, found.checksum);
        assert_eq!(found, RecordHead { length, checksum, ..head(kind) });
        assert_eq!(content, body);
    }
}

#[test]
fn inline_blocks_are_summed() {
    let body = Body::Changes(changes());
    let mut bytes = written(RecordKind::Batch, &body);
    assert_eq!(bytes.len(), 8192);
    assert_eq!(inline_start(&changes()), 4096);
    bytes[8191] ^= 1;
    assert!(matches!(read_back(&bytes), Err(RecordError::Body { .. })));
}

#[test]
fn every_flipped_bit_is_seen() {
    let bytes = written(RecordKind::Batch, &Body::Changes(changes()));
    for bit in (0..HEAD_BYTES * 8).chain((HEAD_BYTES * 8..bytes.len() * 8).step_by(11)) {
        let mut rotten = bytes.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        assert!(read_back(&rotten).is_err(), "bit {bit}");
    }
}

#[test]
fn a_record_elsewhere_is_none() {
    let bytes = written(RecordKind::Seal, &Body::Nothing);
    assert_eq!(decode_head(&JOURNAL, 12_288, &bytes), Err(RecordError::Absent));
    for other in [
        JournalId { pool: [4; 16], ..JOURNAL },
        JournalId { domain: 1, ..JOURNAL },
        JournalId { disk: 1, ..JOURNAL },
        JournalId { start: 3 << 20, ..JOURNAL },
    ] {
        assert_eq!(decode_head(&other, 8192, &bytes), Err(RecordError::Absent), "{other:?}");
    }
    assert_eq!(decode_head(&JOURNAL, 8192, &[]), Err(RecordError::Absent));
    assert_eq!(decode_head(&JOURNAL, 8192, &[0; 4096]), Err(RecordError::Absent));
}

/// Bytes that verify and are nonsense: as of a bug, or of somebody who can compute checksums.
#[test]
fn nonsense_that_verifies_is_an_error_and_no_panic() {
    let bytes = written(RecordKind::Batch, &Body::Changes(changes()));
    let resealed = |change: &dyn Fn(&mut Head, &mut [u8])| {
        let mut bytes = bytes.clone();
        let mut head = raw_head(&bytes).unwrap();
        change(&mut head, &mut bytes[HEAD_BYTES..]);
        let context = context(&JOURNAL, head.position, head.incarnation);
        head.body_checksum = metadata_checksum(&context, &[&bytes[HEAD_BYTES..]]);
        head.checksum = head_checksum(&JOURNAL, &head);
        bytes[..HEAD_BYTES].copy_from_slice(bytemuck::bytes_of(&head));
        read_back(&bytes)
    };
    assert!(resealed(&|_, _| ()).is_ok());
    assert_eq!(resealed(&|head, _| head.version = 2), Err(RecordError::Version { found: 2 }));
    type Change<'a> = &'a dyn Fn(&mut Head, &mut [u8]);
    let nonsense: [Change<'_>; 9] = [
        &|head, _| head.kind = 77,
        &|head, _| head.length = 4097,
        &|head, _| head.length = 2 << 20,
        &|head, _| head.length = 0,
        &|head, _| head.payload_bytes = u32::MAX,
        &|head, _| head.payload_bytes -= 8,
        &|head, _| head.extents = u32::MAX,
        &|head, _| head.cuts = 0,
        &|_, body| body[24 + 16 + 128 + 16..][..2].fill(0xff),
    ];
    for (number, change) in nonsense.iter().enumerate() {
        assert!(resealed(*change).is_err(), "nonsense {number}");
    }
}

/// Pools of before there were counters.
#[test]
fn a_checkpoint_without_counters_has_none() {
    let lifetime = Lifetime { group_commits: 3, ..Lifetime::default() };
    let body = CheckpointBody { through: 7, lifetime, ..CheckpointBody::zeroed() };
    let whole = bytemuck::bytes_of(&body);
    for (len, wanted) in [(56, Some(0)), (168, Some(3)), (55, None), (57, None), (167, None)] {
        let mut reader = Reader { bytes: &whole[..len] };
        let found = reader.take_from::<CheckpointBody>(CHECKPOINT_BYTES_MIN);
        assert_eq!(found.ok().map(|body| body.lifetime.group_commits), wanted, "{len} bytes");
    }
}
