//! What disks fail together, as their owner says: those of a slot are never of one shelf or
//! controller, whatever the order in which they are named.

use std::collections::BTreeMap;

use crate::engine::config::DiskConfig;
use crate::engine::storage_engine::EngineError;
use crate::store::assembly::Assembly;

/// Puts disks in an order in which every `mirrors` that follow each other have as many failure
/// domains. They stay as they are when none says one, or there are no mirrors.
///
/// # Errors
/// Some say one and others do not, or there is no such order.
pub(super) fn arrange(disks: &mut Vec<DiskConfig>, mirrors: u32) -> Result<(), EngineError> {
    let mirrors = mirrors.max(1) as usize;
    let unnamed = disks.iter().find(|disk| disk.failure_domain.is_none());
    if mirrors == 1 || disks.iter().all(|disk| disk.failure_domain.is_none()) {
        return Ok(());
    }
    let unfit = |value: String, reason| Err(EngineError::Unfit { field: FIELD, value, reason });
    if let Some(disk) = unnamed {
        let reason = "some disks have one and this one has not; say it of all or of none";
        return unfit(format!("nothing for {}", disk.path.display()), reason);
    }
    let slots = disks.len() / mirrors;
    // In the order in which they are named first; the last disk of each is on top.
    let mut domains: Vec<(String, Vec<DiskConfig>)> = Vec::new();
    for disk in disks.iter().rev() {
        let name = disk.failure_domain.clone().unwrap_or_default();
        match domains.iter_mut().find(|(other, _)| *other == name) {
            Some((_, of)) => of.push(disk.clone()),
            None => domains.push((name, vec![disk.clone()])),
        }
    }
    domains.reverse();
    if let Some((name, of)) = domains.iter().find(|(_, of)| of.len() > slots) {
        let value = format!("{name:?} for {} of {} disks", of.len(), disks.len());
        let reason = "the disks of a slot are of different ones: there are more of this one than \
                      slots";
        return unfit(value, reason);
    }
    let mut arranged = Vec::with_capacity(disks.len());
    for _ in 0..slots {
        // From those with most left: the rest can then be shared out as well.
        domains.sort_by_key(|(_, of)| std::cmp::Reverse(of.len()));
        arranged.extend(domains.iter_mut().take(mirrors).filter_map(|(_, of)| of.pop()));
    }
    *disks = arranged;
    Ok(())
}

const FIELD: &str = "disks.failure_domain";

/// What is to be said of slots with several disks of one failure domain.
pub(super) fn shared(disks: &[DiskConfig], assembly: &Assembly, slots: &[u16]) -> Vec<String> {
    let mut of_slots: BTreeMap<(u16, &str), Vec<String>> = BTreeMap::new();
    for (index, _) in &assembly.disks {
        let (Some(disk), Some(slot)) = (disks.get(*index), slots.get(*index)) else { continue };
        let Some(name) = &disk.failure_domain else { continue };
        of_slots.entry((*slot, name)).or_default().push(disk.path.display().to_string());
    }
    let several = of_slots.into_iter().filter(|(_, paths)| paths.len() > 1);
    let said = several.map(|((slot, name), paths)| {
        let paths = paths.join(" and ");
        format!("{paths} hold the same, as slot {slot}, and both fail with {name}")
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(domains: &[&str]) -> Vec<DiskConfig> {
        let disk = |(number, name): (usize, &&str)| DiskConfig {
            path: format!("/dev/{number}").into(),
            failure_domain: (!name.is_empty()).then(|| (*name).to_owned()),
            ..DiskConfig::default()
        };
        domains.iter().enumerate().map(disk).collect()
    }

    /// Every way to give up to three names to six disks.
    #[test]
    fn no_slot_has_two_of_one_wherever_that_can_be() {
        let names = ["a", "b", "c"];
        let (mut arranged, mut refused) = (0, 0);
        for code in 0..3usize.pow(6) {
            let of = |disk: u32| code / 3usize.pow(disk) % 3;
            let given: Vec<&str> = (0..6).map(|disk| names[of(disk)]).collect();
            for mirrors in [2, 3] {
                let mut disks = disks(&given);
                let most = names.map(|name| given.iter().filter(|other| **other == name).count());
                let possible = most.into_iter().max().unwrap() <= 6 / mirrors;
                assert_eq!(arrange(&mut disks, mirrors as u32).is_ok(), possible, "{given:?}");
                refused += u32::from(!possible);
                if !possible {
                    continue;
                }
                arranged += 1;
                for slot in disks.chunks(mirrors) {
                    let mut of: Vec<_> = slot.iter().map(|disk| &disk.failure_domain).collect();
                    of.sort();
                    of.dedup();
                    assert_eq!(of.len(), mirrors, "{given:?}: {slot:?}");
                }
                let mut paths: Vec<_> = disks.iter().map(|disk| &disk.path).collect();
                paths.sort();
                paths.dedup();
                assert_eq!(paths.len(), 6, "each is there once");
            }
        }
        assert!(arranged > 100 && refused > 100);
    }

    #[test]
    fn what_nobody_says_changes_nothing_and_half_of_it_is_refused() {
        for (given, mirrors) in [(&["", "", "", ""][..], 2), (&["a", "a", "", "b"], 1)] {
            let mut arranged = disks(given);
            arrange(&mut arranged, mirrors).unwrap();
            assert_eq!(arranged, disks(given));
        }
        let half = arrange(&mut disks(&["a", "b", "", "b"]), 2).unwrap_err().to_string();
        assert!(half.contains("disks.failure_domain") && half.contains("/dev/2"), "{half}");
        let many = arrange(&mut disks(&["a", "a", "a", "b"]), 2).unwrap_err().to_string();
        assert!(many.contains("\"a\" for 3 of 4 disks"), "{many}");
    }
}
