//! Which algorithm a convolution runs.

use super::depthwise;
use super::direct::{self, Direct};
use super::winograd::{self, Winograd};
use crate::ops::conv::ConvGeometry;
use crate::session::lowering::{Lowered, Lowering};

/// The kernel of a convolution. `weights`: `m x c / groups x kh x kw`, `bias`: `m`.
pub(crate) fn lower(
    at: &Lowering<'_>,
    g: &ConvGeometry,
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Option<Lowered> {
    if g.is_depthwise() && g.m == g.c && g.out_len() > 0 {
        return Some(depthwise::lower(at, g, weights, bias));
    }
    if g.out_len() == 0 || !direct::fits(g) {
        return None;
    }
    let (weights, bias) = at.epilogue.fold(g.m, weights, bias);
    let winograd_fits = !at.exact && winograd::fits(g);
    let winograd = match at.choice {
        Some(name) => name == winograd::NAME,
        None => winograd_fits && winograd::pays(at.isa, g),
    };
    let mut lowered = match winograd && winograd_fits {
        true => Winograd::lower(at, g, &weights, &bias),
        false => Direct::lower(at, g, &weights, &bias),
    };
    if winograd_fits {
        lowered.alternatives = vec![if winograd { direct::NAME } else { winograd::NAME }];
    }
    Some(lowered)
}
