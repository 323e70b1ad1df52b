//! The sparse layers: same values as the masked dense ones, files, damaged files, checkpoints.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use cnn_core::layers::{Conv2d, ConvOptions, Linear};
use cnn_core::model_file::{deploy_bytes, from_bytes, from_bytes_limited};
use cnn_core::tensor::{Tensor, zeros};
use cnn_core::testing::{check_layer, difference, strategies};
use cnn_core::train::{CrossEntropy, EpochInfo, Hook, Progress, TrainData, train};
use cnn_core::{Compressor, Constraint, Error, FormatError, Graph, Layer, Param, Run};
use cnn_prune::{Mask, SparseConv2d, SparseLinear, Weights, mask_of};
use common::{data, network, registry, settings};
use ndarray::ArrayD;
use proptest::prelude::*;

/// Zeros where the number of the weight, scrambled, is below the sparsity.
fn sparse(weights: &Tensor, sparsity: f64) -> Tensor {
    let mut at = 0u32;
    weights.mapv(|w| {
        at += 1;
        let hash = f64::from(at.wrapping_mul(2_654_435_761) >> 16) / 65536.0;
        if hash < sparsity { 0.0 } else { w }
    })
}

fn linear_case() -> impl Strategy<Value = (Linear, Tensor)> {
    (1usize..9, 1usize..40, 1usize..12, 0.0f64..1.05, any::<bool>()).prop_flat_map(
        |(out, inputs, n, sparsity, bias)| {
            let parts = (
                strategies::tensor(&[out, inputs]),
                strategies::tensor(&[out]),
                strategies::tensor(&[n, inputs]),
            );
            parts
                .prop_map(move |(w, b, x)| (Linear::new(sparse(&w, sparsity), bias.then_some(b)).unwrap(), x))
        },
    )
}

fn conv_case() -> impl Strategy<Value = (Conv2d, Tensor)> {
    let shape = (1usize..4, 1usize..4, 1usize..3, 1usize..4, 1usize..4);
    let options =
        (1usize..3, [0usize..2, 0usize..3, 0usize..2, 0usize..2], 1usize..3, 0.0f64..1.05, any::<bool>());
    (shape, options).prop_flat_map(|((c, m, groups, kh, kw), (stride, pad, dilation, sparsity, bias))| {
        let weights = strategies::tensor(&[m * groups, c, kh, kw]);
        let images = strategies::tensor(&[3, c * groups, 7, 9]);
        (weights, strategies::tensor(&[m * groups]), images).prop_map(move |(w, b, x)| {
            let options = ConvOptions { stride: [stride, 3 - stride], pad, dilation: [dilation; 2], groups };
            (Conv2d::new(sparse(&w, sparsity), bias.then_some(b), options).unwrap(), x)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Not bit for bit: the dense kernels add the products, zeros among them, in blocks, the sparse ones in
    // the order of the stored weights.
    #[test]
    fn a_sparse_linear_layer_is_the_dense_one((dense, x) in linear_case()) {
        let packed = SparseLinear::from_dense(&dense).unwrap();
        check_layer(&packed, &x, &registry()).unwrap();
        prop_assert!(difference(&packed.infer(&[&x]).unwrap(), &dense.infer(&[&x]).unwrap()) <= 1e-5);
        let (sparse, full) = (packed.cost(&[x.shape()]).unwrap(), dense.cost(&[x.shape()]).unwrap());
        prop_assert_eq!((sparse.params, sparse.nonzeros), (full.params, full.nonzeros));
        prop_assert_eq!(sparse.macs.float, x.shape()[0] as u64 * dense.weight().nonzeros());
    }

    #[test]
    fn a_sparse_convolution_is_the_dense_one((dense, x) in conv_case()) {
        let packed = SparseConv2d::from_dense(&dense).unwrap();
        check_layer(&packed, &x, &registry()).unwrap();
        let (y, expected) = (packed.infer(&[&x]).unwrap(), dense.infer(&[&x]).unwrap());
        prop_assert!(difference(&y, &expected) <= 1e-5, "{}", difference(&y, &expected));
        let (sparse, full) = (packed.cost(&[x.shape()]).unwrap(), dense.cost(&[x.shape()]).unwrap());
        prop_assert_eq!((sparse.params, sparse.nonzeros), (full.params, full.nonzeros));
        prop_assert!(sparse.macs.float <= full.macs.float);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever form in the file is the smallest.
    #[test]
    fn structured_zeros_come_back(
        filters in 1usize..40, groups in 1usize..5, taps in 1usize..4, n in 0usize..4,
        hashes in proptest::collection::vec(0usize..1000, 1..200), in_blocks in any::<bool>(),
    ) {
        let cols = groups * 4 * taps;
        let kept = |row: usize, column: usize| match in_blocks {
            true => hashes[(row / 16 * cols + column) % hashes.len()] < 300,
            false => (column / taps + hashes[(row * 7 + column % taps) % hashes.len()]) % 4 < n,
        };
        let mut weights = zeros(&[filters, groups * 4, 1, taps]);
        for (at, w) in weights.iter_mut().enumerate() {
            *w = if kept(at / cols, at % cols) { 1.0 + at as f32 } else { 0.0 };
        }
        let dense = Conv2d::new(weights.clone(), None, ConvOptions::default()).unwrap();
        let mut graph = Graph::new(&[groups * 4, 3, 5]);
        graph.push("conv", SparseConv2d::from_dense(&dense).unwrap()).unwrap();
        let bytes = deploy_bytes(&graph, false).unwrap();
        let back = from_bytes(&bytes, &registry()).unwrap();
        let layer = back.nodes()[1].layer().downcast_ref::<SparseConv2d>().unwrap();
        prop_assert_eq!(layer.weight().to_dense(), weights.into_raw_vec_and_offset().0);
        prop_assert_eq!(deploy_bytes(&back, false).unwrap(), bytes);
    }
}

/// Structured zeros need fewer bytes to be told; a damaged file is an error or another network, never a panic.
#[test]
fn structured_zeros_are_small_in_files() {
    let bytes_of = |kept: fn(usize, usize) -> bool| {
        let mut weights = zeros(&[64, 64]);
        for (at, w) in weights.iter_mut().enumerate() {
            *w = if kept(at / 64, at % 64) { 0.5 + at as f32 } else { 0.0 };
        }
        let mut graph = Graph::new(&[64]);
        let dense = Linear::new(weights, None).unwrap();
        graph.push("fc", SparseLinear::from_dense(&dense).unwrap()).unwrap();
        deploy_bytes(&graph, false).unwrap()
    };
    // the same number of values, anywhere, in pairs of four, and in blocks
    let anywhere = bytes_of(|row, column| (row * 31 + column * column * 7) % 64 < 32).len();
    let pairs = bytes_of(|row, column| (column + column / 4 + row) % 4 < 2);
    let blocks = bytes_of(|row, column| (column * 5 + row / 16) % 8 < 4);
    let values = 4 * 64 * 32;
    assert!(anywhere > values + 400, "{anywhere}");
    assert!((values + 384..values + 384 + 80).contains(&pairs.len()), "{}", pairs.len());
    assert!((values..values + 150).contains(&blocks.len()), "{}", blocks.len());
    for mut bytes in [pairs, blocks] {
        for at in 0..bytes.len() {
            let (kept, body) = (bytes[at], bytes.len() - 4);
            bytes[at] ^= 1 << (at % 8);
            let sum = crc32(&bytes[..body]).to_le_bytes();
            bytes[body..].copy_from_slice(&sum);
            if let Ok(other) = from_bytes_limited(&bytes, &registry(), 1 << 20) {
                assert!(other.cost().unwrap().params <= 1 << 20);
            }
            bytes[at] = kept;
        }
    }
}

/// A pruned and packed network, and it before packing. Convolutions become sparse too, in spite of their
/// size.
fn packed(ratio: f64) -> (Graph, Graph) {
    let (data, registry) = (data(1), registry());
    let method = Weights { ratio, rounds: 1, epochs: 1, final_epochs: 0, ..Weights::default() };
    let mut graph = network();
    method.apply(&mut graph, &mut Run::new(&data, &data, settings(1), &registry)).unwrap();
    let masked = graph.clone();
    method.pack(&mut graph).unwrap();
    (masked, graph)
}

fn images() -> Tensor {
    cnn_core::data::batch(&data(5), &(0..20).collect::<Vec<_>>()).unwrap().0
}

#[test]
fn a_packed_network_answers_like_the_masked_one_and_is_small() {
    let (masked, graph) = packed(0.9);
    let kinds: Vec<&str> = graph.nodes().iter().map(|n| n.layer().kind()).collect();
    assert_eq!(kinds.iter().filter(|k| k.starts_with("prune.")).count(), 4, "{kinds:?}");
    let x = images();
    assert!(difference(&graph.infer(&x).unwrap(), &masked.infer(&x).unwrap()) < 1e-5);

    assert!(
        matches!(deploy_bytes(&masked, false), Err(Error::Node { .. })),
        "a masked network must not be deployed"
    );
    let bytes = deploy_bytes(&graph, false).unwrap();
    // 538 weights and 42 biases of four bytes, gaps of five bits or so, kinds and shapes
    let weights = 4 * (538 + 42);
    assert!(bytes.len() > weights && bytes.len() < weights + 538 + 150, "{} bytes", bytes.len());
    let back = from_bytes(&bytes, &registry()).unwrap();
    assert_eq!(back.infer(&x).unwrap(), graph.infer(&x).unwrap());
    assert_eq!(deploy_bytes(&back, false).unwrap(), bytes);
    assert_eq!(back.cost().unwrap(), graph.cost().unwrap());
}

#[test]
fn a_layer_that_would_grow_stays_dense() {
    let (masked, graph) = packed(0.01);
    assert!(graph.nodes().iter().all(|n| !n.layer().kind().starts_with("prune.")));
    let x = images();
    assert_eq!(graph.infer(&x).unwrap(), masked.infer(&x).unwrap());
    assert_eq!(deploy_bytes(&graph, false).unwrap().len(), deploy_bytes(&network(), false).unwrap().len());
}

/// Another method's constraint.
#[derive(Debug, Clone)]
struct Halve;

impl Constraint for Halve {
    fn kind(&self) -> &'static str {
        "test.halve"
    }
    fn materialize(&self, w: &mut Tensor) {
        w.mapv_inplace(|v| v / 2.0);
    }
    fn pull_back(&mut self, _input: &Tensor, grad: &mut Tensor) {
        grad.mapv_inplace(|g| g / 2.0);
    }
    fn select(&mut self, _axis: usize, _keep: &[usize]) -> cnn_core::Result<()> {
        Ok(())
    }
    fn encode(&self, _out: &mut cnn_core::model_file::Encoder) -> cnn_core::Result<()> {
        Ok(())
    }
    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(Halve)
    }
}

#[test]
fn layers_of_other_methods_are_left_to_them() {
    let (mut masked, _) = packed(0.9);
    masked.layer_mut::<Linear>("fc1").unwrap().unwrap().weight_mut().constrain(Box::new(Halve));
    masked.layer_mut::<Conv2d>("conv2").unwrap().unwrap().bias_mut().unwrap().constrain(Box::new(Halve));
    cnn_prune::pack(&mut masked).unwrap();
    let kind = |name: &str| masked.node(name).unwrap().layer().kind();
    assert_eq!(
        (kind("fc1"), kind("conv2"), kind("conv1"), kind("fc2")),
        ("linear", "conv2d", "prune.sparse_conv2d", "prune.sparse_linear")
    );
    let constraints = |p: &Param| p.constraints().iter().map(|c| c.kind()).collect::<Vec<_>>();
    let fc1 = masked.layer::<Linear>("fc1").unwrap().unwrap();
    assert_eq!(constraints(fc1.weight()), ["prune.mask", "test.halve"]);
    // packing again changes nothing
    let before = masked.clone();
    cnn_prune::pack(&mut masked).unwrap();
    assert_eq!(masked.infer(&images()).unwrap(), before.infer(&images()).unwrap());
}

#[test]
fn damaged_files_are_errors() {
    let (_, graph) = packed(0.9);
    let bytes = deploy_bytes(&graph, false).unwrap();
    for cut in 0..bytes.len() {
        assert!(from_bytes(&bytes[..cut], &registry()).is_err());
    }
    let mut wrong = 0;
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(from_bytes(&damaged, &registry()).is_err());
        // with a checksum that fits, only what is read counts: an error or another network, never a panic
        let body = damaged.len() - 4;
        let sum = crc32(&damaged[..body]).to_le_bytes();
        damaged[body..].copy_from_slice(&sum);
        match from_bytes_limited(&damaged, &registry(), 1 << 20) {
            Err(_) => wrong += 1,
            Ok(other) => {
                let _ = other.cost().unwrap();
            }
        }
    }
    assert!(wrong > 20, "{wrong} of {} damages were noticed", bytes.len());
}

/// CRC-32 as in zip, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[test]
fn a_file_cannot_ask_for_more_than_the_limit() {
    // one weight of a million, in a few bytes
    let mut weights = zeros(&[1000, 1000]);
    weights[[999, 999]] = 1.0;
    let mut graph = Graph::new(&[1000]);
    graph.push("fc", SparseLinear::from_dense(&Linear::new(weights, None).unwrap()).unwrap()).unwrap();
    let bytes = deploy_bytes(&graph, false).unwrap();
    assert!(bytes.len() < 120, "{} bytes", bytes.len());
    assert!(from_bytes(&bytes, &registry()).is_ok());
    let error = from_bytes_limited(&bytes, &registry(), 999_999).unwrap_err();
    assert!(
        error.to_string().contains("999999") || matches!(error, Error::Format(FormatError::TooLarge { .. })),
        "{error}"
    );
}

/// Stops the training after the first epoch.
#[derive(Debug)]
struct Stop(bool);

impl Hook for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }
    fn on_epoch(&mut self, _graph: &mut Graph, at: &EpochInfo) -> cnn_core::Result<()> {
        match self.0 && at.epoch == 1 {
            true => Err(Error::Data("stopped".into())),
            false => Ok(()),
        }
    }
}

#[test]
fn masks_come_back_from_a_checkpoint() {
    let (data, registry) = (data(1), registry());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let (masked, _) = packed(0.7);
    let run = |graph: &mut Graph, stop: bool, path: Option<&std::path::Path>| {
        let data = TrainData {
            train: &data,
            validation: None,
            augment: None,
            checkpoint: path.map(|p| (p, &registry)),
        };
        let mut hooks: Vec<Box<dyn Hook>> = vec![Box::new(Stop(stop))];
        train(graph, data, &settings(3), &mut CrossEntropy::default(), &mut hooks, &Progress::quiet())
    };
    let mut whole = masked.clone();
    run(&mut whole, false, None).unwrap();

    assert!(run(&mut masked.clone(), true, Some(&path)).is_err());
    // only the training that was stopped goes on: a network without the masks is another one
    assert!(run(&mut network(), false, Some(&path)).is_err());
    let mut resumed = masked.clone();
    run(&mut resumed, false, Some(&path)).unwrap();
    for name in ["conv1", "conv2"] {
        let weight = |g: &Graph| g.layer::<Conv2d>(name).unwrap().unwrap().weight().clone();
        assert_eq!(weight(&whole).value(), weight(&resumed).value());
        assert_eq!(mask_of(&weight(&whole)), mask_of(&weight(&resumed)));
        assert!(mask_of(&weight(&resumed)).is_some());
    }

    // a damaged checkpoint is an error
    let bytes = std::fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        std::fs::write(&path, &bytes[..at]).unwrap();
        assert!(run(&mut masked.clone(), false, Some(&path)).is_err());
    }
}

#[test]
fn a_mask_of_another_shape_does_nothing() {
    let mut w = zeros(&[2, 2]);
    w.fill(1.0);
    Mask::new(ArrayD::from_elem(ndarray::IxDyn(&[4]), false)).materialize(&mut w);
    assert_eq!(w.sum(), 4.0);
}
