//! Whose code a frame is: frames go in, an [`Origin`] and a crate name come out.
//!
//! The rules are data (TOML), embedded and replaceable, because which crates count as crypto is the
//! user's business, not the program's.
#![forbid(unsafe_code)]

mod asleep;
mod rules;
mod witness;

use serde::{Deserialize, Serialize};

pub use asleep::{Asleep, SleepKind};
pub use rules::{Rules, RulesError};

use crate::symbolize::Frame;
use witness::{Name, Source};

/// Whose code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A cryptographic crate or library.
    Crypto,
    /// A lock's own code.
    Lock,
    /// The async runtime.
    Runtime,
    /// Rust's standard library, and the C library under it.
    Std,
    /// The kernel, and the vDSO that it maps into each process.
    Kernel,
    /// The application's own crates.
    User,
    /// Other crates and libraries.
    Library,
    /// Nothing tells.
    Unknown,
}

/// What a frame was classed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whose code it is.
    pub origin: Origin,
    /// The crate, with `_` for `-`; None for code that is not Rust's.
    pub krate: Option<String>,
}

impl Rules {
    /// Whose code a frame is.
    ///
    /// The first rule that matches decides. Without one: where the source file lies. Without a file:
    /// [`Origin::User`] if the crate is named like the executable, which then is its main crate,
    /// [`Origin::Library`] for anything in a shared library, and else [`Origin::Unknown`].
    pub fn classify(&self, frame: &Frame) -> Class {
        let named = frame.unresolved.is_none();
        let name = if named {
            witness::name(&frame.function)
        } else {
            Name::Symbol("")
        };
        let source = frame
            .file
            .as_deref()
            .map(witness::source)
            .filter(|source| agree(name, *source));
        let krate = crate_of(name, source);

        let by_crate = krate.and_then(|krate| self.by_crate(krate));
        let by_path = match name {
            Name::Path { path, .. } | Name::Impl { path, .. } => self.by_path(path),
            Name::Symbol(symbol) => self.by_symbol(symbol),
        };
        let by_module = self.by_module(&frame.module);
        // A package's name can differ from its crate's: rust-argon2 is `argon2`.
        let by_package = match source {
            Some(Source::Package(package)) => self.by_crate(package),
            _ => None,
        };

        let first = [by_crate, by_path, by_module]
            .into_iter()
            .flatten()
            .min_by_key(|(place, _)| *place)
            .or(by_package);
        let origin = match (first, source) {
            (Some((_, origin)), _) => origin,
            (None, Some(Source::Std(_))) => Origin::Std,
            (None, Some(Source::Package(_) | Source::Fetched)) => Origin::Library,
            (None, Some(Source::Elsewhere)) => Origin::User,
            (None, None) if is_shared_library(&frame.module) => Origin::Library,
            (None, None) if krate.is_some_and(|k| k == rules::normalized(&frame.module)) => {
                Origin::User
            }
            (None, None) => Origin::Unknown,
        };
        Class {
            origin,
            krate: krate.map(rules::normalized),
        }
    }
}

/// The crate that defines the function: see [`witness`].
fn crate_of<'a>(name: Name<'a>, source: Option<Source<'a>>) -> Option<&'a str> {
    match (name, source) {
        (Name::Path { krate, .. }, _) => Some(krate),
        (_, Some(Source::Std(krate) | Source::Package(krate))) => Some(krate),
        // An impl of a std trait, or on a std type, whose file is not std's: it's the other's.
        (
            Name::Impl {
                of_type: Some(of_type),
                of_trait: Some(of_trait),
                ..
            },
            Some(_),
        ) if is_std(of_type) => Some(of_trait),
        (
            Name::Impl {
                of_type, of_trait, ..
            },
            _,
        ) => of_type.or(of_trait),
        (Name::Symbol(_), _) => None,
    }
}

/// Whether the file can be the one that the function was written in.
///
/// It is not where a macro of another crate left its file in the debug info: `tracing::event!` in
/// `server::run` can show a file of tracing. Then the name is right, for a plain path begins with the
/// crate that defines the function, and the file tells nothing. A package that is called something
/// else than its crate is told from that by the one name containing the other: rust-argon2 is
/// `argon2`, md-5 is `md5`. Where it does not (a renaming without resemblance), the frame ends up
/// without a place, and [`Origin::Unknown`] if no rule knows its crate.
fn agree(name: Name<'_>, source: Source<'_>) -> bool {
    let (Name::Path { krate, .. }, Source::Std(package) | Source::Package(package)) =
        (name, source)
    else {
        return true;
    };
    let letters = |s: &str| s.replace(['-', '_'], "");
    let (krate, package) = (letters(krate), letters(package));
    krate.contains(&package)
        || package.contains(&krate)
        || (matches!(source, Source::Std(_)) && is_std(&krate))
}

fn is_std(krate: &str) -> bool {
    matches!(krate, "std" | "core" | "alloc")
}

fn is_shared_library(module: &str) -> bool {
    module.ends_with(".so") || module.contains(".so.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbolize::Unresolved;

    fn frame(function: &str, file: Option<&str>, module: &str) -> Frame {
        Frame {
            function: function.into(),
            generics: None,
            file: file.map(Into::into),
            line: file.map(|_| 1),
            module: module.into(),
            inlined: false,
            unresolved: None,
        }
    }

    fn check(
        function: &str,
        file: Option<&str>,
        module: &str,
        origin: Origin,
        krate: Option<&str>,
    ) {
        let class = Rules::embedded().classify(&frame(function, file, module));
        assert_eq!(
            (class.origin, class.krate.as_deref()),
            (origin, krate),
            "{function} in {file:?}, {module}"
        );
    }

    const REGISTRY: &str = "/home/u/.cargo/registry/src/mirror-1949cf8c6b5b557f";

    fn package(path: &str) -> String {
        format!("{REGISTRY}/{path}")
    }

    /// Every crate that a crypto finding must be able to name is classed crypto.
    #[test]
    fn crypto_crates() {
        let rules = Rules::embedded();
        for krate in [
            "citadel_crypt",
            "citadel_pqcrypto",
            "citadel_treekem",
            "aes",
            "aes-gcm",
            "chacha20poly1305",
            "ascon-aead",
            "ghash",
            "polyval",
            "sha2",
            "sha3",
            "blake3",
            "argon2",
            "rust-argon2",
            "pqcrypto-kyber",
            "pqcrypto-mlkem",
            "ml-kem",
            "kyber-pke",
            "oqs",
            "ring",
            "aws-lc-rs",
            "aws-lc-sys",
            "rustls",
            "curve25519-dalek",
            "x25519-dalek",
            "ed25519-dalek",
        ] {
            let found = rules.by_crate(krate).map(|(_, origin)| origin);
            assert_eq!(found, Some(Origin::Crypto), "{krate}");
        }
    }

    /// A plain path names its crate, whatever the file; the file tells user from library.
    #[test]
    fn plain_paths() {
        check(
            "tokio::runtime::task::raw::poll",
            Some(&package("tokio-1.49.0/src/runtime/task/raw.rs")),
            "server",
            Origin::Runtime,
            Some("tokio"),
        );
        check(
            "app::handler::{{closure}}",
            Some("/home/u/app/src/handler.rs"),
            "server",
            Origin::User,
            Some("app"),
        );
        check(
            "unheard_of::f",
            Some(&package("unheard-of-0.1.0/src/lib.rs")),
            "server",
            Origin::Library,
            Some("unheard_of"),
        );
        check(
            "core::ops::function::FnOnce::call_once",
            Some("/rustc/59807616e1fa/library/core/src/ops/function.rs"),
            "server",
            Origin::Std,
            Some("core"),
        );
        check(
            "hashbrown::map::HashMap<K,V,S,A>::insert",
            Some("/rust/deps/hashbrown-0.15.2/src/map.rs"),
            "server",
            Origin::Std,
            Some("hashbrown"),
        );
        check(
            "citadel_crypt::ratchets::stacked::ratchet::StackedRatchet::protect_message_packet",
            Some(&package(
                "citadel_crypt-0.14.0/src/ratchets/stacked/ratchet.rs",
            )),
            "server",
            Origin::Crypto,
            Some("citadel_crypt"),
        );
        check(
            "citadel_proto::proto::node::Node::start",
            Some(&package("citadel_proto-0.14.0/src/proto/node.rs")),
            "server",
            Origin::User,
            Some("citadel_proto"),
        );
    }

    /// `<T as Trait>` is decided by the file, and without one by T.
    #[test]
    fn impls() {
        check(
            "<core::slice::iter::Iter<T> as core::iter::traits::iterator::Iterator>::next",
            Some("/rustc/59807616e1fa/library/core/src/slice/iter/macros.rs"),
            "server",
            Origin::Std,
            Some("core"),
        );
        check(
            "<alloc::vec::Vec<T> as app::codec::Encode>::encode",
            Some("/home/u/app/src/codec.rs"),
            "server",
            Origin::User,
            Some("app"),
        );
        check(
            "<app::Thing as core::future::future::Future>::poll",
            Some("/home/u/app/src/codec.rs"),
            "server",
            Origin::User,
            Some("app"),
        );
        check(
            "<aes_gcm::AesGcm<Aes,NonceSize> as aead::AeadInPlace>::encrypt_in_place_detached",
            Some(&package("aes-gcm-0.10.3/src/lib.rs")),
            "server",
            Origin::Crypto,
            Some("aes_gcm"),
        );
        check(
            "<T as bytes::buf::BufMut>::put",
            None,
            "server",
            Origin::Library,
            Some("bytes"),
        );
    }

    /// A package that is not named like its crate is found by either.
    #[test]
    fn renamed_package() {
        check(
            "argon2::core::fill_segment",
            Some(&package("rust-argon2-2.1.0/src/core.rs")),
            "server",
            Origin::Crypto,
            Some("argon2"),
        );
        let rules =
            Rules::from_toml("[[rule]]\norigin = \"crypto\"\ncrates = [\"rust-argon2\"]").unwrap();
        let file = package("rust-argon2-2.1.0/src/core.rs");
        let class = rules.classify(&frame("argon2::core::fill_segment", Some(&file), "s"));
        assert_eq!(class.origin, Origin::Crypto);
    }

    /// A macro's file in another crate's function is not taken for the function's.
    #[test]
    fn macros() {
        check(
            "citadel_proto::proto::session::run::{{closure}}",
            Some(&package("tracing-0.1.44/src/macros.rs")),
            "server",
            Origin::User,
            Some("citadel_proto"),
        );
        check(
            "my_server::run",
            Some(&package("tokio-1.49.0/src/macros/select.rs")),
            "my-server",
            Origin::User,
            Some("my_server"),
        );
        check(
            "my_logic::run",
            Some("/rustc/59807616e1fa/library/core/src/macros/mod.rs"),
            "my-server",
            Origin::Unknown,
            Some("my_logic"),
        );
        check(
            "core::ptr::drop_in_place<rustls::Connection>",
            Some(&package("rustls-0.23.1/src/conn.rs")),
            "my-server",
            Origin::Std,
            Some("core"),
        );
        check(
            "webpki::verify_cert::verify",
            Some(&package("rustls-webpki-0.103.1/src/verify_cert.rs")),
            "my-server",
            Origin::Crypto,
            Some("webpki"),
        );
    }

    /// Locks inside std and tokio are locks, the rest of std and tokio is not.
    #[test]
    fn locks() {
        for (function, origin) in [
            (
                "std::sys::sync::mutex::futex::Mutex::lock_contended",
                Origin::Lock,
            ),
            (
                "<std::sys::sync::mutex::futex::Mutex>::lock_contended",
                Origin::Lock,
            ),
            ("std::sync::poison::mutex::Mutex<T>::lock", Origin::Lock),
            ("std::thread::sleep", Origin::Std),
            ("parking_lot::raw_mutex::RawMutex::lock_slow", Origin::Lock),
            (
                "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::lock_shared",
                Origin::Lock,
            ),
            (
                "tokio::sync::batch_semaphore::Semaphore::add_permits_locked",
                Origin::Lock,
            ),
            ("tokio::sync::mpsc::chan::Tx<T,S>::send", Origin::Runtime),
            (
                "futures_util::future::future::map::Map<Fut,F>::poll",
                Origin::Runtime,
            ),
        ] {
            let class = Rules::embedded().classify(&frame(function, None, "server"));
            assert_eq!(class.origin, origin, "{function}");
        }
    }

    /// C and assembly are known by symbol, by package or by library.
    #[test]
    fn c_symbols() {
        check(
            "blake3_hash_many_avx512",
            None,
            "server",
            Origin::Crypto,
            None,
        );
        check(
            "aws_lc_0_30_0_EVP_DigestUpdate",
            None,
            "server",
            Origin::Crypto,
            None,
        );
        check(
            "ring_core_0_17_14__x25519_ge_frombytes_vartime",
            None,
            "server",
            Origin::Crypto,
            None,
        );
        check(
            "rej_uniform",
            Some(&package(
                "pqcrypto-mlkem-0.1.0/pqclean/crypto_kem/ml-kem-768/clean/indcpa.c",
            )),
            "server",
            Origin::Crypto,
            Some("pqcrypto_mlkem"),
        );
        check(
            "some_internal",
            None,
            "libcrypto.so.3",
            Origin::Crypto,
            None,
        );
        check(
            "__memmove_avx_unaligned_erms",
            None,
            "libc.so.6",
            Origin::Std,
            None,
        );
        check(
            "___pthread_mutex_lock",
            None,
            "libc.so.6",
            Origin::Lock,
            None,
        );
        check(
            "sqlite3_step",
            None,
            "libsqlite3.so.0",
            Origin::Library,
            None,
        );
        check("__vdso_clock_gettime", None, "[vdso]", Origin::Kernel, None);
        check("do_syscall_64", None, "[kernel]", Origin::Kernel, None);
    }

    /// Without debug info: the executable's own crate is the user's, and nothing else is claimed.
    #[test]
    fn no_file() {
        check(
            "my_server::run",
            None,
            "my-server",
            Origin::User,
            Some("my_server"),
        );
        check(
            "my_logic::run",
            None,
            "my-server",
            Origin::Unknown,
            Some("my_logic"),
        );
        check("c_function", None, "my-server", Origin::Unknown, None);
    }

    /// The made-up name of an unresolved address is not taken for a function.
    #[test]
    fn unresolved() {
        let mut nameless = frame("libcrypto.so.3+0x1234", None, "libcrypto.so.3");
        nameless.unresolved = Some(Unresolved::NoSymbol);
        let class = Rules::embedded().classify(&nameless);
        assert_eq!((class.origin, class.krate), (Origin::Crypto, None));
        let mut nameless = frame("aes::f+0x1234", None, "server");
        nameless.unresolved = Some(Unresolved::NoSymbol);
        let class = Rules::embedded().classify(&nameless);
        assert_eq!((class.origin, class.krate), (Origin::Unknown, None));
    }
}
