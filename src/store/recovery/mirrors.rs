//! What one disk of a slot has and another has not, when a domain is opened.
//!
//! Only the last record can be on some disks of its slot and not on others: every one before it was
//! acknowledged, so all had it. The same goes for the data that it names. Once it is accepted it
//! must be on all of them, or the verdict would depend on which disk answers. It is written only
//! where it is not: what is right is not touched.

use crate::format::checksum::block_checksum;
use crate::format::extent::Place;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::format::record::{Body, RecordHead};
use crate::io::op::{DiskId, Request};
use crate::memory::DmaBuf;
use crate::store::member::{Members, MirrorState};
use crate::store::recovery::scan::Scan;
use crate::store::recovery::{Recovery, RecoveryError};

/// Bytes that are written at a time where a journal is cleared.
const CLEARED_BYTES: u64 = 256 << 10;

impl Recovery<'_> {
    /// Judges a block that the last record names: none when it is there, else its checksum.
    pub(crate) async fn judge_block(
        &self,
        last: &RecordHead,
        place: Place,
        expected: u32,
    ) -> Result<Option<u32>, RecoveryError> {
        let (DiskId(slot), offset) = Members::address(place);
        let (mut wrong, mut unreadable) = (None, None);
        // What few disks have, one may have that is not in sync any more.
        let few = !place.mirrors().is_all();
        let behind = self.seed.members.get(place.slot()).into_iter();
        let behind = behind.flat_map(|member| member.of(place.mirrors()));
        let behind = behind.filter(|mirror| few && !mirror.is_in_sync());
        for mirror in self.mirrors(slot, offset)?.chain(behind) {
            match self.read_mirror(mirror, offset, BLOCK_BYTES as usize).await {
                Ok(bytes) => match block_checksum(&bytes) {
                    found if found == expected => return Ok(None),
                    // One that is behind shows what was written, not what was not.
                    found if mirror.is_in_sync() => wrong = Some(found),
                    _ => {}
                },
                Err(RecoveryError::Io { source, .. }) => {
                    let what = source.to_string();
                    unreadable = Some(self.undecidable((slot, offset), last.sequence, what));
                }
                Err(other) => return Err(other),
            }
        }
        // A disk in sync that does not have it shows that nobody was told of it.
        match (wrong, unreadable) {
            (Some(found), _) => Ok(Some(found)),
            (None, Some(unreadable)) => Err(unreadable),
            (None, None) if few => {
                let what = "no disk is there that has data of it".to_owned();
                Err(self.undecidable((slot, offset), last.sequence, what))
            }
            (None, None) => Err(self.gone(slot, offset)),
        }
    }

    /// Takes everything out of the journal on disks that are not in sync, before anything is
    /// written to it: what such a disk has may be of a time that the others know nothing of, and
    /// would be looked at once it is in sync.
    pub(crate) async fn clear_behind(&self) -> Result<(), RecoveryError> {
        let member = self.seed.members.home();
        let behind = member.mirrors.iter().filter(|mirror| mirror.state() == MirrorState::Syncing);
        for mirror in behind {
            let mut at = 0;
            while at < self.id.bytes && mirror.state() == MirrorState::Syncing {
                let bytes = CLEARED_BYTES.min(self.id.bytes - at);
                let mut zeroes = self.buffer(bytes as usize)?;
                zeroes.fill(0);
                let request = Request::write(mirror.disk, self.id.start + at, zeroes);
                let members = &self.seed.members;
                if members.submit_to(self.port, mirror, request).await.result.is_err() {
                    members.fence(self.port, mirror).await;
                    break;
                }
                at += bytes;
            }
        }
        Ok(())
    }

    /// Brings the last record, and the data that it names, to the disks that have it not.
    pub(crate) async fn mirror_last(&self, scan: &Scan) -> Result<(), RecoveryError> {
        if self.seed.members.all().iter().all(|member| member.in_sync().count() <= 1) {
            return Ok(());
        }
        let (last, slot) = (&scan.last, self.id.disk);
        let offset = self.id.offset(last.position);
        let body = self.body(last).await?;
        let is_whole = |bytes: &[u8]| self.decode_whole(last, bytes).is_ok();
        self.copy_where_wrong((slot, offset, last.length as usize), is_whole).await?;
        let Body::Changes(changes) = body else { return Ok(()) };
        for put in &changes.extents {
            for block in (0..EXTENT_BLOCKS).filter(|n| put.fresh & !put.inline & 1 << n != 0) {
                let (DiskId(slot), offset) = Members::address(put.extent.places[block]);
                let sum = put.extent.checksums[block];
                let is_whole = |bytes: &[u8]| block_checksum(bytes) == sum;
                self.copy_where_wrong((slot, offset, BLOCK_BYTES as usize), is_whole).await?;
            }
        }
        Ok(())
    }

    /// Copies bytes in a slot from a disk where they are whole to those where they are not.
    async fn copy_where_wrong(
        &self,
        (slot, offset, bytes): (u16, u64, usize),
        is_whole: impl Fn(&[u8]) -> bool,
    ) -> Result<(), RecoveryError> {
        let (mut whole, mut wrong) = (None, Vec::new());
        for mirror in self.mirrors(slot, offset)? {
            match self.read_mirror(mirror, offset, bytes).await {
                Ok(found) if is_whole(&found) => whole = whole.or(Some(found)),
                Ok(_) | Err(RecoveryError::Io { .. }) => wrong.push(mirror),
                Err(other) => return Err(other),
            }
        }
        let Some(whole) = whole else { return Ok(()) };
        for mirror in wrong {
            let mut copy: DmaBuf = self.buffer(bytes)?;
            copy.copy_from_slice(&whole);
            let request = Request::write(mirror.disk, offset, copy);
            let written = self.seed.members.submit_to(self.port, mirror, request).await;
            if written.result.is_err() {
                self.seed.members.fence(self.port, mirror).await;
            }
            if let Err(error) = written.result
                && mirror.is_in_sync()
            {
                return Err(self.io_error(error));
            }
        }
        Ok(())
    }
}
