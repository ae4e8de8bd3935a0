//! Stacks are stored under the hash of their frames; events carry the hash. Until user space takes it, a stack is stored once.

use holdup_probe_ebpf::wire;

use crate::{
    atomics,
    emit::count,
    maps::{DEEP_STACKS, NO_EXIST, STACK_COUNTS, STACKS},
};

/// A hash that is fed one frame at a time: FNV-1a over words (http://www.isthe.com/chongo/tech/comp/fnv/), with a
/// shift to carry high bits down. With 262,144 stacks the chance that any two collide is about 2e-9.
pub const EMPTY_HASH: u64 = 0xcbf2_9ce4_8422_2325;

/// Feeds a frame.
#[inline(always)]
pub fn hash(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    hash ^ (hash >> 29)
}

/// Whether so many stacks are stored that the rest of the room is kept for those that are sure to be wanted.
#[inline(always)]
pub fn is_half_full() -> bool {
    let count = |which| STACK_COUNTS.get(which).copied().unwrap_or(0);
    let stored = count(wire::STACKS_STORED).saturating_sub(count(wire::STACKS_TAKEN));
    stored >= u64::from(wire::STACKS) / 2
}

/// -EEXIST: another CPU was faster, and has counted the stack.
const EXISTS: i32 = -17;

/// Stores a stack under its hash, if it isn't there, and returns its key; 0 when there is no room.
///
/// # Safety
/// `stack` is a map value; words behind its valid frames are leftovers that user space ignores.
#[inline(always)]
pub unsafe fn intern(stack: *const wire::Stack, hash: u64) -> u64 {
    let key = if hash == 0 { 1 } else { hash };
    // SAFETY: the caller's promise; a short stack is a prefix of a stack.
    let stored = unsafe {
        if (*stack).frames <= wire::SHORT_STACK_FRAMES as u32 {
            if STACKS.get_ptr(key).is_some() {
                return key;
            }
            let inserted = STACKS.insert(key, &*stack.cast::<wire::ShortStack>(), NO_EXIST);
            if inserted.is_ok()
                && let Some(stored) = STACK_COUNTS.get_ptr_mut(wire::STACKS_STORED)
            {
                atomics::add(stored, 1);
            }
            inserted == Ok(()) || inserted == Err(EXISTS)
        } else {
            DEEP_STACKS.get_ptr(key).is_some() || DEEP_STACKS.insert(key, &*stack, 0).is_ok()
        }
    };
    if !stored {
        count(wire::COUNTER_STACKS_NOT_STORED);
        return 0;
    }
    key
}
