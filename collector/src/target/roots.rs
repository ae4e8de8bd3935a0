//! Where the root future of a current-thread runtime is polled: a binary goes in, places come out.
//!
//! `block_on` is generic and inlined, and so is its future, so there is no function to probe for that. But what its loop
//! does else is not generic:
//!
//! ```text
//!   CoreGuard::block_on::<F>      inlined anywhere, or a function of its own
//!     loop
//!       F::poll                   inlined or not; if it was woken
//!       task.run() …              raw::poll: probed
//!       Context::park             < probes at its entry, and where it returns to
//!     CoreGuard::drop             < probe at its entry
//! ```
//!
//! So from the return of a park to the next task, park or drop the thread polls the root future, or does nothing that takes
//! time. Which functions have such a loop is told by their calls.
//!
//! Errs by the first poll of a `block_on` that is no function of its own: nothing tells where it begins.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use holdup_probe_ebpf::wire;

use super::debuginfo::DebugSearch;
use super::dwarf;
use super::elf::{Elf, ElfError};
use super::insn::{self, Callees};
use super::names::{arguments, inside_of_bracket, plain_path};
use super::sites::returns::containing;
use super::sites::{AttachPlan, Family, Found, PollSite, Role, Site, site};
use crate::capture::MissingProbe;
use crate::event::SiteClass;

/// `plain_path` of the function that the loop is in, where that has nothing else in it.
const LOOPS: [&str; 2] = [
    "tokio::runtime::scheduler::current_thread::CoreGuard::block_on",
    "tokio::runtime::context::scoped::Scoped::set",
];
/// Bytes of a function's code that are looked at: the loop can be inlined into a whole program's `main`.
const CODE_LIMIT: usize = 1 << 20;
/// Loops that are looked for.
const LOOPS_LIMIT: usize = 256;
/// What looks like a call of a park and is looked at: a loop has two or three.
const CALLS_LIMIT: usize = 16 * LOOPS_LIMIT;

/// Where root futures are seen to be polled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// A poll begins; with the index of its site in the plan.
    pub begins: Vec<(Site, u64)>,
    /// It ends.
    pub ends: Vec<Site>,
}

impl AttachPlan {
    /// Adds a poll site for each loop, behind all others, and the places.
    pub(super) fn add_roots(
        &mut self,
        found: &[Found],
        search: &DebugSearch,
    ) -> Result<(), ElfError> {
        let role = |role| found.iter().filter(move |found| found.wanted.role == role);
        let parks: BTreeSet<u64> = role(Role::Park).map(|found| found.vaddr).collect();
        let (roots, sites) = {
            let (code, named) = (self.binary.code()?, self.binary.named()?);
            let at = |vaddr| site(&code, &self.binary, vaddr);
            let mut roots = Roots {
                begins: Vec::new(),
                ends: role(Role::Park)
                    .chain(role(Role::LeaveLoop))
                    .filter_map(|found| at(found.vaddr))
                    .collect(),
            };
            let loops = loops(&code, &named, parks.clone());
            let described = if loops.is_empty() {
                dwarf::Outcome::default()
            } else {
                dwarf::block_on_instances(&self.binary, search)?
            };
            let mut sites = Vec::new();
            for (entry, parked) in loops {
                let Some(symbol) = containing(&named, entry) else {
                    continue;
                };
                let Some(place) = at(entry) else {
                    continue;
                };
                let index = (self.polls.len() + sites.len()) as u64;
                if index >= wire::MAX_POLL_SITES.into() {
                    break;
                }
                if LOOPS.contains(&plain_path(&symbol.demangled()).as_str()) {
                    roots.begins.push((place, index));
                }
                let returns = parked.into_iter().filter_map(|vaddr| {
                    let probe = insn::return_site_probe(code.bytes_at(vaddr, 256), vaddr)?;
                    at(vaddr.checked_add(probe.offset)?)
                });
                roots.begins.extend(returns.map(|place| (place, index)));
                sites.push(PollSite {
                    site: place,
                    class: SiteClass::BlockOn,
                    future: described.arguments(entry).and_then(root_future),
                    folded: Vec::new(),
                    takes_over_core: false,
                });
            }
            (roots, sites)
        };
        let has_tasks = self
            .polls
            .iter()
            .any(|poll| poll.class == SiteClass::CurrentThread);
        if sites.is_empty() && (has_tasks || !parks.is_empty()) {
            self.explain(
                Family::BlockOn,
                MissingProbe {
                    what: "root futures of `block_on`".to_owned(),
                    why: "no current-thread runtime's loop was found, or the compiler inlined its parks into it \
                          (looked for on x86-64 only)"
                        .to_owned(),
                },
            );
        }
        self.polls.extend(sites);
        self.roots = roots;
        Ok(())
    }
}

/// The root future's type, from the type arguments of the function that the loop is in: the first one, or that of the
/// closure in it.
fn root_future(list: &str) -> Option<String> {
    const CLOSURE: &str = "::block_on::{closure_env#0}<";
    let of_closure = list
        .find(CLOSURE)
        .map(|at| inside_of_bracket(&list[at + CLOSURE.len()..]));
    let future = arguments(of_closure.unwrap_or(list)).next()?;
    Some(without_wrappers(future).to_owned())
}

/// A future without what Tokio puts around it: `block_on` pins or boxes a large one, and `LocalSet::block_on` makes one of its own
/// that polls it.
fn without_wrappers(mut future: &str) -> &str {
    loop {
        let pinned = future.strip_prefix("core::pin::Pin<").and_then(|rest| {
            let pointer = inside_of_bracket(rest);
            match pointer.strip_prefix("alloc::boxed::Box<") {
                Some(list) => arguments(list).next(),
                None => pointer.strip_prefix("&mut "),
            }
        });
        let of_local_set = future
            .strip_prefix("tokio::task::local::{impl#")
            .and_then(|rest| rest.split_once("}::run_until::{async_fn_env#0}<"))
            .map(|(_, rest)| inside_of_bracket(rest));
        match pinned.or(of_local_set) {
            Some(inner) => future = inner,
            None => return future,
        }
    }
}

/// Functions that park a current-thread runtime: their entry, and where their parks return to.
fn loops(code: &Elf<'_>, named: &Elf<'_>, parks: BTreeSet<u64>) -> BTreeMap<u64, Vec<u64>> {
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    if parks.is_empty() || !code.is_x86_64() {
        return found;
    }
    let places = code.pointers().filter(|(_, to)| parks.contains(to));
    let parks = Callees {
        places: places.map(|(place, _)| place).collect(),
        functions: parks,
    };
    for (start, bytes) in code.executable() {
        let calls = insn::look_like_calls(bytes, start);
        let of_parks = calls.filter(|(call, _)| parks.includes(*call));
        for (_, next) in of_parks.take(CALLS_LIMIT) {
            if found.len() >= LOOPS_LIMIT {
                return found;
            }
            let Some(function) = containing(named, next.saturating_sub(1)) else {
                continue;
            };
            // Looked into once, whole: what looks like a call may be the middle of something else.
            found.entry(function.vaddr).or_insert_with(|| {
                let size = usize::try_from(function.size).unwrap_or(CODE_LIMIT);
                let body = code.bytes_at(function.vaddr, size.min(CODE_LIMIT));
                insn::returns_of_calls(body, function.vaddr, &parks).collect()
            });
        }
    }
    found.retain(|_, returns| !returns.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As DWARF has them, whichever of the functions around the loop is one.
    #[test]
    fn futures_of_loops() {
        let future = |list| root_future(list).expect("there is one");
        assert_eq!(
            future("app::main::{async_block_env#0}, ()"),
            "app::main::{async_block_env#0}"
        );
        let set = "tokio::runtime::scheduler::current_thread::{impl#9}::enter::{closure_env#0}<\
                   tokio::runtime::scheduler::current_thread::{impl#9}::block_on::{closure_env#0}<\
                   core::pin::Pin<&mut app::serve::{async_fn_env#0}<u8, fn(u8) -> u8>>>, \
                   core::option::Option<()>>, (alloc::boxed::Box<Core>, core::option::Option<()>)";
        assert_eq!(
            future(set),
            "app::serve::{async_fn_env#0}<u8, fn(u8) -> u8>"
        );
        let local = "tokio::task::local::{impl#4}::run_until::{async_fn_env#0}<core::pin::Pin<alloc::boxed::Box<\
                     app::serve::{async_fn_env#0}, alloc::alloc::Global>>>";
        assert_eq!(future(local), "app::serve::{async_fn_env#0}");
        assert_eq!(root_future(""), Some(String::new()));
    }
}
