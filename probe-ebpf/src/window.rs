//! The recording's bounds in time. Probes run before and after it, while others are being attached or
//! detached; what they see then completes the records of threads but is not reported.

use holdup_probe_ebpf::wire;

use crate::maps::WINDOW;

/// The recording's bounds. Before the map is filled nothing is inside.
#[inline(always)]
pub fn get() -> wire::Window {
    match WINDOW.get_ptr(0) {
        // SAFETY: a map value that user space replaces as a whole.
        Some(window) => unsafe { *window },
        None => wire::Window {
            start_ns: u64::MAX,
            stop_ns: u64::MAX,
        },
    }
}

/// Whether something that began at `from_ns` belongs to the recording.
#[inline(always)]
pub fn includes(from_ns: u64) -> bool {
    let window = get();
    from_ns >= window.start_ns && from_ns <= window.stop_ns
}
