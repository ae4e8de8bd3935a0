//! A function's entry in debug information goes in; its type arguments come out.
//!
//! Linkage names of legacy mangling have none. `DW_AT_name` does, also with `debug = 1`, and also where the
//! function was inlined: the lock that a `Mutex::lock` is for is known by it.
//!
//! ```text
//! DW_TAG_inlined_subroutine          the frame that was found
//!   DW_AT_abstract_origin -> DW_TAG_subprogram, perhaps in another unit
//!     DW_AT_name "lock<parking_lot::raw_mutex::RawMutex, app::Sessions>"
//!     DW_AT_linkage_name "_ZN8lock_api5mutex14Mutex$LT$R$C$T$GT$4lock17h…E"
//! ```

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use gimli::{
    AttributeValue, DebugInfoOffset, Dwarf, DwarfFileType, Unit, UnitHeader, UnitOffset, UnitRef,
};

use crate::target::names::split_arguments;
use crate::target::split::Slice;

/// References from one entry to the next that are followed: real ones take two.
const REFERENCES_LIMIT: usize = 8;
/// Units opened for entries that others refer to. A Citadel server has 1,100 in all.
const UNITS_LIMIT: usize = 4096;

/// Finds type arguments in the debug information of one file.
pub(super) struct Generics<'data> {
    dwarf: Arc<Dwarf<Slice<'data>>>,
    /// By offset; read once somebody asks.
    headers: OnceCell<Vec<(usize, UnitHeader<Slice<'data>>)>>,
    /// Units that were opened because an entry of another one refers into them, by index in `headers`.
    units: RefCell<HashMap<usize, Option<Rc<Unit<Slice<'data>>>>>>,
}

/// Where a search for a name goes on.
enum Next {
    InUnit(UnitOffset),
    InFile(DebugInfoOffset),
}

impl<'data> Generics<'data> {
    pub(super) fn new(dwarf: Arc<Dwarf<Slice<'data>>>) -> Generics<'data> {
        Generics {
            dwarf,
            headers: OnceCell::new(),
            units: RefCell::default(),
        }
    }

    /// Type arguments of the function whose entry is at `entry` in `unit`.
    pub(super) fn of(
        &self,
        unit: UnitRef<'_, Slice<'data>>,
        entry: UnitOffset,
    ) -> Option<&'data str> {
        let (_, arguments) = split_arguments(self.name(unit, entry)?);
        arguments
    }

    fn name(&self, unit: UnitRef<'_, Slice<'data>>, entry: UnitOffset) -> Option<&'data str> {
        let mut next = match name_at(unit, entry)? {
            Ok(name) => return Some(name),
            Err(next) => next,
        };
        // Where the walk has left the unit that it began in.
        let mut other: Option<Rc<Unit<Slice<'data>>>> = None;
        for _ in 0..REFERENCES_LIMIT {
            let entry = match next {
                Next::InUnit(entry) => entry,
                // Files of split debug information refer to nothing outside of themselves.
                Next::InFile(_) if unit.dwarf.file_type == DwarfFileType::Dwo => return None,
                Next::InFile(place) => {
                    let (unit, entry) = self.unit_at(place)?;
                    other = Some(unit);
                    entry
                }
            };
            let unit = other.as_ref().map_or(unit, |other| UnitRef {
                dwarf: &self.dwarf,
                unit: other,
            });
            next = match name_at(unit, entry)? {
                Ok(name) => return Some(name),
                Err(next) => next,
            };
        }
        None
    }

    /// The unit that has this place, opened, and the entry in it.
    fn unit_at(&self, place: DebugInfoOffset) -> Option<(Rc<Unit<Slice<'data>>>, UnitOffset)> {
        let headers = self.headers.get_or_init(|| {
            let mut headers = Vec::new();
            let mut units = self.dwarf.units();
            while let Ok(Some(header)) = units.next() {
                let offset = header.debug_info_offset().map(|offset| offset.0);
                headers.extend(offset.map(|offset| (offset, header)));
            }
            headers
        });
        let after = headers.partition_point(|(start, _)| *start <= place.0);
        let index = after.checked_sub(1)?;
        let (_, header) = headers.get(index)?;
        let entry = place.to_unit_offset(header)?;
        let mut units = self.units.borrow_mut();
        if units.len() >= UNITS_LIMIT && !units.contains_key(&index) {
            return None;
        }
        let unit = units
            .entry(index)
            .or_insert_with(|| self.dwarf.unit(*header).ok().map(Rc::new));
        Some((Rc::clone(unit.as_ref()?), entry))
    }
}

/// The name of an entry, or the entry that has it.
fn name_at<'data>(
    unit: UnitRef<'_, Slice<'data>>,
    entry: UnitOffset,
) -> Option<Result<&'data str, Next>> {
    let mut entries = unit.entries_raw(Some(entry)).ok()?;
    let abbreviation = entries.read_abbreviation().ok()??;
    let mut next = None;
    for &spec in abbreviation.attributes() {
        let attribute = entries.read_attribute(spec).ok()?;
        match (attribute.name(), attribute.value()) {
            (gimli::DW_AT_name, value) => {
                let name = unit.attr_string(value).ok()?;
                return Some(Ok(std::str::from_utf8(name.slice()).ok()?));
            }
            (
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification,
                AttributeValue::UnitRef(entry),
            ) => next = Some(Next::InUnit(entry)),
            (
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification,
                AttributeValue::DebugInfoRef(place),
            ) => next = Some(Next::InFile(place)),
            _ => {}
        }
    }
    next.map(Err)
}
