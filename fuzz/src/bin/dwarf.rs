//! Whatever debug information says: the searches for the polls' types and for the fast paths of locks end, and have not read
//! past its bounds. What enters is a whole file, or sections for one.
#![no_main]

use holdup::target::{Elf, dwarf, fast_paths};
use holdup_fuzz::{elf, pieces};
use libfuzzer_sys::fuzz_target;

const SECTIONS: [&str; 6] = [
    ".debug_abbrev",
    ".debug_str",
    ".debug_str_offsets",
    ".debug_addr",
    ".debug_line_str",
    ".debug_info",
];

fuzz_target!(|data: &[u8]| {
    let made;
    let file = if data.starts_with(b"\x7fELF") {
        data
    } else {
        let sections: Vec<_> = SECTIONS
            .into_iter()
            .zip(pieces(data, SECTIONS.len()))
            .collect();
        made = elf(&sections);
        &made
    };
    let Ok(file) = Elf::parse(file) else { return };
    let found = dwarf::poll_instances_of_file(&file, None);
    // Malformed sections are an error, which is as good as a number.
    let _ = fast_paths::copies_of_file(&file);
    for instance in &found.instances {
        assert!(found.describes(instance.vaddr));
    }
});
