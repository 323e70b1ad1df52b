//! The method `light.separable`: standard convolutions become depthwise separable ones, which are then
//! fine-tuned.

use super::{FineTune, Form, Rules, Substitution, at_least};
use crate::{Result, separable};
use cnn_core::compress::{read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Run, Selection};
use serde::{Deserialize, Serialize};

pub(crate) const NAME: &str = "light.separable";

/// Replaces standard convolutions by the nearest depthwise separable ones ([`separable`]) and fine-tunes
/// (Howard et al. 2017, section 3.1; the start from trained weights is this project's).
///
/// With `r = multiplier` depthwise filters a channel, the cost falls to `r (1 / M + 1 / K^2)`. Replaced are
/// the selected layers with one group, a kernel larger than 1 x 1 and at least `min_inputs` input channels: a
/// first layer that reads three colours would be left with three filters. A layer that would not become
/// cheaper stays. A constrained layer is refused, and so is one that `layers.only` names without a wildcard
/// and that does not suit. Bias, stride, padding and dilation are kept, and so is what follows the layer.
/// Names: `conv2` becomes
/// `conv2.depthwise` and `conv2.pointwise`.
///
/// ```
/// use cnn_core::{Compressor, Run, Registry, testing::{lenet5, stripes}, train::TrainSettings};
/// use cnn_lightweight::SubstituteSeparable;
/// let (train, validation) = (stripes(60, [1, 28, 28], 10, 1)?, stripes(20, [1, 28, 28], 10, 2)?);
/// let registry = Registry::core();
/// let settings = TrainSettings { batch: 20, ..TrainSettings::default() };
/// let mut run = Run::new(&train, &validation, settings, &registry);
/// let mut graph = lenet5(0)?;
/// SubstituteSeparable { epochs: 1, ..SubstituteSeparable::default() }.apply(&mut graph, &mut run)?;
/// assert!(graph.find("conv2.depthwise").is_ok() && graph.find("conv1").is_ok());
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubstituteSeparable {
    /// Depthwise filters for each input channel, `r`; 1 by default. More are nearer and cost more.
    pub multiplier: usize,
    /// Epochs of fine-tuning; 0 leaves the nearest weights as they are.
    pub epochs: usize,
    /// Learning rate of the fine-tuning; `null` takes the run's.
    pub rate: Option<f32>,
    /// Layers that read fewer channels stay.
    pub min_inputs: usize,
    /// The layers that may be replaced.
    pub layers: Selection,
}

impl Default for SubstituteSeparable {
    fn default() -> SubstituteSeparable {
        let layers = Selection::default();
        SubstituteSeparable { multiplier: 1, epochs: 3, rate: None, min_inputs: 4, layers }
    }
}

impl SubstituteSeparable {
    /// Checks the settings.
    ///
    /// # Errors
    /// If `multiplier` is 0 or the rate is not a positive number.
    pub fn check(&self) -> cnn_core::Result<()> {
        at_least(NAME, "multiplier", self.multiplier, 1)?;
        self.fine_tune().check()
    }

    /// Replaces every convolution that suits, without fine-tuning, and says what was lost and gained.
    ///
    /// # Errors
    /// If a setting is bad, a pattern of the selection matches no node, a convolution is constrained or not
    /// finite (it is named), or none suits; the graph is then as before.
    ///
    /// ```
    /// use cnn_core::testing::lenet5;
    /// use cnn_lightweight::{SubstituteSeparable, cost};
    /// let mut graph = lenet5(0)?;
    /// let replaced = SubstituteSeparable::default().substitute(&mut graph)?;
    /// assert_eq!(replaced.len(), 1);
    /// assert_eq!(replaced[0].layer, "conv2");
    /// assert!((replaced[0].cost_ratio - cost::ratio(50, 25)).abs() < 1e-12);
    /// # Ok::<(), cnn_core::Error>(())
    /// ```
    pub fn substitute(&self, graph: &mut Graph) -> Result<Vec<Substitution>> {
        self.check()?;
        let rules = Rules { layers: &self.layers, min_inputs: self.min_inputs };
        rules.replace(
            graph,
            |_| None,
            |_, _, conv| {
                let pair = separable(conv, self.multiplier)?;
                Ok(Form {
                    chain: vec![
                        ("depthwise", Box::new(pair.depthwise)),
                        ("pointwise", Box::new(pair.pointwise)),
                    ],
                    relative_error: pair.relative_error,
                })
            },
        )
    }

    fn fine_tune(&self) -> FineTune {
        FineTune { method: NAME, epochs: self.epochs, rate: self.rate }
    }
}

impl Compressor for SubstituteSeparable {
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
    let method: SubstituteSeparable = read_config(NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}
