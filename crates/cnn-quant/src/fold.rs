//! Batch normalization into the convolution before it: what is quantized then are the weights that the network really has.

use cnn_core::layers::{BatchNorm, Conv2d};
use cnn_core::tensor::tensor;
use cnn_core::{Graph, Result, Selection, Tensor};

/// Folds `y = scale (W x + b) + shift` into `(scale W) x + (scale b + shift)` for each selected convolution that only a batch normalization
/// reads, which goes. Where the weights carry constraints that scaling would break (shared values), both stay.
pub fn fold(graph: &mut Graph, layers: &Selection) -> Result<()> {
    let nodes = graph.nodes();
    let readers = |at: usize| nodes.iter().filter(|n| n.inputs.contains(&at)).count();
    let mut folded: Vec<(String, String, Conv2d)> = Vec::new();
    for node in nodes {
        let Some(norm) = node.layer().downcast_ref::<BatchNorm>() else { continue };
        let &[at] = node.inputs.as_slice() else { continue };
        let Some(conv) = nodes[at].layer().downcast_ref::<Conv2d>() else { continue };
        if readers(at) != 1 || at == graph.output() || !layers.matches(&nodes[at].name) {
            continue;
        }
        if let Some(conv) = scaled(conv, norm)? {
            folded.push((nodes[at].name.clone(), node.name.clone(), conv));
        }
    }
    graph.edit(|graph| {
        for (name, norm, conv) in folded {
            graph.replace(&name, Box::new(conv))?;
            graph.remove(&norm)?;
        }
        Ok(())
    })
}

/// `None` where constraints do not allow it.
fn scaled(conv: &Conv2d, norm: &BatchNorm) -> Result<Option<Conv2d>> {
    let (scale, shift) = norm.scale_shift()?;
    let rows = |weight: &Tensor| {
        let mut weight = weight.clone();
        weight.outer_iter_mut().zip(&scale).for_each(|(mut row, &s)| row.mapv_inplace(|w| w * s));
        weight
    };
    let mut conv = conv.clone();
    let (wanted, base) = (rows(conv.weight().value()), rows(conv.weight().base()));
    conv.weight_mut().set_base(base);
    if *conv.weight().value() != wanted {
        return Ok(None);
    }
    let bias = conv.bias_or_zeros();
    let folded = bias.value().iter().zip(&scale).zip(&shift).map(|((b, scale), shift)| b * scale + shift);
    let wanted = tensor(&[scale.len()], folded.collect())?;
    bias.set_base(wanted.clone());
    Ok((*bias.value() == wanted).then_some(conv))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::layers::{Activation, Add, ConvOptions};
    use cnn_core::testing::difference;
    use ndarray::IxDyn;

    fn numbers(shape: &[usize], seed: usize) -> Tensor {
        let mut at = seed;
        Tensor::from_shape_simple_fn(IxDyn(shape), || {
            at = (at * 31 + 17) % 97;
            at as f32 / 48.5 - 1.0
        })
    }

    fn norm() -> BatchNorm {
        let v = |from: f32| (0..4).map(|i| from + 0.3 * i as f32).collect::<Vec<f32>>();
        BatchNorm::trained(v(-0.4), v(0.1), v(-0.2), v(0.5), 1e-5).unwrap()
    }

    fn conv(bias: bool) -> Conv2d {
        Conv2d::new(numbers(&[4, 4, 3, 3], 5), bias.then(|| numbers(&[4], 3)), ConvOptions::default().pad(1))
            .unwrap()
    }

    #[test]
    fn the_network_computes_the_same() {
        let mut graph = Graph::new(&[4, 5, 5]);
        graph.push("a", conv(true)).unwrap();
        graph.push("a.norm", norm()).unwrap();
        graph.push("relu", Activation::relu()).unwrap();
        graph.push("b", conv(false)).unwrap();
        graph.push("b.norm", norm()).unwrap();
        // read by two
        graph.add("c", conv(false), &["relu"]).unwrap();
        graph.add("c.norm", norm(), &["c"]).unwrap();
        graph.add("sum", Add, &["b.norm", "c.norm"]).unwrap();
        graph.add("again", Add, &["sum", "c"]).unwrap();
        // nothing before it that it could go into
        graph.push("last.norm", norm()).unwrap();
        let x = numbers(&[2, 4, 5, 5], 11);
        let before = graph.infer(&x).unwrap();
        fold(&mut graph, &Selection::default()).unwrap();
        let names: Vec<&str> = graph.nodes().iter().skip(1).map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["a", "relu", "b", "c", "c.norm", "sum", "again", "last.norm"]);
        assert!(difference(&graph.infer(&x).unwrap(), &before) < 1e-6);
    }

    #[test]
    fn what_is_not_selected_and_what_shares_values_stays() {
        let mut graph = Graph::new(&[4, 5, 5]);
        graph.push("a", conv(true)).unwrap();
        graph.push("a.norm", norm()).unwrap();
        graph.push("b", conv(true)).unwrap();
        graph.push("b.norm", norm()).unwrap();
        let indices = ndarray::ArrayD::from_shape_fn(IxDyn(&[4, 4, 3, 3]), |i| (i[1] % 2) as u8);
        let codebook = crate::Codebook::new(indices, &[0.5, -0.25], false, false).unwrap();
        graph.layer_mut::<Conv2d>("b").unwrap().unwrap().weight_mut().constrain(Box::new(codebook));
        let count = graph.nodes().len();
        fold(&mut graph, &Selection { only: vec!["b".into()], skip: vec![] }).unwrap();
        assert_eq!(graph.nodes().len(), count);
    }
}
