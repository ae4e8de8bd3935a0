//! Tests of the search for debug files. The files are made by hand: an ELF header, a section table, and the
//! sections that matter here.

use std::fs;

use rustix::fs::{CWD, Mode};

use super::*;
use crate::target::{Image, Whereabouts};

/// An ELF file with these sections.
fn elf(sections: &[(&str, u32, Vec<u8>)]) -> Vec<u8> {
    const HEADER: usize = 64;
    const SECTION_HEADER: usize = 64;
    const STRTAB: u32 = 3;
    let mut names = vec![0];
    let mut contents = Vec::new();
    let mut headers = vec![0; SECTION_HEADER];
    let mut all = sections.to_vec();
    all.push((".shstrtab", STRTAB, Vec::new()));
    let last = all.len();
    for (n, (name, kind, mut bytes)) in all.into_iter().enumerate() {
        let name_at = names.len() as u32;
        names.extend(name.bytes().chain([0]));
        if n + 1 == last {
            bytes.clone_from(&names);
        }
        while !contents.len().is_multiple_of(4) {
            contents.push(0);
        }
        let mut header = Vec::new();
        header.extend(name_at.to_le_bytes());
        header.extend(kind.to_le_bytes());
        header.extend([0; 16]);
        header.extend(((HEADER + contents.len()) as u64).to_le_bytes());
        header.extend((bytes.len() as u64).to_le_bytes());
        header.extend([0; 8]);
        header.extend(4u64.to_le_bytes());
        header.extend([0; 8]);
        headers.extend(header);
        contents.extend(bytes);
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(3u16.to_le_bytes()); // ET_DYN
    file.extend(62u16.to_le_bytes()); // EM_X86_64
    file.extend(1u32.to_le_bytes());
    file.extend([0; 16]);
    file.extend(((HEADER + contents.len()) as u64).to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [HEADER, 0, 0, SECTION_HEADER, last + 1, last] {
        file.extend((half as u16).to_le_bytes());
    }
    file.extend(contents);
    file.extend(headers);
    file
}

fn build_id(id: [u8; 4]) -> (&'static str, u32, Vec<u8>) {
    const NOTE: u32 = 7;
    let mut note = Vec::new();
    for word in [4u32, id.len() as u32, 3] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"GNU\0");
    note.extend(id);
    (".note.gnu.build-id", NOTE, note)
}

fn debug_link(name: &str, crc: u32) -> (&'static str, u32, Vec<u8>) {
    let mut link = name.as_bytes().to_vec();
    link.push(0);
    while !link.len().is_multiple_of(4) {
        link.push(0);
    }
    link.extend(crc.to_le_bytes());
    (".gnu_debuglink", 1, link)
}

fn dwarf(content: &str) -> (&'static str, u32, Vec<u8>) {
    (".debug_info", 1, content.as_bytes().to_vec())
}

const ID: [u8; 4] = [0xab, 0xcd, 0xef, 0x01];
const OTHER_ID: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

fn search_for(binary: &[u8], search: &DebugSearch) -> Found {
    let elf = Elf::parse(binary).expect("it is an ELF file");
    search.debug_file(&elf, Path::new("/opt/app/server"))
}

fn path_of(found: &Found) -> Option<&Path> {
    found.file.as_ref().map(|file| file.path.as_path())
}

fn write(root: &Path, place: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(place);
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
    fs::write(&path, bytes).expect("a file");
    path
}

/// A folder of the person's: by build-id, debug link, name with `.debug`, and name.
#[test]
fn debug_dir() {
    let binary = elf(&[build_id(ID), debug_link("linked.dbg", 0)]);
    let debug = elf(&[build_id(ID), dwarf("right")]);
    for place in [
        ".build-id/ab/cdef01.debug",
        "linked.dbg",
        "server.debug",
        "server",
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let empty = tempfile::tempdir().expect("a folder");
        let path = write(dir.path(), place, &debug);
        let found = search_for(&binary, &DebugSearch::in_dirs(&[empty.path(), dir.path()]));
        assert_eq!(path_of(&found), Some(path.as_path()));
        assert_eq!(found.refused, Vec::<String>::new());
    }
}

/// In the target's root: the system's folders by build-id, then the debug link beside the binary, in `.debug`,
/// and under the system's folder.
#[test]
fn places_in_a_root() {
    let binary = elf(&[build_id(ID), debug_link("server.dbg", 0)]);
    let debug = elf(&[build_id(ID), dwarf("right")]);
    for place in [
        "usr/lib/debug/.build-id/ab/cdef01.debug",
        "lib/debug/.build-id/ab/cdef01.debug",
        "opt/app/server.dbg",
        "opt/app/.debug/server.dbg",
        "usr/lib/debug/opt/app/server.dbg",
    ] {
        let root = tempfile::tempdir().expect("a folder");
        let path = write(root.path(), place, &debug);
        let found = search_for(&binary, &DebugSearch::in_root(root.path()));
        assert_eq!(path_of(&found), Some(path.as_path()));
    }
}

/// A file of another build is refused with its path and both build-ids, and the search goes on.
#[test]
fn another_builds_file() {
    let binary = elf(&[build_id(ID)]);
    let dir = tempfile::tempdir().expect("a folder");
    let other = elf(&[build_id(OTHER_ID), dwarf("of another build")]);
    let refused = write(dir.path(), "server.debug", &other);
    let without = write(dir.path(), ".build-id/ab/cdef01.debug", &elf(&[dwarf("")]));
    let right = write(
        dir.path(),
        "server",
        &elf(&[build_id(ID), dwarf("the twin")]),
    );
    let found = search_for(&binary, &DebugSearch::in_dirs(&[dir.path(), dir.path()]));
    assert_eq!(path_of(&found), Some(right.as_path()));
    assert_eq!(
        found.refused,
        [
            format!(
                "{} is not used as debug file: it has no build-id, and abcdef01 is the one that runs",
                without.display()
            ),
            format!(
                "{} is not used as debug file: its build-id is 12345678, and abcdef01 is the one that runs",
                refused.display()
            ),
        ]
    );
    fs::remove_file(right).expect("it is there");
    let found = search_for(&binary, &DebugSearch::in_dirs(&[dir.path(), dir.path()]));
    assert_eq!((path_of(&found), found.refused.len()), (None, 2));
}

/// A binary without a build-id knows its debug file by the checksum in its debug link.
#[test]
fn checksum_of_the_debug_link() {
    let debug = elf(&[dwarf("right")]);
    let crc = crc32fast::hash(&debug);
    let root = tempfile::tempdir().expect("a folder");
    let path = write(root.path(), "opt/app/server.dbg", &debug);
    let search = DebugSearch::in_root(root.path());
    let found = search_for(&elf(&[debug_link("server.dbg", crc)]), &search);
    assert_eq!(path_of(&found), Some(path.as_path()));
    let found = search_for(&elf(&[debug_link("server.dbg", crc ^ 1)]), &search);
    assert_eq!(path_of(&found), None);
    assert_eq!(found.refused.len(), 1);
    assert!(
        found.refused[0].contains(&format!("its checksum is {crc:08x}")),
        "{:?}",
        found.refused
    );
    // Nothing tells whether any file belongs to this one.
    let found = search_for(&elf(&[]), &search);
    assert_eq!((path_of(&found), found.refused.len()), (None, 0));
}

/// A debug link is a name: one that leads elsewhere is not followed.
#[test]
fn debug_link_with_a_path() {
    let debug = elf(&[dwarf("right")]);
    let root = tempfile::tempdir().expect("a folder");
    write(root.path(), "opt/secret", &debug);
    for name in ["../secret", "..", "/opt/secret", ""] {
        let binary = elf(&[debug_link(name, crc32fast::hash(&debug))]);
        let found = search_for(&binary, &DebugSearch::in_root(root.path()));
        assert_eq!(path_of(&found), None, "{name}");
    }
}

/// The target's root decides nothing about ours: FIFOs and folders in it are not opened, and links stay in it.
#[test]
fn hostile_root() {
    let binary = elf(&[build_id(ID), debug_link("server.dbg", 0)]);
    let debug = elf(&[build_id(ID), dwarf("right")]);
    let root = tempfile::tempdir().expect("a folder");
    let search = DebugSearch::in_root(root.path());
    let beside = root.path().join("opt/app");
    fs::create_dir_all(beside.join(".debug/server.dbg")).expect("a folder");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(
        CWD,
        beside.join("server.dbg"),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .expect("a FIFO");
    // A FIFO would be waited for forever.
    let found = search_for(&binary, &search);
    assert_eq!((path_of(&found), found.refused.len()), (None, 0));

    // Absolute, as the target sees it: outside there is no such path.
    write(root.path(), "elsewhere/debug", &debug);
    let system = root.path().join("usr/lib/debug/.build-id/ab");
    fs::create_dir_all(&system).expect("a folder");
    std::os::unix::fs::symlink("/elsewhere/debug", system.join("cdef01.debug")).expect("a link");
    assert!(search_for(&binary, &search).file.is_some());

    // Out of the root there is no way.
    let outside = tempfile::tempdir().expect("a folder");
    let secret = write(outside.path(), "secret", &debug);
    fs::remove_file(system.join("cdef01.debug")).expect("it is there");
    std::os::unix::fs::symlink(secret, system.join("cdef01.debug")).expect("a link");
    assert!(search_for(&binary, &search).file.is_none());
}

/// The binary itself, found under the name of its own debug file, has nothing to offer and is no surprise.
#[test]
fn the_stripped_binary_itself() {
    let binary = elf(&[build_id(ID)]);
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "server", &binary);
    let found = search_for(&binary, &DebugSearch::in_dirs(&[dir.path()]));
    assert_eq!((path_of(&found), found.refused.len()), (None, 0));
}

/// Packages lie in the person's folder, beside the debug file, or beside the binary.
#[test]
fn packages() {
    let dir = tempfile::tempdir().expect("a folder");
    let search = DebugSearch::in_dirs(&[dir.path()]);
    let package = |search: &DebugSearch, debug: Option<&Path>| {
        search.package(Path::new("/opt/server"), debug)
    };
    assert!(package(&search, None).is_none());
    let path = write(dir.path(), "server.dwp", b"a package");
    assert_eq!(package(&search, None).map(|file| file.path), Some(path));

    let debug = write(dir.path(), "beside/server.debug", b"");
    let path = write(dir.path(), "beside/server.debug.dwp", b"a package");
    let found = package(&DebugSearch::default(), Some(&debug));
    assert_eq!(found.map(|file| file.path), Some(path));

    let root = tempfile::tempdir().expect("a folder");
    let path = write(root.path(), "opt/server.dwp", b"a package");
    let found = package(&DebugSearch::in_root(root.path()), None);
    assert_eq!(found.map(|file| file.path), Some(path));
}

/// What debuginfod has is used last, and only if it is the binary's; a server that can't be reached is named.
#[test]
fn debuginfod() {
    let cache = tempfile::tempdir().expect("a folder");
    // Nobody listens at port 1.
    let search = DebugSearch {
        debuginfod: Debuginfod::from_variables(|name| match name {
            "DEBUGINFOD_URLS" => Some("http://127.0.0.1:1".to_owned()),
            "DEBUGINFOD_CACHE_PATH" => cache.path().to_str().map(str::to_owned),
            _ => None,
        }),
        ..DebugSearch::default()
    };
    let debug = elf(&[build_id(ID), dwarf("right")]);
    let cached = write(cache.path(), "abcdef01/debuginfo", &debug);
    let program = write(cache.path(), "server", &elf(&[build_id(ID)]));
    let file = fs::File::open(program).expect("it is there");
    let mut image = Image::new(&file, Path::new("/opt/server"), &search).expect("an ELF file");
    assert_eq!(image.debug_info(), Whereabouts::Missing);
    image.complete(&search);
    assert_eq!(image.debug_info(), Whereabouts::DebugFile(cached));

    let refused = |id: &str| {
        let found = search.download(id);
        assert!(found.file.is_none());
        found.refused
    };
    write(cache.path(), "12345678/debuginfo", &debug);
    let other = refused("12345678");
    assert!(
        other.len() == 1 && other[0].contains("its build-id is abcdef01"),
        "{other:?}"
    );
    let unreachable = refused("deadbeef");
    assert!(
        unreachable.len() == 1 && unreachable[0].contains("http://127.0.0.1:1"),
        "{unreachable:?}"
    );
    // Once is enough.
    assert_eq!(refused("deadbeef"), Vec::<String>::new());
    assert!(DebugSearch::default().download("abcdef01").file.is_none());
}
