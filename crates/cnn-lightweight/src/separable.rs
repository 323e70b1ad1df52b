//! The depthwise separable convolution nearest to a standard one.

use crate::{Error, Result};
use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::tensor::{slice, tensor};

/// What [`separable`] makes of a convolution.
#[derive(Debug, Clone)]
pub struct Separable {
    /// One filter for each of the `n` input channels, `[n, 1, kh, kw]`, with stride, padding and dilation of
    /// the original.
    pub depthwise: Conv2d,
    /// The mix of channels, `[m, n, 1, 1]`, with the bias of the original.
    pub pointwise: Conv2d,
    /// `|W - W'| / |W|` in the Frobenius norm, `W'` being the standard convolution that the two amount to; 0
    /// for `W = 0`.
    pub relative_error: f64,
}

/// The depthwise and the pointwise convolution that together are nearest, in least squares over the weights,
/// to a standard one.
///
/// Depthwise `d` and pointwise `p` amount to the standard convolution `W'[m, n, k] = p[m, n] d[n, k]`, `k`
/// running over the `K^2` elements of the kernel. Input channels are independent of each other: for each,
/// `W[., n, .]` is a matrix of `M x K^2`, and `p[., n] d[n, .]` is any matrix of rank 1. The nearest one is
/// the first term of the singular value decomposition, `sigma u v^T` (Eckart & Young 1936); here `d =
/// sqrt(sigma) v` and `p = sqrt(sigma) u`, so that both train alike. It is exact if the convolution was
/// separable. No nonlinearity stands between the two.
///
/// # Errors
/// If the convolution has groups or a kernel of 1 x 1, a parameter carries a constraint, or a weight is not
/// finite.
///
/// ```
/// use cnn_core::layers::{Conv2d, ConvOptions};
/// let weight = cnn_core::init::Init::new(0).he(&[16, 8, 3, 3])?;
/// let pair = cnn_lightweight::separable(&Conv2d::new(weight, None, ConvOptions::default().pad(1))?)?;
/// assert_eq!(pair.depthwise.weight().len() + pair.pointwise.weight().len(), 8 * 9 + 16 * 8);
/// assert!(pair.relative_error > 0.5 && pair.relative_error < 1.0); // random filters are far from separable
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn separable(conv: &Conv2d) -> Result<Separable> {
    let [kh, kw] = conv.kernel();
    if conv.options.groups != 1 {
        return Err(Error::NotReplaceable(format!("{} groups", conv.options.groups)));
    }
    if [kh, kw] == [1, 1] {
        return Err(Error::NotReplaceable("a kernel of 1 x 1".to_string()));
    }
    for param in [Some(conv.weight()), conv.bias()].into_iter().flatten() {
        if let Some(constraint) = param.constraints().first() {
            return Err(Error::Constrained(constraint.kind().to_string()));
        }
        if !param.value().iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite);
        }
    }

    let (m, n, taps) = (conv.filters(), conv.channels_in(), kh * kw);
    let weights = slice(conv.weight().value())?;
    let (mut d, mut p) = (vec![0f32; n * taps], vec![0f32; m * n]);
    let (mut lost, mut whole) = (0f64, 0f64);
    for channel in 0..n {
        // the rows of the matrix of M x K^2
        let rows: Vec<Vec<f64>> = (0..m)
            .map(|f| weights[(f * n + channel) * taps..][..taps].iter().map(|&w| f64::from(w)).collect())
            .collect();
        let (left, right) = rank_one(&rows, taps);
        for (to, &value) in d[channel * taps..].iter_mut().zip(&right) {
            *to = value as f32;
        }
        for (f, (row, &value)) in rows.iter().zip(&left).enumerate() {
            p[f * n + channel] = value as f32;
            // of the weights as they are stored, rounded to single precision
            let kept = d[channel * taps..][..taps].iter().map(|&v| f64::from(v) * f64::from(value as f32));
            lost += row.iter().zip(kept).map(|(w, k)| (w - k).powi(2)).sum::<f64>();
            whole += row.iter().map(|w| w * w).sum::<f64>();
        }
    }
    let depthwise =
        Conv2d::new(tensor(&[n, 1, kh, kw], d)?, None, ConvOptions { groups: n, ..conv.options })?;
    let bias = conv.bias().map(|b| b.value().clone());
    let pointwise = Conv2d::new(tensor(&[m, n, 1, 1], p)?, bias, ConvOptions::default())?;
    let relative_error = if whole > 0.0 { (lost / whole).sqrt() } else { 0.0 };
    Ok(Separable { depthwise, pointwise, relative_error })
}

/// `(sqrt(sigma) u, sqrt(sigma) v)` of the first singular value of a matrix, given by its rows of `columns`
/// elements. The largest element of `v` is positive. A matrix of zeros gives `u = 0` and a filter that passes
/// its middle element, which still trains.
fn rank_one(rows: &[Vec<f64>], columns: usize) -> (Vec<f64>, Vec<f64>) {
    let largest = rows.iter().flatten().fold(0f64, |a, &b| a.max(b.abs()));
    if largest == 0.0 {
        let mut v = vec![0.0; columns];
        v[columns / 2] = 1.0;
        return (vec![0.0; rows.len()], v);
    }
    // G = A^T A, scaled so that squares do not underflow
    let mut gram = vec![0f64; columns * columns];
    for row in rows {
        for (i, &a) in row.iter().enumerate() {
            for (j, &b) in row.iter().enumerate() {
                gram[i * columns + j] += (a / largest) * (b / largest);
            }
        }
    }
    let v = dominant(gram, columns);
    let product: Vec<f64> = rows.iter().map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum()).collect();
    let sigma = product.iter().map(|p| p * p).sum::<f64>().sqrt();
    let root = sigma.sqrt();
    (product.iter().map(|p| p / root).collect(), v.iter().map(|v| v * root).collect())
}

/// The unit eigenvector of the largest eigenvalue of a positive semidefinite matrix that is not zero.
///
/// Power iteration with all starting vectors at once, by squaring the matrix: after `j` squarings the powers
/// are `2^j`, so that a gap of one part in a billion between the eigenvalues is enough, and no start can be
/// orthogonal to what is sought.
fn dominant(mut power: Vec<f64>, size: usize) -> Vec<f64> {
    const SQUARINGS: usize = 30;
    let at = |i: usize, j: usize| i * size + j;
    for step in 0..=SQUARINGS {
        let trace: f64 = (0..size).map(|i| power[at(i, i)]).sum();
        power.iter_mut().for_each(|v| *v /= trace);
        // the trace of the square tells how near to rank 1 the matrix is
        let square_trace: f64 = power.iter().map(|v| v * v).sum();
        if step == SQUARINGS || 1.0 - square_trace < 1e-15 {
            break;
        }
        let mut squared = vec![0f64; size * size];
        for i in 0..size {
            for k in 0..size {
                let factor = power[at(i, k)];
                for j in 0..size {
                    squared[at(i, j)] += factor * power[at(k, j)];
                }
            }
        }
        power = squared;
    }
    let diagonal = |i: &usize| power[at(*i, *i)];
    // the first of equals
    let pivot = (0..size).rev().max_by(|a, b| diagonal(a).total_cmp(&diagonal(b))).unwrap_or(0);
    let column: Vec<f64> = (0..size).map(|i| power[at(i, pivot)]).collect();
    let norm = column.iter().map(|v| v * v).sum::<f64>().sqrt();
    column.iter().map(|v| v / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::init::Init;
    use cnn_core::tensor::{Tensor, relative_error};
    use cnn_core::{Constraint, Graph, model_file::Encoder};
    use proptest::prelude::*;

    fn conv(weight: Tensor, options: ConvOptions) -> Conv2d {
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
            let pair = separable(&original).unwrap();
            prop_assert!(pair.relative_error < 1e-6, "{}", pair.relative_error);
            let (light, standard) = outputs(pair, original, [n, 9, 8]);
            prop_assert!(relative_error(&light, &standard) < 1e-5);
        }

        /// No other pair is nearer: the gradient of the error vanishes, and random ones are not better.
        #[test]
        fn it_is_the_nearest_pair(seed: u64, m in 1usize..8, n in 1usize..4, k in 2usize..4) {
            let mut init = Init::new(seed);
            let w = init.normal(&[m, n, k, k], 1.0).unwrap();
            let pair = separable(&conv(w.clone(), ConvOptions::default())).unwrap();
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

    #[test]
    fn a_matrix_whose_largest_row_is_orthogonal_to_the_answer() {
        // sigma = 0.9 sqrt(2) along (0, 1); power iteration from the largest row would stay at (1, 0)
        let rows = vec![vec![1.0, 0.0], vec![0.0, 0.9], vec![0.0, 0.9]];
        let (u, v) = rank_one(&rows, 2);
        assert!(u[0].abs() < 1e-12 && v[0].abs() < 1e-12);
        assert!((u[1] * v[1] - 0.9).abs() < 1e-12);
    }

    #[test]
    fn equal_singular_values_and_tiny_weights_are_no_trouble() {
        let (u, v) = rank_one(&[vec![1e-30, 0.0], vec![0.0, 1e-30]], 2);
        let energy: f64 = u.iter().flat_map(|u| v.iter().map(move |v| (u * v).powi(2))).sum();
        assert!((energy / 1e-60 - 1.0).abs() < 1e-9, "{energy}");
    }

    #[test]
    fn zeros_stay_trainable() {
        let pair = separable(&conv(cnn_core::tensor::zeros(&[4, 2, 3, 3]), ConvOptions::default())).unwrap();
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

    #[test]
    fn what_does_not_suit_is_refused() {
        let weight = |shape: &[usize]| Init::new(0).he(shape).unwrap();
        let grouped = conv(weight(&[4, 2, 3, 3]), ConvOptions::default().groups(2));
        assert!(matches!(separable(&grouped), Err(Error::NotReplaceable(why)) if why.contains("2 groups")));
        let point = conv(weight(&[4, 2, 1, 1]), ConvOptions::default());
        assert!(matches!(separable(&point), Err(Error::NotReplaceable(_))));
        let mut constrained = conv(weight(&[4, 2, 3, 3]), ConvOptions::default());
        constrained.weight_mut().constrain(Box::new(Frozen));
        assert!(matches!(separable(&constrained), Err(Error::Constrained(kind)) if kind == "test.frozen"));
        let mut broken = weight(&[4, 2, 3, 3]);
        broken[[1, 1, 1, 1]] = f32::NAN;
        assert!(matches!(separable(&conv(broken, ConvOptions::default())), Err(Error::NotFinite)));
    }
}
