//! Machine code goes in; what a probe on it costs, and where to put one, comes out.
//!
//! A uprobe replaces the first byte of an instruction. The kernel then emulates that instruction
//! where it can, else it runs a copy out of line under single-step, which costs a second trap:
//! 0.5 µs against 9 µs in a virtual machine. What x86 emulates (`arch/x86/kernel/uprobes.c`):
//! `branch_setup_xol_ops` takes jmp rel8/rel32, call rel32, jcc rel8/rel32 and nop;
//! `push_setup_xol_ops` takes push of a 64-bit register with no prefix or REX.B alone.
//!
//! On aarch64 every probe is one `brk` and most first instructions (stp, sub) are single-stepped in
//! a slot; the spread is small there, so this module answers "single-stepped" and the return
//! address itself.
#![forbid(unsafe_code)]

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Register,
};
use serde::{Deserialize, Serialize};

/// What the kernel does with the instruction under a uprobe: its price class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstInstruction {
    /// Emulated: one trap.
    Emulated,
    /// Single-stepped out of line: two traps, about twenty times the price in a virtual machine.
    SingleStepped,
    /// The kernel refuses a uprobe on it, or it is no instruction.
    Refused,
}

impl FirstInstruction {
    /// Of the instruction at the start of `code`, x86-64.
    pub fn of(code: &[u8]) -> FirstInstruction {
        let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
        if !decoder.can_decode() {
            return FirstInstruction::Refused;
        }
        let instruction = decoder.decode();
        price(&code[..instruction.len().min(code.len())], &instruction)
    }
}

/// Most instructions between a return address and the probe that stands for it. Compilers test or
/// store the result within a handful; each one more is time that the probe sees late.
const STRAIGHT_LINE_LIMIT: usize = 16;

/// Where to see that a call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnSiteProbe {
    /// Bytes from the return address on.
    pub offset: u64,
    /// What the probe costs.
    pub price: FirstInstruction,
}

/// From a call's return address walks the straight line for the first instruction that the kernel
/// emulates. Everything before it must run exactly once after the call and leave the stack pointer
/// alone, so that the probe fires once with the stack pointer that identifies the call. Without
/// such an instruction it is the first one that takes a probe at all, at the dear price. None when
/// the bytes are no code, or nothing there takes a probe.
///
/// `code` starts at `return_addr`.
///
/// Errs when other code jumps into the middle of the line: then the probe also fires without a
/// call having returned, which the kernel side tells by the stack pointer.
pub fn return_site_probe(code: &[u8], return_addr: u64) -> Option<ReturnSiteProbe> {
    let mut decoder = Decoder::with_ip(64, code, return_addr, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    let mut dear = None;
    for _ in 0..STRAIGHT_LINE_LIMIT {
        if !decoder.can_decode() {
            break;
        }
        let start = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        let probe = ReturnSiteProbe {
            offset: start as u64,
            price: price(&code[start..start + instruction.len()], &instruction),
        };
        match probe.price {
            FirstInstruction::Emulated => return Some(probe),
            FirstInstruction::SingleStepped => dear = dear.or(Some(probe)),
            FirstInstruction::Refused => {}
        }
        let leaves_the_line = instruction.flow_control() != FlowControl::Next;
        let moves_the_stack = info.info(&instruction).used_registers().iter().any(|used| {
            used.register().full_register() == Register::RSP
                && !matches!(
                    used.access(),
                    iced_x86::OpAccess::Read
                        | iced_x86::OpAccess::CondRead
                        | iced_x86::OpAccess::None
                )
        });
        if leaves_the_line || moves_the_stack {
            break;
        }
    }
    dear
}

fn price(bytes: &[u8], instruction: &Instruction) -> FirstInstruction {
    if instruction.is_invalid() {
        return FirstInstruction::Refused;
    }
    let prefixes = bytes
        .iter()
        .take_while(|byte| {
            matches!(
                byte,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
            )
        })
        .count();
    // `is_prefix_bad`: segment overrides that mean nothing in 64-bit mode, and lock.
    if bytes[..prefixes]
        .iter()
        .any(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0))
    {
        return FirstInstruction::Refused;
    }
    let plain = prefixes == 0;
    match bytes[prefixes..] {
        [0x50..=0x57] | [0x41, 0x50..=0x57] if plain => FirstInstruction::Emulated,
        // Prefixes before nop are fine (`xchg ax, ax`, pause); 41 90 is xchg and is not.
        [0x90] => FirstInstruction::Emulated,
        // Multi-byte nops (0f 1f) are emulated too since 6.18; older kernels single-step them.
        [0xeb, _] | [0xe8 | 0xe9, _, _, _, _] if plain => FirstInstruction::Emulated,
        [0x70..=0x7f, _] | [0x0f, 0x80..=0x8f, _, _, _, _] if plain => FirstInstruction::Emulated,
        // Calls and jumps with a 16-bit operand override: -ENOTSUPP.
        [0xe8 | 0xe9 | 0xeb | 0x70..=0x7f, ..] if bytes[..prefixes].contains(&0x66) => {
            FirstInstruction::Refused
        }
        // Single-byte opcodes that the 64-bit table of allowed instructions leaves out: int3, int,
        // iret, hlt, in, out, cli, sti and their like.
        [
            0xcc..=0xcf | 0xe4..=0xe7 | 0xec..=0xef | 0xf1 | 0xf4 | 0xfa | 0xfb,
            ..,
        ] => FirstInstruction::Refused,
        _ => FirstInstruction::SingleStepped,
    }
}

/// Where a function that does nothing but hand its arguments on jumps to: `code` at `vaddr` is a few
/// instructions, none of which writes the second to fourth argument's first halves (rsi, rdx), and then a
/// direct jump.
pub fn tail_jump(code: &[u8], vaddr: u64) -> Option<u64> {
    const INSTRUCTIONS: usize = 8;
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    for _ in 0..INSTRUCTIONS {
        if !decoder.can_decode() {
            return None;
        }
        let instruction = decoder.decode();
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::UnconditionalBranch => return Some(instruction.near_branch_target()),
            _ => return None,
        }
        let overwrites = info.info(&instruction).used_registers().iter().any(|used| {
            matches!(
                used.register().full_register(),
                Register::RSI | Register::RDX
            ) && used.access() != iced_x86::OpAccess::Read
        });
        if overwrites {
            return None;
        }
    }
    None
}

/// The System V integer argument registers, in order.
const ARGUMENTS: [Register; 6] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register::RCX,
    Register::R8,
    Register::R9,
];

/// Index of the integer argument (0 is rdi) that function `code` compares with `value` first, seen
/// through copies to other registers and to stack slots. None when it compares none.
///
/// Walks the function in address order and ignores branches: arguments are copied out of their
/// registers in the entry block, which comes first, and a copy is never overwritten before the
/// compare in code where the answer matters. Errs for a function that reuses an argument's register
/// in an early cold block laid out before the compare; compilers put those last.
pub fn argument_compared_with(code: &[u8], value: u32) -> Option<usize> {
    /// Bounds the walk: parking_lot's longest slow path has 2.5 KiB.
    const BYTES: usize = 16 << 10;
    let code = &code[..code.len().min(BYTES)];
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    let mut registers: Vec<(Register, usize)> =
        ARGUMENTS.iter().enumerate().map(|(i, r)| (*r, i)).collect();
    let mut slots: Vec<((Register, u64), usize)> = Vec::new();
    let mut compared_register = None;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let argument_in = |register: Register, registers: &[(Register, usize)]| {
            registers
                .iter()
                .find(|(holder, _)| *holder == register.full_register())
                .map(|(_, argument)| *argument)
        };
        let slot = (
            instruction.memory_base(),
            instruction.memory_displacement64(),
        );
        let source = |operand: u32, registers: &[(Register, usize)]| match instruction
            .op_kind(operand)
        {
            iced_x86::OpKind::Register => argument_in(instruction.op_register(operand), registers),
            iced_x86::OpKind::Memory => slots
                .iter()
                .find(|(known, _)| *known == slot)
                .map(|(_, argument)| *argument),
            _ => None,
        };
        if instruction.mnemonic() == iced_x86::Mnemonic::Cmp
            && instruction.op_kind(1) == iced_x86::OpKind::Immediate32
            && instruction.immediate32() == value
        {
            if let Some(argument) = source(0, &registers) {
                return Some(argument);
            }
            compared_register.get_or_insert(());
        }
        let copied = (instruction.mnemonic() == iced_x86::Mnemonic::Mov)
            .then(|| source(1, &registers))
            .flatten();
        let to_slot = instruction.op_count() > 0
            && instruction.op_kind(0) == iced_x86::OpKind::Memory
            && matches!(instruction.memory_base(), Register::RSP | Register::RBP);
        if instruction.mnemonic() == iced_x86::Mnemonic::Mov && to_slot {
            slots.retain(|(known, _)| *known != slot);
            if let Some(argument) = copied {
                slots.push((slot, argument));
            }
            continue;
        }
        for used in info.info(&instruction).used_registers() {
            let written = !matches!(
                used.access(),
                iced_x86::OpAccess::Read | iced_x86::OpAccess::CondRead | iced_x86::OpAccess::None
            );
            if written {
                registers.retain(|(holder, _)| *holder != used.register().full_register());
            }
        }
        if let Some(argument) = copied {
            registers.push((instruction.op0_register().full_register(), argument));
        }
    }
    None
}
