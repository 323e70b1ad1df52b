//! Export: a network's standard operators as an ONNX file.

use crate::metadata;
use crate::proto::{
    AttributeProto, Dimension, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    attribute_type, data_type,
};
use crate::{Error, Result};
use cnn_core::Graph;
use cnn_core::express::{Attribute, Constant, ElementType, Numbers, Operator, express};
use cnn_core::model_file::write_atomically;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::HashMap;
use std::path::Path;

/// How a network is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// Allow 4-bit constants, which make the file smaller and need opset 21 (ONNX Runtime 1.18 and later) to
    /// be read.
    pub four_bit: bool,
    /// Program named in the file as its writer.
    pub producer: String,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions { four_bit: false, producer: env!("CARGO_PKG_NAME").to_string() }
    }
}

/// Most bytes of one protobuf message, as all its readers have it.
const MOST_BYTES: usize = i32::MAX as usize;

/// Constants of at least so many bytes are stored once when they are equal.
const LARGE: usize = 64;

/// Writes a network as an ONNX file and returns the file's length. The file appears whole or not at all.
///
/// # Errors
/// As [`to_bytes`], and if the file cannot be written.
pub fn save(graph: &Graph, path: &Path, options: &ExportOptions) -> Result<u64> {
    let bytes = to_bytes(graph, options)?;
    write_atomically(path, &bytes)?;
    Ok(bytes.len() as u64)
}

/// A network as the bytes of an ONNX file: opset 17, or 21 if it has 4-bit constants; the first axis of input
/// and output is the dynamic dimension `batch`; the preprocessing is in the file's metadata.
///
/// ```
/// let bytes = cnn_onnx::to_bytes(&cnn_core::testing::lenet5(0)?, &Default::default())?;
/// assert!(bytes.len() as u64 > 4 * 431_080); // parameters in 32 bits and a few names
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a layer has no form in standard operators, still carries a constraint, or the file would exceed the 2
/// GiB that protobuf allows.
pub fn to_bytes(graph: &Graph, options: &ExportOptions) -> Result<Vec<u8>> {
    let model = model(graph, options)?;
    let length = model.encoded_len();
    if length > MOST_BYTES {
        return Err(Error::FileTooLarge { bytes: length as u64 });
    }
    Ok(model.encode_to_vec())
}

fn model(graph: &Graph, options: &ExportOptions) -> Result<ModelProto> {
    let mut standard = express(graph, options.four_bit)?;
    let four_bit = standard.constants.iter().any(|c| matches!(c.numbers, Numbers::U4(_)));
    let (opset, ir_version) = if four_bit { (21, 10) } else { (17, 8) };
    if opset >= 18 {
        axes_as_inputs(&mut standard.operators, &mut standard.constants);
    }
    let (initializer, renamed) = initializers(std::mem::take(&mut standard.constants))?;
    let node = standard.operators.into_iter().map(|o| operator(o, &renamed)).collect();
    let mut metadata_props = Vec::new();
    if let Some(preprocess) = &graph.preprocess {
        let value = metadata::write(preprocess)?;
        metadata_props.push(StringStringEntryProto { key: metadata::KEY.to_string(), value });
    }
    Ok(ModelProto {
        ir_version,
        producer_name: options.producer.clone(),
        producer_version: env!("CARGO_PKG_VERSION").to_string(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        metadata_props,
        graph: Some(GraphProto {
            node,
            name: "network".to_string(),
            initializer,
            input: vec![value_info(standard.input)?],
            output: vec![value_info(standard.output)?],
            ..GraphProto::default()
        }),
    })
}

/// From opset 18 on the axes of these reductions are an input; before, an attribute.
fn axes_as_inputs(operators: &mut [Operator], constants: &mut Vec<Constant>) {
    let reductions =
        operators.iter_mut().filter(|o| ["ReduceMean", "ReduceMax", "ReduceMin"].contains(&o.kind));
    for reduction in reductions.filter(|o| o.inputs.len() == 1) {
        let Some(at) = reduction.attributes.iter().position(|(name, _)| *name == "axes") else { continue };
        if let (_, Attribute::Ints(axes)) = reduction.attributes.remove(at) {
            let name = format!("{}/axes", reduction.name);
            constants.push(Constant {
                name: name.clone(),
                shape: vec![axes.len()],
                numbers: Numbers::I64(axes),
            });
            reduction.inputs.push(name);
        }
    }
}

/// The constants as tensors, equal large ones once, and the names under which those left out are found.
fn initializers(constants: Vec<Constant>) -> Result<(Vec<TensorProto>, HashMap<String, String>)> {
    let mut tensors: Vec<TensorProto> = Vec::with_capacity(constants.len());
    let mut renamed = HashMap::new();
    let mut known: HashMap<(usize, u32), Vec<usize>> = HashMap::new();
    for constant in constants {
        let tensor = initializer(constant)?;
        let raw = tensor.raw_data.clone().unwrap_or_default();
        if raw.len() >= LARGE {
            let same = known.entry((raw.len(), fingerprint(&raw))).or_default();
            let equal = |&&at: &&usize| {
                let other = &tensors[at];
                other.data_type == tensor.data_type
                    && other.dims == tensor.dims
                    && other.raw_data == tensor.raw_data
            };
            if let Some(&at) = same.iter().find(equal) {
                renamed.insert(tensor.name, tensors[at].name.clone());
                continue;
            }
            same.push(tensors.len());
        }
        tensors.push(tensor);
    }
    Ok((tensors, renamed))
}

/// FNV-1a over 8-byte words: only finds candidates, which are then compared.
fn fingerprint(bytes: &[u8]) -> u32 {
    let word = |chunk: &[u8]| chunk.iter().fold(0u64, |w, &b| w << 8 | u64::from(b));
    let hash = bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325_u64, |hash, chunk| {
        (hash ^ word(chunk)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}

fn initializer(constant: Constant) -> Result<TensorProto> {
    let (data_type, raw) = match constant.numbers {
        Numbers::F32(v) => (data_type::FLOAT, v.iter().flat_map(|n| n.to_le_bytes()).collect()),
        Numbers::U8(v) => (data_type::UINT8, v),
        Numbers::U4(v) => (data_type::UINT4, two_a_byte(&v, &constant.name)?),
        Numbers::I8(v) => (data_type::INT8, v.iter().flat_map(|n| n.to_le_bytes()).collect()),
        Numbers::I32(v) => (data_type::INT32, v.iter().flat_map(|n| n.to_le_bytes()).collect()),
        Numbers::I64(v) => (data_type::INT64, v.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>()),
    };
    Ok(TensorProto {
        dims: dims(&constant.shape)?,
        data_type,
        name: constant.name,
        raw_data: Some(Bytes::from(raw)),
        ..TensorProto::default()
    })
}

/// The first number of a pair in the low half of the byte, as the standard has it.
fn two_a_byte(numbers: &[u8], name: &str) -> Result<Vec<u8>> {
    if let Some(bad) = numbers.iter().find(|&&n| n > 15) {
        return Err(Error::Tensor { name: name.to_string(), why: format!("{bad} does not fit into 4 bits") });
    }
    Ok(numbers.chunks(2).map(|pair| pair[0] | pair.get(1).copied().unwrap_or(0) << 4).collect())
}

fn operator(operator: Operator, renamed: &HashMap<String, String>) -> NodeProto {
    let input = operator.inputs.into_iter().map(|i| renamed.get(&i).cloned().unwrap_or(i)).collect();
    NodeProto {
        input,
        output: vec![operator.output],
        name: operator.name,
        op_type: operator.kind.to_string(),
        attribute: operator.attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        domain: String::new(),
    }
}

fn attribute(name: &str, value: Attribute) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_string(), ..AttributeProto::default() };
    attribute.r#type = match value {
        Attribute::Int(i) => {
            attribute.i = Some(i);
            attribute_type::INT
        }
        Attribute::Float(f) => {
            attribute.f = Some(f);
            attribute_type::FLOAT
        }
        Attribute::Ints(ints) => {
            attribute.ints = ints;
            attribute_type::INTS
        }
        Attribute::Text(text) => {
            attribute.s = Some(Bytes::from_static(text.as_bytes()));
            attribute_type::STRING
        }
        Attribute::Type(ElementType::F32) => {
            attribute.i = Some(i64::from(data_type::FLOAT));
            attribute_type::INT
        }
        Attribute::Type(ElementType::I32) => {
            attribute.i = Some(i64::from(data_type::INT32));
            attribute_type::INT
        }
    };
    attribute
}

fn dims(shape: &[usize]) -> Result<Vec<i64>> {
    let size = |&d: &usize| i64::try_from(d).map_err(|_| Error::Model(format!("a size of {d} is too large")));
    shape.iter().map(size).collect()
}

/// A float value whose first axis is the batch.
fn value_info((name, shape): (String, Vec<usize>)) -> Result<ValueInfoProto> {
    let batch = DimensionProto { value: Some(Dimension::Param("batch".to_string())) };
    let rest = dims(&shape)?.into_iter().map(|d| DimensionProto { value: Some(Dimension::Value(d)) });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(rest).collect() };
    let tensor_type = Some(TensorTypeProto { elem_type: data_type::FLOAT, shape: Some(shape) });
    Ok(ValueInfoProto { name, r#type: Some(TypeProto { tensor_type }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(name: &str, numbers: Numbers) -> Constant {
        Constant { name: name.to_string(), shape: vec![numbers.len()], numbers }
    }

    #[test]
    fn four_bit_numbers_are_two_a_byte() {
        let tensor = initializer(constant("c", Numbers::U4(vec![1, 2, 15]))).expect("numbers below 16");
        assert_eq!(tensor.raw_data.as_deref(), Some(&[0x21, 0x0f][..]));
        assert_eq!((tensor.data_type, tensor.dims), (data_type::UINT4, vec![3]));
        let error = initializer(constant("c", Numbers::U4(vec![16]))).expect_err("too large");
        assert!(error.to_string().contains("constant `c`: 16 does not fit into 4 bits"));
    }

    #[test]
    fn only_equal_constants_are_joined() {
        let large =
            |first: f32| Numbers::F32(std::iter::once(first).chain((0..40).map(|i| i as f32)).collect());
        let list = vec![
            constant("a", large(1.0)),
            constant("b", large(2.0)),
            constant("c", large(1.0)),
            constant("d", Numbers::I32(vec![7; 2])),
            constant("e", Numbers::I32(vec![7; 2])),
        ];
        let (tensors, renamed) = initializers(list).expect("constants");
        let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "d", "e"]);
        assert_eq!(renamed, HashMap::from([("c".to_string(), "a".to_string())]));
    }

    #[test]
    fn axes_of_reductions_become_inputs() {
        let mut operators = vec![Operator {
            kind: "ReduceMean",
            name: "m".to_string(),
            inputs: vec!["x".to_string()],
            output: "m".to_string(),
            attributes: vec![("axes", Attribute::Ints(vec![1])), ("keepdims", Attribute::Int(0))],
        }];
        let mut constants = Vec::new();
        axes_as_inputs(&mut operators, &mut constants);
        assert_eq!(operators[0].inputs, ["x", "m/axes"]);
        assert_eq!(operators[0].attributes, [("keepdims", Attribute::Int(0))]);
        assert_eq!(constants, [constant("m/axes", Numbers::I64(vec![1]))]);
    }
}
