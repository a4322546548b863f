//! One number for what a pool holds, whatever way it came there.
//!
//! Of each inode its id, size, tag, and the checksums of its blocks that are not zero: a hole and a
//! block of zeroes read alike and count alike. Inodes are summed, so that their order is of no
//! matter.

use crate::format::checksum::{Context, block_checksum, metadata_checksum};
use crate::format::layout::BLOCK_BYTES;

/// Checksum of a block of zeroes.
pub const ZERO_BLOCK_CHECKSUM: u32 = 0x98F9_4189;

/// The digest of an inode, block by block in ascending order.
#[derive(Clone, Debug)]
pub struct InodeDigest {
    sum: u64,
}

impl InodeDigest {
    /// Of an inode without blocks.
    pub fn new(id: u64, size_bytes: u64, tag: &[u8; 64]) -> InodeDigest {
        InodeDigest { sum: mix(id, size_bytes, tag) }
    }

    /// Its block `number` has this checksum.
    pub fn block(&mut self, number: u64, checksum: u32) {
        if checksum != ZERO_BLOCK_CHECKSUM {
            self.sum = mix(self.sum, number, &checksum.to_le_bytes());
        }
    }

    /// Of an inode of this content.
    ///
    /// ```
    /// use dynamicfs::check::digest::InodeDigest;
    ///
    /// let hole = InodeDigest::of_content(1, &[0; 64], &[0; 8192]).sum();
    /// assert_eq!(hole, InodeDigest::new(1, 8192, &[0; 64]).sum());
    /// ```
    pub fn of_content(id: u64, tag: &[u8; 64], content: &[u8]) -> InodeDigest {
        let mut digest = InodeDigest::new(id, content.len() as u64, tag);
        for (number, bytes) in content.chunks(BLOCK_BYTES as usize).enumerate() {
            let mut block = [0; BLOCK_BYTES as usize];
            block[..bytes.len()].copy_from_slice(bytes);
            digest.block(number as u64, block_checksum(&block));
        }
        digest
    }

    /// The number.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

/// The digest of a pool.
#[derive(Clone, Debug, Default)]
pub struct PoolDigest {
    sum: u64,
}

impl PoolDigest {
    /// One more inode.
    pub fn add(&mut self, inode: &InodeDigest) {
        self.sum = self.sum.wrapping_add(inode.sum);
    }

    /// The number.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

fn mix(address: u64, incarnation: u64, bytes: &[u8]) -> u64 {
    let context = Context { pool: [0; 16], disk: 0, zone: 0, address, incarnation };
    metadata_checksum(&context, &[bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_as_good_as_holes_and_nothing_else_is() {
        assert_eq!(block_checksum(&[0; 4096]), ZERO_BLOCK_CHECKSUM);
        let digest = |content: &[u8]| InodeDigest::of_content(7, &[1; 64], content).sum();
        let mut sparse = InodeDigest::new(7, 4097, &[1; 64]);
        sparse.block(0, ZERO_BLOCK_CHECKSUM);
        assert_eq!(digest(&[0; 4097]), sparse.sum());
        assert_ne!(digest(&[0; 4097]), digest(&[0; 4096]));
        let mut one = vec![0; 12_288];
        one[4096] = 1;
        let mut other = vec![0; 12_288];
        other[8192] = 1;
        assert_ne!(digest(&one), digest(&other));
        assert_ne!(digest(&one), InodeDigest::of_content(7, &[2; 64], &one).sum());
        assert_ne!(digest(&one), InodeDigest::of_content(8, &[1; 64], &one).sum());
    }
}
