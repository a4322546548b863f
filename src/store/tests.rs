//! The store under the simulator.

mod checked;
mod crashes;
mod model;
mod world;
