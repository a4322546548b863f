//! What happened, in order: a hash that two runs of one seed share, and lines for people.

use std::fmt;

use crate::io::op::{OpKind, Priority};

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A foreign request was taken, or refused.
    Submit {
        /// Its disk.
        disk: u16,
        /// Its class.
        class: Priority,
        /// What it does.
        kind: OpKind,
        /// Its first byte.
        offset: u64,
        /// Its length.
        len: u64,
        /// Whether it was taken.
        taken: bool,
    },
    /// An attempt reached the device.
    Dispatch {
        /// The reactor.
        reactor: usize,
        /// The disk.
        disk: u16,
        /// What it does.
        kind: OpKind,
        /// Its first byte.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// The device answered.
    Complete {
        /// The reactor.
        reactor: usize,
        /// The disk.
        disk: u16,
        /// What was done.
        kind: OpKind,
        /// First byte.
        offset: u64,
        /// Bytes or a negative errno.
        result: i32,
    },
    /// A reactor turned; `slept` when it had been asleep.
    Turn {
        /// The reactor.
        reactor: usize,
        /// Whether it comes out of a sleep.
        slept: bool,
    },
    /// A reactor ended; `failed` when it panicked.
    End {
        /// The reactor.
        reactor: usize,
        /// Whether it panicked.
        failed: bool,
    },
}

/// The record of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    count: u64,
    lines: Option<Vec<(u64, Event)>>,
}

impl Default for Trace {
    fn default() -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, count: 0, lines: None }
    }
}

impl Trace {
    /// Keeps the events from now on, not their hash alone.
    pub fn keep(&mut self) {
        self.lines.get_or_insert_with(Vec::new);
    }

    pub(crate) fn note(&mut self, now: u64, event: Event) {
        self.count += 1;
        for word in words(now, &event) {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
        if let Some(lines) = &mut self.lines {
            lines.push((now, event));
        }
    }

    /// One number for all that happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The events with their times, since [`Trace::keep`].
    pub fn events(&self) -> &[(u64, Event)] {
        self.lines.as_deref().unwrap_or_default()
    }
}

fn words(now: u64, event: &Event) -> [u64; 6] {
    match *event {
        Event::Submit { disk, class, kind, offset, len, taken } => {
            let what = (class as u64) << 8 | kind as u64;
            [now, 1 << 32 | u64::from(disk), what, offset, len, u64::from(taken)]
        }
        Event::Dispatch { reactor, disk, kind, offset, len } => {
            [now, 2 << 32 | u64::from(disk), reactor as u64, kind as u64, offset, len]
        }
        Event::Complete { reactor, disk, kind, offset, result } => {
            let head = 3 << 32 | u64::from(disk);
            [now, head, reactor as u64, kind as u64, offset, i64::from(result) as u64]
        }
        Event::Turn { reactor, slept } => [now, 4 << 32, reactor as u64, u64::from(slept), 0, 0],
        Event::End { reactor, failed } => [now, 5 << 32, reactor as u64, u64::from(failed), 0, 0],
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (now, event) in self.events() {
            writeln!(f, "{now:>12} {event:?}")?;
        }
        write!(f, "{} events, hash {:016x}", self.count, self.hash)
    }
}
