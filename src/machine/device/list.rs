//! Listing the machine's block devices.

use std::io;

use super::sysfs::{BlockNode, DeviceNumber, Sysfs};

/// Every disk, each followed by its partitions, in the order of their names.
///
/// A device that vanishes meanwhile is left out.
///
/// # Errors
///
/// When sysfs is not mounted.
pub fn list_block_devices(sysfs: &Sysfs) -> io::Result<Vec<BlockNode>> {
    let mut names = sysfs.disk_names()?;
    names.sort_by_key(|name| natural_key(name));
    let disks: Vec<DeviceNumber> = names.iter().filter_map(|name| sysfs.number_of(name)).collect();
    let mut nodes = Vec::new();
    for disk in disks {
        nodes.extend(sysfs.block_node(disk).ok());
        let partitions = sysfs.partitions(disk);
        nodes.extend(partitions.into_iter().filter_map(|number| sysfs.block_node(number).ok()));
    }
    Ok(nodes)
}

/// Orders `nvme2n1` before `nvme10n1`: runs of digits compare as numbers.
pub(crate) fn natural_key(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((word.to_owned(), number.parse().unwrap_or(0)));
        rest = tail;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_order_naturally() {
        let mut names = ["nvme10n1", "sda", "nvme2n1", "nvme2n1p2", "loop0"];
        names.sort_by_key(|name| natural_key(name));
        assert_eq!(names, ["loop0", "nvme2n1", "nvme2n1p2", "nvme10n1", "sda"]);
    }

    #[test]
    fn this_machine_lists_without_error() {
        for node in list_block_devices(&Sysfs::system()).unwrap() {
            assert!(!node.name.is_empty());
        }
    }
}
