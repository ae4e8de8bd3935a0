//! Whatever debug information says: the search for the polls' types ends, and has not read past its bounds. What enters
//! is a whole file, or sections for one.
#![no_main]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use holdup::target::debuginfo::DebugSearch;
use holdup::target::dwarf;
use holdup::target::image::Image;
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
    let bytes = if data.starts_with(b"\x7fELF") {
        data
    } else {
        let sections: Vec<_> = SECTIONS
            .into_iter()
            .zip(pieces(data, SECTIONS.len()))
            .collect();
        made = elf(&sections);
        &made
    };
    // In memory, and with no folder in which another file is looked for.
    let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.expect("a file in memory can be made"));
    file.write_all(bytes).expect("memory can be written");
    let search = DebugSearch::default();
    let Ok(image) = Image::new(&file, Path::new("/app"), &search) else {
        return;
    };
    if let Ok(found) = dwarf::poll_instances(&image, &search) {
        for instance in &found.instances {
            assert!(found.describes(instance.vaddr));
        }
    }
});
