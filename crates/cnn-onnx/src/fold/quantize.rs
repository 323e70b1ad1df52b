//! Constants on a grid: `QuantizeLinear` and `DequantizeLinear`.

use super::movement::broadcast_to;
use crate::kind::ElementKind;
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs};
use crate::value::{Value, axis_of, strides};

/// The axis along which the scales of an input of some rank are.
pub(crate) fn grid_axis(op: &Op<'_>, scale: &Value, rank: usize) -> Result<usize, Refusal> {
    match scale.len() == 1 && scale.shape.len() < 2 {
        true => Ok(0),
        false => axis_of(op.int("axis", 1)?, rank),
    }
}

/// Scales or zero points repeated to the shape of the values: one for all, one for each index of an axis, or
/// one for each block along an axis.
pub(crate) fn spread(op: &Op<'_>, grid: &Value, shape: &[usize], budget: &Budget) -> Result<Value, Refusal> {
    let axis = grid_axis(op, grid, shape.len())?;
    let block = op.int("block_size", 0)?;
    let bad = || Refusal::invalid(format!("scales of shape {:?} along axis {axis} of {shape:?}", grid.shape));
    if grid.len() == 1 && grid.shape.len() < 2 {
        return broadcast_to(&grid.reshaped(Vec::new())?, shape, budget);
    }
    budget.claim(shape)?;
    if grid.shape.len() == 1 {
        if grid.len() != shape[axis] {
            return Err(bad());
        }
        let table = |i: usize| (0..shape[i]).map(|p| if i == axis { p } else { 0 }).collect();
        return Ok(grid.walked(&(0..shape.len()).map(table).collect::<Vec<_>>()));
    }
    let block = usize::try_from(block).ok().filter(|&b| b > 0).ok_or_else(bad)?;
    let fits = grid.shape.len() == shape.len()
        && (0..shape.len())
            .all(|i| grid.shape[i] == if i == axis { shape[i].div_ceil(block) } else { shape[i] });
    if !fits {
        return Err(bad());
    }
    let own = strides(&grid.shape);
    let table = |i: usize| (0..shape[i]).map(|p| if i == axis { p / block } else { p } * own[i]).collect();
    Ok(grid.walked(&(0..shape.len()).map(table).collect::<Vec<_>>()))
}

pub(super) fn dequantize(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    let scale = inputs.need(1, "scale")?;
    let zero_point = inputs.value(2, "zero point")?;
    if x.kind.is_float() || zero_point.is_some_and(|z| z.kind != x.kind || z.len() != scale.len()) {
        return Err(Refusal::invalid(format!(
            "values of type {}, or a zero point that does not fit",
            x.kind
        )));
    }
    let kind = match op.int("output_dtype", 0)? {
        0 => scale.kind,
        code => i32::try_from(code)
            .ok()
            .and_then(ElementKind::from_code)
            .filter(|kind| kind.is_float())
            .ok_or_else(|| Refusal::unsupported(format!("an output of the element type {code}")))?,
    };
    budget.claim(&x.shape)?;
    let mut values = x.i64s()?;
    if let Some(zero_point) = zero_point {
        let zero_point = spread(op, zero_point, &x.shape, budget)?.i64s()?;
        values.iter_mut().zip(zero_point).for_each(|(v, z)| *v = v.wrapping_sub(z));
    }
    let scale = spread(op, scale, &x.shape, budget)?.f32s();
    let values = values.into_iter().zip(scale).map(|(v, s)| v as f32 * s).collect();
    Ok(Value::floats(kind, x.shape.clone(), values))
}

/// The type of the levels.
pub(crate) fn level_kind(op: &Op<'_>, zero_point: Option<&Value>) -> Result<ElementKind, Refusal> {
    let kind = match (zero_point, op.int("output_dtype", 0)?) {
        (Some(zero_point), _) => zero_point.kind,
        (None, 0) => ElementKind::UInt8,
        (None, code) => i32::try_from(code)
            .ok()
            .and_then(ElementKind::from_code)
            .ok_or_else(|| Refusal::unsupported(format!("quantization to the element type {code}")))?,
    };
    match kind.is_float() {
        true => Err(Refusal::invalid("quantization to floats")),
        false => Ok(kind),
    }
}

pub(super) fn quantize(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    let zero_point = inputs.value(2, "zero point")?;
    let kind = level_kind(op, zero_point)?;
    budget.claim(&x.shape)?;
    let scale = spread(op, inputs.need(1, "scale")?, &x.shape, budget)?.f32s();
    let zeros = match zero_point {
        Some(zero_point) => spread(op, zero_point, &x.shape, budget)?.f32s(),
        None => vec![0.0; x.len()],
    };
    let (low, high) = kind.range();
    let grid = x.f32s().into_iter().zip(scale.into_iter().zip(zeros));
    let levels = grid.map(|(v, (s, z))| (((v / s).round_ties_even() + z) as i64).clamp(low, high));
    Ok(Value::integers(kind, x.shape.clone(), levels.collect::<Vec<_>>().into_iter()))
}
