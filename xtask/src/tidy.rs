//! `cargo xtask tidy`: rules of the workspace that the compiler does not know.

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// May depend on every crate of the workspace.
const TOGETHER: [&str; 3] = ["cnn-cli", "xtask", "cnn-tests"];
/// The crate on which all others may depend.
const CORE: &str = "cnn-core";
/// The only file that may name bincode: the package is no longer maintained, and must be easy to replace.
const BINCODE: &str = "crates/cnn-core/src/model_file/codec.rs";
/// Lines from which on a file is reported as long.
const LONG: usize = 800;

/// A dependency, or the wish for one.
#[derive(Debug, Clone, PartialEq)]
struct Edge {
    from: String,
    to: String,
    kind: &'static str,
}

/// Checks the workspace and prints the size of each crate.
///
/// # Errors
/// If a rule is broken; everything found is printed.
pub fn run() -> Result<()> {
    let metadata = MetadataCommand::new().no_deps().exec().context("cargo metadata")?;
    let root = metadata.workspace_root.as_std_path();
    let mut problems: Vec<String> =
        edges(&metadata).iter().filter(|e| !allowed(e)).map(|e| {
            format!(
                "{} depends on {} ({}): a crate depends, of the workspace, on {CORE} alone, so that it can be used and \
                 built by itself. Move what is shared into {CORE}, or the test into the member tests/.",
                e.from, e.to, e.kind
            )
        }).collect();
    for package in metadata.workspace_packages() {
        let directory = package.manifest_path.parent().context("a manifest has a directory")?.as_std_path();
        let files = sources(directory)?;
        problems.extend(missing_docs(&package.name, directory)?);
        let mut lines = 0;
        for file in &files {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
            problems.extend(forbidden(&name, &text));
            lines += text.lines().count();
            if text.lines().count() > LONG {
                println!(
                    "long: {name} has {} lines; can it be two files, each one idea?",
                    text.lines().count()
                );
            }
        }
        println!("{:>7} lines in {:>3} files  {}", lines, files.len(), package.name);
    }
    if problems.is_empty() {
        println!("tidy");
        return Ok(());
    }
    problems.iter().for_each(|p| eprintln!("error: {p}"));
    bail!("{} problem(s)", problems.len())
}

/// All dependencies of members on members: normal, dev and build.
fn edges(metadata: &Metadata) -> Vec<Edge> {
    let members: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    let mut edges = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in package.dependencies.iter().filter(|d| members.contains(&d.name)) {
            let kind = match dependency.kind {
                DependencyKind::Normal => "normal",
                DependencyKind::Development => "dev",
                DependencyKind::Build => "build",
                _ => "unknown kind",
            };
            edges.push(Edge { from: package.name.to_string(), to: dependency.name.clone(), kind });
        }
    }
    edges
}

/// A crate may depend on the core, and on itself (for its tests with a feature).
fn allowed(edge: &Edge) -> bool {
    TOGETHER.contains(&edge.from.as_str()) || edge.from == edge.to || (edge.to == CORE && edge.from != CORE)
}

/// Every crate says what it is: a README.md, and documentation at the head of its root file.
fn missing_docs(name: &str, directory: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    if !directory.join("README.md").is_file() {
        problems
            .push(format!("{name} has no README.md: say in a few lines what it does, with a code example"));
    }
    let roots = ["src/lib.rs", "src/main.rs"].map(|f| directory.join(f));
    for file in roots.iter().filter(|f| f.is_file()) {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        if !text.starts_with("//!") {
            problems.push(format!("{} does not start with `//!` documentation", file.display()));
        }
    }
    Ok(problems)
}

/// What no source may contain. The words are put together here so that this file does not contain them.
fn forbidden(name: &str, text: &str) -> Vec<String> {
    let words = [
        (concat!("#[", "ignore"), "a test is run or removed"),
        (concat!("todo", "!("), "it is real or it is not there"),
        (concat!("unimplemented", "!("), "it is real or it is not there"),
    ];
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (word, why) in words.iter().filter(|(word, _)| code.contains(word)) {
            problems.push(format!("{name}:{}: `{word}`: {why}", number + 1));
        }
        if code.contains(concat!("bincode", "::")) && name != BINCODE {
            problems.push(format!("{name}:{}: bincode is used in {BINCODE} only", number + 1));
        }
    }
    problems
}

/// All Rust files of a package, sorted.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let path = entry.with_context(|| next.display().to_string())?.path();
            let is_output = path.file_name().is_some_and(|n| n == "target");
            if path.is_dir() && !is_output {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str) -> Edge {
        Edge { from: from.into(), to: to.into(), kind: "dev" }
    }

    #[test]
    fn a_method_crate_depends_on_the_core_alone() {
        assert!(allowed(&edge("cnn-quant", "cnn-core")));
        assert!(allowed(&edge("cnn-core", "cnn-core")));
        assert!(allowed(&edge("xtask", "cnn-quant")));
        assert!(!allowed(&edge("cnn-quant", "cnn-prune")));
        assert!(!allowed(&edge("cnn-core", "cnn-data")));
        assert!(allowed(&edge("cnn-onnx", "cnn-core")));
        assert!(!allowed(&edge("cnn-onnx", "cnn-lightweight")));
        assert!(allowed(&edge("cnn-cli", "cnn-onnx")));
    }

    #[test]
    fn the_edges_of_this_workspace_are_read() {
        let metadata = MetadataCommand::new().no_deps().exec().unwrap();
        let edges = edges(&metadata);
        assert!(edges.contains(&Edge { from: "xtask".into(), to: "cnn-core".into(), kind: "normal" }));
        assert!(edges.contains(&Edge { from: "xtask".into(), to: "cnn-core".into(), kind: "dev" }));
    }

    #[test]
    fn forbidden_words_are_found_with_their_line() {
        let (skip, later) = (concat!("#[", "ignore]"), concat!("todo", "!()"));
        let text = format!("fn a() {{}}\n{skip}\nfn t() {{ {later} }}\n// {later}\n");
        let problems = forbidden("a.rs", &text);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("a.rs:2") && problems[1].starts_with("a.rs:3"));
    }

    #[test]
    fn bincode_has_one_home() {
        let text = format!("use bin{}::encode;", "code");
        assert_eq!(forbidden("crates/cnn-quant/src/lib.rs", &text).len(), 1);
        assert!(forbidden(BINCODE, &text).is_empty());
    }

    #[test]
    fn a_bare_crate_is_told_what_it_lacks() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("src")).unwrap();
        std::fs::write(directory.path().join("src/lib.rs"), "pub fn a() {}").unwrap();
        assert_eq!(missing_docs("bare", directory.path()).unwrap().len(), 2);
    }
}
