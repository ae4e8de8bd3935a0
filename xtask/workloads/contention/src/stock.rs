//! std's locks that are fought over: `stock`, a mutex, and `prices`, a reader-writer lock on the heap.

use std::sync::{LazyLock, Mutex, RwLock};
use std::thread;

use serde_json::Value;

use crate::locks::{Named, std_lock, std_read, std_write};
use crate::pace::{self, stopping};

pub struct Stock {
    items: u64,
}

pub struct Prices {
    version: u64,
}

static STOCK: Named<Mutex<Stock>> = Named {
    name: "stock",
    lock: Mutex::new(Stock { items: 0 }),
};
static PRICES: LazyLock<Box<Named<RwLock<Prices>>>> = LazyLock::new(|| {
    Box::new(Named {
        name: "prices",
        lock: RwLock::new(Prices { version: 0 }),
    })
});

pub fn lines() -> [Value; 2] {
    [STOCK.line(), PRICES.line()]
}

/// A thread that now and then holds `stock` for long.
pub fn take_stock(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut stock = std_lock!(STOCK);
            stock.items += 1;
            thread::sleep(pace::millis(&mut rng, 6.0..20.0));
        }
        thread::sleep(pace::millis(&mut rng, 60.0..120.0));
    }
}

/// A thread that holds `stock` for a moment.
pub fn pick_items(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut stock = std_lock!(STOCK);
            stock.items += 1;
            thread::sleep(pace::millis(&mut rng, 0.2..3.0));
        }
        thread::sleep(pace::millis(&mut rng, 15.0..40.0));
    }
}

/// A task that needs `stock` in its poll.
pub async fn reserve_items(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut stock = std_lock!(STOCK);
            stock.items += 1;
            thread::sleep(pace::millis(&mut rng, 0.5..3.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// A thread that writes `prices` for long.
pub fn import_prices(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut prices = std_write!(PRICES);
            prices.version += 1;
            thread::sleep(pace::millis(&mut rng, 4.0..20.0));
        }
        thread::sleep(pace::millis(&mut rng, 60.0..120.0));
    }
}

/// A thread that reads `prices` for a while.
pub fn print_catalog(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _prices = std_read!(PRICES);
            thread::sleep(pace::millis(&mut rng, 1.0..6.0));
        }
        thread::sleep(pace::millis(&mut rng, 15.0..40.0));
    }
}

/// A task that reads `prices` in its poll.
pub async fn quote_price(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let _prices = std_read!(PRICES);
        }
        tokio::time::sleep(pace::millis(&mut rng, 10.0..30.0)).await;
    }
}

/// A task that writes `prices` in its poll: it waits for the readers.
pub async fn change_price(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut prices = std_write!(PRICES);
            prices.version += 1;
            thread::sleep(pace::millis(&mut rng, 0.5..3.0));
        }
        tokio::time::sleep(pace::millis(&mut rng, 40.0..100.0)).await;
    }
}
