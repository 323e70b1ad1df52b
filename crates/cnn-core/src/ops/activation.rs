//! Activation functions, elementwise, with the definitions of PyTorch. NaN stays NaN.

use super::elementwise::{map, map_in_place, zip_in_place};
use super::exp::exp;

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ActivationFn {
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x` if `x > 0`, else `slope x`
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `relu6(x + 3) / 6`
    HardSigmoid,
    /// `x relu6(x + 3) / 6`
    HardSwish,
    /// `x sigmoid(x)`
    Silu,
    /// `tanh(x)`
    Tanh,
    /// `x` if `x > 0`, else `alpha (e^x - 1)`
    Elu(f32),
    /// `min(max(x, low), high)`; a bound may be infinite
    Clip(f32, f32),
}

/// The tensor that an activation's backward pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The input of the forward pass, so the forward pass must not overwrite it.
    Input,
    /// The output of the forward pass, which may have overwritten the input.
    Output,
}

impl ActivationFn {
    /// Which tensor [`activation_backward`] takes as `saved`.
    pub fn backward_needs(self) -> Saved {
        match self {
            Self::Relu | Self::Relu6 | Self::Sigmoid | Self::HardSigmoid | Self::Tanh | Self::Clip(..) => {
                Saved::Output
            }
            // With slope >= 0 the output is positive exactly where the input is.
            Self::LeakyRelu(slope) if slope >= 0.0 => Saved::Output,
            Self::LeakyRelu(_) | Self::HardSwish | Self::Silu | Self::Elu(_) => Saved::Input,
        }
    }
}

/// `y = f(x)`, any shape.
pub fn activation(f: ActivationFn, x: &[f32], y: &mut [f32]) {
    match f {
        ActivationFn::Relu => map(x, y, relu),
        ActivationFn::Relu6 => map(x, y, relu6),
        ActivationFn::LeakyRelu(slope) => map(x, y, |x| leaky_relu(x, slope)),
        ActivationFn::Sigmoid => map(x, y, sigmoid),
        ActivationFn::HardSigmoid => map(x, y, hard_sigmoid),
        ActivationFn::HardSwish => map(x, y, hard_swish),
        ActivationFn::Silu => map(x, y, |x| x * sigmoid(x)),
        ActivationFn::Tanh => map(x, y, f32::tanh),
        ActivationFn::Elu(alpha) => map(x, y, |x| elu(x, alpha)),
        ActivationFn::Clip(low, high) => map(x, y, |x| clip(x, low, high)),
    }
}

/// `x = f(x)`, any shape.
pub fn activation_in_place(f: ActivationFn, x: &mut [f32]) {
    match f {
        ActivationFn::Relu => map_in_place(x, relu),
        ActivationFn::Relu6 => map_in_place(x, relu6),
        ActivationFn::LeakyRelu(slope) => map_in_place(x, |x| leaky_relu(x, slope)),
        ActivationFn::Sigmoid => map_in_place(x, sigmoid),
        ActivationFn::HardSigmoid => map_in_place(x, hard_sigmoid),
        ActivationFn::HardSwish => map_in_place(x, hard_swish),
        ActivationFn::Silu => map_in_place(x, |x| x * sigmoid(x)),
        ActivationFn::Tanh => map_in_place(x, f32::tanh),
        ActivationFn::Elu(alpha) => map_in_place(x, |x| elu(x, alpha)),
        ActivationFn::Clip(low, high) => map_in_place(x, |x| clip(x, low, high)),
    }
}

/// Replaces `grad = dL/dy` by `dL/dx = dL/dy f'(x)`.
///
/// `saved` is the input or the output of the forward pass, see [`ActivationFn::backward_needs`].
pub fn activation_backward(f: ActivationFn, saved: &[f32], grad: &mut [f32]) {
    match f {
        ActivationFn::Relu => zip_in_place(grad, saved, |g, y| if y <= 0.0 { 0.0 } else { g }),
        ActivationFn::Relu6 => {
            zip_in_place(grad, saved, |g, y| if (y <= 0.0) | (y >= 6.0) { 0.0 } else { g })
        }
        ActivationFn::LeakyRelu(slope) => {
            zip_in_place(grad, saved, |g, v| if v > 0.0 { g } else { slope * g });
        }
        ActivationFn::Sigmoid => zip_in_place(grad, saved, |g, y| g * y * (1.0 - y)),
        ActivationFn::HardSigmoid => {
            zip_in_place(grad, saved, |g, y| if (y <= 0.0) | (y >= 1.0) { 0.0 } else { g / 6.0 })
        }
        ActivationFn::HardSwish => zip_in_place(grad, saved, |g, x| {
            let slope = if x >= 3.0 { 1.0 } else { x / 3.0 + 0.5 };
            if x <= -3.0 { 0.0 } else { g * slope }
        }),
        ActivationFn::Silu => zip_in_place(grad, saved, |g, x| {
            let s = sigmoid(x);
            g * s * (1.0 + x * (1.0 - s))
        }),
        ActivationFn::Tanh => zip_in_place(grad, saved, |g, y| g * (1.0 - y * y)),
        ActivationFn::Elu(alpha) => {
            zip_in_place(grad, saved, |g, x| if x > 0.0 { g } else { g * alpha * exp(x) });
        }
        ActivationFn::Clip(low, high) => {
            zip_in_place(grad, saved, |g, y| if (y <= low) | (y >= high) { 0.0 } else { g });
        }
    }
}

// Comparisons with NaN are false, so the conditions are chosen to let NaN through; `f32::max` would
// turn it into the other operand.

#[inline(always)]
pub(crate) fn relu(x: f32) -> f32 {
    // `<`, not `<=`: this is then exactly the x86 instruction maxps(0, x).
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn relu6(x: f32) -> f32 {
    let y = relu(x);
    if y > 6.0 { 6.0 } else { y }
}

#[inline(always)]
fn clip(x: f32, low: f32, high: f32) -> f32 {
    let y = if x < low { low } else { x };
    if y > high { high } else { y }
}

#[inline(always)]
fn elu(x: f32, alpha: f32) -> f32 {
    // `exp_m1` keeps its digits near zero, where `exp(x) - 1` loses them
    if x > 0.0 { x } else { alpha * x.exp_m1() }
}

#[inline(always)]
fn leaky_relu(x: f32, slope: f32) -> f32 {
    if x > 0.0 { x } else { slope * x }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn hard_sigmoid(x: f32) -> f32 {
    relu6(x + 3.0) / 6.0
}

#[inline(always)]
fn hard_swish(x: f32) -> f32 {
    x * relu6(x + 3.0) / 6.0
}
