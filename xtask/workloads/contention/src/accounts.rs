//! Mutexes that are fought over: `accounts` by threads and tasks, `ledger` with timeouts, `mailbox` with a
//! condition.

use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use crate::handshake::{Suite, derive_session_key};
use crate::locks::{Named, lock, lock_for};
use crate::pace::{self, stopping};
use crate::truth;

static ACCOUNTS: Named<Mutex<u64>> = Named {
    name: "accounts",
    lock: Mutex::new(0),
};
static LEDGER: Named<Mutex<u64>> = Named {
    name: "ledger",
    lock: Mutex::new(0),
};
static MAILBOX: Named<Mutex<u64>> = Named {
    name: "mailbox",
    lock: Mutex::new(0),
};
static MAIL: Condvar = Condvar::new();

pub fn lines() -> [Value; 3] {
    [ACCOUNTS.line(), LEDGER.line(), MAILBOX.line()]
}

/// A thread that now and then holds `accounts` for long: the one the others wait for.
pub fn audit(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut accounts = lock!(ACCOUNTS);
            *accounts += 1;
            thread::sleep(pace::millis(&mut rng, 8.0..30.0));
        }
        thread::sleep(pace::millis(&mut rng, 60.0..120.0));
    }
}

/// A thread that holds `accounts` for a moment.
pub fn serve_counter(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut accounts = lock!(ACCOUNTS);
            *accounts += 1;
            thread::sleep(pace::millis(&mut rng, 0.5..3.0));
        }
        thread::sleep(pace::millis(&mut rng, 15.0..40.0));
    }
}

/// A task that needs `accounts` in its poll: as long as somebody else has it, its runtime is blocked.
pub async fn transfer(mut rng: fastrand::Rng) {
    while !stopping() {
        book(1);
        tokio::time::sleep(pace::millis(&mut rng, 10.0..40.0)).await;
    }
}

fn book(amount: u64) {
    let mut accounts = lock!(ACCOUNTS);
    *accounts += amount;
}

/// A task whose polls have everything in them: crypto, a lock wait, a sleep.
pub async fn settle(mut rng: fastrand::Rng) {
    while !stopping() {
        derive_session_key(Suite::any(&mut rng), pace::millis(&mut rng, 2.0..5.0));
        book(2);
        thread::sleep(pace::millis(&mut rng, 4.0..8.0));
        derive_session_key(Suite::any(&mut rng), pace::millis(&mut rng, 1.0..3.0));
        tokio::time::sleep(pace::millis(&mut rng, 100.0..250.0)).await;
    }
}

/// A thread that holds `ledger` longer than others have patience.
pub fn close_books(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut ledger = lock!(LEDGER);
            *ledger += 1;
            thread::sleep(pace::millis(&mut rng, 10.0..30.0));
        }
        thread::sleep(pace::millis(&mut rng, 30.0..60.0));
    }
}

/// A task that gives up waiting for `ledger`: soon enough, or too late for its runtime.
pub async fn peek(mut rng: fastrand::Rng) {
    while !stopping() {
        let patience = if rng.bool() { 2.0..3.5 } else { 7.0..12.0 };
        if let Some(mut ledger) = lock_for!(LEDGER, pace::millis(&mut rng, patience)) {
            *ledger += 1;
        }
        tokio::time::sleep(pace::millis(&mut rng, 15.0..40.0)).await;
    }
}

/// A thread that waits for mail: it waits for long and for nobody's lock. Waiting releases the mailbox.
pub fn collect_mail(_rng: fastrand::Rng) {
    let (mut hold, mut mailbox) = lock!(MAILBOX).into_parts();
    let mut seen = *mailbox;
    while !stopping() {
        while *mailbox == seen && !stopping() {
            drop(hold);
            let start_ns = truth::now();
            MAIL.wait_for(&mut mailbox, Duration::from_millis(500));
            truth::condvar_wait("mail", MAILBOX.addr(), start_ns);
            hold = truth::Hold::begin(MAILBOX.name, "mutex", MAILBOX.addr());
        }
        seen = *mailbox;
    }
    drop(hold);
}

/// A thread that notifies after it has left the lock, so that the woken one finds it free.
pub fn deliver_mail(mut rng: fastrand::Rng) {
    while !stopping() {
        *lock!(MAILBOX) += 1;
        MAIL.notify_one();
        thread::sleep(pace::millis(&mut rng, 30.0..80.0));
    }
}
