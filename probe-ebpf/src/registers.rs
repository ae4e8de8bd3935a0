//! The registers of a uprobe hit, by what they mean. The one place that knows the architecture.

use aya_ebpf::{helpers::bpf_probe_read_user, programs::ProbeContext};

/// Stack pointer; at a function's first instruction the return address is right there.
#[inline(always)]
pub fn stack_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: the kernel passes a valid register set.
    unsafe { (*ctx.regs).rsp }
}

/// The argument that is passed in the n-th integer register, counted from 0.
#[inline(always)]
pub fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    // SAFETY: the kernel passes a valid register set.
    unsafe {
        match n {
            0 => (*ctx.regs).rdi,
            1 => (*ctx.regs).rsi,
            2 => (*ctx.regs).rdx,
            3 => (*ctx.regs).rcx,
            4 => (*ctx.regs).r8,
            _ => (*ctx.regs).r9,
        }
    }
}

/// What a function returned in its integer register.
#[inline(always)]
pub fn return_value(ctx: &ProbeContext) -> u64 {
    // SAFETY: the kernel passes a valid register set.
    unsafe { (*ctx.regs).rax }
}

/// Where the function that was just entered will return to; 0 when its stack can't be read.
#[inline(always)]
pub fn return_address(ctx: &ProbeContext) -> u64 {
    // SAFETY: the helper checks the user address and reports a fault as an error.
    unsafe { bpf_probe_read_user(stack_pointer(ctx) as *const u64) }.unwrap_or(0)
}

/// How much higher the stack pointer is after the return than at the first instruction.
pub const RETURN_POPS: u64 = 8;
