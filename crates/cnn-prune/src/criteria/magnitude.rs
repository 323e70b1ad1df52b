//! The size of weights.

use super::REMOVED;
use crate::granularity::Units;
use crate::mask::mask_of;
use cnn_core::Param;

/// `|w|` of every weight as the layer computes with it (Han et al. 2015, section 3.1: small weights matter
/// least), in memory order; -1 for those that a mask has removed already.
pub fn magnitude(param: &Param) -> Vec<f32> {
    match mask_of(param).filter(|mask| mask.keep().shape() == param.shape()) {
        Some(mask) => param
            .value()
            .iter()
            .zip(mask.keep())
            .map(|(w, &keep)| if keep { w.abs() } else { REMOVED })
            .collect(),
        None => param.value().iter().map(|w| w.abs()).collect(),
    }
}

/// Mean of `|w|`.
pub(super) fn l1(weight: &Param, units: &Units) -> Vec<f32> {
    units.means(weight.value().iter().map(|w| w.abs()))
}

/// Root of the mean of `w^2`.
pub(super) fn l2(weight: &Param, units: &Units) -> Vec<f32> {
    let mut squares = units.means(weight.value().iter().map(|w| w * w));
    squares.iter_mut().for_each(|s| *s = s.sqrt());
    squares
}
