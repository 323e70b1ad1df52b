//! The expanding, depthwise and projecting convolutions nearest to a standard one.

use super::separable::separable;
use crate::Result;
use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::tensor::zeros;

/// What [`inverted_residual`] makes of a convolution of `m` filters that reads `n` channels.
#[derive(Debug, Clone)]
pub struct InvertedResidual {
    /// Copies of the channels, `[t n, n, 1, 1]`.
    pub expand: Conv2d,
    /// One filter for each copy, `[t n, 1, kh, kw]`, with stride, padding and dilation of the original.
    pub depthwise: Conv2d,
    /// The mix of channels, `[m, t n, 1, 1]`, with the bias of the original.
    pub project: Conv2d,
    /// `|W - W'| / |W|` in the Frobenius norm, `W'` being the standard convolution that the three amount to;
    /// 0 for `W = 0`.
    pub relative_error: f64,
}

/// The inverted residual block (Sandler et al. 2018, section 3.3) that starts as the depthwise separable
/// convolution with `t = expansion` filters a channel nearest to a standard one.
///
/// With the right and left singular vectors `d_n1 ... d_nt` and `p_n1 ... p_nt` of [`separable`], channel `n`
/// is copied `t` times, copy `i` goes through the depthwise filter `d_ni`, and the projection is `p_ni`:
///
/// ```text
/// W'[m, n, k] = sum_e P[m, e] D[e, k] E[e, n],    e = (n', i),  E[(n', i), n] = 1 if n' = n, else 0.
/// ```
///
/// What it has over [`separable`] is the expansion, which learns to mix the channels before the depthwise
/// filters; a rectifier may stand behind it, and changes nothing at first where no input is negative. `t`
/// is at most the rank that there is, `min(M, K^2)`. Weights over those of the standard convolution, at
/// stride 1 the multiply-adds too:
///
/// ```text
/// t (N + K^2 + M) / (K^2 M),    for N = M:    t (2 / K^2 + 1 / M).
/// ```
///
/// The shortcut of the paper's block is none of the three: a network that has one around the convolution
/// keeps it.
///
/// # Errors
/// As [`separable`].
///
/// ```
/// use cnn_core::layers::{Conv2d, ConvOptions};
/// let weight = cnn_core::init::Init::new(0).he(&[16, 8, 3, 3])?;
/// let conv = Conv2d::new(weight, None, ConvOptions::default().pad(1))?;
/// let block = cnn_lightweight::inverted_residual(&conv, 2)?;
/// assert_eq!(block.expand.weight().shape(), [16, 8, 1, 1]);
/// assert!(block.depthwise.is_depthwise() && block.depthwise.filters() == 16);
/// assert_eq!(block.relative_error, cnn_lightweight::separable(&conv, 2)?.relative_error);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn inverted_residual(conv: &Conv2d, expansion: usize) -> Result<InvertedResidual> {
    let start = separable(conv, expansion)?;
    let (n, copies) = (conv.channels_in(), start.depthwise.filters());
    let mut copy = zeros(&[copies, n, 1, 1]);
    for e in 0..copies {
        copy[[e, e / (copies / n), 0, 0]] = 1.0;
    }
    let filters = start.depthwise.weight().value().clone();
    Ok(InvertedResidual {
        expand: Conv2d::new(copy, None, ConvOptions::default())?,
        depthwise: Conv2d::new(filters, None, ConvOptions { groups: copies, ..conv.options })?,
        project: start.pointwise,
        relative_error: start.relative_error,
    })
}

#[cfg(test)]
mod tests {
    use super::super::separable::tests::conv;
    use super::*;
    use cnn_core::init::Init;
    use cnn_core::testing::difference;
    use cnn_core::{Graph, Layer};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn it_starts_as_the_separable_form(
            seed: u64, m in 1usize..9, n in 1usize..5, k in 2usize..4, t in 1usize..6,
            stride in 1usize..3, pad in 0usize..3,
        ) {
            let options = ConvOptions::default().stride(stride).pad(pad);
            let original = conv(Init::new(seed).normal(&[m, n, k, k], 1.0).unwrap(), options);
            let block = inverted_residual(&original, t).unwrap();
            let pair = separable(&original, t).unwrap();
            let image = Init::new(9).normal(&[2, n, 9, 8], 1.0).unwrap();
            let run = |layers: Vec<Conv2d>| {
                let mut graph = Graph::new(&[n, 9, 8]);
                for (at, layer) in layers.into_iter().enumerate() {
                    graph.push(&at.to_string(), layer).unwrap();
                }
                graph.infer(&image).unwrap()
            };
            let light = run(vec![block.expand, block.depthwise, block.project]);
            prop_assert!(difference(&light, &run(vec![pair.depthwise, pair.pointwise])) < 1e-5);
            if t >= m.min(k * k) {
                prop_assert!(block.relative_error < 1e-6);
                prop_assert!(difference(&light, &original.infer(&[&image]).unwrap()) < 1e-5);
            }
        }
    }
}
