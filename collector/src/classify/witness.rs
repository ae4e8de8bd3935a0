//! What a frame's own function name and source file say about the crate it is from.
//!
//! The two witnesses are right in different cases. A plain path (`tokio::runtime::task::raw::poll`)
//! begins with the crate that defines the function, also where a generic was instantiated by
//! another crate. `<T as Trait>::f` does not: the code is from the crate of either, and only the
//! file tells which. The file alone tells a registry from the user's own folders.

/// Where a source file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// Rust's own library: the crate.
    Std(&'a str),
    /// A package that cargo fetched, by its name as on the registry.
    Package(&'a str),
    /// A git checkout or vendor folder: fetched, but its name is not in the path for certain.
    Fetched,
    /// Somewhere else: the user's own.
    Elsewhere,
}

/// Where `file` lies.
pub(super) fn source(file: &str) -> Source<'_> {
    // /rustc/<hash>/library/core/src/…, …/lib/rustlib/src/rust/library/core/src/…, and a
    // distribution's /usr/src/rustc-1.96.0/library/core/src/…
    if let Some((before, rest)) = file.split_once("/library/")
        && before.contains("rust")
        && let Some((krate, _)) = rest.split_once('/')
        && rest.contains("/src/")
    {
        // Two folders hold several crates: stdarch/crates/core_arch, portable-simd/crates/…
        let krate = rest
            .split_once("/crates/")
            .and_then(|(_, inner)| inner.split('/').next())
            .unwrap_or(krate);
        return Source::Std(krate);
    }
    // The standard library's own dependencies: /rust/deps/hashbrown-0.15.2/src/…
    if let Some(rest) = file.strip_prefix("/rust/deps/") {
        let folder = rest.split('/').next().unwrap_or(rest);
        return Source::Std(package_of(folder).unwrap_or(folder));
    }
    // …/registry/src/<host>-<hash>/<package>-<version>/src/…
    if let Some((_, rest)) = file.split_once("/registry/src/") {
        let package = rest.split('/').nth(1).and_then(package_of);
        return package.map_or(Source::Fetched, Source::Package);
    }
    if file.contains("/git/checkouts/") {
        return Source::Fetched;
    }
    for vendor in ["/vendor/", "/third_party/", "/third-party/"] {
        if let Some((_, rest)) = file.split_once(vendor) {
            let package = rest.split('/').next().and_then(package_of);
            return package.map_or(Source::Fetched, Source::Package);
        }
    }
    // What `-Ztrim-paths` and `--remap-path-prefix` leave of a registry: <package>-<version>/src/…
    let mut folders = file.trim_start_matches(['.', '/']).split('/');
    if let Some(package) = folders.next().and_then(package_of)
        && folders.next().is_some()
    {
        return Source::Package(package);
    }
    Source::Elsewhere
}

/// `aws-lc-sys` of `aws-lc-sys-0.30.0`: what comes before the first `-` that a version follows.
fn package_of(folder: &str) -> Option<&str> {
    folder.match_indices('-').find_map(|(dash, _)| {
        let mut numbers = folder[dash + 1..].splitn(3, '.');
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let version = is_number(numbers.next()?)
            && is_number(numbers.next()?)
            && numbers.next()?.starts_with(|c: char| c.is_ascii_digit());
        (version && dash > 0).then_some(&folder[..dash])
    })
}

/// What a demangled name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// `krate::module::f`: defined in that crate. `path` is what rules on paths look at.
    Path {
        /// The first segment.
        krate: &'a str,
        /// All of it.
        path: &'a str,
    },
    /// `<T as Trait>::f`: defined in the crate of one of them.
    Impl {
        /// The crate of T, unless T is a parameter or a primitive type.
        of_type: Option<&'a str>,
        /// The path of T, or of the trait if T has none.
        path: &'a str,
        /// The crate of the trait.
        of_trait: Option<&'a str>,
    },
    /// A name without a path: C, assembly, or `main`.
    Symbol(&'a str),
}

/// What `function` says.
pub(super) fn name(function: &str) -> Name<'_> {
    // Legacy mangling can't begin a name with `<` and puts `_` in front; some demanglers keep it.
    let function = match function.strip_prefix('_') {
        Some(rest) if rest.starts_with('<') => rest,
        _ => function,
    };
    if let Some(inner) = function.strip_prefix('<') {
        let (type_, trait_) = split_impl(inner);
        let of_type = path_of_type(type_);
        let of_trait = trait_.and_then(path_of_type);
        return match of_type.or(of_trait) {
            Some(path) => Name::Impl {
                of_type: of_type.map(first_segment),
                path,
                of_trait: of_trait.map(first_segment),
            },
            None => Name::Symbol(function),
        };
    }
    match function.split_once("::") {
        Some((krate, _)) if is_identifier(krate) => Name::Path {
            krate,
            path: function,
        },
        _ => Name::Symbol(function),
    }
}

/// Cuts `T as Trait>::f` into T and Trait, at the right depth; `T>::f` has no trait.
fn split_impl(inner: &str) -> (&str, Option<&str>) {
    let mut depth = 0usize;
    let mut as_at = None;
    let bytes = inner.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'<' | b'(' | b'[' => depth += 1,
            // The arrow of `fn() -> T` closes nothing.
            b'>' if at > 0 && bytes[at - 1] == b'-' => {}
            b'>' if depth == 0 => {
                return match as_at {
                    Some(as_at) => (&inner[..as_at], Some(&inner[as_at + 4..at])),
                    None => (&inner[..at], None),
                };
            }
            b'>' | b')' | b']' => depth = depth.saturating_sub(1),
            b' ' if depth == 0 && as_at.is_none() && inner[at..].starts_with(" as ") => {
                as_at = Some(at);
            }
            _ => {}
        }
    }
    (inner, None)
}

/// The path in a type: `tokio::x::Y<…>` of `&mut tokio::x::Y<…>`; None for `T`, `[u8]`, `(A, B)`.
fn path_of_type(mut type_: &str) -> Option<&str> {
    loop {
        type_ = type_.trim_start();
        let stripped = [
            "&", "*const ", "*mut ", "mut ", "const ", "dyn ", "impl ", "'_ ",
        ]
        .iter()
        .find_map(|prefix| type_.strip_prefix(prefix));
        match stripped {
            Some(rest) => type_ = rest,
            None => break,
        }
    }
    let (krate, _) = type_.split_once("::")?;
    is_identifier(krate).then_some(type_)
}

fn first_segment(path: &str) -> &str {
    path.split_once("::").map_or(path, |(first, _)| first)
}

fn is_identifier(s: &str) -> bool {
    !s.is_empty()
        && s.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !s.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths as cargo, rustc and distributions write them.
    #[test]
    fn sources() {
        for (file, expected) in [
            (
                "/home/u/.cargo/registry/src/mirror-1949cf8c6b5b557f/aes-gcm-0.10.3/src/lib.rs",
                Source::Package("aes-gcm"),
            ),
            (
                "/home/u/.cargo/registry/src/mirror-1949cf8c6b5b557f/aws-lc-sys-0.30.0/aws-lc/crypto/fipsmodule/sha/sha256.c",
                Source::Package("aws-lc-sys"),
            ),
            (
                "/r/registry/src/h/x25519-dalek-2.0.0-rc.3/src/x25519.rs",
                Source::Package("x25519-dalek"),
            ),
            (
                "/r/registry/src/h/zstd-sys-2.0.15+zstd.1.5.7/zstd/lib/x.c",
                Source::Package("zstd-sys"),
            ),
            ("/r/registry/src/h/odd/src/lib.rs", Source::Fetched),
            (
                "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/ops/function.rs",
                Source::Std("core"),
            ),
            (
                "/rustc/5980/library/stdarch/crates/core_arch/src/x86/sse2.rs",
                Source::Std("core_arch"),
            ),
            (
                "/home/u/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/lib/rustlib/src/rust/library/alloc/src/boxed.rs",
                Source::Std("alloc"),
            ),
            (
                "/usr/src/rustc-1.96.0/library/std/src/rt.rs",
                Source::Std("std"),
            ),
            (
                "/rust/deps/hashbrown-0.15.2/src/raw/mod.rs",
                Source::Std("hashbrown"),
            ),
            (
                "/home/u/.cargo/git/checkouts/thing-1a2b3c/4d5e6f/src/lib.rs",
                Source::Fetched,
            ),
            ("/build/app/vendor/serde/src/lib.rs", Source::Fetched),
            (
                "/build/app/vendor/serde-1.0.200/src/lib.rs",
                Source::Package("serde"),
            ),
            (
                "tokio-1.49.0/src/runtime/task/raw.rs",
                Source::Package("tokio"),
            ),
            ("/home/u/app/src/main.rs", Source::Elsewhere),
            ("src/main.rs", Source::Elsewhere),
            ("/home/u/my/library/thing/src/lib.rs", Source::Elsewhere),
            ("", Source::Elsewhere),
            ("/rust/deps/", Source::Std("")),
        ] {
            assert_eq!(source(file), expected, "{file}");
        }
    }

    /// Names as both manglings give them.
    #[test]
    fn names() {
        let path = |krate, path| Name::Path { krate, path };
        for (function, expected) in [
            (
                "tokio::runtime::task::raw::poll",
                path("tokio", "tokio::runtime::task::raw::poll"),
            ),
            (
                "app::main::{{closure}}",
                path("app", "app::main::{{closure}}"),
            ),
            (
                "app::wire::<impl core::fmt::Debug for app::wire::Kind>::fmt",
                path(
                    "app",
                    "app::wire::<impl core::fmt::Debug for app::wire::Kind>::fmt",
                ),
            ),
            (
                "<tokio::runtime::task::core::Core<T,S>>::poll",
                Name::Impl {
                    of_type: Some("tokio"),
                    path: "tokio::runtime::task::core::Core<T,S>",
                    of_trait: None,
                },
            ),
            (
                "<aes_gcm::AesGcm<Aes, N> as aead::AeadInPlace>::encrypt_in_place_detached",
                Name::Impl {
                    of_type: Some("aes_gcm"),
                    path: "aes_gcm::AesGcm<Aes, N>",
                    of_trait: Some("aead"),
                },
            ),
            (
                "_<alloc::vec::Vec<T> as app::Codec>::encode",
                Name::Impl {
                    of_type: Some("alloc"),
                    path: "alloc::vec::Vec<T>",
                    of_trait: Some("app"),
                },
            ),
            (
                "<T as app::Codec>::encode",
                Name::Impl {
                    of_type: None,
                    path: "app::Codec",
                    of_trait: Some("app"),
                },
            ),
            (
                "<&mut F as core::future::future::Future>::poll",
                Name::Impl {
                    of_type: None,
                    path: "core::future::future::Future",
                    of_trait: Some("core"),
                },
            ),
            (
                "<fn(a::B) -> <c::D as e::F>::G as app::Handler>::call",
                Name::Impl {
                    of_type: None,
                    path: "app::Handler",
                    of_trait: Some("app"),
                },
            ),
            (
                "<&alloc::boxed::Box<dyn x::Y> as app::Handler>::call",
                Name::Impl {
                    of_type: Some("alloc"),
                    path: "alloc::boxed::Box<dyn x::Y>",
                    of_trait: Some("app"),
                },
            ),
            (
                "<[T]>::copy_from_slice",
                Name::Symbol("<[T]>::copy_from_slice"),
            ),
            (
                "blake3_hash_many_avx512",
                Name::Symbol("blake3_hash_many_avx512"),
            ),
            ("main", Name::Symbol("main")),
            ("libfoo.so+0x1234", Name::Symbol("libfoo.so+0x1234")),
            ("", Name::Symbol("")),
            ("<", Name::Symbol("<")),
            ("<a as ", Name::Symbol("<a as ")),
            ("::", Name::Symbol("::")),
        ] {
            assert_eq!(name(function), expected, "{function}");
        }
    }
}
