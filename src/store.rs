//! The store: what lies where on the disks, and how that changes without ever being lost.

pub mod allocator;
