//! What a layer does to be trained.

use super::pool::Pool;
use crate::Result;
use crate::param::Param;
use crate::tensor::Tensor;

/// The backward half of a layer.
///
/// The executor frees early: it keeps only what [`Trainable::needs`] asks for, and hands an input over for reuse when
/// nobody else reads it.
pub trait Trainable {
    /// What [`Trainable::backward`] reads.
    fn needs(&self) -> Needs;

    /// The output in training mode. May take an [`Input::Owned`] and return it changed.
    ///
    /// # Errors
    /// If the inputs do not fit.
    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor>;

    /// The gradients with respect to the inputs, one for each (`None` where [`Backward::wanted`] is false), adding
    /// those of the parameters to [`Param::write_grad`].
    ///
    /// # Errors
    /// If something that was asked for in `needs` is missing.
    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>>;

    /// The trainable parameters.
    fn params_mut(&mut self) -> Vec<&mut Param> {
        Vec::new()
    }
}

/// What a backward pass reads besides the gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The inputs as `forward` got them.
    pub inputs: bool,
    /// The output of `forward`.
    pub output: bool,
}

/// An input of a forward pass.
#[derive(Debug)]
pub enum Input<'a> {
    /// Others will read it too.
    Shared(&'a Tensor),
    /// Nobody else needs it; its memory may be used for the output.
    Owned(Tensor),
}

impl Input<'_> {
    /// The values.
    pub fn get(&self) -> &Tensor {
        match self {
            Input::Shared(tensor) => tensor,
            Input::Owned(tensor) => tensor,
        }
    }

    /// The values in memory of their own: taken over if owned, else copied into a buffer from the pool. After this the
    /// input is empty.
    pub fn take(&mut self, pool: &mut Pool) -> Tensor {
        match self {
            Input::Owned(tensor) => std::mem::take(tensor),
            Input::Shared(tensor) => {
                let mut copy = pool.take(tensor.shape());
                copy.assign(tensor);
                copy
            }
        }
    }
}

/// What a layer keeps from its forward to its backward pass besides inputs and output.
#[derive(Debug, Default)]
pub struct Saved {
    /// Numbers, such as a batch's mean and standard deviation.
    pub floats: Vec<f32>,
    /// Bytes, such as the position of each maximum within its window.
    pub bytes: Vec<u8>,
}

/// What the executor lends to a pass.
#[derive(Debug)]
pub struct Step<'a> {
    /// Buffers.
    pub pool: &'a mut Pool,
    /// From forward to backward.
    pub saved: &'a mut Saved,
    /// Randomness of this step and node, the same in forward and backward.
    pub seed: u64,
}

/// What a backward pass is given.
#[derive(Debug)]
pub struct Backward<'a> {
    /// The inputs of `forward`; `None` unless [`Needs::inputs`].
    pub inputs: &'a [Option<&'a Tensor>],
    /// The output of `forward`; `None` unless [`Needs::output`].
    pub output: Option<&'a Tensor>,
    /// Shapes of the inputs.
    pub shapes: &'a [&'a [usize]],
    /// Gradient with respect to the output; its memory may be used for a result.
    pub grad: Tensor,
    /// Which inputs a gradient is wanted for.
    pub wanted: &'a [bool],
}

impl<'a> Backward<'a> {
    /// The input at a position.
    ///
    /// # Errors
    /// If the layer did not ask for inputs.
    pub fn input(&self, at: usize) -> Result<&'a Tensor> {
        self.inputs.get(at).copied().flatten().ok_or_else(|| missing("an input"))
    }

    /// The output.
    ///
    /// # Errors
    /// If the layer did not ask for it.
    pub fn output(&self) -> Result<&'a Tensor> {
        self.output.ok_or_else(|| missing("the output"))
    }
}

fn missing(what: &str) -> crate::Error {
    crate::Error::Edit(format!("the backward pass reads {what}, but `needs` does not say so"))
}
