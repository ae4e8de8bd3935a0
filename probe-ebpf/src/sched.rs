//! Off-CPU intervals inside the active poll, from the scheduler's tracepoints.
//!
//! ```text
//!   switched out runnable:  |---------- run queue ----------|
//!   switched out asleep:    |---- sleep ----|-- run queue --|
//!                        out             woken             in
//! ```
//!
//! Kernels were met (a sandbox's) that run no program while one of some threads (the sandbox's own) is the running one: they
//! tell neither of the switch away from it, and so not of the thread that gets the CPU, nor of whom an interrupt wakes
//! meanwhile. That this happened to a thread of the target shows at the next thing that it does; when it could run and when
//! it got the CPU follows from the kernel's own account of it.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use holdup_probe_ebpf::wire::{self, unwind::KIND_OFF_CPU};

use crate::{
    early,
    emit::{count, emit, emit_urgent},
    locks,
    maps::{THREADS, config},
    polls,
    registers::saved,
    slices, stolen, tasks, threads, unwind, window,
};

/// `TASK_INTERRUPTIBLE` of include/linux/sched.h.
const INTERRUPTIBLE: u32 = 1;
/// `__TASK_STOPPED`: SIGSTOP.
const STOPPED: u32 = 4;
/// `__TASK_TRACED`.
const TRACED: u32 = 8;

/// `TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`
/// of include/trace/events/sched.h, since 5.18. `prev` is still the running thread.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn sched_switch(ctx: RawTracePointContext) -> i32 {
    let preempted = ctx.arg::<u64>(0) as u8 != 0;
    let prev_state = ctx.arg::<u64>(3) as u32;
    if let Some(record) = THREADS.get_ptr_mut(ctx.arg::<u64>(1)) {
        // SAFETY: the thread's own context switch.
        let in_slow_path = unsafe { (*record).lock_waits } != 0;
        if !in_slow_path {
            switched_out(record, ctx.arg(1), preempted || prev_state == 0, prev_state);
        } else if !preempted && prev_state & INTERRUPTIBLE != 0 {
            // Waiting for the disk (a page fault) is not interruptible.
            locks::fell_asleep(record);
        }
    }
    let next = ctx.arg::<u64>(2);
    if let Some(record) = THREADS.get_ptr_mut(next) {
        switched_in(record, next);
    }
    0
}

#[inline(always)]
fn switched_out(record: *mut wire::Thread, key: u64, runnable: bool, state: u32) {
    // SAFETY: the thread's own context switch; nobody else writes these fields but `woken_ns`, and
    // that only while `off_cpu_start_ns` is set.
    unsafe {
        let thread = &mut *record;
        // Off-CPU time inside a slow path is part of the lock wait, and not asked about.
        if thread.active_poll == 0 {
            slices::unparked(record);
            if !runnable {
                thread.parked_since_ns = crate::now();
            }
            return;
        }
        stretch_ends(record, key);
        // Before the stack is walked: who wakes the thread meanwhile does so in this interval.
        thread.woken_ns = 0;
        thread.off_cpu_run_delay_ns = tasks::run_delay_ns(key);
        thread.off_cpu_start_ns = crate::now();
        thread.off_cpu_clock_ns = tasks::run_queue_clock(key);
        thread.off_cpu_stack = unwind::user_stack(KIND_OFF_CPU);
        thread.off_cpu_runnable = u32::from(runnable);
        thread.off_cpu_cause = if runnable {
            wire::CAUSE_PREEMPTED
        } else if state & (STOPPED | TRACED) != 0 {
            // On its way back from whatever it was in.
            wire::CAUSE_UNKNOWN
        } else if thread.lock_depth != 0 {
            // No lock wait, or nobody had asked.
            wire::CAUSE_CONDVAR
        } else {
            saved::system_call_of_current()
        };
    }
}

#[inline(always)]
fn switched_in(record: *mut wire::Thread, key: u64) {
    // SAFETY: the thread is about to run, so none of its own probes can.
    unsafe {
        // By whoever woke it, if that was seen.
        slices::unparked(record);
        if (*record).off_cpu_start_ns != 0 {
            if (*record).woken_ns == 0 && (*record).off_cpu_runnable == 0 {
                woken_unseen(&mut *record, key);
            }
            back_on_cpu(key, crate::now());
            stolen::stretch_begins(record);
        }
    }
}

/// The active poll no longer runs, or is about to be another one. If the thread was off-CPU the last that was heard of it,
/// it got its CPU back unseen.
///
/// # Safety
/// `record` is the running thread's, under `key`.
#[inline(always)]
pub unsafe fn stretch_ends(record: *mut wire::Thread, key: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        if (*record).off_cpu_start_ns != 0 {
            back_on_cpu_unseen(key);
        }
        stolen::stretch_ends(record);
    }
}

/// A thread gets a CPU after a sleep, and nobody told who woke it.
#[inline(always)]
fn woken_unseen(thread: &mut wire::Thread, key: u64) {
    let (left, queued) = (thread.off_cpu_clock_ns, tasks::last_queued(key));
    if left != 0 && queued > left {
        // Its waits on other queues, if it was moved meanwhile, are in the account already.
        let slept_ns = (queued - left).saturating_sub(waited_ns(thread, key));
        thread.woken_ns = thread.off_cpu_start_ns + slept_ns;
        count(wire::COUNTER_BACK_ON_CPU_UNSEEN);
    }
}

/// How long a thread has waited on run queues since it was switched out, by the kernel's account of what is over of that.
#[inline(always)]
fn waited_ns(thread: &wire::Thread, key: u64) -> u64 {
    tasks::run_delay_ns(key).saturating_sub(thread.off_cpu_run_delay_ns)
}

/// A global function, as is the next: several programs call it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn back_on_cpu_unseen(key: u64) -> u64 {
    let Some(record) = THREADS.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: a map value, of the running thread.
    let thread = unsafe { &mut *record };
    let left_ns = thread.off_cpu_start_ns;
    let waited_ns = waited_ns(thread, key);
    // By the clock of run queues, which is not `CLOCK_MONOTONIC`, but as fast to within what adjusts that one.
    let (left, arrival) = (thread.off_cpu_clock_ns, tasks::last_arrival(key));
    let is_told = left != 0 && arrival > left;
    let at_ns = if is_told {
        left_ns + (arrival - left)
    } else {
        left_ns.max(thread.woken_ns) + waited_ns
    };
    let at_ns = at_ns.min(crate::now());
    // A wake-up behind that is another one: the thread was about to sleep again.
    if is_told && (thread.woken_ns == 0 || thread.woken_ns > at_ns) {
        thread.woken_ns = at_ns.saturating_sub(waited_ns).max(left_ns);
    }
    count(wire::COUNTER_BACK_ON_CPU_UNSEEN);
    back_on_cpu(key, at_ns)
}

/// The thread under `key` got a CPU: ends the interval.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn back_on_cpu(key: u64, at_ns: u64) -> u64 {
    let Some(record) = THREADS.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: a map value, of a thread that runs or is about to.
    unsafe {
        let start_ns = (*record).off_cpu_start_ns;
        (*record).off_cpu_start_ns = 0;
        let whole_ns = at_ns.saturating_sub(start_ns);
        let runnable_ns = if (*record).off_cpu_runnable != 0 {
            whole_ns
        } else if (*record).woken_ns >= start_ns {
            at_ns.saturating_sub((*record).woken_ns)
        } else {
            0
        };
        let Some(poll) = polls::active(record) else {
            return 0;
        };
        (*poll).run_queue_ns += runnable_ns;
        (*poll).sleep_ns += whole_ns - runnable_ns;
        let poll_start_ns = (*poll).start_ns;
        if !window::includes(poll_start_ns) {
            return 0;
        }
        if at_ns.saturating_sub(poll_start_ns) < config::sample_after_ns() {
            let kept = wire::Early {
                kind: wire::EARLY_OFF_CPU,
                code: (*record).off_cpu_cause,
                start_ns,
                at_ns,
                stack: (*record).off_cpu_stack,
                runnable_ns,
                ..early::NONE
            };
            early::keep(record, &kept);
            return 0;
        }
        early::tell(record, key);
        let interval = wire::OffCpu {
            header: wire::EventHeader {
                kind: wire::EVENT_OFF_CPU,
                tid: (*record).tid,
                at_ns,
            },
            poll_start_ns,
            start_ns,
            runnable_ns,
            stack: (*record).off_cpu_stack,
            cause: (*record).off_cpu_cause,
            zero: 0,
        };
        emit(&interval, wire::COUNTER_LOST_OFF_CPU);
    }
    0
}

/// `TP_PROTO(struct task_struct *p)`: the running thread (or an interrupt on top of it) makes `p` runnable.
///
/// Not `sched_wakeup`, which comes a moment later and maybe on another CPU: there nobody knows who woke it.
#[raw_tracepoint(tracepoint = "sched_waking")]
pub fn sched_waking(ctx: RawTracePointContext) -> i32 {
    if let Some(record) = THREADS.get_ptr_mut(ctx.arg::<u64>(0)) {
        locks::woken(record);
        // SAFETY: a map value; a waker writes these fields alone, while the thread can't run.
        unsafe {
            let thread = &mut *record;
            if thread.off_cpu_start_ns != 0 && thread.woken_ns == 0 {
                thread.woken_ns = crate::now();
            }
            slices::unparked(record);
        }
    }
    0
}

/// The running process replaced its image. Says so if it is the target.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(_ctx: RawTracePointContext) -> i32 {
    // In a container the target's id is another one there, which the helper does not tell; its threads are known
    // all the same once they were met.
    let is_target = threads::own_pid() == Some(config::target_tgid());
    if is_target || threads::current().is_some() {
        let change = wire::ProcessExec {
            header: wire::EventHeader {
                kind: wire::EVENT_PROCESS_EXEC,
                tid: bpf_get_current_pid_tgid() as u32,
                at_ns: crate::now(),
            },
        };
        emit_urgent(&change, wire::COUNTER_LOST_OTHER);
    }
    0
}
