//! The grouped convolution, channel shuffle and grouped pointwise convolution nearest to a standard one.

use super::kernel::{Deviation, Kernel};
use super::low_rank::nearest;
use crate::{Error, Result};
use cnn_core::layers::{ChannelMap, Conv2d, ConvOptions};
use cnn_core::tensor::tensor;

/// What [`group_shuffle`] makes of a convolution of `m` filters.
#[derive(Debug, Clone)]
pub struct GroupShuffle {
    /// `[inner, n / groups, kh, kw]` in `groups` groups, with stride, padding and dilation of the original.
    pub grouped: Conv2d,
    /// The shuffle of its output channels.
    pub shuffle: ChannelMap,
    /// The mix of channels, `[m, inner / groups, 1, 1]` in `groups` groups, with the bias of the original.
    pub pointwise: Conv2d,
    /// `|W - W'| / |W|` in the Frobenius norm, `W'` being the standard convolution that the three amount to;
    /// 0 for `W = 0`.
    pub relative_error: f64,
}

/// The grouped convolution, channel shuffle and grouped pointwise convolution, `g` groups each, that together
/// are nearest, in least squares over the weights, to a standard convolution.
///
/// The shuffle (Zhang et al. 2018, section 3.1) hands each of the `g` groups of the pointwise convolution an
/// equal share of each of the `g` groups before it. So between input group `i` and output group `j` stand `q
/// = M' / g^2` channels of the `M'` inside, and the block `W_ji` of the weights, `M / g` filters by `(N / g)
/// K^2` elements, becomes a product of rank `q`,
///
/// ```text
/// W_ji ~ P_ji G_ji,    P_ji: M / g x q,    G_ji: q x (N / g) K^2.
/// ```
///
/// No weight is shared between blocks, so the best of all such forms is the best for each block: the first
/// `q` terms of its singular value decomposition (Eckart & Young 1936). Every output still depends on every
/// input, and it is exact if no block has a rank above `q`. `M'` is the multiple of `g^2` nearest to `inner
/// M`, at most the full rank. Weights and multiply-adds over those of the standard convolution:
///
/// ```text
/// (M' / M) / g + M' / (g N K^2),    for M' = M = N:    (1 + 1 / K^2) / g.
/// ```
///
/// # Errors
/// If the convolution has groups already or a kernel of 1 x 1, its channels do not divide into the groups,
/// `inner` is not positive, a parameter carries a constraint, or a weight is not finite.
///
/// ```
/// use cnn_core::layers::{Conv2d, ConvOptions};
/// let weight = cnn_core::init::Init::new(0).he(&[16, 8, 3, 3])?;
/// let conv = Conv2d::new(weight, None, ConvOptions::default().pad(1))?;
/// let light = cnn_lightweight::group_shuffle(&conv, 2, 1.0)?;
/// assert_eq!(light.grouped.weight().shape(), [16, 4, 3, 3]);
/// assert_eq!(light.pointwise.weight().shape(), [16, 8, 1, 1]);
/// // four of eight terms keep more than half of the energy
/// assert!(light.relative_error < 0.5f64.sqrt());
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn group_shuffle(conv: &Conv2d, groups: usize, inner: f64) -> Result<GroupShuffle> {
    let kernel = Kernel::of(conv)?;
    if let Some(why) = does_not_divide(conv, groups) {
        return Err(Error::NotReplaceable(why));
    }
    if !(inner > 0.0 && inner.is_finite()) {
        return Err(Error::NotReplaceable(format!("{inner} times as many channels inside")));
    }
    let (m, n, taps) = (kernel.m, kernel.n, kernel.taps);
    let width = inner_channels(conv, groups, inner);
    let (q, m_part, n_part) = (width / (groups * groups), m / groups, n / groups);
    let (columns, pointwise_inputs) = (n_part * taps, width / groups);
    let (mut grouped, mut pointwise) = (vec![0f32; width * columns], vec![0f32; m * pointwise_inputs]);
    let mut deviation = Deviation::default();
    for j in 0..groups {
        for i in 0..groups {
            let block = kernel.matrix(j * m_part..(j + 1) * m_part, i * n_part..(i + 1) * n_part);
            let factors = nearest(&block, q)?;
            deviation.add(&block, &(&factors.left * &factors.right));
            for term in 0..q {
                // position j q + term of group i is what the shuffle puts at position term g + i of group j
                let filter = i * pointwise_inputs + j * q + term;
                for (to, &value) in grouped[filter * columns..].iter_mut().zip(factors.right.row(term).iter())
                {
                    *to = value as f32;
                }
                for row in 0..m_part {
                    pointwise[(j * m_part + row) * pointwise_inputs + term * groups + i] =
                        factors.left[(row, term)] as f32;
                }
            }
        }
    }
    let [kh, kw] = conv.kernel();
    let bias = conv.bias().map(|b| b.value().clone());
    let grouped = tensor(&[width, n_part, kh, kw], grouped)?;
    let pointwise = tensor(&[m, pointwise_inputs, 1, 1], pointwise)?;
    Ok(GroupShuffle {
        grouped: Conv2d::new(grouped, None, ConvOptions { groups, ..conv.options })?,
        shuffle: ChannelMap::shuffle(width, groups)?,
        pointwise: Conv2d::new(pointwise, bias, ConvOptions::default().groups(groups))?,
        relative_error: deviation.relative(),
    })
}

/// Why the channels do not divide into the groups, if they do not.
pub(crate) fn does_not_divide(conv: &Conv2d, groups: usize) -> Option<String> {
    let (m, n) = (conv.filters(), conv.channels_in());
    let divides = groups >= 2 && m.is_multiple_of(groups) && n.is_multiple_of(groups);
    (!divides).then(|| format!("{n} input channels and {m} filters for {groups} groups"))
}

/// `M'`: the multiple of `g^2` nearest to `inner M`, with at least one channel between each two groups and no
/// more than the rank of a block. The channels must divide into the groups.
fn inner_channels(conv: &Conv2d, groups: usize, inner: f64) -> usize {
    let [kh, kw] = conv.kernel();
    let (m, n) = (conv.filters(), conv.channels_in());
    let full = (m / groups).min((n / groups).saturating_mul(kh * kw));
    let pairs = groups.saturating_mul(groups);
    let q = (inner * m as f64 / pairs as f64).round() as usize;
    q.clamp(1, full.max(1)).saturating_mul(pairs)
}

#[cfg(test)]
mod tests {
    use super::super::separable::tests::{conv, frozen};
    use super::*;
    use cnn_core::Graph;
    use cnn_core::init::Init;
    use cnn_core::tensor::Tensor;
    use cnn_core::testing::difference;
    use proptest::prelude::*;

    /// What the three amount to, by the response to single channels and pixels.
    fn infer(light: &GroupShuffle, image: &Tensor) -> Tensor {
        let mut graph = Graph::new(&image.shape()[1..]);
        graph.push("grouped", light.grouped.clone()).unwrap();
        graph.push("shuffle", light.shuffle.clone()).unwrap();
        graph.push("pointwise", light.pointwise.clone()).unwrap();
        graph.infer(image).unwrap()
    }

    fn infer_standard(conv: &Conv2d, image: &Tensor) -> Tensor {
        let mut graph = Graph::new(&image.shape()[1..]);
        graph.push("conv", conv.clone()).unwrap();
        graph.infer(image).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// With as many channels inside as the blocks have ranks nothing is lost, whatever stride and
        /// padding.
        #[test]
        fn at_full_rank_it_is_the_convolution(
            seed: u64, groups in 2usize..4, m in 1usize..4, n in 1usize..4, k in 2usize..4,
            stride in 1usize..3, pad in 0usize..3,
        ) {
            let options = ConvOptions::default().stride(stride).pad(pad);
            let weight = Init::new(seed).normal(&[m * groups, n * groups, k, k], 1.0).unwrap();
            let original = conv(weight, options);
            let light = group_shuffle(&original, groups, 1e6).unwrap();
            prop_assert!(light.relative_error < 1e-6, "{}", light.relative_error);
            let image = Init::new(9).normal(&[2, n * groups, 8, 7], 1.0).unwrap();
            prop_assert!(difference(&infer(&light, &image), &infer_standard(&original, &image)) < 1e-5);
        }

        /// The reported error is that of the weights, seen through pixels: a single bright pixel of a channel
        /// shows the kernel.
        #[test]
        fn the_reported_error_is_that_of_the_weights(seed: u64, groups in 2usize..4, k in 2usize..4) {
            let (m, n) = (2 * groups, 2 * groups);
            let weight = Init::new(seed).normal(&[m, n, k, k], 1.0).unwrap();
            let original = Conv2d::new(weight, None, ConvOptions::default().pad(k - 1)).unwrap();
            let light = group_shuffle(&original, groups, 0.5).unwrap();
            let (mut lost, mut whole) = (0f64, 0f64);
            for channel in 0..n {
                let mut image = cnn_core::tensor::zeros(&[1, n, 1, 1]);
                image[[0, channel, 0, 0]] = 1.0;
                let (a, b) = (infer_standard(&original, &image), infer(&light, &image));
                for (&a, &b) in a.iter().zip(&b) {
                    lost += f64::from(a - b).powi(2);
                    whole += f64::from(a).powi(2);
                }
            }
            prop_assert!((light.relative_error - (lost / whole).sqrt()).abs() < 1e-5);
            prop_assert!(light.relative_error < 1.0);
        }
    }

    #[test]
    fn more_channels_inside_are_nearer() {
        let original = conv(Init::new(3).normal(&[32, 16, 3, 3], 1.0).unwrap(), ConvOptions::default());
        let errors =
            [0.25, 0.5, 1.0, 2.0].map(|inner| group_shuffle(&original, 2, inner).unwrap().relative_error);
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
    }

    #[test]
    fn what_does_not_suit_is_refused() {
        let weight = |shape: &[usize]| Init::new(0).he(shape).unwrap();
        let plain = conv(weight(&[6, 6, 3, 3]), ConvOptions::default());
        for (groups, inner) in [(0, 1.0), (1, 1.0), (4, 1.0), (2, 0.0), (2, f64::NAN), (2, f64::INFINITY)] {
            assert!(matches!(group_shuffle(&plain, groups, inner), Err(Error::NotReplaceable(_))));
        }
        let grouped = conv(weight(&[6, 3, 3, 3]), ConvOptions::default().groups(2));
        assert!(
            matches!(group_shuffle(&grouped, 2, 1.0), Err(Error::NotReplaceable(why)) if why == "2 groups")
        );
        let constrained = group_shuffle(&frozen(plain), 2, 1.0);
        assert!(matches!(constrained, Err(Error::Constrained(kind)) if kind == "test.frozen"));
    }
}
