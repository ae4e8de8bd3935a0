//! Programs are loaded by threads of their own, while holdup prepares other things. What enters: relocated programs and
//! which of them will be wanted. What leaves: loaded ones, when they are asked for.
//!
//! The kernel verifies a program for some 10 ms of CPU time before it takes it, more than a dozen of them for a
//! recording, and as many at once as ask. Where the target keeps all CPUs busy, one thread alone waits for a CPU most
//! of the time: with threads of their own programs are there in half the time.

use std::collections::HashMap;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use super::uprobe_multi::MultiPrograms;
use super::{ProbeError, UprobeProgram};

/// More threads would wait for each other.
const THREADS_LIMIT: usize = 4;

type Loaded = (UprobeProgram, Result<OwnedFd, ProbeError>);

/// Programs for `uprobe_multi` links, loaded or about to be.
pub(super) struct Loading {
    programs: Arc<MultiPrograms>,
    arriving: mpsc::Receiver<Loaded>,
    /// Those that arrived before they were asked for.
    arrived: HashMap<UprobeProgram, Result<OwnedFd, ProbeError>>,
}

impl Loading {
    /// Nothing is loaded before it is asked for.
    pub(super) fn new(programs: MultiPrograms) -> Self {
        Loading {
            programs: Arc::new(programs),
            arriving: mpsc::channel().1,
            arrived: HashMap::new(),
        }
    }

    /// Begins to load `wanted`, in this order. Called once.
    pub(super) fn begin(&mut self, wanted: Vec<UprobeProgram>) {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(THREADS_LIMIT).min(wanted.len());
        let wanted = Arc::new(wanted);
        let next = Arc::new(AtomicUsize::new(0));
        let (loaded, arriving) = mpsc::channel();
        for n in 0..threads {
            let (programs, wanted) = (Arc::clone(&self.programs), Arc::clone(&wanted));
            let (next, loaded) = (Arc::clone(&next), loaded.clone());
            // Without the thread the others do its share, and without any what is asked for is loaded then.
            let _ = thread::Builder::new()
                .name(format!("holdup-load-{n}"))
                .spawn(move || {
                    while let Some(program) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // Nobody wants it any more when the recording could not begin.
                        if loaded.send((*program, load(&programs, *program))).is_err() {
                            return;
                        }
                    }
                });
        }
        self.arriving = arriving;
    }

    /// A loaded program; waits for it if need be. It can be had once.
    pub(super) fn take(&mut self, program: UprobeProgram) -> Result<OwnedFd, ProbeError> {
        if let Some(loaded) = self.arrived.remove(&program) {
            return loaded;
        }
        while let Ok((other, loaded)) = self.arriving.recv() {
            if other == program {
                return loaded;
            }
            self.arrived.insert(other, loaded);
        }
        load(&self.programs, program)
    }
}

fn load(programs: &MultiPrograms, program: UprobeProgram) -> Result<OwnedFd, ProbeError> {
    let began = Instant::now();
    let loaded = programs.load(program.name());
    tracing::debug!(program = program.name(), took = ?began.elapsed(), "loaded");
    loaded
}
