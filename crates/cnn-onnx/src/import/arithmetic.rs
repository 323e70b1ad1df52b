//! Elementwise arithmetic: between two values from the image, and with constants.

use super::context::{Context, floats};
use super::conv::shaped;
use crate::op::Refusal;
use crate::slot::Slot;
use crate::value::Value;
use cnn_core::layers::{Add, Arithmetic, ArithmeticConstant, ArithmeticOperator, Mul};

fn operator_of(kind: &str) -> ArithmeticOperator {
    match kind {
        "Sub" => ArithmeticOperator::Sub,
        "Mul" => ArithmeticOperator::Mul,
        "Div" => ArithmeticOperator::Div,
        _ => ArithmeticOperator::Add,
    }
}

/// `Add`, `Sub`, `Mul`, `Div`.
pub(super) fn binary(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let operator = operator_of(at.op.kind());
    let name = at.name();
    let y = match (at.inputs.get(0), at.inputs.get(1)) {
        (Some(_), Some(Slot::Constant(c, _))) => {
            let (c, x) = (c.clone(), at.inputs.dynamic(0)?);
            with_constant(at, &name, operator, &c, false, x)?
        }
        (Some(Slot::Constant(c, _)), Some(_)) => {
            let (c, x) = (c.clone(), at.inputs.dynamic(1)?);
            with_constant(at, &name, operator, &c, true, x)?
        }
        _ => {
            let (a, b) = (at.inputs.dynamic(0)?, at.inputs.dynamic(1)?);
            between(at, &name, operator, a, b)?
        }
    };
    Ok(Context::one(y))
}

/// `a op b`, both from the image.
pub(super) fn between(
    at: &mut Context<'_>,
    name: &str,
    operator: ArithmeticOperator,
    a: usize,
    b: usize,
) -> Result<usize, Refusal> {
    let (left, right) = (at.drafts.shape(a).to_vec(), at.drafts.shape(b).to_vec());
    if left.len() != right.len() {
        return Err(Refusal::unsupported(format!(
            "{left:?} with {right:?}: broadcasting between numbers of axes would mix the images of a batch"
        )));
    }
    match operator {
        ArithmeticOperator::Add if left == right => at.drafts.push(name, Add, &[a, b]),
        ArithmeticOperator::Mul if left.len() <= 4 => at.drafts.push(name, Mul, &[a, b]),
        operator => at.drafts.push(name, Arithmetic { operator }, &[a, b]),
    }
}

/// `x op c`, or `c op x` if swapped, for a constant that broadcasts with the value from the image.
pub(super) fn with_constant(
    at: &mut Context<'_>,
    name: &str,
    operator: ArithmeticOperator,
    constant: &Value,
    swapped: bool,
    mut x: usize,
) -> Result<usize, Refusal> {
    let mut constant = floats(constant, "an operand")?;
    let mut shape = at.drafts.shape(x).to_vec();
    // one number for all
    if constant.len() == 1 && constant.ndim() <= shape.len() {
        let number = constant.iter().next().copied().unwrap_or_default();
        return at.with_number(name, operator, number, swapped, x);
    }
    if constant.ndim() > shape.len() {
        return Err(Refusal::unsupported(format!(
            "a constant of shape {:?} with {shape:?}: more axes than the value from the image",
            constant.shape()
        )));
    }
    // all axes are written out, so that the channels are known to be the channels
    let mut full = vec![1; shape.len() - constant.ndim()];
    full.extend(constant.shape());
    constant = shaped(constant, &full)?;
    if full[0] != 1 {
        return Err(Refusal::unsupported(format!(
            "a constant of shape {full:?}, which differs between the images of a batch"
        )));
    }
    for (have, &want) in shape.iter_mut().zip(&full) {
        if *have == 1 {
            *have = want;
        }
    }
    x = at.expand(name, x, &shape)?;
    at.drafts.push(name, ArithmeticConstant::new(operator, constant, swapped)?, &[x])
}

/// `Sum` and `Mean` of any number of values.
pub(super) fn sum(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let name = at.name();
    let count = at.inputs.0.len();
    let mut drafts = Vec::new();
    let mut constants = Vec::new();
    for i in 0..count {
        match at.inputs.get(i) {
            Some(Slot::Constant(c, _)) => constants.push(c.clone()),
            _ => drafts.push(at.inputs.dynamic(i)?),
        }
    }
    let [first, rest @ ..] = &drafts[..] else { return Err(Refusal::invalid("nothing to add")) };
    let shape = at.drafts.shape(*first);
    let mut y = *first;
    if !rest.is_empty() && rest.iter().all(|&d| at.drafts.shape(d) == shape) {
        y = at.drafts.push(&name, Add, &drafts)?;
    } else {
        for &next in rest {
            y = between(at, &name, ArithmeticOperator::Add, y, next)?;
        }
    }
    for constant in constants {
        y = with_constant(at, &format!("{name}.constant"), ArithmeticOperator::Add, &constant, false, y)?;
    }
    if at.op.kind() == "Mean" {
        y = at.with_number(&format!("{name}.mean"), ArithmeticOperator::Div, count as f32, false, y)?;
    }
    Ok(Context::one(y))
}

/// `Pow` with small whole exponents.
pub(super) fn power(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, _) = at.image(0)?;
    let name = at.name();
    let exponent = at.inputs.need(1, "an exponent")?;
    let square = Arithmetic { operator: ArithmeticOperator::Mul };
    match exponent.f64s()[..] {
        [1.0] => Ok(Context::one(x)),
        [2.0] => Ok(Context::one(at.drafts.push(&name, square, &[x, x])?)),
        [3.0] => {
            let y = at.drafts.push(&format!("{name}.square"), square, &[x, x])?;
            Ok(Context::one(at.drafts.push(&name, square, &[y, x])?))
        }
        _ => Err(Refusal::unsupported("exponents other than 1, 2, 3")),
    }
}
