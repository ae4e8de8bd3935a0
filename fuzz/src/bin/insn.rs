//! Whatever stands where code should be: it is decoded or refused, and every answer lies in the code.
#![no_main]

use std::collections::BTreeSet;

use holdup::target::insn::{self, Callees, FirstInstruction};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((address, code)) = data.split_first_chunk::<8>() else {
        return;
    };
    let address = u64::from_le_bytes(*address);
    let _ = FirstInstruction::of(code);
    let _ = insn::return_site_probe(code, address);
    let _ = insn::tail_jump(code, address);
    assert!(insn::calls(code, address).count() <= code.len());
    assert!(insn::returns_of_first_entry_calls(code, address).count() <= code.len());
    let callees = Callees {
        functions: BTreeSet::from([address, 0]),
        places: BTreeSet::from([address, 0]),
    };
    assert!(insn::look_like_calls(code, address).count() <= code.len());
    assert!(insn::look_like_addresses(code, address).count() <= code.len());
    let _ = insn::transfers_before(code, address, u64::MAX);
    assert!(insn::returns_of_calls(code, address, &callees).count() <= code.len());
    let _ = insn::argument_compared_with(code, 1);
    let _ = (
        insn::dereferences_first_argument(code),
        insn::reads_first_argument(code),
    );
});
