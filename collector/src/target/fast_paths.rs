//! Debug information goes in; the places come out where parking_lot's and std's locks are acquired and released without
//! waiting. The code is inlined everywhere, a few instructions around the one that changes the lock's word:
//!
//! ```text
//!   DW_TAG_inlined_subroutine  DW_AT_abstract_origin <parking_lot::raw_mutex::RawMutex as …>::lock
//!                              0x8a40..0x8a4c        lock cmpxchg %cl,0x10(%rdi)
//!                                                    jne slow                     < here a probe goes
//! ```
//!
//! A probe in the middle of an instruction would break the target, and debug information can be wrong. So a place counts
//! only if one gets there instruction by instruction from the start of its function, and where functions start is
//! taken from the unwind information, which the target itself goes by.
//!
//! Separate from `sites`, because it reads all of the debug information and is only done when asked for.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gimli::{
    AttributeValue, DebugInfoOffset, DwarfSections, EndianSlice, LittleEndian, UnitHeader,
};
use holdup_probe_ebpf::wire;

use super::binary::Binary;
use super::elf::{Elf, ElfError};
use super::insn::{self, Change, FirstInstruction};
use super::names::plain_path;
use super::sites::{Site, site};
use super::split::Slice;

/// Places that are kept: a Citadel server has some thousands.
const PLACES_LIMIT: usize = 1 << 16;
/// Bytes of one range that are looked at: a fast path has some dozen.
const RANGE_LIMIT: u64 = 4 << 10;
/// Longer functions are not decoded: the longest of a Citadel server has 300 KiB.
const FUNCTION_LIMIT: u64 = 1 << 20;
/// Copies that are kept: a Citadel server has some thousands.
const COPIES_LIMIT: usize = 1 << 16;
/// Entries of the functions in question that are kept: one for each function and unit.
const NAMED_LIMIT: usize = 1 << 20;
/// Ranges of one copy that are looked at: they have two or three.
const RANGES_LIMIT: usize = 64;
/// Reading stops after this long, whatever the file says.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// As many threads as for the other reading of debug information.
const THREADS_LIMIT: usize = 4;

/// What the functions do whose code is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Does {
    operation: u32,
    is_release: bool,
}

const fn acquires(operation: u32) -> Does {
    Does {
        operation,
        is_release: false,
    }
}

const fn releases(operation: u32) -> Does {
    Does {
        operation,
        is_release: true,
    }
}

/// Functions that have the instruction in them, by `plain_path` of their names.
const FUNCTIONS: [(&str, Does); 32] = [
    (
        "<parking_lot::raw_mutex::RawMutex as lock_api::mutex::RawMutex>::lock",
        acquires(wire::LOCK_MUTEX),
    ),
    (
        "<parking_lot::raw_mutex::RawMutex as lock_api::mutex::RawMutex>::try_lock",
        acquires(wire::LOCK_MUTEX),
    ),
    (
        "<parking_lot::raw_mutex::RawMutex as lock_api::mutex::RawMutexTimed>::try_lock_for",
        acquires(wire::LOCK_MUTEX),
    ),
    (
        "<parking_lot::raw_mutex::RawMutex as lock_api::mutex::RawMutexTimed>::try_lock_until",
        acquires(wire::LOCK_MUTEX),
    ),
    (
        "<parking_lot::raw_mutex::RawMutex as lock_api::mutex::RawMutex>::unlock",
        releases(wire::LOCK_MUTEX),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::lock_shared",
        acquires(wire::LOCK_RW_SHARED),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::try_lock_shared",
        acquires(wire::LOCK_RW_SHARED),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::unlock_shared",
        releases(wire::LOCK_RW_SHARED),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::lock_exclusive",
        acquires(wire::LOCK_RW_EXCLUSIVE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::try_lock_exclusive",
        acquires(wire::LOCK_RW_EXCLUSIVE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::unlock_exclusive",
        releases(wire::LOCK_RW_EXCLUSIVE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockRecursive>::lock_shared_recursive",
        acquires(wire::LOCK_RW_SHARED),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockUpgrade>::lock_upgradable",
        acquires(wire::LOCK_RW_UPGRADABLE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockUpgrade>::try_lock_upgradable",
        acquires(wire::LOCK_RW_UPGRADABLE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockUpgrade>::unlock_upgradable",
        releases(wire::LOCK_RW_UPGRADABLE),
    ),
    (
        "<parking_lot::raw_mutex::RawMutex as lock_api::mutex::RawMutexFair>::unlock_fair",
        releases(wire::LOCK_MUTEX),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockFair>::unlock_exclusive_fair",
        releases(wire::LOCK_RW_EXCLUSIVE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockUpgradeFair>::unlock_upgradable_fair",
        releases(wire::LOCK_RW_UPGRADABLE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockTimed>::try_lock_shared_for",
        acquires(wire::LOCK_RW_SHARED),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockTimed>::try_lock_shared_until",
        acquires(wire::LOCK_RW_SHARED),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockTimed>::try_lock_exclusive_for",
        acquires(wire::LOCK_RW_EXCLUSIVE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockTimed>::try_lock_exclusive_until",
        acquires(wire::LOCK_RW_EXCLUSIVE),
    ),
    (
        "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLockRecursive>::try_lock_shared_recursive",
        acquires(wire::LOCK_RW_SHARED),
    ),
    (
        "std::sys::sync::mutex::futex::Mutex::lock",
        acquires(wire::LOCK_STD_MUTEX),
    ),
    (
        "std::sys::sync::mutex::futex::Mutex::try_lock",
        acquires(wire::LOCK_STD_MUTEX),
    ),
    (
        "std::sys::sync::mutex::futex::Mutex::unlock",
        releases(wire::LOCK_STD_MUTEX),
    ),
    (
        "std::sys::sync::rwlock::futex::RwLock::read",
        acquires(wire::LOCK_STD_READ),
    ),
    (
        "std::sys::sync::rwlock::futex::RwLock::write",
        acquires(wire::LOCK_STD_WRITE),
    ),
    (
        "std::sys::sync::rwlock::futex::RwLock::read_unlock",
        releases(wire::LOCK_STD_READ),
    ),
    (
        "std::sys::sync::rwlock::futex::RwLock::write_unlock",
        releases(wire::LOCK_STD_WRITE),
    ),
    (
        "std::sys::sync::rwlock::futex::RwLock::try_read",
        acquires(wire::LOCK_STD_READ),
    ),
    (
        "std::sys::sync::rwlock::futex::RwLock::try_write",
        acquires(wire::LOCK_STD_WRITE),
    ),
];

/// What every mangled name in question contains one of, because demangling all of them would take a second.
const NEEDLES: [&[u8]; 4] = [
    b"raw_mutex..RawMutex$u20$as",
    b"raw_rwlock..RawRwLock$u20$as",
    b"4sync5mutex5futexNt",
    b"4sync6rwlock5futexNt",
];
/// The same of v0 mangling.
const NEEDLES_V0: [&[u8]; 2] = [b"9raw_mutex", b"10raw_rwlock"];

/// One place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPath {
    /// Where.
    pub site: Site,
    /// A `wire::fast_cookie`.
    pub cookie: u64,
}

/// The places in a binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FastPaths {
    /// In the order of their addresses.
    pub places: Vec<FastPath>,
    /// Inlined copies in which the instruction was not found, or in a form that a probe can't use.
    pub not_understood: usize,
    /// There may be more: reading all of the debug information would have taken too long.
    pub is_cut: bool,
}

/// Where a binary acquires and releases locks without waiting; nothing without debug information.
pub fn find(binary: &Binary) -> Result<FastPaths, ElfError> {
    let code = binary.code()?;
    let Some(described) = binary.described()? else {
        return Ok(FastPaths::default());
    };
    if !code.is_x86_64() {
        return Ok(FastPaths::default());
    }
    let mut result = FastPaths::default();
    let mut changes = BTreeMap::new();
    let until = Instant::now() + TIME_LIMIT;
    let copies = copies(&described, until)?;
    result.is_cut = Instant::now() >= until || copies.len() >= COPIES_LIMIT;
    for (does, ranges) in copies {
        // Debug information keeps functions that the linker dropped, at addresses where no code is.
        let is_there = |range: &Range| code.file_offset(range.begin).is_some();
        if !ranges.iter().all(is_there) {
            continue;
        }
        match change(&code, &ranges) {
            Some(change) if changes.len() < PLACES_LIMIT => {
                changes.insert(change.at, (does, change));
            }
            _ => result.not_understood += 1,
        }
    }
    let starts = function_starts(&code);
    let mut decoded = Decoded::default();
    for (does, change) in changes.into_values() {
        let is_place =
            decoded.has(&code, &starts, change.at) && decoded.has(&code, &starts, change.next);
        match is_place
            .then(|| path(&code, binary, does, change))
            .flatten()
        {
            Some(path) => result.places.push(path),
            None => result.not_understood += 1,
        }
    }
    Ok(result)
}

/// How many copies of fast paths a file describes; for whoever wants to know what becomes of a strange one.
pub fn copies_of_file(described: &Elf<'_>) -> Result<usize, ElfError> {
    copies(described, Instant::now() + TIME_LIMIT).map(|copies| copies.len())
}

/// Where functions start, by the table of `.eh_frame_hdr`, in order.
fn function_starts(code: &Elf<'_>) -> Vec<u64> {
    let Some((address, data)) = code.eh_frame_header() else {
        return Vec::new();
    };
    let bases = gimli::BaseAddresses::default().set_eh_frame_hdr(address);
    let header = gimli::EhFrameHdr::new(data, LittleEndian).parse(&bases, 8);
    let Some(header) = header.ok() else {
        return Vec::new();
    };
    let Some(table) = header.table() else {
        return Vec::new();
    };
    let mut starts = Vec::new();
    let mut entries = table.iter(&bases);
    while let Ok(Some((start, _))) = entries.next() {
        if let gimli::Pointer::Direct(start) = start {
            starts.push(start);
        }
    }
    starts.sort_unstable();
    starts
}

/// The instructions of one function: places come in the order of their addresses.
#[derive(Default)]
struct Decoded {
    start: Option<u64>,
    instructions: HashSet<u64>,
}

impl Decoded {
    /// Whether an instruction begins at this address.
    fn has(&mut self, code: &Elf<'_>, starts: &[u64], vaddr: u64) -> bool {
        let after = starts.partition_point(|start| *start <= vaddr);
        let Some(start) = after.checked_sub(1).map(|at| starts[at]) else {
            return false;
        };
        if self.start != Some(start) {
            let end = starts.get(after).copied().unwrap_or(u64::MAX);
            let length = (end - start).min(FUNCTION_LIMIT) as usize;
            let bytes = code.bytes_at(start, length);
            self.start = Some(start);
            self.instructions = insn::instruction_starts(bytes, start).collect();
        }
        self.instructions.contains(&vaddr)
    }
}

/// The instruction that changes the lock's word, in one copy of a fast path.
fn change(code: &Elf<'_>, ranges: &[Range]) -> Option<Change> {
    ranges.iter().find_map(|range| {
        let length = (range.end - range.begin).min(RANGE_LIMIT) as usize;
        insn::change_of_a_lock(code.bytes_at(range.begin, length), range.begin)
    })
}

/// The probe for one copy of a fast path.
fn path(code: &Elf<'_>, binary: &Binary, does: Does, change: Change) -> Option<FastPath> {
    let site = site(code, binary, change.next)?;
    let cookie = wire::fast_cookie(
        does.operation,
        does.is_release,
        change.is_conditional,
        change.register.unwrap_or(wire::FAST_PC_RELATIVE),
        change.displacement,
    );
    (site.price != FirstInstruction::Refused).then_some(FastPath { site, cookie })
}

/// Code of one copy of a function.
#[derive(Clone, Copy, Debug)]
struct Range {
    begin: u64,
    end: u64,
}

/// Every copy of the functions in question. In two readings, so that of the million inlined functions of a large program
/// only those few are kept: an entry can come before the one that it takes its name from.
fn copies(described: &Elf<'_>, until: Instant) -> Result<Vec<(Does, Vec<Range>)>, ElfError> {
    let sections: DwarfSections<Cow<'_, [u8]>> =
        DwarfSections::load(|id| described.section(id.name()))?;
    let dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
    let mut units = Vec::new();
    let mut headers = dwarf.units();
    while let Ok(Some(header)) = headers.next() {
        units.push(header);
    }
    let named = of_each(&units, until, |header, named| {
        named_in_unit(&dwarf, header, named)
    });
    let named: HashMap<usize, Does> = named.into_iter().collect();
    Ok(of_each(&units, until, |header, copies| {
        copies_in_unit(&dwarf, header, &named, copies)
    }))
}

/// What `read` finds in each unit, by several threads.
fn of_each<'data, T: Send>(
    units: &[UnitHeader<Slice<'data>>],
    until: Instant,
    read: impl Fn(UnitHeader<Slice<'data>>, &mut Vec<T>) -> gimli::Result<()> + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let merged = Mutex::new(Vec::new());
    let work = || {
        let mut mine = Vec::new();
        while let Some(header) = units.get(next.fetch_add(1, Ordering::Relaxed))
            && Instant::now() < until
        {
            // What a malformed unit has up to there counts.
            let _ = read(*header, &mut mine);
        }
        let mut merged = merged
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        merged.extend(mine);
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for n in 1..threads.min(THREADS_LIMIT) {
            let name = format!("holdup-fast-{n}");
            // Without the thread the others do its share.
            let _ = std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, work);
        }
        work();
    });
    merged
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The functions in question, by the offset of their entry.
fn named_in_unit<'data>(
    dwarf: &gimli::Dwarf<Slice<'data>>,
    header: UnitHeader<Slice<'data>>,
    named: &mut Vec<(usize, Does)>,
) -> gimli::Result<()> {
    let unit = dwarf.unit(header)?;
    let mut entries = unit.entries_raw(None)?;
    while !entries.is_empty() {
        let own = entries.next_offset().to_debug_info_offset(&unit.header);
        let Some(abbreviation) = entries.read_abbreviation()? else {
            continue;
        };
        if abbreviation.tag() != gimli::DW_TAG_subprogram {
            entries.skip_attributes(abbreviation.attributes())?;
            continue;
        }
        for &spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(spec)?;
            if attribute.name() == gimli::DW_AT_linkage_name
                && let Some(DebugInfoOffset(own)) = own
                && let Some(does) = does(dwarf.attr_string(&unit, attribute.value())?.slice())
                && named.len() < NAMED_LIMIT
            {
                named.push((own, does));
            }
        }
    }
    Ok(())
}

/// Their code.
fn copies_in_unit<'data>(
    dwarf: &gimli::Dwarf<Slice<'data>>,
    header: UnitHeader<Slice<'data>>,
    named: &HashMap<usize, Does>,
    copies: &mut Vec<(Does, Vec<Range>)>,
) -> gimli::Result<()> {
    let unit = dwarf.unit(header)?;
    let mut entries = unit.entries_raw(None)?;
    while !entries.is_empty() {
        let own = entries.next_offset().to_debug_info_offset(&unit.header);
        let Some(abbreviation) = entries.read_abbreviation()? else {
            continue;
        };
        let has_code = matches!(
            abbreviation.tag(),
            gimli::DW_TAG_inlined_subroutine | gimli::DW_TAG_subprogram
        );
        if !has_code {
            entries.skip_attributes(abbreviation.attributes())?;
            continue;
        }
        // A copy that has code of its own may have its name too.
        let mut does = own.and_then(|DebugInfoOffset(own)| named.get(&own));
        let mut code = Code::default();
        for &spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(spec)?;
            match attribute.name() {
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                    let origin = match attribute.value() {
                        AttributeValue::UnitRef(offset) => offset
                            .to_debug_info_offset(&unit.header)
                            .map(|DebugInfoOffset(offset)| offset),
                        AttributeValue::DebugInfoRef(DebugInfoOffset(offset)) => Some(offset),
                        _ => None,
                    };
                    does = origin.and_then(|origin| named.get(&origin)).or(does);
                }
                gimli::DW_AT_low_pc => code.low = dwarf.attr_address(&unit, attribute.value())?,
                gimli::DW_AT_high_pc => code.high = Some(attribute.value()),
                gimli::DW_AT_ranges => code.ranges = Some(attribute.value()),
                _ => {}
            }
        }
        if let Some(does) = does {
            let ranges = code.resolve(dwarf, &unit)?;
            if !ranges.is_empty() && copies.len() < COPIES_LIMIT {
                copies.push((*does, ranges));
            }
        }
    }
    Ok(())
}

/// The attributes of an entry that has code.
#[derive(Default)]
struct Code<'data> {
    low: Option<u64>,
    high: Option<AttributeValue<Slice<'data>>>,
    ranges: Option<AttributeValue<Slice<'data>>>,
}

impl<'data> Code<'data> {
    fn resolve(
        &self,
        dwarf: &gimli::Dwarf<Slice<'data>>,
        unit: &gimli::Unit<Slice<'data>>,
    ) -> gimli::Result<Vec<Range>> {
        if let Some(value) = self.ranges {
            let mut resolved = Vec::new();
            let Some(mut ranges) = dwarf.attr_ranges(unit, value)? else {
                return Ok(resolved);
            };
            while let (Some(range), true) = (ranges.next()?, resolved.len() < RANGES_LIMIT) {
                resolved.push(Range {
                    begin: range.begin,
                    end: range.end,
                });
            }
            return Ok(resolved);
        }
        let (Some(begin), Some(high)) = (self.low, self.high) else {
            return Ok(Vec::new());
        };
        let end = match high.udata_value() {
            Some(length) => Some(begin.saturating_add(length)),
            None => dwarf.attr_address(unit, high)?,
        };
        // 0 stands for code that is not there.
        let range = end.filter(|end| *end > begin && begin != 0);
        Ok(range.map(|end| Range { begin, end }).into_iter().collect())
    }
}

/// What the function of a mangled name does, if it is one of those.
fn does(mangled: &[u8]) -> Option<Does> {
    let contains = |needle: &&[u8]| memchr::memmem::find(mangled, needle).is_some();
    if !NEEDLES.iter().any(contains) && !NEEDLES_V0.iter().any(contains) {
        return None;
    }
    let mangled = std::str::from_utf8(mangled).ok()?;
    let name = format!("{:#}", rustc_demangle::demangle(mangled));
    let path = plain_path(&name);
    let mut functions = FUNCTIONS.iter();
    functions
        .find(|(known, _)| *known == path)
        .map(|(_, does)| *does)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;
    use crate::target::{DebugSearch, Process};

    /// Of this very program, which has std's locks: each place is behind an instruction of its own that changes a word,
    /// and what lies between two instructions is no place.
    #[test]
    fn places_of_this_program() {
        let process = Process::open(Pid(std::process::id())).expect("we run");
        let plan = process
            .plan(&DebugSearch::default())
            .expect("our own binary can be read");
        let code = plan.binary.code().expect("read before");
        let starts = function_starts(&code);
        assert!(starts.len() > 1000, "{}", starts.len());
        let found = find(&plan.binary).expect("it has debug information");
        assert!(!found.places.is_empty());
        let mut decoded = Decoded::default();
        for path in &found.places {
            let next = code.vaddr(path.site.file_offset).expect("code");
            assert!(decoded.has(&code, &starts, next));
            // The instruction in front has at least two bytes.
            assert!(!decoded.has(&code, &starts, next - 1), "{next:#x}");
        }
    }

    /// Both manglings of the functions in question, and of others beside them.
    #[test]
    fn functions_by_their_names() {
        let legacy = b"_ZN78_$LT$parking_lot..raw_mutex..RawMutex$u20$as$u20$lock_api..mutex..RawMutex$GT$6unlock17h659c6df539f652d1E";
        assert_eq!(does(legacy), Some(releases(wire::LOCK_MUTEX)));
        let fair = b"_ZN82_$LT$parking_lot..raw_mutex..RawMutex$u20$as$u20$lock_api..mutex..RawMutexFair$GT$11unlock_fair17h659c6df539f652d1E";
        assert_eq!(does(fair), Some(releases(wire::LOCK_MUTEX)));
        let v0 = b"_RNvMNtNtNtNtCsjrHSEGnQ3l9_3std3sys4sync5mutex5futexNtB2_5Mutex4lock";
        assert_eq!(does(v0), Some(acquires(wire::LOCK_STD_MUTEX)));
        let slow =
            b"_RNvMNtNtNtNtCsjrHSEGnQ3l9_3std3sys4sync5mutex5futexNtB2_5Mutex14lock_contended";
        assert_eq!(does(slow), None);
        assert_eq!(does(b"_ZN3app4lock17h659c6df539f652d1E"), None);
    }
}
