//! When the main future goes on. What enters: signals. What leaves: three moments, at which it starts its work, stops it and
//! leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use tokio::sync::Notify;

/// Each is given once, and waits for whoever is to take it.
pub struct Cues {
    pub start: Notify,
    pub stop: Notify,
    pub leave: Notify,
    has_started: AtomicBool,
}

impl Cues {
    /// Without signals to wait for, the work starts at once.
    pub fn new(by_signal: bool) -> Self {
        let cues = Self {
            start: Notify::new(),
            stop: Notify::new(),
            leave: Notify::new(),
            has_started: AtomicBool::new(false),
        };
        if !by_signal {
            cues.next();
        }
        cues
    }

    /// Gives the next one, but never the last.
    pub fn next(&self) {
        if self.has_started.swap(true, Ordering::Relaxed) {
            self.stop.notify_one();
        } else {
            self.start.notify_one();
        }
    }

    /// Gives all that are left.
    pub fn end(&self) {
        for cue in [&self.start, &self.stop, &self.leave] {
            cue.notify_one();
        }
    }
}

/// What was asked for from outside.
pub struct Signals {
    end: Arc<AtomicBool>,
    next: Arc<AtomicBool>,
}

impl Signals {
    /// SIGUSR1 keeps its meaning for a program that doesn't wait for it.
    pub fn register(by_signal: bool) -> std::io::Result<Self> {
        let signals = Self {
            end: Arc::default(),
            next: Arc::default(),
        };
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&signals.end))?;
        }
        if by_signal {
            signal_hook::flag::register(SIGUSR1, Arc::clone(&signals.next))?;
        }
        Ok(signals)
    }

    pub fn end(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// True once for each.
    pub fn next(&self) -> bool {
        self.next.swap(false, Ordering::Relaxed)
    }
}
