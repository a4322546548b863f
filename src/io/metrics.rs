//! What is counted for each lane, disk and reactor.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::io::error::ErrorKind;
use crate::io::op::{CLASSES, Priority};
use crate::metrics::counter::Counter;
use crate::metrics::histogram::{Histogram, HistogramSnapshot};

/// One class on one lane. All but `shed` are written by the lane's reactor alone.
#[derive(Debug, Default)]
pub struct ClassMetrics {
    pub(crate) queued: Counter,
    pub(crate) completed: Counter,
    pub(crate) bytes: Counter,
    pub(crate) aged: Counter,
    pub(crate) split: Counter,
    pub(crate) stolen: Counter,
    pub(crate) retried: Counter,
    /// Written by every submitter.
    pub(crate) shed: Counter,
    pub(crate) wait: Histogram,
    pub(crate) service: Histogram,
}

/// One lane.
#[derive(Debug, Default)]
pub struct LaneMetrics {
    pub(crate) classes: [ClassMetrics; CLASSES],
    pub(crate) errors: [Counter; ErrorKind::COUNT],
    /// Flush commands that the device answered.
    pub(crate) flushes: Counter,
    /// Writes with RWF_DSYNC that the device answered.
    pub(crate) dsync_writes: Counter,
}

/// One reactor's loop.
#[derive(Debug, Default)]
pub struct ReactorMetrics {
    /// Turns of the loop.
    pub(crate) turns: Counter,
    /// System calls to hand over and to wait.
    pub(crate) enters: Counter,
    /// Attempts handed over.
    pub(crate) submitted: Counter,
    /// Turns that handed anything over.
    pub(crate) submits: Counter,
    /// Turns that took any completion.
    pub(crate) reaps: Counter,
    /// Completions taken.
    pub(crate) reaped: Counter,
    /// Completions that matched no operation.
    pub(crate) late: Counter,
    /// Requests that came by mail.
    pub(crate) mail: Counter,
    /// Sleeps begun.
    pub(crate) sleeps: Counter,
    /// Wake-ups signalled to it, written by every producer.
    pub(crate) wakes: Counter,
    /// CPU time of its thread in nanoseconds, at most 20 ms of work old.
    pub(crate) cpu_ns: Counter,
    /// User part of it.
    pub(crate) user_ns: Counter,
    /// System part of it.
    pub(crate) system_ns: Counter,
    /// Context switches.
    pub(crate) switches: Counter,
}

/// A class of a disk at one moment, all lanes together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassSnapshot {
    /// Requests waiting now.
    pub io_queue_length: u64,
    /// Requests completed, failed ones included.
    pub io_ops_completed: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Requests served out of turn because they had waited too long.
    pub aged: u64,
    /// Pieces that large requests were split into.
    pub split: u64,
    /// Requests that moved to an idle lane.
    pub stolen: u64,
    /// Attempts repeated after a passing lack of resources or a short transfer.
    pub retried: u64,
    /// Requests refused because the class's watermark was reached.
    pub shed: u64,
    /// From acceptance to the device, nanoseconds.
    pub wait: HistogramSnapshot,
    /// From there to the completion, nanoseconds.
    pub service: HistogramSnapshot,
}

/// A disk at one moment.
#[derive(Clone, Debug)]
pub struct DiskMetrics {
    /// Its path.
    pub path: String,
    /// Classes, highest first.
    pub classes: [ClassSnapshot; CLASSES],
    /// Failed requests by kind.
    pub errors: BTreeMap<ErrorKindName, u64>,
    /// Flush commands that the device answered, failed ones included: those of `Flush` requests
    /// and the second halves of `WriteFlush` requests.
    pub flushes: u64,
    /// Durable writes (RWF_DSYNC) that the device answered, failed and short ones included.
    pub dsync_writes: u64,
}

/// A kind's name, as a key.
pub type ErrorKindName = &'static str;

/// A reactor at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReactorSnapshot {
    /// Turns of its loop.
    pub turns: u64,
    /// System calls to hand over and to wait.
    pub enters: u64,
    /// Attempts handed to the device.
    pub submitted: u64,
    /// Turns that handed anything over.
    pub submits: u64,
    /// Turns that took any completion.
    pub reaps: u64,
    /// Completions taken.
    pub reaped: u64,
    /// Completions that matched no operation; they were ignored.
    pub late: u64,
    /// Requests that came from other threads.
    pub mail: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Wake-ups signalled to it.
    pub wakes: u64,
    /// CPU time of its thread, nanoseconds.
    pub cpu_ns: u64,
    /// User part of it.
    pub user_ns: u64,
    /// System part of it.
    pub system_ns: u64,
    /// Context switches of its thread.
    pub switches: u64,
}

/// Everything that is counted, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Disks, in the order of the configuration.
    pub disks: Vec<DiskMetrics>,
    /// Reactors, in the order of the placement.
    pub reactors: Vec<ReactorSnapshot>,
}

impl Metrics {
    /// Requests completed on all disks and classes.
    pub fn io_ops_completed(&self) -> u64 {
        let classes = self.disks.iter().flat_map(|disk| &disk.classes);
        classes.map(|class| class.io_ops_completed).sum()
    }

    /// Requests waiting now on all disks and classes.
    pub fn io_queue_length(&self) -> u64 {
        let classes = self.disks.iter().flat_map(|disk| &disk.classes);
        classes.map(|class| class.io_queue_length).sum()
    }

    /// Wake-ups signalled for each request that came from another thread; 0 when none came.
    pub fn wakes_per_request(&self) -> f64 {
        let mail: u64 = self.reactors.iter().map(|reactor| reactor.mail).sum();
        let wakes: u64 = self.reactors.iter().map(|reactor| reactor.wakes).sum();
        if mail == 0 { 0.0 } else { wakes as f64 / mail as f64 }
    }
}

impl DiskMetrics {
    /// Adds up the lanes of one disk.
    pub(crate) fn gather<'a>(path: &str, lanes: impl Iterator<Item = &'a LaneMetrics>) -> Self {
        let mut classes: [ClassSnapshot; CLASSES] = Default::default();
        let mut errors = BTreeMap::new();
        let (mut flushes, mut dsync_writes) = (0, 0);
        for lane in lanes {
            for (sum, class) in classes.iter_mut().zip(&lane.classes) {
                sum.io_queue_length += class.queued.get();
                sum.io_ops_completed += class.completed.get();
                sum.bytes += class.bytes.get();
                sum.aged += class.aged.get();
                sum.split += class.split.get();
                sum.stolen += class.stolen.get();
                sum.retried += class.retried.get();
                sum.shed += class.shed.get();
                sum.wait.merge(&class.wait.snapshot());
                sum.service.merge(&class.service.snapshot());
            }
            flushes += lane.flushes.get();
            dsync_writes += lane.dsync_writes.get();
            for (kind, counter) in ErrorKind::ALL.iter().zip(&lane.errors) {
                if counter.get() > 0 {
                    *errors.entry(kind.name()).or_insert(0) += counter.get();
                }
            }
        }
        DiskMetrics { path: path.to_owned(), classes, errors, flushes, dsync_writes }
    }

    /// One class.
    pub fn class(&self, class: Priority) -> &ClassSnapshot {
        &self.classes[class.index()]
    }
}

impl ReactorMetrics {
    pub(crate) fn snapshot(&self) -> ReactorSnapshot {
        ReactorSnapshot {
            turns: self.turns.get(),
            enters: self.enters.get(),
            submitted: self.submitted.get(),
            submits: self.submits.get(),
            reaps: self.reaps.get(),
            reaped: self.reaped.get(),
            late: self.late.get(),
            mail: self.mail.get(),
            sleeps: self.sleeps.get(),
            wakes: self.wakes.get(),
            cpu_ns: self.cpu_ns.get(),
            user_ns: self.user_ns.get(),
            system_ns: self.system_ns.get(),
            switches: self.switches.get(),
        }
    }
}
