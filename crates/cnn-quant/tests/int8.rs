//! `quant.int8` on layers and networks: exact against 64-bit integers, near the floats, composition, errors.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::compress::Chain;
use cnn_core::data::{MemoryDataset, batch};
use cnn_core::layers::{Activation, BatchNorm, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear};
use cnn_core::model_file::{deploy_bytes, from_bytes, from_bytes_limited};
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::latencies;
use cnn_core::tensor::{slice, tensor, zeros};
use cnn_core::testing::{check_layer, lenet5, strategies, stripes};
use cnn_core::train::TrainSettings;
use cnn_core::{Compressor, Graph, Layer, Registry, Run, Tensor};
use cnn_quant::{
    Bits, Conv2dI8, Grid, Int8Quantizer, Int8Range, Int8Weights, KMeansQuantizer, LinearI8, Rounding,
    WeightGrid,
};
use proptest::prelude::*;
use serde_json::json;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_quant::register(&mut registry);
    registry
}

fn weights(w: &Tensor, b: Option<&Tensor>, kind: WeightGrid, input: Grid) -> Int8Weights {
    Int8Weights::new(w, b, &Int8Range::new(w, kind, input)).unwrap()
}

/// The sums of a convolution in 64 bits, straight from the definition.
fn naive(g: &ConvGeometry, x: &[i16], w: &[i16]) -> Vec<i64> {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let mut sums = Vec::new();
    for n in 0..g.n {
        for m in 0..g.m {
            for oy in 0..g.out_h() {
                for ox in 0..g.out_w() {
                    let mut sum = 0i64;
                    for c in 0..cg {
                        for i in 0..g.kernel[0] {
                            for j in 0..g.kernel[1] {
                                let y = (oy * g.stride[0] + i * g.dilation[0]) as i64 - g.pad[0] as i64;
                                let x_at = (ox * g.stride[1] + j * g.dilation[1]) as i64 - g.pad[1] as i64;
                                if y < 0 || x_at < 0 || y >= g.h as i64 || x_at >= g.w as i64 {
                                    continue;
                                }
                                let channel = m / mg * cg + c;
                                let at = ((n * g.c + channel) * g.h + y as usize) * g.w + x_at as usize;
                                let weight = w[((m * cg + c) * g.kernel[0] + i) * g.kernel[1] + j];
                                sum += i64::from(x[at]) * i64::from(weight);
                            }
                        }
                    }
                    sums.push(sum);
                }
            }
        }
    }
    sums
}

fn check_conv(w: &Tensor, b: Option<&Tensor>, x: &Tensor, options: ConvOptions, kind: WeightGrid) {
    let input = Grid::affine(-1.0, 1.0);
    let int8 = weights(w, b, kind, input);
    let layer = Conv2dI8::new(int8.clone(), options).unwrap();
    check_layer(&layer, x, &registry()).unwrap();

    // exact: the same sums in 64 bits, the same last product
    let [m, _, kh, kw] = w.shape() else { panic!("filters") };
    let g = options.geometry(x.shape(), *m, [*kh, *kw]).unwrap();
    let y = layer.infer(&[x]).unwrap();
    let levels: Vec<i16> = x.iter().map(|&x| input.level(x)).collect();
    let pixels = g.out_h() * g.out_w();
    for (at, (sum, &y)) in naive(&g, &levels, int8.levels()).into_iter().zip(slice(&y).unwrap()).enumerate() {
        let channel = at / pixels % m;
        let total = sum + int8.bias().map_or(0, |b| i64::from(b[channel]));
        let expected = total as f32 * (input.step * int8.grids()[channel].step);
        assert_eq!(y.to_bits(), expected.to_bits());
    }

    // near: against the float convolution with the weights on their grid, half an input step for each weight
    let mut on_grid = w.clone();
    for (mut row, grid) in on_grid.outer_iter_mut().zip(int8.grids()) {
        row.mapv_inplace(|w| grid.round(w));
    }
    let float = Conv2d::new(on_grid.clone(), b.cloned(), options).unwrap().infer(&[x]).unwrap();
    for (at, (&float, &y)) in float.iter().zip(&y).enumerate() {
        let channel = at / pixels % m;
        let sizes: f32 = on_grid.index_axis(ndarray::Axis(0), channel).iter().map(|w| w.abs()).sum();
        let bias_step = if b.is_some() { int8.grids()[channel].step * input.step } else { 0.0 };
        // the ends of the range may lie half a step off the grid
        let bound = sizes * input.step + 0.5 * bias_step + 1e-5 * (1.0 + sizes);
        assert!((float - y).abs() <= bound, "{float} and {y}: more than {bound} apart");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolutions(
        w in strategies::tensor(&[6, 2, 3, 2]),
        b in strategies::tensor(&[6]),
        x in strategies::tensor(&[3, 4, 7, 9]),
        stride in 1usize..3,
        top in 0usize..3,
        left in 0usize..3,
        dilation in 1usize..3,
        affine in any::<bool>(),
    ) {
        let kind = if affine { WeightGrid::Affine } else { WeightGrid::Symmetric };
        let options = ConvOptions { stride: [stride, 1], pad: [top, left, 1, 0], dilation: [dilation, 1], groups: 2 };
        check_conv(&w, Some(&b), &x, options, kind);
    }

    #[test]
    fn depthwise_and_pointwise(
        deep in strategies::tensor(&[4, 1, 3, 3]),
        point in strategies::tensor(&[3, 4, 1, 1]),
        x in strategies::tensor(&[2, 4, 6, 6]),
    ) {
        check_conv(&deep, None, &x, ConvOptions::default().groups(4).pad(1), WeightGrid::Symmetric);
        check_conv(&point, None, &x, ConvOptions::default(), WeightGrid::Affine);
    }

    #[test]
    fn linear_layers(w in strategies::tensor(&[19, 33]), b in strategies::tensor(&[19]), x in strategies::tensor(&[4, 33])) {
        for kind in [WeightGrid::Symmetric, WeightGrid::Affine] {
            let input = Grid::affine(-1.0, 1.0);
            let int8 = weights(&w, Some(&b), kind, input);
            let layer = LinearI8::new(int8.clone()).unwrap();
            check_layer(&layer, &x, &registry()).unwrap();
            let y = layer.infer(&[&x]).unwrap();
            for (n, row) in x.outer_iter().enumerate() {
                for o in 0..19 {
                    let products = row.iter().zip(&int8.levels()[o * 33..]).map(|(&x, &w)| i64::from(input.level(x)) * i64::from(w));
                    let total = products.sum::<i64>() + i64::from(int8.bias().unwrap()[o]);
                    let expected = total as f32 * (input.step * int8.grids()[o].step);
                    prop_assert_eq!(y[[n, o].as_slice()].to_bits(), expected.to_bits());
                }
            }
        }
    }
}

#[test]
fn a_plane_of_many_tiles_and_any_number_of_threads() {
    let w = tensor(&[5, 3, 3, 3], (0..135).map(|i| ((i * 29 % 83) as f32 - 41.0) / 50.0).collect()).unwrap();
    let x = tensor(&[2, 3, 31, 33], (0..6138).map(|i| ((i * 17 % 201) as f32 - 100.0) / 100.0).collect())
        .unwrap();
    check_conv(&w, None, &x, ConvOptions::default().pad(1), WeightGrid::Symmetric);
    let layer = Conv2dI8::new(
        weights(&w, None, WeightGrid::Symmetric, Grid::affine(-1.0, 1.0)),
        ConvOptions::default(),
    )
    .unwrap();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| layer.infer(&[&x]).unwrap())
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn constant_tensors_are_lossless() {
    let x = Tensor::from_elem(ndarray::IxDyn(&[2, 3]), 0.7);
    let w = tensor(&[3, 3], vec![0.3, 0.3, 0.3, -1.1, -1.1, -1.1, 0.0, 0.0, 0.0]).unwrap();
    for kind in [WeightGrid::Symmetric, WeightGrid::Affine] {
        let int8 = weights(&w, None, kind, Grid::affine(0.7, 0.7));
        let y = LinearI8::new(int8).unwrap().infer(&[&x]).unwrap();
        for (y, exact) in y.outer_iter().next().unwrap().iter().zip([0.63f32, -2.31, 0.0]) {
            assert!((y - exact).abs() < 1e-6, "{y} and {exact}");
        }
    }
}

#[test]
fn a_bias_far_larger_than_the_weights_is_kept() {
    let w = tensor(&[2, 2], vec![1e-20, -2e-20, 0.5, 0.25]).unwrap();
    let b = tensor(&[2], vec![3.0, -2.0]).unwrap();
    let int8 = weights(&w, Some(&b), WeightGrid::Symmetric, Grid::affine(0.0, 1.0));
    let y = LinearI8::new(int8).unwrap().infer(&[&tensor(&[1, 2], vec![1.0, 0.0]).unwrap()]).unwrap();
    assert!((y[[0, 0].as_slice()] - 3.0).abs() < 1e-6 && (y[[0, 1].as_slice()] + 1.5).abs() < 0.01, "{y}");
}

#[test]
fn a_sum_that_could_overflow_is_refused() {
    let input = Grid::affine(0.0, 1.0);
    let long = Tensor::from_elem(ndarray::IxDyn(&[1, 40_000]), 0.5);
    let make = |kind| Int8Weights::new(&long, None, &Int8Range::new(&long, kind, input));
    assert!(make(WeightGrid::Affine).unwrap_err().to_string().contains("40000"));
    // the worst there can be: all levels at their ends
    let x = Tensor::from_elem(ndarray::IxDyn(&[1, 40_000]), 1.0);
    let mut w = long.clone();
    w[[0, 0].as_slice()] = -0.5;
    let worst = weights(&w, None, WeightGrid::Symmetric, input);
    let y = LinearI8::new(worst).unwrap().infer(&[&x]).unwrap();
    assert!((y[[0, 0].as_slice()] - 19_999.0).abs() < 0.1, "{y}");
}

fn apply(method: &dyn Compressor, graph: &mut Graph, data: &MemoryDataset) -> cnn_core::Result<()> {
    let registry = registry();
    method
        .apply(graph, &mut Run::new(data, data, TrainSettings { epochs: 1, ..Default::default() }, &registry))
}

#[test]
fn lenet_in_integers_stays_near_the_floats() {
    let graph = lenet5(0).unwrap();
    let data = stripes(64, [1, 28, 28], 10, 0).unwrap();
    let images = batch(&data, &(0..20).collect::<Vec<_>>()).unwrap().0;
    let float = graph.infer(&images).unwrap();
    for kind in [WeightGrid::Symmetric, WeightGrid::Affine] {
        let mut packed = graph.clone();
        let method = Int8Quantizer { weights: kind, ..Int8Quantizer::default() };
        apply(&method, &mut packed, &data).unwrap();
        assert!(deploy_bytes(&packed, false).unwrap_err().to_string().contains("quant.int8_range"));
        let constrained = packed.infer(&images).unwrap();
        method.pack(&mut packed).unwrap();
        let y = packed.infer(&images).unwrap();
        let error = cnn_core::tensor::relative_error(&y, &float);
        assert!(error < 0.03, "{kind:?}: {error}");
        assert!(cnn_core::tensor::relative_error(&y, &constrained) < 0.03);
        let bytes = deploy_bytes(&packed, false).unwrap();
        assert!(bytes.len() < 440_000);
        assert_eq!(from_bytes(&bytes, &registry()).unwrap().infer(&images).unwrap(), y);
        let cost = packed.cost().unwrap();
        assert_eq!((cost.macs.float, cost.macs.int8, cost.params), (0, 2_293_000, 431_080));
    }
}

#[test]
fn fewer_bits_are_smaller_files_and_larger_errors() {
    let graph = lenet5(0).unwrap();
    let data = stripes(64, [1, 28, 28], 10, 0).unwrap();
    let images = batch(&data, &(0..20).collect::<Vec<_>>()).unwrap().0;
    let float = graph.infer(&images).unwrap();
    let of = |method: Int8Quantizer| {
        let mut packed = graph.clone();
        apply(&method, &mut packed, &data).unwrap();
        method.pack(&mut packed).unwrap();
        let bytes = deploy_bytes(&packed, false).unwrap();
        let y = packed.infer(&images).unwrap();
        assert_eq!(from_bytes(&bytes, &registry()).unwrap().infer(&images).unwrap(), y);
        (bytes.len(), cnn_core::tensor::relative_error(&y, &float))
    };
    for kind in [WeightGrid::Symmetric, WeightGrid::Affine] {
        let with = |weight_bits, activation_bits| {
            of(Int8Quantizer { weights: kind, weight_bits, activation_bits, ..Int8Quantizer::default() })
        };
        let [w8, w4, w2] = [with(8, 8), with(4, 8), with(2, 8)];
        assert!(w4.0 < 240_000 && w2.0 < 120_000, "{} and {} bytes", w4.0, w2.0);
        assert!(w8.1 < w4.1 && w4.1 < w2.1, "{} {} {}", w8.1, w4.1, w2.1);
        assert!(with(8, 3).1 > w8.1);
    }
    // a pattern for one layer
    let per_layer = [("fc1".to_string(), Bits { weights: 4, activations: 8 })].into();
    let mixed = of(Int8Quantizer { per_layer, ..Int8Quantizer::default() });
    assert!((210_000..245_000).contains(&mixed.0), "{} bytes", mixed.0);
}

/// Rounding few positive weights of two bits moves the mean of outputs; the bias takes it back.
#[test]
fn biases_make_up_for_rounded_weights() {
    let mut graph = Graph::new(&[2, 6, 6]);
    let w = tensor(&[4, 2, 3, 3], (0..72).map(|i| ((i * 31 % 97) as f32 - 40.0) / 97.0).collect()).unwrap();
    graph.push("conv", Conv2d::new(w, None, ConvOptions::default()).unwrap()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    let w = tensor(&[3, 64], (0..192).map(|i| ((i * 31 % 97) as f32 - 50.0) / 500.0).collect()).unwrap();
    graph.push("fc", Linear::new(w, Some(zeros(&[3]))).unwrap()).unwrap();
    let data = stripes(64, [2, 6, 6], 3, 0).unwrap();
    let images = batch(&data, &(0..64).collect::<Vec<_>>()).unwrap().0;
    let means =
        |graph: &Graph| graph.capture(&["conv"], &images).unwrap()[0].mean_axis(ndarray::Axis(0)).unwrap();
    let exact = means(&graph).sum_axis(ndarray::Axis(2)).sum_axis(ndarray::Axis(1));
    let error = |bias_correction| {
        let mut graph = graph.clone();
        apply(
            &Int8Quantizer { weight_bits: 2, bias_correction, ..Int8Quantizer::default() },
            &mut graph,
            &data,
        )
        .unwrap();
        let found = means(&graph).sum_axis(ndarray::Axis(2)).sum_axis(ndarray::Axis(1));
        (found - &exact).iter().fold(0f32, |most, e| most.max(e.abs()))
    };
    // what remains is of pixels that not all taps see
    assert!(error(true) < 0.2 * error(false), "{} and {}", error(true), error(false));
}

/// Trained on its grid, a network of two bits is better than one rounded to it, and its weights are still on the grid.
#[test]
fn training_on_the_grid() {
    let mut graph = Graph::new(&[1, 8, 8]);
    let w = tensor(&[6, 1, 3, 3], (0..54).map(|i| ((i * 31 % 97) as f32 - 48.0) / 97.0).collect()).unwrap();
    graph.push("conv", Conv2d::new(w, Some(zeros(&[6])), ConvOptions::default()).unwrap()).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    let w = tensor(&[4, 216], (0..864).map(|i| ((i * 31 % 97) as f32 - 48.0) / 500.0).collect()).unwrap();
    graph.push("fc", Linear::new(w, Some(zeros(&[4]))).unwrap()).unwrap();
    let data = stripes(64, [1, 8, 8], 4, 0).unwrap();
    let loss = |epochs| {
        let mut graph = graph.clone();
        let method = Int8Quantizer { weight_bits: 2, epochs, rate: 0.05, ..Int8Quantizer::default() };
        apply(&method, &mut graph, &data).unwrap();
        let constrained = graph.layer::<Conv2d>("conv").unwrap().unwrap().weight().value().clone();
        method.pack(&mut graph).unwrap();
        let weights = graph.layer::<Conv2dI8>("conv").unwrap().unwrap().weights().clone();
        assert!(weights.levels().iter().all(|l| (-1..=1).contains(l)));
        for (row, (levels, grid)) in
            constrained.outer_iter().zip(weights.levels().chunks(9).zip(weights.grids()))
        {
            assert!(row.iter().zip(levels).all(|(&w, &l)| w == grid.value(l)));
        }
        cnn_core::train::evaluate(&graph, &data).unwrap().loss
    };
    assert!(loss(60) < 0.7 * loss(0), "{} and {}", loss(60), loss(0));
}

#[test]
fn normalizations_are_folded_unless_it_trains() {
    let mut graph = Graph::new(&[1, 8, 8]);
    let w = tensor(&[4, 1, 3, 3], (0..36).map(|i| (i as f32 - 20.5) / 30.0).collect()).unwrap();
    graph.push("conv", Conv2d::new(w, None, ConvOptions::default()).unwrap()).unwrap();
    graph.push("norm", BatchNorm::new(4)).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(zeros(&[4, 144]), Some(zeros(&[4]))).unwrap()).unwrap();
    let data = stripes(16, [1, 8, 8], 4, 0).unwrap();
    for (fold, epochs, gone) in
        [(None, 0, true), (None, 1, false), (Some(true), 1, true), (Some(false), 0, false)]
    {
        let mut graph = graph.clone();
        apply(&Int8Quantizer { fold, epochs, rate: 1e-3, ..Int8Quantizer::default() }, &mut graph, &data)
            .unwrap();
        assert_eq!(graph.find("norm").is_err(), gone, "{fold:?}, {epochs} epochs");
    }
}

#[test]
fn zeros_stay_and_other_methods_may_train_in_between() {
    let mut graph = Graph::new(&[1, 8, 8]);
    let w = tensor(
        &[4, 1, 3, 3],
        (0..36).map(|i| if i % 3 == 0 { 0.0 } else { (i as f32 - 20.5) / 30.0 }).collect(),
    )
    .unwrap();
    graph.push("conv", Conv2d::new(w, None, ConvOptions::default()).unwrap()).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    let w = tensor(&[4, 144], (0..576).map(|i| ((i * 31 % 97) as f32 - 48.0) / 500.0).collect()).unwrap();
    graph.push("fc", Linear::new(w, Some(zeros(&[4]))).unwrap()).unwrap();
    let data = stripes(64, [1, 8, 8], 4, 0).unwrap();
    let images = batch(&data, &(0..16).collect::<Vec<_>>()).unwrap().0;

    let mut int8 = graph.clone();
    let method = Int8Quantizer::default();
    apply(&method, &mut int8, &data).unwrap();
    method.pack(&mut int8).unwrap();
    let levels = int8.layer::<Conv2dI8>("conv").unwrap().unwrap().weights().levels().to_vec();
    assert!(levels.iter().enumerate().all(|(i, &l)| (l == 0) == (i % 3 == 0)));

    // ranges recorded, then trained by the other method, then packed: the other's layers first, the rest in 8 bits
    let shared: KMeansQuantizer =
        serde_json::from_value(json!({ "layers": { "only": ["fc"] }, "rate": 1e-2 })).unwrap();
    let chain = Chain::new("both", vec![Box::new(method), Box::new(shared)]);
    apply(&chain, &mut graph, &data).unwrap();
    let constrained = graph.infer(&images).unwrap();
    let conv = graph.layer::<Conv2d>("conv").unwrap().unwrap().weight().value().clone();
    chain.pack(&mut graph).unwrap();
    let packed = graph.layer::<Conv2dI8>("conv").unwrap().unwrap().weights();
    for (row, (levels, grid)) in conv.outer_iter().zip(packed.levels().chunks(9).zip(packed.grids())) {
        assert!(row.iter().zip(levels).all(|(&w, &l)| w == grid.value(l)));
    }
    assert!(graph.layer::<cnn_quant::CodebookLinear>("fc").unwrap().is_some());
    let y = graph.infer(&images).unwrap();
    let error = cnn_core::tensor::relative_error(&y, &constrained);
    assert!(error < 0.05, "{error}");
}

#[test]
fn channels_can_be_removed_under_the_constraint() {
    let data = stripes(8, [1, 28, 28], 10, 0).unwrap();
    let mut graph = lenet5(0).unwrap();
    let method = Int8Quantizer { weights: WeightGrid::Affine, ..Int8Quantizer::default() };
    apply(&method, &mut graph, &data).unwrap();
    let full = graph.layer::<Conv2d>("conv1").unwrap().unwrap().weight().value().clone();
    graph.keep_channels("conv1", &[2, 7, 19]).unwrap();
    let kept = graph.layer::<Conv2d>("conv1").unwrap().unwrap().weight().value().clone();
    assert_eq!(kept, full.select(ndarray::Axis(0), &[2, 7, 19]));
    method.pack(&mut graph).unwrap();
    assert_eq!(graph.cost().unwrap().macs.float, 0);
}

#[test]
fn what_cannot_be_is_refused() {
    let registry = registry();
    for bad in [
        json!({ "calibration": 0 }),
        json!({ "weights": "ternary" }),
        json!({ "bits": 8 }),
        json!({ "weight_bits": 1 }),
        json!({ "activation_bits": 9 }),
        json!({ "rate": -1.0 }),
        json!({ "observer": { "percentile": 0.0 } }),
        json!({ "observer": { "percentile": 101.0 } }),
        json!({ "per_layer": { "conv1": { "weights": 16, "activations": 8 } } }),
    ] {
        let message = registry.build_method("quant.int8", bad.clone()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("quant.int8"), "{bad}: {message}");
    }
    let method = Int8Quantizer::default();
    let graph = lenet5(0).unwrap();
    let before = deploy_bytes(&graph, true).unwrap();
    let good = stripes(4, [1, 28, 28], 10, 0).unwrap();
    let empty = MemoryDataset::new(zeros(&[0, 1, 28, 28]), vec![], 10).unwrap();
    let broken =
        MemoryDataset::new(Tensor::from_elem(ndarray::IxDyn(&[1, 1, 28, 28]), f32::INFINITY), vec![0], 10)
            .unwrap();
    for (data, says) in [(&empty, "calibration"), (&broken, "calibration activations of `conv1`")] {
        let mut changed = graph.clone();
        let message = apply(&method, &mut changed, data).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
        assert_eq!(deploy_bytes(&changed, true).unwrap(), before);
    }
    let mut bad = graph.clone();
    let bias = bad.layer_mut::<Conv2d>("conv2").unwrap().unwrap().bias_mut().unwrap();
    bias.set_base(Tensor::from_elem(ndarray::IxDyn(&[50]), f32::NAN));
    let unknown = Int8Quantizer {
        per_layer: [("nothing".to_string(), Bits { weights: 4, activations: 4 })].into(),
        ..Int8Quantizer::default()
    };
    assert!(apply(&unknown, &mut graph.clone(), &good).unwrap_err().to_string().contains("nothing"));
    let message = apply(&method, &mut bad, &good).unwrap_err().to_string();
    assert!(message.contains("bias values of `conv2`"), "{message}");
    let mut twice = graph.clone();
    apply(&method, &mut twice, &good).unwrap();
    assert!(apply(&method, &mut twice, &good).unwrap_err().to_string().contains("already"));
}

#[test]
fn damaged_bytes_give_errors() {
    let mut graph = Graph::new(&[2, 5, 5]);
    let w = tensor(&[4, 1, 3, 3], (0..36).map(|i| (i as f32 - 20.0) / 30.0).collect()).unwrap();
    let b = tensor(&[4], vec![0.1, -0.2, 3.0, 0.0]).unwrap();
    graph.push("conv", Conv2d::new(w, Some(b), ConvOptions::default().groups(2)).unwrap()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(Tensor::from_elem(ndarray::IxDyn(&[3, 36]), 0.25), None).unwrap()).unwrap();
    let data = stripes(8, [2, 5, 5], 3, 0).unwrap();
    let registry = registry();
    for (kind, weight_bits) in [(WeightGrid::Symmetric, 8), (WeightGrid::Affine, 8), (WeightGrid::Affine, 3)]
    {
        let mut graph = graph.clone();
        let method = Int8Quantizer { weights: kind, weight_bits, ..Int8Quantizer::default() };
        apply(&method, &mut graph, &data).unwrap();
        method.pack(&mut graph).unwrap();
        let good = deploy_bytes(&graph, false).unwrap();
        let body = good.len() - 4;
        let framed = |mut bytes: Vec<u8>| {
            let sum = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&sum.to_le_bytes());
            bytes
        };
        let images = batch(&data, &[0, 1]).unwrap().0;
        for at in 5..body {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut bytes = good[..body].to_vec();
                bytes[at] ^= flip;
                if let Ok(graph) = from_bytes_limited(&framed(bytes), &registry, 100_000) {
                    let _ = graph.infer(&images);
                }
            }
            assert!(from_bytes(&framed(good[..at].to_vec()), &registry).is_err(), "cut at {at}");
        }
    }
}

/// Rounding by the outputs and equal ranges, on few bits: nearer to the floats than rounding to the nearest.
#[test]
fn adaptive_rounding_and_equalization_keep_more() {
    let mut graph = Graph::new(&[2, 8, 8]);
    let numbers = |shape: &[usize], uneven: f32| {
        let count = shape.iter().product::<usize>();
        let each = count / shape[0];
        let value = |i: usize| ((i * 31 % 97) as f32 - 44.0) / 97.0 * uneven.powi((i / each % 3) as i32);
        tensor(shape, (0..count).map(value).collect()).unwrap()
    };
    let options = ConvOptions::default().pad(1);
    graph.push("a", Conv2d::new(numbers(&[6, 2, 3, 3], 1.0), Some(zeros(&[6])), options).unwrap()).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.push("deep", Conv2d::new(numbers(&[6, 1, 3, 3], 3.0), None, options.groups(6)).unwrap()).unwrap();
    graph.push("relu2", Activation::relu()).unwrap();
    graph.push("b", Conv2d::new(numbers(&[5, 6, 3, 3], 1.0), None, options).unwrap()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(numbers(&[4, 320], 1.0), Some(zeros(&[4]))).unwrap()).unwrap();
    let data = stripes(64, [2, 8, 8], 4, 0).unwrap();
    let images = batch(&data, &(0..64).collect::<Vec<_>>()).unwrap().0;
    let expected = graph.infer(&images).unwrap();
    let error = |method: Int8Quantizer| {
        let mut graph = graph.clone();
        let method = Int8Quantizer { weight_bits: 3, calibration: 64, ..method };
        apply(&method, &mut graph, &data).unwrap();
        method.pack(&mut graph).unwrap();
        assert_eq!(graph.cost().unwrap().macs.float, 0);
        (graph.infer(&images).unwrap() - &expected).iter().map(|e| f64::from(e * e)).sum::<f64>()
    };
    let nearest = error(Int8Quantizer::default());
    let adaptive = error(Int8Quantizer { rounding: Rounding::Adaptive, ..Int8Quantizer::default() });
    assert!(adaptive < 0.6 * nearest, "{adaptive} and {nearest}");
    let both = Int8Quantizer { equalize: true, rounding: Rounding::Adaptive, ..Int8Quantizer::default() };
    let both = error(both);
    assert!(both < 0.6 * nearest, "{both} and {nearest}");
}

/// The file has at most the bytes that were allowed, and the layer that matters least has the fewest bits.
#[test]
fn bits_by_layer_for_a_budget_of_bytes() {
    let mut graph = Graph::new(&[2, 8, 8]);
    let numbers = |shape: &[usize], scale: f32| {
        let count = shape.iter().product::<usize>();
        tensor(shape, (0..count).map(|i| ((i * 31 % 97) as f32 - 44.0) / 97.0 * scale).collect()).unwrap()
    };
    let options = ConvOptions::default().pad(1);
    graph.push("a", Conv2d::new(numbers(&[16, 2, 3, 3], 1.0), None, options).unwrap()).unwrap();
    graph.push("a.norm", BatchNorm::new(16)).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    // what this one adds is next to nothing
    graph.push("weak", Conv2d::new(numbers(&[16, 16, 3, 3], 1e-3), None, options).unwrap()).unwrap();
    graph
        .add("strong", Conv2d::new(numbers(&[16, 16, 3, 3], 1.0), None, options).unwrap(), &["relu"])
        .unwrap();
    graph.add("sum", cnn_core::layers::Add, &["weak", "strong"]).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(numbers(&[4, 1024], 0.1), Some(zeros(&[4]))).unwrap()).unwrap();
    let data = stripes(32, [2, 8, 8], 4, 0).unwrap();
    let made = |bytes: Option<u64>, rounding| {
        let mut graph = graph.clone();
        let method = Int8Quantizer { bytes, rounding, calibration: 32, ..Int8Quantizer::default() };
        apply(&method, &mut graph, &data).map(|()| {
            method.pack(&mut graph).unwrap();
            graph
        })
    };
    let size = |graph: &Graph| deploy_bytes(graph, false).unwrap().len() as u64;
    let all_8 = size(&made(None, Rounding::Nearest).unwrap());
    for (rounding, budget) in [(Rounding::Nearest, all_8 * 3 / 4), (Rounding::Adaptive, all_8 / 2)] {
        let small = made(Some(budget), rounding).unwrap();
        assert!(size(&small) <= budget, "{} of {budget}", size(&small));
        let bits = |name: &str| small.layer::<Conv2dI8>(name).unwrap().unwrap().weights().grids()[0].bits();
        assert!(bits("weak") < bits("strong"), "{} and {}", bits("weak"), bits("strong"));
    }
    let message = made(Some(100), Rounding::Nearest).unwrap_err().to_string();
    assert!(message.contains("`bytes` of `quant.int8`") && message.contains("2 bits"), "{message}");
}

/// Without need nothing becomes an integer; with some need a layer that is worth it does, and one that is not does not.
#[test]
fn layers_for_a_budget_of_time() {
    let mut graph = Graph::new(&[3, 32, 32]);
    let numbers = |shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        tensor(shape, (0..count).map(|i| (i * 31 % 97) as f32 / 97.0 - 0.45).collect()).unwrap()
    };
    let options = ConvOptions::default().pad(1);
    graph.push("first", Conv2d::new(numbers(&[64, 3, 3, 3]), None, options).unwrap()).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.push("heavy", Conv2d::new(numbers(&[64, 64, 3, 3]), None, options).unwrap()).unwrap();
    graph.push("pool", GlobalAvgPool).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(numbers(&[4, 64]), Some(zeros(&[4]))).unwrap()).unwrap();
    let data = stripes(32, [3, 32, 32], 4, 0).unwrap();
    let made = |ms: Option<f64>| {
        let mut graph = graph.clone();
        let method = Int8Quantizer { ms, calibration: 32, ..Int8Quantizer::default() };
        apply(&method, &mut graph, &data).map(|()| {
            method.pack(&mut graph).unwrap();
            graph
        })
    };
    let integers = |graph: &Graph, name: &str| graph.node(name).unwrap().layer().is::<Conv2dI8>();
    assert_eq!(made(Some(1e6)).unwrap().cost().unwrap().macs.int8, 0);
    let message = made(Some(1e-6)).unwrap_err().to_string();
    assert!(message.contains("`ms` of `quant.int8`") && message.contains("allow more"), "{message}");
    let both = Int8Quantizer { ms: Some(1.0), bytes: Some(1000), ..Int8Quantizer::default() };
    let message = apply(&both, &mut graph.clone(), &data).unwrap_err().to_string();
    assert!(message.contains("one budget"), "{message}");
    // a limit that is measured may be missed when the machine is busy, but not each time
    let all = made(None).unwrap();
    let mixed = |_| {
        let (fast, slow) = latencies(&all, &graph).unwrap();
        let Ok(made) = made(Some((fast + slow) / 2.0)) else { return false };
        integers(&made, "heavy") && !made.node("fc").unwrap().layer().is::<LinearI8>()
    };
    let (fast, slow) = latencies(&all, &graph).unwrap();
    // where integers are slower there is nothing to choose
    assert!(fast > 0.8 * slow || (0..10).any(mixed));
}
