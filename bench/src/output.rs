//! Text to where the user wants it: standard output, or a file of `--output`.
//!
//! A reader that goes away (`| head`) is not a failure. A file appears whole or not at all: it is
//! written beside its place and renamed, so that a broken run leaves an older report as it was.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Finds out before a run whether its report can be written to `path` after it. A block device,
/// and a file that is itself measured, would be overwritten by the report and are refused.
///
/// # Errors
/// [`Failure::Usage`] for a disk, [`Failure::Runtime`] for a place that cannot be written.
pub fn check_place(path: Option<&Path>, disks: &[PathBuf]) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let help = "name a file of its own for the report";
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let own = identity(path);
    if is_block_device(path) || (own.is_some() && disks.iter().any(|disk| identity(disk) == own)) {
        let place = path.display().to_string();
        let reason = "is a disk, and would be overwritten by the report";
        return Err(Failure::usage("output", &place, reason, help));
    }
    let writable = match is_ordinary(path) {
        true => {
            let beside = partial(path);
            fs::write(&beside, "").and_then(|()| fs::remove_file(&beside))
        }
        false => fs::OpenOptions::new().append(true).open(path).map(drop),
    };
    writable.map_err(|error| unwritable(&path.display().to_string(), &error))
}

fn is_block_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// Writes `text` to the file at `path`, or to standard output without one.
///
/// # Errors
/// [`Failure::Runtime`] naming the place when it cannot be written; a closed pipe is no error.
pub fn deliver(text: &str, path: Option<&Path>) -> Result<(), Failure> {
    match path {
        Some(path) if is_ordinary(path) => {
            replace(text, path).map_err(|error| unwritable(&path.display().to_string(), &error))
        }
        Some(path) if is_block_device(path) => check_place(Some(path), &[]),
        // A pipe or /dev/null is written where it is, and never replaced.
        Some(path) => {
            fs::write(path, text).map_err(|error| unwritable(&path.display().to_string(), &error))
        }
        None => {
            let mut out = io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    Err(unwritable("standard output", &error))
                }
                _ => Ok(()),
            }
        }
    }
}

fn is_ordinary(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(true, |metadata| metadata.is_file())
}

fn partial(path: &Path) -> PathBuf {
    let mut beside = OsString::from(path);
    beside.push(format!(".{}.partial", std::process::id()));
    PathBuf::from(beside)
}

fn replace(text: &str, path: &Path) -> io::Result<()> {
    let beside = partial(path);
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one to report.
        drop(fs::remove_file(&beside));
    }
    written
}

fn unwritable(place: &str, error: &io::Error) -> Failure {
    Failure::Runtime {
        message: format!("cannot write to {place}: {error}"),
        help: "check that its directory exists, may be written and has space".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let directory =
            std::env::temp_dir().join(format!("dynamicfs-output-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("report.json");
        deliver("one", Some(&path)).unwrap();
        deliver("two", Some(&path)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let failure =
            deliver("text", Some(Path::new("/nonexistent/report"))).expect_err("no place");
        assert_eq!(failure.code(), 1);
        assert!(failure.to_string().contains("/nonexistent/report"), "{failure}");
    }

    #[test]
    fn a_device_is_written_and_not_replaced() {
        deliver("text", Some(Path::new("/dev/null"))).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
