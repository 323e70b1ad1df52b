//! Networks compressed by every registered method and by the benchmark's rows, in ONNX Runtime.
//!
//! Here it does not matter how good the networks are: training is short, on few digits. Forms whose
//! arithmetic is in floats are held to [`TOLERANCE`]. Where a layer rounds its inputs to integers, the last
//! bit of a float decides on which side of a tie an activation falls, and the two sides add in another order:
//! an activation may then differ by one level, and what follows by its weight. So for these, each layer is
//! compared by itself on the same inputs at the same tolerance, where nothing of that kind adds up, and the
//! whole network by [`INTEGER_TOLERANCE`] and by the classes it gives.

use super::parity::{Row, TOLERANCE, both_ways, largest, row, within};
use super::python::Python;
use crate::bench::plan::{Budget, Entry, entries};
use crate::table::Table;
use anyhow::{Context, Result, bail};
use cnn_core::data::{Subset, batch};
use cnn_core::train::{CrossEntropy, Optimizer, Progress, TrainData, TrainSettings, train};
use cnn_core::{Config, Dataset, Graph, NetworkOptions, Registry, Run, Tensor};
use cnn_onnx::ExportOptions;
use serde::Serialize;
use std::path::Path;

/// Largest relative difference of a whole network's logits where layers compute in integers: about three
/// levels of 127. Measured are 5e-4 for LeNet-5 and 1.2e-2 for ResNet-20, whose roundings pass through more
/// layers.
pub const INTEGER_TOLERANCE: f32 = 2.5e-2;

/// Part of the images to which such a network may give another class: those whose largest logits are that
/// near to each other.
const OTHER_CLASS: f64 = 0.02;

/// Images of the batches.
const BATCHES: [usize; 3] = [1, 3, 200];

/// The networks, and the training images that each can afford in the time.
const NETWORKS: [(&str, usize); 2] = [("lenet5", 600), ("resnet20", 96)];

/// A compressed network.
#[derive(Debug, Clone, Serialize)]
pub struct Compressed {
    /// The comparison; its name is that of network and method.
    #[serde(flatten)]
    pub row: Row,
    /// The methods, as `prune.weights -> quant.kmeans`.
    pub methods: String,
    /// Where layers compute in integers: the largest relative difference of one layer alone on the same
    /// inputs.
    pub layer: Option<f32>,
    /// Tolerance that the whole network was held to.
    pub tolerance: f32,
}

/// Compresses small trained networks by every method and compares each in ONNX Runtime.
///
/// # Errors
/// If the digits cannot be read or the networks not trained.
pub fn run(registry: &Registry, python: &mut Python, directory: &Path) -> Result<Vec<Compressed>> {
    let splits = cnn_data::mnist::embedded()?;
    let mut rows = Vec::new();
    for (network, count) in NETWORKS {
        let images = part(&splits.train, count)?;
        let trained = trained(registry, network, &images)?;
        let calibration = part(&splits.validation, 64)?;
        let mut start = 0;
        let mut batches = Vec::new();
        for count in BATCHES {
            batches.push(batch(&splits.test, &(start..start + count).collect::<Vec<_>>())?.0);
            start += count;
        }
        for entry in rows_of(registry, network) {
            let mut compressed = None;
            let file = directory.join(format!("{network}-{}.onnx", entry.name));
            let name = format!("{network} {}", entry.name);
            let methods = entry.methods();
            rows.push(one(&name, &methods, |row, layer| {
                let method = entry.build(registry)?;
                let mut run = Run::new(&images, &calibration, settings(), registry);
                let mut graph = match entry.name {
                    "quant.qdq" => quantized(registry, &trained, &mut run).context("a network on grids")?,
                    _ => trained.clone(),
                };
                method.apply(&mut graph, &mut run).context("apply")?;
                method.pack(&mut graph).context("pack")?;
                compressed = Some(graph.clone());
                compare(row, layer, &graph, &batches, (&file, &ExportOptions::default()), python)
            }));
            // the same with indices of four bits, where they make the file smaller
            let Some(graph) = compressed else { continue };
            let options = ExportOptions { four_bit: true, ..ExportOptions::default() };
            let smaller =
                cnn_onnx::to_bytes(&graph, &options).is_ok_and(|b| (b.len() as u64) < last(&rows).bytes);
            if smaller {
                rows.push(one(&format!("{name}, 4-bit"), &methods, |row, layer| {
                    compare(row, layer, &graph, &batches, (&file, &options), python)
                }));
            }
        }
    }
    Ok(rows)
}

/// All registered methods, and on the benchmark's network also its rows.
fn rows_of(registry: &Registry, network: &'static str) -> Vec<Entry> {
    let mut rows: Vec<Entry> = registry
        .method_names()
        // it has no residual branches
        .filter(|name| *name != cnn_prune::Branches::NAME || network != "lenet5")
        .map(|name| {
            let config = match name {
                cnn_distill::Distill::NAME => serde_json::json!({ "student": network, "width": 0.5 }),
                // it has no normalization whose scales could be pulled
                cnn_prune::SparseTraining::NAME if network == "lenet5" => {
                    serde_json::json!({ "penalty": "group_lasso" })
                }
                // its channels are not divisible by the default of 4
                "light.group_shuffle" if network == "lenet5" => serde_json::json!({ "groups": 2 }),
                _ => serde_json::json!({}),
            };
            Entry { name, family: "alone", steps: vec![(name, config)] }
        })
        .collect();
    // packed layers that the defaults do not make
    rows.push(Entry {
        name: "quant.binary, signs",
        family: "alone",
        steps: vec![("quant.binary", serde_json::json!({ "activations": "sign" }))],
    });
    if network == crate::bench::plan::NETWORK {
        rows.extend(entries(Budget { smoke: true, seed: 0 }));
    }
    for entry in &mut rows {
        for (name, config) in &mut entry.steps {
            // with its defaults, so that they are there to be shortened
            if let Ok(method) = registry.build_method(name, config.clone()) {
                *config = method.config();
            }
            shorten(config);
        }
    }
    rows
}

/// One epoch wherever a configuration has epochs, and one round.
fn shorten(config: &mut Config) {
    match config {
        Config::Object(keys) => {
            for (key, value) in keys {
                let long = key.ends_with("epochs") || key == "rounds";
                if long && (value.is_null() || value.as_u64().is_some_and(|n| n > 1)) {
                    *value = 1.into();
                } else {
                    shorten(value);
                }
            }
        }
        Config::Array(values) => values.iter_mut().for_each(shorten),
        _ => {}
    }
}

fn settings() -> TrainSettings {
    TrainSettings { epochs: 1, batch: 32, optimizer: Optimizer::sgd(0.02, 5e-4), ..TrainSettings::default() }
}

fn part(data: &dyn Dataset, count: usize) -> Result<Subset<'_>> {
    Ok(Subset::new(data, (0..count.min(data.len())).collect())?)
}

/// A network for digits, trained a little.
fn trained(registry: &Registry, network: &str, images: &dyn Dataset) -> Result<Graph> {
    let options = NetworkOptions { input: Some([1, 28, 28]), classes: Some(10), ..NetworkOptions::default() };
    let mut graph = registry.build_network(network, &options)?;
    let data = TrainData { train: images, validation: None, augment: None, checkpoint: None };
    let settings = TrainSettings { epochs: 3, ..settings() };
    train(&mut graph, data, &settings, &mut CrossEntropy::default(), &mut [], &Progress::quiet())?;
    Ok(graph)
}

/// The network as it comes in from a file with `QuantizeLinear` and `DequantizeLinear`.
fn quantized(registry: &Registry, trained: &Graph, run: &mut Run<'_>) -> Result<Graph> {
    let mut graph = trained.clone();
    let method = registry.build_method("quant.int8", serde_json::json!({}))?;
    method.apply(&mut graph, run)?;
    method.pack(&mut graph)?;
    let bytes = cnn_onnx::to_bytes(&graph, &ExportOptions::default())?;
    Ok(cnn_onnx::from_bytes(&bytes, None, &Default::default())?.graph)
}

fn last(rows: &[Compressed]) -> Row {
    rows.last().map_or_else(|| row("", |_| Ok(())), |r| r.row.clone())
}

fn one(name: &str, methods: &str, work: impl FnOnce(&mut Row, &mut Compared) -> Result<()>) -> Compressed {
    let mut compared = Compared { layer: None, tolerance: TOLERANCE };
    let row = row(name, |row| work(row, &mut compared));
    super::parity::say(&row);
    Compressed { row, methods: methods.to_string(), layer: compared.layer, tolerance: compared.tolerance }
}

/// What [`compare`] says beside the row.
struct Compared {
    layer: Option<f32>,
    tolerance: f32,
}

/// Compares a packed network, at the tolerance that its arithmetic allows.
fn compare(
    row: &mut Row,
    compared: &mut Compared,
    graph: &Graph,
    batches: &[Tensor],
    (file, options): (&Path, &ExportOptions),
    python: &mut Python,
) -> Result<()> {
    let macs = graph.cost()?.macs;
    if macs.total() > macs.float {
        compared.tolerance = INTEGER_TOLERANCE;
        compared.layer = Some(layers_alone(graph, &batches[1], file, python)?);
        within("a layer alone", compared.layer, TOLERANCE)?;
    }
    both_ways(row, graph, batches, compared.tolerance, (file, options), python)?;
    let allowed = if compared.layer.is_some() { OTHER_CLASS * row.images as f64 } else { 0.0 };
    match row.other_class {
        Some(other) if other as f64 > allowed => bail!("{other} of {} images get another class", row.images),
        _ => Ok(()),
    }
}

/// The largest relative difference of any layer that computes in integers, each alone and on the inputs that
/// it gets in the network.
fn layers_alone(graph: &Graph, images: &Tensor, file: &Path, python: &mut Python) -> Result<f32> {
    let mut worst = 0f32;
    for (node, cost) in graph.nodes().iter().zip(graph.costs()?) {
        if cost.macs.total() == cost.macs.float {
            continue;
        }
        let &[input] = node.inputs.as_slice() else { bail!("{} does not have one input", node.name) };
        let input = graph.capture(&[&graph.nodes()[input].name], images)?.remove(0);
        let mut alone = Graph::new(&input.shape()[1..]);
        alone.push(&node.name, cnn_core::layers::Activation::relu())?;
        alone.replace(&node.name, node.layer().clone_box())?;
        cnn_onnx::save(&alone, file, &ExportOptions::default()).context("export of a layer alone")?;
        let difference = largest(&[alone.infer(&input)?], &[python.run(file, &input, true)?]);
        worst = worst.max(difference);
    }
    Ok(worst)
}

/// The rows as a table.
pub fn table(rows: &[Compressed]) -> Table {
    let mut table = Table::new(&[
        "network, method",
        "params",
        "file bytes",
        "checker",
        "a layer",
        "ONNX Runtime",
        "re-import",
        "other class",
    ]);
    let show = |d: Option<f32>| d.map_or("-".into(), |d| format!("{d:.1e}"));
    for Compressed { row, layer, .. } in rows {
        if let Some(why) = &row.failed {
            table.note(&row.network, &format!("failed: {why}"));
        }
        table.row(vec![
            row.network.clone(),
            crate::table::grouped(row.params),
            crate::table::grouped(row.bytes),
            if row.checker { "accepts" } else { "-" }.to_string(),
            show(*layer),
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
    use serde_json::json;

    #[test]
    fn long_trainings_become_short() {
        let mut config =
            json!({ "epochs": 20, "final_epochs": null, "rounds": 5, "ratio": 0.9, "x": [{ "epochs": 0 }] });
        shorten(&mut config);
        let expected =
            json!({ "epochs": 1, "final_epochs": 1, "rounds": 1, "ratio": 0.9, "x": [{ "epochs": 0 }] });
        assert_eq!(config, expected);
    }

    #[test]
    fn every_method_has_a_row_that_can_be_built() {
        let registry = cnn_cli::registry();
        for (network, _) in NETWORKS {
            let rows = rows_of(&registry, network);
            let missing: Vec<&str> =
                registry.method_names().filter(|m| rows.iter().all(|r| r.name != *m)).collect();
            // LeNet-5 has no branches
            assert_eq!(missing, if network == "lenet5" { vec!["prune.branches"] } else { vec![] });
            for entry in rows {
                entry.build(&registry).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
            }
        }
    }
}
