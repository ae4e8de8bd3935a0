//! Tables of whole binaries, of both architectures, whose every row is known (`fixtures/README.md`).

use holdup_probe_ebpf::wire::unwind::*;

use super::{RuleSet, Table};
use crate::target::Elf;

const X86_64: &[u8] = include_bytes!("fixtures/frames-x86_64.so");
const AARCH64: &[u8] = include_bytes!("fixtures/frames-aarch64.so");

/// A table and its rules.
struct Made {
    table: Table,
    rules: RuleSet,
}

impl Made {
    fn of(image: &[u8]) -> Made {
        let elf = Elf::parse(image).expect("an ELF file");
        let mut rules = RuleSet::default();
        let table = Table::of(&elf, &mut rules).expect("it has .eh_frame");
        assert_eq!((table.left_out, table.unsupported), (0, 0));
        Made { table, rules }
    }

    fn rule(&self, address: u64) -> Rule {
        self.rules.rules()[self.table.rule_at(address) as usize]
    }

    fn cfa(&self, address: u64) -> (u8, i32) {
        let rule = self.rule(address);
        (rule.cfa, rule.cfa_offset)
    }

    fn frame_pointer(&self, address: u64) -> (u8, i32) {
        let rule = self.rule(address);
        (rule.frame_pointer, rule.frame_pointer_offset)
    }

    fn return_address(&self, address: u64) -> (u8, i32) {
        let rule = self.rule(address);
        (rule.return_address, rule.return_address_offset)
    }
}

/// From a function's first instruction to its last one, with and without a frame pointer.
#[test]
fn plain_functions() {
    let made = Made::of(X86_64);
    assert_eq!(made.cfa(0x3c0), (CFA_STACK_POINTER, 8), "leaf");
    assert_eq!(made.return_address(0x3c0), (SAVED_AT_CFA, -8));
    assert_eq!(made.frame_pointer(0x3c0), (SAVED_NOWHERE, 0));

    assert_eq!(made.cfa(0x3d0), (CFA_STACK_POINTER, 8), "before its push");
    assert_eq!(made.cfa(0x3d1), (CFA_STACK_POINTER, 16));
    assert_eq!(made.cfa(0x3d4), (CFA_FRAME_POINTER, 16));
    assert_eq!(made.frame_pointer(0x3d4), (SAVED_AT_CFA, -16));
    assert_eq!(made.cfa(0x3da), (CFA_STACK_POINTER, 8), "at its return");

    assert_eq!(made.cfa(0x3e5), (CFA_STACK_POINTER, 80), "with 64 bytes");
    assert_eq!(made.cfa(0x3ee), (CFA_STACK_POINTER, 16), "in its epilogue");
    assert_eq!(made.cfa(0x3f0), (CFA_STACK_POINTER, 80), "behind that");
}

/// A function that realigns its stack keeps its caller's stack pointer in another register first, then in a word
/// of its frame.
#[test]
fn realigned_stack() {
    let made = Made::of(X86_64);
    let rule = made.rule(0x405);
    assert_eq!((rule.cfa, rule.cfa_offset), (CFA_REGISTER, 0));
    assert_eq!(rule.cfa_register, 7, "r10 is word 7 of the saved registers");
    assert_eq!(made.cfa(0x413), (CFA_AT_FRAME_POINTER, -8));
    assert_eq!(made.frame_pointer(0x413), (SAVED_AT_FRAME_POINTER, 0));
}

/// libc's return from a signal handler: everything is in the kernel's record on the stack.
#[test]
fn signal_frame() {
    let made = Made::of(X86_64);
    assert_eq!(made.cfa(0x420), (CFA_AT_STACK_POINTER, 160));
    assert_eq!(made.return_address(0x420), (SAVED_AT_STACK_POINTER, 168));
    assert_eq!(made.frame_pointer(0x420), (SAVED_AT_STACK_POINTER, 120));
    assert_eq!(made.rule(0x420).flags, RULE_SIGNAL_FRAME);
    assert_eq!(made.rule(0x3d4).flags, 0);
}

/// A thread's start has no caller; code without unwind information says so, from its own start on; and the
/// linker's description of the PLT.
#[test]
fn ends_gaps_and_the_plt() {
    let made = Made::of(X86_64);
    assert_eq!(made.table.rule_at(0x434), RULE_END);
    assert_eq!(made.table.rule_at(0x441), RULE_NONE);
    assert_eq!(made.table.rule_at(0x481), made.table.rule_at(0x3c0));
    assert_eq!(made.cfa(0x370), (CFA_STACK_POINTER, 16), "the PLT's first");
    let plt = made.rule(0x380);
    assert_eq!((plt.cfa, plt.cfa_offset, plt.cfa_second), (CFA_PLT, 8, 11));
}

/// aarch64: the return address is in the link register until the function saves it.
#[test]
fn aarch64() {
    let made = Made::of(AARCH64);
    assert_eq!(made.cfa(0x151c), (CFA_STACK_POINTER, 0), "leaf");
    assert_eq!(made.return_address(0x151c), (SAVED_NOWHERE, 0));

    assert_eq!(made.cfa(0x1528), (CFA_STACK_POINTER, 32), "not saved yet");
    assert_eq!(made.return_address(0x1528), (SAVED_NOWHERE, 0));
    assert_eq!(made.cfa(0x1530), (CFA_FRAME_POINTER, 16));
    assert_eq!(made.frame_pointer(0x1530), (SAVED_AT_CFA, -16));
    assert_eq!(made.return_address(0x1530), (SAVED_AT_CFA, -8));
    assert_eq!(made.return_address(0x1550), (SAVED_NOWHERE, 0), "restored");

    assert_eq!(made.cfa(0x15b0), (CFA_FRAME_POINTER, 32), "of any size");
    assert_eq!(made.return_address(0x15b0), (SAVED_AT_CFA, -24));
    assert_eq!(made.table.rule_at(0x15f8), RULE_END);
}

/// Without section headers, as some packers leave a file, the program header leads to the same table.
#[test]
fn without_section_headers() {
    let whole = Made::of(AARCH64);
    let mut image = AARCH64.to_vec();
    // e_shoff, and e_shentsize, e_shnum and e_shstrndx, of the ELF header.
    image[0x28..0x30].fill(0);
    image[0x3a..0x40].fill(0);
    let made = Made::of(&image);
    assert_eq!(made.table.rows, whole.table.rows);
    assert_eq!(made.rules.rules(), whole.rules.rules());
}
