//! Tests of names from debug information.

use std::path::Path;

use super::*;
use crate::event::SiteClass;

/// A task of this test binary, so that there is one to be found in its own debug information.
fn run_a_task() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::spawn(async { std::hint::black_box(7) })
            .await
            .expect("the task ends");
    });
}

/// The poll instance of a task is found with its future's name and its scheduler's class, at an address
/// that is a symbol's.
#[test]
fn a_task_of_this_test_binary() {
    run_a_task();
    let file = std::fs::File::open("/proc/self/exe").expect("the test binary is readable");
    let search = DebugSearch::default();
    let image = Image::new(&file, Path::new("/test"), &search).expect("it is an ELF file");
    let elf = image.code().expect("it is an ELF file");
    let outcome = poll_instances(&image, &search).expect("it is an ELF file");
    assert_eq!((outcome.units_malformed, outcome.gave_up), (0, None));
    let instance = outcome
        .instances
        .iter()
        .find(|instance| instance.arguments.contains("dwarf::tests::run_a_task"))
        .expect("the task's poll instance");
    let parsed = PollArguments::parse(&instance.arguments).expect("two arguments");
    assert_eq!(parsed.class, SiteClass::CurrentThread);
    let symbol = elf
        .symbols()
        .find(|symbol| symbol.vaddr == instance.vaddr)
        .expect("a symbol");
    assert!(
        symbol
            .demangled()
            .starts_with("tokio::runtime::task::raw::poll")
    );
}

/// One unit of DWARF 4 as rustc writes it, by hand: `tokio::runtime::task::raw::poll<F, S>`.
mod written {
    /// Tags, attributes and forms of the abbreviations below.
    pub const ABBREVIATIONS: &[u8] = &[
        1, 0x11, 1, 0, 0, // 1: DW_TAG_compile_unit, with children
        2, 0x39, 1, 0x03, 0x0e, 0, 0, // 2: DW_TAG_namespace: name strp
        3, 0x2e, 0, 0x03, 0x0e, 0x11, 0x01, 0,
        0, // 3: DW_TAG_subprogram: name strp, low_pc addr
        4, 0x2e, 0, 0x03, 0x0e, 0x20, 0x0b, 0, 0, // 4: the same, inline instead of low_pc
        5, 0x2e, 0, 0x31, 0x13, 0x11, 0x01, 0, 0, // 5: abstract_origin ref4, low_pc
        0,
    ];

    /// The strings, and where each begins.
    pub fn strings(texts: &[&str]) -> (Vec<u8>, Vec<u32>) {
        let mut bytes = Vec::new();
        let mut offsets = Vec::new();
        for text in texts {
            offsets.push(bytes.len() as u32);
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        (bytes, offsets)
    }

    /// A unit with these entries.
    pub fn unit(entries: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((2 + 4 + 1 + entries.len() as u32).to_le_bytes());
        bytes.extend(4u16.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.push(8);
        bytes.extend(entries);
        bytes
    }
}

const POLL: &str = "poll<app::{async_block_env#0}, alloc::sync::Arc<tokio::runtime::scheduler::\
                    current_thread::Handle, alloc::alloc::Global>>";

fn search(info: &[u8], strings: &[u8]) -> Outcome {
    search_for(&POLLS, info, strings)
}

fn search_for(query: &'static Query, info: &[u8], strings: &[u8]) -> Outcome {
    let sections = DwarfSections::load(|id| {
        Ok::<_, ()>(Cow::Borrowed(match id {
            gimli::SectionId::DebugInfo => info,
            gimli::SectionId::DebugAbbrev => written::ABBREVIATIONS,
            gimli::SectionId::DebugStr => strings,
            _ => &[],
        }))
    })
    .expect("sections are there");
    Search::new(&sections, query, Instant::now() + TIME_LIMIT).run(None)
}

/// Entries of a unit: the namespaces, then in them `inner`.
fn in_namespaces(names: [u32; 4], inner: &[u8]) -> Vec<u8> {
    let mut entries = vec![1];
    for name in names {
        entries.push(2);
        entries.extend(name.to_le_bytes());
    }
    entries.extend(inner);
    entries.extend([0; 5]);
    written::unit(&entries)
}

fn concrete(name: u32, vaddr: u64) -> Vec<u8> {
    let mut entry = vec![3];
    entry.extend(name.to_le_bytes());
    entry.extend(vaddr.to_le_bytes());
    entry
}

/// An instance counts in its own namespaces only, and units without one are not read.
#[test]
fn namespaces() {
    let (strings, at) = written::strings(&["tokio", "runtime", "task", "raw", POLL, "harness"]);
    let ours = [at[0], at[1], at[2], at[3]];
    let mut info = in_namespaces(ours, &concrete(at[4], 0x1000));
    info.extend(in_namespaces(
        [at[0], at[1], at[2], at[5]],
        &concrete(at[4], 0x2000),
    ));
    info.extend(in_namespaces(ours, &concrete(at[5], 0x3000)));
    let outcome = search(&info, &strings);
    let vaddrs: Vec<u64> = outcome.instances.iter().map(|one| one.vaddr).collect();
    assert_eq!(vaddrs, [0x1000]);
    assert_eq!(outcome.instances[0].arguments, POLL[5..POLL.len() - 1]);
    assert_eq!((outcome.units_read, outcome.units_skipped), (2, 1));
}

/// Whatever `block_on` is a function counts in any namespace of the runtime's, and so does what its loop is called through.
#[test]
fn block_ons() {
    const BLOCK_ON: &str = "block_on<app::main::{async_block_env#0}>";
    const SET: &str =
        "set<tokio::runtime::scheduler::Context, tokio::runtime::scheduler::current_thread::Loop>";
    let (strings, at) = written::strings(&[
        "tokio",
        "runtime",
        "scheduler",
        "context",
        BLOCK_ON,
        SET,
        "app",
    ]);
    let deep = [at[0], at[1], at[2], at[3]];
    let mut info = in_namespaces(deep, &concrete(at[4], 0x1000));
    info.extend(in_namespaces(deep, &concrete(at[5], 0x2000)));
    info.extend(in_namespaces(
        [at[6], at[1], at[2], at[3]],
        &concrete(at[4], 0x3000),
    ));
    let outcome = search_for(&BLOCK_ONS, &info, &strings);
    let vaddrs: Vec<u64> = outcome.instances.iter().map(|one| one.vaddr).collect();
    assert_eq!(vaddrs, [0x1000, 0x2000]);
    assert_eq!(
        outcome.arguments(0x1000),
        Some("app::main::{async_block_env#0}")
    );
}

/// A name and its address in two entries, the second one outside of the namespaces and in front.
#[test]
fn abstract_and_concrete() {
    let (strings, at) = written::strings(&["tokio", "runtime", "task", "raw", POLL]);
    // Header 11, compile unit 1, concrete 1 + 4 + 8, four namespaces of 5.
    let abstract_at: u32 = 11 + 1 + 13 + 4 * 5;
    let mut entries = vec![1, 5];
    entries.extend(abstract_at.to_le_bytes());
    entries.extend(0x4000u64.to_le_bytes());
    for name in &at[..4] {
        entries.push(2);
        entries.extend(name.to_le_bytes());
    }
    entries.push(4);
    entries.extend(at[4].to_le_bytes());
    entries.push(1);
    entries.extend([0; 5]);
    let outcome = search(&written::unit(&entries), &strings);
    assert_eq!(outcome.instances.len(), 1);
    assert_eq!(outcome.instances[0].vaddr, 0x4000);
}

/// Cut and corrupted sections are counted, and what was found before the damage stays.
#[test]
fn damaged_sections() {
    let (strings, at) = written::strings(&["tokio", "runtime", "task", "raw", POLL]);
    let ours = [at[0], at[1], at[2], at[3]];
    let good = in_namespaces(ours, &concrete(at[4], 0x1000));
    let mut info = good.clone();
    info.extend(&good[..good.len() - 7]);
    let outcome = search(&info, &strings);
    assert_eq!(outcome.instances.len(), 1);
    assert_eq!(outcome.units_malformed, 1);
    let mut seed = 1u64;
    for _ in 0..5_000 {
        let mut damaged = info.clone();
        let mut damaged_strings = strings.clone();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize;
            let (len, strings_len) = (damaged.len(), damaged_strings.len());
            damaged[at % len] = (seed >> 24) as u8;
            damaged_strings[at % strings_len] ^= (seed >> 16) as u8;
        }
        assert!(search(&damaged, &damaged_strings).instances.len() <= 2);
    }
    for cut in 0..info.len() {
        search(&info[..cut], &strings);
    }
}
