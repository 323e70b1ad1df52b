//! Each kernel against the layer's own inference, for all instruction sets of the machine.

use crate::graph::Graph;
use crate::layer::Layer;
use crate::layers::*;
use crate::ops::activation::ActivationFn;
use crate::session::{Choices, Session, SessionOptions};
use crate::simd::Isa;
use crate::tensor::{Tensor, elements, tensor, zeros};
use crate::train::Trainable;
use proptest::prelude::*;

/// Different numbers around zero, the same each time.
fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 2654435761 + seed * 97 + 13) % 2003) as f32 / 1001.0 - 1.0;
    tensor(shape, (0..elements(shape)).map(value).collect()).unwrap()
}

/// What follows the layer, and becomes its epilogue.
#[derive(Debug, Clone, Copy)]
struct Tail {
    norm: bool,
    residual: bool,
    activation: Option<ActivationFn>,
}

fn tails() -> impl Strategy<Value = Tail> {
    let activation = prop_oneof![
        Just(None),
        Just(Some(ActivationFn::Relu)),
        Just(Some(ActivationFn::Relu6)),
        Just(Some(ActivationFn::Clip(-0.25, 0.5))),
        Just(Some(ActivationFn::HardSwish)),
    ];
    (any::<bool>(), any::<bool>(), activation).prop_map(|(norm, residual, activation)| Tail {
        norm,
        residual,
        activation,
    })
}

/// The layer called "layer", then the tail. The shortcut takes the way of a second layer of the same kind.
fn with_tail(mut graph: Graph, layer: impl Layer + Clone, inputs: &[&str], tail: Tail) -> Graph {
    if tail.residual {
        graph.add("shortcut", layer.clone(), inputs).unwrap();
    }
    graph.add("layer", layer, inputs).unwrap();
    let mut last = "layer";
    if tail.norm {
        let c = graph.shapes(1).unwrap().last().unwrap()[1];
        let norm = BatchNorm::new(c);
        graph.add("norm", with_numbers(norm), &[last]).unwrap();
        last = "norm";
    }
    if tail.residual {
        graph.add("sum", Add, &[last, "shortcut"]).unwrap();
        last = "sum";
    }
    if let Some(function) = tail.activation {
        graph.add("activation", Activation { function }, &[last]).unwrap();
    }
    graph
}

fn with_numbers(mut norm: BatchNorm) -> BatchNorm {
    for (i, p) in norm.params_mut().into_iter().enumerate() {
        let values = numbers(p.shape(), i).mapv(|v| v.abs() + 0.5);
        p.set_base(values);
    }
    norm
}

/// The largest difference, relative to the largest sum of absolute terms: rounding errors come from these, and neither the sum nor what
/// an activation leaves of it has to be of their size.
fn rounding(graph: &Graph, x: &Tensor, y: &Tensor, expected: &Tensor) -> f32 {
    let mut values = vec![x.abs()];
    for node in &graph.nodes()[1..] {
        let inputs: Vec<&Tensor> = node.inputs.iter().map(|&i| &values[i]).collect();
        let mut layer = node.layer().clone_box();
        values.push(if layer.kind() == "activation" {
            inputs[0].clone()
        } else {
            let params = layer.trainable().map(|t| t.params_mut()).unwrap_or_default();
            params.into_iter().for_each(|p| p.set_base(p.base().abs()));
            layer.infer(&inputs).unwrap()
        });
    }
    let largest = values[graph.output()].iter().fold(f32::MIN_POSITIVE, |most, v| most.max(*v));
    y.iter().zip(expected).fold(0f32, |most, (y, e)| {
        let off = (y - e).abs();
        if off.is_finite() { most.max(off / largest) } else { f32::INFINITY }
    })
}

/// The session's output for every instruction set is that of the graph, and `layer` has a kernel of its own.
fn agree(graph: &Graph, batch: usize) -> Result<(), TestCaseError> {
    let shape = [&[batch], graph.input_shape()].concat();
    agree_on(graph, &numbers(&shape, 5))
}

fn agree_on(graph: &Graph, x: &Tensor) -> Result<(), TestCaseError> {
    let expected = graph.infer(x).unwrap();
    for isa in Isa::available() {
        let options = SessionOptions { shapes: vec![x.shape().to_vec()], ..SessionOptions::default() };
        let mut session = Session::with_isa(graph.clone(), &options, isa).unwrap();
        let lowered = session.plans[0].steps.iter().all(|s| s.kernel.algorithm() != "reference");
        prop_assert!(lowered, "{:?}", session.plans[0].steps);
        let y = session.run(x).unwrap();
        prop_assert_eq!(y.shape(), expected.shape());
        let error = rounding(graph, x, &y, &expected);
        prop_assert!(error < 3e-6, "{}: {error}", isa.name());
    }
    Ok(())
}

fn windows() -> impl Strategy<Value = Window> {
    ([1usize..5, 1usize..5], [1usize..4, 1usize..4], any::<[u8; 4]>(), any::<bool>()).prop_map(
        |(kernel, stride, pad, ceil_mode)| {
            let pad = [0, 1, 2, 3].map(|i| pad[i] as usize % kernel[i % 2]);
            Window { kernel, stride, pad, ceil_mode }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn depthwise(
        c in prop_oneof![2usize..9, 9usize..40],
        (h, w) in (7usize..12, 7usize..26),
        kernel in prop_oneof![Just([3, 3]), Just([5, 5]), Just([7, 7]), Just([2, 4]), Just([1, 3])],
        stride in prop_oneof![Just([1, 1]), Just([2, 2]), Just([2, 1]), Just([3, 2])],
        pad in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
        dilation in prop_oneof![3 => Just([1, 1]), 1 => Just([1, 2]), 1 => Just([2, 1])],
        bias: bool,
        tail in tails(),
        batch in prop_oneof![Just(1usize), Just(3)],
    ) {
        let options = ConvOptions { stride, pad, dilation, groups: c };
        let weight = numbers(&[c, 1, kernel[0], kernel[1]], 1);
        let conv = Conv2d::new(weight, bias.then(|| numbers(&[c], 2)), options).unwrap();
        prop_assume!(conv.output_shape(&[&[1, c, h, w]]).is_ok());
        agree(&with_tail(Graph::new(&[c, h, w]), conv, &["input"], tail), batch)?;
    }

    #[test]
    fn max_pool(c in 1usize..40, (h, w) in (4usize..9, 4usize..9), window in windows(), tail in tails(), nan: bool) {
        let pool = MaxPool2d { window };
        prop_assume!(pool.output_shape(&[&[1, c, h, w]]).is_ok());
        let mut x = numbers(&[3, c, h, w], 5);
        if nan {
            x.as_slice_mut().unwrap().iter_mut().step_by(7).for_each(|v| *v = f32::NAN);
            let graph = with_tail(Graph::new(&[c, h, w]), pool, &["input"], Tail { residual: false, ..tail });
            let expected = graph.infer(&x).unwrap();
            for isa in Isa::available() {
                let options = SessionOptions { shapes: vec![x.shape().to_vec()], ..SessionOptions::default() };
                let y = Session::with_isa(graph.clone(), &options, isa).unwrap().run(&x).unwrap();
                let same = |(a, b): (&f32, &f32)| a.is_nan() == b.is_nan() && (a.is_nan() || (a - b).abs() < 1e-5);
                prop_assert!(y.iter().zip(&expected).all(same), "{}", isa.name());
            }
        } else {
            agree_on(&with_tail(Graph::new(&[c, h, w]), pool, &["input"], tail), &x)?;
        }
    }

    #[test]
    fn avg_pool(
        c in 1usize..40,
        (h, w) in (4usize..9, 4usize..9),
        window in windows(),
        count_include_pad: bool,
        tail in tails(),
        batch in prop_oneof![Just(1usize), Just(3)],
    ) {
        let pool = AvgPool2d { window, count_include_pad };
        prop_assume!(pool.output_shape(&[&[1, c, h, w]]).is_ok());
        agree(&with_tail(Graph::new(&[c, h, w]), pool, &["input"], tail), batch)?;
    }

    #[test]
    fn means(
        c in 1usize..40,
        (h, w) in (1usize..24, 1usize..24),
        size in [1usize..5, 1usize..5],
        tail in tails(),
        batch in prop_oneof![Just(1usize), Just(3)],
    ) {
        let input = || Graph::new(&[c, h, w]);
        agree(&with_tail(input(), AdaptiveAvgPool { size }, &["input"], tail), batch)?;
        agree(&with_tail(input(), GlobalAvgPool, &["input"], tail), batch)?;
    }

    #[test]
    fn pad_and_softmax(
        c in 1usize..40,
        pad in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
        tail in tails(),
        batch in prop_oneof![Just(1usize), Just(3)],
    ) {
        let input = || Graph::new(&[c, 4, 5]);
        agree(&with_tail(input(), Pad { pad, value: 0.5 }, &["input"], tail), batch)?;
        agree(&with_tail(input(), Softmax, &["input"], tail), batch)?;
    }

    #[test]
    fn elementwise(
        c in 1usize..40,
        (h, w) in (1usize..6, 1usize..6),
        summands in 1usize..4,
        tail in tails(),
        batch in prop_oneof![Just(1usize), Just(3)],
    ) {
        let mut graph = Graph::new(&[c, h, w]);
        let names = ["input", "a", "b"];
        for name in &names[1..] {
            graph.add(name, Activation { function: ActivationFn::Sigmoid }, &["input"]).unwrap();
        }
        match summands {
            1 => agree(&with_tail(graph, with_numbers(BatchNorm::new(c)), &["input"], tail), batch)?,
            n => agree(&with_tail(graph, Add, &names[..n], tail), batch)?,
        }
        // an activation, with an epilogue that does not fit behind it
        for function in [ActivationFn::Relu, ActivationFn::Silu] {
            agree(&with_tail(Graph::new(&[c, h, w]), Activation { function }, &["input"], tail), batch)?;
        }
    }

    #[test]
    fn product(
        c in 1usize..40,
        (h, w) in (1usize..6, 1usize..6),
        equal: bool,
        swapped: bool,
        tail in tails(),
        batch in prop_oneof![Just(1usize), Just(3)],
    ) {
        let mut graph = Graph::new(&[c, h, w]);
        match equal {
            true => graph.add("factor", Activation { function: ActivationFn::Sigmoid }, &["input"]).unwrap(),
            false => graph.add("factor", GlobalAvgPool, &["input"]).unwrap(),
        }
        let inputs = if swapped { ["factor", "input"] } else { ["input", "factor"] };
        agree(&with_tail(graph, Mul, &inputs, tail), batch)?;
    }

    #[test]
    fn channels_in_any_order(
        c in 1usize..40,
        groups in 1usize..6,
        picks in proptest::collection::vec(any::<Option<u8>>(), 1..30),
        batch in prop_oneof![Just(1usize), Just(3)],
    ) {
        let c = c * groups;
        let mut graph = Graph::new(&[c, 3, 2]);
        graph.push("shuffle", ChannelMap::shuffle(c, groups).unwrap()).unwrap();
        agree(&graph, batch)?;
        // two halves, shuffled together
        let mut graph = Graph::new(&[c, 3, 2]);
        graph.add("a", Activation { function: ActivationFn::Relu }, &["input"]).unwrap();
        graph.add("both", Concat, &["input", "a"]).unwrap();
        graph.add("shuffle", ChannelMap::shuffle(2 * c, 2).unwrap(), &["both"]).unwrap();
        agree(&graph, batch)?;
        let mut graph = Graph::new(&[c, 3, 2]);
        let map = picks.iter().map(|p| p.map(|p| p as usize % c)).collect();
        graph.push("any", ChannelMap::new(c, map).unwrap()).unwrap();
        agree(&graph, batch)?;
    }
}

/// The fast tiles: usual kernels and strides, rows of all lengths that matter, whole and partial vectors.
#[test]
fn depthwise_of_usual_networks() {
    let activation = Some(ActivationFn::Relu6);
    let tails = [
        Tail { norm: true, residual: false, activation },
        Tail { norm: true, residual: true, activation: None },
        Tail { norm: false, residual: true, activation: Some(ActivationFn::HardSwish) },
    ];
    for (k, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)] {
        for (i, (h, w)) in [(1, 1), (4, 2), (7, 7), (6, 8), (5, 10), (3, 13), (5, 21)].into_iter().enumerate()
        {
            for c in [5, 16, 37] {
                let options = ConvOptions::default().pad(k / 2).stride(stride).groups(c);
                let conv = Conv2d::new(numbers(&[c, 1, k, k], 1), Some(numbers(&[c], 2)), options).unwrap();
                let graph = with_tail(Graph::new(&[c, h, w]), conv, &["input"], tails[i % 3]);
                agree(&graph, 2).unwrap_or_else(|e| panic!("{k}x{k}/{stride}, {c} x {h} x {w}: {e}"));
            }
        }
    }
}

#[test]
fn nan_passes_the_fused_activations() {
    for function in [ActivationFn::Relu, ActivationFn::Relu6, ActivationFn::Clip(-1.0, 1.0)] {
        let conv =
            Conv2d::new(numbers(&[20, 1, 3, 3], 1), None, ConvOptions::default().pad(1).groups(20)).unwrap();
        let mut graph = Graph::new(&[20, 5, 9]);
        graph.push("conv", conv).unwrap();
        graph.push("f", Activation { function }).unwrap();
        let mut x = zeros(&[1, 20, 5, 9]);
        x[[0, 3, 2, 4]] = f32::NAN;
        let expected = graph.infer(&x).unwrap();
        for isa in Isa::available() {
            let y =
                Session::with_isa(graph.clone(), &SessionOptions::default(), isa).unwrap().run(&x).unwrap();
            assert!(y.iter().zip(&expected).all(|(a, b)| a.is_nan() == b.is_nan()), "{}", isa.name());
            assert_eq!(y.iter().filter(|v| v.is_nan()).count(), 9);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let options = ConvOptions::default().pad(1).groups(64);
    let mut graph = Graph::new(&[64, 56, 56]);
    graph.push("conv", Conv2d::new(numbers(&[64, 1, 3, 3], 1), None, options).unwrap()).unwrap();
    graph.push("f", Activation { function: ActivationFn::HardSwish }).unwrap();
    graph.push("pool", MaxPool2d { window: Window::square(3).stride(2) }).unwrap();
    graph.push("mean", GlobalAvgPool).unwrap();
    let x = numbers(&[1, 64, 56, 56], 3);
    let run = |threads| {
        let options = SessionOptions::with_threads(threads).unwrap();
        Session::new(graph.clone(), &options).unwrap().run(&x).unwrap()
    };
    assert_eq!(run(1), run(3));
}

/// A convolution with numbers of its own.
fn conv(m: usize, c: usize, kernel: [usize; 2], options: ConvOptions) -> Conv2d {
    let weight = numbers(&[m, c / options.groups, kernel[0], kernel[1]], 1);
    Conv2d::new(weight, Some(numbers(&[m], 2)), options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn direct_convolution(
        (c, m, groups) in (1usize..20, 1usize..40, 1usize..4),
        (h, w) in (5usize..12, 5usize..12),
        kernel in [1usize..5, 1usize..5],
        stride in [1usize..4, 1usize..4],
        pad in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        dilation in prop_oneof![4 => Just([1, 1]), 1 => Just([2, 1]), 1 => Just([1, 2])],
        (tail, batch) in (tails(), 1usize..4),
    ) {
        let options = ConvOptions { stride, pad, dilation, groups };
        let layer = conv(m * groups, c * groups, kernel, options);
        let mut graph = Graph::new(&[c * groups, h, w]);
        prop_assume!(layer.output_shape(&[&[1, c * groups, h, w]]).is_ok());
        // behind an activation the image is channels-last, in front of it planar
        graph = with_tail(graph, layer.clone(), &["input"], tail);
        agree_exactly(&graph, batch)?;
        let mut graph = Graph::new(&[c * groups, h, w]);
        graph.push("before", Activation { function: ActivationFn::Relu }).unwrap();
        agree_exactly(&with_tail(graph, layer, &["before"], tail), batch)?;
    }

    #[test]
    fn winograd_convolution(
        (c, m) in (1usize..40, 1usize..70),
        (h, w) in (1usize..20, 1usize..20),
        pad in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        (tail, batch) in (tails(), 1usize..4),
    ) {
        let layer = conv(m, c, [3, 3], ConvOptions { pad, ..ConvOptions::default() });
        prop_assume!(layer.output_shape(&[&[1, c, h, w]]).is_ok());
        let graph = with_tail(Graph::new(&[c, h, w]), layer, &["input"], tail);
        agree_by_winograd(&graph, &numbers(&[batch, c, h, w], 5))?;
    }

    #[test]
    fn linear(
        (inputs, outputs) in (1usize..100, 1usize..300),
        (activation, residual) in (tails(), any::<bool>()),
        batch in 1usize..9,
    ) {
        let layer = Linear::new(numbers(&[outputs, inputs], 1), Some(numbers(&[outputs], 2))).unwrap();
        let tail = Tail { norm: false, residual, ..activation };
        agree(&with_tail(Graph::new(&[inputs]), layer, &["input"], tail), batch)?;
    }
}

/// The convolutions called "layer" and "shortcut" by each of Winograd's ways.
fn agree_by_winograd(graph: &Graph, x: &Tensor) -> Result<(), TestCaseError> {
    let expected = graph.infer(x).unwrap();
    for isa in Isa::available() {
        for name in ["winograd-2x2", "winograd-4x4"] {
            let key = |node: &str| (Choices::key(node, x.shape()), name.to_string());
            let choices = Choices([key("layer"), key("shortcut")].into_iter().collect());
            let shapes = vec![x.shape().to_vec()];
            let options = SessionOptions { shapes, choices: Some(choices), ..SessionOptions::default() };
            let mut session = Session::with_isa(graph.clone(), &options, isa).unwrap();
            prop_assert!(session.plans[0].steps.iter().any(|s| s.kernel.algorithm() == name));
            let error = rounding(graph, x, &session.run(x).unwrap(), &expected);
            // the transforms round about ten times as much as plain sums, more where sums cancel
            prop_assert!(error < 3e-5, "{name}, {}: {error}", isa.name());
        }
    }
    Ok(())
}

/// As [`agree`], without Winograd.
fn agree_exactly(graph: &Graph, batch: usize) -> Result<(), TestCaseError> {
    let x = numbers(&[&[batch], graph.input_shape()].concat(), 5);
    let expected = graph.infer(&x).unwrap();
    for isa in Isa::available() {
        let shapes = vec![x.shape().to_vec()];
        let options = SessionOptions { shapes, exact: true, ..SessionOptions::default() };
        let mut session = Session::with_isa(graph.clone(), &options, isa).unwrap();
        let error = rounding(graph, &x, &session.run(&x).unwrap(), &expected);
        prop_assert!(error < 3e-6, "{}: {error}", isa.name());
    }
    Ok(())
}

/// So many weights that parts share the work by filters, and products are kept for some panels at a time.
#[test]
fn heavy_winograd_convolution() {
    for (c, m, h, w) in [(130, 140, 21, 23), (70, 300, 62, 30)] {
        let layer = conv(m, c, [3, 3], ConvOptions { pad: [1; 4], ..ConvOptions::default() });
        let tail = Tail { norm: false, residual: true, activation: Some(ActivationFn::Relu) };
        let graph = with_tail(Graph::new(&[c, h, w]), layer, &["input"], tail);
        agree_by_winograd(&graph, &numbers(&[1, c, h, w], 5)).unwrap();
    }
}

/// Sums that are cut into pieces: of one run, of several runs, and of runs one by one.
#[test]
fn convolutions_with_many_channels() {
    let dilated = ConvOptions { dilation: [2, 2], ..ConvOptions::default() };
    for (c, kernel, options) in [
        (600, [1, 1], ConvOptions::default()),
        (150, [3, 3], ConvOptions { pad: [1; 4], ..ConvOptions::default() }),
        (150, [3, 3], dilated),
        (100, [2, 2], dilated),
    ] {
        let tail = Tail { norm: true, residual: true, activation: Some(ActivationFn::Relu) };
        let layer = conv(40, c, kernel, options);
        let mut graph = Graph::new(&[c, 7, 9]);
        graph.push("before", Activation { function: ActivationFn::Relu }).unwrap();
        agree_exactly(&with_tail(graph, layer, &["before"], tail), 2).unwrap();
    }
}

#[test]
fn large_linear_layers_use_the_weights_they_have() {
    let layer = Linear::new(numbers(&[1026, 1029], 1), Some(numbers(&[1026], 2))).unwrap();
    for (residual, activation) in
        [(false, None), (true, Some(ActivationFn::Relu)), (false, Some(ActivationFn::Tanh))]
    {
        let tail = Tail { norm: false, residual, activation };
        let graph = with_tail(Graph::new(&[1029]), layer.clone(), &["input"], tail);
        for batch in [1, 3] {
            agree(&graph, batch).unwrap();
        }
        let session = Session::new(graph, &SessionOptions::default()).unwrap();
        assert!(session.plans[0].steps.iter().any(|s| s.kernel.algorithm() == "rows x vector"));
    }
}

#[test]
fn a_choice_that_does_not_fit_is_an_error() {
    let mut graph = Graph::new(&[3, 8, 8]);
    graph.push("conv", conv(4, 3, [3, 3], ConvOptions::default())).unwrap();
    let choices = Choices([("conv@1x3x8x8".to_string(), "fft".to_string())].into_iter().collect());
    let options = SessionOptions { choices: Some(choices), ..SessionOptions::default() };
    let error = Session::new(graph, &options).unwrap_err().to_string();
    assert!(error.contains("fft") && error.contains("winograd-4x4") && error.contains("direct"), "{error}");
}
