//! One bit a weight, or three values, `quant.binary`: BinaryConnect, BWN, XNOR-Net, ternary weights.

use crate::binary_activation::BinaryActivation;
use crate::codebook_conv2d::CodebookConv2d;
use crate::codebook_linear::CodebookLinear;
use crate::codebook_weights::CodebookWeights;
use crate::error::Error;
use crate::observer::each_batch;
use crate::signs::{SIGNS, Signs};
use crate::targets;
use crate::ternary::{TERNARY, Ternary};
use crate::xnor_conv2d::XnorConv2d;
use crate::xnor_linear::XnorLinear;
use crate::xnor_weights::XnorWeights;
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::{Compressor, Config, Constraint, Graph, Layer, Param, Result, Run, Selection, Tensor};
use ndarray::Axis;
use serde::{Deserialize, Serialize};

/// What weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryWeights {
    /// `alpha_m sign(w)`, the scale of an output channel the mean size of its weights (Rastegari et al. 2016, "XNOR-Net", section 3.1).
    #[default]
    Bwn,
    /// `sign(w)` (Courbariaux et al. 2015): where a normalization follows.
    BinaryConnect,
    /// `-alpha_m`, 0 and `alpha_m` (Li, Zhang, Liu 2016, "Ternary Weight Networks").
    Twn,
    /// `-W_n`, 0 and `W_p`, both learned (Zhu et al. 2017, "Trained Ternary Quantization").
    Ttq,
}

/// What the inputs of the selected layers become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryActivations {
    /// They stay floats.
    #[default]
    Float,
    /// `sign(x - t_c)`, the threshold of each channel learned ([`BinaryActivation`]): products become a count of bits (XNOR-Net, section 3.2).
    Sign,
}

/// Weights of one bit, or of three values, and if wanted activations of one bit.
///
/// - [`Compressor::apply`] constrains the weights ([`Signs`], [`Ternary`]), puts a [`BinaryActivation`] before each layer if inputs are to be
///   signs, and trains, gradients straight through. Bits stand for much less than the weights they come from: without epochs little is left.
/// - The first and the last layer stay as they are unless `ends` says otherwise, as in all these papers.
/// - [`Compressor::pack`] makes codebook layers with a bit a weight or less in the file, computing in floats; with signs of inputs
///   [`XnorConv2d`] and [`XnorLinear`], which count bits.
///
/// ```
/// use cnn_core::testing::{lenet5, stripes};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Registry, Run, model_file};
/// use cnn_quant::{BinaryActivations, BinaryQuantizer};
///
/// let (train, validation) = (stripes(64, [1, 28, 28], 10, 0)?, stripes(16, [1, 28, 28], 10, 1)?);
/// let mut registry = Registry::core();
/// cnn_quant::register(&mut registry);
/// let mut graph = lenet5(0)?;
/// let method = BinaryQuantizer { activations: BinaryActivations::Sign, epochs: 1, ..BinaryQuantizer::default() };
/// let mut run = Run::new(&train, &validation, TrainSettings::default(), &registry);
/// method.apply(&mut graph, &mut run)?;
/// method.pack(&mut graph)?;
/// assert!(graph.cost()?.macs.binary > 1_900_000); // of 2,293,000: the first and the last layer are floats
/// assert!(model_file::deploy_bytes(&graph, false)?.len() < 85_000); // of 1,724,320
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BinaryQuantizer {
    /// What weights become; `bwn` by default.
    pub weights: BinaryWeights,
    /// What inputs become; `float` by default.
    pub activations: BinaryActivations,
    /// Whether the first and the last selected layer become binary too; false by default.
    pub ends: bool,
    /// Training images for the first thresholds; 256 by default.
    pub calibration: usize,
    /// Epochs in which inputs are signs and weights still floats, before `epochs`; 0 by default. In two stages the network loses less
    /// (Martinez et al. 2020, "Training Binary Neural Networks with Real-to-Binary Convolutions", section 4.2).
    pub first_stage: usize,
    /// Epochs of training; 10 by default.
    pub epochs: usize,
    /// Learning rate of the run's optimizer, under the run's schedule in each stage; 0.01 by default.
    #[serde(alias = "learning_rate")]
    pub rate: f32,
    /// Which layers; all convolutions and linear layers by default.
    pub layers: Selection,
}

impl Default for BinaryQuantizer {
    fn default() -> BinaryQuantizer {
        BinaryQuantizer {
            weights: BinaryWeights::Bwn,
            activations: BinaryActivations::Float,
            ends: false,
            calibration: 256,
            first_stage: 0,
            epochs: 10,
            rate: 0.01,
            layers: Selection::default(),
        }
    }
}

/// The name of the layer that takes the signs of a layer's input.
fn sign_name(layer: &str) -> String {
    format!("{layer}.sign")
}

impl BinaryQuantizer {
    /// Name of the method.
    pub const NAME: &'static str = "quant.binary";

    /// Checks each setting.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, found: String, allowed| {
            Err(Error::Setting { method: BinaryQuantizer::NAME, key: key.to_string(), found, allowed })
        };
        if self.calibration == 0 {
            return wrong("calibration", "0".into(), "at least 1 image");
        }
        if !(self.rate.is_finite() && self.rate >= 0.0) {
            return wrong("rate", self.rate.to_string(), "a finite rate, not negative");
        }
        Ok(())
    }

    /// Checks the settings that depend on each other.
    fn check_together(&self) -> Result<(), Error> {
        let wrong = |key: &str, found: String, allowed| {
            Err(Error::Setting { method: BinaryQuantizer::NAME, key: key.to_string(), found, allowed })
        };
        let binary = matches!(self.weights, BinaryWeights::Bwn | BinaryWeights::BinaryConnect);
        if self.activations == BinaryActivations::Sign && !binary {
            let allowed = "signs of activations need weights `bwn` or `binary_connect`; three values have no signs to count";
            return wrong("activations", "sign".into(), allowed);
        }
        if self.activations == BinaryActivations::Float && self.first_stage > 0 {
            let allowed = "a first stage is for `activations = \"sign\"`";
            return wrong("first_stage", self.first_stage.to_string(), allowed);
        }
        Ok(())
    }

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: BinaryQuantizer = read_config(BinaryQuantizer::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Kind of the constraint.
    fn kind(&self) -> &'static str {
        match self.weights {
            BinaryWeights::Bwn | BinaryWeights::BinaryConnect => SIGNS,
            BinaryWeights::Twn | BinaryWeights::Ttq => TERNARY,
        }
    }

    fn constraint(&self, weight: &Tensor) -> Result<Box<dyn Constraint>> {
        Ok(match self.weights {
            BinaryWeights::Bwn => Box::new(Signs { scaled: true }),
            BinaryWeights::BinaryConnect => Box::new(Signs { scaled: false }),
            BinaryWeights::Twn => Box::new(Ternary::fitted()),
            BinaryWeights::Ttq => Box::new(Ternary::learned(weight)?),
        })
    }

    /// The layers to work on.
    fn select(&self, graph: &Graph) -> Result<Vec<usize>> {
        let mut found = targets::select(graph, BinaryQuantizer::NAME, &self.layers, self.kind())?;
        if !self.ends {
            found.pop();
            found = found.split_off(found.len().min(1));
        }
        match found.is_empty() {
            true => Err(Error::NothingSelected { method: BinaryQuantizer::NAME }.into()),
            false => Ok(found),
        }
    }

    fn train(&self, graph: &mut Graph, epochs: usize, run: &mut Run<'_>) -> Result<()> {
        if epochs > 0 {
            let mut settings = run.settings.clone();
            settings.epochs = epochs;
            settings.optimizer = settings.optimizer.with_rate(self.rate);
            run.fine_tune(graph, &settings)?;
        }
        Ok(())
    }
}

/// The mean of each channel of the inputs of the layers at `found`.
fn channel_means(graph: &Graph, found: &[usize], images: &Tensor) -> Result<Vec<Vec<f32>>> {
    let mut means: Vec<Vec<f64>> = vec![Vec::new(); found.len()];
    each_batch(graph, found, images, |i, values, share| {
        if values.iter().any(|v| !v.is_finite()) {
            let layer = graph.nodes()[found[i]].name.clone();
            return Err(Error::NotFinite { what: "calibration activations", layer }.into());
        }
        means[i].resize(values.shape()[1], 0.0);
        for (mean, channel) in means[i].iter_mut().zip(values.axis_iter(Axis(1))) {
            let sum: f64 = channel.iter().map(|&v| f64::from(v)).sum();
            *mean += share * sum / channel.len().max(1) as f64;
        }
        Ok(())
    })?;
    Ok(means.into_iter().map(|means| means.into_iter().map(|mean| mean as f32).collect()).collect())
}

impl Compressor for BinaryQuantizer {
    fn name(&self) -> String {
        BinaryQuantizer::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        self.check_together()?;
        let found = self.select(graph)?;
        let names: Vec<String> = found.iter().map(|&at| graph.nodes()[at].name.clone()).collect();
        let mut trained = graph.clone();
        if self.activations == BinaryActivations::Sign {
            let means = channel_means(graph, &found, &run.calibration(self.calibration)?)?;
            for (name, means) in names.iter().zip(means) {
                let sign: Box<dyn Layer> = Box::new(BinaryActivation::new(means)?);
                let layer = graph.node(name)?.layer().clone_box();
                trained.splice(name, vec![(sign_name(name), sign), (name.clone(), layer)])?;
            }
            self.train(&mut trained, self.first_stage, run)?;
        }
        for name in &names {
            let at = trained.find(name)?;
            let mut params = targets::params_mut(trained.layer_at_mut(at));
            let Some(weight) = params.first_mut() else { continue };
            let constraint = self.constraint(weight.value())?;
            weight.constrain(constraint);
        }
        self.train(&mut trained, self.epochs, run)?;
        *graph = trained;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        graph.edit(|graph| {
            let carrying = graph.nodes().iter().filter(|n| targets::carries(n.layer(), self.kind()));
            let names: Vec<String> = carrying.map(|n| n.name.clone()).collect();
            for name in names {
                let sign = sign_name(&name);
                let thresholds = match graph.find(&sign) {
                    Ok(_) => graph.layer::<BinaryActivation>(&sign)?.map(BinaryActivation::thresholds),
                    Err(_) => None,
                };
                let layer = graph.node(&name)?.layer();
                let packed = match thresholds {
                    Some(thresholds) => pack_signs(layer, thresholds),
                    None => pack_values(layer),
                };
                if let Some(packed) = packed.map_err(|e| e.at(&name))? {
                    graph.replace(&name, packed)?;
                }
                if graph.find(&sign).is_ok() {
                    graph.remove(&sign)?;
                }
            }
            Ok(())
        })
    }
}

fn pack_signs(layer: &dyn Layer, thresholds: Vec<f32>) -> Result<Option<Box<dyn Layer>>> {
    let params = targets::params(layer);
    let Some(weight) = params.first() else { return Ok(None) };
    let weights = XnorWeights::new(weight.value(), thresholds, params.get(1).map(|b| b.value()))?;
    Ok(match layer.downcast_ref::<Conv2d>() {
        Some(conv) => Some(Box::new(XnorConv2d::new(weights, conv.options)?)),
        None => Some(Box::new(XnorLinear::new(weights)?)),
    })
}

/// A codebook for each output channel, or one for all where the values are the same.
fn pack_values(layer: &dyn Layer) -> Result<Option<Box<dyn Layer>>> {
    let packed = |weight: &Param| match CodebookWeights::new(weight.value()) {
        Ok(few) if few.alphabet() <= 3 => Ok(few),
        _ => CodebookWeights::with_groups(weight.value(), (1..=weight.shape()[0]).collect()),
    };
    let bias = |bias: Option<&Param>| bias.map(|b| b.value().clone());
    if let Some(conv) = layer.downcast_ref::<Conv2d>() {
        let weights = packed(conv.weight())?;
        return Ok(Some(Box::new(CodebookConv2d::new(weights, bias(conv.bias()), conv.options)?)));
    }
    let Some(linear) = layer.downcast_ref::<Linear>() else { return Ok(None) };
    Ok(Some(Box::new(CodebookLinear::new(packed(linear.weight())?, bias(linear.bias()))?)))
}
