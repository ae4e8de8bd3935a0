//! The part of a recording that tells which worker of which runtime each thread is, from the thread's own variables. Nothing
//! of it passes a probe: it is read from outside, once a second, while the target runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use super::Recording;
use crate::capture::{MissingProbe, ProbeFamily, RuntimeThread};
use crate::event::{Tid, Timestamp};
use crate::probe::{self, Probes, ThreadPointers};
use crate::target::thread_local::ThreadLocal;
use crate::target::worker_index::{Driven, MOST_CONTEXT_WORDS, driven, is_context};
use crate::target::{AttachPlan, Process};

/// Time that one look may take, with nobody reading the ring buffer meanwhile: of a thread it takes 50 µs.
const LOOK_LIMIT: Duration = Duration::from_millis(20);

/// What looks at them, and what it has seen so far.
pub(super) struct RuntimeThreads {
    /// Or why they can't be looked at; None for a program without tasks.
    looks: Option<Result<Looks, String>>,
    has_looked: bool,
    /// What the first look that failed failed of.
    failed: Option<String>,
    /// Where the next look goes on, if one could not look at all threads.
    next: u32,
    seen: BTreeMap<Tid, RuntimeThread>,
}

struct Looks {
    pointers: ThreadPointers,
    /// One for each version of Tokio in the program.
    contexts: Vec<ThreadLocal>,
}

impl RuntimeThreads {
    /// Gets ready.
    pub(super) fn look_out(
        probes: &mut Probes,
        process: &Process,
        plan: &AttachPlan,
    ) -> RuntimeThreads {
        let has_tasks = !plan.polls.is_empty();
        RuntimeThreads {
            looks: has_tasks.then(|| Looks::new(probes, process, plan)),
            has_looked: false,
            failed: None,
            next: 0,
            seen: BTreeMap::new(),
        }
    }

    /// Looks once.
    fn look(&mut self, process: &Process) -> io::Result<()> {
        let Some(Ok(looks)) = &self.looks else {
            return Ok(());
        };
        let memory = File::open(process.proc_path("mem"))?;
        let mut threads = looks.pointers.look()?;
        let at = probe::now();
        // First those that the last look did not get to.
        let next = self.next;
        threads.sort_by_key(|thread| (thread.tid < next, thread.tid));
        self.next = 0;
        let began = Instant::now();
        for thread in &threads {
            if began.elapsed() > LOOK_LIMIT {
                self.next = thread.tid;
                break;
            }
            let places = looks.contexts.iter();
            let found = places.filter_map(|context| look_twice(&memory, *context, thread.address));
            for driven in found {
                merge(&mut self.seen, Tid(thread.tid), driven, at);
            }
        }
        self.has_looked |= !threads.is_empty();
        Ok(())
    }

    /// What could be seen, for the coverage.
    pub(super) fn family(&self) -> Option<ProbeFamily> {
        let why_not = match self.looks.as_ref()? {
            Err(why) => Some(why.clone()),
            Ok(_) if !self.has_looked => Some(match &self.failed {
                Some(why) => why.clone(),
                None => "the process was gone before it was looked at".to_owned(),
            }),
            Ok(_) => None,
        };
        Some(ProbeFamily {
            name: ProbeFamily::WORKER_INDEX.to_owned(),
            attached: u32::from(why_not.is_none()),
            found: 1,
            missing: why_not
                .map(|why| MissingProbe {
                    what: "which worker of which runtime a thread is".to_owned(),
                    why,
                })
                .into_iter()
                .collect(),
        })
    }

    /// All that was seen.
    pub(super) fn into_seen(self) -> Vec<RuntimeThread> {
        self.seen.into_values().collect()
    }
}

impl Looks {
    fn new(probes: &mut Probes, process: &Process, plan: &AttachPlan) -> Result<Looks, String> {
        let contexts =
            ThreadLocal::find(&plan.binary, is_context).map_err(|error| error.to_string())?;
        if contexts.is_empty() {
            return Err(
                "no symbol of the program tells where Tokio's thread-local `CONTEXT` is".to_owned(),
            );
        }
        let pointers = probes.thread_pointers(process.pidfd());
        Ok(Looks {
            pointers: pointers.map_err(|error| error.to_string())?,
            contexts,
        })
    }
}

/// A worker that runs a current-thread runtime for a while, inside `block_in_place`, stays a worker.
fn merge(
    seen: &mut BTreeMap<Tid, RuntimeThread>,
    tid: Tid,
    Driven { runtime, worker }: Driven,
    at: Timestamp,
) {
    let known = seen.get(&tid);
    if worker.is_none() && known.is_some_and(|known| known.worker.is_some()) {
        return;
    }
    let has_changed = known.is_some_and(|known| {
        known.has_changed || (known.runtime, known.worker) != (runtime, worker)
    });
    seen.insert(
        tid,
        RuntimeThread {
            tid,
            runtime,
            worker,
            last_seen: at,
            has_changed,
        },
    );
}

/// The thread runs meanwhile: what is found counts if it is found twice.
fn look_twice(memory: &File, context: ThreadLocal, thread_pointer: u64) -> Option<Driven> {
    let look = || {
        let count = usize::try_from(context.size / 8).ok()?;
        let address = context.address(thread_pointer);
        let words_of_context = words(memory, address, count.min(MOST_CONTEXT_WORDS))?;
        driven(&words_of_context, |at, count| words(memory, at, count))
    };
    let found = look()?;
    (look() == Some(found)).then_some(found)
}

fn words(memory: &File, at: u64, count: usize) -> Option<Vec<u64>> {
    let mut bytes = vec![0; 8 * count];
    memory.read_exact_at(&mut bytes, at).ok()?;
    let words = bytes.as_chunks::<8>().0.iter();
    Some(words.map(|word| u64::from_ne_bytes(*word)).collect())
}

impl Recording<'_> {
    /// Looks once. A failure costs this look, not the recording.
    pub(super) fn look_at_runtime_threads(&mut self) {
        if self.process.has_exited() {
            return;
        }
        let began = Instant::now();
        match self.runtime_threads.look(self.process) {
            Ok(()) => tracing::debug!(took = ?began.elapsed(), "looked at the runtimes' threads"),
            Err(error) if self.runtime_threads.failed.is_none() => {
                tracing::warn!("could not look at the runtimes' threads: {error}");
                self.runtime_threads.failed = Some(error.to_string());
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last worker counts, and it is said that there were others. A runtime inside of a worker does not.
    #[test]
    fn threads_that_change() {
        const OUTER: u64 = 0x1000;
        const INNER: u64 = 0x2000;
        let mut seen = BTreeMap::new();
        let mut look = |at, runtime, worker| {
            merge(&mut seen, Tid(1), Driven { runtime, worker }, Timestamp(at));
            let RuntimeThread {
                tid: Tid(1),
                runtime,
                worker,
                last_seen,
                has_changed,
            } = seen[&Tid(1)]
            else {
                panic!("it is another thread");
            };
            (last_seen.0, runtime, worker, has_changed)
        };
        assert_eq!(look(1, OUTER, Some(3)), (1, OUTER, Some(3), false));
        assert_eq!(look(2, OUTER, Some(3)), (2, OUTER, Some(3), false));
        assert_eq!(look(3, INNER, None), (2, OUTER, Some(3), false));
        assert_eq!(look(4, OUTER, Some(0)), (4, OUTER, Some(0), true));
        assert_eq!(look(5, OUTER, Some(0)), (5, OUTER, Some(0), true));
    }
}
