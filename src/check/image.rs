//! The bytes that are checked: a device, a file, or a simulated disk.

use std::io;

use crate::format::layout::BLOCK_BYTES;

/// A disk to be checked. All reads are whole blocks of 4 KiB on their own boundaries.
///
/// See [`check`](crate::check::check) for an example.
pub struct Image<'a> {
    bytes: u64,
    read: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
}

impl<'a> Image<'a> {
    /// `bytes` bytes, which `read` reads: from an offset, as many as the buffer takes.
    pub fn new(bytes: u64, read: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>) -> Image<'a> {
        Image { bytes, read }
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads into the whole buffer.
    ///
    /// # Errors
    /// When the range is not all inside the image, or the reading fails.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inside = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.bytes);
        if !inside {
            let what = format!("the disk ends at byte {}", self.bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        (self.read)(offset, buffer)
    }

    /// Reads `bytes` bytes.
    ///
    /// # Errors
    /// As [`Image::read`]; memory is taken only for what is inside the image.
    pub fn piece(&mut self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        if bytes > self.bytes {
            self.read(self.bytes, &mut [0])?;
        }
        let mut buffer = vec![0; bytes as usize];
        self.read(offset, &mut buffer)?;
        Ok(buffer)
    }

    /// Reads a block.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn block(&mut self, offset: u64) -> io::Result<Vec<u8>> {
        self.piece(offset, BLOCK_BYTES)
    }
}
