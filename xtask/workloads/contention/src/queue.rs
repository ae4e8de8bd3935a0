//! Tasks that are ready and have to wait, each with its own measure of that: one task wakes all others and then keeps its
//! worker busy, so that they stand behind it in its queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::handshake::{Suite, derive_session_key};
use crate::pace::{self, stopping};
use crate::{task, truth};

/// How many stand behind the one.
pub const CLERKS: usize = 8;

/// Calls one clerk.
pub struct Bell {
    rings: Notify,
    /// When it rang and the clerk has not come yet, else 0.
    rang_ns: AtomicU64,
}

impl Bell {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            rings: Notify::new(),
            rang_ns: AtomicU64::new(0),
        })
    }

    fn ring(&self) {
        let free =
            self.rang_ns
                .compare_exchange(0, truth::now(), Ordering::Relaxed, Ordering::Relaxed);
        if free.is_ok() {
            self.rings.notify_one();
        }
    }
}

/// Calls all clerks, and then does what it should have left to them.
pub async fn keep_counter(bells: Vec<Arc<Bell>>, mut rng: fastrand::Rng) {
    while !stopping() {
        for bell in &bells {
            bell.ring();
        }
        derive_session_key(Suite::Sha2, pace::millis(&mut rng, 7.0..25.0));
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
    for bell in &bells {
        bell.rings.notify_one();
    }
}

/// Lets newcomers in, each a task of its own, and then does what it should have left to others.
pub async fn open_doors(mut rng: fastrand::Rng) {
    while !stopping() {
        for _ in 0..CLERKS {
            task::spawn("come_in", come_in(truth::now()));
        }
        derive_session_key(Suite::Sha2, pace::millis(&mut rng, 7.0..25.0));
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// Notes how long it had to wait for its first poll.
async fn come_in(spawned_ns: u64) {
    truth::delayed("come_in", spawned_ns);
}

/// Comes when called, and notes how long that took.
pub async fn attend_counter(bell: Arc<Bell>) {
    while !stopping() {
        bell.rings.notified().await;
        let rang_ns = bell.rang_ns.swap(0, Ordering::Relaxed);
        if rang_ns != 0 {
            truth::delayed("attend_counter", rang_ns);
        }
    }
}
