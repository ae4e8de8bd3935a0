//! Call frame information that says anything: a table is sorted, names only rules that there are, and is not longer
//! than its section can account for.
#![no_main]

use holdup::target::Elf;
use holdup::unwind::{Architecture, Frames, RuleSet, Table};
use libfuzzer_sys::fuzz_target;

fn check(table: &Table, rules: &RuleSet, section: usize) {
    assert!(table.rows.is_sorted_by(|a, b| a.place < b.place));
    assert!(
        table
            .rows
            .iter()
            .all(|row| (row.rule as usize) < rules.rules().len())
    );
    // Every row takes an instruction of at least a byte, and every function two rows more, for its start and its end.
    assert!(table.rows.len() <= 3 * section + 1);
    for row in &table.rows {
        assert_eq!(table.rule_at(table.base + u64::from(row.place)), row.rule);
    }
}

// Its first byte says what the rest is: a whole binary, or a section of one architecture.
fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let mut rules = RuleSet::default();
    if kind & 4 != 0 {
        let Ok(elf) = Elf::parse(data) else { return };
        if let Ok(table) = Table::of(&elf, &mut rules) {
            check(&table, &rules, data.len());
        }
        return;
    }
    let architecture = match kind & 1 {
        0 => Architecture::X86_64,
        _ => Architecture::Aarch64,
    };
    let frames = match kind & 2 {
        0 => Frames::EhFrame(data),
        _ => Frames::DebugFrame(data),
    };
    let table = Table::new(frames, 0x1000, 0x200, architecture, &mut rules);
    check(&table, &rules, data.len());
});
