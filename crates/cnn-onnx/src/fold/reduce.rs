//! Reductions and products of constants.

use super::arithmetic::from_f64s;
use super::movement::axes_setting;
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs};
use crate::value::{Data, Sym, Value, axis_of, strides};

pub(super) fn reduce(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    let rank = x.shape.len();
    let axes = match axes_setting(op, inputs)?.filter(|axes| !axes.is_empty()) {
        Some(axes) => axes.into_iter().map(|a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None if op.flag("noop_with_empty_axes", false)? => return Ok(x.clone()),
        None => (0..rank).collect(),
    };
    let kept: Vec<usize> =
        x.shape.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    let shape = match op.flag("keepdims", true)? {
        true => kept.clone(),
        false => (0..rank).filter(|i| !axes.contains(i)).map(|i| kept[i]).collect(),
    };
    budget.claim(&x.shape)?;
    budget.claim(&shape)?;
    let outputs: usize = kept.iter().product();
    // for every element the output that it belongs to
    let steps = strides(&kept);
    let table = |axis: usize| {
        (0..x.shape[axis]).map(|i| if axes.contains(&axis) { 0 } else { i * steps[axis] }).collect()
    };
    let tables: Vec<Vec<usize>> = (0..rank).map(table).collect();
    let numbers = Value::new(x.kind, kept, Data::I64((0..outputs as i64).collect()));
    let owner: Vec<i64> = numbers.walked(&tables).i64s()?;

    if let Data::Sym(symbols) = &*x.data {
        let mut totals = vec![Sym::known(i64::from(op.kind() == "ReduceProd")); outputs];
        for (&owner, &s) in owner.iter().zip(symbols) {
            let t = &mut totals[owner as usize];
            *t = combined(op.kind(), *t, s)?;
        }
        return Ok(Value::symbols(x.kind, shape, totals));
    }
    let (low, high) = match x.kind.is_float() {
        true => (f64::NEG_INFINITY, f64::INFINITY),
        false => (x.kind.range().0 as f64, x.kind.range().1 as f64),
    };
    let (start, step): (f64, fn(f64, f64) -> f64) = match op.kind() {
        "ReduceProd" => (1.0, |a, b| a * b),
        "ReduceMax" => (low, |a, b| if b > a || b.is_nan() { b } else { a }),
        "ReduceMin" => (high, |a, b| if b < a || b.is_nan() { b } else { a }),
        _ => (0.0, |a, b| a + b),
    };
    let mut totals = vec![start; outputs];
    for (&owner, v) in owner.iter().zip(x.f64s()) {
        totals[owner as usize] = step(totals[owner as usize], v);
    }
    if op.kind() == "ReduceMean" {
        let count = x.len() as f64 / outputs.max(1) as f64;
        totals.iter_mut().for_each(|t| *t /= count);
    }
    Ok(from_f64s(x.kind, shape, totals))
}

fn combined(kind: &str, a: Sym, b: Sym) -> Result<Sym, Refusal> {
    let refuse = || Refusal::unsupported(format!("{kind} over the size of the batch"));
    let made = match (kind, a.get(), b.get()) {
        ("ReduceSum", ..) => a.times.checked_add(b.times).zip(a.plus.checked_add(b.plus)),
        ("ReduceProd", Some(k), _) => b.times.checked_mul(k).zip(b.plus.checked_mul(k)),
        ("ReduceProd", _, Some(k)) => a.times.checked_mul(k).zip(a.plus.checked_mul(k)),
        _ => None,
    };
    made.map(|(times, plus)| Sym { times, plus }).ok_or_else(refuse)
}

/// Product of two matrices.
pub(super) fn matmul(a: &Value, b: &Value, budget: &Budget) -> Result<Value, Refusal> {
    let (&[m, k], &[k2, n]) = (&a.shape[..], &b.shape[..]) else {
        return Err(Refusal::unsupported(format!(
            "a product of constants of shapes {:?} and {:?}",
            a.shape, b.shape
        )));
    };
    if k != k2 || !a.kind.is_float() || a.kind != b.kind {
        return Err(Refusal::invalid(format!("{:?} ({}) times {:?} ({})", a.shape, a.kind, b.shape, b.kind)));
    }
    // work counts too: a thousand multiplications as one element
    budget.claim(&[m, n, k.div_ceil(1000)])?;
    let (a32, b32) = (a.f64s(), b.f64s());
    let mut out = vec![0f64; m * n];
    for (row, line) in out.chunks_mut(n.max(1)).zip(a32.chunks(k.max(1))) {
        for (&x, other) in line.iter().zip(b32.chunks(n.max(1))) {
            row.iter_mut().zip(other).for_each(|(y, &w)| *y += x * w);
        }
    }
    Ok(from_f64s(a.kind, vec![m, n], out))
}
