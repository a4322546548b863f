//! Bytes that verify and may be anything: what decodes them gives an error or a value, and never
//! panics.
// clippy.toml allows this in tests, but does not see the functions beside them.
#![allow(clippy::unwrap_used)]

use dynamicfs::format::checksum::{Context, metadata_checksum};
use dynamicfs::format::disk_set::DiskSet;
use dynamicfs::format::fragment::Fragment;
use dynamicfs::format::label::{LABEL_BYTES, Label, Mirror};
use dynamicfs::format::layout::{Layout, Zone, label_offsets};
use dynamicfs::format::page::{
    CHILDREN_PER_PAGE, EXTENTS_PER_GROUP, FirstSlot, GROUPS_PER_PAGE, INODES_PER_PAGE, Page,
    PageAddress, PageKind, SecondSlot,
};
use dynamicfs::format::record::{Body, JournalId, decode_body, decode_head, encode, record_bytes};
use dynamicfs::format::removals::Removals;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_oneof};
use proptest::strategy::{Just, Strategy};
use proptest::{prop_assert, prop_assert_eq, proptest};

const POOL: [u8; 16] = [3; 16];
const JOURNAL: JournalId =
    JournalId { pool: POOL, disk: 1, domain: 2, start: 2 << 20, bytes: 1 << 20 };
const DISK_BYTES: u64 = 64 << 20;

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// A number that is in the range, or at an edge, or anything.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..64,
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(1 << 40),
        Just(1 << 63),
        any::<u64>()
    ]
}

/// What is written over random bytes: where, how wide, what.
fn patches() -> impl Strategy<Value = Vec<(usize, usize, u64)>> {
    vec((0usize..512, prop_oneof![Just(2usize), Just(4), Just(8)], number()), 0..12)
}

fn patched(bytes: &mut [u8], patches: &[(usize, usize, u64)]) {
    for (at, width, number) in patches {
        let at = at * 8 % (bytes.len() - 8);
        put(bytes, at, &number.to_le_bytes()[..*width]);
    }
}

/// Makes a block of bytes a record at an offset of the ring, as far as its checksums go.
fn sealed_record(mut bytes: Vec<u8>, offset: u64, kind: u16) -> Vec<u8> {
    put(&mut bytes, 0, b"dynfsREC");
    put(&mut bytes, 8, &1u16.to_le_bytes());
    put(&mut bytes, 10, &kind.to_le_bytes());
    put(&mut bytes, 12, &JOURNAL.domain.to_le_bytes());
    put(&mut bytes, 16, &POOL);
    put(&mut bytes, 56, &offset.to_le_bytes());
    let length = bytes.len() as u32;
    put(&mut bytes, 64, &length.to_le_bytes());
    let incarnation = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
    let (zone, address) = (Zone::Journal(2).number(), JOURNAL.start + offset);
    let context = Context { pool: POOL, disk: 1, zone, address, incarnation };
    let body = metadata_checksum(&context, &[&bytes[256..]]);
    put(&mut bytes, 240, &body.to_le_bytes());
    let head = metadata_checksum(&context, &[&bytes[..248]]);
    put(&mut bytes, 248, &head.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn records(
        fill in prop_oneof![Just(0u8), any::<u8>()],
        blocks in 1usize..4,
        counts in vec(0u32..4, 5),
        payload in 0u32..6000,
        kind in 0u16..7,
        patches in patches(),
        at in 0u64..256,
    ) {
        let offset = at * 4096;
        let mut bytes = vec![fill; blocks * 4096];
        for (n, count) in counts.iter().enumerate() {
            put(&mut bytes, 96 + 4 * n, &count.to_le_bytes());
        }
        put(&mut bytes, 116, &payload.to_le_bytes());
        patched(&mut bytes, &patches);
        let bytes = sealed_record(bytes, offset, kind);
        if let Ok(head) = decode_head(&JOURNAL, offset, &bytes) {
            prop_assert!(offset + u64::from(head.length) <= JOURNAL.bytes);
            prop_assert!(head.end() >= head.position);
            if let Ok(body) = decode_body(&JOURNAL, &head, &bytes) {
                prop_assert_eq!(record_bytes(&body), head.length as usize);
                written_again(&head, &body, &bytes)?;
            }
            let _ = decode_body(&JOURNAL, &head, &bytes[..bytes.len() / 2]);
        }
    }

    #[test]
    fn pages(fill in any::<u8>(), kind in 0u16..5, level in 0u32..3, patches in patches()) {
        let home = Fragment::new(1, 700, 1).unwrap();
        let address = PageAddress { pool: POOL, domain: 2, level, number: 9, home };
        let mut bytes = vec![fill; 4096];
        patched(&mut bytes, &patches);
        put(&mut bytes, 0, b"dfPG");
        put(&mut bytes, 4, &kind.to_le_bytes());
        put(&mut bytes, 6, &2u16.to_le_bytes());
        put(&mut bytes, 8, &9u32.to_le_bytes());
        put(&mut bytes, 12, &level.to_le_bytes());
        let (zone, address_bytes) = (Zone::Data.number(), 700 * 4096);
        let context =
            Context { pool: POOL, disk: 1, zone, address: address_bytes, incarnation: 0 };
        let sum = metadata_checksum(&context, &[&bytes[..24], &bytes[32..]]);
        put(&mut bytes, 24, &sum.to_le_bytes());
        if let Ok(page) = Page::open(&bytes, &address, sum) {
            prop_assert_eq!(page.kind == PageKind::Parent, level > 0);
            look_at(&page);
        }
        let _ = Page::open(&bytes[..bytes.len() / 3], &address, sum);
    }

    #[test]
    fn labels(
        copy in 0usize..5,
        patches in patches(),
        size in number(),
        whole in any::<bool>(),
        mirrored in any::<bool>(),
        home_slots in 1u16..3,
    ) {
        let layout = Layout::plan(DISK_BYTES, 2, 1 << 20).unwrap();
        let epoch = 3;
        let mirror = match mirrored {
            true => Mirror { number: 1, count: 2, in_sync: DiskSet::first(3) },
            false => Mirror::ALONE,
        };
        let (pool, disk, slot, slots) = (POOL, [9; 16], 0, 2);
        let removals = Removals::NONE;
        let label = Label { pool, disk, slot, slots, home_slots, removals, mirror, epoch, layout };
        let mut bytes = label.encode(copy.min(3));
        for (at, width, number) in &patches {
            put(&mut bytes, 10 + at % 94, &number.to_le_bytes()[..*width]);
        }
        let epoch = u64::from_le_bytes(bytes[72..80].try_into().unwrap());
        let zone = if copy < 2 { Zone::HeadLabels } else { Zone::TailLabels };
        let disk = u16::from_le_bytes([bytes[64], bytes[65]]);
        let disk_bytes = if whole { DISK_BYTES } else { size };
        let address = label_offsets(disk_bytes).get(copy).copied().unwrap_or(0);
        let pool = bytes[32..48].try_into().unwrap();
        let context = Context { pool, disk, zone: zone.number(), address, incarnation: epoch };
        let sum = match bytes[16] & 1 {
            0 => metadata_checksum(&context, &[&bytes[..112]]),
            _ => metadata_checksum(&context, &[&bytes[..112], &bytes[120..152]]),
        };
        put(&mut bytes, 112, &sum.to_le_bytes());
        if let Ok(label) = Label::decode(copy, disk_bytes, &bytes) {
            prop_assert!(copy < 4 && label.layout.domains() > 0);
            for domain in 0..label.layout.domains() {
                let zone = label.layout.zone(Zone::Journal(domain));
                prop_assert!(zone.end <= label.layout.zone(Zone::Data).start);
            }
        }
        let _ = Label::decode(copy, disk_bytes, &bytes[..LABEL_BYTES / 8]);
    }
}

/// What was decoded can be encoded, and says the same then.
fn written_again(
    head: &dynamicfs::format::record::RecordHead,
    body: &Body,
    bytes: &[u8],
) -> Result<(), proptest::test_runner::TestCaseError> {
    let mut again = bytes.to_vec();
    encode(&JOURNAL, head, body, &mut again);
    let offset = head.position % JOURNAL.bytes;
    let second = decode_head(&JOURNAL, offset, &again).unwrap();
    let found = decode_body(&JOURNAL, &second, &again);
    prop_assert_eq!(found.as_ref(), Ok(body));
    Ok(())
}

fn look_at(page: &Page<'_>) {
    for index in 0..=CHILDREN_PER_PAGE {
        let child = page.child(index);
        let _ = (child.is_none(), child.homes[0].start_block(), child.homes[1].blocks());
    }
    for index in 0..=INODES_PER_PAGE {
        let _ = page.inode(index);
    }
    for group in 0..=GROUPS_PER_PAGE {
        let _ = page.group(group);
        for slot in 0..EXTENTS_PER_GROUP {
            let (first, second): (FirstSlot, SecondSlot) =
                (page.slot(group, slot), page.slot(group, slot));
            for rest in [None, Some(&second)] {
                if let Ok(extent) = first.join(rest) {
                    assert_eq!(extent.mask().count_ones(), first.mask().count_ones());
                    let _ = FirstSlot::split(1, &extent);
                }
            }
            let _ = (first.fragment_count(), first.needs_second(), second.is_empty());
        }
    }
}
