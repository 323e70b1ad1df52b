//! Constants that are so large that they stay in the file until they are needed.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

mod common;

use cnn_onnx::proto::{TensorProto, data_type};
use cnn_onnx::{Error, ImportOptions, Value, from_bytes, load};
use common::{A, File, floats, image, ramp};
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use std::path::PathBuf;

fn raw(name: &str, dims: &[i64], data_type: i32, bytes: Vec<u8>) -> TensorProto {
    let raw_data = Some(bytes.into());
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type, raw_data, ..Default::default() }
}

fn raw_floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    raw(name, dims, data_type::FLOAT, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Weights as bytes, as floats, and in a node; each layer beyond 4096 bytes.
fn file() -> File {
    File::new(17, &[8, 3, 3])
        .constant(raw_floats("a.weight", &[16, 8, 3, 3], &ramp(16 * 8 * 9)))
        .constant(floats("b.weight", &[16, 16, 3, 3], &ramp(16 * 16 * 9)))
        .with("Constant", &[], &["c"], &[("value", A::T(Box::new(raw_floats("", &[144, 10], &ramp(1440)))))])
        .with("Conv", &["x", "a.weight"], &["u"], &[("pads", A::Is(&[1; 4]))])
        .with("Conv", &["u", "b.weight"], &["v"], &[("pads", A::Is(&[1; 4]))])
        .node("Flatten", &["v"], &["w"])
        .node("Gemm", &["w", "c"], &["y"])
}

fn write(directory: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_same_from_a_file_and_from_memory_and_with_small_constants() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = file().bytes();
    let x = image(&[2, 8, 3, 3]);
    let y = from_bytes(&bytes, None, &Default::default()).unwrap().graph.infer(&x).unwrap();
    let path = write(&directory, &bytes);
    assert_eq!(load(&path, &Default::default()).unwrap().graph.infer(&x).unwrap(), y);
    // the same weights in pieces small enough to be read at once
    let mut pieces = file();
    for tensor in &mut pieces.graph().initializer {
        let values = ramp(tensor.dims.iter().product::<i64>() as usize);
        (tensor.raw_data, tensor.float_data) = (None, values);
    }
    let mut split = pieces.0.clone();
    let tensors = std::mem::take(&mut split.graph.as_mut().unwrap().initializer);
    let mut bytes = split.encode_to_vec();
    for mut tensor in tensors {
        let values = std::mem::take(&mut tensor.float_data);
        let mut message = tensor.encode_to_vec();
        for piece in values.chunks(1000) {
            message.extend(TensorProto { float_data: piece.to_vec(), ..Default::default() }.encode_to_vec());
        }
        // another piece of the graph: fields of messages that occur twice are put together
        let graph = [&[5 << 3 | 2][..], &varint(message.len()), &message].concat();
        bytes.extend([&[7 << 3 | 2][..], &varint(graph.len()), &graph].concat());
    }
    assert_eq!(from_bytes(&bytes, None, &Default::default()).unwrap().graph.infer(&x).unwrap(), y);
}

fn varint(value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encode_length_delimiter(value, &mut bytes).unwrap();
    bytes
}

#[test]
fn weights_that_two_layers_share_are_given_to_both() {
    let weights = ramp(64 * 64);
    let turned: &[(&str, A<'_>)] = &[("transB", A::I(1))];
    let file = File::new(17, &[64])
        .constant(raw_floats("a", &[64, 64], &weights))
        .with("Gemm", &["x", "a"], &["u"], turned)
        .with("Gemm", &["u", "a"], &["y"], turned);
    let graph = file.import().unwrap().graph;
    for node in &graph.nodes()[1..] {
        assert_eq!(node.layer().params()[0].value().as_slice().unwrap(), weights);
    }
}

#[test]
fn all_types_over_several_blocks() {
    let count = 150_001;
    let number = |i: usize| (i * 37 % 101) as i64;
    type Bytes = fn(i64) -> Vec<u8>;
    let types: [(i32, Bytes); 9] = [
        (data_type::FLOAT, |v| (v as f32).to_le_bytes().into()),
        (data_type::DOUBLE, |v| (v as f64).to_le_bytes().into()),
        (data_type::FLOAT16, |v| half::f16::from_f32(v as f32).to_le_bytes().into()),
        (data_type::BFLOAT16, |v| half::bf16::from_f32(v as f32).to_le_bytes().into()),
        (data_type::INT64, |v| v.to_le_bytes().into()),
        (data_type::UINT32, |v| (v as u32).to_le_bytes().into()),
        (data_type::INT16, |v| (v as i16).to_le_bytes().into()),
        (data_type::INT8, |v| (v as i8).to_le_bytes().into()),
        (data_type::UINT8, |v| vec![v as u8]),
    ];
    for (code, bytes) in types {
        let bytes = (0..count).flat_map(|i| bytes(number(i))).collect();
        let tensor = raw("t", &[count as i64], code, bytes);
        let value = Value::from_tensor_bytes(&tensor.encode_to_vec()).unwrap().to_f32();
        assert!(value.iter().enumerate().all(|(i, v)| *v == number(i) as f32), "type {code}");
    }
    let nibbles: Vec<u8> = (0..count.div_ceil(2)).map(|i| ((i % 16) | ((i % 7) << 4)) as u8).collect();
    let tensor = raw("t", &[count as i64], data_type::INT4, nibbles);
    let value = Value::from_tensor_bytes(&tensor.encode_to_vec()).unwrap().to_f32();
    let wanted = |i: usize| match i % 2 {
        0 => ((i / 2 % 16) as f32 + 8.0) % 16.0 - 8.0,
        _ => (i / 2 % 7) as f32,
    };
    assert!(value.len() == count && value.iter().enumerate().all(|(i, v)| *v == wanted(i)));
}

#[test]
fn values_that_do_not_fit_the_shape_are_refused() {
    for wrong in [raw_floats("w", &[40, 40], &ramp(1601)), floats("w", &[40, 40], &ramp(1599))] {
        let error = File::new(17, &[40]).constant(wrong).node("MatMul", &["x", "w"], &["y"]).error();
        assert!(error.contains("`w`") && error.contains("1600 values"), "{error}");
    }
    let integers = TensorProto { data_type: data_type::INT64, ..floats("w", &[40, 40], &ramp(1600)) };
    let error = File::new(17, &[40]).constant(integers).node("MatMul", &["x", "w"], &["y"]).error();
    assert!(error.contains("does not hold the 1600 values of type int64"), "{error}");
}

#[test]
fn a_cut_file_is_damaged_wherever_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = file().bytes();
    for end in (0..bytes.len()).step_by(61).chain(bytes.len() - 20..bytes.len()) {
        let error = load(&write(&directory, &bytes[..end]), &ImportOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "cut at {end}: {error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_is_read_like_a_file() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes = file().bytes();
    let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    let imported = std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&bytes).unwrap();
            drop(writer);
        });
        load(&path, &ImportOptions::default()).unwrap()
    });
    assert_eq!(imported.operators["Conv"], 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Changes in the structure, not in the weights: near the ends of the file and of its constants.
    #[test]
    fn changed_bytes(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4)) {
        let mut bytes = file().bytes();
        let structure: Vec<usize> = {
            let weights: Vec<u8> = ramp(16).iter().flat_map(|v| v.to_le_bytes()).collect();
            let starts = bytes.windows(weights.len()).enumerate().filter(|(_, w)| *w == weights).map(|(i, _)| i);
            let before = starts.flat_map(|i| i.saturating_sub(60)..i);
            before.chain(0..100).chain(bytes.len() - 300..bytes.len()).collect()
        };
        for (at, value) in changes {
            bytes[structure[at.index(structure.len())]] = value;
        }
        let directory = tempfile::tempdir().unwrap();
        let options = ImportOptions { limit: 1 << 20, ..Default::default() };
        let from_file = load(&write(&directory, &bytes), &options);
        let from_memory = from_bytes(&bytes, None, &options);
        match (from_file, from_memory) {
            (Ok(a), Ok(b)) => prop_assert_eq!(a.graph.cost().ok(), b.graph.cost().ok()),
            // where other files are looked for differs, and nothing else
            (Err(a), Err(b)) if !a.to_string().contains("another file") => {
                prop_assert!(a.to_string() == b.to_string() || b.to_string().contains("another file"));
            }
            (a, b) => prop_assert_eq!(a.is_ok(), b.is_ok()),
        }
    }
}
