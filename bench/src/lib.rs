//! The parts of the bench harness `dynamicfs-bench`.
//!
//! A library only so that its parts can be tested from outside and documented; the binary is the
//! product. [`args`] is the command line, [`plan`] what it means, [`run`] does it, [`report`]
//! prints what came out, [`environment`] says on what machine.

pub mod args;
pub mod bare_ring;
pub mod calibrate;
pub mod compare;
pub mod compare_durable;
pub mod environment;
pub mod eta;
pub mod failure;
pub mod load;
pub mod micro;
pub mod output;
pub mod plan;
pub mod report;
pub mod run;
pub mod session;
pub mod smoke;
pub mod store;
pub mod stream;
pub mod units;
pub mod watch;
