//! Images made larger or smaller.

use super::context::Context;
use crate::op::Refusal;
use crate::slot::Slot;
use crate::value::{Sym, Value, axis_of};
use cnn_core::layers::{NearestRounding, Resize, ResizeCoordinates, ResizeMode};

/// `Resize` of opsets 10 and later, and `Upsample`, its first form.
pub(super) fn resize(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let rank = shape.len();
    if rank != 4 {
        return Err(Refusal::unsupported(format!("data of {rank} axes; images have four")));
    }
    // before opset 11 there were no region and no settings of coordinates
    let old = at.op.kind() == "Upsample" || at.op.opset < 11;
    let (scales, sizes) = if old { (1, usize::MAX) } else { (2, 3) };
    let axes = match at.op.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let mut scale = [1f32; 4];
    let mut size = [shape[0], shape[1], shape[2], shape[3]];
    let given = |i: usize| Ok::<_, Refusal>(at.inputs.value(i, "a size")?.filter(|v| !v.is_empty()));
    let listed = |length: usize| match length == axes.len() {
        true => Ok(()),
        false => Err(Refusal::invalid(format!("{length} sizes for {} axes", axes.len()))),
    };
    let written = at.op.floats("scales")?;
    if let Some(list) = written.map(<[f32]>::to_vec).or(given(scales)?.map(Value::f32s)) {
        listed(list.len())?;
        for (&axis, &s) in axes.iter().zip(&list) {
            if axis < 2 && s != 1.0 {
                return Err(Refusal::unsupported("channels or batch resized"));
            }
            let made = (shape[axis] as f32 * s).floor();
            if !(s > 0.0 && made >= 1.0 && made <= (1 << 24) as f32) {
                return Err(Refusal::invalid(format!("an axis of {} scaled by {s}", shape[axis])));
            }
            (scale[axis], size[axis]) = (s, made as usize);
        }
    } else {
        let list = given(sizes)?.ok_or_else(|| Refusal::invalid("neither scales nor sizes"))?.syms()?;
        listed(list.len())?;
        for (&axis, wanted) in axes.iter().zip(&list) {
            // the size of the batch is the batch
            let Some(wanted) = wanted.get() else {
                match axis == 0 && *wanted == Sym::BATCH {
                    true => continue,
                    false => return Err(Refusal::unsupported("a size that depends on the batch")),
                }
            };
            let wanted = usize::try_from(wanted).ok().filter(|&n| (1..=1 << 24).contains(&n));
            size[axis] = wanted.ok_or_else(|| Refusal::invalid("the sizes"))?;
            scale[axis] = size[axis] as f32 / shape[axis] as f32;
        }
        let policy = at.op.text("keep_aspect_ratio_policy", "stretch")?;
        if policy != "stretch" {
            keep_aspect_ratio(policy, &axes, &shape, &mut size, &mut scale)?;
        }
    }
    if size[..2] != shape[..2] {
        return Err(Refusal::unsupported("channels or batch resized"));
    }
    if at.op.flag("antialias", false)? && scale.iter().any(|&s| s < 1.0) {
        return Err(Refusal::unsupported("antialias"));
    }
    let exact = |axis: usize| (shape[axis] as f32 * scale[axis] - size[axis] as f32).abs() < 1e-4;
    let coordinates = match at.op.text("coordinate_transformation_mode", "half_pixel")? {
        _ if old => ResizeCoordinates::Asymmetric,
        "half_pixel" => ResizeCoordinates::HalfPixel,
        // the same where sizes are whole
        "half_pixel_symmetric" if exact(2) && exact(3) => ResizeCoordinates::HalfPixel,
        "pytorch_half_pixel" => ResizeCoordinates::PytorchHalfPixel,
        // ONNX Runtime rounds the size before it computes the positions of the corners, the standard does not
        "align_corners" if !(exact(2) && exact(3)) => {
            return Err(Refusal::unsupported("align_corners with sizes that are not whole"));
        }
        "align_corners" => ResizeCoordinates::AlignCorners,
        "asymmetric" => ResizeCoordinates::Asymmetric,
        other => return Err(Refusal::unsupported(format!("coordinate_transformation_mode `{other}`"))),
    };
    let mode = match at.op.text("mode", "nearest")? {
        "nearest" => ResizeMode::Nearest(match at.op.text("nearest_mode", "round_prefer_floor")? {
            // ONNX Runtime reads the first form so: up where images get smaller, down where they get larger
            _ if old => match [scale[2], scale[3]] {
                [v, h] if v >= 1.0 && h >= 1.0 => NearestRounding::Floor,
                [v, h] if v <= 1.0 && h <= 1.0 => NearestRounding::Ceil,
                _ => {
                    return Err(Refusal::unsupported(
                        "one axis made larger and the other smaller, before opset 11",
                    ));
                }
            },
            "round_prefer_floor" => NearestRounding::PreferFloor,
            "round_prefer_ceil" => NearestRounding::PreferCeil,
            "floor" => NearestRounding::Floor,
            "ceil" => NearestRounding::Ceil,
            other => return Err(Refusal::invalid(format!("nearest_mode `{other}`"))),
        }),
        "linear" | "bilinear" => ResizeMode::Linear,
        "cubic" if at.op.flag("exclude_outside", false)? => {
            return Err(Refusal::unsupported("exclude_outside"));
        }
        "cubic" => ResizeMode::Cubic(at.op.float("cubic_coeff_a", -0.75)?),
        other => return Err(Refusal::unsupported(format!("mode `{other}`"))),
    };
    // where it runs, each row and each column has a list of what it reads
    [size[2], size[3]].iter().try_for_each(|&n| at.budget.claim(&[n]))?;
    let layer = Resize { mode, coordinates, size: [size[2], size[3]], scale: [scale[2], scale[3]] };
    Ok(Context::one(at.drafts.push(&name, layer, &[x])?))
}

/// One scale for all axes: the smallest or the largest of them, sizes rounded.
fn keep_aspect_ratio(
    policy: &str,
    axes: &[usize],
    shape: &[usize],
    size: &mut [usize; 4],
    scale: &mut [f32; 4],
) -> Result<(), Refusal> {
    let scales = axes.iter().map(|&a| scale[a]);
    let one = match policy {
        "not_larger" => scales.fold(f32::INFINITY, f32::min),
        "not_smaller" => scales.fold(0.0, f32::max),
        other => return Err(Refusal::invalid(format!("keep_aspect_ratio_policy `{other}`"))),
    };
    for &axis in axes {
        scale[axis] = one;
        size[axis] = ((shape[axis] as f32 * one).round() as usize).max(1);
    }
    Ok(())
}
