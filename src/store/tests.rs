//! The store under the simulator.

mod attach;
mod buffered;
mod checked;
mod copies;
mod cost;
mod crashes;
mod exhaustive;
mod faults;
mod limits;
mod mirrors;
mod model;
mod reading;
mod recoveries;
mod removal;
mod scrubbing;
mod sharers;
mod show;
mod transfers;
mod widen;
mod world;
