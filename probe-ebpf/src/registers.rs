//! The target's registers, by what they mean. The one place that knows the architecture: both that holdup
//! knows are in one object, and the verifier removes the branches of the other.

use core::arch::asm;

use aya_ebpf::{EbpfContext as _, helpers::bpf_probe_read_user, programs::ProbeContext};
use holdup_probe_ebpf::wire;

use crate::maps::config;

/// Reads a word of a program's context. As an instruction, because out of two loads in two branches the
/// compiler would make one at a computed offset, which the verifier does not allow in a context.
macro_rules! load {
    ($ctx:ident + $offset:literal) => {{
        let word: u64;
        // SAFETY: the offset is inside the registers of the architecture that was asked for.
        unsafe {
            asm!(
                concat!("{word} = *(u64 *)({ctx} + ", $offset, ")"),
                word = lateout(reg) word,
                ctx = in(reg) $ctx.as_ptr(),
                options(nostack, pure, readonly)
            );
        }
        word
    }};
}

/// Reads a register: its offset in `struct pt_regs` of arch/x86/include/asm/ptrace.h, or in
/// `struct user_pt_regs` of arch/arm64/include/uapi/asm/ptrace.h.
macro_rules! register {
    ($ctx:ident, x86_64: $x86_64:literal, aarch64: $aarch64:literal) => {
        if config::is_aarch64() {
            load!($ctx + $aarch64)
        } else {
            load!($ctx + $x86_64)
        }
    };
}

/// Stack pointer; at a function's first instruction x86-64 has the return address right there.
#[inline(always)]
pub fn stack_pointer(ctx: &ProbeContext) -> u64 {
    register!(ctx, x86_64: 152, aarch64: 248)
}

/// The argument that is passed in the n-th integer register, counted from 0.
#[inline(always)]
pub fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    match n {
        0 => register!(ctx, x86_64: 112, aarch64: 0),
        1 => register!(ctx, x86_64: 104, aarch64: 8),
        2 => register!(ctx, x86_64: 96, aarch64: 16),
        3 => register!(ctx, x86_64: 88, aarch64: 24),
        4 => register!(ctx, x86_64: 72, aarch64: 32),
        _ => register!(ctx, x86_64: 64, aarch64: 40),
    }
}

/// What a function returned in its integer register.
#[inline(always)]
pub fn return_value(ctx: &ProbeContext) -> u64 {
    register!(ctx, x86_64: 80, aarch64: 0)
}

/// Where the function that was just entered will return to; 0 when its stack can't be read.
#[inline(always)]
pub fn return_address(ctx: &ProbeContext) -> u64 {
    if config::is_aarch64() {
        return load!(ctx + 240);
    }
    // SAFETY: the helper checks the user address and reports a fault as an error.
    unsafe { bpf_probe_read_user(stack_pointer(ctx) as *const u64) }.unwrap_or(0)
}

/// The function that was just entered, before a return probe replaces its return address.
#[inline(always)]
pub fn entered(ctx: &ProbeContext) -> wire::Entered {
    wire::Entered {
        stack_pointer: stack_pointer(ctx),
        return_address: return_address(ctx),
    }
}

/// The function that has just returned, as a return probe sees it.
#[inline(always)]
pub fn returned(ctx: &ProbeContext) -> wire::Entered {
    wire::Entered {
        stack_pointer: stack_pointer(ctx).wrapping_sub(return_pops()),
        return_address: register!(ctx, x86_64: 128, aarch64: 256),
    }
}

/// How much higher the stack pointer is after the return than at the first instruction.
#[inline(always)]
pub fn return_pops() -> u64 {
    if config::is_aarch64() { 0 } else { 8 }
}

/// Where the unwinder's registers are in the kernel's record of a thread's user registers, in words.
pub mod saved {
    use core::ffi::c_void;

    use aya_ebpf::helpers::generated::{
        bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs,
    };

    use holdup_probe_ebpf::wire;

    use crate::maps::config;

    /// The running thread's.
    #[inline(always)]
    pub fn of_current() -> u64 {
        // SAFETY: no preconditions, and what the first helper returns is what the second one takes.
        unsafe { bpf_task_pt_regs(bpf_get_current_task_btf().cast()) as u64 }
    }

    /// A word of them; 0 when it can't be read.
    #[inline(always)]
    pub fn word(registers: u64, place: u64) -> u64 {
        let mut word = 0_u64;
        let at = registers.wrapping_add(place * 8);
        // SAFETY: the helper checks the address and reports a fault as an error.
        let error =
            unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, at as *const c_void) };
        if error == 0 { word } else { 0 }
    }

    /// The number of the system call that the running thread is in, or a `CAUSE_` code of the wire.
    #[inline(always)]
    pub fn system_call_of_current() -> u32 {
        // What the kernel has kept it in: `orig_ax`, and on aarch64 `syscallno` behind the registers that user space
        // knows of (include/asm/ptrace.h of either). -1 stands for none.
        let place = if config::is_aarch64() { 35 } else { 15 };
        let mut number = 0_u32;
        let at = of_current().wrapping_add(place * 8);
        // SAFETY: the helper checks the address and reports a fault as an error.
        let error =
            unsafe { bpf_probe_read_kernel((&raw mut number).cast(), 4, at as *const c_void) };
        match number {
            _ if error != 0 => wire::CAUSE_UNKNOWN,
            u32::MAX => wire::CAUSE_FAULT,
            number => number,
        }
    }

    macro_rules! index {
        ($name:ident, x86_64: $x86_64:literal, aarch64: $aarch64:literal) => {
            #[inline(always)]
            pub fn $name() -> usize {
                if config::is_aarch64() {
                    $aarch64
                } else {
                    $x86_64
                }
            }
        };
    }
    index!(program_counter, x86_64: 16, aarch64: 32);
    index!(stack_pointer, x86_64: 19, aarch64: 31);
    index!(frame_pointer, x86_64: 4, aarch64: 29);
    // x86-64 has none; whatever is there is not used.
    index!(link_register, x86_64: 0, aarch64: 30);
    // Of a system call, as long as it goes on: its number (orig_rax) and what it was given first.
    index!(system_call, x86_64: 15, aarch64: 8);
    index!(system_call_argument, x86_64: 14, aarch64: 0);
    // What a function returned.
    index!(return_value, x86_64: 10, aarch64: 0);
    // All of them.
    index!(count, x86_64: 21, aarch64: 34);
}

/// A code address without what the architecture keeps in its upper bits: aarch64 signs return addresses above
/// the 48 bits of an address (PAC).
#[inline(always)]
pub fn plain_code_address(addr: u64) -> u64 {
    if config::is_aarch64() {
        addr & ((1 << 48) - 1)
    } else {
        addr
    }
}
