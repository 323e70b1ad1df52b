//! Channel pruning by LASSO selection and least-squares reconstruction.

mod samples;
mod solve;

use crate::channels::{ChannelGroup, Unit, certify, channel_groups};
use crate::criteria::images;
use crate::error::{PruneError, check_ratios};
use crate::memory;
use crate::retrain::{check_rate, retrain};
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::data::batch;
use cnn_core::layers::{ChannelMap, Conv2d};
use cnn_core::tensor::{tensor, zeros};
use cnn_core::{Compressor, Config, Graph, Result, Run, Selection, Tensor};
use nalgebra::{DMatrix, DVector};
use samples::{Place, Sums};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Images that the certificate is made for.
const CERTIFIED: usize = 4;

/// Channel pruning by reconstruction (He, Zhang & Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks"; SPEC 2.1).
///
/// Layer by layer, in the order of execution, for a convolution with weights `W_i` for its input channels `X_i`:
///
/// 1. *Selection.* LASSO finds the channels from which the layer's outputs `Y` of the original network can be made:
///    `min over beta of |Y - sum_i beta_i X_i W_i|^2 / 2N + lambda |beta|_1`, with `lambda` growing until as many are left as are to stay.
/// 2. *Reconstruction.* Least squares give the weights for those channels: `min over W' of |Y - X' W'|^2`.
///
/// `X` is what the layer reads in the network as it is pruned so far, so that errors do not add up, sampled at
/// [`positions`](Lasso::positions) random places of [`samples`](Lasso::samples) training images. The channels are
/// removed from the layers that make them. Where others read them too, as at the start of a residual branch, the stream stays as it is
/// and the layer reads it through a selection of channels (section 3.3); the last convolution of a branch also makes up for what the
/// shortcut has lost. Only core layers come out, so that the result can be factorized or quantized further (the paper's 3C).
///
/// ```
/// use cnn_core::layers::{Activation, Conv2d, ConvOptions};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Graph, Registry, Run, init::Init, testing::stripes};
/// use cnn_prune::Lasso;
///
/// let mut init = Init::new(1);
/// let mut graph = Graph::new(&[1, 10, 10]);
/// graph.push("conv1", Conv2d::new(init.glorot(&[8, 1, 3, 3])?, None, ConvOptions::default())?)?;
/// graph.push("relu", Activation::relu())?;
/// graph.push("conv2", Conv2d::new(init.glorot(&[4, 8, 3, 3])?, None, ConvOptions::default())?)?;
/// let data = stripes(40, [1, 10, 10], 2, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// Lasso { ratio: 0.5, epochs: 0, ..Lasso::default() }.apply(&mut graph, &mut run)?;
/// assert_eq!(graph.shapes(1)?[1], [1, 4, 8, 8]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lasso {
    /// Whose *input* channels go, all convolutions by default: name patterns, `only` these and `skip` those.
    pub layers: Selection,
    /// Share of a layer's input channels to remove, in `[0, 1)`; 0.3 by default.
    pub ratio: f64,
    /// Shares of single layers by name pattern.
    pub ratios: BTreeMap<String, f64>,
    /// Whether layers that read a stream which others read too get a selection of its channels, as by default, or stay as they are.
    pub samplers: bool,
    /// Training images; 256 by default.
    pub samples: usize,
    /// Random outputs of each image; 10 by default.
    pub positions: usize,
    /// Epochs of fine-tuning after the last layer; 5 by default.
    pub epochs: usize,
    /// Learning rate of the fine-tuning; the run's own by default.
    #[serde(alias = "rate")]
    pub learning_rate: Option<f32>,
}

impl Default for Lasso {
    fn default() -> Lasso {
        Lasso {
            layers: Selection::default(),
            ratio: 0.3,
            ratios: BTreeMap::new(),
            samplers: true,
            samples: 256,
            positions: 10,
            epochs: 5,
            learning_rate: None,
        }
    }
}

impl Lasso {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.lasso";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Lasso = read_config(Lasso::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Ratio`] or [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        check_ratios(self.ratio, &self.ratios)?;
        let setting = |what, why: &str| Err(PruneError::Setting { what, why: why.to_string() });
        if self.positions == 0 {
            return setting("positions", "at least 1");
        }
        check_rate(self.learning_rate)
    }

    fn prune(&self, original: &Graph, run: &mut Run<'_>) -> Result<Graph> {
        let targets = self.targets(original)?;
        let key = memory::key(Lasso::NAME, original, &self.config(), run)?;
        let mut graph = run.remember(&key, |run| self.reconstruct(original, &targets, run))?;
        retrain(&mut graph, self.epochs, self.learning_rate, 0, run)?;
        Ok(graph)
    }

    /// Selection and reconstruction, layer after layer.
    fn reconstruct(&self, original: &Graph, targets: &[(String, f64)], run: &Run<'_>) -> Result<Graph> {
        let mut batches = Vec::new();
        for ids in images(run, self.samples, "lasso")? {
            batches.push(batch(run.train, &ids)?.0);
        }
        let certified = run.calibration(CERTIFIED)?;
        let bar = run.progress.bar(targets.len() as u64, "reconstruction");
        let mut graph = original.clone();
        for (name, ratio) in targets {
            graph = self.reduce(&graph, original, name, *ratio, &batches, run.seed, &certified)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(graph)
    }

    /// The convolutions whose input channels go, with the share of each.
    fn targets(&self, graph: &Graph) -> Result<Vec<(String, f64)>> {
        let mut own: BTreeMap<usize, (&str, f64)> = BTreeMap::new();
        for (pattern, &ratio) in &self.ratios {
            for at in targets::matching(graph, pattern)? {
                if let Some((first, _)) = own.insert(at, (pattern, ratio)) {
                    let layer = graph.nodes()[at].name.clone();
                    let (first, second) = (first.to_string(), pattern.clone());
                    return Err(PruneError::Ambiguous { layer, first, second }.into());
                }
            }
        }
        let mut found = Vec::new();
        for at in targets::find(graph, &self.layers)? {
            let node = &graph.nodes()[at];
            // the image's channels, and those of groups, are not for choosing
            let conv = node.layer().downcast_ref::<Conv2d>().filter(|c| c.options.groups == 1);
            if conv.is_none_or(|c| c.channels_in() < 2) || node.inputs[0] == 0 {
                continue;
            }
            if conv.is_some_and(|c| !c.weight().constraints().is_empty()) {
                let why = format!(
                    "the weights of `{}` are under a constraint; reconstruct before masks",
                    node.name
                );
                return Err(PruneError::Setting { what: "layers", why }.into());
            }
            found.push((node.name.clone(), own.get(&at).map_or(self.ratio, |&(_, ratio)| ratio)));
        }
        let reached = |at: &usize| found.iter().any(|(name, _)| *name == graph.nodes()[*at].name);
        for pattern in self.ratios.keys() {
            if !targets::matching(graph, pattern)?.iter().any(reached) {
                return Err(PruneError::Unused { pattern: pattern.clone() }.into());
            }
        }
        match found.is_empty() {
            false => Ok(found),
            true => {
                let found = "no selected convolution reads channels that could go".to_string();
                Err(PruneError::NoChannels { found }.into())
            }
        }
    }

    /// The network with fewer input channels of one convolution.
    #[allow(clippy::too_many_arguments)] // one layer's whole task, called once
    fn reduce(
        &self,
        graph: &Graph,
        original: &Graph,
        name: &str,
        ratio: f64,
        batches: &[Tensor],
        seed: u64,
        certified: &Tensor,
    ) -> Result<Graph> {
        let place = Place { graph, original, name };
        let conv = place.conv()?;
        let channels = conv.channels_in();
        let keep = channels - ((ratio * channels as f64).round() as usize).min(channels - 1);
        if keep == channels {
            return Ok(graph.clone());
        }
        let removable = self.removable(graph, name)?;
        if removable.is_none() && !self.samplers {
            return Ok(graph.clone());
        }
        let sums = place.sums(batches, self.positions, seed)?;
        let kept = selected(conv, &sums, keep);
        let weights = reconstructed(conv, &sums, &kept)
            .ok_or_else(|| PruneError::NotFinite { layer: name.to_string() })?;
        let bias = conv.bias().map(|b| b.value().clone());
        let reduced = Conv2d::new(weights, bias, conv.options)?;
        let mut thinned = graph.clone();
        match removable {
            Some(units) => {
                let gone: Vec<Unit> =
                    (0..channels).filter(|c| !kept.contains(c)).map(|c| units[c].clone()).collect();
                thinned.remove_channels(&gone.concat())?;
                certify(graph, &thinned, &gone, certified)?;
                thinned.replace(name, Box::new(reduced))?;
            }
            None => {
                let taken = |name: &str| graph.find(name).is_ok();
                let free = (1..)
                    .map(|i| if i == 1 { format!("{name}.select") } else { format!("{name}.select{i}") });
                let select = free.into_iter().find(|name| !taken(name)).unwrap_or_default();
                let map = ChannelMap::new(channels, kept.into_iter().map(Some).collect())?;
                let chain: Vec<(String, Box<dyn cnn_core::Layer>)> =
                    vec![(select, Box::new(map)), (name.to_string(), Box::new(reduced))];
                thinned.splice(name, chain)?;
            }
        }
        Ok(thinned)
    }

    /// For each input channel of a convolution what goes with it, if the channels can be removed and nothing but this convolution reads
    /// them.
    fn removable(&self, graph: &Graph, name: &str) -> Result<Option<Vec<Unit>>> {
        let at = graph.find(name)?;
        let input = graph.nodes()[at].inputs[0];
        let Ok(groups) = channel_groups(graph, &Selection::default()) else { return Ok(None) };
        // a concatenation is read by one layer, but made by several groups
        let touches = |group: &&ChannelGroup| group.units.iter().flatten().any(|&(node, _)| node == input);
        let found: Vec<&ChannelGroup> = groups.iter().filter(touches).collect();
        let mut units: Vec<Unit> = vec![Vec::new(); graph.shapes(1)?[input][1]];
        for unit in found.iter().flat_map(|group| &group.units) {
            let own: Vec<usize> = unit.iter().filter(|&&(node, _)| node == input).map(|&(_, c)| c).collect();
            let [c] = own[..] else { return Ok(None) };
            units[c] = unit.clone();
        }
        let single = found.iter().all(|group| group.producers.len() == 1);
        // who reads the channels without being one of the layers that they only pass
        let members: BTreeSet<usize> = units.iter().flatten().map(|&(node, _)| node).collect();
        let outside = graph.nodes().iter().enumerate().filter(|(reader, node)| {
            !members.contains(reader) && node.inputs.iter().any(|i| members.contains(i))
        });
        let alone = outside.map(|(reader, _)| reader).eq([at]);
        Ok((single && alone && units.iter().all(|u| !u.is_empty())).then_some(units))
    }
}

/// The weights as a matrix: `channels x kh x kw` rows, a column for each filter.
fn matrix(conv: &Conv2d) -> DMatrix<f64> {
    let filters = conv.filters();
    let rows = conv.weight().len() / filters;
    DMatrix::from_iterator(rows, filters, conv.weight().value().iter().map(|&w| f64::from(w)))
}

/// The input channels that stay.
fn selected(conv: &Conv2d, sums: &Sums, keep: usize) -> Vec<usize> {
    let w = matrix(conv);
    let channels = conv.channels_in();
    let taps = w.nrows() / channels;
    // G_ij = <X_i W_i, X_j W_j> and b_i = <X_i W_i, Y>, from the sums over the samples
    let products = &w * w.transpose();
    let gram = DMatrix::from_fn(channels, channels, |i, j| {
        let rows = (i * taps, j * taps);
        sums.xx.view(rows, (taps, taps)).dot(&products.view(rows, (taps, taps)))
    });
    let b = DVector::from_fn(channels, |i, _| sums.xy.rows(i * taps, taps).dot(&w.rows(i * taps, taps)));
    solve::select(&gram, &b, keep)
}

/// The weights for the channels that stay, by least squares; `None` if the samples are not finite.
fn reconstructed(conv: &Conv2d, sums: &Sums, kept: &[usize]) -> Option<Tensor> {
    let w = matrix(conv);
    let taps = w.nrows() / conv.channels_in();
    let rows: Vec<usize> = kept.iter().flat_map(|&c| c * taps..(c + 1) * taps).collect();
    let xx = sums.xx.select_rows(&rows).select_columns(&rows);
    let solved = solve::least_squares(&xx, &sums.xy.select_rows(&rows), &w.select_rows(&rows))?;
    let [kh, kw] = conv.kernel();
    let values: Vec<f32> = solved.iter().map(|&w| w as f32).collect();
    let finite = values.iter().all(|w| w.is_finite());
    let shape = [conv.filters(), kept.len(), kh, kw];
    finite.then(|| tensor(&shape, values).unwrap_or_else(|_| zeros(&shape)))
}

impl Compressor for Lasso {
    fn name(&self) -> String {
        Lasso::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        *graph = self.prune(graph, run)?;
        Ok(())
    }
}
