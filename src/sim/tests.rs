//! Tests on simulated disks.

mod disk;
