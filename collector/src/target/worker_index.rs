//! Which worker of which runtime a thread is: the words of Tokio's thread-local `CONTEXT` go in, with a way to read the
//! words that they point to.
//!
//! ```text
//!   CONTEXT, of the thread             scheduler::Context, on its stack     Arc<Worker>
//!     thread_id                          which flavour                        strong, weak
//!     current   > Handle ·······         worker ····························>   handle > the same Handle
//!     scheduler ·······················>  core                                  index
//!     …                                  defer                                 core
//! ```
//!
//! Where each word is depends on Tokio's version and on the compiler, and no debug information has to tell. So all words
//! are tried, and what proves a place right is that both ways lead to one `Handle`. Only a thread that runs a worker's loop
//! has the way on the right; one of a current-thread runtime has the `Handle` in its `scheduler::Context`.
//!
//! Nothing is guessed: of what does not fit, or fits in two ways, nothing comes out. The target runs meanwhile, so the
//! caller looks twice, and what counts came out both times.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

/// What drives a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Driven {
    /// Address of the runtime's `Handle`, which is the same for all its threads.
    pub runtime: u64,
    /// Which of a multi-thread runtime's workers it is; None for a current-thread runtime.
    pub worker: Option<u32>,
}

/// Whether a thread-local variable is `CONTEXT`, by its demangled name. Compilers have called what is in it
/// `CONTEXT::__getit::VAL`, `CONTEXT::{{constant}}::{{closure}}::VAL` and `…::__RUST_STD_INTERNAL_VAL`.
pub fn is_context(name: &str) -> bool {
    name.starts_with("tokio::runtime::context::CONTEXT::") && name.ends_with("VAL")
}

/// Words of `CONTEXT` that are looked at: it has ten.
pub const MOST_CONTEXT_WORDS: usize = 32;

/// Words of a `scheduler::Context`: its flavour, `worker` or `handle`, two of `core`, four of `defer`.
const SCHEDULER_WORDS: usize = 8;
/// Words of an `Arc`'s counts and a `Worker`.
const WORKER_WORDS: usize = 5;
/// No runtime has as many workers, and no core an address as low.
const INDEX_LIMIT: u64 = 1 << 16;

/// What drives a thread with this `CONTEXT`. `words` gives so many words at an address.
pub fn driven(
    context: &[u64],
    mut words: impl FnMut(u64, usize) -> Option<Vec<u64>>,
) -> Option<Driven> {
    let context = &context[..context.len().min(MOST_CONTEXT_WORDS)];
    let pointers: BTreeSet<u64> = context.iter().copied().filter(is_pointer).collect();
    let mut workers = BTreeSet::new();
    let mut alone = BTreeSet::new();
    for &scheduler in &pointers {
        let Some(head) = words(scheduler, SCHEDULER_WORDS) else {
            continue;
        };
        let handles: BTreeSet<u64> = pointers
            .iter()
            .copied()
            .filter(|handle| *handle != scheduler)
            .collect();
        for &word in head.iter().filter(|word| is_pointer(word)) {
            if handles.contains(&word) {
                alone.insert(word);
            } else if let Some(worker) = words(word, WORKER_WORDS) {
                workers.extend(worker_of(&worker, &handles));
            }
        }
    }
    let (only_worker, only_alone) = (only(workers)?, only(alone)?);
    only_worker.or_else(|| {
        let runtime = only_alone?;
        let is_current_thread = is_of_first_variant(context, runtime);
        let is_shared = words(runtime, 2).is_some_and(|counts| are_counts(&counts));
        (is_current_thread && is_shared).then_some(Driven {
            runtime,
            worker: None,
        })
    })
}

/// The element, if there is one; None if there are several.
fn only<T: Ord>(found: BTreeSet<T>) -> Option<Option<T>> {
    (found.len() < 2).then(|| found.into_iter().next())
}

/// A `Worker` behind an `Arc`, if one of its words is one of these handles.
fn worker_of(words: &[u64], handles: &BTreeSet<u64>) -> Option<Driven> {
    let (counts, fields) = words.split_at_checked(2)?;
    let &[a, b, c] = fields else {
        return None;
    };
    if !are_counts(counts) {
        return None;
    }
    [(a, [b, c]), (b, [a, c]), (c, [a, b])]
        .into_iter()
        .find(|(handle, _)| handles.contains(handle))
        .and_then(|(runtime, others)| {
            // `core` is null while it is run, else a pointer.
            let is_core = |word: &u64| *word == 0 || is_pointer(word);
            let small = others.into_iter().filter(|word| *word < INDEX_LIMIT);
            let index = small.max()?;
            let core = if others[0] == index {
                others[1]
            } else {
                others[0]
            };
            is_core(&core).then_some(Driven {
                runtime,
                worker: u32::try_from(index).ok(),
            })
        })
}

/// Whether a word can be the address of something with words in it.
fn is_pointer(word: &u64) -> bool {
    // What no process maps, and what is the kernel's.
    const LOWEST: u64 = INDEX_LIMIT;
    const END: u64 = 1 << 56;
    (LOWEST..END).contains(word) && word.is_multiple_of(8)
}

/// An `Arc`'s counts: of one that lives both are at least one.
fn are_counts(words: &[u64]) -> bool {
    const MANY: u64 = 1 << 32;
    words.len() == 2 && words.iter().all(|count| (1..MANY).contains(count))
}

/// `scheduler::Handle` is an enum, whose variant is in front of the pointer: `CurrentThread` is the first one. Where
/// Tokio is compiled for one flavour alone, the borrow count that is there is zero, too.
fn is_of_first_variant(context: &[u64], handle: u64) -> bool {
    context.windows(2).any(|pair| pair == [0, handle])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const HANDLE: u64 = 0x5581_0000_1000;
    const OTHER_HANDLE: u64 = 0x5581_0000_2000;
    const ON_STACK: u64 = 0x7f12_0000_f000;
    const WORKER: u64 = 0x5581_0000_3000;
    const CORE: u64 = 0x5581_0000_4000;

    /// As rustc 1.95 and Tokio 1.54 lay it out.
    const CONTEXT: [u64; 10] = [
        0,      // borrowed
        1,      // multi-thread
        HANDLE, //
        1,      // depth
        3,      // thread id
        ON_STACK,
        17, // task id
        0x1_0000_0001,
        0x9e37_79b9_7f4a_7c15, // rng
        0x80_0100_0100,
    ];

    /// Memory of the target.
    type Memory = BTreeMap<u64, Vec<u64>>;

    fn memory(worker: [u64; 3]) -> Memory {
        let [a, b, c] = worker;
        Memory::from([
            (ON_STACK, vec![1, WORKER, 0, CORE, 0, 0, 8, 0]),
            (WORKER, vec![2, 1, a, b, c]),
            // A lock, counts and whatever, with what leads nowhere.
            (HANDLE, vec![40, 1, 0, CORE, 7, 0x7f12_0000_0000, 8, 8]),
            (CORE, vec![9, HANDLE, 1, 4, 0, 0, 0, 0]),
        ])
    }

    fn look(context: &[u64], memory: &Memory) -> Option<Driven> {
        driven(context, |at, count| {
            let words = memory.get(&at)?;
            words.get(..count).map(<[u64]>::to_vec)
        })
    }

    fn worker(index: u32) -> Option<Driven> {
        Some(Driven {
            runtime: HANDLE,
            worker: Some(index),
        })
    }

    /// Each order of the three fields, with the core where it is run and where it is handed off.
    #[test]
    fn any_order_of_fields() {
        for index in [0, 1, 63] {
            for core in [0, CORE] {
                let n = u64::from(index);
                for fields in [
                    [HANDLE, n, core],
                    [HANDLE, core, n],
                    [n, HANDLE, core],
                    [core, HANDLE, n],
                    [n, core, HANDLE],
                    [core, n, HANDLE],
                ] {
                    assert_eq!(
                        look(&CONTEXT, &memory(fields)),
                        worker(index),
                        "{fields:x?}"
                    );
                }
            }
        }
    }

    /// The words of CONTEXT and of the scheduler's context can be in any order as well.
    #[test]
    fn any_order_of_words() {
        for by in 0..CONTEXT.len() {
            let mut context = CONTEXT;
            context.rotate_left(by);
            let mut memory = memory([CORE, 5, HANDLE]);
            if let Some(head) = memory.get_mut(&ON_STACK) {
                head.rotate_right(by % SCHEDULER_WORDS);
            }
            assert_eq!(look(&context, &memory), worker(5));
        }
    }

    /// A thread that entered another runtime's context has that one's handle, which is not its worker's.
    #[test]
    fn another_runtimes_handle() {
        let context = CONTEXT.map(|word| if word == HANDLE { OTHER_HANDLE } else { word });
        assert_eq!(look(&context, &memory([HANDLE, 1, 0])), None);
        assert_eq!(look(&CONTEXT, &memory([OTHER_HANDLE, 1, 0])), None);
    }

    /// What points to something else: freed, not an index, no core, unreadable, not there.
    #[test]
    fn what_does_not_fit() {
        for fields in [
            [HANDLE, INDEX_LIMIT, 0x4_0001],
            [HANDLE, CORE, CORE],
            [HANDLE, 1, CORE + 1],
            [HANDLE, 1, 2],
            [HANDLE, HANDLE, u64::MAX],
        ] {
            assert_eq!(look(&CONTEXT, &memory(fields)), None, "{fields:x?}");
        }
        for counts in [[0, 1], [1, 0], [HANDLE, 1], [2, u64::MAX]] {
            let mut freed = memory([HANDLE, 1, 0]);
            if let Some(worker) = freed.get_mut(&WORKER) {
                worker[..2].copy_from_slice(&counts);
            }
            assert_eq!(look(&CONTEXT, &freed), None, "{counts:x?}");
        }
        for gone in [ON_STACK, WORKER] {
            let mut memory = memory([HANDLE, 1, 0]);
            memory.remove(&gone);
            assert_eq!(look(&CONTEXT, &memory), None);
        }
        for cut in 0..WORKER_WORDS {
            let mut memory = memory([HANDLE, 1, 0]);
            if let Some(worker) = memory.get_mut(&WORKER) {
                worker.truncate(cut);
            }
            assert_eq!(look(&CONTEXT, &memory), None);
        }
        for cut in 0..6 {
            assert_eq!(look(&CONTEXT[..cut], &memory([HANDLE, 1, 0])), None);
        }
        assert_eq!(look(&CONTEXT[..6], &memory([HANDLE, 1, 0])), worker(1));
    }

    /// Two workers that both fit are none.
    #[test]
    fn what_fits_twice() {
        const ANOTHER: u64 = WORKER + 0x40;
        let mut memory = memory([HANDLE, 1, 0]);
        memory.insert(ANOTHER, vec![2, 1, HANDLE, 2, 0]);
        if let Some(head) = memory.get_mut(&ON_STACK) {
            head[5] = ANOTHER;
        }
        assert_eq!(look(&CONTEXT, &memory), None);
    }

    /// A thread of the blocking pool, and one that waits in `block_on`, have a handle and no scheduler; one that is none of
    /// Tokio's has neither.
    #[test]
    fn threads_that_are_no_workers() {
        let idle = CONTEXT.map(|word| if word == ON_STACK { 0 } else { word });
        assert_eq!(look(&idle, &memory([HANDLE, 1, 0])), None);
        assert_eq!(look(&[0; 10], &Memory::new()), None);
        assert_eq!(look(&[], &Memory::new()), None);
    }

    /// A current-thread runtime has no workers; its handle is told apart by its variant.
    #[test]
    fn a_current_thread_runtime() {
        let mut context = CONTEXT;
        context[1] = 0;
        let memory = Memory::from([
            (ON_STACK, vec![0, HANDLE, 0, CORE, 0, 0, 8, 0]),
            (HANDLE, vec![3, 1, 0, CORE, 7, 0, 0, 0]),
        ]);
        let alone = Driven {
            runtime: HANDLE,
            worker: None,
        };
        assert_eq!(look(&context, &memory), Some(alone));
        assert_eq!(look(&CONTEXT, &memory), None);
    }

    /// Every name that a compiler gave it, in both manglings, and its neighbours.
    #[test]
    fn names_of_the_context() {
        use crate::target::elf::demangle;
        for mangled in [
            "_ZN5tokio7runtime7context7CONTEXT29_$u7b$$u7b$constant$u7d$$u7d$28_$u7b$$u7b$closure$u7d$$u7d$23__RUST_STD_INTERNAL_VAL17h24f876a0d7a80e67E",
            "_ZN5tokio7runtime7context7CONTEXT29_$u7b$$u7b$constant$u7d$$u7d$28_$u7b$$u7b$closure$u7d$$u7d$3VAL17h24f876a0d7a80e67E.llvm.14814767569640013185",
            "_ZN5tokio7runtime7context7CONTEXT7__getit3VAL17h24f876a0d7a80e67E",
            "_RNvNCNKNvNtNtCs6jUX7kuMRGI_5tokio7runtime7context7CONTEXT0023___RUST_STD_INTERNAL_VAL",
        ] {
            let name = demangle(mangled);
            assert!(is_context(&name), "{name}");
        }
        for name in [
            "tokio::runtime::context::CONTEXT::__getit::STATE",
            "tokio::task::local::CURRENT::{{constant}}::{{closure}}::VAL",
            "my::tokio::runtime::context::CONTEXT::__getit::VAL",
        ] {
            assert!(!is_context(name), "{name}");
        }
    }
}
