//! Who owns each block, and whether what lies in it is what its owner says.

use std::collections::BTreeMap;

use crate::check::image::Image;
use crate::check::journal::InlineCopy;
use crate::check::members::Members;
use crate::check::report::{Depth, DomainFacts, Findings, Site};
use crate::check::state::State;
use crate::check::tree::Tree;
use crate::format::checksum::block_checksum;
use crate::format::deed::{Deed, GroupId};
use crate::format::extent::Place;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};

/// Most blocks that are read at a time.
const RUN_BLOCKS: usize = 256;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A home of a page: level, number.
    Page(u32, u32),
    /// Data: inode and number of the block in it.
    Data(u64, u64),
}

/// A block that something refers to.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Where it is.
    pub place: Place,
    /// Who says so.
    pub owner: Owner,
    /// Of data, what it should sum to.
    pub checksum: u32,
}

/// All claims of a domain, by place.
#[derive(Clone, Debug)]
pub struct Claims {
    list: Vec<Claim>,
    domain: u16,
}

impl Claim {
    fn offset(&self) -> u64 {
        self.place.block() * BLOCK_BYTES
    }

    fn site(&self, domain: u16) -> Site {
        let what = match self.owner {
            Owner::Page(level, number) => format!("a home of page {number} of level {level}"),
            Owner::Data(inode, block) => format!("block {block} of inode {inode}"),
        };
        Site::at(domain, self.offset(), what).on(self.place.slot())
    }
}

impl Claims {
    /// Gathers them.
    pub fn gather(domain: u16, tree: &Tree, state: &State) -> Claims {
        let mut list = Vec::new();
        for (page, home) in tree.homes() {
            let place = Place::new(home.target(), home.start_block());
            list.push(Claim { place, owner: Owner::Page(page.level, page.number), checksum: 0 });
        }
        for ((inode, index), held) in &state.extents {
            let first = index.saturating_mul(EXTENT_BLOCKS as u64);
            for (block, place) in held.extent.places.iter().enumerate() {
                if !place.is_nowhere() {
                    let owner = Owner::Data(*inode, first.saturating_add(block as u64));
                    let checksum = held.extent.checksums[block];
                    list.push(Claim { place: *place, owner, checksum });
                }
            }
        }
        list.sort_by_key(|claim| (claim.place.slot(), claim.place.block(), claim.place));
        Claims { list, domain }
    }

    /// Every block has one owner, in a group that the domain has.
    pub fn judge(
        &self,
        (members, deeds): (&Members, &BTreeMap<GroupId, Deed>),
        findings: &mut Findings,
        facts: &mut DomainFacts,
    ) {
        for claim in &self.list {
            let is_page = matches!(claim.owner, Owner::Page(..));
            let is_partly = is_page && !claim.place.mirrors().is_all();
            if is_partly || !members.is_inside(self.domain, claim.place, deeds) {
                let expected = format!("a block in a group of domain {}", self.domain);
                findings.error(claim.site(self.domain), expected, format!("{:?}", claim.place));
            }
            match claim.owner {
                Owner::Page(..) => facts.page_blocks += 1,
                Owner::Data(..) => facts.data_blocks += 1,
            }
        }
        let same = |a: &Claim, b: &Claim| {
            (a.place.slot(), a.place.block()) == (b.place.slot(), b.place.block())
        };
        for claims in self.list.chunk_by(same).filter(|claims| claims.len() > 1) {
            self.judge_shared(claims, findings);
        }
        self.judge_groups(members, findings);
        facts.blocks = members.space_blocks(deeds);
        let owned = facts.page_blocks + facts.data_blocks;
        facts.free_blocks = facts.blocks.saturating_sub(owned);
    }

    /// All blocks of a group have as many copies.
    fn judge_groups(&self, members: &Members, findings: &mut Findings) {
        let mirrors = members.label().mirror.count;
        let mut known: BTreeMap<(u16, u64), u16> = BTreeMap::new();
        for claim in &self.list {
            let layout = members.layout(claim.place.slot());
            let group = layout.and_then(|layout| layout.group_of(claim.place.block()));
            let Some((group, _)) = group else { continue };
            let copies = claim.place.mirrors().copies(mirrors);
            let first = *known.entry((claim.place.slot(), group)).or_insert(copies);
            if first != copies {
                let expected = format!("{first} copies, as others of allocation group {group}");
                findings.error(claim.site(self.domain), expected, format!("{copies} copies"));
            }
        }
    }

    /// Of the claims for one block number, none is for a disk that another is for.
    fn judge_shared(&self, claims: &[Claim], findings: &mut Findings) {
        for (n, claim) in claims.iter().enumerate() {
            let mut others = claims[n + 1..].iter();
            let own = claim.place.mirrors();
            if let Some(other) = others.find(|other| other.place.mirrors().overlaps(own)) {
                let site = claim.site(self.domain);
                findings.error(site, "one owner", other.site(self.domain).what);
            }
        }
    }

    /// Counts the copies in the journal, and reads every block if that is wanted.
    pub fn judge_data(
        &self,
        image: &mut Image<'_>,
        (depth, state, home_disk): (Depth, &State, u16),
        inline: &BTreeMap<Place, InlineCopy>,
        findings: &mut Findings,
        facts: &mut DomainFacts,
    ) {
        let data = |claim: &&Claim| matches!(claim.owner, Owner::Data(..));
        let data: Vec<Claim> = self.list.iter().filter(data).copied().collect();
        let copy = |claim: &Claim| {
            inline.get(&claim.place).filter(|copy| copy.checksum == claim.checksum).copied()
        };
        facts.inline_blocks = data.iter().filter(|claim| copy(claim).is_some()).count() as u64;
        if depth == Depth::Metadata {
            return;
        }
        let mut rest = data.as_slice();
        while let Some(first) = rest.first() {
            let run = neighbours(first, rest);
            let (here, behind) = rest.split_at(run);
            rest = behind;
            let disk = first.place.target();
            let read = image.piece(disk, first.offset(), (run as u64) * BLOCK_BYTES).ok();
            for (n, claim) in here.iter().enumerate() {
                let at = n * BLOCK_BYTES as usize;
                let block = match &read {
                    Some(bytes) => Ok(bytes[at..at + BLOCK_BYTES as usize].to_vec()),
                    None => image.block(disk, claim.offset()),
                };
                let home = block.map_err(|error| error.to_string());
                let copy = copy(claim).map(|copy| (home_disk, copy));
                let content = self.content(image, claim, home, copy, findings, facts);
                if let Some(content) = content {
                    judge_end(claim, &content, state, self.domain, findings);
                }
            }
        }
    }

    /// The content of a block: that of its home if it is right, else that of the journal.
    fn content(
        &self,
        image: &mut Image<'_>,
        claim: &Claim,
        home: Result<Vec<u8>, String>,
        copy: Option<(u16, InlineCopy)>,
        findings: &mut Findings,
        facts: &mut DomainFacts,
    ) -> Option<Vec<u8>> {
        let copy = copy.and_then(|(disk, copy)| {
            let bytes = image.block(disk, copy.offset).ok()?;
            if block_checksum(&bytes) == claim.checksum {
                return Some(bytes);
            }
            let site = Site::at(self.domain, copy.offset, "a block in a record").on(disk);
            let found = format!("{:#010x}", block_checksum(&bytes));
            findings.error(site, format!("checksum {:#010x}", claim.checksum), found);
            None
        });
        let found = match home {
            Ok(bytes) if block_checksum(&bytes) == claim.checksum => return Some(bytes),
            Ok(bytes) => format!("{:#010x}", block_checksum(&bytes)),
            Err(error) => error,
        };
        match copy {
            Some(copy) => {
                facts.inline_only += 1;
                Some(copy)
            }
            None => {
                let expected = format!("checksum {:#010x}", claim.checksum);
                findings.error(claim.site(self.domain), expected, found);
                None
            }
        }
    }
}

/// How many of the first claims are for blocks one after another.
fn neighbours(first: &Claim, claims: &[Claim]) -> usize {
    let follows = |(n, claim): &(usize, &Claim)| {
        claim.place.target() == first.place.target()
            && claim.place.block() == first.place.block() + *n as u64
    };
    claims.iter().take(RUN_BLOCKS).enumerate().take_while(follows).count()
}

/// Behind an inode's end its last block is zero, so that a longer inode reads zeroes there.
fn judge_end(claim: &Claim, content: &[u8], state: &State, domain: u16, findings: &mut Findings) {
    let Owner::Data(id, block) = claim.owner else { return };
    let Some(inode) = state.inodes.get(&id) else { return };
    let size = inode.record.size_bytes;
    if size / BLOCK_BYTES != block {
        return;
    }
    let behind = content.get((size % BLOCK_BYTES) as usize..).unwrap_or(&[]);
    if behind.iter().any(|byte| *byte != 0) {
        let expected = format!("zeroes behind the inode's {size} bytes");
        findings.error(claim.site(domain), expected, "something else");
    }
}
