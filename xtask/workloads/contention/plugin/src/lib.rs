//! A library that is loaded while its host runs. What enters: a function of the host. What leaves: its result,
//! after some frames of this library were put between the host and itself.

use std::hint::black_box;

/// A function of the host's.
pub type Callback = extern "C" fn() -> u64;

/// Calls the host back.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_transform(callback: Callback) -> u64 {
    black_box(apply(&|| callback()))
}

#[inline(never)]
fn apply(transform: &dyn Fn() -> u64) -> u64 {
    // Not a tail call: this frame is to be seen.
    black_box(transform()).wrapping_add(1)
}
