//! Additions to map values that several threads make at once, without losing one.
//!
//! Written as instructions, because the BPF targets of rustc declare no atomic read-modify-write
//! operations, though every kernel that holdup runs on has them (since 5.12).

use core::{arch::asm, ffi::c_void};

use aya_ebpf::helpers::generated::bpf_loop;

/// Adds to a word of a map value.
///
/// # Safety
/// `word` points into a live map value and is aligned.
#[inline(always)]
pub unsafe fn add(word: *mut u64, by: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {by}", word = in(reg) word, by = in(reg) by);
    }
}

/// Stores `to` if the word is `seen`; returns what the word was.
///
/// # Safety
/// `word` points into a live map value and is aligned.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, seen: u64, to: u64) -> u64 {
    let was;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {to})",
            word = in(reg) word,
            to = in(reg) to,
            inlateout("r0") seen => was,
        );
    }
    was
}

/// Raises a word of a map value to at least `to`.
///
/// # Safety
/// `word` points into a live map value and is aligned.
#[inline(always)]
pub unsafe fn raise(word: *mut u64, to: u64) {
    // Each round is lost only to a thread that raised it at the same moment; the verifier wants a
    // bound, and a maximum that loses eight such races to larger values is a large value still.
    const ROUNDS: u32 = 8;
    // SAFETY: the caller's promise.
    if unsafe { core::ptr::read_volatile(word) } >= to {
        return;
    }
    let mut raising = Raising { word, to };
    // Not a `for`: the verifier would walk through all ways of eight rounds, wherever a maximum is kept.
    // SAFETY: the callback has the type that the helper calls, and `raising` outlives the call.
    unsafe {
        bpf_loop(
            ROUNDS,
            raise_once as *mut c_void,
            (&raw mut raising).cast(),
            0,
        );
    }
}

/// What `raise_once` is given.
struct Raising {
    word: *mut u64,
    to: u64,
}

/// Returns 1, which ends the loop, when the word is high enough.
///
/// # Safety
/// `raising` has a word of a live map value.
unsafe extern "C" fn raise_once(_round: u32, raising: *mut Raising) -> i64 {
    // SAFETY: the caller's promise.
    unsafe {
        let (word, to) = ((*raising).word, (*raising).to);
        let seen = core::ptr::read_volatile(word);
        i64::from(seen >= to || compare_exchange(word, seen, to) == seen)
    }
}
