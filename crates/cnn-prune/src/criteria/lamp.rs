//! Layer-adaptive magnitude.

use crate::granularity::Units;
use cnn_core::Param;

/// `w_u^2 / sum of w_v^2 over all v of the layer that are not smaller`: what a removal distorts the layer's output by, relative to
/// what is left of it. The largest weight of every layer has score 1, so that no layer is cut through.
pub(super) fn scores(weight: &Param, units: &Units) -> Vec<f32> {
    let squares = units.means(weight.value().iter().map(|w| w * w));
    lamp(&squares)
}

/// The scores for squares.
pub(crate) fn lamp(squares: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..squares.len()).collect();
    order.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]).then(a.cmp(&b)));
    let mut scores = vec![0.0; squares.len()];
    let mut sum = 0f64;
    for u in order {
        sum += f64::from(squares[u]);
        scores[u] = if sum > 0.0 { (f64::from(squares[u]) / sum) as f32 } else { 0.0 };
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::lamp;

    #[test]
    fn relative_to_what_is_not_smaller() {
        let scores = lamp(&[1.0, 4.0, 3.0]);
        assert_eq!(scores, [1.0 / 8.0, 1.0, 3.0 / 7.0]);
        assert_eq!(lamp(&[0.0, 0.0]), [0.0, 0.0]);
        // the scale of a layer does not matter
        assert_eq!(lamp(&[2.0, 8.0, 6.0]), scores);
    }
}
