//! The four copies of the label, and what they say together.
//!
//! The copies at the end are looked for where the copies at the start say the disk ends, so that a
//! disk that was cut off or has grown is still known; without those, at the end of the image.
//!
//! | copies that agree on the newest epoch with a quorum | the others | verdict |
//! | --- | --- | --- |
//! | 4 | | a label |
//! | 3 | zeroes, older, or newer | a label, and a note: a label was being written |
//! | 3 | anything else | a label, and an error: the copy is damaged |
//! | 2 | anything | a label, and an error: it was never written to three |
//! | fewer | | no label, and an error |

use crate::check::image::Image;
use crate::check::report::{Findings, Site};
use crate::format::label::{LABEL_BYTES, Label, LabelError, OPEN_QUORUM, WRITE_QUORUM};
use crate::format::layout::{LABEL_COPIES, LABEL_ZONE_BYTES, label_offsets};

/// What lies where a copy belongs.
#[expect(clippy::large_enum_variant, reason = "there are four of them, for a moment")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyContent {
    /// A label.
    Label(Label),
    /// Zeroes.
    Zeroes,
    /// No label, or one that cannot be used.
    Refused(LabelError),
    /// It cannot be read.
    Unreadable(String),
}

/// A copy of the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelCopy {
    /// Its number.
    pub number: usize,
    /// Where it belongs.
    pub offset: u64,
    /// What is there.
    pub content: CopyContent,
}

impl LabelCopy {
    /// The label, if it is one.
    pub fn label(&self) -> Option<&Label> {
        match &self.content {
            CopyContent::Label(label) => Some(label),
            _ => None,
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        match &self.content {
            CopyContent::Label(label) => format!("a label of epoch {}", label.epoch),
            CopyContent::Zeroes => "zeroes".into(),
            CopyContent::Refused(LabelError::Absent) => "something that is no label".into(),
            CopyContent::Refused(error) => error.to_string(),
            CopyContent::Unreadable(error) => format!("nothing that can be read: {error}"),
        }
    }
}

/// All copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelView {
    /// In their order.
    pub copies: Vec<LabelCopy>,
}

impl LabelView {
    /// Reads them.
    pub fn read(image: &mut Image<'_>, disk: u16) -> LabelView {
        let mut copies: Vec<LabelCopy> = (0..LABEL_COPIES / 2)
            .map(|copy| read_copy(image, disk, image.bytes(disk), copy))
            .collect();
        // While a disk grows its labels are of two sizes, and those at the larger end came first.
        let mut sizes = copies.iter().filter_map(|copy| Some(copy.label()?.layout.disk_bytes()));
        let fitting = sizes.clone().filter(|bytes| *bytes <= image.bytes(disk));
        let made_for = fitting.max().or_else(|| sizes.next());
        let disk_bytes = made_for.unwrap_or(image.bytes(disk));
        let tail = LABEL_COPIES / 2..LABEL_COPIES;
        copies.extend(tail.map(|copy| read_copy(image, disk, disk_bytes, copy)));
        LabelView { copies }
    }

    /// The label that holds: of the newest epoch of which enough copies agree.
    pub fn label(&self) -> Option<Label> {
        let labels = || self.copies.iter().filter_map(LabelCopy::label);
        let enough = labels().filter(|label| self.agreeing(label) >= OPEN_QUORUM);
        enough.max_by_key(|label| (label.epoch, self.agreeing(label))).copied()
    }

    /// Copies that say the same.
    pub fn agreeing(&self, label: &Label) -> usize {
        self.copies.iter().filter(|copy| copy.label() == Some(label)).count()
    }

    /// The label that holds, and what is wrong with the copies.
    pub fn judge(&self, disk: u16, image_bytes: u64, findings: &mut Findings) -> Option<Label> {
        let Some(label) = self.label() else {
            let found = self.copies.iter().map(|copy| copy.describe());
            let found = found.collect::<Vec<_>>().join("; ");
            let expected = format!("{OPEN_QUORUM} label copies that agree");
            findings.error(Site::of_disk(0, "labels").on(disk), expected, found);
            return None;
        };
        let agree = self.agreeing(&label);
        if agree < WRITE_QUORUM {
            let expected = format!("{WRITE_QUORUM} copies that agree");
            findings.error(Site::of_disk(0, "labels").on(disk), expected, format!("{agree}"));
        }
        for copy in self.copies.iter().filter(|copy| copy.label() != Some(&label)) {
            let site = Site::of_disk(copy.offset, format!("label copy {}", copy.number)).on(disk);
            let expected = format!("the label of epoch {}", label.epoch);
            let same_pool = copy.label().is_some_and(|other| other.pool == label.pool);
            let of_another_time = copy.label().is_some_and(|other| other.epoch != label.epoch);
            if copy.content == CopyContent::Zeroes || same_pool && of_another_time {
                findings.note(site, expected, copy.describe());
            } else {
                let of_same = if copy.label().is_some() { ", and not the same" } else { "" };
                findings.error(site, expected, copy.describe() + of_same);
            }
        }
        judge_content(&label, (disk, image_bytes), findings);
        Some(label)
    }
}

fn judge_content(label: &Label, (disk, image_bytes): (u16, u64), findings: &mut Findings) {
    let made_for = label.layout.disk_bytes();
    if made_for > image_bytes {
        let expected = format!("a disk of {made_for} bytes");
        findings.error(
            Site::of_disk(image_bytes, "end").on(disk),
            expected,
            format!("{image_bytes}"),
        );
    }
}

fn read_copy(image: &mut Image<'_>, disk: u16, disk_bytes: u64, number: usize) -> LabelCopy {
    if disk_bytes < 2 * LABEL_ZONE_BYTES {
        let what = format!("{disk_bytes} bytes have no room for labels");
        return LabelCopy { number, offset: 0, content: CopyContent::Unreadable(what) };
    }
    let offset = label_offsets(disk_bytes)[number];
    let content = match image.block(disk, offset) {
        Err(error) => CopyContent::Unreadable(error.to_string()),
        Ok(block) => {
            let bytes = block.get(..LABEL_BYTES).unwrap_or(&[]);
            match Label::decode(number, disk_bytes, bytes) {
                Ok(label) => CopyContent::Label(label),
                Err(_) if bytes.iter().all(|byte| *byte == 0) => CopyContent::Zeroes,
                Err(error) => CopyContent::Refused(error),
            }
        }
    };
    LabelCopy { number, offset, content }
}
