//! Which form of a sparse layer a session runs.
//!
//! The constants are cycles, fitted to medians of `examples/sparse_speed.rs` on an Intel Emerald Rapids core with AVX-512 (2.8 GHz;
//! levels 1 and 2 of the cache 48 KB and 2 MB). Where vectors are shorter, all forms need more of them.

use super::blocks::BLOCK;
use super::kernels::{BLOCKS, SPARSE, conv_cycles};
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Lowered, Lowering};

/// Vectors of dense products in a cycle, by the plain definition of a convolution.
const DIRECT: f64 = 1.75;
/// By how much Winograd's algorithms are faster.
const WINOGRAD: [(&str, f64); 2] = [("winograd-2x2", 1.85), ("winograd-4x4", 2.6)];
/// Reading and writing a vector of values.
const VALUES: f64 = 5.0;
/// A vector of products with blocks, with blocks in pairs, and a vector of results.
const BLOCK_PRODUCT: [f64; 2] = [0.75, 0.55];
const BLOCK_RESULT: f64 = 20.0;

/// A weight of a dense linear layer for one image, in the cache and from memory, and from how many weights on it is the latter.
const LINEAR_DENSE: [f64; 2] = [0.17, 0.5];
const LINEAR_LARGE: usize = 1 << 20;
/// A stored weight for one image, whose input is fetched from anywhere; the same for a vector of images. (Medians lie between 1.6 and 2.4
/// from run to run.)
const LINEAR: [f64; 2] = [2.2, 2.5];
/// A row of a sparse linear layer, and laying a value of several images next to each other.
const LINEAR_ROW: f64 = 12.0;
const LAY: f64 = 0.55;

/// So much faster a sparse form has to look to be run: the model is not exact, and a layer must not become slower by our choice.
const MARGIN: f64 = 1.12;
/// So much faster than the plain dense form has a sparse one to look for the dense one not even to be tried.
const CLEAR: f64 = 4.0;

/// Cycles of a layer's forms, as the model has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cycles {
    pub sparse: f64,
    /// Infinite where there is no such kernel.
    pub blocks: f64,
    /// The dense form by the plain definition.
    pub dense: f64,
}

impl Cycles {
    /// A convolution of so many stored weights; `blocks` counts those of the blocks, zeros between them too;
    /// `paired` if they have a pattern of two blocks.
    pub fn conv(g: &ConvGeometry, lanes: usize, stored: usize, blocks: usize, paired: bool) -> Cycles {
        let pixels = (g.n * g.out_h() * g.out_w()) as f64;
        let values = (g.n * g.c * g.h * g.w) as f64 + pixels * g.m as f64;
        let lanes_of = |n: usize| n.next_multiple_of(lanes) as f64 / lanes as f64;
        let inner = (g.c / g.groups * g.kernel[0] * g.kernel[1]) as f64;
        let dense = pixels * inner * g.groups as f64 * lanes_of(g.m / g.groups) / DIRECT;
        let vectors = BLOCK as f64 / lanes as f64;
        let columns = blocks as f64 / BLOCK as f64;
        let column = BLOCK_PRODUCT[usize::from(paired && lanes == BLOCK)];
        let product = column * columns + BLOCK_RESULT * (g.m as f64 / BLOCK as f64);
        Cycles {
            sparse: conv_cycles(g, lanes, stored).unwrap_or(f64::INFINITY),
            blocks: if g.groups == 1 { product * vectors * pixels } else { f64::INFINITY },
            dense: dense + VALUES * values / lanes as f64,
        }
    }

    /// A linear layer for `n` images.
    pub fn linear(n: usize, lanes: usize, [outputs, inputs]: [usize; 2], stored: usize) -> Cycles {
        let (weights, stored) = (outputs * inputs, stored as f64);
        let read = LINEAR_DENSE[usize::from(weights >= LINEAR_LARGE)] * weights as f64;
        let products = n as f64 * weights as f64 / lanes as f64 / DIRECT;
        let sparse = match n {
            1 => LINEAR[0] * stored + LINEAR_ROW * outputs as f64,
            _ => {
                let vectors = n.div_ceil(lanes) as f64;
                (LINEAR[1] * stored + LINEAR_ROW * outputs as f64) * vectors + LAY * (n * inputs) as f64
            }
        };
        Cycles { sparse, blocks: f64::INFINITY, dense: read.max(products) }
    }

    /// By the better one of the sparse kernels.
    pub fn best(&self) -> f64 {
        self.sparse.min(self.blocks)
    }

    /// The name of the better one.
    pub fn better(&self) -> &'static str {
        self.names()[0]
    }

    /// By a sparse kernel.
    pub fn of(&self, name: &str) -> f64 {
        if name == BLOCKS { self.blocks } else { self.sparse }
    }

    /// Names of the sparse kernels there are, the better one first.
    fn names(&self) -> Vec<&'static str> {
        let mut names = vec![SPARSE];
        if self.blocks.is_finite() {
            names.insert(usize::from(self.sparse < self.blocks), BLOCKS);
        }
        names
    }
}

/// The form that was chosen before, else the one that should be fastest; the others are alternatives to be measured, unless a sparse
/// one is faster beyond doubt.
pub(super) fn sparse_or_dense(
    at: &Lowering<'_>,
    cycles: &Cycles,
    sparse: impl Fn(&'static str) -> Option<Lowered>,
    dense: impl FnOnce() -> Option<Lowered>,
) -> Option<Lowered> {
    match at.choice {
        Some(SPARSE) => return sparse(SPARSE),
        Some(BLOCKS) if cycles.blocks.is_finite() => return sparse(BLOCKS),
        Some(_) => return dense(),
        None => {}
    }
    let names = cycles.names();
    let best = sparse(names[0]);
    if best.is_some() && cycles.best() * CLEAR < cycles.dense {
        return best;
    }
    match (best, dense()) {
        (Some(mut best), Some(mut dense)) => {
            let algorithm = dense.kernel.algorithm();
            let faster = WINOGRAD.iter().find(|(name, _)| *name == algorithm).map_or(1.0, |w| w.1);
            if cycles.best() * MARGIN < cycles.dense / faster {
                best.alternatives.push(algorithm);
                best.alternatives.append(&mut dense.alternatives);
                best.alternatives.extend(&names[1..]);
                Some(best)
            } else {
                dense.alternatives.extend(names);
                Some(dense)
            }
        }
        (best, dense) => best.or(dense),
    }
}
