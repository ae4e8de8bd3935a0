//! The seam for stacks: every program that needs a user stack calls [`user_stack`] or
//! [`user_stack_at_entry`] and gets the key of an interned stack.
//!
//! Stacks come from the kernel's frame pointer walk (`bpf_get_stack`). A walk can't tell here
//! whether it reached the thread's start; user space tells from the outermost frame.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_stack, programs::ProbeContext};
use holdup_probe_ebpf::wire;

use crate::{
    emit::count,
    maps::{STACKS, StackScratch},
    registers,
};

/// `BPF_F_USER_STACK` of `include/uapi/linux/bpf.h`.
const USER_STACK: u64 = 1 << 8;

/// The interrupted thread's user stack; 0 when it can't be read or stored.
#[inline(always)]
pub fn user_stack(ctx: *mut c_void, scratch: *mut StackScratch) -> u64 {
    // SAFETY: `scratch` is a map value that this context owns for now.
    let frames = unsafe { walk(ctx, (&raw mut (*scratch).words[1]).cast()) };
    if frames == 0 {
        count(wire::COUNTER_STACKS_UNREADABLE);
        return 0;
    }
    // SAFETY: as above; words[0] and the frames behind it are a `Stack`.
    unsafe {
        (*scratch).words[0] = frames;
        intern((&raw const (*scratch).words[0]).cast(), frames)
    }
}

/// The user stack of a thread that stands on a function's first instruction.
///
/// There the frame pointer is still the caller's, so that a plain walk misses the caller: the return
/// address is only at the stack pointer. Kernels since 6.11 put it in (`perf_callchain_user` of
/// arch/x86/events/core.c looks for `push %rbp`), but not for every first instruction, and older ones
/// never do. Here it is put in where it is missing.
#[inline(always)]
pub fn user_stack_at_entry(ctx: &ProbeContext, scratch: *mut StackScratch) -> u64 {
    let caller = registers::return_address(ctx);
    // SAFETY: `scratch` is a map value that belongs to this thread.
    unsafe {
        // words[2..] = ip, then callers; room in front for the count and for one frame.
        let frames = walk(ctx.as_ptr(), (&raw mut (*scratch).words[2]).cast());
        if frames == 0 {
            count(wire::COUNTER_STACKS_UNREADABLE);
            return 0;
        }
        if caller == 0 || (frames >= 2 && (*scratch).words[3] == caller) {
            (*scratch).words[1] = frames;
            return intern((&raw const (*scratch).words[1]).cast(), frames);
        }
        (*scratch).words[1] = (*scratch).words[2];
        (*scratch).words[2] = caller;
        (*scratch).words[0] = frames + 1;
        intern((&raw const (*scratch).words[0]).cast(), frames + 1)
    }
}

/// Frames that one walk may write: one less than a stack holds, for the caller put in at an entry.
const WALK_FRAMES: usize = wire::STACK_FRAMES - 1;

/// Writes the frames to `to` and returns how many.
///
/// # Safety
/// `to` has room for `WALK_FRAMES` words.
#[inline(always)]
unsafe fn walk(ctx: *mut c_void, to: *mut c_void) -> u64 {
    // SAFETY: the size is the room that the caller vouches for.
    let bytes = unsafe { bpf_get_stack(ctx, to, (WALK_FRAMES * 8) as u32, USER_STACK) };
    if bytes < 8 { 0 } else { bytes as u64 / 8 }
}

/// Stores the stack under its hash, once, and returns the hash.
///
/// # Safety
/// `stack` is a map value with room for a whole `wire::Stack`, of which `frames` are valid.
#[inline(always)]
unsafe fn intern(stack: *const wire::Stack, frames: u64) -> u64 {
    count(wire::COUNTER_STACKS_TAKEN);
    // FNV-1a over words (http://www.isthe.com/chongo/tech/comp/fnv/), with a shift to carry high bits
    // down. With 16384 stacks the chance that any two collide is about 7e-12.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ frames;
    for frame in 0..wire::STACK_FRAMES {
        if frame as u64 >= frames {
            break;
        }
        // SAFETY: below STACK_FRAMES.
        let addr = unsafe { *(&raw const (*stack).addrs).cast::<u64>().add(frame) };
        hash = (hash ^ addr).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    let key = if hash == 0 { 1 } else { hash };
    if STACKS.get_ptr(key).is_some() {
        return key;
    }
    // SAFETY: a whole `Stack` is readable there; words behind the valid frames are leftovers that
    // user space ignores.
    if STACKS.insert(key, unsafe { &*stack }, 0).is_err() {
        count(wire::COUNTER_STACKS_NOT_STORED);
        return 0;
    }
    key
}
