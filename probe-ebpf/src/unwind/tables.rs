//! From an address to the rule for its frame, through the maps that user space fills.

use core::arch::asm;

use holdup_probe_ebpf::wire::unwind::*;

use crate::maps::{CHUNKS, PROCESSES, RULES, config};

/// The key of an inner map's only value. As an instruction: a constant whose address is taken may be merged with an
/// equal one, and some of those are configuration that the loader changes.
#[inline(always)]
fn first() -> u32 {
    let zero: u64;
    // SAFETY: a move.
    unsafe { asm!("{0} = 0", out(reg) zero, options(nomem, nostack, pure)) };
    zero as u32
}

/// The address space of the target; None if it has no tables. Only the target's threads have their stacks walked, so
/// that nobody has to be asked which process is running (whose id is another one in a container).
#[inline(always)]
pub fn of_target() -> Option<*const Ranges> {
    // SAFETY: user space replaces inner maps as a whole, and the kernel frees a replaced one only when no
    // program can have it any more.
    unsafe { PROCESSES.get_value_ptr_mut(&config::target_tgid(), &first()) }
        .map(<*mut Ranges>::cast_const)
}

/// What a table says about an address.
pub struct Found {
    /// Index of the rule.
    pub rule: u32,
    /// From this address on the rule holds.
    pub start: u64,
}

/// All ones if the number is negative, else zero. As an instruction, because the compiler would branch.
#[inline(always)]
fn negative(number: u64) -> u64 {
    let mask;
    // SAFETY: a shift.
    unsafe {
        asm!("{0} s>>= 63", inlateout(reg) number => mask, options(nomem, nostack, pure));
    }
    mask
}

/// How many of the first `count` of `all` (at most `MOST`, a power of two) start at or before `value`.
///
/// Without a branch on what is compared: the verifier would follow both ways of each, and all their
/// combinations. `value` and all starts are below 2^63, so that the sign of a difference compares them.
macro_rules! count_up_to {
    ($value:expr, $all:expr, $most:expr, $start:ident, $count:expr) => {{
        let (value, count): (u64, u64) = ($value, $count);
        let mut before: u64 = 0;
        let mut step: u64 = $most as u64;
        while step > 0 {
            let next = before + step;
            // SAFETY: masked below the power of two that there are.
            let start = unsafe { (*$all.add((next - 1) as usize & ($most - 1))).$start };
            let is_there = negative(next.wrapping_sub(count + 1));
            let is_before = negative(u64::from(start).wrapping_sub(value + 1));
            before += step & is_there & is_before;
            step /= 2;
        }
        before
    }};
}

/// The row for an address, or the `NO_CHUNK_` code of why there is none.
#[inline(always)]
pub fn find(ranges: *const Ranges, addr: u64) -> Result<Found, u32> {
    if addr >= 1 << 62 {
        return Err(NO_CHUNK_UNMAPPED);
    }
    // SAFETY: a map value.
    let (all, count) = unsafe {
        (
            (&raw const (*ranges).ranges).cast::<Range>(),
            u64::from((*ranges).count),
        )
    };
    let before = count_up_to!(addr, all, MAX_RANGES, start, count);
    if before == 0 {
        return Err(NO_CHUNK_UNMAPPED);
    }
    // SAFETY: masked below MAX_RANGES, a power of two.
    let range = unsafe { &*all.add((before - 1) as usize & (MAX_RANGES - 1)) };
    let (start, base) = (range.start, range.base);
    let Some(chunk) = CHUNKS.get_value(range.chunk, &first()) else {
        return Err(range.chunk);
    };
    let rows = (&raw const chunk.rows).cast::<Row>();
    let place = u64::from(addr.wrapping_sub(base) as u32);
    let before = count_up_to!(place, rows, CHUNK_ROWS, place, u64::from(range.rows));
    if before == 0 {
        return Ok(Found {
            rule: RULE_NONE,
            start,
        });
    }
    // SAFETY: masked below CHUNK_ROWS, a power of two.
    let row = unsafe { &*rows.add((before - 1) as usize & (CHUNK_ROWS - 1)) };
    Ok(Found {
        rule: row.rule,
        start: base.wrapping_add(u64::from(row.place)),
    })
}

/// A rule.
#[inline(always)]
pub fn rule(index: u32) -> Option<*const Rule> {
    RULES.get_ptr(index)
}
