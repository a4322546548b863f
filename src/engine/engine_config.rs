//! Configuration of the storage engine: what the raw block engine has, and the store's sections.
//!
//! One file configures both. [`EngineConfig::from_file`] reads all of it, and
//! [`IoConfig::from_file`] reads the same file in the same way and keeps the raw part, so a tool
//! for raw disks takes an engine's file as it is.
//!
//! Nothing in a file is passed over: an unknown name, a wrong type or a value out of range is a
//! [`ConfigError`] with file, line, value and range. `fields` has the one table of names and
//! ranges; what the values mean stands here. A field without a scope in its name is one commit
//! domain's, because domains share nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::config::{ConfigError, DiskAccess, DiskConfig, IoConfig};
use crate::engine::engine_config::fields::check_numbers;

pub(crate) mod fields;
mod file;
#[cfg(test)]
mod tests;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Domains of a pool, at most.
const DOMAINS_MAX: u32 = 64;
/// A journal that nobody sized: this many MiB, if they are at most this share of the domain.
const JOURNAL_MIB_DEFAULT: u64 = 64;
const JOURNAL_SHARE: u64 = 16;
/// Operations after which a batch closes, where the file gives no number.
const LINGER_OPS_DEFAULT: u32 = 10;
const ADAPTIVE_OPS_DEFAULT: u32 = 1024;

/// Whether a pool is opened without writing a byte to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
pub enum ReadOnly {
    /// It is written; the disks need `access = "read_write"`.
    #[default]
    No,
    /// Nothing is written, not even what recovery found out.
    Yes,
}

impl From<bool> for ReadOnly {
    fn from(is_read_only: bool) -> ReadOnly {
        if is_read_only { ReadOnly::Yes } else { ReadOnly::No }
    }
}

impl From<ReadOnly> for bool {
    fn from(read_only: ReadOnly) -> bool {
        read_only == ReadOnly::Yes
    }
}

/// The pool. What could destroy data, such as forcing an incomplete pool open, is an argument of
/// the call that does it and never stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// Commit domains, 1 to 64; absent: one for each reactor core, at most 64. Only `format`
    /// looks at it: domains are on disk and are mapped to whatever cores open the pool. More
    /// domains commit beside each other, each with its own flushes and its own journal.
    pub domains: Option<u32>,
    /// Disks of each slot that hold the same, 1 to 4; absent: 1. Only `format` looks at it. The
    /// first so many disks are slot 0, the next ones slot 1, and so on: put disks that may fail
    /// together, on one shelf or controller, into different slots' places.
    pub mirrors: Option<u32>,
    /// How long a disk may take to answer a write when another of its slot has answered, 100 to
    /// 600,000 ms; then it is taken out. Longer than disks take to give up a bad sector.
    pub hung_after_ms: u32,
    /// Whether a read that takes long is sent to another disk of the slot too.
    pub hedged_reads: HedgedReads,
    /// Write nothing. For looking at a pool whose disks are suspected.
    pub read_only: ReadOnly,
    /// Whether disks are told of space that became free.
    pub discard: DiscardWhen,
    /// MiB a second that all domains together read at most of a disk that is brought into sync, 0
    /// to 1,048,576; 0: as fast as the background goes. It can be changed while that goes on.
    pub sync_mib_per_second: u32,
    /// How many disks can come while a pool is open, in new slots, in the place of others, or of
    /// those that were away, 0 to 64. Each takes some MiB of memory on every reactor.
    pub vacant_places: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            domains: None,
            mirrors: None,
            hung_after_ms: 15_000,
            hedged_reads: HedgedReads::Yes,
            read_only: ReadOnly::default(),
            discard: DiscardWhen::default(),
            sync_mib_per_second: 0,
            vacant_places: 2,
        }
    }
}

/// Whether a read that takes long is sent to another disk of the slot too. A file says true or
/// false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
pub enum HedgedReads {
    /// It waits.
    No,
    /// It is, and what answers first counts.
    Yes,
}

impl From<bool> for HedgedReads {
    fn from(hedged: bool) -> Self {
        if hedged { HedgedReads::Yes } else { HedgedReads::No }
    }
}

impl From<HedgedReads> for bool {
    fn from(hedged: HedgedReads) -> bool {
        hedged == HedgedReads::Yes
    }
}

/// Whether disks are told of space that became free, in the background.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscardWhen {
    /// Devices that take such advice. A file keeps its blocks, so that writing to it needs none
    /// of its file system.
    #[default]
    Auto,
    /// Files too: they get holes, and give space back to their file system.
    Always,
    /// None.
    Never,
}

impl PoolConfig {
    /// Domains that a format on so many reactor cores makes.
    #[must_use]
    pub fn domains_for(&self, reactor_cores: u32) -> u32 {
        self.domains.unwrap_or(reactor_cores.clamp(1, DOMAINS_MAX))
    }
}

/// When small data rides in the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InlineWhen {
    /// While no commit is on its way: else the batch waits for that one anyway, and the data's own
    /// write ends meanwhile, the only one it needs.
    #[default]
    Idle,
    /// Whenever there is room in the batch.
    Always,
}

/// The journal of each domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// MiB of each domain's journal, 1 to 4,096; absent: 64, on a small pool a sixteenth of the
    /// domain's share of it. Only `format` looks at it. A longer journal is checkpointed less
    /// often and takes longer to recover.
    pub mib_per_domain: Option<u32>,
    /// KiB of data that ride in one batch's record, 0 to 1,024: they cost no write and no flush
    /// of their own, but are written once more, to their home, later. 0: none rides.
    pub inline_kib_per_batch: u32,
    /// When small data rides.
    pub inline_when: InlineWhen,
    /// KiB of the largest single write that rides, 0 to 64. Above it, writing twice costs more
    /// than one write in parallel.
    pub inline_kib_per_write: u32,
    /// MiB of data that rode and wait in memory for their home write, 1 to 4,096. When it is
    /// used up, data goes home at once, so it bounds memory and the work of a checkpoint.
    pub writeback_mib: u32,
}

impl Default for JournalConfig {
    fn default() -> Self {
        JournalConfig {
            mib_per_domain: None,
            inline_kib_per_batch: 64,
            inline_when: InlineWhen::Idle,
            inline_kib_per_write: 16,
            writeback_mib: 64,
        }
    }
}

impl JournalConfig {
    /// Bytes of each journal that a format of a pool of so many bytes and domains makes.
    ///
    /// ```
    /// let journal = dynamicfs::EngineConfig::default().journal;
    /// assert_eq!(journal.bytes_per_domain(4 << 40, 8), 64 << 20);
    /// assert_eq!(journal.bytes_per_domain(1 << 30, 4), 16 << 20);
    /// ```
    #[must_use]
    pub fn bytes_per_domain(&self, pool_bytes: u64, domains: u32) -> u64 {
        let share_mib = pool_bytes / u64::from(domains.max(1)) / JOURNAL_SHARE / MIB;
        let by_size = share_mib.clamp(1, JOURNAL_MIB_DEFAULT);
        self.mib_per_domain.map_or(by_size, u64::from) * MIB
    }

    /// [`inline_kib_per_batch`](Self::inline_kib_per_batch) in bytes.
    #[must_use]
    pub fn inline_bytes_per_batch(&self) -> u64 {
        u64::from(self.inline_kib_per_batch) * KIB
    }

    /// Bytes of the largest write that rides; never more than a batch takes.
    #[must_use]
    pub fn inline_bytes_per_write(&self) -> u64 {
        u64::from(self.inline_kib_per_write.min(self.inline_kib_per_batch)) * KIB
    }

    /// [`writeback_mib`](Self::writeback_mib) in bytes.
    #[must_use]
    pub fn writeback_bytes_max(&self) -> u64 {
        u64::from(self.writeback_mib) * MIB
    }
}

/// When a batch closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitMode {
    /// At once when no flush is in flight, else when that flush ends. Load makes the batches.
    #[default]
    Adaptive,
    /// When it is full or old enough. Fewer, larger flushes at the price of waiting.
    Linger,
}

/// What makes a batch durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitDurability {
    /// The write that is its own flush where a batch is one record on one disk and that is
    /// faster, as is measured all the time; the linked flush everywhere else.
    #[default]
    Auto,
    /// The record, then a linked `fdatasync`. Always.
    Flush,
    /// One `RWF_DSYNC` write for a batch that is one record on one disk; a batch of several
    /// still needs the flush.
    Dsync,
}

/// Group commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommitConfig {
    /// When a batch closes.
    pub mode: CommitMode,
    /// Operations after which it closes whatever the mode, 1 to 1,024; absent: 10 when lingering,
    /// where this is what a batch waits for, and 1,024 when adaptive, where it is a bound that
    /// only keeps records finite. A larger transaction is a batch of its own.
    pub max_batch_ops: Option<u32>,
    /// KiB of data after which it closes, 4 to 16,384. Bounds how long small writes wait for the
    /// data of large ones in their batch. A larger transaction is a batch of its own.
    pub max_batch_kib: u32,
    /// Milliseconds after its first operation when it closes, 0 to 10,000. Adaptive batches meet
    /// it only where one flush takes longer.
    pub max_batch_delay_ms: u32,
    /// What makes it durable.
    pub durability: CommitDurability,
    /// Milliseconds without a commit after which the journal is sealed, 0 to 60,000; 0: at once.
    /// Until then a disk that loses its last record cannot be told from a crash in it; each seal
    /// costs a write and a flush.
    pub seal_idle_ms: u32,
}

impl Default for CommitConfig {
    fn default() -> Self {
        CommitConfig {
            mode: CommitMode::Adaptive,
            max_batch_ops: None,
            max_batch_kib: 4096,
            max_batch_delay_ms: 100,
            durability: CommitDurability::Auto,
            seal_idle_ms: 50,
        }
    }
}

impl CommitConfig {
    /// [`max_batch_ops`](Self::max_batch_ops), or what its absence means in this mode.
    #[must_use]
    pub fn batch_ops_max(&self) -> u32 {
        self.max_batch_ops.unwrap_or(match self.mode {
            CommitMode::Adaptive => ADAPTIVE_OPS_DEFAULT,
            CommitMode::Linger => LINGER_OPS_DEFAULT,
        })
    }

    /// [`max_batch_kib`](Self::max_batch_kib) in bytes.
    #[must_use]
    pub fn batch_bytes_max(&self) -> u64 {
        u64::from(self.max_batch_kib) * KIB
    }

    /// [`max_batch_delay_ms`](Self::max_batch_delay_ms).
    #[must_use]
    pub fn batch_delay_max(&self) -> Duration {
        Duration::from_millis(self.max_batch_delay_ms.into())
    }

    /// [`seal_idle_ms`](Self::seal_idle_ms).
    #[must_use]
    pub fn seal_idle(&self) -> Duration {
        Duration::from_millis(self.seal_idle_ms.into())
    }
}

/// How data I/O is put together. It never closes a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatcherConfig {
    /// Extents whose neighbouring writes become one, 1 to 1,024.
    pub max_extents: u32,
    /// KiB of one such write, 4 to 16,384. Larger ones need fewer operations, and hold up what
    /// the device serves after them for longer.
    pub max_kib: u32,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        BatcherConfig { max_extents: 10, max_kib: 1024 }
    }
}

impl BatcherConfig {
    /// [`max_kib`](Self::max_kib) in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.max_kib) * KIB
    }
}

/// When changed metadata pages go home and journal space comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Percent of the journal in use at which a checkpoint begins as `Write`, 10 to 90. Earlier:
    /// shorter recovery, and pages that change again are written more often.
    pub start_fill_percent: u32,
    /// Percent at which it goes on as `Critical`, 11 to 95, above `start_fill_percent`. The rest
    /// of the journal has to take what commits meanwhile.
    pub urgent_fill_percent: u32,
    /// Pages written at once, 1 to 4,096. Each has a buffer of its own from open on.
    pub pages_in_flight: u32,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { start_fill_percent: 50, urgent_fill_percent: 80, pages_in_flight: 64 }
    }
}

impl CheckpointConfig {
    /// Bytes in use of a journal at which a checkpoint begins.
    #[must_use]
    pub fn start_fill_bytes(&self, journal_bytes: u64) -> u64 {
        percent_of(journal_bytes, self.start_fill_percent)
    }

    /// Bytes in use of a journal at which a checkpoint is urgent.
    #[must_use]
    pub fn urgent_fill_bytes(&self, journal_bytes: u64) -> u64 {
        percent_of(journal_bytes, self.urgent_fill_percent)
    }
}

/// Without overflow, whatever the total.
fn percent_of(total: u64, percent: u32) -> u64 {
    let percent = u64::from(percent);
    total / 100 * percent + total % 100 * percent / 100
}

/// The metadata table in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableConfig {
    /// MiB of extents' records in memory at most, in each domain, 1 to 1,048,576; absent: what its
    /// share of the pool can need. When it is full, new extents are refused, and more fragments of
    /// old ones; nothing else is. What a pool has when it is opened is there in any case.
    pub mib: Option<u32>,
}

impl TableConfig {
    /// [`mib`](Self::mib) in bytes; `None`: by the pool's capacity.
    #[must_use]
    pub fn bytes_max(&self) -> Option<u64> {
        self.mib.map(|mib| u64::from(mib) * MIB)
    }
}

/// Operations of callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperationsConfig {
    /// Operations of each domain that may be under way, 1 to 65,536. Their memory is made at
    /// open; the next one finds the engine full and comes back as a value.
    pub in_flight_max: u32,
}

impl Default for OperationsConfig {
    fn default() -> Self {
        OperationsConfig { in_flight_max: 1024 }
    }
}

/// Where a running engine is asked and told by other processes of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// The socket: `auto`, `off`, or a path. Nobody but the owner of the process, and root, can
    /// reach it.
    pub socket: ControlSocket,
}

/// A control socket. A file says `"auto"`, `"off"`, or an absolute path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ControlSocket {
    /// `POOL.sock` in `/run/dynamicfs`, or for users other than root in `dynamicfs` below
    /// `XDG_RUNTIME_DIR`, with the pool's id for `POOL`. Where it cannot be had the pool is opened
    /// all the same, and the status says why.
    #[default]
    Auto,
    /// None.
    Off,
    /// There. Where it cannot be had the pool is not opened.
    At(PathBuf),
}

impl TryFrom<String> for ControlSocket {
    type Error = String;

    fn try_from(text: String) -> Result<ControlSocket, String> {
        match text.as_str() {
            "auto" => Ok(ControlSocket::Auto),
            "off" => Ok(ControlSocket::Off),
            path if path.starts_with('/') => Ok(ControlSocket::At(path.into())),
            other => {
                Err(format!("\"{other}\" is neither \"auto\" nor \"off\" nor an absolute path"))
            }
        }
    }
}

impl From<ControlSocket> for String {
    fn from(socket: ControlSocket) -> String {
        match socket {
            ControlSocket::Auto => "auto".to_owned(),
            ControlSocket::Off => "off".to_owned(),
            ControlSocket::At(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// Everything that a storage engine is opened or formatted with.
///
/// ```
/// use dynamicfs::EngineConfig;
///
/// let config = EngineConfig::from_toml("[commit]\nmode = \"linger\"\n")?;
/// assert_eq!(config.commit.batch_ops_max(), 10);
///
/// let error = EngineConfig::from_toml("[commit]\nmax_batch_opps = 5\n").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "line 2: unknown field commit.max_batch_opps; the nearest is commit.max_batch_ops"
/// );
/// # Ok::<(), dynamicfs::ConfigError>(())
/// ```
///
/// It is written (`Serialize`) as it is read, but read only by [`from_file`](Self::from_file) and
/// [`from_toml`](Self::from_toml), which know lines and ranges.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EngineConfig {
    /// Disks, reactors, scheduler, memory. In a file these stand beside the sections below.
    #[serde(flatten)]
    pub io: IoConfig,
    /// `[pool]`
    pub pool: PoolConfig,
    /// `[journal]`
    pub journal: JournalConfig,
    /// `[commit]`
    pub commit: CommitConfig,
    /// `[batcher]`
    pub batcher: BatcherConfig,
    /// `[checkpoint]`
    pub checkpoint: CheckpointConfig,
    /// `[table]`
    pub table: TableConfig,
    /// `[operations]`
    pub operations: OperationsConfig,
    /// `[control]`
    pub control: ControlConfig,
}

impl EngineConfig {
    /// The defaults, for a pool on this disk.
    #[must_use]
    pub fn on_disk(path: impl Into<PathBuf>) -> EngineConfig {
        EngineConfig::on_disks([path])
    }

    /// The defaults, for a pool on these disks. Their order does not matter: labels decide which is
    /// which.
    #[must_use]
    pub fn on_disks(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> EngineConfig {
        let access = DiskAccess::ReadWrite;
        let disk = |path: PathBuf| DiskConfig { path, access, ..DiskConfig::default() };
        let disks = paths.into_iter().map(|path| disk(path.into())).collect();
        let io = IoConfig { disks, ..IoConfig::default() };
        EngineConfig { io, ..EngineConfig::default() }
    }

    /// Reads a TOML file and what it includes. Every value in it is checked; that there are disks
    /// is not, because a caller may add them: [`check`](Self::check) asks for that too.
    ///
    /// # Errors
    /// A [`ConfigError`] that names file and line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<EngineConfig, ConfigError> {
        file::read(path.as_ref())
    }

    /// As [`from_file`](Self::from_file), from text. It cannot include files, having no folder
    /// that their paths could start from.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the line.
    pub fn from_toml(text: &str) -> Result<EngineConfig, ConfigError> {
        file::parse(text)
    }

    /// Checks what does not depend on the machine.
    ///
    /// # Errors
    /// [`ConfigError::Range`] with the first field that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.io.check()?;
        check_numbers(
            "pool",
            &[
                ("domains", self.pool.domains.map(u64::from)),
                ("mirrors", self.pool.mirrors.map(u64::from)),
                ("hung_after_ms", Some(self.pool.hung_after_ms.into())),
                ("sync_mib_per_second", Some(self.pool.sync_mib_per_second.into())),
                ("vacant_places", Some(self.pool.vacant_places.into())),
            ],
        )?;
        let journal = &self.journal;
        let numbers = [
            ("mib_per_domain", journal.mib_per_domain.map(u64::from)),
            ("inline_kib_per_batch", Some(journal.inline_kib_per_batch.into())),
            ("inline_kib_per_write", Some(journal.inline_kib_per_write.into())),
            ("writeback_mib", Some(journal.writeback_mib.into())),
        ];
        check_numbers("journal", &numbers)?;
        let commit = &self.commit;
        let numbers = [
            ("max_batch_ops", commit.max_batch_ops.map(u64::from)),
            ("max_batch_kib", Some(commit.max_batch_kib.into())),
            ("max_batch_delay_ms", Some(commit.max_batch_delay_ms.into())),
            ("seal_idle_ms", Some(commit.seal_idle_ms.into())),
        ];
        check_numbers("commit", &numbers)?;
        let numbers = [
            ("max_extents", Some(self.batcher.max_extents.into())),
            ("max_kib", Some(self.batcher.max_kib.into())),
        ];
        check_numbers("batcher", &numbers)?;
        let checkpoint = &self.checkpoint;
        let numbers = [
            ("start_fill_percent", Some(checkpoint.start_fill_percent.into())),
            ("urgent_fill_percent", Some(checkpoint.urgent_fill_percent.into())),
            ("pages_in_flight", Some(checkpoint.pages_in_flight.into())),
        ];
        check_numbers("checkpoint", &numbers)?;
        check_numbers("table", &[("mib", self.table.mib.map(u64::from))])?;
        let in_flight_max = Some(self.operations.in_flight_max.into());
        check_numbers("operations", &[("in_flight_max", in_flight_max)])?;
        self.check_together()
    }

    /// What no value breaks by itself.
    fn check_together(&self) -> Result<(), ConfigError> {
        let CheckpointConfig { start_fill_percent: start, urgent_fill_percent: urgent, .. } =
            self.checkpoint;
        if start < urgent {
            return Ok(());
        }
        Err(ConfigError::Range {
            at: None,
            field: "checkpoint.urgent_fill_percent".to_owned(),
            value: urgent.to_string(),
            range: format!("above checkpoint.start_fill_percent, which is {start}"),
        })
    }
}
