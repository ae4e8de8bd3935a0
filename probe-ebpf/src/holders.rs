//! Who holds a lock, as far as waiters show it: a lock's fast paths leave no trace, but while somebody sleeps in its
//! slow path every release goes through code that is seen.
//!
//! ```text
//!   thread A   ---acquires (unseen)----------------- releases ---
//!   thread B        | enters slow path   asleep ......| woken  | acquires ---
//!                                        ^locked since ^release          ^locked since, if more are asleep
//! ```
//!
//! From the moment somebody is asleep until the next release the lock has one and the same holder, so that this
//! stretch is a lower bound of the hold. Where the holder had to wait itself, and others were asleep when it
//! acquired, no other hold can have come between, and the hold is exact. Readers are several: of theirs this is true
//! only while a writer waits that keeps new ones out, which the lock's own word tells.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_loop, maps::HashMap};
use holdup_probe_ebpf::wire;

use crate::{
    atomics,
    emit::{count, emit},
    maps::{EMPTY_LOCK, HOLDS, LOCKS, NO_EXIST, PAIRS, config},
    permits, polls,
    scratch::{self, Scratch},
    sums, threads, window,
};

/// Releases of a lock that are remembered: a wait that sees more of them knows the last ones. A power of two.
const RELEASES: usize = 16;

/// One release of a lock.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Release {
    at_ns: u64,
    /// Since when who releases it is known to have had it: `at_ns` where that is not known, 0 where it was since the release
    /// before.
    since_ns: u64,
    stack: u64,
    tid: u32,
    zero: u32,
}

/// What is known of one lock.
#[repr(C)]
pub struct LockState {
    /// Threads in its slow path.
    pub waiting: u64,
    /// Threads asleep in it; tasks in its queue.
    pub sleepers: u64,
    /// Since when it has the holder that it has now, 0 when that is not known. Of a lock of Tokio's, since when its
    /// queue is not empty.
    pub locked_since_ns: u64,
    /// Since when the same thread has it upgradably or exclusively, beside readers who may come and go; 0 when that is not known.
    upgradable_since_ns: u64,
    /// When it was acquired, if that was seen and no release since, else 0.
    acquired_ns: u64,
    /// Stack of that acquisition.
    acquire_stack: u64,
    /// Of a lock whose acquisitions are seen without any wait, stack of the first one: it has the lock's name.
    pub name_stack: u64,
    /// Non-zero when probes stand in its fast paths.
    pub is_watched: u64,
    /// Of a lock of Tokio's: tasks that are known to be in its queue.
    pub queued: u64,
    /// Of a lock of Tokio's: when it was last released.
    pub released_ns: u64,
    /// Of a lock of Tokio's: releases by who had acquired it. A channel has none.
    pub matched: u64,
    /// Of a lock of Tokio's: when it was last released by somebody who was not seen to acquire it.
    pub stray_ns: u64,
    /// Releases so far; the last ones are in `releases`, by this number.
    seen: u64,
    /// Thread of the last acquisition that was seen of an exclusive lock.
    pub acquirer: u32,
    /// How it was acquired.
    operation: u32,
    releases: [Release; RELEASES],
}

/// What is known of a lock, if anything.
#[inline(always)]
pub fn known(lock: u64) -> Option<*mut LockState> {
    LOCKS.get_ptr_mut(lock)
}

/// The record of a lock, made if need be.
#[inline(always)]
pub fn known_or_new(lock: u64) -> Option<*mut LockState> {
    if let Some(state) = LOCKS.get_ptr_mut(lock) {
        return Some(state);
    }
    let _ = LOCKS.insert(lock, EMPTY_LOCK.get(0)?, NO_EXIST);
    let state = LOCKS.get_ptr_mut(lock);
    if state.is_none() {
        count(wire::COUNTER_UNLOCKS_NOT_STORED);
    }
    state
}

/// Who has a lock that somebody falls asleep for, and will have it until a release that will be seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Staying {
    /// That is not known.
    Nobody,
    /// Who has it upgradably; readers may come and go.
    Upgradable,
    /// Who has it, be it several: nobody new can get it before they all have released it, but by a recursive read.
    All,
}

/// The n-th release of a lock, or a later one that took its place.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
unsafe fn release(state: *mut LockState, n: u64) -> *mut Release {
    // SAFETY: the caller's promise; masked below RELEASES, a power of two.
    unsafe {
        (&raw mut (*state).releases)
            .cast::<Release>()
            .add(n as usize & (RELEASES - 1))
    }
}

/// The last release; one at time 0 if there was none.
///
/// # Safety
/// That of `release`.
#[inline(always)]
unsafe fn last_release(state: *mut LockState) -> *mut Release {
    // SAFETY: the caller's promise.
    unsafe { release(state, (*state).seen.wrapping_sub(1)) }
}

/// Somebody fell asleep in the lock's slow path.
#[inline(always)]
pub fn fell_asleep(lock: u64, staying: Staying, at_ns: u64) {
    if let Some(state) = known_or_new(lock) {
        // SAFETY: a map value.
        unsafe {
            atomics::add(&raw mut (*state).sleepers, 1);
            if staying == Staying::All && (*state).locked_since_ns == 0 {
                (*state).locked_since_ns = at_ns;
            }
            if staying == Staying::Upgradable && (*state).upgradable_since_ns == 0 {
                (*state).upgradable_since_ns = at_ns;
            }
        }
    }
}

/// A thread enters the lock's slow path.
#[inline(always)]
pub fn waits(lock: u64) {
    if let Some(state) = known_or_new(lock) {
        // SAFETY: a map value.
        unsafe { atomics::add(&raw mut (*state).waiting, 1) };
    }
}

/// A thread leaves it. The record may be younger than the wait.
#[inline(always)]
pub fn waits_no_more(lock: u64) {
    if let Some(state) = known(lock) {
        // SAFETY: a map value.
        unsafe {
            if (*state).waiting != 0 {
                atomics::add(&raw mut (*state).waiting, u64::MAX);
            }
        }
    }
}

/// Somebody who slept since `asleep_ns` is woken: the lock may have been released where that is not seen. Not so if it was
/// seen since then, and a mutex even acquired again; if the wait was given up, and others go on sleeping; and for the one
/// that has the lock upgradably and waited for the readers beside.
#[inline(always)]
pub fn woke(lock: u64, operation: u32, asleep_ns: u64, gave_up: bool) {
    if let Some(state) = known(lock) {
        // SAFETY: a map value.
        unsafe {
            let is_mutex = matches!(operation, wire::LOCK_MUTEX | wire::LOCK_STD_MUTEX);
            let is_upgrade = operation == wire::LOCK_RW_UPGRADE;
            let is_explained = (is_mutex
                && (*state).acquired_ns != 0
                && (*last_release(state)).at_ns >= asleep_ns)
                || (gave_up && !is_upgrade && (*state).sleepers > 1);
            if !is_explained {
                (*state).locked_since_ns = 0;
                if !is_upgrade {
                    (*state).upgradable_since_ns = 0;
                }
            }
            one_less(state);
        }
    }
}

/// One who waited is gone. The record may be younger than the wait.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
pub unsafe fn one_less(state: *mut LockState) {
    // SAFETY: the caller's promise.
    unsafe {
        if (*state).sleepers != 0 {
            atomics::add(&raw mut (*state).sleepers, u64::MAX);
        }
    }
}

/// A thread acquired the lock after waiting for it.
#[inline(always)]
pub fn acquired(thread: *mut wire::Thread, lock: u64, operation: u32, stack: u64, at_ns: u64) {
    let Some(state) = known_or_new(lock) else {
        return;
    };
    // SAFETY: a map value, and the running thread's record.
    unsafe {
        if (*state).is_watched != 0 {
            permits::thread_acquired(thread, lock, operation, stack, at_ns);
        }
        if wire::is_exclusive(operation) {
            // The lock's holder writes these fields.
            (*state).acquired_ns = at_ns;
            (*state).acquire_stack = stack;
            (*state).acquirer = (*thread).tid;
            (*state).operation = operation;
            if (*state).sleepers != 0 {
                (*state).locked_since_ns = at_ns;
            } else {
                // Its release will not be seen.
                (*state).locked_since_ns = 0;
                (*state).upgradable_since_ns = 0;
            }
        } else if operation == wire::LOCK_RW_UPGRADABLE && (*state).sleepers != 0 {
            (*state).upgradable_since_ns = at_ns;
        }
    }
}

/// The running thread releases a lock that others wait for. `operation` is what kind of lock it is.
#[inline(always)]
pub fn released(thread: *mut wire::Thread, lock: u64, operation: u32, at_ns: u64, stack: u64) {
    let Some(state) = known_or_new(lock) else {
        return;
    };
    // SAFETY: the running thread's record, and a map value that the lock's holder writes.
    unsafe {
        let tid = (*thread).tid;
        let acquired_ns = (*state).acquired_ns;
        let is_acquirer = acquired_ns != 0 && (*state).acquirer == tid;
        let locked_since_ns = (*state).locked_since_ns;
        let acquired_since_ns = permits::thread_acquired_ns(thread, state, lock, operation);
        // Here the release itself lies before this, and somebody else can have the lock by the time that this thread, which may
        // have lost its CPU, wakes who waits. The probe in its fast path has told of it; or the lock is known to be another one's,
        // since that one acquired it.
        let is_late = if (*state).is_watched != 0 {
            (wire::is_std_lock(operation) || operation == wire::LOCK_RW_SHARED)
                && !permits::thread_holds(thread, lock)
        } else {
            wire::is_std_lock(operation)
                && acquired_ns != 0
                && acquired_ns == locked_since_ns
                && (*state).acquirer != tid
        };
        if is_late {
            return;
        }
        let since_ns = known_since_ns(state, operation, acquired_since_ns, at_ns);
        remember(state, at_ns, since_ns, stack, tid);
        let acquire_stack = (*state).acquire_stack;
        let seen_operation = (*state).operation;
        (*state).locked_since_ns = 0;
        (*state).acquired_ns = 0;
        // Where the acquisition was seen nothing has to be concluded.
        if (*state).is_watched != 0
            && permits::thread_releases(
                thread,
                lock,
                operation,
                at_ns,
                permits::Stack::Remembered(stack),
            )
        {
            return;
        }
        if locked_since_ns == 0 {
            return;
        }
        let mut hold = Held {
            lock,
            since_ns: locked_since_ns,
            at_most_ns: 0,
            acquire_stack: 0,
            name_stack: (*state).name_stack,
            release_stack: stack,
            operation,
            flags: 0,
        };
        if is_acquirer {
            hold.at_most_ns = at_ns.saturating_sub(acquired_ns);
            hold.acquire_stack = acquire_stack;
            hold.operation = seen_operation;
            if locked_since_ns == acquired_ns {
                hold.flags |= wire::HOLD_EXACT;
            }
        }
        if let Some(poll) = polls::active(thread)
            && (*poll).start_ns > locked_since_ns
        {
            hold.flags |= wire::HOLD_ACROSS_AWAIT;
        }
        ended(&hold, at_ns);
    }
}

/// Since when who releases the lock now is known to have it. `acquired_ns` is when it was seen to acquire it, else 0.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
pub unsafe fn known_since_ns(
    state: *mut LockState,
    operation: u32,
    acquired_ns: u64,
    at_ns: u64,
) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut since_ns = if acquired_ns != 0 {
            acquired_ns
        } else {
            earlier((*state).locked_since_ns, at_ns)
        };
        // A reader is not the one who has it upgradably beside.
        if operation != wire::LOCK_RW_SHARED {
            since_ns = earlier((*state).upgradable_since_ns, since_ns);
            (*state).upgradable_since_ns = 0;
        }
        since_ns
    }
}

/// The earlier of two times, the first of which is known if it is not 0.
#[inline(always)]
pub fn earlier(maybe_ns: u64, ns: u64) -> u64 {
    // What is unknown lies at the end of time.
    maybe_ns.wrapping_sub(1).min(ns - 1) + 1
}

/// Adds a release to those that are remembered. The lock is still held by who calls, or about to be. `since_ns` is as in
/// [`Release`].
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
pub unsafe fn remember(state: *mut LockState, at_ns: u64, since_ns: u64, stack: u64, tid: u32) {
    // One release that wakes several is one.
    const SAME_NS: u64 = 50_000;
    // SAFETY: the caller's promise; masked below RELEASES, a power of two.
    unsafe {
        let last = last_release(state);
        if (*last).tid == tid && at_ns.saturating_sub((*last).at_ns) < SAME_NS {
            return;
        }
        count(wire::COUNTER_UNLOCKS);
        *release(state, (*state).seen) = Release {
            at_ns,
            since_ns,
            stack,
            tid,
            zero: 0,
        };
        (*state).seen += 1;
    }
}

/// A hold that has ended.
#[repr(C)]
pub struct Held {
    pub lock: u64,
    pub since_ns: u64,
    pub at_most_ns: u64,
    pub acquire_stack: u64,
    pub name_stack: u64,
    pub release_stack: u64,
    pub operation: u32,
    pub flags: u32,
}

/// Sums a hold up, and tells of a long one, and of one across an await if it was of a lock that blocks threads: Tokio's
/// locks are made to be held so, ten thousands of times in a second. The running thread ends it.
#[inline(always)]
pub fn ended(hold: &Held, at_ns: u64) {
    // SAFETY: a hold.
    unsafe { hold_ended(hold, at_ns) };
}

/// A global function, of which every release has one or two.
///
/// # Safety
/// `hold` points to one, or nowhere.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn hold_ended(hold: *const Held, at_ns: u64) -> u64 {
    // SAFETY: the caller's promise.
    let Some(hold) = (unsafe { hold.as_ref() }) else {
        return 0;
    };
    let recording = window::get();
    if at_ns > recording.stop_ns || at_ns < recording.start_ns {
        return 0;
    }
    let mut flags = hold.flags;
    let mut since_ns = hold.since_ns;
    if since_ns < recording.start_ns {
        since_ns = recording.start_ns;
        flags &= !wire::HOLD_EXACT;
    }
    let at_least_ns = at_ns.saturating_sub(since_ns);
    add_hold(
        &wire::HoldKey {
            lock: hold.lock,
            acquire_stack: hold.name_stack,
            release_stack: hold.release_stack,
            operation: hold.operation,
            flags,
        },
        at_least_ns,
    );
    let is_told =
        flags & wire::HOLD_ACROSS_AWAIT != 0 && hold.operation != wire::LOCK_TOKIO_ACQUIRE;
    if !is_told && at_least_ns < config::threshold_ns() {
        return 0;
    }
    let Some(thread) = threads::current() else {
        count(wire::COUNTER_LOST_HOLDS);
        return 0;
    };
    // SAFETY: the running thread's record.
    unsafe {
        let (task, poll_start_ns) = match polls::innermost(thread) {
            Some(poll) => ((*poll).task, (*poll).start_ns),
            None => (0, 0),
        };
        let event = wire::Hold {
            header: wire::EventHeader {
                kind: wire::EVENT_HOLD,
                tid: (*thread).tid,
                at_ns,
            },
            lock: hold.lock,
            at_least_ns,
            at_most_ns: hold.at_most_ns,
            acquire_stack: hold.acquire_stack,
            release_stack: hold.release_stack,
            poll_start_ns,
            task,
            operation: hold.operation,
            flags,
        };
        emit(&event, wire::COUNTER_LOST_HOLDS);
    }
    0
}

/// Adds to the map of holds.
#[inline(always)]
pub fn add_hold(key: &wire::HoldKey, at_least_ns: u64) {
    add(&HOLDS, key, at_least_ns, wire::COUNTER_HOLDS_NOT_STORED);
}

/// Adds to a map of totals; `not_stored` counts what finds no room.
#[inline(always)]
fn add<K>(map: &HashMap<K, wire::Totals>, key: &K, time_ns: u64, not_stored: u32) {
    let totals = match map.get_ptr_mut(key) {
        Some(totals) => totals,
        None => {
            let empty = wire::Totals {
                count: 0,
                total_ns: 0,
                max_ns: 0,
            };
            let _ = map.insert(key, empty, NO_EXIST);
            let Some(totals) = map.get_ptr_mut(key) else {
                count(not_stored);
                return;
            };
            totals
        }
    };
    // SAFETY: a map value, aligned.
    unsafe { sums::add(totals, time_ns) };
}

/// A wait that has ended.
pub struct Wait {
    pub lock: u64,
    pub waiter_stack: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub operation: u32,
    /// Whether it belongs to the recording.
    pub is_recorded: bool,
}

/// A wait while it is joined to those who held the lock meanwhile. It lies in a map and not on the BPF stack: of what
/// comes out of a map the verifier knows nothing, so that one release looks to it like another.
#[repr(C)]
pub struct Join {
    lock: u64,
    waiter_stack: u64,
    start_ns: u64,
    end_ns: u64,
    /// Up to here the wait is accounted for.
    upto_ns: u64,
    /// What of it lies behind a release and before anybody is known to have the lock again.
    released_ns: u64,
    /// What of it is somebody's.
    held_ns: u64,
    operation: u32,
    is_recorded: u32,
    /// Releases met so far.
    pub releases: u32,
    /// Those that took most of it.
    pub holders: [wire::WaitHolder; wire::WAIT_HOLDERS],
}

/// Goes through the releases of a lock during a wait, and charges each with what it is known to have taken of it. The
/// result is in claimed room, which the caller gives back; None when all is taken.
///
/// ```text
///   wait      |---- unseen ----|-- A --|-- handover --|-- B --|-- handover --|
///             start    locked since    release        ^       release        end
///                                            locked since, or acquired
/// ```
///
/// Who waits spins before it falls asleep, on a busy machine for milliseconds, and meanwhile a release can go unseen: who
/// releases the lock later may have had it since the wait began, or may have waited as well.
#[inline(always)]
pub fn join(wait: &Wait) -> Option<*mut Scratch> {
    let Some(scratch) = scratch::claim() else {
        count(wire::COUNTER_PAIRS_NOT_STORED);
        return None;
    };
    // SAFETY: claimed by this program; the callback has the type that the helper calls.
    unsafe {
        let join = &raw mut (*scratch).join;
        (*join).lock = wait.lock;
        (*join).waiter_stack = wait.waiter_stack;
        (*join).start_ns = wait.start_ns;
        (*join).end_ns = wait.end_ns;
        (*join).upto_ns = wait.start_ns;
        (*join).released_ns = 0;
        (*join).held_ns = 0;
        (*join).operation = wait.operation;
        (*join).is_recorded = u32::from(wait.is_recorded);
        (*join).releases = 0;
        (*join).holders = wire::NO_HOLDERS;
        if let Some(state) = known(wait.lock) {
            // A release meanwhile must not shift the places of those before it.
            let seen = (*state).seen;
            let mut joining = Joining { state, join, seen };
            bpf_loop(
                RELEASES as u32,
                charge as *mut c_void,
                (&raw mut joining).cast(),
                0,
            );
        }
    }
    Some(scratch)
}

/// What `charge` is given.
struct Joining {
    state: *mut LockState,
    join: *mut Join,
    /// Releases of the lock so far.
    seen: u64,
}

impl Join {
    /// What of the wait lies behind a release, and before the lock was known to be somebody's again.
    #[inline(always)]
    pub fn handover_ns(&self) -> u64 {
        if self.releases == 0 {
            return 0;
        }
        self.released_ns + self.end_ns.saturating_sub(self.upto_ns)
    }

    /// What others than these holders took of it.
    #[inline(always)]
    pub fn others_ns(&self, holders: &[wire::WaitHolder]) -> u64 {
        let mut others_ns = self.held_ns;
        for holder in holders {
            others_ns -= holder.held_ns;
        }
        others_ns
    }

    /// The holder that took most of it, of those that are kept.
    #[inline(always)]
    pub fn main_holder(&self) -> wire::WaitHolder {
        let mut main = self.holders[0];
        for holder in &self.holders[1..] {
            if holder.held_ns > main.held_ns {
                main = *holder;
            }
        }
        main
    }
}

/// One of the remembered releases, the oldest first.
///
/// # Safety
/// `joining` has a map value, and claimed room.
unsafe extern "C" fn charge(n: u32, joining: *mut Joining) -> i64 {
    // SAFETY: the caller's promise; masked below WAIT_HOLDERS, a power of two.
    unsafe {
        let (state, join) = ((*joining).state, &mut *(*joining).join);
        let seen = (*joining).seen;
        let release = release(state, seen.wrapping_add(u64::from(n)));
        let (at_ns, stack, tid) = ((*release).at_ns, (*release).stack, (*release).tid);
        if at_ns <= join.start_ns || at_ns > join.end_ns {
            return 0;
        }
        // Two CPUs can have written theirs in the other order: what is charged to one is not charged to the other.
        let upto_ns = join.upto_ns.max(at_ns);
        let held_ns = (upto_ns - join.upto_ns).min(at_ns.saturating_sub((*release).since_ns));
        let nth = join.releases;
        if nth != 0 {
            join.released_ns += upto_ns - join.upto_ns - held_ns;
        }
        join.upto_ns = upto_ns;
        join.releases += 1;
        // There were more than are remembered, and this one's holder may have it from one of these.
        let is_known = n != 0 || seen < RELEASES as u64 || (*release).since_ns != 0;
        if held_ns == 0 || !is_known {
            return 0;
        }
        join.held_ns += held_ns;
        let holders = (&raw mut join.holders).cast::<wire::WaitHolder>();
        let mut least = 0;
        for place in 1..wire::WAIT_HOLDERS {
            if (*holders.add(place)).held_ns
                < (*holders.add(least & (wire::WAIT_HOLDERS - 1))).held_ns
            {
                least = place;
            }
        }
        let least = holders.add(least & (wire::WAIT_HOLDERS - 1));
        if (*least).tid == 0 || held_ns > (*least).held_ns {
            *least = wire::WaitHolder {
                stack,
                held_ns,
                tid,
                nth,
            };
        }
        if join.is_recorded != 0 {
            add(
                &PAIRS,
                &wire::PairKey {
                    lock: join.lock,
                    waiter_stack: join.waiter_stack,
                    holder_stack: stack,
                    operation: join.operation,
                    zero: 0,
                },
                held_ns,
                wire::COUNTER_PAIRS_NOT_STORED,
            );
        }
    }
    0
}
