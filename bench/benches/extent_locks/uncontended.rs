//! What a lock and its release cost one thread when nobody else wants it.

use std::hint::black_box;
use std::time::Duration;

use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::keys::{self, Popularity, Step, Walk};
use dynamicfs_bench::micro::show::Table;
use dynamicfs_bench::micro::{Figure, Options, threads};

use crate::contender::{KeyedLocks, Mode, subjects};
use crate::field;

const FIGURES: &[Figure] = &[Figure::time("ns/pair")];

/// Keys, name and length of the sequence. One key's sequence stays in the first cache; the others
/// visit nearly all of their keys.
const FIELDS: &[(usize, &str, usize)] =
    &[(1, "1 key", 1 << 10), (1_000, "1,000 keys", 1 << 13), (100_000, "100,000 keys", 1 << 18)];

pub(crate) fn measure(options: &Options) -> Result<(), Failure> {
    let mut table = Table::new("Uncontended lock and unlock, one thread", FIGURES, options);
    for (count, name, length) in FIELDS {
        let name_of = |mode: Mode| {
            let mode = if mode == Mode::Shared { "shared" } else { "exclusive" };
            format!("uncontended/{name}/{mode}")
        };
        let modes = [Mode::Shared, Mode::Exclusive];
        if !modes.iter().any(|mode| options.wants(&name_of(*mode))) {
            continue;
        }
        let (keys, contenders) = field(*count);
        let steps = keys::steps(&keys, Popularity::Uniform, 0, *length);
        for mode in modes {
            let turn = |contender: &dyn crate::contender::Contender, window| {
                contender.uncontended(&steps, mode, window)
            };
            table.case(name_of(mode), &mut subjects(&contenders, turn))?;
        }
    }
    let keys = keys::uuids(1);
    let contenders = crate::ours::counted(&keys);
    let steps = keys::steps(&keys, Popularity::Uniform, 0, 1 << 10);
    let turn = |contender: &dyn crate::contender::Contender, window| {
        contender.uncontended(&steps, Mode::Shared, window)
    };
    table.case("uncontended/cost of counting".to_owned(), &mut subjects(&contenders, turn))
}

/// Locks and unlocks along `steps` for `window`.
pub(crate) fn run<L: KeyedLocks>(
    locks: &L,
    steps: &[Step],
    mode: Mode,
    window: Duration,
) -> Vec<f64> {
    let timed = threads::run(1, window, |thread, stop| {
        let mut walk = Walk::new(steps, thread, 1);
        stop.repeat(|| {
            let batch = walk.batch();
            // The mode is decided per batch, so that no branch stands between two locks.
            match mode {
                Mode::Shared => {
                    for step in batch {
                        locks.shared(&step.key, || black_box(()));
                    }
                }
                Mode::Exclusive => {
                    for step in batch {
                        locks.exclusive(&step.key, || black_box(()));
                    }
                }
            }
            batch.len() as u64
        })
    });
    vec![timed.ns_each(&timed.operations)]
}
