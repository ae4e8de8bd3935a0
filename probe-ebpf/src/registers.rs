//! The registers of a uprobe hit, by what they mean. The one place that knows the architecture.

use aya_ebpf::{helpers::bpf_probe_read_user, programs::ProbeContext};

/// Reads a register. Volatile, so that the load stays where it is written.
macro_rules! register {
    ($ctx:ident, $name:ident) => {
        // SAFETY: the kernel passes a valid register set.
        unsafe { core::ptr::read_volatile(&raw const (*$ctx.regs).$name) }
    };
}

/// Stack pointer; at a function's first instruction the return address is right there.
#[inline(always)]
pub fn stack_pointer(ctx: &ProbeContext) -> u64 {
    register!(ctx, rsp)
}

/// The argument that is passed in the n-th integer register, counted from 0.
#[inline(always)]
pub fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    match n {
        0 => register!(ctx, rdi),
        1 => register!(ctx, rsi),
        2 => register!(ctx, rdx),
        3 => register!(ctx, rcx),
        4 => register!(ctx, r8),
        _ => register!(ctx, r9),
    }
}

/// What a function returned in its integer register.
#[inline(always)]
pub fn return_value(ctx: &ProbeContext) -> u64 {
    register!(ctx, rax)
}

/// Where the function that was just entered will return to; 0 when its stack can't be read.
#[inline(always)]
pub fn return_address(ctx: &ProbeContext) -> u64 {
    // SAFETY: the helper checks the user address and reports a fault as an error.
    unsafe { bpf_probe_read_user(stack_pointer(ctx) as *const u64) }.unwrap_or(0)
}

/// How much higher the stack pointer is after the return than at the first instruction.
pub const RETURN_POPS: u64 = 8;
