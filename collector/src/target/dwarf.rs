//! Debug information goes in; the type arguments of each `tokio::runtime::task::raw::poll` instance come
//! out, or of each of Tokio's `block_on`. Separate from `sites`, which decides what they mean.
//!
//! Symbols don't carry type arguments under legacy mangling; `DW_AT_name` does, also with `debug = 1`:
//!
//! ```text
//! DW_TAG_namespace tokio > runtime > task > raw
//!   DW_TAG_subprogram  DW_AT_name "poll<app::main::{async_block_env#0}, alloc::sync::Arc<…::Handle>>"
//!                      DW_AT_low_pc 0x3c430
//! ```
//!
//! A server has 30 MB of `.debug_info` and as much of `.debug_str`, and an incident is no time to wait. So
//! first the strings that can be such a name are looked for, then units that refer to none of them are
//! skipped by searching their bytes for those strings' offsets, and only the rest is parsed, on several
//! threads.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gimli::{
    AttributeValue, DebugInfoOffset, DebugStrOffset, DwarfSections, EndianSlice, LittleEndian,
    Section as _, Unit, UnitHeader,
};

use super::debuginfo::DebugSearch;
use super::elf::{Elf, ElfError};
use super::image::Image;
use super::names::PollArguments;
use super::split::{Slice, Split, SplitSections, SplitUnit};

/// What is looked for.
struct Query {
    /// What every name in question starts with one of.
    prefixes: &'static [&'static [u8]],
    /// The namespaces around the instances, outermost first.
    namespaces: &'static [&'static [u8]],
    /// There may be more of them inside.
    any_depth: bool,
    /// Whether it can be one with these arguments.
    can_have: fn(&str) -> bool,
}

const POLLS: Query = Query {
    prefixes: &[b"poll<"],
    namespaces: &[b"tokio", b"runtime", b"task", b"raw"],
    any_depth: false,
    // Other crates have functions named poll. Schedulers are tokio's.
    can_have: |arguments| {
        PollArguments::scheduler(arguments).is_some_and(|scheduler| scheduler.contains("tokio::"))
    },
};

/// There are several, one around the other, and which of them is a function differs; the innermost calls its loop through
/// `Scoped::set`.
const BLOCK_ONS: Query = Query {
    prefixes: &[b"block_on<", b"set<tokio::runtime::scheduler::Context, "],
    namespaces: &[b"tokio", b"runtime"],
    any_depth: true,
    can_have: |_| true,
};

/// Longer names are passed over. The longest in a Citadel server has 6 KiB.
const NAME_LIMIT: usize = 64 << 10;
/// Bytes of names that are kept in all; the rest is passed over and counted.
const NAMES_LIMIT: usize = 32 << 20;
/// Different names that are looked for. A Citadel server has some thousands.
const STRINGS_LIMIT: usize = 1 << 20;
/// Concrete entries of other subprograms that are kept: a Citadel server has some 100,000.
const PLACED_LIMIT: usize = 1 << 20;
/// Parsing stops after this long, whatever the file says. A Citadel server takes a hundredth of it; holdup
/// built without optimization a quarter.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// More threads only help bigger files than there are, and the host is in trouble already.
const THREADS_LIMIT: usize = 4;

/// Said where a skeleton unit has nothing behind it.
const SPLIT_MISSING: &str = "it is split, and the package (.dwp) or files (.dwo) with the rest of it are \
                             not beside the binary";

/// One instance of what was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Entry, as a virtual address of the file.
    pub vaddr: u64,
    /// Its type arguments: the future's type, and of a poll the scheduler's.
    pub arguments: String,
}

/// What debug information told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The instances, by address.
    pub instances: Vec<Instance>,
    /// Units whose entries were read.
    pub units_read: usize,
    /// Units that were skipped because nothing in them is of interest.
    pub units_skipped: usize,
    /// Units that are malformed, or came after a malformed header. What was found in them counts.
    pub units_malformed: usize,
    /// Something was left unread: too much of it, or it took too long.
    pub gave_up: Option<&'static str>,
}

impl Outcome {
    /// Whether it has the instance at this virtual address.
    pub fn describes(&self, vaddr: u64) -> bool {
        self.arguments(vaddr).is_some()
    }

    /// The type arguments of the instance at this virtual address.
    pub fn arguments(&self, vaddr: u64) -> Option<&str> {
        let by_address = self
            .instances
            .binary_search_by_key(&vaddr, |instance| instance.vaddr);
        Some(&self.instances[by_address.ok()?].arguments)
    }
}

/// Every poll instance that the debug information of an image describes.
pub fn poll_instances(image: &Image, search: &DebugSearch) -> Result<Outcome, ElfError> {
    instances(image, search, &POLLS)
}

/// Every instance of a `block_on` of Tokio's that the debug information of an image describes.
pub fn block_on_instances(image: &Image, search: &DebugSearch) -> Result<Outcome, ElfError> {
    instances(image, search, &BLOCK_ONS)
}

fn instances(
    image: &Image,
    search: &DebugSearch,
    query: &'static Query,
) -> Result<Outcome, ElfError> {
    let Some(described) = image.described()? else {
        return Ok(Outcome::default());
    };
    let split = SplitSections::of(image, search);
    let split = Split::new(&split);
    Ok(instances_of_file(&described, Some(&split), query))
}

/// Every poll instance that a file describes, and what its skeleton units stand for.
pub fn poll_instances_of_file(described: &Elf<'_>, split: Option<&Split<'_>>) -> Outcome {
    instances_of_file(described, split, &POLLS)
}

fn instances_of_file(
    described: &Elf<'_>,
    split: Option<&Split<'_>>,
    query: &'static Query,
) -> Outcome {
    let sections: Result<DwarfSections<Cow<'_, [u8]>>, ElfError> =
        DwarfSections::load(|id| described.section(id.name()));
    match sections {
        Ok(sections) => Search::new(&sections, query, Instant::now() + TIME_LIMIT).run(split),
        Err(_) => Outcome {
            gave_up: Some("its sections are malformed or too large"),
            ..Outcome::default()
        },
    }
}

/// One search through the debug information of a file.
struct Search<'data> {
    query: &'static Query,
    dwarf: gimli::Dwarf<Slice<'data>>,
    info: &'data [u8],
    /// Offsets in `.debug_str` of the names in question.
    strings: Strings,
    until: Instant,
}

/// A subprogram's name or address, under the offset of the entry that has the other one.
#[derive(Default)]
struct Findings {
    /// Instances: entry to the name's arguments.
    named: HashMap<Entry, Named>,
    /// Concrete subprograms that take their name from another entry: that entry to the address.
    placed: Vec<(Entry, u64)>,
    name_bytes: usize,
    units_read: usize,
    units_malformed: usize,
    gave_up: Option<&'static str>,
}

/// An entry of debug information.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    /// 0 for the file itself, others for units of split debug information.
    file: usize,
    /// Offset in its `.debug_info`.
    offset: usize,
}

struct Named {
    arguments: String,
    vaddr: Option<u64>,
}

impl<'data> Search<'data> {
    fn new(
        sections: &'data DwarfSections<Cow<'data, [u8]>>,
        query: &'static Query,
        until: Instant,
    ) -> Search<'data> {
        let dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
        let info = dwarf.debug_info.reader().slice();
        let strings = Strings::find(dwarf.debug_str.reader().slice(), query);
        Search {
            query,
            dwarf,
            info,
            strings,
            until,
        }
    }

    fn run(&self, split: Option<&Split<'data>>) -> Outcome {
        let mut units = Vec::new();
        let mut headers = self.dwarf.units();
        let mut malformed_headers = 0;
        loop {
            match headers.next() {
                Ok(Some(header)) => units.push(header),
                Ok(None) => break,
                // Its length may be wrong, so there is no way to find the next one.
                Err(_) => {
                    malformed_headers += 1;
                    break;
                }
            }
        }
        let mut found = Findings::default();
        let mut read = vec![false; units.len()];
        if !self.strings.offsets.is_empty() || units.iter().any(|unit| unit.version() >= 5) {
            self.read_units(
                &units,
                &mut read,
                |unit| self.is_of_interest(unit),
                &mut found,
            );
            // A name without an address has its code described by an entry that refers to it, perhaps
            // in a unit that was skipped.
            if !found.all_placed() {
                self.read_units(&units, &mut read, |_| true, &mut found);
            }
        }
        if let Some(split) = split {
            self.read_split_units(&units, split, &mut found);
        }
        let mut instances = BTreeMap::new();
        for (entry, vaddr) in &found.placed {
            if let Some(named) = found.named.get(entry) {
                instances.insert(*vaddr, named.arguments.clone());
            }
        }
        for named in found.named.into_values() {
            if let Some(vaddr) = named.vaddr {
                instances.insert(vaddr, named.arguments);
            }
        }
        Outcome {
            instances: instances
                .into_iter()
                .map(|(vaddr, arguments)| Instance { vaddr, arguments })
                .collect(),
            units_read: found.units_read,
            units_skipped: read.iter().filter(|read| !**read).count(),
            units_malformed: found.units_malformed + malformed_headers,
            gave_up: found.gave_up.or(self.strings.gave_up),
        }
    }

    /// Reads those units that `choose` picks and that were not read yet, on several threads.
    fn read_units(
        &self,
        units: &[UnitHeader<Slice<'data>>],
        read: &mut [bool],
        choose: impl Fn(&UnitHeader<Slice<'data>>) -> bool + Sync,
        found: &mut Findings,
    ) {
        let threads = std::thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(THREADS_LIMIT);
        let next = AtomicUsize::new(0);
        let unread: Vec<usize> = (0..units.len()).filter(|&index| !read[index]).collect();
        let merged = Mutex::new((std::mem::take(found), Vec::new()));
        let work = || {
            let mut mine = Findings::default();
            let mut done = Vec::new();
            while let Some(&index) = unread.get(next.fetch_add(1, Ordering::Relaxed)) {
                if Instant::now() > self.until {
                    mine.gave_up = Some("reading them took too long");
                    break;
                }
                if choose(&units[index]) {
                    done.push(index);
                    mine.units_read += 1;
                    let read = self.dwarf.unit(units[index]).and_then(|unit| {
                        let place = UnitPlace {
                            query: self.query,
                            dwarf: &self.dwarf,
                            unit: &unit,
                            file: 0,
                            strings: Some(&self.strings),
                        };
                        place.read(&mut mine)
                    });
                    mine.units_malformed += usize::from(read.is_err());
                }
            }
            let mut merged = merged
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            merged.0.merge(mine);
            merged.1.extend(done);
        };
        std::thread::scope(|scope| {
            for n in 1..threads.min(unread.len()) {
                let name = format!("holdup-dwarf-{n}");
                // Without the thread the others do its share.
                let _ = std::thread::Builder::new()
                    .name(name)
                    .spawn_scoped(scope, work);
            }
            work();
        });
        let (all, done) = merged
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *found = all;
        for index in done {
            read[index] = true;
        }
    }

    /// Whether a unit can refer to one of the names.
    fn is_of_interest(&self, unit: &UnitHeader<Slice<'data>>) -> bool {
        // From version 5 on names are reached through a table, by indices of any size.
        if unit.version() >= 5 || unit.format() != gimli::Format::Dwarf32 {
            return true;
        }
        let Some(DebugInfoOffset(start)) = unit.debug_info_offset() else {
            return true;
        };
        let end = start.saturating_add(unit.length_including_self());
        let bytes = self
            .info
            .get(start..end.min(self.info.len()))
            .unwrap_or(&[]);
        self.strings.any_offset_in(bytes)
    }

    /// Reads what skeleton units stand for.
    fn read_split_units(
        &self,
        units: &[UnitHeader<Slice<'data>>],
        split: &Split<'data>,
        found: &mut Findings,
    ) {
        // The sign of split debug information, which only the entries of each unit would tell otherwise.
        if self.dwarf.debug_addr.reader().is_empty() {
            return;
        }
        for (index, header) in units.iter().enumerate() {
            if Instant::now() > self.until {
                found.gave_up = Some("reading them took too long");
                break;
            }
            let Ok(skeleton) = self.dwarf.unit(*header) else {
                continue;
            };
            match split.behind(&skeleton, &self.dwarf) {
                None => {}
                Some(Err(())) => found.gave_up = Some(SPLIT_MISSING),
                Some(Ok(SplitUnit { dwarf, unit })) => {
                    let place = UnitPlace {
                        query: self.query,
                        dwarf: &dwarf,
                        unit: &unit,
                        file: 1 + index,
                        strings: None,
                    };
                    found.units_read += 1;
                    found.units_malformed += usize::from(place.read(found).is_err());
                }
            }
        }
    }
}

/// A unit, and where it is.
struct UnitPlace<'a, 'data> {
    query: &'static Query,
    dwarf: &'a gimli::Dwarf<Slice<'data>>,
    unit: &'a Unit<Slice<'data>>,
    file: usize,
    /// Which strings of the file's are names that are looked for, where that is known.
    strings: Option<&'a Strings>,
}

impl<'data> UnitPlace<'_, 'data> {
    /// Adds what one unit has.
    fn read(&self, found: &mut Findings) -> gimli::Result<()> {
        let UnitPlace {
            dwarf, unit, query, ..
        } = *self;
        let namespaces = query.namespaces;
        let mut entries = unit.entries_raw(None)?;
        // How many of the namespaces are open around the next entry: the first is at depth 1.
        let mut open: usize = 0;
        while !entries.is_empty() {
            let offset = entries.next_offset();
            let depth = usize::try_from(entries.next_depth()).unwrap_or(0);
            let Some(abbreviation) = entries.read_abbreviation()? else {
                continue;
            };
            open = open.min(depth.saturating_sub(1));
            match abbreviation.tag() {
                gimli::DW_TAG_namespace if depth == open + 1 && open < namespaces.len() => {
                    let mut is_next = false;
                    for &spec in abbreviation.attributes() {
                        let attribute = entries.read_attribute(spec)?;
                        is_next |= attribute.name() == gimli::DW_AT_name
                            && dwarf
                                .attr_string(unit, attribute.value())
                                .is_ok_and(|name| name.slice() == namespaces[open]);
                    }
                    open += usize::from(is_next);
                }
                gimli::DW_TAG_subprogram => {
                    let inside = open == namespaces.len()
                        && (query.any_depth || depth == namespaces.len() + 1);
                    let mut subprogram = Subprogram::default();
                    for &spec in abbreviation.attributes() {
                        let attribute = entries.read_attribute(spec)?;
                        match attribute.name() {
                            gimli::DW_AT_name if inside => {
                                subprogram.name = self.name(attribute.value());
                            }
                            gimli::DW_AT_low_pc => {
                                subprogram.vaddr = dwarf.attr_address(unit, attribute.value())?;
                            }
                            gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                                subprogram.origin = self.entry_of(attribute.value());
                            }
                            _ => {}
                        }
                    }
                    if let Some(entry) = offset.to_debug_info_offset(&unit.header) {
                        found.add(self.entry(entry.0), subprogram);
                    }
                }
                _ => entries.skip_attributes(abbreviation.attributes())?,
            }
        }
        Ok(())
    }

    /// The name, if it is one that is looked for.
    fn name(&self, value: AttributeValue<Slice<'data>>) -> Option<String> {
        let is_known = |offset: usize| {
            self.strings
                .is_none_or(|strings| strings.offsets.contains(&offset))
        };
        let known = match value {
            AttributeValue::DebugStrRef(offset) => is_known(offset.0),
            AttributeValue::DebugStrOffsetsIndex(index) => self
                .dwarf
                .string_offset(self.unit, index)
                .is_ok_and(|DebugStrOffset(offset)| is_known(offset)),
            AttributeValue::String(_) => true,
            _ => false,
        };
        if !known {
            return None;
        }
        let name = self.dwarf.attr_string(self.unit, value).ok()?;
        (name.len() <= NAME_LIMIT)
            .then(|| self.query.arguments_of(name.slice()).map(str::to_owned))
            .flatten()
    }

    /// The entry that a reference leads to.
    fn entry_of(&self, value: AttributeValue<Slice<'data>>) -> Option<Entry> {
        match value {
            AttributeValue::UnitRef(offset) => {
                let offset = offset.to_debug_info_offset(&self.unit.header)?;
                Some(self.entry(offset.0))
            }
            AttributeValue::DebugInfoRef(offset) => Some(self.entry(offset.0)),
            _ => None,
        }
    }

    fn entry(&self, offset: usize) -> Entry {
        Entry {
            file: self.file,
            offset,
        }
    }
}

/// A subprogram's attributes that matter.
#[derive(Default)]
struct Subprogram {
    /// Arguments of its name, if that is one that is looked for.
    name: Option<String>,
    vaddr: Option<u64>,
    /// The entry that has what is missing here.
    origin: Option<Entry>,
}

impl Findings {
    fn add(&mut self, entry: Entry, subprogram: Subprogram) {
        match subprogram {
            Subprogram {
                name: Some(arguments),
                vaddr,
                ..
            } => {
                self.name_bytes += arguments.len();
                if self.name_bytes > NAMES_LIMIT {
                    self.gave_up = Some("the names of its poll instances are too long");
                    return;
                }
                self.named.insert(entry, Named { arguments, vaddr });
            }
            Subprogram {
                vaddr: Some(vaddr),
                origin: Some(origin),
                ..
            } if self.placed.len() < PLACED_LIMIT => self.placed.push((origin, vaddr)),
            _ => {}
        }
    }

    fn merge(&mut self, other: Findings) {
        let Findings {
            named,
            placed,
            name_bytes,
            units_read,
            units_malformed,
            gave_up,
        } = other;
        self.named.extend(named);
        self.placed.extend(placed);
        self.name_bytes += name_bytes;
        self.units_read += units_read;
        self.units_malformed += units_malformed;
        self.gave_up = self.gave_up.or(gave_up);
    }

    /// Whether every name has an address.
    fn all_placed(&self) -> bool {
        let placed: HashSet<Entry> = self.placed.iter().map(|(entry, _)| *entry).collect();
        self.named
            .iter()
            .all(|(entry, named)| named.vaddr.is_some() || placed.contains(entry))
    }
}

impl Query {
    /// The arguments of a name that is looked for.
    fn arguments_of<'a>(&self, name: &'a [u8]) -> Option<&'a str> {
        let mut prefixes = self.prefixes.iter();
        let arguments = prefixes
            .find_map(|prefix| name.strip_prefix(*prefix))?
            .strip_suffix(b">")?;
        let arguments = std::str::from_utf8(arguments).ok()?;
        (self.can_have)(arguments).then_some(arguments)
    }
}

/// Offsets of the strings that are looked for, made to be found quickly.
struct Strings {
    offsets: HashSet<usize>,
    /// A bit for the low 16 bits of each offset: 8 KiB, which stay in the first-level cache.
    low_bits: Vec<u64>,
    gave_up: Option<&'static str>,
}

impl Strings {
    fn find(strings: &[u8], query: &Query) -> Strings {
        let mut found = Strings {
            offsets: HashSet::new(),
            low_bits: vec![0; (1 << 16) / 64],
            gave_up: None,
        };
        // Anywhere, not only behind a NUL: linkers let a string share the end of a longer one.
        let prefixes = query.prefixes.iter();
        for at in prefixes.flat_map(|prefix| memchr::memmem::find_iter(strings, prefix)) {
            let rest = &strings[at..strings.len().min(at + NAME_LIMIT)];
            let name = memchr::memchr(0, rest).map(|end| &rest[..end]);
            if name.and_then(|name| query.arguments_of(name)).is_none() {
                continue;
            }
            if found.offsets.len() >= STRINGS_LIMIT {
                found.gave_up = Some("it has too many names of poll instances");
                break;
            }
            found.offsets.insert(at);
            let low = at & 0xffff;
            found.low_bits[low / 64] |= 1 << (low % 64);
        }
        found
    }

    /// Whether one of the offsets is in the bytes of a unit, as `DW_FORM_strp` has it: four bytes
    /// anywhere.
    fn any_offset_in(&self, unit: &[u8]) -> bool {
        !self.offsets.is_empty()
            && unit.windows(4).any(|four| {
                let low = usize::from(u16::from_le_bytes([four[0], four[1]]));
                self.low_bits[low / 64] & (1 << (low % 64)) != 0 && {
                    let offset = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                    usize::try_from(offset).is_ok_and(|offset| self.offsets.contains(&offset))
                }
            })
    }
}

#[cfg(test)]
mod tests;
