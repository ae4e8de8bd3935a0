//! The caller of code without unwind information: hand-written assembly, mostly cryptography.
//!
//! On x86-64 the return address is above the stack pointer, behind what the routine pushed, or above the frame
//! pointer, behind what it pushed before it set that up. A word is taken for it only if the instruction in front
//! of where it leads is a call *into this very stretch of code*. Data that looks so by chance, or an old return
//! address, would have to be one from a call to the same routine. A call through a register shows no
//! target: such a word counts only where the plainest of routines have their return address.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user};

use super::{Walk, read_word};
use crate::{
    maps::config,
    scratch::{Scratch, WORDS},
};

/// What was found out.
pub struct Caller {
    pub return_address: u64,
    pub frame_pointer: u64,
    pub cfa: u64,
}

/// A frame pointer further from the stack pointer than this is not the routine's own.
const FRAME_LIMIT: u64 = 1 << 20;

/// The caller of the frame that the walk is at. The code without unwind information begins at `start`.
#[inline(always)]
pub fn find_caller(scratch: *mut Scratch, walk: &Walk, start: u64) -> Option<Caller> {
    if config::is_aarch64() {
        return by_frame_record(walk);
    }
    let (stack_pointer, frame_pointer) = (walk.stack_pointer, walk.frame_pointer);
    let mut search = Search {
        scratch,
        start,
        pc: walk.pc,
        target: 0,
        found: 0,
        n: 0,
    };
    search.from(stack_pointer);
    let above_stack_pointer = search.best();
    let has_frame = frame_pointer.wrapping_sub(stack_pointer) < FRAME_LIMIT;
    if has_frame {
        search.from(frame_pointer);
    }
    let above_frame_pointer = search.best();

    // The routine that is running began at the nearest of the calls' targets; the others are of calls that are over,
    // or of routines around it. Of two calls to the same place the one above the frame pointer: there is nothing
    // left over from earlier.
    if has_frame
        && above_frame_pointer.target != 0
        && above_frame_pointer.target >= above_stack_pointer.target
    {
        let mut restored = 0;
        if !read_word(frame_pointer, &mut restored) {
            return None;
        }
        return Some(Caller {
            return_address: above_frame_pointer.return_address,
            frame_pointer: restored,
            cfa: frame_pointer.wrapping_add((above_frame_pointer.n + 1) * 8),
        });
    }
    if above_stack_pointer.target != 0 {
        // What it pushed may have been the frame pointer, and then that points there.
        let into = frame_pointer.wrapping_sub(stack_pointer);
        let mut restored = frame_pointer;
        if into < above_stack_pointer.n * 8 && !read_word(frame_pointer, &mut restored) {
            return None;
        }
        return Some(Caller {
            return_address: above_stack_pointer.return_address,
            frame_pointer: restored,
            cfa: stack_pointer.wrapping_add((above_stack_pointer.n + 1) * 8),
        });
    }
    plainest(walk, has_frame)
}

/// What a probe puts in the place of an instruction's first byte.
pub const BREAKPOINT: u64 = 0xcc;

/// Whether a thread may stand behind a probe's breakpoint that the kernel has not handled yet, on a function's first
/// instruction: the address is one too high, and nothing was pushed yet. Then the word at the stack pointer, which is
/// returned, is a return address. (Behind an instruction that the kernel has emulated it is what was pushed, which can be
/// anything, also data that looks like a call: the caller looks whether code is there.)
#[inline(always)]
pub fn trap_pending(pc: u64, stack_pointer: u64) -> Option<u64> {
    if config::is_aarch64() || code_before(pc) >> 56 != BREAKPOINT {
        return None;
    }
    return_address_at(stack_pointer)
}

/// Whether the kernel may be emulating a probed push, and has moved the stack pointer and not yet the program counter: then
/// the word at the stack pointer is what was pushed. (Seen on virtual machines, where the clock's interrupt often comes right
/// behind a write to user memory.)
#[inline(always)]
pub fn push_pending(pc: u64) -> bool {
    !config::is_aarch64() && code_before(pc.wrapping_add(1)) >> 56 == BREAKPOINT
}

/// The word there, if it is a return address as far as the code in front of where it leads tells.
#[inline(always)]
pub fn return_address_at(addr: u64) -> Option<u64> {
    let mut word = 0;
    (read_word(addr, &mut word) && (is_behind_call(word) || is_behind_call_through_memory(word)))
        .then_some(word)
}

/// A return address right at the stack pointer, or right behind the saved frame pointer.
#[inline(always)]
fn plainest(walk: &Walk, has_frame: bool) -> Option<Caller> {
    let mut return_address = 0;
    if read_word(walk.stack_pointer, &mut return_address) && is_behind_call(return_address) {
        return Some(Caller {
            return_address,
            frame_pointer: walk.frame_pointer,
            cfa: walk.stack_pointer.wrapping_add(8),
        });
    }
    let mut frame_pointer = 0;
    if has_frame
        && read_word(walk.frame_pointer.wrapping_add(8), &mut return_address)
        && is_behind_call(return_address)
        && read_word(walk.frame_pointer, &mut frame_pointer)
    {
        return Some(Caller {
            return_address,
            frame_pointer,
            cfa: walk.frame_pointer.wrapping_add(16),
        });
    }
    None
}

/// aarch64 keeps frame pointer and link register side by side where the frame pointer points to ("frame record",
/// AAPCS64 6.4.6); a routine that has none yet still has the link register.
#[inline(always)]
fn by_frame_record(walk: &Walk) -> Option<Caller> {
    if walk.is_exact != 0 && walk.link_register != 0 {
        return Some(Caller {
            return_address: walk.link_register,
            frame_pointer: walk.frame_pointer,
            cfa: walk.stack_pointer,
        });
    }
    let (mut frame_pointer, mut return_address) = (0, 0);
    (read_word(walk.frame_pointer, &mut frame_pointer)
        && read_word(walk.frame_pointer.wrapping_add(8), &mut return_address))
    .then_some(Caller {
        return_address,
        frame_pointer,
        cfa: walk.frame_pointer.wrapping_add(16),
    })
}

/// A search for a return address among some words of the stack.
#[repr(C)]
struct Search {
    scratch: *mut Scratch,
    /// Code that must have been called ...
    start: u64,
    /// ... before this address.
    pc: u64,
    /// The target of the call that leads nearest to it, 0 for none.
    target: u64,
    /// Where that returns to.
    found: u64,
    /// Which of the words that is.
    n: u64,
}

/// What a search found.
struct Best {
    target: u64,
    return_address: u64,
    n: u64,
}

impl Search {
    #[inline(always)]
    fn best(&self) -> Best {
        Best {
            target: self.target,
            return_address: self.found,
            n: self.n,
        }
    }

    #[inline(always)]
    fn from(&mut self, addr: u64) {
        self.target = 0;
        // SAFETY: room for WORDS words that this program has claimed; the helper checks the user address.
        let error = unsafe {
            bpf_probe_read_user(
                (&raw mut (*self.scratch).words).cast(),
                (WORDS * 8) as u32,
                addr as *const c_void,
            )
        };
        if error != 0 {
            return;
        }
        // SAFETY: `is_return_address` takes a `Search`, and this one lives until the helper returns.
        unsafe {
            bpf_loop(
                WORDS as u32,
                is_return_address as *mut c_void,
                core::ptr::from_mut(self).cast(),
                0,
            );
        }
    }
}

/// Looks at the n-th word.
///
/// # Safety
/// `search` is a search whose words were read.
unsafe extern "C" fn is_return_address(n: u32, search: *mut Search) -> i64 {
    // SAFETY: the caller's promise.
    let search = unsafe { &mut *search };
    let at = n as usize & (WORDS - 1);
    // SAFETY: claimed by this program, masked below WORDS, a power of two.
    let word = unsafe {
        (&raw const (*search.scratch).words)
            .cast::<u64>()
            .add(at)
            .read()
    };
    let target = call_into(word, search.start, search.pc);
    if target > search.target {
        search.target = target;
        search.found = word;
        search.n = u64::from(n);
    }
    0
}

/// How far a call with a 32-bit distance reaches: further away nothing calls this code so.
const CALL_REACH: u64 = 1 << 31;

/// The eight bytes in front of an address, or 0.
#[inline(always)]
fn code_before(addr: u64) -> u64 {
    let mut bytes = 0;
    if read_word(addr.wrapping_sub(8), &mut bytes) {
        bytes
    } else {
        0
    }
}

/// Where the instruction in front of `addr` calls to, if that is an address from `start` to `pc`; else 0.
#[inline(always)]
fn call_into(addr: u64, start: u64, pc: u64) -> u64 {
    if addr.wrapping_sub(pc).wrapping_add(CALL_REACH) >= 2 * CALL_REACH {
        return 0;
    }
    let bytes = code_before(addr);
    let distance = (bytes >> 32) as u32 as i32;
    let mut target = addr.wrapping_add_signed(i64::from(distance));
    // call rel32: e8 and the distance.
    let is_direct = bytes >> 24 & 0xff == 0xe8;
    // call *rel32(%rip): ff 15 and the distance of a word with the target.
    let is_through_table = bytes >> 16 & 0xffff == 0x15ff;
    if !is_direct {
        let slot = target;
        if !is_through_table || !read_word(slot, &mut target) {
            return 0;
        }
    }
    if start <= target && target <= pc {
        target
    } else {
        0
    }
}

/// Whether the instruction in front of `addr` is a call of any kind that leads away by a 32-bit distance or
/// through a register.
#[inline(always)]
fn is_behind_call(addr: u64) -> bool {
    let bytes = code_before(addr);
    let direct = bytes >> 24 & 0xff == 0xe8;
    let through_table = bytes >> 16 & 0xffff == 0x15ff;
    // call *%reg: ff d0 to ff d7.
    let through_register = bytes >> 48 & 0xf8ff == 0xd0ff;
    bytes != 0 && (direct || through_table || through_register)
}

/// Whether it is a call through a pointer beside the one that a register has, as in a vtable or on the stack: `call *(%reg)`,
/// `call *disp8(%reg)`, `call *disp32(%reg)`, and with a second register or the stack pointer. Too weak a sign where any
/// word of the stack may be one.
#[inline(always)]
fn is_behind_call_through_memory(addr: u64) -> bool {
    let bytes = code_before(addr);
    // ff /2 with the three ways to say where (Intel's manual, volume 2, table 2-2).
    let right_there = bytes >> 48 & 0xf8ff == 0x10ff;
    let near = bytes >> 40 & 0xf8ff == 0x50ff;
    let far = bytes >> 16 & 0xf8ff == 0x90ff;
    // With a SIB byte.
    let right_there_by_two = bytes >> 40 & 0xffff == 0x14ff;
    let near_by_two = bytes >> 32 & 0xffff == 0x54ff;
    let far_by_two = bytes >> 8 & 0xffff == 0x94ff;
    bytes != 0 && (right_there || near || far || right_there_by_two || near_by_two || far_by_two)
}
