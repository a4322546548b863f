//! dynamicfs's own locks as a contender.

use uuid::Uuid;

use crate::contender::Contender;

/// Our contenders, ready for `keys`.
pub(crate) fn all(_keys: &[Uuid]) -> Vec<Box<dyn Contender>> {
    Vec::new()
}
