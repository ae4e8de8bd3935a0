//! A module goes in; its mapped bytes come out, and beside them those of the file that has its symbols
//! and debug information, when that is another one.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::elf::{Elf, ElfError};
use super::maps::Module;
use super::mmap::MappedFile;
use super::process::Process;

/// Where a binary's symbols were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symbols {
    /// In its own `.symtab`.
    Own,
    /// In a debug file of the same build-id.
    DebugFile(PathBuf),
    /// Nowhere: only exported functions have names.
    Missing,
}

impl fmt::Display for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Symbols::Own => f.write_str("its own"),
            Symbols::DebugFile(path) => write!(f, "from {}", path.display()),
            Symbols::Missing => f.write_str("none"),
        }
    }
}

/// A mapped binary.
#[derive(Debug)]
pub struct Binary {
    /// The module.
    pub module: Module,
    /// GNU build-id, hex.
    pub build_id: Option<String>,
    /// Where its symbols are.
    pub symbols: Symbols,
    /// Debug information is there.
    pub has_dwarf: bool,
    code: MappedFile,
    debug: Option<MappedFile>,
}

impl Binary {
    /// Maps a module, and its debug file if it is stripped and one is found.
    pub fn open(process: &Process, module: &Module) -> Result<Binary, ElfError> {
        let code = module
            .open()
            .and_then(|file| MappedFile::new(&file))
            .map_err(ElfError::Open)?;
        let elf = Elf::parse(&code)?;
        let build_id = elf.build_id().map(str::to_owned);
        let mut symbols = if elf.is_stripped() {
            Symbols::Missing
        } else {
            Symbols::Own
        };
        let mut has_dwarf = elf.has_dwarf();
        let mut debug = None;
        if (!has_dwarf || symbols == Symbols::Missing)
            && let Some((path, file)) = debug_file(process, module, &elf)
            && let Ok(found) = Elf::parse(&file)
        {
            has_dwarf |= found.has_dwarf();
            if symbols == Symbols::Missing && !found.is_stripped() {
                symbols = Symbols::DebugFile(path);
            }
            debug = Some(file);
        }
        Ok(Binary {
            module: module.clone(),
            build_id,
            symbols,
            has_dwarf,
            code,
            debug,
        })
    }

    /// The running file.
    pub fn code(&self) -> Result<Elf<'_>, ElfError> {
        Elf::parse(&self.code)
    }

    /// The file that has the symbols.
    pub fn named(&self) -> Result<Elf<'_>, ElfError> {
        match (&self.symbols, &self.debug) {
            (Symbols::DebugFile(_), Some(debug)) => Elf::parse(debug),
            _ => self.code(),
        }
    }

    /// The file that has the debug information, if there is one.
    pub fn described(&self) -> Result<Option<Elf<'_>>, ElfError> {
        let own = self.code()?;
        if own.has_dwarf() {
            return Ok(Some(own));
        }
        match &self.debug {
            Some(debug) => Elf::parse(debug).map(|elf| elf.has_dwarf().then_some(elf)),
            None => Ok(None),
        }
    }

    /// Where its debug file would be found, for people.
    pub fn debug_file_place(&self) -> Option<PathBuf> {
        self.code().ok()?.debug_file_candidates().into_iter().next()
    }
}

/// The debug file of a binary: by build-id, then by its `.gnu_debuglink`; in the target's own root first,
/// then in ours. It counts only when its build-id is the binary's.
fn debug_file(process: &Process, module: &Module, elf: &Elf<'_>) -> Option<(PathBuf, MappedFile)> {
    let build_id = elf.build_id()?;
    let mut places = elf.debug_file_candidates();
    if let (Some(name), Some(dir)) = (elf.debug_link(), module.path.parent()) {
        let beneath = dir.strip_prefix("/").unwrap_or(dir);
        places.push(dir.join(&name));
        places.push(dir.join(".debug").join(&name));
        places.push(Path::new("/usr/lib/debug").join(beneath).join(&name));
    }
    let root = process.proc_path("root");
    let in_their_root =
        |place: &PathBuf| place.strip_prefix("/").map(|place| root.join(place)).ok();
    places
        .iter()
        .filter_map(in_their_root)
        .chain(places.iter().cloned())
        .find_map(|path| {
            let file = MappedFile::new(&File::open(&path).ok()?).ok()?;
            let same = Elf::parse(&file).is_ok_and(|debug| debug.build_id() == Some(build_id));
            same.then_some((path, file))
        })
}
