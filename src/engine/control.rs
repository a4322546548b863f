//! The control socket: a running engine is asked and told by other processes of its owner.
//!
//! One thread accepts, and each connection has one of its own, so that nobody who is slow or silent
//! holds up another; a reactor is reached only by the requests that every caller makes. All of it
//! is bounded: connections, the bytes of a request, the time it may take to come, to be answered
//! and to be taken.

pub mod client;
pub mod place;
pub mod protocol;
pub(crate) mod server;
pub mod snapshot;
pub mod verdict;

pub use client::{ControlClient, ControlError};
pub use protocol::{
    AddRequest, Answer, AttachRequest, Refusal, RefusalKind, RemoveRequest, Request, ScrubRequest,
    ScrubVerb, SyncRequest,
};
pub use snapshot::Snapshot;
