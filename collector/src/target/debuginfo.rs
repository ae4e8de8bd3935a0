//! Where debug information is: a binary's identity goes in; the file that has its symbols and debug
//! information comes out, with a sentence for each file that looked like it and was refused. The only place
//! that looks for such files, so that the attach plan, `doctor` and the names of frames agree.
//!
//! | looked at, in this order | in whose root |
//! | --- | --- |
//! | `DIR/.build-id/ab/cdef.debug`, `DIR/<debug link>`, `DIR/<name>.debug`, `DIR/<name>` of each `--debug-dir DIR` | ours |
//! | `/usr/lib/debug/.build-id/ab/cdef.debug`, `/lib/debug/…` | the target's, then ours |
//! | the debug link beside the binary, in `.debug` beside it, under `/usr/lib/debug` | the target's, then ours |
//! | debuginfod, if `DEBUGINFOD_URLS` is set | |
//!
//! A file counts if its build-id is the binary's; for a binary without one, if its CRC is the one that
//! the debug link has.
#![forbid(unsafe_code)]

mod debuginfod;
mod root;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub use debuginfod::Debuginfod;
pub use root::{Root, open_ours};

use super::elf::Elf;
use super::mmap::MappedFile;
use super::process::Process;

/// Where distributions put debug files.
const SYSTEM_DIRS: [&str; 2] = ["/usr/lib/debug", "/lib/debug"];

/// Sentences about refused files that are kept for one binary: it has about ten places.
const REFUSALS_LIMIT: usize = 16;

/// Files that have to be read in full to be known are no larger. 2 GiB take a second or two; a hostile one may
/// claim a terabyte without having it.
const CHECKED_LIMIT: usize = 2 << 30;

/// What the person says about where debug information is.
#[derive(Clone, Debug, Default)]
pub struct DebugSources {
    /// Folders of debug files, in our mount namespace.
    pub dirs: Vec<PathBuf>,
    /// Servers that are asked last.
    pub debuginfod: Option<Debuginfod>,
}

/// The places where the debug files of one process are looked for.
#[derive(Debug, Default)]
pub struct DebugSearch {
    dirs: Vec<PathBuf>,
    /// The target's first, then ours.
    roots: Vec<Root>,
    debuginfod: Option<Debuginfod>,
}

/// A file that was found beside a binary.
#[derive(Debug)]
pub struct FoundFile {
    /// Where, as we see it.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: MappedFile,
}

/// What came of a search.
#[derive(Debug, Default)]
pub struct Found {
    /// The debug file.
    pub file: Option<FoundFile>,
    /// Files that looked like it, and why each is not used: one sentence each.
    pub refused: Vec<String>,
}

/// What makes a debug file a binary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// GNU build-id, hex.
    BuildId(&'a str),
    /// CRC-32 of the whole debug file.
    Crc(u32),
}

impl<'a> Identity<'a> {
    /// Of a binary; None if it has neither.
    pub fn of(elf: &'a Elf<'_>) -> Option<Identity<'a>> {
        match elf.build_id() {
            Some(id) => Some(Identity::BuildId(id)),
            None => elf.debug_link().map(|(_, crc)| Identity::Crc(crc)),
        }
    }

    /// Whether `file` is meant; if not, why not.
    fn check(self, file: &[u8], debug: &Elf<'_>) -> Result<(), String> {
        match self {
            Identity::BuildId(wanted) => match debug.build_id() {
                Some(found) if found == wanted => Ok(()),
                Some(found) => Err(format!(
                    "its build-id is {found}, and {wanted} is the one that runs"
                )),
                None => Err(format!(
                    "it has no build-id, and {wanted} is the one that runs"
                )),
            },
            Identity::Crc(_) if file.len() > CHECKED_LIMIT => Err(format!(
                "it has more than the {CHECKED_LIMIT} bytes whose checksum is taken"
            )),
            Identity::Crc(wanted) => match crc32fast::hash(file) {
                found if found == wanted => Ok(()),
                found => Err(format!(
                    "its checksum is {found:08x}, and the binary's debug link wants {wanted:08x}"
                )),
            },
        }
    }
}

impl DebugSearch {
    /// For the files of a process.
    pub fn new(process: &Process, sources: &DebugSources) -> DebugSearch {
        let target = Root::open(&process.proc_path("root"));
        let ours = Root::open(Path::new("/"));
        // Outside of a container both are one, and every file would be met twice.
        let is_ours = |target: &Root| {
            let same = ours.as_ref().is_some_and(|ours| target.is(ours));
            same && !process.in_other_mount_namespace()
        };
        let target = target.filter(|target| !is_ours(target));
        let roots = target.into_iter().chain(ours);
        DebugSearch {
            dirs: sources.dirs.clone(),
            roots: roots.collect(),
            debuginfod: sources.debuginfod.clone(),
        }
    }

    /// In these folders only.
    #[cfg(test)]
    pub fn in_dirs(dirs: &[&Path]) -> DebugSearch {
        DebugSearch {
            dirs: dirs.iter().map(|&dir| dir.to_owned()).collect(),
            ..DebugSearch::default()
        }
    }

    /// In this root only.
    #[cfg(test)]
    pub fn in_root(root: &Path) -> DebugSearch {
        DebugSearch {
            roots: Root::open(root).into_iter().collect(),
            ..DebugSearch::default()
        }
    }

    /// The debug file of `elf`, whose path in the target's root is `path`, as far as it is on this machine.
    pub fn debug_file(&self, elf: &Elf<'_>, path: &Path) -> Found {
        let mut found = Found::default();
        let Some(identity) = Identity::of(elf) else {
            return found;
        };
        for (place, bytes) in self.candidates(elf, path) {
            match usable(identity, &bytes) {
                Ok(true) => {
                    found.file = Some(FoundFile { path: place, bytes });
                    break;
                }
                Ok(false) => {}
                Err(why) => found.refuse(&place, &why),
            }
        }
        found
    }

    /// The debug file of a build-id from the servers that the person named; nothing if they named none.
    pub fn download(&self, build_id: &str) -> Found {
        let mut found = Found::default();
        let Some(debuginfod) = &self.debuginfod else {
            return found;
        };
        match debuginfod.debug_file(build_id) {
            Ok(Some((path, file))) => match MappedFile::new(&file).map_err(|e| e.to_string()) {
                Ok(bytes) => match usable(Identity::BuildId(build_id), &bytes) {
                    Ok(true) => found.file = Some(FoundFile { path, bytes }),
                    Ok(false) => {}
                    Err(why) => found.refuse(&path, &why),
                },
                Err(why) => found.refuse(&path, &why),
            },
            Ok(None) => {}
            Err(why) => found.refused.push(why),
        }
        found
    }

    /// The DWARF package (`.dwp`) of a binary whose debug information is split: beside the binary or its debug
    /// file, or in a `--debug-dir`. It has no identity of its own: each unit in it has.
    pub fn package(&self, path: &Path, debug_file: Option<&Path>) -> Option<FoundFile> {
        let with_dwp = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dwp");
            PathBuf::from(name)
        };
        let in_dirs = self.dirs.iter().filter_map(|dir| {
            let place = with_dwp(&dir.join(path.file_name()?));
            Some((open_ours(&place), place))
        });
        let beside_debug_file = debug_file.map(with_dwp).into_iter();
        let beside_debug_file = beside_debug_file.map(|place| (open_ours(&place), place));
        let beside_binary = self.in_roots(with_dwp(path));
        in_dirs
            .chain(beside_debug_file)
            .chain(beside_binary)
            .find_map(|(file, path)| {
                let bytes = MappedFile::new(&file.ok()?).ok()?;
                Some(FoundFile { path, bytes })
            })
    }

    /// A file of split debug information, by the path that the binary has for it.
    pub fn split_file(&self, path: &Path) -> Option<MappedFile> {
        let in_dirs = self.dirs.iter().filter_map(|dir| {
            let place = dir.join(path.file_name()?);
            Some((open_ours(&place), place))
        });
        in_dirs
            .chain(self.in_roots(path.to_owned()))
            .find_map(|(file, _)| MappedFile::new(&file.ok()?).ok())
    }

    /// Files in the places where a binary's debug file can be. What is there and can't be used as a file, or
    /// is the binary itself, is passed over.
    fn candidates<'a>(
        &'a self,
        elf: &'a Elf<'_>,
        path: &'a Path,
    ) -> impl Iterator<Item = (PathBuf, MappedFile)> + 'a {
        let link = elf.debug_link().map(|(name, _)| name);
        let by_build_id = elf.build_id().and_then(build_id_path);
        let ours = self.dirs.iter().flat_map({
            let (link, by_build_id) = (link.clone(), by_build_id.clone());
            move |dir| {
                let name = path.file_name().unwrap_or(OsStr::new(""));
                let mut debug_name = name.to_owned();
                debug_name.push(".debug");
                let names = [link.clone(), Some(debug_name), Some(name.to_owned())];
                let names = names.into_iter().flatten().filter(|name| !name.is_empty());
                let places = by_build_id.clone().into_iter();
                places
                    .chain(names.map(PathBuf::from))
                    .map(|place| dir.join(place))
                    .map(|place| (open_ours(&place), place))
                    .collect::<Vec<_>>()
            }
        });
        let system = SYSTEM_DIRS
            .iter()
            .filter_map(move |dir| Some(Path::new(dir).join(by_build_id.as_ref()?)));
        let linked = link.into_iter().flat_map(move |name| {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let beneath = dir.strip_prefix("/").unwrap_or(dir);
            [
                dir.join(&name),
                dir.join(".debug").join(&name),
                Path::new(SYSTEM_DIRS[0]).join(beneath).join(&name),
            ]
        });
        let theirs = system.chain(linked).flat_map(|place| self.in_roots(place));
        ours.chain(theirs)
            .filter_map(|(file, place)| Some((place, MappedFile::new(&file.ok()?).ok()?)))
    }

    /// A path in each root.
    fn in_roots(
        &self,
        path: PathBuf,
    ) -> impl Iterator<Item = (std::io::Result<std::fs::File>, PathBuf)> + '_ {
        self.roots
            .iter()
            .map(move |root| (root.open_file(&path), root.shown(&path)))
    }
}

impl Found {
    fn refuse(&mut self, path: &Path, why: &str) {
        let sentence = format!("{} is not used as debug file: {why}", path.display());
        // The person can name a folder twice.
        if self.refused.len() < REFUSALS_LIMIT && !self.refused.contains(&sentence) {
            self.refused.push(sentence);
        }
    }
}

/// Whether a candidate has anything to offer; an error if it is another binary's.
fn usable(identity: Identity<'_>, bytes: &[u8]) -> Result<bool, String> {
    let debug = Elf::parse(bytes).map_err(|error| error.to_string())?;
    identity.check(bytes, &debug)?;
    Ok(debug.has_dwarf() || !debug.is_stripped())
}

/// `.build-id/ab/cdef.debug`.
fn build_id_path(build_id: &str) -> Option<PathBuf> {
    let (first, rest) = build_id.split_at_checked(2)?;
    (!rest.is_empty()).then(|| PathBuf::from(format!(".build-id/{first}/{rest}.debug")))
}

/// Where a person would put the debug file of a build-id.
pub fn place_for(build_id: &str) -> Option<PathBuf> {
    Some(Path::new(SYSTEM_DIRS[0]).join(build_id_path(build_id)?))
}

#[cfg(test)]
mod tests;
