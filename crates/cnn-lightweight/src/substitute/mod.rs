//! Substitution in a trained network: what the methods share.

mod group_shuffle;
mod inverted_residual;
mod separable;

pub use group_shuffle::SubstituteGroupShuffle;
pub use inverted_residual::SubstituteInverted;
pub use separable::SubstituteSeparable;

use crate::forms::not_standard;
use crate::{Error, Result};
use cnn_core::layers::Conv2d;
use cnn_core::{Graph, Layer, Registry, Run, Selection};
use std::fmt;

pub(crate) fn register(registry: &mut Registry) {
    registry.method(separable::NAME, separable::build);
    registry.method(group_shuffle::NAME, group_shuffle::build);
    registry.method(inverted_residual::NAME, inverted_residual::build);
}

/// A convolution that was replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Substitution {
    /// Its name.
    pub layer: String,
    /// `|W - W'| / |W|` in the Frobenius norm, `W'` being the standard convolution that the new layers amount
    /// to.
    pub relative_error: f64,
    /// Multiply-adds of the new layers over those of the old one. For one depthwise filter a channel that is
    /// `1 / M + 1 / K^2` ([`crate::cost::ratio`]).
    pub cost_ratio: f64,
    /// Multiply-adds for one image before and after.
    pub macs: [u64; 2],
    /// Weights before and after, without bias.
    pub weights: [u64; 2],
}

impl fmt::Display for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Substitution { layer, relative_error, cost_ratio, .. } = self;
        write!(f, "{layer}: multiply-adds x {cost_ratio:.3}, weights off by {relative_error:.3}")
    }
}

/// The layers in a convolution's place: name after the convolution's, and layer.
struct Form {
    chain: Vec<(&'static str, Box<dyn Layer>)>,
    relative_error: f64,
}

/// Which convolutions are replaced.
struct Rules<'a> {
    layers: &'a Selection,
    /// The least number of input channels.
    min_inputs: usize,
}

impl Rules<'_> {
    /// Replaces every convolution that suits by what `form` makes of it, as one edit. `unsuitable` says why
    /// the form cannot replace a standard convolution, if it cannot.
    ///
    /// A convolution that does not suit, or would not become cheaper, is left alone; but one that the
    /// selection names without a wildcard is refused.
    fn replace(
        &self,
        graph: &mut Graph,
        unsuitable: impl Fn(&Conv2d) -> Option<String>,
        form: impl Fn(&Graph, &str, &Conv2d) -> Result<Form>,
    ) -> Result<Vec<Substitution>> {
        self.layers.check(graph)?;
        let shapes = graph.shapes(1)?;
        let mut next = graph.clone();
        let (mut replaced, mut left) = (Vec::new(), Vec::new());
        let refuse =
            |name: &str, why: String| Err(cnn_core::Error::from(Error::NotReplaceable(why)).at(name).into());
        for node in graph.nodes().iter().filter(|n| self.layers.matches(&n.name)) {
            let name = &node.name;
            let named = self.layers.only.contains(name);
            let Some(conv) = node.layer().downcast_ref::<Conv2d>() else {
                if named {
                    return refuse(name, format!("a layer of kind `{}`", node.layer().kind()));
                }
                continue;
            };
            let few = || {
                let (n, least) = (conv.channels_in(), self.min_inputs);
                (n < least).then(|| format!("{n} input channels, fewer than `min_inputs` = {least}"))
            };
            let why = match not_standard(conv).or_else(few).or_else(|| unsuitable(conv)) {
                Some(why) => why,
                None => {
                    let made = form(graph, name, conv).map_err(|e| cnn_core::Error::from(e).at(name))?;
                    let input = node.inputs.first().map_or(&[][..], |&i| &shapes[i]);
                    let change = made.compare(name, conv, input)?;
                    if change.cost_ratio < 1.0 {
                        let full = |(part, layer)| (format!("{name}.{part}"), layer);
                        next.splice(name, made.chain.into_iter().map(full).collect())?;
                        replaced.push(change);
                        continue;
                    }
                    format!("{:.2} times the multiply-adds afterwards", change.cost_ratio)
                }
            };
            if named {
                return refuse(name, why);
            }
            left.push(format!("{name} has {why}"));
        }
        if replaced.is_empty() {
            return Err(Error::Nothing(match left.is_empty() {
                true => "the selection holds none".to_string(),
                false => left.join("; "),
            }));
        }
        *graph = next;
        Ok(replaced)
    }
}

impl Form {
    fn compare(&self, name: &str, conv: &Conv2d, input: &[usize]) -> Result<Substitution> {
        let (mut shape, mut macs, mut weights) = (input.to_vec(), 0, 0);
        for (_, layer) in &self.chain {
            macs += layer.cost(&[&shape])?.macs.total();
            weights += layer.downcast_ref::<Conv2d>().map_or(0, |c| c.weight().len() as u64);
            shape = layer.output_shape(&[&shape])?;
        }
        let before = conv.cost(&[input])?.macs.total();
        Ok(Substitution {
            layer: name.to_string(),
            relative_error: self.relative_error,
            cost_ratio: macs as f64 / before as f64,
            macs: [before, macs],
            weights: [conv.weight().len() as u64, weights],
        })
    }
}

/// Fine-tuning after a substitution.
struct FineTune {
    method: &'static str,
    epochs: usize,
    rate: Option<f32>,
}

impl FineTune {
    fn check(&self) -> cnn_core::Result<()> {
        match self.rate {
            Some(rate) if !(rate > 0.0 && rate.is_finite()) => Err(cnn_core::Error::invalid(
                format!("{}: rate", self.method),
                format!("a positive number, got {rate}"),
            )),
            _ => Ok(()),
        }
    }

    /// Substitutes, shows what was replaced, and fine-tunes; on an error the graph stays as it was.
    fn after(
        &self,
        graph: &mut Graph,
        run: &mut Run<'_>,
        substitute: impl FnOnce(&mut Graph) -> Result<Vec<Substitution>>,
    ) -> cnn_core::Result<()> {
        let mut light = graph.clone();
        let changes = substitute(&mut light)?;
        let bar = run.progress.bar(changes.len() as u64, self.method);
        changes.iter().for_each(|change| bar.println(change.to_string()));
        bar.finish_and_clear();
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

/// Checks that a number of the configuration is at least `least`.
fn at_least(method: &str, key: &str, value: usize, least: usize) -> cnn_core::Result<()> {
    match value >= least {
        true => Ok(()),
        false => Err(cnn_core::Error::invalid(
            format!("{method}: {key}"),
            format!("at least {least}, got {value}"),
        )),
    }
}
