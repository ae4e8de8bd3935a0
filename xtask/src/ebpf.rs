//! `cargo xtask ebpf`. What enters: `probe-ebpf`. What leaves: the object that the collector embeds,
//! byte for byte the same on every machine with the same toolchain.
//!
//! What would vary is taken out: paths are remapped, the profile and the flags are set here and not
//! taken from the environment, and DWARF is stripped once BTF was made from it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::{Identity, Toolchain};
use crate::{command, packages, workspace};

const OBJECT: &str = "collector/src/probe/holdup-probes.bpf.o";
const RECORD: &str = "collector/src/probe/holdup-probes.toolchain";
const TARGET: &str = "bpfel-unknown-none";

/// What `cargo xtask ebpf` was asked for.
pub struct Options {
    /// Compare instead of write.
    pub check: bool,
    /// Install through sudo what is missing. Root installs it without being told.
    pub install: bool,
}

/// Rebuilds the object, and writes it or compares it with the one that is checked in.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let record = root.join(RECORD);
    let recorded = fs::read_to_string(&record).ok().map(Identity::from_record);
    let toolchain =
        Toolchain::find_or_install(recorded.as_ref(), options.install || packages::is_root())?;
    let built = build(&root, &toolchain)?;

    let object = root.join(OBJECT);
    if options.check {
        let checked_in = fs::read(&object).with_context(|| {
            format!("{OBJECT} is missing: run `cargo xtask ebpf` and commit it")
        })?;
        if let Some(sentence) =
            difference(&checked_in, &built, recorded.as_ref(), &toolchain.identity)
        {
            bail!("{sentence}");
        }
        println!("{OBJECT} is what probe-ebpf builds ({} bytes)", built.len());
        return Ok(());
    }
    let parent = object.parent().context("the object has a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
    let unchanged = fs::read(&object).is_ok_and(|old| old == built);
    // An equal file keeps its modification time, so that cargo does not rebuild the collector.
    if !unchanged {
        fs::write(&object, &built).with_context(|| format!("could not write {OBJECT}"))?;
    }
    if recorded.as_ref() != Some(&toolchain.identity) {
        fs::write(&record, toolchain.identity.as_record())
            .with_context(|| format!("could not write {RECORD}"))?;
    }
    let verb = if unchanged { "unchanged" } else { "written" };
    println!(
        "{OBJECT}: {verb}, {} bytes, by {}",
        built.len(),
        toolchain.identity
    );
    Ok(())
}

fn build(root: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let target_dir = workspace::target_dir().join("ebpf");
    // Every crate must lie in cargo's registry folder before its path can be remapped.
    command::output(cargo(root, toolchain).args([
        "fetch",
        "--locked",
        "-Zbuild-std=core",
        "--target",
        TARGET,
    ]))
    .context("could not fetch what probe-ebpf is built from")?;
    let mut build = cargo(root, toolchain);
    build
        .args([
            "build",
            "--locked",
            "--release",
            "-Zbuild-std=core",
            "--target",
            TARGET,
        ])
        .args(["--package", "holdup-probe-ebpf", "--bin", "holdup-probes"])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root, toolchain)?)
        // The root manifest's release profile is the collector's. BTF is made from full DWARF.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false")
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false")
        // A panic has nowhere to unwind to in the kernel.
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    let log = build_log(&mut build)?;

    let linked = target_dir.join(TARGET).join("release/holdup-probes");
    let stripped = target_dir.join("holdup-probes.bpf.o");
    // --strip-debug keeps .BTF and .BTF.ext, which the kernel and aya read.
    command::output(
        Command::new(&toolchain.objcopy)
            .arg("--strip-debug")
            .arg(&linked)
            .arg(&stripped),
    )
    .context("could not strip the object")?;
    eprint!("{log}");
    fs::read(&stripped).with_context(|| format!("could not read {}", stripped.display()))
}

/// Quiet when all is well; a warning about our own sources is shown.
fn build_log(build: &mut Command) -> Result<String> {
    let output = build
        .arg("--quiet")
        .output()
        .with_context(|| format!("could not start `{}`", command::display(build)))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("probe-ebpf does not build for the kernel:\n{log}");
    }
    Ok(log)
}

fn cargo(root: &Path, toolchain: &Toolchain) -> Command {
    let mut cargo = Command::new(&toolchain.cargo);
    command::clear_cargo_environment(&mut cargo);
    cargo
        .current_dir(root)
        .env("RUSTC", &toolchain.rustc)
        // Lets a stable compiler build core.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC_WRAPPER", "");
    cargo
}

/// Flags as cargo's CARGO_ENCODED_RUSTFLAGS wants them: separated by 0x1f, so paths may hold spaces.
fn rustflags(root: &Path, toolchain: &Toolchain) -> Result<OsString> {
    let mut linker = OsString::from("-Clinker=");
    linker.push(&toolchain.linker);
    let mut flags = vec![linker];
    flags.extend(
        [
            "-Clink-arg=--btf",
            // Atomics that return the old value need v3; every kernel since 5.12 runs it.
            "-Ctarget-cpu=v3",
        ]
        .map(OsString::from),
    );
    for (path, name) in remapped_paths(root, toolchain)? {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(path);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    Ok(flags.join(std::ffi::OsStr::new("\x1f")))
}

/// BTF keeps the source file of each line. rustc lets the last match win, so the general comes first.
fn remapped_paths(root: &Path, toolchain: &Toolchain) -> Result<Vec<(PathBuf, &'static str)>> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let mut paths = vec![(cargo_home.clone(), "/cargo")];
    // One folder for each registry, named after its host: a mirror's name must not show in the object.
    let registries = cargo_home.join("registry/src");
    let entries = fs::read_dir(&registries)
        .with_context(|| format!("could not list {}", registries.display()))?;
    for entry in entries {
        paths.push((entry?.path(), "/registry"));
    }
    paths.push((toolchain.rust_source.clone(), "/rust"));
    paths.push((
        toolchain
            .rust_source
            .canonicalize()
            .with_context(|| format!("could not resolve {}", toolchain.rust_source.display()))?,
        "/rust",
    ));
    paths.push((root.to_owned(), "/holdup"));
    Ok(paths)
}

/// What differs and why, probably, as a paragraph for the person whose check failed.
fn difference(
    checked_in: &[u8],
    built: &[u8],
    recorded: Option<&Identity>,
    present: &Identity,
) -> Option<String> {
    if checked_in == built {
        return None;
    }
    let first = checked_in
        .iter()
        .zip(built)
        .take_while(|(a, b)| a == b)
        .count();
    let cause = match recorded {
        Some(recorded) if recorded == present => {
            "The toolchain is the one that built it, so the sources or their locked dependencies changed since: \
             run `cargo xtask ebpf` and commit the result."
                .to_owned()
        }
        Some(recorded) => format!(
            "It was built by another toolchain, which is the probable cause: it was {recorded}; \
             here it is {present}. Build it again with the recorded toolchain, or run `cargo xtask ebpf` and commit \
             the object together with {RECORD}."
        ),
        None => format!("{RECORD} is missing, so nobody knows what built it: run `cargo xtask ebpf` and commit both."),
    };
    Some(format!(
        "{OBJECT} is not what probe-ebpf builds: {} bytes checked in, {} built, first difference at byte {first}. {cause}",
        checked_in.len(),
        built.len(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Identity {
        Identity::from_record(text.to_owned())
    }

    /// Equal bytes pass, whatever built them.
    #[test]
    fn equal_bytes_are_no_difference() {
        assert_eq!(
            difference(b"abc", b"abc", None, &identity("rustc 1\n")),
            None
        );
    }

    /// With the same toolchain the sources are to blame, and the sentence says so.
    #[test]
    fn the_same_toolchain_blames_the_sources() {
        let same = identity("rustc 1\n");
        let sentence = difference(b"abc", b"abd", Some(&same), &same).expect("they differ");
        assert!(
            sentence.contains("first difference at byte 2"),
            "{sentence}"
        );
        assert!(
            sentence.contains("the sources or their locked dependencies changed"),
            "{sentence}"
        );
    }

    /// With another toolchain both are named.
    #[test]
    fn another_toolchain_is_named_as_the_probable_cause() {
        let sentence = difference(
            b"abc",
            b"ab",
            Some(&identity("rustc 1\n")),
            &identity("rustc 2\n"),
        )
        .expect("they differ");
        assert!(
            sentence.contains("it was rustc 1; here it is rustc 2"),
            "{sentence}"
        );
    }
}
