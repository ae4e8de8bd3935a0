//! Whatever /proc says of a process, whose paths and names it chooses itself: modules have their addresses, and the two
//! directions of the arithmetic agree.
#![no_main]

use holdup::target::process::Status;
use holdup::target::{Mapping, Modules};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Status::parse(&String::from_utf8_lossy(data));
    let modules = Modules::parse(data, Some(0x5000));
    let _ = modules.main();
    for module in modules.iter() {
        let _ = module.name();
        for Mapping { start, end, .. } in &module.code {
            for address in [*start, end - 1] {
                assert!(modules.find(address).is_some());
                if let Some(offset) = module.file_offset(address) {
                    assert!(module.address(offset).is_some());
                }
            }
        }
    }
});
