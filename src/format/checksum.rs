//! The two checksums of the disk format, and what each of them can miss.
//!
//! | of | algorithm | bits | kept |
//! | --- | --- | --- | --- |
//! | a data block | CRC-32C (Castagnoli, as iSCSI, RFC 3720) | 32 | with the referrer |
//! | labels, records, pages | XXH3-64 over a [`Context`] and the parts | 64 | in the structure |
//!
//! **A block has few bits, so they are spent on guarantees.** Over 4 KiB CRC-32C finds every error
//! of one, two or three bits, of any odd number of bits, and every burst of up to 32 bits; anything
//! else goes unseen once in 2^32. It does not know where a block belongs: the referrer's copy does.
//!
//! **Metadata has bits enough for chance**, about 2^-64 per wrong structure, and needs something
//! else: a structure of checked structures. A CRC over bytes that end in their own CRC by the same
//! polynomial does not depend on them, so a page of checked records would accept an old record in
//! the place of a new one. XXH3 is not linear and has no such hole.
//!
//! Neither is a defence against somebody who wants a collision. Both are the same on every machine.
//!
//! # Metadata, exactly
//!
//! The context is 36 bytes, numbers little-endian: pool (16), disk (2), zone (2), address (8),
//! incarnation (8). `sum = XXH3_64(seed 0, context)`; then for each part in its order `sum =
//! XXH3_64(seed sum, part)`. So where a structure is cut into parts belongs to its format: two
//! parts do not sum as one that holds the bytes of both. A structure leaves out its own checksum
//! field.
//!
//! # Nothing is not valid
//!
//! A disk that never wrote returns zeroes, and zeroes must not vouch for themselves. A block of 4
//! KiB of zeroes sums to `0x98F94189`, and a structure of zeroes to a number that its context
//! decides, which is zero for one context in 2^64. Zero is no mark of absence: it is a checksum
//! like any other.

/// Checksum of a block's content: CRC-32C.
///
/// ```
/// use dynamicfs::format::checksum::block_checksum;
///
/// assert_eq!(block_checksum(b"123456789"), 0xE306_9283);
/// assert_eq!(block_checksum(&[0; 4096]), 0x98F9_4189);
/// ```
#[must_use]
pub fn block_checksum(block: &[u8]) -> u32 {
    crc32c::crc32c(block)
}

/// Where a piece of metadata belongs. It is summed with the bytes, so that what was meant for
/// another place, or is left from an earlier use of this one, does not verify.
///
/// See [`metadata_checksum`] for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Id of the pool.
    pub pool: [u8; 16],
    /// Slot of the disk in its pool.
    pub disk: u16,
    /// Kind of structure.
    pub zone: u16,
    /// Where it begins on the disk, in bytes.
    pub address: u64,
    /// Number drawn when the pool was opened, or what else tells uses of this place apart.
    pub incarnation: u64,
}

/// Bytes of an encoded context.
const CONTEXT_BYTES: usize = 16 + 2 + 2 + 8 + 8;

impl Context {
    fn encode(&self) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0; CONTEXT_BYTES];
        bytes[0..16].copy_from_slice(&self.pool);
        bytes[16..18].copy_from_slice(&self.disk.to_le_bytes());
        bytes[18..20].copy_from_slice(&self.zone.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.address.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes
    }
}

/// Checksum of metadata: XXH3-64 of the context, chained over the parts in their order.
///
/// ```
/// use dynamicfs::format::checksum::{Context, metadata_checksum};
///
/// let here = Context { pool: [7; 16], disk: 0, zone: 1, address: 4096, incarnation: 1 };
/// let elsewhere = Context { address: 8192, ..here };
/// let (before, after) = ([1; 24], [2; 96]);
/// let sum = metadata_checksum(&here, &[&before, &after]);
/// assert_ne!(sum, metadata_checksum(&elsewhere, &[&before, &after]));
/// ```
#[must_use]
pub fn metadata_checksum(context: &Context, parts: &[&[u8]]) -> u64 {
    use twox_hash::XxHash3_64;
    // Chained instead of streamed: a streaming hasher of 0.5 KiB costs more than a record's sum.
    let sum = XxHash3_64::oneshot(&context.encode());
    parts.iter().fold(sum, |sum, part| XxHash3_64::oneshot_with_seed(sum, part))
}

#[cfg(test)]
mod tests;
