//! Every byte that crosses from the kernel to user space: ring buffer events, map keys and
//! values, the indices of counters, and the numeric codes used in them.
//!
//! Rules: no enum, bool or usize; every field has its unit in its name; no implicit padding
//! (`IntoBytes` refuses it at compile time). All times are nanoseconds of `CLOCK_MONOTONIC`
//! (`bpf_ktime_get_ns`). All addresses are virtual addresses in the target. `tid` is the kernel's
//! thread id in the initial PID namespace.

pub mod sleepers;
pub mod stolen;
pub mod thread_pointers;
pub mod tree;
pub mod unwind;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of this contract, part of a capture file's header. Raised whenever a layout or the
/// meaning of a code changes.
pub const WIRE_VERSION: u32 = 6;

// ---------------------------------------------------------------------------------------------
// Ring buffer events. Each starts with [`EventHeader`]; `kind` tells the type.
// ---------------------------------------------------------------------------------------------

/// [`ThreadSeen`].
pub const EVENT_THREAD_SEEN: u32 = 1;
/// [`ReturnSite`].
pub const EVENT_RETURN_SITE: u32 = 2;
/// [`CpuSample`].
pub const EVENT_CPU_SAMPLE: u32 = 3;
/// [`OffCpu`].
pub const EVENT_OFF_CPU: u32 = 4;
/// [`LongPoll`].
pub const EVENT_LONG_POLL: u32 = 5;
/// [`LockWait`].
pub const EVENT_LOCK_WAIT: u32 = 6;
/// [`ProcessExec`].
pub const EVENT_PROCESS_EXEC: u32 = 7;
/// [`CodeUnmapped`].
pub const EVENT_CODE_UNMAPPED: u32 = 8;
/// [`Hold`].
pub const EVENT_HOLD: u32 = 9;

/// [`TaskDelay`].
pub const EVENT_TASK_DELAY: u32 = 10;
/// [`WorkerSlice`].
pub const EVENT_WORKER_SLICE: u32 = 11;

/// First bytes of every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventHeader {
    /// One of the `EVENT_` codes.
    pub kind: u32,
    /// The thread that the event is about.
    pub tid: u32,
    /// When it was written; for intervals, their end.
    pub at_ns: u64,
}

/// A thread of the target was seen for the first time; carries its name, because the thread may
/// be gone, or in another PID namespace, when user space would look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadSeen {
    /// `kind` is [`EVENT_THREAD_SEEN`].
    pub header: EventHeader,
    /// The kernel's `comm`, NUL padded.
    pub comm: [u8; 16],
}

/// A return address of a poll that was not seen before. User space puts a probe there, so that the
/// poll's end is seen without a uretprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReturnSite {
    /// `kind` is [`EVENT_RETURN_SITE`].
    pub header: EventHeader,
    /// Where the poll will return to.
    pub return_addr: u64,
    /// The poll site that was entered.
    pub site: u32,
    /// Always zero.
    pub zero: u32,
}

/// A CPU sample inside a poll that reached the sampling age, or of any thread of the target while somebody waits for
/// a lock: it may be the holder. With [`SAMPLE_EVERYTHING`] of every thread at any time, and without it at every
/// so many ticks of the clock, marked by [`SAMPLE_ON_GRID`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuSample {
    /// `kind` is [`EVENT_CPU_SAMPLE`].
    pub header: EventHeader,
    /// Start of the poll, which together with `tid` names it: of the scheduler poll that blocks a runtime, else of
    /// the innermost poll, else 0.
    pub poll_start_ns: u64,
    /// Key into the stack map, 0 when no stack could be stored.
    pub stack: u64,
    /// A `CLASS_` code: what that poll is; [`CLASS_UNKNOWN`] also outside of polls.
    pub class: u32,
    /// The poll site that it entered, or [`NO_SITE`].
    pub site: u32,
    /// `SAMPLE_` flags.
    pub flags: u32,
    /// Always zero.
    pub zero: u32,
}

/// Outside of polls.
pub const NO_SITE: u32 = u32::MAX;

/// In [`CpuSample::flags`]: taken whatever the thread did. All samples with this flag together are a fair picture of
/// what the process does with its CPU time.
pub const SAMPLE_ON_GRID: u32 = 1 << 0;

/// The configuration's word for samples as [`CpuSample`] has them by itself.
pub const SAMPLE_WHAT_IS_SLOW: u8 = 0;
/// The configuration's word for samples of every thread, whatever it does.
pub const SAMPLE_EVERYTHING: u8 = 1;

/// An off-CPU interval inside a poll. It ends at `header.at_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OffCpu {
    /// `kind` is [`EVENT_OFF_CPU`].
    pub header: EventHeader,
    /// Start of the poll, which together with `tid` names it.
    pub poll_start_ns: u64,
    /// When the thread was switched out.
    pub start_ns: u64,
    /// How much of the interval, at its end, the thread was runnable: all of it when it was
    /// preempted, else the time from its wake-up until it ran.
    pub runnable_ns: u64,
    /// Stack at the switch-out; key into the stack map, 0 when no stack could be stored.
    pub stack: u64,
    /// What it slept in: the number of a system call on the target's architecture, or a `CAUSE_` code.
    pub cause: u32,
    /// Always zero.
    pub zero: u32,
}

/// It was preempted, and did not sleep.
pub const CAUSE_PREEMPTED: u32 = u32::MAX;
/// It slept outside of any system call: for a page, mostly.
pub const CAUSE_FAULT: u32 = u32::MAX - 1;
/// It slept in a wait at a condvar.
pub const CAUSE_CONDVAR: u32 = u32::MAX - 2;
/// The registers that tell could not be read.
pub const CAUSE_UNKNOWN: u32 = u32::MAX - 3;

/// The poll was handed off: `block_in_place` gave the worker's core to another thread, at
/// `header.at_ns`, and the rest of the poll blocks nobody.
pub const POLL_HANDED_OFF: u32 = 1 << 0;
/// The end was not seen at a return site; the poll was closed at the thread's next entry, so its
/// duration is an upper bound.
pub const POLL_END_UNSEEN: u32 = 1 << 1;
/// Neither DWARF nor the return address had told yet whether this is a scheduler poll.
pub const POLL_UNCLASSIFIED: u32 = 1 << 2;
/// The poll was still running when the recording ended, which is the end that is given: its duration
/// is a lower bound.
pub const POLL_STILL_RUNNING: u32 = 1 << 3;

/// A poll that lasted at least the threshold. It ends at `header.at_ns`.
///
/// `run_queue_ns + sleep_ns + lock_wait_ns` never exceeds the duration, unless it was cut at the recording's
/// end; the rest was on-CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LongPoll {
    /// `kind` is [`EVENT_LONG_POLL`].
    pub header: EventHeader,
    /// When the poll began.
    pub start_ns: u64,
    /// Address of the task's header.
    pub task: u64,
    /// Tokio's own number of the task, 0 where it is not known.
    pub task_id: u64,
    /// Where the poll returned to.
    pub return_addr: u64,
    /// Runnable but not running, outside of lock waits.
    pub run_queue_ns: u64,
    /// Off-CPU and not runnable, outside of lock waits.
    pub sleep_ns: u64,
    /// In a lock's slow path (condvar waits not counted: they are sleep).
    pub lock_wait_ns: u64,
    /// Of what is left, on-CPU: at least so much was the hypervisor's.
    pub stolen_ns: u64,
    /// The poll site that was entered.
    pub site: u32,
    /// `POLL_` flags.
    pub flags: u32,
}

/// parking_lot `Mutex`.
pub const LOCK_MUTEX: u32 = 1;
/// parking_lot `RwLock`, shared.
pub const LOCK_RW_SHARED: u32 = 2;
/// parking_lot `RwLock`, exclusive.
pub const LOCK_RW_EXCLUSIVE: u32 = 3;
/// parking_lot `RwLock`, upgradable read.
pub const LOCK_RW_UPGRADABLE: u32 = 4;
/// parking_lot `RwLock`, upgrade of an upgradable read.
pub const LOCK_RW_UPGRADE: u32 = 5;
/// parking_lot `Condvar`: a kind of its own, never contention.
pub const LOCK_CONDVAR: u32 = 6;
/// std `Mutex`.
pub const LOCK_STD_MUTEX: u32 = 7;
/// std `RwLock`, shared.
pub const LOCK_STD_READ: u32 = 8;
/// std `RwLock`, exclusive.
pub const LOCK_STD_WRITE: u32 = 9;
/// Permits of Tokio's `batch_semaphore`, on which its `Mutex`, `RwLock` and `Semaphore` sit, and a bounded channel's
/// room. A task waits, not a thread.
pub const LOCK_TOKIO_ACQUIRE: u32 = 10;

/// Whether whoever waits for a lock of this operation sleeps on the lock's own futex, so that whoever wakes it has
/// released it.
pub const fn is_std_lock(operation: u32) -> bool {
    matches!(operation, LOCK_STD_MUTEX | LOCK_STD_READ | LOCK_STD_WRITE)
}

/// Whether a lock that is acquired so has one holder.
pub const fn is_exclusive(operation: u32) -> bool {
    matches!(
        operation,
        LOCK_MUTEX | LOCK_RW_EXCLUSIVE | LOCK_RW_UPGRADE | LOCK_STD_MUTEX | LOCK_STD_WRITE
    )
}

/// The cookie of a probe on `batch_semaphore::Acquire`'s `poll`: where in it are the pointer to the semaphore, and
/// the flag that says that it is in the semaphore's queue.
pub const fn acquire_cookie(semaphore_offset: u16, queued_offset: u16) -> u64 {
    semaphore_offset as u64 | (queued_offset as u64) << 16
}

/// Bytes from an `Acquire` to its pointer to the semaphore.
pub const fn acquire_cookie_semaphore(cookie: u64) -> u64 {
    cookie & 0xffff
}

/// Bytes from an `Acquire` to its flag `queued`.
pub const fn acquire_cookie_queued(cookie: u64) -> u64 {
    cookie >> 16 & 0xffff
}

/// The cookie of a slow path's probes: what is wanted, and which argument (counted from 0, `self`) is
/// the first half of an `Option<Instant>` deadline: 1 or 2, or 0 for none.
pub const fn lock_cookie(operation: u32, deadline_argument: u32) -> u64 {
    operation as u64 | (deadline_argument as u64) << 8
}

/// The `LOCK_` code in a cookie.
pub const fn lock_cookie_operation(cookie: u64) -> u32 {
    (cookie & 0xff) as u32
}

/// Which argument of the function is its deadline, 0 for none.
pub const fn lock_cookie_deadline_argument(cookie: u64) -> u32 {
    (cookie >> 8 & 0xff) as u32
}

/// [`fast_cookie`]'s word for an address relative to the probed instruction instead of a register.
pub const FAST_PC_RELATIVE: u8 = 0xff;

/// The cookie of a probe behind the instruction of a lock's fast path that acquires or releases it.
///
/// `register` is the one that the lock's address is in, as its place in words in x86-64's `struct pt_regs`, and
/// `displacement` what to add to it. A `conditional` instruction (`lock cmpxchg`) has done its work only if the zero
/// flag is set.
pub const fn fast_cookie(
    operation: u32,
    is_release: bool,
    is_conditional: bool,
    register: u8,
    displacement: i32,
) -> u64 {
    (operation & 0xff) as u64
        | (is_release as u64) << 8
        | (is_conditional as u64) << 9
        | (register as u64) << 16
        | (displacement as u32 as u64) << 32
}

/// The wait ended with the lock.
pub const OUTCOME_ACQUIRED: u32 = 1;
/// The wait ended without it, at its deadline.
pub const OUTCOME_TIMED_OUT: u32 = 2;
/// The wait had not ended when the recording did, which is the end that is given: its duration is a
/// lower bound. In events only, never in the aggregation.
pub const OUTCOME_STILL_WAITING: u32 = 3;

/// Holders that an event about a lock wait names: those that took most of it.
pub const WAIT_HOLDERS: usize = 4;

/// One who held a lock during a wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WaitHolder {
    /// Stack of its release; 0 when no stack could be stored.
    pub stack: u64,
    /// How much of the wait it took at least: since it is known to have the lock, until its release.
    pub held_ns: u64,
    /// The thread that released the lock; 0 for none.
    pub tid: u32,
    /// Which of the wait's releases it is, counted from 0.
    pub nth: u32,
}

/// Nobody.
pub const NO_HOLDER: WaitHolder = WaitHolder {
    stack: 0,
    held_ns: 0,
    tid: 0,
    nth: 0,
};

/// Nobody at all.
pub const NO_HOLDERS: [WaitHolder; WAIT_HOLDERS] = [NO_HOLDER; WAIT_HOLDERS];

/// A lock wait over the threshold, or one inside a poll that reached the sampling age. It ends at `header.at_ns`. Every lock wait, with or without such an event, is in the
/// aggregation map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LockWait {
    /// `kind` is [`EVENT_LOCK_WAIT`].
    pub header: EventHeader,
    /// When the slow path was entered; for Tokio's locks, when the first poll that had to wait began.
    pub start_ns: u64,
    /// The raw lock's address.
    pub lock: u64,
    /// Start of the scheduler poll that the wait is part of, 0 when outside of one. A wait for a lock of Tokio's is
    /// part of none: the task waits between its polls.
    pub poll_start_ns: u64,
    /// Stack at the start of the wait; 0 when no stack could be stored.
    pub waiter_stack: u64,
    /// Header of the task that waited for a lock of Tokio's; 0 for none.
    pub task: u64,
    /// What of the wait lies behind a release: until the next one was known to have the lock, or the waiter ran. Nothing
    /// when no release was seen.
    pub handover_ns: u64,
    /// Releases during the wait that were seen.
    pub releases: u32,
    /// A `LOCK_` code.
    pub operation: u32,
    /// An `OUTCOME_` code.
    pub outcome: u32,
    /// What others than `holders` took of the wait, in µs; nothing in older captures.
    pub others_us: u32,
    /// Who released the lock during the wait, in any order; of more than fit, those that took most of it.
    pub holders: [WaitHolder; WAIT_HOLDERS],
}

impl LockWait {
    /// A duration as it stands in `others_us`.
    pub const fn others_us(ns: u64) -> u32 {
        let us = ns / 1000;
        if us > u32::MAX as u64 {
            u32::MAX
        } else {
            us as u32
        }
    }
}

/// The acquisition was seen too, and no other hold can have come between: the duration is exact.
pub const HOLD_EXACT: u32 = 1 << 0;
/// The lock was held when the poll began that released it: acquired in an earlier poll.
pub const HOLD_ACROSS_AWAIT: u32 = 1 << 1;

/// A hold of at least the threshold, or, of a lock that blocks threads, one across an await. It ends at `header.at_ns`, by a release of the
/// thread `header.tid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hold {
    /// `kind` is [`EVENT_HOLD`].
    pub header: EventHeader,
    /// The raw lock's address.
    pub lock: u64,
    /// It was held for at least so long.
    pub at_least_ns: u64,
    /// Since the last acquisition by this thread that was seen; 0 when none was.
    pub at_most_ns: u64,
    /// Stack of the acquisition, where it is known, else 0.
    pub acquire_stack: u64,
    /// Stack of the release, 0 when no stack could be stored.
    pub release_stack: u64,
    /// Start of the poll that released it, 0 outside of one.
    pub poll_start_ns: u64,
    /// Header of the task whose poll released it, 0 outside of one.
    pub task: u64,
    /// A `LOCK_` code: how the lock was acquired, where that was seen, else what kind of lock it is.
    pub operation: u32,
    /// `HOLD_` flags.
    pub flags: u32,
}

/// The task was woken by a thread that runs a runtime: it is taken to have gone into that thread's queue.
pub const DELAY_LOCAL: u32 = 1 << 0;

/// A task that was ready to run and was not polled for a while, at least the threshold divided by
/// [`DELAY_DIVISOR`] and [`DELAY_FLOOR_NS`]. Its poll began at `header.at_ns`, on the thread `header.tid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaskDelay {
    /// `kind` is [`EVENT_TASK_DELAY`].
    pub header: EventHeader,
    /// When it was woken, or given to the blocking pool.
    pub woken_ns: u64,
    /// Address of the task's header.
    pub task: u64,
    /// Tokio's own number of the task, 0 where it is not known.
    pub task_id: u64,
    /// The thread that woke it.
    pub waker_tid: u32,
    /// `DELAY_` flags.
    pub flags: u32,
    /// The poll site that was entered.
    pub site: u32,
    /// Always zero.
    pub zero: u32,
}

/// A delay with an event of its own is at least the threshold divided by this ...
pub const DELAY_DIVISOR: u64 = 16;
/// ... and at least this: shorter ones are ordinary.
pub const DELAY_FLOOR_NS: u64 = 100_000;

/// What one thread's polls did for a while: told when a poll ends at least [`SLICE_NS`] after the slice's beginning, and when
/// the thread does. It ends at `header.at_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WorkerSlice {
    /// `kind` is [`EVENT_WORKER_SLICE`].
    pub header: EventHeader,
    /// What was done.
    pub slice: Slice,
}

/// What one thread's polls did for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slice {
    /// When it began; 0 for not yet.
    pub start_ns: u64,
    /// Scheduler polls that ended.
    pub polls: u64,
    /// Their summed duration.
    pub busy_ns: u64,
    /// The longest.
    pub longest_ns: u64,
    /// Asleep outside of scheduler polls, and not in a lock's slow path.
    pub parked_ns: u64,
    /// Blocking-pool tasks that ended.
    pub blocking_polls: u64,
    /// Their summed duration.
    pub blocking_ns: u64,
    /// Tasks that were polled after a worker of another thread had woken them.
    pub stolen: u64,
    /// Non-zero when the thread runs a worker's loop.
    pub is_worker: u64,
}

/// A [`WorkerSlice`] is at least so long, unless its thread ends.
pub const SLICE_NS: u64 = 100_000_000;

/// The target replaced its image: what follows belongs to another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessExec {
    /// `kind` is [`EVENT_PROCESS_EXEC`].
    pub header: EventHeader,
}

/// A stack led to an address that user space had not seen mapped: code that was loaded since it looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CodeUnmapped {
    /// `kind` is [`EVENT_CODE_UNMAPPED`].
    pub header: EventHeader,
    /// The address.
    pub addr: u64,
}

// ---------------------------------------------------------------------------------------------
// Maps that user space reads at the end.
// ---------------------------------------------------------------------------------------------

/// Frames kept of one stack. A power of two: the kernel side masks indices with it.
pub const STACK_FRAMES: usize = 512;

/// Stacks of at most this many frames are kept apart from deeper ones, so that the few deep ones don't
/// decide how much room all of them take.
pub const SHORT_STACK_FRAMES: usize = 128;

/// Stacks of at most [`SHORT_STACK_FRAMES`] that there is room for. User space takes them out from time to time: as a key follows
/// from what it stands for, whoever found it here just before may go on using it.
pub const STACKS: u32 = 16384;

/// In the counts of stacks: how many came in.
pub const STACKS_STORED: u32 = 0;
/// How many were taken out.
pub const STACKS_TAKEN: u32 = 1;

/// An interned stack. Its key is a 64-bit hash of its frames, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stack {
    /// How many of `addrs` are valid.
    pub frames: u32,
    /// How the walk ended: one of `unwind`'s `OUTCOME_` codes.
    pub outcome: u32,
    /// The instruction pointer, then the return addresses, innermost first. Where a signal interrupted a
    /// frame its address is that of the next instruction plus 1, so that looking up each address but the
    /// first less 1 is always right.
    pub addrs: [u64; STACK_FRAMES],
}

/// A [`Stack`] of at most [`SHORT_STACK_FRAMES`] frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShortStack {
    /// As in [`Stack`].
    pub frames: u32,
    /// As in [`Stack`].
    pub outcome: u32,
    /// As in [`Stack`].
    pub addrs: [u64; SHORT_STACK_FRAMES],
}

/// Key of the lock wait aggregation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LockWaitKey {
    /// The raw lock's address.
    pub lock: u64,
    /// Stack at the start of the wait; 0 when no stack could be stored.
    pub waiter_stack: u64,
    /// A `LOCK_` code.
    pub operation: u32,
    /// An `OUTCOME_` code.
    pub outcome: u32,
}

/// Key of the map of who waited for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PairKey {
    /// The raw lock's address.
    pub lock: u64,
    /// Stack at the start of the wait; 0 when no stack could be stored.
    pub waiter_stack: u64,
    /// Stack of a release during it; 0 when no stack could be stored.
    pub holder_stack: u64,
    /// A `LOCK_` code.
    pub operation: u32,
    /// Always zero.
    pub zero: u32,
}

/// Value of the maps of who waited for whom and of holds, and part of [`PollSiteTotals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Totals {
    /// Releases during waits; holds or polls that ended; delays.
    pub count: u64,
    /// How much of the waits these holders took, as in [`WaitHolder`]; the holds, each for at least so long, summed; the
    /// polls or delays, summed.
    pub total_ns: u64,
    /// The most of one wait; the longest hold, poll or delay.
    pub max_ns: u64,
}

/// The lock was still locked when the poll ended that had acquired it, by whomever: in the flags of a
/// [`HoldKey`] alone.
pub const HOLD_LOCKED_AT_POLL_END: u32 = 1 << 2;

/// Key of the map of holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HoldKey {
    /// The raw lock's address.
    pub lock: u64,
    /// Stack of an acquisition of this lock: for Tokio's locks, which are seen without any wait, the first one's,
    /// so that the lock has a name; else 0.
    pub acquire_stack: u64,
    /// Stack of the release; 0 also for the many short ones of Tokio's locks.
    pub release_stack: u64,
    /// A `LOCK_` code.
    pub operation: u32,
    /// `HOLD_` flags.
    pub flags: u32,
}

/// Buckets of [`LockWaitTotals::log2_histogram`]: 2^39 ns is nine minutes, the last one is open.
pub const LOCK_WAIT_BUCKETS: usize = 40;

/// Waits of at least this long are counted apart: shorter ones are mostly spinning, which says little
/// about a lock and varies with the machine.
pub const LONG_WAIT_NS: u64 = 100_000;

/// Value of the lock wait aggregation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LockWaitTotals {
    /// Waits that ended.
    pub count: u64,
    /// Their summed duration.
    pub total_ns: u64,
    /// The longest one.
    pub max_ns: u64,
    /// Of these, the waits of at least [`LONG_WAIT_NS`].
    pub long_count: u64,
    /// Their summed duration.
    pub long_total_ns: u64,
    /// Of all, the waits during which a release was seen.
    pub joined_count: u64,
    /// What of those lay behind a release, before the lock was known to be somebody's again.
    pub handover_ns: u64,
    /// Bucket i counts waits of 2^i up to (excluding) 2^(i+1) ns.
    pub log2_histogram: [u64; LOCK_WAIT_BUCKETS],
}

/// A site whose class is not known (yet): the return address decides.
pub const CLASS_UNKNOWN: u32 = 0;
/// A task on a scheduler.
pub const CLASS_SCHEDULER: u32 = 1;
/// A task on the blocking pool, or a runtime's worker loop where they can't be told apart.
pub const CLASS_BLOCKING: u32 = 2;
/// A runtime's worker loop, which is one blocking task.
pub const CLASS_WORKER: u32 = 3;

/// The root future of a current-thread runtime: what the thread does from a return to the runtime's loop until the next
/// task or park.
pub const CLASS_ROOT: u32 = 4;

/// Whether a poll of this class blocks no runtime by itself.
pub const fn is_blocking_class(class: u32) -> bool {
    matches!(class, CLASS_BLOCKING | CLASS_WORKER)
}

/// Value of the map from a poll site to what was seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PollSiteTotals {
    /// Polls that ended.
    pub polls: Totals,
    /// Tasks among them, as far as they were not met before: exact as long as there are no more than [`TASKS`] of all
    /// sites together, else it may count one again. Not counted on the blocking pool, where each is polled once.
    pub tasks: u64,
    /// Bytes from a task's header to Tokio's number of the task; 0 until it is known.
    pub task_id_offset: u64,
    /// Delays from a task's being woken (of those that are looked at) to its poll.
    pub delays: Totals,
    /// Bucket i counts delays of 2^i up to (excluding) 2^(i+1) ns.
    pub delay_log2: [u64; DELAY_BUCKETS],
    /// How many lasted how long: see [`duration_bucket`].
    pub histogram: [u64; DURATION_BUCKETS],
}

/// Buckets of [`PollSiteTotals::delay_log2`]: 2^39 ns is nine minutes, the last one is open.
pub const DELAY_BUCKETS: usize = 40;

/// Tasks that are remembered, all poll sites together; of more, those that were polled last.
pub const TASKS: u32 = 65536;

/// What is known of a task. Its key is the address of its header, where another one can be later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Task {
    /// Tokio's own number of it, 0 where it is not known.
    pub id: u64,
    /// Start of the first poll of it that was seen, in the recording or before it.
    pub met_ns: u64,
    /// When it was woken, or given to the blocking pool, and was not polled since; else 0.
    pub woken_ns: u64,
    /// The thread that woke it.
    pub waker_tid: u32,
    /// `DELAY_` flags.
    pub flags: u32,
}

/// Bits of a duration below its highest one that tell buckets apart: 32 buckets for each power of two, so that a
/// bucket is 1/32 of its lower end wide.
pub const DURATION_BUCKET_BITS: u32 = 5;
/// Durations below 2^DURATION_FIRST_LOG2 ns (256 ns) are in bucket 0: probing takes longer.
pub const DURATION_FIRST_LOG2: u32 = 8;
/// Durations of 2^DURATION_END_LOG2 ns (18 minutes) and more are in the last bucket.
pub const DURATION_END_LOG2: u32 = 40;
/// How many buckets a histogram of durations has.
pub const DURATION_BUCKETS: usize =
    1 + (((DURATION_END_LOG2 - DURATION_FIRST_LOG2) << DURATION_BUCKET_BITS) as usize);

/// The bucket of a duration with this binary logarithm (rounded down): log-linear, as in an HDR histogram.
pub const fn duration_bucket(ns: u64, log2: u32) -> usize {
    if log2 < DURATION_FIRST_LOG2 {
        return 0;
    }
    if log2 >= DURATION_END_LOG2 {
        return DURATION_BUCKETS - 1;
    }
    let within = ns >> (log2 - DURATION_BUCKET_BITS) & ((1 << DURATION_BUCKET_BITS) - 1);
    1 + ((log2 - DURATION_FIRST_LOG2) << DURATION_BUCKET_BITS) as usize + within as usize
}

/// The shortest duration in a bucket, nanoseconds.
pub const fn duration_bucket_start(bucket: usize) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let bucket = bucket as u64 - 1;
    let within = bucket & ((1 << DURATION_BUCKET_BITS) - 1);
    let log2 = (bucket >> DURATION_BUCKET_BITS) + DURATION_FIRST_LOG2 as u64;
    (1 << log2) + (within << (log2 - DURATION_BUCKET_BITS as u64))
}

/// The recording: what begins before it is left out, what ends after it is cut at its end. Set by user
/// space while the programs are attached, so that attaching and detaching fall outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Window {
    /// Its start; `u64::MAX` until there is one.
    pub start_ns: u64,
    /// Its end; `u64::MAX` until there is one.
    pub stop_ns: u64,
}

/// Most poll instances that one binary can have probed.
pub const MAX_POLL_SITES: u32 = 8192;

/// A blocking task that runs a worker's loop.
pub const BLOCKING_WORKER_LOOP: u32 = 1;
/// Another one.
pub const BLOCKING_TASK: u32 = 2;

/// Cookie of a hand-off's probe: every hit is one.
pub const HANDOFF_ALWAYS: u64 = 0;
/// Cookie of a hand-off's probe: a hit is one if one of the first four arguments is the header of a task
/// that runs a worker's loop.
pub const HANDOFF_IF_WORKER_LOOP: u64 = 1;

// Indices of the counters, each a sum over the capture.

/// Scheduler polls that ended.
pub const COUNTER_POLLS: u32 = 0;
/// Scheduler polls that lasted at least the threshold (written to the ring buffer or lost).
pub const COUNTER_LONG_POLLS: u32 = 1;
/// Their summed duration, nanoseconds.
pub const COUNTER_LONG_POLL_NS: u32 = 2;
/// Polls of the blocking pool that ended.
pub const COUNTER_BLOCKING_POLLS: u32 = 3;
/// Lock waits that ended (condvar waits not counted).
pub const COUNTER_LOCK_WAITS: u32 = 4;
/// Condvar waits that ended.
pub const COUNTER_CONDVAR_WAITS: u32 = 5;
/// Events that did not fit into the ring buffer: long polls.
pub const COUNTER_LOST_LONG_POLLS: u32 = 6;
/// Summed duration of the long polls that did not fit, nanoseconds.
pub const COUNTER_LOST_LONG_POLL_NS: u32 = 7;
/// Events that did not fit into the ring buffer: CPU samples.
pub const COUNTER_LOST_SAMPLES: u32 = 8;
/// Events that did not fit into the ring buffer: off-CPU intervals.
pub const COUNTER_LOST_OFF_CPU: u32 = 9;
/// Events that did not fit into the ring buffer: lock waits.
pub const COUNTER_LOST_LOCK_WAITS: u32 = 10;
/// Events that did not fit into the ring buffer: all other kinds.
pub const COUNTER_LOST_OTHER: u32 = 11;
/// Stacks that could be read and found no room in the stack map.
pub const COUNTER_STACKS_NOT_STORED: u32 = 12;
/// Frames of all stacks taken.
pub const COUNTER_FRAMES: u32 = 13;
/// Frames without unwind information whose caller was found nevertheless.
pub const COUNTER_FRAMES_WITHOUT_CFI: u32 = 14;
/// Lock waits that found no room in the aggregation map.
pub const COUNTER_LOCK_WAITS_NOT_AGGREGATED: u32 = 15;
/// Threads that found no room in the thread map: nothing of theirs is seen.
pub const COUNTER_THREADS_NOT_TRACKED: u32 = 16;
/// Polls nested deeper than a thread's record of them.
pub const COUNTER_POLLS_TOO_DEEP: u32 = 17;
/// Lock waits nested deeper than a thread's record of them.
pub const COUNTER_LOCKS_TOO_DEEP: u32 = 18;
/// Poll ends without a start: the poll began before holdup attached.
pub const COUNTER_POLL_END_WITHOUT_START: u32 = 19;
/// Polls whose end was not seen at a return site.
pub const COUNTER_POLL_END_UNSEEN: u32 = 20;
/// Slow path returns without an entry: the wait began before holdup attached.
pub const COUNTER_LOCK_RETURN_WITHOUT_ENTRY: u32 = 21;
/// Releases seen while somebody waited.
pub const COUNTER_UNLOCKS: u32 = 22;
/// Releases that found no room in the map of locks.
pub const COUNTER_UNLOCKS_NOT_STORED: u32 = 23;
/// CPU samples taken inside old polls.
pub const COUNTER_SAMPLES: u32 = 24;
/// Polls that `block_in_place` cut short.
pub const COUNTER_HANDOFFS: u32 = 25;
/// Long polls that ended within the recording but began before it: they are left out.
pub const COUNTER_LONG_POLLS_BEGAN_EARLIER: u32 = 26;
/// Return addresses that a return probe had replaced, put back.
pub const COUNTER_RETURN_ADDRESSES_RESTORED: u32 = 27;
/// Waits for Tokio's locks that ended.
pub const COUNTER_TASK_WAITS: u32 = 28;
/// Who waited for whom, as far as it found no room in its map.
pub const COUNTER_PAIRS_NOT_STORED: u32 = 29;
/// Holds that found no room in their map.
pub const COUNTER_HOLDS_NOT_STORED: u32 = 30;
/// Events that did not fit into the ring buffer: holds.
pub const COUNTER_LOST_HOLDS: u32 = 31;
/// Releases of Tokio's locks whose acquisition was not seen, or was another task's. A channel's are not among them.
pub const COUNTER_TASK_RELEASES_UNMATCHED: u32 = 32;
/// Events that did not fit into the ring buffer: delays of tasks.
pub const COUNTER_LOST_DELAYS: u32 = 34;
/// Wakes of tasks that found no room.
pub const COUNTER_WAKES_NOT_STORED: u32 = 35;
/// What was seen of young polls and found no room, also where the poll turned out to be short.
pub const COUNTER_EARLY_NOT_KEPT: u32 = 33;
/// First of the counters of walks by kind of stack and outcome.
pub const COUNTER_WALKS: u32 = 36;
/// Threads that were woken or got their CPU back without the kernel's telling: when is reckoned.
pub const COUNTER_BACK_ON_CPU_UNSEEN: u32 = COUNTER_WALKS + unwind::KINDS * unwind::OUTCOMES;
/// How many counters there are.
pub const COUNTERS: u32 = COUNTER_BACK_ON_CPU_UNSEEN + 1;

/// The counter of walks of a kind (a `KIND_` code of `unwind`) that ended so (an `OUTCOME_` code).
pub const fn counter_walks(kind: u32, outcome: u32) -> u32 {
    COUNTER_WALKS + kind * unwind::OUTCOMES + outcome
}

// ---------------------------------------------------------------------------------------------
// The record of a thread, read by user space at the end for what is still under way.
// ---------------------------------------------------------------------------------------------

/// Polls of one thread that can be nested: a worker's own, a task's, and what `block_in_place`
/// with a runtime of its own puts on top. A power of two: the kernel side masks indices with it.
pub const POLL_DEPTH: usize = 8;
/// Slow paths of one thread that can be nested: a condvar's with its mutex's inside is two. A power
/// of two: the kernel side masks indices with it.
pub const LOCK_DEPTH: usize = 4;

/// A poll under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PollFrame {
    /// When it began.
    pub start_ns: u64,
    /// Stack pointer at its entry; at its return it is 8 more.
    pub stack_pointer: u64,
    /// Address of the task's header.
    pub task: u64,
    /// Tokio's own number of the task, 0 where it is not known.
    pub task_id: u64,
    /// Where it will return to.
    pub return_addr: u64,
    /// When `block_in_place` handed the worker's core off, else 0.
    pub handed_off_ns: u64,
    /// Runnable, not running so far.
    pub run_queue_ns: u64,
    /// Asleep so far.
    pub sleep_ns: u64,
    /// In lock waits so far.
    pub lock_wait_ns: u64,
    /// Taken by the hypervisor so far, while the thread believed to run.
    pub stolen_ns: u64,
    /// The poll site that was entered.
    pub site: u32,
    /// A `CLASS_` code.
    pub class: u32,
    /// `Thread::active_poll` as it was before this poll began.
    pub outer_active: u32,
    /// Always zero.
    pub zero: u32,
}

impl PollFrame {
    /// Nothing.
    pub const NONE: PollFrame = PollFrame {
        start_ns: 0,
        stack_pointer: 0,
        task: 0,
        task_id: 0,
        return_addr: 0,
        handed_off_ns: 0,
        run_queue_ns: 0,
        sleep_ns: 0,
        lock_wait_ns: 0,
        stolen_ns: 0,
        site: 0,
        class: CLASS_UNKNOWN,
        outer_active: 0,
        zero: 0,
    };
}

/// A lock wait under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LockFrame {
    /// When it began.
    pub start_ns: u64,
    /// Stack pointer at its entry.
    pub stack_pointer: u64,
    /// The raw lock's address.
    pub lock: u64,
    /// Stack at its start; 0 when no stack could be stored.
    pub waiter_stack: u64,
    /// The deadline it was given, 0 without one.
    pub deadline_ns: u64,
    /// A `LOCK_` code.
    pub operation: u32,
    /// Non-zero when a wait around it is already counted.
    pub inside_another: u32,
    /// When the thread last fell asleep in it, 0 while it is awake.
    pub asleep_ns: u64,
    /// Of a condvar: the mutex that was seen to be held, and will be taken back, else 0.
    pub mutex: u64,
}

/// A lock that the active poll has acquired after waiting, and that was not seen to be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Acquired {
    /// The raw lock's address; 0 for none.
    pub lock: u64,
    /// When.
    pub at_ns: u64,
    /// A `LOCK_` code.
    pub operation: u32,
    /// Always zero.
    pub zero: u32,
}

/// A call of `batch_semaphore::Acquire::poll` under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AcquireCall {
    /// When it began.
    pub start_ns: u64,
    /// Address of the `Acquire`; 0 for none.
    pub acquire: u64,
    /// Address of its semaphore.
    pub semaphore: u64,
    /// Non-zero when it was in the semaphore's queue already.
    pub queued: u64,
}

/// A function with a return probe that a thread has entered, or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entered {
    /// Stack pointer at its entry.
    pub stack_pointer: u64,
    /// Where it returns to.
    pub return_address: u64,
}

/// [`Early`] is a CPU sample.
pub const EARLY_SAMPLE: u32 = 1;
/// An off-CPU interval.
pub const EARLY_OFF_CPU: u32 = 2;
/// A lock wait.
pub const EARLY_LOCK_WAIT: u32 = 3;

/// What was seen of a poll before its sampling age: kept until it reaches that, dropped if it never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Early {
    /// An `EARLY_` code.
    pub kind: u32,
    /// A `CAUSE_` or system call number; an `OUTCOME_` code of a lock wait.
    pub code: u32,
    /// When it began.
    pub start_ns: u64,
    /// When it was, or ended.
    pub at_ns: u64,
    /// Where.
    pub stack: u64,
    /// As in [`OffCpu`]; of a lock wait, what others than `holder` took of it, as in [`LockWait`], in ns. Captures have this record in
    /// them, so that it keeps its size.
    pub runnable_ns: u64,
    /// The raw lock's address.
    pub lock: u64,
    /// As in [`LockWait`].
    pub handover_ns: u64,
    /// As in [`LockWait`].
    pub releases: u32,
    /// A `LOCK_` code.
    pub operation: u32,
    /// The holder that took most of it.
    pub holder: WaitHolder,
}

/// How many are kept of one poll. A power of two: the kernel side masks indices with it.
pub const EARLY: usize = 8;

/// Locks that one poll can have acquired, for [`Thread::acquired`]. A power of two.
pub const ACQUIRED: usize = 4;

/// What is known of one thread. Only the thread itself writes it (in its own probes or at its own
/// context switch), but for `woken_ns` and the end of a park, which its waker writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Thread {
    /// The thread.
    pub tid: u32,
    /// How many of `polls` are valid.
    pub poll_depth: u32,
    /// How many of `locks` are valid.
    pub lock_depth: u32,
    /// 1 + the index in `polls` of the scheduler poll that blocks a runtime now, 0 for none.
    pub active_poll: u32,
    /// How many of `locks` are lock waits, not condvar waits.
    pub lock_waits: u32,
    /// Non-zero when the thread was switched out runnable.
    pub off_cpu_runnable: u32,
    /// When the thread was switched out inside the active poll, else 0.
    pub off_cpu_start_ns: u64,
    /// When it was woken after that, else 0.
    pub woken_ns: u64,
    /// How long the kernel says it has waited on run queues until it was switched out, 0 where it does not say.
    pub off_cpu_run_delay_ns: u64,
    /// What the clock of its run queue said when it was switched out, 0 where the kernel does not tell.
    pub off_cpu_clock_ns: u64,
    /// Stack at the switch-out; 0 when no stack could be stored.
    pub off_cpu_stack: u64,
    /// 1 + what the hypervisor had taken of the thread's CPU when its active poll last began to run there, 0 while that does
    /// not run.
    pub stolen_mark: u64,
    /// As in [`OffCpu`].
    pub off_cpu_cause: u32,
    /// How many of `early` are valid.
    pub early_count: u32,
    /// Polls under way, outermost first.
    pub polls: [PollFrame; POLL_DEPTH],
    /// Lock waits under way, outermost first.
    pub locks: [LockFrame; LOCK_DEPTH],
    /// The call of `Acquire::poll` under way.
    pub acquire_call: AcquireCall,
    /// The function with a return probe that it has entered or left last.
    pub entered: Entered,
    /// What the active poll has acquired after waiting; the oldest make room.
    pub acquired: [Acquired; ACQUIRED],
    /// What was seen of the active poll while it was young, in that order.
    pub early: [Early; EARLY],
    /// What its polls did since the last [`WorkerSlice`].
    pub slice: Slice,
    /// When it fell asleep outside of scheduler polls, else 0.
    pub parked_since_ns: u64,
    /// How many acquisitions that were, with those that made room.
    pub acquisitions: u32,
    /// The thread's process, in the initial PID namespace.
    pub tgid: u32,
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeldKey {
    /// The raw lock's address.
    pub lock: u64,
    /// Header of a task, or, with [`OWNER_IS_THREAD`], a thread id: Tokio's locks are held by tasks.
    pub owner: u64,
}

/// Thread ids stand among addresses of task headers.
pub const OWNER_IS_THREAD: u64 = 1 << 63;

/// A lock that was seen to be acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Held {
    /// The last time.
    pub acquired_ns: u64,
    /// Start of the poll that acquired it, 0 outside of one.
    pub poll_start_ns: u64,
    /// Stack of the wait for it, 0 where nobody had to wait.
    pub acquire_stack: u64,
    /// How many times it is held.
    pub count: u64,
}

/// Key of the map of tasks that wait for permits: address of the `Acquire`, which is pinned while it waits.
pub type AcquireAddr = u64;

/// A task's wait for permits of a `batch_semaphore`, under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaskWait {
    /// When it began.
    pub start_ns: u64,
    /// Address of the semaphore.
    pub semaphore: u64,
    /// Stack of the poll that had to wait; 0 when no stack could be stored.
    pub waiter_stack: u64,
    /// Header of the task, 0 outside of one.
    pub task: u64,
    /// The cookie of the probe: where to look whether it still waits.
    pub cookie: u64,
    /// The thread of that poll.
    pub tid: u32,
    /// Always zero.
    pub zero: u32,
}

/// What the kernel side knows of a poll's return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReturnSiteState {
    /// When a probe was in place there, 0 while none is; set by user space.
    pub attached_ns: u64,
    /// A `CLASS_` code: what calls from there are, set by user space.
    pub class: u32,
    /// Always zero.
    pub zero: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros, TryFromBytes};

    /// Event sizes are part of the capture format: a change here needs a new [`WIRE_VERSION`].
    #[test]
    fn event_sizes_are_those_of_this_wire_version() {
        assert_eq!(WIRE_VERSION, 6);
        assert_eq!(size_of::<EventHeader>(), 16);
        assert_eq!(size_of::<ThreadSeen>(), 32);
        assert_eq!(size_of::<ReturnSite>(), 32);
        assert_eq!(size_of::<CpuSample>(), 48);
        assert_eq!(size_of::<OffCpu>(), 56);
        assert_eq!(size_of::<LongPoll>(), 88);
        assert_eq!(size_of::<LockWait>(), 176);
        assert_eq!(size_of::<Hold>(), 80);
        assert_eq!(size_of::<TaskDelay>(), 56);
        assert_eq!(size_of::<WorkerSlice>(), 88);
        assert_eq!(size_of::<ProcessExec>(), 16);
        assert_eq!(size_of::<CodeUnmapped>(), 24);
        assert_eq!(size_of::<Stack>(), 8 + 8 * STACK_FRAMES);
        assert_eq!(size_of::<ShortStack>(), 8 + 8 * SHORT_STACK_FRAMES);
        assert_eq!(size_of::<unwind::Rule>(), 24);
    }

    /// Each duration is in the bucket that begins at or below it and is no wider than 1/32 of it.
    #[test]
    fn buckets_of_durations() {
        for ns in [
            256_u64,
            257,
            1_000,
            5_000_000,
            5_100_000,
            123_456_789,
            1 << 39,
        ] {
            let bucket = duration_bucket(ns, ns.ilog2());
            let (from, to) = (
                duration_bucket_start(bucket),
                duration_bucket_start(bucket + 1),
            );
            assert!(from <= ns && ns < to, "{ns} is in {from}..{to}");
            assert!((to - from) * 32 <= from, "{from}..{to}");
        }
        assert_eq!(duration_bucket(255, 7), 0);
        assert_eq!(duration_bucket(256, 8), 1);
        assert_eq!(duration_bucket((1 << 40) - 1, 39), DURATION_BUCKETS - 1);
        assert_eq!(duration_bucket(1 << 40, 40), DURATION_BUCKETS - 1);
        assert_eq!(duration_bucket(u64::MAX, 63), DURATION_BUCKETS - 1);
    }

    /// What the kernel writes is read back field by field.
    #[test]
    fn events_survive_the_way_through_bytes() {
        let mut wait = LockWait::new_zeroed();
        wait.header.kind = EVENT_LOCK_WAIT;
        wait.holders[3].tid = 7;
        wait.outcome = OUTCOME_TIMED_OUT;
        assert_eq!(LockWait::try_read_from_bytes(wait.as_bytes()), Ok(wait));
    }
}
