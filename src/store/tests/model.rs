//! A naive model of a pool, and a workload that both obey.

use std::collections::BTreeMap;

use crate::sim::Random;
use crate::store::call::{Call, Durability, Reply, Step};
use crate::store::error::{Certainty, StoreError};
use crate::store::tests::world::{Asked, World};

/// Most bytes of an inode of the workload.
const INODE_BYTES: u64 = 300_000;

/// A step, as the model keeps it.
#[derive(Clone, Debug)]
pub(super) enum ModelStep {
    Write { offset: u64, bytes: Vec<u8> },
    Zero { offset: u64, len: u64 },
    Truncate { size: u64 },
}

/// What an operation does to one inode.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Create,
    Delete(u64),
    Change(u64, Vec<ModelStep>),
}

pub(super) type Content = Vec<u8>;

/// Applies steps to a content.
pub(super) fn apply(content: &mut Content, steps: &[ModelStep]) {
    for step in steps {
        match step {
            ModelStep::Write { offset, bytes } => {
                let end = *offset as usize + bytes.len();
                if !bytes.is_empty() && content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            ModelStep::Zero { offset, len } => {
                let end = ((*offset + *len) as usize).min(content.len());
                let start = (*offset as usize).min(end);
                content[start..end].fill(0);
            }
            ModelStep::Truncate { size } => content.resize(*size as usize, 0),
        }
    }
}

/// What may be there: before an operation on its way, and after it.
#[derive(Clone, Debug)]
pub(super) struct Maybe {
    before: Option<Content>,
    after: Option<Content>,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Model {
    /// Inodes that are certainly there.
    pub(super) inodes: BTreeMap<u64, Content>,
    /// Inodes that an operation may have changed.
    unsure: BTreeMap<u64, Maybe>,
    /// Creations without an answer.
    creating: u64,
    /// Of each domain the newest commit that was acknowledged.
    pub(super) acknowledged: BTreeMap<usize, u64>,
    pub(super) committed: u64,
    pub(super) failed: u64,
    /// Nothing may fail that has room.
    pub(super) refuses_nothing: bool,
    /// Most inodes; none: 12.
    pub(super) inodes_max: Option<usize>,
    /// Where most inodes are made.
    pub(super) favourite: Option<usize>,
}

/// An operation on its way.
pub(super) struct Running {
    act: Act,
    domain: usize,
    asked: Asked,
}

impl Model {
    /// Inodes that nothing is on its way to.
    fn idle(&self) -> Vec<u64> {
        let idle = self.inodes.keys().filter(|inode| !self.unsure.contains_key(inode));
        idle.copied().collect()
    }

    /// Chooses an operation and sends it.
    pub(super) fn start(&mut self, world: &mut World, random: &mut Random) -> Option<Running> {
        let idle = self.idle();
        let act = match random.below(20) {
            _ if idle.is_empty() => Act::Create,
            0..=2 if self.inodes.len() < self.inodes_max.unwrap_or(12) => Act::Create,
            3 => Act::Delete(*random.pick(&idle)),
            _ => {
                let inode = *random.pick(&idle);
                let steps = if random.below(5) == 0 { 1 + random.below(4) } else { 1 };
                let size = self.inodes[&inode].len() as u64;
                Act::Change(inode, (0..steps).map(|_| step(size, random)).collect())
            }
        };
        let (domain, call) = match &act {
            Act::Create => {
                self.creating += 1;
                let any = random.below(u64::from(world.setup.domains)) as usize;
                let domain = self.favourite.filter(|_| random.below(8) > 0).unwrap_or(any);
                let copies = world
                    .setup
                    .copies
                    .map(|(least, most)| least + random.below(u64::from(most - least) + 1) as u16);
                (domain, Call::Create { tag: [0; 64], copies })
            }
            Act::Delete(inode) => (world.domain_of(*inode), Call::Delete { inode: *inode }),
            Act::Change(inode, steps) => {
                let (inode, durability) = (*inode, Durability::Committed);
                let steps = steps.iter().map(|step| real_step(world, step)).collect();
                (world.domain_of(inode), Call::Change { inode, steps, durability })
            }
        };
        self.note_start(&act);
        let asked = world.ask(domain, call);
        Some(Running { act, domain, asked })
    }

    fn note_start(&mut self, act: &Act) {
        let (inode, after) = match act {
            Act::Create => return,
            Act::Delete(inode) => (*inode, None),
            Act::Change(inode, steps) => {
                let mut content = self.inodes[inode].clone();
                apply(&mut content, steps);
                (*inode, Some(content))
            }
        };
        let before = self.inodes.get(&inode).cloned();
        self.unsure.insert(inode, Maybe { before, after });
    }

    /// Looks whether an operation was answered; gives it back if not.
    pub(super) fn finish(&mut self, world: &mut World, mut running: Running) -> Option<Running> {
        let Some(reply) = world.answer(&mut running.asked) else { return Some(running) };
        let inode = match (&running.act, &reply) {
            (Act::Create, Reply::Created { inode, .. }) => *inode,
            (Act::Create, _) => 0,
            (Act::Delete(inode) | Act::Change(inode, _), _) => *inode,
        };
        match reply {
            Reply::Created { committed, .. } | Reply::Changed(Some(committed)) => {
                self.committed += 1;
                let newest = self.acknowledged.entry(running.domain).or_default();
                *newest = (*newest).max(committed.sequence);
                self.settle_success(inode, &running.act);
            }
            Reply::Failed(error) => self.settle_failure(inode, &running.act, &error),
            other => panic!("{other:?}"),
        }
        None
    }

    fn settle_success(&mut self, inode: u64, act: &Act) {
        if matches!(act, Act::Create) {
            self.creating -= 1;
            let before = self.inodes.insert(inode, Vec::new());
            assert!(before.is_none(), "inode {inode} was given twice");
            return;
        }
        let maybe = self.unsure.remove(&inode).unwrap();
        match maybe.after {
            Some(content) => self.inodes.insert(inode, content),
            None => self.inodes.remove(&inode),
        };
    }

    fn settle_failure(&mut self, inode: u64, act: &Act, error: &StoreError) {
        self.failed += 1;
        let has_no_room = matches!(error, StoreError::Full { .. } | StoreError::TableFull { .. });
        assert!(!self.refuses_nothing || has_no_room, "{error}");
        // What is unknown stays so until the next opening.
        if error.certainty() == Certainty::Out {
            match act {
                Act::Create => self.creating -= 1,
                _ => drop(self.unsure.remove(&inode)),
            }
        }
    }

    /// After an opening everything that was acknowledged is there, and what was not is whole or
    /// absent. What was found is what is from then on.
    pub(super) fn check(&mut self, world: &mut World) {
        for (domain, acknowledged) in &self.acknowledged {
            let accepted = world.reports[*domain].accepted;
            assert!(accepted >= *acknowledged, "accepted {accepted}, told of {acknowledged}");
        }
        let there = world.inodes();
        for inode in &there {
            let content = read_all(world, *inode);
            match (self.unsure.remove(inode), self.inodes.get(inode)) {
                (Some(maybe), _) => {
                    let is_before = maybe.before.as_ref() == Some(&content);
                    let is_after = maybe.after.as_ref() == Some(&content);
                    assert!(is_before || is_after, "inode {inode}: {}", differs(&maybe, &content));
                }
                (None, Some(expected)) => {
                    assert_same(*inode, expected, &content);
                }
                (None, None) => {
                    assert!(self.creating > 0, "inode {inode} was never made");
                    self.creating -= 1;
                    assert!(content.is_empty());
                }
            }
            self.inodes.insert(*inode, content);
        }
        for (inode, maybe) in std::mem::take(&mut self.unsure) {
            assert!(maybe.after.is_none(), "inode {inode} is gone and was not deleted");
            self.inodes.remove(&inode);
        }
        for inode in self.inodes.keys() {
            assert!(there.contains(inode), "inode {inode} is gone");
        }
        self.creating = 0;
        self.acknowledged.clear();
    }

    /// As [`Model::check`], when nothing was left open: the same as before, exactly.
    pub(super) fn check_same(&mut self, world: &mut World) {
        assert!(self.unsure.is_empty() && self.creating == 0);
        self.check(world);
    }
}

fn assert_same(inode: u64, expected: &Content, found: &Content) {
    if expected == found {
        return;
    }
    let at = expected.iter().zip(found).position(|(a, b)| a != b);
    let lengths = (expected.len(), found.len());
    panic!("inode {inode}: lengths {lengths:?}, first difference at {at:?}");
}

fn differs(maybe: &Maybe, found: &Content) -> String {
    let at = |content: &Option<Content>| match content {
        None => "none".to_owned(),
        Some(content) => {
            let at = content.iter().zip(found).position(|(a, b)| a != b);
            format!("{} bytes, first difference at {at:?}", content.len())
        }
    };
    let (before, after) = (at(&maybe.before), at(&maybe.after));
    format!("found {} bytes; before: {before}; after: {after}", found.len())
}

pub(super) fn read_all(world: &mut World, inode: u64) -> Content {
    let size = world.size(inode).unwrap();
    let mut content = Vec::new();
    while (content.len() as u64) < size {
        let len = (size as usize - content.len()).min(128 << 10);
        content.extend(world.read(inode, content.len() as u64, len).unwrap());
    }
    content
}

fn real_step(world: &World, step: &ModelStep) -> Step {
    match step {
        ModelStep::Write { offset, bytes } => Step::Write(world.payload(*offset, bytes)),
        ModelStep::Zero { offset, len } => Step::Zero { offset: *offset, len: *len },
        ModelStep::Truncate { size } => Step::Truncate { size: *size },
    }
}

/// One step on an inode of `size` bytes.
pub(super) fn step(size: u64, random: &mut Random) -> ModelStep {
    let offset = match random.below(3) {
        0 => random.below(INODE_BYTES / 4096) * 4096,
        1 => random.below(size + 1),
        _ => random.below(INODE_BYTES),
    };
    match random.below(10) {
        0 => ModelStep::Truncate {
            size: if random.coin() { offset } else { random.below(size + 1) },
        },
        1 => ModelStep::Zero { offset, len: 1 + random.below(80_000) },
        kind => {
            let len = match kind {
                2 | 3 => 1 + random.below(40_000),
                4 => 65_536,
                5 | 6 => 1 + random.below(5000),
                _ => 4096 * (1 + random.below(3)),
            };
            let mut bytes = vec![0; len as usize];
            random.fill(&mut bytes);
            ModelStep::Write { offset, bytes }
        }
    }
}
