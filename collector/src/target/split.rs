//! Split debug information: a skeleton unit's id goes in; the sections of the unit that it stands for come out,
//! from the package beside the binary (`.dwp`) or from a file of its own (`.dwo`).
//!
//! rustc writes it with `-C split-debuginfo=packed` or `unpacked`; the addresses stay in the binary.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use gimli::{
    Dwarf, DwarfFileType, DwarfPackage, DwarfPackageSections, DwarfSections, DwoId, EndianSlice,
    LittleEndian, SectionId, Unit, UnitHeader,
};

use super::debuginfo::DebugSearch;
use super::elf::Elf;
use super::image::Image;

/// What DWARF is read from.
pub type Slice<'data> = EndianSlice<'data, LittleEndian>;

/// Bytes of `.dwo` files that are kept for one binary: a Citadel server's have 60 MB.
const LOOSE_LIMIT: usize = 256 << 20;

/// Bytes that the compressed sections of one package may inflate to in all.
const INFLATED_LIMIT: usize = 256 << 20;

/// The bytes of a binary's split debug information, as far as they were needed.
pub struct SplitSections<'image> {
    package: Option<DwarfPackageSections<Cow<'image, [u8]>>>,
    loose: Chain<DwarfSections<Vec<u8>>>,
    loose_bytes: Cell<usize>,
    search: &'image DebugSearch,
}

/// The same, to be asked.
pub struct Split<'sections> {
    package: Option<DwarfPackage<Slice<'sections>>>,
    sections: &'sections SplitSections<'sections>,
}

impl<'image> SplitSections<'image> {
    /// Of an image, nothing read yet.
    pub fn of(image: &'image Image, search: &'image DebugSearch) -> SplitSections<'image> {
        let package = image.package().and_then(|package| {
            let mut inflated = 0;
            let section = |id: SectionId| {
                let section = id.dwo_name().map(|name| package.section(name));
                let section = section.and_then(Result::ok).unwrap_or_default();
                if let Cow::Owned(bytes) = &section {
                    inflated += bytes.len();
                }
                if inflated > INFLATED_LIMIT {
                    return Err(gimli::Error::OffsetOutOfBounds(inflated as u64));
                }
                Ok(section)
            };
            DwarfPackageSections::load(section).ok()
        });
        SplitSections {
            package,
            loose: Chain::default(),
            loose_bytes: Cell::new(0),
            search,
        }
    }
}

impl<'sections> Split<'sections> {
    /// Of these sections.
    pub fn new(sections: &'sections SplitSections<'sections>) -> Split<'sections> {
        let slice = |bytes: &'sections Cow<'_, [u8]>| EndianSlice::new(bytes, LittleEndian);
        let package = sections.package.as_ref();
        Split {
            package: package.and_then(|package| package.borrow(slice, slice(&EMPTY)).ok()),
            sections,
        }
    }

    /// What the skeleton unit of this id stands for. `path` is where the compiler put it, in `folder`.
    pub fn load(
        &self,
        id: DwoId,
        folder: Option<Slice<'_>>,
        path: Option<Slice<'_>>,
        parent: &Dwarf<Slice<'sections>>,
    ) -> Option<Arc<Dwarf<Slice<'sections>>>> {
        if let Some(package) = &self.package
            && let Ok(Some(unit)) = package.find_cu(id, parent)
        {
            return Some(Arc::new(unit));
        }
        let text = |slice: Slice<'_>| Path::new(OsStr::from_bytes(slice.slice())).to_owned();
        let path = text(path?);
        let path = folder.map_or_else(|| path.clone(), |folder| text(folder).join(&path));
        let mut dwarf = self.loose_file(&path)?;
        dwarf.make_dwo(parent);
        has_unit(&dwarf, id).then(|| Arc::new(dwarf))
    }

    /// The unit that a skeleton stands for, with what only the skeleton has; None if it is no skeleton, an
    /// error without content if it is one and there is nothing behind it.
    pub fn behind(
        &self,
        skeleton: &Unit<Slice<'sections>>,
        dwarf: &Dwarf<Slice<'sections>>,
    ) -> Option<Result<SplitUnit<'sections>, ()>> {
        let id = skeleton.dwo_id?;
        let name = skeleton.dwo_name().ok().flatten()?;
        let path = dwarf.attr_string(skeleton, name).ok();
        let loaded = self.load(id, skeleton.comp_dir, path, dwarf);
        let unit = loaded.and_then(|dwarf| {
            let header = dwarf.units().next().ok().flatten()?;
            let mut unit = dwarf.unit(header).ok()?;
            unit.copy_relocated_attributes(skeleton);
            Some(SplitUnit { dwarf, unit })
        });
        Some(unit.ok_or(()))
    }

    fn loose_file(&self, path: &Path) -> Option<Dwarf<Slice<'sections>>> {
        let SplitSections {
            loose,
            loose_bytes,
            search,
            ..
        } = self.sections;
        let file = search.split_file(path)?;
        let elf = Elf::parse(&file).ok()?;
        let mut bytes = loose_bytes.get();
        let sections = DwarfSections::load(|id| {
            let section = id.dwo_name().map(|name| elf.section(name));
            let section = section.transpose().map_err(drop)?.unwrap_or_default();
            bytes = bytes.saturating_add(section.len());
            if bytes > LOOSE_LIMIT {
                return Err(());
            }
            Ok(section.into_owned())
        });
        let sections = sections.ok()?;
        loose_bytes.set(bytes);
        let sections = loose.push(sections);
        let mut dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
        dwarf.file_type = DwarfFileType::Dwo;
        Some(dwarf)
    }
}

/// A unit of split debug information.
pub struct SplitUnit<'sections> {
    /// Its sections.
    pub dwarf: Arc<Dwarf<Slice<'sections>>>,
    /// The unit.
    pub unit: Unit<Slice<'sections>>,
}

static EMPTY: Cow<'static, [u8]> = Cow::Borrowed(&[]);

/// Whether a file's first unit has this id: another build leaves other files at the same path.
fn has_unit(dwarf: &Dwarf<Slice<'_>>, id: DwoId) -> bool {
    let first: Option<UnitHeader<Slice<'_>>> = dwarf.units().next().ok().flatten();
    let unit = first.and_then(|header| dwarf.unit(header).ok());
    unit.is_some_and(|unit| unit.dwo_id == Some(id))
}

/// Grows behind a shared reference, and what is in it stays where it is.
struct Chain<T>(OnceCell<Box<(T, Chain<T>)>>);

impl<T> Default for Chain<T> {
    fn default() -> Chain<T> {
        Chain(OnceCell::new())
    }
}

impl<T> Chain<T> {
    fn push(&self, value: T) -> &T {
        let mut end = self;
        while let Some(link) = end.0.get() {
            end = &link.1;
        }
        &end.0.get_or_init(|| Box::new((value, Chain::default()))).0
    }
}

impl<T> Drop for Chain<T> {
    /// Link by link: the derived one would recurse as deep as the chain is long.
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut link) = next {
            next = link.1.0.take();
        }
    }
}
