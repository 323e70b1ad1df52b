//! From a network and rules to factors in the layers' places; the three methods differ in their rules only.

use crate::LowRankError;
use crate::kernel::{Kernel, decompose};
use crate::matrix::truncate;
use crate::rank::Rank;
use crate::report::{LayerReport, Outcome, Report};
use crate::tucker2::tucker2_macs;
use cnn_core::compress::Selection;
use cnn_core::layers::{Conv2d, ConvOptions, Linear};
use cnn_core::tensor::{Tensor, tensor};
use cnn_core::{Graph, Layer, Param, Result, Run};
use nalgebra::DMatrix;

/// Nodes for the place of one, with their names.
type Chain = Vec<(String, Box<dyn Layer>)>;

/// What to do with convolutions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvRule {
    /// Ranks of the input and output mode.
    pub ranks: [Rank; 2],
    /// Sweeps of orthogonal iteration.
    pub sweeps: usize,
}

/// What to do with which layers.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    pub layers: &'a Selection,
    pub linear: Option<Rank>,
    pub conv: Option<ConvRule>,
}

/// How to train afterwards; `None` is what the run says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FineTune {
    pub epochs: Option<usize>,
    pub rate: Option<f32>,
}

impl FineTune {
    pub fn check(self) -> Result<(), LowRankError> {
        match self.rate {
            Some(rate) if !(rate.is_finite() && rate > 0.0) => Err(LowRankError::Rate(rate)),
            _ => Ok(()),
        }
    }
}

impl Rules<'_> {
    /// What would be done, without doing it.
    pub fn report(&self, graph: &Graph) -> Result<Report> {
        Ok(Report { layers: self.plan(graph)?.into_iter().map(|(report, _)| report).collect() })
    }

    /// Puts factors in the places of the layers that gain, without training.
    pub fn factorize(&self, graph: &mut Graph) -> Result<Report> {
        let mut report = Report::default();
        let mut next = graph.clone();
        for (layer, chain) in self.plan(graph)? {
            if let Some(chain) = chain {
                next.splice(&layer.name, chain)?;
            }
            report.layers.push(layer);
        }
        *graph = next;
        Ok(report)
    }

    /// Factorizes and trains; on an error the graph is as it was. Without a replaced layer there is nothing
    /// to recover, and no training.
    pub fn apply(&self, graph: &mut Graph, run: &mut Run<'_>, fine_tune: FineTune) -> Result<()> {
        let mut next = graph.clone();
        let report = self.factorize(&mut next)?;
        let mut settings = run.settings.clone();
        settings.epochs = fine_tune.epochs.unwrap_or(settings.epochs);
        if let Some(rate) = fine_tune.rate {
            settings.optimizer = settings.optimizer.with_rate(rate);
        }
        if report.replaced() > 0 && settings.epochs > 0 {
            run.fine_tune(&mut next, &settings)?;
        }
        *graph = next;
        Ok(())
    }

    fn plan(&self, graph: &Graph) -> Result<Vec<(LayerReport, Option<Chain>)>> {
        self.layers.check(graph)?;
        let shapes = graph.shapes(1)?;
        let mut plan = Vec::new();
        for node in graph.nodes().iter().filter(|n| self.layers.matches(&n.name)) {
            if let (Some(linear), Some(rank)) = (node.layer().downcast_ref::<Linear>(), self.linear) {
                refuse_constrained(&node.name, linear)?;
                plan.push(plan_linear(&node.name, linear, rank)?);
            }
            if let (Some(conv), Some(rule)) = (node.layer().downcast_ref::<Conv2d>(), self.conv) {
                if let Some(why) = unsuited(conv) {
                    plan.push((left(&node.name, why), None));
                    continue;
                }
                refuse_constrained(&node.name, conv)?;
                plan.push(plan_conv(&node.name, conv, &shapes[node.inputs[0]], rule)?);
            }
        }
        match plan.is_empty() {
            true => Err(LowRankError::NoLayer { wanted: self.wanted() }.into()),
            false => Ok(plan),
        }
    }

    fn wanted(&self) -> &'static str {
        match (self.linear, self.conv) {
            (Some(_), None) => "a linear layer",
            (None, Some(_)) => "a convolution",
            _ => "a linear layer or a convolution",
        }
    }
}

/// Why Tucker-2 does not suit a convolution.
fn unsuited(conv: &Conv2d) -> Option<&'static str> {
    match (conv.options.groups, conv.kernel()) {
        (2.., _) => Some("it is grouped: there is little left between the channels to factorize"),
        (_, [1, 1]) => Some("a 1 x 1 kernel is a matrix already"),
        _ => None,
    }
}

fn left(name: &str, why: &'static str) -> LayerReport {
    let (ranks, full) = (Vec::new(), Vec::new());
    LayerReport {
        name: name.to_string(),
        ranks,
        full,
        energy: 1.0,
        weights: [0; 2],
        macs: [0; 2],
        outcome: Outcome::Unsuited(why),
    }
}

fn refuse_constrained(name: &str, layer: &dyn Layer) -> Result<(), LowRankError> {
    let constraint = layer.params().into_iter().flat_map(|p| p.constraints()).next();
    match constraint {
        Some(c) => {
            Err(LowRankError::Constrained { node: name.to_string(), constraint: c.kind().to_string() })
        }
        None => Ok(()),
    }
}

/// The weights as a matrix of `rows`, in `f64`.
fn matrix(name: &str, weight: &Param, rows: usize) -> Result<DMatrix<f64>, LowRankError> {
    let values = weight.value();
    if values.iter().any(|v| !v.is_finite()) {
        return Err(LowRankError::NotFinite { node: name.to_string() });
    }
    Ok(DMatrix::from_row_iterator(rows, values.len() / rows.max(1), values.iter().map(|&v| f64::from(v))))
}

fn to_tensor(m: &DMatrix<f64>, shape: &[usize]) -> Result<Tensor> {
    // a transpose in column-major order is the matrix in row-major order
    tensor(shape, m.transpose().iter().map(|&v| v as f32).collect())
}

/// `y = x W^T + b` becomes `name.u` (`r` outputs, no bias) and `name.v` (with the bias).
fn plan_linear(name: &str, linear: &Linear, rank: Rank) -> Result<(LayerReport, Option<Chain>)> {
    let (outputs, inputs) = (linear.outputs(), linear.inputs());
    let w = matrix(name, linear.weight(), outputs)?;
    let factors = truncate(&w, rank).ok_or_else(|| LowRankError::NoConvergence { node: name.to_string() })?;
    let r = factors.first.nrows();
    let weights = [(outputs * inputs) as u64, (r * (inputs + outputs)) as u64];
    let names = [format!("{name}.u"), format!("{name}.v")];
    let gains = weights[1] < weights[0];
    let report = LayerReport {
        name: name.to_string(),
        ranks: vec![r],
        full: vec![outputs.min(inputs)],
        energy: factors.energy,
        weights,
        macs: weights,
        outcome: if gains { Outcome::Replaced(names.to_vec()) } else { Outcome::NoGain },
    };
    if !gains {
        return Ok((report, None));
    }
    let [first, second] = names;
    let bias = linear.bias().map(|b| b.value().clone());
    let chain: Chain = vec![
        (first, Box::new(Linear::new(to_tensor(&factors.first, &[r, inputs])?, None)?)),
        (second, Box::new(Linear::new(to_tensor(&factors.second, &[outputs, r])?, bias)?)),
    ];
    Ok((report, Some(chain)))
}

/// The convolution becomes `name.in` (1 x 1), `name.core` (the window, with stride, padding and dilation) and
/// `name.out` (1 x 1, with the bias). Padding with zeros before the core is the same as before the first,
/// which has no bias.
fn plan_conv(
    name: &str,
    conv: &Conv2d,
    input: &[usize],
    rule: ConvRule,
) -> Result<(LayerReport, Option<Chain>)> {
    let (m, c, [kh, kw]) = (conv.filters(), conv.channels_in(), conv.kernel());
    let kernel = Kernel { unfolded: matrix(name, conv.weight(), m)?, taps: kh * kw };
    let tucker = decompose(&kernel, rule.ranks, rule.sweeps)
        .ok_or_else(|| LowRankError::NoConvergence { node: name.to_string() })?;
    let (r3, r4) = (tucker.core.channels(), tucker.core.unfolded.nrows());
    let geometry = conv.geometry(input)?;
    let factor = |u: &Option<DMatrix<f64>>| u.as_ref().map_or(0, |u| u.len());
    let after = factor(&tucker.input) + r3 * r4 * kh * kw + factor(&tucker.output);
    let weights = [(m * c * kh * kw) as u64, after as u64];
    let macs = [geometry.macs(), tucker2_macs(&geometry, [r3, r4])];
    let gains = weights[1] < weights[0] && macs[1] < macs[0];

    let mut chain: Chain = Vec::new();
    let bias = conv.bias().map(|b| b.value().clone());
    if let Some(u3) = &tucker.input {
        let weight = to_tensor(&u3.transpose(), &[r3, c, 1, 1])?;
        chain.push((format!("{name}.in"), Box::new(Conv2d::new(weight, None, ConvOptions::default())?)));
    }
    let core = to_tensor(&tucker.core.unfolded, &[r4, r3, kh, kw])?;
    let core_bias = if tucker.output.is_none() { bias.clone() } else { None };
    chain.push((format!("{name}.core"), Box::new(Conv2d::new(core, core_bias, conv.options)?)));
    if let Some(u4) = &tucker.output {
        let weight = to_tensor(u4, &[m, r4, 1, 1])?;
        chain.push((format!("{name}.out"), Box::new(Conv2d::new(weight, bias, ConvOptions::default())?)));
    }
    let names = chain.iter().map(|(name, _)| name.clone()).collect();
    let report = LayerReport {
        name: name.to_string(),
        ranks: vec![r3, r4],
        full: vec![c, m],
        energy: tucker.energy,
        weights,
        macs,
        outcome: if gains { Outcome::Replaced(names) } else { Outcome::NoGain },
    };
    Ok((report, gains.then_some(chain)))
}
