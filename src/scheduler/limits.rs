//! How much of each class may be at the device, how much may wait, and for how long.

use serde::{Deserialize, Serialize};

use crate::io::op::{CLASSES, Priority};

/// Largest depth target.
pub const DEPTH_MAX: u32 = 4096;
/// Depth target where neither calibration nor configuration gives one.
pub const DEPTH_DEFAULT: u32 = 128;
/// Slots kept free below the device's `nr_requests`: at or above it, submission blocks.
pub const NR_REQUESTS_SLACK: u32 = 2;

/// The scheduler's part of the configuration, per disk lane. Absent fields are derived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Depth target in slots, 1 to 4096; absent: calibration, or 128, below `nr_requests`.
    pub depth: Option<u32>,
    /// Requests that may wait in one lane, 1 to 1,048,576; absent: 4096.
    pub queue_max: Option<u32>,
    /// Bytes that one slot stands for, 4096 to 16 MiB; absent: 131,072.
    pub slot_bytes: Option<u64>,
    /// `Write` and `Background` transfers above this are split, 4096 to 1 GiB; absent: 131,072.
    pub split_bytes: Option<u64>,
    /// Bytes at the device at once, 64 KiB and up; absent: 32 MiB.
    pub active_bytes_max: Option<u64>,
    /// Waiting times in microseconds after which a class is served out of turn, highest class
    /// first; absent: 5,000 / 10,000 / 25,000 / 50,000 / 500,000.
    pub max_wait_us: Option<[u64; CLASSES]>,
    /// At most one in this many dispatches is out of turn, 1 to 1,000; absent: 8.
    pub aged_every: Option<u32>,
    /// Slots of `Background` while a higher class is active, 1 and up; absent: depth / 16,
    /// between 1 and 8.
    pub background_busy_max: Option<u32>,
    /// Bytes of `Background` at the device while a higher class is active, 4096 and up; absent:
    /// 131,072. One request always goes.
    pub background_busy_bytes: Option<u64>,
    /// `Background` counts as alone when no higher class was active for this long, microseconds;
    /// absent: 2,000.
    pub background_idle_us: Option<u64>,
}

/// A value in a [`SchedulerConfig`] that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scheduler.{field} = {value} is out of range: {range}")]
pub struct LimitsError {
    /// Name of the field.
    pub field: &'static str,
    /// Value that was given.
    pub value: u64,
    /// What it must be.
    pub range: String,
}

/// Resolved limits of one lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Depth target in slots.
    pub depth: u32,
    /// Active slots below which each class may start.
    pub ceilings: [u32; CLASSES],
    /// Own active slots up to which each class may start.
    pub caps: [u32; CLASSES],
    /// Cap of `Background` while higher classes are active.
    pub background_busy_max: u32,
    /// See [`SchedulerConfig::background_busy_bytes`].
    pub background_busy_bytes: u64,
    /// See [`SchedulerConfig::background_idle_us`], nanoseconds.
    pub background_idle_ns: u64,
    /// Flushes, discards and write-zeroes at the device at once.
    pub commands_active_max: u32,
    /// See [`SchedulerConfig::slot_bytes`].
    pub slot_bytes: u64,
    /// See [`SchedulerConfig::split_bytes`].
    pub split_bytes: u64,
    /// See [`SchedulerConfig::active_bytes_max`].
    pub active_bytes_max: u64,
    /// Waiting time after which the head of each class is due, nanoseconds.
    pub max_wait_ns: [u64; CLASSES],
    /// At most one in this many dispatches is aged.
    pub aged_every: u32,
    /// Waiting requests below which each class is accepted: the lower the class, the earlier it
    /// is shed.
    pub watermarks: [u32; CLASSES],
}

impl Limits {
    /// Fills the gaps of a configuration for a device that takes `nr_requests` (0: unknown),
    /// shared by `lanes` lanes.
    pub fn resolve(
        config: &SchedulerConfig,
        nr_requests: u32,
        lanes: u32,
    ) -> Result<Limits, LimitsError> {
        let share = nr_requests.saturating_sub(NR_REQUESTS_SLACK) / lanes.max(1);
        let device_max = if nr_requests == 0 { DEPTH_MAX } else { share.clamp(1, DEPTH_MAX) };
        let depth = match config.depth {
            Some(depth) => within("depth", u64::from(depth), 1, u64::from(device_max))? as u32,
            None => DEPTH_DEFAULT.min(device_max),
        };
        let queue_max = config.queue_max.unwrap_or(4096);
        within("queue_max", u64::from(queue_max), 1, 1 << 20)?;
        let slot_bytes =
            within("slot_bytes", config.slot_bytes.unwrap_or(128 << 10), 4096, 16 << 20)?;
        let split_bytes =
            within("split_bytes", config.split_bytes.unwrap_or(128 << 10), 4096, 1 << 30)?;
        if !split_bytes.is_multiple_of(4096) {
            return Err(LimitsError {
                field: "split_bytes",
                value: split_bytes,
                range: "a multiple of 4096".to_owned(),
            });
        }
        let active_bytes_max = config.active_bytes_max.unwrap_or(32 << 20);
        within("active_bytes_max", active_bytes_max, 64 << 10, u64::MAX)?;
        let aged_every = config.aged_every.unwrap_or(8);
        within("aged_every", u64::from(aged_every), 1, 1000)?;
        let busy = config.background_busy_max.unwrap_or((depth / 16).clamp(1, 8));
        within("background_busy_max", u64::from(busy), 1, u64::from(depth))?;
        let busy_bytes = config.background_busy_bytes.unwrap_or(128 << 10);
        within("background_busy_bytes", busy_bytes, 4096, u64::MAX)?;
        let max_wait_us = config.max_wait_us.unwrap_or([5_000, 10_000, 25_000, 50_000, 500_000]);
        Ok(Limits {
            depth,
            ceilings: descending(depth, [0, 1, 2, 5, 6]),
            caps: [depth; CLASSES],
            background_busy_max: busy,
            background_busy_bytes: busy_bytes,
            background_idle_ns: config.background_idle_us.unwrap_or(2_000).saturating_mul(1000),
            commands_active_max: 8,
            slot_bytes,
            split_bytes,
            active_bytes_max,
            max_wait_ns: max_wait_us.map(|us| us.saturating_mul(1000)),
            aged_every,
            watermarks: descending(queue_max, [0, 1, 2, 4, 8]),
        })
    }

    /// Limits without classes: no reservations, no caps, no shedding. For comparison.
    #[must_use]
    pub fn without_priorities(mut self) -> Limits {
        let queue_max = self.watermarks[0];
        self.ceilings = [self.depth; CLASSES];
        self.caps = [self.depth; CLASSES];
        self.background_busy_max = self.depth;
        self.background_busy_bytes = u64::MAX;
        self.watermarks = [queue_max; CLASSES];
        self
    }

    /// The starvation bound: from the moment that a request is due, it has started after at most
    /// this many dispatches of its lane, its own first one included.
    ///
    /// `ahead` and `due_before` are counted in dispatches, so that a split request counts once
    /// for each piece that has not started: those before it in its class, and those of other
    /// classes that wait with a deadline not later than its own.
    ///
    /// One dispatch in `aged_every + 1` serves a due head, by the earliest deadline. A request
    /// that arrives after this one has fallen due has a later deadline, so nobody joins those two
    /// counts any more.
    pub fn dispatches_until_served(&self, ahead: u32, due_before: u32) -> u64 {
        u64::from(self.aged_every + 1) * (u64::from(ahead) + u64::from(due_before) + 1)
    }

    /// The watermark of one class.
    #[inline(always)]
    pub fn watermark(&self, class: Priority) -> u32 {
        self.watermarks[class.index()]
    }
}

/// `total` less so many sixteenths for each class, at least one.
fn descending(total: u32, sixteenths: [u32; CLASSES]) -> [u32; CLASSES] {
    sixteenths.map(|n| (total - (u64::from(total) * u64::from(n) / 16) as u32).max(1))
}

fn within(field: &'static str, value: u64, low: u64, high: u64) -> Result<u64, LimitsError> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    let range = if high == u64::MAX {
        format!("at least {low}")
    } else {
        format!("from {low} to {high} on this device")
    };
    Err(LimitsError { field, value, range })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_stays_below_what_the_device_takes() {
        let default = SchedulerConfig::default();
        assert_eq!(Limits::resolve(&default, 1023, 1).unwrap().depth, 128);
        assert_eq!(Limits::resolve(&default, 128, 1).unwrap().depth, 126);
        assert_eq!(Limits::resolve(&default, 64, 4).unwrap().depth, 15);
        let deep = SchedulerConfig { depth: Some(200), ..SchedulerConfig::default() };
        let error = Limits::resolve(&deep, 128, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "scheduler.depth = 200 is out of range: from 1 to 126 on this device"
        );
    }

    #[test]
    fn ceilings_and_watermarks_descend() {
        for depth in 1..300 {
            let config = SchedulerConfig { depth: Some(depth), ..SchedulerConfig::default() };
            let limits = Limits::resolve(&config, 0, 1).unwrap();
            assert!(limits.ceilings.is_sorted_by(|a, b| a >= b), "{limits:?}");
            assert!(limits.watermarks.is_sorted_by(|a, b| a >= b), "{limits:?}");
            assert_eq!(limits.ceilings[0], depth);
            assert!(limits.ceilings.iter().all(|c| *c >= 1));
        }
    }
}
