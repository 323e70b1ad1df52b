//! The packed layers in standard operators: the same answers, and no number wider than it has to be.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use cnn_core::express::{Constant, Numbers, StandardGraph, express};
use cnn_core::layers::{Conv2d, ConvOptions, Flatten, Linear};
use cnn_core::tensor::tensor;
use cnn_core::testing::{difference, lenet5, strategies, stripes};
use cnn_core::train::TrainSettings;
use cnn_core::{Compressor, Error, Graph, Layer, Registry, Run, Tensor};
use cnn_quant::{
    BinaryActivation, CodebookConv2d, CodebookLinear, CodebookWeights, Conv2dI8, Grid, Int8Quantizer,
    Int8Range, Int8Weights, KMeansQuantizer, LinearI8, WeightGrid, WeightRange, XnorConv2d, XnorLinear,
    XnorWeights,
};
use proptest::prelude::*;

/// A network of one layer, in standard operators, and that it computes what the layer does.
fn check(layer: impl Layer + Clone, x: &Tensor, four_bit: bool) -> StandardGraph {
    let y = layer.infer(&[x]).unwrap();
    let mut graph = Graph::new(&x.shape()[1..]);
    graph.push("layer", layer).unwrap();
    let standard = express(&graph, four_bit).unwrap();
    let error = difference(&common::run(&standard, x), &y);
    assert!(error <= 2e-6, "{error}");
    standard
}

fn constant<'a>(graph: &'a StandardGraph, name: &str) -> &'a Constant {
    graph.constants.iter().find(|c| c.name == name).unwrap()
}

fn kinds(graph: &StandardGraph) -> Vec<&str> {
    graph.operators.iter().map(|o| o.kind).collect()
}

/// Weights with `k` different values, zero among them.
fn shared(shape: &[usize], k: usize) -> Tensor {
    let count = shape.iter().product();
    tensor(shape, (0..count).map(|i| (i * 7 % k) as f32 * 0.125).collect()).unwrap()
}

fn int8(w: &Tensor, b: Option<&Tensor>, kind: WeightGrid, input: Grid) -> Int8Weights {
    Int8Weights::new(w, b, &Int8Range::new(w, kind, input)).unwrap()
}

fn input_grid() -> impl Strategy<Value = Grid> {
    prop_oneof![Just((-1.0, 1.0)), Just((0.0, 2.5)), Just((-0.3, 1.7)), Just((-2.0, 0.0))]
        .prop_map(|(min, max)| Grid::affine(min, max))
}

fn weight_grid() -> impl Strategy<Value = WeightGrid> {
    prop_oneof![Just(WeightGrid::Symmetric), Just(WeightGrid::Affine)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn int8_convolutions(
        w in strategies::tensor(&[4, 3, 3, 2]), b in strategies::tensor(&[4]), x in strategies::tensor(&[2, 6, 7, 6]),
        kind in weight_grid(), input in input_grid(), bias in any::<bool>(), stride in 1usize..3, pad in 0usize..3,
    ) {
        let options = ConvOptions { pad: [pad, 1, 0, 2], dilation: [2, 1], ..ConvOptions::default().stride(stride).groups(2) };
        let weights = int8(&w, bias.then_some(&b), kind, input);
        let standard = check(Conv2dI8::new(weights, options).unwrap(), &x, false);
        let dequantize = ["DequantizeLinear"; 2 + 1];
        let mut expected = vec!["QuantizeLinear"];
        expected.extend(&dequantize[..2 + usize::from(bias)]);
        expected.push("Conv");
        prop_assert_eq!(kinds(&standard), expected);
    }

    #[test]
    fn int8_linear_layers(
        w in strategies::tensor(&[5, 9]), b in strategies::tensor(&[5]), x in strategies::tensor(&[3, 9]),
        kind in weight_grid(), input in input_grid(), bias in any::<bool>(),
    ) {
        check(LinearI8::new(int8(&w, bias.then_some(&b), kind, input)).unwrap(), &x, false);
    }
}

/// With thresholds that inputs lie on, and bits of a byte or half of one.
#[test]
fn layers_of_signs() {
    let signs = |shape: &[usize]| pattern(shape).mapv(|v| if v >= 0.0 { 0.5 } else { -0.5 });
    let mut x = pattern(&[2, 6, 5, 5]);
    // next to a threshold of zero
    x[[0, 0, 0, 0]] = -1e-29;
    x[[0, 0, 0, 1]] = 1e-40;
    let thresholds: Vec<f32> = (0..6).map(|c| if c == 0 { 0.0 } else { x[[0, c, 1, 2]] }).collect();
    for four_bit in [false, true] {
        let weights =
            XnorWeights::new(&signs(&[4, 3, 3, 3]), thresholds.clone(), Some(&pattern(&[4]))).unwrap();
        let options = ConvOptions::default().pad(1).groups(2);
        let standard = check(XnorConv2d::new(weights, options).unwrap(), &x, four_bit);
        assert_eq!(kinds(&standard), ["Sub", "Mul", "Add", "Clip", "Cast", "Gather", "Conv", "Mul", "Add"]);
        let bits = &constant(&standard, "layer.indices").numbers;
        assert_eq!(matches!(bits, Numbers::U4(_)), four_bit);
        let weights = XnorWeights::new(&signs(&[7, 9]), vec![0.25; 9], None).unwrap();
        check(XnorLinear::new(weights).unwrap(), &pattern(&[3, 9]), four_bit);
        check(BinaryActivation::new(thresholds.clone()).unwrap(), &x, four_bit);
    }
}

#[test]
fn few_levels_of_activations_are_cut_off_before() {
    let w = pattern(&[5, 9]);
    let x = pattern(&[3, 9]);
    let input = Grid::affine_bits(-0.5, 0.8, 4);
    let range = Int8Range::with_bits(&w, WeightGrid::Symmetric, 4, WeightRange::Mse, input);
    let layer = LinearI8::new(Int8Weights::new(&w, None, &range).unwrap()).unwrap();
    let standard = check(layer, &x, false);
    assert_eq!(kinds(&standard)[..2], ["Clip", "QuantizeLinear"]);
}

#[test]
fn a_weight_is_a_byte_and_level_zero_its_zero_point() {
    let w = tensor(&[2, 3], vec![-0.5, 0.0, 1.0, 0.25, 0.0, 0.75]).unwrap();
    let x = tensor(&[1, 3], vec![0.2, 0.4, 0.9]).unwrap();
    let b = tensor(&[2], vec![0.5, -3.0]).unwrap();
    for (kind, zeros) in [(WeightGrid::Symmetric, [128, 128]), (WeightGrid::Affine, [85, 0])] {
        let layer = LinearI8::new(int8(&w, Some(&b), kind, Grid::affine(0.0, 1.0))).unwrap();
        let standard = check(layer, &x, false);
        assert_eq!(constant(&standard, "layer.weight_zero").numbers, Numbers::U8(zeros.to_vec()));
        let Numbers::U8(bytes) = &constant(&standard, "layer.weight").numbers else { panic!("bytes") };
        assert_eq!((bytes[1], bytes[4]), (zeros[0], zeros[1]));
        assert!(matches!(constant(&standard, "layer.bias").numbers, Numbers::I32(_)));
    }
}

#[test]
fn a_bias_that_could_overflow_the_sum_is_a_float() {
    // 33,000 are almost 2^30 steps, and the products sum up to 40,000 * 127 * 255: more than 2^31 together
    let mut w = Tensor::from_elem(vec![1, 40_000], 1.0);
    w[[0, 0]] = 0.5;
    let x = Tensor::from_elem(vec![1, 40_000], 1.0);
    let input = Grid::affine(0.0, 1.0);
    for (bias, is_float) in [(1.0, false), (33_000.0, true)] {
        let b = tensor(&[1], vec![bias]).unwrap();
        let weights = int8(&w, Some(&b), WeightGrid::Symmetric, input);
        let standard = check(LinearI8::new(weights).unwrap(), &x, false);
        let numbers = &constant(&standard, "layer.bias").numbers;
        assert_eq!(matches!(numbers, Numbers::F32(_)), is_float, "{numbers:?}");
    }
}

#[test]
fn ends_and_middles_of_the_input_grid() {
    // the identity: what comes out is what the input was rounded to
    let w = tensor(&[1, 1], vec![1.0]).unwrap();
    let input = Grid { step: 0.5, low: -100, high: 155 };
    let layer = LinearI8::new(int8(&w, None, WeightGrid::Symmetric, input)).unwrap();
    let values: Vec<f32> = (-900..900).map(|i| i as f32 / 8.0).chain([f32::INFINITY, -1e30]).collect();
    let x = tensor(&[values.len(), 1], values).unwrap();
    check(layer, &x, false);
}

#[test]
fn indices_take_a_byte_or_half_of_one() {
    let x = pattern(&[2, 4, 6, 6]);
    for (k, four_bit, narrow) in [(16, true, true), (16, false, false), (17, true, false)] {
        let w = shared(&[8, 4, 3, 3], k);
        let dense = Conv2d::new(w, Some(shared(&[8], 8)), ConvOptions::default().pad(1)).unwrap();
        let standard = check(CodebookConv2d::pack(&dense).unwrap(), &x, four_bit);
        assert_eq!(kinds(&standard), ["Cast", "Gather", "Conv"]);
        let indices = constant(&standard, "layer.indices");
        assert_eq!(indices.shape, [8, 4, 3, 3]);
        assert_eq!(matches!(indices.numbers, Numbers::U4(_)), narrow);
        assert_eq!(matches!(indices.numbers, Numbers::U8(_)), !narrow);
        // exact zeros stay exact: zero is a value of the codebook, the first
        let Numbers::F32(codebook) = &constant(&standard, "layer.codebook").numbers else { panic!("floats") };
        assert_eq!((codebook.len(), codebook[0].to_bits()), (k, 0));
    }
}

#[test]
fn codebooks_of_groups_of_rows() {
    let mut w = shared(&[8, 4, 3, 3], 9);
    for (row, mut w) in w.outer_iter_mut().enumerate() {
        w.mapv_inplace(|w| w * (1 + row / 3) as f32);
    }
    let options = ConvOptions::default().pad(1);
    let weights = CodebookWeights::with_groups(&w, vec![3, 6, 8]).unwrap();
    let layer = CodebookConv2d::new(weights, None, options).unwrap();
    let standard = check(layer.clone(), &pattern(&[2, 4, 6, 6]), true);
    assert_eq!(kinds(&standard), ["Cast", "Add", "Gather", "Conv"]);
    assert!(matches!(constant(&standard, "layer.indices").numbers, Numbers::U4(_)));
    assert_eq!(
        constant(&standard, "layer.codebook_starts").numbers,
        Numbers::I32(vec![0, 0, 0, 9, 9, 9, 18, 18])
    );
    assert_eq!(layer.weights().decoded().unwrap(), w);
}

/// Some input without a pattern that a wrong order of indices could hide in.
fn pattern(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    tensor(shape, (0..count).map(|i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()).unwrap()
}

#[test]
fn shared_linear_layers() {
    let dense = Linear::new(shared(&[10, 30], 200), Some(shared(&[10], 8))).unwrap();
    let standard = check(CodebookLinear::pack(&dense).unwrap(), &pattern(&[3, 30]), true);
    assert_eq!(kinds(&standard), ["Gemm"], "200 values for 300 weights do not pay");
    let dense = Linear::new(shared(&[10, 640], 200), None).unwrap();
    let standard = check(CodebookLinear::pack(&dense).unwrap(), &pattern(&[3, 640]), true);
    assert_eq!(kinds(&standard), ["Cast", "Gather", "Gemm"]);
}

/// Bytes of all constants.
fn bytes(graph: &StandardGraph) -> usize {
    let size = |c: &Constant| match &c.numbers {
        Numbers::F32(v) => 4 * v.len(),
        Numbers::I32(v) => 4 * v.len(),
        Numbers::I64(v) => 8 * v.len(),
        Numbers::U8(v) => v.len(),
        Numbers::I8(v) => v.len(),
        Numbers::U4(v) => v.len().div_ceil(2),
    };
    graph.constants.iter().map(size).sum()
}

#[test]
fn networks_shrink_and_unpacked_ones_are_refused() {
    let data = stripes(32, [1, 28, 28], 10, 0).unwrap();
    let mut registry = Registry::core();
    cnn_quant::register(&mut registry);
    let kmeans = |bits| KMeansQuantizer { bits, epochs: 0, ..KMeansQuantizer::default() };
    let methods: [(Box<dyn Compressor>, bool, usize); 3] = [
        (Box::new(kmeans(8)), false, 440_000),
        (Box::new(kmeans(4)), true, 220_000),
        (Box::new(Int8Quantizer { calibration: 8, ..Int8Quantizer::default() }), false, 440_000),
    ];
    for (method, four_bit, most) in methods {
        let mut graph = lenet5(0).unwrap();
        let float = bytes(&express(&graph, four_bit).unwrap());
        assert!(float > 1_700_000);
        let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
        method.apply(&mut graph, &mut run).unwrap();
        match express(&graph, four_bit) {
            Err(Error::Node { node, source }) => {
                assert!(node == "conv1" && matches!(*source, Error::Constrained { .. }), "{node}: {source}");
            }
            other => panic!("{other:?}"),
        }
        method.pack(&mut graph).unwrap();
        let size = bytes(&express(&graph, four_bit).unwrap());
        assert!(size < most, "{} bytes by {}", size, method.name());
    }
}

#[test]
fn layers_one_after_the_other() {
    let mut graph = Graph::new(&[3, 6, 6]);
    let conv = Conv2d::new(shared(&[16, 3, 3, 3], 9), None, ConvOptions::default()).unwrap();
    graph.push("conv", CodebookConv2d::pack(&conv).unwrap()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    let w = pattern(&[4, 256]);
    let weights = int8(&w, None, WeightGrid::Affine, Grid::affine(-30.0, 30.0));
    graph.push("fc", LinearI8::new(weights).unwrap()).unwrap();
    let x = pattern(&[2, 3, 6, 6]);
    let y = common::run(&express(&graph, true).unwrap(), &x);
    assert!(difference(&y, &graph.infer(&x).unwrap()) <= 2e-6);
}
