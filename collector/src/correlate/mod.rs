//! Joins events: which parts belong to which long poll, who had to wait for it, and which waits belong to which lock.
//!
//! Pure state machines; no I/O, no clock, no strings. Events and the sums of the kernel side's maps go in,
//! [`PollAnatomy`], [`Victims`] and [`LockWaits`] come out.
#![forbid(unsafe_code)]

mod anatomy;
mod locks;
mod polls;
mod victims;

pub use anatomy::{Activity, Evidence, HeldBy, PollAnatomy, Share};
pub use locks::{LockKind, LockSums, LockWaits, WaitSum, by_lock};
pub use polls::{Joined, join};
pub use victims::{Victims, victims};

#[cfg(test)]
use crate::event::{CodeAddr, Exactness, LongPoll, Nanos, SiteId, TaskAddr, Tid, Timestamp};

/// An exact poll of task 1 at site 0, of which nothing but its ends is known.
#[cfg(test)]
fn example_poll(tid: Tid, start: Timestamp, end: Timestamp) -> LongPoll {
    LongPoll {
        tid,
        start,
        end,
        task: TaskAddr(1),
        task_id: None,
        site: SiteId(0),
        return_addr: CodeAddr(2),
        exactness: Exactness::Exact,
        handed_off: false,
        unclassified: false,
        run_queue: Nanos::ZERO,
        sleep: Nanos::ZERO,
        lock_wait: Nanos::ZERO,
        stolen: Nanos::ZERO,
    }
}
