//! A plan as a table for people.

use std::fmt;

use super::{Locality, Placement};

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>7}  {:>4}  {:>4}  {:>7}  disks", "reactor", "cpu", "node", "package")?;
        for (index, reactor) in self.reactors.iter().enumerate() {
            let node = reactor.node.map_or_else(|| "-".to_owned(), |node| node.to_string());
            let package = reactor.package.map_or_else(|| "-".to_owned(), |at| at.to_string());
            let disks = self.disks_of(index);
            let disks = if disks.is_empty() { "-" } else { &disks };
            writeln!(f, "{index:>7}  {:>4}  {node:>4}  {package:>7}  {disks}", reactor.cpu)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

impl Placement {
    /// `nvme0n1 nvme3n1/1 sda(remote)`: the lane's number where a disk has several.
    fn disks_of(&self, reactor: usize) -> String {
        let words = self.lanes.iter().filter(|lane| lane.reactor == reactor).map(|lane| {
            let name = self.disks.get(lane.disk).map_or("?", String::as_str);
            let is_only = self.lanes.iter().filter(|other| other.disk == lane.disk).count() == 1;
            let number = if is_only { String::new() } else { format!("/{}", lane.lane) };
            let place = match lane.local {
                Locality::Local | Locality::Unknown => "",
                Locality::Remote => "(remote)",
            };
            format!("{name}{number}{place}")
        });
        words.collect::<Vec<_>>().join(" ")
    }
}
