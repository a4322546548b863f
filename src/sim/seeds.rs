//! Which seeds a property is tried with, and how a failure is told.
//!
//! `DYNAMICFS_SIM_SEED=<n>` tries one seed; `DYNAMICFS_SIM_SEEDS=<n>` that many of each property
//! instead of its default, `DYNAMICFS_SIM_FIRST=<n>` beginning with another than 0.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs `property` with each seed; `test` is the test's name, for the command that repeats it.
///
/// # Panics
/// With the property's own panic, after the command was printed.
// The test harness shows what a failing test prints: this line is its purpose.
#[allow(clippy::print_stderr)]
pub fn for_each_seed(test: &str, default_count: u64, property: impl Fn(u64)) {
    let seeds = match variable("DYNAMICFS_SIM_SEED") {
        Some(seed) => seed..seed.saturating_add(1),
        None => {
            let first = variable("DYNAMICFS_SIM_FIRST").unwrap_or(0);
            first..first + variable("DYNAMICFS_SIM_SEEDS").unwrap_or(default_count)
        }
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(seed))) {
            eprintln!(
                "failed with seed {seed}; again: DYNAMICFS_SIM_SEED={seed} cargo test --lib \
                 --features sim {test}"
            );
            resume_unwind(panic);
        }
    }
}
