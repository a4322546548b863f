//! What a disk holds already: `blkid`'s verdict, and our own labels.
//!
//! `blkid` from util-linux knows more than a hundred formats and is kept up to date; it runs as a
//! child with `-p`, which looks at the device itself and at no cache. Its exit status: 0 something
//! was found, 2 nothing was, 8 contradictory signatures, others are failures. A device that it
//! cannot open gives 2 as well: reading our own label opens it again, and reports that.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The first bytes of every dynamicfs label, so that no run destroys a pool by mistake. The format
/// layer specifies labels; a test of the engine holds this copy of three facts to it.
pub const LABEL_MAGIC: [u8; 8] = *b"dynfsLBL";

/// Where the pool's id is in a label.
const POOL_ID: std::ops::Range<usize> = 32..48;

/// Each end of a disk has a zone of this size with two copies, at its start and in its middle.
const LABEL_ZONE_BYTES: u64 = 2 << 20;

/// Where `blkid` is when it is not on the path of a user who is not root.
const BLKID_PLACES: [&str; 3] = ["blkid", "/usr/sbin/blkid", "/sbin/blkid"];

/// Something recognised on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Where: the device, a partition of it, or the file.
    pub object: PathBuf,
    /// What: `ext4 file system (label "data")`, `gpt partition table`, ...
    pub kind: String,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.kind, self.object.display())
    }
}

/// The outcome of looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// What was found; empty when the disk holds nothing known.
    Found(Vec<Signature>),
    ProberMissing,
    Failed(String),
}

impl Probed {
    /// Both looks together: a look that failed makes the whole fail.
    pub(super) fn and(self, other: Probed) -> Probed {
        match (self, other) {
            (Probed::Found(mut first), Probed::Found(second)) => {
                first.extend(second);
                Probed::Found(first)
            }
            (Probed::Found(_), failed) | (failed, _) => failed,
        }
    }
}

/// Looks at one device or file.
pub(super) fn probe(path: &Path) -> Probed {
    let foreign = match run_blkid(path) {
        Ok(output) => judge(path, &output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Probed::ProberMissing,
        Err(error) => Probed::Failed(format!("blkid: {error}")),
    };
    foreign.and(match find_label(path) {
        Ok(None) => Probed::Found(Vec::new()),
        Ok(Some(pool)) => {
            let pool = uuid::Uuid::from_bytes(pool);
            let kind = format!("a label of the dynamicfs pool {pool}");
            Probed::Found(vec![Signature { object: path.to_path_buf(), kind }])
        }
        Err(error) => Probed::Failed(format!("cannot read {}: {error}", path.display())),
    })
}

fn run_blkid(path: &Path) -> io::Result<Output> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for program in BLKID_PLACES {
        let output = Command::new(program)
            .args(["-p", "-o", "export"])
            .arg(path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing = error,
            decided => return decided,
        }
    }
    Err(missing)
}

fn judge(path: &Path, output: &Output) -> Probed {
    let found = |kind: String| Signature { object: path.to_path_buf(), kind };
    match output.status.code() {
        Some(0) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Probed::Found(describe(&text).into_iter().map(found).collect())
        }
        Some(2) => Probed::Found(Vec::new()),
        Some(8) => Probed::Found(vec![found(String::from("contradictory signatures"))]),
        _ => {
            let text = String::from_utf8_lossy(&output.stderr);
            Probed::Failed(format!("blkid failed ({}) {}", output.status, text.trim()))
        }
    }
}

/// Reads `KEY=value` lines. `PART_ENTRY_*` alone says only that the device is a partition.
fn describe(export: &str) -> Vec<String> {
    let value = |key: &str| {
        export.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    let mut kinds = Vec::new();
    if let Some(table) = value("PTTYPE") {
        kinds.push(format!("{table} partition table"));
    }
    if let Some(kind) = value("TYPE") {
        let noun = match value("USAGE").as_deref() {
            Some("filesystem") => "file system",
            Some("raid") => "volume member",
            Some("crypto") => "encrypted volume",
            Some(_) | None => "signature",
        };
        let label = value("LABEL").map_or_else(String::new, |label| format!(" (label {label:?})"));
        kinds.push(format!("{kind} {noun}{label}"));
    }
    if kinds.is_empty() {
        // Something was found that this reading has no name for: say so rather than lose it.
        let other = export.lines().find(|line| {
            !line.starts_with("DEVNAME=") && !line.starts_with("PART_ENTRY_") && line.contains('=')
        });
        kinds.extend(other.map(|line| format!("signature ({line})")));
    }
    kinds
}

/// Looks for any copy of a label, whole or not, and takes the pool's id from it.
fn find_label(path: &Path) -> io::Result<Option<[u8; 16]>> {
    let mut file = File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let tail = (bytes / 4096 * 4096).saturating_sub(LABEL_ZONE_BYTES);
    for offset in [0, LABEL_ZONE_BYTES / 2, tail, tail + LABEL_ZONE_BYTES / 2] {
        let mut head = [0u8; POOL_ID.end];
        match file.read_exact_at(&mut head, offset) {
            Ok(()) if head.starts_with(&LABEL_MAGIC) => {
                let mut pool = [0; 16];
                pool.copy_from_slice(&head[POOL_ID]);
                return Ok(Some(pool));
            }
            Ok(()) => {}
            // Too short to hold a label there.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkids_answers_are_named() {
        for (export, wanted) in [
            (
                "DEVNAME=/dev/x\nLABEL=data\nTYPE=ext4\nUSAGE=filesystem\n",
                "ext4 file system (label \"data\")",
            ),
            ("DEVNAME=/dev/x\nPTUUID=1\nPTTYPE=gpt\n", "gpt partition table"),
            ("TYPE=linux_raid_member\nUSAGE=raid\n", "linux_raid_member volume member"),
            ("TYPE=crypto_LUKS\nUSAGE=crypto\n", "crypto_LUKS encrypted volume"),
            ("TYPE=swap\nUSAGE=other\n", "swap signature"),
            ("DEVNAME=/dev/x\nODD=1\n", "signature (ODD=1)"),
        ] {
            assert_eq!(describe(export), [wanted]);
        }
        let partition = "DEVNAME=/dev/x1\nPART_ENTRY_SCHEME=gpt\nPART_ENTRY_NUMBER=1\n";
        assert_eq!(describe(partition), [] as [&str; 0]);
    }

    #[test]
    fn a_failed_look_is_not_lost_in_a_good_one() {
        let good = || Probed::Found(Vec::new());
        let bad = || Probed::Failed(String::from("x"));
        assert_eq!(good().and(bad()), bad());
        assert_eq!(bad().and(good()), bad());
        assert_eq!(good().and(Probed::ProberMissing), Probed::ProberMissing);
        assert_eq!(good().and(good()), good());
    }
}
