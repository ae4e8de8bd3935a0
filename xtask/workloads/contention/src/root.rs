//! A main future that does the work itself: given to `block_on`, it is no task, and on a current-thread runtime it blocks
//! all that are.

use std::thread;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::handshake::{Suite, derive_session_key};
use crate::pace;

/// One poll after the other, every third of them short, until `stop` says so.
pub async fn serve(stop: &Notify, mut rng: fastrand::Rng) {
    for round in 0_u32.. {
        match round % 3 {
            0 => {
                derive_session_key(Suite::Blake3, pace::millis(&mut rng, 6.0..12.0));
            }
            1 => wait_for_printer(&mut rng),
            _ => {}
        }
        let pause = pace::millis(&mut rng, 2.0..15.0);
        if timeout(pause, stop.notified()).await.is_ok() {
            return;
        }
    }
}

#[inline(never)]
fn wait_for_printer(rng: &mut fastrand::Rng) {
    thread::sleep(pace::millis(rng, 6.0..12.0));
}
