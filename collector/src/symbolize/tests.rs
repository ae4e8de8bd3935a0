//! Symbolization of the test program itself: everything about it is known.

mod builds;

use std::{fs, os::fd::AsFd, path::PathBuf};

use super::{Frame, MappedModule, ProcessSymbolizer, Unresolved, frame::SymbolTable};
use crate::target::DebugSearch;

/// A function with a name, a file and a line of its own.
#[inline(never)]
fn marker(n: u64) -> u64 {
    inner(n) + 1
}

#[inline(always)]
fn inner(n: u64) -> u64 {
    innermost(n).wrapping_mul(3)
}

#[inline(always)]
fn innermost(n: u64) -> u64 {
    std::hint::black_box(n) ^ 0x5a5a
}

/// The executable mappings of the test program.
fn own_modules() -> Vec<MappedModule> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let executable = fields.next()?.contains('x');
            let file_offset = fields.next()?;
            let path = fields.nth(2).unwrap_or("");
            let hex = |s| u64::from_str_radix(s, 16).unwrap();
            executable.then(|| MappedModule {
                start: hex(start),
                end: hex(end),
                file_offset: hex(file_offset),
                name: path.rsplit('/').next().unwrap().to_owned(),
                path: PathBuf::from(path),
                path_to_open: PathBuf::from(path),
            })
        })
        .collect()
}

/// The mapping that `marker` is in, with another file in its place.
fn own_code_in(path: PathBuf) -> MappedModule {
    let addr = marker as fn(u64) -> u64 as usize as u64;
    let mut module = own_modules()
        .into_iter()
        .find(|m| (m.start..m.end).contains(&addr))
        .unwrap();
    module.path_to_open = path;
    module
}

fn symbolize(modules: &[MappedModule], addresses: impl IntoIterator<Item = u64>) -> SymbolTable {
    ProcessSymbolizer::new(modules, &DebugSearch::default()).symbolize(addresses)
}

fn marker_range() -> std::ops::Range<u64> {
    let addr = marker as fn(u64) -> u64 as usize as u64;
    addr..addr + 96
}

fn one(table: &SymbolTable, addr: u64) -> &[Frame] {
    &table.frames[&addr]
}

const MARKER: &str = "holdup::symbolize::tests::marker";

/// A function has its name without a hash, its file and its line; inlined ones come before it,
/// innermost first, each with the line inside it.
#[test]
fn names_files_lines_and_inlines() {
    assert_eq!(marker(1), (1u64 ^ 0x5a5a).wrapping_mul(3) + 1);
    let table = symbolize(&own_modules(), marker_range());

    let entry = one(&table, marker_range().start);
    let function = entry.last().unwrap();
    assert_eq!(function.function, MARKER);
    assert!(!function.inlined && function.unresolved.is_none());
    let file = function.file.as_deref().unwrap();
    assert!(
        file.ends_with("/collector/src/symbolize/tests.rs"),
        "{file}"
    );

    let deepest = table
        .frames
        .values()
        .filter(|frames| frames.last().unwrap().function == MARKER)
        .max_by_key(|frames| {
            frames
                .iter()
                .filter(|f| f.function.contains("tests::"))
                .count()
        })
        .unwrap();
    let ours: Vec<&Frame> = deepest
        .iter()
        .filter(|f| f.function.contains("tests::"))
        .collect();
    let names: Vec<&str> = ours.iter().map(|f| f.function.as_str()).collect();
    assert_eq!(
        names,
        [
            "holdup::symbolize::tests::innermost",
            "holdup::symbolize::tests::inner",
            MARKER
        ]
    );
    assert_eq!(
        ours.iter().map(|f| f.inlined).collect::<Vec<_>>(),
        [true, true, false]
    );
    let lines: Vec<u32> = ours.iter().map(|f| f.line.unwrap()).collect();
    let source = include_str!("tests.rs");
    let line_of = |text: &str| source.lines().position(|l| l.contains(text)).unwrap() as u32 + 1;
    assert_eq!(
        lines,
        [
            line_of("black_box(n) ^"),
            line_of("innermost(n)."),
            line_of("inner(n) + 1")
        ]
    );
}

/// A library's function without DWARF has the name of its symbol, and its library's.
#[test]
fn shared_library() {
    let addr = libc::getpid as unsafe extern "C" fn() -> i32 as usize as u64;
    let table = symbolize(&own_modules(), [addr]);
    let frame = &one(&table, addr)[0];
    assert!(frame.function.contains("getpid"), "{frame:?}");
    assert!(frame.module.starts_with("libc"), "{frame:?}");
}

/// What was opened stays readable after the file is gone, as after an update or the target's end.
#[test]
fn file_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    fs::copy("/proc/self/exe", &path).unwrap();
    let search = DebugSearch::default();
    let mut symbolizer = ProcessSymbolizer::new(&[own_code_in(path.clone())], &search);
    fs::write(folder.path().join("other"), b"something else").unwrap();
    fs::rename(folder.path().join("other"), &path).unwrap();
    let table = symbolizer.symbolize(marker_range());
    let function = one(&table, marker_range().start).last().unwrap();
    assert_eq!(function.function, MARKER);
}

/// What has no name says why, with the module and the offset in its file.
#[test]
fn reasons() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage");
    fs::write(&garbage, b"\x7fELF but not really").unwrap();
    let fifo = folder.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let here = fs::File::open(folder.path()).unwrap();
    rustix::fs::mknodat(here.as_fd(), "fifo", rustix::fs::FileType::Fifo, mode, 0).unwrap();

    let module = |start: u64, name: &str, path: PathBuf| MappedModule {
        start,
        end: start + 0x1000,
        file_offset: 0x4000,
        name: name.into(),
        path: path.clone(),
        path_to_open: path,
    };
    let modules = [
        module(0x10000, "garbage", garbage),
        module(0x20000, "fifo", fifo),
        module(0x30000, "gone", folder.path().join("gone")),
        module(0x40000, "", PathBuf::new()),
        module(0x50000, "folder", folder.path().into()),
    ];
    let addresses = [0x10010, 0x20020, 0x30030, 0x40040, 0x50050, 0x60060];
    let table = symbolize(&modules, addresses);
    let outcomes: Vec<(&str, Option<Unresolved>)> = table
        .frames
        .values()
        .map(|frames| (frames[0].function.as_str(), frames[0].unresolved))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("garbage+0x4010", Some(Unresolved::BadFile)),
            ("fifo+0x4020", Some(Unresolved::BadFile)),
            ("gone+0x4030", Some(Unresolved::BadFile)),
            ("[anonymous]+0x4040", Some(Unresolved::NoFile)),
            ("folder+0x4050", Some(Unresolved::BadFile)),
            ("0x60060", Some(Unresolved::NotMapped)),
        ]
    );
}

/// The vDSO's functions have names, though it has no file.
#[test]
fn vdso() {
    let modules = own_modules();
    let Some(vdso) = modules.iter().find(|m| m.name == "[vdso]") else {
        panic!("this kernel maps no vDSO");
    };
    let table = symbolize(&modules, (vdso.start..vdso.end).step_by(16));
    let named = table
        .frames
        .values()
        .filter(|f| f[0].function.contains("clock_gettime"))
        .count();
    assert!(
        named > 0,
        "no clock_gettime in {:#?}",
        table.frames.values().take(3).collect::<Vec<_>>()
    );
    assert!(table.frames.values().all(|f| f[0].module == "[vdso]"));
}

/// An address of the kernel is the kernel's, whether or not its symbols can be seen.
#[test]
fn kernel() {
    let addr = 0xffff_ffff_8100_0000;
    let table = symbolize(&own_modules(), [addr]);
    assert_eq!(one(&table, addr)[0].module, "[kernel]");
}

/// Debug info that lies is survived, and the symbol table still gives the name.
#[test]
fn hostile_debug_info() {
    use object::{Object, ObjectSection};
    let mut bytes = fs::read("/proc/self/exe").unwrap();
    let ranges: Vec<(u64, u64)> = {
        let elf = object::File::parse(&*bytes).unwrap();
        [".debug_info", ".debug_line", ".debug_abbrev"]
            .iter()
            .map(|name| elf.section_by_name(name).unwrap().file_range().unwrap())
            .collect()
    };
    let folder = tempfile::tempdir().unwrap();
    // One byte in some, of every section; always the same ones.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for (start, size) in ranges {
        for _ in 0..size / 200 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes[(start + state % size) as usize] = (state >> 32) as u8;
        }
    }
    let path = folder.path().join("hostile");
    fs::write(&path, &bytes).unwrap();
    let table = symbolize(&[own_code_in(path)], marker_range());
    assert_eq!(
        table.frames.len() as u64,
        marker_range().end - marker_range().start
    );
    let function = one(&table, marker_range().start).last().unwrap();
    assert!(
        function.function == MARKER || function.unresolved.is_some(),
        "{function:?}"
    );
}
