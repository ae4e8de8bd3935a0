//! Whatever is in a capture, which may come from anybody: it is read, refused or cut, and a report can be made of what
//! was read. Versions and checksums are put right first: they keep nobody from writing nonsense, but a fuzzer.
#![no_main]

use holdup::classify::Rules;
use holdup::{capture, render, report};
use holdup_probe_ebpf::wire::WIRE_VERSION;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static RULES: Rules = Rules::embedded();
}

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    mend(&mut file);
    let Ok(capture) = capture::parse(file.as_slice(), file.len() as u64) else {
        return;
    };
    let report = RULES.with(|rules| report::build(&capture, rules));
    let _ = render::json(&report);
    let _ = render::terminal(&report, true);
    let _ = render::timeline(&report, "title", "subtitle");
    let _ = render::svg(&report.blocking, "microseconds", "title", "subtitle");
    let _ = render::svg(&report.lock_wait, "microseconds", "title", "subtitle");
});

/// Kind, length and checksum of a section.
const HEADER: usize = 12;

fn mend(file: &mut [u8]) {
    const MAGIC: &[u8] = b"\x89HOLDUP\n\x01\0\0\0";
    if file.len() < MAGIC.len() {
        return;
    }
    file[..MAGIC.len()].copy_from_slice(MAGIC);
    let mut at = MAGIC.len();
    while let Some(header) = file.get(at..at + HEADER) {
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (kind, length) = (word(0), word(4) as usize);
        let Some(payload) = file
            .get_mut(at + HEADER..)
            .and_then(|rest| rest.get_mut(..length))
        else {
            return;
        };
        mend_version(payload);
        let checksum = capture::checksum(kind, payload).to_le_bytes();
        file[at + 8..at + HEADER].copy_from_slice(&checksum);
        at += HEADER + length;
    }
}

/// The version in the meta data is one digit, as long as there are fewer than ten.
fn mend_version(json: &mut [u8]) {
    const FIELD: &[u8] = b"\"wire_version\":";
    let Some(at) = json.windows(FIELD.len()).position(|window| window == FIELD) else {
        return;
    };
    if let ([digit], Some(place)) = (
        WIRE_VERSION.to_string().as_bytes(),
        json.get_mut(at + FIELD.len()),
    ) {
        *place = *digit;
    }
}
