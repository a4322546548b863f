//! Which devices are mounted or swapped on, from `/proc/self/mountinfo` and `/proc/swaps`.
//!
//! Parsing is pure. Paths in both files are octal-escaped (`\040` is a space); a line that does not
//! parse is skipped, because one odd mount must not hide the others.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{ffi::OsString, fs, io};

use super::sysfs::DeviceNumber;

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The file system's device; anonymous (major 0) for btrfs, overlayfs, tmpfs, ...
    pub(crate) number: DeviceNumber,
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
    /// `ext4`, `btrfs`, ...
    pub(crate) file_system: String,
    /// What was given to `mount`: `/dev/sda1`, `tmpfs`, ...
    pub(crate) source: PathBuf,
}

/// Everything mounted in this process's namespace.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse_mountinfo(&fs::read("/proc/self/mountinfo")?))
}

/// Every swap file and partition in use. Empty on a kernel without swap.
pub(crate) fn swaps() -> io::Result<Vec<PathBuf>> {
    match fs::read("/proc/swaps") {
        Ok(text) => Ok(parse_swaps(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The mount that holds `path`'s file system: the last one made over that device.
pub(crate) fn file_system_of(mounts: &[Mount], number: DeviceNumber) -> Option<&Mount> {
    mounts.iter().rev().find(|mount| mount.number == number)
}

/// Reads mountinfo as in proc(5):
/// `id parent maj:min root mount_point options... - type source ...`.
pub(crate) fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = words.iter().position(|word| *word == b"-")?;
    Some(Mount {
        number: DeviceNumber::parse(str::from_utf8(words.get(2)?).ok()?)?,
        mount_point: unescape(words.get(4)?),
        file_system: String::from_utf8_lossy(words.get(dash + 1)?).into_owned(),
        source: unescape(words.get(dash + 2)?),
    })
}

/// Reads `/proc/swaps`: a heading, then lines whose first column is the path.
pub(crate) fn parse_swaps(text: &[u8]) -> Vec<PathBuf> {
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(u8::is_ascii_whitespace).next())
        .filter(|word| !word.is_empty())
        .map(unescape)
        .collect()
}

/// Undoes the kernel's `\ooo` escapes of space, tab, newline and backslash.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let value = digits
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Whether `path` is `/dev` itself or below it, by name or by being on a devtmpfs.
pub(crate) fn is_under_dev(mounts: &[Mount], directory: &Path, number: DeviceNumber) -> bool {
    directory.starts_with("/dev")
        || file_system_of(mounts, number).is_some_and(|mount| mount.file_system == "devtmpfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
24 27 0:6 / /dev rw,relatime shared:2 - devtmpfs devtmpfs rw,mode=755\n\
31 27 0:40 /sub /data\\040one rw,relatime shared:3 master:1 - btrfs /dev/sdb1 rw,subvolid=5\n\
broken line\n\
32 27 8:x / /odd rw - ext4 /dev/sda rw\n";

    #[test]
    fn mountinfo_survives_optional_fields_escapes_and_broken_lines() {
        let mounts = parse_mountinfo(MOUNTINFO);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].number, DeviceNumber { major: 254, minor: 0 });
        assert_eq!(mounts[2].mount_point, Path::new("/data one"));
        assert_eq!(mounts[2].file_system, "btrfs");
        assert_eq!(mounts[2].source, Path::new("/dev/sdb1"));
        let root = file_system_of(&mounts, DeviceNumber { major: 254, minor: 0 }).unwrap();
        assert_eq!(root.mount_point, Path::new("/"));
    }

    #[test]
    fn swaps_skip_the_heading() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/vda2                               partition\t1000\t\t0\t\t-2\n\
            /swap\\040file                            file\t1000\t\t0\t\t-3\n";
        assert_eq!(parse_swaps(text), [Path::new("/dev/vda2"), Path::new("/swap file")]);
        assert_eq!(parse_swaps(b"Filename\tType\n"), [] as [&Path; 0]);
    }

    #[test]
    fn a_devtmpfs_anywhere_counts_as_dev() {
        let mounts = parse_mountinfo(MOUNTINFO);
        let devtmpfs = DeviceNumber { major: 0, minor: 6 };
        let root = DeviceNumber { major: 254, minor: 0 };
        assert!(is_under_dev(&mounts, Path::new("/chroot/dev"), devtmpfs));
        assert!(is_under_dev(&mounts, Path::new("/dev/shm"), root));
        assert!(!is_under_dev(&mounts, Path::new("/developer"), root));
    }
}
