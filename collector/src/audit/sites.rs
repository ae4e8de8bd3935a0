//! Sites: CPU samples go in; in how many polls and jobs a function was met, and for about how long, comes out.

use std::collections::BTreeMap;

use super::pattern::any;
use super::{Inventory, Ran, SiteResult, SiteRow};
use crate::capture::Capture;
use crate::event::{Event, Nanos, PollClass, StackId, Tid, Timestamp};
use crate::symbolize::SymbolTable;

/// Samples of one poll that a site was met in.
type Polls = BTreeMap<(Tid, Timestamp), u64>;

/// Measures the sites of an inventory.
pub fn measure(inventory: &Inventory, capture: &Capture) -> Vec<SiteResult> {
    let met_in: BTreeMap<StackId, Vec<usize>> = capture
        .stacks
        .iter()
        .filter_map(|(id, stack)| {
            let functions = functions(capture, &stack.addresses);
            let met: Vec<usize> = (0..)
                .zip(&inventory.sites)
                .filter(|(_, site)| site.is_on(&functions))
                .map(|(index, _)| index)
                .collect();
            (!met.is_empty()).then_some((*id, met))
        })
        .collect();
    let mut on_worker: Vec<Polls> = vec![Polls::new(); inventory.sites.len()];
    let mut on_pool = on_worker.clone();
    for event in &capture.events {
        let Event::CpuSample(sample) = event else {
            continue;
        };
        let (Some(stack), Some(start)) = (sample.stack, sample.poll_start) else {
            continue;
        };
        let polls = match sample.class {
            PollClass::Scheduler => &mut on_worker,
            PollClass::Blocking => &mut on_pool,
            PollClass::Unknown => continue,
        };
        for &site in met_in.get(&stack).into_iter().flatten() {
            *polls[site].entry((sample.tid, start)).or_default() += 1;
        }
    }
    let period = Nanos(1_000_000_000 / u64::from(capture.meta.frequency_hz.max(1)));
    inventory
        .sites
        .iter()
        .zip(on_worker.iter().zip(&on_pool))
        .map(|(site, (on_worker, on_pool))| SiteResult {
            name: site.name.clone(),
            krate: site.krate.clone(),
            file: site.file.clone(),
            on_worker: ran(on_worker, period),
            on_blocking_pool: ran(on_pool, period),
        })
        .collect()
}

fn ran(polls: &Polls, period: Nanos) -> Ran {
    let time = |samples: u64| Nanos(samples.saturating_mul(period.0));
    Ran {
        at_least: polls.len() as u64,
        estimated_total_ns: time(polls.values().sum()),
        estimated_longest_ns: time(polls.values().copied().max().unwrap_or(0)),
    }
}

/// The functions on a stack, innermost first, inlined ones among them.
fn functions<'a>(capture: &'a Capture, addresses: &[u64]) -> Vec<&'a str> {
    SymbolTable::lookup_addresses(addresses)
        .filter_map(|address| capture.symbols.frames.get(&address))
        .flatten()
        .map(|frame| frame.function.as_str())
        .collect()
}

impl SiteRow {
    fn is_on(&self, functions: &[&str]) -> bool {
        // The outermost one: recursion has its caller outside of all.
        let Some(at) = functions.iter().rposition(|name| any(&self.function, name)) else {
            return false;
        };
        let callers = &functions[at..];
        self.called_by.is_empty() || callers.iter().any(|name| any(&self.called_by, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Pattern;

    fn site(function: &str, called_by: &[&str]) -> SiteRow {
        SiteRow {
            name: String::new(),
            krate: String::new(),
            file: String::new(),
            function: vec![Pattern::new(function)],
            called_by: called_by.iter().copied().map(Pattern::new).collect(),
        }
    }

    /// The caller has to be outside of the function.
    #[test]
    fn callers() {
        let stack = [
            "sha3::f",
            "c::new_bob",
            "p::register::{{closure}}",
            "tokio::poll",
        ];
        assert!(site("*::new_bob", &[]).is_on(&stack));
        assert!(site("*::new_bob", &["*::register::*"]).is_on(&stack));
        assert!(!site("*::new_bob", &["*::rekey*", "sha3::*"]).is_on(&stack));
        assert!(!site("*::stage0_bob", &[]).is_on(&stack));
    }

    /// Samples are summed for each poll, then over the polls.
    #[test]
    fn polls_are_counted() {
        let polls = Polls::from([((Tid(1), Timestamp(5)), 3), ((Tid(1), Timestamp(9)), 1)]);
        let expected = Ran {
            at_least: 2,
            estimated_total_ns: Nanos(4_000_000),
            estimated_longest_ns: Nanos(3_000_000),
        };
        assert_eq!(ran(&polls, Nanos(1_000_000)), expected);
        assert_eq!(ran(&Polls::new(), Nanos(1)), Ran::default());
    }
}
