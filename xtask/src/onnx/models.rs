//! Networks that others trained and exported: read, compared with ONNX Runtime on random and on real images,
//! and written again.

use super::networks::images;
use super::parity::{Row, TOLERANCE, both_ways, classes, largest, row, say, within};
use super::python::Python;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use cnn_onnx::{ExportOptions, ImportOptions};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Normalization of the images in `--images`, per channel R, G, B.
const NORMALIZATION: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// Images at once.
const BATCH: usize = 250;

/// A network from a file.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// The comparison of what was read, and of what is written again; its name is that of the file.
    #[serde(flatten)]
    pub row: Row,
    /// Opset of the file.
    pub opset: i64,
    /// Operators in the file, with their number.
    pub operators: std::collections::BTreeMap<String, usize>,
    /// Relative difference of our logits to ONNX Runtime's on random images, for the file as it was.
    pub original: Option<f32>,
    /// On real images.
    pub real: Option<Real>,
}

/// Figures on real images.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Real {
    /// How many.
    pub images: usize,
    /// Of them right in ONNX Runtime.
    pub runtime: usize,
    /// Of them right here.
    pub ours: usize,
    /// To which the two give another class.
    pub other_class: usize,
    /// Largest relative difference of logits within a batch.
    pub difference: f32,
}

/// Compares all `.onnx` files of a directory.
///
/// # Errors
/// If the directory cannot be read or has none.
pub fn run(python: &mut Python, from: &Path, npz: Option<&Path>, directory: &Path) -> Result<Vec<Model>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(from)
        .with_context(|| from.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "onnx"));
    files.sort();
    if files.is_empty() {
        bail!("{} has no .onnx files", from.display());
    }
    let mut models = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().to_string();
        let mut model = Model {
            row: row(&name, |_| Ok(())),
            opset: 0,
            operators: Default::default(),
            original: None,
            real: None,
        };
        let measured = row(&name, |row| {
            let again = directory.join(format!("{name}-again.onnx"));
            one(&mut model, row, (&file, &again), npz, python)
        });
        model.row = measured;
        say(&model.row);
        models.push(model);
    }
    Ok(models)
}

fn one(
    model: &mut Model,
    row: &mut Row,
    (file, again): (&Path, &Path),
    npz: Option<&Path>,
    python: &mut Python,
) -> Result<()> {
    let imported = cnn_onnx::load(file, &ImportOptions::default()).context("import")?;
    model.opset = imported.opset;
    model.operators = imported.operators;
    let graph = imported.graph;
    let batches = [images(&graph, 1, 1)?, images(&graph, 3, 3)?];
    let ours = batches.iter().map(|x| Ok(graph.infer(x)?)).collect::<Result<Vec<_>>>()?;
    let theirs = batches.iter().map(|x| python.run(file, x, true)).collect::<Result<Vec<_>>>()?;
    model.original = Some(largest(&ours, &theirs));
    within("ONNX Runtime", model.original, TOLERANCE)?;
    both_ways(row, &graph, &batches, TOLERANCE, (again, &ExportOptions::default()), python)?;
    if let Some(npz) = npz {
        let mut real = Real::default();
        loop {
            let part = real.images..real.images + BATCH;
            let (pixels, labels) = python.images(npz, NORMALIZATION, part).context("--images")?;
            if labels.is_empty() {
                break;
            }
            let (ours, theirs) = (graph.infer(&pixels)?, python.run(file, &pixels, true)?);
            let right = |given: &[usize]| given.iter().zip(&labels).filter(|(g, l)| g == l).count();
            let (a, b) = (classes(&ours), classes(&theirs));
            real.images += labels.len();
            real.ours += right(&a);
            real.runtime += right(&b);
            real.other_class += a.iter().zip(&b).filter(|(a, b)| a != b).count();
            real.difference = real.difference.max(largest(&[ours], &[theirs]));
        }
        let (ours, runtime) = (real.ours, real.runtime);
        let difference = real.difference;
        model.real = Some(real);
        within("ONNX Runtime on real images", Some(difference), TOLERANCE)?;
        if ours != runtime {
            bail!("{ours} images are right here, {runtime} in ONNX Runtime");
        }
    }
    Ok(())
}

/// The models as a table.
pub fn table(models: &[Model]) -> Table {
    let mut table = Table::new(&[
        "file",
        "params",
        "opset",
        "import",
        "export",
        "re-import",
        "images",
        "right in ORT",
        "right here",
        "other class",
    ]);
    let show = |d: Option<f32>| d.map_or("-".into(), |d| format!("{d:.1e}"));
    for Model { row, opset, original, real, .. } in models {
        if let Some(why) = &row.failed {
            table.note(&row.network, &format!("failed: {why}"));
        }
        let count = |of: fn(&Real) -> usize| real.as_ref().map_or("-".into(), |r| of(r).to_string());
        table.row(vec![
            row.network.clone(),
            crate::table::grouped(row.params),
            opset.to_string(),
            show(*original),
            show(row.export),
            show(row.import),
            count(|r| r.images),
            count(|r| r.runtime),
            count(|r| r.ours),
            count(|r| r.other_class),
        ]);
    }
    table
}
