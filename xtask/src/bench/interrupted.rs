//! Ctrl-C during a measurement. What enters: SIGINT and SIGTERM. What leaves: an error at the next sleep, so that
//! statistics are switched back and servers ended on the way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Whether somebody wants the measurement to end.
pub struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    pub fn new() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .context("could not catch a signal")?;
        }
        Ok(Self(flag))
    }

    /// Sleeps, and fails once interrupted.
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            if self.0.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}
