//! Room to work in, for a walk or a join: larger than a BPF stack.
//!
//! A program can be interrupted on its CPU by another one (a uprobe by the CPU clock, or, as uprobe programs
//! can be preempted, by another thread's uprobe), so each CPU has room for several, and whoever works in one
//! has claimed it.

use holdup_probe_ebpf::wire;

use crate::{atomics, holders::Join, maps::SCRATCH, unwind::Walk};

/// How many programs can work on one CPU at a time.
pub const SLOTS: u32 = 4;

/// Registers in the kernel's record of a thread. A power of two, for masking; aarch64 has 34.
pub const REGISTERS: usize = 64;

/// Words of a stack that are looked at at once.
pub const WORDS: usize = 16;

/// One program's room.
#[repr(C)]
pub struct Scratch {
    /// 1 while somebody works here.
    claimed: u64,
    /// The walk under way.
    pub walk: Walk,
    /// The stack that is being taken.
    pub stack: wire::Stack,
    /// The thread's user registers.
    pub registers: [u64; REGISTERS],
    /// A piece of its stack.
    pub words: [u64; WORDS],
    /// A wait that is joined to its holders.
    pub join: Join,
}

/// Claims room; None when all is taken.
#[inline(always)]
pub fn claim() -> Option<*mut Scratch> {
    for slot in 0..SLOTS {
        let scratch = SCRATCH.get_ptr_mut(slot)?;
        // SAFETY: a map value.
        if unsafe { atomics::compare_exchange(&raw mut (*scratch).claimed, 0, 1) } == 0 {
            return Some(scratch);
        }
    }
    None
}

/// Gives it back.
#[inline(always)]
pub fn release(scratch: *mut Scratch) {
    // SAFETY: a map value that the caller has claimed; volatile, so that it stays last.
    unsafe { core::ptr::write_volatile(&raw mut (*scratch).claimed, 0) };
}
