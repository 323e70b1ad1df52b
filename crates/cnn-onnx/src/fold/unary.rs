//! Functions of single constants.

use super::arithmetic::from_f64s;
use crate::kind::ElementKind;
use crate::op::Refusal;
use crate::slot::Budget;
use crate::value::{Data, Sym, Value};

pub(super) fn unary(kind: &str, x: &Value, budget: &Budget) -> Result<Value, Refusal> {
    budget.claim(&x.shape)?;
    let shape = x.shape.clone();
    if let Data::Sym(symbols) = &*x.data {
        return match kind {
            "Floor" | "Ceil" | "Round" => Ok(x.clone()),
            "Neg" => {
                let neg = |s: &Sym| Some(Sym { times: s.times.checked_neg()?, plus: s.plus.checked_neg()? });
                let negative = symbols.iter().map(neg).collect::<Option<_>>();
                let negative = negative.ok_or_else(|| Refusal::invalid("a number is too large"))?;
                Ok(Value::symbols(x.kind, shape, negative))
            }
            other => Err(Refusal::unsupported(format!("{other} of the size of the batch"))),
        };
    }
    if matches!(kind, "Not" | "BitwiseNot") || !x.kind.is_float() {
        let apply = |v: i64| {
            Ok(match kind {
                "Not" => i64::from(v == 0),
                "BitwiseNot" => !v,
                "Neg" => v.wrapping_neg(),
                "Abs" => v.wrapping_abs(),
                "Sign" => v.signum(),
                "Relu" => v.max(0),
                other => return Err(Refusal::invalid(format!("{other} of integers"))),
            })
        };
        let kind = if kind == "Not" { ElementKind::Bool } else { x.kind };
        let values = x.i64s()?.into_iter().map(apply).collect::<Result<Vec<_>, _>>()?;
        return Ok(Value::integers(kind, shape, values.into_iter()));
    }
    let apply = |v: f64| match kind {
        "Neg" => -v,
        "Abs" => v.abs(),
        "Sign" if v == 0.0 || v.is_nan() => v,
        "Sign" => v.signum(),
        "Floor" => v.floor(),
        "Ceil" => v.ceil(),
        "Round" => v.round_ties_even(),
        "Sqrt" => v.sqrt(),
        "Exp" => v.exp(),
        "Log" => v.ln(),
        "Reciprocal" => 1.0 / v,
        "Relu" if v < 0.0 => 0.0,
        "Sigmoid" => 1.0 / (1.0 + (-v).exp()),
        "Tanh" => v.tanh(),
        _ => v,
    };
    Ok(from_f64s(x.kind, shape, x.f64s().into_iter().map(apply).collect()))
}
