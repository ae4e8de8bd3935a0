//! One ELF file: offsets in it go in, frames come out. The only place that reads files with
//! blazesym, and so the one that keeps its surprises in.

use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use blazesym::symbolize::{
    CodeInfo, Input, Reason, Sym, Symbolized, Symbolizer,
    source::{Elf, Source},
};

use super::{Frame, Unresolved};

/// An opened binary or library.
pub(super) struct SymbolFile {
    /// None if it could not be opened.
    file: Option<File>,
    /// Keeps what it read.
    symbolizer: Symbolizer,
    /// Until DWARF turns out unusable as a whole.
    use_dwarf: bool,
}

/// Inlined frames of one address beyond this many innermost ones are left out: real code stays
/// under about 40, and the file may be made up to have no end of them.
const MAX_INLINED: usize = 128;

/// Names beyond this many bytes are cut: real ones, generics and all, stay under about 3,000.
const MAX_NAME: usize = 8 * 1024;

impl SymbolFile {
    /// Opens `path`, which must be a regular file: a target could map nothing else, but a path that
    /// changed its meaning may lead anywhere.
    pub(super) fn open(path: &Path) -> SymbolFile {
        let opened = File::options()
            .read(true)
            // Opening a FIFO would wait for a writer.
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let file = match opened.and_then(|file| Ok((file.metadata()?.is_file(), file))) {
            Ok((true, file)) => Some(file),
            Ok((false, _)) => {
                tracing::warn!(path = %path.display(), "not a regular file: no names from it");
                None
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "can't open: no names from it");
                None
            }
        };
        SymbolFile {
            file,
            symbolizer: symbolizer(),
            use_dwarf: true,
        }
    }

    /// Device and inode.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        let metadata = self.file.as_ref()?.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    /// Frames for each of `offsets`, innermost first, in their order.
    pub(super) fn frames(
        &mut self,
        offsets: &[u64],
        module: &str,
    ) -> Vec<Result<Vec<Frame>, Unresolved>> {
        let mut frames = vec![Err(Unresolved::BadFile); offsets.len()];
        let Some(file) = &self.file else {
            return frames;
        };
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        // Debug info that is broken, or a debug file that does not belong to the binary, leaves
        // the binary's own symbol table.
        for dwarf in [true, false] {
            if dwarf && !self.use_dwarf {
                continue;
            }
            let (places, offsets): (Vec<usize>, Vec<u64>) = (0..)
                .zip(offsets)
                .filter(|(place, _)| frames[*place] == Err(Unresolved::BadFile))
                .unzip();
            if offsets.is_empty() {
                break;
            }
            match look_up(&self.symbolizer, &path, dwarf, &offsets, module) {
                Ok(found) => {
                    for (place, found) in places.into_iter().zip(found) {
                        frames[place] = found;
                    }
                }
                Err(error) => {
                    tracing::warn!(module, dwarf, %error, "can't read symbols");
                    self.use_dwarf = false;
                    self.symbolizer = symbolizer();
                }
            }
        }
        frames
    }
}

fn symbolizer() -> Symbolizer {
    Symbolizer::builder()
        .enable_code_info(true)
        .enable_inlined_fns(true)
        .enable_demangling(true)
        .build()
}

/// One batch. An error concerns the whole file.
fn look_up(
    symbolizer: &Symbolizer,
    path: &Path,
    dwarf: bool,
    offsets: &[u64],
    module: &str,
) -> Result<Vec<Result<Vec<Frame>, Unresolved>>, String> {
    let mut elf = Elf::new(path);
    elf.debug_syms = dwarf;
    let source = Source::Elf(elf);
    // The file is the target's, and blazesym takes some of DWARF's promises for granted (a line row
    // whose file index is out of range makes it panic). The symbolizer is dropped after a panic, so
    // nobody sees it half-changed.
    let result = catch_unwind(AssertUnwindSafe(|| {
        let found = symbolizer
            .symbolize(&source, Input::FileOffset(offsets))
            .map_err(|error| format!("{error:#}"))?;
        Ok(found.iter().map(|sym| frames(sym, module)).collect())
    }));
    result.unwrap_or_else(|_| Err("the parser gave up on it (panic)".into()))
}

fn frames(found: &Symbolized<'_>, module: &str) -> Result<Vec<Frame>, Unresolved> {
    let sym = match found {
        Symbolized::Sym(sym) => sym,
        Symbolized::Unknown(Reason::IgnoredError) => return Err(Unresolved::BadFile),
        Symbolized::Unknown(_) => return Err(Unresolved::NoSymbol),
    };
    let Sym {
        name,
        code_info,
        inlined,
        ..
    } = sym;
    if name.is_empty() {
        return Err(Unresolved::NoSymbol);
    }
    let left_out = inlined.len().saturating_sub(MAX_INLINED);
    let frame = |name: &str, code_info: Option<&CodeInfo<'_>>, inlined: bool| Frame {
        function: function_name(name),
        file: code_info.map(|info| cut(info.to_path().to_string_lossy().into_owned())),
        line: code_info.and_then(|info| info.line),
        module: module.to_owned(),
        inlined,
        unresolved: None,
    };
    // blazesym has them outermost first.
    Ok(inlined
        .iter()
        .skip(left_out)
        .rev()
        .map(|f| frame(&f.name, f.code_info.as_ref(), true))
        .chain([frame(name, code_info.as_deref(), false)])
        .collect())
}

/// Demangled and without hash, also where blazesym left the name as it is because the debug info
/// has another language than the name, as with `extern "C"` glue and assembly in Rust units.
fn function_name(name: &str) -> String {
    let name = match rustc_demangle::try_demangle(name) {
        Ok(demangled) => format!("{demangled:#}"),
        Err(_) => name.to_owned(),
    };
    cut(name)
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
