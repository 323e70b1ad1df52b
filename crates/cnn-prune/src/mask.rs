//! The constraint that keeps pruned weights at zero while the others are trained.

use crate::bits::{pack_flags, unpack_flags};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Constraint, Error, Param, Result, Tensor};
use ndarray::{ArrayD, Axis, IxDyn, Zip};

/// `value = mask * base` with a mask of zeros and ones (Han et al. 2015, section 3: pruned connections are
/// gone for the retraining too). The gradient is masked alike, so that a removed weight is never moved back.
///
/// It stays on the parameter while later methods train, which is how quantization after pruning keeps exact
/// zeros. A mask of another shape than the weights' does nothing; shapes change together through
/// [`Constraint::select`].
///
/// An *open* mask lets gradients pass to the weights that are removed, as if they were there (straight through), so that one
/// that grows can come back: see [`crate::Gradual`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    keep: ArrayD<bool>,
    open: bool,
}

impl Mask {
    /// Key in checkpoints.
    pub const KIND: &'static str = "prune.mask";

    /// A mask that keeps the weights where `keep` is true; same shape as the weights.
    pub fn new(keep: ArrayD<bool>) -> Mask {
        Mask { keep: keep.as_standard_layout().into_owned(), open: false }
    }

    /// The same mask, open or not.
    pub(crate) fn opened(self, open: bool) -> Mask {
        Mask { open, ..self }
    }

    /// Which weights are kept.
    pub fn keep(&self) -> &ArrayD<bool> {
        &self.keep
    }

    /// Number of weights removed.
    pub fn removed(&self) -> usize {
        self.keep.iter().filter(|&&keep| !keep).count()
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let shape = from.shape()?;
        let count = from.claim_shape(&shape)?;
        let open = from.byte()? != 0;
        let bytes = from.raw(count.div_ceil(8))?;
        let keep =
            unpack_flags(bytes, count).and_then(|keep| ArrayD::from_shape_vec(IxDyn(&shape), keep).ok());
        match keep {
            Some(keep) => Ok(Box::new(Mask { keep, open })),
            None => Err(Error::malformed("a pruning mask has bits beyond its end")),
        }
    }

    fn apply(&self, values: &mut Tensor) {
        if values.shape() == self.keep.shape() {
            Zip::from(values).and(&self.keep).for_each(|v, &keep| *v = if keep { *v } else { 0.0 });
        }
    }
}

impl Constraint for Mask {
    fn kind(&self) -> &'static str {
        Mask::KIND
    }

    fn materialize(&self, w: &mut Tensor) {
        self.apply(w);
    }

    fn pull_back(&mut self, _input: &Tensor, grad: &mut Tensor) {
        if !self.open {
            self.apply(grad);
        }
    }

    fn select(&mut self, axis: usize, keep: &[usize]) -> Result<()> {
        let len = self.keep.shape().get(axis).copied().unwrap_or(0);
        if let Some(bad) = keep.iter().find(|&&i| i >= len) {
            return Err(Error::Edit(format!(
                "index {bad} of axis {axis} of a pruning mask is out of range (size {len})"
            )));
        }
        self.keep = self.keep.select(Axis(axis), keep);
        Ok(())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.shape(self.keep.shape())?;
        out.byte(u8::from(self.open));
        out.raw(&pack_flags(self.keep.iter().copied()));
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// The mask on a parameter, if it has one.
pub fn mask_of(param: &Param) -> Option<&Mask> {
    param.constraints().iter().find_map(|c| c.downcast_ref::<Mask>())
}

/// Puts a mask on a parameter. One that is there already is narrowed: what was removed stays removed.
pub fn restrict(param: &mut Param, mask: Mask) {
    let present = param.constraints_mut().iter_mut().find_map(|c| c.downcast_mut::<Mask>());
    match present.filter(|old| old.keep.shape() == mask.keep.shape()) {
        Some(old) => {
            Zip::from(&mut old.keep).and(&mask.keep).for_each(|old, &new| *old &= new);
            param.refresh();
        }
        None => param.constrain(Box::new(mask)),
    }
}

/// Puts a mask in the place of the one that is on a parameter, or on top.
pub(crate) fn put(param: &mut Param, mask: Mask) {
    match param.constraints_mut().iter_mut().find_map(|c| c.downcast_mut::<Mask>()) {
        Some(old) => {
            *old = mask;
            param.refresh();
        }
        None => param.constrain(Box::new(mask)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::Role;
    use cnn_core::tensor::tensor;

    fn mask(shape: &[usize], keep: &[u8]) -> Mask {
        Mask::new(ArrayD::from_shape_vec(IxDyn(shape), keep.iter().map(|&k| k == 1).collect()).unwrap())
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.iter().copied().collect()
    }

    #[test]
    fn values_and_gradients_are_masked() {
        let mut p = Param::new(Role::Weight, tensor(&[2, 2], vec![1.0, -2.0, f32::NAN, 4.0]).unwrap());
        p.constrain(Box::new(mask(&[2, 2], &[1, 0, 0, 1])));
        assert_eq!(values(p.value()), [1.0, 0.0, 0.0, 4.0]);
        p.write_grad(|g| g.copy_from_slice(&[5.0, 6.0, 7.0, 8.0]));
        p.pull_back();
        assert_eq!(values(p.grad().unwrap()), [5.0, 0.0, 0.0, 8.0]);
        p.update(&mut |_, w, g, _| *w -= g);
        assert_eq!(values(p.value()), [-4.0, 0.0, 0.0, -4.0]);
    }

    #[test]
    fn an_open_mask_lets_removed_weights_move() {
        let mut p = Param::new(Role::Weight, tensor(&[2], vec![1.0, 0.5]).unwrap());
        p.constrain(Box::new(mask(&[2], &[1, 0]).opened(true)));
        p.write_grad(|g| g.copy_from_slice(&[1.0, -2.0]));
        p.pull_back();
        p.update(&mut |_, w, g, _| *w -= g);
        assert_eq!((values(p.base()), values(p.value())), (vec![0.0, 2.5], vec![0.0, 0.0]));
        put(&mut p, mask(&[2], &[0, 1]));
        assert_eq!((p.constraints().len(), values(p.value())), (1, vec![0.0, 2.5]));
    }

    #[test]
    fn slices_with_the_weights() {
        let mut p = Param::new(Role::Weight, tensor(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
        p.constrain(Box::new(mask(&[2, 3], &[1, 0, 1, 0, 1, 0])));
        p.select(1, &[1, 2]).unwrap();
        assert_eq!(values(p.value()), [0.0, 3.0, 5.0, 0.0]);
        p.select(0, &[1]).unwrap();
        assert_eq!(values(p.value()), [5.0, 0.0]);
        assert!(Mask::select(&mut mask(&[2, 3], &[1; 6]), 1, &[3]).is_err());
        assert!(Mask::select(&mut mask(&[2, 3], &[1; 6]), 2, &[0]).is_err());
    }

    #[test]
    fn a_second_mask_narrows_the_first() {
        let mut p = Param::new(Role::Weight, tensor(&[4], vec![1.0; 4]).unwrap());
        restrict(&mut p, mask(&[4], &[1, 0, 1, 1]));
        restrict(&mut p, mask(&[4], &[1, 1, 0, 1]));
        assert_eq!(p.constraints().len(), 1);
        assert_eq!(values(p.value()), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(mask_of(&p).unwrap().removed(), 2);
    }
}
