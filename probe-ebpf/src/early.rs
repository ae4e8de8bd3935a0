//! What is seen of a poll while it is young. Whether a poll is long is known at its end alone, and what it did at its
//! beginning counts as well. So the first few things are kept in the thread's record: told once the poll reaches the
//! sampling age or turns out to be long, dropped if it does not.

use holdup_probe_ebpf::wire;

use crate::{
    cpu,
    emit::{count, emit},
    maps::THREADS,
    polls,
};

/// Nothing.
pub const NONE: wire::Early = wire::Early {
    kind: 0,
    code: 0,
    start_ns: 0,
    at_ns: 0,
    stack: 0,
    runnable_ns: 0,
    lock: 0,
    handover_ns: 0,
    releases: 0,
    operation: 0,
    holder: wire::NO_HOLDER,
};

/// Keeps something.
///
/// # Safety
/// `thread` is a thread's record, and that thread runs, or is about to.
#[inline(always)]
pub unsafe fn keep(thread: *mut wire::Thread, early: &wire::Early) {
    // SAFETY: the caller's promise; masked below EARLY, a power of two.
    unsafe {
        let n = (*thread).early_count;
        if n as usize >= wire::EARLY {
            count(wire::COUNTER_EARLY_NOT_KEPT);
            return;
        }
        let places = (&raw mut (*thread).early).cast::<wire::Early>();
        *places.add(n as usize & (wire::EARLY - 1)) = *early;
        (*thread).early_count = n + 1;
    }
}

/// Another poll is the active one from now on.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
pub unsafe fn drop_all(thread: *mut wire::Thread) {
    // SAFETY: the caller's promise.
    unsafe { (*thread).early_count = 0 };
}

/// The active poll is old enough: what was kept of it is told.
///
/// # Safety
/// `thread` is the record under `key`, and that thread runs, or is about to.
#[inline(always)]
pub unsafe fn tell(thread: *mut wire::Thread, key: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        if (*thread).active_poll != 0 {
            tell_of(thread, key, (*thread).active_poll - 1);
        }
    }
}

/// The same of the poll at a depth, which was the active one.
///
/// # Safety
/// That of `tell`.
#[inline(always)]
pub unsafe fn tell_of(thread: *mut wire::Thread, key: u64, depth: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let kept = (*thread).early_count;
        if kept == 0 {
            return;
        }
        (*thread).early_count = 0;
        for n in 0..wire::EARLY as u32 {
            if n < kept {
                tell_one(key, depth, n);
            }
        }
    }
}

/// The n-th of what the thread under `key` has kept of its poll at a depth. A global function: five programs tell, each
/// several times.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_one(key: u64, depth: u32, n: u32) -> u64 {
    let Some(thread) = THREADS.get_ptr(key) else {
        return 0;
    };
    let thread = thread.cast_mut();
    // SAFETY: map values; masked below EARLY, a power of two.
    let (tid, poll, early) = unsafe {
        let places = (&raw const (*thread).early).cast::<wire::Early>();
        (
            (*thread).tid,
            &*polls::frame(thread, depth),
            &*places.add(n as usize & (wire::EARLY - 1)),
        )
    };
    let header = |kind| wire::EventHeader {
        kind,
        tid,
        at_ns: early.at_ns,
    };
    match early.kind {
        wire::EARLY_SAMPLE => cpu::tell(&cpu::Sample {
            tid,
            at_ns: early.at_ns,
            poll_start_ns: poll.start_ns,
            stack: early.stack,
            class: poll.class,
            site: poll.site,
            flags: 0,
        }),
        wire::EARLY_OFF_CPU => {
            let interval = wire::OffCpu {
                header: header(wire::EVENT_OFF_CPU),
                poll_start_ns: poll.start_ns,
                start_ns: early.start_ns,
                runnable_ns: early.runnable_ns,
                stack: early.stack,
                cause: early.code,
                zero: 0,
            };
            emit(&interval, wire::COUNTER_LOST_OFF_CPU);
        }
        _ => {
            let mut holders = wire::NO_HOLDERS;
            holders[0] = early.holder;
            let wait = wire::LockWait {
                header: header(wire::EVENT_LOCK_WAIT),
                start_ns: early.start_ns,
                lock: early.lock,
                poll_start_ns: poll.start_ns,
                waiter_stack: early.stack,
                task: 0,
                handover_ns: early.handover_ns,
                releases: early.releases,
                operation: early.operation,
                outcome: early.code,
                others_us: wire::LockWait::others_us(early.runnable_ns),
                holders,
            };
            emit(&wait, wire::COUNTER_LOST_LOCK_WAITS);
        }
    }
    0
}
