//! Additions to map values that several threads make at once, without losing one.
//!
//! Written as instructions, because the BPF targets of rustc declare no atomic read-modify-write
//! operations, though every kernel that holdup runs on has them (since 5.12).

use core::arch::asm;

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
    for _ in 0..8 {
        // SAFETY: the caller's promise.
        let seen = unsafe { core::ptr::read_volatile(word) };
        // SAFETY: as above.
        if seen >= to || unsafe { compare_exchange(word, seen, to) } == seen {
            return;
        }
    }
}
