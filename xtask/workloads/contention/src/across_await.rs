//! Locks that are held across an await while others wait and nobody works on what they wait for: a task acquires
//! them in one poll and releases them in a later one, and in between its thread does something else. For each family there
//! is a lock beside it that the same kind of task releases in the poll that acquired it.
//!
//! | | across an await | within one poll |
//! | --- | --- | --- |
//! | tokio | `connections` | `limits` |
//! | parking_lot | `snapshot`, `archive` (a reader-writer lock, written) | `roster` |
//! | std | `replica`, `journal` (a reader-writer lock, read) | `lag` |
//!
//! Guards of parking_lot and std are not `Send`, so those tasks belong to a thread of their own. Each lock is
//! wanted by one task of that thread alone: a second one would wait for the first, and keep it from being polled.

use std::sync::LazyLock;
use std::thread;

use serde_json::Value;

use crate::locks::{Named, lock, read, std_lock, std_read, std_write, tokio_lock, write};
use crate::pace::{self, stopping};
use crate::task;

pub struct Connections {
    open: u64,
}

pub struct Limits {
    checked: u64,
}

pub struct Snapshot {
    taken: u64,
}

pub struct Archive {
    version: u64,
}

pub struct Roster {
    entries: u64,
}

pub struct Replica {
    version: u64,
}

pub struct Journal {
    entries: u64,
}

pub struct Lag {
    measured: u64,
}

static CONNECTIONS: Named<tokio::sync::Mutex<Connections>> = Named {
    name: "connections",
    lock: tokio::sync::Mutex::const_new(Connections { open: 0 }),
};
static LIMITS: LazyLock<Box<Named<tokio::sync::Mutex<Limits>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "limits",
        lock: tokio::sync::Mutex::new(Limits { checked: 0 }),
    })
});
static SNAPSHOT: Named<parking_lot::Mutex<Snapshot>> = Named {
    name: "snapshot",
    lock: parking_lot::Mutex::new(Snapshot { taken: 0 }),
};
static ARCHIVE: LazyLock<Box<Named<parking_lot::RwLock<Archive>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "archive",
        lock: parking_lot::RwLock::new(Archive { version: 0 }),
    })
});
static ROSTER: Named<parking_lot::Mutex<Roster>> = Named {
    name: "roster",
    lock: parking_lot::Mutex::new(Roster { entries: 0 }),
};
static REPLICA: Named<std::sync::Mutex<Replica>> = Named {
    name: "replica",
    lock: std::sync::Mutex::new(Replica { version: 0 }),
};
static JOURNAL: LazyLock<Box<Named<std::sync::RwLock<Journal>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "journal",
        lock: std::sync::RwLock::new(Journal { entries: 0 }),
    })
});
static LAG: Named<std::sync::Mutex<Lag>> = Named {
    name: "lag",
    lock: std::sync::Mutex::new(Lag { measured: 0 }),
};

pub fn lines() -> [Value; 8] {
    [
        CONNECTIONS.line(),
        LIMITS.line(),
        SNAPSHOT.line(),
        ARCHIVE.line(),
        ROSTER.line(),
        REPLICA.line(),
        JOURNAL.line(),
        LAG.line(),
    ]
}

/// A task that keeps everybody from `connections` while it waits for the others to hang up.
pub async fn drain_connections(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut connections = tokio_lock!(CONNECTIONS);
            tokio::time::sleep(pace::millis(&mut rng, 3.0..30.0)).await;
            connections.open = 0;
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that wants `connections` for a moment.
pub async fn open_connection(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut connections = tokio_lock!(CONNECTIONS);
            connections.open += 1;
            thread::sleep(pace::millis(&mut rng, 0.2..1.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 10.0..30.0)).await;
    }
}

/// A thread with a task on it.
pub fn set_limits_apart(rng: fastrand::Rng) {
    task::run_alone(|| [task::spawn_alone("set_limits", set_limits(rng))]);
}

/// A task that holds `limits` within its poll, for as long as others are held across an await.
async fn set_limits(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _limits = tokio_lock!(LIMITS);
            thread::sleep(pace::millis(&mut rng, 3.0..30.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that wants `limits` for a moment.
pub async fn check_limit(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut limits = tokio_lock!(LIMITS);
            limits.checked += 1;
            thread::sleep(pace::millis(&mut rng, 0.2..0.6));
        }
        tokio::time::sleep(pace::millis(&mut rng, 10.0..30.0)).await;
    }
}

/// A thread with the tasks on it that share parking_lot's locks with other threads.
pub fn host_snapshots(mut rng: fastrand::Rng) {
    task::run_alone(|| {
        [
            task::spawn_alone("take_snapshot", take_snapshot(rng.fork())),
            task::spawn_alone("compact_archive", compact_archive(rng.fork())),
            task::spawn_alone("list_roster", list_roster(rng.fork())),
        ]
    });
}

/// A task that holds `snapshot` across an await.
async fn take_snapshot(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut snapshot = lock!(SNAPSHOT);
            tokio::time::sleep(pace::millis(&mut rng, 3.0..30.0)).await;
            snapshot.taken += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that writes `archive` across an await.
async fn compact_archive(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut archive = write!(ARCHIVE);
            tokio::time::sleep(pace::millis(&mut rng, 3.0..30.0)).await;
            archive.version += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that holds `roster` within its poll, between the polls of the others.
async fn list_roster(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut roster = lock!(ROSTER);
            roster.entries += 1;
            thread::sleep(pace::millis(&mut rng, 1.0..6.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 10.0..30.0)).await;
    }
}

/// A thread that wants each of parking_lot's locks for a moment, one after the other.
pub fn read_archive(mut rng: fastrand::Rng) {
    while !stopping() {
        let moment = pace::millis(&mut rng, 0.2..1.0);
        {
            let mut snapshot = lock!(SNAPSHOT);
            snapshot.taken += 1;
            thread::sleep(moment);
        }
        thread::sleep(pace::millis(&mut rng, 2.0..10.0));
        {
            let _archive = read!(ARCHIVE);
            thread::sleep(moment);
        }
        thread::sleep(pace::millis(&mut rng, 2.0..10.0));
        {
            let mut roster = lock!(ROSTER);
            roster.entries += 1;
            thread::sleep(moment);
        }
        thread::sleep(pace::millis(&mut rng, 2.0..10.0));
    }
}

/// A thread with the tasks on it that share std's locks with other threads.
pub fn host_replicas(mut rng: fastrand::Rng) {
    task::run_alone(|| {
        [
            task::spawn_alone("sync_replica", sync_replica(rng.fork())),
            task::spawn_alone("ship_journal", ship_journal(rng.fork())),
            task::spawn_alone("measure_lag", measure_lag(rng.fork())),
        ]
    });
}

/// A task that holds `replica` across an await.
async fn sync_replica(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut replica = std_lock!(REPLICA);
            tokio::time::sleep(pace::millis(&mut rng, 3.0..30.0)).await;
            replica.version += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that reads `journal` across an await.
async fn ship_journal(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _journal = std_read!(JOURNAL);
            tokio::time::sleep(pace::millis(&mut rng, 3.0..30.0)).await;
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that holds `lag` within its poll, between the polls of the others.
async fn measure_lag(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut lag = std_lock!(LAG);
            lag.measured += 1;
            thread::sleep(pace::millis(&mut rng, 1.0..6.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 10.0..30.0)).await;
    }
}

/// A thread that wants each of std's locks for a moment, one after the other.
pub fn read_replica(mut rng: fastrand::Rng) {
    while !stopping() {
        let moment = pace::millis(&mut rng, 0.2..1.0);
        {
            let mut replica = std_lock!(REPLICA);
            replica.version += 1;
            thread::sleep(moment);
        }
        thread::sleep(pace::millis(&mut rng, 2.0..10.0));
        {
            let mut journal = std_write!(JOURNAL);
            journal.entries += 1;
            thread::sleep(moment);
        }
        thread::sleep(pace::millis(&mut rng, 2.0..10.0));
        {
            let mut lag = std_lock!(LAG);
            lag.measured += 1;
            thread::sleep(moment);
        }
        thread::sleep(pace::millis(&mut rng, 2.0..10.0));
    }
}
