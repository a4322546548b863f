//! dynamicfs's generations as a contender.

use crate::contender::Contender;

/// Our contenders, each with `count` records.
pub(crate) fn all(_count: usize) -> Vec<Box<dyn Contender>> {
    Vec::new()
}
