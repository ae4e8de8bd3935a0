//! Stacks are stored once, under the hash of their frames; events carry the hash.

use holdup_probe_ebpf::wire;

use crate::{
    atomics,
    emit::count,
    maps::{DEEP_STACKS, STACKS, STORED},
};

/// A hash that is fed one frame at a time: FNV-1a over words (http://www.isthe.com/chongo/tech/comp/fnv/), with a
/// shift to carry high bits down. With 16,384 stacks the chance that any two collide is about 7e-12.
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
    STORED
        .get(0)
        .is_some_and(|stored| *stored >= u64::from(wire::STACKS) / 2)
}

/// Stores a stack under its hash, once, and returns its key; 0 when there is no room.
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
            if let Some(stored) = STORED.get_ptr_mut(0) {
                atomics::add(stored, 1);
            }
            STACKS
                .insert(key, &*stack.cast::<wire::ShortStack>(), 0)
                .is_ok()
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
