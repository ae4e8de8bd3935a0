//! The toolchain that builds for the kernel. What enters: this machine. What leaves: a Rust compiler
//! with core's source, bpf-linker and llvm-objcopy, found or installed.
//!
//! It is separate from the build because two ways lead to one: Debian's `rustc-web` with a bpf-linker
//! built against Debian's LLVM, and rustup's nightly with a released bpf-linker.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{cache, command, packages};

const BPF_LINKER_VERSION: &str = "0.13.0";
const LLVM_MAJOR: &str = "22";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_PACKAGES: [&str; 6] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22",
    "llvm-22-dev",
    "clang-22",
];

/// A Rust compiler that has core's source, which a target without a prebuilt core needs.
struct Rust {
    cargo: PathBuf,
    rustc: PathBuf,
    source: PathBuf,
    version: String,
}

/// Everything that turns `probe-ebpf` into an object file.
pub struct Toolchain {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// Core's source, as named by the compiler (often a symbolic link).
    pub rust_source: PathBuf,
    pub linker: PathBuf,
    pub objcopy: PathBuf,
    pub identity: Identity,
}

/// What the bytes of the object depend on beside the sources. Written beside the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    fn new(rustc: &str, linker: &str, objcopy: &str) -> Self {
        Self(format!("{rustc}\n{linker}\n{objcopy}\n"))
    }

    /// The text of `holdup-probes.toolchain`.
    pub fn from_record(text: String) -> Self {
        Self(text)
    }

    pub fn as_record(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim().replace('\n', ", "))
    }
}

impl Toolchain {
    /// The toolchain of this machine; installs Debian's where there is none and `may_install`.
    /// Where there are several, the one that built the checked-in object wins.
    pub fn find_or_install(recorded: Option<&Identity>, may_install: bool) -> Result<Self> {
        let missing = match find(recorded)? {
            Ok(toolchain) => return Ok(toolchain),
            Err(missing) => missing,
        };
        if !may_install {
            bail!(
                "{missing}\nEither let `cargo xtask ebpf --install` install Debian's {}, and bpf-linker {BPF_LINKER_VERSION}; \
                 or: rustup toolchain install nightly --component rust-src --component llvm-tools, \
                 and cargo install bpf-linker --version {BPF_LINKER_VERSION}",
                DEBIAN_PACKAGES.join(" ")
            );
        }
        packages::install(&DEBIAN_PACKAGES, "building for the kernel")?;
        if find_linker().is_none() {
            install_linker()?;
        }
        find(recorded)?.map_err(|missing| anyhow::anyhow!("after the installation: {missing}"))
    }
}

/// The inner error is what is missing, as a sentence.
fn find(recorded: Option<&Identity>) -> Result<Result<Toolchain, String>> {
    let mut rusts = Vec::new();
    rusts.extend(system_rust());
    rusts.extend(rustup_nightlies());
    if rusts.is_empty() {
        return Ok(Err(
            "No Rust compiler with core's source (rust-src) was found.".to_owned(),
        ));
    }
    let Some(linker) = find_linker() else {
        return Ok(Err(format!(
            "No bpf-linker {BPF_LINKER_VERSION} was found."
        )));
    };
    let linker_version = command::output(Command::new(&linker).arg("--version"))?;

    let mut toolchains = Vec::new();
    for rust in rusts {
        let Some(objcopy) = find_objcopy(&rust) else {
            continue;
        };
        let objcopy_version = command::output(Command::new(&objcopy).arg("--version"))?;
        // "Debian LLVM version 22.1.8" with options and hosts on the lines around it.
        let objcopy_version = objcopy_version
            .lines()
            .find(|line| line.contains("LLVM version"))
            .unwrap_or("unknown")
            .trim();
        toolchains.push(Toolchain {
            identity: Identity::new(
                &rust.version,
                linker_version.trim(),
                &format!("llvm-objcopy: {objcopy_version}"),
            ),
            cargo: rust.cargo,
            rustc: rust.rustc,
            rust_source: rust.source,
            linker: linker.clone(),
            objcopy,
        });
    }
    let preferred = toolchains
        .iter()
        .position(|toolchain| Some(&toolchain.identity) == recorded)
        .unwrap_or(0);
    Ok(toolchains.into_iter().nth(preferred).ok_or_else(|| {
        format!("No llvm-objcopy of LLVM {LLVM_MAJOR} or of rustup's llvm-tools was found.")
    }))
}

/// A distribution's compiler, with core's source beside it.
fn system_rust() -> Option<Rust> {
    let rust = rust_at(Path::new("/usr/bin/rustc"), Path::new("/usr/bin/cargo"))?;
    // Debian stable's own rustc is years older than this workspace's rust-version.
    let minimum = env!("CARGO_PKG_RUST_VERSION");
    let version = rust.version.split(' ').nth(1)?;
    (numbers(version) >= numbers(minimum)).then_some(rust)
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split(['.', '-'])
        .map_while(|part| part.parse().ok())
        .collect()
}

fn rustup_nightlies() -> Vec<Rust> {
    let Ok(list) = command::output(Command::new("rustup").args(["toolchain", "list", "--quiet"]))
    else {
        return Vec::new();
    };
    list.lines()
        .filter(|name| name.starts_with("nightly"))
        .filter_map(|name| {
            let which = |tool| {
                command::output(Command::new("rustup").args(["which", "--toolchain", name, tool]))
                    .ok()
            };
            rust_at(
                Path::new(which("rustc")?.trim()),
                Path::new(which("cargo")?.trim()),
            )
        })
        .collect()
}

fn rust_at(rustc: &Path, cargo: &Path) -> Option<Rust> {
    if !rustc.exists() || !cargo.exists() {
        return None;
    }
    let sysroot = command::output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    if !source.join("library/core/Cargo.toml").exists() {
        return None;
    }
    Some(Rust {
        cargo: cargo.to_owned(),
        rustc: rustc.to_owned(),
        source,
        version: command::output(Command::new(rustc).arg("--version"))
            .ok()?
            .trim()
            .to_owned(),
    })
}

fn linker_root() -> Result<PathBuf> {
    Ok(cache::dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm-{LLVM_MAJOR}")))
}

/// The one that xtask built, else one in PATH; only of the version that is known to work.
fn find_linker() -> Option<PathBuf> {
    let built = linker_root().ok().map(|root| root.join("bin/bpf-linker"));
    let path = env::var_os("PATH")?;
    let in_path = env::split_paths(&path).map(|dir| dir.join("bpf-linker"));
    built.into_iter().chain(in_path).find(|linker| {
        linker.exists()
            && command::output(Command::new(linker).arg("--version"))
                .is_ok_and(|version| version.trim().ends_with(BPF_LINKER_VERSION))
    })
}

/// LLVM's objcopy lays out an object differently from version to version, so an old one that happens
/// to be in PATH is no substitute.
fn find_objcopy(rust: &Rust) -> Option<PathBuf> {
    let host_tools = rust
        .source
        .join("../../")
        .join(host())
        .join("bin/llvm-objcopy");
    [Path::new(DEBIAN_LLVM).join("bin/llvm-objcopy"), host_tools]
        .into_iter()
        .find(|objcopy| objcopy.exists())
}

fn host() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// About a minute. Outside the checkout, so once for each machine.
fn install_linker() -> Result<()> {
    let root = linker_root()?;
    eprintln!("building bpf-linker {BPF_LINKER_VERSION} (about a minute, once)");
    let mut install = Command::new("cargo");
    command::clear_cargo_environment(&mut install);
    command::output(
        install
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER_VERSION,
                "--locked",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{LLVM_MAJOR}"),
            ])
            .arg("--root")
            .arg(&root)
            .env("LLVM_PREFIX", DEBIAN_LLVM),
    )
    .context("could not build bpf-linker")?;
    Ok(())
}
