//! The user stack of the running thread, whoever asks: a uprobe, the CPU clock or a context switch. What enters:
//! nothing but the kind of asker, for the counters. What leaves: the key of an interned stack.
//!
//! Frame by frame: the address gives the row of its binary's table, the row gives the rule, and the rule gives the
//! caller's registers out of the callee's and two words of the stack. Only stack pointer, frame pointer,
//! program counter (and aarch64's link register) are followed: compilers compute frames from nothing else.

mod no_cfi;
mod return_probes;
mod tables;

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_task_btf, bpf_loop, bpf_probe_read_kernel, bpf_probe_read_user,
    bpf_task_pt_regs,
};
use holdup_probe_ebpf::wire::{self, unwind::*};

use crate::{
    emit::{count, count_by, emit_urgent},
    intern,
    maps::{LAST_UNMAPPED, config},
    registers::{self, saved},
    scratch::{self, Scratch},
};
use return_probes::Instances;

/// Where a walk is: the registers of a frame, and what was found so far.
///
/// It lies in a map and not on the BPF stack: of what comes out of a map the verifier knows nothing, so that one
/// frame looks to it like another, and it need not try all of them.
#[repr(C)]
pub struct Walk {
    pc: u64,
    stack_pointer: u64,
    frame_pointer: u64,
    /// In the innermost frame alone, where the architecture has one.
    link_register: u64,
    /// Non-zero: `pc` is the next instruction's address, and not the one behind a call.
    is_exact: u64,
    instances: Instances,
    hash: u64,
    frames: u64,
    outcome: u64,
}

/// What a walk works with.
#[repr(C)]
struct Context {
    ranges: *const Ranges,
    scratch: *mut Scratch,
}

/// The running thread's user stack; 0 when there is none or it can't be stored.
#[inline(always)]
pub fn user_stack(kind: u32) -> u64 {
    user_stack_less(kind, 0)
}

/// The same in a return probe: the stack of the caller, which stands behind its call.
#[inline(always)]
pub fn callers_stack(kind: u32) -> u64 {
    user_stack_less(kind, 1)
}

/// From `less` bytes before the instruction pointer. A global function: a walk is the longest way of all, and some
/// programs have two.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn user_stack_less(kind: u32, less: u64) -> u64 {
    // Of an argument the verifier knows nothing.
    if kind >= KINDS {
        return 0;
    }
    let Some(scratch) = scratch::claim() else {
        count(wire::counter_walks(kind, OUTCOME_NO_ROOM));
        return 0;
    };
    let key = take(scratch, kind, less);
    scratch::release(scratch);
    key
}

#[inline(always)]
fn take(scratch: *mut Scratch, kind: u32, less: u64) -> u64 {
    // SAFETY: no preconditions; the pointer is the running thread's record.
    let task = unsafe { bpf_get_current_task_btf() };
    if !read_registers(scratch, task.cast()) {
        count(wire::counter_walks(kind, OUTCOME_NO_REGISTERS));
        return 0;
    }
    // SAFETY: claimed by this program.
    let (saved, walk) = unsafe { (&(*scratch).registers, &mut (*scratch).walk) };
    *walk = Walk {
        pc: saved[saved::program_counter()].wrapping_sub(less),
        stack_pointer: saved[saved::stack_pointer()],
        frame_pointer: saved[saved::frame_pointer()],
        link_register: saved[saved::link_register()],
        is_exact: 1,
        instances: Instances::of(task as u64),
        hash: intern::EMPTY_HASH,
        frames: 0,
        outcome: u64::from(OUTCOME_TOO_DEEP),
    };
    match tables::of_target() {
        Some(ranges) => {
            // A uprobe's program runs when the address was set right.
            if kind != KIND_UPROBE {
                if is_before_first_instruction(ranges, walk) {
                    walk.pc -= 1;
                } else if has_half_pushed(ranges, walk) {
                    walk.stack_pointer += 8;
                } else if walk
                    .instances
                    .is_leaving_trampoline(walk.pc, walk.stack_pointer)
                {
                    walk.stack_pointer += return_probes::PUSHED;
                }
            }
            let mut context = Context { ranges, scratch };
            // SAFETY: `step` takes a `Context`, and this one lives until the helper returns.
            unsafe {
                bpf_loop(
                    wire::STACK_FRAMES as u32,
                    step as *mut c_void,
                    (&raw mut context).cast(),
                    0,
                );
            }
        }
        None => {
            // The innermost frame is known without tables.
            push(scratch, walk);
            walk.outcome = u64::from(OUTCOME_NO_TABLE);
        }
    }
    let outcome = walk.outcome as u32;
    count_walk(kind, outcome);
    count_by(wire::COUNTER_FRAMES, walk.frames);
    // SAFETY: claimed by this program; a whole stack.
    unsafe {
        (*scratch).stack.frames = walk.frames as u32;
        (*scratch).stack.outcome = outcome;
        intern::intern(
            &raw const (*scratch).stack,
            intern::hash(walk.hash, walk.outcome),
        )
    }
}

/// Whether a thread stands behind a probe's breakpoint on a function's first instruction, which the kernel has not
/// handled yet. Padding in front of a function has the same byte, but no row of a table begins at its last one.
#[inline(always)]
fn is_before_first_instruction(ranges: *const Ranges, walk: &Walk) -> bool {
    let Some(return_address) = no_cfi::trap_pending(walk.pc, walk.stack_pointer) else {
        return false;
    };
    let before = walk.pc.wrapping_sub(1);
    tables::find(ranges, before).is_ok_and(|found| found.start == before)
        && tables::find(ranges, return_address.wrapping_sub(1)).is_ok()
}

/// Whether the kernel has done one half of a probed push, a function's first instruction: what lies at the stack pointer is
/// no return address, but the word above it is one, or was until a return probe replaced it.
#[inline(always)]
fn has_half_pushed(ranges: *const Ranges, walk: &Walk) -> bool {
    if !no_cfi::push_pending(walk.pc) {
        return false;
    }
    let entry = walk.stack_pointer.wrapping_add(8);
    // What was pushed can point to code, too: the register may hold a function that is called through it.
    let returns = no_cfi::return_address_at(walk.stack_pointer)
        .is_some_and(|word| tables::find(ranges, word.wrapping_sub(1)).is_ok());
    !returns
        && tables::find(ranges, walk.pc).is_ok_and(|found| found.start == walk.pc)
        && (walk.instances.is_innermost(entry) || no_cfi::return_address_at(entry).is_some())
}

/// Counts by outcome. The bound is for the verifier.
#[inline(always)]
fn count_walk(kind: u32, outcome: u32) {
    if outcome < OUTCOMES {
        count(wire::counter_walks(kind, outcome));
    }
}

#[inline(always)]
fn read_registers(scratch: *mut Scratch, task: *mut aya_ebpf::bindings::task_struct) -> bool {
    let bytes = saved::count() * 8;
    // SAFETY: the registers that the thread entered the kernel with lie at the top of its kernel stack; the room
    // is as large as the architecture with more of them needs.
    unsafe {
        let saved = bpf_task_pt_regs(task.cast());
        bpf_probe_read_kernel(
            (&raw mut (*scratch).registers).cast(),
            bytes as u32,
            saved as *const c_void,
        ) == 0
    }
}

/// Adds the frame that the walk is at to the stack.
#[inline(always)]
fn push(scratch: *mut Scratch, walk: &mut Walk) {
    // See `wire::Stack::addrs`.
    let addr = if walk.is_exact != 0 && walk.frames != 0 {
        walk.pc + 1
    } else {
        walk.pc
    };
    walk.hash = intern::hash(walk.hash, addr);
    let n = walk.frames as usize & (wire::STACK_FRAMES - 1);
    // SAFETY: claimed by this program, masked below STACK_FRAMES, a power of two.
    unsafe {
        (&raw mut (*scratch).stack.addrs)
            .cast::<u64>()
            .add(n)
            .write(addr);
    }
    walk.frames += 1;
}

/// Nothing is mapped in the first page ...
const LOWEST_CODE: u64 = 1 << 12;
/// ... nor, for a process, from here on, whatever page tables an architecture has.
const HIGHEST_CODE: u64 = 1 << 56;

const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// One frame.
///
/// # Safety
/// `context` is that of a walk that has begun.
unsafe extern "C" fn step(_n: u32, context: *mut Context) -> i64 {
    // SAFETY: the caller's promise.
    let (ranges, scratch) = unsafe { ((*context).ranges, (*context).scratch) };
    // SAFETY: claimed by this program.
    let (walk, saved) = unsafe { (&mut (*scratch).walk, &(*scratch).registers) };
    push(scratch, walk);
    let place = walk.pc.wrapping_sub(u64::from(walk.is_exact == 0));
    let found = match tables::find(ranges, place) {
        Ok(found) => found,
        Err(why) => {
            // On the way back through a return probe: the function has returned already, and its caller is the
            // innermost frame. The kernel's page for it may have been mapped since user space looked.
            if walk.frames == 1
                && why != NO_CHUNK_NO_TABLE
                && let Some(left) = walk.instances.on_trampoline(
                    walk.pc,
                    walk.stack_pointer,
                    saved[saved::return_value()],
                )
            {
                walk.pc = left.return_address;
                walk.stack_pointer = left.stack_pointer;
                walk.frames = 0;
                walk.hash = intern::EMPTY_HASH;
                return GO_ON;
            }
            if why != NO_CHUNK_UNMAPPED {
                return stop(walk, OUTCOME_NO_TABLE);
            }
            tell_unmapped(walk.pc);
            return stop(walk, OUTCOME_UNMAPPED);
        }
    };
    let Some(rule) = tables::rule(found.rule) else {
        return stop(walk, OUTCOME_BAD_ROW);
    };
    // SAFETY: a map value, written before any row that names it.
    let rule = unsafe { &*rule };

    let mut return_address = 0_u64;
    let mut frame_pointer = walk.frame_pointer;
    let cfa;
    match rule.cfa {
        CFA_END => return stop(walk, OUTCOME_COMPLETE),
        CFA_NONE => {
            let Some(caller) = no_cfi::find_caller(scratch, walk, found.start) else {
                return stop(walk, OUTCOME_NO_CFI);
            };
            count(wire::COUNTER_FRAMES_WITHOUT_CFI);
            return_address = caller.return_address;
            frame_pointer = caller.frame_pointer;
            cfa = caller.cfa;
        }
        _ => {
            let Some(known) = canonical_frame_address(scratch, walk, rule) else {
                return stop(walk, OUTCOME_BAD_ROW);
            };
            cfa = known;
            match rule.return_address {
                SAVED_AT_CFA => {
                    if !read_word(offset(cfa, rule.return_address_offset), &mut return_address) {
                        return stop(walk, OUTCOME_READ_FAULT);
                    }
                }
                SAVED_AT_STACK_POINTER => {
                    let at = offset(walk.stack_pointer, rule.return_address_offset);
                    if !read_word(at, &mut return_address) {
                        return stop(walk, OUTCOME_READ_FAULT);
                    }
                }
                _ => {
                    // A link register is known in the innermost frame alone.
                    if !config::is_aarch64() || walk.frames != 1 {
                        return stop(walk, OUTCOME_BAD_ROW);
                    }
                    return_address = walk.link_register;
                }
            }
            let frame_pointer_at = match rule.frame_pointer {
                SAVED_AT_CFA => offset(cfa, rule.frame_pointer_offset),
                SAVED_AT_STACK_POINTER => offset(walk.stack_pointer, rule.frame_pointer_offset),
                SAVED_AT_FRAME_POINTER => offset(walk.frame_pointer, rule.frame_pointer_offset),
                SAVED_LOST => {
                    frame_pointer = 0;
                    0
                }
                _ => 0,
            };
            if frame_pointer_at != 0 && !read_word(frame_pointer_at, &mut frame_pointer) {
                return stop(walk, OUTCOME_READ_FAULT);
            }
        }
    }
    let entry_stack_pointer = cfa.wrapping_sub(registers::return_pops());
    // The trampoline is no frame of the program.
    let Some(original) = walk.instances.original(entry_stack_pointer, return_address) else {
        return stop(walk, OUTCOME_NO_TABLE);
    };
    return_address = registers::plain_code_address(original);
    // Where a thread starts, its unwind information says so; a zero is no such word, and what can't be an address
    // is no frame.
    if !(LOWEST_CODE..HIGHEST_CODE).contains(&return_address) {
        return stop(walk, OUTCOME_BAD_ROW);
    }
    // A caller's frame is higher on the stack; the same only where nothing was pushed, which a call does on
    // x86-64. A signal may have been handled on a stack of its own.
    let is_signal_frame = rule.flags & RULE_SIGNAL_FRAME != 0;
    let is_lower = if config::is_aarch64() && walk.is_exact != 0 {
        cfa < walk.stack_pointer
    } else {
        cfa <= walk.stack_pointer
    };
    if is_lower && !is_signal_frame {
        return stop(walk, OUTCOME_BAD_ROW);
    }
    walk.pc = return_address;
    walk.stack_pointer = cfa;
    walk.frame_pointer = frame_pointer;
    walk.is_exact = u64::from(is_signal_frame);
    GO_ON
}

#[inline(always)]
fn stop(walk: &mut Walk, outcome: u32) -> i64 {
    walk.outcome = u64::from(outcome);
    STOP
}

#[inline(always)]
fn offset(addr: u64, bytes: i32) -> u64 {
    addr.wrapping_add_signed(i64::from(bytes))
}

/// Reads a word of the target's memory.
#[inline(always)]
fn read_word(addr: u64, word: &mut u64) -> bool {
    // SAFETY: the helper checks the user address and reports a fault as an error.
    unsafe { bpf_probe_read_user(core::ptr::from_mut(word).cast(), 8, addr as *const c_void) == 0 }
}

/// None where the rule is not supported or the stack can't be read.
#[inline(always)]
fn canonical_frame_address(scratch: *const Scratch, walk: &Walk, rule: &Rule) -> Option<u64> {
    match rule.cfa {
        CFA_STACK_POINTER => Some(offset(walk.stack_pointer, rule.cfa_offset)),
        CFA_FRAME_POINTER => Some(offset(walk.frame_pointer, rule.cfa_offset)),
        CFA_AT_STACK_POINTER | CFA_AT_FRAME_POINTER => {
            let register = if rule.cfa == CFA_AT_STACK_POINTER {
                walk.stack_pointer
            } else {
                walk.frame_pointer
            };
            let mut word = 0;
            read_word(offset(register, rule.cfa_offset), &mut word)
                .then(|| offset(word, rule.cfa_second))
        }
        CFA_PLT => {
            let pushed = walk.pc & 15 >= rule.cfa_second as u64;
            let more = if pushed { 8 } else { 0 };
            Some(offset(walk.stack_pointer, rule.cfa_offset) + more)
        }
        // Other registers are those of the innermost frame.
        CFA_REGISTER | CFA_AT_STACK_POINTER_INDEXED if walk.frames == 1 => {
            let n = rule.cfa_register as usize & (scratch::REGISTERS - 1);
            // SAFETY: claimed by this program, masked below REGISTERS, a power of two.
            let register = unsafe {
                (&raw const (*scratch).registers)
                    .cast::<u64>()
                    .add(n)
                    .read()
            };
            if rule.cfa == CFA_REGISTER {
                return Some(offset(register, rule.cfa_offset));
            }
            let at =
                offset(walk.stack_pointer, rule.cfa_offset).wrapping_add(register.wrapping_mul(8));
            let mut word = 0;
            read_word(at, &mut word).then(|| offset(word, rule.cfa_second))
        }
        _ => None,
    }
}

/// Asks user space to look at what is mapped, not more often than it can.
#[inline(always)]
fn tell_unmapped(addr: u64) {
    const EVERY_NS: u64 = 20_000_000;
    let Some(last) = LAST_UNMAPPED.get_ptr_mut(0) else {
        return;
    };
    let at_ns = crate::now();
    // SAFETY: a map value; two CPUs that ask at once do no harm.
    unsafe {
        if at_ns.saturating_sub(*last) < EVERY_NS {
            return;
        }
        *last = at_ns;
    }
    let unmapped = wire::CodeUnmapped {
        header: wire::EventHeader {
            kind: wire::EVENT_CODE_UNMAPPED,
            tid: aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32,
            at_ns,
        },
        addr,
    };
    emit_urgent(&unmapped, wire::COUNTER_LOST_OTHER);
}
