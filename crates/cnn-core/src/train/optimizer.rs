//! Optimizers: from gradients to new base values.

use crate::graph::Graph;
use crate::param::{Param, Role};
use crate::tensor::{Tensor, zeros};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Elements a thread works on at a time.
const CHUNK: usize = 1 << 14;

/// An update rule with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Stochastic gradient descent: `v <- mu v + g`, `w <- w - rate v`, or `w <- w - rate (g + mu v)` with Nesterov's
    /// momentum; `g` includes `weight_decay w`.
    Sgd {
        /// Learning rate.
        rate: f32,
        /// `mu`.
        momentum: f32,
        /// Look ahead.
        nesterov: bool,
        /// L2 coefficient.
        weight_decay: f32,
    },
    /// Adam (Kingma & Ba 2015), or AdamW (Loshchilov & Hutter 2019) when `decoupled`: the decay `rate weight_decay w`
    /// then acts on the weights, not through the moments.
    Adam {
        /// Learning rate.
        rate: f32,
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        epsilon: f32,
        /// Decay coefficient.
        weight_decay: f32,
        /// AdamW.
        decoupled: bool,
    },
}

impl Optimizer {
    /// SGD with momentum 0.9 and weight decay.
    pub fn sgd(rate: f32, weight_decay: f32) -> Optimizer {
        Optimizer::Sgd { rate, momentum: 0.9, nesterov: false, weight_decay }
    }

    /// AdamW with the usual moments.
    pub fn adamw(rate: f32, weight_decay: f32) -> Optimizer {
        Optimizer::Adam { rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay, decoupled: true }
    }

    /// The base learning rate.
    pub fn rate(&self) -> f32 {
        match self {
            Optimizer::Sgd { rate, .. } | Optimizer::Adam { rate, .. } => *rate,
        }
    }

    /// The same rule at another base learning rate.
    pub fn with_rate(mut self, new: f32) -> Optimizer {
        match &mut self {
            Optimizer::Sgd { rate, .. } | Optimizer::Adam { rate, .. } => *rate = new,
        }
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a negative or non-finite number, or a moment outside `[0, 1)`.
    pub fn check(&self) -> Result<()> {
        let (nonnegative, moments) = match *self {
            Optimizer::Sgd { rate, momentum, weight_decay, .. } => {
                ([rate, weight_decay, 0.0], [momentum, 0.0])
            }
            Optimizer::Adam { rate, beta1, beta2, epsilon, weight_decay, .. } => {
                ([rate, weight_decay, epsilon], [beta1, beta2])
            }
        };
        if matches!(self, Optimizer::Adam { epsilon: 0.0, .. }) {
            return Err(Error::invalid(
                "optimizer",
                "epsilon must be positive: a gradient of zero would give 0 / 0",
            ));
        }
        if nonnegative.iter().any(|v| !v.is_finite() || *v < 0.0) {
            return Err(Error::invalid("optimizer", "rates and decays must be finite and not negative"));
        }
        match moments.iter().all(|m| (0.0..1.0).contains(m)) {
            true => Ok(()),
            false => Err(Error::invalid("optimizer", "momentum and betas must be in [0, 1)")),
        }
    }

    /// Moves every parameter of the graph, constraints' own parameters included, once. `factor` comes from the schedule.
    pub fn step(&self, graph: &mut Graph, factor: f32) {
        for_each_param(graph, |p| p.update(&mut |at, w, g, slots| self.update(at, factor, w, g, slots)));
    }

    fn update(
        &self,
        (role, step): (Role, u64),
        factor: f32,
        w: &mut Tensor,
        g: &Tensor,
        slots: &mut Vec<Tensor>,
    ) {
        let wanted = match self {
            Optimizer::Sgd { momentum: 0.0, .. } => 0,
            Optimizer::Sgd { .. } => 1,
            Optimizer::Adam { .. } => 2,
        };
        let first = slots.len() < wanted;
        slots.resize_with(wanted, || zeros(w.shape()));
        let (Some(w), Some(g)) = (w.as_slice_mut(), g.as_slice()) else {
            unreachable!("parameters and gradients are kept in standard layout")
        };
        let mut slots: Vec<&mut [f32]> = slots.iter_mut().filter_map(|s| s.as_slice_mut()).collect();
        let decays = role != Role::Constraint;
        match *self {
            Optimizer::Sgd { rate, momentum, nesterov, weight_decay } => {
                let (rate, decay) = (rate * factor, if decays { weight_decay } else { 0.0 });
                let Some(v) = slots.first_mut() else {
                    return w.iter_mut().zip(g).for_each(|(w, g)| *w -= rate * (g + decay * *w));
                };
                let keep = if first { 0.0 } else { momentum };
                let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(v.par_chunks_mut(CHUNK));
                chunks.for_each(|((w, g), v)| {
                    for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
                        let g = g + decay * *w;
                        *v = keep * *v + g;
                        *w -= rate * if nesterov { g + momentum * *v } else { *v };
                    }
                });
            }
            Optimizer::Adam { rate, beta1, beta2, epsilon, weight_decay, decoupled } => {
                let rate = rate * factor;
                let decay = if decays { weight_decay } else { 0.0 };
                let (l2, shrink) = if decoupled { (0.0, 1.0 - rate * decay) } else { (decay, 1.0) };
                let power = i32::try_from(step).unwrap_or(i32::MAX);
                let correct1 = 1.0 - (beta1 as f64).powi(power) as f32;
                let correct2 = 1.0 - (beta2 as f64).powi(power) as f32;
                let [m, v] = &mut slots[..] else { unreachable!("Adam has two moments") };
                let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
                let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(moments);
                chunks.for_each(|((w, g), (m, v))| {
                    for ((w, g), (m, v)) in w.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                        let g = g + l2 * *w;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        let step = (*m / correct1) / ((*v / correct2).sqrt() + epsilon);
                        *w = shrink * *w - rate * step;
                    }
                });
            }
        }
    }
}

/// Scales all gradients so that their joint L2 norm is at most `most` (Pascanu et al. 2013); those of constraints' own
/// parameters count. Returns the norm before.
pub(super) fn clip_gradients(graph: &mut Graph, most: f32) -> f64 {
    let mut square = 0f64;
    for_each_param(graph, |p| square += p.grad_square());
    let norm = square.sqrt();
    if norm > f64::from(most) {
        let factor = (f64::from(most) / norm) as f32;
        for_each_param(graph, |p| p.scale_grad(factor));
    }
    norm
}

/// Visits every trainable parameter of the graph.
pub(super) fn for_each_param(graph: &mut Graph, mut visit: impl FnMut(&mut Param)) {
    for node in graph.nodes_mut().iter_mut().filter(|n| !n.layer().params().is_empty()) {
        if let Some(layer) = node.layer_mut().trainable() {
            layer.params_mut().into_iter().for_each(&mut visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::tensor;

    /// Values after three steps from `[1, -2]` with gradients equal to the weights.
    fn run(optimizer: Optimizer) -> Vec<f32> {
        let mut p = Param::new(Role::Weight, tensor(&[2], vec![1.0, -2.0]).unwrap());
        for _ in 0..3 {
            let g = p.base().clone();
            p.write_grad(|out| out.copy_from_slice(g.as_slice().unwrap()));
            p.update(&mut |at, w, g, s| optimizer.update(at, 1.0, w, g, s));
            p.zero_grad();
        }
        p.base().iter().copied().collect()
    }

    #[test]
    fn sgd_by_hand() {
        // v1 = 1.01, w1 = 0.899; v2 = 0.909 + 0.90799 = 1.81699, w2 = 0.717301; v3 = 1.635291 + 0.72447401, w3
        let w = run(Optimizer::sgd(0.1, 0.01));
        let w3 = 0.717301 - 0.1 * (0.9 * 1.81699 + 1.01 * 0.717301);
        assert!((w[0] - w3).abs() < 1e-6 && (w[1] + 2.0 * w3).abs() < 2e-6, "{w:?}");
    }

    #[test]
    fn adam_moves_by_the_rate_at_first() {
        let adam = Optimizer::Adam {
            rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
        };
        let w = run(adam);
        assert!((w[0] - 0.7).abs() < 5e-3 && (w[1] + 1.7).abs() < 5e-3, "{w:?}");
    }

    #[test]
    fn bad_settings_are_refused() {
        assert!(Optimizer::sgd(f32::NAN, 0.0).check().is_err());
        assert!(Optimizer::sgd(-1.0, 0.0).check().is_err());
        assert!(
            Optimizer::Sgd { rate: 0.1, momentum: 1.0, nesterov: false, weight_decay: 0.0 }.check().is_err()
        );
    }
}
