//! Cross-layer equalization: channels of neighbouring layers get ranges of one size (Nagel et al. 2019, "Data-Free Quantization Through
//! Weight Equalization and Bias Correction", section 4.1).

use cnn_core::layers::{Activation, ActivationFn, AvgPool2d, Conv2d, Dropout, Identity, MaxPool2d};
use cnn_core::{Graph, Param, Result, Selection, Tensor};

/// Rounds over all pairs; one pair's change moves the ranges of the next.
const ROUNDS: usize = 10;

/// For each pair of selected convolutions with nothing between them that `f(s x) = s f(x)` would not hold for, divides channel `i` of the first
/// by `s_i = sqrt(r1_i r2_i) / r2_i` and multiplies it in the second, with `r` the largest size of the channel's weights there (eq. 11).
/// The network computes the same. Weights under constraints that scaling would break stay.
pub fn equalize(graph: &mut Graph, layers: &Selection) -> Result<()> {
    let pairs = pairs(graph, layers);
    graph.edit(|graph| {
        for (first, second) in pairs.iter().cycle().take(ROUNDS * pairs.len()) {
            let (Some(a), Some(b)) = (graph.layer::<Conv2d>(first)?, graph.layer::<Conv2d>(second)?) else {
                continue;
            };
            let factors: Vec<f32> =
                ranges(a.weight().value(), 0).zip(reading_ranges(b)).map(|(r1, r2)| factor(r1, r2)).collect();
            let (mut a, mut b) = (a.clone(), b.clone());
            let inverse = |c: usize| 1.0 / factors[c];
            let mut kept = scale(a.weight_mut(), |w| scaled_rows(w, inverse));
            if a.bias().is_some() {
                kept &= scale(a.bias_or_zeros(), |bias| scaled_rows(bias, inverse));
            }
            let depthwise = b.options.groups > 1;
            kept &= scale(b.weight_mut(), |w| match depthwise {
                true => scaled_rows(w, |c| factors[c]),
                false => scaled_columns(w, &factors),
            });
            if kept {
                graph.replace(first, Box::new(a))?;
                graph.replace(second, Box::new(b))?;
            }
        }
        Ok(())
    })
}

fn factor(r1: f32, r2: f32) -> f32 {
    let factor = (r1 / r2).sqrt();
    if factor.is_normal() { factor } else { 1.0 }
}

/// Names of convolutions, the second reading the first through layers that scale along.
fn pairs(graph: &Graph, layers: &Selection) -> Vec<(String, String)> {
    let nodes = graph.nodes();
    let readers = |at: usize| nodes.iter().filter(|n| n.inputs.contains(&at)).count();
    let mut pairs = Vec::new();
    for node in nodes.iter().filter(|n| layers.matches(&n.name)) {
        let Some(second) = node.layer().downcast_ref::<Conv2d>() else { continue };
        let depthwise =
            second.options.groups == second.weight().shape()[0] && second.weight().shape()[1] == 1;
        if second.options.groups > 1 && !depthwise {
            continue;
        }
        let mut at = node.inputs[0];
        while readers(at) == 1 && at != graph.output() {
            let layer = nodes[at].layer();
            let homogeneous = layer
                .downcast_ref::<Activation>()
                .is_some_and(|a| matches!(a.function, ActivationFn::Relu | ActivationFn::LeakyRelu(_)));
            let passes = homogeneous
                || layer.is::<MaxPool2d>()
                || layer.is::<AvgPool2d>()
                || layer.is::<Identity>()
                || layer.is::<Dropout>();
            if layer.is::<Conv2d>() && layers.matches(&nodes[at].name) {
                pairs.push((nodes[at].name.clone(), node.name.clone()));
            }
            match nodes[at].inputs.as_slice() {
                &[input] if passes => at = input,
                _ => break,
            }
        }
    }
    pairs
}

/// The largest size of the weights at each index of an axis.
fn ranges(w: &Tensor, axis: usize) -> impl Iterator<Item = f32> {
    w.axis_iter(ndarray::Axis(axis)).map(|part| part.iter().fold(0f32, |most, w| most.max(w.abs())))
}

/// Those of the channels that a convolution reads.
fn reading_ranges(conv: &Conv2d) -> Box<dyn Iterator<Item = f32> + '_> {
    let axis = if conv.options.groups > 1 { 0 } else { 1 };
    Box::new(ranges(conv.weight().value(), axis))
}

fn scaled_rows(w: &Tensor, factor: impl Fn(usize) -> f32) -> Tensor {
    let mut w = w.clone();
    w.outer_iter_mut().enumerate().for_each(|(c, mut row)| row.mapv_inplace(|w| w * factor(c)));
    w
}

fn scaled_columns(w: &Tensor, factors: &[f32]) -> Tensor {
    let mut w = w.clone();
    let columns = w.axis_iter_mut(ndarray::Axis(1)).zip(factors);
    columns.for_each(|(mut column, &factor)| column.mapv_inplace(|w| w * factor));
    w
}

/// Scales a parameter; false if its constraints do not let the values follow.
fn scale(param: &mut Param, scaled: impl Fn(&Tensor) -> Tensor) -> bool {
    let (wanted, base) = (scaled(param.value()), scaled(param.base()));
    param.set_base(base);
    *param.value() == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::layers::ConvOptions;
    use cnn_core::tensor::tensor;
    use cnn_core::testing::difference;

    fn numbers(shape: &[usize], seed: usize) -> Tensor {
        let count = shape.iter().product::<usize>();
        let value = |i: usize| (((i + seed) * 31 % 97) as f32 - 48.0) / 97.0;
        tensor(shape, (0..count).map(value).collect()).unwrap()
    }

    #[test]
    fn ranges_become_equal_and_the_network_stays() {
        let mut graph = Graph::new(&[3, 8, 8]);
        let options = ConvOptions::default().pad(1);
        let mut w = numbers(&[6, 3, 3, 3], 3);
        w.outer_iter_mut().enumerate().for_each(|(c, mut row)| row.mapv_inplace(|w| w * 3f32.powi(c as i32)));
        graph.push("a", Conv2d::new(w, Some(numbers(&[6], 1)), options).unwrap()).unwrap();
        graph.push("relu", Activation::relu()).unwrap();
        graph.push("deep", Conv2d::new(numbers(&[6, 1, 3, 3], 9), None, options.groups(6)).unwrap()).unwrap();
        graph.push("leaky", Activation { function: ActivationFn::LeakyRelu(0.1) }).unwrap();
        graph.push("b", Conv2d::new(numbers(&[4, 6, 3, 3], 5), None, options).unwrap()).unwrap();
        graph.push("silu", Activation { function: ActivationFn::Silu }).unwrap();
        graph
            .push("c", Conv2d::new(numbers(&[4, 4, 1, 1], 5), None, ConvOptions::default()).unwrap())
            .unwrap();
        let x = numbers(&[2, 3, 8, 8], 11);
        let (before, last) =
            (graph.infer(&x).unwrap(), graph.layer::<Conv2d>("c").unwrap().unwrap().weight().value().clone());
        equalize(&mut graph, &Selection::default()).unwrap();
        assert!(difference(&graph.infer(&x).unwrap(), &before) < 1e-5);
        let weight = |name: &str| graph.layer::<Conv2d>(name).unwrap().unwrap().weight().value().clone();
        for (r1, r2) in ranges(&weight("a"), 0).zip(ranges(&weight("deep"), 0)) {
            assert!((r1 / r2 - 1.0).abs() < 0.05, "{r1} and {r2}");
        }
        for (r1, r2) in ranges(&weight("deep"), 0).zip(ranges(&weight("b"), 1)) {
            assert!((r1 / r2 - 1.0).abs() < 0.05, "{r1} and {r2}");
        }
        assert_eq!(weight("c"), last, "nothing passes a SiLU");
    }
}
