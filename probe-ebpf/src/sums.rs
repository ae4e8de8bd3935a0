//! Sums and histograms in map values, which several threads add to at once.

use holdup_probe_ebpf::wire;

use crate::atomics;

/// Adds one of so long.
///
/// # Safety
/// `totals` points into a live map value and is aligned.
#[inline(always)]
pub unsafe fn add(totals: *mut wire::Totals, ns: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        atomics::add(&raw mut (*totals).count, 1);
        atomics::add(&raw mut (*totals).total_ns, ns);
        atomics::raise(&raw mut (*totals).max_ns, ns);
    }
}

/// Counts one of so long in a histogram of powers of two, whose last bucket is open.
///
/// # Safety
/// That of `add`.
#[inline(always)]
pub unsafe fn count_log2<const BUCKETS: usize>(histogram: *mut [u64; BUCKETS], ns: u64) {
    let bucket = log2(ns) as usize;
    let bucket = if bucket < BUCKETS {
        bucket
    } else {
        BUCKETS - 1
    };
    // SAFETY: the caller's promise; bounded above.
    unsafe { atomics::add(histogram.cast::<u64>().add(bucket), 1) };
}

/// Floor of the binary logarithm; 0 for 0. By halves, because BPF has no count-leading-zeros.
///
/// A global function: what follows it would be verified for each of its results.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn log2(mut value: u64) -> u32 {
    let mut log = 0;
    if value >= 1 << 32 {
        value >>= 32;
        log += 32;
    }
    if value >= 1 << 16 {
        value >>= 16;
        log += 16;
    }
    if value >= 1 << 8 {
        value >>= 8;
        log += 8;
    }
    if value >= 1 << 4 {
        value >>= 4;
        log += 4;
    }
    if value >= 1 << 2 {
        value >>= 2;
        log += 2;
    }
    if value >= 1 << 1 {
        log += 1;
    }
    log
}
