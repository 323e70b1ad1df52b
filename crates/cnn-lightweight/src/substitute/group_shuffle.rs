//! The method `light.group_shuffle`: standard convolutions become grouped ones with a channel shuffle, which
//! are then fine-tuned.

use super::{FineTune, Form, Rules, Substitution, at_least};
use crate::Result;
use crate::forms::{does_not_divide, group_shuffle};
use cnn_core::compress::{read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Run, Selection};
use serde::{Deserialize, Serialize};

pub(crate) const NAME: &str = "light.group_shuffle";

/// The most channels inside, as a multiple of the filters.
const MOST: f64 = 64.0;

/// Replaces standard convolutions by the nearest grouped convolution, channel shuffle and grouped pointwise
/// convolution ([`group_shuffle`]) and fine-tunes (the units of Zhang et al. 2018, section 3.1; the start
/// from trained weights is this project's).
///
/// With `g = groups` and as many channels inside as there are filters, the cost falls to about `(1 + 1 / K^2)
/// / g`. Replaced are the selected layers with one group, a kernel larger than 1 x 1, at least `min_inputs`
/// input channels, and channels that divide into the groups. A layer that would not become cheaper stays. A
/// constrained layer is refused, and so is one that `layers.only` names without a wildcard and that does not
/// suit. Bias, stride, padding and dilation are kept, and so is what follows the layer. Names: `conv2`
/// becomes `conv2.grouped`,
/// `conv2.shuffle` and `conv2.pointwise`.
///
/// ```
/// use cnn_core::{Compressor, Run, Registry, testing::{lenet5, stripes}, train::TrainSettings};
/// use cnn_lightweight::SubstituteGroupShuffle;
/// let (train, validation) = (stripes(60, [1, 28, 28], 10, 1)?, stripes(20, [1, 28, 28], 10, 2)?);
/// let registry = Registry::core();
/// let settings = TrainSettings { batch: 20, ..TrainSettings::default() };
/// let mut run = Run::new(&train, &validation, settings, &registry);
/// let mut graph = lenet5(0)?;
/// let method = SubstituteGroupShuffle { groups: 2, epochs: 1, ..SubstituteGroupShuffle::default() };
/// method.apply(&mut graph, &mut run)?;
/// assert!(graph.find("conv2.shuffle").is_ok() && graph.find("conv1").is_ok());
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubstituteGroupShuffle {
    /// Groups, `g`, at least 2; 4 by default. More groups are cheaper and further off.
    pub groups: usize,
    /// Channels between the two convolutions as a multiple of the filters, `M' / M`; 1 by default.
    pub inner: f64,
    /// Epochs of fine-tuning; 0 leaves the nearest weights as they are.
    pub epochs: usize,
    /// Learning rate of the fine-tuning; `null` takes the run's.
    pub rate: Option<f32>,
    /// Layers that read fewer channels stay.
    pub min_inputs: usize,
    /// The layers that may be replaced.
    pub layers: Selection,
}

impl Default for SubstituteGroupShuffle {
    fn default() -> SubstituteGroupShuffle {
        let layers = Selection::default();
        SubstituteGroupShuffle { groups: 4, inner: 1.0, epochs: 3, rate: None, min_inputs: 4, layers }
    }
}

impl SubstituteGroupShuffle {
    /// Checks the settings.
    ///
    /// # Errors
    /// If there are fewer than 2 groups, `inner` is not above 0 and at most 64, or the rate is not a positive
    /// number.
    pub fn check(&self) -> cnn_core::Result<()> {
        at_least(NAME, "groups", self.groups, 2)?;
        if !(self.inner > 0.0 && self.inner <= MOST) {
            let why = format!("more than 0 and at most {MOST}, got {}", self.inner);
            return Err(cnn_core::Error::invalid(format!("{NAME}: inner"), why));
        }
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
            |conv| does_not_divide(conv, self.groups),
            |_, _, conv| {
                let light = group_shuffle(conv, self.groups, self.inner)?;
                Ok(Form {
                    chain: vec![
                        ("grouped", Box::new(light.grouped)),
                        ("shuffle", Box::new(light.shuffle)),
                        ("pointwise", Box::new(light.pointwise)),
                    ],
                    relative_error: light.relative_error,
                })
            },
        )
    }

    fn fine_tune(&self) -> FineTune {
        FineTune { method: NAME, epochs: self.epochs, rate: self.rate }
    }
}

impl Compressor for SubstituteGroupShuffle {
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
    let method: SubstituteGroupShuffle = read_config(NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}
