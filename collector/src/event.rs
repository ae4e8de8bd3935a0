//! The types that the pipeline speaks: what enters is nothing, what leaves is [`Event`], the typed
//! form of one ring buffer record, and the newtypes that give each number its meaning. Separate
//! from `wire`, so that no stage after `decode` sees a raw code or a zero that means "none".

use holdup_probe_ebpf::wire;
use serde::{Deserialize, Serialize};

/// A kernel thread id, in the initial PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tid(pub u32);

/// A process id (thread group id), in holdup's own PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pid(pub u32);

/// A point in time: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Time from `earlier` to `self`; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Timestamp) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in nanoseconds. Sums saturate: a capture file is untrusted input.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Nothing.
    pub const ZERO: Nanos = Nanos(0);

    /// Whether it is nothing.
    #[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// What is left of `self` after `other`; zero if nothing is.
    pub fn saturating_sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl std::ops::Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl std::ops::AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Nanos {
    fn sum<I: Iterator<Item = Nanos>>(iter: I) -> Nanos {
        iter.fold(Nanos::ZERO, |sum, n| sum + n)
    }
}

/// Address of a raw lock in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockAddr(pub u64);

/// Address of a task's header in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskAddr(pub u64);

/// An address of code in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CodeAddr(pub u64);

/// One way in which a task gets made, as a stack would have it: the instruction that takes the address of the task's vtable,
/// then what each of the calls around it returns to, the spawn's among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnPath(pub Vec<u64>);

/// An interned stack; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StackId(pub u64);

/// A probed `tokio::runtime::task::raw::poll` instance: index into the capture's poll sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SiteId(pub u32);

/// What a thread waited to do with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockOperation {
    /// parking_lot `Mutex::lock`.
    Mutex,
    /// parking_lot `RwLock::read`.
    RwShared,
    /// parking_lot `RwLock::write`.
    RwExclusive,
    /// parking_lot `RwLock::upgradable_read`.
    RwUpgradable,
    /// parking_lot `RwLockUpgradableReadGuard::upgrade`.
    RwUpgrade,
    /// parking_lot `Condvar::wait`: never contention.
    Condvar,
    /// std `Mutex::lock`.
    StdMutex,
    /// std `RwLock::read`.
    StdRead,
    /// std `RwLock::write`.
    StdWrite,
    /// Permits of Tokio's `batch_semaphore`: its `Mutex`, `RwLock`, `Semaphore`, or a bounded channel's room.
    TokioAcquire,
}

/// How a lock wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockOutcome {
    /// With the lock.
    Acquired,
    /// At its deadline, without it.
    TimedOut,
    /// Not at all while the capture ran: the duration is a lower bound.
    StillWaiting,
}

/// What `LongPoll::duration` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exactness {
    /// Both ends were seen.
    Exact,
    /// Still running when the capture ended.
    LowerBound,
    /// The end was not seen; closed at the thread's next poll.
    UpperBound,
}

/// What kind of code a poll site runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteClass {
    /// A task on a multi_thread scheduler.
    MultiThread,
    /// A task on a current_thread scheduler.
    CurrentThread,
    /// A task on a LocalSet.
    LocalSet,
    /// A `spawn_blocking` task.
    Blocking,
    /// A runtime worker's own loop, which is one blocking task.
    Worker,
    /// No task, but the root future that `block_on` was given, on a current-thread runtime.
    BlockOn,
    /// DWARF did not tell; the return address decides.
    Unknown,
}

/// Tokio's own number of a task; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId(pub u64);

/// A poll that lasted at least the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongPoll {
    /// The polling thread.
    pub tid: Tid,
    /// When it began.
    pub start: Timestamp,
    /// When it ended; if `handed_off`, when `block_in_place` handed the worker's core off.
    pub end: Timestamp,
    /// The polled task.
    pub task: TaskAddr,
    /// Its number, where it is known.
    pub task_id: Option<TaskId>,
    /// The instance that was entered.
    pub site: SiteId,
    /// Where it returned to.
    pub return_addr: CodeAddr,
    /// Exact or a bound.
    pub exactness: Exactness,
    /// `block_in_place` ended its blocking of the runtime.
    pub handed_off: bool,
    /// The kernel side did not know whether it is a scheduler poll.
    pub unclassified: bool,
    /// Runnable but not running, outside of lock waits: exact.
    pub run_queue: Nanos,
    /// Otherwise off-CPU, outside of lock waits: exact.
    pub sleep: Nanos,
    /// In locks' slow paths: exact.
    pub lock_wait: Nanos,
    /// Taken by the hypervisor while the thread believed to run: at least so much.
    pub stolen: Nanos,
}

/// An off-CPU interval inside a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffCpu {
    /// The thread.
    pub tid: Tid,
    /// The poll, named by its start.
    pub poll_start: Timestamp,
    /// Switched out.
    pub start: Timestamp,
    /// Running again.
    pub end: Timestamp,
    /// How much of it, at its end, the thread was runnable.
    pub runnable: Nanos,
    /// Stack at the switch-out.
    pub stack: Option<StackId>,
    /// Why the thread was switched out.
    pub cause: OffCpuCause,
}

/// Why a thread is off-CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OffCpuCause {
    /// It was preempted.
    Preempted,
    /// It sleeps in this system call, a number of the target's architecture.
    SystemCall(u32),
    /// It sleeps outside of any: for a page, mostly.
    Fault,
    /// It waits at a condvar.
    Condvar,
    /// Not told.
    Unknown,
}

/// What a poll is to its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PollClass {
    /// A task on a scheduler.
    Scheduler,
    /// A task on the blocking pool, a worker's loop included.
    Blocking,
    /// Not told.
    Unknown,
}

/// A CPU sample: inside a poll, or of any thread while somebody waits for a lock, or on the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSample {
    /// The thread.
    pub tid: Tid,
    /// The poll, named by its start: the one that blocks a runtime, else the innermost; None outside of polls.
    pub poll_start: Option<Timestamp>,
    /// What that poll is; `Unknown` also outside of polls.
    pub class: PollClass,
    /// The instance that it entered.
    pub site: Option<SiteId>,
    /// One of those that are taken whatever a thread does.
    pub on_grid: bool,
    /// When.
    pub at: Timestamp,
    /// Where.
    pub stack: Option<StackId>,
}

/// One who held a lock during a wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitHolder {
    /// The thread that released the lock.
    pub tid: Tid,
    /// How much of the wait it took at least.
    pub held: Nanos,
    /// Stack of its release.
    pub stack: Option<StackId>,
}

/// One lock wait with an event of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// The waiting thread; for a lock of Tokio's the one whose poll ended the wait.
    pub tid: Tid,
    /// Entered the slow path.
    pub start: Timestamp,
    /// Returned from it.
    pub end: Timestamp,
    /// The lock.
    pub lock: LockAddr,
    /// What it wanted.
    pub operation: LockOperation,
    /// How it ended.
    pub outcome: LockOutcome,
    /// The scheduler poll it is part of, named by its start.
    pub poll_start: Option<Timestamp>,
    /// Stack at its start.
    pub waiter_stack: Option<StackId>,
    /// The task that waited for a lock of Tokio's.
    pub task: Option<TaskAddr>,
    /// Releases during the wait.
    pub releases: u32,
    /// Who released, in that order; of more than fit, those that took most of it.
    pub holders: [Option<WaitHolder>; wire::WAIT_HOLDERS],
    /// What the others took of it.
    pub others: Nanos,
    /// What of it lies behind a release, before the lock was known to be somebody's again.
    pub handover: Nanos,
}

/// A hold with an event of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The thread that released.
    pub tid: Tid,
    /// When.
    pub end: Timestamp,
    /// The lock.
    pub lock: LockAddr,
    /// How it was acquired, or what kind of lock it is.
    pub operation: LockOperation,
    /// It was held for at least so long: exactly, if `exact`.
    pub at_least: Nanos,
    /// And for no longer than this, where an acquisition by the same thread was seen.
    pub at_most: Option<Nanos>,
    /// Both ends were seen.
    pub exact: bool,
    /// It was acquired in an earlier poll than it was released in.
    pub across_await: bool,
    /// Where it was acquired.
    pub acquire_stack: Option<StackId>,
    /// Where it was released.
    pub release_stack: Option<StackId>,
    /// The task that released it.
    pub task: Option<TaskAddr>,
    /// The poll that released it, named by its start.
    pub poll_start: Option<Timestamp>,
}

/// A task that was ready to run and had to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskDelay {
    /// The thread that polled it in the end.
    pub tid: Tid,
    /// When it was woken, or given to the blocking pool.
    pub woken: Timestamp,
    /// When its poll began.
    pub end: Timestamp,
    /// The task.
    pub task: TaskAddr,
    /// Its number, where it is known.
    pub task_id: Option<TaskId>,
    /// The instance that was entered.
    pub site: SiteId,
    /// The thread that woke it.
    pub waker: Tid,
    /// That thread runs a runtime, so that the task went into its queue.
    pub local: bool,
}

/// What one thread's polls did for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSlice {
    /// The thread.
    pub tid: Tid,
    /// From when ...
    pub start: Timestamp,
    /// ... to when.
    pub end: Timestamp,
    /// Scheduler polls that ended.
    pub polls: u64,
    /// Their summed duration.
    pub busy: Nanos,
    /// The longest.
    pub longest: Nanos,
    /// Asleep outside of polls.
    pub parked: Nanos,
    /// Blocking-pool tasks that ended.
    pub blocking_polls: u64,
    /// Their summed duration.
    pub blocking: Nanos,
    /// Polls of tasks that another worker had woken.
    pub stolen: u64,
    /// The thread runs a worker's loop.
    pub is_worker: bool,
}

/// One record of the ring buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread was seen for the first time.
    ThreadSeen {
        /// The thread.
        tid: Tid,
        /// Its kernel name.
        name: String,
    },
    /// A poll's return address was seen for the first time.
    ReturnSite {
        /// When.
        at: Timestamp,
        /// The address.
        return_addr: CodeAddr,
        /// The instance that was entered.
        site: SiteId,
    },
    /// See [`CpuSample`].
    CpuSample(CpuSample),
    /// See [`OffCpu`].
    OffCpu(OffCpu),
    /// See [`LongPoll`].
    LongPoll(LongPoll),
    /// See [`LockWait`].
    LockWait(LockWait),
    /// See [`Hold`].
    Hold(Hold),
    /// See [`TaskDelay`].
    TaskDelay(TaskDelay),
    /// See [`WorkerSlice`].
    WorkerSlice(WorkerSlice),
    /// The target replaced its image: what follows belongs to another program.
    ProcessExec {
        /// When.
        at: Timestamp,
    },
}

/// A stack as the kernel side took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawStack {
    /// How the walk ended.
    pub outcome: WalkOutcome,
    /// The instruction pointer, then return addresses, innermost first; see `wire::Stack`.
    pub addresses: Vec<u64>,
}

/// How a walk of a stack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WalkOutcome {
    /// It reached the thread's start.
    Complete,
    /// An address lay in no mapping that holdup knew of.
    Unmapped,
    /// An address lay in code without an unwind table.
    NoTable,
    /// An address had no unwind information, and its caller could not be found without.
    NoCfi,
    /// A row of a table was of a kind that is not supported, or led down the stack.
    BadRow,
    /// The stack could not be read.
    ReadFault,
    /// There were more frames than are kept.
    TooDeep,
    /// The registers could not be read.
    NoRegisters,
    /// All of the kernel side's room to work in was taken.
    NoRoom,
    /// One that this version does not know.
    Unknown,
}

impl WalkOutcome {
    /// All that the kernel side knows, in the order of their codes in `wire::unwind`.
    pub const ALL: [WalkOutcome; wire::unwind::OUTCOMES as usize] = [
        WalkOutcome::Complete,
        WalkOutcome::Unmapped,
        WalkOutcome::NoTable,
        WalkOutcome::NoCfi,
        WalkOutcome::BadRow,
        WalkOutcome::ReadFault,
        WalkOutcome::TooDeep,
        WalkOutcome::NoRegisters,
        WalkOutcome::NoRoom,
    ];

    /// Of an `OUTCOME_` code.
    pub fn from_code(code: u32) -> WalkOutcome {
        let known = WalkOutcome::ALL.get(code as usize).copied();
        known.unwrap_or(WalkOutcome::Unknown)
    }

    /// The code.
    pub fn code(self) -> u32 {
        let at = WalkOutcome::ALL.iter().position(|known| *known == self);
        at.map_or(u32::MAX, |at| at as u32)
    }

    /// What cut a stack short, for people: goes on after "stopped".
    pub fn in_words(self) -> &'static str {
        match self {
            WalkOutcome::Complete => "complete",
            WalkOutcome::Unmapped => "in code that holdup had not seen mapped yet",
            WalkOutcome::NoTable => "in code without an unwind table",
            WalkOutcome::NoCfi => "in a function without unwind information",
            WalkOutcome::BadRow => "at unwind information that is not understood",
            WalkOutcome::ReadFault => "at stack memory that could not be read",
            WalkOutcome::TooDeep => "with more frames than are kept",
            WalkOutcome::NoRegisters => "without registers",
            WalkOutcome::NoRoom => "with no room to work in",
            WalkOutcome::Unknown => "for a reason that this version does not know",
        }
    }

    /// As it is called in the report's schema.
    pub fn name(self) -> &'static str {
        match self {
            WalkOutcome::Complete => "complete",
            WalkOutcome::Unmapped => "unmapped",
            WalkOutcome::NoTable => "no_table",
            WalkOutcome::NoCfi => "no_cfi",
            WalkOutcome::BadRow => "bad_row",
            WalkOutcome::ReadFault => "read_fault",
            WalkOutcome::TooDeep => "too_deep",
            WalkOutcome::NoRegisters => "no_registers",
            WalkOutcome::NoRoom => "no_room",
            WalkOutcome::Unknown => "unknown",
        }
    }
}

/// Sum over all lock waits of one (lock, operation, outcome, waiter stack).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWaitTotals {
    /// The lock.
    pub lock: LockAddr,
    /// What was wanted.
    pub operation: LockOperation,
    /// How the waits ended.
    pub outcome: LockOutcome,
    /// Stack at their start.
    pub waiter_stack: Option<StackId>,
    /// How many.
    pub count: u64,
    /// Their summed duration.
    pub total: Nanos,
    /// The longest.
    pub max: Nanos,
    /// Of these, the waits of at least `wire::LONG_WAIT_NS`: shorter ones are mostly spinning.
    pub long_count: u64,
    /// Their summed duration.
    pub long_total: Nanos,
    /// Of all, the waits during which a release was seen.
    pub joined: u64,
    /// What of those lay behind a release, before the lock was known to be somebody's again.
    pub handover: Nanos,
    /// Entry i counts waits of 2^i up to (excluding) 2^(i+1) ns; the last one is open.
    pub log2_histogram: Vec<u64>,
}

/// Who waited for whom: sum over one (lock, operation, waiter stack, stack of a release during the wait).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTotals {
    /// The lock.
    pub lock: LockAddr,
    /// What was wanted.
    pub operation: LockOperation,
    /// Stack at the wait's start.
    pub waiter_stack: Option<StackId>,
    /// Stack of the release.
    pub holder_stack: Option<StackId>,
    /// Releases during waits.
    pub count: u64,
    /// What these holders took of the waits.
    pub total: Nanos,
    /// The most of one wait.
    pub max: Nanos,
}

/// Holds that ended: sum over one (lock, operation, stacks, how good they are).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldTotals {
    /// The lock.
    pub lock: LockAddr,
    /// What was acquired.
    pub operation: LockOperation,
    /// Of a lock of Tokio's a place where it is acquired.
    pub acquire_stack: Option<StackId>,
    /// Where it was released.
    pub release_stack: Option<StackId>,
    /// What is known of them.
    pub evidence: HoldEvidence,
    /// Acquired in an earlier poll than released in.
    pub across_await: bool,
    /// How many.
    pub count: u64,
    /// Their summed duration, or at least so much of it.
    pub total: Nanos,
    /// The longest.
    pub max: Nanos,
}

/// What is known of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldEvidence {
    /// Both ends were seen.
    Exact,
    /// The end was seen, and that it was held since a moment before: a lower bound.
    AtLeast,
    /// The lock was acquired in a poll and still locked at that poll's end, by whomever.
    LockedAtPollEnd,
}
