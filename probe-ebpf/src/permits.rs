//! Tokio's own locks: its `Mutex`, `RwLock` and `Semaphore` are permits of one `batch_semaphore`. A task acquires them by
//! polling an `Acquire`, which is pending while the task waits, on whatever thread it is polled; whoever gives permits
//! back calls `add_permits_locked`, whether anybody waits or not. So every release is seen, and every acquisition but
//! those by `try_lock`. Of these it is known that they came before anybody was in the queue: the semaphore is fair.
//!
//! ```text
//!   poll of Acquire: pending ......... (other tasks run) ......... poll of Acquire: ready     add_permits_locked
//!                    |<------------------- wait ------------------>|<------- hold ------------>|
//! ```
//!
//! The return probe on `Acquire::poll` is harmless: it calls nothing of the user's but `Waker::clone` and `drop`, and
//! nothing unwinds through it.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_user, generated::bpf_get_attach_cookie},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use holdup_probe_ebpf::wire::{self, unwind::KIND_UPROBE};

use crate::{
    atomics,
    emit::count,
    holders::{self, Held, LockState},
    locks,
    maps::{HELD, TASK_WAITS, config},
    polls, registers, threads, unwind,
};

/// `Poll<Result<(), AcquireError>>` in a register.
const READY_OK: u64 = 0;
const PENDING: u64 = 2;

/// An `Acquire` is polled. The cookie is a `wire::acquire_cookie`.
#[uprobe]
pub fn acquire_enter(ctx: ProbeContext) -> u32 {
    let start_ns = crate::now();
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(thread) = threads::current_or_new() else {
        return 0;
    };
    let acquire = registers::argument(&ctx, 0);
    let semaphore = acquire.wrapping_add(wire::acquire_cookie_semaphore(cookie));
    let queued = acquire.wrapping_add(wire::acquire_cookie_queued(cookie));
    // SAFETY: the helper checks user addresses and reports a fault as an error; the running thread's record.
    unsafe {
        (*thread).entered = registers::entered(&ctx);
        (*thread).acquire_call.acquire = 0;
        let (Ok(semaphore), Ok(queued)) = (
            bpf_probe_read_user(semaphore as *const u64),
            bpf_probe_read_user(queued as *const u8),
        ) else {
            return 0;
        };
        (*thread).acquire_call = wire::AcquireCall {
            start_ns,
            acquire,
            semaphore,
            queued: u64::from(queued),
        };
    }
    0
}

/// It answers.
#[uretprobe]
pub fn acquire_return(ctx: RetProbeContext) -> u32 {
    let at_ns = crate::now();
    let ctx = ProbeContext::new(ctx.as_ptr());
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(thread) = threads::current() else {
        return 0;
    };
    // SAFETY: the running thread's record.
    unsafe {
        (*thread).entered = registers::returned(&ctx);
        let call = (*thread).acquire_call;
        (*thread).acquire_call.acquire = 0;
        if call.acquire == 0 {
            return 0;
        }
        match registers::return_value(&ctx) & 0xff {
            // Also pending without waiting is a task whose cooperative budget is used up.
            PENDING if call.queued == 0 => {
                let queued = call
                    .acquire
                    .wrapping_add(wire::acquire_cookie_queued(cookie));
                if bpf_probe_read_user(queued as *const u8).is_ok_and(|queued| queued != 0) {
                    wait(thread, &call, cookie);
                }
            }
            PENDING => {}
            READY_OK => acquired(thread, &call, at_ns),
            // The semaphore was closed.
            _ => {
                ended(thread, &call, at_ns, wire::OUTCOME_TIMED_OUT);
                leave(&call);
            }
        }
    }
    0
}

/// A task begins to wait.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
unsafe fn wait(thread: *mut wire::Thread, call: &wire::AcquireCall, cookie: u64) {
    // Of an earlier one at this address whose end was not seen.
    leave(call);
    // SAFETY: the caller's promise.
    unsafe {
        let task = match polls::innermost(thread) {
            Some(poll) => (*poll).task,
            None => 0,
        };
        let wait = wire::TaskWait {
            start_ns: call.start_ns,
            semaphore: call.semaphore,
            waiter_stack: unwind::callers_stack(KIND_UPROBE),
            task,
            cookie,
            tid: (*thread).tid,
            zero: 0,
        };
        if TASK_WAITS.insert(call.acquire, wait, 0).is_err() {
            count(wire::COUNTER_LOCK_WAITS_NOT_AGGREGATED);
        }
        if let Some(state) = holders::known_or_new(call.semaphore) {
            atomics::add(&raw mut (*state).sleepers, 1);
            if (*state).name_stack == 0 {
                (*state).name_stack = wait.waiter_stack;
            }
            // A release meanwhile may have been for this one already.
            if (*state).released_ns < call.start_ns {
                if (*state).queued == 0 {
                    (*state).locked_since_ns = crate::now();
                }
                (*state).queued += 1;
            }
        }
    }
}

/// The wait of an `Acquire` that was queued is over. Returns its stack, 0 where it did not wait.
///
/// # Safety
/// Those of `wait`.
#[inline(always)]
unsafe fn ended(
    thread: *mut wire::Thread,
    call: &wire::AcquireCall,
    at_ns: u64,
    outcome: u32,
) -> u64 {
    let mut waiter_stack = 0;
    if call.queued != 0
        && let Some(wait) = TASK_WAITS.get_ptr(call.acquire)
    {
        // SAFETY: a map value, copied.
        let wait = unsafe { *wait };
        if wait.semaphore == call.semaphore {
            waiter_stack = wait.waiter_stack;
            // SAFETY: the caller's promise.
            unsafe { locks::task_wait_ended(thread, &wait, at_ns, outcome) };
        }
        leave(call);
    }
    waiter_stack
}

/// # Safety
/// Those of `wait`.
#[inline(always)]
unsafe fn acquired(thread: *mut wire::Thread, call: &wire::AcquireCall, at_ns: u64) {
    // SAFETY: the caller's promise.
    let waiter_stack = unsafe { ended(thread, call, at_ns, wire::OUTCOME_ACQUIRED) };
    let key = key(thread, call.semaphore);
    // SAFETY: map values, and the running thread's record.
    unsafe {
        if let Some(state) = holders::known_or_new(call.semaphore)
            && (*state).name_stack == 0
        {
            // Once for each lock, so that also one that nobody ever waits for has a name.
            (*state).name_stack = unwind::callers_stack(KIND_UPROBE);
        }
    }
    take(thread, &key, waiter_stack, at_ns, false);
}

/// Whoever the key names has acquired the lock, in the poll that the running thread is in, if it is in one. As its
/// `only` holder it has no other permit: an earlier one was given back unseen.
#[inline(always)]
fn take(
    thread: *mut wire::Thread,
    key: &wire::HeldKey,
    acquire_stack: u64,
    at_ns: u64,
    only: bool,
) {
    // SAFETY: a map value, and the running thread's record.
    unsafe {
        let poll_start_ns = match polls::innermost(thread) {
            Some(poll) => (*poll).start_ns,
            None => 0,
        };
        match HELD.get_ptr_mut(key) {
            Some(permits) => {
                (*permits).acquired_ns = at_ns;
                (*permits).poll_start_ns = poll_start_ns;
                (*permits).acquire_stack = acquire_stack;
                (*permits).count = if only { 1 } else { (*permits).count + 1 };
            }
            None => {
                let permits = wire::Held {
                    acquired_ns: at_ns,
                    poll_start_ns,
                    acquire_stack,
                    count: 1,
                };
                if HELD.insert(key, permits, 0).is_err() {
                    count(wire::COUNTER_HOLDS_NOT_STORED);
                }
            }
        }
    }
}

/// The running thread has acquired a lock whose fast paths are probed.
#[inline(always)]
pub fn thread_acquired(
    thread: *mut wire::Thread,
    lock: u64,
    operation: u32,
    acquire_stack: u64,
    at_ns: u64,
) {
    let key = key_of_thread(thread, lock);
    // An upgrade is a second one of a lock that is held.
    let only = wire::is_exclusive(operation) && operation != wire::LOCK_RW_UPGRADE;
    if wire::is_exclusive(operation)
        && let Some(state) = holders::known(lock)
    {
        // SAFETY: a map value, which the lock's holder writes.
        unsafe { (*state).acquirer = (*thread).tid };
    }
    take(thread, &key, acquire_stack, at_ns, only);
}

/// Whether the running thread was seen to acquire such a lock, and not to release it.
#[inline(always)]
pub fn thread_holds(thread: *mut wire::Thread, lock: u64) -> bool {
    HELD.get_ptr(key_of_thread(thread, lock)).is_some()
}

/// Since when the running thread, which releases such a lock, has had it; 0 where that was not seen.
///
/// # Safety
/// `thread` is the running thread's record, `state` a map value.
#[inline(always)]
pub unsafe fn thread_acquired_ns(
    thread: *mut wire::Thread,
    state: *const LockState,
    lock: u64,
    operation: u32,
) -> u64 {
    // SAFETY: the caller's promise, and a map value.
    unsafe {
        if (*state).is_watched == 0 || !is_its_own(thread, state, operation) {
            return 0;
        }
        match HELD.get_ptr(key_of_thread(thread, lock)) {
            Some(permits) => (*permits).acquired_ns,
            None => 0,
        }
    }
}

/// Not so if the guard was sent to another thread, and this is a later one that was sent here.
///
/// # Safety
/// Those of `thread_acquired_ns`.
#[inline(always)]
unsafe fn is_its_own(thread: *mut wire::Thread, state: *const LockState, operation: u32) -> bool {
    // SAFETY: the caller's promise.
    unsafe { !wire::is_exclusive(operation) || (*state).acquirer == (*thread).tid }
}

/// The stack of a release, and whether it is remembered already.
pub enum Stack {
    /// There is none yet: it is taken if the hold was long, or if somebody waits.
    NotTaken,
    /// The release is not remembered.
    Taken(u64),
    /// It is.
    Remembered(u64),
}

/// The running thread releases such a lock. False if the acquisition was not seen.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
pub unsafe fn thread_releases(
    thread: *mut wire::Thread,
    lock: u64,
    operation: u32,
    at_ns: u64,
    release_stack: Stack,
) -> bool {
    // SAFETY: the caller's promise, and map values.
    unsafe {
        let key = key_of_thread(thread, lock);
        let (Some(permits), Some(state)) = (HELD.get_ptr_mut(key), holders::known(lock)) else {
            return false;
        };
        let since_ns = (*permits).acquired_ns;
        let is_its_own = is_its_own(thread, state, operation);
        let is_long = at_ns.saturating_sub(since_ns) >= config::sample_after_ns();
        let (poll_start_ns, acquired_in_ns) = match polls::innermost(thread) {
            Some(poll) => ((*poll).start_ns, (*permits).poll_start_ns),
            None => (0, 0),
        };
        let is_across = acquired_in_ns != 0 && poll_start_ns != acquired_in_ns;
        let has_waiters = (*state).waiting != 0;
        let (release_stack, is_remembered) = match release_stack {
            Stack::Remembered(stack) => (stack, true),
            Stack::Taken(stack) => (stack, false),
            Stack::NotTaken if is_long || is_across || has_waiters => {
                (unwind::user_stack(KIND_UPROBE), false)
            }
            Stack::NotTaken => (0, false),
        };
        // Where nobody is parked yet no slow unlock tells of it.
        if has_waiters && !is_remembered {
            let acquired_ns = if is_its_own { since_ns } else { 0 };
            let known_ns = holders::known_since_ns(state, operation, acquired_ns, at_ns);
            holders::remember(state, at_ns, known_ns, release_stack, (*thread).tid);
        }
        // Whoever is woken by this release has nothing to add.
        (*state).locked_since_ns = 0;
        let is_only = (*permits).count == 1;
        let hold = Held {
            lock,
            since_ns,
            at_most_ns: if is_only && is_its_own {
                at_ns.saturating_sub(since_ns)
            } else {
                0
            },
            acquire_stack: (*permits).acquire_stack,
            name_stack: (*state).name_stack,
            release_stack,
            operation,
            flags: u32::from(is_only && is_its_own) * wire::HOLD_EXACT
                + u32::from(is_across) * wire::HOLD_ACROSS_AWAIT,
        };
        if is_only {
            let _ = HELD.remove(key);
        } else {
            (*permits).count -= 1;
        }
        holders::ended(&hold, at_ns);
        true
    }
}

/// The `Acquire` does not wait any more.
#[inline(always)]
fn leave(call: &wire::AcquireCall) {
    if TASK_WAITS.remove(call.acquire).is_ok()
        && let Some(state) = holders::known(call.semaphore)
    {
        // SAFETY: a map value.
        unsafe { holders::one_less(state) };
    }
}

/// An `Acquire` is dropped: behind its permits, or before they came.
#[uprobe]
pub fn acquire_dropped(ctx: ProbeContext) -> u32 {
    let acquire = registers::argument(&ctx, 0);
    let Some(wait) = TASK_WAITS.get_ptr(acquire) else {
        return 0;
    };
    let Some(thread) = threads::current_or_new() else {
        return 0;
    };
    // SAFETY: map values, and the running thread's record.
    unsafe {
        let wait = *wait;
        locks::task_wait_ended(thread, &wait, crate::now(), wire::OUTCOME_TIMED_OUT);
        if TASK_WAITS.remove(acquire).is_ok()
            && let Some(state) = holders::known(wait.semaphore)
        {
            holders::one_less(state);
            dequeue(state, 1);
        }
    }
    0
}

/// So many tasks may have left the queue.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
unsafe fn dequeue(state: *mut LockState, tasks: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        let queued = (*state).queued.saturating_sub(tasks);
        (*state).queued = queued;
        if queued == 0 {
            (*state).locked_since_ns = 0;
        }
    }
}

/// Who holds one of Tokio's locks: the task, or, outside of one, the thread.
#[inline(always)]
fn key(thread: *mut wire::Thread, semaphore: u64) -> wire::HeldKey {
    match polls::innermost(thread) {
        Some(poll) => wire::HeldKey {
            lock: semaphore,
            // SAFETY: a poll of the running thread.
            owner: unsafe { (*poll).task },
        },
        None => key_of_thread(thread, semaphore),
    }
}

#[inline(always)]
fn key_of_thread(thread: *mut wire::Thread, lock: u64) -> wire::HeldKey {
    // SAFETY: the running thread's record.
    let tid = unsafe { (*thread).tid };
    wire::HeldKey {
        lock,
        owner: u64::from(tid) | wire::OWNER_IS_THREAD,
    }
}

/// Permits are given back: `add_permits_locked(&self, permits, queue)`.
#[uprobe]
pub fn permits_released(ctx: ProbeContext) -> u32 {
    let at_ns = crate::now();
    let semaphore = registers::argument(&ctx, 0);
    let permits_given = registers::argument(&ctx, 1);
    // A task that was given its permits while it waited calls it so, to be done with the queue.
    if permits_given == 0 {
        return 0;
    }
    let Some(thread) = threads::current_or_new() else {
        return 0;
    };
    // Nobody was seen to acquire any: not a lock, or not yet.
    let Some(state) = holders::known(semaphore) else {
        return 0;
    };
    let key = key(thread, semaphore);
    // SAFETY: map values, and the running thread's record.
    unsafe {
        let permits = HELD.get_ptr_mut(key);
        let since_ns = match permits {
            // Since then a permit was given back by who was not seen to acquire one: maybe this task's, which it had
            // handed to another one.
            Some(permits) if (*permits).acquired_ns < (*state).stray_ns => 0,
            Some(permits) => (*permits).acquired_ns,
            // By `try_lock`, and so before the queue began.
            None if (*state).matched != 0 && (*state).queued != 0 => (*state).locked_since_ns,
            None => 0,
        };
        // Before all else is known: the verifier walks through the walk once for each way that leads there.
        let has_waiters = (*state).sleepers != 0;
        let is_long = since_ns != 0 && at_ns.saturating_sub(since_ns) >= config::sample_after_ns();
        let release_stack = if has_waiters || is_long {
            unwind::user_stack(KIND_UPROBE)
        } else {
            0
        };
        if has_waiters {
            let known_ns = match since_ns {
                // Nobody acquires room in a channel, and who makes some had all of it.
                0 if (*state).matched == 0 => 0,
                // Who had a permit before others were in the queue: nobody overtakes them.
                0 if permits.is_some() => holders::earlier((*state).locked_since_ns, at_ns),
                0 => at_ns,
                since_ns => since_ns,
            };
            holders::remember(state, at_ns, known_ns, release_stack, (*thread).tid);
        }
        let mut hold = Held {
            lock: semaphore,
            since_ns,
            at_most_ns: 0,
            acquire_stack: 0,
            name_stack: (*state).name_stack,
            release_stack,
            operation: wire::LOCK_TOKIO_ACQUIRE,
            flags: 0,
        };
        let poll_start_ns = match polls::innermost(thread) {
            Some(poll) => (*poll).start_ns,
            None => 0,
        };
        match permits {
            Some(permits) => {
                (*state).matched += 1;
                hold.acquire_stack = (*permits).acquire_stack;
                let acquired_in_ns = (*permits).poll_start_ns;
                if acquired_in_ns != 0 && poll_start_ns != 0 && poll_start_ns != acquired_in_ns {
                    hold.flags |= wire::HOLD_ACROSS_AWAIT;
                }
                // Of several at once it is not known which one this is: the last one is the shortest.
                if (*permits).count == 1 {
                    hold.at_most_ns = at_ns.saturating_sub(since_ns);
                    hold.flags |= wire::HOLD_EXACT;
                    let _ = HELD.remove(key);
                } else {
                    (*permits).count -= 1;
                }
            }
            None if since_ns != 0 => {
                if poll_start_ns > since_ns {
                    hold.flags |= wire::HOLD_ACROSS_AWAIT;
                }
            }
            None => {}
        }
        if permits.is_none() {
            (*state).stray_ns = at_ns;
        }
        if since_ns == 0 && (*state).matched != 0 {
            count(wire::COUNTER_TASK_RELEASES_UNMATCHED);
        }
        (*state).released_ns = at_ns;
        // Who has these permits from now on has not had them for longer, also if nobody sees him acquire them.
        if (*state).locked_since_ns != 0 {
            (*state).locked_since_ns = at_ns;
        }
        dequeue(state, permits_given);
        if since_ns != 0 {
            holders::ended(&hold, at_ns);
        }
    }
    0
}
