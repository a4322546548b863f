//! One domain, from its journal to its blocks.

use crate::check::blocks::Claims;
use crate::check::digest::{InodeDigest, PoolDigest};
use crate::check::image::Image;
use crate::check::journal::{Journal, Record};
use crate::check::members::Members;
use crate::check::report::{Depth, DomainFacts, Findings, Site};
use crate::check::state::State;
use crate::check::tree::Tree;
use crate::format::extent::Place;
use crate::format::layout::EXTENT_BLOCKS;
use crate::format::record::{Body, CheckpointBody, RecordHead, is_inode_id};

/// Everything that is known of a domain, as far as it can be read.
#[derive(Clone, Debug)]
pub struct DomainView {
    /// The disks of its pool.
    pub members: Members,
    /// Its number.
    pub domain: u16,
    /// Its journal.
    pub journal: Journal,
    /// The checkpoint that counts.
    pub checkpoint: Option<(RecordHead, CheckpointBody)>,
    /// The checkpoint's pages.
    pub tree: Tree,
    /// What it holds, after the last record.
    pub state: State,
    /// Batches that were applied to what the pages hold.
    pub replayed: u64,
}

impl DomainView {
    /// Reads journal and pages, and applies the records.
    pub fn read(
        image: &mut Image<'_>,
        members: &Members,
        domain: u16,
        findings: &mut Findings,
    ) -> DomainView {
        let journal = Journal::read(image, members, domain, findings);
        let checkpoint = match journal.last {
            Some(_) => journal.checkpoint(findings),
            None => None,
        };
        let (tree, state) = match &checkpoint {
            Some((head, body)) => {
                let tree = Tree::read(image, members, domain, body, findings);
                let state = State::of_tree(domain, &tree, (head, body), findings);
                (tree, state)
            }
            None => (Tree::default(), State::default()),
        };
        let (members, replayed) = (members.clone(), 0);
        let mut view = DomainView { members, domain, journal, checkpoint, tree, state, replayed };
        view.replay(findings);
        view
    }

    fn replay(&mut self, findings: &mut Findings) {
        let Some((head, body)) = self.checkpoint else { return };
        let after = |record: &&Record| record.head.sequence > body.through;
        let site = self.journal.site(&head);
        if let Some(first) = self.journal.needed.iter().find(after) {
            let from = first.head.position.wrapping_sub(u64::from(first.head.skipped));
            let expected = format!("to replay from position {}", body.replay_from);
            let (next, through) = (first.head.sequence, body.through);
            if from != body.replay_from || next != through.saturating_add(1) {
                let found = format!("record {next} at position {from} after record {through}");
                findings.error(site, expected, found);
            }
        }
        for record in self.journal.needed.iter().filter(after) {
            let Some(Body::Changes(changes)) = &record.body else { continue };
            self.replayed += 1;
            for wrong in self.state.apply(&record.head, changes) {
                let site = self.journal.site(&record.head);
                findings.error(site, "a batch that fits what it changes", wrong);
            }
        }
    }

    /// Judges what it holds; gives the facts.
    pub fn check(
        &self,
        image: &mut Image<'_>,
        depth: Depth,
        findings: &mut Findings,
        digest: &mut PoolDigest,
    ) -> DomainFacts {
        let mut facts = DomainFacts {
            domain: self.domain,
            heads: self.journal.heads.len() as u64,
            records: self.journal.needed.len() as u64,
            last_sequence: self.journal.last.map_or(0, |last| last.sequence),
            replayed: self.replayed,
            dropped: self.journal.dropped.map(|head| head.sequence),
            pages: self.tree.pages.len() as u64,
            inodes: self.state.inode_count(),
            extents: self.state.extents.len() as u64,
            ..DomainFacts::default()
        };
        let claims = Claims::gather(self.domain, &self.tree, &self.state);
        let deeds = self.state.deeds();
        claims.judge((&self.members, &deeds), findings, &mut facts);
        if let (Some((head, body)), Some(last)) = (&self.checkpoint, &self.journal.last) {
            (facts.checkpoint_sequence, facts.through) = (head.sequence, body.through);
            self.state.judge(self.members.label(), body, last, findings);
        } else {
            let site = Site::of_domain(self.domain, "inodes and extents");
            findings.error(site, "a checkpoint to read them from", "none");
        }
        let inline = self.journal.inline_copies();
        claims.judge_data(
            image,
            (depth, &self.state, self.journal.id.disk),
            &inline,
            findings,
            &mut facts,
        );
        facts.closed = facts.replayed == 0 && facts.inline_blocks == 0 && facts.dropped.is_none();
        self.add_to(digest);
        facts
    }

    fn add_to(&self, digest: &mut PoolDigest) {
        // Who has which group is no content.
        for (id, held) in self.state.inodes.iter().filter(|(id, _)| is_inode_id(**id)) {
            let mut inode = InodeDigest::new(*id, held.record.size_bytes, &held.record.tag);
            for ((_, index), held) in self.state.extents.range((*id, 0)..=(*id, u64::MAX)) {
                let first = index.saturating_mul(EXTENT_BLOCKS as u64);
                for (block, place) in held.extent.places.iter().enumerate() {
                    if *place != Place::NOWHERE {
                        let number = first.saturating_add(block as u64);
                        inode.block(number, held.extent.checksums[block]);
                    }
                }
            }
            digest.add(&inode);
        }
    }
}
