//! What a hypervisor takes of a CPU while a thread believes to run on it: KVM tells its guests, for each CPU, in memory
//! that it shares with them (`struct kvm_steal_time` of arch/x86/include/uapi/asm/kvm_para.h). The kernel's own clocks
//! don't tell it apart from running, so neither can anything that is measured with them.

use aya_ebpf::{
    helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task},
    macros::map,
    maps::PerCpuArray,
};
use holdup_probe_ebpf::wire::{self, stolen::StealClock};

use crate::{polls, tasks};

/// Where to find it; set by user space before loading.
#[unsafe(no_mangle)]
static STEAL_CLOCK: StealClock = StealClock {
    is_there: 0,
    from_rq: 0,
};

/// Its address for each CPU, 0 before it was needed there.
#[map]
static STEAL_CLOCKS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The running thread's active poll runs from here on.
///
/// # Safety
/// `thread` is the record of the running thread, or of the one that runs next on this CPU.
#[inline(always)]
pub unsafe fn stretch_begins(thread: *mut wire::Thread) {
    // SAFETY: the caller's promise.
    unsafe {
        if is_there() && (*thread).active_poll != 0 {
            (*thread).stolen_mark = now() + 1;
        }
    }
}

/// The active poll no longer runs, or is about to be another one.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
pub unsafe fn stretch_ends(thread: *mut wire::Thread) {
    if !is_there() {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let mark = (*thread).stolen_mark;
        (*thread).stolen_mark = 0;
        if mark == 0 {
            return;
        }
        if let Some(poll) = polls::active(thread) {
            (*poll).stolen_ns += (now() + 1).saturating_sub(mark);
        }
    }
}

/// Constant for the verifier.
#[inline(always)]
fn is_there() -> bool {
    // SAFETY: a valid static; volatile, because the value that is compiled in is not the one that the loader puts there.
    unsafe { core::ptr::read_volatile(&raw const STEAL_CLOCK.is_there) != 0 }
}

/// How much was taken of this CPU since it was started, in nanoseconds.
#[inline(always)]
fn now() -> u64 {
    let Some(clock) = STEAL_CLOCKS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own; whoever writes it writes the same.
    unsafe {
        if *clock == 0 {
            *clock = of_this_cpu();
        }
        read(*clock)
    }
}

/// Per-CPU variables are as far from each other on one CPU as on every other, and a thread knows the run queue of the CPU
/// that it runs on, which is one.
#[inline(always)]
fn of_this_cpu() -> u64 {
    // SAFETY: no preconditions; a valid static, volatile as above.
    unsafe {
        let from_rq = core::ptr::read_volatile(&raw const STEAL_CLOCK.from_rq);
        tasks::run_queue(bpf_get_current_task()).wrapping_add(from_rq)
    }
}

#[inline(always)]
fn read(addr: u64) -> u64 {
    // SAFETY: the helper checks the address and reports a fault as an error.
    unsafe { bpf_probe_read_kernel(addr as *const u64) }.unwrap_or(0)
}
