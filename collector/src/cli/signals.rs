//! Ctrl-C, SIGTERM and a terminal that hangs up end a recording early and keep it. They are caught before
//! anything is attached. Whoever asks a second time means it: then holdup ends at once (the kernel removes the
//! probes).

use std::io;
use std::process;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::oneshot;

/// The exit code of a shell for a program that Ctrl-C ended.
const ENDED_BY_INTERRUPT: i32 = 130;

/// Resolves at the first signal.
pub struct Interrupted(oneshot::Receiver<()>);

impl Interrupted {
    /// Catches them from now on.
    pub fn catch() -> io::Result<Interrupted> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
        let (first, interrupted) = oneshot::channel();
        thread::Builder::new()
            .name("holdup-signals".to_owned())
            .spawn(move || {
                let mut first = Some(first);
                for _ in signals.forever() {
                    match first.take() {
                        // Nobody waits any more: the recording is over and being written.
                        Some(first) => drop(first.send(())),
                        None => process::exit(ENDED_BY_INTERRUPT),
                    }
                }
            })?;
        Ok(Interrupted(interrupted))
    }

    /// Waits for it.
    pub async fn wait(self) {
        // An error would mean that the thread is gone, which it never is.
        let _ = self.0.await;
    }
}
