//! The store under the simulator.

mod crashes;
mod model;
mod world;
