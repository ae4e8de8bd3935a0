//! How long things last, and when they stop.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static STOP: AtomicBool = AtomicBool::new(false);

/// Asked by every loop of this program.
pub fn stopping() -> bool {
    STOP.load(Ordering::Relaxed)
}

pub fn stop() {
    STOP.store(true, Ordering::Relaxed);
}

pub fn millis(rng: &mut fastrand::Rng, range: Range<f64>) -> Duration {
    Duration::from_secs_f64((range.start + rng.f64() * (range.end - range.start)) / 1e3)
}

/// On either side of holdup's 5 ms, often close to it, and never meant to be within 0.8 ms of it:
/// what is meant to take 4.2 ms takes longer on a busy machine.
pub fn around_threshold(rng: &mut fastrand::Rng) -> Duration {
    let range = match rng.u8(0..4) {
        0 => 0.5..3.0,
        1 => 3.0..4.2,
        2 => 6.0..8.0,
        _ => 8.0..40.0,
    };
    millis(rng, range)
}
