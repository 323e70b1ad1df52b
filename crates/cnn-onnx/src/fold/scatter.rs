//! Constants with few non-zeros, as files have them: running sums of distances, and values put at positions.

use super::arithmetic::from_f64s;
use super::movement::positions;
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs};
use crate::value::{Data, Value, axis_of, strides};
use std::sync::Arc;

/// `CumSum`: along one axis each element with all before it, or (`exclusive`) without itself, or (`reverse`) with all
/// behind it.
pub(super) fn cum_sum(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    let &[axis] = &inputs.need(1, "axis")?.i64s()?[..] else {
        return Err(Refusal::invalid("the axis is one number"));
    };
    let axis = axis_of(axis, x.shape.len())?;
    let (exclusive, reverse) = (op.flag("exclusive", false)?, op.flag("reverse", false)?);
    if x.is_symbolic() {
        return Err(Refusal::unsupported("sums over the size of the batch"));
    }
    budget.claim(&x.shape)?;
    let sums = Sums { size: x.shape[axis], step: strides(&x.shape)[axis], exclusive, reverse };
    let shape = x.shape.clone();
    Ok(match x.kind.is_float() {
        true => from_f64s(x.kind, shape, sums.of(x.f64s(), 0.0, |a, b| a + b)),
        false => Value::integers(x.kind, shape, sums.of(x.i64s()?, 0, i64::wrapping_add).into_iter()),
    })
}

/// An axis of so many elements, so far from each other.
struct Sums {
    size: usize,
    step: usize,
    exclusive: bool,
    reverse: bool,
}

impl Sums {
    fn of<T: Copy>(&self, mut values: Vec<T>, zero: T, add: impl Fn(T, T) -> T) -> Vec<T> {
        for block in values.chunks_mut((self.size * self.step).max(1)) {
            for first in 0..self.step {
                let mut sum = zero;
                for i in 0..self.size {
                    let i = if self.reverse { self.size - 1 - i } else { i };
                    let value = &mut block[first + i * self.step];
                    let before = sum;
                    sum = add(sum, *value);
                    *value = if self.exclusive { before } else { sum };
                }
            }
        }
        values
    }
}

/// `ScatterElements`: updates replace the elements of the data that the indices name along one axis, or are combined with
/// them. Without a reduction the standard allows no index twice; the last one counts here, as in its reference.
pub(super) fn scatter_elements(op: &Op<'_>, inputs: &mut Inputs, budget: &Budget) -> Result<Value, Refusal> {
    // the zeros of a large constant become the constant, if nobody else reads them
    let mut data = inputs.take(0, "data")?;
    let (indices, updates) = (inputs.need(1, "indices")?, inputs.need(2, "updates")?);
    let rank = data.shape.len();
    let axis = axis_of(op.int("axis", 0)?, rank)?;
    let inside = |d: usize| d == axis || indices.shape[d] <= data.shape[d];
    if indices.shape != updates.shape || indices.shape.len() != rank || !(0..rank).all(inside) {
        return Err(Refusal::invalid(format!(
            "updates of shape {:?} at indices of shape {:?} in data of shape {:?}",
            updates.shape, indices.shape, data.shape
        )));
    }
    if data.kind != updates.kind {
        return Err(Refusal::invalid(format!(
            "updates of type {} in data of type {}",
            updates.kind, data.kind
        )));
    }
    if data.is_symbolic() || updates.is_symbolic() {
        return Err(Refusal::unsupported("the size of the batch among constants"));
    }
    let reduction = op.text("reduction", "none")?;
    budget.claim(&indices.shape)?;
    if reduction != "none" || Arc::get_mut(&mut data.data).is_none() {
        budget.claim(&data.shape)?;
    }
    let mut places = positions(indices, data.shape[axis])?;
    let steps = strides(&data.shape);
    for (at, place) in places.iter_mut().enumerate() {
        *place *= steps[axis];
        let mut rest = at;
        for d in (0..rank).rev() {
            if d != axis {
                *place += rest % indices.shape[d] * steps[d];
            }
            rest /= indices.shape[d];
        }
    }
    match reduction {
        "none" => {
            replace(Arc::make_mut(&mut data.data), &updates.data, &places);
            Ok(data)
        }
        "add" | "mul" | "max" | "min" => combine(&data, updates, &places, reduction),
        other => Err(Refusal::unsupported(format!("the reduction `{other}`"))),
    }
}

/// Updates in the places of what was there; both of one type.
fn replace(data: &mut Data, updates: &Data, places: &[usize]) {
    fn each<T: Copy>(data: &mut [T], updates: &[T], places: &[usize]) {
        places.iter().zip(updates).for_each(|(&place, &update)| data[place] = update);
    }
    match (data, updates) {
        (Data::F32(d), Data::F32(u)) => each(d, u, places),
        (Data::F64(d), Data::F64(u)) => each(d, u, places),
        (Data::I64(d), Data::I64(u)) => each(d, u, places),
        (Data::I32(d), Data::I32(u)) => each(d, u, places),
        (Data::I8(d), Data::I8(u)) => each(d, u, places),
        (Data::U8(d), Data::U8(u)) => each(d, u, places),
        _ => debug_assert!(false, "elements of one kind are stored in one type"),
    }
}

/// Updates combined with what is there, one after the other.
fn combine(data: &Value, updates: &Value, places: &[usize], reduction: &str) -> Result<Value, Refusal> {
    macro_rules! combined {
        ($data:expr, $updates:expr, $add:expr, $mul:expr) => {{
            let mut data = $data;
            for (&place, update) in places.iter().zip($updates) {
                let old = data[place];
                data[place] = match reduction {
                    "add" => $add(old, update),
                    "mul" => $mul(old, update),
                    "max" => old.max(update),
                    _ => old.min(update),
                };
            }
            data
        }};
    }
    let shape = data.shape.clone();
    Ok(if data.kind.is_float() {
        let values = combined!(data.f64s(), updates.f64s(), |a: f64, b: f64| a + b, |a: f64, b: f64| a * b);
        from_f64s(data.kind, shape, values)
    } else {
        let values = combined!(data.i64s()?, updates.i64s()?, i64::wrapping_add, i64::wrapping_mul);
        Value::integers(data.kind, shape, values.into_iter())
    })
}
