//! Shared and exclusive locks by UUID: ours against what one would otherwise use.
//!
//! Three questions: what a lock costs when nobody else wants it ([`uncontended`]), how long the
//! lock takes from the thread that releases it to the thread that waits for it ([`hand_off`]), and
//! what many threads get done over hot and cold keys ([`many`]).
//!
//! All rivals hash with foldhash: hashbrown's own default, well kept, and fast for 16 bytes. The
//! standard library's SipHash would slow them down and flatter us. Their maps hold every key
//! before the clock starts; ours does as it does in production.
//!
//! A lock that lets two writers in, or a reader beside a writer, ends the process with a message
//! and a code that is not zero: readers check what they see, and after every window no write may
//! be missing. Both checks were tried on a planted contender that does not lock.

mod contender;
mod hand_off;
mod many;
mod ours;
mod rivals;
mod uncontended;

use std::process::ExitCode;

use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::{Options, keys};
use uuid::Uuid;

use contender::Contender;

fn main() -> ExitCode {
    let options = Options::of_this_process();
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("extent_locks: error: {failure}\nhelp: {}", failure.help());
            failure.exit_code()
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    uncontended::measure(options)?;
    hand_off::measure(options)?;
    many::measure(options)
}

/// Everybody, each with all of `count` keys in its map, and the keys.
fn field(count: usize) -> (Vec<Uuid>, Vec<Box<dyn Contender>>) {
    let keys = keys::uuids(count);
    let mut contenders = rivals::all(&keys);
    contenders.extend(ours::all(&keys));
    (keys, contenders)
}
