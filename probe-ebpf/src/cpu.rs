//! CPU samples: inside polls that are already old, and of every thread while somebody waits for a lock, because it may
//! be the holder. While nothing is wrong the frequency costs a few map look-ups per tick.

use aya_ebpf::{macros::perf_event, programs::PerfEventContext};
use holdup_probe_ebpf::wire::{self, unwind::KIND_SAMPLE};

use crate::{
    emit::{count, emit},
    locks,
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
    let at_ns = crate::now();
    if !window::includes(at_ns) {
        return 0;
    }
    let (mut poll_start_ns, mut class) = (0, wire::CLASS_UNKNOWN);
    let mut is_wanted = config::sample() == wire::SAMPLE_EVERYTHING || locks::anybody_waits();
    if let Some(poll) = polls::active(thread) {
        // SAFETY: points into the record.
        unsafe {
            (poll_start_ns, class) = ((*poll).start_ns, (*poll).class);
        }
        is_wanted |= at_ns.saturating_sub(poll_start_ns) >= config::sample_after_ns()
            && window::includes(poll_start_ns);
    } else if let Some(poll) = polls::innermost(thread) {
        // SAFETY: points into the record.
        unsafe {
            (poll_start_ns, class) = ((*poll).start_ns, (*poll).class);
        }
    }
    if !is_wanted {
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
        class,
        zero: 0,
    };
    emit(&sample, wire::COUNTER_LOST_SAMPLES);
    0
}
