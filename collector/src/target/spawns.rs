//! Where tasks are made: a binary and poll instances go in; for each the places in the code that spawn its tasks come out,
//! before any of them has run.
//!
//! Tokio makes one static vtable for each (future, scheduler), and whoever makes a task puts the vtable's address into its
//! header. The functions between a spawn and that are generic over the future, as the vtable is: they belong to it alone,
//! inlined or not. So the way back from the vtable is short:
//!
//! ```text
//!   vtable<F, S>                       its first word is poll<F, S>
//!     < lea reg, [rip + vtable]        in Cell::new<F, S>
//!       < call Cell::new<F, S>         in Handle::bind_new_task<F>
//!         < call bind_new_task<F>      in tokio::spawn<F>
//!           < call tokio::spawn<F>     in app::accept, line 88
//! ```
//!
//! Which of these calls is the spawn is told by their names, inlined ones included, and so by whoever has them. A path goes on as
//! long as there are few callers: the functions of a program's own that are reached so do no harm.
//!
//! Errs where the address of a vtable is not taken relative to the instruction (x86-64 code that is not position-independent),
//! and where a function on the way is called through a pointer only: then a path ends before the spawn, or there is none.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::elf::{Elf, ElfError};
use super::insn::{self, Call};
use super::sites::AttachPlan;
use crate::event::{SiteClass, SpawnPath};

/// Calls on one path: `tokio::spawn` without anything inlined takes five, and programs wrap it.
const MOST_CALLS: usize = 8;
/// Paths for each poll instance; where callers make more of one, it ends.
const MOST_PATHS: usize = 16;
/// Symbols, pointers and calls that are kept: a Citadel server has 100,000, 100,000 and 600,000.
const TABLE_LIMIT: usize = 4 << 20;
/// Bytes of one function that are looked at: everything can be inlined into a program's `main`.
const FUNCTION_LIMIT: usize = 1 << 20;
/// Bytes of all functions together that are decoded to see whether a call is one.
const DECODED_LIMIT: usize = 64 << 20;

impl AttachPlan {
    /// Paths to the tasks of those poll instances that `is_wanted`, by index. One for which nothing was found is not in it.
    pub fn spawn_paths(
        &self,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<BTreeMap<usize, Vec<SpawnPath>>, ElfError> {
        let code = self.binary.code()?;
        if !code.is_x86_64() {
            return Ok(BTreeMap::new());
        }
        let named = self.binary.named()?;
        let vaddr = |file_offset| code.vaddr(file_offset);
        let wanted = self.polls.iter().enumerate();
        // A worker's loop is spawned by the runtime.
        let wanted = wanted.filter(|(index, poll)| {
            poll.is_of_a_task() && poll.class != SiteClass::Worker && is_wanted(*index)
        });
        let polls: HashMap<u64, usize> = wanted
            .filter_map(|(index, poll)| Some((vaddr(poll.site.file_offset)?, index)))
            .collect();
        let address = |vaddr| {
            let file_offset = code.file_offset(vaddr)?;
            self.binary.module.address(file_offset)
        };
        let mut found: BTreeMap<usize, Vec<SpawnPath>> = BTreeMap::new();
        for (poll, paths) in paths(&code, &named, &polls) {
            let in_target = paths.iter().filter_map(|path| {
                let addresses = path.iter().map(|vaddr| address(*vaddr));
                addresses.collect::<Option<_>>().map(SpawnPath)
            });
            found.entry(poll).or_default().extend(in_target);
        }
        Ok(found)
    }
}

/// Paths to the tasks of `polls` (index by virtual address), in virtual addresses. `named` is the file that has the symbols of
/// `code`.
pub fn paths<'data>(
    code: &Elf<'data>,
    named: &Elf<'data>,
    polls: &HashMap<u64, usize>,
) -> BTreeMap<usize, Vec<Vec<u64>>> {
    Callers::of(code, named).paths(polls)
}

/// Who calls whom in a program, as far as its code says.
struct Callers<'a, 'data> {
    code: &'a Elf<'data>,
    /// Functions' ends by their starts.
    functions: BTreeMap<u64, u64>,
    /// Where a pointer is, and to what.
    pointers: HashMap<u64, u64>,
    /// Function, and what may be the return address of a call of it; sorted.
    calls: Vec<(u64, u64)>,
    /// Whether what may be a call is one.
    verified: HashMap<u64, bool>,
    /// Bytes that may still be decoded.
    budget: usize,
}

impl<'a, 'data> Callers<'a, 'data> {
    fn of(code: &'a Elf<'data>, named: &Elf<'data>) -> Self {
        let mut functions = BTreeMap::new();
        for symbol in named.symbols().take(TABLE_LIMIT) {
            let end = symbol.vaddr.saturating_add(symbol.size);
            // Several names for one body: the longest covers all of it.
            let known = functions.entry(symbol.vaddr).or_insert(end);
            *known = end.max(*known);
        }
        let pointers: HashMap<u64, u64> = code.pointers().take(TABLE_LIMIT).collect();
        let starts: HashSet<u64> = functions.keys().copied().collect();
        let mut calls: Vec<(u64, u64)> = Vec::new();
        for (start, bytes) in code.executable() {
            let callee = |call| {
                let target = match call {
                    Call::To(target) => target,
                    Call::Through(place) => *pointers.get(&place)?,
                };
                starts.contains(&target).then_some(target)
            };
            let looks = insn::look_like_calls(bytes, start)
                .filter_map(|(call, next)| Some((callee(call)?, next)));
            calls.extend(looks.take(TABLE_LIMIT - calls.len()));
        }
        calls.sort_unstable();
        calls.dedup();
        Callers {
            code,
            functions,
            pointers,
            calls,
            verified: HashMap::new(),
            budget: DECODED_LIMIT,
        }
    }

    fn paths(mut self, polls: &HashMap<u64, usize>) -> BTreeMap<usize, Vec<Vec<u64>>> {
        let vtables: HashMap<u64, usize> = self
            .pointers
            .iter()
            .filter_map(|(place, to)| Some((*place, *polls.get(to)?)))
            .collect();
        let mut taken: BTreeSet<(usize, u64)> = BTreeSet::new();
        for (start, bytes) in self.code.executable() {
            for (at, target) in insn::look_like_addresses(bytes, start) {
                if let Some(poll) = vtables.get(&target)
                    && taken.len() < TABLE_LIMIT
                {
                    taken.insert((*poll, at));
                }
            }
        }
        let mut found: BTreeMap<usize, Vec<Vec<u64>>> = BTreeMap::new();
        for (poll, at) in taken {
            let paths = found.entry(poll).or_default();
            if paths.len() < MOST_PATHS {
                paths.push(vec![at]);
            }
        }
        for paths in found.values_mut() {
            self.follow(paths);
        }
        found
    }

    /// Adds to each path the calls that lead there.
    fn follow(&mut self, paths: &mut Vec<Vec<u64>>) {
        for _ in 0..MOST_CALLS {
            let with_callers = std::mem::take(paths).into_iter().map(|path| {
                let callers = match path[..] {
                    [at] => self.callers(at),
                    // The byte before a return address is the call's, also where the call ends its function.
                    [.., return_addr] => self.callers(return_addr.saturating_sub(1)),
                    [] => Vec::new(),
                };
                (path, callers)
            });
            let mut with_callers: Vec<(Vec<u64>, Vec<u64>)> = with_callers.collect();
            // Those with few first: they are Tokio's own, and the others' many leave no room for them.
            with_callers.sort_by_key(|(_, callers)| callers.len());
            let mut is_done = true;
            let mut rest = with_callers.len();
            for (path, callers) in with_callers {
                rest -= 1;
                if callers.is_empty() || paths.len() + callers.len() + rest > MOST_PATHS {
                    paths.push(path);
                    continue;
                }
                is_done = false;
                paths.extend(callers.into_iter().map(|caller| {
                    let path = path.iter().copied();
                    path.chain([caller]).collect()
                }));
            }
            if is_done {
                return;
            }
        }
    }

    /// Where the calls of the function that `vaddr` is in return to, but for its own. None of them if they are many.
    fn callers(&mut self, vaddr: u64) -> Vec<u64> {
        let Some((start, end)) = self.function(vaddr) else {
            return Vec::new();
        };
        let from = self.calls.partition_point(|(callee, _)| *callee < start);
        let of_function = self.calls[from..]
            .iter()
            .take_while(|(callee, _)| *callee == start);
        let others = of_function
            .map(|(_, next)| *next)
            .filter(|next| !(start..end).contains(&next.saturating_sub(1)));
        let callers: Vec<u64> = others.take(MOST_PATHS + 1).collect();
        if callers.len() > MOST_PATHS {
            return Vec::new();
        }
        let is_call = |next: &u64| self.is_call(*next);
        callers.into_iter().filter(is_call).collect()
    }

    /// Start and end of the function that an address is in.
    fn function(&self, vaddr: u64) -> Option<(u64, u64)> {
        let (start, end) = self.functions.range(..=vaddr).next_back()?;
        (vaddr < *end).then_some((*start, *end))
    }

    /// Whether a call or a jump ends at `next`.
    fn is_call(&mut self, next: u64) -> bool {
        if let Some(known) = self.verified.get(&next) {
            return *known;
        }
        let is_call = self
            .function(next.saturating_sub(1))
            .is_some_and(|(start, end)| {
                let length = usize::try_from(end - start).unwrap_or(FUNCTION_LIMIT);
                let bytes = self.code.bytes_at(start, length.min(FUNCTION_LIMIT));
                match self.budget.checked_sub(bytes.len()) {
                    Some(rest) => {
                        self.budget = rest;
                        insn::transfers_before(bytes, start, next)
                    }
                    None => false,
                }
            });
        self.verified.insert(next, is_call);
        is_call
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[inline(never)]
    fn callee(n: u64) -> u64 {
        black_box(n) + 1
    }

    #[inline(never)]
    fn first_caller(n: u64) -> u64 {
        callee(n) * 3
    }

    #[inline(never)]
    fn second_caller(n: u64) -> u64 {
        callee(n) * 5
    }

    /// In this very program.
    #[test]
    fn callers_are_found_and_followed() {
        assert_eq!(first_caller(1) + second_caller(1), 16);
        let bytes = std::fs::read("/proc/self/exe").expect("the test binary is readable");
        let elf = Elf::parse(&bytes).expect("the test binary is an ELF file");
        if !elf.is_x86_64() {
            return;
        }
        let start = |name: &str| {
            let suffix = format!("spawns::tests::{name}");
            let mut symbols = elf.symbols();
            let symbol = symbols.find(|symbol| symbol.demangled().ends_with(&suffix));
            symbol.expect("it is in the binary").vaddr
        };
        let mut callers = Callers::of(&elf, &elf);
        let mut paths = vec![vec![start("callee")]];
        callers.follow(&mut paths);
        let mut called_from: Vec<u64> = paths
            .iter()
            .filter_map(|path| callers.function(path.get(1)?.checked_sub(1)?))
            .map(|(start, _)| start)
            .collect();
        called_from.sort_unstable();
        called_from.dedup();
        let mut expected = [start("first_caller"), start("second_caller")];
        expected.sort_unstable();
        assert_eq!(called_from, expected);
        assert!(paths.len() <= MOST_PATHS);
        assert!(paths.iter().all(|path| path.len() <= 1 + MOST_CALLS));
    }

    /// A damaged file has fewer paths, and is no reason to fail.
    #[test]
    fn damaged_code() {
        let bytes = std::fs::read("/proc/self/exe").expect("the test binary is readable");
        for cut in [1 << 12, 1 << 16, 1 << 20] {
            if let Ok(elf) = Elf::parse(&bytes[..bytes.len().min(cut)]) {
                let polls = elf.symbols().take(50).map(|symbol| (symbol.vaddr, 0));
                let paths = paths(&elf, &elf, &polls.collect());
                assert!(paths.values().all(|paths| paths.len() <= MOST_PATHS));
            }
        }
    }
}
