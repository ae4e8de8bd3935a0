//! The unwind table of one binary: `.eh_frame` (or `.debug_frame`) goes in, rows by address come out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice,
    LittleEndian, UnwindContext, UnwindOffset, UnwindSection,
};
use holdup_probe_ebpf::wire::unwind::{RULE_NONE, RULE_UNSUPPORTED, Row};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

use super::rule::{self, Architecture, RuleSet};
use crate::target::Elf;

/// Rows of one table at most: forty times what a binary of 100 MB has, and all that the kernel's maps hold.
const MOST_ROWS: usize = 8 << 20;

/// CPU time that one table may take: thirty times what a binary of 100 MB does. A file can be made to take hours.
const TIME_LIMIT: Duration = Duration::from_secs(4);
/// The time is looked at once for so many functions: asking costs as much as making one's rows, and a file can make one of them
/// as dear as it likes.
const FUNCTIONS_A_LOOK: usize = 8;

/// Of this thread: others of a busy machine don't shorten what is read.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Functions are aligned to 16 bytes: what lies between two of them is padding if it is shorter.
const ALIGNMENT: u64 = 16;

/// Why a binary has no table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// It has no call frame information.
    #[error("it has neither .eh_frame nor .debug_frame")]
    NoFrames,
    /// It is for another architecture.
    #[error("its architecture is neither x86-64 nor aarch64")]
    Architecture,
    /// It could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// The kernel's maps are full.
    #[error("the budget of {budget_bytes} bytes for unwind tables is used up")]
    NoRoom {
        /// For all tables together.
        budget_bytes: usize,
    },
}

/// Call frame information, as a binary has it.
#[derive(Clone, Copy, Debug)]
pub enum Frames<'data> {
    /// `.eh_frame`: loaded with the code, for whoever unwinds at run time.
    EhFrame(&'data [u8]),
    /// `.debug_frame`: for debuggers.
    DebugFrame(&'data [u8]),
}

/// Rows of one binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Virtual address that `place`s count from.
    pub base: u64,
    /// By place. From each on, up to the next, its rule holds; before the first none does.
    pub rows: Vec<Row>,
    /// Functions that are left out: damaged, too far from `base`, or too many.
    pub left_out: u64,
    /// Rows that can't be expressed.
    pub unsupported: u64,
    /// Bytes of call frame information that it was made from.
    pub source_bytes: u64,
}

/// `.eh_frame` by way of `.eh_frame_hdr` (Linux Standard Base, 10.6.2): where it is loaded, and all that follows
/// in its segment; it ends with a zero.
fn eh_frame_by_header<'data>(elf: &Elf<'data>) -> Option<(u64, &'data [u8])> {
    let (address, data) = elf.eh_frame_header()?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(address);
    let header = gimli::EhFrameHdr::new(data, LittleEndian)
        .parse(&bases, 8)
        .ok()?;
    let gimli::Pointer::Direct(address) = header.eh_frame_ptr() else {
        return None;
    };
    let data = elf.bytes_at(address, usize::MAX);
    (!data.is_empty()).then_some((address, data))
}

/// A function's rows, before they are sorted.
struct Function {
    start: u64,
    end: u64,
    first: usize,
    count: usize,
}

impl Table {
    /// Of a binary.
    pub fn of(elf: &Elf<'_>, rules: &mut RuleSet) -> Result<Table, TableError> {
        let architecture = if elf.is_x86_64() {
            Architecture::X86_64
        } else if elf.is_aarch64() {
            Architecture::Aarch64
        } else {
            return Err(TableError::Architecture);
        };
        let code = elf.segments().iter().filter(|segment| segment.executable);
        let base = code.map(|segment| segment.vaddr).min().unwrap_or(0);
        let read = |name| {
            elf.section(name)
                .map_err(|error| TableError::Unreadable(error.to_string()))
        };
        let frames = read(".eh_frame")?;
        if let (false, Some(address)) = (frames.is_empty(), elf.section_address(".eh_frame")) {
            return Ok(Table::new(
                Frames::EhFrame(&frames),
                address,
                base,
                architecture,
                rules,
            ));
        }
        // Without section headers the program header of the search table leads there.
        if let Some((address, data)) = eh_frame_by_header(elf) {
            return Ok(Table::new(
                Frames::EhFrame(data),
                address,
                base,
                architecture,
                rules,
            ));
        }
        let frames = read(".debug_frame")?;
        if frames.is_empty() {
            return Err(TableError::NoFrames);
        }
        Ok(Table::new(
            Frames::DebugFrame(&frames),
            0,
            base,
            architecture,
            rules,
        ))
    }

    /// Of a section that is loaded at virtual address `address`, for code from `base` on.
    pub fn new(
        frames: Frames<'_>,
        address: u64,
        base: u64,
        architecture: Architecture,
        rules: &mut RuleSet,
    ) -> Table {
        let vendor = match architecture {
            Architecture::X86_64 => gimli::Vendor::Default,
            Architecture::Aarch64 => gimli::Vendor::AArch64,
        };
        let mut table = Table {
            base,
            ..Table::default()
        };
        match frames {
            Frames::EhFrame(data) => {
                table.source_bytes = data.len() as u64;
                let mut section = EhFrame::new(data, LittleEndian);
                section.set_address_size(8);
                section.set_vendor(vendor);
                let bases = BaseAddresses::default().set_eh_frame(address);
                table.read(&section, &bases, architecture, rules);
            }
            Frames::DebugFrame(data) => {
                table.source_bytes = data.len() as u64;
                let mut section = DebugFrame::new(data, LittleEndian);
                section.set_address_size(8);
                section.set_vendor(vendor);
                table.read(&section, &BaseAddresses::default(), architecture, rules);
            }
        }
        table
    }

    fn read<'data, S>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        architecture: Architecture,
        rules: &mut RuleSet,
    ) where
        S: UnwindSection<EndianSlice<'data, LittleEndian>>,
    {
        let mut functions: Vec<Function> = Vec::new();
        // (Start, rule): of all functions, in the order of the section.
        let mut rows: Vec<(u64, u32)> = Vec::new();
        let mut context = UnwindContext::new();
        // A section has few of them, and most functions the same.
        let mut common: HashMap<usize, CommonInformationEntry<_>> = HashMap::new();
        let mut entries = section.entries(bases);
        let deadline = cpu_time() + TIME_LIMIT;
        let mut is_whole = true;
        for n in 0_usize.. {
            if n.is_multiple_of(FUNCTIONS_A_LOOK) && cpu_time() > deadline {
                is_whole = false;
                break;
            }
            let partial = match entries.next() {
                Ok(Some(CieOrFde::Fde(partial))) => partial,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) => break,
                Err(_) => {
                    is_whole = false;
                    break;
                }
            };
            let entry = partial.parse(|section, bases, offset: S::Offset| {
                match common.entry(UnwindOffset::into(offset)) {
                    Entry::Occupied(known) => Ok(known.get().clone()),
                    Entry::Vacant(new) => {
                        let entry = section.cie_from_offset(bases, offset)?;
                        Ok(new.insert(entry).clone())
                    }
                }
            });
            let Ok(entry) = entry else {
                self.left_out += 1;
                continue;
            };
            let (start, length) = (entry.initial_address(), entry.len());
            let end = start.saturating_add(length);
            // Code that the linker dropped keeps its description, at address 0.
            if length == 0 || start == 0 || start < self.base {
                continue;
            }
            if u32::try_from(end - self.base).is_err() || rows.len() >= MOST_ROWS {
                self.left_out += 1;
                continue;
            }
            let first = rows.len();
            let is_signal_frame = entry.is_signal_trampoline();
            match entry.rows(section, bases, &mut context) {
                Ok(mut table) => loop {
                    match table.next_row() {
                        Ok(Some(row)) => {
                            let at = row.start_address();
                            if at >= end || rows.len() >= MOST_ROWS {
                                break;
                            }
                            let rule = rule::of_row(row, section, architecture, is_signal_frame);
                            rows.push((at, rules.number(rule)));
                        }
                        Ok(None) => break,
                        Err(_) => {
                            // From where it stopped being understood.
                            let at = rows[first..].last().map_or(start, |(at, _)| *at);
                            rows.push((at, RULE_UNSUPPORTED));
                            break;
                        }
                    }
                },
                Err(_) => rows.push((start, RULE_UNSUPPORTED)),
            }
            functions.push(Function {
                start,
                end,
                first,
                count: rows.len() - first,
            });
        }
        functions.sort_by_key(|function| function.start);
        self.left_out += u64::from(!is_whole);
        // What a section does not tell to its end is not code without unwind information.
        let between = if is_whole {
            RULE_NONE
        } else {
            RULE_UNSUPPORTED
        };
        self.join(&functions, &rows, between);
    }

    /// Puts the functions one behind the other, with the rule `between` them. Where they overlap, which they do in a lying file alone, the
    /// later one goes on where the earlier one ends.
    fn join(&mut self, functions: &[Function], rows: &[(u64, u32)], between: u32) {
        self.rows.reserve_exact(rows.len() + functions.len() / 8);
        let mut covered = self.base;
        for function in functions {
            if function.end <= covered {
                continue;
            }
            if function.start >= covered + ALIGNMENT && covered > self.base {
                self.push(covered, between, false);
            }
            // A function's start has a row also if its rule is that of what is in front: so it is known to be one.
            for (n, (at, rule)) in (0..).zip(&rows[function.first..function.first + function.count])
            {
                self.push((*at).max(covered), *rule, n == 0);
            }
            covered = function.end;
        }
        if covered > self.base {
            self.push(covered, between, false);
        }
        self.rows.shrink_to_fit();
    }

    fn push(&mut self, at: u64, rule: u32, is_start: bool) {
        let Ok(place) = u32::try_from(at.saturating_sub(self.base)) else {
            return;
        };
        match self.rows.last_mut() {
            // A later row for the same place is the one that holds.
            Some(last) if last.place >= place => {
                last.rule = rule;
                return;
            }
            Some(last) if last.rule == rule && !is_start => return,
            _ => {}
        }
        self.unsupported += u64::from(rule == RULE_UNSUPPORTED);
        self.rows.push(Row { place, rule });
    }

    /// The rule at a virtual address.
    pub fn rule_at(&self, address: u64) -> u32 {
        let Some(place) = address
            .checked_sub(self.base)
            .and_then(|place| u32::try_from(place).ok())
        else {
            return RULE_NONE;
        };
        let after = self.rows.partition_point(|row| row.place <= place);
        after
            .checked_sub(1)
            .map_or(RULE_NONE, |n| self.rows[n].rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdup_probe_ebpf::wire::unwind::*;

    fn row(place: u32, rule: u32) -> Row {
        Row { place, rule }
    }

    /// Start, end, and rows of each function.
    type Described<'a> = (u64, u64, &'a [(u64, u32)]);

    fn joined(functions: &[Described<'_>]) -> Vec<Row> {
        let mut rows = Vec::new();
        let functions: Vec<Function> = functions
            .iter()
            .map(|(start, end, own)| {
                let first = rows.len();
                rows.extend_from_slice(own);
                Function {
                    start: *start,
                    end: *end,
                    first,
                    count: own.len(),
                }
            })
            .collect();
        let mut table = Table {
            base: 0x1000,
            ..Table::default()
        };
        table.join(&functions, &rows, RULE_NONE);
        table.rows
    }

    /// Code between two functions has no rule, padding between them does not count as such; each function has a row.
    #[test]
    fn gaps() {
        let rows = joined(&[
            (0x1000, 0x1010, &[(0x1000, 3), (0x1004, 4)]),
            (0x1018, 0x1020, &[(0x1018, 3)]),
            (0x1020, 0x1028, &[(0x1020, 3)]),
            (0x1100, 0x1110, &[(0x1100, 3), (0x1101, 3)]),
        ]);
        assert_eq!(
            rows,
            [
                row(0, 3),
                row(4, 4),
                row(0x18, 3),
                row(0x20, 3),
                row(0x28, RULE_NONE),
                row(0x100, 3),
                row(0x110, RULE_NONE),
            ]
        );
    }

    /// Of functions that claim the same code the first has it; rows stay sorted whatever a file says.
    #[test]
    fn overlaps() {
        let rows = joined(&[
            (0x1000, 0x1100, &[(0x1000, 3)]),
            (0x1010, 0x1200, &[(0x1010, 4), (0x1080, 5), (0x1180, 6)]),
            (0x1020, 0x1030, &[(0x1020, 7)]),
        ]);
        assert!(rows.is_sorted_by(|a, b| a.place < b.place), "{rows:?}");
        let table = Table {
            base: 0x1000,
            rows,
            ..Table::default()
        };
        assert_eq!(table.rule_at(0x1050), 3);
        assert_eq!(table.rule_at(0x1101), 5);
        assert_eq!(table.rule_at(0x1190), 6);
        assert_eq!(table.rule_at(0xfff), RULE_NONE);
        assert_eq!(table.rule_at(0x5000), RULE_NONE);
    }

    /// The test program itself: what its own `.eh_frame` says about a function's first instruction is what the
    /// architecture's calling convention says.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn of_this_test_program() {
        let bytes = std::fs::read("/proc/self/exe").expect("the test program is readable");
        let elf = crate::target::Elf::parse(&bytes).expect("it is an ELF file");
        let mut rules = RuleSet::default();
        let table = Table::of(&elf, &mut rules).expect("it has .eh_frame");
        assert_eq!((table.left_out, table.unsupported), (0, 0));
        let mut looked_at = 0;
        for symbol in elf
            .symbols()
            .filter(|symbol| symbol.demangled().contains("unwind::table"))
        {
            let rule = rules.rules()[table.rule_at(symbol.vaddr) as usize];
            assert_eq!(
                (rule.cfa, rule.cfa_offset),
                (CFA_STACK_POINTER, 8),
                "{symbol:?}"
            );
            assert_eq!(
                (rule.return_address, rule.return_address_offset),
                (SAVED_AT_CFA, -8)
            );
            looked_at += 1;
        }
        assert!(looked_at > 5, "only {looked_at} functions");
        assert!(rules.rules().len() < 2000, "{}", rules.rules().len());
    }

    /// Cut anywhere, and with bytes changed, a section gives a smaller table or one with unsupported rows.
    #[test]
    fn damaged_sections() {
        let bytes = std::fs::read("/proc/self/exe").expect("the test program is readable");
        let elf = crate::target::Elf::parse(&bytes).expect("it is an ELF file");
        let section = elf.section(".eh_frame").expect("readable").into_owned();
        let section = &section[..section.len().min(64 << 10)];
        let read = |bytes: &[u8]| {
            let mut rules = RuleSet::default();
            let table = Table::new(
                Frames::EhFrame(bytes),
                0x1000,
                0,
                Architecture::X86_64,
                &mut rules,
            );
            assert!(table.rows.is_sorted_by(|a, b| a.place < b.place));
            assert!(
                table
                    .rows
                    .iter()
                    .all(|row| (row.rule as usize) < rules.rules().len())
            );
        };
        for cut in (0..2048).chain([section.len() / 2, section.len()]) {
            read(&section[..cut]);
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200 {
            let mut damaged = section.to_vec();
            for _ in 0..16 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = state as usize % damaged.len();
                damaged[at] = (state >> 32) as u8;
            }
            read(&damaged);
        }
    }
}
