//! Reductions over axes.

use super::context::Context;
use super::pool::largest;
use crate::fold::axes_setting;
use crate::op::Refusal;
use crate::slot::Slot;
use crate::value::axis_of;
use cnn_core::layers::{ArithmeticOperator, GlobalAvgPool, Mean};

/// `ReduceMean`, `ReduceSum`, and `ReduceMax` over the positions of images.
pub(super) fn reduce(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let rank = shape.len();
    let axes = axes_setting(&at.op, &at.inputs)?.filter(|axes| !axes.is_empty());
    let mut axes = match axes {
        Some(axes) => axes.into_iter().map(|a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None if at.op.flag("noop_with_empty_axes", false)? => return Ok(Context::one(x)),
        None => (0..rank).collect(),
    };
    axes.sort_unstable();
    axes.dedup();
    if axes.first() == Some(&0) {
        return Err(Refusal::unsupported("a reduction over the batch"));
    }
    let keep = at.op.flag("keepdims", true)?;
    let pooled = rank == 4 && axes == [2, 3];
    let kept: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).map(|a| shape[a]).collect();
    let y = match at.op.kind() {
        "ReduceMax" if pooled => {
            let y = largest(at, &name, x, [shape[2], shape[3]])?;
            let kept = if keep { at.drafts.shape(y).to_vec() } else { kept };
            at.drafts.reshape(&format!("{name}.shape"), y, &kept)?
        }
        "ReduceMax" => return Err(Refusal::unsupported("a maximum over other axes than those of positions")),
        _ if pooled => {
            let y = at.drafts.push(&name, GlobalAvgPool, &[x])?;
            let kept = if keep { at.drafts.shape(y).to_vec() } else { kept };
            at.drafts.reshape(&format!("{name}.shape"), y, &kept)?
        }
        _ => at.drafts.push(&name, Mean::new(axes.clone(), keep)?, &[x])?,
    };
    if at.op.kind() != "ReduceSum" {
        return Ok(Context::one(y));
    }
    let count: usize = axes.iter().map(|&a| shape[a]).product();
    Ok(Context::one(at.with_number(
        &format!("{name}.sum"),
        ArithmeticOperator::Mul,
        count as f32,
        false,
        y,
    )?))
}
