//! The programs that run in the kernel. What enters: probe hits in the target. What leaves: events in
//! the ring buffer and the maps of `maps.rs`, all of them laid out in `wire.rs`.
//!
//! No policy lives here beyond filtering and aggregation.
//!
//! Most functions are inlined into each program, and the verifier walks through them anew for each caller and each way
//! there. The costly ones are *global* functions, as the kernel calls those that are exported: each is verified once
//! for a program, for any arguments, and callers know no more of its result than its type. (Arguments are
//! numbers and pointers to plain structs, which may be null; the result is a number.)
//!
//! On the host the binary is an empty `main`, so that `cargo check --workspace --all-targets` works with a stable
//! toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod atomics;
#[cfg(target_arch = "bpf")]
mod cpu;
#[cfg(target_arch = "bpf")]
mod early;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod fast;
#[cfg(target_arch = "bpf")]
mod holders;
#[cfg(target_arch = "bpf")]
mod intern;
#[cfg(target_arch = "bpf")]
mod locks;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod permits;
#[cfg(target_arch = "bpf")]
mod polls;
#[cfg(target_arch = "bpf")]
mod registers;
#[cfg(target_arch = "bpf")]
mod sched;
#[cfg(target_arch = "bpf")]
mod scratch;
#[cfg(target_arch = "bpf")]
mod slices;
#[cfg(target_arch = "bpf")]
mod stolen;
#[cfg(target_arch = "bpf")]
mod sums;
#[cfg(target_arch = "bpf")]
mod tasks;
#[cfg(target_arch = "bpf")]
mod thread_pointers;
#[cfg(target_arch = "bpf")]
mod threads;
#[cfg(target_arch = "bpf")]
mod tree;
#[cfg(target_arch = "bpf")]
mod unwind;
#[cfg(target_arch = "bpf")]
mod wakes;
#[cfg(target_arch = "bpf")]
mod window;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Now, in nanoseconds of `CLOCK_MONOTONIC`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn now() -> u64 {
    // SAFETY: no preconditions.
    unsafe { aya_ebpf::helpers::generated::bpf_ktime_get_ns() }
}

/// The verifier rejects every program that could reach it.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Tracing helpers such as `bpf_task_pt_regs` are for GPL-compatible programs only; the crate's own
/// licence (MIT OR Apache-2.0) is one, and the kernel knows it under this name.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
