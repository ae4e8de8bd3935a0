//! One program, built in each way that debug information is shipped: names, lines, inlines, generics and poll
//! instances are the same as in the plain build.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{Frame, MappedModule, ProcessSymbolizer};
use crate::target::{DebugSearch, Image, dwarf};

/// Compiles the program into a folder of its own. The build-id is given: two builds of one source are one
/// program here, as a stripped file and its twin are.
fn build(dir: &Path, name: &str, options: &[&str]) -> PathBuf {
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/symbolize/tests/program.rs"
    );
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("app");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .args(["--edition=2024", "--crate-name=tokio", "-O"])
        .args(["-Clink-arg=-Wl,--build-id=0x0123456789abcdef0123456789abcdef01234567"])
        .args(options)
        .arg("-o")
        .args([program.as_os_str(), source.as_ref()])
        .output()
        .expect("rustc runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    program
}

fn image(program: &Path, search: &DebugSearch) -> Image {
    let file = File::open(program).expect("it was built");
    Image::new(&file, program, search).expect("it is an ELF file")
}

/// What is known of each byte of a function of the program: function, generics, line, inlined.
type Known = Vec<Vec<(String, Option<String>, Option<u32>, bool)>>;

/// Where `marker` is, in the file and as an address of it, and how long.
fn marker(program: &Path) -> (u64, u64) {
    let image = image(program, &DebugSearch::default());
    let code = image.code().expect("it is an ELF file");
    let symbol = code
        .symbols()
        .find(|symbol| symbol.mangled == "marker")
        .expect("it has its symbols");
    let offset = code.file_offset(symbol.vaddr).expect("it is in the file");
    (offset, symbol.size)
}

fn known(program: &Path, search: &DebugSearch, (offset, size): (u64, u64)) -> Known {
    const START: u64 = 0x10_0000;
    let module = MappedModule {
        start: START,
        end: START + offset + size,
        file_offset: 0,
        name: "app".to_owned(),
        path: program.to_owned(),
        path_to_open: program.to_owned(),
    };
    let place = START + offset;
    let table = ProcessSymbolizer::new(&[module], search).symbolize(place..place + size);
    assert_eq!(table.refused, Vec::<String>::new());
    let frame = |frame: &Frame| {
        let Frame {
            function,
            generics,
            line,
            inlined,
            ..
        } = frame.clone();
        (function, generics, line, inlined)
    };
    table
        .frames
        .values()
        .map(|frames| frames.iter().map(frame).collect())
        .collect()
}

fn poll_instances(program: &Path, search: &DebugSearch) -> Vec<String> {
    let outcome = dwarf::poll_instances(&image(program, search), search).expect("an ELF file");
    assert_eq!((outcome.units_malformed, outcome.gave_up), (0, None));
    let instances = outcome.instances.into_iter();
    instances.map(|instance| instance.arguments).collect()
}

#[test]
fn as_if_never_stripped_compressed_or_split() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let nowhere = DebugSearch::default();
    let plain = build(dir, "plain", &["-g"]);
    let place = marker(&plain);
    let expected = known(&plain, &nowhere, place);
    // The plain build is right: the inlined lock has its types, and its caller the line of the call.
    let source = include_str!("program.rs");
    let line = source
        .lines()
        .position(|line| line.contains("guarded.lock()"));
    let lock = expected.iter().find_map(|frames| {
        let at = frames
            .iter()
            .position(|(function, ..)| function == "tokio::Guarded<R,T>::lock")?;
        Some(&frames[at..])
    });
    let Some([(_, generics, _, true), (caller, _, caller_line, false)]) = lock else {
        panic!("no inlined lock in {expected:#?}");
    };
    assert_eq!(generics.as_deref(), Some("tokio::Raw, u64"));
    assert_eq!(caller, "marker");
    assert_eq!(*caller_line, line.map(|line| line as u32 + 1));
    let polls = poll_instances(&plain, &nowhere);
    assert_eq!(
        polls,
        ["[u8; 7], tokio::runtime::scheduler::current_thread::Handle"]
    );

    // Its path leads to nothing without the folder, and to everything with it.
    let stripped = build(dir, "stripped", &["-g", "-Cstrip=symbols"]);
    let twin = DebugSearch::in_dirs(&[plain.parent().expect("it is in a folder")]);
    assert!(poll_instances(&stripped, &nowhere).is_empty());
    assert_eq!(poll_instances(&stripped, &twin), polls);
    assert_eq!(known(&stripped, &twin, place), expected);

    for (name, options) in [
        (
            "zlib",
            &["-g", "-Clink-arg=-Wl,--compress-debug-sections=zlib"][..],
        ),
        (
            "zstd",
            &["-g", "-Clink-arg=-Wl,--compress-debug-sections=zstd"],
        ),
        ("packed", &["-g", "-Csplit-debuginfo=packed"]),
        ("unpacked", &["-g", "-Csplit-debuginfo=unpacked"]),
        ("dwarf5", &["-g", "-Cdwarf-version=5"]),
        (
            "packed-dwarf5",
            &["-g", "-Cdwarf-version=5", "-Csplit-debuginfo=packed"],
        ),
    ] {
        let program = build(dir, name, options);
        // Split debug information is looked for where the compiler put it, in a root: here in ours.
        let search = DebugSearch::in_root(Path::new("/"));
        assert_eq!(poll_instances(&program, &search), polls, "{name}");
        assert_eq!(
            known(&program, &search, marker(&program)),
            expected,
            "{name}"
        );
    }
}
