//! The record of a thread: found, made, and removed when the thread leaves.

use aya_ebpf::{
    bindings::bpf_pidns_info,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task, bpf_get_ns_current_pid_tgid},
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use holdup_probe_ebpf::wire;

use crate::{
    emit::{count, emit},
    locks,
    maps::{EMPTY_THREAD, TARGET, THREADS, config},
    slices,
};

/// The running process in holdup's PID namespace; None where it lives in another one.
#[inline(always)]
pub fn own_pid() -> Option<u32> {
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: `ids` is as large as the helper is told.
    let error = unsafe {
        bpf_get_ns_current_pid_tgid(
            config::pid_ns_dev(),
            config::pid_ns_ino(),
            &raw mut ids,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    (error == 0).then_some(ids.tgid)
}

/// Key of the running thread's record.
#[inline(always)]
pub fn current_key() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_get_current_task() }
}

/// The running thread's record, if it has one.
#[inline(always)]
pub fn current() -> Option<*mut wire::Thread> {
    THREADS.get_ptr_mut(current_key())
}

/// The running thread's record, made if need be. None when the map is full.
#[inline(always)]
pub fn current_or_new() -> Option<*mut wire::Thread> {
    let key = current_key();
    if let Some(record) = THREADS.get_ptr_mut(key) {
        return Some(record);
    }
    let empty = EMPTY_THREAD.get(0)?;
    if THREADS.insert(key, empty, 0).is_err() {
        count(wire::COUNTER_THREADS_NOT_TRACKED);
        return None;
    }
    let record = THREADS.get_ptr_mut(key)?;
    let ids = bpf_get_current_pid_tgid();
    let tid = ids as u32;
    // SAFETY: the pointer is the map's value; only its own thread writes it.
    unsafe {
        (*record).tid = tid;
        (*record).tgid = (ids >> 32) as u32;
    }
    if let Some(target) = TARGET.get_ptr_mut(0) {
        // SAFETY: a map value; whoever writes it writes the same: only the target's threads get a record.
        unsafe { *target = (ids >> 32) as u32 };
    }
    tell_seen(tid);
    Some(record)
}

/// Whether the running thread is one of the target's, of whatever PID namespace.
#[inline(always)]
pub fn is_of_target() -> bool {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    TARGET.get(0).is_some_and(|target| *target == tgid)
}

/// Tells the running thread's name.
#[inline(always)]
pub fn tell_seen(tid: u32) {
    let seen = wire::ThreadSeen {
        header: wire::EventHeader {
            kind: wire::EVENT_THREAD_SEEN,
            tid,
            at_ns: crate::now(),
        },
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    };
    emit(&seen, wire::COUNTER_LOST_OTHER);
}

/// A thread leaves: its record goes, before the kernel can give the same `task_struct` to another.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn thread_exit(_ctx: RawTracePointContext) -> i32 {
    if let Some(record) = current() {
        // SAFETY: the running thread's record.
        unsafe {
            locks::waiting(0_u64.wrapping_sub(u64::from((*record).lock_waits)));
            slices::tell(record, crate::now());
        }
    }
    // An error means that the thread had no record.
    let _ = THREADS.remove(current_key());
    0
}
