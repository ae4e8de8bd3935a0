//! When a thread got its CPU, of which nothing told: by the kernel's own account of it (`sched_info` of
//! include/linux/sched.h). That goes by the clock of run queues, which is not `CLOCK_MONOTONIC`, but as fast to within what
//! adjusts that one: some parts in a hundred thousand.

use aya_ebpf::{macros::map, maps::Array};

use crate::tasks;

/// How far `CLOCK_MONOTONIC` was ahead of run queues' clocks, in nanoseconds, when a thread of the target lost its CPU last;
/// wraps, and is 0 before that.
#[map]
static AHEAD: Array<u64> = Array::with_max_entries(1, 0);

/// A thread of the target, by its `task`, loses its CPU now: the run queue has set its clock for that.
#[inline(always)]
pub fn departs(task: u64, at_ns: u64) {
    let clock = tasks::run_queue_clock(task);
    if clock != 0
        && let Some(ahead) = AHEAD.get_ptr_mut(0)
    {
        // SAFETY: a map value; whoever writes it writes about the same.
        unsafe { *ahead = at_ns.wrapping_sub(clock) };
    }
}

/// When a thread got the CPU that it runs on; 0 where the kernel does not tell.
#[inline(always)]
pub fn arrived_ns(task: u64) -> u64 {
    let Some(&ahead) = AHEAD.get(0) else {
        return 0;
    };
    match tasks::last_arrival(task) {
        0 => 0,
        _ if ahead == 0 => 0,
        arrival => arrival.wrapping_add(ahead),
    }
}
