//! The method `light.inverted_residual`: standard convolutions become expanding, depthwise and projecting
//! ones, which are then fine-tuned.

use super::{FineTune, Form, Rules, Substitution, at_least};
use crate::{Result, inverted_residual};
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::{
    Activation, ActivationFn, AdaptiveAvgPool, Add, AvgPool2d, ChannelMap, Concat, Dropout, GlobalAvgPool,
    Identity, MaxPool2d,
};
use cnn_core::{Compressor, Config, Graph, Layer, Run, Selection};
use serde::{Deserialize, Serialize};

pub(crate) const NAME: &str = "light.inverted_residual";

/// Replaces standard convolutions by the nearest inverted residual blocks ([`inverted_residual`]) and
/// fine-tunes (Sandler et al. 2018, section 3.3; the start from trained weights is this project's).
///
/// With `t = expansion`, the cost falls to `t (N + K^2 + M) / (K^2 M)`; with a stride it is more, since the
/// expansion works at the input's resolution. The block starts as the depthwise separable form with `t`
/// filters a channel. With `rectify`, a rectifier stands behind the expansion wherever the layer's input
/// cannot be negative (it comes from a rectifier, through pooling, sums and the like): there it changes
/// nothing at first, and fine-tuning can make use of it. The depthwise filters have no rectifier behind them,
/// since their responses have both signs.
///
/// Replaced are the selected layers with one group, a kernel larger than 1 x 1 and at least `min_inputs`
/// input channels. A layer that would not become cheaper stays. A constrained layer is refused, and so is one
/// that
/// `layers.only` names without a wildcard and that does not suit. Bias, stride, padding and dilation are
/// kept, and so is what follows the layer. Names: `conv2` becomes `conv2.expand`, `conv2.relu`,
/// `conv2.depthwise` and
/// `conv2.project`.
///
/// ```
/// use cnn_core::{Compressor, Run, Registry, testing::{lenet5, stripes}, train::TrainSettings};
/// use cnn_lightweight::SubstituteInverted;
/// let (train, validation) = (stripes(60, [1, 28, 28], 10, 1)?, stripes(20, [1, 28, 28], 10, 2)?);
/// let registry = Registry::core();
/// let settings = TrainSettings { batch: 20, ..TrainSettings::default() };
/// let mut run = Run::new(&train, &validation, settings, &registry);
/// let mut graph = lenet5(0)?;
/// SubstituteInverted { epochs: 1, ..SubstituteInverted::default() }.apply(&mut graph, &mut run)?;
/// assert!(graph.find("conv2.project").is_ok() && graph.find("conv1").is_ok());
/// assert!(graph.find("conv2.relu").is_err()); // no rectifier is before it in this network
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubstituteInverted {
    /// Channels after the expansion for each input channel, `t`; 2 by default. More are nearer and cost more.
    pub expansion: usize,
    /// Whether a rectifier follows the expansion where the input cannot be negative; by default it does.
    pub rectify: bool,
    /// Epochs of fine-tuning; 0 leaves the nearest weights as they are.
    pub epochs: usize,
    /// Learning rate of the fine-tuning; `null` takes the run's.
    pub rate: Option<f32>,
    /// Layers that read fewer channels stay.
    pub min_inputs: usize,
    /// The layers that may be replaced.
    pub layers: Selection,
}

impl Default for SubstituteInverted {
    fn default() -> SubstituteInverted {
        let layers = Selection::default();
        SubstituteInverted { expansion: 2, rectify: true, epochs: 3, rate: None, min_inputs: 4, layers }
    }
}

impl SubstituteInverted {
    /// Checks the settings.
    ///
    /// # Errors
    /// If `expansion` is 0 or the rate is not a positive number.
    pub fn check(&self) -> cnn_core::Result<()> {
        at_least(NAME, "expansion", self.expansion, 1)?;
        self.fine_tune().check()
    }

    /// Replaces every convolution that suits, without fine-tuning, and says what was lost and gained.
    ///
    /// # Errors
    /// If a setting is bad, a pattern of the selection matches no node, a convolution is constrained or not
    /// finite (it is named), or none suits; the graph is then as before.
    pub fn substitute(&self, graph: &mut Graph) -> Result<Vec<Substitution>> {
        self.check()?;
        let rules = Rules { layers: &self.layers, min_inputs: self.min_inputs };
        rules.replace(
            graph,
            |_| None,
            |graph, name, conv| {
                let block = inverted_residual(conv, self.expansion)?;
                let mut chain: Vec<(_, Box<dyn Layer>)> = vec![("expand", Box::new(block.expand))];
                let input = graph.node(name)?.inputs.first();
                if self.rectify && input.is_some_and(|&input| not_negative(graph)[input]) {
                    chain.push(("relu", Box::new(Activation::relu())));
                }
                chain.push(("depthwise", Box::new(block.depthwise)));
                chain.push(("project", Box::new(block.project)));
                Ok(Form { chain, relative_error: block.relative_error })
            },
        )
    }

    fn fine_tune(&self) -> FineTune {
        FineTune { method: NAME, epochs: self.epochs, rate: self.rate }
    }
}

/// For each node, whether its values are known not to be negative.
fn not_negative(graph: &Graph) -> Vec<bool> {
    let mut known: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let layer = node.layer();
        let passes = layer.is::<MaxPool2d>()
            || layer.is::<AvgPool2d>()
            || layer.is::<GlobalAvgPool>()
            || layer.is::<AdaptiveAvgPool>()
            || layer.is::<ChannelMap>()
            || layer.is::<Dropout>()
            || layer.is::<Identity>()
            || layer.is::<Add>()
            || layer.is::<Concat>();
        let own = layer.downcast_ref::<Activation>().is_some_and(|a| {
            matches!(
                a.function,
                ActivationFn::Relu | ActivationFn::Relu6 | ActivationFn::Sigmoid | ActivationFn::HardSigmoid
            )
        });
        known.push(own || passes && node.inputs.iter().all(|&i| known[i]));
    }
    known
}

impl Compressor for SubstituteInverted {
    fn name(&self) -> String {
        NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> cnn_core::Result<()> {
        self.fine_tune().after(graph, run, |light| self.substitute(light))
    }
}

pub(crate) fn build(config: Config) -> cnn_core::Result<Box<dyn Compressor>> {
    let method: SubstituteInverted = read_config(NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}
