//! The on-disk format: bytes in, structs out; no I/O, no clock.
//!
//! The rustdoc of these modules is the specification: [`layout`] says where everything lies,
//! [`label`] what a disk is, [`record`] what a commit changes, [`page`] how inodes and extents
//! lie between checkpoints, [`mirror_set`] which mirrors have a block,
//! [`deed`] which domain has an allocation group, [`removals`] which
//! slots leave, [`scrub_note`] how far a scrub is, [`checksum`] how it is all summed. Numbers are
//! little-endian; what is called zero is written as zeroes and not looked at. Every structure is
//! decoded from verified bytes alone, and nothing that a disk holds makes it panic.

pub mod checksum;
pub mod deed;
pub mod disk_set;
pub mod extent;
pub mod fragment;
pub mod label;
pub mod layout;
pub mod mirror_set;
pub mod page;
pub mod record;
pub mod removals;
pub mod scrub_note;
