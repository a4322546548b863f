//! Every way in which four copies of a label can differ, and what holds then.

use super::*;
use crate::check::label::LabelView;
use crate::check::report::Findings;
use crate::check::{Image, Severity};
use crate::format::removals::Removals;

const DISK_BYTES: u64 = 12 << 20;

/// What lies at a copy's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    Absent,
    Rotten,
    Old,
    New,
    /// Of the newer epoch, and another label.
    Other,
}

const ALL: [Copy; 5] = [Copy::Absent, Copy::Rotten, Copy::Old, Copy::New, Copy::Other];

fn label_of(copy: Copy) -> Option<Label> {
    let layout = Layout::plan(DISK_BYTES, 1, 1 << 20).unwrap();
    let old = Label {
        pool: [1; 16],
        disk: [2; 16],
        slot: 0,
        slots: 1,
        home_slots: 1,
        removals: Removals::NONE,
        mirror: Mirror::ALONE,
        epoch: 4,
        layout,
    };
    match copy {
        Copy::Absent | Copy::Rotten => None,
        Copy::Old => Some(old),
        Copy::New => Some(Label { epoch: 5, ..old }),
        Copy::Other => Some(Label { epoch: 5, slots: 2, ..old }),
    }
}

/// The bytes of a disk with these copies.
fn image_of(kinds: [Copy; LABEL_COPIES]) -> Vec<u8> {
    let mut image = vec![0; DISK_BYTES as usize];
    for (copy, (kind, offset)) in kinds.into_iter().zip(label_offsets(DISK_BYTES)).enumerate() {
        let mut bytes = match label_of(kind) {
            Some(label) => label.encode(copy),
            None => label_of(Copy::Old).unwrap().encode(copy),
        };
        match kind {
            Copy::Absent => bytes.fill(0),
            Copy::Rotten => bytes[80] ^= 1,
            _ => {}
        }
        image[offset as usize..][..LABEL_BYTES].copy_from_slice(&bytes);
    }
    image
}

fn copies_of(image: &[u8]) -> LabelCopies {
    let offsets = label_offsets(DISK_BYTES).map(|offset| offset as usize);
    let mut copy = 0;
    LabelCopies(offsets.map(|offset| {
        copy += 1;
        LabelCopies::decode(copy - 1, DISK_BYTES, &image[offset..][..LABEL_BYTES])
    }))
}

/// What the table of the format says.
fn expected(kinds: [Copy; LABEL_COPIES]) -> Option<Copy> {
    let count = |wanted| kinds.iter().filter(|kind| **kind == wanted).count();
    match (count(Copy::New), count(Copy::Other), count(Copy::Old)) {
        (2, 2, _) => None,
        (2.., _, _) => Some(Copy::New),
        (_, 2.., _) => Some(Copy::Other),
        (_, _, 2..) => Some(Copy::Old),
        _ => None,
    }
}

fn every_split() -> impl Iterator<Item = [Copy; LABEL_COPIES]> {
    (0..ALL.len().pow(4)).map(|n| [1, 5, 25, 125].map(|digit| ALL[n / digit % ALL.len()]))
}

#[test]
fn every_split_of_the_copies_is_judged_as_the_format_says() {
    for kinds in every_split() {
        let copies = copies_of(&image_of(kinds));
        let verdict = copies.verdict(&"disk".into(), DISK_BYTES);
        let expected = expected(kinds).and_then(label_of);
        assert_eq!(verdict.as_ref().ok(), expected.as_ref(), "{kinds:?}: {verdict:?}");
        let no_pool = matches!(verdict, Err(PoolError::NoPool { .. }));
        assert_eq!(no_pool, kinds == [Copy::Absent; 4], "{kinds:?}: {verdict:?}");
        // Whatever is not the label that holds is named.
        let Some(label) = expected else { continue };
        for (kind, text) in kinds.into_iter().zip(copies.describe(&label)) {
            assert_eq!(text == "whole", label_of(kind) == Some(label), "{kinds:?}: {text}");
            let newer = kind == Copy::New && label.epoch == 4;
            assert_eq!(
                text.contains("never written to enough copies"),
                newer || kind == Copy::Other && label.epoch == 4
            );
        }
    }
}

/// The checker takes the same label, or complains, and names every copy that is another.
#[test]
fn the_checker_agrees_on_every_split() {
    for kinds in every_split() {
        let bytes = image_of(kinds);
        let mut read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        };
        let view = LabelView::read(&mut Image::new(DISK_BYTES, &mut read), 0);
        let mut findings = Findings::default();
        let label = view.judge(0, DISK_BYTES, &mut findings);
        let errors = findings.list().iter().filter(|one| one.severity == Severity::Error).count();
        match expected(kinds).and_then(label_of) {
            Some(wanted) => {
                assert_eq!(label, Some(wanted), "{kinds:?}");
                let others = kinds.into_iter().filter(|kind| label_of(*kind) != Some(wanted));
                assert!(findings.list().len() >= others.count(), "{kinds:?}");
            }
            None => assert!(errors > 0, "{kinds:?}"),
        }
    }
}
