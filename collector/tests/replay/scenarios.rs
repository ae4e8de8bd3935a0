//! Recordings of the contention workload, a scenario each, give the reports that lie beside them.
//!
//! `scenarios/NAME.holdup.zst` is a capture and `NAME.txt` what a person is told about it. After a wanted change of the
//! report: `HOLDUP_WRITE_GOLDEN=1 cargo test -p holdup --test replay`, and read the difference. After a change of what is
//! recorded: `cargo xtask golden`, which records them all anew.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use holdup::capture::{self, EndReason, checksum};
use holdup::classify::Rules;
use holdup::render;
use holdup::report::{self, Report, WorkerRole};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::reported;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/scenarios")
}

/// The scenarios by name, with their captures.
fn captures() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder()).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(".holdup.zst")) else {
            continue;
        };
        let compressed = fs::read(&path).expect("it can be read");
        let mut capture = Vec::new();
        StreamingDecoder::new(compressed.as_slice())
            .expect("a zstd frame")
            .read_to_end(&mut capture)
            .expect("a whole one");
        found.push((name.to_owned(), capture));
    }
    found.sort();
    found
}

fn capture_of(scenario: &str) -> Vec<u8> {
    let mut captures = captures().into_iter();
    let (_, capture) = captures
        .find(|(name, _)| name == scenario)
        .expect("it is there");
    capture
}

/// Every line that a person reads, for every scenario.
#[test]
fn scenarios_tell_what_they_told() {
    if let Some(recorded) = std::env::var_os("HOLDUP_GOLDEN_CAPTURES") {
        take_over(Path::new(&recorded));
    }
    let captures = captures();
    assert!(captures.len() >= 12, "{} scenarios", captures.len());
    for (name, bytes) in captures {
        let (capture, report) = reported(&bytes).expect("a capture");
        assert_ne!(capture.end.reason, EndReason::Truncated, "{name}");
        let told = render::terminal(&report, false);
        let path = folder().join(format!("{name}.txt"));
        if std::env::var_os("HOLDUP_WRITE_GOLDEN").is_some() {
            fs::write(&path, &told).expect("the golden report is writable");
        }
        let golden = fs::read_to_string(&path).expect("the golden report is there");
        for (n, (line, expected)) in told.lines().zip(golden.lines()).enumerate() {
            assert_eq!(line, expected, "line {} of {}", n + 1, path.display());
        }
        assert_eq!(told.len(), golden.len(), "{name}: one is longer");
        // The terminal folds white space; JSON does not.
        for finding in &report.findings {
            for text in [&finding.sentence, &finding.explanation] {
                assert!(!text.contains("  "), "{name}: {text:?}");
            }
        }
    }
}

/// Each long poll is in the timeline, as high as its lane whatever it was made of.
#[test]
fn long_polls_in_the_timeline() {
    for scenario in ["anatomy", "mixed", "queue"] {
        let (_, mut report) = reported(&capture_of(scenario)).expect("a capture");
        // A thread that never came out of its first poll is in no slice.
        let stuck = report.long_polls[0].tid;
        report.workers.retain(|worker| worker.tid != stuck);
        let drawn = render::timeline(&report, "title", "coverage");
        let drawn = String::from_utf8(drawn).expect("text");
        // By what is told of the poll: a rectangle for each of its parts.
        let mut heights: BTreeMap<&str, f64> = BTreeMap::new();
        for rect in drawn.split("<rect ").skip(1) {
            let Some((rect, tip)) = rect.split_once("><title>") else {
                continue;
            };
            let tip = tip.split("</title>").next().expect("it has an end");
            if tip.contains("blocked this thread for") {
                let height = rect.split("height=\"").nth(1).expect("it has a height");
                let height = height
                    .split('"')
                    .next()
                    .and_then(|it| it.parse::<f64>().ok());
                *heights.entry(tip).or_default() += height.expect("a number");
            }
        }
        assert_eq!(heights.len(), report.long_polls.len(), "{scenario}");
        assert!(heights.len() > 10, "{scenario}: {}", heights.len());
        for (tip, height) in heights {
            assert!((height - 40.0).abs() < 0.05, "{scenario}: {height}: {tip}");
        }
    }
}

/// A thread of the blocking pool that `block_in_place` made a worker still ran what it ran.
#[test]
fn blocking_tasks_on_a_thread_that_became_a_worker() {
    let (_, mut report) = reported(&capture_of("spawn-blocking")).expect("a capture");
    let of_pool = |report: &Report| {
        let told = render::terminal(report, false);
        let line = told.lines().find(|line| line.contains("Blocking pool:"));
        line.expect("it is told of").to_owned()
    };
    let told = of_pool(&report);
    assert!(told.contains(" on 1 thread;"), "{told}");
    for thread in &mut report.workers {
        thread.role = WorkerRole::Worker;
    }
    assert_eq!(of_pool(&report), told);
}

/// What was not looked at is not told as nothing, and what was looked at in part not as all.
#[test]
fn tasks_stolen_where_wakes_were_not_all_seen() {
    let (mut capture, seen) = reported(&capture_of("queue")).expect("a capture");
    let stolen = seen.workers[0].stolen.expect("wakes were seen");
    assert!(stolen > 0);

    capture.meta.one_task_of = 16;
    let sampled = report::build(&capture, &Rules::embedded());
    assert_eq!(sampled.workers[0].stolen, Some(stolen));
    let told = render::terminal(&sampled, false);
    assert!(told.contains(&format!("  ≥{stolen}  worker ")), "{told}");

    for family in &mut capture.probes {
        if family.name == "wakes" {
            family.attached = 0;
        }
    }
    let unseen = report::build(&capture, &Rules::embedded());
    assert!(unseen.workers.iter().all(|worker| worker.stolen.is_none()));
    let told = render::terminal(&unseen, false);
    assert!(told.contains("s       -  worker "), "{told}");
}

/// Puts new captures in the place of the old ones.
fn take_over(recorded: &Path) {
    for entry in fs::read_dir(recorded).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "holdup")
        {
            continue;
        }
        let bytes = without_places(&fs::read(&path).expect("it can be read"));
        let name = path
            .file_name()
            .expect("it has one")
            .to_str()
            .expect("ours");
        let compressed = compress_to_vec(bytes.as_slice(), CompressionLevel::Fastest);
        fs::write(folder().join(format!("{name}.zst")), compressed).expect("writable");
    }
}

/// A capture without the names of folders on the machine that recorded it.
fn without_places(bytes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    let (file_header, mut rest) = bytes.split_at(HEADER);
    let mut out = file_header.to_vec();
    while let Some((header, behind)) = rest.split_at_checked(HEADER) {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        let (kind, length) = (word(0), word(4) as usize);
        let (payload, behind) = behind.split_at(length);
        let payload = match std::str::from_utf8(payload) {
            Ok(text) if text.starts_with(['{', '[']) => elsewhere(text).into_bytes(),
            _ => payload.to_vec(),
        };
        out.extend(kind.to_le_bytes());
        out.extend((payload.len() as u32).to_le_bytes());
        out.extend(checksum(kind, &payload).to_le_bytes());
        out.extend(payload);
        rest = behind;
    }
    assert!(capture::parse(out.as_slice(), out.len() as u64).is_ok());
    out
}

/// The text with other folders.
fn elsewhere(text: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut text = text.replace(root.to_str().expect("ours"), "/home/u/holdup");
    if let Some(home) = std::env::home_dir().and_then(|home| home.to_str().map(str::to_owned)) {
        text = text.replace(&format!("{home}/"), "/home/u/");
    }
    // Cargo names the folder of a registry after its host.
    const REGISTRY: &str = "/registry/src/";
    let mut parts = text.split(REGISTRY);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let behind = part.split_once('/').map_or("", |(_, behind)| behind);
        out.push_str(REGISTRY);
        out.push_str("mirror-1/");
        out.push_str(behind);
    }
    out
}
