//! `dynamicfs format` and `dynamicfs status`: pools as a whole.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use dynamicfs::engine::config::{DiskAccess, DiskConfig};
use dynamicfs::engine::control::Snapshot;
use dynamicfs::engine::engine_config::{ControlSocket, EngineConfig, ReadOnly};
use dynamicfs::engine::storage_engine::{
    Force, FormatOptions, FormatPlan, MemberReport, Overwrite, PoolReport, StorageEngine,
};
use serde_json::json;

use super::table::{or_dash, size};
use super::{Exit, Failure, Report};

/// How long a disk may take to end what is under way.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

/// Which pool, and how to open it.
#[derive(Debug, Args)]
pub(crate) struct PoolArguments {
    /// Block device or file of the pool, any one of them.
    #[arg(value_name = "POOL")]
    path: PathBuf,
    /// Another disk of the pool; repeatable. All have to be named, here or in --config.
    #[arg(long = "disk", value_name = "DEV|FILE")]
    disks: Vec<PathBuf>,
    /// Read settings from this file. If POOL is one of its disks, and no --disk is given, its disks
    /// are the pool's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl PoolArguments {
    pub(crate) fn engine_config(&self) -> Result<EngineConfig, Failure> {
        let mut config = match &self.config {
            Some(file) => EngineConfig::from_file(file)
                .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?,
            None => EngineConfig::default(),
        };
        let known = |path: &PathBuf| config.io.disks.iter().find(|disk| disk.path == *path);
        let of_file = self.disks.is_empty() && known(&self.path).is_some();
        let named = |path: &PathBuf| {
            let fresh = || DiskConfig { path: path.clone(), ..DiskConfig::default() };
            known(path).cloned().unwrap_or_else(fresh)
        };
        let mut disks: Vec<DiskConfig> = match of_file {
            true => config.io.disks.clone(),
            false => [&self.path].into_iter().chain(&self.disks).map(named).collect(),
        };
        disks.iter_mut().for_each(|disk| disk.access = DiskAccess::ReadWrite);
        config.io.disks = disks;
        Ok(config)
    }

    /// The disk that stands for the pool.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The disks that are named.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>, Failure> {
        Ok(self.engine_config()?.io.disks.into_iter().map(|disk| disk.path).collect())
    }

    /// Opens the pool, lets `work` use it, and closes it.
    pub(crate) fn with_engine<T>(
        &self,
        work: impl FnOnce(&StorageEngine) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_forced(Force::default(), work)
    }

    /// The same, and gives up what `force` names where it cannot be had.
    pub(super) fn with_forced<T>(
        &self,
        force: Force,
        work: impl FnOnce(&StorageEngine) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        use_and_close(StorageEngine::open_forced(self.engine_config()?, force)?, work)
    }

    /// The same, for reading only: nothing is written, and what is damaged costs itself alone.
    pub(crate) fn with_reader<T>(
        &self,
        work: impl FnOnce(&StorageEngine) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut config = self.engine_config()?;
        config.pool.read_only = ReadOnly::Yes;
        // It is gone before anybody could ask it.
        config.control.socket = ControlSocket::Off;
        use_and_close(StorageEngine::open(config)?, work)
    }
}

fn use_and_close<T>(
    engine: StorageEngine,
    work: impl FnOnce(&StorageEngine) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let outcome = work(&engine);
    let closed = engine.close(CLOSE_DEADLINE);
    let value = outcome?;
    closed?;
    Ok(value)
}

/// Why nothing more will happen in a pool that is open, if so.
pub(super) fn stopped(snapshot: &Snapshot) -> Result<(), Failure> {
    // A domain that has stopped brings nothing any more.
    match snapshot.stopped() {
        Some(why) => Err(Failure::new(Exit::Io, format!("the pool takes no changes: {why}"))),
        None => Ok(()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct FormatArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// Make a new file of this size: bytes, or with K, M, G or T.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Commit domains; by default one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    domains: Option<u32>,
    /// Disks of each slot that hold the same: the first N disks are a slot, the next N another,
    /// unless their failure domains say otherwise.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4))]
    mirrors: Option<u32>,
    /// What a disk fails with, as its shelf or controller: disks that hold the same are of
    /// different ones. Of all disks or none, here or in --config.
    #[arg(long = "failure-domain", value_name = "NAME=DEV|FILE", value_parser = parse_named)]
    failure_domains: Vec<(String, PathBuf)>,
    #[command(flatten)]
    destroys: DestroyArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// `shelf-1=/dev/sda`.
fn parse_named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err(format!("{text} is not NAME=DISK, such as shelf-1=/dev/nvme0n1")),
    }
}

/// How a command goes about a disk all of which will be lost.
#[derive(Debug, Args)]
pub(crate) struct DestroyArguments {
    /// Destroy the file systems, partition tables or pools that it carries.
    #[arg(long)]
    overwrite: bool,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
}

impl DestroyArguments {
    pub(super) fn overwrite(&self) -> Overwrite {
        if self.overwrite { Overwrite::Yes } else { Overwrite::No }
    }
}

/// `4096`, `256M`, `1GiB`: powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is not a size such as 4096, 256M or 1GiB");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

pub(crate) fn format(arguments: &FormatArguments) -> Result<Report, Failure> {
    let mut config = arguments.pool.engine_config()?;
    config.pool.domains = arguments.domains.or(config.pool.domains);
    config.pool.mirrors = arguments.mirrors.or(config.pool.mirrors);
    for (name, path) in &arguments.failure_domains {
        let Some(disk) = config.io.disks.iter_mut().find(|disk| disk.path == *path) else {
            let path = path.display();
            let message = format!("--failure-domain names {path}, which is no disk of the pool");
            return Err(Failure::new(Exit::Usage, message));
        };
        disk.failure_domain = Some(name.clone());
    }
    let overwrite = arguments.destroys.overwrite();
    let options =
        FormatOptions { overwrite, create_bytes: arguments.size, ..FormatOptions::default() };
    let plan = StorageEngine::plan_format(&config, &options)?;
    if let Some(disk) = plan.disks.iter().find(|disk| !disk.is_new)
        && arguments.size.is_some()
    {
        let path = disk.path.display();
        let message = format!("{path} is there already, and --size is for new files");
        return Err(Failure::new(Exit::Usage, message));
    }
    let carried = |(path, found): (&Path, &str)| format!("{}: {found}", path.display());
    let carries: Vec<String> = plan.carries().map(carried).collect();
    if !carries.is_empty() && overwrite == Overwrite::No {
        let message = format!("a disk holds data: {}", carries.join("; "));
        let help = Some("--overwrite destroys it".to_owned());
        return Err(Failure { exit: Exit::Refused, message, help });
    }
    if !arguments.destroys.yes {
        confirm(&plan)?;
    }
    let report = StorageEngine::format(&config, options)?;
    let text = match arguments.json {
        true => super::json(&json!({ "did": plan, "pool": report }))?,
        false => format!("{}\n{}", describe_plan(&plan), describe_pool(&report)),
    };
    Ok(text.into())
}

/// Asks on the terminal; where there is none, only `--yes` will do.
fn confirm(plan: &FormatPlan) -> Result<(), Failure> {
    let name = plan.disks[0].path.display().to_string();
    // The question is for a reader who may be gone; then there is no answer either.
    let _ = io::stderr().lock().write_all(describe_plan(plan).as_bytes());
    match plan.disks.len() {
        1 => ask(&name, "it holds"),
        count => ask(&name, &format!("these {count} disks hold")),
    }
}

/// Asks whether all that `what` says may be lost.
pub(super) fn ask(name: &str, what: &str) -> Result<(), Failure> {
    let refused = |message: String| {
        let help = Some("add --yes to go on without being asked".to_owned());
        Failure { exit: Exit::Refused, message, help }
    };
    if !io::stdin().is_terminal() {
        return Err(refused(format!("{name} was not touched: nobody is there to be asked")));
    }
    let mut out = io::stderr().lock();
    let _ = write!(out, "All that {what} will be lost. Type {name} to go on: ");
    let _ = out.flush();
    let mut answer = String::new();
    match io::stdin().read_line(&mut answer) {
        Ok(_) if answer.trim() == name => Ok(()),
        _ => Err(refused(format!("{name} was not touched"))),
    }
}

pub(super) fn lines(title: &str, lines: &[(&str, String)]) -> String {
    let mut text = format!("{title}\n");
    for (name, value) in lines {
        text.push_str(&format!("  {name:<20}{value}\n"));
    }
    text
}

fn describe_plan(plan: &FormatPlan) -> String {
    let mut text = String::new();
    for (number, disk) in plan.disks.iter().enumerate() {
        let model = or_dash(disk.device.as_ref().and_then(|device| device.model.as_ref()));
        let carries = match disk.carries.as_slice() {
            [] => "nothing known".to_owned(),
            found => found.join("; "),
        };
        let title = match disk.is_new {
            true => format!("a pool on the new file {}", disk.path.display()),
            false => format!("a pool on {}", disk.path.display()),
        };
        let facts = [
            ("slot", (number / usize::from(plan.mirrors)).to_string()),
            ("fails with", or_dash(disk.failure_domain.as_ref())),
            ("size", format!("{} ({} bytes)", size(disk.disk_bytes), disk.disk_bytes)),
            ("model", model),
            ("carries", carries),
        ];
        text.push_str(&lines(&title, &facts));
    }
    let facts = [
        ("mirrors", plan.mirrors.to_string()),
        ("domains", plan.domains.to_string()),
        ("journal of each", size(plan.journal_bytes)),
        ("for data", size(plan.data_bytes())),
    ];
    text + &lines("together", &facts)
}

pub(super) fn describe_pool(pool: &PoolReport) -> String {
    let facts = [
        ("disks", disks_of(pool)),
        ("domains", pool.domains.to_string()),
        ("journal of each", size(pool.journal_bytes)),
        ("for data", size(pool.data_bytes())),
    ];
    let mut text = lines(&format!("pool {}", pool.pool), &facts);
    pool.notes.iter().for_each(|note| text.push_str(&format!("  note: {note}\n")));
    pool.disks.iter().for_each(|disk| text.push_str(&describe_member(disk)));
    text
}

fn disks_of(pool: &PoolReport) -> String {
    match pool.mirrors {
        1 => format!("{}, epoch {}", pool.members, pool.epoch),
        mirrors => {
            let slots = pool.members / mirrors;
            format!("{}: {slots} slots of {mirrors} mirrors, epoch {}", pool.members, pool.epoch)
        }
    }
}

fn describe_member(disk: &MemberReport) -> String {
    let whole = disk.labels.iter().filter(|label| *label == "whole").count();
    let damaged = disk.labels.iter().enumerate().filter(|(_, label)| *label != "whole");
    let mut labels = format!("{whole} of {} copies whole", disk.labels.len());
    damaged.for_each(|(copy, label)| labels.push_str(&format!("; copy {copy}: {label}")));
    let facts = [
        ("disk", format!("{}, slot {}, mirror {}", disk.disk, disk.slot, disk.mirror)),
        ("in sync", if disk.in_sync { "yes" } else { "no: it is being brought there" }.to_owned()),
        ("size", format!("{} ({} bytes)", size(disk.disk_bytes), disk.disk_bytes)),
        ("for data", size(disk.data_bytes)),
        ("labels", labels),
    ];
    lines(&disk.path.display().to_string(), &facts)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [("4096", 4096), ("1K", 1024), ("256MiB", 256 << 20), ("2T", 2 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "M", "1.5G", "-1", "1KB", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
