//! Events into the ring buffer, and counters. What does not fit is counted by kind.
//!
//! holdup is not woken for an event: it would be put in front of the very thread that wrote it, which
//! then waits for a CPU behind all that is runnable, in the middle of its poll. It looks by itself every
//! now and then, and is woken when the ring buffer fills faster than that or when it has to act.

use aya_ebpf::helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query};

use crate::{
    atomics,
    maps::{COUNTERS, EVENTS},
};

/// Adds to a counter. Atomic although the slot is the CPU's own: a uprobe program can be preempted
/// between a load and a store by another one on the same CPU.
#[inline(always)]
pub fn count_by(counter: u32, by: u64) {
    if let Some(slots) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: every caller passes one of the constants below COUNTERS.
        unsafe { atomics::add(slots.cast::<u64>().add(counter as usize), by) };
    }
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(counter: u32) {
    count_by(counter, 1);
}

/// `BPF_RB_NO_WAKEUP` of include/uapi/linux/bpf.h.
const NO_WAKEUP: u64 = 1 << 0;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 1 << 1;
/// `BPF_RB_AVAIL_DATA`: bytes that were not read yet.
const AVAILABLE: u64 = 0;
/// `BPF_RB_RING_SIZE`.
const SIZE: u64 = 1;

/// Writes an event; when there is no room, counts it under `lost` and returns false.
#[inline(always)]
pub fn emit<T>(event: &T, lost: u32) -> bool {
    // SAFETY: queries about a ring buffer map.
    let (unread, size) = unsafe {
        let ring = (&raw const EVENTS).cast_mut().cast();
        (
            bpf_ringbuf_query(ring, AVAILABLE),
            bpf_ringbuf_query(ring, SIZE),
        )
    };
    output(
        event,
        lost,
        if unread > size / 4 {
            FORCE_WAKEUP
        } else {
            NO_WAKEUP
        },
    )
}

/// The same for an event that user space has to act on at once.
#[inline(always)]
pub fn emit_urgent<T>(event: &T, lost: u32) -> bool {
    output(event, lost, FORCE_WAKEUP)
}

#[inline(always)]
fn output<T>(event: &T, lost: u32, flags: u64) -> bool {
    // SAFETY: `event` is initialised plain data of exactly this size.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            core::ptr::from_ref(event).cast_mut().cast(),
            size_of::<T>() as u64,
            flags,
        )
    };
    if result != 0 {
        count(lost);
    }
    result == 0
}
