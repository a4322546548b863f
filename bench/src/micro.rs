//! What the micro-benchmarks in `benches/` share: how subjects take turns, and what is printed.
//!
//! The machine is noisy, so a figure by itself says little. All subjects of a [`Case`] run in one
//! process and alternate: each [round](rounds) gives every subject one short window, and the order
//! rotates. A ratio is taken inside a round, between neighbours in time, and the median of the
//! rounds' ratios is the result; the least and the greatest of them tell how much it is worth.
//!
//! [`keys`] makes keys and sequences of them from a seed, before the clock runs, so that no random
//! number generator is measured. [`threads`] starts threads, lets them go together and stops them.
//!
//! The programs:
//!
//! ```text
//! cargo bench -p dynamicfs-bench --bench extent_locks -- [--rounds=N] [--window=T]
//!                                                        [--only=TEXT] [--quick] [--json]
//! cargo bench -p dynamicfs-bench --bench allocator
//! cargo bench -p dynamicfs-bench --bench checksums
//! cargo bench -p dynamicfs-bench --bench generations
//! cargo bench -p dynamicfs-bench --bench shards
//! ```

pub mod contention;
pub mod keys;
pub mod options;
pub mod rounds;
pub mod show;
pub mod threads;

pub use contention::Contention;
pub use options::Options;
pub use rounds::{Case, Figure, Side, Subject};
