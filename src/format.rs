//! The on-disk format: bytes in, structs out; no I/O, no clock.

pub mod checksum;
