//! The bench harness `dynamicfs-bench`.
fn main() {}
