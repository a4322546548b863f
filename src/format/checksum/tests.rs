//! Published test vectors, the guarantees that the format counts on, and values that must never
//! change.

use std::collections::HashSet;

use twox_hash::XxHash3_64;

use super::*;

/// RFC 3720, B.4, and the check value of the catalogue of CRCs.
#[test]
fn block_checksums_are_those_of_the_standard() {
    let rising: Vec<u8> = (0..32).collect();
    let falling: Vec<u8> = (0..32).rev().collect();
    let read_command = [
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0,
        0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
    ];
    let cases: [(&[u8], u32); 6] = [
        (b"123456789", 0xE306_9283),
        (&[0; 32], 0x8A91_36AA),
        (&[0xFF; 32], 0x62A8_AB43),
        (&rising, 0x46DD_794E),
        (&falling, 0x113F_DB5C),
        (&read_command, 0xD996_3A56),
    ];
    for (bytes, expected) in cases {
        assert_eq!(block_checksum(bytes), expected, "of {bytes:02x?}");
    }
}

/// The definition itself, bit by bit: the fast paths change with length and alignment.
#[test]
fn block_checksums_follow_the_definition_at_every_length_and_alignment() {
    fn slow(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 }
            })
        })
    }
    let bytes = noise(9000);
    for length in (0..300).chain([511, 1023, 4095, 4096, 4097, 8191]) {
        for start in [0, 1, 7] {
            let piece = &bytes[start..start + length];
            assert_eq!(block_checksum(piece), slow(piece), "{length} bytes from {start}");
        }
    }
}

/// A CRC is linear: what a flip does to the sum does not depend on the content. So 32,768 sums
/// prove what is said of all contents. All differ: one and two flips are found. All have an odd
/// number of bits, and a sum of an odd number of them has one, too: any odd number of flips is
/// found.
#[test]
fn flips_of_one_two_or_an_odd_number_of_bits_are_found_in_a_block() {
    let mut block = noise(4096);
    let sum = block_checksum(&block);
    let mut changes = HashSet::new();
    for bit in 0..block.len() * 8 {
        block[bit / 8] ^= 1 << (bit % 8);
        let change = block_checksum(&block) ^ sum;
        block[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(change.count_ones() % 2, 1, "bit {bit}");
        assert!(changes.insert(change), "bit {bit} changes what another does");
    }
}

/// Bursts of up to 32 bits: their changes are sums of 32 neighbours', which must be independent.
#[test]
fn bursts_of_32_bits_are_found_in_a_block() {
    let mut block = vec![0; 4096];
    let sum = block_checksum(&block);
    let mut change = |bit: usize| {
        block[bit / 8] ^= 1 << (bit % 8);
        let change = block_checksum(&block) ^ sum;
        block[bit / 8] ^= 1 << (bit % 8);
        change
    };
    for first in (0..4096 * 8 - 32).step_by(509) {
        let mut rows: Vec<u32> = (first..first + 32).map(&mut change).collect();
        for column in 0..32 {
            let pivot = rows.iter().position(|row| row >> column & 1 == 1);
            let pivot = rows.swap_remove(pivot.expect("32 independent changes"));
            for row in &mut rows {
                *row ^= if *row >> column & 1 == 1 { pivot } else { 0 };
            }
        }
    }
}

#[test]
fn zeroes_do_not_sum_to_zero() {
    for length in [1, 32, 512, 4096, 65536] {
        assert_ne!(block_checksum(&vec![0; length]), 0, "{length} bytes");
        let nowhere = Context { pool: [0; 16], disk: 0, zone: 0, address: 0, incarnation: 0 };
        assert_ne!(metadata_checksum(&nowhere, &[&vec![0; length]]), 0, "{length} bytes");
    }
}

/// From xxHash's own self-test (`cli/xsum_sanity_check.c`): lengths on each of its paths.
#[test]
fn xxh3_is_the_published_one() {
    const SEED: u64 = 0x9E37_79B1_85EB_CA8D;
    let mut state = 0x9E37_79B1_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        let byte = (state >> 56) as u8;
        state = state.wrapping_mul(SEED);
        byte
    })
    .take(2048)
    .collect();
    let cases = [
        (0, 0x2D06_8005_38D3_94C2, 0xA8A6_B918_B2F0_364A),
        (1, 0xC44B_DFF4_074E_ECDB, 0x032B_E332_DD76_6EF8),
        (6, 0x27B5_6A84_CD2D_7325, 0x8458_9C11_6AB5_9AB9),
        (12, 0xA713_DAF0_DFBB_77E7, 0xE730_3E1B_2336_DE0E),
        (24, 0xA3FE_70BF_9D35_10EB, 0x850E_80FC_35BD_D690),
        (48, 0x397D_A259_ECBA_1F11, 0xADC2_CBAA_44AC_C616),
        (80, 0xBCDE_FBBB_2C47_C90A, 0xC6DD_0CB6_9953_2E73),
        (195, 0xCD94_217E_E362_EC3A, 0xBA68_003D_370C_B3D9),
        (403, 0xCDEB_804D_65C6_DEA4, 0x6259_F6EC_FD64_43FD),
        (512, 0x617E_4959_9013_CB6B, 0x3CE4_57DE_14C2_7708),
        (2048, 0xDD59_E2C3_A5F0_38E0, 0x66F8_1670_669A_BABC),
    ];
    for (length, plain, seeded) in cases {
        assert_eq!(XxHash3_64::oneshot(&bytes[..length]), plain, "{length} bytes");
        let sum = XxHash3_64::oneshot_with_seed(SEED, &bytes[..length]);
        assert_eq!(sum, seeded, "{length} bytes with a seed");
    }
}

const HERE: Context = Context {
    pool: *b"0123456789abcdef",
    disk: 0x1234,
    zone: 0x5678,
    address: 0x1122_3344_5566_7788,
    incarnation: 0x99AA_BBCC_DDEE_FF00,
};

#[test]
fn every_bit_of_the_context_matters_and_has_its_place() {
    let encoded = HERE.encode();
    assert_eq!(&encoded[..16], b"0123456789abcdef");
    assert_eq!(encoded[16..20], [0x34, 0x12, 0x78, 0x56]);
    assert_eq!(encoded[20..28], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(encoded[28..], [0x00, 0xFF, 0xEE, 0xDD, 0xCC, 0xBB, 0xAA, 0x99]);

    let mut others = Vec::new();
    for bit in 0..128 {
        let mut pool = HERE.pool;
        pool[bit / 8] ^= 1 << (bit % 8);
        others.push(Context { pool, ..HERE });
    }
    for bit in 0..16 {
        others.push(Context { disk: HERE.disk ^ 1 << bit, ..HERE });
        others.push(Context { zone: HERE.zone ^ 1 << bit, ..HERE });
    }
    for bit in 0..64 {
        others.push(Context { address: HERE.address ^ 1 << bit, ..HERE });
        others.push(Context { incarnation: HERE.incarnation ^ 1 << bit, ..HERE });
    }
    let record = noise(120);
    let mut sums = HashSet::from([metadata_checksum(&HERE, &[&record])]);
    for other in others {
        assert!(sums.insert(metadata_checksum(&other, &[&record])), "{other:?}");
    }
    assert_eq!(sums.len(), 1 + CONTEXT_BYTES * 8);
}

#[test]
fn every_bit_of_every_part_matters() {
    for lengths in [[8, 120], [24, 300], [3, 0], [0, 17]] {
        let mut bytes = noise(lengths[0] + lengths[1]);
        let sum = |bytes: &[u8]| {
            let (first, second) = bytes.split_at(lengths[0]);
            metadata_checksum(&HERE, &[first, second])
        };
        let mut sums = HashSet::from([sum(&bytes)]);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(sums.insert(sum(&bytes)), "bit {bit} of {lengths:?}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn the_order_and_the_cuts_of_the_parts_matter() {
    let ways: [&[&[u8]]; 7] =
        [&[], &[b""], &[b"ab", b"c"], &[b"a", b"bc"], &[b"c", b"ab"], &[b"abc"], &[b"abc", b""]];
    let sums: HashSet<u64> = ways.iter().map(|parts| metadata_checksum(&HERE, parts)).collect();
    assert_eq!(sums.len(), ways.len());
}

/// A page of checked records: the hole of nested CRCs, which is why metadata has none.
#[test]
fn a_checked_record_in_a_checked_page_can_not_be_exchanged_unseen() {
    let record = |fill: u8| {
        let mut record = vec![fill; 120];
        record.extend(metadata_checksum(&HERE, &[&record]).to_le_bytes());
        record
    };
    let page = |second: Vec<u8>| [record(1), second, record(3)].concat();
    let sums = [page(record(2)), page(record(9))].map(|page| metadata_checksum(&HERE, &[&page]));
    assert_ne!(sums[0], sums[1]);

    // The same with CRC-32C is the hole.
    let record = |fill: u8| {
        let mut record = vec![fill; 124];
        record.extend(block_checksum(&record).to_le_bytes());
        record
    };
    let page = |second: Vec<u8>| [record(1), second, record(3)].concat();
    assert_eq!(block_checksum(&page(record(2))), block_checksum(&page(record(9))));
}

/// What is on disks already; worked out with another implementation of XXH3 (xxhash-rust 0.8.19).
#[test]
fn sums_of_this_format_never_change() {
    let page: Vec<u8> = (0..4096_u32).map(|index| (index * 7 + 3) as u8).collect();
    let sums = [
        metadata_checksum(&HERE, &[]),
        metadata_checksum(&HERE, &[&page[..128]]),
        metadata_checksum(&HERE, &[&page[..8], &page[16..]]),
    ];
    assert_eq!(sums, [0x7F1C_5A98_DD03_6031, 0x47C1_76EF_00C0_B5AA, 0x4B26_26F4_54A9_95FB]);
}

/// Bytes without a pattern, the same every time (SplitMix64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x5EED_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27) as u8
    })
    .take(length)
    .collect()
}
