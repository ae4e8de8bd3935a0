//! CPU samples inside polls that are already old: the frequency costs a map look-up per tick while
//! nothing is wrong.

use aya_ebpf::{macros::perf_event, programs::PerfEventContext};
use holdup_probe_ebpf::wire::{self, unwind::KIND_SAMPLE};

use crate::{
    emit::{count, emit},
    maps::config,
    polls, threads, unwind, window,
};

/// One tick of the CPU clock.
#[perf_event]
pub fn cpu_sample(_ctx: PerfEventContext) -> u32 {
    let Some(record) = threads::current() else {
        return 0;
    };
    // SAFETY: the running thread's record; a sample only reads it.
    let thread = unsafe { &*record };
    // On-CPU time inside a slow path (spinning) is part of the lock wait.
    if thread.lock_waits != 0 {
        return 0;
    }
    let Some(poll) = polls::active(thread) else {
        return 0;
    };
    // SAFETY: points into the record.
    let poll_start_ns = unsafe { (*poll).start_ns };
    let at_ns = crate::now();
    if at_ns.saturating_sub(poll_start_ns) < config::sample_after_ns()
        || !window::includes(poll_start_ns)
    {
        return 0;
    }
    count(wire::COUNTER_SAMPLES);
    let sample = wire::CpuSample {
        header: wire::EventHeader {
            kind: wire::EVENT_CPU_SAMPLE,
            tid: thread.tid,
            at_ns,
        },
        poll_start_ns,
        stack: unwind::user_stack(KIND_SAMPLE),
    };
    emit(&sample, wire::COUNTER_LOST_SAMPLES);
    0
}
