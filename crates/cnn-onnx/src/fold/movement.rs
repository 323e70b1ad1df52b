//! Rearranging constants; and the settings of such operators, which images share.

use crate::kind::ElementKind;
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs};
use crate::value::{Data, Sym, Value, axis_of, plain_tables, strides};

/// A constant repeated to a shape that it broadcasts to.
pub(super) fn broadcast_to(x: &Value, shape: &[usize], budget: &Budget) -> Result<Value, Refusal> {
    if x.shape == shape {
        return Ok(x.clone());
    }
    budget.claim(shape)?;
    if x.len() == 1 {
        return Ok(x.repeated(shape));
    }
    let missing = shape.len() - x.shape.len();
    let own = strides(&x.shape);
    let table = |axis: usize| match axis.checked_sub(missing) {
        Some(i) if x.shape[i] != 1 => (0..shape[axis]).map(|p| p * own[i]).collect(),
        _ => vec![0; shape[axis]],
    };
    Ok(x.walked(&(0..shape.len()).map(table).collect::<Vec<_>>()))
}

/// Sizes that must not be negative.
fn sizes(sizes: &[i64]) -> Result<Vec<usize>, Refusal> {
    let size = |&s: &i64| usize::try_from(s).map_err(|_| Refusal::invalid(format!("a shape of {sizes:?}")));
    sizes.iter().map(size).collect()
}

pub(super) fn expand(x: &Value, shape: &[i64], budget: &Budget) -> Result<Value, Refusal> {
    let shape = sizes(shape)?;
    let rank = shape.len().max(x.shape.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let axis = |axis| match (size(&x.shape, axis), size(&shape, axis)) {
        (a, b) if a == b || b == 1 => Ok(a),
        (1, b) => Ok(b),
        _ => Err(Refusal::invalid(format!("{:?} does not expand to {shape:?}", x.shape))),
    };
    let target = (0..rank).map(axis).collect::<Result<Vec<_>, _>>()?;
    broadcast_to(x, &target, budget)
}

pub(super) fn tile(x: &Value, repeats: &[i64], budget: &Budget) -> Result<Value, Refusal> {
    if repeats.len() != x.shape.len() {
        return Err(Refusal::invalid(format!("{} repeats of {:?}", repeats.len(), x.shape)));
    }
    let repeats = sizes(repeats)?;
    let shape = x.shape.iter().zip(&repeats).map(|(&d, &r)| d.checked_mul(r)).collect::<Option<Vec<_>>>();
    budget.claim(&shape.ok_or_else(|| Refusal::invalid("a size is too large"))?)?;
    let tables: Vec<Vec<usize>> =
        plain_tables(&x.shape).into_iter().zip(repeats).map(|(table, r)| table.repeat(r)).collect();
    Ok(x.walked(&tables))
}

pub(super) fn transpose(op: &Op<'_>, x: &Value, budget: &Budget) -> Result<Value, Refusal> {
    let rank = x.shape.len();
    let order = match op.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(order) => order.iter().map(|&a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?,
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return Err(Refusal::invalid(format!("{order:?} is no order of {rank} axes")));
    }
    budget.claim(&x.shape)?;
    let tables = plain_tables(&x.shape);
    Ok(x.walked(&order.iter().map(|&axis| tables[axis].clone()).collect::<Vec<_>>()))
}

/// Indices that may be counted from the end.
pub(crate) fn positions(indices: &Value, size: usize) -> Result<Vec<usize>, Refusal> {
    indices
        .i64s()?
        .into_iter()
        .map(|i| axis_of(i, size).map_err(|_| Refusal::invalid(format!("index {i} of an axis of {size}"))))
        .collect()
}

pub(super) fn gather(op: &Op<'_>, x: &Value, indices: &Value, budget: &Budget) -> Result<Value, Refusal> {
    let axis = axis_of(op.int("axis", 0)?, x.shape.len())?;
    let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
    budget.claim(&shape)?;
    budget.claim(&indices.shape)?;
    let stride = strides(&x.shape)[axis];
    let mut tables = plain_tables(&x.shape);
    tables[axis] = positions(indices, x.shape[axis])?.into_iter().map(|i| i * stride).collect();
    x.walked(&tables).reshaped(shape)
}

/// What is sliced along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlicePart {
    pub axis: usize,
    pub start: Sym,
    pub end: Sym,
    pub step: i64,
}

impl SlicePart {
    /// The positions along an axis of known size.
    pub fn positions(&self, size: usize) -> Result<impl ExactSizeIterator<Item = usize>, Refusal> {
        let known = |s: Sym| {
            s.get().ok_or_else(|| Refusal::unsupported("a slice that depends on the size of the batch"))
        };
        let (start, end, n) = (known(self.start)?, known(self.end)?, size as i64);
        let counted = |at: i64| if at < 0 { at.saturating_add(n) } else { at };
        let step = self.step;
        if step == 0 {
            return Err(Refusal::invalid("a slice with steps of zero"));
        }
        let (first, last) = match step > 0 {
            true => (counted(start).clamp(0, n), counted(end).clamp(0, n)),
            // the end is not included: -1 stands for before the first
            false => (counted(start).clamp(-1, n - 1), counted(end).clamp(-1, n - 1)),
        };
        let count = match step > 0 {
            true => (last - first).max(0) as u64,
            false => (first - last).max(0) as u64,
        };
        let count = count.div_ceil(step.unsigned_abs());
        Ok((0..count as usize).map(move |i| (first + i as i64 * step) as usize))
    }

    /// True if every image is kept, whatever the size of the batch.
    pub fn keeps_batch(&self) -> bool {
        let to_end = self.end.get().is_some_and(|e| e >= i64::from(i32::MAX)) || self.end == Sym::BATCH;
        self.step == 1 && self.start == Sym::known(0) && to_end
    }
}

/// The parts of a `Slice` in its two forms: inputs, and before opset 10 attributes.
pub(crate) fn slice_parts(op: &Op<'_>, inputs: &Inputs, rank: usize) -> Result<Vec<SlicePart>, Refusal> {
    let known = |list: &[i64]| list.iter().map(|&i| Sym::known(i)).collect::<Vec<_>>();
    let (starts, ends, axes, steps);
    if op.has("starts") {
        starts = known(op.ints("starts")?.unwrap_or_default());
        ends = known(op.ints("ends")?.unwrap_or_default());
        axes = op.ints("axes")?.map(<[i64]>::to_vec);
        steps = None;
    } else {
        starts = inputs.need(1, "starts")?.syms()?;
        ends = inputs.need(2, "ends")?.syms()?;
        axes = inputs.value(3, "axes")?.map(Value::i64s).transpose()?;
        steps = inputs.value(4, "steps")?.map(Value::i64s).transpose()?;
    }
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(Refusal::invalid("starts, ends, axes and steps of different lengths"));
    }
    let part = |i: usize| {
        Ok(SlicePart { axis: axis_of(axes[i], rank)?, start: starts[i], end: ends[i], step: steps[i] })
    };
    (0..starts.len()).map(part).collect()
}

pub(super) fn slice(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    budget.claim(&x.shape)?;
    let own = strides(&x.shape);
    let mut tables = plain_tables(&x.shape);
    for part in slice_parts(op, inputs, x.shape.len())? {
        let positions = part.positions(x.shape[part.axis])?;
        tables[part.axis] = positions.map(|p| p * own[part.axis]).collect();
    }
    Ok(x.walked(&tables))
}

pub(super) fn concat(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let parts = (0..inputs.0.len()).map(|i| inputs.need(i, "operand")).collect::<Result<Vec<_>, _>>()?;
    let first = *parts.first().ok_or_else(|| Refusal::invalid("nothing to concatenate"))?;
    let axis = axis_of(op.int("axis", 1)?, first.shape.len())?;
    let fits = |p: &&Value| {
        p.kind == first.kind
            && p.shape.len() == first.shape.len()
            && p.shape[..axis] == first.shape[..axis]
            && p.shape[axis + 1..] == first.shape[axis + 1..]
    };
    if !parts.iter().all(fits) {
        return Err(Refusal::invalid("constants of different types or shapes are concatenated"));
    }
    let mut shape = first.shape.clone();
    let sizes = parts.iter().try_fold(0usize, |sum, p| sum.checked_add(p.shape[axis]));
    shape[axis] = sizes.ok_or_else(|| Refusal::invalid("a size is too large"))?;
    budget.claim(&shape)?;
    let outer: usize = shape[..axis].iter().product();
    macro_rules! joined {
        ($lists:expr) => {{
            let lists = $lists;
            let mut out = Vec::new();
            for i in 0..outer {
                for list in &lists {
                    let size = list.len() / outer;
                    out.extend_from_slice(&list[i * size..][..size]);
                }
            }
            out
        }};
    }
    if parts.iter().any(|p| p.is_symbolic()) {
        let lists = parts.iter().map(|p| p.syms()).collect::<Result<Vec<_>, _>>()?;
        return Ok(Value::symbols(first.kind, shape, joined!(lists)));
    }
    macro_rules! of_type {
        ($variant:ident) => {
            Data::$variant(joined!(
                parts
                    .iter()
                    .filter_map(|p| match &*p.data {
                        Data::$variant(v) => Some(v),
                        _ => None,
                    })
                    .collect::<Vec<_>>()
            ))
        };
    }
    let data = match &*first.data {
        Data::F32(_) => of_type!(F32),
        Data::F64(_) => of_type!(F64),
        Data::I64(_) => of_type!(I64),
        Data::I32(_) => of_type!(I32),
        Data::I8(_) => of_type!(I8),
        Data::U8(_) | Data::Sym(_) => of_type!(U8),
    };
    Ok(Value::new(first.kind, shape, data))
}

/// The shape that a `Reshape` of known sizes asks for.
pub(super) fn reshape(op: &Op<'_>, x: &Value, target: &[i64]) -> Result<Value, Refusal> {
    let keep_zero = op.flag("allowzero", false)?;
    let bad = || Refusal::invalid(format!("{:?} cannot become {target:?}", x.shape));
    let mut shape = Vec::with_capacity(target.len());
    let mut open = None;
    for (axis, &size) in target.iter().enumerate() {
        shape.push(match size {
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            0 if !keep_zero => *x.shape.get(axis).ok_or_else(bad)?,
            size => usize::try_from(size).map_err(|_| bad())?,
        });
    }
    if let Some(axis) = open {
        let rest = crate::value::checked_elements(&shape).ok_or_else(bad)?;
        shape[axis] = x.len().checked_div(rest).unwrap_or(0);
    }
    x.reshaped(shape)
}

pub(super) fn flatten(op: &Op<'_>, x: &Value) -> Result<Value, Refusal> {
    let axis = op.int("axis", 1)?;
    // the axis may also be one behind the last
    let axis = if axis == x.shape.len() as i64 { x.shape.len() } else { axis_of(axis, x.shape.len())? };
    x.reshaped(vec![x.shape[..axis].iter().product(), x.shape[axis..].iter().product()])
}

/// Axes as an attribute, or as an input from opset 13 (reductions: 18) on.
pub(crate) fn axes_setting(op: &Op<'_>, inputs: &Inputs) -> Result<Option<Vec<i64>>, Refusal> {
    match op.ints("axes")? {
        Some(axes) => Ok(Some(axes.to_vec())),
        None => inputs.value(1, "axes")?.map(Value::i64s).transpose(),
    }
}

pub(super) fn squeeze(op: &Op<'_>, inputs: &Inputs) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    let shape = squeezed(&x.shape, axes_setting(op, inputs)?)?;
    x.reshaped(shape)
}

/// A shape without axes of size 1: those given, or all.
pub(crate) fn squeezed(shape: &[usize], axes: Option<Vec<i64>>) -> Result<Vec<usize>, Refusal> {
    let Some(axes) = axes else { return Ok(shape.iter().copied().filter(|&d| d != 1).collect()) };
    let axes = axes.into_iter().map(|a| axis_of(a, shape.len())).collect::<Result<Vec<_>, _>>()?;
    if let Some(bad) = axes.iter().find(|&&a| shape[a] != 1) {
        return Err(Refusal::invalid(format!("axis {bad} of {shape:?} is not of size 1")));
    }
    Ok(shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect())
}

pub(super) fn unsqueeze(op: &Op<'_>, inputs: &Inputs) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    let axes = axes_setting(op, inputs)?.ok_or_else(|| Refusal::invalid("the axes are missing"))?;
    let shape = unsqueezed(&x.shape, &axes)?;
    x.reshaped(shape)
}

/// A shape with new axes of size 1.
pub(crate) fn unsqueezed(shape: &[usize], axes: &[i64]) -> Result<Vec<usize>, Refusal> {
    let rank = shape.len() + axes.len();
    if rank > crate::value::MOST_AXES {
        return Err(Refusal::unsupported(format!("a value of {rank} axes")));
    }
    let new = axes.iter().map(|&a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut rest = shape.iter().copied();
    let result: Vec<usize> =
        (0..rank).filter_map(|i| if new.contains(&i) { Some(1) } else { rest.next() }).collect();
    match result.len() == rank && rest.next().is_none() {
        true => Ok(result),
        false => Err(Refusal::invalid(format!("new axes {axes:?} are not distinct"))),
    }
}

/// The sizes of the pieces of a `Split`, in all its forms.
pub(crate) fn split_sizes(
    op: &Op<'_>,
    inputs: &Inputs,
    size: usize,
    outputs: usize,
) -> Result<Vec<usize>, Refusal> {
    let given = match op.ints("split")? {
        Some(sizes) => Some(sizes.to_vec()),
        None => inputs.value(1, "sizes of the pieces")?.map(Value::i64s).transpose()?,
    };
    if let Some(given) = given {
        let pieces = sizes(&given)?;
        let total = pieces.iter().try_fold(0usize, |sum, &p| sum.checked_add(p));
        return match total == Some(size) && pieces.len() >= outputs {
            true => Ok(pieces),
            false => {
                Err(Refusal::invalid(format!("an axis of {size} is split into {given:?}, {outputs} outputs")))
            }
        };
    }
    let pieces = op.int("num_outputs", outputs as i64)?;
    let pieces = usize::try_from(pieces).ok().filter(|&n| n >= outputs && n > 0 && n <= size);
    let pieces = pieces.ok_or_else(|| Refusal::invalid(format!("an axis of {size} in {outputs} pieces")))?;
    // all of one size but the last
    let each = size.div_ceil(pieces);
    let starts = (0..pieces).map(|i| (i * each).min(size));
    Ok(starts.map(|start| each.min(size - start)).collect())
}

pub(super) fn split(
    op: &Op<'_>,
    inputs: &Inputs,
    outputs: usize,
    budget: &Budget,
) -> Result<Vec<Value>, Refusal> {
    let x = inputs.need(0, "data")?;
    let axis = axis_of(op.int("axis", 0)?, x.shape.len())?;
    budget.claim(&x.shape)?;
    let tables = plain_tables(&x.shape);
    let mut start = 0;
    let mut pieces = Vec::new();
    for size in split_sizes(op, inputs, x.shape[axis], outputs)? {
        let mut piece = tables.clone();
        piece[axis] = tables[axis][start..start + size].to_vec();
        pieces.push(x.walked(&piece));
        start += size;
    }
    Ok(pieces)
}

/// `NonZero`: positions of elements that are not zero, one axis a row.
pub(super) fn non_zero(x: &Value, budget: &Budget) -> Result<Value, Refusal> {
    let values = x.f64s();
    if x.is_symbolic() {
        return Err(Refusal::unsupported("positions that depend on the size of the batch"));
    }
    let found: Vec<usize> = (0..values.len()).filter(|&i| values[i] != 0.0).collect();
    let rank = x.shape.len();
    budget.claim(&[rank.max(1), found.len()])?;
    let rows = strides(&x.shape).into_iter().zip(&x.shape);
    let rows = rows.flat_map(|(stride, &size)| found.iter().map(move |i| (i / stride % size) as i64));
    Ok(Value::integers(ElementKind::Int64, vec![rank, found.len()], rows.collect::<Vec<_>>().into_iter()))
}
