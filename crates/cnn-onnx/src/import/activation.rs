//! Activation functions; those the core does not have are composed.

use super::arithmetic::with_constant;
use super::context::Context;
use crate::op::Refusal;
use crate::slot::Slot;
use crate::value::Value;
use cnn_core::layers::{ActivationFn, Add, Arithmetic, ArithmeticOperator, Dropout, Softmax};

/// The function of one input that an operator is, if the core has it.
fn plain(at: &Context<'_>) -> Result<Option<ActivationFn>, Refusal> {
    let op = &at.op;
    Ok(Some(match op.kind() {
        "Relu" => ActivationFn::Relu,
        "Sigmoid" => ActivationFn::Sigmoid,
        "Tanh" => ActivationFn::Tanh,
        "HardSwish" => ActivationFn::HardSwish,
        "LeakyRelu" => ActivationFn::LeakyRelu(op.float("alpha", 0.01)?),
        "Elu" => ActivationFn::Elu(op.float("alpha", 1.0)?),
        _ => return Ok(None),
    }))
}

pub(super) fn activation(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, _) = at.image(0)?;
    let name = at.name();
    if let Some(function) = plain(at)? {
        return Ok(Context::one(at.activation(&name, function, x)?));
    }
    let y = match at.op.kind() {
        "Clip" => return clip(at),
        "PRelu" => return prelu(at),
        "HardSigmoid" => hard_sigmoid(at, &name, x)?,
        "Selu" => {
            let alpha = at.op.float("alpha", 1.673_263_2)?;
            let gamma = at.op.float("gamma", 1.050_701)?;
            let y = at.activation(&format!("{name}.elu"), ActivationFn::Elu(alpha), x)?;
            at.with_number(&name, ArithmeticOperator::Mul, gamma, false, y)?
        }
        "Celu" => {
            // alpha elu(x / alpha)
            let alpha = at.op.float("alpha", 1.0)?;
            if alpha == 0.0 || !alpha.is_finite() {
                return Err(Refusal::invalid(format!("alpha is {alpha}")));
            }
            let y = at.with_number(&format!("{name}.in"), ArithmeticOperator::Div, alpha, false, x)?;
            let y = at.activation(&format!("{name}.elu"), ActivationFn::Elu(1.0), y)?;
            at.with_number(&name, ArithmeticOperator::Mul, alpha, false, y)?
        }
        "Mish" => mish(at, &name, x)?,
        "Neg" => at.with_number(&name, ArithmeticOperator::Mul, -1.0, false, x)?,
        "Reciprocal" => at.with_number(&name, ArithmeticOperator::Div, 1.0, true, x)?,
        other => return Err(Refusal::unsupported(other)),
    };
    Ok(Context::one(y))
}

/// `max(0, min(1, alpha x + beta))`.
fn hard_sigmoid(at: &mut Context<'_>, name: &str, x: usize) -> Result<usize, Refusal> {
    let (alpha, beta) = (at.op.float("alpha", 0.2)?, at.op.float("beta", 0.5)?);
    if (alpha * 6.0 - 1.0).abs() < 1e-6 && beta == 0.5 {
        return at.activation(name, ActivationFn::HardSigmoid, x);
    }
    let y = at.with_number(&format!("{name}.alpha"), ArithmeticOperator::Mul, alpha, false, x)?;
    let y = at.with_number(&format!("{name}.beta"), ArithmeticOperator::Add, beta, false, y)?;
    at.activation(name, ActivationFn::Clip(0.0, 1.0), y)
}

/// `x tanh(ln(1 + e^x))`, which is `x (1 - q) / (1 + q)` with `q = sigmoid(-x)^2`.
fn mish(at: &mut Context<'_>, name: &str, x: usize) -> Result<usize, Refusal> {
    let part = |label: &str| format!("{name}.{label}");
    let y = at.with_number(&part("neg"), ArithmeticOperator::Mul, -1.0, false, x)?;
    let y = at.activation(&part("sigmoid"), ActivationFn::Sigmoid, y)?;
    let q = at.drafts.push(&part("square"), Arithmetic { operator: ArithmeticOperator::Mul }, &[y, y])?;
    let over = at.with_number(&part("over"), ArithmeticOperator::Sub, 1.0, true, q)?;
    let under = at.with_number(&part("under"), ArithmeticOperator::Add, 1.0, false, q)?;
    let tanh = Arithmetic { operator: ArithmeticOperator::Div };
    let tanh = at.drafts.push(&part("tanh"), tanh, &[over, under])?;
    at.drafts.push(name, Arithmetic { operator: ArithmeticOperator::Mul }, &[x, tanh])
}

/// A function with bounds; open ones are infinite.
fn bounded(at: &mut Context<'_>, name: &str, x: usize, low: f32, high: f32) -> Result<usize, Refusal> {
    let function = match (low, high) {
        (l, h) if l.is_nan() || h.is_nan() => return Err(Refusal::invalid("a bound that is not a number")),
        (l, h) if l <= f32::MIN && h >= f32::MAX => return Ok(x),
        (0.0, h) if h >= f32::MAX => ActivationFn::Relu,
        (0.0, 6.0) => ActivationFn::Relu6,
        // a value above both bounds becomes the upper one
        (l, h) => ActivationFn::Clip(l.min(h), h),
    };
    at.activation(name, function, x)
}

/// `Clip` in its two forms: bounds as inputs, and before opset 11 as attributes.
fn clip(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, _) = at.image(0)?;
    let bound = |i: usize, name: &str, open: f32| match at.inputs.value(i, "a bound")? {
        Some(bound) => bound.scalar(),
        None => at.op.float(name, open),
    };
    let (low, high) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
    let name = at.name();
    Ok(Context::one(bounded(at, &name, x, low, high)?))
}

/// `Max` and `Min` of the image with numbers.
pub(super) fn extremum(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let mut x = None;
    let (mut low, mut high) = (f32::NEG_INFINITY, f32::INFINITY);
    for i in 0..at.inputs.0.len() {
        match at.inputs.get(i) {
            Some(Slot::Constant(v, _)) if v.len() == 1 && at.op.kind() == "Max" => low = low.max(v.scalar()?),
            Some(Slot::Constant(v, _)) if v.len() == 1 => high = high.min(v.scalar()?),
            Some(Slot::Dynamic(d)) if x.is_none() => x = Some(*d),
            _ => return Err(Refusal::unsupported("other than one value from the image and numbers")),
        }
    }
    let x = x.ok_or_else(|| Refusal::invalid("no operand"))?;
    let name = at.name();
    Ok(Context::one(bounded(at, &name, x, low, high)?))
}

/// `x` where it is positive, else `slope x`; one slope, or one a channel: `relu(x) + slope (x - relu(x))`.
fn prelu(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let slope: Value = at.inputs.need(1, "slopes")?.clone();
    let name = at.name_by_weights(1);
    if let [slope] = slope.f32s()[..] {
        return Ok(Context::one(at.activation(&name, ActivationFn::LeakyRelu(slope), x)?));
    }
    let part = |label: &str| format!("{name}.{label}");
    let positive = at.activation(&part("relu"), ActivationFn::Relu, x)?;
    let difference = Arithmetic { operator: ArithmeticOperator::Sub };
    let negative = at.drafts.push(&part("negative"), difference, &[x, positive])?;
    let scaled = with_constant(at, &part("slope"), ArithmeticOperator::Mul, &slope, false, negative)?;
    if at.drafts.shape(scaled) != shape {
        return Err(Refusal::invalid(format!("slopes of shape {:?} for data of {shape:?}", slope.shape)));
    }
    Ok(Context::one(at.drafts.push(&name, Add, &[positive, scaled])?))
}

/// Dropout, which does nothing at inference, and is kept so that training goes on with it.
pub(super) fn dropout(at: &mut Context<'_>, mask_used: bool) -> Result<Vec<Slot>, Refusal> {
    let (x, _) = at.image(0)?;
    if mask_used {
        return Err(Refusal::unsupported("the mask"));
    }
    if at.inputs.value(2, "training_mode")?.is_some_and(|v| v.f64s().iter().any(|&m| m != 0.0)) {
        return Err(Refusal::unsupported("training_mode"));
    }
    let ratio = match at.inputs.value(1, "a ratio")? {
        Some(ratio) => ratio.scalar()?,
        None => at.op.float("ratio", 0.5)?,
    };
    let name = at.name();
    match ratio > 0.0 && ratio < 1.0 {
        true => Ok(Context::one(at.drafts.push(&name, Dropout::new(ratio)?, &[x])?)),
        false => Ok(Context::one(x)),
    }
}

/// `Softmax`: over one axis, and before opset 13 over all axes from one on.
pub(super) fn softmax(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let rank = shape.len();
    let joined = at.op.opset < 13;
    let axis = crate::value::axis_of(at.op.int("axis", if joined { 1 } else { -1 })?, rank)?;
    if axis == 0 {
        return Err(Refusal::unsupported("softmax over the batch"));
    }
    let simple = !joined || shape[axis + 1..].iter().all(|&d| d == 1);
    let part = |label: &str| format!("{name}.{label}");
    if simple && axis == 1 {
        return Ok(Context::one(at.drafts.push(&name, Softmax, &[x])?));
    }
    if simple {
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(1, axis);
        let y = at.transpose(&part("in"), x, &order)?;
        let y = at.drafts.push(&name, Softmax, &[y])?;
        return Ok(Context::one(at.transpose(&part("out"), y, &order)?));
    }
    // rows of everything before the axis, columns of everything from it on
    let (rows, columns) = (shape[1..axis].iter().product(), shape[axis..].iter().product());
    let y = at.drafts.reshape(&part("rows"), x, &[1, rows, columns])?;
    let y = at.transpose(&part("in"), y, &[0, 2, 1])?;
    let y = at.drafts.push(&name, Softmax, &[y])?;
    let y = at.transpose(&part("out"), y, &[0, 2, 1])?;
    Ok(Context::one(at.drafts.reshape(&part("shape"), y, &shape)?))
}
