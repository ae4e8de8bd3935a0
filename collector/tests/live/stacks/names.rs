//! One form for a function's name, whoever wrote it down.
//!
//! Symbols (legacy and v0) and debug information spell one function in different ways, and so do the demanglers:
//!
//! | spelling | in the normal form |
//! | --- | --- |
//! | `a::b::h0123456789abcdef` | `a::b` |
//! | `a::B<T>::c`, `a::B<u64>::c::<u8>`, `<a::B>::c`, `<a::B<T>>::c` | `a::B::c` |
//! | `a::b::{{closure}}`, `a::b::{closure#3}`, `a::b::{async_fn#0}` | `a::b::{closure}` |
//! | `<a::B<T> as c::D<E>>::f`, `<a::B as c::D>::f::<u8>` | `<a::B as c::D>::f` |
//! | `a::f{{vtable.shim}}`, `a::f::{shim:vtable#0}` | `a::f` |
//!
//! What is left out tells apart instances of one generic function and closures of one function. Order and number of
//! the frames, which an unwinder can get wrong, stay.

/// The normal form of a name.
pub fn normal(name: &str) -> String {
    let name = name.split_once("{{vtable.shim}}").map_or(name, |it| it.0);
    let mut path = String::new();
    for (at, segment) in segments(name).into_iter().enumerate() {
        let segment = one(segment, at == 0);
        if segment.is_empty() || is_hash(&segment) {
            continue;
        }
        if !path.is_empty() {
            path.push_str("::");
        }
        path.push_str(&segment);
    }
    path
}

/// A path's segments: what `::` separates outside of brackets.
fn segments(path: &str) -> Vec<&str> {
    let bytes = path.as_bytes();
    let (mut segments, mut from, mut depth, mut at) = (Vec::new(), 0, 0i32, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'<' | b'(' | b'[' | b'{' => depth += 1,
            b'>' if at > 0 && bytes[at - 1] == b'-' => {}
            b'>' | b')' | b']' | b'}' => depth -= 1,
            b':' if depth == 0 && bytes.get(at + 1) == Some(&b':') => {
                segments.push(&path[from..at]);
                at += 1;
                from = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    segments.push(&path[from..]);
    segments
}

/// One segment: without type arguments, closures without their number.
fn one(segment: &str, is_first: bool) -> String {
    if let Some(inner) = segment.strip_prefix('{') {
        let is_closure = ["closure", "async", "coroutine"]
            .iter()
            .any(|word| inner.contains(word));
        // `{impl#3}` and `{shim:vtable#0}` stand where a symbol has nothing.
        return if is_closure { "{closure}" } else { "" }.to_owned();
    }
    let Some(inner) = segment
        .strip_prefix('<')
        .and_then(|inner| inner.strip_suffix('>'))
    else {
        return segment.split('<').next().unwrap_or(segment).to_owned();
    };
    match split_at_as(inner) {
        Some((receiver, of_trait)) if is_first => {
            format!("<{} as {}>", normal(receiver), normal(of_trait))
        }
        // The receiver of an inherent method. Behind another segment it is a list of type arguments.
        None if is_first => normal(inner),
        _ => String::new(),
    }
}

/// `A as B`, at the outermost level.
fn split_at_as(inner: &str) -> Option<(&str, &str)> {
    let bytes = inner.as_bytes();
    let mut depth = 0i32;
    for at in 0..bytes.len() {
        match bytes[at] {
            b'<' | b'(' | b'[' | b'{' => depth += 1,
            b'>' if at > 0 && bytes[at - 1] == b'-' => {}
            b'>' | b')' | b']' | b'}' => depth -= 1,
            b' ' if depth == 0 && inner[at..].starts_with(" as ") => {
                return Some((&inner[..at], &inner[at + 4..]));
            }
            _ => {}
        }
    }
    None
}

/// `h` and sixteen hexadecimal digits.
fn is_hash(segment: &str) -> bool {
    segment.strip_prefix('h').is_some_and(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::normal;

    /// The spellings in the table above, from symbols and debug information of real binaries.
    #[test]
    fn spellings_of_one_function_have_one_normal_form() {
        for (spellings, form) in [
            (
                &[
                    "tokio::runtime::task::core::Core<T,S>::poll::h0123456789abcdef",
                    "tokio::runtime::task::core::Core<T,S>::poll",
                    "<tokio::runtime::task::core::Core<app::F, app::S>>::poll",
                    "tokio::runtime::task::core::Core<F, fn(u8) -> u8>::poll::<u8>",
                ][..],
                "tokio::runtime::task::core::Core::poll",
            ),
            (
                &[
                    "app::session::{{closure}}::{{closure}}",
                    "app::session::{async_fn#0}::{closure#3}",
                    "app::session::<app::Layer<u8>>::{closure#0}::{closure#1}",
                ],
                "app::session::{closure}::{closure}",
            ),
            (
                &[
                    "<app::Layer<T> as app::Step>::run",
                    "<app::Layer<app::Point> as app::Step<u8>>::run::<u8>",
                ],
                "<app::Layer as app::Step>::run",
            ),
            (
                &[
                    "core::ops::function::FnOnce::call_once{{vtable.shim}}",
                    "core::ops::function::FnOnce::call_once::{shim:vtable#0}",
                ],
                "core::ops::function::FnOnce::call_once",
            ),
        ] {
            for spelling in spellings {
                assert_eq!(normal(spelling), form, "{spelling}");
            }
        }
    }

    /// What are two functions stay two.
    #[test]
    fn different_functions_differ() {
        let names = [
            "app::f",
            "app::f::{{closure}}",
            "app::F::g",
            "<app::F as app::G>::f",
            "<app::G as app::F>::f",
            "other::f",
        ];
        for (at, one) in names.iter().enumerate() {
            for other in &names[at + 1..] {
                assert_ne!(normal(one), normal(other));
            }
        }
    }

    /// Whatever a name is, it has a normal form.
    #[test]
    fn broken_names_do_not_panic() {
        for name in [
            "",
            "<",
            ">",
            "::",
            "<a as",
            "a::<b",
            "{",
            "{{closure}}",
            "->",
            "é<é>::é",
        ] {
            normal(name);
        }
    }
}
