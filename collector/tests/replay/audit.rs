//! An inventory, measured by the same recording.

use holdup::audit::{Audit, Inventory, Names, inventory_of, markdown, measure};
use holdup::event::Nanos;
use holdup::report::Certainty;

use super::{recording, reported};

const INVENTORY: &str = r#"
title = "Audit of app"

[[lock]]
name = "State"
crate = "app"
file = "app/src/state.rs"
lock = "parking_lot::Mutex<Shared>"
held_across_await = "No"
held_too_long = "No"
family = "parking_lot"
kind = "mutex"
protects = ["app::*::Shared"]

[[lock]]
name = "Flag"
crate = "app"
file = "app/src/state.rs"
lock = "AtomicBool"
held_across_await = "N/A"
held_too_long = "N/A"
no_lock = "an atomic, no lock"

[[lock]]
name = "Unused"
crate = "app"
file = "app/src/unused.rs"
lock = "parking_lot::RwLock<()>"
family = "parking_lot"
kind = "rw_lock"
protects = ["app::Unused"]

[[lock]]
name = "Feature"
crate = "app"
file = "app/src/feature.rs"
lock = "parking_lot::Mutex<Feature>"
family = "parking_lot"
kind = "mutex"
protects = ["app::Feature"]
only_with = "Feature"

[[lock]]
name = "Inbox"
crate = "app"
file = "app/src/inbox.rs"
lock = "std::sync::Mutex<Inbox>"
family = "std"
kind = "mutex"
protects = ["app::Inbox"]

[[site]]
name = "serve: argon2"
crate = "app"
file = "app/src/handshake.rs"
function = ["argon2::*"]
called_by = ["app::*"]

[[site]]
name = "serve: blake3"
crate = "app"
file = "app/src/handshake.rs"
function = ["blake3::*"]
"#;

struct Binary(Option<bool>);

impl Names for Binary {
    fn contain(&self, part: &str) -> Option<bool> {
        assert_eq!(part, "Feature");
        self.0
    }
}

fn measured(text: &str, names: Option<bool>) -> Audit {
    let inventory = Inventory::from_toml(text).expect("an inventory");
    let (capture, report) = reported(&recording::bytes()).expect("a whole capture");
    measure(&inventory, &capture, &report, &Binary(names))
}

/// Each row has what was seen of it, or why nothing was.
#[test]
fn rows() {
    let audit = measured(INVENTORY, Some(false));
    let seen = audit.locks[0].seen.as_ref().expect("it was waited for");
    assert_eq!(seen.instances, 2);
    assert_eq!(seen.waits, 11);
    assert_eq!(seen.wait_max_ns, Nanos(20_000_000));
    // One is still waiting.
    assert_eq!(seen.wait_certainty, Certainty::LowerBound);
    assert_eq!((seen.holds, seen.hold_longest_ns), (1, Nanos(19_400_000)));
    assert_eq!(seen.hold_certainty, Certainty::LowerBound);
    assert_eq!((seen.across_await, seen.held_too_long), (0, 1));
    let why = |row: usize| audit.locks[row].unseen_because.clone().unwrap_or_default();
    assert_eq!(why(0), "");
    assert_eq!(why(1), "an atomic, no lock");
    assert!(why(2).starts_with("no contention: "), "{}", why(2));
    assert!(
        why(3).starts_with("not compiled into this binary"),
        "{}",
        why(3)
    );
    assert!(
        why(4).starts_with("not probed in this binary (std_mutex)"),
        "{}",
        why(4)
    );
    // The RwLock is in no row.
    let names: Vec<&str> = audit
        .locks_in_no_row
        .iter()
        .map(|lock| lock.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["RwLock (parking_lot) locked at app::routes::look_up (app/src/routes.rs:30)"]
    );
}

/// Whether a lock is compiled in is not made up.
#[test]
fn what_only_the_binary_tells() {
    let why = |names| measured(INVENTORY, names).locks[3].unseen_because.clone();
    assert!(why(Some(true)).is_some_and(|why| why.starts_with("no contention")));
    assert!(why(None).is_some_and(|why| why.contains("which a capture does not tell")));
}

/// The tables, word for word.
#[test]
fn tables() {
    let text = markdown(&measured(INVENTORY, Some(false)));
    for line in [
        "# Audit of app, measured",
        "server, pid 4242 on node-3: 2.00 s recorded, 997 CPU samples for each second and CPU.",
        "| State | app | app/src/state.rs | parking_lot::Mutex&lt;Shared&gt; | No | No | yes, 2 instances | ≥ 11 | ≥ 25.0 ms, \
         ≥ 20.0 ms | ≥ 19.4 ms (1 hold seen) | not seen, in 1 hold | **≥ 1 time** |",
        "| Flag | app | app/src/state.rs | AtomicBool | N/A | N/A | no: an atomic, no lock | – | – | – | – | – |",
        "| serve: argon2 | app | app/src/handshake.rs | **≥ 3 times, longest ≈ 2.0 ms, in all ≈ 4.0 ms** | no sample |",
        "| serve: blake3 | app | app/src/handshake.rs | no sample | no sample |",
        "| RwLock (parking_lot) | app::routes::look_up (app/src/routes.rs:30) | 1 | 3 | 500 µs, 400 µs | no hold seen | no \
         hold seen | no hold seen |",
    ] {
        assert!(
            text.lines().any(|there| there == line),
            "{line}\nis missing in\n{text}"
        );
    }
}

/// An inventory that is made of a report has a row for each lock in it, and is read back as it was.
#[test]
fn a_new_inventory() {
    let (capture, report) = reported(&recording::bytes()).expect("a whole capture");
    let inventory = inventory_of(&report);
    let text = inventory.to_toml().expect("it can be written");
    assert_eq!(
        Inventory::from_toml(&text).expect("it can be read"),
        inventory,
        "{text}"
    );
    let audit = measure(&inventory, &capture, &report, &Binary(None));
    assert_eq!(audit.locks.len(), report.lock_types.len());
    assert!(audit.locks.iter().all(|row| row.seen.is_some()), "{text}");
    assert_eq!(audit.locks_in_no_row, []);
    assert_eq!(audit.locks_of_the_runtime, []);
    assert!(
        audit.sites.iter().any(|site| site.on_worker.at_least > 0),
        "{text}"
    );
}
