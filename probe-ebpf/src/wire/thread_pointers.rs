//! Where each thread's thread-local variables are, as an iterator over the target's threads shows it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A thread and its thread pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadPointer {
    /// The thread.
    pub tid: u32,
    /// Always zero.
    pub zero: u32,
    /// The base of its segment `fs`; on aarch64 `tpidr_el0`.
    pub address: u64,
}
