//! The places themselves. Each has a function `at_…` that notes its stack and calls a marker, which no other
//! function calls.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pace::stopping;
use crate::truth;

pub const WAIT_FOR_LOCK: &str = concat!(module_path!(), "::wait_for_lock");
pub const HOLD_LOCK: &str = concat!(module_path!(), "::hold_lock");
pub const BURN: &str = concat!(module_path!(), "::burn");
pub const SLEEP: &str = concat!(module_path!(), "::sleep");
pub const SLEEP_UNDER_RETURN_PROBE: &str = concat!(module_path!(), "::sleep_under_return_probe");
pub const BURN_AT_THE_BOTTOM: &str = concat!(module_path!(), "::burn_at_the_bottom");
pub const HASH: &str = concat!(module_path!(), "::hash");
pub const BURN_BELOW_LARGE_FRAME: &str = concat!(module_path!(), "::burn_below_large_frame");
pub const BURN_BELOW_REALIGNED_FRAME: &str =
    concat!(module_path!(), "::burn_below_realigned_frame");

/// Long enough for a dozen samples of a profiler that takes a thousand a second and begins after some milliseconds.
pub const BURNING: Duration = Duration::from_millis(22);

/// Notes the stack, then calls the marker. `black_box` afterwards: a marker that was jumped to instead would have
/// this function's caller below it.
macro_rules! note_and {
    ($point:ident, $marker:expr) => {{
        $crate::stacks::note($crate::stacks::Point::$point);
        ::std::hint::black_box($marker)
    }};
}
pub(super) use note_and;

/// Burns the CPU. The seed tells the callers apart for the compiler, which would make one function of two with the
/// same code.
#[inline(always)]
pub fn burn_cpu(seed: u64, duration: Duration) -> u64 {
    let deadline_ns = truth::now() + duration.as_nanos() as u64;
    let mut state = black_box(seed);
    while truth::now() < deadline_ns {
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed);
        }
        state = black_box(state);
    }
    state
}

#[inline(never)]
pub fn at_burn() -> u64 {
    note_and!(Burn, burn())
}

#[inline(never)]
fn burn() -> u64 {
    burn_cpu(11, BURNING)
}

#[inline(never)]
pub fn at_sleep() -> u64 {
    note_and!(Sleep, sleep())
}

#[inline(never)]
fn sleep() -> u64 {
    thread::sleep(Duration::from_millis(12));
    black_box(1)
}

#[inline(never)]
pub fn at_return_probe() -> u64 {
    note_and!(ReturnProbe, sleep_under_return_probe())
}

#[inline(never)]
fn sleep_under_return_probe() -> u64 {
    thread::sleep(Duration::from_millis(12));
    black_box(2)
}

/// Address of the function to put a return probe on.
pub fn return_probe_marker() -> usize {
    sleep_under_return_probe as *const () as usize
}

/// Levels of async recursion, and of plain recursion within: 200 frames at least, and fewer than 400.
const ASYNC_LEVELS: u32 = 60;
const PLAIN_LEVELS: u32 = 140;

/// Polls the recursion to its end by itself: nothing in there waits.
#[inline(never)]
pub fn at_deep() -> u64 {
    let mut descent = descend(black_box(ASYNC_LEVELS));
    match descent
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(state) => black_box(state),
        Poll::Pending => 0,
    }
}

fn descend(levels: u32) -> Pin<Box<dyn Future<Output = u64>>> {
    Box::pin(async move {
        if levels == 0 {
            black_box(dig(black_box(PLAIN_LEVELS)))
        } else {
            black_box(descend(levels - 1).await).wrapping_add(1)
        }
    })
}

#[inline(never)]
fn dig(levels: u32) -> u64 {
    if levels == 0 {
        note_and!(Deep, burn_at_the_bottom())
    } else {
        black_box(dig(levels - 1)).wrapping_add(u64::from(levels))
    }
}

#[inline(never)]
fn burn_at_the_bottom() -> u64 {
    burn_cpu(13, BURNING)
}

#[inline(never)]
pub fn at_blake3() -> u64 {
    let input = vec![0x5a; 1 << 20];
    note_and!(Blake3, hash(&input))
}

#[inline(never)]
fn hash(input: &[u8]) -> u64 {
    let deadline_ns = truth::now() + BURNING.as_nanos() as u64;
    let mut hasher = blake3::Hasher::new();
    while truth::now() < deadline_ns {
        hasher.update(input);
    }
    u64::from(hasher.finalize().as_bytes()[0])
}

#[inline(never)]
pub fn at_large_frame() -> u64 {
    let mut frame = [0u8; 160 << 10];
    black_box(&mut frame);
    let state = note_and!(LargeFrame, burn_below_large_frame());
    black_box(&mut frame);
    state
}

#[inline(never)]
fn burn_below_large_frame() -> u64 {
    burn_cpu(17, BURNING)
}

/// More than the stack is aligned to by itself.
#[repr(align(128))]
struct Aligned([u8; 256]);

#[inline(never)]
pub fn at_realigned_frame() -> u64 {
    let mut aligned = Aligned([0; 256]);
    black_box(&mut aligned);
    let state = note_and!(Realigned, burn_below_realigned_frame());
    black_box(&mut aligned.0);
    state
}

#[inline(never)]
fn burn_below_realigned_frame() -> u64 {
    burn_cpu(19, BURNING)
}

static LOCK: Mutex<u64> = Mutex::new(0);
static IS_HELD: AtomicBool = AtomicBool::new(false);

/// Returns in time to find the lock taken for some milliseconds more.
pub async fn until_lock_is_held() {
    while !stopping() && !IS_HELD.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[inline(never)]
pub fn at_lock() -> u64 {
    note_and!(Lock, wait_for_lock())
}

#[inline(never)]
fn wait_for_lock() -> u64 {
    let mut count = LOCK.lock();
    *count += 1;
    *count
}

/// The thread that the others wait for.
pub fn hold_lock_again_and_again() {
    while !stopping() {
        at_unlock();
        thread::sleep(Duration::from_millis(20));
    }
}

#[inline(never)]
fn at_unlock() -> u64 {
    note_and!(Unlock, hold_lock())
}

#[inline(never)]
fn hold_lock() -> u64 {
    let mut count = LOCK.lock();
    IS_HELD.store(true, Ordering::Release);
    thread::sleep(Duration::from_millis(18));
    *count += 1;
    IS_HELD.store(false, Ordering::Release);
    *count
}
