//! The model file: size, round trip, and every kind of damage.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::error::FormatError;
use cnn_core::model_file::{self, deploy_bytes, from_bytes, from_bytes_limited};
use cnn_core::testing::lenet5;
use cnn_core::{Cost, Encoder, Error, Graph, Layer, Preprocess, Registry, Result, Tensor};
use proptest::prelude::*;
use std::sync::OnceLock;

fn lenet_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let mut graph = lenet5(3).unwrap();
        graph.preprocess = Some(Preprocess { mean: vec![0.1307], std: vec![0.3081] });
        deploy_bytes(&graph, false).unwrap()
    })
}

/// A graph with every way of wiring.
fn small_file() -> Vec<u8> {
    use cnn_core::layers::*;
    let mut graph = Graph::new(&[2, 4, 4]);
    let conv = || Conv2d::new(Tensor::ones(vec![2, 2, 3, 3]), None, ConvOptions::default().pad(1)).unwrap();
    graph.push("a", conv()).unwrap();
    graph.add("b", conv(), &["input"]).unwrap();
    graph.add("sum", Add, &["a", "b"]).unwrap();
    graph.add("cat", Concat, &["sum", "a"]).unwrap();
    graph.push("bn", BatchNorm::new(4)).unwrap();
    graph.push("shuffle", ChannelMap::shuffle(4, 2).unwrap()).unwrap();
    graph.push("gap", GlobalAvgPool).unwrap();
    graph.push("flat", Flatten).unwrap();
    graph.push("fc", Linear::new(Tensor::ones(vec![3, 4]), None).unwrap()).unwrap();
    deploy_bytes(&graph, true).unwrap()
}

#[test]
fn the_topology_of_lenet5_takes_at_most_96_bytes() {
    let weights = 4 * 431_080;
    let topology = lenet_file().len() - weights;
    assert!(topology <= 96, "{topology} bytes");
}

#[test]
fn a_file_gives_the_same_bits() {
    let graph = lenet5(3).unwrap();
    let back = from_bytes(lenet_file(), &Registry::core()).unwrap();
    let x = Tensor::from_shape_fn(vec![2, 1, 28, 28], |i| ((i[2] * 3 + i[3]) % 7) as f32 - 3.0);
    assert_eq!(graph.infer(&x).unwrap(), back.infer(&x).unwrap());
    assert_eq!(back.preprocess.unwrap().std, [0.3081]);
}

#[test]
fn names_are_kept_on_request() {
    let back = from_bytes(&small_file(), &Registry::core()).unwrap();
    assert_eq!(back.nodes()[4].name, "cat");
    assert_eq!(deploy_bytes(&back, true).unwrap(), small_file());
}

#[test]
fn files_are_written_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.cnn");
    let length = model_file::save(&lenet5(1).unwrap(), &path).unwrap();
    assert_eq!(length, std::fs::metadata(&path).unwrap().len());
    model_file::save(&lenet5(2).unwrap(), &path).unwrap();
    assert_eq!(model_file::load(&path, &Registry::core()).unwrap().nodes().len(), 9);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    let missing = model_file::load(&dir.path().join("none.cnn"), &Registry::core()).unwrap_err();
    assert!(missing.to_string().contains("none.cnn"), "{missing}");
}

#[test]
fn alien_files_are_recognised() {
    let registry = Registry::core();
    let read = |bytes: &[u8]| match from_bytes(bytes, &registry) {
        Err(Error::Format(e)) => e,
        other => panic!("{other:?}"),
    };
    assert_eq!(read(b""), FormatError::NotAModel);
    assert_eq!(read(b"\x08\x07\x12\x07pytorch"), FormatError::NotAModel);
    assert_eq!(read(b"CNN"), FormatError::Truncated(3));
    let mut newer = lenet_file().to_vec();
    newer[3] = 9;
    assert_eq!(read(&newer), FormatError::Version { found: 9, supported: 1 });
    assert_eq!(read(&lenet_file()[..1000]), FormatError::Checksum);
}

#[test]
fn the_limit_holds_before_memory_is_taken() {
    let error = from_bytes_limited(lenet_file(), &Registry::core(), 100_000).unwrap_err();
    assert!(
        matches!(&error, Error::Node { source, .. }
        if matches!(**source, Error::Format(FormatError::TooLarge { limit: 100_000 }))),
        "{error}"
    );
}

#[derive(Debug, Clone)]
struct Alien;

impl Layer for Alien {
    fn kind(&self) -> &'static str {
        "elsewhere.alien"
    }
    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(inputs[0].to_vec())
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn cost(&self, _inputs: &[&[usize]]) -> Result<Cost> {
        Ok(Cost::default())
    }
    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }
    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

#[test]
fn an_unknown_kind_is_named() {
    let mut graph = Graph::new(&[1, 2, 2]);
    graph.push("x", Alien).unwrap();
    let error = from_bytes(&deploy_bytes(&graph, true).unwrap(), &Registry::core()).unwrap_err().to_string();
    assert!(error.contains("elsewhere.alien") && error.contains("conv2d"), "{error}");
}

/// Damage that keeps the checksum right must be caught by the decoder itself.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn flipped_bits_are_errors(at in 0usize..10_000, bit in 0u8..8) {
        let mut bytes = small_file();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(from_bytes(&bytes, &Registry::core()).is_err());
    }

    #[test]
    fn cut_files_are_errors(at in 0usize..10_000) {
        let bytes = small_file();
        prop_assert!(from_bytes(&bytes[..at % bytes.len()], &Registry::core()).is_err());
    }

    #[test]
    fn damage_under_a_right_checksum_never_panics(
        edits in prop::collection::vec((0usize..10_000, any::<u8>()), 1..6), cut in 0usize..400,
    ) {
        let mut bytes = small_file();
        for (at, value) in edits {
            let at = 4 + at % (bytes.len() - 8);
            bytes[at] = value;
        }
        let length = bytes.len() - cut.min(bytes.len() - 16);
        bytes.truncate(length);
        if let Ok(graph) = from_bytes_limited(&with_checksum(bytes), &Registry::core(), 1 << 20) {
            // it may still be a network; then it must be a valid one
            graph.shapes(1).unwrap();
        }
    }
}

#[test]
fn a_small_file_cannot_ask_for_a_huge_activation() {
    use cnn_core::layers::AdaptiveAvgPool;
    let mut graph = Graph::new(&[1, 2, 2]);
    graph.push("grow", AdaptiveAvgPool { size: [1 << 20, 1 << 20] }).unwrap();
    let error = from_bytes(&deploy_bytes(&graph, true).unwrap(), &Registry::core()).unwrap_err().to_string();
    assert!(error.contains("grow") && error.contains("limit"), "{error}");
}

/// Small files that would take much memory or overflow when they are run.
#[test]
fn convolutions_of_absurd_geometry_are_refused() {
    use cnn_core::layers::{Conv2d, ConvOptions};
    let conv = |options: ConvOptions| Conv2d::new(Tensor::ones(vec![2, 1, 2, 2]), None, options).unwrap();
    let refused = |options: ConvOptions| {
        let mut graph = Graph::new(&[1, 1, 1]);
        graph.push("conv", conv(options)).unwrap_err().to_string()
    };
    let far = 1 << 23;
    let dilated = ConvOptions { dilation: [far, far], pad: [far / 2; 4], ..ConvOptions::default() };
    assert!(refused(dilated).contains("too large"), "{}", refused(dilated));
    let overflowing = ConvOptions { pad: [usize::MAX; 4], ..ConvOptions::default() };
    assert!(refused(overflowing).contains("does not fit"));
    // a step beyond the image is allowed, as elsewhere: there is one output, and no memory is taken for the step
    let mut graph = Graph::new(&[2, 3, 3]);
    let options = ConvOptions { stride: [usize::MAX, 1 << 40], groups: 2, ..ConvOptions::default() };
    graph.push("conv", conv(options)).unwrap();
    let back = from_bytes(&deploy_bytes(&graph, true).unwrap(), &Registry::core()).unwrap();
    assert_eq!(
        back.infer(&Tensor::ones(vec![1, 2, 3, 3])).unwrap(),
        Tensor::from_elem(vec![1, 2, 1, 1], 4.0)
    );
}

#[test]
fn a_node_may_read_another_twice() {
    use cnn_core::layers::{Add, Concat};
    let mut graph = Graph::new(&[1, 2, 2]);
    graph.add("three", Concat, &["input", "input", "input"]).unwrap();
    graph.add("double", Add, &["three", "three"]).unwrap();
    let back = from_bytes(&deploy_bytes(&graph, false).unwrap(), &Registry::core()).unwrap();
    let x = Tensor::ones(vec![1, 1, 2, 2]);
    assert_eq!(back.infer(&x).unwrap(), graph.infer(&x).unwrap());
    assert_eq!(back.nodes()[0].name, "input");
}

#[cfg(unix)]
#[test]
fn files_can_be_read_by_others() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (ours, usual) = (dir.path().join("net.cnn"), dir.path().join("usual"));
    model_file::save(&lenet5(1).unwrap(), &ours).unwrap();
    std::fs::write(&usual, b"").unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&usual));
}
