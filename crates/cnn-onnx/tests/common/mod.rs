//! Small ONNX files, put together by hand.
#![allow(clippy::unwrap_used)] // a helper of tests, outside a test function
#![allow(dead_code)] // each test file uses a part

use cnn_core::Tensor;
use cnn_onnx::proto::{
    AttributeProto, Dimension, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use cnn_onnx::{Error, ImportOptions, Imported, from_bytes};
use prost::Message;

/// A model being written.
#[derive(Clone)]
pub struct File(pub ModelProto);

/// An attribute.
pub enum A<'a> {
    I(i64),
    F(f32),
    S(&'static str),
    Is(&'a [i64]),
    T(Box<TensorProto>),
}

pub fn value_info(name: &str, elem_type: i32, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = |d: &Option<i64>| DimensionProto {
        value: Some(d.map_or(Dimension::Param("n".into()), Dimension::Value)),
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type, shape });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

pub fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: data_type::INT64,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// Numbers that are not all the same.
pub fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

pub fn image(shape: &[usize]) -> Tensor {
    cnn_core::tensor::tensor(shape, ramp(shape.iter().product())).unwrap()
}

impl File {
    /// A model with the input `x` of the given shape behind a dynamic batch, and the output `y`.
    pub fn new(opset: i64, shape: &[i64]) -> File {
        let dims: Vec<Option<i64>> = std::iter::once(None).chain(shape.iter().map(|&d| Some(d))).collect();
        let graph = GraphProto {
            name: "g".into(),
            input: vec![value_info("x", data_type::FLOAT, &dims)],
            output: vec![value_info("y", data_type::FLOAT, &[])],
            ..Default::default()
        };
        File(ModelProto {
            ir_version: 8,
            producer_name: "hand".into(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
            graph: Some(graph),
            ..Default::default()
        })
    }

    pub fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }

    pub fn constant(mut self, tensor: TensorProto) -> File {
        self.graph().initializer.push(tensor);
        self
    }

    pub fn node(self, kind: &str, inputs: &[&str], outputs: &[&str]) -> File {
        self.with(kind, inputs, outputs, &[])
    }

    pub fn with(
        mut self,
        kind: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, A<'_>)],
    ) -> File {
        let attribute = |(name, a): &(&str, A<'_>)| {
            let mut proto = AttributeProto { name: (*name).into(), ..Default::default() };
            proto.r#type = match a {
                A::I(i) => {
                    proto.i = Some(*i);
                    attribute_type::INT
                }
                A::F(f) => {
                    proto.f = Some(*f);
                    attribute_type::FLOAT
                }
                A::S(s) => {
                    proto.s = Some(s.as_bytes().into());
                    attribute_type::STRING
                }
                A::Is(list) => {
                    proto.ints = list.to_vec();
                    attribute_type::INTS
                }
                A::T(t) => {
                    proto.t = Some(*t.clone());
                    attribute_type::TENSOR
                }
            };
            proto
        };
        let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        self.graph().node.push(NodeProto {
            op_type: kind.into(),
            name: format!("/{}/{kind}", outputs[0]),
            input: own(inputs),
            output: own(outputs),
            attribute: attributes.iter().map(attribute).collect(),
            ..Default::default()
        });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    pub fn import(&self) -> Result<Imported, Error> {
        from_bytes(&self.bytes(), None, &ImportOptions::default())
    }

    /// The error of the import, as text.
    pub fn error(&self) -> String {
        self.import().expect_err("the import must fail").to_string()
    }

    /// Kinds of the layers behind the input.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.import().unwrap().graph.nodes()[1..].iter().map(|n| n.layer().kind()).collect()
    }
}
