//! The depthwise separable convolution nearest to a standard one.

use super::kernel::{Deviation, Kernel};
use super::low_rank::nearest;
use crate::{Error, Result};
use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::tensor::tensor;

/// What [`separable`] makes of a convolution.
#[derive(Debug, Clone)]
pub struct Separable {
    /// `r` filters for each of the `n` input channels, `[n r, 1, kh, kw]`, with stride, padding and dilation
    /// of the original.
    pub depthwise: Conv2d,
    /// The mix of channels, `[m, n r, 1, 1]`, with the bias of the original.
    pub pointwise: Conv2d,
    /// `|W - W'| / |W|` in the Frobenius norm, `W'` being the standard convolution that the two amount to; 0
    /// for `W = 0`.
    pub relative_error: f64,
}

/// The depthwise and the pointwise convolution that together are nearest, in least squares over the weights,
/// to a standard one, with `r = multiplier` depthwise filters for each input channel.
///
/// Depthwise `d` and pointwise `p` amount to the standard convolution
///
/// ```text
/// W'[m, n, k] = sum_{i=1..r} p[m, (n, i)] d[(n, i), k],
/// ```
///
/// `k` running over the `K^2` elements of the kernel. Input channels are independent of each other: for each,
/// `W[., n, .]` is a matrix of `M x K^2`, and the sum is any matrix of rank `r`. The nearest one is the first
/// `r` terms of the singular value decomposition, `sum_i sigma_i u_i v_i^T` (Eckart & Young 1936); here `d_i
/// = sqrt(sigma_i) v_i` and `p_i = sqrt(sigma_i) u_i`, so that both train alike. With `r = 1` it is exact if
/// the convolution was separable, with `r = min(M, K^2)`, the most that is used, always. No nonlinearity
/// stands between the two. Weights and multiply-adds over those of the standard convolution: `r (1 / M + 1 /
/// K^2)`.
///
/// # Errors
/// If the convolution has groups or a kernel of 1 x 1, `multiplier` is 0, a parameter carries a constraint,
/// or a weight is not finite.
///
/// ```
/// use cnn_core::layers::{Conv2d, ConvOptions};
/// let weight = cnn_core::init::Init::new(0).he(&[16, 8, 3, 3])?;
/// let conv = Conv2d::new(weight, None, ConvOptions::default().pad(1))?;
/// let pair = cnn_lightweight::separable(&conv, 1)?;
/// assert_eq!(pair.depthwise.weight().len() + pair.pointwise.weight().len(), 8 * 9 + 16 * 8);
/// assert!(pair.relative_error > 0.5 && pair.relative_error < 1.0); // random filters are far from separable
/// assert!(cnn_lightweight::separable(&conv, 3)?.relative_error < pair.relative_error);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn separable(conv: &Conv2d, multiplier: usize) -> Result<Separable> {
    let kernel = Kernel::of(conv)?;
    if multiplier == 0 {
        return Err(Error::NotReplaceable("no depthwise filter a channel".to_string()));
    }
    let (m, n, taps) = (kernel.m, kernel.n, kernel.taps);
    let r = multiplier.min(m).min(taps);
    let (mut d, mut p) = (vec![0f32; n * r * taps], vec![0f32; m * n * r]);
    let mut deviation = Deviation::default();
    for channel in 0..n {
        let matrix = kernel.matrix(0..m, channel..channel + 1);
        let factors = nearest(&matrix, r)?;
        deviation.add(&matrix, &(&factors.left * &factors.right));
        for term in 0..r {
            let filter = channel * r + term;
            for (to, &value) in d[filter * taps..].iter_mut().zip(factors.right.row(term).iter()) {
                *to = value as f32;
            }
            for (f, &value) in factors.left.column(term).iter().enumerate() {
                p[f * n * r + filter] = value as f32;
            }
        }
    }
    let [kh, kw] = conv.kernel();
    let bias = conv.bias().map(|b| b.value().clone());
    let (d, p) = (tensor(&[n * r, 1, kh, kw], d)?, tensor(&[m, n * r, 1, 1], p)?);
    Ok(Separable {
        depthwise: Conv2d::new(d, None, ConvOptions { groups: n, ..conv.options })?,
        pointwise: Conv2d::new(p, bias, ConvOptions::default())?,
        relative_error: deviation.relative(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use cnn_core::init::Init;
    use cnn_core::tensor::Tensor;
    use cnn_core::testing::difference;
    use cnn_core::{Constraint, Graph, model_file::Encoder};
    use proptest::prelude::*;

    pub fn conv(weight: Tensor, options: ConvOptions) -> Conv2d {
        let m = weight.shape()[0];
        let bias = Tensor::from_shape_fn(ndarray::IxDyn(&[m]), |i| i[0] as f32 * 0.1);
        Conv2d::new(weight, Some(bias), options).unwrap()
    }

    fn outputs(pair: Separable, original: Conv2d, shape: [usize; 3]) -> (Tensor, Tensor) {
        let image = Init::new(9).normal(&[2, shape[0], shape[1], shape[2]], 1.0).unwrap();
        let mut standard = Graph::new(&shape);
        standard.push("conv", original).unwrap();
        let mut light = Graph::new(&shape);
        light.push("depthwise", pair.depthwise).unwrap();
        light.push("pointwise", pair.pointwise).unwrap();
        (light.infer(&image).unwrap(), standard.infer(&image).unwrap())
    }

    /// A standard convolution that is separable.
    fn separable_weight(m: usize, n: usize, kh: usize, kw: usize, seed: u64) -> Tensor {
        let mut init = Init::new(seed);
        let (p, d) = (init.normal(&[m, n], 1.0).unwrap(), init.normal(&[n, kh, kw], 1.0).unwrap());
        Tensor::from_shape_fn(ndarray::IxDyn(&[m, n, kh, kw]), |i| p[[i[0], i[1]]] * d[[i[1], i[2], i[3]]])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_separable_convolution_is_recovered(
            seed: u64, m in 1usize..9, n in 1usize..5, kh in 1usize..4, kw in 2usize..6,
            stride in 1usize..3, pad in 0usize..3,
        ) {
            let options = ConvOptions::default().stride(stride).pad(pad);
            let original = conv(separable_weight(m, n, kh, kw, seed), options);
            let pair = separable(&original, 1).unwrap();
            prop_assert!(pair.relative_error < 1e-6, "{}", pair.relative_error);
            let (light, standard) = outputs(pair, original, [n, 9, 8]);
            prop_assert!(difference(&light, &standard) < 1e-5);
        }

        /// No other pair is nearer: the gradient of the error vanishes, and random ones are not better.
        #[test]
        fn it_is_the_nearest_pair(seed: u64, m in 1usize..8, n in 1usize..4, k in 2usize..4) {
            let mut init = Init::new(seed);
            let w = init.normal(&[m, n, k, k], 1.0).unwrap();
            let pair = separable(&conv(w.clone(), ConvOptions::default()), 1).unwrap();
            let (d, p) = (pair.depthwise.weight().value().clone(), pair.pointwise.weight().value().clone());
            let error = |d: &Tensor, p: &Tensor| -> f64 {
                w.indexed_iter()
                    .map(|(i, &w)| {
                        let (p, d) = (p[[i[0], i[1], 0, 0]], d[[i[1], 0, i[2], i[3]]]);
                        (f64::from(w) - f64::from(p) * f64::from(d)).powi(2)
                    })
                    .sum()
            };
            let norm: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
            let best = error(&d, &p);
            prop_assert!((pair.relative_error - (best / norm).sqrt()).abs() < 1e-9);
            for _ in 0..20 {
                let (dd, pp) = (init.normal(d.shape(), 0.05).unwrap(), init.normal(p.shape(), 0.05).unwrap());
                prop_assert!(error(&(&d + &dd), &(&p + &pp)) >= best * (1.0 - 1e-6));
            }
            // rank 1 keeps at least an equal share of the energy of each channel
            let rank = m.min(k * k) as f64;
            prop_assert!(best <= norm * (1.0 - 1.0 / rank) + 1e-6 * norm);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// What rank `r` leaves out of each channel is the energy of its further singular values.
        #[test]
        fn several_filters_a_channel_are_the_truncated_svd(
            seed: u64, m in 2usize..8, n in 1usize..4, k in 2usize..4, r in 2usize..10,
        ) {
            let w = Init::new(seed).normal(&[m, n, k, k], 1.0).unwrap();
            let original = conv(w.clone(), ConvOptions::default().pad(1));
            let pair = separable(&original, r).unwrap();
            let used = r.min(m).min(k * k);
            prop_assert_eq!(pair.depthwise.filters(), n * used);
            let mut lost = 0f64;
            for c in 0..n {
                let slice = nalgebra::DMatrix::from_fn(m, k * k, |f, t| f64::from(w[[f, c, t / k, t % k]]));
                let mut sigma: Vec<f64> = slice.singular_values().iter().copied().collect();
                sigma.sort_by(|a, b| b.total_cmp(a));
                lost += sigma[used..].iter().map(|s| s * s).sum::<f64>();
            }
            let norm: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
            prop_assert!((pair.relative_error - (lost / norm).sqrt()).abs() < 1e-6);
            if used == m.min(k * k) {
                let (light, standard) = outputs(pair, original, [n, 9, 8]);
                prop_assert!(difference(&light, &standard) < 1e-5);
            }
        }
    }

    #[test]
    fn zeros_stay_trainable() {
        let pair =
            separable(&conv(cnn_core::tensor::zeros(&[4, 2, 3, 3]), ConvOptions::default()), 1).unwrap();
        assert_eq!(pair.relative_error, 0.0);
        assert_eq!(pair.pointwise.weight().nonzeros(), 0);
        assert_eq!(pair.depthwise.weight().nonzeros(), 2);
    }

    #[derive(Debug, Clone)]
    struct Frozen;

    impl Constraint for Frozen {
        fn kind(&self) -> &'static str {
            "test.frozen"
        }
        fn materialize(&self, _w: &mut Tensor) {}
        fn pull_back(&mut self, _input: &Tensor, _grad: &mut Tensor) {}
        fn select(&mut self, _axis: usize, _keep: &[usize]) -> cnn_core::Result<()> {
            Ok(())
        }
        fn encode(&self, _out: &mut Encoder) -> cnn_core::Result<()> {
            Ok(())
        }
        fn clone_box(&self) -> Box<dyn Constraint> {
            Box::new(self.clone())
        }
    }

    /// The same convolution under a constraint.
    pub fn frozen(mut conv: Conv2d) -> Conv2d {
        conv.weight_mut().constrain(Box::new(Frozen));
        conv
    }

    #[test]
    fn what_does_not_suit_is_refused() {
        let weight = |shape: &[usize]| Init::new(0).he(shape).unwrap();
        let grouped = conv(weight(&[4, 2, 3, 3]), ConvOptions::default().groups(2));
        assert!(
            matches!(separable(&grouped, 1), Err(Error::NotReplaceable(why)) if why.contains("2 groups"))
        );
        let point = conv(weight(&[4, 2, 1, 1]), ConvOptions::default());
        assert!(matches!(separable(&point, 1), Err(Error::NotReplaceable(_))));
        let plain = conv(weight(&[4, 2, 3, 3]), ConvOptions::default());
        assert!(matches!(separable(&plain, 0), Err(Error::NotReplaceable(_))));
        let constrained = frozen(plain);
        assert!(matches!(separable(&constrained, 1), Err(Error::Constrained(kind)) if kind == "test.frozen"));
        let mut broken = weight(&[4, 2, 3, 3]);
        broken[[1, 1, 1, 1]] = f32::NAN;
        assert!(matches!(separable(&conv(broken, ConvOptions::default()), 1), Err(Error::NotFinite)));
    }
}
