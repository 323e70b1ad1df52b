//! The operators of the standard that this crate's layers are expressed in, computed as the standard defines them.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::express::{Attribute, ElementType, Numbers, Operator, StandardGraph};
use cnn_core::layers::{Conv2d, ConvOptions, Flatten, Linear};
use cnn_core::tensor::tensor;
use cnn_core::{Layer, Tensor};
use std::collections::HashMap;

/// A tensor of any type.
#[derive(Debug, Clone)]
struct Array {
    shape: Vec<usize>,
    numbers: Numbers,
}

impl Array {
    fn floats(&self) -> &[f32] {
        match &self.numbers {
            Numbers::F32(v) => v,
            other => panic!("floats, not {other:?}"),
        }
    }

    fn integers(&self) -> Vec<i64> {
        match &self.numbers {
            Numbers::U8(v) | Numbers::U4(v) => v.iter().map(|&v| v.into()).collect(),
            Numbers::I8(v) => v.iter().map(|&v| v.into()).collect(),
            Numbers::I32(v) => v.iter().map(|&v| v.into()).collect(),
            Numbers::I64(v) => v.clone(),
            Numbers::F32(_) => panic!("integers, not floats"),
        }
    }

    fn tensor(&self) -> Tensor {
        tensor(&self.shape, self.floats().to_vec()).unwrap()
    }
}

/// The output of a network in standard operators.
pub fn run(graph: &StandardGraph, x: &Tensor) -> Tensor {
    let mut values: HashMap<&str, Array> = HashMap::new();
    values.insert(&graph.input.0, floats(x));
    for c in &graph.constants {
        let array = Array { shape: c.shape.clone(), numbers: c.numbers.clone() };
        assert!(values.insert(&c.name, array).is_none(), "{} twice", c.name);
    }
    for o in &graph.operators {
        let inputs: Vec<&Array> = o.inputs.iter().map(|name| &values[name.as_str()]).collect();
        let output = operator(o, &inputs);
        values.insert(&o.output, output);
    }
    values[graph.output.0.as_str()].tensor()
}

fn floats(x: &Tensor) -> Array {
    Array { shape: x.shape().to_vec(), numbers: Numbers::F32(x.iter().copied().collect()) }
}

fn operator(o: &Operator, inputs: &[&Array]) -> Array {
    let attribute = |name: &str| o.attributes.iter().find(|(n, _)| *n == name).map(|(_, a)| a);
    let sizes = |name: &str| match attribute(name) {
        Some(Attribute::Ints(v)) => v.iter().map(|&v| v as usize).collect::<Vec<_>>(),
        other => panic!("{name} is {other:?}"),
    };
    let int = |name: &str| match attribute(name) {
        Some(Attribute::Int(v)) => Some(*v),
        _ => None,
    };
    let bias = || inputs.get(2).map(|b| b.tensor());
    match o.kind {
        "Cast" => {
            assert_eq!(attribute("to"), Some(&Attribute::Type(ElementType::I32)));
            let numbers = inputs[0].integers().into_iter().map(|v| v as i32).collect();
            Array { shape: inputs[0].shape.clone(), numbers: Numbers::I32(numbers) }
        }
        "Gather" => {
            // indices are 32 or 64 bits wide; the table is flat
            assert!(matches!(inputs[1].numbers, Numbers::I32(_) | Numbers::I64(_)));
            assert_eq!((inputs[0].shape.len(), int("axis")), (1, None));
            let table = inputs[0].floats();
            let numbers = inputs[1].integers().into_iter().map(|i| table[i as usize]).collect();
            Array { shape: inputs[1].shape.clone(), numbers: Numbers::F32(numbers) }
        }
        "Sub" | "Mul" | "Add" if matches!(inputs[0].numbers, Numbers::F32(_)) => {
            let (a, b) = (inputs[0].tensor(), inputs[1].tensor());
            floats(&match o.kind {
                "Sub" => a - b,
                "Mul" => a * b,
                _ => a + b,
            })
        }
        "Add" => {
            // one number for each index of the first axis
            let (numbers, each) =
                (inputs[0].integers(), inputs[0].integers().len() / inputs[1].integers().len());
            let of_rows = inputs[1].integers();
            let sums = numbers.iter().enumerate().map(|(at, v)| (v + of_rows[at / each]) as i32).collect();
            Array { shape: inputs[0].shape.clone(), numbers: Numbers::I32(sums) }
        }
        "Clip" => {
            let (low, high) = (inputs[1].floats()[0], inputs[2].floats()[0]);
            let numbers = inputs[0].floats().iter().map(|v| v.clamp(low, high)).collect();
            Array { shape: inputs[0].shape.clone(), numbers: Numbers::F32(numbers) }
        }
        "QuantizeLinear" => {
            let (scale, zero) = (inputs[1].floats(), inputs[2].integers());
            assert!(inputs[1].shape.is_empty() && matches!(inputs[2].numbers, Numbers::U8(_)));
            let level =
                |&x: &f32| ((x / scale[0]).round_ties_even() + zero[0] as f32).clamp(0.0, 255.0) as u8;
            let numbers = inputs[0].floats().iter().map(level).collect();
            Array { shape: inputs[0].shape.clone(), numbers: Numbers::U8(numbers) }
        }
        "DequantizeLinear" => {
            let (scale, shape) = (inputs[1].floats(), inputs[0].shape.clone());
            let zero = inputs.get(2).map_or(vec![0; scale.len()], |z| z.integers());
            assert_eq!(scale.len(), zero.len());
            // one for all, or one for each index of the axis, which is 1 if not said
            let row = match inputs[1].shape.as_slice() {
                [] => usize::MAX,
                _ => {
                    assert_eq!((int("axis"), scale.len()), (Some(0), shape[0]));
                    shape[1..].iter().product()
                }
            };
            let value = |(at, q): (usize, i64)| (q - zero[at / row]) as f32 * scale[at / row];
            let numbers = inputs[0].integers().into_iter().enumerate().map(value).collect();
            Array { shape, numbers: Numbers::F32(numbers) }
        }
        "Conv" => {
            let (stride, pad, dilation) = (sizes("strides"), sizes("pads"), sizes("dilations"));
            let options = ConvOptions {
                stride: [stride[0], stride[1]],
                pad: [pad[0], pad[1], pad[2], pad[3]],
                dilation: [dilation[0], dilation[1]],
                groups: int("group").unwrap() as usize,
            };
            assert_eq!(sizes("kernel_shape"), inputs[1].shape[2..]);
            let conv = Conv2d::new(inputs[1].tensor(), bias(), options).unwrap();
            floats(&conv.infer(&[&inputs[0].tensor()]).unwrap())
        }
        "Gemm" => {
            assert_eq!(int("transB"), Some(1));
            let linear = Linear::new(inputs[1].tensor(), bias()).unwrap();
            floats(&linear.infer(&[&inputs[0].tensor()]).unwrap())
        }
        "Flatten" => floats(&Flatten.infer(&[&inputs[0].tensor()]).unwrap()),
        other => panic!("no operator {other}"),
    }
}
