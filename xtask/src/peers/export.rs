//! The networks, and the files through which the engines get them.

use super::environment::Environment;
use crate::onnx::networks::{images, random};
use anyhow::{Context, Result, bail};
use cnn_core::data::MemoryDataset;
use cnn_core::train::TrainSettings;
use cnn_core::{Graph, NetworkOptions, Registry, Run, Tensor, tensor};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The networks, by their names in the registry: each at its own input size and width.
pub const NETWORKS: [&str; 9] = [
    "lenet5",
    "resnet20",
    "resnet56",
    "mobilenet_v1",
    "mobilenet_v2",
    "shufflenet_v2",
    "squeezenet1_0",
    "resnet18",
    "vgg16",
];

/// ONNX Runtime's quantizer.
const QUANTIZER: &str = include_str!("../../scripts/peers_quantize.py");

/// Seed of weights and images.
const SEED: u64 = 1;

/// Those asked for, all for none.
///
/// # Errors
/// If there is none of a name; the message lists the names.
pub fn chosen(only: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = only.iter().find(|o| !NETWORKS.contains(&o.as_str())) {
        bail!("--only {unknown}: no such network; there are: {}", NETWORKS.join(", "));
    }
    Ok(NETWORKS.into_iter().filter(|n| only.is_empty() || only.iter().any(|o| o == n)).collect())
}

/// A network with seeded weights, in memory and as files.
pub struct Exported {
    /// Its name.
    pub name: &'static str,
    /// The network.
    pub graph: Graph,
    /// A batch for it.
    pub images: Tensor,
    /// What the reference executor gives for the batch.
    pub reference: Tensor,
    /// The ONNX file.
    pub model: PathBuf,
    /// The one that the other engines get.
    pub theirs: PathBuf,
    /// The batch, 32-bit floats.
    pub input: PathBuf,
    /// Where the engines write their output.
    pub output: PathBuf,
}

impl Exported {
    /// Builds a network, in 8-bit integers if asked for, and writes its files.
    ///
    /// # Errors
    /// If it cannot be built, run or written.
    pub fn new(
        registry: &Registry,
        name: &'static str,
        int8: bool,
        batch: usize,
        directory: &Path,
    ) -> Result<Exported> {
        let mut graph = random(registry, name, &NetworkOptions { seed: SEED, ..NetworkOptions::default() })?;
        let file = |end: &str| directory.join(format!("{name}.{end}"));
        let floats = file("floats.onnx");
        if int8 {
            cnn_onnx::save(&graph, &floats, &cnn_onnx::ExportOptions::default()).context("export")?;
            quantize(registry, &mut graph).context("quant.int8")?;
        }
        let images = images(&graph, batch, SEED)?;
        let reference = graph.infer(&images).context("the reference executor")?;
        if !reference.iter().all(|v| v.is_finite()) {
            bail!("the logits are not finite: their times would mean nothing");
        }
        let (model, input, output) = (file("onnx"), file("input.f32"), file("output.f32"));
        cnn_onnx::save(&graph, &model, &cnn_onnx::ExportOptions::default()).context("export")?;
        let bytes: Vec<u8> = images.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(&input, bytes).with_context(|| input.display().to_string())?;
        let theirs = if int8 { floats } else { model.clone() };
        Ok(Exported { name, graph, images, reference, model, theirs, input, output })
    }

    /// Has the floats that the other engines would get made 8-bit integers by ONNX Runtime's quantizer.
    ///
    /// # Errors
    /// If there is no Python, or it fails.
    pub fn quantize_theirs(&mut self, environment: &Environment) -> Result<()> {
        let python = environment.python.as_ref().context("there is no Python; see above")?;
        let int8 = self.theirs.with_extension("int8.onnx");
        let shape = self.images.shape().iter().map(usize::to_string);
        let done = Command::new(python)
            .args(["-c", QUANTIZER])
            .args([&self.theirs, &int8, &self.input])
            .args(shape)
            .output()
            .with_context(|| python.display().to_string())?;
        let _ = std::fs::remove_file(&self.theirs);
        self.theirs = int8;
        if !done.status.success() {
            bail!("ONNX Runtime's quantizer failed: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(())
    }

    /// What an engine wrote.
    ///
    /// # Errors
    /// If that is not as long as the reference.
    pub fn read_output(&self) -> Result<Tensor> {
        let bytes = std::fs::read(&self.output).with_context(|| self.output.display().to_string())?;
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        tensor::tensor(self.reference.shape(), values)
            .with_context(|| format!("an output of {} bytes for {}", bytes.len(), self.name))
    }

    /// Removes the files, which may be large.
    pub fn remove(&self) {
        for file in [&self.model, &self.theirs, &self.input, &self.output] {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Images that calibrate 8-bit networks.
const CALIBRATION: usize = 4;

/// The network in 8-bit integers, calibrated on images like those it will run on.
fn quantize(registry: &Registry, graph: &mut Graph) -> Result<()> {
    let data = MemoryDataset::new(images(graph, CALIBRATION, SEED + 1)?, vec![0; CALIBRATION], 1)?;
    let method = registry.build_method("quant.int8", serde_json::json!({ "calibration": CALIBRATION }))?;
    method.apply(graph, &mut Run::new(&data, &data, TrainSettings::default(), registry))?;
    Ok(method.pack(graph)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap(), NETWORKS);
        assert_eq!(chosen(&["vgg16".into(), "lenet5".into()]).unwrap(), ["lenet5", "vgg16"]);
        let message = chosen(&["resnet50".into()]).unwrap_err().to_string();
        assert!(message.contains("resnet50") && message.contains("resnet56"));
    }

    #[test]
    fn the_registry_has_them_all() {
        let registry = cnn_cli::registry();
        assert!(NETWORKS.iter().all(|name| registry.network_names().any(|n| n == *name)));
    }

    #[test]
    fn files_hold_the_network_and_its_images() {
        let directory = tempfile::tempdir().unwrap();
        let exported = Exported::new(&cnn_cli::registry(), "lenet5", false, 2, directory.path()).unwrap();
        let back = cnn_onnx::load(&exported.model, &Default::default()).unwrap().graph;
        assert!(tensor::relative_error(&back.infer(&exported.images).unwrap(), &exported.reference) < 1e-5);
        assert_eq!(std::fs::metadata(&exported.input).unwrap().len(), 2 * 784 * 4);
        assert!(exported.read_output().is_err());
        let bytes: Vec<u8> = exported.reference.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(&exported.output, bytes).unwrap();
        assert_eq!(exported.read_output().unwrap(), exported.reference);
        exported.remove();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let int8 = Exported::new(&cnn_cli::registry(), "lenet5", true, 2, directory.path()).unwrap();
        assert_eq!(int8.graph.cost().unwrap().macs.float, 0);
        assert!(std::fs::metadata(&int8.model).unwrap().len() < 450_000);
        assert!(std::fs::metadata(&int8.theirs).unwrap().len() > 1_700_000);
        int8.remove();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
