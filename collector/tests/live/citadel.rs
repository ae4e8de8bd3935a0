//! The first users' program: a real Citadel server under load.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::holdup::{self, record};
use crate::kernel::Loaded;
use crate::stacks::incomplete;
use crate::workload::{Workload, program};

/// The crates whose work is to be recognized, as they appear in a function's name.
const CITADEL: [&str; 4] = [
    "citadel_crypt::",
    "citadel_pqcrypto::",
    "citadel_proto::",
    "citadel_sdk::",
];
const CRYPTO: [&str; 13] = [
    "citadel_crypt::",
    "citadel_pqcrypto::",
    "aes::",
    "aes_gcm::",
    "chacha20poly1305::",
    "ascon",
    "sha3::",
    "argon2",
    "pqcrypto",
    "oqs",
    "ml_dsa::",
    "keccak::",
    "kyber",
];

/// Frames of a picture that carry a file and a line, by their titles.
fn frames_with_a_line(svg: &str) -> Vec<&str> {
    svg.split("<title>")
        .skip(1)
        .filter_map(|rest| rest.split("</title>").next())
        .filter(|title| title.contains(".rs:") || title.contains(".c:"))
        .collect()
}

/// A server, and six clients that have just begun.
pub fn server_under_load() -> (Workload, Workload) {
    let server =
        Workload::spawn(Command::new(program("CITADEL_SERVER")).args(["--seconds", "120"]));
    server.wait_for("ready");
    let address = server
        .lines()
        .iter()
        .find_map(|line| Some(line.split_once("address=")?.1.trim().to_owned()))
        .expect("it says where it is");
    let load = Workload::spawn(Command::new(program("CITADEL_LOAD")).args([
        "--server",
        &address,
        "--clients",
        "6",
        "--seconds",
        "40",
    ]));
    (server, load)
}

/// Under load, the server's blocking work is drawn with the names of its crates and of the crypto crates, one
/// finding at least names a crypto call site, and holdup is there and gone quickly.
#[test]
#[ignore = "live: cargo xtask test"]
fn blocking_work_of_a_server_under_load() {
    let before = Loaded::now();
    let (server, load) = server_under_load();
    // The first clients are registered and connected by then.
    thread::sleep(Duration::from_secs(5));
    let recorded = record(server.pid, "20s");
    println!("{}", recorded.run.stdout);
    before.expect_nothing_new();
    drop(load);
    server.stop();

    let report = &recorded.report;
    println!("coverage: {}", report.coverage());
    let [attached, detached] =
        ["attached", "detached"].map(|what| holdup::said_duration(&recorded.run, what));
    println!("attached in {attached:?}, detached in {detached:?}");
    assert!(!report.long_polls().is_empty());
    assert_eq!(incomplete(report), Vec::<String>::new());
    assert_eq!(report.stacks_not_stored(), Some(0));

    let svg = recorded.svg("blocking.svg");
    let frames = frames_with_a_line(&svg);
    for (what, crates) in [("citadel", &CITADEL[..]), ("crypto", &CRYPTO[..])] {
        let found = frames
            .iter()
            .find(|frame| crates.iter().any(|name| frame.contains(name)));
        println!("{what}: {found:?}");
        assert!(
            found.is_some(),
            "blocking.svg has no frame of {what} with file and line"
        );
    }
    let crypto_call_site = report.sentences().into_iter().find(|sentence| {
        CRYPTO.iter().any(|name| sentence.contains(name))
            && (sentence.contains(".rs:") || sentence.contains(".c:"))
    });
    assert!(
        crypto_call_site.is_some(),
        "no finding names a crypto call site: {:#?}",
        report.sentences()
    );

    assert!(attached < Duration::from_secs(2));
    assert!(detached < Duration::from_secs(1));
}
