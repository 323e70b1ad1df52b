//! Values on a grid: `QuantizeLinear` followed by `DequantizeLinear`.

use super::context::Context;
use crate::fold::{grid_axis, level_kind};
use crate::op::Refusal;
use crate::slot::{Levels, Slot};
use cnn_core::layers::FakeQuantize;
use std::sync::Arc;

/// Quantizes and goes back; the levels in between are never seen.
pub(super) fn quantize(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let scale = at.inputs.need(1, "a scale")?;
    let zero_point = at.inputs.value(2, "a zero point")?;
    let axis = grid_axis(&at.op, scale, shape.len())?;
    if scale.len() > 1 && axis == 0 {
        return Err(Refusal::unsupported("scales that differ between the images of a batch"));
    }
    if scale.shape().len() > 1 {
        return Err(Refusal::unsupported("scales of blocks"));
    }
    let kind = level_kind(&at.op, zero_point)?;
    let (low, high) = kind.range();
    let (Ok(low), Ok(high)) = (i32::try_from(low), i32::try_from(high)) else {
        return Err(Refusal::unsupported(format!("levels of type {kind}")));
    };
    let zeros = match zero_point {
        Some(z) if z.len() == scale.len() => z.i64s()?.into_iter().map(|z| z as i32).collect(),
        Some(z) => {
            return Err(Refusal::invalid(format!("{} zero points for {} scales", z.len(), scale.len())));
        }
        None => vec![0; scale.len()],
    };
    let layer = FakeQuantize::new(scale.f32s(), zeros, axis, low, high)?;
    let fake = at.drafts.push(&name, layer, &[x])?;
    let levels = Levels { fake, scale: scale.clone(), zero_point: zero_point.cloned(), axis };
    Ok(vec![Slot::Levels(Arc::new(levels))])
}

/// Goes back, on the grid on which was quantized.
pub(super) fn dequantize(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let levels = match at.inputs.get(0) {
        Some(Slot::Levels(levels)) => levels,
        _ => return Err(Refusal::unsupported("values that are not on a grid before")),
    };
    let scale = at.inputs.need(1, "a scale")?;
    let zero_point = at.inputs.value(2, "a zero point")?;
    let axis = grid_axis(&at.op, scale, at.drafts.shape(levels.fake).len())?;
    let same_zero = match (zero_point, &levels.zero_point) {
        (Some(a), Some(b)) => a == b,
        (None, Some(z)) | (Some(z), None) => z.f64s().iter().all(|&z| z == 0.0),
        (None, None) => true,
    };
    match levels.scale == *scale && axis == levels.axis && same_zero {
        true => Ok(Context::one(levels.fake)),
        false => Err(Refusal::unsupported("another grid than the one on which was quantized")),
    }
}
