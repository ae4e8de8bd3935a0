//! Where tasks of a type are spawned: the ways that lead to their vtable go in, lines of code come out.
//!
//! A way leads from Tokio's own functions out to the line that gave them the future. Programs and libraries often have a
//! function of their own around `tokio::spawn`, and its line says nothing: it is the same for all tasks. Such a function is
//! generic over the future. So the place is the innermost line outside of the runtime, in a function that is not.

use super::NamedFrame;
use super::stacks::named_frame;
use crate::capture::{Capture, PollSite};
use crate::classify::{Origin, Rules};
use crate::symbolize::{Frame, SymbolTable};
use crate::target::names::{arguments, split_arguments};

/// Places that are kept of one type of task: more than the code of any instance gives.
pub const MOST_PLACES: usize = 64;
/// Addresses of a path, and frames inlined into one another at each, that are looked at: more than a recording has.
const MOST_ADDRESSES: usize = 16;
const MOST_INLINED: usize = 256;
/// Types inside of types that are looked at.
const MOST_COMPONENTS: usize = 64;

/// Where tasks of an instance are spawned.
pub struct Places {
    /// Perhaps more than once.
    pub known: Vec<NamedFrame>,
    /// There are ways to spawn them that lead to no line.
    pub has_others: bool,
}

/// Of an instance's paths.
pub fn places(capture: &Capture, site: &PollSite, rules: &Rules) -> Places {
    let wrapped = wrapped_futures(site.future.as_deref().unwrap_or_default());
    let mut places = Places {
        known: Vec::new(),
        has_others: site.spawn_paths.len() > MOST_PLACES,
    };
    for path in site.spawn_paths.iter().take(MOST_PLACES) {
        let frames = SymbolTable::lookup_addresses(&path.0)
            .take(MOST_ADDRESSES)
            .filter_map(|address| capture.symbols.frames.get(&address))
            .flat_map(|frames| frames.iter().take(MOST_INLINED));
        match place(frames, &wrapped, rules) {
            Some(place) => places.known.push(place),
            None => places.has_others = true,
        }
    }
    places
}

/// Adds those of `new` that are other lines.
pub fn add(places: &mut Vec<NamedFrame>, new: impl IntoIterator<Item = NamedFrame>) {
    // One line can have been compiled several times, inlined into several functions.
    let is_same = |a: &NamedFrame, b: &NamedFrame| {
        (&a.function, &a.file, a.line) == (&b.function, &b.file, b.line)
    };
    for place in new {
        if places.len() < MOST_PLACES && !places.iter().any(|known| is_same(known, &place)) {
            places.push(place);
        }
    }
}

/// Of the frames of one path, innermost first.
fn place<'a>(
    frames: impl Iterator<Item = &'a Frame>,
    wrapped: &[&str],
    rules: &Rules,
) -> Option<NamedFrame> {
    let is_someones = |frame: &NamedFrame| {
        matches!(
            frame.origin,
            Origin::User | Origin::Library | Origin::Crypto
        )
    };
    let is_wrapper = |frame: &NamedFrame| {
        let generics = frame.generics.as_deref().unwrap_or_default();
        arguments(generics).any(|argument| wrapped.contains(&argument))
    };
    let mut outermost_wrapper = None;
    for frame in frames.map(|frame| named_frame(frame, rules)) {
        if !is_someones(&frame) {
            continue;
        }
        if !is_wrapper(&frame) {
            return Some(frame);
        }
        outermost_wrapper = Some(frame);
    }
    outermost_wrapper
}

/// A future's type, and those that it was made around: `Instrumented<app::serve::{async_fn_env#0}>` has `app::serve`'s in it. What
/// an `async fn` or a closure is generic over is not in it, but a part of what it does.
fn wrapped_futures(future: &str) -> Vec<&str> {
    let mut found = vec![future];
    let mut next = 0;
    while let Some(outer) = found.get(next).copied() {
        next += 1;
        let (path, inner) = split_arguments(outer);
        if !path.contains("::{") {
            let inner = inner.into_iter().flat_map(arguments);
            found.extend(inner.take(MOST_COMPONENTS.saturating_sub(found.len())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, generics: Option<&str>, file: &str, line: u32) -> Frame {
        Frame {
            function: function.to_owned(),
            generics: generics.map(str::to_owned),
            file: Some(file.to_owned()),
            line: Some(line),
            module: "app".to_owned(),
            inlined: false,
            unresolved: None,
        }
    }

    fn found(frames: &[Frame], future: &str) -> Option<(String, Option<u32>)> {
        place(frames.iter(), &wrapped_futures(future), &Rules::embedded())
            .map(|place| (place.function, place.line))
    }

    const TOKIO: &str = "/r/registry/src/mirror-1949cf8c6b5b557f/tokio-1.49.0/src/task/spawn.rs";
    const SERVE: &str = "app::serve::{async_fn_env#0}<app::Fast>";

    /// Functions around the spawn are passed over, by what they are generic over.
    #[test]
    fn wrappers_are_passed_over() {
        let measured = format!("app::task::Measured<{SERVE}>");
        let frames = [
            frame("tokio::task::spawn::spawn", Some(&measured), TOKIO, 170),
            frame("app::task::spawn", Some(SERVE), "/a/src/task.rs", 49),
            frame("app::accept", Some("app::Fast"), "/a/src/main.rs", 88),
            frame("app::main", None, "/a/src/main.rs", 12),
        ];
        assert_eq!(
            found(&frames, &measured),
            Some(("app::accept".to_owned(), Some(88)))
        );
        // Nobody but the function around it is known.
        assert_eq!(
            found(&frames[..2], &measured),
            Some(("app::task::spawn".to_owned(), Some(49)))
        );
        assert_eq!(found(&frames[..1], &measured), None);
    }

    /// What the future itself is generic over makes no function a wrapper of it.
    #[test]
    fn what_a_future_is_generic_over_is_not_what_it_wraps() {
        let future = "app::serve::{async_fn_env#0}<app::main::{closure_env#0}>";
        let frames = [
            frame("tokio::task::spawn::spawn", Some(future), TOKIO, 170),
            frame(
                "app::listen",
                Some("app::main::{closure_env#0}"),
                "/a/src/main.rs",
                40,
            ),
            frame("app::main", None, "/a/src/main.rs", 12),
        ];
        assert_eq!(
            found(&frames, future),
            Some(("app::listen".to_owned(), Some(40)))
        );
    }

    /// Types as debug information has them, and text that is none.
    #[test]
    fn futures_in_futures() {
        assert_eq!(
            wrapped_futures(
                "a::W<core::pin::Pin<alloc::boxed::Box<a::f::{async_fn_env#0}<u8>, alloc::alloc::Global>>>"
            ),
            [
                "a::W<core::pin::Pin<alloc::boxed::Box<a::f::{async_fn_env#0}<u8>, alloc::alloc::Global>>>",
                "core::pin::Pin<alloc::boxed::Box<a::f::{async_fn_env#0}<u8>, alloc::alloc::Global>>",
                "alloc::boxed::Box<a::f::{async_fn_env#0}<u8>, alloc::alloc::Global>",
                "a::f::{async_fn_env#0}<u8>",
                "alloc::alloc::Global",
            ]
        );
        let many = format!("a<{}>", vec!["b<c>"; 1000].join(", "));
        assert!(wrapped_futures(&many).len() <= MOST_COMPONENTS);
        assert_eq!(wrapped_futures(""), [""]);
        assert_eq!(wrapped_futures("<<>>>,").len(), 1);
    }
}
