//! Checks a pool that nobody has open: whether its disk says one consistent thing, and what.
//!
//! The checker knows the format and nothing of the store: it finds the journal's end, reads the
//! tree and applies the records its own way, so that a mistake in one of the two shows as a
//! disagreement. It never writes, and goes on behind what it finds wrong as far as it can.
//!
//! 1. [Labels](label): four copies on each disk, a quorum; and [what they say together](members).
//! 2. [Journal](journal), for each domain: every head is looked for; who follows whom makes chains;
//!    the chain with the newest end is the journal, and must reach back to the tail that its end
//!    names.
//! 3. [Tree](tree): every page of the newest durable checkpoint, from the root down.
//! 4. [State](state): what the pages hold, then every record after `through`, one after another,
//!    each replacing what it names. Pages are copied while commits go on, so what contradicts
//!    itself on them is an error only if no record says it again.
//! 5. [Blocks](blocks): each has one owner, in an allocation group that its domain has: its own, or
//!    one that another domain has given and it has taken; with [`Depth::Data`] each is
//!    read, and is right if it, or a copy that a needed record holds, sums to what its extent says.
//!
//! Where slots have several disks in sync, all this is done once for each: every disk of a slot
//! must make a pool by itself with the others.
//!
//! What a crash leaves behind is a [`Severity::Note`]; everything else is a [`Severity::Error`].

pub mod blocks;
pub mod digest;
pub mod domain;
pub mod image;
pub mod journal;
pub mod label;
pub mod members;
pub mod report;
pub mod state;
#[cfg(test)]
pub(crate) mod tests;
pub mod tree;

use std::collections::BTreeMap;

pub use self::image::Image;
pub use self::report::{Depth, Finding, Report, Severity, Site};

use crate::check::digest::PoolDigest;
use crate::check::domain::DomainView;
use crate::check::label::LabelView;
use crate::check::members::Members;
use crate::check::report::{Findings, LabelFacts};
use crate::format::deed::{Deed, GroupId};

/// Checks the pool on disks or in files.
///
/// ```
/// use dynamicfs::check::{Depth, Image, check};
///
/// let mut zeroes = |_offset: u64, buffer: &mut [u8]| {
///     buffer.fill(0);
///     Ok(())
/// };
/// let report = check(&mut Image::new(64 << 20, &mut zeroes), Depth::Metadata);
/// assert!(!report.is_consistent());
/// assert!(report.inconsistencies[0].to_string().contains("label"));
/// ```
pub fn check(image: &mut Image<'_>, depth: Depth) -> Report {
    let mut findings = Findings::default();
    let mut report = Report::default();
    if let Some(members) = read_members(image, &mut findings) {
        report = view(image, &members, (depth, 0), &mut findings);
        for mirror in 1..members.views() {
            image.arrange(members.order(mirror), members.mirrors());
            let other = view(image, &members, (depth, mirror), &mut findings);
            if other.digest != report.digest {
                let site =
                    Site { mirror: mirror as u16, what: "content".into(), ..Site::default() };
                let expected = format!("digest {:016x}, as of the first mirrors", report.digest);
                // What nobody was told of may be on some of them.
                findings.note(site, expected, format!("digest {:016x}", other.digest));
            }
        }
    }
    findings.into_report(report)
}

/// Checks the pool on one disk of each slot.
fn view(
    image: &mut Image<'_>,
    members: &Members,
    (depth, mirror): (Depth, usize),
    findings: &mut Findings,
) -> Report {
    findings.on_mirrors(members.numbers(mirror));
    let (mut report, mut digest) = (Report::default(), PoolDigest::default());
    let label = members.label();
    let mut deeds = Vec::new();
    for domain in 0..label.layout.domains() {
        let view = DomainView::read(image, members, domain, findings);
        let facts = view.check(image, depth, findings, &mut digest);
        deeds.push(view.state.deeds());
        report.inodes += facts.inodes;
        report.extents += facts.extents;
        report.domains.push(facts);
    }
    judge_deeds(&deeds, members, findings);
    report.label = Some(LabelFacts::of(label));
    report.digest = digest.sum();
    findings.on_mirrors(Vec::new());
    report
}

/// A domain has taken what was given to it, of groups that there are.
fn judge_deeds(deeds: &[BTreeMap<GroupId, Deed>], members: &Members, findings: &mut Findings) {
    for (domain, deeds_of) in (0..).zip(deeds) {
        for (group, deed) in deeds_of {
            let site = || Site::of_domain(domain, format!("a deed of {group}"));
            let groups = members.layout(group.slot).map(|layout| layout.groups());
            if let Some(groups) = groups.filter(|groups| u64::from(group.group) >= *groups) {
                findings.error(site(), format!("one of {groups} groups"), group.group.to_string());
            }
            let slots = members.label().slots;
            if group.slot >= slots {
                findings.error(site(), format!("one of {slots} slots"), group.slot.to_string());
            }
            let Deed::TakenFrom(from) = deed else { continue };
            let other = deeds.get(usize::from(*from)).and_then(|other| other.get(group));
            if other != Some(&Deed::GivenTo(domain)) {
                let expected = format!("domain {from} to have given it to domain {domain}");
                findings.error(site(), expected, format!("{other:?}"));
            }
        }
    }
}

/// Reads the labels of all disks, and puts the disks in the order of their slots.
pub fn read_members(image: &mut Image<'_>, findings: &mut Findings) -> Option<Members> {
    let mut labels = Vec::new();
    for disk in 0..image.disks() {
        let view = LabelView::read(image, disk);
        // Named by its slot, where one is known.
        let name = view.label().map_or(disk, |label| label.slot);
        labels.push(view.judge(name, image.bytes(disk), findings));
    }
    let members = Members::judge(&labels, findings)?;
    image.arrange(members.order(0), members.mirrors());
    Some(members)
}
