//! Threads that are asleep in a futex call, as an iterator over the target's threads shows them: what user space
//! needs to walk their stacks, and to tell since when they sleep.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words of registers: as many as the architecture with more of them has (aarch64's `struct user_pt_regs`).
pub const REGISTERS: usize = 34;

/// Replaced return addresses that are told of one thread. Return probes are on locks' slow paths alone, one inside
/// of another at most; the rest is for other tools.
pub const RETURN_PROBES: usize = 8;

/// A thread that was asleep in a futex call when the iterator passed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sleeper {
    /// Who, and since when.
    pub head: Head,
    /// The user registers that it entered the kernel with, in the order of the kernel's record of them.
    pub registers: [u64; REGISTERS],
    /// Return addresses that return probes have replaced on its stack, innermost first; zeroes behind the last.
    pub return_probes: [ReturnProbe; RETURN_PROBES],
}

/// Who sleeps, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// The thread.
    pub tid: u32,
    /// Always zero.
    pub zero: u32,
    /// The kernel's `comm`, NUL padded.
    pub comm: [u8; 16],
    /// Context switches so far, of both kinds: as long as it is the same the thread has not run.
    pub switches: u64,
    /// Estimate of how long it has been asleep; [`ASLEEP_UNKNOWN`] where this kernel does not tell.
    pub asleep_ns: u64,
}

/// The kernel does not keep what the time asleep is made from.
pub const ASLEEP_UNKNOWN: u64 = u64::MAX;

/// A return address that a return probe has replaced.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ReturnProbe {
    /// Stack pointer at the function's entry.
    pub stack_pointer: u64,
    /// Where the function really returns to.
    pub return_address: u64,
}

/// Where the running kernel keeps what the programs read of a thread: offsets in bytes, found by user space, constant for the
/// verifier.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TaskOffsets {
    /// Only threads of this thread group (initial PID namespace); 0 where the kernel passes no others.
    pub only_tgid: u64,
    /// `task_struct.tgid`.
    pub tgid: u64,
    /// `task_struct.pid`.
    pub pid: u64,
    /// `task_struct.__state`.
    pub state: u64,
    /// `task_struct.comm`.
    pub comm: u64,
    /// `task_struct.nvcsw`.
    pub voluntary_switches: u64,
    /// `task_struct.nivcsw`.
    pub involuntary_switches: u64,
    /// `task_struct.sched_info.last_arrival`; 0 where it is not kept.
    pub last_arrival: u64,
    /// `task_struct.sched_info.run_delay`; 0 where it is not kept.
    pub run_delay: u64,
    /// `task_struct.sched_info.last_queued`; 0 where it is not kept.
    pub last_queued: u64,
    /// `task_struct.se.sum_exec_runtime`.
    pub run_time: u64,
    /// `task_struct.se.prev_sum_exec_runtime`.
    pub run_time_at_arrival: u64,
    /// `task_struct.se.cfs_rq`, `cfs_rq.rq` and `rq.clock`; 0 where the kernel does not tell.
    pub cfs_rq: u64,
    /// See `cfs_rq`.
    pub run_queue: u64,
    /// See `cfs_rq`.
    pub run_queue_clock: u64,
    /// `task_struct.thread.fsbase`, on aarch64 `task_struct.thread.uw.tp_value`; 0 where the kernel does not tell.
    pub thread_pointer: u64,
}
