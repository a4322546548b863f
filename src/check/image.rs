//! The bytes that are checked: devices, files, or simulated disks.

use std::io;

use crate::format::layout::BLOCK_BYTES;
use crate::format::mirror_set::MirrorSet;

/// Reads from an offset as many bytes as the buffer takes.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>;

struct DiskImage<'a> {
    bytes: u64,
    read: ReadAt<'a>,
}

/// The disks of a pool to be checked. All reads are whole blocks of 4 KiB on their own boundaries.
///
/// See [`check`](crate::check::check) for an example.
pub struct Image<'a> {
    disks: Vec<DiskImage<'a>>,
    /// Which of them is in each slot, once that is known. None: missing.
    order: Option<Vec<Option<usize>>>,
    /// Of each slot, which of them are there, by the number of the mirror.
    mirrors: Vec<Vec<(u16, usize)>>,
}

impl<'a> Image<'a> {
    /// One disk of `bytes` bytes, which `read` reads.
    pub fn new(bytes: u64, read: ReadAt<'a>) -> Image<'a> {
        Image { disks: vec![DiskImage { bytes, read }], order: None, mirrors: Vec::new() }
    }

    /// Several disks, in any order.
    pub fn of_disks(disks: impl IntoIterator<Item = (u64, ReadAt<'a>)>) -> Image<'a> {
        let disks = disks.into_iter().map(|(bytes, read)| DiskImage { bytes, read });
        Image { disks: disks.collect(), order: None, mirrors: Vec::new() }
    }

    /// How many disks there are.
    pub fn disks(&self) -> u16 {
        self.disks.len() as u16
    }

    /// From now on disk `n` is the one that `order` has there; where it has none, there is none.
    /// What not all mirrors of a slot have is read from one of `mirrors` that has it.
    pub(super) fn arrange(&mut self, order: Vec<Option<usize>>, mirrors: Vec<Vec<(u16, usize)>>) {
        (self.order, self.mirrors) = (Some(order), mirrors);
    }

    /// Of what a place names as its disk.
    fn index(&self, target: u16) -> Option<usize> {
        let (slot, set) = MirrorSet::of_target(target);
        let disk = usize::from(slot);
        if !set.is_all() {
            let there = self.mirrors.get(disk)?.iter().filter(|(mirror, _)| set.includes(*mirror));
            let chosen = self.order.as_ref().and_then(|order| order.get(disk).copied().flatten());
            let is_chosen = |(_, index): &&(u16, usize)| Some(*index) == chosen;
            let found = there.clone().find(is_chosen).or_else(|| there.clone().next());
            return found.map(|(_, index)| *index);
        }
        match &self.order {
            None => Some(disk),
            Some(order) => order.get(disk).copied().flatten(),
        }
    }

    fn disk(&mut self, disk: u16) -> io::Result<&mut DiskImage<'a>> {
        let found = self.index(disk).and_then(|index| self.disks.get_mut(index));
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no disk {disk}")))
    }

    /// Bytes of a disk; 0 when there is none.
    pub fn bytes(&self, disk: u16) -> u64 {
        let found = self.index(disk).and_then(|index| self.disks.get(index));
        found.map_or(0, |found| found.bytes)
    }

    /// Reads into the whole buffer.
    ///
    /// # Errors
    /// When the range is not all inside the disk, there is no such disk, or the reading fails.
    pub fn read(&mut self, disk: u16, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let found = self.disk(disk)?;
        let inside = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= found.bytes);
        if !inside {
            let what = format!("the disk ends at byte {}", found.bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        (found.read)(offset, buffer)
    }

    /// Reads `bytes` bytes.
    ///
    /// # Errors
    /// As [`Image::read`]; memory is taken only for what is inside the disk.
    pub fn piece(&mut self, disk: u16, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let end = self.disk(disk)?.bytes;
        if bytes > end {
            self.read(disk, end, &mut [0])?;
        }
        let mut buffer = vec![0; bytes as usize];
        self.read(disk, offset, &mut buffer)?;
        Ok(buffer)
    }

    /// Reads a block.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn block(&mut self, disk: u16, offset: u64) -> io::Result<Vec<u8>> {
        self.piece(disk, offset, BLOCK_BYTES)
    }
}
