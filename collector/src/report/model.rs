//! The report: what `report.json` holds and what every renderer draws from. Plain data, all of it computed.
//!
//! Conventions of the schema: `_ns` is nanoseconds; addresses and stack ids are strings (`"0x7f…"`), because
//! 64 bits don't fit into JSON's numbers everywhere; a list that others refer to by index keeps its order.
//! `schema_version` is raised when a field changes its meaning or goes away, not when one is added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Flame, StuckEntry};
use crate::capture::{Cut, EndReason, ProbeFamily, UnwindTables};
use crate::classify::{Origin, SleepKind};
use crate::correlate::{Activity, Evidence};
use crate::event::{LockOperation, LockOutcome, Nanos, SiteClass};

/// Version of the schema of `report.json`.
pub const SCHEMA_VERSION: u32 = 2;

/// Everything that holdup has to say about one capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was recorded.
    pub capture: CaptureInfo,
    /// The totals.
    pub summary: Summary,
    /// What a person should know, most harm first.
    pub findings: Vec<Finding>,
    /// Where the time of long polls went, most first. They add up to `summary.blocking_ns`.
    pub call_sites: Vec<CallSiteTotals>,
    /// The long polls, in the order of their starts; of very many the longest.
    pub long_polls: Vec<LongPollEntry>,
    /// The locks that were waited for or seen to be held, most waited for first. Who takes a parking_lot or std lock
    /// that is free, and gives it back before anybody waits, leaves no trace.
    pub locks: Vec<LockEntry>,
    /// The same locks, those of one type together, most waited for first.
    pub lock_types: Vec<LockTypeEntry>,
    /// Waits of at least the threshold, in the order of their ends; of very many the longest.
    pub lock_waits: Vec<LockWaitEntry>,
    /// Holds of at least the threshold, and of parking_lot's and std's locks all across an await, in the order of their
    /// ends; of very many the longest.
    pub holds: Vec<HoldEntry>,
    /// Threads that were found waiting for a lock for long.
    #[serde(default)]
    pub stuck: Vec<StuckEntry>,
    /// Condvars: waiting there is idling or signalling, never contention.
    pub condvars: Vec<CondvarEntry>,
    /// What was polled, by the type of future, most time first. All polls count, not only the long ones.
    #[serde(default)]
    pub task_types: Vec<TaskTypeEntry>,
    /// The threads of runtimes and of their blocking pools, busiest first.
    #[serde(default)]
    pub workers: Vec<WorkerEntry>,
    /// The probed instances of `tokio::runtime::task::raw::poll` that were seen to poll.
    pub poll_sites: Vec<PollSiteEntry>,
    /// The stacks that the entries above name: indices in `frames`, innermost first, from the code that ran
    /// to the thread's start.
    pub stacks: BTreeMap<String, Vec<usize>>,
    /// Those of `stacks` whose walk did not reach the thread's start: their outermost callers are missing. The
    /// reasons are those in `coverage.unwinding`.
    pub cut_stacks: BTreeMap<String, String>,
    /// The frames of those stacks, with whole names, each once.
    pub frames: Vec<NamedFrame>,
    /// What is missing in these lists, because a report of a huge recording would be too large.
    pub not_listed: NotListed,
    /// What could be observed and what not.
    pub coverage: Coverage,
    /// What the kernel side counted.
    pub counters: BTreeMap<String, u64>,
    /// Runtime-blocking time by stack: drawn, not part of the JSON, which has the same times in
    /// `long_polls` and `stacks`.
    #[serde(skip)]
    pub blocking: Flame,
    /// Lock wait by lock, operation and waiter's stack: drawn, not part of the JSON.
    #[serde(skip)]
    pub lock_wait: Flame,
    /// CPU time of the whole process by what it did, estimated from samples: drawn, not part of the JSON.
    #[serde(skip)]
    pub on_cpu: Flame,
    /// The same time by lock and holder's stack.
    #[serde(skip)]
    pub lock_holder: Flame,
    /// The same time by lock, holder's and waiter's stack.
    #[serde(skip)]
    pub lock_pairs: Flame,
}

/// Entries that the report counts, but does not list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotListed {
    /// Long polls: shorter than those in `long_polls`.
    pub long_polls: u64,
    /// Locks: less waited for than those in `locks`.
    pub locks: u64,
    /// Lock types: less waited for than those in `lock_types`.
    pub lock_types: u64,
    /// Lock waits: shorter than those in `lock_waits`.
    pub lock_waits: u64,
    /// Holds: shorter than those in `holds`.
    pub holds: u64,
    /// Condvars: less waited at than those in `condvars`.
    pub condvars: u64,
    /// Findings: with less harm than those in `findings`.
    pub findings: u64,
}

/// What was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInfo {
    /// Version of holdup that recorded.
    pub holdup_version: String,
    /// The process.
    pub pid: u32,
    /// Its name.
    pub process_name: String,
    /// Its executable.
    pub executable: String,
    /// GNU build-id of the executable, hex.
    pub build_id: Option<String>,
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture.
    pub architecture: String,
    /// Wall clock at the start: nanoseconds since the Unix epoch.
    pub started_unix_ns: u64,
    /// The same moment on `CLOCK_MONOTONIC`; all `start_ns` count from here.
    pub started_monotonic_ns: u64,
    /// How long.
    pub duration_ns: Nanos,
    /// How long it took to put the probes in place, before the recording.
    pub attach_ns: Nanos,
    /// How long it took to remove them, after it.
    pub detach_ns: Nanos,
    /// What ended it.
    pub end: EndReason,
    /// A poll of at least this long is a long poll.
    pub threshold_ns: Nanos,
    /// Samples and intervals are kept once a poll is this old.
    pub sample_after_ns: Nanos,
    /// CPU samples for each second and CPU.
    pub frequency_hz: u32,
    /// The delays of one of so many tasks were looked at.
    #[serde(default)]
    pub one_task_of: u32,
}

/// How good a number is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Measured from end to end.
    #[default]
    Exact,
    /// It is at least this: something in it was still under way when the recording ended, or is missing.
    LowerBound,
    /// It is at most this: the end of something in it was not seen.
    UpperBound,
    /// Either way: lower and upper bounds are mixed in it.
    Estimate,
}

/// The totals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Scheduler polls that ended, long or not.
    pub polls: u64,
    /// Long polls in this report.
    pub long_polls: u64,
    /// Runtime-blocking time: their summed duration.
    pub blocking_ns: Nanos,
    /// How good that is.
    pub blocking_certainty: Certainty,
    /// The longest.
    pub longest_ns: Nanos,
    /// What they were made of.
    pub anatomy: Anatomy,
    /// Total of the flamegraph of runtime-blocking time, summed over its stacks.
    pub blocking_flame_ns: Nanos,
    /// Lock waits of threads that ended.
    pub lock_waits: u64,
    /// Their summed duration.
    pub lock_wait_ns: Nanos,
    /// Waits of tasks for Tokio's locks that ended; for room in a channel they are not counted.
    pub task_waits: u64,
    /// Their summed duration.
    pub task_wait_ns: Nanos,
    /// How good these four are.
    pub lock_wait_certainty: Certainty,
    /// Total of the flamegraph of lock wait, summed over its stacks. It is more than the two sums above by the
    /// waits that were still under way at the end.
    pub lock_wait_flame_ns: Nanos,
}

/// What a long poll was made of. The four add up to its duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anatomy {
    /// Running.
    pub on_cpu_ns: Nanos,
    /// Of that, at least so much was taken by the hypervisor: the thread believed to run, and did not.
    #[serde(default)]
    pub stolen_ns: Nanos,
    /// In locks' slow paths.
    pub lock_wait_ns: Nanos,
    /// Runnable, not running.
    pub run_queue_ns: Nanos,
    /// Off-CPU otherwise: sleep, I/O, page fault.
    pub sleep_ns: Nanos,
}

/// Tasks that were ready to run and had to wait for long polls: at least so many. A delay under a sixteenth of the
/// threshold, or 0.1 ms, is not among them, nor is one that had not ended when the recording did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VictimsEntry {
    /// Different tasks; of several polls, each poll's.
    pub tasks: u64,
    /// Times that one of them had to wait.
    pub delays: u64,
    /// How long they waited for it, all together.
    pub delay_ns: Nanos,
    /// The delays of one of so many tasks were looked at (`capture.one_task_of`), and these numbers are so many times what
    /// was seen: estimates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sampled: bool,
}

/// Sleep for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsleepEntry {
    /// What for.
    pub kind: SleepKind,
    /// In which system call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// How long.
    pub time_ns: Nanos,
}

/// A named frame.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedFrame {
    /// For people: shortened, without file and line.
    pub label: String,
    /// Whole, demangled.
    pub function: String,
    /// Its type arguments, whole, where debug information has them; those of the type that it is a method of in
    /// front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generics: Option<String>,
    /// For people: `src/handshake.rs:41`, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Source file, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The crate, if it is known.
    #[serde(default, rename = "crate", skip_serializing_if = "Option::is_none")]
    pub krate: Option<String>,
    /// Whose code it is.
    pub origin: Origin,
    /// The compiler inlined it into the frame that follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
}

/// Whose line of code is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSite {
    /// For crypto the innermost crypto frame, else the innermost frame of the user's code. Where a stack has
    /// neither, the innermost library's, else the innermost of all.
    pub frame: NamedFrame,
    /// The innermost frame of the user's code, where `frame` isn't it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called_by: Option<NamedFrame>,
}

/// Time of long polls at one call site and of one activity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSiteTotals {
    /// Where; None for the time that no stack names.
    pub call_site: Option<CallSite>,
    /// Doing what.
    pub activity: Activity,
    /// How long. On-CPU time is exact for a poll and shared out over its samples.
    pub time_ns: Nanos,
    /// Samples behind it, where it is on-CPU time.
    pub samples: u64,
    /// In how many long polls.
    pub polls: u64,
}

/// One long poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongPollEntry {
    /// When it began, from the recording's start.
    pub start_ns: Nanos,
    /// How long it blocked its runtime.
    pub duration_ns: Nanos,
    /// How good that is.
    pub certainty: Certainty,
    /// Kernel thread id.
    pub tid: u32,
    /// The thread's name.
    pub thread: Option<String>,
    /// Which runtime the thread drove, and as what, if that was the same whenever it was seen; without a worker where
    /// `block_in_place` handed workers over in the recording.
    #[serde(default, flatten)]
    pub runtime: Option<RuntimeEntry>,
    /// Address of the task's header.
    pub task: String,
    /// Tokio's own number of the task, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<u64>,
    /// For people: the task's future, shortened.
    pub task_name: String,
    /// The future's type, whole; None without DWARF.
    pub future: Option<String>,
    /// Its poll instance: an id in `poll_sites`.
    pub poll_site: u32,
    /// It ended for its runtime when `block_in_place` handed the worker's core off.
    pub handed_off: bool,
    /// Neither DWARF nor the return address told whether it is a scheduler poll.
    pub unclassified: bool,
    /// What it was made of.
    pub anatomy: Anatomy,
    /// What it slept for, most first; adds up to `anatomy.sleep_ns`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asleep: Vec<AsleepEntry>,
    /// Who had to wait for it; None where wakes were not probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victims: Option<VictimsEntry>,
    /// Its parts did not fit its duration and were cut to it.
    pub inconsistent: bool,
    /// Its time by stack; adds up to `duration_ns`.
    pub shares: Vec<ShareEntry>,
}

/// A stretch of a long poll, or several with the same stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareEntry {
    /// Doing what.
    pub activity: Activity,
    /// What is known of where.
    pub evidence: Evidence,
    /// The stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The lock that was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Who had it meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldByEntry>,
    /// How long.
    pub time_ns: Nanos,
    /// Of sleep, in which system call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// CPU samples or off-CPU intervals behind it; of a lock wait, releases, or waits without one.
    pub events: u64,
}

/// Who had a lock while somebody waited for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "who")]
pub enum HeldByEntry {
    /// Who released it with this stack.
    Holder {
        /// None where it could not be stored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stack: Option<String>,
    },
    /// Others than those whose releases are told one by one.
    Others,
    /// It had been released, and was not known to be anybody's yet.
    Handover,
    /// That was not seen.
    Unseen,
}

/// Lock waits, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitTotals {
    /// Waits that ended.
    pub waits: u64,
    /// Their summed duration.
    pub total_ns: Nanos,
    /// The longest.
    pub max_ns: Nanos,
    /// Of these, the waits of 100 µs and more: shorter ones are mostly spinning.
    pub long_waits: u64,
    /// Their summed duration.
    pub long_total_ns: Nanos,
    /// Of `waits`, those that ended at their deadline, without the lock.
    pub timed_out: u64,
}

/// Whose lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockFamily {
    /// parking_lot, under whatever name it is re-exported.
    ParkingLot,
    /// The standard library.
    Std,
    /// `tokio::sync`.
    Tokio,
}

impl LockFamily {
    /// Whose lock an operation is on. An address alone does not tell: a semaphore of Tokio's begins with a lock of its own.
    pub fn of(operation: LockOperation) -> LockFamily {
        match operation {
            LockOperation::Mutex
            | LockOperation::RwShared
            | LockOperation::RwExclusive
            | LockOperation::RwUpgradable
            | LockOperation::RwUpgrade
            | LockOperation::Condvar => LockFamily::ParkingLot,
            LockOperation::StdMutex | LockOperation::StdRead | LockOperation::StdWrite => {
                LockFamily::Std
            }
            LockOperation::TokioAcquire => LockFamily::Tokio,
        }
    }

    /// Whether who waits for such a lock blocks a thread; for one of Tokio's a task waits, and its thread goes on.
    pub fn blocks_threads(self) -> bool {
        self != LockFamily::Tokio
    }
}

/// What sort of lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockShape {
    /// One holder.
    Mutex,
    /// Several readers or one writer.
    RwLock,
    /// Permits; also Tokio's locks whose stacks do not tell which one they are.
    Semaphore,
    /// Room in a bounded channel of Tokio's: no lock, and never contention.
    Channel,
}

/// One lock that somebody waited for, or that was seen to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockEntry {
    /// Address of the raw lock. Memory is used again, so that over a long recording two locks can have
    /// had the same.
    pub address: String,
    /// Whose lock it is.
    pub family: LockFamily,
    /// What it is.
    pub kind: LockShape,
    /// The type of what it protects, whole; None where debug information does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protects: Option<String>,
    /// For people: what it is and where most of the wait for it is.
    pub name: String,
    /// Where most of the wait for it is; of a lock that nobody waited for, where it was acquired or released.
    pub acquired_at: Option<CallSite>,
    /// From how many call sites it was waited for.
    pub acquired_from: u64,
    /// All operations together.
    #[serde(flatten)]
    pub totals: WaitTotals,
    /// Entry i counts waits of 2^i up to (excluding) 2^(i+1) ns; empty ones at the end are left out.
    pub log2_histogram: Vec<u64>,
    /// Each operation for itself.
    pub operations: BTreeMap<LockOperation, WaitTotals>,
    /// Waits that had not ended when the recording did.
    pub still_waiting: StillWaiting,
    /// Who held it while others waited.
    pub holders: Holders,
    /// Who waited for whom, most first.
    pub pairs: Vec<LockPair>,
    /// How long it was held, as far as that was seen.
    pub holds: HoldTotalsEntry,
    /// Of these, holds that were acquired in an earlier poll than released in.
    pub across_await: HoldTotalsEntry,
    /// Polls that had acquired it after waiting and at whose end it was still locked: by a guard that lived on, or by
    /// somebody else since.
    pub locked_at_poll_end: u64,
}

/// Holds, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldTotalsEntry {
    /// How many.
    pub count: u64,
    /// Their summed duration, or at least so much of it.
    pub total_ns: Nanos,
    /// The longest.
    pub longest_ns: Nanos,
    /// How good both are: exact only if every hold is.
    pub longest_certainty: Certainty,
}

/// Locks of one type, or, where no type is known, acquired at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockTypeEntry {
    /// For people: `RwLock<Toolset> (parking_lot)`, and of where it is acquired the place with the most wait.
    pub name: String,
    /// Whose locks they are.
    pub family: LockFamily,
    /// What they are.
    pub kind: LockShape,
    /// The type of what they protect, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protects: Option<String>,
    /// Where most of the wait for them is, or where one of them was acquired.
    pub acquired_at: Option<CallSite>,
    /// All operations of all of them together.
    #[serde(flatten)]
    pub totals: WaitTotals,
    /// Waits that had not ended when the recording did.
    pub still_waiting: StillWaiting,
    /// Who held them while others waited.
    pub holders: Holders,
    /// How long they were held, as far as that was seen.
    pub holds: HoldTotalsEntry,
    /// Of these, holds that were acquired in an earlier poll than released in.
    pub across_await: HoldTotalsEntry,
    /// As in [`LockEntry`].
    pub locked_at_poll_end: u64,
    /// Their addresses: in `locks`, as far as they are listed there.
    pub instances: Vec<String>,
}

/// One lock wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWaitEntry {
    /// When it began, from the recording's start.
    pub start_ns: Nanos,
    /// How long.
    pub duration_ns: Nanos,
    /// How good that is.
    pub certainty: Certainty,
    /// Kernel thread id of the waiter; of a task the thread of the poll that ended the wait.
    pub tid: u32,
    /// That thread's name.
    pub thread: Option<String>,
    /// The task that waited for a lock of Tokio's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Which lock.
    pub lock: String,
    /// What was wanted.
    pub operation: LockOperation,
    /// How it ended.
    pub outcome: LockOutcome,
    /// Where it was waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiter_stack: Option<String>,
    /// Releases during it; of more than four, `holders` has those that took most of it.
    pub releases: u32,
    /// Who held the lock meanwhile, in the order of their releases.
    pub holders: Vec<WaitHolderEntry>,
    /// What others took of the wait.
    #[serde(default, skip_serializing_if = "Nanos::is_zero")]
    pub others_ns: Nanos,
    /// What of the wait lies behind a release: until somebody was known to have the lock again, or the waiter ran.
    pub handover_ns: Nanos,
}

/// One who held a lock during a wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitHolderEntry {
    /// Kernel thread id.
    pub tid: u32,
    /// What of the wait it took at least: since it is known to have the lock, until its release.
    pub held_ns: Nanos,
    /// Stack of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldEntry {
    /// Which lock.
    pub lock: String,
    /// How it was acquired, or what kind of lock it is.
    pub operation: LockOperation,
    /// Kernel thread id of who released it.
    pub tid: u32,
    /// The task that released it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// When, from the recording's start.
    pub end_ns: Nanos,
    /// How long it was held, at least.
    pub at_least_ns: Nanos,
    /// And at most, where an acquisition by the same thread was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most_ns: Option<Nanos>,
    /// How good `at_least_ns` is.
    pub certainty: Certainty,
    /// Acquired in an earlier poll than released in.
    pub across_await: bool,
    /// Where it was acquired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acquire_stack: Option<String>,
    /// Where it was released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_stack: Option<String>,
    /// The frame under which it was held: where it was released.
    pub call_site: Option<CallSite>,
    /// What the holder computed meanwhile: the call site of most of its CPU samples, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<CallSite>,
}

/// Who held a lock in the waits for it: what of them lies between when somebody is known to have the lock and when that one
/// released it. The shares add up to the waits that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// By function, most wait first.
    pub seen: Vec<HolderShare>,
    /// What others took of the waits, where not all that held the lock in one wait are told one by one.
    #[serde(default, skip_serializing_if = "Nanos::is_zero")]
    pub others_ns: Nanos,
    /// What of these waits lies behind a release: until somebody was known to have the lock again, or the waiter ran.
    pub handover_ns: Nanos,
    /// Waits during which no release was seen: nobody was parked, the wait was given up, or the unlock was not probed.
    pub unseen_waits: u64,
    /// Their summed duration, and what of others lies before their first holder was known to have it: nobody was parked yet.
    pub unseen_ns: Nanos,
}

/// What one function took of the waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderShare {
    /// Where it released the lock, by most wait.
    pub call_site: CallSite,
    /// Releases during waits.
    pub releases: u64,
    /// What it took of them.
    pub total_ns: Nanos,
}

/// Waits under way at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillWaiting {
    /// How many.
    pub waits: u64,
    /// How long so far, in total.
    pub at_least_ns: Nanos,
}

/// Waits at one place for a holder at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockPair {
    /// What was wanted.
    pub operation: LockOperation,
    /// Where it was waited.
    pub waiter: Option<CallSite>,
    /// Where the lock was released.
    pub holder: Option<CallSite>,
    /// Releases there during waits here.
    pub releases: u64,
    /// What these holders took of the waits.
    pub total_ns: Nanos,
    /// The most of one wait.
    pub max_ns: Nanos,
    /// The waiter's stack with most of it.
    pub waiter_stack: Option<String>,
    /// The stack of the release with most of it.
    pub holder_stack: Option<String>,
}

/// A condvar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CondvarEntry {
    /// Its address.
    pub address: String,
    /// The waits that ended.
    #[serde(flatten)]
    pub totals: WaitTotals,
}

/// What one poll instance did in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollSiteEntry {
    /// What `LongPollEntry::poll_site` refers to.
    pub id: u32,
    /// Entry address.
    pub address: String,
    /// What it runs.
    pub class: SiteClass,
    /// For people: its future, shortened.
    pub task_name: String,
    /// The future's type, whole; None without DWARF.
    pub future: Option<String>,
    /// Polls seen to end.
    pub polls: u64,
    /// Their summed duration.
    pub total_ns: Nanos,
    /// The longest.
    pub max_ns: Nanos,
    /// Different tasks among them; 0 on the blocking pool, where each is polled once.
    #[serde(default)]
    pub tasks: u64,
    /// Long polls in this report.
    pub long_polls: u64,
    /// Their summed duration.
    pub blocking_ns: Nanos,
}

/// All tasks of one future type on one kind of scheduler, or on the blocking pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskTypeEntry {
    /// For people: the future, shortened.
    pub task_name: String,
    /// The future's type, whole; None without DWARF.
    pub future: Option<String>,
    /// What it runs on.
    pub class: SiteClass,
    /// Where the program's code spawns them: of several places nobody knows which spawned how many. Empty where the code does
    /// not tell.
    #[serde(default)]
    pub spawned_in: Vec<NamedFrame>,
    /// The code has other ways to spawn them, which could not be followed to a line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spawned_elsewhere: bool,
    /// Different tasks that were polled.
    pub tasks: u64,
    /// How good that is: an upper bound where there were more than holdup remembers, a lower bound where tasks have no
    /// numbers, so that one in another's place is taken for the same.
    pub tasks_certainty: Certainty,
    /// Polls seen to end; of a root future of `block_on` the long ones alone, and the next five are of them.
    pub polls: u64,
    /// Their summed duration.
    pub total_ns: Nanos,
    /// Half of them took no longer than this, to within 1/64.
    pub p50_ns: Nanos,
    /// And nine of ten than this.
    pub p90_ns: Nanos,
    /// And 99 of 100 than this.
    pub p99_ns: Nanos,
    /// The longest, exactly.
    pub max_ns: Nanos,
    /// How many took how long, shortest first; buckets are 1/32 of their lower end wide.
    pub durations: Vec<DurationBucket>,
    /// From being woken to being polled; on the blocking pool from being given to it.
    pub delays: DelayTotals,
    /// Long polls in this report.
    pub long_polls: u64,
    /// Their summed duration.
    pub blocking_ns: Nanos,
}

/// From tasks' being woken to their polls, of those that were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayTotals {
    /// How many.
    pub count: u64,
    /// Their summed duration.
    pub total_ns: Nanos,
    /// The longest.
    pub max_ns: Nanos,
    /// Entry i counts delays of 2^i up to (excluding) 2^(i+1) ns; the last one is open.
    pub log2_histogram: Vec<u64>,
}

/// One thread of the runtime, or of its blocking pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEntry {
    /// Kernel thread id.
    pub tid: u32,
    /// The thread's name.
    pub thread: Option<String>,
    /// What it is.
    pub role: WorkerRole,
    /// Which of the process's runtimes drives it, where that was seen.
    #[serde(default, flatten)]
    pub runtime: Option<RuntimeEntry>,
    /// For how long something is known of it.
    pub observed_ns: Nanos,
    /// Scheduler polls that ended on it.
    pub polls: u64,
    /// Their summed duration.
    pub busy_ns: Nanos,
    /// The longest.
    pub longest_ns: Nanos,
    /// Asleep outside of polls, and not waiting for a lock.
    pub parked_ns: Nanos,
    /// Polls of tasks that another worker had woken or spawned, of those that were looked at: one of `capture.one_task_of`, so a lower
    /// bound where that is more than one. None where wakes were not probed.
    pub stolen: Option<u64>,
    /// Tasks of the blocking pool that ended on it.
    pub blocking_tasks: u64,
    /// Their summed duration.
    pub blocking_ns: Nanos,
    /// What it did in each tenth of a second or longer, in order: a poll that goes on for longer than that is in none of
    /// them until it ends.
    pub slices: Vec<SliceEntry>,
}

/// Which runtime a thread drove, and as what, when it was seen last: looked for once a second, and at the recording's end.
/// `block_in_place` hands a worker to another thread: then both have had its index, and the first one may become another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeEntry {
    /// The runtime's number, counted from 1 by the lowest id of a thread that was seen to drive it: usually in the order in which
    /// they were made. One that took the place of another in memory is not told apart from it.
    pub runtime: u32,
    /// What sort of runtime.
    pub flavor: RuntimeFlavor,
    /// Which of a multi-thread runtime's workers: what Tokio's metrics and `tokio::runtime::worker_index` call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_index: Option<u32>,
    /// It was seen as another worker before, or as another runtime's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_changed: bool,
}

/// What sort of runtime, as Tokio calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeFlavor {
    /// Its workers' threads poll tasks.
    MultiThread,
    /// The thread that called `block_on` does.
    CurrentThread,
}

/// What a thread is to its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerRole {
    /// A worker of a multi-threaded runtime.
    Worker,
    /// It polls tasks and runs no worker's loop: a current-thread runtime, or a worker whose loop could not be told.
    Scheduler,
    /// It runs tasks of the blocking pool alone.
    BlockingPool,
}

/// What a thread did for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEntry {
    /// From when, counted from the recording's start.
    pub start_ns: Nanos,
    /// For how long.
    pub duration_ns: Nanos,
    /// Scheduler polls that ended.
    pub polls: u64,
    /// Their summed duration.
    pub busy_ns: Nanos,
    /// Asleep outside of polls.
    pub parked_ns: Nanos,
    /// In tasks of the blocking pool that ended.
    #[serde(default)]
    pub blocking_ns: Nanos,
}

/// Durations from here up to where the next bucket begins, at most 1/32 more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurationBucket {
    /// Where it begins.
    pub from_ns: Nanos,
    /// How many are in it.
    pub count: u64,
}

/// One thing that a person can act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which check found it, e.g. `crypto_on_worker`.
    pub check: String,
    /// What happened, where, how much, and what to do.
    pub sentence: String,
    /// What the check looks for and why that is bad.
    pub explanation: String,
    /// What it is ranked by: time that it held up runtimes or threads, and what tasks waited for them meanwhile, as far
    /// as that was seen.
    pub harm_ns: Nanos,
    /// How good that is.
    pub certainty: Certainty,
    /// Long polls or lock waits behind it.
    pub count: u64,
    /// The longest of them.
    pub longest_ns: Nanos,
    /// Whose line.
    pub call_site: Option<CallSite>,
    /// Which lock: an address in `locks`, if it is listed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Who held the lock for at least half of the wait for it: the place to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<CallSite>,
    /// Who held the lock for which share of the wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<Holders>,
    /// Whose polls, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskShare>,
    /// What those polls were made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anatomy: Option<Anatomy>,
    /// What they slept for, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asleep: Vec<AsleepEntry>,
    /// Who had to wait for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victims: Option<VictimsEntry>,
    /// Those polls: indices in `long_polls`, as far as they are listed there; `count` has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub long_polls: Vec<usize>,
}

/// A task's part in a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskShare {
    /// Its future, shortened.
    pub task_name: String,
    /// How many polls.
    pub polls: u64,
    /// Their summed duration.
    pub total_ns: Nanos,
}

/// What could be observed in this binary on this kernel, what could not, and what was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Probe family by probe family.
    pub probes: Vec<ProbeFamily>,
    /// Events that did not fit into the ring buffer.
    pub lost: Lost,
    /// Stacks.
    pub stacks: StackCoverage,
    /// What stacks were walked with.
    pub unwind_tables: UnwindTables,
    /// How the walks of stacks ended, by what asked for them.
    pub unwinding: Vec<Unwinding>,
    /// Polls.
    pub polls: PollCoverage,
    /// Lock waits that found no room in the kernel side's map: missing in `locks`.
    pub lock_waits_not_aggregated: u64,
    /// Lock waits nested too deep to be followed.
    pub lock_waits_too_deep: u64,
    /// Unlocks that found no room: their waiters' holder is unknown.
    pub unlocks_not_stored: u64,
    /// Who waited for whom, as far as it found no room: these holders are unknown.
    pub pairs_not_stored: u64,
    /// Holds that found no room in the kernel side's map.
    pub holds_not_stored: u64,
    /// Releases of Tokio's locks whose acquisition was not seen: `try_lock`'s, or from before the recording.
    #[serde(default)]
    pub task_releases_unmatched: u64,
    /// Wakes of tasks that found no room: their delays are not known.
    #[serde(default)]
    pub wakes_not_stored: u64,
    /// What was seen at the beginning of polls and found no room, also of those that stayed short.
    #[serde(default)]
    pub early_not_kept: u64,
    /// Off-CPU intervals of which the kernel did not tell the end, or the wake-up before it: that is reckoned from the kernel's
    /// own account of when the thread could run and got its CPU, where it keeps one. Else what followed counts as on-CPU.
    #[serde(default)]
    pub back_on_cpu_unseen: u64,
    /// Threads that found no room in the kernel side's map: nothing of theirs is seen.
    pub threads_not_tracked: u64,
    /// Records that this version does not understand, by reason.
    pub undecoded: BTreeMap<String, u64>,
    /// Where the capture was cut off, if it was.
    pub cut: Option<Cut>,
    /// All of the above that limits what the numbers mean, one sentence each.
    pub notes: Vec<String>,
}

/// Events that did not fit into the ring buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Long polls: missing in this report.
    pub long_polls: u64,
    /// Their summed duration.
    pub long_poll_ns: Nanos,
    /// CPU samples: their polls' on-CPU time is shared out over fewer.
    pub samples: u64,
    /// Off-CPU intervals: their time has no stack.
    pub off_cpu: u64,
    /// Lock waits of long polls: their time has no stack.
    pub lock_waits: u64,
    /// Holds: they are in the sums, not in the list.
    pub holds: u64,
    /// Delays of tasks: what long polls cost others is at least as much as told.
    #[serde(default)]
    pub delays: u64,
    /// Others: thread names, return sites.
    pub other: u64,
}

/// How the walks of one kind of stack ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwinding {
    /// `uprobe`: where a lock wait began or a lock was released; `sample`: on-CPU; `off_cpu`: at a switch-out.
    pub kind: String,
    /// How many walks.
    pub taken: u64,
    /// How many of them reached the thread's start.
    pub complete: u64,
    /// How many ended how; `complete` among them, what did not occur is left out.
    pub outcomes: BTreeMap<String, u64>,
}

/// How good the stacks are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackCoverage {
    /// Different stacks in the capture.
    pub distinct: u64,
    /// Of these, how many reached the thread's start.
    pub reached_thread_start: u64,
    /// Times that a stack was taken.
    pub taken: u64,
    /// Frames of all of these.
    pub frames: u64,
    /// Of these, frames without unwind information (hand-written assembly) whose caller was found nevertheless.
    pub frames_without_cfi: u64,
    /// Return addresses that return probes had replaced, put back.
    pub return_addresses_restored: u64,
    /// Times that one found no room.
    pub not_stored: u64,
    /// Runtime-blocking time with a stack.
    pub blocking_with_stack_ns: Nanos,
    /// Runtime-blocking time whose stack reached the thread's start.
    pub blocking_to_thread_start_ns: Nanos,
    /// Different addresses in the stacks.
    pub addresses: u64,
    /// Of these, how many have a function's name.
    pub addresses_named: u64,
    /// How many have a file and line.
    pub addresses_with_line: u64,
}

/// How good the polls are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollCoverage {
    /// Long polls that began before the recording: left out.
    pub began_earlier: u64,
    /// Polls whose end was not seen.
    pub end_unseen: u64,
    /// Long polls here that are upper bounds.
    pub upper_bounds: u64,
    /// Long polls here that are lower bounds.
    pub lower_bounds: u64,
    /// Polls under way at the end of which nobody knows whether they had ended: left out.
    pub unwatched_at_end: u64,
    /// Long polls here that may not be scheduler polls.
    pub unclassified: u64,
    /// Long polls here whose parts did not fit their duration.
    pub inconsistent: u64,
    /// Off-CPU time and lock wait of long polls of which only the sum is known: one of too many events early in the poll, or
    /// a lost one.
    #[serde(default)]
    pub without_event_ns: Nanos,
    /// Polls nested too deep to be followed.
    pub too_deep: u64,
    /// Places that polls return to where no probe stands: a poll that returns there ends unseen.
    pub return_sites_unwatched: u64,
}
