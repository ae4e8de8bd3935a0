//! Names for people. Whole names of functions, types and files go in; short ones come out, without hashes,
//! type arguments and the folders of whoever built the binary. The whole ones stay in `report.json`.
//!
//! | whole | short |
//! | --- | --- |
//! | `app::serve::{{closure}}::{{closure}}` | `app::serve::{closure}` |
//! | `<argon2::Argon2<'key> as password_hash::Hasher>::hash` | `<argon2::Argon2 as Hasher>::hash` |
//! | `app::wire::<impl app::Thing<T>>::send` | `app::Thing::send` |
//! | type `app::serve::{async_fn_env#0}` | `async fn app::serve` |
//! | type `app::main::{async_block#0}::{async_block_env#1}` | `async block in app::main` |
//! | type `core::pin::Pin<alloc::boxed::Box<dyn core::future::future::Future<…>, …>>` | `Pin<Box<dyn Future>>` |
//! | `/home/u/.cargo/registry/src/index…/argon2-0.5.3/src/lib.rs` | `argon2-0.5.3/src/lib.rs` |
//! | `/home/u/app/src/handshake.rs` | `app/src/handshake.rs` |
//!
//! Names come from untrusted binaries: one that doesn't parse is shown as it is, and none is longer than
//! [`MOST_CHARS`].

/// A longer name is cut: it would tell nobody more.
const MOST_CHARS: usize = 120;

/// Nested types deeper than this are `…`.
const MOST_DEPTH: usize = 4;

/// Beyond this length no name is taken apart: real ones of this length exist, but nobody reads them.
const MOST_PARSED_BYTES: usize = 16 << 10;

/// A function.
pub fn function(name: &str) -> String {
    // glibc's own alias of a function that it exports.
    let name = name.strip_prefix("__GI_").unwrap_or(name);
    cut(&folded(path(without_hash(parseable(name)), 0)))
}

/// A future's type.
pub fn future(name: &str) -> String {
    let name = parseable(name);
    // What is given to the blocking pool is wrapped into a future.
    let inside = name
        .strip_prefix("tokio::runtime::blocking::task::BlockingTask<")
        .and_then(|rest| rest.strip_suffix('>'));
    cut(&folded(short_type(inside.unwrap_or(name), 0)))
}

/// The type of what a lock protects: with the crate in front, as its last name alone is `Inner` or `State`.
pub fn protected(name: &str) -> String {
    let name = parseable(name);
    let short = short_type(name, 0);
    let segments: Vec<&str> = split(name, "::").collect();
    let named = match segments.as_slice() {
        [krate, rest @ ..]
            if is_crate_to_show(krate) && short.starts_with(char::is_alphanumeric) =>
        {
            let between = if rest.len() > 1 { "…::" } else { "" };
            (!rest.is_empty()).then(|| format!("{krate}::{between}{short}"))
        }
        _ => None,
    };
    cut(&named.unwrap_or(short))
}

/// Everybody knows where `Vec` and `HashMap` are from.
fn is_crate_to_show(krate: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    krate.chars().all(is_name) && !["core", "alloc", "std"].contains(&krate)
}

/// A place in a source file.
pub fn place(file: &str, line: Option<u32>) -> String {
    let file = cut(source_file(file));
    match line {
        Some(line) => format!("{file}:{line}"),
        None => file,
    }
}

fn parseable(name: &str) -> &str {
    match name.char_indices().find(|(at, _)| *at >= MOST_PARSED_BYTES) {
        Some((at, _)) => &name[..at],
        None => name,
    }
}

fn cut(name: &str) -> String {
    match name.char_indices().nth(MOST_CHARS) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

/// A name that is too long, with only the first and last parts of its paths, longest first, until it fits:
/// `async fn citadel_proto::…::connect`.
fn folded(mut name: String) -> String {
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '{' | '}' | '#');
    while name.chars().count() > MOST_CHARS {
        let longest = name
            .split(|c| !is_path(c))
            .filter_map(|path| {
                let (first, rest) = path.split_once("::")?;
                let (between, last) = rest.rsplit_once("::")?;
                (!first.is_empty()).then_some((path, between, first, last))
            })
            .max_by_key(|(_, between, ..)| between.len());
        // What is left out has to be longer than what says so.
        let Some((path, between, first, last)) = longest else {
            break;
        };
        if between.len() <= "…".len() {
            break;
        }
        name = name.replacen(path, &format!("{first}::…::{last}"), 1);
    }
    name
}

/// The legacy mangling's `::h` and 16 hex digits.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            path
        }
        _ => name,
    }
}

/// A path without type arguments, with `{closure}` for any chain of them. The module that an `impl` stands in is
/// left out where the type has a path of its own.
fn path(name: &str, depth: usize) -> String {
    let mut segments: Vec<String> = Vec::new();
    for (n, segment) in split(name, "::").enumerate() {
        let Some(short) = path_segment(segment, n == 0, depth) else {
            continue;
        };
        if segment.trim_start_matches('_').starts_with("<impl ") && short.contains("::") {
            segments.clear();
        }
        segments.push(short);
    }
    let mut short = String::with_capacity(name.len());
    let mut previous = "";
    for segment in &segments {
        if segment == CLOSURE && previous == CLOSURE {
            continue;
        }
        if !short.is_empty() {
            short.push_str("::");
        }
        short.push_str(segment);
        previous = segment;
    }
    short
}

const CLOSURE: &str = "{closure}";

/// None for a segment that holds type arguments alone (`::<T>`). In front, the same is a type
/// (`<app::Thing>::method`).
fn path_segment(segment: &str, is_first: bool, depth: usize) -> Option<String> {
    let segment = segment
        .strip_prefix('_')
        .filter(|rest| rest.starts_with('<'))
        .unwrap_or(segment);
    if depth > MOST_DEPTH {
        return Some("…".to_owned());
    }
    if let Some(inside) = segment
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
    {
        if let Some((of_type, of_trait)) = split_once(inside, " as ") {
            let of_type = path(of_type, depth + 1);
            return Some(format!("<{of_type} as {}>", last_segment(of_trait)));
        }
        if let Some(implementation) = inside.strip_prefix("impl ") {
            return Some(match split_once(implementation, " for ") {
                Some((of_trait, of_type)) => {
                    let of_type = path(of_type, depth + 1);
                    format!("<{of_type} as {}>", last_segment(of_trait))
                }
                None => path(implementation, depth + 1),
            });
        }
        return is_first.then(|| path(inside, depth + 1));
    }
    if segment.starts_with('{') {
        return Some(braced(segment).to_owned());
    }
    // Type arguments, and the crate's hash of v0 (`app[1f2e]`).
    let name = split(segment, "<").next().unwrap_or(segment);
    let name = match name.split_once('[') {
        Some((name, hash)) if !name.is_empty() && hash.ends_with(']') => name,
        _ => name,
    };
    Some(name.to_owned())
}

/// `{{closure}}`, `{closure#3}`, `{closure_env#0}` and their like without numbers.
fn braced(segment: &str) -> &str {
    for (start, short) in [
        ("{{closure", CLOSURE),
        ("{closure", CLOSURE),
        ("{async_fn", "{async_fn}"),
        ("{async_block", "{async_block}"),
        ("{async_closure", "{async_closure}"),
    ] {
        if segment.starts_with(start) {
            return short;
        }
    }
    segment
}

fn last_segment(name: &str) -> String {
    let last = split(name, "::").last().unwrap_or(name);
    split(last, "<").next().unwrap_or(last).to_owned()
}

/// A type with the last segments of its paths, and futures by what they were made from.
fn short_type(name: &str, depth: usize) -> String {
    let name = name.trim();
    if depth > MOST_DEPTH {
        return "…".to_owned();
    }
    for prefix in ["&mut ", "&", "*mut ", "*const "] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return format!("{prefix}{}", short_type(rest, depth + 1));
        }
    }
    if let Some(inside) = name
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
    {
        if inside.starts_with("dyn ") {
            return short_type(inside, depth + 1);
        }
        let parts: Vec<String> = split(inside, ",")
            .map(|part| short_type(part, depth + 1))
            .collect();
        return format!("({})", parts.join(", "));
    }
    if let Some(bounds) = name.strip_prefix("dyn ") {
        let first = split(bounds, " + ").next().unwrap_or(bounds);
        return format!("dyn {}", last_segment(first));
    }
    let segments: Vec<&str> = split(name, "::").collect();
    let Some((last, outer)) = segments.split_last() else {
        return name.to_owned();
    };
    for (start, what) in [
        ("{async_fn_env", "async fn "),
        ("{async_block_env", "async block in "),
        ("{async_closure_env", "async closure in "),
        ("{closure_env", "closure in "),
    ] {
        if last.starts_with(start) {
            // The async block in an async fn is inside the fn's own body.
            let inner = outer.iter().rposition(|segment| !segment.starts_with('{'));
            let outer = &outer[..inner.map_or(0, |at| at + 1)];
            return format!("{what}{}", path(&outer.join("::"), depth));
        }
    }
    let (head, arguments) = match last.find('<').map(|at| last.split_at(at)) {
        Some((head, arguments)) if !head.is_empty() => (head, arguments),
        _ => return (*last).to_owned(),
    };
    let arguments = arguments
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    let arguments: Vec<String> = arguments
        .into_iter()
        .flat_map(|list| split(list, ","))
        .map(str::trim)
        .filter(|argument| *argument != "alloc::alloc::Global" && !argument.starts_with('\''))
        .map(|argument| short_type(argument, depth + 1))
        .collect();
    if arguments.is_empty() {
        head.to_owned()
    } else {
        format!("{head}<{}>", arguments.join(", "))
    }
}

/// Splits where brackets are balanced. A `<` that is itself the separator opens no bracket.
fn split<'a>(text: &'a str, separator: &'static str) -> impl Iterator<Item = &'a str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match split_once(text, separator) {
            Some((first, others)) => {
                rest = Some(others);
                Some(first)
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
}

fn split_once<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    for at in 0..bytes.len() {
        if depth == 0 && at > 0 && bytes[at..].starts_with(separator.as_bytes()) {
            return Some((&text[..at], &text[at + separator.len()..]));
        }
        match bytes[at] {
            b'<' | b'(' | b'[' | b'{' => depth += 1,
            // The arrow of a function's type closes nothing.
            b'>' if at > 0 && bytes[at - 1] == b'-' => {}
            b'>' | b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The part of a source path that means the same on every machine.
fn source_file(file: &str) -> &str {
    // cargo's folders: the part behind the registry's or checkout's own name.
    if let Some((_, rest)) = file.split_once("/registry/src/")
        && let Some((_, package)) = rest.split_once('/')
    {
        return package;
    }
    if let Some((_, rest)) = file.split_once("/git/checkouts/") {
        // name-hash/revision/src/lib.rs
        let mut parts = rest.splitn(3, '/');
        if let (Some(_), Some(_), Some(inside)) = (parts.next(), parts.next(), parts.next()) {
            return inside;
        }
    }
    // Rust's own: /rustc/HASH/library/core/src/… and the crates it is built from.
    for start in ["/library/", "/rust/deps/"] {
        if let Some((_, rest)) = file.split_once(start)
            && (file.starts_with("/rustc/")
                || file.contains("/lib/rustlib/")
                || start == "/rust/deps/")
        {
            return rest;
        }
    }
    // A crate of a workspace or of anybody's home: its folder, and what is inside.
    let package = ["/src/", "/examples/", "/tests/", "/benches/"]
        .into_iter()
        .filter_map(|folder| file.rfind(folder))
        .max();
    let package = package.filter(|_| file.starts_with('/'));
    if let Some(at) = package {
        let parent = file[..at].rfind('/').map_or(0, |slash| slash + 1);
        return &file[parent..];
    }
    // Anything else (C, assembly): the last three parts.
    let mut slashes = file.rmatch_indices('/');
    match slashes.nth(2) {
        Some((at, _)) => &file[at + 1..],
        None => file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_function(whole: &str, short: &str) {
        assert_eq!(function(whole), short, "{whole}");
    }

    /// Functions as both manglings and DWARF have them.
    #[test]
    fn functions() {
        check_function(
            "app::serve::{{closure}}::{{closure}}",
            "app::serve::{closure}",
        );
        check_function(
            "app::serve::{closure#0}::{closure#1}",
            "app::serve::{closure}",
        );
        check_function("app::serve::h0123456789abcdef", "app::serve");
        check_function("app::serve::hello", "app::serve::hello");
        check_function("alloc::vec::Vec<T,A>::push", "alloc::vec::Vec::push");
        check_function("app[1f2e3d]::run::<u8, fn(u8) -> u8>", "app::run");
        check_function(
            "<argon2::Argon2<'key> as password_hash::Hasher<A<B>>>::hash",
            "<argon2::Argon2 as Hasher>::hash",
        );
        check_function(
            "<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once",
            "<alloc::boxed::Box as FnOnce>::call_once",
        );
        check_function(
            "app::_<impl serde::Serialize for app::Thing<T>>::serialize",
            "<app::Thing as Serialize>::serialize",
        );
        check_function(
            "app::wire::incoming::<impl app::state::Container<R>>::on_header::{{closure}}",
            "app::state::Container::on_header::{closure}",
        );
        check_function("<app::Thing<T>>::method::<T>", "app::Thing::method");
        check_function("core::str::<impl str>::parse", "core::str::str::parse");
        check_function("app::{impl#3}::run", "app::{impl#3}::run");
        check_function("__GI___clock_nanosleep", "__clock_nanosleep");
        check_function("libfoo.so+0x1234", "libfoo.so+0x1234");
        check_function("", "");
    }

    #[track_caller]
    fn check_future(whole: &str, short: &str) {
        assert_eq!(future(whole), short, "{whole}");
    }

    /// Futures as DWARF names their types.
    #[test]
    fn futures() {
        check_future("app::serve::{async_fn_env#0}", "async fn app::serve");
        check_future(
            "app::serve::{async_fn_env#0}<app::State>",
            "async fn app::serve",
        );
        check_future(
            "app::Server<T>::run::{async_fn#0}::{async_block_env#1}",
            "async block in app::Server::run",
        );
        check_future(
            "app::main::{async_block#0}::{async_block_env#1}",
            "async block in app::main",
        );
        check_future(
            "tracing::instrument::Instrumented<app::serve::{async_fn_env#0}>",
            "Instrumented<async fn app::serve>",
        );
        check_future(
            "core::pin::Pin<alloc::boxed::Box<(dyn core::future::future::Future<Output=()> + \
             core::marker::Send), alloc::alloc::Global>>",
            "Pin<Box<dyn Future>>",
        );
        check_future(
            "core::pin::Pin<alloc::boxed::Box<dyn core::future::future::Future<Output=()>, \
             alloc::alloc::Global>>",
            "Pin<Box<dyn Future>>",
        );
        check_future(
            "futures_util::future::map::Map<app::f::{async_fn_env#0}, app::f::{closure_env#0}>",
            "Map<async fn app::f, closure in app::f>",
        );
        // Too long for a line: the crate and the function remain.
        let module = "a_module_with_a_long_name::".repeat(6);
        check_future(
            &format!("citadel_proto::{module}connect::{{async_fn_env#0}}"),
            "async fn citadel_proto::…::connect",
        );
        check_future("(u8, app::A<&mut app::B>)", "(u8, A<&mut B>)");
        check_future("a<b<c<d<e<f<g>>>>>>", "a<b<c<d<e<…>>>>>");
    }

    /// What locks protect, as DWARF names the types.
    #[test]
    fn protected_types() {
        for (whole, short) in [
            (
                "tokio::runtime::scheduler::inject::synced::Synced",
                "tokio::…::Synced",
            ),
            ("app::Sessions", "app::Sessions"),
            ("()", "()"),
            ("u64", "u64"),
            (
                "std::collections::hash::map::HashMap<u64, app::state::Session, std::hash::random::RandomState>",
                "HashMap<u64, Session, RandomState>",
            ),
            (
                "app::state::Container<app::state::Ratchet>",
                "app::…::Container<Ratchet>",
            ),
            ("alloc::vec::Vec<u8, alloc::alloc::Global>", "Vec<u8>"),
            ("&mut app::state::A", "&mut A"),
        ] {
            assert_eq!(protected(whole), short, "{whole}");
        }
    }

    /// Paths as the debug info of various builds has them.
    #[test]
    fn files() {
        let short = |file| place(file, Some(41));
        assert_eq!(
            short("/home/u/.cargo/registry/src/mirror-19/argon2-0.5.3/src/lib.rs"),
            "argon2-0.5.3/src/lib.rs:41"
        );
        assert_eq!(
            short("/home/u/.cargo/git/checkouts/thing-12ab/34cd/src/lib.rs"),
            "src/lib.rs:41"
        );
        assert_eq!(
            short("/rustc/59807616/library/core/src/ops/function.rs"),
            "core/src/ops/function.rs:41"
        );
        assert_eq!(
            short("/home/u/app/src/handshake.rs"),
            "app/src/handshake.rs:41"
        );
        assert_eq!(short("src/handshake.rs"), "src/handshake.rs:41");
        assert_eq!(
            short("./nptl/pthread_create.c"),
            "./nptl/pthread_create.c:41"
        );
        assert_eq!(
            short("/build/glibc-2.36/sysdeps/x86_64/clone.S"),
            "sysdeps/x86_64/clone.S:41"
        );
        assert_eq!(place("src/x.rs", None), "src/x.rs");
        assert_eq!(place("/src/x.rs", None), "/src/x.rs");
    }

    /// Whatever a binary calls its functions, there is a short name and no panic.
    #[test]
    fn names_that_are_no_names() {
        for name in [
            "<",
            ">",
            "<<<<",
            ">>>>::<",
            "::",
            "::::",
            "{",
            "}}}",
            "<a as ",
            "<a as >::b",
            "<impl >",
            "operator<<",
            "a::<->>",
            "\u{1f980}::<\u{1f980}>",
            "&",
            "()",
            "(dyn )",
            "dyn ",
            "[",
            "a[",
            "_<",
            "h::h0123456789abcdef",
        ] {
            let (function, future) = (function(name), future(name));
            assert!(!protected(name).is_empty() || name.is_empty());
            assert!(function.len() <= name.len() + 16 && future.len() <= name.len() + 16);
            assert!(!place(name, None).is_empty());
        }
        let deep = "a<".repeat(100_000);
        assert!(future(&deep).chars().count() <= MOST_CHARS + 1);
        assert!(function(&"x".repeat(1_000_000)).chars().count() <= MOST_CHARS + 1);
        assert!(function(&"::<".repeat(100_000)).chars().count() <= MOST_CHARS + 1);
    }
}
