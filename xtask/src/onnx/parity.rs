//! Every registered network out and in again: the standard's checker accepts the file, ONNX Runtime gives the
//! same logits, and so does what is read back.

use super::networks::{images, random};
use super::python::Python;
use crate::table::{Table, grouped};
use anyhow::{Context, Result, bail};
use cnn_core::data::MemoryDataset;
use cnn_core::tensor::relative_error;
use cnn_core::train::TrainSettings;
use cnn_core::{Compressor, Graph, NetworkOptions, Registry, Run, Tensor};
use cnn_onnx::{ExportOptions, ImportOptions};
use cnn_prune::{Channels, Criterion};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

/// Largest `max|a - b| / max|b|` over logits in 32-bit floats: both sides add the same products in another
/// order.
pub const TOLERANCE: f32 = 1e-4;

/// Sizes of the batches; two, because the batch axis of a file is dynamic.
const BATCHES: [usize; 2] = [1, 3];

/// Networks that are also thinned, and the share of their channels that goes.
const THINNED: [(&str, f64); 4] =
    [("mobilenet_v2", 0.4), ("shufflenet_v2", 0.4), ("squeezenet1_1", 0.4), ("resnet50", 0.4)];

/// One network.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub network: String,
    /// Why it failed; the figures are then those measured before.
    pub failed: Option<String>,
    /// Input shape.
    pub input: Vec<usize>,
    /// Parameters.
    pub params: u64,
    /// Length of the ONNX file.
    pub bytes: u64,
    /// Whether `onnx.checker` accepted it.
    pub checker: bool,
    /// Relative difference of ONNX Runtime's logits to ours, the largest over the batches.
    pub export: Option<f32>,
    /// Relative difference of the logits of the network read back, the largest over the batches.
    pub import: Option<f32>,
    /// Of all images, those to which ONNX Runtime gives another class than we do.
    pub other_class: Option<usize>,
    /// Images that were compared.
    pub images: usize,
    /// Seconds for all of it.
    pub seconds: f64,
}

/// Measures all registered networks, at their own input size and width.
///
/// # Errors
/// If the other side ends.
pub fn run(registry: &Registry, python: &mut Python, directory: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in registry.network_names() {
        let row = row(name, |row| {
            let options = NetworkOptions { seed: 1, ..NetworkOptions::default() };
            let graph = random(registry, name, &options)?;
            let batches = BATCHES.map(|n| images(&graph, n, n as u64));
            let batches = batches.into_iter().collect::<Result<Vec<_>>>()?;
            let file = directory.join(format!("{name}.onnx"));
            both_ways(row, &graph, &batches, TOLERANCE, (&file, &ExportOptions::default()), python)
        });
        say(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// Measures some networks of which channels are removed: at most so large a share of the file may be left.
///
/// # Errors
/// If the other side ends.
pub fn thinned(registry: &Registry, python: &mut Python, directory: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, ratio) in THINNED {
        let row = row(&format!("{name}, {:.0} % of channels gone", 100.0 * ratio), |row| {
            let options = NetworkOptions { seed: 1, ..NetworkOptions::default() };
            let mut graph = random(registry, name, &options)?;
            let whole = cnn_onnx::to_bytes(&graph, &ExportOptions::default())?.len() as f64;
            let data = MemoryDataset::new(images(&graph, 4, 9)?, vec![0; 4], 1000)?;
            let mut run = Run::new(&data, &data, TrainSettings::default(), registry);
            let method = Channels {
                criterion: Criterion::L1,
                ratio,
                epochs: 0,
                final_epochs: 0,
                ..Channels::default()
            };
            // stops unless masked = thinned
            method.apply(&mut graph, &mut run).context("channels")?;
            let batches = BATCHES.map(|n| images(&graph, n, n as u64));
            let batches = batches.into_iter().collect::<Result<Vec<_>>>()?;
            let file = directory.join(format!("{name}-thinned.onnx"));
            both_ways(row, &graph, &batches, TOLERANCE, (&file, &ExportOptions::default()), python)?;
            let left = row.bytes as f64 / whole;
            if left > 1.0 - 0.8 * ratio {
                bail!("the file is still {:.0} % of what it was", 100.0 * left);
            }
            Ok(())
        });
        say(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// A row that says so if the work fails or panics.
pub fn row(network: &str, work: impl FnOnce(&mut Row) -> Result<()>) -> Row {
    let start = Instant::now();
    let mut row = Row {
        network: network.to_string(),
        failed: None,
        input: Vec::new(),
        params: 0,
        bytes: 0,
        checker: false,
        export: None,
        import: None,
        other_class: None,
        images: 0,
        seconds: 0.0,
    };
    row.failed = match catch_unwind(AssertUnwindSafe(|| work(&mut row))) {
        Ok(done) => done.err().map(|error| format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panicked: {}", text.unwrap_or("without a message")))
        }
    };
    row.seconds = start.elapsed().as_secs_f64();
    row
}

/// Writes a network to `file`, and compares with ONNX Runtime and with what is read back.
///
/// # Errors
/// If a step fails or a difference exceeds `tolerance`; what was measured until then is in the row.
pub fn both_ways(
    row: &mut Row,
    graph: &Graph,
    batches: &[Tensor],
    tolerance: f32,
    (file, options): (&Path, &ExportOptions),
    python: &mut Python,
) -> Result<()> {
    row.input = graph.input_shape().to_vec();
    row.params = graph.cost()?.params;
    row.images = batches.iter().map(|b| b.shape()[0]).sum();
    row.bytes = cnn_onnx::save(graph, file, options).context("export")?;
    python.check(file)?;
    row.checker = true;
    let ours = batches.iter().map(|x| Ok(graph.infer(x)?)).collect::<Result<Vec<_>>>()?;
    ours.iter().try_for_each(distinct)?;
    let theirs = batches.iter().map(|x| python.run(file, x, true)).collect::<Result<Vec<_>>>()?;
    row.export = Some(largest(&ours, &theirs));
    row.other_class = Some(other_classes(&ours, &theirs));
    let imported = cnn_onnx::load(file, &ImportOptions::default()).context("import of the export")?;
    let back = batches.iter().map(|x| Ok(imported.graph.infer(x)?)).collect::<Result<Vec<_>>>()?;
    row.import = Some(largest(&back, &ours));
    within("ONNX Runtime", row.export, tolerance)?;
    within("the re-import", row.import, tolerance)
}

/// Fails if a difference is too large.
///
/// # Errors
/// Then.
pub fn within(whose: &str, difference: Option<f32>, tolerance: f32) -> Result<()> {
    match difference {
        Some(d) if d > tolerance => {
            bail!("the logits of {whose} differ by {d:.1e} of the largest, more than {tolerance:.0e}")
        }
        _ => Ok(()),
    }
}

/// How many images get another class: another logit is the largest.
fn other_classes(ours: &[Tensor], theirs: &[Tensor]) -> usize {
    let differ =
        |(a, b): &(&Tensor, &Tensor)| classes(a).iter().zip(classes(b)).filter(|(a, b)| *a != b).count();
    ours.iter().zip(theirs).map(|pair| differ(&pair)).sum()
}

/// Where the largest logit of each image is.
pub fn classes(logits: &Tensor) -> Vec<usize> {
    let largest =
        |row: Vec<f32>| row.iter().enumerate().fold(0, |best, (i, &v)| if v > row[best] { i } else { best });
    logits.outer_iter().map(|r| largest(r.iter().copied().collect())).collect()
}

/// The largest relative error over batches.
pub fn largest(ours: &[Tensor], theirs: &[Tensor]) -> f32 {
    ours.iter().zip(theirs).map(|(a, b)| relative_error(a, b)).fold(0.0, f32::max)
}

/// Logits that differ by less than this part of the largest are not told apart.
const DISTINCT: f32 = 10.0 * TOLERANCE;

/// A network that says the same of all images would agree with anything that does.
fn distinct(logits: &Tensor) -> Result<()> {
    let rows: Vec<Vec<f32>> = logits.outer_iter().map(|r| r.iter().copied().collect()).collect();
    let scale = logits.iter().fold(0f32, |m, v| m.max(v.abs()));
    let apart =
        |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).any(|(a, b)| (a - b).abs() > DISTINCT * scale);
    let varied = rows.iter().all(|r| r.iter().any(|v| (v - r[0]).abs() > DISTINCT * scale));
    if !scale.is_finite() || !varied || !rows.iter().zip(rows.iter().skip(1)).all(apart) {
        bail!("the logits say nothing: they are the same for all classes or images, or not finite");
    }
    Ok(())
}

/// One line on standard error as soon as a row is done.
pub fn say(row: &Row) {
    match &row.failed {
        Some(why) => eprintln!("{}: failed: {why}", row.network),
        None => eprintln!("{}: {} ({:.1} s)", row.network, show(row.export), row.seconds),
    }
}

fn show(difference: Option<f32>) -> String {
    difference.map_or("-".into(), |d| format!("{d:.1e}"))
}

/// The rows as a table; `what` heads the first column.
pub fn table(what: &str, rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        what,
        "params",
        "input",
        "file bytes",
        "checker",
        "ONNX Runtime",
        "re-import",
        "other class",
    ]);
    for row in rows {
        if let Some(why) = &row.failed {
            table.note(&row.network, &format!("failed: {why}"));
        }
        let input: Vec<String> = row.input.iter().map(ToString::to_string).collect();
        table.row(vec![
            row.network.clone(),
            grouped(row.params),
            input.join(" x "),
            grouped(row.bytes),
            if row.checker { "accepts" } else { "-" }.to_string(),
            show(row.export),
            show(row.import),
            row.other_class.map_or("-".into(), |n| format!("{n} of {}", row.images)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::tensor::tensor;

    #[test]
    fn rows_say_why_they_failed() {
        let failed = row("a", |_| bail!("no"));
        assert_eq!(failed.failed.as_deref(), Some("no"));
        let panicked = row("b", |row| {
            row.params = 3;
            panic!("at the disco {}", row.params)
        });
        assert_eq!(panicked.failed.as_deref(), Some("panicked: at the disco 3"));
        assert_eq!(panicked.params, 3);
        assert!(table("network", &[failed, panicked]).text().contains("disco"));
        assert_eq!(row("c", |_| Ok(())).failed, None);
    }

    #[test]
    fn differences_beyond_the_tolerance_fail() {
        assert!(within("x", None, 0.0).is_ok() && within("x", Some(TOLERANCE), TOLERANCE).is_ok());
        assert!(within("x", Some(1.1e-4), TOLERANCE).unwrap_err().to_string().contains("1.1e-4"));
        assert!(within("x", Some(f32::INFINITY), 1.0).is_err());
        let (a, b) = (tensor(&[1, 2], vec![1.0, 4.0]).unwrap(), tensor(&[1, 2], vec![1.0, 5.0]).unwrap());
        assert_eq!(largest(&[a.clone(), a.clone()], &[a, b]), 0.2);
    }

    #[test]
    fn classes_are_the_largest_logits() {
        let a = tensor(&[2, 3], vec![1.0, 4.0, 3.0, 0.5, -1.0, 0.5]).unwrap();
        let b = tensor(&[2, 3], vec![1.0, 4.0, 5.0, 0.5, -1.0, 0.0]).unwrap();
        assert_eq!((classes(&a), classes(&b)), (vec![1, 0], vec![2, 0]));
        assert_eq!(other_classes(&[a.clone(), a.clone()], &[a, b]), 1);
    }

    #[test]
    fn logits_that_say_nothing_are_refused() {
        let logits = |values: [f32; 4]| tensor(&[2, 2], values.to_vec()).unwrap();
        assert!(distinct(&logits([1.0, 2.0, 2.0, 1.0])).is_ok());
        assert!(distinct(&logits([1.0, 2.0, 1.0, 2.0])).is_err());
        assert!(distinct(&logits([1.0, 1.0, 2.0, 2.0])).is_err());
        assert!(distinct(&logits([1.0, f32::NAN, 2.0, 1.0])).is_err());
        assert!(distinct(&logits([0.0; 4])).is_err());
    }
}
