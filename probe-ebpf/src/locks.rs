//! Lock waits of threads: entry and return of parking_lot's and std's slow paths, and who released the lock:
//! parking_lot's slow unlocks, and for std, whose waiters sleep on the lock itself, who wakes one of them.
//!
//! A thread's slow paths nest: a condvar's wait takes its mutex back inside, which is a lock wait of
//! its own; a slow path inside another lock's slow path is part of that wait and not counted twice.
//!
//! Uretprobes are fine here: nothing unwinds through these functions and none of them calls back into
//! the user's code, so nobody takes a backtrace below them.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_loop},
    },
    macros::{uprobe, uretprobe},
    programs::ProbeContext,
};
use holdup_probe_ebpf::wire::{self, unwind::KIND_UPROBE};

use crate::{
    atomics, early,
    emit::{count, emit},
    holders::{self, Join, Staying, Wait},
    maps::{EMPTY_LOCK_WAIT, LOCK_WAITS, NO_EXIST, WAITING, config},
    permits, polls,
    registers::{self, saved},
    sched, scratch, stolen, sums, threads, unwind, window,
};

const DEPTH: u32 = wire::LOCK_DEPTH as u32;

/// The n-th slow path of a thread. The mask is what lets the verifier see the bound.
#[inline(always)]
fn frame(thread: *mut wire::Thread, n: u32) -> *mut wire::LockFrame {
    // SAFETY: masked below LOCK_DEPTH, a power of two.
    unsafe {
        (&raw mut (*thread).locks)
            .cast::<wire::LockFrame>()
            .add((n & (DEPTH - 1)) as usize)
    }
}

/// A slow path is entered. The cookie is a `wire::lock_cookie`.
#[uprobe]
pub fn lock_enter(ctx: ProbeContext) -> u32 {
    let start_ns = crate::now();
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let operation = wire::lock_cookie_operation(cookie);
    let Some(record) = threads::current_or_new() else {
        return 0;
    };
    // SAFETY: the running thread's record, which only this thread writes.
    unsafe {
        let thread = record;
        let stack_pointer = registers::stack_pointer(&ctx);
        (*thread).entered = registers::entered(&ctx);
        drop_left(thread, stack_pointer);
        let depth = (*thread).lock_depth;
        if depth >= DEPTH {
            count(wire::COUNTER_LOCKS_TOO_DEEP);
            return 0;
        }
        let is_condvar = operation == wire::LOCK_CONDVAR;
        // What comes now is part of the wait.
        sched::stretch_ends(thread, threads::current_key());
        let inside_another = !is_condvar && (*thread).lock_waits != 0;
        // Before the stack is walked: a preemption from here on is part of the wait and of nothing else.
        if !is_condvar {
            (*thread).lock_waits += 1;
            waiting(1);
            holders::waits(registers::argument(&ctx, 0));
        }
        // `wait_until_internal(&self, mutex, …)` gives the mutex back, and takes it again.
        let mut mutex = registers::argument(&ctx, 1);
        if !is_condvar || !permits::thread_holds(thread, mutex) {
            mutex = 0;
        }
        // A condvar's stack would tell where idle threads idle, at a price for each of their parks.
        let stack = if (is_condvar && mutex == 0) || inside_another {
            0
        } else {
            unwind::user_stack(KIND_UPROBE)
        };
        let waiter_stack = if is_condvar { 0 } else { stack };
        if mutex != 0 {
            let release_stack = permits::Stack::Taken(stack);
            permits::thread_releases(thread, mutex, wire::LOCK_MUTEX, start_ns, release_stack);
        }
        *frame(thread, depth) = wire::LockFrame {
            start_ns,
            stack_pointer,
            lock: registers::argument(&ctx, 0),
            waiter_stack,
            deadline_ns: deadline(&ctx, cookie),
            operation,
            inside_another: u32::from(inside_another),
            asleep_ns: 0,
            mutex,
        };
        (*thread).lock_depth = depth + 1;
    }
    0
}

/// The deadline that a slow path was given, 0 without one.
///
/// It is an `Option<Instant>` in two registers: seconds, and nanoseconds whose niche (a value of a
/// second and more) is `None`. Where all callers pass `None` the compiler may have removed the argument
/// and the registers hold anything: `outcome` asks for more than this before it believes in a time-out.
#[inline(always)]
fn deadline(ctx: &ProbeContext, cookie: u64) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let at = wire::lock_cookie_deadline_argument(cookie);
    if at == 0 {
        return 0;
    }
    // All three are read before the choice: out of two loads in two branches the compiler makes one at a
    // computed offset, which the verifier does not allow in a context.
    let (second, third, fourth) = (
        registers::argument(ctx, 1),
        registers::argument(ctx, 2),
        registers::argument(ctx, 3),
    );
    let (seconds, nanos) = if at == 1 {
        (second, third)
    } else {
        (third, fourth)
    };
    let nanos = nanos & 0xffff_ffff;
    if nanos >= SECOND || seconds >= u64::MAX / SECOND {
        0
    } else {
        seconds * SECOND + nanos
    }
}

/// Slow paths that were entered at the same or a lower stack pointer have been left unseen.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
unsafe fn drop_left(thread: *mut wire::Thread, stack_pointer: u64) {
    if !innermost_is_left(thread, stack_pointer) {
        return;
    }
    let mut leaving = Leaving {
        thread,
        stack_pointer,
    };
    // Not a `for`: the verifier would walk through all ways of four rounds.
    // SAFETY: the callback has the type that the helper calls, and `leaving` outlives the call.
    unsafe {
        bpf_loop(DEPTH, drop_one as *mut c_void, (&raw mut leaving).cast(), 0);
    }
}

/// What `drop_one` is given.
struct Leaving {
    thread: *mut wire::Thread,
    stack_pointer: u64,
}

/// Removes the innermost slow path if it has been left; returns 1, which ends the loop, if not.
///
/// # Safety
/// `leaving` has the running thread's record.
unsafe extern "C" fn drop_one(_round: u32, leaving: *mut Leaving) -> i64 {
    // SAFETY: the caller's promise.
    unsafe {
        let (thread, stack_pointer) = ((*leaving).thread, (*leaving).stack_pointer);
        if !innermost_is_left(thread, stack_pointer) {
            return 1;
        }
        pop(thread);
    }
    0
}

#[inline(always)]
fn innermost_is_left(thread: *mut wire::Thread, stack_pointer: u64) -> bool {
    // SAFETY: the running thread's record.
    unsafe {
        let depth = (*thread).lock_depth;
        depth != 0 && depth <= DEPTH && (*frame(thread, depth - 1)).stack_pointer <= stack_pointer
    }
}

/// Removes the innermost slow path.
///
/// # Safety
/// `thread` is the running thread's record, with a `lock_depth` of at least 1.
#[inline(always)]
unsafe fn pop(thread: *mut wire::Thread) -> wire::LockFrame {
    // SAFETY: the caller's promise.
    unsafe {
        let depth = (*thread).lock_depth - 1;
        let left = *frame(thread, depth);
        (*thread).lock_depth = depth;
        if left.operation != wire::LOCK_CONDVAR && (*thread).lock_waits != 0 {
            (*thread).lock_waits -= 1;
            waiting(u64::MAX);
            holders::waits_no_more(left.lock);
        }
        if is_asleep(left.asleep_ns) {
            let gave_up = deadline_has_passed(&left, crate::now());
            holders::woke(left.lock, left.operation, left.asleep_ns, gave_up);
        }
        left
    }
}

/// A slow path returns.
#[uretprobe]
pub fn lock_return(ctx: aya_ebpf::programs::RetProbeContext) -> u32 {
    let at_ns = crate::now();
    let ctx = ProbeContext::new(ctx.as_ptr());
    let Some(record) = threads::current() else {
        count(wire::COUNTER_LOCK_RETURN_WITHOUT_ENTRY);
        return 0;
    };
    // SAFETY: the running thread's record, which only this thread writes.
    unsafe {
        let thread = record;
        (*thread).entered = registers::returned(&ctx);
        let entry_stack_pointer = (*thread).entered.stack_pointer;
        drop_left(thread, entry_stack_pointer.wrapping_sub(1));
        let depth = (*thread).lock_depth;
        if depth == 0 || (*frame(thread, depth - 1)).stack_pointer != entry_stack_pointer {
            count(wire::COUNTER_LOCK_RETURN_WITHOUT_ENTRY);
            return 0;
        }
        let wait = pop(thread);
        if (*thread).lock_waits == 0 {
            stolen::stretch_begins(thread);
        }
        if wait.mutex != 0 {
            permits::thread_acquired(thread, wait.mutex, wire::LOCK_MUTEX, 0, at_ns);
        }
        if wait.inside_another == 0 {
            ended(thread, &wait, at_ns, registers::return_value(&ctx));
        }
    }
    0
}

/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
unsafe fn ended(thread: *mut wire::Thread, wait: &wire::LockFrame, at_ns: u64, returned: u64) {
    let recording = window::get();
    if wait.start_ns > recording.stop_ns {
        return;
    }
    // A wait that goes on behind the recording's end is cut there.
    let cut = at_ns > recording.stop_ns;
    let at_ns = if cut { recording.stop_ns } else { at_ns };
    let wait_ns = at_ns.saturating_sub(wait.start_ns);
    let recorded = window::includes(wait.start_ns);
    let is_condvar = wait.operation == wire::LOCK_CONDVAR;
    if recorded && !cut {
        count(if is_condvar {
            wire::COUNTER_CONDVAR_WAITS
        } else {
            wire::COUNTER_LOCK_WAITS
        });
    }
    let key = wire::LockWaitKey {
        lock: wait.lock,
        waiter_stack: wait.waiter_stack,
        operation: wait.operation,
        outcome: if cut {
            wire::OUTCOME_STILL_WAITING
        } else {
            outcome(wait, at_ns, returned)
        },
    };
    let is_over = recorded && !cut;
    if is_condvar {
        if is_over {
            aggregate(&key, wait_ns, None);
        }
        return;
    }
    let joined = holders::join(&Wait {
        lock: wait.lock,
        waiter_stack: wait.waiter_stack,
        start_ns: wait.start_ns,
        end_ns: at_ns,
        operation: wait.operation,
        is_recorded: is_over,
    });
    // SAFETY: claimed by this program.
    let join = joined.map(|scratch| unsafe { &(*scratch).join });
    if is_over {
        aggregate(&key, wait_ns, join);
    }
    if key.outcome == wire::OUTCOME_ACQUIRED {
        // SAFETY: the caller's promise.
        unsafe { acquired(thread, wait, at_ns) };
    }

    let mut poll_start_ns = 0;
    let mut of_poll = false;
    let mut poll_is_old = false;
    if let Some(poll) = polls::active(thread) {
        // SAFETY: points into the record.
        unsafe {
            (*poll).lock_wait_ns += wait_ns;
            poll_start_ns = (*poll).start_ns;
        }
        of_poll = window::includes(poll_start_ns);
        poll_is_old = at_ns.saturating_sub(poll_start_ns) >= config::sample_after_ns();
    }
    // SAFETY: the caller's promise.
    unsafe {
        if of_poll && poll_is_old {
            early::tell(thread, threads::current_key());
        }
        if (of_poll && poll_is_old) || (recorded && wait_ns >= config::threshold_ns()) {
            let tid = (*thread).tid;
            emit_wait(join, &key, tid, wait.start_ns, at_ns, poll_start_ns, 0);
        } else if of_poll {
            let holder = join.map_or(wire::NO_HOLDER, Join::main_holder);
            let kept = wire::Early {
                kind: wire::EARLY_LOCK_WAIT,
                code: key.outcome,
                start_ns: wait.start_ns,
                at_ns,
                stack: key.waiter_stack,
                lock: key.lock,
                handover_ns: join.map_or(0, Join::handover_ns),
                releases: join.map_or(0, |join| join.releases),
                operation: key.operation,
                holder,
                runnable_ns: join.map_or(0, |join| join.others_ns(&[holder])),
                ..early::NONE
            };
            early::keep(thread, &kept);
        }
    }
    if let Some(scratch) = joined {
        scratch::release(scratch);
    }
}

#[inline(always)]
fn emit_wait(
    join: Option<&Join>,
    key: &wire::LockWaitKey,
    tid: u32,
    start_ns: u64,
    at_ns: u64,
    poll_start_ns: u64,
    task: u64,
) {
    let event = wire::LockWait {
        header: wire::EventHeader {
            kind: wire::EVENT_LOCK_WAIT,
            tid,
            at_ns,
        },
        start_ns,
        lock: key.lock,
        poll_start_ns,
        waiter_stack: key.waiter_stack,
        task,
        handover_ns: join.map_or(0, Join::handover_ns),
        releases: join.map_or(0, |join| join.releases),
        operation: key.operation,
        outcome: key.outcome,
        others_us: wire::LockWait::others_us(join.map_or(0, |join| join.others_ns(&join.holders))),
        holders: join.map_or(wire::NO_HOLDERS, |join| join.holders),
    };
    emit(&event, wire::COUNTER_LOST_LOCK_WAITS);
}

/// A task's wait for a lock of Tokio's has ended, in a poll of the running thread: with the lock or, as `outcome` says,
/// without it.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
pub unsafe fn task_wait_ended(
    thread: *mut wire::Thread,
    wait: &wire::TaskWait,
    at_ns: u64,
    outcome: u32,
) {
    let recording = window::get();
    if !window::includes(wait.start_ns) || at_ns > recording.stop_ns {
        return;
    }
    count(wire::COUNTER_TASK_WAITS);
    let wait_ns = at_ns.saturating_sub(wait.start_ns);
    let key = wire::LockWaitKey {
        lock: wait.semaphore,
        waiter_stack: wait.waiter_stack,
        operation: wire::LOCK_TOKIO_ACQUIRE,
        outcome,
    };
    let joined = holders::join(&Wait {
        lock: key.lock,
        waiter_stack: key.waiter_stack,
        start_ns: wait.start_ns,
        end_ns: at_ns,
        operation: key.operation,
        is_recorded: true,
    });
    // SAFETY: claimed by this program.
    let join = joined.map(|scratch| unsafe { &(*scratch).join });
    aggregate(&key, wait_ns, join);
    if wait_ns >= config::threshold_ns() {
        // SAFETY: the caller's promise.
        let tid = unsafe { (*thread).tid };
        emit_wait(join, &key, tid, wait.start_ns, at_ns, 0, wait.task);
    }
    if let Some(scratch) = joined {
        scratch::release(scratch);
    }
}

/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
unsafe fn acquired(thread: *mut wire::Thread, wait: &wire::LockFrame, at_ns: u64) {
    // SAFETY: the caller's promise; masked below ACQUIRED, a power of two.
    unsafe {
        holders::acquired(thread, wait.lock, wait.operation, wait.waiter_stack, at_ns);
        if (*thread).active_poll != 0 && wire::is_exclusive(wait.operation) {
            let n = (*thread).acquisitions;
            *acquisition(thread, n) = wire::Acquired {
                lock: wait.lock,
                at_ns,
                operation: wait.operation,
                zero: 0,
            };
            (*thread).acquisitions = n + 1;
        }
    }
}

/// The n-th acquisition of a poll.
#[inline(always)]
fn acquisition(thread: *mut wire::Thread, n: u32) -> *mut wire::Acquired {
    // SAFETY: masked below ACQUIRED, a power of two.
    unsafe {
        (&raw mut (*thread).acquired)
            .cast::<wire::Acquired>()
            .add(n as usize & (wire::ACQUIRED - 1))
    }
}

/// The active poll ends. Locks that it has acquired and not released, as far as that was seen, may be free by now:
/// their fast unlock is seen by nobody. One that is still locked may have been acquired by somebody else since, so
/// that this says no more than that the guard may live on.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
pub unsafe fn poll_ended(thread: *mut wire::Thread, at_ns: u64) {
    // SAFETY: the caller's promise.
    if unsafe { (*thread).acquisitions } != 0 {
        look_at_acquisitions(at_ns);
    }
}

/// A global function: polls end in two programs, and the ways through this multiply with the acquisitions.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_at_acquisitions(at_ns: u64) -> u64 {
    let Some(thread) = threads::current() else {
        return 0;
    };
    // SAFETY: the running thread's record.
    unsafe {
        (*thread).acquisitions = 0;
        for n in 0..wire::ACQUIRED as u32 {
            let acquired = acquisition(thread, n);
            let (lock, operation) = ((*acquired).lock, (*acquired).operation);
            (*acquired).lock = 0;
            if lock != 0 && is_locked(lock, operation) && window::includes((*acquired).at_ns) {
                let key = wire::HoldKey {
                    lock,
                    acquire_stack: 0,
                    release_stack: 0,
                    operation,
                    flags: wire::HOLD_LOCKED_AT_POLL_END,
                };
                holders::add_hold(&key, at_ns.saturating_sub((*acquired).at_ns));
            }
        }
    }
    0
}

/// Whether a lock's own word says that somebody holds it exclusively.
#[inline(always)]
fn is_locked(lock: u64, operation: u32) -> bool {
    // parking_lot's raw_mutex.rs and raw_rwlock.rs; std's sys/sync/mutex/futex.rs and rwlock/futex.rs.
    const LOCKED_BIT: u32 = 0b1;
    const WRITER_BIT: u32 = 0b1000;
    const WRITE_LOCKED: u32 = (1 << 30) - 1;
    // SAFETY: the helper checks user addresses and reports a fault as an error.
    unsafe {
        match operation {
            wire::LOCK_MUTEX => bpf_probe_read_user(lock as *const u8)
                .is_ok_and(|state| u32::from(state) & LOCKED_BIT != 0),
            wire::LOCK_STD_MUTEX => {
                bpf_probe_read_user(lock as *const u32).is_ok_and(|state| state != 0)
            }
            wire::LOCK_STD_WRITE => bpf_probe_read_user(lock as *const u32)
                .is_ok_and(|state| state & WRITE_LOCKED == WRITE_LOCKED),
            _ => bpf_probe_read_user(lock as *const u32).is_ok_and(|state| state & WRITER_BIT != 0),
        }
    }
}

/// In `LockFrame::asleep_ns`: woken before it had fallen asleep.
const WOKEN_EARLY: u64 = u64::MAX;

#[inline(always)]
fn is_asleep(asleep_ns: u64) -> bool {
    asleep_ns != 0 && asleep_ns != WOKEN_EARLY
}

/// A thread is switched out asleep, with a slow path under way.
#[inline(always)]
pub fn fell_asleep(thread: *mut wire::Thread) {
    // SAFETY: the thread's own context switch.
    unsafe {
        let depth = (*thread).lock_depth;
        if depth == 0 {
            return;
        }
        let wait = frame(thread, depth - 1);
        let operation = (*wait).operation;
        if operation == wire::LOCK_CONDVAR {
            return;
        }
        // Its waker, on another CPU, was faster.
        if (*wait).asleep_ns == WOKEN_EARLY {
            (*wait).asleep_ns = 0;
        } else if (*wait).asleep_ns == 0 {
            let at_ns = crate::now();
            (*wait).asleep_ns = at_ns;
            let lock = (*wait).lock;
            holders::fell_asleep(lock, staying(lock, operation), at_ns);
        }
    }
}

/// Who has the lock and will have it until a release that will be seen: a mutex has one holder; a writer that waits for
/// readers keeps new ones out; and who waits to write or to read upgradably waits for the one that does. Asked by a thread
/// that waits for it.
#[inline(always)]
fn staying(lock: u64, operation: u32) -> Staying {
    // std's sys/sync/rwlock/futex.rs; parking_lot's raw_rwlock.rs, where a writer sets its bit before it waits for
    // readers, and not while it waits for an upgradable read.
    const MASK: u32 = (1 << 30) - 1;
    const WRITERS_WAITING: u32 = 1 << 31;
    const UPGRADABLE_BIT: u32 = 0b100;
    const WRITER_BIT: u32 = 0b1000;
    if matches!(operation, wire::LOCK_MUTEX | wire::LOCK_STD_MUTEX) {
        return Staying::All;
    }
    // SAFETY: the helper checks the user address and reports a fault as an error.
    let Ok(state) = (unsafe { bpf_probe_read_user(lock as *const u32) }) else {
        return Staying::Nobody;
    };
    let all_stay = if wire::is_std_lock(operation) {
        state & MASK == MASK || (state & MASK != 0 && state & WRITERS_WAITING != 0)
    } else {
        state & WRITER_BIT != 0
    };
    let waits_for_upgradable = matches!(
        operation,
        wire::LOCK_RW_UPGRADABLE | wire::LOCK_RW_EXCLUSIVE
    );
    if all_stay {
        Staying::All
    } else if waits_for_upgradable && state & UPGRADABLE_BIT != 0 {
        Staying::Upgradable
    } else {
        Staying::Nobody
    }
}

/// Whether the running thread is in a system call about the futex at a lock of std's: its one word, or one of its two.
#[inline(always)]
fn is_at_its_futex(lock: u64) -> bool {
    let number = if config::is_aarch64() { 98 } else { 202 };
    let registers = saved::of_current();
    let futex = saved::word(registers, saved::system_call_argument() as u64);
    saved::word(registers, saved::system_call() as u64) == number
        && futex.wrapping_sub(lock).wrapping_add(4) <= 8
}

/// A thread is woken by the running one, or by an interrupt on top of it. If the thread waits for a lock of std's and the
/// running one wakes its futex, the running one has just released the lock. A signal wakes, too.
#[inline(always)]
pub fn woken(thread: *mut wire::Thread) {
    // SAFETY: a thread that can't run; its wakers come one after the other.
    unsafe {
        let depth = (*thread).lock_depth;
        if depth == 0 || (*thread).lock_waits == 0 {
            return;
        }
        let wait = frame(thread, depth - 1);
        let asleep_ns = (*wait).asleep_ns;
        let was_asleep = is_asleep(asleep_ns);
        (*wait).asleep_ns = if was_asleep { 0 } else { WOKEN_EARLY };
        let (lock, operation) = ((*wait).lock, (*wait).operation);
        let is_by_target = (bpf_get_current_pid_tgid() >> 32) as u32 == (*thread).tgid;
        if wire::is_std_lock(operation)
            && is_by_target
            && is_at_its_futex(lock)
            && let Some(waker) = threads::current_or_new()
        {
            let stack = unwind::user_stack(KIND_UPROBE);
            forget(waker, lock);
            holders::released(waker, lock, operation, crate::now(), stack);
        }
        if was_asleep {
            let gave_up = deadline_has_passed(&*wait, crate::now());
            holders::woke(lock, operation, asleep_ns, gave_up);
        }
    }
}

/// A lock that the running thread releases is no acquisition of its poll any more.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
unsafe fn forget(thread: *mut wire::Thread, lock: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        for n in 0..wire::ACQUIRED as u32 {
            let acquired = acquisition(thread, n);
            // Without a branch, each of which would double the ways that the verifier walks through: the highest bit
            // of a number or of its negative is set, unless it is 0.
            let difference = (*acquired).lock ^ lock;
            let differs = (difference | difference.wrapping_neg()) >> 63;
            (*acquired).lock *= core::hint::black_box(differs);
        }
    }
}

/// Adds to the number of threads that are in a slow path.
#[inline(always)]
pub fn waiting(more: u64) {
    if let Some(waiting) = WAITING.get_ptr_mut(0) {
        // SAFETY: a map value.
        unsafe { atomics::add(waiting, more) };
    }
}

/// Whether any thread is in a slow path.
#[inline(always)]
pub fn anybody_waits() -> bool {
    WAITING.get(0).is_some_and(|waiting| *waiting != 0)
}

/// Whether a wait had a deadline, as far as `deadline` could tell, and that has passed.
#[inline(always)]
fn deadline_has_passed(wait: &wire::LockFrame, at_ns: u64) -> bool {
    // A deadline that lies in the past already is fine, one from long ago is garbage.
    const LONG_AGO_NS: u64 = 10_000_000_000;
    wait.deadline_ns != 0
        && wait.deadline_ns <= at_ns
        && wait.deadline_ns + LONG_AGO_NS >= wait.start_ns
}

/// How a wait ended. The slow paths return a bool in the low byte, but where no caller looks at it the
/// compiler may have dropped it. So "timed out" needs three witnesses: the function said no (a condvar
/// says yes), it had a deadline, and the deadline has just passed. Both clocks are CLOCK_MONOTONIC.
#[inline(always)]
fn outcome(wait: &wire::LockFrame, at_ns: u64, returned: u64) -> u32 {
    let timed_out_value = u64::from(wait.operation == wire::LOCK_CONDVAR);
    if returned & 0xff == timed_out_value && deadline_has_passed(wait, at_ns) {
        wire::OUTCOME_TIMED_OUT
    } else {
        wire::OUTCOME_ACQUIRED
    }
}

#[inline(always)]
fn aggregate(key: &wire::LockWaitKey, wait_ns: u64, join: Option<&Join>) {
    let totals = match LOCK_WAITS.get_ptr_mut(key) {
        Some(totals) => totals,
        None => {
            if let Some(empty) = EMPTY_LOCK_WAIT.get(0) {
                let _ = LOCK_WAITS.insert(key, empty, NO_EXIST);
            }
            let Some(totals) = LOCK_WAITS.get_ptr_mut(key) else {
                count(wire::COUNTER_LOCK_WAITS_NOT_AGGREGATED);
                return;
            };
            totals
        }
    };
    // SAFETY: a map value, aligned.
    unsafe {
        atomics::add(&raw mut (*totals).count, 1);
        atomics::add(&raw mut (*totals).total_ns, wait_ns);
        atomics::raise(&raw mut (*totals).max_ns, wait_ns);
        if wait_ns >= wire::LONG_WAIT_NS {
            atomics::add(&raw mut (*totals).long_count, 1);
            atomics::add(&raw mut (*totals).long_total_ns, wait_ns);
        }
        if let Some(join) = join
            && join.releases != 0
        {
            atomics::add(&raw mut (*totals).joined_count, 1);
            atomics::add(&raw mut (*totals).handover_ns, join.handover_ns());
        }
        sums::count_log2(&raw mut (*totals).log2_histogram, wait_ns);
    }
}

/// A lock that somebody is parked on is about to be released: this thread is the holder that they
/// waited for. The cookie is the `LOCK_` code of what kind of lock it is.
#[uprobe]
pub fn unlock_enter(ctx: ProbeContext) -> u32 {
    let Some(record) = threads::current_or_new() else {
        return 0;
    };
    // SAFETY: the context of this program.
    let operation = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let lock = registers::argument(&ctx, 0);
    let at_ns = crate::now();
    let stack = unwind::user_stack(KIND_UPROBE);
    // SAFETY: the running thread's record.
    unsafe { forget(record, lock) };
    holders::released(record, lock, operation, at_ns, stack);
    0
}
