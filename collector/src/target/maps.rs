//! `/proc/PID/maps` goes in; [`Modules`] come out: the files whose code is mapped, each with a path
//! that reaches the very inode that is mapped, and the arithmetic between runtime addresses and file
//! offsets. Whether a file is position-independent makes no difference: the mappings tell where each
//! byte of it is.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::debuginfo::open_ours;
use super::process::{Process, TargetError, path_of, unreadable};

/// Mappings that are kept at most: the kernel's own default limit for a process.
const MAPPINGS_LIMIT: usize = 65_536;
/// `AT_ENTRY` of `<elf.h>`: the auxiliary vector's entry for the program's entry point.
const AT_ENTRY: u64 = 9;

/// Which file: device and inode as the kernel's mapping list has them. On overlay and btrfs file systems
/// the device is not the one that `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Inode.
    pub inode: u64,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Behind its last address.
    pub end: u64,
    /// Offset in the file of the byte at `start`.
    pub file_offset: u64,
    /// Holds code.
    pub executable: bool,
    /// The file, when there is one.
    pub file: Option<FileId>,
    /// Its path in the target's mount namespace, or a name such as `[vdso]`, as the kernel shows it.
    pub path: PathBuf,
    /// The file was removed or replaced since it was mapped.
    pub deleted: bool,
}

impl Mapping {
    /// One line of `maps`; None when it is none.
    pub fn parse(line: &[u8]) -> Option<Mapping> {
        let mut rest = line;
        let range = word(&mut rest)?;
        let permissions = word(&mut rest)?;
        let file_offset = hex(word(&mut rest)?)?;
        let device = word(&mut rest)?;
        let inode: u64 = std::str::from_utf8(word(&mut rest)?).ok()?.parse().ok()?;
        let (start, end) = split(range, b'-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let (major, minor) = split(device, b':')?;
        let id = FileId {
            major: u32::try_from(hex(major)?).ok()?,
            minor: u32::try_from(hex(minor)?).ok()?,
            inode,
        };
        let path = unescaped(rest.trim_ascii_start());
        let deleted = path.ends_with(b" (deleted)");
        let kept = path.len() - if deleted { " (deleted)".len() } else { 0 };
        (start < end).then(|| Mapping {
            start,
            end,
            file_offset,
            executable: permissions.get(2) == Some(&b'x'),
            file: (inode != 0).then_some(id),
            path: path_of(path[..kept].to_vec()),
            deleted,
        })
    }

    fn contains(&self, addr: u64) -> bool {
        (self.start..self.end).contains(&addr)
    }
}

/// The next word of a line.
fn word<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let trimmed = rest.trim_ascii_start();
    let end = trimmed
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(trimmed.len());
    *rest = &trimmed[end..];
    (end > 0).then(|| &trimmed[..end])
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|&byte| byte == at)?;
    Some((&text[..position], &text[position + 1..]))
}

fn hex(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// The kernel writes a newline in a path as `\012`, and nothing else specially.
fn unescaped(path: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(NEWLINE) {
            plain.push(b'\n');
            rest = behind;
        } else {
            plain.push(first);
            rest = behind;
        }
    }
    plain
}

/// A file whose code is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Which file.
    pub file: FileId,
    /// Its path in the target's mount namespace.
    pub path: PathBuf,
    /// The file was removed or replaced since it was mapped.
    pub deleted: bool,
    /// The main program.
    pub is_main: bool,
    /// Reaches this inode from here, or why nothing does.
    pub path_to_open: Result<PathBuf, String>,
    /// Its executable mappings, by address.
    pub code: Vec<Mapping>,
}

impl Module {
    /// Its file name, for people.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Where in the file the code at a runtime address comes from.
    pub fn file_offset(&self, addr: u64) -> Option<u64> {
        let mapping = self.code.iter().find(|mapping| mapping.contains(addr))?;
        mapping.file_offset.checked_add(addr - mapping.start)
    }

    /// Runtime address of the code at a file offset.
    pub fn address(&self, file_offset: u64) -> Option<u64> {
        self.code.iter().find_map(|mapping| {
            let into = file_offset.checked_sub(mapping.file_offset)?;
            // Only then does their sum fit.
            (into < mapping.end - mapping.start).then(|| mapping.start + into)
        })
    }

    /// Opens the file.
    pub fn open(&self) -> io::Result<File> {
        match &self.path_to_open {
            Ok(path) => open_ours(path),
            Err(why) => Err(io::Error::other(why.clone())),
        }
    }
}

/// Everything with code in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    modules: Vec<Module>,
    without_file: Vec<Mapping>,
}

impl Modules {
    /// The executable mappings of a process, as they are now.
    pub fn of(process: &Process) -> Result<Modules, TargetError> {
        let maps = process.read("maps")?;
        // Without it nobody could tell the main program, and a library would be judged in its place.
        let entry = auxv_value(&process.read("auxv")?, AT_ENTRY);
        let mut modules = Modules::parse(&maps, entry);
        for module in &mut modules.modules {
            module.path_to_open = path_to_open(process, module);
        }
        if process.has_exited() {
            return Err(TargetError::Exited(process.pid().0));
        }
        Ok(modules)
    }

    /// Of the text of `maps`. `entry` is the program's entry point: its mapping is the main program's.
    /// (Comparing inodes instead would fail on file systems where `maps` and `stat` differ.)
    pub fn parse(maps: &[u8], entry: Option<u64>) -> Modules {
        let mut modules: Vec<Module> = Vec::new();
        let mut without_file = Vec::new();
        let mappings = maps
            .split(|&byte| byte == b'\n')
            .filter_map(Mapping::parse)
            .filter(|mapping| mapping.executable)
            .take(MAPPINGS_LIMIT);
        for mapping in mappings {
            let Some(file) = mapping.file else {
                without_file.push(mapping);
                continue;
            };
            let is_main = entry.is_some_and(|entry| mapping.contains(entry));
            let at = modules.iter().position(|module| module.file == file);
            let at = at.unwrap_or_else(|| {
                modules.push(Module {
                    file,
                    path: mapping.path.clone(),
                    deleted: mapping.deleted,
                    is_main: false,
                    path_to_open: Err("not looked for".to_owned()),
                    code: Vec::new(),
                });
                modules.len() - 1
            });
            modules[at].is_main |= is_main;
            modules[at].code.push(mapping);
        }
        Modules {
            modules,
            without_file,
        }
    }

    /// Each module.
    pub fn iter(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter()
    }

    /// Executable mappings that no file is behind: the kernel's own (`[vdso]`, `[uprobes]`), and code that was
    /// made at run time.
    pub fn without_file(&self) -> &[Mapping] {
        &self.without_file
    }

    /// The main program.
    pub fn main(&self) -> Option<&Module> {
        self.modules.iter().find(|module| module.is_main)
    }

    /// The module that has code at a runtime address.
    pub fn find(&self, addr: u64) -> Option<&Module> {
        self.modules
            .iter()
            .find(|module| module.code.iter().any(|mapping| mapping.contains(addr)))
    }
}

/// The value of one entry of an auxiliary vector.
fn auxv_value(auxv: &[u8], key: u64) -> Option<u64> {
    auxv.as_chunks::<16>().0.iter().find_map(|pair| {
        let (k, value) = pair.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).ok();
        (number(k)? == key).then(|| number(value))?
    })
}

/// A path that opens the inode that is mapped, from our mount namespace.
fn path_to_open(process: &Process, module: &Module) -> Result<PathBuf, String> {
    if module.is_main {
        return Ok(process.proc_path("exe"));
    }
    // The kernel's own link to the mapped inode. Following it takes CAP_SYS_ADMIN or
    // CAP_CHECKPOINT_RESTORE.
    if let Some(first) = module.code.first() {
        let link = process.proc_path(&format!("map_files/{:x}-{:x}", first.start, first.end));
        if File::open(&link).is_ok() {
            return Ok(link);
        }
    }
    let path = module
        .path
        .strip_prefix("/")
        .map(|path| process.proc_path("root").join(path))
        .map_err(|_| format!("{} is no path", module.path.display()))?;
    match fs::metadata(&path) {
        Ok(found) if is_file(&found, module.file) => Ok(path),
        Ok(_) => Err(format!(
            "{} is another file now than the one that is mapped, which only CAP_SYS_ADMIN can open",
            module.path.display()
        )),
        Err(error) => Err(unreadable(process.pid().0, &display(&path), error).to_string()),
    }
}

fn is_file(found: &fs::Metadata, wanted: FileId) -> bool {
    let device = found.dev();
    found.ino() == wanted.inode
        && rustix::fs::major(device) == wanted.major
        && rustix::fs::minor(device) == wanted.minor
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;

    const MAPS: &[u8] = b"\
555555554000-555555560000 r--p 00000000 fe:01 42                         /srv/my server\n\
555555560000-555555590000 r-xp 0000c000 fe:01 42                         /srv/my server\n\
7ffff7d00000-7ffff7d28000 r--p 00000000 fe:01 77                         /lib/libc.so.6 (deleted)\n\
7ffff7d28000-7ffff7e80000 r-xp 00028000 fe:01 77                         /lib/libc.so.6 (deleted)\n\
7ffff7f00000-7ffff7f10000 rwxp 00000000 00:00 0 \n\
7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0                          [vdso]\n";

    /// Files with code become modules; anonymous code and the vdso have no file to probe.
    #[test]
    fn modules_of_a_process() {
        let modules = Modules::parse(MAPS, Some(0x5555_5556_1000));
        let names: Vec<_> = modules.iter().map(Module::name).collect();
        assert_eq!(names, ["my server", "libc.so.6"]);
        let main = modules.main().expect("the entry point is in it");
        assert_eq!(main.path, Path::new("/srv/my server"));
        assert!(!main.deleted);
        assert!(modules.find(0x7fff_f7d2_8000).expect("libc").deleted);
        assert_eq!(modules.find(0x7fff_f7f0_0000), None);
        assert_eq!(modules.find(0x5555_5555_4000), None, "no code there");
    }

    /// Addresses and file offsets are inverse to each other inside the code, and nothing outside it.
    #[test]
    fn address_arithmetic() {
        let modules = Modules::parse(MAPS, Some(0x5555_5556_1000));
        let main = modules.main().expect("main");
        assert_eq!(main.file_offset(0x5555_5556_0010), Some(0xc010));
        assert_eq!(main.address(0xc010), Some(0x5555_5556_0010));
        assert_eq!(main.file_offset(0x5555_5559_0000), None);
        assert_eq!(main.address(0xc000 + 0x30000), None);
        assert_eq!(main.address(0), None);
    }

    /// Lines that are none are passed over.
    #[test]
    fn damaged_lines() {
        for line in [
            &b""[..],
            b"\xff\xfe",
            b"1-2",
            b"5-4 r-xp 0 0:0 1 /backwards",
            b"1-2 r-xp 0 0 1 /no-device",
            b"1-2 r-xp zz 0:0 1 /no-offset",
            b"1-fffffffffffffffff r-xp 0 0:0 1 /too-wide",
            b"-- -- -- -- --",
        ] {
            assert_eq!(Mapping::parse(line), None, "{line:?}");
        }
        let odd = Mapping::parse(b"1-2 r-xp 0 0:0 1 /a\\012b \xff").expect("a mapping");
        assert_eq!(odd.path, path_of(b"/a\nb \xff".to_vec()));
        let whole = Mapping::parse(b"0-ffffffffffffffff r-xp ffffffffffffffff 0:0 1 /all")
            .expect("a mapping");
        let module = Module {
            file: whole.file.expect("a file"),
            path: whole.path.clone(),
            deleted: false,
            is_main: false,
            path_to_open: Err(String::new()),
            code: vec![whole],
        };
        assert_eq!(module.file_offset(7), None, "it would overflow");
        assert_eq!(module.address(u64::MAX), Some(0));
        let line = b"fffffffffffff000-fffffffffffffff0 r-xp 0 0:0 1 /at-the-end";
        let at_the_end = Module {
            code: vec![Mapping::parse(line).expect("a mapping")],
            ..module
        };
        assert_eq!(at_the_end.address(0x2000), None, "it would overflow");
    }

    /// A cut auxiliary vector has no entry.
    #[test]
    fn auxiliary_vector() {
        let pairs = [6u64, 4096, AT_ENTRY, 0x1234, 0, 0];
        let bytes: Vec<u8> = pairs.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(auxv_value(&bytes, AT_ENTRY), Some(0x1234));
        assert_eq!(auxv_value(&bytes[..20], AT_ENTRY), None);
        assert_eq!(auxv_value(&[], AT_ENTRY), None);
    }

    /// In this very process: the main module is the test binary, and every module can be opened.
    #[test]
    fn modules_of_this_process() {
        let process = Process::open(Pid(std::process::id())).expect("we run");
        let modules = process.modules().expect("our own maps");
        let main = modules.main().expect("a main program");
        let here = modules_of_this_process as fn() as usize as u64;
        let offset = main.file_offset(here).expect("this code is in it");
        assert_eq!(main.address(offset), Some(here));
        for module in modules.iter() {
            let opened = module.open().expect("can be opened").metadata();
            assert_eq!(opened.expect("open").ino(), module.file.inode);
        }
    }
}
