//! Which algorithm a convolution runs.

use super::depthwise;
use super::direct::{self, Direct};
use super::winograd;
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
    let fits = !at.exact && winograd::fits(g);
    let chosen = match at.choice {
        Some(choice) => winograd::NAMES.into_iter().find(|&name| name == choice),
        None => winograd::pays(at.isa, g),
    };
    let mut lowered = match chosen.filter(|_| fits) {
        Some(name) => winograd::lower(name, at, g, &weights, &bias),
        None => Direct::lower(at, g, &weights, &bias),
    };
    if fits {
        let others = [direct::NAME].into_iter().chain(winograd::NAMES);
        lowered.alternatives = others.filter(|&name| name != chosen.unwrap_or(direct::NAME)).collect();
    }
    Some(lowered)
}
