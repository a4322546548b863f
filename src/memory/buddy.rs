//! A buddy allocator over block numbers: no memory of its own after it was made.
//!
//! Invariant: a block is at the head of a free run of `2^order` blocks exactly when its tag is
//! `FREE | order`, and then it is linked into the list of that order.

const FREE: u8 = 0x80;
const INNER: u8 = 0x7f;
const NIL: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Buddy {
    heads: Vec<u32>,
    /// Previous and next block in the free list.
    links: Vec<(u32, u32)>,
    /// `FREE | order` at the head of a free run, `order` at that of a used one, else `INNER`.
    tags: Vec<u8>,
    free_blocks: u32,
}

impl Buddy {
    /// `blocks` free blocks; runs of up to `2^order_max` can be had.
    pub(super) fn new(blocks: u32, order_max: u8) -> Buddy {
        let mut buddy = Buddy {
            heads: vec![NIL; usize::from(order_max) + 1],
            links: vec![(NIL, NIL); blocks as usize],
            tags: vec![INNER; blocks as usize],
            free_blocks: blocks,
        };
        let mut block = 0;
        while block < blocks {
            let aligned = if block == 0 { order_max } else { block.trailing_zeros() as u8 };
            let fitting = (blocks - block).ilog2() as u8;
            let order = order_max.min(aligned).min(fitting);
            buddy.link(block, order);
            block += 1 << order;
        }
        buddy
    }

    pub(super) fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    /// A run of `2^order` blocks, aligned to its own length.
    pub(super) fn take(&mut self, order: u8) -> Option<u32> {
        let found = (order..self.heads.len() as u8).find(|o| self.heads[usize::from(*o)] != NIL)?;
        let block = self.heads[usize::from(found)];
        self.unlink(block, found);
        // Give the upper halves back until the run is as small as asked.
        for half in (order..found).rev() {
            self.link(block + (1 << half), half);
        }
        self.tags[block as usize] = order;
        self.free_blocks -= 1 << order;
        Some(block)
    }

    /// Gives a run back and joins it with its free neighbours.
    pub(super) fn give(&mut self, block: u32, order: u8) {
        assert_eq!(self.tags[block as usize], order, "block {block} was not taken at this order");
        self.free_blocks += 1 << order;
        let (mut block, mut order) = (block, order);
        while usize::from(order) + 1 < self.heads.len() {
            let neighbour = block ^ (1 << order);
            if self.tags.get(neighbour as usize) != Some(&(FREE | order)) {
                break;
            }
            self.unlink(neighbour, order);
            self.tags[block.max(neighbour) as usize] = INNER;
            block = block.min(neighbour);
            order += 1;
        }
        self.link(block, order);
    }

    fn link(&mut self, block: u32, order: u8) {
        let head = self.heads[usize::from(order)];
        if head != NIL {
            self.links[head as usize].0 = block;
        }
        self.links[block as usize] = (NIL, head);
        self.heads[usize::from(order)] = block;
        self.tags[block as usize] = FREE | order;
    }

    fn unlink(&mut self, block: u32, order: u8) {
        let (previous, next) = self.links[block as usize];
        match previous {
            NIL => self.heads[usize::from(order)] = next,
            _ => self.links[previous as usize].1 = next,
        }
        if next != NIL {
            self.links[next as usize].0 = previous;
        }
        self.tags[block as usize] = INNER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_never_overlap_and_everything_comes_back(
            blocks in 1u32..700,
            steps in proptest::collection::vec((0u8..7, any::<prop::sample::Index>()), 1..300),
        ) {
            let mut buddy = Buddy::new(blocks, 6);
            let mut held: Vec<(u32, u8)> = Vec::new();
            let mut owned = vec![false; blocks as usize];
            for (order, pick) in steps {
                if order == 6 || held.len() > 40 {
                    if !held.is_empty() {
                        let (block, order) = held.swap_remove(pick.index(held.len()));
                        buddy.give(block, order);
                        owned[block as usize..][..1 << order].fill(false);
                    }
                } else if let Some(block) = buddy.take(order) {
                    prop_assert_eq!(block % (1 << order), 0);
                    prop_assert!(owned[block as usize..][..1 << order].iter().all(|o| !o));
                    owned[block as usize..][..1 << order].fill(true);
                    held.push((block, order));
                }
                let used = owned.iter().filter(|o| **o).count() as u32;
                prop_assert_eq!(buddy.free_blocks(), blocks - used);
            }
            for (block, order) in held {
                buddy.give(block, order);
            }
            // All is joined again: the largest run that ever fitted fits once more.
            let largest = blocks.ilog2().min(6) as u8;
            prop_assert!(buddy.take(largest).is_some());
        }
    }
}
