//! A stack with a signal frame in it: a thread sends a signal to a poll that spins, and the handler burns and
//! sleeps.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::places::{burn_cpu, note_and};

pub const BURN: &str = concat!(module_path!(), "::burn_in_handler");
pub const SLEEP: &str = concat!(module_path!(), "::sleep_in_handler");

/// The thread to interrupt; 0 for none.
static TARGET: AtomicU64 = AtomicU64::new(0);
/// The handler is through.
static HANDLED: AtomicBool = AtomicBool::new(false);

/// Makes `handler` the handler of SIGUSR1, on the stack that is interrupted.
pub fn install() {
    // SAFETY: all-zero is an empty mask, no flags and no handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler interrupts `spin` alone, which holds no lock and allocates nothing.
    let done = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(done, 0, "SIGUSR1 can be handled");
}

/// Sends the signal to whoever asks for it. Ends with the process: who has asked cannot go on without it.
pub fn send() {
    loop {
        let target = TARGET.swap(0, Ordering::AcqRel);
        if target != 0 {
            // SAFETY: that thread spins until its handler has run, so it exists.
            unsafe { libc::pthread_kill(target as libc::pthread_t, libc::SIGUSR1) };
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[inline(never)]
pub fn at_signal() -> u64 {
    HANDLED.store(false, Ordering::Release);
    // SAFETY: always sound.
    TARGET.store(unsafe { libc::pthread_self() }, Ordering::Release);
    black_box(spin(&HANDLED))
}

/// Spins until the handler has run. On x86-64 in assembly, of which every instruction belongs to this function: where
/// it is interrupted differs each time, and what is inlined there would differ with it.
#[inline(never)]
fn spin(handled: &AtomicBool) -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads one byte of an atomic, again and again, as `load` would.
    unsafe {
        std::arch::asm!(
            "nop",
            "2:",
            "pause",
            "cmp byte ptr [{handled}], 0",
            "je 2b",
            "nop",
            handled = in(reg) handled.as_ptr(),
            options(nostack, readonly),
        );
    }
    while !handled.load(Ordering::Acquire) {
        std::hint::spin_loop();
    }
    black_box(5)
}

extern "C" fn handler(_signal: libc::c_int) {
    black_box(at_signal_burn());
    black_box(at_signal_sleep());
    HANDLED.store(true, Ordering::Release);
}

#[inline(never)]
fn at_signal_burn() -> u64 {
    note_and!(SignalBurn, burn_in_handler())
}

#[inline(never)]
fn burn_in_handler() -> u64 {
    burn_cpu(23, Duration::from_millis(14))
}

#[inline(never)]
fn at_signal_sleep() -> u64 {
    note_and!(SignalSleep, sleep_in_handler())
}

#[inline(never)]
fn sleep_in_handler() -> u64 {
    thread::sleep(Duration::from_millis(8));
    black_box(3)
}
