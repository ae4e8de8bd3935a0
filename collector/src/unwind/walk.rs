//! Walks a stack in user space: a sleeping thread's registers, the tables and a reader of its memory go in, the
//! frames come out. For threads that no probe sees, because they sleep; all others are walked where they run, by
//! `probe-ebpf/src/unwind.rs`, which is the same walk, and argues for each step of it.
//!
//! Memory and tables are the target's, which may have made them up: every walk ends after as many frames as a stack
//! has room for, and nothing that is read is more than a number.

use holdup_probe_ebpf::wire::STACK_FRAMES;
use holdup_probe_ebpf::wire::unwind::*;

use super::{Architecture, Kept};
use crate::event::WalkOutcome;

/// Where a thread is, and what its memory has.
pub struct Thread<'a> {
    /// Whose registers they are.
    pub architecture: Architecture,
    /// In the order of the kernel's record of them.
    pub registers: &'a [u64],
    /// Return addresses that return probes have replaced, innermost first: the stack pointer at the function's entry,
    /// and the address.
    pub return_probes: &'a [(u64, u64)],
    /// The word at an address; None where it can't be read.
    pub word: &'a mut dyn FnMut(u64) -> Option<u64>,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkedFrame {
    /// Of the next instruction; in a caller, where the callee returns to. As in `wire::Stack`.
    pub address: u64,
    /// Where the frame begins: all that is its own on the stack is from here up to where its caller's begins.
    pub stack_pointer: u64,
}

/// A walk that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// How.
    pub outcome: WalkOutcome,
    /// Innermost first.
    pub frames: Vec<WalkedFrame>,
}

/// Nothing is mapped in the first page ...
const LOWEST_CODE: u64 = 1 << 12;
/// ... nor, for a process, from here on, whatever page tables an architecture has.
const HIGHEST_CODE: u64 = 1 << 56;

/// Walks the stack of a thread that sleeps.
pub fn walk(tables: &Kept, thread: Thread<'_>) -> Walked {
    let register = |n: usize| thread.registers.get(n).copied().unwrap_or(0);
    let (pc, stack_pointer, frame_pointer, link_register) = match thread.architecture {
        Architecture::X86_64 => (16, 19, 4, None),
        Architecture::Aarch64 => (32, 31, 29, Some(30)),
    };
    let mut walk = Walk {
        tables,
        pc: register(pc),
        stack_pointer: register(stack_pointer),
        frame_pointer: register(frame_pointer),
        link_register: link_register.map(register),
        is_exact: true,
        return_probes: thread.return_probes,
        architecture: thread.architecture,
        registers: thread.registers,
        word: thread.word,
        frames: Vec::new(),
    };
    let outcome = walk.walk_on();
    Walked {
        outcome,
        frames: walk.frames,
    }
}

struct Walk<'a> {
    tables: &'a Kept,
    pc: u64,
    stack_pointer: u64,
    frame_pointer: u64,
    link_register: Option<u64>,
    /// `pc` is the next instruction's address, and not the one behind a call.
    is_exact: bool,
    return_probes: &'a [(u64, u64)],
    architecture: Architecture,
    registers: &'a [u64],
    word: &'a mut dyn FnMut(u64) -> Option<u64>,
    frames: Vec<WalkedFrame>,
}

impl Walk<'_> {
    fn walk_on(&mut self) -> WalkOutcome {
        while self.frames.len() < STACK_FRAMES {
            let is_caller = !self.frames.is_empty();
            self.frames.push(WalkedFrame {
                address: self.pc.wrapping_add(u64::from(self.is_exact && is_caller)),
                stack_pointer: self.stack_pointer,
            });
            if let Err(outcome) = self.step() {
                return outcome;
            }
        }
        WalkOutcome::TooDeep
    }

    /// To the caller's frame.
    fn step(&mut self) -> Result<(), WalkOutcome> {
        let place = self.pc.wrapping_sub(u64::from(!self.is_exact));
        let rule = match self.tables.rule(place) {
            Ok(Some(rule)) => *rule,
            Ok(None) => return Err(WalkOutcome::BadRow),
            Err(NO_CHUNK_UNMAPPED) => return Err(WalkOutcome::Unmapped),
            Err(_) => return Err(WalkOutcome::NoTable),
        };
        let cfa = match rule.cfa {
            CFA_END => return Err(WalkOutcome::Complete),
            CFA_NONE => return Err(WalkOutcome::NoCfi),
            _ => self.canonical_frame_address(&rule)?,
        };
        let saved_at = |code, offset, walk: &Self| match code {
            SAVED_AT_CFA => Some(from(cfa, offset)),
            SAVED_AT_STACK_POINTER => Some(from(walk.stack_pointer, offset)),
            SAVED_AT_FRAME_POINTER => Some(from(walk.frame_pointer, offset)),
            _ => None,
        };
        let at = saved_at(rule.return_address, rule.return_address_offset, self);
        let return_address = match (at, self.link_register.take()) {
            (Some(at), _) => self.read(at)?,
            // A link register is known in the innermost frame alone.
            (None, Some(link_register)) => link_register,
            (None, None) => return Err(WalkOutcome::BadRow),
        };
        let frame_pointer = match saved_at(rule.frame_pointer, rule.frame_pointer_offset, self) {
            Some(at) => self.read(at)?,
            None if rule.frame_pointer == SAVED_LOST => 0,
            None => self.frame_pointer,
        };
        let return_address = self.original(cfa, return_address);
        let return_address = self.plain(return_address);
        if !(LOWEST_CODE..HIGHEST_CODE).contains(&return_address) {
            return Err(WalkOutcome::BadRow);
        }
        // A caller's frame is higher on the stack; the same only where nothing was pushed, which a call does on
        // x86-64. A signal may have been handled on a stack of its own.
        let is_signal_frame = rule.flags & RULE_SIGNAL_FRAME != 0;
        let is_lower = match self.architecture {
            Architecture::Aarch64 if self.is_exact => cfa < self.stack_pointer,
            _ => cfa <= self.stack_pointer,
        };
        if is_lower && !is_signal_frame {
            return Err(WalkOutcome::BadRow);
        }
        self.pc = return_address;
        self.stack_pointer = cfa;
        self.frame_pointer = frame_pointer;
        self.is_exact = is_signal_frame;
        Ok(())
    }

    fn canonical_frame_address(&mut self, rule: &Rule) -> Result<u64, WalkOutcome> {
        let is_innermost = self.frames.len() == 1;
        let register = || {
            let word = self.registers.get(usize::from(rule.cfa_register));
            word.copied().ok_or(WalkOutcome::BadRow)
        };
        Ok(match rule.cfa {
            CFA_STACK_POINTER => from(self.stack_pointer, rule.cfa_offset),
            CFA_FRAME_POINTER => from(self.frame_pointer, rule.cfa_offset),
            CFA_AT_STACK_POINTER => {
                let at = from(self.stack_pointer, rule.cfa_offset);
                from(self.read(at)?, rule.cfa_second)
            }
            CFA_AT_FRAME_POINTER => {
                let at = from(self.frame_pointer, rule.cfa_offset);
                from(self.read(at)?, rule.cfa_second)
            }
            CFA_PLT => {
                let pushed = self.pc & 15 >= rule.cfa_second as u64;
                from(self.stack_pointer, rule.cfa_offset).wrapping_add(u64::from(pushed) * 8)
            }
            CFA_REGISTER if is_innermost => from(register()?, rule.cfa_offset),
            CFA_AT_STACK_POINTER_INDEXED if is_innermost => {
                let first = from(self.stack_pointer, rule.cfa_offset);
                let at = first.wrapping_add(register()?.wrapping_mul(8));
                from(self.read(at)?, rule.cfa_second)
            }
            _ => return Err(WalkOutcome::BadRow),
        })
    }

    /// Where the function whose caller's stack pointer is `cfa` returns to, if it looks as if it were
    /// `return_address`.
    fn original(&mut self, cfa: u64, return_address: u64) -> u64 {
        let pops = match self.architecture {
            Architecture::X86_64 => 8,
            Architecture::Aarch64 => 0,
        };
        let entry_stack_pointer = cfa.wrapping_sub(pops);
        while let Some(((stack_pointer, original), rest)) = self.return_probes.split_first() {
            if *stack_pointer > entry_stack_pointer {
                break;
            }
            // Where several probes are on one function the original comes several times.
            if *stack_pointer == entry_stack_pointer {
                return *original;
            }
            self.return_probes = rest;
        }
        return_address
    }

    /// A code address without what the architecture keeps in its upper bits: aarch64 signs return addresses.
    fn plain(&self, addr: u64) -> u64 {
        match self.architecture {
            Architecture::X86_64 => addr,
            Architecture::Aarch64 => addr & ((1 << 48) - 1),
        }
    }

    fn read(&mut self, addr: u64) -> Result<u64, WalkOutcome> {
        (self.word)(addr).ok_or(WalkOutcome::ReadFault)
    }
}

fn from(addr: u64, bytes: i32) -> u64 {
    addr.wrapping_add_signed(i64::from(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::layout::{self, Chunked, Code, Mapped};
    use super::super::{Kernel as _, RuleSet, Table};
    use super::*;
    use crate::event::Pid;
    use crate::target::Elf;

    const FRAMES: &[u8] = include_bytes!("fixtures/frames-x86_64.so");
    /// Where the fixture is mapped in these tests.
    const AT: u64 = 0x7000_0000;

    /// The tables of a process that has the fixture mapped.
    fn tables() -> Kept {
        let elf = Elf::parse(FRAMES).expect("an ELF file");
        let mut rules = RuleSet::default();
        let table = Table::of(&elf, &mut rules).expect("it has .eh_frame");
        let chunked = Chunked {
            base: table.base,
            chunks: vec![(0, table.rows[0].place, table.rows.len() as u32)],
        };
        let mapped = Mapped {
            start: AT,
            end: AT + 0x1000,
            code: Code::Table(&chunked, AT),
        };
        let mut kept = Kept::default();
        let Ok(()) = kept.set_rules(0, rules.rules());
        let Ok(()) = kept.set_chunks(&[(0, &table.rows)]);
        let Ok(()) = kept.set_ranges(Pid(1), &layout::ranges(&[mapped]));
        kept
    }

    /// In the fixture's leaf, called by its function with a frame pointer, which was called by the thread's start
    /// (`fixtures/README.md`).
    fn walked(stack: &[(u64, u64)], return_probes: &[(u64, u64)]) -> Walked {
        let mut registers = [0; 21];
        (registers[16], registers[19], registers[4]) = (AT + 0x3c0, 0x9000, 0x9020);
        let memory: HashMap<u64, u64> = stack.iter().copied().collect();
        walk(
            &tables(),
            Thread {
                architecture: Architecture::X86_64,
                registers: &registers,
                return_probes,
                word: &mut |at| memory.get(&at).copied(),
            },
        )
    }

    fn frame(address: u64, stack_pointer: u64) -> WalkedFrame {
        WalkedFrame {
            address,
            stack_pointer,
        }
    }

    /// Up to the thread's start, by the stack pointer first and by the frame pointer then.
    #[test]
    fn to_the_threads_start() {
        let stack = [(0x9000, AT + 0x3d6), (0x9020, 0x9100), (0x9028, AT + 0x435)];
        let walked = walked(&stack, &[]);
        assert_eq!(
            walked.frames,
            [
                frame(AT + 0x3c0, 0x9000),
                frame(AT + 0x3d6, 0x9008),
                frame(AT + 0x435, 0x9030)
            ]
        );
        assert_eq!(walked.outcome, WalkOutcome::Complete);
    }

    /// A return address that a return probe has replaced is put back, also where two probes are on one function.
    #[test]
    fn replaced_return_addresses() {
        let trampoline = 0x6000_0000;
        let stack = [(0x9000, AT + 0x3d6), (0x9020, 0x9100), (0x9028, trampoline)];
        let gone = (0x8f00, AT + 0x3c0);
        let probe = (0x9028, AT + 0x435);
        assert_eq!(
            walked(&stack, &[gone, probe, probe]).outcome,
            WalkOutcome::Complete
        );
        assert_eq!(walked(&stack, &[]).outcome, WalkOutcome::Unmapped);
    }

    /// What can't be read, leads down, or leads nowhere ends the walk, and says how.
    #[test]
    fn ends_short_of_it() {
        assert_eq!(walked(&[], &[]).outcome, WalkOutcome::ReadFault);
        let nowhere = [(0x9000, 7)];
        assert_eq!(walked(&nowhere, &[]).outcome, WalkOutcome::BadRow);
        let down = [
            (0x9000, AT + 0x3d6),
            (0x9020, 0x8000),
            (0x9028, AT + 0x3d6),
            (0x8000, 0x8000),
            (0x8008, AT + 0x3d6),
        ];
        assert_eq!(walked(&down, &[]).outcome, WalkOutcome::BadRow);
        let without_cfi = [(0x9000, AT + 0x442)];
        assert_eq!(walked(&without_cfi, &[]).outcome, WalkOutcome::NoCfi);
    }

    /// Whatever memory, registers, rows and rules are, a walk ends, with no more frames than a stack holds.
    #[test]
    fn hostile_stacks_and_tables() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (mut deepest, mut outcomes) = (0, std::collections::BTreeSet::new());
        for round in 0..20_000_u64 {
            let mut kept = Kept::default();
            let rules: Vec<Rule> = (0..8)
                .map(|_| {
                    let (one, two, three) = (random(), random(), random());
                    // Small numbers lead further than large ones.
                    let shift = if round % 2 == 0 { 60 } else { 32 };
                    let small = |word: u64| ((word as i64 >> shift) as i32).wrapping_mul(8);
                    // Some lead far, or round in circles.
                    if round % 4 == 3 {
                        return Rule {
                            cfa: CFA_STACK_POINTER,
                            cfa_register: 0,
                            frame_pointer: SAVED_NOWHERE,
                            return_address: SAVED_AT_STACK_POINTER,
                            cfa_offset: (two % 2) as i32,
                            cfa_second: 0,
                            frame_pointer_offset: 0,
                            return_address_offset: small(three),
                            flags: RULE_SIGNAL_FRAME,
                        };
                    }
                    Rule {
                        cfa: (one % 11) as u8,
                        cfa_register: (one >> 8) as u8,
                        frame_pointer: (one >> 16) as u8 % 6,
                        return_address: (one >> 24) as u8 % 6,
                        cfa_offset: small(two),
                        cfa_second: small(three),
                        frame_pointer_offset: small(two.rotate_left(20)),
                        return_address_offset: small(three.rotate_left(20)),
                        flags: (one >> 32) as u32 & 1,
                    }
                })
                .collect();
            let rows: Vec<Row> = (0..64)
                .map(|place| Row {
                    place: place * 16,
                    rule: (random() % if round % 4 == 3 { 8 } else { 9 }) as u32,
                })
                .collect();
            let mapped = Range {
                start: AT,
                base: AT,
                chunk: 0,
                rows: rows.len() as u32,
            };
            let Ok(()) = kept.set_rules(0, &rules);
            let Ok(()) = kept.set_chunks(&[(0, &rows)]);
            let behind = Range {
                start: AT + 1024,
                base: 0,
                chunk: NO_CHUNK_UNMAPPED,
                rows: 0,
            };
            let Ok(()) = kept.set_ranges(Pid(1), &[mapped, behind]);
            let mut registers = [0; 34];
            registers.fill_with(&mut random);
            for code in [16, 32] {
                registers[code] = AT + random() % 1024;
            }
            let is_likely = round % 3 > 0;
            let walked = walk(
                &kept,
                Thread {
                    architecture: if round % 2 == 0 {
                        Architecture::X86_64
                    } else {
                        Architecture::Aarch64
                    },
                    registers: &registers,
                    return_probes: &[(random(), random()), (random(), AT)],
                    word: &mut |_| {
                        let word = random();
                        is_likely.then_some(AT + word % 1025)
                    },
                },
            );
            assert!(walked.frames.len() <= STACK_FRAMES);
            deepest = deepest.max(walked.frames.len());
            outcomes.insert(walked.outcome);
        }
        // It was hostile enough to go on for long, and to end in every way that a walk in user space has.
        assert_eq!(deepest, STACK_FRAMES);
        assert_eq!(outcomes.len(), 6, "{outcomes:?}");
    }
}
