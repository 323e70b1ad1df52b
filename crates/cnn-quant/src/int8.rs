//! Linear quantization to 8 bits after training, `quant.int8` (SPEC 2.2, eq. 2; Jacob et al. 2018, sections 2.1 to 2.4).

use crate::conv2d_i8::Conv2dI8;
use crate::error::Error;
use crate::grid::{Grid, range};
use crate::int8_range::{INT8_RANGE, Int8Range, WeightGrid};
use crate::int8_weights::Int8Weights;
use crate::linear_i8::LinearI8;
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::{Compressor, Config, Graph, Layer, Result, Run, Selection};
use ndarray::Axis;
use serde::{Deserialize, Serialize};

/// Images that go through the network at once in calibration: inner activations are large.
const BATCH: usize = 8;

/// 8-bit integers after training: `q = round(a (p - b))`, `p ~ q / a + b` ([`Grid`]).
///
/// - [`Compressor::apply`] runs the first training images through the network, records smallest and largest value of the input
///   of each selected convolution and linear layer, and constrains the weights to their 8-bit grid ([`Int8Range`], straight-through).
///   It does not train; methods after it can.
/// - [`Compressor::pack`] makes [`Conv2dI8`] and [`LinearI8`], which compute in integers: 8-bit products, 32-bit sums.
/// - The number of multiply-adds stays; the file shrinks to about a quarter.
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
    /// How weights are quantized, per output channel; symmetric by default.
    pub weights: WeightGrid,
    /// Which layers; all convolutions and linear layers by default.
    pub layers: Selection,
}

impl Default for Int8Quantizer {
    fn default() -> Int8Quantizer {
        Int8Quantizer { calibration: 256, weights: WeightGrid::Symmetric, layers: Selection::default() }
    }
}

impl Int8Quantizer {
    /// Name of the method.
    pub const NAME: &'static str = "quant.int8";

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<(), Error> {
        match self.calibration {
            0 => Err(Error::Setting {
                method: Int8Quantizer::NAME,
                key: "calibration".into(),
                found: "0".into(),
                allowed: "at least 1 image",
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Int8Quantizer = read_config(Int8Quantizer::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// The grid of the input of each of the layers at `found`.
    fn calibrate(&self, graph: &Graph, found: &[usize], run: &Run<'_>) -> Result<Vec<Grid>> {
        let nodes = graph.nodes();
        let sources: Vec<&str> = found
            .iter()
            .filter_map(|&at| nodes[at].inputs.first())
            .map(|&i| nodes[i].name.as_str())
            .collect();
        let mut ranges: Vec<Option<(f32, f32)>> = vec![None; found.len()];
        for images in run.calibration(self.calibration)?.axis_chunks_iter(Axis(0), BATCH) {
            let activations = graph.capture(&sources, &images.to_owned())?;
            for ((known, values), &at) in ranges.iter_mut().zip(&activations).zip(found) {
                let Some((min, max)) = range(values.iter().copied()) else {
                    return Err(Error::NotFinite {
                        what: "calibration activations",
                        layer: nodes[at].name.clone(),
                    }
                    .into());
                };
                *known = Some(known.map_or((min, max), |(a, b)| (a.min(min), b.max(max))));
            }
        }
        Ok(ranges.into_iter().flatten().map(|(min, max)| Grid::affine(min, max)).collect())
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
        let found = targets::select(graph, Int8Quantizer::NAME, &self.layers, INT8_RANGE)?;
        let inputs = self.calibrate(graph, &found, run)?;
        graph.edit(|graph| {
            for (&at, input) in found.iter().zip(inputs) {
                let layer = graph.layer_at_mut(at);
                if let Some(weight) = targets::params_mut(layer).into_iter().next() {
                    let range = Int8Range::new(weight.value(), self.weights, input);
                    weight.constrain(Box::new(range));
                }
            }
            Ok(())
        })
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
