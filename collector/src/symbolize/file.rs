//! One ELF file: offsets in it go in, frames come out, from the file itself and from whatever `target` found
//! its debug information in.
//!
//! Nothing that is read here outlives one call: inflated sections and parsed line tables of a big binary
//! take a hundred megabytes.

use std::borrow::Cow;
use std::sync::Arc;

use addr2line::{Context, LookupResult};
use gimli::{
    AbbreviationsCacheStrategy, Dwarf, DwarfSections, EndianSlice, LittleEndian, SectionId,
};

use serde::{Deserialize, Serialize};

use super::generics::Generics;
use super::symbols::FunctionSymbols;
use super::{Frame, Unresolved};
use crate::target::split::{Slice, Split, SplitSections};
use crate::target::{DebugSearch, Elf, Image};

/// Inlined frames of one address beyond this many innermost ones are left out: real code stays
/// under about 40, and the file may be made up to have no end of them.
const MAX_INLINED: usize = 128;

/// Names beyond this many bytes are cut: real ones, generics and all, stay under about 3,000.
const MAX_NAME: usize = 8 * 1024;

/// Bytes that the compressed sections of one file may inflate to in all; parsed they take several times as
/// much. A Citadel server's have 70 MB.
const INFLATED_LIMIT: usize = 256 << 20;

/// What one address came to.
pub(super) type Outcome = Result<Vec<Frame>, Unresolved>;

/// What one file came to.
#[derive(Serialize, Deserialize)]
pub(super) struct Looked {
    /// Frames for each offset, innermost first, in their order.
    pub(super) frames: Vec<Outcome>,
    /// Why there is debug information and it was not used: half a sentence.
    pub(super) problem: Option<String>,
}

/// Looks `offsets` in the running file up.
pub(super) fn frames(image: &Image, search: &DebugSearch, offsets: &[u64], module: &str) -> Looked {
    let mut frames = symbols(image, offsets, module);
    let Ok(code) = image.code() else {
        return Looked {
            frames,
            problem: None,
        };
    };
    let vaddrs: Vec<Option<u64>> = offsets.iter().map(|&at| code.vaddr(at)).collect();
    let problem = described(image, search, &vaddrs, module, &mut frames).err();
    Looked { frames, problem }
}

/// The same by the symbol table alone.
pub(super) fn symbols(image: &Image, offsets: &[u64], module: &str) -> Vec<Outcome> {
    let Ok((code, named)) = image.code().and_then(|code| Ok((code, image.named()?))) else {
        return vec![Err(Unresolved::BadFile); offsets.len()];
    };
    let symbols = FunctionSymbols::of(&named);
    let name = |offset: &u64| symbols.name(code.vaddr(*offset)?);
    let outcome = |offset: &u64| {
        let name = name(offset).ok_or(Unresolved::NoSymbol)?;
        Ok(vec![frame(module, function_name(name))])
    };
    offsets.iter().map(outcome).collect()
}

/// Puts what debug information says in place of the symbols' names.
fn described(
    image: &Image,
    search: &DebugSearch,
    vaddrs: &[Option<u64>],
    module: &str,
    frames: &mut [Outcome],
) -> Result<(), String> {
    let described = image.described().map_err(|error| error.to_string())?;
    let Some(elf) = described else {
        return Ok(());
    };
    let sections = sections(&elf)?;
    let split = SplitSections::of(image, search);
    let split = Split::new(&split);
    let mut dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
    dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
    let description =
        Description::new(Arc::new(dwarf), split).map_err(|error| error.to_string())?;
    for (vaddr, frames) in vaddrs.iter().zip(frames) {
        // An address that it says nothing about, or nothing sensible, keeps its symbol.
        if let Some(vaddr) = vaddr
            && let Ok(found) = description.frames(*vaddr, module)
        {
            merge(frames, found);
        }
    }
    Ok(())
}

fn sections<'data>(elf: &Elf<'data>) -> Result<DwarfSections<Cow<'data, [u8]>>, String> {
    let mut inflated = 0;
    DwarfSections::load(|id| match id {
        // Where variables are is nobody's business here, and these are large.
        SectionId::DebugLoc | SectionId::DebugLocLists | SectionId::DebugTypes => {
            Ok(Cow::Borrowed(&[][..]))
        }
        id => {
            let section = elf.section(id.name()).map_err(|error| error.to_string())?;
            if let Cow::Owned(bytes) = &section {
                inflated += bytes.len();
            }
            if inflated > INFLATED_LIMIT {
                return Err(format!(
                    "its compressed sections have more than {INFLATED_LIMIT} bytes"
                ));
            }
            Ok(section)
        }
    })
}

/// Frames of debug information, with the symbol's name for a function that it does not name.
fn merge(frames: &mut Outcome, mut found: Vec<Frame>) {
    let Some(outermost) = found.last_mut() else {
        return;
    };
    if outermost.function.is_empty() {
        let Ok([symbol, ..]) = frames.as_deref() else {
            return;
        };
        outermost.function.clone_from(&symbol.function);
    }
    *frames = Ok(found);
}

/// The debug information of one file, made ready to be asked.
struct Description<'data> {
    context: Context<Slice<'data>>,
    split: Split<'data>,
    generics: Generics<'data>,
}

impl<'data> Description<'data> {
    fn new(dwarf: Arc<Dwarf<Slice<'data>>>, split: Split<'data>) -> gimli::Result<Self> {
        Ok(Description {
            context: Context::from_arc_dwarf(Arc::clone(&dwarf))?,
            split,
            generics: Generics::new(dwarf),
        })
    }

    /// Frames at an address, innermost first. The last one has no name where there is only a line.
    fn frames(&self, vaddr: u64, module: &str) -> gimli::Result<Vec<Frame>> {
        let mut found = self.look_up(self.context.find_frames(vaddr))?;
        let unit = self.look_up(self.context.find_dwarf_and_unit(vaddr));
        let mut frames = Vec::new();
        let mut outermost = None;
        while let Some(frame) = found.next()? {
            if let Some(inner) = outermost.replace(frame)
                && frames.len() < MAX_INLINED
            {
                let frame = self.frame(&inner, unit, module);
                frames.push(Frame {
                    inlined: true,
                    ..frame
                });
            }
        }
        frames.extend(outermost.map(|outermost| self.frame(&outermost, unit, module)));
        Ok(frames)
    }

    /// Finishes a look-up, with the split debug information that it asks for.
    fn look_up<L>(&self, mut result: LookupResult<L>) -> L::Output
    where
        L: addr2line::LookupContinuation<Buf = Slice<'data>>,
    {
        loop {
            match result {
                LookupResult::Output(output) => return output,
                LookupResult::Load { load, continuation } => {
                    let loaded =
                        self.split
                            .load(load.dwo_id, load.comp_dir, load.path, &load.parent);
                    result = continuation.resume(loaded);
                }
            }
        }
    }

    fn frame(
        &self,
        found: &addr2line::Frame<'_, Slice<'data>>,
        unit: Option<gimli::UnitRef<'_, Slice<'data>>>,
        module: &str,
    ) -> Frame {
        let name = found
            .function
            .as_ref()
            .and_then(|name| name.raw_name().ok());
        let location = found.location.as_ref();
        let generics = unit
            .zip(found.dw_die_offset)
            .and_then(|(unit, entry)| self.generics.of(unit, entry));
        Frame {
            generics: generics.map(|generics| cut(generics.to_owned())),
            file: location.and_then(|place| Some(cut(place.file?.to_owned()))),
            line: location.and_then(|place| place.line),
            ..frame(
                module,
                name.map_or_else(String::new, |name| function_name(&name)),
            )
        }
    }
}

fn frame(module: &str, function: String) -> Frame {
    Frame {
        function,
        generics: None,
        file: None,
        line: None,
        module: module.to_owned(),
        inlined: false,
        unresolved: None,
    }
}

/// Demangled and without hash.
fn function_name(name: &str) -> String {
    cut(crate::target::elf::demangle(name).into_owned())
}

fn cut(mut s: String) -> String {
    if s.len() > MAX_NAME {
        let end = (0..=MAX_NAME)
            .rev()
            .find(|&i| s.is_char_boundary(i))
            .unwrap_or(0);
        s.truncate(end);
        s.push('…');
    }
    s
}
