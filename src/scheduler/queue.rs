//! A first-in-first-out list of operations that runs through the table's own links.

use crate::concurrency::call_table::NIL;
use crate::io::op_table::OpTable;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fifo {
    head: u32,
    tail: u32,
    pub(crate) len: u32,
}

impl Default for Fifo {
    fn default() -> Self {
        Fifo { head: NIL, tail: NIL, len: 0 }
    }
}

impl Fifo {
    #[inline(always)]
    pub(crate) fn head(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    #[inline]
    pub(crate) fn push(&mut self, ops: &mut OpTable, slot: u32) {
        ops.op_mut(slot).next = NIL;
        if self.head == NIL {
            self.head = slot;
        } else {
            ops.op_mut(self.tail).next = slot;
        }
        self.tail = slot;
        self.len += 1;
    }

    pub(crate) fn push_front(&mut self, ops: &mut OpTable, slot: u32) {
        ops.op_mut(slot).next = self.head;
        if self.head == NIL {
            self.tail = slot;
        }
        self.head = slot;
        self.len += 1;
    }

    /// Takes the head out, whose successor is `next`.
    #[inline(always)]
    pub(crate) fn advance(&mut self, next: u32) {
        self.head = next;
        if next == NIL {
            self.tail = NIL;
        }
        self.len -= 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self, ops: &mut OpTable) -> Option<u32> {
        let slot = self.head()?;
        self.advance(ops.op(slot).next);
        Some(slot)
    }
}
