//! The layer trait: what every operation of a network, trained or packed, has to say of itself.

use crate::cost::Cost;
use crate::express::Express;
use crate::model_file::Encoder;
use crate::param::Param;
use crate::session::{Levels, Lowered, Lowering};
use crate::simd::Isa;
use crate::tensor::Tensor;
use crate::train::Trainable;
use crate::{Error, Result};
use std::any::Any;
use std::fmt::Debug;

/// An operation. The set of layers is open: a method crate brings its own and registers a decoder.
///
/// The first axis of every shape is the batch, the second the channels.
pub trait Layer: Any + Debug + Send + Sync {
    /// The key on disk and in messages, as `"conv2d"` or `"quant.linear_i8"`.
    fn kind(&self) -> &'static str;

    /// The output's shape.
    ///
    /// # Errors
    /// If the inputs do not fit the layer.
    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>>;

    /// The reference semantics at inference. Inputs are in standard layout, and so is the output.
    ///
    /// # Errors
    /// If the inputs do not fit the layer.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor>;

    /// Parameters, non-zeros and multiply-adds.
    ///
    /// # Errors
    /// If the inputs do not fit the layer.
    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost>;

    /// Writes the layer: these bytes in a file are its size.
    ///
    /// # Errors
    /// If it cannot be written for the encoder's purpose (a constrained parameter cannot be deployed).
    fn encode(&self, out: &mut Encoder) -> Result<()>;

    /// A copy behind a box.
    fn clone_box(&self) -> Box<dyn Layer>;

    /// The trainable parameters, read only.
    fn params(&self) -> Vec<&Param> {
        Vec::new()
    }

    /// The layer as something that can be trained; packed layers say `None`.
    fn trainable(&mut self) -> Option<&mut dyn Trainable> {
        None
    }

    /// How channels pass through the layer.
    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Opaque
    }

    /// Keeps only some input and output channels.
    ///
    /// # Errors
    /// If the layer cannot be sliced so.
    fn select(&mut self, _keep: Keep<'_>) -> Result<()> {
        Err(Error::Opaque { kind: self.kind().to_string(), why: "it cannot be sliced".to_string() })
    }

    /// Writes the layer down in standard operators, for export: see [`crate::express`]. Packed layers keep their narrow
    /// numbers as constants and let `Cast`, `Gather` or `DequantizeLinear` widen them.
    ///
    /// # Errors
    /// If the standard has no operators for it, or a parameter still carries a constraint.
    fn express(&self, _at: &mut Express<'_>) -> Result<()> {
        Err(Error::NotExpressible(self.kind().to_string()))
    }

    /// The grid that the layer rounds its input to before all else, if its kernel can read bytes: values that all readers round to one
    /// grid are stored so.
    fn reads(&self, _isa: Isa) -> Option<Levels> {
        None
    }

    /// The layer as a kernel of a session, for the shapes and with the epilogue it is told of; `None` runs it by
    /// [`Layer::infer`]. A kernel's results must be those of `infer`, finished by the epilogue, up to rounding.
    fn lower(&self, _at: &Lowering<'_>) -> Option<Lowered> {
        None
    }
}

impl dyn Layer {
    /// True if the layer is of the given type.
    pub fn is<T: Layer>(&self) -> bool {
        (self as &dyn Any).is::<T>()
    }

    /// The layer as a concrete type.
    pub fn downcast_ref<T: Layer>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }

    /// The layer as a concrete type, mutable.
    pub fn downcast_mut<T: Layer>(&mut self) -> Option<&mut T> {
        (self as &mut dyn Any).downcast_mut()
    }
}

/// How the output channels of a layer depend on its input channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelRule {
    /// Every output channel depends on many input channels: outputs and inputs can be removed independently.
    Free,
    /// Output channel `c` is input channel `c` of every input; they go together.
    Same,
    /// The outputs are the channels of all inputs one after the other.
    Concat,
    /// Output channel `i` is input channel `map[i]`, or a constant.
    Gather(Vec<Option<usize>>),
    /// Each input channel becomes this many consecutive output channels.
    Expand(usize),
    /// The layer does not say: channels cannot be removed through it.
    Opaque,
}

/// Channels to keep, sorted, for each input and for the output of a layer; `None` keeps all.
#[derive(Debug, Clone, Copy)]
pub struct Keep<'a> {
    /// For each input.
    pub inputs: &'a [Option<&'a [usize]>],
    /// For the output.
    pub output: Option<&'a [usize]>,
}
