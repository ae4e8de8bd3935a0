//! `report.json`. Its schema is `report::model`'s documentation.

use crate::report::Report;

/// Pretty, because people read it in an incident; ends with a line break.
pub fn json(report: &Report) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(report)
        .expect("a report is maps with text keys, lists, numbers and text");
    bytes.push(b'\n');
    bytes
}
