//! From a task's being woken, or spawned, to its poll: how long it was ready and had to wait. A waker's functions are given the
//! task's header, and so is the one that takes a new task into its runtime's list, right before it is scheduled for the first
//! time. A task that is woken while it is polled is ready at once, which is not seen. Tasks of the blocking pool are met when
//! they are given to it.
//!
//! ```text
//!   waker   --- wake_by_ref(task) ---
//!   worker  ==== another poll ====|- poll(task) ---
//!                     |<- delay ->|
//! ```

use aya_ebpf::{helpers::bpf_probe_read_user, macros::uprobe, programs::ProbeContext};
use holdup_probe_ebpf::wire;

use crate::{
    emit::{count, emit},
    maps::{SITE_TOTALS, TASKS, config},
    polls, registers, sums, threads, window,
};

/// A task is woken: `wake_by_val(header)` or `wake_by_ref(header)`.
#[uprobe]
pub fn task_woken(ctx: ProbeContext) -> u32 {
    // tokio's src/runtime/task/state.rs: running, complete, or notified already. So since 1.0.
    const NOTHING_TO_DO: u64 = 0b111;
    let header = registers::argument(&ctx, 0);
    if !is_looked_at(header) {
        return 0;
    }
    // SAFETY: the helper checks user addresses and reports a fault as an error.
    let state = unsafe { bpf_probe_read_user(header as *const u64) };
    if state.is_ok_and(|state| state & NOTHING_TO_DO == 0) {
        woken(header, true);
    }
    0
}

/// A task is spawned: `OwnedTasks::bind_inner(list, header, header)`.
#[uprobe]
pub fn task_spawned(ctx: ProbeContext) -> u32 {
    // As above: notified, and neither running nor complete.
    const MASK: u64 = 0b111;
    const NEW: u64 = 0b100;
    let header = registers::argument(&ctx, 1);
    if !is_looked_at(header) {
        return 0;
    }
    // SAFETY: the helper checks user addresses and reports a fault as an error.
    let state = unsafe { bpf_probe_read_user(header as *const u64) };
    if state.is_ok_and(|state| state & MASK == NEW) {
        woken(header, true);
        if let Some(task) = TASKS.get_ptr_mut(header) {
            // What is remembered of a task that was here before is not this one's.
            // SAFETY: a map value; whoever spawns a task is alone until it is polled.
            unsafe {
                (*task).id = 0;
                (*task).met_ns = 0;
            }
        }
    }
    0
}

/// Every so many tasks are looked at, by the address of their headers.
#[inline(always)]
fn is_looked_at(header: u64) -> bool {
    // Fibonacci hashing: headers lie at multiples of a cache line.
    let hash = (header >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    hash & u64::from(config::task_mask()) == 0
}

/// Notes that a task was woken by the running thread. It may go `into_own_queue` if the thread is a worker.
#[inline(always)]
pub fn woken(header: u64, into_own_queue: bool) {
    let at_ns = crate::now();
    let mut task = wire::Task {
        id: 0,
        met_ns: 0,
        woken_ns: at_ns,
        waker_tid: aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32,
        flags: 0,
    };
    if into_own_queue
        && let Some(thread) = threads::current()
        && polls::is_worker(thread)
    {
        task.flags = wire::DELAY_LOCAL;
    }
    match TASKS.get_ptr_mut(header) {
        // SAFETY: a map value; whoever wakes a task is alone until it is polled.
        Some(known) => unsafe {
            (*known).woken_ns = task.woken_ns;
            (*known).waker_tid = task.waker_tid;
            (*known).flags = task.flags;
        },
        None => {
            if TASKS.insert(header, task, 0).is_err() {
                count(wire::COUNTER_WAKES_NOT_STORED);
            }
        }
    }
}

/// A task that was woken is polled: sums the delay up, and tells of a long one.
///
/// A global function, of numbers and a copy: few polls come after a long delay.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn delay_ended(
    task: *const wire::Task,
    header: u64,
    site: u32,
    start_ns: u64,
) -> u64 {
    // SAFETY: a copy of a map value, or nothing.
    let Some(task) = (unsafe { task.as_ref() }) else {
        return 0;
    };
    if !window::includes(task.woken_ns) || !window::includes(start_ns) {
        return 0;
    }
    let delay_ns = start_ns.saturating_sub(task.woken_ns);
    if let Some(totals) = SITE_TOTALS.get_ptr_mut(site) {
        // SAFETY: a map value of words, aligned.
        unsafe {
            sums::add(&raw mut (*totals).delays, delay_ns);
            sums::count_log2(&raw mut (*totals).delay_log2, delay_ns);
        }
    }
    let tid = aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32;
    if task.flags & wire::DELAY_LOCAL != 0
        && task.waker_tid != tid
        && let Some(thread) = threads::current()
    {
        // SAFETY: the running thread's record.
        unsafe { (*thread).slice.stolen += 1 };
    }
    if delay_ns < config::threshold_ns() / wire::DELAY_DIVISOR || delay_ns < wire::DELAY_FLOOR_NS {
        return 0;
    }
    let event = wire::TaskDelay {
        header: wire::EventHeader {
            kind: wire::EVENT_TASK_DELAY,
            tid,
            at_ns: start_ns,
        },
        woken_ns: task.woken_ns,
        task: header,
        task_id: task.id,
        waker_tid: task.waker_tid,
        flags: task.flags,
        site,
        zero: 0,
    };
    emit(&event, wire::COUNTER_LOST_DELAYS);
    0
}
