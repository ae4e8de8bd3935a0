//! The clock that the kernel side stamps its records with.

use rustix::time::{ClockId, clock_gettime};

use crate::event::Timestamp;

/// Now, on `CLOCK_MONOTONIC`.
pub fn now() -> Timestamp {
    let now = clock_gettime(ClockId::Monotonic);
    Timestamp(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
