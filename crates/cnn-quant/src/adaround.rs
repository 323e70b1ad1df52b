//! Rounding of weights that the outputs of a layer decide (Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training
//! Quantization").

use crate::error::Error;
use crate::grid::Grid;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::tensor::{slice, tensor};
use cnn_core::{Layer, Result, Tensor};
use ndarray::{Array2, ArrayView1, Axis, s};
use rayon::prelude::*;

/// Windows of inputs that the sums are taken over, for each image of a batch of [`crate::observer`].
pub const WINDOWS: usize = 32;

/// Part of the mean of the diagonal that is added to it: directions that the sample hardly shows are not trusted.
const RIDGE: f64 = 0.01;

/// Sweeps over the weights of a row at most; most rows need fewer.
const SWEEPS: usize = 20;

/// What a layer's rounding is to keep: sums over windows `x` of its input in the original network and `x'`, the same in the network that is
/// quantized up to there, on the grid of the input. For each group of channels.
#[derive(Debug)]
pub struct Sums {
    /// `x' x'^T`.
    after: Vec<Array2<f64>>,
    /// `x x'^T`.
    both: Vec<Array2<f64>>,
    /// Sums of `x` and of `x'`, and how many.
    means: Vec<[Vec<f64>; 2]>,
    count: usize,
}

/// Groups of a layer, and the terms of an output.
fn sizes(layer: &dyn Layer) -> Option<(usize, usize)> {
    if let Some(conv) = layer.downcast_ref::<Conv2d>() {
        return Some((conv.options.groups, conv.weight().shape()[1..].iter().product()));
    }
    layer.downcast_ref::<Linear>().map(|linear| (1, linear.weight().shape()[1]))
}

impl Sums {
    /// None yet; `None` for a layer that is neither a convolution nor linear.
    pub fn new(layer: &dyn Layer) -> Option<Sums> {
        let (groups, terms) = sizes(layer)?;
        let zeros = || vec![Array2::zeros((terms, terms)); groups];
        let means = vec![[vec![0.0; terms], vec![0.0; terms]]; groups];
        Some(Sums { after: zeros(), both: zeros(), means, count: 0 })
    }

    /// Adds windows of a batch of inputs, `before` in the original network and `after` in the quantized one. Which windows depends on
    /// `seed` alone.
    ///
    /// # Errors
    /// If the inputs do not fit the layer.
    pub fn add(
        &mut self,
        layer: &dyn Layer,
        before: &Tensor,
        after: &Tensor,
        grid: Grid,
        seed: usize,
    ) -> Result<()> {
        let on_grid = after.mapv(|v| grid.round(v));
        for group in 0..self.after.len() {
            let x = windows(layer, before, group, seed)?;
            let y = windows(layer, &on_grid, group, seed)?;
            self.count += if group == 0 { x.nrows() } else { 0 };
            self.after[group] += &y.t().dot(&y).mapv(f64::from);
            self.both[group] += &x.t().dot(&y).mapv(f64::from);
            for (sums, x) in self.means[group].iter_mut().zip([x, y]) {
                sums.iter_mut().zip(x.sum_axis(Axis(0))).for_each(|(sum, x)| *sum += f64::from(x));
            }
        }
        Ok(())
    }

    /// The weights, each on one of the two points of its grid next to it, chosen by coordinate descent so that
    /// `sum (W x - W' x')^2` is small (eq. 20 of the paper, which relaxes the choice and descends the gradient); and the mean of
    /// `W' x' - W x` for each output.
    ///
    /// # Errors
    /// If there were no windows, or some values were not finite.
    pub fn round(&self, weight: &Tensor, grids: &[Grid]) -> Result<(Tensor, Vec<f64>)> {
        let rows = weight.shape()[0];
        let terms = weight.len() / rows.max(1);
        let each = (rows / self.after.len().max(1)).max(1);
        let finite = |m: &Array2<f64>| m.iter().all(|v| v.is_finite());
        if self.count == 0 || !self.after.iter().chain(&self.both).all(finite) {
            return Err(
                Error::NotFinite { what: "calibration activations", layer: "the layer".into() }.into()
            );
        }
        let n = self.count as f64;
        let with_ridge: Vec<(Array2<f64>, f64)> = self.after.iter().map(|h| with_ridge(h / n)).collect();
        let w = slice(weight)?;
        let done: Vec<(Vec<f32>, f64)> = (0..rows)
            .into_par_iter()
            .map(|row| {
                let group = row / each;
                let w: Vec<f64> = w[row * terms..][..terms].iter().map(|&w| f64::from(w)).collect();
                let w = ArrayView1::from(&w);
                let pull = w.dot(&self.both[group]) / n;
                // the ridge pulls towards the weight itself
                let (h, ridge) = &with_ridge[group];
                let rounded = descend(w, h, &(&pull + &(&w * *ridge)).to_vec(), grids[row]);
                let mean = |w: &dyn Fn(usize) -> f64, x: &[f64]| -> f64 {
                    x.iter().enumerate().map(|(i, x)| w(i) * x / n).sum()
                };
                let [x, y] = &self.means[group];
                let shift = mean(&|i| f64::from(rounded[i]), y) - mean(&|i| w[i], x);
                (rounded, shift)
            })
            .collect();
        let (values, shifts): (Vec<Vec<f32>>, Vec<f64>) = done.into_iter().unzip();
        Ok((tensor(weight.shape(), values.concat())?, shifts))
    }
}

/// The matrix with a part of its mean diagonal added to the diagonal, and what was added.
fn with_ridge(mut h: Array2<f64>) -> (Array2<f64>, f64) {
    let mean = h.diag().sum() / h.nrows().max(1) as f64;
    let ridge = RIDGE * mean.max(f64::MIN_POSITIVE);
    h.diag_mut().mapv_inplace(|d| d + ridge);
    (h, ridge)
}

/// Minimises `v^T H v - 2 b^T v` over `v`, each value one of the two points of the grid around the weight: one after the other changes sides
/// where that is less, until none does.
fn descend(w: ArrayView1<'_, f64>, h: &Array2<f64>, b: &[f64], grid: Grid) -> Vec<f32> {
    let (low, high) = (i32::from(grid.low), i32::from(grid.high));
    let step = f64::from(grid.step);
    let below = |w: f64| ((w / step).floor() as i32).clamp(low, high);
    let floors: Vec<i32> = w.iter().map(|&w| below(w)).collect();
    let mut levels: Vec<i32> = w.iter().map(|&w| i32::from(grid.level(w as f32))).collect();
    // H v - b, half the gradient
    let mut gradient: Vec<f64> = b.iter().map(|b| -b).collect();
    for (i, &level) in levels.iter().enumerate().filter(|(_, level)| **level != 0) {
        let value = step * f64::from(level);
        gradient.iter_mut().zip(h.slice(s![i, ..])).for_each(|(g, h)| *g += value * h);
    }
    for _ in 0..SWEEPS {
        let mut changed = false;
        for i in 0..levels.len() {
            let other = if levels[i] == floors[i] { (floors[i] + 1).min(high) } else { floors[i] };
            let move_by = step * f64::from(other - levels[i]);
            if 2.0 * move_by * gradient[i] + move_by * move_by * h[[i, i]] < 0.0 {
                levels[i] = other;
                gradient.iter_mut().zip(h.slice(s![i, ..])).for_each(|(g, h)| *g += move_by * h);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    levels.into_iter().map(|level| grid.value(level as i16)).collect()
}

/// Windows of a batch of inputs, one a row, for a group of channels: `c x kh x kw` values each.
fn windows(layer: &dyn Layer, x: &Tensor, group: usize, seed: usize) -> Result<Array2<f32>> {
    let values = slice(x)?;
    let Some(conv) = layer.downcast_ref::<Conv2d>() else {
        let features = x.shape().get(1).copied().unwrap_or(1);
        let rows = Array2::from_shape_vec((x.shape()[0], features), values.to_vec());
        return rows.map_err(|e| cnn_core::Error::Shape(e.to_string()));
    };
    let &[m, each, kh, kw] = conv.weight().shape() else {
        return Err(cnn_core::Error::Shape("filters have four sizes".into()));
    };
    let g = conv.options.geometry(x.shape(), m, [kh, kw])?;
    let pixels = g.out_h() * g.out_w();
    let count = pixels.min(WINDOWS);
    let mut rows = Array2::zeros((g.n * count, each * kh * kw));
    for (at, mut row) in rows.outer_iter_mut().enumerate() {
        let (image, i) = (at / count.max(1), at % count.max(1));
        // a stride without a common factor visits pixels in no order that an image has
        let pixel = if count == pixels { i } else { (i * 7919 + (seed + image) * 104_729) % pixels };
        let [top, left] = [pixel / g.out_w() * g.stride[0], pixel % g.out_w() * g.stride[1]];
        for (term, value) in row.iter_mut().enumerate() {
            let (c, tap) = (term / (kh * kw), term % (kh * kw));
            let y = (top + tap / kw * g.dilation[0]).checked_sub(g.pad[0]).filter(|y| *y < g.h);
            let x = (left + tap % kw * g.dilation[1]).checked_sub(g.pad[1]).filter(|x| *x < g.w);
            if let (Some(y), Some(x)) = (y, x) {
                *value = values[((image * g.c + group * each + c) * g.h + y) * g.w + x];
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::layers::ConvOptions;
    use proptest::prelude::*;

    fn loss(v: &[f32], h: &Array2<f64>, b: &[f64]) -> f64 {
        let v: Vec<f64> = v.iter().map(|&v| f64::from(v)).collect();
        let view = ArrayView1::from(&v);
        view.dot(&h.dot(&view)) - 2.0 * view.iter().zip(b).map(|(v, b)| v * b).sum::<f64>()
    }

    proptest! {
        /// Against all choices there are.
        #[test]
        fn no_single_change_is_better(seed in prop::collection::vec(-1f64..1.0, 36), w in prop::collection::vec(-1f64..1.0, 6)) {
            let a = Array2::from_shape_vec((6, 6), seed).unwrap();
            let (h, _) = with_ridge(a.t().dot(&a));
            let w = ArrayView1::from(&w);
            let b = w.dot(&h).to_vec();
            let grid = Grid::signed_bits(-1.0, 1.0, 3);
            let found = descend(w, &h, &b, grid);
            let nearest: Vec<f32> = w.iter().map(|&w| grid.round(w as f32)).collect();
            prop_assert!(loss(&found, &h, &b) <= loss(&nearest, &h, &b) + 1e-9);
            let choices = |i: usize| {
                let low = (w[i] / f64::from(grid.step)).floor() as i16;
                [low, low + 1].map(|l| grid.value(l.clamp(grid.low, grid.high)))
            };
            let mut best = f64::INFINITY;
            for bits in 0..64 {
                let v: Vec<f32> = (0..6).map(|i| choices(i)[bits >> i & 1]).collect();
                best = best.min(loss(&v, &h, &b));
                if bits.count_ones() == 1 {
                    let mut other = found.clone();
                    let i = bits.trailing_zeros() as usize;
                    other[i] = if found[i] == choices(i)[0] { choices(i)[1] } else { choices(i)[0] };
                    prop_assert!(loss(&found, &h, &b) <= loss(&other, &h, &b) + 1e-9);
                }
            }
            prop_assert!(best <= loss(&found, &h, &b) + 1e-9);
        }
    }

    #[test]
    fn outputs_are_nearer_than_by_rounding_to_the_nearest() {
        let numbers = |shape: &[usize], seed: usize| {
            let count = shape.iter().product::<usize>();
            let value = |i: usize| (((i + seed) * 2_654_435_761) >> 7 & 1023) as f32 / 512.0 - 0.9;
            tensor(shape, (0..count).map(value).collect()).unwrap()
        };
        for (groups, shape) in [(1, [6, 4, 3, 3]), (2, [6, 2, 3, 3]), (4, [4, 1, 3, 3])] {
            let options = ConvOptions::default().pad(1).groups(groups);
            let conv = Conv2d::new(numbers(&shape, 5), None, options).unwrap();
            let x = numbers(&[8, 4, 6, 6], 77);
            let input = Grid::affine(-1.0, 1.2);
            let grids: Vec<Grid> = (0..shape[0]).map(|_| Grid::symmetric_bits(-1.0, 1.1, 3)).collect();
            let mut sums = Sums::new(&conv).unwrap();
            sums.add(&conv, &x, &x, input, 0).unwrap();
            let (rounded, shift) = sums.round(conv.weight().value(), &grids).unwrap();
            let y = conv.infer(&[&x]).unwrap();
            let error = |w: Tensor| {
                let of =
                    Conv2d::new(w, None, options).unwrap().infer(&[&x.mapv(|v| input.round(v))]).unwrap();
                (of - &y).iter().map(|e| f64::from(e * e)).sum::<f64>()
            };
            let mut nearest = conv.weight().value().clone();
            nearest.outer_iter_mut().zip(&grids).for_each(|(mut row, g)| row.mapv_inplace(|w| g.round(w)));
            let (better, worse) = (error(rounded), error(nearest));
            assert!(better < 0.8 * worse, "{groups} groups: {better} and {worse}");
            assert_eq!(shift.len(), shape[0]);
        }
    }
}
