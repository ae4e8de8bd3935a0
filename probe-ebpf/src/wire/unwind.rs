//! Unwind tables, which user space makes from the target's `.eh_frame` and the kernel side walks stacks
//! with, and how a walk can end.
//!
//! ```text
//!   process -> Ranges: address -> chunk, and what to subtract for a place in it
//!   chunk   -> Rows:   place   -> number of a rule
//!   RULES   -> Rule:   registers of a frame -> registers of its caller
//! ```
//!
//! Few different rules occur (some hundred in a large binary), so a row holds the number of one: 8
//! bytes. Chunks all have one size, so that maps can hold them, share them between processes, and give them
//! back one by one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// From this place on, up to the next row's, this rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Row {
    /// First address, less the range's `base`.
    pub place: u32,
    /// Index of the rule.
    pub rule: u32,
}

/// Rows of one chunk. A power of two: the kernel side masks indices with it.
pub const CHUNK_ROWS: usize = 8192;

/// Rows by place.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Chunk {
    /// Those that its ranges count are valid.
    pub rows: [Row; CHUNK_ROWS],
}

/// Most chunks at a time, of all processes: 64 MiB of kernel memory, eight million rows. A binary of 100 MB
/// has about two hundred thousand.
pub const MAX_CHUNKS: u32 = 1024;

/// From this address on, up to the next range's, this chunk holds the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// What to subtract from an address for its place in the chunk.
    pub base: u64,
    /// Index of the chunk, or one of the `NO_CHUNK_` codes.
    pub chunk: u32,
    /// Rows in the chunk.
    pub rows: u32,
}

/// Nothing is mapped there, or nothing that can be executed.
pub const NO_CHUNK_UNMAPPED: u32 = u32::MAX;
/// Code without a table: generated at run time, of a file that can't be read, or beyond the budget.
pub const NO_CHUNK_NO_TABLE: u32 = u32::MAX - 1;
/// The kernel's own `[uprobes]` page: the trampoline of return probes and copies of probed instructions.
pub const NO_CHUNK_UPROBES: u32 = u32::MAX - 2;

/// Ranges of one process. A power of two: the kernel side masks indices with it.
pub const MAX_RANGES: usize = 4096;

/// The address space of a process: sorted, without gaps.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ranges {
    /// How many of `ranges` are valid.
    pub count: u32,
    /// Always zero.
    pub zero: u32,
    /// By start.
    pub ranges: [Range; MAX_RANGES],
}

/// Processes at a time.
pub const MAX_PROCESSES: u32 = 64;

/// There is no unwind information: what the caller is has to be found out.
pub const CFA_NONE: u8 = 0;
/// The thread's start: it has no caller.
pub const CFA_END: u8 = 1;
/// There is unwind information of a kind that is not understood.
pub const CFA_UNSUPPORTED: u8 = 2;
/// Stack pointer + `cfa_offset`.
pub const CFA_STACK_POINTER: u8 = 3;
/// Frame pointer + `cfa_offset`.
pub const CFA_FRAME_POINTER: u8 = 4;
/// The word at stack pointer + `cfa_offset`, + `cfa_second`.
pub const CFA_AT_STACK_POINTER: u8 = 5;
/// The word at frame pointer + `cfa_offset`, + `cfa_second`.
pub const CFA_AT_FRAME_POINTER: u8 = 6;
/// Stack pointer + `cfa_offset`, and another word where the low four bits of the address are at least
/// `cfa_second`: the linker's description of a PLT entry, which pushes at that place.
pub const CFA_PLT: u8 = 7;
/// Register + `cfa_offset`. Known in an innermost frame alone.
pub const CFA_REGISTER: u8 = 8;
/// The word at stack pointer + `cfa_offset` + 8 times a register, + `cfa_second`: OpenSSL's multiplication of
/// large numbers keeps the caller's stack pointer behind its variable number of words. Known in an innermost
/// frame alone.
pub const CFA_AT_STACK_POINTER_INDEXED: u8 = 9;

/// The caller's is the callee's: it was saved nowhere.
pub const SAVED_NOWHERE: u8 = 0;
/// It is the word at CFA + offset.
pub const SAVED_AT_CFA: u8 = 1;
/// It is the word at stack pointer + offset.
pub const SAVED_AT_STACK_POINTER: u8 = 2;
/// It is the word at frame pointer + offset.
pub const SAVED_AT_FRAME_POINTER: u8 = 3;
/// It can't be known.
pub const SAVED_LOST: u8 = 4;

/// How to get from a frame's registers to its caller's. The CFA (canonical frame address, DWARF 5, 6.4) is the
/// caller's stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rule {
    /// A `CFA_` code.
    pub cfa: u8,
    /// For the codes with a register: which word of the kernel's record of a thread's registers it is.
    pub cfa_register: u8,
    /// A `SAVED_` code: the caller's frame pointer.
    pub frame_pointer: u8,
    /// A `SAVED_` code: the return address. [`SAVED_NOWHERE`]: still in the link register, where the
    /// architecture has one.
    pub return_address: u8,
    /// Bytes.
    pub cfa_offset: i32,
    /// Bytes; see the codes.
    pub cfa_second: i32,
    /// Bytes.
    pub frame_pointer_offset: i32,
    /// Bytes.
    pub return_address_offset: i32,
    /// `RULE_` flags.
    pub flags: u32,
}

/// A signal interrupted the caller: its address is the next instruction's, not the one behind a call.
pub const RULE_SIGNAL_FRAME: u32 = 1 << 0;

/// Index of the rule with [`CFA_NONE`].
pub const RULE_NONE: u32 = 0;
/// Index of the rule with [`CFA_END`].
pub const RULE_END: u32 = 1;
/// Index of the rule with [`CFA_UNSUPPORTED`].
pub const RULE_UNSUPPORTED: u32 = 2;
/// Most rules, of all binaries together. A power of two: the kernel side masks indices with it.
pub const MAX_RULES: usize = 16384;

// How a walk ended.

/// It reached the thread's start.
pub const OUTCOME_COMPLETE: u32 = 0;
/// An address lies in no executable mapping (that user space has seen so far).
pub const OUTCOME_UNMAPPED: u32 = 1;
/// An address lies in code without a table.
pub const OUTCOME_NO_TABLE: u32 = 2;
/// An address has no unwind information, and its caller could not be found without.
pub const OUTCOME_NO_CFI: u32 = 3;
/// A table's row is of a kind that is not supported, or leads down the stack or to no address.
pub const OUTCOME_BAD_ROW: u32 = 4;
/// The stack could not be read.
pub const OUTCOME_READ_FAULT: u32 = 5;
/// There are more frames than a stack holds.
pub const OUTCOME_TOO_DEEP: u32 = 6;
/// The registers could not be read; there is no stack.
pub const OUTCOME_NO_REGISTERS: u32 = 7;
/// All room to work in was taken; there is no stack.
pub const OUTCOME_NO_ROOM: u32 = 8;
/// How many there are.
pub const OUTCOMES: u32 = 9;

/// A stack was taken at a uprobe.
pub const KIND_UPROBE: u32 = 0;
/// A stack was taken by the CPU clock.
pub const KIND_SAMPLE: u32 = 1;
/// A stack was taken when its thread was switched out.
pub const KIND_OFF_CPU: u32 = 2;
/// How many there are.
pub const KINDS: u32 = 3;
