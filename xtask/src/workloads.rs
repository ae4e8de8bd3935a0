//! The programs that get profiled. What enters: a workload and a flavour to build it in. What leaves:
//! the paths of its binaries, in the cache.
//!
//! A workload is built once for what it is made of: sources, lockfile, compiler and flags are hashed into the
//! name of the folder its binaries are in. Cargo's own build folder is kept beside it, so that a changed
//! source file costs one crate and not its hundred dependencies.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::{cache, citadel, command, packages, workspace};

/// A folder under `xtask/workloads`, which is a cargo workspace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Known answers: writes down what it did.
    Contention,
    /// A real Citadel server and its clients.
    Citadel,
    /// Many short polls.
    Echo,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Contention => "contention",
            Self::Citadel => "citadel",
            Self::Echo => "echo",
        }
    }

    fn binaries(self, flavour: Flavour) -> &'static [&'static str] {
        match self {
            Self::Contention if flavour == Flavour::Console => &["contention", "console-reader"],
            Self::Contention => &["contention", "libcontention_plugin.so"],
            Self::Citadel => &["citadel-server", "citadel-load"],
            Self::Echo => &["echo"],
        }
    }

    fn source(self) -> PathBuf {
        workspace::root().join("xtask/workloads").join(self.name())
    }
}

/// How a workload is compiled. All of them are optimized: that is what holdup gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Flavour {
    /// What `cargo build --release` gives, with line tables.
    Release,
    /// One codegen unit, everything inlined that can be, with line tables.
    FatLto,
    /// The fat LTO build as it is given away: `strip = true`, its symbols and line tables in a file beside it.
    Shipped,
    /// With console-subscriber inside, and a program that reads what it says (contention only).
    Console,
}

/// What a flavour changes; the rest is as each workload's manifest and cargo have it.
struct Settings {
    name: &'static str,
    fat_lto: bool,
    /// The workload's feature `console`, and Tokio's part of it.
    console: bool,
    /// Not compiled, but made from the flavour that has the same settings otherwise.
    split: bool,
}

impl Flavour {
    fn settings(self) -> Settings {
        let plain = Settings {
            name: "release",
            fat_lto: false,
            console: false,
            split: false,
        };
        match self {
            Self::Release => plain,
            Self::FatLto => Settings {
                name: "fat-lto",
                fat_lto: true,
                ..plain
            },
            Self::Shipped => Settings {
                name: "shipped",
                split: true,
                ..Self::FatLto.settings()
            },
            Self::Console => Settings {
                name: "console",
                console: true,
                ..plain
            },
        }
    }
}

impl Settings {
    /// Everything that makes two builds of the same sources differ.
    fn environment(&self) -> Vec<(&'static str, &'static str)> {
        // A user's own configuration adds no flags. 0x1f is what cargo separates them by.
        let flags = if self.console {
            "--cfg\x1ftokio_unstable"
        } else {
            ""
        };
        let mut environment = vec![("CARGO_ENCODED_RUSTFLAGS", flags)];
        if self.fat_lto {
            environment.extend([
                ("CARGO_PROFILE_RELEASE_LTO", "fat"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
            ]);
        }
        environment
    }

    fn features(&self) -> &'static [&'static str] {
        if self.console {
            &["--features", "console"]
        } else {
            &[]
        }
    }
}

/// A workload that lies in the cache.
#[derive(Clone, Debug)]
pub struct Built {
    folder: PathBuf,
}

impl Built {
    /// The path of one of its binaries.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn is_complete(&self, binaries: &[&str]) -> bool {
        binaries.iter().all(|binary| self.binary(binary).is_file())
    }
}

/// `cargo xtask workload`: builds it and prints the paths of its binaries.
pub fn run(workload: Workload, flavour: Flavour) -> Result<()> {
    let built = build_one(workload, flavour)?;
    for binary in workload.binaries(flavour) {
        println!("{}", built.binary(binary).display());
    }
    Ok(())
}

/// What the live tests attach to, by the names they know the programs by.
pub type Programs = BTreeMap<&'static str, PathBuf>;

/// What the live tests get where they don't ask for another flavour.
const USUAL: Flavour = Flavour::Release;
/// The flavour of the Citadel server: what its own release profile makes, with the debug file that it throws away.
const CITADEL: Flavour = Flavour::Shipped;

/// The small ones: seconds when built before, some minutes when not.
pub fn build() -> Result<Programs> {
    let contention =
        |flavour| build_one(Workload::Contention, flavour).map(|built| built.binary("contention"));
    let console = build_one(Workload::Contention, Flavour::Console)?;
    let echo = build_one(Workload::Echo, USUAL)?;
    Ok(Programs::from([
        ("CONTENTION", contention(USUAL)?),
        ("CONTENTION_FAT_LTO", contention(Flavour::FatLto)?),
        ("CONTENTION_SHIPPED", contention(Flavour::Shipped)?),
        ("CONTENTION_CONSOLE", console.binary("contention")),
        ("CONSOLE_READER", console.binary("console-reader")),
        ("ECHO", echo.binary("echo")),
    ]))
}

/// The Citadel server and its load.
pub fn build_citadel() -> Result<Programs> {
    let citadel = build_one(Workload::Citadel, CITADEL)?;
    Ok(Programs::from([
        ("CITADEL_SERVER", citadel.binary("citadel-server")),
        ("CITADEL_LOAD", citadel.binary("citadel-load")),
    ]))
}

/// The workload with known answers.
pub fn contention() -> Result<PathBuf> {
    Ok(build_one(Workload::Contention, USUAL)?.binary("contention"))
}

/// Builds a workload, or finds it built.
pub fn build_one(workload: Workload, flavour: Flavour) -> Result<Built> {
    ensure!(
        flavour != Flavour::Console || workload == Workload::Contention,
        "{} has no console-subscriber inside",
        workload.name()
    );
    let settings = flavour.settings();
    let binaries = workload.binaries(flavour);
    let cache = cache::dir()?.join("workloads");
    let folder_name = format!(
        "{}-{}-{}",
        workload.name(),
        settings.name,
        key(workload, &settings)?
    );
    let built = Built {
        folder: cache.join(&folder_name),
    };
    if built.is_complete(binaries) {
        return Ok(built);
    }
    if settings.split {
        let whole = build_one(workload, Flavour::FatLto)?;
        return split(binaries, &whole, &built);
    }

    let target_dir = cache
        .join("target")
        .join(format!("{}-{}", workload.name(), settings.name));
    // Cargo locks the folder for one command, and here three belong together.
    let _lock = fs::create_dir_all(&target_dir)
        .and_then(|()| File::create(target_dir.join("workload.lock")))
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("could not lock {}", target_dir.display()))?;
    if built.is_complete(binaries) {
        return Ok(built);
    }
    let patch = (workload == Workload::Citadel)
        .then(citadel::prepare)
        .transpose()?;
    let cargo = |does: &str, more: &[&str]| -> Result<()> {
        let mut cargo = Command::new("cargo");
        command::clear_cargo_environment(&mut cargo);
        cargo
            .args([does, "--release", "--workspace", "--locked", "--quiet"])
            .args(more)
            .arg("--target-dir")
            .arg(&target_dir)
            .current_dir(workload.source())
            .envs(settings.environment());
        if let Some(patch) = &patch {
            cargo.args(["--config", patch]);
        }
        command::run(&mut cargo)
            .with_context(|| format!("could not {does} the workload {}", workload.name()))
    };
    // What it depends on stays built; its own crates don't: of two checkouts cargo takes the sources for the same that are not
    // newer than what was built last.
    cargo("clean", &[])?;
    cargo("build", settings.features())?;

    publish(&built.folder, |unfinished| {
        for binary in binaries {
            let from = target_dir.join("release").join(binary);
            fs::copy(&from, unfinished.join(binary))
                .with_context(|| format!("could not copy {}", from.display()))?;
        }
        Ok(())
    })?;
    ensure!(
        built.is_complete(binaries),
        "{} does not hold {}",
        built.folder.display(),
        binaries.join(" and ")
    );
    Ok(built)
}

/// Makes of each binary a stripped one and its debug file, as packagers do.
fn split(binaries: &[&str], whole: &Built, built: &Built) -> Result<Built> {
    packages::install(
        &["binutils"],
        "splitting the workloads' debug information off",
    )?;
    publish(&built.folder, |unfinished| {
        for name in binaries {
            let (binary, debug) = (whole.binary(name), format!("{name}.debug"));
            // Within the folder, because the link is the name as it is given.
            let run = |tool: &str, args: &[&OsStr]| {
                command::output(Command::new(tool).args(args).current_dir(unfinished))
            };
            run(
                "objcopy",
                &[
                    "--only-keep-debug".as_ref(),
                    binary.as_ref(),
                    debug.as_ref(),
                ],
            )?;
            run(
                "strip",
                &[
                    "--strip-all".as_ref(),
                    "-o".as_ref(),
                    name.as_ref(),
                    binary.as_ref(),
                ],
            )?;
            let link = format!("--add-gnu-debuglink={debug}");
            run("objcopy", &[link.as_ref(), name.as_ref()])?;
        }
        Ok(())
    })?;
    Ok(built.clone())
}

/// Fills a folder, which appears whole or not at all: somebody else may be doing the same.
fn publish(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let unfinished = folder.with_extension(std::process::id().to_string());
    fs::create_dir_all(&unfinished)
        .with_context(|| format!("could not make {}", unfinished.display()))?;
    fill(&unfinished)?;
    if fs::rename(&unfinished, folder).is_err() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("could not remove {}", unfinished.display()))?;
    }
    Ok(())
}

/// Names the build: sixteen hexadecimal digits of a hash over all that goes into it.
fn key(workload: Workload, settings: &Settings) -> Result<String> {
    let mut hash = Sha256::new();
    // Lengths keep two neighbouring fields from being taken for one.
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(command::output(
        Command::new("rustc")
            .arg("-vV")
            .current_dir(workload.source()),
    )?
    .as_bytes());
    for (name, value) in settings.environment() {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    for argument in settings.features() {
        add(argument.as_bytes());
    }
    let source = workload.source();
    for file in files(&source)? {
        let relative = file.strip_prefix(&source).unwrap_or(&file);
        add(relative.to_string_lossy().as_bytes());
        add(&fs::read(&file).with_context(|| format!("could not read {}", file.display()))?);
    }
    let hash = hash.finalize();
    Ok(hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Cargo.toml, Cargo.lock and everything under src and plugin, in an order that does not depend on the disk.
fn files(source: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![source.join("Cargo.lock"), source.join("Cargo.toml")];
    let mut folders = vec![source.join("src")];
    folders.extend(Some(source.join("plugin")).filter(|plugin| plugin.is_dir()));
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .with_context(|| format!("could not list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    if files.len() == 2 {
        bail!("{} has no sources", source.display());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each flavour has a build folder of its own; two in one would rebuild each other's crates. The one that is not
    /// compiled has what it is made from.
    #[test]
    fn flavours_differ_in_name_and_environment() {
        let (plain, whole) = (Flavour::Release.settings(), Flavour::FatLto.settings());
        assert_ne!(plain.name, whole.name);
        assert_ne!(plain.environment(), whole.environment());
        let shipped = Flavour::Shipped.settings();
        assert_ne!(shipped.name, whole.name);
        assert_eq!(shipped.environment(), whole.environment());
        let console = Flavour::Console.settings();
        assert_ne!(console.name, plain.name);
        assert_ne!(console.environment(), plain.environment());
    }

    /// Every workload's sources are found, whatever the flavour they hash to another key, and the key is stable.
    #[test]
    fn keys_tell_workloads_and_flavours_apart() -> Result<()> {
        let mut keys = Vec::new();
        for workload in [Workload::Contention, Workload::Citadel, Workload::Echo] {
            for flavour in [Flavour::Release, Flavour::FatLto, Flavour::Console] {
                let key_of = || key(workload, &flavour.settings());
                assert_eq!(key_of()?, key_of()?);
                keys.push(key_of()?);
            }
        }
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        Ok(())
    }
}
