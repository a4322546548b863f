//! What a set of records has to offer in order to take part.
//!
//! As for the locks: [`Records`] is what each participant implements and is inlined into the
//! measuring loop; [`Contender`] is the face that a list can hold.

use std::time::Duration;

use dynamicfs_bench::micro::Side;

use crate::Crowd;
use crate::record::Record;

/// Records by number, read by many while one writes.
pub(crate) trait Records: Sync {
    /// Name in the tables.
    const NAME: &'static str;
    /// Ours or a rival.
    const SIDE: Side;

    /// Version 0 of records 0 to `count`, without the last: `Record::new(index, 0)`.
    fn with_records(count: usize) -> Self;

    /// A copy of one version, whole. Tries until it has one.
    fn read(&self, index: usize) -> Record;

    /// Replaces a record. Called by one thread at a time.
    fn write(&self, index: usize, record: Record);
}

/// One participant, whatever its type.
pub(crate) trait Contender {
    fn name(&self) -> &'static str;
    fn side(&self) -> Side;
    fn run(&self, indices: &[u32], crowd: Crowd, window: Duration) -> Vec<f64>;
}

impl<R: Records> Contender for R {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn side(&self) -> Side {
        R::SIDE
    }

    fn run(&self, indices: &[u32], crowd: Crowd, window: Duration) -> Vec<f64> {
        crate::run(self, indices, crowd, window)
    }
}
