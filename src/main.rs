//! The admin tool `dynamicfs`.
#[allow(missing_docs)]
fn main() {}
