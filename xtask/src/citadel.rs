//! `cargo xtask citadel`. What enters: nothing. What leaves: a real Citadel server and its load driver,
//! built and, if wanted, run.
//!
//! citadel_io 0.14.0 names tokio twice for wasm targets, under two names, which cargo refuses to build. So
//! the crate is unpacked by cargo, its manifest mended in the cache, and the copy patched in. No
//! source of the crate is in this repository.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workloads::{self, Flavour, Workload};
use crate::{cache, command, packages};

/// What citadel's C dependencies are built with.
const PACKAGES: [&str; 4] = ["cmake", "nasm", "pkg-config", "libssl-dev"];
const CRATE: &str = "citadel_io";
const VERSION: &str = "0.14.0";

/// What `cargo xtask citadel` was asked for.
pub struct Options {
    pub flavour: Flavour,
    /// Run the server under load for so many seconds.
    pub run_seconds: Option<u64>,
    pub clients: u64,
}

/// Builds both programs or finds them built, says where they are, and runs them if wanted.
pub fn run(options: &Options) -> Result<()> {
    let built = workloads::build_one(Workload::Citadel, options.flavour)?;
    let (server, load) = (built.binary("citadel-server"), built.binary("citadel-load"));
    println!("server: {}\nload:   {}", server.display(), load.display());
    let Some(seconds) = options.run_seconds else {
        return Ok(());
    };

    let mut server = Server::start(&server, seconds)?;
    println!(
        "the server has pid {} and listens on {}",
        server.child.id(),
        server.address
    );
    let loaded = command::run(
        Command::new(load)
            .args(["--server", &server.address])
            .args(["--clients", &options.clients.to_string()])
            .args(["--seconds", &seconds.to_string()]),
    );
    server.stop()?;
    loaded
}

/// A server that is stopped with its owner.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(program: &Path, load_seconds: u64) -> Result<Self> {
        // Time for the clients to register and to leave.
        let seconds = load_seconds + 120;
        let mut child = Command::new(program)
            .args(["--seconds", &seconds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let stdout = child
            .stdout
            .take()
            .context("the server's output is piped")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("could not read what the server prints")?;
        match line.trim().split_once("address=") {
            Some((_, address)) => Ok(Self {
                address: address.to_owned(),
                child,
            }),
            None => bail!("the server did not say where it listens, but {line:?}"),
        }
    }

    fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid fits")?;
        let pid = rustix::process::Pid::from_raw(pid).context("a pid is not zero")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("could not stop the server")?;
        self.child.wait().context("could not wait for the server")?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends a server that `stop` was not called for; the others are gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Installs what the build needs, mends the crate, and says what patches it in, as cargo is configured.
pub fn prepare() -> Result<String> {
    packages::install(&PACKAGES, "building citadel")?;
    eprintln!("building citadel (about eight minutes on two cores, once)");
    let mended = mend()?;
    Ok(format!(
        "patch.crates-io.{CRATE}.path={:?}",
        mended.to_string_lossy()
    ))
}

/// The folder of a copy whose manifest cargo accepts.
fn mend() -> Result<PathBuf> {
    // `registry/src` in its path, because that is where it is from: whoever reads the debug information
    // sees a dependency and not the user's own code.
    let folder = cache::dir()?.join("workloads/registry/src/mended");
    let mended = folder.join(format!("{CRATE}-{VERSION}"));
    if mended.exists() {
        return Ok(mended);
    }
    let unpacked = unpack()?;
    let unfinished = folder.join(format!("{CRATE}-{VERSION}.{}", std::process::id()));
    copy_folder(&unpacked, &unfinished)?;
    let manifest = unfinished.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("could not read {}", manifest.display()))?;
    fs::write(&manifest, without_wasm(&text)?)
        .with_context(|| format!("could not write {}", manifest.display()))?;
    // Somebody else may have been faster.
    if fs::rename(&unfinished, &mended).is_err() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("could not remove {}", unfinished.display()))?;
    }
    Ok(mended)
}

/// Where cargo has unpacked the crate, after it checked the checksum.
fn unpack() -> Result<PathBuf> {
    let folder = cache::dir()?.join("workloads/unpack");
    fs::create_dir_all(folder.join("src"))
        .with_context(|| format!("could not make {}", folder.display()))?;
    let manifest = format!(
        "[workspace]\n[package]\nname = \"unpack\"\nedition = \"2024\"\n[dependencies.{CRATE}]\nversion = \"={VERSION}\"\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest).context("could not write a manifest")?;
    fs::write(folder.join("src/lib.rs"), "").context("could not write a source file")?;
    let mut fetch = Command::new("cargo");
    command::clear_cargo_environment(&mut fetch);
    command::output(fetch.args(["fetch", "--quiet"]).current_dir(&folder))
        .with_context(|| format!("could not fetch {CRATE} {VERSION}"))?;

    // `cargo metadata` would say where it is, and refuses the manifest as `cargo build` does.
    let registries = cargo_home()?.join("registry/src");
    let entries = fs::read_dir(&registries)
        .with_context(|| format!("could not list {}", registries.display()))?;
    for registry in entries {
        let unpacked = registry?.path().join(format!("{CRATE}-{VERSION}"));
        if unpacked.join("Cargo.toml").is_file() {
            return Ok(unpacked);
        }
    }
    bail!(
        "cargo has fetched {CRATE} {VERSION}, but it is not in {}",
        registries.display()
    )
}

fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

/// The manifest without its dependencies for wasm targets, and without the features that name them.
fn without_wasm(manifest: &str) -> Result<String> {
    let mut manifest: toml::Table = manifest.parse().context("the manifest is not TOML")?;
    let targets = manifest
        .get_mut("target")
        .and_then(toml::Value::as_table_mut)
        .context("the manifest has no dependencies by target")?;
    if targets.remove("cfg(target_family = \"wasm\")").is_none() {
        bail!("the manifest has no dependencies for wasm, and needs no mending");
    }
    let features = manifest
        .get_mut("features")
        .and_then(toml::Value::as_table_mut);
    for (_, enables) in features.into_iter().flatten() {
        if let Some(enables) = enables.as_array_mut() {
            enables.retain(|enabled| enabled.as_str() != Some("socket2_wasm"));
        }
    }
    toml::to_string(&manifest).context("the mended manifest can't be written as TOML")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("could not make {}", to.display()))?;
    let entries =
        fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("could not copy {}", from.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wasm dependencies and the feature that names one go, everything else stays.
    #[test]
    fn wasm_is_taken_out_of_the_manifest() -> Result<()> {
        let mended = without_wasm(
            r#"
            [package]
            name = "citadel_io"
            [features]
            std = ["net"]
            wasi = ["socket2_wasm"]
            [target.'cfg(not(target_family = "wasm"))'.dependencies.tokio]
            version = "1.47.0"
            [target.'cfg(target_family = "wasm")'.dependencies.socket2_wasm]
            version = "=0.5.7"
            package = "socket2"
            "#,
        )?;
        let mended: toml::Table = mended.parse()?;
        assert_eq!(mended["features"]["wasi"].as_array().map(Vec::len), Some(0));
        assert_eq!(mended["features"]["std"][0].as_str(), Some("net"));
        let targets: Vec<_> = mended["target"]
            .as_table()
            .into_iter()
            .flat_map(toml::Table::keys)
            .collect();
        assert_eq!(targets, [r#"cfg(not(target_family = "wasm"))"#]);
        Ok(())
    }

    /// Another version of the crate may need another cure: that is said, not passed over.
    #[test]
    fn a_manifest_without_wasm_is_an_error() {
        let error =
            without_wasm("[package]\nname = \"x\"\n[target]\n").expect_err("nothing to mend");
        assert!(error.to_string().contains("needs no mending"), "{error}");
    }
}
