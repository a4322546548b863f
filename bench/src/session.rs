//! An engine with clones running on it: opened from a plan, watched, closed, counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamicfs::engine::config::{ConfigError, DiskAccess, Polled as PolledConfig};
use dynamicfs::io::metrics::ReactorSnapshot;
use dynamicfs::machine::device::{DeviceError, DeviceErrorClass};
use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs::machine::write_gate::{ForceSignatures, WriteGate, WriteRefusal};
use dynamicfs::{DiskConfig, DiskId, DmaBuf, IoConfig, IoScheduler, Metrics, OpenError};

use crate::args::{Buffers, Client, Polled, Switch};
use crate::failure::Failure;
use crate::load::local::LocalClone;
use crate::load::thread::ThreadClone;
use crate::load::{CloneOrder, CloneResult};
use crate::plan::{EngineWishes, Spin};
use crate::stream::SplitMix;

/// How long the engine may take to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Size of the disk behind `--target=nop`.
pub const NOP_BYTES: u64 = 1 << 40;

/// Makes the engine's configuration from what the user wished.
///
/// # Errors
/// [`Failure::Usage`] when the file of `--config` cannot be used.
pub fn configuration(
    wishes: &EngineWishes,
    disks: Vec<DiskConfig>,
    buffer_bytes: u64,
) -> Result<IoConfig, Failure> {
    let mut config = match &wishes.config {
        Some(path) => IoConfig::from_file(path).map_err(|error| refused_config(&error))?,
        None => IoConfig::default(),
    };
    config.disks = disks;
    apply(wishes, &mut config, buffer_bytes);
    Ok(config)
}

/// Sets what the user wished, and memory for so many bytes of requests. What was not wished for
/// stays as it is.
pub fn apply(wishes: &EngineWishes, config: &mut IoConfig, buffer_bytes: u64) {
    for disk in &mut config.disks {
        disk.lanes = wishes.lanes.map(|lanes| lanes as u32).or(disk.lanes);
        disk.polled = match wishes.polled {
            Polled::Auto => disk.polled,
            Polled::On => PolledConfig::On,
            Polled::Off => PolledConfig::Off,
        };
    }
    if let Some(count) = wishes.reactors {
        config.reactors.count = Some(count as u32);
    }
    if let Some(cpus) = &wishes.cpus {
        config.reactors.cpus = Some(cpus.iter().map(|cpu| *cpu as u32).collect());
    }
    match wishes.spin {
        Some(Spin::For(time)) => config.reactors.spin_us = time.as_micros() as u64,
        Some(Spin::Forever) => config.reactors.spin_us = u64::MAX / 1000,
        None => {}
    }
    config.scheduler.depth = wishes.depth.or(config.scheduler.depth);
    config.priorities_off |= wishes.priorities == Switch::Off;
    if wishes.buffers == Buffers::Normal {
        config.memory.pages = PagePolicy::Normal;
    }
    let mib = (buffer_bytes + (buffer_bytes >> 3)).div_ceil(1 << 20) + 2;
    config.memory.arena_mib_per_node = config.memory.arena_mib_per_node.max(mib as u32);
}

fn refused_config(error: &ConfigError) -> Failure {
    Failure::Usage {
        message: error.to_string(),
        help: "correct the file given with --config".into(),
    }
}

/// Asks the write gate for each disk that would be written.
///
/// # Errors
/// [`Failure::Refused`] with the reason, [`Failure::Device`] where there is no such disk.
pub fn clear_for_writing(
    disks: &[PathBuf],
    destroy: &[PathBuf],
    force: bool,
) -> Result<(), Failure> {
    let force = if force { ForceSignatures::Yes } else { ForceSignatures::No };
    for disk in disks {
        let canonical = |path: &Path| path.canonicalize().ok();
        let named = destroy
            .iter()
            .find(|named| canonical(named).is_some() && canonical(named) == canonical(disk))
            .or(destroy.first());
        WriteGate::check(disk, named.map(PathBuf::as_path), force).map_err(|refusal| {
            let (message, help) = (refusal.to_string(), refusal.help());
            match refusal {
                WriteRefusal::Missing { .. } | WriteRefusal::NotADisk { .. } => {
                    Failure::Device { message, help }
                }
                _ => Failure::Refused { message, help },
            }
        })?;
    }
    Ok(())
}

/// A disk to open.
#[must_use]
pub fn disk(path: &Path, writes: bool) -> DiskConfig {
    let access = if writes { DiskAccess::ReadWrite } else { DiskAccess::ReadOnly };
    DiskConfig { path: path.to_owned(), access, ..DiskConfig::default() }
}

/// The disk of `--target=nop`.
#[must_use]
pub fn nop_disk() -> DiskConfig {
    DiskConfig { nop_bytes: Some(NOP_BYTES), ..DiskConfig::default() }
}

/// Opens the engine, with the harness's words for what can go wrong.
///
/// # Errors
/// [`Failure`], by what was wrong.
pub fn open(config: &IoConfig) -> Result<IoScheduler, Failure> {
    IoScheduler::open(config).map_err(|error| match &error {
        OpenError::Device(device) => device_failure(device),
        OpenError::Config(_)
        | OpenError::Limits { .. }
        | OpenError::Placement(_)
        | OpenError::NotPollable { .. } => Failure::Usage {
            message: error.to_string(),
            help: "see `dynamicfs-bench --help` and `dynamicfs plan`".into(),
        },
        _ => Failure::Runtime {
            message: error.to_string(),
            help: "the message says what is missing; see also `dmesg`".into(),
        },
    })
}

/// A device's refusal in the harness's terms.
#[must_use]
pub fn device_failure(error: &DeviceError) -> Failure {
    let help = error.help().unwrap_or_else(|| "see `dynamicfs devices`".into());
    let message = error.to_string();
    match error.class() {
        DeviceErrorClass::Busy => Failure::Refused { message, help },
        _ => Failure::Device { message, help },
    }
}

/// Closes the engine.
///
/// # Errors
/// [`Failure::Runtime`] naming disks that hang or reactors that failed.
pub fn close(engine: IoScheduler) -> Result<(), Failure> {
    engine.close(CLOSE_DEADLINE).map_err(|error| Failure::Runtime {
        message: error.to_string(),
        help: "check the device with `dmesg`; its memory is kept until this process ends".into(),
    })
}

/// One clone, started.
pub struct Running {
    /// What it does.
    pub result: Arc<CloneResult>,
    /// The reactor that carries its disk.
    pub reactor: usize,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Starts a clone; `number` spreads clones over the lanes of their disk.
///
/// # Errors
/// [`Failure::Runtime`] when the buffers do not fit the arena.
pub fn start(
    engine: &Arc<IoScheduler>,
    order: CloneOrder,
    number: usize,
    client: Client,
) -> Result<Running, Failure> {
    let buffers = buffers(engine, order.disk, order.depth, order.block_bytes)?;
    let block_bytes = u64::from(order.block_bytes);
    let result = Arc::new(CloneResult { block_bytes, ..CloneResult::default() });
    let reactors = engine.reactors_of(order.disk);
    let reactor = reactors[number % reactors.len()];
    let thread = match client {
        Client::Reactor => {
            let task = LocalClone::new(order, buffers, Arc::clone(&result));
            engine.spawn_local(reactor, Box::new(task));
            None
        }
        Client::Thread => {
            let clone = ThreadClone::new(order, buffers, Arc::clone(&result));
            let engine = Arc::clone(engine);
            Some(std::thread::spawn(move || clone.run(&engine)))
        }
    };
    Ok(Running { result, reactor, thread })
}

fn buffers(
    engine: &IoScheduler,
    disk: DiskId,
    count: u32,
    bytes: u32,
) -> Result<Vec<DmaBuf>, Failure> {
    let mut random = SplitMix(u64::from(count) << 32 | u64::from(bytes));
    let buffers = (0..count).map(|_| {
        let mut buffer = engine.buffer_near(disk, bytes as usize)?;
        random.fill(&mut buffer);
        Ok(buffer)
    });
    buffers.collect::<Result<_, dynamicfs::memory::BufferUnavailable>>().map_err(|error| {
        Failure::Runtime {
            message: error.to_string(),
            help: "lower --iodepth, --numjobs or --bs".into(),
        }
    })
}

/// Waits until all clones are over, calling `watch` ten times a second.
///
/// # Errors
/// [`Failure::Runtime`] when a clone's thread panicked, or when the reactors make no more headway
/// long after the end.
pub fn wait(
    engine: &IoScheduler,
    running: &mut [Running],
    until_ns: u64,
    mut watch: impl FnMut(u64),
) -> Result<(), Failure> {
    const GRACE: Duration = Duration::from_secs(60);
    let start = Instant::now();
    let left = Duration::from_nanos(until_ns.saturating_sub(engine.now_ns()));
    while running.iter().any(|clone| !clone.result.is_done()) {
        std::thread::sleep(Duration::from_millis(if start.elapsed() < left { 100 } else { 5 }));
        watch(engine.now_ns());
        let dead = running.iter().any(|clone| {
            clone.thread.as_ref().is_some_and(|thread| thread.is_finished())
                && !clone.result.is_done()
        });
        if dead || start.elapsed() > left.saturating_add(GRACE) {
            return Err(Failure::Runtime {
                message: "requests that were sent never came back".into(),
                help: "the device hangs: see `dmesg`".into(),
            });
        }
    }
    for clone in running {
        if let Some(thread) = clone.thread.take() {
            drop(thread.join());
        }
    }
    Ok(())
}

/// What reactors did between two looks at the metrics.
#[must_use]
pub fn difference(before: &Metrics, after: &Metrics) -> Vec<ReactorSnapshot> {
    let pairs = before.reactors.iter().zip(&after.reactors);
    pairs
        .map(|(a, b)| ReactorSnapshot {
            turns: b.turns - a.turns,
            enters: b.enters - a.enters,
            submitted: b.submitted - a.submitted,
            submits: b.submits - a.submits,
            reaps: b.reaps - a.reaps,
            reaped: b.reaped - a.reaped,
            late: b.late - a.late,
            mail: b.mail - a.mail,
            sleeps: b.sleeps - a.sleeps,
            wakes: b.wakes - a.wakes,
            cpu_ns: b.cpu_ns - a.cpu_ns,
            user_ns: b.user_ns - a.user_ns,
            system_ns: b.system_ns - a.system_ns,
            switches: b.switches - a.switches,
        })
        .collect()
}
