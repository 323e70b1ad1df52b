//! Constant folding: operators whose inputs are all known are evaluated when a file is read, so that the
//! chains with which exporters compute shapes vanish. The size of the batch stays a symbol.

mod arithmetic;
mod cast;
mod movement;
mod quantize;
mod reduce;
mod scatter;
mod unary;

pub(crate) use cast::target as cast_target;
pub(crate) use movement::{axes_setting, positions, slice_parts, split_sizes, squeezed, unsqueezed};
pub(crate) use quantize::{grid_axis, level_kind};

use crate::constants;
use crate::kind::ElementKind;
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs};
use crate::value::{Data, Value};

/// Evaluates an operator whose inputs are all constant; `None` if it is not one of those that fold.
pub(crate) fn fold(
    op: &Op<'_>,
    inputs: &mut Inputs,
    outputs: usize,
    budget: &Budget,
) -> Result<Option<Vec<Value>>, Refusal> {
    let x = || inputs.need(0, "data");
    let value = match op.kind() {
        "Constant" => constant(op)?,
        "Dropout"
            if inputs.value(2, "training_mode")?.is_some_and(|v| v.f64s().iter().any(|&m| m != 0.0)) =>
        {
            return Err(Refusal::unsupported("training_mode"));
        }
        "Identity" | "Dropout" => x()?.clone(),
        "Shape" => shape(op, x()?)?,
        "Size" => Value::new(ElementKind::Int64, Vec::new(), Data::I64(vec![x()?.len() as i64])),
        "Cast" => cast::cast(op, x()?, budget)?,
        "CastLike" => cast::to_kind(x()?, inputs.need(1, "target type")?.kind, budget)?,
        "ConstantOfShape" => constant_of_shape(op, x()?, budget)?,
        "Range" => arithmetic::range(inputs, budget)?,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Equal" | "Greater" | "Less" | "GreaterOrEqual"
        | "LessOrEqual" | "And" | "Or" | "Xor" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" => {
            arithmetic::binary(op, x()?, inputs.need(1, "second operand")?, budget)?
        }
        "Min" | "Max" | "Sum" | "Mean" => arithmetic::several(op, inputs, budget)?,
        "Where" => arithmetic::choose(inputs, budget)?,
        "Clip" => arithmetic::clip(op, inputs, budget)?,
        "Neg" | "Abs" | "Sign" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Exp" | "Log" | "Reciprocal"
        | "Relu" | "Sigmoid" | "Tanh" | "Not" | "BitwiseNot" => unary::unary(op.kind(), x()?, budget)?,
        "ReduceProd" | "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" => {
            reduce::reduce(op, inputs, budget)?
        }
        "MatMul" => reduce::matmul(x()?, inputs.need(1, "second operand")?, budget)?,
        "QuantizeLinear" => quantize::quantize(op, inputs, budget)?,
        "DequantizeLinear" => quantize::dequantize(op, inputs, budget)?,
        "Gather" => movement::gather(op, x()?, inputs.need(1, "indices")?, budget)?,
        "Slice" => movement::slice(op, inputs, budget)?,
        "Concat" => movement::concat(op, inputs, budget)?,
        "Transpose" => movement::transpose(op, x()?, budget)?,
        "Expand" => movement::expand(x()?, &inputs.need(1, "shape")?.i64s()?, budget)?,
        "Tile" => movement::tile(x()?, &inputs.need(1, "repeats")?.i64s()?, budget)?,
        "Reshape" => movement::reshape(op, x()?, &inputs.need(1, "shape")?.i64s()?)?,
        "Flatten" => movement::flatten(op, x()?)?,
        "Squeeze" => movement::squeeze(op, inputs)?,
        "Unsqueeze" => movement::unsqueeze(op, inputs)?,
        "Split" => return movement::split(op, inputs, outputs, budget).map(Some),
        "NonZero" => movement::non_zero(x()?, budget)?,
        "CumSum" => scatter::cum_sum(op, inputs, budget)?,
        "ScatterElements" => scatter::scatter_elements(op, inputs, budget)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![value]))
}

/// The operators that [`fold`] knows.
pub(crate) const FOLDED: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "CumSum",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Equal",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Log",
    "MatMul",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "Or",
    "Pow",
    "QuantizeLinear",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Round",
    "ScatterElements",
    "Shape",
    "Sigmoid",
    "Sign",
    "Size",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
    "Xor",
];

fn constant(op: &Op<'_>) -> Result<Value, Refusal> {
    if let Some(proto) = op.tensor("value")? {
        return constants::read(proto, op.source, None, 1 << 29).map_err(|e| Refusal::invalid(e.to_string()));
    }
    if op.has("value_float") {
        return Ok(Value::floats(ElementKind::Float, Vec::new(), vec![op.float("value_float", 0.0)?]));
    }
    if let Some(floats) = op.floats("value_floats")? {
        return Ok(Value::floats(ElementKind::Float, vec![floats.len()], floats.to_vec()));
    }
    if op.has("value_int") {
        return Value::list(&[op.int("value_int", 0)?]).reshaped(Vec::new());
    }
    match op.ints("value_ints")? {
        Some(ints) => Ok(Value::list(ints)),
        None => Err(Refusal::unsupported("a constant that is sparse or a text")),
    }
}

fn constant_of_shape(op: &Op<'_>, shape: &Value, budget: &Budget) -> Result<Value, Refusal> {
    let filled = match op.tensor("value")? {
        None => Value::floats(ElementKind::Float, vec![1], vec![0.0]),
        Some(proto) => {
            constants::read(proto, op.source, None, 1).map_err(|e| Refusal::invalid(e.to_string()))?
        }
    };
    if filled.len() != 1 {
        return Err(Refusal::invalid("the attribute `value` holds one number"));
    }
    movement::expand(&filled.reshaped(Vec::new())?, &shape.i64s()?, budget)
}

/// The part of a shape that `Shape` asks for.
pub(crate) fn shape_range(op: &Op<'_>, rank: usize) -> Result<std::ops::Range<usize>, Refusal> {
    let clamp =
        |at: i64| (if at < 0 { at.saturating_add(rank as i64) } else { at }).clamp(0, rank as i64) as usize;
    let start = clamp(op.int("start", 0)?);
    let end = clamp(op.int("end", rank as i64)?);
    Ok(start..end.max(start))
}

fn shape(op: &Op<'_>, x: &Value) -> Result<Value, Refusal> {
    let sizes: Vec<i64> = x.shape[shape_range(op, x.shape.len())?].iter().map(|&d| d as i64).collect();
    Ok(Value::list(&sizes))
}
