//! Where the running kernel keeps what a hypervisor took of each CPU.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The way from a CPU's run queue to the clock of what was taken of that CPU: found by user space, constant for the verifier.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StealClock {
    /// Zero where the kernel has no such clock or does not tell: nothing is then known to be stolen.
    pub is_there: u64,
    /// From the per-CPU variable `runqueues` to `steal_time`, whose first member is the clock: bytes, may be negative.
    pub from_rq: u64,
}
