//! The binary logarithm, for histograms.

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
