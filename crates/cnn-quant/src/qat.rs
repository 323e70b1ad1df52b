//! Training with few bits, `quant.qat`: weights and activations on grids whose steps are learned (LSQ; Esser et al. 2020), activations
//! also by PACT (Choi et al. 2018).

use crate::bits::{self, Bits, PerLayer};
use crate::error::Error;
use crate::grid::Grid;
use crate::int8::packed;
use crate::int8_range::WeightGrid;
use crate::int8_weights::Int8Weights;
use crate::learned_grid::{LearnedGrid, StepGradient};
use crate::learned_step::{LEARNED_STEP, LearnedStep};
use crate::observer::{Observer, watch};
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Layer, Result, Run, Selection};
use serde::{Deserialize, Serialize};

/// Quantization-aware training: in each forward pass the weights and inputs of the selected layers are what few bits can hold; gradients pass
/// straight through (Bengio, Leonard, Courville 2013), and the steps of the grids are learned with the weights.
///
/// - [`Compressor::apply`] puts a [`LearnedGrid`] before each layer and a [`LearnedStep`] on its weights, both starting where the squared error
///   on a sample of the training images is smallest, and trains.
/// - [`Compressor::pack`] makes the integer layers of `quant.int8`, [`crate::Conv2dI8`] and [`crate::LinearI8`].
/// - Batch normalizations stay: training needs them, and a session joins them to the layer before.
///
/// ```
/// use cnn_core::testing::{lenet5, stripes};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Registry, Run, model_file};
/// use cnn_quant::QuantizationAwareTraining;
///
/// let (train, validation) = (stripes(64, [1, 28, 28], 10, 0)?, stripes(16, [1, 28, 28], 10, 1)?);
/// let mut registry = Registry::core();
/// cnn_quant::register(&mut registry);
/// let mut graph = lenet5(0)?;
/// let method = QuantizationAwareTraining { calibration: 32, epochs: 1, ..QuantizationAwareTraining::default() };
/// let mut run = Run::new(&train, &validation, TrainSettings::default(), &registry);
/// method.apply(&mut graph, &mut run)?;
/// method.pack(&mut graph)?;
/// assert_eq!(graph.cost()?.macs.float, 0);
/// assert!(model_file::deploy_bytes(&graph, false)?.len() < 230_000); // of 1,724,320: 4 bits a weight
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizationAwareTraining {
    /// Bits of a weight, 2 to 8; 4 by default.
    pub weight_bits: u8,
    /// Bits of an activation, 2 to 8; 4 by default.
    pub activation_bits: u8,
    /// Bits of weights and activations of the first and the last selected layer, which suffer most and hold little; 8 by default.
    pub ends: u8,
    /// Other bits for layers by name, as in `quant.int8`; they count before `ends`.
    pub per_layer: PerLayer,
    /// What moves the steps of activations: `lsq`, the default, or `pact`.
    pub gradient: StepGradient,
    /// Training images for the first steps; 256 by default.
    pub calibration: usize,
    /// Epochs of training; 10 by default.
    pub epochs: usize,
    /// Learning rate of the run's optimizer in these epochs, under the run's schedule; 0.01 by default.
    #[serde(alias = "learning_rate")]
    pub rate: f32,
    /// Which layers; all convolutions and linear layers by default.
    pub layers: Selection,
}

impl Default for QuantizationAwareTraining {
    fn default() -> QuantizationAwareTraining {
        QuantizationAwareTraining {
            weight_bits: 4,
            activation_bits: 4,
            ends: 8,
            per_layer: PerLayer::new(),
            gradient: StepGradient::Lsq,
            calibration: 256,
            epochs: 10,
            rate: 0.01,
            layers: Selection::default(),
        }
    }
}

impl QuantizationAwareTraining {
    /// Name of the method.
    pub const NAME: &'static str = "quant.qat";

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let method = QuantizationAwareTraining::NAME;
        let single = [
            ("weight_bits", self.weight_bits),
            ("activation_bits", self.activation_bits),
            ("ends", self.ends),
        ];
        bits::check(method, &single, &self.per_layer)?;
        let wrong = |key: &str, found: String, allowed| {
            Err(Error::Setting { method, key: key.to_string(), found, allowed })
        };
        if self.calibration == 0 {
            return wrong("calibration", "0".into(), "at least 1 image");
        }
        if !(self.rate.is_finite() && self.rate >= 0.0) {
            return wrong("rate", self.rate.to_string(), "a finite rate, not negative");
        }
        Ok(())
    }

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: QuantizationAwareTraining = read_config(QuantizationAwareTraining::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Bits of a layer, the `at`-th of `count` that are selected.
    fn bits_of(&self, name: &str, at: usize, count: usize) -> Bits {
        let inner = Bits { weights: self.weight_bits, activations: self.activation_bits };
        let ends = Bits { weights: self.ends, activations: self.ends };
        let otherwise = if at == 0 || at + 1 == count { ends } else { inner };
        bits::of_layer(&self.per_layer, name).unwrap_or(otherwise)
    }
}

/// The name of the grid before a layer.
fn grid_name(layer: &str) -> String {
    format!("{layer}.grid")
}

impl Compressor for QuantizationAwareTraining {
    fn name(&self) -> String {
        QuantizationAwareTraining::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        let found = targets::select(graph, QuantizationAwareTraining::NAME, &self.layers, LEARNED_STEP)?;
        bits::check_patterns(&self.per_layer, graph)?;
        let watches = watch(graph, &found, &run.calibration(self.calibration)?)?;
        let mut trained = graph.clone();
        for (i, (&at, watch)) in found.iter().zip(&watches).enumerate() {
            let node = &graph.nodes()[at];
            let Bits { weights, activations } = self.bits_of(&node.name, i, found.len());
            let start = watch.grid(Observer::Mse, activations);
            let start = start.unwrap_or(Grid::affine_bits(0.0, 0.0, activations));
            let mut layer = node.layer().clone_box();
            let mut params = targets::params_mut(layer.as_mut());
            let Some(weight) = params.first_mut() else { continue };
            let steps = LearnedStep::new(weight.value(), weights)?;
            weight.constrain(Box::new(steps));
            let grid: Box<dyn Layer> = Box::new(LearnedGrid::new(start, self.gradient)?);
            trained.splice(&node.name, vec![(grid_name(&node.name), grid), (node.name.clone(), layer)])?;
        }
        if self.epochs > 0 {
            let mut settings = run.settings.clone();
            settings.epochs = self.epochs;
            settings.optimizer = settings.optimizer.with_rate(self.rate);
            run.fine_tune(&mut trained, &settings)?;
        }
        *graph = trained;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        graph.edit(|graph| {
            let carrying = graph.nodes().iter().filter(|n| targets::carries(n.layer(), LEARNED_STEP));
            let names: Vec<String> = carrying.map(|n| n.name.clone()).collect();
            for name in names {
                let Some(input) = graph.layer::<LearnedGrid>(&grid_name(&name))?.map(LearnedGrid::grid)
                else {
                    continue;
                };
                let layer = pack_layer(graph.node(&name)?.layer(), input).map_err(|e| e.at(&name))?;
                if let Some(layer) = layer {
                    graph.replace(&name, layer)?;
                    graph.remove(&grid_name(&name))?;
                }
            }
            Ok(())
        })
    }
}

fn pack_layer(layer: &dyn Layer, input: Grid) -> Result<Option<Box<dyn Layer>>> {
    let params = targets::params(layer);
    let Some(weight) = params.first() else { return Ok(None) };
    let steps = weight.constraints().iter().find_map(|c| c.downcast_ref::<LearnedStep>());
    let Some(steps) = steps else { return Ok(None) };
    let kind = (WeightGrid::Signed, steps.bits());
    let bias = params.get(1).map(|b| b.value());
    packed(layer, Int8Weights::on_grids(weight.value(), bias, kind, steps.grids(), input)?)
}
