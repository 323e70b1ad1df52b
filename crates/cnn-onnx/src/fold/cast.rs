//! Conversion of constants.

use crate::kind::ElementKind;
use crate::op::{Op, Refusal};
use crate::slot::Budget;
use crate::value::{Data, Value};

/// The type that a `Cast` asks for.
pub(crate) fn target(op: &Op<'_>) -> Result<ElementKind, Refusal> {
    let code = op.int("to", 0)?;
    let kind = i32::try_from(code).ok().and_then(ElementKind::from_code);
    kind.ok_or_else(|| Refusal::unsupported(format!("conversion to the element type {code}")))
}

pub(super) fn cast(op: &Op<'_>, x: &Value, budget: &Budget) -> Result<Value, Refusal> {
    to_kind(x, target(op)?, budget)
}

pub(super) fn to_kind(x: &Value, kind: ElementKind, budget: &Budget) -> Result<Value, Refusal> {
    if x.kind == kind {
        return Ok(x.clone());
    }
    budget.claim(&x.shape)?;
    let shape = x.shape.clone();
    if let Data::Sym(symbols) = &*x.data {
        return match kind {
            ElementKind::Bool => Err(Refusal::unsupported("the size of the batch as a truth value")),
            kind => Ok(Value::symbols(kind, shape, symbols.clone())),
        };
    }
    Ok(match kind {
        ElementKind::Double => Value::new(kind, shape, Data::F64(x.f64s())),
        kind if kind.is_float() => Value::floats(kind, shape, x.f32s()),
        ElementKind::Bool => Value::integers(kind, shape, x.f64s().into_iter().map(|v| i64::from(v != 0.0))),
        kind if x.kind.is_float() => Value::integers(kind, shape, x.f64s().into_iter().map(|v| v as i64)),
        kind => Value::integers(kind, shape, x.i64s()?.into_iter()),
    })
}
