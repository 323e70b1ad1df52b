//! Arithmetic and comparisons of constants, with broadcasting.

use super::movement::broadcast_to;
use crate::kind::ElementKind;
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs};
use crate::value::{Data, Sym, Value};

/// The shape that two operands broadcast to.
fn common_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Refusal> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let axis = |axis| match (size(a, axis), size(b, axis)) {
        (x, y) if x == y => Ok(x),
        (1, y) => Ok(y),
        (x, 1) => Ok(x),
        _ => Err(Refusal::invalid(format!("{a:?} and {b:?} do not broadcast"))),
    };
    (0..rank).map(axis).collect()
}

/// An operator of two constants.
pub(super) fn binary(op: &Op<'_>, a: &Value, b: &Value, budget: &Budget) -> Result<Value, Refusal> {
    let kind = op.kind();
    if a.kind != b.kind && kind != "Pow" {
        return Err(Refusal::invalid(format!("operands of types {} and {}", a.kind, b.kind)));
    }
    let shape = common_shape(&a.shape, &b.shape)?;
    let (a, b) = (broadcast_to(a, &shape, budget)?, broadcast_to(b, &shape, budget)?);
    budget.claim(&shape)?;
    if a.is_symbolic() || b.is_symbolic() {
        return symbolic(kind, &a, &b, shape);
    }
    let compare = ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor"];
    if compare.contains(&kind) {
        let truth = |(x, y): (f64, f64)| {
            i64::from(match kind {
                "Equal" => x == y,
                "Greater" => x > y,
                "Less" => x < y,
                "GreaterOrEqual" => x >= y,
                "LessOrEqual" => x <= y,
                "And" => x != 0.0 && y != 0.0,
                "Or" => x != 0.0 || y != 0.0,
                _ => (x != 0.0) != (y != 0.0),
            })
        };
        let truths = a.f64s().into_iter().zip(b.f64s()).map(truth);
        return Ok(Value::integers(ElementKind::Bool, shape, truths));
    }
    if a.kind.is_float() {
        let double = a.kind == ElementKind::Double;
        let fmod = op.flag("fmod", false)?;
        let apply = |(x, y): (f64, f64)| {
            Ok(match kind {
                "Add" => x + y,
                "Sub" => x - y,
                "Mul" => x * y,
                "Div" => x / y,
                "Pow" => x.powf(y),
                "Mod" if fmod => x % y,
                // the sign of the divisor
                "Mod" if x % y != 0.0 && (x % y < 0.0) != (y < 0.0) => x % y + y,
                "Mod" => (x % y).copysign(y),
                other => return Err(Refusal::invalid(format!("{other} of floats"))),
            })
        };
        // one operation in 64 bits, rounded once, is the operation in 32 bits
        let values = a.f64s().into_iter().zip(b.f64s()).map(apply);
        return match double {
            true => Ok(Value::new(a.kind, shape, Data::F64(values.collect::<Result<_, _>>()?))),
            false => {
                let values = values.map(|v| v.map(|v| v as f32)).collect::<Result<_, _>>()?;
                Ok(Value::floats(a.kind, shape, values))
            }
        };
    }
    let exponents = (kind == "Pow" && b.kind.is_float()).then(|| b.f64s());
    if let Some(exponents) = exponents {
        let powers = a.f64s().into_iter().zip(exponents).map(|(x, y)| x.powf(y) as i64);
        return Ok(Value::integers(a.kind, shape, powers));
    }
    let left = match kind {
        "BitShift" => op.text("direction", "")? == "LEFT",
        _ => false,
    };
    let fmod = op.flag("fmod", false)?;
    let apply = |(x, y): (i64, i64)| {
        Ok(match kind {
            "Add" => x.wrapping_add(y),
            "Sub" => x.wrapping_sub(y),
            "Mul" => x.wrapping_mul(y),
            "Div" | "Mod" if y == 0 => return Err(Refusal::invalid("division by zero")),
            "Div" => x.wrapping_div(y),
            "Mod" if fmod => x.wrapping_rem(y),
            // the sign of the divisor
            "Mod" => (x.wrapping_rem(y)).wrapping_add(y).wrapping_rem(y),
            "Pow" => u32::try_from(y).map_or(0, |y| x.wrapping_pow(y)),
            "BitShift" if left => u32::try_from(y).map_or(0, |y| x.checked_shl(y).unwrap_or(0)),
            // beyond the width only the sign is left
            "BitShift" => x >> if (0..63).contains(&y) { y } else { 63 },
            "BitwiseAnd" => x & y,
            "BitwiseOr" => x | y,
            "BitwiseXor" => x ^ y,
            other => return Err(Refusal::unsupported(format!("{other} of constants"))),
        })
    };
    let values = a.i64s()?.into_iter().zip(b.i64s()?).map(apply).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::integers(a.kind, shape, values.into_iter()))
}

/// Whole numbers as symbols, whatever their type.
fn symbols(value: &Value) -> Result<Vec<Sym>, Refusal> {
    if value.is_symbolic() || !value.kind.is_float() {
        return value.syms();
    }
    let whole = |x: f64| match x.fract() == 0.0 && x.abs() < 1e15 {
        true => Ok(Sym::known(x as i64)),
        false => Err(Refusal::unsupported("the size of the batch is multiplied by a fraction")),
    };
    value.f64s().into_iter().map(whole).collect()
}

fn symbolic(kind: &str, a: &Value, b: &Value, shape: Vec<usize>) -> Result<Value, Refusal> {
    let (x, y) = (symbols(a)?, symbols(b)?);
    let pairs = x.into_iter().zip(y);
    if ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"].contains(&kind) {
        let truths = pairs.map(|(x, y)| compare(kind, x, y)).collect::<Result<Vec<_>, _>>()?;
        return Ok(Value::integers(ElementKind::Bool, shape, truths.into_iter().map(i64::from)));
    }
    let exact = |(x, y): (Sym, Sym)| match (x.get(), y.get()) {
        // these are whole numbers; a fraction beside the batch cannot be written down
        (Some(p), Some(q)) if kind == "Div" && a.kind.is_float() && p.checked_rem(q) != Some(0) => {
            Err(Refusal::unsupported("a fraction beside a number that depends on the size of the batch"))
        }
        _ => combine(kind, x, y),
    };
    let values = pairs.map(exact).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::symbols(a.kind, shape, values))
}

fn combine(kind: &str, x: Sym, y: Sym) -> Result<Sym, Refusal> {
    let refuse = || Refusal::unsupported(format!("{kind} of numbers that depend on the size of the batch"));
    let linear = |times: Option<i64>, plus: Option<i64>| match (times, plus) {
        (Some(times), Some(plus)) => Ok(Sym { times, plus }),
        _ => Err(refuse()),
    };
    match kind {
        "Add" => linear(x.times.checked_add(y.times), x.plus.checked_add(y.plus)),
        "Sub" => linear(x.times.checked_sub(y.times), x.plus.checked_sub(y.plus)),
        "Mul" => {
            let (s, k) = match (x.get(), y.get()) {
                (_, Some(k)) => (x, k),
                (Some(k), _) => (y, k),
                _ => return Err(refuse()),
            };
            linear(s.times.checked_mul(k), s.plus.checked_mul(k))
        }
        "Div" => match y.get() {
            Some(0) => Err(Refusal::invalid("division by zero")),
            Some(k) => match x.get() {
                Some(x) => Ok(Sym::known(x.wrapping_div(k))),
                None if x.times.checked_rem(k) == Some(0) && x.plus.checked_rem(k) == Some(0) => {
                    Ok(Sym { times: x.times / k, plus: x.plus / k })
                }
                None => Err(refuse()),
            },
            // a multiple of the batch by a multiple of the batch
            None if x.plus == 0 && y.plus == 0 && x.times.checked_rem(y.times) == Some(0) => {
                Ok(Sym::known(x.times / y.times))
            }
            None => Err(refuse()),
        },
        _ => Err(refuse()),
    }
}

/// Compares for every size of the batch from 1 on.
fn compare(kind: &str, x: Sym, y: Sym) -> Result<bool, Refusal> {
    let refuse = || Refusal::unsupported("a comparison whose result depends on the size of the batch");
    // x - y is monotonous in the batch
    let times = x.times.checked_sub(y.times).ok_or_else(refuse)?;
    let plus = x.plus.checked_sub(y.plus).ok_or_else(refuse)?;
    let first = times.checked_add(plus).ok_or_else(refuse)?;
    let sign = match times.signum() {
        0 => plus.signum(),
        sign if first.signum() == sign => sign,
        _ => return Err(refuse()),
    };
    Ok(match kind {
        "Equal" => sign == 0,
        "Greater" => sign > 0,
        "Less" => sign < 0,
        "GreaterOrEqual" => sign >= 0,
        _ => sign <= 0,
    })
}

/// `Min`, `Max`, `Sum` and `Mean` of any number of constants.
pub(super) fn several(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let first = inputs.need(0, "operand")?;
    let mut shape = first.shape.clone();
    for at in 1..inputs.0.len() {
        let next = inputs.need(at, "operand")?;
        if next.kind != first.kind {
            return Err(Refusal::invalid(format!("operands of types {} and {}", first.kind, next.kind)));
        }
        shape = common_shape(&shape, &next.shape)?;
    }
    budget.claim(&shape)?;
    let mut total = broadcast_to(first, &shape, budget)?.f64s();
    for at in 1..inputs.0.len() {
        let next = broadcast_to(inputs.need(at, "operand")?, &shape, budget)?.f64s();
        for (t, n) in total.iter_mut().zip(next) {
            *t = match op.kind() {
                _ if t.is_nan() => *t,
                "Min" if n < *t || n.is_nan() => n,
                "Max" if n > *t || n.is_nan() => n,
                "Min" | "Max" => *t,
                _ => *t + n,
            };
        }
    }
    if op.kind() == "Mean" {
        total.iter_mut().for_each(|t| *t /= inputs.0.len() as f64);
    }
    if inputs.0.iter().flatten().any(|s| matches!(s, crate::slot::Slot::Constant(v, _) if v.is_symbolic())) {
        return Err(Refusal::unsupported("a comparison whose result depends on the size of the batch"));
    }
    Ok(from_f64s(first.kind, shape, total))
}

/// Values of a kind from 64-bit floats.
pub(super) fn from_f64s(kind: ElementKind, shape: Vec<usize>, values: Vec<f64>) -> Value {
    match kind {
        ElementKind::Double => Value::new(kind, shape, Data::F64(values)),
        kind if kind.is_float() => Value::floats(kind, shape, values.into_iter().map(|v| v as f32).collect()),
        kind => Value::integers(kind, shape, values.into_iter().map(|v| v as i64)),
    }
}

/// `Where`: elements of two constants, by a condition.
pub(super) fn choose(inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let condition = inputs.need(0, "condition")?;
    let (yes, no) = (inputs.need(1, "first operand")?, inputs.need(2, "second operand")?);
    if yes.kind != no.kind {
        return Err(Refusal::invalid(format!("operands of types {} and {}", yes.kind, no.kind)));
    }
    let shape = common_shape(&common_shape(&condition.shape, &yes.shape)?, &no.shape)?;
    let condition = broadcast_to(condition, &shape, budget)?.i64s()?;
    let (yes, no) = (broadcast_to(yes, &shape, budget)?, broadcast_to(no, &shape, budget)?);
    budget.claim(&shape)?;
    macro_rules! pick {
        ($a:expr, $b:expr) => {
            condition.iter().zip($a.into_iter().zip($b)).map(|(&c, (a, b))| if c != 0 { a } else { b })
        };
    }
    Ok(if yes.is_symbolic() || no.is_symbolic() {
        Value::symbols(yes.kind, shape, pick!(symbols(&yes)?, symbols(&no)?).collect())
    } else if yes.kind.is_float() {
        from_f64s(yes.kind, shape, pick!(yes.f64s(), no.f64s()).collect())
    } else {
        Value::integers(yes.kind, shape, pick!(yes.i64s()?, no.i64s()?))
    })
}

/// `Clip` in its two forms: bounds as inputs, and before opset 11 as attributes.
pub(super) fn clip(op: &Op<'_>, inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let x = inputs.need(0, "data")?;
    let bound = |at: usize, name: &str| match inputs.value(at, "a bound")? {
        Some(bound) => bound.scalar().map(|b| Some(f64::from(b))),
        None if op.has(name) => op.float(name, 0.0).map(|b| Some(f64::from(b))),
        None => Ok(None),
    };
    let (low, high) = (bound(1, "min")?, bound(2, "max")?);
    budget.claim(&x.shape)?;
    if x.is_symbolic() {
        return Err(Refusal::unsupported("a bound on the size of the batch"));
    }
    let clipped = x.f64s().into_iter().map(|v| {
        let v = low.map_or(v, |low| if v < low { low } else { v });
        high.map_or(v, |high| if v > high { high } else { v })
    });
    Ok(from_f64s(x.kind, x.shape.clone(), clipped.collect()))
}

/// `Range`.
pub(super) fn range(inputs: &Inputs, budget: &Budget) -> Result<Value, Refusal> {
    let start = inputs.need(0, "start")?;
    let (limit, delta) = (inputs.need(1, "limit")?, inputs.need(2, "delta")?);
    if [start, limit, delta].iter().any(|v| v.is_symbolic()) {
        return Err(Refusal::unsupported("a range over the batch"));
    }
    if [start, limit, delta].iter().any(|v| v.len() != 1) {
        return Err(Refusal::invalid("start, limit and delta are numbers"));
    }
    let (from, to, step) = (start.f64s()[0], limit.f64s()[0], delta.f64s()[0]);
    let count = ((to - from) / step).ceil();
    // a step of zero makes this infinite or NaN
    if count.is_nan() || count > 1e12 {
        return Err(Refusal::invalid(format!("a range from {from} to {to} by {step}")));
    }
    let count = count.max(0.0);
    budget.claim(&[count as usize])?;
    let values = (0..count as usize).map(|i| from + i as f64 * step).collect();
    Ok(from_f64s(start.kind, vec![count as usize], values))
}
