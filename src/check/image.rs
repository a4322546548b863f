//! The bytes that are checked: devices, files, or simulated disks.

use std::io;

use crate::format::layout::BLOCK_BYTES;

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
}

impl<'a> Image<'a> {
    /// One disk of `bytes` bytes, which `read` reads.
    pub fn new(bytes: u64, read: ReadAt<'a>) -> Image<'a> {
        Image { disks: vec![DiskImage { bytes, read }], order: None }
    }

    /// Several disks, in any order.
    pub fn of_disks(disks: impl IntoIterator<Item = (u64, ReadAt<'a>)>) -> Image<'a> {
        let disks = disks.into_iter().map(|(bytes, read)| DiskImage { bytes, read });
        Image { disks: disks.collect(), order: None }
    }

    /// How many disks there are.
    pub fn disks(&self) -> u16 {
        self.disks.len() as u16
    }

    /// From now on disk `n` is the one that `order` has there; where it has none, there is none.
    pub(super) fn arrange(&mut self, order: Vec<Option<usize>>) {
        self.order = Some(order);
    }

    fn index(&self, disk: u16) -> Option<usize> {
        let disk = usize::from(disk);
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
