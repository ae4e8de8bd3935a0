//! Where the running kernel keeps what a hypervisor took of each CPU.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The way from a thread to the clock of the CPU that it runs on: offsets in bytes, found by user space, constant for the
/// verifier.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StealClock {
    /// Zero where the kernel has no such clock or does not tell: nothing is then known to be stolen.
    pub is_there: u64,
    /// `task_struct.se.cfs_rq`.
    pub task_cfs_rq: u64,
    /// `cfs_rq.rq`.
    pub cfs_rq_rq: u64,
    /// From the per-CPU variable `runqueues` to `steal_time`, whose first member is the clock; may be negative.
    pub from_rq: u64,
}
