//! What each thread's polls did, a tenth of a second at a time: enough for a timeline, at the price of ten events a second.

use holdup_probe_ebpf::wire;

use crate::{emit::emit, window};

/// A poll has ended that blocked its runtime, or a task of the blocking pool.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
pub unsafe fn poll_ended(
    thread: *mut wire::Thread,
    class: u32,
    is_worker: bool,
    start_ns: u64,
    at_ns: u64,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let slice = &mut (*thread).slice;
        let duration_ns = at_ns.saturating_sub(start_ns);
        if slice.start_ns == 0 {
            slice.start_ns = start_ns;
        }
        slice.is_worker |= u64::from(is_worker);
        match class {
            // Its loop has ended: no task of the pool.
            wire::CLASS_WORKER => return,
            wire::CLASS_BLOCKING => {
                slice.blocking_polls += 1;
                slice.blocking_ns += duration_ns;
            }
            _ => {
                slice.polls += 1;
                slice.busy_ns += duration_ns;
                slice.longest_ns = slice.longest_ns.max(duration_ns);
            }
        }
        if at_ns.saturating_sub(slice.start_ns) >= wire::SLICE_NS {
            tell(thread, at_ns);
        }
    }
}

/// A thread that slept outside of scheduler polls is woken, or runs, or does what only running threads do: the first that is
/// heard of it counts.
///
/// # Safety
/// `thread` is a thread's record. That thread does not run, or is the running one; or is about to sleep while another one
/// wakes it: if the end of its park before was not told either, that park may then count twice.
#[inline(always)]
pub unsafe fn unparked(thread: *mut wire::Thread) {
    // SAFETY: the caller's promise.
    unsafe {
        let since_ns = (*thread).parked_since_ns;
        (*thread).parked_since_ns = 0;
        let slice = &mut (*thread).slice;
        if since_ns == 0 || slice.start_ns == 0 {
            return;
        }
        let from_ns = since_ns.max(slice.start_ns);
        slice.parked_ns += crate::now().saturating_sub(from_ns);
    }
}

/// Tells what was done so far, and begins anew.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
pub unsafe fn tell(thread: *mut wire::Thread, at_ns: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        let slice = (*thread).slice;
        if slice.start_ns == 0 {
            return;
        }
        (*thread).slice = wire::Slice {
            start_ns: at_ns,
            polls: 0,
            busy_ns: 0,
            longest_ns: 0,
            parked_ns: 0,
            blocking_polls: 0,
            blocking_ns: 0,
            stolen: 0,
            is_worker: slice.is_worker,
        };
        if !window::includes(at_ns) {
            return;
        }
        let event = wire::WorkerSlice {
            header: wire::EventHeader {
                kind: wire::EVENT_WORKER_SLICE,
                tid: (*thread).tid,
                at_ns,
            },
            slice,
        };
        emit(&event, wire::COUNTER_LOST_OTHER);
    }
}
