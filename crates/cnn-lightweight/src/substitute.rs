//! The method `light.separable`: standard convolutions become depthwise separable ones, which are then
//! fine-tuned.

use crate::{Error, Result, cost, separable};
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::Conv2d;
use cnn_core::{Compressor, Config, Graph, Run, Selection};
use serde::{Deserialize, Serialize};

pub(crate) const NAME: &str = "light.separable";

/// Replaces standard convolutions by the nearest depthwise separable ones ([`separable`]) and fine-tunes
/// (Howard et al. 2017, section 3.1; the start from trained weights is this project's).
///
/// Replaced are the selected layers with one group, a kernel larger than 1 x 1 and at least `min_inputs`
/// input channels: a first layer that reads three colours would be left with three filters. A constrained
/// layer is refused. Names: `conv2` becomes `conv2.depthwise` and `conv2.pointwise`.
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
        SubstituteSeparable { epochs: 3, rate: None, min_inputs: 4, layers: Selection::default() }
    }
}

impl SubstituteSeparable {
    /// Checks the settings.
    ///
    /// # Errors
    /// If the rate is not a positive number.
    pub fn check(&self) -> cnn_core::Result<()> {
        match self.rate {
            Some(rate) if !(rate > 0.0 && rate.is_finite()) => Err(cnn_core::Error::invalid(
                format!("{NAME}: rate"),
                format!("a positive number, got {rate}"),
            )),
            _ => Ok(()),
        }
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
        self.check()?;
        let mut light = graph.clone();
        substitute(&mut light, &self.layers, self.min_inputs)?;
        if self.epochs > 0 {
            let mut settings = run.settings.clone();
            settings.epochs = self.epochs;
            if let Some(rate) = self.rate {
                settings.optimizer = settings.optimizer.with_rate(rate);
            }
            run.fine_tune(&mut light, &settings)?;
        }
        *graph = light;
        Ok(())
    }
}

pub(crate) fn build(config: Config) -> cnn_core::Result<Box<dyn Compressor>> {
    let method: SubstituteSeparable = read_config(NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}

/// A convolution that was replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Substitution {
    /// Its name.
    pub layer: String,
    /// `|W - W'| / |W|`, as [`crate::Separable::relative_error`].
    pub relative_error: f64,
    /// Weights and multiply-adds of the two new layers over those of the old one, without bias and at stride
    /// 1: `1 / M + 1 / K^2`.
    pub cost_ratio: f64,
}

/// Replaces every convolution that suits, without fine-tuning, and says what was lost and gained.
/// `min_inputs` is the least number of input channels.
///
/// # Errors
/// If a pattern of the selection matches no node, a convolution is constrained or not finite (it is named),
/// or none suits; the graph is then as before.
///
/// ```
/// use cnn_core::{Selection, testing::lenet5};
/// let mut graph = lenet5(0)?;
/// let replaced = cnn_lightweight::substitute(&mut graph, &Selection::default(), 4)?;
/// assert_eq!(replaced.len(), 1);
/// assert_eq!(replaced[0].layer, "conv2");
/// assert_eq!(replaced[0].cost_ratio, 1.0 / 50.0 + 1.0 / 25.0);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn substitute(graph: &mut Graph, layers: &Selection, min_inputs: usize) -> Result<Vec<Substitution>> {
    layers.check(graph)?;
    let mut next = graph.clone();
    let mut replaced = Vec::new();
    for name in graph.names_of::<Conv2d>().into_iter().filter(|name| layers.matches(name)) {
        let Some(conv) = graph.layer::<Conv2d>(&name)?.filter(|conv| suits(conv, min_inputs)) else {
            continue;
        };
        let pair = separable(conv).map_err(|e| cnn_core::Error::from(e).at(&name))?;
        let [kh, kw] = conv.kernel();
        replaced.push(Substitution {
            layer: name.clone(),
            relative_error: pair.relative_error,
            cost_ratio: cost::ratio(conv.filters() as u64, (kh * kw) as u64),
        });
        let chain: Vec<(String, Box<dyn cnn_core::Layer>)> = vec![
            (format!("{name}.depthwise"), Box::new(pair.depthwise)),
            (format!("{name}.pointwise"), Box::new(pair.pointwise)),
        ];
        next.splice(&name, chain)?;
    }
    if replaced.is_empty() {
        return Err(Error::Nothing { min_inputs });
    }
    *graph = next;
    Ok(replaced)
}

fn suits(conv: &Conv2d, min_inputs: usize) -> bool {
    conv.options.groups == 1 && conv.kernel() != [1, 1] && conv.channels_in() >= min_inputs
}
