//! Fully connected layer and its gradients.

use super::gemm::{Transpose, gemm};

/// Shapes of a fully connected layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearGeometry {
    /// Samples.
    pub n: usize,
    /// Features of the input.
    pub inputs: usize,
    /// Features of the output.
    pub outputs: usize,
}

/// `y = x * w^T + bias`; `x`: `n x inputs`, `w`: `outputs x inputs`,
/// `bias`: `outputs`, `y`: `n x outputs`, overwritten.
pub fn linear_forward(g: &LinearGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert_eq!(y.len(), g.n * g.outputs, "output length");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), g.outputs, "bias length");
        for row in y.chunks_exact_mut(g.outputs.max(1)) {
            row.copy_from_slice(bias);
        }
    }
    let (no, yes) = (Transpose::No, Transpose::Yes);
    gemm(no, yes, g.n, g.outputs, g.inputs, x, w, y, bias.is_some());
}

/// Gradient to the input: `dx = dy * w`, `n x inputs`, overwritten.
pub fn linear_backward_input(g: &LinearGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let no = Transpose::No;
    gemm(no, no, g.n, g.inputs, g.outputs, dy, w, dx, false);
}

/// Gradient to the weights: `dw = dy^T * x`, `outputs x inputs`, overwritten.
pub fn linear_backward_weights(g: &LinearGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (no, yes) = (Transpose::No, Transpose::Yes);
    gemm(yes, no, g.outputs, g.inputs, g.n, dy, x, dw, false);
}

/// Gradient to the bias: the sum of the rows of `dy` (`n x outputs`), overwritten.
pub fn linear_backward_bias(g: &LinearGeometry, dy: &[f32], db: &mut [f32]) {
    assert_eq!(dy.len(), g.n * g.outputs, "output length");
    assert_eq!(db.len(), g.outputs, "bias length");
    db.fill(0.0);
    for row in dy.chunks_exact(g.outputs.max(1)) {
        for (d, v) in db.iter_mut().zip(row) {
            *d += v;
        }
    }
}
