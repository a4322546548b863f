//! One job: its words checked, its share of a disk computed.

use std::ffi::OsString;
use std::ops::Range;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::narrow;
use super::show;
use crate::args::{JobWords, Pattern, Priority};
use crate::failure::Failure;
use crate::units::{Span, count, size_bytes, span, split_escaped};

/// Smallest unit of a request and of an offset, bytes.
pub const SECTOR_BYTES: u32 = 512;
/// Largest request, bytes.
pub const BLOCK_BYTES_MAX: u32 = 16 << 20;
/// Most requests in flight per job.
pub const DEPTH_MAX: u32 = 4096;
/// Most clones of a job.
const CLONES_MAX: u64 = 256;
/// fio's block size when none is given.
const BLOCK_BYTES_DEFAULT: u32 = 4096;
/// Fixed, so that two runs of one command line touch the same blocks.
const SEED_DEFAULT: u64 = 0x89;

/// A checked job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPlan {
    /// Name in the report.
    pub name: String,
    /// Direction and order.
    pub pattern: Pattern,
    /// Percentage of reads: 100 for a read job, 0 for a write job.
    pub read_percent: u8,
    /// Bytes per request, a multiple of [`SECTOR_BYTES`].
    pub block_bytes: u32,
    /// Requests in flight, per clone.
    pub depth: u32,
    /// Clones of this job, at least one.
    pub clones: u32,
    /// What it covers of each disk, from `offset` on.
    pub span: Span,
    /// Where it starts on each disk; [`Span::All`] means 0.
    pub offset: Span,
    /// Requests per submission, at most `depth`.
    pub batch_submit: u32,
    /// Completions to wait for, at most `depth`; 0 only looks.
    pub batch_complete_min: u32,
    /// Requests per second, clone and direction.
    pub rate_iops: Option<u64>,
    /// Seed of the offsets.
    pub seed: u64,
    /// Class of its reads.
    pub priority_read: Priority,
    /// Class of its writes.
    pub priority_write: Priority,
    /// The words as the user spelled them, for the report.
    pub options: Vec<(String, String)>,
}

#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct BesideWords {
    #[command(flatten)]
    words: JobWords,
}

impl JobPlan {
    /// The job of the command line's own words.
    pub(super) fn main(words: &JobWords) -> Result<Self, Failure> {
        Self::from_words(words, "job")
    }

    /// The job of the `number`th `--beside`, counted from 1.
    pub(super) fn beside(specification: &str, number: usize) -> Result<Self, Failure> {
        if specification.trim().is_empty() {
            let help = "write it as --beside=rw=read,bs=128k,iodepth=32";
            return Err(Failure::usage("beside", "", "has no job", help));
        }
        let words = split_escaped(specification, ',');
        let parsed = BesideWords::try_parse_from(words.iter().map(|word| {
            // A word that brings its own dashes is not a key of a specification.
            OsString::from(format!("--{}", word.trim().trim_start_matches('-')))
        }));
        let words = parsed.map_err(|error| beside_failure(specification, &error))?.words;
        Self::from_words(&words, &format!("beside{number}")).map_err(|failure| match failure {
            Failure::Usage { message, help } => {
                let message =
                    format!("--beside={specification}: {}", message.replacen("--", "", 1));
                Failure::Usage { message, help }
            }
            other => other,
        })
    }

    fn from_words(words: &JobWords, default_name: &str) -> Result<Self, Failure> {
        let pattern = words.rw.unwrap_or_default();
        let depth = number("iodepth", &words.iodepth, 1..=u64::from(DEPTH_MAX), 1)?;
        let block_bytes = match &words.bs {
            Some(text) => block_bytes(text)?,
            None => BLOCK_BYTES_DEFAULT,
        };
        let job = Self {
            name: words.name.clone().unwrap_or_else(|| default_name.into()),
            pattern,
            read_percent: read_percent(words, pattern)?,
            block_bytes,
            depth: narrow(depth),
            clones: narrow(number("numjobs", &words.numjobs, 1..=CLONES_MAX, 1)?),
            span: given_span("size", &words.size)?,
            offset: given_span("offset", &words.offset)?,
            batch_submit: narrow(number(
                "iodepth_batch_submit",
                &words.iodepth_batch_submit,
                1..=depth,
                1,
            )?),
            batch_complete_min: narrow(number(
                "iodepth_batch_complete_min",
                &words.iodepth_batch_complete_min,
                0..=depth,
                1,
            )?),
            rate_iops: match &words.rate_iops {
                Some(text) => Some(count("rate_iops", text, 1, 1_000_000_000)?),
                None => None,
            },
            seed: number("randseed", &words.randseed, 0..=u64::MAX, SEED_DEFAULT)?,
            priority_read: words.priority.unwrap_or(Priority::NormalRead),
            priority_write: words.priority.unwrap_or(Priority::Write),
            options: show::job_options(words),
        };
        job.check_place(words)?;
        Ok(job)
    }

    /// Whether it writes at all.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.read_percent < 100
    }

    /// Whether its offsets are random.
    #[must_use]
    pub fn is_random(&self) -> bool {
        matches!(self.pattern, Pattern::RandRead | Pattern::RandWrite | Pattern::RandRw)
    }

    /// The bytes of a disk that this job covers: whole blocks, inside the disk.
    ///
    /// # Errors
    /// [`Failure::Usage`] when size or offset do not fit the disk's bytes or its logical block.
    pub fn range_on(
        &self,
        disk: &str,
        disk_bytes: u64,
        logical_block_bytes: u32,
    ) -> Result<Range<u64>, Failure> {
        let block = u64::from(self.block_bytes);
        if !self.block_bytes.is_multiple_of(logical_block_bytes) {
            return Err(Failure::usage(
                "bs",
                &self.block_bytes.to_string(),
                &format!("{disk} has logical blocks of {logical_block_bytes} bytes"),
                &format!("use a multiple of {logical_block_bytes}"),
            ));
        }
        let start = match self.offset {
            Span::All => 0,
            Span::Percent(_) => self.offset.of(disk_bytes) / block * block,
            Span::Bytes(bytes) => bytes,
        };
        if !start.is_multiple_of(u64::from(logical_block_bytes)) {
            return Err(Failure::usage(
                "offset",
                &start.to_string(),
                &format!("{disk} has logical blocks of {logical_block_bytes} bytes"),
                &format!("use a multiple of {logical_block_bytes}"),
            ));
        }
        if start != 0 && disk_bytes.saturating_sub(start) < block {
            return Err(Failure::usage(
                "offset",
                &start.to_string(),
                &format!("{disk} has {disk_bytes} bytes, none for a block of {block} from there"),
                "use a smaller offset or a smaller bs",
            ));
        }
        let room = disk_bytes.saturating_sub(start);
        let covered = match self.span {
            Span::All => room,
            Span::Percent(_) => self.span.of(disk_bytes).min(room),
            Span::Bytes(bytes) if bytes <= room => bytes,
            Span::Bytes(bytes) => {
                return Err(Failure::usage(
                    "size",
                    &bytes.to_string(),
                    &format!("{disk} has {room} bytes from offset {start} on"),
                    "use a smaller size, a percentage, or leave it out for all of the disk",
                ));
            }
        };
        if covered < block {
            return Err(Failure::usage(
                "size",
                &covered.to_string(),
                &format!("{disk} has no room for one block of {block} bytes at offset {start}"),
                "use a larger size, a smaller bs or a smaller offset",
            ));
        }
        Ok(start..start + covered / block * block)
    }

    fn check_place(&self, words: &JobWords) -> Result<(), Failure> {
        if let (Span::Bytes(bytes), Some(text)) = (self.offset, &words.offset)
            && !bytes.is_multiple_of(u64::from(SECTOR_BYTES))
        {
            let reason = format!("is {bytes} bytes, and must be a multiple of {SECTOR_BYTES}");
            let help = "offsets start at a logical block of the disk, 512 or 4096 bytes";
            return Err(Failure::usage("offset", text, &reason, help));
        }
        if let (Span::Bytes(bytes), Some(text)) = (self.span, &words.size)
            && bytes < u64::from(self.block_bytes)
        {
            let reason = format!("is {bytes} bytes, less than one bs of {}", self.block_bytes);
            return Err(Failure::usage("size", text, &reason, "use a larger size or a smaller bs"));
        }
        Ok(())
    }
}

/// Reads a block size.
pub(super) fn block_bytes(text: &str) -> Result<u32, Failure> {
    let bytes = size_bytes("bs", text)?;
    let fits = (1..=u64::from(BLOCK_BYTES_MAX)).contains(&bytes);
    if !fits || !bytes.is_multiple_of(u64::from(SECTOR_BYTES)) {
        let reason = format!(
            "is {bytes} bytes, and must be a multiple of 512 from 512 to {BLOCK_BYTES_MAX}"
        );
        let help = "sizes with k and m are powers of 1024: 4k, 128k, 1m";
        return Err(Failure::usage("bs", text, &reason, help));
    }
    Ok(narrow(bytes))
}

fn read_percent(words: &JobWords, pattern: Pattern) -> Result<u8, Failure> {
    let mix = number("rwmixread", &words.rwmixread, 0..=100, 50)?;
    match pattern {
        Pattern::Read | Pattern::RandRead => Ok(100),
        Pattern::Write | Pattern::RandWrite => Ok(0),
        Pattern::Rw | Pattern::RandRw => Ok(narrow(mix)),
    }
}

fn number(
    field: &str,
    text: &Option<String>,
    range: std::ops::RangeInclusive<u64>,
    default: u64,
) -> Result<u64, Failure> {
    match text {
        Some(text) => Ok(count(field, text, *range.start(), *range.end())?),
        None => Ok(default),
    }
}

fn given_span(field: &str, text: &Option<String>) -> Result<Span, Failure> {
    match text {
        Some(text) => Ok(span(field, text)?),
        None => Ok(Span::All),
    }
}

/// Says what clap found in a specification in the specification's own spelling.
fn beside_failure(specification: &str, error: &clap::Error) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(one)) => Some(one.clone()),
        Some(ContextValue::Strings(many)) => Some(many.join(", ")),
        _ => None,
    };
    let bare = |kind| text(kind).map(|found| found.trim_start_matches('-').to_owned());
    let key = bare(ContextKind::InvalidArg).unwrap_or_default();
    let key = key.split([' ', '=']).next().unwrap_or_default().to_owned();
    let (reason, help) = match error.kind() {
        ErrorKind::UnknownArgument => (
            format!("unknown key '{key}'"),
            match bare(ContextKind::SuggestedArg) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "keys are the job options of `dynamicfs-bench --help`".into(),
            },
        ),
        ErrorKind::InvalidValue => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let values = text(ContextKind::ValidValue).unwrap_or_default();
            let reason = if value.is_empty() {
                format!("key '{key}' needs a value")
            } else {
                format!("invalid value '{value}' for '{key}'")
            };
            match values.as_str() {
                "" => (reason, format!("write {key}=VALUE")),
                _ => (reason, format!("possible values: {values}")),
            }
        }
        ErrorKind::ArgumentConflict => {
            (format!("key '{key}' is given twice"), "give each key once".into())
        }
        _ => (format!("cannot read '{key}'"), "write key=value,key=value".into()),
    };
    Failure::usage("beside", specification, &reason, &help)
}
