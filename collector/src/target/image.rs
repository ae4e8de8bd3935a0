//! A running file goes in; its bytes come out, and beside them those of the files that have its symbols and
//! debug information, when those are other ones.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::debuginfo::{DebugSearch, Found, FoundFile};
use super::elf::{Elf, ElfError};
use super::mmap::MappedFile;

/// Where a binary's symbols, or its debug information, were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the binary.
    Own,
    /// In its debug file.
    DebugFile(PathBuf),
    /// Nowhere. Without symbols only exported functions have names.
    Missing,
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whereabouts::Own => f.write_str("its own"),
            Whereabouts::DebugFile(path) => write!(f, "from {}", path.display()),
            Whereabouts::Missing => f.write_str("none"),
        }
    }
}

/// An opened binary or library.
#[derive(Debug)]
pub struct Image {
    /// Its path in the target's mount namespace.
    pub path: PathBuf,
    /// GNU build-id, hex.
    pub build_id: Option<String>,
    /// Files that looked like its debug file and were not used: one sentence each.
    pub refused: Vec<String>,
    code: MappedFile,
    debug: Option<FoundFile>,
    /// The package of split debug information.
    package: Option<FoundFile>,
}

impl Image {
    /// Maps an opened file whose path in the target is `path`, and if it lacks symbols or debug information,
    /// the debug file that has them, if there is one on this machine.
    pub fn new(file: &File, path: &Path, search: &DebugSearch) -> Result<Image, ElfError> {
        let code = MappedFile::new(file).map_err(ElfError::Open)?;
        let elf = Elf::parse(&code)?;
        let found = if elf.has_dwarf() && !elf.is_stripped() {
            Found::default()
        } else {
            search.debug_file(&elf, path)
        };
        let mut image = Image {
            path: path.to_owned(),
            build_id: elf.build_id().map(str::to_owned),
            refused: found.refused,
            code,
            debug: found.file,
            package: None,
        };
        image.find_package(search);
        Ok(image)
    }

    /// Asks the servers that the person named for what is not on this machine.
    pub fn complete(&mut self, search: &DebugSearch) {
        let Some(build_id) = self.build_id.as_deref() else {
            return;
        };
        if self.debug.is_some() || self.debug_info() != Whereabouts::Missing {
            return;
        }
        let found = search.download(build_id);
        self.refused.extend(found.refused);
        self.debug = found.file;
        self.find_package(search);
    }

    fn find_package(&mut self, search: &DebugSearch) {
        if self.debug_info() != Whereabouts::Missing {
            let debug_file = self.debug.as_ref().map(|debug| debug.path.as_path());
            self.package = search.package(&self.path, debug_file);
        }
    }

    /// The running file.
    pub fn code(&self) -> Result<Elf<'_>, ElfError> {
        Elf::parse(&self.code)
    }

    /// Where the symbols are.
    pub fn symbols(&self) -> Whereabouts {
        self.whereabouts(|elf| !elf.is_stripped())
    }

    /// Where the debug information is.
    pub fn debug_info(&self) -> Whereabouts {
        self.whereabouts(|elf| elf.has_dwarf())
    }

    /// Which file has something: the binary if it does, else its debug file.
    fn whereabouts(&self, has: impl Fn(&Elf<'_>) -> bool) -> Whereabouts {
        let has = |bytes: &[u8]| Elf::parse(bytes).is_ok_and(|elf| has(&elf));
        match &self.debug {
            _ if has(&self.code) => Whereabouts::Own,
            Some(debug) if has(&debug.bytes) => Whereabouts::DebugFile(debug.path.clone()),
            _ => Whereabouts::Missing,
        }
    }

    /// The file that has the symbols.
    pub fn named(&self) -> Result<Elf<'_>, ElfError> {
        match (self.symbols(), &self.debug) {
            (Whereabouts::DebugFile(_), Some(debug)) => Elf::parse(&debug.bytes),
            _ => self.code(),
        }
    }

    /// The file that has the debug information, if there is one.
    pub fn described(&self) -> Result<Option<Elf<'_>>, ElfError> {
        match (self.debug_info(), &self.debug) {
            (Whereabouts::Own, _) => self.code().map(Some),
            (Whereabouts::DebugFile(_), Some(debug)) => Elf::parse(&debug.bytes).map(Some),
            _ => Ok(None),
        }
    }

    /// The package of split debug information, if there is one.
    pub fn package(&self) -> Option<Elf<'_>> {
        Elf::parse(&self.package.as_ref()?.bytes).ok()
    }
}
