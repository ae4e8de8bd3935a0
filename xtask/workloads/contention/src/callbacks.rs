//! Polls that call nothing which blocks, but have it called: what is dropped in them, and who is woken by them.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use crate::handshake::{Suite, derive_session_key};
use crate::pace::{self, stopping};

/// A connection that says goodbye, and waits for the answer.
struct Connection {
    goodbye: Duration,
}

impl Drop for Connection {
    fn drop(&mut self) {
        thread::sleep(self.goodbye);
    }
}

/// Somebody who does the work when woken, in the waker's place.
struct Impatient {
    work: Duration,
}

impl Wake for Impatient {
    fn wake(self: Arc<Self>) {
        derive_session_key(Suite::Blake3, self.work);
    }
}

/// One after the other.
pub async fn hang_up(mut rng: fastrand::Rng) {
    while !stopping() {
        let goodbye = pace::millis(&mut rng, 6.0..12.0);
        drop(Connection { goodbye });
        tokio::time::sleep(pace::millis(&mut rng, 5.0..20.0)).await;
        let work = pace::millis(&mut rng, 6.0..12.0);
        Waker::from(Arc::new(Impatient { work })).wake();
        tokio::time::sleep(pace::millis(&mut rng, 5.0..20.0)).await;
    }
}
