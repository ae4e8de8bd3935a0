//! Joins events: which parts belong to which long poll, who had to wait for it, and which waits belong to which lock.
//!
//! Pure state machines; no I/O, no clock, no strings. Events and the sums of the kernel side's maps go in,
//! [`PollAnatomy`], [`Victims`] and [`LockWaits`] come out.
#![forbid(unsafe_code)]

mod anatomy;
mod locks;
mod polls;
mod victims;

pub use anatomy::{Activity, Evidence, PollAnatomy, Share};
pub use locks::{LockKind, LockSums, LockWaits, WaitSum, by_lock};
pub use polls::{Joined, join};
pub use victims::{Victims, victims};
