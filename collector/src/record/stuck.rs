//! The part of a recording that looks out for threads that are stuck, and tells of them at once.

use std::time::Instant;

use holdup_probe_ebpf::wire;

use super::{LOOK_FOR_STUCK_EVERY, News, Recording};

use crate::capture::{MissingProbe, ProbeFamily};
use crate::event::{LockAddr, Nanos, Tid};
use crate::probe::Probes;
use crate::stuck::{Found, KnownHolders, StuckNews, Target, Watch};
use crate::symbolize::{ProcessSymbolizer, SymbolTable};
use crate::target::Process;

/// What looks out for them.
pub(super) struct StuckThreads {
    watch: Watch,
    symbols: SymbolTable,
}

impl StuckThreads {
    /// Gets ready; what can't be seen without is said in the family.
    pub(super) fn look_out(
        probes: &mut Probes,
        process: &Process,
        after: Nanos,
    ) -> (Option<StuckThreads>, ProbeFamily) {
        let mut family = ProbeFamily {
            name: "stuck_threads".to_owned(),
            attached: 0,
            found: 1,
            missing: Vec::new(),
        };
        match probes.sleepers(process.pidfd()) {
            Ok(sleepers) => {
                family.attached = 1;
                let every = Nanos(LOOK_FOR_STUCK_EVERY.as_nanos() as u64);
                let threads = StuckThreads {
                    watch: Watch::new(sleepers, after, every),
                    symbols: SymbolTable::default(),
                };
                (Some(threads), family)
            }
            Err(error) => {
                family.missing.push(MissingProbe {
                    what: "threads that are stuck".to_owned(),
                    why: error.to_string(),
                });
                (None, family)
            }
        }
    }

    /// All that was found.
    pub(super) fn into_found(self) -> Found {
        self.watch.into_found()
    }

    fn name_stacks(&mut self, symbolizer: &mut ProcessSymbolizer<'_>) {
        let stacks = self.watch.found().stacks.values();
        let new: Vec<u64> = stacks
            .flat_map(|stack| SymbolTable::lookup_addresses(&stack.addresses))
            .filter(|address| !self.symbols.frames.contains_key(address))
            .collect();
        let named = symbolizer.symbolize(new);
        self.symbols.frames.extend(named.frames);
    }
}

impl Recording<'_> {
    /// Looks once. A failure costs this look, not the recording.
    pub(super) fn look_for_stuck(&mut self, tell: &mut impl FnMut(News<'_>)) {
        let Some(threads) = &mut self.stuck else {
            return;
        };
        // Threads of a process that ends are gone, and did not go on.
        if self.process.has_exited() {
            return;
        }
        let target = Target {
            process: self.process,
            binary: &self.plan.binary,
            tables: &self.kept,
        };
        let began = Instant::now();
        let looked = threads.watch.look(target, &known_holders(&self.probes));
        tracing::debug!(took = ?began.elapsed(), "looked for stuck threads");
        match looked {
            Ok(news) if news.is_empty() => {}
            Ok(news) => {
                threads.name_stacks(&mut self.symbolizer);
                tell(News::Stuck(StuckNews {
                    found: threads.watch.found(),
                    news,
                    symbols: &threads.symbols,
                }));
            }
            Err(error) => tracing::warn!("could not look for stuck threads: {error}"),
        }
    }
}

/// Threads that were seen to acquire a lock, and not to release it since: with fast paths probed all of them.
fn known_holders(probes: &Probes) -> KnownHolders {
    let held = probes.held().unwrap_or_default();
    let by_threads = held.into_iter().filter_map(|(key, _)| {
        let tid = key.owner & !wire::OWNER_IS_THREAD;
        let is_thread = key.owner & wire::OWNER_IS_THREAD != 0;
        is_thread.then_some((LockAddr(key.lock), Tid(u32::try_from(tid).ok()?)))
    });
    by_threads.collect()
}
