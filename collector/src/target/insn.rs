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

use std::collections::BTreeSet;

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
    cheap_place(code, return_addr, Register::RSP)
}

/// Where a function at `vaddr` takes a cheap probe while an argument (0 is the first one) is still where the caller put it.
/// Other code of the function may jump there, too: then the probe fires again.
pub fn entry_probe(code: &[u8], vaddr: u64, argument: usize) -> Option<ReturnSiteProbe> {
    cheap_place(code, vaddr, *ARGUMENTS.get(argument)?)
}

/// On the straight line from the start of `code`, as long as `keeps` is what it was.
fn cheap_place(code: &[u8], vaddr: u64, keeps: Register) -> Option<ReturnSiteProbe> {
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
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
        let changes_it = info.info(&instruction).used_registers().iter().any(|used| {
            used.register().full_register() == keeps
                && !matches!(
                    used.access(),
                    iced_x86::OpAccess::Read
                        | iced_x86::OpAccess::CondRead
                        | iced_x86::OpAccess::None
                )
        });
        if leaves_the_line || changes_it {
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
/// instructions, none of which writes its first three arguments, and then a direct jump.
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
            ARGUMENTS[..3].contains(&used.register().full_register()) && is_written(used.access())
        });
        if overwrites {
            return None;
        }
    }
    None
}

/// Where a call or a jump out of a function leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To this address.
    To(u64),
    /// To the address that this place holds.
    Through(u64),
}

/// The calls and the jumps out of function `code` at `vaddr`, in address order.
pub fn calls(code: &[u8], vaddr: u64) -> impl Iterator<Item = Call> + '_ {
    let end = vaddr.saturating_add(code.len() as u64);
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let is_call = match instruction.flow_control() {
                FlowControl::Call | FlowControl::IndirectCall => true,
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => false,
                _ => continue,
            };
            if instruction.is_ip_rel_memory_operand() {
                return Some(Call::Through(instruction.ip_rel_memory_address()));
            }
            if instruction.op0_kind() == iced_x86::OpKind::NearBranch64 {
                let target = instruction.near_branch_target();
                if is_call || !(vaddr..end).contains(&target) {
                    return Some(Call::To(target));
                }
            }
        }
        None
    })
}

/// Where the calls in `code` at `vaddr` return to that go through the first pointer behind a register
/// (`call [rax]`): the first function of a table is called so, and of a task's table that is `poll`.
pub fn returns_of_first_entry_calls(code: &[u8], vaddr: u64) -> impl Iterator<Item = u64> + '_ {
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        while decoder.can_decode() {
            let instruction = decoder.decode();
            if instruction.flow_control() == FlowControl::IndirectCall
                && instruction.op0_kind() == iced_x86::OpKind::Memory
                && !matches!(instruction.memory_base(), Register::None | Register::RIP)
                && instruction.memory_index() == Register::None
                && instruction.memory_displacement64() == 0
            {
                return Some(instruction.next_ip());
            }
        }
        None
    })
}

/// Functions, and places that hold their addresses: a call goes to the one or through the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callees {
    /// Addresses of the functions.
    pub functions: BTreeSet<u64>,
    /// Addresses of the places.
    pub places: BTreeSet<u64>,
}

impl Callees {
    /// Whether it is a call of one of them.
    pub fn includes(&self, call: Call) -> bool {
        match call {
            Call::To(target) => self.functions.contains(&target),
            Call::Through(place) => self.places.contains(&place),
        }
    }
}

/// What may be a call of a function, or a jump out of one to another, in `code` at `vaddr`, with the address behind the
/// instruction; nothing before it is decoded: in no time for a whole program.
pub fn look_like_calls(code: &[u8], vaddr: u64) -> impl Iterator<Item = (Call, u64)> + '_ {
    /// `call rel32` and `jmp rel32`.
    const DIRECT: [u8; 2] = [0xe8, 0xe9];
    /// `call [rip + rel32]` and `jmp [rip + rel32]`.
    const THROUGH: [[u8; 2]; 2] = [[0xff, 0x15], [0xff, 0x25]];
    memchr::memchr3_iter(DIRECT[0], DIRECT[1], THROUGH[0][0], code).filter_map(move |at| {
        let is_direct = DIRECT.contains(&code[at]);
        let opcode = if is_direct { 1 } else { 2 };
        let next = vaddr.wrapping_add((at + opcode + 4) as u64);
        let distance = i32::from_le_bytes(*code.get(at + opcode..)?.first_chunk()?);
        let target = next.wrapping_add_signed(distance.into());
        if is_direct {
            Some((Call::To(target), next))
        } else {
            let is_through = THROUGH.contains(code[at..].first_chunk()?);
            is_through.then_some((Call::Through(target), next))
        }
    })
}

/// What may be an instruction that takes an address relative to itself (`lea r64, [rip + rel32]`) in `code` at `vaddr`: where
/// the instruction is, and the address.
pub fn look_like_addresses(code: &[u8], vaddr: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    const LEA: u8 = 0x8d;
    memchr::memchr_iter(LEA, code).filter_map(move |at| {
        // REX.W, and REX.R for the upper eight registers.
        let prefix = at.checked_sub(1).map(|before| code[before])?;
        let is_relative = code.get(at + 1)? & 0b1100_0111 == 0b101;
        if prefix & 0b1111_1011 != 0x48 || !is_relative {
            return None;
        }
        let distance = i32::from_le_bytes(*code.get(at + 2..)?.first_chunk()?);
        let next = vaddr.wrapping_add((at + 6) as u64);
        let target = next.wrapping_add_signed(distance.into());
        Some((next.wrapping_sub(7), target))
    })
}

/// Whether one of the calls and jumps of function `code` at `vaddr` ends at `next`.
pub fn transfers_before(code: &[u8], vaddr: u64, next: u64) -> bool {
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() && decoder.ip() < next {
        decoder.decode_out(&mut instruction);
    }
    let is_transfer = matches!(
        instruction.flow_control(),
        FlowControl::Call
            | FlowControl::IndirectCall
            | FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
    );
    decoder.ip() == next && is_transfer
}

/// Where the calls of one of `callees` in function `code` at `vaddr` return to.
pub fn returns_of_calls<'a>(
    code: &'a [u8],
    vaddr: u64,
    callees: &'a Callees,
) -> impl Iterator<Item = u64> + 'a {
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let call = match instruction.flow_control() {
                FlowControl::Call if instruction.op0_kind() == iced_x86::OpKind::NearBranch64 => {
                    Call::To(instruction.near_branch_target())
                }
                FlowControl::IndirectCall if instruction.is_ip_rel_memory_operand() => {
                    Call::Through(instruction.ip_rel_memory_address())
                }
                _ => continue,
            };
            if callees.includes(call) {
                return Some(instruction.next_ip());
            }
        }
        None
    })
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

/// Bounds a walk through a function: parking_lot's longest slow path has 2.5 KiB.
const FUNCTION_LIMIT: usize = 16 << 10;

/// Index of the integer argument (0 is rdi) that function `code` compares with `value` first, seen
/// through copies to other registers and to stack slots. None when it compares none.
///
/// Walks the function in address order and ignores branches: arguments are copied out of their
/// registers in the entry block, which comes first, and a copy is never overwritten before the
/// compare in code where the answer matters. Errs for a function that reuses an argument's register
/// in an early cold block laid out before the compare; compilers put those last.
pub fn argument_compared_with(code: &[u8], value: u32) -> Option<usize> {
    walk(code, |instruction, arguments| {
        (instruction.mnemonic() == iced_x86::Mnemonic::Cmp
            && instruction.op_kind(1) == iced_x86::OpKind::Immediate32
            && instruction.immediate32() == value)
            .then(|| arguments.in_operand(instruction, 0))
            .flatten()
    })
}

/// Whether function `code` reads or writes memory through its first argument. A method whose `self` is
/// always one and the same static may be compiled to know that address; then `self` is no longer passed,
/// and what is in the first argument's register is another argument, or anything.
///
/// Walks as `argument_compared_with` does.
pub fn dereferences_first_argument(code: &[u8]) -> bool {
    walk(code, |instruction, arguments| {
        (arguments.in_register(instruction.memory_base()) == Some(0)
            && instruction.mnemonic() != iced_x86::Mnemonic::Lea)
            .then_some(())
    })
    .is_some()
}

/// Where in what its first argument points to function `code` keeps the pointer to what it changes with its first
/// `lock cmpxchg`: a method that locks something which it has a reference to.
///
/// Walks as `argument_compared_with` does.
pub fn field_whose_target_is_locked(code: &[u8]) -> Option<u64> {
    // Registers that hold a field of the first argument, with the field's offset.
    let mut fields: Vec<(Register, u64)> = Vec::new();
    walk(code, |instruction, arguments| {
        let base = instruction.memory_base().full_register();
        let is_exchange =
            instruction.has_lock_prefix() && instruction.mnemonic() == iced_x86::Mnemonic::Cmpxchg;
        let mut known = fields.iter();
        if is_exchange && let Some((_, offset)) = known.find(|(holder, _)| *holder == base) {
            return Some(*offset);
        }
        let is_move = instruction.mnemonic() == iced_x86::Mnemonic::Mov
            && instruction.op0_kind() == iced_x86::OpKind::Register;
        if is_move {
            let target = instruction.op0_register().full_register();
            let loaded = match instruction.op1_kind() {
                iced_x86::OpKind::Memory if arguments.in_register(base) == Some(0) => {
                    Some(instruction.memory_displacement64())
                }
                iced_x86::OpKind::Register => {
                    let source = instruction.op1_register().full_register();
                    let mut known = fields.iter();
                    known
                        .find(|(holder, _)| *holder == source)
                        .map(|(_, offset)| *offset)
                }
                _ => None,
            };
            fields.retain(|(holder, _)| *holder != target);
            fields.extend(loaded.map(|offset| (target, offset)));
        }
        None
    })
}

/// Where in what its first argument points to function `code` first looks at a single byte: of a structure with one
/// flag, the flag.
///
/// Walks as `argument_compared_with` does.
pub fn flag_of_first_argument(code: &[u8]) -> Option<u64> {
    walk(code, |instruction, arguments| {
        let is_byte = instruction.memory_size().size() == 1
            && instruction.mnemonic() != iced_x86::Mnemonic::Lea;
        let base = instruction.memory_base().full_register();
        (is_byte && arguments.in_register(base) == Some(0))
            .then(|| instruction.memory_displacement64())
    })
}

/// An instruction that changes a lock's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its address.
    pub at: u64,
    /// Address of the instruction behind it.
    pub next: u64,
    /// It changes it only if it is as expected (`cmpxchg`).
    pub is_conditional: bool,
    /// Where the lock's address is: a register, as its place in words in `struct pt_regs`; None for an address relative
    /// to `next`.
    pub register: Option<u8>,
    /// What to add.
    pub displacement: i32,
}

/// The first instruction in `code` at `vaddr` that changes a word in memory atomically, if a probe behind it can tell
/// which word.
pub fn change_of_a_lock(code: &[u8], vaddr: u64) -> Option<Change> {
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let to_memory = instruction.op0_kind() == iced_x86::OpKind::Memory;
        // An exchange with memory needs no prefix.
        let is_exchange = instruction.mnemonic() == iced_x86::Mnemonic::Xchg
            && (to_memory || instruction.op1_kind() == iced_x86::OpKind::Memory);
        let is_change = is_exchange || (to_memory && instruction.has_lock_prefix());
        if !is_change {
            continue;
        }
        let next = instruction.next_ip();
        let is_conditional = instruction.mnemonic() == iced_x86::Mnemonic::Cmpxchg;
        if instruction.memory_index() != Register::None
            || instruction.segment_prefix() != Register::None
        {
            return None;
        }
        let relative = instruction.is_ip_rel_memory_operand();
        let (register, distance) = if relative {
            let target = instruction.ip_rel_memory_address();
            (None, target.wrapping_sub(next) as i64)
        } else {
            let register = place_in_registers(instruction.memory_base())?;
            (Some(register), instruction.memory_displacement64() as i64)
        };
        return Some(Change {
            at: instruction.ip(),
            next,
            is_conditional,
            register,
            displacement: i32::try_from(distance).ok()?,
        });
    }
    None
}

/// The addresses at which instructions begin in a function, `code` at `vaddr`, as far as it can be decoded.
pub fn instruction_starts(code: &[u8], vaddr: u64) -> impl Iterator<Item = u64> + '_ {
    let mut decoder = Decoder::with_ip(64, code, vaddr, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        let instruction = decoder.can_decode().then(|| decoder.decode())?;
        (!instruction.is_invalid()).then(|| instruction.ip())
    })
}

/// Where a register is in x86-64's `struct pt_regs`, in words.
fn place_in_registers(register: Register) -> Option<u8> {
    const PLACES: [(Register, u8); 16] = [
        (Register::R15, 0),
        (Register::R14, 1),
        (Register::R13, 2),
        (Register::R12, 3),
        (Register::RBP, 4),
        (Register::RBX, 5),
        (Register::R11, 6),
        (Register::R10, 7),
        (Register::R9, 8),
        (Register::R8, 9),
        (Register::RAX, 10),
        (Register::RCX, 11),
        (Register::RDX, 12),
        (Register::RSI, 13),
        (Register::RDI, 14),
        (Register::RSP, 19),
    ];
    let mut places = PLACES.iter();
    places
        .find(|(known, _)| *known == register)
        .map(|(_, place)| *place)
}

/// Whether function `code` looks at its first argument's register at all before it puts something else
/// there. A call or a jump away counts as a look: it may hand the argument on.
pub fn reads_first_argument(code: &[u8]) -> bool {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let used = info.info(&instruction);
        let through_it = |memory: &iced_x86::UsedMemory| {
            memory.base() == Register::RDI || memory.index() == Register::RDI
        };
        if used.used_memory().iter().any(through_it) {
            return true;
        }
        let mut registers = used.used_registers().iter();
        if let Some(used) = registers.find(|used| used.register().full_register() == Register::RDI)
        {
            return used.access() != iced_x86::OpAccess::Write;
        }
        if !matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch
        ) {
            return true;
        }
    }
    true
}

/// Walks a function in address order until `found` answers, and keeps track of where its arguments are.
fn walk<T>(code: &[u8], mut found: impl FnMut(&Instruction, &Arguments) -> Option<T>) -> Option<T> {
    let code = &code[..code.len().min(FUNCTION_LIMIT)];
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    let mut arguments = Arguments {
        registers: (0..)
            .zip(ARGUMENTS)
            .map(|(n, register)| (register, n))
            .collect(),
        slots: Vec::new(),
    };
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if let Some(answer) = found(&instruction, &arguments) {
            return Some(answer);
        }
        arguments.step(&instruction, &mut info);
    }
    None
}

/// Where the arguments of a function are, at one place in it.
struct Arguments {
    registers: Vec<(Register, usize)>,
    /// Places on the stack: base register and displacement.
    slots: Vec<((Register, u64), usize)>,
}

impl Arguments {
    fn in_register(&self, register: Register) -> Option<usize> {
        let mut registers = self.registers.iter();
        let holder = registers.find(|(holder, _)| *holder == register.full_register());
        holder.map(|(_, argument)| *argument)
    }

    fn in_operand(&self, instruction: &Instruction, operand: u32) -> Option<usize> {
        match instruction.op_kind(operand) {
            iced_x86::OpKind::Register => self.in_register(instruction.op_register(operand)),
            iced_x86::OpKind::Memory => {
                let slot = slot_of(instruction);
                let mut slots = self.slots.iter();
                slots
                    .find(|(known, _)| *known == slot)
                    .map(|(_, argument)| *argument)
            }
            _ => None,
        }
    }

    fn step(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let is_move = instruction.mnemonic() == iced_x86::Mnemonic::Mov;
        let copied = is_move.then(|| self.in_operand(instruction, 1)).flatten();
        let to_stack = is_move
            && instruction.op_kind(0) == iced_x86::OpKind::Memory
            && matches!(instruction.memory_base(), Register::RSP | Register::RBP);
        if to_stack {
            let slot = slot_of(instruction);
            self.slots.retain(|(known, _)| *known != slot);
            self.slots.extend(copied.map(|argument| (slot, argument)));
            return;
        }
        for used in info.info(instruction).used_registers() {
            if is_written(used.access()) {
                let written = used.register().full_register();
                self.registers.retain(|(holder, _)| *holder != written);
            }
        }
        if instruction.op0_kind() == iced_x86::OpKind::Register
            && let Some(argument) = copied
        {
            let register = instruction.op0_register().full_register();
            self.registers.push((register, argument));
        }
    }
}

fn slot_of(instruction: &Instruction) -> (Register, u64) {
    (
        instruction.memory_base(),
        instruction.memory_displacement64(),
    )
}

fn is_written(access: iced_x86::OpAccess) -> bool {
    use iced_x86::OpAccess;
    !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of `batch_semaphore::Acquire::poll` of tokio 1.49, as fat LTO makes it: the semaphore is the first
    /// field, the flag `queued` is behind 0x38 bytes.
    #[test]
    fn fields_of_an_acquire() {
        let code = [
            &[0x49, 0x89, 0xfe][..],                     // mov r14, rdi
            &[0x48, 0x8b, 0x3f],                         // mov rdi, [rdi]
            &[0x4d, 0x8b, 0x6e, 0x30],                   // mov r13, [r14+0x30]
            &[0x64, 0x0f, 0xb6, 0x04, 0x25, 0, 0, 0, 0], // movzx eax, byte fs:[0]
            &[0x41, 0x0f, 0xb6, 0x56, 0x38],             // movzx edx, byte [r14+0x38]
            &[0xf0, 0x48, 0x0f, 0xb1, 0x4f, 0x20],       // lock cmpxchg [rdi+0x20], rcx
        ]
        .concat();
        assert_eq!(field_whose_target_is_locked(&code), Some(0));
        assert_eq!(flag_of_first_argument(&code), Some(0x38));
        assert_eq!(field_whose_target_is_locked(&code[..6]), None);
        assert_eq!(flag_of_first_argument(&code[..6]), None);
    }

    /// What the fast paths of locks look like, and where the lock is.
    #[test]
    fn changes_of_locks() {
        let change = |code: &[u8]| change_of_a_lock(code, 0x1000);
        // mov cl, 1; lock cmpxchg [rdi+0x10], cl; jne
        assert_eq!(
            change(&[0xb1, 1, 0xf0, 0x0f, 0xb0, 0x4f, 0x10, 0x75, 9]),
            Some(Change {
                at: 0x1002,
                next: 0x1007,
                is_conditional: true,
                register: Some(14),
                displacement: 0x10,
            })
        );
        // xchg [rbx-8], eax; cmp eax, 2
        assert_eq!(
            change(&[0x87, 0x43, 0xf8, 0x83, 0xf8, 2]),
            Some(Change {
                at: 0x1000,
                next: 0x1003,
                is_conditional: false,
                register: Some(5),
                displacement: -8,
            })
        );
        // lock xadd [rip+0x20], rax
        assert_eq!(
            change(&[0xf0, 0x48, 0x0f, 0xc1, 0x05, 0x20, 0, 0, 0]),
            Some(Change {
                at: 0x1000,
                next: 0x1009,
                is_conditional: false,
                register: None,
                displacement: 0x20,
            })
        );
        // lock cmpxchg [rdi+rax*8], rcx: which word is not known behind it, as rax may have changed
        assert_eq!(change(&[0xf0, 0x48, 0x0f, 0xb1, 0x0c, 0xc7]), None);
        assert_eq!(change(&[0x90, 0xc3]), None);
    }

    /// They are called directly, or through a place that holds their address.
    #[test]
    fn calls_of_known_functions() {
        // At 0x1000: call 0x2000; call [rip -> 0x3000]; call 0x2008; mov eax, and the same call in its bytes; ret.
        let mut code = vec![0xe8];
        code.extend((0x2000_i32 - 0x1005).to_le_bytes());
        code.extend([0xff, 0x15]);
        code.extend((0x3000_i32 - 0x100b).to_le_bytes());
        code.push(0xe8);
        code.extend((0x2008_i32 - 0x1010).to_le_bytes());
        code.extend([0x48, 0xb8, 0xe8]);
        code.extend((0x2000_i32 - 0x1017).to_le_bytes());
        code.extend([0, 0, 0, 0xc3]);
        let callees = Callees {
            functions: BTreeSet::from([0x2000]),
            places: BTreeSet::from([0x3000]),
        };
        let returns: Vec<u64> = returns_of_calls(&code, 0x1000, &callees).collect();
        assert_eq!(returns, [0x1005, 0x100b]);
        // What only looks like one is found as well, from inside of whatever it is; decoding tells.
        let found = look_like_calls(&code, 0x1000).filter(|(call, _)| callees.includes(*call));
        let found: Vec<u64> = found.map(|(_, next)| next).collect();
        assert_eq!(found, [0x1005, 0x100b, 0x1017]);
        let are_calls: Vec<bool> = found
            .iter()
            .map(|next| transfers_before(&code, 0x1000, *next))
            .collect();
        assert_eq!(are_calls, [true, true, false]);
        let before = |next| transfers_before(&code, 0x1000, next);
        assert!(before(0x1010) && !before(0x101a) && !before(0x2000));
    }

    /// Jumps to other functions are found beside calls; addresses are found where an instruction takes them.
    #[test]
    fn jumps_and_addresses() {
        let code = [
            &[0xe9, 0, 0, 0, 0][..],                     // 0x1000 jmp 0x1005
            &[0xff, 0x25, 0x10, 0, 0, 0],                // 0x1005 jmp [0x101b]
            &[0xff, 0x35, 0x10, 0, 0, 0],                // 0x100b push [rip+0x10]
            &[0x48, 0x8d, 0x05, 0x08, 0, 0, 0],          // 0x1011 lea rax, [0x1020]
            &[0x4c, 0x8d, 0x3d, 0xf8, 0xff, 0xff, 0xff], // 0x1018 lea r15, [0x1017]
            &[0x8d, 0x05, 0, 0, 0, 0],                   // 0x101f lea eax, [rip]: half an address
            &[0x48, 0x8d, 0x84, 0x24, 0, 0, 0, 0],       // 0x1025 lea rax, [rsp]
        ]
        .concat();
        let calls: Vec<(Call, u64)> = look_like_calls(&code, 0x1000).collect();
        assert_eq!(
            calls,
            [(Call::To(0x1005), 0x1005), (Call::Through(0x101b), 0x100b)]
        );
        let addresses: Vec<(u64, u64)> = look_like_addresses(&code, 0x1000).collect();
        assert_eq!(addresses, [(0x1011, 0x1020), (0x1018, 0x1017)]);
    }

    #[test]
    fn calls_of_a_tables_first_function() {
        let code = [
            &[0xff, 0x10][..],         // 0x1000 call [rax]
            &[0xff, 0x50, 0x18],       // 0x1002 call [rax+0x18]
            &[0xff, 0xd0],             // 0x1005 call rax
            &[0x41, 0xff, 0x14, 0x24], // 0x1007 call [r12]
            &[0xff, 0x15, 0, 0, 0, 0], // 0x100b call [rip+0]
            &[0xff, 0x14, 0xc8],       // 0x1011 call [rax+rcx*8]
            &[0xe8, 0, 0, 0, 0],       // 0x1014 call 0x1019
            &[0xff, 0x20],             // 0x1019 jmp [rax]
        ]
        .concat();
        let returns: Vec<u64> = returns_of_first_entry_calls(&code, 0x1000).collect();
        assert_eq!(returns, [0x1002, 0x100b]);
        assert_eq!(returns_of_first_entry_calls(&[0xff], 0x1000).count(), 0);
    }

    /// What x86 kernels emulate, single-step and refuse, by the bytes.
    #[test]
    fn prices() {
        use FirstInstruction::{Emulated, Refused, SingleStepped};
        for (code, price) in [
            (&[0x55][..], Emulated),                    // push rbp
            (&[0x41, 0x57], Emulated),                  // push r15
            (&[0x90], Emulated),                        // nop
            (&[0xe9, 0, 0, 0, 0], Emulated),            // jmp
            (&[0xeb, 0], Emulated),                     // jmp short
            (&[0xe8, 0, 0, 0, 0], Emulated),            // call
            (&[0x75, 0], Emulated),                     // jne
            (&[0x0f, 0x84, 0, 0, 0, 0], Emulated),      // je near
            (&[0x48, 0x89, 0xe5], SingleStepped),       // mov rbp, rsp
            (&[0x48, 0x83, 0xec, 8], SingleStepped),    // sub rsp, 8
            (&[0x41, 0x90], SingleStepped),             // xchg r8, rax: no nop
            (&[0x66, 0x55], SingleStepped),             // push bp
            (&[0xff, 0x10], SingleStepped),             // call [rax]
            (&[0xf0, 0x48, 0x0f, 0xb1, 0x0f], Refused), // lock cmpxchg
            (&[0x66, 0xe9, 0, 0], Refused),             // jmp rel16
            (&[0xcc], Refused),                         // int3
            (&[0xf4], Refused),                         // hlt
            (&[0x06], Refused),                         // no instruction in 64-bit mode
            (&[0xe9, 0], Refused),                      // cut
            (&[], Refused),
        ] {
            assert_eq!(FirstInstruction::of(code), price, "{code:02x?}");
        }
    }

    /// `cmpq $2, 0x18(%rbx); jne …` behind the scheduler's call: the jump is the cheap place.
    #[test]
    fn cheap_place_behind_a_call() {
        let code = [0x48, 0x83, 0x7b, 0x18, 0x02, 0x75, 0x10, 0x55];
        let place = return_site_probe(&code, 0x1000);
        assert_eq!(
            place,
            Some(ReturnSiteProbe {
                offset: 5,
                price: FirstInstruction::Emulated
            })
        );
    }

    /// Nothing cheap before the stack pointer moves or the line ends: the return address itself.
    #[test]
    fn dear_place_behind_a_call() {
        let dear = Some(ReturnSiteProbe {
            offset: 0,
            price: FirstInstruction::SingleStepped,
        });
        // mov rax, rbx; add rsp, 8; push rbx
        assert_eq!(
            return_site_probe(&[0x48, 0x89, 0xd8, 0x48, 0x83, 0xc4, 8, 0x53], 0),
            dear
        );
        // mov rax, rbx; ret
        assert_eq!(return_site_probe(&[0x48, 0x89, 0xd8, 0xc3], 0), dear);
        // A push moves the stack pointer, but only after the probe on it.
        assert_eq!(
            return_site_probe(&[0x53], 0).map(|place| place.price),
            Some(FirstInstruction::Emulated)
        );
        assert_eq!(return_site_probe(&[0xcc], 0), None);
        assert_eq!(return_site_probe(&[], 0), None);
    }

    /// The nanoseconds of a deadline, in the register they came in and through a copy on the stack.
    #[test]
    fn compared_argument() {
        const NO_DEADLINE: u32 = 1_000_000_000;
        // push rbp; cmp edx, 1000000000
        let direct = [0x55, 0x81, 0xfa, 0x00, 0xca, 0x9a, 0x3b];
        assert_eq!(argument_compared_with(&direct, NO_DEADLINE), Some(2));
        // mov r14d, ecx; xor ecx, ecx; cmp r14d, 1000000000
        let copied = [
            0x41, 0x89, 0xce, 0x31, 0xc9, 0x41, 0x81, 0xfe, 0x00, 0xca, 0x9a, 0x3b,
        ];
        assert_eq!(argument_compared_with(&copied, NO_DEADLINE), Some(3));
        // mov [rbp-0x10], edx; xor edx, edx; mov eax, [rbp-0x10]; cmp eax, 1000000000
        let spilled = [
            0x89, 0x55, 0xf0, 0x31, 0xd2, 0x8b, 0x45, 0xf0, 0x3d, 0x00, 0xca, 0x9a, 0x3b,
        ];
        assert_eq!(argument_compared_with(&spilled, NO_DEADLINE), Some(2));
        // xor edx, edx; cmp edx, 1000000000: not the argument any more
        let overwritten = [0x31, 0xd2, 0x81, 0xfa, 0x00, 0xca, 0x9a, 0x3b];
        assert_eq!(argument_compared_with(&overwritten, NO_DEADLINE), None);
        assert_eq!(argument_compared_with(&direct, 7), None);
        assert_eq!(argument_compared_with(&[], NO_DEADLINE), None);
    }

    /// `upgrade_slow` as rustc makes it: sets the fourth argument and jumps. A jump behind a new third
    /// argument does not count.
    #[test]
    fn tail_jumps() {
        // push rbp; mov rbp, rsp; mov ecx, 0x14; pop rbp; jmp +0x781
        let code = [
            0x55, 0x48, 0x89, 0xe5, 0xb9, 0x14, 0, 0, 0, 0x5d, 0xe9, 0x81, 0x07, 0, 0,
        ];
        assert_eq!(tail_jump(&code, 0x80fc0), Some(0x80fc0 + 15 + 0x781));
        // xor edx, edx; jmp
        assert_eq!(tail_jump(&[0x31, 0xd2, 0xe9, 0, 0, 0, 0], 0), None);
        assert_eq!(tail_jump(&[0xc3], 0), None);
        assert_eq!(tail_jump(&[], 0), None);
    }

    /// Calls and jumps that leave the function, straight and through a place in memory.
    #[test]
    fn ways_out() {
        // call +0x100; jmp inside; call [rip+0x10]; jmp out of it; call rax
        let code = [
            0xe8, 0, 1, 0, 0, 0xeb, 0, 0xff, 0x15, 0x10, 0, 0, 0, 0xe9, 0, 2, 0, 0, 0xff, 0xd0,
        ];
        assert_eq!(
            calls(&code, 0x1000).collect::<Vec<_>>(),
            [
                Call::To(0x1000 + 5 + 0x100),
                Call::Through(0x1000 + 13 + 0x10),
                Call::To(0x1000 + 18 + 0x200),
            ]
        );
    }

    /// A function that was made for one static does not go through its first argument, even if that is
    /// used.
    #[test]
    fn specialised_functions() {
        // push rbp; mov r12, rdi; mov rbx, [r12]
        let copied = [0x55, 0x49, 0x89, 0xfc, 0x49, 0x8b, 0x1c, 0x24];
        assert!(dereferences_first_argument(&copied));
        // lock cmpxchg [rdi], cl
        assert!(dereferences_first_argument(&[0xf0, 0x0f, 0xb0, 0x0f]));
        // lea rdi, [rip]; mov rbx, [rdi]
        let fixed = [0x48, 0x8d, 0x3d, 0, 0, 0, 0, 0x48, 0x8b, 0x1f];
        assert!(!dereferences_first_argument(&fixed));
        // mov rbx, rdi; cmp rbx, rsi: a number
        assert!(!dereferences_first_argument(&[
            0x48, 0x89, 0xfb, 0x48, 0x39, 0xf3
        ]));
        // lea rax, [rdi+1]: computes only
        assert!(!dereferences_first_argument(&[0x48, 0x8d, 0x47, 0x01]));
        assert!(!dereferences_first_argument(&[]));

        assert!(reads_first_argument(&copied));
        assert!(!reads_first_argument(&fixed));
        // xor edi, edi
        assert!(!reads_first_argument(&[0x31, 0xff]));
        // lea rax, [rdi+1]
        assert!(reads_first_argument(&[0x48, 0x8d, 0x47, 0x01]));
        // mov ecx, 0x14; jmp elsewhere, which gets it
        assert!(reads_first_argument(&[
            0xb9, 0x14, 0, 0, 0, 0xe9, 0, 0, 0, 0
        ]));
    }

    /// Any bytes are taken.
    #[test]
    fn random_bytes() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes = [0u8; 64];
        for _ in 0..20_000 {
            for byte in &mut bytes {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                *byte = seed as u8;
            }
            let cut = (seed >> 32) as usize % bytes.len();
            let code = &bytes[..cut];
            if let Some(place) = return_site_probe(code, u64::MAX - 8) {
                assert!((place.offset as usize) < code.len());
            }
            FirstInstruction::of(code);
            argument_compared_with(code, 1_000_000_000);
            tail_jump(code, u64::MAX - 8);
            assert!(calls(code, u64::MAX - 8).count() <= code.len());
            let callees = Callees {
                functions: BTreeSet::from([u64::MAX - 8, 0, 8]),
                places: BTreeSet::from([u64::MAX - 8, 0, 8]),
            };
            assert!(look_like_calls(code, u64::MAX - 8).count() <= code.len());
            assert!(look_like_addresses(code, u64::MAX - 8).count() <= code.len());
            transfers_before(code, u64::MAX - 8, seed);
            assert!(returns_of_calls(code, u64::MAX - 8, &callees).count() <= code.len());
            dereferences_first_argument(code);
            reads_first_argument(code);
        }
    }
}
