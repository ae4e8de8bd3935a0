//! Events into the ring buffer, and counters. What does not fit is counted by kind.

use aya_ebpf::helpers::generated::bpf_ringbuf_output;

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

/// `BPF_RB_NO_WAKEUP` of `include/uapi/linux/bpf.h`.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 2;

/// Writes an event; when there is no room, counts it under `lost` and returns false.
///
/// It wakes nobody: the reader looks by itself, many times a second. A wake-up out of a probe takes the
/// CPU from the very thread that is being watched: of the workers that returned from a lock's slow path one
/// in six lost it for milliseconds.
#[inline(always)]
pub fn emit<T>(event: &T, lost: u32) -> bool {
    output(event, lost, NO_WAKEUP)
}

/// The same for an event that the reader must act on.
#[inline(always)]
pub fn emit_and_wake<T>(event: &T, lost: u32) -> bool {
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
