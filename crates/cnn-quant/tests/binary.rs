//! `quant.binary`: packed layers against floats, what is packed is what was trained, and what cannot be is refused.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::data::{MemoryDataset, batch};
use cnn_core::layers::{Activation, BatchNorm, Conv2d, ConvOptions, Flatten, Linear};
use cnn_core::model_file::{deploy_bytes, from_bytes, from_bytes_limited, load_checkpoint, save_checkpoint};
use cnn_core::tensor::{tensor, zeros};
use cnn_core::testing::{check_layer, difference, strategies, stripes};
use cnn_core::train::{TrainSettings, evaluate};
use cnn_core::{Compressor, Graph, Layer, Registry, Run, Tensor};
use cnn_quant::{
    BinaryActivation, BinaryActivations, BinaryQuantizer, BinaryWeights, CodebookConv2d, CodebookLinear,
    XnorConv2d, XnorLinear, XnorWeights,
};
use proptest::prelude::*;
use serde_json::json;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_quant::register(&mut registry);
    registry
}

fn numbers(shape: &[usize], scale: f32) -> Tensor {
    let count = shape.iter().product::<usize>();
    tensor(shape, (0..count).map(|i| scale * ((i * 31 % 97) as f32 - 48.0) / 97.0).collect()).unwrap()
}

/// Two inner layers between a convolution and a linear layer.
fn network() -> Graph {
    let conv = |m, c| Conv2d::new(numbers(&[m, c, 3, 3], 0.5), None, ConvOptions::default().pad(1)).unwrap();
    let mut graph = Graph::new(&[1, 8, 8]);
    graph.push("first", conv(6, 1)).unwrap();
    graph.push("first.norm", BatchNorm::new(6)).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.push("inner", conv(8, 6)).unwrap();
    graph.push("inner.norm", BatchNorm::new(8)).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(numbers(&[20, 512], 0.1), Some(numbers(&[20], 0.1))).unwrap()).unwrap();
    graph.push("last", Linear::new(numbers(&[4, 20], 0.5), Some(zeros(&[4]))).unwrap()).unwrap();
    graph
}

fn apply(method: &BinaryQuantizer, graph: &mut Graph, data: &MemoryDataset) -> cnn_core::Result<()> {
    let settings = TrainSettings { batch: 16, ..TrainSettings::default() };
    method.apply(graph, &mut Run::new(data, data, settings, &registry()))
}

const ALL: [(BinaryWeights, BinaryActivations); 6] = [
    (BinaryWeights::Bwn, BinaryActivations::Float),
    (BinaryWeights::BinaryConnect, BinaryActivations::Float),
    (BinaryWeights::Twn, BinaryActivations::Float),
    (BinaryWeights::Ttq, BinaryActivations::Float),
    (BinaryWeights::Bwn, BinaryActivations::Sign),
    (BinaryWeights::BinaryConnect, BinaryActivations::Sign),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The convolution of signs in floats is exact: sums of ones.
    #[test]
    fn packed_layers_are_the_convolution_of_signs(
        (groups, w, b, t, x) in (1usize..3, 1usize..70, 1usize..5, 1usize..4).prop_flat_map(|(groups, c, m, k)| {
            let w = strategies::tensor(&[m * groups, c, k, k]);
            let (c, m) = (c * groups, m * groups);
            (Just(groups), w, strategies::tensor(&[m]), strategies::tensor(&[c]), strategies::tensor(&[2, c, 6, 5]))
        }),
        pad in 0usize..2,
    ) {
        let t: Vec<f32> = t.iter().copied().collect();
        let signs = |alpha: f32| w.mapv(|w| if w < 0.0 { -alpha } else { alpha });
        let options = ConvOptions::default().pad(pad).groups(groups);
        let of_x = BinaryActivation::new(t.clone()).unwrap().infer(&[&x]).unwrap();
        let sums = Conv2d::new(signs(1.0), None, options).unwrap().infer(&[&of_x]).unwrap();
        let mut wanted = sums;
        for (mut channel, b) in wanted.axis_iter_mut(ndarray::Axis(1)).zip(&b) {
            channel.mapv_inplace(|sum| 0.25 * sum + b);
        }
        let weights = XnorWeights::new(&signs(0.25), t, Some(&b)).unwrap();
        let packed = XnorConv2d::new(weights, options).unwrap();
        prop_assert_eq!(packed.infer(&[&x]).unwrap(), wanted);
        if groups == 1 {
            check_layer(&packed, &x, &registry()).unwrap();
        }
    }

    #[test]
    fn packed_linear_layers(w in strategies::tensor(&[7, 90]), t in strategies::tensor(&[90]), x in strategies::tensor(&[3, 90])) {
        let t: Vec<f32> = t.iter().copied().collect();
        let w = w.mapv(|w| if w < 0.0 { -0.5 } else { 0.5 });
        let of_x = BinaryActivation::new(t.clone()).unwrap().infer(&[&x]).unwrap();
        let wanted = Linear::new(w.clone(), None).unwrap().infer(&[&of_x]).unwrap();
        let packed = XnorLinear::new(XnorWeights::new(&w, t, None).unwrap()).unwrap();
        prop_assert_eq!(packed.infer(&[&x]).unwrap(), wanted);
        check_layer(&packed, &x, &registry()).unwrap();
    }
}

#[test]
fn what_is_packed_is_what_was_trained() {
    let data = stripes(48, [1, 8, 8], 4, 0).unwrap();
    let images = batch(&data, &[0, 1, 2, 3, 4]).unwrap().0;
    for (weights, activations) in ALL {
        let first_stage = usize::from(activations == BinaryActivations::Sign);
        let mut graph = network();
        let method = BinaryQuantizer { weights, activations, first_stage, epochs: 2, ..Default::default() };
        apply(&method, &mut graph, &data).unwrap();
        let trained = graph.infer(&images).unwrap();
        method.pack(&mut graph).unwrap();
        let packed = graph.infer(&images).unwrap();
        let macs = graph.cost().unwrap().macs;
        match activations {
            // the same weights in the same kernels
            BinaryActivations::Float => {
                assert_eq!(packed, trained);
                let conv = graph.layer::<CodebookConv2d>("inner").unwrap().unwrap().weights();
                assert!(conv.alphabet() <= 3 && graph.layer::<CodebookLinear>("fc").unwrap().is_some());
            }
            BinaryActivations::Sign => {
                assert!(difference(&packed, &trained) < 1e-4, "{weights:?}");
                assert_eq!(macs.binary, 8 * 6 * 9 * 64 + 20 * 512);
                assert!(graph.layer::<XnorConv2d>("inner").unwrap().is_some());
                assert!(graph.layer::<XnorLinear>("fc").unwrap().is_some());
            }
        }
        assert_eq!(macs.float > 0, graph.layer::<Conv2d>("first").unwrap().is_some(), "the ends stay");
        let bytes = deploy_bytes(&graph, false).unwrap();
        // 10,672 weights of one bit or two, 134 floats at the ends, and 700 of scales, thresholds and normalizations
        assert!(bytes.len() < 8_000, "{weights:?}: {}", bytes.len());
        let back = from_bytes(&bytes, &registry()).unwrap();
        assert_eq!(back.infer(&images).unwrap(), packed);
    }
}

#[test]
fn training_makes_up_for_signs() {
    let data = stripes(64, [1, 8, 8], 4, 0).unwrap();
    for (weights, activations) in ALL {
        let loss = |epochs| {
            let mut graph = network();
            // no normalization follows the linear layer
            let skip = if weights == BinaryWeights::BinaryConnect { vec!["fc".into()] } else { Vec::new() };
            let layers = cnn_core::Selection { only: Vec::new(), skip };
            let method = BinaryQuantizer { weights, activations, epochs, layers, ..Default::default() };
            apply(&method, &mut graph, &data).unwrap_or_else(|e| panic!("{weights:?} {activations:?}: {e}"));
            evaluate(&graph, &data).unwrap().loss
        };
        let (before, after) = (loss(0), loss(25));
        assert!(after < 0.7 * before, "{weights:?} {activations:?}: {before} became {after}");
    }
}

#[test]
fn a_checkpoint_keeps_constraints_and_thresholds() {
    let data = stripes(32, [1, 8, 8], 4, 0).unwrap();
    for (weights, activations) in ALL {
        let mut graph = network();
        let method = BinaryQuantizer { weights, activations, ends: true, epochs: 1, ..Default::default() };
        apply(&method, &mut graph, &data).unwrap();
        let name = format!("cnn-binary-{}-{weights:?}-{activations:?}.checkpoint", std::process::id());
        let path = std::env::temp_dir().join(name);
        save_checkpoint(&graph, &path).unwrap();
        let mut back = load_checkpoint(&path, &registry()).unwrap();
        std::fs::remove_file(&path).unwrap();
        method.pack(&mut graph).unwrap();
        method.pack(&mut back).unwrap();
        assert_eq!(deploy_bytes(&back, true).unwrap(), deploy_bytes(&graph, true).unwrap());
        assert!(graph.layer::<Conv2d>("first").unwrap().is_none());
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let registry = registry();
    let build = |config| registry.build_method("quant.binary", config).err().map(|e| e.to_string());
    assert!(build(json!({ "calibration": 0 })).unwrap().contains("calibration"));
    assert!(build(json!({ "rate": f32::NAN })).is_some());
    assert!(build(json!({ "weights": "half" })).is_some());

    let data = stripes(16, [1, 8, 8], 4, 0).unwrap();
    let mut graph = network();
    let (weights, activations) = (BinaryWeights::Twn, BinaryActivations::Sign);
    let three = BinaryQuantizer { weights, activations, ..Default::default() };
    let three = apply(&three, &mut graph, &data).unwrap_err().to_string();
    assert!(three.contains("`activations` of `quant.binary` is sign") && three.contains("bwn"), "{three}");
    let staged = BinaryQuantizer { first_stage: 2, ..Default::default() };
    assert!(apply(&staged, &mut graph, &data).unwrap_err().to_string().contains("first_stage"));
    let only = cnn_core::Selection { only: vec!["first".into(), "last".into()], skip: Vec::new() };
    let nothing = BinaryQuantizer { layers: only, ..Default::default() };
    assert!(apply(&nothing, &mut graph, &data).unwrap_err().to_string().contains("found no"));
    let once = BinaryQuantizer { epochs: 0, ..Default::default() };
    apply(&once, &mut graph, &data).unwrap();
    assert!(apply(&once, &mut graph, &data).unwrap_err().to_string().contains("already carries"));

    let two_sizes = tensor(&[1, 2], vec![1.0, -2.0]).unwrap();
    assert!(XnorWeights::new(&two_sizes, vec![0.0; 2], None).is_err());
    assert!(XnorWeights::new(&tensor(&[1, 1], vec![f32::NAN]).unwrap(), vec![0.0], None).is_err());
    let one = XnorWeights::new(&tensor(&[1, 2], vec![1.0, -1.0]).unwrap(), vec![0.0; 3], None).unwrap();
    assert!(XnorLinear::new(one.clone()).is_err() && XnorConv2d::new(one, ConvOptions::default()).is_err());
}

#[test]
fn damaged_bytes_give_errors() {
    let data = stripes(8, [1, 8, 8], 4, 0).unwrap();
    let mut graph = network();
    let method = BinaryQuantizer { activations: BinaryActivations::Sign, epochs: 0, ..Default::default() };
    apply(&method, &mut graph, &data).unwrap();
    method.pack(&mut graph).unwrap();
    let good = deploy_bytes(&graph, false).unwrap();
    let body = good.len() - 4;
    let images = batch(&data, &[0]).unwrap().0;
    for at in (5..body).step_by(3) {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = good[..body].to_vec();
            bytes[at] ^= flip;
            let sum = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&sum.to_le_bytes());
            if let Ok(graph) = from_bytes_limited(&bytes, &registry(), 100_000) {
                let _ = graph.infer(&images);
            }
        }
    }
    for len in 0..good.len() {
        assert!(from_bytes_limited(&good[..len], &registry(), 100_000).is_err());
    }
}
