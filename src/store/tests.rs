//! The store under the simulator.

mod buffered;
mod crashes;
mod exhaustive;
mod faults;
mod limits;
mod model;
mod world;
