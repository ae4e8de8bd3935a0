//! `holdup audit`: an inventory, measured on a running program.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::exit_code;
use crate::holdup::{self, Run, command};
use crate::workload::Workload;

const INVENTORY: &str = r#"
title = "Contention"

[[lock]]
name = "accounts"
crate = "contention"
file = "src/accounts.rs"
lock = "parking_lot::Mutex<u64>"
family = "parking_lot"
kind = "mutex"
protects = ["u64"]
acquired_in = ["*/src/accounts.rs"]

[[lock]]
name = "not there"
crate = "contention"
file = "src/accounts.rs"
lock = "parking_lot::Mutex<Nobody>"
family = "parking_lot"
kind = "mutex"
protects = ["contention::Nobody"]

[[site]]
name = "on workers"
crate = "contention"
file = "src/handshake.rs"
function = ["contention::handshake::derive_session_key*"]
called_by = ["*::handshake_task*"]

[[site]]
name = "offloaded"
crate = "contention"
file = "src/scenarios.rs"
function = ["contention::handshake::derive_session_key*"]
called_by = ["*::archive_task*"]
"#;

fn audit(args: &[&str], dir: &TempDir) -> Run {
    holdup::run(command(["audit", "-o"]).arg(dir.path()).args(args))
}

fn json(dir: &TempDir) -> Value {
    let text = fs::read(dir.path().join("audit.json")).expect("it was written");
    serde_json::from_slice(&text).expect("it is JSON")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder's name is UTF-8")
}

/// What computed on a worker is told from what the blocking pool did, a lock that was fought for from one that nobody has; and
/// the same comes out of the capture again.
#[test]
#[ignore = "live: cargo xtask test"]
fn an_inventory_is_measured() {
    let workload = Workload::start(["--scenario", "crypto,mutex,spawn-blocking"]);
    let (dir, again) = (holdup::folder(), holdup::folder());
    let inventory = dir.path().join("inventory.toml");
    fs::write(&inventory, INVENTORY).expect("the folder is ours");
    let pid = workload.pid.to_string();
    let args = ["--pid", &pid, "-d", "5s", "--inventory", text(&inventory)];
    let run = audit(&args, &dir).expect_code(0);
    workload.stop();
    let measured = json(&dir);
    println!("{}", run.stdout);
    let accounts = &measured["locks"][0]["seen"];
    assert!(accounts["waits"].as_u64() > Some(5), "{measured:#}");
    assert!(
        accounts["wait_max_ns"].as_u64() > Some(1_000_000),
        "{measured:#}"
    );
    assert!(accounts["holds"].as_u64() > Some(0), "{measured:#}");
    let why = measured["locks"][1]["unseen_because"]
        .as_str()
        .expect("a reason");
    assert!(why.starts_with("nobody was seen to take it"), "{why}");
    let ran = |site: usize, place: &str| measured["sites"][site][place]["at_least"].as_u64();
    assert!(ran(0, "on_worker") > Some(5), "{measured:#}");
    assert_eq!(ran(0, "on_blocking_pool"), Some(0), "{measured:#}");
    assert_eq!(ran(1, "on_worker"), Some(0), "{measured:#}");
    assert!(ran(1, "on_blocking_pool") > Some(0), "{measured:#}");
    assert!(
        run.stdout
            .contains("| accounts | contention | src/accounts.rs |")
    );

    let capture = dir.path().join("capture.holdup");
    let args = ["--capture", text(&capture), "--inventory", text(&inventory)];
    let from_capture = audit(&args, &again).expect_code(0);
    assert_eq!(from_capture.stdout, run.stdout);
}

/// Without an inventory there is one to begin with, and what it makes fits what it was made of.
#[test]
#[ignore = "live: cargo xtask test"]
fn an_inventory_is_begun() {
    let workload = Workload::start(["--scenario", "crypto,mutex,rwlock"]);
    let (dir, again) = (holdup::folder(), holdup::folder());
    let pid = workload.pid.to_string();
    let target = ["--pid", &pid, "-d", "4s"];
    audit(&target, &dir)
        .expect_code(exit_code::USAGE)
        .expect_error(&["--init", "--inventory", "citadel"]);
    let inventory = dir.path().join("new.toml");
    let init = [&target[..], &["--init", text(&inventory)]].concat();
    audit(&init, &dir).expect_code(0);
    // What somebody may have worked on is not written over.
    audit(&init, &dir).expect_code(exit_code::OUTPUT_NOT_WRITABLE);
    let use_it = ["--inventory", text(&inventory)];
    let capture = dir.path().join("capture.holdup");
    let of_it = [&["--capture", text(&capture)], &use_it[..]].concat();
    audit(&of_it, &again).expect_code(0);
    let made_of = json(&again);
    let locks = made_of["locks"].as_array().expect("a list");
    assert!(locks.len() >= 2, "{made_of:#}");
    let is_seen = |lock: &&Value| !lock["seen"].is_null();
    assert!(locks.iter().all(|lock| is_seen(&lock)), "{made_of:#}");
    // Later, somebody need not wait again for each of them.
    audit(&[&target[..], &use_it].concat(), &again).expect_code(0);
    workload.stop();
    let measured = json(&again);
    let later = measured["locks"].as_array().expect("a list");
    assert_eq!(later.len(), locks.len(), "{measured:#}");
    assert!(later.iter().filter(is_seen).count() >= 2, "{measured:#}");
    let sites = measured["sites"].as_array().expect("a list");
    assert!(
        sites
            .iter()
            .any(|site| site["on_worker"]["at_least"].as_u64() > Some(0)),
        "{measured:#}"
    );
}

/// What is no inventory is said before anything is recorded.
#[test]
#[ignore = "live: cargo xtask test"]
fn a_broken_inventory() {
    let workload = Workload::start(["--quiet"]);
    let dir = holdup::folder();
    let inventory = dir.path().join("inventory.toml");
    fs::write(&inventory, INVENTORY.replace("kind = \"mutex\"", "")).expect("the folder is ours");
    let pid = workload.pid.to_string();
    let run = audit(&["--pid", &pid, "--inventory", text(&inventory)], &dir)
        .expect_code(exit_code::USAGE)
        .expect_error(&["accounts", "kind"]);
    assert!(run.took < Duration::from_secs(5));
}

mod citadel {
    use super::*;
    use crate::citadel::server_under_load;

    /// Citadel's own audit of a server under load: all its rows, and each measured or with the reason why not.
    #[test]
    #[ignore = "live: cargo xtask test"]
    fn the_whole_inventory() {
        let (server, load) = server_under_load();
        let dir = holdup::folder();
        let pid = server.pid.to_string();
        // From the start of the load on: clients register only once.
        let run = audit(&["--pid", &pid, "-d", "25s"], &dir).expect_code(0);
        drop(load);
        server.stop();
        println!("{}", run.stdout);
        let measured = json(&dir);
        let locks = measured["locks"].as_array().expect("a list");
        assert_eq!(locks.len(), 14);
        for lock in locks {
            assert_ne!(
                lock["seen"].is_null(),
                lock["unseen_because"].is_null(),
                "{lock:#}"
            );
        }
        let of = |name: &str| {
            locks
                .iter()
                .find(|lock| lock["name"] == name)
                .unwrap_or_else(|| panic!("there is no row {name}"))
        };
        assert_eq!(
            of("Update-in-progress toggle")["unseen_because"],
            "an atomic, no lock: nobody waits for it or holds it"
        );
        let webrtc = of("WebRTC compat recv_half")["unseen_because"].to_string();
        assert!(webrtc.contains("not compiled into this binary"), "{webrtc}");
        let toolset = of("Toolset state (session crypto)");
        assert!(toolset["seen"]["holds"].as_u64() > Some(0), "{toolset:#}");
        // In no row of the audit, and the most used of all.
        for locked in [
            "StateContainerInner<",
            "SessionManagerInner<",
            "OrderedChannelState<",
        ] {
            assert!(
                run.stdout.contains(&locked.replace('<', "&lt;")),
                "no lock around a {locked}…>"
            );
        }
        // A server re-keys as Bob, on the blocking pool.
        let sites = measured["sites"].as_array().expect("a list");
        assert_eq!(sites.len(), 12);
        let committed = sites
            .iter()
            .filter(|site| {
                site["name"]
                    .as_str()
                    .is_some_and(|name| name.contains("update_sync_safe"))
            })
            .any(|site| site["on_blocking_pool"]["at_least"].as_u64() > Some(0));
        assert!(committed, "{measured:#}");
    }
}
