//! Linear quantization to 8 bits after training, `quant.int8` (SPEC 2.2, eq. 2; Jacob et al. 2018, sections 2.1 to 2.4).

use crate::conv2d_i8::Conv2dI8;
use crate::error::Error;
use crate::fold::fold;
use crate::grid::Grid;
use crate::int8_range::{INT8_RANGE, Int8Range, WeightGrid, WeightRange};
use crate::int8_weights::Int8Weights;
use crate::linear_i8::LinearI8;
use crate::observer::{Observer, Watch};
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::graph::Node;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::tensor::slice;
use cnn_core::train::Optimizer;
use cnn_core::{Compressor, Config, Constraint, Graph, Layer, Param, Result, Run, Selection, Tensor};
use ndarray::Axis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wildmatch::WildMatch;

/// Images that go through the network at once in calibration: inner activations are large.
const BATCH: usize = 8;

/// 8-bit integers, or fewer bits, after training: `q = round(a (p - b))`, `p ~ q / a + b` ([`Grid`]).
///
/// - [`Compressor::apply`] runs a sample of the training images through the network, chooses the range of the input of each selected
///   convolution and linear layer ([`Observer`]), and constrains the weights to their grid ([`Int8Range`], straight-through). It
///   trains if `epochs` says so; methods after it can, too.
/// - Rounding moves the mean of a layer's outputs; what it does on the sample is taken from the bias (bias correction,
///   Nagel et al. 2019).
/// - [`Compressor::pack`] makes [`Conv2dI8`] and [`LinearI8`], which compute in integers: 8-bit products, 32-bit sums.
/// - The number of multiply-adds stays; the file shrinks to about a quarter, with fewer bits to less.
///
/// ```
/// use cnn_core::testing::{lenet5, stripes};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Registry, Run, model_file};
/// use cnn_quant::Int8Quantizer;
///
/// let (train, validation) = (stripes(32, [1, 28, 28], 10, 0)?, stripes(16, [1, 28, 28], 10, 1)?);
/// let mut registry = Registry::core();
/// cnn_quant::register(&mut registry);
/// let mut graph = lenet5(0)?;
/// let method = Int8Quantizer { calibration: 32, ..Int8Quantizer::default() };
/// let mut run = Run::new(&train, &validation, TrainSettings::default(), &registry);
/// method.apply(&mut graph, &mut run)?;
/// method.pack(&mut graph)?;
/// assert_eq!(graph.cost()?.macs.float, 0);
/// assert!(model_file::deploy_bytes(&graph, false)?.len() < 440_000); // of 1,724,320
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Int8Quantizer {
    /// Training images for the ranges of activations; 256 by default.
    pub calibration: usize,
    /// How the range of activations is chosen; all of it by default.
    pub observer: Observer,
    /// How weights are quantized, per output channel; symmetric by default.
    pub weights: WeightGrid,
    /// How the range of a channel's weights is chosen; all of it by default.
    pub weight_range: WeightRange,
    /// Bits of a weight, 2 to 8; 8 by default.
    pub weight_bits: u8,
    /// Bits of an activation, 2 to 8; 8 by default.
    pub activation_bits: u8,
    /// Other bits for layers by name, as `{"conv1": {"weights": 8, "activations": 8}}`; of several patterns that match, the longest counts.
    pub per_layer: BTreeMap<String, Bits>,
    /// Whether batch normalizations go into the convolutions before them first. By default they do if `epochs` is 0: training needs them.
    pub fold: Option<bool>,
    /// Whether biases make up for what rounding the weights does to the mean of outputs; true by default.
    pub bias_correction: bool,
    /// Epochs of training with the weights on their grids, gradients straight through (Bengio, Leonard, Courville 2013); 0, the default,
    /// for none. Activations are not rounded in it.
    pub epochs: usize,
    /// Learning rate of the run's optimizer in these epochs, under the run's schedule; 0.005 by default.
    #[serde(alias = "learning_rate")]
    pub rate: f32,
    /// Which layers; all convolutions and linear layers by default.
    pub layers: Selection,
}

/// Bits of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bits {
    /// Of a weight, 2 to 8.
    pub weights: u8,
    /// Of an activation, 2 to 8.
    pub activations: u8,
}

impl Default for Int8Quantizer {
    fn default() -> Int8Quantizer {
        Int8Quantizer {
            calibration: 256,
            observer: Observer::MinMax,
            weights: WeightGrid::Symmetric,
            weight_range: WeightRange::MinMax,
            weight_bits: 8,
            activation_bits: 8,
            per_layer: BTreeMap::new(),
            fold: None,
            bias_correction: true,
            epochs: 0,
            rate: 0.005,
            layers: Selection::default(),
        }
    }
}

/// What calibration found about a layer.
struct Seen {
    /// Of its input.
    grid: Grid,
    /// What rounding the weights adds to the mean of each output channel.
    shift: Vec<f64>,
}

impl Int8Quantizer {
    /// Name of the method.
    pub const NAME: &'static str = "quant.int8";

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key: String, found: String, allowed| {
            Err(Error::Setting { method: Int8Quantizer::NAME, key, found, allowed })
        };
        if self.calibration == 0 {
            return wrong("calibration".into(), "0".into(), "at least 1 image");
        }
        let all = [
            ("weight_bits".to_string(), self.weight_bits),
            ("activation_bits".to_string(), self.activation_bits),
        ];
        let each = self.per_layer.iter().flat_map(|(pattern, bits)| {
            let key = |which| format!("per_layer.{pattern}.{which}");
            [(key("weights"), bits.weights), (key("activations"), bits.activations)]
        });
        for (key, bits) in all.into_iter().chain(each) {
            if !(2..=8).contains(&bits) {
                return wrong(key, bits.to_string(), "2 to 8 bits");
            }
        }
        if !(self.rate.is_finite() && self.rate >= 0.0) {
            return wrong("rate".into(), self.rate.to_string(), "a finite rate, not negative");
        }
        match self.observer {
            Observer::Percentile(percent) if !(percent > 0.0 && percent <= 100.0) => wrong(
                "observer.percentile".into(),
                percent.to_string(),
                "more than 0 and at most 100 percent",
            ),
            _ => Ok(()),
        }
    }

    /// Bits of the named layer.
    fn bits_of(&self, name: &str) -> Bits {
        let matching = self.per_layer.iter().filter(|(pattern, _)| WildMatch::new(pattern).matches(name));
        let all = Bits { weights: self.weight_bits, activations: self.activation_bits };
        matching.max_by_key(|(pattern, _)| pattern.len()).map_or(all, |(_, &bits)| bits)
    }

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Int8Quantizer = read_config(Int8Quantizer::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// What the sample says about each of the layers at `found`; `errors` are those layers with what rounding does to their weights.
    fn calibrate(
        &self,
        graph: &Graph,
        found: &[usize],
        errors: &[Box<dyn Layer>],
        run: &Run<'_>,
    ) -> Result<Vec<Seen>> {
        let nodes = graph.nodes();
        let sources: Vec<&str> = found
            .iter()
            .filter_map(|&at| nodes[at].inputs.first())
            .map(|&i| nodes[i].name.as_str())
            .collect();
        let mut watches = vec![Watch::default(); found.len()];
        let mut shifts: Vec<Vec<f64>> = vec![Vec::new(); found.len()];
        let images = run.calibration(self.calibration)?;
        let count = images.shape()[0];
        for images in images.axis_chunks_iter(Axis(0), BATCH) {
            let share = images.shape()[0] as f64 / count as f64;
            let activations = graph.capture(&sources, &images.to_owned())?;
            for (i, (values, &at)) in activations.iter().zip(found).enumerate() {
                if !watches[i].see(slice(values)?) {
                    let layer = nodes[at].name.clone();
                    return Err(Error::NotFinite { what: "calibration activations", layer }.into());
                }
                let Some(error) = errors.get(i) else { continue };
                let added = error.infer(&[values])?;
                shifts[i].resize(added.shape()[1], 0.0);
                for (shift, channel) in shifts[i].iter_mut().zip(added.axis_iter(Axis(1))) {
                    let sum: f64 = channel.iter().map(|&v| f64::from(v)).sum();
                    *shift += share * sum / channel.len().max(1) as f64;
                }
            }
        }
        let seen = watches.iter().zip(shifts).zip(found).map(|((watch, shift), &at)| {
            let bits = self.bits_of(&nodes[at].name).activations;
            let grid = watch.grid(self.observer, bits).unwrap_or(Grid::affine_bits(0.0, 0.0, bits));
            Seen { grid, shift }
        });
        Ok(seen.collect())
    }

    /// The grids of a layer's weights, for an input on `input`.
    fn range(&self, node: &Node, weight: &Tensor, input: Grid) -> Int8Range {
        Int8Range::with_bits(weight, self.weights, self.bits_of(&node.name).weights, self.weight_range, input)
    }

    /// A layer without bias whose weights are what rounding adds to those of the node, `W_q - W`.
    fn error(&self, node: &Node) -> Result<Box<dyn Layer>> {
        let weight = targets::params(node.layer()).first().map(|w| w.value().clone()).unwrap_or_default();
        let mut error = weight.clone();
        self.range(node, &weight, Grid::affine(0.0, 0.0)).materialize(&mut error);
        error -= &weight;
        Ok(match node.layer().downcast_ref::<Conv2d>() {
            Some(conv) => Box::new(Conv2d::new(error, None, conv.options)?),
            None => Box::new(Linear::new(error, None)?),
        })
    }
}

/// Takes from the bias what rounding the weights adds to the mean of outputs: `b -= E[(W_q - W) x]` (Nagel et al. 2019, "Data-Free
/// Quantization", section 4.2, eq. 17, with the mean over the sample).
fn correct(layer: &mut dyn Layer, shift: &[f64]) {
    let correct = |bias: &mut Param| {
        let mut values = bias.base().clone();
        values.iter_mut().zip(shift).for_each(|(b, e)| *b -= *e as f32);
        bias.set_base(values);
    };
    if let Some(conv) = layer.downcast_mut::<Conv2d>() {
        correct(conv.bias_or_zeros());
    } else if let Some(linear) = layer.downcast_mut::<Linear>() {
        correct(linear.bias_or_zeros());
    }
}

impl Compressor for Int8Quantizer {
    fn name(&self) -> String {
        Int8Quantizer::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        let original = graph;
        let mut folded = original.clone();
        if self.fold.unwrap_or(self.epochs == 0) {
            self.layers.check(original)?;
            fold(&mut folded, &self.layers)?;
        }
        let graph = &mut folded;
        let found = targets::select(graph, Int8Quantizer::NAME, &self.layers, INT8_RANGE)?;
        for pattern in self.per_layer.keys() {
            Selection { only: vec![pattern.clone()], skip: Vec::new() }.check(graph)?;
        }
        let errors = match self.bias_correction {
            true => found.iter().map(|&at| self.error(&graph.nodes()[at])).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let seen = self.calibrate(graph, &found, &errors, run)?;
        graph.edit(|graph| {
            for (&at, seen) in found.iter().zip(seen) {
                let node = &graph.nodes()[at];
                let Some(weight) = targets::params(node.layer()).into_iter().next() else { continue };
                let range = self.range(node, weight.value(), seen.grid);
                let layer = graph.layer_at_mut(at);
                targets::params_mut(layer)[0].constrain(Box::new(range));
                if self.bias_correction {
                    correct(layer, &seen.shift);
                }
            }
            Ok(())
        })?;
        if self.epochs > 0 {
            let mut settings = run.settings.clone();
            settings.epochs = self.epochs;
            let (Optimizer::Sgd { rate, .. } | Optimizer::Adam { rate, .. }) = &mut settings.optimizer;
            *rate = self.rate;
            run.fine_tune(graph, &settings)?;
        }
        *original = folded;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        graph.edit(|graph| {
            let carrying = graph.nodes().iter().filter(|n| targets::carries(n.layer(), INT8_RANGE));
            let names: Vec<String> = carrying.map(|n| n.name.clone()).collect();
            for name in names {
                let packed = pack_layer(graph.node(&name)?.layer()).map_err(|e| e.at(&name))?;
                if let Some(packed) = packed {
                    graph.replace(&name, packed)?;
                }
            }
            Ok(())
        })
    }
}

fn pack_layer(layer: &dyn Layer) -> Result<Option<Box<dyn Layer>>> {
    let params = targets::params(layer);
    let Some(weight) = params.first() else { return Ok(None) };
    let Some(range) = weight.constraints().iter().find_map(|c| c.downcast_ref::<Int8Range>()) else {
        return Ok(None);
    };
    let weights = Int8Weights::new(weight.value(), params.get(1).map(|b| b.value()), range)?;
    Ok(match (layer.downcast_ref::<Conv2d>(), layer.is::<Linear>()) {
        (Some(conv), _) => Some(Box::new(Conv2dI8::new(weights, conv.options)?)),
        (None, true) => Some(Box::new(LinearI8::new(weights)?)),
        (None, false) => None,
    })
}
