//! Pools that are wrong and whose checksums are right: recovery refuses them, and the checker names
//! what is wrong too; neither panics, repairs in silence, or leaves out what it cannot place.

use crate::check::domain::DomainView;
use crate::check::tests::golden::{GOLDEN, check_bytes};
use crate::check::tests::reseal::{byte_of, lying_image, put, seal_page, seal_records, view_of};
use crate::check::tree::{Group, TreePage};
use crate::check::{Depth, Severity};
use crate::format::label::Label;
use crate::format::page::PageKind;
use crate::format::record::{Body, RecordHead, RecordKind};
use crate::sim::{Random, for_each_seed};
use crate::store::recovery::RecoveryError;
use crate::store::tests::checked::consistent;
use crate::store::tests::checked::golden::{digest_through_the_store, disk_of};
use crate::store::tests::world::{OpenFailure, Setup, World};

/// Bytes of a record's head, of a checkpoint's payload, and of a page.
mod at {
    pub(super) const INCARNATION: usize = 40;
    pub(super) const TAIL: usize = 72;
    pub(super) const CHECKPOINT: usize = 80;
    pub(super) const ACCEPTED: usize = 88;
    pub(super) const THROUGH: usize = 256;
    pub(super) const REPLAY_FROM: usize = 264;
    pub(super) const NEXT_INODE: usize = 272;
    pub(super) const PAGE_SEQUENCE: usize = 16;
    pub(super) const PAGE_CONTENT: usize = 64;
    /// Number and part of the first group, four bytes each.
    pub(super) const FIRST_GROUP: usize = PAGE_CONTENT + 8;
    /// Generation of that group's first slot.
    pub(super) const FIRST_SLOT: usize = PAGE_CONTENT + 8 * 32;
}

const CLOSED: usize = 0;
const CRASHED: usize = 1;

fn setup() -> Setup {
    Setup { domains: 2, reactors: 2, ..Setup::default() }
}

fn open(bytes: &[u8], seed: u64) -> Result<World, OpenFailure> {
    World::open(&setup(), seed, vec![disk_of(bytes, &setup().disk)])
}

fn label_of(bytes: &[u8]) -> Option<Label> {
    Label::decode(0, bytes.len() as u64, bytes).ok()
}

/// A golden image to be forged, and what one domain of it holds.
struct Forgery {
    image: Vec<u8>,
    view: DomainView,
}

impl Forgery {
    fn of(golden: usize, domain: u16) -> Forgery {
        let image = GOLDEN[golden].image();
        let view = view_of(&image, &label_of(&image).unwrap(), domain);
        Forgery { image, view }
    }

    fn needed(&self) -> Vec<RecordHead> {
        self.view.journal.needed.iter().map(|record| record.head).collect()
    }

    /// Changes a number of a record.
    fn record(&mut self, head: &RecordHead, field: usize, number: u64) {
        let at = self.view.journal.id.offset(head.position) as usize;
        put(&mut self.image, at + field, number);
        seal_records(&mut self.image, &self.view.journal.id, head);
    }

    /// Pages of a kind, of level 0.
    fn pages(&self, kind: PageKind) -> Vec<TreePage> {
        let pages = self.view.tree.pages.iter().filter(|page| page.kind == Some(kind));
        pages.copied().collect()
    }

    /// Changes a page.
    fn page(&mut self, page: &TreePage, change: impl FnOnce(&mut [u8])) {
        change(&mut self.image[byte_of(page)..][..4096]);
        seal_page(&mut self.image, &self.view, page);
    }

    /// The page of level 0 of that number, and where on it an inode is.
    fn inode(&self, id: u64) -> (TreePage, usize) {
        for page in self.pages(PageKind::Inodes) {
            for place in 0..31 {
                let at = at::PAGE_CONTENT + place * 128;
                if self.image[byte_of(&page) + at..][..8] == id.to_le_bytes() {
                    return (page, at);
                }
            }
        }
        panic!("inode {id} is on no page")
    }

    /// Recovery refuses it as corrupt, in these words, and the checker finds an error.
    fn is_refused(&self, what: &str, words: &[&str]) {
        let before = check_bytes(&self.image, Depth::Metadata);
        match open(&self.image, 1) {
            Err(OpenFailure::Recovery(RecoveryError::Corrupt { domain, what: text, .. })) => {
                assert_eq!(domain, self.view.domain, "{what}: {text}");
                let named = words.iter().all(|word| text.contains(word));
                assert!(named, "{what}: {text}");
            }
            Err(other) => panic!("{what}: {other:?}"),
            Ok(_) => panic!("{what}: it was opened"),
        }
        let errors =
            before.inconsistencies.iter().filter(|finding| finding.severity == Severity::Error);
        let own = errors.filter(|finding| finding.site.domain == Some(self.view.domain));
        assert!(own.count() > 0, "{what}: the checker finds {:?}", before.inconsistencies);
    }
}

#[test]
fn a_forgery_without_a_lie_is_opened() {
    for golden in [CLOSED, CRASHED] {
        let mut forgery = Forgery::of(golden, 0);
        let head = forgery.needed()[0];
        forgery.record(&head, at::TAIL, head.tail);
        for page in forgery.view.tree.pages.clone() {
            forgery.page(&page, |_| ());
        }
        assert!(forgery.image == GOLDEN[golden].image());
        assert!(open(&forgery.image, 1).is_ok());
    }
}

/// Cause: recovery looked at sequence, position and the hash of the record before alone. Harm: it
/// opened what no writer can have written. Fix: every rule of the format is kept.
#[test]
fn a_chain_that_breaks_a_rule_is_refused() {
    for (golden, domain) in [(CLOSED, 0), (CLOSED, 1), (CRASHED, 0), (CRASHED, 1)] {
        let needed = Forgery::of(golden, domain).needed();
        let last = *needed.last().unwrap();
        let middle = needed[needed.len() / 2];
        for head in [middle, last] {
            let (tail, checkpoint) = (head.tail, head.checkpoint);
            let lies = [
                (at::ACCEPTED, head.accepted - 1, "accepts"),
                (at::ACCEPTED, head.accepted + 2, "accepts"),
                (at::CHECKPOINT, checkpoint ^ 4096, "checkpoint"),
                (at::CHECKPOINT, head.position, "checkpoint"),
                (at::TAIL, head.position, "tail"),
                (at::TAIL, tail.wrapping_sub(4096), ""),
                (at::INCARNATION, head.incarnation ^ 1, "incarnation"),
            ];
            for (field, number, word) in lies {
                let free = field == at::INCARNATION && head.kind == RecordKind::Open;
                let own = head.kind == RecordKind::Checkpoint && field == at::TAIL;
                if free || own || number > head.position {
                    continue;
                }
                // The first that is needed has no record before it that it could contradict.
                let first = head.sequence == needed[0].sequence;
                if first && field != at::ACCEPTED {
                    continue;
                }
                let mut forgery = Forgery::of(golden, domain);
                forgery.record(&head, field, number);
                let what = format!("image {golden}, {head:?}: byte {field} is {number}");
                forgery.is_refused(&what, &[word]);
            }
        }
    }
}

#[test]
fn a_checkpoint_that_breaks_a_rule_is_refused() {
    for (golden, domain) in [(CLOSED, 0), (CRASHED, 1)] {
        let (head, body) = Forgery::of(golden, domain).view.checkpoint.unwrap();
        for (field, number) in [
            (at::THROUGH, head.sequence),
            (at::THROUGH, body.through + 1),
            (at::THROUGH, body.through - 1),
            (at::REPLAY_FROM, head.position + 4096),
            (at::REPLAY_FROM, body.replay_from - 4096),
            (at::NEXT_INODE, 0),
            (at::NEXT_INODE, 1),
            (at::NEXT_INODE, u64::MAX),
        ] {
            let mut forgery = Forgery::of(golden, domain);
            forgery.record(&head, field, number);
            forgery.is_refused(&format!("image {golden}: byte {field} is {number}"), &[]);
        }
    }
}

/// Cause: what was half on pages was taken out of the table before the records were applied, and
/// nobody asked afterwards whether one had said it again. Harm: an extent or all of an inode read
/// as zeroes, or was gone, without a word. Fix: what no record explains is corruption, by name.
#[test]
fn half_extents_and_orphans_are_refused_by_name() {
    let mut seen = 0;
    for domain in 0..2 {
        let forgery = Forgery::of(CLOSED, domain);
        let seconds = |group: &&Group| group.header.part == 1;
        let Some(header) = forgery.view.tree.groups.iter().find(seconds).map(|g| g.header) else {
            continue;
        };
        let inode = header.inode;
        seen += 1;
        for (part, words) in
            [(1, "a first slot without its second"), (0, "a second slot without its first")]
        {
            let mut forgery = Forgery::of(CLOSED, domain);
            let (page, at) = forgery.place_of(inode, header.group, part);
            forgery.page(&page, |bytes| bytes[at..at + 32].fill(0));
            let owner = format!("of inode {inode}, on page ");
            forgery.is_refused(words, &["extent ", &owner, words]);
        }
        let mut forgery = Forgery::of(CLOSED, domain);
        let (page, at) = forgery.inode(inode);
        forgery.page(&page, |bytes| bytes[at..at + 128].fill(0));
        let owner = format!("of inode {inode}, on page ");
        forgery.is_refused("an orphan", &["extent ", &owner, "an inode that there is not"]);
    }
    assert!(seen > 0, "some extent of the image has a second slot");
}

impl Forgery {
    /// The page of a group, and where on it its header is.
    fn place_of(&self, inode: u64, number: u32, part: u32) -> (TreePage, usize) {
        for page in self.pages(PageKind::Extents) {
            for group in 0..8 {
                let at = at::PAGE_CONTENT + group * 32;
                let header = &self.image[byte_of(&page) + at..][..16];
                let same = header[..8] == inode.to_le_bytes()
                    && header[8..12] == number.to_le_bytes()
                    && header[12..16] == part.to_le_bytes();
                if same {
                    return (page, at);
                }
            }
        }
        panic!("group {number} of inode {inode} is on no page")
    }
}

#[test]
fn pages_that_say_what_cannot_be_are_refused() {
    for domain in 0..2 {
        let forged = || Forgery::of(CLOSED, domain);
        let (head, body) = forged().view.checkpoint.unwrap();
        let extents = &forged().view.state.extents;
        let key = *extents.keys().max_by_key(|(_, index)| *index).unwrap();
        let (page, inode) = forged().inode(key.0);
        let (id, generation, size, created) = (inode, inode + 8, inode + 16, inode + 24);
        let lies: [(usize, u64, &[&str]); 9] = [
            (size, 0, &["extent", "whose size is 0 blocks"]),
            (size, 1, &["extent", "whose size is 1 blocks"]),
            (size, u64::MAX, &["bytes, more than any"]),
            (id, body.next_inode, &["below"]),
            (id, key.0 + 1, &["extent"]),
            (generation, head.sequence, &["of record"]),
            (generation, 0, &["generation 0"]),
            (created, 0, &["was made by 0"]),
            (at::PAGE_SEQUENCE, body.through + 1, &["records up to"]),
        ];
        for (field, number, words) in lies {
            let mut forgery = forged();
            forgery.page(&page, |bytes| put(bytes, field, number));
            forgery.is_refused(&format!("byte {field} of an inode page is {number}"), words);
        }
        let extents = forged().pages(PageKind::Extents)[0];
        for (field, number, words) in [
            (at::FIRST_GROUP, 2 << 32, "part 2"),
            (at::PAGE_SEQUENCE, body.through + 1, "records up to"),
            (at::FIRST_SLOT, head.sequence, "of record"),
        ] {
            let mut forgery = forged();
            forgery.page(&extents, |bytes| put(bytes, field, number));
            forgery.is_refused(&format!("byte {field} of an extent page is {number}"), &[words]);
        }
    }
}

/// What a fuzzy checkpoint leaves is opened, and is not left a second time: an inode was deleted
/// after the page of its extents was copied and before its own.
#[test]
fn an_inode_deleted_amid_a_checkpoint_leaves_nothing_behind() {
    let mut tried = 0;
    for domain in 0..2 {
        let mut forgery = Forgery::of(CRASHED, domain);
        let through = forgery.view.checkpoint.unwrap().1.through;
        let deleted: Vec<u64> = (forgery.view.journal.needed.iter())
            .filter(|record| record.head.sequence > through)
            .filter_map(|record| match &record.body {
                Some(Body::Changes(changes)) => Some(changes.deletes.clone()),
                _ => None,
            })
            .flatten()
            .filter(|id| forgery.view.tree.inodes.iter().any(|(_, inode)| inode.id == *id))
            .collect();
        for id in deleted {
            tried += 1;
            let (page, at) = forgery.inode(id);
            forgery.page(&page, |bytes| bytes[at..at + 128].fill(0));
            let before = check_bytes(&forgery.image, Depth::Data);
            assert!(before.is_consistent(), "{:?}", before.inconsistencies);
            let mut world = open(&forgery.image, 1).unwrap();
            assert_eq!(digest_through_the_store(&mut world), before.digest);
            world.close();
            let disks = world.sim.crash(1);
            assert_eq!(consistent(&disks, "closed").digest, before.digest);
            World::open(&setup(), 2, disks).unwrap();
        }
    }
    assert!(tried > 0, "the image has a deletion after its checkpoint");
}

/// Neither panics, whatever a pool says; what recovery refuses the checker names, and what it opens
/// is what the checker sees.
#[test]
fn what_recovery_refuses_the_checker_names() {
    let original = label_of(&GOLDEN[0].image());
    let (refused, opened) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    for_each_seed("what_recovery_refuses_the_checker_names", 300, |seed| {
        let image = lying_image(&mut Random::new(seed));
        // A domain is opened with what its label says; here, with what the labels said before.
        if label_of(&image) != original {
            return;
        }
        let report = check_bytes(&image, Depth::Data);
        let metadata = check_bytes(&image, Depth::Metadata);
        match open(&image, seed) {
            Err(failure) => {
                refused.set(refused.get() + 1);
                assert!(!report.is_consistent(), "the checker finds nothing: {failure:?}");
            }
            Ok(mut world) => {
                opened.set(opened.get() + 1);
                assert!(metadata.is_consistent(), "it was opened: {:?}", metadata.inconsistencies);
                if report.is_consistent() {
                    assert_eq!(digest_through_the_store(&mut world), report.digest);
                }
                world.close();
                let disks = world.sim.crash(seed);
                if report.is_consistent() {
                    assert_eq!(consistent(&disks, "closed").digest, report.digest);
                }
            }
        }
    });
    let (refused, opened) = (refused.get(), opened.get());
    assert!(refused + opened < 100 || refused > 30 && opened > 30, "{refused} and {opened}");
}
