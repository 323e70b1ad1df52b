//! Weight sharing, `quant.kmeans` (Han, Mao, Dally 2016, "Deep Compression", sections 3 and 4).

use crate::cluster::Init;
use crate::codebook::{CODEBOOK, CentroidGradient};
use crate::codebook_conv2d::CodebookConv2d;
use crate::codebook_linear::CodebookLinear;
use crate::error::Error;
use crate::half16::{self, HALF, Half};
use crate::targets;
use crate::tie::{Sharing, Tie};
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::train::{Optimizer, for_each_gradient};
use cnn_core::{Compressor, Config, Graph, Layer, Result, Run, Selection, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wildmatch::WildMatch;

/// Weight sharing: the weights of each layer take one of `2^bits` values, found by k-means and then fine-tuned.
///
/// - k-means of one layer's weights: `argmin_C sum_{i=1..k} sum_{w in c_i} |w - c_i|^2` ([`centroids`](crate::centroids)); or of each
///   output channel's, or with errors weighed by the loss's curvature.
/// - The centroids are trained by eq. 1, `dL/dc_k = sum_{i,j} dL/dW_ij * 1(I_ij = k)` ([`Codebook`](crate::Codebook)), with Adam: a centroid's
///   gradient is the sum over its members, of which it may have ten or a hundred thousand, so no one rate of SGD suits all.
/// - Weights that are exactly zero (pruned) stay exactly zero: zero is an index of its own, and k-means runs on the others, with
///   `2^bits - 1` centroids. A layer with fewer different weights than centroids loses nothing.
/// - [`Compressor::pack`] makes [`CodebookConv2d`] and [`CodebookLinear`], exactly equal to the constrained dense layers. The
///   arithmetic stays that of 32-bit floats; where it pays, large linear layers read their weights as indices.
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
    /// So many values instead of `2^bits`, 2 to 256, zero included; where `per_layer` says nothing else.
    pub clusters: Option<usize>,
    /// Fewer values than there may be, where the weights' relative error `sum (w - c)^2 / sum w^2` stays at most this.
    pub error: Option<f64>,
    /// Which weights of a layer share values; all by default.
    pub sharing: Sharing,
    /// Other numbers of bits for layers by name, as `{"conv*": 8}`; of several patterns that match, the longest counts.
    pub per_layer: BTreeMap<String, u8>,
    /// First centroids; evenly spaced by default.
    pub init: Init,
    /// Training images for the weights' curvature, by which k-means then weighs their errors (Choi, El-Khamy, Lee 2017); 0, the
    /// default, for errors that all count alike.
    pub curvature: usize,
    /// What a centroid gets of its members' gradients; their sum by default.
    pub gradient: CentroidGradient,
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
            clusters: None,
            error: None,
            sharing: Sharing::Layer,
            per_layer: BTreeMap::new(),
            init: Init::Linear,
            curvature: 0,
            gradient: CentroidGradient::Sum,
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
        if let Some(clusters) = self.clusters.filter(|k| !(2..=256).contains(k)) {
            return wrong("clusters", clusters.to_string(), "2 to 256 values");
        }
        if let Some(error) = self.error.filter(|e| !(0.0..1.0).contains(e)) {
            return wrong("error", error.to_string(), "a relative error from 0 up to, but not including, 1");
        }
        if self.sharing == Sharing::Groups(0) {
            return wrong("sharing", "0 groups".into(), "at least one group");
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

    /// Values that a codebook of the named layer has at most.
    fn most_of(&self, name: &str) -> usize {
        let matching = self.per_layer.iter().filter(|(pattern, _)| WildMatch::new(pattern).matches(name));
        match matching.max_by_key(|(pattern, _)| pattern.len()) {
            Some((_, &bits)) => 1 << bits,
            None => self.clusters.unwrap_or(1 << self.bits),
        }
    }
}

/// The diagonal of the Hessian for the weight of each of the layers: the empirical Fisher information `E_batch[B g^2]` for batches of `B`
/// images, which it is where the network's probabilities are right.
fn curvatures(graph: &Graph, layers: &[usize], run: &mut Run<'_>, samples: usize) -> Result<Vec<Tensor>> {
    let images = samples.min(run.train.len()) as f64;
    let weight = |graph: &Graph, at: usize| {
        targets::params(graph.nodes()[at].layer()).first().map(|w| w.shape().to_vec())
    };
    let mut found: Vec<Tensor> =
        layers.iter().map(|&at| Tensor::zeros(weight(graph, at).unwrap_or_default())).collect();
    for_each_gradient(graph, run, samples, |graph, share| {
        let factor = (share * share * images) as f32;
        for (&at, h) in layers.iter().zip(&mut found) {
            let params = targets::params(graph.nodes()[at].layer());
            let Some(grad) = params.first().and_then(|w| w.grad()) else { continue };
            h.zip_mut_with(grad, |h, g| *h += factor * g * g);
        }
        Ok(())
    })?;
    Ok(found)
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
        let layers = targets::select(graph, KMeansQuantizer::NAME, &self.layers, CODEBOOK)?;
        let curvatures = match self.curvature {
            0 => Vec::new(),
            samples => curvatures(graph, &layers, run, samples)?,
        };
        for (i, at) in layers.into_iter().enumerate() {
            let name = next.nodes()[at].name.clone();
            let mut params = targets::params_mut(next.layer_at_mut(at)).into_iter();
            let Some(weight) = params.next() else { continue };
            let tie = Tie {
                most: self.most_of(&name),
                error: self.error,
                sharing: self.sharing,
                init: self.init,
                half: self.half,
                seed: run.seed,
            };
            let mut tied = tie.weights(weight.value(), curvatures.get(i)).map_err(|e| e.at(&name))?;
            tied.gradient = self.gradient;
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
