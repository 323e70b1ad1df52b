//! Tells the versions of the engines, which Cargo.lock decides.

use std::path::PathBuf;

fn main() {
    let lock = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from).join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = std::fs::read_to_string(&lock).unwrap_or_default();
    for (variable, package) in [("TRACT_VERSION", "tract-onnx"), ("RTEN_VERSION", "rten")] {
        println!("cargo::rustc-env={variable}={}", version(&text, package).unwrap_or("unknown"));
    }
}

/// The version after the line that names the package.
fn version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}
