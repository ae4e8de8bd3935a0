//! Which tables the kernel holds. Processes that map one file share its table; when the last of them goes, the
//! kernel gets the memory back. What all tables together may take is bounded.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use holdup_probe_ebpf::wire::unwind::{CHUNK_ROWS, MAX_CHUNKS, Range, Row, Rule};

use super::layout::{self, Chunked, Code, Mapped};
use super::rule::RuleSet;
use super::table::{Table, TableError};
use crate::capture::{MissingProbe, ProbeFamily, UnwindTables};
use crate::event::{Nanos, Pid};
use crate::target::elf::Segment;
use crate::target::{Elf, FileId, MappedFile, Mapping, Modules, Process};

/// The kernel's side of it: the maps.
pub trait Kernel {
    /// Why a map could not be written to.
    type Error;
    /// Writes rules, the first of them with this number.
    fn set_rules(&mut self, first: u32, rules: &[Rule]) -> Result<(), Self::Error>;
    /// Writes chunks of at most `CHUNK_ROWS` rows each.
    fn set_chunks(&mut self, chunks: &[(u32, &[Row])]) -> Result<(), Self::Error>;
    /// Gives a chunk's memory back.
    fn clear_chunk(&mut self, chunk: u32) -> Result<(), Self::Error>;
    /// Replaces the ranges of a process, all at once.
    fn set_ranges(&mut self, pid: Pid, ranges: &[Range]) -> Result<(), Self::Error>;
    /// Forgets a process.
    fn clear_ranges(&mut self, pid: Pid) -> Result<(), Self::Error>;
}

/// No kernel: for looking at what tables there would be.
#[derive(Debug)]
pub struct NoKernel;

impl Kernel for NoKernel {
    type Error = Infallible;

    fn set_rules(&mut self, _: u32, _: &[Rule]) -> Result<(), Infallible> {
        Ok(())
    }

    fn set_chunks(&mut self, _: &[(u32, &[Row])]) -> Result<(), Infallible> {
        Ok(())
    }

    fn clear_chunk(&mut self, _: u32) -> Result<(), Infallible> {
        Ok(())
    }

    fn set_ranges(&mut self, _: Pid, _: &[Range]) -> Result<(), Infallible> {
        Ok(())
    }

    fn clear_ranges(&mut self, _: Pid) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What a table is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Source {
    File(FileId),
    /// The kernel's own code in every process.
    Vdso,
}

/// The table of one file, or why it has none.
#[derive(Clone, Debug)]
pub struct FileTable {
    /// The file's name, for people.
    pub name: String,
    /// How many rows, or why there are none.
    pub rows: Result<u64, TableError>,
    /// Bytes of call frame information that they were made from.
    pub source_bytes: u64,
    /// How long that took.
    pub took: Duration,
    /// Functions that are left out, and rows that can't be expressed.
    pub left_out: u64,
    chunked: Option<Chunked>,
    /// Where its parts are loaded to.
    segments: Vec<Segment>,
    users: usize,
}

/// The tables that the kernel holds.
#[derive(Debug)]
pub struct Tables {
    rules: RuleSet,
    /// How many of them the kernel has.
    rules_written: u32,
    files: HashMap<Source, FileTable>,
    processes: BTreeMap<Pid, ProcessMaps>,
    free_chunks: Vec<u32>,
    next_chunk: u32,
    budget: u32,
}

/// What a process had mapped when it was looked at last.
#[derive(Debug, PartialEq, Eq)]
struct ProcessMaps {
    mappings: Vec<(u64, u64, u64, Option<Source>)>,
}

impl Default for Tables {
    fn default() -> Self {
        Tables::new(MAX_CHUNKS)
    }
}

impl Tables {
    /// With room for so many chunks.
    pub fn new(budget: u32) -> Tables {
        Tables {
            rules: RuleSet::default(),
            rules_written: 0,
            files: HashMap::new(),
            processes: BTreeMap::new(),
            free_chunks: Vec::new(),
            next_chunk: 0,
            budget: budget.min(MAX_CHUNKS),
        }
    }

    /// Looks at what a process has mapped, and tells the kernel if that is news. Returns whether it was.
    pub fn update<K: Kernel>(
        &mut self,
        kernel: &mut K,
        process: &Process,
        modules: &Modules,
    ) -> Result<bool, K::Error> {
        let mut mappings: Vec<(&Mapping, Option<Source>)> = modules
            .iter()
            .flat_map(|module| {
                module
                    .code
                    .iter()
                    .map(|mapping| (mapping, Some(Source::File(module.file))))
            })
            .chain(modules.without_file().iter().map(|mapping| {
                let is_vdso = mapping.path.as_os_str() == "[vdso]";
                (mapping, is_vdso.then_some(Source::Vdso))
            }))
            .collect();
        mappings.sort_by_key(|(mapping, _)| mapping.start);
        let seen = ProcessMaps {
            mappings: mappings
                .iter()
                .map(|(mapping, source)| (mapping.start, mapping.end, mapping.file_offset, *source))
                .collect(),
        };
        let pid = process.pid();
        if self.processes.get(&pid) == Some(&seen) {
            return Ok(false);
        }
        // What is new first, so that what both have is not thrown away meanwhile.
        let wanted = seen.sources();
        for source in &wanted {
            if !self.files.contains_key(source) {
                let file = self.build(kernel, process, modules, *source)?;
                self.files.insert(*source, file);
            }
            if let Some(file) = self.files.get_mut(source) {
                file.users += 1;
            }
        }
        let mapped: Vec<Mapped<'_>> = mappings
            .iter()
            .map(|(mapping, source)| {
                let file = source.and_then(|source| self.files.get(&source));
                let code = match file.and_then(|file| file.at(mapping)) {
                    Some((table, bias)) => Code::Table(table, bias),
                    None if mapping.path.as_os_str() == "[uprobes]" => Code::Uprobes,
                    None => Code::NoTable,
                };
                Mapped {
                    start: mapping.start,
                    end: mapping.end,
                    code,
                }
            })
            .collect();
        kernel.set_ranges(pid, &layout::ranges(&mapped))?;
        if let Some(before) = self.processes.insert(pid, seen) {
            self.release(kernel, &before)?;
        }
        Ok(true)
    }

    /// Forgets a process, and the tables that nobody else uses.
    pub fn remove<K: Kernel>(&mut self, kernel: &mut K, pid: Pid) -> Result<(), K::Error> {
        let Some(before) = self.processes.remove(&pid) else {
            return Ok(());
        };
        kernel.clear_ranges(pid)?;
        self.release(kernel, &before)
    }

    fn release<K: Kernel>(&mut self, kernel: &mut K, before: &ProcessMaps) -> Result<(), K::Error> {
        for source in before.sources() {
            let Some(file) = self.files.get_mut(&source) else {
                continue;
            };
            file.users -= 1;
            if file.users > 0 {
                continue;
            }
            let chunked = self.files.remove(&source).and_then(|file| file.chunked);
            for (chunk, ..) in chunked.into_iter().flat_map(|chunked| chunked.chunks) {
                kernel.clear_chunk(chunk)?;
                self.free_chunks.push(chunk);
            }
        }
        Ok(())
    }

    /// Makes the table of a file and gives it to the kernel.
    fn build<K: Kernel>(
        &mut self,
        kernel: &mut K,
        process: &Process,
        modules: &Modules,
        source: Source,
    ) -> Result<FileTable, K::Error> {
        let began = Instant::now();
        let (name, made) = match source {
            Source::Vdso => (
                "[vdso]".to_owned(),
                vdso(process, modules)
                    .ok_or_else(|| TableError::Unreadable("it can't be read".to_owned()))
                    .and_then(|image| self.table(&image)),
            ),
            Source::File(id) => match modules.iter().find(|module| module.file == id) {
                Some(module) => (
                    module.name(),
                    module
                        .open()
                        .and_then(|file| MappedFile::new(&file))
                        .map_err(|error| TableError::Unreadable(error.to_string()))
                        .and_then(|image| self.table(&image)),
                ),
                None => (
                    String::new(),
                    Err(TableError::Unreadable("it is not mapped".to_owned())),
                ),
            },
        };
        let mut file = FileTable {
            name,
            rows: Ok(0),
            source_bytes: 0,
            took: Duration::ZERO,
            left_out: 0,
            chunked: None,
            segments: Vec::new(),
            users: 0,
        };
        match made {
            Ok((table, segments)) => {
                file.left_out = table.left_out + table.unsupported;
                file.source_bytes = table.source_bytes;
                file.segments = segments;
                match self.chunk(kernel, &table)? {
                    Some(chunked) => {
                        file.rows = Ok(table.rows.len() as u64);
                        file.chunked = Some(chunked);
                    }
                    None => {
                        file.rows = Err(TableError::NoRoom {
                            budget_bytes: self.budget as usize * CHUNK_ROWS * size_of::<Row>(),
                        });
                    }
                }
            }
            Err(why) => file.rows = Err(why),
        }
        file.took = began.elapsed();
        tracing::debug!(
            name = %file.name, rows = ?file.rows, left_out = file.left_out, bytes = file.source_bytes, took = ?file.took, "unwind table"
        );
        Ok(file)
    }

    fn table(&mut self, image: &[u8]) -> Result<(Table, Vec<Segment>), TableError> {
        let elf = Elf::parse(image).map_err(|error| TableError::Unreadable(error.to_string()))?;
        let table = Table::of(&elf, &mut self.rules)?;
        Ok((table, elf.segments().to_vec()))
    }

    /// None when there is no room.
    fn chunk<K: Kernel>(
        &mut self,
        kernel: &mut K,
        table: &Table,
    ) -> Result<Option<Chunked>, K::Error> {
        let wanted = table.rows.len().div_ceil(CHUNK_ROWS);
        let unused = (self.budget - self.next_chunk) as usize;
        if wanted > self.free_chunks.len() + unused {
            return Ok(None);
        }
        // Rules before the rows that name them.
        let new = &self.rules.rules()[self.rules_written as usize..];
        kernel.set_rules(self.rules_written, new)?;
        self.rules_written += new.len() as u32;
        let mut chunks = Vec::with_capacity(wanted);
        let mut contents = Vec::with_capacity(wanted);
        for rows in table.rows.chunks(CHUNK_ROWS) {
            let chunk = self.free_chunks.pop().unwrap_or_else(|| {
                self.next_chunk += 1;
                self.next_chunk - 1
            });
            contents.push((chunk, rows));
            chunks.push((chunk, rows[0].place, rows.len() as u32));
        }
        kernel.set_chunks(&contents)?;
        Ok(Some(Chunked {
            base: table.base,
            chunks,
        }))
    }

    /// The files, by name.
    pub fn files(&self) -> Vec<&FileTable> {
        let mut files: Vec<&FileTable> = self.files.values().collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    /// The files with a table, as a family of probes: through a file without one no stack leads.
    pub fn family(&self) -> ProbeFamily {
        let files = self.files();
        let missing = files.iter().filter_map(|file| {
            Some(MissingProbe {
                what: file.name.clone(),
                why: file.rows.as_ref().err()?.to_string(),
            })
        });
        ProbeFamily {
            name: "unwind_tables".to_owned(),
            attached: self.summary().files,
            found: files.len() as u32,
            missing: missing.collect(),
        }
    }

    /// All of them together.
    pub fn summary(&self) -> UnwindTables {
        let mut summary = UnwindTables {
            rules: self.rules.rules().len() as u32,
            bytes: u64::from(self.next_chunk - self.free_chunks.len() as u32)
                * (CHUNK_ROWS * size_of::<Row>()) as u64,
            ..UnwindTables::default()
        };
        for file in self.files.values() {
            let rows = file.rows.as_ref();
            summary.files += u32::from(rows.is_ok());
            summary.rows += rows.unwrap_or(&0);
            summary.source_bytes += file.source_bytes;
            summary.left_out += file.left_out;
            summary.took += Nanos(file.took.as_nanos() as u64);
        }
        summary
    }
}

impl ProcessMaps {
    fn sources(&self) -> Vec<Source> {
        let mut sources: Vec<Source> = self.mappings.iter().filter_map(|it| it.3).collect();
        sources.sort();
        sources.dedup();
        sources
    }
}

impl FileTable {
    /// The table and the difference between runtime and virtual addresses, modulo 2^64, in a mapping.
    fn at(&self, mapping: &Mapping) -> Option<(&Chunked, u64)> {
        // A mapping begins with the page that the segment begins in, which may be the end of the one before it.
        let behind = mapping
            .file_offset
            .checked_add(mapping.end - mapping.start)?;
        let segment = self.segments.iter().find(|segment| {
            segment.executable
                && segment.file_offset < behind
                && segment.file_offset.saturating_add(segment.file_size) > mapping.file_offset
        })?;
        let start = mapping.start.wrapping_sub(mapping.file_offset);
        let bias = start.wrapping_sub(segment.vaddr.wrapping_sub(segment.file_offset));
        Some((self.chunked.as_ref()?, bias))
    }
}

/// The image of the vDSO, out of the process's memory: it has no file.
fn vdso(process: &Process, modules: &Modules) -> Option<Vec<u8>> {
    /// It has two pages; a process may have mapped something else and called it so.
    const MOST_BYTES: u64 = 1 << 20;
    let mapping = modules
        .without_file()
        .iter()
        .find(|mapping| mapping.path.as_os_str() == "[vdso]")?;
    let length = (mapping.end - mapping.start).min(MOST_BYTES);
    process.memory(mapping.start, length as usize).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// What the kernel would hold.
    #[derive(Default)]
    struct Held {
        rules: usize,
        chunks: BTreeSet<u32>,
        processes: BTreeMap<u32, Vec<Range>>,
    }

    impl Kernel for Held {
        type Error = Infallible;

        fn set_rules(&mut self, first: u32, rules: &[Rule]) -> Result<(), Infallible> {
            assert_eq!(first as usize, self.rules, "each rule once");
            self.rules += rules.len();
            Ok(())
        }

        fn set_chunks(&mut self, chunks: &[(u32, &[Row])]) -> Result<(), Infallible> {
            for (chunk, rows) in chunks {
                assert!(self.chunks.insert(*chunk), "chunk {chunk} is in use");
                assert!(rows.iter().all(|row| (row.rule as usize) < self.rules));
            }
            Ok(())
        }

        fn clear_chunk(&mut self, chunk: u32) -> Result<(), Infallible> {
            assert!(self.chunks.remove(&chunk), "chunk {chunk} is not in use");
            Ok(())
        }

        fn set_ranges(&mut self, pid: Pid, ranges: &[Range]) -> Result<(), Infallible> {
            self.processes.insert(pid.0, ranges.to_vec());
            Ok(())
        }

        fn clear_ranges(&mut self, pid: Pid) -> Result<(), Infallible> {
            assert!(self.processes.remove(&pid.0).is_some());
            Ok(())
        }
    }

    /// A program that waits, and is ended with its owner.
    struct Waiting(Child);

    impl Waiting {
        fn start() -> Waiting {
            let child = Command::new("sleep")
                .arg("60")
                .stdin(Stdio::null())
                .spawn()
                .expect("coreutils are installed");
            Waiting(child)
        }

        /// Once it is the other program, with its libraries.
        fn process(&self) -> (Process, Modules) {
            for _ in 0..1000 {
                let process = Process::open(Pid(self.0.id())).expect("it waits");
                if let Ok(modules) = process.modules()
                    && process.name() == "sleep"
                    && modules
                        .iter()
                        .any(|module| module.name().starts_with("libc"))
                {
                    return (process, modules);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            panic!("sleep did not start");
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Two processes of one program have one table for each file; the tables go with the second of them, and
    /// their numbers are used again.
    #[test]
    fn tables_are_shared_and_freed() {
        let (one, other) = (Waiting::start(), Waiting::start());
        let ((one, its_modules), (other, other_modules)) = (one.process(), other.process());
        let (mut tables, mut held) = (Tables::default(), Held::default());
        assert_eq!(tables.update(&mut held, &one, &its_modules), Ok(true));
        let of_one = held.chunks.clone();
        assert!(of_one.len() >= 3, "sleep, ld.so and libc: {of_one:?}");
        assert_eq!(
            tables.update(&mut held, &one, &its_modules),
            Ok(false),
            "no news"
        );
        assert_eq!(tables.update(&mut held, &other, &other_modules), Ok(true));
        assert_eq!(held.chunks, of_one);
        assert_eq!(held.processes.len(), 2);
        let rows = tables.summary().rows;
        assert!(rows > 1000, "{rows}");

        assert_eq!(tables.remove(&mut held, one.pid()), Ok(()));
        assert_eq!(held.chunks, of_one, "the other one still has them");
        assert_eq!(tables.remove(&mut held, other.pid()), Ok(()));
        assert_eq!((held.chunks.len(), held.processes.len()), (0, 0));
        assert_eq!(tables.summary().bytes, 0);

        assert_eq!(tables.update(&mut held, &one, &its_modules), Ok(true));
        assert_eq!(held.chunks, of_one);
    }

    /// Beyond the budget a file has no table, which is said, and the ranges say so to the kernel side.
    #[test]
    fn the_budget_is_kept() {
        let waiting = Waiting::start();
        let (process, modules) = waiting.process();
        let (mut tables, mut held) = (Tables::new(1), Held::default());
        assert_eq!(tables.update(&mut held, &process, &modules), Ok(true));
        assert!(held.chunks.len() <= 1, "{:?}", held.chunks);
        let family = tables.family();
        assert!(family.attached < family.found);
        let libc = family
            .missing
            .iter()
            .find(|missing| missing.what.starts_with("libc"));
        let why = libc.map_or("", |missing| missing.why.as_str());
        assert!(why.contains("budget of 65536 bytes"), "{why}");
    }
}
