//! From the weights of a layer to its codebooks: which weights share one, how many values it has, and where they are.

use crate::cluster::{Init, centroids, nearest, weighted_centroids};
use crate::codebook::{Codebook, ends};
use crate::error::Error;
use crate::half16;
use cnn_core::{Result, Tensor};
use ndarray::Axis;
use serde::{Deserialize, Serialize};

/// Which weights of a layer share a codebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// All.
    #[default]
    Layer,
    /// Those of an output channel.
    Channel,
    /// Those of neighbouring output channels, in so many groups of nearly equal size.
    Groups(usize),
}

impl Sharing {
    /// The codebook of each of so many output channels.
    fn books(self, rows: usize) -> Vec<usize> {
        let groups = match self {
            Sharing::Layer => 1,
            Sharing::Channel => rows,
            Sharing::Groups(groups) => groups.clamp(1, rows.max(1)),
        };
        (0..rows).map(|row| row * groups / rows).collect()
    }
}

/// How codebooks are made.
#[derive(Debug, Clone, Copy)]
pub struct Tie {
    /// Values of a codebook at most, zero included where weights were pruned.
    pub most: usize,
    /// Fewer values if they have at most this error, `sum h (w - c)^2 / sum h w^2`.
    pub error: Option<f64>,
    pub sharing: Sharing,
    pub init: Init,
    pub half: bool,
    pub seed: u64,
}

impl Tie {
    /// The constraint that ties the weights; `curvature` is how much each of them counts, of the weights' shape.
    pub fn weights(&self, weights: &Tensor, curvature: Option<&Tensor>) -> Result<Codebook> {
        let zero = weights.iter().any(|&w| w == 0.0);
        let books = self.sharing.books(weights.shape().first().copied().unwrap_or(0));
        let ends = ends(&books);
        let mut found = Vec::new();
        for (from, &to) in std::iter::once(0).chain(ends.iter().copied()).zip(&ends) {
            let part = |t: &Tensor| t.slice_axis(Axis(0), (from..to).into()).to_owned();
            let kept = part(weights);
            // pruned weights are zero whatever happens
            let of_rows = |t: &Tensor| -> Vec<f32> {
                part(t).into_iter().zip(&kept).filter(|(_, w)| **w != 0.0).map(|(v, _)| v).collect()
            };
            found.push(self.cluster(&of_rows(weights), curvature.map(of_rows).as_deref(), zero)?);
        }
        let half = self.half && found.iter().all(half16::suits);
        // one length for all
        let length = found.iter().map(Vec::len).max().unwrap_or(0);
        for c in &mut found {
            let last = c.last().copied().unwrap_or(0.0);
            c.resize(length, last);
        }
        let rounded: Vec<Vec<f32>> = found
            .iter()
            .map(|c| c.iter().map(|&c| if half { half16::round(c) } else { c }).collect())
            .collect();
        let mut indices = ndarray::ArrayD::<u8>::zeros(weights.shape());
        for ((mut indices, weights), &book) in indices.outer_iter_mut().zip(weights.outer_iter()).zip(&books)
        {
            for (index, &w) in indices.iter_mut().zip(weights) {
                let pruned = zero && w == 0.0;
                *index = if pruned { 0 } else { (nearest(&rounded[book], w) + usize::from(zero)) as u8 };
            }
        }
        Codebook::with_books(indices, books, &found, zero, half)
    }

    /// The centroids of some weights that are not zero.
    fn cluster(&self, weights: &[f32], curvature: Option<&[f32]>, zero: bool) -> Result<Vec<f32>, Error> {
        let most = (self.most - usize::from(zero)).max(1);
        let make = |k: usize| match curvature {
            Some(h) => weighted_centroids(weights, h, k, self.init, self.seed),
            None => centroids(weights, k, self.init, self.seed),
        };
        let best = make(most)?;
        let Some(budget) = self.error else { return Ok(best) };
        let h = |i: usize| curvature.map_or(1.0, |h| f64::from(h[i]));
        let scale: f64 = weights.iter().enumerate().map(|(i, &w)| h(i) * f64::from(w).powi(2)).sum();
        let holds = |c: &[f32]| {
            let squares =
                weights.iter().enumerate().map(|(i, &w)| h(i) * f64::from(w - c[nearest(c, w)]).powi(2));
            squares.sum::<f64>() <= budget * scale
        };
        // `above` values hold the budget, or are as many as there may be; `below` do not
        let (mut below, mut above, mut found) = (0, best.len(), best);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            let c = make(middle)?;
            match holds(&c) {
                true => (above, found) = (middle, c),
                false => below = middle,
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::Constraint;
    use cnn_core::tensor::tensor;

    const TIE: Tie =
        Tie { most: 8, error: None, sharing: Sharing::Layer, init: Init::Linear, half: false, seed: 0 };

    /// Four rows of different sizes.
    fn weights() -> Tensor {
        let value = |i: usize| (1 + i / 50) as f32 * ((i * 73 % 199) as f32 / 199.0 - 0.4974);
        tensor(&[4, 50], (0..200).map(value).collect()).unwrap()
    }

    fn error(codebook: &Codebook, weights: &Tensor) -> f64 {
        let mut tied = weights.clone();
        codebook.materialize(&mut tied);
        let squares = |t: &Tensor| t.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        squares(&(&tied - weights)) / squares(weights)
    }

    #[test]
    fn rows_are_shared_among_groups_of_nearly_equal_size() {
        assert_eq!(Sharing::Layer.books(3), [0, 0, 0]);
        assert_eq!(Sharing::Channel.books(3), [0, 1, 2]);
        assert_eq!(Sharing::Groups(2).books(5), [0, 0, 0, 1, 1]);
        assert_eq!(Sharing::Groups(9).books(2), [0, 1]);
        assert_eq!(Sharing::Groups(9).books(0), [0usize; 0]);
    }

    #[test]
    fn more_codebooks_fit_better() {
        let weights = weights();
        let of = |sharing| error(&Tie { sharing, ..TIE }.weights(&weights, None).unwrap(), &weights);
        let errors = [Sharing::Layer, Sharing::Groups(2), Sharing::Channel].map(of);
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
    }

    #[test]
    fn the_smallest_number_of_values_that_holds_the_budget() {
        let weights = weights();
        for budget in [0.3, 0.05, 0.01] {
            let tie = Tie { most: 64, error: Some(budget), init: Init::Optimal, ..TIE };
            let codebook = tie.weights(&weights, None).unwrap();
            let k = codebook.centroids().len();
            assert!(k > 1 && error(&codebook, &weights) <= budget);
            let fewer = Tie { most: k - 1, error: None, ..tie }.weights(&weights, None).unwrap();
            assert!(error(&fewer, &weights) > budget, "{k} values are more than {budget} takes");
        }
        // out of reach: as many as there may be
        let tie = Tie { error: Some(0.0), ..TIE };
        assert_eq!(tie.weights(&weights, None).unwrap().centroids().len(), 8);
    }

    #[test]
    fn weights_that_count_more_are_nearer_to_their_centroid() {
        let weights = weights();
        let mut curvature = Tensor::from_elem(weights.shape(), 1.0);
        curvature.index_axis_mut(Axis(0), 1).fill(100.0);
        let of_row = |curvature: Option<&Tensor>| {
            let codebook = Tie { init: Init::Optimal, ..TIE }.weights(&weights, curvature).unwrap();
            let mut tied = weights.clone();
            codebook.materialize(&mut tied);
            (&tied - &weights).index_axis(Axis(0), 1).iter().map(|d| d * d).sum::<f32>()
        };
        assert!(of_row(Some(&curvature)) < 0.5 * of_row(None));
    }

    #[test]
    fn pruned_weights_stay_zero_in_every_codebook() {
        let mut weights = weights();
        weights.iter_mut().step_by(3).for_each(|w| *w = 0.0);
        weights.index_axis_mut(Axis(0), 2).fill(0.0);
        let codebook = Tie { sharing: Sharing::Channel, ..TIE }.weights(&weights, None).unwrap();
        let mut tied = weights.clone();
        codebook.materialize(&mut tied);
        assert!(tied.iter().zip(&weights).all(|(t, w)| (*t == 0.0) == (*w == 0.0)));
        let none = TIE.weights(&Tensor::zeros(vec![2, 3]), None).unwrap();
        let mut tied = Tensor::ones(vec![2, 3]);
        none.materialize(&mut tied);
        assert!(tied.iter().all(|&t| t == 0.0));
    }
}
