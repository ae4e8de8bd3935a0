//! CPU samples: inside polls, as far as they last, and of every thread while somebody waits for a lock, because it may
//! be the holder. Beside that every so many ticks of the clock are a grid on which each thread of the target is
//! sampled, whatever it does: a fair picture of where its CPU time goes.

use aya_ebpf::{macros::perf_event, programs::PerfEventContext};
use holdup_probe_ebpf::wire::{self, unwind::KIND_SAMPLE};

use crate::{
    early,
    emit::{count, emit},
    intern, locks,
    maps::{TICKS, config},
    polls, threads, unwind, window,
};

/// One tick of the CPU clock.
#[perf_event]
pub fn cpu_sample(_ctx: PerfEventContext) -> u32 {
    let at_ns = crate::now();
    let is_on_grid = is_on_grid();
    if !window::includes(at_ns) {
        return 0;
    }
    let Some(record) = threads::current() else {
        if is_on_grid && threads::is_of_target() {
            sample_stranger(at_ns);
        }
        return 0;
    };
    // SAFETY: the running thread's record, which its own probes may be about to change.
    let thread = unsafe { &*record };
    // On-CPU time inside a slow path (spinning) is part of the lock wait.
    let spins = thread.lock_waits != 0;
    let poll = polls::active(thread);
    let is_in_active_poll = poll.is_some();
    let (mut poll_start_ns, mut class, mut site) = (0, wire::CLASS_UNKNOWN, wire::NO_SITE);
    if let Some(poll) = poll.or_else(|| polls::innermost(thread)) {
        // SAFETY: points into the record.
        unsafe {
            (poll_start_ns, class, site) = ((*poll).start_ns, (*poll).class, (*poll).site);
        }
    }
    let of_poll = is_in_active_poll && !spins && window::includes(poll_start_ns);
    let is_old = of_poll && at_ns.saturating_sub(poll_start_ns) >= config::sample_after_ns();
    let is_wanted = is_on_grid
        || is_old
        || (!spins && (config::sample() == wire::SAMPLE_EVERYTHING || locks::anybody_waits()));
    if !is_wanted && !of_poll {
        return 0;
    }
    let is_needed = is_old || (is_wanted && !is_on_grid);
    let stack = stack(is_needed);
    // SAFETY: the running thread's record.
    unsafe {
        if !is_wanted {
            let kept = wire::Early {
                kind: wire::EARLY_SAMPLE,
                at_ns,
                stack,
                ..early::NONE
            };
            early::keep(record, &kept);
            return 0;
        }
        if is_old {
            early::tell(record, threads::current_key());
        }
    }
    tell(&Sample {
        tid: thread.tid,
        at_ns,
        // What spins in a slow path is part of the lock wait.
        poll_start_ns: if spins { 0 } else { poll_start_ns },
        stack,
        class,
        site,
        flags: if is_on_grid { wire::SAMPLE_ON_GRID } else { 0 },
    });
    0
}

/// What a sample is told with.
pub struct Sample {
    pub tid: u32,
    pub at_ns: u64,
    pub poll_start_ns: u64,
    pub stack: u64,
    pub class: u32,
    pub site: u32,
    pub flags: u32,
}

/// Tells of a sample.
#[inline(always)]
pub fn tell(sample: &Sample) {
    count(wire::COUNTER_SAMPLES);
    let event = wire::CpuSample {
        header: wire::EventHeader {
            kind: wire::EVENT_CPU_SAMPLE,
            tid: sample.tid,
            at_ns: sample.at_ns,
        },
        poll_start_ns: sample.poll_start_ns,
        stack: sample.stack,
        class: sample.class,
        site: sample.site,
        flags: sample.flags,
        zero: 0,
    };
    emit(&event, wire::COUNTER_LOST_SAMPLES);
}

/// The stack of a sample. What may be dropped does not take the room of what is sure to be wanted.
#[inline(always)]
fn stack(is_needed: bool) -> u64 {
    if is_needed || !intern::is_half_full() {
        return unwind::user_stack(KIND_SAMPLE);
    }
    count(wire::COUNTER_STACKS_NOT_STORED);
    0
}

/// A thread of the target that no probe has met. It gets no record: it may be about to end, and nobody would remove that.
#[inline(always)]
fn sample_stranger(at_ns: u64) {
    let tid = aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32;
    threads::tell_seen(tid);
    tell(&Sample {
        tid,
        at_ns,
        poll_start_ns: 0,
        stack: stack(false),
        class: wire::CLASS_UNKNOWN,
        site: wire::NO_SITE,
        flags: wire::SAMPLE_ON_GRID,
    });
}

/// Whether this tick of this CPU is one on which everything is sampled.
#[inline(always)]
fn is_on_grid() -> bool {
    let every = config::grid_ticks();
    let Some(ticks) = TICKS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own, which its clock alone writes.
    unsafe {
        *ticks += 1;
        if every == 0 || *ticks < u64::from(every) {
            return false;
        }
        *ticks = 0;
    }
    true
}
