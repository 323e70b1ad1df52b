//! The packed layers in a session: the same values as the reference executor, alone and with what follows them fused.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::layers::{
    Activation, Add, BatchNorm, Concat, Conv2d, ConvOptions, Flatten, Linear, MaxPool2d, Window,
};
use cnn_core::ops::activation::ActivationFn;
use cnn_core::session::{Session, SessionOptions};
use cnn_core::simd::Isa;
use cnn_core::tensor::tensor;
use cnn_core::testing::{difference, strategies};
use cnn_core::{Graph, Layer, Tensor};
use cnn_quant::{
    CodebookConv2d, CodebookLinear, CodebookWeights, Conv2dI8, Grid, Int8Range, Int8Weights, LinearI8,
    WeightGrid, XnorConv2d, XnorLinear, XnorWeights,
};
use ndarray::{Axis, Slice};
use proptest::prelude::*;

fn int8(w: &Tensor, b: Option<&Tensor>, kind: WeightGrid) -> Int8Weights {
    Int8Weights::new(w, b, &Int8Range::new(w, kind, Grid::affine(-0.9, 1.0))).unwrap()
}

/// Each row of the weights becomes 0.3 with its signs.
fn signs(w: &Tensor, thresholds: &Tensor, b: Option<&Tensor>) -> XnorWeights {
    let w = w.mapv(|w| if w < 0.0 { -0.3 } else { 0.3 });
    XnorWeights::new(&w, thresholds.iter().copied().collect(), b).unwrap()
}

/// The layer, and perhaps a normalization, a shortcut and an activation after it.
fn graph<L: Layer + Clone>(layer: &L, x: &Tensor, norm: bool, shortcut: bool, activation: bool) -> Graph {
    let channels = layer.output_shape(&[x.shape()]).unwrap()[1];
    let mut graph = Graph::new(&x.shape()[1..]);
    graph.push("layer", layer.clone()).unwrap();
    if norm {
        let each = |f: fn(f32) -> f32| (0..channels).map(|i| f(i as f32)).collect::<Vec<f32>>();
        let values = |f| tensor(&[channels], each(f)).unwrap();
        let mut norm = BatchNorm::new(channels);
        norm.gamma_mut().set_base(values(|i| 0.5 + 0.1 * i));
        norm.beta_mut().set_base(values(|i| 0.3 - 0.05 * i));
        graph.push("norm", norm).unwrap();
    }
    if shortcut {
        let last = graph.nodes().last().unwrap().name.clone();
        let input = graph.nodes()[0].name.clone();
        graph.add("twin", layer.clone(), &[&input]).unwrap();
        graph.add("add", Add, &[&last, "twin"]).unwrap();
    }
    if activation {
        graph.push("relu", Activation::relu()).unwrap();
    }
    graph
}

/// The output of a session for whole batches, on so many threads; no layer may have run by its reference.
fn run(graph: &Graph, x: &Tensor, threads: usize) -> Tensor {
    let options = SessionOptions::with_threads(threads).unwrap().batches(graph, &[x.shape()[0], 1]);
    let mut session = Session::new(graph.clone(), &options).unwrap();
    let y = session.run(x).unwrap();
    let first = x.slice_axis(Axis(0), Slice::from(0..1)).as_standard_layout().to_owned();
    let alone = session.run(&first).unwrap();
    let of_first = y.slice_axis(Axis(0), Slice::from(0..1)).to_owned();
    assert!(difference(&alone, &of_first) < 1e-5);
    let profile = session.profile(x, 1).unwrap();
    assert!(profile.rows.iter().all(|row| row.algorithm != "reference"), "{profile}");
    y
}

fn check<L: Layer + Clone>(layer: &L, x: &Tensor, exact: bool) {
    for fused in 0..8 {
        let graph = graph(layer, x, fused & 1 != 0, fused & 2 != 0, fused & 4 != 0);
        let expected = graph.infer(x).unwrap();
        let y = run(&graph, x, 1);
        // a sum of integers is the same in any order; a scale is multiplied separately, as by the reference
        if exact && fused & 3 == 0 {
            assert_eq!(y, expected);
        }
        let error = difference(&y, &expected);
        assert!(error <= 1e-5, "{fused}: {error}");
        assert_eq!(run(&graph, x, 2), y, "two threads");
    }
}

fn options() -> impl Strategy<Value = ConvOptions> {
    (1usize..3, 1usize..3, [0usize..3, 0usize..3, 0usize..2, 0usize..2], [1usize..3, 1usize..3])
        .prop_map(|(sh, sw, pad, dilation)| ConvOptions { stride: [sh, sw], pad, dilation, groups: 1 })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn integer_convolutions(
        (groups, w, b, x) in (1usize..4, 1usize..4, 1usize..13, [1usize..4, 1usize..4]).prop_flat_map(|(groups, c, m, [kh, kw])| {
            let w = strategies::tensor(&[m * groups, c, kh, kw]);
            (Just(groups), w, strategies::tensor(&[m * groups]), strategies::tensor(&[3, c * groups, 8, 9]))
        }),
        options in options(),
        bias in any::<bool>(),
        affine in any::<bool>(),
    ) {
        let kind = if affine { WeightGrid::Affine } else { WeightGrid::Symmetric };
        let layer = Conv2dI8::new(int8(&w, bias.then_some(&b), kind), options.groups(groups)).unwrap();
        check(&layer, &x, true);
    }

    /// Those that some processors compute by Winograd's algorithm, with all that weights and codes may be.
    #[test]
    fn integer_convolutions_of_many_channels(
        (w, b, x) in (16usize..26, 16usize..26, 1usize..8, 1usize..8).prop_flat_map(|(c, m, h, w)| {
            let extreme = |v: f32| if v.abs() < 0.3 { v } else { 4.0 * v.signum() };
            let filters = strategies::tensor(&[m, c, 3, 3]).prop_map(move |w| w.mapv(extreme));
            let images = strategies::tensor(&[3, c, h, w]).prop_map(move |x| x.mapv(extreme));
            (filters, strategies::tensor(&[m]), images)
        }),
        pad in [1usize..3, 1usize..3, 1usize..3, 1usize..3],
    ) {
        let layer = Conv2dI8::new(int8(&w, Some(&b), WeightGrid::Signed), ConvOptions { pad, ..ConvOptions::default() });
        check(&layer.unwrap(), &x, true);
    }

    #[test]
    fn integer_depthwise_convolutions(
        (c, w, b, x) in (1usize..70, 1usize..6).prop_flat_map(|(c, k)| {
            let x = strategies::tensor(&[3, c, 8, 9]);
            (Just(c), strategies::tensor(&[c, 1, k, k]), strategies::tensor(&[c]), x)
        }),
        options in options(),
        bias in any::<bool>(),
    ) {
        let weights = int8(&w, bias.then_some(&b), WeightGrid::Affine);
        prop_assume!(options.geometry(x.shape(), c, [w.shape()[2]; 2]).is_ok());
        check(&Conv2dI8::new(weights, options.groups(c)).unwrap(), &x, true);
    }

    #[test]
    fn integer_linear_layers(
        (w, b, x) in (1usize..70, 1usize..50).prop_flat_map(|(outputs, inputs)| {
            let x = strategies::tensor(&[3, inputs]);
            (strategies::tensor(&[outputs, inputs]), strategies::tensor(&[outputs]), x)
        }),
        bias in any::<bool>(),
    ) {
        let weights = int8(&w, bias.then_some(&b), WeightGrid::Symmetric);
        check(&LinearI8::new(weights).unwrap(), &x, true);
    }

    #[test]
    fn convolutions_of_signs(
        (w, b, t, x) in ([1usize..140, 1usize..40], [1usize..4, 1usize..4]).prop_flat_map(|([c, m], [kh, kw])| {
            let w = strategies::tensor(&[m, c, kh, kw]);
            (w, strategies::tensor(&[m]), strategies::tensor(&[c]), strategies::tensor(&[2, c, 8, 9]))
        }),
        options in options(),
        bias in any::<bool>(),
    ) {
        let weights = signs(&w, &t, bias.then_some(&b));
        check(&XnorConv2d::new(weights, options).unwrap(), &x, true);
    }

    #[test]
    fn linear_layers_of_signs(
        (w, b, t, x) in (1usize..40, 1usize..150).prop_flat_map(|(outputs, inputs)| {
            let w = strategies::tensor(&[outputs, inputs]);
            (w, strategies::tensor(&[outputs]), strategies::tensor(&[inputs]), strategies::tensor(&[3, inputs]))
        }),
        bias in any::<bool>(),
    ) {
        check(&XnorLinear::new(signs(&w, &t, bias.then_some(&b))).unwrap(), &x, true);
    }

    #[test]
    fn codebooks(
        w in strategies::tensor(&[6, 2, 3, 3]),
        v in strategies::tensor(&[5, 7]),
        (x, z) in (strategies::tensor(&[3, 2, 7, 8]), strategies::tensor(&[3, 7])),
        options in options(),
    ) {
        let few = |w: Tensor| w.mapv(|w| (w * 20.0).round() / 20.0);
        check(&CodebookConv2d::pack(&Conv2d::new(few(w), None, options).unwrap()).unwrap(), &x, false);
        check(&CodebookLinear::pack(&Linear::new(few(v), None).unwrap()).unwrap(), &z, false);
    }
}

fn numbers(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    tensor(
        shape,
        (0..count).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 1023) as f32 / 512.0 - 1.0).collect(),
    )
    .unwrap()
}

/// Bytes in and out of depthwise layers, as many channels as blocks of bytes have and others, single pixels and odd rows; the same bits on
/// every processor.
#[test]
fn depthwise_layers_between_bytes() {
    let shapes = [
        (64, [5, 7], 1),
        (70, [3, 1], 1),
        (3, [1, 2], 1),
        (130, [6, 5], 2),
        (1, [3, 3], 2),
        (192, [9, 8], 1),
    ];
    let mut sum = crc32fast::Hasher::new();
    for ((c, [h, w], stride), norms) in shapes.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
        let options = ConvOptions::default().pad(1);
        let weights = |w: &[usize], high| {
            let range = Int8Range::new(&numbers(w), WeightGrid::Symmetric, Grid::affine(-0.5, high));
            Int8Weights::new(&numbers(w), Some(&numbers(&w[..1])), &range).unwrap()
        };
        let mut norm = BatchNorm::new(c);
        norm.gamma_mut().set_base(numbers(&[c]));
        norm.beta_mut().set_base(numbers(&[c]));
        let mut graph = Graph::new(&[2, h, w]);
        graph.push("first", Conv2dI8::new(weights(&[c, 2, 3, 3], 1.0), options).unwrap()).unwrap();
        if norms {
            graph.push("norm", norm.clone()).unwrap();
        }
        let depthwise = weights(&[c, 1, 3, 3], 3.0);
        graph.push("depthwise", Conv2dI8::new(depthwise, options.groups(c).stride(stride)).unwrap()).unwrap();
        if norms {
            graph.push("norm2", norm).unwrap();
        }
        graph.push("relu", Activation::relu()).unwrap();
        let last = Conv2dI8::new(weights(&[5, c, 1, 1], 2.0), ConvOptions::default()).unwrap();
        graph.push("last", last).unwrap();
        let x = numbers(&[2, 2, h, w]);
        let y = run(&graph, &x, 1);
        assert_eq!(run(&graph, &x, 2), y);
        if !norms {
            assert_eq!(y, graph.infer(&x).unwrap(), "{c} channels");
        }
        y.iter().for_each(|v| sum.update(&v.to_le_bytes()));
    }
    assert_eq!(sum.finalize(), 2_303_994_972);
}

/// Large enough to be cut into parts by rows and by channels.
#[test]
fn many_parts() {
    for (w, x, options) in [
        ([40, 16, 3, 3], [3, 16, 30, 31], ConvOptions::default().pad(1)),
        ([300, 130, 3, 3], [1, 130, 7, 7], ConvOptions::default().pad(1)),
        ([96, 65, 1, 1], [3, 65, 20, 20], ConvOptions::default()),
        ([64, 32, 3, 3], [1, 64, 24, 24], ConvOptions::default().pad(1).groups(2)),
        ([72, 1, 3, 3], [3, 72, 31, 33], ConvOptions::default().pad(1).groups(72)),
    ] {
        let weights = int8(&numbers(&w), Some(&numbers(&w[..1])), WeightGrid::Symmetric);
        check(&Conv2dI8::new(weights, options).unwrap(), &numbers(&x), true);
    }
    for (w, x) in [([40, 64, 3, 3], [2, 64, 30, 31]), ([300, 130, 3, 3], [1, 130, 17, 7])] {
        let weights = signs(&numbers(&w), &numbers(&w[1..2]), Some(&numbers(&w[..1])));
        check(&XnorConv2d::new(weights, ConvOptions::default().pad(1)).unwrap(), &numbers(&x), true);
    }
    let weights = int8(&numbers(&[1000, 515]), None, WeightGrid::Affine);
    check(&LinearI8::new(weights).unwrap(), &numbers(&[3, 515]), true);
}

/// The reference executor's own kernels take over where padding would take more memory than there is.
#[test]
fn absurd_padding_runs_by_the_reference() {
    let layer = Conv2dI8::new(
        int8(&numbers(&[1, 1, 1, 1]), None, WeightGrid::Symmetric),
        ConvOptions { stride: [1 << 11; 2], pad: [0, 0, 1 << 12, 1 << 12], ..ConvOptions::default() },
    )
    .unwrap();
    let graph = graph(&layer, &numbers(&[1, 1, 2, 2]), false, false, true);
    let mut session = Session::new(graph.clone(), &SessionOptions::default()).unwrap();
    let x = numbers(&[1, 1, 2, 2]);
    assert_eq!(session.run(&x).unwrap(), graph.infer(&x).unwrap());
}

/// NaN is level 0, and infinity an end of the grid, as for the reference.
#[test]
fn inputs_that_are_no_numbers() {
    let weights = int8(&numbers(&[20, 5, 3, 3]), Some(&numbers(&[20])), WeightGrid::Symmetric);
    let layer = Conv2dI8::new(weights, ConvOptions::default().pad(1)).unwrap();
    let mut x = numbers(&[2, 5, 9, 8]);
    for (at, v) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX].into_iter().enumerate() {
        x.iter_mut().skip(at * 7).step_by(37).for_each(|x| *x = v);
    }
    check(&layer, &x, true);
}

/// A network wholly in 8 bits: convolutions of all kinds, a shortcut, pooling, a linear layer.
fn whole() -> (Graph, Tensor) {
    let mut graph = Graph::new(&[3, 20, 18]);
    let layer = |w: &[usize], options: ConvOptions| {
        let (w, b) = (numbers(w).mapv(|v| 0.3 * v), numbers(&w[..1]));
        Conv2dI8::new(int8(&w, Some(&b), WeightGrid::Symmetric), options).unwrap()
    };
    let same = ConvOptions::default().pad(1);
    graph.push("first", layer(&[24, 3, 3, 3], same)).unwrap();
    graph.push("first.relu", Activation::relu()).unwrap();
    graph.push("depthwise", layer(&[24, 1, 3, 3], same.groups(24))).unwrap();
    graph.push("pointwise", layer(&[40, 24, 1, 1], ConvOptions::default())).unwrap();
    graph.push("pointwise.relu", Activation { function: ActivationFn::Relu6 }).unwrap();
    graph.push("inner", layer(&[40, 40, 3, 3], same)).unwrap();
    graph.add("sum", Add, &["inner", "pointwise.relu"]).unwrap();
    graph.push("sum.relu", Activation::relu()).unwrap();
    let window = Window { kernel: [2, 2], stride: [2, 2], pad: [0; 4], ceil_mode: false };
    graph.push("pool", MaxPool2d { window }).unwrap();
    graph.push("grouped", layer(&[16, 20, 3, 3], same.groups(2).stride(2))).unwrap();
    graph.push("flatten", Flatten).unwrap();
    let w = int8(&numbers(&[10, 16 * 5 * 5]), Some(&numbers(&[10])), WeightGrid::Affine);
    graph.push("fc", LinearI8::new(w).unwrap()).unwrap();
    (graph, numbers(&[2, 3, 20, 18]))
}

/// The same bits on every instruction set, of which the tests are told one, whatever the number of threads, and by the reference.
#[test]
fn the_bits_are_the_same_everywhere() {
    let (graph, x) = whole();
    let expected = graph.infer(&x).unwrap();
    for threads in [1, 2, 3] {
        assert_eq!(run(&graph, &x, threads), expected, "{threads} threads");
    }
    let bytes: Vec<u8> = expected.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(crc32fast::hash(&bytes), 1_976_851_814, "{expected}");
}

/// Bytes between layers: through pooling and concatenations (at whole floats, and not), values with readers that want different grids, one
/// that a shortcut reads too, one inside two concatenations.
#[test]
fn bytes_between_layers_change_nothing() {
    let layer = |w: &[usize], options: ConvOptions, input: Grid| {
        let (w, b) = (numbers(w).mapv(|v| 0.3 * v), numbers(&w[..1]));
        let weights =
            Int8Weights::new(&w, Some(&b), &Int8Range::new(&w, WeightGrid::Symmetric, input)).unwrap();
        Conv2dI8::new(weights, options).unwrap()
    };
    let (wide, narrow) = (Grid::affine(-1.0, 2.5), Grid::affine_bits(0.0, 1.5, 4));
    let (same, plain) = (ConvOptions::default().pad(1), ConvOptions::default());
    for (a, b) in [(16, 8), (15, 8), (16, 7), (13, 5)] {
        for grids in [[wide, wide], [wide, narrow]] {
            let mut graph = Graph::new(&[3, 17, 18]);
            graph.push("first", layer(&[a, 3, 3, 3], same, wide)).unwrap();
            graph.push("relu", Activation::relu()).unwrap();
            graph.add("left", layer(&[a, a, 1, 1], plain, grids[0]), &["relu"]).unwrap();
            graph.add("right", layer(&[b, a, 3, 3], same, grids[1]), &["relu"]).unwrap();
            graph.push("right.relu", Activation::relu()).unwrap();
            graph.add("joined", Concat, &["left", "right.relu"]).unwrap();
            let window = Window { kernel: [3, 3], stride: [2, 2], pad: [1; 4], ceil_mode: false };
            graph.push("pool", MaxPool2d { window }).unwrap();
            graph.push("deep", layer(&[a + b, 1, 3, 3], same.groups(a + b), narrow)).unwrap();
            graph.push("leaky", Activation { function: ActivationFn::LeakyRelu(0.25) }).unwrap();
            graph.push("point", layer(&[a + b, a + b, 1, 1], plain.stride(2), wide)).unwrap();
            graph.push("next", layer(&[a, a + b, 3, 3], same, wide)).unwrap();
            graph.add("again", Concat, &["next", "point"]).unwrap();
            graph.push("inner", layer(&[2 * a + b, 2 * a + b, 1, 1], plain, wide)).unwrap();
            graph.add("sum", Add, &["inner", "again"]).unwrap();
            graph.add("all", Concat, &["again", "sum"]).unwrap();
            graph.push("last", layer(&[8, 4 * a + 2 * b, 1, 1], plain, wide)).unwrap();
            let x = numbers(&[2, 3, 17, 18]);
            let expected = graph.infer(&x).unwrap();
            // where kernels read bytes at all, they do here, and where a part would begin inside a float they do not
            let reads = graph.layer::<Conv2dI8>("deep").unwrap().unwrap().reads(Isa::active()).is_some();
            let options = SessionOptions::default().batches(&graph, &[2]);
            let profile = Session::new(graph.clone(), &options).unwrap().profile(&x, 1).unwrap();
            let pooled = profile.rows.iter().any(|row| row.algorithm == "maximum of codes");
            assert_eq!(pooled, reads && a % 4 == 0, "{a} and {b}");
            for threads in [1, 2] {
                assert_eq!(run(&graph, &x, threads), expected, "{a} and {b}, {grids:?}, {threads} threads");
            }
        }
    }
}

/// Large enough to be looked up where the processor can, with few values and many, for all rows and for each.
#[test]
fn large_layers_of_shared_weights() {
    for (values, groups) in [(3, 1), (16, 1030), (30, 2), (200, 1)] {
        let w = numbers(&[1030, 1100]).mapv(|v| (v * values as f32 / 3.0).round() / 8.0);
        let ends = (1..=groups).map(|i| i * 1030 / groups).collect();
        let weights = CodebookWeights::with_groups(&w, ends).unwrap();
        let layer = CodebookLinear::new(weights, Some(numbers(&[1030]))).unwrap();
        let x = numbers(&[1, 1100]);
        let graph = graph(&layer, &x, groups == 1, groups == 2, true);
        let y = run(&graph, &x, 1);
        assert!(difference(&y, &graph.infer(&x).unwrap()) < 1e-5);
        assert_eq!(run(&graph, &x, 2), y);
        let mut session = Session::new(graph, &SessionOptions::default()).unwrap();
        let looked_up = session.profile(&x, 1).unwrap().rows[0].algorithm == "lookup";
        let can = Isa::active().name() == "avx512" && layer.weights().alphabet() <= 32;
        assert_eq!(looked_up, can, "{} values", layer.weights().alphabet());
    }
}
