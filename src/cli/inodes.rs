//! `dynamicfs put`, `get`, `ls` and `rm`: the inodes of a pool, one command at a time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use dynamicfs::engine::storage_engine::{InodeId, InodeInfo, InodeOptions, StorageEngine};
use dynamicfs::store::error::StoreError;
use serde_json::json;

use super::pool::PoolArguments;
use super::status::{losses, taken};
use super::table::{size, table};
use super::{Exit, Failure, Report};

/// Bytes of one request: several fit beside each other in the engine's memory.
const CHUNK_BYTES: usize = 4 << 20;
/// Inodes of one request of a listing.
const PAGE: usize = 1000;

/// Which inode to write.
#[derive(Clone, Copy, Debug)]
enum Into {
    New,
    Known(InodeId),
}

fn parse_into(text: &str) -> Result<Into, String> {
    match text {
        "new" => Ok(Into::New),
        number => number
            .parse()
            .map(|id| Into::Known(InodeId(id)))
            .map_err(|_| format!("{text} is neither an inode's number nor `new`")),
    }
}

#[derive(Debug, Args)]
pub(crate) struct PutArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// File to read, or `-` for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Inode whose content is replaced, or `new`.
    #[arg(long, value_name = "N|new", value_parser = parse_into)]
    inode: Into,
    /// Kept with a new inode and shown by `ls`, up to 64 bytes.
    #[arg(long, value_name = "TEXT")]
    tag: Option<String>,
    /// On how many disks each block of a new inode is; by default on as many as a slot has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4))]
    copies: Option<u16>,
}

fn file_failure(path: &Path, doing: &str, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Exit::Device,
        io::ErrorKind::AlreadyExists => Exit::Refused,
        _ => Exit::Io,
    };
    Failure::new(exit, format!("cannot {doing} {}: {error}", path.display()))
}

pub(crate) fn put(arguments: &PutArguments) -> Result<Report, Failure> {
    let tag = arguments.tag.as_deref().unwrap_or("");
    let Some(mut options) = InodeOptions::tagged(tag.as_bytes()) else {
        return Err(Failure::new(Exit::Usage, format!("{tag:?} is longer than 64 bytes")));
    };
    options.copies = arguments.copies;
    let is_for_new = arguments.tag.is_some() || arguments.copies.is_some();
    if is_for_new && matches!(arguments.inode, Into::Known(_)) {
        let message = "--tag and --copies are for new inodes".to_owned();
        return Err(Failure::new(Exit::Usage, message));
    }
    let mut input: Box<dyn Read> = match arguments.file.as_os_str() == "-" {
        true => Box::new(io::stdin().lock()),
        false => Box::new(
            File::open(&arguments.file)
                .map_err(|error| file_failure(&arguments.file, "open", &error))?,
        ),
    };
    arguments.pool.with_engine(|engine| {
        let inode = match arguments.inode {
            Into::New => engine.create_inode(options).wait()?,
            Into::Known(inode) => engine.stat(inode).wait()?.id,
        };
        let bytes = copy_in(engine, inode, &mut input)
            .map_err(|failure| or_input(failure, &arguments.file))?;
        Ok(format!("inode {inode}: {bytes} bytes\n").into())
    })
}

/// What went wrong while copying: the input, or the pool.
enum CopyFailure {
    Input(io::Error),
    Pool(Failure),
}

fn or_input(failure: CopyFailure, file: &Path) -> Failure {
    match failure {
        CopyFailure::Input(error) => file_failure(file, "read", &error),
        CopyFailure::Pool(failure) => failure,
    }
}

/// Replaces an inode's content. What fits one request is replaced at once or not at all.
fn copy_in(
    engine: &StorageEngine,
    inode: InodeId,
    mut input: &mut dyn Read,
) -> Result<u64, CopyFailure> {
    let mut offset = 0;
    let pool = |error: StoreError| CopyFailure::Pool(error.into());
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    loop {
        bytes.clear();
        let chunk = (&mut input).take(CHUNK_BYTES as u64).read_to_end(&mut bytes);
        let chunk = chunk.map_err(CopyFailure::Input)?;
        let mut step = engine.transaction(inode);
        if chunk > 0 {
            step.write(offset, &bytes);
        }
        offset += chunk as u64;
        if chunk < CHUNK_BYTES {
            step.truncate(offset);
        }
        step.commit().wait().map_err(pool)?;
        if chunk < CHUNK_BYTES {
            return Ok(offset);
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// The inode's number.
    inode: u64,
    /// Write to this new file, not to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn get(arguments: &GetArguments) -> Result<Report, Failure> {
    let inode = InodeId(arguments.inode);
    arguments.pool.with_reader(|engine| {
        let bytes = engine.stat(inode).wait()?.size_bytes;
        match &arguments.out {
            Some(path) => {
                let made = File::options().write(true).create_new(true).open(path);
                let mut file = made.map_err(|error| file_failure(path, "make", &error))?;
                copy_out(engine, (inode, bytes), &mut file, path)
            }
            None => copy_out(
                engine,
                (inode, bytes),
                &mut io::stdout().lock(),
                "standard output".as_ref(),
            ),
        }
    })?;
    Ok(Report::default())
}

fn copy_out(
    engine: &StorageEngine,
    (inode, bytes): (InodeId, u64),
    output: &mut dyn Write,
    name: &Path,
) -> Result<(), Failure> {
    let mut offset = 0;
    while offset < bytes {
        let end = bytes.min(offset + CHUNK_BYTES as u64);
        let chunk = engine.read(inode, offset..end).wait()?;
        match output.write_all(&chunk).and_then(|()| output.flush()) {
            Ok(()) => offset = end,
            // A reader who goes away has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(file_failure(name, "write", &error)),
        }
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn list(arguments: &ListArguments) -> Result<Report, Failure> {
    let (inodes, failures) = arguments.pool.with_reader(|engine| {
        let mut all: Vec<InodeInfo> = Vec::new();
        loop {
            let from = all.last().map_or(0, |last| last.id.0 + 1);
            let page = engine.list(InodeId(from), PAGE).wait()?;
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Ok((all, losses(&taken(engine)?)));
            }
        }
    })?;
    if arguments.json {
        let inodes = inodes.iter().map(|inode| {
            json!({
                "inode": inode.id,
                "size_bytes": inode.size_bytes,
                "generation": inode.generation,
                "created": inode.created,
                "tag": tag(inode),
                "copies": inode.copies,
            })
        });
        let text = super::json(&inodes.collect::<Vec<_>>())?;
        return Ok(Report { text, failures });
    }
    let rows: Vec<Vec<String>> = inodes
        .iter()
        .map(|inode| {
            let id = inode.id.to_string();
            vec![id, size(inode.size_bytes), inode.generation.to_string(), tag(inode)]
        })
        .collect();
    let text = table(&["INODE", "SIZE", "GENERATION", "TAG"], &rows);
    Ok(Report { text, failures })
}

/// The tag as text, without the zeroes behind it and without what a terminal would obey.
fn tag(inode: &InodeInfo) -> String {
    let end = inode.tag.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(&inode.tag[..end]);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    #[command(flatten)]
    pool: PoolArguments,
    /// The inode's number.
    inode: u64,
}

pub(crate) fn remove(arguments: &RemoveArguments) -> Result<Report, Failure> {
    arguments.pool.with_engine(|engine| {
        engine.delete(InodeId(arguments.inode)).wait()?;
        Ok(Report::default())
    })
}
