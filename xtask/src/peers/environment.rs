//! What the engines need: a Python with their packages, and the Rust engines built.

use super::engine::Engine;
use super::options::Options;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pinned packages.
const PINS: &str = include_str!("../../scripts/peers_requirements.txt");
/// Where the environment is made.
const DIRECTORY: &str = "target/peers-env";
/// Where the Rust engines are built.
const RUST_TARGET: &str = "target/peers-rust";

/// Where things are; `None` where they could not be had.
#[derive(Debug)]
pub struct Environment {
    /// A Python interpreter.
    pub python: Option<PathBuf>,
    /// The program of `xtask/peers`.
    pub rust_peers: Option<PathBuf>,
}

impl Environment {
    /// Makes what the engines need. What cannot be had is said on standard error and is `None`.
    pub fn prepare(options: &Options, engines: &[Engine]) -> Environment {
        let wanted = |rust: bool| engines.iter().any(|e| e.is_rust() == rust);
        let or_say = |what: Result<PathBuf>| what.map_err(|e| eprintln!("warning: {e:#}")).ok();
        let python = wanted(false).then(|| match &options.python {
            Some(python) => Ok(python.clone()),
            None => python(Path::new(DIRECTORY), "python3", PINS),
        });
        let rust = wanted(true).then(|| build_rust(Path::new(RUST_TARGET)));
        Environment { python: python.and_then(or_say), rust_peers: rust.and_then(or_say) }
    }
}

/// The Python of an environment with the pinned packages, which is made where it is not there or has other pins. A package that
/// cannot be installed is said, and tried again the next time.
fn python(directory: &Path, system: &str, pins: &str) -> Result<PathBuf> {
    let python = directory.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let installed = directory.join("installed.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == pins) {
        return Ok(python);
    }
    eprintln!("making a Python environment in {} ...", directory.display());
    if directory.exists() {
        std::fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let venv = [OsStr::new("-m"), OsStr::new("venv"), directory.as_os_str()];
    let made = Command::new(system).args(venv).stdout(Stdio::null()).status().with_context(|| {
        format!("{system} cannot be run: install Python 3.11 or later, or name one that has the packages with --python")
    })?;
    if !made.success() {
        bail!(
            "`{system} -m venv` failed ({made}): install its venv module (on Debian and Ubuntu: apt-get install python3-venv), or \
             name a Python that has the packages with --python"
        );
    }
    let mut complete = true;
    for package in packages(pins) {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package];
        let done = Command::new(&python)
            .args(pip)
            .stdout(Stdio::null())
            .status()
            .with_context(|| python.display().to_string())?;
        if !done.success() {
            complete = false;
            eprintln!(
                "warning: pip could not install {package} ({done}); see its message above. A package index is needed, and Python 3.11 \
                 or later; change the pin in xtask/scripts/peers_requirements.txt where the version does not exist for this system"
            );
        }
    }
    if complete {
        std::fs::write(&installed, pins).with_context(|| installed.display().to_string())?;
    }
    Ok(python)
}

/// The lines that are packages.
fn packages(pins: &str) -> impl Iterator<Item = &str> {
    pins.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'))
}

/// Builds `xtask/peers` and returns its program.
fn build_rust(target: &Path) -> Result<PathBuf> {
    // cargo tells it to what it runs
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    let manifest = here.join("peers/Cargo.toml");
    eprintln!("building {} ...", manifest.display());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(&cargo)
        .args(["build", "--quiet", "--release", "--locked", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(target)
        .status()
        .with_context(|| format!("starting {}", Path::new(&cargo).display()))?;
    if !done.success() {
        bail!(
            "the Rust engines were not built ({done}); see cargo's message above, or leave out --rust-peers"
        );
    }
    Ok(target.join("release").join(format!("cnn-peers{}", std::env::consts::EXE_SUFFIX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_are_exact() {
        let names: Vec<&str> =
            packages(PINS).filter_map(|p| p.split_once("==").map(|(name, _)| name)).collect();
        assert_eq!(names.len(), packages(PINS).count());
        for engine in Engine::ALL.into_iter().filter(|e| !e.is_rust()) {
            assert!(names.contains(&engine.name()));
        }
    }

    #[test]
    fn a_missing_python_is_named_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let made = python(&directory.path().join("env"), "python-that-is-not-there", PINS);
        let message = format!("{:#}", made.unwrap_err());
        assert!(message.contains("python-that-is-not-there") && message.contains("--python"), "{message}");
    }

    #[test]
    fn an_environment_with_these_pins_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("installed.txt"), "a==1\n").unwrap();
        assert!(
            python(directory.path(), "python-that-is-not-there", "a==1\n")
                .unwrap()
                .starts_with(directory.path())
        );
        // other pins: made anew, which fails here
        assert!(python(directory.path(), "python-that-is-not-there", "a==2\n").is_err());
    }
}
