//! Writes the git revision into the binary: asked at run time, git would name the revision of a later
//! checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // asked when it runs: the script itself may have been compiled for another copy of the sources
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from).join("..");
    println!("cargo::rustc-env=XTASK_REVISION={}", revision(&root).unwrap_or_else(|| "unknown".into()));
    // whether the tree differs from the revision may change with every source
    for sources in ["Cargo.toml", "Cargo.lock", "crates", "xtask", "tests"] {
        println!("cargo::rerun-if-changed={}", root.join(sources).display());
    }
    for name in ["HEAD", "packed-refs", "refs/heads"] {
        // cargo takes a file that is not there for one that changed
        if let Some(path) = git(&root, &["rev-parse", "--git-path", name]).map(|p| root.join(p))
            && path.exists()
        {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

/// The commit, with `-dirty` when files differ from it; `None` without git, or where the sources are not its
/// own tree.
fn revision(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None; // an unpacked archive inside another project
    }
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    // without the optional lock, which disturbs a git that runs at the same time
    let changed = git(root, &["--no-optional-locks", "status", "--porcelain"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// What git prints, or `None` if it cannot be run or fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let done = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_string())
}
