//! Names of Rust functions and types, as symbols and DWARF have them, go in; their parts come out. What
//! class of task a poll instance runs is read from its type arguments here, and nowhere else.
#![forbid(unsafe_code)]

use crate::event::SiteClass;

/// A name without the arguments of its last segment, and those arguments:
/// `poll<A, B<C>>` and `a::poll::<A, B<C>>` give `poll` / `a::poll` and `A, B<C>`.
pub fn split_arguments(name: &str) -> (&str, Option<&str>) {
    let Some(open) = name.strip_suffix('>').and_then(matching_open) else {
        return (name, None);
    };
    let path = &name[..open];
    let arguments = &name[open + 1..name.len() - 1];
    (path.strip_suffix("::").unwrap_or(path), Some(arguments))
}

/// Where the bracket opens that a `>` behind `text` would close.
fn matching_open(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().rev() {
        match byte {
            b'>' if !is_arrow(bytes, at) => depth += 1,
            b'<' if depth == 0 => return Some(at),
            b'<' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Whether the `>` at `at` is the head of a `->`.
fn is_arrow(bytes: &[u8], at: usize) -> bool {
    at > 0 && bytes[at - 1] == b'-'
}

/// The type arguments in a list of them.
pub fn arguments(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let text = rest?;
        let bytes = text.as_bytes();
        let mut depth = 0isize;
        let comma = bytes.iter().enumerate().find_map(|(at, byte)| {
            match byte {
                b'<' | b'(' | b'[' | b'{' => depth += 1,
                b'>' if is_arrow(bytes, at) => {}
                b'>' | b')' | b']' | b'}' => depth -= 1,
                b',' if depth == 0 => return Some(at),
                _ => {}
            }
            None
        });
        rest = comma.map(|at| &text[at + 1..]);
        Some(text[..comma.unwrap_or(text.len())].trim())
    })
}

/// What is inside of a bracket that opened right before `text`: all of it, where none closes.
pub fn inside_of_bracket(text: &str) -> &str {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if is_arrow(bytes, at) => {}
            b'>' if depth == 0 => return &text[..at],
            b'>' => depth -= 1,
            _ => {}
        }
    }
    text
}

/// A function's path without type arguments and without the brackets of an inherent `impl`, the same for
/// both mangling schemes: `<parking_lot::raw_mutex::RawMutex>::lock_slow` (v0) and
/// `parking_lot::raw_mutex::RawMutex::lock_slow` (legacy) are one function.
pub fn plain_path(name: &str) -> String {
    let (path, _) = split_arguments(name);
    if let Some(inner) = path.strip_prefix('<')
        && let Some((receiver, method)) = inner.rsplit_once(">::")
        && !receiver.contains(" as ")
    {
        let (receiver, _) = split_arguments(receiver);
        return format!("{receiver}::{method}");
    }
    path.to_owned()
}

/// What a `poll<future, scheduler>` instance runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollArguments {
    /// The future's type, whole.
    pub future: String,
    /// By the scheduler's type, and for a worker's loop by the future's.
    pub class: SiteClass,
    /// It is the worker loop that `block_in_place` starts on another thread.
    pub takes_over_core: bool,
}

impl PollArguments {
    /// The scheduler's type, the second of the arguments.
    pub fn scheduler(list: &str) -> Option<&str> {
        arguments(list).nth(1)
    }

    /// Of the type arguments of a `tokio::runtime::task::raw::poll` instance.
    pub fn parse(list: &str) -> Option<PollArguments> {
        let mut both = arguments(list);
        let (future, scheduler) = (both.next()?, both.next()?);
        let job = future
            .strip_prefix("tokio::runtime::blocking::task::BlockingTask<")
            .unwrap_or("");
        // `multi_thread` since tokio 1.27, `thread_pool` before.
        let job = ["scheduler::multi_thread", "thread_pool"]
            .iter()
            .find_map(|scheduler| {
                // v0 symbols put the receiver of a method into brackets: `<…::worker::Launch>::launch`.
                let job = job.strip_prefix('<').unwrap_or(job);
                let of_runtime = job.strip_prefix("tokio::runtime::")?;
                of_runtime
                    .strip_prefix(scheduler)?
                    .strip_prefix("::worker::")
            });
        let class = match class_of_scheduler(scheduler) {
            SiteClass::Blocking if job.is_some() => SiteClass::Worker,
            class => class,
        };
        Some(PollArguments {
            future: future.to_owned(),
            class,
            // `maybe_move_runtime` is what `block_in_place` calls since tokio 1.50.
            takes_over_core: job.is_some_and(|job| {
                job.starts_with("block_in_place") || job.starts_with("maybe_move_runtime")
            }),
        })
    }
}

/// By the type that implements tokio's `Schedule`, old names included.
fn class_of_scheduler(scheduler: &str) -> SiteClass {
    const TYPES: &[(&str, SiteClass)] = &[
        (
            "tokio::runtime::scheduler::multi_thread::handle::Handle",
            SiteClass::MultiThread,
        ),
        (
            "tokio::runtime::scheduler::multi_thread_alt::handle::Handle",
            SiteClass::MultiThread,
        ),
        ("tokio::runtime::thread_pool::", SiteClass::MultiThread),
        (
            "tokio::runtime::scheduler::current_thread::Handle",
            SiteClass::CurrentThread,
        ),
        (
            "tokio::runtime::basic_scheduler::",
            SiteClass::CurrentThread,
        ),
        ("tokio::task::local::Shared", SiteClass::LocalSet),
        ("tokio::runtime::blocking::schedule::", SiteClass::Blocking),
    ];
    // `alloc::sync::Arc<Handle, Global>`: the outermost type is an Arc or the scheduler itself.
    let (outer, inner) = split_arguments(scheduler);
    let named = match inner {
        Some(inner) if outer == "alloc::sync::Arc" => arguments(inner).next().unwrap_or(""),
        _ => scheduler,
    };
    TYPES
        .iter()
        .find(|(prefix, _)| named.starts_with(prefix))
        .map_or(SiteClass::Unknown, |(_, class)| *class)
}

/// What calls to `raw::poll` from a function are, by the function's name: the fallback where DWARF does
/// not name the poll's types.
pub fn class_of_caller(function: &str) -> SiteClass {
    const PARTS: &[(&str, SiteClass)] = &[
        ("tokio::runtime::blocking::", SiteClass::Blocking),
        (
            "tokio::runtime::scheduler::multi_thread::worker::",
            SiteClass::MultiThread,
        ),
        (
            "tokio::runtime::scheduler::multi_thread_alt::worker::",
            SiteClass::MultiThread,
        ),
        (
            "tokio::runtime::thread_pool::worker::",
            SiteClass::MultiThread,
        ),
        (
            "tokio::runtime::scheduler::current_thread::",
            SiteClass::CurrentThread,
        ),
        (
            "tokio::runtime::basic_scheduler::",
            SiteClass::CurrentThread,
        ),
        ("tokio::task::local::", SiteClass::LocalSet),
    ];
    // `<tokio::task::local::RunUntil<T> as Future>::poll` names its type behind a bracket.
    let function = function.trim_start_matches('<');
    PARTS
        .iter()
        .find(|(prefix, _)| function.starts_with(prefix))
        .map_or(SiteClass::Unknown, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type arguments are cut off at the matching bracket, arrows included.
    #[test]
    fn type_arguments() {
        assert_eq!(split_arguments("poll<A, B<C>>"), ("poll", Some("A, B<C>")));
        assert_eq!(split_arguments("a::poll::<A>"), ("a::poll", Some("A")));
        assert_eq!(
            split_arguments("f<fn(u8) -> Vec<u8>, fn() -> u8>"),
            ("f", Some("fn(u8) -> Vec<u8>, fn() -> u8"))
        );
        for plain in ["", "poll", ">", "a>", "poll->", "<", "a<b"] {
            assert_eq!(split_arguments(plain), (plain, None));
        }
        let list = "(A, B), [u8; 4], dyn Fn(A, B) -> C<D, E>, X::{async_block_env#0}<Y, Z>";
        assert_eq!(
            arguments(list).collect::<Vec<_>>(),
            [
                "(A, B)",
                "[u8; 4]",
                "dyn Fn(A, B) -> C<D, E>",
                "X::{async_block_env#0}<Y, Z>"
            ]
        );
        assert_eq!(arguments("").collect::<Vec<_>>(), [""]);
        assert_eq!(arguments(">>),a").collect::<Vec<_>>(), [">>),a"]);
    }

    /// Both mangling schemes give one path.
    #[test]
    fn one_path_for_both_schemes() {
        for name in [
            "parking_lot::raw_mutex::RawMutex::lock_slow",
            "<parking_lot::raw_mutex::RawMutex>::lock_slow",
        ] {
            assert_eq!(
                plain_path(name),
                "parking_lot::raw_mutex::RawMutex::lock_slow"
            );
        }
        assert_eq!(plain_path("<a::B<C>>::d::<E>"), "a::B::d");
        assert_eq!(plain_path("<a::B as c::D>::e"), "<a::B as c::D>::e");
        assert_eq!(plain_path("<"), "<");
    }

    /// The classes, from names that real binaries have.
    #[test]
    fn poll_classes() {
        let class =
            |list| PollArguments::parse(list).map(|poll| (poll.class, poll.takes_over_core));
        assert_eq!(
            class(
                "app::main::{async_block#0}::{async_block_env#1}, alloc::sync::Arc<tokio::runtime::\
                 scheduler::multi_thread::handle::Handle, alloc::alloc::Global>"
            ),
            Some((SiteClass::MultiThread, false))
        );
        assert_eq!(
            class("a, alloc::sync::Arc<tokio::runtime::scheduler::current_thread::Handle>"),
            Some((SiteClass::CurrentThread, false))
        );
        assert_eq!(
            class("a, alloc::sync::Arc<tokio::task::local::Shared, alloc::alloc::Global>"),
            Some((SiteClass::LocalSet, false))
        );
        assert_eq!(
            class(
                "tokio::runtime::blocking::task::BlockingTask<app::hash::{closure_env#0}>, \
                 tokio::runtime::blocking::schedule::BlockingSchedule"
            ),
            Some((SiteClass::Blocking, false))
        );
        assert_eq!(
            class(
                "tokio::runtime::blocking::task::BlockingTask<tokio::runtime::scheduler::multi_thread::\
                 worker::{impl#0}::launch::{closure_env#0}>, \
                 tokio::runtime::blocking::schedule::BlockingSchedule"
            ),
            Some((SiteClass::Worker, false))
        );
        assert_eq!(
            class(
                "tokio::runtime::blocking::task::BlockingTask<tokio::runtime::scheduler::multi_thread::\
                 worker::block_in_place::{closure#0}::{closure_env#0}<app::f::{closure_env#0}, u64>>, \
                 tokio::runtime::blocking::schedule::BlockingSchedule"
            ),
            Some((SiteClass::Worker, true))
        );
        assert_eq!(
            class("a, mine::Scheduler"),
            Some((SiteClass::Unknown, false))
        );
        assert_eq!(class("a"), None);
        // The user's own type may mention a worker; only the task's outermost type counts.
        assert_eq!(
            class(
                "tokio::runtime::blocking::task::BlockingTask<app::Job<tokio::runtime::scheduler::\
                 multi_thread::worker::Worker>>, tokio::runtime::blocking::schedule::BlockingSchedule"
            ),
            Some((SiteClass::Blocking, false))
        );
    }

    /// Callers' names, from real binaries.
    #[test]
    fn caller_classes() {
        for (function, class) in [
            (
                "tokio::runtime::blocking::pool::Inner::run",
                SiteClass::Blocking,
            ),
            (
                "tokio::runtime::scheduler::multi_thread::worker::Context::run_task",
                SiteClass::MultiThread,
            ),
            (
                "tokio::runtime::scheduler::current_thread::CoreGuard::block_on::{{closure}}",
                SiteClass::CurrentThread,
            ),
            ("tokio::task::local::LocalSet::tick", SiteClass::LocalSet),
            (
                "<tokio::task::local::RunUntil<T> as core::future::future::Future>::poll",
                SiteClass::LocalSet,
            ),
            (
                "std::sys::backtrace::__rust_begin_short_backtrace",
                SiteClass::Unknown,
            ),
        ] {
            assert_eq!(class_of_caller(function), class, "{function}");
        }
    }
}
