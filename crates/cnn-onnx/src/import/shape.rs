//! Operators that change the shape, or the order of axes, and no value.

use super::context::Context;
use crate::fold::{axes_setting, squeezed, unsqueezed};
use crate::kind::ElementKind;
use crate::op::Refusal;
use crate::slot::Slot;
use crate::value::{Sym, Value, axis_of, checked_elements};

/// `Shape` of a value from the image: the batch is a symbol.
pub(super) fn shape(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (_, shape) = at.image(0)?;
    let range = crate::fold::shape_range(&at.op, shape.len())?;
    let sizes = symbols(&shape)[range].to_vec();
    Ok(vec![Slot::constant(Value::symbols(ElementKind::Int64, vec![sizes.len()], sizes))])
}

/// `Size`: all elements, a multiple of the batch.
pub(super) fn size(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (_, shape) = at.image(0)?;
    let times = shape.iter().product::<usize>() as i64;
    let size = Value::symbols(ElementKind::Int64, Vec::new(), vec![Sym { times, plus: 0 }]);
    Ok(vec![Slot::constant(size)])
}

fn symbols(shape: &[usize]) -> Vec<Sym> {
    let rest = shape.iter().skip(1).map(|&d| Sym::known(d as i64));
    std::iter::once(Sym::BATCH).chain(rest).collect()
}

/// `Reshape`: the batch must stay in front. The batch size for which a file was exported stands for any.
pub(super) fn reshape(at: &mut Context<'_>, exported: Option<usize>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let target = at.inputs.need(1, "a shape")?.syms()?;
    let name = at.name();
    let shape = resolve(&shape, &target, at.op.flag("allowzero", false)?, exported)?;
    Ok(Context::one(at.drafts.reshape(&name, x, &shape)?))
}

/// The shape that is asked for, with a batch of 1.
fn resolve(
    shape: &[usize],
    target: &[Sym],
    allow_zero: bool,
    exported: Option<usize>,
) -> Result<Vec<usize>, Refusal> {
    let mixes = || {
        Refusal::unsupported(format!(
            "a shape of {} from {shape:?}, which mixes the images of a batch",
            listed(target)
        ))
    };
    let bad = || Refusal::invalid(format!("{shape:?} cannot become {}", listed(target)));
    let own = symbols(shape);
    let mut sizes = Vec::with_capacity(target.len());
    for (axis, &size) in target.iter().enumerate() {
        sizes.push(match size.get() {
            Some(0) if !allow_zero => *own.get(axis).ok_or_else(bad)?,
            Some(n) if n < -1 => return Err(bad()),
            _ => size,
        });
    }
    let (first, rest) = sizes.split_first().ok_or_else(mixes)?;
    let open = Sym::known(-1);
    let batch = match first.get() {
        None => *first == Sym::BATCH,
        Some(-1) => true,
        // an exporter wrote down the batch that it was run with
        Some(n) => n == 1 || usize::try_from(n).ok() == exported,
    };
    if !batch {
        return Err(mixes());
    }
    let total = checked_elements(shape).ok_or_else(bad)?;
    let mut made = vec![1];
    let mut gap = None;
    for (axis, size) in rest.iter().enumerate() {
        made.push(match size.get() {
            _ if *size == open && gap.is_none() && *first != open => {
                gap = Some(axis + 1);
                1
            }
            Some(n) => usize::try_from(n).map_err(|_| bad())?,
            None => return Err(mixes()),
        });
    }
    let known = checked_elements(&made).filter(|&n| n > 0).ok_or_else(bad)?;
    if let Some(gap) = gap {
        if !total.is_multiple_of(known) {
            return Err(mixes());
        }
        made[gap] = total / known;
    }
    match checked_elements(&made) == Some(total) {
        true => Ok(made),
        false => Err(mixes()),
    }
}

fn listed(sizes: &[Sym]) -> String {
    let size = |s: &Sym| match (s.times, s.plus) {
        (0, n) => n.to_string(),
        (1, 0) => "batch".to_string(),
        (k, 0) => format!("{k} batch"),
        (k, n) => format!("{k} batch + {n}"),
    };
    format!("[{}]", sizes.iter().map(size).collect::<Vec<_>>().join(", "))
}

/// `Flatten`.
pub(super) fn flatten(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let rank = shape.len();
    let axis = at.op.int("axis", 1)?;
    let axis = if axis == rank as i64 { rank } else { axis_of(axis, rank)? };
    let before: usize = shape[..axis].iter().product();
    if axis == 0 || before != 1 {
        return Err(Refusal::unsupported(format!(
            "{shape:?} flattened at axis {axis}, which mixes the images of a batch"
        )));
    }
    Ok(Context::one(at.drafts.reshape(&name, x, &[1, shape[axis..].iter().product()])?))
}

/// `Squeeze` and `Unsqueeze`.
pub(super) fn squeeze(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let axes = axes_setting(&at.op, &at.inputs)?;
    // a batch that is no 1, so that the batch is never taken for an axis that can go
    let marked: Vec<usize> = std::iter::once(usize::MAX).chain(shape.iter().skip(1).copied()).collect();
    let mut target = match at.op.kind() {
        "Squeeze" => {
            if let Some(axes) = &axes
                && axes.iter().any(|&a| a == 0 || a == -(shape.len() as i64))
            {
                return Err(Refusal::unsupported("the batch is squeezed away"));
            }
            squeezed(&marked, axes)?
        }
        _ => unsqueezed(&marked, &axes.ok_or_else(|| Refusal::invalid("the axes are missing"))?)?,
    };
    if target.first() != Some(&usize::MAX) {
        return Err(Refusal::unsupported("an axis in front of the batch"));
    }
    target[0] = 1;
    Ok(Context::one(at.drafts.reshape(&name, x, &target)?))
}

/// `Transpose`.
pub(super) fn transpose(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let rank = shape.len();
    let order = match at.op.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(order) => order.iter().map(|&a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?,
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return Err(Refusal::invalid(format!("{order:?} is no order of {rank} axes")));
    }
    Ok(Context::one(at.transpose(&name, x, &order)?))
}

/// `Expand`: axes of size 1 are repeated.
pub(super) fn expand(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let target = at.inputs.need(1, "a shape")?.syms()?;
    if target.len() > shape.len() {
        return Err(Refusal::unsupported("new axes in front of the batch"));
    }
    let mut wanted = shape.clone();
    let skipped = shape.len() - target.len();
    for (axis, size) in target.into_iter().enumerate() {
        let axis = axis + skipped;
        match (axis, size.get()) {
            (0, None) if size == Sym::BATCH => {}
            (_, Some(1)) => {}
            (0, _) => return Err(Refusal::unsupported("a batch of another size")),
            (_, Some(n)) => {
                let n = usize::try_from(n).map_err(|_| Refusal::invalid(format!("a size of {n}")))?;
                if shape[axis] == 1 {
                    wanted[axis] = n;
                } else if shape[axis] != n {
                    return Err(Refusal::invalid(format!(
                        "an axis of {} does not expand to {n}",
                        shape[axis]
                    )));
                }
            }
            (_, None) => return Err(Refusal::unsupported("a size that depends on the batch")),
        }
    }
    Ok(Context::one(at.expand(&name, x, &wanted)?))
}

/// `DepthToSpace` and `SpaceToDepth`: blocks of channels to blocks of positions, and back.
pub(super) fn blocks(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let &[_, c, h, w] = &shape[..] else {
        return Err(Refusal::invalid(format!("images are needed, not {shape:?}")));
    };
    let block = usize::try_from(at.op.int("blocksize", 0)?).ok().filter(|&b| (1..=1 << 12).contains(&b));
    let b = block.ok_or_else(|| Refusal::invalid("the block size"))?;
    // which of the channels are neighbours: those of a block, or those of a position in it
    let crd = match at.op.text("mode", "DCR")? {
        "DCR" => false,
        "CRD" => true,
        other => return Err(Refusal::invalid(format!("mode `{other}`"))),
    };
    let part = |label: &str| format!("{name}.{label}");
    let (split, order, joined) = if at.op.kind() == "SpaceToDepth" {
        if !h.is_multiple_of(b) || !w.is_multiple_of(b) {
            return Err(Refusal::invalid(format!("{h} x {w} does not divide into blocks of {b}")));
        }
        let order = if crd { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
        ([1, c, h / b, b, w / b, b], order, [1, c * b * b, h / b, w / b])
    } else {
        if !c.is_multiple_of(b * b) {
            return Err(Refusal::invalid(format!("{c} channels do not divide into blocks of {b} x {b}")));
        }
        let joined = [1, c / (b * b), h * b, w * b];
        match crd {
            true => ([1, c / (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3], joined),
            false => ([1, b, b, c / (b * b), h, w], [0, 3, 4, 1, 5, 2], joined),
        }
    };
    let y = at.drafts.reshape(&part("blocks"), x, &split)?;
    let y = at.transpose(&part("order"), y, &order)?;
    Ok(Context::one(at.drafts.reshape(&name, y, &joined)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(target: &[Sym], exported: Option<usize>) -> Result<Vec<usize>, Refusal> {
        resolve(&[1, 4, 3, 3], target, false, exported)
    }

    #[test]
    fn the_batch_stays_in_front() {
        let k = Sym::known;
        assert_eq!(made(&[Sym::BATCH, k(-1)], None), Ok(vec![1, 36]));
        assert_eq!(made(&[k(-1), k(36)], None), Ok(vec![1, 36]));
        assert_eq!(made(&[k(0), k(2), k(2), k(-1), k(3)], None), Ok(vec![1, 2, 2, 3, 3]));
        assert_eq!(made(&[k(1), k(-1)], None), Ok(vec![1, 36]));
        assert_eq!(made(&[k(8), k(-1)], Some(8)), Ok(vec![1, 36]));
        for mixing in [vec![k(-1), k(18)], vec![k(8), k(-1)], vec![k(4), Sym::BATCH, k(9)], vec![]] {
            assert!(matches!(made(&mixing, None), Err(Refusal::Unsupported(_))), "{mixing:?}");
        }
        for bad in [vec![k(-2), k(-1)], vec![k(0), k(-1), k(-1)], vec![k(0), k(0), k(0), k(0), k(0)]] {
            assert!(matches!(made(&bad, None), Err(Refusal::Invalid(_))), "{bad:?}");
        }
    }
}
