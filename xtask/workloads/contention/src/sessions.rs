//! tokio's locks that tasks fight over, in pairs: one that is held across an await by some, and one that everybody
//! releases in the poll that acquired it. For that one there are tasks on threads of their own, since on a single
//! thread nobody could come to want it meanwhile.
//!
//! | | across an await | within one poll |
//! | --- | --- | --- |
//! | mutex | `sessions` | `visits` |
//! | reader-writer lock | `directory` | `settings` |
//! | semaphore | `uploads` | `encoders` |

use std::sync::LazyLock;
use std::thread;

use serde_json::Value;
use tokio::sync::{Mutex, RwLock, Semaphore};

use crate::locks::{Named, tokio_acquire, tokio_lock, tokio_read, tokio_write};
use crate::pace::{self, stopping};
use crate::task;

pub struct Sessions {
    renewed: u64,
}

pub struct Visits {
    count: u64,
}

pub struct Directory {
    version: u64,
}

pub struct Settings {
    version: u64,
}

static SESSIONS: Named<Mutex<Sessions>> = Named {
    name: "sessions",
    lock: Mutex::const_new(Sessions { renewed: 0 }),
};
static VISITS: LazyLock<Box<Named<Mutex<Visits>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "visits",
        lock: Mutex::new(Visits { count: 0 }),
    })
});
static DIRECTORY: LazyLock<Box<Named<RwLock<Directory>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "directory",
        lock: RwLock::new(Directory { version: 0 }),
    })
});
static SETTINGS: Named<RwLock<Settings>> = Named {
    name: "settings",
    lock: RwLock::const_new(Settings { version: 0 }),
};
static UPLOADS: Named<Semaphore> = Named {
    name: "uploads",
    lock: Semaphore::const_new(2),
};
static ENCODERS: LazyLock<Box<Named<Semaphore>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "encoders",
        lock: Semaphore::new(2),
    })
});

pub fn lines() -> [Value; 6] {
    [
        SESSIONS.line(),
        VISITS.line(),
        DIRECTORY.line(),
        SETTINGS.line(),
        UPLOADS.line(),
        ENCODERS.line(),
    ]
}

/// A task that holds `sessions` until something answers.
pub async fn renew_session(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut sessions = tokio_lock!(SESSIONS);
            tokio::time::sleep(pace::millis(&mut rng, 0.2..20.0)).await;
            sessions.renewed += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that holds `sessions` within its poll.
pub async fn count_sessions(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _sessions = tokio_lock!(SESSIONS);
            thread::sleep(pace::millis(&mut rng, 0.2..2.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that holds `visits` within its poll.
pub async fn count_visit(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut visits = tokio_lock!(VISITS);
            visits.count += 1;
            thread::sleep(pace::millis(&mut rng, 0.2..2.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 15.0..40.0)).await;
    }
}

/// A thread with a task on it.
pub fn sum_visits_apart(rng: fastrand::Rng) {
    task::run_alone(|| [task::spawn_alone("sum_visits", sum_visits(rng))]);
}

/// A task that holds `visits` within its poll for long.
async fn sum_visits(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut visits = tokio_lock!(VISITS);
            visits.count += 1;
            thread::sleep(pace::millis(&mut rng, 2.0..20.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that writes `directory` piece by piece.
pub async fn refresh_directory(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut directory = tokio_write!(DIRECTORY);
            tokio::time::sleep(pace::millis(&mut rng, 2.0..20.0)).await;
            directory.version += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 40.0..80.0)).await;
    }
}

/// A task that reads `directory` while it waits for something else.
pub async fn browse_directory(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _directory = tokio_read!(DIRECTORY);
            tokio::time::sleep(pace::millis(&mut rng, 0.2..8.0)).await;
        }
        tokio::time::sleep(pace::millis(&mut rng, 15.0..40.0)).await;
    }
}

/// A task that reads `directory` within its poll.
pub async fn resolve_name(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _directory = tokio_read!(DIRECTORY);
            thread::sleep(pace::millis(&mut rng, 0.2..0.8));
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A task that reads `settings` within its poll.
pub async fn read_settings(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _settings = tokio_read!(SETTINGS);
            thread::sleep(pace::millis(&mut rng, 0.2..0.8));
        }
        tokio::time::sleep(pace::millis(&mut rng, 15.0..40.0)).await;
    }
}

/// A thread with a task on it.
pub fn reload_settings_apart(rng: fastrand::Rng) {
    task::run_alone(|| [task::spawn_alone("reload_settings", reload_settings(rng))]);
}

/// A task that writes `settings` within its poll for long.
async fn reload_settings(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut settings = tokio_write!(SETTINGS);
            settings.version += 1;
            thread::sleep(pace::millis(&mut rng, 2.0..20.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 30.0..80.0)).await;
    }
}

/// A task that keeps one of `uploads` until it is through.
pub async fn upload(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _upload = tokio_acquire!(UPLOADS);
            tokio::time::sleep(pace::millis(&mut rng, 2.0..20.0)).await;
        }
        tokio::time::sleep(pace::millis(&mut rng, 5.0..30.0)).await;
    }
}

/// A task that needs one of `encoders` within its poll.
pub async fn encode_preview(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _encoder = tokio_acquire!(ENCODERS);
            thread::sleep(pace::millis(&mut rng, 0.2..0.8));
        }
        tokio::time::sleep(pace::millis(&mut rng, 15.0..40.0)).await;
    }
}

/// A thread with a task on it.
pub fn encode_movies_apart(rng: fastrand::Rng) {
    task::run_alone(|| [task::spawn_alone("encode_movie", encode_movie(rng))]);
}

/// A task that keeps one of `encoders` within its poll for long.
async fn encode_movie(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _encoder = tokio_acquire!(ENCODERS);
            thread::sleep(pace::millis(&mut rng, 4.0..20.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 10.0..30.0)).await;
    }
}
