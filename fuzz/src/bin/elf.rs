//! Whatever a file says that it is: everything that is asked of a binary has an answer.
#![no_main]

use holdup::target::{Elf, spawns};
use libfuzzer_sys::fuzz_target;

const SECTIONS: [&str; 6] = [
    ".debug_info",
    ".debug_str",
    ".eh_frame",
    ".note.gnu.build-id",
    ".rodata",
    ".text",
];

fuzz_target!(|data: &[u8]| {
    let Ok(elf) = Elf::parse(data) else { return };
    let _ = (
        elf.build_id(),
        elf.is_x86_64(),
        elf.is_stripped(),
        elf.has_dwarf(),
    );
    let _ = elf.debug_link();
    let _ = (
        elf.rustc_version(),
        elf.crate_versions(&["tokio", "parking_lot"]),
    );
    for name in SECTIONS {
        let _ = elf.section(name);
    }
    for symbol in elf.symbols() {
        let _ = symbol.demangled();
        assert!(elf.bytes_at(symbol.vaddr, 64).len() <= 64);
    }
    for (place, target) in elf.pointers().take(1 << 16) {
        let _ = (elf.file_offset(place), elf.file_offset(target));
    }
    let polls = elf.symbols().take(16).map(|symbol| (symbol.vaddr, 0));
    let paths = spawns::paths(&elf, &elf, &polls.collect());
    assert!(paths.into_values().flatten().all(|path| !path.is_empty()));
    for segment in elf.segments() {
        let end = segment.vaddr.wrapping_add(segment.file_size);
        for vaddr in [segment.vaddr, end, end.wrapping_sub(1)] {
            let _ = (elf.file_offset(vaddr), elf.vaddr(vaddr));
            let _ = elf.bytes_at(vaddr, usize::MAX);
        }
    }
});
