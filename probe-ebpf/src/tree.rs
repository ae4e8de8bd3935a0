//! A command and all that descends from it. What enters: the scheduler's tracepoints. What leaves: an event for
//! each program that one of them starts, and that program stopped before its first instruction, so that user
//! space can put probes in place at leisure.
//!
//! ```text
//!   holdup forks         fork               exec: SIGSTOP, event            user space: SIGCONT
//!   the command --------> child ------------------> | ... probes put in place ... | ------>
//! ```
//!
//! Members are known by the address of their `task_struct`, as threads are elsewhere: a thread that starts a
//! program keeps its own while it takes over the process's id.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_send_signal},
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap},
    programs::RawTracePointContext,
};
use holdup_probe_ebpf::wire::{
    self,
    tree::{
        EVENT_PROGRAM_STARTED, ProgramStarted, SWITCH_LAUNCHING, SWITCH_STOPPING, SWITCHES,
        TREE_COUNTERS, TREE_FORKS_OF_RECORDED, TREE_NO_ROOM, TREE_NOT_STOPPED,
        TREE_OTHER_NAMESPACE, TREE_STOPPED,
    },
};

use crate::{atomics, emit::emit_urgent, maps::config, threads};

/// Of every architecture that holdup knows.
const SIGCONT: u32 = 18;
/// The same.
const SIGSTOP: u32 = 19;

/// It runs the program that it was seen to start, or one that nobody records.
const ORDINARY: u32 = 0;
/// It runs a recorded program's code without having started a program itself.
const FORK_OF_RECORDED: u32 = 1;

// User space, which alone needs them large, says how large these are.

/// Threads of the tree.
#[map]
static TREE: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);

/// Processes that were stopped and not continued yet, and since when: what whoever survives has to continue.
#[map]
static STOPPED: HashMap<u32, u64> = HashMap::with_max_entries(1, 0);

/// Processes with a recording, set by user space.
#[map]
static RECORDED: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// Set by user space, indexed by the `SWITCH_` codes.
#[map]
static TREE_SWITCHES: Array<u32> = Array::with_max_entries(SWITCHES, 0);

/// Indexed by the `TREE_` codes.
#[map]
static TREE_COUNTS: Array<u64> = Array::with_max_entries(TREE_COUNTERS, 0);

#[inline(always)]
fn count(counter: u32) {
    if let Some(slot) = TREE_COUNTS.get_ptr_mut(counter) {
        // SAFETY: a map value.
        unsafe { atomics::add(slot, 1) };
    }
}

#[inline(always)]
fn switch(which: u32) -> u32 {
    TREE_SWITCHES.get(which).copied().unwrap_or(0)
}

/// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`; the parent is running.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn tree_fork(ctx: RawTracePointContext) -> i32 {
    let child = ctx.arg::<u64>(1);
    // SAFETY: a lookup; entries are removed by their own thread alone.
    let is_member = unsafe { TREE.get(threads::current_key()) }.is_some();
    if !is_member {
        if switch(SWITCH_LAUNCHING) == 0 || threads::own_pid() != Some(config::target_tgid()) {
            return 0;
        }
        let _ = TREE_SWITCHES.set(SWITCH_LAUNCHING, 0, 0);
    }
    let runs_recorded = match threads::own_pid() {
        // SAFETY: a lookup.
        Some(pid) => unsafe { RECORDED.get(pid) }.is_some(),
        None => false,
    };
    let state = if runs_recorded {
        FORK_OF_RECORDED
    } else {
        ORDINARY
    };
    if TREE.insert(child, state, 0).is_err() {
        count(TREE_NO_ROOM);
    }
    0
}

/// The running thread's process has got a new program; it returns to user mode next, where signals are looked at first.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn tree_exec(_ctx: RawTracePointContext) -> i32 {
    let key = threads::current_key();
    // SAFETY: a lookup; entries are removed by their own thread alone.
    if unsafe { TREE.get(key) }.is_none() {
        return 0;
    }
    let _ = TREE.insert(key, ORDINARY, 0);
    let Some(pid) = threads::own_pid() else {
        count(TREE_OTHER_NAMESPACE);
        return 0;
    };
    let _ = RECORDED.remove(pid);
    if switch(SWITCH_STOPPING) == 0 {
        return 0;
    }
    let at_ns = crate::now();
    // Remembered first: what is stopped is continued by whoever survives.
    if STOPPED.insert(pid, at_ns, 0).is_err() {
        count(TREE_NOT_STOPPED);
        return 0;
    }
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        let _ = STOPPED.remove(pid);
        count(TREE_NOT_STOPPED);
        return 0;
    }
    let started = ProgramStarted {
        header: wire::EventHeader {
            kind: EVENT_PROGRAM_STARTED,
            // SAFETY: no preconditions.
            tid: unsafe { bpf_get_current_pid_tgid() } as u32,
            at_ns,
        },
        pid,
        zero: 0,
    };
    if emit_urgent(&started, wire::COUNTER_LOST_OTHER) {
        count(TREE_STOPPED);
    } else {
        // Nobody would know of it. The signal to continue takes the one to stop back.
        // SAFETY: no preconditions.
        unsafe { bpf_send_signal(SIGCONT) };
        let _ = STOPPED.remove(pid);
        count(TREE_NOT_STOPPED);
    }
    0
}

/// A thread leaves the tree before the kernel can give its `task_struct` to another.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn tree_exit(_ctx: RawTracePointContext) -> i32 {
    let key = threads::current_key();
    // SAFETY: a lookup; entries are removed by their own thread alone.
    let Some(state) = (unsafe { TREE.get(key) }).copied() else {
        return 0;
    };
    let _ = TREE.remove(key);
    // SAFETY: no preconditions.
    let ids = unsafe { bpf_get_current_pid_tgid() };
    let is_main_thread = ids as u32 == (ids >> 32) as u32;
    if !is_main_thread {
        return 0;
    }
    if state == FORK_OF_RECORDED {
        count(TREE_FORKS_OF_RECORDED);
    }
    // Its id can be given to another process.
    if let Some(pid) = threads::own_pid() {
        let _ = STOPPED.remove(pid);
        let _ = RECORDED.remove(pid);
    }
    0
}
