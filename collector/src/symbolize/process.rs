//! One process: its modules and some addresses go in, a [`SymbolTable`] comes out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use super::{
    Frame, SymbolTable, Unresolved, file,
    kernel::{self, KernelSymbols},
};
use crate::apart;
use crate::target::{DebugSearch, Image, debuginfo::open_ours};

/// A range of the target's memory with executable code in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedModule {
    /// First address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Offset in the file of the byte at `start`.
    pub file_offset: u64,
    /// File name, or what the kernel says in its place (`[vdso]`); empty for anonymous memory.
    pub name: String,
    /// Its path in the target's mount namespace, which tells where a debug file can be.
    pub path: PathBuf,
    /// A path that opens this very file whatever its name now stands for, such as `/proc/PID/exe`
    /// or `/proc/PID/map_files/…`; empty for what has no file.
    pub path_to_open: PathBuf,
}

/// Gives names to the code addresses of one process.
///
/// The modules' files and their debug files stay mapped until it is dropped.
pub struct ProcessSymbolizer<'search> {
    /// By start; disjoint in a process, and if they are not, the later one wins.
    modules: Vec<MappedModule>,
    /// For each module, which of `files` it is.
    file_of: Vec<Option<usize>>,
    /// None for one that could not be opened.
    files: Vec<Option<Image>>,
    kernel: KernelSymbols,
    search: &'search DebugSearch,
}

impl<'search> ProcessSymbolizer<'search> {
    /// Opens the modules' files, each once, and their debug files. A file that can't be opened is no error: its
    /// addresses come out as [`Unresolved::BadFile`].
    pub fn new(modules: &[MappedModule], search: &'search DebugSearch) -> Self {
        let mut modules = modules.to_vec();
        modules.sort_by_key(|m| m.start);

        let mut files = Vec::new();
        let mut by_identity = HashMap::new();
        let mut file_of = Vec::with_capacity(modules.len());
        for module in &modules {
            if module.path_to_open.as_os_str().is_empty() || module.name.starts_with('[') {
                file_of.push(None);
                continue;
            }
            let opened = open_ours(&module.path_to_open)
                .and_then(|file| Ok(((file.metadata()?.dev(), file.metadata()?.ino()), file)));
            let index = match &opened {
                Ok((identity, _)) => *by_identity.entry(*identity).or_insert(files.len()),
                Err(error) => {
                    let path = module.path_to_open.display();
                    tracing::warn!(%path, %error, "can't open: no names from it");
                    files.len()
                }
            };
            if index == files.len() {
                let image = opened.ok().map(|(_, file)| {
                    Image::new(&file, &module.path, search).inspect_err(|error| {
                        let path = module.path_to_open.display();
                        tracing::warn!(%path, %error, "no names from it");
                    })
                });
                files.push(image.and_then(Result::ok));
            }
            file_of.push(Some(index));
        }
        ProcessSymbolizer {
            modules,
            file_of,
            files,
            kernel: KernelSymbols::new(),
            search,
        }
    }

    /// Frames for each of `addresses`, which are lookup addresses: see [`SymbolTable`]. Every
    /// address has at least one frame in the result, if only to say why it has no name.
    pub fn symbolize(&mut self, addresses: impl IntoIterator<Item = u64>) -> SymbolTable {
        let mut frames = BTreeMap::new();
        let mut by_module: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for addr in addresses.into_iter().collect::<BTreeSet<u64>>() {
            if kernel::is_kernel(addr) {
                frames.insert(addr, vec![self.kernel.frame(addr)]);
            } else if let Some(module) = self.module_of(addr) {
                by_module.entry(module).or_default().push(addr);
            } else {
                let function = format!("{addr:#x}");
                let frame = nameless(function, String::new(), Unresolved::NotMapped);
                frames.insert(addr, vec![frame]);
            }
        }
        // A file can be mapped several times, and is read once.
        let mut by_file: BTreeMap<usize, Vec<(usize, u64)>> = BTreeMap::new();
        for (module, addresses) in by_module {
            match self.file_of[module] {
                Some(file) => {
                    let in_module = addresses.into_iter().map(|addr| (module, addr));
                    by_file.entry(file).or_default().extend(in_module);
                }
                None => frames.extend(self.without_file(module, &addresses)),
            }
        }
        let mut refused = Vec::new();
        for (file, addresses) in by_file {
            frames.extend(self.symbolize_file(file, &addresses, &mut refused));
        }
        SymbolTable { frames, refused }
    }

    /// Index of the module that covers `addr`.
    fn module_of(&self, addr: u64) -> Option<usize> {
        let after = self.modules.partition_point(|m| m.start <= addr);
        let index = after.checked_sub(1)?;
        (addr < self.modules[index].end).then_some(index)
    }

    /// Frames of addresses in a module that has no file.
    fn without_file(&self, module: usize, addresses: &[u64]) -> Vec<(u64, Vec<Frame>)> {
        let module = &self.modules[module];
        let frames = |addr: u64| {
            let named = (module.name == "[vdso]")
                .then(|| self.kernel.vdso_frame(addr - module.start))
                .flatten();
            named.map_or_else(|| module.unnamed(addr, Unresolved::NoFile), |f| vec![f])
        };
        addresses.iter().map(|&addr| (addr, frames(addr))).collect()
    }

    /// Frames of addresses that are all in one file, each with its module.
    fn symbolize_file(
        &mut self,
        file: usize,
        addresses: &[(usize, u64)],
        refused: &mut Vec<String>,
    ) -> Vec<(u64, Vec<Frame>)> {
        let outcomes = match &mut self.files[file] {
            Some(image) => {
                image.complete(self.search);
                refused.append(&mut image.refused);
                let offsets: Vec<u64> = addresses
                    .iter()
                    .map(|&(module, addr)| self.modules[module].file_offset(addr))
                    .collect();
                let name = addresses.first().map(|&(module, _)| module);
                let name = name.map_or("", |module| self.modules[module].name.as_str());
                let (frames, problem) = looked_up(image, self.search, &offsets, name);
                refused.extend(problem);
                frames
            }
            None => vec![Err(Unresolved::BadFile); addresses.len()],
        };
        addresses
            .iter()
            .zip(outcomes)
            .map(|(&(module, addr), outcome)| {
                let frames = outcome.unwrap_or_else(|why| self.modules[module].unnamed(addr, why));
                (addr, frames)
            })
            .collect()
    }
}

/// Frames for each offset, and why there is debug information that was not used, if so.
///
/// In a process apart, because the files may be made to break their parser; if they do, once more without debug
/// information.
fn looked_up(
    image: &Image,
    search: &DebugSearch,
    offsets: &[u64],
    module: &str,
) -> (Vec<file::Outcome>, Option<String>) {
    let not_used = |why| format!("Debug information of {module} is not used: {why}");
    match apart::run(|| file::frames(image, search, offsets, module)) {
        Ok(file::Looked { frames, problem }) => (frames, problem.map(not_used)),
        Err(why) => {
            let symbols = apart::run(|| file::symbols(image, offsets, module));
            let nothing = |_| vec![Err(Unresolved::BadFile); offsets.len()];
            (symbols.unwrap_or_else(nothing), Some(not_used(why)))
        }
    }
}

impl MappedModule {
    /// Where in the file an address of this module is.
    fn file_offset(&self, addr: u64) -> u64 {
        (addr - self.start).wrapping_add(self.file_offset)
    }

    fn unnamed(&self, addr: u64, why: Unresolved) -> Vec<Frame> {
        let name = match self.name.as_str() {
            "" => "[anonymous]",
            name => name,
        };
        let function = format!("{name}+{:#x}", self.file_offset(addr));
        vec![nameless(function, self.name.clone(), why)]
    }
}

fn nameless(function: String, module: String, why: Unresolved) -> Frame {
    Frame {
        function,
        generics: None,
        file: None,
        line: None,
        module,
        inlined: false,
        unresolved: Some(why),
    }
}
