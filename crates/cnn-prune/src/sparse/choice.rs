//! Which form of a sparse layer a session runs.

use super::kernels::SPARSE;
use cnn_core::session::{Lowered, Lowering};

/// Multiply-adds of a dense convolution in the time of one with a stored weight.
const CONV: f64 = 2.4;
/// The same for turning one value into planes or back.
const TURN: f64 = 22.0;
/// Time of a multiply-add by Winograd's algorithm, which needs fewer products than the definition.
const WINOGRAD: f64 = 0.35;
/// Multiply-adds of a dense linear layer in the time of one with a stored weight, whose input is fetched from anywhere: for one
/// image, and for a vector of images.
const LINEAR: [f64; 2] = [8.0, 4.0];
/// The same for laying a value of several images next to each other.
const LAY: f64 = 15.0;
/// So much faster has the sparse form to be for the dense one not even to be tried.
const CLEAR: f64 = 6.0;

/// Time in multiply-adds of a dense layer.
pub(super) struct Times {
    pub sparse: f64,
    pub dense: f64,
}

impl Times {
    /// A convolution of `macs` multiply-adds with a share of stored weights, for so many values in and out.
    pub fn conv(macs: u64, density: f64, values: usize) -> Times {
        Times { sparse: CONV * macs as f64 * density + TURN * values as f64, dense: macs as f64 }
    }

    /// A linear layer for `n` images.
    pub fn linear(n: usize, [outputs, inputs]: [usize; 2], density: f64) -> Times {
        let dense = n as f64 * outputs as f64 * inputs as f64;
        let sparse = match n {
            1 => LINEAR[0] * dense * density,
            _ => LINEAR[1] * dense * density + LAY * n as f64 * inputs as f64,
        };
        Times { sparse, dense }
    }
}

/// The sparse kernel or the dense one: the one that was chosen before, else the one that should be faster; the other is an
/// alternative to be measured, unless the sparse one is faster beyond doubt.
pub(super) fn sparse_or_dense(
    at: &Lowering<'_>,
    times: &Times,
    sparse: impl FnOnce() -> Option<Lowered>,
    dense: impl FnOnce() -> Option<Lowered>,
) -> Option<Lowered> {
    match at.choice {
        Some(SPARSE) => return sparse(),
        Some(_) => return dense(),
        None => {}
    }
    let sparse = sparse();
    if sparse.is_some() && times.sparse * CLEAR < times.dense {
        return sparse;
    }
    match (sparse, dense()) {
        (Some(mut sparse), Some(mut dense)) => {
            let winograd = dense.kernel.algorithm().starts_with("winograd");
            let time = times.dense * if winograd { WINOGRAD } else { 1.0 };
            if times.sparse < time {
                sparse.alternatives.push(dense.kernel.algorithm());
                sparse.alternatives.append(&mut dense.alternatives);
                Some(sparse)
            } else {
                dense.alternatives.push(SPARSE);
                Some(dense)
            }
        }
        (sparse, dense) => sparse.or(dense),
    }
}
