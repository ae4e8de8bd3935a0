//! Reader-writer locks that are fought over, on the heap: `routes`, and `catalog` with upgrades.

use std::sync::LazyLock;
use std::thread;

use parking_lot::RwLock;
use serde_json::Value;

use crate::locks::{Named, read, upgradable_read, upgrade, write};
use crate::pace::{self, stopping};

static ROUTES: LazyLock<Box<Named<RwLock<u64>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "routes",
        lock: RwLock::new(0),
    })
});
static CATALOG: LazyLock<Box<Named<RwLock<u64>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "catalog",
        lock: RwLock::new(0),
    })
});

pub fn lines() -> [Value; 2] {
    [ROUTES.line(), CATALOG.line()]
}

/// A thread that rewrites the table for long.
pub fn rebuild(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut routes = write!(ROUTES);
            *routes += 1;
            thread::sleep(pace::millis(&mut rng, 6.0..20.0));
        }
        thread::sleep(pace::millis(&mut rng, 60.0..120.0));
    }
}

/// A thread that reads for a while.
pub fn walk(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _routes = read!(ROUTES);
            thread::sleep(pace::millis(&mut rng, 1.0..6.0));
        }
        thread::sleep(pace::millis(&mut rng, 10.0..30.0));
    }
}

/// A task that reads in its poll.
pub async fn look_up(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _routes = read!(ROUTES);
        }
        tokio::time::sleep(pace::millis(&mut rng, 5.0..20.0)).await;
    }
}

/// A task that writes in its poll: it waits for the readers.
pub async fn withdraw(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut routes = write!(ROUTES);
            *routes += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 30.0..80.0)).await;
    }
}

/// A thread that reads first and writes then, without letting anybody else in between.
pub fn amend(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let catalog = upgradable_read!(CATALOG);
            thread::sleep(pace::millis(&mut rng, 1.0..4.0));
            let mut catalog = upgrade!(CATALOG, catalog);
            *catalog += 1;
            thread::sleep(pace::millis(&mut rng, 2.0..8.0));
        }
        thread::sleep(pace::millis(&mut rng, 20.0..50.0));
    }
}

/// A thread that reads the catalog for a while.
pub fn browse(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _catalog = read!(CATALOG);
            thread::sleep(pace::millis(&mut rng, 2.0..8.0));
        }
        thread::sleep(pace::millis(&mut rng, 10.0..30.0));
    }
}

/// A task that amends the catalog in its poll, without dwelling on it.
pub async fn order(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let catalog = upgradable_read!(CATALOG);
            let mut catalog = upgrade!(CATALOG, catalog);
            *catalog += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 30.0..80.0)).await;
    }
}
