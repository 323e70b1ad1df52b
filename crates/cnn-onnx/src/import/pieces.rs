//! Pieces of a value put together, or taken from it: `Concat`, `Split`, `Slice`, `Gather`, `Pad`, `Tile`.

use super::context::{Context, LONGEST};
use crate::fold::{positions, slice_parts, split_sizes};
use crate::op::Refusal;
use crate::slot::{Budget, Slot};
use crate::value::{Sym, axis_of};
use cnn_core::layers::{ArithmeticConstant, ArithmeticOperator, Concat, Pad};
use cnn_core::tensor::{elements, tensor};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// `Concat` along any axis but the batch.
pub(super) fn concat(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let name = at.name();
    let count = at.inputs.0.len();
    let mut parts = (0..count).map(|i| at.inputs.dynamic(i)).collect::<Result<Vec<_>, _>>()?;
    let rank = parts.first().map_or(0, |&p| at.drafts.shape(p).len());
    let axis = axis_of(at.op.int("axis", 1)?, rank)?;
    if axis == 0 {
        return Err(Refusal::unsupported("images put together to a larger batch"));
    }
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(1, axis);
    // a value that is there a million times is transposed once
    let mut turned = HashMap::new();
    for (i, part) in parts.iter_mut().enumerate() {
        if at.drafts.shape(*part).len() != rank {
            return Err(Refusal::invalid("values of different numbers of axes are concatenated"));
        }
        *part = match turned.entry(*part) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(at.transpose(&format!("{name}.in{i}"), *part, &order)?),
        };
    }
    let y = match parts[..] {
        [only] => only,
        _ => at.drafts.push(&name, Concat, &parts)?,
    };
    Ok(Context::one(at.transpose(&format!("{name}.out"), y, &order)?))
}

/// `Split` in all its forms.
pub(super) fn split(at: &mut Context<'_>, outputs: usize) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let axis = axis_of(at.op.int("axis", 0)?, shape.len())?;
    if axis == 0 {
        return Err(Refusal::unsupported("a batch that is split"));
    }
    let mut start = 0;
    let mut slots = Vec::new();
    for (i, size) in split_sizes(&at.op, &at.inputs, shape[axis], outputs)?.into_iter().enumerate() {
        if size == 0 {
            return Err(Refusal::unsupported("an empty piece"));
        }
        let map = (start..start + size).map(Some);
        slots.push(Slot::Dynamic(at.map_axis(&format!("{name}.{i}"), x, axis, map)?));
        start += size;
    }
    Ok(slots)
}

/// `Slice` in its two forms.
pub(super) fn slice(at: &mut Context<'_>, exported: Option<usize>) -> Result<Vec<Slot>, Refusal> {
    let (mut x, shape) = at.image(0)?;
    let name = at.name();
    let parts = slice_parts(&at.op, &at.inputs, shape.len())?;
    let count = parts.iter().filter(|p| p.axis != 0).count();
    for part in parts {
        if part.axis == 0 {
            let all = exported.is_some_and(|n| part.end.get() == i64::try_from(n).ok())
                && part.step == 1
                && part.start == Sym::known(0);
            if !part.keeps_batch() && !all {
                return Err(Refusal::unsupported("a choice of images of the batch"));
            }
            continue;
        }
        let chosen = part.positions(shape[part.axis])?;
        if chosen.len() == 0 {
            return Err(Refusal::unsupported("an empty slice"));
        }
        let label = if count == 1 { name.clone() } else { format!("{name}.{}", part.axis) };
        x = at.map_axis(&label, x, part.axis, chosen.map(Some))?;
    }
    Ok(Context::one(x))
}

/// `Gather` of constant positions.
pub(super) fn gather(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let indices = at.inputs.need(1, "positions")?;
    let axis = axis_of(at.op.int("axis", 0)?, shape.len())?;
    if axis == 0 {
        return Err(Refusal::unsupported("a choice of images of the batch"));
    }
    let map = positions(indices, shape[axis])?.into_iter().map(Some);
    let target = [&shape[..axis], indices.shape(), &shape[axis + 1..]].concat();
    let y = at.map_axis(&name, x, axis, map)?;
    Ok(Context::one(at.drafts.reshape(&format!("{name}.shape"), y, &target)?))
}

/// `Tile`.
pub(super) fn tile(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (mut x, shape) = at.image(0)?;
    let name = at.name();
    let repeats = at.inputs.need(1, "repeats")?.i64s()?;
    if repeats.len() != shape.len() {
        return Err(Refusal::invalid(format!("{repeats:?} repeats of {shape:?}")));
    }
    for (axis, &times) in repeats.iter().enumerate() {
        let times =
            usize::try_from(times).ok().filter(|&t| t > 0 && t.saturating_mul(shape[axis]) <= LONGEST);
        let times = times.ok_or_else(|| Refusal::invalid(format!("{repeats:?} repeats")))?;
        if times > 1 {
            let map = (0..times * shape[axis]).map(|i| Some(i % shape[axis]));
            x = at.map_axis(&format!("{name}.{axis}"), x, axis, map)?;
        }
    }
    Ok(Context::one(x))
}

/// The pads of all axes, before and behind, in the three forms that the standard has had.
fn pads(at: &Context<'_>, rank: usize) -> Result<Vec<[i64; 2]>, Refusal> {
    let list = match at.op.ints("pads")? {
        Some(list) => list.to_vec(),
        None => at.inputs.need(1, "pads")?.i64s()?,
    };
    let axes = match at.inputs.value(3, "axes")? {
        Some(axes) => axes.i64s()?.into_iter().map(|a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if list.len() != 2 * axes.len() {
        return Err(Refusal::invalid(format!("pads {list:?} for {} axes", axes.len())));
    }
    let mut pads = vec![[0, 0]; rank];
    for (i, &axis) in axes.iter().enumerate() {
        pads[axis] = [list[i], list[axes.len() + i]];
    }
    Ok(pads)
}

/// Where each position of a padded axis comes from; `None` is the frame of a constant.
fn padded(
    size: usize,
    [before, behind]: [i64; 2],
    mode: &str,
    budget: &Budget,
) -> Result<Vec<Option<usize>>, Refusal> {
    let n = size as i64;
    let total = before
        .checked_add(behind)
        .and_then(|p| p.checked_add(n))
        .filter(|t| (1..=LONGEST as i64).contains(t));
    let total = total
        .ok_or_else(|| Refusal::invalid(format!("an axis of {size} padded by {before} and {behind}")))?;
    budget.claim(&[total as usize])?;
    let source = |i: i64| match mode {
        "constant" => Ok(Some(i).filter(|i| (0..n).contains(i))),
        "edge" => Ok(Some(i.clamp(0, n - 1))),
        "wrap" => Ok(Some(i.rem_euclid(n))),
        "reflect" if n == 1 => Ok(Some(0)),
        "reflect" => {
            // a mirror at either end, again and again
            let period = 2 * (n - 1);
            let at = i.rem_euclid(period);
            Ok(Some(if at < n { at } else { period - at }))
        }
        other => Err(Refusal::unsupported(format!("mode `{other}`"))),
    };
    (0..total).map(|i| source(i.saturating_sub(before)).map(|s| s.map(|s| s as usize))).collect()
}

/// `Pad` in its three forms and four modes.
pub(super) fn pad(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (mut x, shape) = at.image(0)?;
    let name = at.name();
    let mode = at.op.text("mode", "constant")?;
    let value = match at.inputs.value(2, "the value of the frame")?.filter(|v| !v.is_empty()) {
        Some(value) => value.scalar()?,
        None => at.op.float("value", 0.0)?,
    };
    let pads = pads(at, shape.len())?;
    if pads.iter().all(|p| *p == [0, 0]) {
        return Ok(Context::one(x));
    }
    if pads[0] != [0, 0] {
        return Err(Refusal::unsupported("a padded batch"));
    }
    let whole = |p: [i64; 2]| p.iter().all(|&n| (0..=LONGEST as i64).contains(&n));
    if let (&[_, channels, rows, columns], "constant") = (&pads[..], mode)
        && channels == [0, 0]
        && whole(rows)
        && whole(columns)
    {
        let pad = [rows[0], columns[0], rows[1], columns[1]].map(|n| n as usize);
        return Ok(Context::one(at.drafts.push(&name, Pad { pad, value }, &[x])?));
    }
    let padded = |axis: usize| padded(shape[axis], pads[axis], mode, at.budget);
    let maps = (1..shape.len()).map(padded).collect::<Result<Vec<_>, _>>()?;
    let padded_axes = pads.iter().filter(|p| **p != [0, 0]).count();
    for (axis, map) in (1..).zip(&maps) {
        let label = if padded_axes == 1 { name.clone() } else { format!("{name}.{axis}") };
        x = at.map_axis(&label, x, axis, map.iter().copied())?;
    }
    if mode == "constant" && value != 0.0 && maps.iter().flatten().any(Option::is_none) {
        // the frame is zero so far: a constant is added that has the value there
        let full = at.drafts.shape(x).to_vec();
        at.budget.claim(&full)?;
        let mut frame = vec![0f32; elements(&full)];
        let steps = crate::value::strides(&full);
        for (i, f) in frame.iter_mut().enumerate() {
            if (1..full.len()).any(|axis| maps[axis - 1][i / steps[axis] % full[axis]].is_none()) {
                *f = value;
            }
        }
        let layer = ArithmeticConstant::new(ArithmeticOperator::Add, tensor(&full, frame)?, false)?;
        x = at.drafts.push(&format!("{name}.value"), layer, &[x])?;
    }
    Ok(Context::one(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_padding() -> Result<(), Refusal> {
        let budget = Budget::new(100);
        let at = |mode, pads| padded(3, pads, mode, &budget);
        assert_eq!(at("constant", [1, 2])?, [None, Some(0), Some(1), Some(2), None, None]);
        assert_eq!(at("edge", [2, 1])?, [0, 0, 0, 1, 2, 2].map(Some));
        assert_eq!(at("reflect", [2, 3])?, [2, 1, 0, 1, 2, 1, 0, 1].map(Some));
        assert_eq!(at("wrap", [2, 1])?, [1, 2, 0, 1, 2, 0].map(Some));
        assert_eq!(at("constant", [-1, 1])?, [Some(1), Some(2), None]);
        assert!(at("constant", [-2, -1]).is_err());
        assert!(at("constant", [i64::MAX, i64::MAX]).is_err());
        assert!(matches!(at("other", [1, 1]), Err(Refusal::Unsupported(_))));
        assert!(matches!(at("edge", [0, 100]), Err(Refusal::Invalid(why)) if why.contains("may ask for")));
        Ok(())
    }
}
