//! Fast paths of parking_lot's and std's locks: only when asked for, because they are everywhere and taken all the time.
//! The probe stands behind the one instruction that changes the lock's word, in code that is inlined into whoever
//! uses the lock.
//!
//! ```text
//!   lock cmpxchg %cl,0x10(%rdi)      the lock is at 0x10(%rdi), and ours if the zero flag is set
//!   jne slow                       < the probe: a jump is cheap to probe
//! ```

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_get_attach_cookie, macros::uprobe, programs::ProbeContext,
};
use holdup_probe_ebpf::wire::{self, unwind::KIND_UPROBE};

use crate::{holders, permits, registers::saved, threads, unwind};

/// Places in words in `struct pt_regs` of arch/x86/include/asm/ptrace.h.
const INSTRUCTION_POINTER: u64 = 16;
const FLAGS: u64 = 18;
/// Of the flags.
const ZERO_FLAG: u64 = 1 << 6;

/// A lock's word was changed. The cookie is a `wire::fast_cookie`.
#[uprobe]
pub fn fast_path(ctx: ProbeContext) -> u32 {
    let at_ns = crate::now();
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let registers = saved::of_current();
    let is_conditional = cookie >> 9 & 1 != 0;
    if is_conditional && saved::word(registers, FLAGS) & ZERO_FLAG == 0 {
        return 0;
    }
    let place = cookie >> 16 & 0xff;
    let place = if place == u64::from(wire::FAST_PC_RELATIVE) {
        INSTRUCTION_POINTER
    } else {
        place
    };
    let displacement = (cookie >> 32) as u32 as i32;
    let lock = saved::word(registers, place).wrapping_add_signed(i64::from(displacement));
    let Some(thread) = threads::current_or_new() else {
        return 0;
    };
    let operation = (cookie & 0xff) as u32;
    let is_release = cookie >> 8 & 1 != 0;
    if is_release {
        // SAFETY: the running thread's record.
        unsafe {
            permits::thread_releases(thread, lock, operation, at_ns, permits::Stack::NotTaken)
        };
        return 0;
    }
    if let Some(state) = holders::known_or_new(lock) {
        // SAFETY: a map value; whoever holds the lock writes it.
        unsafe {
            (*state).is_watched = 1;
            if (*state).name_stack == 0 {
                // Once for each lock, for its name.
                (*state).name_stack = unwind::user_stack(KIND_UPROBE);
            }
        }
        permits::thread_acquired(thread, lock, operation, 0, at_ns);
    }
    0
}
