//! The checker without a store.

pub(crate) mod golden;
pub(crate) mod reseal;
