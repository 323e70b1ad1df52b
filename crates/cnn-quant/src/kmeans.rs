//! Weight sharing, `quant.kmeans` (Han, Mao, Dally 2016, "Deep Compression", sections 3 and 4).

use crate::cluster::{Init, centroids, nearest};
use crate::codebook::{CODEBOOK, Codebook};
use crate::codebook_conv2d::CodebookConv2d;
use crate::codebook_linear::CodebookLinear;
use crate::error::Error;
use crate::half16::{self, HALF, Half};
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::train::Optimizer;
use cnn_core::{Compressor, Config, Graph, Layer, Result, Run, Selection, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wildmatch::WildMatch;

/// Weight sharing: the weights of each layer take one of `2^bits` values, found by k-means and then fine-tuned.
///
/// - k-means of one layer's weights: `argmin_C sum_{i=1..k} sum_{w in c_i} |w - c_i|^2` ([`centroids`]).
/// - The centroids are trained by eq. 1, `dL/dc_k = sum_{i,j} dL/dW_ij * 1(I_ij = k)` ([`Codebook`]), with Adam: a centroid's
///   gradient is the sum over its members, of which it may have ten or a hundred thousand, so no one rate of SGD suits all.
/// - Weights that are exactly zero (pruned) stay exactly zero: zero is an index of its own, and k-means runs on the others, with
///   `2^bits - 1` centroids. A layer with fewer different weights than centroids loses nothing.
/// - [`Compressor::pack`] makes [`CodebookConv2d`] and [`CodebookLinear`], exactly equal to the constrained dense layers. What is
///   saved is storage; the arithmetic stays that of 32-bit floats.
///
/// ```
/// use cnn_core::testing::{lenet5, stripes};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Registry, Run, model_file};
/// use cnn_quant::KMeansQuantizer;
///
/// let (train, validation) = (stripes(32, [1, 28, 28], 10, 0)?, stripes(16, [1, 28, 28], 10, 1)?);
/// let mut registry = Registry::core();
/// cnn_quant::register(&mut registry);
/// let mut graph = lenet5(0)?;
/// let before = model_file::deploy_bytes(&graph, false)?.len();
///
/// let method = KMeansQuantizer { bits: 4, ..KMeansQuantizer::default() };
/// let mut run = Run::new(&train, &validation, TrainSettings::default(), &registry);
/// method.apply(&mut graph, &mut run)?;
/// method.pack(&mut graph)?;
/// let bytes = model_file::deploy_bytes(&graph, false)?;
/// assert!(bytes.len() * 7 < before); // 4 of 32 bits, and what entropy coding adds to that
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KMeansQuantizer {
    /// Bits of an index, 1 to 8: `2^bits` values, zero included where weights were pruned; 5 by
    /// default.
    pub bits: u8,
    /// Other numbers of bits for layers by name, as `{"conv*": 8}`; of several patterns that match, the longest counts.
    pub per_layer: BTreeMap<String, u8>,
    /// First centroids; evenly spaced by default.
    pub init: Init,
    /// Centroids and biases are 16-bit floats, in training as in the file; but 32-bit ones in layers whose values are too
    /// large or too small for 16 bits. True by default.
    pub half: bool,
    /// Epochs in which the centroids (and what else the network trains) are fine-tuned, 0 for none; 1 by default.
    pub epochs: usize,
    /// Learning rate of Adam in these epochs, under the run's schedule; 0.0001 by default.
    #[serde(alias = "learning_rate")]
    pub rate: f32,
    /// Which layers; all convolutions and linear layers by default.
    pub layers: Selection,
}

impl Default for KMeansQuantizer {
    fn default() -> KMeansQuantizer {
        KMeansQuantizer {
            bits: 5,
            per_layer: BTreeMap::new(),
            init: Init::Linear,
            half: true,
            epochs: 1,
            rate: 1e-4,
            layers: Selection::default(),
        }
    }
}

impl KMeansQuantizer {
    /// Name of the method.
    pub const NAME: &'static str = "quant.kmeans";

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, found: String, allowed| {
            Err(Error::Setting { method: KMeansQuantizer::NAME, key: key.to_string(), found, allowed })
        };
        let each = self.per_layer.iter().map(|(pattern, &bits)| (format!("per_layer.{pattern}"), bits));
        for (key, bits) in [("bits".to_string(), self.bits)].into_iter().chain(each) {
            if !(1..=8).contains(&bits) {
                return wrong(&key, bits.to_string(), "1 to 8 bits");
            }
        }
        match self.rate.is_finite() && self.rate >= 0.0 {
            true => Ok(()),
            false => wrong("rate", self.rate.to_string(), "a finite rate, not negative"),
        }
    }

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: KMeansQuantizer = read_config(KMeansQuantizer::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Bits of the named layer.
    fn bits_of(&self, name: &str) -> u8 {
        let matching = self.per_layer.iter().filter(|(pattern, _)| WildMatch::new(pattern).matches(name));
        matching.max_by_key(|(pattern, _)| pattern.len()).map_or(self.bits, |(_, &bits)| bits)
    }

    /// The constraint that ties the weights.
    fn tie(&self, weights: &Tensor, bits: u8, seed: u64) -> Result<Codebook> {
        let nonzero: Vec<f32> = weights.iter().copied().filter(|&w| w != 0.0).collect();
        let zero = nonzero.len() < weights.len();
        let k = (1usize << bits) - usize::from(zero);
        let c = centroids(&nonzero, k, self.init, seed)?;
        let half = self.half && half16::suits(&c);
        let rounded: Vec<f32> = c.iter().map(|&c| if half { half16::round(c) } else { c }).collect();
        let index = |&w: &f32| match (zero, w == 0.0) {
            (true, true) => 0,
            _ => (nearest(&rounded, w) + usize::from(zero)) as u8,
        };
        Codebook::new(weights.map(index), &c, zero, half)
    }
}

impl Compressor for KMeansQuantizer {
    fn name(&self) -> String {
        KMeansQuantizer::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        for pattern in self.per_layer.keys() {
            Selection { only: vec![pattern.clone()], skip: Vec::new() }.check(graph)?;
        }
        let mut next = graph.clone();
        for at in targets::select(graph, KMeansQuantizer::NAME, &self.layers, CODEBOOK)? {
            let name = next.nodes()[at].name.clone();
            let mut params = targets::params_mut(next.layer_at_mut(at)).into_iter();
            let Some(weight) = params.next() else { continue };
            let tied = self.tie(weight.value(), self.bits_of(&name), run.seed).map_err(|e| e.at(&name))?;
            weight.constrain(Box::new(tied));
            for bias in params.filter(|b| self.half && b.constraints().iter().all(|c| c.kind() != HALF)) {
                if half16::suits(bias.value()) {
                    bias.constrain(Box::new(Half));
                }
            }
        }
        if self.epochs > 0 {
            let mut settings = run.settings.clone();
            settings.epochs = self.epochs;
            // no decay: a centroid is no free weight, and biases need none for so short a time
            settings.optimizer = Optimizer::Adam {
                rate: self.rate,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                decoupled: true,
            };
            run.fine_tune(&mut next, &settings)?;
        }
        *graph = next;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        graph.edit(|graph| {
            let names: Vec<String> = graph
                .nodes()
                .iter()
                .filter(|n| targets::carries(n.layer(), CODEBOOK))
                .map(|n| n.name.clone())
                .collect();
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
    if let Some(conv) = layer.downcast_ref::<Conv2d>() {
        return Ok(Some(Box::new(CodebookConv2d::pack(conv)?)));
    }
    Ok(match layer.downcast_ref::<Linear>() {
        Some(linear) => Some(Box::new(CodebookLinear::pack(linear)?)),
        None => None,
    })
}
