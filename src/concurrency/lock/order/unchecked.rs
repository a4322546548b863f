//! What release builds do instead: nothing, at no cost.

use std::task::Waker;

use crate::concurrency::lock::order::{Owner, Rank};

#[derive(Clone, Copy, Debug)]
pub(crate) struct CalledFrom;

impl CalledFrom {
    #[inline(always)]
    pub(crate) fn here() -> CalledFrom {
        CalledFrom
    }
}

impl Owner<'_> {
    #[inline(always)]
    pub(crate) fn thread() -> Self {
        Owner::Unknown
    }

    #[inline(always)]
    pub(crate) fn task(_: &Waker) -> Self {
        Owner::Unknown
    }
}

#[inline(always)]
pub(crate) fn check(_: u64, _: Owner<'_>, _: Rank, _: CalledFrom) {}

#[derive(Debug)]
pub(crate) struct Held;

impl Held {
    #[inline(always)]
    pub(crate) fn new(_: u64, _: Owner<'_>, _: Rank, _: CalledFrom) -> Held {
        Held
    }
}

#[derive(Debug)]
pub(crate) struct ShardHeld;

impl ShardHeld {
    #[inline(always)]
    pub(crate) fn new() -> ShardHeld {
        ShardHeld
    }
}
