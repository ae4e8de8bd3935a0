//! One process: its modules and some addresses go in, a [`SymbolTable`] comes out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use super::{
    Frame, SymbolTable, Unresolved,
    file::SymbolFile,
    kernel::{self, KernelSymbols},
};

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
    /// A path that opens this very file whatever its name now stands for, such as `/proc/PID/exe`
    /// or `/proc/PID/map_files/…`; empty for what has no file.
    pub path_to_open: PathBuf,
    /// GNU build-id, hex.
    pub build_id: Option<String>,
}

/// Gives names to the code addresses of one process.
///
/// Not `Send`: it stays with the thread that made it. Debug information that was read stays in
/// memory until it is dropped.
pub struct ProcessSymbolizer {
    /// By start; disjoint in a process, and if they are not, the later one wins.
    modules: Vec<MappedModule>,
    /// For each module, which of `files` it is.
    file_of: Vec<Option<usize>>,
    files: Vec<SymbolFile>,
    kernel: KernelSymbols,
}

/// How many addresses go to blazesym at a time: bounds what exists in its form and ours at once.
const BATCH: usize = 1024;

impl ProcessSymbolizer {
    /// Opens the modules' files, each once. A file that can't be opened is no error: its addresses
    /// come out as [`Unresolved::BadFile`].
    pub fn new(modules: &[MappedModule]) -> ProcessSymbolizer {
        let mut modules = modules.to_vec();
        modules.sort_by_key(|m| m.start);

        let mut files: Vec<SymbolFile> = Vec::new();
        let mut by_identity = HashMap::new();
        let mut file_of = Vec::with_capacity(modules.len());
        for module in &modules {
            if module.path_to_open.as_os_str().is_empty() || module.name.starts_with('[') {
                file_of.push(None);
                continue;
            }
            let file = SymbolFile::open(&module.path_to_open);
            let index = match file.identity() {
                Some(identity) => *by_identity.entry(identity).or_insert(files.len()),
                None => files.len(),
            };
            if index == files.len() {
                files.push(file);
            }
            file_of.push(Some(index));
        }
        ProcessSymbolizer {
            modules,
            file_of,
            files,
            kernel: KernelSymbols::new(),
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
        for (index, addresses) in by_module {
            for batch in addresses.chunks(BATCH) {
                frames.extend(self.symbolize_batch(index, batch));
            }
        }
        SymbolTable { frames }
    }

    /// Index of the module that covers `addr`.
    fn module_of(&self, addr: u64) -> Option<usize> {
        let after = self.modules.partition_point(|m| m.start <= addr);
        let index = after.checked_sub(1)?;
        (addr < self.modules[index].end).then_some(index)
    }

    /// Frames of addresses that are all in one module.
    fn symbolize_batch(&mut self, index: usize, addresses: &[u64]) -> Vec<(u64, Vec<Frame>)> {
        let module = &self.modules[index];
        let offset = |addr: u64| (addr - module.start).wrapping_add(module.file_offset);
        let unnamed = |addr: u64, why: Unresolved| {
            let name = match module.name.as_str() {
                "" => "[anonymous]",
                name => name,
            };
            let function = format!("{name}+{:#x}", offset(addr));
            vec![nameless(function, module.name.clone(), why)]
        };

        let Some(file) = self.file_of[index] else {
            return addresses
                .iter()
                .map(|&addr| {
                    let named = (module.name == "[vdso]")
                        .then(|| self.kernel.vdso_frame(addr - module.start))
                        .flatten();
                    let frames =
                        named.map_or_else(|| unnamed(addr, Unresolved::NoFile), |f| vec![f]);
                    (addr, frames)
                })
                .collect();
        };
        let offsets: Vec<u64> = addresses.iter().map(|&addr| offset(addr)).collect();
        let found = self.files[file].frames(&offsets, &module.name);
        addresses
            .iter()
            .zip(found)
            .map(|(&addr, found)| (addr, found.unwrap_or_else(|why| unnamed(addr, why))))
            .collect()
    }
}

fn nameless(function: String, module: String, why: Unresolved) -> Frame {
    Frame {
        function,
        file: None,
        line: None,
        module,
        inlined: false,
        unresolved: Some(why),
    }
}
