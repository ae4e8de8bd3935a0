//! One row of call frame information goes in, a rule that the kernel side can follow comes out. The rules of all
//! binaries are numbered together: compilers produce few different ones.

use std::collections::HashMap;

use gimli::{CfaRule, Reader, Register, RegisterRule, UnwindSection, UnwindTableRow};
use holdup_probe_ebpf::wire::unwind::*;

/// What a binary was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    X86_64,
    /// aarch64.
    Aarch64,
}

/// DWARF's register numbers of an architecture.
struct Numbers {
    stack_pointer: Register,
    frame_pointer: Register,
    return_address: Register,
}

impl Architecture {
    /// System V ABI, AMD64 supplement, figure 3.36; DWARF for the Arm 64-bit Architecture, 4.1.
    fn numbers(self) -> Numbers {
        let (stack_pointer, frame_pointer, return_address) = match self {
            Architecture::X86_64 => (7, 6, 16),
            Architecture::Aarch64 => (31, 29, 30),
        };
        Numbers {
            stack_pointer: Register(stack_pointer),
            frame_pointer: Register(frame_pointer),
            return_address: Register(return_address),
        }
    }

    /// Which word of the kernel's record of a thread's registers this one is.
    fn saved_word(self, register: Register) -> Option<u8> {
        match self {
            // rax rdx rcx rbx rsi rdi rbp rsp r8 … r15 in DWARF's order; the record is `struct pt_regs`.
            Architecture::X86_64 => {
                const WORDS: [u8; 16] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0];
                WORDS.get(usize::from(register.0)).copied()
            }
            Architecture::Aarch64 => u8::try_from(register.0).ok().filter(|n| *n <= 31),
        }
    }
}

const BLANK: Rule = Rule {
    cfa: CFA_NONE,
    cfa_register: 0,
    frame_pointer: SAVED_NOWHERE,
    return_address: SAVED_NOWHERE,
    cfa_offset: 0,
    cfa_second: 0,
    frame_pointer_offset: 0,
    return_address_offset: 0,
    flags: 0,
};

const END: Rule = Rule {
    cfa: CFA_END,
    ..BLANK
};

const UNSUPPORTED: Rule = Rule {
    cfa: CFA_UNSUPPORTED,
    ..BLANK
};

/// Numbered rules.
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    numbers: HashMap<Rule, u32>,
}

impl Default for RuleSet {
    fn default() -> Self {
        // In the order of their fixed numbers.
        let rules = vec![BLANK, END, UNSUPPORTED];
        let numbers = (0..).zip(&rules).map(|(n, rule)| (*rule, n)).collect();
        RuleSet { rules, numbers }
    }
}

impl RuleSet {
    /// The number of a rule. Rules beyond `MAX_RULES` are not supported.
    pub(super) fn number(&mut self, rule: Rule) -> u32 {
        if let Some(number) = self.numbers.get(&rule) {
            return *number;
        }
        if self.rules.len() >= MAX_RULES {
            return RULE_UNSUPPORTED;
        }
        let number = self.rules.len() as u32;
        self.rules.push(rule);
        self.numbers.insert(rule, number);
        number
    }

    /// All rules, by number.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// The rule for a row. What it can't express becomes the unsupported one.
pub(super) fn of_row<R: Reader<Offset = usize>, S: UnwindSection<R>>(
    row: &UnwindTableRow<usize>,
    section: &S,
    architecture: Architecture,
    is_signal_frame: bool,
) -> Rule {
    let numbers = architecture.numbers();
    let expression = |expression: &gimli::UnwindExpression<usize>| {
        let expression = expression.get(section).ok()?;
        expression.0.to_slice().ok().map(|bytes| bytes.into_owned())
    };
    let mut rule = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let Ok(cfa_offset) = i32::try_from(*offset) else {
                return UNSUPPORTED;
            };
            let (cfa, cfa_register) = if *register == numbers.stack_pointer {
                (CFA_STACK_POINTER, 0)
            } else if *register == numbers.frame_pointer {
                (CFA_FRAME_POINTER, 0)
            } else {
                match architecture.saved_word(*register) {
                    Some(word) => (CFA_REGISTER, word),
                    None => return UNSUPPORTED,
                }
            };
            Rule {
                cfa,
                cfa_register,
                cfa_offset,
                ..BLANK
            }
        }
        CfaRule::Expression(written) => {
            match expression(written).and_then(|ops| cfa_expression(&ops)) {
                Some(rule) => rule,
                None => return UNSUPPORTED,
            }
        }
    };
    // Where an expression says that a register was saved.
    let saved_at = |written: &gimli::UnwindExpression<usize>| {
        let ops = expression(written)?;
        match parse(&ops)?.as_slice() {
            [Op::StackPointer(offset)] => Some((SAVED_AT_STACK_POINTER, *offset)),
            [Op::FramePointer(offset)] => Some((SAVED_AT_FRAME_POINTER, *offset)),
            _ => None,
        }
    };
    match row.register(numbers.return_address) {
        Some(RegisterRule::Undefined) => return END,
        Some(RegisterRule::Offset(offset)) => match i32::try_from(offset) {
            Ok(offset) => {
                rule.return_address = SAVED_AT_CFA;
                rule.return_address_offset = offset;
            }
            Err(_) => return UNSUPPORTED,
        },
        Some(RegisterRule::Expression(written)) => match saved_at(&written) {
            Some((SAVED_AT_STACK_POINTER, offset)) => {
                rule.return_address = SAVED_AT_STACK_POINTER;
                rule.return_address_offset = offset;
            }
            _ => return UNSUPPORTED,
        },
        // Still in the link register.
        None | Some(RegisterRule::SameValue) if architecture == Architecture::Aarch64 => {}
        _ => return UNSUPPORTED,
    }
    match row.register(numbers.frame_pointer) {
        None | Some(RegisterRule::SameValue) => {}
        Some(RegisterRule::Offset(offset)) if i32::try_from(offset).is_ok() => {
            rule.frame_pointer = SAVED_AT_CFA;
            rule.frame_pointer_offset = offset as i32;
        }
        Some(RegisterRule::Expression(written)) => match saved_at(&written) {
            Some((at, offset)) => {
                rule.frame_pointer = at;
                rule.frame_pointer_offset = offset;
            }
            None => rule.frame_pointer = SAVED_LOST,
        },
        Some(_) => rule.frame_pointer = SAVED_LOST,
    }
    if is_signal_frame {
        rule.flags |= RULE_SIGNAL_FRAME;
    }
    rule
}

/// An operation of a DWARF expression, of the few that occur in call frame information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// Stack pointer + bytes.
    StackPointer(i32),
    /// Frame pointer + bytes.
    FramePointer(i32),
    /// Program counter + bytes.
    ProgramCounter(i32),
    /// Another register, by DWARF's number.
    Register(u16),
    Deref,
    Add(i32),
    Literal(u8),
    And,
    AtLeast,
    ShiftLeft,
    Plus,
    Multiply,
}

/// DWARF 5, 7.7.1. The registers are x86-64's: nobody's aarch64 compiler writes expressions here.
fn parse(mut ops: &[u8]) -> Option<Vec<Op>> {
    /// Longer ones are not understood anyway.
    const MOST: usize = 16;
    let mut parsed = Vec::new();
    while let Some((&op, rest)) = ops.split_first() {
        ops = rest;
        parsed.push(match op {
            0x06 => Op::Deref,
            0x1a => Op::And,
            0x1e => Op::Multiply,
            0x22 => Op::Plus,
            0x23 => Op::Add(i32::try_from(leb128::<false>(&mut ops)?).ok()?),
            0x24 => Op::ShiftLeft,
            0x2a => Op::AtLeast,
            0x30..=0x4f => Op::Literal(op - 0x30),
            0x76 => Op::FramePointer(i32::try_from(leb128::<true>(&mut ops)?).ok()?),
            0x77 => Op::StackPointer(i32::try_from(leb128::<true>(&mut ops)?).ok()?),
            0x70..=0x7f => {
                let at = leb128::<true>(&mut ops)?;
                (at == 0).then_some(Op::Register(u16::from(op - 0x70)))?
            }
            0x80 => Op::ProgramCounter(i32::try_from(leb128::<true>(&mut ops)?).ok()?),
            _ => return None,
        });
        if parsed.len() > MOST {
            return None;
        }
    }
    Some(parsed)
}

/// A number of at most 35 bits, which is more than any offset has.
fn leb128<const SIGNED: bool>(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_i64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= i64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if SIGNED && byte & 0x40 != 0 {
                value |= -1 << (shift + 7);
            }
            return Some(value);
        }
    }
    None
}

fn cfa_expression(ops: &[u8]) -> Option<Rule> {
    use Op::*;
    let rule = |cfa, cfa_offset, cfa_second| {
        Some(Rule {
            cfa,
            cfa_offset,
            cfa_second,
            ..BLANK
        })
    };
    match parse(ops)?.as_slice() {
        [StackPointer(offset)] => rule(CFA_STACK_POINTER, *offset, 0),
        [FramePointer(offset)] => rule(CFA_FRAME_POINTER, *offset, 0),
        // glibc's signal frames; perlasm's and gcc's functions that realign the stack.
        [StackPointer(offset), Deref] => rule(CFA_AT_STACK_POINTER, *offset, 0),
        [FramePointer(offset), Deref] => rule(CFA_AT_FRAME_POINTER, *offset, 0),
        [StackPointer(offset), Deref, Add(more)] => rule(CFA_AT_STACK_POINTER, *offset, *more),
        [FramePointer(offset), Deref, Add(more)] => rule(CFA_AT_FRAME_POINTER, *offset, *more),
        // OpenSSL's, BoringSSL's and ring's `bn_mul_mont`.
        [
            StackPointer(offset),
            Register(register),
            Literal(8),
            Multiply,
            Plus,
            Deref,
            Add(more),
        ] => Some(Rule {
            cfa: CFA_AT_STACK_POINTER_INDEXED,
            cfa_register: Architecture::X86_64.saved_word(gimli::Register(*register))?,
            cfa_offset: *offset,
            cfa_second: *more,
            ..BLANK
        }),
        // Linkers, for the PLT.
        [
            StackPointer(offset),
            ProgramCounter(0),
            Literal(15),
            And,
            Literal(at_least),
            AtLeast,
            Literal(3),
            ShiftLeft,
            Plus,
        ] => rule(CFA_PLT, *offset, i32::from(*at_least)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three rules that rows without a real one name have their fixed numbers, and equal rules one number.
    #[test]
    fn rules_are_numbered_once() {
        let mut rules = RuleSet::default();
        assert_eq!(rules.number(BLANK), RULE_NONE);
        assert_eq!(rules.number(END), RULE_END);
        assert_eq!(rules.number(UNSUPPORTED), RULE_UNSUPPORTED);
        let rule = |cfa_offset| Rule {
            cfa: CFA_STACK_POINTER,
            cfa_offset,
            ..BLANK
        };
        assert_eq!(rules.number(rule(8)), 3);
        assert_eq!(rules.number(rule(16)), 4);
        assert_eq!(rules.number(rule(8)), 3);
        assert_eq!(rules.rules().len(), 5);
    }

    /// There is room for a number of rules, and no more: the kernel's map has that size.
    #[test]
    fn rules_are_bounded() {
        let mut rules = RuleSet::default();
        for n in 0..MAX_RULES as i32 {
            rules.number(Rule {
                cfa: CFA_STACK_POINTER,
                cfa_offset: n,
                ..BLANK
            });
        }
        assert_eq!(rules.rules().len(), MAX_RULES);
        let another = Rule {
            cfa: CFA_FRAME_POINTER,
            ..BLANK
        };
        assert_eq!(rules.number(another), RULE_UNSUPPORTED);
    }

    /// The expressions that occur: those of a linker's PLT, of glibc's signal frames, of realigned stacks.
    #[test]
    fn expressions() {
        let of = |ops: &[u8]| cfa_expression(ops).map(|r| (r.cfa, r.cfa_offset, r.cfa_second));
        // DW_OP_breg7 +8; DW_OP_breg16 +0; lit15; and; lit11; ge; lit3; shl; plus
        let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        assert_eq!(of(&plt), Some((CFA_PLT, 8, 11)));
        // DW_OP_breg7 +160; deref
        assert_eq!(
            of(&[0x77, 0xa0, 0x01, 0x06]),
            Some((CFA_AT_STACK_POINTER, 160, 0))
        );
        // DW_OP_breg6 -8; deref
        assert_eq!(of(&[0x76, 0x78, 0x06]), Some((CFA_AT_FRAME_POINTER, -8, 0)));
        // DW_OP_breg7 +24; deref; plus_uconst 8
        assert_eq!(
            of(&[0x77, 24, 0x06, 0x23, 8]),
            Some((CFA_AT_STACK_POINTER, 24, 8))
        );
        // DW_OP_breg7 +8; DW_OP_breg9 +0; lit8; mul; plus; deref; plus_uconst 8
        let multiplication = [0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8];
        assert_eq!(
            of(&multiplication),
            Some((CFA_AT_STACK_POINTER_INDEXED, 8, 8))
        );
        let register = cfa_expression(&multiplication).map(|rule| rule.cfa_register);
        assert_eq!(register, Some(8), "r9 is word 8 of the saved registers");
        assert_eq!(of(&[0x77]), None, "cut short");
        assert_eq!(of(&[0x77, 8, 0x1c]), None, "not understood");
        assert_eq!(of(&[0x06; 100]), None, "too long");
    }
}
