//! Networks in files: native or ONNX, told apart by their bytes when read and by their name when written.

use anyhow::{Context, Result, bail};
use cnn_core::{Graph, Registry, model_file};
use cnn_onnx::{ExportOptions, ImportOptions};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A form of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The native form, which stores packed layers as they are.
    Native,
    /// ONNX, which other programs run.
    Onnx,
}

impl Form {
    /// The form that a file's name asks for.
    ///
    /// # Errors
    /// If the name ends neither in `.onnx` nor in `.cnn`.
    pub fn of_name(path: &Path) -> Result<Form> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("onnx") => Ok(Form::Onnx),
            Some("cnn") => Ok(Form::Native),
            _ => {
                bail!("{}: the name has to end in .onnx or .cnn, which says how to write it", path.display())
            }
        }
    }

    /// As text.
    pub fn name(self) -> &'static str {
        match self {
            Form::Native => "native",
            Form::Onnx => "ONNX",
        }
    }
}

/// How to read a file; for ONNX only.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct LoadOptions {
    /// Input shape C,H,W of an ONNX file that leaves it open
    #[arg(long, value_name = "C,H,W", value_delimiter = ',')]
    pub input_shape: Option<Vec<usize>>,
    /// Name of the ONNX value that is the output, where there are several
    #[arg(long, value_name = "NAME")]
    pub output_name: Option<String>,
}

/// A network with what is known of its file.
#[derive(Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// The network.
    pub graph: Graph,
    /// Its form.
    pub form: Form,
    /// Length of the file.
    pub bytes: u64,
    /// A hash of the file's bytes.
    pub hash: u64,
    /// Who made it, for ONNX.
    pub about: Option<String>,
}

/// Reads a network, whatever its form.
///
/// # Errors
/// If there is no such file, it is damaged, or it is something else.
pub fn load(path: &Path, options: &LoadOptions, registry: &Registry) -> Result<Loaded> {
    let named = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(named)?;
    if bytes.is_empty() {
        bail!("{}: the file is empty", path.display());
    }
    let (graph, form, about) = if bytes.starts_with(b"CNN") {
        let graph = model_file::from_bytes(&bytes, registry).map_err(explain).with_context(named)?;
        (graph, Form::Native, None)
    } else {
        let import = ImportOptions {
            input_shape: options.input_shape.clone(),
            output: options.output_name.clone(),
            ..ImportOptions::default()
        };
        let imported = cnn_onnx::from_bytes(&bytes, Some(folder(path)), &import);
        let imported = imported.with_context(|| format!("{} as an ONNX file", path.display()))?;
        let about = format!("opset {}, made by {}", imported.opset, producer(&imported.producer));
        (imported.graph, Form::Onnx, Some(about))
    };
    let (length, hash) = (bytes.len() as u64, fnv1a(&bytes));
    Ok(Loaded { path: path.to_path_buf(), graph, form, bytes: length, hash, about })
}

fn producer(name: &str) -> &str {
    if name.is_empty() { "an unnamed program" } else { name }
}

/// As [`load`], and refuses a network with weights that are not finite.
///
/// # Errors
/// As [`load`], and names the layer.
pub fn load_finite(path: &Path, options: &LoadOptions, registry: &Registry) -> Result<Loaded> {
    let loaded = load(path, options, registry)?;
    if let Some(layer) = not_finite(&loaded.graph) {
        bail!(
            "{}: the weights of layer `{layer}` are not finite (NaN or infinity); the file comes from a \
                training that \
             diverged, use an earlier one",
            path.display()
        );
    }
    Ok(loaded)
}

/// The first layer with a weight that is not finite.
pub fn not_finite(graph: &Graph) -> Option<&str> {
    let bad =
        |n: &&cnn_core::Node| n.layer().params().iter().any(|p| p.value().iter().any(|v| !v.is_finite()));
    graph.nodes().iter().find(bad).map(|n| n.name.as_str())
}

/// Adds the remedy where the core does not know what program it is in.
fn explain(error: cnn_core::Error) -> anyhow::Error {
    use cnn_core::{Error, FormatError};
    match &error {
        Error::Format(FormatError::Purpose { .. }) => anyhow::Error::new(error).context(
            "this is a checkpoint of unfinished work, not a network to be run; start the command that wrote \
                it again, and it \
             goes on from there",
        ),
        _ => error.into(),
    }
}

/// How to write a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// Keep the names of layers in the native form, at a few bytes each. ONNX always has names.
    pub names: bool,
    /// ONNX: 4-bit constants where they suffice (opset 21).
    pub four_bit: bool,
}

/// The bytes of a network in a form.
///
/// # Errors
/// If the form cannot hold the network.
pub fn to_bytes(graph: &Graph, form: Form, options: SaveOptions) -> Result<Vec<u8>> {
    Ok(match form {
        Form::Native => model_file::deploy_bytes(graph, options.names)?,
        Form::Onnx => {
            let export = ExportOptions { four_bit: options.four_bit, ..ExportOptions::default() };
            cnn_onnx::to_bytes(graph, &export)?
        }
    })
}

/// Writes a network in the form that the name asks for, whole or not at all, and returns the file's length.
///
/// # Errors
/// As [`to_bytes`], and if the file cannot be written.
pub fn save(graph: &Graph, path: &Path, options: SaveOptions) -> Result<u64> {
    let bytes = to_bytes(graph, Form::of_name(path)?, options).with_context(|| path.display().to_string())?;
    model_file::write_atomically(path, &bytes).context("the file cannot be written")?;
    Ok(bytes.len() as u64)
}

/// Checks that a file can be written, before hours of work.
///
/// # Errors
/// If its name or its folder does not allow it.
pub fn check_writable(path: &Path) -> Result<Form> {
    let form = Form::of_name(path)?;
    if path.is_dir() {
        bail!("{}: this is a folder; name a file", path.display());
    }
    let probe = folder(path).join(format!(".cnn-probe-{}", std::process::id()));
    std::fs::write(&probe, b"").with_context(|| format!("{}: cannot be written", path.display()))?;
    std::fs::remove_file(&probe).with_context(|| probe.display().to_string())?;
    Ok(form)
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The hash FNV-1a of 64 bits. Not a checksum of a kind that native files end in: over those that would be
/// constant.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_form() {
        assert_eq!(Form::of_name(Path::new("a/b.ONNX")).unwrap(), Form::Onnx);
        assert_eq!(Form::of_name(Path::new("b.cnn")).unwrap(), Form::Native);
        let error = Form::of_name(Path::new("b.pt")).unwrap_err().to_string();
        assert!(error.contains(".onnx or .cnn"), "{error}");
    }

    #[test]
    fn fnv_of_known_texts() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
