//! The event that ends a reactor's sleep from another thread.

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// An event counter that a ring polls. Non-blocking: a blocking one could be handed to a worker.
#[derive(Debug)]
pub struct WakeEvent {
    event: EventFd,
}

impl WakeEvent {
    /// A new event, not signalled.
    pub fn new() -> std::io::Result<WakeEvent> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(WakeEvent { event })
    }

    /// Ends the sleep of whoever polls the event.
    pub fn signal(&self) {
        loop {
            match self.event.write(1) {
                // EAGAIN: the counter is full, so it is signalled already.
                Ok(_) | Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(errno) => unreachable!("an eventfd that we own refused a write: {errno}"),
            }
        }
    }

    /// Takes the signals seen so far, so that a new poll waits for the next one.
    pub fn clear(&self) {
        let _ = self.event.read();
    }
}

impl AsRawFd for WakeEvent {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_fd().as_raw_fd()
    }
}

impl AsFd for WakeEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
