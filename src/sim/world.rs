//! What all simulated reactors share: the clock, the disks, and what is on its way.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use crate::io::op::OpKind;
use crate::io::op_table::{Half, OpId};
use crate::sim::disk::{Command, Outcome, SimDisk};
use crate::sim::fault::{Fault, Faults};
use crate::sim::random::Random;
use crate::sim::trace::{Event, Trace};

/// Which operation of which reactor an attempt is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) reactor: usize,
    pub(crate) id: OpId,
    /// What of the operation; a write that stands for a chain is its `ChainedFlush`.
    pub(crate) half: Half,
}

/// An attempt whose completion is set.
#[derive(Debug)]
struct Attempt {
    sender: Sender,
    disk: usize,
    kind: OpKind,
    offset: u64,
    len: u64,
    ticket: u64,
    outcome: Outcome,
    result: i32,
}

/// A completion that its reactor has not reaped.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) id: OpId,
    pub(crate) half: Half,
    pub(crate) result: i32,
    /// What a read has read.
    pub(crate) data: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) faults: Vec<Faults>,
    pub(crate) trace: Trace,
    /// By time, then by number.
    due: BTreeMap<(u64, u64), Attempt>,
    attempts: u64,
    pub(crate) ready: Vec<VecDeque<Done>>,
    hung: u64,
}

impl World {
    pub(crate) fn new(random: Random, disks: Vec<SimDisk>, reactors: usize) -> World {
        World {
            now: 1,
            random,
            faults: disks.iter().map(|_| Faults::default()).collect(),
            disks,
            trace: Trace::default(),
            due: BTreeMap::new(),
            attempts: 0,
            ready: (0..reactors).map(|_| VecDeque::new()).collect(),
            hung: 0,
        }
    }

    /// Attempts that will complete.
    pub(crate) fn pending(&self) -> usize {
        self.due.len()
    }

    /// Attempts that never will.
    pub(crate) fn hung(&self) -> u64 {
        self.hung
    }

    /// When the next attempt completes.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn note(&mut self, event: Event) {
        self.trace.note(self.now, event);
    }

    /// Moves the clock, and completes what is due by then.
    pub(crate) fn advance(&mut self, to: u64) {
        while let Some(at) = self.next_due()
            && at <= to
        {
            self.now = self.now.max(at);
            if let Some((_, attempt)) = self.due.pop_first() {
                self.complete(attempt);
            }
        }
        self.now = self.now.max(to);
    }

    /// Takes an attempt to its disk and decides what becomes of it.
    pub(crate) fn submit(&mut self, sender: Sender, disk: usize, command: Command) {
        let (kind, offset, len) = (command.kind, command.offset, command.len);
        let reactor = sender.reactor;
        self.note(Event::Dispatch { reactor, disk: disk as u16, kind, offset, len });
        // To a device a durable write is a write.
        let met = if kind == OpKind::WriteDsync { OpKind::Write } else { kind };
        let fault = self.faults[disk].decide(met, offset, len, &mut self.random);
        let ticket = self.disks[disk].submit(command);
        let mut at = self.now + self.latency(disk, kind);
        let whole = if kind.moves_data() { len as i32 } else { 0 };
        let (outcome, result) = match fault {
            None => (Outcome::Done, whole),
            Some(Fault::Slow(ns)) => {
                at += ns;
                (Outcome::Done, whole)
            }
            Some(Fault::Hang) => {
                self.hung += 1;
                return;
            }
            Some(Fault::Errno(errno)) if passing(errno) => (Outcome::Nothing, -errno),
            Some(Fault::Errno(errno)) => (Outcome::Failed, -errno),
            Some(Fault::Short(bytes)) if kind.moves_data() && bytes < len => {
                (Outcome::Part(bytes), bytes as i32)
            }
            Some(Fault::Zero) if kind.moves_data() => (Outcome::Part(0), 0),
            Some(Fault::Lost) if kind != OpKind::Read => (Outcome::Nothing, whole),
            Some(Fault::Misdirect(to)) if met == OpKind::Write => (Outcome::Elsewhere(to), whole),
            Some(_) => (Outcome::Done, whole),
        };
        self.attempts += 1;
        let attempt = Attempt { sender, disk, kind, offset, len, ticket, outcome, result };
        self.due.insert((at, self.attempts), attempt);
    }

    fn latency(&mut self, disk: usize, kind: OpKind) -> u64 {
        let config = self.disks[disk].config();
        let bounds: &RangeInclusive<u64> = match kind {
            OpKind::Read => &config.read_ns,
            OpKind::Write | OpKind::WriteDsync => &config.write_ns,
            _ => &config.command_ns,
        };
        let bounds = bounds.clone();
        self.random.within(&bounds)
    }

    fn complete(&mut self, mut attempt: Attempt) {
        let Attempt { mut sender, disk, kind, offset, len, ticket, .. } = attempt;
        if self.disks[disk].is_gone() {
            (attempt.outcome, attempt.result) = match kind {
                OpKind::Read => (Outcome::Part(0), 0),
                OpKind::Write | OpKind::WriteDsync => (Outcome::Failed, -libc::ENOSPC),
                _ => (Outcome::Nothing, -libc::EIO),
            };
        }
        let result = attempt.result;
        let data = self.disks[disk].complete(ticket, attempt.outcome, &mut self.random);
        let reactor = sender.reactor;
        self.note(Event::Complete { reactor, disk: disk as u16, kind, offset, result });
        if sender.half == Half::ChainedFlush && kind == OpKind::Write {
            if i64::from(result) == len as i64 {
                // All of it is written: the kernel submits the flush now, and says nothing yet.
                let (kind, offset, len) = (OpKind::Flush, 0, 0);
                let flush = Command { kind, offset, len, data: Vec::new() };
                return self.submit(sender, disk, flush);
            }
            sender.half = Half::Write;
        }
        let Sender { id, half, .. } = sender;
        self.ready[reactor].push_back(Done { id, half, result, data });
    }
}

/// Errors after which nothing has happened: the reactor tries those again.
pub(crate) fn passing(errno: i32) -> bool {
    use crate::io::error::{Medium, Verdict, classify};
    classify(errno, Medium::Device) == Verdict::Retry
}
