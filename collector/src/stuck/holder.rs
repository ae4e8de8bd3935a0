//! Pointers to locks on the stacks of stuck threads: a thread's frames and the locks that others wait for go in,
//! those whose address it keeps come out.
//!
//! A guard keeps a pointer to its lock for as long as it lives: on the stack, or in a register that a call leaves
//! alone. It is right when the pointer is a guard's. It errs when it is a mere reference, or was left over from a
//! call that has returned; and it finds nothing where the lock's address is a constant of the code.
//! The frames of the thread's own wait are left out: they are full of such left-overs.

use std::collections::BTreeSet;

use super::memory::Memory;
use crate::event::LockAddr;
use crate::unwind::{Architecture, WalkedFrame};

/// Most of a stack that is looked at: what is deeper has been there for long, and is seldom a guard's.
const MOST_BYTES: u64 = 256 << 10;

/// Words right below a function's frame where it saves its caller's registers: on x86-64 the return address and six
/// registers, on aarch64 up to twelve.
const SAVED_WORDS: u64 = 7;

/// Those of `locks` whose address a thread keeps. `slow_path` is which of its frames is the lock's slow path.
pub fn kept(
    locks: &BTreeSet<LockAddr>,
    registers: &[u64],
    architecture: Architecture,
    frames: &[WalkedFrame],
    slow_path: usize,
    memory: &mut Memory,
) -> BTreeSet<LockAddr> {
    let mut found: BTreeSet<LockAddr> = kept_by_calls(architecture)
        .filter_map(|n| registers.get(n))
        .map(|word| LockAddr(*word))
        .filter(|word| locks.contains(word))
        .collect();
    // Without the caller's frame nobody knows where the slow path's ends.
    let (Some(caller), Some(outermost)) = (frames.get(slow_path + 1), frames.last()) else {
        return found;
    };
    let begins = caller.stack_pointer.saturating_sub(SAVED_WORDS * 8);
    let ends = outermost
        .stack_pointer
        .min(begins.saturating_add(MOST_BYTES));
    for at in (begins..ends).step_by(8) {
        let Some(word) = memory.word(at) else {
            break;
        };
        if locks.contains(&LockAddr(word)) {
            found.insert(LockAddr(word));
        }
    }
    found
}

/// Registers that a function leaves as its caller had them, or saves: which words of the kernel's record they are.
fn kept_by_calls(architecture: Architecture) -> std::ops::RangeInclusive<usize> {
    match architecture {
        // r15 r14 r13 r12 rbp rbx
        Architecture::X86_64 => 0..=5,
        // x19 to x29
        Architecture::Aarch64 => 19..=29,
    }
}
