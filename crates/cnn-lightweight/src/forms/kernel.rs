//! The weights of a standard convolution as matrices.

use crate::{Error, Result};
use cnn_core::layers::Conv2d;
use cnn_core::tensor::slice;
use nalgebra::DMatrix;
use std::ops::Range;

/// Why a convolution is no standard one with something to save, if it is none.
pub(crate) fn not_standard(conv: &Conv2d) -> Option<String> {
    match (conv.options.groups, conv.kernel()) {
        (1, [1, 1]) => Some("a kernel of 1 x 1".to_string()),
        (1, _) => None,
        (groups, _) => Some(format!("{groups} groups")),
    }
}

/// The weights `W[m, n, k]` of a standard convolution, `k` running over the `K^2` elements of the kernel.
pub(crate) struct Kernel<'a> {
    weights: &'a [f32],
    /// Filters, `M`.
    pub m: usize,
    /// Input channels, `N`.
    pub n: usize,
    /// Elements of the kernel, `K^2`.
    pub taps: usize,
}

impl Kernel<'_> {
    /// # Errors
    /// If the convolution is not a standard one, is constrained, or has weights that are not finite.
    pub fn of(conv: &Conv2d) -> Result<Kernel<'_>> {
        if let Some(what) = not_standard(conv) {
            return Err(Error::NotReplaceable(what));
        }
        for param in [Some(conv.weight()), conv.bias()].into_iter().flatten() {
            if let Some(constraint) = param.constraints().first() {
                return Err(Error::Constrained(constraint.kind().to_string()));
            }
            if !param.value().iter().all(|v| v.is_finite()) {
                return Err(Error::NotFinite);
            }
        }
        let [kh, kw] = conv.kernel();
        Ok(Kernel {
            weights: slice(conv.weight().value())?,
            m: conv.filters(),
            n: conv.channels_in(),
            taps: kh * kw,
        })
    }

    /// The rows `m` of `filters` and columns `(n, k)` of `channels`.
    pub fn matrix(&self, filters: Range<usize>, channels: Range<usize>) -> DMatrix<f64> {
        let at = |row: usize, column: usize| {
            let (m, first) = (filters.start + row, channels.start * self.taps);
            f64::from(self.weights[m * self.n * self.taps + first + column])
        };
        DMatrix::from_fn(filters.len(), channels.len() * self.taps, at)
    }
}

/// How far weights are off, gathered over parts of a layer.
#[derive(Default)]
pub(crate) struct Deviation {
    lost: f64,
    whole: f64,
}

impl Deviation {
    /// A part of the weights, and what it was approximated by.
    pub fn add(&mut self, part: &DMatrix<f64>, by: &DMatrix<f64>) {
        self.lost += (part - by).norm_squared();
        self.whole += part.norm_squared();
    }

    /// `|W - W'| / |W|` in the Frobenius norm; 0 for `W = 0`.
    pub fn relative(&self) -> f64 {
        if self.whole > 0.0 { (self.lost / self.whole).sqrt() } else { 0.0 }
    }
}
