//! The sparse layers in a session: the same values as the reference executor, alone and with what follows them fused.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::layers::{Activation, Add, BatchNorm, Conv2d, ConvOptions, Linear};
use cnn_core::session::{Choices, Session, SessionOptions, Tuning};
use cnn_core::tensor::tensor;
use cnn_core::testing::{difference, strategies};
use cnn_core::{Graph, Layer, Tensor};
use cnn_prune::{SparseConv2d, SparseLinear, outlook};
use ndarray::{Axis, Slice};
use proptest::prelude::*;

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

/// The sparse kernel for the layers of [`graph`], whatever the cost model says.
fn forced(shapes: &[Vec<usize>], name: &str) -> Choices {
    let keys = shapes.iter().flat_map(|s| [Choices::key("layer", s), Choices::key("twin", s)]);
    Choices(keys.map(|key| (key, name.to_string())).collect())
}

/// The output of a session for whole batches, on so many threads, by sparse kernels of that name or as the cost model says; no layer
/// may have run by its reference.
fn run(graph: &Graph, x: &Tensor, threads: usize, sparse: Option<&str>) -> Tensor {
    let mut options = SessionOptions::with_threads(threads).unwrap().batches(graph, &[x.shape()[0], 1]);
    options.choices = sparse.map(|name| forced(&options.shapes, name));
    let mut session = Session::new(graph.clone(), &options).unwrap();
    let y = session.run(x).unwrap();
    let first = x.slice_axis(Axis(0), Slice::from(0..1)).as_standard_layout().to_owned();
    let alone = session.run(&first).unwrap();
    let of_first = y.slice_axis(Axis(0), Slice::from(0..1)).to_owned();
    assert!(difference(&alone, &of_first) < 1e-5);
    let profile = session.profile(x, 1).unwrap();
    let ours = |kind: &str| kind.starts_with("prune.");
    assert!(profile.rows.iter().all(|r| r.algorithm != "reference"), "{profile}");
    let asked = |algorithm: &str| sparse.is_none_or(|name| name == algorithm);
    assert!(profile.rows.iter().all(|r| !ours(&r.kind) || asked(&r.algorithm)), "{profile}");
    y
}

/// By the sparse kernel, on two threads too, by that for blocks where there is one, and as the cost model says.
fn check<L: Layer + Clone>(layer: &L, x: &Tensor, exact: bool, blocks: bool) {
    for fused in 0..8 {
        let graph = graph(layer, x, fused & 1 != 0, fused & 2 != 0, fused & 4 != 0);
        let expected = graph.infer(x).unwrap();
        let y = run(&graph, x, 1, Some("sparse"));
        // added in the order of the reference
        if exact && fused & 3 == 0 {
            assert_eq!(y, expected);
        }
        let error = difference(&y, &expected);
        assert!(error <= 1e-5, "{fused}: {error}");
        assert_eq!(run(&graph, x, 2, Some("sparse")), y, "two threads");
        if blocks {
            let y = run(&graph, x, 1, Some("sparse-blocks"));
            let error = difference(&y, &expected);
            assert!(error <= 1e-5, "{fused}: {error}");
            assert_eq!(run(&graph, x, 2, Some("sparse-blocks")), y, "two threads");
        }
        let y = run(&graph, x, 1, None);
        let error = difference(&y, &expected);
        // Winograd's algorithm rounds more
        assert!(error <= 1e-4, "{fused}: {error}");
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

/// Zeros where the number of the weight, scrambled, is below the sparsity.
fn without(w: &Tensor, sparsity: f64) -> Tensor {
    let mut at = 0u32;
    w.mapv(|w| {
        at += 1;
        if f64::from(at.wrapping_mul(2_654_435_761) >> 16) / 65536.0 < sparsity { 0.0 } else { w }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolutions(
        (groups, w, b, x) in (1usize..4, 1usize..20, 1usize..20, [1usize..4, 1usize..4]).prop_flat_map(|(groups, c, m, [kh, kw])| {
            let w = strategies::tensor(&[m * groups, c, kh, kw]);
            (Just(groups), w, strategies::tensor(&[m * groups]), strategies::tensor(&[3, c * groups, 9, 19]))
        }),
        stride in [1usize..4, 1usize..4],
        pad in [0usize..3, 0usize..3, 0usize..2, 0usize..2],
        dilation in [1usize..3, 1usize..3],
        bias in any::<bool>(),
        sparsity in 0.0f64..1.05,
    ) {
        let options = ConvOptions { stride, pad, dilation, groups };
        let dense = Conv2d::new(without(&w, sparsity), bias.then_some(b), options).unwrap();
        check(&SparseConv2d::from_dense(&dense).unwrap(), &x, false, groups == 1);
    }

    #[test]
    fn linear_layers(
        (w, b, x) in (1usize..70, 1usize..50, 2usize..20).prop_flat_map(|(outputs, inputs, n)| {
            let x = strategies::tensor(&[n, inputs]);
            (strategies::tensor(&[outputs, inputs]), strategies::tensor(&[outputs]), x)
        }),
        bias in any::<bool>(),
        sparsity in 0.0f64..1.05,
    ) {
        let dense = Linear::new(without(&w, sparsity), bias.then_some(b)).unwrap();
        check(&SparseLinear::from_dense(&dense).unwrap(), &x, true, false);
    }
}

/// Of a dense and of an almost empty layer, by the cost model and as recorded.
#[test]
fn the_cost_model_decides_and_a_choice_is_replayed() {
    let x = numbers(&[1, 32, 28, 28]);
    for (sparsity, sparse) in [(0.2, false), (0.97, true)] {
        let w = without(&numbers(&[64, 32, 3, 3]), sparsity);
        let dense = Conv2d::new(w, None, ConvOptions::default().pad(1)).unwrap();
        let graph = graph(&SparseConv2d::from_dense(&dense).unwrap(), &x, true, false, true);
        let algorithm = |options: &SessionOptions| {
            let mut session = Session::new(graph.clone(), options).unwrap();
            assert!(difference(&session.run(&x).unwrap(), &graph.infer(&x).unwrap()) < 1e-4);
            let rows = session.profile(&x, 1).unwrap().rows;
            rows.iter().find(|r| r.node == "layer" && r.kind != "layout").unwrap().algorithm.clone()
        };
        assert_eq!(algorithm(&SessionOptions::default()) == "sparse", sparse);
        if !sparse {
            for name in ["sparse", "direct"] {
                let choices = Some(forced(&[x.shape().to_vec()], name));
                assert_eq!(algorithm(&SessionOptions { choices, ..SessionOptions::default() }), name);
            }
            let choices = Some(forced(&[x.shape().to_vec()], "guess"));
            let options = SessionOptions { choices, ..SessionOptions::default() };
            let message = Session::new(graph.clone(), &options).unwrap_err().to_string();
            assert!(message.contains("guess") && message.contains("sparse"), "{message}");
        }
    }
}

/// Also of a layer that names no others once it is told what to run.
#[test]
fn choices_are_recorded_however_they_were_made() {
    let x = numbers(&[1, 32, 28, 28]);
    let w = without(&numbers(&[64, 32, 3, 3]), 0.9);
    let dense = Conv2d::new(w, None, ConvOptions::default().pad(1)).unwrap();
    let graph = graph(&SparseConv2d::from_dense(&dense).unwrap(), &x, true, false, true);
    let key = Choices::key("layer", x.shape());
    let made = |options: &SessionOptions| Session::new(graph.clone(), options).unwrap().choices().clone();
    let measured = made(&SessionOptions { tuning: Tuning::Measure, ..SessionOptions::default() });
    assert!(measured.0.contains_key(&key), "{measured:?}");
    assert_eq!(
        made(&SessionOptions { choices: Some(measured.clone()), ..SessionOptions::default() }),
        measured
    );
    for name in ["sparse", "direct", "winograd-2x2"] {
        let forced = Some(Choices([(key.clone(), name.to_string())].into()));
        let again = made(&SessionOptions { choices: forced, ..SessionOptions::default() });
        assert_eq!(again.0.get(&key).map(String::as_str), Some(name));
    }
}

/// Large enough to be cut into parts by rows and by filters.
#[test]
fn many_parts() {
    for (w, x, options) in [
        ([40, 16, 3, 3], [3, 16, 60, 61], ConvOptions::default().pad(1)),
        ([300, 130, 3, 3], [1, 130, 7, 7], ConvOptions::default().pad(1)),
        ([96, 65, 1, 1], [3, 65, 20, 20], ConvOptions::default()),
        ([64, 32, 3, 3], [1, 64, 24, 24], ConvOptions::default().pad(1).groups(2).stride(2)),
        ([50, 33, 1, 1], [3, 33, 25, 26], ConvOptions::default().stride(2)),
    ] {
        for sparsity in [0.9, 0.99] {
            let dense =
                Conv2d::new(without(&numbers(&w), sparsity), Some(numbers(&w[..1])), options).unwrap();
            check(&SparseConv2d::from_dense(&dense).unwrap(), &numbers(&x), false, options.groups == 1);
        }
    }
    let dense = Linear::new(without(&numbers(&[1000, 515]), 0.9), None).unwrap();
    check(&SparseLinear::from_dense(&dense).unwrap(), &numbers(&[3, 515]), true, false);
}

/// Zeros in blocks of 16 filters, and the same for 32, are found without being told of.
#[test]
fn blocks_of_zeros_are_found() {
    for (filters, block) in [(40, 16), (64, 32), (300, 32)] {
        let x = numbers(&[1, 64, 14, 14]);
        let mut w = numbers(&[filters, 64, 3, 3]);
        for (at, w) in w.iter_mut().enumerate() {
            if (at / 576 / block * 7 + at % 576 * 5) % 10 > 0 {
                *w = 0.0;
            }
        }
        let dense = Conv2d::new(w, None, ConvOptions::default().pad(1)).unwrap();
        let sparse = SparseConv2d::from_dense(&dense).unwrap();
        let graph = graph(&sparse, &x, true, false, true);
        let mut session = Session::new(graph.clone(), &SessionOptions::default()).unwrap();
        assert!(difference(&session.run(&x).unwrap(), &graph.infer(&x).unwrap()) < 1e-5);
        let rows = session.profile(&x, 1).unwrap().rows;
        let row = rows.iter().find(|r| r.node == "layer" && r.kind != "layout").unwrap();
        assert_eq!(row.algorithm, "sparse-blocks");
        check(&sparse, &numbers(&[3, 64, 9, 8]), false, true);
    }
}

/// A layer with few zeros runs dense, one with many does not, and both are told of in the order of the graph.
#[test]
fn an_outlook_tells_why_a_layer_runs_dense() {
    let weights = numbers(&[32, 32, 3, 3]);
    let mut graph = Graph::new(&[32, 28, 28]);
    for (name, sparsity) in [("few", 0.1), ("many", 0.99)] {
        let dense = Conv2d::new(without(&weights, sparsity), None, ConvOptions::default().pad(1)).unwrap();
        graph.push(name, SparseConv2d::from_dense(&dense).unwrap()).unwrap();
    }
    graph.push("relu", Activation::relu()).unwrap();
    let told = outlook(&graph, &SessionOptions::default()).unwrap();
    assert_eq!(told.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["few", "many"]);
    assert!(told[0].runs_dense() && !told[1].runs_dense(), "{told:?}");
    assert!(told.iter().all(|o| o.sparse.1 > 0 && o.dense.1 > 0 && (0.0..=1.0).contains(&o.break_even)));
    assert!((told[0].sparsity - 0.1).abs() < 0.02 && told[0].what == "3x3 32>32 at 28x28");
    let words = told[0].to_string();
    assert!(words.starts_with("few: 10 % zeros of 3x3 32>32 at 28x28: runs `winograd"), "{words}");
}
