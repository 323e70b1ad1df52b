//! Import: the operators of a file as layers, one family of operators a file.

mod activation;
mod arithmetic;
mod context;
mod conv;
mod linear;
mod norm;
mod pieces;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod shape;
mod window;

use crate::draft::Drafts;
use crate::fold::{FOLDED, fold};
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs, Slot};
use context::Context;

/// What the conversion of all operators shares.
pub(crate) struct Importer {
    pub drafts: Drafts,
    pub budget: Budget,
    /// The batch size for which the file was exported, if it is fixed.
    pub exported_batch: Option<usize>,
}

/// The operators that become layers, sorted.
const CONVERTED: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Celu",
    "Clip",
    "Concat",
    "Conv",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "QuantizeLinear",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Selu",
    "Shape",
    "Sigmoid",
    "Size",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
];

/// The operators of the standard that become layers when they compute from the image; more are evaluated when
/// all they read is constant.
pub fn supported_operators() -> &'static [&'static str] {
    CONVERTED
}

/// The operators of the standard that are evaluated when all they read is constant, or the shape of a value
/// from the image.
pub fn folded_operators() -> &'static [&'static str] {
    FOLDED
}

/// True if the operator is known, as a layer or for constants.
pub(crate) fn is_known(kind: &str) -> bool {
    CONVERTED.contains(&kind) || FOLDED.contains(&kind)
}

impl Importer {
    /// One operator: constants if all it reads is constant, layers otherwise. `used` says which outputs
    /// somebody reads.
    pub fn convert(&mut self, op: &Op<'_>, mut inputs: Inputs, used: &[bool]) -> Result<Vec<Slot>, Refusal> {
        let constant = inputs.0.iter().flatten().all(|slot| matches!(slot, Slot::Constant(..)));
        if constant {
            return match fold(op, &mut inputs, used.len(), &self.budget)? {
                Some(values) => {
                    let origin = match inputs.get(0) {
                        Some(Slot::Constant(_, origin)) => origin.clone(),
                        _ => None,
                    };
                    Ok(values.into_iter().map(|v| Slot::Constant(v, origin.clone())).collect())
                }
                None if CONVERTED.contains(&op.kind()) => Err(Refusal::unsupported("constants alone")),
                None => Err(Refusal::Unsupported(String::new())),
            };
        }
        let more_used = used.iter().skip(1).any(|&u| u);
        let exported = self.exported_batch;
        let mut at = Context { op: *op, inputs, drafts: &mut self.drafts, budget: &self.budget };
        match op.kind() {
            "Conv" => conv::conv(&mut at),
            "Gemm" => linear::gemm(&mut at),
            "MatMul" => linear::matmul(&mut at),
            "BatchNormalization" if more_used => Err(Refusal::unsupported("the outputs of training")),
            "BatchNormalization" => norm::batch_norm(&mut at),
            "MaxPool" | "AveragePool" => pool::pool(&mut at, more_used),
            "GlobalAveragePool" | "GlobalMaxPool" => pool::global(&mut at),
            "Relu" | "Clip" | "LeakyRelu" | "PRelu" | "Sigmoid" | "Tanh" | "Elu" | "Selu" | "Celu"
            | "HardSigmoid" | "HardSwish" | "Mish" | "Neg" | "Reciprocal" => activation::activation(&mut at),
            "Max" | "Min" => activation::extremum(&mut at),
            "Dropout" => activation::dropout(&mut at, more_used),
            "Softmax" => activation::softmax(&mut at),
            "Add" | "Sub" | "Mul" | "Div" => arithmetic::binary(&mut at),
            "Sum" | "Mean" => arithmetic::sum(&mut at),
            "Pow" => arithmetic::power(&mut at),
            "Concat" => pieces::concat(&mut at),
            "Split" => pieces::split(&mut at, used.len()),
            "Slice" => pieces::slice(&mut at, exported),
            "Gather" => pieces::gather(&mut at),
            "Pad" => pieces::pad(&mut at),
            "Tile" => pieces::tile(&mut at),
            "Flatten" => shape::flatten(&mut at),
            "Reshape" => shape::reshape(&mut at, exported),
            "Transpose" => shape::transpose(&mut at),
            "Squeeze" | "Unsqueeze" => shape::squeeze(&mut at),
            "Expand" => shape::expand(&mut at),
            "Shape" => shape::shape(&mut at),
            "Size" => shape::size(&mut at),
            "DepthToSpace" | "SpaceToDepth" => shape::blocks(&mut at),
            "ReduceMean" | "ReduceSum" | "ReduceMax" => reduce::reduce(&mut at),
            "Resize" | "Upsample" => resize::resize(&mut at),
            "QuantizeLinear" => quantize::quantize(&mut at),
            "DequantizeLinear" => quantize::dequantize(&mut at),
            "Identity" => Ok(at.inputs.get(0).cloned().into_iter().collect()),
            "Cast" => match crate::fold::cast_target(op)?.is_float() {
                // all floats are computed in 32 bits
                true => Ok(Context::one(at.inputs.dynamic(0)?)),
                false => Err(Refusal::unsupported("conversion of values from the image to integers")),
            },
            kind if FOLDED.contains(&kind) => Err(Refusal::unsupported("values computed from the image")),
            _ => Err(Refusal::Unsupported(String::new())),
        }
    }
}
