//! Return addresses that return probes, ours or another tool's, have replaced on the stack. The kernel keeps the
//! originals in a list, innermost first:
//!
//! ```text
//!   task_struct.utask -> uprobe_task.return_instances -> return_instance { stack, orig_ret_vaddr, next }
//! ```
//!
//! `stack` is the stack pointer at the function's entry. Where several probes are on one function it comes
//! several times, each time with the same original. The kernel replaces the return address first and puts the original
//! into the list then: in between it is known to our own entry probe alone. When the function has returned, it takes the
//! original off the list first and puts it on the stack last: in between it is known to our own return probe alone.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use holdup_probe_ebpf::wire;

use super::{no_cfi::BREAKPOINT, read_word};
use crate::{emit::count, maps::config, registers, threads};

/// The rest of a thread's list.
#[repr(C)]
pub struct Instances {
    /// Address of the next `return_instance`, 0 at the list's end.
    next: u64,
    /// Its `stack`.
    stack: u64,
    /// What the entry and return probes of the thread saw last, of whoever has a record.
    entered: wire::Entered,
}

const NOTHING: wire::Entered = wire::Entered {
    stack_pointer: 0,
    return_address: 0,
};

/// Bytes that the trampoline pushes.
pub const PUSHED: u64 = 3 * 8;

/// Instances that are passed over at one frame: more than one only where several probes are on one function.
const AT_ONE_FRAME: u32 = 8;

impl Instances {
    /// Of the running thread, by its `task_struct`. Empty where the kernel does not tell how it keeps them.
    #[inline(always)]
    pub fn of(task: u64) -> Instances {
        let mut list = Instances {
            next: 0,
            stack: 0,
            entered: NOTHING,
        };
        if let Some(thread) = threads::current() {
            // SAFETY: the running thread's record.
            list.entered = unsafe { (*thread).entered };
        }
        if config::task_utask() == 0 {
            return list;
        }
        let utask = read(task + config::task_utask());
        if utask != 0 {
            list.next = read(utask + config::utask_return_instances());
            list.look();
        }
        list
    }

    #[inline(always)]
    fn look(&mut self) {
        if self.next != 0 {
            self.stack = read(self.next + config::return_instance_stack());
        }
    }

    /// Where the function that was entered with this stack pointer returns to, if it looked as if it were
    /// `return_address`. None if that is the trampoline and nobody knows what was there: another tool's return probe, whose
    /// original is not in the list yet.
    #[inline(always)]
    pub fn original(&mut self, entry_stack_pointer: u64, return_address: u64) -> Option<u64> {
        for _ in 0..AT_ONE_FRAME {
            if self.next == 0 || self.stack >= entry_stack_pointer {
                break;
            }
            self.next = read(self.next + config::return_instance_next());
            self.look();
        }
        if self.next == 0 || self.stack != entry_stack_pointer {
            if !is_trampoline(return_address, 1) {
                return Some(return_address);
            }
            if self.entered.stack_pointer != entry_stack_pointer {
                return None;
            }
            count(wire::COUNTER_RETURN_ADDRESSES_RESTORED);
            return Some(self.entered.return_address);
        }
        count(wire::COUNTER_RETURN_ADDRESSES_RESTORED);
        Some(read(self.next + config::return_instance_original()))
    }

    /// Whether a function with a return probe was entered last with this stack pointer.
    #[inline(always)]
    pub fn is_innermost(&self, entry_stack_pointer: u64) -> bool {
        self.next != 0 && self.stack == entry_stack_pointer
    }

    /// For a thread that may stand on the trampoline: where the function that has just returned leads, if that
    /// is so.
    ///
    /// Since 6.11 the trampoline is this (`uretprobe_trampoline` of arch/x86/kernel/uprobes.c): it pushes three
    /// registers, and makes a system call that takes the instance off the list and puts the original in place of
    /// what was pushed first.
    ///
    /// ```text
    ///   0: push %rax; push %rcx; push %r11; mov $NR,%rax; syscall   d: pop %r11   f: pop %rcx   10: ret
    /// ```
    ///
    /// While the system call has put the instruction pointer back here and not yet the original on the stack, what was pushed
    /// first is still there: what the function returned, which is in its register, too.
    #[inline(always)]
    pub fn on_trampoline(
        &mut self,
        pc: u64,
        stack_pointer: u64,
        return_value: u64,
    ) -> Option<Left> {
        const LENGTH: u64 = 0x11;
        if !is_trampoline(pc, LENGTH) {
            return None;
        }
        let pops = registers::return_pops();
        let above = self.stack.wrapping_add(pops).wrapping_sub(stack_pointer);
        if self.next != 0 && above <= PUSHED {
            let entry_stack_pointer = self.stack;
            return Some(Left {
                return_address: self.original(entry_stack_pointer, 0)?,
                stack_pointer: entry_stack_pointer.wrapping_add(pops),
            });
        }
        let original = match pc & 0xfff {
            0xd => stack_pointer.wrapping_add(16),
            0xf => stack_pointer.wrapping_add(8),
            0x10 => stack_pointer,
            _ => return None,
        };
        let mut return_address = 0;
        if !read_word(original, &mut return_address) {
            return None;
        }
        if pc & 0xfff == 0xd
            && return_address == return_value
            && self.entered.stack_pointer == original
        {
            count(wire::COUNTER_RETURN_ADDRESSES_RESTORED);
            return_address = self.entered.return_address;
        }
        Some(Left {
            return_address,
            stack_pointer: original.wrapping_add(pops),
        })
    }

    /// Whether a thread that seems to have returned is still in the trampoline's system call, which has set the instruction
    /// pointer to the original already, and the stack pointer back to what the trampoline had pushed. The code behind the call
    /// would have to have gone back to its first instruction with so much more on the stack, which no alignment allows.
    #[inline(always)]
    pub fn is_leaving_trampoline(&self, pc: u64, stack_pointer: u64) -> bool {
        !config::is_aarch64()
            && pc == self.entered.return_address
            && stack_pointer.wrapping_add(PUSHED)
                == self
                    .entered
                    .stack_pointer
                    .wrapping_add(registers::return_pops())
    }
}

/// Whether an address lies in the first bytes of the trampoline.
#[inline(always)]
fn is_trampoline(addr: u64, bytes: u64) -> bool {
    // Its first seven instruction bytes, as `on_trampoline` shows them; older kernels have a breakpoint in their place.
    const BEGINS: u64 = 0x00c0_c748_5341_5150;
    let mut page = 0;
    addr & 0xfff < bytes
        && read_word(addr & !0xfff, &mut page)
        && (page & (u64::MAX >> 8) == BEGINS || page & 0xff == BREAKPOINT)
}

/// A function that has returned.
pub struct Left {
    /// To where.
    pub return_address: u64,
    /// With which stack pointer.
    pub stack_pointer: u64,
}

/// A word of the kernel's memory; 0 when it can't be read.
#[inline(always)]
fn read(addr: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: the helper checks the address and reports a fault as an error.
    let error = unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, addr as *const c_void) };
    if error == 0 { word } else { 0 }
}
