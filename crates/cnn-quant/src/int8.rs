//! Linear quantization to 8 bits after training, `quant.int8` (SPEC 2.2, eq. 2; Jacob et al. 2018, sections 2.1 to 2.4).

use crate::adaround::Sums;
use crate::bits::{self, Bits, PerLayer};
use crate::conv2d_i8::Conv2dI8;
use crate::equalize::equalize;
use crate::error::Error;
use crate::fold::fold;
use crate::grid::Grid;
use crate::in_time;
use crate::int8_range::{INT8_RANGE, Int8Range, WeightGrid, WeightRange};
use crate::int8_weights::Int8Weights;
use crate::linear_i8::LinearI8;
use crate::mixed;
use crate::observer::{Observer, Watch, each_batch};
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::graph::Node;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::{Compressor, Config, Constraint, Graph, Layer, Param, Result, Run, Selection, Tensor};
use ndarray::Axis;
use serde::{Deserialize, Serialize};

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
    pub per_layer: PerLayer,
    /// At most so many bytes for the whole file: each layer gets as few bits a weight as that needs, those first that change the network's
    /// answers least ([`crate::Bits`] of other layers are the most they get); no limit by default.
    pub bytes: Option<u64>,
    /// At most so many milliseconds for an image on one thread of this machine: only as many layers as that needs become integers, those
    /// first that change the network's answers least for the time they save, and the others stay in floats; no limit by default.
    pub ms: Option<f64>,
    /// Whether batch normalizations go into the convolutions before them first. By default they do if `epochs` is 0: training needs them.
    pub fold: Option<bool>,
    /// Whether channels of neighbouring convolutions are scaled to ranges of one size first, which changes no output (cross-layer
    /// equalization, Nagel et al. 2019); false by default.
    pub equalize: bool,
    /// To which of the two points next to it a weight is rounded; the nearest by default.
    pub rounding: Rounding,
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

/// To which of the two points of its grid a weight is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// The nearest.
    #[default]
    Nearest,
    /// Those which together keep the outputs of the layer on the calibration images, layer by layer (AdaRound, Nagel et al. 2020).
    Adaptive,
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
            per_layer: PerLayer::new(),
            bytes: None,
            ms: None,
            fold: None,
            equalize: false,
            rounding: Rounding::Nearest,
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
        let single = [("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)];
        bits::check(Int8Quantizer::NAME, &single, &self.per_layer)?;
        if !(self.rate.is_finite() && self.rate >= 0.0) {
            return wrong("rate".into(), self.rate.to_string(), "a finite rate, not negative");
        }
        if let Some(ms) = self.ms.filter(|ms| !(ms.is_finite() && *ms > 0.0)) {
            return wrong("ms".into(), ms.to_string(), "a positive number of milliseconds");
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

    /// The same for a network whose batch normalizations have been folded and whose channels have been scaled.
    pub(crate) fn after_preparation(&self) -> Int8Quantizer {
        Int8Quantizer { equalize: false, fold: Some(false), ..self.clone() }
    }

    /// Bits of the named layer.
    pub(crate) fn bits_of(&self, name: &str) -> Bits {
        let all = Bits { weights: self.weight_bits, activations: self.activation_bits };
        bits::of_layer(&self.per_layer, name).unwrap_or(all)
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
        let mut watches = vec![Watch::default(); found.len()];
        let mut shifts: Vec<Vec<f64>> = vec![Vec::new(); found.len()];
        each_batch(graph, found, &run.calibration(self.calibration)?, |i, values, share| {
            watches[i].see_input(graph, found[i], values)?;
            let Some(error) = errors.get(i) else { return Ok(()) };
            let added = error.infer(&[values])?;
            shifts[i].resize(added.shape()[1], 0.0);
            for (shift, channel) in shifts[i].iter_mut().zip(added.axis_iter(Axis(1))) {
                let sum: f64 = channel.iter().map(|&v| f64::from(v)).sum();
                *shift += share * sum / channel.len().max(1) as f64;
            }
            Ok(())
        })?;
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

    /// Puts the layers at `found` under their grids.
    fn constrain(&self, graph: &mut Graph, found: &[usize], seen: Vec<Seen>) -> Result<()> {
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
        })
    }

    /// As [`Int8Quantizer::constrain`], the weights of one layer after the other rounded so that its outputs stay.
    fn round(&self, graph: &mut Graph, found: &[usize], seen: &[Seen], run: &Run<'_>) -> Result<()> {
        let before = graph.clone();
        let images = run.calibration(self.calibration)?;
        for (&at, seen) in found.iter().zip(seen) {
            let node = &before.nodes()[at];
            let (Some(mut sums), Some(weight)) =
                (Sums::new(node.layer()), targets::params(node.layer()).into_iter().next())
            else {
                continue;
            };
            let mut inputs = Vec::new();
            each_batch(&before, &[at], &images, |_, values, _| {
                inputs.push(values.clone());
                Ok(())
            })?;
            let mut batch = 0;
            each_batch(graph, &[at], &images, |_, values, _| {
                sums.add(node.layer(), &inputs[batch], values, seen.grid, batch)?;
                batch += 1;
                Ok(())
            })?;
            let range = self.range(node, weight.value(), seen.grid);
            let (rounded, shift) = sums.round(weight.value(), range.grids()).map_err(|e| e.at(&node.name))?;
            let layer = graph.layer_at_mut(at);
            let weight = &mut targets::params_mut(layer)[0];
            weight.set_base(rounded);
            weight.constrain(Box::new(range));
            if self.bias_correction {
                correct(layer, &shift);
            }
        }
        Ok(())
    }

    /// Puts all selected layers under grids whose inputs nobody looked at: for the size of a file.
    pub(crate) fn constrain_blindly(&self, graph: &mut Graph) -> Result<()> {
        let found = targets::select(graph, Int8Quantizer::NAME, &self.layers, INT8_RANGE)?;
        let seen = |&at: &usize| {
            let bits = self.bits_of(&graph.nodes()[at].name).activations;
            Seen { grid: Grid::affine_bits(0.0, 1.0, bits), shift: Vec::new() }
        };
        let seen = found.iter().map(seen).collect();
        self.constrain(graph, &found, seen)
    }

    /// The layer of the node with weights of so many bits, as floats.
    pub(crate) fn rounded(&self, node: &Node, bits: u8) -> Result<Box<dyn Layer>> {
        let mut layer = node.layer().clone_box();
        if let Some(weight) = targets::params_mut(layer.as_mut()).into_iter().next() {
            let range = (self.weights, bits, self.weight_range);
            let range =
                Int8Range::with_bits(weight.value(), range.0, range.1, range.2, Grid::affine(0.0, 0.0));
            let mut values = weight.value().clone();
            range.materialize(&mut values);
            weight.set_base(values);
        }
        Ok(layer)
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
        if self.bytes.is_some() && self.ms.is_some() {
            // not in `check`: a recipe is checked key by key
            let why = "a file has one budget, `bytes` or `ms`; leave one of them out".to_string();
            return Err(cnn_core::Error::invalid(format!("`bytes` of `{}`", Int8Quantizer::NAME), why));
        }
        let original = graph;
        let mut folded = original.clone();
        if self.fold.unwrap_or(self.epochs == 0) {
            self.layers.check(original)?;
            fold(&mut folded, &self.layers)?;
        }
        let graph = &mut folded;
        if self.equalize {
            self.layers.check(graph)?;
            equalize(graph, &self.layers)?;
        }
        let found = targets::select(graph, Int8Quantizer::NAME, &self.layers, INT8_RANGE)?;
        bits::check_patterns(&self.per_layer, graph)?;
        if let Some(ms) = self.ms {
            let only = in_time::choose(self, graph, &found, run, ms)?;
            // one that keeps to the limit stays as it is: a session folds its normalizations itself
            if !only.is_empty() {
                let layers = Selection { only, skip: Vec::new() };
                Int8Quantizer { ms: None, layers, ..self.after_preparation() }.apply(graph, run)?;
                *original = folded;
            }
            return Ok(());
        }
        if let Some(bytes) = self.bytes {
            let images = run.calibration(self.calibration)?;
            let mut choices = mixed::choices(self, graph, &found, &images)?;
            let mut wanted = bytes;
            loop {
                let per_layer = mixed::fit(self, graph, &mut choices, wanted)?;
                let same = Int8Quantizer { bytes: None, per_layer, ..self.after_preparation() };
                let mut done = graph.clone();
                same.apply(&mut done, run)?;
                let size = mixed::file_size(&same, &done)?;
                if size <= bytes {
                    *original = done;
                    return Ok(());
                }
                // it came out larger than it was when the bits were chosen
                wanted = wanted.saturating_sub(size - bytes);
            }
        }
        let adaptive = self.rounding == Rounding::Adaptive;
        let errors = match self.bias_correction && !adaptive {
            true => found.iter().map(|&at| self.error(&graph.nodes()[at])).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let seen = self.calibrate(graph, &found, &errors, run)?;
        if adaptive {
            self.round(graph, &found, &seen, run)?;
        } else {
            self.constrain(graph, &found, seen)?;
        }
        if self.epochs > 0 {
            let mut settings = run.settings.clone();
            settings.epochs = self.epochs;
            settings.optimizer = settings.optimizer.with_rate(self.rate);
            run.fine_tune(graph, &settings)?;
        }
        *original = folded;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        pack_ranges(graph)
    }
}

/// Makes integer layers of all that are under [`Int8Range`].
pub fn pack_ranges(graph: &mut Graph) -> Result<()> {
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

fn pack_layer(layer: &dyn Layer) -> Result<Option<Box<dyn Layer>>> {
    let params = targets::params(layer);
    let Some(weight) = params.first() else { return Ok(None) };
    let Some(range) = weight.constraints().iter().find_map(|c| c.downcast_ref::<Int8Range>()) else {
        return Ok(None);
    };
    packed(layer, Int8Weights::new(weight.value(), params.get(1).map(|b| b.value()), range)?)
}

/// The layer with these weights; `None` if it is neither a convolution nor linear.
pub fn packed(layer: &dyn Layer, weights: Int8Weights) -> Result<Option<Box<dyn Layer>>> {
    Ok(match (layer.downcast_ref::<Conv2d>(), layer.is::<Linear>()) {
        (Some(conv), _) => Some(Box::new(Conv2dI8::new(weights, conv.options)?)),
        (None, true) => Some(Box::new(LinearI8::new(weights)?)),
        (None, false) => None,
    })
}
